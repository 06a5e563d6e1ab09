//! Waits: for a time, or for a signal, which is kept when it comes early.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Purpose;
use super::evaluate::not_a;
use crate::definition::{WaitFor, parse_duration_ms};
use crate::error::{Code, Fault};
use crate::event::Body;
use crate::event::payload::{StepSuspended, SuspendReason, WaitCompleted, WaitStarted};
use crate::fsm::StepStatus;
use crate::ids::Timestamp;
use crate::run::Run;
use crate::run::instance::{Detail, InstanceIx, Mail};

impl Run {
    /// Begins a wait, or ends it when its time or its signal has come.
    pub(super) fn go_on_wait(&mut self, ix: InstanceIx, what: &WaitFor) {
        let instance = self.state.get(ix);
        let Detail::Wait(wait) = &instance.detail else {
            return match what {
                WaitFor::DurationMs(ms) => self.begin_wait(ix, Some(self.after(*ms)), None),
                WaitFor::Until(at) => self.begin_wait(ix, Some(*at), None),
                WaitFor::Signal(name) => self.begin_wait(ix, None, Some(name.clone())),
                WaitFor::Duration(_) | WaitFor::UntilTemplate(_) => self.ask(ix, Purpose::Wait),
            };
        };
        if let Some(output) = &wait.output {
            let output = Value::clone(output);
            return self.complete(ix, output);
        }
        if wait.signal.is_some() {
            if !self.look_at_mail(ix) {
                let due = self.state.get(ix).due();
                let suspended = StepSuspended { reason: SuspendReason::Signal, due };
                self.emit(Some(ix), Body::StepSuspended(suspended));
            }
            return;
        }
        if instance.timer.is_none_or(|until| until <= self.work.now) {
            let waited = self.work.now.since_ms(wait.since);
            self.end_wait(ix, json!({ "waited": waited }), None);
        }
    }

    /// The time of an interpolated wait is known.
    pub(super) fn have_wait(&mut self, ix: InstanceIx, value: &Value) {
        let definition = self.state.definition.clone();
        let is_until = matches!(
            &definition.step(self.state.get(ix).spec).kind,
            crate::definition::StepKind::Wait(WaitFor::UntilTemplate(_))
        );
        let until = match value {
            Value::String(text) if is_until => Timestamp::parse_rfc3339(text),
            Value::String(text) => parse_duration_ms(text).map(|ms| self.after(ms)),
            Value::Number(ms) if !is_until => ms
                .as_u64()
                .map(|ms| self.after(ms))
                .ok_or_else(|| format!("{ms} is no number of milliseconds")),
            other => {
                let wanted = if is_until { "an RFC 3339 time" } else { "a duration" };
                return self.fail(ix, not_a(&Purpose::Wait, wanted, other), false);
            }
        };
        match until {
            Ok(until) => self.begin_wait(ix, Some(until), None),
            Err(message) => self.fail(ix, Fault::new(Code::ValidationError, message), false),
        }
    }

    fn begin_wait(&mut self, ix: InstanceIx, until: Option<Timestamp>, signal: Option<Arc<str>>) {
        let until = until.map(|at| at.min(super::TIME_MAX));
        let deadline = self.state.get(ix).deadline;
        let due = until.into_iter().chain(deadline).min();
        self.emit(Some(ix), Body::WaitStarted(WaitStarted { until, signal, child: None, due }));
    }

    fn end_wait(&mut self, ix: InstanceIx, output: Value, mail: Option<&Mail>) {
        let completed = WaitCompleted {
            output: Arc::new(output),
            signal: mail.map(|mail| mail.sequence),
            due: self.state.get(ix).deadline,
        };
        if crate::planted::is("timer-twice") && mail.is_none() {
            self.emit(Some(ix), Body::WaitCompleted(completed.clone()));
        }
        self.emit(Some(ix), Body::WaitCompleted(completed));
    }

    /// Ends a wait for a signal that has come; whether it had.
    pub(super) fn look_at_mail(&mut self, ix: InstanceIx) -> bool {
        let instance = self.state.get(ix);
        let Detail::Wait(wait) = &instance.detail else { return false };
        let Some(name) = wait.signal.clone().filter(|_| wait.output.is_none()) else { return false };
        if !matches!(instance.current(), StepStatus::Running | StepStatus::Suspended) {
            return false;
        }
        let short = &self.state.definition.step(instance.spec).id;
        let is_for_it = |mail: &&Mail| {
            mail.names.iter().flatten().any(|n| **n == *name || **n == *instance.id || **n == **short)
        };
        let Some(mail) = self.state.mailbox.iter().find(is_for_it).cloned() else { return false };
        self.end_wait(ix, json!({ "signal": name, "payload": mail.payload }), Some(&mail));
        true
    }
}
