//! Tokens of one namespace: they see and do nothing in another, and nothing that is the whole cluster's.

use serde_json::{Value, json};

use super::{At, DELETE, GET, POST, PUT, node, says};
use crate::node::Node;

/// A token with these scopes, confined to a namespace.
async fn token(node: &Node, namespace: &str, scopes: &[&str]) -> String {
    let body = json!({"scopes": scopes, "namespace": namespace});
    let made = At::default_of(node).post("/v1/tokens", body).await;
    assert_eq!((made.status, &made.json()["namespace"]), (201, &json!(namespace)), "{:?}", made.body);
    made.json()["token"].as_str().expect("a token").to_owned()
}

fn run(id: &str) -> Value {
    json!({"id": id, "definition": says(id)})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_token_is_in_its_namespace_and_cannot_leave_it() {
    let node = node().await;
    let token = token(&node, "team-a", &["read", "run", "define", "admin"]).await;
    let own = At::default_of(&node).with(&token);
    assert_eq!(own.post("/v1/workflows?wait=10s", run("w")).await.status, 201);
    assert_eq!(At::of(&node, "team-a").get("/v1/workflows/w").await.status, 200, "it is there");
    assert_eq!(At::default_of(&node).get("/v1/workflows/w").await.status, 404, "and not here");
    assert_eq!(At::of(&node, "team-a").with(&token).get("/v1/workflows/w").await.status, 200);
    for other in ["team-b", "default", "none"] {
        let refused = At::of(&node, other).with(&token).get("/v1/workflows").await;
        assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("PERMISSION_DENIED")), "{other}");
        let refused = At::of(&node, other).with(&token).post("/v1/workflows", run("x")).await;
        assert_eq!(refused.status, 403, "{other}");
    }
    assert_eq!(At::default_of(&node).listed("/v1/workflows", "workflow_id").await, Vec::<String>::new());
    // Twice, the second time rightly: it is not guessed which is meant.
    let mut twice = own.request(GET, "/v1/workflows", None);
    for name in ["team-b", "team-a"] {
        twice.headers_mut().append("opcode-namespace", name.parse().expect("a header"));
    }
    assert_eq!(node.send(twice).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_of_a_namespace_administers_no_cluster() {
    let node = node().await;
    let token = token(&node, "team-a", &["admin"]).await;
    let own = At::default_of(&node).with(&token);
    let calls = [
        (GET, "/v1/cluster", None),
        (POST, "/v1/cluster/rebalance", Some(json!({}))),
        (POST, "/v1/sql", Some(json!({"query": "SELECT * FROM workflows"}))),
        (GET, "/v1/shards/0/info", None),
        (GET, "/v1/shards/system/export/1", None),
        (GET, "/metrics", None),
        (POST, "/v1/secrets/rotate", Some(json!({}))),
        (PUT, "/v1/namespaces/mine", Some(json!({}))),
        (DELETE, "/v1/namespaces/team-a", None),
        (DELETE, "/v1/namespaces/team-b", None),
    ];
    for (method, path, body) in calls {
        let refused = own.ask(method.clone(), path, body.as_ref()).await;
        assert_eq!(refused.status, 403, "{method} {path}: {:?}", refused.body);
        assert!(refused.json()["detail"].as_str().expect("a text").contains("`team-a`"));
    }
    assert_eq!(own.listed("/v1/namespaces", "name").await, ["team-a"]);
    assert_eq!(own.put("/v1/secrets/K", json!({"value": "a long value"})).await.status, 201);
    assert_eq!(own.listed("/v1/secrets", "key").await, ["K"]);
    assert!(At::default_of(&node).listed("/v1/secrets", "key").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_namespace_are_made_seen_and_deleted_in_it() {
    let node = node().await;
    let admin = At::default_of(&node);
    let token_a = token(&node, "team-a", &["admin"]).await;
    let token_b = token(&node, "team-b", &["admin"]).await;
    let (a, b) = (admin.with(&token_a), admin.with(&token_b));
    let made = a.post("/v1/tokens", json!({"scopes": ["admin"], "name": "child"})).await;
    assert_eq!((made.status, &made.json()["namespace"]), (201, &json!("team-a")), "{:?}", made.body);
    let child = made.json()["token"].as_str().expect("a token").to_owned();
    assert_eq!(At::of(&node, "team-b").with(&child).get("/v1/workflows").await.status, 403);
    for other in ["team-b", "default"] {
        let refused = a.post("/v1/tokens", json!({"scopes": ["read"], "namespace": other})).await;
        assert_eq!(refused.status, 403, "{other}");
    }
    let of_a = a.listed("/v1/tokens", "token_id").await;
    let of_b = b.listed("/v1/tokens", "token_id").await;
    assert_eq!((of_a.len(), of_b.len()), (2, 1), "{of_a:?} {of_b:?}");
    assert_eq!(admin.listed("/v1/tokens", "token_id").await.len(), 3);
    assert_eq!(At::of(&node, "team-a").listed("/v1/tokens?limit=1", "token_id").await.len(), 1);
    let anothers = format!("/v1/tokens/{}", of_b[0]);
    assert_eq!(a.delete(&anothers).await.status, 404, "another's token is none");
    assert_eq!(b.get("/v1/workflows").await.status, 200, "and still taken");
    let own = format!("/v1/tokens/{}", made.json()["token_id"].as_str().expect("an id"));
    assert_eq!(a.delete(&own).await.status, 200);
    // In a namespace, whoever may make any makes one of it.
    let made = At::of(&node, "team-b").post("/v1/tokens", json!({"scopes": ["read"]})).await;
    assert_eq!(made.json()["namespace"], "team-b");
    let made = admin.post("/v1/tokens", json!({"scopes": ["read"]})).await;
    assert_eq!(made.json()["namespace"], Value::Null);
    let missing = admin.post("/v1/tokens", json!({"scopes": ["read"], "namespace": "none"})).await;
    assert_eq!(missing.status, 404);
    let wrong = admin.post("/v1/tokens", json!({"scopes": ["read"], "namespace": "../a"})).await;
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["pointer"]), (422, &json!("/namespace")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_confined_to_default_stays_there() {
    let node = node().await;
    let token = token(&node, "default", &["read"]).await;
    assert_eq!(At::default_of(&node).with(&token).get("/v1/workflows").await.status, 200);
    assert_eq!(At::of(&node, "team-a").with(&token).get("/v1/workflows").await.status, 403);
    assert_eq!(At::default_of(&node).with(&token).get("/v1/cluster").await.status, 403);
}
