//! A run: the fold of its events, and nothing that they do not say.

use std::sync::Arc;

use serde_json::Value;

use crate::command::{Command, Decision, Effect, Prepared, Start, StepHandle};
use crate::definition::Definition;
use crate::error::Rejected;
use crate::event::Event;
use crate::fsm::WorkflowStatus;
use crate::ids::{DefinitionHash, RunNo, Sequence, Timestamp, WorkflowId};

/// One run of a workflow, in memory.
#[derive(Debug)]
pub struct Run {
    no: RunNo,
    id: WorkflowId,
}

impl Run {
    /// Starts a run: its first events, already folded. Refused when the params are.
    pub fn start(start: Start, now: Timestamp) -> Result<(Self, Decision), Rejected> {
        let _ = now;
        let run = Self { no: start.no, id: start.id };
        Ok((run, Decision::default()))
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
        let _ = (events.into_iter().count(), definition_of(DefinitionHash([0; 32])).is_some());
        Ok(Self { no, id })
    }

    /// Decides what `command` does and folds it in: `decide`, `apply`, and on until nothing more
    /// follows by itself. A refused command has changed nothing.
    pub fn handle(&mut self, command: Command, now: Timestamp) -> Result<Decision, Rejected> {
        let _ = (command, now);
        Ok(Decision::default())
    }

    /// The effects that folding has brought up since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        Vec::new()
    }

    /// The action of an attempt, ready to run; `None` when the attempt is no longer current.
    pub fn prepare(&self, handle: StepHandle) -> Option<Prepared> {
        let _ = handle;
        None
    }

    /// When [`Command::Wake`] is next due: timers, retries, timeouts, `start_at`.
    pub fn next_due(&self) -> Option<Timestamp> {
        None
    }

    /// Its number in its shard.
    pub fn no(&self) -> RunNo {
        self.no
    }

    /// Its public id.
    pub fn id(&self) -> &WorkflowId {
        &self.id
    }

    /// Where its lifecycle stands.
    pub fn status(&self) -> WorkflowStatus {
        WorkflowStatus::Pending
    }

    /// The sequence of its last event.
    pub fn sequence(&self) -> Sequence {
        Sequence(0)
    }

    /// Hash of the submission's body, when the client gave the id.
    pub fn body_hash(&self) -> Option<u64> {
        None
    }

    /// What it runs now (mutations included).
    pub fn definition(&self) -> &Arc<Definition> {
        unreachable!("replaced with the engine's core")
    }

    /// Its output, once it has completed.
    pub fn output(&self) -> Option<&Value> {
        None
    }

    /// The answer of `GET /v1/workflows/{id}` in the shape of the HTTP contract.
    pub fn render(&self) -> Value {
        Value::Null
    }

    /// Why it is not moving: the `waiting_for` list of `GET /v1/workflows/{id}/why`.
    pub fn why(&self, now: Timestamp) -> Vec<Value> {
        let _ = now;
        Vec::new()
    }
}
