//! Expressions inside decisions: at once when they are cheap, by a worker when they are not, and
//! the same goes on from either.

use std::sync::Arc;

use serde_json::Value;

use super::steps::check_size;
use crate::command::{Effect, StepHandle};
use crate::definition::{LoopMode, Over, StepKind, StepSpec, WaitFor};
use crate::error::{Code, Fault};
use crate::event::Body;
use crate::event::payload::{ConditionEvaluated, SkipReason};
use crate::expr::cel::Cel;
use crate::expr::interpolate::Template;
use crate::expr::jq::Jq;
use crate::expr::{Budget, EvalError, NoJq};
use crate::fsm::StepStatus;
use crate::run::Run;
use crate::run::instance::{InstanceIx, RUN_ITSELF};
use crate::run::scope::RunScope;

/// What a value is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Purpose {
    /// A step's guard.
    Guard,
    /// Which branch a condition takes.
    Branch,
    /// What a `for_each` or a map goes over.
    Over,
    /// Whether a `while` or `until` goes on.
    Check,
    /// How long a wait takes.
    Wait,
    /// A decision's prompt, then its injected values; those had so far.
    Inject(Vec<Value>),
    /// The run's output.
    Output,
}

/// What is evaluated.
enum Asked<'a> {
    Cel(&'a Cel),
    Jq(&'a Jq),
    Template(&'a Template),
    Items(&'a [Value]),
}

impl Run {
    /// Has the value for `purpose`, now or later, and goes on with it.
    pub(super) fn ask(&mut self, ix: InstanceIx, purpose: Purpose) {
        let mut purpose = purpose;
        if let Some(result) = self.answer(ix, &mut purpose) {
            self.have(ix, purpose, result);
        }
    }

    /// The value for `purpose`, or `None` when a worker was asked for it; then `purpose` is taken.
    pub(super) fn answer(&mut self, ix: InstanceIx, purpose: &mut Purpose) -> Option<Result<Value, Fault>> {
        let definition = self.state.definition.clone();
        let spec = definition.step(self.state.get(ix).spec);
        let asked = expression(spec, purpose);
        let scope = self.scope_for(ix, purpose);
        let answer = match &asked {
            Asked::Cel(cel) => cel.eval(&scope, Budget::INLINE),
            Asked::Jq(_) => Err(EvalError::NeedsWorker),
            Asked::Template(template) => template.render(&scope, Budget::INLINE, &NoJq),
            Asked::Items(items) => Ok(Value::Array(items.to_vec())),
        };
        match answer {
            Ok(value) => Some(Ok(value)),
            Err(EvalError::Failed { message, column }) => {
                let error = EvalError::Failed { message, column };
                Some(Err(Fault::new(code_of(purpose), format!("{}: {error}", name_of(purpose)))))
            }
            Err(EvalError::OverBudget | EvalError::NeedsWorker) => {
                let template = Arc::new(match asked {
                    Asked::Cel(cel) => Template::from_cel(cel.clone()),
                    Asked::Jq(jq) => Template::from_jq(jq.clone()),
                    Asked::Template(template) => template.clone(),
                    Asked::Items(_) => unreachable!("a literal costs nothing"),
                });
                let scope = Arc::new(scope.owned(template.references()));
                if self.state.get(ix).current() != StepStatus::Running {
                    self.start_step(ix, true);
                }
                self.work.asked.insert(ix, std::mem::replace(purpose, Purpose::Guard));
                let handle = self.handle_of(ix);
                self.work.effects.push(Effect::Evaluate { handle, template, scope });
                None
            }
        }
    }

    /// A worker's answer. One that nothing waits for is none.
    pub(super) fn evaluated(&mut self, handle: StepHandle, result: Result<Value, Fault>) {
        let ix = handle.instance;
        if ix == RUN_ITSELF {
            if handle.attempt == self.state.attempt && self.work.asked.remove(&ix).is_some() {
                self.have_output(result);
            }
            return;
        }
        let current = self.state.instances.get(ix as usize);
        let is_current = current.is_some_and(|instance| {
            instance.attempt == handle.attempt && instance.current() == StepStatus::Running
        });
        if is_current
            && !self.state.status.is_terminal()
            && let Some(purpose) = self.work.asked.remove(&ix)
        {
            self.have(ix, purpose, result);
        }
    }

    /// Goes on with a value, or with why there is none.
    fn have(&mut self, ix: InstanceIx, purpose: Purpose, result: Result<Value, Fault>) {
        let value = match result {
            Ok(value) => value,
            Err(fault) => {
                let is_guard = purpose == Purpose::Guard;
                if self.state.get(ix).current() != StepStatus::Running {
                    self.start_step(ix, false);
                }
                // The same log gives the same guard: another attempt would fail as this one.
                return if is_guard { self.fail_for_good(ix, fault) } else { self.fail(ix, fault, false) };
            }
        };
        match purpose {
            Purpose::Guard => self.have_guard(ix, &value),
            Purpose::Branch => self.have_branch(ix, value),
            Purpose::Over => self.have_items(ix, value),
            Purpose::Check => self.have_check(ix, &value),
            Purpose::Wait => self.have_wait(ix, &value),
            Purpose::Inject(mut had) => {
                had.push(value);
                self.inject(ix, had);
            }
            Purpose::Output => unreachable!("the run's output is no step's"),
        }
    }

    fn have_guard(&mut self, ix: InstanceIx, value: &Value) {
        let is_running = self.state.get(ix).current() == StepStatus::Running;
        match value {
            Value::Bool(false) => self.skip(ix, SkipReason::Condition),
            Value::Bool(true) if is_running => {
                let evaluated = ConditionEvaluated { value: Value::Bool(true), branch: None };
                self.emit(Some(ix), Body::ConditionEvaluated(evaluated));
            }
            Value::Bool(true) => {
                self.start_step(ix, false);
                self.go_on(ix);
            }
            other => {
                if !is_running {
                    self.start_step(ix, false);
                }
                self.fail_for_good(ix, not_a(&Purpose::Guard, "true or false", other));
            }
        }
    }

    fn scope_for(&self, ix: InstanceIx, purpose: &Purpose) -> RunScope<'_> {
        if *purpose != Purpose::Check {
            return self.state.scope_of(ix);
        }
        // A loop's condition sees the steps of the iteration that has just ended.
        let lanes = self.state.get(ix).composite().map_or(0, |c| c.lanes.len());
        let last = u32::try_from(lanes.saturating_sub(1)).expect("a run's events bound its lanes");
        self.state.scope_in(ix, last)
    }

    /// Has the run's output, now or later, and goes on with it.
    pub(super) fn ask_output(&mut self, template: &Template) {
        if self.work.asked.contains_key(&RUN_ITSELF) {
            return;
        }
        let scope = self.state.scope_of_run();
        match template.render(&scope, Budget::INLINE, &NoJq) {
            Ok(value) => self.have_output(Ok(value)),
            Err(EvalError::Failed { message, column }) => {
                let error = EvalError::Failed { message, column };
                let fault = Fault::new(Code::InterpolationError, format!("the run's output: {error}"));
                self.have_output(Err(fault));
            }
            Err(EvalError::OverBudget | EvalError::NeedsWorker) => {
                let scope = Arc::new(scope.owned(template.references()));
                let handle = StepHandle { instance: RUN_ITSELF, attempt: self.state.attempt };
                self.work.asked.insert(RUN_ITSELF, Purpose::Output);
                let template = Arc::new(template.clone());
                self.work.effects.push(Effect::Evaluate { handle, template, scope });
            }
        }
    }

    /// The run's output, or why there is none, which fails the run.
    pub(super) fn have_output(&mut self, result: Result<Value, Fault>) {
        let checked = result.and_then(|value| check_size(&value, "the run's output").map(|()| value));
        match checked {
            Ok(value) => {
                self.work.output = Some(Arc::new(value));
                self.state.agenda.push_back(crate::run::state::Look::Run);
            }
            Err(fault) => self.fail_run(fault, false),
        }
    }
}

/// The fault of a value of the wrong type.
pub(super) fn not_a(purpose: &Purpose, wanted: &str, value: &Value) -> Fault {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Fault::new(code_of(purpose), format!("{} is {found}, not {wanted}", name_of(purpose)))
}

fn code_of(purpose: &Purpose) -> Code {
    match purpose {
        Purpose::Guard | Purpose::Branch | Purpose::Over | Purpose::Check => Code::ExecutionError,
        Purpose::Wait | Purpose::Inject(_) | Purpose::Output => Code::InterpolationError,
    }
}

fn name_of(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Guard => "the step's condition",
        Purpose::Branch => "the expression",
        Purpose::Over => "what the step goes over",
        Purpose::Check => "the loop's condition",
        Purpose::Wait => "what the step waits for",
        Purpose::Inject(_) => "the decision's context",
        Purpose::Output => "the run's output",
    }
}

/// The expression of a step that gives the value for `purpose`.
fn expression<'a>(spec: &'a StepSpec, purpose: &Purpose) -> Asked<'a> {
    match (purpose, &spec.kind) {
        (Purpose::Guard, _) => Asked::Cel(spec.guard.as_ref().expect("asked for only where there is one")),
        (Purpose::Branch, StepKind::Condition { expression, .. }) => Asked::Cel(expression),
        (
            Purpose::Over,
            StepKind::Loop { mode: LoopMode::ForEach(over), .. } | StepKind::Map { over, .. },
        ) => match over {
            Over::Cel(cel) => Asked::Cel(cel),
            Over::Jq(jq) => Asked::Jq(jq),
            Over::Literal(items) => Asked::Items(items),
            Over::Template(template) => Asked::Template(template),
        },
        (Purpose::Check, StepKind::Loop { mode: LoopMode::While(cel) | LoopMode::Until(cel), .. }) => {
            Asked::Cel(cel)
        }
        (Purpose::Wait, StepKind::Wait(WaitFor::Duration(template) | WaitFor::UntilTemplate(template))) => {
            Asked::Template(template)
        }
        (Purpose::Inject(had), StepKind::Reasoning(reasoning)) => {
            Asked::Template(had.len().checked_sub(1).map_or(&reasoning.prompt, |i| &reasoning.inject[i].1))
        }
        (purpose, kind) => unreachable!("{purpose:?} is asked of {kind:?}"),
    }
}
