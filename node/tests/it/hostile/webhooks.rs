//! Webhooks that must not be, on a node without a key for secrets; and places in no log.

use serde_json::{Value, json};

use super::{Attack, Body};

/// A webhook that would be good but for these fields, and for a key.
fn with(name: &'static str, fields: Value) -> Attack {
    let mut body = json!({"id": "w", "url": "https://example.com/", "events": ["workflow.failed"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Attack::new(name, "POST", "/v1/webhooks", Body::Json(body))
}

fn url(name: &'static str, url: impl Into<String>) -> Attack {
    with(name, json!({"url": url.into()})).gives(422, "/url")
}

fn secret(name: &'static str, secret: impl Into<String>) -> Attack {
    with(name, json!({"secret": secret.into()})).gives(422, "/secret")
}

fn filter(name: &'static str, filter: Value) -> Attack {
    with(name, json!({ "filter": filter })).gives(422, "/filter")
}

fn place(name: &'static str, place: &str) -> Attack {
    Attack::get(name, "/v1/events?follow=false").header("last-event-id", place).gives(400, "Last-Event-ID")
}

pub(super) fn webhooks() -> Vec<Attack> {
    let labels: Vec<String> = (0..1_000).map(|n| format!("l{n}:v")).collect();
    vec![
        with("a webhook where there is no key", json!({})).gives(503, "VAULT_ERROR"),
        url("a webhook to the metadata service", "http://169.254.169.254/latest/meta-data"),
        url("a webhook to it in an IPv6 address", "http://[::ffff:a9fe:a9fe]/"),
        url("a webhook to it as a number", "http://2852039166/"),
        url("a webhook to nowhere", "http://0.0.0.0/"),
        url("a webhook to a file", "file:///etc/passwd"),
        url("a webhook over gopher", "gopher://example.com/"),
        url("a webhook with a password", "https://user:pw@example.com/"),
        url("a webhook with a user", "https://user@example.com/"),
        url("a webhook with a header in its URL", "https://example.com/\r\nx-admin: 1"),
        url("a webhook with a fragment", "https://example.com/#a"),
        url("a webhook to a path", "/v1/workflows"),
        url("a webhook to a long URL", format!("https://example.com/{}", "a".repeat(5_000))),
        secret("a secret of a webhook that is plain", "hunter2"),
        secret("a secret of a webhook that is short", "whsec_c2hvcnQ="),
        secret("a secret of a webhook without end", format!("whsec_{}", "A".repeat(10_000))),
        secret("a secret of a webhook with a line end", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\r\nx: y"),
        with("a webhook with a path for an id", json!({"id": "../x"})).gives(422, "/id"),
        with("a webhook with a standing's id", json!({"id": "~standing/0"})).gives(422, "/id"),
        with("a webhook with too long an id", json!({"id": "a".repeat(65)})).gives(422, "/id"),
        with("a webhook of no events", json!({"events": []})).gives(422, "/events"),
        with("a webhook of an unknown event", json!({"events": ["workflow.complete"]}))
            .gives(422, "workflow.completed"),
        with("a webhook of events without end", json!({"events": vec!["workflow.failed"; 5_000]}))
            .gives(422, "/events"),
        with("a webhook of an unknown field", json!({"header": {"x": "y"}})).gives(422, "header"),
        filter("a filter of a thousand labels", json!({ "label": labels })),
        filter("a filter of a label that is none", json!({"label": "env"})),
        filter("a filter of a giant label", json!({"label": format!("a:{}", "x".repeat(60_000))})),
        filter("a filter of a giant template", json!({"template": "x".repeat(100_000)})),
        filter("a filter that is a program", json!({"cel": "true"})),
        filter("a filter that is a text", json!("template=a")),
        Attack::get("a webhook that is not there", "/v1/webhooks/none").gives(404, "NOT_FOUND"),
        Attack::get("a webhook that is a standing", "/v1/webhooks/~standing%2f0").gives(404, "NOT_FOUND"),
        Attack::get("failures of no webhook", "/v1/webhooks/none/failures").gives(404, "NOT_FOUND"),
        Attack::new("a change of no webhook", "PATCH", "/v1/webhooks/none", Body::Json(json!({})))
            .gives(404, "NOT_FOUND"),
        Attack::new("a ping to no webhook", "POST", "/v1/webhooks/none/test", Body::None)
            .gives(404, "NOT_FOUND"),
        Attack::new(
            "a try of a delivery with a path for an id",
            "POST",
            "/v1/webhooks/none/failures/..%2f..%2fx/retry",
            Body::None,
        )
        .gives(404, "NOT_FOUND"),
        place("a place that is a text", "latest"),
        place("a place of another cluster", "1-2-3-4-5-6-7-8-9-1-2-3-4-5-6-7-8-9-1-2-3-4-5-6-7-8-9-1-2-3"),
        place("a place with a sign", "-+1--"),
        place("a place without end", &"9".repeat(7_000)),
        Attack::get("a firehose of an unknown type", "/v1/events?type=workflow.failed").gives(400, "/type"),
        Attack::get("a firehose of a label that is none", "/v1/events?label=a").gives(400, "/label"),
        Attack::get("a firehose of labels without end", format!("/v1/events?{}", "label=a:b&".repeat(500)))
            .gives(400, "parameters"),
    ]
}
