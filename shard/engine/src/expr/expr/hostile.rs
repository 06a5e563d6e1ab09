//! Text made to stall, to exhaust memory or to overflow a stack: each is refused or cut short, in a
//! debug build and on the two megabytes of stack that a thread has by default.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{Budget, EvalError};
use super::Expr;
use super::tests::{ENV, scope};

/// A tenth of a second is meant; a debug build on a busy machine gets more.
const LONG: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// Compiles and evaluates on a thread of the usual stack; whether it got a value.
fn survive(source: &str) -> Result<serde_json::Value, String> {
    let source = source.to_owned();
    let started = Instant::now();
    let run = move || {
        let expr = Expr::compile(&source, &ENV).map_err(|problems| problems[0].message.clone())?;
        let inline = expr.eval(&scope(), Budget::INLINE);
        match inline {
            Err(EvalError::OverBudget) => expr.eval(&scope(), Budget::WORKER),
            inline => inline,
        }
        .map_err(|error| error.to_string())
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap();
    let outcome = thread.join().unwrap();
    assert!(started.elapsed() < LONG, "took {:?}", started.elapsed());
    outcome
}

fn is_refused(source: &str, with: &str) {
    let outcome = survive(source);
    let shown: String = source.chars().take(60).collect();
    match outcome {
        Err(message) => assert!(message.contains(with), "{shown}: {message}"),
        Ok(value) => panic!("{shown}: {}", &value.to_string()[..100.min(value.to_string().len())]),
    }
}

#[test]
fn deep_text_is_refused_before_it_recurses() {
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{a: ", "}"), ("len(", ")"), ("map([1], {", "})"), ("x[", "]")]
    {
        is_refused(&(open.repeat(1000) + "1" + &close.repeat(1000)), "deeper than 64");
    }
    for unary in ["-", "!", "not ", "1 ** ", "true ? 1 : ", "true ? ", "if true { 1 } else "] {
        is_refused(&(unary.repeat(200) + "1"), "nests too deep");
    }
    is_refused(&"1+".repeat(10_000), "longer than");
    is_refused(&"1+".repeat(3000), "more than 2000 tokens");
    is_refused(&".a".repeat(3000), "more than 2000 tokens");
}

#[test]
fn the_deepest_text_allowed_fits_the_stack() {
    assert!(survive(&("(".repeat(64) + "1" + &")".repeat(64))).is_ok());
    assert!(survive(&("[".repeat(64) + &"]".repeat(64))).is_ok());
    assert!(survive(&("map([1], ".repeat(31) + "[#]" + &")".repeat(31))).is_ok());
    assert!(survive(&("1+(2*".repeat(50) + "1" + &")".repeat(50))).is_ok());
    assert!(survive(&("false or (1 == (1 + (1 * (2 ** (".repeat(12) + "1" + &")))))".repeat(12))).is_err());
    assert!(survive(&("-".repeat(150) + "1")).is_ok());
    assert!(survive(&("true ? 1 : ".repeat(150) + "1")).is_ok());
    let opened: String = (0..30).map(|n| format!("any([true], {{let a{n} = #; ")).collect();
    assert!(survive(&(opened + "a0" + &"})".repeat(30))).is_ok());
}

#[test]
fn long_chains_do_not_recurse() {
    assert!(survive(&("1".to_owned() + &"+1".repeat(990))).is_ok());
    assert!(survive(&("nowhere".to_owned() + &".a".repeat(900) + " ?? 1")).is_ok());
    assert!(survive(&("nil".to_owned() + &" ?? nil".repeat(900))).is_ok());
    assert!(survive(&("1".to_owned() + &" < 2".repeat(900))).is_ok());
    assert!(survive(&("[1]".to_owned() + &"|reverse()".repeat(400))).is_ok());
    assert!(survive(&("let a = 1;".repeat(390) + "1")).is_err());
    let lets: String = (0..390).map(|n| format!("let a{n} = {n};")).collect();
    assert!(survive(&(lets + "a389")).is_ok());
    assert!(survive(&("inputs.nil".to_owned() + &"?.a".repeat(900))).is_ok());
}

#[test]
fn costly_text_runs_out_of_budget() {
    for source in [
        r#"repeat("a", 1000000000)"#,
        r#"repeat("a", 9223372036854775807)"#,
        "1..1000000000000",
        "-9223372036854775807..9223372036854775807",
        "map(1..1000, map(1..1000, map(1..1000, #)))",
        "let a = 1..1000; map(a, map(a, map(a, map(a, map(a, #)))))",
        "reduce(1..1000000, #acc + 1, 0)",
        r#"reduce(1..100000, #acc + "aaaaaaaaaa", "")"#,
        r#"reduce(1..60, #acc + #acc, "a")"#,
        "sort(map(1..900000, -#))",
        r#"uniq(map(1..900000, {[#]}))"#,
        r#"let s = repeat("a", 1000000); map(1..1000, s contains "b")"#,
        r#"let s = repeat("a", 1000000); map(1..1000, upper(s))"#,
        r#"let s = repeat("a", 1000000); map(1..1000, s[#])"#,
        r#"let s = repeat("ab", 500000); split(s, "a")"#,
        r#"let s = repeat("a", 100000); map(1..1000, replace(s, "", "xxxxxxxxxxxxxxxxxxxx"))"#,
        r#"let s = repeat("a", 1000000); map(1..100, s matches "(a|b|ab)*(c|d)$")"#,
        r#"map(1..1000, "a" matches "(x{100}){5}" + string(#))"#,
        r#"let t = repeat("[],", 900000); fromJSON("[" + t + "1]")"#,
        "flatten(map(1..1000, 1..1000))",
        "let a = 1..100000; [a, a, a, a, a, a, a, a, a, a, a, a]",
    ] {
        is_refused(source, "costs more");
    }
}

#[test]
fn shared_values_do_not_explode() {
    let doubled = |levels: usize| {
        let lets: String = (1..=levels).map(|n| format!("let a{n} = [a{}, a{}];", n - 1, n - 1)).collect();
        format!("let a0 = [1, 1];{lets}")
    };
    is_refused(&(doubled(40) + "a40"), "costs more");
    is_refused(&(doubled(40) + "a40 == a40"), "costs more");
    is_refused(&(doubled(40) + "flatten(a40)"), "costs more");
    is_refused(&(doubled(40) + "len(toJSON(a40))"), "costs more");
    is_refused(&(doubled(40) + "max(a40)"), "costs more");
    is_refused("reduce(1..1000, [#acc], 0)", "nests deeper");
    is_refused("reduce(1..1000, {a: #acc}, 0)", "nests deeper");
    let nested = format!("fromJSON('{}{}')", "[".repeat(100), "]".repeat(100));
    is_refused(&nested, "nests deeper");
}

#[test]
fn patterns_are_bounded() {
    is_refused(r#""a" matches "((a{500}){500}){500}""#, "the pattern is too large");
    is_refused(&format!(r#""a" matches "{}""#, "a".repeat(2000)), "longer than 1024");
    is_refused(&format!(r#""a" matches "{}{}""#, "(".repeat(400), ")".repeat(400)), "not a pattern");
    is_refused(r#""a" matches "(""#, "not a pattern");
}

#[test]
fn exact_budgets_are_kept() {
    let expr = Expr::compile("map(1..100, # + 1)", &ENV).unwrap();
    let enough = Budget { steps: 2000, bytes: 40_000 };
    assert!(expr.eval(&scope(), enough).is_ok());
    assert_eq!(expr.eval(&scope(), Budget { steps: 100, ..enough }), Err(EvalError::OverBudget));
    assert_eq!(expr.eval(&scope(), Budget { bytes: 1000, ..enough }), Err(EvalError::OverBudget));
}

/// Pieces that often fit together, so that random text gets past the parser.
fn token() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "1",
        "0",
        "2.5",
        "-",
        "+",
        "*",
        "/",
        "%",
        "**",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        ";",
        "?",
        "?.",
        "??",
        ".",
        "..",
        "|",
        "a",
        "'s'",
        "\"é\"",
        "nil",
        "true",
        "not",
        "in",
        "and",
        "or",
        "==",
        "<",
        "let a =",
        "if",
        "else",
        "#",
        "#acc",
        "#index",
        ".x",
        "inputs",
        "inputs.users",
        "steps",
        "steps['list']",
        "loop.item",
        "data",
        "map(",
        "filter([1, 2],",
        "reduce([1],",
        "sum(",
        "len(",
        "sort(",
        "split(",
        "join(",
        "matches",
        "contains",
        "replace('a', '', ",
        "get(",
        "1..3",
        "'",
        "`",
        "\\",
        "é",
        "@",
        "/*",
        "//",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn token_soup_never_panics(tokens in prop::collection::vec(token(), 0..40)) {
        let source = tokens.join(" ");
        if let Ok(expr) = Expr::compile(&source, &ENV) {
            let _ = expr.eval(&scope(), Budget::INLINE);
        }
    }

    #[test]
    fn any_text_never_panics(source in any::<String>()) {
        let _ = Expr::compile(&source, &ENV);
    }

    /// An order that rounds is none, and sorting by it panics.
    #[test]
    fn sorting_mixed_numbers_is_a_total_order(near in prop::collection::vec((-3_i64..4, any::<bool>()), 0..60)) {
        let base = 9_007_199_254_740_992_i64;
        let number = |(offset, is_float): &(i64, bool)| {
            if *is_float { format!("{}.0", base + offset) } else { (base + offset).to_string() }
        };
        let list: Vec<String> = near.iter().map(number).collect();
        let expr = Expr::compile(&format!("let s = sort([{}]); all(1..len(s) - 1, s[# - 1] <= s[#])", list.join(",")), &ENV);
        prop_assert_eq!(expr.unwrap().eval(&scope(), Budget::WORKER), Ok(serde_json::Value::Bool(true)));
    }

    /// Arithmetic against a second, much simpler evaluator: plain recursion over a tree.
    #[test]
    fn arithmetic_agrees_with_plain_recursion(tree in arithmetic()) {
        let expr = Expr::compile(&tree.text(), &ENV).unwrap();
        prop_assert_eq!(expr.eval(&scope(), Budget::WORKER), Ok(serde_json::Value::from(tree.value())));
    }
}

#[derive(Clone, Debug)]
enum Tree {
    Leaf(i32),
    Node(Box<Tree>, char, Box<Tree>),
}

impl Tree {
    /// Fully bracketed inside, so that it says nothing about precedence but everything about values.
    fn text(&self) -> String {
        match self {
            Self::Leaf(leaf) => leaf.to_string(),
            Self::Node(left, op, right) => format!("({} {op} {})", left.text(), right.text()),
        }
    }

    fn value(&self) -> i64 {
        match self {
            Self::Leaf(leaf) => i64::from(*leaf),
            Self::Node(left, '+', right) => left.value() + right.value(),
            Self::Node(left, '-', right) => left.value() - right.value(),
            Self::Node(left, _, right) => left.value() * right.value(),
        }
    }
}

fn arithmetic() -> impl Strategy<Value = Tree> {
    let leaf = (-20_i32..20).prop_map(Tree::Leaf);
    leaf.prop_recursive(5, 24, 2, |inner| {
        (inner.clone(), prop::sample::select(vec!['+', '-', '*']), inner)
            .prop_map(|(left, op, right)| Tree::Node(Box::new(left), op, Box::new(right)))
    })
}
