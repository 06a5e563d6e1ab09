//! The node's worker pool: a semaphore that all shards share. Waiting for it is back-pressure.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::actions::Actions;
use crate::vault::Vault;

/// Evaluations too costly for a loop that may run at a time.
const EVALUATIONS_MAX: usize = 4;

/// A right to run one step.
pub(crate) type Permit = OwnedSemaphorePermit;

/// The pool, the actions it runs, and the vault it takes secrets from. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    actions: Arc<Actions>,
    vault: Arc<Vault>,
    permits: Arc<Semaphore>,
    size: usize,
    evaluations: Arc<Semaphore>,
}

impl Workers {
    /// A pool of `size` steps at a time, without secrets.
    pub fn new(actions: Arc<Actions>, size: usize) -> Self {
        Self {
            actions,
            vault: Vault::closed(),
            permits: Arc::new(Semaphore::new(size.max(1))),
            size: size.max(1),
            evaluations: Arc::new(Semaphore::new(EVALUATIONS_MAX)),
        }
    }

    /// The same with the secrets of this vault.
    pub fn with_vault(self, vault: Arc<Vault>) -> Self {
        Self { vault, ..self }
    }

    /// The vault.
    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The actions.
    pub(crate) fn actions(&self) -> &Arc<Actions> {
        &self.actions
    }

    /// Steps that may run at a time.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Steps that run now.
    pub fn busy(&self) -> usize {
        self.size.saturating_sub(self.permits.available_permits())
    }

    /// Circuit breakers that refuse calls, and those that try one call at a time.
    pub fn breakers(&self) -> (usize, usize) {
        self.actions.breakers().open_and_half_open()
    }

    /// Waits for a place.
    pub(crate) async fn permit(&self) -> Permit {
        self.permits.clone().acquire_owned().await.expect("the pool is never closed")
    }

    /// A place, if there is one now.
    pub(crate) fn try_permit(&self) -> Option<Permit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Waits for a place among the evaluations.
    pub(crate) async fn evaluation(&self) -> Permit {
        self.evaluations.clone().acquire_owned().await.expect("the pool is never closed")
    }
}
