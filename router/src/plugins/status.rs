//! How a plugin is doing on one node, as nodes tell each other and the API shows.

use serde::{Deserialize, Serialize};

/// How far a plugin has come on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Starting,
    Ready,
    Failed,
    /// The node does not say.
    Unknown,
}

/// A tool, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToolInfo {
    pub(crate) name: String,
    pub(crate) about: String,
    /// Its params: name, whether it must be given, JSON type.
    pub(crate) params: Vec<(String, bool, String)>,
}

/// How a plugin is doing on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) state: State,
    pub(crate) pid: Option<u32>,
    /// How often it was started again.
    pub(crate) restarts: u64,
    pub(crate) last_error: Option<String>,
    /// Those that it had when it was last ready.
    pub(crate) tools: Vec<ToolInfo>,
}

impl Status {
    pub(crate) fn starting() -> Self {
        Self { state: State::Starting, pid: None, restarts: 0, last_error: None, tools: Vec::new() }
    }

    /// One that does not run, or of which nothing is known.
    pub(crate) fn not_there(state: State, why: String) -> Self {
        Self { state, last_error: Some(why), ..Self::starting() }
    }
}
