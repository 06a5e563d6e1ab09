//! `opcode validate`: definition files checked here, without a node.

use std::process::ExitCode;

use clap::Args;
use opcode_engine::definition::Definition;
use serde_json::{Value, json};

use super::client::Failure;
use super::output::Output;
use super::{exit, read};

/// Flags of `opcode validate`.
#[derive(Args)]
#[command(after_help = "Examples:\n  opcode validate order.json\n  opcode validate workflows/*.json -o json")]
pub(crate) struct Validate {
    /// Definition or template files; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

pub(super) fn run(args: &Validate, output: Output) -> Result<ExitCode, Failure> {
    let mut results = Vec::new();
    let mut all_valid = true;
    for file in &args.files {
        let text = read(file)?;
        let errors = match Definition::parse(&text) {
            Ok(_) => Vec::new(),
            Err(invalid) => invalid.problems.iter().map(|p| json!(p)).collect::<Vec<_>>(),
        };
        all_valid &= errors.is_empty();
        results.push((text, json!({"file": file, "valid": errors.is_empty(), "errors": errors})));
    }
    let documents = Value::Array(results.iter().map(|(_, document)| document.clone()).collect());
    output.document(&documents, |_| {
        for (text, document) in &results {
            show(text, document);
        }
    });
    Ok(if all_valid { ExitCode::SUCCESS } else { ExitCode::from(exit::ERROR) })
}

/// One file's result for people: each problem with the text it is about and a caret under it.
fn show(text: &str, document: &Value) {
    let file = document["file"].as_str().unwrap_or_default();
    if document["valid"] == true {
        println!("{file}: valid");
        return;
    }
    let parsed: Value = serde_json::from_str(text).unwrap_or_default();
    for error in document["errors"].as_array().into_iter().flatten() {
        println!("{file}: {}", problem_line(error));
        let pointer = error["pointer"].as_str().unwrap_or_default();
        let line = error["line"].as_u64().and_then(|n| usize::try_from(n).ok());
        let source = match line {
            Some(line) => text.lines().nth(line.saturating_sub(1)).map(str::to_owned),
            None => parsed.pointer(pointer).and_then(Value::as_str).map(str::to_owned),
        };
        let column = error["column"].as_u64().and_then(|n| usize::try_from(n).ok());
        if let (Some(source), Some(column)) = (source, column) {
            // A window around the column, so that a long line stays one line here.
            let first = column.saturating_sub(50);
            let window: String = source.chars().skip(first).take(100).collect();
            println!("    {window}\n    {}^", " ".repeat(column.saturating_sub(1).saturating_sub(first)));
        }
    }
}

/// One problem on one line.
pub(super) fn problem_line(error: &Value) -> String {
    let mut place = error["pointer"].as_str().unwrap_or_default().to_owned();
    if let Some(line) = error["line"].as_u64() {
        place.push_str(&format!(" line {line}"));
    }
    if let Some(column) = error["column"].as_u64() {
        place.push_str(&format!(" column {column}"));
    }
    let message = error["message"].as_str().unwrap_or_default();
    if place.is_empty() { message.to_owned() } else { format!("{place}: {message}") }
}
