//! The hostile list: named bad inputs and attacks over HTTP, each with the answer it must get. When
//! all have been sent, nothing of them is stored but what is listed as accepted, the node is well,
//! and its tables equal its events.

mod access;
mod backup;
mod bodies;
mod catalogue;
mod effects;
mod history;
mod identity;
mod mcp;
mod namespaces;
mod operations;
mod plugins;
mod protocol;
mod schedules;
mod webhooks;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, assert_tables_equal_fold};

/// A request and what must come of it.
struct Attack {
    name: &'static str,
    method: &'static str,
    path: String,
    body: Body,
    headers: Vec<(&'static str, String)>,
    status: u16,
    /// Stands somewhere in the answer.
    word: &'static str,
}

enum Body {
    None,
    Json(Value),
    Text(String),
}

impl Attack {
    fn new(name: &'static str, method: &'static str, path: impl Into<String>, body: Body) -> Self {
        Self {
            name,
            method,
            path: path.into(),
            body,
            headers: Vec::new(),
            status: 422,
            word: "VALIDATION_ERROR",
        }
    }

    /// A submission of this body.
    fn submit(name: &'static str, body: Value) -> Self {
        Self::new(name, "POST", "/v1/workflows", Body::Json(body))
    }

    /// A submission of a definition with this one step.
    fn step(name: &'static str, step: Value) -> Self {
        Self::submit(name, json!({"definition": {"steps": [step]}}))
    }

    /// A submission of this text as JSON.
    fn text(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, "POST", "/v1/workflows", Body::Text(text.into()))
    }

    fn get(name: &'static str, path: impl Into<String>) -> Self {
        Self::new(name, "GET", path, Body::None)
    }

    fn header(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((key, value.into()));
        self
    }

    fn gives(mut self, status: u16, word: &'static str) -> Self {
        (self.status, self.word) = (status, word);
        self
    }

    async fn make(self, node: &Node) -> Result<(), String> {
        let method = reqwest::Method::from_bytes(self.method.as_bytes()).unwrap();
        let mut request = node.request(method, &self.path);
        let typed = self.headers.iter().any(|(key, _)| *key == "content-type");
        request = match self.body {
            Body::None => request,
            Body::Json(value) => request.body(value.to_string()),
            Body::Text(text) => request.body(text),
        };
        if !typed {
            request = request.header("content-type", "application/json");
        }
        for (key, value) in self.headers {
            request = request.header(key, value);
        }
        let response = request.send().await.map_err(|error| format!("{}: no answer: {error}", self.name))?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|error| format!("{}: {error}", self.name))?;
        if status == self.status && text.contains(self.word) {
            return Ok(());
        }
        let shown: String = text.chars().take(400).collect();
        Err(format!("{}: wanted {} with {:?}, got {status}: {shown}", self.name, self.status, self.word))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_gets_its_answer_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let backups = backup::folder(home.path());
    let node = NodeBuilder::new(&data).arg("--backup-dir").arg(backups.display().to_string()).start();
    node.submit(&json!({"id": "bystander", "definition": {"steps": [{"id": "ask", "type": "reasoning",
        "config": {"prompt_context": "?", "options": [{"id": "yes"}], "target_agent": "boss"}}]}}))
        .await;
    node.settle("bystander").await;
    let before = node.events("bystander").await;
    let attacks: Vec<Attack> = [
        bodies::shapes(),
        bodies::definitions(),
        bodies::expressions(),
        bodies::reads(),
        bodies::commands(),
        bodies::operations(),
        mcp::messages(),
        mcp::tools(),
        operations::operations(),
        schedules::schedules(),
        identity::identity(),
        access::access(),
        catalogue::secrets(),
        catalogue::agents(),
        namespaces::namespaces(),
        history::history(),
        backup::backups(),
        webhooks::webhooks(),
        plugins::plugins(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let names: BTreeSet<&str> = attacks.iter().map(|attack| attack.name).collect();
    assert_eq!(names.len(), attacks.len(), "two attacks have one name");
    assert!(attacks.len() >= 90, "{} attacks", attacks.len());
    let mut wrong = Vec::new();
    for attack in attacks {
        wrong.extend(attack.make(&node).await.err());
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    let (_, list) = node.get("/v1/workflows").await;
    let left: Vec<&str> =
        list["items"].as_array().unwrap().iter().filter_map(|r| r["workflow_id"].as_str()).collect();
    assert_eq!(left, ["bystander"], "something of them was stored");
    let (_, templates) = node.get("/v1/templates").await;
    assert_eq!(templates["items"], json!([]), "a template was stored");
    let (_, schedules) = node.get("/v1/schedules").await;
    assert_eq!(schedules["items"], json!([]), "a schedule was stored");
    for kept in ["secrets", "agents", "tokens", "webhooks", "plugins"] {
        let (_, list) = node.get(&format!("/v1/{kept}")).await;
        assert_eq!(list["items"], json!([]), "one of the {kept} was stored");
    }
    let (_, namespaces) = node.get("/v1/namespaces").await;
    assert_eq!(namespaces["items"].as_array().map(Vec::len), Some(1), "a namespace was stored");
    let (_, rules) = node.get("/v1/retention").await;
    assert_eq!(rules, json!({"default": null, "templates": []}), "a rule was stored");
    backup::nothing_was_written(&backups);
    assert_eq!(node.events("bystander").await, before, "the bystander was touched");
    assert_eq!(node.get("/healthz").await.0, 200);
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}
