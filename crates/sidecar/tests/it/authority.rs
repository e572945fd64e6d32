//! Certificates for a test, and a server that shows them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Whoever issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM form.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Writes `ca.pem`, and `client.pem` with `client.key`, which are of a client of this authority.
    pub fn write(&self, folder: &Path) {
        let client = self.issue("client");
        let files =
            [("ca.pem", self.0.pem()), ("client.pem", client.certificate), ("client.key", client.key)];
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn server(&self, name: &str, asks_for_client: bool) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_for_client {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let Issued { certificate, key } = self.issue(name);
        let chain = rustls::pki_types::CertificateDer::pem_slice_iter(certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain.map(Result::unwrap).collect(), key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// A request as it came over TLS.
#[derive(Clone, Debug)]
pub struct Secured {
    /// Over which connection, counted from 1.
    pub connection: usize,
    pub version: Version,
    pub knows_client: bool,
    pub host: Option<String>,
}

/// A server with a certificate for one name, on loopback.
#[derive(Clone)]
pub struct TlsStub {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Secured>>>,
}

impl TlsStub {
    pub async fn start(authority: &Authority, name: &str, asks_for_client: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let acceptor = TlsAcceptor::from(Arc::new(authority.server(name, asks_for_client)));
        let server = stub.clone();
        tokio::spawn(async move {
            for connection in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(server.clone().serve(acceptor.clone(), stream, connection));
            }
        });
        stub
    }

    pub fn seen(&self) -> Vec<Secured> {
        self.seen.lock().unwrap().clone()
    }

    /// Whoever hangs up, or shows the wrong certificate or none, is let go.
    async fn serve(self, acceptor: TlsAcceptor, stream: TcpStream, connection: usize) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let (_, session) = stream.get_ref();
        let knows_client = session.peer_certificates().is_some();
        let is_h2 = session.alpn_protocol() == Some(b"h2");
        let answer = service_fn(|request: Request<Incoming>| {
            let host = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
            let host = host.or_else(|| request.uri().authority().map(ToString::to_string));
            let seen = Secured { connection, version: request.version(), knows_client, host };
            self.seen.lock().unwrap().push(seen);
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"secured")))) }
        });
        let io = TokioIo::new(stream);
        let _ = if is_h2 {
            http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await
        } else {
            http1::Builder::new().serve_connection(io, answer).await
        };
    }
}
