//! Callers who are not who they say they are, and tokens that must not be.

use serde_json::{Value, json};

use super::{Attack, Body};

fn made(name: &'static str, body: Value) -> Attack {
    Attack::new(name, "POST", "/v1/tokens", Body::Json(body))
}

/// A read with this `Authorization`.
fn shown(name: &'static str, value: impl Into<String>) -> Attack {
    Attack::get(name, "/v1/workflows").header("authorization", value).gives(401, "UNAUTHENTICATED")
}

pub(super) fn identity() -> Vec<Attack> {
    let guess = |secret: &str| format!("Bearer opc_0123456789abcdef_{secret}");
    vec![
        shown("a guessed token", guess(&"A".repeat(43))),
        shown("a token without its secret", guess("")),
        shown("a token with a pattern for a secret", guess("%")),
        shown("a token of 6 KB", guess(&"A".repeat(6_000))),
        shown("a guessed token in another case of the scheme", "bEARER opc_0123456789abcdef_x"),
        made("a token for nothing", json!({"scopes": []})).gives(422, "/scopes"),
        made("a token of an unknown scope", json!({"scopes": ["read", "root"]})).gives(422, "root"),
        made("a token of scopes in a string", json!({"scopes": "admin"})).gives(422, "/scopes"),
        made("a token whose secret is chosen", json!({"scopes": ["read"], "token": "mine"}))
            .gives(422, "/token"),
        made("a token that has expired", json!({"scopes": ["read"], "expires_at": "1999-01-01T00:00:00Z"}))
            .gives(422, "/expires_at"),
        made("a token of an agent with a line end", json!({"scopes": ["read"], "agent_id": "a\nb"}))
            .gives(422, "/agent_id"),
        Attack::new(
            "a token that is not there is deleted",
            "DELETE",
            "/v1/tokens/0123456789abcdef",
            Body::None,
        )
        .gives(404, "NOT_FOUND"),
        Attack::get("a page about a path", "/errors/..%2F..%2Fetc%2Fpasswd").gives(404, "NOT_FOUND"),
        Attack::get("a page about a script", "/errors/%3Cscript%3E").gives(404, "NOT_FOUND"),
        Attack::get("a page that is not UTF-8", "/errors/%FF").gives(400, "VALIDATION_ERROR"),
        Attack::get("a traceparent with more of the document in it", "/v1/workflows/nobody")
            .header("traceparent", "00-\",\"status\":200,\"x\":\"-00f067aa0ba902b7-01")
            .gives(404, "\"status\":404"),
        Attack::get("a trace of nothing", "/v1/workflows/nobody")
            .header("traceparent", format!("00-{}-{}-01", "0".repeat(32), "0".repeat(16)))
            .gives(404, "\"trace_id\":\"01"),
        Attack::new("a token with a path for an id", "DELETE", "/v1/tokens/..%2Fsecrets", Body::None)
            .gives(404, "NOT_FOUND"),
    ]
}
