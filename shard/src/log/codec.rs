//! Batches as bytes: a version byte, then one frozen struct per version, in bincode's format.
//!
//! Version 1 has no term, version 3 may also say which messages are delivered, version 4 how entries
//! of the catalogue are, version 5 which runs are purged, version 6 runs that come as history. A batch is written in the lowest version that
//! has all it says, so that nodes of the release before read whatever they know; of a version that they
//! don't they say so and stop.
//!
//! The bytes go to disk and to other nodes, and this family of formats tolerates no added field:
//! so a struct here never changes; a new shape is a new version beside it. JSON payloads pass
//! through unread. Integrity is the log frame's affair (a checksum around these bytes), yet
//! whatever the bytes are, decoding them ends in records or an error, and allocates no more than
//! a small multiple of their length.

use std::sync::Arc;

use opcode_engine::event::EventType;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, Timestamp};
use wincode::config::Configuration;
use wincode::int_encoding::{LittleEndian, VarInt};
use wincode::len::BincodeLen;
use wincode::{SchemaRead, SchemaWrite};

use crate::catalogue::{CatalogueEntry, EntryKind};
use crate::record::{EventRecord, Record, TemplateRecord};

/// The newest version: as version 5, with records of more kinds.
const VERSION: u8 = 6;
/// As version 4, with records of more kinds.
const VERSION_5: u8 = 5;
/// As version 3, with records of more kinds.
const VERSION_4: u8 = 4;
/// As version 2, with records of more kinds.
const VERSION_3: u8 = 3;
/// The term it was decided in, then the records as in version 1.
const VERSION_2: u8 = 2;
/// The first version: without a term.
const VERSION_1: u8 = 1;

/// Largest encoded batch: the largest entry of the log.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Fewest bytes of a record of any version, which bounds what a count may claim.
const RECORD_BYTES_MIN: usize = 2;

/// bincode's standard configuration: little-endian, variable-length integers.
pub(super) type Standard = Configuration<true, BATCH_BYTES_MAX, BincodeLen, LittleEndian, VarInt, u32>;

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
enum RecordV1<'a> {
    Event {
        no: u64,
        sequence: u64,
        event_type: u8,
        step_id: Option<&'a str>,
        data: &'a [u8],
        agent_id: Option<&'a str>,
        timestamp_ms: i64,
    },
    Definition {
        hash: [u8; 32],
        source: &'a str,
    },
    Template {
        name: &'a str,
        version: u32,
        definition: [u8; 32],
        source: &'a str,
        created_at_ms: i64,
    },
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
enum RecordV3<'a> {
    Known(RecordV1<'a>),
    Delivered { no: u64, sequence: u64 },
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
enum RecordV4<'a> {
    Known(RecordV3<'a>),
    Entry { kind: u8, key: &'a str, revision: u64, body: Option<&'a str>, at_ms: i64 },
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
enum RecordV5<'a> {
    Known(RecordV4<'a>),
    Purged { no: u64 },
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
enum RecordV6<'a> {
    Known(RecordV5<'a>),
    History {
        no: u64,
        sequence: u64,
        event_type: u8,
        step_id: Option<&'a str>,
        data: &'a [u8],
        agent_id: Option<&'a str>,
        timestamp_ms: i64,
    },
}

/// The first version with a term that has this record.
fn version_of(record: &Record) -> u8 {
    match record {
        Record::Event(_) | Record::Definition { .. } | Record::Template(_) => VERSION_2,
        Record::Delivered { .. } => VERSION_3,
        Record::Entry(_) => VERSION_4,
        Record::Purged { .. } => VERSION_5,
        Record::History(_) => VERSION,
    }
}

impl<'a> RecordV1<'a> {
    /// `None` for a record that only later versions have.
    fn of(record: &'a Record) -> Option<Self> {
        Some(match record {
            Record::Event(event) => Self::Event {
                no: event.no.0,
                sequence: event.sequence.0,
                event_type: event.event_type.code(),
                step_id: event.step_id.as_deref(),
                data: &event.data,
                agent_id: event.agent_id.as_deref(),
                timestamp_ms: event.timestamp.0,
            },
            Record::Definition { hash, source } => Self::Definition { hash: hash.0, source },
            Record::Template(template) => Self::Template {
                name: &template.name,
                version: template.version,
                definition: template.definition.0,
                source: &template.source,
                created_at_ms: template.created_at.0,
            },
            Record::Delivered { .. } | Record::Entry(_) | Record::Purged { .. } | Record::History(_) => {
                return None;
            }
        })
    }
}

impl<'a> RecordV3<'a> {
    /// `None` for a record that only later versions have.
    fn of(record: &'a Record) -> Option<Self> {
        Some(match record {
            Record::Delivered { no, sequence } => Self::Delivered { no: no.0, sequence: sequence.0 },
            Record::Event(_)
            | Record::Definition { .. }
            | Record::Template(_)
            | Record::Entry(_)
            | Record::Purged { .. }
            | Record::History(_) => Self::Known(RecordV1::of(record)?),
        })
    }
}

impl<'a> RecordV4<'a> {
    /// `None` for a record that only later versions have.
    fn of(record: &'a Record) -> Option<Self> {
        Some(match record {
            Record::Entry(entry) => Self::Entry {
                kind: entry.kind.code(),
                key: &entry.key,
                revision: entry.revision,
                body: entry.body.as_deref(),
                at_ms: entry.at.0,
            },
            Record::Event(_)
            | Record::Definition { .. }
            | Record::Template(_)
            | Record::Delivered { .. }
            | Record::Purged { .. }
            | Record::History(_) => Self::Known(RecordV3::of(record)?),
        })
    }
}

impl<'a> RecordV5<'a> {
    /// `None` for a record that only later versions have.
    fn of(record: &'a Record) -> Option<Self> {
        Some(match record {
            Record::Purged { no } => Self::Purged { no: no.0 },
            Record::Event(_)
            | Record::Definition { .. }
            | Record::Template(_)
            | Record::Delivered { .. }
            | Record::Entry(_)
            | Record::History(_) => Self::Known(RecordV4::of(record)?),
        })
    }
}

impl<'a> RecordV6<'a> {
    fn of(record: &'a Record) -> Option<Self> {
        Some(match record {
            Record::History(event) => Self::History {
                no: event.no.0,
                sequence: event.sequence.0,
                event_type: event.event_type.code(),
                step_id: event.step_id.as_deref(),
                data: &event.data,
                agent_id: event.agent_id.as_deref(),
                timestamp_ms: event.timestamp.0,
            },
            Record::Event(_)
            | Record::Definition { .. }
            | Record::Template(_)
            | Record::Delivered { .. }
            | Record::Entry(_)
            | Record::Purged { .. } => Self::Known(RecordV5::of(record)?),
        })
    }
}

/// A record of some version.
trait Versioned<'a>: SchemaRead<'a, Standard, Dst = Self> {
    fn into_record(self, texts: &mut Texts) -> Result<Record, String>;
}

impl<'a> Versioned<'a> for RecordV6<'a> {
    fn into_record(self, texts: &mut Texts) -> Result<Record, String> {
        match self {
            Self::Known(record) => record.into_record(texts),
            Self::History { no, sequence, event_type, step_id, data, agent_id, timestamp_ms } => {
                let event =
                    RecordV1::Event { no, sequence, event_type, step_id, data, agent_id, timestamp_ms };
                match event.into_record(texts)? {
                    Record::Event(event) => Ok(Record::History(event)),
                    other => unreachable!("{other:?} is no event"),
                }
            }
        }
    }
}

impl<'a> Versioned<'a> for RecordV5<'a> {
    fn into_record(self, texts: &mut Texts) -> Result<Record, String> {
        match self {
            Self::Known(record) => record.into_record(texts),
            Self::Purged { no } => Ok(Record::Purged { no: RunNo(no) }),
        }
    }
}

impl<'a> Versioned<'a> for RecordV4<'a> {
    fn into_record(self, texts: &mut Texts) -> Result<Record, String> {
        match self {
            Self::Known(record) => record.into_record(texts),
            Self::Entry { kind, key, revision, body, at_ms } => Ok(Record::Entry(CatalogueEntry {
                kind: EntryKind::from_code(kind)
                    .ok_or_else(|| format!("no kind of catalogue entry has the code {kind}"))?,
                key: key.into(),
                revision,
                body: body.map(Arc::from),
                at: Timestamp(at_ms),
            })),
        }
    }
}

impl<'a> Versioned<'a> for RecordV3<'a> {
    fn into_record(self, texts: &mut Texts) -> Result<Record, String> {
        match self {
            Self::Known(record) => record.into_record(texts),
            Self::Delivered { no, sequence } => {
                Ok(Record::Delivered { no: RunNo(no), sequence: Sequence(sequence) })
            }
        }
    }
}

impl<'a> Versioned<'a> for RecordV1<'a> {
    fn into_record(self, texts: &mut Texts) -> Result<Record, String> {
        Ok(match self {
            Self::Event { no, sequence, event_type, step_id, data, agent_id, timestamp_ms } => {
                Record::Event(EventRecord {
                    no: RunNo(no),
                    sequence: Sequence(sequence),
                    event_type: EventType::from_code(event_type)
                        .ok_or_else(|| format!("no event type has the code {event_type}"))?,
                    step_id: step_id.map(|text| texts.step.shared(text)),
                    data: data.to_vec(),
                    agent_id: agent_id.map(|text| texts.agent.shared(text)),
                    timestamp: Timestamp(timestamp_ms),
                })
            }
            Self::Definition { hash, source } => {
                Record::Definition { hash: DefinitionHash(hash), source: source.into() }
            }
            Self::Template { name, version, definition, source, created_at_ms } => {
                Record::Template(TemplateRecord {
                    name: name.into(),
                    version,
                    definition: DefinitionHash(definition),
                    source: source.into(),
                    created_at: Timestamp(created_at_ms),
                })
            }
        })
    }
}

/// Neighbouring events mostly name the same step and agent: their text is held once.
#[derive(Default)]
struct Texts {
    step: Last,
    agent: Last,
}

#[derive(Default)]
struct Last(Option<Arc<str>>);

impl Last {
    fn shared(&mut self, text: &str) -> Arc<str> {
        match &self.0 {
            Some(last) if **last == *text => last.clone(),
            Some(_) | None => self.0.insert(text.into()).clone(),
        }
    }
}

/// A batch as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The term of the leader that decided it: in an entry of another term it counts for nothing.
    /// `None` in a batch of version 1.
    pub term: Option<u64>,
    /// Its records.
    pub records: Vec<Record>,
}

/// Encodes a batch that the leader of `term` has decided; the error says which bound it breaks.
pub fn encode(records: &[Record], term: u64) -> Result<Vec<u8>, String> {
    let about: usize = records
        .iter()
        .map(|record| match record {
            Record::Event(event) | Record::History(event) => {
                event.size_bytes() + event.agent_id.as_ref().map_or(0, |a| a.len())
            }
            Record::Definition { source, .. } => 48 + source.len(),
            Record::Template(template) => 64 + template.name.len() + template.source.len(),
            Record::Delivered { .. } => 20,
            Record::Entry(entry) => entry.size_bytes(),
            Record::Purged { .. } => 12,
        })
        .sum();
    let mut bytes = Vec::with_capacity(16 + about);
    let version = records.iter().map(version_of).max().unwrap_or(VERSION_2);
    bytes.push(version);
    bytes.extend(term.to_le_bytes());
    let count = u32::try_from(records.len()).map_err(|_| "a batch of over 4 billion records".to_owned())?;
    bytes.extend(count.to_le_bytes());
    let written = match version {
        VERSION_2 => write_all(&mut bytes, records, RecordV1::of),
        VERSION_3 => write_all(&mut bytes, records, RecordV3::of),
        VERSION_4 => write_all(&mut bytes, records, RecordV4::of),
        VERSION_5 => write_all(&mut bytes, records, RecordV5::of),
        _ => write_all(&mut bytes, records, RecordV6::of),
    };
    written.map_err(|error| format!("a record cannot be encoded: {error}"))?;
    if bytes.len() > BATCH_BYTES_MAX {
        return Err(format!("a batch of {} bytes is over the limit of {BATCH_BYTES_MAX}", bytes.len()));
    }
    Ok(bytes)
}

/// Writes the records of a batch in a version that has all of them.
fn write_all<'a, V: SchemaWrite<Standard, Src = V>>(
    bytes: &mut Vec<u8>,
    records: &'a [Record],
    of: impl Fn(&'a Record) -> Option<V>,
) -> wincode::WriteResult<()> {
    for record in records {
        let known = of(record).expect("a batch's version has all of its records");
        wincode::config::serialize_into(&mut *bytes, &known, Standard::new())?;
    }
    Ok(())
}

/// Decodes a batch of any version known; the error says what is broken.
pub fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    match bytes {
        [VERSION_1, records @ ..] => {
            Ok(Decoded { term: None, records: decode_records::<RecordV1<'_>>(records)? })
        }
        [version @ (VERSION_2 | VERSION_3 | VERSION_4 | VERSION_5 | VERSION), rest @ ..] => {
            let (term, records) = rest.split_first_chunk::<8>().ok_or("a batch without a term")?;
            let records = match *version {
                VERSION_2 => decode_records::<RecordV1<'_>>(records)?,
                VERSION_3 => decode_records::<RecordV3<'_>>(records)?,
                VERSION_4 => decode_records::<RecordV4<'_>>(records)?,
                VERSION_5 => decode_records::<RecordV5<'_>>(records)?,
                _ => decode_records::<RecordV6<'_>>(records)?,
            };
            Ok(Decoded { term: Some(u64::from_le_bytes(*term)), records })
        }
        [version, ..] => Err(format!("a batch of version {version}; this build knows up to {VERSION}")),
        [] => Err("an empty batch".into()),
    }
}

fn decode_records<'a, R: Versioned<'a>>(bytes: &'a [u8]) -> Result<Vec<Record>, String> {
    let (count, mut rest) = bytes.split_first_chunk::<4>().ok_or("a batch without a count")?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > rest.len() / RECORD_BYTES_MIN {
        return Err(format!("a batch that claims {count} records in {} bytes", rest.len()));
    }
    let mut records = Vec::with_capacity(count);
    let mut texts = Texts::default();
    for number in 0..count {
        let record = <R as SchemaRead<'a, Standard>>::get(&mut rest)
            .map_err(|error| format!("record {number} of {count} is broken: {error}"))?;
        records.push(record.into_record(&mut texts)?);
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes too many after a batch", rest.len()));
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
