//! Claims jobs, makes their calls, reports what came of them.
//!
//! One task decides (this file): when to claim and what to start. Each call is a task of its own; one
//! task renews the leases ([`lease`]), one writes the outcomes ([`report`]). A job is *held* from its
//! claim until the database acknowledged its outcome; see [`lease::Leases`].

pub mod auth;
pub mod blobs;
pub mod body;
pub mod breaker;
pub mod call;
pub mod decode;
mod execution;
pub mod giving;
pub mod http;
pub mod lease;
pub mod limits;
pub mod oauth;
pub mod pace;
pub mod pages;
pub mod peers;
pub mod redirect;
pub mod report;
pub mod request;
pub mod response;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::http::header::AUTHORIZATION;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::execution::{Guard, count_call, execute, log_failure, report};
use self::giving::{Gift, Giver};
use self::http::{CallError, Class, HttpClient};
use self::lease::Leases;
use self::limits::{Lane, Queue, Sign, Slot};
use self::peers::Meeting;
use self::report::{Report, Reporter};
use self::request::Prepared;
use crate::backoff::Backoff;
use crate::secrets::fill;
use crate::secrets::redact::Redactor;
use crate::secrets::ring::Keys;
use crate::shutdown::Shutdown;
use crate::store::{ClaimedJob, DatabaseState, HostPause, JobRef, JobStore, Peers, StoreError};

/// While calls are running, a claim waits this long for more slots to come free, so that a busy
/// executor claims dozens at a time and not one by one.
const SETTLE: Duration = Duration::from_millis(3);
/// How often to look whether results have been written when too many wait for it.
const CLOGGED: Duration = Duration::from_millis(20);
/// After an outage, results that wait to be written get this head start on the next claim.
const RESULTS_FIRST: Duration = Duration::from_millis(100);
/// How often to look at jobs that wait for their hosts.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often to forget what is of no use any more.
const SWEEP: Duration = Duration::from_secs(1);
/// Once drained, outcomes get at least this long to be written.
const FLUSH: Duration = Duration::from_secs(3);

/// How the executor works; see the flags of the same names.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Queue to claim from.
    pub queue: String,
    /// Name leases are recorded under.
    pub executor: String,
    /// Most calls at once.
    pub concurrency: usize,
    /// Most calls at once to one host and port.
    pub per_host: usize,
    /// Most jobs in one statement.
    pub batch: usize,
    /// Length of a lease.
    pub lease: Duration,
    /// Longest time between two looks for jobs.
    pub poll: Duration,
    /// How long running calls may go on once draining began.
    pub drain: Duration,
}

/// What the deciding task hears from the others.
enum Event {
    /// A call's task is gone, one way or another.
    Ended(Slot, Sign),
    /// Jobs are back in the database, and ready again from then on.
    Returned(Instant),
    /// Other executors were heard of.
    Met(Peers),
    /// A claim came back.
    Claimed { asked: Instant, wanted: usize, result: Result<Vec<ClaimedJob>, StoreError> },
}

/// A claimed job whose payload has been checked.
struct Ready {
    claimed: ClaimedJob,
    prepared: Prepared,
    since: Instant,
}

struct Executor<S> {
    store: Arc<S>,
    settings: Settings,
    client: HttpClient,
    keys: Keys,
    leases: Arc<Leases>,
    queue: Queue<Ready>,
    events: mpsc::UnboundedSender<Event>,
    reports: mpsc::UnboundedSender<Report>,
    gifts: mpsc::UnboundedSender<Gift>,
    /// Hosts that do not answer, for other executors to know.
    pauses: watch::Sender<Vec<HostPause>>,
    /// There may be ready jobs that we do not know of.
    hungry: bool,
    /// A claim is on its way.
    claiming: bool,
    /// No claim before this.
    not_before: Option<Instant>,
    /// When jobs that were given back for a while are ready again.
    returns: BTreeSet<Instant>,
    next_sweep: Instant,
    backoff: Backoff,
}

/// Runs the executor until it is told to drain, and drains. Returns when nothing is left to do, or
/// when the time to drain is over.
pub async fn run<S: JobStore>(
    store: Arc<S>,
    settings: Settings,
    client: HttpClient,
    keys: Keys,
    mut shutdown: Shutdown,
) {
    let leases = Arc::new(Leases::new(settings.lease));
    let (events, mut inbox) = mpsc::unbounded_channel();
    let (reports, outbox) = mpsc::unbounded_channel();
    let reporter = tokio::spawn(
        Reporter { store: store.clone(), leases: leases.clone(), batch: settings.batch }.run(outbox),
    );
    let (gifts, given) = mpsc::unbounded_channel();
    let giver = Giver { store: store.clone(), leases: leases.clone(), events: events.clone() };
    let giver = tokio::spawn(giver.run(given));
    let (pauses, told) = watch::channel(Vec::new());
    let meeting = Meeting {
        store: store.clone(),
        leases: leases.clone(),
        queue: settings.queue.clone(),
        executor: settings.executor.clone(),
        told,
        events: events.clone(),
    };
    let meeting = tokio::spawn(meeting.run());
    let renewing = tokio::spawn(lease::keep_renewing(store.clone(), leases.clone()));
    let wake = store.wakeups();
    let state = store.state();
    let mut executor = Executor {
        queue: Queue::new(settings.concurrency, settings.per_host),
        store,
        settings,
        client,
        keys,
        leases,
        events,
        reports,
        gifts,
        pauses,
        hungry: true,
        claiming: false,
        not_before: None,
        returns: BTreeSet::new(),
        next_sweep: Instant::now(),
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
    };
    executor.work(&mut inbox, &wake, state, &mut shutdown).await;
    executor.drain(&mut inbox, reporter, giver).await;
    renewing.abort();
    meeting.abort();
}

impl<S: JobStore> Executor<S> {
    async fn work(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<Event>,
        wake: &Notify,
        mut state: watch::Receiver<DatabaseState>,
        shutdown: &mut Shutdown,
    ) {
        let mut poll = Box::pin(tokio::time::sleep(self.poll_period()));
        loop {
            self.start_what_may_start();
            self.keep_house();
            self.give_back_hopeless();
            let (returning, due) = (self.next_return(), self.queue.next_due());
            let ready = *state.borrow_and_update() == DatabaseState::Ready;
            let claim_at = if ready { self.claim_time() } else { None };
            if claim_at.is_some_and(|at| at <= Instant::now()) {
                self.claim();
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.draining() => return,
                Some(event) = inbox.recv() => {
                    self.on(event);
                    // Everything else that is there, before deciding again.
                    while let Ok(event) = inbox.try_recv() {
                        self.on(event);
                    }
                }
                () = wake.notified() => self.hungry = true,
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.hungry = true;
                    // After an outage, results first: a job whose lease ran out meanwhile would be
                    // claimed and called again although its result is at hand.
                    self.not_before =
                        self.leases.has_results().then(|| Instant::now() + RESULTS_FIRST);
                    self.backoff.reset();
                }
                () = sleep_until(claim_at), if claim_at.is_some() => {}
                () = sleep_until(returning), if returning.is_some() => self.hungry = true,
                () = sleep_until(due), if due.is_some() => {}
                // A host may turn out to be slow, and a pause may be over, without anything happening.
                () = tokio::time::sleep(LOOK_AGAIN), if self.queue.waiting() > 0 => {}
                () = &mut poll => {
                    self.hungry = true;
                    poll.set(tokio::time::sleep(self.poll_period()));
                }
            }
        }
    }

    /// When to look for jobs that were given back, if any were.
    fn next_return(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while self.returns.first().is_some_and(|at| *at <= now) {
            self.returns.pop_first();
            self.hungry = true;
        }
        self.returns.first().copied()
    }

    /// The safety poll's period with its jitter: replicas started together drift apart.
    fn poll_period(&self) -> Duration {
        self.settings.poll.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// When to claim next, if anything is to be claimed at all.
    fn claim_time(&mut self) -> Option<Instant> {
        let room = self.queue.room();
        if !self.hungry || self.claiming || room == 0 {
            return None;
        }
        // Claims that succeed while reports do not would pile up results without end.
        let results = self.leases.len().saturating_sub(self.queue.running() + self.queue.waiting());
        if results > 2 * self.settings.concurrency.max(self.settings.batch) {
            return Some(Instant::now() + CLOGGED);
        }
        let now = Instant::now();
        let worthwhile = self.settings.batch.min(self.settings.concurrency.div_ceil(4));
        if self.not_before.is_none() {
            let idle = self.queue.running() == 0;
            self.not_before = Some(if idle || room >= worthwhile { now } else { now + SETTLE });
        } else if room >= worthwhile && !self.backing_off() {
            self.not_before = Some(now);
        }
        self.not_before
    }

    /// True while a failed claim is the reason to wait.
    fn backing_off(&self) -> bool {
        self.not_before.is_some_and(|at| at > Instant::now() + SETTLE)
    }

    fn claim(&mut self) {
        let wanted = self.queue.room().min(self.settings.batch);
        self.claiming = true;
        // A wake-up from here on may be about jobs this claim cannot see.
        self.hungry = false;
        self.not_before = None;
        let (store, events) = (self.store.clone(), self.events.clone());
        let (queue, executor) = (self.settings.queue.clone(), self.settings.executor.clone());
        let lease = self.settings.lease;
        tokio::spawn(async move {
            let asked = Instant::now();
            let result = store.claim(&queue, &executor, wanted, lease).await;
            // Fails only when the executor is gone; the leases run out then.
            let _ = events.send(Event::Claimed { asked, wanted, result });
        });
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Returned(at) => {
                self.returns.insert(at);
            }
            Event::Met(peers) => {
                metrics::gauge!("meshhook_sidecar_executors").set(peers.executors as f64);
                self.queue.meet(&peers, Instant::now());
                self.tell_pauses();
            }
            Event::Ended(slot, sign) => {
                if self.queue.ended(&slot, sign, Instant::now()) {
                    let (project, host) = (&slot.lane.project, &slot.lane.host);
                    if self.queue.is_kept_back(&slot.lane) {
                        tracing::warn!(%project, %host, "the host does not answer: its calls wait");
                    } else {
                        tracing::info!(%project, %host, "the host answers again");
                    }
                    self.tell_pauses();
                }
            }
            Event::Claimed { asked, wanted, result } => {
                self.claiming = false;
                match result {
                    Ok(jobs) => {
                        metrics::counter!("meshhook_sidecar_claims_total").increment(1);
                        metrics::counter!("meshhook_sidecar_jobs_claimed_total").increment(jobs.len() as u64);
                        self.backoff.reset();
                        self.queue.set_hosts(self.client.hosts());
                        // A full batch: there is probably more.
                        self.hungry |= jobs.len() >= wanted;
                        for job in jobs {
                            self.take(job, asked);
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "could not claim jobs");
                        metrics::counter!("meshhook_sidecar_claim_errors_total").increment(1);
                        self.hungry = true;
                        self.not_before = Some(Instant::now() + self.backoff.next_wait());
                    }
                }
            }
        }
    }

    /// Queues a claimed job, or fails it at once if it cannot be sent.
    fn take(&mut self, claimed: ClaimedJob, asked: Instant) {
        self.leases.claimed(&claimed.job, asked + claimed.lease_left);
        match self.prepare(&claimed) {
            Ok(mut prepared) => {
                prepared.trace(&claimed.run_id);
                let lane = Lane { project: claimed.project.as_str().into(), host: prepared.host.clone() };
                // The text has served; only what is sent is kept while the job waits.
                let claimed = ClaimedJob { payload: String::new(), ..claimed };
                self.queue.push(&lane, Ready { claimed, prepared, since: asked });
            }
            Err(error) => {
                count_call(error.class.name());
                log_failure(&claimed, &error);
                report(&self.leases, &self.reports, claimed.job, Err(error));
            }
        }
    }

    /// The request that a job asks for, with its secrets in it.
    fn prepare(&self, claimed: &ClaimedJob) -> Result<Prepared, CallError> {
        let invalid = |message| CallError { class: Class::InvalidRequest, message, hopeless: true };
        if claimed.kind != "http" {
            let kind = &claimed.kind;
            return Err(invalid(format!(
                "this executor makes http calls and cannot do jobs of kind {kind:?}"
            )));
        }
        let key = claimed.idempotency_key.as_deref();
        if claimed.secrets.is_none() {
            return request::prepare(&claimed.payload, key).map_err(invalid);
        }
        // Whoever sets a secret, or gives us its key, makes another attempt worth while.
        let missing = |message| CallError { class: Class::Secret, message, hopeless: false };
        let sealed = claimed.secrets.as_deref();
        let (payload, opened) =
            fill::fill(&self.keys.ring(), &claimed.project, &claimed.payload, sealed).map_err(missing)?;
        let mut redactor = Redactor::new(&opened);
        let prepared = request::prepare(&payload, key);
        let mut prepared = prepared.map_err(|message| invalid(redactor.text(&message)))?;
        // A user name and its password are encoded as one.
        let authorization = prepared.first.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(("Basic", credentials)) = authorization.and_then(|value| value.split_once(' ')) {
            redactor.also("authorization", credentials);
        }
        prepared.redactor = redactor;
        Ok(prepared)
    }

    fn start_what_may_start(&mut self) {
        let now = Instant::now();
        while let Some((slot, ready)) = self.queue.start_next(now) {
            if !self.leases.may_start(&ready.claimed.job) {
                tracing::warn!(job = %ready.claimed.job.id, "lease lost before the call began");
                self.queue.ended(&slot, Sign::None, now);
                continue;
            }
            let job = ready.claimed.job.clone();
            let guard = Guard {
                slot: Some(slot),
                sign: Sign::None,
                job: job.clone(),
                leases: self.leases.clone(),
                events: self.events.clone(),
                reported: false,
            };
            let task = tokio::spawn(execute(
                self.store.clone(),
                self.client.clone(),
                ready,
                guard,
                self.reports.clone(),
            ));
            self.leases.started(&job, task.abort_handle());
        }
        metrics::gauge!("meshhook_sidecar_jobs", "state" => "running").set(self.queue.running() as f64);
        metrics::gauge!("meshhook_sidecar_jobs", "state" => "waiting_for_host")
            .set(self.queue.waiting() as f64);
    }

    /// Gives back what would only keep others from being claimed: somebody takes it when it has a chance.
    fn give_back_hopeless(&mut self) {
        let mut groups: BTreeMap<Duration, Vec<JobRef>> = BTreeMap::new();
        for (delay, ready) in self.queue.take_hopeless(Instant::now()) {
            metrics::counter!("meshhook_sidecar_jobs_given_back_total").increment(1);
            groups.entry(delay).or_default().push(ready.claimed.job);
        }
        for (delay, jobs) in groups {
            self.give(delay, jobs);
        }
    }

    fn give(&self, delay: Duration, jobs: Vec<JobRef>) {
        // Fails only when it was given up at the end of the drain time.
        let _ = self.gifts.send(Gift { delay, jobs });
    }

    /// What is to be done now and then, rather than for each event.
    fn keep_house(&mut self) {
        let now = Instant::now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        self.queue.set_hosts(self.client.hosts());
        self.queue.sweep(now);
        self.tell_pauses();
    }

    /// Says which hosts are left alone, to other executors and to whoever watches this one.
    fn tell_pauses(&self) {
        self.pauses.send_replace(self.queue.pauses(Instant::now()));
        metrics::gauge!("meshhook_sidecar_hosts_left_alone").set(self.queue.kept_back() as f64);
    }

    /// Gives back what has not started, waits for what runs, has everything written.
    async fn drain(
        mut self,
        inbox: &mut mpsc::UnboundedReceiver<Event>,
        reporter: JoinHandle<()>,
        giver: JoinHandle<()>,
    ) {
        let deadline = Instant::now() + self.settings.drain;
        tracing::info!(
            running = self.queue.running(),
            waiting = self.queue.waiting(),
            "draining: no more claims"
        );
        loop {
            self.give_back();
            if self.queue.running() == 0 && !self.claiming {
                break;
            }
            tokio::select! {
                Some(event) = inbox.recv() => self.on(event),
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        let stopped = self.leases.stop_running();
        for (id, token) in &stopped {
            let error = CallError {
                class: Class::Io,
                message: "the sidecar was shut down before the response was complete".to_owned(),
                hopeless: false,
            };
            let job = JobRef { id: id.clone(), token: *token };
            count_call("shutdown");
            report(&self.leases, &self.reports, job, Err(error));
        }
        if !stopped.is_empty() {
            tracing::warn!(count = stopped.len(), "stopped calls that outlasted the drain time");
        }
        // With the last sender gone both end once everything is written.
        let leases = self.leases.clone();
        drop(self);
        let limit = deadline.max(Instant::now() + FLUSH);
        let written = async { tokio::join!(reporter, giver) };
        if tokio::time::timeout_at(limit, written).await.is_err() {
            tracing::warn!(
                count = leases.len(),
                "could not write all outcomes in time: their leases will run out"
            );
        }
        tracing::info!("drained");
    }

    fn give_back(&mut self) {
        let jobs: Vec<JobRef> =
            self.queue.drain_waiting().into_iter().map(|ready| ready.claimed.job).collect();
        if !jobs.is_empty() {
            tracing::info!(count = jobs.len(), "giving back jobs that have not started");
            self.give(Duration::ZERO, jobs);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
