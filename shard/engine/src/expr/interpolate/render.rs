//! Rendering: one pass over the compiled tree, every copy charged before it is made.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::Value;

use super::{CLOSE, Node, OPEN, Part, Program, SECRET, Token};
use crate::expr::{Budget, EvalError, JqRunner, Meter, Scope};

pub(super) struct Renderer<'r> {
    scope: &'r dyn Scope,
    jq: &'r dyn JqRunner,
    meter: Meter,
}

impl<'r> Renderer<'r> {
    pub(super) fn new(scope: &'r dyn Scope, jq: &'r dyn JqRunner, budget: Budget) -> Self {
        Self { scope, jq, meter: Meter::new(budget) }
    }

    pub(super) fn node(&mut self, node: &Node) -> Result<Value, EvalError> {
        self.meter.steps(1)?;
        match node {
            Node::Literal(value) => {
                self.meter.copy(value)?;
                Ok(value.clone())
            }
            Node::Whole(token) => match self.token(token)? {
                Cow::Owned(value) => Ok(value),
                Cow::Borrowed(value) => {
                    self.meter.copy(value)?;
                    Ok(value.clone())
                }
            },
            Node::Text(parts) => self.text(parts).map(Value::String),
            Node::Array(items) => items.iter().map(|item| self.node(item)).collect(),
            Node::Object(fields) => fields
                .iter()
                .map(|(name, field)| {
                    self.meter.text(name)?;
                    Ok((name.clone(), self.node(field)?))
                })
                .collect(),
        }
    }

    fn text(&mut self, parts: &[Part]) -> Result<String, EvalError> {
        let mut text = String::new();
        let mut secrets = 0;
        for part in parts {
            match part {
                Part::Literal(literal) => {
                    self.meter.text(literal)?;
                    text.push_str(literal);
                }
                Part::Secret(key) => {
                    secrets += 1;
                    let _ = write!(text, "{SECRET}{key}{CLOSE}");
                }
                Part::Token(token) => match self.token(token)?.as_ref() {
                    Value::String(string) => {
                        self.meter.text(string)?;
                        text.push_str(string);
                    }
                    value => {
                        self.meter.copy(value)?;
                        let _ = write!(text, "{value}");
                    }
                },
            }
        }
        if secrets > 0 && text.matches(SECRET).count() != secrets {
            return Err(EvalError::failed(format!("a value put beside a secret holds `{SECRET}`")));
        }
        Ok(text)
    }

    fn token(&mut self, token: &Token) -> Result<Cow<'r, Value>, EvalError> {
        let scope = self.scope;
        let value = match &token.program {
            Program::Path(path) => path.read(scope, &mut self.meter),
            Program::Cel(cel) => cel.eval_metered(scope, &mut self.meter).map(Cow::Owned),
            Program::Jq(jq) => jq.eval(scope, self.jq).and_then(|value| {
                self.meter.copy(&value)?;
                Ok(Cow::Owned(value))
            }),
            Program::Expr(expr) => expr.eval_metered(scope, &mut self.meter).map(Cow::Owned),
        };
        value.map_err(|error| match error {
            EvalError::Failed { message, .. } => {
                EvalError::failed(format!("{message}, in `{OPEN}{:.100}{CLOSE}`", token.source))
            }
            other => other,
        })
    }
}
