//! What each type of event says: the JSON object that is its `data`.
//!
//! A payload carries all that the fold and the tables need, so that neither evaluates anything.
//! Absent fields are those with nothing to say; unknown ones are read over, so that an older
//! program can read a newer log as far as it knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::child::{ChildRef, Parent};
use crate::command::SignalType;
use crate::definition::DecisionOption;
use crate::error::Fault;
use crate::fsm::WorkflowStatus;
use crate::ids::{DefinitionHash, Sequence, Timestamp, WorkflowId};

fn is_false(value: &bool) -> bool {
    !*value
}

/// Times as RFC 3339 with milliseconds, the form of every time that leaves the engine.
pub(crate) mod time {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::Timestamp;

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&time.to_rfc3339())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        Timestamp::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// The same for a time that may be absent.
pub(crate) mod time_option {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::Timestamp;

    pub(crate) fn serialize<S: Serializer>(time: &Option<Timestamp>, s: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::time::serialize(time, s),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<std::borrow::Cow<str>>::deserialize(d)?;
        text.map(|t| Timestamp::parse_rfc3339(&t).map_err(serde::de::Error::custom)).transpose()
    }
}

/// Hashes as 64 hexadecimal digits.
pub(crate) mod hash {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::DefinitionHash;

    pub(crate) fn serialize<S: Serializer>(hash: &DefinitionHash, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(hash)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<DefinitionHash, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        parse(&text).ok_or_else(|| serde::de::Error::custom("not 64 hexadecimal digits"))
    }

    pub(crate) fn parse(text: &str) -> Option<DefinitionHash> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut hash = [0_u8; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(DefinitionHash(hash))
    }
}

/// The same for a hash that may be absent.
pub(crate) mod hash_option {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::DefinitionHash;

    pub(crate) fn serialize<S: Serializer>(hash: &Option<DefinitionHash>, s: S) -> Result<S::Ok, S::Error> {
        match hash {
            Some(hash) => s.collect_str(hash),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<DefinitionHash>, D::Error> {
        let text = Option::<std::borrow::Cow<str>>::deserialize(d)?;
        text.map(|t| super::hash::parse(&t).ok_or_else(|| serde::de::Error::custom("not a hash"))).transpose()
    }
}

macro_rules! payloads {
    ($($(#[$about:meta])* $name:ident { $($(#[$field_attr:meta])* $field:ident : $kind:ty),* $(,)? })*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Debug, Serialize, Deserialize)]
            #[allow(missing_docs)]
            pub struct $name { $($(#[$field_attr])* pub $field: $kind),* }
        )*
    };
}

payloads! {
    /// A run begins; `status` is `pending` when it has to wait for `start_at`.
    WorkflowStarted {
        workflow_id: Arc<str>,
        status: WorkflowStatus,
        #[serde(with = "hash")]
        definition: DefinitionHash,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<Arc<str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Arc<str>>,
        /// As merged over the definition's defaults.
        params: Arc<Value>,
        context: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<Arc<str>>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body_hash: Option<u64>,
        /// The request that the submission came with, beside its hash.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<u64>,
        /// The run's timeout, or its `start_at` while it is pending.
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        /// Who started it, when a run did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Box<Parent>>,
    }
    /// A run has ended well; `parent`, here and below: who is to be told.
    WorkflowCompleted {
        output: Arc<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Box<Parent>>,
    }
    /// A run has ended badly.
    WorkflowFailed {
        error: Fault,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Box<Parent>>,
    }
    /// A run was called off.
    WorkflowCancelled {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Box<Parent>>,
    }
    /// A run moves no more by itself; `held`: until an operator says so.
    WorkflowSuspended {
        held: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }
    /// A run moves again.
    WorkflowResumed {
        cause: ResumeCause,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The run's timer from now on.
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        /// For `retry`: the run's new attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        params: Option<Arc<Value>>,
        #[serde(default, with = "hash_option", skip_serializing_if = "Option::is_none")]
        definition: Option<DefinitionHash>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Arc<str>>,
    }
    /// The run's time is up.
    WorkflowTimedOut { action: TimeoutAction, error: Fault }
    /// A step was in flight when its shard's process ended.
    WorkflowInterrupted {
        attempt: u32,
        action: InterruptAction,
        /// It was interrupted so often in a row that it is not tried again by itself.
        #[serde(default, skip_serializing_if = "is_false")]
        dead_letter: bool,
    }
    /// A step is ready but may not start yet; `reset`: it is to run again and is pending.
    StepScheduled {
        #[serde(default, skip_serializing_if = "is_false")]
        reset: bool,
    }
    /// A step's first attempt of this round begins.
    StepStarted {
        attempt: u32,
        /// The attempt's deadline.
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        /// Its guard is still being evaluated.
        #[serde(default, skip_serializing_if = "is_false")]
        guard_pending: bool,
    }
    /// A step has its output.
    StepCompleted { output: Arc<Value> }
    /// A step failed for good.
    StepFailed {
        error: Fault,
        /// Its retries are used up.
        #[serde(default, skip_serializing_if = "is_false")]
        exhausted: bool,
        /// The run fails with it, whatever stands around it.
        #[serde(default, skip_serializing_if = "is_false")]
        fatal: bool,
        /// A fallback takes its place.
        #[serde(default, skip_serializing_if = "is_false")]
        handled: bool,
        /// The decision that is no longer pending.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decision_id: Option<Arc<str>>,
        /// The child that is called off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<ChildRef>,
    }
    /// A step will not run.
    StepSkipped {
        reason: SkipReason,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decision_id: Option<Arc<str>>,
        /// The child that is called off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<ChildRef>,
    }
    /// A step rests before its next attempt.
    StepRetrying {
        attempt: u32,
        #[serde(with = "time")]
        at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Fault>,
        #[serde(default, skip_serializing_if = "is_false")]
        interrupted: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decision_id: Option<Arc<str>>,
        /// The child that is called off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<ChildRef>,
    }
    /// A step waits for the outside.
    StepSuspended {
        reason: SuspendReason,
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
    }
    /// A step's further attempt begins; `interrupted`: it does not count against the retries;
    /// `revived`: a composite of a run that is run again goes on where it had come to.
    StepRetryAttempt {
        attempt: u32,
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "is_false")]
        interrupted: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        revived: bool,
    }
    /// A failed step's fallback is called for.
    StepFallback { fallback_step: Arc<str> }
    /// A step's failure is passed over.
    StepIgnored {
        error: Fault,
        /// The decision that is no longer pending.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decision_id: Option<Arc<str>>,
        /// The child that is called off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<ChildRef>,
    }
    /// What answers an error: a step's strategy, or (without a step) the failure of the run.
    ErrorHandlerInvoked {
        strategy: HandlerStrategy,
        error: Fault,
        /// The run fails at once: no compensation, no hook.
        #[serde(default, skip_serializing_if = "is_false")]
        forced: bool,
    }
    /// Somebody is to decide.
    DecisionRequested {
        decision_id: Arc<str>,
        context: Value,
        options: Vec<DecisionOption>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target_agent: Option<Arc<str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<Arc<str>>,
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        timeout_at: Option<Timestamp>,
    }
    /// It is decided.
    DecisionResolved {
        decision_id: Arc<str>,
        /// `{choice, data, reasoning, resolved_by}`: the step's output.
        resolution: Arc<Value>,
        /// By the fallback, when its time was up.
        #[serde(default, skip_serializing_if = "is_false")]
        timed_out: bool,
        /// The step's deadline, the one timer left.
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal_id: Option<Arc<str>>,
    }
    /// A signal other than a decision.
    SignalReceived {
        #[serde(rename = "type")]
        kind: SignalType,
        /// As sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        #[serde(default, skip_serializing_if = "Value::is_null")]
        payload: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal_id: Option<Arc<str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }
    /// A variable of `context` has a new value.
    VariableSet { name: String, value: Value }
    /// The run has another definition.
    DagMutated {
        mutation: Value,
        #[serde(with = "hash")]
        definition: DefinitionHash,
    }
    /// A circuit breaker changed; the type says how.
    Breaker { action: String }
    /// A condition step has chosen (`branch` absent: nothing matched), or a step's guard that was
    /// evaluated by a worker holds.
    ConditionEvaluated {
        value: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<Arc<str>>,
    }
    /// An iteration of a loop, or an item of a map, begins.
    LoopIterStarted {
        index: u64,
        /// With the first iteration of `for_each`: all items, so that a replay needs no expression.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        items: Option<Arc<Vec<Value>>>,
    }
    /// It has ended.
    LoopIterCompleted { index: u64 }
    /// A loop has ended.
    LoopCompleted { iterations: u64 }
    /// A parallel step begins.
    ParallelStarted {
        mode: ParallelMode,
        /// For `map`: all items.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        items: Option<Arc<Vec<Value>>>,
    }
    /// A parallel step has ended.
    ParallelCompleted {
        mode: ParallelMode,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        winner: Option<u32>,
    }
    /// A wait begins; `child`: the step's child runs, and its end is waited for.
    WaitStarted {
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<Arc<str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<WorkflowId>,
        /// The earliest of the step's timers.
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
    }
    /// A wait is over.
    WaitCompleted {
        /// `{waited}` or `{signal, payload}`: the step's output.
        output: Arc<Value>,
        /// The event of the signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<Sequence>,
        #[serde(default, with = "time_option", skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
    }
    /// The step's compensation begins.
    CompensationStarted { compensation: Arc<str> }
    /// The step is compensated.
    CompensationCompleted { compensation: Arc<str> }
    /// The step could not be compensated.
    CompensationFailed { compensation: Arc<str>, error: Fault }
    /// An event of the author's, from `workflow.emit`.
    Custom { event: String, data: Value }
}

macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($variant:ident),* $(,)? })*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            #[allow(missing_docs)]
            pub enum $name { $($variant),* }
        )*
    };
}

words! {
    /// Why a run moves again: its `start_at` has come, what it waited for has come, an operator
    /// said so, or it is run again.
    ResumeCause { Started, Unblocked, Operator, Retry }
    /// What a run's timeout does.
    TimeoutAction { Fail, Suspend, Cancel }
    /// What an interruption does to a step.
    InterruptAction { Retry, Suspend, Fail }
    /// Why a step will not run: its guard is false, a signal said so, the run was cancelled, the
    /// run failed, its composite failed or timed out, or another branch won the race.
    SkipReason { Condition, Signal, Cancelled, RunFailed, ParentEnded, RaceLost }
    /// What a step waits for.
    SuspendReason { Decision, Signal, Interrupted }
    /// How an error is answered.
    HandlerStrategy { Ignore, FallbackStep, FailWorkflow }
    /// The `mode` of a parallel step.
    ParallelMode { All, Race, Map }
}
