//! One delivery: what is sent, how it is signed, and what came of it. The form is that of the Standard
//! Webhooks specification: `webhook-id`, `webhook-timestamp`, `webhook-signature`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use opcode_engine::ids::{ShardId, Timestamp};
use opcode_engine::namespace::local;
use opcode_engine::view::{self, Change};
use opcode_shard::clock::Clock;
use opcode_shard::follow::RunFacts;
use opcode_shard::record::EventRecord;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::Sha256;

use super::failure::delivery_id;
use super::webhook::{Webhook, name_of, sealed_name, secret_bytes};
use crate::event_stream::document;
use crate::state::RouterState;

/// What is sent.
pub(super) struct Message {
    pub(super) id: String,
    body: Vec<u8>,
}

#[derive(Serialize)]
struct Body<'a, T> {
    id: &'a str,
    r#type: &'a str,
    /// When it happened.
    at: String,
    data: T,
}

#[derive(Serialize)]
struct EventData<'a> {
    workflow_id: &'a str,
    /// The run's with this event, where the event sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_id: Option<&'a str>,
    template: Option<&'a str>,
    agent_id: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
    /// What the event itself says, as `GET /v1/workflows/{id}/events` shows it.
    event: Cow<'a, RawValue>,
}

impl Message {
    /// What is told of an event; none for one of a type that nobody is told of.
    pub(super) fn of(shard: ShardId, record: &EventRecord, run: &RunFacts) -> Option<Self> {
        let id = delivery_id(shard, record.no, record.sequence);
        let event = document(record, &run.id.namespace());
        let data = EventData {
            workflow_id: run.id.local(),
            status: status_with(record),
            sequence: record.sequence.0,
            step_id: event.step_id,
            template: run.template.as_deref().map(local),
            agent_id: run.agent_id.as_deref(),
            labels: &run.labels,
            event: event.data,
        };
        Some(Self::new(id, name_of(record.event_type)?, record.timestamp, data))
    }

    fn new(id: String, name: &str, at: Timestamp, data: impl Serialize) -> Self {
        let body = Body { id: &id, r#type: name, at: at.to_rfc3339(), data };
        let body = serde_json::to_vec(&body).expect("a message is JSON");
        Self { id, body }
    }
}

/// The status that an event gives its run, if it does.
fn status_with(record: &EventRecord) -> Option<&'static str> {
    let changes =
        view::changes(record.event_type, record.step_id.as_ref(), &record.data, record.timestamp).ok()?;
    changes.into_iter().find_map(|change| match change {
        Change::RunStarted(started) => Some(started.status.as_str()),
        Change::Run { status, .. } => Some(status.as_str()),
        Change::Definition(_)
        | Change::Step(_)
        | Change::DecisionRequested(_)
        | Change::DecisionClosed { .. }
        | Change::DecisionsWithdrawn
        | Change::MessageOwed => None,
    })
}

/// What came of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The receiver has it.
    Taken(u16),
    /// The receiver wants no more, ever (410).
    Gone,
    /// It did not take it.
    Refused(String),
    /// It could not be sent from here: the node has not the key that opens the secret.
    Unsent(String),
}

/// Sends a message once.
pub(super) async fn send(state: &RouterState, id: &str, webhook: &Webhook, message: &Message) -> Outcome {
    let options = state.webhooks();
    let secret = match state.vault().unseal(&sealed_name(id), &webhook.secret).await {
        Ok(secret) => secret,
        Err(error) => return Outcome::Unsent(error.to_string()),
    };
    let now = Clock::default().now().0.div_euclid(1_000);
    let Some(signature) = signature(&secret, &message.id, now, &message.body) else {
        return Outcome::Unsent("the secret is not one of a webhook".into());
    };
    let headers = [
        ("webhook-id", message.id.clone()),
        ("webhook-timestamp", now.to_string()),
        ("webhook-signature", signature),
    ];
    let posted = options.sender.post(&webhook.url, &headers, message.body.clone(), options.timeout).await;
    let outcome = match posted {
        Ok(status @ 200..=299) => Outcome::Taken(status),
        Ok(410) => Outcome::Gone,
        Ok(status @ 300..=399) => {
            Outcome::Refused(format!("the receiver redirects ({status}), which is not followed"))
        }
        Ok(status) => Outcome::Refused(format!("the receiver answered {status}")),
        Err(why) => Outcome::Refused(why),
    };
    let label = match outcome {
        Outcome::Taken(_) => "taken",
        Outcome::Gone => "gone",
        Outcome::Refused(_) | Outcome::Unsent(_) => "failed",
    };
    metrics::counter!("opcode_webhook_deliveries_total", "outcome" => label).increment(1);
    outcome
}

/// The signature of the specification, version 1; none when the secret has not its form.
fn signature(secret: &SecretString, id: &str, seconds: i64, body: &[u8]) -> Option<String> {
    let key = secret_bytes(secret.expose_secret())?;
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key).expect("a MAC takes keys of any length");
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body);
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// Tells a webhook that it is there, once.
pub(crate) async fn ping(state: &RouterState, id: &str, webhook: &Webhook) -> (String, Outcome) {
    let delivery = format!("ping_{}", uuid::Uuid::now_v7().simple());
    let data = serde_json::json!({ "webhook_id": local(id) });
    let message = Message::new(delivery.clone(), "ping", Clock::default().now(), data);
    (delivery, send(state, id, webhook, &message).await)
}

#[cfg(test)]
mod tests {
    use opcode_engine::event::EventType;
    use opcode_engine::ids::{RunNo, Sequence, WorkflowId};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn signatures_are_those_of_the_specification() {
        // Made with the library of the specification's authors.
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(signature(&SecretString::from("plain"), "a", 0, b""), None);
    }

    #[test]
    fn a_message_says_what_happened_to_which_run() {
        let record = EventRecord {
            no: RunNo(120),
            sequence: Sequence(7),
            event_type: EventType::WorkflowCompleted,
            step_id: None,
            data: br#"{"output":1.50}"#.to_vec(),
            agent_id: None,
            timestamp: Timestamp(0),
        };
        let run = RunFacts {
            id: WorkflowId::parse("a").unwrap(),
            template: Some("t".into()),
            agent_id: None,
            labels: BTreeMap::new(),
        };
        let message = Message::of(ShardId(3), &record, &run).expect("one is told of it");
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        let expect = json!({"id": "evt_3_120_7", "type": "workflow.completed", "at": "1970-01-01T00:00:00.000Z",
            "data": {"workflow_id": "a", "status": "completed", "sequence": 7, "template": "t",
                "agent_id": null, "labels": {}, "event": {"output": serde_json::from_str::<Value>("1.50").unwrap()}}});
        assert_eq!(body, expect);
        let other = EventRecord { event_type: EventType::StepScheduled, ..record };
        assert!(Message::of(ShardId(3), &other, &run).is_none());
    }
}
