//! `opcode validate`: definitions checked here, with the engine's own rules.

use std::sync::Arc;

use clap::Args;
use opcode_engine::Problem;
use opcode_engine::definition::{Definition, Plugins};
use serde_json::{Value, json};

use super::failure::Failure;
use super::input::read_file;
use super::locate::{Place, excerpt, place};
use super::output::{Format, Output, emit, pretty, yaml};

/// Flags of `opcode validate`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode validate order.json
  opcode validate workflows/*.json -o json
  generate | opcode validate -
  opcode validate --plugin files sync.json      where a plugin brings files.*")]
pub(crate) struct Validate {
    /// Definitions or template files; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// A namespace of actions that a plugin brings; repeat for more
    #[arg(long = "plugin", value_name = "NAMESPACE")]
    plugins: Vec<String>,
}

/// What one file came to.
struct Checked {
    file: String,
    text: String,
    result: Result<Definition, Vec<Problem>>,
}

/// Checks every file; a failure when one of them is not valid.
pub(crate) fn run(args: &Validate, output: &Output) -> Result<(), Failure> {
    let plugins: Vec<Arc<str>> = args.plugins.iter().map(|namespace| namespace.as_str().into()).collect();
    let mut all = Vec::with_capacity(args.files.len());
    for file in &args.files {
        let text = read_file(file)?;
        let result = check(&text, &plugins);
        all.push(Checked { file: file.clone(), text, result });
    }
    let documents = || Value::from(all.iter().map(document).collect::<Vec<_>>());
    match output.format {
        Format::Table => all.iter().for_each(|checked| print(checked, output.quiet)),
        Format::Json => emit(&pretty(&documents())),
        Format::Jsonl => all.iter().for_each(|checked| emit(&document(checked).to_string())),
        Format::Yaml => emit(&yaml(&documents())),
    }
    if all.iter().all(|checked| checked.result.is_ok()) { Ok(()) } else { Err(Failure::Shown) }
}

fn check(text: &str, plugins: &[Arc<str>]) -> Result<Definition, Vec<Problem>> {
    let duplicates = match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => opcode_router::duplicate_keys(text),
        Err(_) => Vec::new(),
    };
    match Definition::parse_with(text, Plugins::Of(plugins)) {
        Ok(definition) if duplicates.is_empty() => Ok(definition),
        Ok(_) => Err(duplicates),
        Err(invalid) => {
            let mut problems = invalid.problems;
            let new = duplicates.into_iter().filter(|d| problems.iter().all(|p| p.pointer != d.pointer));
            let new: Vec<_> = new.collect();
            problems.extend(new);
            Err(problems)
        }
    }
}

/// The place of a problem in its file.
pub(crate) fn place_of(text: &str, problem: &Problem) -> Place {
    match (problem.line, problem.column) {
        (Some(line), Some(column)) => Place { line: line as usize, column: column as usize },
        (None, Some(column)) => within_string(text, place(text, &problem.pointer), column as usize),
        (Some(_) | None, None) => place(text, &problem.pointer),
    }
}

/// A column of the string at a place: past its quote, as far as nothing before it is escaped.
fn within_string(text: &str, at: Place, column: usize) -> Place {
    let line = text.lines().nth(at.line - 1).unwrap_or_default();
    let quoted: String = line.chars().skip(at.column - 1).take(column + 1).collect();
    let is_plain = quoted.starts_with('"') && !quoted.contains('\\');
    Place { line: at.line, column: at.column + if is_plain { column } else { 0 } }
}

fn print(checked: &Checked, quiet: bool) {
    let file = &checked.file;
    match &checked.result {
        Ok(_) if quiet => {}
        Ok(definition) => {
            let levels = definition.levels.len();
            emit(&format!("{file}: valid, {} steps in {levels} levels", definition.steps.len()));
        }
        Err(problems) => problems.iter().for_each(|problem| emit(&described(file, &checked.text, problem))),
    }
}

/// `file:line:column: pointer: message` and the source line.
pub(crate) fn described(file: &str, text: &str, problem: &Problem) -> String {
    let at = place_of(text, problem);
    let pointer = if problem.pointer.is_empty() { String::new() } else { format!("{}: ", problem.pointer) };
    let column = match (problem.line, problem.column) {
        (None, Some(column)) => format!(" (column {column} of the expression)"),
        _ => String::new(),
    };
    let head = format!("{file}:{}:{}: {pointer}{}{column}", at.line, at.column, problem.message);
    match excerpt(text, at) {
        Some(excerpt) => format!("{head}\n{excerpt}"),
        None => head,
    }
}

fn document(checked: &Checked) -> Value {
    match &checked.result {
        Ok(definition) => {
            let names = |level: &Vec<_>| {
                level.iter().map(|&ix| definition.step(ix).id.to_string()).collect::<Vec<_>>()
            };
            let levels: Vec<_> = definition.levels.iter().map(names).collect();
            json!({"file": checked.file, "valid": true, "steps": definition.steps.len(), "levels": levels})
        }
        Err(problems) => {
            let errors: Vec<_> = problems
                .iter()
                .map(|problem| {
                    let at = place_of(&checked.text, problem);
                    json!({"pointer": problem.pointer, "message": problem.message, "line": at.line, "column": at.column})
                })
                .collect();
            json!({"file": checked.file, "valid": false, "errors": errors})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_an_expression_is_a_column_of_the_file() {
        let text = "{\n  \"condition\": \"inputs.x ==\"\n}";
        let problem = Problem::at("/condition", "ends too early").column(12);
        assert_eq!(place_of(text, &problem), Place { line: 2, column: 28 });
        let shown = described("w.json", text, &problem);
        assert!(
            shown.starts_with("w.json:2:28: /condition: ends too early (column 12 of the expression)"),
            "{shown}"
        );
        let escaped = "{\"condition\": \"\\u0061 ==\"}";
        assert_eq!(place_of(escaped, &problem), Place { line: 1, column: 15 });
    }

    #[test]
    fn duplicate_keys_are_problems_here_too() {
        let problems =
            check(r#"{"steps":[{"id":"a","id":"b","action":"crypto.uuid"}]}"#, &[]).err().unwrap_or_default();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].pointer, "/steps/0/id");
    }
}
