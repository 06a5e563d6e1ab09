//! The API as others see it: clients in Python and TypeScript that are made of `/openapi.json`, each with
//! an example that runs, and schemathesis, which tries whatever the document allows.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Node, NodeBuilder};
use crate::deploy::{content, not_tested, tool};

/// Set where the makers of TypeScript clients must be there: the folder with their `node_modules`.
const TYPESCRIPT: &str = "OPCODE_TEST_TYPESCRIPT";
/// What schemathesis may take.
const SECONDS_MAX: &str = "30";
/// What must be so with every answer. Not which methods `Allow` names: some paths stand for an id too, and
/// take methods that the document tells of there.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,response_headers_conformance,missing_required_header";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A node with a key for secrets, and the document that it serves, as a file.
async fn described(dir: &Path) -> (Node, PathBuf) {
    let key = dir.join("key");
    std::fs::write(&key, "ab".repeat(32)).expect("a file can be written");
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("it is ours");
    let keys = format!("--secrets-key-file={}", key.display());
    let node = NodeBuilder::new(&dir.join("data")).arg(keys).start();
    let document =
        node.request(reqwest::Method::GET, "/openapi.json").send().await.expect("the node answers");
    let file = dir.join("openapi.json");
    std::fs::write(&file, document.bytes().await.expect("a body")).expect("a file can be written");
    (node, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_is_made_of_the_document_and_runs() {
    let (Some(mut maker), Some(mut python)) = (tool("openapi-python-client"), tool("python")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (node, document) = described(dir.path()).await;
    let client = dir.path().join("opcode_client");
    let said = content(
        maker.args(["generate", "--meta", "none", "--path"]).arg(document).arg("--output-path").arg(client),
    );
    // It knows no NDJSON, and wants a formatter for what nobody reads.
    let of_lines =
        ["content type", "content_type"].map(|what| format!("Unsupported {what} application/x-ndjson"));
    let passed_over: usize = of_lines.iter().map(|what| said.matches(what).count()).sum();
    assert!(said.matches("WARNING").count() == passed_over && !said.contains("ERROR"), "{said}");
    let ran = content(python.arg(example("api_client.py")).arg(dir.path()).arg(&node.url));
    assert_eq!(ran.trim(), "done");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_typescript_client_is_made_of_the_document_checked_and_runs() {
    let Ok(folder) = std::env::var(TYPESCRIPT) else { return not_tested("openapi-typescript from npm") };
    let modules = Path::new(&folder).join("node_modules");
    let dir = tempfile::tempdir().unwrap();
    let (node, document) = described(dir.path()).await;
    std::os::unix::fs::symlink(&modules, dir.path().join("node_modules")).unwrap();
    std::fs::write(dir.path().join("package.json"), r#"{"type": "module"}"#).unwrap();
    std::fs::copy(example("api_client.ts"), dir.path().join("api_client.ts")).unwrap();
    let program = |name: &str| {
        let mut command = Command::new(modules.join(".bin").join(name));
        command.current_dir(dir.path());
        command
    };
    content(program("openapi-typescript").arg(document).args(["-o", "schema.d.ts"]));
    let options =
        ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "api_client.ts"];
    content(program("tsc").args(options));
    let ran = content(Command::new("node").arg(dir.path().join("api_client.js")).arg(&node.url));
    assert_eq!(ran.trim(), "done");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_document_allows_is_answered_as_it_says() {
    let Some(mut schemathesis) = tool("schemathesis") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (node, document) = described(dir.path()).await;
    schemathesis
        .current_dir(dir.path())
        .arg("run")
        .arg(document)
        .args(["--url", &node.url])
        // A stream without an end, and one that it cannot write.
        .args(["--exclude-operation-id", "followEvents", "--exclude-path", "/v1/import"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "5", "--seed", "1"])
        .args(["--max-time", SECONDS_MAX, "--request-timeout", "20"])
        // What is not there is looked for too, and what a token may do is tested elsewhere.
        .args(["--warnings", "off", "--generation-with-security-parameters", "false"])
        .args(["--checks", CHECKS, "--continue-on-failure", "--no-color"]);
    content(&mut schemathesis);
    let (status, _) = node.get("/readyz").await;
    assert_eq!(status, 200, "the node is well");
    assert!(node.stop().success());
}
