//! TLS of calls: 1.2 and later, always verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use crate::secrets::file::read_private;
use crate::store::tls::system_roots;

/// A file of certificates or of a key, in PEM form.
pub struct Pem {
    path: PathBuf,
    /// As it was when it was read: what is made of it and what is compared are the same.
    pub text: Zeroizing<String>,
}

impl Pem {
    /// Reads one that anybody may read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), text: Zeroizing::new(text) })
    }

    /// Reads one that only its owner may read.
    ///
    /// # Errors
    /// When it cannot be read, or others may.
    pub fn read_private(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { path: path.to_owned(), text: read_private(path)? })
    }

    /// Its certificates, as roots.
    ///
    /// # Errors
    /// When it holds none, or something that is none.
    pub fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .with_context(|| format!("{} holds no root certificate", self.path.display()))?;
        }
        Ok(roots)
    }

    fn certificates(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let shown = self.path.display();
        let certificates =
            CertificateDer::pem_slice_iter(self.text.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|_| anyhow!("{shown} is damaged"))?;
        ensure!(!certificates.is_empty(), "{shown} holds no certificate in PEM form");
        Ok(certificates)
    }

    fn key(&self) -> anyhow::Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.text.as_bytes())
            .map_err(|_| anyhow!("{} holds no private key in PEM form", self.path.display()))
    }
}

/// What is shown to a server that asks who calls.
pub struct Identity {
    /// The certificate, and those that lead to its issuer.
    pub certificate: Pem,
    /// Its key.
    pub key: Pem,
}

/// The configuration of calls for which nothing is set: the system's roots, and nothing to show.
///
/// # Errors
/// When TLS cannot be set up.
pub fn general() -> anyhow::Result<Arc<ClientConfig>> {
    let roots = system_roots();
    if roots.is_empty() {
        tracing::warn!(
            "no root certificates found: every https call will fail; install ca-certificates or set SSL_CERT_FILE"
        );
    }
    config(roots, None)
}

/// A configuration that trusts `roots` and shows `identity` to whoever asks for it. Sessions are resumed only under the
/// same one: a resumed session is as good as the certificate that was shown when it began.
///
/// # Errors
/// When the identity is none, or TLS cannot be set up.
pub fn config(roots: RootCertStore, identity: Option<&Identity>) -> anyhow::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            builder.with_client_auth_cert(certificate.certificates()?, key.key()?).with_context(|| {
                format!("{} does not go with {}", key.path.display(), certificate.path.display())
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
