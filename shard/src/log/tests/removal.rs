//! Groups that a node gives away, and gets back: their entries go, their promises stay.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{BasicNode, EntryPayload, LogId, Membership, Vote};

use super::super::frame::EntryId;
use super::super::index::{GroupState, StoredVote};
use super::super::store::{Change, Op};
use super::super::type_config::{Entry, log_id};
use super::super::wire::{Answer, Request, decode_answer, encode_request};
use super::*;
use crate::peer::Service;

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, node: 1, index }
}

fn apply(store: &LogStore, group: u32, change: Change) {
    let (synced, outcome) = std::sync::mpsc::channel();
    let done = Box::new(move |result| synced.send(result).unwrap());
    store.shared.submit(Op { group, change, done: Some(done) });
    outcome.recv().unwrap().unwrap();
}

fn append(store: &LogStore, group: u32, indexes: std::ops::Range<u64>) {
    for index in indexes {
        let body = Bytes::from(vec![7; 3_000]);
        apply(store, group, Change::Append(vec![(id(1, index), body)]));
    }
}

fn state(store: &LogStore, group: u32) -> GroupState {
    let state = store.take_group(group).unwrap();
    store.give_back(group);
    state
}

#[tokio::test]
async fn a_group_given_away_frees_its_segments_and_leaves_its_vote() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let vote = StoredVote { term: 4, node: 2, committed: false };
    append(&store, 1, 0..200);
    apply(&store, 1, Change::Vote(vote));
    append(&store, 2, 0..3);
    store.shared.note_committed(1, id(1, 150));
    assert!(segment_files(dir.path(), "seg-").len() > 15);
    let held = store.take_group(1).unwrap();
    assert_eq!(held.last, Some(id(1, 199)));
    let removing = {
        let store = store.clone();
        tokio::spawn(async move { store.remove_group(ShardId(1)).await })
    };
    tokio::task::yield_now().await;
    assert_eq!(store.shared.view.lock().index.groups[&1].places.len(), 200, "it is in use");
    store.give_back(1);
    removing.await.unwrap().unwrap();
    eventually("its segments go", || segment_files(dir.path(), "seg-").len() < 4);
    store.remove_group(ShardId(1)).await.unwrap();
    store.remove_group(ShardId(77)).await.unwrap();
    let left = GroupState { vote: Some(vote), floor: Some(id(1, 199)), ..GroupState::default() };
    assert_eq!(state(&store, 1), left);
    assert_eq!(state(&store, 77), GroupState::default());
    // It stays so over restarts and over segments that come and go.
    drop(store);
    let store = LogStore::open(log_options(dir.path())).unwrap();
    assert_eq!(state(&store, 1), left);
    append(&store, 2, 3..100);
    apply(&store, 2, Change::Purge(id(1, 95)));
    eventually("old segments go", || segment_files(dir.path(), "seg-").len() < 4);
    // It comes back, as a copy that ends at entry 500, and goes on.
    apply(&store, 1, Change::Purge(id(5, 500)));
    append(&store, 1, 501..503);
    drop(store);
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let back = GroupState { purged: Some(id(5, 500)), last: Some(id(1, 502)), ..left };
    assert_eq!(state(&store, 1), back);
    assert_eq!(store.shared.read(1, (0, 600), usize::MAX).unwrap().len(), 0, "nothing of before");
    assert_eq!(store.shared.read(1, (501, 600), usize::MAX).unwrap().len(), 2);
}

/// A build that does not know such groups must refuse the log, not take their frames for torn.
#[tokio::test]
async fn a_log_of_the_format_before_goes_on_in_a_segment_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    append(&store, 1, 0..5);
    drop(store);
    let [only] = &segment_files(dir.path(), "seg-")[..] else { panic!("one segment") };
    let path = dir.path().join(only);
    let mut bytes = std::fs::read(&path).unwrap();
    // The checksum does not cover the format's number.
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    assert_eq!(state(&store, 1).last, Some(id(1, 4)));
    let formats = |dir: &Path| -> Vec<u8> {
        segment_files(dir, "seg-").iter().map(|name| std::fs::read(dir.join(name)).unwrap()[8]).collect()
    };
    assert_eq!(formats(dir.path()), [1, 2]);
    append(&store, 1, 5..7);
    store.remove_group(ShardId(1)).await.unwrap();
    eventually("the old segment goes", || formats(dir.path()) == [2]);
    drop(store);
    let store = LogStore::open(log_options(dir.path())).unwrap();
    assert_eq!(state(&store, 1).floor, Some(id(1, 6)));
}

async fn ask(group: &Group, request: Request) -> Result<Answer, String> {
    let body = encode_request(&request).unwrap();
    group.answer(Service::Raft, 2, body).await.map(|answer| decode_answer(&answer).unwrap())
}

async fn votes_for(group: &Group, term: u64, last: Option<LogId<u64>>) -> Result<bool, String> {
    let request = VoteRequest { vote: Vote::new(term, 2), last_log_id: last };
    match ask(group, Request::Vote(request)).await? {
        Answer::Voted(answer) => Ok(answer.vote_granted),
        other => panic!("a vote was answered with {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_gave_its_group_away_and_got_it_back_elects_nobody_without_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let group = start_alone(dir.path(), 0, &store, &Shared::default()).await.unwrap();
    let term = group.leading_term().unwrap();
    for n in 0..10 {
        group.propose(batch(&[&n.to_string()]), term).await.unwrap();
    }
    let had = group.committed();
    group.shutdown().await;
    drop(group);
    store.remove_group(ShardId(0)).await.unwrap();

    // Even with an option that has it found a group: it has been in one.
    let port = Arc::new(NoPeers);
    let start = || Group::start(group_options(dir.path(), 0), store.clone(), Shared::default(), port.clone());
    let group = start().await.unwrap();
    let had = log_id(EntryId { term: had.term, node: 1, index: had.index });
    for lacking in [None, Some(LogId { index: had.index - 1, ..had })] {
        let refused = votes_for(&group, term + 3, lacking).await.unwrap_err();
        assert!(refused.contains("votes for nobody without them"), "{refused}");
    }
    // What the leader of today sends first is as old as the group: it was alone in it.
    let alone =
        Membership::new(vec![[1].into()], std::collections::BTreeMap::from([(1, BasicNode::default())]));
    let first = Entry {
        log_id: log_id(EntryId { term: 0, node: 0, index: 0 }),
        payload: EntryPayload::Membership(alone),
    };
    let vote = Vote::new_committed(term + 3, 2);
    let leader_commit = Some(first.log_id);
    let request = AppendEntriesRequest { vote, prev_log_id: None, entries: vec![first], leader_commit };
    let answer = ask(&group, Request::Append(request)).await.unwrap();
    assert!(matches!(answer, Answer::Appended(answer) if answer.is_success()));
    assert!(group.is_alone().await.unwrap());
    let elected = group.leads(Duration::from_secs(2)).await;
    assert!(matches!(elected, Err(ShardError::NotLeader)), "{elected:?}");
    // Nor after a restart.
    group.shutdown().await;
    drop(group);
    eventually("the group lets its log go", || store.take_group(0).is_ok());
    store.give_back(0);
    let group = start().await.unwrap();
    let elected = group.leads(Duration::from_secs(2)).await;
    assert!(matches!(elected, Err(ShardError::NotLeader)), "{elected:?}");
    assert!(votes_for(&group, term + 9, None).await.is_err());
    assert_eq!(votes_for(&group, term + 9, Some(had)).await, Ok(true));
    group.shutdown().await;
}
