//! CEL through one door: what an expression comes to, or what is wrong with it and where.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::expr::{OwnedScope, Visibility};

/// Everything that the expressions below read.
fn scope() -> OwnedScope {
    let steps = [
        ("fetch", json!({"status_code": 200, "body": {"items": [{"n": 1}, {"n": 5}], "total": 2.5}})),
        ("fetch-a", json!({"output": "inner", "list": [3, 1, 2]})),
        ("check.true.gate", json!({"choice": "approve"})),
        ("skipped", json!(null)),
        ("text", json!("plain")),
    ];
    OwnedScope {
        steps: steps.into_iter().map(|(id, output)| (id.into(), Arc::new(output))).collect(),
        inputs: Arc::new(json!({
            "name": "Ada", "n": 3, "ratio": 0.5, "big": 18446744073709551615_u64, "tags": ["a", "b"],
            "nested": {"a-b": 1, "nothing": null}, "when": "2024-02-29T12:30:00Z", "empty": "",
        })),
        workflow: Arc::new(json!({"run_id": "r-1", "attempt": 1})),
        context: Arc::new(json!({"intent": "test"})),
        item: Some((Arc::new(json!({"url": "http://x", "name": "main"})), 2)),
        data: None,
    }
}

fn env_step(id: &str) -> Visibility {
    match id {
        "later" => Visibility::TooLate { reason: "it runs after this step".into() },
        "fetch" | "fetch-a" | "check.true.gate" | "skipped" | "text" | "pending" => Visibility::Visible,
        "fetc" => Visibility::Unknown { suggestion: Some("fetch".into()) },
        _ => Visibility::Unknown { suggestion: None },
    }
}

fn compile(source: &str) -> Result<Cel, Vec<ExprProblem>> {
    Cel::compile(source, &Env { step: &env_step, in_loop: true, has_data: false })
}

/// `source` evaluates to `expect`.
fn gives(source: &str, expect: Value) {
    let cel = compile(source).unwrap_or_else(|problems| panic!("{source}: {problems:?}"));
    let value = cel.eval(&scope(), Budget::WORKER).unwrap_or_else(|error| panic!("{source}: {error}"));
    // As text, since arbitrary precision compares numbers by their digits.
    assert_eq!(value.to_string(), expect.to_string(), "{source}");
}

/// `source` compiles, and fails in evaluation at `column` with `part` in its message.
fn fails(source: &str, column: u32, part: &str) {
    let cel = compile(source).unwrap_or_else(|problems| panic!("{source}: {problems:?}"));
    match cel.eval(&scope(), Budget::WORKER) {
        Err(EvalError::Failed { message, column: found }) => {
            assert!(message.contains(part), "{source}: {message}");
            assert_eq!(found, Some(column), "{source}: {message}");
        }
        other => panic!("{source}: {other:?}"),
    }
}

/// `source` does not compile: exactly these problems, by column and part of the message.
fn refused(source: &str, expect: &[(u32, &str)]) {
    let problems = compile(source).expect_err(source);
    let found: Vec<_> = problems.iter().map(|p| (p.column, p.message.as_str())).collect();
    assert_eq!(found.len(), expect.len(), "{source}: {found:?}");
    for ((column, message), (expected, part)) in found.iter().zip(expect) {
        assert_eq!(column, expected, "{source}: {message}");
        assert!(message.contains(part), "{source}: {message}");
    }
}

#[test]
fn reads_the_scope() {
    gives("steps['fetch'].status_code", json!(200));
    gives("steps['fetch'].output.status_code == steps.fetch.status_code", json!(true));
    gives("steps['fetch']['output']['body'].items[1].n", json!(5));
    gives("steps['fetch-a'].output", scope().steps["fetch-a"].as_ref().clone());
    gives("steps['fetch-a'].output.output", json!("inner"));
    gives("steps[inputs.tags[0] == 'a' ? 'fetch-a' : 'x'].output.list", json!([3, 1, 2]));
    gives("steps['check.true.gate'].choice == 'approve'", json!(true));
    gives("steps.`fetch-a`.list.size()", json!(3));
    gives("loop.item.name in ['main', 'develop']", json!(true));
    gives("iter.index + loop['index']", json!(4));
    gives("iter", json!({"item": {"url": "http://x", "name": "main"}, "index": 2}));
    gives("workflow.run_id + ':' + context.intent", json!("r-1:test"));
    gives("size(steps)", json!(5));
    gives("'fetch' in steps && !('pending' in steps)", json!(true));
    gives("steps.exists(id, id.startsWith('fetch'))", json!(true));
    gives("inputs.big", json!(18446744073709551615_u64));
    gives("{'loop': inputs.loop, 'x': 'loop'}.x", json!("loop"));
}

#[test]
fn what_is_not_there_is_null() {
    gives("inputs.notification_url != ''", json!(true));
    gives("inputs.no.such.field", json!(null));
    gives("inputs.tags[7]", json!(null));
    gives("inputs['no']", json!(null));
    gives("steps['skipped'].choice == null", json!(true));
    gives(
        "has(inputs.name) && !has(inputs.no) && has(inputs.nested.nothing) && !has(inputs.no.no)",
        json!(true),
    );
    gives("has(steps.fetch) && !has(steps.pending) && !has(steps['pending'].x)", json!(true));
    gives("has(steps['pending'].output) || has(steps['fetch'].output)", json!(true));
    fails("steps['pending'].x", 7, "'pending' has not run");
    fails("inputs.name.first", 12, "string has no field 'first'");
    fails("inputs.missing + 1", 16, "null_type + int");
    fails("steps['fet' + 'ch2'].a", 6, "'fetch2'");
}

#[test]
fn arithmetic_mixes_as_json_does() {
    for (source, value) in [
        ("0.5 + 1", json!(1.5)),
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("inputs.n * inputs.ratio", json!(1.5)),
        ("7 / 2", json!(3)),
        ("-7 / 2", json!(-3)),
        ("7.0 / 2", json!(3.5)),
        ("inputs.big - 1u", json!(18446744073709551614_u64)),
        ("9223372036854775807 + 1u", json!(9223372036854775808_u64)),
        ("-inputs.n", json!(-3)),
        ("1 == 1.0 && 1u == 1 && 2 > 1.5 && 1.5 < 2u", json!(true)),
        ("9007199254740993 > 9007199254740992.0", json!(true)),
        ("1.0 / 0.0 > 1", json!(true)),
        ("'a' + 'b' + string(1)", json!("ab1")),
        ("[1] + [2, 3]", json!([1, 2, 3])),
        ("'a' < 'b' && [1, [2]] == [1.0, [2u]] && {'a': 1} == {'a': 1.0}", json!(true)),
        ("inputs.n == 'x' || inputs.name == 3 || inputs.tags == null", json!(false)),
        ("1 in [1.0] && 'a' in {'a': 1} && !(2 in [1])", json!(true)),
        ("true ? 1 : 'x'", json!(1)),
        ("{1: 'a', true: 'b', 'c': [null]}", json!({"1": "a", "true": "b", "c": [null]})),
    ] {
        gives(source, value);
    }
    fails("9223372036854775807 * 9223372036854775807 + 1", 21, "overflow");
    fails("1u - 2u", 4, "overflow");
    fails("inputs.n / 0", 10, "division by zero");
    fails("inputs.n % 0", 10, "division by zero");
    fails("inputs.n < inputs.name", 10, "int < string");
    fails("{'a': 1, 'a': 2}", 10, "already");
    let nan = compile("0.0 / 0.0").unwrap().eval(&scope(), Budget::WORKER);
    assert!(matches!(nan, Err(EvalError::Failed { message, .. }) if message.contains("NaN")));
}

#[test]
fn logic_absorbs_errors_and_wants_bools() {
    gives("inputs.n / 0 == 1 || true", json!(true));
    gives("true || inputs.n / 0 == 1", json!(true));
    gives("false && inputs.n / 0 == 1", json!(false));
    gives("inputs.n / 0 == 1 && false", json!(false));
    fails("inputs.n / 0 == 1 || false", 10, "division");
    fails("inputs.n && true", 1, "expected a bool, found int");
    fails("!inputs.name", 2, "expected a bool, found string");
    fails("inputs.name ? 1 : 2", 1, "expected a bool, found string");
}

#[test]
fn comprehensions() {
    for (source, value) in [
        ("inputs.tags.exists(t, inputs.name.contains(t))", json!(true)),
        ("inputs.tags.all(t, t < 'c')", json!(true)),
        ("inputs.tags.exists_one(t, t == 'a')", json!(true)),
        ("steps.fetch.body.items.map(i, i.n * 2)", json!([2, 10])),
        ("steps.fetch.body.items.filter(i, i.n > 1)", json!([{"n": 5}])),
        ("[1, 2, 3].map(i, i > 1, i * i)", json!([4, 9])),
        ("[1, 2, 3].map(i, i > 1, i)", json!([2, 3])),
        ("[[1], [2, 3]].map(a, a.map(b, b + size(a)))", json!([[2], [4, 5]])),
        ("{'x': 1, 'y': 2}.map(k, k)", json!(["x", "y"])),
        ("[1, 2].exists(i, i / 0 == 1 || i == 2)", json!(true)),
        ("[0, 2].exists(i, 2 / i == 1)", json!(true)),
        ("[0, 2].all(i, 2 / i == 3)", json!(false)),
        ("['s'].map(steps, steps)", json!(["s"])),
        ("[].all(x, false) && ![].exists(x, true)", json!(true)),
    ] {
        gives(source, value);
    }
    fails("inputs.name.map(x, x)", 16, "cannot go through string");
    fails("[0].exists(i, 2 / i == 1)", 17, "division");
    fails("[1].filter(i, inputs.n)", 15, "expected a bool");
}

#[test]
fn functions() {
    for (source, value) in [
        ("size('héé') + size([1]) + {'a': 1}.size()", json!(5)),
        ("'abc'.startsWith('a') && 'abc'.endsWith('c') && matches('abc', '^a.c$')", json!(true)),
        ("inputs.name.matches(inputs.tags[0])", json!(true)),
        ("' aB '.trim().lowerAscii() + 'x'.upperAscii()", json!("abX")),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("'héy'.split('')", json!(["h", "é", "y"])),
        ("'a,b'.split(',', -1)", json!(["a", "b"])),
        ("['a', 'b'].join('-') + ['c'].join()", json!("a-bc")),
        ("'aaa'.replace('a', 'b', 2)", json!("bba")),
        ("'héllo'.substring(1, 3) + 'ab'.charAt(1) + 'ab'.charAt(2)", json!("élb")),
        (
            "['hello'.indexOf('l'), 'hello'.indexOf('l', 3), 'hello'.lastIndexOf('l'), 'a'.indexOf('x')]",
            json!([2, 3, 3, -1]),
        ),
        ("[int('12'), int(3.9), int(-3.9), int(timestamp('1970-01-01T00:01:00Z'))]", json!([12, 3, -3, 60])),
        (
            "[uint(3), double('1.5'), bool('true'), string(1.5), string(true)]",
            json!([3, 1.5, true, "1.5", "true"]),
        ),
        (
            "type(1) == int && type('') == string && type(null) == null_type && type(inputs) == map",
            json!(true),
        ),
        (
            "[min(3, 1.5), max([1, 5, 2]), math.least(2, 1), math.abs(-2), math.round(2.5)]",
            json!([1.5, 5, 1, 2, 3.0]),
        ),
        ("string(bytes('hé')) + base64.encode(b'hi') + string(base64.decode('aGk='))", json!("héaGk=hi")),
        ("b'hi'", json!("aGk=")),
        ("timestamp(inputs.when).getDate() == 29 && timestamp(inputs.when).getMonth() == 1", json!(true)),
        ("timestamp(inputs.when).getHours('+02:00')", json!(14)),
        ("timestamp('2024-01-01T00:00:00Z') + duration('1h30m')", json!("2024-01-01T01:30:00Z")),
        ("timestamp('2024-01-01T00:00:01.5Z') - timestamp('2024-01-01T00:00:00Z')", json!("1.5s")),
        ("duration('90m').getHours() == 1 && duration('-1.5s') < duration('0')", json!(true)),
        ("dyn(1) == 1", json!(true)),
    ] {
        gives(source, value);
    }
    fails("int('x')", 4, "cannot convert the string \"x\" to int");
    fails("'abc'.substring(2, 9)", 16, "3 characters");
    fails("'abc'.indexOf('a', 9)", 14, "3 characters");
    fails("size(inputs.n)", 5, "size() wants");
    fails("inputs.name.matches('a' + '(')", 20, "no regular expression");
    fails("timestamp('yesterday')", 10, "RFC 3339");
    // Only what can be written again in RFC 3339 is a time.
    for source in [
        "timestamp('0000-12-31T23:59:59Z')",
        "timestamp('9999-12-31T23:59:59-01:00')",
        "timestamp(253402300800)",
        "timestamp(-62135596801)",
        "timestamp('9999-12-31T23:59:59Z') + duration('1s')",
        "timestamp('0001-01-01T00:00:00Z') - duration('1ns')",
        "duration('320000000000s')",
        "duration('200000000000s') + duration('200000000000s')",
        "duration('-200000000000s') - duration('200000000000s')",
    ] {
        let failed = compile(source).unwrap().eval(&scope(), Budget::WORKER).unwrap_err();
        assert!(failed.to_string().contains("range"), "{source}: {failed}");
    }
}

#[test]
fn problems_have_columns_and_suggestions() {
    refused("input.x == 1", &[(1, "did you mean `inputs`?")]);
    refused("'é' == inputz", &[(8, "did you mean `inputs`?")]);
    refused(
        "steps['fetc'].x && steps.later.y",
        &[(7, "did you mean 'fetch'?"), (26, "it runs after this step")],
    );
    refused("has(steps.nope) || has(steps['nope2'].x)", &[(11, "no step 'nope'"), (30, "no step 'nope2'")]);
    refused("sise(inputs.tags)", &[(5, "did you mean `size`?")]);
    refused("'a'.startswith('b')", &[(15, "did you mean `startsWith`?")]);
    refused("contains('a', 'b')", &[(9, "called as x.contains")]);
    refused("'a'.int()", &[(8, "called as int(x)")]);
    refused("'a'.split()", &[(10, "1 to 2 arguments, not 0")]);
    refused("size()", &[(5, "1 argument, not 0")]);
    refused("inputs.tags.exists(1)", &[(19, "a name and a condition")]);
    refused("1 + 'a'", &[(3, "number + string")]);
    refused("!5", &[(2, "expected a bool, found number")]);
    refused("inputs.a && 'x'", &[(13, "expected a bool, found string")]);
    refused("[1] - [1]", &[(5, "list - list")]);
    refused("-'a'", &[(1, "cannot negate string")]);
    refused("loop.items", &[(6, "did you mean `item`?")]);
    refused("secrets.KEY", &[(1, "${{secrets.KEY}}")]);
    refused("data.x", &[(1, "given `data`")]);
    refused("'a'.matches('(')", &[(13, "no regular expression")]);
    refused("a.b{c: 1}", &[(4, "message")]);
    refused("inputs.a ==", &[(12, "ends too early")]);
    refused("inputs.a == == 1", &[(13, "unexpected `=`")]);
    refused("inputs.a +\n  * 1", &[(14, "unexpected `*`")]);
    refused("while == 1", &[(1, "reserved identifier: while")]);
    refused("9999999999999999999", &[(1, "invalid int literal")]);
    refused("a = 1", &[(3, "unexpected `=`")]);
    let outside = Env { step: &env_step, in_loop: false, has_data: true };
    assert_eq!(Cel::compile("loop.item + data.x", &outside).unwrap_err()[0].column, 1);
    assert!(Cel::compile("data.x", &outside).is_ok());
}

#[test]
fn knows_what_it_reads() {
    let read = |source: &str| compile(source).unwrap().references().clone();
    let names = |source: &str| read(source).steps.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names("steps.text == steps['fetch'].x || steps.fetch.y"), ["fetch", "text"]);
    assert!(!read("steps.fetch.output.steps").all_steps);
    assert!(read("steps[inputs.name].x").all_steps);
    assert!(read("steps.exists(s, s == 'x')").all_steps);
    assert!(read("inputs.steps").steps.is_empty() && !read("inputs.steps").all_steps);
    assert!(!read("['s'].map(steps, steps)").all_steps);
}

#[test]
fn bools_and_branches() {
    assert_eq!(compile("inputs.n > 2").unwrap().eval_bool(&scope(), Budget::INLINE), Ok(true));
    let error = compile("inputs.n").unwrap().eval_bool(&scope(), Budget::INLINE).unwrap_err();
    assert_eq!(error.to_string(), "a condition is a bool, and this is int");
    let names = [json!(true), json!("x"), json!(4), json!(null)].map(|value| branch_name(&value));
    assert_eq!(names, ["true", "x", "4", "null"]);
}
