//! Export: templates, and the runs that match a filter, a line of JSON each, as they stream in from
//! their shards. The last line says that it is the last: without it the export was cut off.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use opcode_engine::ids::WorkflowId;
use opcode_engine::namespace::local;
use opcode_shard::CallError;
use opcode_shard::history::{END, Line, OMITTED, PastTemplate};
use opcode_shard::record::TemplateRecord;
use opcode_shard::remote::Freshness;
use opcode_shard::store::RunFilter;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::lists;
use crate::error::{ApiError, Applied};
use crate::event_stream::{Chunks, run_until};
use crate::forward::ShardClient;
use crate::incoming::Incoming;
use crate::namespace::{local_run, sought};
use crate::schema;
use crate::state::RouterState;

/// Runs listed at a time.
const PAGE: usize = 100;
/// Runs read at a time; each may be as large as a line.
const RUNS_AT_A_TIME: usize = 4;
/// Lines that wait for a slow connection before the export waits too.
const LINES_WAITING_MAX: usize = 4;

/// Writes templates and runs, a line of JSON each: templates first, then every run that matches, with
/// its definitions and events. What is running is written as it is then.
#[utoipa::path(get, path = "/v1/export", tag = "operations", operation_id = "exportWorkflows",
    params(("status" = Option<String>, Query, description = "one, several with commas, or repeated"),
        ("agent_id" = Option<String>, Query), ("template" = Option<String>, Query, description = "also of templates only this"),
        ("label" = Option<Vec<String>>, Query, description = "`name:value`; all given must match"),
        ("since" = Option<String>, Query, description = "created at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "created before, RFC 3339")),
    responses((status = 200, content((String = "application/x-ndjson"))), (status = 400, body = schema::Problem),
        (status = 429, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn export(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let namespace = incoming.caller.namespace();
    let filter = RunFilter {
        namespace: Some(namespace.clone()),
        statuses: lists::statuses(&mut query),
        agent_id: query.one("agent_id"),
        template: query.one("template").map(|name| sought(namespace, name)),
        labels: lists::labels(&mut query),
        since: query.time("since"),
        until: query.time("until"),
        limit: PAGE,
        ..RunFilter::default()
    };
    query.finish()?;
    let place = state.enter_stream()?;
    // What can be refused is refused before the stream begins.
    let mut newest = state.system().templates().await?.value;
    newest.retain(|record| namespace.owns(&record.name));
    newest.retain(|record| filter.template.as_ref().is_none_or(|wanted| *wanted == *record.name));
    let (chunks, lines) = mpsc::channel(LINES_WAITING_MAX);
    let stopping = state.stopping();
    tokio::spawn(run_until(Pour { state, chunks }.pour(newest, filter), stopping));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((StatusCode::OK, headers, Body::from_stream(ReceiverStream::new(lines).inspect(move |_| _ = &place)))
        .into_response())
}

/// An export under way.
struct Pour {
    state: RouterState,
    chunks: Chunks,
}

/// Why an export ends early.
enum Cut {
    /// The reader has gone away.
    Gone,
    /// Something could not be read: the reader is told.
    Failed(ApiError),
}

impl From<ApiError> for Cut {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<CallError> for Cut {
    fn from(error: CallError) -> Self {
        Self::Failed(error.into())
    }
}

impl Pour {
    async fn pour(self, newest: Vec<TemplateRecord>, filter: RunFilter) {
        let poured = async {
            let templates = self.templates(newest).await?;
            let mut runs = 0;
            for shard in self.state.shards() {
                runs += self.runs(&shard, filter.clone()).await?;
            }
            Ok::<_, Cut>((templates, runs))
        };
        let last = match poured.await {
            Ok((templates, runs)) => json!({"kind": END, "templates": templates, "runs": runs}),
            Err(Cut::Failed(error)) => {
                tracing::warn!(detail = error.detail(), "an export was cut off");
                json!({"kind": "error", "code": error.code(), "detail": error.detail()})
            }
            Err(Cut::Gone) => return,
        };
        // A reader that has gone away needs no end.
        let _ = self.send(format!("{last}\n").into()).await;
    }

    async fn send(&self, line: Bytes) -> Result<(), Cut> {
        self.chunks.send(Ok(line)).await.map_err(|_| Cut::Gone)
    }

    /// Every version of some templates, oldest first; how many.
    async fn templates(&self, newest: Vec<TemplateRecord>) -> Result<u64, Cut> {
        let mut count = 0;
        for TemplateRecord { name, version: last, .. } in newest {
            for version in 1..=last {
                let found = self.state.system().template(&name, Some(version)).await?.value;
                // Versions have no gaps.
                let Some(record) = found else { continue };
                self.send(line_of(record)?.into()).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// A shard's runs that match, newest first; how many.
    async fn runs(&self, shard: &ShardClient, mut filter: RunFilter) -> Result<u64, Cut> {
        let mut count = 0;
        loop {
            let page = shard.list_runs(filter.clone(), Freshness::Strong).await?.value;
            let Some(last) = page.last() else { return Ok(count) };
            filter.after = Some((last.created_at, last.workflow_id.clone()));
            let is_last = page.len() < filter.limit;
            let ids = page.into_iter().filter_map(|run| WorkflowId::parse_kept(&run.workflow_id).ok());
            let reads = ids.map(|id| async move { (shard.history(&id).await, id) });
            let mut reads = futures::stream::iter(reads).buffered(RUNS_AT_A_TIME);
            while let Some((read, id)) = reads.next().await {
                let written = match read {
                    Ok(run) => local_run(run).and_then(|run| Line::Run(Box::new(run)).write()),
                    Err(CallError::Rejected(rejected)) => Err(rejected.message),
                    // Somebody has deleted it meanwhile.
                    Err(CallError::NotFound(_)) => continue,
                    Err(error) => return Err(error.into()),
                };
                let line = written.unwrap_or_else(|why| {
                    let omitted = json!({"kind": OMITTED, "workflow_id": id.local(), "detail": why});
                    format!("{omitted}\n").into_bytes()
                });
                self.send(line.into()).await?;
                count += 1;
            }
            if is_last {
                return Ok(count);
            }
        }
    }
}

fn line_of(record: TemplateRecord) -> Result<Vec<u8>, ApiError> {
    let damaged = |why: String| {
        tracing::error!(template = %record.name, why, "a stored template cannot be written");
        ApiError::unavailable(Applied::No, "a stored template is damaged")
    };
    let source = RawValue::from_string(record.source.to_string()).map_err(|e| damaged(e.to_string()))?;
    let version = format!("v{}", record.version).into();
    let line = PastTemplate::new(local(&record.name).into(), version, record.created_at, source);
    Line::Template(line).write().map_err(damaged)
}
