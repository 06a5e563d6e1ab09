//! What a shard tells of itself in numbers: every metric of this crate with what it means, and the
//! recording of what happens often.
//!
//! What happens is recorded where it happens and costs an atomic there, or a slot in a bucket. What
//! is the case is not recorded at all: whoever asks for metrics looks at it then
//! ([`ShardHandle::gauges`]). No label has values that clients choose, and every number is in base
//! units, which its name tells.

use std::collections::BTreeMap;
use std::time::Duration;

use opcode_engine::event::EventType;
use opcode_engine::ids::{ShardId, Timestamp};
use opcode_engine::{Code, Fault};
use serde_json::Value;

use crate::handle::ShardHandle;
use crate::peer::NodeId;
use crate::queue::QUEUE_MESSAGES_MAX;

/// What a metric counts or measures.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// Its name, with the unit.
    pub name: &'static str,
    /// How its values are to be read.
    pub kind: Kind,
    /// One sentence for a person, without a full stop.
    pub help: &'static str,
}

/// How values are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from the start of the process.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Counts of values by size.
    Histogram,
}

impl Meter {
    /// One that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    /// One that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    /// One of values by size.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, help }
    }

    /// Tells the recorder what it means.
    pub fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.help),
        }
    }
}

/// Every metric that this crate records.
pub const METERS: &[Meter] = &[
    Meter::counter("opcode_events_total", "Events decided by shards that this node leads, by their type"),
    Meter::histogram("opcode_batch_records", "Records in a batch that was proposed to a shard's log"),
    Meter::histogram("opcode_commit_seconds", "Time from proposing a batch to its commit by a majority"),
    Meter::histogram("opcode_log_batch_ops", "Changes of all shards that one write of the log took"),
    Meter::histogram("opcode_log_sync_seconds", "Time that one sync of the log to stable storage took"),
    Meter::counter("opcode_log_bytes_total", "Bytes written to the log"),
    Meter::gauge("opcode_log_purged_index", "Last entry of a group's log that was purged"),
    Meter::counter(
        "opcode_leader_changes_total",
        "Times that this node saw another node come to lead a shard",
    ),
    Meter::gauge("opcode_runs_in_memory", "Runs that a shard holds in memory"),
    Meter::gauge(
        "opcode_outbox_messages",
        "Messages of a shard's runs to other shards that are not delivered",
    ),
    Meter::histogram("opcode_timer_lateness_seconds", "How long after it was due a run's timer fired"),
    Meter::histogram(
        "opcode_step_attempt_seconds",
        "Time that one attempt of a step took in a worker, by the action's family",
    ),
    Meter::counter(
        "opcode_step_faults_total",
        "Attempts of steps in a worker that failed, by the code of the fault",
    ),
    Meter::counter("opcode_denied_total", "Calls and steps refused for what they may not do"),
    Meter::counter("opcode_tables_records_total", "Records that a shard's tables have taken"),
    Meter::gauge(
        "opcode_tables_backlog_records",
        "Records that are committed and not yet in a shard's tables",
    ),
    Meter::histogram("opcode_tables_commit_seconds", "Time that one transaction of a shard's tables took"),
    Meter::histogram("opcode_tables_checkpoint_seconds", "Time that one checkpoint of a shard's tables took"),
    Meter::counter("opcode_corruption_total", "Damage found in a shard's tables"),
    Meter::counter("opcode_sync_frames_total", "Frames given to embedded replicas"),
];

/// A group as a label.
pub(crate) fn label(group: ShardId) -> String {
    if group == ShardId::MEMBERSHIP { "membership".to_owned() } else { group.to_string() }
}

/// What a shard's loop counts.
pub(crate) struct LoopMeters {
    /// By the code of an event's type.
    events: Vec<metrics::Counter>,
    lateness: metrics::Histogram,
}

impl LoopMeters {
    pub(crate) fn new(shard: ShardId) -> Self {
        // Told from none, so that the first is seen to come.
        metrics::counter!("opcode_corruption_total", "shard" => shard.to_string()).increment(0);
        metrics::counter!("opcode_sync_frames_total").increment(0);
        let of = |code| match EventType::from_code(code) {
            Some(kind) => metrics::counter!("opcode_events_total", "type" => kind.as_str()),
            None => metrics::Counter::noop(),
        };
        Self {
            events: (0..=u8::MAX).map(of).collect(),
            lateness: metrics::histogram!("opcode_timer_lateness_seconds"),
        }
    }

    /// An event has been decided.
    pub(crate) fn decided(&self, kind: EventType) {
        self.events[usize::from(kind.code())].increment(1);
    }

    /// A timer that was due at `due` fires.
    pub(crate) fn fired(&self, due: Timestamp, now: Timestamp) {
        self.lateness.record(Duration::from_millis(now.since_ms(due)).as_secs_f64());
    }
}

/// An attempt of a step has ended in a worker.
pub(crate) fn attempted(action: &str, took: Duration, result: &Result<Value, Fault>) {
    metrics::histogram!("opcode_step_attempt_seconds", "family" => family(action)).record(took.as_secs_f64());
    let Err(fault) = result else { return };
    let code = fault.code.as_str();
    metrics::counter!("opcode_step_faults_total", "code" => code).increment(1);
    if matches!(fault.code, Code::PermissionDenied | Code::PathDenied) {
        metrics::counter!("opcode_denied_total", "of" => "step", "code" => code).increment(1);
    }
}

/// The family of an action, of a bounded number: those that are not ours are one.
fn family(action: &str) -> &'static str {
    match action.split('.').next().unwrap_or_default() {
        "assert" => "assert",
        "crypto" => "crypto",
        "expr" => "expr",
        "fs" => "fs",
        "http" => "http",
        "jq" => "jq",
        "shell" => "shell",
        "workflow" => "workflow",
        _ => "other",
    }
}

/// What is the case with a replica, looked at without waiting.
#[derive(Clone, Debug)]
pub struct ShardGauges {
    /// It leads, in this term; else the term that it follows in.
    pub term: u64,
    /// Whether it leads and takes requests.
    pub leads: bool,
    /// Messages in its queue.
    pub queued: usize,
    /// How old what it knows may be; none before it has heard a leader.
    pub behind: Option<Duration>,
    /// How far each other member is behind; from the leader.
    pub lags: BTreeMap<NodeId, Duration>,
}

impl ShardHandle {
    /// What is the case with this replica now.
    pub fn gauges(&self) -> ShardGauges {
        let (door, group) = (&self.inner, self.group());
        let leads = self.serves();
        let lags = if leads { group.members().lag_ms } else { BTreeMap::new() };
        let others = lags.into_iter().filter(|(node, _)| *node != group.node_id());
        ShardGauges {
            term: group.term(),
            leads,
            queued: QUEUE_MESSAGES_MAX.saturating_sub(door.queue.capacity()),
            behind: group.behind(group.committed().index),
            lags: others.map(|(node, ms)| (node, Duration::from_millis(ms))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_of_anybodys_adds_no_label() {
        assert_eq!(family("http.get"), "http");
        assert_eq!(family("jq"), "jq");
        for other in ["", ".", "mine.do", "httpx.get", "HTTP.get"] {
            assert_eq!(family(other), "other", "{other}");
        }
    }

    #[test]
    fn names_are_told_once_and_tell_their_unit() {
        let mut names: Vec<_> = METERS.iter().map(|meter| meter.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METERS.len());
        for Meter { name, kind, help } in METERS {
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(name.starts_with("opcode_") && !help.is_empty() && !help.ends_with('.'), "{name}");
        }
    }
}
