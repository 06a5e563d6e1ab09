//! Pages about error codes, and what a node tells agents of itself.

use axum::body::Body;
use axum::http::Method;

use crate::node::{Node, request};

#[tokio::test]
async fn a_problem_leads_to_a_page_about_its_code() {
    let node = Node::start().await;
    let problem = node.get("/v1/workflows/nobody").await.json();
    let page = problem["type"].as_str().expect("a path");
    assert_eq!(page, "/errors/NOT_FOUND");
    let text = node.get(page).await;
    assert_eq!((text.status, text.header("content-type")), (200, "text/plain; charset=utf-8"));
    let body = String::from_utf8_lossy(&text.body).into_owned();
    for part in ["# NOT_FOUND\n", "\n## Cause\n", "\n## Fix\n", "\n## Example\n"] {
        assert!(body.contains(part), "{body}");
    }
    let mut browser = request(Method::GET, page, Body::empty());
    let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8".parse().expect("a header");
    browser.headers_mut().insert("accept", accept);
    let html = node.send(browser).await;
    assert_eq!((html.status, html.header("content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(html.header("content-security-policy"), "default-src 'none'");
    assert!(html.body.starts_with(b"<!doctype html>"));
    // However it is written; and what there is not is a problem like any other.
    assert_eq!(node.get("/errors/not_found").await.status, 200);
    assert_eq!(node.get("/errors/%3Cscript%3E").await.json()["code"], "NOT_FOUND");
}

#[tokio::test]
async fn the_index_lists_pages_that_there_are() {
    let node = Node::start().await;
    let index = node.get("/errors").await;
    let text = String::from_utf8_lossy(&index.body).into_owned();
    let links: Vec<_> =
        text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect();
    assert!(links.len() > 25, "{text}");
    for link in links {
        assert_eq!(node.get(&link).await.status, 200, "{link}");
    }
    for path in ["/llms.txt", "/skill.md"] {
        assert_eq!(node.get(path).await.status, 200, "{path}");
    }
}
