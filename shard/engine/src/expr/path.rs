//! Paths: `steps.fetch-a.output.body.items[0].name`, the plain case of interpolation, walked
//! without any engine and without copying. Unlike in CEL, names may have hyphens.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Env, EvalError, ExprProblem, Meter, References, Scope, names};

/// A checked path.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    root: Root,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Root {
    Step(Arc<str>),
    Steps,
    Inputs,
    Workflow,
    Context,
    Data,
    Loop,
    Item,
    Index,
}

/// A field, or an element where the value is a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    name: Arc<str>,
    index: Option<usize>,
}

impl Path {
    /// Parses and checks `source`; `None` when it is no path but may be an expression.
    pub(crate) fn compile(source: &str, env: &Env<'_>) -> Option<Result<Self, ExprProblem>> {
        let (name, spelled) = spell(source)?;
        let mut segments: Vec<Segment> = spelled
            .iter()
            .map(|(name, _)| Segment { name: (*name).into(), index: name.parse().ok() })
            .collect();
        let first = segments.first().map(|segment| Arc::clone(&segment.name));
        let root = match name {
            "steps" => match first {
                None => Root::Steps,
                Some(id) => {
                    if let Some(message) = names::step_problem(env, &id) {
                        return Some(Err(ExprProblem { column: spelled[0].1, message }));
                    }
                    segments.remove(0);
                    if segments.first().is_some_and(|segment| &*segment.name == "output") {
                        segments.remove(0);
                    }
                    Root::Step(id)
                }
            },
            "inputs" => Root::Inputs,
            "workflow" => Root::Workflow,
            "context" => Root::Context,
            "data" if env.has_data => Root::Data,
            "loop" | "iter" if env.in_loop => match first.as_deref() {
                None => Root::Loop,
                Some("item") => Root::Item,
                Some("index") => Root::Index,
                // `loop.index-1` is arithmetic; what is no field at all is CEL's to name.
                Some(_) => return None,
            },
            // One bare word may be `true`, or is CEL's to name.
            _ if segments.is_empty() => return None,
            _ => return Some(Err(ExprProblem { column: 1, message: names::unknown_root(name, []) })),
        };
        if matches!(root, Root::Item | Root::Index) {
            segments.remove(0);
        }
        Some(Ok(Self { root, segments }))
    }

    /// The steps it reads.
    pub(crate) fn references(&self) -> References {
        match &self.root {
            Root::Step(id) => References { steps: vec![Arc::clone(id)], all_steps: false },
            Root::Steps => References { steps: Vec::new(), all_steps: true },
            Root::Inputs
            | Root::Workflow
            | Root::Context
            | Root::Data
            | Root::Loop
            | Root::Item
            | Root::Index => References::default(),
        }
    }

    /// The value: borrowed, but for roots that are put together. What is not there is `null`, and
    /// so is any field of `null`.
    pub(crate) fn read<'a>(
        &self,
        scope: &'a dyn Scope,
        meter: &mut Meter,
    ) -> Result<Cow<'a, Value>, EvalError> {
        meter.steps(1 + self.segments.len() as u64)?;
        let no_loop = || EvalError::failed("there is no loop here");
        let root =
            match &self.root {
                Root::Step(id) => Cow::Borrowed(scope.step(id).ok_or_else(|| {
                    EvalError::failed(format!("step '{id}' has not run, so it has no output"))
                })?),
                Root::Steps => Cow::Owned(all_steps(scope, meter)?),
                Root::Inputs => Cow::Borrowed(scope.inputs()),
                Root::Workflow => Cow::Borrowed(scope.workflow()),
                Root::Context => Cow::Borrowed(scope.context()),
                Root::Data => Cow::Borrowed(scope.data().unwrap_or(&Value::Null)),
                Root::Item => Cow::Borrowed(scope.item().ok_or_else(no_loop)?.0),
                Root::Index => Cow::Owned(scope.item().ok_or_else(no_loop)?.1.into()),
                Root::Loop => {
                    let (item, index) = scope.item().ok_or_else(no_loop)?;
                    meter.map(2)?;
                    meter.copy(item)?;
                    Cow::Owned(json!({ "item": item, "index": index }))
                }
            };
        match root {
            Cow::Borrowed(value) => walk(value, &self.segments).map(Cow::Borrowed),
            Cow::Owned(value) => walk(&value, &self.segments).map(|found| Cow::Owned(found.clone())),
        }
    }
}

/// The outputs of all steps by their ids, each copy charged before it is made.
fn all_steps(scope: &dyn Scope, meter: &mut Meter) -> Result<Value, EvalError> {
    let mut outputs = Map::new();
    for id in scope.step_ids() {
        let Some(output) = scope.step(id) else { continue };
        meter.map(1)?;
        meter.text(id)?;
        meter.copy(output)?;
        outputs.insert(id.to_owned(), output.clone());
    }
    Ok(Value::Object(outputs))
}

fn walk<'v>(root: &'v Value, segments: &[Segment]) -> Result<&'v Value, EvalError> {
    let mut value = root;
    for segment in segments {
        value = match (value, segment.index) {
            (Value::Null, _) => return Ok(&Value::Null),
            (Value::Object(fields), _) => fields.get(&*segment.name).unwrap_or(&Value::Null),
            (Value::Array(items), Some(index)) => items.get(index).unwrap_or(&Value::Null),
            (Value::Array(_), None) => return Err(no_field("a list", &segment.name)),
            (Value::String(_), _) => return Err(no_field("a string", &segment.name)),
            (Value::Number(_), _) => return Err(no_field("a number", &segment.name)),
            (Value::Bool(_), _) => return Err(no_field("a bool", &segment.name)),
        };
    }
    Ok(value)
}

fn no_field(what: &str, name: &str) -> EvalError {
    EvalError::failed(format!("{what} has no field '{name:.128}'"))
}

/// The root's name and the segments with their columns, if `source` is spelled as a path.
fn spell(source: &str) -> Option<(&str, Vec<(&str, u32)>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name_length = |text: &str| text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (root, mut rest) = source.split_at(name_length(source));
    if !root.starts_with(|c: char| c.is_ascii_alphabetic()) || root.contains('-') {
        return None;
    }
    let mut segments = Vec::new();
    while !rest.is_empty() {
        let at = source.len() - rest.len();
        let (name, skipped, after);
        if let Some(inside) = rest.strip_prefix('.') {
            let length = name_length(inside);
            (name, skipped, after) = (&inside[..length], 1, &inside[length..]);
        } else {
            let inside = rest.strip_prefix('[')?;
            let end = inside.find(']')?;
            let quoted = inside.strip_prefix(['\'', '"']);
            if let Some(quoted) = quoted {
                let quote = inside.chars().next()?;
                let length = quoted.find(quote)?;
                (name, skipped) = (&quoted[..length], 1);
                after = quoted[length + 1..].strip_prefix(']')?;
                if name.contains('\\') {
                    return None;
                }
            } else {
                (name, skipped, after) = (&inside[..end], 1, &inside[end + 1..]);
                // `+1` is no index, though it would be read as one.
                name.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
                name.parse::<usize>().ok()?;
            }
        }
        if name.is_empty() {
            return None;
        }
        let column = source[..at + skipped].chars().count() + 1;
        segments.push((name, u32::try_from(column).unwrap_or(u32::MAX)));
        rest = after;
    }
    Some((root, segments))
}
