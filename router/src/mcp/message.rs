//! A message as it comes in, on either transport: one JSON object of JSON-RPC, with no key twice and
//! no nesting without end. What is none is refused with an error of JSON-RPC that says why.

use rmcp::model::ClientJsonRpcMessage;
use serde_json::{Value, json};

use crate::strict;
use crate::wire::check_syntax;

/// JSON-RPC: not JSON.
const PARSE_ERROR: i32 = -32_700;
/// JSON-RPC: JSON that is no message.
const INVALID_REQUEST: i32 = -32_600;

/// A message that was read.
pub(super) struct Message {
    pub(super) message: ClientJsonRpcMessage,
    /// It asks for a session.
    pub(super) is_initialize: bool,
}

/// Reads a message; if it is none, gives the answer to it.
pub(super) fn read(bytes: &[u8]) -> Result<Message, Value> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(refusal(PARSE_ERROR, &Value::Null, "not UTF-8"));
    };
    if let Err(error) = check_syntax(text) {
        return Err(refusal(PARSE_ERROR, &Value::Null, error.detail()));
    }
    let refuse = |id: &Value, detail: &str| Err(refusal(INVALID_REQUEST, id, detail));
    if !text.trim_start().starts_with('{') {
        let what = "a message is one object; a batch is not taken: send each message by itself";
        return refuse(&Value::Null, what);
    }
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return refuse(&Value::Null, &format!("cannot be read: {error}")),
    };
    let id = match &value["id"] {
        id @ (Value::String(_) | Value::Number(_)) => id.clone(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Value::Null,
    };
    if let Some(first) = strict::duplicate_keys(text).first() {
        return refuse(&id, &format!("{} {}", first.pointer, first.message));
    }
    let is_initialize = value["method"] == "initialize";
    match serde_json::from_value::<ClientJsonRpcMessage>(value) {
        Ok(message) => Ok(Message { message, is_initialize }),
        Err(_) => refuse(
            &id,
            "not a message of JSON-RPC 2.0: give `jsonrpc`, `method` and, in a request, `id` and `params`",
        ),
    }
}

/// An error of JSON-RPC.
pub(super) fn refusal(code: i32, id: &Value, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// The refusal of a message that is longer than it may be.
pub(super) fn too_long(bytes_max: usize) -> Value {
    refusal(INVALID_REQUEST, &Value::Null, &format!("a message has at most {bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn refused(text: &str) -> (i64, String) {
        let Err(answer) = read(text.as_bytes()) else { panic!("taken: {text:.200}") };
        (answer["error"]["code"].as_i64().unwrap(), answer["error"]["message"].as_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_no_message_is_told_why() {
        assert_eq!(refused("{").0, -32_700);
        assert_eq!(refused("").0, -32_700);
        assert!(refused("{\n oops}").1.contains("line 2 column 2"));
        assert!(refused(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#).1.contains("batch"));
        assert_eq!(refused("7").0, -32_600);
        assert_eq!(refused(r#"{"id":1,"method":"ping"}"#).0, -32_600);
        assert_eq!(refused(r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#).0, -32_600);
        let twice = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1,"a":2}}"#;
        assert_eq!(refused(twice).1, "/params/a is given more than once");
        for bracket in ["[", "{\"a\":"] {
            let close = if bracket == "[" { "]" } else { "}" };
            let deep = format!("{}1{}", bracket.repeat(100_000), close.repeat(100_000));
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{deep}}}}}"#);
            assert!(refused(&text).1.contains("recursion limit"));
        }
    }

    #[test]
    fn damaged_messages_are_read_or_refused() {
        let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"opcode.run","arguments":
            {"template_name":"a","params":{"n":1e400,"s":"\u00e9\n"}},"_meta":{"progressToken":1}}}"#;
        let mut random = StdRng::seed_from_u64(6);
        for _ in 0..20_000 {
            let mut bytes = call.as_bytes().to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[at] = random.random(),
                    1 => _ = bytes.remove(at),
                    _ => bytes.insert(at, b"{}[]\":,\\0e-"[random.random_range(0..11)]),
                }
            }
            match read(&bytes) {
                Ok(read) => assert!(!read.is_initialize),
                Err(answer) => assert!(answer["error"]["code"].is_i64(), "{answer}"),
            }
        }
    }

    #[test]
    fn a_refusal_names_the_request() {
        let Err(answer) = read(br#"{"id":"seven","method":7}"#) else { panic!("taken") };
        assert_eq!(answer["id"], "seven");
        let Err(answer) = read(br#"{"id":{"a":1},"method":7}"#) else { panic!("taken") };
        assert_eq!(answer["id"], Value::Null);
    }

    #[test]
    fn messages_are_read() {
        let initialize = br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":
            "2025-06-18","capabilities":{},"clientInfo":{"name":"a","version":"1"}}}"#;
        assert!(read(initialize).is_ok_and(|read| read.is_initialize));
        let ping = br#" {"jsonrpc":"2.0","id":"a","method":"ping"}"#;
        assert!(read(ping).is_ok_and(|read| !read.is_initialize));
        assert!(read(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).is_ok());
        assert!(read(b"\xff{}").is_err());
    }
}
