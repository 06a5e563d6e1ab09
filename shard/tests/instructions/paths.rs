//! What the paths do, and what they do it with.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::command::Start;
use opcode_engine::definition::Definition;
use opcode_engine::event::{Body, Event, EventType};
use opcode_engine::expr::cel::Cel;
use opcode_engine::expr::expr::Expr;
use opcode_engine::expr::interpolate::Template;
use opcode_engine::expr::{Budget, Env, NoJq, OwnedScope, Visibility};
use opcode_engine::ids::{RunNo, Timestamp, WorkflowId};
use opcode_engine::run::{Run, run_through};
use opcode_shard::log::codec;
use opcode_shard::record::{EventRecord, Record};
use serde_json::{Value, json};

use super::hot;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const STEPS: usize = 100;
/// A path that is short is walked so often.
const TIMES: usize = 100;

/// The functions of [`hot`], as [`Fixture::walk`] calls them, and what ends the last.
pub(crate) const NAMES: [&str; 10] = [
    "validate",
    "decide",
    "encode_events",
    "replay",
    "changes",
    "encode_batch",
    "decode_batch",
    "render",
    "evaluate",
    "end",
];

/// Everything the paths start from, made before anything is counted.
pub(crate) struct Fixture {
    text: String,
    short: Arc<Definition>,
    long: Arc<Definition>,
    /// Of a run of `long`.
    events: Vec<Event>,
    stored: Vec<(EventType, Vec<u8>)>,
    records: Vec<Record>,
    batch: Vec<u8>,
    scope: OwnedScope,
    template: Template,
    guard: Cel,
    sum: Expr,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let parse = |text: &str| Arc::new(Definition::parse(text).expect("valid"));
        let text = chain(STEPS);
        let long = parse(&chain(5 * STEPS - 1));
        let events = through(&long);
        let stored: Vec<_> = events.iter().map(encode).collect();
        let records: Vec<_> =
            events.iter().zip(&stored).map(|(event, (_, data))| record(event, data)).collect();
        let visible = |_: &str| Visibility::Visible;
        let env = Env { step: &visible, in_loop: false, has_data: false };
        let params = json!({
            "url": "${{inputs.url}}/items/${{steps.fetch.output.id}}",
            "body": {"title": "${{inputs.title}}", "age": "${{steps.fetch.output.age}}"},
        });
        let guard = "steps.fetch.age <= inputs.most && inputs.url != ''";
        Self {
            short: parse(&text),
            text,
            batch: codec::encode(&records, 1).expect("a batch"),
            long,
            events,
            stored,
            records,
            scope: scope(),
            template: Template::compile(&params, &env, "").expect("it compiles"),
            guard: Cel::compile(guard, &env).expect("it compiles"),
            sum: Expr::compile("inputs.most * 2 + steps.fetch.age", &env).expect("it compiles"),
        }
    }

    /// Every path once.
    pub(crate) fn walk(&self) {
        hot::validate(self);
        hot::decide(self);
        hot::encode_events(self);
        hot::replay(self);
        hot::changes(self);
        hot::encode_batch(self);
        hot::decode_batch(self);
        hot::render(self);
        hot::evaluate(self);
        hot::end(self);
    }

    pub(crate) fn validate(&self) -> Definition {
        Definition::parse(&self.text).expect("valid")
    }

    pub(crate) fn decide(&self) -> Vec<Event> {
        through(&self.short)
    }

    pub(crate) fn encode_events(&self) -> Vec<(EventType, Vec<u8>)> {
        self.events.iter().map(encode).collect()
    }

    pub(crate) fn replay(&self) -> Run {
        let read = |(event, (kind, data)): (&Event, &(EventType, Vec<u8>))| Event {
            body: Body::decode(*kind, data).expect("as encoded"),
            ..event.clone()
        };
        let events: Vec<Event> = self.events.iter().zip(&self.stored).map(read).collect();
        let run = Run::replay(RunNo(1), id(), events, &mut |_| Some(self.long.clone())).expect("gapless");
        assert!(run.status().is_terminal(), "all of its events are there");
        run
    }

    pub(crate) fn changes(&self) -> usize {
        let changes = |(event, (kind, data)): (&Event, &(EventType, Vec<u8>))| {
            opcode_engine::view::changes(*kind, event.step_id.as_ref(), data, NOW).expect("as encoded").len()
        };
        self.events.iter().zip(&self.stored).map(changes).sum()
    }

    pub(crate) fn encode_batch(&self) -> Vec<u8> {
        codec::encode(&self.records, 1).expect("a batch")
    }

    pub(crate) fn decode_batch(&self) -> usize {
        let records = codec::decode(&self.batch).expect("as encoded").records;
        assert_eq!(records.len(), self.records.len());
        records.len()
    }

    pub(crate) fn render(&self) -> Vec<Value> {
        let once = |_| self.template.render(&self.scope, Budget::INLINE, &NoJq).expect("it renders");
        (0..TIMES).map(once).collect()
    }

    pub(crate) fn evaluate(&self) -> usize {
        let is_let_through =
            |_: &usize| self.guard.eval_bool(&self.scope, Budget::INLINE).expect("it is a guard");
        let passed = (0..TIMES).filter(is_let_through).count();
        let sums = (0..TIMES).filter_map(|_| self.sum.eval(&self.scope, Budget::INLINE).ok()).count();
        assert_eq!((passed, sums), (TIMES, TIMES));
        passed + sums
    }
}

/// Steps without side effects, one after another.
fn chain(steps: usize) -> String {
    let step = |n: usize| {
        let before: Vec<String> = n.checked_sub(1).map(|n| format!("step-{n}")).into_iter().collect();
        json!({"id": format!("step-{n}"), "action": "expr.eval", "depends_on": before,
               "params": {"expression": "1 + 1"}})
    };
    json!({"steps": (0..steps).map(step).collect::<Vec<Value>>()}).to_string()
}

fn id() -> WorkflowId {
    WorkflowId::parse("01890a5d-ac96-774b-bcce-b302099a8057").expect("valid")
}

fn scope() -> OwnedScope {
    let output = json!({"id": 7, "age": 3, "text": "x".repeat(100)});
    OwnedScope {
        steps: BTreeMap::from([(Arc::from("fetch"), Arc::new(output))]),
        inputs: Arc::new(json!({"most": 24, "url": "https://example.org/v1", "title": "a title"})),
        ..OwnedScope::default()
    }
}

/// Runs to the end, as the shard's loop would with steps that compute; all events.
fn through(definition: &Arc<Definition>) -> Vec<Event> {
    let params = json!({"order": {"id": "A-1", "sum": 12.5}});
    let start = Start { params, ..Start::new(RunNo(1), id(), definition.clone()) };
    let (run, events) = run_through(start, &json!({"result": 2}), NOW).expect("valid params");
    assert!(run.status().is_terminal(), "nothing is left to do");
    events
}

fn encode(event: &Event) -> (EventType, Vec<u8>) {
    let mut data = Vec::new();
    event.body.encode(&mut data);
    (event.body.event_type(), data)
}

fn record(event: &Event, data: &[u8]) -> Record {
    Record::Event(EventRecord {
        no: RunNo(1),
        sequence: event.sequence,
        event_type: event.body.event_type(),
        step_id: event.step_id.clone(),
        data: data.to_vec(),
        agent_id: None,
        timestamp: NOW,
    })
}
