//! What is read and written of webhooks, as OpenAPI schemas.

#![allow(missing_docs)]

use utoipa::ToSchema;

/// A receiver of events.
#[derive(ToSchema)]
pub struct WebhookRequest {
    /// `[A-Za-z0-9._-]{1,64}`; without one the server makes one.
    pub id: Option<String>,
    /// `https://` or `http://`, without user and password; private addresses only where the node allows.
    pub url: String,
    /// `workflow.completed`, `workflow.failed`, `workflow.cancelled`, `workflow.suspended`,
    /// `decision.requested`, `decision.resolved`, …
    pub events: Vec<String>,
    pub filter: Option<WebhookFilter>,
    /// `whsec_` and 24 to 64 bytes in base64; without one the server makes one.
    pub secret: Option<String>,
    pub active: Option<bool>,
}

/// Of which runs; all that is given must hold.
#[derive(ToSchema)]
pub struct WebhookFilter {
    pub template: Option<String>,
    /// `name:value`, all of which a run must have.
    pub label: Option<Vec<String>>,
    /// Who has started it.
    pub agent_id: Option<String>,
}

/// What is to be other; the rest stays.
#[derive(ToSchema)]
pub struct WebhookPatch {
    pub url: Option<String>,
    pub events: Option<Vec<String>>,
    pub filter: Option<WebhookFilter>,
    pub secret: Option<String>,
    /// Inactive, it lets events pass.
    pub active: Option<bool>,
}

#[derive(ToSchema)]
pub struct Webhook {
    pub id: String,
    pub url: String,
    pub events: Vec<String>,
    pub filter: WebhookFilter,
    pub active: bool,
    /// Why the node made it inactive.
    pub disabled_reason: Option<String>,
    /// Only in the answer that makes it.
    pub secret: Option<String>,
    pub status: WebhookStatus,
    pub created_at: String,
    pub updated_at: String,
    /// Counts the changes by people, from 1.
    pub revision: u64,
}

/// How its deliveries go, a few seconds ago.
#[derive(ToSchema)]
pub struct WebhookStatus {
    pub delivered: u64,
    /// Entries of the shards' logs that were not looked at yet.
    pub behind: u64,
    /// Deliveries that failed and are tried again.
    pub retrying: u64,
    /// Deliveries that failed and are not.
    pub dead: u64,
    /// Failed deliveries that were let go of, since there were too many.
    pub dropped: u64,
    /// Times that a log had let go of what was to be told next.
    pub missed: u64,
    pub last_success_at: Option<String>,
    pub last_error_at: Option<String>,
    pub last_error: Option<String>,
}

#[derive(ToSchema)]
pub struct WebhookList {
    pub items: Vec<Webhook>,
    pub next_cursor: Option<String>,
}

/// What came of a ping.
#[derive(ToSchema)]
pub struct WebhookTest {
    pub delivery: String,
    pub delivered: bool,
    pub error: Option<String>,
}

/// A delivery that failed.
#[derive(ToSchema)]
pub struct WebhookFailure {
    /// The `webhook-id` that it is sent under.
    pub delivery: String,
    pub event: String,
    pub workflow_id: String,
    pub sequence: u64,
    /// `retrying` or `dead`.
    pub state: String,
    pub tries: u32,
    pub first_at: String,
    pub next_at: Option<String>,
    pub last_error: String,
}

#[derive(ToSchema)]
pub struct WebhookFailureList {
    pub items: Vec<WebhookFailure>,
    pub next_cursor: Option<String>,
}
