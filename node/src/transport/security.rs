//! What proves who is at the other end of a connection: certificates of the cluster's own CA, on
//! both sides, by TLS 1.3; or nothing, where the only way in is this machine's loopback.
//!
//! TLS keeps messages from being read, changed and sent again. A certificate says at which
//! addresses a node is; whom it claims to be is held against the address that the cluster knows.
//! Sessions are never resumed and no early data is taken, since that alone could be replayed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use opcode_shard::peer::NodeId;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The files of a node's folder of certificates: the cluster's CA, its own certificate and key.
pub(crate) const CA_FILE: &str = "ca.pem";
pub(crate) const CERTIFICATE_FILE: &str = "node.pem";
pub(crate) const KEY_FILE: &str = "node.key";

/// Bytes of one that was refused that are read before it is cut off, so that it reads why.
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// A connection, secured or not.
pub(super) type Stream = Box<dyn Wire>;

/// What a connection can do.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// How nodes prove to each other who they are.
#[derive(Clone)]
pub(crate) enum Security {
    /// Not at all: on loopback.
    Loopback,
    /// By certificates of one CA.
    Mutual(Mutual),
}

/// Both sides of TLS between nodes.
#[derive(Clone)]
pub(crate) struct Mutual {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

/// What the other side has shown.
pub(super) struct Certificate(CertificateDer<'static>);

impl Certificate {
    /// Whether it is for the place where the cluster knows `node`.
    pub(super) fn check_is_for(&self, address: &str, node: NodeId) -> Result<(), String> {
        let host = host_of(address);
        let name = ServerName::try_from(host).map_err(|_| format!("{host} is no name of a host"))?;
        let parsed = ParsedCertificate::try_from(&self.0).map_err(|error| error.to_string())?;
        verify_server_name(&parsed, &name).map_err(|_| {
            format!(
                "its certificate is not for {host}, where the cluster knows node {node}: make one for it \
                 with `opcode cluster certs`, with the old address and the new one when it moves"
            )
        })
    }
}

impl Security {
    /// Secures a connection that was made to `address`.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        address: &str,
    ) -> Result<(Stream, Option<Certificate>), String> {
        let Self::Mutual(mutual) = self else { return Ok((Box::new(stream), None)) };
        let host = host_of(address);
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no name of a host"))?;
        let stream = mutual.connector.connect(name, stream).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "it does not speak TLS, as this node does: has it no certificates?".to_owned()
            }
            _ => described(&error),
        })?;
        let certificate = shown(stream.get_ref().1.peer_certificates())?;
        Ok((Box::new(stream), Some(certificate)))
    }

    /// Secures a connection that came in.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<(Stream, Option<Certificate>), String> {
        let Self::Mutual(mutual) = self else { return Ok((Box::new(stream), None)) };
        match mutual.acceptor.accept(stream).into_fallible().await {
            Ok(stream) => {
                let certificate = shown(stream.get_ref().1.peer_certificates())?;
                Ok((Box::new(stream), Some(certificate)))
            }
            Err((error, stream)) => {
                linger(stream).await;
                Err(described(&error))
            }
        }
    }
}

fn shown(certificates: Option<&[CertificateDer<'static>]>) -> Result<Certificate, String> {
    let own = certificates.and_then(<[_]>::first).ok_or("it shows no certificate")?;
    Ok(Certificate(own.clone()))
}

/// Lets the other side read what was said last: closed with bytes unread, the connection would be
/// reset. The caller bounds the time.
pub(crate) async fn linger(mut stream: TcpStream) {
    // It is gone either way.
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await;
}

impl Mutual {
    /// Reads a node's folder of certificates, and checks that its own is valid, by the CA beside it,
    /// and for `address`, where others reach it.
    pub(crate) fn load(folder: &Path, address: &str) -> Result<Self> {
        let read = |name: &str| {
            let file = folder.join(name);
            std::fs::read(&file).with_context(|| {
                format!("{}: cannot be read; `opcode cluster certs` makes it", file.display())
            })
        };
        crate::secret_file::check(&folder.join(KEY_FILE))?;
        let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>> {
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(name)?).collect();
            let found =
                found.with_context(|| format!("{}: no certificates in PEM", folder.join(name).display()))?;
            if found.is_empty() {
                bail!("{}: no certificate in it", folder.join(name).display());
            }
            Ok(found)
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(CA_FILE)? {
            roots
                .add(certificate)
                .with_context(|| format!("{}: no certificate of a CA", folder.join(CA_FILE).display()))?;
        }
        let key = PrivateKeyDer::from_pem_slice(&read(KEY_FILE)?)
            .with_context(|| format!("{}: no private key in PEM", folder.join(KEY_FILE).display()))?;
        let chain = certificates(CERTIFICATE_FILE)?;
        let roots = Arc::new(roots);
        let shown = || folder.join(CERTIFICATE_FILE).display().to_string();
        check_own(roots.clone(), &chain, address).with_context(shown)?;
        Self::build(roots, chain, key).with_context(shown)
    }

    /// Both sides, with a certificate that has been looked at.
    pub(super) fn build(
        roots: Arc<RootCertStore>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let of_servers =
            WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let of_clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(of_clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .context("the key is not the certificate's")?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(of_servers)
            .with_client_auth_cert(chain, key)
            .context("the key is not the certificate's")?;
        client.resumption = Resumption::disabled();
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }
}

/// Looks at a node's own certificate as others will.
fn check_own(roots: Arc<RootCertStore>, chain: &[CertificateDer<'static>], address: &str) -> Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let host = host_of(address);
    let name = ServerName::try_from(host).with_context(|| format!("{host} is no name of a host"))?;
    WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()?
        .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
        .map_err(|error| anyhow::anyhow!("others would refuse it: {}", reason(&error)))?;
    Ok(())
}

/// The host of an address, `HOST:PORT`; of an IPv6 address without its brackets.
pub(crate) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// What went wrong on a connection, in words for whoever has to mend it.
pub(super) fn described(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => reason(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it hung up".into(),
        None => error.to_string(),
    }
}

fn reason(error: &rustls::Error) -> String {
    match error {
        // The second is of a CA with the same name.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "its certificate is not by this cluster's CA".into(),
        rustls::Error::NoCertificatesPresented => "it shows no certificate".into(),
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS, as this node does: has it no certificates?".into()
        }
        rustls::Error::AlertReceived(alert) => {
            format!("it does not accept this node's certificate: {alert:?}")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address() {
        assert_eq!(host_of("10.0.0.1:5100"), "10.0.0.1");
        assert_eq!(host_of("[::1]:5100"), "::1");
        assert_eq!(host_of("node1.example:5100"), "node1.example");
    }
}
