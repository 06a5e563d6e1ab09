//! The checked tree: names resolved, macros recognised, chains flat, so that evaluation recurses
//! over real nesting only.

use std::sync::Arc;

use regex::Regex;

/// An expression and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Column in the source, from 1.
    pub(super) column: u32,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Str(Arc<str>),
    Bytes(Arc<[u8]>),
    Type(&'static str),
    Root(Root),
    /// The whole output of a step named in the text.
    Step(Arc<str>),
    /// Whether a step named in the text is done.
    HasStep(Arc<str>),
    /// A variable of a comprehension, by how many are around it.
    Var(usize),
    /// What is read from, and the accesses and calls after it, in order.
    Chain(Box<Node>, Vec<Link>),
    /// Whether a map has a field.
    Has(Box<Node>, Arc<str>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// Operators from left to right.
    Fold(Box<Node>, Vec<(Binary, u32, Node)>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Conditional(Box<[Node; 3]>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(Call, Vec<Node>),
}

/// The roots of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Steps,
    Inputs,
    Workflow,
    Context,
    Data,
    Iter,
    IterItem,
    IterIndex,
}

/// One access or call in a chain.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) column: u32,
    pub(super) access: Access,
}

#[derive(Clone, Debug)]
pub(super) enum Access {
    Field(Arc<str>),
    Index(Node),
    /// A step by a computed id; only right after the root `steps`.
    StepAt(Node),
    Call(Call, Vec<Node>),
    Comprehension(Comprehension),
}

/// A call of a function; its receiver, if any, is the first value it gets.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) func: Func,
    /// The pattern of `matches`, compiled when it is a literal.
    pub(super) pattern: Option<Pattern>,
}

/// A compiled regular expression with what a byte of text may cost it.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) regex: Regex,
    /// Steps for every 64 bytes of text.
    pub(super) cost: u64,
}

/// `all`, `exists`, `exists_one`, `map`, `filter`.
#[derive(Clone, Debug)]
pub(super) struct Comprehension {
    pub(super) quantifier: Quantifier,
    /// Which elements count, for `map` with three arguments.
    pub(super) filter: Option<Box<Node>>,
    pub(super) body: Box<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

impl Binary {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::In => "in",
        }
    }
}

/// What is known of a value's type before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ty {
    Any,
    Null,
    Bool,
    /// `int`, `uint` or `double`, which mix.
    Number,
    String,
    Bytes,
    List,
    Map,
    Timestamp,
    Duration,
    Type,
}

/// A part of a timestamp or duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Func {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    LowerAscii,
    UpperAscii,
    Trim,
    Split,
    Join,
    Replace,
    Substring,
    IndexOf,
    LastIndexOf,
    CharAt,
    TypeOf,
    ToInt,
    ToUInt,
    ToDouble,
    ToStr,
    ToBool,
    ToBytes,
    Dyn,
    ToTimestamp,
    ToDuration,
    Get(Part),
    Min,
    Max,
    Abs,
    Ceil,
    Floor,
    Round,
    Base64Encode,
    Base64Decode,
}
