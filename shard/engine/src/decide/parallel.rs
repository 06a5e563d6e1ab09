//! Parallel steps: all branches, a race of branches, a map over items.
//!
//! A race is won by the first branch that ends well; one that fails is out of it, and the race
//! fails when the last one has.

use serde_json::json;

use super::Purpose;
use crate::definition::StepKind;
use crate::event::Body;
use crate::event::payload::{LoopIterStarted, ParallelCompleted, ParallelMode, ParallelStarted, SkipReason};
use crate::fsm::StepStatus;
use crate::run::Run;
use crate::run::instance::{InstanceIx, LaneState};
use crate::run::state::Look;

impl Run {
    /// Does what follows from a lane: starts its next step, or ends it and perhaps its composite.
    pub(super) fn look_at_lane(&mut self, parent: InstanceIx, number: u32) {
        let instance = self.state.get(parent);
        if instance.current() != StepStatus::Running || instance.flags.gone {
            return;
        }
        let Some(composite) = instance.composite() else { return };
        let Some(&lane) = composite.lanes.get(number as usize) else { return };
        if instance.flags.ignoring || composite.is_decided() {
            return self.go_on(parent);
        }
        if lane.state == LaneState::Open {
            return self.start_if_pending(lane.first + lane.cursor);
        }
        let definition = self.state.definition.clone();
        match &definition.step(instance.spec).kind {
            StepKind::Condition { .. } => self.end_condition(parent),
            StepKind::Loop { .. } | StepKind::Map { .. } => self.end_iteration(parent, number),
            StepKind::All { .. } | StepKind::Race { .. } => self.go_on_branches(parent),
            StepKind::Action { .. } | StepKind::Wait(_) | StepKind::Reasoning(_) => {
                unreachable!("only composites have lanes")
            }
        }
    }

    fn start_if_pending(&mut self, ix: InstanceIx) {
        match self.state.get(ix).current() {
            StepStatus::Pending | StepStatus::Scheduled => self.start_if_ready(ix),
            StepStatus::Running
            | StepStatus::Completed
            | StepStatus::Failed
            | StepStatus::Suspended
            | StepStatus::Retrying
            | StepStatus::Skipped => {}
        }
    }

    /// Begins the branches of an `all` or a race, or ends it when that is due.
    pub(super) fn go_on_branches(&mut self, ix: InstanceIx) {
        let is_race =
            matches!(self.state.definition.step(self.state.get(ix).spec).kind, StepKind::Race { .. });
        let mode = if is_race { ParallelMode::Race } else { ParallelMode::All };
        let Some(composite) = self.state.get(ix).composite() else {
            self.emit(Some(ix), Body::ParallelStarted(ParallelStarted { mode, items: None }));
            return;
        };
        let (open, winner) = (composite.open, composite.winner);
        if composite.finished {
            let output = match winner {
                Some(winner) => {
                    let output = self.lane_output(composite, winner as usize);
                    json!({ "mode": mode, "winner": winner, "output": output })
                }
                None => json!({ "mode": mode, "branches": self.lane_outputs(composite) }),
            };
            return self.complete(ix, output);
        }
        if winner.is_some() {
            self.stop_below(ix, SkipReason::RaceLost);
        } else if open > 0 {
            return;
        }
        self.emit(Some(ix), Body::ParallelCompleted(ParallelCompleted { mode, winner }));
    }

    /// Begins as many items of a map as may be under way, or ends it.
    pub(super) fn go_on_map(&mut self, ix: InstanceIx, concurrency_max: u32) {
        let Some(composite) = self.state.get(ix).composite() else { return self.ask(ix, Purpose::Over) };
        let count = composite.items.as_ref().map_or(0, |items| items.len());
        if composite.finished {
            let output = json!({ "mode": ParallelMode::Map, "results": self.lane_outputs(composite) });
            return self.complete(ix, output);
        }
        if composite.reported == count as u64 {
            let completed = ParallelCompleted { mode: ParallelMode::Map, winner: None };
            self.emit(Some(ix), Body::ParallelCompleted(completed));
            return;
        }
        while let Some(composite) = self.state.get(ix).composite()
            && composite.open < concurrency_max.max(1)
            && composite.lanes.len() < count
        {
            let index = composite.lanes.len() as u64;
            self.emit(Some(ix), Body::LoopIterStarted(LoopIterStarted { index, items: None }));
            if self.work.events.len() >= super::EVENTS_PER_COMMAND_MAX {
                self.state.agenda.push_back(Look::Step(ix));
                return;
            }
        }
    }
}
