//! One connection to a cluster, with the short forms that tests need.

use postgres::config::Config;
use postgres::error::DbError;
use postgres::types::{FromSqlOwned, ToSql};
use postgres::{Client, NoTls};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Parameters of a statement.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection that remembers the notices it was sent; otherwise a [`postgres::Client`].
pub struct Session {
    client: Client,
    notices: Arc<Mutex<Vec<DbError>>>,
}

impl Session {
    /// Connects, or says why not.
    pub fn connect(config: &Config) -> Result<Session, postgres::Error> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&notices);
        let mut config = config.clone();
        config.notice_callback(move |notice| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
        });
        let client = config.connect(NoTls)?;
        Ok(Session { client, notices })
    }

    /// Runs statements without parameters.
    ///
    /// # Panics
    /// When one fails; the message shows statement and error.
    #[track_caller]
    pub fn exec(&mut self, sql: &str) {
        if let Err(e) = self.client.batch_execute(sql) {
            panic!("{}\n{sql}", describe(&e));
        }
    }

    /// The rows of a query.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn rows(&mut self, sql: &str, params: Params) -> Vec<postgres::Row> {
        match self.client.query(sql, params) {
            Ok(rows) => rows,
            Err(e) => panic!("{}\n{sql}", describe(&e)),
        }
    }

    /// The first column of a query's only row.
    ///
    /// # Panics
    /// When it fails or returns another number of rows.
    #[track_caller]
    pub fn value<T: FromSqlOwned>(&mut self, sql: &str, params: Params) -> T {
        let rows = self.rows(sql, params);
        assert_eq!(rows.len(), 1, "one row expected of: {sql}");
        rows[0].get(0)
    }

    /// The first column of each row.
    ///
    /// # Panics
    /// When the query fails.
    #[track_caller]
    pub fn values<T: FromSqlOwned>(&mut self, sql: &str, params: Params) -> Vec<T> {
        self.rows(sql, params).iter().map(|row| row.get(0)).collect()
    }

    /// The error of a statement that must fail.
    ///
    /// # Panics
    /// When it succeeds, or the connection breaks instead.
    #[track_caller]
    pub fn error(&mut self, sql: &str, params: Params) -> DbError {
        match self.client.query(sql, params) {
            Ok(rows) => panic!("an error expected, got {} rows of: {sql}", rows.len()),
            Err(e) => match e.as_db_error() {
                Some(error) => error.clone(),
                None => panic!("an error of the server expected, got {e} of: {sql}"),
            },
        }
    }

    /// The notices and warnings received since the last call.
    pub fn take_notices(&mut self) -> Vec<DbError> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Process id of the backend that serves this connection.
    pub fn backend_pid(&mut self) -> i32 {
        self.value("SELECT pg_catalog.pg_backend_pid()", &[])
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// An error in the words of the server: SQLSTATE, message, DETAIL, HINT.
pub fn describe(error: &postgres::Error) -> String {
    let Some(e) = error.as_db_error() else {
        return error.to_string();
    };
    let mut text = format!("{} {}: {}", e.severity(), e.code().code(), e.message());
    for (label, part) in [("DETAIL", e.detail()), ("HINT", e.hint()), ("CONTEXT", e.where_())] {
        if let Some(part) = part {
            text.push_str(&format!("\n{label}: {part}"));
        }
    }
    text
}
