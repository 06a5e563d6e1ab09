//! Programs on the real binary: what `shell.exec` and plugins see and may do, which is little. What a
//! host does not give is told past the harness, and not tested there.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, opcode};
use crate::plugins::{is_gone, until_gone};

const CANARY: &str = "isolation-canary-31f7";

/// A node whose data, key and tokens lie in the folder that its programs may write to.
struct Lair {
    home: tempfile::TempDir,
    root: PathBuf,
}

impl Lair {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let root = home.path().canonicalize().expect("it is there");
        let secret = |name: &str, text: String| {
            let file = root.join(name);
            std::fs::write(&file, text).expect("it can be written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        };
        secret("key", format!("{}\n", "5d".repeat(32)));
        Self { home, root }
    }

    fn at(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    /// The node, with these lines in its configuration file.
    fn start(&self, lines: &str) -> Node {
        let config = self.root.join("opcode.toml");
        std::fs::write(&config, lines).expect("it can be written");
        NodeBuilder::new(&self.root.join("data"))
            .arg("--allow-shell")
            .arg("--allow-plugins")
            .arg("--fs-root")
            .arg(self.at(""))
            .arg("--secrets-key-file")
            .arg(self.at("key"))
            .arg("--config")
            .arg(config.display().to_string())
            .start()
    }
}

/// What a shell's line comes to.
async fn sh(node: &Node, line: &str) -> Value {
    let params = json!({"command": "sh", "args": ["-c", line], "timeout": "30s"});
    let step = json!({"id": "a", "action": "shell.exec", "params": params});
    let (status, run) = node.post("/v1/workflows?wait=60s", &json!({"definition": {"steps": [step]}})).await;
    assert_eq!((status, &run["status"]), (201, &json!("completed")), "{line}: {run}");
    run["output"]["a"].clone()
}

/// The code with which an action fails.
async fn refusal(node: &Node, action: &str, params: Value) -> String {
    let step = json!({"id": "a", "action": action, "params": params});
    let (_, run) = node.post("/v1/workflows?wait=60s", &json!({"definition": {"steps": [step]}})).await;
    run["error"].to_string()
}

async fn in_force(node: &Node) -> Value {
    let (_, cluster) = node.get("/v1/cluster").await;
    cluster["members"][0]["isolation"].clone()
}

fn not_tested(what: &str, report: &Value) {
    let told = format!("NOT TESTED on this host: {what}: {report}\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_a_clean_environment_and_no_files_of_the_node() {
    let lair = Lair::new();
    let node = lair.start("");
    let env = sh(&node, "env").await;
    let env = env["stdout_raw"].as_str().unwrap();
    let ours: Vec<&str> = env.lines().filter(|line| line.starts_with("OPCODE_")).collect();
    assert!(ours.len() == 1 && ours[0].starts_with("OPCODE_IDEMPOTENCY_KEY="), "{env}");
    let open = sh(&node, "ls /proc/self/fd").await;
    assert_eq!(open["stdout_raw"], "0\n1\n2\n3\n", "the node's own files were left open");
    let report = in_force(&node).await;
    let is_hidden = report["own_files"] == "hidden";
    if !is_hidden {
        not_tested("the node's own files", &report);
    }
    for file in ["data/node.json", "data/LOCK", "data/shards/0/tables.db", "key"].iter().filter(|_| is_hidden)
    {
        let read = sh(&node, &format!("cat {}", lair.at(file))).await;
        assert_eq!(read["stdout_raw"], "", "{file}: {read}");
        // Nor by a way around.
        let read =
            sh(&node, &format!("cat /proc/$PPID/root{}; cat /proc/$PPID/cwd/{file}", lair.at(file))).await;
        assert_eq!(read["stdout_raw"], "", "{file}: {read}");
    }
    if report["landlock"].as_str().is_some_and(|landlock| landlock.starts_with("abi")) {
        let stolen = sh(&node, "cat /proc/$PPID/environ; cat /proc/$PPID/maps").await;
        assert_eq!(stolen["stdout_raw"], "", "another process's environment: {stolen}");
        sh(&node, "kill -9 $PPID").await;
        let freed = sh(&node, &format!("umount {0} && cat {0}/node.json", lair.at("data"))).await;
        assert_eq!(freed["stdout_raw"], "", "{freed}");
        for outside in
            ["/etc/opcode-test", "/opcode-test", "/usr/opcode-test", "/tmp/opcode-test", "$HOME/x-opcode"]
        {
            let written = sh(&node, &format!("echo x > {outside}")).await;
            assert_ne!(written["exit_code"], 0, "{outside} was written");
        }
        let disk = sh(&node, "head -c 1 /dev/mem; head -c 1 /dev/vda; head -c 1 /dev/sda").await;
        assert_eq!(disk["stdout_raw"], "", "a disk could be read");
    } else {
        not_tested("Landlock", &report);
    }
    let own =
        sh(&node, "echo x > new && cat new && echo y > $TMPDIR/y && cat $TMPDIR/y > /dev/null; ls").await;
    assert!(own["stdout_raw"].as_str().unwrap().starts_with("x\n") && own["exit_code"] == 0, "{own}");
    assert_eq!(node.get("/healthz").await.0, 200);
    assert!(node.stop().success());
    drop(lair.home);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_action_on_files_reaches_the_nodes_own() {
    let lair = Lair::new();
    let node = lair.start("");
    std::os::unix::fs::symlink("data", lair.root.join("link")).unwrap();
    let paths = [
        ("fs.read", "data/node.json"),
        ("fs.read", "link/node.json"),
        ("fs.list", "data"),
        ("fs.read", "key"),
    ];
    for (action, path) in paths {
        let told = refusal(&node, action, json!({ "path": path })).await;
        assert!(told.contains("PATH_DENIED"), "{action} {path}: {told}");
    }
    let write = json!({"path": "data/node.json", "content": "x"});
    assert!(refusal(&node, "fs.write", write).await.contains("PATH_DENIED"));
    let delete = json!({"path": "data", "recursive": true});
    assert!(refusal(&node, "fs.delete", delete).await.contains("PATH_DENIED"));
    let moved = json!({"src": "data", "dst": "elsewhere"});
    assert!(refusal(&node, "fs.move", moved).await.contains("PATH_DENIED"));
    let cwd = json!({"command": "ls", "cwd": "data"});
    assert!(refusal(&node, "shell.exec", cwd).await.contains("PATH_DENIED"));
    // What holds them is listed and copied without them.
    std::fs::create_dir(lair.root.join("copy")).unwrap();
    let steps = json!([
        {"id": "list", "action": "fs.list", "params": {"path": ".", "recursive": true}},
        {"id": "copy", "action": "fs.copy", "params": {"src": ".", "dst": "copy"}, "depends_on": ["list"]}]);
    let (_, run) = node.post("/v1/workflows?wait=60s", &json!({"definition": {"steps": steps}})).await;
    let (_, run) = node.get(&format!("/v1/workflows/{}", run["workflow_id"].as_str().unwrap())).await;
    let listed = run["steps"]["list"]["output"].to_string();
    assert!(listed.contains("opcode.toml") && !listed.contains("node.json"), "{listed}");
    assert!(lair.root.join("copy/opcode.toml").exists(), "{run}");
    for own in ["copy/data", "copy/key"] {
        assert!(!lair.root.join(own).exists(), "{own}: {run}");
    }
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_may_use_has_an_end() {
    let lair = Lair::new();
    let lines = "step_processes = 32\nstep_memory_bytes = 134217728\nstep_file_bytes = 1048576\n\
                 step_open_files = 64\nstep_cpu_s = 2\n";
    let node = lair.start(lines);
    let limits = sh(&node, "ulimit -c; ulimit -n; ulimit -f; ulimit -d; ulimit -t").await;
    assert_eq!(limits["stdout_raw"], "0\n64\n2048\n131072\n2\n", "{limits}");
    let large = sh(&node, "head -c 2000000 /dev/zero > large; ls -l large | cut -d' ' -f5").await;
    assert_eq!(large["stdout"], 1_048_576, "{large}");
    let greedy = sh(&node, "python3 -c 'print(len(b\"x\" * (1 << 28)))'").await;
    assert!(greedy["exit_code"] != 0 && greedy["stdout_raw"] == "", "{greedy}");
    let busy = sh(&node, "while :; do :; done").await;
    assert!(busy["exit_code"] != 0 && busy["killed"] == false, "its time of a processor was over: {busy}");
    let report = in_force(&node).await;
    if report["cgroups"].as_str().is_some_and(|cgroups| cgroups.contains("pids")) {
        let line = "n=0; while [ $n -lt 500 ]; do sleep 600 & n=$((n+1)); echo $n > count; done";
        let bomb = sh(&node, line).await;
        let count = sh(&node, "cat count").await["stdout"].as_u64().unwrap();
        assert!(count < 40, "{count} processes were started: {bomb}");
    } else {
        not_tested("a bound of processes", &report);
    }
    assert_eq!(sh(&node, "echo well").await["stdout"], "well\n");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_its_session_ends_too() {
    let lair = Lair::new();
    let node = lair.start("");
    let report = in_force(&node).await;
    if !report["escapes"].as_str().is_some_and(|escapes| escapes.contains("ends with its cgroup")) {
        return not_tested("a process that leaves its group", &report);
    }
    let left = sh(&node, "setsid sleep 600 > /dev/null 2>&1 & echo $!").await["stdout"].to_string();
    until_gone(&left).await;
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mcp_plugin.py");
    let plugin = json!({"name": "py", "command": "python3", "args": [server]});
    assert_eq!(node.post("/v1/plugins", &plugin).await.0, 201);
    let step = json!({"id": "a", "action": "py.left"});
    let (_, run) = node.post("/v1/workflows?wait=60s", &json!({"definition": {"steps": [step]}})).await;
    let left = run["output"]["a"].to_string();
    assert!(run["status"] == "completed" && !is_gone(&left), "{run}");
    let removed = node.request(reqwest::Method::DELETE, "/v1/plugins/py").send().await.unwrap();
    assert_eq!(removed.status(), 200);
    until_gone(&left).await;
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_reads_the_system_and_writes_at_home_alone() {
    let lair = Lair::new();
    std::fs::write(lair.root.join("file"), CANARY).unwrap();
    let node = lair.start("");
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mcp_plugin.py");
    let plugin = json!({"name": "py", "command": "python3", "args": [server]});
    assert_eq!(node.post("/v1/plugins", &plugin).await.0, 201);
    let call = async |tool: &str, path: String| -> Value {
        let step = json!({"id": "a", "action": format!("py.{tool}"), "params": {"path": path}});
        let body = json!({"definition": {"steps": [step]}});
        node.post("/v1/workflows?wait=60s", &body).await.1
    };
    assert_eq!(call("read", lair.at("file")).await["output"]["a"], format!("read: {CANARY}"));
    assert_eq!(call("write", lair.at("made")).await["status"], "completed");
    assert_eq!(call("write", "at-home".into()).await["status"], "completed");
    let report = in_force(&node).await;
    if report["own_files"] == "hidden" {
        let read = call("read", lair.at("data/node.json")).await;
        assert_eq!(read["status"], "failed", "{read}");
        assert_eq!(call("read", lair.at("key")).await["output"]["a"].as_str().unwrap_or("read: "), "read: ");
    } else {
        not_tested("the node's own files", &report);
    }
    if report["landlock"].as_str().is_some_and(|landlock| landlock.starts_with("abi")) {
        assert_eq!(call("write", "/etc/opcode-test".into()).await["status"], "failed");
    }
    assert!(node.stop().success());
}

#[test]
fn the_configuration_tells_what_is_in_force() {
    let home = tempfile::tempdir().unwrap();
    let config = opcode().arg("config").current_dir(home.path()).output().unwrap();
    let text = String::from_utf8(config.stdout).unwrap();
    for word in ["ISOLATION", "landlock", "cgroups", "namespaces", "no_new_privs", "step_memory_bytes"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it only tells");
    let alone = opcode().arg("launch-confined").output().unwrap();
    assert_eq!(alone.status.code(), Some(126), "it starts nothing for others");
}
