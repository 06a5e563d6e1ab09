//! Decide: from a command and the state to events, one concern a file.
//!
//! A command is checked against the state first; refused, it has changed nothing. Then each
//! event is folded as soon as it is made, and what follows from it is found on the state's
//! agenda and decided in turn, until nothing more follows by itself. Every such step looks only
//! at the state, never at what happened before in the same command, so a run that was cut off
//! between any two events goes on from there.
//!
//! Nothing here reads a clock: `now` comes with the command.

mod children;
mod compensation;
mod condition;
mod errors;
mod evaluate;
mod extend;
mod finish;
mod lifecycle;
mod loops;
mod parallel;
mod reasoning;
mod recover;
mod retry_run;
mod signals;
mod size;
mod start;
mod steps;
mod timers;
mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use evaluate::Purpose;
pub(crate) use start::start;

pub use recover::INTERRUPTIONS_MAX;

use crate::command::{Command, Decision, Effect, StepHandle};
use crate::definition::Definition;
use crate::error::{Code, Fault, Rejected};
use crate::event::payload::{
    ErrorHandlerInvoked, HandlerStrategy, ResumeCause, WorkflowResumed, WorkflowSuspended,
};
use crate::event::{Body, Event, EventType};
use crate::fsm::WorkflowStatus;
use crate::ids::{Sequence, Timestamp};
use crate::run::Run;
use crate::run::instance::InstanceIx;
use crate::run::state::Look;

/// Most events of a run.
pub const EVENTS_MAX: u64 = 1_000_000;
/// What is kept of these for ending a run that has reached them.
const EVENTS_RESERVED: u64 = 50_000;
/// Events after which a command's consequences pause until the next [`Command::Wake`].
pub const EVENTS_PER_COMMAND_MAX: usize = 2_000;
/// Largest `data` of one event, and largest output of a step, in bytes of JSON.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// What a command in hand has brought up.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<Event>,
    pub(crate) effects: Vec<Effect>,
    /// Actions that were asked for, by step, and the attempt.
    pub(crate) running: BTreeMap<InstanceIx, u32>,
    /// Evaluations that a worker has in hand, and what each is for.
    pub(crate) asked: BTreeMap<InstanceIx, Purpose>,
    /// All that was under way when the run's ending was decided has been stopped.
    pub(crate) swept: bool,
    /// The attempt that has no child to call off: it has ended, or was never started.
    pub(crate) childless: Option<StepHandle>,
    /// The run's output while its hook runs.
    pub(crate) output: Option<Arc<Value>>,
    /// A definition to be taken by the next event.
    pub(crate) definition: Option<Arc<Definition>>,
    /// Definitions that have to be recorded before the events.
    pub(crate) definitions: Vec<Arc<Definition>>,
}

impl Run {
    pub(crate) fn decide(&mut self, command: Command, now: Timestamp) -> Result<Decision, Rejected> {
        self.work.now = now.max(self.state.last_at);
        self.work.childless = None;
        let decided = match command {
            Command::Finished { handle, result, emissions } => {
                self.finished(handle, result, emissions);
                Ok(None)
            }
            Command::Evaluated { handle, result } => {
                self.evaluated(handle, result);
                Ok(None)
            }
            Command::ChildStarted(handle) => {
                self.child_started(handle);
                Ok(None)
            }
            Command::ChildEnded { child, step_id, attempt, outcome } => {
                self.child_ended(&child, &step_id, attempt, outcome);
                Ok(None)
            }
            Command::CalledOff(parent) => {
                self.called_off(&parent);
                Ok(None)
            }
            Command::Wake => {
                self.wake();
                Ok(None)
            }
            Command::Recover => {
                self.recover();
                Ok(None)
            }
            Command::Signal(signal) => self.signal(&signal).map(Some),
            Command::Cancel(reason) => self.cancel(&reason).map(|()| None),
            Command::Suspend(reason) => self.suspend(&reason).map(|()| None),
            Command::Resume(reason) => self.resume(&reason).map(|()| None),
            Command::Retry { from_step, params, definition, reason } => {
                self.retry_run(from_step.as_deref(), params, definition, &reason).map(|()| None)
            }
            Command::Extend { mutation, reason } => self.extend(&mutation, &reason).map(|()| None),
        };
        match decided {
            Ok(sequence) => {
                self.advance();
                Ok(self.decision(sequence))
            }
            Err(rejected) => {
                assert!(self.work.events.is_empty(), "a refused command has changed something");
                Err(rejected)
            }
        }
    }

    /// What the command came to.
    fn decision(&mut self, sequence: Option<Sequence>) -> Decision {
        Decision {
            events: std::mem::take(&mut self.work.events),
            sequence,
            definitions: std::mem::take(&mut self.work.definitions),
        }
    }

    /// Makes an event and folds it.
    fn emit(&mut self, step: Option<InstanceIx>, body: Body) {
        self.emit_by(step, body, None);
    }

    /// Makes an event that somebody caused and folds it.
    fn emit_by(&mut self, step: Option<InstanceIx>, body: Body, agent_id: Option<Arc<str>>) {
        if self.state.status == WorkflowStatus::Suspended && !self.state.held && self.unblocks(&body) {
            let due = self.state.due;
            self.append(None, resumed(ResumeCause::Unblocked, due, None), None);
        }
        self.append(step, body, agent_id);
    }

    fn append(&mut self, step: Option<InstanceIx>, body: Body, agent_id: Option<Arc<str>>) {
        let event = Event {
            sequence: self.state.sequence.next(),
            body,
            step_id: step.map(|ix| self.state.get(ix).id.clone()),
            agent_id,
            timestamp: self.work.now,
        };
        let mut definition = self.work.definition.take();
        if let Err(broken) = self.state.fold(step, &event, &mut |_| definition.take()) {
            panic!("the rules made an event that does not fold: {broken}");
        }
        self.work.events.push(event);
    }

    /// Whether an event makes a suspended run move again. What a run's end stops does not.
    fn unblocks(&self, body: &Body) -> bool {
        match body.event_type() {
            EventType::StepStarted
            | EventType::StepRetryAttempt
            | EventType::StepCompleted
            | EventType::DecisionResolved
            | EventType::WaitCompleted => true,
            EventType::StepSkipped | EventType::StepRetrying | EventType::StepIgnored => {
                self.state.ending.is_none()
            }
            EventType::WorkflowCompleted => true,
            _ => false,
        }
    }

    /// Decides whatever follows, until nothing does or the command has brought up enough.
    pub(crate) fn advance(&mut self) {
        loop {
            while let Some(look) = self.state.agenda.pop_front() {
                if self.state.status.is_terminal() {
                    self.state.agenda.clear();
                    return;
                }
                if self.work.events.len() >= EVENTS_PER_COMMAND_MAX {
                    self.state.agenda.push_front(look);
                    return;
                }
                if self.state.sequence.0 >= EVENTS_MAX - EVENTS_RESERVED && !self.state.forced {
                    self.fail_run(too_many_events(), true);
                }
                match look {
                    Look::Step(ix) => self.look_at_step(ix),
                    Look::Lane(parent, lane) => self.look_at_lane(parent, lane),
                    Look::Run => self.look_at_run(),
                }
            }
            if !self.rest() {
                return;
            }
        }
    }

    /// Suspends a run that nothing but the outside can move; whether there is more to decide.
    fn rest(&mut self) -> bool {
        let state = &self.state;
        let waits = state.moving == 0 && self.work.asked.is_empty() && !state.suspended.is_empty();
        if state.status == WorkflowStatus::Active && (state.held || waits) {
            let held = state.held;
            self.emit(None, Body::WorkflowSuspended(WorkflowSuspended { held, reason: None }));
        }
        !self.state.agenda.is_empty()
    }

    /// Fails the run for a reason that lies in no step.
    fn fail_run(&mut self, error: Fault, forced: bool) {
        let strategy = HandlerStrategy::FailWorkflow;
        let error = errors::bounded(error);
        self.emit(None, Body::ErrorHandlerInvoked(Box::new(ErrorHandlerInvoked { strategy, error, forced })));
    }

    /// `duration_ms` from now, within what RFC 3339 can say.
    fn after(&self, duration_ms: u64) -> Timestamp {
        Timestamp(self.work.now.plus_ms(duration_ms).0.min(TIME_MAX.0))
    }
}

/// The last millisecond of the year 9999.
pub(crate) const TIME_MAX: Timestamp = Timestamp(253_402_300_799_999);

/// A resumption with nothing but its cause.
fn resumed(cause: ResumeCause, due: Option<Timestamp>, reason: Option<String>) -> Body {
    Body::WorkflowResumed(Box::new(WorkflowResumed {
        cause,
        reason,
        due,
        attempt: None,
        params: None,
        definition: None,
        version: None,
    }))
}

fn too_many_events() -> Fault {
    Fault::new(
        Code::NonRetryable,
        format!("a run has at most {EVENTS_MAX} events, and this one is at its end"),
    )
}
