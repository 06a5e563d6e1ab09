//! `${{ … }}`: values put into parsed JSON in one pass, so that none can change its shape.
//!
//! A template is compiled once into a tree as its value is, in which only the strings with tokens
//! are anything but literal. Rendering goes through that tree once: a value put in is never looked
//! at again, so text that looks like a token stays text.
//!
//! **Secrets.** `${{secrets.KEY}}` is left as it is by [`Template::render`], so that what is
//! rendered may be stored and shown. [`Template::render_secrets`], in the worker, puts the values
//! in, and only at the places where *the template* has such a token: it never searches the
//! rendered value for them. A value that was put in and contains `${{secrets.KEY}}` is therefore
//! never resolved; where it stands beside a secret in one string, so that one could be taken for
//! the other, rendering fails instead.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::Problem;

use super::cel::Cel;
use super::expr::Expr;
use super::jq::Jq;
use super::path::Path;
use super::{Budget, Env, EvalError, JqRunner, References, Scope};

mod compile;
mod render;
#[cfg(test)]
mod tests;
mod token;

use compile::Compiler;
pub use compile::is_secret_key;
use render::Renderer;

/// Most tokens of one template.
pub const TEMPLATE_TOKENS_MAX: usize = 1_000;

const OPEN: &str = "${{";
const CLOSE: &str = "}}";
/// How a secret starts in what is rendered, whatever blanks it was written with.
const SECRET: &str = "${{secrets.";

/// A JSON value with compiled tokens in its strings (never in its keys).
#[derive(Clone, Debug)]
pub struct Template {
    source: Value,
    root: Node,
    references: References,
    needs_worker: bool,
}

#[derive(Clone, Debug)]
enum Node {
    /// Nothing to interpolate anywhere inside.
    Literal(Value),
    /// A string that is one token: takes the value with its type.
    Whole(Token),
    /// A string with tokens in it.
    Text(Vec<Part>),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Clone, Debug)]
enum Part {
    Literal(String),
    Token(Token),
    /// The key of a secret.
    Secret(String),
}

#[derive(Clone, Debug)]
struct Token {
    /// As written, without `${{ }}`, for messages.
    source: String,
    program: Program,
}

#[derive(Clone, Debug)]
enum Program {
    Path(Path),
    Cel(Cel),
    Jq(Jq),
    Expr(Expr),
}

impl Template {
    /// Compiles every token of every string in `value`; problems carry `pointer` + their place
    /// and the column in that string. `${{secrets.KEY}}` is checked and left as it is.
    pub fn compile(value: &Value, env: &Env<'_>, pointer: &str) -> Result<Self, Vec<Problem>> {
        let mut compiler = Compiler::new(env, pointer);
        let root = compiler.value(value);
        compiler.finish(value.clone(), root)
    }

    /// Compiles one bare expression, without `${{ }}`: a path, else CEL, or `jq:`/`expr:` and
    /// that language; as in `config.data_inject`, where a string with `${{` is a template too.
    pub fn compile_expression(source: &str, env: &Env<'_>, pointer: &str) -> Result<Self, Vec<Problem>> {
        let mut compiler = Compiler::new(env, pointer);
        let root = if source.contains(OPEN) {
            compiler.string(source)
        } else {
            compiler.token(source, 0, source).map_or(Node::Literal(Value::Null), Node::Whole)
        };
        compiler.finish(Value::String(source.into()), root)
    }

    /// A compiled Cel expression as a template that is one token.
    pub fn from_cel(cel: Cel) -> Self {
        let references = cel.references().clone();
        Self::from_program(cel.source().to_owned(), Program::Cel(cel), references, false)
    }

    /// A checked jq filter as a template that is one token.
    pub fn from_jq(jq: Jq) -> Self {
        let references = jq.references().clone();
        Self::from_program(jq.source().to_owned(), Program::Jq(jq), references, true)
    }

    fn from_program(source: String, program: Program, references: References, needs_worker: bool) -> Self {
        Self {
            source: Value::String(source.clone()),
            root: Node::Whole(Token { source, program }),
            references,
            needs_worker,
        }
    }

    /// A value with nothing to interpolate.
    pub fn literal(value: Value) -> Self {
        Self {
            root: Node::Literal(value.clone()),
            source: value,
            references: References::default(),
            needs_worker: false,
        }
    }

    /// What was compiled.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The steps it reads.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Whether there is nothing to interpolate, secrets neither.
    pub fn is_literal(&self) -> bool {
        matches!(self.root, Node::Literal(_))
    }

    /// Whether it holds jq, which only a worker runs.
    pub fn needs_worker(&self) -> bool {
        self.needs_worker
    }

    /// The value, within the budget. A token that reads a missing *field* is `null`; one that
    /// reads a step that is not done is a failure. Secrets are left as `${{secrets.KEY}}`.
    pub fn render(&self, scope: &dyn Scope, budget: Budget, jq: &dyn JqRunner) -> Result<Value, EvalError> {
        // With nothing to interpolate nothing is computed, and the copy is bounded by the
        // definition's own size.
        if let Node::Literal(value) = &self.root {
            return Ok(value.clone());
        }
        Renderer::new(scope, jq, budget).node(&self.root)
    }

    /// Puts secrets into `rendered`, which [`Template::render`] of this template gave, at the
    /// places where the template has them and nowhere else. The first failure of `resolve` ends it.
    pub fn render_secrets<E>(
        &self,
        rendered: &mut Value,
        resolve: &mut dyn FnMut(&str) -> Result<String, E>,
    ) -> Result<(), E> {
        put_secrets(&self.root, rendered, resolve)
    }

    /// Whether [`Template::render_secrets`] has anything to do.
    pub fn has_secrets(&self) -> bool {
        has_secrets(&self.root)
    }

    /// The keys of all secrets that [`Template::render_secrets`] asks for, each once.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let mut keys = BTreeSet::new();
        gather_secrets(&self.root, &mut keys);
        keys
    }
}

fn gather_secrets<'t>(node: &'t Node, keys: &mut BTreeSet<&'t str>) {
    match node {
        Node::Literal(_) | Node::Whole(_) => {}
        Node::Text(parts) => keys.extend(parts.iter().filter_map(secret_of)),
        Node::Array(items) => items.iter().for_each(|item| gather_secrets(item, keys)),
        Node::Object(fields) => fields.iter().for_each(|(_, field)| gather_secrets(field, keys)),
    }
}

fn secret_of(part: &Part) -> Option<&str> {
    match part {
        Part::Secret(key) => Some(key),
        Part::Literal(_) | Part::Token(_) => None,
    }
}

fn has_secrets(node: &Node) -> bool {
    match node {
        Node::Literal(_) | Node::Whole(_) => false,
        Node::Text(parts) => parts.iter().any(|part| secret_of(part).is_some()),
        Node::Array(items) => items.iter().any(has_secrets),
        Node::Object(fields) => fields.iter().any(|(_, field)| has_secrets(field)),
    }
}

fn put_secrets<E>(
    node: &Node,
    rendered: &mut Value,
    resolve: &mut dyn FnMut(&str) -> Result<String, E>,
) -> Result<(), E> {
    match (node, rendered) {
        (Node::Text(parts), Value::String(text)) if has_secrets(node) => {
            let mut rest = text.as_str();
            let mut whole = String::new();
            for key in parts.iter().filter_map(secret_of) {
                // Rendering has made sure that the string holds as many of these as the template.
                let Some((before, after)) = rest.split_once(SECRET) else { break };
                whole.push_str(before);
                whole.push_str(&resolve(key)?);
                rest = after.strip_prefix(key).and_then(|after| after.strip_prefix(CLOSE)).unwrap_or(after);
            }
            whole.push_str(rest);
            *text = whole;
        }
        (Node::Array(nodes), Value::Array(items)) => {
            for (node, item) in nodes.iter().zip(items) {
                put_secrets(node, item, resolve)?;
            }
        }
        (Node::Object(nodes), Value::Object(fields)) => {
            for (name, node) in nodes {
                if let Some(field) = fields.get_mut(name) {
                    put_secrets(node, field, resolve)?;
                }
            }
        }
        (Node::Literal(_) | Node::Whole(_) | Node::Text(_) | Node::Array(_) | Node::Object(_), _) => {}
    }
    Ok(())
}
