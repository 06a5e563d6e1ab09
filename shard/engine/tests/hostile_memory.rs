//! The memory that a hostile expression takes: an allocator that counts stands under this process,
//! which therefore holds one test alone.

use std::time::{Duration, Instant};

use opcode_engine::expr::cel::Cel;
use opcode_engine::expr::expr::Expr;
use opcode_engine::expr::interpolate::Template;
use opcode_engine::expr::{Budget, Env, EvalError, NoJq, OwnedScope, Visibility};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What compiling and evaluating may take over what stands already.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A build without optimisation on a busy machine gets more.
const TIME_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5_000 } else { 100 });

type Outcome = Result<Value, String>;

fn env<R>(use_it: impl FnOnce(&Env<'_>) -> R) -> R {
    let visible = |_: &str| Visibility::Visible;
    use_it(&Env { step: &visible, in_loop: true, has_data: true })
}

fn cel(source: &str, scope: &OwnedScope) -> Outcome {
    let compiled = env(|env| Cel::compile(source, env)).map_err(|problems| problems[0].message.clone())?;
    compiled.eval(scope, Budget::WORKER).map_err(|error| error.to_string())
}

fn expr(source: &str, scope: &OwnedScope) -> Outcome {
    let compiled = env(|env| Expr::compile(source, env)).map_err(|problems| problems[0].message.clone())?;
    compiled.eval(scope, Budget::WORKER).map_err(|error| error.to_string())
}

fn template(source: &Value, scope: &OwnedScope) -> Outcome {
    let compiled =
        env(|env| Template::compile(source, env, "")).map_err(|problems| problems[0].message.clone())?;
    compiled.render(scope, Budget::WORKER, &NoJq).map_err(|error| error.to_string())
}

/// Templates that hold one output many times over: in a text, in a list, in a map, however it is made.
fn hostile_templates() -> Vec<Value> {
    let mut all = Vec::new();
    for token in
        ["${{ inputs.text }}", "${{ inputs.long }}", "${{ inputs.control }}", "${{ [inputs.control] }}"]
    {
        for count in [40, 400, 4_000] {
            let list = vec![token; count];
            let map: serde_json::Map<String, Value> =
                (0..count).map(|n| (format!("k{n}"), json!([token, "-"]))).collect();
            all.extend([json!(list.join("-")), json!(list), json!(map), json!(vec![list.join(""); 3])]);
        }
    }
    all
}

/// CEL that multiplies what it is given: by nesting, by copying, by patterns, by doubling.
fn hostile_cel() -> Vec<String> {
    let doubled = (0..28).fold("[1]".to_owned(), |inner, _| format!("[{inner}].map(x, [x, x])[0]"));
    let grown = (0..28).fold("inputs.text".to_owned(), |inner, _| format!("[{inner}].map(x, x + x)[0]"));
    let mut all: Vec<String> = [
        "inputs.list.map(x, inputs.text.split(''))",
        "inputs.list.map(x, inputs.text + inputs.text).map(y, y + y)",
        "inputs.text.replace('', inputs.text)",
        "inputs.text.replace('a', inputs.text)",
        "inputs.long.map(x, inputs.long)",
        "inputs.long.map(x, string(x) + inputs.text)",
        "inputs.long.map(x, {'a': inputs.long, 'b': inputs.text})",
        "inputs.list.map(x, inputs.list.map(y, inputs.text)).map(z, z.join(','))",
        "inputs.list.map(x, inputs.list.map(y, inputs.list.map(z, [x, y, z])))",
        "inputs.list.map(x, inputs.text.matches('(a|aa|aaa|.)*.{50}b'))",
        "inputs.long.map(x, 'a'.matches('a' + string(x)))",
        r"'a'.matches('((a{100}){100}){100}')",
        r"'a'.matches('[\\p{L}]{40}[\\p{N}]{40}')",
        r"inputs.text.matches('[\\p{L}\\p{N}]{1,12}x')",
        "inputs.long + inputs.long + inputs.long + inputs.long",
    ]
    .map(str::to_owned)
    .into();
    all.extend([doubled, grown, "[".repeat(8_000), format!("{}1", "1+".repeat(8_000)), "a".repeat(16_000)]);
    all
}

/// The same in Expr, which can also build ranges and repeat text.
fn hostile_expr() -> Vec<String> {
    let lets: String = (1..=40).map(|n| format!("let a{n} = [a{}, a{}];", n - 1, n - 1)).collect();
    let shared = format!("let a0 = [1, 1];{lets}");
    let mut all: Vec<String> = [
        r#"repeat("a", 1000000000)"#,
        "1..1000000000000",
        "1..200000",
        "map(1..1000, map(1..1000, map(1..1000, #)))",
        "map(1..100000, [#])",
        "map(1..100000, {a: #})",
        r#"reduce(1..100000, #acc + "aaaaaaaaaa", "")"#,
        r#"reduce(1..60, #acc + #acc, "a")"#,
        "sort(map(1..900000, -#))",
        "uniq(map(1..900000, {[#]}))",
        "groupBy(1..100000, string(#))",
        r#"let s = repeat("ab", 500000); split(s, "a")"#,
        r#"let s = repeat("a", 100000); map(1..1000, replace(s, "", "xxxxxxxxxxxxxxxxxxxx"))"#,
        r#"let s = repeat("a", 1000000); map(1..100, s matches "(a|b|ab)*(c|d)$")"#,
        r#"map(1..1000, "a" matches "(x{100}){5}" + string(#))"#,
        r#"let t = repeat("[],", 900000); fromJSON("[" + t + "1]")"#,
        "toJSON(map(1..100000, string(#)))",
        "flatten(map(1..1000, 1..1000))",
        "let a = 1..100000; [a, a, a, a, a, a, a, a, a, a, a, a]",
    ]
    .map(str::to_owned)
    .into();
    all.extend(["a40", "a40 == a40", "flatten(a40)", "len(toJSON(a40))"].map(|end| format!("{shared}{end}")));
    all
}

/// What `work` took at its highest over what stood before, and how long it was at it.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize, Duration) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let started = Instant::now();
    let outcome = work();
    let taken = started.elapsed();
    (outcome, ALLOCATOR.peak_usage().saturating_sub(before), taken)
}

#[test]
fn what_is_hostile_takes_at_most_16_mib() {
    let inputs = json!({
        "text": "a".repeat(100_000), "list": (0..30).collect::<Vec<_>>(),
        "long": (0..10_000).collect::<Vec<_>>(), "control": "\u{1}".repeat(100_000),
    });
    let scope = OwnedScope { inputs: inputs.into(), ..OwnedScope::default() };
    // The crates build their tables once per process; those are not an expression's memory.
    cel("'a'.matches('a')", &scope).expect("a plain expression");
    expr(r#""a" matches "a""#, &scope).expect("a plain expression");

    // The check itself can fail: memory that is taken is seen.
    let (_, taken, _) = measured(|| vec![1_u8; BYTES_MAX + 1]);
    assert!(taken > BYTES_MAX, "the allocator does not count: {taken}");

    type Evaluate = fn(&str, &OwnedScope) -> Outcome;
    let engines: [(Evaluate, Vec<String>); 2] = [(cel, hostile_cel()), (expr, hostile_expr())];
    let over = EvalError::OverBudget.to_string();
    let mut over_bounds = Vec::new();
    let mut check = |what: &str, (outcome, bytes, taken): (Outcome, usize, Duration)| {
        if bytes > BYTES_MAX || taken > TIME_MAX {
            over_bounds.push(format!("{bytes} bytes in {taken:?}: {what:.80}"));
        }
        outcome.is_err_and(|message| message == over)
    };
    for (evaluate, sources) in engines {
        let stops = |source: &String| check(source, measured(|| evaluate(source, &scope)));
        let stopped = sources.iter().map(stops).filter(|stopped| *stopped).count();
        assert!(stopped >= 5, "the budget is what stops most of these, and stopped {stopped}");
    }
    let stops = |source: &Value| check(&source.to_string(), measured(|| template(source, &scope)));
    let stopped = hostile_templates().iter().map(stops).filter(|stopped| *stopped).count();
    assert!(stopped >= 15, "the budget is what stops most of these, and stopped {stopped}");
    assert!(over_bounds.is_empty(), "{}", over_bounds.join("\n"));
}
