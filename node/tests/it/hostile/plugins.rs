//! Plugins that must not be: programs by a node that runs none, names that are ours, secrets where others
//! see them.

use serde_json::{Value, json};

use super::{Attack, Body};

fn register(name: &'static str, body: Value) -> Attack {
    Attack::new(name, "POST", "/v1/plugins", Body::Json(body))
}

fn with(name: &'static str, field: &str, value: Value) -> Attack {
    let mut body = json!({"name": "p", "command": "true"});
    body[field] = value;
    register(name, body)
}

pub(super) fn plugins() -> Vec<Attack> {
    let secret = json!(["--token", "${{secrets.K}}"]);
    vec![
        register("a plugin where none are run", json!({"name": "p", "command": "true"}))
            .gives(403, "--allow-plugins"),
        register("a plugin without a program", json!({"name": "p"})).gives(422, "/command"),
        with("a plugin with a path for a name", "name", json!("../p")).gives(422, "/name"),
        with("a plugin that would be the shell", "name", json!("shell")).gives(422, "/name"),
        with("a plugin in our namespace", "namespace", json!("fs")).gives(422, "/namespace"),
        with("a plugin with dots in its namespace", "namespace", json!("a.b")).gives(422, "/namespace"),
        with("a plugin with a NUL in its program", "command", json!("a\u{0}b")).gives(422, "/command"),
        with("a plugin with a secret on its command line", "args", secret).gives(422, "takes no secret"),
        with("a plugin with too many arguments", "args", json!(vec!["a"; 257])).gives(422, "/args"),
        with("a plugin with a variable of no name", "env", json!({"": "x"})).gives(422, "/env"),
        with("a plugin with two variables in one", "env", json!({"A=B": "x"})).gives(422, "/env/A=B"),
        with("a plugin with an expression", "env", json!({"A": "${{ inputs.x }}"})).gives(422, "/env/A"),
        with("a plugin that may take for ever", "timeout", json!("1000h")).gives(422, "/timeout"),
        with("a plugin with a field of its own", "shell", json!(true)).gives(422, "/shell"),
        Attack::get("a plugin that is not there", "/v1/plugins/p").gives(404, "NOT_FOUND"),
        Attack::get("a plugin by a path", "/v1/plugins/..%2fp").gives(404, "NOT_FOUND"),
        Attack::new("a plugin removed that is not there", "DELETE", "/v1/plugins/p", Body::None)
            .gives(404, "NOT_FOUND"),
        Attack::step("a tool that nobody brings", json!({"id": "a", "action": "p.tool"}))
            .gives(422, "no plugin brings"),
    ]
}
