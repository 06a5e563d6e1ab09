//! Tools of plugins, as a node's actions call them.

use futures::future::BoxFuture;

use super::*;
use crate::actions::{Plugins, ToolAnswer, ToolCall};
use crate::vault::mask::Mask;

const CANARY: &str = "kAnary-of-a-plugin";

/// Tells all that it is given; `broken` is an outage.
struct Telling;

impl Plugins for Telling {
    fn call(&self, call: ToolCall) -> BoxFuture<'static, ToolAnswer> {
        Box::pin(async move {
            let ToolCall { namespace, tool, arguments, idempotency_key, timeout } = call;
            let is_outage = tool == "broken";
            let told = json!({"namespace": &*namespace, "tool": tool, "arguments": arguments, "key": idempotency_key,
                "timeout_ms": timeout.map(|timeout| timeout.as_millis().to_string()), "secret": CANARY});
            let failed = || Err(Fault::new(Code::ExecutionError, format!("it broke on {CANARY}")));
            let result = if is_outage { failed() } else { Ok(told) };
            let mask = Some(Arc::new(Mask::of([("K", CANARY)].into_iter())));
            ToolAnswer { result, is_outage, mask }
        })
    }
}

#[tokio::test]
async fn a_step_waits_for_plugins_and_is_told_no_secret_of_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    let mut early = call("files.read/text", json!({"path": "x"}));
    early.timeout_ms = Some(60_000);
    let early = tokio::spawn({
        let actions = actions.clone();
        async move { actions.run(early).await.result }
    });
    let mut late = call("files.read", json!({}));
    late.timeout_ms = Some(1);
    assert_eq!(actions.run(late).await.result.unwrap_err().code, Code::ActionUnavailable);
    actions.open_plugins(Arc::new(Telling));
    let told = early.await.unwrap().unwrap();
    assert_eq!((&told["namespace"], &told["tool"]), (&json!("files"), &json!("read/text")));
    assert_eq!((&told["arguments"]["path"], &told["key"]), (&json!("x"), &json!("run-1/step")));
    assert_eq!((&told["timeout_ms"], &told["secret"]), (&json!("60000"), &json!("[secret K]")));
}

#[tokio::test]
async fn outages_of_a_plugin_open_the_breaker_of_their_action() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    actions.open_plugins(Arc::new(Telling));
    for _ in 0..5 {
        let fault = run(&actions, "files.broken", json!({})).await.unwrap_err();
        assert_eq!(fault.message, "it broke on [secret K]");
    }
    assert_eq!(code(&actions, "files.broken", json!({})).await, Code::CircuitOpen);
    assert!(run(&actions, "files.well", json!({})).await.is_ok());
}
