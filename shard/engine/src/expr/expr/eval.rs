//! Nodes to a value, every step and byte counted.
//!
//! Chains to the left (`a + b + c`, `a.b.c`, `a | f() | g()`) are walked with a stack of our own;
//! only what the parser bounded recurses.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value;

use super::super::{EvalError, Meter, Scope};
use super::ast::{Id, Kind, Node, Op, Program, Root};
use super::builtins::Run;
use super::pattern::Pattern;
use super::predicates;
use super::value::{self, ListView, Text, V, View};

pub(super) type Evaluated<'a> = Result<V<'a>, EvalError>;

/// The result of `program`, as JSON of its own.
pub(super) fn evaluate(program: &Program, scope: &dyn Scope, meter: &mut Meter) -> Result<Value, EvalError> {
    let mut machine = Machine {
        program,
        scope,
        meter: *meter,
        vars: vec![V::Nil; program.slots],
        frames: Vec::new(),
        spine: Vec::new(),
        patterns: BTreeMap::new(),
    };
    let result = machine.eval(program.root).and_then(|result| value::to_json(&result, &mut machine.meter));
    *meter = machine.meter;
    result
}

/// What `#` means while a predicate runs.
pub(super) struct Frame<'a> {
    pub(super) element: V<'a>,
    pub(super) position: i64,
    pub(super) accumulator: V<'a>,
}

/// One evaluation.
pub(super) struct Machine<'a> {
    program: &'a Program,
    scope: &'a dyn Scope,
    pub(super) meter: Meter,
    vars: Vec<V<'a>>,
    pub(super) frames: Vec<Frame<'a>>,
    /// Nodes whose left side is being evaluated, of all levels.
    spine: Vec<Id>,
    /// Patterns that were not literals, compiled once each.
    patterns: BTreeMap<String, Pattern>,
}

fn at(error: EvalError, column: u32) -> EvalError {
    match error {
        EvalError::Failed { message, column: None } => EvalError::Failed { message, column: Some(column) },
        EvalError::Failed { .. } | EvalError::OverBudget | EvalError::NeedsWorker => error,
    }
}

fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::failed(message))
}

/// The operand that is evaluated first, when the node is an operation on it.
fn left_of(kind: &Kind) -> Option<Id> {
    match kind {
        Kind::Member { base, .. } | Kind::At { base, .. } | Kind::Slice { base, .. } => Some(*base),
        Kind::Binary { left, .. } | Kind::Matches { left, .. } => Some(*left),
        Kind::Call { args, .. } => args.first().copied(),
        Kind::Not(value) | Kind::Minus(value) | Kind::Plus(value) => Some(*value),
        Kind::Nil
        | Kind::Bool(_)
        | Kind::Int(_)
        | Kind::Float(_)
        | Kind::Str(_)
        | Kind::List(_)
        | Kind::Map(_)
        | Kind::Root(_)
        | Kind::Unknown(_)
        | Kind::Var(_)
        | Kind::Element
        | Kind::Position
        | Kind::Accumulator
        | Kind::Step(_)
        | Kind::StepAt(_)
        | Kind::Choice { .. }
        | Kind::Let { .. } => None,
    }
}

impl<'a> Machine<'a> {
    pub(super) fn eval(&mut self, id: Id) -> Evaluated<'a> {
        let floor = self.spine.len();
        let mut current = id;
        while let Some(left) = left_of(&self.program.node(current).kind) {
            self.spine.push(current);
            current = left;
        }
        let program = self.program;
        let leaf = program.node(current);
        self.meter.elements(1 + self.spine.len() - floor)?;
        let mut value = self.leaf(leaf).map_err(|error| at(error, leaf.column))?;
        while self.spine.len() > floor {
            let Some(id) = self.spine.pop() else { break };
            let node = program.node(id);
            if is_optional(&node.kind) && value.is_nil() {
                // `a?.b.c` is nil as a whole when a is.
                while self.spine.len() > floor
                    && self.spine.last().is_some_and(|id| is_access(&program.node(*id).kind))
                {
                    self.spine.pop();
                }
                value = V::Nil;
                continue;
            }
            value = self.apply(node, value).map_err(|error| at(error, node.column))?;
        }
        Ok(value)
    }

    fn leaf(&mut self, node: &'a Node) -> Evaluated<'a> {
        Ok(match &node.kind {
            Kind::Nil => V::Nil,
            Kind::Bool(bool) => V::Bool(*bool),
            Kind::Int(int) => V::Int(*int),
            Kind::Float(float) => V::Float(*float),
            Kind::Str(text) => V::Str(Text::Borrowed(text)),
            Kind::List(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(|item| self.eval(*item)).collect();
                V::list(items?, &mut self.meter)?
            }
            Kind::Map(entries) => self.map(entries)?,
            Kind::Root(root) => self.root(*root)?,
            Kind::Unknown(_) => V::Nil,
            Kind::Var(slot) => self.vars[*slot].clone(),
            Kind::Element => self.frame()?.element.clone(),
            Kind::Position => V::Int(self.frame()?.position),
            Kind::Accumulator => self.frame()?.accumulator.clone(),
            Kind::Step(id) => self.step(id, node.lenient)?,
            Kind::StepAt(id) => {
                let id = self.eval(*id)?;
                let View::Str(id) = id.view() else {
                    return failed(format!("a step's id is a string, not {}", id.type_name()));
                };
                self.step(id, node.lenient)?
            }
            Kind::Choice { test, yes, no } => {
                let test = self.eval(*test)?;
                let branch = if truth(&test)? { *yes } else { *no };
                self.eval(branch)?
            }
            Kind::Let { bindings, body } => {
                for (slot, value) in bindings {
                    self.vars[*slot] = self.eval(*value)?;
                }
                self.eval(*body)?
            }
            Kind::Member { .. }
            | Kind::At { .. }
            | Kind::Slice { .. }
            | Kind::Not(_)
            | Kind::Minus(_)
            | Kind::Plus(_)
            | Kind::Binary { .. }
            | Kind::Matches { .. } => unreachable!("a node with a left side is no leaf"),
            Kind::Call { builtin, .. } => self.plain(&builtin.run, &[])?,
        })
    }

    fn frame(&self) -> Result<&Frame<'a>, EvalError> {
        self.frames.last().ok_or_else(|| EvalError::failed("`#` outside of a predicate"))
    }

    fn map(&mut self, entries: &'a [(Id, Id)]) -> Evaluated<'a> {
        let mut map = BTreeMap::new();
        for (key, value) in entries {
            let key = match self.eval(*key)? {
                V::Str(text) => text,
                other => match other.view() {
                    View::Str(text) => {
                        V::text(text.to_owned(), &mut self.meter).map(|_| Text::Built(text.into()))?
                    }
                    View::Int(_) | View::Float(_) | View::Bool(_) => {
                        Text::Built(value::write_json(&other, true, &mut self.meter)?.into())
                    }
                    View::Nil | View::List(_) | View::Map(_) => {
                        return failed(format!("a key is a string, not {}", other.type_name()));
                    }
                },
            };
            let value = self.eval(*value)?;
            map.insert(key, value);
        }
        V::map(map, &mut self.meter)
    }

    fn root(&mut self, root: Root) -> Evaluated<'a> {
        let scope = self.scope;
        Ok(match root {
            Root::Inputs => V::Json(scope.inputs()),
            Root::Workflow => V::Json(scope.workflow()),
            Root::Context => V::Json(scope.context()),
            Root::Data => match scope.data() {
                Some(data) => V::Json(data),
                None => return failed("there is no `data` here"),
            },
            Root::Loop => {
                let Some((item, index)) = scope.item() else { return failed("there is no loop around") };
                let index = i64::try_from(index).unwrap_or(i64::MAX);
                let entries =
                    [(Text::Borrowed("index"), V::Int(index)), (Text::Borrowed("item"), V::Json(item))];
                V::map(BTreeMap::from(entries), &mut self.meter)?
            }
            Root::Steps => {
                let mut entries = BTreeMap::new();
                for id in scope.step_ids() {
                    self.meter.elements(1)?;
                    if let Some(output) = scope.step(id) {
                        entries.insert(Text::Borrowed(id), V::Step(output));
                    }
                }
                V::map(entries, &mut self.meter)?
            }
        })
    }

    fn step(&self, id: &str, lenient: bool) -> Evaluated<'a> {
        match self.scope.step(id) {
            Some(output) => Ok(V::Step(output)),
            None if lenient => Ok(V::Nil),
            None => failed(format!("step `{id}` is not done")),
        }
    }

    fn apply(&mut self, node: &'a Node, value: V<'a>) -> Evaluated<'a> {
        match &node.kind {
            Kind::Member { name, .. } => member(&value, name, node.lenient),
            Kind::At { index, .. } => {
                let index = self.eval(*index)?;
                self.index(&value, &index, node.lenient)
            }
            Kind::Slice { from, to, .. } => {
                let from = from.map(|from| self.eval(from)).transpose()?;
                let to = to.map(|to| self.eval(to)).transpose()?;
                self.slice(&value, from.as_ref(), to.as_ref(), node.lenient)
            }
            Kind::Not(_) => Ok(V::Bool(!truth(&value)?)),
            Kind::Minus(_) => match value.view() {
                View::Int(int) => Ok(int.checked_neg().map_or(V::Float(-(int as f64)), V::Int)),
                View::Float(float) => Ok(V::Float(-float)),
                _ => failed(format!("`-` needs a number, not {}", value.type_name())),
            },
            Kind::Plus(_) => match value.view() {
                View::Int(_) | View::Float(_) => Ok(value),
                _ => failed(format!("`+` needs a number, not {}", value.type_name())),
            },
            Kind::Binary { op, right, .. } => self.binary(*op, value, *right),
            Kind::Matches { right, compiled, .. } => self.matches(&value, *right, compiled.as_ref()),
            Kind::Call { builtin, args } => {
                if let Run::Predicate(which) = builtin.run {
                    return predicates::run(self, which, &value, &args[1..]);
                }
                let mut values = Vec::with_capacity(args.len());
                values.push(value);
                for arg in &args[1..] {
                    values.push(self.eval(*arg)?);
                }
                self.plain(&builtin.run, &values)
            }
            _ => unreachable!("only a node with a left side is applied"),
        }
    }

    fn plain(&mut self, run: &Run, args: &[V<'a>]) -> Evaluated<'a> {
        match run {
            Run::Plain(function) => function(&mut self.meter, args),
            Run::Predicate(_) | Run::Refused(_) => failed("this function needs arguments"),
        }
    }

    fn index(&mut self, base: &V<'a>, index: &V<'a>, lenient: bool) -> Evaluated<'a> {
        match (base.view(), index.view()) {
            (View::Map(_), View::Str(key)) => member(base, key, lenient),
            (View::Map(map), View::Int(int)) => Ok(map.get(&int.to_string()).unwrap_or(V::Nil)),
            (View::List(list), View::Int(int)) => {
                let found = position(int, list.len()).and_then(|position| list.get(position));
                match found {
                    Some(value) => Ok(value),
                    None if lenient => Ok(V::Nil),
                    None => failed(format!("index {int} is out of range: there are {} elements", list.len())),
                }
            }
            (View::Str(text), View::Int(int)) => {
                self.meter.scan(text.len())?;
                let count = text.chars().count();
                match position(int, count).and_then(|position| text.chars().nth(position)) {
                    Some(c) => V::text(c.into(), &mut self.meter),
                    None if lenient => Ok(V::Nil),
                    None => failed(format!("index {int} is out of range: there are {count} characters")),
                }
            }
            (View::Nil, _) if lenient => Ok(V::Nil),
            (View::Nil, _) => failed("nil has no elements; write `?.[…]` or `??` if it may be missing"),
            _ => failed(format!("{} cannot be indexed with {}", base.type_name(), index.type_name())),
        }
    }

    fn slice(
        &mut self,
        base: &V<'a>,
        from: Option<&V<'a>>,
        to: Option<&V<'a>>,
        lenient: bool,
    ) -> Evaluated<'a> {
        let bound = |bound: Option<&V<'a>>, len: usize, default: usize| match bound.map(V::view) {
            None => Ok(default),
            Some(View::Int(int)) if int < 0 => {
                Ok(len.saturating_sub(usize::try_from(int.unsigned_abs()).unwrap_or(usize::MAX)))
            }
            Some(View::Int(int)) => Ok(usize::try_from(int).unwrap_or(usize::MAX).min(len)),
            Some(other) => failed(format!("a slice runs between integers, not {}", other.name())),
        };
        match base.view() {
            View::List(list) => {
                let (from, to) = (bound(from, list.len(), 0)?, bound(to, list.len(), list.len())?);
                let count = to.saturating_sub(from);
                self.meter.elements(count)?;
                self.meter.list(count, size_of::<V<'_>>())?;
                let items = (from..from + count).filter_map(|at| list.get(at)).collect();
                V::list(items, &mut self.meter)
            }
            View::Str(text) => {
                self.meter.scan(text.len())?;
                let len = text.chars().count();
                let (from, to) = (bound(from, len, 0)?, bound(to, len, len)?);
                V::text(text.chars().skip(from).take(to.saturating_sub(from)).collect(), &mut self.meter)
            }
            View::Nil if lenient => Ok(V::Nil),
            _ => failed(format!("{} cannot be sliced", base.type_name())),
        }
    }

    fn matches(&mut self, text: &V<'a>, pattern: Id, compiled: Option<&Pattern>) -> Evaluated<'a> {
        if text.is_nil() {
            return Ok(V::Bool(false));
        }
        let View::Str(text) = text.view() else {
            return failed(format!("`matches` needs a string, not {}", text.type_name()));
        };
        if let Some(pattern) = compiled {
            return Ok(V::Bool(pattern.is_match(text, &mut self.meter)?));
        }
        let source = self.eval(pattern)?;
        let View::Str(source) = source.view() else {
            return failed(format!("a pattern is a string, not {}", source.type_name()));
        };
        if !self.patterns.contains_key(source) {
            let pattern = Pattern::compile_metered(source, &mut self.meter)?;
            self.patterns.insert(source.to_owned(), pattern);
        }
        let matched = match self.patterns.get(source) {
            Some(pattern) => pattern.is_match(text, &mut self.meter)?,
            None => false,
        };
        Ok(V::Bool(matched))
    }

    fn binary(&mut self, op: Op, left: V<'a>, right: Id) -> Evaluated<'a> {
        match op {
            Op::Or if truth(&left)? => return Ok(V::Bool(true)),
            Op::And if !truth(&left)? => return Ok(V::Bool(false)),
            Op::Coalesce if !left.is_nil() => return Ok(left),
            Op::Coalesce => return self.eval(right),
            _ => {}
        }
        let right = self.eval(right)?;
        let meter = &mut self.meter;
        Ok(match op {
            Op::Or | Op::And => V::Bool(truth(&right)?),
            Op::Coalesce => right,
            Op::Eq => V::Bool(value::equal(&left, &right, meter)?),
            Op::Ne => V::Bool(!value::equal(&left, &right, meter)?),
            Op::Lt => V::Bool(compare(op, &left, &right, meter)? == Ordering::Less),
            Op::Le => V::Bool(compare(op, &left, &right, meter)? != Ordering::Greater),
            Op::Gt => V::Bool(compare(op, &left, &right, meter)? == Ordering::Greater),
            Op::Ge => V::Bool(compare(op, &left, &right, meter)? != Ordering::Less),
            Op::In => V::Bool(contains(&right, &left, meter)?),
            Op::Contains | Op::StartsWith | Op::EndsWith => text_test(op, &left, &right, meter)?,
            Op::Range => range(&left, &right, meter)?,
            Op::Add => match (left.view(), right.view()) {
                (View::Str(a), View::Str(b)) => {
                    meter.scan(a.len() + b.len())?;
                    V::text([a, b].concat(), meter)?
                }
                _ => arithmetic(op, &left, &right)?,
            },
            Op::Sub | Op::Mul | Op::Div | Op::Rem | Op::Pow => arithmetic(op, &left, &right)?,
        })
    }
}

fn is_optional(kind: &Kind) -> bool {
    matches!(kind, Kind::Member { optional: true, .. } | Kind::At { optional: true, .. })
}

fn is_access(kind: &Kind) -> bool {
    matches!(kind, Kind::Member { .. } | Kind::At { .. } | Kind::Slice { .. })
}

/// The element that an index, from the front or (negative) from the back, stands for.
fn position(index: i64, len: usize) -> Option<usize> {
    if index < 0 {
        len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
    } else {
        usize::try_from(index).ok().filter(|at| *at < len)
    }
}

/// A field; nil when the map has none.
fn member<'a>(base: &V<'a>, name: &str, lenient: bool) -> Evaluated<'a> {
    if let (V::Step(output), "output") = (base, name) {
        return Ok(V::Json(output));
    }
    match base.view() {
        View::Map(map) => Ok(map.get(name).unwrap_or(V::Nil)),
        View::Nil if lenient => Ok(V::Nil),
        View::Nil => {
            failed(format!("nil has no field `{name}`; write `?.{name}` or `??` if it may be missing"))
        }
        other => failed(format!("{} has no field `{name}`", other.name())),
    }
}

/// The truth of a value that must be one.
pub(super) fn truth(value: &V<'_>) -> Result<bool, EvalError> {
    match value.view() {
        View::Bool(bool) => Ok(bool),
        other => failed(format!("a condition must be true or false, not {}", other.name())),
    }
}

fn compare(op: Op, left: &V<'_>, right: &V<'_>, meter: &mut Meter) -> Result<Ordering, EvalError> {
    match (left.view(), right.view()) {
        (View::Int(_) | View::Float(_), View::Int(_) | View::Float(_)) | (View::Str(_), View::Str(_)) => {
            value::order(left, right, meter)
        }
        (left, right) => failed(format!(
            "`{}` compares numbers or strings, not {} and {}",
            op.symbol(),
            left.name(),
            right.name()
        )),
    }
}

/// Whether a list holds a value, or a map a key.
fn contains(container: &V<'_>, value: &V<'_>, meter: &mut Meter) -> Result<bool, EvalError> {
    match (container.view(), value.view()) {
        (View::List(list), _) => {
            for item in list.iter() {
                if value::equal(&item, value, meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (View::Map(map), View::Str(key)) => Ok(map.get(key).is_some()),
        (View::Map(_) | View::Nil, _) => Ok(false),
        (View::Str(_), _) => failed("`in` looks into arrays and maps; for text write `text contains part`"),
        (other, _) => failed(format!("`in` looks into arrays and maps, not {}", other.name())),
    }
}

fn text_test<'a>(op: Op, left: &V<'a>, right: &V<'a>, meter: &mut Meter) -> Evaluated<'a> {
    match (left.view(), right.view()) {
        (View::Str(text), View::Str(part)) => {
            meter.scan(text.len())?;
            Ok(V::Bool(match op {
                Op::StartsWith => text.starts_with(part),
                Op::EndsWith => text.ends_with(part),
                _ => text.contains(part),
            }))
        }
        (View::Nil, _) | (_, View::Nil) => Ok(V::Bool(false)),
        (left, right) => failed(format!(
            "`{}` compares strings, not {} and {}{}",
            op.symbol(),
            left.name(),
            right.name(),
            if matches!(left, View::List(_)) { "; for arrays write `value in array`" } else { "" }
        )),
    }
}

fn range<'a>(from: &V<'a>, to: &V<'a>, meter: &mut Meter) -> Evaluated<'a> {
    let (View::Int(from), View::Int(to)) = (from.view(), to.view()) else {
        return failed(format!(
            "`..` runs between integers, not {} and {}",
            from.type_name(),
            to.type_name()
        ));
    };
    let count = if from > to { 0 } else { to.abs_diff(from).saturating_add(1) };
    let count = usize::try_from(count).map_err(|_| EvalError::OverBudget)?;
    meter.elements(count)?;
    meter.list(count, size_of::<V<'_>>())?;
    V::list((from..=to).map(V::Int).collect(), meter)
}

/// `a op b` for numbers: integers stay integers while they fit, except under `/` and `**`.
pub(super) fn arithmetic<'a>(op: Op, left: &V<'a>, right: &V<'a>) -> Evaluated<'a> {
    let (a, b) = match (left.view(), right.view()) {
        (View::Int(a), View::Int(b)) => {
            let exact = match op {
                Op::Add => a.checked_add(b),
                Op::Sub => a.checked_sub(b),
                Op::Mul => a.checked_mul(b),
                Op::Rem if b == 0 => return failed("the right side of `%` is zero"),
                Op::Rem => Some(a.checked_rem(b).unwrap_or(0)),
                _ => None,
            };
            if let Some(exact) = exact {
                return Ok(V::Int(exact));
            }
            (a as f64, b as f64)
        }
        (View::Int(a), View::Float(b)) => (a as f64, b),
        (View::Float(a), View::Int(b)) => (a, b as f64),
        (View::Float(a), View::Float(b)) => (a, b),
        (left, right) => {
            return failed(format!("`{}` cannot join {} and {}", op.symbol(), left.name(), right.name()));
        }
    };
    let float = match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::Mul => a * b,
        Op::Div if b == 0.0 => return failed("division by zero"),
        Op::Div => a / b,
        Op::Pow => a.powf(b),
        Op::Rem => return failed("`%` needs integers"),
        _ => return failed("not an operator of numbers"),
    };
    if float.is_finite() { Ok(V::Float(float)) } else { failed("the result is not a finite number") }
}

/// The elements of a list argument.
pub(super) fn elements<'v, 'a>(value: &'v V<'a>) -> Result<ListView<'v, 'a>, EvalError> {
    match value.view() {
        View::List(list) => Ok(list),
        other => failed(format!("expected an array, got {}", other.name())),
    }
}
