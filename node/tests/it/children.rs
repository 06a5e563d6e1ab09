//! Children on real nodes: each started once and told once, whoever dies on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use opcode_engine::ids::WorkflowId;
use opcode_router::placement::shard_of;
use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE};
use crate::many::{Builders, SHARDS, all_shards, in_sync, wait_for};
use crate::service::Service;

/// Steps of a child, each of which tells the service.
const POSTS: usize = 3;

/// A template whose runs tell the service, step by step.
fn child_template(service: &Service) -> Value {
    let post = |n: usize| {
        let before: Vec<String> = n.checked_sub(1).map(|n| format!("s{n}")).into_iter().collect();
        json!({"id": format!("s{n}"), "action": "http.post", "depends_on": before,
               "params": {"url": service.url("sink"), "body": {"run": "${{workflow.run_id}}", "step": n}},
               "retry": {"max": 5, "backoff": "constant", "delay": "50ms"}})
    };
    json!({"name": "child", "definition": {"steps": (0..POSTS).map(post).collect::<Vec<_>>(),
        "output": {"of": "${{inputs.of}}"}}})
}

/// A parent with one child that it waits for and one that it does not.
fn parent(id: &str) -> Value {
    let run = |step: &str, wait: bool| {
        json!({"id": step, "action": "workflow.run",
               "params": {"template_name": "child", "params": {"of": step}, "wait": wait}})
    };
    json!({"id": id, "definition": {"steps": [run("waits", true), run("leaves", false)]}})
}

async fn define(node: &Node, service: &Service) {
    let (status, answer) = node.post("/v1/templates", &child_template(service)).await;
    assert!(status == 201 || status == 200, "{status}: {answer}");
}

/// Submits parents to nodes that may die; what was refused or lost is sent again.
async fn submit(node: &Node, ids: &[String]) -> BTreeSet<String> {
    let mut taken = BTreeSet::new();
    for id in ids {
        if let Ok((200 | 201, _)) = node.try_post("/v1/workflows", &parent(id)).await {
            taken.insert(id.clone());
        }
    }
    taken
}

/// Submits parents until all of them are acknowledged.
async fn submit_all(node: &Node, ids: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    let mut left: Vec<String> = ids.to_vec();
    while !left.is_empty() {
        let taken = submit(node, &left).await;
        left.retain(|id| !taken.contains(id));
        assert!(Instant::now() < deadline, "not acknowledged: {left:?}");
    }
}

/// Ids of all runs of a template.
async fn ids_of(node: &Node, template: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut path = format!("/v1/workflows?template={template}&limit=200");
    loop {
        let (status, page) = node.get(&path).await;
        assert_eq!(status, 200, "{page}");
        assert!(page.get("unreachable_shards").is_none_or(Value::is_null), "{page}");
        let items = page["items"].as_array().expect("items");
        ids.extend(items.iter().map(|run| run["workflow_id"].as_str().expect("an id").to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { return ids };
        path = format!("/v1/workflows?template={template}&limit=200&cursor={cursor}");
    }
}

/// Every parent has completed with its children's outputs, each child was started once and has one
/// outcome a step, and the service knows no other.
async fn assert_families(node: &Node, ids: &[String], service: &Service) {
    let mut wanted = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for id in ids {
        let run = node.end(id).await;
        assert_eq!(run["status"], "completed", "{run:#}");
        let left = json!({"workflow_id": format!("{id}:leaves:1")});
        assert_eq!(run["output"], json!({"waits": {"of": "waits"}, "leaves": left}), "{run:#}");
        for step in ["waits", "leaves"] {
            let child = format!("{id}:{step}:1");
            let run = node.end(&child).await;
            assert_eq!(run["status"], "completed", "{run:#}");
            assert_eq!(run["parent"], json!({"workflow_id": id, "step_id": step, "attempt": 1}));
            let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
            for event in node.events(&child).await {
                if event["type"] == "step_completed" {
                    *outcomes.entry(event["step_id"].as_str().expect("a step").into()).or_default() += 1;
                }
            }
            assert_eq!(outcomes.len(), POSTS, "{run:#}");
            assert!(outcomes.values().all(|count| *count == 1), "{child}: {outcomes:?}");
            keys.extend((0..POSTS).map(|n| format!("{child}/s{n}")));
            wanted.insert(child);
        }
        let ends = node.events(id).await;
        let ends: Vec<&Value> = ends.iter().filter(|event| event["type"] == "step_completed").collect();
        assert_eq!(ends.len(), 2, "{ends:?}");
    }
    let found = ids_of(node, "child").await;
    assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len(), "a child twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    let calls = service.calls().await;
    let called: BTreeSet<String> =
        calls.iter().map(|call| call.idempotency_key.clone().expect("every post has a key")).collect();
    assert_eq!(called, keys, "one key a logical step, and no other");
}

/// Waits until the service has been called `count` times in all.
async fn called(service: &Service, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while service.calls().await.len() < count {
        assert!(Instant::now() < deadline, "the service is not called");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn shard(id: &str) -> u32 {
    shard_of(&WorkflowId::parse(id).expect("a valid id"), u32::try_from(SHARDS).expect("a few")).0
}

/// Ids of parents in one shard whose children are in another.
fn ids_between(name: &str, from: u32, to: u32, count: usize) -> Vec<String> {
    let fits = |id: &String| {
        shard(id) == from && ["waits", "leaves"].iter().all(|step| shard(&format!("{id}:{step}:1")) == to)
    };
    (0..).map(|n| format!("{name}-{n}")).filter(fits).take(count).collect()
}

/// The place of the node that leads a shard, among all that were started.
fn leader(cluster: &Value, shard: u32) -> usize {
    let primary = cluster["shards"][shard as usize]["primary"].as_str().expect("it is led");
    primary.parse::<usize>().expect("a number") - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_run_once_over_the_death_of_either_leader() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start().await;
    let mut builders = Builders::new(dir.path());
    let mut nodes: Vec<Option<Node>> = builders.start().await.into_iter().map(Some).collect();
    define(nodes[0].as_ref().expect("it runs"), &service).await;
    let mut all = Vec::new();
    for (round, kills_parents) in [true, false].into_iter().enumerate() {
        let somebody = nodes[0].as_ref().expect("it runs");
        let cluster = wait_for(somebody, "shards are led by several nodes", |cluster| {
            let shards = all_shards(cluster);
            shards.iter().all(|shard| shard["primary"].is_string() && in_sync(shard).len() == 3)
                && (1..SHARDS as u32).any(|shard| leader(cluster, shard) != leader(cluster, 0))
        })
        .await;
        let to =
            (1..SHARDS as u32).find(|shard| leader(&cluster, *shard) != leader(&cluster, 0)).expect("one");
        let victim = leader(&cluster, if kills_parents { 0 } else { to });
        let other = (0..3).find(|n| *n != victim).expect("one of three");
        let ids = ids_between(&format!("r{round}"), 0, to, 30);
        let before = service.calls().await.len();
        let taken = {
            let asked = nodes[other].as_ref().expect("it runs");
            submit(asked, &ids[..20]).await
        };
        assert!(!taken.is_empty(), "a cluster that is well takes some");
        called(&service, before + 5).await;
        nodes[victim].take().expect("it runs").kill();
        let asked = nodes[other].as_ref().expect("it runs");
        submit_all(asked, &ids).await;
        all.extend(ids);
        assert_families(asked, &all, &service).await;
        nodes[victim] = Some(builders.0[victim].start());
    }
    for node in nodes.into_iter().flatten() {
        assert!(node.stop().success());
    }
}

/// One node that stops itself at a point between two shards, and goes on when it is started again.
#[cfg(feature = "crash-points")]
async fn crash_at(point: &str, count: usize) {
    use crate::cluster::assert_tables_equal_fold;

    let home = tempfile::tempdir().unwrap();
    let (data, service) = (home.path().join("data"), Service::start().await);
    let builder = NodeBuilder::new(&data).arg("--shards").arg("2");
    // The definition is there before: the point is to be passed with all of them on the way.
    let node = builder.start();
    define(&node, &service).await;
    assert!(node.stop().success());
    let ids: Vec<String> = (0..12).map(|n| format!("p-{n}")).collect();
    let mut node = builder.clone_with("OPCODE_CRASH_AT", format!("{point}:{count}")).start();
    let taken = submit(&node, &ids).await;
    let deadline = Instant::now() + PATIENCE;
    while !node.has_ended() {
        assert!(Instant::now() < deadline, "{point}:{count} is not passed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(node);
    let node = builder.start();
    for id in &taken {
        assert_eq!(node.get(&format!("/v1/workflows/{id}")).await.0, 200, "{point}:{count}: {id} is lost");
    }
    submit_all(&node, &ids).await;
    assert_families(&node, &ids, &service).await;
    assert!(node.stop().success(), "{point}:{count}");
    assert_tables_equal_fold(&data);
}

#[cfg(feature = "crash-points")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_between_two_shards_loses_and_doubles_nothing() {
    for point in opcode_shard::crash::CHILD_POINTS {
        for count in [1, 2, 9] {
            crash_at(point, count).await;
        }
    }
}
