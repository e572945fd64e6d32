//! What the sidecar asks of the database, behind three small traits, and the PostgreSQL side of them.
//!
//! Everything is a call of a `meshhook` function; nothing here decides anything.

pub mod connect;
pub mod link;
pub mod pool;
pub mod postgres;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, watch};

pub use postgres::PgStore;

/// A leased job as the database knows it: its id and the fencing token of this lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobRef {
    /// The job's id; the same over all attempts.
    pub id: Arc<str>,
    /// Grows with every lease of the job; an outcome under an old token is refused as stale.
    pub token: i64,
}

/// A job as claimed.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    /// Id and token.
    pub job: JobRef,
    /// Project the job belongs to: its rules say where it may call.
    pub project: String,
    /// Run the job belongs to.
    pub run_id: String,
    /// Node of that run (for logs only).
    pub node: String,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// `http` is the only kind executed here.
    pub kind: String,
    /// The rendered job as JSON text. Kept as text: its depth is bounded by the database only.
    pub payload: String,
    /// The secrets the payload wants put in, sealed, by name, as JSON text; `None` if it wants none.
    pub secrets: Option<String>,
    /// Sent as `Idempotency-Key`; the same over all attempts.
    pub idempotency_key: Option<String>,
    /// How long the lease lasts, counted from before the claim was sent: the database may grant less
    /// than was asked for.
    pub lease_left: Duration,
}

/// The answer to a heartbeat for one job.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The job's id.
    pub id: String,
    /// How long the lease lasts from now on; `None` if it is lost.
    pub lease_left: Option<Duration>,
}

/// What the database did with a reported outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Recorded.
    Accepted,
    /// Someone else holds the lease by now, or the job is settled; the report was ignored.
    Stale,
}

/// A webhook as it came in.
#[derive(Clone, Debug)]
pub struct WebhookRequest {
    /// Last segment of `/hooks/{endpoint}`, percent-decoded.
    pub endpoint: String,
    /// Request method.
    pub method: String,
    /// Lower-case names; a repeated header joined by `", "`.
    pub headers: Value,
    /// Raw query string without `?`; empty if there was none.
    pub query: String,
    /// The raw body: signatures are over these bytes.
    pub body: Bytes,
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct WebhookReply {
    /// HTTP status.
    pub status: i32,
    /// Headers to add, an object of strings.
    pub headers: Option<Value>,
    /// Body; a string under a non-JSON content type is sent as it is, everything else as JSON.
    pub body: Option<Value>,
    /// What the sender waits for before it gets this answer, and how long.
    pub wait: Option<(String, Duration)>,
}

/// Whether the database can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseState {
    /// No connection (yet, or at the moment).
    Unreachable,
    /// Connected, but the extension is missing, closed to us, or of a version we do not speak. Says
    /// what to do.
    Incompatible(String),
    /// Connected and compatible.
    Ready,
}

/// Sleeps, but not beyond the moment in which the database becomes ready again.
pub async fn sleep_or_ready(limit: Duration, state: &mut watch::Receiver<DatabaseState>) {
    state.mark_unchanged();
    let ready = async {
        while state.changed().await.is_ok() {
            if *state.borrow_and_update() == DatabaseState::Ready {
                return;
            }
        }
        // Nobody will say any more.
        std::future::pending::<()>().await;
    };
    // Running into the limit is the usual end.
    let _ = tokio::time::timeout(limit, ready).await;
}

/// Why the database did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It may work later: no connection, a time-out, shutting down, out of resources, missing
    /// privilege or function.
    #[error("{0}")]
    Unavailable(String),
    /// This very data was refused; the same call will not work later.
    #[error("{message} (SQLSTATE {code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// The database's primary message.
        message: String,
    },
}

/// A host that does not answer and is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPause {
    /// The project whose calls wait.
    pub project: Arc<str>,
    /// Host and port.
    pub host: Arc<str>,
    /// How much longer.
    pub left: Duration,
}

/// What an executor hears of all that serve its queue.
#[derive(Clone, Debug)]
pub struct Peers {
    /// How many there are, this one among them.
    pub executors: usize,
    /// What the others leave alone.
    pub pauses: Vec<HostPause>,
}

/// The job side of the database.
pub trait JobStore: Send + Sync + 'static {
    /// Leases up to `batch_size` ready jobs of `queue` to `executor` for `lease`.
    fn claim(
        &self,
        queue: &str,
        executor: &str,
        batch_size: usize,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<ClaimedJob>, StoreError>> + Send;

    /// Renews leases.
    fn heartbeat(
        &self,
        jobs: &[JobRef],
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<Renewal>, StoreError>> + Send;

    /// Records outputs. At most one entry a job id; all or nothing.
    fn complete(
        &self,
        results: &[(JobRef, Value)],
    ) -> impl Future<Output = Result<Vec<(String, Verdict)>, StoreError>> + Send;

    /// Records failures. At most one entry a job id; all or nothing.
    fn fail(
        &self,
        results: &[(JobRef, Value)],
    ) -> impl Future<Output = Result<Vec<(String, Verdict)>, StoreError>> + Send;

    /// Has a body kept for a job's run; its SHA-256, or `None` where the lease is lost.
    fn put_blob(
        &self,
        job: &JobRef,
        bytes: &[u8],
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;

    /// The bytes of a blob that a job refers to; `None` where the lease is lost.
    fn read_blob(
        &self,
        job: &JobRef,
        sha256: &str,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;

    /// Gives jobs back unstarted, for anybody to claim after `delay`; no attempt is spent.
    fn release(
        &self,
        jobs: &[JobRef],
        delay: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Says that the executor is there and which hosts it leaves alone; hears the same of the others.
    fn sync(
        &self,
        queue: &str,
        executor: &str,
        told: &[HostPause],
    ) -> impl Future<Output = Result<Peers, StoreError>> + Send;

    /// Rung whenever jobs may have become ready, and after every reconnect.
    fn wakeups(&self) -> Arc<Notify>;

    /// Whether the database can be worked with, now and as it changes.
    fn state(&self) -> watch::Receiver<DatabaseState>;
}

/// The webhook side of the database.
pub trait WebhookStore: Send + Sync + 'static {
    /// Hands a webhook over; returns after commit.
    fn receive(
        &self,
        webhook: &WebhookRequest,
    ) -> impl Future<Output = Result<WebhookReply, StoreError>> + Send;

    /// Those of the outcomes that senders wait for which are there, each with the answer.
    fn outcomes(
        &self,
        outcomes: &[String],
    ) -> impl Future<Output = Result<Vec<(String, WebhookReply)>, StoreError>> + Send;

    /// What a status URL tells, by its last segment; changes nothing.
    fn open_outcome(&self, token: &str) -> impl Future<Output = Result<ResumeReply, StoreError>> + Send;
}

/// What to answer to whoever has a resume URL, or a status URL.
#[derive(Clone, Debug)]
pub struct ResumeReply {
    /// HTTP status.
    pub status: i32,
    /// What the URL is for and what has become of that.
    pub body: Value,
}

/// The side of the database that resume URLs lead to. A token is the last segment of one.
pub trait ResumeStore: Send + Sync + 'static {
    /// Looks what it is for; changes nothing.
    fn open(&self, token: &str) -> impl Future<Output = Result<ResumeReply, StoreError>> + Send;

    /// Hands an answer over, as JSON text; returns after commit.
    fn answer(
        &self,
        token: &str,
        answer: &str,
    ) -> impl Future<Output = Result<ResumeReply, StoreError>> + Send;
}
