//! What is read and written of schedules.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// When to run a template: one of `cron`, `interval` and `at`.
#[derive(ToSchema)]
pub struct ScheduleRequest {
    /// `[A-Za-z0-9._-]{1,100}`; without one the server makes one.
    pub id: Option<String>,
    pub template: String,
    /// `v3`; the newest at each slot without it.
    pub version: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub params: Option<Value>,
    /// Five fields (minute, hour, day, month, weekday), or `@daily` and the like.
    pub cron: Option<String>,
    /// `5m`, `1h30m`; at least `1s`. Counted from 1970-01-01T00:00:00Z.
    pub interval: Option<String>,
    /// RFC 3339; once.
    pub at: Option<String>,
    /// Of the pattern, `Europe/Berlin`; UTC without it.
    pub timezone: Option<String>,
    /// Slots that nobody could act on in time: `skip`, `one` (default: the last of them) or `all`.
    pub missed: Option<String>,
    /// A slot before the earlier one's run has ended: `skip` (default), `queue` or `parallel`.
    pub overlap: Option<String>,
    pub paused: Option<bool>,
    pub labels: Option<BTreeMap<String, String>>,
    pub agent_id: Option<String>,
}

/// What is to be other; the rest stays.
#[derive(ToSchema)]
pub struct SchedulePatch {
    pub template: Option<String>,
    pub version: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub params: Option<Value>,
    pub cron: Option<String>,
    pub interval: Option<String>,
    pub at: Option<String>,
    pub timezone: Option<String>,
    pub missed: Option<String>,
    pub overlap: Option<String>,
    pub paused: Option<bool>,
    pub labels: Option<BTreeMap<String, String>>,
    pub agent_id: Option<String>,
}

#[derive(ToSchema)]
pub struct Schedule {
    pub id: String,
    pub template: String,
    pub version: Option<String>,
    #[schema(value_type = Object)]
    pub params: Value,
    pub cron: Option<String>,
    pub interval: Option<String>,
    pub at: Option<String>,
    pub timezone: Option<String>,
    pub missed: String,
    pub overlap: String,
    pub paused: bool,
    pub labels: BTreeMap<String, String>,
    pub agent_id: Option<String>,
    /// Made by the `triggers` of its template.
    pub by_template: bool,
    /// `null` when it is paused, or over.
    pub next_slot: Option<String>,
    /// The last one that was acted on.
    pub last_slot: Option<String>,
    /// The last run that a slot has started.
    pub last_workflow_id: Option<String>,
    /// The last slot that could not be started, and why.
    pub last_error: Option<SlotError>,
    /// Slots that wait for the run before them to end.
    pub waiting: u64,
    pub created_at: String,
    pub updated_at: String,
    /// Counts the changes by people, from 1; slots leave it as it is.
    pub revision: u64,
}

#[derive(ToSchema)]
pub struct SlotError {
    pub slot: String,
    pub code: String,
    pub message: String,
}

#[derive(ToSchema)]
pub struct ScheduleList {
    pub items: Vec<Schedule>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct Slot {
    pub slot: String,
    /// Of the run that it will have.
    pub workflow_id: String,
}

#[derive(ToSchema)]
pub struct SlotList {
    pub items: Vec<Slot>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct BackfillRequest {
    /// RFC 3339; at or after.
    pub since: String,
    /// RFC 3339; before.
    pub until: String,
}

#[derive(ToSchema)]
pub struct BackfillAnswer {
    /// Slots that have passed in that time.
    pub matched: u64,
    pub started: u64,
    /// Had their run already.
    pub already: u64,
}
