//! The firehose of real nodes: it goes on where it was left, on another node, and says so when it
//! cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE};
use crate::many::{Builders, Load, all_complete};

/// Lines of a firehose, over several connections.
#[derive(Default)]
struct Reader {
    place: Option<String>,
    /// The last sequence of each run.
    last: BTreeMap<String, u64>,
    completed: BTreeSet<String>,
}

impl Reader {
    /// Reads one connection until it has seen enough; asserts that nothing is missing and nothing comes
    /// twice.
    async fn read(&mut self, node: &Node, is_enough: impl Fn(&Self) -> bool) {
        let request = node.request(reqwest::Method::GET, "/v1/events");
        let mut request = request.header("accept", "application/x-ndjson");
        if let Some(place) = &self.place {
            request = request.header("last-event-id", place);
        }
        let mut response = request.timeout(PATIENCE * 5).send().await.expect("the node answers");
        assert_eq!(response.status().as_u16(), 200);
        let mut rest = String::new();
        while !is_enough(self) {
            let chunk =
                tokio::time::timeout(PATIENCE, response.chunk()).await.expect("it says that it lives");
            let Ok(Some(chunk)) = chunk else { return };
            rest.push_str(std::str::from_utf8(&chunk).expect("utf-8"));
            while let Some((line, others)) = rest.split_once('\n') {
                let said: Value = serde_json::from_str(line).expect("JSON");
                rest = others.to_owned();
                self.take(&said);
            }
        }
    }

    fn take(&mut self, said: &Value) {
        if let Some(notice) = said["notice"].as_str() {
            assert_ne!(notice, "lagged", "{said}");
            return;
        }
        self.place = Some(said["place"].as_str().expect("a place").to_owned());
        let Some(run) = said["workflow_id"].as_str() else { return };
        let sequence = said["sequence"].as_u64().expect("a sequence");
        let before = self.last.insert(run.to_owned(), sequence).unwrap_or(0);
        assert_eq!(sequence, before + 1, "{run}: a gap, or an event twice");
        if said["type"] == "workflow_completed" {
            self.completed.insert(run.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_at_its_place_on_other_nodes_and_after_a_death() {
    let home = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(home.path());
    let mut nodes = builders.start().await;
    // It begins before the first run.
    let mut reader = Reader::default();
    let begun = nodes[0].request(reqwest::Method::GET, "/v1/events?follow=false").send().await.unwrap();
    let begun = begun.text().await.unwrap();
    let id = begun.lines().find_map(|line| line.strip_prefix("id: ")).expect("a place");
    reader.place = Some(id.to_owned());
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let load = Load::start("hose", &urls);
    for (turn, node) in nodes.iter().cycle().take(6).enumerate() {
        reader.read(node, |reader| reader.completed.len() >= 10 * (turn + 1)).await;
    }
    nodes.remove(0).kill();
    load.goes_on(20).await;
    let acknowledged = load.end().await.ids;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged).await;
    let deadline = Instant::now() + PATIENCE;
    let has_all = |reader: &Reader| acknowledged.iter().all(|id| reader.completed.contains(id));
    while !has_all(&reader) {
        assert!(Instant::now() < deadline, "{} of {}", reader.completed.len(), acknowledged.len());
        let turn = reader.completed.len() % nodes.len();
        reader.read(&nodes[turn], has_all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_the_log_has_let_go_of_is_told_so() {
    let home = tempfile::tempdir().unwrap();
    let builder = NodeBuilder::new(&home.path().join("data")).arg("--shards").arg("1");
    let node = builder.arg("--events-kept").arg("1s").start();
    let large = "x".repeat(900_000);
    let steps = json!([{"id": "a", "action": "workflow.log", "params": {"message": "${{inputs.x}}"}}]);
    let deadline = Instant::now() + PATIENCE;
    let mut n = 0;
    // The tables are checkpointed, and then the log is let go of.
    let refused = loop {
        node.submit(&json!({"id": format!("r{n}"), "definition": {"steps": steps}, "params": {"x": large}}))
            .await;
        n += 1;
        let (status, said) = node.get("/v1/events?follow=false&after=1&type=workflow_cancelled").await;
        if status == 410 {
            break said;
        }
        assert_eq!(status, 200, "{said}");
        assert!(Instant::now() < deadline, "the log keeps everything");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(refused["code"], "EVENTS_GONE", "{refused}");
    let detail = refused["detail"].as_str().unwrap();
    let place = detail.split("follow ").nth(1).and_then(|rest| rest.split(',').next()).expect("a place");
    // From there on it goes, unless the log has moved on since.
    let (status, _) = node.get(&format!("/v1/events?follow=false&after={place}")).await;
    assert!(matches!(status, 200 | 410), "{status}");
    assert_eq!(node.get("/v1/events?follow=false&after=earliest").await.0, 200);
    assert!(node.stop().success());
}
