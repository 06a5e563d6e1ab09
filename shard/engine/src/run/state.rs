//! The state of a run: what its events say, indexed so that each next move is found at once.
//!
//! Everything here is a function of the events but the agenda, which is a list of places where
//! something may follow: looking at one where nothing follows does no harm, and a recovery
//! makes it anew by looking everywhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::instance::{Flags, Hook, Instance, InstanceIx, LaneState, Mail, Place, RUN_ITSELF};
use crate::child::Parent;
use crate::definition::{Definition, SpecIx, StepKind};
use crate::error::{Code, Fault};
use crate::event::payload::WorkflowStarted;
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::{RunNo, Sequence, Timestamp, WorkflowId};
use crate::namespace::local;

/// How a run is to end, decided but not yet written as its last event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    Completed,
    Failed(Fault),
    Cancelled { reason: Option<String>, agent_id: Option<Arc<str>> },
}

/// A place where something may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Step(InstanceIx),
    Lane(InstanceIx, u32),
    Run,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKind {
    /// The end of a wait or of a decision's time.
    Work,
    /// The end of an attempt's time.
    Deadline,
    /// The run's timeout or `start_at`.
    Run,
}

/// The fold of a run's events.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) no: RunNo,
    pub(crate) id: WorkflowId,
    pub(crate) definition: Arc<Definition>,
    pub(crate) template: Option<Arc<str>>,
    pub(crate) version: Option<Arc<str>>,
    pub(crate) agent_id: Option<Arc<str>>,
    pub(crate) labels: BTreeMap<String, String>,
    /// The run that started it.
    pub(crate) parent: Option<Box<Parent>>,
    pub(crate) body_hash: Option<u64>,
    pub(crate) request: Option<u64>,
    pub(crate) params: Arc<Value>,
    pub(crate) context: Arc<Value>,
    /// The root `workflow` of expressions.
    pub(crate) workflow: Arc<Value>,
    pub(crate) status: WorkflowStatus,
    /// Suspended until an operator says so.
    pub(crate) held: bool,
    pub(crate) attempt: u32,
    pub(crate) sequence: Sequence,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    /// Time of the last event.
    pub(crate) last_at: Timestamp,
    /// The run's own timer.
    pub(crate) due: Option<Timestamp>,
    pub(crate) output: Option<Arc<Value>>,
    pub(crate) error: Option<Arc<Fault>>,
    pub(crate) ending: Option<Ending>,
    /// It ends without compensation and hook.
    pub(crate) forced: bool,
    pub(crate) instances: Vec<Instance>,
    pub(crate) by_id: HashMap<Arc<str>, InstanceIx>,
    /// Top-level instance of each spec, [`RUN_ITSELF`] where there is none.
    pub(crate) root_of: Vec<InstanceIx>,
    pub(crate) hooks: [Option<InstanceIx>; 2],
    /// Top-level steps that are not done and have to be.
    pub(crate) root_open: u32,
    /// Steps that will move by themselves.
    pub(crate) moving: u32,
    /// Steps that wait for the outside.
    pub(crate) suspended: BTreeSet<InstanceIx>,
    /// Completed steps that have a compensation, in that order.
    pub(crate) compensable: Vec<InstanceIx>,
    pub(crate) timers: BTreeSet<(Timestamp, InstanceIx, TimerKind)>,
    /// Rests before a retry; apart, since a held run leaves them.
    pub(crate) rests: BTreeSet<(Timestamp, InstanceIx)>,
    pub(crate) mailbox: Vec<Mail>,
    /// Signals by their `signal_id`, and the events that recorded them.
    pub(crate) delivered: BTreeMap<Arc<str>, Sequence>,
    pub(crate) agenda: VecDeque<Look>,
}

/// Data signals that are kept until something waits for them.
pub(crate) const MAILBOX_MAX: usize = 1_000;

impl State {
    /// The state after `workflow_started`, the first event.
    pub(crate) fn new(
        no: RunNo,
        id: WorkflowId,
        definition: Arc<Definition>,
        started: &WorkflowStarted,
        at: Timestamp,
    ) -> Self {
        let active = started.status == WorkflowStatus::Active;
        let mut state = Self {
            no,
            id,
            definition,
            template: started.template.clone(),
            version: started.version.clone(),
            agent_id: started.agent_id.clone(),
            labels: started.labels.clone(),
            parent: started.parent.clone(),
            body_hash: started.body_hash,
            request: started.request,
            params: started.params.clone(),
            context: Arc::new(started.context.clone()),
            workflow: Arc::new(Value::Null),
            status: started.status,
            held: false,
            attempt: 1,
            sequence: Sequence(1),
            created_at: at,
            started_at: active.then_some(at),
            completed_at: None,
            last_at: at,
            due: None,
            output: None,
            error: None,
            ending: None,
            forced: false,
            instances: Vec::new(),
            by_id: HashMap::new(),
            root_of: Vec::new(),
            hooks: [None; 2],
            root_open: 0,
            moving: 0,
            suspended: BTreeSet::new(),
            compensable: Vec::new(),
            timers: BTreeSet::new(),
            rests: BTreeSet::new(),
            mailbox: Vec::new(),
            delivered: BTreeMap::new(),
            agenda: VecDeque::new(),
        };
        state.set_due(started.due);
        state.show_workflow();
        state.place_top_level();
        if active {
            state.look_everywhere();
        }
        state
    }

    pub(crate) fn get(&self, ix: InstanceIx) -> &Instance {
        &self.instances[ix as usize]
    }

    pub(crate) fn get_mut(&mut self, ix: InstanceIx) -> &mut Instance {
        &mut self.instances[ix as usize]
    }

    /// Makes an instance for every top-level step and hook that has none yet, and counts anew
    /// what each waits for.
    pub(crate) fn place_top_level(&mut self) {
        let definition = self.definition.clone();
        self.root_of = vec![RUN_ITSELF; definition.steps.len()];
        for &spec in &definition.root {
            let id = definition.step(spec).id.clone();
            let ix = self.named(&id).unwrap_or_else(|| self.create(id, spec, Place::Root));
            self.root_of[spec.0 as usize] = ix;
        }
        let hooks = [(Hook::OnComplete, definition.on_complete), (Hook::OnError, definition.on_error)];
        for (slot, (hook, spec)) in hooks.into_iter().enumerate() {
            self.hooks[slot] = spec.map(|spec| {
                let prefix = match hook {
                    Hook::OnComplete => "on_complete",
                    Hook::OnError => "on_error",
                };
                let id: Arc<str> = format!("{prefix}.{}", definition.step(spec).id).into();
                self.named(&id).unwrap_or_else(|| self.create(id, spec, Place::Hook(hook)))
            });
        }
        self.count_dependencies();
    }

    /// Counts anew what each top-level step waits for, and what the run waits for.
    pub(crate) fn count_dependencies(&mut self) {
        let definition = self.definition.clone();
        self.root_open = 0;
        for &spec in &definition.root {
            let ix = self.root_of[spec.0 as usize];
            let deps = &definition.step(spec).depends_on;
            let settled = |d: &&SpecIx| self.get(self.root_of[d.0 as usize]).flags.settled;
            let met = deps.iter().filter(settled).count();
            let instance = self.get_mut(ix);
            instance.unmet = u32::try_from(deps.len() - met).expect("a definition bounds its steps");
            let flags = instance.flags;
            if !flags.settled && (!flags.is_fallback_only || flags.called) {
                self.root_open += 1;
            }
        }
    }

    /// The instance of this full id, if it is of the present definition.
    pub(crate) fn named(&self, id: &str) -> Option<InstanceIx> {
        self.by_id.get(id).copied().filter(|&ix| !self.get(ix).flags.gone)
    }

    /// A new pending instance. What one of the same id left in an earlier round is shown on until
    /// this one begins, and its attempts go on counting.
    pub(crate) fn create(&mut self, id: Arc<str>, spec: SpecIx, place: Place) -> InstanceIx {
        let step = self.definition.step(spec);
        let flags = Flags {
            is_composite: is_composite(&step.kind),
            is_fallback_only: step.is_fallback_only,
            ..Flags::default()
        };
        let ix = InstanceIx::try_from(self.instances.len()).expect("a run's events bound its instances");
        let mut instance = Instance::new(id.clone(), spec, place, flags, self.last_at);
        if let Some(&earlier) = self.by_id.get(&id) {
            let earlier = self.get_mut(earlier);
            earlier.flags.gone = true;
            instance.flags.stale = true;
            instance.status = earlier.status;
            (instance.attempt, instance.uncounted) = (earlier.attempt, earlier.attempt);
            (instance.started_at, instance.completed_at) = (earlier.started_at, earlier.completed_at);
            (instance.output, instance.error) = (earlier.output.clone(), earlier.error.clone());
        }
        self.instances.push(instance);
        self.by_id.insert(id, ix);
        ix
    }

    /// Puts every place where something may follow on the agenda.
    pub(crate) fn look_everywhere(&mut self) {
        self.agenda.clear();
        for ix in 0..self.instances.len() {
            let instance = &self.instances[ix];
            if instance.flags.gone || instance.flags.stale && !matches!(instance.place, Place::Root) {
                continue;
            }
            let ix = InstanceIx::try_from(ix).expect("as counted");
            let is_ready = instance.unmet == 0 || instance.flags.called;
            if is_ready || instance.current() != StepStatus::Pending {
                self.agenda.push_back(Look::Step(ix));
            }
            if instance.current() == StepStatus::Running
                && let Some(composite) = instance.composite()
            {
                for (lane, state) in composite.lanes.iter().map(|l| l.state).enumerate() {
                    if state != LaneState::Reported {
                        let lane = u32::try_from(lane).expect("as counted");
                        self.agenda.push_back(Look::Lane(ix, lane));
                    }
                }
            }
        }
        self.agenda.push_back(Look::Run);
    }

    /// Makes the value of the root `workflow` anew.
    pub(crate) fn show_workflow(&mut self) {
        let mut shown = json!({
            "run_id": self.id.local(),
            "id": self.id.local(),
            "template": self.template.as_deref().map(local),
            "version": self.version,
            "started_at": self.started_at.map(Timestamp::to_rfc3339),
            "attempt": self.attempt,
        });
        if let Some(Ending::Failed(error)) = &self.ending {
            shown["error"] = json!(error);
        }
        self.workflow = Arc::new(shown);
    }

    /// Decides how the run ends; the first decision stands. A suspended run that fails still
    /// starts nothing, its compensations neither; one that is cancelled does.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.held &= !matches!(ending, Ending::Cancelled { .. });
        if self.ending.is_none() {
            self.ending = Some(ending);
            self.set_due(None);
            self.show_workflow();
        }
        self.agenda.push_back(Look::Run);
    }

    pub(crate) fn set_due(&mut self, due: Option<Timestamp>) {
        if let Some(old) = self.due {
            self.timers.remove(&(old, RUN_ITSELF, TimerKind::Run));
        }
        self.due = due;
        if let Some(due) = due {
            self.timers.insert((due, RUN_ITSELF, TimerKind::Run));
        }
    }

    /// Sets both timers of a step; `rests`: its timer is a rest before a retry.
    pub(crate) fn set_timers(
        &mut self,
        ix: InstanceIx,
        deadline: Option<Timestamp>,
        timer: Option<Timestamp>,
        rests: bool,
    ) {
        let instance = &mut self.instances[ix as usize];
        let old = (instance.deadline, instance.timer);
        (instance.deadline, instance.timer) = (deadline, timer);
        if let Some(at) = old.0 {
            self.timers.remove(&(at, ix, TimerKind::Deadline));
        }
        if let Some(at) = old.1 {
            self.timers.remove(&(at, ix, TimerKind::Work));
            self.rests.remove(&(at, ix));
        }
        if let Some(at) = deadline {
            self.timers.insert((at, ix, TimerKind::Deadline));
        }
        match timer {
            Some(at) if rests => {
                self.rests.insert((at, ix));
            }
            Some(at) => {
                self.timers.insert((at, ix, TimerKind::Work));
            }
            None => {}
        }
    }

    /// Moves a step to `to`, if its state machine allows it.
    pub(crate) fn set_status(&mut self, ix: InstanceIx, to: StepStatus, at: Timestamp) -> Result<(), String> {
        let instance = &self.instances[ix as usize];
        let from = instance.current();
        if !from.can_pass_to(to) {
            return Err(format!("step {} cannot go from {} to {}", instance.id, from.as_str(), to.as_str()));
        }
        if instance.flags.stale {
            self.forget(ix);
        }
        self.moving -= u32::from(self.moves(ix));
        let instance = &mut self.instances[ix as usize];
        instance.status = to;
        instance.since = at;
        self.moving += u32::from(self.moves(ix));
        if to == StepStatus::Suspended {
            self.suspended.insert(ix);
        } else if from == StepStatus::Suspended {
            self.suspended.remove(&ix);
        }
        Ok(())
    }

    /// Whether a step will move by itself: a composite does so only through its sub-steps.
    fn moves(&self, ix: InstanceIx) -> bool {
        let instance = &self.instances[ix as usize];
        match instance.current() {
            StepStatus::Running => !instance.flags.is_composite,
            StepStatus::Retrying => true,
            StepStatus::Pending
            | StepStatus::Scheduled
            | StepStatus::Completed
            | StepStatus::Failed
            | StepStatus::Suspended
            | StepStatus::Skipped => false,
        }
    }

    /// Forgets what an earlier round of a step left; its attempts go on counting.
    pub(crate) fn forget(&mut self, ix: InstanceIx) {
        self.set_timers(ix, None, None, false);
        self.moving -= u32::from(self.moves(ix));
        self.suspended.remove(&ix);
        let last_at = self.last_at;
        let instance = &mut self.instances[ix as usize];
        let fresh = Instance::new(
            instance.id.clone(),
            instance.spec,
            instance.place,
            Flags {
                is_composite: instance.flags.is_composite,
                is_fallback_only: instance.flags.is_fallback_only,
                ..Flags::default()
            },
            last_at,
        );
        let attempt = instance.attempt;
        *instance = Instance { attempt, uncounted: attempt, unmet: instance.unmet, ..fresh };
    }

    /// Marks all below a composite as of an earlier round.
    pub(crate) fn discard_children(&mut self, ix: InstanceIx) {
        let mut stack = vec![ix];
        let mut any_compensable = false;
        while let Some(ix) = stack.pop() {
            let Some(composite) = self.get(ix).composite() else { continue };
            let lanes = composite.lanes.clone();
            for child in lanes.iter().flat_map(|lane| lane.first..lane.first + lane.count) {
                self.moving -= u32::from(self.moves(child));
                self.suspended.remove(&child);
                self.set_timers(child, None, None, false);
                let instance = self.get_mut(child);
                any_compensable |= instance.flags.settled;
                instance.flags = Flags { stale: true, settled: false, called: false, ..instance.flags };
                stack.push(child);
            }
        }
        if any_compensable {
            let instances = &self.instances;
            self.compensable.retain(|&c| !instances[c as usize].flags.stale);
        }
    }
}

/// Whether a step consists of sub-steps.
pub(crate) fn is_composite(kind: &StepKind) -> bool {
    match kind {
        StepKind::Condition { .. }
        | StepKind::Loop { .. }
        | StepKind::All { .. }
        | StepKind::Race { .. }
        | StepKind::Map { .. } => true,
        StepKind::Action { .. } | StepKind::Wait(_) | StepKind::Reasoning(_) => false,
    }
}

/// The run-level fault of a step whose retries are used up.
pub(crate) fn run_fault(error: &Fault, exhausted: bool, attempts: u32) -> Fault {
    if !exhausted {
        return error.clone();
    }
    let step = error.step_id.as_deref().unwrap_or("?");
    Fault {
        code: Code::RetryExhausted,
        message: format!("step {step} failed after {attempts} attempts: {}", error.message),
        details: json!({ "error": error }),
        step_id: error.step_id.clone(),
    }
}
