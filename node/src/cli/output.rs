//! How results are shown: tables for people, JSON, JSON lines and YAML for programs.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Cell, Color, Table, presets};
use serde_json::Value;

/// The `-o` flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON value a line
    Jsonl,
    /// YAML
    Yaml,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

/// Longest text of a cell in a list, in characters.
const CELL_CHARS_MAX: usize = 80;

/// A column of a table: its head, and the field that it shows.
pub(crate) type Column = (&'static str, &'static str);

impl Output {
    pub(crate) fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet }
    }

    /// Shows a document; `table` writes it for people.
    pub(crate) fn document(&self, document: &Value, table: impl FnOnce(&Value) -> String) {
        match self.format {
            Format::Table => emit(&table(document)),
            Format::Json => emit(&pretty(document)),
            Format::Jsonl => emit(&document.to_string()),
            Format::Yaml => emit(&yaml(document)),
        }
    }

    /// Shows a list `{items, next_cursor}`; quietly, only the first column.
    pub(crate) fn list(&self, page: &Value, columns: &[Column]) {
        let items = page.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match self.format {
            Format::Table if self.quiet => {
                items.iter().for_each(|item| emit(&shown(field(item, columns[0].1))));
            }
            Format::Table => emit(&table_of(items, columns)),
            Format::Json => emit(&pretty(page)),
            Format::Jsonl => items.iter().for_each(|item| emit(&item.to_string())),
            Format::Yaml => emit(&yaml(page)),
        }
        if self.format == Format::Table
            && let Some(missing) = page.get("unreachable_shards").and_then(Value::as_array)
        {
            for shard in missing {
                eprintln!("opcode: shard {} did not answer: {}", shard["shard"], shown(&shard["detail"]));
            }
        }
        if self.format == Format::Table
            && let Some(missing) = page.get("unreachable_nodes").and_then(Value::as_array)
        {
            for node in missing {
                eprintln!(
                    "opcode: node {} did not answer: {}",
                    shown(&node["node_id"]),
                    shown(&node["detail"])
                );
            }
        }
        if let Some(cursor) = page.get("next_cursor").and_then(Value::as_str) {
            self.note(&format!("more: --cursor {cursor}, or --all"));
        }
    }

    /// Tells the user something beside the result: on a terminal only, and not quietly.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && std::io::stderr().is_terminal() {
            eprintln!("{text}");
        }
    }
}

/// Writes a text and a line end to stdout; a reader that has gone away ends the program.
pub(crate) fn emit(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    if write!(stdout, "{text}{end}").and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes bytes as they are.
pub(crate) fn emit_bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        table.force_no_tty();
    }
    table
}

fn table_of(items: &[Value], columns: &[Column]) -> String {
    let mut table = plain_table();
    table.set_header(columns.iter().map(|(head, _)| *head));
    for item in items {
        table.add_row(columns.iter().map(|(_, name)| colored(name, &cut(&shown(field(item, name))))));
    }
    trimmed(&table)
}

/// A table of rows that are texts already.
pub(crate) fn rows(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = plain_table();
    table.set_header(head.iter().copied());
    for row in rows {
        table.add_row(
            row.iter().zip(head).map(|(text, head)| colored(&head.to_ascii_lowercase(), &cut(text))),
        );
    }
    trimmed(&table)
}

/// Names and values below one another; fields that are null are left out.
pub(crate) fn facts(document: &Value, names: &[&str]) -> String {
    let mut table = plain_table();
    for name in names {
        let value = field(document, name);
        let is_empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !is_empty {
            table.add_row([Cell::new(name), cell(name, value)]);
        }
    }
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    table
        .to_string()
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect::<Vec<_>>()
        .join("\n")
}

fn cell(name: &str, value: &Value) -> Cell {
    colored(name, &shown(value))
}

/// A text cut to what a column holds.
fn cut(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

fn colored(name: &str, text: &str) -> Cell {
    let cell = Cell::new(text);
    if name != "status" {
        return cell;
    }
    match text {
        "completed" => cell.fg(Color::Green),
        "failed" => cell.fg(Color::Red),
        "suspended" | "retrying" => cell.fg(Color::Yellow),
        "active" | "running" => cell.fg(Color::Cyan),
        _ => cell,
    }
}

fn field<'a>(item: &'a Value, name: &str) -> &'a Value {
    item.get(name).unwrap_or(&Value::Null)
}

/// Whether a terminal does something for it other than show it: control characters, and those that
/// turn the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value in a cell: strings as they are, nothing for null, JSON for the rest. Characters that
/// would steer the terminal are shown escaped.
pub(crate) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    if text.chars().any(steers) { text.escape_debug().to_string() } else { text }
}

/// JSON with indentation.
pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// YAML in block style. Written here, since numbers must keep all their digits; scalars that
/// could be read as something else stand in JSON's quotes, which YAML takes as they are.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(&mut out, value, 0, false);
    out
}

fn write_yaml(out: &mut String, value: &Value, indent: usize, inline: bool) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (n, (key, value)) in map.iter().enumerate() {
                if n > 0 || !inline {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str(&scalar(key));
                out.push(':');
                write_nested(out, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (n, item) in items.iter().enumerate() {
                if n > 0 || !inline {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str("- ");
                write_yaml(out, item, indent + 2, true);
            }
        }
        Value::String(text) => {
            out.push_str(&scalar(text));
            out.push('\n');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            out.push_str(&value.to_string());
            out.push('\n');
        }
    }
}

/// The value of a key: on the same line when it is a scalar or empty.
fn write_nested(out: &mut String, value: &Value, indent: usize) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    out.push(if is_block { '\n' } else { ' ' });
    write_yaml(out, value, if is_block { indent + 2 } else { 0 }, !is_block);
}

fn scalar(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' '))
        && !text.ends_with(' ');
    let lower = text.to_ascii_lowercase();
    let is_other =
        matches!(lower.as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if is_word && !is_other { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_read_back_as_it_was() {
        let text = r#"{"a":{"b":[1,"two",{"c":null,"d":[]},["x"]],"e":{}},"no":"yes","n":"1.0","s":"a: b\n# c","t":"2026-01-01","z":true}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let read: serde_yaml_ng::Value = serde_yaml_ng::from_str(&yaml(&value)).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), serde_json::to_string(&value).unwrap());
    }

    #[test]
    fn numbers_keep_every_digit_in_yaml() {
        let value: Value = serde_json::from_str(r#"{"sum":12345678901234567890123.4500}"#).unwrap();
        assert_eq!(yaml(&value), "sum: 12345678901234567890123.4500\n");
    }

    #[test]
    fn data_cannot_steer_the_terminal() {
        assert_eq!(shown(&Value::from("a\u{1b}[2Jb")), "a\\u{1b}[2Jb");
        assert_eq!(shown(&Value::from("\u{202e}txt.exe")), "\\u{202e}txt.exe");
    }
}
