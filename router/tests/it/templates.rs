//! Templates, validation, and the catalogue.

use serde_json::json;

use crate::node::Node;

fn file(message: &str) -> serde_json::Value {
    json!({"name": "greet", "description": "Says hello", "category": "demo",
           "definition": {"steps": [{"id": "a", "action": "workflow.log", "params": {"message": message}}]}})
}

#[tokio::test]
async fn versions_count_themselves() {
    let node = Node::start().await;
    let first = node.post("/v1/templates", &file("one")).await;
    assert_eq!((first.status, &first.json()["version"]), (201, &json!("v1")), "{:?}", first.body);
    assert_eq!(first.header("location"), "/v1/templates/greet?version=v1");
    let spaced = serde_json::to_string_pretty(&file("one")).expect("json");
    let again = node.post_text("/v1/templates", spaced).await;
    assert_eq!((again.status, &again.json()["version"]), (200, &json!("v1")));
    let second = node.post("/v1/templates", &file("two")).await;
    assert_eq!((second.status, &second.json()["version"]), (201, &json!("v2")));

    let newest = node.get("/v1/templates/greet").await.json();
    assert_eq!(newest["definition"]["steps"][0]["params"]["message"], "two");
    assert_eq!(newest["description"], "Says hello");
    let old = node.get("/v1/templates/greet?version=v1").await.json();
    assert_eq!(old["definition"]["steps"][0]["params"]["message"], "one");
    assert_eq!(node.get("/v1/templates/greet?version=v9").await.status, 404);
    assert_eq!(node.get("/v1/templates/greet?version=x").await.status, 400);

    let list = node.get("/v1/templates").await.json();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert_eq!((&list["items"][0]["version"], &list["next_cursor"]), (&json!("v2"), &json!(null)));
}

#[tokio::test]
async fn lists_of_templates_have_pages() {
    let node = Node::start().await;
    for name in ["c", "a", "b"] {
        let mut template = file("x");
        template["name"] = name.into();
        assert_eq!(node.post("/v1/templates", &template).await.status, 201);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/templates?limit=2".to_owned();
    loop {
        let page = node.get(&path).await.json();
        seen.extend(page["items"].as_array().expect("items").iter().map(|t| t["name"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/templates?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[tokio::test]
async fn validation_stores_nothing_and_names_every_problem() {
    let node = Node::start().await;
    let valid = node.post("/v1/validate", &file("x")).await;
    assert_eq!(valid.status, 200);
    assert_eq!(valid.json()["valid"], true);
    assert_eq!(valid.json()["levels"], json!([["a"]]));
    let broken = json!({"steps": [{"id": "a", "action": "http.gett"}, {"id": "a b", "type": "wait"}]});
    let answer = node.post("/v1/validate", &broken).await;
    assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("VALIDATION_ERROR")));
    let problems = answer.json()["errors"].clone();
    let pointers: Vec<_> =
        problems.as_array().expect("errors").iter().map(|p| p["pointer"].clone()).collect();
    assert!(pointers.contains(&json!("/steps/0/action")), "{problems}");
    assert!(pointers.contains(&json!("/steps/1/id")), "{problems}");
    let twice =
        node.post_text("/v1/validate", r#"{"steps":[{"id":"a","id":"b","action":"crypto.uuid"}]}"#).await;
    assert_eq!(twice.status, 422);
    assert_eq!(twice.json()["errors"][0]["pointer"], "/steps/0/id");
    let cycle = json!({"steps": [
        {"id": "a", "action": "crypto.uuid", "depends_on": ["b"]},
        {"id": "b", "action": "crypto.uuid", "depends_on": ["a"]}]});
    assert_eq!(node.post("/v1/validate", &cycle).await.json()["code"], "CYCLE_DETECTED");
    assert_eq!(node.get("/v1/templates").await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_name_is_needed_and_checked() {
    let node = Node::start().await;
    let bare = file("x")["definition"].clone();
    assert_eq!(node.post("/v1/templates", &bare).await.status, 422);
    assert_eq!(node.post("/v1/templates?name=a%2Fb", &bare).await.status, 422);
    assert_eq!(node.post("/v1/templates?name=bare", &bare).await.status, 201);
    assert_eq!(node.get("/v1/templates/bare").await.json()["definition"], bare);
}

#[tokio::test]
async fn actions_are_listed() {
    let node = Node::start().await;
    let list = node.get("/v1/actions").await.json();
    let names: Vec<_> = list["items"].as_array().expect("items").iter().map(|a| a["name"].clone()).collect();
    assert!(names.contains(&json!("http.get")), "{names:?}");
}
