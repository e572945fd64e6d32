//! The orchestrator: the background worker of one database.
//!
//! Decides when a turn is taken and when to sleep. What a turn does is `run::turn`'s business.
//! Between turns it holds no transaction, no snapshot and no table lock; when there is nothing to
//! do it does nothing but look once every 30 seconds.

use super::announce::Announcer;
use super::probe::{self, Probe};
use super::transaction::{self, Failure};
use super::{backoff, ffi};
use crate::operations;
use crate::run::turn::{TurnReport, Turns};
use crate::shmem::{self, State};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, function_name, pg_guard, pg_sys};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Runs one turn takes up at most.
const BATCH: usize = 512;
/// A turn that takes longer is rolled back and its runs are taken one by one.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// Covers lost wake-ups (PREPARE TRANSACTION, a crash between commit and signal).
const SAFETY_POLL: Duration = Duration::from_secs(30);
/// Without shared memory nobody wakes us.
const UNPRELOADED_POLL: Duration = Duration::from_millis(200);
/// While the extension is being dropped or altered, or its first leaves are made: the first look again, and the rarest.
const BUSY_INITIAL: Duration = Duration::from_millis(10);
const BUSY_POLL: Duration = Duration::from_secs(1);
/// How long an unpreloaded worker waits for the extension it was started for.
const INSTALL_LIMIT: Duration = Duration::from_secs(10);
/// How often maintenance is looked at.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(600);
/// Most steps of maintenance in a row, and how soon it is looked at again where these were not enough.
const MAINTENANCE_STEPS: usize = 8;
const MAINTENANCE_BREAK: Duration = Duration::from_secs(2);
const FAILURE_INITIAL: Duration = Duration::from_millis(100);
const FAILURE_CAP: Duration = Duration::from_secs(30);

/// What to do after a cycle.
enum Next {
    /// Nothing is due before this time (microseconds since 2000).
    SleepUntil(i64),
    /// Wait this long and let no wake-up shorten it.
    Pause(Duration),
    /// Leave for good; says why to the launcher.
    Leave(State),
}

/// What one transaction found out.
enum Turn {
    NotReady(Probe),
    Taken { report: TurnReport, next_due: Option<i64> },
}

struct Orchestrator {
    started: Instant,
    /// None: not preloaded, the session lock is ours instead.
    link: Option<shmem::Link>,
    turns: Turns,
    /// The extension whose state `turns` caches.
    extension: pg_sys::Oid,
    /// Failed turns in a row.
    failures: u32,
    /// Looks in a row that found the extension locked.
    busy: u32,
    last_failure: Option<String>,
    /// Cycles in a row that found something due and could not take it (another session has it).
    fruitless: u32,
    /// Not before this.
    maintenance_due: Option<Instant>,
    announcer: Announcer,
    /// Whether the last cycle could take turns: only then is anything announced.
    ready: bool,
}

/// Entry point of the background worker; the argument is the database's object id.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn meshhook_orchestrator_main(argument: pg_sys::Datum) {
    ffi::accept_signals();
    ffi::connect(Some(pg_sys::Oid::from(argument.value() as u32)));
    super::settle();
    ffi::override_setting(c"application_name", &ffi::c_string(super::ORCHESTRATOR_TYPE));
    ffi::report_activity(None);
    let link = if shmem::available() {
        // None: another orchestrator is faster, or nobody wants this one any more.
        match shmem::attach_orchestrator() {
            Some(link) => Some(link),
            None => return,
        }
    } else if ffi::try_orchestrator_lock() {
        None
    } else {
        return;
    };
    Orchestrator {
        started: Instant::now(),
        link,
        turns: Turns::new(),
        extension: pg_sys::InvalidOid,
        failures: 0,
        busy: 0,
        last_failure: None,
        fruitless: 0,
        maintenance_due: None,
        announcer: Announcer::new(),
        ready: false,
    }
    .serve();
}

impl Orchestrator {
    fn serve(mut self) {
        let context = ffi::enter_cycle_context();
        loop {
            // Order matters: latch, then flag, then scan. A commit during the scan raises both.
            ffi::reset_latch();
            ffi::serve_interrupts();
            if self.must_leave() {
                return self.leave(State::Detached);
            }
            if let Some(link) = &self.link {
                link.begin_scan();
            }
            let next = self.cycle();
            ffi::reset_cycle_context(context);
            match next {
                Next::Leave(state) => return self.leave(state),
                Next::SleepUntil(time) => self.sleep_until(time),
                Next::Pause(duration) => self.pause(duration),
            }
        }
    }

    fn must_leave(&self) -> bool {
        self.link.as_ref().is_some_and(shmem::Link::must_leave)
    }

    /// Returning from the entry point exits with code 0: the postmaster forgets this worker.
    fn leave(&self, state: State) {
        self.set_state(state);
    }

    fn set_state(&self, state: State) {
        if let Some(link) = &self.link {
            link.set_state(state);
        }
    }

    fn poll(&self) -> Duration {
        if self.link.is_some() { SAFETY_POLL } else { UNPRELOADED_POLL }
    }

    /// Takes turns until nothing is left to do now.
    fn cycle(&mut self) -> Next {
        loop {
            match self.turn() {
                Ok(Turn::NotReady(probe)) => return self.not_ready(probe),
                Ok(Turn::Taken { report, next_due }) => {
                    self.set_state(State::Serving);
                    self.ready = true;
                    self.succeeded();
                    if report.runs > 0 {
                        self.announcer.note_turn();
                    }
                    self.announce_if_due();
                    if !report.more {
                        self.maintain();
                        return self.after_drain(report.runs, next_due);
                    }
                }
                Err(failure) => {
                    self.failed(&failure);
                    // The first failure is followed at once by runs taken one by one; a second
                    // one in a row says that something else is wrong too.
                    if self.failures > 1 || failure.is_transient() {
                        let delay = backoff::delay(FAILURE_INITIAL, FAILURE_CAP, self.failures);
                        return Next::Pause(delay);
                    }
                }
            }
            ffi::serve_interrupts();
            if self.must_leave() {
                return Next::Leave(State::Detached);
            }
        }
    }

    /// One transaction: probe, turn, and the next deadline when nothing is left to do.
    fn turn(&mut self) -> Result<Turn, Failure> {
        let (turns, known) = (&mut self.turns, &mut self.extension);
        transaction::run(c"meshhook: turn", TURN_LIMIT, || match probe::probe() {
            Probe::Ready { extension, owner } => {
                if extension != *known {
                    // Created anew: nothing remembered from before is true.
                    *turns = Turns::new();
                    *known = extension;
                }
                transaction::act_as(owner);
                let report = turns.turn(BATCH);
                let next_due = if report.more { None } else { turns.next_due() };
                Turn::Taken { report, next_due }
            }
            other => Turn::NotReady(other),
        })
    }

    /// Says what was appended, if it is time; returns when it will be.
    fn announce_if_due(&mut self) -> Option<i64> {
        let link = self.link.as_ref();
        let due = self.announcer.due(link)?;
        if due > ffi::now() {
            return Some(due);
        }
        if let Err(failure) = self.announcer.announce(link) {
            let message = format!("meshhook could not announce messages: {}", failure.message);
            ErrorReport::new(failure.code, message, function_name!()).report(PgLogLevel::WARNING);
        }
        self.announcer.due(self.link.as_ref())
    }

    /// Maintenance, now and then, when there is nothing else to do: each step in a transaction of its own.
    fn maintain(&mut self) {
        let begun = Instant::now();
        if self.maintenance_due.is_some_and(|due| begun < due) {
            return;
        }
        self.maintenance_due = Some(begun + MAINTENANCE_PERIOD);
        for _ in 0..MAINTENANCE_STEPS {
            let step = transaction::run(c"meshhook: maintenance", TURN_LIMIT, || match probe::probe() {
                Probe::Ready { owner, .. } => {
                    transaction::act_as(owner);
                    operations::step().is_empty()
                }
                _ => true,
            });
            match step {
                Ok(false) => {}
                Ok(true) => return,
                Err(failure) => {
                    let message = format!("meshhook maintenance put off: {}", failure.message);
                    ErrorReport::new(failure.code, message, function_name!()).report(PgLogLevel::WARNING);
                    return;
                }
            }
        }
        self.maintenance_due = Some(Instant::now() + MAINTENANCE_BREAK);
    }

    fn not_ready(&mut self, probe: Probe) -> Next {
        self.ready = false;
        let sleep = match probe {
            // Unpreloaded, `start_workers()` may run in the transaction that installs the
            // extension; preloaded, its commit starts another orchestrator.
            Probe::Absent if self.link.is_none() && self.waits_for_install() => {
                return Next::Pause(UNPRELOADED_POLL);
            }
            Probe::Absent => return Next::Leave(State::Absent),
            Probe::Busy => {
                self.busy = self.busy.saturating_add(1);
                let cap = BUSY_POLL.min(self.poll());
                return Next::Pause(backoff::delay(BUSY_INITIAL, cap, self.busy));
            }
            Probe::Dormant => {
                self.set_state(State::Dormant);
                self.poll()
            }
            Probe::Mismatched | Probe::Ready { .. } => {
                self.set_state(State::Mismatched);
                SAFETY_POLL
            }
        };
        Next::SleepUntil(ffi::now().saturating_add(sleep.as_micros() as i64))
    }

    fn waits_for_install(&self) -> bool {
        self.extension == pg_sys::InvalidOid && self.started.elapsed() < INSTALL_LIMIT
    }

    fn succeeded(&mut self) {
        self.busy = 0;
        self.turns.committed();
        if self.failures > 0 {
            self.failures = 0;
            self.last_failure = None;
        }
    }

    /// Tells the turns what happened, and the log: once per message, then ever more rarely.
    fn failed(&mut self, failure: &Failure) {
        self.failures = self.failures.saturating_add(1);
        let text = failure.to_string();
        let turns = &mut self.turns;
        // Not in a transaction: a panic here must not leave the worker half-way.
        let told = catch_unwind(AssertUnwindSafe(|| {
            turns.rolled_back();
            if !failure.is_transient() {
                turns.failed(&text);
            }
        }));
        if told.is_err() {
            self.turns = Turns::new();
        }
        if self.last_failure.as_deref() != Some(&text) || self.failures.is_power_of_two() {
            let mut report = ErrorReport::new(
                failure.code,
                format!("meshhook turn rolled back: {}", failure.message),
                function_name!(),
            )
            .set_hint(format!("Failed turns in a row: {}.", self.failures));
            if let Some(detail) = &failure.detail {
                report = report.set_detail(detail.clone());
            }
            report.report(PgLogLevel::WARNING);
            self.last_failure = Some(text);
        }
    }

    fn after_drain(&mut self, runs: usize, next_due: Option<i64>) -> Next {
        let now = ffi::now();
        let latest = now.saturating_add(self.poll().as_micros() as i64);
        match next_due {
            // Due already, yet the turn did not take it: another session has it locked. Look
            // again soon, then less and less often; its commit wakes us.
            Some(due) if due <= now && runs == 0 => {
                self.fruitless = (self.fruitless + 1).min(10);
                Next::SleepUntil(latest.min(now + (1000i64 << self.fruitless)))
            }
            due => {
                self.fruitless = 0;
                Next::SleepUntil(due.map_or(latest, |due| due.min(latest)))
            }
        }
    }

    /// Sleeps until `time`, a wake-up, or a request to leave.
    fn sleep_until(&mut self, time: i64) {
        if let Some(link) = &self.link {
            link.sleep_until(time);
        }
        // Not by the clock: where that is set back, `time` is suddenly hours away.
        let latest = Instant::now() + SAFETY_POLL;
        let mut reported = false;
        loop {
            ffi::reset_latch();
            ffi::serve_interrupts();
            let woken = self.link.as_ref().is_some_and(shmem::Link::woken);
            let longest = latest.saturating_duration_since(Instant::now());
            if woken || time <= ffi::now() || longest.is_zero() || self.must_leave() {
                return;
            }
            // Without a link the next cycle is near enough.
            let announces = self.ready && self.link.is_some();
            let announcement = if announces { self.announce_if_due() } else { None };
            let left = announcement.map_or(time, |due| due.min(time)).saturating_sub(ffi::now());
            if !reported {
                ffi::report_statistics(true);
                reported = true;
            }
            // Rounded up: waking before the deadline would find nothing due.
            ffi::wait_latch(longest.min(Duration::from_millis((left.max(0) as u64).div_ceil(1000))));
        }
    }

    /// Waits out a failure; a wake-up does not shorten it, a request to leave does.
    fn pause(&self, duration: Duration) {
        ffi::report_statistics(true);
        let end = Instant::now() + duration;
        loop {
            ffi::reset_latch();
            ffi::serve_interrupts();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.must_leave() {
                return;
            }
            ffi::wait_latch(left);
        }
    }
}
