//! What leaves a namespace and comes into another, how long what is in one is kept, and who is told of it.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use super::{At, DELETE, asks, node, says};
use crate::node::{Node, request};

/// Sends a line to be imported; what became of it.
async fn imported(node: &Node, namespace: &str, line: &str) -> Value {
    let mut request = request(Method::POST, "/v1/import", Body::from(line.to_owned()));
    let headers = request.headers_mut();
    headers.insert("content-type", "application/x-ndjson".parse().expect("a header"));
    headers.insert("opcode-namespace", namespace.parse().expect("a header"));
    let answer = node.send(request).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.json()["results"][0].clone()
}

/// The lines of a namespace's export, but for the last.
async fn exported(at: At<'_>) -> Vec<String> {
    let answer = at.get("/v1/export").await;
    let text = String::from_utf8(answer.body.to_vec()).expect("text");
    assert!(!text.contains("team-a/") && text.contains("\"end\""), "{text}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.pop();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_exported_alone_and_imported_into_another() {
    let node = node().await;
    let (default, a, b) = (At::default_of(&node), At::of(&node, "team-a"), At::of(&node, "team-b"));
    for (at, name) in [(default, "default"), (a, "team-a")] {
        let child = json!({"name": "child", "definition": says(name)});
        assert_eq!(at.post("/v1/templates", child).await.status, 201);
        let parent = json!({"id": "p", "definition": {"steps": [
            {"id": "c", "action": "workflow.run", "params": {"template_name": "child"}}]}});
        let ended = at.post("/v1/workflows?wait=20s", parent).await.json();
        assert_eq!(ended["status"], "completed", "{ended}");
    }
    let lines = exported(a).await;
    assert_eq!(lines.len(), 3, "a template, a parent and its child: {lines:?}");
    assert!(exported(b).await.is_empty());
    for line in &lines {
        let result = imported(&node, "team-b", line).await;
        assert_eq!((&result["status"], &result["outcome"]), (&json!(201), &json!("imported")), "{result}");
        let again = imported(&node, "team-b", line).await;
        assert_eq!(again["outcome"], "unchanged", "{again}");
    }
    for id in ["p", "p:c:1"] {
        let (from, to) = (format!("/v1/workflows/{id}"), format!("/v1/workflows/{id}/events"));
        for path in [from, to] {
            assert_eq!(b.get(&path).await.json(), a.get(&path).await.json(), "{path}");
        }
    }
    assert_eq!(b.get("/v1/workflows/p:c:1").await.json()["output"]["says"], "team-a");
    assert_eq!(b.listed("/v1/workflows?template=child", "workflow_id").await, ["p:c:1"]);
    assert_eq!(default.get("/v1/workflows/p:c:1").await.json()["output"]["says"], "default");
    // A line that names another namespace says nothing that can be.
    for line in &lines {
        for (from, to) in [("\"p", "\"team-a/p"), ("\"child\"", "\"team-a/child\"")] {
            let forged = line.replace(from, to);
            if forged != *line {
                let refused = imported(&node, "default", &forged).await;
                assert!(refused["status"].as_u64().is_some_and(|status| status >= 400), "{refused}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_webhooks_of_one_name_are_each_namespaces_own() {
    let node = node().await;
    let places = [(At::default_of(&node), "30d"), (At::of(&node, "team-a"), "60d")];
    for (at, keep) in places {
        for path in ["/v1/retention", "/v1/retention/templates/t"] {
            assert_eq!(at.put(path, json!({"delete_after": keep})).await.status, 200, "{path}");
        }
        let webhook = json!({"id": "hook", "url": format!("https://example.com/{keep}"), "events": ["workflow.failed"]});
        let made = at.post("/v1/webhooks", webhook).await;
        assert_eq!((made.status, made.header("location")), (201, "/v1/webhooks/hook"), "{:?}", made.body);
    }
    for (at, keep) in places {
        let rules = at.get("/v1/retention").await.json();
        assert_eq!(rules["default"]["delete_after"], keep, "{rules}");
        assert_eq!((&rules["templates"][0]["template"], &rules["templates"][1]), (&json!("t"), &json!(null)));
        let hook = at.get("/v1/webhooks/hook").await.json();
        assert_eq!(
            (&hook["id"], &hook["url"]),
            (&json!("hook"), &json!(format!("https://example.com/{keep}")))
        );
        assert_eq!(at.listed("/v1/webhooks", "id").await, ["hook"]);
    }
    let team = places[1].0;
    assert_eq!(team.ask(DELETE, "/v1/webhooks/hook", None).await.json()["id"], "hook");
    assert_eq!(team.ask(DELETE, "/v1/retention/templates/t", None).await.status, 200);
    assert_eq!(places[0].0.listed("/v1/webhooks", "id").await, ["hook"]);
    assert_eq!(places[0].0.get("/v1/retention/templates/t").await.status, 200);
    let kept = At::default_of(&node).ask(DELETE, "/v1/namespaces/team-a", None).await;
    assert!(
        (kept.status, String::from_utf8_lossy(&kept.body).contains("rules")) == (409, true),
        "{:?}",
        kept.body
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_running_in_another_namespace_is_in_no_export() {
    let node = node().await;
    let team = At::of(&node, "team-a");
    assert_eq!(team.post("/v1/workflows", json!({"id": "q", "definition": asks()})).await.status, 201);
    assert_eq!(exported(team).await.len(), 1);
    assert!(exported(At::default_of(&node)).await.is_empty());
    let other = At::of(&node, "team-b").get("/v1/export?template=team-a/x").await;
    assert_eq!(String::from_utf8_lossy(&other.body).lines().count(), 1, "the end alone");
}
