//! Taking a delivery in once more from what was kept of it.

use pgrx::prelude::*;
use serde_json::{Map, Value};

use super::accept::{Delivery, accept};
use super::record::record;
use super::{Came, find, unknown};
use crate::error::{refuse, required};
use crate::installation;
use crate::owner::as_owner;
use crate::project;
use crate::spi::{self, RawJsonb, arg};

/// What was kept of a delivery.
struct Kept {
    headers: Map<String, Value>,
    query: Option<String>,
    body: Vec<u8>,
    dedupe_key: Option<String>,
    sender_id: Option<String>,
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
        let answer = accept(&endpoint, &delivery, caller);
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

/// Raises P0002 for a delivery that there is none of, 55000 for one whose body was not kept.
fn kept(endpoint: &super::Endpoint, number: i64) -> Kept {
    let found = spi::read_one(
        "SELECT headers::text, query, body, dedupe_key, sender_id FROM meshhook.delivery
         WHERE project_id = $1 AND endpoint_id = $2 AND delivery_id = $3",
        &[arg(endpoint.project.0), arg(endpoint.id.clone()), arg(number)],
        |row| {
            let headers = serde_json::from_str(&row.get::<String>(1)?).unwrap_or_default();
            Some(Kept {
                headers,
                query: row.get(2),
                body: row.get(3)?,
                dedupe_key: row.get(4),
                sender_id: row.get(5),
            })
        },
    );
    match found {
        Some(Some(kept)) => kept,
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
