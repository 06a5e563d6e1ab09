//! A request for a page: who asks, for what, with which form, and the way from here to the contract.

use std::net::SocketAddr;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, Method, header};

use super::Console;
use super::contract::Instead;
use super::page::{Chrome, Nav};
use super::session::{THEME, TOKEN, cookie, namespace};
use crate::access::remote::remote_of;
use crate::error::ApiError;
use crate::incoming::{Incoming, percent_decoded};

/// Fields of one form or query at most.
const FIELDS_MAX: usize = 200;

/// A request for a page.
pub(super) struct Visit {
    pub(super) console: Console,
    pub(super) incoming: Incoming,
    /// The token that the browser keeps for the visitor.
    pub(super) token: Option<String>,
    /// The other end of its connection.
    pub(super) from: Option<SocketAddr>,
    query: Vec<(String, String)>,
    form: Vec<(String, String)>,
}

impl FromRequest<Console> for Visit {
    type Rejection = Instead;

    async fn from_request(request: Request, console: &Console) -> Result<Self, Instead> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && !is_of_ours(request.headers()) {
            let detail = "a change has to come from a page of this console: the request says of no page";
            return Err(ApiError::forbidden(detail).into());
        }
        let from = remote_of(&request);
        let incoming = Incoming::from_request(request, &console.state).await?;
        let token = cookie(&incoming.headers, TOKEN).map(str::to_owned);
        let query = fields(incoming.uri.query().unwrap_or_default());
        let is_form = incoming.media_type() == "application/x-www-form-urlencoded";
        let form = if is_form { fields(incoming.text()?) } else { Vec::new() };
        Ok(Self { console: console.clone(), incoming, token, from, query, form })
    }
}

/// Whether a browser says that a request comes from a page of the address that it goes to. That
/// `Origin` is this very address, the guard has made sure of.
fn is_of_ours(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"same-origin")
}

impl Visit {
    /// The first value of a query's parameter, unless that is empty.
    pub(super) fn asked(&self, name: &'static str) -> Option<&str> {
        self.all_asked(name).next()
    }

    /// All values of a query's parameter that are not empty.
    pub(super) fn all_asked(&self, name: &'static str) -> impl Iterator<Item = &str> {
        values(&self.query, name)
    }

    /// The first value of a form's field, unless that is empty.
    pub(super) fn field(&self, name: &'static str) -> Option<&str> {
        values(&self.form, name).next()
    }

    /// All values of a form's field that are not empty.
    pub(super) fn all_fields(&self, name: &'static str) -> impl Iterator<Item = &str> {
        values(&self.form, name)
    }

    /// Every field of the query again, encoded, but for some.
    pub(super) fn query_without(&self, dropped: &[&str]) -> String {
        let kept =
            self.query.iter().filter(|(name, value)| !dropped.contains(&name.as_str()) && !value.is_empty());
        let pairs: Vec<String> =
            kept.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        pairs.join("&")
    }

    /// A segment of the path, decoded; `/console/workflows/ID` has ID at 2.
    pub(super) fn segment(&self, index: usize) -> String {
        self.incoming.segment(index).unwrap_or_default()
    }

    /// What stands around a page.
    pub(super) fn chrome(&self, here: Nav, title: impl Into<String>) -> Chrome {
        let state = &self.console.state;
        Chrome {
            title: title.into(),
            here,
            namespace: namespace(&self.incoming.headers).map(str::to_owned),
            node: state.node().node_id.clone(),
            version: state.node().version.clone(),
            is_signed_in: self.token.is_some(),
            theme: match cookie(&self.incoming.headers, THEME) {
                Some("dark") => "dark",
                Some("light") => "light",
                Some(_) | None => "auto",
            },
            note: self.asked("note").and_then(super::page::note),
            url: self.incoming.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            stream: None,
            refresh_s: None,
        }
    }

    /// The address that the browser knows the node by, for commands to copy.
    pub(super) fn origin(&self) -> String {
        let host = self.incoming.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let scheme = if self.is_https() { "https" } else { "http" };
        format!("{scheme}://{}", host.unwrap_or(&self.console.state.node().addr))
    }

    /// Whether the node itself speaks TLS with browsers.
    pub(super) fn is_https(&self) -> bool {
        let settings = &self.console.state.node().settings;
        settings.iter().any(|[key, value, _]| key == "tls_cert" && value != "null")
    }
}

fn values<'v>(pairs: &'v [(String, String)], name: &'static str) -> impl Iterator<Item = &'v str> {
    let given = pairs.iter().filter(move |(key, value)| key == name && !value.trim().is_empty());
    given.map(|(_, value)| value.as_str())
}

/// The pairs of a query or form; what cannot be decoded counts for nothing. Line ends become those
/// that JSON and we write.
fn fields(text: &str) -> Vec<(String, String)> {
    let decoded =
        |part: &str| percent_decoded(&part.replace('+', " ")).map(|text| text.replace("\r\n", "\n"));
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .take(FIELDS_MAX)
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

/// A text as a part of a path or a query.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_browsers_write_them() {
        let pairs = fields("a=1+2&b=%7B%22x%22%3A%0D%0A1%7D&c&&=&d=%ff");
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, [("a", "1 2"), ("b", "{\"x\":\n1}"), ("c", ""), ("", "")]);
        let text = "é/ &=%";
        assert_eq!(percent_decoded(&encoded(text)).as_deref(), Some(text));
    }
}
