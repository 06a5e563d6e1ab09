//! Workflows: submission alone and in batches, reading, lists, commands.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::node::{Node, request};

fn hash() -> Value {
    json!({"steps": [{"id": "a", "action": "crypto.hash", "params": {"data": "${{inputs.x}}"}}]})
}

fn ask() -> Value {
    json!({"steps": [{"id": "ask", "type": "reasoning", "config": {
        "prompt_context": "Go on?", "options": [{"id": "yes"}, {"id": "no"}]}}]})
}

#[tokio::test]
async fn a_run_is_submitted_once_by_its_id() {
    let node = Node::start().await;
    let body = json!({"id": "run-1", "definition": hash(), "params": {"x": "1"}});
    let first = node.post("/v1/workflows?wait=10s", &body).await;
    assert_eq!(first.status, 201, "{:?}", first.body);
    let document = first.json();
    assert_eq!((&document["workflow_id"], &document["status"]), (&json!("run-1"), &json!("completed")));
    assert!(document["output"]["a"].is_object(), "{document}");
    assert_eq!(first.header("location"), "/v1/workflows/run-1");
    assert_eq!(first.header("opcode-token").split(':').count(), 3);

    let again = node.post_text("/v1/workflows", serde_json::to_string_pretty(&body).expect("json")).await;
    assert_eq!((again.status, &again.json()["workflow_id"]), (200, &json!("run-1")));
    let other = json!({"id": "run-1", "definition": hash(), "params": {"x": "2"}});
    assert_eq!(node.post("/v1/workflows", &other).await.status, 422);

    let run = node.get("/v1/workflows/run-1?consistency=eventual").await;
    assert_eq!(run.json()["status"], "completed");
    assert_eq!(run.header("opcode-lag-ms"), "0");
    assert_eq!(node.get("/v1/workflows/run-1/definition").await.json(), hash());
    assert_eq!(node.get("/v1/workflows/run-1/why").await.status, 200);
}

#[tokio::test]
async fn a_run_that_leaves_memory_while_another_is_looked_up_is_found_all_the_same() {
    const RUNS: usize = 100;
    let node = Node::start().await;
    let item = |id: String| json!({"id": id, "definition": hash(), "params": {"x": "1"}});
    let same: Vec<Value> = (0..RUNS).map(|n| item(format!("same-{n}"))).collect();
    let statuses = async |items: &[Value]| {
        let answer = node.post("/v1/workflows/batch", &json!({ "workflows": items })).await;
        let results = answer.json()["results"].as_array().expect("results").clone();
        results.iter().map(|result| result["status"].as_u64().expect("a status")).collect::<Vec<_>>()
    };
    assert_eq!(statuses(&same).await, [201; RUNS]);
    // They are let go half a second after their end. Until all are, new ones come with them.
    let until = Instant::now() + Duration::from_millis(1_500);
    for round in 0.. {
        let new = (0..6).map(|n| item(format!("new-{round}-{n}")));
        let both: Vec<Value> = same.iter().cloned().chain(new).collect();
        let (known, new) = (vec![200; RUNS], vec![201; 6]);
        assert_eq!(statuses(&both).await, [known, new].concat(), "round {round}");
        if Instant::now() > until {
            return;
        }
    }
}

#[tokio::test]
async fn an_idempotency_key_names_one_run() {
    let node = Node::start().await;
    let send = async |key: &str, body: Value| {
        let mut request = request(Method::POST, "/v1/workflows", Body::from(body.to_string()));
        request.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
        request.headers_mut().insert("idempotency-key", key.parse().expect("a header"));
        node.send(request).await
    };
    let first = send("k1", json!({"definition": ask()})).await;
    let again = send("k1", json!({"definition": ask()})).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json()["workflow_id"], again.json()["workflow_id"]);
    assert_eq!(send("k1", json!({"definition": ask(), "params": {"n": 1}})).await.status, 422);
    let other = send("k2", json!({"definition": ask()})).await;
    assert_ne!(first.json()["workflow_id"], other.json()["workflow_id"]);
}

#[tokio::test]
async fn a_batch_answers_every_item_in_order() {
    let node = Node::start().await;
    let items = json!([
        {"id": "b-0", "definition": ask()},
        {"id": "b-1", "definition": {"steps": [{"id": "a", "action": "no.such"}]}},
        {"id": "b-2", "definition": ask()},
        {"id": "b-3"},
        "nonsense",
        {"id": "b-2", "definition": ask()},
    ]);
    let answer = node.post("/v1/workflows/batch", &json!({"workflows": items})).await;
    assert_eq!(answer.status, 200);
    let document = answer.json();
    let results = document["results"].as_array().expect("results");
    let statuses: Vec<_> = results.iter().map(|r| r["status"].as_u64()).collect();
    assert_eq!(statuses, [201, 422, 201, 422, 422, 200].map(Some), "{document}");
    assert_eq!(results[1]["errors"][0]["pointer"], "/definition/steps/0/action");
    assert_eq!(results[2]["workflow_id"], "b-2");

    let lines = format!(
        "{}\n\n{{oops\n{}\n",
        json!({"id": "l-0", "definition": ask()}),
        json!({"id": "l-1", "definition": ask()})
    );
    let mut request = request(Method::POST, "/v1/workflows/batch", Body::from(lines));
    request.headers_mut().insert("content-type", "application/x-ndjson".parse().expect("a header"));
    let document = node.send(request).await.json();
    let statuses: Vec<_> =
        document["results"].as_array().expect("results").iter().map(|r| r["status"].as_u64()).collect();
    assert_eq!(statuses, [201, 400, 201].map(Some), "{document}");
    assert_eq!(document["results"][1]["errors"][0]["line"], 3);
}

#[tokio::test]
async fn lists_go_over_all_shards_newest_first() {
    let node = Node::start().await;
    let workflows: Vec<_> = (0..23)
        .map(|n| {
            let team = if n % 2 == 0 { "red" } else { "blue" };
            json!({"id": format!("w-{n:02}"), "definition": ask(), "agent_id": "alice", "labels": {"team": team}})
        })
        .collect();
    node.post("/v1/workflows/batch", &json!({"workflows": workflows})).await;
    let all = async |filter: &str| {
        let mut seen: Vec<(String, String)> = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = node.get(&format!("/v1/workflows?limit=5&{filter}{cursor}")).await.json();
            for item in page["items"].as_array().unwrap_or_else(|| panic!("{page}")) {
                let text = |name: &str| item[name].as_str().expect("a text").to_owned();
                seen.push((text("created_at"), text("workflow_id")));
            }
            let Some(next) = page["next_cursor"].as_str() else { return seen };
            cursor = format!("&cursor={next}");
        }
    };
    let seen = all("").await;
    assert_eq!(seen.len(), 23);
    assert!(seen.is_sorted_by(|a, b| a > b), "{seen:?}");
    assert_eq!(all("label=team:red").await.len(), 12);
    assert_eq!(all("status=suspended,active").await.len(), 23);
    assert_eq!(all("status=completed").await.len(), 0);
    assert_eq!(all("agent_id=bob").await.len(), 0);
    assert_eq!(all("until=2001-01-01T00:00:00Z").await.len(), 0);
    let decisions = node.get("/v1/decisions?limit=1000").await.json();
    assert_eq!(decisions["items"].as_array().map(Vec::len), Some(23), "{decisions}");
    let counted = node.post("/v1/sql", &json!({"query": "SELECT count(*) AS n FROM workflows"})).await.json();
    let counts: u64 =
        counted["items"].as_array().expect("rows").iter().filter_map(|row| row["n"].as_u64()).sum();
    assert_eq!(counts, 23, "{counted}");
}

#[tokio::test]
async fn decisions_are_answered_by_signals() {
    let node = Node::start().await;
    let id = node.post("/v1/workflows?wait=10s", &json!({"id": "d", "definition": ask()})).await.json();
    assert_eq!(id["status"], "suspended", "{id}");
    let signal = |choice: &str| json!({"type": "decision", "step_id": "ask", "payload": {"choice": choice}});
    let wrong = node.post("/v1/workflows/d/signals", &signal("perhaps")).await;
    assert_eq!(wrong.status, 422, "{:?}", wrong.body);
    let right = node.post("/v1/workflows/d/signals", &signal("yes")).await;
    assert_eq!(right.status, 202, "{:?}", right.body);
    assert!(right.json()["sequence"].is_u64());
    let run = node.get("/v1/workflows/d?wait=10s").await.json();
    assert_eq!(
        (&run["status"], &run["output"]["ask"]["choice"]),
        (&json!("completed"), &json!("yes")),
        "{run}"
    );
    let late = node.post("/v1/workflows/d/signals", &signal("no")).await;
    assert_eq!(late.status, 409, "{:?}", late.body);
}

#[tokio::test]
async fn bodies_of_commands_are_read_strictly() {
    let node = Node::start().await;
    let refused = [
        ("/v1/workflows/x/signals", json!({"type": "dacision"}), "/type"),
        ("/v1/workflows/x/signals", json!({"typ": "data"}), "/type"),
        ("/v1/workflows/x/cancel", json!({"reson": "x"}), "/reson"),
        ("/v1/workflows/x/retry", json!({"from_step": 3}), "/from_step"),
        ("/v1/workflows/bulk", json!({"action": "cancel"}), "/filter"),
        (
            "/v1/workflows/bulk",
            json!({"action": "cancel", "filter": {"status": "failing"}}),
            "/filter/status",
        ),
        ("/v1/sql", json!({"query": 3}), "/query"),
    ];
    for (path, body, pointer) in refused {
        let answer = node.post(path, &body).await;
        assert_eq!(answer.status, 422, "{path} {body}");
        let document = answer.json();
        let pointers: Vec<_> =
            document["errors"].as_array().expect("errors").iter().map(|e| &e["pointer"]).collect();
        assert!(pointers.contains(&&json!(pointer)), "{path} {body}: {document}");
    }
}

#[tokio::test]
async fn one_action_reaches_all_that_match() {
    let node = Node::start().await;
    let workflows: Vec<_> =
        (0..9).map(|n| json!({"definition": ask(), "labels": {"n": (n % 3).to_string()}})).collect();
    node.post("/v1/workflows/batch", &json!({"workflows": workflows})).await;
    let bulk =
        |dry_run: bool| json!({"action": "cancel", "dry_run": dry_run, "filter": {"labels": {"n": "1"}}});
    let dry = node.post("/v1/workflows/bulk", &bulk(true)).await.json();
    assert_eq!((&dry["matched"], &dry["applied"]), (&json!(3), &json!(0)), "{dry}");
    let wet = node.post("/v1/workflows/bulk", &bulk(false)).await.json();
    assert_eq!((&wet["matched"], &wet["applied"]), (&json!(3), &json!(3)), "{wet}");
    let cancelled = node.get("/v1/workflows?status=cancelled").await.json();
    assert_eq!(cancelled["items"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_template_is_run_in_the_version_asked_for() {
    let node = Node::start().await;
    for data in ["one", "two"] {
        let definition = json!({"steps": [{"id": "a", "action": "crypto.hash", "params": {"data": data}}]});
        node.post("/v1/templates", &json!({"name": "t", "definition": definition})).await;
    }
    let version = async |body: Value| {
        let id = node.post("/v1/workflows?wait=10s", &body).await.json()["workflow_id"].clone();
        let id = id.as_str().expect("an id").to_owned();
        node.get(&format!("/v1/workflows/{id}")).await.json()["version"].clone()
    };
    assert_eq!(version(json!({"template": "t"})).await, "v2");
    assert_eq!(version(json!({"template": "t", "version": "v1"})).await, "v1");
    assert_eq!(node.post("/v1/workflows", &json!({"template": "u"})).await.status, 404);
    // A template is what the batch may name too.
    let batch = json!({"workflows": [{"template": "t"}, {"template": "u"}]});
    let results = node.post("/v1/workflows/batch", &batch).await.json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(201), &json!(404)));
}

#[tokio::test]
async fn a_run_is_drawn() {
    let node = Node::start().await;
    node.post("/v1/workflows?wait=10s", &json!({"id": "d", "definition": ask()})).await;
    let formats = [
        ("ascii", "text/plain; charset=utf-8"),
        ("mermaid", "text/vnd.mermaid; charset=utf-8"),
        ("svg", "image/svg+xml"),
    ];
    for (format, media_type) in formats {
        let answer = node.get(&format!("/v1/workflows/d/diagram?format={format}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, media_type));
        let text = String::from_utf8(answer.body.to_vec()).expect("utf-8");
        assert!(text.contains("ask"), "{text}");
    }
    let painted = node.get("/v1/workflows/d/diagram?format=png").await;
    assert_eq!((painted.status, painted.header("content-type")), (200, "image/png"));
    assert!(painted.body.starts_with(b"\x89PNG") && painted.body.len() > 1_000);
    assert_eq!(node.get("/v1/workflows/d/diagram?format=gif").await.status, 400);
    assert_eq!(node.get("/v1/workflows/none/diagram").await.status, 404);
}

#[tokio::test]
async fn sql_only_reads() {
    let node = Node::start().await;
    let ask = async |query: &str| node.post("/v1/sql", &json!({"query": query})).await.status;
    assert_eq!(ask("SELECT 1 AS one").await, 200);
    assert_eq!(ask("DELETE FROM workflows").await, 403);
    assert_eq!(ask("SELEC 1").await, 422);
    assert_eq!(ask("SELECT * FROM nothing").await, 422);
    assert_eq!(ask("SELECT 1; SELECT 2").await, 422);
    let one = node.post("/v1/sql", &json!({"query": "SELECT 1 AS one", "limit": 2})).await.json();
    assert_eq!((&one["items"], &one["truncated"]), (&json!([{"one": 1}, {"one": 1}]), &json!(true)));
    assert_eq!(node.post("/v1/sql", &json!({"query": "SELECT 1", "shard": 77})).await.status, 422);
}

#[tokio::test]
async fn numbers_keep_every_digit() {
    let node = Node::start().await;
    let body = concat!(
        r#"{"id":"digits","params":{"n":123456789012345678901234567890,"f":1.50},"#,
        r#""definition":{"steps":[{"id":"a","type":"wait","config":{"signal":"go"}}],"output":"${{inputs}}"}}"#
    );
    assert_eq!(node.post_text("/v1/workflows", body).await.status, 201);
    let text = String::from_utf8(node.get("/v1/workflows/digits").await.body.to_vec()).expect("utf-8");
    assert!(text.contains("123456789012345678901234567890") && text.contains("1.50"), "{text}");
}
