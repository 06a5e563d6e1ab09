//! From text to [`Definition`]: the order in which things are read, judged and compiled.
//!
//! 1. `text` reads the JSON.
//! 2. The wrapper of a template file is taken off.
//! 3. `outline` finds every step and its scope.
//! 4. Dependencies are resolved and the top level is put in order.
//! 5. `steps` compiles each step, judging references by `sight`.
//!
//! Each part goes on after a problem, so that all are told at once.

use std::collections::BTreeSet;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::fields::{Object, Report, shown, type_of};
use super::outline::{Namespace, Outline, ROOT};
use super::sight::{Sight, View};
use super::steps::{Compiler, Filters};
use super::{DEFINITION_BYTES_MAX, Definition, OnTimeout, Plugins, SpecIx, StepSpec, schema, text};
use crate::dag::Dag;
use crate::error::{Code, Invalid, Problem};
use crate::expr::interpolate::Template;
use crate::ids::DefinitionHash;

const DEFINITION_FIELDS: &[&str] =
    &["steps", "inputs", "timeout", "on_timeout", "on_complete", "on_error", "output", "metadata"];

const TEMPLATE_FIELDS: &[&str] = &[
    "name",
    "description",
    "version",
    "input_schema",
    "output_schema",
    "category",
    "features",
    "triggers",
    "metadata",
    "definition",
];

/// Most names of a cycle that are told.
const CYCLE_NAMES_MAX: usize = 20;

pub(super) fn parse(text: &str, is_stored: bool, plugins: Plugins<'_>) -> Result<Definition, Invalid> {
    if text.len() > DEFINITION_BYTES_MAX {
        let message =
            format!("a definition may have {DEFINITION_BYTES_MAX} bytes, this one has {}", text.len());
        return Err(invalid(vec![Problem::at("", message)]));
    }
    let value = text::read(text).map_err(invalid)?;
    let report = Report::new(is_stored, plugins);
    let definition = document(&value, &report).filter(|_| report.is_empty());
    if let Some(definition) = definition {
        return Ok(definition);
    }
    let (mut problems, untold, only_cycles) = report.into_problems();
    assert!(!problems.is_empty(), "a definition is refused for a reason");
    text::sort(text, &mut problems);
    if untold > 0 {
        problems.push(Problem::at("", format!("and {untold} more problems")));
    }
    let code = if only_cycles { Code::CycleDetected } else { Code::ValidationError };
    Err(Invalid { code, problems })
}

fn invalid(problems: Vec<Problem>) -> Invalid {
    Invalid { code: Code::ValidationError, problems }
}

/// Either form: a template file, or a definition alone.
fn document(value: &Value, report: &Report) -> Option<Definition> {
    let whole = Object::of(value, String::new(), report)?;
    let is_template = whole.map.contains_key("definition") && !whole.map.contains_key("steps");
    if !is_template {
        return definition(&whole, value, None, report);
    }
    whole.only(TEMPLATE_FIELDS);
    for name in ["name", "description", "category", "version"] {
        whole.text(name);
    }
    if let Some(features) = whole.list("features") {
        for (index, feature) in features.iter().enumerate().filter(|(_, f)| !f.is_string()) {
            let pointer = format!("/features/{index}");
            report.at(pointer, format!("a string is expected, this is {}", type_of(feature)));
        }
    }
    let input_schema = schema::compile(&whole, "input_schema");
    schema::compile(&whole, "output_schema");
    let Some(inner) = whole.get("definition") else {
        report.at("/definition", "an object is expected, this is null");
        return None;
    };
    let object = Object::of(inner, "/definition".into(), report)?;
    definition(&object, inner, input_schema, report)
}

fn definition(
    object: &Object<'_>,
    value: &Value,
    input_schema: Option<super::InputSchema>,
    report: &Report,
) -> Option<Definition> {
    object.only(DEFINITION_FIELDS);
    let timeout_ms = object.duration("timeout", false);
    let on_timeout = object.choice(
        "on_timeout",
        &[("fail", OnTimeout::Fail), ("suspend", OnTimeout::Suspend), ("cancel", OnTimeout::Cancel)],
    );
    object.object("inputs");
    let outline = Outline::draw(object)?;
    let (depends_on, dag) = dependencies(&outline, report);
    let sight = Sight::new(&outline, report, dag);
    let filters = Filters::default();
    let compiler = Compiler { outline: &outline, sight: &sight, report, depends_on: &depends_on, filters };
    let template = |name: &str, view| compiler.template_from(view, object.get(name)?, &object.at(name));
    let inputs = template("inputs", View::Start);
    let output = template("output", View::End);
    let steps = compiler.steps();
    if !report.is_empty() {
        return None;
    }
    let source = serde_json::to_string(value).expect("a JSON value has a text");
    Some(Definition {
        hash: DefinitionHash(Sha256::digest(source.as_bytes()).into()),
        source: source.into(),
        root: outline.scopes[ROOT].steps.iter().map(|n| SpecIx(*n)).collect(),
        levels: levels(&outline, &sight),
        steps: linked(steps),
        inputs: inputs.unwrap_or_else(|| Template::literal(Value::Object(serde_json::Map::new()))),
        input_schema,
        timeout_ms,
        on_timeout: on_timeout.unwrap_or_default(),
        on_complete: outline.on_complete.map(SpecIx),
        on_error: outline.on_error.map(SpecIx),
        output,
        metadata: object.get("metadata").cloned().unwrap_or(Value::Null),
    })
}

fn levels(outline: &Outline<'_>, sight: &Sight<'_>) -> Vec<Vec<SpecIx>> {
    let root = &outline.scopes[ROOT].steps;
    let level = |positions: &Vec<usize>| positions.iter().map(|p| SpecIx(root[*p])).collect();
    sight.levels().iter().map(level).collect()
}

/// Fills in what only all steps together know: dependents, and who runs only as a fallback.
fn linked(mut steps: Vec<StepSpec>) -> Vec<StepSpec> {
    for ix in 0..steps.len() {
        for dependency in steps[ix].depends_on.clone() {
            let dependent = steps[ix].ix;
            steps[dependency.0 as usize].dependents.push(dependent);
        }
    }
    for ix in 0..steps.len() {
        if let super::OnError::Fallback(fallback) = steps[ix].on_error {
            let fallback = &mut steps[fallback.0 as usize];
            fallback.is_fallback_only = fallback.dependents.is_empty();
        }
    }
    steps
}

/// Direct dependencies of each step, and the graph of the top level.
fn dependencies(outline: &Outline<'_>, report: &Report) -> (Vec<Vec<SpecIx>>, Dag) {
    let mut edges = Vec::new();
    let mut all = Vec::with_capacity(outline.nodes.len());
    for (ix, node) in outline.nodes.iter().enumerate() {
        let ix = u32::try_from(ix).expect("STEPS_MAX fits");
        let direct = dependencies_of(outline, ix, report);
        if node.scope == ROOT {
            edges.extend(direct.iter().map(|d| (outline.node(d.0).position, node.position)));
        }
        all.push(direct);
    }
    let root = &outline.scopes[ROOT].steps;
    let dag = Dag::new(root.len(), edges);
    for cycle in dag.cycles() {
        let pointer = outline.node(root[cycle[0]]).object.at("depends_on");
        let name = |position: &usize| outline.node(root[*position]).id.to_string();
        let mut names: Vec<String> = cycle.iter().take(CYCLE_NAMES_MAX).map(name).collect();
        if cycle.len() > CYCLE_NAMES_MAX {
            names.push(format!("… ({} steps in all)", cycle.len()));
        }
        names.push(name(&cycle[0]));
        report.cycle(pointer, format!("the steps wait for each other: {}", names.join(" → ")));
    }
    (all, dag)
}

fn dependencies_of(outline: &Outline<'_>, ix: u32, report: &Report) -> Vec<SpecIx> {
    let node = outline.node(ix);
    let scope = &outline.scopes[node.scope];
    let mut found = BTreeSet::new();
    for (index, name) in node.object.list("depends_on").unwrap_or_default().iter().enumerate() {
        let tell = |message: String| {
            report.at(super::fields::under(&node.object.at("depends_on"), &index.to_string()), message);
        };
        let Value::String(name) = name else {
            tell(format!("a step's id is expected, this is {}", type_of(name)));
            continue;
        };
        match scope.by_id.get(name.as_str()) {
            _ if *name == *node.id => tell(format!("{name:?} depends on itself")),
            None => {
                let siblings = scope.steps.iter().filter(|s| **s != ix).map(|s| &*outline.node(*s).id);
                let hint = report.did_you_mean(name, siblings);
                let place = if node.scope == ROOT { "" } else { " beside this one" };
                tell(format!("there is no step {}{place}{hint}", shown(name)));
            }
            Some(other)
                if scope.namespace != Namespace::Root && outline.node(*other).position > node.position =>
            {
                tell(format!("{name:?} is listed after this step, and steps here run in listed order"));
            }
            Some(other) => {
                found.insert(SpecIx(*other));
            }
        }
    }
    found.into_iter().collect()
}
