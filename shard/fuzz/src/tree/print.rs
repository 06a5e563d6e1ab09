//! A tree as source text: brackets only where the language needs them, and one of the spellings that
//! it has for the same thing.

use super::{PREDICATES, Tree, precedence};
use crate::choices::Choices;

/// Binds like a value: nothing may come between it and what follows.
const POSTFIX: u16 = 1_000;
/// An operand of a comparison: another comparison gets brackets.
const COMPARED: u16 = 21;

/// The text of `tree`.
pub fn print(tree: &Tree, choices: &mut Choices<'_>) -> String {
    Printer { choices }.at(tree, 0)
}

struct Printer<'p, 'b> {
    choices: &'p mut Choices<'b>,
}

/// `text`, whose operator binds with `own`, where at least `wanted` is wanted.
fn bracketed(text: String, own: u16, wanted: u16) -> String {
    if own < wanted { format!("({text})") } else { text }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

impl Printer<'_, '_> {
    fn coin(&mut self) -> bool {
        self.choices.below(2) == 1
    }

    /// The text of `tree`, with brackets unless it binds at least as tightly as `wanted`.
    fn at(&mut self, tree: &Tree, wanted: u16) -> String {
        match tree {
            Tree::Nil => ["nil", "null"][self.choices.below(2)].to_owned(),
            Tree::Bool(bool) => bool.to_string(),
            Tree::Int(int) if *int < 0 => bracketed(int.to_string(), 90, wanted),
            Tree::Int(int) => self.number(int.to_string(), wanted),
            Tree::Float(float) if *float < 0.0 => bracketed(format!("{float:?}"), 90, wanted),
            Tree::Float(float) => self.number(format!("{float:?}"), wanted),
            Tree::Text(text) => quoted(text),
            Tree::List(items) => format!("[{}]", self.all(items)),
            Tree::Map(entries) => self.map(entries),
            Tree::Root(name) => (*name).to_owned(),
            Tree::Step(id) => self.step(id),
            Tree::Unknown => "nowhere".to_owned(),
            Tree::Var(name) => name.clone(),
            Tree::Element => "#".to_owned(),
            Tree::Position => "#index".to_owned(),
            Tree::Accumulator => "#acc".to_owned(),
            Tree::Field { base, name, optional } => self.field(base, name, *optional),
            Tree::At { base, index, optional } => {
                let point = if *optional { "?." } else { "" };
                format!("{}{point}[{}]", self.base(base), self.at(index, 0))
            }
            Tree::Slice { base, from, to } => {
                let base = self.base(base);
                let [from, to] =
                    [from, to].map(|at| at.as_ref().map_or_else(String::new, |at| self.at(at, 1)));
                format!("{base}[{from}:{to}]")
            }
            Tree::Unary(operator, value) => self.unary(operator, value, wanted),
            Tree::Binary(operator, left, right) => self.binary(operator, left, right, wanted),
            Tree::Chain(first, rest) => {
                let mut text = self.operand(first, COMPARED);
                for (operator, next) in rest {
                    let next = self.operand(next, COMPARED);
                    text = format!("{text} {operator} {next}");
                }
                bracketed(text, 20, wanted)
            }
            Tree::Choice(test, yes, no) => self.choice(test, yes, no, wanted),
            Tree::Let(name, value, body) => {
                let text = format!("let {name} = {}; {}", self.at(value, 0), self.at(body, 0));
                bracketed(text, 0, wanted)
            }
            Tree::Call(name, arguments) => self.call(name, arguments, wanted),
        }
    }

    /// `1.x` is not how a field of a number is written.
    fn number(&mut self, text: String, wanted: u16) -> String {
        bracketed(text, POSTFIX - 1, wanted)
    }

    fn all(&mut self, trees: &[Tree]) -> String {
        let texts: Vec<String> = trees.iter().map(|tree| self.at(tree, 0)).collect();
        texts.join(", ")
    }

    fn map(&mut self, entries: &[(String, Tree)]) -> String {
        let mut texts = Vec::new();
        for (name, value) in entries {
            let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase());
            let name = match (is_plain, self.choices.below(3)) {
                (true, 0) => name.clone(),
                (_, 1) => format!("({})", quoted(name)),
                _ => quoted(name),
            };
            texts.push(format!("{name}: {}", self.at(value, 0)));
        }
        format!("{{{}}}", texts.join(", "))
    }

    fn step(&mut self, id: &str) -> String {
        if !id.contains('-') && self.coin() {
            format!("steps.{id}")
        } else {
            format!("steps[{}]", quoted(id))
        }
    }

    fn base(&mut self, base: &Tree) -> String {
        self.at(base, POSTFIX)
    }

    fn field(&mut self, base: &Tree, name: &str, optional: bool) -> String {
        let point = if optional { "?." } else { "." };
        if *base == Tree::Element && self.coin() {
            return format!("{point}{name}");
        }
        let base = self.base(base);
        if !optional && self.coin() {
            format!("{base}[{}]", quoted(name))
        } else {
            format!("{base}{point}{name}")
        }
    }

    fn unary(&mut self, operator: &str, value: &Tree, wanted: u16) -> String {
        if let ("not", Tree::Binary(inner @ ("in" | "contains" | "startsWith" | "endsWith"), left, right)) =
            (operator, value)
            && self.coin()
        {
            let [left, right] = [left, right].map(|side| self.operand(side, COMPARED));
            return bracketed(format!("{left} not {inner} {right}"), 20, wanted);
        }
        match operator {
            "not" if self.coin() => bracketed(format!("not {}", self.at(value, 50)), 50, wanted),
            "not" => bracketed(format!("!{}", self.at(value, 50)), 50, wanted),
            _ => bracketed(format!("{operator} {}", self.at(value, 90)), 90, wanted),
        }
    }

    /// A side of an operator; `??` may not stand beside another one without brackets.
    fn operand(&mut self, tree: &Tree, wanted: u16) -> String {
        let wanted = if matches!(tree, Tree::Binary("??", ..)) { POSTFIX } else { wanted };
        self.at(tree, wanted)
    }

    fn binary(&mut self, operator: &str, left: &Tree, right: &Tree, wanted: u16) -> String {
        let own = precedence(operator);
        let (left, right) = match own {
            20 => (self.operand(left, COMPARED), self.operand(right, COMPARED)),
            100 => (self.operand(left, own + 1), self.operand(right, own)),
            500 => (self.at(left, own), self.operand(right, own + 1)),
            own => (self.operand(left, own), self.operand(right, own + 1)),
        };
        let spelled = match (operator, self.coin()) {
            ("or", true) => "||",
            ("and", true) => "&&",
            ("**", true) => "^",
            _ => operator,
        };
        bracketed(format!("{left} {spelled} {right}"), own, wanted)
    }

    fn choice(&mut self, test: &Tree, yes: &Tree, no: &Tree, wanted: u16) -> String {
        let text = match (test == yes, self.choices.below(3)) {
            (true, _) => format!("{} ?: {}", self.at(test, 1), self.at(no, 0)),
            (false, 0) => {
                format!("if {} {{ {} }} else {{ {} }}", self.at(test, 1), self.at(yes, 0), self.at(no, 0))
            }
            (false, _) => format!("{} ? {} : {}", self.at(test, 1), self.at(yes, 0), self.at(no, 0)),
        };
        bracketed(text, 0, wanted)
    }

    fn call(&mut self, name: &str, arguments: &[Tree], wanted: u16) -> String {
        let Some((first, rest)) = arguments.split_first() else { return format!("{name}()") };
        let mut texts = Vec::new();
        for (at, argument) in rest.iter().enumerate() {
            let is_predicate = at == 0 && PREDICATES.contains(&name);
            texts.push(if is_predicate { self.predicate(argument) } else { self.at(argument, 0) });
        }
        if wanted == 0 && self.coin() {
            let first = match first {
                // Pipes bind to the left, so one may follow another.
                Tree::Call(inner, arguments) => self.call(inner, arguments, 0),
                other => self.at(other, 1),
            };
            return format!("{first} | {name}({})", texts.join(", "));
        }
        texts.insert(0, self.at(first, 0));
        format!("{name}({})", texts.join(", "))
    }

    fn predicate(&mut self, body: &Tree) -> String {
        let text = self.at(body, 0);
        if text.starts_with('{') || self.coin() { format!("{{{text}}}") } else { text }
    }
}
