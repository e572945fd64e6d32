//! The HTTP client: vetted addresses, separate clocks, capped bodies, errors with a class.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tower_service::Service;

use super::call::{Call, Stage};
use super::oauth::Tokens;
use super::request::Prepared;
use super::response::Kept;
use crate::egress::connector::{BoxError, Connecting, Connector, Secured};
use crate::egress::hosts::Hosts;
use crate::egress::names::{LookupFailed, Names};
use crate::egress::policy::Policy;
use crate::egress::ranges::{Reach, reach};
use crate::egress::rules::{Forbidden, Rules};
use crate::egress::tls;
use crate::egress::way::End;
use crate::store::connect::chain;

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
    /// The address is not to be called.
    Forbidden,
    /// No agreement on TLS, or a certificate we do not trust.
    Tls,
    /// The total time of the call was up.
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Io,
    /// The response's body or header is larger than allowed.
    ResponseTooLarge,
    /// A redirect that cannot or must not be followed.
    Redirect,
    /// A secret that is not there, or cannot be opened.
    Secret,
    /// No access token to call with.
    Auth,
    /// A list whose pages cannot be followed, or are too many.
    Pages,
    /// A body that the database does not have, or cannot keep.
    Blob,
    /// The payload asks for something that cannot be sent.
    InvalidRequest,
}

impl Class {
    /// As written in the error object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Forbidden => "forbidden",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Io => "io",
            Self::ResponseTooLarge => "response_too_large",
            Self::Redirect => "redirect",
            Self::Secret => "secret",
            Self::Auth => "auth",
            Self::Pages => "pages",
            Self::Blob => "blob",
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
    /// The body, if it is to be kept beside the log.
    pub kept: Option<Kept>,
    /// Size of the body as received, in bytes.
    pub body_bytes: usize,
    /// Where it came from.
    pub host: HostClass,
}

/// What kind of server was called, for whoever watches: names of hosts would be metrics without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostClass {
    /// It has an address of the public internet.
    Public,
    /// It has one of one's own, which a rule permits.
    Private,
    /// Nobody answered, or only a proxy knows where.
    #[default]
    Unknown,
}

impl HostClass {
    /// As in the metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Unknown => "unknown",
        }
    }

    /// Of whoever is at the other end of a response's connection.
    pub fn of(extensions: &Extensions) -> Self {
        match extensions.get::<End>().and_then(|End(end)| *end).map(|end| reach(end).0) {
            Some(Reach::Public) => Self::Public,
            Some(Reach::Internal(_) | Reach::Special(_)) => Self::Private,
            None => Self::Unknown,
        }
    }
}

/// A client that opens connections under some rules, and keeps them.
pub type Hyper = Client<Limited<Secured>, Full<Bytes>>;

/// How calls are made; see the flags of the same names.
#[derive(Clone, Debug)]
pub struct CallSettings {
    /// Limit for name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Limit for the look-up alone.
    pub dns_timeout: Duration,
    /// Name server to ask instead of the machine's.
    pub dns: Option<SocketAddr>,
    /// Largest response body taken, decompressed or not.
    pub max_response_bytes: usize,
    /// Most connections to one host that are kept for reuse, where no more calls are allowed.
    pub idle_per_host: usize,
}

/// Makes calls. One for the whole process: it keeps the connections.
#[derive(Clone)]
pub struct HttpClient(Arc<Shared>);

struct Shared {
    basis: Basis,
    tokens: Tokens,
    clients: RwLock<Clients>,
}

/// What all clients are made of.
struct Basis {
    settings: CallSettings,
    names: Names,
    tls: Arc<ClientConfig>,
}

/// Those who call under the general rules share connections; whoever is named has his own. Nobody gets one that his own
/// rules would not have opened, or that shows a client certificate which is not for him.
struct Clients {
    policy: Policy,
    general: Hyper,
    projects: BTreeMap<String, Hyper>,
}

impl HttpClient {
    /// Calls go where `policy` allows.
    ///
    /// # Errors
    /// When TLS or the look-up of names cannot be set up.
    pub fn new(settings: CallSettings, policy: Policy) -> anyhow::Result<Self> {
        let names = Names::new(settings.dns, settings.dns_timeout)?;
        let basis = Basis { settings, names, tls: tls::general()? };
        let clients = RwLock::new(basis.clients(policy));
        Ok(Self(Arc::new(Shared { basis, tokens: Tokens::default(), clients })))
    }

    /// Puts another policy into force, for every connection that is opened or reused from now on.
    pub fn set_policy(&self, policy: Policy) {
        let mut clients = self.0.clients.write().unwrap_or_else(PoisonError::into_inner);
        if clients.policy != policy {
            *clients = self.0.basis.clients(policy);
        }
    }

    /// What is set for single hosts.
    pub fn hosts(&self) -> Arc<Hosts> {
        self.0.clients.read().unwrap_or_else(PoisonError::into_inner).policy.hosts.clone()
    }

    fn client_of(&self, project: &str) -> Hyper {
        let clients = self.0.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.projects.get(project).unwrap_or(&clients.general).clone()
    }

    /// Makes one call for a project. The clock runs from here to the last byte of the body.
    ///
    /// # Errors
    /// Whatever kept a complete response from arriving. A response with status 500 is no error.
    pub async fn call(&self, project: &str, mut prepared: Prepared) -> Result<Answer, CallError> {
        let (host, timeout) = (prepared.host.clone(), prepared.timeout);
        let mut call = Call {
            client: self.client_of(project),
            project,
            tokens: &self.0.tokens,
            max_bytes: self.0.basis.settings.max_response_bytes,
            redactor: std::mem::take(&mut prepared.redactor),
            stage: Stage::Sent,
        };
        let made = tokio::time::timeout(timeout, call.make(prepared)).await;
        let error = match made {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => call.stage.timed_out(timeout),
        };
        Err(CallError { message: call.redactor.text(&format!("{host}: {}", error.message)), ..error })
    }
}

impl Basis {
    fn clients(&self, policy: Policy) -> Clients {
        let client = |project: Option<&str>, rules: &Arc<Rules>| {
            let Self { settings, names, tls } = self;
            let limit = settings.connect_timeout;
            let secured = Secured {
                connector: Connector::new(names.clone(), rules.clone(), policy.hosts.clone(), limit),
                general: tls.clone(),
                project: project.map(Arc::from),
            };
            self.client(secured, settings.idle_per_host.max(policy.hosts.most_at_once()))
        };
        let named = policy.projects.iter().map(|(name, rules)| (name.clone(), client(Some(name), rules)));
        Clients { general: client(None, &policy.general), projects: named.collect(), policy }
    }

    fn client(&self, inner: Secured, idle_per_host: usize) -> Hyper {
        let limit = self.settings.connect_timeout;
        Client::builder(TokioExecutor::new())
            .pool_idle_timeout(KEEP_IDLE)
            .pool_max_idle_per_host(idle_per_host)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_max_buf_size(MAX_HEADER_BYTES)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_BYTES as u32)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .build(Limited { inner, limit })
    }
}

/// Finds the class of an error among its causes.
pub fn classify(error: &(dyn StdError + 'static)) -> CallError {
    let mut class = Class::Io;
    let mut hopeless = false;
    // The outermost says "client error" at most; its causes say which.
    let mut message = error.source().map_or_else(|| error.to_string(), chain);
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<LookupFailed>() {
            class = Class::Dns;
        } else if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            class = Class::Forbidden;
            hopeless = true;
            message = forbidden.to_string();
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
    // A client certificate is refused when the connection is open already, and HTTP/2 keeps the text alone.
    if class == Class::Io && message.contains("received fatal alert") {
        class = Class::Tls;
    }
    CallError { class, message, hopeless }
}

/// A connector with one limit over lookup, TCP and TLS together.
#[derive(Clone, Debug)]
pub struct Limited<C> {
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

impl<C> Service<Uri> for Limited<C>
where
    C: Service<Uri>,
    C::Response: Send,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Connecting<C::Response>;

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
