//! Records: what a batch is made of, decided facts only, the same in the log and in the tables.

use std::sync::Arc;

use opcode_engine::event::{Body, Event, EventType};
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, Timestamp, WorkflowId};
use opcode_engine::view::{self, Change};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::catalogue::CatalogueEntry;

/// One fact of a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// An event of a run.
    Event(EventRecord),
    /// A definition, written before the first event that names its hash.
    Definition {
        /// Its hash.
        hash: DefinitionHash,
        /// Its canonical JSON text.
        source: Arc<str>,
    },
    /// A version of a template (system shard).
    Template(TemplateRecord),
    /// The message that an event leaves owed has been taken by the shard it is for.
    Delivered {
        /// The event's run.
        no: RunNo,
        /// Its place in the run's log.
        sequence: Sequence,
    },
    /// An entry of the catalogue as it is from now on (system shard).
    Entry(CatalogueEntry),
    /// A run that has ended is there no more, nor anything of it. Its number is never given again.
    Purged {
        /// The run's number in this shard.
        no: RunNo,
    },
    /// An event of a run that has come as history, from another cluster or an archive: it happened
    /// elsewhere, so nobody is told of it and it owes nothing. All events of such a run are in one
    /// batch.
    History(EventRecord),
}

impl Record {
    /// The event that it is, if it is one that happens now.
    pub fn as_event(&self) -> Option<&EventRecord> {
        match self {
            Self::Event(event) => Some(event),
            Self::Definition { .. }
            | Self::Template(_)
            | Self::Delivered { .. }
            | Self::Entry(_)
            | Self::Purged { .. }
            | Self::History(_) => None,
        }
    }

    /// About how many bytes it is.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Event(event) | Self::History(event) => event.size_bytes(),
            Self::Definition { source, .. } => source.len(),
            Self::Template(template) => template.source.len(),
            Self::Delivered { .. } | Self::Purged { .. } => 32,
            Self::Entry(entry) => entry.size_bytes(),
        }
    }
}

/// An event as it is stored: `data` is JSON text, opaque here.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// The run's number in this shard.
    pub no: RunNo,
    /// The event's place in the run's log.
    pub sequence: Sequence,
    /// Its type.
    pub event_type: EventType,
    /// Full id of the step it is about.
    pub step_id: Option<Arc<str>>,
    /// JSON text.
    pub data: Vec<u8>,
    /// Who caused it.
    pub agent_id: Option<Arc<str>>,
    /// When it was decided.
    pub timestamp: Timestamp,
}

/// A version of a template.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TemplateRecord {
    /// Its name.
    pub name: Arc<str>,
    /// From 1; shown as `v1`.
    pub version: u32,
    /// Hash of its definition.
    pub definition: DefinitionHash,
    /// JSON text of the template file, whole: `{name, description, …, definition}`.
    pub source: Arc<str>,
    /// When it was defined.
    pub created_at: Timestamp,
}

impl EventRecord {
    /// Encodes an event of run `no`.
    pub fn encode(no: RunNo, event: &Event) -> Self {
        let mut data = Vec::with_capacity(96);
        event.body.encode(&mut data);
        Self {
            no,
            sequence: event.sequence,
            event_type: event.body.event_type(),
            step_id: event.step_id.clone(),
            data,
            agent_id: event.agent_id.clone(),
            timestamp: event.timestamp,
        }
    }

    /// Decodes it again; the error names what is broken.
    pub fn decode(&self) -> Result<Event, String> {
        Ok(Event {
            sequence: self.sequence,
            body: Body::decode(self.event_type, &self.data)?,
            step_id: self.step_id.clone(),
            agent_id: self.agent_id.clone(),
            timestamp: self.timestamp,
        })
    }

    /// The id of the run that this event starts, when it starts one.
    pub fn started_run(&self) -> Option<WorkflowId> {
        if self.event_type != EventType::WorkflowStarted {
            return None;
        }
        let changes =
            view::changes(self.event_type, self.step_id.as_ref(), &self.data, self.timestamp).ok()?;
        changes.into_iter().find_map(|change| match change {
            Change::RunStarted(started) => WorkflowId::parse_kept(&started.workflow_id).ok(),
            Change::Run { .. }
            | Change::Definition(_)
            | Change::Step(_)
            | Change::DecisionRequested(_)
            | Change::DecisionClosed { .. }
            | Change::DecisionsWithdrawn
            | Change::MessageOwed => None,
        })
    }

    /// A checksum (XXH3, 64 bits) of all of it, which the tables keep beside it: what they show years
    /// later is what was committed, or an error.
    pub fn checksum(&self) -> u64 {
        let mut numbers = [0; 25];
        numbers[..8].copy_from_slice(&self.no.0.to_le_bytes());
        numbers[8..16].copy_from_slice(&self.sequence.0.to_le_bytes());
        numbers[16..24].copy_from_slice(&self.timestamp.0.to_le_bytes());
        numbers[24] = self.event_type.code();
        // None is another than an empty text, and a step another than an agent.
        let text = |sum: u64, mark: u64, text: Option<&str>| match text {
            None => sum,
            Some(text) => xxh3_64_with_seed(text.as_bytes(), sum.wrapping_add(mark)),
        };
        let sum = text(xxh3_64(&numbers), 1, self.step_id.as_deref());
        xxh3_64_with_seed(&self.data, text(sum, 2, self.agent_id.as_deref()))
    }

    /// About how many bytes it is in the log.
    pub fn size_bytes(&self) -> usize {
        32 + self.data.len() + self.step_id.as_ref().map_or(0, |s| s.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_tells_every_part_from_another() {
        let record = EventRecord {
            no: RunNo(7),
            sequence: Sequence(3),
            event_type: EventType::StepCompleted,
            step_id: Some("a".into()),
            data: b"{}".to_vec(),
            agent_id: None,
            timestamp: Timestamp(1_000),
        };
        let others = [
            EventRecord { no: RunNo(8), ..record.clone() },
            EventRecord { sequence: Sequence(4), ..record.clone() },
            EventRecord { event_type: EventType::StepFailed, ..record.clone() },
            EventRecord { step_id: None, ..record.clone() },
            EventRecord { step_id: None, agent_id: Some("a".into()), ..record.clone() },
            EventRecord { agent_id: Some("".into()), ..record.clone() },
            EventRecord { data: b"{ }".to_vec(), ..record.clone() },
            EventRecord { timestamp: Timestamp(1_001), ..record.clone() },
        ];
        for other in &others {
            assert_ne!(other.checksum(), record.checksum(), "{other:?}");
        }
        // It is on disks: another one makes every table that there is a damaged one.
        assert_eq!(record.checksum(), 0x7834_0f55_3c8f_91b2);
    }
}
