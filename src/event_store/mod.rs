//! The event store: messages in streams, in one global order that readers follow without gaps and writers keep without
//! waiting for each other.
//!
//! `append` decides what may be written and writes it; `read` walks; `horizon` says up to where order is decided;
//! `native` and `message_store` are the two SQL surfaces of the same store. Knows nothing of workflows; turns ask it
//! (`register_runs`) before they draw positions for the events of runs.

mod append;
mod consumer;
mod held;
mod horizon;
mod lock;
mod message_store;
mod name;
mod native;
mod purge;
mod read;
mod rows;
mod runs;
mod sequence;
mod streams;
mod table;

use crate::error::bug;
use crate::owner::as_owner;
use crate::project;
use crate::spi::{self, RawJsonb};

pub use horizon::Holder;
use horizon::Interest;
use sequence::Positions;

/// Before a turn draws positions for events of a project's runs.
pub fn register_runs(project: i32) {
    let positions = Positions::find();
    positions.recover();
    horizon::register_runs(positions, project);
}

/// Takes the locks that an append to a stream needs; false, at once, if another transaction holds one. For turns,
/// which wait for nobody.
pub fn try_lock(project: i32, stream: &str) -> bool {
    let known = streams::known(project, stream);
    lock::try_stream(known.lock_key, project, known.category_hash)
}

/// Appends one message to whatever version the stream has; returns its position and its global position. Called as
/// the owner role.
pub fn append_one(
    project: i32,
    stream: &str,
    kind: &str,
    data: Option<RawJsonb>,
    metadata: Option<RawJsonb>,
) -> (i64, i64) {
    let (data, metadata) = (data.map(|data| data.0), metadata.map(|metadata| metadata.0));
    let message =
        append::NewMessage { stream, kind, data, metadata, expected_version: None, id: append::Id::New };
    match append::append(project, &[message], false) {
        Ok(placed) => placed.first().map_or((-1, -1), |placed| (placed.position, placed.global_position)),
        Err(_) => bug("a message without expectations met a conflict"),
    }
}

/// Whom a session waits for that waits for messages of a category, or of all: its project, and bits of categories.
pub fn awaited(category: Option<&str>) -> (i32, u64) {
    let interest = category
        .map_or(Interest::Users, |category| Interest::of(native::check_category("category", Some(category))));
    let snapshot = table::Snapshot::latest();
    // A procedure that has ended a transaction has no snapshot.
    let project = runs::reading(&snapshot, || as_owner(project::current));
    (project.0, interest.mask())
}

/// Who holds readers of any category back, in one project or in all.
pub fn holders(project: Option<i32>) -> Vec<Holder> {
    horizon::holders(project, Interest::All)
}

/// When an announcement is also for listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listeners {
    /// Somebody appended, or let go of positions that held others back.
    Notify,
    /// Nobody tells: if positions were drawn since the last time.
    NotifyIfMoved,
    /// Only runs have moved.
    Leave,
}

/// Notifies listeners and tells standbys up to where everything is decided; `announced` is the position assigned last
/// at the last announcement, returned is the one now. Called as the owner role, in a transaction of its own.
pub fn announce(announced: i64, listeners: Listeners) -> i64 {
    let last = Positions::find().last_assigned();
    let safe = horizon::safe(None, Interest::All);
    let notify = match listeners {
        Listeners::Notify => true,
        Listeners::NotifyIfMoved => last != announced,
        Listeners::Leave => false,
    };
    if !notify && sequence::logged_safe_position().is_some_and(|logged| logged >= safe) {
        return last;
    }
    // A notification does not outlive a crash, and the safe position travels behind what it speaks of.
    spi::exec("SELECT pg_catalog.set_config('synchronous_commit', 'off', true)", &[]);
    if notify {
        // An empty payload: every LISTENer of the database hears it, whoever's messages these are.
        spi::exec("SELECT pg_catalog.pg_notify('meshhook_messages', '')", &[]);
    }
    sequence::log_safe_position(safe);
    last
}
