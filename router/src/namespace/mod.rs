//! In which namespace a request is made, and whether there is such a one.
//!
//! It is the token's, if that is confined to one; else the header's, [`HEADER`]; else `default`. From
//! there on a handler names what it asks for by [`Namespace::qualify`] and `WorkflowId::in_namespace`,
//! and shows what it is told by `local`: another namespace's runs, templates, schedules and secrets have
//! names that it cannot say. What is there in `default` costs nothing of all this.
//!
//! A node asks the catalogue for a namespace's entry when it is first named, and again after [`FRESH`].
//! So a deletion first marks the entry as closing, waits until no node knows it otherwise, and only then
//! looks whether there is something in it. While the system shard does not answer, what is known counts
//! for [`STALE_MAX`]: what is made by a node that is cut off while a namespace is deleted stays, for whoever
//! makes the namespace anew.

mod names;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method};
use opcode_engine::Problem;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::Namespace;
use opcode_shard::CallError;
use opcode_shard::catalogue::{CatalogueEntry, ENTRIES_MAX, EntryKind, EntryPage};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::access::Caller;
use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::schedule::conflict;
use crate::state::RouterState;
pub(crate) use names::{event_data, local_run, qualified_line};

/// The header that names a namespace.
pub(crate) const HEADER: &str = "opcode-namespace";
/// How long what a node knows of a namespace counts without being asked for again.
pub(crate) const FRESH: Duration = Duration::from_secs(5);
/// The same while the system shard does not answer.
const STALE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for an entry, and entries asked for at a time: who names what is not there holds up nobody
/// else for long.
const ASK_MAX: Duration = Duration::from_secs(6);
/// The same for an entry that was known a while ago: a failover of the system shard holds its callers up no
/// longer.
const ASK_AGAIN_MAX: Duration = Duration::from_millis(500);
const ASKED_MAX: usize = 32;
/// Entries read at a time.
const PAGE_ENTRIES: usize = 1_000;

/// A namespace as the catalogue keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) created_at: Timestamp,
    /// It is being deleted, and takes no calls.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) closing: bool,
}

impl Kept {
    /// What an entry says.
    pub(crate) fn of(entry: &CatalogueEntry) -> Result<Self, ApiError> {
        let body = entry.body.as_deref().unwrap_or_default();
        serde_json::from_str(body).map_err(|error| {
            tracing::error!(namespace = %entry.key, %error, "a kept namespace cannot be read");
            ApiError::unavailable(Applied::No, format!("the namespace {} cannot be read", entry.key))
        })
    }
}

/// What a node knows of namespaces: when it last knew of each that it was there.
pub(crate) struct KnownNamespaces {
    known: Mutex<HashMap<Namespace, Instant>>,
    asked: Semaphore,
}

impl Default for KnownNamespaces {
    fn default() -> Self {
        Self { known: Mutex::default(), asked: Semaphore::new(ASKED_MAX) }
    }
}

impl KnownNamespaces {
    /// Forgets one that was deleted through this node.
    pub(crate) fn forget(&self, namespace: &Namespace) {
        self.known.lock().remove(namespace);
    }

    fn note(&self, namespace: &Namespace, since: Instant) {
        let mut known = self.known.lock();
        if known.len() >= ENTRIES_MAX {
            known.clear();
        }
        known.insert(namespace.clone(), since);
    }
}

/// The caller in the namespace that its request is in.
///
/// # Errors
/// The header is no namespace's name, or another's than the token's; the token is confined, and the call
/// is the whole cluster's; or there is no such namespace.
pub(crate) async fn enter(
    state: &RouterState,
    caller: Caller,
    headers: &HeaderMap,
    method: &Method,
    path: &str,
) -> Result<Caller, ApiError> {
    let caller = caller.within(named(headers)?)?;
    if let Some(own) = caller.confined_to()
        && !is_of_a_namespace(method, path)
    {
        let detail = format!("the token is confined to the namespace `{own}`, and this call is not");
        return Err(ApiError::forbidden(detail));
    }
    // A namespace that is to be made may be named already.
    if !path.starts_with("/v1/namespaces") {
        check(state, caller.namespace()).await?;
    }
    Ok(caller)
}

/// The namespace that the header names.
fn named(headers: &HeaderMap) -> Result<Option<Namespace>, ApiError> {
    let mut all = headers.get_all(HEADER).iter();
    let Some(only) = all.next() else { return Ok(None) };
    let wrong =
        |why: &str| Err(ApiError::malformed(Problem::at("", format!("the header Opcode-Namespace: {why}"))));
    if all.next().is_some() {
        return wrong("it is given more than once");
    }
    match Namespace::parse(only.to_str().unwrap_or_default()) {
        Ok(namespace) => Ok(Some(namespace)),
        Err(why) => wrong(&why),
    }
}

/// Whether a call touches nothing but what is of one namespace. What is not named here is the whole
/// cluster's, so that a call that is added is closed to tokens of a namespace until it is.
fn is_of_a_namespace(method: &Method, path: &str) -> bool {
    let mut segments = path.strip_prefix('/').unwrap_or_default().split('/');
    let (version, family) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    match (version, family) {
        ("mcp", "") => true,
        (
            "v1",
            "workflows" | "templates" | "schedules" | "decisions" | "agents" | "tokens" | "events"
            | "webhooks" | "retention" | "export" | "import" | "validate" | "actions",
        ) => true,
        // All secrets are sealed anew together.
        ("v1", "secrets") => *method != Method::POST,
        ("v1", "namespaces") => *method == Method::GET || *method == Method::HEAD,
        _ => false,
    }
}

/// Refuses a namespace that is not there.
pub(crate) async fn check(state: &RouterState, namespace: &Namespace) -> Result<(), ApiError> {
    if namespace.is_default() {
        return Ok(());
    }
    let known = state.namespaces().known.lock().get(namespace).copied();
    if known.is_some_and(|since| since.elapsed() < FRESH) {
        return Ok(());
    }
    let was_known = known.is_some_and(|since| since.elapsed() < STALE_MAX);
    let ask_max = if was_known { ASK_AGAIN_MAX } else { ASK_MAX };
    // Before it is asked: the answer is at least so new.
    let since = Instant::now();
    let asked = async {
        let _place = state.namespaces().asked.acquire().await.ok()?;
        state.system().entry(EntryKind::Namespace, namespace.as_str().into()).await.ok()
    };
    let answered = tokio::time::timeout(ask_max, asked).await.ok().flatten();
    let Some(Seen { value: entry, .. }) = answered else {
        let unknown = "namespaces cannot be looked up now: the system shard does not answer";
        return if was_known { Ok(()) } else { Err(ApiError::unavailable(Applied::No, unknown)) };
    };
    let refused = match entry.as_ref().map(Kept::of).transpose()? {
        Some(Kept { closing: false, .. }) => {
            state.namespaces().note(namespace, since);
            return Ok(());
        }
        Some(Kept { closing: true, .. }) => conflict(format!(
            "the namespace `{namespace}` is being deleted; `opcode namespace create {namespace}` keeps it"
        )),
        None => missing(namespace),
    };
    state.namespaces().forget(namespace);
    Err(refused)
}

/// 404, with what to do.
pub(crate) fn missing(namespace: &Namespace) -> ApiError {
    ApiError::not_found(format!(
        "there is no namespace `{namespace}`: `opcode namespace create {namespace}` makes one \
         (PUT /v1/namespaces/{namespace})"
    ))
}

/// Under which name something is kept that is shared: its own, in `default`.
///
/// # Panics
/// The name has a `/`, which none has that was checked.
pub(crate) fn kept(namespace: &Namespace, name: &Arc<str>) -> Arc<str> {
    match namespace.qualify(&**name).expect("a name that was checked has no `/`") {
        Cow::Borrowed(_) => Arc::clone(name),
        Cow::Owned(name) => name.into(),
    }
}

/// The name that a filter looks for; one that nothing can have finds nothing, as it is.
pub(crate) fn sought(namespace: &Namespace, name: String) -> String {
    match namespace.qualify(&*name) {
        Some(Cow::Owned(kept)) => kept,
        Some(Cow::Borrowed(_)) | None => name,
    }
}

/// At most `limit` entries of a kind and of a namespace after a key, in the order of their keys.
pub(crate) async fn entries(
    state: &RouterState,
    kind: EntryKind,
    namespace: &Namespace,
    after: Option<Arc<str>>,
    limit: usize,
) -> Result<Seen<EntryPage>, CallError> {
    let Some((from, to)) = namespace.range() else {
        return entries_where(state, kind, after, limit, |entry| namespace.owns(&entry.key)).await;
    };
    let after = after.filter(|after| **after >= *from).unwrap_or_else(|| from.into());
    let mut seen = state.system().entries(kind, Some(after), limit).await?;
    let page = &mut seen.value;
    let own = page.entries.iter().take_while(|entry| *entry.key < *to).count();
    page.has_more &= own == page.entries.len();
    page.entries.truncate(own);
    Ok(seen)
}

/// The same of entries that are wanted for what they are: all are looked through.
pub(crate) async fn entries_where(
    state: &RouterState,
    kind: EntryKind,
    mut after: Option<Arc<str>>,
    limit: usize,
    is_wanted: impl Fn(&CatalogueEntry) -> bool,
) -> Result<Seen<EntryPage>, CallError> {
    let mut found = EntryPage::default();
    let mut first = None;
    loop {
        // One more than is wanted tells whether there are more.
        let at_a_time = if first.is_none() { limit + 1 } else { PAGE_ENTRIES };
        let Seen { value: page, position, .. } = state.system().entries(kind, after, at_a_time).await?;
        // Later pages reflect at least what the first one does.
        let position = *first.get_or_insert(position);
        after = page.entries.last().map(|entry| entry.key.clone());
        found.entries.extend(page.entries.into_iter().filter(&is_wanted));
        if found.entries.len() > limit || !page.has_more || after.is_none() {
            found.has_more = found.entries.len() > limit;
            found.entries.truncate(limit);
            return Ok(Seen { value: found, position, lag_ms: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_one_namespace_or_is_refused() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().expect("a header"));
            }
            named(&headers)
        };
        assert_eq!(read(&[]).expect("none"), None);
        assert_eq!(read(&["team-a"]).expect("a name").expect("one").as_str(), "team-a");
        assert!(read(&["default"]).expect("a name").expect("one").is_default());
        for wrong in [&[""][..], &["a", "a"], &["a,b"], &["../a"], &["a/b"], &["a%2Fb"], &["A"]] {
            assert_eq!(read(wrong).expect_err("refused").status(), 400, "{wrong:?}");
        }
    }

    #[test]
    fn calls_of_the_whole_cluster_are_closed_to_tokens_of_a_namespace() {
        let is_open = |method: &str, path: &str| is_of_a_namespace(&method.parse().expect("a method"), path);
        for (method, path) in [
            ("GET", "/v1/workflows"),
            ("POST", "/v1/workflows/batch"),
            ("DELETE", "/v1/workflows/x"),
            ("PUT", "/v1/secrets/rotate"),
            ("GET", "/v1/namespaces"),
            ("POST", "/v1/tokens"),
            ("GET", "/v1/events"),
            ("POST", "/v1/webhooks/x/test"),
            ("PUT", "/v1/retention/templates/x"),
            ("GET", "/v1/export"),
            ("POST", "/v1/import"),
            ("POST", "/mcp"),
        ] {
            assert!(is_open(method, path), "{method} {path}");
        }
        for (method, path) in [
            ("GET", "/v1/cluster"),
            ("POST", "/v1/cluster/rebalance"),
            ("POST", "/v1/sql"),
            ("GET", "/v1/shards/0/info"),
            ("POST", "/v1/secrets/rotate"),
            ("PUT", "/v1/namespaces/x"),
            ("DELETE", "/v1/namespaces/x"),
            ("GET", "/metrics"),
            ("GET", "/v1/audit"),
            ("GET", "/v1/plugins"),
            ("POST", "/v1/backup"),
            ("GET", "/v1/what-comes-next"),
            ("GET", "//v1/workflows"),
            ("GET", "/v1/workflows../cluster"),
        ] {
            assert!(!is_open(method, path), "{method} {path}");
        }
    }
}
