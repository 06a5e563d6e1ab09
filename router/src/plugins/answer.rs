//! What a tool answers, as the output of a step.
//!
//! Its structured content is the output. Without it, its text is: parsed when it is JSON, as the output
//! of a command is, else as it stands; several texts are joined by line ends. Where there is more than
//! text (images, resources), the output is `{content: […]}`, as MCP has it. An answer that is an error
//! fails the step, with its text.

use opcode_engine::{Code, Fault};
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, ErrorCode};
use rmcp::service::ServiceError;
use serde_json::{Value, json};

/// What came of a call.
pub(crate) struct Answered {
    pub(crate) result: Result<Value, Fault>,
    /// The plugin is to blame, and not the call.
    pub(crate) is_outage: bool,
}

impl Answered {
    fn refused(code: Code, message: String) -> Self {
        Self { result: Err(Fault::new(code, message)), is_outage: false }
    }

    pub(crate) fn outage(code: Code, message: String) -> Self {
        Self { result: Err(Fault::new(code, message)), is_outage: true }
    }
}

/// The answer to a call of `action`.
pub(crate) fn answered(action: &str, response: Result<CallToolResponse, ServiceError>) -> Answered {
    match response {
        Ok(CallToolResponse::Complete(result)) => {
            Answered { result: output(action, result), is_outage: false }
        }
        Ok(_) => {
            let message = format!("{action} asks for more than it was given, which a step cannot answer");
            Answered::refused(Code::NonRetryable, message)
        }
        Err(ServiceError::McpError(error)) => {
            let is_of_params = error.code == ErrorCode::INVALID_PARAMS;
            let code = if is_of_params { Code::ValidationError } else { Code::ExecutionError };
            let mut answered = Answered::refused(code, format!("{action}: {}", error.message));
            answered.result = answered.result.map_err(|fault| match error.data {
                Some(data) => fault.with_details(data),
                None => fault,
            });
            answered
        }
        Err(ServiceError::UnexpectedResponse) => {
            Answered::outage(Code::ExecutionError, format!("{action}: what its plugin answers is no answer"))
        }
        Err(error) => {
            Answered::outage(Code::ExecutionError, format!("{action}: its plugin has ended: {error}"))
        }
    }
}

fn output(action: &str, result: CallToolResult) -> Result<Value, Fault> {
    let CallToolResult { content, structured_content, is_error, .. } = result;
    let texts: Option<Vec<&str>> = content.iter().map(text_of).collect();
    if is_error == Some(true) {
        let said: Vec<&str> = content.iter().filter_map(text_of).collect();
        let said =
            if said.is_empty() { "it failed, and does not say why".to_owned() } else { said.join("\n") };
        let fault = Fault::new(Code::ExecutionError, format!("{action}: {said}"));
        return Err(match structured_content {
            Some(details) => fault.with_details(details),
            None => fault,
        });
    }
    Ok(match (structured_content, texts) {
        (Some(structured), _) => structured,
        (None, Some(texts)) => {
            let text = texts.join("\n");
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        }
        (None, None) => json!({ "content": content }),
    })
}

fn text_of(block: &ContentBlock) -> Option<&str> {
    match block {
        ContentBlock::Text(text) => Some(&text.text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rmcp::model::{ServerJsonRpcMessage, ServerResult};

    use super::*;

    /// Whatever a server answers, it is an output, a fault, or no answer at all.
    #[test]
    fn damaged_answers_are_read_or_refused() {
        use rand::{Rng, SeedableRng};
        let answer = r#"{"content":[{"type":"text","text":"{\"n\":1e400}"},{"type":"image","data":"AA==",
            "mimeType":"image/png"}],"structuredContent":{"n":[1,null]},"isError":false,"_meta":{"a":1}}"#;
        let mut random = rand::rngs::StdRng::seed_from_u64(5);
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = answer.as_bytes().to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[at] = random.random(),
                    1 => _ = bytes.remove(at),
                    _ => bytes.insert(at, b"{}[]\":,\\0e-"[random.random_range(0..11)]),
                }
            }
            if let Ok(result) = serde_json::from_slice::<CallToolResult>(&bytes) {
                read += 1;
                if let Err(fault) = output("ns.tool", result) {
                    assert!(fault.message.starts_with("ns.tool: "), "{fault}");
                }
            }
        }
        assert!(read > 500, "{read} were read");
    }

    fn of(result: Value) -> Result<Value, Fault> {
        output("ns.tool", serde_json::from_value(result).expect("a result of a tool"))
    }

    #[test]
    fn structured_content_comes_before_text_and_text_may_be_json() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let both = json!({"content": [text("{\"n\":1}")], "structuredContent": {"n": 2}});
        assert_eq!(of(both).unwrap(), json!({"n": 2}));
        assert_eq!(of(json!({"content": [text("{\"n\": 1}")]})).unwrap(), json!({"n": 1}));
        assert_eq!(of(json!({"content": [text("a"), text("b")]})).unwrap(), json!("a\nb"));
        assert_eq!(of(json!({"content": []})).unwrap(), json!(""));
        let image = json!({"type": "image", "data": "AA==", "mimeType": "image/png"});
        assert_eq!(of(json!({"content": [text("a"), image]})).unwrap()["content"][1]["data"], "AA==");
    }

    #[test]
    fn numbers_keep_every_digit_on_their_way() {
        let line = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"structuredContent":
            {"n":[2.50,123456789012345678901234567890,-0.0,1e400]}}}"#;
        let message: ServerJsonRpcMessage = serde_json::from_str(line).expect("a message");
        let ServerJsonRpcMessage::Response(response) = message else { panic!("no response: {message:?}") };
        let ServerResult::CallToolResult(result) = response.result else { panic!("of no tool") };
        let read = output("ns.tool", result).unwrap().to_string();
        // An exponent is given its sign, here as everywhere.
        assert_eq!(read, r#"{"n":[2.50,123456789012345678901234567890,-0.0,1e+400]}"#);
    }

    #[test]
    fn an_error_is_told_in_its_own_words() {
        let failed = json!({"content": [{"type": "text", "text": "no such file"}], "isError": true});
        let fault = of(failed).unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (Code::ExecutionError, "ns.tool: no such file"));
        let silent = of(json!({"content": [], "isError": true})).unwrap_err();
        assert!(silent.message.contains("does not say why"));
    }

    #[test]
    fn whose_fault_it_was_is_told() {
        let wrong = rmcp::ErrorData::invalid_params("bad", None);
        let answered_ = answered("ns.tool", Err(ServiceError::McpError(wrong)));
        let fault = answered_.result.unwrap_err();
        assert_eq!((fault.code, answered_.is_outage), (Code::ValidationError, false));
        assert!(answered("ns.tool", Err(ServiceError::TransportClosed)).is_outage);
    }
}
