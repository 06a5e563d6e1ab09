//! Embedded replicas of a shard of a real cluster, held by stock libSQL clients and by a node that
//! is no member of the shard.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use libsql::Database;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_router::placement;
use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE};
use crate::many::{Builders, Load, SHARDS, all_complete, all_shards, free_port, in_sync, wait_for};

/// The shard that is copied.
const SHARD: ShardId = ShardId(1);
/// Longest time from a write's acknowledgement until a replica shows it.
const SEEN_MAX: Duration = Duration::from_secs(1);
/// Set where the client from PyPI must be there: its Python.
const PYTHON: &str = "OPCODE_TEST_LIBSQL_PYTHON";

fn url_of(node: &Node) -> String {
    format!("{}/v1/shards/{SHARD}", node.url)
}

fn is_of_shard(id: &str) -> bool {
    let shards = u32::try_from(SHARDS).unwrap();
    placement::shard_of(&WorkflowId::parse(id).unwrap(), shards) == SHARD
}

/// Ids that the shard owns.
fn ids(name: &str) -> impl Iterator<Item = String> {
    let name = name.to_owned();
    (0..).map(move |n| format!("{name}-{n}")).filter(|id| is_of_shard(id))
}

/// The stock client, as its documentation has it.
async fn client(path: &Path, url: &str) -> Database {
    let mut http = hyper_014::client::HttpConnector::new();
    http.set_nodelay(true);
    let builder = libsql::Builder::new_remote_replica(path, url.to_owned(), "a token".into());
    builder.connector(http).build().await.unwrap()
}

async fn rows(database: &Database, sql: &str) -> Vec<String> {
    let mut rows = database.connect().unwrap().query(sql, ()).await.unwrap();
    let mut found = Vec::new();
    while let Some(row) = rows.next().await.unwrap() {
        found.push(row.get::<String>(0).unwrap());
    }
    found
}

async fn has(database: &Database, id: &str) -> bool {
    !rows(database, &format!("SELECT id FROM workflows WHERE id = '{id}'")).await.is_empty()
}

/// Syncs until the replica shows a run; how long that took.
async fn see(database: &Database, id: &str) -> Duration {
    let started = Instant::now();
    loop {
        let synced = database.sync().await;
        if synced.is_ok() && has(database, id).await {
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "{id} is not seen: {synced:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Syncs until the replica holds exactly what the shard holds, and is sound.
async fn converge(database: &Database, node: &Node) {
    let query = "SELECT w.id || ' ' || count(*) AS line FROM workflows w JOIN event_rows e \
                 ON e.workflow_no = w.no GROUP BY w.id ORDER BY 1";
    let started = Instant::now();
    loop {
        let body = json!({"query": query, "shard": SHARD.0, "limit": 10_000});
        let (status, answer) = node.post("/v1/sql", &body).await;
        assert_eq!(status, 200, "{answer}");
        let items = answer["items"].as_array().unwrap();
        let wanted: Vec<&str> = items.iter().map(|row| row["line"].as_str().unwrap()).collect();
        let synced = database.sync().await;
        let found = if synced.is_ok() { rows(database, query).await } else { Vec::new() };
        if found == wanted {
            break;
        }
        let counts = (found.len(), wanted.len());
        assert!(started.elapsed() < PATIENCE, "{counts:?} runs: {synced:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rows(database, "SELECT * FROM pragma_integrity_check").await, ["ok"]);
}

async fn submit(node: &Node, id: &str) {
    node.submit(&run(id)).await;
}

/// The place among `nodes` of the one that leads the shard.
async fn leader(nodes: &[Node]) -> usize {
    let led = |cluster: &Value| cluster["shards"][SHARD.0 as usize]["primary"].is_string();
    let cluster = wait_for(&nodes[0], "the shard is led", led).await;
    let primary = &cluster["shards"][SHARD.0 as usize]["primary"];
    let members = cluster["members"].as_array().unwrap();
    let addr = &members.iter().find(|member| member["node_id"] == *primary).unwrap()["addr"];
    nodes.iter().position(|node| node.url.ends_with(addr.as_str().unwrap())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_follows_a_shard_under_load_over_rolls_and_failovers() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    // It syncs from the node that leads the shard, which dies later.
    let victim = leader(&nodes).await;
    let load = Load::start("load", &urls);
    let mut ids = ids("seen");
    let path = dir.path().join("copy.db");
    let mut database = client(&path, &url_of(&nodes[victim])).await;
    see(&database, &first_of(&nodes[0], &mut ids).await).await;

    // For longer than a WAL is left to grow: it is rolled meanwhile.
    let (started, mut took) = (Instant::now(), Vec::new());
    while started.elapsed() < Duration::from_secs(15) {
        took.push(see(&database, &first_of(&nodes[0], &mut ids).await).await);
    }
    took.sort();
    let percentile = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    println!(
        "{} writes under load were seen after {:?} (p50), {:?} (p90), {:?} (p99), {:?} (max)",
        took.len(),
        percentile(50),
        percentile(90),
        percentile(99),
        percentile(100)
    );
    // Nine in ten: other tests, and builds, may have the same few cores.
    assert!(percentile(90) < SEEN_MAX, "{took:?}");

    nodes.remove(victim).kill();
    assert!(database.sync().await.is_err(), "nobody is there");
    database = client(&path, &url_of(&nodes[1])).await;
    submit_somewhere(&nodes, &ids.next().unwrap()).await;
    see(&database, &first_of(&nodes[0], &mut ids).await).await;
    // The one that it goes on with is restarted.
    let other = (0..3).filter(|n| *n != victim).nth(1).unwrap();
    assert!(nodes.remove(1).stop().success());
    nodes.push(builders.0[other].start());
    database = client(&path, &url_of(&nodes[1])).await;
    submit_somewhere(&nodes, &ids.next().unwrap()).await;
    see(&database, &first_of(&nodes[0], &mut ids).await).await;
    nodes.push(builders.0[victim].start());
    let acknowledged = load.end().await;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
    wait_for(&nodes[0], "every shard is led", |cluster| {
        all_shards(cluster).iter().all(|shard| shard["primary"].is_string())
    })
    .await;
    // Back and forth: each node's copy has frames of its own.
    for node in [&nodes[2], &nodes[0], &nodes[1], &nodes[0]] {
        database = client(&path, &url_of(node)).await;
        converge(&database, node).await;
    }
    let ours: BTreeSet<&String> = acknowledged.ids.iter().filter(|id| is_of_shard(id)).collect();
    let found: BTreeSet<String> = rows(&database, "SELECT id FROM workflows").await.into_iter().collect();
    assert!(!ours.is_empty() && ours.iter().all(|id| found.contains(*id)), "all that was acknowledged");
}

/// Submits until some node takes it: nobody may lead for a moment.
async fn submit_somewhere(nodes: &[Node], id: &str) {
    let started = Instant::now();
    for node in nodes.iter().cycle() {
        match node.try_post("/v1/workflows", &run(id)).await {
            Ok((status, _)) if status < 300 => return,
            Ok((status, answer)) => assert!(matches!(status, 429 | 503), "{status}: {answer}"),
            Err(_) => {}
        }
        assert!(started.elapsed() < PATIENCE, "nobody takes {id}");
    }
}

fn run(id: &str) -> Value {
    let step = json!({"id": "s", "action": "expr.eval", "params": {"expression": "1"}});
    json!({"id": id, "definition": {"steps": [step]}})
}

async fn first_of(node: &Node, ids: &mut impl Iterator<Item = String>) -> String {
    let id = ids.next().unwrap();
    submit(node, &id).await;
    id
}

/// Up to which entry of the shard's log a node has purged it.
async fn purged(node: &Node) -> u64 {
    let (_, metrics) = node.get("/metrics").await;
    let name = format!("opcode_log_purged_index{{group=\"{SHARD}\"}} ");
    let line = metrics.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lags_converges_after_the_log_is_purged_and_what_is_damaged_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let builder = NodeBuilder::new(&dir.path().join("n")).arg("--events-kept").arg("0s");
    let node = builder.arg("--shards").arg(SHARDS.to_string()).start();
    let mut ids = ids("r");
    first_of(&node, &mut ids).await;
    let copies = [dir.path().join("a.db"), dir.path().join("b.db")];
    for path in &copies {
        converge(&client(path, &url_of(&node)).await, &node).await;
    }
    let before = purged(&node).await;
    for _ in 0..20 {
        first_of(&node, &mut ids).await;
    }
    // While a copy is held, the log is purged behind rolls only; it is all the same.
    let deadline = Instant::now() + PATIENCE;
    while purged(&node).await < before.max(1) + 20 {
        assert!(Instant::now() < deadline, "the log is purged: {} after {before}", purged(&node).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    converge(&client(&copies[0], &url_of(&node)).await, &node).await;
    // Over a restart, after which the node's frames are others.
    first_of(&node, &mut ids).await;
    assert!(node.stop().success());
    let node = NodeBuilder::new(&dir.path().join("n")).start();
    for path in &copies {
        converge(&client(path, &url_of(&node)).await, &node).await;
    }
    // One that says that it is elsewhere than it is.
    let info = PathBuf::from(format!("{}-info", copies[1].display()));
    let mut elsewhere: Value = serde_json::from_slice(&std::fs::read(&info).unwrap()).unwrap();
    elsewhere["durable_frame_num"] = json!(elsewhere["durable_frame_num"].as_u64().unwrap() + 500);
    std::fs::write(&info, elsewhere.to_string()).unwrap();
    let http = hyper_014::client::HttpConnector::new();
    let builder = libsql::Builder::new_remote_replica(&copies[1], url_of(&node), String::new());
    assert!(builder.connector(http).build().await.is_err(), "its own checksum tells");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_make_no_sense_and_writes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&dir.path().join("n")).arg("--shards").arg(SHARDS.to_string()).start();
    let (status, info) = node.get("/v1/shards/1/info").await;
    assert_eq!(status, 200, "{info}");
    let generation = info["current_generation"].as_u64().unwrap();
    let base = format!("/v1/shards/1/sync/{generation}");
    for (path, wanted) in [
        (format!("{base}/0/5"), 422),
        (format!("{base}/5/5"), 422),
        (format!("{base}/9/3"), 422),
        (format!("{base}/1/99999999999999999999"), 422),
        (format!("{base}/-1/7"), 422),
        (format!("{base}/4294967295/4294967296"), 422),
        ("/v1/shards/1/sync/0/1/2".to_owned(), 422),
        ("/v1/shards/1/sync/4294967296/1/2".to_owned(), 422),
        ("/v1/shards/1/sync/4294967295/1/2".to_owned(), 409),
        ("/v1/shards/1/sync/77/1/2".to_owned(), 400),
        (format!("{base}/4294967294/4294967295"), 400),
        ("/v1/shards/99/info".to_owned(), 404),
        ("/v1/shards/x/info".to_owned(), 404),
        ("/v1/shards/system/info".to_owned(), 200),
        ("/v1/shards/1/export/x".to_owned(), 422),
        ("/v1/shards/1/v3/pipeline".to_owned(), 403),
    ] {
        let (status, answer) = node.get(&path).await;
        assert_eq!(status, wanted, "{path}: {answer}");
    }
    for path in [format!("{base}/1/2"), format!("{base}/1/2/baton")]
        .into_iter()
        .chain(["v3/pipeline", "v3/cursor", "v2/pipeline"].map(|end| format!("/v1/shards/1/{end}")))
    {
        let (status, answer) = node.post(&path, &json!({})).await;
        assert_eq!(status, 403, "{path}: {answer}");
    }
    // A client that writes is told so, and its copy stays as it was.
    let database = client(&dir.path().join("copy.db"), &url_of(&node)).await;
    database.sync().await.unwrap();
    let connection = database.connect().unwrap();
    connection.execute("DELETE FROM workflows", ()).await.unwrap_err();
    // Whole frames of the right size, as many as asked for.
    let answer = node.request(reqwest::Method::GET, &format!("{base}/1/4")).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap().len(), 3 * 4_120);
    let answer = node.request(reqwest::Method::GET, &format!("{base}/1/4294967295")).send().await.unwrap();
    let length = answer.bytes().await.unwrap().len();
    assert!(length.is_multiple_of(4_120) && length <= 256 * 4_120, "{length} bytes");
}

/// Shards that are on one node alone, and on which: none before the places are taken.
fn settled(cluster: &Value) -> Option<Vec<String>> {
    let shards = cluster["shards"].as_array()?.iter().map(|shard| {
        let (holders, in_sync) = (shard["replicas"].as_array()?, in_sync(shard));
        let is_settled = holders.len() == 1 && in_sync.len() == 1 && shard["primary"] == in_sync[0];
        is_settled.then(|| in_sync[0].clone())
    });
    shards.collect()
}

/// The folders of the replicas that a node keeps.
pub(crate) fn copies(data_dir: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    below(&data_dir.join("replicas")).iter().flat_map(|shard| below(shard)).collect()
}

/// Runs in a replica; none while it is not there or not sound.
pub(crate) async fn runs_in(copy: &Path) -> libsql::Result<u64> {
    let flags = libsql::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = libsql::Builder::new_local(copy.join("tables.db")).flags(flags).build().await?;
    let mut rows = database.connect()?.query("SELECT count(*) FROM workflows", ()).await?;
    rows.next().await?.map_or(Ok(0), |row| row.get::<u64>(0))
}

/// Waits until the replicas that a node keeps have so many runs together.
async fn follow(data_dir: &Path, wanted: u64) {
    let started = Instant::now();
    loop {
        let mut runs = 0;
        for copy in copies(data_dir) {
            runs += runs_in(&copy).await.unwrap_or(0);
        }
        if runs == wanted {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{runs} runs are kept, not {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_no_member_reads_from_replicas_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let first_builder = NodeBuilder::new(&dir.path().join("n1"))
        .arg("--peer-listen")
        .arg(format!("127.0.0.1:{}", free_port()))
        .arg("--shards")
        .arg(SHARDS.to_string())
        .arg("--replication-factor")
        .arg("1");
    let first = first_builder.start();
    let join = first.url.trim_start_matches("http://").to_owned();
    let second =
        NodeBuilder::new(&dir.path().join("n2")).arg("--join").arg(join).arg("--replicas").arg("all").start();
    let on_both = |cluster: &Value| {
        settled(cluster).is_some_and(|holders| holders.iter().collect::<BTreeSet<_>>().len() == 2)
    };
    let cluster = wait_for(&second, "each shard is on one of the nodes", on_both).await;
    let holders = settled(&cluster).unwrap();
    let members = cluster["members"].as_array().unwrap();
    let theirs = members.iter().find(|member| first.url.ends_with(member["addr"].as_str().unwrap())).unwrap();

    let all: BTreeSet<String> = (0..40).map(|n| format!("order-{n}")).collect();
    for id in &all {
        submit(&first, id).await;
        first.end(id).await;
    }
    let shards = u32::try_from(SHARDS).unwrap();
    let is_elsewhere = |id: &String| {
        let shard = placement::shard_of(&WorkflowId::parse(id).unwrap(), shards);
        theirs["node_id"] == holders[shard.0 as usize]
    };
    let elsewhere = all.iter().filter(|id| is_elsewhere(id)).count() as u64;
    assert!(elsewhere > 0, "the first node has some");
    follow(&dir.path().join("n2"), elsewhere).await;

    let listed = async |node: &Node| {
        let (status, answer) = node.get("/v1/workflows?consistency=eventual&limit=1000").await;
        assert_eq!(status, 200, "{answer}");
        let items = answer["items"].as_array().unwrap();
        let ids = items.iter().map(|item| item["workflow_id"].as_str().unwrap().to_owned());
        (ids.collect::<BTreeSet<_>>(), answer.get("unreachable_shards").is_none())
    };
    assert_eq!(listed(&second).await, (all.clone(), true), "with both nodes there");
    first.kill();
    assert_eq!(listed(&second).await, (all.clone(), true), "with the first one gone");
    let (status, answer) = second.get("/v1/workflows?consistency=strong&limit=1000").await;
    let is_whole = status == 200 && answer.get("unreachable_shards").is_none();
    assert!(!is_whole, "a strong read does not come from replicas: {answer}");
    // A replica never takes what a shard would have to decide.
    let mut late = (0..).map(|n| format!("late-{n}")).filter(is_elsewhere);
    let (status, answer) = second.post("/v1/workflows", &run(&late.next().unwrap())).await;
    assert_eq!(status, 503, "{answer}");

    // With the first one back, elsewhere and with other frames, they follow it.
    let first = first_builder.start();
    submit_somewhere(std::slice::from_ref(&first), &late.next().unwrap()).await;
    follow(&dir.path().join("n2"), elsewhere + 1).await;
    // What is damaged is noticed by whoever reads it, and fetched again.
    for wal in copies(&dir.path().join("n2")).iter().map(|copy| copy.join("tables.db-wal")) {
        let Ok(file) = std::fs::File::options().write(true).open(wal) else { continue };
        let length = file.metadata().unwrap().len();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; length as usize], 0).unwrap();
    }
    submit_somewhere(std::slice::from_ref(&first), &late.next().unwrap()).await;
    follow(&dir.path().join("n2"), elsewhere + 2).await;
    let (items, is_whole) = listed(&second).await;
    assert!(is_whole && items.len() == all.len() + 2, "{items:?}");
}

/// The client from PyPI in a process of its own.
struct Python {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// None where it is not installed, which is fine unless [`PYTHON`] says that it must be.
    fn start(path: &Path) -> Option<Self> {
        let named = std::env::var(PYTHON).ok();
        let python = named.clone().unwrap_or_else(|| "python3".into());
        let is_there = Command::new(&python)
            .args(["-c", "import libsql"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !is_there {
            assert!(named.is_none(), "{PYTHON}={python} has no module `libsql`");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/embedded_replica.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ask, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, ask, answers })
    }

    /// Syncs from a URL until the replica has so many workflows.
    fn see(&mut self, url: &str, workflows: u64) {
        let started = Instant::now();
        loop {
            writeln!(self.ask, "{url}").unwrap();
            let mut line = String::new();
            self.answers.read_line(&mut line).unwrap();
            let answer: Value = serde_json::from_str(&line).unwrap();
            if answer["workflows"] == json!(workflows) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "not {workflows} workflows: {answer}");
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may have ended already; nothing is left to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_follows_a_shard_and_a_failover() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut python) = Python::start(&dir.path().join("copy.db")) else {
        // Past what the test harness keeps to itself, so that nobody takes it for done.
        let told = "NOT TESTED: the libSQL client from PyPI is not there; `pip install libsql` has it";
        writeln!(std::io::stderr(), "{told}").unwrap();
        return;
    };
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let mut ids = ids("py");
    for n in 1..=10 {
        first_of(&nodes[0], &mut ids).await;
        python.see(&url_of(&nodes[2]), n);
    }
    nodes.remove(2).kill();
    for n in 11..=20 {
        submit_somewhere(&nodes[..1], &ids.next().unwrap()).await;
        python.see(&url_of(&nodes[usize::from(n % 2 == 0)]), n);
    }
}
