//! Which steps an expression may read from where it stands.

use serde_json::{Value, json};

use super::{accepted, expect, log, reads, steps};

fn loops(id: &str, body: Value) -> Value {
    json!({"id": id, "type": "loop", "config": {"mode": "for_each", "over": [1], "body": body}})
}

fn chooses(id: &str, yes: Value, no: Value) -> Value {
    json!({"id": id, "type": "condition", "config": {"expression": "true", "branches": {"true": yes, "false": no}}})
}

#[test]
fn what_may_have_finished_is_visible() {
    accepted(&steps(json!([
        log("first", &[]),
        reads("after", "first", &["first"]),
        reads("beside", "first", &[]),
        chooses("c", json!([log("x", &[]), reads("y", "x", &[]), reads("z", "first", &[])]), json!([reads("w", "first", &[])])),
        loops("l", json!([log("x", &[]), reads("y", "x", &["x"]), loops("inner", json!([reads("z", "y", &[])])),
            reads("earlier", "l.iter_0.earlier", &[])])),
        {"id": "p", "type": "parallel", "config": {"branches": [[log("x", &[])], [reads("y", "p.branch_0.x", &[])]]}},
        {"id": "m", "type": "parallel", "config": {"mode": "map", "over": [1], "body": [log("x", &[]), reads("y", "m.item_3.x", &[])]}},
        reads("later", "c.true.y", &["c"]),
        loops("near", json!([chooses("c", json!([log("x", &[])]), json!([])), reads("y", "c.true.x", &[])])),
        reads("deep", "l.iter_12.inner.iter_0.z", &["l"]),
    ])));
}

#[test]
fn hooks_compensations_and_the_output_see_everything() {
    let mut a = log("a", &[]);
    a["compensate"] = reads("undo", "b", &[]);
    let mut inner = log("inner", &[]);
    inner["compensate"] = reads("undo", "l", &[]);
    accepted(&json!({
        "steps": [a, log("b", &["a"]), loops("l", json!([inner, log("next", &[])]))],
        "on_complete": reads("done", "b", &[]),
        "on_error": chooses("failed", json!([reads("x", "a", &[])]), json!([])),
        "output": "${{steps['l.iter_0.next']}}",
    }));
}

#[test]
fn what_cannot_have_finished_is_refused() {
    let cases: &[(Value, &str, &str)] = &[
        (steps(json!([reads("a", "a", &[])])), "/steps/0/params/message", "very step"),
        (
            steps(json!([reads("a", "c", &[]), log("b", &["a"]), log("c", &["b"])])),
            "/steps/0/params/message",
            "runs after",
        ),
        (
            steps(json!([loops("l", json!([reads("x", "l", &[])]))])),
            "/steps/0/config/body/0/params/message",
            "part of it",
        ),
        (
            steps(
                json!([loops("l", json!([reads("x", "z", &[])])), {"id": "z", "action": "crypto.uuid", "depends_on": ["l"]}]),
            ),
            "/steps/0/config/body/0/params/message",
            "runs after",
        ),
        (
            steps(json!([loops("l", json!([reads("x", "y", &[]), log("y", &[])]))])),
            "/steps/0/config/body/0/params/message",
            "runs after",
        ),
        (
            steps(json!([chooses("c", json!([reads("x", "c.false.y", &[])]), json!([log("y", &[])]))])),
            "/steps/0/config/branches/true/0/params/message",
            "another branch",
        ),
        (
            steps(json!([chooses("c", json!([reads("x", "c.true.y", &[]), log("y", &[])]), json!([]))])),
            "/steps/0/config/branches/true/0/params/message",
            "runs after",
        ),
        (
            json!({"inputs": {"v": "${{steps['a']}}"}, "steps": [log("a", &[])]}),
            "/inputs/v",
            "before any step",
        ),
    ];
    for (definition, at, says) in cases {
        expect(definition, &[(at, says)]);
    }
}

#[test]
fn what_does_not_exist_is_refused_with_a_hint() {
    let at = "/steps/1/params/message";
    expect(&steps(json!([log("fetch", &[]), reads("b", "fecth", &[])])), &[(at, "did you mean 'fetch'?")]);
    expect(
        &steps(json!([log("fetch", &[]), reads("b", "nothing-like-it", &[])])),
        &[(at, "nothing-like-it")],
    );
    expect(
        &steps(json!([loops("l", json!([log("x", &[])])), reads("b", "x", &["l"])])),
        &[(at, "l.iter_0.x")],
    );
    for wrong in
        ["l.x", "l.iter_x.x", "l.item_0.x", "l.iter_0", "l.iter_0.y", "l.iter_0.x.z", "l.", ".x", "l.iter_0."]
    {
        expect(
            &steps(json!([loops("l", json!([log("x", &[])])), reads("b", wrong, &["l"])])),
            &[(at, wrong)],
        );
    }
}

#[test]
fn a_loop_condition_sees_its_own_body() {
    let until = |condition: &str| json!({"id": "l", "type": "loop", "config": {"mode": "until", "condition": condition, "body": [log("x", &[])]}});
    accepted(&steps(json!([until("steps['x'].logged && iter.index > 1")])));
    expect(&steps(json!([until("steps['l'].x")])), &[("/steps/0/config/condition", "very step")]);
}

#[test]
fn expressions_have_columns() {
    let guard = |guard: &str| {
        let mut step = log("b", &[]);
        step["condition"] = json!(guard);
        steps(json!([log("a", &[]), step]))
    };
    for (text, column) in
        [("true && steps['zz'].x", 9_u32), ("${{ true && steps['zz'].x }}", 13), ("inputs.a ==", 12)]
    {
        let problems = super::refused(&guard(text).to_string()).problems;
        assert_eq!((problems.len(), problems[0].pointer.as_str()), (1, "/steps/1/condition"), "{problems:?}");
        let found = problems[0].column.unwrap();
        assert!(found.abs_diff(column) <= 6, "{text}: about column {column} is expected, not {found}");
    }
}

#[test]
fn loop_variables_exist_in_loops_only() {
    let item = json!({"id": "x", "action": "workflow.log", "params": {"message": "${{loop.item}}"}});
    accepted(&steps(json!([loops("l", json!([item]))])));
    let outside = super::refused(&steps(json!([item])).to_string());
    assert_eq!(outside.problems[0].pointer, "/steps/0/params/message");
}
