//! Reads and streams of real clusters while leaders die, hang and are cut off: strong ones are never
//! older than what was acknowledged, sessions never go back, replicas say how far behind they are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opcode_engine::ids::WorkflowId;
use opcode_router::placement::shard_of;
use serde_json::{Value, json};

use crate::cluster::{Node, PATIENCE};
use crate::many::{Builders, Load, SHARDS, all_complete, all_shards, wait_for};

/// Signals that are sent to a run, one after another.
const SIGNALS: usize = 40;

/// Waits for every signal at once, and for a decision.
fn waiting() -> Value {
    let wait = |n: usize| json!({"id": format!("w{n}"), "type": "wait", "config": {"signal": format!("signal-{n}")}});
    let ask = json!({"id": "ask", "type": "reasoning", "config": {
        "prompt_context": "Go on?", "options": [{"id": "yes"}, {"id": "no"}]}});
    json!({"steps": (0..SIGNALS).map(wait).chain([ask]).collect::<Vec<_>>()})
}

fn shard_name(id: &str) -> u64 {
    let shards = u32::try_from(SHARDS).unwrap();
    u64::from(shard_of(&WorkflowId::parse(id).unwrap(), shards).0)
}

/// The place of the node among `nodes` that leads a run's shard, as `from` knows it.
async fn leader_of(nodes: &[Node], from: usize, id: &str) -> usize {
    let name = shard_name(id);
    let cluster = wait_for(&nodes[from], "the shard is led", |cluster| {
        all_shards(cluster).iter().any(|shard| shard["shard"] == name && shard["primary"].is_string())
    })
    .await;
    let shard = all_shards(&cluster).into_iter().find(|shard| shard["shard"] == name).unwrap();
    let leader: usize = shard["primary"].as_str().unwrap().parse().unwrap();
    leader - 1
}

/// An answer with what it says of itself.
struct Read {
    status: u16,
    body: Value,
    token: Option<String>,
    lag_ms: Option<u64>,
}

async fn read(node: &Node, path: &str, token: Option<&str>) -> Read {
    let mut request = node.request(reqwest::Method::GET, path);
    if let Some(token) = token {
        request = request.header("opcode-token", token);
    }
    let response = request.send().await.expect("the node answers");
    let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let (token, lag_ms) = (header("opcode-token"), header("opcode-lag-ms"));
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Read { status, body, token, lag_ms: lag_ms.map(|ms| ms.parse().unwrap()) }
}

/// Sends a signal through a node until it is acknowledged; its sequence and the answer's token.
async fn signal(node: &Node, id: &str, n: usize) -> (u64, String) {
    let deadline = Instant::now() + PATIENCE;
    let name = format!("signal-{n}");
    let body = json!({"type": "data", "payload": {"name": name}, "signal_id": name});
    loop {
        let request = node.request(reqwest::Method::POST, &format!("/v1/workflows/{id}/signals"));
        let response = request.json(&body).send().await.expect("the node answers");
        let token = response.headers().get("opcode-token").map(|v| v.to_str().unwrap().to_owned());
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        if status == 202 {
            let answer: Value = serde_json::from_str(&text).unwrap();
            return (answer["sequence"].as_u64().unwrap(), token.unwrap());
        }
        assert!(matches!(status, 429 | 503), "{status}: {text}");
        assert!(Instant::now() < deadline, "not acknowledged: {text}");
    }
}

fn last_sequence(events: &Read) -> u64 {
    let items = events.body["items"].as_array().unwrap_or_else(|| panic!("{}", events.body));
    items.last().map_or(0, |event| event["sequence"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_forward_on_any_node_while_a_leader_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    nodes[0].submit(&json!({"id": "s", "definition": waiting()})).await;
    let victim = leader_of(&nodes, 0, "s").await;
    let mut by_replicas = 0;
    for n in 0..SIGNALS {
        if n == SIGNALS / 2 {
            nodes.remove(victim).kill();
        }
        let (sequence, mut token) = signal(&nodes[n % nodes.len()], "s", n).await;
        for node in &nodes {
            let path = "/v1/workflows/s/events?consistency=session&limit=1000";
            let events = read(node, path, Some(&token)).await;
            assert_eq!(events.status, 200, "{}", events.body);
            assert!(last_sequence(&events) >= sequence, "a session went back");
            by_replicas += usize::from(events.lag_ms.unwrap() > 0);
            token = events.token.unwrap();
            let run = read(node, "/v1/workflows/s?consistency=session", Some(&token)).await;
            assert_eq!((run.status, &run.body["workflow_id"]), (200, &json!("s")), "{}", run.body);
            let list = read(node, "/v1/workflows?consistency=session", Some(&token)).await;
            assert_eq!(list.body["items"][0]["workflow_id"], "s", "{}", list.body);
        }
        let strong = read(&nodes[(n + 1) % nodes.len()], "/v1/workflows/s/events?limit=1000", None).await;
        assert!(last_sequence(&strong) >= sequence, "a strong read is older than what was acknowledged");
        assert_eq!(strong.lag_ms, None, "the leader's answer has no lag");
    }
    assert!(by_replicas > 0, "no follower ever answered");
    let wrong = read(&nodes[0], "/v1/workflows/s?consistency=session", Some("three")).await;
    assert_eq!(wrong.status, 400, "{}", wrong.body);
    // A place that no log has come to: the leader says what there is.
    let ahead = format!("{}:999999:999999", shard_name("s"));
    let ahead = read(&nodes[0], "/v1/workflows/s?consistency=session", Some(&ahead)).await;
    assert_eq!((ahead.status, ahead.lag_ms), (200, Some(0)), "{}", ahead.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_answer_without_a_majority_and_say_how_far_behind_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    nodes[0].submit(&json!({"id": "s", "definition": waiting()})).await;
    let (sequence, token) = signal(&nodes[1], "s", 1).await;
    let seen = read(&nodes[0], "/v1/workflows/s/events?consistency=session", Some(&token)).await;
    assert_eq!(seen.status, 200);
    nodes.remove(2).kill();
    nodes.remove(1).kill();
    let deadline = Instant::now() + PATIENCE;
    let alone = Instant::now();
    loop {
        let strong = read(&nodes[0], "/v1/workflows/s", None).await;
        if strong.status == 503 {
            assert_eq!(strong.body["applied"], "no", "a read changes nothing: {}", strong.body);
            break;
        }
        assert!(Instant::now() < deadline, "a strong read without a majority: {}", strong.body);
    }
    let alone = alone.elapsed();
    let eventual = read(&nodes[0], "/v1/workflows/s/events?consistency=eventual&limit=1000", None).await;
    assert_eq!(eventual.status, 200, "{}", eventual.body);
    assert!(last_sequence(&eventual) >= sequence, "what was acknowledged is on every replica by now");
    let told = Duration::from_millis(eventual.lag_ms.unwrap()) + Duration::from_secs(2);
    assert!(told >= alone, "it says {:?} and was alone for {alone:?}", eventual.lag_ms);
    let run = read(&nodes[0], "/v1/workflows/s?consistency=eventual", None).await;
    assert_eq!((run.status, &run.body["workflow_id"]), (200, &json!("s")), "{}", run.body);
    let list = read(&nodes[0], "/v1/workflows?consistency=eventual", None).await;
    assert_eq!(list.body["items"][0]["workflow_id"], "s", "{}", list.body);
    assert!(list.body.get("unreachable_shards").is_none(), "{}", list.body);
    // A session goes on too where the replica has what was seen.
    let session = read(&nodes[0], "/v1/workflows/s?consistency=session", Some(&token)).await;
    assert_eq!(session.status, 200, "{}", session.body);
}

/// Reads frames of a stream.
struct Stream {
    response: reqwest::Response,
    rest: String,
}

impl Stream {
    async fn open(node: &Node, path: &str) -> Self {
        let request = node.request(reqwest::Method::GET, path).header("accept", "text/event-stream");
        // It lasts as long as the test does; that it says nothing for long is looked at below.
        let request = request.timeout(PATIENCE * 20);
        let response = request.send().await.expect("the node answers");
        assert_eq!(response.status().as_u16(), 200);
        Self { response, rest: String::new() }
    }

    /// The next event, as its name and its data; none at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            while let Some((frame, rest)) = self.rest.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
                let found = field("event: ").zip(field("data: "));
                let found = found.map(|(name, data)| (name.to_owned(), serde_json::from_str(data).unwrap()));
                self.rest = rest.to_owned();
                if found.is_some() {
                    return found;
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("the stream says that it lives").expect("the stream is whole")?;
            self.rest.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_on_when_a_leader_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    nodes[0].submit(&json!({"id": "s", "definition": waiting()})).await;
    let victim = leader_of(&nodes, 0, "s").await;
    let dying = nodes.remove(victim);
    let mut follow = Stream::open(&nodes[0], "/v1/workflows/s/events").await;
    let mut firehose = Stream::open(&nodes[1], "/v1/events").await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let load = Load::start("stream", &urls);
    for n in 0..3 {
        signal(&nodes[0], "s", n).await;
    }
    dying.kill();
    for n in 3..SIGNALS {
        signal(&nodes[1], "s", n).await;
    }
    let acknowledged = load.end().await.ids;
    let decision =
        json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}, "signal_id": "d"});
    let (status, answer) = nodes[1].post("/v1/workflows/s/signals", &decision).await;
    assert_eq!(status, 202, "{answer}");
    let mut seen = 0;
    while let Some((name, event)) = follow.next().await {
        seen += 1;
        assert_eq!(event["sequence"], seen, "{name}: a gap, or an event twice");
    }
    let events = nodes[0].events("s").await;
    assert_eq!(seen, u64::try_from(events.len()).unwrap());
    assert!(events.iter().any(|event| event["type"] == "workflow_completed"), "{events:?}");
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged).await;

    // Of every run, the firehose of a node that leads some shards and not others has every event,
    // once and in order.
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut open: std::collections::BTreeSet<&str> = acknowledged.iter().map(String::as_str).collect();
    open.insert("s");
    while !open.is_empty() {
        let (name, event) = firehose.next().await.expect("the firehose does not end");
        assert!(!matches!(name.as_str(), "lagged" | "unreachable"), "{name}: {event}");
        let id = event["workflow_id"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned();
        let sequence = event["sequence"].as_u64().unwrap();
        if let Some(before) = last.insert(id.clone(), sequence) {
            assert_eq!(sequence, before + 1, "{id}: a gap, or an event twice");
        } else if id != "s" {
            assert_eq!(sequence, 1, "{id}: its start is missing");
        }
        if name == "workflow_completed" {
            open.remove(id.as_str());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_waits_for_a_leader_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let nodes = builders.start().await;
    nodes[0].submit(&json!({"id": "s", "definition": waiting()})).await;
    let victim = leader_of(&nodes, 0, "s").await;
    let asked = &nodes[(victim + 1) % 3];
    let pid = Pid::from_raw(i32::try_from(nodes[victim].pid()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    // In the leader's hands when it hangs, or on the way there: answered by its successor.
    let started = Instant::now();
    let body = json!({"type": "data", "payload": {"name": "signal-1"}, "signal_id": "once"});
    let (signalled, run, events) = tokio::join!(
        asked.post("/v1/workflows/s/signals", &body),
        asked.get("/v1/workflows/s"),
        asked.get("/v1/workflows/s/events?limit=1000"),
    );
    let took = started.elapsed();
    assert_eq!((signalled.0, run.0, events.0), (202, 200, 200), "{signalled:?} {run:?} {events:?}");
    assert!(took < Duration::from_secs(11), "they waited {took:?} for one that hangs");
    kill(pid, Signal::SIGCONT).unwrap();
    // The one that comes back takes nothing from what was acknowledged without it, and says it.
    let (status, again) = nodes[victim].post("/v1/workflows/s/signals", &body).await;
    assert_eq!((status, &again["sequence"]), (202, &signalled.1["sequence"]), "{again}");
    let read = read(&nodes[victim], "/v1/workflows/s/events?limit=1000", None).await;
    assert!(last_sequence(&read) >= signalled.1["sequence"].as_u64().unwrap());
}
