//! `http.request|get|post`: one request, its redirects followed by hand so that each is checked.
//!
//! An error status is an answer, not a failure, unless `fail_on_error_status` is set. JSON bodies
//! are parsed with all digits kept. Messages name a host and never a path, a query or a header,
//! since secrets stand there. Proxies of the environment are not used.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opcode_engine::{Code, Fault};
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    PROXY_AUTHORIZATION,
};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde_json::{Map, Value, json};

use super::http_guard::{Guard, Lookup, Refused, SystemLookup};
use super::params::{Params, text_of};
use super::{Call, Failure};
use crate::trace::TRACEPARENT;
use crate::vault::mask::Mask;

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Redirects that `max_redirects` may allow.
const REDIRECTS_MAX: u64 = 50;
/// Longest wait for one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_PER_HOST_MAX: usize = 8;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Headers of the connection, which are not the step's to set.
const HOP_HEADERS: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// The clients of a node: one that checks certificates and, when asked for, one that does not.
pub(super) struct Http {
    guard: Guard,
    strict: OnceLock<Client>,
    lax: OnceLock<Client>,
}

/// A request as the step wants it.
struct Plan {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    /// Headers with credentials: they stay with the origin they were meant for.
    private_headers: Vec<HeaderName>,
    redirects_max: u64,
    follows_redirects: bool,
    skips_verify: bool,
    fails_on_error_status: bool,
}

impl Http {
    pub(super) fn new(allow_private: bool) -> Self {
        Self::with_lookup(allow_private, Arc::new(SystemLookup))
    }

    /// The same with names resolved by `lookup`.
    pub(super) fn with_lookup(allow_private: bool, lookup: Arc<dyn Lookup>) -> Self {
        Self { guard: Guard::new(allow_private, lookup), strict: OnceLock::new(), lax: OnceLock::new() }
    }

    fn client(&self, skips_verify: bool) -> &Client {
        let cell = if skips_verify { &self.lax } else { &self.strict };
        cell.get_or_init(|| build(&self.guard, skips_verify))
    }

    /// Runs the call; the breaker counts what the other side is to blame for.
    pub(super) async fn run(&self, call: &Call) -> Result<Value, Failure> {
        let plan = Plan::of(call)?;
        let fails_on_error_status = plan.fails_on_error_status;
        let start = Instant::now();
        let response = self.send(plan).await?;
        let status = response.status();
        let output = read(response, start).await?;
        if !fails_on_error_status || !(status.is_client_error() || status.is_server_error()) {
            return Ok(output);
        }
        let may_pass = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        let is_outage = status.is_server_error();
        let code =
            if is_outage || may_pass.contains(&status) { Code::ExecutionError } else { Code::NonRetryable };
        let message = format!("{}: the server answered {}", call.action, status.as_u16());
        Err(Failure { fault: Fault::new(code, message).with_details(output), is_outage })
    }

    async fn send(&self, mut plan: Plan) -> Result<Response, Failure> {
        let client = self.client(plan.skips_verify);
        for _ in 0..=plan.redirects_max {
            self.guard.check(&plan.url).map_err(|refused| denied(&refused))?;
            let mut request =
                client.request(plan.method.clone(), plan.url.clone()).headers(plan.headers.clone());
            if let Some(body) = &plan.body {
                request = request.body(body.clone());
            }
            let response = request.send().await.map_err(|e| failure_of(&plan.url, &e))?;
            let Some(next) = redirect_of(&plan, &response)? else { return Ok(response) };
            plan.redirect(response.status(), next);
        }
        let message =
            format!("more than {} redirects, the last to {}", plan.redirects_max, origin(&plan.url));
        Err(Fault::new(Code::ExecutionError, message).into())
    }
}

/// A client that connects where the guard lets it, and follows no redirect.
pub(super) fn build(guard: &Guard, skips_verify: bool) -> Client {
    // It fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(concat!("opcode/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(guard.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
    };
    let built = builder().tls_danger_accept_invalid_certs(skips_verify).build();
    built.unwrap_or_else(|error| {
        // A host without root certificates can still do plain HTTP; TLS then trusts nobody.
        tracing::warn!(%error, "no root certificates: https requests will fail");
        builder().tls_certs_only([]).build().expect("a client that needs nothing of the host is built")
    })
}

/// Where an answer sends the request on to, when it does and the step wants to follow.
fn redirect_of(plan: &Plan, response: &Response) -> Result<Option<Url>, Failure> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    if !is_redirect || !plan.follows_redirects {
        return Ok(None);
    }
    let next = location.to_str().ok().and_then(|text| plan.url.join(text).ok());
    match next {
        Some(next) if matches!(next.scheme(), "http" | "https") => Ok(Some(next)),
        Some(next) => {
            let message =
                format!("a redirect to the scheme `{}`, which http.* does not speak", next.scheme());
            Err(Fault::new(Code::PermissionDenied, message).into())
        }
        None => {
            let message = format!("{} redirects to what is not a URL", origin(&plan.url));
            Err(Fault::new(Code::ExecutionError, message).into())
        }
    }
}

impl Plan {
    fn of(call: &Call) -> Result<Self, Fault> {
        let params = Params::new(&call.action, &call.params);
        let method = match call.action.as_ref() {
            "http.get" => Method::GET,
            "http.post" => Method::POST,
            _ => match params.str("method")?.unwrap_or("GET").to_ascii_uppercase() {
                method if method == "CONNECT" => return Err(params.invalid("method", "may not be CONNECT")),
                method => Method::from_bytes(method.as_bytes())
                    .map_err(|_| params.invalid("method", "is not an HTTP method"))?,
            },
        };
        let url = params.require_str("url")?;
        let url = Url::parse(url).map_err(|e| params.invalid("url", &format!("is not a URL: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(params.invalid("url", "must start with http:// or https://"));
        }
        let mut plan = Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
            private_headers: vec![AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION],
            redirects_max: params.u64("max_redirects", 10)?.min(REDIRECTS_MAX),
            follows_redirects: params.bool("follow_redirects", true)?,
            skips_verify: params.bool("tls_skip_verify", false)?,
            fails_on_error_status: params.bool("fail_on_error_status", false)?,
        };
        plan.set_body(params)?;
        plan.set_headers(params)?;
        plan.set_auth(params)?;
        if let Some(mask) = &call.mask {
            plan.keep_private(mask);
        }
        if let Ok(key) = HeaderValue::from_str(&call.idempotency_key) {
            plan.headers.entry(IDEMPOTENCY_KEY).or_insert(key);
        }
        if let Some(trace) = &call.trace
            && let Ok(parent) = HeaderValue::from_str(&trace.to_string())
        {
            plan.headers.entry(TRACEPARENT).or_insert(parent);
        }
        Ok(plan)
    }

    fn set_body(&mut self, params: Params<'_>) -> Result<(), Fault> {
        let Some(body) = params.get("body") else { return Ok(()) };
        let (bytes, content_type) = match params.str("body_encoding")?.unwrap_or("json") {
            "json" => (body.to_string().into_bytes(), Some("application/json")),
            "form" => (form(params, body)?, Some("application/x-www-form-urlencoded")),
            "text" => (text_of(body).into_owned().into_bytes(), Some("text/plain; charset=utf-8")),
            "raw" => (text_of(body).into_owned().into_bytes(), None),
            _ => return Err(params.invalid("body_encoding", "must be json, form, text or raw")),
        };
        if let Some(content_type) = content_type {
            self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        self.body = Some(bytes);
        Ok(())
    }

    fn set_headers(&mut self, params: Params<'_>) -> Result<(), Fault> {
        let headers = match params.get("headers") {
            None => return Ok(()),
            Some(Value::Object(headers)) => headers,
            Some(_) => return Err(params.invalid("headers", "must be an object")),
        };
        for (name, value) in headers {
            if value.is_null() || HOP_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                continue;
            }
            self.set_header(params, name, &text_of(value))?;
        }
        Ok(())
    }

    fn set_header(&mut self, params: Params<'_>, name: &str, value: &str) -> Result<HeaderName, Fault> {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| params.invalid("headers", "has a name that is not a header's"))?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            params.invalid("headers", &format!("has a value for {header} with control characters"))
        })?;
        self.headers.insert(&header, value);
        Ok(header)
    }

    fn set_auth(&mut self, params: Params<'_>) -> Result<(), Fault> {
        let Some(auth) = params.get("auth") else { return Ok(()) };
        let field = |name: &str| auth.get(name).filter(|v| !v.is_null()).map(text_of);
        let need = |name: &str| {
            field(name).ok_or_else(|| params.invalid("auth", &format!("needs the field `{name}`")))
        };
        match auth.get("type").and_then(Value::as_str) {
            Some("bearer") => {
                self.set_header(params, "authorization", &format!("Bearer {}", need("token")?))?;
            }
            Some("basic") => {
                let pair = format!("{}:{}", need("username")?, field("password").unwrap_or_default());
                self.set_header(params, "authorization", &format!("Basic {}", STANDARD.encode(pair)))?;
            }
            Some("api_key") => {
                let name = field("header_name").unwrap_or("X-API-Key".into());
                let value = field("header_value").map_or_else(|| need("token"), Ok)?;
                let header = self.set_header(params, &name, &value)?;
                self.private_headers.push(header);
            }
            _ => return Err(params.invalid("auth", "needs a `type`: bearer, basic or api_key")),
        }
        Ok(())
    }

    /// Has headers that hold a secret stay with their origin, and out of logs and of tables of headers
    /// that others can probe.
    fn keep_private(&mut self, mask: &Mask) {
        for (name, value) in &mut self.headers {
            if value.to_str().is_ok_and(|text| mask.is_in(text)) {
                value.set_sensitive(true);
                self.private_headers.push(name.clone());
            }
        }
    }

    /// Turns the plan to where a redirect points (RFC 9110, §15.4).
    fn redirect(&mut self, status: StatusCode, next: Url) {
        let keeps_method = matches!(self.method, Method::GET | Method::HEAD);
        let drops_body = match status.as_u16() {
            303 => !keeps_method,
            301 | 302 => self.method == Method::POST,
            _ => false,
        };
        if drops_body {
            self.method = Method::GET;
            self.body = None;
            self.headers.remove(CONTENT_TYPE);
        }
        if next.origin() != self.url.origin() {
            for header in &self.private_headers {
                self.headers.remove(header);
            }
            self.headers.remove(HOST);
        }
        self.url = next;
    }
}

/// `application/x-www-form-urlencoded`; a list gives its name several times.
fn form(params: Params<'_>, body: &Value) -> Result<Vec<u8>, Fault> {
    let fields = match body {
        Value::Object(fields) => fields,
        Value::String(text) => return Ok(text.clone().into_bytes()),
        _ => return Err(params.invalid("body", "must be an object or a string with body_encoding form")),
    };
    let mut url = Url::parse("http://form/").expect("a URL of our own is one");
    {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in fields {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            for value in values {
                pairs.append_pair(name, &text_of(value));
            }
        }
    }
    Ok(url.query().unwrap_or_default().into())
}

async fn read(mut response: Response, start: Instant) -> Result<Value, Failure> {
    let too_long = || {
        let message = format!("the answer of {} is over {ANSWER_BYTES_MAX} bytes", origin(response.url()));
        Failure::from(Fault::new(Code::NonRetryable, message))
    };
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > ANSWER_BYTES_MAX as u64)
        && response.content_length() != Some(0)
    {
        return Err(too_long());
    }
    let too_long = too_long();
    let url = response.url().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failure_of(&url, &e))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(too_long);
        }
        body.extend_from_slice(&chunk);
    }
    let status = response.status();
    let content_type =
        response.headers().get(CONTENT_TYPE).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let content_type = content_type.unwrap_or_default();
    let reason = status.canonical_reason().map_or(String::new(), |reason| format!(" {reason}"));
    let mut output = Map::new();
    decode(body, &content_type, &mut output);
    output.insert("status_code".into(), json!(status.as_u16()));
    output.insert("status".into(), json!(format!("{}{reason}", status.as_u16())));
    output.insert("headers".into(), headers_of(response.headers()));
    output.insert("content_type".into(), json!(content_type));
    output
        .insert("duration_ms".into(), json!(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)));
    Ok(Value::Object(output))
}

/// Sets `body`: JSON parsed, text as it is, and bytes that are neither as base64 with
/// `body_encoding` beside it; `null` when it is empty.
fn decode(body: Vec<u8>, content_type: &str, output: &mut Map<String, Value>) {
    let content_type = content_type.to_ascii_lowercase();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_json = matches!(media_type, "application/json" | "text/json") || media_type.ends_with("+json");
    let is_latin1 = ["iso-8859-1", "latin1", "windows-1252", "us-ascii"]
        .iter()
        .any(|charset| content_type.contains(&format!("charset={charset}")));
    let parsed = if body.is_empty() {
        Some(Value::Null)
    } else if is_json {
        serde_json::from_slice(&body).ok()
    } else {
        None
    };
    let value = match parsed {
        Some(value) => value,
        None => match String::from_utf8(body) {
            Ok(text) => Value::String(text),
            Err(e) if is_latin1 => Value::String(e.into_bytes().into_iter().map(char::from).collect()),
            Err(e) => {
                output.insert("body_encoding".into(), json!("base64"));
                Value::String(STANDARD.encode(e.into_bytes()))
            }
        },
    };
    output.insert("body".into(), value);
}

/// Headers under their usual spelling (`Content-Type`), several of one name joined by commas.
fn headers_of(headers: &HeaderMap) -> Value {
    let mut out = Map::new();
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        let spelled: Vec<String> = name
            .as_str()
            .split('-')
            .map(|part| {
                part.get(..1).unwrap_or_default().to_ascii_uppercase() + part.get(1..).unwrap_or_default()
            })
            .collect();
        out.insert(spelled.join("-"), json!(values.join(", ")));
    }
    Value::Object(out)
}

/// Scheme, host and port of a URL: all of it that a message may show.
pub(super) fn origin(url: &Url) -> String {
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

fn denied(refused: &Refused) -> Failure {
    Fault::new(Code::PermissionDenied, format!("http: {refused}")).into()
}

pub(super) fn failure_of(url: &Url, error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    let mut root = String::new();
    while let Some(e) = cause {
        if let Some(refused) = e.downcast_ref::<Refused>() {
            return denied(refused);
        }
        root = e.to_string();
        cause = e.source();
    }
    let (code, what) = if error.is_timeout() {
        (Code::TimeoutError, "took too long to answer")
    } else if error.is_connect() {
        (Code::ExecutionError, "cannot be connected to")
    } else if error.is_body() || error.is_decode() {
        (Code::ExecutionError, "broke off its answer")
    } else {
        (Code::ExecutionError, "gave no answer that is HTTP")
    };
    let root = if root.is_empty() { root } else { format!(": {root}") };
    Failure::outage(Fault::new(code, format!("{} {what}{root}", origin(url))))
}
