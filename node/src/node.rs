//! A node: opens the data folder, starts the shards, serves HTTP, and stops in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use opcode_router::{
    CatalogueSecrets, Door, NodeInfo, RateLimit, Remote, RetentionOptions, RouterOptions, RouterParts,
    RouterState, WebhookOptions,
};
use opcode_shard::actions::push::Sender;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::addresses;
use crate::cluster::Cluster;
use crate::config::{Config, Loaded};
use crate::https::Https;
use crate::membership::agent::Ended;
use crate::services::Control;
use crate::shards::Identity;
use crate::{observed, telemetry, token_file, vault};

/// Longest time a stop may take; a supervisor kills the process soon after.
const STOP_MAX: Duration = Duration::from_secs(14);
/// Longest time that requests under way may take once the node is stopping.
const REQUESTS_END_MAX: Duration = Duration::from_secs(2);

/// Runs a node until it is told to stop, or a shard fails. `ready` is told the URL when requests
/// are served.
pub(crate) async fn run(loaded: Loaded, ready: impl FnOnce(&str)) -> Result<()> {
    let settings = loaded.origins()?.into_iter().map(|(key, value, from)| [key, value.to_string(), from]);
    let settings = settings.collect();
    let config = loaded.config;
    addresses::check_listen(&config)?;
    let https = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(Https::load(cert.clone(), key.clone())?),
        _ => None,
    };
    let tokens = config.token_file.as_deref().map(token_file::all).transpose()?;
    let secrets = Arc::new(CatalogueSecrets::default());
    let vault = vault::open(&config, secrets.clone())?;
    let metrics = telemetry::start(&config)?;
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("{} cannot be listened on", config.listen))?;
    let address = listener.local_addr().context("a bound listener has an address")?;
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&config, address, vault.clone()) => cluster?,
        () = signals.stop() => return Ok(()),
    };

    let (ready_in, ready_out) = watch::channel(true);
    let (stop_in, stop_out) = watch::channel(false);
    let state = RouterState::new(RouterParts {
        map: cluster.map.clone(),
        local: cluster.agent.local.clone(),
        peers: cluster.agent.transport.clone(),
        node_id: cluster.identity.node_id,
        cluster: Arc::new(Control {
            membership: cluster.agent.membership.clone(),
            transport: cluster.agent.transport.clone(),
        }),
        vault,
        plugins: cluster.plugins.clone(),
        node: about(&cluster, settings),
        ready: ready_out,
        shutdown: stop_out.clone(),
        metrics: observed::metrics(metrics, &config, &cluster),
        listener_is_loopback: address.ip().is_loopback() && tokens.is_none(),
        tokens,
        backup_dir: config.backup_dir.as_deref().map(std::path::absolute).transpose()?,
        webhooks: webhook_options(&config)?,
        rate_limit: config.rate_limit.map(RateLimit::per_second),
        audit: Some(cluster.audit.clone()),
        options: RouterOptions { console: config.console, ..RouterOptions::default() },
    });
    cluster.relay.open(state.clone());
    secrets.open(state.clone());
    run_beside(&state, &config);
    let mut server = serve(listener, https.as_ref(), opcode_router::app(state), stop_out)?;
    let shards = cluster.identity.shards;
    tracing::info!(%address, cluster = cluster.identity.cluster_id, shards, "ready");
    ready(&format!("{}://{address}", if https.is_some() { "https" } else { "http" }));
    crate::memory::forget_start();

    let outcome = until_stopped(&mut cluster, &mut server, &mut signals, &config).await;
    ready_in.send_replace(false);
    stop_in.send_replace(true);
    let was_asked = match outcome {
        Ok(was_asked) => was_asked,
        Err(error) => {
            // Whoever waits for an answer that there is gets it.
            if !server.is_finished() {
                let _ = tokio::time::timeout(REQUESTS_END_MAX, server).await;
            }
            return Err(error);
        }
    };
    stop(cluster, server, &mut signals, was_asked).await
}

/// Waits until the node is told to stop: true; or was taken out of its cluster: false; or has failed.
async fn until_stopped(
    cluster: &mut Cluster,
    server: &mut JoinHandle<std::io::Result<()>>,
    signals: &mut Signals,
    config: &Config,
) -> Result<bool> {
    tokio::select! {
        () = signals.stop() => Ok(true),
        ended = cluster.agent.run() => match ended {
            Ended::Failed(error) => Err(error),
            Ended::Removed => {
                say_removed(&cluster.identity, &config.data_dir);
                Ok(false)
            }
        },
        result = server => {
            Err(anyhow::anyhow!("the HTTP server ended by itself: {result:?}"))
        }
    }
}

/// Who this node is.
fn about(cluster: &Cluster, settings: Vec<[String; 3]>) -> NodeInfo {
    NodeInfo {
        node_id: cluster.identity.node_id.to_string(),
        cluster_id: cluster.identity.cluster_id.clone(),
        addr: cluster.addresses.http.clone(),
        peer_addr: Some(cluster.addresses.peer.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings,
    }
}

/// Serves clients until it is to stop and what is under way has ended.
fn serve(
    listener: TcpListener,
    https: Option<&Arc<Https>>,
    app: axum::Router,
    mut stopping: watch::Receiver<bool>,
) -> Result<JoinHandle<std::io::Result<()>>> {
    let app = app.into_make_service_with_connect_info::<Remote>();
    let stop = async move {
        // The sender lives as long as the node runs.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let Some(https) = https else {
        return Ok(tokio::spawn(axum::serve(Door(listener), app).with_graceful_shutdown(stop).into_future()));
    };
    tokio::spawn(https.follow()?);
    let doors = https.listen(listener).context("a bound listener has an address")?;
    Ok(tokio::spawn(axum::serve(Door(doors), app).with_graceful_shutdown(stop).into_future()))
}

/// Starts what a router does beside answering; it ends by itself once the node is stopping.
fn run_beside(state: &RouterState, config: &Config) {
    tokio::spawn(opcode_router::run_retention(state.clone(), retention_of(config)));
    tokio::spawn(opcode_router::run_schedules(state.clone()));
    tokio::spawn(opcode_router::run_agents(state.clone()));
    if config.scrub_every_hours > 0 {
        let every = Duration::from_secs(u64::from(config.scrub_every_hours) * 60 * 60);
        tokio::spawn(opcode_router::run_scrubs(state.clone(), every));
    }
    tokio::spawn(opcode_router::run_webhooks(state.clone()));
    tokio::spawn(opcode_router::run_plugins(state.clone()));
}

/// Where and how often runs are archived that are kept no longer.
fn retention_of(config: &Config) -> RetentionOptions {
    RetentionOptions {
        archive_dir: config.archive_dir.clone().unwrap_or_else(|| config.data_dir.join("archive")),
        every: Duration::from_secs(config.retention_every_s.max(1)),
    }
}

/// How webhooks are told: behind the same guard as `http.*`.
fn webhook_options(config: &Config) -> Result<WebhookOptions> {
    let mut options = WebhookOptions::new(Sender::new(config.allow_private_network));
    if let Some(delays) = &config.webhook_retry_delays {
        options.delays = crate::config::delays(delays)?;
    }
    if let Some(kept) = &config.events_kept {
        options.kept = crate::config::kept(kept)?;
    }
    Ok(options)
}

/// A node that was taken out holds no part in the cluster any more, and never will again.
fn say_removed(identity: &Identity, data_dir: &std::path::Path) {
    let (node, cluster) = (identity.node_id, &identity.cluster_id);
    tracing::warn!(node, cluster, "this node was removed from its cluster");
    eprintln!(
        "opcode: node {node} was removed from cluster {cluster}: it stops. {} is of no use any more; \
         to have this machine in the cluster again, start it with an empty folder and --join",
        data_dir.display()
    );
}

/// Lets requests and steps under way end, hands over what this node leads, and stops.
async fn stop(
    cluster: Cluster,
    server: JoinHandle<std::io::Result<()>>,
    signals: &mut Signals,
    was_asked: bool,
) -> Result<()> {
    tracing::info!("stopping: requests and steps under way may end");
    let stop = async {
        // Requests that will not end are cut off; what they asked for is committed or refused.
        let _ = tokio::time::timeout(REQUESTS_END_MAX, server).await;
        cluster.stop().await
    };
    // One that stops by itself and is then asked to does what it is asked; a second time is in haste.
    let asked_again = async {
        if !was_asked {
            signals.stop().await;
        }
        signals.stop().await;
    };
    tokio::select! {
        result = tokio::time::timeout(STOP_MAX, stop) => {
            result.context("the shards did not stop in time; what was acknowledged is durable")??;
        }
        () = asked_again => bail!("stopped at once, as asked; what was acknowledged is durable"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// The signals that ask a node to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
