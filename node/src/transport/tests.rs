//! Two nodes over loopback.

use super::*;

/// Answers with the body, late ones after the others; refuses an empty one.
struct Echo;

impl PeerService for Echo {
    fn answer(
        &self,
        from: NodeId,
        _: Service,
        group: u32,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move {
            match group {
                // Waits for ever: the connection ends first.
                9 => std::future::pending().await,
                _ if body.is_empty() => Err(format!("node {from} said nothing")),
                _ => Ok(body),
            }
        })
    }
}

fn me(cluster: &str, node_id: NodeId, incarnation: u64) -> Identity {
    Identity { cluster_id: cluster.into(), node_id, incarnation }
}

async fn start(me: Identity) -> (Arc<Transport>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (Transport::start(listener, me, Arc::new(Echo)), address)
}

const WITHIN: Duration = Duration::from_secs(20);

fn call(
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
