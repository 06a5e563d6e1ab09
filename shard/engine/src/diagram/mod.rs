//! Pictures of a definition: Mermaid, plain text, and SVG, with the states of a run if given.
//!
//! They show ids, types, actions, order and states, and never a param, an output or a secret.
//! States come by full step id; in Mermaid and text a loop or map shows its last round or item that
//! has any, in SVG its body stands once, with how many of its rounds are how far.

mod layout;
mod svg;

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::definition::{Definition, SpecIx, StepKind, StepSpec};

pub use svg::{SVG_DARK, svg};

/// What a step is, in one word or its action's name.
fn label(step: &StepSpec) -> &str {
    match &step.kind {
        StepKind::Action { action, .. } => action,
        StepKind::Condition { .. } => "condition",
        StepKind::Loop { .. } => "loop",
        StepKind::All { .. } => "parallel",
        StepKind::Race { .. } => "parallel race",
        StepKind::Map { .. } => "parallel map",
        StepKind::Wait(_) => "wait",
        StepKind::Reasoning(_) => "reasoning",
    }
}

/// The scopes in a step: what to write beside them, their namespace in full ids, their steps.
fn scopes<'d>(step: &'d StepSpec, prefix: &str, states: &BTreeMap<String, String>) -> Vec<Scope<'d>> {
    let scope = |name: &str, steps: &'d [SpecIx]| Scope {
        name: name.to_owned(),
        full: format!("{prefix}.{name}"),
        steps,
    };
    let rounds = |word: &str, steps: &'d [SpecIx]| {
        let full = format!("{prefix}.{word}_{}", last_round(states, &format!("{prefix}.{word}_")));
        Scope { name: format!("each {word}"), full, steps }
    };
    match &step.kind {
        StepKind::Action { .. } | StepKind::Wait(_) | StepKind::Reasoning(_) => Vec::new(),
        StepKind::Condition { branches, default, .. } => {
            let default = default.iter().map(|steps| scope("default", steps));
            branches.iter().map(|(name, steps)| scope(name, steps)).chain(default).collect()
        }
        StepKind::Loop { body, .. } => vec![rounds("iter", body)],
        StepKind::Map { body, .. } => vec![rounds("item", body)],
        StepKind::All { branches } | StepKind::Race { branches } => {
            branches.iter().enumerate().map(|(n, steps)| scope(&format!("branch_{n}"), steps)).collect()
        }
    }
}

struct Scope<'d> {
    name: String,
    full: String,
    steps: &'d [SpecIx],
}

fn last_round(states: &BTreeMap<String, String>, prefix: &str) -> u64 {
    let ids = states.range(prefix.to_owned()..).map(|(id, _)| id).take_while(|id| id.starts_with(prefix));
    ids.filter_map(|id| id[prefix.len()..].split('.').next()?.parse().ok()).max().unwrap_or(0)
}

/// A state as a word that is safe in every format; empty when there is none.
fn state<'s>(states: &'s BTreeMap<String, String>, full: &str) -> &'s str {
    let word = states.get(full).map_or("", String::as_str);
    if word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') { word } else { "" }
}

/// Colours of the states, fill and stroke.
const COLOURS: &[(&str, &str, &str)] = &[
    ("completed", "#d3f9d8", "#2b8a3e"),
    ("failed", "#ffe3e3", "#c92a2a"),
    ("running", "#d0ebff", "#1864ab"),
    ("retrying", "#fff3bf", "#e67700"),
    ("scheduled", "#e7f5ff", "#4dabf7"),
    ("skipped", "#f1f3f5", "#868e96"),
    ("suspended", "#f3d9fa", "#862e9c"),
];

/// Hooks of a definition, with their names.
fn hooks(definition: &Definition) -> impl Iterator<Item = (&'static str, SpecIx)> {
    let hooks = [("on_complete", definition.on_complete), ("on_error", definition.on_error)];
    hooks.into_iter().filter_map(|(name, hook)| Some((name, hook?)))
}

/// Mermaid text, a flow chart from top to bottom.
pub fn mermaid(definition: &Definition, states: &BTreeMap<String, String>) -> String {
    let mut chart = Mermaid { definition, states, text: "flowchart TD\n".to_owned() };
    for ix in &definition.root {
        let step = definition.step(*ix);
        chart.step(step, &step.id);
        for dependency in &step.depends_on {
            chart.line(&format!("s{} --> s{}", dependency.0, ix.0));
        }
    }
    for (name, hook) in hooks(definition) {
        let step = definition.step(hook);
        chart.step(step, &step.id);
        chart.line(&format!("{name}([{name}]) -.-> s{}", hook.0));
    }
    for (name, fill, stroke) in COLOURS {
        chart.line(&format!("classDef {name} fill:{fill},stroke:{stroke}"));
    }
    chart.text
}

struct Mermaid<'d> {
    definition: &'d Definition,
    states: &'d BTreeMap<String, String>,
    text: String,
}

impl Mermaid<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str("  ");
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn step(&mut self, step: &StepSpec, full: &str) {
        let ix = step.ix.0;
        self.line(&format!("s{ix}[\"{}<br/>{}\"]", step.id, label(step)));
        let state = state(self.states, full);
        if !state.is_empty() {
            self.line(&format!("class s{ix} {state}"));
        }
        for scope in scopes(step, full, self.states) {
            let mut before = None;
            for child in scope.steps {
                let edge = match before {
                    None => format!("s{ix} -->|\"{}\"| s{}", mermaid_text(&scope.name), child.0),
                    Some(SpecIx(before)) => format!("s{before} --> s{}", child.0),
                };
                let child_step = self.definition.step(*child);
                self.step(child_step, &format!("{}.{}", scope.full, child_step.id));
                self.line(&edge);
                before = Some(*child);
            }
        }
        if let Some(undo) = step.compensate {
            let undo = self.definition.step(undo);
            self.step(undo, &format!("{full}.compensate.{}", undo.id));
            self.line(&format!("s{ix} -. compensate .-> s{}", undo.ix.0));
        }
    }
}

/// Text for a Mermaid label: everything that is not plain as an entity.
fn mermaid_text(text: &str) -> String {
    text.chars().fold(String::new(), |mut safe, c| {
        if c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.') {
            safe.push(c);
        } else {
            let _ = write!(safe, "#{};", u32::from(c));
        }
        safe
    })
}

/// Plain text: levels, and in them steps with what they wait for and what is in them.
pub fn ascii(definition: &Definition, states: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (number, level) in definition.levels.iter().enumerate() {
        let _ = writeln!(text, "level {}", number + 1);
        for ix in level {
            let step = definition.step(*ix);
            ascii_step(definition, states, step, &step.id, 1, &mut text);
        }
    }
    for (name, hook) in hooks(definition) {
        let _ = writeln!(text, "{name}");
        let step = definition.step(hook);
        ascii_step(definition, states, step, &step.id, 1, &mut text);
    }
    text
}

fn ascii_step(
    definition: &Definition,
    states: &BTreeMap<String, String>,
    step: &StepSpec,
    full: &str,
    depth: usize,
    text: &mut String,
) {
    let indent = "  ".repeat(depth);
    let _ = write!(text, "{indent}{} ({})", step.id, label(step));
    let state = state(states, full);
    if !state.is_empty() {
        let _ = write!(text, " [{state}]");
    }
    if !step.depends_on.is_empty() {
        let names: Vec<&str> = step.depends_on.iter().map(|d| definition.step(*d).id.as_ref()).collect();
        let _ = write!(text, " after {}", names.join(", "));
    }
    text.push('\n');
    for scope in scopes(step, full, states) {
        let name: String = scope.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(text, "{indent}  {name}:");
        for child in scope.steps {
            let child = definition.step(*child);
            ascii_step(definition, states, child, &format!("{}.{}", scope.full, child.id), depth + 2, text);
        }
    }
    if let Some(undo) = step.compensate {
        let undo = definition.step(undo);
        let _ = writeln!(text, "{indent}  compensate:");
        ascii_step(definition, states, undo, &format!("{full}.compensate.{}", undo.id), depth + 2, text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{ascii, mermaid};
    use crate::definition::Definition;

    fn definition() -> Definition {
        let log = |id: &str| {
            format!(r#"{{"id": "{id}", "action": "workflow.log", "params": {{"message": "secret text"}}}}"#)
        };
        let text = format!(
            r#"{{"steps": [{a},
                {{"id": "pick", "type": "condition", "depends_on": ["a"], "config": {{"expression": "true",
                  "branches": {{"<b>\"\n": [{x}, {y}]}}, "default": []}}}},
                {{"id": "each", "type": "loop", "depends_on": ["a"], "config": {{"mode": "for_each", "over": [1],
                  "body": [{z}]}}, "compensate": {undo}}}],
               "on_error": {{"action": "workflow.log", "params": {{"message": "m"}}}}}}"#,
            a = log("a"),
            x = log("x"),
            y = log("y"),
            z = log("z"),
            undo = log("undo"),
        );
        Definition::parse(&text).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn states() -> BTreeMap<String, String> {
        let states = [
            ("a", "completed"),
            ("each.iter_2.z", "failed"),
            ("each.iter_11.z", "running"),
            ("pick", "<script>"),
        ];
        states.into_iter().map(|(id, state)| (id.to_owned(), state.to_owned())).collect()
    }

    #[test]
    fn plain_text_shows_levels_states_and_what_is_inside() {
        let expected = "level 1\n  a (workflow.log) [completed]\nlevel 2\n  pick (condition) after a\n    <b>\"?:\n      \
            x (workflow.log)\n      y (workflow.log)\n    default:\n  each (loop) after a\n    each iter:\n      \
            z (workflow.log) [running]\n    compensate:\n      undo (workflow.log)\non_error\n  on_error (workflow.log)\n";
        assert_eq!(ascii(&definition(), &states()), expected);
    }

    #[test]
    fn mermaid_has_every_step_and_nothing_that_breaks_it() {
        let text = mermaid(&definition(), &states());
        for line in [
            "s0[\"a<br/>workflow.log\"]",
            "class s0 completed",
            "s0 --> s1",
            "s1 -->|\"#60;b#62;#34;#10;\"| s2",
            "s2 --> s3",
            "s4 -->|\"each iter\"| s5",
            "s4 -. compensate .-> s6",
            "on_error([on_error]) -.-> s7",
        ] {
            assert!(text.lines().any(|l| l.trim() == line), "{line} is missing in {text}");
        }
        assert!(!text.contains("script") && !text.contains("secret"));
    }
}
