//! A definition, compiled: what a workflow is, checked once and then only read.
//!
//! There is no draft: [`Definition::parse`] either returns a definition in which every id
//! resolves, every expression is compiled and no cycle exists, or every problem at once.
//! Steps live in one arena ([`Definition::steps`]), nested ones, hooks and compensations too.

mod duration;
mod fields;
mod kinds;
mod outline;
mod params;
mod parse;
mod schema;
mod schema_cost;
mod sight;
mod steps;
mod text;

use std::sync::Arc;

use serde_json::Value;

use crate::catalogue::plugin_action;
use crate::error::{Code, Invalid};
use crate::expr::cel::Cel;
use crate::expr::interpolate::Template;
use crate::expr::jq::Jq;
use crate::ids::{DefinitionHash, Timestamp};

/// Most steps of one definition, nested ones included.
pub const STEPS_MAX: usize = 10_000;
/// Deepest nesting of steps in steps.
pub const NESTING_MAX: usize = 32;
/// Largest definition, in bytes of its text.
pub const DEFINITION_BYTES_MAX: usize = 1024 * 1024;

/// Longest name of a condition's branch, in bytes: it is a part of ids.
pub const BRANCH_NAME_BYTES_MAX: usize = 128;

pub use duration::{DURATION_MS_MAX, parse_duration_ms};
pub use fields::PROBLEMS_MAX;

/// Which namespaces of actions plugins bring, for a definition that is checked.
#[derive(Clone, Copy, Debug)]
pub enum Plugins<'a> {
    /// These and no others.
    Of(&'a [Arc<str>]),
    /// Any: who asks has looked, or will when the step runs.
    Any,
}

/// A step's place in [`Definition::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecIx(pub u32);

/// A workflow's definition, compiled and checked.
#[derive(Debug)]
pub struct Definition {
    /// Pins the text: SHA-256 of `source`.
    pub hash: DefinitionHash,
    /// Canonical JSON text of the definition itself, without a template file's wrapper.
    pub source: Arc<str>,
    /// Every step, parents before their children.
    pub steps: Vec<StepSpec>,
    /// The top level, in the order of the text; scheduled as a DAG.
    pub root: Vec<SpecIx>,
    /// Top-level steps by level of Kahn's sort, for plans and diagrams.
    pub levels: Vec<Vec<SpecIx>>,
    /// Defaults of the params, interpolated when a run starts.
    pub inputs: Template,
    /// JSON Schema 2020-12 of the params, from a template file.
    pub input_schema: Option<InputSchema>,
    /// Longest life of a run.
    pub timeout_ms: Option<u64>,
    /// What its end by timeout is.
    pub on_timeout: OnTimeout,
    /// Runs once when a run has completed.
    pub on_complete: Option<SpecIx>,
    /// Runs once when a run has failed.
    pub on_error: Option<SpecIx>,
    /// The run's output; without it `{sink step id: its output}`.
    pub output: Option<Template>,
    /// Free data of the author.
    pub metadata: Value,
}

/// A compiled `input_schema`.
#[derive(Debug)]
pub struct InputSchema {
    /// The schema as written.
    pub source: Value,
    /// Its validator.
    pub validator: jsonschema::Validator,
}

/// The `on_timeout` of a definition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OnTimeout {
    #[default]
    Fail,
    Suspend,
    Cancel,
}

/// One step as written.
#[derive(Debug)]
pub struct StepSpec {
    /// Its place in the arena.
    pub ix: SpecIx,
    /// Short id.
    pub id: Arc<str>,
    /// The step whose branch, body or map it is in, or that it compensates.
    pub parent: Option<SpecIx>,
    /// JSON pointer from the definition's root.
    pub pointer: String,
    /// What it does.
    pub kind: StepKind,
    /// Direct dependencies within its own scope; empty in hooks and compensations.
    pub depends_on: Vec<SpecIx>,
    /// The other direction of `depends_on`.
    pub dependents: Vec<SpecIx>,
    /// False: the step is skipped.
    pub guard: Option<Cel>,
    /// Longest time of one attempt.
    pub timeout_ms: Option<u64>,
    /// Tries after a failure.
    pub retry: Option<RetryPolicy>,
    /// What a failure that is not retried does.
    pub on_error: OnError,
    /// Runs when the run fails or is cancelled after this step completed.
    pub compensate: Option<SpecIx>,
    /// What a crash in mid-step does.
    pub on_interrupt: OnInterrupt,
    /// It is some step's `fallback_step` and nothing's dependency: it runs only when called for.
    pub is_fallback_only: bool,
}

/// What a step does, by type.
#[derive(Debug)]
pub enum StepKind {
    /// Runs an action of the catalogue.
    Action {
        /// Its name, `fs.read`; an alias is resolved.
        action: Arc<str>,
        /// Its params.
        params: Arc<Template>,
        /// The program of an `expr.eval` whose `expression` is a literal.
        program: Option<Arc<crate::expr::expr::Expr>>,
    },
    /// Chooses a branch.
    Condition {
        /// Its value, as a string, names the branch.
        expression: Cel,
        /// Branches by value.
        branches: Vec<(Arc<str>, Vec<SpecIx>)>,
        /// When no branch matches.
        default: Option<Vec<SpecIx>>,
    },
    /// Runs a body again and again.
    Loop {
        /// How often.
        mode: LoopMode,
        /// The body, in listed order.
        body: Vec<SpecIx>,
        /// More is an error of the step.
        iterations_max: u64,
    },
    /// Runs branches side by side, all to their ends.
    All {
        /// The branches.
        branches: Vec<Vec<SpecIx>>,
    },
    /// Runs branches side by side until the first completes.
    Race {
        /// The branches.
        branches: Vec<Vec<SpecIx>>,
    },
    /// Runs a body for each item, some at a time.
    Map {
        /// The items.
        over: Over,
        /// The body, in listed order.
        body: Vec<SpecIx>,
        /// Items under way at a time, at least 1.
        concurrency_max: u32,
    },
    /// Waits for time or a signal.
    Wait(WaitFor),
    /// Asks an agent or a person.
    Reasoning(Reasoning),
}

/// The `mode` of a loop.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum LoopMode {
    ForEach(Over),
    While(Cel),
    Until(Cel),
}

/// What a loop or map goes over.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Over {
    Cel(Cel),
    Jq(Jq),
    Literal(Arc<Vec<Value>>),
    /// A string that is one `${{ … }}` token.
    Template(Template),
}

/// What a wait waits for.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum WaitFor {
    /// May be interpolated; then checked when the step starts.
    DurationMs(u64),
    Duration(Template),
    Signal(Arc<str>),
    Until(Timestamp),
    UntilTemplate(Template),
}

/// A reasoning node's `config`.
#[derive(Debug)]
pub struct Reasoning {
    /// What to decide; may be interpolated.
    pub prompt: Template,
    /// Values shown beside it, by name.
    pub inject: Vec<(Arc<str>, Template)>,
    /// What may be chosen; empty is free-form.
    pub options: Vec<DecisionOption>,
    /// Longest wait for an answer.
    pub timeout_ms: Option<u64>,
    /// Chosen on timeout.
    pub fallback: Option<Arc<str>>,
    /// Only this agent may answer.
    pub target_agent: Option<Arc<str>>,
}

/// One choice of a decision.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct DecisionOption {
    pub id: String,
    #[serde(default)]
    pub description: String,
}

/// The `retry` of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub max: u32,
    /// How the delay grows.
    pub backoff: Backoff,
    /// The first delay.
    pub delay_ms: u64,
    /// The longest delay.
    pub delay_ms_max: Option<u64>,
    /// Share of the delay that is random, 0 to 1.
    pub jitter: f64,
}

/// How a retry's delay grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Backoff {
    #[default]
    None,
    Linear,
    Constant,
    Exponential,
}

/// The `on_error` of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OnError {
    #[default]
    FailWorkflow,
    Ignore,
    Fallback(SpecIx),
    /// Fails the run when the tries of `retry` (default 3) are used up.
    Retry,
}

/// The `on_interrupt` of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OnInterrupt {
    #[default]
    Retry,
    Suspend,
    Fail,
}

impl Definition {
    /// Parses a definition, or a template file that wraps one, from its JSON text; every problem
    /// at once. Bounded in size, steps and nesting before anything is compiled.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::parse_with(text, Plugins::Of(&[]))
    }

    /// The same where there are plugins, whose tools are actions too.
    pub fn parse_with(text: &str, plugins: Plugins<'_>) -> Result<Self, Invalid> {
        parse::parse(text, false, plugins)
    }

    /// The same for a text that was accepted before, by this version or an earlier one: a secret
    /// may stand where none is taken any more. There it stays a token, and a step fails when it runs.
    /// So does a step whose plugin is gone.
    pub fn parse_stored(text: &str) -> Result<Self, Invalid> {
        parse::parse(text, true, Plugins::Any)
    }

    /// The namespaces of actions that its steps want of plugins, sorted.
    pub fn plugin_namespaces(&self) -> Vec<Arc<str>> {
        let wanted = self.steps.iter().filter_map(|step| {
            let StepKind::Action { action, .. } = &step.kind else { return None };
            Some(plugin_action(action)?.0.into())
        });
        let wanted: std::collections::BTreeSet<Arc<str>> = wanted.collect();
        wanted.into_iter().collect()
    }

    /// The step at `ix`.
    pub fn step(&self, ix: SpecIx) -> &StepSpec {
        &self.steps[ix.0 as usize]
    }

    /// Checks params (already merged over the defaults) against `input_schema`; pointers start
    /// with `/params`.
    pub fn check_params(&self, params: &Value) -> Result<(), Invalid> {
        let problems = self.input_schema.as_ref().map(|schema| schema::violations(schema, params));
        match problems {
            Some(problems) if !problems.is_empty() => Err(Invalid { code: Code::ValidationError, problems }),
            Some(_) | None => Ok(()),
        }
    }
}
