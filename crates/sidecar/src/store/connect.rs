//! From a connection string to a connection.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{self, ServerCheck};
use crate::egress::rules::Rule;

/// A parsed connection string. Shows itself without the password.
#[derive(Clone)]
pub struct DatabaseUrl {
    config: Config,
    check: ServerCheck,
    root_cert: Option<PathBuf>,
}

impl FromStr for DatabaseUrl {
    type Err = String;

    /// Reads both forms of a libpq connection string. `sslmode=verify-ca`, `sslmode=verify-full` and
    /// `sslrootcert` are taken out first, for the driver does not know them.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let mut check = ServerCheck::None;
        let mut root_cert = None;
        let mut keep = |key: &str, value: String| -> Option<String> {
            match (key, value.as_str()) {
                ("sslmode", "verify-ca") => {
                    check = ServerCheck::Issuer;
                    Some("require".to_owned())
                }
                ("sslmode", "verify-full") => {
                    check = ServerCheck::IssuerAndName;
                    Some("require".to_owned())
                }
                ("sslrootcert", "system") => None,
                ("sslrootcert", path) => {
                    root_cert = Some(PathBuf::from(path));
                    None
                }
                _ => Some(value),
            }
        };
        let rewritten = if is_url { rewrite_url(text, &mut keep) } else { rewrite_pairs(text, &mut keep)? };
        // The driver's message names the option at fault, never a value.
        let mut config = Config::from_str(&rewritten).map_err(|error| chain(&error))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("the connection string names no host".to_owned());
        }
        // Like libpq: a given root certificate makes "require" verify the issuer.
        if check == ServerCheck::None && root_cert.is_some() && config.get_ssl_mode() == SslMode::Require {
            check = ServerCheck::Issuer;
        }
        if config.get_application_name().is_none() {
            config.application_name("meshhook-sidecar");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        // A peer that vanished without a word is noticed within half a minute, idle or not.
        config.keepalives_idle(Duration::from_secs(15));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(20));
        }
        Ok(Self { config, check, root_cert })
    }
}

impl DatabaseUrl {
    /// The hosts and ports that it names, for nobody else to call there.
    pub fn places(&self) -> Vec<Rule> {
        use tokio_postgres::config::Host;
        let ports = self.config.get_ports();
        let port = |i: usize| ports.get(i).or_else(|| ports.first()).copied().unwrap_or(5432);
        let named = self.config.get_hosts().iter().enumerate().filter_map(|(i, host)| match host {
            Host::Tcp(name) => Some((name.clone(), port(i))),
            Host::Unix(_) => None,
        });
        let addresses =
            self.config.get_hostaddrs().iter().enumerate().map(|(i, at)| (at.to_string(), port(i)));
        let places = named.chain(addresses).map(|(host, port)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        });
        places.filter_map(|place| place.parse().ok()).collect()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use tokio_postgres::config::Host;
        let user = self.config.get_user().unwrap_or("(current user)");
        write!(f, "postgres://{user}@")?;
        let ports = self.config.get_ports();
        for (i, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let port = ports.get(i).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}:{port}")?,
                Host::Unix(path) => write!(f, "{comma}[{}]:{port}", path.display())?,
            }
        }
        let database = self.config.get_dbname().unwrap_or(user);
        let ssl = match (self.config.get_ssl_mode(), self.check) {
            (_, ServerCheck::IssuerAndName) => "verify-full",
            (_, ServerCheck::Issuer) => "verify-ca",
            (SslMode::Disable, _) => "disable",
            (SslMode::Require, _) => "require",
            _ => "prefer",
        };
        write!(f, "/{database}?sslmode={ssl}")
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Opens connections to one database.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
}

/// The half of a connection that must be polled for the other half to work.
type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

impl Connector {
    /// Prepares TLS; does not connect.
    ///
    /// # Errors
    /// When the root certificates cannot be read.
    pub fn new(url: &DatabaseUrl) -> anyhow::Result<Self> {
        Ok(Self {
            config: url.config.clone(),
            tls: MakeRustlsConnect::new(tls::database_client(url.check, url.root_cert.as_deref())?),
        })
    }

    /// Opens a session and prepares it for short autocommit statements; `wake` is rung on every
    /// notification that arrives on it. All within `limit`.
    ///
    /// # Errors
    /// What keeps us out, as text that never holds the password.
    pub async fn open(&self, limit: Duration, wake: Arc<Notify>) -> Result<Session, String> {
        let opening = async {
            let (client, driver) = self.config.connect(self.tls.clone()).await?;
            let (end, ended) = watch::channel(None);
            let task = tokio::spawn(async move {
                let reason = drive(driver, wake).await;
                end.send_replace(Some(reason));
            });
            let session = Session { client, ended, driver: task.abort_handle() };
            session.client.batch_execute(SESSION_SETTINGS).await?;
            Ok::<_, tokio_postgres::Error>(session)
        };
        match tokio::time::timeout(limit, opening).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no session within {} ms", limit.as_millis())),
        }
    }
}

/// A statement that hangs is ended by the server, so that an abandoned one holds no locks; one that waits for somebody
/// else's lock gives its connection back to others before that. A 202
/// means "on disk": a database-wide `synchronous_commit = off` does not hold here.
const SESSION_SETTINGS: &str = "SET statement_timeout = '10s';
    SET lock_timeout = '2s';
    SET idle_session_timeout = 0;
    SET client_min_messages = warning;
    SET default_transaction_isolation = 'read committed';
    SELECT set_config('synchronous_commit', 'on', false)
      WHERE current_setting('synchronous_commit') = 'off'";

/// An open connection; dropping it closes it.
pub struct Session {
    /// Where statements go.
    pub client: Client,
    ended: watch::Receiver<Option<String>>,
    driver: AbortHandle,
}

impl Session {
    /// Waits for the connection to end; says why.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "connection dropped".to_owned(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Polls a connection to its end.
async fn drive(mut driver: Driver, wake: Arc<Notify>) -> String {
    loop {
        match std::future::poll_fn(|cx| driver.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(_))) => wake.notify_one(),
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(message = notice.message(), "notice from the database");
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return chain(&error),
            None => return "connection closed".to_owned(),
        }
    }
}

/// An error with all its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = inner.source();
    }
    // The database's detail and hint come on lines of their own.
    text.replace('\n', "; ")
}

type Keep<'a> = dyn FnMut(&str, String) -> Option<String> + 'a;

/// Passes the query parameters of a URL through `keep`.
fn rewrite_url(text: &str, keep: &mut Keep<'_>) -> String {
    let Some((base, query)) = text.split_once('?') else {
        return text.to_owned();
    };
    let pairs: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                // The only two that are looked into; both are paths or plain words.
                "sslmode" | "sslrootcert" => {
                    let decoded = url::form_urlencoded::parse(pair.as_bytes())
                        .next()
                        .map(|(_, value)| value.into_owned())
                        .unwrap_or_default();
                    keep(key, decoded)
                }
                _ => Some(value.to_owned()),
            }
            .map(|value| format!("{key}={value}"))
        })
        .collect();
    if pairs.is_empty() { base.to_owned() } else { format!("{base}?{}", pairs.join("&")) }
}

/// Passes `key=value` pairs (values quoted as in libpq) through `keep`.
fn rewrite_pairs(text: &str, keep: &mut Keep<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) =
            rest.split_once('=').ok_or("the connection string is neither a URL nor key=value pairs")?;
        let key = key.trim();
        let mut value = String::new();
        let mut chars = after.trim_start().char_indices().peekable();
        let source = after.trim_start();
        let quoted = chars.next_if(|(_, c)| *c == '\'').is_some();
        let mut end = source.len();
        let mut closed = !quoted;
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                '\'' if quoted => {
                    end = at + 1;
                    closed = true;
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        if !closed {
            return Err(format!("the value of {key:?} in the connection string has no closing quote"));
        }
        rest = source[end..].trim_start();
        if let Some(value) = keep(key, value) {
            let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
            out.push_str(&format!("{key}='{escaped}' "));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> DatabaseUrl {
        text.parse().unwrap()
    }

    #[test]
    fn url_form() {
        let url = parsed(
            "postgres://ann:s%40cret@db.example:6432/app?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&options=-c%20a%3Db",
        );
        assert_eq!(url.to_string(), "postgres://ann@db.example:6432/app?sslmode=verify-full");
        assert_eq!(url.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(url.config.get_password(), Some(&b"s@cret"[..]));
        assert_eq!(url.config.get_options(), Some("-c a=b"));
        assert_eq!(url.root_cert.unwrap(), PathBuf::from("/etc/ca.pem"));
    }

    #[test]
    fn pair_form() {
        let url = parsed(
            r"host=/run/pg port=5433 user=ann password='it\'s a \\ secret' dbname=app sslmode=verify-ca",
        );
        assert_eq!(url.to_string(), "postgres://ann@[/run/pg]:5433/app?sslmode=verify-ca");
        assert_eq!(url.config.get_password(), Some(&br"it's a \ secret"[..]));
    }

    #[test]
    fn a_root_certificate_makes_require_verify() {
        let url = parsed("host=h sslmode=require sslrootcert=/ca.pem");
        assert_eq!(url.check, ServerCheck::Issuer);
        assert_eq!(parsed("host=h sslmode=require").check, ServerCheck::None);
    }

    #[test]
    fn errors_name_no_values() {
        for bad in [
            "",
            "nonsense",
            "host=h password='open secret",
            "postgres://u:secret@h/d?sslmode=secret",
            "host=h colour=secret",
        ] {
            let error = bad.parse::<DatabaseUrl>().unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
