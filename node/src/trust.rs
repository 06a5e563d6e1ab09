//! Whose certificates this program takes when it calls a node over HTTPS: by the CAs of a file, or
//! those that the system trusts.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Config;
use crate::transport::CA_FILE;

/// Largest file of certificates, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Whom to trust.
pub(crate) enum Trust {
    /// Whom the system trusts.
    System,
    /// These, and nobody else.
    Only(Vec<CertificateDer<'static>>),
    /// These too.
    Also(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// The CAs of a file, if there is one.
    pub(crate) fn of(ca_file: Option<&Path>) -> Result<Self> {
        ca_file.map_or(Ok(Self::System), |file| certificates(file).map(Self::Only))
    }

    /// Whom a node trusts when it calls others: the CAs that it was told, else that of its cluster too.
    pub(crate) fn of_node(config: &Config) -> Result<Self> {
        match (&config.ca_file, &config.peer_tls_dir) {
            (None, Some(folder)) => certificates(&folder.join(CA_FILE)).map(Self::Also),
            (file, _) => Self::of(file.as_deref()),
        }
    }

    /// An HTTP client that trusts these.
    pub(crate) fn http_client(&self) -> Result<reqwest::ClientBuilder> {
        // A second provider is refused, and the first one serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder();
        let read = |certificates: &[CertificateDer<'static>]| {
            let read = certificates.iter().map(|certificate| reqwest::Certificate::from_der(certificate));
            read.collect::<Result<Vec<_>, _>>()
        };
        Ok(match self {
            Self::System => builder,
            Self::Only(certificates) => builder.tls_certs_only(read(certificates)?),
            Self::Also(certificates) => builder.tls_certs_merge(read(certificates)?),
        })
    }

    /// The same for whoever speaks TLS by himself; the system's are not known then.
    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>> {
        let (Self::Only(certificates) | Self::Also(certificates)) = self else {
            bail!(
                "replicas are fetched over HTTPS here: name the CAs of the members' certificates with --ca-file"
            );
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).context("no certificate of a CA")?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// The certificates of a file in PEM, at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let shown = || file.display().to_string();
    let size = std::fs::metadata(file).with_context(|| format!("{}: cannot be read", shown()))?.len();
    if size > FILE_BYTES_MAX {
        bail!("{}: larger than {FILE_BYTES_MAX} bytes", shown());
    }
    let text = std::fs::read(file).with_context(|| format!("{}: cannot be read", shown()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.with_context(|| format!("{}: no certificates in PEM", shown()))?;
    if found.is_empty() {
        bail!("{}: no certificate in it", shown());
    }
    Ok(found)
}
