//! The evaluator: walks the checked tree, charges every step, copies nothing of the scope.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::functions::{self, ALLOCATION_BYTES};
use super::node::{Access, Binary, Call, Comprehension, Kind, Link, Node, Pattern, Quantifier, Root};
use super::operators;
use super::value::{Key, Val};
use crate::expr::{EvalError, Meter, Scope};

/// One evaluation.
pub(super) struct Evaluator<'a> {
    pub(super) scope: &'a dyn Scope,
    pub(super) meter: Meter,
    /// Variables of the comprehensions around, outermost first.
    vars: Vec<Val<'a>>,
    /// Patterns that were computed.
    pub(super) patterns: Vec<Pattern>,
}

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// An error at a column, unless it knows a better one.
pub(super) fn at(column: u32) -> impl Fn(EvalError) -> EvalError {
    move |error| match error {
        EvalError::Failed { message, column: None } => EvalError::Failed { message, column: Some(column) },
        other => other,
    }
}

fn fail<T>(node: &Node, message: String) -> Result<T, EvalError> {
    Err(EvalError::Failed { message, column: Some(node.column) })
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(scope: &'a dyn Scope, meter: Meter) -> Self {
        Self { scope, meter, vars: Vec::new(), patterns: Vec::new() }
    }

    pub(super) fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        self.meter.steps(1)?;
        match &node.kind {
            Kind::Null => Ok(Val::Null),
            Kind::Bool(b) => Ok(Val::Bool(*b)),
            Kind::Int(i) => Ok(Val::Int(*i)),
            Kind::UInt(u) => Ok(Val::UInt(*u)),
            Kind::Double(d) => Ok(Val::Double(*d)),
            Kind::Str(text) => Ok(Val::Str(text)),
            Kind::Bytes(bytes) => {
                self.meter.bytes(bytes.len())?;
                Ok(Val::Bytes(bytes.as_ref().into()))
            }
            Kind::Type(name) => Ok(Val::Type(name)),
            Kind::Root(root) => self.root(*root),
            Kind::Step(id) => match self.scope.step(id) {
                Some(output) => Ok(Val::Json(output)),
                None => fail(node, format!("step '{id}' has not run, so it has no output")),
            },
            Kind::HasStep(id) => Ok(Val::Bool(self.scope.step(id).is_some())),
            Kind::Var(slot) => Ok(self.vars[*slot].clone()),
            Kind::Chain(base, links) => self.chain(base, links),
            Kind::Has(of, field) => self.has(of, field),
            Kind::Not(of) => Ok(Val::Bool(!self.bool(of)?)),
            Kind::Negate(of) => {
                let value = self.eval(of)?;
                operators::negate(&value).map_err(at(node.column))
            }
            Kind::Fold(first, rest) => self.fold(first, rest),
            Kind::And(terms) => self.logic(terms, false),
            Kind::Or(terms) => self.logic(terms, true),
            Kind::Conditional(parts) => {
                let [condition, yes, no] = parts.as_ref();
                if self.bool(condition)? { self.eval(yes) } else { self.eval(no) }
            }
            Kind::List(items) => {
                self.meter.list(items.len(), size_of::<Val<'_>>())?;
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    list.push(self.eval(item)?);
                }
                Ok(Val::List(Rc::new(list)))
            }
            Kind::Map(entries) => self.map(entries),
            Kind::Call(call, args) => {
                let args = args.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
                functions::run(self, call, &args).map_err(at(node.column))
            }
        }
    }

    fn root(&mut self, root: Root) -> Outcome<'a> {
        let item = || self.scope.item().ok_or_else(|| EvalError::failed("there is no loop here"));
        Ok(match root {
            Root::Steps => Val::Steps,
            Root::Inputs => Val::Json(self.scope.inputs()),
            Root::Workflow => Val::Json(self.scope.workflow()),
            Root::Context => Val::Json(self.scope.context()),
            Root::Data => self.scope.data().map_or(Val::Null, Val::Json),
            Root::IterItem => Val::Json(item()?.0),
            Root::IterIndex => Val::integer(item()?.1.into()).unwrap_or(Val::Null),
            Root::Iter => {
                let (item, index) = item()?;
                let index = Val::integer(index.into()).unwrap_or(Val::Null);
                self.meter.map(2)?;
                Val::Map(Rc::new(BTreeMap::from([
                    (Key::Str("item".into()), Val::Json(item)),
                    (Key::Str("index".into()), index),
                ])))
            }
        })
    }

    fn bool(&mut self, node: &'a Node) -> Result<bool, EvalError> {
        match self.eval(node)?.plain() {
            Val::Bool(b) => Ok(b),
            other => fail(node, format!("expected a bool, found {}", other.type_name())),
        }
    }

    /// `&&` and `||`: a term that decides wins over one that fails, wherever they stand.
    fn logic(&mut self, terms: &'a [Node], decides: bool) -> Outcome<'a> {
        let mut error = None;
        for term in terms {
            match self.bool(term) {
                Ok(value) if value == decides => return Ok(Val::Bool(decides)),
                Ok(_) => {}
                Err(failed) => keep_first(&mut error, failed)?,
            }
        }
        error.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn fold(&mut self, first: &'a Node, rest: &'a [(Binary, u32, Node)]) -> Outcome<'a> {
        let mut value = self.eval(first)?;
        for (operator, column, right) in rest {
            let right = self.eval(right)?;
            value = operators::apply(self, *operator, &value, &right).map_err(at(*column))?;
        }
        Ok(value)
    }

    fn map(&mut self, entries: &'a [(Node, Node)]) -> Outcome<'a> {
        self.meter.map(entries.len())?;
        let mut map = BTreeMap::new();
        for (key_node, value) in entries {
            let key = self.eval(key_node)?;
            self.meter.bytes(key.as_str().map_or(0, str::len))?;
            let Some(key) = Key::of(&key) else {
                return fail(key_node, format!("a key may not be {}", key.type_name()));
            };
            let value = self.eval(value)?;
            if map.insert(key, value).is_some() {
                return fail(key_node, "the key is there already".into());
            }
        }
        Ok(Val::Map(Rc::new(map)))
    }

    /// Whether the field is there. A step that has not run has no fields.
    fn has(&mut self, of: &'a Node, field: &'a str) -> Outcome<'a> {
        let base = if let Kind::Chain(base, _) = &of.kind { base } else { of };
        if let Kind::Step(id) = &base.kind
            && self.scope.step(id).is_none()
        {
            return Ok(Val::Bool(false));
        }
        let value = self.eval(of)?;
        Ok(Val::Bool(value.entry(&Val::Str(field), self.scope).is_some()))
    }

    fn chain(&mut self, base: &'a Node, links: &'a [Link]) -> Outcome<'a> {
        let mut value = self.eval(base)?;
        for link in links {
            self.meter.steps(1)?;
            value = match &link.access {
                Access::Field(name) => self.read(&value, &Val::Str(name)),
                Access::Index(index) => {
                    let index = self.eval(index)?;
                    self.read(&value, &index)
                }
                Access::StepAt(id) => {
                    let id = self.eval(id)?;
                    self.step_at(&id)
                }
                Access::Call(call, args) => self.call(call, value, args),
                Access::Comprehension(comprehension) => self.comprehend(comprehension, &value),
            }
            .map_err(at(link.column))?;
        }
        Ok(value)
    }

    fn step_at(&mut self, id: &Val<'a>) -> Outcome<'a> {
        let Some(name) = id.as_str() else {
            return Err(EvalError::failed(format!("the id of a step is a string, not {}", id.type_name())));
        };
        self.meter.scan(name.len())?;
        match self.scope.step(name) {
            Some(output) => Ok(Val::Json(output)),
            None => Err(EvalError::failed(format!("there is no output of a step '{name:.128}'"))),
        }
    }

    /// A field or element. What is not there is `null`, and so is anything of `null`: JSON from
    /// outside has optional fields, and a guard should not fail on them.
    fn read(&mut self, value: &Val<'a>, key: &Val<'a>) -> Outcome<'a> {
        if matches!(value.plain(), Val::Null) {
            return Ok(Val::Null);
        }
        if value.is_map() {
            self.meter.scan(key.as_str().map_or(0, str::len))?;
            return Ok(value.entry(key, self.scope).unwrap_or(Val::Null));
        }
        if value.is_list() {
            return match key.as_integer() {
                Some(index) => {
                    Ok(usize::try_from(index).ok().and_then(|at| value.item(at)).unwrap_or(Val::Null))
                }
                None => {
                    Err(EvalError::failed(format!("a list is indexed by an integer, not {}", describe(key))))
                }
            };
        }
        Err(EvalError::failed(format!("{} has no {}", value.type_name(), describe(key))))
    }

    fn call(&mut self, call: &'a Call, receiver: Val<'a>, args: &'a [Node]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(args.len() + 1);
        values.push(receiver);
        for arg in args {
            values.push(self.eval(arg)?);
        }
        functions::run(self, call, &values)
    }

    fn comprehend(&mut self, comprehension: &'a Comprehension, range: &Val<'a>) -> Outcome<'a> {
        let Some(elements) = range.iterate(self.scope) else {
            return Err(EvalError::failed(format!("cannot go through {}", range.type_name())));
        };
        self.meter.bytes(ALLOCATION_BYTES)?;
        self.vars.push(Val::Null);
        let outcome = self.quantify(comprehension, elements);
        self.vars.pop();
        outcome
    }

    fn quantify(
        &mut self,
        comprehension: &'a Comprehension,
        elements: impl Iterator<Item = Val<'a>>,
    ) -> Outcome<'a> {
        let Comprehension { quantifier, filter, body } = comprehension;
        let (mut error, mut found, mut list) = (None, 0_u64, Vec::new());
        let slot = self.vars.len() - 1;
        for element in elements {
            self.meter.steps(1)?;
            self.vars[slot] = element;
            if let Some(filter) = filter
                && !self.bool(filter)?
            {
                continue;
            }
            match quantifier {
                Quantifier::All | Quantifier::Exists => {
                    let decides = *quantifier == Quantifier::Exists;
                    match self.bool(body) {
                        Ok(value) if value == decides => return Ok(Val::Bool(decides)),
                        Ok(_) => {}
                        Err(failed) => keep_first(&mut error, failed)?,
                    }
                }
                Quantifier::ExistsOne => found += u64::from(self.bool(body)?),
                Quantifier::Map => {
                    self.meter.push(size_of::<Val<'_>>())?;
                    list.push(self.eval(body)?);
                }
                Quantifier::Filter => {
                    if self.bool(body)? {
                        self.meter.push(size_of::<Val<'_>>())?;
                        list.push(self.vars[slot].clone());
                    }
                }
            }
        }
        match (quantifier, error) {
            (_, Some(error)) => Err(error),
            (Quantifier::All, None) => Ok(Val::Bool(true)),
            (Quantifier::Exists, None) => Ok(Val::Bool(false)),
            (Quantifier::ExistsOne, None) => Ok(Val::Bool(found == 1)),
            (Quantifier::Map | Quantifier::Filter, None) => Ok(Val::List(Rc::new(list))),
        }
    }
}

/// Keeps the first failure; what is no fault of the expression is not to be absorbed.
fn keep_first(kept: &mut Option<EvalError>, error: EvalError) -> Result<(), EvalError> {
    match error {
        EvalError::Failed { .. } => {
            kept.get_or_insert(error);
            Ok(())
        }
        EvalError::OverBudget | EvalError::NeedsWorker => Err(error),
    }
}

fn describe(key: &Val<'_>) -> String {
    match key.as_str() {
        Some(name) => format!("field '{name:.128}'"),
        None => format!("element at a {}", key.type_name()),
    }
}
