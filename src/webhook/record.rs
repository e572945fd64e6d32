//! The record of what came, with the answer it got.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::accept::Delivery;
use super::answer::Answer;
use super::{Came, Endpoint, Keep};
use crate::fault;
use crate::spi::{self, arg};

/// Writes a delivery down, as the one made again of an earlier one where that is given, and tells its number. What came
/// is kept only of senders that are known: nobody else is to fill the disk.
pub(super) fn record(
    endpoint: &Endpoint,
    came: &Came<'_>,
    answer: &Answer,
    delivery: Option<&Delivery<'_>>,
    redelivery_of: Option<i64>,
) -> Option<i64> {
    let kept = delivery.filter(|_| is_kept(endpoint.keep, answer)).map(|delivery| delivery.came);
    let query = kept.and_then(|came| came.query).filter(|_| !endpoint.preset.is_secret_in_query());
    fault::around!("webhook.record");
    fault::at_commit!("webhook.commit");
    spi::run_one(
        "INSERT INTO meshhook.delivery (project_id, endpoint_id, status, reason, run_id, dedupe_key, sender_id,
                                        redelivery_of, body_sha256, body_bytes, headers, query, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12, $13)
         RETURNING delivery_id",
        &[
            arg(endpoint.project.0),
            arg(endpoint.id.clone()),
            arg(answer.status),
            arg(storable(&answer.reason)),
            arg(answer.run),
            arg(delivery.and_then(|delivery| delivery.dedupe_key.clone())),
            arg(delivery.and_then(|delivery| delivery.sender_id.as_deref()).map(storable)),
            arg(redelivery_of),
            arg(Sha256::digest(came.body).to_vec()),
            arg(i32::try_from(came.body.len()).unwrap_or(i32::MAX)),
            arg(kept.map(|came| Value::Object(endpoint.preset.redacted(came.headers)).to_string())),
            arg(query.map(storable)),
            arg(kept.map(|came| came.body.to_vec())),
        ],
        |row| row.must(1),
    )
}

/// Whether the body of a delivery that was answered so is kept.
fn is_kept(keep: Keep, answer: &Answer) -> bool {
    match keep {
        Keep::All => true,
        // Nobody wants what was filtered out, and whoever sends too much is told to send it again.
        Keep::Refused => answer.run.is_none() && ![204, 429].contains(&answer.status),
        Keep::Nothing => false,
    }
}

/// The database's text has no U+0000.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
