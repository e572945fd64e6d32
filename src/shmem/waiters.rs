//! Backends that sleep until a run may have ended, or moved.
//!
//! Decides who is woken by which run's news. More waiters than places is no error: the rest poll
//! the change counter.

use super::{CLASSES, my_database, my_process, shared};
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32};

/// What happened to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It has ended.
    Ended,
    /// It has new events.
    Moved,
}

/// The wake-up class of a kind of news of a run: half of the classes is for each.
pub(super) fn class_of(database: u32, run: &[u8; 16], news: News) -> usize {
    const HALF: usize = CLASSES / 2;
    // The last bytes of a UUIDv7 are random; the first are a clock.
    let tail =
        run.iter().rev().take(8).fold(database as u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let place = (tail >> 24) as usize % HALF;
    if news == News::Ended { place } else { HALF + place }
}

/// The number of wake-ups so far in the class of such news of this run; a change means: look again.
/// None without shared memory.
pub(crate) fn generation(run: &[u8; 16], news: News) -> Option<u32> {
    let class = class_of(my_database(), run, news);
    shared()?.generations.get(class).map(|generation| generation.load(SeqCst))
}

/// This process's place among the waiters, given back on drop and at process exit.
pub(crate) struct WaiterPlace(usize);

/// Place + 1 taken by this process, for the exit callback: FATAL runs no destructors.
static MY_WAITER: AtomicU32 = AtomicU32::new(0);
static WAITER_EXIT: AtomicBool = AtomicBool::new(false);

/// Registers this process's latch for news of a run. None: all places taken, or no shared memory; poll.
pub(crate) fn wait_place(run: &[u8; 16], news: News) -> Option<WaiterPlace> {
    let shared = shared()?;
    let me = my_process();
    let index = shared
        .waiters
        .iter()
        .position(|waiter| waiter.process.compare_exchange(0, me, SeqCst, SeqCst).is_ok())?;
    MY_WAITER.store(index as u32 + 1, Relaxed);
    if !WAITER_EXIT.swap(true, Relaxed) {
        // SAFETY: registration of a callback that lives as long as the library.
        unsafe {
            pg_sys::before_shmem_exit(Some(on_waiter_exit), pg_sys::Datum::from(0));
        }
    }
    let class = class_of(my_database(), run, news) as u32;
    shared.waiters.get(index)?.class.store(class + 1, SeqCst);
    Some(WaiterPlace(index))
}

impl Drop for WaiterPlace {
    fn drop(&mut self) {
        free_waiter(self.0);
    }
}

fn free_waiter(index: usize) {
    if let Some(waiter) = shared().and_then(|shared| shared.waiters.get(index)) {
        waiter.class.store(0, SeqCst);
        waiter.process.store(0, SeqCst);
    }
    MY_WAITER.store(0, Relaxed);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_waiter_exit(_code: i32, _arg: pg_sys::Datum) {
    if let Some(index) = (MY_WAITER.load(Relaxed) as usize).checked_sub(1) {
        free_waiter(index);
    }
}
