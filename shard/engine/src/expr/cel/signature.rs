//! The functions that expressions may call, and what is said of wrong calls.

use super::node::{Func, Part, Ty};
use crate::expr::names;

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

/// Why there is no function of this name, and which one may be meant.
pub(super) fn unknown_function(name: &str) -> String {
    match name {
        "has" => "`has` takes one field access: has(x.y)".into(),
        "all" | "exists" | "exists_one" | "existsOne" | "filter" => {
            format!("`{name}` takes a name and a condition: xs.{name}(x, …)")
        }
        "map" => "`map` takes a name, maybe a condition, and a value: xs.map(x, …)".into(),
        _ => {
            let names = FUNCTIONS.iter().map(|signature| signature.name);
            let macros = ["has", "all", "exists", "exists_one", "map", "filter"];
            format!("unknown function `{name:.64}`{}", names::clause(name, names.chain(macros)))
        }
    }
}

/// What is wrong with how a function is called.
pub(super) fn misuse(signature: &Signature, style: Style, args: usize) -> Option<String> {
    let Signature { name, style: wanted, arity: (least, most), .. } = signature;
    let receivers = match (wanted, style) {
        (Style::Both, Style::Global) => 1,
        (Style::Global, Style::Member) => return Some(format!("`{name}` is called as {name}(x)")),
        (Style::Member, Style::Global) => return Some(format!("`{name}` is called as x.{name}(…)")),
        _ => 0,
    };
    let (least, most) = (least + receivers, most + receivers);
    let wanted = match (least, most) {
        _ if (least..=most).contains(&args) => return None,
        (0, 0) => "no arguments".into(),
        (1, 1) => "1 argument".into(),
        (least, most) if least == most => format!("{least} arguments"),
        (least, most) => format!("{least} to {most} arguments"),
    };
    Some(format!("`{name}` takes {wanted}, not {args}"))
}
