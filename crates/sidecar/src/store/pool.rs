//! A small pool of connections for what comes in: webhooks and answers to resume URLs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::StoreError;
use super::connect::{Connector, Session, chain};
use super::link::judge;
use crate::backoff::Backoff;

/// Longest wait for a free connection. A webhook's sender gives up after a few seconds: better a
/// quick 503, which it repeats.
const WAIT_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for a new connection.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// Longer than the `statement_timeout` of a session.
const CALL_LIMIT: Duration = Duration::from_secs(12);

/// Connections that are opened when needed and kept until they break.
pub struct Pool {
    connector: Connector,
    permits: Semaphore,
    size: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    idle: Vec<Pooled>,
    backoff: Backoff,
    /// Set while connecting fails: no new attempt before then.
    retry_at: Option<Instant>,
}

struct Pooled {
    session: Session,
    /// Those prepared so far, by their text: an extension of an earlier version lacks some.
    statements: HashMap<&'static str, Statement>,
}

impl Pooled {
    async fn prepared(&mut self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.session.client.prepare(sql).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    async fn query(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.prepared(sql).await?;
        self.session.client.query(&statement, params).await
    }
}

impl Pool {
    /// At most `size` connections.
    pub fn new(connector: Connector, size: usize) -> Self {
        Self {
            connector,
            permits: Semaphore::new(size),
            size,
            inner: Mutex::new(Inner {
                idle: Vec::new(),
                backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
                retry_at: None,
            }),
        }
    }

    /// Runs a statement in a transaction of its own; returns after commit.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also when no connection came free within a second.
    pub async fn query(
        &self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let waiting = tokio::time::timeout(WAIT_LIMIT, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = waiting else {
            metrics::counter!("meshhook_sidecar_db_pool_timeouts_total").increment(1);
            return Err(StoreError::Unavailable("all database connections are busy".to_owned()));
        };
        metrics::gauge!("meshhook_sidecar_db_pool_connections", "state" => "in_use").set(self.in_use());
        let result = self.query_on_a_connection(sql, params).await;
        metrics::gauge!("meshhook_sidecar_db_pool_connections", "state" => "in_use").set(self.in_use() - 1.0);
        result
    }

    async fn query_on_a_connection(
        &self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let mut pooled = match self.take_idle() {
            Some(pooled) => pooled,
            None => self.open(sql).await?,
        };
        let call = pooled.query(sql, params);
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Ok(rows)) => {
                self.give_back(pooled);
                Ok(rows)
            }
            Ok(Err(error)) => {
                let (error, lost) = judge(&error);
                if lost {
                    metrics::counter!("meshhook_sidecar_db_disconnects_total", "purpose" => "webhooks")
                        .increment(1);
                } else {
                    self.give_back(pooled);
                }
                Err(error)
            }
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", CALL_LIMIT.as_secs()))),
        }
    }

    async fn open(&self, sql: &'static str) -> Result<Pooled, StoreError> {
        if let Some(at) = self.inner().retry_at
            && at > Instant::now()
        {
            return Err(StoreError::Unavailable("the database was unreachable a moment ago".to_owned()));
        }
        let opened = async {
            let session = self.connector.open(OPEN_LIMIT, Arc::new(Notify::new())).await?;
            let mut pooled = Pooled { session, statements: HashMap::new() };
            pooled.prepared(sql).await.map_err(|error| chain(&error))?;
            Ok::<_, String>(pooled)
        };
        let opened = tokio::time::timeout(OPEN_LIMIT, opened)
            .await
            .unwrap_or_else(|_| Err(format!("no session within {} s", OPEN_LIMIT.as_secs())));
        let mut inner = self.inner();
        match opened {
            Ok(pooled) => {
                inner.backoff.reset();
                if inner.retry_at.take().is_some() {
                    tracing::info!("database connections for webhooks are back");
                }
                metrics::counter!("meshhook_sidecar_db_connects_total", "purpose" => "webhooks").increment(1);
                Ok(pooled)
            }
            Err(reason) => {
                metrics::counter!("meshhook_sidecar_db_connect_errors_total", "purpose" => "webhooks")
                    .increment(1);
                if inner.retry_at.is_none() {
                    tracing::warn!(reason, "no database connection for webhooks: answering 503");
                }
                let wait = inner.backoff.next_wait();
                inner.retry_at = Some(Instant::now() + wait);
                Err(StoreError::Unavailable(reason))
            }
        }
    }

    fn take_idle(&self) -> Option<Pooled> {
        let mut inner = self.inner();
        let mut found = None;
        while let Some(pooled) = inner.idle.pop() {
            if !pooled.session.client.is_closed() {
                found = Some(pooled);
                break;
            }
        }
        idle_gauge(&inner);
        found
    }

    fn give_back(&self, pooled: Pooled) {
        let mut inner = self.inner();
        inner.idle.push(pooled);
        idle_gauge(&inner);
    }

    fn in_use(&self) -> f64 {
        gauge(self.size - self.permits.available_permits().min(self.size))
    }

    /// A panic while the lock was held leaves a plain list behind, so poisoning means nothing here.
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn idle_gauge(inner: &Inner) {
    metrics::gauge!("meshhook_sidecar_db_pool_connections", "state" => "idle").set(gauge(inner.idle.len()));
}

fn gauge(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
