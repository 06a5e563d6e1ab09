//! How answers are printed: a table for people, JSON, JSON lines or YAML for programs.

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

/// Longest text of one cell.
const CELL_CHARS_MAX: usize = 60;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
    Jsonl,
    Yaml,
}

/// What every command prints with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) format: Format,
    pub(super) quiet: bool,
}

impl Output {
    /// A list: `columns` are header and key in a table, and with `quiet` the first alone.
    pub(super) fn list(self, items: &[Value], columns: &[(&str, &str)]) {
        match self.format {
            Format::Json => println!("{}", pretty(&Value::Array(items.to_vec()))),
            Format::Jsonl => items.iter().for_each(|item| println!("{item}")),
            Format::Yaml => print!("{}", yaml(&Value::Array(items.to_vec()))),
            Format::Table if self.quiet => {
                if let Some((_, key)) = columns.first() {
                    items.iter().for_each(|item| println!("{}", cell(&item[*key])));
                }
            }
            Format::Table => {
                let mut table = Table::new();
                table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
                table.set_header(columns.iter().map(|(header, _)| *header));
                for item in items {
                    table.add_row(columns.iter().map(|(_, key)| cell(&item[*key])));
                }
                println!("{table}");
                if items.is_empty() {
                    eprintln!("none");
                }
            }
        }
    }

    /// One document; `show` prints it for people.
    pub(super) fn document(self, document: &Value, show: impl FnOnce(&Value)) {
        match self.format {
            Format::Json => println!("{}", pretty(document)),
            Format::Jsonl => println!("{document}"),
            Format::Yaml => print!("{}", yaml(document)),
            Format::Table => show(document),
        }
    }

    /// A word for people only.
    pub(super) fn note(self, text: &str) {
        if self.format == Format::Table && !self.quiet {
            eprintln!("{text}");
        }
    }
}

pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// A value as a table shows it, cut where it is long.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= CELL_CHARS_MAX {
        return line;
    }
    line.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

fn yaml(value: &Value) -> String {
    serde_yaml_ng::to_string(&to_yaml(value))
        .unwrap_or_else(|e| format!("# not to be written as YAML: {e}\n"))
}

/// By hand, since a JSON number that keeps all its digits is no number to other serializers.
fn to_yaml(value: &Value) -> serde_yaml_ng::Value {
    use serde_yaml_ng::Value as Yaml;
    match value {
        Value::Null => Yaml::Null,
        Value::Bool(b) => Yaml::Bool(*b),
        Value::String(text) => Yaml::String(text.clone()),
        Value::Array(items) => Yaml::Sequence(items.iter().map(to_yaml).collect()),
        Value::Object(map) => {
            Yaml::Mapping(map.iter().map(|(k, v)| (Yaml::String(k.clone()), to_yaml(v))).collect())
        }
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), ..) => Yaml::Number(n.into()),
            (None, Some(n), _) => Yaml::Number(n.into()),
            (None, None, Some(n)) if n.to_string() == number.to_string() => Yaml::Number(n.into()),
            (None, None, _) => Yaml::String(number.to_string()),
        },
    }
}
