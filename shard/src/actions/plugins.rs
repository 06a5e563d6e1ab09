//! `NAMESPACE.tool`: what plugins bring. Who runs them stands behind a seam: this crate knows neither
//! their protocol nor where they are registered.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use opcode_engine::catalogue::plugin_action;
use opcode_engine::{Code, Fault};
use serde_json::Value;
use tokio::sync::watch;

use super::{Call, Failure, Outcome, TIMEOUT_MS_DEFAULT, off_loop};
use crate::vault::mask::Mask;

/// A call of a plugin's tool.
pub struct ToolCall {
    /// The namespace that a plugin brings.
    pub namespace: Arc<str>,
    /// The tool's own name.
    pub tool: String,
    /// What it is given.
    pub arguments: Value,
    /// `WORKFLOW_ID/FULL_STEP_ID`.
    pub idempotency_key: String,
    /// The step's timeout; the plugin's own without it.
    pub timeout: Option<Duration>,
}

/// What came of it.
pub struct ToolAnswer {
    /// The tool's output, or why there is none.
    pub result: Result<Value, Fault>,
    /// The plugin is to blame, not the call: the circuit breaker counts it.
    pub is_outage: bool,
    /// What takes the secrets that the plugin knows out of what it gives back.
    pub mask: Option<Arc<Mask>>,
}

/// The plugins of a node.
pub trait Plugins: Send + Sync + 'static {
    /// Calls a tool, and answers in time.
    fn call(&self, call: ToolCall) -> BoxFuture<'static, ToolAnswer>;
}

/// The plugins of this node, once it has them: it starts with its shards, which may have steps for
/// them at once.
#[derive(Default)]
pub(super) struct Seam(watch::Sender<Option<Arc<dyn Plugins>>>);

impl Seam {
    pub(super) fn open(&self, plugins: Arc<dyn Plugins>) {
        self.0.send_replace(Some(plugins));
    }

    /// Runs a call of a tool.
    pub(super) async fn run(&self, call: Call) -> Result<Value, Failure> {
        let (namespace, tool) = plugin_action(&call.action).expect("whoever calls has looked");
        let timeout = call.timeout_ms.map(Duration::from_millis);
        let mut seam = self.0.subscribe();
        let open = seam.wait_for(Option::is_some);
        let limit = timeout.unwrap_or(Duration::from_millis(TIMEOUT_MS_DEFAULT));
        let plugins = match tokio::time::timeout(limit, open).await {
            Ok(Ok(plugins)) => plugins.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(plugins) = plugins else {
            let message = format!("{}: this node runs no plugins", call.action);
            return Err(Fault::new(Code::ActionUnavailable, message).into());
        };
        let call = ToolCall {
            namespace: namespace.into(),
            tool: tool.to_owned(),
            arguments: call.params.clone(),
            idempotency_key: call.idempotency_key.clone(),
            timeout,
        };
        let ToolAnswer { result, is_outage, mask } = plugins.call(call).await;
        let result = match mask {
            Some(mask) => off_loop(move || mask.outcome(Outcome::of(result)).result).await?,
            None => result,
        };
        result.map_err(|fault| Failure { fault, is_outage })
    }
}
