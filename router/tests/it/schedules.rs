//! Schedules: the contract of each call, and that slots have their runs.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::node::{Node, request};

/// Longest wait for something that is to happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn template(name: &str) -> Value {
    json!({"name": name, "definition": {"steps": [
        {"id": "a", "action": "workflow.log", "params": {"message": "${{context.slot}}"}}]}})
}

async fn node_with_template() -> Node {
    let node = Node::start().await;
    assert_eq!(node.post("/v1/templates", &template("tick")).await.status, 201);
    node
}

/// Looks again and again until `seen` is content.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn runs_of(node: &Node, schedule: &str) -> Vec<Value> {
    let list = node.get(&format!("/v1/workflows?label=schedule:{schedule}&limit=1000")).await.json();
    list["items"].as_array().expect("items").clone()
}

#[tokio::test]
async fn a_schedule_is_made_read_changed_and_deleted() {
    let node = node_with_template().await;
    let body = json!({"id": "nightly", "template": "tick", "cron": "0 2 * * *", "timezone": "Europe/Berlin",
        "params": {"n": 1}, "labels": {"team": "ops"}, "agent_id": "clock"});
    let made = node.post("/v1/schedules", &body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!((made.header("location"), made.header("etag")), ("/v1/schedules/nightly", "\"1\""));
    assert!(!made.header("opcode-token").is_empty());
    let document = made.json();
    let expected = [
        ("id", json!("nightly")),
        ("template", json!("tick")),
        ("version", json!(null)),
        ("params", json!({"n": 1})),
        ("cron", json!("0 2 * * *")),
        ("interval", json!(null)),
        ("at", json!(null)),
        ("timezone", json!("Europe/Berlin")),
        ("missed", json!("one")),
        ("overlap", json!("skip")),
        ("paused", json!(false)),
        ("labels", json!({"team": "ops"})),
        ("agent_id", json!("clock")),
        ("last_slot", json!(null)),
        ("last_workflow_id", json!(null)),
        ("revision", json!(1)),
    ];
    for (field, value) in expected {
        assert_eq!(document[field], value, "{field}");
    }
    let next = document["next_slot"].as_str().expect("a next slot");
    assert!(next.ends_with("T01:00:00.000Z") || next.ends_with("T00:00:00.000Z"), "{next}");

    assert_eq!(node.post("/v1/schedules", &body).await.status, 200, "the same again");
    let mut other = body.clone();
    other["cron"] = json!("0 3 * * *");
    let refused = node.post("/v1/schedules", &other).await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("CONFLICT")));

    let patched = node.patch("/v1/schedules/nightly", &json!({"paused": true, "cron": "@daily"})).await;
    assert_eq!(patched.status, 200, "{:?}", patched.body);
    let document = patched.json();
    assert_eq!((&document["paused"], &document["next_slot"]), (&json!(true), &json!(null)));
    assert_eq!((&document["timezone"], &document["revision"]), (&json!("Europe/Berlin"), &json!(2)));
    assert_eq!(node.get("/v1/schedules/nightly").await.json(), document);

    assert_eq!(node.delete("/v1/schedules/nightly").await.status, 200);
    for answer in [
        node.get("/v1/schedules/nightly").await,
        node.delete("/v1/schedules/nightly").await,
        node.patch("/v1/schedules/nightly", &json!({})).await,
        node.get("/v1/schedules/nightly/next").await,
        node.post("/v1/schedules/nightly/trigger", &json!({})).await,
        node.get("/v1/schedules/no%20id").await,
    ] {
        assert_eq!(answer.status, 404, "{:?}", answer.body);
    }
}

#[tokio::test]
async fn a_precondition_is_kept() {
    let node = node_with_template().await;
    let body = json!({"id": "a", "template": "tick", "interval": "1h"});
    assert_eq!(node.post("/v1/schedules", &body).await.status, 201);
    let with_match = |method: Method, tag: &str, body: &str| {
        let mut asked = request(method, "/v1/schedules/a", Body::from(body.to_owned()));
        let headers = asked.headers_mut();
        headers.insert("content-type", "application/json".parse().expect("a header"));
        headers.insert("if-match", tag.parse().expect("a header"));
        asked
    };
    let patch = |tag: &str| with_match(Method::PATCH, tag, r#"{"missed":"all"}"#);
    assert_eq!(node.send(patch("\"7\"")).await.status, 412);
    assert_eq!(node.send(patch("\"1\"")).await.status, 200);
    assert_eq!(node.send(patch("\"1\"")).await.status, 412);
    assert_eq!(node.send(with_match(Method::DELETE, "\"1\"", "")).await.status, 412);
    assert_eq!(node.send(with_match(Method::DELETE, "\"2\"", "")).await.status, 200);
}

#[tokio::test]
async fn lists_have_pages() {
    let node = node_with_template().await;
    for id in ["c", "a", "b"] {
        let body = json!({"id": id, "template": "tick", "interval": "1h"});
        assert_eq!(node.post("/v1/schedules", &body).await.status, 201);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/schedules?limit=2".to_owned();
    loop {
        let page = node.get(&path).await.json();
        seen.extend(page["items"].as_array().expect("items").iter().map(|item| item["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/schedules?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[tokio::test]
async fn every_problem_of_a_body_is_told_at_once() {
    let node = node_with_template().await;
    let problems = async |body: Value| {
        let answer = node.post("/v1/schedules", &body).await;
        assert_eq!(answer.status, 422, "{body}: {:?}", answer.body);
        let errors = answer.json()["errors"].as_array().expect("errors").clone();
        let line = |e: &Value| {
            format!("{} {}", e["pointer"].as_str().expect("text"), e["message"].as_str().expect("text"))
        };
        errors.iter().map(line).collect::<Vec<_>>().join("; ")
    };
    let told =
        problems(json!({"id": "a b", "crn": "@daily", "missed": "al", "overlap": 1, "labels": []})).await;
    for part in [
        "/id a schedule's id",
        "/cron is missing",
        "/template is missing",
        "did you mean `cron`?",
        "did you mean `all`?",
        "/overlap must be a string",
        "/labels must be an object",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let base = |more: Value| {
        let mut body = json!({"id": "x", "template": "tick"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    for (more, part) in [
        (json!({"cron": "0 0 30 2 *"}), "/cron it never fires"),
        (json!({"cron": "* * * * * *"}), "/cron it is no cron pattern"),
        (json!({"cron": "@daily", "timezone": "Mars/Base"}), "/timezone there is no time zone"),
        (json!({"cron": "@daily", "timezone": "Europe/Berln"}), "did you mean \"Europe/Berlin\"?"),
        (json!({"cron": "@daily", "interval": "1h"}), "/interval is given beside `cron`"),
        (json!({"interval": "10ms"}), "/interval the shortest interval is 1s"),
        (json!({"interval": "1h", "timezone": "UTC"}), "/timezone is of a cron pattern"),
        (json!({"at": "2020-01-01T00:00:00Z"}), "/at is not in the future"),
        (json!({"at": "soon"}), "/at not an RFC 3339 time"),
        (json!({"interval": "1h", "params": {"x": "y".repeat(40_000)}}), "/params the schedule has"),
    ] {
        let told = problems(base(more.clone())).await;
        assert!(told.contains(part), "{more:.60}: {told}");
    }
    let far = node.post("/v1/schedules", &base(json!({"at": "9999-12-31T23:59:59Z"}))).await;
    assert_eq!(far.json()["next_slot"], "9999-12-31T23:59:59.000Z", "{:?}", far.body);
    let unknown = json!({"template": "none", "interval": "1h"});
    assert_eq!(node.post("/v1/schedules", &unknown).await.status, 404);
    let unknown = json!({"template": "tick", "version": "v9", "interval": "1h"});
    assert_eq!(node.post("/v1/schedules", &unknown).await.status, 404);
}

#[tokio::test]
async fn slots_have_their_runs_and_each_only_one() {
    let node = node_with_template().await;
    let body = json!({"id": "s", "template": "tick", "interval": "1s", "missed": "all", "overlap": "parallel",
        "labels": {"team": "ops"}, "agent_id": "clock", "params": {"n": 1}});
    assert_eq!(node.post("/v1/schedules", &body).await.status, 201);
    let runs = until("three slots have run", async || {
        let runs = runs_of(&node, "s").await;
        (runs.len() >= 3).then_some(runs)
    })
    .await;
    assert_eq!(node.patch("/v1/schedules/s", &json!({"paused": true})).await.status, 200);
    let run =
        node.get(&format!("/v1/workflows/{}?wait=10s", runs[0]["workflow_id"].as_str().expect("id"))).await;
    let run = run.json();
    assert_eq!(run["status"], "completed", "{run}");
    assert_eq!(
        (&run["template"], &run["version"], &run["agent_id"]),
        (&json!("tick"), &json!("v1"), &json!("clock"))
    );
    assert_eq!((&run["params"], &run["labels"]["team"]), (&json!({"n": 1}), &json!("ops")));
    let id = run["workflow_id"].as_str().expect("id");
    let slot = run["context"]["slot"].as_str().expect("a slot");
    assert_eq!(id, format!("s:{}", slot.replace(".000Z", "Z")), "{run}");
    let schedule = node.get("/v1/schedules/s").await.json();
    assert!(schedule["last_slot"].as_str() >= Some(slot), "{schedule}");
    assert_eq!(schedule["revision"], 2, "slots are no changes by people");

    // What a slot has, a backfill does not start again.
    let range = json!({"since": slot, "until": "9999-12-31T00:00:00Z"});
    let filled = node.post("/v1/schedules/s/backfill", &range).await;
    assert_eq!(filled.status, 200, "{:?}", filled.body);
    let filled = filled.json();
    assert_eq!((&filled["started"], &filled["already"]), (&json!(0), &filled["matched"]), "{filled}");
}

#[tokio::test]
async fn a_backfill_starts_what_has_passed() {
    let node = node_with_template().await;
    let body = json!({"id": "h", "template": "tick", "interval": "1h"});
    assert_eq!(node.post("/v1/schedules", &body).await.status, 201);
    let range = json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T05:00:00Z"});
    let first = node.post("/v1/schedules/h/backfill", &range).await.json();
    assert_eq!(first, json!({"matched": 5, "started": 5, "already": 0}));
    let again = node.post("/v1/schedules/h/backfill", &range).await.json();
    assert_eq!(again, json!({"matched": 5, "started": 0, "already": 5}));
    let mut ids: Vec<String> = runs_of(&node, "h")
        .await
        .iter()
        .map(|run| run["workflow_id"].as_str().expect("id").to_owned())
        .collect();
    ids.sort();
    let hours = (0..5).map(|hour| format!("h:2026-01-01T0{hour}:00:00Z"));
    assert_eq!(ids, hours.collect::<Vec<_>>());
    for (range, pointer) in [
        (json!({"since": "2000-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}), "/until"),
        (json!({"since": "2026-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"}), "/until"),
        (json!({"since": "2026-01-01T00:00:00Z"}), "/until"),
        (json!({"until": "2026-01-01T00:00:00Z"}), "/since"),
    ] {
        let answer = node.post("/v1/schedules/h/backfill", &range).await;
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{range}"
        );
    }
    let future = json!({"since": "9000-01-01T00:00:00Z", "until": "9001-01-01T00:00:00Z"});
    assert_eq!(node.post("/v1/schedules/h/backfill", &future).await.json()["matched"], 0);
}

#[tokio::test]
async fn a_run_out_of_turn_and_the_slots_to_come() {
    let node = node_with_template().await;
    let body = json!({"id": "h", "template": "tick", "cron": "0 0 1 1 *", "paused": true});
    assert_eq!(node.post("/v1/schedules", &body).await.status, 201);
    let triggered = node.post("/v1/schedules/h/trigger", &json!({})).await;
    assert_eq!(triggered.status, 201, "{:?}", triggered.body);
    let id = triggered.json()["workflow_id"].as_str().expect("id").to_owned();
    let run = node.get(&format!("/v1/workflows/{id}?wait=10s")).await.json();
    assert_eq!((&run["status"], &run["labels"]["schedule"]), (&json!("completed"), &json!("h")));
    let keyed = || {
        let mut asked = request(Method::POST, "/v1/schedules/h/trigger", Body::empty());
        asked.headers_mut().insert("idempotency-key", "once".parse().expect("a header"));
        asked
    };
    assert_eq!([node.send(keyed()).await.status, node.send(keyed()).await.status], [201, 200]);

    let next = node.get("/v1/schedules/h/next?n=2").await.json();
    let slots = next["items"].as_array().expect("items");
    assert_eq!(slots.len(), 2);
    for slot in slots {
        let time = slot["slot"].as_str().expect("a time");
        assert!(time.ends_with("-01-01T00:00:00.000Z"), "{time}");
        assert_eq!(slot["workflow_id"], format!("h:{}", time.replace(".000Z", "Z")));
    }
    assert_eq!(node.get("/v1/schedules/h/next?n=0").await.status, 400);
    assert_eq!(node.get("/v1/schedules/h/next?n=101").await.status, 400);
}

#[tokio::test]
async fn one_that_queues_goes_on_when_the_run_before_has_ended() {
    let node = Node::start().await;
    let waits = json!({"name": "waits", "definition": {"steps": [
        {"id": "w", "type": "wait", "config": {"signal": "go"}}]}});
    assert_eq!(node.post("/v1/templates", &waits).await.status, 201);
    for overlap in ["queue", "skip"] {
        let body = json!({"id": overlap, "template": "waits", "interval": "1s", "overlap": overlap});
        assert_eq!(node.post("/v1/schedules", &body).await.status, 201);
    }
    let waiting = until("a slot waits", async || {
        let schedule = node.get("/v1/schedules/queue").await.json();
        (schedule["waiting"].as_u64() >= Some(1)).then_some(schedule)
    })
    .await;
    assert_eq!(runs_of(&node, "queue").await.len(), 1);
    let first = waiting["last_workflow_id"].as_str().expect("a run").to_owned();
    let signal = json!({"type": "data", "step_id": "w", "payload": 1});
    assert_eq!(node.post(&format!("/v1/workflows/{first}/signals"), &signal).await.status, 202);
    until("the next is started", async || {
        let schedule = node.get("/v1/schedules/queue").await.json();
        (schedule["last_workflow_id"] != first.as_str()).then_some(())
    })
    .await;
    // The other has let its slots pass meanwhile.
    let skipping = node.get("/v1/schedules/skip").await.json();
    assert_eq!((runs_of(&node, "skip").await.len(), &skipping["waiting"]), (1, &json!(0)), "{skipping}");
}

#[tokio::test]
async fn a_slot_that_cannot_run_is_told_and_the_next_one_comes() {
    let node = Node::start().await;
    let strict = json!({"name": "strict", "input_schema": {"type": "object", "required": ["n"]},
        "definition": {"steps": [{"id": "a", "action": "workflow.log", "params": {"message": "m"}}]}});
    assert_eq!(node.post("/v1/templates", &strict).await.status, 201);
    let body = json!({"id": "s", "template": "strict", "interval": "1s"});
    assert_eq!(node.post("/v1/schedules", &body).await.status, 201);
    let failed = until("a failure is told", async || {
        let schedule = node.get("/v1/schedules/s").await.json();
        (!schedule["last_error"].is_null()).then_some(schedule)
    })
    .await;
    assert_eq!(failed["last_error"]["code"], "VALIDATION_ERROR", "{failed}");
    assert_eq!(failed["last_workflow_id"], json!(null));
    assert_eq!(node.patch("/v1/schedules/s", &json!({"params": {"n": 1}})).await.status, 200);
    until("a slot runs", async || (!runs_of(&node, "s").await.is_empty()).then_some(())).await;
}

#[tokio::test]
async fn a_template_brings_its_schedule() {
    let node = Node::start().await;
    let mut file = template("report");
    file["triggers"] = json!({"cron": "0 6 * * *", "timezone": "Asia/Kolkata", "webhook": {"path": "x"}});
    assert_eq!(node.post("/v1/templates", &file).await.status, 201);
    let made = node.get("/v1/schedules/report").await.json();
    assert_eq!((&made["cron"], &made["by_template"]), (&json!("0 6 * * *"), &json!(true)), "{made}");
    assert!(made["next_slot"].as_str().is_some_and(|next| next.ends_with("T00:30:00.000Z")), "{made}");

    assert_eq!(node.patch("/v1/schedules/report", &json!({"paused": true})).await.status, 200);
    file["triggers"]["cron"] = json!("30 6 * * *");
    assert_eq!(node.post("/v1/templates", &file).await.status, 201);
    let changed = node.get("/v1/schedules/report").await.json();
    assert_eq!((&changed["cron"], &changed["paused"]), (&json!("30 6 * * *"), &json!(true)));

    file["triggers"]["cron"] = json!("30 6 31 2 *");
    let refused = node.post("/v1/templates", &file).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/triggers/cron")));
    file["triggers"] = json!(null);
    assert_eq!(node.post("/v1/templates", &file).await.status, 201);
    assert_eq!(node.get("/v1/schedules/report").await.status, 404, "it goes with its triggers");

    let own = json!({"id": "report", "template": "report", "interval": "1h"});
    assert_eq!(node.post("/v1/schedules", &own).await.status, 201);
    file["triggers"] = json!({"cron": "@daily"});
    assert_eq!(node.post("/v1/templates", &file).await.status, 409, "people's schedules are their own");
    file["triggers"] = json!(null);
    assert_eq!(node.post("/v1/templates", &file).await.status, 200);
    assert_eq!(node.get("/v1/schedules/report").await.json()["interval"], "1h");
}
