//! Timers: whatever is due by now happens, the earliest first.

use super::resumed;
use crate::definition::OnTimeout;
use crate::error::{Code, Fault};
use crate::event::Body;
use crate::event::payload::{ResumeCause, TimeoutAction, WorkflowTimedOut};
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::Timestamp;
use crate::run::Run;
use crate::run::instance::InstanceIx;
use crate::run::state::{Look, TimerKind};

impl Run {
    /// Fires every timer that is due, and goes on from each before the next.
    pub(super) fn wake(&mut self) {
        self.advance();
        while !self.state.status.is_terminal() && self.state.agenda.is_empty() {
            let now = self.work.now;
            let timer = self.state.timers.first().copied().filter(|(at, _, _)| *at <= now);
            let rest = self.state.rests.first().copied().filter(|(at, _)| *at <= now && !self.state.held);
            match (timer, rest) {
                (Some((at, _, _)), Some((rested, ix))) if rested < at => self.end_rest(rested, ix),
                (Some(timer), _) => self.fire(timer),
                (None, Some((rested, ix))) => self.end_rest(rested, ix),
                (None, None) => return,
            }
            self.advance();
        }
    }

    /// A rest is over. One that no step waits for any more is dropped.
    fn end_rest(&mut self, at: Timestamp, ix: InstanceIx) {
        if self.state.get(ix).current() == StepStatus::Retrying {
            self.retry_if_rested(ix);
        }
        self.state.rests.remove(&(at, ix));
    }

    fn fire(&mut self, timer: (Timestamp, InstanceIx, TimerKind)) {
        let (_, ix, kind) = timer;
        // What fires is over, whether or not anything waits for it any more.
        self.state.timers.remove(&timer);
        match kind {
            TimerKind::Run => self.run_is_due(),
            TimerKind::Deadline => self.time_out(ix),
            TimerKind::Work => match self.state.get(ix).current() {
                StepStatus::Suspended => self.decision_timed_out(ix),
                StepStatus::Pending
                | StepStatus::Scheduled
                | StepStatus::Running
                | StepStatus::Completed
                | StepStatus::Failed
                | StepStatus::Retrying
                | StepStatus::Skipped => self.state.agenda.push_back(Look::Step(ix)),
            },
        }
    }

    /// The run's `start_at` has come, or its time is up.
    fn run_is_due(&mut self) {
        let definition = self.state.definition.clone();
        if self.state.status == WorkflowStatus::Pending {
            let due = definition.timeout_ms.map(|ms| self.after(ms));
            self.emit(None, resumed(ResumeCause::Started, due, None));
            return;
        }
        let action = match definition.on_timeout {
            OnTimeout::Fail => TimeoutAction::Fail,
            OnTimeout::Suspend => TimeoutAction::Suspend,
            OnTimeout::Cancel => TimeoutAction::Cancel,
        };
        let message = format!("the run took longer than {} ms", definition.timeout_ms.unwrap_or(0));
        let error = Fault::new(Code::TimeoutError, message);
        self.emit(None, Body::WorkflowTimedOut(Box::new(WorkflowTimedOut { action, error })));
    }
}
