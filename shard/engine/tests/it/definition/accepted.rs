//! Definitions that must be accepted, and what they compile to.

use opcode_engine::definition::{
    Backoff, Definition, LoopMode, OnError, OnInterrupt, OnTimeout, Over, StepKind, WaitFor,
};
use serde_json::{Value, json};

use super::{accepted, log, steps};

pub(super) fn examples() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../node/tests/examples");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    let read =
        |path: std::path::PathBuf| (path.display().to_string(), std::fs::read_to_string(path).unwrap());
    files.into_iter().map(read).collect()
}

#[test]
fn every_published_example_validates_unchanged() {
    let examples = examples();
    assert_eq!(examples.len(), 24);
    for (path, text) in examples {
        let definition = Definition::parse(&text).unwrap_or_else(|e| panic!("{path}: {e:#?}"));
        assert!(definition.input_schema.is_some(), "{path}");
        let again = Definition::parse(&definition.source).unwrap();
        assert_eq!(again.hash, definition.hash, "{path}: its canonical text is the same definition");
        assert_eq!(again.steps.len(), definition.steps.len());
    }
}

#[test]
fn the_order_of_keys_and_the_wrapper_do_not_change_the_hash() {
    let bare = r#"{"timeout": "5m", "steps": [{"id": "a", "action": "crypto.uuid"}]}"#;
    let turned = r#"{"steps": [{"action": "crypto.uuid", "id": "a"}], "timeout": "5m"}"#;
    let wrapped = format!(r#"{{"name": "n", "definition": {bare}}}"#);
    let hash = |text: &str| Definition::parse(text).unwrap().hash;
    assert_eq!(hash(bare), hash(turned));
    assert_eq!(hash(bare), hash(&wrapped));
    assert_ne!(hash(bare), hash(&bare.replace("5m", "6m")));
}

#[test]
fn the_top_level_is_a_dag_with_levels_and_links() {
    let d = accepted(&steps(json!([
        log("d", &["b", "c", "b"]),
        log("b", &["a"]),
        log("c", &["a"]),
        log("a", &[])
    ])));
    let ids = |list: &[opcode_engine::definition::SpecIx]| -> Vec<String> {
        list.iter().map(|s| d.step(*s).id.to_string()).collect()
    };
    assert_eq!(d.levels.iter().map(|l| ids(l).join(" ")).collect::<Vec<_>>(), ["a", "b c", "d"]);
    assert_eq!(ids(&d.root), ["d", "b", "c", "a"]);
    assert_eq!(ids(&d.step(d.root[0]).depends_on), ["b", "c"]);
    assert_eq!(ids(&d.step(d.root[3]).dependents), ["b", "c"]);
}

#[test]
fn every_field_of_a_step_is_compiled() {
    let d = accepted(&json!({
        "timeout": "1h30m", "on_timeout": "suspend", "metadata": {"team": "x"},
        "steps": [
            {"id": "a", "action": "http.get", "params": {"url": "http://x", "timeout": "1s"},
             "condition": "inputs.go == true", "timeout": "30s",
             "retry": {"max": 3, "backoff": "exponential", "delay": "1s", "max_delay": "30s", "jitter": 0.2},
             "on_error": {"strategy": "fallback_step", "fallback_step": "b"},
             "compensate": {"action": "workflow.log", "params": {"message": "undo ${{steps.a.output}}"}},
             "on_interrupt": "suspend"},
            log("b", &[]),
        ],
        "on_complete": {"action": "workflow.log", "params": {"message": "done ${{steps.a.output}}"}},
        "on_error": {"id": "oops", "action": "workflow.log", "params": {"message": "oh"}},
        "output": {"a": "${{steps.a.output}}"},
    }));
    assert_eq!((d.timeout_ms, d.on_timeout), (Some(5_400_000), OnTimeout::Suspend));
    let a = d.step(d.root[0]);
    assert_eq!(a.pointer, "/steps/0");
    assert_eq!(a.timeout_ms, Some(30_000));
    assert_eq!(a.guard.as_ref().unwrap().source(), "inputs.go == true");
    let retry = a.retry.as_ref().unwrap();
    assert_eq!((retry.max, retry.backoff, retry.delay_ms), (3, Backoff::Exponential, 1_000));
    assert_eq!((retry.delay_ms_max, retry.jitter), (Some(30_000), 0.2));
    assert_eq!(a.on_error, OnError::Fallback(d.root[1]));
    assert_eq!(a.on_interrupt, OnInterrupt::Suspend);
    assert!(d.step(d.root[1]).is_fallback_only && !a.is_fallback_only);
    let undo = d.step(a.compensate.unwrap());
    assert_eq!((&*undo.id, undo.parent), ("compensate", Some(a.ix)));
    assert_eq!(&*d.step(d.on_complete.unwrap()).id, "on_complete");
    assert_eq!(&*d.step(d.on_error.unwrap()).id, "oops");
    assert!(d.output.is_some());
    assert_eq!(d.metadata, json!({"team": "x"}));
}

#[test]
fn absent_null_and_empty_are_the_same() {
    let d = accepted(&json!({"steps": [
        {"id": "a", "type": "action", "action": "crypto.uuid", "params": null, "depends_on": [], "condition": "",
         "timeout": "", "retry": null, "on_error": null, "config": null},
        {"id": "b", "type": "reasoning", "config": {"prompt_context": "p", "options": [], "fallback": "",
         "target_agent": ""}},
    ], "on_complete": null, "timeout": null}));
    assert!(d.step(d.root[0]).guard.is_none());
    let StepKind::Reasoning(reasoning) = &d.step(d.root[1]).kind else { panic!() };
    // A free-form decision may fall back on an empty answer, as one of the examples does.
    assert_eq!((reasoning.fallback.as_deref(), &reasoning.target_agent), (Some(""), &None));
}

#[test]
fn what_over_is_written_in() {
    let over = |over: Value| {
        let config = json!({"mode": "for_each", "over": over, "body": [log("x", &[])]});
        let d = accepted(&steps(json!([{"id": "l", "type": "loop", "config": config}])));
        let StepKind::Loop { mode: LoopMode::ForEach(over), .. } = &d.step(d.root[0]).kind else { panic!() };
        match over {
            Over::Cel(_) => "cel",
            Over::Jq(_) => "jq",
            Over::Literal(_) => "literal",
            Over::Template(_) => "template",
        }
    };
    assert_eq!(over(json!([1, 2])), "literal");
    assert_eq!(over(json!(r#"["a", "b"]"#)), "literal");
    assert_eq!(over(json!(".inputs.items")), "jq");
    assert_eq!(over(json!("[.inputs.items[].id]")), "jq");
    assert_eq!(over(json!("inputs.items == [] || true ? [1] : [2]")), "cel");
    assert_eq!(over(json!("[1, 2] | map(. + 1)")), "jq");
    assert_eq!(over(json!("inputs.items")), "cel");
    assert_eq!(over(json!("${{inputs.items}}")), "template");
    assert_eq!(over(json!(["${{inputs.first}}", 2])), "template");
}

#[test]
fn every_type_and_mode() {
    let body = || json!([log("x", &[]), log("y", &["x"])]);
    let d = accepted(&steps(json!([
        {"id": "c", "type": "condition", "config": {"expression": "inputs.v",
            "branches": {"true": body(), "a/b~c": [], "": [log("x", &[])]}, "default": []}},
        {"id": "w", "type": "loop", "config": {"mode": "while", "condition": "iter.index < 3", "body": body()}},
        {"id": "u", "type": "loop", "config": {"mode": "until", "condition": "steps['y'].logged", "body": body(),
            "max_iter": 7}},
        {"id": "all", "type": "parallel", "config": {"branches": [body(), []]}},
        {"id": "race", "type": "parallel", "config": {"mode": "race", "branches": [body()]}},
        {"id": "map", "type": "parallel", "config": {"mode": "map", "over": [1], "body": body(),
            "max_concurrency": 3}},
        {"id": "t", "type": "wait", "config": {"duration": "1s"}},
        {"id": "t2", "type": "wait", "config": {"duration": "${{inputs.d}}"}},
        {"id": "s", "type": "wait", "config": {"signal": "go"}},
        {"id": "at", "type": "wait", "config": {"until": "2030-01-01T00:00:00Z"}},
    ])));
    let kind = |n: usize| &d.step(d.root[n]).kind;
    let StepKind::Condition { branches, default, .. } = kind(0) else { panic!() };
    assert_eq!(
        branches.iter().map(|(n, s)| (n.as_ref(), s.len())).collect::<Vec<_>>(),
        [("", 1), ("a/b~c", 0), ("true", 2)]
    );
    assert_eq!(default.as_ref().map(Vec::len), Some(0));
    assert!(matches!(kind(1), StepKind::Loop { mode: LoopMode::While(_), iterations_max: 10_000, .. }));
    assert!(matches!(kind(2), StepKind::Loop { mode: LoopMode::Until(_), iterations_max: 7, .. }));
    assert!(matches!(kind(3), StepKind::All { branches } if branches.len() == 2 && branches[0].len() == 2));
    assert!(matches!(kind(4), StepKind::Race { .. }));
    assert!(matches!(kind(5), StepKind::Map { concurrency_max: 3, .. }));
    assert!(matches!(kind(6), StepKind::Wait(WaitFor::DurationMs(1_000))));
    assert!(matches!(kind(7), StepKind::Wait(WaitFor::Duration(_))));
    assert!(matches!(kind(8), StepKind::Wait(WaitFor::Signal(name)) if &**name == "go"));
    assert!(matches!(kind(9), StepKind::Wait(WaitFor::Until(_))));
    let pointers: Vec<&str> = d.steps.iter().map(|s| s.pointer.as_str()).collect();
    assert_eq!(
        &pointers[..3],
        ["/steps/0", "/steps/0/config/branches//0", "/steps/0/config/branches/true/0"]
    );
    assert!(d.steps.iter().all(|s| s.parent.is_none_or(|p| p < s.ix)), "parents before their children");
}

#[test]
fn actions_go_by_their_proper_name_and_programs_are_compiled() {
    let d = accepted(&steps(json!([
        {"id": "a", "action": "assert.equal", "params": {"expected": 1, "actual": 1}},
        {"id": "b", "action": "expr.eval", "params": {"expression": "1 + 1"}},
        {"id": "c", "action": "expr.eval", "params": {"expression": "${{inputs.e}}"}},
        {"id": "d", "action": "workflow.emit", "params": {"event": "x", "data": {}}},
        {"id": "f", "action": "assert.equals", "params": {"expected": null, "actual": null}},
        {"id": "e", "action": "workflow.log", "params": {"message": "m", "more": [1]}},
    ])));
    let action = |n: usize| match &d.step(d.root[n]).kind {
        StepKind::Action { action, program, .. } => (action.to_string(), program.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!(action(0), ("assert.equals".into(), false));
    assert_eq!(action(1), ("expr.eval".into(), true));
    assert_eq!(action(2), ("expr.eval".into(), false));
}

#[test]
fn numbers_keep_their_digits() {
    let text = r#"{"steps": [{"id": "a", "action": "jq", "params": {"filter": ".", "data": 12345678901234567890.123456789}}]}"#;
    let d = Definition::parse(text).unwrap();
    assert!(d.source.contains("12345678901234567890.123456789"), "{}", d.source);
}
