//! The parsed form: one flat arena of nodes, so that neither dropping nor checking recurses.

use std::sync::Arc;

use super::builtins::Builtin;
use super::pattern::Pattern;

/// A node's place in [`Program::nodes`]; children always come before their parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub(super) u32);

/// A whole expression.
#[derive(Debug)]
pub(super) struct Program {
    /// Every node.
    pub(super) nodes: Vec<Node>,
    /// The one whose value is the result.
    pub(super) root: Id,
    /// How many `let` variables there are; each has a slot of its own.
    pub(super) slots: usize,
}

impl Program {
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Column in the source, from 1, in characters.
    pub(super) column: u32,
    /// Whether it stands left of `??`, where what is missing is nil.
    pub(super) lenient: bool,
}

/// What the scope offers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Steps,
    Inputs,
    Workflow,
    Context,
    Loop,
    Data,
}

impl Root {
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("steps", Self::Steps),
        ("inputs", Self::Inputs),
        ("workflow", Self::Workflow),
        ("context", Self::Context),
        ("loop", Self::Loop),
        ("data", Self::Data),
    ];
}

/// What a node computes.
#[derive(Debug)]
pub(super) enum Kind {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    List(Vec<Id>),
    Map(Vec<(Id, Id)>),
    Root(Root),
    /// A name that nothing defines: a problem, or nil where lenient.
    Unknown(Arc<str>),
    /// A `let` variable.
    Var(usize),
    /// `#`
    Element,
    /// `#index`
    Position,
    /// `#acc`
    Accumulator,
    /// `steps['id']` and `steps.id`
    Step(Arc<str>),
    /// `steps[…]` with a computed id.
    StepAt(Id),
    Member {
        base: Id,
        name: Arc<str>,
        optional: bool,
    },
    At {
        base: Id,
        index: Id,
        optional: bool,
    },
    Slice {
        base: Id,
        from: Option<Id>,
        to: Option<Id>,
    },
    Not(Id),
    Minus(Id),
    Plus(Id),
    Binary {
        op: Op,
        left: Id,
        right: Id,
    },
    /// `matches`; the pattern is compiled once when it is a literal.
    Matches {
        left: Id,
        right: Id,
        compiled: Option<Pattern>,
    },
    Choice {
        test: Id,
        yes: Id,
        no: Id,
    },
    Let {
        bindings: Vec<(usize, Id)>,
        body: Id,
    },
    Call {
        builtin: &'static Builtin,
        args: Vec<Id>,
    },
}

/// Operators between two values, except `matches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    Contains,
    StartsWith,
    EndsWith,
    Range,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Pow,
    Coalesce,
}

impl Op {
    /// As written, for messages.
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::In => "in",
            Self::Contains => "contains",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
            Self::Range => "..",
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Rem => "%",
            Self::Pow => "**",
            Self::Coalesce => "??",
        }
    }

    /// Whether `a op b op c` means `a op b and b op c`.
    pub(super) fn chains(self) -> bool {
        matches!(self, Self::Lt | Self::Le | Self::Gt | Self::Ge)
    }
}
