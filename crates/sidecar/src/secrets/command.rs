//! `meshhook-sidecar secret …`: makes keys, seals values, hands them to the database.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use zeroize::Zeroizing;

use super::ring::Ring;
use crate::store::connect::{Connector, DatabaseUrl, chain};

/// Longest value that is sealed, in bytes.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// The database must be reached within this.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// The command line of `meshhook-sidecar secret`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "meshhook-sidecar secret",
    bin_name = "meshhook-sidecar secret",
    about = "Seals the secrets that calls send, for the database to keep"
)]
pub struct SecretLine {
    /// What to do.
    #[command(subcommand)]
    pub command: SecretCommand,
}

/// What to do about secrets.
#[derive(Clone, Debug, Subcommand)]
pub enum SecretCommand {
    /// Print a line with a fresh key, for the file of --secret-keys (mode 0600)
    Key {
        /// Its id
        #[arg(default_value = "s1")]
        id: String,
    },
    /// Seal the value on standard input and print it, for SELECT meshhook.set_secret(name, sealed)
    Seal {
        /// Which one
        #[command(flatten)]
        target: Target,
    },
    /// Seal the value on standard input and hand it to the database; log in as a member of the project
    Set {
        /// Which one
        #[command(flatten)]
        target: Target,

        /// Connection string of the database
        #[arg(long, env = "MESHHOOK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
        database_url: crate::config::ConnectionString,
    },
}

/// Which secret, and the keys.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// Name of the secret: {{ $secrets.NAME }} in definitions
    name: String,

    /// Project it belongs to
    #[arg(long, default_value = "default", value_name = "PROJECT")]
    project: String,

    /// File of keys; the first one seals
    #[arg(long, env = "MESHHOOK_SECRET_KEYS", value_name = "FILE")]
    secret_keys: PathBuf,
}

impl SecretCommand {
    /// Does it.
    ///
    /// # Errors
    /// Whatever keeps it from being done; no text holds a value.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Key { id } => println!("{}", &**Ring::fresh_line(&id)?),
            Self::Seal { target } => println!("{}", target.seal()?),
            Self::Set { target, database_url } => {
                let sealed = target.seal()?;
                target.store(&database_url.parsed()?, &sealed).await?;
                eprintln!("secret {} of project {} is set", target.name, target.project);
            }
        }
        Ok(())
    }
}

impl Target {
    fn seal(&self) -> anyhow::Result<String> {
        let ring = Ring::read(&self.secret_keys)?;
        if std::io::stdin().is_terminal() {
            eprintln!("Type the value of secret {}, then Ctrl-D on a line of its own:", self.name);
        }
        let mut value = Zeroizing::new(String::new());
        std::io::stdin()
            .take(MAX_VALUE_BYTES as u64 + 1)
            .read_to_string(&mut value)
            .context("reading the value")?;
        ensure!(value.len() <= MAX_VALUE_BYTES, "the value is larger than {MAX_VALUE_BYTES} bytes");
        // What echo and editors add is not meant.
        let value = value.trim_end_matches(['\r', '\n']);
        ensure!(!value.is_empty(), "there is no value on standard input");
        ring.seal(&self.project, &self.name, value)
    }

    async fn store(&self, url: &DatabaseUrl, sealed: &str) -> anyhow::Result<()> {
        let told = |error: tokio_postgres::Error| anyhow::anyhow!(chain(&error));
        let session = Connector::new(url)?.open(OPEN_LIMIT, Arc::default()).await;
        let client = &session.as_ref().map_err(|problem| anyhow::anyhow!("{url}: {problem}"))?.client;
        let project = "SELECT set_config('meshhook.project', $1, false)";
        client.query_one(project, &[&self.project]).await.map_err(told)?;
        let set = "SELECT meshhook.set_secret(name => $1, sealed => $2)";
        client.execute(set, &[&self.name, &sealed]).await.map_err(told)?;
        Ok(())
    }
}
