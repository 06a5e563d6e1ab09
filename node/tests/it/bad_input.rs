//! Bad input gets a clear refusal, writes nothing, and harms nobody.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::NodeBuilder;

fn one_step(step: Value) -> Value {
    json!({"definition": {"steps": [step]}})
}

/// Bodies, the status they get, and a word of the answer.
fn refused() -> Vec<(Value, u16, &'static str)> {
    let many: Vec<Value> =
        (0..100_000).map(|n| json!({"id": format!("s{n}"), "action": "crypto.uuid"})).collect();
    let mut deep = json!({"id": "leaf", "action": "crypto.uuid"});
    for level in 0..40 {
        deep = json!({"id": format!("l{level}"), "type": "parallel", "config": {"branches": [[deep]]}});
    }
    let guard = |text: String| one_step(json!({"id": "a", "action": "crypto.uuid", "condition": text}));
    vec![
        (json!({"definition": {"steps": []}}), 422, "VALIDATION_ERROR"),
        (json!({"definitoin": {"steps": []}}), 422, "definition"),
        (json!({}), 422, "VALIDATION_ERROR"),
        (json!({"template": "no-such-template"}), 404, "NOT_FOUND"),
        (one_step(json!({"id": "a", "action": "http.gett", "params": {"url": "x"}})), 422, "http.get"),
        (one_step(json!({"id": "a", "action": "http.get"})), 422, "url"),
        (one_step(json!({"id": "a b", "action": "crypto.uuid"})), 422, "/steps/0/id"),
        (one_step(json!({"id": "a", "action": "crypto.uuid", "depends_on": ["b"]})), 422, "depends_on"),
        (
            json!({"definition": {"steps": [
                {"id": "a", "action": "crypto.uuid", "depends_on": ["b"]},
                {"id": "b", "action": "crypto.uuid", "depends_on": ["a"]}]}}),
            422,
            "CYCLE_DETECTED",
        ),
        (guard("inputs.x ==".into()), 422, "column"),
        (guard("steps['nope'].x == 1".into()), 422, "nope"),
        (guard(vec!["1"; 10_000].join("+")), 422, "VALIDATION_ERROR"),
        (guard(format!("inputs{}", ".a".repeat(10_000))), 422, "VALIDATION_ERROR"),
        (guard(format!("{}1{}", "(".repeat(1_000), ")".repeat(1_000))), 422, "VALIDATION_ERROR"),
        (json!({"definition": {"steps": [deep]}}), 422, "VALIDATION_ERROR"),
        (json!({"definition": {"steps": many}}), 413, "PAYLOAD_TOO_LARGE"),
        (json!({"id": "../x", "definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}}), 422, "id"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_submissions_are_refused_and_write_nothing() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    for (body, status, word) in refused() {
        let (got, answer) = node.post("/v1/workflows", &body).await;
        let text = answer.to_string();
        let shown: String = body.to_string().chars().take(200).collect();
        assert!(
            got == status && text.contains(word),
            "{shown}\nwanted {status} with {word}, got {got}: {text}"
        );
        assert!(answer["trace_id"].is_string() && answer["title"].is_string(), "{text}");
    }
    let raw = |text: &'static str| {
        node.request(reqwest::Method::POST, "/v1/workflows")
            .header("content-type", "application/json")
            .body(text)
    };
    let malformed = raw("{\"definition\": {\n  \"steps\": [}").send().await.unwrap();
    assert_eq!(malformed.status(), 400);
    let answer: Value = malformed.json().await.unwrap();
    assert_eq!(
        (&answer["errors"][0]["line"], answer["errors"][0]["column"].is_u64()),
        (&json!(2), true),
        "{answer}"
    );
    let words = node.request(reqwest::Method::POST, "/v1/workflows").body("words").send().await.unwrap();
    assert_eq!(words.status(), 415);
    let (_, list) = node.get("/v1/workflows").await;
    assert_eq!(list["items"], json!([]), "nothing was written");
    assert_eq!(node.get("/healthz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_expressions_stall_nothing() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let list = "[0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9]";
    let nested = format!(
        "{list}.map(a, {list}.map(b, {list}.map(c, {list}.map(d, {list}.map(e, a+b+c+d+e))))).size() > 0"
    );
    let mut steps = vec![json!({"id": "cel", "action": "crypto.uuid", "condition": nested})];
    let filters = [
        "[range(1e12)]",
        "def f: f; f",
        "last(repeat(1))",
        "until(false; .)",
        "def f: [f]; f",
        "\"a\" * 1e9",
    ];
    for (n, filter) in filters.iter().enumerate() {
        steps.push(json!({"id": format!("jq{n}"), "action": "jq", "params": {"filter": filter, "data": 1},
                          "on_error": {"strategy": "ignore"}}));
    }
    steps[0]["on_error"] = json!({"strategy": "ignore"});
    let begun = Instant::now();
    let id = node.submit(&json!({"definition": {"steps": steps}})).await;
    let hostile = node.end(&id);
    let bystander = async {
        let id = node.submit(&json!({"definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}})).await;
        let run = node.end(&id).await;
        (run, begun.elapsed())
    };
    let (hostile, (bystander, took)) = tokio::join!(hostile, bystander);
    assert_eq!(bystander["status"], "completed");
    assert!(took < Duration::from_secs(5), "a bystander waited {took:?}");
    assert_eq!(hostile["status"], "completed", "{hostile:#}");
    let events = node.events(hostile["workflow_id"].as_str().unwrap()).await;
    let ignored = events.iter().filter(|e| e["type"] == "step_ignored").count();
    assert_eq!(ignored, filters.len() + 1, "{hostile:#}");
}
