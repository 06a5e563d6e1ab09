//! An attempt's action made ready: its params with values in place, all but the secrets.

use std::sync::Arc;

use serde_json::{Value, json};

use super::scope::RunScope;
use super::state::State;
use crate::catalogue;
use crate::command::{Prepared, PreparedParams, StepHandle};
use crate::definition::StepKind;
use crate::error::{Code, Fault};
use crate::expr::expr::Expr;
use crate::expr::interpolate::Template;
use crate::expr::{Budget, Env, EvalError, NoJq, OwnedScope, References, Scope, Visibility};
use crate::fsm::StepStatus;

impl State {
    /// The action of an attempt; `None` when the attempt is no longer current.
    pub(crate) fn prepare(&self, handle: StepHandle) -> Option<Prepared> {
        let instance = self.instances.get(handle.instance as usize)?;
        let is_current = instance.attempt == handle.attempt
            && instance.current() == StepStatus::Running
            && !instance.flags.gone
            && !self.status.is_terminal();
        let spec = self.definition.step(instance.spec);
        let StepKind::Action { action, params, program } = &spec.kind else { return None };
        if !is_current {
            return None;
        }
        let scope = self.scope_of(handle.instance);
        let mut program = program.clone();
        let rendered = rendered(action, params, &mut program, &scope);
        let data = match &rendered {
            PreparedParams::Ready(value) => value.get("data").cloned(),
            PreparedParams::Costly { .. } | PreparedParams::Failed(_) => None,
        };
        let program = program.map(|program| {
            let mut read = scope.owned(program.references());
            read.data = data.map(Arc::new);
            (program, Arc::new(read))
        });
        Some(Prepared {
            step_id: instance.id.clone(),
            action: action.clone(),
            params: rendered,
            timeout_ms: spec.timeout_ms,
            idempotency_key: format!("{}/{}", self.id, instance.id),
            program,
            secrets: params.has_secrets().then(|| params.clone()),
        })
    }
}

/// Params with values in place, or what is left to do for them.
fn rendered(
    action: &str,
    params: &Arc<Template>,
    program: &mut Option<Arc<Expr>>,
    scope: &RunScope<'_>,
) -> PreparedParams {
    // Refused since; a definition that is older may still have it.
    let refuses = catalogue::find_any(action).filter(|known| params.has_secrets() && !known.takes_secrets);
    if let Some(refuses) = refuses {
        return PreparedParams::Failed(Fault::new(Code::ValidationError, refuses.no_secret()));
    }
    match params.render(scope, Budget::INLINE, &NoJq) {
        Ok(value) => match complete(action, value, program, scope) {
            Ok(value) => PreparedParams::Ready(value),
            Err(fault) => PreparedParams::Failed(fault),
        },
        Err(EvalError::OverBudget | EvalError::NeedsWorker) => PreparedParams::Costly {
            template: params.clone(),
            // jq without `data` reads everything: what a worker adds when it has rendered.
            scope: Arc::new(if action == "jq" {
                scope.owned(&References { all_steps: true, ..References::default() })
            } else {
                scope.owned(params.references())
            }),
        },
        Err(EvalError::Failed { message, column }) => {
            let error = EvalError::Failed { message, column };
            PreparedParams::Failed(Fault::new(Code::InterpolationError, format!("the params: {error}")))
        }
    }
}

/// What two actions read beside their params: `expr.eval` a program that only now is known, `jq`
/// without `data` the whole scope.
fn complete(
    action: &str,
    mut params: Value,
    program: &mut Option<Arc<Expr>>,
    scope: &RunScope<'_>,
) -> Result<Value, Fault> {
    if action == "expr.eval"
        && program.is_none()
        && let Some(source) = params.get("expression").and_then(Value::as_str)
    {
        let everything = |_: &str| Visibility::Visible;
        let env = Env { step: &everything, in_loop: scope.item().is_some(), has_data: true };
        let compiled = Expr::compile(source, &env).map_err(|problems| {
            let message = problems.first().map_or_else(String::new, |p| p.message.clone());
            Fault::new(Code::ValidationError, format!("the expression: {message}"))
        })?;
        *program = Some(Arc::new(compiled));
    }
    if action == "jq"
        && let Some(map) = params.as_object_mut()
        && !map.contains_key("data")
    {
        let all = scope.owned(&References { all_steps: true, ..References::default() });
        map.insert("data".into(), whole(&all));
    }
    Ok(params)
}

/// The scope as one value: `{steps, inputs, workflow, context, loop}`, what jq reads without `data`.
pub fn whole(scope: &OwnedScope) -> Value {
    let steps: serde_json::Map<String, Value> =
        scope.steps.iter().map(|(id, output)| (id.to_string(), Value::clone(output))).collect();
    let mut whole = json!({
        "steps": steps,
        "inputs": &*scope.inputs,
        "workflow": &*scope.workflow,
        "context": &*scope.context,
    });
    if let Some((item, index)) = &scope.item {
        whole["loop"] = json!({ "item": &**item, "index": index });
    }
    whole
}
