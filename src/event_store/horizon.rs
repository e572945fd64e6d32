//! Reading without a gap while nobody waits: up to where are all positions decided?
//!
//! A position is drawn before its transaction commits, so a reader that only remembers the last one it saw would miss
//! a lower one that commits later. Hence:
//!
//! - a writer registers a lower bound before it draws (`register`), and the end of its transaction, once its effects
//!   are visible, takes the bound away;
//! - a reader asks for the position assigned last, then for the lowest bound that concerns it (`safe`), and only then
//!   takes its snapshot. What lies at or below both is decided, and visible if it committed.
//!
//! `crates/order-model` checks this, crashes, standbys and roll-backs included. With preloading the register is one
//! cache line per process (`shmem::inflight`), without it the lock table (`lock::registered`); both are emptied after
//! the transaction has left the list of running ones, which is all the proof needs.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use super::lock;
use super::name;
use super::sequence::{self, Positions};
use crate::shmem::{self, Register, inflight};

/// What a reader reads, and so whose positions concern it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest {
    /// One category of users, by its hash.
    Category(i64),
    /// All categories of users.
    Users,
    /// The runs.
    Runs,
    /// Everything.
    All,
}

impl Interest {
    /// The interest of who reads a category.
    pub fn of(category: &str) -> Self {
        if category == name::RUNS { Self::Runs } else { Self::Category(name::hash_64(category)) }
    }

    /// Its bits in the mask of a slot.
    pub fn mask(self) -> u64 {
        match self {
            Self::Category(hash) => name::bit_of_hash(hash),
            Self::Users => name::USERS_MASK,
            Self::Runs => name::RUNS_BIT,
            Self::All => u64::MAX,
        }
    }

    /// Whether a category lock, which has half of a hash, concerns it.
    fn concerns(self, half: u32) -> bool {
        let runs = lock::halves(name::hash_64(name::RUNS)).1;
        match self {
            Self::Category(hash) => half == lock::halves(hash).1,
            Self::Users => half != runs,
            Self::Runs => half == runs,
            Self::All => true,
        }
    }
}

/// Before a writer takes the locks of its streams: the locks of their categories, as one of their writers. With
/// preloading only while somebody keeps writers out (`exclude`): all writers of a category would contend for it.
pub(super) fn enter(project: i32, categories: &BTreeSet<i64>) {
    if !inflight::available() || inflight::excluding() {
        share(project, categories, inflight::published(project));
    }
}

/// Takes the locks of categories that this transaction has not published. For those it has, whoever keeps writers out
/// waits for it; to wait for him would be a deadlock.
fn share(project: i32, categories: &BTreeSet<i64>, published: u64) {
    categories
        .iter()
        .filter(|hash| name::bit_of_hash(**hash) & published == 0)
        .for_each(|hash| lock::category_shared(project, *hash));
}

/// Before positions are drawn for categories of a project, by their hashes. The locks that the positions depend on are
/// held by now: a writer that still waited for one would hold readers back.
pub(super) fn register(positions: Positions, project: i32, categories: &BTreeSet<i64>) {
    let mask = categories.iter().fold(0, |mask, hash| mask | name::bit_of_hash(*hash));
    let published = inflight::published(project);
    publish(positions, project, mask, true);
    // Somebody may have begun to keep writers out since `enter` looked, and has seen this one only if it was published.
    if inflight::excluding() {
        share(project, categories, published);
    }
}

/// Keeps the writers of a category out until the transaction ends, and waits for those that are at it.
pub(super) fn exclude(project: i32, category: i64) {
    if !inflight::available() {
        return lock::category_exclusive(project, category);
    }
    shmem::exclude_writers();
    lock::category_exclusive(project, category);
    for writer in inflight::writers(project, name::bit_of_hash(category)) {
        // SAFETY: waits for the end of a transaction like for any lock, with deadlock detection; returns at once if it
        // has ended.
        unsafe { pg_sys::VirtualXactLock(writer, true) };
    }
}

/// `register` for the events of runs; a turn waits for nobody, so it takes only what no one holds alone.
pub(super) fn register_runs(positions: Positions, project: i32) {
    if !inflight::available() {
        lock::category_shared(project, name::hash_64(name::RUNS));
    }
    publish(positions, project, name::RUNS_BIT, false);
}

fn publish(positions: Positions, project: i32, mask: u64, of_users: bool) {
    match shmem::publish_positions(project, mask, of_users, || positions.last_assigned()) {
        Register::Published => {}
        Register::LockTable(bound) => lock::bound(bound),
    }
}

/// The highest position that a reader may pass, `None` for all projects. Take the snapshot afterwards.
pub(super) fn safe(project: Option<i32>, interest: Interest) -> i64 {
    // SAFETY: reads shared state of the server.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return sequence::logged_safe_position().unwrap_or(0);
    }
    let last = Positions::find().last_assigned();
    holders(project, interest).into_iter().map(|holder| holder.bound).fold(last, i64::min)
}

/// Who may hold positions that a reader has to stop at.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// The reader stops here.
    pub bound: i64,
    /// When its transaction began, as a `timestamptz`; not known without shared memory.
    pub since: Option<i64>,
}

/// Who else may hold positions that concern a reader.
pub(super) fn holders(project: Option<i32>, interest: Interest) -> Vec<Holder> {
    if inflight::available() {
        return inflight::holders(project, interest.mask())
            .map(|holder| Holder { pid: holder.pid, bound: holder.bound, since: Some(holder.since) })
            .collect();
    }
    let concerned = |(owner, half): &(i32, u32)| {
        project.is_none_or(|project| project == *owner) && interest.concerns(*half)
    };
    lock::registered()
        .into_iter()
        // Without a bound it has drawn nothing; without the category nothing for this reader.
        .filter(|one| one.categories.iter().any(concerned))
        .filter_map(|one| {
            let bound = *one.bounds.iter().min()?;
            Some(Holder { pid: one.pid, bound, since: None })
        })
        .collect()
}
