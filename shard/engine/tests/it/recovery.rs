//! Scripts of crashes: what an interruption does, what is never done twice, and that a damaged
//! log is told, not believed.

use opcode_engine::INTERRUPTIONS_MAX;
use opcode_engine::command::{Command, SignalType};
use opcode_engine::event::{Body, EventType};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, Sequence};
use opcode_engine::run::Run;
use serde_json::json;

use crate::script::{Stored, World, because};
use crate::steps::act;

#[test]
fn a_step_in_flight_is_interrupted_and_tried_again() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        act("b", json!({"depends_on": ["a"], "retry": {"max": 1}})),
    ]));
    world.finish("a", json!(1));
    world.quiet();
    world.crash();
    world.fail("b", opcode_engine::Code::ExecutionError);
    world.crash();
    world.finish("b", json!(2));
    world.expect(
        r#"
        -- crash
        workflow_interrupted b action="retry" attempt=1
        step_retry_attempt b attempt=2 interrupted=true
        step_retrying b at="+0" attempt=3 error="EXECUTION_ERROR"
        step_retry_attempt b attempt=3
        -- crash
        workflow_interrupted b action="retry" attempt=3
        step_retry_attempt b attempt=4 interrupted=true
        step_completed b output=2
        workflow_completed output={"b":2}
        "#,
    );
}

#[test]
fn an_interruption_may_fail_or_suspend() {
    let mut world = World::of_steps(json!([act("a", json!({"on_interrupt": "fail", "retry": {"max": 3}}))]));
    world.crash();
    assert_eq!(world.status(), WorkflowStatus::Failed);
    for kind in ["retry", "skip", "resume"] {
        let mut world = World::of_steps(json!([act("a", json!({"on_interrupt": "suspend"}))]));
        world.crash();
        assert_eq!(
            (world.status(), world.step_status("a").as_str()),
            (WorkflowStatus::Suspended, "suspended")
        );
        assert_eq!(world.run.why(world.now)[0]["kind"], "operator");
        match kind {
            "retry" => drop(world.signal(SignalType::Retry, "a", json!(null)).unwrap()),
            "skip" => drop(world.signal(SignalType::Skip, "a", json!(null)).unwrap()),
            _ => drop(world.command(Command::Resume(because("go")))),
        }
        if kind != "skip" {
            world.finish("a", json!(1));
        }
        assert_eq!(world.status(), WorkflowStatus::Completed);
    }
}

#[test]
fn a_step_interrupted_again_and_again_is_left_to_an_operator() {
    let mut world = World::of_steps(json!([act("a", json!({"retry": {"max": 3}}))]));
    let interruptions = usize::try_from(INTERRUPTIONS_MAX).unwrap();
    // A result in between, even a failure, shows that it is not the step.
    (1..interruptions).for_each(|_| world.crash());
    world.fail("a", opcode_engine::Code::ExecutionError);
    (1..interruptions).for_each(|_| world.crash());
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.quiet();
    world.crash();
    world.expect(
        r#"
        -- crash
        workflow_interrupted a action="suspend" attempt=20 dead_letter=true
        step_suspended a reason="interrupted"
        workflow_suspended held=false
        "#,
    );
    let why = world.run.why(world.now);
    assert!(why[0]["detail"].as_str().unwrap().contains("dead letter"), "{why:?}");
    // It stays one over crashes, and begins to count anew when it is let go on.
    world.crash();
    assert_eq!(world.status(), WorkflowStatus::Suspended);
    world.command(Command::Resume(because("it was the disk")));
    (1..interruptions).for_each(|_| world.crash());
    assert_eq!(world.status(), WorkflowStatus::Active);
    world.finish("a", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn an_interruption_of_the_release_before_is_read() {
    let before = br#"{"attempt":1,"action":"retry"}"#;
    let read = Body::decode(EventType::WorkflowInterrupted, before).unwrap();
    let mut written = Vec::new();
    read.encode(&mut written);
    assert_eq!(written, before, "and written as it was");
}

#[test]
fn pure_steps_are_raised_again_without_an_event() {
    let mut world =
        World::of_steps(json!([{"id": "a", "action": "workflow.log", "params": {"message": "x"}}]));
    world.quiet();
    world.crash();
    world.expect("-- crash");
    world.finish("a", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn timers_fire_at_their_original_time() {
    let mut world = World::of_steps(json!([{"id": "w", "type": "wait", "config": {"duration": "10s"}}]));
    world.pass(4_000);
    world.crash();
    assert_eq!(world.run.next_due(), Some(crate::script::START.plus_ms(10_000)));
    world.now = world.now.plus_ms(60_000);
    world.crash();
    world.command(Command::Wake);
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn a_decision_is_never_asked_for_twice() {
    let mut world = World::of_steps(json!([
        {"id": "d", "type": "reasoning", "config": {"prompt_context": "?", "options": [{"id": "y"}]}},
    ]));
    world.quiet();
    world.crash();
    world.expect("-- crash");
    world.signal(SignalType::Decision, "d", json!("y")).unwrap();
    assert_eq!(world.status(), WorkflowStatus::Completed);
}

#[test]
fn a_crash_between_any_two_events_ends_in_the_same_outcome() {
    let source = json!({
        "steps": [
            {"id": "l", "type": "loop", "config": {"mode": "for_each", "over": "[1, 2]", "body": [
                act("s", json!({"compensate": act("undo", json!({}))})),
                {"id": "c", "type": "condition", "config": {"expression": "iter.index == 0",
                    "branches": {"true": [{"id": "w", "type": "wait", "config": {"duration": "1s"}}]}}},
            ]}},
            act("f", json!({"on_error": {"strategy": "fallback_step", "fallback_step": "g"}, "depends_on": ["l"]})),
            act("g", json!({})),
            act("z", json!({"depends_on": ["f"]})),
        ],
        "on_error": act("hook", json!({})),
    });
    let drive = |world: &mut World| {
        for _ in 0..100 {
            if world.status().is_terminal() {
                return;
            }
            match world.doing.keys().next().cloned() {
                Some(step) if step == "f" || step == "z" => {
                    world.fail(&step, opcode_engine::Code::NonRetryable)
                }
                Some(step) => world.finish(&step, json!({"of": step.clone()})),
                None => world.pass(1_000),
            }
        }
        panic!("it does not end: {}", world.shown());
    };
    let mut whole = World::of(source.clone());
    drive(&mut whole);
    assert_eq!(whole.status(), WorkflowStatus::Failed);
    let outputs = |world: &World| {
        let shown = world.shown();
        let steps = shown["steps"].as_object().unwrap().clone();
        steps.into_iter().map(|(id, s)| (id, s["status"].clone(), s["output"].clone())).collect::<Vec<_>>()
    };
    for count in 1..whole.log.len() {
        let mut world = World::of(source.clone());
        drive(&mut world);
        world.crash_at(count);
        drive(&mut world);
        let mut expected = outputs(&whole);
        let mut found = outputs(&world);
        for list in [&mut expected, &mut found] {
            list.retain(|(id, _, _)| !id.ends_with(".w"));
        }
        assert_eq!(expected, found, "cut after {count} events");
        assert_eq!(world.status(), WorkflowStatus::Failed);
    }
}

#[test]
fn a_damaged_log_is_told() {
    let mut world = World::of_steps(json!([
        act("a", json!({})),
        {"id": "l", "type": "loop", "depends_on": ["a"], "config": {"mode": "for_each", "over": "[1]", "body": [act("s", json!({}))]}},
    ]));
    world.finish("a", json!(1));
    world.finish("l.iter_0.s", json!(1));
    let replay = |log: &[Stored]| {
        let events: Vec<_> = log.iter().map(Stored::decoded).collect();
        Run::replay(RunNo(7), world.run.id().clone(), events, &mut |h| world.definitions.get(&h).cloned())
            .map(|_| ())
    };
    assert!(replay(&[]).unwrap_err().contains("empty"));
    assert!(replay(&world.log[1..]).unwrap_err().contains("begins with"));
    for gap in 1..world.log.len() - 1 {
        let mut log = world.log.clone();
        log.remove(gap);
        assert!(replay(&log).unwrap_err().contains("follows"));
        // The same with the sequences mended: what is missing is still missing.
        let mut events: Vec<_> = log.iter().map(Stored::decoded).collect();
        for (n, event) in events.iter_mut().enumerate() {
            event.sequence = Sequence(n as u64 + 1);
        }
        let result = Run::replay(RunNo(7), world.run.id().clone(), events, &mut |h| {
            world.definitions.get(&h).cloned()
        });
        let is_bare_end = matches!(
            world.log[gap].kind(),
            EventType::LoopCompleted | EventType::LoopIterCompleted | EventType::StepCompleted
        );
        assert!(result.is_err() || is_bare_end, "without {:?}", world.log[gap].kind());
    }
    let mut events: Vec<_> = world.log.iter().map(Stored::decoded).collect();
    events[1].step_id = Some("nobody".into());
    let unknown =
        Run::replay(RunNo(7), world.run.id().clone(), events, &mut |h| world.definitions.get(&h).cloned());
    assert!(unknown.unwrap_err().contains("no step nobody"));
    let events: Vec<_> = world.log.iter().map(Stored::decoded).collect();
    assert!(Run::replay(RunNo(7), world.run.id().clone(), events, &mut |_| None).is_err());
}
