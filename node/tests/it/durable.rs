//! What waits outlives the process: decisions, timers, early signals, queued work.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{NodeBuilder, assert_tables_equal_fold};
use crate::service::Service;

fn ask() -> Value {
    json!({"steps": [
        {"id": "ask", "type": "reasoning", "config": {"prompt_context": "yes?",
            "options": [{"id": "yes", "description": "y"}, {"id": "no", "description": "n"}], "timeout": "1h"}},
        {"id": "after", "action": "workflow.log", "depends_on": ["ask"],
            "params": {"message": "chose ${{steps.ask.output.choice}}"}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_asked_before_a_crash_is_answered_after_it() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let builder = NodeBuilder::new(&data);
    let node = builder.start();
    let id = node.submit(&json!({"id": "d-1", "definition": ask()})).await;
    let before = node.settle(&id).await;
    assert_eq!(before["status"], "suspended");
    node.kill();

    let node = builder.start();
    let (_, pending) = node.get("/v1/decisions").await;
    assert_eq!(pending["items"].as_array().unwrap().len(), 1, "{pending}");
    assert_eq!(pending["items"][0]["decision_id"], before["pending_decisions"][0]["decision_id"]);
    let signal = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "maybe"}});
    let (status, refused) = node.post("/v1/workflows/d-1/signals", &signal).await;
    assert_eq!((status, &refused["code"]), (422, &json!("VALIDATION_ERROR")), "{refused}");
    let signal =
        json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}, "signal_id": "s-1"});
    let (status, first) = node.post("/v1/workflows/d-1/signals", &signal).await;
    assert_eq!(status, 202, "{first}");
    let (status, again) = node.post("/v1/workflows/d-1/signals", &signal).await;
    assert_eq!((status, &again["sequence"]), (202, &first["sequence"]), "delivered once");
    let run = node.end(&id).await;
    assert_eq!(run["steps"]["after"]["output"]["message"], "chose yes", "{run:#}");
    let signal = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "no"}});
    let (status, _) = node.post("/v1/workflows/d-1/signals", &signal).await;
    assert_eq!(status, 409);
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_interrupted_by_a_crash_ends_on_time() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let builder = NodeBuilder::new(&data);
    let node = builder.start();
    let definition = json!({"steps": [{"id": "nap", "type": "wait", "config": {"duration": "2s"}}]});
    // Before it is sent: its answer may take a while to come.
    let begun = Instant::now();
    let id = node.submit(&json!({"definition": definition})).await;
    node.kill();
    let node = builder.start();
    let run = node.end(&id).await;
    let took = begun.elapsed();
    assert_eq!(run["status"], "completed", "{run:#}");
    let waited = run["steps"]["nap"]["output"]["waited"].as_u64().expect("milliseconds");
    assert!((2_000..4_000).contains(&waited), "waited {waited} ms");
    assert!(took >= Duration::from_millis(1_900), "it ended {took:?} after it was sent");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_signal_is_kept_across_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let builder = NodeBuilder::new(&data);
    let node = builder.start();
    let definition = json!({"steps": [
        {"id": "first", "type": "reasoning", "config": {"prompt_context": "go?", "options": []}},
        {"id": "gate", "type": "wait", "depends_on": ["first"], "config": {"signal": "paid"}}]});
    let id = node.submit(&json!({"definition": definition})).await;
    node.settle(&id).await;
    let early = json!({"type": "data", "step_id": "paid", "payload": {"amount": 12345678901234567890u64}});
    let (status, body) = node.post(&format!("/v1/workflows/{id}/signals"), &early).await;
    assert_eq!(status, 202, "{body}");
    node.kill();
    let node = builder.start();
    let go = json!({"type": "decision", "step_id": "first", "payload": {"choice": "on"}});
    let (status, body) = node.post(&format!("/v1/workflows/{id}/signals"), &go).await;
    assert_eq!(status, 202, "{body}");
    let run = node.end(&id).await;
    assert_eq!(
        run["steps"]["gate"]["output"]["payload"]["amount"],
        json!(12345678901234567890u64),
        "{run:#}"
    );
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drains_and_a_start_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let service = Service::start().await;
    let builder = NodeBuilder::new(&data).arg("--pool-size").arg("2");
    let node = builder.start();
    let definition = json!({"steps": [
        {"id": "a", "action": "http.post", "params": {"url": service.url("a"), "body": {}}},
        {"id": "b", "action": "http.post", "depends_on": ["a"], "params": {"url": service.url("b"), "body": {}}}]});
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(node.submit(&json!({"definition": definition})).await);
    }
    let stopping = Instant::now();
    assert!(node.stop().success());
    assert!(stopping.elapsed() < Duration::from_secs(10), "a stop takes {:?}", stopping.elapsed());
    assert_tables_equal_fold(&data);
    let node = builder.start();
    for id in &ids {
        assert_eq!(node.end(id).await["status"], "completed");
    }
    // An orderly stop lets steps in flight end, so nothing was done twice.
    assert_eq!(service.calls().await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_folder_has_one_process() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = NodeBuilder::new(&data).start();
    let second = crate::cluster::opcode()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("is in use by another process"), "{words}");
    assert!(node.stop().success());
}

/// Resident memory of a process, in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_runs_leave_memory_and_come_back() {
    let count: usize =
        std::env::var("OPCODE_TEST_SUSPENDED").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let builder = NodeBuilder::new(&data);
    let node = builder.start();
    for first in (0..count).step_by(1_000) {
        let workflows: Vec<Value> = (first..(first + 1_000).min(count))
            .map(|n| json!({"id": format!("w-{n}"), "definition": ask()}))
            .collect();
        let (status, answer) = node.post("/v1/workflows/batch", &json!({"workflows": workflows})).await;
        assert_eq!(status, 200, "{answer}");
    }
    let deadline = Instant::now() + crate::cluster::PATIENCE;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        let (_, cluster) = node.get("/metrics").await;
        let text = cluster.as_str().unwrap_or_default().to_owned();
        let held: f64 = text
            .lines()
            .filter(|line| line.starts_with("opcode_runs_in_memory"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        if text.contains("opcode_runs_in_memory") && held == 0.0 {
            break;
        }
        assert!(Instant::now() < deadline, "runs stay in memory: {held}");
        tick.tick().await;
    }
    println!("{count} suspended: {} MB resident", resident_bytes(node.pid()) / 1_000_000);
    assert!(resident_bytes(node.pid()) < 300_000_000);
    node.kill();
    let begun = Instant::now();
    let node = builder.start();
    println!("ready {:?} after the start", begun.elapsed());
    println!("{} MB resident then", resident_bytes(node.pid()) / 1_000_000);
    let last = format!("w-{}", count - 1);
    let signal = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    let (status, body) = node.post(&format!("/v1/workflows/{last}/signals"), &signal).await;
    assert_eq!(status, 202, "{body}");
    assert_eq!(node.end(&last).await["status"], "completed");
}
