//! The language against tables: what each expression gives, what each mistake is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{Budget, Env, EvalError, OwnedScope, Visibility};
use super::Expr;

fn visibility(id: &str) -> Visibility {
    match id {
        "fetch-data" | "fetch" | "list" | "later-done" | "named" => Visibility::Visible,
        "after" => Visibility::TooLate { reason: "it runs after this step".to_owned() },
        "fetch-dato" => Visibility::Unknown { suggestion: Some("fetch-data".to_owned()) },
        _ => Visibility::Unknown { suggestion: None },
    }
}

pub(super) const ENV: Env<'static> = Env { step: &visibility, in_loop: true, has_data: true };

pub(super) fn scope() -> OwnedScope {
    let steps = [
        (
            "fetch-data",
            json!({"body": {"items": [{"score": 3, "n": "a"}, {"score": 9, "n": "b"}, {"n": "c", "score": 7.5}]}}),
        ),
        ("fetch", json!({"status_code": 200, "output": "own field", "nothing": null})),
        ("list", json!([1, 2, 3])),
        ("named", json!("fetch")),
    ];
    OwnedScope {
        steps: steps
            .map(|(id, output)| (Arc::from(id), Arc::new(output)))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        inputs: Arc::new(json!({
            "threshold": 7, "name": "Ann", "tags": ["x", "y", "x"], "empty": [], "nested": {"a": {"b": [10, 20]}},
            "big": big(), "flag": true, "nil": null, "score": 1000,
            "users": [{"name": "Ann", "age": 30, "team": "r"}, {"name": "Bob", "age": 25, "team": "b"},
                      {"name": "Cid", "age": 35, "team": "r"}]
        })),
        workflow: Arc::new(json!({"run_id": "r-1"})),
        context: Arc::new(json!({"intent": "test"})),
        item: Some((Arc::new(json!({"id": 4})), 2)),
        data: Some(Arc::new(json!({"k": "v"}))),
    }
}

/// Digits that no machine number keeps.
fn big() -> Value {
    serde_json::from_str("123456789012345678901234567890.10").unwrap()
}

fn eval(source: &str) -> Result<Value, EvalError> {
    let expr = Expr::compile(source, &ENV).unwrap_or_else(|problems| panic!("{source}: {problems:?}"));
    expr.eval(&scope(), Budget::WORKER)
}

/// One case a line: an expression, ` => `, its value as JSON.
fn check(table: &str) {
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (source, expected) = line.rsplit_once(" => ").unwrap();
        let expected: Value = serde_json::from_str(expected).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(eval(source), Ok(expected), "{source}");
    }
}

#[test]
fn the_expression_of_the_examples_works() {
    check(
        r#"filter(steps['fetch-data'].body.items, {.score >= inputs.threshold}) => [{"n":"b","score":9},{"n":"c","score":7.5}]"#,
    );
}

#[test]
fn literals_and_operators() {
    check(
        r##"
        1 => 1
        0xff + 0b11 + 0o7 => 265
        1_000 => 1000
        1.5e2 => 150
        .5 => 0.5
        'it\'s' => "it's"
        "a\tb\u00e9\x41\ud83d\ude00" => "a\tbéA😀"
        `raw \n` => "raw \\n"
        nil => null
        [1, 'a', true, nil,] => [1,"a",true,null]
        {a: 1, "b c": 2, 3: 4, ("d" + "e"): 5} => {"a":1,"b c":2,"3":4,"de":5}
        {} => {}
        1 + 2 * 3 => 7
        (1 + 2) * 3 => 9
        7 / 2 => 3.5
        8 / 2 => 4
        7 % 3 => 1
        -7 % 3 => -1
        2 ** 3 ** 2 => 512
        2 ^ 10 => 1024
        -2 ** 2 => -4
        10 - 2 - 3 => 5
        "a" + "b" => "ab"
        1 == 1.0 => true
        1 < 2.5 => true
        "a" < "b" => true
        1 < 2 < 3 => true
        1 < 2 < 2 => false
        [1, {a: 2}] == [1.0, {a: 2}] => true
        {a: 1} == {a: 1, b: 2} => false
        nil == nil => true
        1 == "1" => false
        not false => true
        !true || true => true
        true and not false => true
        !inputs.nil ?? true => false
        not inputs.nil ?? true => false
        false && (1 / 0 == 1) => false
        true or (1 / 0 == 1) => true
        2 in [1, 2] => true
        2 not in [1, 2] => false
        "a" in {a: 1} => true
        "x" in inputs.tags => true
        "hello" contains "ell" => true
        "hello" not contains "ell" => false
        "hello" startsWith "he" => true
        "hello" endsWith "he" => false
        "hello" matches "^h.*o$" => true
        "h1" matches "^\\w\\d$" => true
        "x" matches inputs.name => false
        not ("b" matches "a") => true
        1..4 => [1,2,3,4]
        3..1 => []
        1..2 + 1 => [1,2,3]
        true ? 1 : 2 => 1
        false ? 1 : true ? 3 : 4 => 3
        false ?: true => true
        if 1 > 2 { "a" } else if 2 > 1 { "b" } else { "c" } => "b"
        1 /* one */ + 2 // two => 3
        9223372036854775807 + 1 => 9.223372036854776e+18
        9007199254740993 => 9007199254740993
        9007199254740993 == 9007199254740992.0 => false
        9007199254740993 > 9007199254740992.0 => true
        -1 < -0.5 => true
        9223372036854775807 < 9223372036854775808.0 => true
    "##,
    );
}

#[test]
fn access_and_missing_values() {
    check(
        r#"
        inputs.nested.a.b[0] => 10
        inputs.nested["a"].b[-1] => 20
        inputs["tags"][1:] => ["y","x"]
        inputs.tags[:1] => ["x"]
        inputs.tags[-2:] => ["y","x"]
        inputs.tags[1:99] => ["y","x"]
        "héllo"[1] => "é"
        "héllo"[1:3] => "él"
        inputs.missing => null
        inputs.missing?.deeper.still => null
        inputs.missing?.[0] => null
        inputs.missing ?? "d" => "d"
        inputs.missing.deeper.still ?? "d" => "d"
        inputs.tags[9] ?? "d" => "d"
        nowhere ?? 5 => 5
        nowhere.at.all ?? inputs.nope.nope ?? 6 => 6
        (nowhere.x ?? nil) ?? 7 => 7
        inputs.flag ?? false => true
        inputs.missing ?? 1 + 1 => 2
        inputs.nil?.x => null
        steps['later-done'].x ?? "not yet" => "not yet"
        workflow.run_id => "r-1"
        context.intent => "test"
        loop.item.id + loop.index => 6
        data.k => "v"
        get(inputs, "name") => "Ann"
        get(inputs, "nope", 3) => 3
        get(inputs.tags, 7) => null
        get(inputs.tags, -1) => "x"
        {"a": {"in": 1, "not": 2}}.a.in => 1
    "#,
    );
}

#[test]
fn steps_and_their_output() {
    check(
        r#"
        steps['fetch'].status_code => 200
        steps.fetch.status_code => 200
        steps['fetch'].output.status_code => 200
        steps['fetch'].output.output => "own field"
        steps['list'].output => [1,2,3]
        steps['list'][0] => 1
        sum(steps.list.output) => 6
        steps[steps.named.output].status_code => 200
        let s = steps['fetch']; s.output.status_code => 200
        map(["fetch"], steps[#].output.status_code) => [200]
        keys(steps) => ["fetch","fetch-data","list","named"]
        "fetch" in steps => true
    "#,
    );
}

#[test]
fn numbers_that_are_only_passed_on_keep_their_digits() {
    assert_eq!(eval("inputs.big").unwrap(), big());
    assert_eq!(eval("[inputs.big][0]").unwrap(), big());
    assert_eq!(eval("filter([inputs.big], # > 1)").unwrap(), Value::Array(vec![big()]));
    assert_eq!(eval("toJSON(inputs.big)").unwrap(), json!(big().to_string()));
    assert_eq!(eval("fromJSON('18446744073709551617')").unwrap().to_string(), "18446744073709551617");
}

#[test]
fn predicates() {
    check(
        r##"
        filter(1..6, # % 2 == 0) => [2,4,6]
        filter(inputs.users, {.age > 26}) | map(.name) => ["Ann","Cid"]
        map(inputs.users, {.name}) => ["Ann","Bob","Cid"]
        map(inputs.users, #.age + #index) => [30,26,37]
        map(inputs.users, {who: .name}) => [{"who":"Ann"},{"who":"Bob"},{"who":"Cid"}]
        map(inputs.users, {{who: .name}}) => [{"who":"Ann"},{"who":"Bob"},{"who":"Cid"}]
        map(inputs.users, {.score}) => [null,null,null]
        map(inputs.users, {let a = .age; a * 2}) => [60,50,70]
        map([[1, 2], [3]], map(#, # * 10)) => [[10,20],[30]]
        map(inputs.users, {let u = #; map([1], u.name)}) => [["Ann"],["Bob"],["Cid"]]
        all([1, 2], # > 0) => true
        all([], # > 0) => true
        any([1, 2], # > 1) => true
        none([1, 2], # > 2) => true
        one([1, 2], # > 1) => true
        count([1, 2, 3], # > 1) => 2
        count([true, false, true]) => 2
        sum([1, 2.5]) => 3.5
        sum(inputs.users, .age) => 90
        find(inputs.users, .team == "r").name => "Ann"
        findLast(inputs.users, .team == "r").name => "Cid"
        find([1], # > 5) => null
        findIndex([5, 6], # == 6) => 1
        findLastIndex([6, 6], # == 6) => 1
        groupBy(inputs.users, .team) | keys() => ["b","r"]
        groupBy([1, 2, 3], # % 2) => {"0":[2],"1":[1,3]}
        sortBy(inputs.users, .age) | map(.name) => ["Bob","Ann","Cid"]
        sortBy(inputs.users, .age, "desc") | map(.name) => ["Cid","Ann","Bob"]
        reduce([1, 2, 3], #acc + #) => 6
        reduce([1, 2, 3], #acc + #, 10) => 16
        reduce([], #acc + #, 10) => 10
        reduce(["a", "b"], #acc + string(#index) + #, "") => "0a1b"
        filter({a: 1, b: 2}, # > 1) => [2]
    "##,
    );
}

#[test]
fn functions_of_lists_and_maps() {
    check(
        r#"
        len("héé") => 3
        len(inputs.tags) => 3
        len({a: 1}) => 1
        first(inputs.tags) => "x"
        last([1, 2]) => 2
        first([]) => null
        take([1, 2, 3], 2) => [1,2]
        take([1], 5) => [1]
        reverse([1, 2]) => [2,1]
        sort([3, 1.5, 2]) => [1.5,2,3]
        sort(["b", "a"], "desc") => ["b","a"]
        uniq([1, 1.0, "1", [1], [1]]) => [1,"1",[1]]
        uniq([1152921504606846976, 1152921504606846976.0, -0.0, 0]) => [1152921504606846976,0]
        concat([1], [2], []) => [1,2]
        flatten([1, [2, [3, []]]]) => [1,2,3]
        keys({b: 1, a: 2}) => ["a","b"]
        values({b: 1, a: 2}) => [2,1]
        toPairs({a: 1}) => [["a",1]]
        fromPairs([["a", 1], ["b", 2]]) => {"a":1,"b":2}
        fromPairs(toPairs(inputs.nested)) == inputs.nested => true
        [type(nil), type(1), type(1.5), type("s"), type([]), type({}), type(true)] => ["nil","int","float","string","array","map","bool"]
        let x = 1; let y = x + 1; x + y => 3
        [3, 1, 2] | sort() | reverse() | first() => 3
        "a,b" | split(",") | map(upper(#)) | join("-") => "A-B"
        ("x" | repeat(3)) + "y" => "xxxy"
    "#,
    );
}

#[test]
fn functions_of_numbers_and_strings() {
    check(
        r#"
        abs(-5) => 5
        abs(-1.5) => 1.5
        [ceil(1.2), floor(1.8), round(2.5), round(-2.5)] => [2,1,3,-3]
        [int("42"), int(3.9), int(-3.9)] => [42,3,-3]
        float("1.5") => 1.5
        [min(3, 1, 2), max([3, 1], 5)] => [1,5]
        min([]) => null
        mean([1, 2, 3, 4]) => 2.5
        median([3, 1, 2]) => 2
        median([4, 1, 2, 3]) => 2.5
        [bitand(6, 3), bitor(6, 3), bitxor(6, 3), bitnand(6, 3), bitnot(0), bitshl(1, 4), bitshr(-8, 1), bitushr(-1, 63)] => [2,7,5,4,-1,16,-4,1]
        string(1.5) + string("a") + string([1]) + string(nil) => "1.5a[1]null"
        toJSON({b: [1, "x"], a: nil}) => "{\"a\":null,\"b\":[1,\"x\"]}"
        fromJSON("{\"a\": [1, 2.50]}") => {"a":[1,2.50]}
        toBase64("hé") => "aMOp"
        fromBase64("aMOp") => "hé"
        join(["a", "b"]) => "ab"
        split("a,b,c", ",") => ["a","b","c"]
        split("a,b,c", ",", 2) => ["a","b,c"]
        split("héy", "") => ["h","é","y"]
        split("héy", "", 2) => ["h","éy"]
        splitAfter("a,b", ",") => ["a,","b"]
        splitAfter("a,b,c", ",", 2) => ["a,","b,c"]
        trim("  a ") => "a"
        trim("__a_", "_") => "a"
        trimPrefix("abc", "a") => "bc"
        trimSuffix("abc", "bc") => "a"
        upper("aß") => "ASS"
        lower("ÀB") => "àb"
        replace("aaa", "a", "b") => "bbb"
        replace("aaa", "a", "b", 2) => "bba"
        repeat("ab", 3) => "ababab"
        indexOf("héllo", "l") => 2
        lastIndexOf("héllo", "l") => 3
        indexOf("a", "z") => -1
        hasPrefix("abc", "ab") => true
        hasSuffix("abc", "ab") => false
    "#,
    );
}

#[test]
fn mistakes_of_values_name_the_place() {
    let table = [
        ("inputs.name.first", 13, "string has no field `first`"),
        (
            "inputs.missing.deeper",
            16,
            "nil has no field `deeper`; write `?.deeper` or `??` if it may be missing",
        ),
        ("inputs.tags[9]", 12, "index 9 is out of range: there are 3 elements"),
        ("1 + 'a'", 3, "`+` cannot join int and string"),
        ("1 / 0", 3, "division by zero"),
        ("1 % 0", 3, "the right side of `%` is zero"),
        ("1 < 'a'", 3, "`<` compares numbers or strings, not int and string"),
        ("1 and true", 3, "a condition must be true or false, not int"),
        ("1 ? 2 : 3", 3, "a condition must be true or false, not int"),
        ("filter([1], {#})", 1, "a condition must be true or false, not int"),
        ("map([1], {.x})", 12, "int has no field `x`"),
        ("steps['later-done'].x", 7, "step `later-done` is not done"),
        ("sort([1, 'a'])", 1, "keys to sort by are all numbers or all strings, not int and string"),
        ("sort([nil])", 1, "keys to sort by are all numbers or all strings, not nil and nil"),
        ("reduce([], #acc)", 1, "`reduce` of an empty array needs an initial value as its third argument"),
        ("upper(1)", 1, "expected a string, got int"),
        ("2 ** 5000", 3, "the result is not a finite number"),
        ("'a' in 'abc'", 5, "`in` looks into arrays and maps; for text write `text contains part`"),
    ];
    for (source, column, message) in table {
        let expected = EvalError::Failed { message: message.to_owned(), column: Some(column) };
        assert_eq!(eval(source), Err(expected), "{source}");
    }
}

fn problems(source: &str, env: &Env<'_>) -> Vec<(u32, String)> {
    match Expr::compile(source, env) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| (problem.column, problem.message)).collect(),
    }
}

#[test]
fn mistakes_of_the_text_are_found_before_anything_runs() {
    let table: [(&str, u32, &str); 33] = [
        ("", 1, "expected a value, found the end"),
        ("1 +", 4, "expected a value, found the end"),
        ("1 2", 3, "expected an operator or the end, found `2`"),
        ("(1", 3, "expected `)`, found the end"),
        ("[1", 3, "expected `,` or `]`, found the end"),
        ("{a 1}", 4, "expected `:`, found `1`"),
        ("'é' + 'open", 7, "the string is not closed"),
        ("'\\q'", 2, "unknown escape in a string"),
        ("1 & 2", 3, "`&` is not an operator; did you mean `&&`?"),
        ("12abc", 3, "a number is followed by a letter"),
        ("inptus.x", 1, "unknown name `inptus`; did you mean `inputs`?"),
        ("'é' + zzz", 7, "unknown name `zzz`"),
        ("fliter([1], #)", 1, "unknown function `fliter`; did you mean `filter`?"),
        ("hasprefix('a', 'b')", 1, "unknown function `hasprefix`; did you mean `hasPrefix`?"),
        ("foo(1)", 1, "unknown function `foo`"),
        ("take([1])", 1, "`take` takes 2 arguments, not 1"),
        ("len()", 1, "`len` takes 1 argument, not 0"),
        ("split('a')", 1, "`split` takes 2 to 3 arguments, not 1"),
        ("filter([1])", 1, "`filter` takes 2 arguments, not 1"),
        ("concat()", 1, "`concat` takes at least 1, not 0"),
        (
            "now()",
            1,
            "`now` depends on the clock, and an expression must not; use `workflow.started_at` or an input",
        ),
        ("'a'.upper()", 5, "values have no methods; write `upper(value, …)`"),
        ("steps['fetch-dato'].x", 7, "there is no step 'fetch-dato'; did you mean 'fetch-data'?"),
        ("steps.nope ?? 1", 7, "there is no step 'nope'"),
        ("steps['after'].x", 7, "step 'after' cannot have finished by then: it runs after this step"),
        ("loop.itme", 6, "`loop` has `item` and `index`, not `itme`"),
        ("iter.item", 1, "unknown name `iter`; it is called `loop` here"),
        (".name", 1, "`.name` is the element of a predicate, and there is none here"),
        ("# > 1", 1, "`#` is the element of a predicate, and there is none here"),
        ("map([1], #acc)", 10, "`#acc` exists in the predicate of `reduce` only"),
        ("map([1], #foo)", 10, "unknown `#foo`; there are `#`, `#index` and, in `reduce`, `#acc`"),
        ("let len = 1; 2", 5, "`len` exists already; name the variable otherwise"),
        ("let x = 1; let x = 2; x", 16, "`x` exists already; name the variable otherwise"),
    ];
    for (source, column, message) in table {
        assert_eq!(problems(source, &ENV), [(column, message.to_owned())], "{source}");
    }
    let bare = Env { step: &visibility, in_loop: false, has_data: false };
    assert_eq!(
        problems("loop.item", &bare),
        [(1, "`loop` and `iter` exist only inside a loop or map".to_owned())]
    );
    assert_eq!(
        problems("data", &bare),
        [(1, "`data` exists only where an action was given `data`".to_owned())]
    );
}

#[test]
fn every_problem_is_told_at_once() {
    let found = problems("zip(steps.nope, foo, now()) + take(1) + ('a' matches '(')", &ENV);
    let columns: Vec<u32> = found.iter().map(|(column, _)| *column).collect();
    assert_eq!(columns, [1, 11, 17, 22, 31, 54], "{found:?}");
}

#[test]
fn references_are_known_from_the_text() {
    let references = |source: &str| Expr::compile(source, &ENV).unwrap().references().clone();
    let read = references("steps.list.output + [steps['fetch'].x ?? steps['list'].y]");
    assert_eq!(read.steps, [Arc::from("fetch"), Arc::from("list")]);
    assert!(!read.all_steps);
    assert!(references("steps[inputs.name].x").all_steps);
    assert!(references("keys(steps)").all_steps);
    assert!(references("{a: steps}").all_steps);
    assert!(!references("inputs.steps").all_steps);
}
