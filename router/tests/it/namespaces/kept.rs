//! What is in a namespace: runs, templates, schedules, secrets, children, all under names that others have
//! too; and nothing of it shows that they do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{At, PATCH, POST, asks, node, says};
use crate::node::{Answer, Node};

const PATIENCE: Duration = Duration::from_secs(30);

/// The three that every test here looks at.
fn all(node: &Node) -> [(At<'_>, &'static str); 3] {
    [
        (At::default_of(node), "default"),
        (At::of(node, "team-a"), "team-a"),
        (At::of(node, "team-b"), "team-b"),
    ]
}

/// Nothing that is shown has a namespace before a name.
#[track_caller]
fn shows_no_namespace(answer: &Answer) {
    let text = String::from_utf8_lossy(&answer.body);
    assert!(!text.contains("team-a/") && !text.contains("team-b/"), "{text}");
    assert!(!answer.header("location").contains("team-"), "{}", answer.header("location"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_one_id_are_one_run_in_each_namespace() {
    let node = node().await;
    for (at, name) in all(&node) {
        let file = json!({"name": "t", "definition": says(name)});
        let defined = at.post("/v1/templates", file).await;
        assert_eq!((defined.status, &defined.json()["version"]), (201, &json!("v1")), "{name}");
        assert_eq!(defined.header("location"), "/v1/templates/t?version=v1");
        let body = json!({"id": "w", "template": "t", "labels": {"of": name}});
        let started = at.post("/v1/workflows?wait=10s", body.clone()).await;
        assert_eq!(started.status, 201, "{name}: {:?}", started.body);
        assert_eq!(started.header("location"), "/v1/workflows/w");
        assert_eq!(started.json()["output"], json!({"says": name}), "{:?}", started.body);
        assert_eq!(at.post("/v1/workflows", body).await.status, 200, "the same again is the same run");
    }
    for (at, name) in all(&node) {
        let run = at.get("/v1/workflows/w").await;
        let document = run.json();
        assert_eq!((&document["workflow_id"], &document["template"]), (&json!("w"), &json!("t")));
        assert_eq!((&document["output"]["says"], &document["labels"]["of"]), (&json!(name), &json!(name)));
        shows_no_namespace(&run);
        for path in [
            "/v1/workflows/w/events",
            "/v1/workflows/w/definition",
            "/v1/workflows/w/why",
            "/v1/workflows/w/diagram",
            "/v1/workflows?template=t",
            "/v1/templates",
            "/v1/templates/t",
            "/v1/templates/t/diagram",
        ] {
            let answer = at.get(path).await;
            assert_eq!(answer.status, 200, "{name}: {path}");
            shows_no_namespace(&answer);
        }
        let events = at.get("/v1/workflows/w/events").await.json();
        let started = &events["items"][0]["data"];
        assert_eq!((&started["workflow_id"], &started["template"]), (&json!("w"), &json!("t")), "{started}");
        assert_eq!(at.listed("/v1/workflows", "workflow_id").await, ["w"]);
        assert_eq!(at.listed("/v1/templates", "name").await, ["t"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_and_keys_and_ids_of_the_servers_stay_in_their_namespace() {
    let node = node().await;
    for (at, name) in all(&node) {
        let items = json!({"workflows": [{"id": "x", "definition": says(name)}, {"definition": says(name)}]});
        let results = at.post("/v1/workflows/batch", items).await;
        shows_no_namespace(&results);
        let results = results.json()["results"].clone();
        assert_eq!((&results[0]["status"], &results[0]["workflow_id"]), (&json!(201), &json!("x")));
        let made = results[1]["workflow_id"].as_str().expect("an id");
        assert_eq!(at.get(&format!("/v1/workflows/{made}?wait=10s")).await.json()["output"]["says"], name);
        let by_key = async || {
            let body = json!({"definition": says(name)});
            let mut request = at.request(POST, "/v1/workflows?wait=10s", Some(&body));
            request.headers_mut().insert("idempotency-key", "order-17".parse().expect("a header"));
            node.send(request).await
        };
        let (first, again) = (by_key().await, by_key().await);
        assert_eq!((first.status, again.status), (201, 200), "{name}");
        assert_eq!(first.json()["output"]["says"], name, "the key is this namespace's");
        assert_eq!(at.listed("/v1/workflows", "workflow_id").await.len(), 3, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_and_signals_are_those_of_a_namespaces_runs() {
    let node = node().await;
    for (at, name) in all(&node) {
        let body = json!({"id": "q", "definition": asks()});
        let started = at.post("/v1/workflows?wait=10s", body).await.json();
        assert_eq!(started["status"], "suspended", "{name}: {started}");
    }
    let decision = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    let team = At::of(&node, "team-a");
    let pending = team.get("/v1/decisions").await;
    shows_no_namespace(&pending);
    let items = pending.json()["items"].clone();
    assert_eq!(items.as_array().map(Vec::len), Some(1), "{items}");
    assert_eq!((&items[0]["workflow_id"], &items[0]["decision_id"]), (&json!("q"), &json!("q:ask:1")));
    assert_eq!(team.listed("/v1/decisions?workflow_id=q", "decision_id").await, ["q:ask:1"]);
    let why = team.get("/v1/workflows/q/why").await;
    shows_no_namespace(&why);
    assert!(String::from_utf8_lossy(&why.body).contains("/v1/workflows/q/signals"), "{:?}", why.body);
    assert_eq!(team.post("/v1/workflows/q/signals", decision).await.status, 202);
    assert_eq!(team.get("/v1/workflows/q?wait=10s").await.json()["status"], "completed");
    for (at, name) in all(&node) {
        let left = usize::from(name != "team-a");
        assert_eq!(at.listed("/v1/decisions", "decision_id").await.len(), left, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_given_the_secrets_of_its_own_namespace() {
    let node = node().await;
    let hmac = |key: &str| json!({"steps": [{"id": "a", "action": "crypto.hmac", "params": {"data": "d", "key": key}}]});
    for (at, name) in all(&node) {
        let set = at.put("/v1/secrets/K", json!({"value": format!("secret of {name}")})).await;
        assert_eq!((set.status, &set.json()["key"]), (201, &json!("K")), "{name}");
        assert_eq!(at.listed("/v1/secrets", "key").await, ["K"]);
    }
    for (at, name) in all(&node) {
        let run = async |key: &str| {
            let started = at.post("/v1/workflows?wait=10s", json!({"definition": hmac(key)})).await.json();
            started["output"]["a"]["hmac"].as_str().expect("an hmac").to_owned()
        };
        assert_eq!(run("${{secrets.K}}").await, run(&format!("secret of {name}")).await, "{name}");
    }
    assert_eq!(At::of(&node, "team-a").delete("/v1/secrets/K").await.json()["key"], "K");
    let missing = json!({"definition": hmac("${{secrets.K}}")});
    let failed = At::of(&node, "team-a").post("/v1/workflows?wait=10s", missing).await;
    shows_no_namespace(&failed);
    assert_eq!(failed.json()["error"]["code"], "VAULT_ERROR", "{:?}", failed.body);
    assert_eq!(At::default_of(&node).listed("/v1/secrets", "key").await, ["K"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_run_in_the_namespace_of_their_parent() {
    let node = node().await;
    for (at, name) in &all(&node)[..2] {
        let child = json!({"name": "child", "definition": says(name)});
        assert_eq!(at.post("/v1/templates", child).await.status, 201);
    }
    let parent = |params: Value| {
        json!({"id": "p", "definition": {"steps": [
        {"id": "c", "action": "workflow.run", "params": params}]}})
    };
    let waits = json!({"template_name": "child"});
    for (at, name) in &all(&node)[..2] {
        let started = at.post("/v1/workflows?wait=20s", parent(waits.clone())).await.json();
        assert_eq!(started["output"]["c"], json!({"says": name}), "{started}");
        let run = at.get("/v1/workflows/p").await;
        shows_no_namespace(&run);
        assert_eq!(run.json()["steps"]["c"]["child"], "p:c:1", "{:?}", run.body);
        let child = at.get("/v1/workflows/p:c:1").await;
        shows_no_namespace(&child);
        assert_eq!(child.json()["parent"], json!({"workflow_id": "p", "step_id": "c", "attempt": 1}));
        for id in ["p", "p:c:1"] {
            shows_no_namespace(&at.get(&format!("/v1/workflows/{id}/events")).await);
        }
        assert_eq!(at.listed("/v1/workflows?template=child", "workflow_id").await, ["p:c:1"]);
    }
    // Where there is no such template, and by a name that is another's.
    let other = At::of(&node, "team-b");
    let failed = other.post("/v1/workflows?wait=20s", parent(waits)).await.json();
    assert_eq!(failed["error"]["code"], "NOT_FOUND", "{failed}");
    for name in ["team-a/child", "default/child", "/child"] {
        let body = json!({"definition": {"steps": [
            {"id": "c", "action": "workflow.run", "params": {"template_name": name}}]}});
        let failed = At::default_of(&node).post("/v1/workflows?wait=20s", body).await.json();
        assert_eq!(failed["error"]["code"], "NOT_FOUND", "{name}: {failed}");
    }
    // One that is not waited for, and one that is called off with its parent.
    let team = At::of(&node, "team-a");
    let leaves = json!({"id": "l", "definition": {"steps": [{"id": "c", "action": "workflow.run",
        "params": {"template_name": "child", "wait": false}}]}});
    let left = team.post("/v1/workflows?wait=20s", leaves).await.json();
    assert_eq!(left["output"]["c"]["workflow_id"], "l:c:1", "{left}");
    let asking = json!({"name": "asking", "definition": asks()});
    assert_eq!(team.post("/v1/templates", asking).await.status, 201);
    let holds = json!({"id": "h", "definition": {"steps": [{"id": "c", "action": "workflow.run",
        "params": {"template_name": "asking"}}]}});
    assert_eq!(team.post("/v1/workflows", holds).await.status, 201);
    until(team, "/v1/workflows/h:c:1", |child| child["status"] == "suspended").await;
    assert_eq!(team.post("/v1/workflows/h/cancel", json!({})).await.status, 202);
    until(team, "/v1/workflows/h:c:1", |child| child["status"] == "cancelled").await;
    shows_no_namespace(&team.get("/v1/workflows/h:c:1/events").await);
    shows_no_namespace(&team.get("/v1/workflows/h/events").await);
}

/// Waits until what is shown there holds.
async fn until(at: At<'_>, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = at.get(path).await;
        let shown = answer.json();
        if answer.status == 200 && holds(&shown) {
            return shown;
        }
        assert!(Instant::now() < deadline, "{path}: not in time: {shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_start_runs_in_their_own_namespace() {
    let node = node().await;
    for (at, name) in &all(&node)[..2] {
        let file = json!({"name": "tick", "definition": says(name)});
        assert_eq!(at.post("/v1/templates", file).await.status, 201);
        let interval = if *name == "default" { "1h" } else { "1s" };
        let body = json!({"id": "s", "template": "tick", "interval": interval, "overlap": "parallel"});
        let made = at.post("/v1/schedules", body.clone()).await;
        assert_eq!((made.status, made.header("location")), (201, "/v1/schedules/s"), "{:?}", made.body);
        assert_eq!(at.post("/v1/schedules", body).await.status, 200, "the same again");
        assert_eq!(at.listed("/v1/schedules", "id").await, ["s"]);
    }
    let team = At::of(&node, "team-a");
    let page = until(team, "/v1/workflows?label=schedule:s", |page| {
        page["items"].as_array().is_some_and(|items| items.len() >= 2)
    })
    .await;
    let id = page["items"][0]["workflow_id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("s:2"), "{id}");
    let run = until(team, &format!("/v1/workflows/{id}"), |run| run["status"] == "completed").await;
    assert_eq!((&run["output"]["says"], &run["context"]["schedule"]), (&json!("team-a"), &json!("s")));
    assert!(At::default_of(&node).listed("/v1/workflows", "workflow_id").await.is_empty());

    let paused = team.ask(PATCH, "/v1/schedules/s", Some(&json!({"paused": true}))).await;
    shows_no_namespace(&paused);
    assert!(paused.json()["last_workflow_id"].as_str().is_some_and(|id| id.starts_with("s:2")));
    let next = team.get("/v1/schedules/s/next?n=1").await;
    shows_no_namespace(&next);
    let triggered = team.post("/v1/schedules/s/trigger", json!({})).await;
    assert_eq!(triggered.status, 201, "{:?}", triggered.body);
    shows_no_namespace(&triggered);
    let range = json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:01Z"});
    assert_eq!(team.post("/v1/schedules/s/backfill", range).await.status, 200);
    let gone = team.delete("/v1/schedules/s").await;
    assert_eq!((gone.status, &gone.json()["id"]), (200, &json!("s")));
    assert_eq!(At::default_of(&node).get("/v1/schedules/s").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_and_its_schedule_and_its_pause_are_one_namespaces() {
    let node = node().await;
    for (at, name) in all(&node) {
        let file = json!({"name": "t", "definition": says(name), "triggers": {"cron": "0 0 1 1 *"}});
        assert_eq!(at.post("/v1/templates", file).await.status, 201, "{name}");
        assert_eq!(at.listed("/v1/schedules", "id").await, ["t"], "{name}");
    }
    let team = At::of(&node, "team-a");
    let paused = team.ask(PATCH, "/v1/templates/t", Some(&json!({"paused": true, "reason": "r"}))).await;
    assert_eq!((paused.status, &paused.json()["paused"]), (200, &json!(true)), "{:?}", paused.body);
    for (at, name) in all(&node) {
        let shown = at.get("/v1/templates").await.json();
        assert_eq!(shown["items"][0]["paused"], name == "team-a", "{name}");
        let started = at.post("/v1/workflows", json!({"template": "t"})).await;
        assert_eq!(started.status == 409, name == "team-a", "{name}: {:?}", started.body);
        shows_no_namespace(&started);
    }
}
