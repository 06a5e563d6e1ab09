//! What the clients did, and what they were told. A time-out or a broken connection is *unknown*,
//! never *failed*.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// What a client knows of a submission.
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

#[derive(Default)]
struct Told {
    runs: BTreeMap<String, Submission>,
    acknowledgements: Vec<Acknowledgement>,
    /// How often each answer other than success came, and each kind of broken connection.
    answers: BTreeMap<String, usize>,
}

/// Everything that all clients did.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Told>>);

impl History {
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
