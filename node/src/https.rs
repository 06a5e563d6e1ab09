//! HTTPS on the listener for clients, by a certificate and a key in files, which are read again when
//! they change.
//!
//! Handshakes are made beside each other, before a connection is handed on: one that takes its time
//! keeps nobody else waiting, and is cut off when it has taken too much. Connections that there are
//! keep the certificate that they began with.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::serve::Listener;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use xxhash_rust::xxh3::xxh3_64;

use crate::transport::{Strangers, linger};
use crate::{secret_file, trust};

/// Longest time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at a time, and from one address; more are hung up on.
const HANDSHAKES_MAX: usize = 1_024;
const HANDSHAKES_OF_ONE_MAX: usize = 128;
/// Connections that wait to be taken.
const CONNECTIONS_WAITING_MAX: usize = 64;
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long to wait when no connection can be accepted, as when no file can be opened.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The first byte of a TLS record with a handshake.
const HANDSHAKE: u8 = 0x16;

/// The node's certificate for clients, as it is now.
pub(crate) struct Https {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    /// Of both files.
    hash: u64,
}

impl Https {
    /// Reads the files. The error says which of them is wrong, and how.
    pub(crate) fn load(cert: PathBuf, key: PathBuf) -> Result<Arc<Self>> {
        let current = read(&cert, &key)?;
        Ok(Arc::new(Self { cert, key, current: RwLock::new(current) }))
    }

    /// Reads the files again now and then, and when the process is sent SIGHUP, for ever.
    pub(crate) fn follow(self: &Arc<Self>) -> Result<impl Future<Output = ()> + Send + use<>> {
        let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be handled")?;
        let https = self.clone();
        Ok(async move {
            loop {
                tokio::select! {
                    _ = hangup.recv() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                https.look();
            }
        })
    }

    /// Takes the files as they are now. While they cannot be used, what was read before counts.
    fn look(&self) {
        match read(&self.cert, &self.key) {
            Ok(new) if new.hash == self.current.read().hash => {}
            Ok(new) => {
                *self.current.write() = new;
                tracing::info!(cert = %self.cert.display(), "clients are shown a new certificate");
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "clients are shown the certificate that was there before");
            }
        }
    }

    /// Makes handshakes on a listener.
    pub(crate) fn listen(self: &Arc<Self>, listener: TcpListener) -> io::Result<Doors> {
        let address = listener.local_addr()?;
        let (ready, connections) = mpsc::channel(CONNECTIONS_WAITING_MAX);
        let accepting = tokio::spawn(accept(self.clone(), listener, ready));
        Ok(Doors { address, connections, accepting })
    }
}

fn read(cert: &Path, key: &Path) -> Result<Current> {
    let chain = trust::certificates(cert)?;
    let key_text = secret_file::read(key)?;
    let hash = chain
        .iter()
        .fold(xxh3_64(key_text.as_bytes()), |hash, certificate| hash.rotate_left(1) ^ xxh3_64(certificate));
    let private = PrivateKeyDer::from_pem_slice(key_text.as_bytes())
        .with_context(|| format!("{}: no private key in PEM", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| {
            format!("{}: not the key of the certificate in {}", key.display(), cert.display())
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), hash })
}

/// Connections that have made their handshake. Dropped, it listens no more.
pub(crate) struct Doors {
    address: SocketAddr,
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    accepting: JoinHandle<()>,
}

impl Listener for Doors {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // Whoever accepts goes on until this is dropped.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts connections for ever; handshakes end with it.
async fn accept(
    https: Arc<Https>,
    listener: TcpListener,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let strangers = Arc::new(Strangers::at_most(HANDSHAKES_MAX, HANDSHAKES_OF_ONE_MAX));
    let mut handshakes = JoinSet::new();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while handshakes.try_join_next().is_some() {}
        let Some(stranger) = strangers.enter(address.ip()) else {
            tracing::debug!(%address, "too many handshakes are under way");
            continue;
        };
        let (config, ready) = (https.current.read().config.clone(), ready.clone());
        handshakes.spawn(async move {
            let made = tokio::time::timeout(HANDSHAKE_MAX, handshake(config.into(), stream)).await;
            drop(stranger);
            match made {
                // Nobody takes connections any more when the node stops.
                Ok(Ok(stream)) => _ = ready.send((stream, address)).await,
                Ok(Err(why)) => tracing::debug!(%address, why, "no handshake"),
                Err(_) => tracing::debug!(%address, "a handshake took too long"),
            }
        });
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let mut first = [0];
    let told = |error: io::Error| error.to_string();
    if stream.peek(&mut first).await.map_err(told)? == 0 {
        return Err("it hung up".into());
    }
    if first[0] != HANDSHAKE {
        refuse_plain(stream).await.map_err(told)?;
        return Err("it does not speak TLS".into());
    }
    stream.set_nodelay(true).map_err(told)?;
    acceptor.accept(stream).await.map_err(told)
}

/// Tells who speaks HTTP in the clear what to do.
async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let problem = json!({
        "type": "urn:opcode:problem:validation-error", "title": "Validation error", "status": 400,
        "detail": "this port speaks HTTPS: ask for https://", "code": "VALIDATION_ERROR",
        "trace_id": uuid::Uuid::now_v7().simple().to_string(),
    })
    .to_string();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        problem.len()
    );
    stream.write_all(format!("{head}{problem}").as_bytes()).await?;
    linger(stream).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn made(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        let (cert_file, key_file) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        secret_file::create(&key_file, key.serialize_pem().as_bytes()).unwrap();
        (cert_file, key_file)
    }

    fn refused(cert: &Path, key: &Path) -> String {
        format!("{:#}", Https::load(cert.into(), key.into()).err().unwrap())
    }

    #[test]
    fn files_that_do_not_do_are_told_of_by_name() {
        let home = tempfile::tempdir().unwrap();
        let (cert, key) = made(home.path(), "one");
        let (_, other) = made(home.path(), "two");
        Https::load(cert.clone(), key.clone()).unwrap();
        let told = refused(&cert, &other);
        assert!(
            told.contains("two.key: not the key of the certificate in") && told.contains("one.pem"),
            "{told}"
        );
        let missing = home.path().join("none.pem");
        assert!(refused(&missing, &key).contains("none.pem: cannot be read"));
        assert!(refused(&key, &key).contains("one.key: no certificate"), "{}", refused(&key, &key));
        let open = home.path().join("open.key");
        std::fs::copy(&key, &open).unwrap();
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(refused(&cert, &open).contains("chmod 600"));
        std::fs::write(&missing, "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n")
            .unwrap();
        assert!(refused(&missing, &key).contains("none.pem: no certificate"), "{}", refused(&missing, &key));
    }

    #[test]
    fn a_new_certificate_is_taken_and_a_bad_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let (cert, key) = made(home.path(), "one");
        let (new_cert, new_key) = made(home.path(), "two");
        let https = Https::load(cert.clone(), key.clone()).unwrap();
        let now = || https.current.read().hash;
        let before = now();
        std::fs::copy(&new_cert, &cert).unwrap();
        https.look();
        assert_eq!(now(), before, "the key is not there yet");
        std::fs::copy(&new_key, &key).unwrap();
        https.look();
        assert_ne!(now(), before);
    }
}
