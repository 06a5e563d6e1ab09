//! From a tool's arguments to calls of the contract: fields are read as strictly as bodies are, go on
//! as the raw text that they came as, and what the contract says of them is told by the tool's names.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method};
use opcode_engine::Problem;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::contract::{Answer, Call, Contract, Unreachable};
use crate::access::remote::Remote;
use crate::error::{ApiError, Applied};
use crate::wire::{Fields, invalid, shortened};

/// Longest path with its query, in bytes: less than what HTTP takes.
const PATH_BYTES_MAX: usize = 32 * 1024;

/// A JSON object.
pub(super) type Object = Map<String, Value>;
/// A problem document, when it fails.
pub(super) type Outcome<T> = Result<T, Value>;

/// Who calls a tool, and the way from there to the contract.
pub(super) struct Caller<'a> {
    pub(super) contract: &'a dyn Contract,
    pub(super) headers: HeaderMap,
    pub(super) from: Option<Remote>,
}

impl Caller<'_> {
    /// `GET`, an object.
    pub(super) async fn get(&self, path: String) -> Outcome<Object> {
        object(&self.ask(Method::GET, path, None).await?)
    }

    /// `GET`, text.
    pub(super) async fn text(&self, path: String) -> Outcome<String> {
        let body = self.ask(Method::GET, path, None).await?;
        String::from_utf8(body.to_vec()).map_err(|_| unreadable("it is not UTF-8"))
    }

    /// `POST` of an object, an object.
    pub(super) async fn post(&self, path: String, body: String) -> Outcome<Object> {
        object(&self.ask(Method::POST, path, Some(body)).await?)
    }

    async fn ask(&self, method: Method, path: String, body: Option<String>) -> Outcome<Bytes> {
        if path.len() > PATH_BYTES_MAX {
            let what = "the arguments are too long for a call that asks for something";
            return Err(refuse(vec![Problem::at("", what)]));
        }
        let reads = method == Method::GET;
        match self
            .contract
            .call(Call { method, path, body, caller: self.headers.clone(), from: self.from })
            .await
        {
            Ok(Answer { status: 200..300, body }) => Ok(body),
            Ok(Answer { status, body }) => Err(refused(status, &body)),
            Err(Unreachable { was_sent, detail }) => {
                let applied = if reads || !was_sent { Applied::No } else { Applied::Unknown };
                Err(problem(&ApiError::unavailable(applied, detail)))
            }
        }
    }
}

fn object(body: &[u8]) -> Outcome<Object> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error.to_string()))
}

fn unreadable(why: &str) -> Value {
    problem(&ApiError::unavailable(Applied::Unknown, format!("the answer cannot be read: {why}")))
}

/// The problem document of a call that was refused; who is no node of ours may answer without one.
fn refused(status: u16, body: &[u8]) -> Value {
    match serde_json::from_slice::<Value>(body) {
        Ok(document) if document["code"].is_string() => document,
        Ok(_) | Err(_) => {
            let text = shortened(&String::from_utf8_lossy(body));
            let detail = format!("the node answered {status}: {text}");
            problem(&ApiError::unavailable(Applied::Unknown, detail))
        }
    }
}

/// An error of the tool itself as the contract would show it.
pub(super) fn problem(error: &ApiError) -> Value {
    let trace_id = Uuid::now_v7().simple().to_string();
    serde_json::to_value(error.document(&trace_id)).expect("a problem document is JSON")
}

/// A refusal of these arguments.
pub(super) fn refuse(problems: Vec<Problem>) -> Value {
    problem(&invalid(problems))
}

/// Ends the reading of arguments: what was never asked for is unknown.
pub(super) fn done(fields: Fields<'_>) -> Outcome<()> {
    fields.done().map_err(|error| problem(&error))
}

/// A problem document with the contract's names of fields replaced by the tool's.
pub(super) fn renamed(mut document: Value, names: &[(&str, &str)]) -> Value {
    let rename = |pointer: &str| {
        names.iter().find_map(|(from, to)| {
            let rest = pointer.strip_prefix(from)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{to}{rest}"))
        })
    };
    let mut told: Vec<(String, String)> = Vec::new();
    for error in document.get_mut("errors").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(pointer) = error["pointer"].as_str() else { continue };
        let Some(new) = rename(pointer) else { continue };
        told.push((format!("{pointer}: "), format!("{new}: ")));
        error["pointer"] = new.into();
    }
    if let (Some((old, new)), Some(detail)) = (told.first(), document["detail"].as_str()) {
        document["detail"] = detail.replacen(old, new, 1).into();
    }
    document
}

/// An argument that must be there.
pub(super) fn required<'a>(fields: &mut Fields<'a>, name: &'static str, what: &str) -> Option<&'a RawValue> {
    let raw = fields.raw(name);
    if raw.is_none() {
        fields.problem(name, format!("is missing: {what}"));
    }
    raw
}

/// A name that must be there, to stand in a path.
pub(super) fn required_name(fields: &mut Fields<'_>, name: &'static str, what: &str) -> Option<String> {
    required(fields, name, what)?;
    fields.name(name)
}

/// An argument that is one of some words; without it, nothing.
pub(super) fn word(
    fields: &mut Fields<'_>,
    name: &'static str,
    words: &[&'static str],
) -> Option<&'static str> {
    let text = fields.string(name)?;
    let found = words.iter().find(|word| **word == text).copied();
    if found.is_none() {
        fields.problem(name, crate::wire::unknown("value", &text, words));
    }
    found
}

/// An object of those fields that are given.
pub(super) fn body(entries: &[(&str, Option<&RawValue>)]) -> String {
    let given: std::collections::BTreeMap<&str, &RawValue> =
        entries.iter().filter_map(|(name, raw)| Some((*name, (*raw)?))).collect();
    serde_json::to_string(&given).expect("raw values are JSON")
}

/// Text as one segment of a path or one value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The path of a workflow.
pub(super) fn workflow(id: &str) -> String {
    format!("/v1/workflows/{}", encoded(id))
}

/// A path with its query; values that are `None` are left out.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> = parameters
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_deref()?))))
        .collect();
    if given.is_empty() { path.to_owned() } else { format!("{path}?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_are_told_by_the_tools_names() {
        let document = json!({"detail": "2 problems, the first: /type: unknown", "errors": [
            {"pointer": "/type", "message": "unknown"}, {"pointer": "/typed/x", "message": "m"},
            {"pointer": "/params/type", "message": "m"}]});
        let renamed = renamed(document, &[("/type", "/signal_type")]);
        assert_eq!(renamed["detail"], "2 problems, the first: /signal_type: unknown");
        let pointers: Vec<_> = renamed["errors"].as_array().unwrap().iter().map(|e| &e["pointer"]).collect();
        assert_eq!(pointers, ["/signal_type", "/typed/x", "/params/type"]);
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_told_as_one() {
        assert_eq!(refused(404, br#"{"code":"NOT_FOUND"}"#), json!({"code": "NOT_FOUND"}));
        let other = refused(502, b"<html>bad gateway");
        assert_eq!((&other["code"], &other["applied"]), (&json!("UNAVAILABLE"), &json!("unknown")));
        assert!(other["detail"].as_str().unwrap().contains("502: <html>"));
    }
}
