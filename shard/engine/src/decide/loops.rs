//! Loops: `for_each` over recorded items, `while` and `until` by a condition.
//!
//! `while` is checked before each iteration, `until` after each, so an `until` runs at least
//! once. The condition sees the steps of the iteration that has just ended.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Purpose;
use super::evaluate::not_a;
use super::steps::check_size;
use crate::definition::{LoopMode, StepKind};
use crate::error::{Code, Fault};
use crate::event::Body;
use crate::event::payload::{
    LoopCompleted, LoopIterCompleted, LoopIterStarted, ParallelMode, ParallelStarted,
};
use crate::run::Run;
use crate::run::instance::{Composite, InstanceIx, LaneState};
use crate::run::state::Look;

impl Run {
    /// Begins the loop's next iteration, asks whether there is one, or ends it.
    pub(super) fn go_on_loop(&mut self, ix: InstanceIx, mode: &LoopMode) {
        let Some(composite) = self.state.get(ix).composite() else {
            return match mode {
                LoopMode::ForEach(_) => self.ask(ix, Purpose::Over),
                LoopMode::While(_) => self.ask(ix, Purpose::Check),
                LoopMode::Until(_) => self.iterate(ix, None),
            };
        };
        let begun = composite.lanes.len() as u64;
        if composite.finished {
            return self.complete_loop(ix);
        }
        if composite.reported < begun {
            let last = u32::try_from(begun - 1).expect("iterations are bounded by a run's events");
            self.state.agenda.push_back(Look::Lane(ix, last));
            return;
        }
        match mode {
            LoopMode::ForEach(_) => {
                let count = composite.items.as_ref().map_or(0, |items| items.len()) as u64;
                if begun < count { self.iterate(ix, None) } else { self.end_loop(ix) }
            }
            LoopMode::While(_) | LoopMode::Until(_) => self.ask(ix, Purpose::Check),
        }
    }

    /// The items of a `for_each` or a map are known.
    pub(super) fn have_items(&mut self, ix: InstanceIx, value: Value) {
        let definition = self.state.definition.clone();
        let Value::Array(items) = value else {
            return self.fail(ix, not_a(&Purpose::Over, "a list", &value), false);
        };
        let items = Value::Array(items);
        if let Err(fault) = check_size(&items, "the list of items") {
            return self.fail(ix, fault, false);
        }
        let Value::Array(items) = items else { unreachable!("made above") };
        match &definition.step(self.state.get(ix).spec).kind {
            StepKind::Loop { iterations_max, .. } => {
                if items.len() as u64 > *iterations_max {
                    let message = format!("{} items are more than max_iter, {iterations_max}", items.len());
                    return self.fail(ix, Fault::new(Code::NonRetryable, message), false);
                }
                if items.is_empty() {
                    return self.end_loop(ix);
                }
                self.iterate(ix, Some(Arc::new(items)));
            }
            StepKind::Map { .. } => {
                let items = Some(Arc::new(items));
                let started = ParallelStarted { mode: ParallelMode::Map, items };
                self.emit(Some(ix), Body::ParallelStarted(started));
            }
            StepKind::Action { .. }
            | StepKind::Condition { .. }
            | StepKind::All { .. }
            | StepKind::Race { .. }
            | StepKind::Wait(_)
            | StepKind::Reasoning(_) => unreachable!("only loops and maps go over items"),
        }
    }

    /// Whether a `while` or `until` goes on is known.
    pub(super) fn have_check(&mut self, ix: InstanceIx, value: &Value) {
        let definition = self.state.definition.clone();
        let StepKind::Loop { mode, .. } = &definition.step(self.state.get(ix).spec).kind else {
            unreachable!("only loops are checked");
        };
        let Value::Bool(holds) = value else {
            return self.fail(ix, not_a(&Purpose::Check, "true or false", value), false);
        };
        let goes_on = match mode {
            LoopMode::While(_) => *holds,
            LoopMode::Until(_) => !holds,
            LoopMode::ForEach(_) => unreachable!("a for_each has items"),
        };
        if goes_on { self.iterate(ix, None) } else { self.end_loop(ix) }
    }

    fn iterate(&mut self, ix: InstanceIx, items: Option<Arc<Vec<Value>>>) {
        let definition = self.state.definition.clone();
        let StepKind::Loop { iterations_max, .. } = &definition.step(self.state.get(ix).spec).kind else {
            unreachable!("only loops iterate");
        };
        let index = self.state.get(ix).composite().map_or(0, |c| c.lanes.len()) as u64;
        if index >= *iterations_max {
            let message = format!("the loop goes on after max_iter, {iterations_max} iterations");
            return self.fail(ix, Fault::new(Code::NonRetryable, message), false);
        }
        self.emit(Some(ix), Body::LoopIterStarted(LoopIterStarted { index, items }));
    }

    fn end_loop(&mut self, ix: InstanceIx) {
        let iterations = self.state.get(ix).composite().map_or(0, |c| c.reported);
        self.emit(Some(ix), Body::LoopCompleted(LoopCompleted { iterations }));
    }

    fn complete_loop(&mut self, ix: InstanceIx) {
        let Some(composite) = self.state.get(ix).composite() else { return };
        let output = json!({ "iterations": composite.reported, "results": self.lane_outputs(composite) });
        self.complete(ix, output);
    }

    /// The last output of each lane, in order.
    pub(super) fn lane_outputs(&self, composite: &Composite) -> Vec<Value> {
        (0..composite.lanes.len()).map(|lane| self.lane_output(composite, lane)).collect()
    }

    /// An iteration or an item has ended; reports it, once.
    pub(super) fn end_iteration(&mut self, ix: InstanceIx, lane: u32) {
        let Some(composite) = self.state.get(ix).composite() else { return };
        if composite.lanes[lane as usize].state == LaneState::Done {
            let completed = LoopIterCompleted { index: u64::from(lane) };
            self.emit(Some(ix), Body::LoopIterCompleted(completed));
        }
    }
}
