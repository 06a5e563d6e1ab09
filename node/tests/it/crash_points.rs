//! A stop at every write, sync, rename and purge of log and tables in turn.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use opcode_shard::crash::POINTS;
use tokio::task::JoinSet;

use crate::cluster::{NodeBuilder, assert_tables_equal_fold};
use crate::crash::{assert_all_complete, assert_sink, chain, submit_all};
use crate::service::{Call, Service};

/// Runs one crash point: load until the node stops itself there, start again, check.
async fn crash_at(point: &str, count: usize, service: &Service, data: &Path) -> bool {
    let definition = chain(&service.url("sink"));
    let ids: Vec<String> = (0..60).map(|n| format!("{point}-{count}-{n}")).collect();
    let builder = NodeBuilder::new(data)
        .arg("--pool-size")
        .arg("64")
        .arg("--shards")
        .arg("2")
        .arg("--events-kept")
        .arg("0s")
        .env("OPCODE_LOG_SEGMENT_BYTES", "65536");
    let mut acknowledged = BTreeSet::new();
    let mut stopped = true;
    if let Some(mut node) = builder.clone_with("OPCODE_CRASH_AT", format!("{point}:{count}")).try_start() {
        let deadline = Instant::now() + Duration::from_secs(4);
        for chunk in ids.chunks(20) {
            acknowledged.extend(submit_all(&node, &definition, chunk).await);
        }
        // Some points are passed only in idle moments: housekeeping comes by itself.
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while !node.has_ended() && Instant::now() < deadline {
            tick.tick().await;
        }
        stopped = node.has_ended();
        node.kill();
    }
    let node = builder.start();
    let everyone = submit_all(&node, &definition, &ids).await;
    assert_eq!(everyone.len(), ids.len(), "{point}:{count}");
    assert!(everyone.is_superset(&acknowledged), "{point}:{count}");
    let recorded = assert_all_complete(&node, &everyone).await;
    let calls: Vec<Call> = service
        .calls()
        .await
        .into_iter()
        .filter(|call| call.body["run"].as_str().is_some_and(|run| everyone.contains(run)))
        .collect();
    assert_sink(&calls, &recorded);
    assert!(node.stop().success(), "{point}:{count}");
    assert_tables_equal_fold(data);
    stopped
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_every_crash_point_loses_nothing() {
    let service = Service::start().await;
    let mut waiting: Vec<(&str, usize)> =
        POINTS.iter().flat_map(|point| [1, 2, 7].map(|count| (*point, count))).collect();
    let mut stopped_at: BTreeSet<&str> = BTreeSet::new();
    let mut running = JoinSet::new();
    loop {
        while running.len() < 4
            && let Some((point, count)) = waiting.pop()
        {
            let service = service.clone();
            running.spawn(async move {
                let home = tempfile::tempdir().unwrap();
                (point, crash_at(point, count, &service, &home.path().join("data")).await)
            });
        }
        let Some(result) = running.join_next().await else { break };
        let (point, stopped) = result.expect("the check holds");
        if stopped {
            stopped_at.insert(point);
        }
    }
    let missed: Vec<_> = POINTS.iter().filter(|p| !stopped_at.contains(**p)).collect();
    assert!(missed.is_empty(), "points that no run came by: {missed:?}");
}
