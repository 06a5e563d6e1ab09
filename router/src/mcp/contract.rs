//! The way from the tools to the HTTP contract: a call goes in, a status and a body come out.

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderValue, Method, Request, header};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use opcode_engine::event::EventType;
use tower::ServiceExt;

use crate::access::IsPart;
use crate::access::remote::Remote;
use crate::firehose::{self, Wanted};
use crate::state::RouterState;

/// Largest answer that a tool takes, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One call of the HTTP contract.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    /// JSON, where the call has a body.
    pub body: Option<String>,
    /// What the caller showed: its token and its trace, which are not there over stdio, where the
    /// command's own count; the namespace, the agent that it speaks for, and what it calls itself.
    pub caller: HeaderMap,
    /// The other end of its connection, where it has one with this node.
    pub from: Option<Remote>,
}

/// What a call was answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP's status code.
    pub status: u16,
    /// JSON, a problem document, or a picture's text.
    pub body: Bytes,
}

/// A call that got no answer.
#[derive(Clone, Debug)]
pub struct Unreachable {
    /// The request may have reached a node all the same.
    pub was_sent: bool,
    /// Why there is none.
    pub detail: String,
}

/// A way to the HTTP contract of a node.
pub trait Contract: Send + Sync + 'static {
    /// Makes one call.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unreachable>>;

    /// The firehose of `custom` events (`GET /v1/events?type=custom`) as it comes, until it is cut
    /// off; none when it cannot be had. A node's own has the events of all namespaces, with ids as they are
    /// kept.
    fn events(&self) -> BoxFuture<'_, Option<BoxStream<'static, Bytes>>>;
}

/// The contract of this node, without a socket.
pub(super) struct InProcess {
    /// The API with all of its layers, as a client from outside meets it.
    pub(super) api: Router,
    pub(super) state: RouterState,
}

impl InProcess {
    fn request(&self, call: Call) -> Result<Request<Body>, Unreachable> {
        let not_sent = |detail: String| Unreachable { was_sent: false, detail };
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .body(call.body.map_or_else(Body::empty, Body::from))
            .map_err(|error| not_sent(format!("this cannot be asked: {error}")))?;
        *request.headers_mut() = call.caller;
        // The request to `/mcp` has been counted.
        request.extensions_mut().insert(IsPart);
        if let Some(from) = call.from {
            request.extensions_mut().insert(ConnectInfo(from));
        }
        let host = HeaderValue::try_from(&self.state.node().addr)
            .map_err(|error| not_sent(format!("the node's address is no host: {error}")))?;
        request.headers_mut().insert(header::HOST, host);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(request)
    }
}

impl Contract for InProcess {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unreachable>> {
        async move {
            let request = self.request(call)?;
            let Ok(response) = self.api.clone().oneshot(request).await;
            let status = response.status().as_u16();
            let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.map_err(|error| {
                Unreachable { was_sent: true, detail: format!("the answer cannot be read: {error}") }
            })?;
            Ok(Answer { status, body })
        }
        .boxed()
    }

    fn events(&self) -> BoxFuture<'_, Option<BoxStream<'static, Bytes>>> {
        async move {
            // Of the node's own accord, so no caller's token is asked for.
            let response =
                firehose::firehose(&self.state, Wanted::live(vec![EventType::Custom])).await.ok()?;
            let chunks = response.into_body().into_data_stream();
            Some(chunks.filter_map(|chunk| std::future::ready(chunk.ok())).boxed())
        }
        .boxed()
    }
}
