//! Webhooks: receivers that people name are told of events of runs, signed, at least once.
//!
//! 1. A webhook is an entry of the catalogue ([`webhook`]). It says after which place in each shard's
//!    log it is to be told, so that nothing falls between its making and the first look at it.
//! 2. Every node keeps a copy of all webhooks ([`book`]), read anew when the system shard has changed.
//!    While there is none, nothing else happens: no event costs anything.
//! 3. The leader of each shard follows its own log for each webhook ([`pump`]), and posts what it is
//!    to be told of ([`delivery`]), several at a time. The order of events is not kept.
//! 4. What a receiver did not take becomes a [`failure`], an entry of the catalogue, before the pump
//!    goes past it; the leader of the event's shard tries it again later and later ([`retries`]), and
//!    then leaves it as dead, to be looked at and tried again by people.
//! 5. How far each webhook was told of each shard is a [`standing`], written every few seconds. After
//!    a crash or under another leader what came after it is told again: under the same id, so that a
//!    receiver can tell. Every replica keeps its log from there on ([`hold`]), within bounds.
//!
//! So an event is lost to a webhook only when its receiver has failed for so long that the failures
//! and the log that is kept were not enough; then the standing counts that.

mod book;
mod delivery;
mod failure;
mod hold;
mod pump;
mod retries;
pub mod schema;
mod serving;
mod standing;
mod webhook;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::ids::ShardId;
use opcode_shard::actions::push::Sender;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use book::{all_failures, all_standings, delete_failures};
pub(crate) use delivery::{Outcome, ping};
pub(crate) use failure::{
    Failure, check_delivery, is_of as is_failure_of, key as failure_key, parse as parse_failure,
};
pub(crate) use standing::Shown as Status;
pub(crate) use webhook::{Draft, Shown, WEBHOOKS_MAX, Webhook, check_id, is_standing, parse, sealed_name};

use crate::state::RouterState;

/// How often it is looked which shards this node leads.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest time to write down how far all came, when the node stops.
const STOP_MAX: Duration = Duration::from_secs(1);

/// How deliveries are made.
#[derive(Clone)]
pub struct WebhookOptions {
    /// What posts them.
    pub sender: Arc<Sender>,
    /// Longest time for one.
    pub timeout: Duration,
    /// Pauses before each further try of one that failed; after the last it is dead.
    pub delays: Vec<Duration>,
    /// How often it is written down how far each webhook was told.
    pub standing_every: Duration,
    /// How long the log keeps what was committed, for those who follow it.
    pub kept: Duration,
}

impl WebhookOptions {
    /// The usual ones: nine tries in a day.
    pub fn new(sender: Arc<Sender>) -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let seconds = Duration::from_secs;
        Self {
            sender,
            timeout: seconds(10),
            delays: vec![
                seconds(5),
                seconds(30),
                minutes(2),
                minutes(10),
                minutes(60),
                minutes(4 * 60),
                minutes(8 * 60),
                minutes(10 * 60),
            ],
            standing_every: seconds(3),
            kept: minutes(2),
        }
    }
}

/// Tells webhooks of the events of the shards that this node leads, until it stops.
pub async fn run_webhooks(state: RouterState) {
    let (book_in, book) = watch::channel(None);
    let mut beside = JoinSet::new();
    beside.spawn(book::keep(state.clone(), book_in));
    beside.spawn(hold::hold(state.clone(), book.clone()));
    let mut serving = JoinSet::new();
    let mut served: HashMap<tokio::task::Id, ShardId> = HashMap::new();
    let mut stopping = pin!(state.stopping());
    loop {
        let has_any = book.borrow().as_ref().is_some_and(|book: &Arc<book::Book>| !book.webhooks.is_empty());
        let shards = if has_any { state.shards() } else { Vec::new() };
        for shard in shards {
            if served.values().any(|served| *served == shard.id()) {
                continue;
            }
            let Some(handle) = state.local().get(shard.id()).filter(|handle| handle.serves()) else {
                continue;
            };
            let task = serving.spawn(serving::serve(state.clone(), handle, book.clone()));
            served.insert(task.id(), shard.id());
        }
        tokio::select! {
            () = &mut stopping => break,
            Some(ended) = serving.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => {
                        tracing::error!(%error, "a shard's webhooks are not told any more; they begin again");
                        error.id()
                    }
                };
                served.remove(&id);
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    let _ = tokio::time::timeout(STOP_MAX, async { while serving.join_next().await.is_some() {} }).await;
}
