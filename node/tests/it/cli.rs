//! The client's command line against a real node: output, exit codes, forms.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::cluster::{Node, NodeBuilder, opcode};

const OK: &str = r#"{"steps": [{"id": "a", "action": "crypto.hash", "params": {"data": "${{inputs.x}}"}}]}"#;
const FAILS: &str = r#"{"steps": [{"id": "a", "action": "workflow.fail", "params": {"message": "no"}}]}"#;
const WAITS: &str = r#"{"steps": [{"id": "a", "type": "wait", "config": {"duration": "1h"}}]}"#;
const ASKS: &str = r#"{"steps": [{"id": "ask", "type": "reasoning", "config": {
    "prompt_context": "Go on?", "options": [{"id": "yes"}, {"id": "no"}]}}]}"#;

/// Runs `opcode ARGS…` with `input` on stdin against a server.
pub(crate) fn run(server: &str, args: &[&str], input: &str) -> Output {
    let mut child = opcode()
        .args(args)
        .env("OPCODE_SERVER", server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that reads no input may have closed it already.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("a child can be waited for")
}

fn start() -> (tempfile::TempDir, Node) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let node = NodeBuilder::new(&home.path().join("data")).start();
    (home, node)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_happened() {
    let (_home, node) = start();
    let cases: &[(&[&str], &str, i32)] = &[
        (&["run", "-", "--wait", "--id", "ok", "--params", r#"{"x": "1"}"#], OK, 0),
        (&["run", "-", "--wait", "--id", "bad"], FAILS, 3),
        (&["run", "-", "--follow"], FAILS, 3),
        (&["run", "-", "--wait", "--id", "slow", "--timeout", "300ms"], WAITS, 6),
        (&["run", "-"], "{\"steps\": [", 1),
        (&["run", "-"], r#"{"steps": [{"id": "a", "action": "no.such"}]}"#, 1),
        (&["run", "no-such-template"], "", 4),
        (&["run", "no/such/file.json"], "", 1),
        (&["wf", "get", "none"], "", 4),
        (&["wf", "cancel", "slow"], "", 0),
        (&["wf", "cancel", "slow"], "", 8),
        (&["wf", "bogus"], "", 2),
        (&["wf", "list", "--since", "soon"], "", 2),
        (&["decision", "resolve", "none", "--choice", "x"], "", 4),
        (&["validate", "-"], OK, 0),
        (&["validate", "-"], r#"{"steps": []}"#, 1),
        (&["sql", "SELECT 1"], "", 0),
        (&["sql", "DELETE FROM workflows"], "", 5),
    ];
    for (args, input, code) in cases {
        let output = run(&node.url, args, input);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {output:?}");
        if *code > 0 {
            let is_silent = output.stderr.is_empty() && output.stdout.is_empty();
            assert!(!is_silent, "{args:?} says nothing");
        }
    }
    let nobody = run("http://127.0.0.1:1", &["wf", "list"], "");
    assert_eq!(nobody.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("opcode dev"), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_holds_the_same() {
    let (_home, node) = start();
    let big = r#"{"x": "1", "n": 123456789012345678901234567890}"#;
    run(&node.url, &["run", "-", "--wait", "--id", "w", "--params", big], OK);
    let document = json(&run(&node.url, &["wf", "get", "w", "-o", "json"], ""));
    assert_eq!(document["status"], "completed");
    let lines = stdout(&run(&node.url, &["wf", "events", "w", "-o", "jsonl"], ""));
    let sequences: Vec<u64> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["sequence"].as_u64().expect("a number")
        })
        .collect();
    assert!(sequences.iter().copied().eq(1..=sequences.len() as u64), "{sequences:?}");
    let yaml = stdout(&run(&node.url, &["wf", "get", "w", "-o", "yaml"], ""));
    assert!(yaml.contains("n\": 123456789012345678901234567890\n"), "{yaml}");
    assert_eq!(stdout(&run(&node.url, &["wf", "list", "-q"], "")), "w\n");
    let table = stdout(&run(&node.url, &["wf", "list"], ""));
    assert!(table.starts_with("WORKFLOW") && table.contains("completed"), "{table}");
    for format in ["ascii", "mermaid", "svg"] {
        let drawn = stdout(&run(&node.url, &["wf", "diagram", "w", "--format", format], ""));
        assert!(drawn.contains('a'), "{drawn}");
    }
    let painted = run(&node.url, &["wf", "diagram", "w", "--format", "png"], "");
    assert!(painted.stdout.starts_with(b"\x89PNG"), "{painted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_found_and_resolved() {
    let (_home, node) = start();
    let asked = run(&node.url, &["run", "-", "--wait", "--id", "d"], ASKS);
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let decision = stdout(&run(&node.url, &["decision", "list", "-q"], ""));
    let resolve = ["decision", "resolve", decision.trim(), "--choice", "yes", "--reasoning", "why not"];
    assert_eq!(run(&node.url, &resolve, "").status.code(), Some(0));
    let run_after = json(&run(&node.url, &["wf", "get", "d", "--wait", "10s", "-o", "json"], ""));
    assert_eq!(run_after["output"]["ask"]["choice"], "yes", "{run_after}");
    let again = run(&node.url, &["wf", "rerun", "d", "--new-id", "e"], "");
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let why = stdout(&run(&node.url, &["wf", "why", "e"], ""));
    assert!(why.contains("decision"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_shown_in_their_file() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let file = home.path().join("w.json");
    std::fs::write(&file, "{\n  \"steps\": [\n    {\"id\": \"a\", \"action\": \"http.gett\"}\n  ]\n}")
        .expect("a file");
    let name = file.display().to_string();
    let output = run("http://127.0.0.1:1", &["validate", &name], "");
    let text = stdout(&output);
    assert!(text.contains(&format!("{name}:3:27: /steps/0/action")), "{text}");
    assert!(text.contains("http.get") && text.contains("     3 |     {\"id\": \"a\""), "{text}");
    let documents = json(&run("http://127.0.0.1:1", &["validate", &name, "-o", "json"], ""));
    assert_eq!((&documents[0]["valid"], &documents[0]["errors"][0]["line"]), (&false.into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_made_and_steered() {
    let (_home, node) = start();
    let named = |args: &[&str]| run(&node.url, &[&["schedule"], args].concat(), "");
    let defined = run(&node.url, &["template", "define", "-", "--name", "t"], OK);
    assert_eq!(defined.status.code(), Some(0), "{defined:?}");
    let cases: &[(&[&str], i32)] = &[
        (&["create", "t", "--id", "s", "--cron", "0 0 1 1 *", "--timezone", "Asia/Tokyo"], 0),
        (&["create", "t@v1", "--id", "i", "--interval", "1h", "--overlap", "queue", "--label", "a=b"], 0),
        (&["create", "none", "--interval", "1h"], 4),
        (&["create", "t", "--cron", "0 0 30 2 *"], 1),
        (&["create", "t", "--id", "s", "--interval", "1h"], 8),
        (&["create", "t"], 2),
        (&["create", "t", "--interval", "1h", "--cron", "@daily"], 2),
        (&["create", "t", "--interval", "1h", "--timezone", "UTC"], 1),
        (&["pause", "s"], 0),
        (&["resume", "s"], 0),
        (&["get", "none"], 4),
        (&["backfill", "i", "--since", "1h", "--until", "soon"], 2),
    ];
    for (args, code) in cases {
        let output = named(args);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {output:?}");
    }
    assert_eq!(stdout(&named(&["list", "-q"])), "i\ns\n");
    let table = stdout(&named(&["list"]));
    assert!(table.contains("every 1h") && table.contains("0 0 1 1 * Asia/Tokyo"), "{table}");
    let next = stdout(&named(&["next", "s", "-n", "2", "-q"]));
    assert!(next.lines().count() == 2 && next.lines().all(|l| l.ends_with("-12-31T15:00:00.000Z")), "{next}");
    let run_id = stdout(&named(&["trigger", "i", "-q"]));
    let run_after = json(&run(&node.url, &["wf", "get", run_id.trim(), "--wait", "10s", "-o", "json"], ""));
    assert_eq!(run_after["labels"], serde_json::json!({"a": "b", "schedule": "i"}), "{run_after}");
    let filled = json(&named(&[
        "backfill",
        "i",
        "--since",
        "2026-01-01T00:00:00Z",
        "--until",
        "2026-01-01T02:00:00Z",
        "-o",
        "json",
    ]));
    assert_eq!(filled["started"], 2, "{filled}");
    assert_eq!(stdout(&named(&["rm", "s"])), "deleted the schedule s\n");
    assert_eq!(named(&["rm", "s"]).status.code(), Some(4));
    assert_eq!(json(&named(&["get", "i", "-o", "json"]))["version"], "v1");
}
