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

/// A text that is charged for before it grows; what does not fit is an error.
struct Charged<'t> {
    text: &'t mut String,
    meter: &'t mut Meter,
}

impl Write for Charged<'_> {
    fn write_str(&mut self, more: &str) -> std::fmt::Result {
        let charged = self.meter.scan(more.len()).and_then(|()| self.meter.push(more.len()));
        charged.map_err(|_| std::fmt::Error)?;
        self.text.push_str(more);
        Ok(())
    }
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
            Node::Array(items) => {
                self.meter.push(items.len().saturating_mul(size_of::<Value>()))?;
                items.iter().map(|item| self.node(item)).collect()
            }
            Node::Object(fields) => {
                self.meter.map(fields.len())?;
                let field = |(name, field): &(String, Node)| {
                    self.meter.text(name)?;
                    Ok((name.clone(), self.node(field)?))
                };
                fields.iter().map(field).collect()
            }
        }
    }

    fn text(&mut self, parts: &[Part]) -> Result<String, EvalError> {
        let mut text = String::new();
        let mut secrets = 0;
        for part in parts {
            let token = match part {
                Part::Token(token) => Some(self.token(token)?),
                Part::Literal(_) | Part::Secret(_) => None,
            };
            let mut out = Charged { text: &mut text, meter: &mut self.meter };
            let written = match (part, token.as_deref()) {
                (Part::Literal(literal), _) => out.write_str(literal),
                (Part::Secret(key), _) => {
                    secrets += 1;
                    write!(out, "{SECRET}{key}{CLOSE}")
                }
                (Part::Token(_), Some(Value::String(string))) => out.write_str(string),
                (Part::Token(_), value) => write!(out, "{}", value.unwrap_or(&Value::Null)),
            };
            written.map_err(|_| EvalError::OverBudget)?;
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
