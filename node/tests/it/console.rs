//! The console on the real binary: in a browser, by a person who has only keys; and behind tokens.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::{Node, NodeBuilder};

/// Set where a browser must be there: the folder whose `node_modules` have `playwright-core` and `axe-core`.
const CLIENTS: &str = "OPCODE_TEST_CONSOLE";
/// Where the browser is, when that is said.
const BROWSER: &str = "OPCODE_TEST_CHROMIUM";
/// Where pictures of every page are kept, when that is said.
const PICTURES: &str = "OPCODE_TEST_PICTURES";

fn not_tested() {
    // Past what the test harness keeps to itself, so that nobody takes it for done.
    std::io::stderr().write_all(b"NOT TESTED: the console in a browser, which is not there\n").unwrap();
}

/// The browser and the program that steers it; none where they are not there, which is fine unless the
/// environment says that they must be.
fn browser(dir: &Path) -> Option<(String, PathBuf)> {
    let modules = Path::new(&std::env::var(CLIENTS).ok()?).join("node_modules");
    let browser = std::env::var(BROWSER).unwrap_or_else(|_| "/usr/bin/chromium".into());
    for needed in [modules.join("playwright-core"), modules.join("axe-core"), PathBuf::from(&browser)] {
        assert!(needed.exists(), "{CLIENTS} is set, and {} is not there", needed.display());
    }
    // Modules are looked for from where the program stands.
    std::os::unix::fs::symlink(modules, dir.join("node_modules")).unwrap();
    let program = dir.join("console.mjs");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/console.mjs");
    std::fs::copy(source, &program).unwrap();
    Some((browser, program))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_a_keyboard_does_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some((browser, program)) = browser(dir.path()) else { return not_tested() };
    let pictures = std::env::var(PICTURES).map_or_else(|_| dir.path().join("pictures"), PathBuf::from);
    std::fs::create_dir_all(&pictures).unwrap();
    let node = NodeBuilder::new(&dir.path().join("data")).start();
    let output = Command::new("node")
        .arg(program)
        .args([&node.url, &browser])
        .arg(&pictures)
        .env("HOME", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("the program starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let seen: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    let has = |name: &str, part: &str| {
        assert!(seen[name].to_string().contains(part), "{name}: {}", seen[name]);
    };
    has("empty", "Nothing has run here yet");
    has("first", "completed");
    has("retried", "runs again");
    has("matched", "3 match");
    has("cancelled", "3 of 3 done");
    has("mistake", "crypto.uuidd");
    has("mistake", "did you mean");
    has("saved", "v1");
    assert_eq!((&seen["live"], &seen["help"]), (&Value::Bool(true), &Value::Bool(true)), "{seen}");
    assert_eq!(seen["axe"], serde_json::json!([]), "what axe-core takes for serious");
    assert_eq!(seen["complaints"], serde_json::json!([]), "what the browser complains of");
    assert!(node.stop().success());
}

async fn get(node: &Node, path: &str, cookie: &str) -> reqwest::Response {
    let request = node.request(reqwest::Method::GET, path).header("cookie", cookie);
    request.send().await.expect("the node answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_counts_for_pages_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let (file, token) = (home.path().join("tokens"), "0123456789abcdef0123456789abcdef");
    std::fs::write(&file, token).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = file.display().to_string();
    let node = NodeBuilder::new(&home.path().join("data")).arg("--token-file").arg(&file).start();
    let form = get(&node, "/console/workflows", "").await;
    assert!(form.url().path() == "/console/sign-in" && form.status() == 200, "{}", form.url());
    let cookie = format!("opcode_token={token}");
    let page = get(&node, "/console/workflows", &cookie).await;
    assert_eq!((page.status().as_u16(), page.url().path()), (200, "/console/workflows"));
    for path in ["/v1/workflows", "/metrics", "/mcp"] {
        assert_eq!(get(&node, path, &cookie).await.status(), 401, "{path}");
    }
    let settings = get(&node, "/console/settings", &cookie).await.text().await.expect("a page");
    assert!(settings.contains("token_file") && settings.contains("flag") && !settings.contains(token));
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_do_without_it() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).arg("--no-console").start();
    for path in ["/", "/console/", "/console/workflows"] {
        assert_eq!(get(&node, path, "").await.status(), 404, "{path}");
    }
    assert!(node.stop().success());
}
