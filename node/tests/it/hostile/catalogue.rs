//! Secrets and agents that must not be: names that are none, values that could not be hidden.

use serde_json::{Value, json};

use super::{Attack, Body};

fn set(name: &'static str, key: &str, value: Value) -> Attack {
    Attack::new(name, "PUT", format!("/v1/secrets/{key}"), Body::Json(json!({ "value": value })))
}

fn logs(name: &'static str, secret: &str) -> Attack {
    let params = json!({"message": format!("${{{{secrets.{secret}}}}}")});
    let steps = json!([{"id": "a", "action": "workflow.log", "params": params}]);
    Attack::new(name, "POST", "/v1/workflows", Body::Json(json!({"definition": {"steps": steps}})))
}

pub(super) fn secrets() -> Vec<Attack> {
    vec![
        set("a secret with a path for a key", "..%2fx", json!("long enough")).gives(422, "/key"),
        set("a secret with too long a key", &"k".repeat(129), json!("long enough")).gives(422, "/key"),
        set("a secret of a space", "a%20b", json!("long enough")).gives(422, "/key"),
        set("a secret that stands in every text", "K", json!("a")).gives(422, "/value"),
        set("a secret of blanks", "K", json!(" ".repeat(20))).gives(422, "/value"),
        set("a secret too long to look for", "K", json!("x".repeat(16 * 1024 + 1))).gives(422, "/value"),
        set("a secret that is a number", "K", json!(1_234_567)).gives(422, "/value"),
        set("a secret of nothing", "K", json!(null)).gives(422, "/value"),
        // This node was given no key.
        set("a secret where there is no key", "K", json!("long enough")).gives(503, "VAULT_ERROR"),
        Attack::new("a secret that is asked for", "GET", "/v1/secrets/K", Body::None).gives(405, ""),
        Attack::new("a secret removed that is not there", "DELETE", "/v1/secrets/K", Body::None)
            .gives(404, "NOT_FOUND"),
        logs("a secret that is to be logged", "K").gives(422, "takes no secret"),
        logs("a secret in an expression", "K + 1").gives(422, "VALIDATION_ERROR"),
    ]
}

pub(super) fn agents() -> Vec<Attack> {
    let named = |name, agent: &str| Attack::get(name, "/v1/decisions").header("opcode-agent", agent);
    vec![
        named("an agent with no name", "").gives(400, "Opcode-Agent"),
        named("an agent with a line end", "a%0ab").gives(400, "Opcode-Agent"),
        named("an agent of half a character", "%c3").gives(400, "Opcode-Agent"),
        named("an agent with too long a name", &"a".repeat(129)).gives(400, "Opcode-Agent"),
        Attack::get("agents from a cursor of one's own", "/v1/agents?cursor=%00").gives(400, "cursor"),
        Attack::get("agents without end", "/v1/agents?limit=1001").gives(400, "limit"),
        Attack::new("an agent that is made", "POST", "/v1/agents", Body::Json(json!({"agent_id": "x"})))
            .gives(405, ""),
    ]
}
