//! Who calls, and what he may: bearer tokens, from a file of the node ([`file`]) or kept by the
//! cluster ([`tokens`]), with scopes ([`scope`]).
//!
//! Where the listener is on loopback and the node has no file of tokens, a caller without a token may
//! do everything; one that shows a token of the cluster is held to it even there. A token goes over
//! HTTP as it is: beyond a network that is trusted, a proxy has to speak TLS in front of the node.

pub(crate) mod file;
pub(crate) mod scope;
pub(crate) mod tokens;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use opcode_engine::namespace::Namespace;
use opcode_shard::clock::Clock;

use self::scope::{Scope, asked_for};
use self::tokens::{Kept, parts};
use crate::error::ApiError;
use crate::namespace;
use crate::state::RouterState;

/// What anybody may ask: whether the node is there, and how to talk to it.
const OPEN: &[&str] = &["/healthz", "/readyz", "/openapi.json"];

/// Whoever has made a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The token that was shown; none when its bearer may do everything.
    token: Option<Arc<Kept>>,
    /// Where it asks for things.
    namespace: Namespace,
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
        match (self.agent_id(), named) {
            (Some(own), Some(named)) if *own != named => {
                Err(ApiError::forbidden(format!("the token is that of the agent `{own}`, and of no other")))
            }
            (Some(own), _) => Ok(Some(own.clone())),
            (None, named) => Ok(named),
        }
    }
}

/// The layer.
pub(crate) async fn authenticate(
    State(state): State<RouterState>,
    mut request: Request,
    next: Next,
) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let caller = match identify(&state, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return refused(error),
    };
    if let Err(error) = caller.may(asked_for(request.method(), request.uri().path())) {
        return error.into_response();
    }
    let (headers, method, path) = (request.headers(), request.method(), request.uri().path());
    let caller = match namespace::enter(&state, caller, headers, method, path).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

async fn identify(state: &RouterState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let shown = bearer(headers);
    if let (Some(tokens), Some(token)) = (state.tokens(), shown)
        && tokens.contains(token)
    {
        return Ok(Caller::default());
    }
    if let Some((id, secret)) = shown.and_then(parts) {
        let now = Clock::default().now();
        return match state.known_tokens().check(state, id, secret, now).await? {
            Some(kept) => Ok(Caller { token: Some(kept), ..Caller::default() }),
            None => Err(ApiError::unauthenticated("this cluster does not know the token, or it has expired")),
        };
    }
    match (state.listener_is_loopback(), shown) {
        (true, _) => Ok(Caller::default()),
        (false, Some(_)) => Err(ApiError::unauthenticated("this node does not know the token")),
        (false, None) => Err(ApiError::unauthenticated("this node asks for `Authorization: Bearer TOKEN`")),
    }
}

fn refused(error: ApiError) -> Response {
    let asks = error.status() == axum::http::StatusCode::UNAUTHORIZED;
    let mut response = error.into_response();
    if asks {
        let challenge = HeaderValue::from_static("Bearer realm=\"opcode\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
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
