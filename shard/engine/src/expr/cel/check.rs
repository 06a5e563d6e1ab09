//! The checker: turns the parser's tree into the one that is evaluated, and names everything
//! wrong with it: unknown roots, steps and functions, wrong arguments, types that cannot meet.

use std::sync::Arc;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators as ops,
};

use super::node::{Access, Binary, Call, Comprehension, Func, Kind, Link, Node, Quantifier, Root, Ty};
use super::signature::{FUNCTIONS, Style, TYPES, misuse, unknown_function};
use super::{operators, pattern};
use crate::expr::{Env, ExprProblem, References, names};

/// What a check came to.
pub(super) struct Checked {
    pub(super) root: Node,
    pub(super) references: References,
    pub(super) problems: Vec<ExprProblem>,
}

/// Checks a parsed expression. `source` is the text it was parsed from.
pub(super) fn check(expr: &IdedExpr, info: &SourceInfo, source: &str, env: &Env<'_>) -> Checked {
    let mut columns = Vec::with_capacity(source.len());
    for (column, c) in (1..).zip(source.chars()) {
        columns.extend(std::iter::repeat_n(column, c.len_utf8()));
    }
    let mut checker = Checker {
        env,
        info,
        columns,
        vars: Vec::new(),
        problems: Vec::new(),
        references: References::default(),
    };
    let (root, _) = checker.node(expr);
    let mut references = References::default();
    references.merge(&checker.references);
    checker.problems.sort_by_key(|problem| problem.column);
    Checked { root, references, problems: checker.problems }
}

struct Checker<'c> {
    env: &'c Env<'c>,
    info: &'c SourceInfo,
    /// Column of every byte.
    columns: Vec<u32>,
    /// Variables of the comprehensions around, outermost first.
    vars: Vec<String>,
    problems: Vec<ExprProblem>,
    references: References,
}

impl Checker<'_> {
    fn column(&self, expr: &IdedExpr) -> u32 {
        self.column_of(expr.id)
    }

    fn column_of(&self, id: u64) -> u32 {
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        self.columns.get(offset).copied().unwrap_or(1)
    }

    fn problem(&mut self, column: u32, message: impl Into<String>) {
        self.problems.push(ExprProblem { column, message: message.into() });
    }

    fn node(&mut self, expr: &IdedExpr) -> (Node, Ty) {
        let column = self.column(expr);
        let (kind, ty) = match &expr.expr {
            Expr::Literal(literal) => literal_kind(literal),
            Expr::Ident(name) => self.ident(name, column),
            Expr::Select(select) if select.test => (self.has(&select.operand, &select.field), Ty::Bool),
            Expr::Select(_) | Expr::Comprehension(_) => self.chain(expr),
            Expr::Call(call) => self.call(expr, call, column),
            Expr::List(list) => {
                let items = list.elements.iter().map(|item| self.node(item).0).collect();
                (Kind::List(items), Ty::List)
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        entries.push((self.node(&entry.key).0, self.node(&entry.value).0));
                    }
                }
                (Kind::Map(entries), Ty::Map)
            }
            Expr::Struct(message) => {
                let name = &message.type_name;
                self.problem(column, format!("`{name}{{…}}` would be a message, and there are none here"));
                (Kind::Null, Ty::Any)
            }
            Expr::Unspecified => {
                self.problem(column, "this is no expression");
                (Kind::Null, Ty::Any)
            }
        };
        // A chain starts where its first part does, not at its last dot.
        let column = match &kind {
            Kind::Chain(base, _) | Kind::Fold(base, _) => base.column,
            _ => column,
        };
        (Node { column, kind }, ty)
    }

    fn ident(&mut self, name: &str, column: u32) -> (Kind, Ty) {
        let name = name.trim_start_matches('.');
        if let Some(slot) = self.vars.iter().rposition(|var| var == name) {
            return (Kind::Var(slot), Ty::Any);
        }
        if let Some(name) = TYPES.iter().find(|known| **known == name) {
            return (Kind::Type(name), Ty::Type);
        }
        let root = match name {
            "steps" => {
                self.references.all_steps = true;
                Root::Steps
            }
            "inputs" => Root::Inputs,
            "workflow" => Root::Workflow,
            "context" => Root::Context,
            "iter" if self.env.in_loop => Root::Iter,
            "data" if self.env.has_data => Root::Data,
            _ => {
                let message = names::unknown_root(name, self.vars.iter().map(String::as_str));
                self.problem(column, message);
                return (Kind::Null, Ty::Any);
            }
        };
        (Kind::Root(root), Ty::Any)
    }

    fn is_root(&self, expr: &IdedExpr, root: &str) -> bool {
        matches!(&expr.expr, Expr::Ident(name) if name == root) && !self.vars.iter().any(|var| var == root)
    }

    fn step(&mut self, id: &str, column: u32) -> Kind {
        if let Some(message) = names::step_problem(self.env, id) {
            self.problem(column, message);
        }
        let id: Arc<str> = id.into();
        self.references.steps.push(Arc::clone(&id));
        Kind::Step(id)
    }

    fn has(&mut self, operand: &IdedExpr, field: &str) -> Kind {
        if self.is_root(operand, "steps") {
            let column = self.column(operand) + "steps.".len() as u32;
            return match self.step(field, column) {
                Kind::Step(id) => Kind::HasStep(id),
                other => other,
            };
        }
        let (of, _) = self.node(operand);
        match of.kind {
            Kind::Step(id) if field == "output" => Kind::HasStep(id),
            kind => Kind::Has(Box::new(Node { kind, column: of.column }), field.into()),
        }
    }

    /// Accesses and calls one after another: collected from the last to the first, then checked
    /// from the first to the last, without recursion.
    fn chain(&mut self, expr: &IdedExpr) -> (Kind, Ty) {
        let mut spine = Vec::new();
        let mut base = expr;
        loop {
            let inner = match &base.expr {
                Expr::Select(select) if !select.test => &select.operand,
                Expr::Comprehension(comprehension) => &comprehension.iter_range,
                Expr::Call(call) if call.func_name == ops::INDEX => &call.args[0],
                Expr::Call(CallExpr { target: Some(target), .. }) if !self.is_namespace(target) => {
                    target.as_ref()
                }
                _ => break,
            };
            spine.push(base);
            base = inner;
        }
        let base = self.chain_base(base, &mut spine);
        let mut ty = Ty::Any;
        let mut links = Vec::with_capacity(spine.len());
        for link in spine.into_iter().rev() {
            let access;
            (access, ty) = self.link(link);
            links.push(Link { column: self.column(link), access });
        }
        // A computed step comes right after `steps`, and its `.output` is all of it.
        if matches!(base.kind, Kind::Root(Root::Steps))
            && let Some(Link { access, .. }) = links.first_mut()
        {
            if let Access::Index(id) = access {
                let none = Node { column: id.column, kind: Kind::Null };
                *access = Access::StepAt(std::mem::replace(id, none));
            }
            if matches!(access, Access::StepAt(_))
                && links.get(1).is_some_and(|link| names_output(&link.access))
            {
                links.remove(1);
            }
        }
        if links.is_empty() { (base.kind, ty) } else { (Kind::Chain(Box::new(base), links), ty) }
    }

    /// What a chain starts from; takes the links that belong to a root.
    fn chain_base(&mut self, base: &IdedExpr, spine: &mut Vec<&IdedExpr>) -> Node {
        let Some(first) = spine.last().copied() else { return self.node(base).0 };
        if self.is_root(base, "steps")
            && let Some((id, column)) = self.literal_key(first)
        {
            spine.pop();
            if spine.last().is_some_and(|next| self.literal_key(next).is_some_and(|(key, _)| key == "output"))
            {
                spine.pop();
            }
            return Node { column, kind: self.step(id, column) };
        }
        if self.is_root(base, "iter")
            && self.env.in_loop
            && let Some((field, column)) = self.literal_key(first)
        {
            spine.pop();
            let root = match field {
                "item" => Root::IterItem,
                "index" => Root::IterIndex,
                _ => {
                    let near = names::clause(field, ["item", "index"]);
                    self.problem(column, format!("a loop has `item` and `index`, no `{field:.64}`{near}"));
                    Root::Iter
                }
            };
            return Node { column, kind: Kind::Root(root) };
        }
        self.node(base).0
    }

    /// The field or string in `.field` or `['field']`, and its column.
    fn literal_key<'e>(&self, expr: &'e IdedExpr) -> Option<(&'e str, u32)> {
        match &expr.expr {
            Expr::Select(select) if !select.test => Some((&select.field, self.column(expr) + 1)),
            Expr::Call(call) if call.func_name == ops::INDEX => match &call.args[1].expr {
                Expr::Literal(LiteralValue::String(key)) => Some((key.inner(), self.column(&call.args[1]))),
                _ => None,
            },
            _ => None,
        }
    }

    fn link(&mut self, expr: &IdedExpr) -> (Access, Ty) {
        match &expr.expr {
            Expr::Select(select) => (Access::Field(select.field.as_str().into()), Ty::Any),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, expr),
            Expr::Call(call) if call.func_name == ops::INDEX => {
                (Access::Index(self.node(&call.args[1]).0), Ty::Any)
            }
            Expr::Call(call) => {
                let column = self.column(expr);
                let args: Vec<Node> = call.args.iter().map(|arg| self.node(arg).0).collect();
                let (call, ty) = self.function(&call.func_name, Style::Member, &args, column);
                (Access::Call(call, args), ty)
            }
            Expr::Ident(_)
            | Expr::List(_)
            | Expr::Literal(_)
            | Expr::Map(_)
            | Expr::Struct(_)
            | Expr::Unspecified => unreachable!("a spine holds accesses and calls only"),
        }
    }

    /// Recognises the macro that an expansion came from, by the shape that the parser gives it.
    fn comprehension(&mut self, expanded: &ComprehensionExpr, expr: &IdedExpr) -> (Access, Ty) {
        let step = match &expanded.loop_step.expr {
            Expr::Call(call) => call,
            _ => unreachable!("every macro expands to a call in each step"),
        };
        let (quantifier, filter, body) = match (&expanded.accu_init.expr, step.func_name.as_str()) {
            (Expr::Literal(LiteralValue::Boolean(starts)), _) if *starts.inner() => {
                (Quantifier::All, None, &step.args[1])
            }
            (Expr::Literal(LiteralValue::Boolean(_)), _) => (Quantifier::Exists, None, &step.args[1]),
            (Expr::Literal(_), _) => (Quantifier::ExistsOne, None, &step.args[0]),
            (_, ops::CONDITIONAL) => {
                let element = appended(&step.args[1]);
                match &element.expr {
                    Expr::Ident(name) if *name == expanded.iter_var => {
                        (Quantifier::Filter, None, &step.args[0])
                    }
                    _ => (Quantifier::Map, Some(&step.args[0]), element),
                }
            }
            _ => (Quantifier::Map, None, appended(&expanded.loop_step)),
        };
        self.vars.push(expanded.iter_var.clone());
        let filter = filter.map(|filter| Box::new(self.bool(filter)));
        let body = match quantifier {
            Quantifier::Map => self.node(body).0,
            Quantifier::All | Quantifier::Exists | Quantifier::ExistsOne | Quantifier::Filter => {
                self.bool(body)
            }
        };
        self.vars.pop();
        if expanded.iter_var.starts_with('.') {
            self.problem(self.column(expr), "a variable's name has no dot");
        }
        let ty = match quantifier {
            Quantifier::Map | Quantifier::Filter => Ty::List,
            Quantifier::All | Quantifier::Exists | Quantifier::ExistsOne => Ty::Bool,
        };
        (Access::Comprehension(Comprehension { quantifier, filter, body: Box::new(body) }), ty)
    }

    /// A node where only a bool makes sense.
    fn bool(&mut self, expr: &IdedExpr) -> Node {
        let (node, ty) = self.node(expr);
        if !matches!(ty, Ty::Any | Ty::Bool) {
            self.problem(node.column, format!("expected a bool, found {}", ty_name(ty)));
        }
        node
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr, column: u32) -> (Kind, Ty) {
        if call.func_name == ops::INDEX {
            return self.chain(expr);
        }
        if let Some(target) = &call.target {
            let Expr::Ident(namespace) = &target.expr else { return self.chain(expr) };
            if !self.is_namespace(target) {
                return self.chain(expr);
            }
            return self.global(&format!("{namespace}.{}", call.func_name), &call.args, column);
        }
        if as_binary(expr).is_some() {
            return self.fold(expr);
        }
        match call.func_name.as_str() {
            ops::LOGICAL_AND | ops::LOGICAL_OR => {
                let mut terms = Vec::new();
                self.terms(expr, &call.func_name, &mut terms);
                (
                    if call.func_name == ops::LOGICAL_AND { Kind::And(terms) } else { Kind::Or(terms) },
                    Ty::Bool,
                )
            }
            ops::LOGICAL_NOT => (Kind::Not(Box::new(self.bool(&call.args[0]))), Ty::Bool),
            ops::NEGATE => {
                let (of, ty) = self.node(&call.args[0]);
                if !matches!(ty, Ty::Any | Ty::Number | Ty::Duration) {
                    self.problem(column, format!("cannot negate {}", ty_name(ty)));
                }
                (Kind::Negate(Box::new(of)), ty)
            }
            ops::CONDITIONAL => {
                let condition = self.bool(&call.args[0]);
                let ((yes, a), (no, b)) = (self.node(&call.args[1]), self.node(&call.args[2]));
                (Kind::Conditional(Box::new([condition, yes, no])), if a == b { a } else { Ty::Any })
            }
            name => self.global(name.trim_start_matches('.'), &call.args, column),
        }
    }

    /// The operands of `&&` or `||`, which the parser balances into a tree, in order.
    fn terms(&mut self, expr: &IdedExpr, operator: &str, terms: &mut Vec<Node>) {
        match &expr.expr {
            Expr::Call(call) if call.func_name == operator => {
                for arg in &call.args {
                    self.terms(arg, operator, terms);
                }
            }
            _ => terms.push(self.bool(expr)),
        }
    }

    /// Operators from left to right, of any precedence that leans left, without recursion.
    fn fold(&mut self, expr: &IdedExpr) -> (Kind, Ty) {
        let mut spine = Vec::new();
        let mut first = expr;
        while let Some((operator, args)) = as_binary(first) {
            spine.push((operator, self.column(first), &args[1]));
            first = &args[0];
        }
        let (first, mut ty) = self.node(first);
        let mut rest = Vec::with_capacity(spine.len());
        for (operator, column, right) in spine.into_iter().rev() {
            let (right, right_ty) = self.node(right);
            ty = operators::result_type(operator, ty, right_ty).unwrap_or_else(|| {
                let (left, right) = (ty_name(ty), ty_name(right_ty));
                self.problem(column, format!("there is no {left} {} {right}", operator.symbol()));
                Ty::Any
            });
            rest.push((operator, column, right));
        }
        (Kind::Fold(Box::new(first), rest), ty)
    }

    fn is_namespace(&self, target: &IdedExpr) -> bool {
        ["math", "base64"].iter().any(|namespace| self.is_root(target, namespace))
    }

    fn global(&mut self, name: &str, args: &[IdedExpr], column: u32) -> (Kind, Ty) {
        let args: Vec<Node> = args.iter().map(|arg| self.node(arg).0).collect();
        let (call, ty) = self.function(name, Style::Global, &args, column);
        (Kind::Call(call, args), ty)
    }

    fn function(&mut self, name: &str, style: Style, args: &[Node], column: u32) -> (Call, Ty) {
        let Some(signature) = FUNCTIONS.iter().find(|signature| signature.name == name) else {
            let message = unknown_function(name);
            self.problem(column, message);
            return (Call { func: Func::Dyn, pattern: None }, Ty::Any);
        };
        if let Some(message) = misuse(signature, style, args.len()) {
            self.problem(column, message);
        }
        let pattern = match (signature.func, args.last()) {
            (Func::Matches, Some(Node { kind: Kind::Str(source), column })) => {
                pattern::compile(source).map_err(|message| self.problem(*column, message)).ok()
            }
            _ => None,
        };
        (Call { func: signature.func, pattern }, signature.result)
    }
}

fn names_output(access: &Access) -> bool {
    match access {
        Access::Field(name) => &**name == "output",
        Access::Index(Node { kind: Kind::Str(name), .. }) => &**name == "output",
        Access::Index(_) | Access::StepAt(_) | Access::Call(..) | Access::Comprehension(_) => false,
    }
}

fn literal_kind(literal: &LiteralValue) -> (Kind, Ty) {
    match literal {
        LiteralValue::Boolean(b) => (Kind::Bool(*b.inner()), Ty::Bool),
        LiteralValue::Bytes(bytes) => (Kind::Bytes(bytes.inner().into()), Ty::Bytes),
        LiteralValue::Double(d) => (Kind::Double(*d.inner()), Ty::Number),
        LiteralValue::Int(i) => (Kind::Int(*i.inner()), Ty::Number),
        LiteralValue::Null => (Kind::Null, Ty::Null),
        LiteralValue::String(text) => (Kind::Str(text.inner().into()), Ty::String),
        LiteralValue::UInt(u) => (Kind::UInt(*u.inner()), Ty::Number),
    }
}

/// A binary operator and its two operands.
fn as_binary(expr: &IdedExpr) -> Option<(Binary, &[IdedExpr])> {
    let Expr::Call(CallExpr { func_name, args, target: None }) = &expr.expr else { return None };
    let operator = match func_name.as_str() {
        ops::ADD => Binary::Add,
        ops::SUBSTRACT => Binary::Subtract,
        ops::MULTIPLY => Binary::Multiply,
        ops::DIVIDE => Binary::Divide,
        ops::MODULO => Binary::Modulo,
        ops::EQUALS => Binary::Equal,
        ops::NOT_EQUALS => Binary::NotEqual,
        ops::LESS => Binary::Less,
        ops::LESS_EQUALS => Binary::LessEqual,
        ops::GREATER => Binary::Greater,
        ops::GREATER_EQUALS => Binary::GreaterEqual,
        ops::IN => Binary::In,
        _ => return None,
    };
    Some((operator, args))
}

/// The element that an expanded macro appends to its list.
fn appended(add: &IdedExpr) -> &IdedExpr {
    match &add.expr {
        Expr::Call(CallExpr { args, .. }) => match &args[1].expr {
            Expr::List(list) => &list.elements[0],
            _ => unreachable!("the macros of lists append a list of one"),
        },
        _ => unreachable!("the macros of lists append"),
    }
}

fn ty_name(ty: Ty) -> &'static str {
    match ty {
        Ty::Any => "any value",
        Ty::Null => "null",
        Ty::Bool => "bool",
        Ty::Number => "number",
        Ty::String => "string",
        Ty::Bytes => "bytes",
        Ty::List => "list",
        Ty::Map => "map",
        Ty::Timestamp => "timestamp",
        Ty::Duration => "duration",
        Ty::Type => "type",
    }
}
