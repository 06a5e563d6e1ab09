//! Schedules that must not be: that never fire, fire without end, or lie.

use serde_json::{Value, json};

use super::{Attack, Body};

/// A schedule that would be good but for these fields, and for a template that is not there.
fn with(name: &'static str, fields: Value) -> Attack {
    let mut body = json!({"id": "s", "template": "none"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Attack::new(name, "POST", "/v1/schedules", Body::Json(body))
}

fn cron(name: &'static str, pattern: impl Into<String>) -> Attack {
    with(name, json!({"cron": pattern.into()})).gives(422, "/cron")
}

fn zone(name: &'static str, zone: impl Into<String>) -> Attack {
    with(name, json!({"cron": "@daily", "timezone": zone.into()})).gives(422, "/timezone")
}

pub(super) fn schedules() -> Vec<Attack> {
    vec![
        with("a schedule of no template that is there", json!({"cron": "@daily"})).gives(404, "NOT_FOUND"),
        with("a schedule that never says when", json!({})).gives(422, "/cron"),
        with("a schedule with a path for an id", json!({"id": "../x", "cron": "@daily"})).gives(422, "/id"),
        with("a schedule with a slot for an id", json!({"id": "a:2026", "cron": "@daily"})).gives(422, "/id"),
        with("a schedule with too long an id", json!({"id": "a".repeat(101), "cron": "@daily"}))
            .gives(422, "/id"),
        with("a schedule of two minds", json!({"cron": "@daily", "interval": "1h"})).gives(422, "/interval"),
        with("a schedule of an unknown field", json!({"cron": "@daily", "time_zone": "UTC"}))
            .gives(422, "timezone"),
        with("a schedule that misses otherwise", json!({"cron": "@daily", "missed": "most"}))
            .gives(422, "/missed"),
        with("a schedule that overlaps otherwise", json!({"cron": "@daily", "overlap": "hope"}))
            .gives(422, "/overlap"),
        cron("a thirtieth of February", "0 0 30 2 *"),
        cron("a thirty-first of the short months", "0 0 31 2,4,6,9,11 *"),
        cron("a pattern of seconds", "* * * * * *"),
        cron("a pattern of a year", "0 0 1 1 * 2030"),
        cron("a pattern cut off", "* * *"),
        cron("an empty pattern", ""),
        cron("a minute that there is not", "60 * * * *"),
        cron("a step of nothing", "*/0 * * * *"),
        cron("a range that goes back", "30-10 * * * *"),
        cron("a number without end", format!("{} * * * *", "9".repeat(200))),
        cron("a list without end", format!("{}1 * * * *", "1,".repeat(60_000))),
        cron("a pattern at a start", "@reboot"),
        cron("a pattern that is a command", "* * * * * $(id)"),
        cron("a pattern of digits beyond ASCII", "١ * * * *"),
        cron("a pattern with a line end", "* * * * *\n* * * * *"),
        zone("a zone on Mars", "Mars/Olympus_Mons"),
        zone("a zone that is a file", "../../../etc/passwd"),
        zone("a zone that is a rule", "EST5EDT,M3.2.0,M11.1.0"),
        zone("a zone without end", "Z".repeat(60_000)),
        with("an interval below a second", json!({"interval": "999ms"})).gives(422, "/interval"),
        with("an interval of nothing", json!({"interval": "0s"})).gives(422, "/interval"),
        with("an interval that goes back", json!({"interval": "-1h"})).gives(422, "/interval"),
        with("an interval of ages", json!({"interval": "99999999999999999999h"})).gives(422, "/interval"),
        with("an interval in a zone", json!({"interval": "1h", "timezone": "UTC"})).gives(422, "/timezone"),
        with("a time that has passed", json!({"at": "1999-12-31T23:59:59Z"})).gives(422, "/at"),
        with("a time that cannot be written", json!({"at": "+10000-01-01T00:00:00Z"})).gives(422, "/at"),
        Attack::get("a schedule that is not there", "/v1/schedules/none").gives(404, "NOT_FOUND"),
        Attack::get("a schedule with an impossible id", "/v1/schedules/a%20b").gives(404, "NOT_FOUND"),
        Attack::get("slots without number", "/v1/schedules/none/next?n=1000000").gives(400, "/n"),
        Attack::new("a change of no schedule", "PATCH", "/v1/schedules/none", Body::Json(json!({})))
            .gives(404, "NOT_FOUND"),
        Attack::new("a deletion of no schedule", "DELETE", "/v1/schedules/none", Body::None)
            .gives(404, "NOT_FOUND"),
        Attack::new(
            "a template that never comes",
            "POST",
            "/v1/templates",
            Body::Json(json!({"name": "t", "triggers": {"cron": "0 0 30 2 *"},
                "definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}})),
        )
        .gives(422, "/triggers/cron"),
    ]
}
