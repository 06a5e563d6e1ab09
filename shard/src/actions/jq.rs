//! `jq`: a filter over `data`, run by the pool of jq processes and never in this one.

use opcode_engine::expr::{EvalError, JqRunner, SOURCE_BYTES_MAX};
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};

use super::params::Params;

/// One output is `{result}`, several are `{results}`, none is `{result: null}`.
pub(super) fn run(params: Params<'_>, runner: &dyn JqRunner) -> Result<Value, Fault> {
    let filter = params.require_str("filter")?;
    if filter.len() > SOURCE_BYTES_MAX {
        return Err(params.invalid("filter", &format!("is over {SOURCE_BYTES_MAX} bytes")));
    }
    let input = params.given("data").unwrap_or(&Value::Null);
    let mut results = runner.run(filter, input).map_err(|e| match e {
        EvalError::NeedsWorker => Fault::new(Code::ActionUnavailable, "jq: this node has no jq worker"),
        EvalError::Failed { .. } | EvalError::OverBudget => {
            Fault::new(Code::ExecutionError, format!("jq: {e}"))
        }
    })?;
    match results.len() {
        0 => Ok(json!({"result": null})),
        1 => Ok(json!({"result": results.remove(0)})),
        _ => Ok(json!({"results": results})),
    }
}
