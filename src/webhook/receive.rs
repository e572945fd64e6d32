//! Intake: from raw bytes to one run, or to a reason why not. Everything that is the sender's fault is an
//! answer, never an ERROR, so that the record of the delivery commits.

use meshhook_engine::signature::{Request, Verdict, verify};
use pgrx::prelude::*;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::accept::{Delivery, accept};
use super::answer::Answer;
use super::rate::{self, Refusal};
use super::record::record;
use super::{Came, Endpoint, Sealed, find, outcome, path_of, seal_place};
use crate::error::required;
use crate::guc::{self, MAX_PAYLOAD_BYTES};
use crate::owner::{Role, as_owner};
use crate::spi::RawJsonb;
use crate::{installation, random, secret};

/// Takes a delivery in; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn receive_webhook(
    endpoint: Option<&str>,
    method: Option<&str>,
    headers: Option<RawJsonb>,
    query: Option<&str>,
    body: Option<&[u8]>,
) -> TableIterator<
    'static,
    (
        name!(status, i32),
        name!(headers, RawJsonb),
        name!(body, RawJsonb),
        name!(respond_within_ms, Option<i32>),
        name!(outcome, Option<String>),
    ),
> {
    let (endpoint, method) = (required("endpoint", endpoint), required("method", method));
    let body = required("body", body);
    let headers = match serde_json::from_str(&required("headers", headers).text()) {
        Ok(Value::Object(headers)) => headers,
        _ => Map::new(),
    };
    let (answer, waits) = as_owner(|caller| match find(endpoint) {
        None => (Answer::error(404, "unknown endpoint", "unknown_endpoint"), None),
        Some(endpoint) => {
            let came = Came { headers: &headers, query, body };
            let (mut answer, delivery) = answer(&endpoint, method, &came, caller);
            record(&endpoint, &came, &answer, delivery.as_ref(), None);
            let waits = wait(&endpoint, &mut answer);
            (answer, waits)
        }
    });
    let (respond_within_ms, outcome) = waits.unzip();
    TableIterator::once((
        answer.status,
        RawJsonb::of_text(&Value::Object(answer.headers).to_string()),
        RawJsonb::of_text(&answer.body.to_string()),
        respond_within_ms,
        outcome,
    ))
}

/// How long the sender waits for what the run that it started answers, in milliseconds, and what to ask for that with. The
/// answer to a wait in vain tells where it can be had later.
fn wait(endpoint: &Endpoint, answer: &mut Answer) -> Option<(i32, String)> {
    let limit = i32::try_from(endpoint.respond_within? / 1_000).ok()?;
    let (token, url) = outcome::ticket(endpoint.project, answer.run.filter(|_| answer.waits)?)?;
    answer.body["status_url"] = Value::String(url);
    Some((limit, token))
}

/// The answer, and with it what was delivered if the sender is known.
fn answer<'a>(
    endpoint: &Endpoint,
    method: &str,
    came: &'a Came<'a>,
    caller: Role,
) -> (Answer, Option<Delivery<'a>>) {
    let challenge = endpoint.preset.challenge.as_ref();
    let token = challenge.filter(|_| method == "GET").and_then(|asked| asked.echo(came.query?, &endpoint.id));
    if let Some(token) = token {
        let echo = Answer::new(200, Value::String(token), "challenge").with("content-type", "text/plain");
        return (echo, None);
    }
    if method != "POST" {
        return (Answer::error(405, "send a POST request", "method").with("allow", "POST"), None);
    }
    if !installation::active() {
        return (Answer::later("dormant"), None);
    }
    if came.body.len() > MAX_PAYLOAD_BYTES {
        return (Answer::error(413, "the body is too large", "body_too_large"), None);
    }
    let now = random::now_micros();
    let secrets = match secrets(endpoint, now) {
        Ok(secrets) => secrets,
        Err(error) => {
            pgrx::warning!("webhook endpoint {} cannot verify anything: {}", endpoint.id, error.0);
            return (Answer::later("no_key"), None);
        }
    };
    let opened: Vec<&[u8]> = secrets.iter().map(|secret| &secret[..]).collect();
    let url = address(endpoint, came.query);
    let request = Request { headers: came.headers, url: &url, body: came.body };
    match verify(&endpoint.preset, &opened, endpoint.tolerance_seconds, now / 1_000_000, &request) {
        // One text whatever the reason: it must not help to guess.
        Verdict::Rejected(reason) => (Answer::error(401, "invalid signature", reason.to_string()), None),
        Verdict::Accepted { dedupe_key, signed_id, unsigned_id, secret_index, .. } => {
            let secret = secret_index.and_then(|index| opened.get(index));
            if let Some(reply) =
                challenge.zip(secret).and_then(|(asked, secret)| asked.reply(came.body, secret))
            {
                return (Answer::new(200, reply, "challenge"), None);
            }
            let delivery =
                Delivery { came, dedupe_key: Some(dedupe_key), sender_id: signed_id.or(unsigned_id) };
            (within_rate(endpoint, &delivery, caller, now), Some(delivery))
        }
    }
}

/// Takes a delivery if the rates of its endpoint allow one more.
fn within_rate(endpoint: &Endpoint, delivery: &Delivery<'_>, caller: Role, now: i64) -> Answer {
    let (mut answer, told) = match rate::pay(endpoint, now) {
        Ok(told) => (accept(endpoint, delivery, caller), told),
        Err(Refusal { scope, headers }) => {
            (Answer::error(429, "too many deliveries", format!("rate of the {scope}")), headers)
        }
    };
    answer.headers.extend(told);
    answer
}

/// The address as the sender has it. What the request says of its host is the sender's word and counts for nothing.
fn address(endpoint: &Endpoint, query: Option<&str>) -> String {
    let base = guc::public_url().unwrap_or_default();
    let path = path_of(&endpoint.id);
    match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{base}{path}?{query}"),
        None => format!("{base}{path}"),
    }
}

/// Those of the endpoint's secrets that have not ended.
fn secrets(endpoint: &Endpoint, now: i64) -> Result<Vec<Zeroizing<Vec<u8>>>, secret::SecretError> {
    let active = endpoint.secrets.iter().filter(|secret| secret.expires.is_none_or(|end| end > now));
    let open = |secret: &Sealed| {
        secret::open(&secret.sealed, &seal_place(endpoint.project, &endpoint.id, secret.id))
    };
    let (mut opened, mut last_error) = (Vec::new(), None);
    for result in active.map(open) {
        match result {
            Ok(secret) => opened.push(secret),
            Err(error) => last_error = Some(error),
        }
    }
    // One that cannot be opened any more must not shut out those that can.
    match last_error {
        Some(error) if opened.is_empty() => Err(error),
        _ => Ok(opened),
    }
}
