//! OPCODE: one node, a template defined once, and a run of it for each request.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use opcode_peers::load::{self, Load, Measured, Watched};
use opcode_peers::work::{READY, RESULT_BYTES, STEPS, text};
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{client, post};
use super::{Programs, READY_MAX, beside};
use crate::process::Process;

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing but recording a result
    Log,
    /// A request to the service, whose answer is recorded
    HttpPost,
}

/// What of an answer tells whether the run completed.
#[derive(Deserialize)]
struct Answer {
    workflow_id: String,
    status: String,
}

pub(super) async fn measure(
    programs: &Programs,
    action: Action,
    load: Load,
    folder: &Path,
) -> Result<Measured> {
    let mut hop = match action {
        Action::Log => None,
        Action::HttpPost => Some(Process::start("peer-hop", &mut Command::new(beside("peer-hop")?), folder)?),
    };
    let hop_url = match &mut hop {
        None => String::new(),
        Some(hop) => hop.line(READY, READY_MAX).await? + "/step",
    };
    let data = folder.join("opcode");
    let mut command = Command::new(&programs.opcode);
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]);
    command.arg("--data-dir").arg(&data);
    if hop.is_some() {
        let pool_size = programs.opcode_pool_size.to_string();
        command.args(["--allow-private-network", "--pool-size", &pool_size]);
    }
    let mut server = Process::start("opcode", &mut command, folder)?;
    let url = server.line("OPCODE is ready at ", READY_MAX).await?;
    let client = client()?;
    let template = Bytes::from(serde_json::to_vec(&template(action, &hop_url))?);
    post(&client, &format!("{url}/v1/templates"), template).await?;

    let watched =
        Watched { server: server.id(), service: hop.as_ref().map(Process::id), folder: folder.to_owned() };
    let submit = format!("{url}/v1/workflows?wait=60s");
    // About 100 bytes in all, as the peers' input.
    let body = json!({"template": "chain10", "params": {"input": text(RESULT_BYTES / 2)}});
    let body = Bytes::from(serde_json::to_vec(&body)?);
    let run = move || {
        let (client, submit, body) = (client.clone(), submit.clone(), body.clone());
        async move {
            let answer = post(&client, &submit, body).await?;
            let run: Answer = serde_json::from_slice(&answer).context("an answer of OPCODE")?;
            ensure!(run.status == "completed", "run {} is {}", run.workflow_id, run.status);
            Ok(())
        }
    };
    let measured = load::measure(load, &watched, run).await?;
    server.check()?;
    Ok(measured)
}

/// Ten steps, each after the one before.
fn template(action: Action, hop_url: &str) -> Value {
    let (name, params) = match action {
        // With `{"logged":true,"message":…}` around it, a step's result is of the same length.
        Action::Log => {
            let around = json!({"logged": true, "message": ""}).to_string().len();
            ("workflow.log", json!({"message": text(RESULT_BYTES - around + 2), "level": "debug"}))
        }
        Action::HttpPost => ("http.post", json!({"url": hop_url, "body": {}})),
    };
    let step = |number: usize| {
        let before: Vec<String> = number.checked_sub(1).map(|n| format!("s{n}")).into_iter().collect();
        json!({"id": format!("s{number}"), "action": name, "params": params, "depends_on": before})
    };
    json!({"name": "chain10", "definition": {"steps": (0..STEPS).map(step).collect::<Vec<_>>()}})
}
