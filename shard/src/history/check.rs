//! Judging what comes in: a line may be anybody's, and what it says stands in the log for ever.
//!
//! A run must be one that this engine could have written: its events decode, follow each other and
//! fold to an end with nothing under way, the tables can show them, and all is within the limits that
//! hold for runs that happen here. What is kept is written anew from what was understood, so that
//! nothing else gets in.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use opcode_engine::definition::Definition;
use opcode_engine::event::payload::WorkflowStarted;
use opcode_engine::event::{Body, Event};
use opcode_engine::ids::{DefinitionHash, ID_BYTES_MAX, RunNo, Sequence};
use opcode_engine::namespace::{local, split};
use opcode_engine::run::{EVENT_BYTES_MAX, EVENTS_MAX, Run};
use opcode_engine::{Code, Rejected};
use serde_json::Value;

use super::{Line, PastRun, PastTemplate};
use crate::definitions::Definitions;
use crate::record::{EventRecord, TemplateRecord};
use crate::store::check_foldable;

/// Most definitions of one run.
const DEFINITIONS_MAX: usize = 1_000;
/// Most bytes of a run's labels.
const LABELS_BYTES_MAX: usize = 16 * 1024;

/// What was found good.
#[derive(Debug)]
pub enum Checked {
    /// A version of a template.
    Template(TemplateRecord),
    /// A run.
    Run(Box<CheckedRun>),
}

/// A run with its events as they will be kept, but for its number.
#[derive(Debug)]
pub struct CheckedRun {
    pub(crate) run: Run,
    pub(crate) definitions: Vec<Arc<Definition>>,
    pub(crate) events: Vec<EventRecord>,
}

/// Longest message of a refusal, in characters: it may quote the line.
const MESSAGE_CHARS_MAX: usize = 500;

impl CheckedRun {
    /// Its events, under no number yet.
    pub fn events(&self) -> &[EventRecord] {
        &self.events
    }
}

fn refused(message: impl AsRef<str>) -> Rejected {
    let message: String = message.as_ref().chars().take(MESSAGE_CHARS_MAX).collect();
    Rejected::new(Code::ValidationError, message)
}

impl Line {
    /// Judges it. May take long, and does not panic, whatever the line says.
    pub fn check(&self, known: &Definitions) -> Result<Checked, Rejected> {
        let judged = catch_unwind(AssertUnwindSafe(|| match self {
            Self::Template(template) => template.check(known).map(Checked::Template),
            Self::Run(run) => run.check(known).map(|run| Checked::Run(Box::new(run))),
        }));
        judged.unwrap_or_else(|_| Err(refused("its events contradict each other: no run is like this")))
    }
}

impl PastTemplate {
    fn check(&self, known: &Definitions) -> Result<TemplateRecord, Rejected> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        // What its namespace calls it; which one that is, was put before it by who takes lines in.
        let called = split(&self.name).map_or("", |(_, name)| name);
        if called.is_empty() || called.len() > ID_BYTES_MAX || !called.bytes().all(ok) {
            return Err(refused("a template's name is 1 to 128 characters of A-Z a-z 0-9 . _ -"));
        }
        let digits = self.version.strip_prefix('v').filter(|digits| !digits.starts_with(['0', '+']));
        let version = digits.and_then(|digits| digits.parse::<u32>().ok());
        let version = version.ok_or_else(|| refused("version: must be `v` and a number from 1"))?;
        let file: Value = serde_json::from_str(self.source.get())
            .map_err(|error| refused(format!("source: cannot be read: {error}")))?;
        if file["name"].as_str() != Some(called) || !file["definition"].is_object() {
            return Err(refused("source: must be a template file of this name, with its definition"));
        }
        // As a definition is kept: without white space, so that it is the same wherever it comes from.
        let source: Arc<str> = file.to_string().into();
        let definition = known.compiled(&source).map_err(|invalid| {
            let mut rejected = Rejected::from(*invalid);
            rejected.message.insert_str(0, "source: ");
            rejected
        })?;
        let name = self.name.clone();
        Ok(TemplateRecord { name, version, definition: definition.hash, source, created_at: self.created_at })
    }
}

impl PastRun {
    fn check(&self, known: &Definitions) -> Result<CheckedRun, Rejected> {
        if self.events.is_empty() || self.events.len() as u64 > EVENTS_MAX {
            return Err(refused(format!("a run has 1 to {EVENTS_MAX} events")));
        }
        let events = self.events()?;
        let Some(Body::WorkflowStarted(started)) = events.first().map(|event| &event.body) else {
            return Err(refused("events/0: a run begins with workflow_started"));
        };
        self.check_start(started)?;
        let compiled = self.compiled(known)?;
        let mut used: BTreeMap<DefinitionHash, Arc<Definition>> = BTreeMap::new();
        let mut definition_of = |hash: DefinitionHash| {
            let found: Option<Arc<Definition>> = compiled.get(&hash).cloned();
            used.extend(found.clone().map(|definition| (hash, definition)));
            found
        };
        let run = Run::replay(RunNo(0), self.workflow_id.clone(), events.iter().cloned(), &mut definition_of)
            .map_err(|why| refused(format!("events: {why}")))?;
        self.check_end(&run)?;
        let records = events.iter().enumerate().map(|(place, event)| kept(place, event));
        let records: Vec<EventRecord> = records.collect::<Result<_, _>>()?;
        check_foldable(&records).map_err(|error| refused(error.to_string()))?;
        Ok(CheckedRun { run, definitions: used.into_values().collect(), events: records })
    }

    fn events(&self) -> Result<Vec<Event>, Rejected> {
        let event = |(place, event): (usize, &super::PastEvent)| {
            let at = |what: &str| refused(format!("events/{place}: {what}"));
            let body = Body::decode(event.event_type, event.data.get().as_bytes())
                .map_err(|why| at(&format!("data: {why}")))?;
            if event.agent_id.as_deref().is_some_and(|agent| !is_name(agent)) {
                return Err(at("agent_id: must be 1 to 128 bytes long, without control characters"));
            }
            Ok(Event {
                sequence: Sequence(event.sequence),
                body,
                step_id: event.step_id.clone(),
                agent_id: event.agent_id.clone(),
                timestamp: event.timestamp,
            })
        };
        self.events.iter().enumerate().map(event).collect()
    }

    /// What the first event says must be within the limits of a submission, and what the line says.
    fn check_start(&self, started: &WorkflowStarted) -> Result<(), Rejected> {
        if &*started.workflow_id != self.workflow_id.as_str() {
            return Err(refused("workflow_id: the events are those of another run"));
        }
        let texts = [
            ("template", started.template.as_deref().map(local)),
            ("version", started.version.as_deref()),
            ("agent_id", started.agent_id.as_deref()),
        ];
        for (name, text) in texts {
            if text.is_some_and(|text| !is_name(text)) {
                return Err(refused(format!("events/0: {name}: must be 1 to 128 bytes long")));
            }
        }
        if !started.params.is_object() || !started.context.is_object() {
            return Err(refused("events/0: params and context are objects"));
        }
        let labels: usize = started.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if labels > LABELS_BYTES_MAX || started.labels.keys().any(String::is_empty) {
            return Err(refused(format!("events/0: labels have names and at most {LABELS_BYTES_MAX} bytes")));
        }
        let is_other = |said: &Option<Arc<str>>, is: &Option<Arc<str>>| said.is_some() && said != is;
        let others = [
            ("template", is_other(&self.template, &started.template)),
            ("version", is_other(&self.version, &started.version)),
            ("agent_id", is_other(&self.agent_id, &started.agent_id)),
            ("labels", self.labels.as_ref().is_some_and(|labels| *labels != started.labels)),
            ("params", self.params.as_ref().is_some_and(|params| *params != started.params)),
        ];
        match others.into_iter().find(|(_, is_other)| *is_other) {
            Some((name, _)) => Err(refused(format!("{name}: the first event says otherwise"))),
            None => Ok(()),
        }
    }

    fn compiled(&self, known: &Definitions) -> Result<HashMap<DefinitionHash, Arc<Definition>>, Rejected> {
        if self.definitions.len() > DEFINITIONS_MAX {
            return Err(refused(format!("definitions: at most {DEFINITIONS_MAX} are taken")));
        }
        let mut compiled = HashMap::with_capacity(self.definitions.len());
        for (place, text) in self.definitions.iter().enumerate() {
            let definition = known.compiled(text.get()).map_err(|invalid| {
                let mut rejected = Rejected::from(*invalid);
                rejected.message.insert_str(0, &format!("definitions/{place}: "));
                rejected
            })?;
            compiled.insert(definition.hash, definition);
        }
        Ok(compiled)
    }

    fn check_end(&self, run: &Run) -> Result<(), Rejected> {
        let status = run.status();
        if self.status.is_some_and(|said| said != status) {
            return Err(refused(format!("status: by its events the run is {}", status.as_str())));
        }
        if !status.is_terminal() {
            let message = format!("the run is {}: only one that has ended comes as history", status.as_str());
            return Err(Rejected::new(Code::InvalidTransition, message));
        }
        if !run.is_at_rest() {
            return Err(refused("events: the run has ended, and a step of it has not"));
        }
        // Whatever is ever shown of it can be.
        let shown = serde_json::to_value(run.document()).and(serde_json::to_value(run.outcome()));
        shown.map_err(|error| refused(format!("events: the run cannot be shown: {error}")))?;
        let _ = (run.step_statuses(), run.why(opcode_engine::ids::Timestamp::default()), run.fingerprint());
        Ok(())
    }
}

/// An event as it is kept.
fn kept(place: usize, event: &Event) -> Result<EventRecord, Rejected> {
    let record = EventRecord::encode(RunNo(0), event);
    // What a run writes beside its outputs, which are as large as an event may be, is little.
    if record.data.len() > 2 * EVENT_BYTES_MAX {
        return Err(refused(format!("events/{place}: data: {} bytes are too many", record.data.len())));
    }
    Ok(record)
}

/// 1 to 128 bytes without control characters.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_BYTES_MAX && !text.chars().any(char::is_control)
}
