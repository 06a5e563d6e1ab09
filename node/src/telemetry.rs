//! Logs on stderr (text for a terminal, JSON for everything else) and the metrics recorder.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Starts logging; call once.
pub(crate) fn start_logs(level: &str) -> Result<()> {
    // openraft tells every try to reach a node that is away, for each group, as an error. What an
    // operator should know of that is said once by the transport, the groups and the agent, and a
    // core that dies stops the process; whoever wants the rest says `openraft=warn`. rmcp tells every
    // refusal of a client, which the client is told already.
    let filter = EnvFilter::try_new(format!("openraft=off,rmcp=off,{level}"))
        .with_context(|| format!("log_level: {level:?} is no filter"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).with_ansi(std::env::var_os("NO_COLOR").is_none()).init();
    } else {
        builder.json().flatten_event(true).init();
    }
    Ok(())
}

/// Starts recording metrics; the handle renders them for `/metrics`.
pub(crate) fn start_metrics() -> Result<PrometheusHandle> {
    let buckets = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
    let recorder = PrometheusBuilder::new()
        .set_buckets(&buckets)
        .context("the histogram buckets are not empty")?
        .install_recorder()
        .context("metrics can be started once")?;
    metrics::describe_histogram!(
        "opcode_commit_seconds",
        metrics::Unit::Seconds,
        "From proposing a batch to its commit"
    );
    metrics::describe_histogram!(
        "opcode_batch_records",
        metrics::Unit::Count,
        "Records in a committed batch"
    );
    Ok(recorder)
}
