//! The database as it is: every method one statement, every statement one transaction.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connect::{Connector, DatabaseUrl};
use super::link::Link;
use super::pool::Pool;
use super::{
    ClaimedJob, DatabaseState, HostPause, JobRef, JobStore, Peers, Renewal, ResumeReply, ResumeStore,
    StoreError, Verdict, WebhookReply, WebhookRequest, WebhookStore,
};

const RECEIVE: &str =
    "SELECT status, headers, body, outcome, respond_within_ms FROM meshhook.receive_webhook(
    endpoint => $1::text, method => $2::text, headers => $3::jsonb, query => $4::text, body => $5::bytea)";
const OUTCOMES: &str =
    "SELECT outcome, status, headers, body FROM meshhook.webhook_outcomes(outcomes => $1::text[])";
const PUT_BLOB: &str =
    "SELECT meshhook.put_job_blob(job_id => $1::text, token => $2::bigint, bytes => $3::bytea)";
const READ_BLOB: &str =
    "SELECT meshhook.read_job_blob(job_id => $1::text, token => $2::bigint, sha256 => $3::text)";
const OPEN_OUTCOME: &str = "SELECT status, body FROM meshhook.open_outcome(token => $1::text)";

const OPEN_RESUME_URL: &str = "SELECT status, body FROM meshhook.open_resume_url(token => $1::text)";
const USE_RESUME_URL: &str =
    "SELECT status, body FROM meshhook.use_resume_url(token => $1::text, answer => ($2::text)::jsonb)";

/// A PostgreSQL database with the extension. Connects by itself, for as long as it lives.
pub struct PgStore {
    link: Link,
    incoming: Pool,
    /// Who may carry large bodies over those connections: half of them stay for what comes in.
    carriers: Semaphore,
    wake: Arc<Notify>,
    state: watch::Receiver<DatabaseState>,
}

impl PgStore {
    /// Starts connecting in the background; `pool` connections at most serve what comes in.
    ///
    /// # Errors
    /// When TLS cannot be set up as asked. An unreachable database is no error.
    pub fn start(url: &DatabaseUrl, pool: usize) -> anyhow::Result<Self> {
        let connector = Connector::new(url)?;
        let wake = Arc::new(Notify::new());
        let (sender, state) = watch::channel(DatabaseState::Unreachable);
        Ok(Self {
            link: Link::start(connector.clone(), wake.clone(), sender),
            incoming: Pool::new(connector, pool),
            carriers: Semaphore::new((pool / 2).max(1)),
            wake,
            state,
        })
    }

    /// What a function on a connection for what comes in returns.
    async fn asked(&self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        if let DatabaseState::Incompatible(problem) = &*self.state.borrow() {
            return Err(StoreError::Unavailable(problem.clone()));
        }
        self.incoming.query(sql, params).await
    }

    /// The one row that a function which answers a sender returns.
    async fn told<T>(
        &self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
        read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let rows = self.asked(sql, params).await?;
        let Some(row) = rows.first() else {
            return Err(StoreError::Refused {
                code: "02000".to_owned(),
                message: "the function returned no row".to_owned(),
            });
        };
        read(row).map_err(unexpected_shape)
    }
}

impl JobStore for PgStore {
    async fn claim(
        &self,
        queue: &str,
        executor: &str,
        batch_size: usize,
        lease: Duration,
    ) -> Result<Vec<ClaimedJob>, StoreError> {
        let live = self.link.live()?;
        let batch_size = i32::try_from(batch_size).unwrap_or(i32::MAX);
        let rows = live
            .control(&live.on_control.claim, &[&queue, &executor, &batch_size, &lease.as_secs_f64()])
            .await?;
        rows.iter()
            .map(|row| {
                Ok(ClaimedJob {
                    job: JobRef { id: row.try_get::<_, &str>(0)?.into(), token: row.try_get(1)? },
                    project: row.try_get(2)?,
                    run_id: row.try_get(3)?,
                    node: row.try_get(4)?,
                    attempt: row.try_get(5)?,
                    kind: row.try_get(6)?,
                    payload: row.try_get::<_, Option<String>>(7)?.unwrap_or_default(),
                    secrets: row.try_get(8)?,
                    idempotency_key: row.try_get(9)?,
                    lease_left: seconds(row.try_get(10)?),
                })
            })
            .collect::<Result<_, tokio_postgres::Error>>()
            .map_err(unexpected_shape)
    }

    async fn heartbeat(&self, jobs: &[JobRef], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let live = self.link.live()?;
        let (ids, tokens) = columns(jobs.iter());
        let rows = live.control(&live.on_control.heartbeat, &[&ids, &tokens, &lease.as_secs_f64()]).await?;
        rows.iter()
            .map(|row| {
                Ok(Renewal {
                    id: row.try_get(0)?,
                    lease_left: row.try_get::<_, Option<f64>>(1)?.map(seconds),
                })
            })
            .collect::<Result<_, tokio_postgres::Error>>()
            .map_err(unexpected_shape)
    }

    async fn complete(&self, results: &[(JobRef, Value)]) -> Result<Vec<(String, Verdict)>, StoreError> {
        let live = self.link.live()?;
        let (ids, tokens) = columns(results.iter().map(|(job, _)| job));
        let values: Vec<&Value> = results.iter().map(|(_, value)| value).collect();
        let rows = live.report(&live.on_report.complete, &[&ids, &tokens, &values]).await?;
        verdicts(&rows)
    }

    async fn fail(&self, results: &[(JobRef, Value)]) -> Result<Vec<(String, Verdict)>, StoreError> {
        let live = self.link.live()?;
        let (ids, tokens) = columns(results.iter().map(|(job, _)| job));
        let values: Vec<&Value> = results.iter().map(|(_, value)| value).collect();
        let rows = live.report(&live.on_report.fail, &[&ids, &tokens, &values]).await?;
        verdicts(&rows)
    }

    // By the connections of webhooks: a large body would keep claims and reports waiting.
    async fn put_blob(&self, job: &JobRef, bytes: &[u8]) -> Result<Option<String>, StoreError> {
        let _carrier = self.carriers.acquire().await;
        self.told(PUT_BLOB, &[&&*job.id, &job.token, &bytes], |row| row.try_get(0)).await
    }

    async fn read_blob(&self, job: &JobRef, sha256: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let _carrier = self.carriers.acquire().await;
        self.told(READ_BLOB, &[&&*job.id, &job.token, &sha256], |row| row.try_get(0)).await
    }

    async fn release(&self, jobs: &[JobRef], delay: Duration) -> Result<(), StoreError> {
        let live = self.link.live()?;
        let (ids, tokens) = columns(jobs.iter());
        live.control(&live.on_control.release, &[&ids, &tokens, &delay.as_secs_f64()]).await?;
        Ok(())
    }

    async fn sync(&self, queue: &str, executor: &str, told: &[HostPause]) -> Result<Peers, StoreError> {
        let live = self.link.live()?;
        let projects: Vec<&str> = told.iter().map(|pause| &*pause.project).collect();
        let hosts: Vec<&str> = told.iter().map(|pause| &*pause.host).collect();
        let left = told.iter().map(|pause| i64::try_from(pause.left.as_millis()).unwrap_or(i64::MAX));
        let left: Vec<i64> = left.collect();
        let params: &[&(dyn ToSql + Sync)] = &[&queue, &executor, &projects, &hosts, &left];
        let rows = live.control(&live.on_control.sync, params).await?;
        let mut peers = Peers { executors: 1, pauses: Vec::new() };
        for row in &rows {
            let (executors, pause) = peer(row).map_err(unexpected_shape)?;
            peers.executors = executors;
            peers.pauses.extend(pause);
        }
        Ok(peers)
    }

    fn wakeups(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    fn state(&self) -> watch::Receiver<DatabaseState> {
        self.state.clone()
    }
}

impl WebhookStore for PgStore {
    async fn receive(&self, webhook: &WebhookRequest) -> Result<WebhookReply, StoreError> {
        let body: &[u8] = &webhook.body;
        let params: &[&(dyn ToSql + Sync)] =
            &[&webhook.endpoint, &webhook.method, &webhook.headers, &webhook.query, &body];
        self.told(RECEIVE, params, |row| {
            let limit = row.try_get::<_, Option<i32>>(4)?.and_then(|ms| u64::try_from(ms).ok());
            let wait = row.try_get::<_, Option<String>>(3)?.zip(limit.map(Duration::from_millis));
            Ok(WebhookReply {
                status: row.try_get(0)?,
                headers: row.try_get(1)?,
                body: row.try_get(2)?,
                wait,
            })
        })
        .await
    }

    async fn outcomes(&self, outcomes: &[String]) -> Result<Vec<(String, WebhookReply)>, StoreError> {
        let answered = |row: &Row| {
            let (status, headers, body) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
            Ok((row.try_get(0)?, WebhookReply { status, headers, body, wait: None }))
        };
        let rows = self.asked(OUTCOMES, &[&outcomes]).await?;
        rows.iter().map(answered).collect::<Result<_, tokio_postgres::Error>>().map_err(unexpected_shape)
    }

    async fn open_outcome(&self, token: &str) -> Result<ResumeReply, StoreError> {
        self.told(OPEN_OUTCOME, &[&token], resume_reply).await
    }
}

impl ResumeStore for PgStore {
    async fn open(&self, token: &str) -> Result<ResumeReply, StoreError> {
        self.told(OPEN_RESUME_URL, &[&token], resume_reply).await
    }

    async fn answer(&self, token: &str, answer: &str) -> Result<ResumeReply, StoreError> {
        self.told(USE_RESUME_URL, &[&token, &answer], resume_reply).await
    }
}

fn resume_reply(row: &Row) -> Result<ResumeReply, tokio_postgres::Error> {
    Ok(ResumeReply { status: row.try_get(0)?, body: row.try_get(1)? })
}

/// Seconds as a duration; less than none is none.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn columns<'a>(jobs: impl Iterator<Item = &'a JobRef>) -> (Vec<&'a str>, Vec<i64>) {
    jobs.map(|job| (&*job.id, job.token)).unzip()
}

/// How many executors there are, and a pause if the row tells of one.
fn peer(row: &Row) -> Result<(usize, Option<HostPause>), tokio_postgres::Error> {
    let executors = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(1);
    let (project, host): (Option<&str>, Option<&str>) = (row.try_get(1)?, row.try_get(2)?);
    let left: Option<i64> = row.try_get(3)?;
    let pause = project.zip(host).zip(left).map(|((project, host), left)| HostPause {
        project: project.into(),
        host: host.into(),
        left: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
    });
    Ok((executors, pause))
}

fn verdicts(rows: &[Row]) -> Result<Vec<(String, Verdict)>, StoreError> {
    rows.iter()
        .map(|row| {
            let outcome: &str = row.try_get(1)?;
            let verdict = if outcome == "accepted" { Verdict::Accepted } else { Verdict::Stale };
            Ok((row.try_get(0)?, verdict))
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(unexpected_shape)
}

/// A function of the contract returned something else: a version we do not know after all.
fn unexpected_shape(error: tokio_postgres::Error) -> StoreError {
    StoreError::Unavailable(super::connect::chain(&error))
}
