//! The logs of runs, read like streams: `meshhook:run-<uuid>` is one run's, category `meshhook:run` all of them. A
//! run's positions begin at 1. Nobody appends here but turns.

use std::collections::HashSet;

use pgrx::{Uuid, pg_sys};

use super::horizon::{self, Interest};
use super::name;
use super::rows::Columns;
use super::table::Snapshot;
use crate::spi::{self, Row, arg};

/// An event of a run as a message.
#[derive(Debug)]
pub(super) struct Event {
    pub position: i64,
    pub global_position: i64,
    pub columns: Columns,
}

/// The run that a stream is the log of.
pub(super) fn run_of(stream: &str) -> Option<Uuid> {
    if name::category(stream) != name::RUNS {
        return None;
    }
    let id = uuid::Uuid::try_parse(name::id(stream)?).ok()?;
    Some(Uuid::from_bytes(*id.as_bytes()))
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// One run's events from a position on.
pub(super) fn of_run(
    project: i32,
    run: Uuid,
    from: i64,
    types: Option<Vec<String>>,
    most: usize,
) -> Vec<Event> {
    let snapshot = Snapshot::of_transaction().unwrap_or_else(Snapshot::latest);
    reading(&snapshot, || {
        spi::read(
            "SELECT * FROM meshhook.messages_of_run($1, $2, $3, $4, $5)",
            &[arg(project), arg(run), arg(from), arg(types), arg(limit(most))],
            event,
        )
    })
}

/// One run's last event, or its last of a type.
pub(super) fn last_of_run(project: i32, run: Uuid, kind: Option<&str>) -> Option<Event> {
    let snapshot = Snapshot::of_transaction().unwrap_or_else(Snapshot::latest);
    reading(&snapshot, || {
        spi::read_one(
            "SELECT * FROM meshhook.last_message_of_run($1, $2, $3)",
            &[arg(project), arg(run), arg(kind.map(str::to_owned))],
            event,
        )
    })
}

/// The events of all runs in global order from a position on, up to the safe position.
pub(super) fn of_all(project: i32, from: i64, types: Option<Vec<String>>, most: usize) -> Vec<Event> {
    let safe = horizon::safe(Some(project), Interest::Runs);
    let snapshot = Snapshot::latest();
    up_to(project, from, safe, &snapshot, types, most).0
}

/// The same up to a position that was safe before the snapshot was taken, with the position through which they are
/// complete. A transaction that is held to one snapshot gets the part of the order that lies whole inside it.
pub(super) fn up_to(
    project: i32,
    from: i64,
    safe: i64,
    snapshot: &Snapshot,
    types: Option<Vec<String>>,
    most: usize,
) -> (Vec<Event>, i64) {
    let select = || {
        spi::read(
            "SELECT * FROM meshhook.messages_of_runs($1, $2, $3, $4, $5)",
            &[arg(project), arg(from), arg(safe), arg(types.clone()), arg(limit(most))],
            event,
        )
    };
    let mut events = reading(snapshot, select);
    let mut through = safe;
    if events.len() >= most {
        through = events.last().map_or(safe, |last| last.global_position);
    }
    if let Some(own) = Snapshot::of_transaction() {
        let seen: HashSet<i64> = reading(&own, select).iter().map(|event| event.global_position).collect();
        if let Some(unseen) = events.iter().position(|event| !seen.contains(&event.global_position)) {
            through = events.get(unseen).map_or(through, |event| event.global_position - 1);
            events.truncate(unseen);
        }
    }
    (events, through)
}

/// Runs reads under a snapshot.
pub(super) fn reading<T>(snapshot: &Snapshot, read: impl FnOnce() -> T) -> T {
    // SAFETY: pushed and popped around reads; an error's abort pops it too.
    unsafe {
        pg_sys::PushActiveSnapshot(snapshot.raw());
        let result = read();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// A row as it is returned; copied to where the caller's results live.
fn event(row: &Row) -> Event {
    let column = |n, by_value, length| {
        let datum = row.copied(n, by_value, length);
        (datum.unwrap_or(pg_sys::Datum::from(0)), datum.is_none())
    };
    Event {
        position: row.must(4),
        global_position: row.must(5),
        columns: [
            column(1, false, 16),
            column(2, false, -1),
            column(3, false, -1),
            column(4, true, 8),
            column(5, true, 8),
            column(6, false, -1),
            column(7, false, -1),
            column(8, true, 8),
        ],
    }
}
