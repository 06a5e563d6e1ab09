//! Tokens of the cluster: what each lets its bearer do, whom it speaks for, and when it ends.

use axum::body::Body;
use axum::http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::node::{Answer, Node, request};

async fn made(node: &Node, body: Value) -> (String, String) {
    let answer = node.post("/v1/tokens", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.json());
    assert_eq!(answer.header("cache-control"), "no-store");
    let made = answer.json();
    let text = |name: &str| made[name].as_str().expect("a string").to_owned();
    (text("token_id"), text("token"))
}

async fn with(node: &Node, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
    let body = body.map_or_else(Body::empty, |body| body.to_string().into());
    let mut request = request(method, path, body);
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    node.send(request).await
}

fn waiting(id: &str, target: Option<&str>) -> Value {
    let config = json!({"prompt_context": "?", "options": [{"id": "yes", "description": "y"}], "target_agent": target});
    json!({"id": id, "definition": {"steps": [{"id": "ask", "type": "reasoning", "config": config}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_its_bearer_do_what_its_scopes_say_and_no_more() {
    let node = Node::start().await;
    let template = json!({"name": "t", "definition": {"steps": [{"id": "a", "action": "workflow.log", "params": {"message": "m"}}]}});
    let decision = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    let data = json!({"type": "data", "payload": {"k": 1}});
    let calls: [(&str, Method, &str, Option<Value>); 10] = [
        ("read", Method::GET, "/v1/workflows", None),
        ("read", Method::GET, "/v1/cluster", None),
        ("run", Method::POST, "/v1/workflows", Some(waiting("w", None))),
        ("run", Method::POST, "/v1/workflows/w/signals", Some(data)),
        ("decide", Method::POST, "/v1/workflows/w/signals", Some(decision)),
        ("define", Method::POST, "/v1/templates", Some(template)),
        ("admin", Method::DELETE, "/v1/workflows/none", None),
        ("admin", Method::GET, "/v1/tokens", None),
        ("admin", Method::GET, "/v1/secrets", None),
        ("admin", Method::PUT, "/v1/secrets/k", Some(json!({"value": "v"}))),
    ];
    for scope in ["read", "define", "decide", "run", "admin"] {
        let (_, token) = made(&node, json!({"scopes": [scope]})).await;
        for (asked, method, path, body) in &calls {
            let answer = with(&node, &token, method.clone(), path, body.clone()).await;
            let is_refused = answer.status == 403;
            assert_eq!(
                !is_refused,
                scope == *asked || scope == "admin",
                "{scope}: {method} {path}: {}",
                answer.status
            );
            if is_refused {
                let problem = answer.json();
                assert_eq!(problem["code"], "PERMISSION_DENIED");
                assert!(problem["detail"].as_str().unwrap().contains(asked), "{problem}");
            }
        }
        // Nothing is stored by it, and each tool of MCP is a call of its own.
        let validated = with(&node, &token, Method::POST, "/v1/validate", Some(json!({"steps": []}))).await;
        assert_ne!(validated.status, 403);
        // To steer many asks for `run`, and to delete them for more.
        for (action, wanted) in [("cancel", "run"), ("delete", "admin")] {
            let bulk = json!({"action": action, "filter": {}, "dry_run": true});
            let answer = with(&node, &token, Method::POST, "/v1/workflows/bulk", Some(bulk)).await;
            assert_eq!(answer.status == 200, scope == wanted || scope == "admin", "{scope}: {action}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_an_agent_speaks_for_that_agent_and_for_no_other() {
    let node = Node::start().await;
    let (_, token) = made(&node, json!({"scopes": ["run", "decide", "read"], "agent_id": "alice"})).await;
    let mut body = waiting("a", Some("alice"));
    body["agent_id"] = "bob".into();
    for (path, body) in [
        ("/v1/workflows", body.clone()),
        ("/v1/workflows/bulk", json!({"action": "cancel", "filter": {}, "agent_id": "bob"})),
    ] {
        let refused = with(&node, &token, Method::POST, path, Some(body)).await;
        assert_eq!(
            (refused.status, refused.json()["code"].as_str().unwrap()),
            (403, "PERMISSION_DENIED"),
            "{path}"
        );
    }
    let items = json!({"workflows": [body]});
    let refused = with(&node, &token, Method::POST, "/v1/workflows/batch", Some(items)).await.json();
    assert_eq!(refused["results"][0]["status"], 403, "{refused}");
    assert_eq!(node.get("/v1/workflows/a").await.status, 404, "nothing was done");

    let started = with(&node, &token, Method::POST, "/v1/workflows", Some(waiting("a", Some("alice")))).await;
    assert_eq!(started.status, 201);
    assert_eq!(node.get("/v1/workflows/a").await.json()["agent_id"], "alice");
    // Another agent's token cannot decide for it, whatever it says.
    let (_, other) = made(&node, json!({"scopes": ["decide"], "agent_id": "mallory"})).await;
    let decision = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    let lie =
        json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}, "agent_id": "alice"});
    for body in [&decision, &lie] {
        let refused = with(&node, &other, Method::POST, "/v1/workflows/a/signals", Some(body.clone())).await;
        assert_eq!(refused.status, 403, "{}", refused.json());
    }
    let decided = with(&node, &token, Method::POST, "/v1/workflows/a/signals", Some(decision)).await;
    assert_eq!(decided.status, 202, "{}", decided.json());
    let run = node.get("/v1/workflows/a?wait=10s").await.json();
    assert_eq!(run["steps"]["ask"]["output"]["resolved_by"], "alice", "{run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_wrong_over_or_deleted_is_not_taken() {
    let node = Node::start().await;
    let (id, token) = made(&node, json!({"scopes": ["read"], "name": "one"})).await;
    let list = |token: String| {
        let node = &node;
        async move { with(node, &token, Method::GET, "/v1/workflows", None).await }
    };
    assert_eq!(list(token.clone()).await.status, 200);
    let last = if token.ends_with('A') { "B" } else { "A" };
    let wrong = format!("{}{last}", &token[..token.len() - 1]);
    for wrong in [wrong, token[..30].to_owned(), format!("{token}A"), format!("opc_{}_x", "0".repeat(16))] {
        let refused = list(wrong.clone()).await;
        assert_eq!(refused.status, 401, "{wrong}");
        assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"opcode\"");
        assert!(!refused.json().to_string().contains(&wrong), "it is not echoed");
    }
    let listed = node.get("/v1/tokens").await.json();
    assert_eq!(listed["items"][0]["token_id"], id.as_str());
    assert!(!listed.to_string().contains(&token[21..]), "{listed}");
    for (body, at) in [
        (json!({}), "/scopes"),
        (json!({"scopes": []}), "/scopes"),
        (json!({"scopes": ["root"]}), "/scopes"),
        (json!({"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"scopes": ["read"], "scope": "x"}), "/scope"),
    ] {
        let refused = node.post("/v1/tokens", &body).await;
        assert_eq!((refused.status, refused.json()["errors"][0]["pointer"].as_str().unwrap()), (422, at));
    }
    assert_eq!(node.delete(&format!("/v1/tokens/{id}")).await.status, 200);
    assert_eq!(list(token).await.status, 401, "the node through which it was deleted knows at once");
    assert_eq!(node.delete(&format!("/v1/tokens/{id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_has_its_quota_and_is_told_what_is_left_of_it() {
    let node = Node::start().await;
    let limit = json!({"requests_per_second": 1, "burst": 3});
    let (_, token) = made(&node, json!({"scopes": ["read"], "rate_limit": limit})).await;
    let (_, other) = made(&node, json!({"scopes": ["read"]})).await;
    let list = async |token: &str| with(&node, token, Method::GET, "/v1/workflows", None).await;
    for left in [2, 1, 0] {
        let answer = list(&token).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), "\"default\";q=3;w=3");
        let told = answer.header("ratelimit");
        assert!(told.starts_with(&format!("\"default\";r={left};t=")), "{told}");
    }
    let refused = list(&token).await;
    let problem = refused.json();
    assert_eq!(
        (refused.status, &problem["code"], &problem["applied"]),
        (429, &json!("OVERLOADED"), &json!("no"))
    );
    assert_eq!(
        (refused.header("retry-after"), refused.header("ratelimit-policy")),
        ("1", "\"default\";q=3;w=3")
    );
    // What it may not do counts too, and what others say of where it comes from changes nothing.
    let mut forwarded = request(Method::GET, "/v1/tokens", Body::empty());
    forwarded.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    forwarded.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("203.0.113.9"));
    assert_eq!(node.send(forwarded).await.status, 429);
    for _ in 0..20 {
        let answer = list(&other).await;
        assert_eq!(answer.status, 200, "another's quota is not used up");
        assert!(!answer.headers.contains_key("ratelimit"), "nothing limits it");
    }
    for (limit, at) in [
        (json!({"requests_per_second": 0}), "/rate_limit/requests_per_second"),
        (json!({"requests_per_second": 2_000_000}), "/rate_limit/requests_per_second"),
        (json!({"requests_per_second": 1, "burst": 0}), "/rate_limit/burst"),
        (json!({"burst": 5}), "/rate_limit/requests_per_second"),
        (json!({"requests_per_second": 1, "window": 5}), "/rate_limit/window"),
        (json!(10), "/rate_limit"),
    ] {
        let refused = node.post("/v1/tokens", &json!({"scopes": ["read"], "rate_limit": limit})).await;
        let problem = refused.json();
        assert_eq!(
            (refused.status, problem["errors"][0]["pointer"].as_str().unwrap()),
            (422, at),
            "{problem}"
        );
    }
    let kept = node.get("/v1/tokens").await.json();
    assert!(
        kept["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|token| token["rate_limit"] == json!({"requests_per_second": 1, "burst": 3}))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_tokens_is_told_no_more_and_harms_nobody_with_one() {
    let node = Node::start().await;
    let (_, token) = made(&node, json!({"scopes": ["read"]})).await;
    let list = async |token: &str| with(&node, token, Method::GET, "/v1/workflows", None).await;
    assert_eq!(list(&token).await.status, 200);
    let mut counts = [0, 0];
    for n in 0..150_u32 {
        let guess = list(&format!("opc_{n:016x}_guess")).await;
        match guess.status {
            401 => counts[0] += 1,
            429 => {
                assert_eq!(
                    (guess.json()["code"].as_str(), guess.header("retry-after")),
                    (Some("OVERLOADED"), "1")
                );
                counts[1] += 1;
            }
            other => panic!("{other}: {}", guess.json()),
        }
    }
    assert!(counts[0] >= 50 && counts[1] >= 20, "{counts:?}");
    assert_eq!(list(&token).await.status, 200, "a token that is known is taken all the same");
    assert_eq!(node.get("/healthz").await.status, 200);
}
