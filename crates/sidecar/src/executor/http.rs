//! The HTTP client: separate clocks, capped bodies, no redirects, no proxies, errors with a class.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower_service::Service;

use super::request::Prepared;
use super::response;
use crate::store::connect::chain;
use crate::store::tls;

/// An idle connection is kept this long: less than the common five seconds after which servers close
/// theirs, so that a request seldom meets a connection that is just being closed.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// Headers of a response, all together.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Fields of a response's header.
const MAX_HEADERS: usize = 100;

/// Why there is no response. The names are those of the error's `class`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The host name has no address, or nobody told in time.
    Dns,
    /// No TCP connection.
    Connect,
    /// No agreement on TLS, or a certificate we do not trust.
    Tls,
    /// The total time of the call was up.
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Io,
    /// The response's body or header is larger than allowed.
    ResponseTooLarge,
    /// The payload asks for something that cannot be sent.
    InvalidRequest,
}

impl Class {
    /// As written in the error object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Io => "io",
            Self::ResponseTooLarge => "response_too_large",
            Self::InvalidRequest => "invalid_request",
        }
    }
}

/// A call that brought no response.
#[derive(Clone, Debug)]
pub struct CallError {
    /// What kind of trouble.
    pub class: Class,
    /// For people; names the host at most, never the path, query or headers.
    pub message: String,
    /// Another attempt would end the same way.
    pub hopeless: bool,
}

impl CallError {
    /// As reported to the database.
    pub fn to_json(&self) -> Value {
        let mut message: String = self.message.chars().filter(|c| *c != '\0').collect();
        if let Some((end, _)) = message.char_indices().nth(500) {
            message.truncate(end);
        }
        let mut error = json!({"class": self.class.name(), "message": message});
        if self.hopeless {
            error["retryable"] = Value::Bool(false);
        }
        error
    }
}

/// A response, already in the form of a job's output.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The job's output.
    pub output: Value,
    /// Size of the body as received, in bytes.
    pub body_bytes: usize,
}

type Connector = Limited<HttpsConnector<HttpConnector<Resolver>>>;

/// Makes calls. One for the whole process: it keeps the connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    max_response_bytes: usize,
}

impl HttpClient {
    /// `connect_timeout` covers name lookup, TCP and TLS; at most `idle_per_host` connections to one
    /// host are kept for reuse.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        connect_timeout: Duration,
        max_response_bytes: usize,
        idle_per_host: usize,
    ) -> anyhow::Result<Self> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Shared among the addresses of the host, so that a dead one does not use up the limit.
        tcp.set_connect_timeout(Some(connect_timeout));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls::http_client()?)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(KEEP_IDLE)
            .pool_max_idle_per_host(idle_per_host)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_max_buf_size(MAX_HEADER_BYTES)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_BYTES as u32)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .build(Limited { inner: https, limit: connect_timeout });
        Ok(Self { client, max_response_bytes })
    }

    /// Makes one call. The clock runs from here to the last byte of the body.
    ///
    /// # Errors
    /// Whatever kept a complete response from arriving. A response with status 500 is no error.
    pub async fn call(&self, prepared: Prepared) -> Result<Answer, CallError> {
        let begun = Instant::now();
        let host = prepared.host.clone();
        let mut stage = "before the response began";
        let exchange = async {
            let response = self.client.request(prepared.request).await.map_err(|error| classify(&error))?;
            stage = "before the response was complete";
            let (parts, body) = response.into_parts();
            let announced =
                parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            let body = self.read(body, announced).await?;
            let body_bytes = body.len();
            let status = parts.status.as_u16();
            Ok(Answer {
                status,
                output: response::output(status, &parts.headers, body, begun.elapsed()),
                body_bytes,
            })
        };
        let result = tokio::time::timeout(prepared.timeout, exchange).await;
        let error = match result {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => CallError {
                class: Class::Timeout,
                message: format!("timed out after {} ms, {stage}", prepared.timeout.as_millis()),
                hopeless: false,
            },
        };
        Err(CallError { message: format!("{host}: {}", error.message), ..error })
    }

    async fn read(&self, mut body: Incoming, announced: Option<u64>) -> Result<Vec<u8>, CallError> {
        let too_large = || CallError {
            class: Class::ResponseTooLarge,
            message: format!("the response body is larger than {} bytes", self.max_response_bytes),
            hopeless: true,
        };
        // Said to be too large: no need to look (a HEAD response announces what it does not send).
        let announced = announced.filter(|_| !body.is_end_stream());
        let expected = usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX);
        if expected > self.max_response_bytes {
            return Err(too_large());
        }
        // What is announced is not yet sent: reserve little ahead of it.
        let mut out = Vec::with_capacity(expected.min(64 << 10));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| classify(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > self.max_response_bytes - out.len() {
                return Err(too_large());
            }
            out.extend_from_slice(&data);
        }
        Ok(out)
    }
}

/// Finds the class of an error among its causes.
fn classify(error: &(dyn StdError + 'static)) -> CallError {
    let mut class = Class::Io;
    let mut hopeless = false;
    // The outermost says "client error" at most; its causes say which.
    let mut message = error.source().map_or_else(|| error.to_string(), chain);
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<LookupFailed>() {
            class = Class::Dns;
        } else if let Some(limit) = cause.downcast_ref::<ConnectTimeout>() {
            class = Class::Connect;
            message = limit.to_string();
        } else if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            class = Class::Tls;
            hopeless = matches!(error, rustls::Error::InvalidCertificate(_));
        } else if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && error.is_parse_too_large()
        {
            class = Class::ResponseTooLarge;
            hopeless = true;
            message = format!("the response header is larger than {MAX_HEADER_BYTES} bytes");
        } else if let Some(error) = cause.downcast_ref::<hyper_util::client::legacy::Error>()
            && error.is_connect()
        {
            class = Class::Connect;
        }
        // An I/O error hides the error it wraps: its source() is that error's source().
        next = match cause.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => cause.source(),
        };
    }
    CallError { class, message, hopeless }
}

/// The name lookup, with errors that can be told from others.
#[derive(Clone, Debug)]
struct Resolver(GaiResolver);

#[derive(Debug, thiserror::Error)]
#[error("no address for the host name: {0}")]
struct LookupFailed(std::io::Error);

type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = LookupFailed;
    type Future = BoxFuture<Self::Response, LookupFailed>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LookupFailed>> {
        self.0.poll_ready(cx).map_err(LookupFailed)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking = self.0.call(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = looking.await.map_err(LookupFailed)?.collect();
            if found.is_empty() {
                let none = std::io::Error::new(std::io::ErrorKind::NotFound, "empty answer");
                return Err(LookupFailed(none));
            }
            Ok(found.into_iter())
        })
    }
}

/// A connector with one limit over lookup, TCP and TLS together.
#[derive(Clone, Debug)]
struct Limited<C> {
    inner: C,
    limit: Duration,
}

#[derive(Debug)]
struct ConnectTimeout(Duration);

impl fmt::Display for ConnectTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection within {} ms", self.0.as_millis())
    }
}

impl StdError for ConnectTimeout {}

type BoxError = Box<dyn StdError + Send + Sync>;

impl<C> Service<Uri> for Limited<C>
where
    C: Service<Uri>,
    C::Response: Send,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<C::Response, BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let limit = self.limit;
        let connecting = self.inner.call(target);
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(ConnectTimeout(limit).into()),
            }
        })
    }
}
