//! Those who put load on the server: starters and executors, all of them tasks of one thread.

use crate::connection::connect;
use crate::runs::target::NAME;
use anyhow::{Result, ensure};
use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Row, Statement};

/// What starters and executors share.
pub struct Shared {
    /// One permit per run that may be under way.
    pub permits: Semaphore,
    /// Runs whose start was committed.
    pub started: Cell<u64>,
    /// Runs whose last job was completed.
    pub finished: Cell<u64>,
    /// Times an executor found work only because it stopped waiting for a notification.
    pub unannounced: Cell<u64>,
    /// Set when no further run is to be started.
    pub closing: Cell<bool>,
    /// The first thing that went wrong.
    failure: RefCell<Option<anyhow::Error>>,
    /// Signalled when something went wrong.
    failed: Notify,
}

impl Shared {
    /// Nothing under way, at most `in_flight` runs at a time.
    pub fn new(in_flight: usize) -> Rc<Shared> {
        Rc::new(Shared {
            permits: Semaphore::new(in_flight),
            started: Cell::new(0),
            finished: Cell::new(0),
            unannounced: Cell::new(0),
            closing: Cell::new(false),
            failure: RefCell::new(None),
            failed: Notify::new(),
        })
    }

    fn fail(&self, error: anyhow::Error) {
        self.failure.borrow_mut().get_or_insert(error);
        self.failed.notify_waiters();
    }

    /// Waits; returns early with the error when a starter or an executor fails.
    pub async fn sleep(&self, time: Duration) -> Result<()> {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.failed.notified() => {}
        }
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }
}

/// Starts runs until closing. `per_transaction` is 1 for a plain call per run, else the runs of one statement.
pub async fn starter(shared: Rc<Shared>, config: Config, per_transaction: u32) {
    if let Err(error) = start_runs(&shared, &config, per_transaction).await {
        shared.fail(error.context("a starter failed"));
    }
}

async fn start_runs(shared: &Shared, config: &Config, per_transaction: u32) -> Result<()> {
    let (client, _) = connect(config).await?;
    let one = "SELECT meshhook.start_run($1, $2)";
    let many = "SELECT meshhook.start_run($1, pg_catalog.jsonb_build_object('n', n))
                FROM pg_catalog.generate_series($2::integer, $3::integer) AS n";
    let statement = client.prepare(if per_transaction == 1 { one } else { many }).await?;
    while let Ok(permits) = shared.permits.acquire_many(per_transaction).await {
        if shared.closing.get() {
            return Ok(());
        }
        permits.forget();
        let n = i32::try_from(shared.started.get() % 1_000_000)?;
        if per_transaction == 1 {
            let input = serde_json::json!({"n": n});
            client.query_one(&statement, &[&NAME, &input]).await?;
        } else {
            let last = n + i32::try_from(per_transaction)? - 1;
            client.query(&statement, &[&NAME, &n, &last]).await?;
        }
        shared.started.set(shared.started.get() + u64::from(per_transaction));
    }
    Ok(())
}

/// Works on jobs until it is dropped.
pub async fn executor(shared: Rc<Shared>, config: Config, batch: usize, poll: Duration) {
    if let Err(error) = work(&shared, &config, batch, poll).await {
        shared.fail(error.context("an executor failed"));
    }
}

async fn work(shared: &Shared, config: &Config, batch: usize, poll: Duration) -> Result<()> {
    let (client, wake) = connect(config).await?;
    client.batch_execute("LISTEN meshhook_jobs").await?;
    // The payload is fetched, as by anyone who means to work, though not looked at.
    let claim = client
        .prepare(
            "SELECT job_id, token, node, payload
             FROM meshhook.claim_jobs($1, executor => 'bench', batch_size => $2)",
        )
        .await?;
    let complete = client.prepare("SELECT outcome FROM meshhook.complete_jobs($1, $2, $3)").await?;
    let size = i32::try_from(batch)?;
    let mut waited_in_vain = false;
    let mut jobs = client.query(&claim, &[&NAME, &size]).await?;
    loop {
        if jobs.is_empty() {
            waited_in_vain = tokio::time::timeout(poll, wake.notified()).await.is_err();
            jobs = client.query(&claim, &[&NAME, &size]).await?;
            continue;
        }
        if std::mem::take(&mut waited_in_vain) {
            shared.unannounced.set(shared.unannounced.get() + 1);
        }
        // The next claim travels right behind the completions: one round trip, two transactions.
        let again: [&(dyn ToSql + Sync); 2] = [&NAME, &size];
        let (done, next) =
            tokio::join!(finish(shared, &client, &complete, &jobs), client.query(&claim, &again));
        done?;
        jobs = next?;
    }
}

async fn finish(shared: &Shared, client: &Client, complete: &Statement, jobs: &[Row]) -> Result<()> {
    let ids: Vec<&str> = jobs.iter().map(|row| row.get(0)).collect();
    let tokens: Vec<i64> = jobs.iter().map(|row| row.get(1)).collect();
    let outputs: Vec<Json> = jobs.iter().map(|row| row.get(3)).collect();
    let last = jobs.iter().filter(|row| row.get::<_, &str>(2) == "c").count();
    let rows = client.query(complete, &[&ids, &tokens, &outputs]).await?;
    let accepted = rows.iter().filter(|row| row.get::<_, &str>(0) == "accepted").count();
    ensure!(accepted == jobs.len(), "{} of {} jobs were not accepted", jobs.len() - accepted, jobs.len());
    shared.finished.set(shared.finished.get() + last as u64);
    shared.permits.add_permits(last);
    Ok(())
}

/// A `jsonb` value in transit: each node answers with its input, unread.
#[derive(Debug)]
struct Json<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Json<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Json(raw))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
}

impl ToSql for Json<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    to_sql_checked!();
}
