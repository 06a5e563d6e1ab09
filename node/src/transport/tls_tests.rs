//! Two nodes with certificates, and all those that have none, or the wrong ones.

use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::tests::{WITHIN, call, me, start_with};
use super::*;

/// A CA that signs whatever it is asked to.
struct Authority {
    roots: Arc<RootCertStore>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { roots: Arc::new(roots), issuer: Issuer::new(params, key) }
    }

    /// A node's side with a certificate for `host`, valid until the year `until`, that believes
    /// `believed`.
    fn side(&self, host: &str, until: i32, believed: &Self) -> Security {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![certificate.der().clone()];
        Security::Mutual(Mutual::build(believed.roots.clone(), chain, key).unwrap())
    }

    fn good(&self) -> Security {
        self.side("127.0.0.1", 4_000, self)
    }
}

/// What node 1 is told when it calls node 2, both secured so.
async fn reach(one: Security, two: Security) -> Result<Bytes, PeerError> {
    let (_two, address) = start_with(me("c", 2, 1), two).await;
    let (one, _) = start_with(me("c", 1, 1), one).await;
    one.set_addresses(BTreeMap::from([(2, address)]));
    call(&one, 2, 0, b"x").await
}

async fn refusal(one: Security, two: Security) -> String {
    match reach(one, two).await {
        Err(PeerError::Unreachable { why, .. }) => why,
        other => panic!("it was let in, or may have been: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_ca_talk_and_write_much() {
    let ca = Authority::new();
    let (_two, address) = start_with(me("c", 2, 1), ca.good()).await;
    let (one, _) = start_with(me("c", 1, 1), ca.good()).await;
    one.set_addresses(BTreeMap::from([(2, address)]));
    let body = Bytes::from(vec![7; 1024 * 1024]);
    let calls = (0..16).map(|_| one.call(2, Service::Raft, 0, body.clone(), WITHIN));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_prove_who_it_is_is_told_why() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let bad = |side: Security| (side, ours.good());
    for ((one, two), why) in [
        // The one that calls is told by the one that it calls.
        (bad(foreign.side("127.0.0.1", 4_000, &ours)), "does not accept this node's certificate"),
        (bad(ours.side("127.0.0.1", 2_020, &ours)), "CertificateExpired"),
        (bad(Security::Loopback), "it speaks TLS, and this node has no certificates"),
        // And it looks itself.
        ((ours.good(), foreign.good()), "not by this cluster's CA"),
        ((ours.good(), ours.side("127.0.0.1", 2_020, &ours)), "expired"),
        ((ours.good(), ours.side("10.0.0.1", 4_000, &ours)), "not valid for name"),
        ((ours.good(), Security::Loopback), "does not speak TLS"),
    ] {
        let refused = refusal(one, two).await;
        assert!(refused.contains(why), "wanted {why}, got {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_the_part_of_another_node() {
    let ca = Authority::new();
    let (two, address) = start_with(me("c", 2, 1), ca.good()).await;
    // Node 3 is elsewhere, and this one, with a certificate for here, says that it is node 3.
    two.set_addresses(BTreeMap::from([(3, "10.0.0.3:5100".to_owned())]));
    let (forger, _) = start_with(me("c", 3, 1), ca.good()).await;
    forger.set_addresses(BTreeMap::from([(2, address.clone())]));
    let refused = call(&forger, 2, 0, b"x").await.unwrap_err().to_string();
    assert!(refused.contains("not for 10.0.0.3, where the cluster knows node 3"), "{refused}");
    let (honest, _) = start_with(me("c", 3, 1), ca.side("10.0.0.3", 4_000, &ca)).await;
    honest.set_addresses(BTreeMap::from([(2, address)]));
    call(&honest, 2, 0, b"x").await.unwrap();
}
