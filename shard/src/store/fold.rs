//! What events leave in the tables: the changes of one run's events, folded to one state per row.
//!
//! The writer folds the events of one transaction, the rebuild those of a whole run, through the
//! same code; so a step that starts and completes within a transaction is written once.

use std::collections::BTreeMap;

use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, Timestamp};
use opcode_engine::view::{self, Change, DecisionRequested, RunStarted, StepChange};
use serde_json::value::RawValue;

use super::checksum;
use super::codec::no_bind;
use super::connection::{Bind, Datum};
use crate::error::ShardError;
use crate::record::EventRecord;

/// Columns of `workflows`, in the order of [`RunFold::run_row`].
pub(super) const RUN_COLUMNS: &str = "no, id, status, definition, template, version, agent_id, body_hash, \
     labels, output, error, created_at, started_at, completed_at, due";
/// Those of them that a checksum covers, in their order: all but the output, which is read by nobody.
macro_rules! run_summed {
    () => {
        "no, id, status, definition, template, version, agent_id, body_hash, labels, error, created_at, \
         started_at, completed_at, due"
    };
}
pub(super) use run_summed;
/// How many they are.
pub(super) const RUN_SUMMED: usize = 14;
/// The place of the output among [`RUN_COLUMNS`].
pub(super) const OUTPUT_AT: usize = 9;
/// Columns of `step_rows`, in the order of [`step_row`].
pub(super) const STEP_COLUMNS: &str =
    "workflow_no, step_id, status, attempts, started_at, completed_at, output, error, due";
/// Columns of `decision_rows`, in the order of [`decision_row`].
pub(super) const DECISION_COLUMNS: &str = "workflow_no, decision_id, step_id, status, context, options, \
     target_agent, fallback, timeout_at, created_at, resolution";
/// How many they are; a checksum covers all of them.
pub(super) const DECISION_COLUMN_COUNT: usize = 11;

/// The changes of some consecutive events of one run. Empty at first.
#[derive(Default)]
pub(super) struct RunFold<'e> {
    /// Set when the first event is among them: the row is new.
    pub(super) started: Option<Box<RunStarted>>,
    /// The new run's labels as JSON text.
    labels: String,
    status: Option<WorkflowStatus>,
    definition: Option<DefinitionHash>,
    started_at: Option<Timestamp>,
    completed_at: Option<Option<Timestamp>>,
    output: Option<Box<RawValue>>,
    error: Option<Option<Box<RawValue>>>,
    due: Option<Option<Timestamp>>,
    /// Last state of each step, by full id.
    pub(super) steps: BTreeMap<&'e str, StepChange>,
    /// Events that leave a message owed, in order.
    pub(super) owed: Vec<Sequence>,
    /// What happened to decisions, in order.
    pub(super) decisions: Vec<DecisionFold>,
}

/// A change of a run's decisions.
pub(super) enum DecisionFold {
    /// One is asked for.
    Requested(Box<DecisionRequested>),
    /// One that is pending is closed.
    Closed { decision_id: String, status: &'static str, resolution: Option<Box<RawValue>> },
    /// All that are pending are withdrawn.
    Withdrawn,
}

impl<'e> RunFold<'e> {
    /// Folds the next event in.
    pub(super) fn fold(&mut self, event: &'e EventRecord) -> Result<(), ShardError> {
        let changes = view::changes(event.event_type, event.step_id.as_ref(), &event.data, event.timestamp)
            .map_err(|why| damaged(event, &why))?;
        for change in changes {
            if matches!(change, Change::Step(_)) && event.step_id.is_none() {
                return Err(damaged(event, "it names no step"));
            }
            if matches!(change, Change::MessageOwed) {
                self.owed.push(event.sequence);
            }
            self.take(event.step_id.as_deref().unwrap_or_default(), change);
        }
        Ok(())
    }

    /// Takes one change in; `step_id` is the full id of the step that its event is about.
    fn take(&mut self, step_id: &'e str, change: Change) {
        match change {
            Change::RunStarted(started) => self.start(started),
            Change::Run { status, started_at, completed_at, output, error, due } => {
                self.status = Some(status);
                self.started_at = started_at.or(self.started_at);
                self.completed_at = completed_at.or(self.completed_at);
                self.output = output.or(self.output.take());
                self.error = error.or(self.error.take());
                self.due = due.or(self.due);
            }
            Change::Definition(hash) => self.definition = Some(hash),
            Change::Step(change) => self.step(step_id, change),
            Change::DecisionRequested(requested) => self.decisions.push(DecisionFold::Requested(requested)),
            Change::DecisionClosed { decision_id, status, resolution } => {
                self.decisions.push(DecisionFold::Closed { decision_id, status, resolution });
            }
            Change::DecisionsWithdrawn => self.decisions.push(DecisionFold::Withdrawn),
            // It is no row of the run's.
            Change::MessageOwed => {}
        }
    }

    fn start(&mut self, started: Box<RunStarted>) {
        let labels: BTreeMap<&str, &str> =
            started.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        self.labels = serde_json::to_string(&labels).expect("a map of texts is JSON");
        self.status = Some(started.status);
        self.definition = Some(started.definition);
        self.started_at = started.started_at;
        self.due = Some(started.due);
        self.started = Some(started);
    }

    fn step(&mut self, id: &'e str, change: StepChange) {
        use std::collections::btree_map::Entry;
        match self.steps.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(change);
            }
            Entry::Occupied(mut entry) => {
                let earlier = entry.get_mut();
                earlier.status = change.status;
                earlier.attempts = change.attempts.or(earlier.attempts);
                earlier.started_at = change.started_at.or(earlier.started_at);
                earlier.completed_at = change.completed_at.or(earlier.completed_at);
                earlier.output = change.output.or(earlier.output.take());
                earlier.error = change.error.or(earlier.error.take());
                earlier.due = change.due;
            }
        }
    }

    /// The whole row of a run whose first event was folded.
    pub(super) fn run_row(&self, no: RunNo) -> Option<[Bind<'_>; 15]> {
        let started = self.started.as_ref()?;
        Some([
            no_bind(no),
            Bind::Text(&started.workflow_id),
            Bind::text(self.status.map(WorkflowStatus::as_str)),
            Bind::Blob(self.definition.as_ref().map_or(&[], |hash| &hash.0)),
            Bind::text(started.template.as_deref()),
            Bind::text(started.version.as_deref()),
            Bind::text(started.agent_id.as_deref()),
            Bind::int(started.body_hash.map(u64::cast_signed)),
            Bind::Text(&self.labels),
            json(self.output.as_deref()),
            json(self.error.as_ref().and_then(Option::as_deref)),
            Bind::Int(started.created_at.0),
            time(self.started_at),
            time(self.completed_at.flatten()),
            time(self.due.flatten()),
        ])
    }

    /// Values for the update of a run's row, `None` when nothing in it changes: number, status,
    /// definition, started_at, then for completed_at, output, error and due whether it changes
    /// and to what.
    pub(super) fn run_update(&self, no: RunNo) -> Option<[Bind<'_>; 11]> {
        if self.status.is_none() && self.definition.is_none() {
            return None;
        }
        let flag = |is_set: bool| Bind::Int(i64::from(is_set));
        Some([
            no_bind(no),
            Bind::text(self.status.map(WorkflowStatus::as_str)),
            self.definition.as_ref().map_or(Bind::Null, |hash| Bind::Blob(&hash.0)),
            time(self.started_at),
            flag(self.completed_at.is_some()),
            time(self.completed_at.flatten()),
            json(self.output.as_deref()),
            flag(self.error.is_some()),
            json(self.error.as_ref().and_then(Option::as_deref)),
            flag(self.due.is_some()),
            time(self.due.flatten()),
        ])
    }

    /// What an update (see [`Self::run_update`]) makes of a column of [`run_summed`]; none leaves it as
    /// it is.
    pub(super) fn updated<'v>(update: &[Bind<'v>; 11], at: usize) -> Option<Datum<'v>> {
        let given = |value: Bind<'v>| Some(Datum::from(value)).filter(|value| *value != Datum::Null);
        let changed = |flag: Bind<'v>, value: Bind<'v>| matches!(flag, Bind::Int(1)).then(|| value.into());
        match at {
            2 => given(update[1]),
            3 => given(update[2]),
            9 => changed(update[7], update[8]),
            11 => given(update[3]),
            12 => changed(update[4], update[5]),
            13 => changed(update[9], update[10]),
            _ => None,
        }
    }

    /// The run's last status, when these events say one.
    pub(super) fn status(&self) -> Option<WorkflowStatus> {
        self.status
    }

    /// Whether the run has ended by these events.
    pub(super) fn has_ended(&self) -> bool {
        self.status.is_some_and(WorkflowStatus::is_terminal)
    }
}

/// The checksum of a run's whole row.
pub(super) fn run_sum(row: &[Bind<'_>]) -> i64 {
    let summed = row.iter().enumerate().filter(|(at, _)| *at != OUTPUT_AT);
    checksum::of(summed.map(|(_, value)| Datum::from(*value)))
}

/// The row of a step; on an update, no attempts (0) and no times, output and error leave these as they
/// are.
pub(super) fn step_row<'b>(no: RunNo, id: &'b str, step: &'b StepChange) -> [Bind<'b>; 9] {
    [
        no_bind(no),
        Bind::Text(id),
        Bind::Text(step.status.as_str()),
        Bind::Int(step.attempts.map_or(0, i64::from)),
        time(step.started_at),
        time(step.completed_at),
        json(step.output.as_deref()),
        json(step.error.as_deref()),
        time(step.due),
    ]
}

/// The row of a decision.
pub(super) fn decision_row<'b>(
    no: RunNo,
    decision: &'b DecisionRequested,
    status: &'b str,
    resolution: Option<&'b RawValue>,
) -> [Bind<'b>; DECISION_COLUMN_COUNT] {
    [
        no_bind(no),
        Bind::Text(&decision.decision_id),
        Bind::Text(&decision.step_id),
        Bind::Text(status),
        json(Some(&decision.context)),
        json(Some(&decision.options)),
        Bind::text(decision.target_agent.as_deref()),
        Bind::text(decision.fallback.as_deref()),
        time(decision.timeout_at),
        Bind::Int(decision.created_at.0),
        json(resolution),
    ]
}

/// A value of JSON, or nothing.
pub(super) fn json(value: Option<&RawValue>) -> Bind<'_> {
    value.map_or(Bind::Null, |raw| Bind::Json(raw.get().as_bytes()))
}

fn time(at: Option<Timestamp>) -> Bind<'static> {
    Bind::int(at.map(|t| t.0))
}

/// Whether the tables can show these events, the first of a run among them.
pub(crate) fn check_foldable(events: &[EventRecord]) -> Result<(), ShardError> {
    let mut fold = RunFold::default();
    events.iter().try_for_each(|event| fold.fold(event))
}

fn damaged(event: &EventRecord, why: &str) -> ShardError {
    ShardError::Damaged(format!(
        "event {} ({}) of run {}: {why}",
        event.sequence.0,
        event.event_type.as_str(),
        event.no.0
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use opcode_engine::fsm::StepStatus;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::apply::FoldedStatements;
    use super::super::connection::{Access, Connection};
    use super::super::schema;
    use super::*;

    const STEPS: [&str; 3] = ["a", "a.iter_1.b", "z"];
    const DECISIONS: [&str; 2] = ["d1", "d2"];

    /// A change that can be made several times.
    #[derive(Clone, Debug)]
    enum Spec {
        Run(usize, Option<i64>, Option<Option<i64>>, Option<u8>, Option<Option<u8>>, Option<Option<i64>>),
        Definition(u8),
        Step(usize, usize, Option<u32>, Option<i64>, Option<u8>, Option<u8>, Option<i64>),
        Requested(usize, i64),
        Closed(usize, bool),
        Withdrawn,
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let time = || option::of(0..9_i64);
        let text = || option::of(any::<u8>());
        prop_oneof![
            (0..6_usize, time(), option::of(time()), text(), option::of(text()), option::of(time()))
                .prop_map(|(s, a, b, c, d, e)| Spec::Run(s, a, b, c, d, e)),
            any::<u8>().prop_map(Spec::Definition),
            (0..3_usize, 0..8_usize, option::of(1..4_u32), time(), text(), text(), time())
                .prop_map(|(n, s, a, t, o, e, d)| Spec::Step(n, s, a, t, o, e, d)),
            (0..2_usize, 0..9_i64).prop_map(|(n, t)| Spec::Requested(n, t)),
            (0..2_usize, any::<bool>()).prop_map(|(n, b)| Spec::Closed(n, b)),
            Just(Spec::Withdrawn),
        ]
    }

    fn raw(n: u8) -> Box<RawValue> {
        RawValue::from_string(n.to_string()).unwrap()
    }

    /// The step it is about, and the change.
    fn change(spec: &Spec) -> (&'static str, Change) {
        match spec.clone() {
            Spec::Run(status, started_at, completed_at, output, error, due) => {
                let change = Change::Run {
                    status: WorkflowStatus::ALL[status],
                    started_at: started_at.map(Timestamp),
                    completed_at: completed_at.map(|at| at.map(Timestamp)),
                    output: output.map(raw),
                    error: error.map(|error| error.map(raw)),
                    due: due.map(|due| due.map(Timestamp)),
                };
                ("", change)
            }
            Spec::Definition(n) => ("", Change::Definition(DefinitionHash([n; 32]))),
            Spec::Step(step, status, attempts, at, output, error, due) => {
                let change = StepChange {
                    status: StepStatus::ALL[status],
                    attempts,
                    started_at: at.map(Timestamp),
                    completed_at: at.map(|at| Timestamp(at + 1)),
                    output: output.map(raw),
                    error: error.map(raw),
                    due: due.map(Timestamp),
                };
                (STEPS[step], Change::Step(change))
            }
            Spec::Requested(n, at) => {
                let requested = DecisionRequested {
                    decision_id: DECISIONS[n].into(),
                    step_id: STEPS[n].into(),
                    context: raw(n as u8),
                    options: raw(1),
                    target_agent: None,
                    fallback: None,
                    timeout_at: Some(Timestamp(at + 5)),
                    created_at: Timestamp(at),
                };
                ("", Change::DecisionRequested(Box::new(requested)))
            }
            Spec::Closed(n, is_resolved) => {
                let (status, resolution) =
                    if is_resolved { ("resolved", Some(raw(7))) } else { ("timed_out", None) };
                let decision_id = DECISIONS[n].to_owned();
                ("", Change::DecisionClosed { decision_id, status, resolution })
            }
            Spec::Withdrawn => ("", Change::DecisionsWithdrawn),
        }
    }

    fn started() -> Change {
        Change::RunStarted(Box::new(RunStarted {
            workflow_id: "w".into(),
            status: WorkflowStatus::Pending,
            definition: DefinitionHash([0; 32]),
            template: None,
            version: None,
            agent_id: Some("ann".into()),
            labels: vec![("k".into(), "v".into())],
            body_hash: Some(u64::MAX),
            created_at: Timestamp(1),
            started_at: None,
            due: Some(Timestamp(2)),
        }))
    }

    /// Every row of every folded table, after the changes in transactions of these lengths.
    fn tables_after(specs: &[Spec], lengths: &[usize]) -> Vec<String> {
        let mut connection = Connection::open(Path::new(":memory:"), Access::Create).unwrap();
        connection.execute(schema::FOLDED_TABLES).unwrap();
        schema::add_checksums(&mut connection).unwrap();
        let statements = FoldedStatements::prepare(&mut connection).unwrap();
        let mut fold = RunFold::default();
        fold.take("", started());
        let (mut lengths, mut left) = (lengths.iter().copied().cycle(), 0);
        for spec in specs {
            if left == 0 {
                left = lengths.next().unwrap_or(usize::MAX);
                statements.write(&mut connection, &[(RunNo(1), std::mem::take(&mut fold))]).unwrap();
            }
            left -= 1;
            let (step, change) = change(spec);
            fold.take(step, change);
        }
        statements.write(&mut connection, &[(RunNo(1), fold)]).unwrap();
        let mut all = Vec::new();
        for (table, order) in [
            ("workflows", "no"),
            ("labels", "key"),
            ("step_rows", "step_id"),
            ("decision_rows", "decision_id"),
        ] {
            let sql = format!("SELECT * FROM {table} ORDER BY {order}");
            let mut rows = connection.select_once(&sql, &[]).unwrap();
            let names = rows.columns();
            while let Some(row) = rows.next().unwrap() {
                // The row's own number tells only when it came.
                let values = names.iter().enumerate().filter(|(_, name)| *name != "row");
                let values: Vec<_> = values.map(|(at, name)| format!("{name}={:?}", row.get(at))).collect();
                all.push(format!("{table}: {}", values.join(" ")));
            }
        }
        all
    }

    proptest! {
        /// However the log is cut into transactions, the tables come out the same.
        #[test]
        fn folding_in_memory_is_folding_in_the_tables(
            specs in vec(spec(), 0..24),
            lengths in vec(1..6_usize, 1..4),
        ) {
            let one_by_one = tables_after(&specs, &[1]);
            prop_assert_eq!(&tables_after(&specs, &lengths), &one_by_one);
            prop_assert_eq!(&tables_after(&specs, &[usize::MAX]), &one_by_one);
        }
    }
}
