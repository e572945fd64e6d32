//! Proxies that calls go through, where the policy file says so and nowhere else: variables of the environment are set by
//! whoever starts something else on the machine.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tower_service::Service;
use url::Url;

use super::connector::{BoxError, dialler};
use super::names::Names;
use super::rules::Rule;
use crate::store::connect::chain;

/// Asked by CONNECT to open a way to wherever a call goes, for http as for https: so that it can be told an address.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    credentials: Option<HeaderValue>,
    /// It is told names, and looks them up.
    pub resolves: bool,
}

/// Shows no credentials.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Which way a host's calls take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through no proxy.
    Direct,
    /// Through this one.
    Through(Proxy),
}

impl Route {
    /// Reads `proxy` and `proxy_resolves` as they stand in the file; nothing if there are none.
    ///
    /// # Errors
    /// When they make no sense; the text quotes nothing of them, for there may be a password.
    pub fn read(text: Option<&str>, resolves: bool) -> anyhow::Result<Option<Self>> {
        match text {
            None if resolves => bail!("proxy_resolves says how a proxy works: there is none beside it"),
            None => Ok(None),
            Some("direct") => {
                ensure!(!resolves, "proxy_resolves says how a proxy works: calls go direct");
                Ok(Some(Self::Direct))
            }
            Some(url) => Ok(Some(Self::Through(Proxy::read(url, resolves)?))),
        }
    }

    /// The proxy, if it leads through one.
    pub fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Direct => None,
            Self::Through(proxy) => Some(proxy),
        }
    }
}

impl Proxy {
    fn read(url: &str, resolves: bool) -> anyhow::Result<Self> {
        let unclear =
            "proxy is neither \"direct\" nor of the form http://host:port or http://user:password@host:port";
        let url = Url::parse(url).ok().context(unclear)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        ensure!(url.scheme() == "http" && bare, unclear);
        let host = url.host_str().context(unclear)?.to_owned();
        let decoded = |text| percent_decode_str(text).collect::<Vec<u8>>();
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => {
                let pair = [&decoded(user)[..], b":", &decoded(password.unwrap_or_default())].concat();
                let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { host, port: url.port().unwrap_or(80), credentials, resolves })
    }

    /// Where it is, for nobody to call there.
    pub fn place(&self) -> Option<Rule> {
        format!("{}:{}", self.host, self.port).parse().ok()
    }

    /// Whether it is told a password.
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// A way through it to the first of `ends` that it gets to, and which that is; each is `host:port`.
    ///
    /// # Errors
    /// When it is not there, or gets to none.
    pub async fn open<'a>(
        &self,
        names: &Names,
        ends: &'a [String],
        limit: Duration,
    ) -> Result<(TokioIo<TcpStream>, &'a str), BoxError> {
        let opening = async {
            let addresses = names.look_up(&self.host, self.port).await.map_err(|error| {
                tracing::debug!(proxy = ?self, reason = chain(&error), "the proxy's name is not known");
                BoxError::from("its name is not known")
            })?;
            self.open_from(addresses, ends, limit).await
        };
        opening.await.map_err(|error| {
            let reason = chain(&*error);
            tracing::debug!(proxy = ?self, reason, "the proxy opened no way");
            // A text alone: what is amiss with the proxy is not amiss with the host. Nor does it say where the proxy is.
            format!("the proxy opened no way: {reason}").into()
        })
    }

    async fn open_from<'a>(
        &self,
        addresses: Vec<SocketAddr>,
        ends: &'a [String],
        limit: Duration,
    ) -> Result<(TokioIo<TcpStream>, &'a str), BoxError> {
        let at = Uri::builder().scheme("http").authority(format!("{}:{}", self.host, self.port));
        let mut tunnel = Tunnel::new(at.path_and_query("/").build()?, dialler(addresses, limit));
        if let Some(credentials) = &self.credentials {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        let mut failed = "it was given no address".into();
        for end in ends {
            let target = Uri::builder().scheme("http").authority(end.as_str()).path_and_query("/").build()?;
            match tokio::time::timeout(limit / ends.len() as u32, tunnel.call(target)).await {
                Ok(Ok(way)) => return Ok((way, end)),
                Ok(Err(error)) => failed = error.into(),
                Err(_) => failed = "it did not answer in time".into(),
            }
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_never_shown_with_its_password() {
        let read = |text| Route::read(Some(text), false);
        let Ok(Some(Route::Through(proxy))) = read("http://ann:p%40ss%3A1@proxy.corp:3128/") else {
            panic!()
        };
        assert_eq!(proxy.credentials.as_ref().unwrap(), "Basic YW5uOnBAc3M6MQ==");
        let shown = format!("{proxy:?} {:?}", proxy.credentials);
        assert!(shown.starts_with("proxy.corp:3128 ") && !shown.contains("YW5"), "{shown}");
        assert_eq!(proxy.place().unwrap().to_string(), "proxy.corp:3128");
        let Ok(Some(Route::Through(bare))) = read("http://[fd00::1]") else { panic!() };
        assert_eq!((format!("{bare:?}"), bare.has_credentials()), ("[fd00::1]:80".to_owned(), false));
        assert_eq!(read("direct").unwrap(), Some(Route::Direct));
        assert_eq!(Route::read(None, false).unwrap(), None);
        for bad in
            ["", "ann:hunter2@h", "https://ann:hunter2@h", "http://ann:hunter2@h/x", "socks5://hunter2@h:1"]
        {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("neither") && !error.contains("hunter2"), "{error}");
        }
        assert!(Route::read(None, true).is_err() && Route::read(Some("direct"), true).is_err());
    }
}
