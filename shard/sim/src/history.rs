//! What clients were told, run by run, and the first promises that were broken.

use std::collections::{BTreeMap, BTreeSet};

use opcode_shard::batch::Position;
use parking_lot::Mutex;

use crate::world::World;
use std::sync::Arc;

/// Broken promises that are told.
const VIOLATIONS_MAX: usize = 10;

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A chain of posts.
    Posts,
    /// A chain of expressions.
    Computes,
    /// A question, then a post.
    Asks,
    /// A signal waited for, then a post.
    Waits,
    /// A delay, then a post.
    Delays,
    /// A child, then a post.
    Parent,
    /// Something that never comes, until the run is cancelled.
    Cancels,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Posts, Self::Computes, Self::Asks, Self::Waits, Self::Delays, Self::Parent, Self::Cancels];
}

/// What is known of one run.
#[derive(Clone, Debug)]
pub struct Known {
    pub kind: Kind,
    /// A submission of it was acknowledged.
    pub is_acknowledged: bool,
    /// One was sent whose outcome is not known, or was acknowledged.
    pub may_exist: bool,
    /// The choice that was acknowledged first.
    pub choice: Option<String>,
    /// Signals that were acknowledged.
    pub signals: BTreeSet<String>,
    pub is_cancelled: bool,
    /// Everything up to here was acknowledged or read.
    pub floor: Option<Position>,
    /// Its end, once somebody has seen it.
    pub end: Option<String>,
}

#[derive(Default)]
struct Inner {
    runs: BTreeMap<String, Known>,
    violations: Vec<String>,
    answers: BTreeMap<&'static str, u64>,
}

/// The history of one simulation.
pub struct History {
    inner: Mutex<Inner>,
    world: Arc<World>,
}

/// What held of a run when a question was asked: the answer must not lie behind it.
#[derive(Clone, Debug)]
pub struct Before {
    floor: Option<Position>,
    end: Option<String>,
}

impl History {
    pub fn new(world: Arc<World>) -> Self {
        Self { inner: Mutex::default(), world }
    }

    /// A promise is broken.
    pub fn violated(&self, what: String) {
        self.world.note(&format!("BROKEN: {what}"));
        let mut inner = self.inner.lock();
        // The first ones tell; what follows from them may be endless.
        if inner.violations.len() < VIOLATIONS_MAX && !inner.violations.contains(&what) {
            inner.violations.push(what);
        }
    }

    /// Whether any promise has been broken yet.
    pub fn is_broken(&self) -> bool {
        !self.inner.lock().violations.is_empty()
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner.lock().violations.clone()
    }

    /// Counts an answer by its kind.
    pub fn count(&self, what: &'static str) {
        *self.inner.lock().answers.entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.inner.lock().answers.clone()
    }

    pub fn runs(&self) -> BTreeMap<String, Known> {
        self.inner.lock().runs.clone()
    }

    /// A run is about to be submitted.
    pub fn begins(&self, id: &str, kind: Kind) {
        let known = Known {
            kind,
            is_acknowledged: false,
            may_exist: false,
            choice: None,
            signals: BTreeSet::new(),
            is_cancelled: false,
            floor: None,
            end: None,
        };
        self.inner.lock().runs.insert(id.to_owned(), known);
    }

    /// Changes what is known of a run.
    pub fn learn(&self, id: &str, learn: impl FnOnce(&mut Known)) {
        if let Some(known) = self.inner.lock().runs.get_mut(id) {
            learn(known);
        }
    }

    /// What holds before a question is asked.
    pub fn before(&self, id: &str) -> Before {
        let inner = self.inner.lock();
        let known = inner.runs.get(id);
        Before { floor: known.and_then(|k| k.floor), end: known.and_then(|k| k.end.clone()) }
    }

    /// An answer that reflects a run up to `position`.
    pub fn answered(&self, id: &str, before: &Before, position: Position) {
        if before.floor.is_some_and(|floor| position < floor) {
            let floor = before.floor;
            self.violated(format!("{id}: an answer of {position:?} after one of {floor:?}: it is stale"));
        }
        self.learn(id, |known| known.floor = known.floor.max(Some(position)));
    }

    /// A run was read.
    pub fn read(&self, id: &str, before: &Before, position: Position, status: &str, is_end: bool) {
        self.answered(id, before, position);
        if let Some(end) = before.end.as_deref().filter(|end| *end != status) {
            self.violated(format!("{id}: it had ended as {end} and is {status}"));
        }
        if is_end {
            self.learn(id, |known| {
                known.end.get_or_insert_with(|| status.to_owned());
            });
        }
    }

    /// There is no such run, it was said.
    pub fn not_found(&self, id: &str, before: &Before) {
        if before.floor.is_some() {
            self.violated(format!("{id}: it was acknowledged and is not found"));
        }
    }
}
