//! The HTTP edge: raw input stops here. Requests become valid commands, are placed on the shard
//! that owns the workflow, and answers become documents of the HTTP contract.
//!
//! Any node answers any request. The router decides nothing about a workflow and stores nothing;
//! it never touches the log or the tables except through a shard's handle, nor the audit log's files. Runs that are due by a
//! schedule come in here too: from the node that leads the system shard, to whoever owns them.

mod access;
mod agents;
mod archive;
pub mod audit;
mod backup;
mod catalogue_secrets;
mod control;
mod definitions;
mod embedded;
mod error;
mod event_stream;
mod firehose;
mod forward;
mod gather;
mod guard;
mod handlers;
mod http;
mod incoming;
mod known_runs;
mod local;
mod manual;
pub mod mcp;
pub mod meters;
mod namespace;
pub mod placement;
mod plugins;
mod query;
mod relay;
mod retention;
mod schedule;
mod scheduler;
pub mod schema;
mod session;
pub mod shard_map;
mod state;
mod strict;
mod submission;
mod trace;
mod webhooks;
mod wire;

pub use access::file::Tokens;
pub use access::limit::RateLimit;
pub use access::remote::{Door, Remote};
pub use agents::run_agents;
pub use catalogue_secrets::CatalogueSecrets;
pub use control::{ClusterChange, ClusterControl, ClusterError};
pub use error::ApiError;
pub use handlers::scrub::run_scrubs;
pub use http::{app, openapi};
pub use local::LocalShards;
pub use plugins::{PluginDoor, PluginHost, run_plugins};
pub use relay::ShardRelay;
pub use retention::{RetentionOptions, run_retention};
pub use scheduler::run_schedules;
pub use state::{NodeInfo, RouterOptions, RouterParts, RouterState};
pub use strict::duplicate_keys;
pub use webhooks::{WebhookOptions, run_webhooks, schema as webhook_schema};
