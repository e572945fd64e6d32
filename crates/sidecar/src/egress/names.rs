//! From host names to addresses.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::rules::literal;

/// An answer is believed no longer, whatever it says.
const LONGEST_TTL: Duration = Duration::from_secs(300);
/// That a name does not exist is believed no longer.
const LONGEST_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// A name that led nowhere.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupFailed {
    /// The name servers know no address, or could not be asked.
    #[error("no address for the host name: {0}")]
    NoAddress(String),
    /// Nobody told in time.
    #[error("no address for the host name within {} ms", .0.as_millis())]
    TooLate(Duration),
}

/// Looks names up as they are: without the search domains of this machine. Its hosts file counts.
#[derive(Clone)]
pub struct Names {
    resolver: TokioResolver,
    limit: Duration,
}

impl Names {
    /// Asks `server`, else those the machine is set up with; each look-up takes at most `limit`.
    ///
    /// # Errors
    /// When the machine's configuration cannot be read.
    pub fn new(server: Option<SocketAddr>, limit: Duration) -> anyhow::Result<Self> {
        let mut builder = match server {
            None => TokioResolver::builder_tokio().context(
                "cannot read how this machine looks up names (/etc/resolv.conf); --dns names a server",
            )?,
            Some(server) => {
                let via = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![via(ConnectionConfig::udp()), via(ConnectionConfig::tcp())];
                let server = NameServerConfig::new(server.ip(), true, connections);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        // Two attempts within the limit, so that one lost datagram is no failure.
        options.timeout = limit / 2;
        options.attempts = 1;
        options.positive_max_ttl = Some(LONGEST_TTL);
        options.negative_max_ttl = Some(LONGEST_NEGATIVE_TTL);
        Ok(Self { resolver: builder.build().context("cannot set up the look-up of names")?, limit })
    }

    /// The addresses of a host, which may be one itself; never none.
    ///
    /// # Errors
    /// When there is none, or nobody tells in time.
    pub async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupFailed> {
        if let Some(address) = literal(host) {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        // The dot at the end keeps search domains out.
        let absolute = format!("{}.", host.trim_end_matches('.'));
        let found = tokio::time::timeout(self.limit, self.resolver.lookup_ip(absolute))
            .await
            .map_err(|_| LookupFailed::TooLate(self.limit))?
            .map_err(|error| LookupFailed::NoAddress(error.to_string()))?;
        let addresses: Vec<SocketAddr> = found.iter().map(|address| SocketAddr::new(address, port)).collect();
        if addresses.is_empty() {
            return Err(LookupFailed::NoAddress("the answer holds none".to_owned()));
        }
        Ok(addresses)
    }
}
