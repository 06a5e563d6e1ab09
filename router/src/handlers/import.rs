//! Import: lines of JSON, as an export or an archive has them, each taken or refused for itself.
//!
//! The body is read as it comes and no more of it is held than a line, or some short ones; a line that
//! is too long is passed over. Importing the same again changes nothing, so whatever was in doubt can
//! be sent once more.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::BytesMut;
use futures::StreamExt;
use opcode_engine::ids::ShardId;
use opcode_engine::namespace::Namespace;
use opcode_engine::{Code, Problem};
use opcode_shard::CallError;
use opcode_shard::history::{Imported, LINE_BYTES_MAX, Line};
use serde::Serialize;

use crate::access::Caller;
use crate::error::{ApiError, Applied, Document};
use crate::forward::ShardClient;
use crate::incoming::{json, unsupported, with_tokens};
use crate::namespace::qualified_line;
use crate::query::Query;
use crate::schema;
use crate::state::RouterState;
use crate::trace;
use crate::wire::invalid;

/// Lines of one body.
const LINES_MAX: usize = 100_000;
/// Largest body, in bytes.
const BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Lines, and bytes of them, that are taken in together.
const GROUP_LINES_MAX: usize = 200;
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What became of a line.
struct Outcome {
    line: u64,
    /// What it is and of what, once it was read.
    about: Option<(&'static str, String)>,
    shard: Option<ShardId>,
    result: Result<Done, ApiError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Imported,
    Unchanged,
    Skipped,
}

#[derive(Serialize)]
struct Shown<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    #[serde(flatten)]
    result: ShownResult<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ShownResult<'a> {
    Done { status: u16, outcome: &'static str },
    Problem(Box<Document<'a>>),
}

#[derive(Serialize)]
struct Answer<'a> {
    imported: usize,
    unchanged: usize,
    skipped: usize,
    failed: usize,
    results: Vec<Shown<'a>>,
}

/// Takes in runs that have ended, as history, and versions of templates. A run keeps its id, its
/// events and their times; nobody is told of them, and nothing of it is done again.
#[utoipa::path(post, path = "/v1/import", tag = "operations", operation_id = "importWorkflows",
    params(("ended_only" = Option<bool>, Query, description = "pass over runs that have not ended, which are refused else")),
    request_body(content((String = "application/x-ndjson"))),
    responses((status = 200, description = "one result for each line, in order", body = schema::ImportAnswer), (status = 400, body = schema::Problem),
        (status = 413, body = schema::Problem), (status = 415, body = schema::Problem), (status = 429, body = schema::Problem)))]
pub(crate) async fn import(State(state): State<RouterState>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let mut query = Query::of(&parts.uri)?;
    let ended_only = query.word("ended_only", &["true", "false"]) == Some("true");
    query.finish()?;
    check_headers(&parts.headers)?;
    let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_default();
    let _room = state.hold_body(LINE_BYTES_MAX + GROUP_BYTES_MAX)?;
    let mut lines = Lines::new(body, state.options().body_timeout);
    let (mut outcomes, mut positions) = (Vec::new(), BTreeMap::new());
    let (mut group, mut bytes) = (Vec::new(), 0);
    loop {
        let next = lines.next().await?;
        let is_end = next.is_none();
        if let Some((_, read)) = &next {
            bytes += read.as_ref().map_or(0, Bytes::len);
        }
        group.extend(next);
        if is_end || group.len() >= GROUP_LINES_MAX || bytes >= GROUP_BYTES_MAX {
            let taken = std::mem::take(&mut group);
            bytes = 0;
            outcomes.extend(take(&state, &caller, taken, ended_only, &mut positions).await);
        }
        if is_end {
            break;
        }
        if outcomes.len() + group.len() > LINES_MAX {
            let detail = format!("more than {LINES_MAX} lines: send them in parts; those before are done");
            return Err(ApiError::too_large(detail));
        }
    }
    let trace_id = trace::of(&parts.extensions).map_or_else(String::new, |traced| traced.id());
    let response = answer(&outcomes, &trace_id);
    Ok(if positions.is_empty() { response } else { with_tokens(response, positions) })
}

fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: header::HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let media_type =
        text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !matches!(
        media_type.as_str(),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines"
    ) {
        return Err(unsupported(&media_type, "application/x-ndjson"));
    }
    match text(header::CONTENT_ENCODING) {
        "" | "identity" => Ok(()),
        _ => {
            let problem =
                Problem::at("", "is compressed: send it as it is; `opcode import` takes an archive");
            Err(invalid(vec![problem]).with_status(axum::http::StatusCode::UNSUPPORTED_MEDIA_TYPE))
        }
    }
}

/// A line's number from 1, and its bytes; none of one that is too long.
type Read = (u64, Option<Bytes>);

/// The lines of a body that are not empty.
struct Lines {
    chunks: BodyDataStream,
    /// Longest wait for the next chunk.
    patience: Duration,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line end.
    looked_at: usize,
    number: u64,
    /// The line that is coming is too long.
    is_too_long: bool,
    has_ended: bool,
    received: u64,
}

impl Lines {
    fn new(body: Body, patience: Duration) -> Self {
        Self {
            chunks: body.into_data_stream(),
            patience,
            buffer: BytesMut::new(),
            looked_at: 0,
            number: 0,
            is_too_long: false,
            has_ended: false,
            received: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<Read>, ApiError> {
        loop {
            let end = self.buffer[self.looked_at..].iter().position(|byte| *byte == b'\n');
            let end = end.map(|end| self.looked_at + end);
            if let Some(end) = end.or((self.has_ended && self.has_rest()).then_some(self.buffer.len())) {
                let mut line = self.buffer.split_to((end + 1).min(self.buffer.len()));
                line.truncate(end);
                self.looked_at = 0;
                self.number += 1;
                if std::mem::take(&mut self.is_too_long) || line.len() > LINE_BYTES_MAX {
                    return Ok(Some((self.number, None)));
                }
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some((self.number, Some(line.freeze()))));
            }
            if self.has_ended {
                return Ok(None);
            }
            self.is_too_long |= self.buffer.len() > LINE_BYTES_MAX;
            if self.is_too_long {
                self.buffer.clear();
            }
            self.looked_at = self.buffer.len();
            match self.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.has_ended = true,
            }
        }
    }

    fn has_rest(&self) -> bool {
        !self.buffer.is_empty() || self.is_too_long
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        let chunk = match tokio::time::timeout(self.patience, self.chunks.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                let message = format!("the body could not be received: {error}; what had come is done");
                return Err(ApiError::malformed(Problem::at("", message)));
            }
            Err(_elapsed) => {
                return Err(ApiError::new(
                    axum::http::StatusCode::REQUEST_TIMEOUT,
                    Code::TimeoutError.as_str(),
                    "the body did not arrive in time; what had come is done",
                ));
            }
        };
        self.received += chunk.len() as u64;
        if self.received > BODY_BYTES_MAX {
            let detail = format!("the body is larger than {BODY_BYTES_MAX} bytes: send it in parts");
            return Err(ApiError::too_large(detail));
        }
        Ok(Some(chunk))
    }
}

/// Takes in some lines: templates in their order, then runs, each shard its own.
async fn take(
    state: &RouterState,
    caller: &Caller,
    group: Vec<Read>,
    ended_only: bool,
    positions: &mut BTreeMap<ShardId, opcode_shard::batch::Position>,
) -> Vec<Outcome> {
    let namespace = caller.namespace().clone();
    let reading = tokio::task::spawn_blocking(move || {
        let read = |(number, bytes)| (number, read_line(bytes, &namespace));
        group.into_iter().map(read).collect::<Vec<_>>()
    });
    let mut outcomes = Vec::new();
    let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<Line>)> = BTreeMap::new();
    for (number, read) in reading.await.expect("reading a line does not panic") {
        let (about, shard, result) = match read {
            // The end of an export says nothing to import.
            Ok(None) => continue,
            Ok(Some((key, line))) => {
                let (kind, shard) = match &line {
                    Line::Template(_) => ("template", ShardId::SYSTEM),
                    Line::Run(run) => ("run", state.shard_of(&run.workflow_id).id()),
                };
                let (places, lines) = by_shard.entry(shard).or_default();
                let about = (kind, key);
                places.push(outcomes.len());
                lines.push(line);
                let unanswered = ApiError::unavailable(Applied::Unknown, "the shard gave no answer");
                (Some(about), Some(shard), Err(unanswered))
            }
            Err(error) => (None, None, Err(error)),
        };
        outcomes.push(Outcome { line: number, about, shard, result });
    }
    // Templates first: a run may be retried under one as soon as it is there.
    let system = by_shard.remove(&ShardId::SYSTEM);
    for some in [system.map(|some| (ShardId::SYSTEM, some)).into_iter().collect(), by_shard] {
        let calls = some.into_iter().map(|(shard, (places, lines))| async move {
            (shard, places, ShardClient::new(state.clone(), shard).import(lines).await)
        });
        for (shard, places, answered) in futures::future::join_all(calls).await {
            note(&mut outcomes, shard, &places, answered, ended_only, positions);
        }
    }
    outcomes
}

/// A line in its namespace, and what it is called there.
fn read_line(bytes: Option<Bytes>, namespace: &Namespace) -> Result<Option<(String, Line)>, ApiError> {
    let refused = |message: String| ApiError::malformed(Problem::at("", message));
    let Some(bytes) = bytes else {
        return Err(ApiError::too_large(format!("the line is longer than {LINE_BYTES_MAX} bytes")));
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| refused(format!("the line is not UTF-8 at byte {}", error.valid_up_to())))?;
    let Some(line) = Line::parse(text).map_err(refused)? else { return Ok(None) };
    let key = line.key();
    let line = qualified_line(line, namespace).map_err(|message| invalid(vec![Problem::at("", message)]))?;
    Ok(Some((key, line)))
}

/// Writes down what a shard has answered.
fn note(
    outcomes: &mut [Outcome],
    shard: ShardId,
    places: &[usize],
    answered: Result<Vec<Result<Imported, opcode_engine::Rejected>>, CallError>,
    ended_only: bool,
    positions: &mut BTreeMap<ShardId, opcode_shard::batch::Position>,
) {
    match answered {
        Ok(results) => {
            assert!(results.len() == places.len(), "a shard answers for every line");
            for (place, result) in places.iter().zip(results) {
                outcomes[*place].result = match result {
                    Ok(Imported { is_new, position }) => {
                        let known = positions.entry(shard).or_default();
                        *known = position.max(*known);
                        Ok(if is_new { Done::Imported } else { Done::Unchanged })
                    }
                    Err(rejected) if ended_only && rejected.code == Code::InvalidTransition => {
                        Ok(Done::Skipped)
                    }
                    Err(rejected) => Err(rejected.into()),
                };
            }
        }
        Err(error) => {
            let error = ApiError::from(error);
            places.iter().for_each(|place| outcomes[*place].result = Err(error.clone()));
        }
    }
}

fn shown<'a>(outcome: &'a Outcome, trace_id: &'a str) -> Shown<'a> {
    let Outcome { line, about, shard, result } = outcome;
    Shown {
        line: *line,
        kind: about.as_ref().map(|(kind, _)| *kind),
        id: about.as_ref().map(|(_, id)| id.as_str()),
        shard: shard.filter(|shard| *shard != ShardId::SYSTEM).map(|shard| shard.0),
        result: match result {
            Ok(Done::Imported) => ShownResult::Done { status: 201, outcome: "imported" },
            Ok(Done::Unchanged) => ShownResult::Done { status: 200, outcome: "unchanged" },
            Ok(Done::Skipped) => ShownResult::Done { status: 200, outcome: "skipped" },
            Err(error) => ShownResult::Problem(Box::new(error.document(trace_id))),
        },
    }
}

fn answer(outcomes: &[Outcome], trace_id: &str) -> Response {
    let count =
        |wanted| outcomes.iter().filter(|outcome| outcome.result.as_ref().ok() == Some(&wanted)).count();
    let answer = Answer {
        imported: count(Done::Imported),
        unchanged: count(Done::Unchanged),
        skipped: count(Done::Skipped),
        failed: outcomes.iter().filter(|outcome| outcome.result.is_err()).count(),
        results: outcomes.iter().map(|outcome| shown(outcome, trace_id)).collect(),
    };
    let mut response = json(axum::http::StatusCode::OK, &answer);
    let is_late = |outcome: &Outcome| {
        outcome.result.as_ref().is_err_and(|error| matches!(error.status().as_u16(), 429 | 503))
    };
    if outcomes.iter().any(is_late) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
