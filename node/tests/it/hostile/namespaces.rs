//! Names that reach for another namespace, and namespaces that must not be.

use serde_json::{Value, json};

use super::{Attack, Body};

fn within(name: &'static str, namespace: impl Into<String>) -> Attack {
    Attack::get(name, "/v1/workflows").header("opcode-namespace", namespace).gives(400, "Opcode-Namespace")
}

fn made(name: &'static str, path: impl Into<String>) -> Attack {
    Attack::new(name, "PUT", format!("/v1/namespaces/{}", path.into()), Body::Json(json!({})))
        .gives(400, "a namespace's name is")
}

fn deleted(name: &'static str, namespace: &str) -> Attack {
    Attack::new(name, "DELETE", format!("/v1/namespaces/{namespace}"), Body::None)
}

fn submitted(name: &'static str, body: Value) -> Attack {
    Attack::new(name, "POST", "/v1/workflows", Body::Json(body))
}

pub(super) fn namespaces() -> Vec<Attack> {
    let steps = json!({"steps": [{"id": "a", "action": "crypto.uuid"}]});
    vec![
        within("a namespace with no name", ""),
        within("a namespace above", "../default"),
        within("a namespace in another", "a/b"),
        within("a namespace in another, encoded", "a%2Fb"),
        within("a namespace in capitals", "Default"),
        within("a namespace of a wildcard", "*"),
        within("a namespace with too long a name", "n".repeat(64)),
        within("two namespaces in one header", "default,default"),
        within("two headers of one namespace", "default").header("opcode-namespace", "default"),
        within("a namespace that is not there", "none").gives(404, "opcode namespace create none"),
        submitted("a run in a namespace that is not there", json!({"definition": steps}))
            .header("opcode-namespace", "none")
            .gives(404, "NOT_FOUND"),
        made("a namespace of a path", "..%2Fx"),
        made("a namespace of two names", "a%2Fb"),
        made("a namespace of a line end", "a%0Ab"),
        made("a namespace of too long a name", "n".repeat(64)),
        Attack::new("a namespace with wishes", "PUT", "/v1/namespaces/x", Body::Json(json!({"owner": "me"})))
            .gives(422, "/owner"),
        deleted("the namespace that is always there is deleted", "default").gives(409, "CONFLICT"),
        deleted("a namespace that is not there is deleted", "none").gives(404, "NOT_FOUND"),
        deleted("a namespace of a path is deleted", "..%2Fdefault").gives(404, "NOT_FOUND"),
        Attack::get("a run by its namespace", "/v1/workflows/default%2Fbystander")
            .gives(400, "a workflow id is"),
        Attack::get("a run by a way around", "/v1/workflows/x%2F..%2Fbystander/events")
            .gives(400, "a workflow id is"),
        submitted("a run that names its namespace", json!({"id": "default/x", "definition": steps}))
            .gives(422, "/id"),
        submitted("a run of another namespace's template", json!({"template": "none/t"}))
            .gives(404, "NOT_FOUND"),
        Attack::new(
            "a token of a namespace above",
            "POST",
            "/v1/tokens",
            Body::Json(json!({"scopes": ["read"], "namespace": "../default"})),
        )
        .gives(422, "/namespace"),
        Attack::new(
            "a token of a namespace that is not there",
            "POST",
            "/v1/tokens",
            Body::Json(json!({"scopes": ["read"], "namespace": "none"})),
        )
        .gives(404, "NOT_FOUND"),
    ]
}
