//! Replaying: the state of a run at any of its positions, what changed between two of them, and what its log tells.
//!
//! Order is that of positions and nothing else; a time only chooses a position. Nothing here writes, so all of it works
//! on a standby.

use std::time::Instant;

use meshhook_engine::event::{Recorded, status_after};
use meshhook_engine::journal;
use meshhook_engine::json::Json;
use meshhook_engine::replay::differences;
use meshhook_engine::snapshot::Unusable;
use meshhook_engine::state::RunState;
use meshhook_engine::timeline::{Span, Timeline};
use meshhook_engine::to_json;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::read::{self, RunRow};
use super::snapshot;
use super::turn::{RunKey, recorded};
use crate::error::{bad_parameter, bug, refuse, required};
use crate::owner::as_owner;
use crate::project;
use crate::random::timestamptz;
use crate::spi::{self, RawJsonb, arg};

/// Events read at a time: a log need not fit into memory.
const BATCH: i64 = 10_000;
/// Most lines one call of `run_log` returns.
const MAX_LINES: i32 = 100_000;

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first event.
    First,
    /// Behind the newest snapshot that is not beyond the bound.
    Snapshot,
}

/// What a replay came to.
#[derive(Debug)]
pub struct Replayed {
    /// The state at the bound.
    pub state: RunState,
    /// Position of the snapshot it began with; 0 without one.
    pub from: u64,
    /// Snapshots that could not be used.
    pub ignored: Vec<(u64, Unusable)>,
}

/// The state of a run after its first `until` events, as the calling statement sees the log.
pub fn replay(key: RunKey, until: u64, start: Start) -> Replayed {
    let found = match start {
        Start::Snapshot if until > 0 => {
            snapshot::newest(&[(key, until)], false).remove(&key).unwrap_or_default()
        }
        _ => snapshot::Found::default(),
    };
    let mut state = found.state.map(|(state, _)| state).unwrap_or_default();
    let from = state.position;
    each_event(key, from, until, |event| {
        state.apply(event).unwrap_or_else(|message| broken(key, &message));
    });
    if state.position != until {
        broken(key, &format!("it ends at position {}, its row says {until}", state.position));
    }
    Replayed { state, from, ignored: found.ignored }
}

fn broken(key: RunKey, message: &str) -> ! {
    bug(&format!("the log of run {} is broken: {message}", key.run))
}

/// Reads the events after one position up to another, in order.
fn each_event(key: RunKey, after: u64, until: u64, mut take: impl FnMut(&Recorded)) {
    let mut after = after.cast_signed();
    let until = until.cast_signed();
    while after < until {
        let mut last = None;
        spi::read(
            "SELECT position, created_at, type, data::text FROM meshhook.run_event
             WHERE project_id = $1 AND run_id = $2 AND position > $3 AND position <= $4 ORDER BY position LIMIT $5",
            &[arg(key.project), arg(key.run), arg(after), arg(until), arg(BATCH)],
            |row| {
                let event = recorded(row, 1);
                last = Some(event.position.cast_signed());
                take(&event);
            },
        );
        let Some(last) = last else { return };
        after = last;
    }
}

/// The position that a bound means: the head without one.
fn bound(row: &RunRow, position: Option<i64>, time: Option<TimestampWithTimeZone>) -> u64 {
    match (position, time) {
        (Some(_), Some(_)) => bad_parameter("until_position and until_time cannot both be given")
            .hint("Leave one of them out.")
            .raise(),
        (Some(position), None) => within(row, position),
        (None, Some(time)) => position_at(row, time),
        (None, None) => row.position,
    }
}

fn within(row: &RunRow, position: i64) -> u64 {
    let wanted = u64::try_from(position).unwrap_or_else(|_| {
        bad_parameter("a position must not be negative").detail(format!("It is {position}.")).raise()
    });
    if wanted > row.position {
        bad_parameter(format!("run \"{}\" has no position {wanted}", row.key.run))
            .detail(format!("Its last event has position {}.", row.position))
            .hint("Leave the position out for the state as it is now.")
            .raise();
    }
    wanted
}

/// The last position that is not younger than a time; 0 where all are. Times never decrease along positions, so this
/// is found by halving.
fn position_at(row: &RunRow, time: TimestampWithTimeZone) -> u64 {
    let (mut low, mut high) = (0, row.position);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let is_in = spi::read_one(
            "SELECT created_at <= $4 FROM meshhook.run_event WHERE project_id = $1 AND run_id = $2 AND position = $3",
            &[arg(row.key.project), arg(row.key.run), arg(middle.cast_signed()), arg(time)],
            |row| row.must::<bool>(1),
        );
        match is_in {
            Some(true) => low = middle,
            Some(false) => high = middle - 1,
            None => broken(row.key, &format!("there is no event at position {middle}")),
        }
    }
    low
}

/// Replays a run; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn replay_run(
    run: Option<pgrx::Uuid>,
    until_position: default!(Option<i64>, "NULL"),
    until_time: default!(Option<TimestampWithTimeZone>, "NULL"),
    use_snapshots: default!(Option<bool>, "true"),
    debug: default!(Option<bool>, "false"),
) -> RawJsonb {
    let run = required("run", run);
    let start = if required("use_snapshots", use_snapshots) { Start::Snapshot } else { Start::First };
    let debug = required("debug", debug);
    let document = as_owner(|caller| {
        let began = Instant::now();
        let row = read::find(project::current(caller), run);
        row.must_have_begun();
        let replayed = replay(row.key, bound(&row, until_position, until_time), start);
        let state = &replayed.state;
        let mut members = vec![
            ("run", Json::from(run.to_string())),
            ("position", number(state.position)),
            ("status", Json::from(state.status.as_str())),
            ("complete", Json::Bool(state.status.is_terminal())),
            ("state", to_json(state)),
        ];
        if debug {
            members.push(("debug", told(&replayed, began)));
        }
        Json::object(members)
    });
    RawJsonb::of(&document)
}

fn number(n: u64) -> Json {
    Json::from(n.cast_signed())
}

fn told(replayed: &Replayed, began: Instant) -> Json {
    let ignored = replayed.ignored.iter().map(|(position, why)| {
        Json::object([("position", number(*position)), ("reason", Json::from(why.to_string()))])
    });
    Json::object([
        ("events_applied", number(replayed.state.position - replayed.from)),
        ("from_snapshot", Some(replayed.from).filter(|from| *from > 0).map(number).into()),
        ("ignored_snapshots", Json::array(ignored)),
        ("duration_ms", Json::from_f64((began.elapsed().as_secs_f64() * 1e6).round() / 1e3).into()),
    ])
}

/// Where a run stood; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn run_state_at(
    run: Option<pgrx::Uuid>,
    until_position: default!(Option<i64>, "NULL"),
    until_time: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> RawJsonb {
    let run = required("run", run);
    let document = as_owner(|caller| {
        let row = read::find(project::current(caller), run);
        let until = bound(&row, until_position, until_time);
        read::document(&row, &replay(row.key, until, Start::Snapshot).state)
    });
    RawJsonb::of(&document)
}

/// What changed between two positions; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn run_diff(
    run: Option<pgrx::Uuid>,
    from_position: Option<i64>,
    to_position: Option<i64>,
) -> TableIterator<
    'static,
    (name!(path, String), name!(before, Option<RawJsonb>), name!(after, Option<RawJsonb>)),
> {
    let run = required("run", run);
    let (from, to) = (required("from_position", from_position), required("to_position", to_position));
    let places = as_owner(|caller| {
        let row = read::find(project::current(caller), run);
        let at = |position| {
            let replayed = replay(row.key, within(&row, position), Start::Snapshot);
            read::document(&row, &replayed.state)
        };
        differences(&at(from), &at(to))
    });
    let raw = |json: Option<Json>| json.as_ref().map(RawJsonb::of);
    // The positions are what was asked for.
    let places = places.into_iter().filter(|(path, ..)| path != "/position");
    TableIterator::new(
        places.map(|(path, before, after)| (path, raw(before), raw(after))).collect::<Vec<_>>(),
    )
}

/// What a run did when; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn run_timeline(
    run: Option<pgrx::Uuid>,
) -> TableIterator<
    'static,
    (
        name!(position, i64),
        name!(node, String),
        name!(kind, Option<String>),
        name!(attempt, Option<i32>),
        name!(started_at, TimestampWithTimeZone),
        name!(finished_at, Option<TimestampWithTimeZone>),
        name!(outcome, Option<&'static str>),
    ),
> {
    let run = required("run", run);
    let spans = as_owner(|caller| {
        let row = read::find(project::current(caller), run);
        let mut timeline = Timeline::default();
        each_event(row.key, 0, row.position, |event| {
            timeline.take(event).unwrap_or_else(|message| broken(row.key, &message));
        });
        timeline.spans()
    });
    let rows =
        spans.into_iter().map(|Span { position, node, kind, attempt, started_at, finished_at, outcome }| {
            let time = |at: meshhook_engine::time::Timestamp| timestamptz(at.as_micros());
            let (kind, attempt) = (kind.map(|kind| kind.to_string()), attempt.map(u32::cast_signed));
            let (started_at, finished_at) = (time(started_at), finished_at.map(time));
            (position.cast_signed(), node.to_string(), kind, attempt, started_at, finished_at, outcome)
        });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// A run's log in words; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn run_log(
    run: Option<pgrx::Uuid>,
    after_position: default!(Option<i64>, "0"),
    batch_size: default!(Option<i32>, "1000"),
) -> TableIterator<
    'static,
    (
        name!(position, i64),
        name!(time, TimestampWithTimeZone),
        name!(level, &'static str),
        name!(node, Option<String>),
        name!(attempt, Option<i32>),
        name!(actor, Option<String>),
        name!(message, String),
    ),
> {
    let run = required("run", run);
    let after = required("after_position", after_position);
    let most = required("batch_size", batch_size);
    if !(1..=MAX_LINES).contains(&most) {
        bad_parameter(format!("batch_size must be from 1 to {MAX_LINES}")).raise();
    }
    let rows = as_owner(|caller| {
        let row = read::find(project::current(caller), run);
        spi::read(
            "SELECT position, created_at, type, data::text, coalesce(metadata ->> 'actor', metadata ->> 'executor')
             FROM meshhook.run_event WHERE project_id = $1 AND run_id = $2 AND position > $3 ORDER BY position LIMIT $4",
            &[arg(row.key.project), arg(run), arg(after), arg(i64::from(most))],
            |row| {
                let Recorded { position, at, event } = recorded(row, 1);
                let line = journal::line(&event);
                let (time, attempt) = (timestamptz(at.as_micros()), line.attempt.map(u32::cast_signed));
                (position.cast_signed(), time, line.level.as_str(), line.node, attempt, row.get(5), line.message)
            },
        )
    });
    TableIterator::new(rows)
}

/// Where a run stands after an event of a type; see the COMMENT.
#[pg_extern(immutable, parallel_safe, strict)]
#[search_path(pg_catalog, pg_temp)]
pub fn run_status_after(event_type: &str) -> Option<&'static str> {
    status_after(event_type).map(|status| status.as_str())
}

impl RunRow {
    /// Raises 55000 where the run has no event yet.
    pub(super) fn must_have_begun(&self) {
        if self.position == 0 {
            refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("run \"{}\" has no events: it is queued and has not begun", self.key.run),
            )
            .hint("meshhook.queued_runs says what it waits for.")
            .raise();
        }
    }
}
