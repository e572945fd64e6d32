//! The launcher: one background worker per cluster that starts orchestrators and starts them
//! again when they crash.
//!
//! Decides which databases get an orchestrator and when the next attempt is made. It is connected
//! to no database, so it stands in nobody's way, and it alone takes databases on and lets them go
//! in shared memory.

use super::catalog::{self, Database};
use super::{backoff, ffi};
use crate::shmem::{self, Slot, State};
use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Orchestrators on their way up at once: looking into many databases must not take every slot of
/// `max_worker_processes`.
const STARTING_MAX: usize = 3;
const RESTART_INITIAL: Duration = Duration::from_secs(1);
const RESTART_CAP: Duration = Duration::from_secs(60);
/// An orchestrator that lived this long did not crash because of how it started.
const HEALTHY: Duration = Duration::from_secs(60);
/// Looks at shared memory only; covers a signal lost to a dying process.
const SAFETY_LOOK: Duration = Duration::from_secs(30);
/// How long a worker may take from registration to attachment before it is given up as lost.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A lack of worker slots is logged no more often than this.
const WARN_INTERVAL: Duration = Duration::from_secs(600);
/// Requests are collected this long after a look at `pg_database`: sessions of a database that
/// may not be served can ask thousands of times a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What the launcher remembers about a database beyond shared memory.
struct Attempt {
    handle: Option<ffi::Handle>,
    started: Option<Instant>,
    /// Starts in a row that ended badly.
    failures: u32,
    not_before: Instant,
    /// Asked for while a worker was there, which may already have found no extension: look once
    /// more after it has left.
    asked_again: bool,
}

impl Attempt {
    fn new() -> Attempt {
        Attempt { handle: None, started: None, failures: 0, not_before: Instant::now(), asked_again: false }
    }
}

#[derive(Default)]
struct Launcher {
    attempts: BTreeMap<u32, Attempt>,
    /// Databases to look into when a place is free.
    to_probe: VecDeque<u32>,
    /// Databases looked into before; a new look at all databases passes them over.
    seen: BTreeSet<u32>,
    /// All databases are to be looked at, also those seen.
    everything: bool,
    /// New databases are to be looked for.
    rescan: bool,
    last_look: Option<Instant>,
    /// Starts in a row that found no worker slot, and when to try again.
    exhausted: u32,
    exhausted_until: Option<Instant>,
    /// When that was last logged.
    warned: Option<Instant>,
}

/// Entry point of the background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn meshhook_launcher_main(_argument: pg_sys::Datum) {
    ffi::accept_signals();
    ffi::connect(None);
    super::settle();
    ffi::override_setting(c"application_name", &ffi::c_string(super::LAUNCHER_TYPE));
    ffi::report_activity(None);
    shmem::attach_launcher();
    let context = ffi::enter_cycle_context();
    let mut launcher = Launcher { everything: true, ..Launcher::default() };
    loop {
        ffi::reset_latch();
        launcher.everything |= ffi::serve_interrupts();
        let wait = launcher.cycle();
        ffi::reset_cycle_context(context);
        ffi::wait_latch(wait);
    }
}

impl Launcher {
    /// Brings what runs in line with what should run; returns how long nothing is to be done.
    fn cycle(&mut self) -> Duration {
        let (requests, rescan) = shmem::take_requests();
        self.rescan |= rescan;
        for oid in requests {
            if !self.to_probe.contains(&oid) {
                self.to_probe.push_front(oid);
            }
        }
        let slots = shmem::slots();
        let waiting: Vec<Slot> = slots.into_iter().filter(|slot| self.reap(slot)).collect();
        let due = waiting.iter().any(|slot| self.is_due(slot.oid));
        let asked = self.rescan || (!self.to_probe.is_empty() && self.has_room());
        if asked && !due && !self.everything {
            let since = self.last_look.map(|look| look.elapsed());
            if let Some(since) = since.filter(|since| *since < LOOK_INTERVAL) {
                return LOOK_INTERVAL - since;
            }
        }
        if asked || due || self.everything {
            self.last_look = Some(Instant::now());
            match catalog::databases() {
                Ok(databases) => self.act(&databases, &waiting),
                Err(failure) => {
                    super::warn(
                        failure.code,
                        format!("meshhook launcher cannot read pg_database: {failure}"),
                        "It keeps trying; running orchestrators are not affected.",
                    );
                    return RESTART_INITIAL;
                }
            }
        }
        self.wait_time()
    }

    /// Takes note of an orchestrator that has ended. True: the database waits for a start.
    fn reap(&mut self, slot: &Slot) -> bool {
        if slot.attached {
            return false;
        }
        let now = Instant::now();
        let attempt = self.attempts.entry(slot.oid).or_insert_with(Attempt::new);
        if slot.state == State::Absent {
            if !std::mem::take(&mut attempt.asked_again) {
                self.attempts.remove(&slot.oid);
                shmem::let_go(slot.index);
                return false;
            }
            *attempt = Attempt::new();
            shmem::set_state(slot.index, State::Starting);
        }
        if let Some(handle) = &attempt.handle {
            let lost = attempt.started.is_some_and(|time| now - time > START_LIMIT);
            if handle.fate() == ffi::Fate::Alive && !lost {
                return false;
            }
            attempt.handle = None;
            let lived = attempt.started.take().map_or(Duration::ZERO, |time| now - time);
            if slot.state == State::Detached {
                attempt.failures = 0;
                attempt.not_before = now;
            } else {
                attempt.failures = if lived >= HEALTHY { 1 } else { attempt.failures + 1 };
                attempt.not_before = now + backoff::delay(RESTART_INITIAL, RESTART_CAP, attempt.failures);
                shmem::set_state(slot.index, State::Unserved);
            }
        }
        if slot.stopped {
            shmem::set_state(slot.index, State::Stopped);
        }
        !slot.held && !slot.stopped
    }

    fn is_due(&self, oid: u32) -> bool {
        let now = Instant::now();
        self.exhausted_until.is_none_or(|time| time <= now)
            && self.attempts.get(&oid).is_none_or(|attempt| attempt.not_before <= now)
    }

    /// Whether one more orchestrator may be on its way up.
    fn has_room(&self) -> bool {
        let starting = |slot: &Slot| {
            let attempt = self.attempts.get(&slot.oid);
            !slot.attached && attempt.is_some_and(|attempt| attempt.handle.is_some())
        };
        self.exhausted_until.is_none_or(|time| time <= Instant::now())
            && shmem::slots().iter().filter(|slot| starting(slot)).count() < STARTING_MAX
    }

    fn act(&mut self, databases: &[Database], waiting: &[Slot]) {
        let allowed: BTreeSet<u32> = databases
            .iter()
            .filter(|database| catalog::allowed(&database.name))
            .map(|database| database.oid)
            .collect();
        if std::mem::take(&mut self.everything) {
            // At start, and when the settings changed.
            self.seen.clear();
            self.rescan = true;
            for slot in shmem::slots() {
                shmem::set_evicted(slot.index, !allowed.contains(&slot.oid));
            }
        }
        if std::mem::take(&mut self.rescan) {
            self.seen.retain(|oid| allowed.contains(oid));
            for oid in &allowed {
                if self.seen.insert(*oid) && !self.to_probe.contains(oid) {
                    self.to_probe.push_back(*oid);
                }
            }
        }
        for slot in waiting {
            if !allowed.contains(&slot.oid) {
                // Dropped, closed, or no longer named by the settings.
                self.attempts.remove(&slot.oid);
                shmem::let_go(slot.index);
            } else if self.is_due(slot.oid) {
                self.start(slot.index, slot.oid);
            }
        }
        while self.has_room() {
            let Some(oid) = self.to_probe.pop_front() else {
                break;
            };
            if allowed.contains(&oid) {
                self.take_on(oid);
            }
        }
    }

    fn take_on(&mut self, oid: u32) {
        if let Some(slot) = shmem::slots().into_iter().find(|slot| slot.oid == oid) {
            // Known: it is served, or will be by its own rules.
            if slot.attached || self.attempts.get(&oid).is_some_and(|a| a.handle.is_some()) {
                self.attempts.entry(oid).or_insert_with(Attempt::new).asked_again = true;
            }
            return;
        }
        match shmem::take_on(oid) {
            Some(index) => {
                self.attempts.insert(oid, Attempt::new());
                self.start(index, oid);
            }
            None => super::warn(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("meshhook cannot serve more than {} databases", shmem::DATABASES_MAX),
                "Name the databases to serve in meshhook.databases.",
            ),
        }
    }

    fn start(&mut self, index: usize, oid: u32) {
        let now = Instant::now();
        let attempt = self.attempts.entry(oid).or_insert_with(Attempt::new);
        attempt.asked_again = false;
        shmem::set_state(index, State::Starting);
        attempt.handle = ffi::start_orchestrator(pg_sys::Oid::from(oid));
        if attempt.handle.is_some() {
            attempt.started = Some(now);
            self.exhausted = 0;
            self.exhausted_until = None;
            return;
        }
        shmem::set_state(index, State::Unserved);
        self.exhausted = self.exhausted.saturating_add(1);
        let delay = backoff::delay(RESTART_INITIAL, RESTART_CAP, self.exhausted);
        self.exhausted_until = Some(now + delay);
        if self.warned.is_none_or(|time| now - time > WARN_INTERVAL) {
            self.warned = Some(now);
            super::warn(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
                "no background worker slot is free for a meshhook orchestrator".to_owned(),
                "Increase max_worker_processes; meshhook keeps trying.",
            );
        }
    }

    /// How long until something is due. Exits, registrations and settings wake earlier.
    fn wait_time(&self) -> Duration {
        let now = Instant::now();
        let unserved = shmem::slots()
            .into_iter()
            .filter(|slot| !slot.attached && !slot.stopped && !slot.held)
            .filter_map(|slot| self.attempts.get(&slot.oid))
            .filter(|attempt| attempt.handle.is_none())
            .map(|attempt| attempt.not_before);
        let next = unserved.min().map(|time| self.exhausted_until.map_or(time, |e| e.max(time)));
        let probing = self.exhausted_until.filter(|_| !self.to_probe.is_empty());
        next.into_iter()
            .chain(probing)
            .map(|time| time.saturating_duration_since(now))
            .min()
            .map_or(SAFETY_LOOK, |wait| wait.clamp(Duration::from_millis(1), SAFETY_LOOK))
    }
}
