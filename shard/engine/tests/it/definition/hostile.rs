//! Text made to hurt: it is refused, soon, and with a bounded answer.

use std::time::{Duration, Instant};

use opcode_engine::definition::{DEFINITION_BYTES_MAX, Definition, NESTING_MAX, PROBLEMS_MAX, STEPS_MAX};
use serde_json::{Value, json};

use super::{expect, log, refused, steps};

/// Far above what any of these takes on a slow machine in a debug build, far below what a
/// quadratic algorithm takes.
const SOON: Duration = Duration::from_secs(60);

#[track_caller]
fn soon<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = work();
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    value
}

#[test]
fn a_chain_of_ten_thousand_steps_parses() {
    let step = |n: usize| {
        let dependency = if n == 0 { String::new() } else { format!("\"s{}\"", n - 1) };
        let message = if n == 0 { ".".into() } else { format!("${{{{steps.s{}.output}}}}", n - 1) };
        format!(
            r#"{{"id":"s{n}","action":"jq","params":{{"filter":"{message}"}},"depends_on":[{dependency}]}}"#
        )
    };
    let text = format!(r#"{{"steps":[{}]}}"#, (0..STEPS_MAX).map(step).collect::<Vec<_>>().join(","));
    let d = soon(|| Definition::parse(&text).unwrap());
    assert_eq!((d.steps.len(), d.levels.len()), (STEPS_MAX, STEPS_MAX));
}

#[test]
fn references_forward_along_a_long_chain_are_judged_without_squares() {
    let step = |n: usize| {
        let dependency = if n == 0 { String::new() } else { format!("\"s{}\"", n - 1) };
        format!(
            r#"{{"id":"s{n}","action":"jq","params":{{"filter":"${{{{steps.s4999}}}}"}},"depends_on":[{dependency}]}}"#
        )
    };
    let text = format!(r#"{{"steps":[{}]}}"#, (0..5_000).map(step).collect::<Vec<_>>().join(","));
    let invalid = soon(|| refused(&text));
    assert_eq!(invalid.problems.len(), PROBLEMS_MAX + 1);
    assert!(
        invalid.problems[PROBLEMS_MAX].message.contains("4000 more"),
        "{:?}",
        invalid.problems[PROBLEMS_MAX]
    );
}

#[test]
fn a_hundred_thousand_steps_are_too_many() {
    let text = format!(r#"{{"steps":[{}]}}"#, vec![r#"{"id":"a"}"#; 90_000].join(","));
    let problems = soon(|| refused(&text)).problems;
    assert!(problems.iter().any(|p| p.pointer == "/steps/10000" && p.message.contains("10000 steps")));
    assert!(problems.len() <= PROBLEMS_MAX + 2);
}

#[test]
fn more_than_a_mebibyte_is_not_read() {
    let text = " ".repeat(DEFINITION_BYTES_MAX + 1);
    let problems = refused(&text).problems;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("1048577"), "{problems:?}");
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(log("leaf", &[]), |inner, n| {
        json!({"id": format!("s{n}"), "type": "condition",
            "config": {"expression": "true", "branches": {"true": [inner]}}})
    })
}

#[test]
fn steps_nest_as_deep_as_allowed_and_no_deeper() {
    super::accepted(&json!({"name": "n", "definition": {"steps": [nested(NESTING_MAX)]}}));
    let at = format!("/steps/0{}", "/config/branches/true/0".repeat(NESTING_MAX));
    expect(
        &steps(json!([nested(NESTING_MAX + 1)])),
        &[(&format!("{at}/config/branches/true"), "nest 32 deep")],
    );
    let undone = (0..40)
        .fold(log("leaf", &[]), |inner, _| json!({"id": "s", "action": "crypto.uuid", "compensate": inner}));
    let problems = refused(&steps(json!([undone])).to_string()).problems;
    assert!(problems.len() == 1 && problems[0].message.contains("nest 32 deep"), "{problems:?}");
}

#[test]
fn brackets_without_end_do_not_overflow_the_stack() {
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let problems = soon(|| refused(&open.repeat(100_000))).problems;
        assert!(problems.len() == 1 && problems[0].message.contains("256 deep"), "{problems:?}");
    }
}

#[test]
fn a_clique_of_dependencies_is_judged_soon() {
    let ids: Vec<String> = (0..300).map(|n| format!("s{n}")).collect();
    let acyclic = steps(
        (0..ids.len())
            .map(|n| json!({"id": ids[n], "action": "crypto.uuid", "depends_on": ids[..n]}))
            .collect(),
    );
    let d = soon(|| super::accepted(&acyclic));
    assert_eq!(d.levels.len(), ids.len());
    let others = |n: usize| ids.iter().filter(|i| **i != ids[n]).collect::<Vec<_>>();
    let knot = steps(
        (0..ids.len())
            .map(|n| json!({"id": ids[n], "action": "crypto.uuid", "depends_on": others(n)}))
            .collect(),
    );
    expect(&knot, &[("/steps/0/depends_on", "s0 → s1 → s0")]);
}

#[test]
fn a_ring_of_all_steps_is_told_shortly() {
    let step = |n: usize| {
        format!(
            r#"{{"id":"s{n}","action":"jq","params":{{"filter":"."}},"depends_on":["s{}"]}}"#,
            (n + 1) % STEPS_MAX
        )
    };
    let text = format!(r#"{{"steps":[{}]}}"#, (0..STEPS_MAX).map(step).collect::<Vec<_>>().join(","));
    let problems = soon(|| refused(&text)).problems;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.len() < 500 && problems[0].message.contains("10000 steps in all"));
}

#[test]
fn huge_names_are_not_repeated_in_full() {
    let huge = "x".repeat(500_000);
    for definition in [
        steps(json!([{"id": huge, "action": "crypto.uuid"}])),
        steps(json!([{"id": "a", "action": huge}])),
        steps(json!([{"id": "a", "action": "crypto.uuid", "depends_on": [huge]}])),
        steps(json!([{"id": "a", "action": "crypto.uuid", "timeout": huge}])),
        steps(json!([{"id": "a", "type": "wait", "config": {"until": huge}}])),
    ] {
        let problems = soon(|| refused(&definition.to_string())).problems;
        assert!(problems.iter().all(|p| p.message.len() < 1_000), "{}", problems[0].message.len());
    }
}

#[test]
fn a_thousand_misspelt_names_among_thousands_are_told_soon() {
    let known = (0..4_000).map(|n| log(&format!("a-rather-long-name-of-a-step-{n}"), &[]));
    let wrong: Vec<String> = (0..5_000).map(|n| format!("a-rather-lnog-name-of-a-step-{n}")).collect();
    let user = json!({"id": "user", "action": "crypto.uuid", "depends_on": wrong});
    let mut text = steps(known.chain([user]).collect()).to_string();
    text.truncate(DEFINITION_BYTES_MAX);
    let invalid = soon(|| refused(&text));
    assert!(invalid.problems.len() <= PROBLEMS_MAX + 1);
}

#[test]
fn paths_with_thousands_of_dots_lead_nowhere_soon() {
    let nest = nested(20);
    let path = format!("s19{}", ".true.s18".repeat(1_500));
    let step = json!({"id": "r", "action": "crypto.uuid", "condition": format!("steps['{path}'].x")});
    soon(|| refused(&steps(json!([nest, step])).to_string()));
}

#[test]
fn jq_filters_are_compiled_once_and_not_without_end() {
    let jq = |n: usize, filter: String| json!({"id": format!("s{n}"), "action": "jq", "params": {"filter": filter, "data": 1}});
    soon(|| super::accepted(&steps((0..5_000).map(|n| jq(n, ".".into())).collect())));
    let many = steps((0..5_000).map(|n| jq(n, format!(". + {n}"))).collect());
    expect(&many, &[("/steps/200/params/filter", "200 different jq filters")]);
    let mut output = steps(json!([log("a", &[])]));
    output["output"] = json!("${{jq: .inputs}}".repeat(201));
    expect(&output, &[("/output", "200 different jq filters")]);
}

#[test]
fn values_nest_as_deep_as_json_may() {
    let deep = |levels: usize| (0..levels).fold(json!("${{inputs.a}}"), |inner, _| json!([inner]));
    let with = |value: Value| {
        json!({"metadata": value, "output": value, "steps": [
        {"id": "a", "action": "workflow.log", "params": {"message": "m", "data": value}}]})
    };
    super::accepted(&with(deep(200)));
    let problems = refused(&with(deep(256)).to_string()).problems;
    assert!(problems.len() == 1 && problems[0].message.contains("256 deep"), "{problems:?}");
}

#[test]
fn nearly_a_mebibyte_of_tokens_is_compiled_soon() {
    for (token, per_step) in [("${{inputs.a}}", 5), ("${{1+1}}", 9), ("${{expr:1+1}}", 5)] {
        let step = |n: usize| json!({"id": format!("s{n}"), "action": "workflow.log", "params": {"message": token.repeat(per_step)}});
        let many = steps((0..7_000).map(step).collect());
        soon(|| super::accepted(&many));
    }
}
