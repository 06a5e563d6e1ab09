//! The check: a shard's events refolded, and compared with the tables that are views of them. Only
//! reads.

use std::collections::HashMap;
use std::sync::Arc;

use opcode_engine::definition::Definition;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence};
use opcode_engine::run::Run;
use opcode_engine::view::DecisionRequested;
use serde_json::value::RawValue;

use super::checksum;
use super::codec::{self, no_bind};
use super::connection::{Bind, Connection, Datum, StatementId};
use super::fold::{
    DECISION_COLUMNS, DecisionFold, RUN_COLUMNS, RunFold, STEP_COLUMNS, decision_row, run_sum, step_row,
};
use super::mend::next_run;
use super::rebuild::{Difference, RebuildReport, strays_of};
use super::{reader, schema};
use crate::error::ShardError;
use crate::record::EventRecord;

/// Differences and damages that a report lists; the rest are counted.
const LISTED_MAX: usize = 100;
/// Characters of a value in a report.
const VALUE_CHARS_MAX: usize = 200;
/// Compiled definitions kept at hand.
const DEFINITIONS_MAX: usize = 256;

/// Indexes of the views, each with a query for a row of a run that it does not lead to.
const INDEXES: [(&str, &str); 9] = [
    (
        "workflows, by id",
        "SELECT 1 FROM workflows w WHERE w.no = ?1 AND NOT EXISTS
         (SELECT 1 FROM workflows x INDEXED BY sqlite_autoindex_workflows_1 WHERE x.id = w.id AND x.no = w.no)",
    ),
    (
        "workflows_by_age",
        "SELECT 1 FROM workflows w WHERE w.no = ?1 AND NOT EXISTS
         (SELECT 1 FROM workflows x INDEXED BY workflows_by_age
          WHERE x.created_at = w.created_at AND x.id = w.id AND x.no = w.no)",
    ),
    (
        "workflows_by_status",
        "SELECT 1 FROM workflows w WHERE w.no = ?1 AND NOT EXISTS
         (SELECT 1 FROM workflows x INDEXED BY workflows_by_status
          WHERE x.status = w.status AND x.created_at = w.created_at AND x.id = w.id AND x.no = w.no)",
    ),
    (
        "workflows_by_agent",
        "SELECT 1 FROM workflows w WHERE w.no = ?1 AND w.agent_id IS NOT NULL AND NOT EXISTS
         (SELECT 1 FROM workflows x INDEXED BY workflows_by_agent WHERE x.agent_id IS NOT NULL
          AND x.agent_id = w.agent_id AND x.created_at = w.created_at AND x.id = w.id AND x.no = w.no)",
    ),
    (
        "workflows_by_template",
        "SELECT 1 FROM workflows w WHERE w.no = ?1 AND w.template IS NOT NULL AND NOT EXISTS
         (SELECT 1 FROM workflows x INDEXED BY workflows_by_template WHERE x.template IS NOT NULL
          AND x.template = w.template AND x.created_at = w.created_at AND x.id = w.id AND x.no = w.no)",
    ),
    (
        "workflows_due",
        "SELECT 1 FROM workflows w WHERE w.no = ?1 AND w.due IS NOT NULL AND NOT EXISTS
         (SELECT 1 FROM workflows x INDEXED BY workflows_due
          WHERE x.due IS NOT NULL AND x.due = w.due AND x.no = w.no)",
    ),
    (
        "steps_due",
        "SELECT 1 FROM step_rows s WHERE s.workflow_no = ?1 AND s.due IS NOT NULL AND NOT EXISTS
         (SELECT 1 FROM step_rows x INDEXED BY steps_due WHERE x.due IS NOT NULL
          AND x.due = s.due AND x.workflow_no = s.workflow_no AND x.step_id = s.step_id)",
    ),
    (
        "decisions_by_age",
        "SELECT 1 FROM decision_rows d WHERE d.workflow_no = ?1 AND NOT EXISTS
         (SELECT 1 FROM decision_rows x INDEXED BY decisions_by_age
          WHERE x.created_at = d.created_at AND x.decision_id = d.decision_id AND x.row = d.row)",
    ),
    (
        "decisions_pending",
        "SELECT 1 FROM decision_rows d WHERE d.workflow_no = ?1 AND d.status = 'pending' AND NOT EXISTS
         (SELECT 1 FROM decision_rows x INDEXED BY decisions_pending WHERE x.status = 'pending'
          AND x.created_at = d.created_at AND x.decision_id = d.decision_id AND x.row = d.row)",
    ),
];

/// Compares a shard's tables with its events, within one snapshot.
pub(super) struct Checker<'c> {
    connection: &'c mut Connection,
    run: StatementId,
    steps: StatementId,
    decisions: StatementId,
    /// False in a file of a release that had no outbox.
    has_outbox: bool,
    definitions: HashMap<DefinitionHash, Option<Arc<Definition>>>,
    labels: u64,
    report: RebuildReport,
}

/// A row that the events say should be there: its key and its values.
type Expected<'b> = (String, Vec<Bind<'b>>);

impl<'c> Checker<'c> {
    /// A checker of what a connection sees; the caller has begun a transaction.
    pub(super) fn new(connection: &'c mut Connection) -> Result<Self, ShardError> {
        let has_outbox = schema::has_table(connection, "outbox")?;
        let run_sum = schema::checksum_of(connection, "workflows", "workflows");
        let decision_sum = schema::checksum_of(connection, "decision_rows", "decision_rows");
        Ok(Self {
            run: connection
                .prepare(&format!("SELECT {RUN_COLUMNS}, {run_sum} FROM workflows WHERE no = ?1"))?,
            steps: connection.prepare(&format!(
                "SELECT {STEP_COLUMNS} FROM step_rows WHERE workflow_no = ?1 ORDER BY step_id"
            ))?,
            decisions: connection.prepare(&format!(
                "SELECT {DECISION_COLUMNS}, {decision_sum} FROM decision_rows
                 WHERE workflow_no = ?1 ORDER BY decision_id"
            ))?,
            has_outbox,
            connection,
            definitions: HashMap::new(),
            labels: 0,
            report: RebuildReport::default(),
        })
    }

    /// Checks all there is.
    pub(super) fn check(mut self) -> Result<RebuildReport, ShardError> {
        let mut last = RunNo(0);
        while let Some(no) = next_run(self.connection, last)? {
            self.check_run(no)?;
            last = no;
        }
        self.check_strays()?;
        self.check_labels()?;
        self.check_kept()?;
        Ok(self.report)
    }

    /// Checks what is no view of events: nothing is left that it could be written anew from.
    pub(super) fn check_kept(&mut self) -> Result<(), ShardError> {
        self.check_templates()?;
        self.check_catalogue()
    }

    /// What was found.
    pub(super) fn report(self) -> RebuildReport {
        self.report
    }

    /// Checks the runs after one, at most so many: the last of them, none when none came any more; and
    /// those whose views are not what their events say.
    pub(super) fn check_some(
        &mut self,
        after: RunNo,
        runs_max: usize,
    ) -> Result<(Option<RunNo>, Vec<RunNo>), ShardError> {
        let (mut last, mut differing) = (after, Vec::new());
        for _ in 0..runs_max {
            let next = next_run(self.connection, last)?;
            differing.extend(self.strays_between(last, next)?);
            let Some(no) = next else { return Ok((None, differing)) };
            let before = self.report.difference_count;
            self.check_run(no)?;
            if self.report.difference_count > before {
                differing.push(no);
            }
            last = no;
        }
        Ok((Some(last), differing))
    }

    /// Runs between two that have rows in a view and no events.
    fn strays_between(&mut self, after: RunNo, before: Option<RunNo>) -> Result<Vec<RunNo>, ShardError> {
        let queries = [
            ("workflows", "SELECT no FROM workflows WHERE no > ?1 AND no < ?2"),
            (
                "step_state",
                "SELECT DISTINCT workflow_no FROM step_rows WHERE workflow_no > ?1 AND workflow_no < ?2",
            ),
            (
                "pending_decisions",
                "SELECT DISTINCT workflow_no FROM decision_rows WHERE workflow_no > ?1 AND workflow_no < ?2",
            ),
        ];
        let before = before.map_or(Bind::Int(i64::MAX), no_bind);
        let mut strays = Vec::new();
        for (table, sql) in queries {
            let binds = [no_bind(after), before];
            let mut rows = self.connection.select(sql, &binds)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(RunNo(row.int(0)?.unsigned_abs()));
            }
            drop(rows);
            found.iter().for_each(|no| self.differ(stray(table, *no)));
            strays.extend(found);
        }
        strays.sort_unstable();
        strays.dedup();
        Ok(strays)
    }

    fn check_run(&mut self, no: RunNo) -> Result<(), ShardError> {
        let events = match reader::events(self.connection, no, Sequence(0), usize::MAX) {
            Err(error @ (ShardError::Damaged(_) | ShardError::DamagedRow { .. })) => {
                self.damage(format!("run {}: {error}", no.0));
                return Ok(());
            }
            other => other?,
        };
        self.report.runs += 1;
        self.report.events += events.len() as u64;
        if let Some(gap) = events.iter().zip(1..).find(|(event, wanted)| event.sequence.0 != *wanted) {
            let (event, wanted) = gap;
            self.damage(format!("run {}: event {} stands where {wanted} should", no.0, event.sequence.0));
            return Ok(());
        }
        let mut fold = RunFold::default();
        for event in &events {
            if let Err(error) = fold.fold(event) {
                self.damage(error.to_string());
                return Ok(());
            }
        }
        self.compare_run(no, &fold)?;
        self.compare_labels(no, &fold)?;
        self.compare_outbox(no, &fold)?;
        self.compare_indexes(no)?;
        self.replay(no, &fold, &events)
    }

    fn compare_run(&mut self, no: RunNo, fold: &RunFold<'_>) -> Result<(), ShardError> {
        let Some(row) = fold.run_row(no) else {
            self.damage(format!("run {}: its log does not begin with its start", no.0));
            return Ok(());
        };
        let expected = vec![(no.0.to_string(), row.to_vec())];
        self.compare("workflows", self.run, no, expected, 0, run_sum)?;
        let steps = fold.steps.iter().map(|(id, step)| ((*id).to_owned(), step_row(no, id, step).to_vec()));
        self.compare("step_state", self.steps, no, steps.collect(), 1, checksum::of_binds)?;
        let mut decisions: Vec<_> = standing_decisions(&fold.decisions)
            .into_iter()
            .map(|d| {
                let row = decision_row(no, d.requested, d.status, d.resolution).to_vec();
                (d.requested.decision_id.clone(), row)
            })
            .collect();
        decisions.sort_by(|a, b| a.0.cmp(&b.0));
        self.compare("pending_decisions", self.decisions, no, decisions, 1, checksum::of_binds)
    }

    /// Compares the rows of one run in one table; both sides are sorted by column `key_at`.
    fn compare(
        &mut self,
        table: &'static str,
        statement: StatementId,
        no: RunNo,
        expected: Vec<Expected<'_>>,
        key_at: usize,
        sum: fn(&[Bind<'_>]) -> i64,
    ) -> Result<(), ShardError> {
        let mut differences = Vec::new();
        let whole = |key: &str, expected: &str, found: &str| Difference {
            table,
            key: if key_at == 0 { key.to_owned() } else { format!("{}/{key}", no.0) },
            column: "*".into(),
            expected: expected.into(),
            found: found.into(),
        };
        let binds = [no_bind(no)];
        let mut rows = self.connection.rows(statement, &binds)?;
        let names = rows.columns();
        let mut expected = expected.into_iter().peekable();
        while let Some(row) = rows.next()? {
            let key = show_datum(row.get(key_at), usize::MAX);
            while let Some((missing, _)) = expected.next_if(|(wanted, _)| key_at > 0 && *wanted < key) {
                differences.push(whole(&missing, "a row", "no row"));
            }
            let Some((_, values)) = expected.next_if(|(wanted, _)| *wanted == key) else {
                differences.push(whole(&key, "no row", "a row"));
                continue;
            };
            // Behind the values, where a table has one.
            let sum = (names.len() > values.len()).then(|| Bind::Int(sum(&values)));
            for (at, (value, name)) in values.iter().chain(&sum).zip(&names).enumerate() {
                if at == values.len() && row.get(at) == Datum::Null {
                    continue;
                }
                if Datum::from(*value) != row.get(at) {
                    let found = show_datum(row.get(at), VALUE_CHARS_MAX);
                    let difference = whole(&key, &show_bind(*value), &found);
                    differences.push(Difference { column: name.clone(), ..difference });
                }
            }
        }
        drop(rows);
        differences.extend(expected.map(|(key, _)| whole(&key, "a row", "no row")));
        differences.into_iter().for_each(|difference| self.differ(difference));
        Ok(())
    }

    fn compare_labels(&mut self, no: RunNo, fold: &RunFold<'_>) -> Result<(), ShardError> {
        let Some(started) = &fold.started else { return Ok(()) };
        for (key, value) in &started.labels {
            self.labels += 1;
            let binds = [Bind::Text(key), Bind::Text(value), Bind::Int(started.created_at.0), no_bind(no)];
            let sql = "SELECT 1 FROM labels
                WHERE key = ?1 AND value = ?2 AND created_at = ?3 AND workflow_no = ?4";
            let is_there = self.connection.select(sql, &binds)?.next()?.is_some();
            if !is_there {
                self.differ(Difference {
                    table: "labels",
                    key: format!("{}/{key}", no.0),
                    column: "*".into(),
                    expected: value.clone(),
                    found: "no row".into(),
                });
            }
        }
        Ok(())
    }

    /// Whether each index leads to the rows of a run that it should.
    fn compare_indexes(&mut self, no: RunNo) -> Result<(), ShardError> {
        for (index, sql) in INDEXES {
            let binds = [no_bind(no)];
            let is_missing = self.connection.select(sql, &binds)?.next()?.is_some();
            if is_missing {
                self.differ(Difference {
                    table: index,
                    key: no.0.to_string(),
                    column: "*".into(),
                    expected: "an entry for each row".into(),
                    found: "a row without one".into(),
                });
            }
        }
        Ok(())
    }

    fn compare_outbox(&mut self, no: RunNo, fold: &RunFold<'_>) -> Result<(), ShardError> {
        if !self.has_outbox {
            return Ok(());
        }
        for sequence in strays_of(self.connection, no, fold)? {
            self.differ(Difference {
                table: "outbox",
                key: format!("{}/{}", no.0, sequence.0),
                column: "*".into(),
                expected: "no row, the event owes nothing".into(),
                found: "a row".into(),
            });
        }
        Ok(())
    }

    /// Rows of runs that have no events.
    fn check_strays(&mut self) -> Result<(), ShardError> {
        let tables = [
            (
                "workflows",
                "SELECT no FROM workflows v WHERE NOT EXISTS
                (SELECT 1 FROM event_rows e WHERE e.workflow_no = v.no)",
            ),
            (
                "step_state",
                "SELECT DISTINCT workflow_no FROM step_rows v WHERE NOT EXISTS
                (SELECT 1 FROM event_rows e WHERE e.workflow_no = v.workflow_no)",
            ),
            (
                "pending_decisions",
                "SELECT DISTINCT workflow_no FROM decision_rows v WHERE NOT EXISTS
                (SELECT 1 FROM event_rows e WHERE e.workflow_no = v.workflow_no)",
            ),
        ];
        for (table, sql) in tables {
            let mut strays = Vec::new();
            let mut rows = self.connection.select(sql, &[])?;
            while let Some(row) = rows.next()? {
                strays.push(RunNo(row.int(0)?.unsigned_abs()));
            }
            drop(rows);
            strays.into_iter().for_each(|no| self.differ(stray(table, no)));
        }
        Ok(())
    }

    /// Labels that no run has.
    fn check_labels(&mut self) -> Result<(), ShardError> {
        let found = {
            let mut rows = self.connection.select("SELECT count(*) FROM labels", &[])?;
            rows.next()?.map_or(Ok(0), |row| row.unsigned(0))?
        };
        if found > self.labels {
            self.differ(Difference {
                table: "labels",
                key: "*".into(),
                column: "*".into(),
                expected: format!("{} rows", self.labels),
                found: format!("{found} rows"),
            });
        }
        Ok(())
    }

    /// Templates that are not what was written. They are no view of events either.
    fn check_templates(&mut self) -> Result<(), ShardError> {
        let mut damages = Vec::new();
        let sum = schema::checksum_of(self.connection, "templates", "templates");
        let sql = format!("SELECT {}, {sum} FROM templates ORDER BY name, version", codec::TEMPLATE_COLUMNS);
        let mut rows = self.connection.select_once(&sql, &[])?;
        while let Some(row) = rows.next()? {
            match codec::template(&row) {
                Err(error @ (ShardError::Damaged(_) | ShardError::DamagedRow { .. })) => {
                    damages.push(error.to_string());
                }
                other => drop(other?),
            }
        }
        drop(rows);
        damages.into_iter().for_each(|damage| self.damage(damage));
        Ok(())
    }

    /// Entries of the catalogue that can be none. They are no view of events, so that is all that can
    /// be told of them.
    fn check_catalogue(&mut self) -> Result<(), ShardError> {
        if !schema::has_table(self.connection, "catalogue")? {
            return Ok(());
        }
        let mut damages = Vec::new();
        let sum = schema::checksum_of(self.connection, "catalogue", "catalogue");
        let sql = format!("SELECT {}, {sum} FROM catalogue ORDER BY revision", codec::CATALOGUE_COLUMNS);
        let mut rows = self.connection.select_once(&sql, &[])?;
        let mut last = 0;
        while let Some(row) = rows.next()? {
            let entry = match codec::catalogue_entry(&row) {
                Ok(entry) => entry,
                Err(error @ (ShardError::Damaged(_) | ShardError::DamagedRow { .. })) => {
                    damages.push(error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            let of = format!("the catalogue's {} {}", entry.kind.as_str(), entry.key);
            if entry.revision <= last {
                damages.push(format!("{of} has the revision {} after {last}", entry.revision));
            }
            last = entry.revision;
            if let Some(Err(error)) = entry.body.as_deref().map(serde_json::from_str::<&RawValue>) {
                damages.push(format!("{of} is not JSON: {error}"));
            }
        }
        drop(rows);
        damages.into_iter().for_each(|damage| self.damage(damage));
        Ok(())
    }

    /// Replays the run as a restart would, and compares its status with the view's.
    fn replay(&mut self, no: RunNo, fold: &RunFold<'_>, events: &[EventRecord]) -> Result<(), ShardError> {
        let Some(started) = &fold.started else { return Ok(()) };
        let id = match codec::workflow_id(&started.workflow_id) {
            Ok(id) => id,
            Err(error) => {
                self.damage(format!("run {}: {error}", no.0));
                return Ok(());
            }
        };
        let mut decoded = Vec::with_capacity(events.len());
        for event in events {
            match event.decode() {
                Ok(event) => decoded.push(event),
                Err(why) => {
                    self.damage(format!("run {}: event {}: {why}", no.0, event.sequence.0));
                    return Ok(());
                }
            }
        }
        let (connection, definitions) = (&mut *self.connection, &mut self.definitions);
        let mut failed = None;
        let replayed = Run::replay(no, id, decoded, &mut |hash| {
            definition_of(connection, definitions, hash).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match replayed {
            Err(why) => self.damage(format!("run {} does not replay: {why}", no.0)),
            Ok(run) if Some(run.status()) != fold.status() => self.damage(format!(
                "run {} replays to {}, its events' view is {}",
                no.0,
                run.status().as_str(),
                fold.status().map_or("nothing", WorkflowStatus::as_str)
            )),
            Ok(_) => {}
        }
        Ok(())
    }

    fn differ(&mut self, difference: Difference) {
        self.report.difference_count += 1;
        if self.report.differences.len() < LISTED_MAX {
            self.report.differences.push(difference);
        }
    }

    fn damage(&mut self, damage: String) {
        self.report.damage_count += 1;
        if self.report.damages.len() < LISTED_MAX {
            self.report.damages.push(damage);
        }
    }
}

fn stray(table: &'static str, no: RunNo) -> Difference {
    Difference {
        table,
        key: no.0.to_string(),
        column: "*".into(),
        expected: "no row, the run has no events".into(),
        found: "a row".into(),
    }
}

pub(super) fn definition_of(
    connection: &mut Connection,
    definitions: &mut HashMap<DefinitionHash, Option<Arc<Definition>>>,
    hash: DefinitionHash,
) -> Result<Option<Arc<Definition>>, ShardError> {
    if let Some(known) = definitions.get(&hash) {
        return Ok(known.clone());
    }
    let source = reader::definition(connection, hash)?;
    let definition = source.and_then(|text| Definition::parse_stored(&text).ok()).map(Arc::new);
    if definitions.len() >= DEFINITIONS_MAX {
        definitions.clear();
    }
    definitions.insert(hash, definition.clone());
    Ok(definition)
}

/// A decision as it stands after all of a run's events.
struct Standing<'f> {
    requested: &'f DecisionRequested,
    status: &'static str,
    resolution: Option<&'f RawValue>,
}

fn standing_decisions(changes: &[DecisionFold]) -> Vec<Standing<'_>> {
    let mut decisions: Vec<Standing<'_>> = Vec::new();
    for change in changes {
        match change {
            DecisionFold::Requested(requested) => {
                decisions.retain(|d| d.requested.decision_id != requested.decision_id);
                decisions.push(Standing { requested, status: "pending", resolution: None });
            }
            DecisionFold::Closed { decision_id, status, resolution } => {
                let open = decisions
                    .iter_mut()
                    .find(|d| d.requested.decision_id == *decision_id && d.status == "pending");
                if let Some(decision) = open {
                    decision.status = status;
                    decision.resolution = resolution.as_deref();
                }
            }
            DecisionFold::Withdrawn => {
                decisions.iter_mut().filter(|d| d.status == "pending").for_each(|d| d.status = "cancelled");
            }
        }
    }
    decisions
}

fn show_bind(value: Bind<'_>) -> String {
    show_datum(value.into(), VALUE_CHARS_MAX)
}

fn show_datum(value: Datum<'_>, chars_max: usize) -> String {
    match value {
        Datum::Null => "nothing".into(),
        Datum::Int(int) => int.to_string(),
        Datum::Real(real) => real.to_string(),
        Datum::Text(text) => String::from_utf8_lossy(text).chars().take(chars_max).collect(),
        Datum::Blob(bytes) => hex::encode(bytes).chars().take(chars_max).collect(),
    }
}
