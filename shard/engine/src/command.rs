//! What a run may be told, what it answers, and what it wants done: the border of the rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::child::{Outcome, Parent};
use crate::definition::Definition;
use crate::error::Fault;
use crate::event::Event;
use crate::expr::OwnedScope;
use crate::expr::interpolate::Template;
use crate::ids::{RunNo, Sequence, Timestamp, WorkflowId};

/// What a run is started with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The run's integer number in its shard.
    pub no: RunNo,
    /// The run's public id.
    pub id: WorkflowId,
    /// What it runs.
    pub definition: Arc<Definition>,
    /// Template name and version, when it came from one.
    pub template: Option<(Arc<str>, Arc<str>)>,
    /// As sent; merged over the definition's `inputs` by the engine.
    pub params: Value,
    /// Who started it.
    pub agent_id: Option<Arc<str>>,
    /// `{intent, …}`, an object or null.
    pub context: Value,
    /// For lists.
    pub labels: BTreeMap<String, String>,
    /// Not before this time.
    pub start_at: Option<Timestamp>,
    /// Hash of the submission's body, for idempotent submission; only with an id from the client.
    pub body_hash: Option<u64>,
    /// What names the request that the submission came with, beside the hash of its body.
    pub request: Option<u64>,
    /// The run that starts it, when one does.
    pub parent: Option<Box<Parent>>,
}

impl Start {
    /// A run of nothing but its definition: no params, no labels, no parent.
    pub fn new(no: RunNo, id: WorkflowId, definition: Arc<Definition>) -> Self {
        Self {
            no,
            id,
            definition,
            template: None,
            params: Value::Object(serde_json::Map::new()),
            agent_id: None,
            context: Value::Null,
            labels: BTreeMap::new(),
            start_at: None,
            body_hash: None,
            request: None,
            parent: None,
        }
    }
}

/// One attempt of one step: what a result must name, so that a late one is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepHandle {
    /// The step instance's place in its run.
    pub instance: u32,
    /// The attempt, from 1.
    pub attempt: u32,
}

/// What an action wants written beside its output.
#[derive(Clone, Debug, PartialEq)]
pub enum Emission {
    /// `workflow.emit`: a `custom` event.
    Custom {
        /// Its name.
        event: String,
        /// Its data.
        data: Value,
    },
    /// `workflow.notify`: a `custom` event, [`NOTICE`](crate::event::NOTICE), addressed to the run's
    /// agent.
    Notify {
        /// What the agent is told.
        data: Value,
    },
    /// `workflow.context`: a variable set in `context`.
    Set {
        /// Its name.
        name: String,
        /// Its value.
        value: Value,
    },
    /// `workflow.fail`: the run fails, whatever the step's `on_error` says.
    FailRun(Fault),
    /// A change of a circuit breaker that this step met; `state` is `open`, `half_open`, `closed`.
    Breaker {
        /// The action, with the host for `http.*`.
        action: String,
        /// The new state.
        state: &'static str,
    },
}

/// A command to a run. Refused ones change nothing.
#[derive(Clone, Debug)]
pub enum Command {
    /// An action ended.
    Finished {
        /// Which attempt.
        handle: StepHandle,
        /// Its output, or why it failed.
        result: Result<Value, Fault>,
        /// What else it wants written.
        emissions: Vec<Emission>,
    },
    /// An evaluation that was too costly for the loop ended ([`Effect::Evaluate`]).
    Evaluated {
        /// Which attempt.
        handle: StepHandle,
        /// Its value, or why there is none.
        result: Result<Value, Fault>,
    },
    /// The child of an attempt of `workflow.run` has been started, and its end is waited for.
    ChildStarted(StepHandle),
    /// The child of an attempt has ended. One that no attempt waits for is passed over.
    ChildEnded {
        /// The child.
        child: WorkflowId,
        /// Full id of the step.
        step_id: Arc<str>,
        /// Its attempt.
        attempt: u32,
        /// How it ended.
        outcome: Outcome,
    },
    /// The parent no longer wants this run, its child. What is no child of that attempt, or ends
    /// already, passes it over.
    CalledOff(Parent),
    /// Time has come: whatever is due by now happens.
    Wake,
    /// This process has just replayed the run as its leader: what was in flight was interrupted.
    Recover,
    /// A signal.
    Signal(Signal),
    /// End it.
    Cancel(Reason),
    /// Stop starting steps.
    Suspend(Reason),
    /// Go on.
    Resume(Reason),
    /// Run again a failed run, or from a step, with other params or another definition.
    Retry {
        /// First step to run again (full or short id, top level); without it, what had failed.
        from_step: Option<String>,
        /// Params to replace those of the run.
        params: Option<Value>,
        /// Another version of its template.
        definition: Option<(Arc<Definition>, Arc<str>)>,
        /// Who and why.
        reason: Reason,
    },
    /// Change the DAG of a live run.
    Extend {
        /// The change as sent; validated with the whole.
        mutation: Value,
        /// Who and why.
        reason: Reason,
    },
}

impl Command {
    /// The agent that it comes from, if known.
    pub fn agent_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Signal(signal) => signal.agent_id.as_ref(),
            Self::Cancel(reason)
            | Self::Suspend(reason)
            | Self::Resume(reason)
            | Self::Retry { reason, .. }
            | Self::Extend { reason, .. } => reason.agent_id.as_ref(),
            Self::Finished { .. }
            | Self::Evaluated { .. }
            | Self::ChildStarted(_)
            | Self::ChildEnded { .. }
            | Self::CalledOff(_)
            | Self::Wake
            | Self::Recover => None,
        }
    }
}

/// Who gave a command, and why.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reason {
    /// The agent, if known.
    pub agent_id: Option<Arc<str>>,
    /// Free text.
    pub reason: Option<String>,
}

/// The `type` of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum SignalType {
    Decision,
    Data,
    Cancel,
    Retry,
    Skip,
}

/// A signal as sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Signal {
    /// What kind.
    pub kind: SignalType,
    /// The step it is for: full id, or a short one when only one step has it; for `data` also the
    /// name that a `wait.signal` waits for (in `payload.name` or `step_id`).
    pub step_id: Option<String>,
    /// `decision`: `{choice, data?}` or a string that is the choice; `data`: anything.
    pub payload: Value,
    /// Who sends it.
    pub agent_id: Option<Arc<str>>,
    /// Why a choice was made.
    pub reasoning: Option<String>,
    /// The same id twice is delivered once.
    pub signal_id: Option<String>,
}

/// What a command did.
#[derive(Debug, Default)]
pub struct Decision {
    /// Events to append, already folded into the run; empty when there was nothing to do (a
    /// repeated signal, a late result).
    pub events: Vec<Event>,
    /// For a signal: the sequence of the event that recorded it, the first time too.
    pub sequence: Option<Sequence>,
    /// Definitions that the events name for the first time; recorded before them.
    pub definitions: Vec<Arc<Definition>>,
}

/// Work that a run wants done once the events it rests on are committed. Derived from the state,
/// never stored: a crash derives it again.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Run an action: ask `Run::prepare` for its params.
    Execute {
        /// Which attempt.
        handle: StepHandle,
        /// The action.
        action: Arc<str>,
        /// It has no side effect, so it need not wait for a commit (specification, §3).
        is_pure: bool,
    },
    /// Evaluate what was over the loop's budget, in a worker.
    Evaluate {
        /// Which attempt.
        handle: StepHandle,
        /// What.
        template: Arc<Template>,
        /// What it reads.
        scope: Arc<OwnedScope>,
    },
    /// This attempt is no longer wanted: stop it if that can be done.
    Abandon(StepHandle),
}

/// An action ready to run.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Full id of the step.
    pub step_id: Arc<str>,
    /// The action.
    pub action: Arc<str>,
    /// Its params.
    pub params: PreparedParams,
    /// Longest time of this attempt; without it the action's own default.
    pub timeout_ms: Option<u64>,
    /// `WORKFLOW_ID/FULL_STEP_ID`, the same for every attempt.
    pub idempotency_key: String,
    /// For `expr.eval`: its compiled program and what it reads.
    pub program: Option<(Arc<crate::expr::expr::Expr>, Arc<OwnedScope>)>,
    /// What the params were rendered from, when they name secrets: a worker puts these in
    /// ([`Template::render_secrets`]) just before the action runs, and takes their values out of
    /// whatever comes back.
    pub secrets: Option<Arc<Template>>,
}

/// Params, or what is left to do for them.
#[derive(Clone, Debug)]
pub enum PreparedParams {
    /// Interpolated; only `${{secrets.K}}` is left.
    Ready(Value),
    /// Too costly for the loop: render in a worker.
    Costly {
        /// What.
        template: Arc<Template>,
        /// What it reads.
        scope: Arc<OwnedScope>,
    },
    /// They cannot be had: the step fails so.
    Failed(Fault),
}
