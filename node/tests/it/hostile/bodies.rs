//! Requests that are refused at the door: by their shape, their definition, their expressions, or
//! what they ask of things that are there.

use serde_json::{Value, json};

use super::{Attack, Body};

fn good() -> Value {
    json!({"id": "a", "action": "crypto.uuid"})
}

fn guard(name: &'static str, text: impl Into<String>) -> Attack {
    Attack::step(name, json!({"id": "a", "action": "crypto.uuid", "condition": text.into()}))
}

fn message(name: &'static str, text: impl Into<String>) -> Attack {
    Attack::step(name, json!({"id": "a", "action": "workflow.log", "params": {"message": text.into()}}))
}

fn expr(name: &'static str, text: impl Into<String>) -> Attack {
    Attack::step(name, json!({"id": "a", "action": "expr.eval", "params": {"expression": text.into()}}))
}

fn jq(name: &'static str, text: impl Into<String>) -> Attack {
    Attack::step(name, json!({"id": "a", "action": "jq", "params": {"filter": text.into(), "data": 1}}))
}

/// A submission that would be good but for these fields.
fn with(name: &'static str, fields: Value) -> Attack {
    let mut body = json!({"definition": {"steps": [good()]}});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Attack::submit(name, body)
}

/// A definition that would be good but for these fields.
fn defined(name: &'static str, fields: Value) -> Attack {
    let mut definition = json!({"steps": [good()]});
    definition.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Attack::submit(name, json!({"definition": definition}))
}

/// What is no request at all, or not of this kind.
pub(super) fn shapes() -> Vec<Attack> {
    let malformed = |name, text: String| Attack::text(name, text).gives(400, "VALIDATION_ERROR");
    vec![
        malformed("an empty body", String::new()),
        malformed("half an object", "{\"definition\": {".into()),
        malformed("two documents", "{} {}".into()),
        malformed("a trailing comma", "{\"id\": \"a\",}".into()),
        malformed("single quotes", "{'id': 'a'}".into()),
        malformed("a comment", "{} // nothing".into()),
        malformed("a byte order mark", "\u{feff}{}".into()),
        malformed("a control character in a string", "{\"id\": \"a\u{1}\"}".into()),
        Attack::text("half a surrogate pair", "{\"id\": \"\\ud800\"}"),
        malformed("a number that is none", "{\"id\": NaN}".into()),
        malformed("a number with a leading zero", "{\"id\": 01}".into()),
        malformed("a hundred thousand brackets", "[".repeat(100_000)),
        malformed("a hundred thousand objects", "{\"a\":".repeat(100_000)),
        Attack::text("a list", "[]"),
        Attack::text("a string", "\"definition\""),
        Attack::text("null", "null"),
        Attack::text("a field twice", r#"{"id":"a","id":"b","definition":{"steps":[]}}"#).gives(422, "id"),
        Attack::text("a field twice within", r#"{"definition":{"steps":[{"id":"a","id":"b"}]}}"#),
        Attack::text("words as JSON", "words").gives(400, "VALIDATION_ERROR"),
        Attack::text("no media type", "{}").header("content-type", "").gives(415, "VALIDATION_ERROR"),
        Attack::text("a form", "id=a")
            .header("content-type", "application/x-www-form-urlencoded")
            .gives(415, ""),
        Attack::text("XML", "<id/>").header("content-type", "text/xml").gives(415, ""),
        Attack::submit("an unknown field", json!({"definitoin": {}})).gives(422, "definition"),
        Attack::submit("nothing to run", json!({})),
        Attack::submit("a template that is not there", json!({"template": "none"})).gives(404, "NOT_FOUND"),
        Attack::submit(
            "a template and a definition",
            json!({"template": "t", "definition": {"steps": [good()]}}),
        ),
        with("an id with a slash", json!({"id": "../etc"})).gives(422, "id"),
        with("an id with a line end", json!({"id": "a\nb"})).gives(422, "id"),
        with("an id with a quote", json!({"id": "a' OR 1=1 --"})).gives(422, "id"),
        with("an id that is too long", json!({"id": "a".repeat(129)})).gives(422, "id"),
        with("an empty id", json!({"id": ""})).gives(422, "id"),
        with("an id of digits beyond ASCII", json!({"id": "١٢٣"})).gives(422, "id"),
        with("an id that is a number", json!({"id": 7})).gives(422, "id"),
        with("params that are a list", json!({"params": []})).gives(422, "params"),
        with("labels that are numbers", json!({"labels": {"a": 1}})).gives(422, "labels"),
        with("a start in no time", json!({"start_at": "tomorrow"})).gives(422, "start_at"),
        with("a version of nothing", json!({"version": "v1"})).gives(422, "version"),
    ]
}

/// Definitions that must not run.
pub(super) fn definitions() -> Vec<Attack> {
    let mut deep = good();
    for level in 0..40 {
        deep = json!({"id": format!("l{level}"), "type": "parallel", "config": {"branches": [[deep]]}});
    }
    let step = Attack::step;
    vec![
        defined("no steps", json!({"steps": []})),
        defined("steps that are an object", json!({"steps": {}})),
        defined("too many steps", json!({"steps": (0..10_001).map(|n| json!({"id": format!("s{n}"), "action": "crypto.uuid"})).collect::<Vec<_>>()})),
        defined("two steps of one id", json!({"steps": [good(), good()]})).gives(422, "/steps/1/id"),
        defined("a cycle", json!({"steps": [{"id": "a", "action": "crypto.uuid", "depends_on": ["b"]}, {"id": "b", "action": "crypto.uuid", "depends_on": ["a"]}]})).gives(422, "CYCLE_DETECTED"),
        defined("an unknown field of a definition", json!({"stepz": 1})).gives(422, "steps"),
        defined("a timeout that is none", json!({"timeout": "soon"})).gives(422, "timeout"),
        defined("a negative timeout", json!({"timeout": "-5s"})).gives(422, "timeout"),
        defined("a timeout of an age", json!({"timeout": "99999999999999999999h"})).gives(422, "timeout"),
        defined("an unknown end by time", json!({"on_timeout": "explode"})).gives(422, "on_timeout"),
        step("nesting without end", deep),
        step("a step that needs itself", json!({"id": "a", "action": "crypto.uuid", "depends_on": ["a"]})).gives(422, "depends_on"),
        step("a step that needs nobody", json!({"id": "a", "action": "crypto.uuid", "depends_on": ["b"]})).gives(422, "depends_on"),
        step("a step id with a dot", json!({"id": "a.b", "action": "crypto.uuid"})).gives(422, "/steps/0/id"),
        step("a step id with a space", json!({"id": "a b", "action": "crypto.uuid"})).gives(422, "/steps/0/id"),
        step("an unknown action", json!({"id": "a", "action": "http.gett"})).gives(422, "http.get"),
        step("an action without its params", json!({"id": "a", "action": "http.get"})).gives(422, "url"),
        step("an unknown param", json!({"id": "a", "action": "fs.read", "params": {"path": "p", "content": "c"}})).gives(422, "content"),
        step("an unknown type", json!({"id": "a", "type": "magic"})).gives(422, "type"),
        step("an unknown field of a step", json!({"id": "a", "action": "crypto.uuid", "retries": 3})).gives(422, "retries"),
        step("a retry without end", json!({"id": "a", "action": "crypto.uuid", "retry": {"max": 4_000_000_000_u64}})).gives(422, "retry"),
        step("a negative retry", json!({"id": "a", "action": "crypto.uuid", "retry": {"max": -1}})).gives(422, "retry"),
        step("a fallback that is not there", json!({"id": "a", "action": "crypto.uuid", "on_error": {"strategy": "fallback_step", "fallback_step": "b"}})).gives(422, "fallback"),
        step("an unknown strategy", json!({"id": "a", "action": "crypto.uuid", "on_error": {"strategy": "hope"}})).gives(422, "strategy"),
        step("a loop without a body", json!({"id": "a", "type": "loop", "config": {"mode": "for_each", "over": "[1]"}})).gives(422, "body"),
        step("a loop of an unknown mode", json!({"id": "a", "type": "loop", "config": {"mode": "forever", "body": [good()]}})).gives(422, "mode"),
        step("a wait for nothing", json!({"id": "a", "type": "wait", "config": {}})),
        step("a wait until never", json!({"id": "a", "type": "wait", "config": {"until": "never"}})).gives(422, "until"),
        step("a parallel without branches", json!({"id": "a", "type": "parallel", "config": {}})).gives(422, "branches"),
        step("a decision with one option twice", json!({"id": "a", "type": "reasoning", "config": {"prompt_context": "?", "options": [{"id": "x"}, {"id": "x"}]}})).gives(422, "options"),
        step("a fallback that is no option", json!({"id": "a", "type": "reasoning", "config": {"prompt_context": "?", "options": [{"id": "x"}], "timeout": "1s", "fallback": "y"}})).gives(422, "fallback"),
    ]
}

/// Expressions that are refused before anything runs.
pub(super) fn expressions() -> Vec<Attack> {
    vec![
        guard("a guard cut off", "inputs.x ==").gives(422, "column"),
        guard("a guard of an unknown root", "secrets.KEY == 'x'").gives(422, "secrets"),
        guard("a guard of an unknown step", "steps['nope'].x == 1").gives(422, "nope"),
        guard("a guard of an unknown function", "system('id')").gives(422, "system"),
        guard("ten thousand sums", vec!["1"; 10_000].join("+")),
        guard("ten thousand fields", format!("inputs{}", ".a".repeat(10_000))),
        guard("a thousand brackets", format!("{}1{}", "(".repeat(1_000), ")".repeat(1_000))),
        guard("a thousand nots", format!("{}true", "!".repeat(10_000))),
        guard("a thousand lists", format!("{}{}", "[".repeat(2_000), "]".repeat(2_000))),
        guard("a string without an end", "'abc"),
        guard("a null byte", "inputs.x == 'a\u{0}b' &"),
        message("a token without an end", "${{ inputs.x"),
        message("a token of an unknown root", "${{ env.HOME }}").gives(422, "env"),
        message("a token of a step that is not there", "${{ steps.b.output }}").gives(422, "b"),
        message("a token of itself", "${{ steps.a.output }}").gives(422, "a"),
        message("a token that is no expression", "${{ 1 + }}"),
        message("a token of jq that is none", "${{ jq: .[ }}"),
        message("a token of expr that is none", "${{ expr: let }}"),
        expr("an expr cut off", "1 +"),
        expr("an expr of an unknown function", "exec('id')").gives(422, "exec"),
        expr("a thousand brackets of expr", format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000))),
        expr("a thousand lets", "let a = 1; ".repeat(5_000) + "a"),
        jq("a filter that is none", ".["),
        jq("a filter of the environment", "env.PATH"),
        jq("a filter that reads more input", "input"),
        jq("a filter that includes a file", "include \"x\"; ."),
        jq("a filter of a thousand brackets", format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000))),
    ]
}

/// Reads of things that are there, and of others that are not.
pub(super) fn reads() -> Vec<Attack> {
    vec![
        Attack::get("a run that is not there", "/v1/workflows/none").gives(404, "NOT_FOUND"),
        Attack::get("a run with an impossible id", "/v1/workflows/a%20b").gives(400, "VALIDATION_ERROR"),
        Attack::get("a run with half an escape", "/v1/workflows/%zz").gives(400, "VALIDATION_ERROR"),
        Attack::get("a path that climbs", "/v1/workflows/..%2f..%2fetc%2fpasswd")
            .gives(400, "VALIDATION_ERROR"),
        Attack::get("a page that is too long", "/v1/workflows?limit=100000").gives(400, "limit"),
        Attack::get("a page of less than nothing", "/v1/workflows?limit=-1").gives(400, "limit"),
        Attack::get("an unknown parameter", "/v1/workflows?sttus=failed").gives(400, "status"),
        Attack::get("a parameter twice", "/v1/workflows?limit=1&limit=2").gives(400, "limit"),
        Attack::get("a cursor of one's own", "/v1/workflows?cursor=AAAA").gives(400, "cursor"),
        Attack::get("a status that there is not", "/v1/workflows?status=done").gives(400, "status"),
        Attack::get("a time that is none", "/v1/workflows?since=yesterday").gives(400, "since"),
        Attack::get("a wait that is none", "/v1/workflows/bystander?wait=long").gives(400, "wait"),
        Attack::get("a consistency that there is not", "/v1/workflows/bystander?consistency=maybe")
            .gives(400, "consistency"),
        Attack::get("a token of one's own", "/v1/workflows/bystander?consistency=session")
            .header("opcode-token", "1:2")
            .gives(400, "Opcode-Token"),
        Attack::get("events from no number", "/v1/workflows/bystander/events?after=x").gives(400, "after"),
        Attack::get("a stream from no number", "/v1/workflows/bystander/events")
            .header("accept", "text/event-stream")
            .header("last-event-id", "x")
            .gives(400, "Last-Event-ID"),
        Attack::get("a diagram of an unknown form", "/v1/workflows/bystander/diagram?format=exe")
            .gives(400, "format"),
        Attack::new("a method that there is not", "DELETE", "/v1/workflows", Body::None)
            .gives(405, "VALIDATION_ERROR"),
        Attack::get("a call that there is not", "/v1/secret-door").gives(404, "NOT_FOUND"),
        Attack::get("another host", "/v1/workflows")
            .header("host", "evil.example")
            .gives(403, "PERMISSION_DENIED"),
        Attack::submit("another origin", json!({"definition": {"steps": [good()]}}))
            .header("origin", "http://evil.example")
            .gives(403, "PERMISSION_DENIED"),
    ]
}

fn post(name: &'static str, path: &'static str, body: Value) -> Attack {
    Attack::new(name, "POST", path, Body::Json(body))
}

/// Commands to things that are there, and to others that are not.
pub(super) fn commands() -> Vec<Attack> {
    let signal = |name, body: Value| post(name, "/v1/workflows/bystander/signals", body);
    vec![
        signal("a signal of an unknown type", json!({"type": "explode"})).gives(422, "type"),
        signal("a signal without a type", json!({})).gives(422, "type"),
        signal(
            "a decision that is no option",
            json!({"type": "decision", "step_id": "ask", "payload": {"choice": "no"}, "agent_id": "boss"}),
        ),
        signal(
            "a decision by another agent",
            json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}, "agent_id": "intern"}),
        )
        .gives(403, "PERMISSION_DENIED"),
        signal(
            "a decision of a step that is not there",
            json!({"type": "decision", "step_id": "b", "payload": {"choice": "yes"}}),
        )
        .gives(404, "NOT_FOUND"),
        signal("data that nobody waits for", json!({"type": "data", "step_id": "ask", "payload": {}}))
            .gives(404, "NOT_FOUND"),
        signal("a retry of what has not failed", json!({"type": "retry", "step_id": "ask"})).gives(409, ""),
        post("a signal to nobody", "/v1/workflows/none/signals", json!({"type": "cancel"}))
            .gives(404, "NOT_FOUND"),
        post("a retry of a run that waits", "/v1/workflows/bystander/retry", json!({"from_step": "none"}))
            .gives(409, "INVALID_TRANSITION"),
        post(
            "an extension by a cycle",
            "/v1/workflows/bystander/extend",
            json!({"insert_after": {"step": "ask", "steps": [{"id": "x", "action": "crypto.uuid", "depends_on": ["x"]}]}}),
        ),
        post("a bulk without a filter", "/v1/workflows/bulk", json!({"action": "cancel"})),
        post("a bulk of an unknown action", "/v1/workflows/bulk", json!({"filter": {}, "action": "explode"})),
        post("a template without a name", "/v1/templates", json!({"definition": {"steps": [good()]}})),
        post(
            "a template with a path for a name",
            "/v1/templates",
            json!({"name": "../x", "definition": {"steps": [good()]}}),
        ),
    ]
}

/// Calls of operators.
pub(super) fn operations() -> Vec<Attack> {
    vec![
        post(
            "a template that does not hold",
            "/v1/templates",
            json!({"name": "t", "definition": {"steps": []}}),
        ),
        post("SQL that writes", "/v1/sql", json!({"query": "DELETE FROM workflows"}))
            .gives(403, "PERMISSION_DENIED"),
        post("SQL that attaches a file", "/v1/sql", json!({"query": "ATTACH '/etc/passwd' AS p"}))
            .gives(403, "PERMISSION_DENIED"),
        post("SQL that is none", "/v1/sql", json!({"query": "SELEKT"})),
        post("SQL in two", "/v1/sql", json!({"query": "SELECT 1; DROP TABLE workflows"})),
        post("SQL that loads code", "/v1/sql", json!({"query": "SELECT load_extension('/tmp/x.so')"}))
            .gives(403, "PERMISSION_DENIED"),
        post("SQL that changes a setting", "/v1/sql", json!({"query": "PRAGMA writable_schema = 1"}))
            .gives(403, "PERMISSION_DENIED"),
        post("a move of a shard that is not there", "/v1/cluster/shards/999/move", json!({"to": 1}))
            .gives(409, ""),
        post("a move to a node that is not there", "/v1/cluster/shards/0/move", json!({"to": 99}))
            .gives(409, ""),
        post("a drain of a node that is not there", "/v1/cluster/nodes/99/drain", json!({})).gives(409, ""),
        Attack::new("a removal of the only node", "DELETE", "/v1/cluster/nodes/1", Body::None).gives(409, ""),
        post("a node that joins without an address", "/v1/cluster/nodes", json!({})),
    ]
}
