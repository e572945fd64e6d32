//! The executor's two sessions, which are always being kept open: *control* (LISTEN, claim, heartbeat,
//! release, version check) and *report* (complete, fail), so that a slow report holds up no renewal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::{Connector, Session, chain};
use super::{DatabaseState, StoreError};
use crate::backoff::Backoff;

/// A session must be open and prepared within this.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Longer than the `statement_timeout` of a session: beyond it the connection is taken for dead.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// How often a compatible version is checked again (an upgrade does not end connections).
const RECHECK_READY: Duration = Duration::from_secs(300);
/// How often an incompatible one is.
const RECHECK_INCOMPATIBLE: Duration = Duration::from_secs(10);
/// A session that lived this long ends the back-off of its predecessor.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Statements of the control session.
pub(super) struct ControlStatements {
    pub claim: Statement,
    pub heartbeat: Statement,
    pub release: Statement,
    pub sync: Statement,
}

impl ControlStatements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let claim =
            "SELECT job_id, token, project, run_id::text, node, attempt, kind, payload::text, secrets::text,
               idempotency_key,
               extract(epoch FROM lease_expires_at - clock_timestamp())::double precision
             FROM meshhook.claim_jobs(queue => $1::text, executor => $2::text, batch_size => $3::integer,
               lease => make_interval(secs => $4))";
        let heartbeat =
            "SELECT job_id, extract(epoch FROM lease_expires_at - clock_timestamp())::double precision
             FROM meshhook.heartbeat_jobs(job_ids => $1::text[], tokens => $2::bigint[],
               lease => make_interval(secs => $3))";
        let release =
            "SELECT job_id, outcome FROM meshhook.release_jobs(job_ids => $1::text[], tokens => $2::bigint[],
               delay => make_interval(secs => $3))";
        let sync = "SELECT executors, project, host, pause_ms FROM meshhook.sync_executor(queue => $1::text,
               executor => $2::text, projects => $3::text[], hosts => $4::text[], pauses_ms => $5::bigint[])";
        Ok(Self {
            claim: client.prepare(claim).await?,
            heartbeat: client.prepare(heartbeat).await?,
            release: client.prepare(release).await?,
            sync: client.prepare(sync).await?,
        })
    }
}

/// Statements of the report session.
pub(super) struct ReportStatements {
    pub complete: Statement,
    pub fail: Statement,
}

impl ReportStatements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let complete = "SELECT job_id, outcome FROM meshhook.complete_jobs(
               job_ids => $1::text[], tokens => $2::bigint[], outputs => $3::jsonb[])";
        let fail = "SELECT job_id, outcome FROM meshhook.fail_jobs(
               job_ids => $1::text[], tokens => $2::bigint[], errors => $3::jsonb[])";
        Ok(Self { complete: client.prepare(complete).await?, fail: client.prepare(fail).await? })
    }
}

/// Both sessions, ready for use.
pub(super) struct Live {
    control: Session,
    report: Session,
    pub on_control: ControlStatements,
    pub on_report: ReportStatements,
    /// Rung by a caller that found a session unusable.
    broken: Notify,
}

impl Live {
    /// Runs a statement of the control session to its end (and so to its commit).
    pub async fn control(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.query(&self.control, statement, params).await
    }

    /// Runs a statement of the report session to its end (and so to its commit).
    pub async fn report(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.query(&self.report, statement, params).await
    }

    async fn query(
        &self,
        session: &Session,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let call = session.client.query(statement, params);
        let error = match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => error,
            Err(_) => {
                self.broken.notify_one();
                return Err(StoreError::Unavailable(format!("no answer within {} s", CALL_LIMIT.as_secs())));
            }
        };
        let (error, session_is_lost) = judge(&error);
        if session_is_lost {
            self.broken.notify_one();
        }
        Err(error)
    }

    /// Waits until either session is of no more use; says why.
    async fn ended(&self) -> String {
        tokio::select! {
            reason = self.control.ended() => reason,
            reason = self.report.ended() => reason,
            () = self.broken.notified() => "a session became unusable".to_owned(),
        }
    }
}

/// The two sessions, kept open by a task of their own.
pub(super) struct Link {
    current: watch::Receiver<Option<Arc<Live>>>,
    supervisor: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Link {
    /// Starts connecting; rings `wake` on notifications and publishes the state of the database.
    pub fn start(connector: Connector, wake: Arc<Notify>, state: watch::Sender<DatabaseState>) -> Self {
        let (sender, current) = watch::channel(None);
        let supervisor = Supervisor { connector, wake, state, current: sender, incompatible: None };
        Self { current, supervisor: tokio::spawn(supervisor.run()).abort_handle() }
    }

    /// The live sessions, or the error that there are none at the moment.
    pub fn live(&self) -> Result<Arc<Live>, StoreError> {
        self.current
            .borrow()
            .clone()
            .ok_or_else(|| StoreError::Unavailable("not connected to the database".to_owned()))
    }
}

struct Supervisor {
    connector: Connector,
    wake: Arc<Notify>,
    state: watch::Sender<DatabaseState>,
    current: watch::Sender<Option<Arc<Live>>>,
    /// What was last logged about an incompatible database, so that it is said once.
    incompatible: Option<String>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut outage: Option<Instant> = None;
        loop {
            let opened = Instant::now();
            let reason = self.one_session(&mut outage).await;
            self.state.send_replace(DatabaseState::Unreachable);
            let was_live = self.current.send_replace(None).is_some();
            let metric = if was_live {
                "meshhook_sidecar_db_disconnects_total"
            } else {
                "meshhook_sidecar_db_connect_errors_total"
            };
            metrics::counter!(metric, "purpose" => "jobs").increment(1);
            if outage.is_none() {
                outage = Some(Instant::now());
                tracing::warn!(reason, "database unavailable: reconnecting until it is back");
            } else {
                tracing::debug!(reason, "database still unavailable");
            }
            if opened.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Connects and works until the connection ends; returns why it did.
    async fn one_session(&mut self, outage: &mut Option<Instant>) -> String {
        match self.connector.open(OPEN_LIMIT, self.wake.clone()).await {
            Ok(control) => match self.use_session(control, outage).await {
                Ok(reason) => reason,
                Err(error) => chain(&error),
            },
            Err(reason) => reason,
        }
    }

    async fn use_session(
        &mut self,
        control: Session,
        outage: &mut Option<Instant>,
    ) -> Result<String, tokio_postgres::Error> {
        control.client.batch_execute("LISTEN meshhook_jobs").await?;
        let on_control = loop {
            let problem = match check_version(&control.client).await? {
                Some(problem) => problem,
                None => match ControlStatements::prepare(&control.client).await {
                    Ok(statements) => break statements,
                    Err(error) => foreign_extension(error)?,
                },
            };
            outage_is_over(outage);
            self.not_compatible(problem);
            tokio::select! {
                reason = control.ended() => return Ok(reason),
                () = tokio::time::sleep(RECHECK_INCOMPATIBLE) => {}
            }
        };
        let report = match self.connector.open(OPEN_LIMIT, Arc::new(Notify::new())).await {
            Ok(report) => report,
            Err(reason) => return Ok(reason),
        };
        let on_report = ReportStatements::prepare(&report.client).await?;
        let live = Arc::new(Live { control, report, on_control, on_report, broken: Notify::new() });
        outage_is_over(outage);
        self.incompatible = None;
        self.current.send_replace(Some(live.clone()));
        self.state.send_replace(DatabaseState::Ready);
        metrics::counter!("meshhook_sidecar_db_connects_total", "purpose" => "jobs").increment(1);
        tracing::info!("database ready");
        // Whatever was notified while nobody listened.
        self.wake.notify_one();
        loop {
            tokio::select! {
                reason = live.ended() => return Ok(reason),
                () = tokio::time::sleep(RECHECK_READY) => {}
            }
            if let Some(problem) = check_version(&live.control.client).await? {
                // The next session says what is wrong and waits for it to change.
                return Ok(problem);
            }
        }
    }

    fn not_compatible(&mut self, problem: String) {
        if self.incompatible.as_ref() != Some(&problem) {
            tracing::error!(
                hint = problem,
                "cannot work with this database: not ready, checking again every {} s",
                RECHECK_INCOMPATIBLE.as_secs()
            );
            self.incompatible = Some(problem.clone());
        }
        self.state.send_replace(DatabaseState::Incompatible(problem));
    }
}

/// Ends an outage in the log.
fn outage_is_over(outage: &mut Option<Instant>) {
    if let Some(since) = outage.take() {
        tracing::info!(outage_seconds = since.elapsed().as_secs(), "database reachable again");
    }
}

/// What keeps an executor from working over a session, if anything does.
///
/// # Errors
/// When the session is of no use.
pub async fn problem(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    if let Some(problem) = check_version(client).await? {
        return Ok(Some(problem));
    }
    let prepared = ControlStatements::prepare(client).await.map(drop);
    match prepared.and(ReportStatements::prepare(client).await.map(drop)) {
        Ok(()) => Ok(None),
        Err(error) => foreign_extension(error).map(Some),
    }
}

/// `None` if the extension's version fits, else what to do about it.
async fn check_version(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let asking = client.query_one("SELECT meshhook.version()::text", &[]);
    match asking.await.and_then(|row| row.try_get::<_, String>(0)) {
        Ok(version) => Ok(crate::version::check(&version).err()),
        Err(error) => foreign_extension(error).map(Some),
    }
}

/// Turns "no such function" and "no such right" into advice; everything else stays an error.
fn foreign_extension(error: tokio_postgres::Error) -> Result<String, tokio_postgres::Error> {
    match error.code().map(|code| code.code()) {
        Some("3F000" | "42883" | "42P01") => Ok(format!(
            "the extension is missing or too old ({}): run CREATE EXTENSION meshhook or \
             ALTER EXTENSION meshhook UPDATE in this database",
            chain(&error)
        )),
        Some("42501") => {
            Ok(format!("this role may not execute jobs ({}): GRANT meshhook_executor TO it", chain(&error)))
        }
        _ => Err(error),
    }
}

/// Sorts a driver error; the flag says that the session is of no more use.
pub(super) fn judge(error: &tokio_postgres::Error) -> (StoreError, bool) {
    let Some(db) = error.as_db_error() else {
        // An oversized or unencodable parameter never left this process.
        let text = chain(error);
        let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
        let lost = error.is_closed() || io.is_some_and(|io| io.kind() != std::io::ErrorKind::InvalidInput);
        return if lost {
            (StoreError::Unavailable(text), true)
        } else {
            let code = "22000".to_owned();
            (StoreError::Refused { code, message: text }, false)
        };
    };
    let code = db.code().code();
    let lost = matches!(
        code,
        // shutting down; a standby, so that a multi-host string finds the primary; changed function
        "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "0A000" | "26000" | "42883" | "3F000"
    );
    let later = lost || matches!(&code[..2], "08" | "25" | "28" | "40" | "42" | "53" | "55" | "57" | "58");
    let message = db.message().to_owned();
    if later {
        (StoreError::Unavailable(format!("{message} (SQLSTATE {code})")), lost)
    } else {
        let code = code.to_owned();
        (StoreError::Refused { code, message }, false)
    }
}
