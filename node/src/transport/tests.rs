//! Two nodes over loopback.

use super::*;

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{BODY_BYTES_MAX, FRAME_BYTES_MAX, Frame};

/// Answers with the body, late ones after the others; refuses an empty one.
#[derive(Default)]
struct Echo {
    /// Calls that are being answered.
    open: Arc<AtomicUsize>,
}

/// Counts a call for as long as it is being answered.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PeerService for Echo {
    fn answer(
        &self,
        from: NodeId,
        _: Service,
        group: u32,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(self.open.clone());
        Box::pin(async move {
            let _open = open;
            match group {
                // Waits for ever: the connection ends first.
                9 => std::future::pending().await,
                8 => Ok(vec![0; BODY_BYTES_MAX + 1].into()),
                _ if body.is_empty() => Err(format!("node {from} said nothing")),
                _ => Ok(body),
            }
        })
    }
}

pub(super) fn me(cluster: &str, node_id: NodeId, incarnation: u64) -> Identity {
    let start = Start { incarnation, process: rand::random() };
    Identity { cluster_id: cluster.into(), node_id, start }
}

async fn start(me: Identity) -> (Arc<Transport>, String) {
    start_with(me, Security::Loopback).await
}

pub(super) async fn start_with(me: Identity, security: Security) -> (Arc<Transport>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (Transport::start(listener, me, security, Arc::new(Echo::default())), address)
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) const WITHIN: Duration = Duration::from_secs(20);

pub(super) fn call(
    from: &Transport,
    to: NodeId,
    group: u32,
    body: &'static [u8],
) -> BoxFuture<'static, Result<Bytes, PeerError>> {
    from.call(to, Service::Raft, group, Bytes::from_static(body), WITHIN)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_calls_share_a_connection_and_a_break_is_told() {
    let (one, _) = start(me("c", 1, 1)).await;
    let (two, address) = start(me("c", 2, 1)).await;
    let unknown = call(&one, 2, 0, b"x").await;
    assert!(matches!(unknown, Err(PeerError::Unreachable { .. })), "{unknown:?}");
    one.set_addresses(BTreeMap::from([(2, address)]));
    let calls = (0..3_000_u32).map(|n| {
        let body = Bytes::from(n.to_le_bytes().repeat(1 + (n % 50) as usize));
        let answer = one.call(2, Service::Shard, n % 8, body.clone(), WITHIN);
        async move { assert_eq!(answer.await.unwrap(), body) }
    });
    futures::future::join_all(calls).await;
    assert!(one.is_alive(2) && two.is_alive(1) && !one.is_alive(3));
    let refused = call(&one, 2, 0, b"").await.unwrap_err();
    assert_eq!(refused, PeerError::Refused { node: 2, why: "node 1 said nothing".into() });
    let late = one.call(2, Service::Raft, 9, Bytes::from_static(b"x"), Duration::from_millis(50)).await;
    assert!(matches!(late, Err(PeerError::Lost { .. })), "{late:?}");
    let hanging = call(&one, 2, 9, b"x");
    call(&one, 2, 0, b"x").await.unwrap();
    two.shutdown();
    drop(two);
    let lost = hanging.await;
    assert!(matches!(lost, Err(PeerError::Lost { .. })), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_ghosts_are_refused_with_the_reason() {
    let (two, address) = start(me("c", 2, 5)).await;
    let reach = async |me: Identity, to: NodeId| {
        let (one, _) = start(me).await;
        one.set_addresses(BTreeMap::from([(to, address.clone())]));
        // The first call goes out with the connection, or learns why there is none.
        loop {
            match call(&one, to, 0, b"x").await {
                Err(PeerError::Lost { .. }) => {}
                other => return other,
            }
        }
    };
    reach(me("c", 1, 7), 2).await.unwrap();
    for (who, to, why) in [
        (me("other", 1, 8), 2, "cluster"),
        (me("c", 1, 6), 2, "started again since"),
        (me("c", 1, 8), 3, "means node 3"),
    ] {
        let refused = reach(who, to).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    drop(two);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_ends_its_own_connection_alone() {
    let (_two, address) = start(me("c", 2, 1)).await;
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[255; 64], &[4, 0, 0, 0, 1, 2, 3, 4], &[0; 16]] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        stream.shutdown().await.unwrap();
        // Reset or closed: either way nothing of ours follows.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    let (one, _) = start(me("c", 1, 1)).await;
    one.set_addresses(BTreeMap::from([(2, address)]));
    call(&one, 2, 0, b"x").await.unwrap();
}

/// Node 1, which knows where node 2 is.
async fn one_that_knows(two: &str) -> Arc<Transport> {
    let (one, _) = start(me("c", 1, 1)).await;
    one.set_addresses(BTreeMap::from([(2, two.to_owned())]));
    one
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_write_much_at_once_read_meanwhile() {
    let (_two, address) = start(me("c", 2, 1)).await;
    let one = one_that_knows(&address).await;
    // More than the buffers of both sides hold: each is writing while the other is.
    let body = Bytes::from(vec![7; 1024 * 1024]);
    let calls = (0..64).map(|_| one.call(2, Service::Raft, 0, body.clone(), WITHIN));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap().len(), body.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_fails_alone() {
    let (_two, address) = start(me("c", 2, 1)).await;
    let one = one_that_knows(&address).await;
    let hanging = one.call(2, Service::Copy, 9, Bytes::from_static(b"x"), WITHIN);
    let too_large = Bytes::from(vec![0; BODY_BYTES_MAX + 1]);
    let refused = one.call(2, Service::Copy, 0, too_large, WITHIN).await;
    assert!(matches!(&refused, Err(PeerError::Refused { why, .. }) if why.contains("limit")), "{refused:?}");
    // An answer that is too large was made: what it answers may have been done.
    let lost = one.call(2, Service::Copy, 8, Bytes::from_static(b"x"), WITHIN).await;
    assert!(matches!(&lost, Err(PeerError::Lost { why, .. }) if why.contains("limit")), "{lost:?}");
    let largest = Bytes::from(vec![1; BODY_BYTES_MAX]);
    assert_eq!(one.call(2, Service::Copy, 0, largest.clone(), WITHIN).await.unwrap(), largest);
    assert!(futures::FutureExt::now_or_never(hanging).is_none(), "the connection is the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_room_and_no_time() {
    let (_two, address) = start(me("c", 2, 1)).await;
    let mut large = tokio::net::TcpStream::connect(&address).await.unwrap();
    large.write_all(&(1024 * 1024_u32).to_le_bytes()).await.unwrap();
    assert_eq!(large.read(&mut [0; 1]).await.unwrap_or(0), 0, "cut off by what it claims");
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    // They are on the same address as the node that comes next, which is the worst case.
    let one = one_that_knows(&address).await;
    let deadline = Instant::now() + WITHIN;
    while call(&one, 2, 0, b"x").await.is_err() {
        assert!(Instant::now() < deadline, "strangers keep a node out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for mut stranger in silent {
        assert_eq!(stranger.read(&mut [0; 1]).await.unwrap_or(0), 0, "cut off");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_nobody_waits_for_end_on_both_sides() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let open = Arc::new(AtomicUsize::new(0));
    let echo = Arc::new(Echo { open: open.clone() });
    let _two = Transport::start(listener, me("c", 2, 1), Security::Loopback, echo);
    let one = one_that_knows(&address).await;
    let dropped: Vec<_> = (0..10).map(|_| tokio::spawn(call(&one, 2, 9, b"x"))).collect();
    until("all are being answered", || open.load(Ordering::SeqCst) == 10).await;
    dropped.iter().for_each(tokio::task::JoinHandle::abort);
    until("those that were dropped are ended", || open.load(Ordering::SeqCst) == 0).await;
    let late = one.call(2, Service::Raft, 9, Bytes::from_static(b"x"), Duration::from_millis(200)).await;
    assert!(matches!(late, Err(PeerError::Lost { .. })), "{late:?}");
    until("one out of time is ended", || open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_down_is_told_at_once_and_nothing_has_left() {
    // Takes connections and never says hello.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = one_that_knows(&deaf.local_addr().unwrap().to_string()).await;
    let first = call(&one, 2, 0, b"x").await;
    assert!(matches!(first, Err(PeerError::Unreachable { .. })), "{first:?}");
    // By now it is being tried again, over and over.
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = call(&one, 2, 0, b"x").await;
        assert!(matches!(answer, Err(PeerError::Unreachable { .. })), "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(1), "it waited for a connection");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One that is out of time while it waits for the first connection has not left either.
    let other = one_that_knows(&deaf.local_addr().unwrap().to_string()).await;
    let body = Bytes::from_static(b"x");
    let late = other.call(2, Service::Raft, 0, body, Duration::from_millis(50)).await;
    assert!(matches!(late, Err(PeerError::Unreachable { .. })), "{late:?}");
}

/// Answers on every connection, until it gets a piece of a copy: then it reads no more of that one.
async fn chokes_on_copies(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut wire: security::Stream = Box::new(stream);
            hello::welcome(&mut wire, None, &shared, true).await.unwrap().unwrap();
            while let Ok(Some(bytes)) = frame::read(&mut wire, FRAME_BYTES_MAX, || {}).await {
                let answer = match Frame::decode(bytes).unwrap() {
                    Frame::Call { service: Service::Copy, .. } => std::future::pending().await,
                    Frame::Call { id, body, .. } => Frame::Answer { id, body },
                    _ => Frame::Pong,
                };
                frame::write(&mut wire, &answer, || {}).await.unwrap();
                wire.flush().await.unwrap();
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_never_waits_behind_a_copy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shared = Shared::new(me("c", 2, 1), Security::Loopback);
    let choking = tokio::spawn(chokes_on_copies(listener, Arc::new(shared)));
    let one = one_that_knows(&address).await;
    let piece = Bytes::from(vec![0; 1024 * 1024]);
    // Far more than the system's buffers take: the connection for copies is stuck.
    let copies: Vec<_> = (0..32).map(|_| one.call(2, Service::Copy, 0, piece.clone(), WITHIN)).collect();
    for _ in 0..100 {
        call(&one, 2, 0, b"heartbeat").await.unwrap();
        one.call(2, Service::Shard, 0, Bytes::from_static(b"call"), WITHIN).await.unwrap();
    }
    // None has been answered: those that had ended were given up as stuck, on a slow machine.
    if let Some((ended, ..)) = futures::FutureExt::now_or_never(futures::future::select_all(copies)) {
        ended.unwrap_err();
    }
    choking.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_of_one_node_the_later_start_stays() {
    let (two, address) = start(me("c", 2, 1)).await;
    let reach = async |one: &Transport| call(one, 2, 0, b"x").await;
    let begin = async |me: Identity| {
        let (one, _) = start(me).await;
        one.set_addresses(BTreeMap::from([(2, address.clone())]));
        one
    };
    let original = begin(me("c", 1, 5)).await;
    reach(&original).await.unwrap();
    // Copied while it was stopped: the same start, in another process.
    let twin = begin(me("c", 1, 5)).await;
    let refused = reach(&twin).await.unwrap_err().to_string();
    assert!(refused.contains("runs already") && refused.contains("copy of its data"), "{refused}");
    reach(&original).await.unwrap();
    // Copied while it ran: started once more. The connection that stands is cut off too.
    let later = begin(me("c", 1, 6)).await;
    reach(&later).await.unwrap();
    let deadline = Instant::now() + WITHIN;
    let refused = loop {
        match reach(&original).await {
            Err(error) if error.to_string().contains("this process is its past") => break error,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(matches!(refused, PeerError::Unreachable { .. }), "{refused:?}");
    reach(&later).await.unwrap();
    // One that says it is the node that it calls.
    let itself = begin(me("c", 2, 9)).await;
    itself.set_addresses(BTreeMap::from([(2, address.clone())]));
    assert!(reach(&itself).await.unwrap_err().to_string().contains("it is this node"));
    drop(two);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_overlap_agree_on_the_highest_of_both() {
    let (_two, address) = start(me("c", 2, 1)).await;
    let shared = Shared::new(me("c", 1, 1), Security::Loopback);
    let greet = async |protocols: (u32, u32)| {
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut wire: security::Stream = Box::new(stream);
        let known = hello::greet_with(&mut wire, None, 2, &shared, protocols).await;
        known.map(|known| (known.node, known.protocol))
    };
    let (min, max) = hello::PROTOCOLS;
    assert_eq!(greet((min, max)).await, Ok((2, max)));
    // The next version, which still speaks this one.
    assert_eq!(greet((max, max + 1)).await, Ok((2, max)));
    let refused = greet((max + 1, max + 2)).await.unwrap_err();
    let told = format!("speaks protocol {} to {}", max + 1, max + 2);
    assert!(refused.contains(&told) && refused.contains("upgrade"), "{refused}");
    greet((0, min - 1)).await.unwrap_err();
    greet((max + 2, max)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_version_is_told_why_it_is_refused() {
    let (_two, address) = start(me("c", 2, 1)).await;
    let mut old = tokio::net::TcpStream::connect(&address).await.unwrap();
    let hello = r#"{"magic":"opcode-peer","protocol":1,"cluster_id":"c","node_id":1,"incarnation":1,"to":2,"refused":null}"#;
    frame::write_bytes(&mut old, hello.as_bytes()).await.unwrap();
    let answer = frame::read(&mut old, FRAME_BYTES_MAX, || {}).await.unwrap().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer["refused"].as_str().unwrap().contains("speaks protocol 1 to 1"), "{answer}");
    assert!(answer["protocol"].as_u64() > Some(1) && answer["incarnation"].is_u64(), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_to_join_looks_in_first() {
    let (two, address) = start(me("c", 2, 1)).await;
    let look = async |cluster: &str, node| visit(&Security::Loopback, cluster, node, &address).await;
    assert_eq!(look("c", 2).await, Visit::Welcome);
    assert!(!two.is_alive(0), "a visitor is nobody");
    let other = look("other", 2).await;
    assert!(matches!(&other, Visit::Refused(why) if why.contains("cluster")), "{other:?}");
    let another = look("c", 3).await;
    assert!(matches!(&another, Visit::Refused(why) if why.contains("means node 3")), "{another:?}");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    drop(free);
    let absent = visit(&Security::Loopback, "c", 2, &nobody).await;
    assert!(matches!(absent, Visit::Absent(_)), "{absent:?}");
}
