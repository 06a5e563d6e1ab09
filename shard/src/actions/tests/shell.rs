//! `shell.exec` with real processes.

use super::*;

fn actions() -> (tempfile::TempDir, Arc<Actions>) {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    (dir, actions)
}

fn sh(script: &str) -> Value {
    json!({"command": "sh", "args": ["-c", script]})
}

/// Gone, or dead and waiting for a parent to notice.
fn is_gone(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

#[tokio::test]
async fn a_command_gives_its_output_parsed_and_raw() {
    let (_dir, actions) = actions();
    let output = run(&actions, "shell.exec", sh("echo '{\"n\": 1.10}'; echo warn >&2")).await.unwrap();
    assert_eq!(output["stdout"].to_string(), r#"{"n":1.10}"#);
    assert_eq!(output["stdout_raw"], "{\"n\": 1.10}\n");
    assert_eq!(output["stderr"], "warn\n");
    assert_eq!((&output["exit_code"], &output["killed"]), (&json!(0), &json!(false)));
    let text = run(&actions, "shell.exec", json!({"command": "echo", "args": ["a", 5, true]})).await.unwrap();
    assert_eq!(text["stdout"], "a 5 true\n");
    let line = run(&actions, "shell.exec", json!({"command": "echo $((1+2))", "shell": true})).await.unwrap();
    assert_eq!(line["stdout"], 3);
}

#[tokio::test]
async fn an_exit_code_is_an_output_unless_it_should_fail() {
    let (_dir, actions) = actions();
    let output = run(&actions, "shell.exec", sh("echo no; exit 42")).await.unwrap();
    assert_eq!(output["exit_code"], 42);
    let mut params = sh("echo no; exit 42");
    params["fail_on_nonzero_exit"] = json!(true);
    let fault = run(&actions, "shell.exec", params.clone()).await.unwrap_err();
    assert_eq!(fault.code, Code::ExecutionError);
    assert_eq!((&fault.details["exit_code"], &fault.details["stdout"]), (&json!(42), &json!("no\n")));
    // The command ran: its breaker stays closed.
    for _ in 0..6 {
        assert_eq!(code(&actions, "shell.exec", params.clone()).await, Code::ExecutionError);
    }
    let missing = json!({"command": "no-such-command-anywhere"});
    assert_eq!(code(&actions, "shell.exec", missing).await, Code::ExecutionError);
}

#[tokio::test]
async fn it_is_off_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(ActionOptions { allow_shell: false, ..options(dir.path()) });
    assert_eq!(code(&actions, "shell.exec", sh("touch ran")).await, Code::PermissionDenied);
    assert!(!dir.path().join("ran").exists());
}

#[tokio::test]
async fn the_environment_is_clean_and_stdin_is_given() {
    let (dir, actions) = actions();
    let mut params = sh("env; pwd; cat");
    params["env"] = json!({"GIVEN": 5});
    params["stdin"] = json!({"a": [1]});
    let output = run(&actions, "shell.exec", params).await.unwrap();
    let text = output["stdout"].as_str().unwrap();
    let allowed =
        ["PATH", "HOME", "LANG", "TMPDIR", "GIVEN", "OPCODE_IDEMPOTENCY_KEY", "PWD", "OLDPWD", "SHLVL", "_"];
    for (name, _) in text.lines().filter_map(|line| line.split_once('=')) {
        assert!(allowed.contains(&name), "{name} in {text}");
    }
    let real = dir.path().canonicalize().unwrap();
    for line in ["GIVEN=5", "OPCODE_IDEMPOTENCY_KEY=run-1/step", real.to_str().unwrap(), "{\"a\":[1]}"] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    // A command that does not read a long input ends all the same.
    let unread = json!({"command": "true", "stdin": "x".repeat(1 << 20)});
    assert_eq!(run(&actions, "shell.exec", unread).await.unwrap()["exit_code"], 0);
}

#[tokio::test]
async fn it_starts_only_in_open_folders() {
    let (dir, actions) = actions();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
    let at = |cwd: &str| json!({"command": "pwd", "cwd": cwd});
    let output = run(&actions, "shell.exec", at("sub")).await.unwrap();
    assert!(output["stdout"].as_str().unwrap().ends_with("/sub\n"), "{output}");
    for cwd in ["/etc", "..", "etc", "sub/../../"] {
        assert_eq!(code(&actions, "shell.exec", at(cwd)).await, Code::PathDenied, "{cwd}");
    }
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() {
    let (_dir, actions) = actions();
    let script = "sh -c 'echo $$; exec sleep 60' & sleep 60";
    let mut params = sh(script);
    params["timeout"] = json!("300ms");
    let output = run(&actions, "shell.exec", params.clone()).await.unwrap();
    assert_eq!((&output["killed"], &output["exit_code"]), (&json!(true), &json!(-1)));
    let grandchild = output["stdout_raw"].as_str().unwrap().trim().to_owned();
    assert!(!grandchild.is_empty());
    until("the grandchild is gone", || is_gone(&grandchild)).await;
    // The step's own timeout is a failure.
    let mut step = call("shell.exec", sh("sleep 60"));
    step.timeout_ms = Some(50);
    assert_eq!(actions.run(step).await.result.unwrap_err().code, Code::TimeoutError);
}

#[tokio::test]
async fn giving_up_a_call_ends_its_processes() {
    let (dir, actions) = actions();
    let file = dir.path().join("pid");
    let script =
        format!("sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 60' & sleep 60", file.display());
    let task = tokio::spawn(async move { actions.run(call("shell.exec", sh(&script))).await });
    until("the grandchild runs", || file.exists()).await;
    let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(!is_gone(&pid));
    task.abort();
    until("the grandchild is gone", || is_gone(&pid)).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_ended_and_not_waited_for() {
    let (_dir, actions) = actions();
    let output = run(&actions, "shell.exec", sh("sleep 60 & echo $!")).await.unwrap();
    let left = output["stdout"].to_string();
    until("the process left behind is gone", || is_gone(&left)).await;
}

#[tokio::test]
async fn floods_end_the_command() {
    let (_dir, actions) = actions();
    for (script, stream) in [("yes", "stdout"), ("yes >&2", "stderr"), ("yes | head -c 2000000", "stdout")] {
        let fault = run(&actions, "shell.exec", sh(script)).await.unwrap_err();
        assert_eq!(fault.code, Code::NonRetryable, "{script}: {fault}");
        assert!(fault.message.contains(stream), "{fault}");
    }
    // Under the limit of a stream, over that of a step's output.
    let fault = run(&actions, "shell.exec", sh("yes | head -c 600000")).await.unwrap_err();
    assert_eq!(fault.code, Code::NonRetryable);
}

#[tokio::test]
async fn limits_are_set() {
    let (_dir, actions) = actions();
    // The input comes after the limits are set, so the command sees them.
    let mut params = sh("read line; ulimit -c; ulimit -n");
    params["stdin"] = json!("go\n");
    let output = run(&actions, "shell.exec", params).await.unwrap();
    let lines: Vec<u64> =
        output["stdout_raw"].as_str().unwrap().lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(lines[0], 0);
    assert!(lines[1] <= 1_024, "{lines:?}");
}

#[tokio::test]
async fn params_that_no_command_can_have_are_refused() {
    let (_dir, actions) = actions();
    let table = [
        json!({}),
        json!({"command": ""}),
        json!({"command": 5}),
        json!({"command": "true", "args": "x"}),
        json!({"command": "true", "args": ["a\0b"]}),
        json!({"command": "true", "env": {"A=B": "c"}}),
        json!({"command": "true", "env": []}),
        json!({"command": "true", "timeout": "soon"}),
        json!({"command": "true", "timeout": "0s"}),
        json!({"command": "true", "shell": "yes"}),
    ];
    for params in table {
        assert_eq!(code(&actions, "shell.exec", params.clone()).await, Code::ValidationError, "{params}");
    }
}
