//! Actions: what a step does in the world. One file per family; every guard is on by default.
//!
//! A call ends in an output or a fault, within its time, whatever it is given: no param, answer
//! or panic of an action stops its caller. Secrets are in the params by the time they come here,
//! so no message repeats a URL's path, a header or a command's environment; and whatever comes back
//! from a call with secrets goes through its mask before anything else sees it, or cuts it short.

mod assert;
pub(crate) mod child;
mod crypto;
mod expr;
mod fs;
mod fs_guard;
mod fs_tree;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod http;
mod http_guard;
mod jq;
mod params;
mod plugins;
pub mod push;
mod shell;
#[cfg(test)]
mod tests;
mod workflow;

use std::fmt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use opcode_engine::catalogue::plugin_action;
use opcode_engine::command::Emission;
use opcode_engine::expr::{Budget, JqRunner, OwnedScope};
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};

use crate::isolation::{Isolation, IsolationOptions};
use crate::trace::TraceParent;
use crate::vault::mask::Mask;
use crate::workers::breaker::{Breakers, Refused, Verdict};
use crate::workers::jq_pool::JqPool;
use fs_guard::FsGuard;
use params::Params;
pub use plugins::{Plugins, ToolAnswer, ToolCall};

/// An action's time when neither its step nor its params give one.
pub const TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Largest output of a step, in bytes of JSON.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Largest `details` of a fault, in bytes of JSON; more is cut to a preview.
const DETAILS_BYTES_MAX: usize = 64 * 1024;
const PREVIEW_BYTES: usize = 4 * 1024;
/// Largest params with which a pure action runs in the shard's loop.
const INLINE_BYTES_MAX: usize = 32 * 1024;

/// What the node lets actions do.
#[derive(Clone, Debug)]
pub struct ActionOptions {
    /// `shell.exec` is on.
    pub allow_shell: bool,
    /// `http.*` may reach private and loopback addresses.
    pub allow_private_network: bool,
    /// Folders that `fs.*` may touch, symlinks resolved; empty: none.
    pub fs_roots: Vec<PathBuf>,
    /// Folder that `shell.exec` and relative `fs.*` paths start from.
    pub working_dir: PathBuf,
    /// Command line that starts a jq worker: reads requests on stdin, answers on stdout.
    pub jq_worker: Vec<String>,
    /// Jq workers at most.
    pub jq_workers_max: usize,
    /// How programs are confined.
    pub isolation: IsolationOptions,
}

/// One call of an action.
pub struct Call {
    /// The action, `http.get`.
    pub action: Arc<str>,
    /// Its params, interpolated and with secrets in place.
    pub params: Value,
    /// `WORKFLOW_ID/FULL_STEP_ID`.
    pub idempotency_key: String,
    /// Longest time; without it the action's default, 30 s.
    pub timeout_ms: Option<u64>,
    /// The run's id with its namespace, for logs and for its secrets.
    pub workflow_id: String,
    /// The step's full id, for logs.
    pub step_id: Arc<str>,
    /// For `expr.eval`: its program and what it reads.
    pub program: Option<(Arc<opcode_engine::expr::expr::Expr>, Arc<OwnedScope>)>,
    /// What it is in the trace that its run belongs to, if to one.
    pub trace: Option<TraceParent>,
    /// What takes the secrets that are in its params out of what it gives back.
    pub mask: Option<Arc<Mask>>,
}

impl fmt::Debug for Call {
    /// Never with its params.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({} for {})", self.action, self.idempotency_key)
    }
}

/// What a call came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its output, or why it failed.
    pub result: Result<Value, Fault>,
    /// What else it wants written.
    pub emissions: Vec<Emission>,
}

impl Outcome {
    fn of(result: Result<Value, Fault>) -> Self {
        Self { result, emissions: Vec::new() }
    }

    fn emitting(result: Result<(Value, Vec<Emission>), Fault>) -> Self {
        match result {
            Ok((output, emissions)) => Self { result: Ok(output), emissions },
            Err(fault) => Self::of(Err(fault)),
        }
    }
}

/// Why an action failed, and whether the circuit breaker should count it.
#[derive(Debug)]
struct Failure {
    fault: Fault,
    /// The other side is to blame, not the call: a refused connection, a timeout, a broken disk.
    is_outage: bool,
}

impl Failure {
    fn outage(fault: Fault) -> Self {
        Self { fault, is_outage: true }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, is_outage: false }
    }
}

/// The node's actions.
pub struct Actions {
    options: ActionOptions,
    http: http::Http,
    fs: Arc<FsGuard>,
    /// Where `shell.exec` may start: the roots of `fs.*` and the working folder.
    shell_dirs: Arc<FsGuard>,
    breakers: Arc<Breakers>,
    jq: Arc<JqPool>,
    isolation: Arc<Isolation>,
    plugins: plugins::Seam,
    /// What stands for the world in a simulation.
    #[cfg(feature = "sim")]
    world: Option<World>,
}

/// The world of a simulation: takes a call with a side effect and tells what came of it.
#[cfg(feature = "sim")]
pub type World = Arc<dyn Fn(Call) -> futures::future::BoxFuture<'static, Outcome> + Send + Sync>;

impl Actions {
    /// Makes them ready; nothing is started yet.
    pub fn new(options: ActionOptions) -> Arc<Self> {
        let mut shell_dirs = options.fs_roots.clone();
        shell_dirs.push(options.working_dir.clone());
        let guard = |roots| {
            let guard = FsGuard::new(roots, options.working_dir.clone());
            Arc::new(guard.without(options.isolation.closed.clone()))
        };
        Arc::new(Self {
            http: http::Http::new(options.allow_private_network),
            fs: guard(options.fs_roots.clone()),
            shell_dirs: guard(shell_dirs),
            breakers: Arc::default(),
            jq: Arc::new(JqPool::new(options.jq_worker.clone(), options.jq_workers_max)),
            isolation: Isolation::new(options.isolation.clone()),
            plugins: plugins::Seam::default(),
            options,
            #[cfg(feature = "sim")]
            world: None,
        })
    }

    /// Actions whose side effects all go to `world`.
    #[cfg(feature = "sim")]
    pub fn simulated(world: World) -> Arc<Self> {
        let options = ActionOptions {
            allow_shell: false,
            allow_private_network: false,
            fs_roots: Vec::new(),
            working_dir: PathBuf::new(),
            jq_worker: Vec::new(),
            jq_workers_max: 1,
            isolation: IsolationOptions::default(),
        };
        let mut actions = Self::new(options);
        Arc::get_mut(&mut actions).expect("nobody else has them yet").world = Some(world);
        actions
    }

    /// Runs a pure action in place: bounded, no wait, no side effect. `None` when it must go to a
    /// worker after all (jq, a costly expression, `assert.schema`, params over 32 KiB).
    pub fn run_pure(&self, call: &Call) -> Option<Outcome> {
        match call.action.as_ref() {
            "jq" | "assert.schema" => None,
            _ if is_over(&call.params, INLINE_BYTES_MAX) => None,
            _ => pure(call, Budget::INLINE).map(bounded),
        }
    }

    /// Runs any action in a worker, within its timeout, through its circuit breaker. The timeout
    /// is the smaller of the step's and the action's own `timeout` param, or else 30 s. Dropping
    /// the future ends what it started, except for `fs.*`, which ends by itself.
    pub async fn run(&self, call: Call) -> Outcome {
        let mask = call.mask.clone();
        let outcome = AssertUnwindSafe(self.run_through_breaker(call)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| {
            Outcome::of(Err(Fault::new(Code::ExecutionError, "the action stopped on a fault of its own")))
        });
        // Before it is cut to its bounds: half a secret would not be found.
        bounded(match mask {
            Some(mask) => {
                off_loop(move || mask.outcome(outcome)).await.unwrap_or_else(|e| Outcome::of(Err(e)))
            }
            None => outcome,
        })
    }

    /// The circuit breakers.
    pub(crate) fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    /// What confines programs.
    pub fn isolation(&self) -> &Arc<Isolation> {
        &self.isolation
    }

    /// Gives the node its plugins, for which steps have waited until now.
    pub fn open_plugins(&self, plugins: Arc<dyn Plugins>) {
        self.plugins.open(plugins);
    }

    /// The runner of jq: a pool of processes that are killed when they take too long.
    pub fn jq(&self) -> &dyn JqRunner {
        self.jq.as_ref()
    }

    async fn run_through_breaker(&self, call: Call) -> Outcome {
        #[cfg(feature = "sim")]
        if let Some(world) = &self.world {
            return world(call).await;
        }
        let Some(key) = breaker_key(&call) else { return self.run_in_worker(call).await };
        let ticket = match self.breakers.admit(&key, Instant::now()) {
            Ok(ticket) => ticket,
            Err(Refused { retry_after }) => {
                let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
                let message = format!("{key} keeps failing, so its circuit breaker is open");
                let fault = Fault::new(Code::CircuitOpen, message);
                return Outcome::of(Err(fault.with_details(json!({"retry_after_ms": retry_after_ms}))));
            }
        };
        let opening = ticket.change;
        let result = self.run_with_effects(call).await;
        let verdict = match &result {
            Ok(_) => Verdict::Healthy,
            Err(failure) if failure.is_outage => Verdict::Outage,
            Err(_) => Verdict::Unknown,
        };
        let closing = ticket.settle(verdict, Instant::now());
        let emissions = opening
            .into_iter()
            .chain(closing)
            .map(|state| Emission::Breaker { action: key.clone(), state })
            .collect();
        Outcome { result: result.map_err(|failure| failure.fault), emissions }
    }

    async fn run_with_effects(&self, call: Call) -> Result<Value, Failure> {
        if plugin_action(&call.action).is_some() {
            return self.plugins.run(call).await;
        }
        let own_ms = match call.action.as_ref() {
            name if name.starts_with("fs.") => None,
            name => Params::new(name, &call.params).duration_ms("timeout")?,
        };
        let limit_ms = match (own_ms, call.timeout_ms) {
            (Some(own), Some(step)) => own.min(step),
            (Some(ms), None) | (None, Some(ms)) => ms,
            (None, None) => TIMEOUT_MS_DEFAULT,
        };
        let limit = Duration::from_millis(limit_ms);
        let action = Arc::clone(&call.action);
        if action.as_ref() == "shell.exec" {
            if !self.options.allow_shell {
                let message = "shell.exec is off on this node (allow_shell)";
                return Err(Fault::new(Code::PermissionDenied, message).into());
            }
            // A command that outlives its own `timeout` still has an output, so it keeps time itself.
            let is_own = own_ms == Some(limit_ms);
            return shell::run(&call, &self.shell_dirs, &self.isolation, limit, is_own).await;
        }
        let work = async {
            if action.starts_with("http.") {
                return self.http.run(&call).await;
            }
            let fs = Arc::clone(&self.fs);
            off_loop(move || fs::run(&call, &fs)).await?
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(timed_out(&action, limit)))
    }

    async fn run_in_worker(&self, call: Call) -> Outcome {
        let limit = Duration::from_millis(call.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT));
        let action = Arc::clone(&call.action);
        let runner = Arc::clone(&self.jq);
        let work = off_loop(move || match call.action.as_ref() {
            "jq" => Outcome::of(jq::run(Params::new("jq", &call.params), runner.as_ref())),
            // A child is the shard's to start, which never asks here for it.
            "workflow.run" => {
                let message = format!("{} is not available on this node", call.action);
                Outcome::of(Err(Fault::new(Code::ActionUnavailable, message)))
            }
            "expr.eval" => {
                pure(&call, Budget::WORKER).unwrap_or_else(|| Outcome::of(Err(expr::over_budget())))
            }
            _ => pure(&call, Budget::WORKER).unwrap_or_else(|| {
                let message = format!("no action {} on this node", call.action);
                Outcome::of(Err(Fault::new(Code::ActionUnavailable, message)))
            }),
        });
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(fault)) => Outcome::of(Err(fault)),
            Err(_) => Outcome::of(Err(timed_out(&action, limit).fault)),
        }
    }
}

/// A pure action; `None` when there is none of that name or the budget ran out.
fn pure(call: &Call, budget: Budget) -> Option<Outcome> {
    let params = Params::new(&call.action, &call.params);
    Some(match call.action.as_ref() {
        "assert.contains" => Outcome::of(assert::contains(params)),
        "assert.equal" | "assert.equals" => Outcome::of(assert::equals(params)),
        "assert.matches" => Outcome::of(assert::matches(params)),
        "assert.schema" => Outcome::of(assert::schema(params)),
        "assert.truthy" => Outcome::of(assert::truthy(params)),
        "crypto.decode" => Outcome::of(crypto::decode(params)),
        "crypto.encode" => Outcome::of(crypto::encode(params)),
        "crypto.hash" => Outcome::of(crypto::hash(params)),
        "crypto.hmac" => Outcome::of(crypto::hmac(params)),
        "crypto.uuid" => Outcome::of(crypto::uuid(params)),
        "expr.eval" => Outcome::of(expr::eval(params, call, budget)?),
        "workflow.context" => Outcome::emitting(workflow::context(params)),
        "workflow.emit" => Outcome::emitting(workflow::emit(params)),
        "workflow.fail" => {
            let fault = short(workflow::fail(params));
            Outcome { result: Err(fault.clone()), emissions: vec![Emission::FailRun(fault)] }
        }
        "workflow.log" => Outcome::of(workflow::log(params, call)),
        "workflow.notify" => Outcome::emitting(workflow::notify(params, &call.params)),
        _ => return None,
    })
}

/// Runs what blocks or computes off the async threads; its panic is a fault.
async fn off_loop<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    crate::simulation::blocking(work)
        .await
        .map_err(|_| Fault::new(Code::ExecutionError, "the action stopped on a fault of its own"))
}

/// The breaker that a call goes through: the action, with the host for `http.*`; none for actions
/// without side effects.
fn breaker_key(call: &Call) -> Option<String> {
    let (family, _) = call.action.split_once('.')?;
    let url = match family {
        "fs" | "shell" => None,
        "http" => call.params.get("url").and_then(|url| reqwest::Url::parse(url.as_str()?).ok()),
        _ if plugin_action(&call.action).is_some() => None,
        _ => return None,
    };
    Some(match url {
        Some(url) => {
            let port = url.port().map_or(String::new(), |port| format!(":{port}"));
            format!("{} {}{port}", call.action, url.host_str().unwrap_or_default())
        }
        None => call.action.to_string(),
    })
}

fn timed_out(action: &str, limit: Duration) -> Failure {
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let fault = Fault::new(Code::TimeoutError, format!("{action} took longer than {timeout_ms} ms"));
    Failure::outage(fault.with_details(json!({"timeout_ms": timeout_ms})))
}

/// The same outcome with its size under the limits of an event.
fn bounded(outcome: Outcome) -> Outcome {
    let Outcome { result, emissions } = outcome;
    let is_long = |emission: &Emission| match emission {
        Emission::Custom { data: value, .. }
        | Emission::Notify { data: value }
        | Emission::Set { value, .. } => is_over(value, OUTPUT_BYTES_MAX),
        Emission::FailRun(_) | Emission::Breaker { .. } => false,
    };
    if emissions.iter().any(is_long) {
        let message = format!("an event or a variable is over {OUTPUT_BYTES_MAX} bytes");
        return Outcome::of(Err(Fault::new(Code::NonRetryable, message)));
    }
    let result = match result {
        Ok(output) if is_over(&output, OUTPUT_BYTES_MAX) => {
            let message = format!("the output is over {OUTPUT_BYTES_MAX} bytes");
            Err(Fault::new(Code::NonRetryable, message))
        }
        Ok(output) => Ok(output),
        Err(fault) => Err(short(fault)),
    };
    Outcome { result, emissions }
}

/// The same fault with a message and details that fit an event.
fn short(mut fault: Fault) -> Fault {
    fault.message.truncate(fault.message.floor_char_boundary(PREVIEW_BYTES));
    if !is_over(&fault.details, DETAILS_BYTES_MAX) {
        return fault;
    }
    let mut preview = fault.details.to_string();
    preview.truncate(preview.floor_char_boundary(PREVIEW_BYTES));
    fault.with_details(json!({"is_cut": true, "preview": preview}))
}

/// Whether a value's JSON is longer than `bytes_max`; stops counting there.
fn is_over(value: &Value, bytes_max: usize) -> bool {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Counter(bytes_max), value).is_err()
}
