//! Committed entries into the tables: many in one transaction, sorted, each view row once.
//!
//! The position of the last entry is written in the same transaction, so that an entry is never
//! applied twice; a gap or a repetition in the log or in a run's events is damage and changes
//! nothing.

use std::collections::HashMap;

use opcode_engine::ids::{RunNo, Sequence};

use super::bulk::Bulk;
use super::checksum;
use super::codec::{self, CATALOGUE_COLUMNS, EVENT_COLUMNS, TEMPLATE_COLUMNS, integer, no_bind};
use super::connection::{Bind, Connection, Datum, StatementId};
use super::fold::{
    DECISION_COLUMN_COUNT, DECISION_COLUMNS, DecisionFold, RUN_COLUMNS, RUN_SUMMED, RunFold, STEP_COLUMNS,
    decision_row, json, run_sum, run_summed, step_row,
};
use super::purge::PurgeStatements;
use crate::batch::Position;
use crate::catalogue::CatalogueEntry;
use crate::crash;
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry};
use crate::record::{EventRecord, Record, TemplateRecord};

/// Most runs whose last sequence is kept at hand; over it they are read again.
const SEQUENCES_MAX: usize = 65_536;

/// Where the tables stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Of the last entry applied.
    pub(super) position: Position,
    /// Its log id, and the last membership.
    pub(super) applied: Applied,
}

/// The statements that write, prepared once.
#[derive(Clone, Copy)]
struct Statements {
    insert_events: Bulk<8>,
    last_sequence: StatementId,
    insert_definition: StatementId,
    insert_template: StatementId,
    forget_deleted: StatementId,
    upsert_entry: StatementId,
    insert_owed: StatementId,
    delete_owed: StatementId,
    set_applied: StatementId,
    purge: PurgeStatements,
    folded: FoldedStatements,
}

/// Those of the tables that are views of events.
#[derive(Clone, Copy)]
pub(super) struct FoldedStatements {
    insert_run: StatementId,
    run: StatementId,
    update_run: StatementId,
    insert_label: StatementId,
    upsert_steps: Bulk<9>,
    upsert_decision: StatementId,
    pending_decisions: StatementId,
    close_decision: StatementId,
}

impl FoldedStatements {
    pub(super) fn prepare(connection: &mut Connection) -> Result<Self, ShardError> {
        Ok(Self {
            insert_run: connection.prepare(&insert("workflows", &format!("{RUN_COLUMNS}, checksum")))?,
            run: connection.prepare(concat!(
                "SELECT ",
                run_summed!(),
                ", checksum FROM workflows WHERE no = ?1"
            ))?,
            update_run: connection.prepare(
                "UPDATE workflows SET status = coalesce(?2, status), definition = coalesce(?3, definition),
                    started_at = coalesce(?4, started_at),
                    completed_at = CASE WHEN ?5 THEN ?6 ELSE completed_at END,
                    output = coalesce(?7, output),
                    error = CASE WHEN ?8 THEN ?9 ELSE error END,
                    due = CASE WHEN ?10 THEN ?11 ELSE due END, checksum = ?12
                 WHERE no = ?1",
            )?,
            insert_label: connection.prepare(&insert("labels", "key, value, created_at, workflow_no"))?,
            // Attempts are counted from 1: 0 says nothing of them.
            upsert_steps: Bulk::prepare(
                connection,
                "step_rows",
                STEP_COLUMNS,
                "ON CONFLICT DO UPDATE SET status = excluded.status,
                    attempts = iif(excluded.attempts > 0, excluded.attempts, attempts),
                    started_at = coalesce(excluded.started_at, started_at),
                    completed_at = coalesce(excluded.completed_at, completed_at),
                    output = coalesce(excluded.output, output), error = coalesce(excluded.error, error),
                    due = excluded.due",
            )?,
            upsert_decision: connection.prepare(&format!(
                "INSERT INTO decision_rows({DECISION_COLUMNS}, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT DO UPDATE SET step_id = ?3, status = ?4, context = ?5, options = ?6,
                    target_agent = ?7, fallback = ?8, timeout_at = ?9, created_at = ?10, resolution = ?11,
                    checksum = ?12"
            ))?,
            pending_decisions: connection.prepare(&format!(
                "SELECT {DECISION_COLUMNS}, checksum FROM decision_rows
                 WHERE workflow_no = ?1 AND status = 'pending' AND (?2 IS NULL OR decision_id = ?2)"
            ))?,
            close_decision: connection.prepare(
                "UPDATE decision_rows SET status = ?3, resolution = ?4, checksum = ?5
                 WHERE workflow_no = ?1 AND decision_id = ?2",
            )?,
        })
    }

    /// Writes what the events of some runs change. Within the caller's transaction.
    pub(super) fn write(
        &self,
        connection: &mut Connection,
        folds: &[(RunNo, RunFold<'_>)],
    ) -> Result<(), ShardError> {
        for (no, fold) in folds {
            self.write_run(connection, *no, fold)?;
            self.write_decisions(connection, *no, fold)?;
        }
        let steps =
            folds.iter().flat_map(|(no, fold)| fold.steps.iter().map(|(id, step)| step_row(*no, id, step)));
        self.upsert_steps.write(connection, steps)
    }

    fn write_run(
        &self,
        connection: &mut Connection,
        no: RunNo,
        fold: &RunFold<'_>,
    ) -> Result<(), ShardError> {
        if let (Some(started), Some(row)) = (&fold.started, fold.run_row(no)) {
            let mut binds = [Bind::Int(run_sum(&row)); 16];
            binds[..15].copy_from_slice(&row);
            connection.run(self.insert_run, &binds)?;
            for (key, value) in &started.labels {
                let created_at = Bind::Int(started.created_at.0);
                let binds = [Bind::Text(key), Bind::Text(value), created_at, no_bind(no)];
                connection.run(self.insert_label, &binds)?;
            }
        } else if let Some(update) = fold.run_update(no) {
            let mut binds = [Bind::Int(self.sum_after(connection, no, &update)?); 12];
            binds[..11].copy_from_slice(&update);
            connection.run(self.update_run, &binds)?;
        }
        Ok(())
    }

    /// The checksum of a run's row after an update. The row must be what was written: else the update
    /// would make the damage pass for what it wrote.
    fn sum_after(
        &self,
        connection: &mut Connection,
        no: RunNo,
        update: &[Bind<'_>; 11],
    ) -> Result<i64, ShardError> {
        let binds = [no_bind(no)];
        let mut rows = connection.rows(self.run, &binds)?;
        // A run that has events has a row.
        let row = rows.next()?.ok_or_else(|| checksum::damaged("workflows", no.0.to_string(), Some(no)))?;
        codec::check_run(&row, 0)?;
        let after = |at| RunFold::updated(update, at).unwrap_or_else(|| row.get(at));
        Ok(checksum::of((0..RUN_SUMMED).map(after)))
    }

    /// Closes the pending decision of this id, or all.
    fn close_decisions(
        &self,
        connection: &mut Connection,
        no: RunNo,
        id: Option<&str>,
        status: &str,
        resolution: Bind<'_>,
    ) -> Result<(), ShardError> {
        let mut pending = Vec::new();
        {
            let binds = [no_bind(no), Bind::text(id)];
            let mut rows = connection.rows(self.pending_decisions, &binds)?;
            while let Some(row) = rows.next()? {
                codec::check_decision(&row)?;
                let after = |at| match at {
                    3 => Datum::Text(status.as_bytes()),
                    10 => resolution.into(),
                    at => row.get(at),
                };
                let sum = checksum::of((0..DECISION_COLUMN_COUNT).map(after));
                pending.push((row.text(1)?.to_owned(), sum));
            }
        }
        for (id, sum) in pending {
            let binds = [no_bind(no), Bind::Text(&id), Bind::Text(status), resolution, Bind::Int(sum)];
            connection.run(self.close_decision, &binds)?;
        }
        Ok(())
    }

    fn write_decisions(
        &self,
        connection: &mut Connection,
        no: RunNo,
        fold: &RunFold<'_>,
    ) -> Result<(), ShardError> {
        for change in &fold.decisions {
            match change {
                DecisionFold::Requested(requested) => {
                    let row = decision_row(no, requested, "pending", None);
                    let binds: [_; DECISION_COLUMN_COUNT + 1] = checksum::with_sum(row);
                    connection.run(self.upsert_decision, &binds)?;
                }
                DecisionFold::Closed { decision_id, status, resolution } => {
                    let resolution = json(resolution.as_deref());
                    self.close_decisions(connection, no, Some(decision_id), status, resolution)?;
                }
                DecisionFold::Withdrawn => {
                    // What is pending has no resolution.
                    self.close_decisions(connection, no, None, "cancelled", Bind::Null)?;
                }
            }
        }
        Ok(())
    }
}

fn event_row(event: &EventRecord) -> [Bind<'_>; 8] {
    [
        no_bind(event.no),
        Bind::Int(integer(event.sequence.0)),
        Bind::Int(i64::from(event.event_type.code())),
        Bind::text(event.step_id.as_deref()),
        Bind::Json(&event.data),
        Bind::text(event.agent_id.as_deref()),
        Bind::Int(event.timestamp.0),
        Bind::Int(event.checksum().cast_signed()),
    ]
}

fn insert(table: &str, columns: &str) -> String {
    let places: Vec<String> = (1..=columns.split(',').count()).map(|n| format!("?{n}")).collect();
    format!("INSERT INTO {table}({columns}) VALUES ({})", places.join(", "))
}

/// Applies entries on the one connection that writes.
pub(super) struct Applier {
    connection: Connection,
    statements: Statements,
    standing: Option<Standing>,
    /// Last sequence of runs met lately.
    sequences: HashMap<RunNo, Sequence>,
}

impl Applier {
    /// Takes over the writing connection.
    pub(super) fn new(mut connection: Connection) -> Result<Self, ShardError> {
        let standing = load_standing(&mut connection)?;
        let statements = Statements {
            insert_events: Bulk::prepare(&mut connection, "event_rows", EVENT_COLUMNS, "")?,
            last_sequence: connection
                .prepare("SELECT max(sequence) FROM event_rows WHERE workflow_no = ?1")?,
            insert_definition: connection
                .prepare("INSERT INTO definitions(hash, source) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?,
            insert_template: connection
                .prepare(&insert("templates", &format!("{TEMPLATE_COLUMNS}, checksum")))?,
            forget_deleted: connection.prepare("DELETE FROM catalogue WHERE body IS NULL")?,
            upsert_entry: connection.prepare(&format!(
                "INSERT INTO catalogue({CATALOGUE_COLUMNS}, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET revision = ?3, body = ?4, updated_at = ?5, checksum = ?6"
            ))?,
            insert_owed: connection.prepare(&insert("outbox", "workflow_no, sequence"))?,
            delete_owed: connection.prepare("DELETE FROM outbox WHERE workflow_no = ?1 AND sequence = ?2")?,
            set_applied: connection.prepare(
                "INSERT INTO applied(one, term, position, log_id, membership) VALUES (1, ?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET term = ?1, position = ?2, log_id = ?3, membership = ?4",
            )?,
            purge: PurgeStatements::prepare(&mut connection)?,
            folded: FoldedStatements::prepare(&mut connection)?,
        };
        Ok(Self { connection, statements, standing, sequences: HashMap::new() })
    }

    /// Where the tables stand; none before the first entry.
    pub(super) fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    /// The statements that write views, for rows that are written anew.
    pub(super) fn folded(&self) -> FoldedStatements {
        self.statements.folded
    }

    /// The connection, for checkpoints.
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Applies entries in one transaction; those at or below the standing are left out. Returns
    /// whether there was anything to do. After an error nothing of them is in the tables; this may
    /// only be used again after [`ShardError::DamagedRow`], once the row is mended.
    pub(super) fn apply(&mut self, entries: &[CommittedEntry]) -> Result<bool, ShardError> {
        let done = self.standing.as_ref().map(|s| s.position.index);
        let entries = match done {
            Some(index) => {
                let fresh = entries.partition_point(|e| e.batch.position().index <= index);
                &entries[fresh..]
            }
            None => entries,
        };
        let Some(standing) = self.follow(entries)? else { return Ok(false) };
        crash::point("tables.begin");
        self.connection.execute("BEGIN IMMEDIATE")?;
        match self.write(entries, &standing) {
            Ok(()) => {}
            Err(error) => {
                // The first error is the one to tell; closing the connection rolls back as well.
                let _ = self.connection.execute("ROLLBACK");
                self.sequences.clear();
                return Err(error);
            }
        }
        crash::point("tables.commit.before");
        self.connection.execute("COMMIT")?;
        crash::point("tables.commit.after");
        self.standing = Some(standing);
        Ok(true)
    }

    /// Checks that entries follow on the standing and on each other; gives the standing after
    /// them, or none when there are none.
    fn follow(&self, entries: &[CommittedEntry]) -> Result<Option<Standing>, ShardError> {
        let mut last = self.standing.as_ref().map(|s| s.position);
        for entry in entries {
            let position = entry.batch.position();
            let follows = match last {
                Some(before) => position.index == before.index + 1 && position.term >= before.term,
                // Logs begin at 0 or 1.
                None => position.index <= 1,
            };
            if !follows {
                return Err(ShardError::Damaged(format!(
                    "the log's entry {position:?} came after {last:?}: entries in between are missing"
                )));
            }
            last = Some(position);
        }
        let (Some(position), Some(entry)) = (last, entries.last()) else { return Ok(None) };
        let membership = entries.iter().rev().find_map(|e| e.membership.clone()).unwrap_or_else(|| {
            self.standing.as_ref().map(|s| s.applied.membership.clone()).unwrap_or_default()
        });
        let applied = Applied { log_id: entry.log_id.clone(), membership };
        Ok(Some(Standing { position, applied }))
    }

    fn write(&mut self, entries: &[CommittedEntry], standing: &Standing) -> Result<(), ShardError> {
        let mut events: Vec<&EventRecord> = Vec::new();
        let (mut delivered, mut purged, mut past) = (Vec::new(), Vec::new(), HashMap::new());
        for record in entries.iter().flat_map(|entry| entry.batch.records().iter()) {
            match record {
                Record::Event(event) => events.push(event),
                Record::Definition { hash, source } => {
                    let binds = [Bind::Blob(&hash.0), Bind::Text(source)];
                    self.connection.run(self.statements.insert_definition, &binds)?;
                }
                Record::Template(template) => self.write_template(template)?,
                Record::Delivered { no, sequence } => delivered.push((*no, *sequence)),
                Record::Entry(entry) => self.write_entry(entry)?,
                Record::Purged { no } => purged.push(*no),
                Record::History(event) => {
                    past.insert(event.no, event.sequence);
                    events.push(event);
                }
            }
        }
        events.sort_unstable_by_key(|event| (event.no, event.sequence));
        self.write_events(&events, &past)?;
        // A delivery comes after its event, so all events first.
        for (no, sequence) in delivered {
            let binds = [no_bind(no), Bind::Int(integer(sequence.0))];
            self.connection.run(self.statements.delete_owed, &binds)?;
        }
        // Nothing of a run comes after its purge.
        for no in purged {
            self.sequences.remove(&no);
            self.statements.purge.run(&mut self.connection, no)?;
        }
        let binds = [
            Bind::Int(integer(standing.position.term)),
            Bind::Int(integer(standing.position.index)),
            Bind::Blob(&standing.applied.log_id),
            Bind::Blob(&standing.applied.membership),
        ];
        self.connection.run(self.statements.set_applied, &binds)
    }

    fn write_template(&mut self, template: &TemplateRecord) -> Result<(), ShardError> {
        let binds = [
            Bind::Text(&template.name),
            Bind::Int(i64::from(template.version)),
            Bind::Blob(&template.definition.0),
            Bind::Text(&template.source),
            Bind::Int(template.created_at.0),
        ];
        let binds: [_; 6] = checksum::with_sum(binds);
        self.connection.run(self.statements.insert_template, &binds)
    }

    fn write_entry(&mut self, entry: &CatalogueEntry) -> Result<(), ShardError> {
        // Revisions go on from this one: an earlier one that deleted its entry has done its part.
        self.connection.run(self.statements.forget_deleted, &[])?;
        let binds = [
            Bind::Text(entry.kind.as_str()),
            Bind::Text(&entry.key),
            Bind::Int(integer(entry.revision)),
            Bind::text(entry.body.as_deref()),
            Bind::Int(entry.at.0),
        ];
        let binds: [_; 6] = checksum::with_sum(binds);
        self.connection.run(self.statements.upsert_entry, &binds)
    }

    /// Writes events, sorted by run and sequence, and what they change. `past`: the last event that
    /// came as history of each run that did. Up to it the run owes nothing; what it does afterwards it
    /// does as any other.
    fn write_events(
        &mut self,
        events: &[&EventRecord],
        past: &HashMap<RunNo, Sequence>,
    ) -> Result<(), ShardError> {
        let mut folds = Vec::new();
        for run in events.chunk_by(|a, b| a.no == b.no) {
            self.follow_run(run)?;
            let mut fold = RunFold::default();
            run.iter().try_for_each(|event| fold.fold(event))?;
            if let Some(last) = past.get(&run[0].no) {
                fold.owed.retain(|sequence| sequence > last);
            }
            folds.push((run[0].no, fold));
        }
        let rows = events.iter().map(|event| event_row(event));
        self.statements.insert_events.write(&mut self.connection, rows)?;
        self.statements.folded.write(&mut self.connection, &folds)?;
        for (no, fold) in &folds {
            for sequence in &fold.owed {
                let binds = [no_bind(*no), Bind::Int(integer(sequence.0))];
                self.connection.run(self.statements.insert_owed, &binds)?;
            }
            if fold.has_ended() {
                self.sequences.remove(no);
            }
        }
        Ok(())
    }

    /// Checks that the events of one run follow on what the tables have of it.
    fn follow_run(&mut self, events: &[&EventRecord]) -> Result<(), ShardError> {
        let no = events[0].no;
        let mut last = self.last_sequence(no, events[0].sequence)?;
        for event in events {
            if event.sequence != last.next() {
                return Err(ShardError::Damaged(format!(
                    "event {} of run {} came after event {}",
                    event.sequence.0, no.0, last.0
                )));
            }
            last = event.sequence;
        }
        if self.sequences.len() >= SEQUENCES_MAX {
            self.sequences.clear();
        }
        self.sequences.insert(no, last);
        Ok(())
    }

    fn last_sequence(&mut self, no: RunNo, first: Sequence) -> Result<Sequence, ShardError> {
        if let Some(last) = self.sequences.get(&no) {
            return Ok(*last);
        }
        if first == Sequence(1) {
            // Should the run be there already, the table's own constraint refuses the event.
            return Ok(Sequence(0));
        }
        let binds = [no_bind(no)];
        let mut rows = self.connection.rows(self.statements.last_sequence, &binds)?;
        let last = rows.next()?.map_or(Ok(None), |row| row.optional_int(0))?;
        Ok(Sequence(last.map_or(0, i64::unsigned_abs)))
    }
}

/// Where the tables stand, as they say themselves.
pub(super) fn load_standing(connection: &mut Connection) -> Result<Option<Standing>, ShardError> {
    let mut rows = connection.select("SELECT term, position, log_id, membership FROM applied", &[])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Standing {
        position: Position { term: row.unsigned(0)?, index: row.unsigned(1)? },
        applied: Applied { log_id: row.bytes(2)?.to_vec(), membership: row.bytes(3)?.to_vec() },
    }))
}
