//! What must not come in as history, and what rules of retention must not say.

use serde_json::{Value, json};

use super::{Attack, Body};
use crate::export::cancelled_run;

fn import(name: &'static str, text: String) -> Attack {
    let attack = Attack::new(name, "POST", "/v1/import", Body::Text(text));
    attack.header("content-type", "application/x-ndjson")
}

/// A line that is refused for itself, in an answer that is well.
fn line(name: &'static str, line: &Value, word: &'static str) -> Attack {
    import(name, line.to_string()).gives(200, word)
}

fn rule(name: &'static str, path: &str, body: Value) -> Attack {
    Attack::new(name, "PUT", format!("/v1/retention{path}"), Body::Json(body))
}

fn with(pointer: &str, value: Value) -> Value {
    let mut run = cancelled_run("history");
    *run.pointer_mut(pointer).expect("a line has it") = value;
    run
}

pub(super) fn history() -> Vec<Attack> {
    [bodies(), lines(), events(), rules()].into_iter().flatten().collect()
}

/// What is refused whatever stands in the lines, and lines that are none.
fn bodies() -> Vec<Attack> {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let deep = cancelled_run("history").to_string().replacen(
        r#""context":{}"#,
        &format!(r#""context":{{"a":{deep}}}"#),
        1,
    );
    vec![
        import("an import that is packed", "x".into())
            .header("content-encoding", "gzip")
            .gives(415, "archive"),
        Attack::new("an import of one document", "POST", "/v1/import", Body::Json(json!([])))
            .gives(415, "x-ndjson"),
        Attack::new(
            "an import that asks for the impossible",
            "POST",
            "/v1/import?ended_only=perhaps",
            Body::None,
        )
        .header("content-type", "application/x-ndjson")
        .gives(400, "ended_only"),
        import("an import of a line without end", "x".repeat(40 * 1024 * 1024))
            .gives(200, "PAYLOAD_TOO_LARGE"),
        import("an import of lines of nothing", "\n".repeat(1_000_000)).gives(200, "\"failed\":0"),
        import("an import of no JSON", "\u{feff}{}".into()).gives(200, "\"failed\":1"),
        import("an import of a deep line", deep).gives(200, "recursion"),
        line("an import of a number", &json!(7), "\"failed\":1"),
    ]
}

/// Runs and templates that are not taken.
fn lines() -> Vec<Attack> {
    let mut running = cancelled_run("history");
    running["events"].as_array_mut().expect("a list").pop();
    let template = json!({"kind": "template", "name": "t", "version": "v7", "created_at": "2026-01-02T03:04:05Z",
        "source": {"name": "t", "definition": running["definitions"][0]}});
    vec![
        line("an import of what is there as another", &cancelled_run("bystander"), "CONFLICT"),
        line("an import of a run that runs", &running, "INVALID_TRANSITION"),
        line("an import under another's id", &with("/workflow_id", json!("mine")), "those of another run"),
        line("an import of an impossible id", &with("/workflow_id", json!("../x")), "not a workflow id"),
        line(
            "an import of a run of no definition",
            &with("/definitions", json!([])),
            "there is no definition",
        ),
        line("an import of a version out of order", &template, "versions come in order"),
    ]
}

/// Events that no run has.
fn events() -> Vec<Attack> {
    let mut reversed = cancelled_run("history");
    reversed["events"].as_array_mut().expect("a list").reverse();
    vec![
        line("an import of a run backwards", &reversed, "begins with workflow_started"),
        line(
            "an import of a run with a gap",
            &with("/events/1/sequence", json!(9)),
            "event 9 follows event 1",
        ),
        line(
            "an import of an event of no type",
            &with("/events/1/type", json!("won")),
            "no event is of the type",
        ),
        line(
            "an import of a step that is not there",
            &with(
                "/events/1",
                json!({"sequence": 2, "type": "step_completed", "step_id": "x", "data": {"output": 1},
                "timestamp": "2026-01-02T03:04:05Z"}),
            ),
            "there is no step x",
        ),
        line(
            "an import of a step that never began",
            &with(
                "/events/1",
                json!({"sequence": 2, "type": "step_completed", "step_id": "w", "data": {"output": 1},
                "timestamp": "2026-01-02T03:04:05Z"}),
            ),
            "cannot go from pending to completed",
        ),
    ]
}

/// What is asked of exports, and said of retention.
fn rules() -> Vec<Attack> {
    vec![
        rule("a rule that keeps nothing", "", json!({"delete_after": "0s"})).gives(422, "/delete_after"),
        rule("a rule that says nothing", "", json!({})).gives(422, "/archive_after"),
        rule("a rule of no time", "", json!({"archive_after": "1e999h"})).gives(422, "/archive_after"),
        rule("a rule that deletes first", "", json!({"archive_after": "2h", "delete_after": "1h"}))
            .gives(422, "/delete_after"),
        rule("a rule of an impossible template", "/templates/a%2Fb", json!({"delete_after": "1h"}))
            .gives(404, "NOT_FOUND"),
        Attack::get("an export of what no run is", "/v1/export?status=%27;--").gives(400, "status"),
    ]
}
