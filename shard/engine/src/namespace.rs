//! Namespaces: in which of them a name stands.
//!
//! What is kept of a namespace is kept under `NAMESPACE/NAME`: runs by their ids, templates,
//! schedules, secrets and pauses by their names. No name that a client may give has a `/`, so no two
//! are ever taken for each other; what is of the namespace `default` is kept under its bare name, and
//! so is all that was there before there were others. A rule of a workflow never depends on it: a run
//! calls itself, its parent and its children by what their namespace calls them ([`local`]).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The namespace that is always there.
pub const DEFAULT: &str = "default";
/// Longest name of a namespace, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 63;
/// What stands between a namespace and a name of it.
pub const SEPARATOR: char = '/';
/// The character after it.
const BEHIND_SEPARATOR: char = '0';

/// A namespace: `[a-z0-9][a-z0-9-]{0,62}`. `default` takes no memory, and costs none to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Option<Arc<str>>);

impl Namespace {
    /// Parses a name from outside; the error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == DEFAULT {
            return Ok(Self::default());
        }
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty()
            || text.len() > NAMESPACE_BYTES_MAX
            || text.starts_with('-')
            || !text.bytes().all(ok)
        {
            return Err(format!(
                "a namespace's name is 1 to {NAMESPACE_BYTES_MAX} characters of a-z 0-9 -, the first no -"
            ));
        }
        Ok(Self(Some(text.into())))
    }

    /// The namespace of what is kept under this name.
    pub fn of(kept: &str) -> Self {
        Self(kept.split_once(SEPARATOR).map(|(namespace, _)| namespace.into()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT)
    }

    /// Whether it is the one that is always there.
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }

    /// Under which name is kept what callers in this namespace call `name`; none when that could be
    /// something of another one: it is the name of nothing.
    pub fn qualify<'n>(&self, name: impl Into<Cow<'n, str>>) -> Option<Cow<'n, str>> {
        let name = name.into();
        if name.contains(SEPARATOR) {
            return None;
        }
        Some(match &self.0 {
            None => name,
            Some(namespace) => format!("{namespace}{SEPARATOR}{name}").into(),
        })
    }

    /// Whether what is kept under this name is of this namespace.
    pub fn owns(&self, kept: &str) -> bool {
        kept.split_once(SEPARATOR).map(|(namespace, _)| namespace) == self.0.as_deref()
    }

    /// What all names begin with that are kept of this namespace, and the first text behind them all;
    /// none for `default`, whose names stand between the others'.
    pub fn range(&self) -> Option<(String, String)> {
        let namespace = self.0.as_deref()?;
        Some((format!("{namespace}{SEPARATOR}"), format!("{namespace}{BEHIND_SEPARATOR}")))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Namespace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The namespace and the name of what is kept under this name; none when nothing is ever kept so.
pub fn split(kept: &str) -> Option<(Namespace, &str)> {
    let Some((namespace, name)) = kept.split_once(SEPARATOR) else {
        return Some((Namespace::default(), kept));
    };
    let namespace = Namespace::parse(namespace).ok()?;
    (!namespace.is_default() && !name.contains(SEPARATOR)).then_some((namespace, name))
}

/// What its own namespace calls what is kept under this name.
pub fn local(kept: &str) -> &str {
    kept.split_once(SEPARATOR).map_or(kept, |(_, name)| name)
}

/// The same of a text that is owned.
pub fn into_local(kept: String) -> String {
    match kept.split_once(SEPARATOR) {
        None => kept,
        Some((_, name)) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_strict() {
        for name in ["a", "0", "team-a", "a--b", "a-", &"x".repeat(63)] {
            let namespace = Namespace::parse(name).unwrap();
            assert_eq!((namespace.as_str(), namespace.is_default()), (name, false));
        }
        assert_eq!(Namespace::parse("default"), Ok(Namespace::default()));
        let long = "x".repeat(64);
        for wrong in ["", "-a", "A", "a_b", "a.b", "..", "../a", "a/b", "a%2fb", "a b", "é", "a\0", &long] {
            assert!(Namespace::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_kept_is_of_one_namespace() {
        let (default, team) = (Namespace::default(), Namespace::parse("team").unwrap());
        assert_eq!(default.qualify("x").as_deref(), Some("x"));
        assert_eq!(team.qualify("x").as_deref(), Some("team/x"));
        assert_eq!((default.qualify("team/x"), team.qualify("../x")), (None, None));
        for (namespace, kept) in [(&default, "x"), (&team, "team/x")] {
            assert_eq!((&Namespace::of(kept), local(kept)), (namespace, "x"));
            assert_eq!(into_local(kept.to_owned()), "x");
            assert!(namespace.owns(kept));
        }
        assert_eq!((split("x"), split("team/x")), (Some((default.clone(), "x")), Some((team.clone(), "x"))));
        assert!(["default/x", "../x", "/x", "team/a/b", "Team/x"].iter().all(|kept| split(kept).is_none()));
        assert!(!default.owns("team/x") && !team.owns("x") && !team.owns("team2/x"));
    }

    #[test]
    fn a_range_holds_all_of_one_namespace_and_nothing_else() {
        let (from, to) = Namespace::parse("team").unwrap().range().unwrap();
        let is_in = |kept: &str| *from <= *kept && *kept < *to;
        assert!(["team/", "team/-", "team/x", "team/\u{10ffff}"].into_iter().all(is_in));
        assert!(!["team", "team-", "team-/x", "team0/x", "tea/x", "x"].into_iter().any(is_in));
        assert_eq!(Namespace::default().range(), None);
    }
}
