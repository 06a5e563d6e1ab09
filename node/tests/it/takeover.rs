//! What a leader had under way when it was killed, or stood still for ten seconds: steps are tried
//! again under the same key once it must have stopped, timers and decisions carry on elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opcode_engine::ids::WorkflowId;
use opcode_router::placement::shard_of;
use serde_json::{Value, json};

use crate::cluster::{Node, PATIENCE};
use crate::many::{Builders, SHARDS, all_shards, in_sync, wait_for};
use crate::service::{Call, Service};

const RUNS: usize = 24;
/// Steps of each run that tell the service.
const POSTS: [&str; 3] = ["before", "timed", "decided"];
/// How long a leader stands still.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Steps that one node runs at a time: what may be in its hands when it is stopped.
const POOL: usize = 10;
/// A leader that has not heard a majority for this long starts no step.
const QUORUM_MS_MAX: u128 = 1_500;

/// A post, a timer, a post, a decision, a post.
fn definition(service: &Service) -> Value {
    let post = |id: &str, before: &[&str]| {
        json!({"id": id, "action": "http.post", "depends_on": before,
               "params": {"url": service.url("slow"), "body": {"run": "${{workflow.run_id}}", "step": id}}})
    };
    json!({"steps": [
        post("before", &[]),
        {"id": "timer", "type": "wait", "depends_on": ["before"], "config": {"duration": "1s"}},
        post("timed", &["timer"]),
        {"id": "ask", "type": "reasoning", "depends_on": ["timed"],
         "config": {"prompt_context": "Go on?", "options": [{"id": "yes"}, {"id": "no"}]}},
        post("decided", &["ask"]),
    ]})
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()
}

fn key(call: &Call) -> String {
    call.idempotency_key.clone().expect("every post has a key")
}

/// A cluster in which some leader has steps under way.
struct Scene {
    nodes: Vec<Node>,
    victim: usize,
    ids: Vec<String>,
    service: Service,
    /// Keys of steps that the victim had in its hands.
    in_flight: BTreeSet<String>,
    _dir: tempfile::TempDir,
}

impl Scene {
    /// Starts runs everywhere, and returns when a call of one that the victim leads has just come.
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::start().await;
        let nodes = Builders::new(dir.path()).start().await;
        let cluster = wait_for(&nodes[0], "every node leads a shard", |cluster| {
            all_shards(cluster).iter().map(|s| s["primary"].to_string()).collect::<BTreeSet<_>>().len() == 3
        })
        .await;
        let leads = |node: usize, shard: u32| {
            cluster["shards"][shard as usize]["primary"] == (node + 1).to_string().as_str()
        };
        let shards = u32::try_from(SHARDS).expect("a few");
        let victim = (0..3).find(|node| (0..shards).any(|shard| leads(*node, shard))).expect("one");
        let asked = &nodes[(victim + 1) % 3];
        let mut ids = Vec::new();
        for n in 0..RUNS {
            let id = format!("t-{n}");
            ids.push(asked.submit(&json!({"id": id, "definition": definition(&service)})).await);
        }
        let led_by_victim = |call: &Call| {
            let id = WorkflowId::parse(call.body["run"].as_str().expect("a run")).expect("a valid id");
            leads(victim, shard_of(&id, shards).0)
        };
        let deadline = Instant::now() + PATIENCE;
        let in_flight = loop {
            let fresh = now_ms() - 100;
            let calls = service.calls().await;
            let in_flight: BTreeSet<String> =
                calls.iter().filter(|call| call.at_ms > fresh && led_by_victim(call)).map(key).collect();
            if !in_flight.is_empty() {
                break in_flight;
            }
            assert!(Instant::now() < deadline, "node {victim} runs nothing");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        Self { nodes, victim, ids, service, in_flight, _dir: dir }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.nodes[self.victim].pid().try_into().expect("a process id fits");
        kill(Pid::from_raw(pid), signal).expect("a child can be signalled");
    }

    /// Sees every run to its end by way of a node that lives, and checks what it came to.
    async fn see_through(&self) {
        let asked = &self.nodes[(self.victim + 1) % 3];
        for id in &self.ids {
            let run = asked.settle(id).await;
            assert_eq!(run["status"], "suspended", "{run:#}");
            let decision = &run["pending_decisions"][0]["decision_id"];
            let signal = json!({"type": "decision", "step_id": "ask", "signal_id": format!("{id}-yes"),
                "payload": {"choice": "yes", "decision_id": decision}});
            let (status, answer) = asked.post(&format!("/v1/workflows/{id}/signals"), &signal).await;
            assert_eq!(status, 202, "{answer}");
        }
        for id in &self.ids {
            let run = asked.end(id).await;
            assert_eq!(run["status"], "completed", "{run:#}");
            let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
            for event in asked.events(id).await {
                let counts = ["step_completed", "decision_requested", "decision_resolved"];
                if counts.contains(&event["type"].as_str().expect("a type")) {
                    let what = format!("{}/{}", event["type"], event["step_id"]);
                    *outcomes.entry(what).or_default() += 1;
                }
            }
            assert_eq!(outcomes.len(), POSTS.len() + 4, "{id}: {outcomes:?}");
            assert!(outcomes.values().all(|count| *count == 1), "{id}: {outcomes:?}");
        }
    }

    /// The service saw one key for each logical step, and what was in flight at `stopped_ms` again,
    /// not before the leader that had started it must have stopped.
    async fn assert_calls(&self, stopped_ms: u128) -> Vec<Call> {
        let calls = self.service.calls().await;
        let wanted: BTreeSet<String> =
            self.ids.iter().flat_map(|id| POSTS.map(|step| format!("{id}/{step}"))).collect();
        assert_eq!(calls.iter().map(key).collect::<BTreeSet<_>>(), wanted);
        for key_in_flight in &self.in_flight {
            let mut again =
                calls.iter().filter(|call| call.at_ms > stopped_ms && key(call) == *key_in_flight);
            let again = again.next().unwrap_or_else(|| panic!("{key_in_flight} was not tried again"));
            let after = again.at_ms - stopped_ms;
            assert!(after >= QUORUM_MS_MAX, "{key_in_flight} was tried again after {after} ms");
        }
        calls
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_a_leader_that_is_killed_are_tried_again_under_the_same_key() {
    let mut scene = Scene::set().await;
    scene.signal(Signal::SIGKILL);
    let stopped_ms = now_ms();
    scene.see_through().await;
    scene.assert_calls(stopped_ms).await;
    scene.nodes.remove(scene.victim).kill();
    for node in scene.nodes {
        assert!(node.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_starts_nothing_when_it_wakes() {
    let scene = Scene::set().await;
    scene.signal(Signal::SIGSTOP);
    let (stopped, stopped_ms) = (Instant::now(), now_ms());
    scene.see_through().await;
    // The standstill itself is what is tried here: there is nothing to wait for.
    tokio::time::sleep_until((stopped + STANDSTILL).into()).await;
    let woken_ms = now_ms();
    scene.signal(Signal::SIGCONT);
    let back = &scene.nodes[scene.victim];
    wait_for(back, "the node that stood still has caught up", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
    let calls = scene.assert_calls(stopped_ms).await;
    let late = calls.iter().filter(|call| call.at_ms >= woken_ms).map(key).collect::<Vec<_>>();
    assert!(late.len() <= POOL, "more than was on its way: {late:?}");
    // It does its part again.
    let id = back.submit(&json!({"id": "afterwards", "definition": definition(&scene.service)})).await;
    assert_eq!(back.settle(&id).await["status"], "suspended");
    for node in scene.nodes {
        assert!(node.stop().success());
    }
}
