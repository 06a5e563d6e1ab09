//! Who calls, and what he may: bearer tokens, from a file of the node ([`file`]) or kept by the
//! cluster ([`tokens`]), with scopes ([`scope`]), and how often ([`limit`]).
//!
//! Where the listener is on loopback and the node has no file of tokens, a caller without a token may
//! do everything; one that shows a token of the cluster is held to it even there. A token goes over
//! HTTP as it is: beyond a network that is trusted, the node has to speak TLS, or a proxy before it.

pub(crate) mod file;
pub(crate) mod limit;
pub(crate) mod remote;
pub(crate) mod scope;
pub(crate) mod tokens;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use opcode_engine::namespace::Namespace;
use opcode_shard::clock::Clock;

use self::limit::Counted;
use self::remote::remote_of;
use self::scope::{Scope, asked_for};
use self::tokens::{Kept, parts};
use crate::audit::Noted;
use crate::error::ApiError;
use crate::manual;
use crate::namespace;
use crate::state::RouterState;

/// What anybody may ask: whether the node is there, and how to talk to it.
const OPEN: &[&str] = &["/healthz", "/readyz", "/openapi.json"];

/// Marks a request that another has been counted for, which it is a part of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IsPart;

/// Whoever has made a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The token that was shown; none when its bearer may do everything.
    token: Option<Arc<Kept>>,
    /// Where it asks for things.
    namespace: Namespace,
    /// Which one of all tokens it is.
    key: Option<Arc<str>>,
    /// What the audit log is told of the request.
    noted: Option<Arc<Noted>>,
}

impl Caller {
    /// The agent that the token is for.
    pub(crate) fn agent_id(&self) -> Option<&Arc<str>> {
        self.token.as_ref()?.agent_id.as_ref()
    }

    /// Where the request is made: what it names is of this namespace.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The one namespace that the token is for.
    pub(crate) fn confined_to(&self) -> Option<&Namespace> {
        self.token.as_ref()?.namespace.as_ref()
    }

    /// The caller where it names a namespace; another than its token's is refused.
    pub(crate) fn within(self, named: Option<Namespace>) -> Result<Self, ApiError> {
        let namespace = match (self.confined_to(), named) {
            (Some(own), Some(named)) if *own != named => {
                let detail = format!("the token is confined to the namespace `{own}`, and to no other");
                return Err(ApiError::forbidden(detail));
            }
            (Some(own), _) => own.clone(),
            (None, named) => named.unwrap_or_default(),
        };
        Ok(Self { namespace, ..self })
    }

    /// Refuses what asks for one of these scopes, when the token has none of them.
    pub(crate) fn may(&self, scopes: &[Scope]) -> Result<(), ApiError> {
        let Some(token) = &self.token else { return Ok(()) };
        let has = |scope: &Scope| token.scopes.contains(scope);
        if scopes.is_empty() || has(&Scope::Admin) || scopes.iter().any(has) {
            return Ok(());
        }
        let names =
            |scopes: &[Scope]| scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ");
        let asked =
            scopes.iter().map(|scope| format!("`{}`", scope.as_str())).collect::<Vec<_>>().join(" or ");
        let detail = format!("this call asks for the scope {asked}; the token has: {}", names(&token.scopes));
        Err(ApiError::forbidden(detail))
    }

    /// The agent that a request is made for: the token's, if it is one's; another is refused.
    pub(crate) fn speaks_for(&self, named: Option<Arc<str>>) -> Result<Option<Arc<str>>, ApiError> {
        let agent_id = match (self.agent_id(), named) {
            (Some(own), Some(named)) if *own != named => {
                let detail = format!("the token is that of the agent `{own}`, and of no other");
                return Err(ApiError::forbidden(detail));
            }
            (Some(own), _) => Some(own.clone()),
            (None, named) => named,
        };
        if let (Some(noted), Some(agent_id)) = (&self.noted, &agent_id) {
            noted.agent(agent_id);
        }
        Ok(agent_id)
    }

    /// Has the audit log say how many items the request has.
    pub(crate) fn note_items(&self, items: usize) {
        if let Some(noted) = &self.noted {
            noted.items(items);
        }
    }

    /// Counts the request; none when nothing limits it.
    fn count(&self, state: &RouterState, request: &Request) -> Option<Counted> {
        // What a tool of MCP asks for is a part of its call; and replicas ask again and again.
        let is_exempt =
            request.extensions().get::<IsPart>().is_some() || request.uri().path().starts_with("/v1/shards/");
        let own = self.token.as_ref().and_then(|token| token.rate_limit);
        let from = remote_of(request).map(|addr| addr.ip());
        if is_exempt { None } else { state.limits().count(self.key.as_ref(), own, from) }
    }
}

/// The layer.
pub(crate) async fn authenticate(
    State(state): State<RouterState>,
    mut request: Request,
    next: Next,
) -> Response {
    if OPEN.contains(&request.uri().path()) || manual::is_open(request.uri().path()) {
        return next.run(request).await;
    }
    let noted = request.extensions().get::<Arc<Noted>>().cloned();
    let from = remote_of(&request).map(|addr| addr.ip());
    let caller = match identify(&state, request.headers(), from, noted).await {
        Ok(caller) => caller,
        Err(error) => return refused(&state, error, from),
    };
    let counted = caller.count(&state, &request);
    let refusal = counted.as_ref().and_then(Counted::refusal);
    let (headers, method, path) = (request.headers(), request.method(), request.uri().path());
    let admitted = match refusal {
        Some(refusal) => Err(refusal),
        None => admitted(&state, caller, headers, method, path).await,
    };
    let mut response = match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    if let Some(counted) = counted {
        counted.tell(response.headers_mut());
    }
    response
}

/// The caller in the namespace of its request, if it may make that.
async fn admitted(
    state: &RouterState,
    caller: Caller,
    headers: &HeaderMap,
    method: &Method,
    path: &str,
) -> Result<Caller, ApiError> {
    caller.may(asked_for(method, path))?;
    let caller = namespace::enter(state, caller, headers, method, path).await?;
    if let Some(noted) = &caller.noted {
        noted.namespace(caller.namespace());
    }
    Ok(caller)
}

async fn identify(
    state: &RouterState,
    headers: &HeaderMap,
    from: Option<IpAddr>,
    noted: Option<Arc<Noted>>,
) -> Result<Caller, ApiError> {
    let shown = bearer(headers);
    if let (Some(tokens), Some(token)) = (state.tokens(), shown)
        && let Some(listed) = tokens.find(token)
    {
        if let Some(noted) = &noted {
            noted.token(None, listed.name.clone());
        }
        let key = Some(Arc::clone(&listed.place));
        return Ok(Caller { key, noted, ..Caller::default() });
    }
    if let Some((id, secret)) = shown.and_then(parts) {
        let now = Clock::default().now();
        let may_ask = || state.limits().may_try(from);
        let Some(kept) = state.known_tokens().check(state, (id, secret), now, may_ask).await? else {
            let detail = "this cluster does not know the token, or it has expired";
            return Err(ApiError::unauthenticated(detail));
        };
        let id: Arc<str> = id.into();
        if let Some(noted) = &noted {
            noted.token(Some(Arc::clone(&id)), kept.name.as_deref().map(Arc::from));
        }
        return Ok(Caller { token: Some(kept), key: Some(id), noted, ..Caller::default() });
    }
    match (state.listener_is_loopback(), shown) {
        (true, _) => Ok(Caller { noted, ..Caller::default() }),
        (false, Some(_)) => Err(ApiError::unauthenticated("this node does not know the token")),
        (false, None) => Err(ApiError::unauthenticated("this node asks for `Authorization: Bearer TOKEN`")),
    }
}

/// Refuses a caller who is not known. From where that comes too often, no more is said of the token.
fn refused(state: &RouterState, error: ApiError, from: Option<IpAddr>) -> Response {
    if error.status() != StatusCode::UNAUTHORIZED {
        return error.into_response();
    }
    if let Some(too_many) = state.limits().failed(from).refusal() {
        return too_many.into_response();
    }
    let mut response = error.into_response();
    let challenge = HeaderValue::from_static("Bearer realm=\"opcode\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// The token that a request shows; none when it shows none, or several.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_header_with_the_scheme_is_taken() {
        let shown = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(shown(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(shown(&["bearer abc"]).as_deref(), Some("abc"));
        for none in [&[][..], &["abc"], &["Basic abc"], &["Bearer abc", "Bearer abc"]] {
            assert_eq!(shown(none), None, "{none:?}");
        }
    }
}
