//! Settling: what the end of a step does to its scope, and how lanes begin and move.

use std::sync::Arc;

use super::instance::{Composite, Detail, Flags, InstanceIx, Lane, LaneState, Place, RUN_ITSELF};
use super::state::{Look, State};
use crate::definition::{SpecIx, StepKind};
use crate::fsm::StepStatus;
use crate::ids::Timestamp;

impl State {
    /// A step is done, as its scope sees it: completed, skipped, or replaced by its fallback.
    /// Steps that it stands in for are done with it.
    pub(crate) fn settle(&mut self, ix: InstanceIx) {
        let mut done = vec![ix];
        while let Some(ix) = done.pop() {
            let instance = self.get_mut(ix);
            if std::mem::replace(&mut instance.flags.settled, true) {
                continue;
            }
            let output = instance.output.clone();
            // A fallback that was cut off takes nobody's place.
            let replaced =
                if instance.flags.cut_off { Vec::new() } else { std::mem::take(&mut instance.stands_for) };
            for failed in replaced {
                self.get_mut(failed).output.clone_from(&output);
                done.push(failed);
            }
            match self.get(ix).place {
                Place::Root => self.settle_root(ix),
                Place::Lane { parent, lane, .. } => self.move_lane(parent, lane),
                Place::Hook(_) | Place::Compensation { .. } => self.agenda.push_back(Look::Run),
            }
        }
    }

    fn settle_root(&mut self, ix: InstanceIx) {
        let instance = self.get(ix);
        let (spec, flags) = (instance.spec, instance.flags);
        if !flags.is_fallback_only || flags.called {
            self.root_open = self.root_open.saturating_sub(1);
        }
        let definition = self.definition.clone();
        for dependent in &definition.step(spec).dependents {
            let next = self.root_of[dependent.0 as usize];
            if next == RUN_ITSELF {
                continue;
            }
            let waiting = self.get_mut(next);
            waiting.unmet = waiting.unmet.saturating_sub(1);
            if waiting.unmet == 0 {
                self.agenda.push_back(Look::Step(next));
            }
        }
        if self.root_open == 0 {
            self.agenda.push_back(Look::Run);
        }
    }

    /// Moves a lane's cursor over what is done, and closes the lane behind its last step.
    pub(crate) fn move_lane(&mut self, parent: InstanceIx, number: u32) {
        let Detail::Composite(composite) = &self.get(parent).detail else { return };
        let Some(&lane) = composite.lanes.get(number as usize) else { return };
        let mut cursor = lane.cursor;
        while cursor < lane.count {
            let flags = self.get(lane.first + cursor).flags;
            if !(flags.settled || flags.is_fallback_only && !flags.called) {
                break;
            }
            cursor += 1;
        }
        let Detail::Composite(composite) = &mut self.get_mut(parent).detail else { return };
        let lane = &mut composite.lanes[number as usize];
        lane.cursor = cursor;
        if cursor == lane.count && lane.state == LaneState::Open {
            lane.state = LaneState::Done;
            composite.open -= 1;
            if composite.is_race && composite.winner.is_none() {
                composite.winner = Some(number);
            }
        }
        self.agenda.push_back(Look::Lane(parent, number));
    }

    /// A sub-step failed for good, so its lane does.
    pub(crate) fn fail_lane(&mut self, parent: InstanceIx, number: u32, by: InstanceIx) {
        let Detail::Composite(composite) = &mut self.get_mut(parent).detail else { return };
        let Some(lane) = composite.lanes.get_mut(number as usize) else { return };
        if lane.state == LaneState::Open {
            lane.state = LaneState::Failed;
            composite.open -= 1;
            composite.failed_by = Some(by);
        }
        self.agenda.push_back(Look::Lane(parent, number));
    }

    /// The composite's progress, begun if need be; the error names a step that is no composite.
    pub(crate) fn composite_mut(&mut self, ix: InstanceIx) -> Result<&mut Composite, String> {
        let instance = self.get_mut(ix);
        if !instance.flags.is_composite {
            return Err(format!("step {} has no sub-steps", instance.id));
        }
        if !matches!(instance.detail, Detail::Composite(_)) {
            let spec = instance.spec;
            let is_race = matches!(self.definition.step(spec).kind, StepKind::Race { .. });
            let composite = Composite { is_race, ..Composite::default() };
            self.get_mut(ix).detail = Detail::Composite(Box::new(composite));
        }
        let instance = self.get_mut(ix);
        match &mut instance.detail {
            Detail::Composite(composite) => Ok(composite),
            Detail::None | Detail::Wait(_) | Detail::Decision(_) => unreachable!("made above"),
        }
    }

    /// Begins the composite's next lane: an instance for each of `specs`, those of an earlier
    /// round taken again.
    pub(crate) fn open_lane(
        &mut self,
        parent: InstanceIx,
        namespace: &str,
        specs: &[SpecIx],
    ) -> Result<(), String> {
        let number = u32::try_from(self.composite_mut(parent)?.lanes.len()).map_err(|e| e.to_string())?;
        let definition = self.definition.clone();
        let parent_id = self.get(parent).id.clone();
        let ids: Vec<String> =
            specs.iter().map(|&s| format!("{parent_id}.{namespace}.{}", definition.step(s).id)).collect();
        let earlier = ids.first().and_then(|id| self.named(id));
        let earlier = earlier.filter(|&first| (first..).zip(&ids).all(|(ix, id)| self.named(id) == Some(ix)));
        let first = earlier.unwrap_or(u32::try_from(self.instances.len()).map_err(|e| e.to_string())?);
        for (position, (&spec, id)) in (0_u32..).zip(specs.iter().zip(ids)) {
            let place = Place::Lane { parent, lane: number, position };
            if earlier.is_some() {
                let instance = self.get_mut(first + position);
                (instance.place, instance.spec) = (place, spec);
                continue;
            }
            self.create(Arc::from(id), spec, place);
        }
        let count = u32::try_from(specs.len()).map_err(|e| e.to_string())?;
        let lane = Lane { first, count, cursor: 0, state: LaneState::Open };
        let composite = self.composite_mut(parent)?;
        composite.lanes.push(lane);
        composite.open += 1;
        self.move_lane(parent, number);
        Ok(())
    }

    /// The lane of a step that is to run again is open again from there on.
    pub(crate) fn reopen_lane_of(&mut self, ix: InstanceIx) {
        let Place::Lane { parent, lane: number, position } = self.get(ix).place else { return };
        let Detail::Composite(composite) = &mut self.get_mut(parent).detail else { return };
        let Some(lane) = composite.lanes.get_mut(number as usize) else { return };
        composite.reported -= u64::from(lane.state == LaneState::Reported);
        composite.open += u32::from(lane.state != LaneState::Open);
        lane.state = LaneState::Open;
        lane.cursor = lane.cursor.min(position);
        self.move_lane(parent, number);
    }

    /// A composite that failed or was cut off runs again with what it has.
    pub(crate) fn revive(&mut self, ix: InstanceIx, at: Timestamp) -> Result<(), String> {
        let has_ended = self.status.can_retry();
        let instance = self.get_mut(ix);
        if !has_ended || instance.current() == StepStatus::Pending {
            return Err("only a step of a run that has ended is revived".into());
        }
        let Detail::Composite(composite) = &mut instance.detail else {
            return Err("only a step with sub-steps is revived".into());
        };
        let done = composite.lanes.iter().position(|lane| lane.state == LaneState::Done);
        composite.winner = done.filter(|_| composite.is_race).and_then(|lane| u32::try_from(lane).ok());
        (composite.failed_by, composite.finished) = (None, false);
        (instance.status, instance.since) = (StepStatus::Running, at);
        (instance.output, instance.error, instance.completed_at) = (None, None, None);
        instance.stand_in = None;
        instance.flags = Flags {
            is_composite: true,
            is_fallback_only: instance.flags.is_fallback_only,
            called: instance.flags.called,
            ..Flags::default()
        };
        self.reopen_lane_of(ix);
        Ok(())
    }

    /// A failed step calls for its fallback.
    pub(crate) fn call_fallback(&mut self, failed: InstanceIx, fallback: InstanceIx) {
        self.get_mut(failed).stand_in = Some(fallback);
        if self.get(fallback).flags.stale {
            self.forget(fallback);
        }
        let instance = self.get_mut(fallback);
        if instance.flags.settled {
            let output = instance.output.clone();
            self.get_mut(failed).output = output;
            self.settle(failed);
            return;
        }
        instance.stands_for.push(failed);
        if !std::mem::replace(&mut instance.flags.called, true)
            && instance.flags.is_fallback_only
            && instance.place == Place::Root
        {
            self.root_open += 1;
        }
        self.agenda.push_back(Look::Step(fallback));
    }
}
