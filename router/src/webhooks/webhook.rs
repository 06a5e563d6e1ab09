//! A webhook as it stands in the catalogue, and the reading of bodies that make or change one.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opcode_engine::event::EventType;
use opcode_engine::ids::{ShardId, Timestamp};
use opcode_engine::namespace::{Namespace, local};
use opcode_shard::follow::{LABELS_MAX, RunChoice, parse_label};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::standing::Shown as ShownStanding;
use crate::error::{ApiError, Applied};
use crate::namespace::sought;
use crate::state::RouterState;
use crate::wire::{Fields, unknown};

/// Webhooks at most.
pub(crate) const WEBHOOKS_MAX: usize = 100;
/// What secrets begin with, after the Standard Webhooks specification.
const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a secret, after the same.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of a secret that is made here.
const SECRET_BYTES_MADE: usize = 32;
/// Longest id.
const ID_CHARS_MAX: usize = 64;
/// What the keys of standings begin with, which stand among the webhooks: behind all of them.
pub(super) const STANDING_PREFIX: &str = "~standing/";

/// What a webhook may be told of.
pub(super) const EVENTS: [(&str, EventType); 13] = [
    ("workflow.started", EventType::WorkflowStarted),
    ("workflow.completed", EventType::WorkflowCompleted),
    ("workflow.failed", EventType::WorkflowFailed),
    ("workflow.cancelled", EventType::WorkflowCancelled),
    ("workflow.suspended", EventType::WorkflowSuspended),
    ("workflow.resumed", EventType::WorkflowResumed),
    ("workflow.timed_out", EventType::WorkflowTimedOut),
    ("workflow.interrupted", EventType::WorkflowInterrupted),
    ("decision.requested", EventType::DecisionRequested),
    ("decision.resolved", EventType::DecisionResolved),
    ("step.completed", EventType::StepCompleted),
    ("step.failed", EventType::StepFailed),
    ("step.retrying", EventType::StepRetrying),
];

/// The name under which webhooks know a type of event.
pub(super) fn name_of(event_type: EventType) -> Option<&'static str> {
    EVENTS.iter().find(|(_, known)| *known == event_type).map(|(name, _)| *name)
}

/// Of which runs it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    /// `name:value`, all of which must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    label: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
}

/// A webhook, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Webhook {
    pub(crate) url: String,
    /// Names of events.
    pub(crate) events: Vec<String>,
    pub(crate) filter: Filter,
    /// What signs, sealed by the vault.
    pub(crate) secret: String,
    pub(crate) active: bool,
    /// Why the node made it inactive.
    pub(crate) disabled_reason: Option<String>,
    /// It is told of what comes after these entries, one for each shard's log.
    pub(crate) from: Vec<u64>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// Counts the changes by people, from 1.
    pub(crate) revision: u64,
}

impl Webhook {
    /// As it is kept.
    pub(crate) fn body(&self) -> Arc<str> {
        serde_json::to_string(self).expect("a webhook is JSON").into()
    }

    /// Whether it is told of events of this type.
    pub(super) fn wants(&self, event_type: EventType) -> bool {
        name_of(event_type).is_some_and(|name| self.events.iter().any(|wanted| wanted == name))
    }

    /// Of which runs: of those of the namespace that the webhook of this key is in.
    pub(super) fn choice(&self, key: &str) -> RunChoice {
        let namespace = Namespace::of(key);
        RunChoice {
            workflow_id: None,
            template: self.filter.template.clone().map(|name| sought(&namespace, name)),
            namespace: Some(namespace),
            labels: self.filter.label.iter().filter_map(|label| parse_label(label).ok()).collect(),
            agent_id: self.filter.agent_id.clone(),
        }
    }

    /// The entry of a shard's log after which it is told.
    pub(super) fn from(&self, shard: ShardId) -> u64 {
        self.from.get(shard.0 as usize).copied().unwrap_or(0)
    }
}

/// Reads one that is kept.
pub(crate) fn parse(id: &str, body: &str) -> Result<Webhook, ApiError> {
    serde_json::from_str(body).map_err(|error| {
        tracing::error!(webhook = id, %error, "a stored webhook cannot be read");
        ApiError::unavailable(Applied::No, format!("the stored webhook {} is damaged", local(id)))
    })
}

/// Whether an entry is no webhook but says how far all were told.
pub(crate) fn is_standing(key: &str) -> bool {
    key.starts_with(STANDING_PREFIX)
}

/// Checks an id. The error says what is allowed.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match !id.is_empty() && id.len() <= ID_CHARS_MAX && id.bytes().all(ok) {
        true => Ok(()),
        false => Err(format!("a webhook's id is 1 to {ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ -")),
    }
}

/// The name that a webhook's secret is sealed under.
pub(crate) fn sealed_name(id: &str) -> String {
    format!("webhook/{id}")
}

/// The bytes of a secret that a webhook may have.
pub(super) fn secret_bytes(secret: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    SECRET_BYTES.contains(&bytes.len()).then_some(bytes)
}

/// A new one.
fn make_secret() -> SecretString {
    let bytes: [u8; SECRET_BYTES_MADE] = rand::random();
    SecretString::from(format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes)))
}

/// The fields of a body that say something of a webhook. What is not given stays as it is.
pub(crate) struct Draft {
    url: Option<String>,
    events: Option<Vec<String>>,
    filter: Option<Filter>,
    pub(crate) secret: Option<SecretString>,
    active: Option<bool>,
}

impl Draft {
    pub(crate) fn read(fields: &mut Fields<'_>, state: &RouterState) -> Self {
        let url = fields.string("url");
        let refused = url.as_deref().and_then(|url| state.webhooks().sender.check(url).err());
        if let Some(message) = refused {
            fields.problem("url", message);
        }
        let secret = fields.string("secret");
        if secret.as_deref().is_some_and(|secret| secret_bytes(secret).is_none()) {
            let (min, max) = (SECRET_BYTES.start(), SECRET_BYTES.end());
            fields.problem("secret", format!("must be `{SECRET_PREFIX}` and {min} to {max} bytes in base64"));
        }
        let events = fields.is_given("events").then(|| events(fields));
        if !fields.is_given("events") {
            _ = fields.raw("events");
        }
        Self {
            url,
            events,
            filter: filter(fields),
            secret: secret.map(SecretString::from),
            active: fields.boolean("active"),
        }
    }

    /// What a new webhook says, and what is to sign; the rest of it is not known yet. Problems are noted.
    pub(crate) fn make(self, fields: &mut Fields<'_>, now: Timestamp) -> Option<(Webhook, SecretString)> {
        for name in ["url", "events"] {
            if !fields.is_given(name) {
                fields.problem(name, "is missing");
            }
        }
        let webhook = Webhook {
            url: self.url?,
            events: self.events?,
            filter: self.filter.unwrap_or_default(),
            secret: String::new(),
            active: self.active.unwrap_or(true),
            disabled_reason: None,
            from: Vec::new(),
            created_at: now,
            updated_at: now,
            revision: 1,
        };
        Some((webhook, self.secret.unwrap_or_else(make_secret)))
    }

    /// The same webhook with what was said; its secret stays.
    pub(crate) fn change(&self, before: &Webhook) -> Webhook {
        let active = self.active.unwrap_or(before.active);
        Webhook {
            url: self.url.clone().unwrap_or_else(|| before.url.clone()),
            events: self.events.clone().unwrap_or_else(|| before.events.clone()),
            filter: self.filter.clone().unwrap_or_else(|| before.filter.clone()),
            active,
            disabled_reason: before.disabled_reason.clone().filter(|_| !active),
            ..before.clone()
        }
    }
}

fn events(fields: &mut Fields<'_>) -> Vec<String> {
    let given = fields.strings("events");
    let known: Vec<&str> = EVENTS.iter().map(|(name, _)| *name).collect();
    if given.len() > EVENTS.len() {
        fields.problem("events", format!("names more than the {} events that there are", EVENTS.len()));
        return Vec::new();
    }
    if given.is_empty() {
        fields.problem("events", format!("names none; known are {}", known.join(", ")));
    }
    let mut events: Vec<String> = Vec::new();
    for name in given {
        if !known.contains(&name.as_str()) {
            fields.problem("events", unknown("event", &name, &known));
        } else if !events.contains(&name) {
            events.push(name);
        }
    }
    events
}

fn filter(fields: &mut Fields<'_>) -> Option<Filter> {
    let raw = fields.raw("filter")?;
    let mut inner = match Fields::of_raw(raw, &fields.pointer_to("filter")) {
        Ok(inner) => inner,
        Err(problem) => {
            fields.extend([problem]);
            return None;
        }
    };
    let template = inner.name("template");
    let label = inner.strings("label");
    if label.len() > LABELS_MAX {
        inner.problem("label", format!("has more than {LABELS_MAX} labels"));
    }
    if let Some(message) = label.iter().take(LABELS_MAX).find_map(|text| parse_label(text).err()) {
        inner.problem("label", message);
    }
    let agent_id = inner.name("agent_id");
    fields.extend(inner.finish());
    Some(Filter { template, label, agent_id })
}

/// A webhook as it is shown: never with its secret, but for the answer to who makes it.
#[derive(Serialize)]
pub(crate) struct Shown<'a> {
    id: &'a str,
    url: &'a str,
    events: &'a [String],
    filter: &'a Filter,
    active: bool,
    disabled_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<&'a str>,
    status: ShownStanding,
    created_at: String,
    updated_at: String,
    revision: u64,
}

impl<'a> Shown<'a> {
    pub(crate) fn of(key: &'a str, webhook: &'a Webhook, status: ShownStanding) -> Self {
        Self {
            id: local(key),
            url: &webhook.url,
            events: &webhook.events,
            filter: &webhook.filter,
            active: webhook.active,
            disabled_reason: webhook.disabled_reason.as_deref(),
            secret: None,
            status,
            created_at: webhook.created_at.to_rfc3339(),
            updated_at: webhook.updated_at.to_rfc3339(),
            revision: webhook.revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn secrets_have_their_form() {
        assert_eq!(secret_bytes(make_secret().expose_secret()).map(|bytes| bytes.len()), Some(32));
        // The example of the specification.
        assert!(secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_some());
        for secret in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_a\r\nb"] {
            assert!(secret_bytes(secret).is_none(), "{secret:?}");
        }
    }

    #[test]
    fn ids_leave_room_for_what_stands_beside_them() {
        assert_eq!(check_id("billing.v1-x_Y"), Ok(()));
        for id in ["", "a/b", "~standing", "a\nb", &"a".repeat(65)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        assert!(STANDING_PREFIX > "zzzz", "standings stand behind all webhooks");
    }
}
