//! The documents of the contract as OpenAPI schemas. Bodies are read by hand ([`crate::wire`]),
//! strictly and with every problem at once; these types only say what is read and written.

#![allow(missing_docs)]

mod access;
mod history;
mod namespaces;
pub mod plugins;
mod schedules;

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

pub use access::{
    AuditEntry, AuditList, NewToken, NotRecorded, RateLimit, Token, TokenDeleted, TokenList, TokenRequest,
    UnreachableNode,
};
pub use history::{ImportAnswer, ImportResult, Retention, RetentionList, RetentionRequest};
pub use namespaces::{Namespace, NamespaceDeleted, NamespaceList};
pub use schedules::{
    BackfillAnswer, BackfillRequest, Schedule, ScheduleList, SchedulePatch, ScheduleRequest, Slot, SlotError,
    SlotList,
};

/// RFC 9457, `application/problem+json`.
#[derive(ToSchema)]
pub struct Problem {
    /// `/errors/CODE`: a page about it.
    pub r#type: String,
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    pub detail: String,
    /// `VALIDATION_ERROR`, `NOT_FOUND`, `CONFLICT`, `OVERLOADED`, `UNAVAILABLE`, …
    pub code: String,
    pub trace_id: String,
    pub step_id: Option<String>,
    pub errors: Option<Vec<ProblemItem>>,
    /// On 429 and 503: `no` (certainly not applied) or `unknown`.
    pub applied: Option<String>,
}

#[derive(ToSchema)]
pub struct ProblemItem {
    /// JSON pointer into the body.
    pub pointer: String,
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub message: String,
}

/// A run to start; one of `definition` and `template`.
#[derive(ToSchema)]
pub struct SubmitRequest {
    /// `[A-Za-z0-9._:-]{1,128}`; without one the server makes a UUIDv7.
    pub id: Option<String>,
    pub template: Option<String>,
    /// `v3`; the newest without it.
    pub version: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub definition: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub params: Option<Value>,
    pub agent_id: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub context: Option<Value>,
    pub labels: Option<BTreeMap<String, String>>,
    /// RFC 3339; not before.
    pub start_at: Option<String>,
}

#[derive(ToSchema)]
pub struct SubmitAnswer {
    pub workflow_id: String,
    pub status: String,
    pub shard: u32,
    /// With `wait`, once it has completed.
    pub output: Option<Value>,
    /// With `wait`, once it has failed.
    pub error: Option<Value>,
}

#[derive(ToSchema)]
pub struct BatchRequest {
    pub workflows: Vec<SubmitRequest>,
}

#[derive(ToSchema)]
pub struct BatchAnswer {
    /// One for each item, in order.
    pub results: Vec<BatchItem>,
}

/// What became of one item: of a refused one, its problem document.
#[derive(ToSchema)]
pub struct BatchItem {
    /// The HTTP status that the item alone would have got: 201, 200, 422, …
    pub status: u16,
    pub workflow_id: Option<String>,
    /// `pending`, `active`, …
    pub workflow_status: Option<String>,
    pub shard: Option<u32>,
    pub code: Option<String>,
    pub detail: Option<String>,
    pub errors: Option<Vec<ProblemItem>>,
}

/// A run.
#[derive(ToSchema)]
pub struct Workflow {
    pub workflow_id: String,
    pub status: String,
    pub template: Option<String>,
    pub version: Option<String>,
    pub agent_id: Option<String>,
    #[schema(value_type = Object)]
    pub params: Value,
    pub output: Option<Value>,
    pub error: Option<Fault>,
    pub labels: BTreeMap<String, String>,
    /// The run that started it as its child, when one did.
    pub parent: Option<ParentRun>,
    pub steps: BTreeMap<String, Step>,
    pub pending_decisions: Vec<Decision>,
    #[schema(value_type = Object)]
    pub context: Value,
    pub created_at: String,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
}

/// The step of another run that started this one.
#[derive(ToSchema)]
pub struct ParentRun {
    pub workflow_id: String,
    pub step_id: String,
    /// Which attempt of that step.
    pub attempt: u32,
}

#[derive(ToSchema)]
pub struct Step {
    pub status: String,
    pub output: Option<Value>,
    pub error: Option<Fault>,
    pub attempts: u32,
    /// The child that its last attempt has run, of a `workflow.run`.
    pub child: Option<String>,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    pub duration_ms: Option<u64>,
}

#[derive(ToSchema)]
pub struct Fault {
    pub code: String,
    pub message: String,
    pub details: Option<Value>,
    pub step_id: Option<String>,
}

#[derive(ToSchema)]
pub struct WorkflowSummary {
    pub workflow_id: String,
    pub status: String,
    pub template: Option<String>,
    pub version: Option<String>,
    pub agent_id: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub error: Option<Fault>,
    pub created_at: String,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
}

#[derive(ToSchema)]
pub struct WorkflowList {
    pub items: Vec<WorkflowSummary>,
    pub next_cursor: Option<String>,
    /// Shards that gave no answer, when there are any.
    pub unreachable_shards: Option<Vec<UnreachableShard>>,
}

#[derive(ToSchema)]
pub struct UnreachableShard {
    pub shard: u32,
    pub code: String,
    pub detail: String,
}

#[derive(ToSchema)]
pub struct Event {
    /// From 1 without gaps.
    pub sequence: u64,
    pub r#type: String,
    pub step_id: Option<String>,
    #[schema(value_type = Object)]
    pub data: Value,
    pub agent_id: Option<String>,
    pub timestamp: String,
}

#[derive(ToSchema)]
pub struct EventList {
    pub items: Vec<Event>,
    /// Goes into `after`.
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct Decision {
    pub decision_id: String,
    pub workflow_id: String,
    pub step_id: String,
    #[schema(value_type = Object)]
    pub context: Value,
    pub options: Vec<DecisionOption>,
    pub target_agent: Option<String>,
    pub fallback: Option<String>,
    pub timeout_at: Option<String>,
    pub created_at: String,
    pub status: Option<String>,
    pub resolution: Option<Value>,
}

#[derive(ToSchema)]
pub struct DecisionOption {
    pub id: String,
    pub description: String,
}

#[derive(ToSchema)]
pub struct DecisionList {
    pub items: Vec<Decision>,
    pub next_cursor: Option<String>,
    pub unreachable_shards: Option<Vec<UnreachableShard>>,
}

#[derive(ToSchema)]
pub struct Why {
    pub waiting_for: Vec<WaitingFor>,
}

#[derive(ToSchema)]
pub struct WaitingFor {
    pub kind: String,
    pub step_id: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub who: Option<String>,
    pub detail: String,
    pub repair: Option<String>,
    /// The child that is waited for, of the kind `child`.
    pub child: Option<String>,
}

#[derive(ToSchema)]
pub struct SignalRequest {
    /// `decision`, `data`, `cancel`, `retry` or `skip`.
    pub r#type: String,
    pub step_id: Option<String>,
    /// Of a decision: `{choice, data?}` or the choice itself.
    pub payload: Option<Value>,
    pub agent_id: Option<String>,
    pub reasoning: Option<String>,
    /// The same id twice is delivered once.
    pub signal_id: Option<String>,
}

#[derive(ToSchema)]
pub struct ReasonRequest {
    pub reason: Option<String>,
    pub agent_id: Option<String>,
}

#[derive(ToSchema)]
pub struct RetryRequest {
    /// Run again from this step on; without it, what had failed.
    pub from_step: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub params: Option<Value>,
    /// Another version of the run's template.
    pub version: Option<String>,
    pub reason: Option<String>,
    pub agent_id: Option<String>,
}

/// A signal or command taken and committed.
#[derive(ToSchema)]
pub struct Accepted {
    /// Of the event that recorded it.
    pub sequence: u64,
}

#[derive(ToSchema)]
pub struct BulkRequest {
    pub filter: BulkFilter,
    /// `cancel`, `suspend`, `resume`, `retry`, `delete` or `signal`.
    pub action: String,
    /// For `signal`.
    pub signal: Option<SignalRequest>,
    pub reason: Option<String>,
    pub agent_id: Option<String>,
    /// Counts and changes nothing.
    pub dry_run: Option<bool>,
    /// Workflows that this call goes through at most.
    #[schema(minimum = 1, maximum = 100_000)]
    pub limit: Option<u32>,
    /// Goes on after an earlier call.
    pub cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct BulkFilter {
    /// One status or several; by default those that the action can apply to.
    pub status: Option<Vec<String>>,
    pub agent_id: Option<String>,
    pub template: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub since: Option<String>,
    pub until: Option<String>,
}

#[derive(ToSchema)]
pub struct BulkAnswer {
    pub matched: u64,
    pub applied: u64,
    /// Matched, but refused by the run (it moved on meanwhile).
    pub refused: u64,
    /// Asked of a shard that gave no answer: applied or not.
    pub unknown: u64,
    /// More may match than this call has gone through: go on with `next_cursor`.
    pub truncated: bool,
    pub next_cursor: Option<String>,
    /// Shards that have not done all, each with the reason; absent when all have.
    pub unreachable_shards: Option<Vec<UnreachableShard>>,
}

/// A template file.
#[derive(ToSchema)]
pub struct TemplateRequest {
    /// `[A-Za-z0-9._-]{1,128}`
    pub name: String,
    pub description: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub output_schema: Option<Value>,
    pub category: Option<String>,
    pub features: Option<Vec<String>>,
    /// When it runs by itself: the fields of a schedule, `cron` above all. The schedule has the
    /// template's name, and goes with its triggers.
    #[schema(value_type = Option<Object>)]
    pub triggers: Option<Value>,
    #[schema(value_type = Object)]
    pub definition: Value,
}

#[derive(ToSchema)]
pub struct TemplatePatch {
    /// Paused, no run of it starts; runs that there are go on.
    pub paused: bool,
    pub reason: Option<String>,
    pub agent_id: Option<String>,
}

#[derive(ToSchema)]
pub struct Template {
    pub name: String,
    /// `v1`, `v2`, …
    pub version: String,
    /// SHA-256 of the definition's canonical text.
    pub definition_hash: String,
    pub created_at: String,
    pub paused: Option<bool>,
    pub paused_at: Option<String>,
    pub paused_reason: Option<String>,
    pub description: Option<String>,
    pub category: Option<String>,
    pub features: Option<Vec<String>>,
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub output_schema: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub definition: Option<Value>,
}

#[derive(ToSchema)]
pub struct TemplateList {
    pub items: Vec<Template>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct SecretRequest {
    /// 6 bytes to 16 KiB of text.
    pub value: String,
}

#[derive(ToSchema)]
pub struct Secret {
    /// `[A-Za-z0-9._-]{1,128}`; params name it as `${{secrets.KEY}}`.
    pub key: String,
    pub created_at: String,
    /// When its value was last set.
    pub updated_at: String,
}

#[derive(ToSchema)]
pub struct Agent {
    pub agent_id: String,
    /// What it spoke with last: its `User-Agent`, or what its client of MCP calls itself.
    pub client: Option<String>,
    pub first_seen: String,
    /// Of contacts with other nodes, up to a minute old.
    pub last_seen: String,
}

#[derive(ToSchema)]
pub struct AgentList {
    pub items: Vec<Agent>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct SecretList {
    pub items: Vec<Secret>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct SecretRemoved {
    pub key: String,
    pub removed: bool,
}

#[derive(ToSchema)]
pub struct SecretsRotated {
    /// Sealed with the node's first key now.
    pub resealed: u64,
    /// Sealed with it before.
    pub unchanged: u64,
    /// Keys of those that could not be opened; they are as they were.
    pub failed: Vec<String>,
}

#[derive(ToSchema)]
pub struct Validated {
    /// Always true; a definition that is not valid is answered with 422.
    pub valid: bool,
    /// Steps in all, nested ones too.
    pub steps: usize,
    /// Top-level step ids by level.
    pub levels: Vec<Vec<String>>,
    pub definition_hash: String,
}

#[derive(ToSchema)]
pub struct ActionList {
    pub items: Vec<Action>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct Action {
    pub name: String,
    pub aliases: Vec<String>,
    pub pure: bool,
    pub about: String,
    pub params: Vec<ActionParam>,
}

#[derive(ToSchema)]
pub struct ActionParam {
    pub name: String,
    pub required: bool,
    pub types: Vec<String>,
    pub about: String,
}

#[derive(ToSchema)]
pub struct Cluster {
    pub cluster_id: String,
    pub version: String,
    pub map_version: u64,
    /// Replicas that a shard has, when there are nodes enough.
    pub replication_factor: u32,
    pub members: Vec<Member>,
    /// The node that leads the cluster's own group.
    pub leader: Option<String>,
    pub shards: Vec<Shard>,
    /// Templates and the like.
    pub system_shard: Shard,
    /// The last recoveries from a lost majority, when there were any: what was acknowledged before
    /// one of them may be missing.
    #[schema(value_type = Option<Vec<Object>>)]
    pub recoveries: Option<Vec<Value>>,
}

#[derive(ToSchema)]
pub struct Member {
    pub node_id: String,
    pub addr: String,
    pub peer_addr: Option<String>,
    pub role: String,
    /// `active`, `draining` or `removing`.
    pub state: String,
    pub alive: bool,
    /// Shards that it holds, or shall.
    pub shards: u64,
    #[schema(value_type = Option<Object>)]
    pub isolation: Option<Value>,
}

#[derive(ToSchema)]
pub struct Shard {
    pub shard: u32,
    pub epoch: u64,
    /// The node that leads the shard's group.
    pub primary: Option<String>,
    pub replicas: Vec<Replica>,
    /// The nodes that shall hold it, the one that should lead first.
    pub placed: Vec<String>,
    /// What its members are being changed to, while they are.
    pub doing: Option<String>,
    pub workflows: u64,
    pub bytes: u64,
}

#[derive(ToSchema)]
pub struct Replica {
    pub node_id: String,
    /// `voter`, or `learner` for one that only follows.
    pub role: String,
    pub in_sync: bool,
    /// `null` for one that was never reached.
    pub lag_ms: Option<u64>,
    pub position: u64,
}

#[derive(ToSchema)]
pub struct SqlRequest {
    /// One `SELECT`; it runs on every shard, and the rows follow one another.
    pub query: String,
    /// Rows at most, 1 to 10 000, default 1000.
    pub limit: Option<u64>,
    /// Only this shard.
    pub shard: Option<u32>,
}

#[derive(ToSchema)]
pub struct SqlAnswer {
    #[schema(value_type = Vec<Object>)]
    pub items: Vec<Value>,
    /// There were more rows than the limit.
    pub truncated: bool,
    pub unreachable_shards: Option<Vec<UnreachableShard>>,
}
