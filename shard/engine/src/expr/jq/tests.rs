//! jq: what filters give, what they are refused for, what hostile text does to the compiler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Env, EvalError, JqRunner, NoJq, OwnedScope, Visibility};
use super::{Jq, run_unbounded};

fn visibility(id: &str) -> Visibility {
    match id {
        "fetch" | "list-all" => Visibility::Visible,
        "after" => Visibility::TooLate { reason: "it runs after this step".to_owned() },
        "fetsh" => Visibility::Unknown { suggestion: Some("fetch".to_owned()) },
        _ => Visibility::Unknown { suggestion: None },
    }
}

const ENV: Env<'static> = Env { step: &visibility, in_loop: true, has_data: false };
const DATA_ENV: Env<'static> = Env { step: &visibility, in_loop: false, has_data: true };

/// Runs in this thread: the filters of these tests end by themselves.
struct Here;

impl JqRunner for Here {
    fn run(&self, filter: &str, input: &Value) -> Result<Vec<Value>, EvalError> {
        run_unbounded(filter, input)
    }
}

fn input() -> Value {
    json!({"a": 1, "b": [3, 1, 2], "s": "x,y", "o": {"k": "v", "n": null}, "users": [
        {"name": "Ann", "age": 30, "team": "r"}, {"name": "Bob", "age": 25, "team": "b"},
        {"name": "Cid", "age": 35, "team": "r"}]})
}

/// One case a line: a filter, ` => `, the list of its outputs as JSON.
fn check(table: &str) {
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (filter, expected) = line.rsplit_once(" => ").unwrap();
        Jq::compile(filter, &DATA_ENV).unwrap_or_else(|problems| panic!("{filter}: {problems:?}"));
        let expected: Value = serde_json::from_str(expected).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(run_unbounded(filter, &input()).map(Value::Array), Ok(expected), "{filter}");
    }
}

#[test]
fn filters_of_everyday() {
    check(
        r#"
        . | .a => [1]
        .b[] => [3,1,2]
        .b | sort | first => [1]
        [.users[] | select(.age > 26) | .name] => [["Ann","Cid"]]
        .users | map(.age) | add => [90]
        .users | group_by(.team) | map({team: .[0].team, n: length}) => [[{"team":"b","n":1},{"team":"r","n":2}]]
        .users | sort_by(.age) | .[0].name => ["Bob"]
        .users | max_by(.age).name => ["Cid"]
        .missing // "default" => ["default"]
        .missing.deeper => [null]
        .o | to_entries => [[{"key":"k","value":"v"},{"key":"n","value":null}]]
        .o | with_entries(.key |= ascii_upcase) => [{"K":"v","N":null}]
        .s | split(",") => [["x","y"]]
        .s | test("^x") => [true]
        .s | gsub(","; "-") => ["x-y"]
        "a=\(.a) \("x" + "y")" => ["a=1 xy"]
        if .a == 1 then "one" else "other" end => ["one"]
        reduce .b[] as $x (0; . + $x) => [6]
        [foreach .b[] as $x (0; . + $x)] => [[3,4,6]]
        [limit(3; repeat(1))] => [[1,1,1]]
        first(range(10; 20)) => [10]
        try error("no") catch . => ["no"]
        [.b[] as $x | $x * 2] => [[6,2,4]]
        . as {a: $a, b: [$x]} | [$a, $x] => [[1,3]]
        def f(x): x * 2; f(.a) => [2]
        [.. | numbers] | length => [7]
        .a |= . + 1 | .a => [2]
        .b[1] = 9 | .b => [[3,9,2]]
        del(.users, .o, .s) => [{"a":1,"b":[3,1,2]}]
        [paths] | length => [22]
        .users | map(has("age")) | all => [true]
        @base64 "\(.s)" => ["eCx5"]
        .s | @uri => ["x%2Cy"]
        .b | tojson | fromjson => [[3,1,2]]
        [.b[] | tostring] | join("") => ["312"]
        "2024-01-01T00:00:00Z" | fromdateiso8601 | todateiso8601 => ["2024-01-01T00:00:00Z"]
        .b[1:] => [[1,2]]
        .b[-1] => [2]
        [.b | indices(1)] => [[[1]]]
        [.b, [4]] | add => [[3,1,2,4]]
        .b - [1] => [[3,2]]
        .input_schema? // 1 => [1]
    "#,
    );
}

#[test]
fn what_jaq_lacked_is_there() {
    check(
        r#"
        IN(.b[]; 1, 7) => [true]
        .b[] | IN(1, 2) => [false,true,true]
        [.users[] | select(.name | IN("Ann", "Cid"))] | length => [2]
        INDEX(.users[]; .name) | keys => [["Ann","Bob","Cid"]]
        .users | INDEX(.age) | .["30"].name => ["Ann"]
        [{"a":[1,{"b":2}]} | tostream] => [[[["a",0],1],[["a",1,"b"],2],[["a",1,"b"]],[["a",1]],[["a"]]]]
        [1 | tostream] => [[[[],1]]]
        [[] | tostream] => [[[[],[]]]]
        . == fromstream(tostream) => [true]
        [1 | truncate_stream([[0], 1], [[1, 0], 2], [[1, 0]], [[1]])] => [[[[0],2],[[0]]]]
        [1, "a\"b", null, true] | @csv => ["1,\"a\"\"b\",,true"]
        [1, "a\tb\\", null, false] | @tsv => ["1\ta\\tb\\\\\t\tfalse"]
        ["a", null, 1, true] | join("-") => ["a--1-true"]
        [] | join("-") => [""]
        [{"name": "a", "v": 1}, {"k": 2, "value": null}] | from_entries => [{"a":1,"2":null}]
        null | setpath(["a", 1, "b"]; 5) => [{"a":[null,{"b":5}]}]
        {"a": 1} | setpath(["a"]; 2) => [{"a":2}]
        del(.b[0, 2]) | .b => [[1]]
        del(.b[0], .b[0]) | .b => [[1,2]]
        del(.b[9], .no.such, .a.b?) == . => [true]
        1 | toarray => [[1]]
        65 | ascii => ["A"]
        [leaf_paths] | length => [15]
        "xax" | trimstr("x") => ["a"]
    "#,
    );
}

#[test]
fn assigning_makes_what_is_missing() {
    check(
        r#"
        null | .a = 1 => [{"a":1}]
        {} | .a.b.c = 1 => [{"a":{"b":{"c":1}}}]
        {} | .a["b"] += 2 => [{"a":{"b":2}}]
        {} | .a[1].b |= 5 => [{"a":[null,{"b":5}]}]
        null | .[2] = 1 => [[null,null,1]]
        [0] | .[2] = 1 => [[0,null,1]]
        [0, 1] | .[-1] = 9 => [[0,9]]
        {} | .a //= 3 => [{"a":3}]
        {} | (.a | .b) = 1 => [{"a":{"b":1}}]
        {} | (.a, .b.c) = 1 => [{"a":1,"b":{"c":1}}]
        reduce ("x", "y", "x") as $k (null; .[$k] += 1) => [{"x":2,"y":1}]
        reduce ("x", "y") as $k ({}; .n[$k] |= 1) => [{"n":{"x":1,"y":1}}]
        {"k": "z", "o": {"z": 1}} | .o[.k] = 2 => [{"k":"z","o":{"z":2}}]
        {"k": "z", "o": {"z": {}}} | .o[.k].n = 2 => [{"k":"z","o":{"z":{"n":2}}}]
        [{"a": 1}, {}] | .[].b = 2 => [[{"a":1,"b":2},{"b":2}]]
        {} | [.[]?, "\(.a.b = 1)"] => [["{\"a\":{\"b\":1}}"]]
        def set(f): .x.y = f; {} | set(4) => [{"x":{"y":4}}]
        {"a": [1, 2]} | .a[1:] = [9, 9] => [{"a":[1,9,9]}]
        {"a": {"b": 1}} | .a.b |= empty => [{"a":{}}]
        {"a": null} | .a.b? = 1 => [{"a":{"b":1}}]
    "#,
    );
}

#[test]
fn known_differences_from_jq_stay_known() {
    let refused = |filter: &str, input: Value| match run_unbounded(filter, &input) {
        Err(EvalError::Failed { message, .. }) => message,
        other => panic!("{filter}: {other:?}"),
    };
    let through_null = "cannot use null as iterable (array or object)";
    assert_eq!(refused(".a[.k].b = 1", json!({"k": "x"})), through_null);
    assert_eq!(refused("getpath([\"a\", \"b\"]) = 1", json!({})), through_null);
    assert!(Jq::compile(". as [$a] ?// $a | $a", &DATA_ENV).is_err());
    assert!(Jq::compile("$__loc__", &DATA_ENV).is_err());
    assert!(Jq::compile("@base32", &DATA_ENV).is_err());
    assert!(Jq::compile(r#""\ud83d\ude00""#, &DATA_ENV).is_err());
}

#[test]
fn numbers_keep_their_digits() {
    let numbers: Value = serde_json::from_str("[12345678901234567890123, 1.10, 1e400, -0.0, 5]").unwrap();
    assert_eq!(run_unbounded(".", &numbers), Ok(vec![numbers.clone()]));
    assert_eq!(run_unbounded(".[0] + 1 | tostring", &numbers), Ok(vec![json!("12345678901234567890124")]));
    check(
        r"
        1 / 2 => [0.5]
        4 / 2 => [2]
        [infinite, nan] | map(isnan) => [[false,true]]
        nan => [null]
        infinite => [1.7976931348623157e+308]
        3.0 => [3.0]
    ",
    );
}

fn problems(source: &str, env: &Env<'_>) -> Vec<(u32, String)> {
    match Jq::compile(source, env) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| (problem.column, problem.message)).collect(),
    }
}

#[test]
fn mistakes_are_found_without_running() {
    let table = [
        ("", 1, "expected term, found the end"),
        (".a |", 5, "expected term, found the end"),
        ("é", 1, "unexpected character 'é'"),
        ("\"é\" | .a.", 10, "expected key, found the end"),
        ("(.a", 1, "`(` is not closed"),
        (".a)", 3, "nothing here is closed by `)`"),
        ("[.a}", 4, "nothing here is closed by `}`"),
        ("\"é\" + \"abc", 7, "the string is not closed"),
        ("if .a then 1", 13, "expected else or end, found the end"),
        ("\"é\" | lenght", 7, "unknown function `lenght`; did you mean `length`?"),
        ("foo(.a)", 1, "unknown function `foo`"),
        ("map", 1, "`map` does not take 0 arguments; it takes 1"),
        (". | $x", 5, "unknown variable `$x`"),
        ("now", 1, "`now` is not available: it depends on the clock"),
        ("$ENV.PATH", 1, "`$ENV` is not available: it reads the environment of the process"),
        ("env", 1, "`env` is not available: it reads the environment of the process"),
        ("debug", 1, "`debug` is not available: it writes to the log of the process"),
        ("debug(1)", 1, "`debug` is not available: it writes to the log of the process"),
        ("halt_error", 1, "`halt_error` is not available: it ends the process; use `error`"),
        (
            "inputs",
            1,
            "`inputs` is not available: it reads other inputs, and there is only one; for the params write `.inputs`",
        ),
        (
            "0 | localtime",
            5,
            "`localtime` is not available: it depends on the time zone of the machine; use `gmtime`",
        ),
        ("include \"x\"; .", 1, "a filter has no modules"),
        ("import \"x\" as x; x::f", 1, "a filter has no modules"),
    ];
    for (source, column, message) in table {
        assert_eq!(problems(source, &DATA_ENV), [(column, message.to_owned())], "{source}");
    }
    let all: Vec<u32> = problems("foo | now | $x", &DATA_ENV).into_iter().map(|(column, _)| column).collect();
    assert_eq!(all, [1, 7, 13]);
}

#[test]
fn roots_and_steps_at_the_start_are_checked() {
    let table = [
        (".fetch.body", 1, "unknown name `fetch`; the input has steps, inputs, workflow, context, loop"),
        (".steps.fetsh.body[]", 7, "there is no step 'fetsh'; did you mean 'fetch'?"),
        (".steps[\"fetsh\"].body", 8, "there is no step 'fetsh'; did you mean 'fetch'?"),
        ("[.steps.nope]", 8, "there is no step 'nope'"),
        (".steps.after", 7, "step 'after' cannot have finished by then: it runs after this step"),
        (".data.x", 1, "`data` exists only where an action was given `data`"),
    ];
    for (source, column, message) in table {
        assert_eq!(problems(source, &ENV), [(column, message.to_owned())], "{source}");
        assert!(problems(source, &DATA_ENV).is_empty(), "{source}");
    }
    for fine in [".steps[\"list-all\"][]", ".inputs.a", ".loop.item", ".steps", ".", "..", ".context | .nope"]
    {
        assert!(problems(fine, &ENV).is_empty(), "{fine}");
    }
    assert!(Jq::compile(".inputs", &ENV).unwrap().references().all_steps);
    assert!(!Jq::compile(".inputs", &DATA_ENV).unwrap().references().all_steps);
}

fn scope() -> OwnedScope {
    let steps = [("fetch", json!({"status": 200, "output": "own"})), ("list-all", json!([1, 2]))];
    OwnedScope {
        steps: steps.map(|(id, output)| (Arc::from(id), Arc::new(output))).into_iter().collect(),
        inputs: Arc::new(json!({"n": 5})),
        workflow: Arc::new(json!({"run_id": "r"})),
        context: Arc::new(json!({"intent": "i"})),
        item: Some((Arc::new(json!("it")), 3)),
        data: None,
    }
}

#[test]
fn the_input_holds_the_roots() {
    let eval = |filter: &str| Jq::compile(filter, &ENV).unwrap().eval(&scope(), &Here);
    assert_eq!(
        eval("[.inputs.n, .workflow.run_id, .context.intent, .loop.index, .loop.item]"),
        Ok(json!([5, "r", "i", 3, "it"]))
    );
    assert_eq!(eval(".steps.fetch.status"), Ok(json!(200)));
    assert_eq!(eval(".steps.fetch.output.status"), Ok(json!(200)));
    assert_eq!(eval(".steps[\"list-all\"].output"), Ok(json!([1, 2])));
    assert_eq!(eval(".steps[\"list-all\"]"), Ok(json!([1, 2])));
    assert_eq!(eval(".steps[\"list-all\"][]"), Ok(json!([1, 2])));
    assert_eq!(eval(".inputs | empty"), Ok(Value::Null));
    let with_data = OwnedScope { data: Some(Arc::new(json!({"k": [1]}))), ..scope() };
    let jq = Jq::compile(".k[]", &DATA_ENV).unwrap();
    assert_eq!(jq.outputs(&with_data, &Here), Ok(vec![json!(1)]));
    assert_eq!(jq.eval(&with_data, &Here), Ok(json!(1)));
    assert_eq!(jq.eval(&with_data, &NoJq), Err(EvalError::NeedsWorker));
}

#[test]
fn an_input_too_large_is_refused() {
    let large = OwnedScope { inputs: Arc::new(json!("x".repeat(super::INPUT_BYTES_MAX))), ..scope() };
    let outcome = Jq::compile(".inputs", &ENV).unwrap().eval(&large, &Here);
    assert_eq!(outcome, Err(EvalError::failed("what the filter could read is over 16 MiB; give it `data`")));
}

#[test]
fn errors_of_filters_are_told() {
    let message = |filter: &str| match run_unbounded(filter, &input()) {
        Err(EvalError::Failed { message, .. }) => message,
        other => panic!("{filter}: {other:?}"),
    };
    assert_eq!(message("error(\"plain\")"), "plain");
    assert_eq!(message("error({code: 1})"), r#"{"code":1}"#);
    assert_eq!(message(".a.b"), r#"cannot index 1 with "b""#);
    assert_eq!(message("error(\"é\" * 9999)").chars().count(), 500);
    assert_eq!(message("reduce range(200) as $i (0; [.])"), "the output nests deeper than 100");
    assert_eq!(message("{(1): 2}"), "an object's key is a string, not 1");
}

/// A tenth of a second is meant; a debug build on a busy machine gets more.
const LONG: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

#[test]
fn hostile_text_neither_aborts_nor_stalls_the_compiler() {
    let long_chains = [
        ".a".repeat(1900),
        ".a".repeat(1900) + "=1",
        ".a=".repeat(950) + "1",
        "(.a,".repeat(60) + ".a" + &")".repeat(60) + "|=1",
        "1".to_owned() + &"|1".repeat(990),
        "1".to_owned() + &",1".repeat(990),
        "1".to_owned() + &"+1".repeat(990),
        "1".to_owned() + &"//1".repeat(990),
        "1".to_owned() + &"=1".repeat(990),
        "1".to_owned() + &" and 1".repeat(990),
        "1 as $x|".repeat(450) + "1",
        ".".to_owned() + &"[0]".repeat(600),
        ".".to_owned() + &"?".repeat(1900),
        "-".to_owned() + &" -".repeat(1900) + "1",
        "try ".repeat(1900) + "1",
        "if ".repeat(600) + "1",
        "if 1 then ".repeat(300) + "1" + &" end".repeat(300),
        "if 1 then 1 else ".repeat(300) + "1" + &" end".repeat(300),
        "def f: ".repeat(300) + "1" + &"; f".repeat(300),
        "def f: 1; ".repeat(350) + "f",
        "reduce ".repeat(900) + "1",
        "label $x|".repeat(600) + "1",
        "1 as [".repeat(60) + "$x" + &"]".repeat(60) + "|1",
        "@json ".repeat(1900),
        ". ".repeat(1900),
        "[1,".repeat(63) + "1" + &"]".repeat(63),
        "\"\\(".repeat(32) + "1" + &")\"".repeat(32),
    ];
    let refused = [
        ("(".repeat(1000) + "1" + &")".repeat(1000), "nests deeper"),
        ("[".repeat(1000) + "1" + &"]".repeat(1000), "nests deeper"),
        ("{a:".repeat(1000) + "1" + &"}".repeat(1000), "nests deeper"),
        ("\"\\(".repeat(1000) + "1" + &")\"".repeat(1000), "nests deeper"),
        (".a".repeat(7000), "more than 2000 tokens"),
        ("1+".repeat(7000), "more than 2000 tokens"),
        ("1+".repeat(9000), "longer than"),
        // Comments that go on in the next line must not hide what opens after them.
        ("# \\\n\"\n".to_owned() + &"(".repeat(1000) + "# \"", "nests deeper"),
        ("# \\\\\n\"\" | ".to_owned() + &"(".repeat(1000), "nests deeper"),
        ("\"\\\"\" | ".to_owned() + &"(".repeat(1000), "nests deeper"),
        ("\"\\u00\" | ".to_owned() + &"(".repeat(1000), "nests deeper"),
    ];
    for (source, part) in &refused {
        let started = Instant::now();
        let found = problems(source, &DATA_ENV);
        assert!(found.iter().any(|(_, message)| message.contains(part)), "{source:.40}: {found:?}");
        assert!(started.elapsed() < LONG, "{source:.40} took {:?}", started.elapsed());
    }
    for source in &long_chains {
        let started = Instant::now();
        let found = problems(source, &DATA_ENV);
        assert!(
            found.iter().all(|(_, message)| !message.contains("cannot be parsed")),
            "{source:.40}: {found:?}"
        );
        assert!(started.elapsed() < LONG, "{source:.40} took {:?}", started.elapsed());
    }
}

/// What hangs or aborts when it runs still compiles, quickly: killing it is the runner's part.
#[test]
fn filters_that_never_end_are_only_compiled() {
    for filter in [
        "[range(1e12)]",
        "def f: f; f",
        "last(repeat(1))",
        "until(false;.)",
        "def f:[f];f",
        "\"a\"*1e9",
        "[limit(1e9; repeat(1))]",
        "def f: f | f; f",
        "[combinations(1000)]",
        ".. |= [.]",
    ] {
        assert!(Jq::compile(filter, &DATA_ENV).is_ok(), "{filter}");
    }
}

fn token() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        ".", ".a", "..", "|", ",", "(", ")", "[", "]", "{", "}", ":", ";", "?", "//", "+", "-", "=", "|=",
        "==", "and", "or", "not", "1", "1.5e", "\"x\"", "\"", "\\(", "$x", "$", "@json", "@", "as", "def",
        "f", "f:", "if", "then", "else", "elif", "end", "reduce", "foreach", "try", "catch", "label",
        "break", "import", "include", "#", "\\", "\n", "é", "map", "length", "::", "a::b", "module", "?//",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn token_soup_never_panics(tokens in prop::collection::vec(token(), 0..30), spaced in any::<bool>()) {
        let source = tokens.join(if spaced { " " } else { "" });
        if let Err(problems) = Jq::compile(&source, &ENV) {
            prop_assert!(problems.iter().all(|problem| problem.message != "the filter cannot be parsed"), "{source}");
        }
    }
}
