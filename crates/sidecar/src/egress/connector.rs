//! Opens connections, to vetted addresses only.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use rustls::ClientConfig;
use tower_service::Service;

use super::hosts::Hosts;
use super::names::Names;
use super::rules::{Rules, literal};
use super::way::Way;

/// What a connector's errors come as.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// What a connector does.
pub type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Opens TCP connections under one set of rules.
#[derive(Clone)]
pub struct Connector {
    names: Names,
    rules: Arc<Rules>,
    hosts: Arc<Hosts>,
    limit: Duration,
}

impl Connector {
    /// `limit` is shared among the addresses of a host, so that a dead one does not use it up.
    pub fn new(names: Names, rules: Arc<Rules>, hosts: Arc<Hosts>, limit: Duration) -> Self {
        Self { names, rules, hosts, limit }
    }

    async fn connect(self, target: Uri) -> Result<Way, BoxError> {
        let (host, port) = place(&target).ok_or("the address names no host")?;
        let Some(proxy) = self.hosts.proxy(host, port) else {
            let stream = dialler(self.vetted(host, port).await?, self.limit).call(target).await?;
            let end = stream.inner().peer_addr()?.ip();
            return Ok(Way::new(stream, Some(end)));
        };
        // Told an address a proxy leads nowhere else; one that looks names up must be trusted with what they lead to.
        let ends = if proxy.resolves && literal(host).is_none() {
            self.rules.vet_name(host, port)?;
            vec![format!("{host}:{port}")]
        } else {
            self.vetted(host, port).await?.iter().map(ToString::to_string).collect()
        };
        let (stream, end) = proxy.open(&self.names, &ends, self.limit).await?;
        Ok(Way::new(stream, end.parse().ok().map(|end: SocketAddr| end.ip())))
    }

    /// The addresses of a host, if each may be called.
    async fn vetted(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, BoxError> {
        let addresses = self.names.look_up(host, port).await?;
        // One that is forbidden among others means that somebody plays with the name.
        for address in &addresses {
            self.rules.vet(host, *address)?;
        }
        Ok(addresses)
    }
}

/// Dials these addresses, whatever name it is given.
pub fn dialler(addresses: Vec<SocketAddr>, limit: Duration) -> HttpConnector<Vetted> {
    let mut tcp = HttpConnector::new_with_resolver(Vetted(addresses));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(limit));
    tcp
}

impl Service<Uri> for Connector {
    type Response = Way;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().connect(target))
    }
}

/// Puts TLS over connections, as it is set for the host.
#[derive(Clone)]
pub struct Secured {
    /// Opens the connections.
    pub connector: Connector,
    /// For hosts for which nothing is set.
    pub general: Arc<ClientConfig>,
    /// On whose behalf, if connections are not for several projects.
    pub project: Option<Arc<str>>,
}

impl Service<Uri> for Secured {
    type Response = MaybeHttpsStream<Way>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let set = place(&target)
            .and_then(|(host, port)| self.connector.hosts.tls(self.project.as_deref(), host, port));
        let tls = set.unwrap_or(&self.general).clone();
        HttpsConnector::from((self.connector.clone(), tls)).call(target)
    }
}

/// The host and the port that a URL names.
fn place(target: &Uri) -> Option<(&str, u16)> {
    let usual = if target.scheme_str() == Some("https") { 443 } else { 80 };
    Some((target.host()?, target.port_u16().unwrap_or(usual)))
}

/// Stands where a look-up would be, for the one that dials: there is no second one.
#[derive(Clone)]
pub struct Vetted(Vec<SocketAddr>);

impl Service<Name> for Vetted {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = std::future::Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        std::future::ready(Ok(self.0.clone().into_iter()))
    }
}
