//! The bulk action whose checks are those of a single call; the others are plain SQL, in `sql/operations/bulk.sql`.

use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::signal_fact;
use crate::error::bad_parameter;
use crate::flow::waiting;
use crate::project::Project;
use crate::spi::{self, RawJsonb, arg};

/// Arguments of the action "signal".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signal<'a> {
    name: String,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    signal_id: Option<String>,
}

/// The bulk action "signal"; see the COMMENT. Called as the owner role.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn bulk_signal(
    project: i32,
    runs: Vec<pgrx::Uuid>,
    arguments: RawJsonb,
    _reason: Option<&str>,
    actor: &str,
) -> i64 {
    let text = arguments.text();
    let signal: Signal = serde_json::from_str(&text).unwrap_or_else(|error| {
        bad_parameter("the action \"signal\" takes the arguments name, payload and signal_id")
            .detail(error.to_string())
            .raise()
    });
    let payload = signal.payload.map(|payload| RawJsonb::of_text(payload.get()));
    let fact = RawJsonb::of_text(&signal_fact(&signal.name, payload, signal.signal_id.as_deref()));
    let kept = waiting::keep_for_all(Project(project), runs.clone(), fact, actor);
    let posted = spi::exec(
        "INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
         SELECT $1, r.run_id, 'run.signal', $4, jsonb_build_object('actor', $5::text)
         FROM unnest($2::uuid[]) AS u (run_id)
         JOIN meshhook.run r ON r.project_id = $1 AND r.run_id = u.run_id
         WHERE r.finished_at IS NULL AND r.run_id <> ALL ($3)",
        &[arg(project), arg(runs), arg(kept.clone()), arg(fact), arg(actor.to_owned())],
    );
    posted.cast_signed() + i64::try_from(kept.len()).unwrap_or(i64::MAX)
}
