//! Namespaces: the same names in each are each's own, and another's are names of nothing.

mod confined;
mod history;
mod kept;
mod others;
mod streams;

use axum::body::Body;
use axum::http::Method;
use opcode_shard::vault::{Keys, MemoryStore, Vault};
use serde_json::{Value, json};

use crate::node::{Answer, Node, request};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

/// A node with the namespaces `team-a` and `team-b`, and a vault.
async fn node() -> Node {
    let mut keys = Keys::default();
    keys.add_key_file(&"ab".repeat(32)).expect("a key");
    let store = std::sync::Arc::new(MemoryStore::default());
    let node = Node::with_vault(Vault::new(keys, store), |_| {}).await;
    for name in ["team-a", "team-b"] {
        let made = At::default_of(&node).put(&format!("/v1/namespaces/{name}"), json!({})).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
    }
    node
}

/// A caller in a namespace.
#[derive(Clone, Copy)]
struct At<'n> {
    node: &'n Node,
    /// What the header says; without it, none is sent.
    namespace: Option<&'n str>,
    token: Option<&'n str>,
}

impl<'n> At<'n> {
    fn of(node: &'n Node, namespace: &'n str) -> Self {
        Self { node, namespace: Some(namespace), token: None }
    }

    fn default_of(node: &'n Node) -> Self {
        Self { node, namespace: None, token: None }
    }

    fn with(self, token: &'n str) -> Self {
        Self { token: Some(token), ..self }
    }

    fn request(self, method: Method, path: &str, body: Option<&Value>) -> axum::http::Request<Body> {
        let mut request = request(method, path, body.map_or_else(Body::empty, |b| b.to_string().into()));
        let headers = request.headers_mut();
        headers.insert("content-type", "application/json".parse().expect("a header"));
        if let Some(namespace) = self.namespace {
            headers.insert("opcode-namespace", namespace.parse().expect("a header"));
        }
        if let Some(token) = self.token {
            headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        request
    }

    async fn ask(self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.node.send(self.request(method, path, body)).await
    }

    async fn get(self, path: &str) -> Answer {
        self.ask(GET, path, None).await
    }

    async fn post(self, path: &str, body: Value) -> Answer {
        self.ask(POST, path, Some(&body)).await
    }

    async fn put(self, path: &str, body: Value) -> Answer {
        self.ask(PUT, path, Some(&body)).await
    }

    async fn delete(self, path: &str) -> Answer {
        self.ask(DELETE, path, None).await
    }

    /// What one field of a list's items says.
    async fn listed(self, path: &str, field: &str) -> Vec<String> {
        let page = self.get(path).await;
        assert_eq!(page.status, 200, "{:?}", page.body);
        let items = page.json()["items"].as_array().expect("items").clone();
        items.iter().map(|item| item[field].as_str().expect("a text").to_owned()).collect()
    }
}

/// A definition whose one step asks somebody.
fn asks() -> Value {
    json!({"steps": [{"id": "ask", "type": "reasoning", "config": {"prompt_context": "Go on?",
        "options": [{"id": "yes"}, {"id": "no"}]}}]})
}

/// A definition whose output tells one namespace's from another's.
fn says(text: &str) -> Value {
    json!({"steps": [{"id": "say", "action": "workflow.log", "params": {"message": text}}],
        "output": {"says": text}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_made_before_it_is_used_and_deleted_when_nothing_is_in_it() {
    let node = node().await;
    let admin = At::default_of(&node);
    let missing = At::of(&node, "team-c").get("/v1/workflows").await;
    let problem = missing.json();
    assert_eq!((missing.status, &problem["code"]), (404, &json!("NOT_FOUND")));
    assert!(problem["detail"].as_str().expect("a text").contains("opcode namespace create team-c"));
    // It may be named by who makes it.
    assert_eq!(At::of(&node, "team-c").put("/v1/namespaces/team-c", json!({})).await.status, 201);
    assert_eq!(admin.put("/v1/namespaces/team-c", json!({})).await.status, 200, "the same again");
    assert_eq!(admin.put("/v1/namespaces/default", json!({})).await.status, 200);
    let names = admin.listed("/v1/namespaces", "name").await;
    assert_eq!(names, ["default", "team-a", "team-b", "team-c"]);
    let first = admin.get("/v1/namespaces?limit=2").await.json();
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let rest = admin.listed(&format!("/v1/namespaces?cursor={cursor}"), "name").await;
    assert_eq!(rest, ["team-b", "team-c"]);

    assert_eq!(At::of(&node, "team-c").get("/v1/workflows").await.status, 200);
    let run = json!({"id": "w", "definition": says("hi")});
    assert_eq!(At::of(&node, "team-c").post("/v1/workflows?wait=10s", run).await.status, 201);
    let full = admin.delete("/v1/namespaces/team-c").await;
    assert_eq!((full.status, &full.json()["code"]), (409, &json!("CONFLICT")));
    assert_eq!(At::of(&node, "team-c").get("/v1/workflows/w").await.status, 200, "it is as it was");
    assert_eq!(At::of(&node, "team-c").delete("/v1/workflows/w").await.status, 202);
    let gone = admin.delete("/v1/namespaces/team-c").await;
    assert_eq!(gone.json(), json!({"name": "team-c", "deleted": true}), "{:?}", gone.body);
    assert_eq!(At::of(&node, "team-c").get("/v1/workflows").await.status, 404);
    assert_eq!(admin.delete("/v1/namespaces/team-c").await.status, 404);
    assert_eq!(admin.delete("/v1/namespaces/default").await.status, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stands_in_a_namespace_keeps_it() {
    let node = node().await;
    let admin = At::default_of(&node);
    let [template, secret, token] = ["a-template", "a-secret", "a-token"];
    for name in [template, secret, token] {
        assert_eq!(admin.put(&format!("/v1/namespaces/{name}"), json!({})).await.status, 201);
    }
    let file = json!({"name": "t", "definition": says("hi")});
    assert_eq!(At::of(&node, template).post("/v1/templates", file).await.status, 201);
    let value = json!({"value": "a long value"});
    assert_eq!(At::of(&node, secret).put("/v1/secrets/K", value).await.status, 201);
    let made = admin.post("/v1/tokens", json!({"scopes": ["read"], "namespace": token})).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    for (name, why) in [(template, "templates"), (secret, "secrets"), (token, "tokens")] {
        let full = admin.delete(&format!("/v1/namespaces/{name}")).await;
        assert_eq!(full.status, 409, "{name}");
        assert!(full.json()["detail"].as_str().expect("a text").contains(why), "{:?}", full.body);
    }
}
