//! The one sequence that all positions come from.

use std::cell::Cell;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::{lock, table};
use crate::error::{bug, refuse};

/// How far the sequence jumps after a crash: more than any server draws before the WAL writer flushes what a
/// transaction with synchronous_commit = off left to it.
const JUMP: i64 = 10_000_000;

/// Where the positions of a timeline begin: what a standby had not replayed when it took over, a jump perhaps among
/// it, is unbounded, so a fixed jump could land on the same positions again. 2^40 positions for each.
const TIMELINE_BITS: u32 = 40;

/// Column number of `pg_sequence.seqcache`; a constant of the catalogue, 15 to 18.
const SEQCACHE: pg_sys::AttrNumber = 7;

thread_local! {
    /// The mark's object id once this process has seen it called: no crash outlives a process, but another
    /// installation may take this one's place.
    static SEEN: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// The sequence, as one object id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Positions(pg_sys::Oid);

impl Positions {
    /// Finds the sequence.
    pub fn find() -> Self {
        Self(table::oid(c"global_position_seq"))
    }

    /// The position assigned last by anybody, decided or not; 0 if none was.
    pub fn last_assigned(self) -> i64 {
        last_value(self.0).unwrap_or(0)
    }

    /// Draws the next position. Register first (`horizon::register`).
    pub fn draw(self) -> i64 {
        // SAFETY: takes an object id, returns a bigint; raises at the end of the sequence.
        let drawn = unsafe { pgrx::direct_function_call::<i64>(pg_sys::nextval_oid, &[Some(self.0.into())]) };
        drawn.unwrap_or_else(|| bug("nextval returned null"))
    }

    /// Makes sure that what is drawn from here on was never drawn before: after a crash, on a promoted standby and in
    /// a restored copy the first to come jumps. Call before `last_assigned` is asked for a bound.
    pub fn recover(self) {
        refuse_cache(self.0);
        let mark = table::oid(c"recovered_seq");
        if SEEN.get() == mark {
            return;
        }
        if last_value(mark).is_none() {
            lock::exclusive(lock::Kind::Jump, 0, 0);
            if last_value(mark).is_none() {
                self.jump();
                set_value(mark, 1);
            }
            lock::release(lock::Kind::Jump, 0, 0);
        }
        SEEN.set(mark);
    }
}

impl Positions {
    /// Moves the sequence beyond everything that was ever drawn. The very first draw of all has nothing behind it, but
    /// must be known after a crash to have happened.
    fn jump(self) {
        // SAFETY: this process writes WAL, so it is on a timeline; interrupts are held so that nobody ends this
        // process between the jump and its flush. Without the flush a second crash would take the jump back, and the
        // next one would land on the same positions.
        unsafe {
            let timeline = i64::from(pg_sys::GetWALInsertionTimeLine()) - 1;
            let begins = timeline << TIMELINE_BITS;
            pg_sys::InterruptHoldoffCount += 1;
            set_value(self.0, last_value(self.0).map_or(begins, |last| begins.max(last + JUMP)));
            pg_sys::XLogFlush(pg_sys::XactLastRecEnd);
            pg_sys::InterruptHoldoffCount -= 1;
        }
    }
}

/// Says up to where everything is decided. Not transactional: it travels in the WAL behind the commits it speaks of.
pub(super) fn log_safe_position(position: i64) {
    let sequence = table::oid(c"safe_position_seq");
    if last_value(sequence).unwrap_or(0) < position {
        set_value(sequence, position);
    }
}

/// What was last said about it, for a standby. `None`: nothing yet.
pub(super) fn logged_safe_position() -> Option<i64> {
    last_value(table::oid(c"safe_position_seq"))
}

fn last_value(sequence: pg_sys::Oid) -> Option<i64> {
    // SAFETY: takes an object id, returns a bigint or null.
    unsafe { pgrx::direct_function_call::<i64>(pg_sys::pg_sequence_last_value, &[Some(sequence.into())]) }
}

fn set_value(sequence: pg_sys::Oid, value: i64) {
    // SAFETY: takes an object id, a bigint and a boolean.
    unsafe {
        pgrx::direct_function_call::<i64>(
            pg_sys::setval3_oid,
            &[Some(sequence.into()), Some(value.into()), Some(true.into())],
        );
    }
}

/// A cache would hand a process positions in advance, below those that others commit meanwhile.
fn refuse_cache(sequence: pg_sys::Oid) {
    // SAFETY: a catalogue look-up; the tuple is released.
    let cache = unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::SEQRELID as i32, sequence.into());
        if tuple.is_null() {
            bug("meshhook.global_position_seq is no sequence");
        }
        let mut is_null = false;
        let id = pg_sys::SysCacheIdentifier::SEQRELID as i32;
        let cache = pg_sys::SysCacheGetAttr(id, tuple, SEQCACHE, &raw mut is_null);
        pg_sys::ReleaseSysCache(tuple);
        cache.value().cast_signed()
    };
    if cache > 1 {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "positions cannot be drawn from a sequence with a cache",
        )
        .detail(format!("meshhook.global_position_seq has CACHE {cache}; readers would miss messages."))
        .hint("ALTER SEQUENCE meshhook.global_position_seq CACHE 1")
        .raise();
    }
}
