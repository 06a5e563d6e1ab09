//! What a node tells of itself: metrics that are all described, in a format that Prometheus takes, of
//! which alone the dashboards and alerts are made; and traces that go through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE};
use crate::deploy::{promtool, root};
use crate::service::Service;

/// What only some seldom event, or another node, brings up.
const SELDOM: &[&str] = &[
    "opcode_audit_lost_total",
    "opcode_replica_lag_seconds",
    "opcode_retention_archives_deleted_total",
    "opcode_retention_deleted_total",
    "opcode_retention_failures_total",
    "opcode_webhook_deliveries_total",
];

/// A trace as a client names it, and its id.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

pub(crate) async fn metrics(node: &Node) -> String {
    let response = node.request(reqwest::Method::GET, "/metrics").send().await.expect("the node answers");
    response.text().await.expect("text")
}

/// Rust files of ours that are no tests.
pub(crate) fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !matches!(name, "target" | "tests") {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Names in our sources that come right after one of these words.
fn names(words: &[&str]) -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["node/src", "router/src", "shard/src"] {
        sources(&root().join(folder), &mut files);
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("a source");
        for word in words {
            for after in text.split(word).skip(1) {
                let name = after.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                found.extend(name.filter(|name| name.starts_with("opcode_")).map(str::to_owned));
            }
        }
    }
    found
}

/// Each metric by its name, with its type; asserts that every line is as the format wants it, and that
/// what has a type has a help too.
fn parsed(text: &str) -> BTreeMap<String, String> {
    let (mut kinds, mut helped) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}: told twice");
            }
            _ => {
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
                let name = series.split('{').next().expect("a name");
                let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let known = kinds.contains_key(name) || of.is_some_and(|name| kinds.contains_key(name));
                assert!(known, "{line}: nothing says what it is");
            }
        }
    }
    let untold: Vec<_> = kinds.keys().filter(|name| !helped.contains(*name)).collect();
    assert!(untold.is_empty(), "{untold:?} have no help");
    kinds
}

/// A node to which everything has happened that a metric is of.
async fn busy(dir: &Path) -> Node {
    let node = NodeBuilder::new(dir).start();
    let template = json!({"name": "t", "definition": {"steps": [
        {"id": "get", "action": "http.get", "params": {"url": format!("{}/healthz", node.url)}},
        {"id": "read", "action": "fs.read", "params": {"path": "/etc/hostname"}, "depends_on": ["get"]},
    ]}});
    assert_eq!(node.post("/v1/templates", &template).await.0, 201);
    let timer = json!({"steps": [{"id": "nap", "type": "wait", "config": {"duration": "10ms"}}]});
    let napping = node.submit(&json!({"definition": timer})).await;
    assert_eq!(node.end(&napping).await["status"], "completed");
    let denied = node.submit(&json!({"template": "t"})).await;
    assert_eq!(node.end(&denied).await["error"]["code"], "PATH_DENIED");
    let schedule = json!({"id": "s", "template": "t", "interval": "1s"});
    let (status, made) = node.post("/v1/schedules", &schedule).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(node.get("/v1/workflows/nobody").await.0, 404);
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_described_and_told_as_prometheus_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = busy(&dir.path().join("data")).await;
    let recorded = names(&["counter!(", "gauge!(", "histogram!("]);
    let described = names(&["Meter::counter(", "Meter::gauge(", "Meter::histogram("]);
    assert!(recorded.len() > 20);
    let untold: Vec<_> = recorded.difference(&described).collect();
    assert!(untold.is_empty(), "{untold:?} are recorded, and nothing says what they are");

    let deadline = Instant::now() + PATIENCE;
    let (text, kinds) = loop {
        let text = metrics(&node).await;
        let kinds = parsed(&text);
        let is_due = |name: &&String| !SELDOM.contains(&name.as_str()) && !kinds.contains_key(*name);
        let missing: Vec<_> = described.iter().filter(is_due).collect();
        // The log is purged when the tables are checkpointed, runs are counted now and then, and so on.
        if missing.is_empty() && text.contains("opcode_workflows{status=\"completed\"} 1") {
            break (text, kinds);
        }
        assert!(Instant::now() < deadline, "{missing:?} are not there:\n{text}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    for (name, kind) in &kinds {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    for line in [
        "opcode_events_total{type=\"workflow_completed\"} 1",
        "opcode_denied_total{of=\"step\",code=\"PATH_DENIED\"}",
        "opcode_http_requests_total{method=\"GET\",route=\"/v1/workflows/{id}\",status=\"404\"} 1",
        "opcode_workflows{status=\"completed\"} 1",
        "opcode_shard_leader{shard=\"system\"} 1",
        "opcode_circuit_breakers{state=\"open\"} 0",
        "opcode_corruption_total{shard=\"0\"} 0",
        "opcode_step_faults_total{code=\"PATH_DENIED\"}",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let written = dir.path().join("metrics.txt");
    std::fs::write(&written, &text).unwrap();
    promtool(&["check", "metrics"], Some(&written));
    assert!(node.stop().success());
}

/// Metrics that stand in some text: words that begin as ours do.
fn used(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("opcode_"));
    words
        .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dashboards_and_alerts_are_made_of_metrics_that_there_are() {
    let described = names(&["Meter::counter(", "Meter::gauge(", "Meter::histogram("]);
    let mut seen = BTreeSet::new();
    let mut check = |what: &str, text: &str| {
        for name in used(text) {
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = of.filter(|of| described.contains(*of)).unwrap_or(&name);
            assert!(described.contains(known), "{what}: there is no metric {name}");
            seen.insert(known.to_owned());
        }
    };
    let rules = std::fs::read_to_string(root().join("deploy/prometheus/opcode.rules.yml")).unwrap();
    check("opcode.rules.yml", &rules);
    for dashboard in ["opcode-cluster", "opcode-runs"] {
        let file = root().join(format!("deploy/grafana/dashboards/{dashboard}.json"));
        let text = std::fs::read_to_string(file).unwrap();
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["uid"], dashboard);
        let panels = parsed["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{dashboard}: each panel has an id of its own");
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            let expressions = panel["targets"].as_array().unwrap().iter().map(|target| &target["expr"]);
            for expression in expressions {
                check(dashboard, expression.as_str().unwrap());
            }
            let at = &panel["gridPos"];
            assert!(at["x"].as_u64().unwrap() + at["w"].as_u64().unwrap() <= 24, "{}", panel["title"]);
        }
    }
    let is_unseen = |name: &&String| !seen.contains(*name) && !SELDOM.contains(&name.as_str());
    let unseen: Vec<_> = described.iter().filter(is_unseen).collect();
    assert!(unseen.is_empty(), "{unseen:?} stand in no dashboard and no alert");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_through_to_the_calls_of_steps_and_to_a_collector() {
    let dir = tempfile::tempdir().unwrap();
    let (service, collector) = (Service::start().await, Service::start().await);
    let node = NodeBuilder::new(&dir.path().join("data")).arg("--otlp-endpoint").arg(&collector.url).start();
    let child =
        json!({"steps": [{"id": "call", "action": "http.get", "params": {"url": service.url("child")}}]});
    assert_eq!(node.post("/v1/templates", &json!({"name": "child", "definition": child})).await.0, 201);
    let definition = json!({"steps": [
        {"id": "call", "action": "http.get", "params": {"url": service.url("stock")}},
        {"id": "own", "action": "http.get", "params": {"url": service.url("own"), "headers": {"traceparent": "mine"}}},
        {"id": "start", "action": "workflow.run", "params": {"template": "child"}},
    ]});
    let traced = |method, path: &str| node.request(method, path).header("traceparent", TRACEPARENT);
    let submission =
        traced(reqwest::Method::POST, "/v1/workflows?wait=30s").json(&json!({"definition": definition}));
    let run: Value = submission.send().await.unwrap().json().await.unwrap();
    assert_eq!(run["status"], "completed", "{run}");
    let missing: Value =
        traced(reqwest::Method::GET, "/v1/workflows/nobody").send().await.unwrap().json().await.unwrap();
    assert_eq!((&missing["trace_id"], &missing["type"]), (&json!(TRACE_ID), &json!("/errors/NOT_FOUND")));

    let calls = service.calls().await;
    let sent =
        |path: &str| calls.iter().find(|call| call.path == path).and_then(|call| call.traceparent.clone());
    for path in ["stock", "child"] {
        let parent = sent(path).unwrap_or_else(|| panic!("{path} was called outside of the trace"));
        assert!(parent.starts_with(&format!("00-{TRACE_ID}-")) && parent != TRACEPARENT, "{path}: {parent}");
    }
    assert_eq!(sent("own").as_deref(), Some("mine"), "what a step says itself stays");

    let deadline = Instant::now() + PATIENCE;
    let wanted = ["http.get", "POST /v1/workflows", "GET /v1/workflows/{id}", "opcode.workflow_id"];
    loop {
        let exported = collector.calls().await;
        let all: Vec<u8> = exported.iter().flat_map(|call| call.raw.to_vec()).collect();
        let has = |needle: &[u8]| all.windows(needle.len()).any(|window| window == needle);
        let id: Vec<u8> =
            (0..16).map(|at| u8::from_str_radix(&TRACE_ID[2 * at..2 * at + 2], 16).unwrap()).collect();
        if has(&id) && wanted.iter().all(|name| has(name.as_bytes())) {
            assert!(exported.iter().all(|call| call.path == "v1/traces"), "spans and nothing else");
            break;
        }
        assert!(Instant::now() < deadline, "the collector has not got the spans");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_trace_none_is_made_up_and_a_collector_that_is_not_there_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start().await;
    let definition =
        json!({"steps": [{"id": "call", "action": "http.get", "params": {"url": service.url("stock")}}]});
    let plain = NodeBuilder::new(&dir.path().join("plain")).start();
    let id = plain.submit(&json!({"definition": definition})).await;
    assert_eq!(plain.end(&id).await["context"], json!({}));
    assert_eq!(service.calls().await[0].traceparent, None);
    assert!(plain.stop().success());

    // Nobody listens on port 9 of loopback.
    let blind =
        NodeBuilder::new(&dir.path().join("blind")).arg("--otlp-endpoint").arg("http://127.0.0.1:9").start();
    let id = blind.submit(&json!({"definition": definition})).await;
    assert_eq!(blind.end(&id).await["status"], "completed");
    let deadline = Instant::now() + PATIENCE;
    while metrics(&blind).await.contains("opcode_spans_lost_total 0") {
        assert!(Instant::now() < deadline, "spans that nobody takes are told as lost");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(blind.stop().success());
}
