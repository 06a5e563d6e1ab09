//! Reasoning nodes: a decision is asked for with its context, and waits for an agent, a person
//! or its time.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Purpose;
use super::steps::check_size;
use crate::command::Signal;
use crate::definition::StepKind;
use crate::error::{Code, Fault, Problem, Rejected};
use crate::event::Body;
use crate::event::payload::{DecisionRequested, DecisionResolved, StepSuspended, SuspendReason};
use crate::ids::Sequence;
use crate::run::Run;
use crate::run::instance::{Detail, InstanceIx, PendingDecision};

/// Bytes of completed outputs shown beside a decision; bigger ones are left out by name.
const SHOWN_BYTES_MAX: usize = 256 * 1024;

impl Run {
    /// Asks for the decision, suspends the step, or completes it with its resolution.
    pub(super) fn go_on_reasoning(&mut self, ix: InstanceIx) {
        match &self.state.get(ix).detail {
            Detail::Decision(decision) => match &decision.resolution {
                Some(resolution) => {
                    let resolution = Value::clone(resolution);
                    self.complete(ix, resolution);
                }
                None => {
                    let due = self.state.get(ix).due();
                    let suspended = StepSuspended { reason: SuspendReason::Decision, due };
                    self.emit(Some(ix), Body::StepSuspended(suspended));
                }
            },
            Detail::None | Detail::Wait(_) | Detail::Composite(_) => {
                self.inject(ix, Vec::new());
            }
        }
    }

    /// The prompt and the injected values are known up to `had`; has the others, then asks.
    pub(super) fn inject(&mut self, ix: InstanceIx, had: Vec<Value>) {
        let definition = self.state.definition.clone();
        let StepKind::Reasoning(reasoning) = &definition.step(self.state.get(ix).spec).kind else {
            unreachable!("only reasoning nodes inject values");
        };
        let mut purpose = Purpose::Inject(had);
        let had = loop {
            let Purpose::Inject(had) = &purpose else { unreachable!("set above") };
            if had.len() > reasoning.inject.len() {
                let Purpose::Inject(had) = purpose else { unreachable!("as above") };
                break had;
            }
            match self.answer(ix, &mut purpose) {
                None => return,
                Some(Err(fault)) => return self.fail(ix, fault, false),
                Some(Ok(value)) => {
                    if let Purpose::Inject(had) = &mut purpose {
                        had.push(value);
                    }
                }
            }
        };
        let mut had = had.into_iter();
        let prompt = had.next().unwrap_or_default();
        let data: Map<String, Value> =
            reasoning.inject.iter().map(|(name, _)| name.to_string()).zip(had).collect();
        let context = json!({
            "prompt": prompt,
            "data": data,
            "steps": self.shown_outputs(ix),
            "intent": self.state.context.get("intent"),
        });
        let shown = json!([context, reasoning.options]);
        if let Err(fault) = check_size(&shown, "the decision's context with its options") {
            return self.fail(ix, fault, false);
        }
        let handle = self.handle_of(ix);
        let requested = DecisionRequested {
            decision_id: format!("{}:{}:{}", self.state.id.local(), self.state.get(ix).id, handle.attempt)
                .into(),
            context,
            options: reasoning.options.clone(),
            target_agent: reasoning.target_agent.clone(),
            fallback: reasoning.fallback.clone(),
            timeout_at: reasoning.timeout_ms.map(|ms| self.after(ms)),
        };
        self.emit(Some(ix), Body::DecisionRequested(Box::new(requested)));
    }

    /// Outputs of completed steps that the node can see, as many as fit.
    fn shown_outputs(&self, ix: InstanceIx) -> Map<String, Value> {
        use crate::expr::Scope;
        let scope = self.state.scope_of(ix);
        let mut shown = Map::new();
        let mut bytes = 0;
        for id in scope.step_ids() {
            let Some(output) = scope.step(id) else { continue };
            let added = super::size::json_bytes(output, SHOWN_BYTES_MAX).unwrap_or(usize::MAX);
            if added.saturating_add(bytes) <= SHOWN_BYTES_MAX {
                bytes += added + id.len();
                shown.insert(id.to_owned(), output.clone());
            } else if bytes < SHOWN_BYTES_MAX * 2 {
                bytes += id.len() + 64;
                shown.insert(id.to_owned(), json!({ "omitted": "too big to be shown here" }));
            }
        }
        shown
    }

    /// A decision signal: checked, then the decision is resolved.
    pub(super) fn resolve(&mut self, signal: &Signal) -> Result<Sequence, Rejected> {
        let ix = self.decision_for(signal)?;
        let step_id = self.state.get(ix).id.to_string();
        let refuse = |code, message: String| Rejected {
            step_id: Some(step_id.clone()),
            ..Rejected::new(code, message)
        };
        let Some(decision) = self.state.get(ix).pending_decision() else {
            return Err(refuse(Code::Conflict, format!("no decision is pending at step {step_id}")));
        };
        if let Some(target) = &decision.target_agent
            && signal.agent_id.as_ref() != Some(target)
        {
            return Err(refuse(Code::PermissionDenied, format!("only agent {target} may decide this")));
        }
        let (choice, data) = chosen(&signal.payload).map_err(|problem| Rejected {
            problems: vec![problem.clone()],
            ..refuse(Code::ValidationError, problem.message)
        })?;
        if !decision.options.is_empty() && !decision.options.iter().any(|o| o.id == choice) {
            let known: Vec<&str> = decision.options.iter().map(|o| o.id.as_str()).collect();
            let message = format!("{choice:?} is not an option; these are: {}", known.join(", "));
            let problems = vec![Problem::at("/payload/choice", message.clone())];
            return Err(Rejected { problems, ..refuse(Code::ValidationError, message) });
        }
        let resolution = json!({
            "choice": choice,
            "data": data,
            "reasoning": signal.reasoning,
            "resolved_by": signal.agent_id.as_deref().unwrap_or("anonymous"),
        });
        if let Err(fault) = check_size(&resolution, "the resolution") {
            return Err(refuse(Code::ValidationError, fault.message));
        }
        let signal_id = signal.signal_id.as_deref().map(Arc::from);
        self.emit_resolved(ix, resolution, false, signal_id, signal.agent_id.clone());
        Ok(self.state.sequence)
    }

    fn emit_resolved(
        &mut self,
        ix: InstanceIx,
        resolution: Value,
        timed_out: bool,
        signal_id: Option<Arc<str>>,
        agent_id: Option<Arc<str>>,
    ) {
        let instance = self.state.get(ix);
        let Some(PendingDecision { decision_id, .. }) = instance.pending_decision() else { return };
        let resolved = DecisionResolved {
            decision_id: decision_id.clone(),
            resolution: Arc::new(resolution),
            timed_out,
            due: instance.deadline,
            signal_id,
        };
        self.emit_by(Some(ix), Body::DecisionResolved(Box::new(resolved)), agent_id);
    }

    /// The step whose decision a signal means; without a step id, the only pending one.
    fn decision_for(&self, signal: &Signal) -> Result<InstanceIx, Rejected> {
        if let Some(step) = &signal.step_id {
            let matches = |ix: InstanceIx| self.state.get(ix).pending_decision().is_some();
            return self.find_step(step, matches);
        }
        let mut pending = self
            .state
            .suspended
            .iter()
            .copied()
            .filter(|&ix| self.state.get(ix).pending_decision().is_some());
        match (pending.next(), pending.next()) {
            (Some(ix), None) => Ok(ix),
            (None, _) => Err(Rejected::new(Code::Conflict, "no decision is pending in this run")),
            (Some(_), Some(_)) => Err(Rejected::new(
                Code::ValidationError,
                "several decisions are pending: name one by step_id",
            )),
        }
    }

    /// A decision's time is up: its fallback is chosen, or the step fails.
    pub(super) fn decision_timed_out(&mut self, ix: InstanceIx) {
        let Some(decision) = self.state.get(ix).pending_decision() else { return };
        match decision.fallback.clone() {
            Some(choice) => {
                let resolution =
                    json!({ "choice": choice, "data": null, "reasoning": null, "resolved_by": "system" });
                self.emit_resolved(ix, resolution, true, None, None);
            }
            None => {
                let fault =
                    Fault::new(Code::TimeoutError, "nobody decided in time, and there is no fallback");
                self.fail(ix, fault, false);
            }
        }
    }
}

/// The choice and the data of a decision signal's payload.
fn chosen(payload: &Value) -> Result<(String, Value), Problem> {
    match payload {
        Value::String(choice) => Ok((choice.clone(), Value::Null)),
        Value::Object(map) => match map.get("choice") {
            Some(Value::String(choice)) => Ok((choice.clone(), map.get("data").cloned().unwrap_or_default())),
            Some(_) => Err(Problem::at("/payload/choice", "the choice is not a string")),
            None => Err(Problem::at("/payload", "a decision needs a choice")),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Err(Problem::at("/payload", "a decision is {choice, data?} or the choice as a string"))
        }
    }
}
