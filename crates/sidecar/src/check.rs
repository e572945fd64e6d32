//! `--check`: whether the sidecar would work as it is configured, told line by line.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::config::Config;
use crate::egress::policy::Policy;
use crate::executor::http::HttpClient;
use crate::secrets::ring::Keys;
use crate::store::connect::{Connector, DatabaseUrl, Session, chain};
use crate::store::{link, tls};

/// How long the database may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What was looked at, and what came of it.
type Finding = (&'static str, Result<String, String>);

/// Looks at everything that can be wrong, and says on standard output what is. True if nothing is.
pub async fn run(config: &Config) -> bool {
    let policy = config.egress();
    let named: Vec<String> = policy.iter().flat_map(|policy| policy.projects.keys()).cloned().collect();
    let mut findings = vec![listen(config).await, calls(config, policy), roots(), secrets(config)];
    findings.extend(database(config, &named).await);
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

fn calls(config: &Config, policy: anyhow::Result<Policy>) -> Finding {
    let found = policy.and_then(|policy| {
        let (projects, hosts) = (policy.projects.len(), policy.hosts.entries.len());
        HttpClient::new(config.calls(), policy)?;
        Ok(format!(
            "rules are understood; they name {projects} projects, and set something for {hosts} hosts"
        ))
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

/// What can be told over one session: whether there is one, whether it is of use, and who is unknown there.
async fn database(config: &Config, named: &[String]) -> Vec<Finding> {
    let url = match config.database() {
        Ok(url) => url,
        Err(error) => return vec![("database", Err(format!("{error:#}")))],
    };
    let session = match open(&url).await {
        Ok(session) => session,
        Err(problem) => return vec![("database", Err(format!("{url}: {problem}")))],
    };
    let mut findings = vec![("database", Ok(format!("{url} is reached")))];
    let extension = in_time(extension(&session.client)).await;
    let is_usable = extension.is_ok();
    findings.push(("extension", extension));
    if is_usable && !named.is_empty() {
        findings.push(("projects", in_time(projects(&session.client, named)).await));
    }
    findings
}

async fn open(url: &DatabaseUrl) -> Result<Session, String> {
    let connector = Connector::new(url).map_err(|error| format!("{error:#}"))?;
    connector.open(LIMIT, Arc::new(Notify::new())).await
}

async fn in_time(asking: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let answered = tokio::time::timeout(LIMIT, asking).await;
    answered.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())))
}

async fn extension(client: &Client) -> Result<String, String> {
    match link::problem(client).await {
        Ok(None) => Ok(format!("meshhook is there and works with sidecar {}", crate::version::SIDECAR)),
        Ok(Some(problem)) => Err(problem),
        Err(error) => Err(chain(&error)),
    }
}

/// Whoever misspells a project's name in the policy file leaves the project itself under the general rules.
async fn projects(client: &Client, named: &[String]) -> Result<String, String> {
    let mut unknown = Vec::new();
    for name in named {
        if !is_project(client, name).await.map_err(|error| chain(&error))? {
            unknown.push(name.as_str());
        }
    }
    if unknown.is_empty() {
        return Ok("the database has all that --policy names".to_owned());
    }
    Err(format!("--policy names some that this database does not have for this role: {}", unknown.join(", ")))
}

/// Looks the name up as the session's own project: executors may work in every project, and in none that is not there.
async fn is_project(client: &Client, name: &str) -> Result<bool, tokio_postgres::Error> {
    client.query("SELECT pg_catalog.set_config('meshhook.project', $1, false)", &[&name]).await?;
    match client.query("SELECT FROM meshhook.heartbeat_jobs(job_ids => '{}', tokens => '{}')", &[]).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(error),
    }
}
