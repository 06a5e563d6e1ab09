//! The console: every page, what it refuses, and what its forms do.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::node::{Answer, Node, request};

/// What no name, label or param may become.
const EVIL: &str = "\"><script>alert(1)</script><img src=x onerror=alert(2)>";

/// A page, asked for with a cookie.
async fn page(node: &Node, path: &str, cookie: &str) -> Answer {
    let mut request = request(Method::GET, path, Body::empty());
    if !cookie.is_empty() {
        request.headers_mut().insert("cookie", cookie.parse().expect("a header"));
    }
    node.send(request).await
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).expect("UTF-8")
}

/// A form of a page of ours, sent.
async fn send(node: &Node, path: &str, fields: &[(&str, &str)], headers: &[(&'static str, &str)]) -> Answer {
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let mut request = request(Method::POST, path, pairs.join("&").into());
    let kind = ("content-type", "application/x-www-form-urlencoded");
    for (name, value) in headers.iter().chain([&kind]) {
        request.headers_mut().insert(*name, value.parse().expect("a header"));
    }
    node.send(request).await
}

const OWN: (&str, &str) = ("origin", "http://127.0.0.1:4100");

async fn form(node: &Node, path: &str, fields: &[(&str, &str)]) -> Answer {
    send(node, path, fields, &[OWN]).await
}

fn asks(id: &str) -> Value {
    json!({"id": id, "labels": {"team": "tea"}, "params": {"n": 1}, "definition": {"steps": [
        {"id": "first", "action": "workflow.log", "params": {"message": "m"}},
        {"id": "ask", "type": "reasoning", "depends_on": ["first"], "config": {"prompt_context": "Shall it?",
            "options": [{"id": "yes", "description": "y"}, {"id": "no", "description": "n"}]}}]}})
}

fn fails(id: &str) -> Value {
    json!({"id": id, "definition": {"steps": [
        {"id": "good", "action": "workflow.log", "params": {"message": "m"}},
        {"id": "bad", "action": "workflow.fail", "depends_on": ["good"], "params": {"reason": "no tea"}}]}})
}

/// A node with one of everything.
async fn furnished() -> Node {
    let node = Node::start().await;
    assert_eq!(node.post("/v1/workflows?wait=10s", &asks("w")).await.status, 201);
    let steps = json!([{"id": "a", "action": "workflow.log", "params": {"message": "m"}}]);
    for message in ["m", "n"] {
        let mut steps = steps.clone();
        steps[0]["params"]["message"] = message.into();
        let template = json!({"name": "t", "description": "d", "definition": {"steps": steps}});
        assert_eq!(node.post("/v1/templates", &template).await.status, 201);
    }
    let schedule = json!({"id": "s", "template": "t", "cron": "0 3 * * *"});
    assert_eq!(node.post("/v1/schedules", &schedule).await.status, 201);
    node
}

const PAGES: [&str; 32] = [
    "/console/",
    "/console/workflows",
    "/console/workflows?status=failed&status=active&template=t&label=a:b&since=2026-01-01T00:00:00Z",
    "/console/workflows?q=none",
    "/console/bulk?action=cancel",
    "/console/start",
    "/console/start?from=w",
    "/console/start?template=t&version=v1",
    "/console/workflows/w",
    "/console/workflows/w?tab=events",
    "/console/workflows/w?tab=data",
    "/console/workflows/w?tab=definition",
    "/console/workflows/w/why",
    "/console/workflows/w/step?id=first",
    "/console/workflows/w/do/cancel",
    "/console/workflows/w/do/retry?from_step=first",
    "/console/workflows/w/do/signal",
    "/console/decisions",
    "/console/decision?workflow=w&step=ask",
    "/console/templates",
    "/console/template/t",
    "/console/template/t/diff?from=v1&to=v2",
    "/console/templates/edit",
    "/console/templates/edit?name=t&version=v1",
    "/console/schedules",
    "/console/schedule/s",
    "/console/schedule/s/do/backfill",
    "/console/events",
    "/console/agents",
    "/console/plugins",
    "/console/cluster",
    "/console/settings",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_whole_and_lets_nothing_in() {
    let node = furnished().await;
    for path in PAGES {
        let answer = page(&node, path, "").await;
        let text = text(&answer);
        assert_eq!(answer.status, 200, "{path}: {text}");
        let policy = answer.header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (answer.header("cache-control"), answer.header("x-content-type-options")),
            ("no-store", "nosniff")
        );
        assert!(text.contains("<main") && text.contains("<h1") && text.contains("<title>"), "{path}: {text}");
        // One script, one stylesheet, both files; nothing of either kind in the page itself.
        assert_eq!((text.matches("<script").count(), text.matches("<style").count()), (1, 0), "{path}");
        for inline in [" style=", " onclick=", " onload=", "javascript:"] {
            assert!(!text.contains(inline), "{path} has {inline}");
        }
        assert!(text.len() < 200_000, "{path}: {} bytes", text.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_kept_by_browsers_and_the_first_load_is_small() {
    let node = furnished().await;
    let first = page(&node, "/console/", "").await;
    let mut bytes = first.body.len();
    let text = text(&first);
    let addresses: Vec<&str> = text.split('"').filter(|part| part.starts_with("/console/assets/")).collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for address in addresses {
        let file = node.get(address).await;
        assert_eq!(file.status, 200, "{address}");
        assert!(file.header("cache-control").contains("immutable"), "{address}");
        bytes += file.body.len();
    }
    assert!(bytes < 300_000, "{bytes} bytes");
    assert_eq!(node.get("/console/assets/0/console.js").await.status, 404);
    let root = node.get("/").await;
    assert_eq!((root.status, root.header("location")), (303, "/console/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_stay_text() {
    let node = Node::start().await;
    let mut run = asks("evil");
    run["labels"] = json!({"team": EVIL});
    run["params"] = json!({EVIL: EVIL});
    run["agent_id"] = EVIL.into();
    run["context"] = json!({"intent": EVIL});
    run["definition"]["steps"][0]["params"]["message"] = EVIL.into();
    run["definition"]["steps"][1]["config"]["prompt_context"] = EVIL.into();
    run["definition"]["steps"][1]["config"]["options"][0]["description"] = EVIL.into();
    run["definition"]["steps"].as_array_mut().expect("steps").push(json!({"id": "pick", "type": "condition",
        "config": {"expression": "true", "branches": {EVIL: [{"id": "x", "action": "crypto.uuid"}]}, "default": []}}));
    let started = node.post("/v1/workflows?wait=10s", &run).await;
    assert_eq!(started.status, 201, "{}", started.json());
    let template =
        json!({"name": "t", "description": EVIL, "category": EVIL, "definition": run["definition"]});
    assert_eq!(node.post("/v1/templates", &template).await.status, 201);
    let asked: String = EVIL.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let reflected = [
        "workflows?q=",
        "workflows?template=",
        "workflows?label=a:",
        "sign-in?next=",
        "workflows/",
        "start?template=",
        "decisions?agent_id=",
        "events?type=",
        "settings/do/revoke?id=",
        "cluster/do/drain?node=",
        "workflows/evil/do/retry?from_step=",
        "workflows/evil/step?id=",
    ];
    let pages = [
        "",
        "workflows",
        "bulk?action=cancel",
        "workflows/evil",
        "workflows/evil?tab=events",
        "workflows/evil?tab=data",
        "workflows/evil?tab=definition",
        "workflows/evil/step?id=first",
        "start?from=evil",
        "decisions",
        "decision?workflow=evil&step=ask",
        "templates",
        "template/t",
        "templates/edit?name=t",
        "agents",
    ];
    let pages = pages.map(|path| format!("/console/{path}"));
    for path in pages.into_iter().chain(reflected.map(|path| format!("/console/{path}{asked}"))) {
        let answer = page(&node, &path, "").await;
        let text = text(&answer);
        assert!(!text.contains("<script>alert") && !text.contains("<img"), "{path}: {text}");
        assert!(answer.status < 500, "{path}: {}", answer.status);
    }
    assert!(
        text(&page(&node, "/console/workflows", "").await).contains("&lt;script&gt;") || {
            text(&page(&node, "/console/workflows", "").await).contains("&#60;script&#62;")
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_comes_from_a_page_of_ours_or_not_at_all() {
    let node = furnished().await;
    let path = "/console/workflows/w/do/cancel";
    let others: [&[(&str, &str)]; 5] = [
        &[],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "none")],
    ];
    for headers in others {
        let answer = send(&node, path, &[], headers).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    assert_eq!(node.get("/v1/workflows/w").await.json()["status"], "suspended");
    let done = form(&node, path, &[("reason", "enough")]).await;
    assert_eq!((done.status, done.header("location")), (303, "/console/workflows/w?note=cancel"));
    let run = node.get("/v1/workflows/w?wait=10s").await.json();
    assert_eq!(run["status"], "cancelled");
    // What asks before it does anything does nothing by being looked at.
    assert_eq!(node.get("/console/workflows/w/do/delete").await.status, 200);
    assert_eq!(node.get("/v1/workflows/w").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_kept_where_no_script_reads_it_and_counts_for_what_it_may() {
    let node = furnished().await;
    let made = node.post("/v1/tokens", &json!({"scopes": ["read"]})).await.json();
    let token = made["token"].as_str().expect("a token");
    for wrong in ["", "a b", "opc_0123456789abcdef_wrong"] {
        let answer = form(&node, "/console/sign-in", &[("token", wrong)]).await;
        assert!(matches!(answer.status, 401 | 422), "{wrong}: {}", answer.status);
        assert_eq!(answer.header("set-cookie"), "", "{wrong}");
    }
    let fields = [("token", token), ("next", "/console/workflows")];
    let answer = form(&node, "/console/sign-in", &fields).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/console/workflows"));
    let cookie = answer.header("set-cookie").to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/console"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let kept = cookie.split(';').next().expect("a pair");
    assert_eq!(page(&node, "/console/workflows", kept).await.status, 200);
    let refused = send(&node, "/console/workflows/w/do/cancel", &[], &[OWN, ("cookie", kept)]).await;
    let text = text(&refused);
    assert_eq!(refused.status, 403);
    assert!(text.contains("the scope `run`") && text.contains("PERMISSION_DENIED"), "{text}");
    assert!(!page(&node, "/console/settings", kept).await.body.windows(5).any(|part| part == b"cron "));
    // A token that is known no more has its bearer sign in again.
    let unknown =
        page(&node, "/console/workflows?status=failed", "opcode_token=opc_0123456789abcdef_x").await;
    let sign_in = "/console/sign-in?next=%2Fconsole%2Fworkflows%3Fstatus%3Dfailed";
    assert_eq!((unknown.status, unknown.header("location")), (303, sign_in));
    let out = send(&node, "/console/sign-out", &[], &[OWN, ("cookie", kept)]).await;
    assert!(out.header("set-cookie").contains("Max-Age=0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_made_and_a_run_is_retried_from_a_step() {
    let node = furnished().await;
    let asked = text(&page(&node, "/console/decisions", "").await);
    assert!(
        asked.contains("/console/decision?workflow=w&#38;step=ask")
            || asked.contains("/console/decision?workflow=w&amp;step=ask"),
        "{asked}"
    );
    let wrong =
        form(&node, "/console/decision", &[("workflow", "w"), ("step", "ask"), ("choice", "maybe")]).await;
    assert!(wrong.status >= 400 && text(&wrong).contains("role=\"alert\""), "{}", wrong.status);
    let fields =
        [("workflow", "w"), ("step", "ask"), ("choice", "yes"), ("reasoning", "tea"), ("data", "{\"n\": 2}")];
    let made = form(&node, "/console/decision", &fields).await;
    assert_eq!((made.status, made.header("location")), (303, "/console/workflows/w?note=decided"));
    let run = node.get("/v1/workflows/w?wait=10s").await.json();
    assert_eq!(
        (&run["output"]["ask"]["choice"], &run["output"]["ask"]["data"]["n"]),
        (&json!("yes"), &json!(2))
    );

    assert_eq!(node.post("/v1/workflows?wait=10s", &fails("f")).await.json()["status"], "failed");
    let shown = text(&page(&node, "/console/workflows/f", "").await);
    assert!(shown.contains("s-failed") && shown.contains("data-step=\"bad\""), "{shown}");
    let retry = "/console/workflows/f/do/retry";
    assert_eq!(form(&node, retry, &[("params", "{")]).await.status, 400);
    assert_eq!(form(&node, retry, &[("from_step", "good"), ("params", "{\"x\": 1}")]).await.status, 303);
    let run = node.get("/v1/workflows/f?wait=10s").await.json();
    assert_eq!((&run["attempt"], &run["params"]["x"]), (&json!(2), &json!(1)), "{run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_cancelled_once_their_number_was_seen() {
    let node = furnished().await;
    for id in ["x", "y"] {
        assert_eq!(node.post("/v1/workflows?wait=10s", &asks(id)).await.status, 201);
    }
    let preview = text(&page(&node, "/console/bulk?action=cancel&label=team:tea", "").await);
    assert!(preview.contains("3 match") && preview.contains("--label team=tea"), "{preview}");
    let done =
        form(&node, "/console/bulk", &[("action", "cancel"), ("label", "team:tea"), ("reason", "r")]).await;
    assert!(text(&done).contains("3 of 3 done"), "{}", text(&done));
    let left = node.get("/v1/workflows?status=suspended").await.json();
    assert_eq!(left["items"], json!([]));
    for (action, status) in [("explode", 404), ("", 404)] {
        assert_eq!(form(&node, "/console/bulk", &[("action", action)]).await.status, status);
    }
    assert_eq!(form(&node, "/console/bulk", &[("action", "cancel"), ("label", "tea")]).await.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_is_written_and_its_mistakes_are_told_by_line() {
    let node = furnished().await;
    let wrong =
        "{\"name\": \"u\",\n \"definition\": {\"steps\": [\n  {\"id\": \"a\", \"action\": \"http.gett\"}]}}";
    let answer = form(&node, "/console/templates/edit", &[("file", wrong)]).await;
    let text = text(&answer);
    assert_eq!(answer.status, 422);
    assert!(text.contains("line 3") && text.contains("http.gett"), "{text}");
    let mut check = request(Method::POST, "/console/templates/check", wrong.into());
    check.headers_mut().insert("origin", OWN.1.parse().expect("a header"));
    check.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    let told = node.send(check).await.json();
    assert_eq!((&told["valid"], &told["problems"][0]["line"]), (&json!(false), &json!(3)), "{told}");
    let right = wrong.replace("http.gett", "crypto.uuid");
    let saved = form(&node, "/console/templates/edit", &[("file", &right)]).await;
    assert_eq!(saved.header("location"), "/console/template/u?version=v1&note=defined");
    let again = form(&node, "/console/templates/edit", &[("file", &right)]).await;
    assert!(again.header("location").ends_with("note=same"));
    let changed = text_of(&node, "/console/template/t/diff?from=v1&to=v2").await;
    assert!(changed.contains("class=\"gone\"") && changed.contains("class=\"new\""), "{changed}");
    assert_eq!(
        form(&node, "/console/templates/pause", &[("name", "u"), ("paused", "true")]).await.status,
        303
    );
    assert_eq!(node.get("/v1/templates/u").await.json()["paused"], true);
}

async fn text_of(node: &Node, path: &str) -> String {
    text(&page(node, path, "").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_schedules_and_tokens_are_made_by_forms() {
    let node = furnished().await;
    let start = [("template", "t"), ("params", "{}"), ("id", "made"), ("labels", "a:b\r\nc:d\r\n")];
    let started = form(&node, "/console/start", &start).await;
    assert_eq!(started.header("location"), "/console/workflows/made?note=started");
    let run = node.get("/v1/workflows/made?wait=10s").await.json();
    assert_eq!((&run["labels"]["c"], &run["status"]), (&json!("d"), &json!("completed")));
    let wrong = form(&node, "/console/start", &[("template", "none"), ("params", "{")]).await;
    assert!(wrong.status == 400 && text(&wrong).contains("value=\"none\""), "{}", text(&wrong));
    assert_eq!(form(&node, "/console/start", &[("template", "none")]).await.status, 404);

    let new = [("id", "n"), ("template", "t"), ("interval", "1h"), ("timezone", "UTC"), ("params", "{}")];
    let made = form(&node, "/console/schedules/new", &new).await;
    assert_eq!(made.header("location"), "/console/schedule/n?note=scheduled", "{}", text(&made));
    for act in ["pause", "resume", "trigger", "delete"] {
        assert_eq!(form(&node, &format!("/console/schedule/n/do/{act}"), &[]).await.status, 303, "{act}");
    }
    assert_eq!(node.get("/v1/schedules/n").await.status, 404);
    assert_eq!(form(&node, "/console/schedule/s/do/backfill", &[("since", "x")]).await.status, 422);

    let token = form(&node, "/console/settings/do/token", &[("scopes", "read, run"), ("name", "ci")]).await;
    assert!(token.status == 200 && text(&token).contains("opc_"), "{}", text(&token));
    let listed = node.get("/v1/tokens").await.json();
    let id = listed["items"][0]["token_id"].as_str().expect("an id");
    assert!(text_of(&node, "/console/settings").await.contains(id));
    assert_eq!(form(&node, "/console/settings/do/revoke", &[("id", id)]).await.status, 303);
    assert_eq!(node.get("/v1/tokens").await.json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_follows_its_run_by_a_stream_that_resumes() {
    let node = furnished().await;
    let shown = text_of(&node, "/console/workflows/w").await;
    let address =
        shown.split("data-stream=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a stream");
    assert!(address.starts_with("/console/workflows/w/stream?after="), "{address}");
    form(&node, "/console/workflows/w/do/cancel", &[]).await;
    node.get("/v1/workflows/w?wait=10s").await;
    // From where the page was: what came since, and then the end.
    let mut events = request(Method::GET, address, Body::empty());
    events.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
    let told = text(&node.send(events).await);
    assert!(
        told.contains("event: workflow_cancelled") && !told.contains("event: workflow_started"),
        "{told}"
    );
    let last =
        told.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().expect("an id").to_owned();
    let mut resumed = request(Method::GET, "/console/workflows/w/stream", Body::empty());
    resumed.headers_mut().insert("last-event-id", last.parse().expect("a header"));
    assert_eq!(node.send(resumed).await.status, 204);
    assert!(!text_of(&node, "/console/workflows/w").await.contains("data-stream"));
}
