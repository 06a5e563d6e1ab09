//! Backups of the cluster, taken while it is harmed, and one of them restored when all is over: what
//! was acknowledged before it began is in it, with the same events as in the cluster.
//!
//! A backup may fail while the cluster cannot be reached; then it must have left nothing that
//! `opcode verify` takes for one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::{Mutex, watch};

use crate::checkers::{REQUESTS_AT_A_TIME, now_ms, time_ms};
use crate::client::namespace_of;
use crate::cluster::{Cluster, LOOK_EVERY};
use crate::history::{History, Outcome};
use crate::node::{Node, NodeOptions, free_port};

/// The calm before each.
const EVERY: Duration = Duration::from_secs(8);
/// Everything ends within this time of a restored node's start.
const END_MAX: Duration = Duration::from_secs(60);
/// Runs whose events are compared, spread over all.
const COMPARED_MAX: usize = 300;

/// What came of them.
#[derive(Default)]
pub(crate) struct Backups(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    count: usize,
    failed: usize,
    /// The last that was taken: its folder, and what was acknowledged before it began.
    last: Option<(PathBuf, BTreeSet<String>)>,
    /// How a promise was broken.
    wrong: Option<String>,
}

/// Runs a command of the binary.
async fn opcode(binary: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary);
    command.args(args).kill_on_drop(true);
    command.output().await.with_context(|| format!("{} {args:?}", binary.display()))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

/// What must have gone well.
fn well(output: &Output, what: &str) -> Result<()> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {errors}{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

async fn acknowledged(history: &History) -> BTreeSet<String> {
    let all = history.all().await.into_iter();
    all.filter(|(_, submission)| submission.outcome == Outcome::Acknowledged).map(|(id, _)| id).collect()
}

impl Backups {
    /// Takes one after another until it is told to stop.
    pub(crate) async fn run(&self, cluster: &Cluster, history: &History, mut stop: watch::Receiver<bool>) {
        let take_all = async {
            for turn in 0.. {
                tokio::time::sleep(EVERY).await;
                if let Err(error) = self.take(cluster, history, turn % cluster.len().max(1)).await {
                    self.0.lock().await.wrong = Some(format!("{error:#}"));
                }
            }
        };
        tokio::select! {
            () = take_all => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Takes one from the node at a place. That it fails is no error, as long as it leaves none.
    async fn take(&self, cluster: &Cluster, history: &History, place: usize) -> Result<()> {
        let (before, number) = (acknowledged(history).await, {
            let taken = &mut *self.0.lock().await;
            taken.count += 1;
            taken.count
        });
        let folder = cluster.home().join(format!("backup-{number}"));
        let url = cluster.node(place).url("");
        let output = opcode(cluster.binary(), &["backup", text(&folder)?, "--server", &url]).await?;
        let taken = &mut *self.0.lock().await;
        if output.status.success() {
            if let Some((old, _)) = taken.last.replace((folder, before)) {
                std::fs::remove_dir_all(&old).with_context(|| old.display().to_string())?;
            }
            return Ok(());
        }
        taken.failed += 1;
        let is_one = opcode(cluster.binary(), &["verify", text(&folder)?, "--quick"]).await?;
        ensure!(!is_one.status.success(), "a backup that failed is taken for one: {output:?}");
        Ok(())
    }

    /// Whether there is one that can be restored. What was copied of damaged tables may be found damaged.
    async fn is_last_whole(&self, cluster: &Cluster, history: &History) -> Result<bool> {
        let taken = &*self.0.lock().await;
        let Some((folder, _)) = &taken.last else { return Ok(false) };
        let verified = opcode(cluster.binary(), &["verify", text(folder)?]).await?;
        if !verified.status.success() {
            let harms = history.harms().await;
            let has_damage = harms.iter().any(|harm| harm.what.contains("Tables"));
            ensure!(has_damage, "a backup is not whole: {}", String::from_utf8_lossy(&verified.stdout));
        }
        Ok(verified.status.success())
    }

    /// Restores the last, and compares what it has with the cluster.
    pub(crate) async fn check(&self, cluster: &Cluster, history: &History) -> Result<String> {
        if !self.is_last_whole(cluster, history).await? {
            self.take(cluster, history, 0).await?;
        }
        let taken = &*self.0.lock().await;
        ensure!(taken.wrong.is_none(), "{}", taken.wrong.as_deref().unwrap_or_default());
        let (folder, ids) = taken.last.as_ref().context("a cluster that is whole cannot be backed up")?;
        let (binary, data) = (cluster.binary(), cluster.home().join("restored"));
        well(&opcode(binary, &["verify", text(folder)?]).await?, "the backup is no whole one")?;
        let args = ["restore", text(folder)?, "--data-dir", text(&data)?];
        well(&opcode(binary, &args).await?, "it cannot be restored")?;
        let port = free_port();
        let options = NodeOptions {
            binary: binary.to_owned(),
            data,
            listen: ([127, 0, 0, 1], port).into(),
            args: vec!["--peer-listen".into(), format!("127.0.0.1:{}", free_port())],
            shim: None,
        };
        let started_ms = now_ms();
        let node = tokio::task::block_in_place(|| Node::start(options))?;
        let events = compare(cluster, &node, ids, started_ms).await?;
        families_end(cluster, &node).await?;
        tokio::task::block_in_place(|| node.stop().and_then(|()| node.check_tables()))?;
        Ok(format!(
            "{} taken under faults, {} of them in vain; the last had all {} runs that were acknowledged \
             before it, and {events} events of them were compared",
            taken.count,
            taken.failed,
            ids.len()
        ))
    }
}

/// Every run is there; of some, the events too.
async fn compare(cluster: &Cluster, node: &Node, ids: &BTreeSet<String>, started_ms: i64) -> Result<usize> {
    let every = ids.len().div_ceil(COMPARED_MAX).max(1);
    let counts: Vec<usize> = futures::stream::iter(ids.iter().enumerate())
        .map(|(n, id)| async move {
            if !n.is_multiple_of(every) {
                let (status, answer) = get(cluster, node, &format!("/v1/workflows/{id}")).await?;
                ensure!(
                    status == 200,
                    "{id} was acknowledged before the backup and is lost: {status}: {answer}"
                );
                return anyhow::Ok(0);
            }
            let path = format!("/v1/workflows/{id}/events?limit=1000");
            let (status, here) = get(cluster, node, &path).await?;
            ensure!(status == 200, "{id} was acknowledged before the backup and is lost: {status}: {here}");
            let (_, there) = cluster.get_healed(&path).await?;
            same_past(id, &here["items"], &there["items"], started_ms)
        })
        .buffer_unordered(REQUESTS_AT_A_TIME)
        .try_collect()
        .await?;
    Ok(counts.iter().sum())
}

/// Parents and children, whose copies are of different moments, find each other again: all end.
async fn families_end(cluster: &Cluster, node: &Node) -> Result<()> {
    let begun = Instant::now();
    loop {
        let path = "/v1/workflows?status=active&status=pending&limit=1000";
        let (status, list) = get(cluster, node, path).await?;
        ensure!(status == 200, "the restored node does not list its runs: {status}: {list}");
        let ids =
            list["items"].as_array().into_iter().flatten().filter_map(|run| run["workflow_id"].as_str());
        let open: Vec<&str> = ids.filter(|id| id.starts_with("parent-")).collect();
        if open.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < END_MAX, "parents and children that were restored do not end: {open:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn get(cluster: &Cluster, node: &Node, path: &str) -> Result<(u16, Value)> {
    let request = cluster.client.get(node.url(path)).header("opcode-namespace", namespace_of(path));
    let response = request.send().await?;
    Ok((response.status().as_u16(), response.json().await?))
}

/// What the restored run has from before its node was started is what the cluster has; how many
/// events that is.
fn same_past(id: &str, here: &Value, there: &Value, started_ms: i64) -> Result<usize> {
    let list = |value: &Value| value.as_array().cloned().with_context(|| format!("the events of {id}"));
    let (here, there) = (list(here)?, list(there)?);
    let same = here.iter().zip(&there).take_while(|(here, there)| here == there).count();
    ensure!(same > 0, "{id} begins otherwise: {:?} and {:?}", here.first(), there.first());
    for event in &here[same..] {
        let at = time_ms(event["timestamp"].as_str().unwrap_or_default())?;
        ensure!(at >= started_ms, "{id} has an event in the backup that the cluster has not: {event}");
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_past_is_the_same_up_to_what_the_restored_node_has_done() {
        let event = |sequence: u64, second: u64| json!({"sequence": sequence, "timestamp": format!("2026-01-01T00:00:{second:02}.000Z")});
        let started = time_ms("2026-01-01T00:00:30.000Z").unwrap();
        let there = json!([event(1, 1), event(2, 2), event(3, 3)]);
        let of = |here: Value| same_past("r", &here, &there, started);
        assert_eq!(of(json!([event(1, 1), event(2, 2)])).unwrap(), 2);
        assert_eq!(of(json!([event(1, 1), event(2, 40)])).unwrap(), 1);
        of(json!([event(1, 1), event(2, 9)])).unwrap_err();
        of(json!([])).unwrap_err();
    }
}
