//! Groups of several members, each with a log of its own, over a network that can be cut.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::super::Role;
use super::super::wire::{Request, encode_request};
use super::*;
use crate::batch::Position;
use crate::peer::{NodeId, PeerError, Peers, Service};

/// Most members of a group here.
const MEMBERS_MAX: NodeId = 5;
/// Longest wait for what takes an election.
pub(super) const ELECTED: Duration = Duration::from_secs(20);

/// Who reaches whom.
#[derive(Default)]
pub(super) struct Switch {
    pub(super) groups: Mutex<HashMap<NodeId, Arc<Group>>>,
    pub(super) cut: Mutex<HashSet<(NodeId, NodeId)>>,
}

impl Switch {
    pub(super) fn cut_off(&self, node: NodeId) {
        let others = (1..=MEMBERS_MAX).filter(|other| *other != node);
        self.cut.lock().extend(others.flat_map(|other| [(node, other), (other, node)]));
    }
}

/// One node's side of the switch.
pub(super) struct Port {
    pub(super) node: NodeId,
    pub(super) switch: Arc<Switch>,
}

impl Peers for Port {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        _: u32,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (from, switch) = (self.node, self.switch.clone());
        Box::pin(async move {
            let begun = tokio::time::Instant::now();
            let is_cut = |from, to| switch.cut.lock().contains(&(from, to));
            let group = switch.groups.lock().get(&to).cloned();
            let Some(group) = group else {
                return Err(PeerError::Unreachable { node: to, why: "it is not there yet".into() });
            };
            // What is cut is silent: nobody is told.
            let silence = async || {
                tokio::time::sleep_until(begun + within).await;
                Err(PeerError::Lost { node: to, why: "cut".into() })
            };
            if is_cut(from, to) {
                return silence().await;
            }
            let answered = tokio::time::timeout(within, group.answer(service, from, body)).await;
            if is_cut(to, from) {
                return silence().await;
            }
            match answered {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(why)) => Err(PeerError::Refused { node: to, why }),
                Err(_) => Err(PeerError::Lost { node: to, why: "late".into() }),
            }
        })
    }
}

/// Three members or more, node 1 having founded the group.
struct Trio {
    count: NodeId,
    switch: Arc<Switch>,
    tables: Vec<Shared>,
    _dirs: Vec<tempfile::TempDir>,
}

impl Trio {
    async fn start() -> Self {
        Self::of(3).await
    }

    async fn of(count: NodeId) -> Self {
        let trio = Self {
            count,
            switch: Arc::default(),
            tables: (0..count).map(|_| Shared::default()).collect(),
            _dirs: (0..count).map(|_| tempfile::tempdir().unwrap()).collect(),
        };
        for (node_id, (tables, dir)) in (1..).zip(trio.tables.iter().zip(&trio._dirs)) {
            let store = LogStore::open(log_options(dir.path())).unwrap();
            let options = GroupOptions { node_id, founds: node_id == 1, ..group_options(dir.path(), 0) };
            let port = Port { node: node_id, switch: trio.switch.clone() };
            let group = Group::start(options, store, tables.clone(), Arc::new(port)).await.unwrap();
            trio.switch.groups.lock().insert(node_id, group);
        }
        let first = trio.group(1);
        first.leads(ELECTED).await.unwrap();
        for node in 2..=count {
            first.add_learner(node).await.unwrap();
        }
        first.set_voters((1..=count).collect()).await.unwrap();
        trio
    }

    fn group(&self, node: NodeId) -> Arc<Group> {
        self.switch.groups.lock()[&node].clone()
    }

    /// Waits until another than `not` leads, and gives it with its term.
    async fn leader_but(&self, not: NodeId) -> (NodeId, u64) {
        let others = (1..=self.count).filter(|node| *node != not).map(|node| {
            let group = self.group(node);
            Box::pin(async move { (node, group.leads(ELECTED).await) })
        });
        let ((node, term), _, _) = futures::future::select_all(others).await;
        (node, term.expect("somebody is elected"))
    }

    /// Waits until every one of `nodes` has handed all up to `position` to its tables.
    fn all_have(&self, nodes: &[NodeId], position: Position) {
        for node in nodes {
            let group = self.group(*node);
            eventually("a member has the entry", || group.committed() >= position);
        }
    }

    async fn shutdown(self) {
        for node in 1..=self.count {
            self.group(node).shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_leader_commits_is_on_every_member() {
    let trio = Trio::start().await;
    let first = trio.group(1);
    let term = first.leading_term().unwrap();
    let mut last = Position::default();
    for n in 0..20 {
        last = first.propose(batch(&[&n.to_string()]), term).await.unwrap().position();
    }
    trio.all_have(&[1, 2, 3], last);
    let wanted: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for tables in &trio.tables {
        assert_eq!(tables.texts(), wanted);
    }
    let members = first.members();
    assert_eq!(members.voters, BTreeSet::from([1, 2, 3]));
    assert!(members.learners.is_empty() && members.changing_to.is_none(), "{members:?}");
    assert!(first.confirm().await.unwrap() >= last);
    assert!(matches!(trio.group(2).confirm().await, Err(ShardError::NotLeader)));
    let refused = trio.group(2).propose(batch(&["x"]), term).await;
    assert!(matches!(refused, Err(ShardError::NotLeader)), "{refused:?}");
    trio.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_of_leader_is_quick_and_fences_the_old_term() {
    let trio = Trio::start().await;
    let first = trio.group(1);
    let old = first.leading_term().unwrap();
    let done = first.propose(batch(&["a"]), old).await.unwrap();
    trio.all_have(&[2], done.position());
    first.hand_over(2).await.unwrap();
    let second = trio.group(2);
    let new = second.leads(ELECTED).await.unwrap();
    assert!(new > old);
    // What was decided in the old term never happens, though the log takes it.
    let deposed = second.propose(batch(&["decided before"]), old).await;
    assert!(matches!(deposed, Err(ShardError::NotLeader)), "{deposed:?}");
    let last = second.propose(batch(&["b"]), new).await.unwrap().position();
    trio.all_have(&[1, 2, 3], last);
    for tables in &trio.tables {
        assert_eq!(tables.texts(), ["a", "b"]);
    }
    let refused = second.hand_over(2).await;
    assert!(matches!(refused, Err(ShardError::Refused(_))), "{refused:?}");
    trio.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_and_learns_of_it() {
    let trio = Trio::start().await;
    let first = trio.group(1);
    let old = first.leading_term().unwrap();
    let kept = first.propose(batch(&["kept"]), old).await.unwrap().position();
    trio.all_have(&[1, 2, 3], kept);
    assert!(first.has_quorum());
    trio.switch.cut_off(1);
    let begun = Instant::now();
    let lost = tokio::spawn({
        let first = first.clone();
        async move { first.propose(batch(&["lost"]), old).await }
    });
    let (leader, term) = trio.leader_but(1).await;
    eprintln!("elected node {leader} after {:?}", begun.elapsed());
    eventually("the old leader starts nothing any more", || !first.has_quorum());
    assert!(matches!(first.confirm().await, Err(ShardError::Unknown(_))));
    let last = trio.group(leader).propose(batch(&["new"]), term).await.unwrap().position();
    trio.switch.cut.lock().clear();
    let lost = lost.await.unwrap();
    assert!(matches!(lost, Err(ShardError::Unknown(_))), "{lost:?}");
    eventually("it follows", || matches!(*first.role().borrow(), Role::Follower { .. }));
    trio.all_have(&[1, 2, 3], last);
    for tables in &trio.tables {
        assert_eq!(tables.texts(), ["kept", "new"]);
    }
    trio.shutdown().await;
}

/// Cuts some ways, and waits until another leads, that can write; then all is well again.
async fn is_replaced(cut: &[(NodeId, NodeId)]) {
    let trio = Trio::start().await;
    let first = trio.group(1);
    let kept = first.propose(batch(&["kept"]), first.leading_term().unwrap()).await.unwrap().position();
    trio.all_have(&[1, 2, 3], kept);
    trio.switch.cut.lock().extend(cut);
    let begun = Instant::now();
    let (leader, term) = trio.leader_but(1).await;
    eprintln!("elected node {leader} after {:?}", begun.elapsed());
    let last = trio.group(leader).propose(batch(&["new"]), term).await.unwrap().position();
    eventually("the old leader starts nothing any more", || !first.has_quorum());
    trio.switch.cut.lock().clear();
    trio.all_have(&[1, 2, 3], last);
    for tables in &trio.tables {
        assert_eq!(tables.texts(), ["kept", "new"]);
    }
    trio.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_hears_is_replaced() {
    is_replaced(&[(1, 2), (1, 3)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_is_replaced() {
    is_replaced(&[(2, 1), (3, 1)]).await;
}

/// Writes one entry after another wherever the group is led, until told to stop: what was
/// acknowledged. A write that a change of leader catches is refused, and never in doubt.
async fn write_on(switch: Arc<Switch>, stop: Arc<std::sync::atomic::AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut n = 0;
    while !stop.load(std::sync::atomic::Ordering::Acquire) {
        let groups: Vec<Arc<Group>> = switch.groups.lock().values().cloned().collect();
        let Some((group, term)) = groups.iter().find_map(|g| Some((g, g.leading_term()?))) else {
            tokio::task::yield_now().await;
            continue;
        };
        let text = n.to_string();
        match group.propose(batch(&[&text]), term).await {
            Ok(_) => acknowledged.push(text),
            Err(ShardError::NotLeader) => {}
            Err(error) => panic!("a write in doubt: {error}"),
        }
        n += 1;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_of_leader_under_writes_costs_one_election() {
    for count in [3, 5] {
        let trio = Trio::of(count).await;
        let stop = Arc::default();
        let writer = tokio::spawn(write_on(trio.switch.clone(), Arc::clone(&stop)));
        let mut term = trio.group(1).leading_term().unwrap();
        for (from, to) in [(1, 2), (2, 3), (3, 1), (1, 3)] {
            let begun = Instant::now();
            trio.group(from).hand_over(to).await.unwrap();
            let took = begun.elapsed();
            let next = trio.group(to).leads(ELECTED).await.unwrap();
            eprintln!("of {count}: from {from} to {to} in {took:?}");
            assert_eq!(next, term + 1, "nobody else stood");
            // The leases of those who were elected a moment ago are most of it.
            assert!(took < Duration::from_secs(2), "{took:?}");
            term = next;
        }
        stop.store(true, std::sync::atomic::Ordering::Release);
        let acknowledged = writer.await.unwrap();
        let last = trio.group(3).propose(batch(&["end"]), term).await.unwrap().position();
        let all: Vec<NodeId> = (1..=count).collect();
        trio.all_have(&all, last);
        assert!(acknowledged.len() > 10, "{}", acknowledged.len());
        for tables in &trio.tables {
            let texts = tables.texts();
            let kept: Vec<&String> = acknowledged.iter().filter(|text| texts.contains(text)).collect();
            assert_eq!(kept.len(), acknowledged.len(), "something acknowledged is gone");
        }
        trio.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_cannot_win_disturbs_nobody() {
    let trio = Trio::start().await;
    let first = trio.group(1);
    let term = first.leading_term().unwrap();
    let last = first.propose(batch(&["a"]), term).await.unwrap().position();
    trio.all_have(&[1, 2, 3], last);
    // It is asked for a term or a log that has gone on since, or by another than its leader.
    for (from, of, index) in [(1, term - 1, last.index), (1, term, last.index - 1), (3, term, last.index)] {
        let late = encode_request(&Request::Lead { term: of, last: index }).unwrap();
        trio.group(2).answer(Service::Raft, from, late).await.unwrap_err();
    }
    trio.switch.cut_off(2);
    let refused = first.hand_over(2).await;
    assert!(matches!(refused, Err(ShardError::Refused(_))), "{refused:?}");
    trio.switch.cut.lock().clear();
    let last = first.propose(batch(&["b"]), term).await.unwrap().position();
    trio.all_have(&[1, 2, 3], last);
    assert_eq!(first.leading_term(), Some(term), "it leads on");
    trio.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_never_reached_has_nothing() {
    let trio = Trio::start().await;
    let first = trio.group(1);
    let reached = |node: NodeId| first.members().matched.contains_key(&node);
    eventually("the others are reached", || reached(2) && reached(3));
    first.add_learner(4).await.unwrap();
    let term = first.leading_term().unwrap();
    first.propose(batch(&["a"]), term).await.unwrap();
    let members = first.members();
    assert_eq!(members.learners, BTreeSet::from([4]));
    assert!(!members.matched.contains_key(&4), "{members:?}");
    trio.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_voters_that_nobody_ended_can_be_ended() {
    let trio = Trio::start().await;
    let first = trio.group(1);
    let wanted = BTreeSet::from([1, 2]);
    // Nobody acknowledges it, and then whoever asked for it is gone.
    trio.switch.cut_off(1);
    {
        let mut changing = std::pin::pin!(first.set_voters(wanted.clone()));
        let deadline = Instant::now() + ELECTED;
        while first.members().changing_to.is_none() {
            assert!(Instant::now() < deadline, "the change begins");
            let moment = tokio::time::timeout(Duration::from_millis(1), &mut changing).await;
            assert!(moment.is_err(), "it cannot end: {moment:?}");
        }
    }
    trio.switch.cut.lock().clear();
    let term = first.leading_term().unwrap();
    first.propose(batch(&["a"]), term).await.unwrap();
    assert_eq!(first.members().changing_to, Some(wanted.clone()), "nobody ends it by itself");
    first.set_voters(wanted.clone()).await.unwrap();
    let members = first.members();
    assert_eq!((members.changing_to, members.voters), (None, wanted));
    trio.shutdown().await;
}
