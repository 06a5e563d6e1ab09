//! Webhooks on real nodes: what receivers are told, and what happens when they or nodes fail.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE, opcode};
use crate::many::{Builders, Load, all_complete};
use crate::receiver::{Behaviour, Receiver, SECRET};

/// Runs between two kills.
const RUNS: usize = 40;

/// The same node with a key for secrets and short pauses between tries.
fn with_key(builder: NodeBuilder, home: &Path) -> NodeBuilder {
    let file = home.join("key");
    std::fs::write(&file, "c5".repeat(32)).expect("a key file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let builder = builder.arg("--secrets-key-file").arg(file.display().to_string());
    builder.arg("--webhook-retry-delays").arg("200ms,200ms,300ms")
}

fn start(home: &Path) -> Node {
    with_key(NodeBuilder::new(&home.join("data")), home).start()
}

/// Makes a webhook to a receiver.
async fn hook(node: &Node, id: &str, url: &str, events: &[&str], filter: Value) -> Value {
    let body = json!({"id": id, "url": url, "events": events, "filter": filter, "secret": SECRET});
    let (status, made) = node.post("/v1/webhooks", &body).await;
    assert_eq!(status, 201, "{made}");
    made
}

fn simple() -> Value {
    json!({"steps": [{"id": "a", "action": "expr.eval", "params": {"expression": "6 * 7"}}]})
}

fn failing() -> Value {
    json!({"steps": [{"id": "a", "action": "assert.equals", "params": {"actual": 1, "expected": 2}}]})
}

fn asking() -> Value {
    json!({"steps": [{"id": "ask", "type": "reasoning", "config": {
        "prompt_context": "Go on?", "options": [{"id": "yes"}, {"id": "no"}]}}]})
}

/// Waits until what a call says is as wanted.
async fn until(node: &Node, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, said) = node.get(path).await;
        if status == 200 && is_so(&said) {
            return said;
        }
        assert!(Instant::now() < deadline, "{path}: not in time: {status}: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn runs(receiver: &Receiver, kind: &str) -> BTreeSet<String> {
    receiver.taken().iter().filter(|one| one.kind() == kind).map(|one| one.run().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_is_told_of_what_it_wants_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let (all, some, none) = (
        Receiver::start(Behaviour::Take).await,
        Receiver::start(Behaviour::Endless).await,
        Receiver::start(Behaviour::Take).await,
    );
    let events = ["workflow.completed", "workflow.failed", "decision.requested"];
    let made = hook(&node, "all", &all.url, &events, json!({})).await;
    assert_eq!((&made["secret"], &made["active"]), (&json!(SECRET), &json!(true)), "{made}");
    hook(&node, "some", &some.url, &events, json!({"label": "env:prod", "agent_id": "bot"})).await;
    hook(&node, "none", &none.url, &events, json!({"template": "other"})).await;
    node.submit(&json!({"id": "ok", "definition": simple(), "labels": {"env": "prod"}, "agent_id": "bot"}))
        .await;
    node.submit(&json!({"id": "bad", "definition": failing(), "labels": {"env": "prod"}})).await;
    node.submit(&json!({"id": "open", "definition": asking(), "labels": {"env": "dev"}, "agent_id": "bot"}))
        .await;
    let told = all.until("three events", |seen| seen.len() >= 3).await;
    let kinds: BTreeSet<(&str, &str)> = told.iter().map(|one| (one.run(), one.kind())).collect();
    let expect = [("ok", events[0]), ("bad", events[1]), ("open", events[2])];
    assert_eq!(kinds, expect.into(), "{told:?}");
    let ok = told.iter().find(|one| one.run() == "ok").unwrap();
    let data = &ok.body["data"];
    assert_eq!(ok.body["id"], ok.id.as_str());
    assert_eq!((&data["status"], &data["agent_id"]), (&json!("completed"), &json!("bot")), "{data}");
    assert_eq!(data["labels"], json!({"env": "prod"}));
    let last = node.events("ok").await.pop().unwrap();
    assert_eq!((&data["sequence"], &data["event"]), (&last["sequence"], &last["data"]));
    some.until("one event", |seen| !seen.is_empty()).await;
    let shown = until(&node, "/v1/webhooks/all", |shown| shown["status"]["delivered"] == 3).await;
    assert_eq!((shown.get("secret"), &shown["status"]["last_error"]), (None, &Value::Null), "{shown}");
    assert!(shown["status"]["last_success_at"].is_string(), "{shown}");
    until(&node, "/v1/webhooks/some", |shown| shown["status"]["delivered"] == 1).await;
    assert_eq!((some.seen().len(), none.seen().len()), (1, 0), "filters hold");
    let (_, list) = node.get("/v1/webhooks?limit=2").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    assert!(list["next_cursor"].is_string() && !list.to_string().contains("whsec_"), "{list}");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again_then_dead_then_told_when_asked() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let (bad, good) =
        (Receiver::start(Behaviour::FailTimes(2)).await, Receiver::start(Behaviour::Take).await);
    hook(&node, "bad", &bad.url, &["workflow.completed"], json!({})).await;
    hook(&node, "good", &good.url, &["workflow.completed"], json!({})).await;
    node.submit(&json!({"id": "first", "definition": simple()})).await;
    let tries = bad.until("the third try", |seen| seen.iter().any(|one| one.was_taken)).await;
    assert_eq!(tries.len(), 3, "{tries:?}");
    assert!(tries.iter().all(|one| one.id == tries[0].id && one.body == tries[0].body), "{tries:?}");
    until(&node, "/v1/webhooks/bad/failures", |list| list["items"] == json!([])).await;

    bad.behave(Behaviour::Fail);
    node.submit(&json!({"id": "second", "definition": simple()})).await;
    let dead =
        until(&node, "/v1/webhooks/bad/failures?state=dead", |list| list["items"][0].is_object()).await;
    let dead = &dead["items"][0];
    assert_eq!((&dead["tries"], &dead["workflow_id"]), (&json!(4), &json!("second")), "{dead}");
    assert!(dead["last_error"].as_str().unwrap().contains("500") && dead["next_at"].is_null(), "{dead}");
    good.until("the other is told", |seen| seen.len() == 2).await;
    let shown = until(&node, "/v1/webhooks/bad", |shown| shown["status"]["dead"] == 1).await;
    assert_eq!(shown["active"], true, "{shown}");

    bad.behave(Behaviour::Take);
    let failure = format!("/v1/webhooks/bad/failures/{}", dead["delivery"].as_str().unwrap());
    let (status, again) = node.post(&format!("{failure}/retry"), &json!({})).await;
    assert_eq!((status, &again["state"]), (202, &json!("retrying")), "{again}");
    bad.until("it is told when asked", |seen| seen.iter().any(|one| one.run() == "second" && one.was_taken))
        .await;
    until(&node, "/v1/webhooks/bad/failures", |list| list["items"] == json!([])).await;
    let gone = node.request(reqwest::Method::DELETE, &failure).send().await.unwrap();
    assert_eq!(gone.status(), 404);
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_holds_up_no_other() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let (hung, good) = (Receiver::start(Behaviour::Hang).await, Receiver::start(Behaviour::Take).await);
    hook(&node, "hung", &hung.url, &["workflow.completed"], json!({})).await;
    hook(&node, "good", &good.url, &["workflow.completed"], json!({})).await;
    for n in 0..20 {
        node.submit(&json!({"id": format!("r{n}"), "definition": simple()})).await;
    }
    good.until("all are told to the other", |seen| seen.len() == 20).await;
    let list = until(&node, "/v1/webhooks/hung/failures", |list| list["items"][0].is_object()).await;
    let why = list["items"][0]["last_error"].as_str().unwrap();
    assert!(why.contains("took too long"), "{why}");
    // What hangs is let go of with its webhook.
    let deleted = node.request(reqwest::Method::DELETE, "/v1/webhooks/hung").send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    assert_eq!(node.get("/v1/webhooks/hung/failures").await.0, 404);
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed_and_gone_means_inactive() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let inner = Receiver::start(Behaviour::Take).await;
    let moved = Receiver::start(Behaviour::Redirect(inner.url.clone())).await;
    let gone = Receiver::start(Behaviour::Gone).await;
    hook(&node, "moved", &moved.url, &["workflow.completed"], json!({})).await;
    hook(&node, "gone", &gone.url, &["workflow.completed"], json!({})).await;
    node.submit(&json!({"id": "r", "definition": simple()})).await;
    let list =
        until(&node, "/v1/webhooks/moved/failures?state=dead", |list| list["items"][0].is_object()).await;
    assert!(list["items"][0]["last_error"].as_str().unwrap().contains("redirects (302)"), "{list}");
    assert!(inner.seen().is_empty(), "a redirect was followed");
    let shown = until(&node, "/v1/webhooks/gone", |shown| shown["active"] == false).await;
    assert!(shown["disabled_reason"].as_str().unwrap().contains("410"), "{shown}");
    // Made active again, it is told of what comes from then on.
    gone.behave(Behaviour::Take);
    let patch = node.request(reqwest::Method::PATCH, "/v1/webhooks/gone").json(&json!({"active": true}));
    let changed: Value = patch.send().await.unwrap().json().await.unwrap();
    assert_eq!((&changed["active"], &changed["disabled_reason"]), (&json!(true), &Value::Null), "{changed}");
    node.submit(&json!({"id": "later", "definition": simple()})).await;
    let seen = gone.until("it is told again", |seen| seen.iter().any(|one| one.was_taken)).await;
    assert!(seen.iter().all(|one| one.run() == "later" || !one.was_taken), "{seen:?}");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_are_never_posted_to() {
    let home = tempfile::tempdir().unwrap();
    let node = with_key(NodeBuilder::strict(&home.path().join("data")), home.path()).start();
    let private = Receiver::start(Behaviour::Take).await;
    for url in [&*private.url, "http://169.254.169.254/latest", "http://[::1]/", "http://0x7f000001/"] {
        let body = json!({"url": url, "events": ["workflow.completed"]});
        let (status, refused) = node.post("/v1/webhooks", &body).await;
        assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/url")), "{url}: {refused}");
    }
    // A name is looked up when it is posted to, and only what may be reached is connected to.
    let named = private.url.replace("127.0.0.1", "localhost");
    hook(&node, "named", &named, &["workflow.completed"], json!({})).await;
    let (status, tested) = node.post("/v1/webhooks/named/test", &json!({})).await;
    assert_eq!((status, &tested["delivered"]), (200, &json!(false)), "{tested}");
    assert!(tested["error"].as_str().unwrap().contains("private or loopback"), "{tested}");
    node.submit(&json!({"id": "r", "definition": simple()})).await;
    until(&node, "/v1/webhooks/named/failures?state=dead", |list| list["items"][0].is_object()).await;
    assert!(private.seen().is_empty());
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_only_so_many_and_each_once() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let body = |n: usize| json!({"id": format!("w{n}"), "url": "https://example.com/", "events": ["step.failed"], "active": false});
    for n in 0..100 {
        let (status, made) = node.post("/v1/webhooks", &body(n)).await;
        assert_eq!(status, 201, "{made}");
        assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    }
    for n in 100..110 {
        let (status, refused) = node.post("/v1/webhooks", &body(n)).await;
        assert_eq!((status, &refused["code"]), (409, &json!("CONFLICT")), "{refused}");
    }
    assert_eq!(node.post("/v1/webhooks", &body(7)).await.0, 200, "the same again");
    let mut other = body(7);
    other["events"] = json!(["step.completed"]);
    assert_eq!(node.post("/v1/webhooks", &other).await.0, 409);
    let (_, list) = node.get("/v1/webhooks?limit=1000").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 100);
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_node_is_killed_again_and_again() {
    let home = tempfile::tempdir().unwrap();
    let builder = with_key(NodeBuilder::new(&home.path().join("data")), home.path());
    let receiver = Receiver::start(Behaviour::Take).await;
    let mut node = builder.start();
    hook(&node, "w", &receiver.url, &["workflow.completed"], json!({})).await;
    let mut wanted = BTreeSet::new();
    for kill in 0..3 {
        for n in 0..RUNS {
            let id = format!("r{kill}-{n}");
            node.submit(&json!({"id": id, "definition": simple()})).await;
            wanted.insert(id);
        }
        node.kill();
        node = builder.start();
    }
    receiver.until("every run is told", |_| runs(&receiver, "workflow.completed") == wanted).await;
    // Told again or not, an event has one id.
    let ids: BTreeSet<String> = receiver.taken().into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), wanted.len());
    let shown = until(&node, "/v1/webhooks/w", |shown| shown["status"]["behind"] == 0).await;
    assert_eq!(shown["status"]["missed"], 0, "{shown}");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_goes_on_when_one_dies() {
    let home = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(home.path());
    builders.0 = builders.0.into_iter().map(|builder| with_key(builder, home.path())).collect();
    let mut nodes = builders.start().await;
    let receiver = Receiver::start(Behaviour::Take).await;
    hook(&nodes[0], "w", &receiver.url, &["workflow.completed"], json!({})).await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let load = Load::start("hook", &urls);
    load.goes_on(30).await;
    nodes.remove(0).kill();
    load.goes_on(30).await;
    let acknowledged = load.end().await.ids;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged).await;
    let told = |_: &[_]| {
        let told = runs(&receiver, "workflow.completed");
        acknowledged.iter().all(|id| told.contains(id))
    };
    receiver.until("every run is told", told).await;
    let shown = until(&nodes[0], "/v1/webhooks/w", |shown| shown["status"]["missed"] == 0).await;
    assert_eq!(shown["active"], true, "{shown}");
}

/// What a command says, as JSON.
fn told(node: &Node, args: &[&str]) -> Value {
    let output = opcode().args(["--server", &node.url, "-o", "json"]).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_keeps_webhooks() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let receiver = Receiver::start(Behaviour::Take).await;
    let secret = home.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let secret = secret.display().to_string();
    let args = [
        "webhook",
        "create",
        &receiver.url,
        "--id",
        "w",
        "--event",
        "workflow.failed",
        "--secret-file",
        &secret,
    ];
    assert_eq!(told(&node, &args)["id"], "w");
    assert_eq!(told(&node, &["webhook", "test", "w"])["delivered"], true);
    assert_eq!(receiver.seen()[0].kind(), "ping");
    receiver.behave(Behaviour::Fail);
    node.submit(&json!({"id": "bad", "definition": failing()})).await;
    until(&node, "/v1/webhooks/w/failures?state=dead", |list| list["items"][0].is_object()).await;
    let failures = told(&node, &["webhook", "failures", "w", "--state", "dead"]);
    assert_eq!(failures["items"][0]["workflow_id"], "bad", "{failures}");
    receiver.behave(Behaviour::Take);
    told(&node, &["webhook", "retry", "w", "--dead"]);
    receiver.until("it is told", |seen| seen.iter().any(|one| one.run() == "bad" && one.was_taken)).await;
    assert_eq!(told(&node, &["webhook", "pause", "w"])["active"], false);
    assert_eq!(told(&node, &["webhook", "resume", "w"])["active"], true);
    assert_eq!(told(&node, &["webhook", "list"])["items"][0]["id"], "w");
    told(&node, &["webhook", "rm", "w"]);
    assert_eq!(told(&node, &["webhook", "list"])["items"], json!([]));
    let args = ["--server", &node.url, "-o", "jsonl", "events", "--type", "workflow_failed"];
    let events = opcode().args(args).output().unwrap();
    let lines = String::from_utf8(events.stdout).unwrap();
    let event: Value = serde_json::from_str(lines.lines().next().expect("an event")).unwrap();
    assert_eq!((&event["workflow_id"], lines.lines().count()), (&json!("bad"), 1), "{lines}");
    assert!(node.stop().success());
}
