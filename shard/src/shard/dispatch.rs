//! From a committed decision to the world: pure steps in place, the others by workers.

use std::sync::Arc;
use std::time::SystemTime;

use opcode_engine::child;
use opcode_engine::command::{Command, Effect, Emission, PreparedParams, StepHandle};
use opcode_engine::expr::interpolate::Template;
use opcode_engine::expr::{Budget, EvalError, OwnedScope};
use opcode_engine::ids::{RunNo, ShardId};
use opcode_engine::namespace::Namespace;
use opcode_engine::{Code, Fault};
use serde_json::Value;

use super::commit::Release;
use super::{Inbox, Loop};
use crate::actions::{Actions, Call, Outcome};
use crate::meters;
use crate::planted;
use crate::trace::{self, Span, SpanKind, TRACEPARENT, TraceParent};
use crate::vault::Vault;
use crate::workers::Workers;
use crate::workers::pool::Permit;

/// Pure steps that one run may take in one turn; the rest follow in later turns.
const PURE_STEPS_PER_TURN: usize = 128;

/// An attempt made ready: what to call, and what is left to render for it.
pub(super) struct Job {
    pub(super) call: Call,
    pub(super) costly: Option<(Arc<Template>, Arc<OwnedScope>)>,
    /// What names the secrets that its params want.
    pub(super) secrets: Option<Arc<Template>>,
    /// What it is a part of, if its run belongs to a trace.
    parent: Option<TraceParent>,
    shard: ShardId,
}

/// An attempt in a worker, from begin to end: what is measured of it, and its span.
struct Attempt {
    action: Arc<str>,
    begun: (tokio::time::Instant, SystemTime),
    own: Option<TraceParent>,
    parent: Option<TraceParent>,
    attributes: Vec<(&'static str, String)>,
}

impl Attempt {
    /// It begins: the call learns what it is in its trace.
    fn begin(job: &mut Job) -> Self {
        let own = job.parent.map(TraceParent::child);
        job.call.trace = own;
        let is_kept = trace::is_on() && own.is_some_and(|own| own.is_sampled);
        let attributes = match is_kept {
            true => vec![
                ("opcode.workflow_id", job.call.workflow_id.clone()),
                ("opcode.step_id", job.call.step_id.to_string()),
                ("opcode.shard", job.shard.to_string()),
            ],
            false => Vec::new(),
        };
        let begun = (tokio::time::Instant::now(), SystemTime::now());
        Self { action: job.call.action.clone(), begun, own, parent: job.parent, attributes }
    }

    fn ended(self, result: &Result<Value, Fault>) {
        let Self { action, begun: (begun, at), own, parent, attributes } = self;
        meters::attempted(&action, begun.elapsed(), result);
        let Some(own) = own else { return };
        trace::ended(own, || Span {
            own,
            parent: parent.map(|parent| parent.span_id),
            kind: if action.starts_with("http.") { SpanKind::Client } else { SpanKind::Internal },
            name: action.to_string(),
            begun: at,
            ended: at + begun.elapsed(),
            attributes,
            error: result.as_ref().err().map(|fault| fault.code.to_string()),
        });
    }
}

impl Loop {
    /// Takes a run's new effects: pure steps run in place and may bring up more, steps with side
    /// effects wait for the commit of what they rest on.
    pub(super) fn take_effects(&mut self, no: RunNo) {
        let mut pure_left = PURE_STEPS_PER_TURN;
        loop {
            let Some(slot) = self.runs.slots.get_mut(&no) else { return };
            let effects = slot.run.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Execute { handle, is_pure: true, .. } if pure_left > 0 => {
                        pure_left -= 1;
                        self.run_pure(no, handle);
                    }
                    Effect::Execute { handle, is_pure: true, .. } => {
                        self.step_out(no);
                        self.continuing.push_back((no, handle));
                    }
                    Effect::Execute { handle, is_pure: false, action } => {
                        let release = match &*action {
                            child::ACTION => Release::Child(no, handle),
                            _ => Release::Step(no, handle),
                        };
                        self.after_commit(no, release);
                    }
                    Effect::Evaluate { handle, template, scope } => {
                        self.evaluate(no, handle, template, scope)
                    }
                    Effect::Abandon(handle) => {
                        if let Some(task) = self.tasks.remove(&(no, handle)) {
                            task.abort();
                            self.step_done(no, handle);
                        }
                    }
                }
            }
        }
    }

    fn step_out(&mut self, no: RunNo) {
        if let Some(slot) = self.runs.slots.get_mut(&no) {
            slot.steps_out += 1;
        }
    }

    fn after_commit(&mut self, no: RunNo, release: Release) {
        self.step_out(no);
        let after = self.runs.slots[&no].last_portion;
        let position = self.committer.position();
        if let Some(release) = self.committer.release_after(after, release) {
            self.release(release, position);
        }
    }

    /// Runs a pure step in place; one that turns out to be costly goes to a worker.
    fn run_pure(&mut self, no: RunNo, handle: StepHandle) {
        let Some(job) = self.job(no, handle) else { return };
        let outcome = match job {
            Ok(Job { call, costly: None, secrets: None, .. }) => self.workers.actions().run_pure(&call),
            // No secret comes into the loop.
            Ok(Job { costly: Some(_), .. } | Job { secrets: Some(_), .. }) => None,
            Err(fault) => Some(Outcome { result: Err(fault), emissions: Vec::new() }),
        };
        let Some(outcome) = outcome else {
            self.after_commit(no, Release::Step(no, handle));
            return;
        };
        let Outcome { result, emissions } = outcome;
        let slot = self.runs.slots.get_mut(&no).expect("its step has just been prepared");
        match slot.run.handle(Command::Finished { handle, result, emissions }, self.now) {
            Ok(decision) => self.gather(no, decision),
            Err(rejected) => tracing::error!(shard = %self.id, ?rejected, "a pure step's result was refused"),
        }
    }

    /// Takes up the pure steps that were left for this turn.
    pub(super) fn continue_pure(&mut self) {
        for _ in 0..self.continuing.len() {
            let Some((no, handle)) = self.continuing.pop_front() else { break };
            self.step_done(no, handle);
            self.run_pure(no, handle);
            self.settle(no);
        }
    }

    /// Gives the first ready step to a worker, and as many more as there is room for.
    pub(super) fn dispatch(&mut self, permit: Permit) {
        self.start_next(permit);
        self.dispatch_ready();
    }

    /// Whether steps may be started: not when stopping, and not when another may lead by now.
    pub(super) fn may_start(&self) -> bool {
        !self.draining && (self.group.has_quorum() || planted::is("deposed-leader-starts-steps"))
    }

    pub(super) fn dispatch_ready(&mut self) {
        while !self.ready.is_empty() && self.may_start() {
            let Some(permit) = self.workers.try_permit() else { break };
            self.start_next(permit);
        }
    }

    fn start_next(&mut self, permit: Permit) {
        let Some((no, handle)) = self.ready.pop_front() else { return };
        let Some(job) = self.job(no, handle) else {
            // Cancelled or timed out while it waited.
            self.step_done(no, handle);
            return;
        };
        let mut job = match job {
            Ok(job) => job,
            Err(fault) => {
                self.send_result(no, handle, Outcome { result: Err(fault), emissions: Vec::new() });
                return;
            }
        };
        let workers = self.workers.clone();
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        let task = tokio::spawn(async move {
            let attempt = Attempt::begin(&mut job);
            let Outcome { result, emissions } = work(&workers, job).await;
            drop(permit);
            attempt.ended(&result);
            let command = Command::Finished { handle, result, emissions };
            // A loop that is gone leaves the step to its successor.
            let _ = inbox.send(Inbox::Result { no, handle, epoch, command });
        });
        self.tasks.insert((no, handle), task.abort_handle());
    }

    fn send_result(&self, no: RunNo, handle: StepHandle, outcome: Outcome) {
        let Outcome { result, emissions } = outcome;
        let command = Command::Finished { handle, result, emissions };
        // This loop holds the receiving end itself.
        let _ = self.inbox_in.send(Inbox::Result { no, handle, epoch: self.epoch, command });
    }

    /// The attempt, ready to be called; `None` when it is no longer current.
    pub(super) fn job(&self, no: RunNo, handle: StepHandle) -> Option<Result<Job, Fault>> {
        let slot = self.runs.slots.get(&no)?;
        let prepared = slot.run.prepare(handle)?;
        let (params, costly) = match prepared.params {
            PreparedParams::Ready(params) => (params, None),
            PreparedParams::Costly { template, scope } => (Value::Null, Some((template, scope))),
            PreparedParams::Failed(fault) => return Some(Err(fault)),
        };
        let call = Call {
            action: prepared.action,
            params,
            idempotency_key: prepared.idempotency_key,
            timeout_ms: prepared.timeout_ms,
            workflow_id: slot.run.id().to_string(),
            step_id: prepared.step_id,
            program: prepared.program,
            trace: None,
            mask: None,
        };
        let parent = slot.run.context().get(TRACEPARENT).and_then(|text| TraceParent::parse(text.as_str()?));
        Some(Ok(Job { call, costly, secrets: prepared.secrets, parent, shard: self.id }))
    }

    /// Evaluates in a worker what was too costly for the loop. It has no side effect, so it need
    /// not wait for a commit.
    fn evaluate(&mut self, no: RunNo, handle: StepHandle, template: Arc<Template>, scope: Arc<OwnedScope>) {
        self.step_out(no);
        let workers = self.workers.clone();
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        let task = tokio::spawn(async move {
            let permit = workers.evaluation().await;
            let result = render(workers.actions(), template, scope).await;
            drop(permit);
            let command = Command::Evaluated { handle, result };
            // A loop that is gone leaves the evaluation to its successor.
            let _ = inbox.send(Inbox::Result { no, handle, epoch, command });
        });
        self.tasks.insert((no, handle), task.abort_handle());
    }
}

/// Renders what is left to render, puts secrets in, then runs the action.
async fn work(workers: &Workers, mut job: Job) -> Outcome {
    let failed = |fault| Outcome { result: Err(fault), emissions: Vec::<Emission>::new() };
    if let Some((template, scope)) = job.costly.take() {
        match render(workers.actions(), template, scope.clone()).await {
            Ok(params) => job.call.params = with_data(&job.call.action, params, &scope),
            Err(fault) => return failed(fault),
        }
    }
    if let Some(template) = job.secrets.take()
        && let Err(fault) = put_secrets(workers.vault(), &template, &mut job.call).await
    {
        return failed(fault);
    }
    workers.actions().run(job.call).await
}

/// Puts the values of secrets into a call's params, which nobody but the action sees from here on,
/// and with them the mask for what comes back.
async fn put_secrets(vault: &Vault, template: &Template, call: &mut Call) -> Result<(), Fault> {
    let secrets = vault.resolve(&Namespace::of(&call.workflow_id), &template.secrets()).await?;
    template
        .render_secrets(&mut call.params, &mut |key: &str| Ok::<_, Fault>(secrets.value(key).to_owned()))?;
    call.mask = Some(Arc::new(secrets.mask()));
    Ok(())
}

/// `jq` without `data` reads the whole scope.
fn with_data(action: &str, mut params: Value, scope: &OwnedScope) -> Value {
    if action == "jq"
        && let Some(map) = params.as_object_mut()
        && !map.contains_key("data")
    {
        map.insert("data".into(), opcode_engine::run::whole(scope));
    }
    params
}

/// Renders with a worker's budget, on a thread that may block.
pub(super) async fn render(
    actions: &Arc<Actions>,
    template: Arc<Template>,
    scope: Arc<OwnedScope>,
) -> Result<Value, Fault> {
    let actions = actions.clone();
    let rendered =
        crate::simulation::blocking(move || template.render(scope.as_ref(), Budget::WORKER, actions.jq()))
            .await;
    match rendered {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error @ (EvalError::Failed { .. } | EvalError::OverBudget | EvalError::NeedsWorker))) => {
            Err(Fault::new(Code::InterpolationError, error.to_string()))
        }
        Err(panic) => Err(Fault::new(Code::InterpolationError, format!("the evaluation panicked: {panic}"))),
    }
}
