//! Runs whose log is not what the engine decides: an engine that decides otherwise, a log that was tampered with.
//!
//! Such a run is neither ended nor guessed on: it keeps its facts, is named in `run_divergence`, and goes on as soon as
//! its log is again what the engine decides, which every process finds out when it meets the run for the first time. A
//! kill ends it where its log leads to a state at all.

use std::collections::HashSet;

use meshhook_engine::json::Json;
use meshhook_engine::replay::Difference;

use super::{RunKey, load};
use crate::spi::{self, RawJsonb, arg};

/// Whether any run is named.
pub(super) fn any() -> bool {
    spi::read_one("SELECT EXISTS (SELECT FROM meshhook.run_divergence)", &[], |row| row.must(1))
        .unwrap_or(false)
}

/// Names a run, in the table and in the server's log. Values are in the table only, which shows a tenant its own.
pub(super) fn name(key: RunKey, difference: &Difference) {
    let raw = |json: &Option<Json>| json.as_ref().map(RawJsonb::of);
    let is_news = spi::exec(
        "INSERT INTO meshhook.run_divergence AS d (project_id, run_id, position, path, expected, found, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (project_id, run_id) DO UPDATE
         SET position = excluded.position, path = excluded.path, expected = excluded.expected, found = excluded.found,
             version = excluded.version, noticed_at = excluded.noticed_at
         WHERE (d.position, d.path, d.version) <> (excluded.position, excluded.path, excluded.version)",
        &[
            arg(key.project),
            arg(key.run),
            arg(difference.position.cast_signed()),
            arg(difference.path.clone()),
            arg(raw(&difference.expected)),
            arg(raw(&difference.found)),
            arg(env!("CARGO_PKG_VERSION")),
        ],
    );
    if is_news > 0 {
        pgrx::warning!(
            "the log of run {} of project {} is not what this release decides (position {}, \"{}\"): it is left alone",
            key.run,
            key.project,
            difference.position,
            difference.path
        );
    }
}

/// Names no longer those of these runs that were.
pub(super) fn forget(sound: impl Iterator<Item = RunKey>) {
    let (projects, runs) = load::columns(&sound.collect::<Vec<_>>());
    spi::exec(
        "DELETE FROM meshhook.run_divergence d USING unnest($1::integer[], $2::uuid[]) AS u (project_id, run_id)
         WHERE d.project_id = u.project_id AND d.run_id = u.run_id",
        &[arg(projects), arg(runs)],
    );
}

/// Those of the runs that somebody wants to end at once.
pub(super) fn killed(diverging: &HashSet<RunKey>) -> Vec<RunKey> {
    if diverging.is_empty() {
        return Vec::new();
    }
    let (projects, runs) = load::columns(&diverging.iter().copied().collect::<Vec<_>>());
    spi::run(
        "SELECT DISTINCT i.project_id, i.run_id FROM unnest($1::integer[], $2::uuid[]) AS u (project_id, run_id)
         JOIN meshhook.inbox i USING (project_id, run_id) WHERE i.kind = 'run.cancel' AND i.data -> 'kill' = 'true'",
        &[arg(projects), arg(runs)],
        |row| RunKey { project: row.must(1), run: row.must(2) },
    )
}
