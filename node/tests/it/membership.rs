//! Real nodes come and go under load: no run is lost, none is doubled, and no shard ever has fewer
//! voters that live than it needs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE, opcode};
use crate::many::{Builders, Load, all_complete, all_shards, free_port, in_sync, wait_for};

fn ids(list: &Value, name: &str) -> BTreeSet<String> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item[name].as_str().unwrap_or_default().to_owned()).collect()
}

fn set(nodes: &[u64]) -> BTreeSet<String> {
    nodes.iter().map(u64::to_string).collect()
}

/// The cluster is `nodes` and nobody else, each shard is where it shall be, whole, and nothing is
/// under way.
fn is_settled(cluster: &Value, nodes: &[u64]) -> bool {
    ids(&cluster["members"], "node_id") == set(nodes)
        && all_shards(cluster).iter().all(|shard| {
            let placed = shard["placed"].as_array().into_iter().flatten();
            let placed: BTreeSet<String> = placed.map(|n| n.as_str().unwrap().to_owned()).collect();
            let replicas = shard["replicas"].as_array().unwrap();
            shard["doing"].is_null()
                && placed.len() >= nodes.len().min(3)
                && ids(&shard["replicas"], "node_id") == placed
                && in_sync(shard).len() == placed.len()
                && replicas.iter().all(|replica| replica["role"] == "voter")
        })
}

fn voters(cluster: &Value) -> usize {
    cluster["members"].as_array().unwrap().iter().filter(|member| member["role"] == "voter").count()
}

/// Waits until the cluster is these nodes and so many of them vote on the map.
async fn settled(node: &Node, nodes: &[u64], count: usize) -> Value {
    let what = format!("the cluster is settled on {nodes:?}");
    wait_for(node, &what, |cluster| is_settled(cluster, nodes) && voters(cluster) == count).await
}

fn urls(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| node.url.clone()).collect()
}

async fn remove(by: &Node, node: u64) -> u16 {
    let path = format!("/v1/cluster/nodes/{node}");
    by.request(reqwest::Method::DELETE, &path).send().await.unwrap().status().as_u16()
}

/// Has nodes give everything away and leave; they end by themselves.
async fn shrink(stays: &Node, leave: Vec<(u64, Node)>, left: &[u64], count: usize) {
    for (node, _) in &leave {
        let (status, answer) = stays.post(&format!("/v1/cluster/nodes/{node}/drain"), &json!({})).await;
        assert_eq!(status, 202, "{answer}");
    }
    let leaving: BTreeSet<String> = leave.iter().map(|(node, _)| node.to_string()).collect();
    wait_for(stays, "they hold nothing", |cluster| {
        let mut members = cluster["members"].as_array().unwrap().iter();
        members.all(|m| !leaving.contains(m["node_id"].as_str().unwrap()) || m["shards"] == 0)
    })
    .await;
    for (node, _) in &leave {
        assert_eq!(remove(stays, *node).await, 200);
    }
    settled(stays, left, count).await;
    for (_, node) in leave {
        assert!(node.stop().success(), "it has ended well, by itself or now");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_five_and_shrinks_back_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::of(dir.path(), 5);
    let mut nodes = vec![builders.found()];
    let mut phases = Vec::new();

    let load = Load::start("one", &urls(&nodes));
    nodes.extend(builders.0[1..3].iter().map(NodeBuilder::start));
    settled(&nodes[2], &[1, 2, 3], 3).await;
    phases.push(load.end().await);

    let load = Load::start("three", &urls(&nodes));
    nodes.extend(builders.0[3..5].iter().map(NodeBuilder::start));
    settled(&nodes[4], &[1, 2, 3, 4, 5], 5).await;
    phases.push(load.end().await);

    let load = Load::start("five", &urls(&nodes[..3]));
    let leave = nodes.drain(3..).zip([4, 5]).map(|(node, id)| (id, node)).collect();
    shrink(&nodes[0], leave, &[1, 2, 3], 3).await;
    phases.push(load.end().await);

    let load = Load::start("back", &urls(&nodes[..1]));
    let leave = nodes.drain(1..).zip([2, 3]).map(|(node, id)| (id, node)).collect();
    shrink(&nodes[0], leave, &[1], 1).await;
    phases.push(load.end().await);

    let longest: Vec<Duration> = phases.iter().map(|phase| phase.longest).collect();
    let acknowledged: Vec<String> = phases.into_iter().flat_map(|phase| phase.ids).collect();
    eprintln!("1-3-5-3-1: {} runs acknowledged, the longest pauses {longest:?}", acknowledged.len());
    assert!(acknowledged.len() > 100, "{} runs", acknowledged.len());
    all_complete(&[&nodes[0]], &acknowledged).await;
    assert!(nodes.remove(0).stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_dead_is_replaced_before_it_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::of(dir.path(), 4);
    let mut nodes = builders.start().await;
    settled(&nodes[0], &[1, 2, 3, 4], 3).await;
    let load = Load::start("dead", &urls(&nodes));
    nodes.remove(1).kill();
    wait_for(&nodes[0], "it is missed", |cluster| {
        let members = cluster["members"].as_array().unwrap();
        members.iter().any(|member| member["node_id"] == "2" && member["alive"] == false)
    })
    .await;
    assert_eq!(remove(&nodes[0], 2).await, 200);
    assert_eq!(remove(&nodes[1], 2).await, 200, "safe to repeat");
    settled(&nodes[0], &[1, 3, 4], 3).await;
    let acknowledged = load.end().await;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;

    // Back from the dead, with everything it had: it disturbs nobody, is told, and ends.
    // The lead goes where it belongs first, which is an election too.
    let before = wait_for(&nodes[0], "whoever should lead does", |cluster| {
        all_shards(cluster).iter().all(|shard| shard["primary"] == shard["placed"][0])
    })
    .await;
    let mut back = builders.0[1].start();
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(status) = back.ended() {
            break status;
        }
        assert!(Instant::now() < deadline, "a node that was removed ends by itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(ended.success(), "{ended}");
    let after = wait_for(&nodes[0], "all lead", |_| true).await;
    let epochs = |cluster: &Value| -> Vec<Value> {
        all_shards(cluster).iter().map(|shard| shard["epoch"].clone()).collect()
    };
    assert_eq!(epochs(&before), epochs(&after), "nobody had to be elected again");
    for node in nodes {
        assert!(node.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_disk_is_lost_comes_back_as_a_new_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let load = Load::start("wiped", &urls(&nodes[..2]));
    nodes.remove(2).kill();
    std::fs::remove_dir_all(dir.path().join("n3")).unwrap();
    assert!(builders.0[2].try_start().is_none(), "the address is that of a node that may come back");
    let deadline = Instant::now() + PATIENCE;
    while remove(&nodes[0], 3).await != 200 {
        assert!(Instant::now() < deadline, "it is missed, and may leave then");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nodes.push(builders.0[2].start());
    settled(&nodes[2], &[1, 2, 4], 3).await;
    let acknowledged = load.end().await;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
    for node in nodes {
        assert!(node.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_while_it_would_cost_a_shard_its_majority() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    nodes.remove(2).kill();
    wait_for(&nodes[0], "it is missed", |cluster| {
        cluster["members"][2]["alive"] == false && cluster.get("unreachable_shards").is_none()
    })
    .await;
    let (status, answer) = nodes[0].post("/v1/cluster/nodes/2/drain", &json!({})).await;
    assert_eq!(status, 202, "{answer}");
    let waits =
        |shard: &Value| shard["doing"].as_str().is_some_and(|doing| doing.starts_with("waiting for node 3"));
    wait_for(&nodes[0], "every shard waits for node 3", |cluster| all_shards(cluster).iter().all(waits))
        .await;
    // Every shard still has the majority it had.
    let load = Load::start("paused", &urls(&nodes));
    load.goes_on(10).await;
    wait_for(&nodes[1], "nothing moves", |cluster| {
        all_shards(cluster)
            .iter()
            .all(|shard| ids(&shard["replicas"], "node_id") == set(&[1, 2, 3]) && waits(shard))
    })
    .await;
    let acknowledged = load.end().await;

    // It goes on by itself, also when whoever was at it starts anew.
    nodes.remove(0).kill();
    let (first, third) = (builders.0[0].start(), builders.0[2].start());
    wait_for(&third, "node 2 holds nothing", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard) == ["1", "3"] || in_sync(shard) == ["3", "1"])
    })
    .await;
    all_complete(&[&first, &third], &acknowledged.ids).await;
    for node in [first, nodes.remove(0), third] {
        assert!(node.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_never_comes_does_not_vote_and_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::of(dir.path(), 1);
    let node = builders.found();
    let mut body = json!({
        "request": "never",
        "addr": format!("127.0.0.1:{}", free_port()),
        "peer_addr": format!("127.0.0.1:{}", free_port()),
    });
    let (status, answer) = node.post("/v1/cluster/nodes", &body).await;
    assert_eq!((status, &answer["node_id"]), (201, &json!(2)), "{answer}");
    let (status, again) = node.post("/v1/cluster/nodes", &body).await;
    assert_eq!((status, &again["node_id"]), (201, &json!(2)), "the same request is the same node");
    body["request"] = "other".into();
    assert_eq!(node.post("/v1/cluster/nodes", &body).await.0, 409);
    wait_for(&node, "every shard waits for it", |cluster| {
        all_shards(cluster).iter().all(|shard| shard["doing"] == "waiting for node 2")
    })
    .await;
    let load = Load::start("alone", std::slice::from_ref(&node.url));
    load.goes_on(10).await;
    let acknowledged = load.end().await;
    let cluster = wait_for(&node, "it only follows, and has nothing", |cluster| {
        all_shards(cluster).iter().all(|shard| {
            let replicas = shard["replicas"].as_array().unwrap();
            replicas.iter().any(|r| r["node_id"] == "2" && r["role"] == "learner" && r["in_sync"] == false)
        })
    })
    .await;
    assert_eq!(voters(&cluster), 1);
    assert_eq!(remove(&node, 2).await, 200);
    settled(&node, &[1], 1).await;
    all_complete(&[&node], &acknowledged.ids).await;
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_as_asked_hands_its_shards_over_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    wait_for(&nodes[0], "every node leads a shard", |cluster| {
        all_shards(cluster).iter().map(|s| s["primary"].to_string()).collect::<BTreeSet<_>>().len() == 3
    })
    .await;
    let mut pauses = Vec::new();
    let mut acknowledged = Vec::new();
    for at in 0..3 {
        let others: Vec<String> =
            urls(&nodes).into_iter().enumerate().filter(|(n, _)| *n != at).map(|n| n.1).collect();
        let load = Load::start(&format!("stop{at}"), &others);
        load.goes_on(10).await;
        let stopping = nodes.remove(at);
        let stopped = tokio::task::spawn_blocking(move || stopping.stop());
        assert!(stopped.await.unwrap().success());
        let phase = load.end().await;
        pauses.push(phase.longest);
        acknowledged.extend(phase.ids);
        nodes.insert(at, builders.0[at].start());
        wait_for(&nodes[at], "all are in sync", |cluster| {
            all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
        })
        .await;
    }
    eprintln!("planned stops: the longest pauses {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause < Duration::from_secs(1)), "{pauses:?}");
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged).await;
    for node in nodes {
        assert!(node.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_is_gone_for_good_is_given_up_only_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let spare = |n: usize| {
        let peer = format!("127.0.0.1:{}", free_port());
        NodeBuilder::new(&dir.path().join(format!("n{n}"))).arg("--peer-listen").arg(peer)
    };
    let nodes = builders.start().await;
    let load = Load::start("lost", &urls(&nodes));
    load.goes_on(10).await;
    let acknowledged = load.end().await;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
    // What node 1 has is what the others have.
    wait_for(&nodes[0], "all are level", |cluster| {
        let level = |r: &Value, shard: &Value| r["position"] == shard["replicas"][0]["position"];
        all_shards(cluster).iter().all(|s| s["replicas"].as_array().unwrap().iter().all(|r| level(r, s)))
    })
    .await;
    let data = dir.path().join("n1");
    let force = |more: &[&str]| {
        let args = [&["cluster", "force-recover", "--data-dir", data.to_str().unwrap()], more].concat();
        tokio::task::block_in_place(|| cli("http://127.0.0.1:9", &args))
    };
    let (code, text) = force(&["--accept-loss"]);
    assert!(code == 1 && text.contains("in use by another process"), "{text}");
    let mut nodes = nodes.into_iter();
    nodes.next().unwrap().kill();
    let (code, text) = force(&["--accept-loss"]);
    assert!(code == 1 && text.contains("still answers"), "{text}");
    nodes.for_each(Node::kill);
    let (code, text) = force(&[]);
    assert!(code == 1 && text.contains("ENTRIES") && text.contains("--accept-loss"), "{text}");
    let (code, text) = force(&["--accept-loss", "-o", "json"]);
    assert!(code == 0 && text.contains("\"recovered\": true"), "{text}");

    let first = builders.0[0].start();
    let cluster = settled(&first, &[1], 1).await;
    assert_eq!(cluster["recoveries"][0]["lost_nodes"], json!([2, 3]), "{cluster}");
    all_complete(&[&first], &acknowledged.ids).await;
    // One that comes with its old data all the same has no say.
    let mut old = builders.0[1].start();
    let deadline = Instant::now() + PATIENCE;
    while old.ended().is_none() {
        assert!(Instant::now() < deadline, "a node that was given up ends by itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let join = first.url.trim_start_matches("http://").to_owned();
    let others: Vec<Node> = (4..=5).map(|n| spare(n).arg("--join").arg(join.clone()).start()).collect();
    settled(&first, &[1, 4, 5], 3).await;
    all_complete(&[&first, &others[0], &others[1]], &acknowledged.ids).await;
    for node in others.into_iter().chain([first]) {
        assert!(node.stop().success());
    }
}

fn cli(server: &str, args: &[&str]) -> (i32, String) {
    let output = opcode().args(args).args(["--server", server]).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_changes_and_prepares_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let first = Builders::of(dir.path(), 1).found();
    let run = |args: &[&str]| tokio::task::block_in_place(|| cli(&first.url, args));
    let (code, text) = run(&["cluster", "nodes"]);
    assert!(code == 0 && text.contains("PEER ADDR") && text.contains("active"), "{text}");
    let (code, text) = run(&["cluster", "shards"]);
    assert!(code == 0 && text.contains("system"), "{text}");
    let (code, text) = run(&["cluster", "set", "--replication-factor", "0"]);
    assert_eq!(code, 1, "{text}");
    let (code, text) = run(&["cluster", "set", "--replication-factor", "9"]);
    assert_eq!(code, 8, "{text}");
    let (code, text) = run(&["cluster", "set", "--replication-factor", "1"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(&["cluster", "drain", "1"]);
    assert!(code == 8 && text.contains("add another first"), "{text}");

    let (data, peer) = (dir.path().join("n2"), format!("127.0.0.1:{}", free_port()));
    let join = ["cluster", "join", "--data-dir", data.to_str().unwrap(), "--peer-addr", &peer, "--addr"];
    let (code, text) = run(&[&join[..], &["127.0.0.1:1"]].concat());
    assert!(code == 0 && text.contains("node_id"), "{text}");
    assert_eq!(run(&[&join[..], &["127.0.0.1:1"]].concat()).0, 1, "it has a place already");
    let second = NodeBuilder::new(&data).arg("--peer-listen").arg(&peer).start();
    wait_for(&second, "each shard is on one node, and each node has some", |cluster| {
        ids(&cluster["members"], "node_id") == set(&[1, 2])
            && cluster["replication_factor"] == 1
            && cluster["members"].as_array().unwrap().iter().all(|m| m["shards"].as_u64() > Some(1))
            && cluster["shards"].as_array().unwrap().iter().all(|shard| in_sync(shard).len() == 1)
    })
    .await;
    let (code, text) = run(&["cluster", "drain", "2", "--wait"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(&["cluster", "remove", "2", "--wait"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(&["cluster", "remove", "2"]);
    assert!(code == 8 && text.contains("no node 2"), "{text}");
    assert!(second.stop().success());
    assert!(first.stop().success());
}
