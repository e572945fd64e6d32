//! Resume URLs: answers to wait nodes from people and systems that have nothing but a URL.
//!
//! The log holds placeholders (`meshhook_engine::resume`); the URL exists in what `claim_jobs` hands out and at whoever
//! gets it. Nothing of a token is stored: it is signed, and what it says is the key of the row that makes it single-use.

mod answer;
mod token;

use meshhook_engine::definition::Workflow;
use meshhook_engine::resume;
use pgrx::prelude::*;

use crate::error::{bug, refuse};
use crate::guc;
use crate::project::Project;
use crate::random::unix_micros;
use crate::secret::SecretError;
use crate::spi::{self, RawJsonb, arg};
use token::{Token, signing_key};

/// Refuses to publish what sends resume URLs where none can be signed, and warns where they would lead nowhere.
pub fn check(workflow: &Workflow) {
    if !workflow.sends_resume_urls() {
        return;
    }
    if let Err(error) = signing_key() {
        error.refuse("resume URLs cannot be signed").raise();
    }
    if guc::public_url().is_none() {
        refuse(PgSqlErrorCode::ERRCODE_WARNING, "resume URLs will be sent without a host")
            .detail("meshhook.public_url is empty or no URL.")
            .hint("Set it to the address that the sidecar is reached at from outside, as in https://hooks.example.com, and reload.")
            .warn();
    }
}

/// Whether an input may hold placeholders.
pub fn is_in(input: RawJsonb) -> bool {
    input.contains(resume::PREFIX)
}

/// Puts URLs in the place of the placeholders in the input of a node's job: the same ones for each of its attempts.
pub fn fill(
    project: Project,
    run: pgrx::Uuid,
    sender: &str,
    input: RawJsonb,
) -> Result<RawJsonb, SecretError> {
    let Some((seed, scheduled_at)) = origin(project, run, sender) else { bug("a claimed job has no origin") };
    let mut fault = None;
    let base = guc::public_url().unwrap_or_default();
    let sender = sender.rsplit('/').next().unwrap_or(sender);
    let expires_at = scheduled_at / 1_000_000 + guc::resume_url_lifetime();
    // The key is wanted only for a placeholder that is one: anybody may write something like it.
    let filled = resume::fill(&input.text(), seed, |node| {
        let (node, sender) = (node.to_owned(), sender.to_owned());
        let token = Token { project, run, node, sender, expires_at };
        match signing_key() {
            Ok(key) => format!("{base}/resume/{}", token.sign(&key)),
            Err(error) => {
                fault.get_or_insert(error);
                String::new()
            }
        }
    });
    fault.map_or_else(|| Ok(RawJsonb::of_text(&filled)), Err)
}

/// The seed of a job's run, and when its node was scheduled first, in microseconds since 1970; in a fork that may be a
/// copied event, and its own time begins with it.
fn origin(project: Project, run: pgrx::Uuid, node: &str) -> Option<(u64, i64)> {
    spi::run_one(
        "SELECT (s.data ->> 'seed')::bigint, greatest(e.created_at, r.created_at) FROM meshhook.job j
         JOIN meshhook.run r ON r.project_id = j.project_id AND r.run_id = j.run_id
         JOIN meshhook.run_event s ON s.project_id = j.project_id AND s.run_id = j.run_id AND s.position = 1
         JOIN meshhook.run_event e ON e.project_id = j.project_id AND e.run_id = j.run_id AND e.position = j.input_position
         WHERE j.project_id = $1 AND j.run_id = $2 AND j.node = $3",
        &[arg(project.0), arg(run), arg(node)],
        |row| (row.must::<i64>(1).cast_unsigned(), unix_micros(row.must(2))),
    )
}
