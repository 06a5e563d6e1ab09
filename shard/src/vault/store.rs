//! Where sealed secrets are kept: a seam, since the vault knows keys and nothing of replication.
//!
//! A store sees sealed JSON only. It is read as it is now (a value that was set and acknowledged is
//! seen by every node), and written by compare-and-set.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::batch::Position;
use crate::error::CallError;

/// A secret as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Changes with every change.
    pub revision: u64,
    /// JSON, sealed.
    pub body: String,
}

/// Why a store did not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// It has another revision by now; nothing was changed.
    Conflict,
    /// Anything else.
    Call(CallError),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// What a store answers, and a position of the system shard's log that it reflects.
pub type Answer<T> = BoxFuture<'static, Result<(T, Position), StoreError>>;

/// Sealed secrets by name, the same on every node.
pub trait SecretStore: Send + Sync + 'static {
    /// One of them.
    fn get(&self, name: &str) -> Answer<Option<Stored>>;
    /// All of them.
    fn list(&self) -> Answer<Vec<(String, Stored)>>;
    /// Puts one in the place of the revision expected; without one, where there is none.
    fn put(&self, name: &str, body: String, expected: Option<u64>) -> Answer<()>;
    /// Removes one of the revision expected.
    fn remove(&self, name: &str, expected: u64) -> Answer<()>;
}

/// A store in memory, for tests and simulations.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    revision: u64,
    by_name: BTreeMap<String, Stored>,
}

impl MemoryStore {
    /// Puts in what was sealed elsewhere.
    pub fn insert(&self, name: &str, body: &str) {
        let mut kept = self.inner.lock();
        kept.revision += 1;
        let stored = Stored { revision: kept.revision, body: body.to_owned() };
        kept.by_name.insert(name.to_owned(), stored);
    }

    /// Changes one of the revision expected.
    fn change(&self, name: &str, body: Option<String>, expected: Option<u64>) -> Answer<()> {
        let mut kept = self.inner.lock();
        let found = kept.by_name.get(name).map(|stored| stored.revision);
        if found != expected {
            return Box::pin(std::future::ready(Err(StoreError::Conflict)));
        }
        kept.revision += 1;
        let revision = kept.revision;
        match body {
            Some(body) => kept.by_name.insert(name.to_owned(), Stored { revision, body }),
            None => kept.by_name.remove(name),
        };
        Box::pin(std::future::ready(Ok(((), Position { term: 1, index: revision }))))
    }

    fn answer<T: Send + 'static>(&self, read: impl FnOnce(&Kept) -> T) -> Answer<T> {
        let kept = self.inner.lock();
        let position = Position { term: 1, index: kept.revision };
        Box::pin(std::future::ready(Ok((read(&kept), position))))
    }
}

impl SecretStore for MemoryStore {
    fn get(&self, name: &str) -> Answer<Option<Stored>> {
        self.answer(|kept| kept.by_name.get(name).cloned())
    }
    fn list(&self) -> Answer<Vec<(String, Stored)>> {
        let pairs = |kept: &Kept| kept.by_name.iter().map(|(name, at)| (name.clone(), at.clone())).collect();
        self.answer(pairs)
    }
    fn put(&self, name: &str, body: String, expected: Option<u64>) -> Answer<()> {
        self.change(name, Some(body), expected)
    }
    fn remove(&self, name: &str, expected: u64) -> Answer<()> {
        self.change(name, None, Some(expected))
    }
}
