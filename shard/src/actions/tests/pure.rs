//! Pure actions in the loop and in a worker, and what holds for every action.

use super::*;

fn actions() -> Arc<Actions> {
    Actions::new(options(Path::new("/")))
}

#[tokio::test]
async fn pure_actions_run_in_place_and_in_a_worker_alike() {
    let actions = actions();
    let table = [
        ("crypto.hash", json!({"data": "abc", "algorithm": "md5"})),
        ("crypto.encode", json!({"data": "abc"})),
        ("assert.equal", json!({"expected": 1, "actual": 1.0})),
        ("assert.equals", json!({"expected": 1, "actual": 2})),
        ("workflow.log", json!({"message": "hello", "level": "debug", "more": [1]})),
        ("workflow.emit", json!({"event": "x", "data": 1})),
        ("workflow.context", json!({"name": "x", "value": 1})),
        ("workflow.fail", json!({"reason": "x"})),
        ("workflow.notify", json!({"message": "x", "data": 1})),
    ];
    for (action, params) in table {
        let inline = actions.run_pure(&call(action, params.clone())).expect("it runs in place");
        let worker = actions.run(call(action, params)).await;
        assert_eq!((inline.result, inline.emissions), (worker.result, worker.emissions), "{action}");
    }
}

#[test]
fn workflow_fail_fails_the_run() {
    let params = json!({"message": "no stock", "details": {"n": 0}});
    let outcome = actions().run_pure(&call("workflow.fail", params)).unwrap();
    let fault = outcome.result.unwrap_err();
    assert_eq!((fault.code, fault.message.as_str()), (Code::NonRetryable, "no stock"));
    assert_eq!(outcome.emissions, [Emission::FailRun(fault)]);
}

#[tokio::test]
async fn what_takes_long_goes_to_a_worker() {
    let actions = actions();
    let long = json!({"data": "x".repeat(40_000)});
    assert!(actions.run_pure(&call("crypto.hash", long.clone())).is_none());
    assert!(run(&actions, "crypto.hash", long).await.is_ok());
    let schema = json!({"data": {}, "schema": {"type": "object"}});
    assert!(actions.run_pure(&call("assert.schema", schema.clone())).is_none());
    assert_eq!(run(&actions, "assert.schema", schema).await.unwrap(), json!({"pass": true}));
    for action in ["jq", "http.get", "fs.read", "shell.exec", "workflow.run", "no.such"] {
        assert!(actions.run_pure(&call(action, json!({}))).is_none(), "{action}");
    }
}

#[tokio::test]
async fn actions_that_are_not_there_say_so() {
    let actions = actions();
    for action in ["workflow.run", "fs.shred", "nothing", "crypto.mine"] {
        assert_eq!(code(&actions, action, json!({})).await, Code::ActionUnavailable, "{action}");
    }
}

#[tokio::test]
async fn outputs_and_details_are_bounded() {
    let actions = actions();
    let long = json!({"data": "x".repeat(1_000_000)});
    let fault = run(&actions, "crypto.encode", long).await.unwrap_err();
    assert_eq!(fault.code, Code::NonRetryable);
    let event = json!({"event": "x", "data": "x".repeat(2_000_000)});
    assert_eq!(code(&actions, "workflow.emit", event).await, Code::NonRetryable);
    let unequal = json!({"expected": "é".repeat(100_000), "actual": 1});
    let fault = run(&actions, "assert.equals", unequal).await.unwrap_err();
    assert_eq!((fault.code, &fault.details["is_cut"]), (Code::AssertionFailed, &json!(true)));
    assert!(fault.details.to_string().len() < 10_000);
}

#[tokio::test]
async fn params_of_any_shape_are_no_panic() {
    let actions = actions();
    let shapes =
        [json!(null), json!([]), json!("x"), json!({"path": 1, "url": {}, "command": [], "data": null})];
    for action in opcode_engine::catalogue::ACTIONS {
        for params in &shapes {
            let outcome = actions.run(call(action.name, params.clone())).await;
            let message = outcome.result.err().map(|f| f.message).unwrap_or_default();
            assert!(!message.contains("fault of its own"), "{} {params}: {message}", action.name);
        }
    }
}
