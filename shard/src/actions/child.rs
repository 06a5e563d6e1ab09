//! `workflow.run`: what its params ask for. Starting the child is the shard's, which sends it to
//! the shard that owns it.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::Fault;
use opcode_engine::child::ACTION;
use serde_json::{Map, Value};

use super::params::Params;

/// A child as a step asks for it.
#[derive(Debug, PartialEq)]
pub(crate) struct ChildSpec {
    pub(crate) template: String,
    /// The newest without it.
    pub(crate) version: Option<u32>,
    pub(crate) params: Value,
    /// Whether the step waits for the child's end.
    pub(crate) waits: bool,
    pub(crate) agent_id: Option<Arc<str>>,
    pub(crate) context: Map<String, Value>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Reads the params of a `workflow.run`.
pub(crate) fn child_of(params: &Value) -> Result<ChildSpec, Fault> {
    let params = Params::new(ACTION, params);
    let object = |name: &str| match params.given(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(_) => Err(params.invalid(name, "must be an object")),
    };
    let mut labels = BTreeMap::new();
    for (name, value) in object("labels")? {
        let Value::String(text) = value else {
            return Err(params.invalid("labels", "must be an object of texts"));
        };
        labels.insert(name, text);
    }
    Ok(ChildSpec {
        template: params.require_str("template_name")?.to_owned(),
        version: version(&params)?,
        params: object("params")?.into(),
        waits: params.bool("wait", true)?,
        agent_id: params.str("agent_id")?.map(Arc::from),
        context: object("context")?,
        labels,
    })
}

/// `"v3"`, `"3"` or `3`; empty and `latest` are the newest.
fn version(params: &Params<'_>) -> Result<Option<u32>, Fault> {
    let wrong = || params.invalid("version", "is `v1`, `v2`, …");
    match params.given("version") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() || text == "latest" => Ok(None),
        Some(Value::String(text)) => {
            let digits = text.strip_prefix('v').unwrap_or(text);
            let is_number = digits.bytes().all(|b| b.is_ascii_digit());
            match digits.parse::<u32>() {
                Ok(version) if version > 0 && is_number => Ok(Some(version)),
                Ok(_) | Err(_) => Err(wrong()),
            }
        }
        Some(Value::Number(number)) => {
            let version = number.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
            version.map(Some).ok_or_else(wrong)
        }
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use opcode_engine::Code;
    use serde_json::json;

    use super::*;

    #[test]
    fn both_spellings_and_all_forms_of_a_version_are_taken() {
        let least = child_of(&json!({"template": "t"})).unwrap();
        assert_eq!((least.template.as_str(), least.version, least.waits), ("t", None, true));
        assert_eq!(least.params, json!({}));
        for (version, wanted) in
            [(json!("v3"), Some(3)), (json!("3"), Some(3)), (json!(3), Some(3)), (json!("latest"), None)]
        {
            let spec = child_of(&json!({"template_name": "t", "version": version, "wait": false})).unwrap();
            assert_eq!((spec.version, spec.waits), (wanted, false));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for params in [
            json!({}),
            json!({"template_name": "t", "version": "v0"}),
            json!({"template_name": "t", "version": 1.5}),
            json!({"template_name": "t", "params": [1]}),
            json!({"template_name": "t", "labels": {"a": 1}}),
            json!({"template_name": "t", "wait": "soon"}),
        ] {
            let fault = child_of(&params).unwrap_err();
            assert_eq!(fault.code, Code::ValidationError, "{params}");
        }
    }
}
