//! What is another namespace's cannot be named: every call that takes an id or a name, from outside.

use axum::http::Method;
use serde_json::{Value, json};

use super::{At, DELETE, GET, PATCH, POST, asks, node, says};
use crate::node::Node;

/// What is in `team-a` alone: a run that waits, one that has ended, a template, a schedule, a secret.
async fn filled(node: &Node) -> At<'_> {
    let team = At::of(node, "team-a");
    let file = json!({"name": "only", "definition": says("only")});
    assert_eq!(team.post("/v1/templates", file).await.status, 201);
    let schedule = json!({"id": "only", "template": "only", "cron": "0 0 1 1 *"});
    assert_eq!(team.post("/v1/schedules", schedule).await.status, 201);
    let webhook = json!({"id": "only", "url": "https://example.com/hook", "events": ["workflow.completed"]});
    assert_eq!(team.post("/v1/webhooks", webhook).await.status, 201);
    let rule = json!({"delete_after": "365d"});
    assert_eq!(team.put("/v1/retention/templates/only", rule).await.status, 200);
    assert_eq!(team.put("/v1/secrets/ONLY", json!({"value": "a long value"})).await.status, 201);
    for (id, definition) in [("only", asks()), ("ended", says("x"))] {
        let body = json!({"id": id, "definition": definition, "agent_id": "bot", "labels": {"l": "1"}});
        assert_eq!(team.post("/v1/workflows?wait=10s", body).await.status, 201);
    }
    team
}

/// Every call that takes the id of a run, or the name of something else.
fn calls() -> Vec<(Method, String, Option<Value>)> {
    let decision = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    let range = json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"});
    let mut calls = Vec::new();
    for path in [
        "",
        "?wait=1s",
        "?consistency=session",
        "?consistency=eventual",
        "/events",
        "/events?consistency=session",
        "/definition",
        "/why",
        "/diagram",
    ] {
        calls.push((GET, format!("/v1/workflows/only{path}"), None));
    }
    for (action, body) in [
        ("signals", decision),
        ("cancel", json!({"reason": "mine"})),
        ("suspend", json!({})),
        ("resume", json!({})),
        ("retry", json!({})),
        ("retry", json!({"version": "v1"})),
        ("extend", json!({"remove": "ask"})),
    ] {
        calls.push((POST, format!("/v1/workflows/only/{action}"), Some(body)));
    }
    calls.push((DELETE, "/v1/workflows/ended".into(), None));
    for path in ["/v1/templates/only", "/v1/templates/only?version=v1", "/v1/templates/only/diagram"] {
        calls.push((GET, path.into(), None));
    }
    calls.push((PATCH, "/v1/templates/only".into(), Some(json!({"paused": true}))));
    calls.push((POST, "/v1/workflows".into(), Some(json!({"template": "only"}))));
    calls.push((POST, "/v1/schedules".into(), Some(json!({"template": "only", "interval": "1h"}))));
    calls.push((GET, "/v1/schedules/only".into(), None));
    calls.push((GET, "/v1/schedules/only/next".into(), None));
    calls.push((PATCH, "/v1/schedules/only".into(), Some(json!({"paused": true}))));
    calls.push((POST, "/v1/schedules/only/trigger".into(), Some(json!({}))));
    calls.push((POST, "/v1/schedules/only/backfill".into(), Some(range)));
    calls.push((DELETE, "/v1/schedules/only".into(), None));
    calls.push((DELETE, "/v1/secrets/ONLY".into(), None));
    calls.push((GET, "/v1/webhooks/only".into(), None));
    calls.push((PATCH, "/v1/webhooks/only".into(), Some(json!({"active": false}))));
    calls.push((POST, "/v1/webhooks/only/test".into(), Some(json!({}))));
    calls.push((GET, "/v1/webhooks/only/failures".into(), None));
    calls.push((DELETE, "/v1/webhooks/only/failures/evt_0_1_1".into(), None));
    calls.push((POST, "/v1/webhooks/only/failures/evt_0_1_1/retry".into(), Some(json!({}))));
    calls.push((DELETE, "/v1/webhooks/only".into(), None));
    calls.push((GET, "/v1/retention/templates/only".into(), None));
    calls.push((DELETE, "/v1/retention/templates/only".into(), None));
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anothers_id_is_not_found_by_any_call() {
    let node = node().await;
    let team = filled(&node).await;
    let before = team.get("/v1/workflows/only/events").await.body;
    for at in [At::default_of(&node), At::of(&node, "team-b")] {
        for (method, path, body) in calls() {
            let answer = at.ask(method.clone(), &path, body.as_ref()).await;
            let text = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 404, "{:?}: {method} {path}: {text}", at.namespace);
            assert_eq!(answer.json()["code"], "NOT_FOUND");
            assert!(!text.contains("team-a"), "{text}");
        }
        let mut stream = at.request(GET, "/v1/workflows/only/events", None);
        stream.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
        assert_eq!(node.send(stream).await.status, 404);
    }
    assert_eq!(team.get("/v1/workflows/only/events").await.body, before, "nothing was done");
    assert_eq!(team.get("/v1/workflows/ended").await.status, 200);
    assert_eq!(team.get("/v1/templates/only").await.json()["paused"], false);
    assert_eq!(team.get("/v1/schedules/only").await.json()["revision"], 1);
    assert_eq!(team.listed("/v1/secrets", "key").await, ["ONLY"]);
    assert_eq!(team.get("/v1/webhooks/only").await.json()["active"], true);
    assert_eq!(team.get("/v1/retention/templates/only").await.json()["delete_after"], "365d");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_with_its_namespace_is_no_name() {
    let node = node().await;
    filled(&node).await;
    let at = At::default_of(&node);
    for (path, status) in [
        ("/v1/workflows/team-a%2Fonly", 400),
        ("/v1/workflows/team-a/only", 404),
        ("/v1/workflows/x%2F..%2Fteam-a%2Fonly/events", 400),
        ("/v1/templates/team-a%2Fonly", 404),
        ("/v1/templates/team-a%2Fonly/diagram", 404),
        ("/v1/schedules/team-a%2Fonly", 404),
        ("/v1/schedules/team-a%2Fonly/next", 404),
        ("/v1/webhooks/team-a%2Fonly", 404),
        ("/v1/retention/templates/team-a%2Fonly", 404),
    ] {
        assert_eq!(at.get(path).await.status, status, "{path}");
    }
    assert_eq!(at.delete("/v1/secrets/team-a%2FONLY").await.status, 422);
    for (path, body, status) in [
        ("/v1/workflows", json!({"template": "team-a/only"}), 404),
        ("/v1/workflows", json!({"id": "team-a/only", "definition": says("x")}), 422),
        ("/v1/schedules", json!({"template": "team-a/only", "interval": "1h"}), 404),
        ("/v1/schedules", json!({"id": "team-a/s", "template": "t", "interval": "1h"}), 422),
        ("/v1/templates", json!({"name": "team-a/only", "definition": says("x")}), 422),
    ] {
        let refused = at.post(path, body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {:?}", refused.body);
    }
    for path in [
        "/v1/workflows?template=team-a/only",
        "/v1/workflows?label=l:1",
        "/v1/workflows?agent_id=bot",
        "/v1/workflows?status=suspended",
        "/v1/decisions?workflow_id=team-a/only",
        "/v1/decisions?workflow_id=only",
        "/v1/decisions?agent_id=bot",
        "/v1/schedules",
        "/v1/webhooks",
        "/v1/templates",
        "/v1/secrets",
        "/v1/agents",
    ] {
        assert_eq!(at.get(path).await.json()["items"], json!([]), "{path}");
    }
    assert_eq!(At::of(&node, "team-a").listed("/v1/agents", "agent_id").await, ["bot"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_bulk_see_what_is_theirs_in_pages() {
    let node = node().await;
    let names = [At::default_of(&node), At::of(&node, "team-a"), At::of(&node, "team-b")];
    for (at, count) in names.into_iter().zip([7, 5, 3]) {
        for n in 0..count {
            let body = json!({"id": format!("w{n}"), "definition": asks(), "labels": {"team": "x"}});
            assert_eq!(at.post("/v1/workflows?wait=10s", body).await.status, 201);
        }
    }
    let bulk = |action: &str| json!({"action": action, "filter": {}, "dry_run": true});
    for (at, count) in names.into_iter().zip([7, 5, 3]) {
        for path in ["/v1/workflows?limit=2", "/v1/decisions?limit=2", "/v1/workflows?limit=2&label=team:x"] {
            let (mut seen, mut cursor) = (0, String::new());
            loop {
                let page = at.get(&format!("{path}{cursor}")).await.json();
                seen += page["items"].as_array().expect("items").len();
                let Some(next) = page["next_cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(seen, count, "{:?}: {path}", at.namespace);
        }
        let tried = at.post("/v1/workflows/bulk", bulk("cancel")).await.json();
        assert_eq!(tried["matched"], count, "{tried}");
    }
    let all = json!({"action": "cancel", "filter": {"labels": {"team": "x"}}});
    let done = names[1].post("/v1/workflows/bulk", all).await.json();
    assert_eq!((&done["matched"], &done["applied"]), (&json!(5), &json!(5)), "{done}");
    for (at, left) in names.into_iter().zip([7, 0, 3]) {
        assert_eq!(at.listed("/v1/workflows?status=suspended", "workflow_id").await.len(), left);
    }
    // A cursor of one namespace goes on nowhere in another.
    let page = names[0].get("/v1/workflows?limit=1").await.json();
    let cursor = page["next_cursor"].as_str().expect("there is more");
    let elsewhere = names[2].listed(&format!("/v1/workflows?cursor={cursor}"), "workflow_id").await;
    assert!(elsewhere.len() <= 3, "{elsewhere:?}");
}
