//! What became of the run that a delivery started: for a sender that waits for it, or comes back for it with the status URL.
//!
//! The answer is that of the run's `respond` node, or else how the run has ended. Nobody holds a transaction open for it:
//! the sidecar asks now and then until there is one, or the endpoint's time is over.

use meshhook_engine::json::Json;
use pgrx::prelude::*;

use crate::error::{bad_parameter, required};
use crate::guc;
use crate::owner::as_owner;
use crate::project::Project;
use crate::secret::{SecretError, SigningKey};
use crate::spi::{self, RawJsonb, arg};

/// What the signing key is derived for.
const PURPOSE: &str = "meshhook webhook outcome 1";
/// Most outcomes asked for at once.
const MAX_OUTCOMES: usize = 1_000;

/// The token that a run's outcome is told for, and the URL with it; none where no key is there to sign one.
pub(super) fn ticket(project: Project, run: pgrx::Uuid) -> Option<(String, String)> {
    let key = SigningKey::primary(PURPOSE).ok()?;
    let token = key.token(&[&project.0.to_be_bytes()[..], run.as_bytes()].concat());
    let url = format!("{}/outcomes/{token}", guc::public_url().unwrap_or_default());
    Some((token, url))
}

/// A run as whoever holds its token may see it.
struct Outcome {
    run: pgrx::Uuid,
    status: String,
    /// What its `respond` node has answered.
    response: Option<Json>,
}

impl Outcome {
    /// The run that a token is for, if somebody with the key has signed it and the run is kept.
    fn of(token: &str) -> Result<Option<Self>, SecretError> {
        let said = SigningKey::said(token, PURPOSE)?;
        let split = said.as_deref().and_then(<[u8]>::split_first_chunk::<4>);
        let Some((project, run)) = split else { return Ok(None) };
        let Ok(run) = <[u8; 16]>::try_from(run).map(pgrx::Uuid::from_bytes) else { return Ok(None) };
        Ok(spi::run_one(
            "SELECT r.status, (SELECT e.data FROM meshhook.run_event e
                               WHERE e.project_id = $1 AND e.run_id = $2 AND e.type = 'run.responded'
                               ORDER BY e.position LIMIT 1)
             FROM meshhook.run r WHERE r.project_id = $1 AND r.run_id = $2",
            &[arg(i32::from_be_bytes(*project)), arg(run)],
            |row| {
                let response = row.get::<RawJsonb>(2).and_then(|data| Json::parse(&data.text()).ok());
                Self { run, status: row.must(1), response }
            },
        ))
    }

    fn told(&self) -> Vec<(&'static str, Json)> {
        vec![("run_id", Json::from(self.run.to_string())), ("status", Json::from(self.status.as_str()))]
    }

    /// For whoever asks how it stands.
    fn document(&self) -> Json {
        let mut told = self.told();
        if let Some(response) = &self.response {
            let part = |name: &'static str| Some((name, response.get(name)?.clone()));
            told.push(("response", Json::object(["status", "headers", "body"].into_iter().filter_map(part))));
        }
        Json::object(told)
    }

    /// Status, headers and body for whoever waits; none as long as there is nothing to answer.
    fn answer(&self) -> Option<(i32, Json, Json)> {
        if let Some(response) = &self.response {
            let status =
                response.get("status").and_then(Json::as_i64).and_then(|status| i32::try_from(status).ok());
            let part = |name| response.get(name).cloned();
            return Some((status?, part("headers").unwrap_or_else(none), part("body").unwrap_or(Json::Null)));
        }
        match &*self.status {
            "succeeded" => Some((200, none(), Json::object(self.told()))),
            "failed" | "canceled" => Some((500, none(), Json::object(self.told()))),
            _ => None,
        }
    }
}

fn none() -> Json {
    Json::object::<&str, Json, _>([])
}

/// Tells the answers that senders wait for; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn webhook_outcomes(
    outcomes: Option<Vec<Option<String>>>,
) -> TableIterator<
    'static,
    (name!(outcome, String), name!(status, i32), name!(headers, RawJsonb), name!(body, RawJsonb)),
> {
    let tokens = required("outcomes", outcomes);
    if tokens.len() > MAX_OUTCOMES {
        bad_parameter(format!("outcomes has at most {MAX_OUTCOMES} elements")).raise();
    }
    let answered = as_owner(|_| {
        let answer = |token: String| {
            let (status, headers, body) = Outcome::of(&token).ok()??.answer()?;
            Some((token, status, headers, body))
        };
        tokens.into_iter().flatten().filter_map(answer).collect::<Vec<_>>()
    });
    TableIterator::new(
        answered.into_iter().map(|(token, status, headers, body)| {
            (token, status, RawJsonb::of(&headers), RawJsonb::of(&body))
        }),
    )
}

/// Tells how a run stands; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn open_outcome(token: Option<&str>) -> TableIterator<'static, (name!(status, i32), name!(body, RawJsonb))> {
    let token = required("token", token);
    let error = |message: &str| Json::object([("error", Json::from(message))]);
    let (status, body) = as_owner(|_| match Outcome::of(token) {
        Ok(Some(outcome)) => (200, outcome.document()),
        Ok(None) => (404, error("this status URL does not exist")),
        Err(reason) => {
            pgrx::warning!("status URLs cannot be verified: {}", reason.0);
            (503, error("try again later"))
        }
    });
    TableIterator::once((status, RawJsonb::of(&body)))
}
