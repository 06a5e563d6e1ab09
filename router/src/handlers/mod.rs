//! One file per family of calls. A handler reads its request strictly, asks the owning shard,
//! and writes the answer; it holds no state and decides nothing about a workflow.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod bulk;
pub(crate) mod cluster;
pub(crate) mod commands;
pub(crate) mod decisions;
pub(crate) mod diagram;
pub(crate) mod events;
pub(crate) mod export;
pub(crate) mod health;
pub(crate) mod import;
pub(crate) mod lists;
pub(crate) mod namespaces;
pub(crate) mod plugins;
pub(crate) mod retention;
pub(crate) mod schedules;
pub(crate) mod scrub;
pub(crate) mod secrets;
pub(crate) mod sync;
pub(crate) mod templates;
pub(crate) mod tokens;
pub(crate) mod validate;
pub(crate) mod webhook_failures;
pub(crate) mod webhooks;
pub(crate) mod workflows;
