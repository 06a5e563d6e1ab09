//! jq against jq: the engine gives what the table says, and where there is a jq 1.6, the release that
//! the table was recorded from, so does that.

use std::io::Write;
use std::process::{Command, Stdio};

use opcode_engine::expr::jq::{Jq, run_unbounded};
use opcode_fuzz::world;
use serde_json::Value;

use crate::tables::{Case, cases};

/// Outputs as one list, or `error`.
fn ours(filter: &str, input: &str) -> (String, String) {
    if let Err(problems) = Jq::compile(filter, &world::ENV) {
        return ("error".to_owned(), format!("{problems:?}"));
    }
    match run_unbounded(filter, &serde_json::from_str(input).unwrap()) {
        Ok(outputs) => (Value::Array(outputs).to_string(), String::new()),
        Err(error) => ("error".to_owned(), error.to_string()),
    }
}

#[test]
fn jq_gives_what_the_table_says() {
    let cases = cases("jq.txt", 2);
    assert!(cases.len() > 400, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let [filter, input] = case.given.as_slice() else { panic!("line {} has no input", case.line) };
        let (found, why) = ours(filter, input);
        if found != case.engine() {
            wrong.push(format!(
                "line {}: {filter} on {input} gives {found} {why}, not {}",
                case.line,
                case.engine()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let differing = cases.iter().filter(|case| case.ours.is_some()).count();
    println!("{} cases of jq, {differing} of them differ by design", cases.len());
}

/// The release of the jq on this machine, if there is one: `jq-1.6`.
fn release() -> Option<String> {
    let output = Command::new("jq").arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok().map(|version| version.trim().to_owned())
}

/// What the binary writes for `filter` on `input`; `None` when it fails.
fn run(filter: &str, input: &str) -> Option<String> {
    let mut child = Command::new("jq")
        .args(["-c", "-S", filter])
        .env_clear()
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It may have refused the filter and be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn alone(case: &Case) -> String {
    let output = run(&case.given[0], &case.given[1]);
    output.map_or_else(
        || "error".to_owned(),
        |text| format!("[{}]", text.lines().collect::<Vec<_>>().join(",")),
    )
}

/// Many cases in one process, since it takes long to start: all that neither fail nor tell where they
/// are.
fn together(cases: &[&Case]) -> Vec<String> {
    let filters: Vec<String> =
        (0..).zip(cases).map(|(at, case): (usize, _)| format!("(.[{at}] | [{}\n])", case.given[0])).collect();
    let inputs: Vec<&str> = cases.iter().map(|case| case.given[1].as_str()).collect();
    let output = run(&format!("[{}]", filters.join(",\n")), &format!("[{}]", inputs.join(",")));
    let outputs: Vec<Value> = serde_json::from_str(&output.unwrap()).unwrap();
    outputs.iter().map(Value::to_string).collect()
}

#[test]
fn jq_itself_gives_what_the_table_says() {
    let release = release();
    if release.as_deref() != Some("jq-1.6") {
        println!("NOT TESTED: the table against jq itself, which here is {release:?} and not jq-1.6");
        return;
    }
    // What it never ends with is known without trying.
    let cases: Vec<Case> =
        cases("jq.txt", 2).into_iter().filter(|case| case.older.as_deref() != Some("never")).collect();
    let is_special = |case: &Case| {
        let words = ["error", "$__loc__", "input", "debug", "#"];
        case.older_release() == "error" || words.iter().any(|word| case.given[0].contains(word))
    };
    let (special, plain): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| is_special(case));
    let found = together(&plain).into_iter().chain(special.iter().map(|case| alone(case)));
    let mut wrong = Vec::new();
    for (case, found) in plain.iter().chain(&special).zip(found) {
        if found != case.older_release() {
            let [filter, input] = [&case.given[0], &case.given[1]];
            wrong.push(format!(
                "line {}: {filter} on {input} gives {found}, not {}",
                case.line,
                case.older_release()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}
