//! The table of functions: names, numbers of arguments, what runs.

mod lists;
mod numbers;
mod strings;

use super::super::EvalError;
use super::super::Meter;
use super::predicates::Predicate;
use super::value::{V, View};

/// What a function is once its arguments are values.
type Plain = for<'a> fn(&mut Meter, &[V<'a>]) -> Result<V<'a>, EvalError>;

/// How a function runs.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// On the values of its arguments.
    Plain(Plain),
    /// On a list, with an expression as second argument.
    Predicate(Predicate),
    /// Never; why.
    Refused(&'static str),
}

/// One function.
pub(super) struct Builtin {
    pub(super) name: &'static str,
    min: usize,
    max: usize,
    pub(super) run: Run,
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// As many arguments as there are tokens.
const MANY: usize = usize::MAX;

const fn plain(name: &'static str, min: usize, max: usize, run: Plain) -> Builtin {
    Builtin { name, min, max, run: Run::Plain(run) }
}

const fn over(name: &'static str, min: usize, max: usize, which: Predicate) -> Builtin {
    Builtin { name, min, max, run: Run::Predicate(which) }
}

const fn refused(name: &'static str, reason: &'static str) -> Builtin {
    Builtin { name, min: 0, max: MANY, run: Run::Refused(reason) }
}

const CLOCK: &str = "depends on the clock, and an expression must not; use `workflow.started_at` or an input";
const DATES: &str = "makes values that JSON does not have; keep times as text or numbers";

/// Every function there is.
pub(super) static TABLE: &[Builtin] = &[
    over("all", 2, 2, Predicate::All),
    over("any", 2, 2, Predicate::Any),
    over("one", 2, 2, Predicate::One),
    over("none", 2, 2, Predicate::None),
    over("filter", 2, 2, Predicate::Filter),
    over("map", 2, 2, Predicate::Map),
    over("count", 1, 2, Predicate::Count),
    over("sum", 1, 2, Predicate::Sum),
    over("find", 2, 2, Predicate::Find),
    over("findIndex", 2, 2, Predicate::FindIndex),
    over("findLast", 2, 2, Predicate::FindLast),
    over("findLastIndex", 2, 2, Predicate::FindLastIndex),
    over("groupBy", 2, 2, Predicate::GroupBy),
    over("sortBy", 2, 3, Predicate::SortBy),
    over("reduce", 2, 3, Predicate::Reduce),
    plain("len", 1, 1, lists::len),
    plain("first", 1, 1, lists::first),
    plain("last", 1, 1, lists::last),
    plain("take", 2, 2, lists::take),
    plain("reverse", 1, 1, lists::reverse),
    plain("sort", 1, 2, lists::sort),
    plain("uniq", 1, 1, lists::uniq),
    plain("concat", 1, MANY, lists::concat),
    plain("flatten", 1, 1, lists::flatten),
    plain("keys", 1, 1, lists::keys),
    plain("values", 1, 1, lists::values),
    plain("toPairs", 1, 1, lists::to_pairs),
    plain("fromPairs", 1, 1, lists::from_pairs),
    plain("get", 2, 3, lists::get),
    plain("type", 1, 1, lists::type_of),
    plain("abs", 1, 1, numbers::abs),
    plain("ceil", 1, 1, numbers::ceil),
    plain("floor", 1, 1, numbers::floor),
    plain("round", 1, 1, numbers::round),
    plain("int", 1, 1, numbers::int),
    plain("float", 1, 1, numbers::float),
    plain("min", 1, MANY, numbers::min),
    plain("max", 1, MANY, numbers::max),
    plain("mean", 1, MANY, numbers::mean),
    plain("median", 1, MANY, numbers::median),
    plain("bitand", 2, 2, numbers::bitand),
    plain("bitor", 2, 2, numbers::bitor),
    plain("bitxor", 2, 2, numbers::bitxor),
    plain("bitnand", 2, 2, numbers::bitnand),
    plain("bitnot", 1, 1, numbers::bitnot),
    plain("bitshl", 2, 2, numbers::bitshl),
    plain("bitshr", 2, 2, numbers::bitshr),
    plain("bitushr", 2, 2, numbers::bitushr),
    plain("string", 1, 1, strings::string),
    plain("toJSON", 1, 1, strings::to_json),
    plain("fromJSON", 1, 1, strings::from_json),
    plain("toBase64", 1, 1, strings::to_base64),
    plain("fromBase64", 1, 1, strings::from_base64),
    plain("join", 1, 2, strings::join),
    plain("split", 2, 3, strings::split),
    plain("splitAfter", 2, 3, strings::split_after),
    plain("trim", 1, 2, strings::trim),
    plain("trimPrefix", 2, 2, strings::trim_prefix),
    plain("trimSuffix", 2, 2, strings::trim_suffix),
    plain("upper", 1, 1, strings::upper),
    plain("lower", 1, 1, strings::lower),
    plain("replace", 3, 4, strings::replace),
    plain("repeat", 2, 2, strings::repeat),
    plain("indexOf", 2, 2, strings::index_of),
    plain("lastIndexOf", 2, 2, strings::last_index_of),
    plain("hasPrefix", 2, 2, strings::has_prefix),
    plain("hasSuffix", 2, 2, strings::has_suffix),
    refused("now", CLOCK),
    refused("date", DATES),
    refused("duration", DATES),
    refused("timezone", DATES),
];

/// The function of this name.
pub(super) fn find(name: &str) -> Option<&'static Builtin> {
    TABLE.iter().find(|builtin| builtin.name == name)
}

impl Builtin {
    /// Whether the second argument is an expression to run per element.
    pub(super) fn has_predicate(&self) -> bool {
        matches!(self.run, Run::Predicate(_))
    }

    /// What is wrong with calling it with `given` arguments.
    pub(super) fn arity_problem(&self, given: usize) -> Option<String> {
        if (self.min..=self.max).contains(&given) {
            return None;
        }
        let takes = match (self.min, self.max) {
            (1, 1) => "1 argument".to_owned(),
            (min, max) if min == max => format!("{min} arguments"),
            (min, MANY) => format!("at least {min}"),
            (min, max) => format!("{min} to {max} arguments"),
        };
        Some(format!("`{}` takes {takes}, not {given}", self.name))
    }
}

fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::failed(message))
}

/// A string argument.
fn text<'v>(value: &'v V<'_>) -> Result<&'v str, EvalError> {
    match value.view() {
        View::Str(text) => Ok(text),
        other => failed(format!("expected a string, got {}", other.name())),
    }
}

/// An integer argument; a float without a fraction is one.
fn integer(value: &V<'_>) -> Result<i64, EvalError> {
    match value.view() {
        View::Int(int) => Ok(int),
        View::Float(float) if float.fract() == 0.0 && float.abs() < 9.0e15 => Ok(float as i64),
        other => failed(format!("expected an integer, got {}", other.name())),
    }
}

/// How many, as an argument: not negative.
fn count(value: &V<'_>) -> Result<usize, EvalError> {
    match usize::try_from(integer(value)?) {
        Ok(count) => Ok(count),
        Err(_) => failed("expected a number of elements, got a negative one"),
    }
}

/// A length as a value.
fn size(len: usize) -> V<'static> {
    V::Int(i64::try_from(len).unwrap_or(i64::MAX))
}
