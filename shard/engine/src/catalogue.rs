//! The actions that exist: names, params, and whether they are pure. Running them is the shard's.

/// One param of an action.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// JSON types it may have when it is written as a literal: `string`, `number`, `boolean`,
    /// `object`, `array`, `any`.
    pub types: &'static [&'static str],
    /// One line for people.
    pub about: &'static str,
}

/// One action.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// `fs.read`.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// No side effect, so it may run before its inputs are committed.
    pub is_pure: bool,
    /// What it takes; others are refused.
    pub params: &'static [Param],
    /// One line for people.
    pub about: &'static str,
}

/// Every action, sorted by name.
pub const ACTIONS: &[Action] = &[];

/// The action of this name or alias.
pub fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|a| a.name == name || a.aliases.contains(&name))
}
