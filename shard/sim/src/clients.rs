//! Clients: they submit runs, answer questions, send signals, cancel, read, and send again what
//! they were not told the outcome of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opcode_engine::command::{Command, Reason, Signal, SignalType};
use opcode_engine::definition::Definition;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::CallError;
use opcode_shard::handle::{CommandReply, Submission};
use opcode_shard::handle::{RunView, Shown};
use opcode_shard::remote::{Answer, Request};
use serde_json::{Value, json};

use crate::history::{History, Kind};
use crate::relay::{Leaders, shard_of};
use crate::world::World;

/// Steps of a chain.
pub const STEPS: usize = 3;
/// Longest pause of a client between two runs.
const PACE_MS_MAX: u64 = 250;
/// How often a submission is sent before the client leaves it.
const SUBMITS_MAX: usize = 4;
/// The template that children are of.
pub const TEMPLATE: &str = "child";

/// One client.
pub struct Client {
    pub number: u64,
    pub leaders: Arc<Leaders>,
    pub history: Arc<History>,
    pub world: Arc<World>,
    /// Set when no more runs are to be begun.
    pub is_over: Arc<AtomicBool>,
    /// Held by each run that a client is still at.
    pub at_work: Arc<()>,
}

fn post(id: &str, after: &[&str]) -> Value {
    json!({"id": id, "action": "http.post", "depends_on": after,
        "params": {"url": "http://sink.simulated/", "body": {"run": "${{workflow.run_id}}", "step": id, "token": "${{secrets.TOKEN}}"}},
        "retry": {"max": 50, "backoff": "constant", "delay": "50ms"}})
}

/// The steps of a run of this kind.
fn steps(kind: Kind, variant: u64) -> Value {
    match kind {
        Kind::Posts => json!([post("s0", &[]), post("s1", &["s0"]), post("s2", &["s1"])]),
        Kind::Computes => {
            let step = |n: usize| {
                let after: Vec<String> = n.checked_sub(1).map(|n| format!("s{n}")).into_iter().collect();
                json!({"id": format!("s{n}"), "action": "expr.eval", "depends_on": after,
                    "params": {"expression": "1 + 1"}})
            };
            (0..STEPS).map(step).collect()
        }
        Kind::Asks => json!([
            {"id": "ask", "type": "reasoning", "config": {"prompt_context": "on?", "timeout": "1s",
                "options": [{"id": "left"}, {"id": "right"}], "fallback": "left"}},
            post("s0", &["ask"]),
        ]),
        Kind::Waits => json!([
            {"id": "wait", "type": "wait", "config": {"signal": "go"}},
            post("s0", &["wait"]),
        ]),
        Kind::Delays => json!([
            {"id": "wait", "type": "wait", "config": {"duration": format!("{}ms", 50 + variant % 4 * 900)}},
            post("s0", &["wait"]),
        ]),
        Kind::Parent => json!([
            {"id": "run", "action": "workflow.run",
                "params": {"template_name": TEMPLATE, "params": {"of": variant}, "wait": !variant.is_multiple_of(3)}},
            post("s0", &["run"]),
        ]),
        Kind::Cancels => json!([
            post("s0", &[]),
            {"id": "never", "type": "wait", "depends_on": ["s0"], "config": {"signal": "never"}},
        ]),
    }
}

fn definition(steps: &Value) -> Arc<Definition> {
    let text = json!({ "steps": steps }).to_string();
    Arc::new(Definition::parse(&text).unwrap_or_else(|invalid| panic!("a client's definition: {invalid:?}")))
}

fn signal(kind: SignalType, step: Option<&str>, payload: Value, id: &str) -> Command {
    Command::Signal(Signal {
        kind,
        step_id: step.map(str::to_owned),
        payload,
        agent_id: None,
        reasoning: None,
        signal_id: Some(id.to_owned()),
    })
}

/// Defines the template of children, until it is.
pub async fn define_template(leaders: Arc<Leaders>) {
    let steps = json!([post("c0", &[]), post("c1", &["c0"])]);
    let source = json!({"name": TEMPLATE, "definition": {"steps": steps}}).to_string();
    let definition = Definition::parse(&source).unwrap_or_else(|invalid| panic!("the template: {invalid:?}"));
    let (source, definition): (Arc<str>, _) = (source.into(), Arc::new(definition));
    loop {
        let request = Request::DefineTemplate {
            name: TEMPLATE.into(),
            source: source.clone(),
            definition: definition.clone(),
        };
        if leaders.ask_leader(ShardId::SYSTEM, request).await.is_ok() {
            return;
        }
    }
}

impl Client {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Begins runs until it is over.
    pub async fn run(self) {
        let client = Arc::new(self);
        let mut number = 0;
        while !client.is_over() {
            number += 1;
            let kind = Kind::ALL[usize::try_from(client.world.below(7)).unwrap_or_default()];
            let id = WorkflowId::parse(&format!("run-{}-{number}", client.number));
            let id = id.unwrap_or_else(|why| panic!("a client's id: {why}"));
            client.history.begins(id.as_str(), kind);
            // The next run does not wait for this one.
            let at_work = client.at_work.clone();
            tokio::spawn(client.clone().one(id, kind, at_work));
            client.rest(PACE_MS_MAX).await;
        }
    }

    async fn rest(&self, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(1 + self.world.below(most_ms))).await;
    }

    async fn ask(&self, id: &WorkflowId, request: Request) -> Result<Answer, CallError> {
        self.leaders.ask_leader(shard_of(id, self.leaders.shards), request).await
    }

    /// One run, from its submission until this client loses interest.
    async fn one(self: Arc<Self>, id: WorkflowId, kind: Kind, _at_work: Arc<()>) {
        let variant = self.world.below(1_000);
        if !self.submit(&id, kind, variant).await {
            return;
        }
        self.rest(300).await;
        match kind {
            Kind::Asks => self.decide(&id).await,
            Kind::Waits => self.signal(&id).await,
            Kind::Cancels => self.cancel(&id).await,
            Kind::Posts | Kind::Computes | Kind::Delays | Kind::Parent => {}
        }
        for _ in 0..1 + self.world.below(4) {
            if self.is_over() {
                return;
            }
            self.read(&id).await;
            self.rest(500).await;
        }
        // Once more, as a client that has forgotten: it must find the same run.
        if self.world.one_in(5) {
            self.submit(&id, kind, variant).await;
        }
    }

    /// Whether the run may be there.
    async fn submit(&self, id: &WorkflowId, kind: Kind, variant: u64) -> bool {
        let definition = definition(&steps(kind, variant));
        for _ in 0..SUBMITS_MAX {
            let submission = Submission {
                id: id.clone(),
                body_hash: Some(variant),
                request: None,
                definition: definition.clone(),
                template: None,
                params: Value::Null,
                agent_id: None,
                context: Value::Null,
                labels: BTreeMap::new(),
                start_at: None,
                parent: None,
            };
            let before = self.history.before(id.as_str());
            // From here on it may be there, whatever is answered.
            self.history.learn(id.as_str(), |known| known.may_exist = true);
            let answer = self.ask(id, Request::Submit(vec![submission])).await.and_then(Answer::submitted);
            match answer.as_deref() {
                Ok([Ok(submitted)]) => {
                    self.note(id, "submitted", "acknowledged");
                    self.history.answered(id.as_str(), &before, submitted.position);
                    self.history.learn(id.as_str(), |known| known.is_acknowledged = true);
                    return true;
                }
                Ok(other) => {
                    self.history.violated(format!("{id}: a submission was answered with {other:?}"));
                    return true;
                }
                Err(error) => self.note(id, "submitted", outcome(error)),
            }
            self.rest(200).await;
            if self.is_over() {
                break;
            }
        }
        true
    }

    fn note(&self, id: &WorkflowId, what: &str, outcome: &'static str) {
        self.history.count(outcome);
        self.world.note(&format!("{id} {what}: {outcome}"));
    }

    /// Sends a command until it is acknowledged or refused, a few times at most.
    async fn command(&self, id: &WorkflowId, what: &str, command: Command) -> Option<CommandReply> {
        for _ in 0..SUBMITS_MAX {
            let before = self.history.before(id.as_str());
            let request = Request::Command(id.clone(), command.clone());
            match self.ask(id, request).await.and_then(Answer::commanded) {
                Ok(reply) => {
                    self.note(id, what, "acknowledged");
                    self.history.answered(id.as_str(), &before, reply.position);
                    return Some(reply);
                }
                Err(error) => {
                    self.note(id, what, outcome(&error));
                    match error {
                        CallError::NotFound(_) => {
                            self.history.not_found(id.as_str(), &before);
                            return None;
                        }
                        CallError::Rejected(_) => return None,
                        CallError::Overloaded
                        | CallError::StorageFull
                        | CallError::NotLeader { .. }
                        | CallError::Unavailable { .. } => {}
                    }
                }
            }
            self.rest(200).await;
            if self.is_over() {
                break;
            }
        }
        None
    }

    async fn decide(&self, id: &WorkflowId) {
        for n in 0..1 + self.world.below(2) {
            let choice = if self.world.one_in(2) { "left" } else { "right" };
            let payload = json!({ "choice": choice });
            let command = signal(SignalType::Decision, Some("ask"), payload, &format!("{id}-choice-{n}"));
            if self.command(id, "decides", command).await.is_some() {
                self.history.learn(id.as_str(), |known| {
                    known.choice.get_or_insert_with(|| choice.to_owned());
                });
            }
        }
    }

    async fn signal(&self, id: &WorkflowId) {
        let name = format!("{id}-go");
        let command = || signal(SignalType::Data, Some("go"), json!({"name": "go"}), &name);
        let mut sequences = Vec::new();
        for _ in 0..1 + self.world.below(3) {
            if let Some(reply) = self.command(id, "signals", command()).await {
                sequences.push(reply.sequence);
                self.history.learn(id.as_str(), |known| {
                    known.signals.insert(name.clone());
                });
            }
        }
        sequences.dedup();
        if sequences.len() > 1 {
            self.history.violated(format!("{id}: one signal was recorded at {sequences:?}"));
        }
    }

    async fn cancel(&self, id: &WorkflowId) {
        let command = Command::Cancel(Reason::default());
        if self.command(id, "cancels", command).await.is_some() {
            self.history.learn(id.as_str(), |known| known.is_cancelled = true);
        }
    }

    async fn read(&self, id: &WorkflowId) {
        let before = self.history.before(id.as_str());
        match self.ask(id, Request::Status(id.clone())).await.and_then(Answer::view) {
            Ok(RunView { status, position, .. }) => {
                self.note(id, "read", status.as_str());
                self.history.read(id.as_str(), &before, position, status.as_str(), status.is_terminal());
            }
            Err(CallError::NotFound(_)) => self.history.not_found(id.as_str(), &before),
            Err(error) => self.note(id, "read", outcome(&error)),
        }
    }

    /// After the faults: sees to it that the run ends, and that somebody has seen it.
    pub async fn finish(&self, id: &WorkflowId, kind: Kind) -> bool {
        let before = self.history.before(id.as_str());
        if kind == Kind::Waits {
            let name = format!("{id}-go");
            let command = signal(SignalType::Data, Some("go"), json!({"name": "go"}), &name);
            drop(self.ask(id, Request::Command(id.clone(), command)).await);
        }
        if kind == Kind::Cancels {
            drop(self.ask(id, Request::Command(id.clone(), Command::Cancel(Reason::default()))).await);
        }
        let wait = Request::Wait(id.clone(), Duration::from_millis(1_000), Shown::Outcome);
        match self.ask(id, wait).await.and_then(Answer::view) {
            Ok(RunView { status, position, .. }) => {
                self.history.read(id.as_str(), &before, position, status.as_str(), status.is_terminal());
                status.is_terminal()
            }
            Err(CallError::NotFound(_)) => {
                self.history.not_found(id.as_str(), &before);
                true
            }
            Err(error) => {
                self.note(id, "finished", outcome(&error));
                false
            }
        }
    }
}

fn outcome(error: &CallError) -> &'static str {
    match error {
        CallError::Rejected(_) => "rejected",
        CallError::NotFound(_) => "not found",
        CallError::Overloaded | CallError::StorageFull => "overloaded",
        CallError::NotLeader { .. } => "not leader",
        CallError::Unavailable { applied_unknown: true, .. } => "unknown",
        CallError::Unavailable { applied_unknown: false, .. } => "unavailable",
    }
}
