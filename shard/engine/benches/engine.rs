//! What the rules cost: a decision of a chain, event by event, and the replay of a log.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use opcode_engine::command::Start;
use opcode_engine::definition::Definition;
use opcode_engine::event::{Body, Event, EventType};
use opcode_engine::ids::{RunNo, Timestamp, WorkflowId};
use opcode_engine::run::{Run, run_through};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn chain(steps: usize) -> Arc<Definition> {
    let steps: Vec<Value> = (0..steps)
        .map(|n| {
            let depends_on: Vec<String> = n.checked_sub(1).map(|b| format!("step-{b}")).into_iter().collect();
            json!({
                "id": format!("step-{n}"), "action": "expr.eval",
                "params": {"expression": "1 + 1"}, "depends_on": depends_on,
            })
        })
        .collect();
    Arc::new(Definition::parse(&json!({ "steps": steps }).to_string()).expect("valid"))
}

fn start(definition: &Arc<Definition>) -> Start {
    let id = WorkflowId::parse("01890a5d-ac96-774b-bcce-b302099a8057").expect("valid");
    let params = json!({"order": {"id": "A-1", "sum": 12.5}});
    Start { params, ..Start::new(RunNo(1), id, definition.clone()) }
}

/// Runs to the end, as the shard's loop would with pure steps; gives all events.
fn through(definition: &Arc<Definition>) -> Vec<Event> {
    let (run, events) = run_through(start(definition), &json!({"result": 2}), NOW).expect("a run");
    assert!(run.status().is_terminal(), "nothing is left to do");
    events
}

fn encode(events: &[Event]) -> Vec<(EventType, Vec<u8>)> {
    events
        .iter()
        .map(|event| {
            let mut data = Vec::new();
            event.body.encode(&mut data);
            (event.body.event_type(), data)
        })
        .collect()
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for steps in [10, 100] {
        let definition = chain(steps);
        let events = through(&definition).len() as u64;
        group.throughput(Throughput::Elements(events));
        group.bench_function(format!("chain{steps}"), |b| b.iter(|| through(&definition)));
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let definition = chain(499);
    let events = through(&definition);
    let stored = encode(&events);
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(events.len() as u64));
    let replay = |events: Vec<Event>| {
        let id = WorkflowId::parse("w").expect("valid");
        Run::replay(RunNo(1), id, events, &mut |_| Some(definition.clone())).expect("gapless")
    };
    group.bench_function("1000_events_decoded", |b| {
        b.iter_batched(|| events.clone(), replay, BatchSize::SmallInput);
    });
    group.bench_function("1000_events_from_json", |b| {
        b.iter_batched(
            || events.clone(),
            |events| {
                let decoded = events.into_iter().zip(&stored).map(|(event, (event_type, data))| Event {
                    body: Body::decode(*event_type, data).expect("as encoded"),
                    ..event
                });
                replay(decoded.collect())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn codec(c: &mut Criterion) {
    let events = through(&chain(499));
    let stored = encode(&events);
    let mut group = c.benchmark_group("event");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("encode", |b| b.iter(|| encode(&events)));
    group.bench_function("changes", |b| {
        b.iter(|| {
            let changes = |(event, (event_type, data)): (&Event, &(EventType, Vec<u8>))| {
                opcode_engine::view::changes(*event_type, event.step_id.as_ref(), data, NOW)
                    .expect("as encoded")
                    .len()
            };
            events.iter().zip(&stored).map(changes).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, decide, replay, codec);
criterion_main!(benches);
