//! Real runs, as the engine decides them: through the tables and back, and rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::command::{Command, Decision, Effect, Signal, SignalType, Start};
use opcode_engine::definition::Definition;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, Timestamp, WorkflowId};
use opcode_engine::run::Run;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::connection::{Access, Connection};
use super::super::{DecisionFilter, RunFilter, Store, rebuild};
use super::{at, entry, open, options};
use crate::record::{EventRecord, Record};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn definition() -> Arc<Definition> {
    let text = json!({
        "timeout": "1h",
        "steps": [
            {"id": "fetch", "action": "http.get", "params": {"url": "http://example.com/a"}},
            {"id": "ask", "type": "reasoning", "depends_on": ["fetch"], "config": {
                "prompt_context": "go on?",
                "options": [{"id": "yes", "description": "go on"}, {"id": "no", "description": "stop"}],
                "target_agent": "ann", "timeout": "10m"}},
            {"id": "done", "action": "http.get", "depends_on": ["ask"], "params": {"url": "http://example.com/b"}},
        ],
    });
    Arc::new(Definition::parse(&text.to_string()).expect("the definition is valid"))
}

/// A run and the records that its decisions have made so far.
pub(super) struct Driven {
    run: Run,
    pub(super) records: Vec<Record>,
}

impl Driven {
    fn start(no: u64, id: &str, definition: &Arc<Definition>) -> Self {
        let start = Start {
            no: RunNo(no),
            id: WorkflowId::parse(id).unwrap(),
            definition: Arc::clone(definition),
            template: Some(("greet".into(), "v2".into())),
            params: json!({"n": no}),
            agent_id: Some("bob".into()),
            context: json!({"intent": "to test"}),
            labels: BTreeMap::from([("team".into(), "a".into())]),
            start_at: None,
            body_hash: Some(u64::MAX - no),
            request: None,
            parent: None,
        };
        let (run, decision) = Run::start(start, NOW).expect("the run starts");
        let mut driven = Self { run, records: Vec::new() };
        driven.record(decision);
        driven
    }

    fn record(&mut self, decision: Decision) {
        for definition in decision.definitions {
            let (hash, source) = (definition.hash, Arc::clone(&definition.source));
            self.records.push(Record::Definition { hash, source });
        }
        let no = self.run.no();
        self.records.extend(decision.events.iter().map(|e| Record::Event(EventRecord::encode(no, e))));
    }

    fn command(&mut self, command: Command) {
        let decision = self.run.handle(command, NOW).expect("the command is taken");
        self.record(decision);
    }

    /// Ends every action that the run wants, until it wants none.
    pub(super) fn work(&mut self) {
        loop {
            let effects = self.run.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                if let Effect::Execute { handle, .. } = effect {
                    let result: Result<Value, _> = Ok(json!({"status_code": 200}));
                    self.command(Command::Finished { handle, result, emissions: Vec::new() });
                }
            }
        }
    }

    pub(super) fn choose(&mut self, choice: &str) {
        self.command(Command::Signal(Signal {
            kind: SignalType::Decision,
            step_id: Some("ask".into()),
            payload: json!({"choice": choice}),
            agent_id: Some("ann".into()),
            reasoning: None,
            signal_id: None,
        }));
    }
}

/// A folder with one run that waits for a decision and one that has ended.
pub(super) async fn two_runs(dir: &TempDir) -> (Store, Driven) {
    let definition = definition();
    let mut waiting = Driven::start(1, "waits", &definition);
    waiting.work();
    let mut ended = Driven::start(2, "ends", &definition);
    ended.work();
    ended.choose("yes");
    ended.work();
    assert_eq!(
        (waiting.run.status(), ended.run.status()),
        (WorkflowStatus::Suspended, WorkflowStatus::Completed)
    );
    let store = open(dir).await;
    let source = Arc::clone(&definition.source);
    let mut records = vec![Record::Definition { hash: definition.hash, source }];
    records.append(&mut waiting.records);
    records.extend(ended.records);
    store.enqueue_all(records).await;
    (store, waiting)
}

impl Store {
    /// Applies records as the next entry.
    pub(super) async fn enqueue_all(&self, records: Vec<Record>) {
        use crate::log::Tables;
        let index = self.applied_position().index + 1;
        self.enqueue(vec![entry(index, records)]);
        self.reached(at(index)).await.unwrap();
    }
}

#[tokio::test]
async fn runs_are_found_listed_and_replayed() {
    let dir = TempDir::new().unwrap();
    let (store, mut waiting) = two_runs(&dir).await;
    let runs = store.list_runs(RunFilter { limit: 9, ..RunFilter::default() }).await.unwrap();
    let lines: Vec<_> = runs.iter().map(|r| (r.workflow_id.as_str(), r.status.as_str())).collect();
    assert_eq!(lines, [("waits", "suspended"), ("ends", "completed")]);
    assert_eq!((runs[0].template.as_deref(), runs[0].version.as_deref()), (Some("greet"), Some("v2")));
    assert_eq!(runs[0].labels["team"], "a");
    assert_eq!((runs[0].completed_at, runs[1].completed_at), (None, Some(NOW)));
    assert_eq!(store.live_runs().await.unwrap(), []);
    assert_eq!(store.timers().await.unwrap(), [(NOW.plus_ms(600_000), RunNo(1))], "the decision's timeout");

    let id = WorkflowId::parse("waits").unwrap();
    assert_eq!(store.find(&id).await.unwrap(), Some(RunNo(1)));
    let stored = store.load_run(&id).await.unwrap().unwrap();
    let events = stored.events.iter().map(|e| e.decode().unwrap());
    let definition = definition();
    let run = Run::replay(stored.no, stored.id, events, &mut |hash| {
        (hash == definition.hash).then(|| Arc::clone(&definition))
    });
    assert_eq!(run.unwrap().status(), WorkflowStatus::Suspended);
    let several = vec![WorkflowId::parse("nobody").unwrap(), WorkflowId::parse("ends").unwrap()];
    let several = store.load_runs(several).await.unwrap();
    assert_eq!(several.iter().map(|run| run.no).collect::<Vec<_>>(), [RunNo(2)]);

    let pending =
        store.list_decisions(DecisionFilter { limit: 9, ..DecisionFilter::default() }).await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!((pending[0].workflow_id.as_str(), pending[0].step_id.as_str()), ("waits", "ask"));
    waiting.choose("no");
    waiting.work();
    store.enqueue_all(std::mem::take(&mut waiting.records)).await;
    let all = DecisionFilter { status: Some("all".into()), limit: 9, ..DecisionFilter::default() };
    let all = store.list_decisions(all).await.unwrap();
    assert!(all.iter().all(|d| d.status == "resolved") && all.len() == 2);
    let chosen = all.iter().find(|d| d.workflow_id == "waits").and_then(|d| d.resolution.as_ref()).unwrap();
    assert!(chosen.get().contains("\"no\""), "{chosen}");

    let sql = "SELECT type FROM events WHERE workflow_id = 'waits' ORDER BY sequence LIMIT 1";
    assert_eq!(store.sql(sql, 9, 1_000).await.unwrap()[0]["type"], "workflow_started");
    let sql = "SELECT step_id, status, attempts FROM step_state WHERE workflow_id = 'ends' ORDER BY step_id";
    let steps = store.sql(sql, 9, 1_000).await.unwrap();
    assert!(steps.len() == 3 && steps.iter().all(|s| s["status"] == "completed"), "{steps:?}");
}

#[tokio::test]
async fn a_rebuild_finds_planted_differences_and_mends_them() {
    let dir = TempDir::new().unwrap();
    two_runs(&dir).await.0.close().await.unwrap();
    let path = options(&dir).path;
    let clean = rebuild(&path, true).await.unwrap();
    assert_eq!((clean.runs, clean.difference_count, clean.damage_count), (2, 0, 0), "{clean:?}");
    assert!(clean.events > 10 && !clean.is_rewritten);

    let plants = [
        ("UPDATE workflows SET status = 'failed' WHERE no = 2", "workflows", "2", "status"),
        ("UPDATE workflows SET due = 5 WHERE no = 2", "workflows", "2", "due"),
        ("DELETE FROM workflows WHERE no = 1", "workflows", "1", "*"),
        ("DELETE FROM step_rows WHERE workflow_no = 1 AND step_id = 'ask'", "step_state", "1/ask", "*"),
        (
            "UPDATE step_rows SET attempts = 9 WHERE workflow_no = 2 AND step_id = 'done'",
            "step_state",
            "2/done",
            "attempts",
        ),
        (
            "INSERT INTO step_rows(workflow_no, step_id, status, attempts) VALUES (1, 'x', 'failed', 1)",
            "step_state",
            "1/x",
            "*",
        ),
        (
            "INSERT INTO step_rows(workflow_no, step_id, status, attempts) VALUES (7, 'x', 'failed', 1)",
            "step_state",
            "7",
            "*",
        ),
        (
            "UPDATE decision_rows SET status = 'pending' WHERE workflow_no = 2",
            "pending_decisions",
            "2/",
            "status",
        ),
        ("DELETE FROM labels WHERE workflow_no = 1", "labels", "1/team", "*"),
        ("INSERT INTO labels VALUES ('team', 'b', 1, 1)", "labels", "*", "*"),
    ];
    for (plant, table, key, column) in plants {
        let writer = Connection::open(&path, Access::Write).unwrap();
        writer.execute(plant).unwrap();
        drop(writer);
        let found = rebuild(&path, true).await.unwrap();
        assert_eq!((found.difference_count, found.damage_count), (1, 0), "{plant}: {found:?}");
        let difference = &found.differences[0];
        assert_eq!((difference.table, difference.column.as_str()), (table, column), "{plant}");
        assert!(difference.key.starts_with(key), "{plant}: {difference:?}");
        assert_eq!(rebuild(&path, true).await.unwrap().difference_count, 1, "a check changes nothing");
        assert!(rebuild(&path, false).await.unwrap().is_rewritten, "{plant}");
        assert_eq!(rebuild(&path, false).await.unwrap().difference_count, 0, "{plant} is mended");
    }
    let store = open(&dir).await;
    assert_eq!(store.list_runs(RunFilter { limit: 9, ..RunFilter::default() }).await.unwrap().len(), 2);
}

#[tokio::test]
async fn damage_in_the_events_is_told_and_nothing_written() {
    let damages = [
        "DELETE FROM event_rows WHERE workflow_no = 2 AND sequence = 3",
        "DELETE FROM event_rows WHERE workflow_no = 2 AND sequence = 1",
        "UPDATE event_rows SET data = 'x' WHERE workflow_no = 2 AND sequence = 2",
        "UPDATE event_rows SET type = 255 WHERE workflow_no = 2 AND sequence = 2",
        "UPDATE event_rows SET timestamp = timestamp + 1 WHERE workflow_no = 2 AND sequence = 2",
        "UPDATE event_rows SET data = replace(data, 'a', 'b') WHERE workflow_no = 2 AND sequence = 2",
        "DELETE FROM definitions",
    ];
    for damage in damages {
        let dir = TempDir::new().unwrap();
        two_runs(&dir).await.0.close().await.unwrap();
        let path = options(&dir).path;
        let writer = Connection::open(&path, Access::Write).unwrap();
        writer.execute(damage).unwrap();
        writer.execute("UPDATE workflows SET status = 'failed' WHERE no = 1").unwrap();
        drop(writer);
        let report = rebuild(&path, false).await.unwrap();
        assert!(report.damage_count >= 1 && !report.is_rewritten, "{damage}: {report:?}");
        assert!(report.difference_count >= 1, "{damage}: {report:?}");
    }
    let nowhere = TempDir::new().unwrap();
    assert!(rebuild(&nowhere.path().join("none.db"), true).await.is_err());
}
