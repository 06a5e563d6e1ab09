//! What is read and written of plugins.

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// An MCP server that nodes run, and whose tools are actions.
#[derive(ToSchema)]
pub struct PluginRequest {
    /// `[A-Za-z0-9_-]{1,64}`.
    pub name: String,
    /// A program that speaks MCP on its stdin and stdout: its path, or its name in `PATH`.
    pub command: String,
    pub args: Option<Vec<String>>,
    /// Variables; a value may name secrets, `${{secrets.KEY}}`.
    pub env: Option<BTreeMap<String, String>>,
    /// Its tools are actions `NAMESPACE.tool`; the name without it.
    pub namespace: Option<String>,
    /// `always` (default) or `never`.
    pub restart: Option<String>,
    /// Longest time of a call whose step has none, `30s`.
    pub timeout: Option<String>,
}

#[derive(ToSchema)]
pub struct Plugin {
    pub name: String,
    pub namespace: String,
    pub command: String,
    pub args: Vec<String>,
    /// Values are shown where they name a secret and nothing else.
    pub env: BTreeMap<String, String>,
    pub restart: String,
    pub timeout: Option<String>,
    pub created_at: String,
    /// Those that some node has found.
    pub tools: Vec<PluginTool>,
    pub nodes: Vec<PluginNode>,
}

#[derive(ToSchema)]
pub struct PluginTool {
    pub action: String,
    pub about: String,
}

/// How a plugin is doing on a node.
#[derive(ToSchema)]
pub struct PluginNode {
    pub node_id: String,
    /// `starting`, `ready`, `failed`, or `unknown` when the node does not say.
    pub status: String,
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    pub last_error: Option<String>,
    pub tools: u64,
}

#[derive(ToSchema)]
pub struct PluginList {
    pub items: Vec<Plugin>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct PluginRemoved {
    pub name: String,
    pub removed: bool,
}
