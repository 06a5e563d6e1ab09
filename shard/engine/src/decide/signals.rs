//! Signals: to whom, whether they may, and that each is delivered once.

use std::sync::Arc;

use serde_json::Value;

use super::steps::check_size;
use crate::command::{Signal, SignalType};
use crate::definition::{NESTING_MAX, StepKind, WaitFor};
use crate::error::{Code, Problem, Rejected};
use crate::event::Body;
use crate::event::payload::{SignalReceived, SkipReason};
use crate::fsm::StepStatus;
use crate::ids::{ID_BYTES_MAX, Sequence};
use crate::run::Run;
use crate::run::instance::{InstanceIx, Place};
use crate::run::state::MAILBOX_MAX;

/// Longest full id of a step: an id and a namespace for each level of nesting.
const STEP_ID_BYTES_MAX: usize = 2 * (ID_BYTES_MAX + 1) * (NESTING_MAX + 2);

impl Run {
    /// Takes a signal; the sequence of the event that recorded it, the first time too.
    pub(super) fn signal(&mut self, signal: &Signal) -> Result<Sequence, Rejected> {
        if let Some(id) = signal.signal_id.as_deref() {
            if let Some(&sequence) = self.state.delivered.get(id) {
                return Ok(sequence);
            }
            if id.is_empty() || id.len() > ID_BYTES_MAX {
                return Err(invalid("/signal_id", "a signal_id is 1 to 128 bytes"));
            }
        }
        if signal.step_id.as_ref().is_some_and(|id| id.len() > STEP_ID_BYTES_MAX) {
            return Err(invalid("/step_id", "is longer than a step's id can be"));
        }
        if signal.kind != SignalType::Retry {
            self.refuse_if_ended("signalled")?;
        }
        if let Err(fault) = check_size(&signal.payload, "the payload") {
            return Err(invalid("/payload", &fault.message));
        }
        match signal.kind {
            SignalType::Decision => self.resolve(signal),
            SignalType::Data => self.receive_data(signal),
            SignalType::Cancel => {
                let id = signal.signal_id.as_deref().map(Arc::from);
                self.receive_cancel(signal.agent_id.clone(), signal.reasoning.clone(), id);
                Ok(self.state.sequence)
            }
            SignalType::Retry => self.retry_step(signal),
            SignalType::Skip => self.skip_step(signal),
        }
    }

    /// Records a signal of which no other event tells.
    fn receive(&mut self, signal: &Signal, step: Option<InstanceIx>) -> Sequence {
        let received = SignalReceived {
            kind: signal.kind,
            target: signal.step_id.clone(),
            payload: signal.payload.clone(),
            signal_id: signal.signal_id.as_deref().map(Arc::from),
            reason: signal.reasoning.clone().map(super::lifecycle::bounded),
        };
        self.emit_by(step, Body::SignalReceived(Box::new(received)), signal.agent_id.clone());
        self.state.sequence
    }

    /// Data for a wait, by its signal's name or its step; kept until one waits for it. One
    /// signal ends one wait, the one that has waited longest.
    fn receive_data(&mut self, signal: &Signal) -> Result<Sequence, Rejected> {
        let name = signal.payload.get("name").and_then(Value::as_str);
        let names = [name, signal.step_id.as_deref()];
        if names.iter().all(Option::is_none) {
            return Err(invalid("/step_id", "say which wait it is for, by step_id or by payload.name"));
        }
        let definition = &self.state.definition;
        let is_awaited = definition.steps.iter().any(|step| match &step.kind {
            StepKind::Wait(WaitFor::Signal(awaited)) => names
                .iter()
                .flatten()
                .any(|name| **name == **awaited || name.rsplit('.').next() == Some(&*step.id)),
            _ => false,
        });
        if !is_awaited {
            return Err(Rejected::new(Code::NotFound, "no step of this run waits for such a signal"));
        }
        if self.state.mailbox.len() >= MAILBOX_MAX {
            let message = format!("{MAILBOX_MAX} signals are kept already and nothing waits for them");
            return Err(Rejected::new(Code::Conflict, message));
        }
        Ok(self.receive(signal, None))
    }

    /// Runs again a step that rests before a retry, that was interrupted, or that failed the run.
    fn retry_step(&mut self, signal: &Signal) -> Result<Sequence, Rejected> {
        let Some(step) = &signal.step_id else { return Err(invalid("/step_id", "say which step")) };
        let can_retry = |ix: InstanceIx| {
            let instance = self.state.get(ix);
            instance.current() == StepStatus::Retrying
                || instance.flags.interrupted
                || instance.current() == StepStatus::Failed
        };
        let ix = self.find_step(step, can_retry)?;
        let instance = self.state.get(ix);
        if self.state.status.is_terminal() {
            if instance.current() != StepStatus::Failed {
                return Err(self.refused_for(ix, "run again"));
            }
            return self.retry_from_failed(ix, signal);
        }
        let is_interrupted = instance.current() == StepStatus::Suspended && instance.flags.interrupted;
        if !is_interrupted && instance.current() != StepStatus::Retrying {
            return Err(self.refused_for(ix, "run again"));
        }
        if self.state.held {
            return Err(Rejected::new(Code::InvalidTransition, "the run is suspended: resume it first"));
        }
        let sequence = self.receive(signal, Some(ix));
        self.next_attempt(ix, true);
        Ok(sequence)
    }

    /// Skips a step that has not ended.
    fn skip_step(&mut self, signal: &Signal) -> Result<Sequence, Rejected> {
        let Some(step) = &signal.step_id else { return Err(invalid("/step_id", "say which step")) };
        let ix = self.find_step(step, |ix| !self.state.get(ix).current().is_settled())?;
        let instance = self.state.get(ix);
        let is_uncalled = instance.flags.is_fallback_only && !instance.flags.called;
        let is_ending = self.state.ending.is_some()
            && matches!(instance.place, Place::Root | Place::Lane { .. })
            && !instance.is_active();
        if instance.current().is_settled() || is_uncalled || is_ending {
            return Err(self.refused_for(ix, "skipped"));
        }
        let sequence = self.receive(signal, Some(ix));
        self.stop_below(ix, SkipReason::Signal);
        self.stop(ix, SkipReason::Signal);
        Ok(sequence)
    }

    fn refused_for(&self, ix: InstanceIx, what: &str) -> Rejected {
        let instance = self.state.get(ix);
        let status = instance.current().as_str();
        Rejected {
            step_id: Some(instance.id.to_string()),
            ..Rejected::new(
                Code::InvalidTransition,
                format!("step {} is {status} and cannot be {what}", instance.id),
            )
        }
    }

    /// The step of this full id; or of this short id, when one step has it, or only one of them
    /// is such as is wanted.
    pub(super) fn find_step(
        &self,
        id: &str,
        is_wanted: impl Fn(InstanceIx) -> bool,
    ) -> Result<InstanceIx, Rejected> {
        if let Some(ix) = self.state.named(id) {
            return Ok(ix);
        }
        let named: Vec<InstanceIx> = (0_u32..)
            .zip(&self.state.instances)
            .filter(|(_, instance)| {
                !instance.flags.gone && *self.state.definition.step(instance.spec).id == *id
            })
            .map(|(ix, _)| ix)
            .collect();
        let mut wanted = named.iter().copied().filter(|&ix| is_wanted(ix));
        match (wanted.next(), wanted.next(), named.as_slice()) {
            (Some(ix), None, _) | (None, _, &[ix]) => Ok(ix),
            (None, _, []) => Err(Rejected {
                step_id: Some(id.to_owned()),
                ..Rejected::new(Code::NotFound, format!("this run has no step {id}"))
            }),
            (_, _, several) => {
                let ids: Vec<&str> = several.iter().take(8).map(|&ix| &*self.state.get(ix).id).collect();
                let message = format!("several steps are called {id}: use a full id, as {}", ids.join(", "));
                Err(Rejected { step_id: Some(id.to_owned()), ..Rejected::new(Code::Conflict, message) })
            }
        }
    }
}

fn invalid(pointer: &str, message: &str) -> Rejected {
    Rejected {
        problems: vec![Problem::at(pointer, message)],
        ..Rejected::new(Code::ValidationError, message)
    }
}
