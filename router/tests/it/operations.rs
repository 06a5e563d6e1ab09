//! What operators do to runs: suspend and resume, run again, delete, and each of these to many.

use serde_json::{Value, json};

use crate::node::{Answer, Node};

/// A run that fails unless its param says otherwise, after a step that is done once.
fn picky(message: &str) -> Value {
    json!({"steps": [
        {"id": "first", "action": "crypto.uuid"},
        {"id": "check", "action": "assert.equals", "depends_on": ["first"],
         "params": {"actual": "${{inputs.x}}", "expected": 1, "message": message}},
    ]})
}

fn waits() -> Value {
    json!({"steps": [
        {"id": "pause", "type": "wait", "config": {"signal": "go"}},
        {"id": "after", "action": "workflow.log", "depends_on": ["pause"], "params": {"message": "m"}},
    ]})
}

async fn post(node: &Node, path: &str, body: Value, status: u16) -> Value {
    let answer = node.post(path, &body).await;
    assert_eq!(answer.status, status, "{path} {body}: {:?}", answer.body);
    answer.json()
}

async fn ends(node: &Node, id: &str) -> Value {
    node.get(&format!("/v1/workflows/{id}?wait=10s")).await.json()
}

fn types(events: &Answer) -> Vec<String> {
    let items = events.json()["items"].as_array().expect("items").clone();
    items.iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
}

#[tokio::test]
async fn a_run_is_held_and_goes_on_when_it_is_told() {
    let node = Node::start().await;
    post(&node, "/v1/workflows", json!({"id": "w", "definition": waits()}), 201).await;
    ends(&node, "w").await;
    post(&node, "/v1/workflows/w/suspend", json!({"reason": "too busy", "agent_id": "ann"}), 202).await;
    post(&node, "/v1/workflows/w/suspend", json!({}), 409).await;
    let signal = json!({"type": "data", "step_id": "go", "payload": 1});
    post(&node, "/v1/workflows/w/signals", signal, 202).await;
    let held = ends(&node, "w").await;
    assert_eq!(
        (&held["status"], &held["steps"]["pause"]["status"]),
        (&json!("suspended"), &json!("completed"))
    );
    let why = node.get("/v1/workflows/w/why").await.json();
    assert_eq!(why["waiting_for"][0]["kind"], "operator", "{why}");
    post(&node, "/v1/workflows/w/resume", json!({}), 202).await;
    assert_eq!(ends(&node, "w").await["status"], "completed");
    post(&node, "/v1/workflows/w/resume", json!({}), 409).await;
    let events = node.get("/v1/workflows/w/events").await;
    let held = events.json()["items"].as_array().expect("items").clone();
    let held = held.iter().find(|event| event["data"]["held"] == true).expect("it is an event").clone();
    assert_eq!((&held["data"]["reason"], &held["agent_id"]), (&json!("too busy"), &json!("ann")));
    assert!(types(&events).contains(&"workflow_resumed".to_owned()));
}

#[tokio::test]
async fn a_run_is_run_again_from_a_step_with_other_params_or_another_version() {
    let node = Node::start().await;
    post(&node, "/v1/templates", json!({"name": "t", "definition": picky("old")}), 201).await;
    post(&node, "/v1/workflows", json!({"id": "w", "template": "t", "params": {"x": 2}}), 201).await;
    let failed = ends(&node, "w").await;
    assert_eq!((&failed["status"], &failed["version"]), (&json!("failed"), &json!("v1")));

    // Refused ones change nothing.
    let before = types(&node.get("/v1/workflows/w/events").await);
    post(&node, "/v1/workflows/w/retry", json!({"from_step": "none"}), 404).await;
    post(&node, "/v1/workflows/w/retry", json!({"version": "v7"}), 404).await;
    assert_eq!(types(&node.get("/v1/workflows/w/events").await), before);

    post(&node, "/v1/templates", json!({"name": "t", "definition": picky("new")}), 201).await;
    post(&node, "/v1/workflows/w/retry", json!({"version": "v2"}), 202).await;
    let again = ends(&node, "w").await;
    assert_eq!((&again["status"], &again["version"]), (&json!("failed"), &json!("v2")));
    assert_eq!(again["steps"]["first"]["output"], failed["steps"]["first"]["output"], "it was done once");
    assert!(again["error"]["message"].as_str().expect("a message").contains("new"), "{again}");

    let retry = json!({"from_step": "check", "params": {"x": 1}, "reason": "it is one"});
    post(&node, "/v1/workflows/w/retry", retry, 202).await;
    let done = ends(&node, "w").await;
    assert_eq!((&done["status"], &done["params"]["x"]), (&json!("completed"), &json!(1)));
    assert_eq!(done["steps"]["first"]["output"], failed["steps"]["first"]["output"]);
    post(&node, "/v1/workflows/w/retry", json!({}), 409).await;
    post(&node, "/v1/workflows/w/retry", json!({"from_step": "first"}), 202).await;
    let from_the_first = ends(&node, "w").await;
    assert_ne!(from_the_first["steps"]["first"]["output"], failed["steps"]["first"]["output"]);
    // Who came from no template has no other version.
    post(&node, "/v1/workflows", json!({"id": "own", "definition": picky("m"), "params": {"x": 2}}), 201)
        .await;
    ends(&node, "own").await;
    post(&node, "/v1/workflows/own/retry", json!({"version": "v1"}), 422).await;
}

#[tokio::test]
async fn what_has_ended_is_deleted_with_all_that_was_of_it() {
    let node = Node::start().await;
    let body = json!({"id": "w", "definition": picky("m"), "params": {"x": 1}, "labels": {"a": "b"}});
    post(&node, "/v1/workflows?wait=10s", body.clone(), 201).await;
    post(&node, "/v1/workflows", json!({"id": "live", "definition": waits()}), 201).await;
    assert_eq!(node.delete("/v1/workflows/live").await.status, 409);
    assert_eq!(node.delete("/v1/workflows/none").await.status, 404);
    let deleted = node.delete("/v1/workflows/w").await;
    assert_eq!(deleted.status, 202, "{:?}", deleted.body);
    for path in ["", "/events", "/why", "/definition"] {
        assert_eq!(node.get(&format!("/v1/workflows/w{path}")).await.status, 404, "{path}");
    }
    assert_eq!(node.delete("/v1/workflows/w").await.status, 404);
    assert_eq!(node.post("/v1/workflows/w/retry", &json!({"from_step": "first"})).await.status, 404);
    assert_eq!(node.get("/v1/workflows?label=a:b").await.json()["items"], json!([]));
    // The same id again is another run, once the tables know.
    let again = loop {
        let answer = node.post("/v1/workflows?wait=10s", &body).await;
        if answer.status != 422 {
            break answer;
        }
    };
    assert_eq!((again.status, &again.json()["status"]), (201, &json!("completed")));
    let events = types(&node.get("/v1/workflows/w/events").await);
    assert_eq!(events.iter().filter(|kind| *kind == "workflow_started").count(), 1, "{events:?}");
}

#[tokio::test]
async fn many_are_steered_at_once_and_counted_before() {
    let node = Node::start().await;
    let workflow =
        |n: usize| json!({"id": format!("w-{n}"), "definition": waits(), "labels": {"team": "red"}});
    let workflows: Vec<Value> = (0..25).map(workflow).collect();
    post(&node, "/v1/workflows/batch", json!({"workflows": workflows}), 200).await;
    post(&node, "/v1/workflows", json!({"id": "other", "definition": waits()}), 201).await;
    let red = json!({"labels": {"team": "red"}});
    let bulk = async |action: &str, more: Value| {
        let mut body = json!({"action": action, "filter": red});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        post(&node, "/v1/workflows/bulk", body, 200).await
    };
    let counts = |answer: &Value| {
        ["matched", "applied", "refused"].map(|name| answer[name].as_u64().expect("a count"))
    };
    assert_eq!(counts(&bulk("suspend", json!({"dry_run": true})).await), [25, 0, 0]);
    assert_eq!(counts(&bulk("suspend", json!({"reason": "r"})).await), [25, 25, 0]);
    assert_eq!(counts(&bulk("suspend", json!({})).await), [25, 0, 25]);
    assert_eq!(counts(&bulk("resume", json!({})).await), [25, 25, 0]);
    assert_eq!(counts(&bulk("delete", json!({})).await), [0, 0, 0], "none has ended");

    // Some at a time, each once.
    let (mut pages, mut applied, mut more) = (0, 0, json!({"limit": 7}));
    loop {
        let answer = bulk("cancel", more.clone()).await;
        (pages, applied) = (pages + 1, applied + answer["applied"].as_u64().expect("a count"));
        assert_eq!(answer["truncated"], json!(answer["next_cursor"].is_string()), "{answer}");
        let Some(cursor) = answer["next_cursor"].as_str() else { break };
        more = json!({"limit": 7, "cursor": cursor});
    }
    assert!((4..=5).contains(&pages) && applied == 25, "{pages} pages, {applied}");
    for n in 0..25 {
        assert_eq!(ends(&node, &format!("w-{n}")).await["status"], "cancelled");
    }
    assert_eq!(counts(&bulk("retry", json!({})).await), [0, 0, 0]);
    let retried = bulk("retry", json!({"filter": {"labels": {"team": "red"}, "status": "cancelled"}})).await;
    assert_eq!(counts(&retried), [25, 25, 0]);
    assert_eq!(counts(&bulk("cancel", json!({})).await), [25, 25, 0]);
    for n in 0..25 {
        ends(&node, &format!("w-{n}")).await;
    }
    assert_eq!(counts(&bulk("delete", json!({"dry_run": true})).await), [25, 0, 0]);
    assert_eq!(counts(&bulk("delete", json!({})).await), [25, 25, 0]);
    let left = node.get("/v1/workflows").await.json()["items"].as_array().expect("items").len();
    assert_eq!(left, 1, "the other one");
}

#[tokio::test]
async fn what_is_wrong_with_a_bulk_is_told_at_once() {
    let node = Node::start().await;
    let body = json!({"action": "supend", "limit": 0, "cursor": "x", "filter": {"status": "dead"}});
    let answer = node.post("/v1/workflows/bulk", &body).await;
    assert_eq!(answer.status, 422);
    let errors = answer.json()["errors"].as_array().expect("errors").clone();
    let told: Vec<&str> = errors.iter().filter_map(|error| error["pointer"].as_str()).collect();
    assert_eq!(told, ["/action", "/filter/status", "/limit", "/cursor"]);
    assert!(errors[0]["message"].as_str().expect("text").contains("did you mean `suspend`"), "{errors:?}");
    let signal = json!({"action": "delete", "filter": {}, "signal": {"type": "cancel"}});
    assert_eq!(node.post("/v1/workflows/bulk", &signal).await.status, 422);
}

#[tokio::test]
async fn of_a_paused_template_no_run_starts_and_those_that_are_there_go_on() {
    let node = Node::start().await;
    post(&node, "/v1/templates", json!({"name": "t", "definition": waits()}), 201).await;
    let child = json!({"steps": [{"id": "c", "action": "workflow.run", "params": {"template_name": "t"}}]});
    let schedule = json!({"id": "s", "template": "t", "interval": "1s", "missed": "skip"});
    post(&node, "/v1/schedules", schedule, 201).await;
    let before = json!({"id": "before", "template": "t"});
    post(&node, "/v1/workflows", before.clone(), 201).await;
    let change = async |body: Value| node.patch("/v1/templates/t", &body).await;
    let paused = change(json!({"paused": true, "reason": "the bank is closed"})).await;
    assert_eq!(paused.status, 200, "{:?}", paused.body);
    assert_eq!(paused.json()["paused_reason"], "the bank is closed");
    assert_eq!(change(json!({"paused": true})).await.json()["paused_reason"], "the bank is closed");

    // One that is there is found again.
    post(&node, "/v1/workflows", before, 200).await;
    let refused = node.post("/v1/workflows", &json!({"id": "w", "template": "t"})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("CONFLICT")));
    let batch = json!({"workflows": [{"template": "t", "version": "v1"}, {"definition": waits()}]});
    let results = post(&node, "/v1/workflows/batch", batch, 200).await["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(409), &json!(201)));
    assert_eq!(node.post("/v1/schedules/s/trigger", &json!({})).await.status, 409);
    post(&node, "/v1/workflows", json!({"id": "parent", "definition": child}), 201).await;
    let failed = ends(&node, "parent").await;
    assert_eq!(failed["error"]["code"], "ACTION_UNAVAILABLE", "{failed}");
    // A slot passes, and the schedule says why.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let schedule = node.get("/v1/schedules/s").await.json();
        if schedule["last_error"].to_string().contains("is paused") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{schedule}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let listed = node.get("/v1/templates").await.json();
    assert_eq!(listed["items"][0]["paused"], true, "{listed}");
    let signal = json!({"type": "data", "step_id": "go", "payload": 1});
    post(&node, "/v1/workflows/before/signals", signal, 202).await;
    assert_eq!(ends(&node, "before").await["status"], "completed");
    // Reading it, defining it anew and running again what there is stay as they were.
    post(&node, "/v1/templates", json!({"name": "t", "definition": picky("m")}), 201).await;
    post(&node, "/v1/workflows/before/retry", json!({"from_step": "after"}), 202).await;

    let resumed = change(json!({"paused": false})).await.json();
    assert_eq!((&resumed["paused"], resumed.get("paused_at")), (&json!(false), None));
    post(&node, "/v1/workflows", json!({"id": "w", "template": "t", "params": {"x": 1}}), 201).await;
    for (path, body, status) in [
        ("/v1/templates/none", json!({"paused": true}), 404),
        ("/v1/templates/t", json!({}), 422),
        ("/v1/templates/t", json!({"paused": "yes"}), 422),
        ("/v1/templates/t", json!({"paused": true, "until": "noon"}), 422),
    ] {
        assert_eq!(node.patch(path, &body).await.status, status, "{path} {body}");
    }
}
