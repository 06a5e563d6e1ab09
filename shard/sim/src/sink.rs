//! The world outside: what steps do to it, written down where no crash reaches, and whether the node
//! that does it may still do so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_engine::{Code, Fault};
use opcode_shard::ShardHandle;
use opcode_shard::actions::{Outcome, World as ActionWorld};
use opcode_shard::log::QUORUM_MAX;
use opcode_shard::peer::NodeId;
use parking_lot::Mutex;
use serde_json::json;

use crate::history::History;
use crate::relay::shard_of;
use crate::world::World;

/// Longest time of an ordinary step, and of one that takes long.
const STEP_MS_MAX: u64 = 40;
const LONG_STEP_MS_MAX: u64 = 2_500;
/// Longest time of any step once all has healed.
const WELL_STEP_MS_MAX: u64 = 4;
/// What posts bring with them as `${{secrets.TOKEN}}`: nothing of it may ever be recorded.
pub const CANARY: &str = "sim-canary-5e1f";
/// What may lie between a leader's look at its quorum and the effect.
const MARGIN_MS: u64 = 50;

/// One effect in the world.
#[derive(Clone, Debug)]
pub struct Post {
    /// The idempotency key it came with.
    pub key: String,
    /// The run and the step it says it is of.
    pub run: String,
    pub step: String,
    pub node: NodeId,
    /// The term that the node led the run's shard in; none when it did not.
    pub term: Option<u64>,
    /// Whether it had heard a majority lately, as the leader that it was, or was about to learn that it
    /// led no more.
    pub has_lease: bool,
    pub at_ms: u64,
}

/// All effects, in order.
pub struct Sink {
    posts: Mutex<Vec<Post>>,
    /// Posts that have not been answered, and whose node has not given them up.
    in_hand: Mutex<BTreeMap<u64, Post>>,
    /// Set once all has healed: then it is quick, so that all may come to an end.
    is_well: AtomicBool,
    history: Arc<History>,
    shards: u32,
    /// Nodes of the cluster, all of which vote.
    nodes: usize,
}

/// A post while its node waits for the answer.
struct InHand {
    sink: Arc<Sink>,
    number: u64,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.sink.in_hand.lock().remove(&self.number);
    }
}

impl Sink {
    /// One that nothing has been posted to.
    pub fn new(history: Arc<History>, shards: u32, nodes: usize) -> Arc<Self> {
        let (posts, in_hand) = (Mutex::default(), Mutex::default());
        Arc::new(Self { posts, in_hand, is_well: AtomicBool::new(false), history, shards, nodes })
    }

    /// All shall be well from here on.
    pub fn heal(&self) {
        self.is_well.store(true, Ordering::Relaxed);
    }

    /// How long it takes to answer, and whether with an error.
    fn answer(&self, world: &World) -> (Duration, bool) {
        if self.is_well.load(Ordering::Relaxed) {
            return (Duration::from_millis(1 + world.below(WELL_STEP_MS_MAX)), false);
        }
        let most = if world.one_in(20) { LONG_STEP_MS_MAX } else { STEP_MS_MAX };
        (Duration::from_millis(1 + world.below(most)), world.one_in(15))
    }

    /// What has been posted.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().clone()
    }

    /// How often something was posted.
    pub fn count(&self) -> usize {
        self.posts.lock().len()
    }

    /// The world as one node's steps reach it.
    pub fn world(
        self: Arc<Self>,
        node: NodeId,
        world: Arc<World>,
        handles: Arc<Mutex<BTreeMap<ShardId, ShardHandle>>>,
    ) -> ActionWorld {
        Arc::new(move |call| {
            let shard = WorkflowId::parse(&call.workflow_id).ok().map(|id| shard_of(&id, self.shards));
            let handle = shard.and_then(|shard| handles.lock().get(&shard).cloned());
            let term = handle.as_ref().and_then(|handle| handle.group().leading_term());
            let has_lease = handle.is_some_and(|handle| handle.group().has_quorum() || handle.serves());
            // The effect is there at once, as of a request that leaves at once; the answer takes its time.
            world.note(&format!("node {node} posts {} in term {term:?}", call.idempotency_key));
            let echo = call.params["body"].clone();
            if echo["token"] != CANARY {
                self.history.violated(format!("{} came without its secret: {echo}", call.idempotency_key));
            }
            let post = Post {
                key: call.idempotency_key,
                run: call.workflow_id,
                step: call.step_id.to_string(),
                node,
                term,
                has_lease,
                at_ms: world.now_ms(),
            };
            let in_hand = self.clone().take(post, shard.unwrap_or(ShardId::SYSTEM), &world);
            let (sink, world) = (self.clone(), world.clone());
            Box::pin(async move {
                let _in_hand = in_hand;
                let (takes, has_bad_day) = sink.answer(&world);
                tokio::time::sleep(takes).await;
                let result = match has_bad_day {
                    true => {
                        let message = format!("the other side had a bad day with {echo}");
                        Err(Fault::new(Code::ExecutionError, message).with_details(echo))
                    }
                    false => Ok(json!({ "ok": true, "echo": echo })),
                };
                Outcome { result, emissions: Vec::new() }
            })
        })
    }

    fn take(self: Arc<Self>, post: Post, shard: ShardId, world: &World) -> InHand {
        self.check(&post, shard, world);
        let mut posts = self.posts.lock();
        posts.push(post.clone());
        let number = posts.len() as u64;
        drop(posts);
        self.in_hand.lock().insert(number, post);
        InHand { sink: self, number }
    }

    /// Whether the node may post now: it has heard a majority lately, and nobody else who has may
    /// hold the same step in its hands.
    fn check(&self, post: &Post, shard: ShardId, world: &World) {
        let quorum_ms = u64::try_from(QUORUM_MAX.as_millis()).unwrap_or(u64::MAX);
        let Post { key, node, term, .. } = post;
        let quorum = world.quorum(*node, shard.0, self.nodes);
        // What was in its hands when it was stopped leaves them late; only its receiver could refuse it.
        if quorum.age_ms > quorum_ms + MARGIN_MS && !world.is_dazed(*node) {
            let age_ms = quorum.age_ms;
            self.history
                .violated(format!("node {node} posts {key} and has heard no majority for {age_ms} ms"));
        }
        let in_hand = self.in_hand.lock();
        for other in in_hand.values().filter(|other| other.key == *key && other.node != *node) {
            let quorum = world.quorum(other.node, shard.0, self.nodes);
            let may_go_on = quorum.age_ms <= quorum_ms && !quorum.is_news && !world.is_dazed(other.node);
            if may_go_on && other.term < *term {
                let (leader, since) = (other.node, quorum.age_ms);
                self.history.violated(format!(
                    "node {node} posts {key} in term {term:?}, which node {leader} has in its hands in \
                     {:?} and which heard a majority {since} ms ago",
                    other.term
                ));
            }
        }
    }
}
