//! Compiled definitions by their exact text, so that a definition sent a million times is
//! compiled once. Bounded in entries and bytes, the oldest out first; holds valid ones only.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use opcode_engine::Invalid;
use opcode_engine::definition::{Definition, Plugins};

use crate::state::RouterState;
use crate::strict;

/// Definitions held at most.
const ENTRIES_MAX: usize = 1024;
/// Bytes of text held at most; compiled, a definition is several times its text.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Texts from this size on are compiled on a thread of their own, off the runtime's.
const INLINE_BYTES_MAX: usize = 32 * 1024;

/// The cache. Keyed by the whole text: a hash that two texts could share is never trusted.
#[derive(Default)]
pub(crate) struct DefinitionCache {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_text: HashMap<Arc<str>, Known>,
    by_age: VecDeque<Arc<str>>,
    bytes: usize,
}

#[derive(Clone)]
struct Known {
    definition: Arc<Definition>,
    /// Whether it may be accepted is asked each time, since plugins come and go.
    wants_plugins: bool,
}

impl DefinitionCache {
    /// The definition of this text, compiled now unless it was before. Pointers of problems start
    /// at the text's root.
    pub(crate) async fn compile(&self, state: &RouterState, text: &str) -> Result<Arc<Definition>, Invalid> {
        if let Some(known) = self.known(text).filter(|known| !known.wants_plugins) {
            return Ok(known.definition);
        }
        let text: Arc<str> = text.into();
        let definition = Arc::new(parse(state, Arc::clone(&text)).await?);
        self.lock().insert(text, Arc::clone(&definition));
        Ok(definition)
    }

    /// The definition of a text that was accepted before, when other rules may have held, and other
    /// plugins were there.
    pub(crate) async fn compile_stored(&self, text: &str) -> Result<Arc<Definition>, Invalid> {
        if let Some(known) = self.known(text) {
            return Ok(known.definition);
        }
        let text: Arc<str> = text.into();
        match parse_off(Arc::clone(&text), None).await {
            Ok(definition) => {
                let definition = Arc::new(definition);
                self.lock().insert(text, Arc::clone(&definition));
                Ok(definition)
            }
            Err(_refused_now) => Definition::parse_stored(&text).map(Arc::new),
        }
    }

    fn known(&self, text: &str) -> Option<Known> {
        self.lock().by_text.get(text).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nothing panics while it holds the cache")
    }
}

/// Parses a definition or template file; duplicate keys are problems too. Which plugins there are is
/// asked only when an action is not one of ours.
pub(crate) async fn parse(state: &RouterState, text: Arc<str>) -> Result<Definition, Invalid> {
    let invalid = match parse_off(text.clone(), Some(Vec::new())).await {
        Err(invalid) if invalid.problems.iter().any(|p| p.pointer.ends_with("/action")) => invalid,
        parsed => return parsed,
    };
    match crate::plugins::namespaces(state).await {
        Ok(namespaces) if !namespaces.is_empty() => parse_off(text, Some(namespaces)).await,
        Ok(_) | Err(_) => Err(invalid),
    }
}

/// The same where plugins bring these namespaces; none: any.
async fn parse_off(text: Arc<str>, plugins: Option<Vec<Arc<str>>>) -> Result<Definition, Invalid> {
    let text_bytes = text.len();
    let parse = move || parse_now(&text, plugins.as_deref().map_or(Plugins::Any, Plugins::Of));
    if text_bytes <= INLINE_BYTES_MAX {
        return parse();
    }
    tokio::task::spawn_blocking(parse).await.expect("compiling does not panic")
}

fn parse_now(text: &str, plugins: Plugins<'_>) -> Result<Definition, Invalid> {
    let duplicates = strict::duplicate_keys(text);
    match (Definition::parse_with(text, plugins), duplicates.is_empty()) {
        (Ok(definition), true) => Ok(definition),
        (Ok(_), false) => Err(Invalid { code: opcode_engine::Code::ValidationError, problems: duplicates }),
        (Err(mut invalid), _) => {
            let known = |p: &opcode_engine::Problem| invalid.problems.iter().any(|q| q.pointer == p.pointer);
            let new: Vec<_> = duplicates.into_iter().filter(|p| !known(p)).collect();
            invalid.problems.extend(new);
            Err(invalid)
        }
    }
}

impl Held {
    fn insert(&mut self, text: Arc<str>, definition: Arc<Definition>) {
        self.bytes += text.len();
        let wants_plugins = !definition.plugin_namespaces().is_empty();
        if let Some(_raced) = self.by_text.insert(Arc::clone(&text), Known { definition, wants_plugins }) {
            self.bytes -= text.len();
            return;
        }
        self.by_age.push_back(text);
        while self.by_age.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.by_age.pop_front() else { break };
            self.by_text.remove(&oldest);
            self.bytes -= oldest.len();
        }
    }
}
