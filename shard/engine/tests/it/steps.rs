//! Scripts of what single steps and chains of them do.

use opcode_engine::Code;
use serde_json::json;

use crate::script::World;

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
    let _ = Code::StepFailed;
}
