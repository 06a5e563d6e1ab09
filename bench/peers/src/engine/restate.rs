//! Restate: one server, and the service with the handler, registered with it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use opcode_peers::load::{self, Load, Measured, Watched};
use opcode_peers::work::{READY, RESULT_BYTES, text};
use serde_json::json;

use super::http::{client, post};
use super::{Programs, READY_MAX, beside};
use crate::process::Process;

/// How often is asked again what the server is not ready for yet.
const ASK_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn measure(
    programs: &Programs,
    partitions: u16,
    load: Load,
    folder: &Path,
) -> Result<Measured> {
    let program = programs.restate.as_ref().context("the Restate server is installed")?;
    let mut service = Process::start("peer-restate", &mut Command::new(beside("peer-restate")?), folder)?;
    let service_url = service.line(READY, READY_MAX).await?;
    let [ingress, admin, node] = free_addresses()?;
    let mut command = Command::new(program);
    command
        .arg("--no-logo")
        .arg("--base-dir")
        .arg(folder.join("restate"))
        .env("RESTATE_DEFAULT_NUM_PARTITIONS", partitions.to_string())
        .env("RESTATE_LISTEN_MODE", "tcp")
        .env("RESTATE_INGRESS__BIND_ADDRESS", ingress.to_string())
        .env("RESTATE_ADMIN__BIND_ADDRESS", admin.to_string())
        .env("RESTATE_BIND_ADDRESS", node.to_string())
        .env("RESTATE_LOG_FILTER", "warn")
        .env("RESTATE_DISABLE_TELEMETRY", "true");
    let mut server = Process::start("restate-server", &mut command, folder)?;
    let client = client()?;

    let deployment = Bytes::from(serde_json::to_vec(&json!({"uri": service_url}))?);
    until_taken(&client, &format!("http://{admin}/deployments"), &deployment, &mut server).await?;
    let submit = format!("http://{ingress}/Chain/chain10");
    let text_json = Bytes::from(serde_json::to_vec(&text(RESULT_BYTES))?);
    until_taken(&client, &submit, &text_json, &mut server).await?;

    let watched = Watched { server: server.id(), service: Some(service.id()), folder: folder.to_owned() };
    let run = move || {
        let (client, submit, text_json) = (client.clone(), submit.clone(), text_json.clone());
        async move {
            // The input is as long as a step's result, and the last of those is the answer.
            let answer = post(&client, &submit, text_json.clone()).await?;
            ensure!(answer == text_json, "a run returned {}", String::from_utf8_lossy(&answer));
            Ok(())
        }
    };
    let measured = load::measure(load, &watched, run).await?;
    server.check()?;
    service.check()?;
    Ok(measured)
}

/// Posts again and again, until the server takes it.
async fn until_taken(client: &reqwest::Client, url: &str, json: &Bytes, server: &mut Process) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = post(client, url, json.clone()).await {
        server.check()?;
        if begun.elapsed() > READY_MAX {
            return Err(error);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Ok(())
}

/// Loopback addresses that nobody listened at a moment ago: the server has to be told its own.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    // All are held until each is known, so that no two are the same.
    let mut held = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("no loopback port is free")?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}
