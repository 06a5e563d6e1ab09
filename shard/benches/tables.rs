//! How fast the tables apply: transactions of 20 000 events, interleaved over 10 000 runs.
//!
//! `events_alone` are events that change no view; `runs` are whole runs of ten steps as the
//! engine decides them, with all their views. Prints CPU time an event besides, of all threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nix::sys::resource::{UsageWho, getrusage};
use opcode_engine::command::{Command, Effect, Start};
use opcode_engine::definition::Definition;
use opcode_engine::event::EventType;
use opcode_engine::ids::{RunNo, Sequence, ShardId, Timestamp, WorkflowId};
use opcode_engine::run::Run;
use opcode_shard::batch::Position;
use opcode_shard::record::{EventRecord, Record};
use opcode_shard::store::{Store, StoreOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

const RUNS: u64 = 10_000;
const EVENTS_PER_TRANSACTION: usize = 20_000;
const STEPS: usize = 10;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// Events of every run in turn, as many at a time as a busy shard commits of one run.
fn interleaved(mut runs: Vec<VecDeque<Record>>) -> Vec<Vec<Record>> {
    let mut transactions = vec![Vec::with_capacity(EVENTS_PER_TRANSACTION)];
    while runs.iter().any(|run| !run.is_empty()) {
        for run in &mut runs {
            let Some(record) = run.pop_front() else { continue };
            if transactions.last().is_none_or(|t| t.len() == EVENTS_PER_TRANSACTION) {
                transactions.push(Vec::with_capacity(EVENTS_PER_TRANSACTION));
            }
            if let Some(transaction) = transactions.last_mut() {
                transaction.push(record);
            }
        }
    }
    transactions.retain(|t| t.len() == EVENTS_PER_TRANSACTION);
    transactions
}

fn events_alone() -> Vec<Vec<Record>> {
    let data = json!({"name": "measured", "payload": "x".repeat(70)}).to_string().into_bytes();
    let step_id: Arc<str> = Arc::from("step-1");
    let event = |no, sequence| {
        Record::Event(EventRecord {
            no: RunNo(no),
            sequence: Sequence(sequence),
            event_type: EventType::Custom,
            step_id: Some(Arc::clone(&step_id)),
            data: data.clone(),
            agent_id: None,
            timestamp: NOW,
        })
    };
    interleaved((1..=RUNS).map(|no| (1..=24).map(|sequence| event(no, sequence)).collect()).collect())
}

fn definition() -> Arc<Definition> {
    let steps: Vec<Value> = (0..STEPS)
        .map(|n| {
            let after: Vec<String> = n.checked_sub(1).iter().map(|before| format!("step-{before}")).collect();
            let params = json!({"url": "http://example.com/orders"});
            json!({"id": format!("step-{n}"), "action": "http.get", "params": params, "depends_on": after})
        })
        .collect();
    let text = json!({"steps": steps}).to_string();
    Arc::new(Definition::parse(&text).expect("the definition is valid"))
}

/// A whole run, from its start to its end.
fn run_of(no: u64, definition: &Arc<Definition>) -> VecDeque<Record> {
    let start = Start {
        no: RunNo(no),
        id: WorkflowId::parse(&format!("0190d5a2-7c1e-7000-8000-{no:012x}")).expect("an id"),
        definition: Arc::clone(definition),
        template: None,
        params: json!({"customer": "c-17"}),
        agent_id: None,
        context: Value::Null,
        labels: BTreeMap::new(),
        start_at: None,
        body_hash: None,
    };
    let (mut run, decision) = Run::start(start, NOW).expect("the run starts");
    let mut events = decision.events;
    loop {
        let effects = run.take_effects();
        if effects.is_empty() {
            break;
        }
        for effect in effects {
            let Effect::Execute { handle, .. } = effect else { continue };
            let result = Ok(json!({"status_code": 200, "body": {"id": no, "state": "accepted"}}));
            let finished = Command::Finished { handle, result, emissions: Vec::new() };
            events.extend(run.handle(finished, NOW).expect("the step ends").events);
        }
    }
    assert!(run.status().is_terminal(), "the run has ended");
    events.iter().map(|event| Record::Event(EventRecord::encode(RunNo(no), event))).collect()
}

fn runs() -> Vec<Vec<Record>> {
    let definition = definition();
    interleaved((1..=RUNS).map(|no| run_of(no, &definition)).collect())
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the system tells what was used");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|t| Duration::from_micros((t.tv_sec() * 1_000_000 + t.tv_usec()).unsigned_abs()))
        .sum()
}

/// The tables under measurement, and the transactions that they have not seen yet.
struct Rig {
    store: Store,
    next: u64,
    _dir: TempDir,
}

impl Rig {
    async fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("tables.db");
        let options = StoreOptions { path, shard: ShardId(0), cluster_id: "bench".into() };
        Self { store: Store::open(options).await.expect("the tables open"), next: 0, _dir: dir }
    }

    async fn apply(&mut self, records: Vec<Record>) {
        self.next += 1;
        let position = Position { term: 1, index: self.next };
        self.store.enqueue_unlogged(position, records);
        self.store.reached(position).await.expect("the tables apply");
    }
}

fn measure(criterion: &mut Criterion, name: &str, transactions: &[Vec<Record>]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (mut cpu, mut events) = (Duration::ZERO, 0_usize);
    let mut rig = runtime.block_on(Rig::new());
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(EVENTS_PER_TRANSACTION as u64));
    group.sample_size(20).measurement_time(Duration::from_secs(15));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut taken = Duration::ZERO;
            for _ in 0..iterations {
                if rig.next as usize == transactions.len() {
                    rig = runtime.block_on(Rig::new());
                }
                let records = transactions[rig.next as usize].clone();
                let (started, cpu_before) = (Instant::now(), cpu_time());
                runtime.block_on(rig.apply(records));
                taken += started.elapsed();
                cpu += cpu_time() - cpu_before;
                events += EVENTS_PER_TRANSACTION;
            }
            taken
        });
    });
    group.finish();
    println!("apply/{name}: {:.2} µs of CPU an event", cpu.as_secs_f64() * 1e6 / events as f64);
}

fn tables(criterion: &mut Criterion) {
    measure(criterion, "events_alone", &events_alone());
    measure(criterion, "runs", &runs());
}

criterion_group!(benches, tables);
criterion_main!(benches);
