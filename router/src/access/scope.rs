//! What a token lets its bearer do, and what a call asks for.

use axum::http::Method;
use serde::{Deserialize, Serialize};

/// A kind of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// Whatever only reads.
    Read,
    /// Starts, signals, suspends, cancels runs.
    Run,
    /// Makes templates and schedules.
    Define,
    /// Resolves decisions.
    Decide,
    /// All of these, and deleting runs, backups, secrets, tokens and the cluster; reading the audit log.
    Admin,
}

impl Scope {
    pub(crate) const ALL: [Self; 5] = [Self::Read, Self::Run, Self::Define, Self::Decide, Self::Admin];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Define => "define",
            Self::Decide => "decide",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// The scopes of which a call asks for one; none when whoever is known may make it.
///
/// What is not named here asks for `admin`, so that a call that is added is closed until it is.
pub(super) fn asked_for(method: &Method, path: &str) -> &'static [Scope] {
    let mut segments = path.strip_prefix('/').unwrap_or_default().split('/');
    let (version, family) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    match (version, family) {
        // Each of its tools is a call of its own.
        ("mcp", "") => &[],
        ("v1", "tokens" | "secrets" | "audit" | "backup" | "webhooks") => &[Scope::Admin],
        _ if reads => &[Scope::Read],
        // Nothing is stored.
        ("v1", "validate") => &[],
        ("v1", "sql") => &[Scope::Read],
        // What the signal is decides which of the two.
        ("v1", "workflows") if last == "signals" => &[Scope::Run, Scope::Decide],
        // What is deleted can be asked nothing any more.
        ("v1", "workflows") if *method == Method::DELETE => &[Scope::Admin],
        ("v1", "workflows") => &[Scope::Run],
        ("v1", "schedules") if matches!(last, "trigger" | "backfill") => &[Scope::Run],
        ("v1", "templates" | "schedules") => &[Scope::Define],
        _ => &[Scope::Admin],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_asks_for_its_scope() {
        let asked = |method: &str, path: &str| {
            let scopes = asked_for(&method.parse().unwrap(), path);
            scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join("|")
        };
        for (method, path, scopes) in [
            ("GET", "/v1/workflows", "read"),
            ("HEAD", "/v1/workflows/x/events", "read"),
            ("GET", "/metrics", "read"),
            ("POST", "/v1/workflows", "run"),
            ("POST", "/v1/workflows/batch", "run"),
            ("POST", "/v1/workflows/x/cancel", "run"),
            ("DELETE", "/v1/workflows/x", "admin"),
            ("POST", "/v1/workflows/x/signals", "run|decide"),
            ("POST", "/v1/workflows/x/signals/", "run|decide"),
            ("POST", "/v1/templates", "define"),
            ("PATCH", "/v1/schedules/x", "define"),
            ("POST", "/v1/schedules/x/trigger", "run"),
            ("POST", "/v1/validate", ""),
            ("POST", "/mcp", ""),
            ("POST", "/v1/sql", "read"),
            ("GET", "/v1/secrets", "admin"),
            ("GET", "/v1/tokens", "admin"),
            ("GET", "/v1/backup/shards/0", "admin"),
            ("POST", "/v1/backup", "admin"),
            ("GET", "/v1/webhooks", "admin"),
            ("GET", "/v1/audit", "admin"),
            ("PUT", "/v1/secrets/x", "admin"),
            ("POST", "/v1/cluster/rebalance", "admin"),
            ("GET", "/v1/namespaces", "read"),
            ("PUT", "/v1/namespaces/x", "admin"),
            ("POST", "/v1/what-comes-next", "admin"),
            ("POST", "//v1/workflows", "admin"),
            ("GET", "/v1/export", "read"),
            ("POST", "/v1/import", "admin"),
            ("PUT", "/v1/retention/templates/x", "admin"),
        ] {
            assert_eq!(asked(method, path), scopes, "{method} {path}");
        }
    }
}
