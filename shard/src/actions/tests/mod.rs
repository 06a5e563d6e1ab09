//! Actions through their one door, `Actions::run`, against real servers, files and processes.

mod fs;
mod http;
mod plugins;
mod pure;
mod push;
mod secrets;
mod server;
mod shell;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::command::Emission;
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};

use super::{ActionOptions, Actions, Call};

/// Everything allowed, in a folder of the test's own.
fn options(dir: &Path) -> ActionOptions {
    ActionOptions {
        allow_shell: true,
        allow_private_network: true,
        fs_roots: vec![dir.to_owned()],
        working_dir: dir.to_owned(),
        jq_worker: Vec::new(),
        jq_workers_max: 1,
        isolation: Default::default(),
    }
}

fn call(action: &str, params: Value) -> Call {
    Call {
        action: action.into(),
        params,
        idempotency_key: "run-1/step".into(),
        timeout_ms: None,
        workflow_id: "run-1".into(),
        step_id: "step".into(),
        program: None,
        trace: None,
        mask: None,
    }
}

async fn run(actions: &Actions, action: &str, params: Value) -> Result<Value, Fault> {
    actions.run(call(action, params)).await.result
}

async fn code(actions: &Actions, action: &str, params: Value) -> Code {
    run(actions, action, params).await.expect_err("it should have failed").code
}

/// Waits for something that is bound to become so; ten seconds without it fail the test.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never so: {what}");
}
