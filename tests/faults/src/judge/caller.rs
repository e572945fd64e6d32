//! A client that has patience: what fails for want of a connection is asked again, as every client of meshhook must.

use meshhook_testkit::session::describe;
use postgres::config::Config;
use postgres::{Client, NoTls};
use std::time::{Duration, Instant};

/// How long one question may take, faults included.
const PATIENCE: Duration = Duration::from_secs(90);

/// A connection that is made anew when it breaks.
pub struct Caller {
    config: Config,
    client: Option<Client>,
}

impl Caller {
    pub fn new(config: Config) -> Self {
        Self { config, client: None }
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// The server's, where it would be the same again; or that there was no answer in time.
    pub fn ask<T>(
        &mut self,
        mut question: impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let asked = Instant::now();
        loop {
            let error = match self.attempt(&mut question) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !may_pass(&error) || asked.elapsed() > PATIENCE {
                return Err(error);
            }
            // A connection that has had an error may be in any state.
            self.client = None;
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Asks once.
    pub fn attempt<T>(
        &mut self,
        question: &mut impl FnMut(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Some(self.config.connect(NoTls)?);
        }
        match &mut self.client {
            Some(client) => question(client),
            None => unreachable!("it was just made"),
        }
    }
}

/// Whether an error is one of connections, shutdowns, recovery or conflicts: the same question may get an answer.
fn may_pass(error: &postgres::Error) -> bool {
    let Some(code) = error.code() else {
        return true;
    };
    ["08", "40", "53", "57P", "55P03"].iter().any(|class| code.code().starts_with(class))
}

/// SQLSTATE of an error of the server; empty for one of the connection.
pub fn code(error: &postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// An error in the words of the server.
pub fn words(error: &postgres::Error) -> String {
    describe(error)
}
