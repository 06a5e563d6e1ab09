//! What operators must not be able to do, or to do by accident.

use serde_json::{Value, json};

use super::{Attack, Body};

fn bulk(name: &'static str, body: Value) -> Attack {
    Attack::new(name, "POST", "/v1/workflows/bulk", Body::Json(body))
}

fn pause(name: &'static str, template: &str, body: Value) -> Attack {
    Attack::new(name, "PATCH", format!("/v1/templates/{template}"), Body::Json(body))
}

fn delete(name: &'static str, id: &str) -> Attack {
    Attack::new(name, "DELETE", format!("/v1/workflows/{id}"), Body::None)
}

pub(super) fn operations() -> Vec<Attack> {
    vec![
        delete("a deletion of a run that has not ended", "bystander").gives(409, "INVALID_TRANSITION"),
        delete("a deletion of a run that is not there", "none").gives(404, "NOT_FOUND"),
        delete("a deletion of an impossible id", "a%20b").gives(400, "a workflow id is"),
        delete("a deletion with a condition that is none", "bystander?force=true").gives(400, "force"),
        delete("a deletion of all runs", "").gives(404, ""),
        bulk("a bulk of no bounds", json!({"action": "cancel", "filter": {}, "limit": 0}))
            .gives(422, "/limit"),
        bulk("a bulk beyond all bounds", json!({"action": "delete", "filter": {}, "limit": 100_001}))
            .gives(422, "/limit"),
        bulk("a bulk from nowhere", json!({"action": "delete", "filter": {}, "cursor": "MSAxIGE"}))
            .gives(422, "/cursor"),
        bulk(
            "a bulk from a long way off",
            json!({"action": "delete", "filter": {}, "cursor": "M".repeat(60_000)}),
        )
        .gives(422, "/cursor"),
        bulk("a bulk of a status that is none", json!({"action": "delete", "filter": {"status": "'; --"}}))
            .gives(422, "/filter/status"),
        bulk("a bulk with a filter that is none", json!({"action": "delete", "filter": {"sql": "1=1"}}))
            .gives(422, "/filter/sql"),
        bulk(
            "a deletion with a signal",
            json!({"action": "delete", "filter": {}, "signal": {"type": "cancel"}}),
        )
        .gives(422, "/signal"),
        pause("a pause of no template", "none", json!({"paused": true})).gives(404, "NOT_FOUND"),
        pause("a pause of an impossible template", "a%20b", json!({"paused": true})).gives(404, "NOT_FOUND"),
        pause("a pause that does not say", "none", json!({})).gives(422, "/paused"),
        pause(
            "a pause with a reason without end",
            "none",
            json!({"paused": true, "reason": "x".repeat(5_000)}),
        )
        .gives(422, "/reason"),
    ]
}
