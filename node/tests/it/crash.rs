//! `kill -9` at random moments and a stop at every crash point: whatever was acknowledged exists,
//! completes, and no recorded step runs again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, assert_tables_equal_fold};
use crate::service::{Call, Service};

/// Steps of one chain.
const STEPS: usize = 3;

/// Kills of the CI run; the long run sets more.
fn cycles() -> usize {
    std::env::var("OPCODE_TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// A chain of posts, each with a body of its own.
pub(crate) fn chain(url: &str) -> Value {
    let steps: Vec<Value> = (0..STEPS)
        .map(|n| {
            let depends_on: Vec<String> =
                n.checked_sub(1).map(|before| format!("s{before}")).into_iter().collect();
            json!({"id": format!("s{n}"), "action": "http.post", "depends_on": depends_on,
                   "params": {"url": url, "body": {"run": "${{workflow.run_id}}", "step": n}},
                   "retry": {"max": 5, "backoff": "constant", "delay": "50ms"}})
        })
        .collect();
    json!({"steps": steps})
}

/// Submits `ids` in small batches to a node that may die; returns those that were acknowledged.
pub(crate) async fn submit_all(node: &Node, definition: &Value, ids: &[String]) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for chunk in ids.chunks(5) {
        let workflows: Vec<Value> =
            chunk.iter().map(|id| json!({"id": id, "definition": definition})).collect();
        match node.try_post("/v1/workflows/batch", &json!({"workflows": workflows})).await {
            Ok((200, answer)) => {
                let results = answer["results"].as_array().or_else(|| answer["items"].as_array());
                for result in results.expect("a result for each") {
                    if let Some(id) = result["workflow_id"].as_str() {
                        acknowledged.insert(id.to_owned());
                    }
                }
            }
            Ok(_) | Err(_) => return acknowledged,
        }
    }
    acknowledged
}

/// Every acknowledged run exists and has completed, each step recorded once; returns when each
/// step was recorded, by idempotency key.
pub(crate) async fn assert_all_complete(
    node: &Node,
    acknowledged: &BTreeSet<String>,
) -> BTreeMap<String, i64> {
    let mut recorded = BTreeMap::new();
    for id in acknowledged {
        let run = node.end(id).await;
        assert_eq!(run["status"], "completed", "{id}: {run:#}");
        let mut completed = BTreeSet::new();
        for event in node.events(id).await {
            if event["type"] == "step_completed" {
                let step = event["step_id"].as_str().expect("a step").to_owned();
                let at = chrono::DateTime::parse_from_rfc3339(event["timestamp"].as_str().expect("a time"))
                    .expect("RFC 3339");
                recorded.insert(format!("{id}/{step}"), at.timestamp_millis());
                assert!(completed.insert(step), "{id}: a step completed twice");
            }
        }
        assert_eq!(completed.len(), STEPS, "{id}: {run:#}");
    }
    recorded
}

/// The sink saw each logical step under one key, and nothing after that step was recorded.
pub(crate) fn assert_sink(calls: &[Call], recorded: &BTreeMap<String, i64>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for call in calls {
        let key = call.idempotency_key.as_deref().expect("every post has a key");
        let wanted = format!("{}/s{}", call.body["run"].as_str().expect("a run"), call.body["step"]);
        assert_eq!(key, wanted, "one stable key for each logical step");
        if let Some(recorded_at) = recorded.get(key) {
            let came_at = i64::try_from(call.at_ms).expect("a time fits");
            assert!(came_at <= *recorded_at, "{key} ran again after it was recorded");
        }
        seen.insert(key);
    }
    for key in recorded.keys() {
        assert!(seen.contains(key.as_str()), "{key} is recorded and the service never saw it");
    }
}

/// Waits for a moment.
async fn at(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}

/// A small generator of moments, so that a failure can be told by its seed.
struct Moments(u64);

impl Moments {
    fn next_ms(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_nothing() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let service = Service::start().await;
    let definition = chain(&service.url("sink"));
    let seed = std::env::var("OPCODE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("seed {seed}, {} cycles", cycles());
    let mut moments = Moments(seed);
    let builder = NodeBuilder::new(&data).arg("--pool-size").arg("64");
    let mut acknowledged = BTreeSet::new();
    for cycle in 0..cycles() {
        let node = builder.start();
        let ids: Vec<String> = (0..40).map(|n| format!("c{cycle}-{n}")).collect();
        let kill_after = Duration::from_millis(20 + moments.next_ms(250));
        let begun = Instant::now();
        let submitted = tokio::time::timeout(kill_after, submit_all(&node, &definition, &ids)).await;
        if let Ok(ids) = submitted {
            acknowledged.extend(ids);
            // The moment is the point here: nothing is waited for.
            at(begun + kill_after).await;
        }
        node.kill();
    }
    // Submissions cut off by a kill are unknown: sent again, they must be the same runs.
    let node = builder.start();
    let all: Vec<String> = (0..cycles()).flat_map(|c| (0..40).map(move |n| format!("c{c}-{n}"))).collect();
    let everyone = submit_all(&node, &definition, &all).await;
    assert_eq!(everyone.len(), all.len());
    assert!(everyone.is_superset(&acknowledged));
    assert!(everyone.len() >= 20 * cycles());
    let recorded = assert_all_complete(&node, &everyone).await;
    assert_sink(&service.calls().await, &recorded);
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}
