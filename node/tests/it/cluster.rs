//! A real node in a process of its own: start, ask over HTTP, kill, start again.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for anything a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub(crate) fn opcode() -> Command {
    Command::new(env!("CARGO_BIN_EXE_opcode"))
}

/// How a node is started.
#[derive(Clone)]
pub(crate) struct NodeBuilder {
    data_dir: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    working_dir: PathBuf,
    /// Where it logs to; this process's own stderr without it.
    log: Option<PathBuf>,
}

impl NodeBuilder {
    /// A node on `data_dir`, on a port of its own choice, with loopback HTTP allowed.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_path_buf(),
            args: vec!["--allow-private-network".into(), "--log-level".into(), "warn".into()],
            env: vec![
                ("OPCODE_LOG_SEGMENT_BYTES".into(), "4194304".into()),
                ("OPCODE_SCRATCH_DIR".into(), data_dir.with_extension("scratch").display().to_string()),
            ],
            working_dir: data_dir.parent().unwrap_or(data_dir).to_path_buf(),
            log: None,
        }
    }

    /// The same, but with what is refused unless it is allowed.
    pub(crate) fn strict(data_dir: &Path) -> Self {
        let mut builder = Self::new(data_dir);
        builder.args.retain(|arg| arg != "--allow-private-network");
        builder
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    #[cfg(feature = "crash-points")]
    pub(crate) fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// The same with one more variable.
    #[cfg(feature = "crash-points")]
    pub(crate) fn clone_with(&self, key: &str, value: impl Into<String>) -> Self {
        self.clone().env(key, value)
    }

    pub(crate) fn working_dir(mut self, dir: &Path) -> Self {
        self.working_dir = dir.to_path_buf();
        self
    }

    /// The same, logging all that it can to a file.
    pub(crate) fn traced(mut self, log: &Path) -> Self {
        self.args.iter_mut().filter(|arg| *arg == "warn").for_each(|level| *level = "trace".into());
        self.log = Some(log.to_path_buf());
        self
    }

    /// Starts it; `None` when it ended before it was ready.
    pub(crate) fn try_start(&self) -> Option<Node> {
        let log = self.log.as_ref().map(|log| File::create(log).expect("a log can be made"));
        let mut child = opcode()
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&self.data_dir)
            .args(&self.args)
            .envs(self.env.iter().cloned())
            .current_dir(&self.working_dir)
            .stdout(Stdio::piped())
            .stderr(log.map_or_else(Stdio::inherit, Stdio::from))
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        // Once a process; a second time is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        while let Some(Ok(line)) = lines.next() {
            if let Some(url) = line.strip_prefix("OPCODE is ready at ") {
                let client = reqwest::Client::builder()
                    .no_proxy()
                    .timeout(PATIENCE)
                    .build()
                    .expect("a client can be made");
                return Some(Node { child, url: url.to_owned(), client });
            }
        }
        child.wait().expect("a child can be waited for");
        None
    }

    pub(crate) fn start(&self) -> Node {
        self.try_start().expect("the node becomes ready")
    }
}

/// A running node.
pub(crate) struct Node {
    child: Child,
    pub(crate) url: String,
    client: reqwest::Client,
}

impl Node {
    /// Kills it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a process id fits"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a child can be signalled");
        self.child.wait().expect("a child can be waited for")
    }

    /// Whether it has ended by itself.
    #[cfg(feature = "crash-points")]
    pub(crate) fn has_ended(&mut self) -> bool {
        self.ended().is_some()
    }

    /// How it has ended, if it has by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// `GET`; the status code and the JSON body.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(reqwest::Method::GET, path)).await.expect("the node answers")
    }

    /// `POST` of JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.try_post(path, body).await.expect("the node answers")
    }

    /// `POST` of JSON to a node that may die under it.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> Result<(u16, Value), reqwest::Error> {
        answer(self.request(reqwest::Method::POST, path).json(body)).await
    }

    /// Submits one run; panics unless it is accepted.
    pub(crate) async fn submit(&self, body: &Value) -> String {
        let (status, answer) = self.post("/v1/workflows", body).await;
        assert!(status == 201 || status == 200, "{status}: {answer}");
        answer["workflow_id"].as_str().expect("an id").to_owned()
    }

    /// Waits until a run has ended or is suspended, as the API tells it.
    pub(crate) async fn settle(&self, id: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, run) = self.get(&format!("/v1/workflows/{id}?wait=10s")).await;
            // While the lead of a shard changes hands, nobody may answer for it.
            assert!(status == 200 || status == 503, "{run}");
            if status == 200 && is_settled(&run) {
                return run;
            }
            assert!(Instant::now() < deadline, "not settled in time: {run}");
            if status == 503 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Waits until a step of a run waits for something.
    pub(crate) async fn settle_at(&self, id: &str, step: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, why) = self.get(&format!("/v1/workflows/{id}/why")).await;
            let waits = why["waiting_for"].as_array().cloned().unwrap_or_default();
            // A child that is being started is not waited for yet.
            let is_waiting = |one: &Value| {
                one["step_id"] == step
                    && !one["detail"].as_str().unwrap_or_default().contains("being started")
            };
            if waits.iter().any(is_waiting) {
                return;
            }
            assert!(Instant::now() < deadline, "{id} does not wait at {step}: {why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a run has ended.
    pub(crate) async fn end(&self, id: &str) -> Value {
        let run = self.settle(id).await;
        assert!(is_terminal(&run), "it waits for something: {run}");
        run
    }

    /// All events of a run; asserts that they are numbered from 1 without gaps.
    pub(crate) async fn events(&self, id: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        loop {
            let path = format!("/v1/workflows/{id}/events?limit=1000&after={}", events.len());
            let (status, page) = self.get(&path).await;
            assert_eq!(status, 200, "{page}");
            let items = page["items"].as_array().expect("a list").clone();
            if items.is_empty() {
                break;
            }
            events.extend(items);
        }
        for (index, event) in events.iter().enumerate() {
            assert_eq!(event["sequence"], json!(index + 1), "a gap in the events of {id}");
        }
        events
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already; nothing is left to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<(u16, Value), reqwest::Error> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

pub(crate) fn is_terminal(run: &Value) -> bool {
    matches!(run["status"].as_str(), Some("completed" | "failed" | "cancelled"))
}

fn is_settled(run: &Value) -> bool {
    is_terminal(run) || run["status"] == "suspended"
}

/// Runs `opcode rebuild --check` on a stopped node's data; panics when anything differs.
pub(crate) fn assert_tables_equal_fold(data_dir: &Path) {
    let output = opcode()
        .args(["rebuild", "--check", "--data-dir"])
        .arg(data_dir)
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the tables equal the fold of the events"), "{text}");
}
