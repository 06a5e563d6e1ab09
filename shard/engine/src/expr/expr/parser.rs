//! Tokens to nodes: precedence climbing, names resolved on the way.
//!
//! What is wrong with the *shape* of the text ends the parse with one problem; what is wrong with
//! the names in it is collected, so that the author sees all of it at once.

use std::sync::Arc;

use super::super::{Env, ExprProblem, names};
use super::ast::{Id, Kind, Node, Op, Program, Root};
use super::builtins::{self, Builtin, Run};
use super::lexer::{Tok, Token, problem};

/// Deepest recursion of the parser, and so of evaluation: brackets, operators of rising
/// precedence, unary operators, `?:` in `?:`. Chains to the left and `let`s cost none.
pub(super) const DEPTH_MAX: u32 = 160;

/// Binds tightest of all binary operators.
const COALESCE: u16 = 500;

type Parsed<T> = Result<T, ExprProblem>;

/// The program and what is wrong with its names, or the one thing wrong with its shape.
pub(super) fn parse(
    tokens: Vec<Token>,
    env: &Env<'_>,
) -> Result<(Program, Vec<ExprProblem>), Vec<ExprProblem>> {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        nodes: Vec::new(),
        lets: Vec::new(),
        slots: 0,
        predicates: Vec::new(),
        problems: Vec::new(),
        has_data: env.has_data,
        in_loop: env.in_loop,
    };
    let root = parser.expression(0).and_then(|root| match parser.tok() {
        Tok::End => Ok(root),
        _ => Err(parser.unexpected("an operator or the end")),
    });
    match root {
        Ok(root) => Ok((Program { nodes: parser.nodes, root, slots: parser.slots }, parser.problems)),
        Err(shape) => {
            parser.problems.push(shape);
            Err(parser.problems)
        }
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: u32,
    nodes: Vec<Node>,
    /// Visible `let` variables, innermost last.
    lets: Vec<(Arc<str>, usize)>,
    slots: usize,
    /// The predicates around, and whether each has `#acc`.
    predicates: Vec<bool>,
    problems: Vec<ExprProblem>,
    has_data: bool,
    in_loop: bool,
}

fn describe(tok: &Tok) -> String {
    match tok {
        Tok::Int(int) => format!("`{int}`"),
        Tok::Float(float) => format!("`{float}`"),
        Tok::Str(_) => "a string".to_owned(),
        Tok::Name(name) => format!("`{name}`"),
        Tok::Pointer(name) => format!("`#{name}`"),
        Tok::Sym(sym) => format!("`{sym}`"),
        Tok::End => "the end".to_owned(),
    }
}

impl Parser {
    fn tok(&self) -> &Tok {
        &self.tokens[self.at].tok
    }

    fn ahead(&self, by: usize) -> &Tok {
        let last = self.tokens.len() - 1;
        &self.tokens[(self.at + by).min(last)].tok
    }

    fn column(&self) -> u32 {
        self.tokens[self.at].column
    }

    fn advance(&mut self) -> Tok {
        let tok = self.tok().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        tok
    }

    fn unexpected(&self, expected: &str) -> ExprProblem {
        problem(self.column(), format!("expected {expected}, found {}", describe(self.tok())))
    }

    fn is(&self, sym: &str) -> bool {
        matches!(self.tok(), Tok::Sym(s) if *s == sym)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.tok(), Tok::Name(name) if &**name == word)
    }

    fn take(&mut self, sym: &str) -> bool {
        let found = self.is(sym);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sym: &str) -> Parsed<()> {
        if self.take(sym) { Ok(()) } else { Err(self.unexpected(&format!("`{sym}`"))) }
    }

    fn name(&mut self, what: &str) -> Parsed<Arc<str>> {
        match self.tok() {
            Tok::Name(name) => {
                let name = name.clone();
                self.advance();
                Ok(name)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    fn push(&mut self, column: u32, kind: Kind) -> Id {
        let id = Id(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(Node { kind, column, lenient: false });
        id
    }

    fn report(&mut self, column: u32, message: impl Into<String>) -> Id {
        self.problems.push(problem(column, message));
        self.push(column, Kind::Nil)
    }

    /// An expression whose operators bind at least as tightly as `min`.
    fn expression(&mut self, min: u16) -> Parsed<Id> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(problem(self.column(), "the expression nests too deep"));
        }
        let parsed = if min == 0 && self.is_word("let") && matches!(self.ahead(1), Tok::Name(_)) {
            self.lets()
        } else if min == 0 && self.is_word("if") {
            self.if_else()
        } else {
            self.operators(min)
        };
        self.depth -= 1;
        parsed
    }

    /// `let a = …; let b = …; body`, without recursion from one to the next.
    fn lets(&mut self) -> Parsed<Id> {
        let column = self.column();
        let outer = self.lets.len();
        let mut bindings = Vec::new();
        while self.is_word("let") {
            self.advance();
            let at = self.column();
            let name = self.name("a name for the variable")?;
            let is_root = Root::ALL.iter().any(|(root, _)| *root == &*name);
            if is_root || builtins::find(&name).is_some() || self.lets.iter().any(|(other, _)| *other == name)
            {
                self.problems
                    .push(problem(at, format!("`{name}` exists already; name the variable otherwise")));
            }
            self.expect("=")?;
            let value = self.expression(0)?;
            self.expect(";")?;
            let slot = self.slots;
            self.slots += 1;
            self.lets.push((name, slot));
            bindings.push((slot, value));
        }
        let body = self.expression(0)?;
        self.lets.truncate(outer);
        Ok(self.push(column, Kind::Let { bindings, body }))
    }

    /// `if test { a } else { b }`, and `else if`.
    fn if_else(&mut self) -> Parsed<Id> {
        let column = self.column();
        self.advance();
        let test = self.expression(0)?;
        self.expect("{")?;
        let yes = self.expression(0)?;
        self.expect("}")?;
        if !self.is_word("else") {
            return Err(self.unexpected("`else`"));
        }
        self.advance();
        let no = if self.is_word("if") {
            self.expression(0)?
        } else {
            self.expect("{")?;
            let no = self.expression(0)?;
            self.expect("}")?;
            no
        };
        Ok(self.push(column, Kind::Choice { test, yes, no }))
    }

    fn operators(&mut self, min: u16) -> Parsed<Id> {
        let mut left = self.primary()?;
        loop {
            let column = self.column();
            if min == 0 && self.take("|") {
                let at = self.column();
                let name = self.name("a function after `|`")?;
                let call = self.call(&name, at, Some(left))?;
                left = self.postfix(call)?;
                continue;
            }
            let negated = self.is_word("not") && matches!(self.ahead(1), Tok::Name(_));
            let Some((infix, precedence, right_first)) =
                infix(if negated { self.ahead(1) } else { self.tok() })
            else {
                break;
            };
            if precedence < min {
                break;
            }
            self.advance();
            if negated {
                self.advance();
            }
            let right = self.expression(if right_first { precedence } else { precedence + 1 })?;
            left = match infix {
                Infix::Matches => self.push(column, Kind::Matches { left, right, compiled: None }),
                Infix::Op(op) => self.binary(column, op, left, right)?,
            };
            if negated {
                left = self.push(column, Kind::Not(left));
            }
        }
        if min == 0 { self.choices(left) } else { Ok(left) }
    }

    fn binary(&mut self, column: u32, op: Op, left: Id, right: Id) -> Parsed<Id> {
        if op == Op::Coalesce {
            self.forgive(left);
        }
        let mut node = self.push(column, Kind::Binary { op, left, right });
        let mut last = right;
        // `a < b < c` compares b twice; nodes are pure, so it is read twice too.
        while op.chains() {
            let column = self.column();
            let Some((Infix::Op(next), precedence, _)) = infix(self.tok()) else { break };
            if !next.chains() {
                break;
            }
            self.advance();
            let right = self.expression(precedence + 1)?;
            let second = self.push(column, Kind::Binary { op: next, left: last, right });
            node = self.push(column, Kind::Binary { op: Op::And, left: node, right: second });
            last = right;
        }
        Ok(node)
    }

    /// Marks the chain left of `??`: what is missing in it is nil.
    fn forgive(&mut self, mut id: Id) {
        loop {
            let node = &mut self.nodes[id.0 as usize];
            if node.lenient {
                return;
            }
            node.lenient = true;
            match node.kind {
                Kind::Member { base, .. } | Kind::At { base, .. } | Kind::Slice { base, .. } => id = base,
                Kind::Binary { op: Op::Coalesce, right, .. } => id = right,
                _ => return,
            }
        }
    }

    /// `test ? yes : no` and `value ?: otherwise`.
    fn choices(&mut self, mut test: Id) -> Parsed<Id> {
        while self.is("?") {
            let column = self.column();
            self.advance();
            let yes = if self.is(":") { test } else { self.expression(0)? };
            self.expect(":")?;
            let no = self.expression(0)?;
            test = self.push(column, Kind::Choice { test, yes, no });
        }
        Ok(test)
    }

    fn primary(&mut self) -> Parsed<Id> {
        let column = self.column();
        let id = match self.advance() {
            Tok::Int(int) => self.push(column, Kind::Int(int)),
            Tok::Float(float) => self.push(column, Kind::Float(float)),
            Tok::Str(text) => self.push(column, Kind::Str(text)),
            Tok::Pointer(name) => self.pointer(column, &name),
            Tok::Name(name) => match &*name {
                "not" => {
                    let value = self.expression(50)?;
                    self.push(column, Kind::Not(value))
                }
                "true" => self.push(column, Kind::Bool(true)),
                "false" => self.push(column, Kind::Bool(false)),
                "nil" | "null" => self.push(column, Kind::Nil),
                _ if self.is("(") => self.call(&name, column, None)?,
                _ => self.identifier(column, name),
            },
            // As `not`: `!a ?? b` is `!(a ?? b)`.
            Tok::Sym("!") => {
                let value = self.expression(50)?;
                self.push(column, Kind::Not(value))
            }
            Tok::Sym("-") => {
                let value = self.expression(90)?;
                self.push(column, Kind::Minus(value))
            }
            Tok::Sym("+") => {
                let value = self.expression(90)?;
                self.push(column, Kind::Plus(value))
            }
            Tok::Sym("(") => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                inner
            }
            Tok::Sym("[") => self.list(column)?,
            Tok::Sym("{") => self.map(column)?,
            Tok::Sym("." | "?.") if !self.predicates.is_empty() => {
                // The point is read again, as the first of a chain on the element.
                self.at -= 1;
                self.push(column, Kind::Element)
            }
            Tok::Sym(".") => {
                return Err(problem(column, "`.name` is the element of a predicate, and there is none here"));
            }
            Tok::Sym(_) | Tok::End => {
                self.at = self.at.saturating_sub(usize::from(self.column() != column));
                return Err(self.unexpected("a value"));
            }
        };
        self.postfix(id)
    }

    fn pointer(&mut self, column: u32, name: &str) -> Id {
        let Some(has_acc) = self.predicates.last().copied() else {
            return self.report(column, "`#` is the element of a predicate, and there is none here");
        };
        match name {
            "" => self.push(column, Kind::Element),
            "index" => self.push(column, Kind::Position),
            "acc" if has_acc => self.push(column, Kind::Accumulator),
            "acc" => self.report(column, "`#acc` exists in the predicate of `reduce` only"),
            other => self.report(
                column,
                format!("unknown `#{other}`; there are `#`, `#index` and, in `reduce`, `#acc`"),
            ),
        }
    }

    fn identifier(&mut self, column: u32, name: Arc<str>) -> Id {
        if let Some((_, slot)) = self.lets.iter().rev().find(|(other, _)| *other == name) {
            return self.push(column, Kind::Var(*slot));
        }
        let root = Root::ALL.iter().find(|(root, _)| *root == &*name).map(|(_, root)| *root);
        match root {
            Some(Root::Loop) if !self.in_loop => self.push(column, Kind::Unknown(name)),
            Some(Root::Data) if !self.has_data => self.push(column, Kind::Unknown(name)),
            Some(root) => self.push(column, Kind::Root(root)),
            None => self.push(column, Kind::Unknown(name)),
        }
    }

    fn list(&mut self, column: u32) -> Parsed<Id> {
        let mut items = Vec::new();
        while !self.is("]") {
            items.push(self.expression(0)?);
            if !self.take(",") {
                break;
            }
        }
        if !self.take("]") {
            return Err(self.unexpected("`,` or `]`"));
        }
        Ok(self.push(column, Kind::List(items)))
    }

    fn map(&mut self, column: u32) -> Parsed<Id> {
        let mut entries = Vec::new();
        while !self.is("}") {
            let at = self.column();
            let key = match self.advance() {
                Tok::Name(name) => self.push(at, Kind::Str(name)),
                Tok::Str(text) => self.push(at, Kind::Str(text)),
                Tok::Int(int) => self.push(at, Kind::Str(int.to_string().into())),
                Tok::Sym("(") => {
                    let key = self.expression(0)?;
                    self.expect(")")?;
                    key
                }
                Tok::Float(_) | Tok::Pointer(_) | Tok::Sym(_) | Tok::End => {
                    return Err(problem(at, "expected a key: a name, a string or (an expression)"));
                }
            };
            self.expect(":")?;
            let value = self.expression(0)?;
            entries.push((key, value));
            if !self.take(",") {
                break;
            }
        }
        if !self.take("}") {
            return Err(self.unexpected("`,` or `}`"));
        }
        Ok(self.push(column, Kind::Map(entries)))
    }

    /// `.name`, `?.name`, `[index]`, `?.[index]`, `[from:to]`, as many as there are.
    fn postfix(&mut self, mut base: Id) -> Parsed<Id> {
        loop {
            let column = self.column();
            if self.is(".") || self.is("?.") {
                let optional = self.is("?.");
                self.advance();
                if optional && self.is("[") {
                    self.advance();
                    base = self.index(column, base, true)?;
                    continue;
                }
                let at = self.column();
                let name = self.name("a field name after `.`")?;
                if self.is("(") {
                    return Err(problem(at, format!("values have no methods; write `{name}(value, …)`")));
                }
                base = if matches!(self.nodes[base.0 as usize].kind, Kind::Root(Root::Steps)) {
                    self.push(at, Kind::Step(name))
                } else {
                    self.push(at, Kind::Member { base, name, optional })
                };
            } else if self.take("[") {
                base = self.index(column, base, false)?;
            } else {
                return Ok(base);
            }
        }
    }

    /// What follows the `[`.
    fn index(&mut self, column: u32, base: Id, optional: bool) -> Parsed<Id> {
        if self.take(":") {
            let to = if self.is("]") { None } else { Some(self.expression(0)?) };
            self.expect("]")?;
            return Ok(self.push(column, Kind::Slice { base, from: None, to }));
        }
        let at = self.column();
        let index = self.expression(0)?;
        if self.take(":") {
            let to = if self.is("]") { None } else { Some(self.expression(0)?) };
            self.expect("]")?;
            return Ok(self.push(column, Kind::Slice { base, from: Some(index), to }));
        }
        self.expect("]")?;
        if !matches!(self.nodes[base.0 as usize].kind, Kind::Root(Root::Steps)) {
            return Ok(self.push(column, Kind::At { base, index, optional }));
        }
        Ok(match &self.nodes[index.0 as usize].kind {
            Kind::Str(id) => {
                let id = id.clone();
                self.push(at, Kind::Step(id))
            }
            _ => self.push(at, Kind::StepAt(index)),
        })
    }

    /// A call, after its name; `piped` is the first argument when it came from a `|`.
    fn call(&mut self, name: &str, column: u32, piped: Option<Id>) -> Parsed<Id> {
        let builtin = builtins::find(name);
        let mut args: Vec<Id> = piped.into_iter().collect();
        self.expect("(")?;
        while !self.is(")") {
            let is_predicate = match builtin {
                Some(builtin) => builtin.has_predicate() && args.len() == 1,
                // Its name is reported below; `.x` in its arguments need not be reported too.
                None => true,
            };
            args.push(if is_predicate { self.predicate(name == "reduce")? } else { self.expression(0)? });
            if !self.take(",") {
                break;
            }
        }
        if !self.take(")") {
            return Err(self.unexpected("`,` or `)`"));
        }
        Ok(self.call_node(builtin, name, column, args))
    }

    fn call_node(&mut self, builtin: Option<&'static Builtin>, name: &str, column: u32, args: Vec<Id>) -> Id {
        let Some(builtin) = builtin else {
            let hint = names::clause(name, builtins::TABLE.iter().map(|builtin| builtin.name));
            return self.report(column, format!("unknown function `{name:.64}`{hint}"));
        };
        if let Run::Refused(reason) = builtin.run {
            return self.report(column, format!("`{name}` {reason}"));
        }
        if let Some(message) = builtin.arity_problem(args.len()) {
            return self.report(column, message);
        }
        self.push(column, Kind::Call { builtin, args })
    }

    /// A predicate: `{ … }` or a bare expression, in which `#` and `.name` are the element.
    fn predicate(&mut self, has_acc: bool) -> Parsed<Id> {
        let is_map = matches!(
            (self.ahead(1), self.ahead(2)),
            (Tok::Name(_) | Tok::Str(_), Tok::Sym(":")) | (Tok::Sym("}"), _)
        );
        self.predicates.push(has_acc);
        let body = if self.is("{") && !is_map {
            self.advance();
            let body = self.expression(0)?;
            self.expect("}")?;
            body
        } else {
            self.expression(0)?
        };
        self.predicates.pop();
        Ok(body)
    }
}

enum Infix {
    Op(Op),
    Matches,
}

/// The binary operator a token is: which, how tightly it binds, and whether its right side is
/// taken first.
fn infix(tok: &Tok) -> Option<(Infix, u16, bool)> {
    let text = match tok {
        Tok::Sym(sym) => sym,
        Tok::Name(name) => &**name,
        Tok::Int(_) | Tok::Float(_) | Tok::Str(_) | Tok::Pointer(_) | Tok::End => return None,
    };
    let (op, precedence) = match text {
        "or" | "||" => (Op::Or, 10),
        "and" | "&&" => (Op::And, 15),
        "==" => (Op::Eq, 20),
        "!=" => (Op::Ne, 20),
        "<" => (Op::Lt, 20),
        "<=" => (Op::Le, 20),
        ">" => (Op::Gt, 20),
        ">=" => (Op::Ge, 20),
        "in" => (Op::In, 20),
        "contains" => (Op::Contains, 20),
        "startsWith" => (Op::StartsWith, 20),
        "endsWith" => (Op::EndsWith, 20),
        "matches" => return Some((Infix::Matches, 20, false)),
        ".." => (Op::Range, 25),
        "+" => (Op::Add, 30),
        "-" => (Op::Sub, 30),
        "*" => (Op::Mul, 60),
        "/" => (Op::Div, 60),
        "%" => (Op::Rem, 60),
        "**" | "^" => return Some((Infix::Op(Op::Pow), 100, true)),
        "??" => (Op::Coalesce, COALESCE),
        _ => return None,
    };
    Some((Infix::Op(op), precedence, false))
}
