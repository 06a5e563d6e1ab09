//! Scripts of what waits: time, signals, decisions, and when a run counts as suspended.

use opcode_engine::Code;
use opcode_engine::command::{Command, Signal, SignalType};
use opcode_engine::fsm::WorkflowStatus;
use serde_json::{Value, json};

use crate::script::{World, signal};
use crate::steps::act;

fn wait(id: &str, config: Value) -> Value {
    json!({"id": id, "type": "wait", "config": config})
}

fn ask(id: &str, config: Value) -> Value {
    json!({"id": id, "type": "reasoning", "config": config})
}

fn two_options() -> Value {
    json!({"prompt_context": "Which?", "options": [{"id": "yes"}, {"id": "no"}]})
}

#[test]
fn a_wait_for_time_keeps_the_run_active() {
    let mut world = World::of_steps(json!([wait("w", json!({"duration": "2s"}))]));
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.pass(1_999);
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.pass(1);
    world.expect(
        r#"
        workflow_started
        step_started w attempt=1
        wait_started w due="+2000" until="+2000"
        wait_completed w output={"waited":2000}
        step_completed w output={"waited":2000}
        workflow_completed output={"w":{"waited":2000}}
        "#,
    );
}

#[test]
fn a_wait_until_the_past_is_over_at_once() {
    let world = World::of_steps(json!([wait("w", json!({"until": "2020-01-01T00:00:00Z"}))]));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn a_wait_may_be_interpolated() {
    let mut world = World::start(
        &json!({"steps": [wait("w", json!({"duration": "${{inputs.d}}"}))]}),
        json!({"d": "3s"}),
        |_| {},
    );
    world.pass(3_000);
    assert_eq!(world.output(), json!({"w": {"waited": 3000}}));
    let world = World::start(
        &json!({"steps": [wait("w", json!({"duration": "${{inputs.d}}"}))]}),
        json!({"d": "soon"}),
        |_| {},
    );
    assert_eq!(world.error_code(), "VALIDATION_ERROR");
}

#[test]
fn a_wait_for_a_signal_suspends_the_run() {
    let mut world = World::of_steps(json!([wait("w", json!({"signal": "paid"}))]));
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    world.signal(SignalType::Data, "paid", json!({"sum": 3})).unwrap();
    world.expect(
        r#"
        workflow_started
        step_started w attempt=1
        wait_started w signal="paid"
        step_suspended w reason="signal"
        workflow_suspended held=false
        signal_received payload={"sum":3} target="paid" type="data"
        workflow_resumed cause="unblocked"
        wait_completed w output={"payload":{"sum":3},"signal":"paid"} signal=6
        step_completed w output={"payload":{"sum":3},"signal":"paid"}
        workflow_completed output={"w":{"payload":{"sum":3},"signal":"paid"}}
        "#,
    );
}

#[test]
fn a_signal_may_be_sent_by_step_id_or_by_name_in_its_payload() {
    for (step, payload) in [("w", json!(1)), ("", json!({"name": "paid"}))] {
        let mut world = World::of_steps(json!([wait("w", json!({"signal": "paid"}))]));
        world.signal(SignalType::Data, step, payload.clone()).unwrap();
        assert_eq!(world.output()["w"]["payload"], payload);
    }
    let mut world = World::of_steps(json!([wait("w", json!({"signal": "paid"}))]));
    assert_eq!(world.signal(SignalType::Data, "other", json!(1)).unwrap_err().code, Code::NotFound);
    assert_eq!(world.signal(SignalType::Data, "", json!(1)).unwrap_err().code, Code::ValidationError);
}

#[test]
fn an_early_signal_is_kept_and_ends_one_wait() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        {"id": "w1", "type": "wait", "depends_on": ["a"], "config": {"signal": "paid"}},
        {"id": "w2", "type": "wait", "depends_on": ["w1"], "config": {"signal": "paid"}},
    ]));
    world.signal(SignalType::Data, "paid", json!("early")).unwrap();
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.crash();
    world.finish("a", json!(1));
    assert_eq!(world.step_status("w1"), "completed");
    assert_eq!(world.step_status("w2"), "suspended");
    world.signal(SignalType::Data, "w2", json!("late")).unwrap();
    assert_eq!(world.output()["w2"]["payload"], json!("late"));
}

#[test]
fn the_same_signal_id_is_delivered_once() {
    let mut world = World::of_steps(json!([
        wait("w1", json!({"signal": "s"})),
        {"id": "w2", "type": "wait", "depends_on": ["w1"], "config": {"signal": "s"}},
    ]));
    let once = Signal { signal_id: Some("k1".into()), ..signal(SignalType::Data, "s", json!(1)) };
    let first = world.command(Command::Signal(once.clone()));
    world.quiet();
    assert_eq!(world.command(Command::Signal(once.clone())), first);
    world.expect("");
    assert_eq!(world.step_status("w2"), "suspended");
    world.crash();
    world.quiet();
    assert_eq!(world.command(Command::Signal(once)), first, "a crash forgets no signal");
    world.expect("");
}

#[test]
fn a_decision_is_asked_for_and_resolved() {
    let mut world = World::start(
        &json!({"steps": [
            act("a", json!({})),
            {"id": "d", "type": "reasoning", "depends_on": ["a"], "config": {
                "prompt_context": "Take ${{inputs.what}}?", "options": [{"id": "yes", "description": "do"}, {"id": "no"}],
                "data_inject": {"seen": "steps.a.v"}}},
        ]}),
        json!({"what": "it"}),
        |start| start.context = json!({"intent": "try"}),
    );
    world.finish("a", json!({"v": 4}));
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    let decisions = world.shown()["pending_decisions"].clone();
    assert_eq!(decisions[0]["decision_id"], "wf:d:1");
    assert_eq!(
        decisions[0]["context"],
        json!({"prompt": "Take it?", "data": {"seen": 4}, "steps": {"a": {"v": 4}}, "intent": "try"})
    );
    assert_eq!(
        decisions[0]["options"],
        json!([{"id": "yes", "description": "do"}, {"id": "no", "description": ""}])
    );
    let decide = Signal {
        agent_id: Some("ann".into()),
        reasoning: Some("why not".into()),
        ..signal(SignalType::Decision, "d", json!({"choice": "yes", "data": {"n": 1}}))
    };
    world.quiet();
    world.command(Command::Signal(decide));
    let output = r#"{"choice":"yes","data":{"n":1},"reasoning":"why not","resolved_by":"ann"}"#;
    world.expect(&format!(
        r#"
        workflow_resumed cause="unblocked"
        decision_resolved d decision_id="wf:d:1" resolution={output}
        step_completed d output={output}
        workflow_completed output={{"d":{output}}}
        "#
    ));
}

#[test]
fn decisions_that_may_not_be_are_refused() {
    let mut config = two_options();
    config["target_agent"] = json!("ann");
    let mut world = World::of_steps(json!([ask("d", config), act("e", json!({}))]));
    let send = |world: &mut World, agent: Option<&str>, payload: Value| {
        let decide = Signal { agent_id: agent.map(Into::into), ..signal(SignalType::Decision, "d", payload) };
        world.try_command(Command::Signal(decide)).map_err(|r| r.code)
    };
    assert_eq!(send(&mut world, Some("bob"), json!("yes")), Err(Code::PermissionDenied));
    assert_eq!(send(&mut world, None, json!("yes")), Err(Code::PermissionDenied));
    assert_eq!(send(&mut world, Some("ann"), json!("maybe")), Err(Code::ValidationError));
    assert_eq!(send(&mut world, Some("ann"), json!({"data": 1})), Err(Code::ValidationError));
    assert!(send(&mut world, Some("ann"), json!("yes")).is_ok());
    assert_eq!(send(&mut world, Some("ann"), json!("no")), Err(Code::Conflict));
}

#[test]
fn without_a_step_id_the_only_pending_decision_is_meant() {
    let mut world = World::of_steps(json!([ask("d", two_options()), ask("e", two_options())]));
    assert_eq!(world.signal(SignalType::Decision, "", json!("yes")).unwrap_err().code, Code::ValidationError);
    world.signal(SignalType::Decision, "e", json!("yes")).unwrap();
    world.signal(SignalType::Decision, "", json!("no")).unwrap();
    assert_eq!(world.output()["d"]["choice"], "no");
}

#[test]
fn a_decision_out_of_time_takes_its_fallback() {
    for fallback in ["no", ""] {
        let mut config = json!({"prompt_context": "?", "timeout": "1m", "fallback": fallback});
        config["options"] = if fallback.is_empty() { json!([]) } else { two_options()["options"].clone() };
        let mut world = World::of_steps(json!([ask("d", config)]));
        assert_eq!(world.status(), WorkflowStatus::Suspended, "a decision's time alone keeps nothing active");
        world.pass(60_000);
        assert_eq!(world.output()["d"]["choice"], fallback);
        assert_eq!(world.output()["d"]["resolved_by"], "system");
    }
}

#[test]
fn a_decision_out_of_time_without_a_fallback_fails() {
    let mut config = two_options();
    config["timeout"] = json!("1m");
    let mut world = World::of_steps(json!([ask("d", config)]));
    world.quiet();
    world.pass(60_000);
    world.expect(
        r#"
        step_failed d decision_id="wf:d:1" error="TIMEOUT_ERROR"
        workflow_failed error="TIMEOUT_ERROR"
        "#,
    );
}

#[test]
fn a_decision_may_be_asked_for_again() {
    let mut config = two_options();
    config["timeout"] = json!("1m");
    let mut world =
        World::of_steps(json!([{"id": "d", "type": "reasoning", "config": config, "retry": {"max": 1}}]));
    world.pass(60_000);
    assert_eq!(world.shown()["pending_decisions"][0]["decision_id"], "wf:d:2");
    world.signal(SignalType::Decision, "d", json!("yes")).unwrap();
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn decisions_suspend_and_resume_inside_a_map() {
    let mut world = World::of_steps(json!([{"id": "m", "type": "parallel", "config": {
        "mode": "map", "over": "[1, 2]", "body": [ask("d", two_options()), act("s", json!({}))]}}]));
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    assert_eq!(world.signal(SignalType::Decision, "d", json!("yes")).unwrap_err().code, Code::Conflict);
    world.signal(SignalType::Decision, "m.item_1.d", json!("yes")).unwrap();
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.crash();
    world.finish("m.item_1.s", json!("b"));
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    world.signal(SignalType::Decision, "d", json!("no")).unwrap();
    world.finish("m.item_0.s", json!("a"));
    assert_eq!(world.output()["m"]["results"], json!(["a", "b"]));
}

#[test]
fn a_run_is_suspended_only_when_nothing_moves() {
    let mut world = World::of_steps(json!([ask("d", two_options()), act("a", json!({}))]));
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.finish("a", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    let why = world.run.why(world.now);
    assert_eq!((why.len(), &why[0]["kind"], &why[0]["step_id"]), (1, &json!("decision"), &json!("d")));
}

#[test]
fn a_step_may_be_skipped_by_a_signal() {
    let mut world = World::of_steps(json!([
        ask("d", two_options()),
        act("b", json!({"depends_on": ["d"]})),
        act("c", json!({"depends_on": ["b"]})),
    ]));
    world.quiet();
    world.signal(SignalType::Skip, "b", json!(null)).unwrap();
    world.signal(SignalType::Skip, "d", json!(null)).unwrap();
    world.expect(
        r#"
        signal_received b target="b" type="skip"
        workflow_resumed cause="unblocked"
        step_skipped b reason="signal"
        step_started c attempt=1
        signal_received d target="d" type="skip"
        step_skipped d decision_id="wf:d:1" reason="signal"
        "#,
    );
    world.finish("c", json!("end"));
    assert_eq!(world.output(), json!({"c": "end"}));
    assert_eq!(world.signal(SignalType::Skip, "c", json!(null)).unwrap_err().code, Code::InvalidTransition);
}

#[test]
fn a_resting_step_may_be_retried_at_once_or_skipped() {
    for kind in [SignalType::Retry, SignalType::Skip] {
        let retry = json!({"retry": {"max": 5, "delay": "1h", "backoff": "constant"}});
        let mut world = World::of_steps(json!([act("a", retry)]));
        world.fail("a", Code::ExecutionError);
        world.signal(kind, "a", json!(null)).unwrap();
        if kind == SignalType::Retry {
            world.finish("a", json!(1));
        }
        assert_eq!(world.status(), WorkflowStatus::Completed);
    }
}
