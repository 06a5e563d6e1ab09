//! Compilation: finds the tokens of every string and gives each to its language.

use serde_json::Value;

use super::token::token_length;
use super::{CLOSE, Node, OPEN, Part, Program, TEMPLATE_TOKENS_MAX, Template, Token};
use crate::error::Problem;
use crate::expr::cel::Cel;
use crate::expr::expr::Expr;
use crate::expr::jq::Jq;
use crate::expr::path::Path;
use crate::expr::{Env, ExprProblem, References};

pub(super) struct Compiler<'c> {
    env: &'c Env<'c>,
    /// Where the value being compiled is.
    pointer: String,
    problems: Vec<Problem>,
    references: References,
    needs_worker: bool,
    tokens: usize,
}

impl<'c> Compiler<'c> {
    pub(super) fn new(env: &'c Env<'c>, pointer: &str) -> Self {
        Self {
            env,
            pointer: pointer.into(),
            problems: Vec::new(),
            references: References::default(),
            needs_worker: false,
            tokens: 0,
        }
    }

    pub(super) fn finish(mut self, source: Value, root: Node) -> Result<Template, Vec<Problem>> {
        if self.tokens > TEMPLATE_TOKENS_MAX {
            let message = format!("more than {TEMPLATE_TOKENS_MAX} tokens `${{{{ … }}}}` in one value");
            self.problems.push(Problem::at(self.pointer, message));
        }
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let mut references = References::default();
        references.merge(&self.references);
        Ok(Template { source, root, references, needs_worker: self.needs_worker })
    }

    fn inside<T>(&mut self, segment: &str, compile: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
        let compiled = compile(self);
        self.pointer.truncate(length);
        compiled
    }

    pub(super) fn value(&mut self, value: &Value) -> Node {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Node::Literal(value.clone()),
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                let nodes: Vec<Node> = (0..)
                    .zip(items)
                    .map(|(at, item): (usize, _)| self.inside(&at.to_string(), |c| c.value(item)))
                    .collect();
                if nodes.iter().all(is_literal) { Node::Literal(value.clone()) } else { Node::Array(nodes) }
            }
            Value::Object(fields) => {
                let nodes: Vec<(String, Node)> = fields
                    .iter()
                    .map(|(name, field)| (name.clone(), self.inside(name, |c| c.value(field))))
                    .collect();
                if nodes.iter().all(|(_, node)| is_literal(node)) {
                    Node::Literal(value.clone())
                } else {
                    Node::Object(nodes)
                }
            }
        }
    }

    pub(super) fn string(&mut self, text: &str) -> Node {
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(open) = text[at..].find(OPEN).map(|found| found + at) {
            if open > at {
                parts.push(Part::Literal(text[at..open].into()));
            }
            let start = open + OPEN.len();
            let Some(length) = token_length(&text[start..]) else {
                self.problem(text, open, 1, format!("`{OPEN}`, or a string in it, is never closed"));
                return Node::Literal(Value::Null);
            };
            let source = &text[start..start + length];
            match source.trim() {
                secret
                    if secret.strip_prefix("secrets").is_some_and(|rest| !rest.starts_with(is_word_part)) =>
                {
                    match secret_key(secret) {
                        Some(key) => parts.push(Part::Secret(key.into())),
                        None => self.problem(text, open, 1, "a secret is `${{secrets.KEY}}`, alone".into()),
                    }
                }
                _ => parts.extend(self.token(source, start, text).map(Part::Token)),
            }
            at = start + length + CLOSE.len();
        }
        if at < text.len() {
            parts.push(Part::Literal(text[at..].into()));
        }
        match parts.as_slice() {
            [] | [Part::Literal(_)] => Node::Literal(Value::String(text.into())),
            [Part::Token(token)] => Node::Whole(token.clone()),
            _ => Node::Text(parts),
        }
    }

    /// Compiles the token `source`, which starts at byte `start` of the string `text`.
    pub(super) fn token(&mut self, source: &str, start: usize, text: &str) -> Option<Token> {
        self.tokens += 1;
        if self.tokens > TEMPLATE_TOKENS_MAX {
            return None;
        }
        let trimmed = source.trim();
        let mut start = start + (source.len() - source.trim_start().len());
        let compiled = if let Some(filter) = trimmed.strip_prefix("jq:") {
            start += "jq:".len();
            self.needs_worker = true;
            Jq::compile(filter, self.env).map(Program::Jq)
        } else if let Some(expression) = trimmed.strip_prefix("expr:") {
            start += "expr:".len();
            Expr::compile(expression, self.env).map(Program::Expr)
        } else {
            match Path::compile(trimmed, self.env) {
                Some(path) => path.map(Program::Path).map_err(|problem| vec![problem]),
                None => Cel::compile(trimmed, self.env).map(Program::Cel),
            }
        };
        match compiled {
            Ok(program) => {
                match &program {
                    Program::Path(path) => self.references.merge(&path.references()),
                    Program::Cel(cel) => self.references.merge(cel.references()),
                    Program::Jq(jq) => self.references.merge(jq.references()),
                    Program::Expr(expr) => self.references.merge(expr.references()),
                }
                Some(Token { source: source.into(), program })
            }
            Err(problems) => {
                for ExprProblem { column, message } in problems {
                    self.problem(text, start, column, message);
                }
                None
            }
        }
    }

    /// A problem at a column of what starts at byte `start` of `text`.
    fn problem(&mut self, text: &str, start: usize, column: u32, message: String) {
        let before = u32::try_from(text[..start].chars().count()).unwrap_or(0);
        self.problems.push(Problem::at(self.pointer.clone(), message).column(before + column));
    }
}

fn is_literal(node: &Node) -> bool {
    matches!(node, Node::Literal(_))
}

fn is_word_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// The key in `secrets.KEY`.
fn secret_key(text: &str) -> Option<&str> {
    text.strip_prefix("secrets.").filter(|key| is_secret_key(key))
}

/// Whether a secret may have this key: letters, digits, `_`, `-` and dots, at most 128.
pub fn is_secret_key(key: &str) -> bool {
    (1..=128).contains(&key.len()) && key.chars().all(|c| is_word_part(c) || c == '.')
}
