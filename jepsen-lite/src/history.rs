//! What the clients did and were told, and what was done to the nodes meanwhile. A time-out or a
//! broken connection is *unknown*, never *failed*.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// Operations that are kept for the report; those beyond are counted.
const OPERATIONS_MAX: usize = 400_000;

/// What a client knows of what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Acknowledged: it must exist.
    Acknowledged,
    /// It may exist.
    Unknown,
    /// The node said that it was not applied: it must not exist.
    Refused,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Steps without side effects.
    Computes,
    /// Steps that post to the sink.
    Posts,
    /// The same after a decision.
    Asks,
}

/// One run, as its client knows it.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) outcome: Outcome,
    pub(crate) kind: Kind,
    /// Which decision was acknowledged first, if one was.
    pub(crate) decision: Option<String>,
}

/// An acknowledged submission: on which shard, asked when, answered when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) shard: u64,
    pub(crate) begun: Instant,
    pub(crate) at: Instant,
}

/// One request, for the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// What was asked.
    pub(crate) name: &'static str,
    /// Since the history began.
    pub(crate) begun: Duration,
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

/// Something that was done to the nodes, for the report.
#[derive(Clone, Debug)]
pub(crate) struct Harm {
    pub(crate) what: String,
    /// Since the history began.
    pub(crate) from: Duration,
    /// `None`: it is not healed yet.
    pub(crate) to: Option<Duration>,
}

struct Told {
    began: Instant,
    operations: Vec<Operation>,
    operations_left_out: usize,
    harms: Vec<Harm>,
    wrongs: Vec<String>,
    runs: BTreeMap<String, Submission>,
    acknowledgements: Vec<Acknowledgement>,
    /// How often each answer other than success came, and each kind of broken connection.
    answers: BTreeMap<String, usize>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            operations: Vec::new(),
            operations_left_out: 0,
            harms: Vec::new(),
            wrongs: Vec::new(),
            runs: BTreeMap::new(),
            acknowledgements: Vec::new(),
            answers: BTreeMap::new(),
        }
    }
}

/// Everything that all clients did.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Told>>);

impl History {
    /// Takes down that a request was answered, or given up, just now.
    pub(crate) async fn operated(&self, name: &'static str, begun: Instant, outcome: Outcome) {
        let told = &mut *self.0.lock().await;
        if told.operations.len() == OPERATIONS_MAX {
            told.operations_left_out += 1;
            return;
        }
        let (took, begun) = (begun.elapsed(), begun.saturating_duration_since(told.began));
        told.operations.push(Operation { name, begun, took, outcome });
    }

    /// All requests, and how many more there were.
    pub(crate) async fn operations(&self) -> (Vec<Operation>, usize) {
        let told = self.0.lock().await;
        (told.operations.clone(), told.operations_left_out)
    }

    /// Takes down that harm begins; a number to end it with.
    pub(crate) async fn harmed(&self, what: String) -> usize {
        let told = &mut *self.0.lock().await;
        let harm = Harm { what, from: told.began.elapsed(), to: None };
        told.harms.push(harm);
        told.harms.len() - 1
    }

    /// Adds to what is known of harm.
    pub(crate) async fn detailed(&self, number: usize, detail: &str) {
        let told = &mut *self.0.lock().await;
        if let Some(harm) = told.harms.get_mut(number).filter(|_| !detail.is_empty()) {
            harm.what.push_str(&format!("; {detail}"));
        }
    }

    /// Takes down that it is healed, and what came of it.
    pub(crate) async fn healed(&self, number: usize, came: &str) {
        self.detailed(number, came).await;
        let told = &mut *self.0.lock().await;
        let now = told.began.elapsed();
        if let Some(harm) = told.harms.get_mut(number) {
            harm.to = Some(now);
        }
    }

    pub(crate) async fn harms(&self) -> Vec<Harm> {
        self.0.lock().await.harms.clone()
    }

    /// Takes down what a client was answered and must not have been.
    pub(crate) async fn wrong(&self, what: String) {
        self.0.lock().await.wrongs.push(what);
    }

    /// What clients were answered and must not have been.
    pub(crate) async fn wrongs(&self) -> Vec<String> {
        self.0.lock().await.wrongs.clone()
    }

    /// How long ago it began.
    pub(crate) async fn age(&self) -> Duration {
        self.0.lock().await.began.elapsed()
    }

    /// Takes down what came of a submission; an acknowledgement is never taken back.
    pub(crate) async fn submitted(&self, id: &str, outcome: Outcome, kind: Kind) {
        let runs = &mut self.0.lock().await.runs;
        let entry = runs.entry(id.to_owned()).or_insert_with(|| Submission { outcome, kind, decision: None });
        entry.outcome = match (entry.outcome, outcome) {
            (Outcome::Acknowledged, _) | (_, Outcome::Acknowledged) => Outcome::Acknowledged,
            (Outcome::Unknown, _) | (_, Outcome::Unknown) => Outcome::Unknown,
            (Outcome::Refused, Outcome::Refused) => Outcome::Refused,
        };
    }

    /// Takes down the choice that was acknowledged.
    pub(crate) async fn decided(&self, id: &str, choice: &str) {
        if let Some(submission) = self.0.lock().await.runs.get_mut(id)
            && submission.decision.is_none()
        {
            submission.decision = Some(choice.to_owned());
        }
    }

    /// Takes down when a shard acknowledged.
    pub(crate) async fn acknowledged(&self, shard: u64, begun: Instant) {
        let acknowledgement = Acknowledgement { shard, begun, at: Instant::now() };
        self.0.lock().await.acknowledgements.push(acknowledgement);
    }

    /// Takes down an answer that is no success.
    pub(crate) async fn answered(&self, status: u16, code: &str) {
        *self.0.lock().await.answers.entry(format!("{status} {code}")).or_default() += 1;
    }

    /// Takes down a connection that gave no answer.
    pub(crate) async fn broken(&self, error: &reqwest::Error) {
        let what = match (error.is_timeout(), error.is_connect()) {
            (true, _) => "timed out",
            (false, true) => "connection refused",
            (false, false) => "connection broken",
        };
        *self.0.lock().await.answers.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) async fn all(&self) -> BTreeMap<String, Submission> {
        self.0.lock().await.runs.clone()
    }

    /// Answers other than success so far, with how often each came.
    pub(crate) async fn answers(&self) -> BTreeMap<String, usize> {
        self.0.lock().await.answers.clone()
    }

    /// When each shard first acknowledged something that was asked after `moment`.
    pub(crate) async fn first_after(&self, moment: Instant) -> BTreeMap<u64, Duration> {
        let mut first = BTreeMap::new();
        for one in self.0.lock().await.acknowledgements.iter().filter(|one| one.begun >= moment) {
            let at = one.at - moment;
            first.entry(one.shard).and_modify(|first: &mut Duration| *first = at.min(*first)).or_insert(at);
        }
        first
    }

    /// The longest time in which each shard acknowledged nothing, between two moments.
    pub(crate) async fn longest_gaps(&self, from: Instant, to: Instant) -> BTreeMap<u64, Duration> {
        let mut last: BTreeMap<u64, (Instant, Duration)> = BTreeMap::new();
        let told = self.0.lock().await;
        let mut all: Vec<_> = told.acknowledgements.iter().filter(|a| a.at >= from && a.at <= to).collect();
        all.sort_by_key(|one| one.at);
        for one in all {
            let (at, longest) = last.entry(one.shard).or_insert((one.at, Duration::ZERO));
            *longest = (*longest).max(one.at - *at);
            *at = one.at;
        }
        last.into_iter().map(|(shard, (_, longest))| (shard, longest)).collect()
    }

    pub(crate) async fn summary(&self) -> String {
        let told = self.0.lock().await;
        let count = |outcome: Outcome| told.runs.values().filter(|run| run.outcome == outcome).count();
        let mut text = format!(
            "{} submissions acknowledged, {} unknown, {} refused",
            count(Outcome::Acknowledged),
            count(Outcome::Unknown),
            count(Outcome::Refused)
        );
        for (answer, times) in &told.answers {
            text.push_str(&format!("; {answer}: {times}"));
        }
        text
    }
}
