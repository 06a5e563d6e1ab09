//! The firehose: where it goes on, and what it leaves out.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::node::{Answer, Node, SHARDS, request};

/// Asks with these headers.
async fn ask(node: &Node, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = request(Method::GET, path, Body::empty());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a header"));
    }
    node.send(request).await
}

/// The events of a stream that ends, each with its id.
async fn frames(node: &Node, path: &str, after: Option<&str>) -> Vec<(String, Value)> {
    let answer = match after {
        Some(after) => ask(node, path, &[("last-event-id", after)]).await,
        None => ask(node, path, &[]).await,
    };
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let text = String::from_utf8(answer.body.to_vec()).expect("utf-8");
    let field =
        |frame: &str, name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let events = text.split("\n\n").filter_map(|frame| {
        let data = field(frame, "data: ")?;
        let id = field(frame, "id: ").expect("an event has an id");
        Some((id, serde_json::from_str(&data).expect("JSON")))
    });
    events.collect()
}

const ALL: &str = "/v1/events?after=earliest&follow=false";

/// Runs of two templates and several labels, all of which have ended.
async fn history(node: &Node) {
    let steps = json!([{"id": "a", "action": "workflow.log", "params": {"message": "x"}},
        {"id": "b", "depends_on": ["a"], "action": "workflow.log", "params": {"message": "y"}}]);
    for name in ["red", "blue"] {
        let template = json!({"name": name, "definition": {"steps": steps}});
        assert_eq!(node.post("/v1/templates", &template).await.status, 201);
    }
    for n in 0..12 {
        let name = if n % 2 == 0 { "red" } else { "blue" };
        let body = json!({"id": format!("r{n}"), "template": name, "agent_id": format!("agent-{}", n % 3),
            "labels": {"third": (n % 3).to_string()}});
        let answer = node.post("/v1/workflows?wait=10s", &body).await.json();
        assert_eq!(answer["status"], "completed", "{answer}");
    }
}

/// Events by run, in the order in which they came.
fn by_run<'a>(events: impl Iterator<Item = &'a Value>) -> BTreeMap<String, Vec<u64>> {
    let mut runs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in events {
        let run = event["workflow_id"].as_str().expect("a run").to_owned();
        runs.entry(run).or_default().push(event["sequence"].as_u64().expect("a sequence"));
    }
    runs
}

#[tokio::test]
async fn it_goes_on_exactly_after_any_of_its_ids() {
    let node = Node::start().await;
    history(&node).await;
    let all = frames(&node, ALL, None).await;
    let runs = by_run(all.iter().map(|(_, event)| event));
    assert_eq!(runs.len(), 12);
    for (run, sequences) in &runs {
        assert!(sequences.iter().zip(1..).all(|(got, wanted)| *got == wanted), "{run}: {sequences:?}");
    }
    for (place, (id, _)) in all.iter().enumerate() {
        let rest = frames(&node, "/v1/events?follow=false", Some(id)).await;
        let expect = by_run(all[place + 1..].iter().map(|(_, event)| event));
        assert_eq!(by_run(rest.iter().map(|(_, event)| event)), expect, "after {id}");
    }
}

#[tokio::test]
async fn filters_leave_out_the_rest() {
    let node = Node::start().await;
    history(&node).await;
    for (filter, runs, per_run) in [
        ("type=workflow_completed", 12, Some(1)),
        ("type=workflow_completed&type=workflow_started", 12, Some(2)),
        ("template=red", 6, None),
        ("template=none", 0, None),
        ("label=third:1", 4, None),
        ("label=third:1&label=third:2", 0, None),
        ("agent_id=agent-2&template=blue", 2, None),
        ("workflow_id=r7", 1, None),
        ("workflow_id=r7&template=red", 0, None),
    ] {
        let shown = frames(&node, &format!("{ALL}&{filter}"), None).await;
        let found = by_run(shown.iter().map(|(_, event)| event));
        assert_eq!(found.len(), runs, "{filter}: {found:?}");
        if let Some(per_run) = per_run {
            assert!(found.values().all(|events| events.len() == per_run), "{filter}: {found:?}");
        }
    }
}

#[tokio::test]
async fn lines_say_the_same_as_frames() {
    let node = Node::start().await;
    history(&node).await;
    let answer = ask(&node, ALL, &[("accept", "application/x-ndjson")]).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = String::from_utf8(answer.body.to_vec()).expect("utf-8");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.iter().all(|line| line["place"].is_string()), "{text}");
    let events = lines.iter().filter(|line| line.get("type").is_some());
    let framed = frames(&node, ALL, None).await;
    assert_eq!(by_run(events), by_run(framed.iter().map(|(_, event)| event)));
    // The last word of a stream that ends is where the next one goes on.
    let last = lines.last().expect("a line")["place"].as_str().expect("a place");
    assert!(frames(&node, "/v1/events?follow=false", Some(last)).await.is_empty());
}

#[tokio::test]
async fn places_that_are_none_are_refused() {
    let node = Node::start().await;
    let ends = "-".repeat(SHARDS as usize - 1);
    let far = format!("9000000000{ends}");
    for place in ["x", "1", "1-2-3-4-5-6", "1..2--", "-1--", &far, &"9".repeat(20_000)] {
        let answer = ask(&node, &format!("/v1/events?follow=false&after={place}"), &[]).await;
        assert_eq!(answer.status, 400, "{place:.40}: {:?}", answer.body);
        let answer = ask(&node, "/v1/events?follow=false", &[("last-event-id", place)]).await;
        assert_eq!(answer.status, 400, "{place:.40}");
    }
    for query in
        ["type=none", "label=x", "follow=maybe", "workflow_id=a%20b", "afer=1", "template=a&template=b"]
    {
        let answer = ask(&node, &format!("/v1/events?{query}"), &[]).await;
        assert_eq!(answer.status, 400, "{query}");
    }
    assert_eq!(ask(&node, "/v1/events", &[("accept", "text/html")]).await.status, 406);
}
