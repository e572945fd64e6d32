//! A store in memory, with the database's rules: one lease a job, outcomes only under its token.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshhook_sidecar::store::{
    ClaimedJob, DatabaseState, HostPause, JobRef, JobStore, Peers, Renewal, ResumeReply, ResumeStore,
    StoreError, Verdict, WebhookReply, WebhookRequest, WebhookStore,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

pub struct Fake {
    pub inner: Mutex<Inner>,
    wake: Arc<Notify>,
    state: watch::Sender<DatabaseState>,
}

#[derive(Default)]
pub struct Inner {
    ready: VecDeque<ClaimedJob>,
    leased: HashMap<Arc<str>, ClaimedJob>,
    /// Everything accepted, by job id: (function, value).
    pub outcomes: HashMap<String, Vec<(&'static str, Value)>>,
    pub released: Vec<String>,
    /// Given back, and ready from then on.
    later: Vec<(Instant, ClaimedJob)>,
    /// Sizes asked for and got.
    pub claims: Vec<(usize, usize)>,
    pub heartbeats: usize,
    /// Sizes of complete_jobs calls that succeeded.
    pub writes: Vec<usize>,
    pub stale: usize,
    /// Jobs whose next heartbeat says "lost".
    pub lose: HashSet<String>,
    pub webhooks: Vec<WebhookRequest>,
    /// What webhooks get; `None`: the database is away.
    pub reply: Option<WebhookReply>,
    pub webhook_delay: Duration,
    pub blobs: HashMap<String, Vec<u8>>,
    /// What is answered to senders that wait, and how many outcomes were asked for at once.
    pub answers: HashMap<String, WebhookReply>,
    pub asked: Vec<usize>,
    /// Tokens looked at, and the answers given to them.
    pub opened: Vec<String>,
    pub answered: Vec<(String, String)>,
    pub down: bool,
    /// Only outcomes cannot be written.
    pub clogged: bool,
    /// Calls that failed because of `down`.
    pub refused: usize,
}

impl Inner {
    pub fn leased_count(&self) -> usize {
        self.leased.len()
    }
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            wake: Arc::default(),
            state: watch::channel(DatabaseState::Ready).0,
        })
    }

    pub fn set_state(&self, state: DatabaseState) {
        self.state.send_replace(state);
    }

    /// From now on every call fails (or works again).
    pub fn set_down(&self, down: bool) {
        self.inner.lock().unwrap().down = down;
    }

    pub fn add(&self, id: &str, payload: Value) {
        self.add_all([(id.to_owned(), payload)]);
    }

    pub fn add_all(&self, jobs: impl IntoIterator<Item = (String, Value)>) {
        let mut inner = self.inner.lock().unwrap();
        for (id, payload) in jobs {
            inner.ready.push_back(ClaimedJob {
                job: JobRef { id: id.as_str().into(), token: 1 },
                project: "default".into(),
                run_id: "r".into(),
                node: "n".into(),
                attempt: 1,
                kind: "http".into(),
                payload: payload.to_string(),
                secrets: None,
                idempotency_key: Some(format!("run/{id}")),
                lease_left: Duration::ZERO,
            });
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// The one outcome of a job, if it has one; panics on a second.
    pub fn outcome(&self, id: &str) -> Option<(&'static str, Value)> {
        let inner = self.inner.lock().unwrap();
        let all = inner.outcomes.get(id)?;
        assert_eq!(all.len(), 1, "{id} has several outcomes: {all:?}");
        all.first().cloned()
    }

    pub fn finished(&self) -> usize {
        self.inner.lock().unwrap().outcomes.len()
    }

    pub fn leased(&self) -> usize {
        self.inner.lock().unwrap().leased_count()
    }

    fn settle(
        &self,
        function: &'static str,
        results: &[(JobRef, Value)],
    ) -> Result<Vec<(String, Verdict)>, StoreError> {
        let mut inner = self.up()?;
        if inner.clogged {
            inner.refused += 1;
            return Err(StoreError::Unavailable("clogged for the test".into()));
        }
        let poisoned = |value: &Value| function == "complete" && value["body"] == "poison";
        if results.iter().any(|(_, value)| poisoned(value)) {
            return Err(StoreError::Refused {
                code: "22P05".into(),
                message: "unsupported Unicode escape sequence".into(),
            });
        }
        inner.writes.push(results.len());
        let mut verdicts = Vec::new();
        for (job, value) in results {
            let holds = inner.leased.get(&job.id).is_some_and(|leased| leased.job.token == job.token);
            let verdict = if holds {
                inner.leased.remove(&job.id);
                let entry = inner.outcomes.entry(job.id.to_string()).or_default();
                entry.push((function, value.clone()));
                Verdict::Accepted
            } else {
                inner.stale += 1;
                Verdict::Stale
            };
            verdicts.push((job.id.to_string(), verdict));
        }
        Ok(verdicts)
    }

    fn up(&self) -> Result<std::sync::MutexGuard<'_, Inner>, StoreError> {
        let mut inner = self.inner.lock().unwrap();
        if inner.down {
            inner.refused += 1;
            return Err(StoreError::Unavailable("down for the test".into()));
        }
        Ok(inner)
    }
}

impl JobStore for Fake {
    async fn claim(
        &self,
        queue: &str,
        executor: &str,
        batch_size: usize,
        lease: Duration,
    ) -> Result<Vec<ClaimedJob>, StoreError> {
        assert_eq!((queue, executor), ("http", "test"));
        let mut inner = self.up()?;
        let now = Instant::now();
        let (ready, later) = std::mem::take(&mut inner.later).into_iter().partition(|(at, _)| *at <= now);
        inner.later = later;
        inner.ready.extend(Vec::into_iter(ready).map(|(_, job): (Instant, ClaimedJob)| job));
        let count = batch_size.min(inner.ready.len());
        let mut jobs: Vec<ClaimedJob> = inner.ready.drain(..count).collect();
        for job in &mut jobs {
            job.lease_left = lease;
            inner.leased.insert(job.job.id.clone(), job.clone());
        }
        inner.claims.push((batch_size, count));
        Ok(jobs)
    }

    async fn heartbeat(&self, jobs: &[JobRef], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let mut inner = self.up()?;
        inner.heartbeats += 1;
        let mut renewals = Vec::new();
        for job in jobs {
            if inner.lose.remove(&*job.id) {
                inner.leased.remove(&job.id);
            }
            renewals.push(Renewal {
                id: job.id.to_string(),
                lease_left: inner.leased.contains_key(&job.id).then_some(lease),
            });
        }
        Ok(renewals)
    }

    async fn complete(&self, results: &[(JobRef, Value)]) -> Result<Vec<(String, Verdict)>, StoreError> {
        self.settle("complete", results)
    }

    async fn fail(&self, results: &[(JobRef, Value)]) -> Result<Vec<(String, Verdict)>, StoreError> {
        self.settle("fail", results)
    }

    async fn put_blob(&self, job: &JobRef, bytes: &[u8]) -> Result<Option<String>, StoreError> {
        let mut inner = self.up()?;
        if bytes.starts_with(b"poison") {
            let (code, message) = ("54000".to_owned(), "a blob has at most 7 bytes".to_owned());
            return Err(StoreError::Refused { code, message });
        }
        let holds = inner.leased.get(&job.id).is_some_and(|leased| leased.job.token == job.token);
        let name = format!("blob-{}", inner.blobs.len());
        if holds {
            inner.blobs.insert(name.clone(), bytes.to_vec());
        }
        Ok(holds.then_some(name))
    }

    async fn read_blob(&self, _job: &JobRef, sha256: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let missing = || StoreError::Refused { code: "P0002".into(), message: "no such blob".into() };
        self.up()?.blobs.get(sha256).cloned().map(Some).ok_or_else(missing)
    }

    async fn release(&self, jobs: &[JobRef], delay: Duration) -> Result<(), StoreError> {
        let ready_at = Instant::now() + delay;
        let mut inner = self.up()?;
        for job in jobs {
            let back = inner.leased.remove(&job.id).expect("released but not held");
            inner.later.push((ready_at, back));
            inner.released.push(job.id.to_string());
        }
        Ok(())
    }

    async fn sync(&self, queue: &str, executor: &str, _: &[HostPause]) -> Result<Peers, StoreError> {
        assert_eq!((queue, executor), ("http", "test"));
        self.up().map(drop)?;
        Ok(Peers { executors: 1, pauses: Vec::new() })
    }

    fn wakeups(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    fn state(&self) -> watch::Receiver<DatabaseState> {
        self.state.subscribe()
    }
}

impl WebhookStore for Fake {
    async fn receive(&self, webhook: &WebhookRequest) -> Result<WebhookReply, StoreError> {
        let (reply, delay) = {
            let mut inner = self.inner.lock().unwrap();
            inner.webhooks.push(webhook.clone());
            (inner.reply.clone(), inner.webhook_delay)
        };
        tokio::time::sleep(delay).await;
        reply.ok_or_else(|| StoreError::Unavailable("down for the test".into()))
    }

    /// What `answers` has, and each question is counted.
    async fn outcomes(&self, outcomes: &[String]) -> Result<Vec<(String, WebhookReply)>, StoreError> {
        let mut inner = self.up()?;
        inner.asked.push(outcomes.len());
        Ok(outcomes
            .iter()
            .filter_map(|outcome| Some((outcome.clone(), inner.answers.get(outcome)?.clone())))
            .collect())
    }

    async fn open_outcome(&self, token: &str) -> Result<ResumeReply, StoreError> {
        self.up()?.opened.push(token.to_owned());
        Ok(ResumeReply { status: 200, body: json!({"run_id": "r", "status": "running"}) })
    }
}

/// Knows no rules: what is asked is noted, and the token says what to answer.
impl ResumeStore for Fake {
    async fn open(&self, token: &str) -> Result<ResumeReply, StoreError> {
        self.up()?.opened.push(token.to_owned());
        let body =
            json!({"state": "open", "approval": true, "workflow": "order", "node": "review", "run_id": "r"});
        Ok(ResumeReply { status: 200, body })
    }

    async fn answer(&self, token: &str, answer: &str) -> Result<ResumeReply, StoreError> {
        self.up()?.answered.push((token.to_owned(), answer.to_owned()));
        match token {
            "early" => Ok(ResumeReply { status: 409, body: json!({"state": "early", "error": "try again"}) }),
            "bad" => Err(StoreError::Refused { code: "22P02".into(), message: "secret".into() }),
            "broken" => Err(StoreError::Refused { code: "XX000".into(), message: "secret".into() }),
            _ => Ok(ResumeReply { status: 200, body: json!({"state": "used", "used": false}) }),
        }
    }
}

/// The payload of a GET.
pub fn get(url: String) -> Value {
    json!({"url": url})
}
