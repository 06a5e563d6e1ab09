//! Scripts of how runs end and go on: hooks, compensation, cancel, suspend, timeouts, retries,
//! mutations.

use opcode_engine::command::{Command, SignalType};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::{Code, Rejected};
use serde_json::{Value, json};

use crate::script::{START, World, because, definition};
use crate::steps::act;

fn cancel(world: &mut World) {
    world.command(Command::Cancel(because("enough")));
}

fn retry(world: &mut World, from_step: Option<&str>, params: Option<Value>) -> Result<Option<u64>, Rejected> {
    let from_step = from_step.map(str::to_owned);
    world.try_command(Command::Retry { from_step, params, definition: None, reason: because("again") })
}

fn extend(world: &mut World, mutation: Value) -> Result<Option<u64>, Rejected> {
    world.try_command(Command::Extend { mutation, reason: because("more") })
}

#[test]
fn the_hook_of_a_completed_run_runs_before_its_end() {
    let mut world = World::of(json!({
        "steps": [act("a", json!({}))], "on_complete": act("h", json!({})), "on_error": act("e", json!({})),
    }));
    world.finish("a", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.fail("on_complete.h", Code::NonRetryable);
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1
        step_completed a output=1
        step_started on_complete.h attempt=1
        step_failed on_complete.h error="NON_RETRYABLE"
        workflow_completed output={"a":1}
        "#,
    );
}

#[test]
fn the_hook_of_a_failed_run_sees_its_error() {
    let mut world = World::of(json!({
        "steps": [act("a", json!({}))],
        "on_error": {"id": "e", "action": "workflow.log", "params": {"message": "${{workflow.error.code}}"}},
    }));
    world.quiet();
    world.fail("a", Code::NotFound);
    let prepared = world.run.prepare(world.doing["on_error.e"]).unwrap();
    assert!(format!("{:?}", prepared.params).contains("NOT_FOUND"), "{prepared:?}");
    world.finish("on_error.e", json!(null));
    world.expect(
        r#"
        step_failed a error="NOT_FOUND"
        error_handler_invoked on_error.e error="NOT_FOUND" strategy="fail_workflow"
        step_started on_error.e attempt=1
        step_completed on_error.e output=null
        workflow_failed error="NOT_FOUND"
        "#,
    );
}

#[test]
fn a_hook_survives_a_crash_and_runs_once() {
    let mut world = World::of(json!({"steps": [act("a", json!({}))], "on_complete": act("h", json!({}))}));
    world.finish("a", json!(1));
    world.crash();
    world.finish("on_complete.h", json!(2));
    assert_eq!(world.status(), WorkflowStatus::Completed);
    assert_eq!(world.step("on_complete.h")["attempts"], 2);
}

#[test]
fn what_completed_is_undone_in_reverse_order() {
    let undo = |id: &str| json!({"compensate": act(id, json!({}))});
    let mut with_after = undo("undo-b");
    with_after["depends_on"] = json!(["a"]);
    let mut world = World::of_steps(json!([
        act("a", undo("undo-a")),
        act("b", with_after),
        act("c", json!({"depends_on": ["b"], "compensate": act("undo-c", json!({}))})),
    ]));
    world.finish("a", json!(1));
    world.finish("b", json!(1));
    world.quiet();
    world.fail("c", Code::NonRetryable);
    world.fail("b.compensate.undo-b", Code::NonRetryable);
    world.crash();
    world.finish("a.compensate.undo-a", json!(0));
    world.expect(
        r#"
        step_failed c error="NON_RETRYABLE"
        compensation_started b compensation="b.compensate.undo-b"
        step_started b.compensate.undo-b attempt=1
        step_failed b.compensate.undo-b error="NON_RETRYABLE"
        compensation_failed b compensation="b.compensate.undo-b" error="NON_RETRYABLE"
        compensation_started a compensation="a.compensate.undo-a"
        step_started a.compensate.undo-a attempt=1
        -- crash
        workflow_interrupted a.compensate.undo-a action="retry" attempt=1
        step_retry_attempt a.compensate.undo-a attempt=2 interrupted=true
        step_completed a.compensate.undo-a output=0
        compensation_completed a compensation="a.compensate.undo-a"
        workflow_failed error="NON_RETRYABLE"
        "#,
    );
}

#[test]
fn steps_inside_a_loop_are_undone_too() {
    let mut world = World::of_steps(json!([
        {"id": "l", "type": "loop", "config": {"mode": "for_each", "over": "[1, 2]", "body": [
            act("s", json!({"compensate": {"id": "u", "action": "workflow.log", "params": {"message": "${{loop.item}}"}}}))]}},
        act("z", json!({"depends_on": ["l"]})),
    ]));
    world.finish("l.iter_0.s", json!(1));
    world.finish("l.iter_1.s", json!(2));
    world.fail("z", Code::NonRetryable);
    world.finish("l.iter_1.s.compensate.u", json!(0));
    let prepared = world.run.prepare(world.doing["l.iter_0.s.compensate.u"]).unwrap();
    assert!(
        format!("{:?}", prepared.params).contains("Number(1)")
            || format!("{:?}", prepared.params).contains("\"1\""),
        "{prepared:?}"
    );
    world.finish("l.iter_0.s.compensate.u", json!(0));
    assert_eq!(world.status(), WorkflowStatus::Failed);
}

#[test]
fn a_cancelled_run_stops_skips_and_undoes() {
    let mut world = World::of_steps(json!([
        act("a", json!({"compensate": act("undo", json!({}))})),
        act("b", json!({"depends_on": ["a"]})),
        act("c", json!({"depends_on": ["b"]})),
    ]));
    world.finish("a", json!(1));
    world.quiet();
    cancel(&mut world);
    world.finish("a.compensate.undo", json!(0));
    world.expect(
        r#"
        signal_received reason="enough" type="cancel"
        step_skipped b reason="cancelled"
        step_skipped c reason="cancelled"
        compensation_started a compensation="a.compensate.undo"
        step_started a.compensate.undo attempt=1
        step_completed a.compensate.undo output=0
        compensation_completed a compensation="a.compensate.undo"
        workflow_cancelled reason="enough"
        "#,
    );
    let refused = world.try_command(Command::Cancel(because("more"))).unwrap_err();
    assert_eq!(refused.code, Code::InvalidTransition);
}

#[test]
fn a_second_cancel_cuts_the_undoing_short() {
    let mut world = World::of_steps(json!([
        act("a", json!({"compensate": act("undo", json!({}))})),
        act("b", json!({"depends_on": ["a"]})),
    ]));
    world.finish("a", json!(1));
    cancel(&mut world);
    assert_eq!(world.status(), WorkflowStatus::Active);
    cancel(&mut world);
    assert_eq!(world.status(), WorkflowStatus::Cancelled);
    assert_eq!(world.abandoned, ["b", "a.compensate.undo"]);
}

#[test]
fn a_suspended_run_starts_nothing_and_goes_on_when_resumed() {
    let mut world = World::of_steps(json!([act("a", json!({})), act("b", json!({"depends_on": ["a"]}))]));
    world.quiet();
    world.command(Command::Suspend(because("hold")));
    assert!(world.try_command(Command::Suspend(because("hold"))).is_err());
    world.finish("a", json!(1));
    world.crash();
    world.command(Command::Resume(because("go")));
    assert!(world.try_command(Command::Resume(because("go"))).is_err());
    world.finish("b", json!(2));
    world.expect(
        r#"
        workflow_suspended held=true reason="hold"
        step_completed a output=1
        step_scheduled b
        -- crash
        workflow_resumed cause="operator" reason="go"
        step_started b attempt=1
        step_completed b output=2
        workflow_completed output={"b":2}
        "#,
    );
}

#[test]
fn a_held_run_retries_nothing_and_completes_only_when_resumed() {
    let mut world = World::of_steps(json!([act(
        "a",
        json!({"retry": {"max": 1, "delay": "1s", "backoff": "constant"}})
    )]));
    world.command(Command::Suspend(because("hold")));
    world.fail("a", Code::ExecutionError);
    world.pass(10_000);
    assert_eq!(world.step_status("a"), "retrying");
    assert_eq!(world.run.next_due(), None);
    world.command(Command::Resume(because("go")));
    world.command(Command::Suspend(because("hold")));
    world.finish("a", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    world.command(Command::Resume(because("go")));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn a_run_out_of_time_ends_as_it_says() {
    let of = |on_timeout: &str| {
        let mut world = World::of(json!({
            "timeout": "5m", "on_timeout": on_timeout,
            "steps": [act("a", json!({})), act("b", json!({"depends_on": ["a"]}))],
        }));
        world.pass(300_000);
        world
    };
    let world = of("fail");
    assert_eq!((world.status(), world.error_code().as_str()), (WorkflowStatus::Failed, "TIMEOUT_ERROR"));
    assert_eq!(of("cancel").status(), WorkflowStatus::Cancelled);
    let mut world = of("suspend");
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    world.finish("a", json!(1));
    world.command(Command::Resume(because("go")));
    assert_eq!(world.run.next_due(), Some(world.now.plus_ms(300_000)));
    world.finish("b", json!(2));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn a_run_waits_for_its_start() {
    let source = json!({"steps": [act("a", json!({}))], "timeout": "1m"});
    let mut world = World::start(&source, json!({}), |start| start.start_at = Some(START.plus_ms(5_000)));
    assert_eq!(world.status(), WorkflowStatus::Pending);
    world.crash();
    world.pass(5_000);
    world.finish("a", json!(1));
    world.expect(
        r#"
        workflow_started
        -- crash
        workflow_resumed cause="started" due="+65000"
        step_started a attempt=1
        step_completed a output=1
        workflow_completed output={"a":1}
        "#,
    );
    let mut world = World::start(&source, json!({}), |start| start.start_at = Some(START.plus_ms(5_000)));
    cancel(&mut world);
    assert_eq!(world.status(), WorkflowStatus::Cancelled);
}

#[test]
fn a_failed_run_is_retried_from_what_failed() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        act("b", json!({"depends_on": ["a"]})),
        act("side", json!({})),
        act("c", json!({"depends_on": ["b", "side"]})),
    ]));
    world.finish("a", json!(1));
    world.fail("b", Code::NonRetryable);
    world.quiet();
    retry(&mut world, None, None).unwrap();
    world.expect(
        r#"
        step_scheduled b reset=true
        step_scheduled side reset=true
        workflow_resumed attempt=2 cause="retry" reason="again"
        step_started b attempt=2
        step_started side attempt=2
        "#,
    );
    world.crash();
    world.finish("b", json!(2));
    world.finish("side", json!(3));
    world.finish("c", json!(4));
    assert_eq!(world.status(), WorkflowStatus::Completed);
    assert_eq!(world.step("a")["attempts"], 1);
}

#[test]
fn a_failed_composite_goes_on_where_it_had_come_to() {
    let of = || {
        let inner = json!({"id": "c", "type": "condition", "config": {
            "expression": "true", "branches": {"true": [act("x", json!({})), act("y", json!({}))]}}});
        let mut world = World::of_steps(json!([{"id": "m", "type": "parallel", "config": {
            "mode": "map", "over": "[0, 1, 2]", "max_concurrency": 3, "body": [act("s", json!({})), inner]}}]));
        world.finish("m.item_0.s", json!(0));
        world.finish("m.item_0.c.true.x", json!(0));
        world.finish("m.item_0.c.true.y", json!("zero"));
        world.finish("m.item_1.s", json!(1));
        world.finish("m.item_1.c.true.x", json!(1));
        world.fail("m.item_1.c.true.y", Code::NonRetryable);
        assert_eq!(world.status(), WorkflowStatus::Failed);
        world.quiet();
        world
    };
    for by_signal in [true, false] {
        let mut world = of();
        if by_signal {
            world.signal(SignalType::Retry, "m.item_1.c.true.y", json!(null)).unwrap();
        } else {
            retry(&mut world, None, None).unwrap();
        }
        world.crash();
        assert_eq!(world.doing.keys().collect::<Vec<_>>(), ["m.item_1.c.true.y", "m.item_2.s"]);
        world.finish("m.item_1.c.true.y", json!("one"));
        world.finish("m.item_2.s", json!(2));
        world.finish("m.item_2.c.true.x", json!(2));
        world.finish("m.item_2.c.true.y", json!("two"));
        let outputs: Vec<Value> = world.output()["m"]["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| result["output"].clone())
            .collect();
        assert_eq!(outputs, ["zero", "one", "two"]);
        assert_eq!(world.step("m.item_1.c.true.x")["attempts"], 1);
    }
    let mut world = of();
    retry(&mut world, Some("m"), None).unwrap();
    assert_eq!(world.doing.keys().collect::<Vec<_>>(), ["m.item_0.s", "m.item_1.s", "m.item_2.s"]);
}

#[test]
fn a_completed_run_is_run_again_from_a_step_with_other_params() {
    let mut world = World::of(json!({"steps": [
        act("a", json!({})),
        {"id": "b", "action": "workflow.log", "params": {"message": "${{inputs.x}}"}, "depends_on": ["a"]},
    ]}));
    world.finish("a", json!(1));
    world.finish("b", json!(1));
    assert_eq!(retry(&mut world, None, None).unwrap_err().code, Code::InvalidTransition);
    assert_eq!(retry(&mut world, Some("nope"), None).unwrap_err().code, Code::NotFound);
    retry(&mut world, Some("b"), Some(json!({"x": "new"}))).unwrap();
    let prepared = world.run.prepare(world.doing["b"]).unwrap();
    assert!(format!("{:?}", prepared.params).contains("new"), "{prepared:?}");
    world.finish("b", json!(2));
    assert_eq!(world.output(), json!({"b": 2}));
    assert_eq!(world.step("a")["attempts"], 1);
}

#[test]
fn a_compensated_step_runs_again_with_the_run() {
    let mut world = World::of_steps(json!([
        act("a", json!({"compensate": act("undo", json!({}))})),
        act("b", json!({"depends_on": ["a"]})),
    ]));
    for _ in 0..2 {
        world.finish("a", json!(1));
        world.fail("b", Code::NonRetryable);
        world.finish("a.compensate.undo", json!(0));
        assert_eq!(world.status(), WorkflowStatus::Failed);
        world.signal(SignalType::Retry, "b", json!(null)).unwrap();
    }
    world.finish("a", json!(1));
    world.finish("b", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn a_run_is_retried_with_another_definition() {
    let mut world = World::of_steps(json!([act("a", json!({})), act("b", json!({"depends_on": ["a"]}))]));
    world.finish("a", json!(1));
    world.fail("b", Code::NonRetryable);
    let other = definition(&json!({"steps": [
        act("new", json!({})), act("a", json!({})), act("b", json!({"depends_on": ["a", "new"]})),
    ]}));
    world.command(Command::Retry {
        from_step: None,
        params: None,
        definition: Some((other, "v2".into())),
        reason: because("fixed"),
    });
    world.finish("new", json!(0));
    world.crash();
    world.finish("b", json!(2));
    assert_eq!(world.output(), json!({"b": 2}));
    assert_eq!(world.shown()["version"], "v2");
}

#[test]
fn steps_are_inserted_into_a_live_run() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        act("b", json!({"depends_on": ["a"]})),
        act("c", json!({"depends_on": ["b"]})),
    ]));
    extend(&mut world, json!({"insert_after": "a", "steps": [act("x", json!({})), act("y", json!({}))]}))
        .unwrap();
    extend(&mut world, json!({"insert_before": "c", "steps": [act("z", json!({}))]})).unwrap();
    world.crash();
    for step in ["a", "x", "y", "b", "z", "c"] {
        assert_eq!(world.doing.keys().collect::<Vec<_>>(), [step]);
        world.finish(step, json!(step));
    }
    assert_eq!(world.output(), json!({"c": "c"}));
}

#[test]
fn steps_are_replaced_and_removed() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        act("b", json!({"depends_on": ["a"]})),
        act("c", json!({"depends_on": ["b"]})),
    ]));
    extend(&mut world, json!({"replace": "c", "step": act("d", json!({}))})).unwrap();
    extend(&mut world, json!({"remove": "b"})).unwrap();
    world.finish("a", json!(1));
    world.crash();
    world.finish("d", json!(2));
    assert_eq!(world.output(), json!({"d": 2}));
}

#[test]
fn mutations_that_may_not_be_are_refused() {
    let mut world = World::of_steps(json!([act("a", json!({})), act("b", json!({"depends_on": ["a"]}))]));
    let code = |world: &mut World, mutation: Value| extend(world, mutation).unwrap_err().code;
    assert_eq!(code(&mut world, json!({"remove": "a"})), Code::Conflict);
    assert_eq!(code(&mut world, json!({"replace": "a", "step": act("a", json!({}))})), Code::Conflict);
    assert_eq!(code(&mut world, json!({"remove": "nope"})), Code::NotFound);
    assert_eq!(code(&mut world, json!({"remove": "b", "replace": "b"})), Code::ValidationError);
    assert_eq!(code(&mut world, json!({"insert_after": "b", "steps": [{"id": "x"}]})), Code::ValidationError);
    assert_eq!(
        code(&mut world, json!({"insert_before": "b", "steps": [act("x", json!({"depends_on": ["b"]}))]})),
        Code::CycleDetected
    );
    assert_eq!(
        code(&mut world, json!({"insert_after": "b", "steps": [act("a", json!({}))]})),
        Code::ValidationError
    );
    assert_eq!(code(&mut world, json!([])), Code::ValidationError);
}

#[test]
fn a_variable_is_set_in_a_live_run() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        {"id": "b", "action": "workflow.log", "params": {"message": "${{context.colour}}"}, "depends_on": ["a"]},
    ]));
    extend(&mut world, json!({"set_variable": {"name": "colour", "value": "red"}})).unwrap();
    world.finish("a", json!(1));
    let prepared = world.run.prepare(world.doing["b"]).unwrap();
    assert!(format!("{:?}", prepared.params).contains("red"), "{prepared:?}");
}

#[test]
fn params_are_checked_when_a_run_starts() {
    let source = definition(&json!({
        "name": "t", "input_schema": {"type": "object", "required": ["x"]},
        "definition": {"steps": [act("a", json!({}))]},
    }));
    let start = |params: Value| {
        let start = opcode_engine::command::Start {
            no: opcode_engine::ids::RunNo(1),
            id: opcode_engine::ids::WorkflowId::parse("w").unwrap(),
            definition: source.clone(),
            template: None,
            params,
            agent_id: None,
            context: Value::Null,
            labels: std::collections::BTreeMap::new(),
            start_at: None,
            body_hash: None,
            request: None,
            parent: None,
        };
        opcode_engine::run::Run::start(start, START).map(|_| ()).map_err(|r| r.code)
    };
    assert_eq!(start(json!({"x": 1})), Ok(()));
    assert_eq!(start(json!({})), Err(Code::ValidationError));
    assert_eq!(start(json!([])), Err(Code::ValidationError));
    assert_eq!(start(json!({"x": "y".repeat(2_000_000)})), Err(Code::ValidationError));
}
