//! Text made to stall, to exhaust memory or to overflow a stack: each is refused or stopped, on
//! a small stack, within the time and the memory that an expression may take.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::expr::{NESTING_MAX, OwnedScope, SOURCE_BYTES_MAX, TOKENS_MAX, Visibility};

/// Half of what a thread of tokio or of the tests has; it holds the parser and the evaluator in
/// builds without optimisation too.
const STACK_BYTES: usize = 1 << 20;
/// An expression's time; a build without optimisation on a busy machine gets twenty times that.
const TIME_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 100 });

static SCOPE: LazyLock<OwnedScope> = LazyLock::new(|| {
    let inputs = json!({
        "a": 1, "text": "a".repeat(100_000), "list": (0..30).collect::<Vec<_>>(),
        "long": (0..10_000).collect::<Vec<_>>(),
    });
    OwnedScope { inputs: inputs.into(), ..OwnedScope::default() }
});

fn compile(source: &str) -> Result<Cel, Vec<ExprProblem>> {
    let visible = |_: &str| Visibility::Visible;
    Cel::compile(source, &Env { step: &visible, in_loop: true, has_data: true })
}

/// What `source` came to, on a small stack and in time.
fn run(source: String) -> Result<Value, String> {
    let work = move || {
        // The crate builds its tables once per process; that is not this expression's time.
        let _ = compile("1 + inputs.a").map(|cel| cel.eval(&*SCOPE, Budget::INLINE));
        let started = Instant::now();
        let outcome = match compile(&source) {
            Ok(cel) => cel.eval(&*SCOPE, Budget::WORKER).map_err(|error| error.to_string()),
            Err(problems) => Err(format!("column {}: {}", problems[0].column, problems[0].message)),
        };
        let taken = started.elapsed();
        assert!(taken < TIME_MAX, "{taken:?}: {source:.80}");
        outcome
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread");
    thread.join().expect("no panic")
}

/// `source` is refused or stopped, with `part` in the message.
fn stopped(source: impl Into<String>, part: &str) {
    let source = source.into();
    match run(source.clone()) {
        Err(message) => assert!(message.contains(part), "{source:.80}: {message}"),
        Ok(value) => panic!("{source:.80} gave {:.80}", value.to_string()),
    }
}

#[test]
fn long_chains_are_refused() {
    let chain = |start: &str, link: &str, times: usize| format!("{start}{}", link.repeat(times));
    stopped(chain("1", "+1", 7_000), "tokens");
    stopped(chain("inputs", ".a", 7_000), "tokens");
    stopped(chain("inputs", ".a", 10_000), "bytes");
    stopped(chain("1", "+1", 10_000), "bytes");
    for (start, link) in
        [("1", "+1"), ("1", "*-1"), ("1", "==1"), ("inputs", ".a"), ("inputs", "[0]"), ("inputs", ".size()")]
    {
        stopped(chain(start, link, 257), "in a row");
    }
    stopped(chain("inputs.list", ".map(x, x)", 150), "in a row");
    stopped(format!("{}1", "true?1:".repeat(33)), "nested more than 32");
    stopped(format!("{}1", "true?".repeat(300)), "nested more than 32");
    stopped("&".repeat(3_000), "unexpected `&`");
    stopped("&&".repeat(3_000), "tokens");
}

#[test]
fn deep_nesting_is_refused() {
    for (open, inner, close) in [
        ("(", "1", ")"),
        ("[", "", "]"),
        ("{1:", "1", "}"),
        ("size(", "1", ")"),
        ("-(", "1", ")"),
        ("!(", "true", ")"),
    ] {
        for depth in [33, NESTING_MAX] {
            stopped(format!("{}{inner}{}", open.repeat(depth), close.repeat(depth)), "nested more than 32");
        }
        stopped(format!("{}{inner}{}", open.repeat(1_000), close.repeat(1_000)), "nested more than 64");
        stopped(open.repeat(1_000), "nested more than 64");
    }
    stopped(format!("{}1{}", "(true?(".repeat(16), "):1)".repeat(16)), "nested more than 32");
}

#[test]
fn what_is_just_within_bounds_runs_on_a_small_stack() {
    let nest = |open: &str, inner: &str, close: &str, depth: usize| {
        run(format!("{}{inner}{}", open.repeat(depth), close.repeat(depth)))
    };
    assert_eq!(run(format!("1{}", "+1".repeat(256))), Ok(json!(257)));
    assert_eq!(run(format!("inputs{}", ".x".repeat(256))), Ok(json!(null)));
    assert_eq!(run(format!("true{}", "&&true".repeat(900))), Ok(json!(true)));
    assert_eq!(run(format!("{}true", "!".repeat(255))), Ok(json!(false)));
    assert_eq!(nest("(", "1", ")", 32), Ok(json!(1)));
    assert_eq!(nest("!(", "true", ")", 32), Ok(json!(true)));
    assert_eq!(nest("(1+", "1", ")", 32), Ok(json!(33)));
    assert_eq!(nest("(", "1", "+1)", 32), Ok(json!(33)));
    assert_eq!(nest("(true?", "1", ":1)", 16), Ok(json!(1)));
    assert_eq!(nest("(false||true&&1==1+2*", "0", ")", 0), Ok(json!(0)));
    assert_eq!(nest("(true?1+2*-dyn(", "1", "):1)", 10).map(|value| value.is_number()), Ok(true));
    assert_eq!(nest("[1].map(x,", "1", ")[0]", 31), Ok(json!(1)));
    assert_eq!(nest("[0,", "0", "]", 32).map(|value| value.is_array()), Ok(true));
}

#[test]
fn costly_evaluations_are_stopped() {
    let over = "costs more";
    let product = |body: &str, levels: usize| {
        (0..levels).fold(body.to_owned(), |inner, level| format!("inputs.list.map(v{level}, {inner})"))
    };
    stopped(product("1", 5), over);
    stopped(product("inputs.text + 'x'", 3), over);
    stopped("inputs.long.map(x, inputs.long.exists(y, y == -x - 1))", over);
    stopped("inputs.long.filter(x, x in inputs.long)", over);
    stopped("inputs.list.map(x, inputs.text + inputs.text).map(y, y + y)", over);
    stopped("inputs.text.replace('', inputs.text)", over);
    stopped("inputs.text.replace('a', inputs.text)", over);
    stopped("inputs.list.map(x, inputs.text.split(''))", over);
    stopped("inputs.long.map(x, inputs.long)", over);
    stopped("inputs.list.map(x, inputs.list.map(y, inputs.text)).map(z, z.join(','))", over);
    // Sharing makes it small in memory, and it is stopped where it would be written out.
    let doubled = (0..25).fold("['x']".to_owned(), |inner, _| format!("[{inner}].map(x, [x, x])"));
    assert_eq!(run(format!("size({doubled})")), Ok(json!(1)));
    stopped(doubled, over);
    stopped(
        (0..25).fold("['x']".to_owned(), |inner, _| format!("{inner}.map(x, [x, x]).map(x, [x, x])")),
        over,
    );
    stopped((0..25).fold("['x']".to_owned(), |inner, _| format!("[{inner}].map(x, [x, x])[0]")), over);
}

#[test]
fn patterns_are_bounded() {
    stopped(r"'a'.matches('((a{100}){100}){100}')", "too large");
    stopped(r"'a'.matches('\\w{200}')", "too large");
    stopped(format!("'a'.matches('{}')", "(".repeat(500)), "regular expression");
    stopped(format!("'a'.matches('{}{}')", "(".repeat(100), ")".repeat(100)), "regular expression");
    stopped(format!("'a'.matches('{}')", "a".repeat(2_000)), "1024 bytes");
    stopped("inputs.list.map(x, inputs.text.matches('(a|aa|aaa|.)*.{50}b'))", "costs more");
    stopped("inputs.long.map(x, 'a'.matches('a' + string(x)))", "costs more");
    assert_eq!(run("inputs.text.matches('^(a+)+$')".into()), Ok(json!(true)));
    assert_eq!(run("inputs.long.all(x, 'a'.matches('a' + 'b*'))".into()), Ok(json!(true)));
}

#[test]
fn what_the_parser_would_lex_otherwise_never_reaches_it() {
    let deep = ".a".repeat(900);
    stopped(format!(r"'\q{deep}'"), "not an escape");
    stopped(format!("'a\n{deep}'"), "on its line");
    stopped(format!("'''a{deep}"), "never closed");
    stopped(format!("`a{deep}"), "never closed");
    stopped("inputs\u{a0}.a", "unexpected");
    stopped("\u{0}", "unexpected");
    stopped("inputs.é", "unexpected `é`");
}

/// Tokens that make expressions, nearly expressions, and neither.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        ":",
        "?",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        "in",
        "&&",
        "||",
        "1",
        "1u",
        "1.5",
        "'a'",
        "\"b\"",
        "'''c'''",
        "r'd'",
        "b'e'",
        "`f`",
        "inputs",
        "steps",
        "iter",
        "loop",
        "x",
        "a",
        "['a']",
        "[0]",
        ".a",
        ".map(x, x)",
        ".exists(x, x == 1)",
        ".filter(x, x)",
        "has(inputs.a)",
        "has(",
        "size(",
        ".size()",
        "true",
        "null",
        "type",
        "//",
        "\n",
        " ",
        "é",
        "\\",
        "@",
        "0x",
        "1e9",
        "while",
        "a{b: 1}",
        ".all(",
        ".exists_one(x, ",
        ".map(1, 2)",
        ".map(x, y, z)",
        "''",
        "\"",
        "'",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// Expressions with all brackets in place, though often of the wrong types; one a line, `$` for
/// an expression inside.
const FORMS: &str = "$ + $
$ - $
$ * $
$ / $
$ % $
$ == $
$ < $
$ in $
$ && $
$ || $
!($)
-($)
$ ? $ : $
[$, $]
{$: $}
($).map(x, $)
($).map(x, $, $)
($).filter(x, $)
($).exists(x, $)
($).all(x, $)
($).exists_one(x, $)
($)[$]
($).a
has(($).a)
size($)
($).split($)
($).replace($, $)
($).matches($)
($).substring($)
($).join($)
string($)
int($)
bytes($)
type($)
min($, $)
timestamp($)
duration($)
dyn($).b
math.abs($)";

/// Forms that are refused; few, so that most expressions are also evaluated.
const BROKEN: &str = "f($)
a{b: $}
$ $
$ ? $
$ +
[$
($).map($, $)
nope
has($)";

const LEAVES: &str = "1 2.5 3u 'a' b'x' true null inputs.list inputs.text iter loop.index steps steps.a.output.b x \
    dyn(1) inputs.a inputs.gone [] {} int -1 ''";

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(LEAVES.split_whitespace().collect::<Vec<_>>());
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 3, |inner| {
        let form = prop_oneof![
            60 => prop::sample::select(FORMS.lines().collect::<Vec<_>>()),
            1 => prop::sample::select(BROKEN.lines().collect::<Vec<_>>()),
        ];
        (form, prop::collection::vec(inner, 3)).prop_map(|(form, parts)| {
            let mut parts = parts.iter();
            let mut fill =
                |c| if c == '$' { parts.next().cloned().unwrap_or_default() } else { String::from(c) };
            form.chars().map(&mut fill).collect()
        })
    })
}

/// What must hold of any text at all.
fn check_any(source: &str) {
    match compile(source) {
        Ok(cel) => {
            assert!(source.len() <= SOURCE_BYTES_MAX);
            let _ = cel.eval(&*SCOPE, Budget { steps: 2_000, bytes: 64 * 1024 });
        }
        Err(problems) => {
            let end = source.chars().count() as u32 + 1;
            assert!(!problems.is_empty(), "{source}");
            for problem in problems {
                assert!((1..=end).contains(&problem.column), "{source:?}: {problem:?}");
                assert!(
                    !problem.message.is_empty() && problem.message.len() < 400,
                    "{source:?}: {problem:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_soup_of_tokens_panics(source in soup()) {
        check_any(&source);
    }

    #[test]
    fn no_expression_panics(source in expression()) {
        check_any(&format!("[1].map(x, {source})"));
    }

    #[test]
    fn no_text_panics(source in "\\PC{0,60}|[ -~\\n]{0,60}") {
        check_any(&source);
    }

    #[test]
    fn sums_are_what_they_are(terms in prop::collection::vec(-1_000_i64..1_000, 1..50)) {
        let source = terms.iter().map(|term| format!("({term})")).collect::<Vec<_>>().join(" + ");
        let value = compile(&source).map(|cel| cel.eval(&*SCOPE, Budget::INLINE));
        prop_assert_eq!(value, Ok(Ok(json!(terms.iter().sum::<i64>()))));
    }
}

#[test]
fn the_number_of_tokens_is_bounded() {
    let list = |items: usize| format!("size([{}1])", "1,".repeat(items));
    assert_eq!(run(list(TOKENS_MAX / 2 - 10)), Ok(json!(TOKENS_MAX / 2 - 9)));
    stopped(list(TOKENS_MAX), "tokens");
}
