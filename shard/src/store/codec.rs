//! Records and rows of the tables, one into the other. A row that does not read is damage, never
//! skipped.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::event::EventType;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, Timestamp, WorkflowId};
use serde_json::value::RawValue;

use super::checksum;
use super::connection::{Bind, Datum, Row};
use super::fold::{DECISION_COLUMN_COUNT, RUN_SUMMED};
use crate::catalogue::{CatalogueEntry, EntryKind};
use crate::error::ShardError;
use crate::record::{EventRecord, TemplateRecord};

/// Columns that [`event`] reads, in its order.
pub(super) const EVENT_COLUMNS: &str =
    "workflow_no, sequence, type, step_id, data, agent_id, timestamp, checksum";

/// A run's number as the tables hold it.
pub(super) fn no_bind(no: RunNo) -> Bind<'static> {
    Bind::Int(integer(no.0))
}

/// A count or number that fits libSQL's signed integers, as every one of ours does.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).expect("numbers of runs, events and positions stay below 2^63")
}

/// A row of [`EVENT_COLUMNS`]; one that is not what was written is damage.
pub(super) fn event(row: &Row<'_>) -> Result<EventRecord, ShardError> {
    let code = row.int(2)?;
    let event_type = u8::try_from(code)
        .ok()
        .and_then(EventType::from_code)
        .ok_or_else(|| ShardError::Damaged(format!("no event type has the code {code}")))?;
    let event = EventRecord {
        no: RunNo(row.unsigned(0)?),
        sequence: Sequence(row.unsigned(1)?),
        event_type,
        step_id: row.optional_text(3)?.map(Arc::from),
        data: row.bytes(4)?.to_vec(),
        agent_id: row.optional_text(5)?.map(Arc::from),
        timestamp: Timestamp(row.int(6)?),
    };
    if row.int(7)? != event.checksum().cast_signed() {
        // Nothing is left that it could be written anew from.
        return Err(checksum::damaged("event_rows", format!("{}/{}", event.no.0, event.sequence.0), None));
    }
    Ok(event)
}

/// Refuses a row of `run_summed`, and its checksum behind it, that is not what was written; the first
/// of its columns is at `at`.
pub(super) fn check_run(row: &Row<'_>, at: usize) -> Result<(), ShardError> {
    if checksum::is_sound(row, at, RUN_SUMMED) {
        return Ok(());
    }
    let no = RunNo(row.unsigned(at)?);
    Err(checksum::damaged("workflows", no.0.to_string(), Some(no)))
}

/// The number and the id in such a row, which is what was written.
pub(super) fn run_key<'r>(row: &Row<'r>) -> Result<(RunNo, &'r str), ShardError> {
    check_run(row, 0)?;
    Ok((RunNo(row.unsigned(0)?), row.text(1)?))
}

/// Refuses a row of `DECISION_COLUMNS`, and its checksum behind it, that is not what was written.
pub(super) fn check_decision(row: &Row<'_>) -> Result<(), ShardError> {
    if checksum::is_sound(row, 0, DECISION_COLUMN_COUNT) {
        return Ok(());
    }
    let no = RunNo(row.unsigned(0)?);
    let id = String::from_utf8_lossy(row.bytes(1)?).into_owned();
    Err(checksum::damaged("decision_rows", format!("{}/{id}", no.0), Some(no)))
}

/// Columns that [`template`] reads, in its order; the checksum comes behind them.
pub(super) const TEMPLATE_COLUMNS: &str = "name, version, definition, source, created_at";

/// A row of [`TEMPLATE_COLUMNS`] and its checksum.
pub(super) fn template(row: &Row<'_>) -> Result<TemplateRecord, ShardError> {
    let version = row.int(1)?;
    if !checksum::is_sound(row, 0, 5) {
        let name = String::from_utf8_lossy(row.bytes(0)?);
        return Err(checksum::damaged("templates", format!("{name}/{version}"), None));
    }
    Ok(TemplateRecord {
        name: row.text(0)?.into(),
        version: u32::try_from(version)
            .map_err(|_| ShardError::Damaged(format!("a template has the version {version}")))?,
        definition: hash(row.bytes(2)?)?,
        source: row.text(3)?.into(),
        created_at: Timestamp(row.int(4)?),
    })
}

/// Columns that [`catalogue_entry`] reads, in its order; the checksum comes behind them.
pub(super) const CATALOGUE_COLUMNS: &str = "kind, key, revision, body, updated_at";

/// A row of [`CATALOGUE_COLUMNS`] and its checksum.
pub(super) fn catalogue_entry(row: &Row<'_>) -> Result<CatalogueEntry, ShardError> {
    if !checksum::is_sound(row, 0, 5) {
        let [kind, key] = [row.bytes(0)?, row.bytes(1)?].map(String::from_utf8_lossy);
        return Err(checksum::damaged("catalogue", format!("{kind}/{key}"), None));
    }
    let (name, key) = (row.text(0)?, row.text(1)?);
    let kind = EntryKind::from_name(name)
        .ok_or_else(|| ShardError::Damaged(format!("the catalogue's entry {key} is of a kind {name:?}")))?;
    Ok(CatalogueEntry {
        kind,
        key: key.into(),
        revision: row.unsigned(2)?,
        body: row.optional_text(3)?.map(Into::into),
        at: Timestamp(row.int(4)?),
    })
}

/// A definition's hash.
pub(super) fn hash(bytes: &[u8]) -> Result<DefinitionHash, ShardError> {
    let bytes: [u8; 32] = bytes
        .try_into()
        .map_err(|_| ShardError::Damaged(format!("a definition's hash has {} bytes", bytes.len())))?;
    Ok(DefinitionHash(bytes))
}

/// A run's id.
pub(super) fn workflow_id(text: &str) -> Result<WorkflowId, ShardError> {
    WorkflowId::parse_kept(text).map_err(|why| ShardError::Damaged(format!("workflow id {text:?}: {why}")))
}

/// JSON text of a column.
pub(super) fn json(row: &Row<'_>, at: usize) -> Result<Box<RawValue>, ShardError> {
    let text = row.text(at)?;
    RawValue::from_string(text.to_owned())
        .map_err(|why| ShardError::Damaged(format!("a column that should hold JSON does not: {why}")))
}

/// JSON text of a column, or nothing.
pub(super) fn optional_json(row: &Row<'_>, at: usize) -> Result<Option<Box<RawValue>>, ShardError> {
    if row.get(at) == Datum::Null { Ok(None) } else { json(row, at).map(Some) }
}

/// Labels of a run.
pub(super) fn labels(text: &str) -> Result<BTreeMap<String, String>, ShardError> {
    serde_json::from_str(text).map_err(|why| ShardError::Damaged(format!("a run's labels: {why}")))
}
