//! Plugins: MCP servers that run as processes of this node and bring actions, `NAMESPACE.tool`.
//!
//! What is registered stands in the catalogue; every node that may ([`PluginHost::is_allowed`]) runs a
//! process of each, looks at the catalogue every [`LOOK_EVERY`], and at once when a step wants a
//! namespace that it does not know. So a run goes on wherever its shard is led. A plugin that is
//! removed may be called for as long on other nodes; a run whose plugin is gone fails its step with
//! `ACTION_UNAVAILABLE`, which is retried as the step says.

mod answer;
mod guarded;
mod process;
mod registered;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use opcode_engine::catalogue::plugin_action;
use opcode_engine::{Code, Fault, Problem};
use opcode_shard::actions::{Plugins, TIMEOUT_MS_DEFAULT, ToolAnswer, ToolCall};
use opcode_shard::catalogue::EntryKind;
use opcode_shard::isolation::Isolation;
use opcode_shard::vault::Vault;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::error::ApiError;
use crate::state::RouterState;
use process::{Called, Home, Process};
pub(crate) use registered::{Plugin, Registered, Restart, is_name};
pub(crate) use status::{State, Status, ToolInfo};

/// Plugins at most: each is a process on every node.
pub(crate) const PLUGINS_MAX: usize = 64;
/// How often the catalogue is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest wait for the catalogue.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The plugins of this node.
pub struct PluginHost {
    home: Arc<Home>,
    is_allowed: bool,
    /// By namespace.
    processes: Mutex<BTreeMap<Arc<str>, Process>>,
    look: Notify,
    looked: watch::Sender<Looked>,
}

/// What a node tells of its plugins.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told {
    is_allowed: bool,
    /// By name.
    statuses: HashMap<String, Status>,
}

impl Told {
    /// How a plugin is doing there.
    pub(crate) fn of(&self, name: &str) -> Status {
        match self.statuses.get(name) {
            Some(status) => status.clone(),
            None if self.is_allowed => Status::starting(),
            None => Status::not_there(State::Failed, PluginHost::off()),
        }
    }
}

/// Looks at the catalogue, by number.
#[derive(Clone, Copy, Default)]
struct Looked {
    /// The last that has begun, and the last that has ended.
    begun: u64,
    ended: u64,
    /// Whether that one could read it.
    is_read: bool,
}

impl PluginHost {
    /// Those of a node; it runs none unless `is_allowed`. Each has its folder beneath `scratch`.
    pub fn new(
        isolation: Arc<Isolation>,
        vault: Arc<Vault>,
        scratch: PathBuf,
        is_allowed: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            home: Arc::new(Home { isolation, vault, scratch }),
            is_allowed,
            processes: Mutex::default(),
            look: Notify::new(),
            looked: watch::Sender::default(),
        })
    }

    /// What confines them, and commands.
    pub fn isolation(&self) -> &Isolation {
        &self.home.isolation
    }

    pub(crate) fn is_allowed(&self) -> bool {
        self.is_allowed
    }

    /// Why a node runs none, and what to do.
    pub(crate) fn off() -> String {
        "this node runs no plugins, since they are programs: start it with --allow-plugins (allow_plugins)"
            .to_owned()
    }

    /// How all are doing here.
    pub(crate) fn here(&self) -> Told {
        let processes = self.processes.lock();
        let statuses = processes.values().map(|process| (process.plugin.name.to_string(), process.status()));
        Told { is_allowed: self.is_allowed, statuses: statuses.collect() }
    }

    /// The same for another node, which asks.
    pub fn told(&self) -> Vec<u8> {
        serde_json::to_vec(&self.here()).expect("a status is JSON")
    }

    /// Has the catalogue looked at now.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Starts what is new and ends what is no more. Of two with one namespace the earlier one counts.
    fn take(&self, mut plugins: Vec<Plugin>) {
        plugins.sort_by_key(|plugin| plugin.revision);
        let mut wanted: BTreeMap<Arc<str>, Plugin> = BTreeMap::new();
        for plugin in plugins {
            wanted.entry(plugin.registered.namespace.clone()).or_insert(plugin);
        }
        let mut processes = self.processes.lock();
        processes.retain(|namespace, process| wanted.get(namespace) == Some(&*process.plugin));
        for (namespace, plugin) in wanted {
            let home = self.home.clone();
            processes.entry(namespace).or_insert_with(|| Process::start(Arc::new(plugin), home));
        }
    }

    fn find<T>(&self, namespace: &str, work: impl FnOnce(&Process) -> T) -> Option<T> {
        self.processes.lock().get(namespace).map(work)
    }

    /// Waits until the catalogue has been looked at anew; whether it could be read.
    async fn looked(&self) -> bool {
        let mut looked = self.looked.subscribe();
        // One that is under way may have read what was there before.
        let begun = looked.borrow().begun;
        self.look();
        let anew = looked.wait_for(|looked| looked.ended > begun);
        matches!(tokio::time::timeout(LOOK_MAX, anew).await, Ok(Ok(seen)) if seen.is_read)
    }

    async fn run(self: Arc<Self>, call: ToolCall) -> ToolAnswer {
        let ToolCall { namespace, tool, arguments, idempotency_key, timeout } = call;
        let action = format!("{namespace}.{tool}");
        if !self.is_allowed {
            return unavailable(format!("{action}: {}", Self::off()));
        }
        let limit = |process: &Process| {
            let own = process.plugin.registered.timeout_ms().unwrap_or(TIMEOUT_MS_DEFAULT);
            (process.caller(), timeout.unwrap_or(Duration::from_millis(own)))
        };
        let found = match self.find(&namespace, limit) {
            Some(found) => Some(found),
            None if !self.looked().await => {
                return unavailable(format!("{action}: which plugins there are cannot be read now"));
            }
            None => self.find(&namespace, limit),
        };
        let Some((caller, limit)) = found else {
            let message = format!(
                "{action}: there is no plugin with the namespace {namespace} (any more): register it again \
                 (opcode plugin add), and retry the step"
            );
            return unavailable(message);
        };
        let Called { answered, mask } = caller.call(&tool, arguments, idempotency_key, limit).await;
        ToolAnswer { result: answered.result, is_outage: answered.is_outage, mask }
    }
}

fn unavailable(message: String) -> ToolAnswer {
    ToolAnswer { result: Err(Fault::new(Code::ActionUnavailable, message)), is_outage: false, mask: None }
}

/// The way of a node's steps to its plugins.
pub struct PluginDoor(pub Arc<PluginHost>);

impl Plugins for PluginDoor {
    fn call(&self, call: ToolCall) -> BoxFuture<'static, ToolAnswer> {
        Box::pin(self.0.clone().run(call))
    }
}

/// Keeps the plugins of a node as the catalogue has them, until the node stops.
pub async fn run_plugins(state: RouterState) {
    let host = state.plugins().clone();
    if !host.is_allowed {
        return;
    }
    tokio::select! {
        () = follow(&state, &host) => {}
        () = state.stopping() => {}
    }
    host.processes.lock().clear();
}

async fn follow(state: &RouterState, host: &PluginHost) {
    loop {
        host.looked.send_modify(|looked| looked.begun += 1);
        let found = tokio::time::timeout(LOOK_MAX, registered(state)).await;
        let is_read = match found {
            Ok(Ok(plugins)) => {
                host.take(plugins);
                true
            }
            // Those that run go on.
            Ok(Err(_)) | Err(_) => false,
        };
        host.looked.send_modify(|looked| (looked.ended, looked.is_read) = (looked.begun, is_read));
        // Between two looks it is nothing but late to hear of a plugin.
        let _ = tokio::time::timeout(LOOK_EVERY, host.look.notified()).await;
    }
}

/// All plugins that are registered and can be read.
pub(crate) async fn registered(state: &RouterState) -> Result<Vec<Plugin>, ApiError> {
    let page = state.system().entries(EntryKind::Plugin, None, PLUGINS_MAX).await?.value;
    Ok(page.entries.iter().filter_map(|entry| Plugin::of(entry).ok()).collect())
}

/// The namespaces that plugins bring.
pub(crate) async fn namespaces(state: &RouterState) -> Result<Vec<Arc<str>>, ApiError> {
    Ok(registered(state).await?.into_iter().map(|plugin| plugin.registered.namespace).collect())
}

/// Refuses a mutation of a run whose new steps want plugins that are not there.
pub(crate) async fn check_mutation(state: &RouterState, mutation: &Value) -> Result<(), ApiError> {
    let mut wanted = Vec::new();
    for place in ["steps", "step"] {
        collect(&mutation[place], &format!("/{place}"), &mut wanted);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let there = namespaces(state).await?;
    wanted.retain(|(_, namespace)| there.iter().all(|there| **there != **namespace));
    let problems: Vec<Problem> = wanted
        .into_iter()
        .map(|(pointer, namespace)| {
            Problem::at(
                pointer,
                format!("there is no such action: no plugin brings the namespace {namespace:?}"),
            )
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(crate::wire::invalid(problems)) }
}

/// The namespaces of plugins that steps in a value name, with where.
fn collect(value: &Value, pointer: &str, wanted: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let pointer = format!("{pointer}/{}", crate::strict::escaped(name));
                match (name.as_str(), field.as_str().and_then(plugin_action)) {
                    ("action", Some((namespace, _))) => wanted.push((pointer, namespace.to_owned())),
                    // What an action is given is its own.
                    ("params", _) => {}
                    _ => collect(field, &pointer, wanted),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &format!("{pointer}/{index}"), wanted);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_of_plugins_are_found_wherever_they_stand() {
        let steps = json!([{"id": "a", "action": "fs.read", "params": {"action": "no.step"}},
            {"id": "b", "type": "loop", "config": {"body": [{"id": "c", "action": "files.read"}]}}]);
        let mut wanted = Vec::new();
        collect(&steps, "/steps", &mut wanted);
        assert_eq!(wanted, [("/steps/1/config/body/0/action".to_owned(), "files".to_owned())]);
    }
}
