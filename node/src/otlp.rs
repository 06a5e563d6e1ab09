//! Spans to an OTLP collector, by HTTP. They go in batches, from a queue that never makes anybody wait:
//! what it has no room for is lost, and counted, as is what the collector does not take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use opcode_shard::trace::{self, Span, SpanKind};
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;

use crate::config::Config;

/// Spans that wait, at most.
const QUEUE_MAX: usize = 8_192;
/// Spans of one request to the collector, at most.
const BATCH_MAX: usize = 512;
/// How long a span may wait for others.
const GATHER_FOR: Duration = Duration::from_secs(1);
/// Longest time for the collector to take a batch.
const EXPORT_MAX: Duration = Duration::from_secs(10);

static LOST: AtomicU64 = AtomicU64::new(0);

/// Spans that were lost since the start.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Starts to export spans, if the configuration says where to; call in a runtime.
pub(crate) fn start(config: &Config) -> Result<()> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(()) };
    let endpoint = traces_at(endpoint)?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new()?)
        .with_endpoint(endpoint.clone())
        .with_timeout(EXPORT_MAX)
        .build()
        .with_context(|| format!("otlp_endpoint: {endpoint}"))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("opcode").with_attribute(version).build();
    exporter.set_resource(&resource);
    let (spans_in, spans) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(export(exporter, spans));
    trace::take_spans(Box::new(move |span| {
        if spans_in.try_send(span).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }));
    Ok(())
}

/// Where a collector takes spans.
fn traces_at(endpoint: &str) -> Result<String> {
    let mut url = reqwest::Url::parse(endpoint).with_context(|| format!("otlp_endpoint: {endpoint:?}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!("otlp_endpoint: {endpoint:?} is no http:// or https:// address");
    }
    if url.path() == "/" {
        url.set_path("/v1/traces");
    }
    Ok(url.into())
}

async fn export(exporter: SpanExporter, mut spans: mpsc::Receiver<Span>) {
    let scope = InstrumentationScope::builder("opcode").with_version(env!("CARGO_PKG_VERSION")).build();
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut is_told = false;
    while spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if batch.len() < BATCH_MAX {
            tokio::time::sleep(GATHER_FOR).await;
            while batch.len() < BATCH_MAX
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
        }
        let count = batch.len() as u64;
        let exported = exporter.export(batch.drain(..).map(|span| data(span, &scope)).collect()).await;
        if exported.is_err() {
            LOST.fetch_add(count, Ordering::Relaxed);
        }
        match exported {
            Ok(()) => is_told = false,
            // Once, until it takes some again.
            Err(error) if !is_told => {
                tracing::warn!(%error, "the OTLP collector takes no spans: they are lost");
                is_told = true;
            }
            Err(_) => {}
        }
    }
}

fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let own = SpanContext::new(
        TraceId::from_bytes(span.own.trace_id),
        SpanId::from_bytes(span.own.span_id),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    SpanData {
        span_context: own,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: true,
        span_kind: match span.kind {
            SpanKind::Server => opentelemetry::trace::SpanKind::Server,
            SpanKind::Client => opentelemetry::trace::SpanKind::Client,
            SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
        },
        name: span.name.into(),
        start_time: span.begun,
        end_time: span.ended,
        attributes: span.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

/// The way to a collector.
#[derive(Debug)]
struct Collector(reqwest::Client);

impl Collector {
    fn new() -> Result<Self> {
        // A second provider is refused, and the first one serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self(reqwest::Client::builder().timeout(EXPORT_MAX).build().context("otlp_endpoint")?))
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut answer = self.0.execute(request.try_into()?).await?;
        let headers = std::mem::take(answer.headers_mut());
        let mut response = Response::builder().status(answer.status()).body(answer.bytes().await?)?;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_gets_the_one_of_otlp() {
        assert_eq!(traces_at("http://c:4318").unwrap(), "http://c:4318/v1/traces");
        assert_eq!(traces_at("https://c/here").unwrap(), "https://c/here");
        for wrong in ["c:4318", "grpc://c:4317", ""] {
            traces_at(wrong).unwrap_err();
        }
    }
}
