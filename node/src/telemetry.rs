//! Logs on stderr (text for a terminal, JSON for everything else) and the metrics recorder.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opcode_shard::meters::Meter;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::otlp;

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

/// Upper bounds of times, in seconds.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of sizes, in what is counted.
const SIZES: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 5_000.0, 25_000.0];
/// How often samples are put into their buckets, whether somebody asks for them or not: until then each
/// of them is kept.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts recording metrics, and spans if somebody is to have them; call once, in a runtime. The handle
/// renders the metrics.
pub(crate) fn start(config: &Config) -> Result<PrometheusHandle> {
    otlp::start(config)?;
    start_metrics()
}

fn start_metrics() -> Result<PrometheusHandle> {
    let sizes = |builder: PrometheusBuilder, suffix: &str| {
        builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), &SIZES)
    };
    let builder =
        PrometheusBuilder::new().set_buckets(&SECONDS).and_then(|builder| sizes(builder, "_records"));
    let recorder = builder
        .and_then(|builder| sizes(builder, "_ops"))
        .context("the histogram buckets are not empty")?
        .install_recorder()
        .context("metrics can be started once")?;
    let meters = opcode_shard::meters::METERS.iter().chain(opcode_router::meters::METERS);
    meters.for_each(Meter::describe);
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    });
    Ok(recorder)
}
