//! What the clients did, and what they were told. A time-out or a broken connection is *unknown*,
//! never *failed*.

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// One run, as its client knows it.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) outcome: Outcome,
    /// It asks for a decision; which one was acknowledged first, if one was.
    pub(crate) decision: Option<Option<String>>,
}

/// Everything that all clients did.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<BTreeMap<String, Submission>>>);

impl History {
    /// Takes down what came of a submission; an acknowledgement is never taken back.
    pub(crate) async fn submitted(&self, id: &str, outcome: Outcome, asks: bool) {
        let mut runs = self.0.lock().await;
        let entry = runs
            .entry(id.to_owned())
            .or_insert_with(|| Submission { outcome, decision: asks.then_some(None) });
        entry.outcome = match (entry.outcome, outcome) {
            (Outcome::Acknowledged, _) | (_, Outcome::Acknowledged) => Outcome::Acknowledged,
            (Outcome::Unknown, _) | (_, Outcome::Unknown) => Outcome::Unknown,
            (Outcome::Refused, Outcome::Refused) => Outcome::Refused,
        };
    }

    /// Takes down the choice that was acknowledged.
    pub(crate) async fn decided(&self, id: &str, choice: &str) {
        if let Some(submission) = self.0.lock().await.get_mut(id)
            && let Some(decision @ None) = &mut submission.decision
        {
            *decision = Some(choice.to_owned());
        }
    }

    pub(crate) async fn all(&self) -> BTreeMap<String, Submission> {
        self.0.lock().await.clone()
    }

    pub(crate) async fn summary(&self) -> String {
        let runs = self.0.lock().await;
        let count = |outcome: Outcome| runs.values().filter(|run| run.outcome == outcome).count();
        format!(
            "{} submissions acknowledged, {} unknown, {} refused",
            count(Outcome::Acknowledged),
            count(Outcome::Unknown),
            count(Outcome::Refused)
        )
    }
}
