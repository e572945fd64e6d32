//! A connection as a well-behaved client has it: what was not answered is asked again.

use meshhook_testkit::{Cluster, Session, session};
use postgres::Row;
use postgres::error::DbError;
use postgres::types::{FromSqlOwned, ToSql};
use std::time::{Duration, Instant};

/// How long the server may be away.
const PATIENCE: Duration = Duration::from_secs(30);

/// A role's connection to a database. Statements are autocommitted, so each may be repeated as far as it is idempotent.
pub struct Client<'a> {
    cluster: &'a Cluster,
    role: &'static str,
    database: &'a str,
    session: Option<Session>,
}

impl<'a> Client<'a> {
    pub fn new(cluster: &'a Cluster, role: &'static str, database: &'a str) -> Self {
        Client { cluster, role, database, session: None }
    }

    /// Whether there is a connection that the server answers on.
    pub fn is_alive(&mut self) -> bool {
        self.session.as_mut().is_some_and(|session| session.simple_query("").is_ok())
    }

    /// A live connection.
    pub fn session(&mut self) -> &mut Session {
        if !self.is_alive() {
            self.session = None;
        }
        let (cluster, role, database) = (self.cluster, self.role, self.database);
        self.session.get_or_insert_with(|| cluster.connect(role, database))
    }

    /// Asks until there is an answer: rows, or that the server refuses.
    pub fn ask(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Box<DbError>> {
        let begun = Instant::now();
        loop {
            let (cluster, role, database) = (self.cluster, self.role, self.database);
            let session = self.session.get_or_insert_with(|| cluster.connect(role, database));
            let error = match session.query(sql, params) {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            match error.as_db_error() {
                // 57P: the server goes down, or comes up.
                Some(refusal) if !refusal.code().code().starts_with("57P") => {
                    return Err(Box::new(refusal.clone()));
                }
                _ => self.session = None,
            }
            assert!(begun.elapsed() < PATIENCE, "no answer to {sql}: {}", session::describe(&error));
        }
    }

    /// The rows of a statement that is not refused.
    #[track_caller]
    pub fn rows(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.ask(sql, params).unwrap_or_else(|refusal| panic!("{refusal}\n{sql}"))
    }

    /// The first column of the only row.
    #[track_caller]
    pub fn value<T: FromSqlOwned>(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> T {
        let rows = self.rows(sql, params);
        assert_eq!(rows.len(), 1, "one row expected of: {sql}");
        rows[0].get(0)
    }
}
