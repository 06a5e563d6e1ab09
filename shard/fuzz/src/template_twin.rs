//! Interpolation against its slow twin: the bytes grow a template, which is written down and rendered
//! by the engine, and rendered by walking what was grown: equal values, or both an error.

use opcode_engine::expr::interpolate::Template;
use opcode_engine::expr::{Budget, EvalError, NoJq, OwnedScope};
use serde_json::{Map, Value, json};

use crate::choices::Choices;
use crate::expr_twin::{Outcome, same};
use crate::reference::{self, Refused};
use crate::tree::{Grower, Kind, Tree, print};
use crate::world;

/// What stands around tokens; none of it can begin one.
const LITERALS: [&str; 12] = ["a", " ", "$", "}", "}}", "é", "\"", "'", "\\", "$ {{", "\n", "1"];
const ROOTS: [&str; 9] =
    ["inputs", "steps", "steps", "workflow", "context", "data", "loop", "iter", "inputs"];
const NAMES: [&str; 22] = [
    "output", "body", "items", "0", "1", "99", "n", "name", "nums", "users", "map", "a", "b-c", "fetch",
    "list-all", "pending", "item", "index", "exact", "nil", "evil", "skipped",
];
/// What starts a secret.
const SECRET: &str = "${{secrets.";

/// A string of a template.
#[derive(Clone, Debug)]
enum Part {
    Literal(&'static str),
    /// A root and what follows it.
    Path(&'static str, Vec<&'static str>),
    Expr(Tree),
    /// A source of CEL, and its value.
    Cel(&'static str, Value),
    Secret(&'static str),
}

/// Sources whose values are plain to see.
fn cel() -> [(&'static str, Value); 9] {
    [
        ("inputs.n + 1", json!(8)),
        ("inputs.n * 2 > 13", json!(true)),
        ("'}}' + \"${{\"", json!("}}${{")),
        ("{'a': {'b': [1]}}", json!({"a": {"b": [1]}})),
        ("inputs.flag ? 'é' : 'no'", json!("é")),
        ("r'\\' + '''it's'''", json!("\\it's")),
        ("loop.index-1", json!(2)),
        ("size(inputs.nums) // it's }\n", json!(3)),
        ("null", Value::Null),
    ]
}

/// A template: JSON whose strings are parts.
#[derive(Clone, Debug)]
enum Grown {
    Plain(Value),
    Text(Vec<Part>),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// Runs one template.
pub fn template_twin(data: &[u8]) {
    compare(data);
}

/// Runs one template and tells how it came out.
pub fn compare(data: &[u8]) -> Outcome {
    let mut choices = Choices::new(data);
    let grown = grow(&mut choices, 3);
    let source = written(&grown, &mut choices);
    let expected = render(&grown, world::scope());
    let template = match Template::compile(&source, &world::ENV, "") {
        Ok(template) => template,
        // Names that do not exist are known before anything is rendered.
        Err(problems) => {
            assert!(names_nothing(&grown), "{source}\nis refused: {problems:?}\n{grown:?}");
            return Outcome::Error;
        }
    };
    let ours = template.render(world::scope(), Budget::WORKER, &NoJq);
    match (&ours, &expected) {
        (Err(EvalError::OverBudget), _) | (_, Err(Refused::TooMuch)) => Outcome::TooMuch,
        (Err(EvalError::Failed { .. }), Err(Refused::Failed)) => Outcome::Error,
        (Ok(ours), Ok(expected)) if same(ours, expected) => Outcome::Value,
        _ => panic!("{source}\nrenders to {ours:?}\nand by the reference to {expected:?}\n{grown:?}"),
    }
}

fn grow(choices: &mut Choices<'_>, depth: usize) -> Grown {
    match choices.below(if depth == 0 { 5 } else { 8 }) {
        0 => Grown::Plain(json!([1.50, null, "plain $ {{ }}", {"k": true}])),
        1..=4 => {
            let count = choices.below(5);
            Grown::Text((0..=count).map(|_| part(choices)).collect())
        }
        5 | 6 => {
            let count = choices.below(4);
            Grown::List((0..count).map(|_| grow(choices, depth - 1)).collect())
        }
        _ => {
            let names = ["k", "${{inputs.n}}", "é\""];
            let count = choices.below(names.len() + 1);
            Grown::Map(
                names.iter().take(count).map(|n| ((*n).to_owned(), grow(choices, depth - 1))).collect(),
            )
        }
    }
}

fn part(choices: &mut Choices<'_>) -> Part {
    match choices.below(10) {
        0..=2 => Part::Literal(choices.one_of::<&str>(&LITERALS)),
        3..=5 => {
            let root = *choices.one_of(&ROOTS);
            let count = choices.below(5);
            Part::Path(root, (0..count).map(|_| *choices.one_of(&NAMES)).collect())
        }
        6 | 7 => {
            let kind = *choices.one_of(&[Kind::Num, Kind::Text, Kind::Nums, Kind::Row, Kind::Bool]);
            Part::Expr(Grower::new(choices).tree(kind, 2))
        }
        8 => {
            let (source, value) = choices.one_of(&cel()).clone();
            Part::Cel(source, value)
        }
        _ => Part::Secret(choices.one_of::<&str>(&["KEY", "a.b", "C-1"])),
    }
}

/// The template as its author would have written it.
fn written(grown: &Grown, choices: &mut Choices<'_>) -> Value {
    match grown {
        Grown::Plain(value) => value.clone(),
        Grown::Text(parts) => Value::String(parts.iter().map(|part| written_part(part, choices)).collect()),
        Grown::List(items) => items.iter().map(|item| written(item, choices)).collect(),
        Grown::Map(fields) => {
            let fields = fields.iter().map(|(name, field)| (name.clone(), written(field, choices)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

fn written_part(part: &Part, choices: &mut Choices<'_>) -> String {
    let inside = match part {
        Part::Literal(text) => return (*text).to_owned(),
        Part::Secret(key) => format!("secrets.{key}"),
        Part::Cel(source, _) => (*source).to_owned(),
        Part::Expr(tree) => format!("expr: {}", print(tree, choices)),
        Part::Path(root, names) => names.iter().fold((*root).to_owned(), |path, name| {
            let is_index = name.bytes().all(|b| b.is_ascii_digit());
            match choices.below(4) {
                0 => format!("{path}['{name}']"),
                1 => format!("{path}[\"{name}\"]"),
                2 if is_index => format!("{path}[{name}]"),
                _ => format!("{path}.{name}"),
            }
        }),
    };
    let blank = [" ", "", "  ", "\n"][choices.below(4)];
    // Without a blank a brace of the expression would stand before those of the token.
    let behind = if inside.ends_with('}') { " " } else { blank };
    format!("${{{{{blank}{inside}{behind}}}}}")
}

/// Whether it reads a step, or a part of a loop, that does not exist at all.
fn names_nothing(grown: &Grown) -> bool {
    let unknown = |part: &Part| match part {
        Part::Path("steps", names) => {
            names.first().is_some_and(|id| *id != "pending" && !world::scope().steps.contains_key(*id))
        }
        Part::Path("loop" | "iter", names) => names.first().is_some_and(|n| !matches!(*n, "item" | "index")),
        Part::Path(..) | Part::Literal(_) | Part::Cel(..) | Part::Secret(_) => false,
        // The grower names steps that exist; its bounds are those of another target.
        Part::Expr(_) => false,
    };
    match grown {
        Grown::Plain(_) => false,
        Grown::Text(parts) => parts.iter().any(unknown),
        Grown::List(items) => items.iter().any(names_nothing),
        Grown::Map(fields) => fields.iter().any(|(_, field)| names_nothing(field)),
    }
}

fn render(grown: &Grown, scope: &OwnedScope) -> Result<Value, Refused> {
    match grown {
        Grown::Plain(value) => Ok(value.clone()),
        Grown::List(items) => items.iter().map(|item| render(item, scope)).collect(),
        Grown::Map(fields) => {
            let fields = fields.iter().map(|(name, field)| Ok((name.clone(), render(field, scope)?)));
            fields.collect::<Result<Map<_, _>, _>>().map(Value::Object)
        }
        Grown::Text(parts) => match parts.as_slice() {
            [one @ (Part::Path(..) | Part::Expr(_) | Part::Cel(..))] => value(one, scope),
            parts => text(parts, scope).map(Value::String),
        },
    }
}

fn text(parts: &[Part], scope: &OwnedScope) -> Result<String, Refused> {
    let mut text = String::new();
    let mut secrets = 0;
    for part in parts {
        match (part, part) {
            (Part::Literal(literal), _) => text.push_str(literal),
            (Part::Secret(key), _) => {
                text.push_str(&format!("{SECRET}{key}}}}}"));
                secrets += 1;
            }
            (Part::Expr(_), part) => match value(part, scope)? {
                Value::String(string) => text.push_str(&string),
                other => text.push_str(&reference::json(&other)),
            },
            (Part::Path(..) | Part::Cel(..), part) => match value(part, scope)? {
                Value::String(string) => text.push_str(&string),
                other => text.push_str(&other.to_string()),
            },
        }
    }
    // What could be taken for a secret beside a real one is refused.
    if secrets > 0 && text.matches(SECRET).count() != secrets { Err(Refused::Failed) } else { Ok(text) }
}

fn value(part: &Part, scope: &OwnedScope) -> Result<Value, Refused> {
    match part {
        Part::Expr(tree) => reference::evaluate(tree, scope),
        Part::Cel(_, value) => Ok(value.clone()),
        Part::Path(root, names) => path(root, names, scope),
        Part::Literal(text) | Part::Secret(text) => Ok(Value::String((*text).to_owned())),
    }
}

fn path(root: &str, names: &[&str], scope: &OwnedScope) -> Result<Value, Refused> {
    let item = scope.item.as_ref().ok_or(Refused::Failed)?;
    let (mut value, names) = match (root, names) {
        ("steps", [id, "output", rest @ ..] | [id, rest @ ..]) => {
            (scope.steps.get(*id).ok_or(Refused::Failed)?.as_ref().clone(), rest)
        }
        ("steps", []) => {
            let all = scope.steps.iter().map(|(id, output)| (id.to_string(), output.as_ref().clone()));
            (Value::Object(all.collect()), names)
        }
        ("inputs", _) => (scope.inputs.as_ref().clone(), names),
        ("workflow", _) => (scope.workflow.as_ref().clone(), names),
        ("context", _) => (scope.context.as_ref().clone(), names),
        ("data", _) => (scope.data.as_deref().cloned().unwrap_or_default(), names),
        _ => (json!({"item": item.0, "index": item.1}), names),
    };
    for name in names {
        value = match &value {
            Value::Null => return Ok(Value::Null),
            Value::Object(fields) => fields.get(*name).cloned().unwrap_or_default(),
            Value::Array(items) => {
                let at: usize = name.parse().map_err(|_| Refused::Failed)?;
                items.get(at).cloned().unwrap_or_default()
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(Refused::Failed),
        };
    }
    Ok(value)
}
