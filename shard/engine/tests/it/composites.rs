//! Scripts of steps that consist of steps: conditions, loops, branches, races, maps, nested.

use opcode_engine::Code;
use opcode_engine::fsm::WorkflowStatus;
use serde_json::{Value, json};

use crate::script::World;
use crate::steps::act;

fn each(id: &str, over: &str, body: Value) -> Value {
    json!({"id": id, "type": "loop", "config": {"mode": "for_each", "over": over, "body": body}})
}

fn parallel(id: &str, config: Value) -> Value {
    json!({"id": id, "type": "parallel", "config": config})
}

fn condition(id: &str, config: Value) -> Value {
    json!({"id": id, "type": "condition", "config": config})
}

#[test]
fn a_condition_runs_the_branch_its_value_names() {
    let mut world = World::start(
        &json!({"steps": [condition("c", json!({
            "expression": "inputs.n > 1",
            "branches": {"true": [act("x", json!({})), act("y", json!({}))], "false": [act("z", json!({}))]},
        }))]}),
        json!({"n": 2}),
        |_| {},
    );
    world.finish("c.true.x", json!(1));
    world.finish("c.true.y", json!(2));
    world.expect(
        r#"
        workflow_started
        step_started c attempt=1
        condition_evaluated c branch="true" value=true
        step_started c.true.x attempt=1
        step_completed c.true.x output=1
        step_started c.true.y attempt=1
        step_completed c.true.y output=2
        step_completed c output={"branch":"true","output":2}
        workflow_completed output={"c":{"branch":"true","output":2}}
        "#,
    );
}

#[test]
fn a_condition_without_a_match_takes_the_default_or_nothing() {
    let config = |more: Value| {
        let mut config = json!({"expression": "'blue'", "branches": {"red": [act("r", json!({}))]}});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([condition("c", config)])
    };
    let world = World::of_steps(config(json!({})));
    assert_eq!(world.output(), json!({"c": {"branch": "blue", "skipped": true}}));
    let mut world = World::of_steps(config(json!({"default": [act("d", json!({}))]})));
    world.finish("c.default.d", json!(7));
    assert_eq!(world.output(), json!({"c": {"branch": "default", "output": 7}}));
}

#[test]
fn for_each_runs_its_body_once_an_item() {
    let mut world = World::of_steps(json!([each(
        "l",
        "['a', 'b']",
        json!([{"id": "s", "action": "workflow.log", "params": {"message": "${{loop.item}}${{loop.index}}"}}])
    )]));
    let prepared = world.run.prepare(world.doing["l.iter_0.s"]).unwrap();
    assert!(format!("{:?}", prepared.params).contains("\"a0\""), "{prepared:?}");
    assert_eq!(prepared.idempotency_key, "wf/l.iter_0.s");
    world.finish("l.iter_0.s", json!("A"));
    world.finish("l.iter_1.s", json!("B"));
    world.expect(
        r#"
        workflow_started
        step_started l attempt=1
        loop_iter_started l index=0 items=["a","b"]
        step_started l.iter_0.s attempt=1
        step_completed l.iter_0.s output="A"
        loop_iter_completed l index=0
        loop_iter_started l index=1
        step_started l.iter_1.s attempt=1
        step_completed l.iter_1.s output="B"
        loop_iter_completed l index=1
        loop_completed l iterations=2
        step_completed l output={"iterations":2,"results":["A","B"]}
        workflow_completed output={"l":{"iterations":2,"results":["A","B"]}}
        "#,
    );
}

#[test]
fn a_loop_over_nothing_completes() {
    let world = World::of_steps(json!([each("l", "[]", json!([act("s", json!({}))]))]));
    assert_eq!(world.output(), json!({"l": {"iterations": 0, "results": []}}));
    let world = World::of_steps(json!([parallel(
        "m",
        json!({"mode": "map", "over": "[]", "body": [act("s", json!({}))]})
    )]));
    assert_eq!(world.output(), json!({"m": {"mode": "map", "results": []}}));
}

#[test]
fn what_is_no_list_is_a_failure() {
    let world = World::start(
        &json!({"steps": [each("l", "inputs.n", json!([act("s", json!({}))]))]}),
        json!({"n": 3}),
        |_| {},
    );
    assert_eq!(world.error_code(), "EXECUTION_ERROR");
}

#[test]
fn while_checks_before_and_until_after() {
    let of = |mode: &str, condition: &str| {
        World::start(
            &json!({"steps": [{"id": "l", "type": "loop", "config": {
                "mode": mode, "condition": condition, "body": [act("s", json!({}))]}}]}),
            json!({"go": false}),
            |_| {},
        )
    };
    let world = of("while", "inputs.go");
    assert_eq!(world.output(), json!({"l": {"iterations": 0, "results": []}}));
    let mut world = of("until", "steps['s'].ok");
    world.finish("l.iter_0.s", json!({"ok": false}));
    world.finish("l.iter_1.s", json!({"ok": true}));
    assert_eq!(world.output()["l"]["iterations"], json!(2));
}

#[test]
fn a_loop_over_max_iter_fails() {
    let mut world = World::of_steps(json!([{"id": "l", "type": "loop", "config": {
        "mode": "while", "condition": "true", "max_iter": 2, "body": [act("s", json!({}))]}}]));
    world.finish("l.iter_0.s", json!(1));
    world.finish("l.iter_1.s", json!(1));
    assert_eq!(world.error_code(), "NON_RETRYABLE");
    assert_eq!(world.step_status("l"), "failed");
}

#[test]
fn a_loop_of_skipped_steps_pauses_between_many_events() {
    let mut world = World::of_steps(json!([{"id": "l", "type": "loop", "config": {
        "mode": "while", "condition": "iter.index < 9000", "max_iter": 10_000,
        "body": [act("s", json!({"condition": "false"}))]}}]));
    assert_eq!(world.status(), WorkflowStatus::Active);
    assert_eq!(world.run.next_due(), Some(world.now), "it goes on at once");
    assert!(world.log.len() <= 2_100, "{}", world.log.len());
    // The door's own checks would be quadratic over thousands of events, so this goes on alone.
    let mut turns = 0;
    while world.run.status() == WorkflowStatus::Active {
        let decision = world.run.handle(opcode_engine::command::Command::Wake, world.now).unwrap();
        assert!(decision.events.len() <= 2_100);
        turns += 1;
        assert!(turns < 100);
    }
    assert_eq!(world.output()["l"]["iterations"], json!(9_001));
}

#[test]
fn all_branches_run_side_by_side() {
    let mut world = World::of_steps(json!([parallel(
        "p",
        json!({
            "mode": "all", "branches": [[act("a", json!({})), act("b", json!({}))], [act("a", json!({}))]]
        })
    )]));
    world.finish("p.branch_1.a", json!("one"));
    world.finish("p.branch_0.a", json!("x"));
    world.finish("p.branch_0.b", json!("zero"));
    world.expect(
        r#"
        workflow_started
        step_started p attempt=1
        parallel_started p mode="all"
        step_started p.branch_0.a attempt=1
        step_started p.branch_1.a attempt=1
        step_completed p.branch_1.a output="one"
        step_completed p.branch_0.a output="x"
        step_started p.branch_0.b attempt=1
        step_completed p.branch_0.b output="zero"
        parallel_completed p mode="all"
        step_completed p output={"branches":["zero","one"],"mode":"all"}
        workflow_completed output={"p":{"branches":["zero","one"],"mode":"all"}}
        "#,
    );
}

#[test]
fn a_failed_branch_stops_the_others() {
    let mut world = World::of_steps(json!([parallel(
        "p",
        json!({
            "mode": "all", "branches": [[act("a", json!({}))], [act("b", json!({}))]]
        })
    )]));
    world.quiet();
    world.fail("p.branch_0.a", Code::NotFound);
    world.expect(
        r#"
        step_failed p.branch_0.a error="NOT_FOUND"
        step_skipped p.branch_1.b reason="parent_ended"
        step_failed p error="NOT_FOUND"
        workflow_failed error="NOT_FOUND"
        "#,
    );
    assert_eq!(world.abandoned, ["p.branch_1.b"]);
    assert_eq!(world.shown()["error"]["step_id"], "p.branch_0.a");
}

#[test]
fn the_first_branch_to_end_well_wins_a_race() {
    let mut world = World::of_steps(json!([parallel(
        "p",
        json!({
            "mode": "race", "branches": [[act("a", json!({}))], [act("b", json!({})), act("b2", json!({}))], [act("c", json!({}))]]
        })
    )]));
    world.quiet();
    world.fail("p.branch_2.c", Code::NotFound);
    world.finish("p.branch_0.a", json!("first"));
    world.expect(
        r#"
        step_failed p.branch_2.c error="NOT_FOUND"
        step_completed p.branch_0.a output="first"
        step_skipped p.branch_1.b reason="race_lost"
        parallel_completed p mode="race" winner=0
        step_completed p output={"mode":"race","output":"first","winner":0}
        workflow_completed output={"p":{"mode":"race","output":"first","winner":0}}
        "#,
    );
    assert_eq!(world.abandoned, ["p.branch_1.b"]);
}

#[test]
fn a_race_that_nobody_wins_fails() {
    let mut world = World::of_steps(json!([parallel(
        "p",
        json!({
            "mode": "race", "branches": [[act("a", json!({}))], [act("b", json!({}))]]
        })
    )]));
    world.fail("p.branch_0.a", Code::NotFound);
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.fail("p.branch_1.b", Code::Conflict);
    assert_eq!(world.error_code(), "CONFLICT");
}

#[test]
fn a_map_has_so_many_under_way_and_results_in_order() {
    let mut world = World::of_steps(json!([parallel(
        "m",
        json!({
            "mode": "map", "over": "[10, 20, 30]", "max_concurrency": 2, "body": [act("s", json!({}))]
        })
    )]));
    assert_eq!(world.doing.keys().collect::<Vec<_>>(), ["m.item_0.s", "m.item_1.s"]);
    world.finish("m.item_1.s", json!("b"));
    assert_eq!(world.doing.keys().collect::<Vec<_>>(), ["m.item_0.s", "m.item_2.s"]);
    world.finish("m.item_2.s", json!("c"));
    world.finish("m.item_0.s", json!("a"));
    assert_eq!(world.output(), json!({"m": {"mode": "map", "results": ["a", "b", "c"]}}));
}

#[test]
fn a_composite_is_retried_from_scratch() {
    let mut world = World::of_steps(json!([
        {"id": "p", "type": "parallel", "retry": {"max": 1}, "config": {
            "mode": "all", "branches": [[act("a", json!({}))], [act("b", json!({}))]]}},
    ]));
    world.finish("p.branch_0.a", json!(1));
    world.quiet();
    world.fail("p.branch_1.b", Code::ExecutionError);
    world.expect(
        r#"
        step_failed p.branch_1.b error="EXECUTION_ERROR"
        step_retrying p at="+0" attempt=2 error="EXECUTION_ERROR"
        step_retry_attempt p attempt=2
        parallel_started p mode="all"
        step_started p.branch_0.a attempt=2
        step_started p.branch_1.b attempt=2
        "#,
    );
    world.finish("p.branch_0.a", json!(3));
    world.finish("p.branch_1.b", json!(4));
    assert_eq!(world.output(), json!({"p": {"mode": "all", "branches": [3, 4]}}));
}

#[test]
fn a_composite_handles_what_its_steps_do_not() {
    let mut world = World::of_steps(json!([
        {"id": "l", "type": "loop", "on_error": {"strategy": "ignore"}, "config": {
            "mode": "for_each", "over": "[1]", "body": [act("s", json!({}))]}},
        act("next", json!({"depends_on": ["l"]})),
    ]));
    world.fail("l.iter_0.s", Code::NotFound);
    world.finish("next", json!("on"));
    assert_eq!(world.output(), json!({"next": "on"}));
}

#[test]
fn a_composite_out_of_time_stops_what_is_in_it() {
    let mut world = World::of_steps(json!([
        {"id": "l", "type": "loop", "timeout": "10s", "config": {
            "mode": "for_each", "over": "[1]", "body": [act("s", json!({}))]}},
    ]));
    world.pass(10_000);
    assert_eq!(world.error_code(), "TIMEOUT_ERROR");
    assert_eq!(world.abandoned, ["l.iter_0.s"]);
}

#[test]
fn a_fallback_among_sub_steps_goes_on_with_the_lane() {
    let mut world = World::of_steps(json!([each(
        "l",
        "[1, 2]",
        json!([
            act("f", json!({})),
            act("a", json!({"on_error": {"strategy": "fallback_step", "fallback_step": "f"}})),
            {"id": "z", "action": "workflow.log", "params": {"message": "${{steps.a.v}}"}},
        ])
    )]));
    world.fail("l.iter_0.a", Code::NotFound);
    world.finish("l.iter_0.f", json!({"v": 5}));
    world.finish("l.iter_0.z", json!("z0"));
    world.finish("l.iter_1.a", json!({"v": 6}));
    world.finish("l.iter_1.z", json!("z1"));
    assert_eq!(world.output()["l"]["results"], json!(["z0", "z1"]));
    assert_eq!(world.step_status("l.iter_1.f"), "pending");
}

#[test]
fn everything_nests_in_everything() {
    let mut inner = json!([act("leaf", json!({}))]);
    for level in 0..28 {
        inner = json!([match level % 4 {
            0 => each(&format!("n{level}"), "[1]", inner),
            1 => condition(&format!("n{level}"), json!({"expression": "true", "branches": {"true": inner}})),
            2 => parallel(&format!("n{level}"), json!({"mode": "race", "branches": [inner]})),
            _ => parallel(&format!("n{level}"), json!({"mode": "map", "over": "[1]", "body": inner})),
        }]);
    }
    let mut world = World::of_steps(inner);
    let leaf = world.doing.keys().next().unwrap().clone();
    world.finish(&leaf, json!("deep"));
    assert_eq!(world.status(), WorkflowStatus::Completed);
    assert!(world.output().to_string().contains("deep"));
}

#[test]
fn a_step_reads_its_own_iteration_first() {
    let mut world = World::of_steps(json!([
        act("s", json!({})),
        {"id": "l", "type": "loop", "depends_on": ["s"], "config": {"mode": "for_each", "over": "[1, 2]", "body": [
            act("s", json!({})),
            {"id": "t", "action": "workflow.log", "params": {"message": "${{steps.s}}"}},
        ]}},
    ]));
    world.finish("s", json!("outer"));
    world.finish("l.iter_0.s", json!("in0"));
    world.finish("l.iter_0.t", json!(null));
    world.finish("l.iter_1.s", json!("in1"));
    let prepared = world.run.prepare(world.doing["l.iter_1.t"]).unwrap();
    assert!(format!("{:?}", prepared.params).contains("in1"), "{prepared:?}");
}

#[test]
fn a_costly_expression_is_evaluated_elsewhere() {
    let items: Vec<u32> = (0..20_000).collect();
    let mut world = World::start(
        &json!({"steps": [
            {"id": "c", "type": "condition", "config": {
                "expression": "inputs.list.filter(x, x > 5).size() > 3", "branches": {"true": [act("x", json!({}))]}}},
            act("g", json!({"condition": "inputs.list.exists(x, x == -1)"})),
        ]}),
        json!({"list": items}),
        |_| {},
    );
    assert_eq!(world.step_status("g"), "skipped");
    world.quiet();
    world.finish("c.true.x", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}
