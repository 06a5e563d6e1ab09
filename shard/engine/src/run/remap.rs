//! Another definition for a run: every instance finds its step in it again, by id.

use std::collections::HashMap;
use std::sync::Arc;

use super::instance::{InstanceIx, Place};
use super::state::{State, is_composite};
use crate::definition::{Definition, SpecIx, StepKind};

impl State {
    /// Takes `definition` in place of the present one. Instances whose step it lacks are gone:
    /// they keep their history and nothing follows from them.
    pub(crate) fn replace_definition(&mut self, definition: Arc<Definition>) -> Result<(), String> {
        let old = std::mem::replace(&mut self.definition, definition.clone());
        let top: HashMap<&str, SpecIx> =
            definition.root.iter().map(|&ix| (&*definition.step(ix).id, ix)).collect();
        for ix in 0..self.instances.len() {
            let instance = &self.instances[ix];
            if instance.flags.gone {
                continue;
            }
            let short = &old.step(instance.spec).id;
            let found = match instance.place {
                Place::Root => top.get(&**short).copied(),
                Place::Hook(super::instance::Hook::OnComplete) => definition.on_complete,
                Place::Hook(super::instance::Hook::OnError) => definition.on_error,
                Place::Compensation { of } => {
                    let of = self.get(of);
                    if of.flags.gone { None } else { definition.step(of.spec).compensate }
                }
                Place::Lane { parent, .. } => self.child_named(&definition, parent, &instance.id, short),
            };
            let found = found.filter(|&spec| {
                let spec = definition.step(spec);
                spec.id == *short && is_composite(&spec.kind) == instance.flags.is_composite
            });
            let id = instance.id.clone();
            let instance = &mut self.instances[ix];
            match found {
                Some(spec) => {
                    instance.spec = spec;
                    instance.flags.is_fallback_only = definition.step(spec).is_fallback_only;
                }
                None if instance.is_active() && !self.status.is_terminal() => {
                    return Err(format!("step {id} is under way and the new definition lacks it"));
                }
                None => {
                    instance.flags.gone = true;
                    instance.spec = SpecIx(0);
                }
            }
        }
        let instances = &self.instances;
        self.compensable.retain(|&c| !instances[c as usize].flags.gone);
        self.place_top_level();
        Ok(())
    }

    /// The sub-step of this full id, whose namespace is what stands between its parent's id and
    /// its own short one.
    fn child_named(
        &self,
        definition: &Definition,
        parent: InstanceIx,
        id: &str,
        short: &str,
    ) -> Option<SpecIx> {
        let parent = self.get(parent);
        if parent.flags.gone {
            return None;
        }
        let namespace =
            id.strip_prefix(&*parent.id)?.strip_prefix('.')?.strip_suffix(short)?.strip_suffix('.')?;
        let within = |steps: &[SpecIx]| steps.iter().copied().find(|&s| &*definition.step(s).id == short);
        match &definition.step(parent.spec).kind {
            StepKind::Condition { branches, default, .. } => {
                let branch = branches.iter().find(|(name, _)| **name == *namespace).map(|(_, steps)| steps);
                branch.or(default.as_ref().filter(|_| namespace == "default")).and_then(|steps| within(steps))
            }
            StepKind::Loop { body, .. } | StepKind::Map { body, .. } => within(body),
            StepKind::All { branches } | StepKind::Race { branches } => {
                let number: usize = namespace.strip_prefix("branch_")?.parse().ok()?;
                branches.get(number).and_then(|branch| within(branch))
            }
            StepKind::Action { .. } | StepKind::Wait(_) | StepKind::Reasoning(_) => None,
        }
    }
}
