//! Every published example, unchanged, on the real binary: with a loopback service, small scripts
//! and answered decisions, all end as they should.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, assert_tables_equal_fold, is_terminal};
use crate::service::Service;

fn examples_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples")
}

pub(crate) fn example(name: &str) -> Value {
    let path = examples_dir().join(format!("{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).expect("the example is there")).expect("it is JSON")
}

/// Scripts and files that the examples expect beside them.
pub(crate) fn workspace(dir: &Path) {
    let scripts = dir.join("scripts");
    fs::create_dir_all(&scripts).unwrap();
    let script = |name: &str, text: &str| {
        let path = scripts.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "check_backup.sh",
        "echo \"{\\\"exists\\\": true, \\\"age_hours\\\": 48, \\\"path\\\": \\\"$1/b.tar\\\", \\\"size_mb\\\": 3}\"\n",
    );
    script(
        "parse_csv.py",
        "import csv, json, sys\nrows = list(csv.DictReader(open(sys.argv[1])))\n\
         print(json.dumps({'rows': rows, 'count': len(rows)}))\n",
    );
    script(
        "scan.sh",
        "echo '{\"vulnerabilities_found\": true, \"critical\": 1, \"high\": 2, \"medium\": 0, \"packages\": [\"x\"]}'\n",
    );
    script("analyze.py", "print('{\"anomaly_count\": 3, \"severity\": \"high\", \"details\": [\"a\"]}')\n");
    script("verify.sh", "if [ \"$1\" = vpn-access ]; then echo no >&2; exit 1; fi\necho '{\"ok\": true}'\n");
    script(
        "check_version.sh",
        "latest=$(sed 's#.*refs/tags/##' | grep -v '\\^{}' | sort -V | tail -n 1)\n\
         [ \"$latest\" = \"$1\" ] && new=false || new=true\n\
         echo \"{\\\"update_available\\\": $new, \\\"latest_version\\\": \\\"$latest\\\", \\\"tag_ref\\\": \\\"$latest\\\"}\"\n",
    );
    fs::write(dir.join("rows.csv"), "a,b\n1,2\n3,4\n").unwrap();
    fs::write(dir.join("app.log"), "line\n").unwrap();
    fs::write(dir.join("image.png"), [0x89, b'P', b'N', b'G']).unwrap();
    fs::create_dir_all(dir.join("in")).unwrap();
    fs::write(dir.join("in/one.txt"), "1").unwrap();
    fs::write(dir.join("in/two.txt"), "2").unwrap();
    repository(&dir.join("repo"));
}

/// A small git repository with tags and merged branches.
fn repository(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let script = "git init -q -b main . && git config user.name t && git config user.email t@localhost \
                  && git commit -q --allow-empty -m one && git tag v1.0.0 \
                  && git commit -q --allow-empty -m two && git tag v1.1.0 \
                  && git branch develop && git branch feature-done && git remote add origin .";
    let status = Command::new("bash").args(["-c", script]).current_dir(dir).status().expect("git is there");
    assert!(status.success());
}

/// Submits an example, answers its decisions with `choice`, and returns the ended run.
async fn run(node: &Node, name: &str, params: Value, choice: &str) -> Value {
    let file = example(name);
    let id = node.submit(&json!({"definition": file, "params": params, "agent_id": "tester"})).await;
    let mut answered = HashSet::new();
    loop {
        let run = node.settle(&id).await;
        if is_terminal(&run) {
            return run;
        }
        let pending = run["pending_decisions"].as_array().expect("a list").clone();
        assert!(!pending.is_empty(), "{name} waits for something else: {run}");
        for decision in pending {
            answer(node, &id, &decision, choice).await;
            assert!(
                answered.insert(decision["decision_id"].to_string()),
                "{name}: a decision was asked twice"
            );
        }
    }
}

async fn answer(node: &Node, id: &str, decision: &Value, choice: &str) {
    let choice = choose(decision, choice);
    let agent = decision["target_agent"].as_str().unwrap_or("tester");
    let signal = json!({"type": "decision", "step_id": decision["step_id"], "agent_id": agent,
                        "payload": {"choice": choice}, "reasoning": "as the test says"});
    let (status, body) = node.post(&format!("/v1/workflows/{id}/signals"), &signal).await;
    assert_eq!(status, 202, "{body}");
}

/// The choice that a decision takes: the one named, or its first.
pub(crate) fn choose<'a>(decision: &'a Value, choice: &'a str) -> &'a str {
    let options = decision["options"].as_array().expect("a list");
    match options.iter().find(|option| option["id"] == choice) {
        Some(_) => choice,
        None => options.first().map_or("as it is", |option| option["id"].as_str().expect("an id")),
    }
}

pub(crate) fn status_of<'a>(run: &'a Value, step: &str) -> &'a str {
    run["steps"][step]["status"].as_str().unwrap_or("absent")
}

/// Example, its params, the choice for its decisions, and steps with the status they end in.
pub(crate) type Case = (&'static str, Value, &'static str, Vec<(&'static str, &'static str)>);

#[expect(clippy::too_many_lines, reason = "a table, one example after another")]
pub(crate) fn cases(service: &Service, dir: &Path) -> Vec<Case> {
    let url = |path: &str| service.url(path);
    let path = |name: &str| dir.join(name).display().to_string();
    let order = json!({"order": {"id": "o-1", "product": "tea", "quantity": 2, "price": 9.5},
        "stock_api_url": url("stock"), "payment_api_url": url("pay"),
        "fulfillment_api_url": url("fulfil"), "notification_api_url": url("notify")});
    let mut no_stock = order.clone();
    no_stock["stock_api_url"] = json!(url("no-stock"));
    let notify = |severity: &str| {
        json!({"severity": severity, "title": "t", "message": "m",
        "slack_webhook_url": url("slack"), "email_api_url": url("email")})
    };
    vec![
        (
            "approval-chain",
            json!({"request_id": "r-1", "request_summary": "s"}),
            "approve",
            vec![("reviewer2", "completed"), ("log-completed", "completed")],
        ),
        (
            "auto-responder",
            json!({"message": "reset my password", "faq_keywords": ["password"],
            "respond_api_url": url("respond"), "sender_id": "s", "template_response": "hello"}),
            "",
            vec![("check-faq.true.send-template", "completed")],
        ),
        (
            "auto-responder",
            json!({"message": "other", "faq_keywords": ["password"],
            "respond_api_url": url("respond"), "sender_id": "s"}),
            "free words",
            vec![("check-faq.default.draft-response", "completed")],
        ),
        (
            "backup-verification",
            json!({"backup_dir": path("in"), "max_age_hours": 24}),
            "investigate",
            vec![("verify-exists.true.check-freshness.default.stale-decision", "completed")],
        ),
        (
            "backup-verification",
            json!({"backup_dir": path("in"), "max_age_hours": 99}),
            "",
            vec![("verify-exists.true.check-freshness.true.log-ok", "completed")],
        ),
        (
            "batch-file-processor",
            json!({"input_dir": path("in"), "output_dir": path("out")}),
            "",
            vec![("process-each.iter_1.hash-file", "completed"), ("log-complete", "completed")],
        ),
        (
            "content-pipeline",
            json!({"content": "c", "publish_api_url": url("p"), "slack_webhook_url": url("s"),
            "email_api_url": url("e")}),
            "publish",
            vec![("log-review-complete", "completed")],
        ),
        (
            "content-summarizer",
            json!({"url": url("page"), "output_path": path("summary.txt")}),
            "approve",
            vec![("write-result", "completed"), ("review-quality", "completed")],
        ),
        (
            "csv-to-api",
            json!({"csv_path": path("rows.csv"), "api_url": url("rows")}),
            "",
            vec![("upload-data", "completed")],
        ),
        (
            "dependency-audit",
            json!({"notification_url": url("audit")}),
            "defer",
            vec![("triage", "completed"), ("notify-vulns", "completed")],
        ),
        (
            "escalation-ladder",
            json!({"health_url": url("down"), "escalation_webhook_url": url("x")}),
            "resolve",
            vec![
                ("check-health.true.agent-triage", "completed"),
                ("check-health.true.log-triage", "completed"),
            ],
        ),
        (
            "escalation-ladder",
            json!({"health_url": url("up"), "escalation_webhook_url": url("x")}),
            "",
            vec![("check-health.false.log-healthy", "completed")],
        ),
        ("git-branch-cleanup", json!({"repo_dir": path("repo")}), "", vec![("cleanup-loop", "completed")]),
        (
            "image-processing",
            json!({"source_path": path("image.png"), "output_path": path("copy.png"),
            "cdn_upload_url": url("cdn")}),
            "",
            vec![("upload-cdn", "completed")],
        ),
        (
            "iterative-refinement",
            json!({"draft_content": "d"}),
            "approve",
            vec![("log-review-complete", "completed")],
        ),
        (
            "knowledge-base-updater",
            json!({"source_url": url("page"), "last_hash": "x", "kb_path": path("kb.md")}),
            "relevant",
            vec![("check-changed.true.append-kb", "completed")],
        ),
        (
            "log-anomaly-triage",
            json!({"log_path": path("app.log"), "notification_url": url("n")}),
            "ignore",
            vec![("notify", "completed")],
        ),
        (
            "multi-agent-review",
            json!({"data_url": url("scores"), "threshold": 0.8}),
            "reject",
            vec![("publish", "skipped"), ("log-result", "completed")],
        ),
        (
            "multi-source-research",
            json!({"source_a_url": url("a"), "source_b_url": url("b"),
            "source_c_url": url("c")}),
            "source_b",
            vec![("log-selection", "completed")],
        ),
        (
            "notification-router",
            notify("critical"),
            "delegated",
            vec![
                ("route-severity.critical.critical-alerts.branch_2.acknowledge", "completed"),
                ("route-severity.critical.emit-critical-sent", "completed"),
            ],
        ),
        (
            "notification-router",
            notify("info"),
            "",
            vec![("route-severity.info.emit-info-logged", "completed")],
        ),
        ("notification-router", notify("unheard-of"), "", vec![("route-severity", "completed")]),
        (
            "onboarding-checklist",
            json!({"checklist_items": ["vpn-access", "email-setup"]}),
            "approve",
            vec![("verify-items.iter_0.verify", "completed"), ("review-results", "completed")],
        ),
        (
            "openclaw-version-checker",
            json!({"repo_url": path("repo"), "current_version": "v1.0.0",
            "install_dir": path("repo"), "notification_url": url("v")}),
            "",
            vec![("route-update.true.notify-update", "completed")],
        ),
        ("order-processing", order, "", vec![("stock-decision.true.send-confirmation", "completed")]),
        ("order-processing", no_stock, "", vec![("stock-decision.default.notify-out-of-stock", "completed")]),
        (
            "price-monitor",
            json!({"products": [{"name": "tea", "url": url("tea"), "threshold": 3}],
            "notification_api_url": url("n")}),
            "",
            vec![("check-prices.iter_0.notify", "completed")],
        ),
        (
            "social-cross-post",
            json!({"content": "c", "twitter_api_url": url("t"),
            "linkedin_api_url": "http://127.0.0.1:1/refused", "blog_api_url": url("b")}),
            "",
            vec![("cross-post.branch_1.post-linkedin", "completed"), ("log-summary", "completed")],
        ),
        (
            "sync-drift-detection",
            json!({"source_a_url": url("page"), "source_b_url": url("b"),
            "sync_url": url("s")}),
            "sync",
            vec![("check-drift.true.sync-data", "completed")],
        ),
        (
            "task-triage",
            json!({"tickets_url": url("tickets"), "update_url": url("u")}),
            "p1-high",
            vec![("triage-loop.iter_1.prioritize", "completed"), ("log-complete", "completed")],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs_to_its_end() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().canonicalize().unwrap();
    workspace(&dir);
    let service = Service::start().await;
    let node = NodeBuilder::new(&dir.join("data"))
        .working_dir(&dir)
        .arg("--allow-shell")
        .arg("--fs-root")
        .arg(dir.display().to_string())
        .start();
    let cases = cases(&service, &dir);
    let names: HashSet<&str> = cases.iter().map(|case| case.0).collect();
    let files = fs::read_dir(examples_dir()).unwrap().filter_map(|f| f.ok()?.file_name().into_string().ok());
    for file in files.filter(|f| f.ends_with(".json")) {
        assert!(names.contains(file.trim_end_matches(".json")), "no case for {file}");
    }
    // Side by side, as they would come.
    let runs = cases.into_iter().map(|(name, params, choice, wanted)| {
        let node = &node;
        async move {
            let run = run(node, name, params, choice).await;
            assert_eq!(run["status"], "completed", "{name}: {run:#}");
            for (step, status) in wanted {
                assert_eq!(status_of(&run, step), status, "{name}: step {step}: {run:#}");
            }
            let events = node.events(run["workflow_id"].as_str().expect("an id")).await;
            assert_eq!(events.last().expect("events")["type"], "workflow_completed", "{name}");
        }
    });
    futures::future::join_all(runs).await;
    let branches = Command::new("git").args(["-C"]).arg(dir.join("repo")).arg("branch").output().unwrap();
    let branches = String::from_utf8_lossy(&branches.stdout).into_owned();
    assert!(branches.contains("develop") && !branches.contains("feature-done"), "{branches}");
    let rows = service.calls().await.into_iter().find(|call| call.path == "rows").expect("rows were posted");
    assert_eq!(rows.body, json!({"row_count": 2}));
    assert_eq!(rows.method, "POST");
    assert!(node.stop().success());
    assert_tables_equal_fold(&dir.join("data"));
}
