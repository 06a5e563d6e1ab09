//! The one door of tests of runs: a definition, commands, and the trace of events they gave.
//!
//! After each command the world checks what must hold for every run whatever it does: sequences
//! have no gap, every event survives its encoding, a replay gives the same run, and the views
//! folded from the events show the same statuses as the run itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use opcode_engine::child;
use opcode_engine::command::{
    Command, Decision, Effect, Emission, PreparedParams, Reason, Signal, SignalType, Start, StepHandle,
};
use opcode_engine::definition::Definition;
use opcode_engine::event::{Body, Event, EventType};
use opcode_engine::expr::{Budget, NoJq};
use opcode_engine::fsm::{StepStatus, WorkflowStatus};
use opcode_engine::ids::{DefinitionHash, RunNo, Timestamp, WorkflowId};
use opcode_engine::run::Run;
use opcode_engine::view::{self, Change};
use opcode_engine::{Code, Fault, Rejected};
use serde_json::{Value, json};

/// When every script begins.
pub(crate) const START: Timestamp = Timestamp(1_700_000_000_000);

/// A run and the world around it.
pub(crate) struct World {
    pub(crate) run: Run,
    pub(crate) now: Timestamp,
    /// Every event so far, as stored.
    pub(crate) log: Vec<Stored>,
    pub(crate) definitions: HashMap<DefinitionHash, Arc<Definition>>,
    /// Actions under way, by full id of their step.
    pub(crate) doing: BTreeMap<String, StepHandle>,
    /// Attempts that were called off.
    pub(crate) abandoned: Vec<String>,
    trace: String,
}

/// An event as it is stored.
#[derive(Clone)]
pub(crate) struct Stored {
    event: Event,
    data: Vec<u8>,
}

impl Stored {
    fn of(event: Event) -> Self {
        let mut data = Vec::new();
        event.body.encode(&mut data);
        Self { event, data }
    }

    pub(crate) fn kind(&self) -> EventType {
        self.event.body.event_type()
    }

    pub(crate) fn decoded(&self) -> Event {
        let body = Body::decode(self.event.body.event_type(), &self.data).unwrap();
        Event { body, ..self.event.clone() }
    }
}

/// Parses a definition that has to be valid.
pub(crate) fn definition(source: &Value) -> Arc<Definition> {
    match Definition::parse(&source.to_string()) {
        Ok(definition) => Arc::new(definition),
        Err(invalid) => panic!("{invalid:#?}"),
    }
}

impl World {
    /// Starts a run of the steps given.
    pub(crate) fn of_steps(steps: Value) -> Self {
        Self::of(json!({ "steps": steps }))
    }

    /// Starts a run of the definition given.
    pub(crate) fn of(source: Value) -> Self {
        Self::start(&source, json!({}), |_| {})
    }

    /// Starts a run with params, and whatever else `change` sets.
    pub(crate) fn start(source: &Value, params: Value, change: impl FnOnce(&mut Start)) -> Self {
        Self::start_of(definition(source), params, change)
    }

    /// Starts a run of a definition that other versions accepted.
    pub(crate) fn of_stored(source: &Value) -> Self {
        let definition = Definition::parse_stored(&source.to_string()).expect("it was accepted once");
        Self::start_of(Arc::new(definition), json!({}), |_| {})
    }

    fn start_of(definition: Arc<Definition>, params: Value, change: impl FnOnce(&mut Start)) -> Self {
        let mut start = Start {
            no: RunNo(7),
            id: WorkflowId::parse("wf").unwrap(),
            definition: definition.clone(),
            template: None,
            params,
            agent_id: None,
            context: Value::Null,
            labels: BTreeMap::new(),
            start_at: None,
            body_hash: None,
            request: None,
            parent: None,
        };
        change(&mut start);
        let (run, decision) = Run::start(start, START).unwrap();
        let mut world = Self {
            run,
            now: START,
            log: Vec::new(),
            definitions: HashMap::from([(definition.hash, definition)]),
            doing: BTreeMap::new(),
            abandoned: Vec::new(),
            trace: String::new(),
        };
        world.record(decision);
        world
    }

    /// Gives the run a command that it has to take.
    pub(crate) fn command(&mut self, command: Command) -> Option<u64> {
        match self.try_command(command) {
            Ok(sequence) => sequence,
            Err(rejected) => panic!("refused: {rejected:?}\n{}", self.trace),
        }
    }

    /// Gives the run a command; refused, it must have changed nothing.
    pub(crate) fn try_command(&mut self, command: Command) -> Result<Option<u64>, Rejected> {
        let before = self.run.fingerprint();
        match self.run.handle(command, self.now) {
            Ok(decision) => {
                let sequence = decision.sequence.map(|s| s.0);
                self.record(decision);
                Ok(sequence)
            }
            Err(rejected) => {
                assert_eq!(before, self.run.fingerprint(), "a refused command has changed something");
                Err(rejected)
            }
        }
    }

    /// Takes a command's events and effects, and evaluates what the run asks a worker for.
    fn record(&mut self, decision: Decision) {
        for definition in decision.definitions {
            self.definitions.insert(definition.hash, definition);
        }
        for event in decision.events {
            let _ = writeln!(self.trace, "{}", line(&event));
            assert_eq!(event.sequence.0, self.log.len() as u64 + 1, "a gap");
            self.log.push(Stored::of(event));
        }
        let mut answers = Vec::new();
        for effect in self.run.take_effects() {
            match effect {
                Effect::Execute { handle, .. } => {
                    let prepared = self.run.prepare(handle);
                    if let Some(prepared) = prepared {
                        self.doing.insert(prepared.step_id.to_string(), handle);
                    }
                }
                Effect::Evaluate { handle, template, scope } => {
                    let result = template
                        .render(&*scope, Budget::WORKER, &NoJq)
                        .map_err(|e| Fault::new(Code::InterpolationError, e.to_string()));
                    answers.push(Command::Evaluated { handle, result });
                }
                Effect::Abandon(handle) => {
                    let step = self.doing.iter().find(|(_, h)| **h == handle).map(|(id, _)| id.clone());
                    if let Some(step) = step {
                        self.doing.remove(&step);
                        self.abandoned.push(step);
                    }
                }
            }
        }
        self.check();
        for answer in answers {
            self.command(answer);
        }
    }

    /// What holds for every run at every time.
    fn check(&self) {
        let replayed = self.replay(self.log.len());
        assert_eq!(replayed.fingerprint(), self.run.fingerprint(), "the replay differs\n{}", self.trace);
        let is_over = self.log.last().is_some_and(|stored| {
            // Not a log that was cut off in the midst of a retry, which is one decision.
            let last = stored.event.body.event_type();
            matches!(
                last,
                EventType::WorkflowCompleted | EventType::WorkflowFailed | EventType::WorkflowCancelled
            )
        });
        assert!(!is_over || self.run.is_at_rest(), "a step of an ended run is under way\n{}", self.trace);
        let shown = self.shown();
        let mut run_status = None;
        let mut steps: BTreeMap<String, StepStatus> = BTreeMap::new();
        let mut decisions: Vec<String> = Vec::new();
        let mut owed = 0;
        for Stored { event, data } in &self.log {
            let changes =
                view::changes(event.body.event_type(), event.step_id.as_ref(), data, event.timestamp)
                    .unwrap();
            for change in changes {
                match change {
                    Change::RunStarted(started) => run_status = Some(started.status),
                    Change::Run { status, .. } => run_status = Some(status),
                    Change::Step(change) => {
                        let id = event.step_id.as_ref().unwrap().to_string();
                        check_move(steps.get(&id).copied(), change.status, event);
                        steps.insert(id, change.status);
                    }
                    Change::DecisionRequested(decision) => decisions.push(decision.decision_id),
                    Change::DecisionClosed { decision_id, .. } => decisions.retain(|d| *d != decision_id),
                    Change::DecisionsWithdrawn => decisions.clear(),
                    Change::MessageOwed => {
                        assert!(child::owed(event).is_some(), "{}", line(event));
                        owed += 1;
                    }
                    Change::Definition(hash) => assert!(self.definitions.contains_key(&hash)),
                }
            }
        }
        let said = self.log.iter().filter(|stored| child::owed(&stored.event).is_some()).count();
        assert_eq!(owed, said, "the tables miss a message\n{}", self.trace);
        assert_eq!(json!(run_status.unwrap()), shown["status"]);
        for (id, step) in shown["steps"].as_object().unwrap() {
            let status = steps.remove(id).unwrap_or(StepStatus::Pending);
            assert_eq!(json!(status), step["status"], "step {id}\n{}", self.trace);
        }
        assert!(steps.is_empty(), "rows of no step: {steps:?}");
        let mut pending: Vec<&str> = shown["pending_decisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["decision_id"].as_str().unwrap())
            .collect();
        pending.sort_unstable();
        decisions.sort_unstable();
        assert_eq!(decisions, pending, "\n{}", self.trace);
    }

    /// The run as its first `count` events make it.
    pub(crate) fn replay(&self, count: usize) -> Run {
        let events = self.log[..count].iter().map(Stored::decoded);
        Run::replay(RunNo(7), self.run.id().clone(), events, &mut |hash| self.definitions.get(&hash).cloned())
            .unwrap_or_else(|e| panic!("{e}\n{}", self.trace))
    }

    /// The process ends and another one leads: what was in memory is gone.
    pub(crate) fn crash(&mut self) {
        self.crash_at(self.log.len());
    }

    /// The same where only the first `count` events were committed.
    pub(crate) fn crash_at(&mut self, count: usize) {
        self.run = self.replay(count);
        self.log.truncate(count);
        self.doing.clear();
        let _ = writeln!(self.trace, "-- crash");
        self.command(Command::Recover);
    }

    /// An action ends well.
    pub(crate) fn finish(&mut self, step: &str, output: Value) {
        self.end(step, Ok(output), Vec::new());
    }

    /// The params of a step that is under way.
    pub(crate) fn params(&self, step: &str) -> PreparedParams {
        self.run.prepare(self.doing[step]).expect("the attempt is current").params
    }

    /// An action ends badly.
    pub(crate) fn fail(&mut self, step: &str, code: Code) {
        self.end(step, Err(Fault::new(code, "it broke")), Vec::new());
    }

    pub(crate) fn end(&mut self, step: &str, result: Result<Value, Fault>, emissions: Vec<Emission>) {
        let Some(handle) = self.doing.remove(step) else {
            panic!("{step} is not under way, but {:?} are\n{}", self.doing.keys(), self.trace)
        };
        self.command(Command::Finished { handle, result, emissions });
    }

    /// Time passes, and the run is woken when it is due, as often as it is.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        while let Some(due) = self.run.next_due().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.command(Command::Wake);
        }
        self.now = until;
    }

    pub(crate) fn signal(
        &mut self,
        kind: SignalType,
        step: &str,
        payload: Value,
    ) -> Result<Option<u64>, Rejected> {
        self.try_command(Command::Signal(signal(kind, step, payload)))
    }

    pub(crate) fn status(&self) -> WorkflowStatus {
        self.run.status()
    }

    /// The run as it is shown.
    pub(crate) fn shown(&self) -> Value {
        serde_json::to_value(self.run.document()).expect("a run is JSON")
    }

    /// A step as it is shown.
    pub(crate) fn step(&self, id: &str) -> Value {
        self.shown()["steps"][id].clone()
    }

    /// A step's status as it is shown.
    pub(crate) fn step_status(&self, id: &str) -> String {
        self.step(id)["status"].as_str().unwrap_or("absent").to_owned()
    }

    pub(crate) fn output(&self) -> Value {
        self.run.output().cloned().unwrap_or_default()
    }

    pub(crate) fn error_code(&self) -> String {
        self.shown()["error"]["code"].as_str().unwrap_or("none").to_owned()
    }

    /// Compares the trace since the last time with what it should be, line by line.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &str) {
        let trace = std::mem::take(&mut self.trace);
        let lines =
            |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
        let (expected, found) = (lines(expected), lines(&trace));
        assert!(expected == found, "expected:\n{expected}\n\nfound:\n{found}\n");
    }

    /// The trace since the last time it was compared.
    pub(crate) fn trace(&self) -> &str {
        &self.trace
    }

    /// Forgets the trace so far.
    pub(crate) fn quiet(&mut self) {
        self.trace.clear();
    }
}

/// A signal without agent and id.
pub(crate) fn signal(kind: SignalType, step: &str, payload: Value) -> Signal {
    Signal {
        kind,
        step_id: (!step.is_empty()).then(|| step.to_owned()),
        payload,
        agent_id: None,
        reasoning: None,
        signal_id: None,
    }
}

pub(crate) fn because(reason: &str) -> Reason {
    Reason { agent_id: Some("ops".into()), reason: Some(reason.to_owned()) }
}

/// The move that a row makes is one of the table's, or a new round of an old step.
fn check_move(from: Option<StepStatus>, to: StepStatus, event: &Event) {
    let from = from.unwrap_or(StepStatus::Pending);
    // A reset that a crash cut off is begun again.
    let is_reset = to == StepStatus::Pending && event.body.event_type() == EventType::StepScheduled;
    let is_new_round = from.is_settled()
        && matches!(
            event.body.event_type(),
            EventType::StepStarted
                | EventType::StepSkipped
                | EventType::StepScheduled
                | EventType::StepRetryAttempt
        );
    let is_same = from == to;
    assert!(
        is_same || is_reset || is_new_round || from.can_pass_to(to),
        "{} → {}: {}",
        from.as_str(),
        to.as_str(),
        line(event)
    );
}

/// An event in one line: type, step, and its data without what makes lines long.
fn line(event: &Event) -> String {
    let mut data = Vec::new();
    event.body.encode(&mut data);
    let mut data: Value = serde_json::from_slice(&data).unwrap();
    let map = data.as_object_mut().unwrap();
    if event.body.event_type() == EventType::WorkflowStarted {
        map.clear();
    }
    for (key, value) in map.iter_mut() {
        let is_time = matches!(key.as_str(), "due" | "at" | "until" | "timeout_at");
        if is_time && let Some(text) = value.as_str() {
            *value = json!(format!("+{}", Timestamp::parse_rfc3339(text).unwrap().since_ms(START)));
        }
        if key == "error" {
            *value = value["code"].clone();
        }
    }
    let mut text = event.body.event_type().as_str().to_owned();
    if let Some(step) = &event.step_id {
        let _ = write!(text, " {step}");
    }
    for (key, value) in map {
        let _ = write!(text, " {key}={value}");
    }
    text
}
