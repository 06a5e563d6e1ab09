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

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `f(x)`.
    Global,
    /// `x.f()`.
    Member,
    /// Either.
    Both,
}

/// A function that expressions may call.
pub(super) struct Signature {
    pub(super) name: &'static str,
    pub(super) func: Func,
    pub(super) style: Style,
    /// Arguments at least and at most, a receiver not counted.
    pub(super) arity: (usize, usize),
    pub(super) result: Ty,
}

const fn global(name: &'static str, func: Func, arity: (usize, usize), result: Ty) -> Signature {
    Signature { name, func, style: Style::Global, arity, result }
}

const fn member(name: &'static str, func: Func, arity: (usize, usize), result: Ty) -> Signature {
    Signature { name, func, style: Style::Member, arity, result }
}

const fn part(name: &'static str, part: Part) -> Signature {
    member(name, Func::Get(part), (0, 1), Ty::Number)
}

/// Arguments at most of a function that takes any number.
const ANY: usize = 256;

/// Every function. Those that read a clock or chance do not exist.
pub(super) const FUNCTIONS: &[Signature] = &[
    Signature { name: "size", func: Func::Size, style: Style::Both, arity: (0, 0), result: Ty::Number },
    Signature { name: "matches", func: Func::Matches, style: Style::Both, arity: (1, 1), result: Ty::Bool },
    member("contains", Func::Contains, (1, 1), Ty::Bool),
    member("startsWith", Func::StartsWith, (1, 1), Ty::Bool),
    member("endsWith", Func::EndsWith, (1, 1), Ty::Bool),
    member("lowerAscii", Func::LowerAscii, (0, 0), Ty::String),
    member("upperAscii", Func::UpperAscii, (0, 0), Ty::String),
    member("trim", Func::Trim, (0, 0), Ty::String),
    member("split", Func::Split, (1, 2), Ty::List),
    member("join", Func::Join, (0, 1), Ty::String),
    member("replace", Func::Replace, (2, 3), Ty::String),
    member("substring", Func::Substring, (1, 2), Ty::String),
    member("indexOf", Func::IndexOf, (1, 2), Ty::Number),
    member("lastIndexOf", Func::LastIndexOf, (1, 1), Ty::Number),
    member("charAt", Func::CharAt, (1, 1), Ty::String),
    global("type", Func::TypeOf, (1, 1), Ty::Type),
    global("int", Func::ToInt, (1, 1), Ty::Number),
    global("uint", Func::ToUInt, (1, 1), Ty::Number),
    global("double", Func::ToDouble, (1, 1), Ty::Number),
    global("string", Func::ToStr, (1, 1), Ty::String),
    global("bool", Func::ToBool, (1, 1), Ty::Bool),
    global("bytes", Func::ToBytes, (1, 1), Ty::Bytes),
    global("dyn", Func::Dyn, (1, 1), Ty::Any),
    global("timestamp", Func::ToTimestamp, (1, 1), Ty::Timestamp),
    global("duration", Func::ToDuration, (1, 1), Ty::Duration),
    part("getFullYear", Part::FullYear),
    part("getMonth", Part::Month),
    part("getDate", Part::Date),
    part("getDayOfMonth", Part::DayOfMonth),
    part("getDayOfWeek", Part::DayOfWeek),
    part("getDayOfYear", Part::DayOfYear),
    part("getHours", Part::Hours),
    part("getMinutes", Part::Minutes),
    part("getSeconds", Part::Seconds),
    part("getMilliseconds", Part::Milliseconds),
    global("min", Func::Min, (1, ANY), Ty::Any),
    global("max", Func::Max, (1, ANY), Ty::Any),
    global("math.least", Func::Min, (1, ANY), Ty::Any),
    global("math.greatest", Func::Max, (1, ANY), Ty::Any),
    global("math.abs", Func::Abs, (1, 1), Ty::Number),
    global("math.ceil", Func::Ceil, (1, 1), Ty::Number),
    global("math.floor", Func::Floor, (1, 1), Ty::Number),
    global("math.round", Func::Round, (1, 1), Ty::Number),
    global("base64.encode", Func::Base64Encode, (1, 1), Ty::String),
    global("base64.decode", Func::Base64Decode, (1, 1), Ty::Bytes),
];

/// Names of types as values, as in `type(x) == int`.
pub(super) const TYPES: [&str; 9] =
    ["null_type", "bool", "int", "uint", "double", "string", "bytes", "list", "map"];
