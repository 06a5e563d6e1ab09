//! Attacks on the console: pages of other sites, forms that are none, names that would break out.

use super::{Attack, Body};

/// A form as a page of the console would send it.
fn form(name: &'static str, path: &str, fields: &str) -> Attack {
    foreign(name, path, fields).header("sec-fetch-site", "same-origin")
}

/// The same from nowhere.
fn foreign(name: &'static str, path: &str, fields: &str) -> Attack {
    Attack::new(name, "POST", path, Body::Text(fields.to_owned()))
        .header("content-type", "application/x-www-form-urlencoded")
}

pub(super) fn pages() -> Vec<Attack> {
    let cancel = "/console/workflows/bystander/do/cancel";
    let denied = "PERMISSION_DENIED";
    vec![
        foreign("a form that says of no page", cancel, "").gives(403, denied),
        foreign("a form of another site", cancel, "")
            .header("origin", "http://evil.example")
            .gives(403, denied),
        foreign("a form of a sandboxed page", cancel, "").header("origin", "null").gives(403, denied),
        foreign("a form that another site sends along", cancel, "")
            .header("sec-fetch-site", "cross-site")
            .gives(403, denied),
        Attack::get("the console under another name", "/console/")
            .header("host", "evil.example")
            .gives(403, denied),
        Attack::get("a page of a workflow that is none", "/console/workflows/none").gives(404, "NOT_FOUND"),
        Attack::get("a page of an id that breaks out", "/console/workflows/%22%3E%3Cscript%3Ealert(1)")
            .gives(400, "VALIDATION_ERROR"),
        Attack::get("an act that there is none of", "/console/workflows/bystander/do/explode")
            .gives(404, "NOT_FOUND"),
        Attack::get("a file beside the console's", "/console/assets/0/..%2f..%2fetc%2fpasswd").gives(404, ""),
        Attack::get("words put into a page by its address", "/console/?note=%3Cscript%3Ealert(1)")
            .gives(200, "<main"),
        form("a start of what is not JSON", "/console/start", "definition=%7B").gives(400, "not JSON"),
        form("a start of nothing", "/console/start", "").gives(422, "role=\"alert\""),
        form("a bulk act that is none", "/console/bulk", "action=explode").gives(404, "NOT_FOUND"),
        form("a bulk act by half a label", "/console/bulk", "action=cancel&label=tea"),
        form("a decision on nothing", "/console/decision", "workflow=none&step=a&choice=b")
            .gives(404, "NOT_FOUND"),
        form(
            "a decision by the wrong agent",
            "/console/decision",
            "workflow=bystander&step=ask&choice=yes&agent_id=me",
        )
        .gives(403, "role=\"alert\""),
        form("a template that is none", "/console/templates/edit", "file=%7B%22name%22%3A%22a%22%7D")
            .gives(422, "role=\"alert\""),
        form("a token that is none", "/console/sign-in", "token=a%0Ab&next=//evil.example")
            .gives(422, "role=\"alert\""),
        form("a scope that is none", "/console/settings/do/token", "scopes=everything")
            .gives(422, "role=\"alert\""),
        form("a schedule of nothing", "/console/schedules/new", "template=none&cron=x")
            .gives(422, "role=\"alert\""),
        form("fields without end", cancel, &"a=b&".repeat(2_000_000)).gives(413, "PAYLOAD_TOO_LARGE"),
    ]
}
