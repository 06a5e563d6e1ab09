//! Compiled definitions of a node, by hash: a bounded cache, since they can be compiled again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use opcode_engine::Invalid;
use opcode_engine::definition::Definition;
use opcode_engine::event::Event;
use opcode_engine::ids::DefinitionHash;
use opcode_engine::run::Run;
use parking_lot::Mutex;

use crate::error::ShardError;
use crate::store::{Store, StoredRun};

/// Definitions kept compiled.
const DEFINITIONS_MAX: usize = 1_024;

/// The cache; first in, first out.
#[derive(Default)]
pub struct Definitions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_hash: HashMap<DefinitionHash, Arc<Definition>>,
    order: VecDeque<DefinitionHash>,
}

impl Definitions {
    /// The definition, if it is compiled.
    pub fn get(&self, hash: DefinitionHash) -> Option<Arc<Definition>> {
        self.inner.lock().by_hash.get(&hash).cloned()
    }

    /// Keeps a definition.
    pub fn insert(&self, definition: Arc<Definition>) {
        let mut inner = self.inner.lock();
        let hash = definition.hash;
        if inner.by_hash.insert(hash, definition).is_none() {
            inner.order.push_back(hash);
            if inner.order.len() > DEFINITIONS_MAX
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.by_hash.remove(&oldest);
            }
        }
    }

    /// A definition that was accepted before, from its text, compiled unless it is at hand; the error
    /// says what is wrong.
    pub fn compiled(&self, source: &str) -> Result<Arc<Definition>, Box<Invalid>> {
        let definition = Arc::new(Definition::parse_stored(source).map_err(Box::new)?);
        match self.get(definition.hash) {
            Some(known) => Ok(known),
            None => {
                self.insert(definition.clone());
                Ok(definition)
            }
        }
    }

    /// The definition, compiled from the tables when need be.
    async fn load(&self, store: &Store, hash: DefinitionHash) -> Result<Arc<Definition>, ShardError> {
        let source = store.definition(hash).await?.ok_or_else(|| {
            ShardError::Damaged(format!("definition {hash} is named by a run and not stored"))
        })?;
        let definition = Definition::parse_stored(&source).map_err(|invalid| {
            ShardError::Damaged(format!(
                "stored definition {hash} no longer compiles: {:?}",
                invalid.problems
            ))
        })?;
        if definition.hash != hash {
            return Err(ShardError::Damaged(format!("what is stored as definition {hash} is another")));
        }
        let definition = Arc::new(definition);
        self.insert(definition.clone());
        Ok(definition)
    }

    /// Replays a stored run.
    pub(crate) async fn replay(&self, store: &Store, stored: StoredRun) -> Result<Run, ShardError> {
        let damaged = |why: String| ShardError::Damaged(format!("workflow {}: {why}", stored.id));
        let events: Vec<Event> =
            stored.events.iter().map(|e| e.decode()).collect::<Result<_, _>>().map_err(damaged)?;
        // Pinned here, so that a small cache cannot evict one definition of a run while another
        // is being fetched.
        let mut pinned: HashMap<DefinitionHash, Arc<Definition>> = HashMap::new();
        let mut tried: HashSet<DefinitionHash> = HashSet::new();
        loop {
            let mut missing = None;
            let result = Run::replay(stored.no, stored.id.clone(), events.iter().cloned(), &mut |hash| {
                let found = pinned.get(&hash).cloned().or_else(|| self.get(hash));
                if found.is_none() {
                    missing = Some(hash);
                }
                found
            });
            match (result, missing) {
                (Ok(run), _) => return Ok(run),
                (Err(_), Some(hash)) if tried.insert(hash) => {
                    pinned.insert(hash, self.load(store, hash).await?);
                }
                (Err(why), _) => return Err(damaged(why)),
            }
        }
    }
}
