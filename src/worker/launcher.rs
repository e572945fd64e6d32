//! The launcher: one background worker per cluster that starts orchestrators and starts them
//! again when they crash.
//!
//! Decides which databases get an orchestrator and when the next attempt is made. It is connected
//! to no database, so it stands in nobody's way, and it alone takes databases on and lets them go
//! in shared memory.

use super::catalog::{self, Database};
use super::{backoff, ffi};
use crate::shmem::{self, Slot, State};
use pgrx::{PgLogLevel, PgSqlErrorCode, ereport, pg_guard, pg_sys};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Orchestrators on their way up at once: probing many databases must not take every slot of
/// `max_worker_processes`.
const STARTING_MAX: usize = 3;
const RESTART_INITIAL: Duration = Duration::from_secs(1);
const RESTART_CAP: Duration = Duration::from_secs(60);
/// An orchestrator that lived this long did not crash because of how it started.
const HEALTHY: Duration = Duration::from_secs(60);
/// Looks at shared memory only; covers a signal lost to a dying process.
const SAFETY_LOOK: Duration = Duration::from_secs(30);
/// How long a worker may take from registration to attachment before it is looked at as lost.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the launcher remembers about a database beyond shared memory.
struct Attempt {
    handle: Option<ffi::Handle>,
    started: Option<Instant>,
    /// Starts in a row that ended badly.
    failures: u32,
    not_before: Instant,
}

#[derive(Default)]
struct Launcher {
    attempts: BTreeMap<u32, Attempt>,
    /// Databases to look into when a place is free.
    to_probe: VecDeque<u32>,
    /// Databases looked into before; a new look at all databases passes them over.
    seen: BTreeSet<u32>,
    /// "No worker slot" was logged and none has been got since.
    exhausted: bool,
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
    let mut launcher = Launcher::default();
    let mut look_at_all = true;
    loop {
        ffi::reset_latch();
        look_at_all |= ffi::serve_interrupts();
        let wait = launcher.cycle(std::mem::take(&mut look_at_all));
        ffi::reset_cycle_context(context);
        ffi::wait_latch(wait);
    }
}

impl Launcher {
    /// Brings what runs in line with what should run; returns how long nothing is to be done.
    fn cycle(&mut self, reloaded: bool) -> Duration {
        let (requests, rescan) = shmem::take_requests();
        let slots = shmem::slots();
        let waiting: Vec<Slot> = slots
            .iter()
            .copied()
            .filter(|slot| self.reap(slot))
            .collect();
        let look = reloaded || rescan || !requests.is_empty();
        let due = waiting.iter().any(|slot| self.is_due(slot.oid));
        if look || due || !self.to_probe.is_empty() {
            match catalog::databases() {
                Ok(databases) => self.act(&databases, &requests, reloaded, rescan, &waiting),
                Err(failure) => {
                    // Nothing was done: ask again, not in a loop.
                    self.requeue(&requests);
                    ereport!(
                        PgLogLevel::WARNING,
                        failure.code,
                        format!("meshhook launcher cannot read pg_database: {failure}")
                    );
                    return RESTART_INITIAL;
                }
            }
        }
        self.wait_time()
    }

    fn requeue(&mut self, requests: &[u32]) {
        self.to_probe.extend(requests);
        self.seen.clear();
    }

    /// Takes note of an orchestrator that has ended. True: the database waits for a start.
    fn reap(&mut self, slot: &Slot) -> bool {
        let now = Instant::now();
        let attempt = self.attempts.entry(slot.oid).or_insert_with(|| Attempt {
            handle: None,
            started: None,
            failures: 0,
            not_before: now,
        });
        if slot.attached {
            return false;
        }
        if slot.state == State::Absent {
            self.attempts.remove(&slot.oid);
            shmem::let_go(slot.index);
            return false;
        }
        if let Some(handle) = &attempt.handle {
            let late = attempt.started.is_some_and(|time| now - time > START_LIMIT);
            if handle.fate() == ffi::Fate::Alive && !late {
                return false;
            }
            attempt.handle = None;
            let lived = attempt
                .started
                .take()
                .map_or(Duration::ZERO, |time| now - time);
            if slot.state == State::Detached {
                attempt.failures = 0;
                attempt.not_before = now;
            } else {
                attempt.failures = if lived >= HEALTHY {
                    1
                } else {
                    attempt.failures + 1
                };
                attempt.not_before =
                    now + backoff::delay(RESTART_INITIAL, RESTART_CAP, attempt.failures);
            }
        }
        if slot.stopped {
            shmem::set_stopped(slot.index);
            return false;
        }
        !slot.held
    }

    fn is_due(&self, oid: u32) -> bool {
        self.attempts
            .get(&oid)
            .is_none_or(|attempt| attempt.not_before <= Instant::now())
    }

    fn act(
        &mut self,
        databases: &[Database],
        requests: &[u32],
        reloaded: bool,
        rescan: bool,
        waiting: &[Slot],
    ) {
        let served: BTreeSet<u32> = databases
            .iter()
            .filter(|database| catalog::allowed(&database.name))
            .map(|database| database.oid)
            .collect();
        if reloaded {
            // At start, and when the settings changed: everything is open again.
            self.seen.clear();
            for slot in shmem::slots() {
                shmem::set_evicted(slot.index, !served.contains(&slot.oid));
            }
        }
        if reloaded || rescan {
            for oid in &served {
                if self.seen.insert(*oid) {
                    self.to_probe.push_back(*oid);
                }
            }
        }
        for oid in requests.iter().rev() {
            self.to_probe.push_front(*oid);
        }
        for slot in waiting {
            if !served.contains(&slot.oid) {
                // Dropped, closed, or no longer named by the settings.
                self.attempts.remove(&slot.oid);
                self.seen.remove(&slot.oid);
                shmem::let_go(slot.index);
            } else if self.is_due(slot.oid) {
                self.start(slot.oid);
            }
        }
        while self.starting() < STARTING_MAX {
            let Some(oid) = self.to_probe.pop_front() else {
                break;
            };
            if served.contains(&oid) {
                self.take_on(oid);
            }
        }
    }

    /// Orchestrators on their way up.
    fn starting(&self) -> usize {
        shmem::slots()
            .iter()
            .filter(|slot| !slot.attached && slot.state == State::Starting)
            .filter(|slot| {
                self.attempts
                    .get(&slot.oid)
                    .is_some_and(|attempt| attempt.handle.is_some())
            })
            .count()
    }

    fn take_on(&mut self, oid: u32) {
        let known = shmem::slots().into_iter().find(|slot| slot.oid == oid);
        if known.is_some_and(|slot| slot.attached || slot.held || slot.stopped) {
            return;
        }
        if !shmem::take_on(oid) {
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!(
                    "meshhook cannot serve more than {} databases",
                    shmem::DATABASES_MAX
                ),
                "Name the databases to serve in meshhook.databases."
            );
            return;
        }
        let idle = self
            .attempts
            .get(&oid)
            .is_none_or(|attempt| attempt.handle.is_none());
        if idle && self.is_due(oid) {
            self.start(oid);
        }
    }

    fn start(&mut self, oid: u32) {
        let now = Instant::now();
        let attempt = self.attempts.entry(oid).or_insert_with(|| Attempt {
            handle: None,
            started: None,
            failures: 0,
            not_before: now,
        });
        if let Some(slot) = shmem::slots().into_iter().find(|slot| slot.oid == oid) {
            shmem::set_starting(slot.index);
        }
        attempt.handle = ffi::start_orchestrator(pg_sys::Oid::from(oid));
        if attempt.handle.is_some() {
            attempt.started = Some(now);
            self.exhausted = false;
            return;
        }
        attempt.failures += 1;
        attempt.not_before = now + backoff::delay(RESTART_INITIAL, RESTART_CAP, attempt.failures);
        if !std::mem::replace(&mut self.exhausted, true) {
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
                "no background worker slot is free for a meshhook orchestrator",
                "Increase max_worker_processes; meshhook keeps trying."
            );
        }
    }

    fn wait_time(&self) -> Duration {
        let now = Instant::now();
        let unattached = shmem::slots()
            .into_iter()
            .filter(|slot| !slot.attached && !slot.stopped && !slot.held);
        unattached
            .filter_map(|slot| self.attempts.get(&slot.oid))
            .filter(|attempt| attempt.handle.is_none())
            .map(|attempt| attempt.not_before.saturating_duration_since(now))
            .min()
            .map_or(SAFETY_LOOK, |wait| {
                wait.clamp(Duration::from_millis(1), SAFETY_LOOK)
            })
    }
}
