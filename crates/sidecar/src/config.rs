//! Settings: one flag each, one `MESHHOOK_*` variable each, one documented meaning.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::egress::machine;
use crate::egress::policy::Policy;
use crate::egress::rules::{List, Rules};
use crate::executor::http::CallSettings;
use crate::store::connect::DatabaseUrl;

/// The command line of `meshhook-sidecar`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "meshhook-sidecar",
    version,
    about = "Makes the HTTP calls of meshhook workflows and takes in their webhooks",
    long_about = "Makes the HTTP calls of meshhook workflows and takes in their webhooks.\n\n\
        The sidecar stands beside a PostgreSQL database that has the extension `meshhook`. It claims \
        leased jobs, makes the calls, reports what came back, and passes incoming webhooks to the \
        database, which verifies them and decides everything. It keeps no state: run as many \
        replicas as you like, stop any of them at any time.\n\n\
        Every flag can be given as the environment variable shown beside it; a flag wins. \
        Durations are written 500ms, 30s, 5m or 1h.",
    after_long_help = "THE DATABASE ROLE\n  \
        Log in as a role of its own that is a member of meshhook_executor, never as a superuser:\n    \
        CREATE ROLE sidecar LOGIN PASSWORD '…' IN ROLE meshhook_executor;\n\n\
        TLS TO THE DATABASE\n  \
        sslmode=disable|prefer|require (encrypted, not authenticated) and verify-ca|verify-full \
        (with sslrootcert=FILE, else the system's roots) are understood in the connection string.\n\n\
        TLS OF HTTP CALLS\n  \
        TLS 1.2 and later, always verified against the system's roots; SSL_CERT_FILE and SSL_CERT_DIR \
        name others, and the --policy file for single hosts. Proxy variables of the environment are ignored; \
        the --policy file names proxies.\n\n\
        WHERE CALLS MAY GO\n  \
        To addresses of the public internet, on ports 80, 443 and from 1024 on, but those of databases. Private, \
        loopback, link-local and other special addresses are refused, and this machine's own, however they are \
        written and whatever name or redirect leads there. A rule is a network or a host name, with a port or \
        without: 10.1.0.0/16, [fd00::/8]:8080, api.internal, *.corp.example:8443. A name permits \
        private addresses, never link-local ones, where clouds keep credentials. The --policy file has the same lists, and some for single projects:\n    \
        allow = [\"10.1.0.0/16\"]\n    \
        [projects.acme]\n    \
        only = [\"api.stripe.com:443\"]\n  \
        and what is set for single hosts, with files beside it (the first entry that fits holds):\n    \
        [[hosts]]\n    \
        match = \"*.corp.example:8443\"\n    \
        ca = \"corp-ca.pem\"           # in place of the system's roots\n    \
        client_cert = \"client.pem\"   # with client_key, mode 0600\n    \
        projects = [\"acme\"]          # for whom the client certificate is shown\n    \
        concurrency = 4\n    \
        rate = \"100/min\"\n    \
        proxy = \"direct\"             # or http://host:port; before the tables: for all other hosts\n  \
        A proxy is told vetted addresses by CONNECT; with proxy_resolves = true names, which only it vets then.\n\n\
        SECRETS\n  \
        meshhook-sidecar secret --help: makes keys, seals values for the database. Only sidecars open them.\n\n\
        HTTP ENDPOINTS\n  \
        POST /hooks/{endpoint}  a webhook, passed to meshhook.receive_webhook\n  \
        GET /outcomes/{token}   what became of a webhook whose answer took too long\n  \
        GET, POST /resume/{token}  a resume URL: looked at, used\n  \
        GET /healthz            the process is alive\n  \
        GET /readyz             the database is reachable, its version fits, and we are not draining\n  \
        GET /metrics            Prometheus text format\n\n\
        SIGNALS\n  \
        SIGHUP: read the files of --policy (and those it names) and --secret-keys again; one that cannot be read \
        changes nothing and is logged.\n  \
        SIGTERM or SIGINT: stop claiming, give back what has not started, finish what runs (up to \
        --drain), report it, exit 0. A second signal exits at once: the leases run out and another \
        replica makes the calls again with the same idempotency keys."
)]
pub struct Config {
    /// Connection string of the database: postgres://user@host/db, or key=value pairs
    ///
    /// Prefer the environment variable when it holds a password: command lines are visible to others.
    #[arg(long, env = "MESHHOOK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: ConnectionString,

    /// Address for webhooks, health and metrics (port 0: any free port, see the log)
    #[arg(long, env = "MESHHOOK_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Job queue to claim HTTP calls from
    #[arg(long, env = "MESHHOOK_QUEUE", default_value = "http", value_name = "NAME")]
    pub queue: String,

    /// Most HTTP calls in flight at once
    #[arg(long, env = "MESHHOOK_CONCURRENCY", default_value_t = 256, value_parser = at_least_one, value_name = "N")]
    pub concurrency: usize,

    /// Most HTTP calls in flight at once to one host and port
    #[arg(long, env = "MESHHOOK_PER_HOST", default_value_t = 16, value_parser = at_least_one, value_name = "N")]
    pub per_host: usize,

    /// Most jobs claimed, and most results reported, in one statement (ceiling 1000)
    #[arg(long, env = "MESHHOOK_BATCH", default_value_t = 50, value_parser = parse_batch, value_name = "N")]
    pub batch: usize,

    /// How long a claimed job is ours without a sign of life; renewed every third of it
    ///
    /// After a crash this is how long a job waits before another replica may take it.
    #[arg(long, env = "MESHHOOK_LEASE", default_value = "30s", value_parser = parse_lease, value_name = "DURATION")]
    pub lease: Duration,

    /// How long calls in flight may go on after SIGTERM
    #[arg(long, env = "MESHHOOK_DRAIN", default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    pub drain: Duration,

    /// Largest response body taken, in bytes (ceiling 16 MiB); a larger one fails the attempt.
    ///
    /// A job's output is at most 1 MiB of JSON in the database, and bytes grow by a third when written as base64.
    #[arg(long, env = "MESHHOOK_MAX_RESPONSE_BYTES", default_value_t = 512 << 10, value_parser = parse_response_cap, value_name = "BYTES")]
    pub max_response_bytes: usize,

    /// Limit for name lookup, TCP connect and TLS handshake together
    #[arg(long, env = "MESHHOOK_CONNECT_TIMEOUT", default_value = "5s", value_parser = parse_positive_duration, value_name = "DURATION")]
    pub connect_timeout: Duration,

    /// Limit for looking up the addresses of a host name
    #[arg(long, env = "MESHHOOK_DNS_TIMEOUT", default_value = "3s", value_parser = parse_positive_duration, value_name = "DURATION")]
    pub dns_timeout: Duration,

    /// Name server to ask, as ADDRESS:PORT [default: those of the machine]
    #[arg(long, env = "MESHHOOK_DNS", value_name = "ADDR")]
    pub dns: Option<SocketAddr>,

    /// Destinations that may be called although they are not of the public internet; see WHERE CALLS MAY GO
    #[arg(
        long,
        env = "MESHHOOK_ALLOW",
        default_value = "",
        hide_default_value = true,
        value_name = "RULE,…"
    )]
    pub allow: List,

    /// Destinations that must not be called
    #[arg(long, env = "MESHHOOK_DENY", default_value = "", hide_default_value = true, value_name = "RULE,…")]
    pub deny: List,

    /// The only destinations that may be called
    #[arg(long, env = "MESHHOOK_ONLY", default_value = "", hide_default_value = true, value_name = "RULE,…")]
    pub only: List,

    /// File with more rules, for all projects and for single ones, and settings of hosts; read again on SIGHUP
    #[arg(long, env = "MESHHOOK_POLICY", value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// File of the keys that open secrets, mode 0600; see `meshhook-sidecar secret --help`. Read again on SIGHUP
    #[arg(long, env = "MESHHOOK_SECRET_KEYS", value_name = "FILE")]
    pub secret_keys: Option<PathBuf>,

    /// How often to look for jobs although nothing woke us (± 20 %)
    ///
    /// Jobs arrive by notification within milliseconds; this only covers lost notifications.
    #[arg(long, env = "MESHHOOK_POLL", default_value = "30s", value_parser = parse_positive_duration, value_name = "DURATION")]
    pub poll: Duration,

    /// Largest webhook body taken, in bytes (ceiling 25 MiB); a larger one gets 413
    #[arg(long, env = "MESHHOOK_MAX_WEBHOOK_BYTES", default_value_t = 1 << 20, value_parser = parse_webhook_cap, value_name = "BYTES")]
    pub max_webhook_bytes: usize,

    /// Most webhooks in progress at once; one more gets 503
    #[arg(long, env = "MESHHOOK_MAX_WEBHOOKS", default_value_t = 256, value_parser = at_least_one, value_name = "N")]
    pub max_webhooks: usize,

    /// Most database connections for webhooks; the executor uses two more
    #[arg(long, env = "MESHHOOK_DB_POOL", default_value_t = 16, value_parser = at_least_one, value_name = "N")]
    pub db_pool: usize,

    /// Look whether everything is as it has to be, say so, and end: exit code 0 if it is, 1 if not
    #[arg(long)]
    pub check: bool,

    /// Name of this executor in the database [default: host name and process id]
    #[arg(long, env = "MESHHOOK_EXECUTOR_NAME", value_name = "NAME")]
    pub executor_name: Option<String>,

    /// Format of the log on standard error
    #[arg(long, env = "MESHHOOK_LOG_FORMAT", default_value = "json", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// What to log: error, warn, info, debug, trace, or a filter such as info,meshhook_sidecar=debug
    #[arg(long, env = "MESHHOOK_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// A connection string as given. Shows nothing of itself, and is parsed only by [`Config::database`]: the
/// command line parser would quote a faulty one, password and all.
#[derive(Clone)]
pub struct ConnectionString(String);

impl ConnectionString {
    /// The database it leads to.
    ///
    /// # Errors
    /// When the string cannot be read; the text says why without quoting any of it.
    pub fn parsed(&self) -> anyhow::Result<DatabaseUrl> {
        self.0.parse().map_err(|problem: String| anyhow::anyhow!("--database-url: {problem}"))
    }
}

impl FromStr for ConnectionString {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionString(…)")
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// The name under which leases are recorded: as set, else `<host>-<pid>`.
    pub fn executor_name(&self) -> String {
        self.executor_name.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
                .ok()
                .or_else(|| std::env::var("HOSTNAME").ok())
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "sidecar".to_owned());
            format!("{host}-{}", std::process::id())
        })
    }

    /// The database, from its connection string.
    ///
    /// # Errors
    /// When the string cannot be read; the text says why without quoting any of it.
    pub fn database(&self) -> anyhow::Result<DatabaseUrl> {
        self.database_url.parsed()
    }

    /// Where calls may go: by the flags and by the file, and not to the database or to this machine.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or the system does not tell the machine's addresses.
    pub fn egress(&self) -> anyhow::Result<Policy> {
        let [allow, deny, only] = [&self.allow, &self.deny, &self.only].map(|list| list.0.clone());
        let only = (!only.is_empty()).then_some(only);
        let mut own = self.database().map(|database| database.places()).unwrap_or_default();
        own.extend(machine::public_addresses()?);
        Policy::load(&Rules { allow, deny, only, own }, self.policy.as_deref())
    }

    /// How calls are made.
    pub fn calls(&self) -> CallSettings {
        CallSettings {
            connect_timeout: self.connect_timeout,
            dns_timeout: self.dns_timeout,
            dns: self.dns,
            max_response_bytes: self.max_response_bytes,
            idle_per_host: self.per_host,
        }
    }

    /// Writes the settings in use to the log; the database password is left out.
    pub fn log(&self, database: &DatabaseUrl) {
        tracing::info!(
            version = crate::version::SIDECAR,
            database = %database,
            listen = %self.listen,
            queue = self.queue,
            executor = self.executor_name(),
            concurrency = self.concurrency,
            per_host = self.per_host,
            batch = self.batch,
            lease = %Human(self.lease),
            drain = %Human(self.drain),
            poll = %Human(self.poll),
            connect_timeout = %Human(self.connect_timeout),
            max_response_bytes = self.max_response_bytes,
            max_webhook_bytes = self.max_webhook_bytes,
            max_webhooks = self.max_webhooks,
            db_pool = self.db_pool,
            allow = %self.allow,
            deny = %self.deny,
            only = %self.only,
            secret_keys = self.secret_keys.as_ref().map(|path| path.display().to_string()),
            policy = self.policy.as_ref().map(|path| path.display().to_string()),
            "starting with these settings"
        );
    }
}

/// A duration written the way the flags take it.
struct Human(Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) { write!(f, "{}s", millis / 1000) } else { write!(f, "{millis}ms") }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("give a unit: ms, s, m or h")?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    let seconds = match unit.trim() {
        "ms" => number / 1000.0,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        other => return Err(format!("unknown unit {other:?}: use ms, s, m or h")),
    };
    // A day is far beyond any use, and keeps every later sum of times in range.
    if seconds > 86_400.0 {
        return Err("longer than a day".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        d if d < Duration::from_millis(1) => Err("must be at least 1ms".to_owned()),
        d => Ok(d),
    }
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        // Below this a hiccup of the scheduler or of the network costs leases.
        d if d < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        d => Ok(d),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    bounded(text, 1, 1_000_000)
}

fn parse_batch(text: &str) -> Result<usize, String> {
    bounded(text, 1, 1000)
}

fn parse_response_cap(text: &str) -> Result<usize, String> {
    bounded(text, 1, 16 << 20)
}

fn parse_webhook_cap(text: &str) -> Result<usize, String> {
    bounded(text, 1, 25 << 20)
}

fn bounded(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = usize::from_str(text.trim()).map_err(|error| error.to_string())?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("must be between {least} and {most}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "30", "s", "-1s", "1 day", "25h", "1.2.3s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert!(parse_lease("900ms").is_err());
        assert!(parse_positive_duration("0s").is_err());
    }

    #[test]
    fn flags_are_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let config = Config::parse_from(["meshhook-sidecar", "--database-url", "host=/tmp"]);
        assert_eq!(config.queue, "http");
        assert_eq!((config.concurrency, config.per_host, config.batch), (256, 16, 50));
        assert_eq!((config.lease, config.drain), (Duration::from_secs(30), Duration::from_secs(20)));
        assert_eq!(config.max_response_bytes, 524_288);
        assert!(config.executor_name().ends_with(&format!("-{}", std::process::id())));
    }

    #[test]
    fn the_password_is_never_shown() {
        let with = |url| Config::parse_from(["meshhook-sidecar", "--database-url", url]);
        let good = with("postgres://u:hunter2@h/d");
        assert!(!format!("{good:?}").contains("hunter2"));
        assert!(!good.database().unwrap().to_string().contains("hunter2"));
        let bad = with("postgres://u:hunter2@h/d?sslmode=hunter2");
        assert!(!bad.database().unwrap_err().to_string().contains("hunter2"));
    }
}
