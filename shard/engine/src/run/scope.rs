//! What expressions read of a run, seen from one place of it: looked up when asked for, never
//! copied as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::instance::{InstanceIx, Place};
use super::state::State;
use crate::definition::StepKind;
use crate::expr::{OwnedScope, References, Scope};
use crate::fsm::StepStatus;

/// `null` that can be borrowed for ever.
static NULL: Value = Value::Null;

/// Where an expression stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot {
    /// Beside the top-level steps.
    Top,
    /// In a lane of a composite, beside the lane's steps.
    Lane(InstanceIx, u32),
    /// In the compensation of a step: where that step stands.
    Compensating(InstanceIx),
}

/// The run as it looks from there.
#[derive(Clone, Copy)]
pub(crate) struct RunScope<'a> {
    state: &'a State,
    spot: Spot,
}

impl State {
    /// The scope of an instance's own expressions.
    pub(crate) fn scope_of(&self, ix: InstanceIx) -> RunScope<'_> {
        RunScope { state: self, spot: self.spot_of(ix) }
    }

    /// The scope of an expression beside the steps of a lane.
    pub(crate) fn scope_in(&self, parent: InstanceIx, lane: u32) -> RunScope<'_> {
        RunScope { state: self, spot: Spot::Lane(parent, lane) }
    }

    /// The scope of the run's own expressions.
    pub(crate) fn scope_of_run(&self) -> RunScope<'_> {
        RunScope { state: self, spot: Spot::Top }
    }

    fn spot_of(&self, ix: InstanceIx) -> Spot {
        match self.get(ix).place {
            Place::Root | Place::Hook(_) => Spot::Top,
            Place::Lane { parent, lane, .. } => Spot::Lane(parent, lane),
            Place::Compensation { of } => Spot::Compensating(of),
        }
    }

    /// The namespace of a composite's lane, as it stands in full ids.
    pub(crate) fn namespace(&self, parent: InstanceIx, lane: u32) -> String {
        let parent = self.get(parent);
        match &self.definition.step(parent.spec).kind {
            StepKind::Loop { .. } => format!("iter_{lane}"),
            StepKind::Map { .. } => format!("item_{lane}"),
            StepKind::All { .. } | StepKind::Race { .. } => format!("branch_{lane}"),
            StepKind::Condition { .. } => {
                parent.composite().and_then(|c| c.branch.as_deref()).unwrap_or("default").to_owned()
            }
            StepKind::Action { .. } | StepKind::Wait(_) | StepKind::Reasoning(_) => {
                unreachable!("only composites have lanes")
            }
        }
    }
}

impl<'a> RunScope<'a> {
    /// The instance that `id` names from here: nearest scope first, then a full id.
    fn locate(&self, id: &str) -> Option<InstanceIx> {
        let mut spot = self.spot;
        loop {
            match spot {
                Spot::Top => return self.state.named(id),
                Spot::Lane(parent, lane) => {
                    let namespace = self.state.namespace(parent, lane);
                    let full = format!("{}.{namespace}.{id}", self.state.get(parent).id);
                    if let Some(ix) = self.state.named(&full) {
                        return Some(ix);
                    }
                    spot = self.state.spot_of(parent);
                }
                Spot::Compensating(of) => spot = self.state.spot_of(of),
            }
        }
    }

    fn is_readable(&self, ix: InstanceIx) -> bool {
        let instance = self.state.get(ix);
        match instance.current() {
            StepStatus::Completed | StepStatus::Skipped => true,
            StepStatus::Failed => instance.flags.settled,
            StepStatus::Pending
            | StepStatus::Scheduled
            | StepStatus::Running
            | StepStatus::Suspended
            | StepStatus::Retrying => false,
        }
    }

    /// The values that `references` name, to be sent to a worker.
    pub(crate) fn owned(&self, references: &References) -> OwnedScope {
        let mut steps = BTreeMap::new();
        let mut add = |id: &str| {
            if let Some(ix) = self.locate(id).filter(|&ix| self.is_readable(ix)) {
                let output = self.state.get(ix).output.clone().unwrap_or_default();
                steps.insert(Arc::from(id), output);
            }
        };
        references.steps.iter().for_each(|id| add(id));
        if references.all_steps {
            self.step_ids().into_iter().for_each(add);
        }
        OwnedScope {
            steps,
            inputs: self.state.params.clone(),
            workflow: self.state.workflow.clone(),
            context: self.state.context.clone(),
            item: self.item().map(|(value, index)| (Arc::new(value.clone()), index)),
            data: None,
        }
    }
}

impl Scope for RunScope<'_> {
    fn step(&self, id: &str) -> Option<&Value> {
        let ix = self.locate(id)?;
        self.is_readable(ix).then(|| self.state.get(ix).output.as_deref().unwrap_or(&NULL))
    }

    fn step_ids(&self) -> Vec<&str> {
        let mut ids = BTreeSet::new();
        let mut spot = self.spot;
        loop {
            match spot {
                Spot::Top => break,
                Spot::Lane(parent, lane) => {
                    if let Some(lane) =
                        self.state.get(parent).composite().and_then(|c| c.lanes.get(lane as usize))
                    {
                        let siblings = lane.first..lane.first + lane.count;
                        for ix in siblings.filter(|&ix| self.is_readable(ix)) {
                            ids.insert(&*self.state.definition.step(self.state.get(ix).spec).id);
                        }
                    }
                    spot = self.state.spot_of(parent);
                }
                Spot::Compensating(of) => spot = self.state.spot_of(of),
            }
        }
        for &spec in &self.state.definition.root {
            let ix = self.state.root_of[spec.0 as usize];
            if self.is_readable(ix) {
                ids.insert(&*self.state.get(ix).id);
            }
        }
        ids.into_iter().collect()
    }

    fn inputs(&self) -> &Value {
        &self.state.params
    }

    fn workflow(&self) -> &Value {
        &self.state.workflow
    }

    fn context(&self) -> &Value {
        &self.state.context
    }

    fn item(&self) -> Option<(&Value, u64)> {
        let mut spot = self.spot;
        loop {
            match spot {
                Spot::Top => return None,
                Spot::Lane(parent, lane) => {
                    let instance = self.state.get(parent);
                    match &self.state.definition.step(instance.spec).kind {
                        StepKind::Loop { .. } | StepKind::Map { .. } => {
                            let items = instance.composite().and_then(|c| c.items.as_ref());
                            let item = items.and_then(|items| items.get(lane as usize)).unwrap_or(&NULL);
                            return Some((item, u64::from(lane)));
                        }
                        StepKind::Action { .. }
                        | StepKind::Condition { .. }
                        | StepKind::All { .. }
                        | StepKind::Race { .. }
                        | StepKind::Wait(_)
                        | StepKind::Reasoning(_) => spot = self.state.spot_of(parent),
                    }
                }
                Spot::Compensating(of) => spot = self.state.spot_of(of),
            }
        }
    }

    fn data(&self) -> Option<&Value> {
        None
    }
}
