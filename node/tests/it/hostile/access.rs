//! The audit log asked for what is not a list of it, and quotas that are none.

use serde_json::{Value, json};

use super::{Attack, Body};

fn audit(name: &'static str, query: &str) -> Attack {
    Attack::get(name, format!("/v1/audit?{query}")).gives(400, "VALIDATION_ERROR")
}

fn limited(name: &'static str, limit: Value, word: &'static str) -> Attack {
    let body = json!({"scopes": ["read"], "rate_limit": limit});
    Attack::new(name, "POST", "/v1/tokens", Body::Json(body)).gives(422, word)
}

pub(super) fn access() -> Vec<Attack> {
    vec![
        audit("an audit cursor of another list", "cursor=MSAxNzAwMDAwMDAwMDAwIG9yZGVyLTE"),
        audit("an audit cursor that is not base64", "cursor=..%2F..%2Fetc%2Fpasswd"),
        audit("an audit cursor without end", &format!("cursor={}", "A".repeat(20_000))),
        audit("an audit status that is a pattern", "status=%25"),
        audit("an audit list of a time that is none", "since=yesterday"),
        audit("an audit list of more than there is room for", "limit=1000000"),
        audit("an audit list by a field that is none", "body=x"),
        Attack::new("an audit log that is written by a caller", "POST", "/v1/audit", Body::Json(json!({})))
            .gives(405, "VALIDATION_ERROR"),
        Attack::new("an audit log that is deleted", "DELETE", "/v1/audit", Body::None)
            .gives(405, "VALIDATION_ERROR"),
        Attack::new("a path with line ends", "POST", "/v1/a%0d%0a%7B%22seq%22:1%7D", Body::None)
            .gives(404, "NOT_FOUND"),
        Attack::new("a path of 30 KB", "POST", format!("/v1/{}", "x".repeat(30_000)), Body::None)
            .gives(404, "NOT_FOUND"),
        Attack::get("an agent with a line end in a header", "/v1/workflows")
            .header("opcode-agent", "a%0Ab")
            .gives(400, "Opcode-Agent"),
        limited("a quota of nothing", json!({"requests_per_second": 0}), "/rate_limit/requests_per_second"),
        limited("a quota below nothing", json!({"requests_per_second": -1}), "requests_per_second"),
        limited("a quota of a fraction", json!({"requests_per_second": 0.5}), "requests_per_second"),
        limited("a quota beyond numbers", json!({"requests_per_second": 1e300}), "requests_per_second"),
        limited("a burst without a rate", json!({"burst": 10}), "/rate_limit/requests_per_second"),
        limited("a quota that is a text", json!("many"), "/rate_limit"),
        limited(
            "a quota with a window",
            json!({"requests_per_second": 1, "window": 60}),
            "/rate_limit/window",
        ),
    ]
}
