//! Scripts of single steps and chains of them: guards, retries, timeouts, error strategies.

use std::sync::Arc;

use opcode_engine::command::{Command, Emission, PreparedParams};
use opcode_engine::definition::{Definition, Plugins};
use opcode_engine::event::{EventType, NOTICE};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};

use crate::script::World;

/// An action step of this id, with more fields.
pub(crate) fn act(id: &str, more: Value) -> Value {
    let mut step = json!({"id": id, "action": "http.get", "params": {"url": "http://x"}});
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

#[test]
fn a_chain_takes_two_events_a_step() {
    let mut world = World::of_steps(json!([
        {"id": "a", "action": "workflow.log", "params": {"message": "hi"}},
        {"id": "b", "action": "workflow.log", "params": {"message": "${{steps.a.n}}"}, "depends_on": ["a"]},
    ]));
    world.finish("a", json!({"n": 1}));
    world.finish("b", json!("done"));
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1
        step_completed a output={"n":1}
        step_started b attempt=1
        step_completed b output="done"
        workflow_completed output={"b":"done"}
        "#,
    );
}

#[test]
fn a_step_starts_the_moment_its_own_dependencies_are_done() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        act("b", json!({})),
        act("after-a", json!({"depends_on": ["a"]})),
        act("after-both", json!({"depends_on": ["a", "b"]})),
    ]));
    world.quiet();
    world.finish("a", json!(1));
    world.expect("step_completed a output=1\nstep_started after-a attempt=1");
    world.finish("b", json!(2));
    world.expect("step_completed b output=2\nstep_started after-both attempt=1");
}

#[test]
fn a_false_guard_skips_and_counts_as_done() {
    let mut world = World::start(
        &json!({"steps": [
            act("a", json!({"condition": "inputs.go"})),
            {"id": "b", "action": "workflow.log", "params": {"message": "${{steps.a.body}}"}, "depends_on": ["a"]},
        ]}),
        json!({"go": false}),
        |_| {},
    );
    world.finish("b", json!(null));
    world.expect(
        r#"
        workflow_started
        step_skipped a reason="condition"
        step_started b attempt=1
        step_completed b output=null
        workflow_completed output={"b":null}
        "#,
    );
}

#[test]
fn a_guard_that_fails_is_not_tried_again() {
    let mut world = World::start(
        &json!({"steps": [act("a", json!({"condition": "inputs.go + 1 == 2", "retry": {"max": 3}}))]}),
        json!({"go": "x"}),
        |_| {},
    );
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1
        step_failed a error="EXECUTION_ERROR"
        workflow_failed error="EXECUTION_ERROR"
        "#,
    );
}

#[test]
fn retries_rest_as_their_policy_says_and_then_the_run_fails() {
    let mut world = World::of_steps(json!([act(
        "a",
        json!({"retry": {"max": 2, "backoff": "exponential", "delay": "1s"}})
    )]));
    world.fail("a", Code::ExecutionError);
    world.pass(999);
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1
        step_retrying a at="+1000" attempt=2 error="EXECUTION_ERROR"
        "#,
    );
    world.pass(1);
    world.fail("a", Code::ExecutionError);
    world.pass(2_000);
    world.fail("a", Code::ExecutionError);
    world.expect(
        r#"
        step_retry_attempt a attempt=2
        step_retrying a at="+3000" attempt=3 error="EXECUTION_ERROR"
        step_retry_attempt a attempt=3
        step_failed a error="EXECUTION_ERROR" exhausted=true
        workflow_failed error="RETRY_EXHAUSTED"
        "#,
    );
    let error = &world.shown()["error"];
    assert_eq!(error["details"]["error"]["code"], "EXECUTION_ERROR");
    assert_eq!(error["step_id"], "a");
    assert!(error["message"].as_str().unwrap().contains("3 attempts"), "{error}");
}

#[test]
fn a_retry_without_delay_follows_at_once() {
    let mut world = World::of_steps(json!([act("a", json!({"retry": {"max": 1}}))]));
    world.quiet();
    world.fail("a", Code::TimeoutError);
    world.expect(
        r#"
        step_retrying a at="+0" attempt=2 error="TIMEOUT_ERROR"
        step_retry_attempt a attempt=2
        "#,
    );
    world.finish("a", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn what_is_not_retryable_is_not_retried() {
    for code in [
        Code::ValidationError,
        Code::NotFound,
        Code::Conflict,
        Code::NonRetryable,
        Code::PermissionDenied,
        Code::CircuitOpen,
        Code::AssertionFailed,
        Code::PathDenied,
    ] {
        let mut world = World::of_steps(json!([act("a", json!({"retry": {"max": 3}}))]));
        world.fail("a", code);
        assert_eq!(world.error_code(), code.as_str());
    }
}

#[test]
fn an_ignored_failure_completes_with_null() {
    let mut world = World::of_steps(json!([
        act("a", json!({"on_error": {"strategy": "ignore"}})),
        act("b", json!({"depends_on": ["a"]})),
    ]));
    world.quiet();
    world.fail("a", Code::NonRetryable);
    world.expect(
        r#"
        error_handler_invoked a error="NON_RETRYABLE" strategy="ignore"
        step_ignored a error="NON_RETRYABLE"
        step_completed a output=null
        step_started b attempt=1
        "#,
    );
}

#[test]
fn a_fallback_takes_the_place_of_the_step_that_failed() {
    let mut world = World::of_steps(json!([
        act("a", json!({"on_error": {"strategy": "fallback_step", "fallback_step": "f"}})),
        act("f", json!({})),
        {"id": "b", "action": "workflow.log", "params": {"message": "${{steps.a.v}}"}, "depends_on": ["a"]},
    ]));
    world.fail("a", Code::NonRetryable);
    world.finish("f", json!({"v": 9}));
    let prepared = world.run.prepare(world.doing["b"]).unwrap();
    assert!(
        format!("{:?}", prepared.params).contains("\"9\"")
            || format!("{:?}", prepared.params).contains("Number(9)")
    );
    world.finish("b", json!("ok"));
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1
        error_handler_invoked a error="NON_RETRYABLE" strategy="fallback_step"
        step_failed a error="NON_RETRYABLE" handled=true
        step_fallback a fallback_step="f"
        step_started f attempt=1
        step_completed f output={"v":9}
        step_started b attempt=1
        step_completed b output="ok"
        workflow_completed output={"b":"ok","f":{"v":9}}
        "#,
    );
    assert_eq!(world.step_status("a"), "failed");
}

#[test]
fn a_fallback_not_called_for_does_not_run() {
    let mut world = World::of_steps(json!([
        act("a", json!({"on_error": {"strategy": "fallback_step", "fallback_step": "f"}})),
        act("f", json!({})),
    ]));
    world.finish("a", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Completed);
    assert_eq!(world.output(), json!({"a": 1}));
    assert_eq!(world.step_status("f"), "pending");
}

#[test]
fn a_fallback_that_fails_fails_the_run() {
    let mut world = World::of_steps(json!([
        act("a", json!({"on_error": {"strategy": "fallback_step", "fallback_step": "f"}})),
        act("f", json!({})),
    ]));
    world.fail("a", Code::NonRetryable);
    world.fail("f", Code::NotFound);
    assert_eq!(world.error_code(), "NOT_FOUND");
}

#[test]
fn two_steps_may_share_a_fallback() {
    let on_error = json!({"on_error": {"strategy": "fallback_step", "fallback_step": "f"}});
    let mut world =
        World::of_steps(json!([act("a", on_error.clone()), act("b", on_error), act("f", json!({}))]));
    world.fail("a", Code::NonRetryable);
    world.finish("f", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.fail("b", Code::NonRetryable);
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn the_retry_strategy_has_three_retries_of_its_own() {
    let mut world = World::of_steps(json!([act("a", json!({"on_error": {"strategy": "retry"}}))]));
    for _ in 0..3 {
        world.fail("a", Code::ExecutionError);
        world.pass(60_000);
    }
    world.fail("a", Code::ExecutionError);
    assert_eq!(world.error_code(), "RETRY_EXHAUSTED");
}

#[test]
fn a_failed_run_stops_what_is_under_way() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        act("b", json!({})),
        act("c", json!({"depends_on": ["b"]}))
    ]));
    world.quiet();
    world.fail("a", Code::NonRetryable);
    world.expect(
        r#"
        step_failed a error="NON_RETRYABLE"
        step_skipped b reason="run_failed"
        workflow_failed error="NON_RETRYABLE"
        "#,
    );
    assert_eq!(world.abandoned, ["b"]);
    assert_eq!(world.step_status("c"), "pending");
}

#[test]
fn a_step_out_of_time_fails_and_may_be_retried() {
    let mut world = World::of_steps(json!([act(
        "a",
        json!({"timeout": "1s", "retry": {"max": 1, "delay": "1s", "backoff": "constant"}})
    )]));
    world.pass(1_000);
    assert_eq!(world.abandoned, ["a"]);
    world.pass(5_000);
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1 due="+1000"
        step_retrying a at="+2000" attempt=2 error="TIMEOUT_ERROR"
        step_retry_attempt a attempt=2 due="+3000"
        step_failed a error="TIMEOUT_ERROR" exhausted=true
        workflow_failed error="RETRY_EXHAUSTED"
        "#,
    );
}

#[test]
fn a_late_result_changes_nothing() {
    let mut world = World::of_steps(json!([act("a", json!({"timeout": "1s", "retry": {"max": 1}}))]));
    let late = world.doing["a"];
    world.pass(1_000);
    world.quiet();
    world.command(Command::Finished { handle: late, result: Ok(json!("late")), emissions: Vec::new() });
    world.expect("");
    assert!(world.run.prepare(late).is_none());
    world.finish("a", json!("new"));
    assert_eq!(world.output(), json!({"a": "new"}));
}

#[test]
fn emissions_stand_before_the_result() {
    let mut world = World::of_steps(json!([act("a", json!({})), act("b", json!({"depends_on": ["a"]}))]));
    world.quiet();
    world.end(
        "a",
        Ok(json!(1)),
        vec![
            Emission::Custom { event: "hello".into(), data: json!([1]) },
            Emission::Set { name: "colour".into(), value: json!("red") },
            Emission::Breaker { action: "http.get x".into(), state: "open" },
        ],
    );
    world.expect(
        r#"
        custom a data=[1] event="hello"
        variable_set a name="colour" value="red"
        circuit_breaker_open a action="http.get x"
        step_completed a output=1
        step_started b attempt=1
        "#,
    );
    assert_eq!(world.shown()["context"]["colour"], "red");
}

#[test]
fn a_notice_is_addressed_to_the_agent_of_the_run() {
    let steps = json!({"steps": [act("a", json!({}))]});
    let mut world = World::start(&steps, json!({}), |start| start.agent_id = Some("bot".into()));
    let data = json!({"message": "look"});
    let forged = Emission::Custom { event: NOTICE.into(), data: data.clone() };
    world.end("a", Ok(json!(1)), vec![Emission::Notify { data }, forged]);
    let notices = world.log.iter().filter(|made| made.kind() == EventType::Custom);
    let addressed: Vec<_> = notices.map(|made| made.decoded().agent_id).collect();
    assert_eq!(addressed, [Some("bot".into()), None]);
}

#[test]
fn a_secret_where_none_is_taken_any_more_fails_its_step_alone() {
    let logs = json!({"steps": [
        {"id": "a", "action": "crypto.uuid"},
        {"id": "b", "action": "workflow.log", "depends_on": ["a"], "on_error": {"strategy": "ignore"},
         "params": {"message": "m", "k": "${{secrets.K}}"}}],
        "inputs": {"k": "${{secrets.K}}"}, "output": {"k": "${{secrets.K}}"}});
    assert!(Definition::parse(&logs.to_string()).is_err());
    let mut world = World::of_stored(&logs);
    world.finish("a", json!(1));
    let PreparedParams::Failed(fault) = world.params("b") else { panic!("{:?}", world.params("b")) };
    assert_eq!(fault.code, Code::ValidationError);
    assert!(fault.message.contains("workflow.log takes no secret"), "{}", fault.message);
    world.end("b", Err(fault), Vec::new());
    // Where no action takes it, it is the text that it always was there, and no value comes in.
    assert_eq!(world.output(), json!({"k": "${{secrets.K}}"}));
    // What else is wrong is as wrong as it was.
    assert!(Definition::parse_stored(r#"{"steps": [{"id": "a", "action": "fs.such"}]}"#).is_err());
}

#[test]
fn a_plugins_tool_is_an_action_that_waits_for_a_worker_and_takes_no_secret() {
    let steps =
        |params| json!({"steps": [{"id": "a", "action": "archive.fetch", "params": params}]}).to_string();
    let files = [Arc::from("archive")];
    let refused = |text: &str, plugins| Definition::parse_with(text, plugins).expect_err("refused").problems;
    let alone = refused(&steps(json!({})), Plugins::Of(&[]));
    assert_eq!(alone[0].pointer, "/steps/0/action");
    assert!(alone[0].message.contains("no plugin brings the namespace \"archive\""), "{}", alone[0].message);
    let others = [Arc::from("archives")];
    let near = refused(&steps(json!({})), Plugins::Of(&others));
    assert!(near[0].message.ends_with("did you mean \"archives\"?"), "{}", near[0].message);
    let secret = refused(&steps(json!({"key": "${{secrets.K}}"})), Plugins::Of(&files));
    assert!(secret[0].message.contains("a plugin's tool takes no secret"), "{}", secret[0].message);
    let definition = Definition::parse_with(&steps(json!({"n": 1})), Plugins::Of(&files)).unwrap();
    assert_eq!(definition.plugin_namespaces(), files);
    let mut world = World::of_stored(&json!({"steps": [{"id": "a", "action": "archive.fetch"}]}));
    world.finish("a", json!({"text": "x"}));
    assert_eq!(world.output(), json!({"a": {"text": "x"}}));
}

#[test]
fn workflow_fail_fails_the_run_whatever_on_error_says() {
    let mut world = World::of_steps(json!([{
        "id": "l", "type": "loop", "on_error": {"strategy": "ignore"}, "config": {
            "mode": "for_each", "over": "[1, 2]", "body": [act("a", json!({"on_error": {"strategy": "ignore"}}))]}
    }]));
    world.quiet();
    let fault = Fault::new(Code::NonRetryable, "enough");
    world.end("l.iter_0.a", Ok(json!(null)), vec![Emission::FailRun(fault)]);
    world.expect(
        r#"
        step_failed l.iter_0.a error="NON_RETRYABLE" fatal=true
        step_skipped l reason="run_failed"
        workflow_failed error="NON_RETRYABLE"
        "#,
    );
}

#[test]
fn an_output_over_the_limit_fails_the_step() {
    let mut world = World::of_steps(json!([act("a", json!({"retry": {"max": 3}}))]));
    world.finish("a", json!("x".repeat(1024 * 1024)));
    assert_eq!(world.error_code(), "NON_RETRYABLE");
    let mut deep = Value::Null;
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let mut world = World::of_steps(json!([act("a", json!({}))]));
    world.finish("a", deep);
    assert_eq!(world.error_code(), "NON_RETRYABLE");
}

#[test]
fn a_run_has_the_output_it_says() {
    let mut world = World::of(json!({
        "steps": [act("a", json!({}))],
        "output": {"got": "${{steps.a.v}}", "from": "${{inputs.name}}"},
        "inputs": {"name": "default"},
    }));
    world.finish("a", json!({"v": [1]}));
    assert_eq!(world.output(), json!({"got": [1], "from": "default"}));
}

#[test]
fn an_output_that_cannot_be_had_fails_the_run() {
    let mut world =
        World::of(json!({"steps": [act("a", json!({}))], "output": {"got": "${{ steps.a.v + 'x' }}"}}));
    world.finish("a", json!({"v": 1}));
    assert_eq!(world.error_code(), "INTERPOLATION_ERROR");
}

#[test]
fn ten_thousand_steps_are_no_trouble() {
    let steps: Vec<Value> = (0..10_000)
        .map(|n| {
            let depends: Vec<String> = (1..=2).filter(|back| n >= *back).map(|back| format!("s{}", n - back)).collect();
            json!({"id": format!("s{n}"), "action": "workflow.log", "params": {"message": "x"}, "depends_on": depends})
        })
        .collect();
    let definition = crate::script::definition(&json!({"steps": steps}));
    let start = opcode_engine::command::Start {
        no: opcode_engine::ids::RunNo(1),
        id: opcode_engine::ids::WorkflowId::parse("big").unwrap(),
        definition,
        template: None,
        params: Value::Null,
        agent_id: None,
        context: Value::Null,
        labels: std::collections::BTreeMap::new(),
        start_at: None,
        body_hash: None,
        request: None,
        parent: None,
    };
    let (mut run, _) = opcode_engine::run::Run::start(start, crate::script::START).unwrap();
    while let Some(effect) = run.take_effects().pop() {
        let opcode_engine::command::Effect::Execute { handle, .. } = effect else { panic!("{effect:?}") };
        let finished = Command::Finished { handle, result: Ok(json!(1)), emissions: Vec::new() };
        run.handle(finished, crate::script::START).unwrap();
    }
    assert_eq!(run.status(), WorkflowStatus::Completed);
    assert_eq!(run.sequence().0, 20_002);
}
