//! What leaves one cluster and comes into another is the same there, whatever its shards.

use std::collections::BTreeSet;

use opcode_engine::definition::Definition;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::run;
use crate::cluster::{Node, NodeBuilder, assert_tables_equal_fold};

/// Sends lines to be imported; the status and the answer.
pub(crate) async fn import(node: &Node, query: &str, lines: impl Into<reqwest::Body>) -> (u16, Value) {
    let request = node.request(Method::POST, &format!("/v1/import{query}"));
    let request = request.header("content-type", "application/x-ndjson").body(lines);
    let response = request.send().await.unwrap_or_else(|error| panic!("no answer: {error:?}"));
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

/// The lines of an export, without the last, which says how many they are.
pub(crate) async fn export(node: &Node, query: &str) -> Vec<String> {
    let response = node.request(Method::GET, &format!("/v1/export{query}")).send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    let text = response.text().await.expect("text");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let last: Value = serde_json::from_str(&lines.pop().expect("a last line")).expect("JSON");
    assert_eq!(last["kind"], "end", "{last}");
    let count = last["templates"].as_u64().zip(last["runs"].as_u64()).expect("counts");
    assert_eq!(usize::try_from(count.0 + count.1), Ok(lines.len()), "{last}");
    lines
}

/// A line of a run that was called off before its only step began.
pub(crate) fn cancelled_run(id: &str) -> Value {
    let source = json!({"steps": [{"id": "w", "type": "wait", "config": {"signal": "go"}}]});
    let hash = Definition::parse(&source.to_string()).expect("a definition").hash.to_string();
    let started =
        json!({"workflow_id": id, "status": "active", "definition": hash, "params": {}, "context": {}});
    let event = |sequence: u32, kind: &str, data: Value| json!({"sequence": sequence, "type": kind, "data": data, "timestamp": "2026-01-02T03:04:05.678Z"});
    json!({"kind": "run", "workflow_id": id, "definitions": [source],
        "events": [event(1, "workflow_started", started), event(2, "workflow_cancelled", json!({}))]})
}

async fn accepted(node: &Node, path: &str, body: Value, status: u16) -> Value {
    let (answered, answer) = node.post(path, &body).await;
    assert_eq!(answered, status, "{path}: {answer}");
    answer
}

/// Runs of many kinds that have ended, and one that has not; the ids of those that have.
async fn lives(node: &Node) -> Vec<&'static str> {
    let hash = json!({"id": "a", "action": "crypto.hash", "params": {"data": "${{inputs.x}}"}});
    for version in 1..=2 {
        let definition = json!({"steps": [hash], "metadata": {"n": version}});
        let template = json!({"name": "t", "description": "d", "input_schema": {"required": ["x"]},
            "definition": definition});
        accepted(node, "/v1/templates", template, 201).await;
    }
    let labels = json!({"team": "red", "n": "1"});
    let body = json!({"id": "good", "template": "t", "params": {"x": "1"}, "labels": labels,
        "context": {"intent": "to see"}, "agent_id": "ann"});
    node.submit(&body).await;
    node.submit(&json!({"id": "old", "template": "t", "version": "v1", "params": {"x": "2"}})).await;
    let picky = json!({"steps": [{"id": "c", "action": "assert.equals",
        "params": {"actual": "${{inputs.x}}", "expected": 1}}]});
    node.submit(&json!({"id": "bad", "definition": picky, "params": {"x": 2}})).await;
    node.submit(&json!({"id": "again", "definition": picky, "params": {"x": 2}})).await;
    node.end("again").await;
    accepted(node, "/v1/workflows/again/retry", json!({"params": {"x": 1}}), 202).await;
    let ask = json!({"steps": [{"id": "ask", "type": "reasoning",
        "config": {"prompt_context": "?", "options": [{"id": "yes"}, {"id": "no"}]}}]});
    node.submit(&json!({"id": "asked", "definition": ask})).await;
    node.settle("asked").await;
    let signal =
        json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}, "agent_id": "bob"});
    accepted(node, "/v1/workflows/asked/signals", signal, 202).await;
    let loops = json!({"steps": [{"id": "l", "type": "loop", "config": {"mode": "for_each", "over": "[1, 2, 3]",
        "body": [{"id": "b", "action": "expr.eval", "params": {"expression": "1 + 1"}}]}}]});
    node.submit(&json!({"id": "loops", "definition": loops})).await;
    let parent = json!({"steps": [{"id": "p", "action": "workflow.run",
        "params": {"template_name": "t", "params": {"x": "3"}}}]});
    node.submit(&json!({"id": "parent", "definition": parent})).await;
    let waits = json!({"steps": [{"id": "w", "type": "wait", "config": {"signal": "go"}}]});
    for id in ["off", "waits"] {
        node.submit(&json!({"id": id, "definition": waits, "labels": {"kind": "waits"}})).await;
        node.settle(id).await;
    }
    accepted(node, "/v1/workflows/off/cancel", json!({"reason": "enough"}), 202).await;
    let ended = vec!["good", "old", "bad", "again", "asked", "loops", "parent", "off"];
    for id in &ended {
        node.end(id).await;
    }
    ended
}

/// Everything that can be asked of these runs, and of all.
async fn everything(node: &Node, ids: &[String]) -> Vec<(String, Value)> {
    let mut paths: Vec<String> = ids
        .iter()
        .flat_map(|id| {
            ["", "/events?limit=1000", "/definition", "/diagram", "/why"]
                .map(|part| format!("/v1/workflows/{id}{part}"))
        })
        .collect();
    let lists = [
        "/v1/workflows?limit=1000&status=completed,failed,cancelled",
        "/v1/workflows?label=team:red",
        "/v1/workflows?template=t",
        "/v1/decisions?status=resolved",
        "/v1/templates",
        "/v1/templates/t?version=v1",
        "/v1/templates/t",
    ];
    paths.extend(lists.map(str::to_owned));
    let mut answers = Vec::new();
    for path in paths {
        let (status, answer) = node.get(&path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answers.push((path, answer));
    }
    answers
}

fn kind_of(line: &str) -> (Value, Value) {
    let line: Value = serde_json::from_str(line).expect("a line is JSON");
    (line["kind"].clone(), line["status"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_makes_the_same_anew_whatever_the_shards() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    let old = NodeBuilder::new(&from).arg("--shards").arg("3").start();
    lives(&old).await;
    let lines = export(&old, "").await;
    let kinds: Vec<_> = lines.iter().map(|line| kind_of(line).0).collect();
    assert_eq!(kinds[..2], [json!("template"), json!("template")], "templates come first");
    // Eight, the parent's child, and the one that waits.
    assert_eq!(kinds[2..], vec![json!("run"); 10]);
    let ended: BTreeSet<&String> = lines
        .iter()
        .filter(|line| !["active", "suspended"].map(Value::from).contains(&kind_of(line).1))
        .collect();
    let ids: Vec<String> = ended
        .iter()
        .filter_map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["workflow_id"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!((ended.len(), ids.len()), (11, 9));

    let builder = NodeBuilder::new(&to).arg("--shards").arg("7");
    let new = builder.start();
    let (status, answer) = import(&new, "?ended_only=true", lines.join("\n")).await;
    assert_eq!((status, &answer["imported"], &answer["skipped"]), (200, &json!(11), &json!(1)), "{answer}");
    assert_eq!((&answer["failed"], answer["results"].as_array().map(Vec::len)), (&json!(0), Some(12)));
    let wanted = everything(&old, &ids).await;
    assert_eq!(everything(&new, &ids).await, wanted);
    let again: Vec<String> = export(&new, "").await;
    assert_eq!(again.iter().collect::<BTreeSet<_>>(), ended, "what came in goes out the same");
    // The same again changes nothing, also after a crash; what has not ended is refused, and named.
    new.kill();
    let new = builder.start();
    let (_, answer) = import(&new, "", lines.join("\n\n")).await;
    assert_eq!((&answer["unchanged"], &answer["failed"]), (&json!(11), &json!(1)), "{answer}");
    let refused: Vec<_> =
        answer["results"].as_array().unwrap().iter().filter(|result| result["status"] == 409).collect();
    assert_eq!((&refused[0]["id"], &refused[0]["code"]), (&json!("waits"), &json!("INVALID_TRANSITION")));
    assert!(refused[0]["line"].as_u64().unwrap() % 2 == 1, "empty lines are counted: {refused:?}");
    assert_eq!(everything(&new, &ids).await, wanted);

    // It goes on like any other.
    accepted(&new, "/v1/workflows/bad/retry", json!({"params": {"x": 1}}), 202).await;
    assert_eq!(new.end("bad").await["status"], "completed");
    let (_, answer) = import(&new, "?ended_only=true", lines.join("\n")).await;
    assert_eq!((&answer["unchanged"], &answer["failed"]), (&json!(10), &json!(1)), "it went on: {answer}");
    for (node, data) in [(old, &from), (new, &to)] {
        assert!(node.stop().success());
        assert_tables_equal_fold(data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_refused_harms_no_other() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = NodeBuilder::new(&data).start();
    let waits = json!({"steps": [{"id": "w", "type": "wait", "config": {"signal": "go"}}]});
    node.submit(&json!({"id": "taken", "definition": waits})).await;
    let mut moved = cancelled_run("moved");
    moved["workflow_id"] = json!("elsewhere");
    let mut cut = cancelled_run("cut");
    cut["events"].as_array_mut().unwrap().pop();
    let template = |version: &str| {
        json!({"kind": "template", "name": "t", "version": version, "created_at": "2026-01-02T03:04:05Z",
            "source": {"name": "t", "definition": waits, "metadata": {"v": version}}})
    };
    let lines = [
        cancelled_run("first").to_string(),
        "{".to_owned(),
        cancelled_run("taken").to_string(),
        moved.to_string(),
        // Longer than any line that is taken.
        "x".repeat(100 * 1024 * 1024),
        cut.to_string(),
        template("v2").to_string(),
        template("v1").to_string(),
        template("v2").to_string(),
        "\u{0}".repeat(5),
        cancelled_run("last").to_string(),
        cancelled_run("last").to_string(),
    ];
    let (status, answer) = import(&node, "", lines.join("\n")).await;
    assert_eq!(status, 200, "{answer}");
    let results: Vec<(u64, u64)> = answer["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| (result["line"].as_u64().unwrap(), result["status"].as_u64().unwrap()))
        .collect();
    let wanted = [201, 400, 409, 422, 413, 409, 409, 201, 201, 400, 201, 200]
        .into_iter()
        .enumerate()
        .map(|(n, s)| (n as u64 + 1, s));
    assert_eq!(results, wanted.collect::<Vec<_>>(), "{answer}");
    for id in ["first", "last"] {
        let run = node.end(id).await;
        assert_eq!(
            (&run["status"], &run["created_at"]),
            (&json!("cancelled"), &json!("2026-01-02T03:04:05.678Z"))
        );
    }
    assert_eq!(node.get("/v1/workflows/taken").await.1["status"], "suspended", "it was left alone");
    for id in ["elsewhere", "moved", "cut"] {
        assert_eq!(node.get(&format!("/v1/workflows/{id}")).await.0, 404, "{id}");
    }
    assert_eq!(node.get("/v1/templates/t").await.1["version"], "v2");
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_all_along() {
    let home = tempfile::tempdir().unwrap();
    let node = |name: &str| NodeBuilder::new(&home.path().join(name)).start();
    let (old, new) = (node("old"), node("new"));
    lives(&old).await;
    let file = |name: &str| home.path().join(name).display().to_string();
    let asked = |node: &Node, args: &[&str]| {
        let output = run(&node.url, &[args, &["-o", "json"]].concat(), "");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), document, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (all, packed) = (file("all.jsonl"), file("ended.jsonl.gz"));
    let (all, packed) = (all.as_str(), packed.as_str());
    let (code, done, _) = asked(&old, &["export", all]);
    assert_eq!((code, done), (Some(0), json!({"templates": 2, "runs": 10, "left_out": 0})));
    let ended = ["--status", "completed", "--status", "failed", "--status", "cancelled"];
    let (code, done, _) = asked(&old, &[&["export", packed][..], &ended[..]].concat());
    assert_eq!((code, &done["runs"]), (Some(0), &json!(9)));
    assert!(std::fs::read(packed).unwrap().starts_with(&[0x1f, 0x8b]));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 4, "nothing unfinished is left");

    let (code, done, told) = asked(&new, &["import", all, "--dry-run"]);
    assert_eq!((code, &done["good"], &done["failed"]), (Some(1), &json!(11), &json!(1)), "{told}");
    assert!(told.contains("waits: the run is suspended"), "{told}");
    assert_eq!(new.get("/v1/workflows").await.1["items"], json!([]), "a dry run does nothing");
    let (code, done, told) = asked(&new, &["import", packed]);
    let wanted = json!({"imported": 11, "unchanged": 0, "skipped": 0, "failed": 0});
    assert_eq!((code, &done), (Some(0), &wanted), "{told}");
    let (code, done, _) = asked(&new, &["import", all, "--ended-only"]);
    assert_eq!((code, &done["unchanged"], &done["skipped"]), (Some(0), &json!(11), &json!(1)));

    let cases: &[(&[&str], i32)] = &[
        (&["import"], 2),
        (&["import", "a", "--opcode-db", "b"], 2),
        (&["import", "/nowhere/at-all"], 1),
        (&["import", all, "--restart-running"], 2),
        (&["export", "/nowhere/at-all"], 1),
        (&["export", "--status", "dead"], 1),
    ];
    for (args, wanted) in cases {
        let (code, _, told) = asked(&new, args);
        assert_eq!(code, Some(*wanted), "{args:?}: {told}");
    }
    let output = run(&new.url, &["export", "--template", "t"], "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| kind_of(line).0 == "run").count(), 3, "{text}");
}
