//! What keeps a browser from being used against a node that asks for no token: the `Host` must
//! be the listener's own (DNS rebinding), and a request that changes something, or speaks MCP, must
//! not come from another site's page (`Origin`, `Sec-Fetch-Site`).

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use opcode_engine::Problem;

use crate::error::ApiError;
use crate::state::RouterState;

/// The layer.
pub(crate) async fn guard(State(state): State<RouterState>, request: Request, next: Next) -> Response {
    let refused = check(&state, &request);
    match refused {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(state: &RouterState, request: &Request) -> Result<(), ApiError> {
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(ApiError::malformed(Problem::at("", "the request has no Host, which HTTP/1.1 demands")));
    }
    if state.listener_is_loopback()
        && let Some(host) = host
        && !is_own_host(host, &state.node().addr)
    {
        return Err(ApiError::forbidden(format!(
            "the Host `{host}` is not this node's; ask for localhost or {}",
            state.node().addr
        )));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads && request.uri().path() != "/mcp" { Ok(()) } else { check_origin(request.headers(), host) }
}

fn check_origin(headers: &HeaderMap, host: Option<&str>) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value: &axum::http::HeaderValue| value.to_str().unwrap_or("?"));
    let refuse = || Err(ApiError::forbidden("a page of another site must not change anything here"));
    if let Some(origin) = text(header::ORIGIN) {
        let same = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"))
            .is_some_and(|authority| Some(authority) == host);
        return if same { Ok(()) } else { refuse() };
    }
    match headers.get("sec-fetch-site").map(|value| value.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => refuse(),
    }
}

/// Whether `host` (with or without a port) names a loopback address or the listener's own.
fn is_own_host(host: &str, addr: &str) -> bool {
    let name = without_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || name.eq_ignore_ascii_case(without_port(addr))
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_and_the_own_address_are_hosts() {
        let addr = "127.0.0.1:4100";
        for own in ["localhost", "LOCALHOST:4100", "127.0.0.1:9", "127.9.9.9", "[::1]:4100", "[::1]"] {
            assert!(is_own_host(own, addr), "{own}");
        }
        for other in
            ["evil.example", "evil.example:4100", "127.0.0.1.evil.example", "10.0.0.1", "localhost.x", ""]
        {
            assert!(!is_own_host(other, addr), "{other}");
        }
        assert!(is_own_host("node1:4100", "node1:4100"));
    }

    #[test]
    fn other_sites_change_nothing() {
        let check = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, axum::http::HeaderValue::from_static(value));
            check_origin(&headers, Some("127.0.0.1:4100")).is_ok()
        };
        assert!(check("origin", "http://127.0.0.1:4100"));
        assert!(!check("origin", "http://127.0.0.1:9999"));
        assert!(!check("origin", "https://evil.example"));
        assert!(!check("origin", "null"));
        assert!(check("sec-fetch-site", "same-origin"));
        assert!(!check("sec-fetch-site", "cross-site"));
        assert!(check("user-agent", "curl"));
    }
}
