//! Each kind of problem, one row each: a definition, where the problem is, what it says.

use serde_json::{Value, json};

use super::{expect, expect_text, log, refused, steps};

/// One step refused with one problem, whose pointer is given from the step on.
#[track_caller]
fn step(step: Value, at: &str, says: &str) {
    expect(&steps(json!([step, log("other", &[])])), &[(&format!("/steps/0{at}"), says)]);
}

#[track_caller]
fn config(kind: &str, config: Value, at: &str, says: &str) {
    step(json!({"id": "s", "type": kind, "config": config}), &format!("/config{at}"), says);
}

#[track_caller]
fn action(name: &str, params: Value, at: &str, says: &str) {
    step(json!({"id": "s", "action": name, "params": params}), at, says);
}

#[test]
fn text_that_is_not_json_has_line_and_column() {
    for (text, line, column, says) in [
        ("", 1, 1, "ends where"),
        ("{\n  \"steps\": [,]}", 2, 13, "JSON value is expected"),
        ("{\"é\": 1 \"b\": 2}", 1, 9, "comma or the end of the object"),
        ("{\"steps\": []} x", 1, 15, "nothing may follow"),
        ("{\"a\": \"x", 1, 7, "no end"),
        ("{\"a\": \"\\q\"}", 1, 7, "escape"),
        ("{\"a\": 01}", 1, 7, "not a number"),
        ("{a: 1}", 1, 2, "double quotes"),
        ("[1 2]", 1, 4, "end of the array"),
        ("{\"a\" 1}", 1, 6, "colon"),
        ("{\"a\": \"\n\"}", 1, 8, "control character"),
        ("nul", 1, 1, "JSON value"),
        ("\u{feff}{}", 1, 1, "JSON value"),
    ] {
        let problems = refused(text).problems;
        assert_eq!(problems.len(), 1, "{text:?}: {problems:?}");
        let problem = &problems[0];
        assert_eq!((problem.line, problem.column), (Some(line), Some(column)), "{text:?}: {problem:?}");
        assert!(problem.message.contains(says) && problem.pointer.is_empty(), "{text:?}: {problem:?}");
    }
}

#[test]
fn repeated_keys_are_told_with_their_place() {
    let text = "{\"steps\": [],\n \"steps\": [{\"id\": \"a\", \"a~/b\": 1, \"a~/b\": 2}]}";
    expect_text(text, &[("/steps/0/a~0~1b", "twice"), ("/steps", "twice")]);
    assert_eq!(refused(text).problems[1].line, Some(2));
}

#[test]
fn shapes_of_the_whole() {
    expect(&json!([]), &[("", "an object is expected, this is a list")]);
    expect(&json!({}), &[("", "\"steps\" is missing")]);
    expect(&json!({"steps": []}), &[("/steps", "at least one step")]);
    expect(&json!({"steps": {}}), &[("/steps", "a list is expected, this is an object")]);
    expect(&json!({"steps": [1]}), &[("/steps/0", "an object is expected, this is a number")]);
    let with = |name: &str, value: Value| json!({"steps": [log("a", &[])], name: value});
    expect(
        &with("timout", json!("5m")),
        &[("/timout", "unknown field \"timout\"; did you mean \"timeout\"?")],
    );
    expect(&with("inputs", json!([])), &[("/inputs", "an object is expected")]);
    expect(&with("timeout", json!("5 parsecs")), &[("/timeout", "\"parsecs\" is not a unit")]);
    expect(&with("timeout", json!(5)), &[("/timeout", "\"5s\"")]);
    expect(&with("timeout", json!("0s")), &[("/timeout", "longer than 0")]);
    expect(
        &with("on_timeout", json!("fial")),
        &[("/on_timeout", "none of fail, suspend, cancel; did you mean \"fail\"?")],
    );
    expect(&with("on_complete", json!([])), &[("/on_complete", "an object is expected")]);
    expect(&with("on_error", json!({"action": "nope"})), &[("/on_error/action", "there is no action")]);
    expect(&with("on_error", log("a", &[])), &[("/on_error/id", "taken by the step at /steps/0")]);
    expect(
        &with("on_error", log("b", &["a"])),
        &[("/on_error/depends_on/0", "there is no step \"a\" beside this one")],
    );
    expect(
        &json!({"steps": [log("a", &[])], "on_complete": log("h", &[]), "on_error": log("h", &[])}),
        &[("/on_error/id", "taken by the step at /on_complete")],
    );
}

#[test]
fn template_files() {
    let wrap = |name: &str, value: Value| json!({"name": "n", "definition": {"steps": [log("a", &[])]}, name: value});
    expect(&wrap("descripton", json!("x")), &[("/descripton", "did you mean \"description\"?")]);
    expect(&wrap("features", json!(["a", 1])), &[("/features/1", "a string is expected")]);
    expect(&wrap("name", json!(7)), &[("/name", "a string is expected")]);
    expect(&json!({"definition": null}), &[("/definition", "an object is expected")]);
    expect(
        &json!({"definition": {"steps": [{"id": "a b"}]}}),
        &[("/definition/steps/0", "\"action\" is missing"), ("/definition/steps/0/id", "is not an id")],
    );
    let both = json!({"steps": [log("a", &[])], "definition": {}});
    expect(&both, &[("/definition", "unknown field")]);
}

#[test]
fn ids() {
    step(json!({"action": "crypto.uuid"}), "", "\"id\" is missing");
    step(json!({"id": "", "action": "crypto.uuid"}), "/id", "empty");
    step(json!({"id": 5, "action": "crypto.uuid"}), "/id", "a string is expected");
    step(json!({"id": "a.b", "action": "crypto.uuid"}), "/id", "is not an id");
    step(json!({"id": "é", "action": "crypto.uuid"}), "/id", "is not an id");
    step(json!({"id": "x".repeat(129), "action": "crypto.uuid"}), "/id", "1 to 128");
    expect(
        &steps(json!([log("a", &[]), log("a", &[])])),
        &[("/steps/1/id", "taken by the step at /steps/0")],
    );
    let branch = json!([log("a", &[]), log("b", &[]), log("b", &[])]);
    expect(
        &steps(json!([{"id": "a", "type": "parallel", "config": {"branches": [branch, [log("b", &[])]]}}])),
        &[("/steps/0/config/branches/0/2/id", "taken by the step at /steps/0/config/branches/0/1")],
    );
}

#[test]
fn full_ids_that_are_spelt_alike() {
    let choose = |id: &str, branches: Value| json!({"id": id, "type": "condition", "config": {"expression": "true", "branches": branches}});
    let inner = choose("b", json!({"c": [log("d", &[])]}));
    expect(
        &steps(json!([choose(
            "p",
            json!({"a": [inner], "a.b.c": [log("d", &[])], "v1.2": [log("d", &[])]})
        )])),
        &[("/steps/0/config/branches/a.b.c/0", "/steps/0/config/branches/a/0/config/branches/c/0")],
    );
    let mut undone = choose("p", json!({"compensate": [log("d", &[])]}));
    undone["compensate"] = log("d", &[]);
    expect(&steps(json!([undone])), &[("/steps/0/compensate", "spelt like")]);
    expect(
        &json!({"steps": [log("on_error", &[])], "on_error": {"action": "crypto.uuid"}}),
        &[("/on_error", "taken by the step at /steps/0")],
    );
}

#[test]
fn fields_of_every_step() {
    step(json!({"id": "s", "action": "crypto.uuid", "parms": {}}), "/parms", "did you mean \"params\"?");
    step(json!({"id": "s", "type": "raisoning", "config": {}}), "/type", "did you mean \"reasoning\"?");
    step(json!({"id": "s", "type": 1}), "/type", "a string is expected");
    step(json!({"id": "s"}), "", "\"action\" is missing");
    step(json!({"id": "s", "action": "crypto.uuid", "timeout": "5"}), "/timeout", "needs a unit");
    step(
        json!({"id": "s", "action": "crypto.uuid", "on_interrupt": "skip"}),
        "/on_interrupt",
        "none of retry",
    );
    step(json!({"id": "s", "action": "crypto.uuid", "params": []}), "/params", "an object is expected");
    step(json!({"id": "s", "action": "crypto.uuid", "config": {"x": 1}}), "/config/x", "unknown field");
    step(
        json!({"id": "s", "type": "wait", "config": {"signal": "x"}, "action": "jq"}),
        "/action",
        "only a step of type",
    );
    step(json!({"id": "s", "type": "wait"}), "", "\"config\" is missing");
    let retry = |retry: Value, at: &str, says: &str| {
        step(json!({"id": "s", "action": "crypto.uuid", "retry": retry}), &format!("/retry{at}"), says);
    };
    retry(json!(3), "", "an object is expected");
    retry(json!({"max": -1}), "/max", "a whole number from 0");
    retry(json!({"max": 2.5}), "/max", "a whole number from 0");
    retry(json!({"max": 1, "backof": "none"}), "/backof", "did you mean \"backoff\"?");
    retry(json!({"max": 1, "backoff": "expo"}), "/backoff", "none of none, linear");
    retry(json!({"max": 1, "delay": "x"}), "/delay", "not a duration");
    retry(json!({"max": 1, "jitter": 2}), "/jitter", "from 0 to 1");
    let on_error = |handler: Value, at: &str, says: &str| {
        step(
            json!({"id": "s", "action": "crypto.uuid", "on_error": handler}),
            &format!("/on_error{at}"),
            says,
        );
    };
    on_error(json!({}), "", "\"strategy\" is missing");
    on_error(json!({"strategy": "ignor"}), "/strategy", "did you mean \"ignore\"?");
    on_error(json!({"strategy": "fallback_step"}), "", "\"fallback_step\" is missing");
    on_error(
        json!({"strategy": "fallback_step", "fallback_step": "s"}),
        "/fallback_step",
        "its own fallback",
    );
    on_error(
        json!({"strategy": "fallback_step", "fallback_step": "othr"}),
        "/fallback_step",
        "did you mean \"other\"?",
    );
}

#[test]
fn fallbacks_that_lead_in_a_circle() {
    let falls = |id: &str, to: &str| {
        let mut step = log(id, &[]);
        step["on_error"] = json!({"strategy": "fallback_step", "fallback_step": to});
        step
    };
    let circle = steps(json!([falls("a", "b"), falls("b", "c"), falls("c", "b")]));
    expect(&circle, &[("/steps/2/on_error/fallback_step", "circle back to \"b\"")]);
}

#[test]
fn dependencies() {
    expect(&steps(json!([log("a", &["a"])])), &[("/steps/0/depends_on/0", "depends on itself")]);
    expect(
        &steps(json!([log("alpha", &[]), log("b", &["alpah"])])),
        &[("/steps/1/depends_on/0", "did you mean \"alpha\"?")],
    );
    step(
        json!({"id": "s", "action": "crypto.uuid", "depends_on": "other"}),
        "/depends_on",
        "a list is expected",
    );
    step(json!({"id": "s", "action": "crypto.uuid", "depends_on": [1]}), "/depends_on/0", "id is expected");
    let body = json!([log("x", &["y"]), log("y", &["outer"])]);
    expect(
        &steps(
            json!([log("outer", &[]), {"id": "l", "type": "loop", "config": {"mode": "for_each", "over": [1], "body": body}}]),
        ),
        &[
            ("/steps/1/config/body/0/depends_on/0", "listed after this step"),
            ("/steps/1/config/body/1/depends_on/0", "no step \"outer\" beside this one"),
        ],
    );
}

#[test]
fn actions_and_params() {
    action(
        "http.gte",
        json!({"url": "x"}),
        "/action",
        "there is no action \"http.gte\"; did you mean \"http.get\"?",
    );
    action("http.get", json!({}), "/params", "needs the param \"url\"");
    step(json!({"id": "s", "action": "http.get"}), "", "needs the param \"url\"");
    action("http.get", json!({"url": "x", "heders": {}}), "/params/heders", "did you mean \"headers\"?");
    action("http.get", json!({"url": 5}), "/params/url", "\"url\" is a string, this is a number");
    action(
        "http.get",
        json!({"url": "x", "headers": "y"}),
        "/params/headers",
        "is an object, this is a string",
    );
    action("http.get", json!({"url": "x", "timeout": "1 week"}), "/params/timeout", "not a duration");
    action(
        "shell.exec",
        json!({"command": "x", "args": "-l"}),
        "/params/args",
        "is a list, this is a string",
    );
    action(
        "assert.contains",
        json!({"haystack": 1, "needle": 1}),
        "/params/haystack",
        "a string or a list or an object",
    );
    action("workflow.emit", json!({}), "/params", "\"event_type\"");
    action("workflow.emit", json!({"event": "a", "event_type": "b"}), "/params/event", "the same param");
    action("expr.eval", json!({"expression": ""}), "/params/expression", "empty");
}

#[test]
fn conditions() {
    config("condition", json!({"branches": {}}), "", "\"expression\" is missing");
    config("condition", json!({"expression": "true"}), "", "\"branches\" is missing");
    config("condition", json!({"expression": "true", "branches": []}), "/branches", "an object is expected");
    config(
        "condition",
        json!({"expression": "true", "branches": {"a": {}}}),
        "/branches/a",
        "a list is expected",
    );
    config(
        "condition",
        json!({"expression": "true", "branches": {}, "defualt": []}),
        "/defualt",
        "did you mean \"default\"?",
    );
    config(
        "condition",
        json!({"expression": "true", "branches": {"default": []}, "default": []}),
        "/default",
        "cannot both",
    );
    config(
        "condition",
        json!({"expression": "true", "branches": {"x".repeat(129): []}}),
        &format!("/branches/{}", "x".repeat(129)),
        "128 bytes",
    );
}

#[test]
fn loops_and_parallels() {
    let body = || json!([log("x", &[])]);
    config("loop", json!({"over": [1], "body": body()}), "", "\"mode\" is missing");
    config(
        "loop",
        json!({"mode": "foreach", "over": [1], "body": body()}),
        "/mode",
        "did you mean \"for_each\"?",
    );
    config("loop", json!({"mode": "for_each", "body": body()}), "", "\"over\" is missing");
    config(
        "loop",
        json!({"mode": "for_each", "over": {}, "body": body()}),
        "/over",
        "a list or an expression",
    );
    config(
        "loop",
        json!({"mode": "for_each", "over": "a ${{inputs.x}}", "body": body()}),
        "/over",
        "one token",
    );
    config("loop", json!({"mode": "for_each", "over": [1]}), "", "\"body\" is missing");
    config("loop", json!({"mode": "for_each", "over": [1], "body": []}), "/body", "at least one step");
    config("loop", json!({"mode": "while", "body": body()}), "", "\"condition\" is missing");
    config(
        "loop",
        json!({"mode": "for_each", "over": [1], "body": body(), "max_iter": 1.5}),
        "/max_iter",
        "whole number",
    );
    config("parallel", json!({"mode": "any", "branches": []}), "/mode", "none of all, race, map");
    config("parallel", json!({}), "", "\"branches\" is missing");
    config("parallel", json!({"branches": [{}]}), "/branches/0", "a list of steps is expected");
    config("parallel", json!({"mode": "race", "branches": []}), "/branches", "at least one branch");
    config(
        "parallel",
        json!({"mode": "map", "over": [1], "branches": [], "body": body()}),
        "/branches",
        "unknown field",
    );
    config(
        "parallel",
        json!({"mode": "map", "over": [1], "body": body(), "max_concurrency": 0}),
        "/max_concurrency",
        "from 1",
    );
}

#[test]
fn waits_and_decisions() {
    config("wait", json!({}), "", "\"duration\" is missing (or \"signal\", or \"until\")");
    config("wait", json!({"duration": "1x"}), "/duration", "not a unit");
    config("wait", json!({"until": "tomorrow"}), "/until", "not an RFC 3339 time");
    config("wait", json!({"duration": "1s", "signal": "go"}), "/signal", "\"duration\" already");
    config("wait", json!({"signal": "${{inputs.x}}"}), "/signal", "plain text");
    config("reasoning", json!({"options": []}), "", "\"prompt_context\" is missing");
    let ask = |name: &str, value: Value| json!({"prompt_context": "?", "options": [{"id": "approve"}, {"id": "reject"}], name: value});
    config(
        "reasoning",
        ask("fallback", json!("aprove")),
        "/fallback",
        "none of the options; did you mean \"approve\"?",
    );
    config("reasoning", ask("timeout", json!("x")), "/timeout", "not a duration");
    config(
        "reasoning",
        ask("options", json!([{"id": "a"}, {"id": "a"}])),
        "/options/1/id",
        "two options \"a\"",
    );
    config("reasoning", ask("options", json!([{"description": "d"}])), "/options/0", "\"id\" is missing");
    config("reasoning", ask("options", json!(["yes"])), "/options/0", "an object is expected");
    config("reasoning", ask("data_inject", json!([])), "/data_inject", "an object is expected");
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_text() {
    let text = r#"{
        "timeout": "later",
        "steps": [
            {"id": "a", "action": "http.get", "params": {"ulr": "x"}, "depends_on": ["zz"]},
            {"id": "a", "type": "wait", "config": {"duration": "soon"}},
            {"id": "b", "depends_on": ["c"], "action": "crypto.uuid"},
            {"id": "c", "depends_on": ["b"], "action": "crypto.uuid"}
        ],
        "aaa": 1
    }"#;
    expect_text(
        text,
        &[
            ("/timeout", "not a duration"),
            ("/steps/0/params", "needs the param \"url\""),
            ("/steps/0/params/ulr", "did you mean \"url\"?"),
            ("/steps/0/depends_on/0", "there is no step \"zz\""),
            ("/steps/1/id", "taken"),
            ("/steps/1/config/duration", "not a duration"),
            ("/steps/2/depends_on", "b → c → b"),
            ("/aaa", "unknown field"),
        ],
    );
}

#[test]
fn secrets_stand_only_where_nothing_is_recorded() {
    let hmac = |key: &str| json!({"data": "d", "key": key});
    let takes = |name: &str, params: Value| json!({"id": "a", "action": name, "params": params});
    super::accepted(&steps(json!([takes("crypto.hmac", hmac("${{ secrets.KEY }}"))])));
    let request = json!({"url": "http://h/", "headers": {"x": "${{secrets.K}}"}});
    super::accepted(&steps(json!([takes("http.get", request)])));
    let logged = json!({"message": "m", "k": "${{secrets.K}}"});
    action("workflow.log", logged, "/params", "workflow.log takes no secret");
    let evaluated = json!({"expression": "data", "data": ["${{secrets.K}}"]});
    action("expr.eval", evaluated, "/params", "expr.eval takes no secret");
    let child = json!({"template": "t", "params": {"k": "${{secrets.K}}"}});
    action("workflow.run", child, "/params", "workflow.run takes no secret");
    let all: String = (0..33).map(|n| format!("${{{{secrets.K{n}}}}}")).collect();
    action("crypto.hmac", hmac(&all), "/params", "33 secrets are named");
    let output = json!({"steps": [log("a", &[])], "output": {"k": "Bearer ${{secrets.K}}"}});
    expect(&output, &[("/output", "`${{secrets.K}}` can only stand in the params of an action")]);
    let inputs = json!({"steps": [log("a", &[])], "inputs": {"k": "${{secrets.K}}"}});
    expect(&inputs, &[("/inputs", "in the params of an action")]);
    let ask = json!({"id": "a", "type": "reasoning",
        "config": {"prompt_context": "?", "data_inject": {"k": "${{secrets.K}}"}}});
    expect(&steps(json!([ask])), &[("/steps/0/config/data_inject/k", "in the params of an action")]);
}
