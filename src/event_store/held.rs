//! How many streams a transaction has locked: each costs an entry of the server's lock table, which all share.

use std::cell::RefCell;
use std::collections::HashSet;

use pgrx::PgSqlErrorCode;

use super::lock;
use crate::error::refuse;
use crate::shmem::inflight;

/// Most streams one transaction may append to.
const MAX_STREAMS: usize = 1_000;

struct Held {
    /// The transaction's number in this process.
    transaction: u32,
    keys: HashSet<i64>,
}

thread_local! {
    static HELD: RefCell<Held> = RefCell::new(Held { transaction: 0, keys: HashSet::new() });
}

/// Takes a stream's lock. Raises 54000 where the transaction holds as many as it may.
pub(super) fn lock_stream(key: i64) {
    let full = HELD.with_borrow_mut(|held| {
        let transaction = inflight::my_transaction();
        if held.transaction != transaction {
            held.transaction = transaction;
            held.keys.clear();
        }
        !held.keys.contains(&key) && held.keys.len() >= MAX_STREAMS
    });
    if full {
        refuse(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "one transaction cannot append to so many streams",
        )
        .detail(format!("The limit is {MAX_STREAMS} streams."))
        .hint("Commit in between.")
        .raise();
    }
    lock::stream(key);
    HELD.with_borrow_mut(|held| held.keys.insert(key));
}
