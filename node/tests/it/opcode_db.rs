//! What an original OPCODE has kept, in a database by its published schema, moves here; a file that is
//! something else is refused, and garbage in it is told and harms nothing beside it.

use std::path::Path;

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::cli::run;
use crate::cluster::{Node, NodeBuilder, assert_tables_equal_fold};
use crate::secrets::key_file;

const TABLES: &str = "
CREATE TABLE agents (id TEXT PRIMARY KEY, name TEXT NOT NULL, type TEXT DEFAULT 'llm', metadata JSON DEFAULT '{}',
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, last_seen_at TIMESTAMP);
CREATE TABLE workflows (id TEXT PRIMARY KEY, name TEXT, template_name TEXT, template_version TEXT,
    definition JSON NOT NULL, status TEXT NOT NULL DEFAULT 'pending', agent_id TEXT NOT NULL,
    parent_workflow_id TEXT, input_params JSON DEFAULT '{}', output JSON, error JSON,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, started_at TIMESTAMP, completed_at TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, workflow_id TEXT NOT NULL, step_id TEXT,
    event_type TEXT NOT NULL, payload JSON, agent_id TEXT, timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    sequence INTEGER NOT NULL, UNIQUE(workflow_id, sequence));
CREATE TABLE step_state (workflow_id TEXT, step_id TEXT, status TEXT NOT NULL DEFAULT 'pending', input JSON,
    output JSON, error JSON, retry_count INTEGER DEFAULT 0, started_at TIMESTAMP, completed_at TIMESTAMP,
    duration_ms INTEGER, PRIMARY KEY (workflow_id, step_id));
CREATE TABLE workflow_context (workflow_id TEXT PRIMARY KEY, agent_id TEXT NOT NULL, original_intent TEXT NOT NULL,
    decisions_log JSON DEFAULT '[]', accumulated_data JSON DEFAULT '{}', agent_notes TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE pending_decisions (id TEXT PRIMARY KEY, workflow_id TEXT NOT NULL, step_id TEXT NOT NULL,
    agent_id TEXT, target_agent_id TEXT, context JSON NOT NULL, options JSON NOT NULL, timeout_at TIMESTAMP,
    fallback TEXT, resolution JSON, resolved_by TEXT, resolved_at TIMESTAMP, status TEXT DEFAULT 'pending',
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE workflow_templates (name TEXT, version TEXT, description TEXT, definition JSON NOT NULL,
    input_schema JSON, output_schema JSON, triggers JSON DEFAULT '[]', permissions JSON DEFAULT '{}',
    agent_id TEXT NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (name, version));
CREATE TABLE secrets (key TEXT PRIMARY KEY, value BLOB NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE scheduled_jobs (id TEXT PRIMARY KEY, template_name TEXT NOT NULL, template_version TEXT,
    cron_expression TEXT NOT NULL, params JSON DEFAULT '{}', agent_id TEXT NOT NULL, enabled BOOLEAN DEFAULT 1,
    last_run_at TIMESTAMP, next_run_at TIMESTAMP, last_run_status TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
";

const ROWS: &str = r#"
INSERT INTO agents(id, name) VALUES ('a-1', 'Ann');
INSERT INTO workflow_templates(name, version, description, definition, input_schema, agent_id, created_at) VALUES
    ('greet', 'v10', 'tenth', '{"steps":[{"id":"u","action":"crypto.uuid"}]}', NULL, 'a-1', '2026-02-01 10:00:00'),
    ('greet', 'v2', 'second', '{"steps":[{"id":"hi","action":"workflow.log","params":{"message":"hello"}}]}', NULL, 'a-1', '2026-02-01T11:00:00Z'),
    ('greet', 'v1', 'first', '{"steps":[{"id":"hi","action":"workflow.log","params":{"message":"hi"}}]}', '{"type":"object"}', 'a-1', '2026-02-01 10:00:00'),
    ('broken', 'v1', NULL, 'not JSON', NULL, 'a-1', '2026-02-01 10:00:00');
INSERT INTO workflows(id, template_name, template_version, definition, status, agent_id, input_params, output, error,
    created_at, started_at, completed_at) VALUES
    ('good', 'greet', 'v1', '{"steps":[{"id":"hi","action":"workflow.log","params":{"message":"hi"}},{"id":"no","action":"workflow.log","params":{"message":"no"},"condition":"false"}]}',
     'completed', 'a-1', '{"who":"world"}', '{"hi":{"logged":true}}', NULL,
     '2026-02-10 12:00:00 +0000 UTC', '2026-02-10 12:00:00.25 +0000 UTC', '2026-02-10 12:00:02 +0000 UTC'),
    ('bad', NULL, NULL, '{"steps":[{"id":"x","action":"http.get","params":{"url":"http://x"}}]}', 'failed', 'a-1', '[1]', NULL,
     '{"code":"TIMEOUT_ERROR","message":"late"}', '2026-02-11 12:00:00', '2026-02-11 12:00:00', '2026-02-11 12:00:09'),
    ('off', NULL, NULL, '{"steps":[{"id":"ask","type":"reasoning","config":{"prompt_context":"?","options":[{"id":"y"}]}}]}',
     'cancelled', 'a-1', 'garbage {', NULL, NULL, '2026-02-12T12:00:00Z', '2026-02-12T12:00:00Z', NULL),
    ('garbage', NULL, NULL, '{"steps":', 'completed', 'a-1', '{}', NULL, NULL, '2026-02-12 12:00:00', NULL, NULL),
    ('timeless', NULL, NULL, '{"steps":[{"id":"u","action":"crypto.uuid"}]}', 'completed', 'a-1', '{}', NULL, NULL, 'noon', NULL, NULL),
    ('../escape', NULL, NULL, '{"steps":[{"id":"u","action":"crypto.uuid"}]}', 'completed', 'a-1', '{}', NULL, NULL, '2026-02-12 12:00:00', NULL, NULL),
    ('runs', NULL, NULL, '{"steps":[{"id":"u","action":"crypto.uuid"}]}', 'active', 'a-1', '{}', NULL, NULL, '2026-02-13 12:00:00', NULL, NULL),
    ('rests', NULL, NULL, '{"steps":[{"id":"w","type":"wait","config":{"signal":"go"}}]}', 'suspended', 'a-1', '{}', NULL, NULL, '2026-02-13 12:00:00', NULL, NULL);
INSERT INTO workflow_context(workflow_id, agent_id, original_intent, accumulated_data) VALUES ('good', 'a-1', 'to greet', '{"n":1}');
INSERT INTO step_state(workflow_id, step_id, status, input, output, error, retry_count, started_at, completed_at) VALUES
    ('good', 'hi', 'completed', '{"message":"hi"}', '{"logged":true}', NULL, 2, '2026-02-10 12:00:01', '2026-02-10 12:00:02'),
    ('good', 'no', 'skipped', NULL, NULL, NULL, 0, NULL, NULL),
    ('good', 'hi.iter_0.deep', 'completed', NULL, '1', NULL, 0, '2026-02-10 12:00:01', '2026-02-10 12:00:01'),
    ('bad', 'x', 'failed', NULL, NULL, '"no route"', 0, '2026-02-11 12:00:01', '2026-02-11 11:00:00'),
    ('off', 'ask', 'suspended', NULL, NULL, NULL, 0, '2026-02-12 12:00:01', NULL);
INSERT INTO events(workflow_id, step_id, event_type, payload, agent_id, timestamp, sequence) VALUES
    ('good', NULL, 'workflow_started', '{}', 'a-1', '2026-02-10 12:00:00', 1),
    ('good', 'hi', 'step_completed', 'not JSON', NULL, '2031-01-01 00:00:00', 2);
INSERT INTO pending_decisions(id, workflow_id, step_id, context, options, status) VALUES ('d', 'off', 'ask', '{}', '[]', 'cancelled');
INSERT INTO scheduled_jobs(id, template_name, cron_expression, params, agent_id, enabled) VALUES
    ('nightly', 'greet', '0 2 * * *', '{"who":"you"}', 'a-1', 0),
    ('never', 'nobody', '@daily', '{}', 'a-1', 1),
    ('wrong', 'greet', 'at noon', '{}', 'a-1', 1);
"#;

fn sealed(passphrase: &str, value: &str) -> Vec<u8> {
    let mut key = [0_u8; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.as_bytes(), b"opcode-vault-salt", 100_000, &mut key);
    let nonce = [9_u8; 12];
    let cipher = Aes256Gcm::new((&key).into());
    let sealed = cipher.encrypt(Nonce::from_slice(&nonce), value.as_bytes()).expect("it is sealed");
    [&nonce[..], &sealed].concat()
}

async fn make(file: &Path, tables: &str, rows: &str) {
    let database = libsql::Builder::new_local(file).build().await.expect("a database");
    let connection = database.connect().expect("a connection");
    connection.execute_batch(tables).await.expect("tables");
    connection.execute_batch(rows).await.expect("rows");
}

/// The exit code, the document, and what was told beside it.
fn asked(node: &Node, file: &Path, args: &[&str]) -> (Option<i32>, Value, String) {
    let file = file.display().to_string();
    let all = [&["import", "--opcode-db", &file, "-o", "json"][..], args].concat();
    let output = run(&node.url, &all, "");
    let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), document, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_opcode_has_kept_moves_here() {
    let home = tempfile::tempdir().unwrap();
    let (data, file) = (home.path().join("data"), home.path().join("opcode.db"));
    make(&file, TABLES, ROWS).await;
    let database = libsql::Builder::new_local(&file).build().await.unwrap();
    let insert = "INSERT INTO secrets(key, value) VALUES ('API_KEY', ?1), ('LOST', ?2)";
    let values = [sealed("open sesame", "s3cret"), sealed("another", "x")];
    database.connect().unwrap().execute(insert, values).await.unwrap();
    drop(database);
    let before = std::fs::read(&file).unwrap();
    let keys = key_file(home.path(), 0o600).display().to_string();
    let node = NodeBuilder::new(&data).arg("--secrets-key-file").arg(keys).start();

    // First it is seen what there is.
    let (code, seen, told) = asked(&node, &file, &["--dry-run"]);
    assert_eq!(code, Some(1), "{told}");
    assert_eq!(
        (&seen["templates"], &seen["ended_workflows"], &seen["schedules"]),
        (&json!(3), &json!(3), &json!(3))
    );
    assert_eq!((&seen["agents"], &seen["secrets"]), (&json!(["Ann"]), &json!(0)), "{seen}");
    assert_eq!(seen["left"], json!(["rests (suspended)", "runs (active)"]));
    for word in
        ["broken@v1", "garbage: its definition", "timeless: it has no created_at", "../escape", "API_KEY"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(!told.contains("s3cret"));
    assert_eq!(node.get("/v1/workflows").await.1["items"], json!([]));

    let pass = home.path().join("pass");
    std::fs::write(&pass, "open sesame\n").unwrap();
    std::fs::set_permissions(&pass, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let flags = ["--restart-running", "--secrets-passphrase-file", pass.to_str().unwrap()];
    let (code, done, told) = asked(&node, &file, &flags);
    assert_eq!(code, Some(1), "some of it is garbage: {told}");
    assert_eq!(
        (&done["schedules"], &done["secrets"], &done["restarted"]),
        (&json!(1), &json!(1), &json!(2)),
        "{told}"
    );
    // Two versions and three runs; the tenth version has nothing before it.
    assert_eq!((&done["lines"]["imported"], &done["lines"]["failed"]), (&json!(5), &json!(1)), "{told}");
    for word in ["LOST: the passphrase", "job never", "job wrong", "versions come in order"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    moved(&node).await;
    let (_, again, told) = asked(&node, &file, &flags);
    assert_eq!((&again["lines"]["imported"], &again["lines"]["unchanged"]), (&json!(0), &json!(5)), "{told}");
    assert_eq!(std::fs::read(&file).unwrap(), before, "the file is only read");
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

/// What is there now.
async fn moved(node: &Node) {
    let good = node.end("good").await;
    let shown = |fields: &[&str]| fields.iter().map(|field| good[*field].clone()).collect::<Vec<_>>();
    assert_eq!(
        shown(&["status", "template", "version", "agent_id", "created_at", "completed_at"]),
        ["completed", "greet", "v1", "a-1", "2026-02-10T12:00:00.000Z", "2026-02-10T12:00:02.000Z"]
    );
    assert_eq!(
        (&good["params"], &good["output"]),
        (&json!({"who": "world"}), &json!({"hi": {"logged": true}}))
    );
    assert_eq!(
        (&good["context"]["intent"], &good["context"]["agent_name"]),
        (&json!("to greet"), &json!("Ann"))
    );
    let hi = &good["steps"]["hi"];
    assert_eq!(
        (&hi["status"], &hi["attempts"], &hi["output"]),
        (&json!("completed"), &json!(3), &json!({"logged": true}))
    );
    assert_eq!(good["steps"]["no"]["status"], "skipped");
    let events = node.events("good").await;
    let originals: Vec<&str> = events.iter().filter_map(|event| event["data"]["event"].as_str()).collect();
    for name in ["opcode.workflow_started", "opcode.step_completed", "opcode.step_state"] {
        assert!(originals.contains(&name), "{name}: {originals:?}");
    }
    let bad = node.end("bad").await;
    assert_eq!((&bad["status"], &bad["error"]["code"]), (&json!("failed"), &json!("TIMEOUT_ERROR")));
    assert_eq!(bad["steps"]["x"]["error"]["message"], "no route");
    assert_eq!(bad["params"], json!({"input_params": [1]}));
    assert_eq!(node.end("off").await["status"], "cancelled");
    assert_eq!(node.end("runs").await["status"], "completed");
    assert_eq!(node.settle("rests").await["status"], "suspended");
    let (_, template) = node.get("/v1/templates/greet").await;
    assert_eq!((&template["version"], &template["description"]), (&json!("v2"), &json!("second")));
    assert_eq!(node.get("/v1/templates/greet?version=v1").await.1["input_schema"], json!({"type": "object"}));
    let (_, schedule) = node.get("/v1/schedules/nightly").await;
    assert_eq!((&schedule["paused"], &schedule["params"]), (&json!(true), &json!({"who": "you"})));
    assert_eq!(node.get("/v1/secrets").await.1["items"][0]["key"], "API_KEY");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_of_an_opcode_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let file = |name: &str| home.path().join(name);
    std::fs::write(file("text"), "CREATE TABLE workflows").unwrap();
    std::fs::write(file("empty"), "").unwrap();
    std::fs::create_dir(file("folder")).unwrap();
    make(&file("other"), "CREATE TABLE notes(id)", "").await;
    make(&file("columns"), &TABLES.replace("definition JSON", "defs JSON"), "").await;
    // A view in the place of a table, which would never come to its end.
    let endless = "CREATE VIEW workflows AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n;";
    make(&file("view"), endless, "").await;
    make(&file("torn"), TABLES, ROWS).await;
    let mut torn = std::fs::read(file("torn")).unwrap();
    let half = torn.len() / 2;
    torn[4096..half].fill(0xa5);
    std::fs::write(file("torn"), torn).unwrap();
    for (name, word) in [
        ("text", "not a database"),
        ("empty", "no table `workflows`"),
        ("folder", "no such file"),
        ("none", "no such file"),
        ("other", "no table `workflows`"),
        ("columns", "no such column"),
        ("view", "no table `workflows`"),
        ("torn", "torn: "),
    ] {
        let (code, _, told) = asked(&node, &file(name), &[]);
        assert!(code == Some(1) && told.contains(word), "{name}: {code:?} {told}");
    }
    let pass = file("pass");
    std::fs::write(&pass, "open sesame").unwrap();
    std::fs::set_permissions(&pass, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (code, _, told) = asked(&node, &file("none"), &["--secrets-passphrase-file", pass.to_str().unwrap()]);
    assert!(code == Some(1) && told.contains("chmod 600"), "{told}");
    assert_eq!(node.get("/v1/workflows").await.1["items"], json!([]));
}
