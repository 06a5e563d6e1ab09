//! The way from a page to the HTTP contract: a call goes in, and comes back as what it was answered
//! with, or as the page that says why not.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::header::InvalidHeaderValue;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt;

use super::page::{Nav, Refusal, html, redirect};
use super::session::namespace;
use super::visit::{Visit, encoded};
use crate::access::remote::Remote;
use crate::error::ApiError;

/// Largest answer that a page takes, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A page that cannot be shown: the one that stands in its place.
pub(super) struct Instead(pub(super) Box<Response>);

impl IntoResponse for Instead {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<ApiError> for Instead {
    fn from(error: ApiError) -> Self {
        Self(Box::new(error.into_response()))
    }
}

/// What a handler of a page gives.
pub(super) type Shown = Result<Response, Instead>;

/// A problem document, as far as pages show it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) title: String,
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) trace_id: String,
    pub(super) applied: Option<String>,
    pub(super) errors: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) pointer: String,
    pub(super) line: Option<u32>,
    pub(super) column: Option<u32>,
    pub(super) message: String,
}

/// A page of a list.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
    #[serde(default)]
    pub(super) next_cursor: Option<String>,
    #[serde(default)]
    pub(super) unreachable_shards: Vec<Unreachable>,
}

/// A shard that is missing in a list.
#[derive(Deserialize)]
pub(super) struct Unreachable {
    pub(super) shard: u32,
    pub(super) detail: String,
}

/// What a call was answered with.
pub(super) enum Answer {
    Done(Bytes),
    Refused(Problem),
}

impl Visit {
    /// Makes a call; the body of its answer is not read yet.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        accept: &str,
    ) -> Response {
        let mut headers = HeaderMap::new();
        // What cannot stand in a header is left out: it says nothing then.
        let mut set = |name: HeaderName, value: Result<HeaderValue, InvalidHeaderValue>| {
            value.map(|value| headers.insert(name, value)).is_ok()
        };
        set(header::HOST, HeaderValue::try_from(&self.console.state.node().addr));
        set(header::CONTENT_TYPE, HeaderValue::try_from("application/json"));
        set(header::ACCEPT, HeaderValue::try_from(accept));
        if let Some(token) = &self.token {
            set(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")));
        }
        if let Some(namespace) = namespace(&self.incoming.headers) {
            set(HeaderName::from_static("opcode-namespace"), HeaderValue::try_from(namespace));
        }
        // The page's trace goes on.
        let trace = format!("00-{}-{:016x}-01", self.incoming.trace_id, rand::random::<u64>() | 1);
        set(HeaderName::from_static("traceparent"), HeaderValue::try_from(trace));
        for name in [header::USER_AGENT, HeaderName::from_static("last-event-id")] {
            if let Some(value) = self.incoming.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let request =
            Request::builder().method(method).uri(path).body(body.map_or_else(Body::empty, Body::from));
        match request {
            Ok(mut request) => {
                *request.headers_mut() = headers;
                if let Some(from) = self.from {
                    request.extensions_mut().insert(ConnectInfo(Remote(from)));
                }
                let Ok(response) = self.console.api.clone().oneshot(request).await;
                response
            }
            Err(_) => StatusCode::BAD_REQUEST.into_response(),
        }
    }

    /// Makes a call. A caller who has to sign in is sent to do so.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Instead> {
        self.answer(self.open(method, path, body.map(Value::to_string), "*/*").await).await
    }

    /// What a call was answered with.
    pub(super) async fn answer(&self, response: Response) -> Result<Answer, Instead> {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(self.sign_in());
        }
        let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.unwrap_or_default();
        if status.is_success() {
            return Ok(Answer::Done(body));
        }
        let unreadable =
            || Problem { title: "The node's answer cannot be read".into(), ..Problem::default() };
        let mut problem: Problem = serde_json::from_slice(&body).unwrap_or_else(|_| unreadable());
        problem.status = status.as_u16();
        Ok(Answer::Refused(problem))
    }

    /// What a call is answered with, or the page of its refusal.
    pub(super) async fn text(&self, path: &str) -> Result<String, Instead> {
        match self.call(Method::GET, path, None).await? {
            Answer::Done(body) => Ok(String::from_utf8_lossy(&body).into_owned()),
            Answer::Refused(problem) => Err(self.refused(problem)),
        }
    }

    /// A document of the contract, or the page of why there is none.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Instead> {
        self.read(self.call(Method::GET, path, None).await?)
    }

    /// The same of a call that has a body.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, Instead> {
        self.read(self.call(method, path, Some(body)).await?)
    }

    /// A document that a page can do without.
    pub(super) async fn try_get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Instead> {
        match self.call(Method::GET, path, None).await? {
            Answer::Done(body) => Ok(serde_json::from_slice(&body).ok()),
            Answer::Refused(_) => Ok(None),
        }
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, Instead> {
        match answer {
            Answer::Done(body) => serde_json::from_slice(&body).map_err(|error| {
                tracing::error!(%error, "the console cannot read an answer of the node's own");
                let title = "The node's answer cannot be read".into();
                self.refused(Problem { status: 500, title, detail: error.to_string(), ..Problem::default() })
            }),
            Answer::Refused(problem) => Err(self.refused(problem)),
        }
    }

    /// The page of a refusal.
    pub(super) fn refused(&self, problem: Problem) -> Instead {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let chrome = self.chrome(Nav::None, problem.title.clone());
        Instead(Box::new(html(status, &Refusal { chrome, advice: advice(&problem), problem })))
    }

    /// There is no such page.
    pub(super) fn nothing_here(&self) -> Instead {
        let (title, detail) = ("Not found".into(), "There is no such page.".into());
        self.refused(Problem { status: 404, title, code: "NOT_FOUND".into(), detail, ..Problem::default() })
    }

    fn sign_in(&self) -> Instead {
        let next = self.incoming.uri.path_and_query().map_or("/console/", |url| url.as_str());
        Instead(Box::new(redirect(&format!("/console/sign-in?next={}", encoded(next)))))
    }
}

/// What somebody can do about a refusal.
fn advice(problem: &Problem) -> &'static str {
    match (problem.status, problem.applied.as_deref()) {
        (403, _) => {
            "Sign in with a token that has the scope; whoever has an administrator's token can make one."
        }
        (404, _) => "It may have been deleted, or the id may be of another cluster. Look for it in the list.",
        (409, _) => {
            "It has moved on meanwhile. Go back, look at how it stands now, and try again if you still want to."
        }
        (413, _) => "Make it smaller.",
        (400 | 422, _) => "Go back and put right what is named here; nothing was changed.",
        (_, Some("unknown")) => {
            "It may have been carried out or not. Look at how things stand before you try again; with the same id, \
             trying again does no harm."
        }
        (429, _) => {
            "The node has more to do than it takes; nothing was changed. Wait a moment and try again."
        }
        (503, _) => {
            "Nothing was changed. A shard may have no leader just now, which passes within seconds when a majority \
             of its nodes is there: look at the Cluster page."
        }
        (_, _) => "Look for the trace id in the node's log.",
    }
}
