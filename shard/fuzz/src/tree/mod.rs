//! Expressions of Expr as trees: what `grow` makes, `print` writes and the reference evaluates.

mod grow;
mod print;

pub use grow::{Grower, Kind};
pub use print::print;

/// An expression. Operators and functions are called by their names in the language.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Tree {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
    /// `inputs`, `data`, `loop`.
    Root(&'static str),
    /// `steps['id']`.
    Step(&'static str),
    /// A name that nothing defines; stands left of `??` only.
    Unknown,
    /// A `let` variable.
    Var(String),
    /// `#`
    Element,
    /// `#index`
    Position,
    /// `#acc`
    Accumulator,
    Field {
        base: Box<Self>,
        name: String,
        optional: bool,
    },
    At {
        base: Box<Self>,
        index: Box<Self>,
        optional: bool,
    },
    Slice {
        base: Box<Self>,
        from: Option<Box<Self>>,
        to: Option<Box<Self>>,
    },
    /// `not`, `-`, `+`.
    Unary(&'static str, Box<Self>),
    Binary(&'static str, Box<Self>, Box<Self>),
    /// `a < b <= c`: each is compared with the next.
    Chain(Box<Self>, Vec<(&'static str, Self)>),
    Choice(Box<Self>, Box<Self>, Box<Self>),
    Let(String, Box<Self>, Box<Self>),
    /// The second argument of `filter` and its kin is evaluated for each element.
    Call(&'static str, Vec<Self>),
}

/// Functions whose second argument is evaluated for each element.
pub const PREDICATES: [&str; 15] = [
    "all",
    "any",
    "one",
    "none",
    "filter",
    "map",
    "count",
    "sum",
    "find",
    "findIndex",
    "findLast",
    "findLastIndex",
    "groupBy",
    "sortBy",
    "reduce",
];

/// How tightly an operator between two values binds, as expr-lang.org's own parser has it.
pub fn precedence(operator: &str) -> u16 {
    match operator {
        "or" => 10,
        "and" => 15,
        ".." => 25,
        "+" | "-" => 30,
        "*" | "/" | "%" => 60,
        "**" => 100,
        "??" => 500,
        _ => 20,
    }
}
