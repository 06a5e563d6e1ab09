//! Requests that a node sends on to the leader, and what they are answered when one is lost on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use futures::future::BoxFuture;
use opcode_shard::ShardHandle;
use opcode_shard::definitions::Definitions;
use opcode_shard::peer::{NodeId, PeerError, Peers, Service};
use opcode_shard::remote::answer_call;
use serde_json::{Value, json};

use crate::node::Node;

/// The way to the node that leads; the answer to a submission is lost when that is wanted.
struct Lossy {
    handles: Vec<ShardHandle>,
    loses: Arc<AtomicBool>,
}

impl Peers for Lossy {
    fn call(
        &self,
        node: NodeId,
        service: Service,
        group: u32,
        body: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        assert_eq!(service, Service::Shard);
        let handle = self.handles.iter().find(|handle| handle.id().0 == group).cloned();
        let loses = self.loses.clone();
        Box::pin(async move {
            let handle = handle.expect("a shard of the node");
            let is_submission = body[1..].starts_with(b"{\"Submit\"");
            let answer = answer_call(&handle, &Definitions::default(), &body).await;
            if is_submission && loses.swap(false, Ordering::AcqRel) {
                return Err(PeerError::Lost { node, why: "it died".into() });
            }
            answer.map_err(|why| PeerError::Refused { node, why })
        })
    }
}

async fn node() -> (Node, Arc<AtomicBool>) {
    let loses = Arc::new(AtomicBool::new(false));
    let lossy = |handles| Some(Arc::new(Lossy { handles, loses: loses.clone() }) as Arc<dyn Peers>);
    (Node::start_with(lossy).await, loses)
}

fn body(id: Option<&str>) -> Value {
    let mut body =
        json!({"definition": {"steps": [{"id": "a", "type": "wait", "config": {"signal": "go"}}]}});
    if let Some(id) = id {
        body["id"] = id.into();
    }
    body
}

#[tokio::test]
async fn a_submission_that_is_sent_on_twice_has_made_its_run() {
    let (node, loses) = node().await;
    loses.store(true, Ordering::Release);
    let made = node.post("/v1/workflows", &body(Some("r1"))).await;
    assert!(!loses.load(Ordering::Acquire), "the first answer was lost");
    assert_eq!(made.status, 201, "{}", made.json());
    // The same submission in another request has not, whatever is lost.
    for is_lost in [false, true] {
        loses.store(is_lost, Ordering::Release);
        let again = node.post("/v1/workflows", &body(Some("r1"))).await;
        assert_eq!(again.status, 200, "{}", again.json());
        assert!(!loses.load(Ordering::Acquire));
    }
    let events = node.get("/v1/workflows/r1/events").await.json();
    let started = events["items"].as_array().expect("events").iter();
    assert_eq!(started.filter(|event| event["type"] == "workflow_started").count(), 1);
}

#[tokio::test]
async fn submissions_of_a_batch_are_told_apart_when_it_is_sent_on_twice() {
    let (node, loses) = node().await;
    loses.store(true, Ordering::Release);
    let batch = json!({"workflows": [body(Some("b1")), body(Some("b1"))]});
    let made = node.post("/v1/workflows/batch", &batch).await;
    assert!(!loses.load(Ordering::Acquire), "the first answer was lost");
    let statuses = [0, 1].map(|place: usize| made.json()["results"][place]["status"].clone());
    assert_eq!(statuses, [201, 200], "{}", made.json());
}
