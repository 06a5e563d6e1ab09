//! Tokens and the audit log.

use utoipa::ToSchema;

#[derive(ToSchema)]
pub struct TokenRequest {
    /// For those who read the list.
    pub name: Option<String>,
    /// At least one of `read`, `run`, `define`, `decide`, `admin`, which is all of them and more.
    pub scopes: Vec<String>,
    /// The agent that its bearer is: what it asks for is asked in that name, and in no other.
    pub agent_id: Option<String>,
    /// The namespace that its bearer is confined to. Without it that of the request, unless it is `default`.
    pub namespace: Option<String>,
    /// From then on it is not taken.
    pub expires_at: Option<String>,
    /// Without it, the node's `--rate-limit`, if it has one.
    pub rate_limit: Option<RateLimit>,
}

#[derive(ToSchema)]
pub struct NewToken {
    pub token_id: String,
    /// What to show as `Authorization: Bearer …`. It is not kept: nobody can show it again.
    pub token: String,
    pub name: Option<String>,
    pub scopes: Vec<String>,
    pub agent_id: Option<String>,
    /// The namespace that its bearer is confined to; of the whole cluster without one.
    pub namespace: Option<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub rate_limit: Option<RateLimit>,
}

#[derive(ToSchema)]
pub struct Token {
    pub token_id: String,
    pub name: Option<String>,
    pub scopes: Vec<String>,
    pub agent_id: Option<String>,
    /// The namespace that its bearer is confined to; of the whole cluster without one.
    pub namespace: Option<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub rate_limit: Option<RateLimit>,
}

#[derive(ToSchema)]
pub struct TokenList {
    pub items: Vec<Token>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct TokenDeleted {
    pub token_id: String,
    pub deleted: bool,
}

/// How many requests a token may make, counted on each node for itself. Over it: 429.
#[derive(ToSchema)]
pub struct RateLimit {
    /// In the long run, from 1 to 1 000 000.
    pub requests_per_second: u32,
    /// At once; as many as in a second without it.
    pub burst: Option<u32>,
}

#[derive(ToSchema)]
pub struct AuditList {
    /// Newest first. There may be fewer than asked for, and more behind `next_cursor`.
    pub items: Vec<AuditEntry>,
    pub next_cursor: Option<String>,
    /// Nodes whose entries are not here.
    pub unreachable_nodes: Option<Vec<UnreachableNode>>,
}

/// A call that changes something, or one that was refused (401, 403, 429).
#[derive(ToSchema)]
pub struct AuditEntry {
    /// Its number on its node.
    pub seq: u64,
    /// When it was answered.
    pub at: String,
    pub node_id: String,
    pub trace_id: String,
    /// Empty in an entry that stands for calls that have none (`not_recorded`).
    pub method: String,
    /// As it came, without the query, at most 512 bytes of it.
    pub path: String,
    /// Null when its caller was gone before it was answered: what it asked for may have been done.
    pub status: Option<u16>,
    pub token_id: Option<String>,
    pub token_name: Option<String>,
    pub agent_id: Option<String>,
    /// The other end of the connection.
    pub remote_addr: Option<String>,
    /// Where it was made, when that was another namespace than `default`.
    pub namespace: Option<String>,
    pub workflow_id: Option<String>,
    /// Of a batch, its submissions.
    pub items: Option<usize>,
    pub duration_ms: u64,
    pub not_recorded: Option<NotRecorded>,
}

/// Calls since the entry before that have none of their own.
#[derive(ToSchema)]
pub struct NotRecorded {
    /// Refused, of which only some are taken down.
    pub refused: u64,
    /// More than could be written.
    pub lost: u64,
}

#[derive(ToSchema)]
pub struct UnreachableNode {
    pub node_id: String,
    pub code: String,
    pub detail: String,
}
