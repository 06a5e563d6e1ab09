//! Scripts of `workflow.run`: what a step and its child have to say to each other, said once
//! whatever comes twice, late or never.

use opcode_engine::Code;
use opcode_engine::Fault;
use opcode_engine::child::{self, Outcome, Owed, Parent, child_id};
use opcode_engine::command::{Command, Emission, SignalType};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::WorkflowId;
use serde_json::{Value, json};

use crate::script::{World, because};
use crate::steps::act;

fn run(id: &str, more: Value) -> Value {
    let mut step = json!({"id": id, "action": "workflow.run", "params": {"template_name": "t"}});
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

fn started(world: &mut World, step: &str) {
    let handle = world.doing[step];
    world.command(Command::ChildStarted(handle));
}

fn ended(world: &mut World, step: &str, attempt: u32, outcome: Outcome) {
    let child = child_id(world.run.id(), step, attempt);
    world.command(Command::ChildEnded { child, step_id: step.into(), attempt, outcome });
}

fn completed(output: Value) -> Outcome {
    Outcome::Completed(output.into())
}

/// The messages that the run's events leave owed, in order.
fn owed(world: &World) -> Vec<Owed> {
    world.log.iter().filter_map(|stored| child::owed(&stored.decoded())).collect()
}

fn called_off(world: &World) -> Vec<String> {
    let name = |owed: Owed| match owed {
        Owed::CallOff { child, .. } => child.to_string(),
        Owed::Ended { .. } => panic!("no run started it"),
    };
    owed(world).into_iter().map(name).collect()
}

#[test]
fn a_step_waits_for_its_child_and_takes_its_output() {
    let mut world = World::of_steps(json!([run("a", json!({}))]));
    let why = world.run.why(world.now);
    assert_eq!((&why[0]["kind"], &why[0]["child"]), (&json!("child"), &json!("wf:a:1")));
    started(&mut world, "a");
    assert_eq!(world.status(), WorkflowStatus::Active);
    assert_eq!(world.step("a")["child"], "wf:a:1");
    ended(&mut world, "a", 1, completed(json!({"n": 1})));
    ended(&mut world, "a", 1, Outcome::Cancelled(None));
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1
        wait_started a child="wf:a:1"
        step_completed a output={"n":1}
        workflow_completed output={"a":{"n":1}}
        "#,
    );
    assert!(called_off(&world).is_empty());
}

#[test]
fn a_child_may_be_quicker_than_the_answer_to_its_start() {
    let mut world = World::of_steps(json!([run("a", json!({}))]));
    let handle = world.doing["a"];
    ended(&mut world, "a", 1, completed(json!(1)));
    world.command(Command::ChildStarted(handle));
    assert_eq!(world.status(), WorkflowStatus::Completed);
    assert_eq!(world.abandoned, ["a"]);
    assert!(called_off(&world).is_empty());
}

#[test]
fn a_step_that_does_not_wait_ends_with_the_start() {
    let mut world = World::of_steps(json!([run("a", json!({}))]));
    world.finish("a", json!({"workflow_id": "wf:a:1"}));
    assert_eq!(world.output(), json!({"a": {"workflow_id": "wf:a:1"}}));
    assert!(called_off(&world).is_empty());
}

#[test]
fn a_failed_child_is_followed_by_another_one_when_the_step_is_retried() {
    let retry = json!({"retry": {"max": 1, "backoff": "constant", "delay": "1s"}});
    let mut world = World::of_steps(json!([run("a", retry)]));
    started(&mut world, "a");
    ended(&mut world, "a", 1, Outcome::Failed(Fault::new(Code::ExecutionError, "no")));
    world.pass(1_000);
    // A late repetition of the first child's end is none of the second's.
    ended(&mut world, "a", 1, Outcome::Failed(Fault::new(Code::ExecutionError, "no")));
    assert_eq!(world.step("a")["child"], "wf:a:2");
    started(&mut world, "a");
    ended(&mut world, "a", 2, completed(json!(2)));
    world.expect(
        r#"
        workflow_started
        step_started a attempt=1
        wait_started a child="wf:a:1"
        step_retrying a at="+1000" attempt=2 error="EXECUTION_ERROR"
        step_retry_attempt a attempt=2
        wait_started a child="wf:a:2"
        step_completed a output=2
        workflow_completed output={"a":2}
        "#,
    );
    assert!(called_off(&world).is_empty());
}

#[test]
fn what_never_gets_better_is_not_tried_again() {
    for outcome in [
        Outcome::Failed(Fault::new(Code::ValidationError, "no")),
        Outcome::Failed(Fault::new(Code::NonRetryable, "no")),
        Outcome::Cancelled(Some("enough".into())),
    ] {
        let mut world = World::of_steps(json!([run("a", json!({"retry": {"max": 3}}))]));
        started(&mut world, "a");
        ended(&mut world, "a", 1, outcome);
        assert_eq!(world.status(), WorkflowStatus::Failed);
    }
    let mut world = World::of_steps(json!([run("a", json!({"retry": {"max": 3}}))]));
    world.fail("a", Code::NotFound);
    assert_eq!(world.error_code(), "NOT_FOUND");
    assert!(called_off(&world).is_empty(), "what was not started is not called off");
}

#[test]
fn an_attempt_that_is_given_up_calls_its_child_off() {
    // By a timeout, started or not; the retry has a child of its own.
    let timed = json!({"timeout": "2s", "retry": {"max": 1}});
    for is_started in [true, false] {
        let mut world = World::of_steps(json!([run("a", timed.clone())]));
        if is_started {
            started(&mut world, "a");
        }
        world.pass(2_000);
        assert_eq!(called_off(&world), ["wf:a:1"]);
        assert_eq!(world.step("a")["child"], "wf:a:2");
        world.pass(2_000);
        assert_eq!(called_off(&world), ["wf:a:1", "wf:a:2"]);
        assert_eq!(world.status(), WorkflowStatus::Failed);
    }
    // By a cancellation, a signal, a lost race, a failure beside it, an ignored timeout.
    let mut world = World::of_steps(json!([run("a", json!({})), act("b", json!({}))]));
    world.command(Command::Cancel(because("enough")));
    assert_eq!(called_off(&world), ["wf:a:1"]);
    let mut world = World::of_steps(json!([run("a", json!({}))]));
    world.signal(SignalType::Skip, "a", Value::Null).unwrap();
    assert_eq!(called_off(&world), ["wf:a:1"]);
    let branches = json!({"mode": "race", "branches": [[run("a", json!({}))], [act("b", json!({}))]]});
    let mut world = World::of_steps(json!([{"id": "r", "type": "parallel", "config": branches}]));
    world.finish("r.branch_1.b", json!(1));
    assert_eq!(called_off(&world), ["wf:r.branch_0.a:1"]);
    let mut world = World::of_steps(json!([run("a", json!({})), act("b", json!({}))]));
    world.fail("b", Code::NonRetryable);
    assert_eq!(called_off(&world), ["wf:a:1"]);
    let ignored = json!({"timeout": "2s", "on_error": {"strategy": "ignore"}});
    let mut world = World::of_steps(json!([run("a", ignored)]));
    world.pass(2_000);
    assert_eq!((called_off(&world), world.status()), (vec!["wf:a:1".into()], WorkflowStatus::Completed));
}

#[test]
fn a_crash_sends_the_start_again_and_tries_no_other_child() {
    let mut world = World::of_steps(json!([run("a", json!({})), run("b", json!({}))]));
    started(&mut world, "a");
    assert!(!world.run.was_interrupted());
    world.crash();
    assert_eq!(world.doing.keys().collect::<Vec<_>>(), ["b"], "what waits for its child is not sent again");
    started(&mut world, "b");
    ended(&mut world, "a", 1, completed(json!(1)));
    ended(&mut world, "b", 1, completed(json!(2)));
    assert_eq!(world.output(), json!({"a": 1, "b": 2}));
    assert!(!world.trace().contains("interrupted"), "{}", world.trace());
}

#[test]
fn a_run_that_is_run_again_has_new_children() {
    let mut world = World::of_steps(json!([run("a", json!({}))]));
    started(&mut world, "a");
    ended(&mut world, "a", 1, Outcome::Failed(Fault::new(Code::ExecutionError, "no")));
    let retry = Command::Retry { from_step: None, params: None, definition: None, reason: because("again") };
    world.command(retry);
    ended(&mut world, "a", 1, completed(json!(1)));
    assert_eq!(world.status(), WorkflowStatus::Active);
    ended(&mut world, "a", 2, completed(json!(2)));
    assert_eq!(world.output(), json!({"a": 2}));
}

fn parent(waits: bool) -> Box<Parent> {
    let workflow_id = WorkflowId::parse("above").unwrap();
    Box::new(Parent { workflow_id, step_id: "s".into(), attempt: 3, depth: 1, waits })
}

#[test]
fn a_child_owes_its_parent_its_end_when_that_waits() {
    let source = json!({"steps": [act("a", json!({}))]});
    type End = fn(&mut World);
    let ends: [(End, Outcome); 3] = [
        (|world| world.finish("a", json!(1)), completed(json!({"a": 1}))),
        (
            |world| {
                let fault = Fault::new(Code::NonRetryable, "no");
                world.end("a", Ok(Value::Null), vec![Emission::FailRun(fault)]);
            },
            Outcome::Failed(Fault { step_id: Some("a".into()), ..Fault::new(Code::NonRetryable, "no") }),
        ),
        (
            |world| {
                world.command(Command::Cancel(because("x")));
            },
            Outcome::Cancelled(Some("x".into())),
        ),
    ];
    for (end, outcome) in ends {
        for waits in [true, false] {
            let mut world = World::start(&source, json!({}), |start| start.parent = Some(parent(waits)));
            assert_eq!(world.shown()["parent"]["workflow_id"], "above");
            end(&mut world);
            let parent = *parent(true);
            let message = Owed::Ended { parent, outcome: outcome.clone() };
            assert_eq!(owed(&world), if waits { vec![message] } else { Vec::new() });
        }
    }
}

#[test]
fn a_child_that_is_called_off_is_cancelled_once() {
    let undo = json!({"compensate": act("undo", json!({}))});
    let mut first = act("a", json!({}));
    first.as_object_mut().unwrap().extend(undo.as_object().unwrap().clone());
    let source = json!({"steps": [first, {"id": "b", "action": "http.get", "depends_on": ["a"],
        "params": {"url": "http://x"}}]});
    let mut world = World::start(&source, json!({}), |start| start.parent = Some(parent(true)));
    world.finish("a", json!(1));
    let stranger = Parent { attempt: 4, ..*parent(true) };
    world.command(Command::CalledOff(stranger));
    assert_eq!(world.status(), WorkflowStatus::Active);
    for _ in 0..2 {
        world.command(Command::CalledOff(*parent(true)));
        assert_eq!(world.status(), WorkflowStatus::Active, "a repetition cuts no compensation short");
    }
    world.finish("a.compensate.undo", json!(1));
    assert_eq!(world.status(), WorkflowStatus::Cancelled);
    world.command(Command::CalledOff(*parent(true)));
    assert_eq!(owed(&world).len(), 1);
}
