//! Compiling with the crate, and running without any bound.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::OnceLock;

use jaq_core::compile::Undefined;
use jaq_core::data::JustLut;
use jaq_core::load::lex::Token;
use jaq_core::load::parse::{Def, Term};
use jaq_core::load::{self, Arena, File, Lexer, Loader, Parser};
use jaq_core::{Compiler, Ctx, Filter, ValT, Vars, unwrap_valr};
use jaq_json::{Num, Val};
use serde_json::{Map, Number, Value};

use super::super::{EvalError, ExprProblem, names};
use super::{assign, scan};

/// Stack of the thread that parses: the crate recurses along every chain of up to
/// [`super::super::TOKENS_MAX`] tokens.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Compiled filters that a thread keeps.
const CACHE_MAX: usize = 64;
/// Deepest nesting of an output.
const OUTPUT_DEPTH_MAX: usize = 100;
/// Longest message taken over from a filter, in characters.
const MESSAGE_CHARS_MAX: usize = 500;

pub(super) type Data = JustLut<Val>;
type Compiled = Filter<Data>;

/// Name under which the filter itself is defined.
const MAIN: &str = "opcode_main";

/// What is taken out of the library, and why.
const REMOVED: [(&str, &str); 14] = [
    ("now", "depends on the clock"),
    ("localtime", "depends on the time zone of the machine; use `gmtime`"),
    ("strflocaltime", "depends on the time zone of the machine; use `strftime`"),
    ("env", "reads the environment of the process"),
    ("input", "reads other inputs, and there is only one"),
    ("inputs", "reads other inputs, and there is only one; for the params write `.inputs`"),
    ("input_filename", "reads files"),
    ("input_line_number", "reads files"),
    ("debug", "writes to the log of the process"),
    ("stderr", "writes to the log of the process"),
    ("debug_empty", "writes to the log of the process"),
    ("stderr_empty", "writes to the log of the process"),
    ("halt", "ends the process; use `error`"),
    ("halt_error", "ends the process; use `error`"),
];

fn is_removed(name: &str) -> bool {
    REMOVED.iter().any(|(removed, _)| *removed == name)
}

/// The library's definitions, parsed once per process.
fn library() -> impl Iterator<Item = Def<&'static str>> {
    static LIBRARY: OnceLock<Vec<Def<&'static str>>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            let own = load::parse(include_str!("defs.jq"), |parser| parser.defs());
            let own = own.expect("our own definitions parse");
            jaq_core::defs()
                .chain(jaq_std::defs())
                .chain(jaq_json::defs())
                .filter(|def| !is_removed(def.name))
                .chain(own)
                .collect()
        })
        .iter()
        .cloned()
}

fn natives() -> impl Iterator<Item = jaq_core::native::Fun<Data>> {
    let library = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    library.filter(|(name, ..)| !is_removed(name)).chain([assign::native()])
}

/// Compiles a filter that [`scan`] let through, on a stack that is large enough for it.
pub(super) fn compile(source: &str) -> Result<Compiled, Vec<ExprProblem>> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || compile_here(source));
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(_)) => Err(whole("the filter cannot be parsed")),
            Err(_) => Err(whole("there is no memory to check the filter")),
        }
    })
}

fn whole(message: &str) -> Vec<ExprProblem> {
    vec![ExprProblem { column: 1, message: message.to_owned() }]
}

fn compile_here(source: &str) -> Result<Compiled, Vec<ExprProblem>> {
    let body = assign::with_room(parse(source)?);
    // As a definition it can be given as a tree, after it was rewritten.
    let main = Def { name: MAIN, args: Vec::new(), body };
    let arena = Arena::default();
    let modules =
        Loader::new(library().map(shorten).chain([main])).load(&arena, File { code: MAIN, path: () });
    let modules = modules.map_err(|_| whole("the filter cannot be loaded"))?;
    Compiler::default().with_funs(natives()).compile(modules).map_err(|errors| {
        let undefined = errors.into_iter().flat_map(|(_, undefined)| undefined);
        undefined.map(|(name, kind)| problem(source, name, undefined_message(name, &kind))).collect()
    })
}

/// Definitions of the library live as long as anything.
fn shorten<'s>(def: Def<&'static str>) -> Def<&'s str> {
    def
}

fn parse(source: &str) -> Result<Term<&str>, Vec<ExprProblem>> {
    let expected = |part: &str, expected: &str| {
        problem(source, part, format!("expected {expected}, found {}", found(part)))
    };
    let tokens = Lexer::new(source).lex().map_err(|errors| {
        errors.into_iter().map(|(expect, part)| expected(part, expect.as_str())).collect::<Vec<_>>()
    })?;
    if let Some(first) = tokens.first().filter(|token| matches!(token.0, "include" | "import" | "module")) {
        return Err(vec![problem(source, first.0, "a filter has no modules".to_owned())]);
    }
    Parser::new(&tokens).parse(|parser| parser.term()).map_err(|errors| {
        let part = |found| Token::opt_as_str(found, source);
        errors.into_iter().map(|(expect, found)| expected(part(found), expect.as_str())).collect()
    })
}

/// A problem at `part`, which is a slice of `source`.
fn problem(source: &str, part: &str, message: String) -> ExprProblem {
    let start = source.as_ptr() as usize;
    let at = (part.as_ptr() as usize).checked_sub(start).filter(|at| *at <= source.len());
    let column = 1 + at.and_then(|at| source.get(..at)).map_or(0, |before| before.chars().count());
    ExprProblem { column: u32::try_from(column).unwrap_or(u32::MAX), message }
}

fn found(part: &str) -> String {
    let mut chars = part.chars();
    let short: String = chars.by_ref().take(20).collect();
    match (short.is_empty(), chars.next()) {
        (true, _) => "the end".to_owned(),
        (false, None) => format!("`{short}`"),
        (false, Some(_)) => format!("`{short}…`"),
    }
}

fn undefined_message(name: &str, kind: &Undefined) -> String {
    if let Some((_, reason)) = REMOVED.iter().find(|(removed, _)| *removed == name) {
        return format!("`{name}` is not available: it {reason}");
    }
    match kind {
        Undefined::Filter(arity) => {
            let arities: Vec<usize> =
                known().filter(|(known, _)| *known == name).map(|(_, arity)| arity).collect();
            if let Some(near) = arities.first() {
                return format!("`{name}` does not take {arity} arguments; it takes {near}");
            }
            format!("unknown function `{name:.64}`{}", names::clause(name, known().map(|(known, _)| known)))
        }
        Undefined::Var if name == "$ENV" => {
            "`$ENV` is not available: it reads the environment of the process".to_owned()
        }
        other => format!("unknown {} `{name}`", other.as_str()),
    }
}

/// Names and numbers of arguments of everything in the library.
fn known() -> impl Iterator<Item = (&'static str, usize)> {
    let defined = library().map(|def| (def.name, def.args.len()));
    defined.chain(natives().map(|(name, args, _)| (name, args.len())))
}

thread_local! {
    static CACHE: RefCell<HashMap<String, Rc<Compiled>>> = RefCell::new(HashMap::new());
}

fn cached(filter: &str) -> Result<Rc<Compiled>, EvalError> {
    if let Some(compiled) = CACHE.with_borrow(|cache| cache.get(filter).cloned()) {
        return Ok(compiled);
    }
    let first = |problems: Vec<ExprProblem>| {
        let problem = problems.into_iter().next();
        problem.map_or_else(
            || EvalError::failed("the filter cannot be compiled"),
            |problem| EvalError::Failed { message: problem.message, column: Some(problem.column) },
        )
    };
    scan::scan(filter).map_err(|problem| first(vec![problem]))?;
    let compiled = Rc::new(compile(filter).map_err(first)?);
    CACHE.with_borrow_mut(|cache| {
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(filter.to_owned(), compiled.clone());
    });
    Ok(compiled)
}

/// Runs `filter` on `input` **in this thread, without any bound**: for a process made to be
/// killed, and nothing else. It may never end, take all memory, or overflow the stack and abort.
/// All outputs, or the message of the first error; the outputs before an error are lost.
pub fn run_unbounded(filter: &str, input: &Value) -> Result<Vec<Value>, EvalError> {
    let compiled = cached(filter)?;
    let context = Ctx::<Data>::new(&compiled.lut, Vars::new([]));
    let outputs = compiled.id.run((context, from_json(input)?));
    outputs
        .map(unwrap_valr)
        .map(|output| match output {
            Ok(value) => into_json(value, 0),
            Err(error) => Err(failure(error.into_val())),
        })
        .collect()
}

fn failure(value: Val) -> EvalError {
    let text = match &value {
        Val::TStr(text) | Val::BStr(text) => String::from_utf8_lossy(text).into_owned(),
        other => other.to_string(),
    };
    EvalError::failed(text.chars().take(MESSAGE_CHARS_MAX).collect::<String>())
}

/// JSON as the crate's value; numbers keep their digits.
fn from_json(value: &Value) -> Result<Val, EvalError> {
    Ok(match value {
        Value::Null => Val::Null,
        Value::Bool(bool) => Val::Bool(*bool),
        Value::Number(number) => match number.as_i64().and_then(|int| isize::try_from(int).ok()) {
            Some(int) => Val::Num(Num::Int(int)),
            None => Val::from_num(&number.to_string()).map_err(|error| failure(error.into_val()))?,
        },
        Value::String(text) => Val::from(text.clone()),
        Value::Array(items) => items.iter().map(from_json).collect::<Result<Val, _>>()?,
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| Ok((Val::from(key.clone()), from_json(value)?)));
            Val::obj(entries.collect::<Result<_, EvalError>>()?)
        }
    })
}

/// The crate's value as JSON: bytes become text, NaN becomes null, infinity the largest number, as
/// jq prints them.
fn into_json(value: Val, depth: usize) -> Result<Value, EvalError> {
    if depth > OUTPUT_DEPTH_MAX {
        return Err(EvalError::failed(format!("the output nests deeper than {OUTPUT_DEPTH_MAX}")));
    }
    Ok(match value {
        Val::Null => Value::Null,
        Val::Bool(bool) => Value::Bool(bool),
        Val::Num(number) => number_into_json(&number),
        Val::TStr(text) | Val::BStr(text) => Value::String(String::from_utf8_lossy(&text).into_owned()),
        Val::Arr(items) => {
            let items = items.iter().map(|item| into_json(item.clone(), depth + 1));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Val::Obj(entries) => {
            let mut object = Map::new();
            for (key, value) in entries.iter() {
                let (Val::TStr(key) | Val::BStr(key)) = key else {
                    return Err(EvalError::failed(format!("an object's key is a string, not {key}")));
                };
                object
                    .insert(String::from_utf8_lossy(key).into_owned(), into_json(value.clone(), depth + 1)?);
            }
            Value::Object(object)
        }
    })
}

fn number_into_json(number: &Num) -> Value {
    match number {
        Num::Int(int) => Value::from(*int),
        Num::Float(float) if float.is_nan() => Value::Null,
        Num::Float(float) => {
            const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
            if float.fract() == 0.0 && float.abs() <= EXACT_MAX {
                return Value::from(*float as i64);
            }
            Number::from_f64(float.clamp(f64::MIN, f64::MAX)).map_or(Value::Null, Value::Number)
        }
        Num::BigInt(_) | Num::Dec(_) => {
            serde_json::from_str::<Number>(&number.to_string()).map_or(Value::Null, Value::Number)
        }
    }
}
