//! What holds for every call: problem documents, methods, media types, sizes, guards.

use axum::body::Body;
use axum::http::Method;
use serde_json::json;

use crate::node::{Node, request};

#[tokio::test]
async fn refusals_are_problem_documents() {
    let node = Node::start().await;
    let body = || Body::from("{}");
    let cases = [
        (request(Method::GET, "/v1/nothing", Body::empty()), 404, "NOT_FOUND"),
        (request(Method::DELETE, "/v1/workflows", Body::empty()), 405, "VALIDATION_ERROR"),
        (request(Method::POST, "/v1/workflows", body()), 415, "VALIDATION_ERROR"),
        (request(Method::GET, "/v1/workflows?limit=1001", Body::empty()), 400, "VALIDATION_ERROR"),
        (request(Method::GET, "/v1/workflows?sttus=failed", Body::empty()), 400, "VALIDATION_ERROR"),
        (request(Method::GET, "/v1/workflows?cursor=zzz", Body::empty()), 400, "VALIDATION_ERROR"),
        (request(Method::GET, "/v1/workflows/no%20spaces", Body::empty()), 400, "VALIDATION_ERROR"),
        (request(Method::GET, "/v1/workflows/none", Body::empty()), 404, "NOT_FOUND"),
        (request(Method::GET, "/v1/workflows/none/events", Body::empty()), 404, "NOT_FOUND"),
        (request(Method::GET, "/v1/templates/none", Body::empty()), 404, "NOT_FOUND"),
        (request(Method::GET, "/v1/schedules/none", Body::empty()), 404, "NOT_FOUND"),
        (request(Method::POST, "/v1/schedules", body()), 415, "VALIDATION_ERROR"),
    ];
    for (request, status, code) in cases {
        let shown = format!("{} {}", request.method(), request.uri());
        let answer = node.send(request).await;
        assert_eq!(answer.status, status, "{shown}: {:?}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{shown}");
        let document = answer.json();
        assert_eq!(document["code"], code, "{shown}");
        assert_eq!(document["status"], status, "{shown}");
        for field in ["type", "title", "detail", "trace_id"] {
            assert!(document[field].is_string(), "{shown}: {field}: {document}");
        }
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let node = Node::start().await;
    let answer = node.send(request(Method::DELETE, "/v1/templates", Body::empty())).await;
    let allow = answer.header("allow");
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[tokio::test]
async fn malformed_json_has_its_place() {
    let node = Node::start().await;
    for path in
        ["/v1/workflows", "/v1/validate", "/v1/templates", "/v1/schedules", "/v1/sql", "/v1/workflows/bulk"]
    {
        let answer = node.post_text(path, "{\"a\":\n  nope}").await;
        assert_eq!(answer.status, 400, "{path}");
        let document = answer.json();
        assert_eq!(document["errors"][0]["line"], 2, "{path}: {document}");
        assert!(document["errors"][0]["column"].is_u64(), "{path}: {document}");
    }
}

#[tokio::test]
async fn a_body_has_a_size() {
    let node = Node::start().await;
    let large = " ".repeat(4 * 1024 * 1024 + 1);
    let answer = node.post_text("/v1/workflows", large.clone()).await;
    assert_eq!((answer.status, &answer.json()["code"]), (413, &json!("PAYLOAD_TOO_LARGE")));
    // Chunked: nothing says beforehand how long it is.
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>(large.clone()), Ok(large)]);
    let answer = node.post_text("/v1/workflows", Body::from_stream(chunks)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (413, &json!("PAYLOAD_TOO_LARGE")));
    let definition =
        format!("{{\"definition\":{{\"steps\":[],\"metadata\":\"{}\"}}}}", "x".repeat(1_100_000));
    let answer = node.post_text("/v1/workflows", definition).await;
    assert_eq!((answer.status, &answer.json()["code"]), (413, &json!("PAYLOAD_TOO_LARGE")));
}

#[tokio::test]
async fn other_sites_get_nothing_done() {
    let node = Node::start().await;
    let mut rebound = request(Method::GET, "/v1/workflows", Body::empty());
    rebound.headers_mut().insert("host", "evil.example".parse().expect("a header"));
    assert_eq!(node.send(rebound).await.status, 403);
    let mut forged = request(Method::POST, "/v1/workflows/x/cancel", Body::empty());
    forged.headers_mut().insert("origin", "http://evil.example".parse().expect("a header"));
    let answer = node.send(forged).await;
    assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("PERMISSION_DENIED")));
    let mut own = request(Method::POST, "/v1/workflows/x/cancel", Body::empty());
    own.headers_mut().insert("origin", "http://127.0.0.1:4100".parse().expect("a header"));
    assert_eq!(node.send(own).await.status, 404);
}

#[tokio::test]
async fn a_trace_id_is_kept() {
    let node = Node::start().await;
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut traced = request(Method::GET, "/v1/workflows/none", Body::empty());
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    traced.headers_mut().insert("traceparent", parent.parse().expect("a header"));
    assert_eq!(node.send(traced).await.json()["trace_id"], id);
}

#[tokio::test]
async fn health_and_description_are_served() {
    let node = Node::start().await;
    assert_eq!(node.get("/healthz").await.status, 200);
    assert_eq!(node.get("/readyz").await.status, 200);
    assert_eq!(node.get("/metrics").await.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let api = node.get("/openapi.json").await.json();
    assert_eq!(api["openapi"], "3.1.0");
    for (path, methods) in [
        ("/v1/workflows", vec!["get", "post"]),
        ("/v1/workflows/batch", vec!["post"]),
        ("/v1/workflows/{id}/events", vec!["get"]),
        ("/v1/templates", vec!["get", "post"]),
    ] {
        for method in methods {
            assert!(api["paths"][path][method].is_object(), "{method} {path}");
        }
    }
    let text = api.to_string();
    for name in ["SubmitRequest", "Workflow", "Problem", "EventList"] {
        assert!(api["components"]["schemas"][name].is_object(), "{name}");
    }
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap_or_default();
        assert!(api["components"]["schemas"][name].is_object(), "{name} is referred to and not there");
    }
    let operations = api["paths"].as_object().expect("paths").values().flat_map(|item| item.as_object());
    let mut names = std::collections::BTreeSet::new();
    for (_, operation) in operations.flatten() {
        let name = operation["operationId"].as_str().expect("an operation has a name");
        assert!(names.insert(name), "{name} names two operations");
        for (status, answer) in operation["responses"].as_object().expect("answers") {
            assert!(answer["description"].is_string(), "{name} {status} is not described");
        }
    }
    node.stop.send_replace(true);
    assert_eq!(node.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn the_cluster_shows_every_shard() {
    let node = Node::start().await;
    let cluster = node.get("/v1/cluster").await.json();
    assert_eq!(cluster["shards"].as_array().map(Vec::len), Some(3), "{cluster}");
    assert_eq!(cluster["leader"], "1");
    for shard in cluster["shards"].as_array().expect("shards") {
        assert_eq!(shard["primary"], "1", "{cluster}");
        assert_eq!(shard["replicas"][0]["in_sync"], true);
    }
    assert_eq!(cluster["members"][0]["addr"], "127.0.0.1:4100");
}
