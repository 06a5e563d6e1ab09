//! Secrets and the real binary: its keys, what it tells of them, and its command line.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::json;

use crate::cluster::{NodeBuilder, opcode};

/// A passphrase that must not be told.
const PASSPHRASE: &str = "passphrase-canary-93d1";

/// Runs `opcode ARGS…` with `input` on stdin.
fn run(args: &[&str], input: &str) -> Output {
    let mut command = opcode();
    command.args(args).env("OPCODE_SECRETS_PASSPHRASE", PASSPHRASE);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads no input may have closed it already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A file of one key, with this mode.
pub(crate) fn key_file(home: &Path, mode: u32) -> PathBuf {
    let file = home.join(format!("key-{mode:o}"));
    std::fs::write(&file, format!("{}\n", "c5".repeat(32))).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    file
}

#[test]
fn the_configuration_tells_where_keys_are_and_not_which() {
    let home = tempfile::tempdir().unwrap();
    let file = key_file(home.path(), 0o600).display().to_string();
    let shown = told(&run(&["config", "--secrets-key-file", &file], ""));
    assert!(shown.contains("secrets_key_file") && shown.contains(&file), "{shown}");
    assert!(shown.contains("environment variable OPCODE_SECRETS_PASSPHRASE"), "{shown}");
    assert!(!shown.contains(PASSPHRASE) && !shown.contains("c5c5"), "{shown}");
    let toml = home.path().join("opcode.toml");
    std::fs::write(&toml, format!("secrets_passphrase = \"{PASSPHRASE}\"\n")).unwrap();
    let refused = run(&["config", "--config", &toml.display().to_string()], "");
    assert!(!refused.status.success(), "a passphrase in a file that others may read is no key of it");
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (file, data) = (key_file(home.path(), 0o644), home.path().join("data"));
    let [file, data] = [file, data].map(|path| path.display().to_string());
    let args = ["serve", "--data-dir", &data, "--listen", "127.0.0.1:0", "--secrets-key-file", &file];
    let refused = run(&args, "");
    assert!(!refused.status.success());
    assert!(told(&refused).contains("chmod 600"), "{}", told(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_not_taken_from_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let refused = run(&["--server", &node.url, "secret", "set", "K", "value-canary-12"], "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("@FILE") && !told(&refused).contains("canary"), "{}", told(&refused));
    // The node has no key of its own: the client's passphrase is not its.
    let refused = run(&["--server", &node.url, "secret", "set", "K"], "value-canary-12\n");
    assert_eq!(refused.status.code(), Some(7), "{}", told(&refused));
    assert!(
        told(&refused).contains("VAULT_ERROR") && !told(&refused).contains("canary"),
        "{}",
        told(&refused)
    );
    let run = json!({"definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}});
    assert_eq!(node.post("/v1/workflows?wait=20s", &run).await.1["status"], "completed");
}
