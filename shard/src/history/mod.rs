//! Runs and templates as they leave a cluster and come into another: one line of JSON each, with all
//! that it takes to make them anew. [`check`] judges what comes in, [`door`] is the shard's side.
//!
//! A run comes as history: ended, with its own id, events and times. Nothing of it happens again, so
//! nobody is told of its events and it owes no message. Schedules and secrets are not carried: two
//! clusters that fire the same slot are what must not come by itself.

mod check;
mod door;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::event::{Body, EventType};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{DefinitionHash, Timestamp, WorkflowId};
use opcode_engine::view::{self, Change};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

pub use self::check::{Checked, CheckedRun};
use crate::batch::Position;
use crate::record::EventRecord;

/// Longest line, in bytes. A run in the log is no larger than its line, so that it is one batch.
pub const LINE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest message about a line that cannot be read, in characters.
const MESSAGE_CHARS_MAX: usize = 500;
/// The kind of the last line of an export, without which it was cut off.
pub const END: &str = "end";
/// The kind of a line in the place of a run that could not be written.
pub const OMITTED: &str = "omitted";
/// Kinds of lines.
const KINDS: [&str; 2] = ["template", "run"];

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Line {
    /// A version of a template.
    Template(PastTemplate),
    /// A run.
    Run(Box<PastRun>),
}

/// What kind of line it is, which stands in it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TemplateKind {
    #[default]
    Template,
}

/// The same of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RunKind {
    #[default]
    Run,
}

/// A version of a template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastTemplate {
    kind: TemplateKind,
    /// Its name.
    pub name: Arc<str>,
    /// `v3`.
    pub version: Arc<str>,
    /// When it was defined.
    #[serde(with = "text::time")]
    pub created_at: Timestamp,
    /// The template file, whole: `{name, description, …, definition}`.
    pub source: Box<RawValue>,
}

/// A run, whole. What its first event says stands beside the events for who reads the line; coming
/// in, it may be left out, and must not say otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastRun {
    kind: RunKind,
    /// Its id.
    pub workflow_id: WorkflowId,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<WorkflowStatus>,
    /// The template that it was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Arc<str>>,
    /// And its version then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Arc<str>>,
    /// Who started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<Arc<str>>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Its params as it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Arc<Value>>,
    /// Every definition that its events name, the one that it started with first.
    pub definitions: Vec<Box<RawValue>>,
    /// Its events, from 1 without gaps.
    pub events: Vec<PastEvent>,
}

/// An event of it, as the API shows one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PastEvent {
    pub sequence: u64,
    #[serde(rename = "type", with = "text::event_type")]
    pub event_type: EventType,
    #[serde(default)]
    pub step_id: Option<Arc<str>>,
    pub data: Box<RawValue>,
    #[serde(default)]
    pub agent_id: Option<Arc<str>>,
    #[serde(with = "text::time")]
    pub timestamp: Timestamp,
}

/// What came of a line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Imported {
    /// False: it was there already, the same.
    pub is_new: bool,
    /// The log position that holds it.
    pub position: Position,
}

impl Line {
    /// Reads a line; the error says what is wrong with it. None for the one that ends an export.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
        }
        if text.len() > LINE_BYTES_MAX {
            return Err(format!("a line of {} bytes; at most {LINE_BYTES_MAX} are taken", text.len()));
        }
        // It may quote the line.
        let said =
            |error: serde_json::Error| error.to_string().chars().take(MESSAGE_CHARS_MAX).collect::<String>();
        match serde_json::from_str::<Head>(text).map_err(said)?.kind.as_str() {
            "template" => serde_json::from_str(text).map(Self::Template).map(Some).map_err(said),
            "run" => serde_json::from_str(text).map(Self::Run).map(Some).map_err(said),
            END => Ok(None),
            OMITTED => Err("the export has left this out, and says why".into()),
            other => {
                let shown: String = other.chars().take(64).collect();
                Err(format!("no line is of the kind `{shown}`; known are {}", KINDS.join(", ")))
            }
        }
    }

    /// Writes it, with its line end; the error says why it is too long.
    pub fn write(&self) -> Result<Vec<u8>, String> {
        let mut bytes = match self {
            Self::Template(template) => serde_json::to_vec(template),
            Self::Run(run) => serde_json::to_vec(run),
        }
        .map_err(|error| error.to_string())?;
        if bytes.len() > LINE_BYTES_MAX {
            return Err(format!("its line has {} bytes; at most {LINE_BYTES_MAX} are written", bytes.len()));
        }
        // Line ends can only stand between tokens of JSON, where a space means the same.
        bytes.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// What it is of, for who reads an answer.
    pub fn key(&self) -> String {
        match self {
            Self::Template(template) => format!("{}@{}", template.name, template.version),
            Self::Run(run) => run.workflow_id.to_string(),
        }
    }
}

impl PastTemplate {
    /// A version of a template; `source` is the template file.
    pub fn new(name: Arc<str>, version: Arc<str>, created_at: Timestamp, source: Box<RawValue>) -> Self {
        Self { kind: TemplateKind::Template, name, version, created_at, source }
    }
}

impl PastRun {
    /// A run with these events and the texts of the definitions that they name.
    pub fn new(
        workflow_id: WorkflowId,
        definitions: &[Arc<str>],
        events: Vec<EventRecord>,
    ) -> Result<Self, String> {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).map_err(|error| error.to_string());
        let status = status_after(&events)?;
        let mut run = Self {
            kind: RunKind::Run,
            workflow_id,
            status,
            template: None,
            version: None,
            agent_id: None,
            labels: None,
            params: None,
            definitions: definitions.iter().map(|text| raw(text)).collect::<Result<_, _>>()?,
            events: Vec::with_capacity(events.len()),
        };
        if let Some(Body::WorkflowStarted(started)) =
            events.first().map(|e| Body::decode(e.event_type, &e.data)).transpose()?
        {
            (run.template, run.version) = (started.template, started.version);
            (run.agent_id, run.labels) = (started.agent_id, Some(started.labels));
            run.params = Some(started.params);
        }
        for event in events {
            let data = String::from_utf8(event.data).map_err(|error| error.to_string())?;
            run.events.push(PastEvent {
                sequence: event.sequence.0,
                event_type: event.event_type,
                step_id: event.step_id,
                data: RawValue::from_string(data).map_err(|error| error.to_string())?,
                agent_id: event.agent_id,
                timestamp: event.timestamp,
            });
        }
        Ok(run)
    }
}

/// The status that these events leave a run in.
fn status_after(events: &[EventRecord]) -> Result<Option<WorkflowStatus>, String> {
    for event in events.iter().rev() {
        let changes = view::changes(event.event_type, event.step_id.as_ref(), &event.data, event.timestamp)?;
        let status = changes.into_iter().rev().find_map(|change| match change {
            Change::RunStarted(started) => Some(started.status),
            Change::Run { status, .. } => Some(status),
            Change::Definition(_)
            | Change::Step(_)
            | Change::DecisionRequested(_)
            | Change::DecisionClosed { .. }
            | Change::DecisionsWithdrawn
            | Change::MessageOwed => None,
        });
        if status.is_some() {
            return Ok(status);
        }
    }
    Ok(None)
}

/// The definition that an event names, if it does.
fn pinned(event: &EventRecord) -> Result<Option<DefinitionHash>, String> {
    if !matches!(
        event.event_type,
        EventType::WorkflowStarted | EventType::WorkflowResumed | EventType::DagMutated
    ) {
        return Ok(None);
    }
    Ok(match Body::decode(event.event_type, &event.data)? {
        Body::WorkflowStarted(started) => Some(started.definition),
        Body::WorkflowResumed(resumed) => resumed.definition,
        Body::DagMutated(mutated) => Some(mutated.definition),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
