//! Taking a delivery in once more from what was kept of it.

use pgrx::prelude::*;
use serde_json::{Map, Value};

use super::accept::{Delivery, accept};
use super::answer::Answer;
use super::record::record;
use super::{Came, find, unknown};
use crate::error::{refuse, required};
use crate::installation;
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, arg};

/// What was kept of a delivery.
struct Kept {
    headers: Map<String, Value>,
    query: Option<String>,
    body: Vec<u8>,
    dedupe_key: Option<String>,
    sender_id: Option<String>,
    /// The run that it started, or that one made again of it did.
    run: Option<pgrx::Uuid>,
}

/// Takes a kept delivery in once more; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn redeliver(
    endpoint: Option<&str>,
    delivery: Option<i64>,
    again: default!(bool, "false"),
) -> TableIterator<'static, (name!(delivery, i64), name!(status, i32), name!(body, RawJsonb))> {
    let (id, number) = (required("endpoint", endpoint), required("delivery", delivery));
    let (made, answer) = as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let Some(endpoint) = find(id).filter(|found| found.project == project) else { unknown(id) };
        let kept = kept(&endpoint, number);
        let came = Came { headers: &kept.headers, query: kept.query.as_deref(), body: &kept.body };
        let dedupe_key = kept.dedupe_key.filter(|_| !again);
        let delivery = Delivery { came: &came, dedupe_key, sender_id: kept.sender_id };
        let answer = match kept.run.filter(|_| !again) {
            Some(run) => Answer::duplicate(run),
            None => accept(&endpoint, &delivery, caller),
        };
        let made = record(&endpoint, &came, &answer, Some(&delivery), Some(number));
        project::audit(
            project,
            caller,
            "delivery.redelivered",
            id,
            Some(format!("{{\"delivery\": {number}}}")),
        );
        (made, answer)
    });
    let body = RawJsonb::of_text(&answer.body.to_string());
    TableIterator::new(made.map(|made| (made, answer.status, body)))
}

/// Locks the delivery, so that it is taken in once more by one at a time. Raises P0002 where there is none, 55000 where its
/// body was not kept.
fn kept(endpoint: &super::Endpoint, number: i64) -> Kept {
    let found = spi::run_one(
        "SELECT d.headers::text, d.query, d.body, d.dedupe_key, d.sender_id, d.run_id FROM meshhook.delivery d
         WHERE d.project_id = $1 AND d.endpoint_id = $2 AND d.delivery_id = $3 FOR UPDATE",
        &[arg(endpoint.project.0), arg(endpoint.id.clone()), arg(number)],
        |row| {
            let headers = serde_json::from_str(&row.get::<String>(1)?).unwrap_or_default();
            Some(Kept {
                headers,
                query: row.get(2),
                body: row.get(3)?,
                dedupe_key: row.get(4),
                sender_id: row.get(5),
                run: row.get(6),
            })
        },
    );
    match found {
        Some(Some(kept)) => Kept { run: kept.run.or_else(|| made_again(endpoint.project, number)), ..kept },
        None => refuse(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            format!("endpoint \"{}\" has no delivery {number}", endpoint.id),
        )
        .raise(),
        Some(None) => refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the body of delivery {number} was not kept"),
        )
        .hint("An endpoint made with keep => 'all' keeps every body of a known sender, one with 'refused' those that started no run.")
        .raise(),
    }
}

/// The run that was started when a delivery was taken in once more. The snapshot is newer than the lock on the delivery.
fn made_again(project: Project, number: i64) -> Option<pgrx::Uuid> {
    spi::run_one(
        "SELECT run_id FROM meshhook.delivery
         WHERE project_id = $1 AND redelivery_of = $2 AND run_id IS NOT NULL ORDER BY delivery_id LIMIT 1",
        &[arg(project.0), arg(number)],
        |row| row.must(1),
    )
}
