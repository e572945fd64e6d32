//! Looking at a resume URL, which changes nothing, and using it, which counts once.

use meshhook_engine::json::Json;
use meshhook_engine::resume::{Standing, standing};
use meshhook_engine::time::Timestamp;
use pgrx::prelude::*;

use super::token::Token;
use crate::error::required;
use crate::owner::{Role, as_owner};
use crate::random::{now_micros, timestamptz, unix_micros};
use crate::run::{MAX_SIGNAL_ID_BYTES, post, read, start};
use crate::spi::{self, Arg, RawJsonb, arg};
use crate::{fault, installation, workflow};

/// What is told to whoever asks: an HTTP status and a document.
struct Told(i32, Json);

/// A resume URL that somebody with the key has signed, of a node that exists.
struct Link {
    token: Token,
    workflow: String,
    /// The name of the signal the node waits for; none where it waits for an approval.
    signal: Option<String>,
    standing: Standing,
}

fn error(status: i32, state: &str, message: &str) -> Told {
    Told(status, Json::object([("state", Json::from(state)), ("error", Json::from(message))]))
}

/// Shows what a resume URL is for; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn open_resume_url(
    token: Option<&str>,
) -> TableIterator<'static, (name!(status, i32), name!(body, RawJsonb))> {
    let token = required("token", token);
    tell(as_owner(|_| look(token).map_or_else(|told| told, |link| link.shown())))
}

/// Answers in the name of a resume URL; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn use_resume_url(
    token: Option<&str>,
    answer: Option<RawJsonb>,
) -> TableIterator<'static, (name!(status, i32), name!(body, RawJsonb))> {
    let (token, answer) = (required("token", token), required("answer", answer));
    start::check_document("answer", answer);
    // What jsonb writes is JSON.
    let answer = Json::parse(&answer.text()).unwrap_or(Json::Null);
    tell(as_owner(|caller| look(token).map_or_else(|told| told, |link| link.answered(&answer, caller))))
}

/// Status and document as the functions return them.
fn tell(Told(status, body): Told) -> TableIterator<'static, (name!(status, i32), name!(body, RawJsonb))> {
    TableIterator::once((status, RawJsonb::of(&body)))
}

/// The link behind a token, or what is told of one that is none.
fn look(text: &str) -> Result<Link, Told> {
    // One text whatever the reason: it must not help to guess.
    let unknown = || error(404, "unknown", "this resume URL does not exist");
    let token = Token::open(text).map_err(|reason| {
        pgrx::warning!("resume URLs cannot be verified: {}", reason.0);
        error(503, "unavailable", "try again later")
    })?;
    let token = token.ok_or_else(unknown)?;
    let (row, state) = read::state(token.project, token.run).ok_or_else(unknown)?;
    let definition = workflow::compiled(token.project, row.version_id);
    let (_, node) = definition.locate(&token.node).ok_or_else(unknown)?;
    let signal = node.node.signal().map(str::to_owned);
    Ok(Link { standing: standing(&state, &token.node), workflow: row.workflow, signal, token })
}

impl Link {
    /// What it is for, without the token.
    fn described(&self, state: &str) -> Vec<(&'static str, Json)> {
        let what = match &self.signal {
            Some(name) => ("signal", Json::from(name.as_str())),
            None => ("approval", Json::Bool(true)),
        };
        vec![
            ("state", Json::from(state)),
            ("workflow", Json::from(self.workflow.as_str())),
            ("run_id", Json::from(self.token.run.to_string())),
            ("node", Json::from(self.token.node.as_str())),
            what,
        ]
    }

    fn shown(&self) -> Told {
        self.recorded().or_else(|| self.closed()).unwrap_or_else(|| {
            let mut told = self.described(if self.is_too_early() { "early" } else { "open" });
            told.push(("expires_at", time(self.expires_at_micros())));
            Told(200, Json::object(told))
        })
    }

    /// A voice for a node that does not wait yet would be lost; a signal is kept for it.
    fn is_too_early(&self) -> bool {
        self.signal.is_none() && self.standing == Standing::Ahead
    }

    /// What is told where no answer can count any more.
    fn closed(&self) -> Option<Told> {
        if self.expires_at_micros() <= now_micros() {
            return Some(error(410, "expired", "this resume URL has expired"));
        }
        (self.standing == Standing::Past).then(|| error(410, "over", "nobody waits for this answer any more"))
    }

    fn expires_at_micros(&self) -> i64 {
        self.token.expires_at.saturating_mul(1_000_000)
    }

    /// The columns that make it single-use.
    fn key(&self) -> Vec<Arg> {
        let Token { project, run, node, sender, .. } = &self.token;
        let expires_at = timestamptz(self.expires_at_micros());
        vec![arg(project.0), arg(*run), arg(node.clone()), arg(sender.clone()), arg(expires_at)]
    }

    /// What is told of one that was used: the answer that counted.
    fn recorded(&self) -> Option<Told> {
        let (answer, used_at) = spi::run_one(
            "SELECT answer, used_at FROM meshhook.resume_use
             WHERE project_id = $1 AND run_id = $2 AND node = $3 AND sender = $4 AND expires_at = $5",
            &self.key(),
            |row| (row.must::<RawJsonb>(1).text(), unix_micros(row.must(2))),
        )?;
        Some(self.used(true, Json::parse(&answer).unwrap_or(Json::Null), used_at))
    }

    fn used(&self, before: bool, answer: Json, at: i64) -> Told {
        let mut told = self.described("used");
        told.extend([("used", Json::Bool(before)), ("answer", answer), ("used_at", time(at))]);
        Told(200, Json::object(told))
    }

    fn answered(&self, answer: &Json, caller: Role) -> Told {
        if let Some(told) = self.recorded().or_else(|| self.closed()) {
            return told;
        }
        if !installation::active() {
            return error(503, "unavailable", "try again later");
        }
        if self.is_too_early() {
            return error(409, "early", "the run does not wait for this answer yet; try again");
        }
        let answer = match self.read(answer) {
            Ok(answer) => answer,
            Err(message) => return error(400, "open", &message),
        };
        let (kind, data) = self.fact(&answer);
        let now = now_micros();
        let mut row = self.key();
        row.extend([arg(RawJsonb::of(&answer)), arg(timestamptz(now))]);
        fault::around!("inbox.resume_url");
        let first = spi::exec(
            "INSERT INTO meshhook.resume_use (project_id, run_id, node, sender, expires_at, answer, used_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            &row,
        );
        if first == 0 {
            // Somebody else's commit was waited for, so a new snapshot sees the answer.
            return self.recorded().unwrap_or_else(|| error(503, "unavailable", "try again later"));
        }
        post(self.token.project, self.token.run, kind, RawJsonb::of(&data), caller);
        self.used(false, answer, now)
    }

    /// The answer in the form it is recorded in, or what is wrong with it.
    fn read(&self, answer: &Json) -> Result<Json, String> {
        let Some(given) = answer.as_obj() else { return Err("the answer must be an object".to_owned()) };
        let known = |key: &str| matches!(key, "approved" | "payload" | "by");
        if let Some(key) = given.keys().find(|key| !known(key)) {
            return Err(format!("\"{key}\" is not known here; known are \"approved\", \"payload\", \"by\""));
        }
        let mut read = Vec::new();
        if self.signal.is_none() {
            let approved = answer.get("approved").filter(|approved| approved.as_bool().is_some());
            let approved = approved.ok_or_else(|| "\"approved\" must be true or false".to_owned())?;
            read.push(("approved", approved.clone()));
        }
        if let Some(by) = answer.get("by").filter(|by| !by.is_null()) {
            let is_name = by.as_str().is_some_and(|by| (1..=MAX_SIGNAL_ID_BYTES).contains(&by.len()));
            if !is_name {
                return Err(format!("\"by\" must be a string of 1 to {MAX_SIGNAL_ID_BYTES} bytes"));
            }
            read.push(("by", by.clone()));
        }
        read.extend(answer.get("payload").map(|payload| ("payload", payload.clone())));
        Ok(Json::object(read))
    }

    /// What the run is told. Who answers is marked with the node that sent the URL: it gives one voice, and nobody can
    /// speak in another's name by it.
    fn fact(&self, answer: &Json) -> (&'static str, Json) {
        let Token { node, sender, expires_at, .. } = &self.token;
        let (node_path, payload) = (Json::from(node.as_str()), answer.get("payload").cloned());
        if let Some(name) = &self.signal {
            let id = Json::from(format!("resume:{node}:{sender}:{expires_at}"));
            let (name, payload) = (Json::from(name.as_str()), payload.unwrap_or(Json::Null));
            let data = Json::object([("name", name), ("payload", payload), ("id", id), ("node", node_path)]);
            return ("run.signal", data);
        }
        let by = match answer.get("by").and_then(Json::as_str) {
            Some(by) => format!("resume:{sender}:{by}"),
            None => format!("resume:{sender}"),
        };
        let approved = answer.get("approved").cloned().unwrap_or(Json::Null);
        let mut data = vec![("node", node_path), ("approved", approved), ("by", Json::from(by))];
        data.extend(payload.map(|payload| ("payload", payload)));
        ("run.approval", Json::object(data))
    }
}

fn time(micros: i64) -> Json {
    Json::from(Timestamp::from_micros(micros).to_string())
}
