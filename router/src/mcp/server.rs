//! The MCP server that one client meets: lists the tools, calls them, and tells the client what its
//! agents are notified of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderValue, header, request};
use opcode_engine::namespace::Namespace;
use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CustomRequest, CustomResult,
    ErrorCode, Implementation, ListToolsResult, PaginatedRequestParams, PingRequest, ServerCapabilities,
    ServerConfig, ServerRequest, Tool,
};
#[expect(
    deprecated,
    reason = "what clients of sessions listen for; revisions without sessions have none"
)]
use rmcp::model::{LoggingLevel, LoggingMessageNotificationParam, SetLevelRequestParams};
use rmcp::service::{Peer, PeerRequestOptions, RequestContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::calls::{self, Told};
use super::contract::Contract;
use super::fields::{Caller, encoded, problem};
use super::notices::{Notice, Notices};
use super::tools::{ToolName, described};
use crate::access;
use crate::access::remote::Remote;
use crate::agents::{AGENT, CLIENT_BYTES_MAX, is_name};
use crate::error::ApiError;
use crate::namespace;
use crate::wire::unknown;

/// Agents that one client may listen for.
const AGENTS_MAX: usize = 16;
/// How often a client that listens over HTTP is asked whether it still does.
const PING_EVERY: Duration = Duration::from_secs(120);
/// Longest wait for it to say so, and for it to take a notice.
const CLIENT_MAX: Duration = Duration::from_secs(30);
/// The header that names a session.
pub(super) const SESSION: &str = "mcp-session-id";

/// What all clients of one node share.
pub(super) struct Shared {
    contract: Arc<dyn Contract>,
    notices: Arc<Notices>,
    tools: Vec<Tool>,
    version: String,
}

impl Shared {
    pub(super) fn new(contract: Arc<dyn Contract>, version: String) -> Arc<Self> {
        let notices = Notices::new(Arc::clone(&contract));
        Arc::new(Self { contract, notices, tools: described(), version })
    }
}

/// The server of one client: of a session, of the process's stdio, or of a single request.
pub(super) struct Server {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    listening: Mutex<Option<AbortHandle>>,
}

/// Whom a client listens for.
struct Listener {
    /// Each in a namespace; in all that there are to hear of, over stdio.
    agents: Mutex<BTreeSet<(Option<Namespace>, String)>>,
    /// The client wants notices, which are of the level `info`.
    wants_notices: AtomicBool,
}

impl Listener {
    fn listens_for(&self, notice: &Notice) -> bool {
        let agents = self.agents.lock();
        let is_in = |namespace| agents.contains(&(namespace, notice.agent_id.clone()));
        is_in(None) || is_in(Some(notice.namespace.clone()))
    }
}

/// The namespace that a request over HTTP is in.
fn namespace_of(parts: &request::Parts) -> Option<Namespace> {
    parts.extensions.get::<access::Caller>().map(|caller| caller.namespace().clone())
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let listener = Listener { agents: Mutex::default(), wants_notices: AtomicBool::new(true) };
        Self { shared, listener: Arc::new(listener), listening: Mutex::new(None) }
    }

    /// The client speaks for an agent: from now on it is told what that one is notified of.
    async fn listen_for(&self, agent_id: &str, context: &RequestContext<RoleServer>) {
        let http = context.extensions.get::<request::Parts>();
        // A request of its own is answered and gone: there is nobody to tell anything.
        let is_alone = http.is_some_and(|parts| !parts.headers.contains_key(SESSION));
        if is_alone {
            return;
        }
        {
            let mut agents = self.listener.agents.lock();
            if agents.len() < AGENTS_MAX {
                agents.insert((http.and_then(namespace_of), agent_id.to_owned()));
            }
        }
        if self.listening.lock().as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let notices = self.shared.notices.subscribe().await;
        let listening = listen(notices, Arc::clone(&self.listener), context.peer.clone(), http.is_some());
        let task = tokio::spawn(listening).abort_handle();
        if let Some(other) = self.listening.lock().replace(task) {
            other.abort();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.listening.lock().take() {
            task.abort();
        }
    }
}

/// Tells a client what its agents are notified of, for as long as it is there.
async fn listen(
    mut notices: broadcast::Receiver<Arc<Notice>>,
    listener: Arc<Listener>,
    client: Peer<RoleServer>,
    is_http: bool,
) {
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            // A session that nobody is behind any more is not to be kept alive by its notices.
            _ = pings.tick(), if is_http => match is_there(&client).await {
                true => continue,
                false => return,
            },
        };
        let notice = match notice {
            Ok(notice) => notice,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "an MCP client is too slow for its notices");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let is_wanted = listener.wants_notices.load(Ordering::Relaxed) && listener.listens_for(&notice);
        if is_wanted && !tell(&client, &notice).await {
            return;
        }
    }
}

async fn is_there(client: &Peer<RoleServer>) -> bool {
    let ping = ServerRequest::PingRequest(PingRequest::default());
    let options = PeerRequestOptions::with_timeout(CLIENT_MAX);
    match client.send_request_with_option(ping, options).await {
        Ok(asked) => asked.await_response().await.is_ok(),
        Err(_gone) => false,
    }
}

/// False when the client does not take it.
async fn tell(client: &Peer<RoleServer>, notice: &Notice) -> bool {
    #[expect(deprecated, reason = "see above")]
    let told = {
        let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, notice.document.clone());
        client.notify_logging_message(message.with_logger("opcode"))
    };
    tokio::time::timeout(CLIENT_MAX, told).await.is_ok_and(|told| told.is_ok())
}

/// Refuses an agent where the token is another's.
fn may_speak_for(context: &RequestContext<RoleServer>, agent_id: &str) -> Result<(), ApiError> {
    let parts = context.extensions.get::<request::Parts>();
    match parts.and_then(|parts| parts.extensions.get::<access::Caller>()) {
        Some(caller) => caller.speaks_for(Some(agent_id.into())).map(drop),
        // Over stdio the token is the command's, and counts where it is shown.
        None => Ok(()),
    }
}

/// What of the client's request counts for the calls that are made for it: its token, its namespace and
/// its trace, the agent that it speaks for, and what it calls itself.
fn caller_headers(context: &RequestContext<RoleServer>, agent_id: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let client = context
        .peer
        .peer_info()
        .map(|info| format!("{}/{}", info.client_info.name, info.client_info.version));
    // What is no header's text is left out, and what is long is cut: nothing rests on it.
    let client = client.map(|text| text.chars().take(CLIENT_BYTES_MAX).collect::<String>());
    let client = client.and_then(|text| HeaderValue::try_from(text).ok());
    let agent_id = agent_id.and_then(|id| HeaderValue::try_from(encoded(id)).ok());
    headers.extend(client.map(|client| (header::USER_AGENT, client)));
    headers.extend(agent_id.map(|id| (header::HeaderName::from_static(AGENT), id)));
    if let Some(parts) = context.extensions.get::<request::Parts>() {
        let [trace, namespace] = ["traceparent", namespace::HEADER].map(header::HeaderName::from_static);
        for name in [header::AUTHORIZATION, trace, namespace] {
            headers.extend(parts.headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    headers
}

fn answered(outcome: Result<Told, Value>) -> CallToolResult {
    match outcome {
        Ok(Told { text, structured }) => {
            let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
            result.structured_content = Some(structured);
            result
        }
        // As text alone: what is structured has to be what the tool's schema of answers says.
        Err(problem) => CallToolResult::error(vec![ContentBlock::text(problem.to_string())]),
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        #[expect(deprecated, reason = "see above")]
        let capabilities = ServerCapabilities::builder().enable_tools().enable_logging().build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("opcode", self.shared.version.clone()))
            .with_instructions(
                "OPCODE runs durable workflows. Define a template with opcode.define, start it with \
                 opcode.run, look at it with opcode.status. A run that is `suspended` waits for somebody: \
                 answer its pending decisions with opcode.signal. opcode.query finds what there is, \
                 opcode.diagram draws it. A tool that fails answers with a problem document: `code` says \
                 what is wrong, `errors` where; with `applied` \"no\" nothing was done, with \"unknown\" \
                 repeat the call with the same id.",
            )
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.shared.tools.clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = ToolName::parse(&request.name) else {
            let names = ToolName::ALL.map(ToolName::as_str);
            return Err(ErrorData::invalid_params(unknown("tool", &request.name, &names), None));
        };
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let agent_id = arguments["agent_id"].as_str().filter(|id| is_name(id));
        if let Some(agent_id) = agent_id {
            if let Err(refused) = may_speak_for(&context, agent_id) {
                return Ok(answered(Err(problem(&refused))).into());
            }
            self.listen_for(agent_id, &context).await;
        }
        let headers = caller_headers(&context, agent_id);
        let arguments = arguments.to_string();
        let parts = context.extensions.get::<request::Parts>();
        let from = parts.and_then(|parts| parts.extensions.get::<ConnectInfo<Remote>>()).map(|info| info.0);
        let caller = Caller { contract: &*self.shared.contract, headers, from };
        tokio::select! {
            outcome = calls::call(tool, &arguments, &caller) => Ok(answered(outcome).into()),
            // Who has taken its request back is not answered; what was asked for may have been done.
            () = context.ct.cancelled() => Err(ErrorData::internal_error("the request was taken back", None)),
        }
    }

    #[expect(deprecated, reason = "see above")]
    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let wants_notices = matches!(request.level, LoggingLevel::Debug | LoggingLevel::Info);
        self.listener.wants_notices.store(wants_notices, Ordering::Relaxed);
        Ok(())
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        // A call that cannot be read as one comes here, like methods that there are not.
        if request.method == "tools/call" {
            let what = "tools/call takes `name`, a string, and `arguments`, an object";
            return Err(ErrorData::invalid_params(what, None));
        }
        let what = format!("there is no method `{}`", crate::wire::shortened(&request.method));
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, what, None))
    }
}
