//! What `deploy/` has: whatever can be checked of it by the tools of its kind is, and the rest by what
//! it must say. A tool that is not there is said not to have been asked.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::cluster::{NodeBuilder, opcode};

/// Set where promtool must be there: the program.
const PROMTOOL: &str = "OPCODE_TEST_PROMTOOL";
/// Set where tools from PyPI must be there: the folder of their programs.
const TOOLS: &str = "OPCODE_TEST_TOOLS";

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf()
}

/// Past what the test harness keeps to itself, so that nobody takes it for done.
pub(crate) fn not_tested(what: &str) {
    let told = format!("NOT TESTED: {what} is not there\n");
    std::io::stderr().write_all(told.as_bytes()).expect("stderr is open");
}

/// Runs a tool and panics with what it says unless it is content.
pub(crate) fn content(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the tool starts");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {said}");
    said
}

/// Asks promtool, with a file on its stdin; where it is not there, says so, unless it must be.
pub(crate) fn promtool(args: &[&str], stdin: Option<&Path>) {
    let Ok(program) = std::env::var(PROMTOOL) else { return not_tested("promtool") };
    let stdin = stdin.map_or_else(Stdio::null, |file| File::open(file).expect("a file").into());
    content(Command::new(program).args(args).current_dir(root().join("deploy/prometheus")).stdin(stdin));
}

/// A tool from PyPI; none where it is not there, which is said, unless it must be.
pub(crate) fn tool(name: &str) -> Option<Command> {
    let Ok(folder) = std::env::var(TOOLS) else {
        not_tested(&format!("{name} from PyPI"));
        return None;
    };
    let program = Path::new(&folder).join(name);
    assert!(program.exists(), "{TOOLS}={folder} has no {name}");
    Some(Command::new(program))
}

fn text_of(path: &str) -> String {
    std::fs::read_to_string(root().join("deploy").join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml_of(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn alerts_are_valid_fire_when_they_must_and_are_in_the_runbook() {
    let rules = yaml_of(&text_of("prometheus/opcode.rules.yml"));
    let runbook = text_of("RUNBOOK.md");
    let tests = text_of("prometheus/opcode.test.yml");
    let mut alerts = BTreeSet::new();
    for group in rules["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let alert = rule["alert"].as_str().unwrap();
            assert!(alerts.insert(alert.to_owned()), "{alert} twice");
            assert!(runbook.contains(&format!("### {alert}\n")), "{alert} is not in the runbook");
            let link = format!("RUNBOOK.md#{}", alert.to_lowercase());
            assert_eq!(rule["annotations"]["runbook"], link.as_str(), "{alert}");
            assert!(matches!(rule["labels"]["severity"].as_str(), Some("critical" | "warning")), "{alert}");
            assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
        }
    }
    for heading in runbook.lines().filter_map(|line| line.strip_prefix("### Opcode")) {
        assert!(
            alerts.contains(&format!("Opcode{heading}")),
            "the runbook knows of an alert Opcode{heading}"
        );
    }
    promtool(&["check", "rules", "opcode.rules.yml"], None);
    promtool(&["test", "rules", "opcode.test.yml"], None);
    promtool(&["check", "config", "--syntax-only", "prometheus.yml"], None);
}

#[test]
fn the_image_and_the_three_nodes_are_locked_down() {
    let image = text_of("Dockerfile");
    let last = image.rsplit("\nFROM ").next().unwrap();
    for line in ["USER 10001:10001\n", "HEALTHCHECK ", "CMD [\"opcode\", \"health\"]", "STOPSIGNAL SIGTERM\n"]
    {
        assert!(last.contains(line), "the image lacks {line}");
    }
    let compose = text_of("compose.yaml");
    let mut parsed: serde_yaml_ng::Value = serde_yaml_ng::from_str(&compose).unwrap();
    parsed.apply_merge().unwrap();
    let parsed: Value = serde_json::to_value(parsed).unwrap();
    for name in ["node1", "node2", "node3"] {
        let service = &parsed["services"][name];
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["user"], "10001:10001", "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        assert_eq!(service["environment"]["OPCODE_PEER_ADVERTISE"], format!("{name}:5100"), "{name}");
        assert_eq!(service["environment"]["OPCODE_TOKEN_FILE"], "/etc/opcode/token", "{name}");
    }
    if let Some(mut hadolint) = tool("hadolint") {
        content(hadolint.arg(root().join("deploy/Dockerfile")));
    }
    if let Some(mut schema) = tool("check-jsonschema") {
        let file = root().join("deploy/compose.yaml");
        content(schema.args(["--builtin-schema", "vendor.compose-spec"]).arg(file));
    }
}

/// The documents that kustomize makes of a folder; none where it is not there.
fn built(folder: &str) -> Option<String> {
    let made =
        Command::new("kubectl").arg("kustomize").arg(root().join("deploy/kubernetes").join(folder)).output();
    let Ok(Output { status, stdout, stderr }) = made else {
        not_tested("kubectl");
        return None;
    };
    assert!(status.success(), "{folder}: {}", String::from_utf8_lossy(&stderr));
    Some(String::from_utf8(stdout).expect("YAML is text"))
}

fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n").map(yaml_of).collect()
}

fn check_pod(set: &Value) {
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert!(pod["terminationGracePeriodSeconds"].as_u64() > Some(10), "a drain takes 10 s");
    assert_eq!(pod["topologySpreadConstraints"][0]["topologyKey"], "kubernetes.io/hostname");
    let [main, init] = ["containers", "initContainers"].map(|list| &pod[list][0]);
    for container in [main, init] {
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{}", container["name"]);
        assert_eq!(context["allowPrivilegeEscalation"], false, "{}", container["name"]);
        assert_eq!(context["capabilities"]["drop"][0], "ALL", "{}", container["name"]);
        assert!(container["resources"]["limits"]["memory"].is_string(), "{}", container["name"]);
    }
    for (probe, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]
    {
        assert_eq!(main[probe]["httpGet"]["path"], path, "{probe}");
    }
}

#[test]
fn kubernetes_gets_three_nodes_of_which_one_at_a_time_may_go() {
    let (Some(base), Some(bootstrap)) = (built("base"), built("bootstrap")) else { return };
    let all = documents(&base);
    let of = |kind: &str| {
        all.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
    };
    let set = of("StatefulSet");
    assert_eq!((&set["spec"]["replicas"], &set["spec"]["serviceName"]), (&3.into(), &"opcode-nodes".into()));
    check_pod(set);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], *labels);
    let budget = &of("PodDisruptionBudget")["spec"];
    assert_eq!((&budget["maxUnavailable"], &budget["selector"]["matchLabels"]), (&1.into(), labels));
    for service in all.iter().filter(|document| document["kind"] == "Service") {
        assert_eq!(service["spec"]["selector"], *labels, "{}", service["metadata"]["name"]);
    }
    // Who founds the cluster is said in the bootstrap alone: else a lost volume would found another.
    let founds = "name: FOUNDER";
    assert!(!base.contains(founds) && bootstrap.contains(founds));
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("base.yaml", &base), ("bootstrap.yaml", &bootstrap)] {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        if let Some(mut validate) = tool("kubernetes-validate") {
            content(validate.args(["--strict", "-k", "1.33"]).arg(&file));
        }
    }
}

#[test]
fn the_unit_is_hardened_and_the_package_has_its_files() {
    let unit = root().join("deploy/systemd/opcode.service");
    match Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&unit)
        .output()
    {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "its exposure is over 2.0: {said}");
        }
        Err(_) => not_tested("systemd-analyze"),
    }
    let manifest = std::fs::read_to_string(root().join("node/Cargo.toml")).unwrap();
    let section = manifest.split("[package.metadata.deb]").nth(1).unwrap();
    let section = section.split("\n[features]").next().unwrap();
    let assets: Vec<&str> = section.split('"').filter(|part| part.starts_with("../")).collect();
    assert!(assets.len() > 6, "{assets:?}");
    for asset in assets {
        let named = asset.split('*').next().unwrap();
        assert!(root().join("node").join(named).exists(), "{asset} is not there");
    }
    for script in ["postinst", "postrm"] {
        content(Command::new("sh").arg("-n").arg(root().join("deploy/debian").join(script)));
        assert!(text_of(&format!("debian/{script}")).contains("\n#DEBHELPER#\n"), "{script}");
    }
}

#[test]
fn the_configuration_file_names_every_key() {
    let annotated = text_of("opcode.toml");
    let shown = content(opcode().arg("config").current_dir(tempfile::tempdir().unwrap().path()));
    let keys: Vec<_> = shown.lines().skip(1).map_while(|line| line.split_whitespace().next()).collect();
    assert!(keys.len() > 20, "{shown}");
    // What follows is another table.
    for key in keys.into_iter().take_while(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
        let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(annotated.lines().any(stands), "opcode.toml does not name {key}");
    }
}

/// Codes that our sources give to problems themselves.
fn codes() -> BTreeSet<String> {
    let mut files = Vec::new();
    crate::observability::sources(&root().join("router/src"), &mut files);
    let mut found = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("a source");
        for after in text.split("StatusCode::").skip(1) {
            // `NAME, "CODE"`, as an error is made of.
            let mut parts = after.splitn(3, '"');
            let (before, code) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let is_code = code.len() > 3 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            if is_code && before.trim_end().ends_with(',') && !before.contains([';', '(', ')']) {
                found.insert(code.to_owned());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_tells_whether_a_node_serves_and_an_agent_finds_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&dir.path().join("data")).start();
    let health = || opcode().args(["health", "--server", &node.url]).output().unwrap();
    let answer = health();
    assert!(
        answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains("is ready"),
        "{answer:?}"
    );
    let text = async |path: &str| {
        let response = node.request(reqwest::Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    };
    let overview = text("/llms.txt").await;
    assert!(overview.starts_with("# OPCODE cluster\n\n> "));
    for link in overview.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        // MCP is spoken, not read.
        if link != "/mcp" {
            assert!(!text(link).await.is_empty(), "{link}");
        }
    }
    let codes = codes();
    assert!(codes.contains("OVERLOADED") && codes.contains("STORAGE_FULL"), "{codes:?}");
    for code in codes {
        assert!(text(&format!("/errors/{code}")).await.contains("## Fix"), "{code}");
    }
    let skill = text("/skill.md").await;
    assert!(skill.starts_with("---\nname: opcode\ndescription: "));
    let example = skill.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let file = dir.path().join("skill.json");
    std::fs::write(&file, example).unwrap();
    content(opcode().arg("validate").arg(&file));
    assert!(node.stop().success());
    let gone = opcode().args(["health", "--server", "http://127.0.0.1:9"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(7));
}
