//! A run: the fold of its events, and nothing that they do not say.
//!
//! `decide` (the sibling module) makes events from commands, `apply` folds them: the same fold
//! for an event just made and for one read back, so a replayed run is the run.

mod apply;
mod fold_run;
mod fold_step;
pub(crate) mod instance;
mod prepare;
pub use prepare::whole;
mod remap;
mod render;
pub(crate) mod scope;
mod settle;
pub(crate) mod state;
mod through;
pub use through::run_through;
mod why;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::child::{CurrentChild, Parent};
use crate::command::{Command, Decision, Effect, Prepared, Start, StepHandle};
use crate::decide::Work;
pub use crate::decide::{EVENT_BYTES_MAX, EVENTS_MAX, EVENTS_PER_COMMAND_MAX};
use crate::definition::Definition;
use crate::error::Rejected;
use crate::event::{Body, Event};
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::{DefinitionHash, RunNo, Sequence, Timestamp, WorkflowId};
use state::State;

/// One run of a workflow, in memory.
#[derive(Debug)]
pub struct Run {
    /// What the events say.
    pub(crate) state: State,
    /// What the command in hand has brought up; nothing of it is kept in a log.
    pub(crate) work: Work,
}

impl Run {
    /// Starts a run: its first events, already folded. Refused when the params are.
    pub fn start(start: Start, now: Timestamp) -> Result<(Self, Decision), Rejected> {
        crate::decide::start(start, now)
    }

    /// Folds a stored log, gapless from 1, into a run. `definition_of` finds compiled definitions
    /// by hash. The error names what is broken. No effect is taken; follow with
    /// [`Command::Recover`] where the run is to go on.
    pub fn replay(
        no: RunNo,
        id: WorkflowId,
        events: impl IntoIterator<Item = Event>,
        definition_of: &mut dyn FnMut(DefinitionHash) -> Option<Arc<Definition>>,
    ) -> Result<Self, String> {
        let mut events = events.into_iter();
        let first = events.next().ok_or("the log is empty")?;
        let Body::WorkflowStarted(started) = &first.body else {
            return Err(format!("the log begins with {}", first.body.event_type().as_str()));
        };
        if first.sequence != Sequence(1) {
            return Err(format!("the log begins with event {}", first.sequence.0));
        }
        let definition = definition_of(started.definition)
            .ok_or_else(|| format!("there is no definition {}", started.definition))?;
        let mut state = State::new(no, id, definition, started, first.timestamp);
        for event in events {
            state.fold_stored(&event, definition_of)?;
            state.agenda.clear();
        }
        Ok(Self { state, work: Work::default() })
    }

    /// Decides what `command` does and folds it in: `decide`, `apply`, and on until nothing more
    /// follows by itself. A refused command has changed nothing.
    ///
    /// At most [`EVENTS_PER_COMMAND_MAX`] events or a little more come of one
    /// command; what is left to follow makes the run due at once, for [`Command::Wake`].
    pub fn handle(&mut self, command: Command, now: Timestamp) -> Result<Decision, Rejected> {
        self.decide(command, now)
    }

    /// The effects that folding has brought up since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.work.effects)
    }

    /// The action of an attempt, ready to run; `None` when the attempt is no longer current.
    pub fn prepare(&self, handle: StepHandle) -> Option<Prepared> {
        self.state.prepare(handle)
    }

    /// When [`Command::Wake`] is next due: timers, retries, timeouts, `start_at`.
    pub fn next_due(&self) -> Option<Timestamp> {
        let state = &self.state;
        if state.status.is_terminal() {
            return None;
        }
        if !state.agenda.is_empty() {
            return Some(state.last_at);
        }
        let timer = state.timers.first().map(|(at, _, _)| *at);
        let rest = state.rests.first().map(|(at, _)| *at).filter(|_| !state.held);
        match (timer, rest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Its number in its shard.
    pub fn no(&self) -> RunNo {
        self.state.no
    }

    /// The same run under another number: that is its shard's affair, and no event speaks of it.
    #[must_use]
    pub fn numbered(mut self, no: RunNo) -> Self {
        self.state.no = no;
        self
    }

    /// Whether no step of it is under way, as in every run that has ended.
    pub fn is_at_rest(&self) -> bool {
        !self.state.instances.iter().any(|instance| instance.is_active() && !instance.flags.gone)
    }

    /// Its public id.
    pub fn id(&self) -> &WorkflowId {
        &self.state.id
    }

    /// Where its lifecycle stands.
    pub fn status(&self) -> WorkflowStatus {
        self.state.status
    }

    /// The sequence of its last event.
    pub fn sequence(&self) -> Sequence {
        self.state.sequence
    }

    /// Hash of the submission's body, when the client gave the id.
    pub fn body_hash(&self) -> Option<u64> {
        self.state.body_hash
    }

    /// The request that made it, when the client gave the id: the same one, sent on a second time, made
    /// it all the same.
    pub fn request(&self) -> Option<u64> {
        self.state.request
    }

    /// The run that started it, when one did.
    pub fn parent(&self) -> Option<&Parent> {
        self.state.parent.as_deref()
    }

    /// The children of all attempts that are under way.
    pub fn children(&self) -> Vec<CurrentChild> {
        let indices = 0..u32::try_from(self.state.instances.len()).expect("a run's steps are counted");
        let child = |ix| {
            let instance = self.state.get(ix);
            let (step_id, is_started) = (instance.id.clone(), instance.flags.waits_for_child);
            Some(CurrentChild { workflow_id: self.child_of(ix)?, step_id, is_started })
        };
        indices.filter_map(child).collect()
    }

    /// Full id of the step whose attempt this is; `None` when it is no longer under way.
    pub fn step_of(&self, handle: StepHandle) -> Option<Arc<str>> {
        let instance = self.state.instances.get(handle.instance as usize)?;
        let is_current = instance.attempt == handle.attempt && instance.current() == StepStatus::Running;
        is_current.then(|| instance.id.clone())
    }

    /// The agent that started it.
    pub fn agent_id(&self) -> Option<&Arc<str>> {
        self.state.agent_id.as_ref()
    }

    /// The root `context` of expressions: intent, agent, variables.
    pub fn context(&self) -> &Value {
        &self.state.context
    }

    /// What it runs now (mutations included).
    pub fn definition(&self) -> &Arc<Definition> {
        &self.state.definition
    }

    /// Its output, once it has completed.
    pub fn output(&self) -> Option<&Value> {
        self.state.output.as_deref()
    }

    /// The answer of `GET /v1/workflows/{id}` in the shape of the HTTP contract.
    pub fn document(&self) -> impl Serialize {
        self.state.document()
    }

    /// The fields of [`Self::document`] that say what came of it: `output` and `error`.
    pub fn outcome(&self) -> impl Serialize {
        self.state.outcome()
    }

    /// Status of each step that [`Self::document`] shows, by full id.
    pub fn step_statuses(&self) -> BTreeMap<String, String> {
        self.state.step_statuses()
    }

    /// Why it is not moving: the `waiting_for` list of `GET /v1/workflows/{id}/why`.
    pub fn why(&self, now: Timestamp) -> Vec<Value> {
        self.state.why(now)
    }

    /// Everything the events have said, as text, the same for the same events: two runs are the
    /// same if and only if their fingerprints are.
    pub fn fingerprint(&self) -> String {
        self.state.fingerprint()
    }
}
