//! `--check`: whether the sidecar would work as it is configured, told line by line.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::config::Config;
use crate::executor::http::HttpClient;
use crate::secrets::ring::Keys;
use crate::store::connect::{Connector, DatabaseUrl};
use crate::store::{DatabaseState, JobStore, PgStore, tls};

/// How long the database may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What was looked at, and what came of it.
type Finding = (&'static str, Result<String, String>);

/// Looks at everything that can be wrong, and says on standard output what is. True if nothing is.
pub async fn run(config: &Config) -> bool {
    let mut findings = vec![listen(config).await, calls(config), roots(), secrets(config)];
    findings.extend(database(config).await);
    for (what, found) in &findings {
        match found {
            Ok(text) => println!("ok      {what:<10} {text}"),
            Err(text) => println!("FAILED  {what:<10} {text}"),
        }
    }
    findings.iter().all(|(_, found)| found.is_ok())
}

async fn listen(config: &Config) -> Finding {
    let found = match TcpListener::bind(config.listen).await {
        Ok(_) => Ok(format!("{} is free", config.listen)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Ok(format!("{} is in use: by a sidecar that runs already, let us hope", config.listen))
        }
        Err(error) => Err(format!("{}: {error}; set --listen to another address", config.listen)),
    };
    ("listen", found)
}

fn calls(config: &Config) -> Finding {
    let found = config.egress().and_then(|policy| {
        let projects = policy.projects.len();
        HttpClient::new(config.calls(), policy)?;
        Ok(format!("rules are understood, {projects} projects have their own"))
    });
    ("calls", found.map_err(|error| format!("{error:#}")))
}

fn roots() -> Finding {
    let found = match tls::system_roots().len() {
        0 => Err("no root certificates: every https call will fail; install ca-certificates".to_owned()),
        count => Ok(format!("{count} root certificates are trusted")),
    };
    ("tls", found)
}

fn secrets(config: &Config) -> Finding {
    let found = Keys::of(config.secret_keys.as_deref()).map(|keys| match keys.ring().len() {
        0 => "no keys: calls that send secrets will fail; see meshhook-sidecar secret --help".to_owned(),
        count => format!("{count} keys open secrets"),
    });
    ("secrets", found.map_err(|error| format!("{error:#}")))
}

async fn database(config: &Config) -> Vec<Finding> {
    let url = match config.database() {
        Ok(url) => url,
        Err(error) => return vec![("database", Err(format!("{error:#}")))],
    };
    if let Err(problem) = connect(&url).await {
        return vec![("database", Err(format!("{url}: {problem}")))];
    }
    vec![("database", Ok(format!("{url} is reached"))), ("extension", extension(config, &url).await)]
}

async fn connect(url: &DatabaseUrl) -> Result<(), String> {
    let connector = Connector::new(url).map_err(|error| format!("{error:#}"))?;
    connector.open(LIMIT, Arc::new(Notify::new())).await.map(drop)
}

async fn extension(config: &Config, url: &DatabaseUrl) -> Result<String, String> {
    let store = PgStore::start(url, config.db_pool).map_err(|error| format!("{error:#}"))?;
    let mut state = store.state();
    let known = state.wait_for(|state| *state != DatabaseState::Unreachable);
    match tokio::time::timeout(LIMIT, known).await.map(|known| known.map(|state| state.clone())) {
        Ok(Ok(DatabaseState::Ready)) => {
            Ok(format!("meshhook is there and works with sidecar {}", crate::version::SIDECAR))
        }
        Ok(Ok(DatabaseState::Incompatible(problem))) => Err(problem),
        _ => Err(format!("no session was usable within {} s; the log says why", LIMIT.as_secs())),
    }
}
