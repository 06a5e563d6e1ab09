//! One plugin on one node: its process from start to end, again and again.
//!
//! A process that has started and told its tools is *ready*. It is asked for a sign of life every
//! [`PING_EVERY`]; one that gives none, floods, or ends is *failed*, and is started again after a pause
//! that doubles each time, until it has been ready for a while. What is called meanwhile is refused at
//! once; what is called while it starts waits.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opcode_engine::Code;
use opcode_engine::namespace::Namespace;
use opcode_shard::isolation::{Isolation, Program, Running, own_folder};
use opcode_shard::vault::Vault;
use opcode_shard::vault::mask::Mask;
use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest, Implementation,
    PaginatedRequestParams, PingRequest, Tool,
};
use rmcp::service::{NotificationContext, Peer, RoleClient, ServiceError, serve_client};
use rmcp::transport::async_rw::AsyncRwTransport;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::ChildStderr;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::{Answered, answered};
use super::guarded::{Guarded, MESSAGE_BYTES_MAX};
use super::registered::{Plugin, Restart};
use super::status::{State, Status, ToolInfo};

/// Longest time from the start of a process to its tools: some fetch themselves first.
const START_MAX: Duration = Duration::from_secs(60);
/// How often a process is asked for a sign of life, and how long it has for one.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_MAX: Duration = Duration::from_secs(10);
/// The first pause before a process is started again, the longest, and how long one must have been
/// ready for the next pause to be the first again.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const STEADY: Duration = Duration::from_secs(60);
/// Pages of tools, and tools, at most.
const PAGES_MAX: usize = 100;
const TOOLS_MAX: usize = 2_000;
/// What is kept of the last that a process said on stderr, in bytes; longest wait for its last words.
const SAID_BYTES_MAX: usize = 8 * 1_024;
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);
/// Under which key of a request's `_meta` a tool finds what names the attempt.
const IDEMPOTENCY_KEY: &str = "opcode/idempotency_key";

/// What all plugins of a node share.
pub(super) struct Home {
    pub(super) isolation: Arc<Isolation>,
    pub(super) vault: Arc<Vault>,
    /// Where each has its folder.
    pub(super) scratch: PathBuf,
}

/// A plugin that this node runs; its process ends with it.
pub(super) struct Process {
    pub(super) plugin: Arc<Plugin>,
    stage: watch::Receiver<Stage>,
    status: Arc<Mutex<Status>>,
    task: tokio::task::JoinHandle<()>,
}

/// How far a plugin has come.
#[derive(Clone)]
enum Stage {
    Starting,
    Ready(Arc<Ready>),
    Failed(Arc<str>),
}

/// A process that takes calls.
struct Ready {
    peer: Peer<RoleClient>,
    tools: Vec<ToolInfo>,
    mask: Arc<Mask>,
}

/// A call, and what came of it with what hides the plugin's secrets in it.
pub(super) struct Called {
    pub(super) answered: Answered,
    pub(super) mask: Option<Arc<Mask>>,
}

impl Process {
    /// Starts it, and keeps it going.
    pub(super) fn start(plugin: Arc<Plugin>, home: Arc<Home>) -> Self {
        let (stage_in, stage) = watch::channel(Stage::Starting);
        let status = Arc::new(Mutex::new(Status::starting()));
        let keeper = Keeper { plugin: plugin.clone(), home, stage: stage_in, status: status.clone() };
        Self { plugin, stage, status, task: tokio::spawn(keeper.run()) }
    }

    pub(super) fn status(&self) -> Status {
        self.status.lock().clone()
    }

    pub(super) fn caller(&self) -> Caller {
        Caller { plugin: self.plugin.clone(), stage: self.stage.clone() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What calls a plugin's tools.
pub(super) struct Caller {
    plugin: Arc<Plugin>,
    stage: watch::Receiver<Stage>,
}

impl Caller {
    /// Calls a tool within `limit`, the start of the process included.
    pub(super) async fn call(mut self, tool: &str, arguments: Value, key: String, limit: Duration) -> Called {
        let action = format!("{}.{tool}", self.plugin.registered.namespace);
        let unmasked = |answered| Called { answered, mask: None };
        let late = || {
            let limit_ms = limit.as_millis();
            Answered::outage(Code::TimeoutError, format!("{action} took longer than {limit_ms} ms"))
        };
        let deadline = Instant::now() + limit;
        let begun = self.stage.wait_for(|stage| !matches!(stage, Stage::Starting));
        let begun = match tokio::time::timeout_at(deadline, begun).await {
            Ok(Ok(stage)) => stage.clone(),
            Ok(Err(_)) => Stage::Failed("it was removed".into()),
            Err(_) => return unmasked(late()),
        };
        let ready = match begun {
            Stage::Ready(ready) => ready,
            Stage::Failed(why) => {
                let message = format!("{action}: the plugin {} is not running: {why}", self.plugin.name);
                return unmasked(Answered::outage(Code::ActionUnavailable, message));
            }
            Stage::Starting => unreachable!("it was waited for"),
        };
        let answered = if ready.tools.iter().any(|known| known.name == tool) {
            let params = params_of(tool, arguments, key);
            match tokio::time::timeout_at(deadline, ready.peer.call_tool_once(params)).await {
                Ok(response) => answered(&action, response),
                Err(_) => late(),
            }
        } else {
            no_tool(&action, &ready.tools)
        };
        Called { answered, mask: Some(ready.mask.clone()) }
    }
}

fn params_of(tool: &str, arguments: Value, key: String) -> CallToolRequestParams {
    let mut params = CallToolRequestParams::new(tool.to_owned());
    let Value::Object(meta) = json!({ IDEMPOTENCY_KEY: key }) else { unreachable!("as written") };
    params.meta = Some(meta.into());
    if let Value::Object(arguments) = arguments {
        params.arguments = Some(arguments);
    }
    params
}

fn no_tool(action: &str, tools: &[ToolInfo]) -> Answered {
    let names: Vec<&str> = tools.iter().map(|tool| &*tool.name).take(20).collect();
    let message = format!("{action}: the plugin has no such tool; it has {}", names.join(", "));
    let mut none = Answered::outage(Code::ActionUnavailable, message);
    none.is_outage = false;
    none
}

/// Keeps a plugin's process going.
struct Keeper {
    plugin: Arc<Plugin>,
    home: Arc<Home>,
    stage: watch::Sender<Stage>,
    status: Arc<Mutex<Status>>,
}

impl Keeper {
    async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let mut ready_since = None;
            let why = self.live(&mut ready_since).await;
            let was_steady = ready_since.is_some_and(|since: Instant| since.elapsed() > STEADY);
            failures = if was_steady { 0 } else { failures.saturating_add(1) };
            tracing::warn!(plugin = &*self.plugin.name, why, "a plugin is not running");
            self.fail(&why);
            if self.plugin.registered.restart == Restart::Never {
                // What is called is told why, for as long as it is registered.
                return std::future::pending().await;
            }
            let pause = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.0))).await;
            let mut status = self.status.lock();
            (status.state, status.restarts) = (State::Starting, status.restarts + 1);
            self.stage.send_replace(Stage::Starting);
        }
    }

    fn fail(&self, why: &str) {
        let mut status = self.status.lock();
        (status.state, status.pid, status.last_error) = (State::Failed, None, Some(why.to_owned()));
        self.stage.send_replace(Stage::Failed(why.into()));
    }

    /// One process, from its start to its end; why it ended.
    async fn live(&self, ready_since: &mut Option<Instant>) -> String {
        // A plugin is the cluster's, and so are the secrets that it is given.
        let names = self.plugin.registered.secrets();
        let secrets = match self.home.vault.resolve(&Namespace::default(), &names).await {
            Ok(secrets) => secrets,
            Err(error) => return error.to_string(),
        };
        let mask = Arc::new(secrets.mask());
        let env = self.plugin.registered.environment(|key| secrets.value(key));
        drop(secrets);
        let why = match self.spawn(env).await {
            Ok(running) => self.converse(running, &mask, ready_since).await,
            Err(why) => why,
        };
        mask.text(why)
    }

    async fn spawn(&self, env: Vec<(String, String)>) -> Result<Running, String> {
        let folder = self.home.scratch.join("plugins").join(&*self.plugin.name);
        let dir = own_folder(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let home = ("HOME".to_owned(), folder.display().to_string());
        let registered = &self.plugin.registered;
        let program = Program {
            program: &registered.command,
            args: &registered.args,
            env: [home].into_iter().chain(env).collect(),
            dir: dir.as_fd(),
            dir_path: folder,
            has_input: true,
            is_service: true,
        };
        self.home.isolation.start(program).await.map_err(|error| error.to_string())
    }

    /// Talks to a process until one of the two ends; why it ended.
    async fn converse(
        &self,
        mut running: Running,
        mask: &Arc<Mask>,
        ready_since: &mut Option<Instant>,
    ) -> String {
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (running.child.stdin.take(), running.child.stdout.take(), running.child.stderr.take())
        else {
            unreachable!("a program is started with pipes");
        };
        self.status.lock().pid = u32::try_from(running.pid()).ok();
        let said = Arc::new(Said { bytes: Mutex::default(), mask: mask.clone() });
        let mut listening = JoinSet::new();
        listening.spawn(said.clone().listen(stderr));
        let flooded = Arc::new(AtomicBool::new(false));
        let transport = AsyncRwTransport::new_client(Guarded::new(stdout, flooded.clone()), stdin)
            .with_max_line_length(MESSAGE_BYTES_MAX);
        let why = tokio::select! {
            why = self.talk(transport, mask, ready_since) => why,
            _ = running.child.wait() => "it ended".to_owned(),
        };
        running.kill();
        // Both come at once, unless what left the process group holds them open.
        let status = tokio::time::timeout(LAST_WORDS_MAX, running.child.wait()).await;
        let _ = tokio::time::timeout(LAST_WORDS_MAX, listening.join_next()).await;
        if flooded.load(Ordering::Relaxed) {
            return "it was stopped: it writes more than it may".to_owned();
        }
        let exit_code = status.ok().and_then(Result::ok).and_then(|status| status.code());
        if let Some(error) = running.start_error(exit_code, &said.bytes.lock()) {
            return error.to_string();
        }
        let code = exit_code.map(|code| format!(", with exit code {code}")).unwrap_or_default();
        match said.last() {
            Some(last) => format!("{why}{code}; it said: {last}"),
            None => format!("{why}{code}"),
        }
    }

    /// Speaks MCP with a process; why it does so no more.
    async fn talk<R, W>(
        &self,
        transport: AsyncRwTransport<RoleClient, R, W>,
        mask: &Arc<Mask>,
        ready_since: &mut Option<Instant>,
    ) -> String
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let changed = Arc::new(Notify::new());
        let client = Client { changed: changed.clone() };
        let begin = async {
            let service = serve_client(client, transport).await.map_err(|error| error.to_string())?;
            let tools = tools_of(service.peer(), mask).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((service, tools))
        };
        let (service, tools) = match tokio::time::timeout(START_MAX, begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(why)) => return format!("it does not speak MCP: {why}"),
            Err(_) => return format!("it was not ready within {} s", START_MAX.as_secs()),
        };
        *ready_since = Some(Instant::now());
        let peer = service.peer().clone();
        self.ready(&peer, tools, mask);
        tokio::select! {
            _ = service.waiting() => "it closed its connection".to_owned(),
            why = self.attend(&peer, &changed, mask) => why,
        }
    }

    fn ready(&self, peer: &Peer<RoleClient>, tools: Vec<ToolInfo>, mask: &Arc<Mask>) {
        let mut status = self.status.lock();
        (status.state, status.tools) = (State::Ready, tools.clone());
        let ready = Ready { peer: peer.clone(), tools, mask: mask.clone() };
        self.stage.send_replace(Stage::Ready(Arc::new(ready)));
    }

    /// Looks after a process that is ready; why it is so no more.
    async fn attend(&self, peer: &Peer<RoleClient>, changed: &Notify, mask: &Arc<Mask>) -> String {
        loop {
            let is_changed = tokio::time::timeout(PING_EVERY, changed.notified()).await.is_ok();
            let asked = async {
                if is_changed {
                    return tools_of(peer, mask).await.map(Some);
                }
                let ping = ClientRequest::PingRequest(PingRequest::default());
                peer.send_request(ping).await.map(|_| None)
            };
            match tokio::time::timeout(PING_MAX, asked).await {
                Ok(Ok(Some(tools))) => self.ready(peer, tools, mask),
                // One that does not know the question is there to say so.
                Ok(Ok(None) | Err(ServiceError::McpError(_))) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("it gave no sign of life within {} s", PING_MAX.as_secs()),
            }
        }
    }
}

/// All tools of a server, within bounds.
async fn tools_of(peer: &Peer<RoleClient>, mask: &Mask) -> Result<Vec<ToolInfo>, ServiceError> {
    let (mut tools, mut cursor) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let params = PaginatedRequestParams::default().with_cursor(cursor);
        let page = peer.list_tools(Some(params)).await?;
        tools.extend(page.tools.iter().take(TOOLS_MAX - tools.len()).map(|tool| info_of(tool, mask)));
        cursor = page.next_cursor;
        if cursor.is_none() || tools.len() == TOOLS_MAX {
            break;
        }
    }
    Ok(tools)
}

fn info_of(tool: &Tool, mask: &Mask) -> ToolInfo {
    let about = mask.text(tool.description.as_deref().unwrap_or_default().to_owned());
    let about: String = about.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
    let required = tool.input_schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    let properties = tool.input_schema.get("properties").and_then(Value::as_object);
    let params = properties.into_iter().flatten().take(100);
    let params = params.map(|(name, schema)| (name.clone(), is_required(name), type_of(schema)));
    ToolInfo { name: tool.name.to_string(), about, params: params.collect() }
}

fn type_of(schema: &Value) -> String {
    match schema["type"].as_str() {
        Some("integer") => "number".to_owned(),
        Some(known @ ("string" | "number" | "boolean" | "object" | "array")) => known.to_owned(),
        Some(_) | None => "any".to_owned(),
    }
}

/// This node, as plugins see it: it answers no question of theirs, and notes that their tools changed.
struct Client {
    changed: Arc<Notify>,
}

impl rmcp::ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        let us = Implementation::new("opcode", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }
}

/// The last that a process said on stderr.
struct Said {
    bytes: Mutex<Vec<u8>>,
    mask: Arc<Mask>,
}

impl Said {
    /// Listens until there is no more to hear, so that its speaker is never held up.
    async fn listen(self: Arc<Self>, mut stderr: ChildStderr) {
        let mut part = [0; 4 * 1_024];
        while let Ok(length @ 1..) = stderr.read(&mut part).await {
            let mut bytes = self.bytes.lock();
            bytes.extend_from_slice(&part[..length]);
            let over = bytes.len().saturating_sub(SAID_BYTES_MAX);
            bytes.drain(..over);
        }
    }

    /// Its last line, without secrets: they are looked for before anything is cut.
    fn last(&self) -> Option<String> {
        let bytes = self.bytes.lock();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if bytes.len() == SAID_BYTES_MAX {
            // What was cut may be half a secret.
            text = text.split_once('\n').map(|(_, whole)| whole.to_owned())?;
        }
        let text = self.mask.text(text);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).take(300).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_told_with_their_params() {
        let tool = json!({"name": "add", "description": "Adds\n two numbers.", "inputSchema": {"type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"anyOf": []}}, "required": ["a"]}});
        let mask = Mask::none();
        let info = info_of(&serde_json::from_value(tool).expect("a tool"), &mask);
        assert_eq!((info.name.as_str(), info.about.as_str()), ("add", "Adds two numbers."));
        let params = [("a".to_owned(), true, "number".to_owned()), ("b".to_owned(), false, "any".to_owned())];
        assert_eq!(info.params, params);
    }
}
