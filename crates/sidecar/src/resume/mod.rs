//! Resume URLs: what one is for, as a page or as JSON, and an answer to the database. Nothing is judged here, and
//! looking changes nothing: mail scanners and previews open every link.

mod page;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::executor::response::is_json;
use crate::intake::{Intake, json_response};
use crate::store::{ResumeReply, ResumeStore, StoreError};

/// Sent with every answer: the URL is a key, so it must not get into caches, frames, or the referrer of a request.
pub(crate) const GUARDS: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];
/// What the sender of an answer that comes too early is asked to wait, in seconds.
const RETRY_SECONDS: &str = "2";

/// The handler of `/resume/{token}`, for any method.
pub async fn handle<S: ResumeStore>(
    State(intake): State<Arc<Intake<S>>>,
    Path(token): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let as_json = wants_json(&parts.method, &parts.headers);
    let reply = take(&intake, token, &parts.method, &parts.headers, body).await;
    let status = reply.as_ref().map_or_else(|refusal| refusal.status(), status_of);
    metrics::counter!("meshhook_sidecar_resume_responses_total", "status" => status.as_str().to_owned())
        .increment(1);
    let mut response = match reply {
        Ok(reply) if as_json => json_response(status, &reply.body),
        Ok(reply) => html(status, page::page(&reply.body)),
        Err(refusal) => *refusal,
    };
    let headers = response.headers_mut();
    for (name, value) in GUARDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    match status {
        StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        _ => {}
    }
    response
}

/// What the database says, or the answer to what never gets there.
async fn take<S: ResumeStore>(
    intake: &Intake<S>,
    token: String,
    method: &Method,
    headers: &HeaderMap,
    body: Body,
) -> Result<ResumeReply, Box<Response>> {
    let Some(slot) = intake.slot() else {
        return Ok(own(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once"));
    };
    // The database's text has no U+0000, so no token has one.
    if token.contains('\0') {
        return Ok(own(StatusCode::NOT_FOUND, "this resume URL does not exist"));
    }
    let answer = match *method {
        Method::GET | Method::HEAD => None,
        Method::POST => {
            let body = intake.read(headers, body).await?;
            match answer_in(headers, &body) {
                Some(answer) => Some(answer),
                None => {
                    let message = "send a form or JSON, in UTF-8";
                    return Ok(own(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
                }
            }
        }
        _ => return Ok(own(StatusCode::METHOD_NOT_ALLOWED, "send a GET or POST request")),
    };
    // In a task of its own: a sender that hangs up must not cut a transaction short.
    let store = intake.store();
    let asking = tokio::spawn(async move {
        let reply = match &answer {
            Some(answer) => store.answer(&token, answer).await,
            None => store.open(&token).await,
        };
        drop(slot);
        reply
    });
    Ok(match asking.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(StoreError::Unavailable(reason))) => {
            tracing::debug!(reason, "resume URL not served: database unavailable");
            own(StatusCode::SERVICE_UNAVAILABLE, "try again later")
        }
        // Class 22 and 54: no JSON, nothing a jsonb can hold, too large or too deep.
        Ok(Err(StoreError::Refused { code, message }))
            if code.starts_with("22") || code.starts_with("54") =>
        {
            tracing::debug!(code, message, "the database cannot hold an answer");
            own(StatusCode::BAD_REQUEST, "the answer is not JSON, or too large or too deep")
        }
        Ok(Err(StoreError::Refused { code, message })) => {
            tracing::error!(code, message, "the database failed on a resume URL");
            own(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        }
        Err(error) => {
            tracing::error!(%error, "resume task failed");
            own(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        }
    })
}

/// An answer of our own, in the shape of the database's.
fn own(status: StatusCode, error: &str) -> ResumeReply {
    ResumeReply { status: i32::from(status.as_u16()), body: json!({ "error": error }) }
}

fn status_of(reply: &ResumeReply) -> StatusCode {
    let status = u16::try_from(reply.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The answer in a body, as JSON text; `None` where the body is of another type.
fn answer_in(headers: &HeaderMap, body: &Bytes) -> Option<String> {
    let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    if is_json(content_type) {
        return String::from_utf8(body.to_vec()).ok();
    }
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded").then(|| form(body).to_string())
}

/// The fields of a form; what was left empty was not given.
fn form(body: &[u8]) -> Value {
    let fields = url::form_urlencoded::parse(body).filter(|(_, value)| !value.is_empty());
    let value = |name: &str, value: String| match (name, value.as_str()) {
        ("approved", "true") => Value::Bool(true),
        ("approved", "false") => Value::Bool(false),
        _ => Value::String(value),
    };
    Value::Object(
        fields.map(|(name, text)| (name.to_string(), value(&name, text.into_owned()))).collect::<Map<_, _>>(),
    )
}

/// People get a page; programs say that they want JSON, or send it.
fn wants_json(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let accepted: Vec<&str> = text(ACCEPT).unwrap_or_default().split(',').map(str::trim).collect();
    let takes_page = accepted.iter().any(|media| media.starts_with("text/html"));
    let sends_json = *method == Method::POST && text(CONTENT_TYPE).is_some_and(is_json);
    !takes_page && (sends_json || accepted.iter().any(|media| is_json(media)))
}

fn html(status: StatusCode, page: String) -> Response {
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn people_get_a_page_and_programs_json() {
        let browser = headers(&[
            (ACCEPT, "text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8"),
            (CONTENT_TYPE, "application/x-www-form-urlencoded"),
        ]);
        assert!(!wants_json(&Method::GET, &browser) && !wants_json(&Method::POST, &browser));
        assert!(!wants_json(&Method::GET, &HeaderMap::new()));
        assert!(wants_json(&Method::GET, &headers(&[(ACCEPT, "application/json")])));
        let program = headers(&[(ACCEPT, "*/*"), (CONTENT_TYPE, "application/json; charset=utf-8")]);
        assert!(wants_json(&Method::POST, &program) && !wants_json(&Method::GET, &program));
    }

    #[test]
    fn a_form_is_an_answer() {
        let read = |content_type, body: &'static str| {
            answer_in(&headers(&[(CONTENT_TYPE, content_type)]), &Bytes::from(body))
        };
        let form = "application/x-www-form-urlencoded; charset=UTF-8";
        assert_eq!(
            read(form, "approved=true&by=J%C3%B6rg+A&payload=").unwrap(),
            r#"{"approved":true,"by":"Jörg A"}"#
        );
        assert_eq!(
            read(form, "approved=maybe&payload=true").unwrap(),
            r#"{"approved":"maybe","payload":"true"}"#
        );
        assert_eq!(read("application/json", "{ 1e400 ").unwrap(), "{ 1e400 ", "the database reads it");
        assert_eq!(read("multipart/form-data; boundary=x", "x"), None);
        assert_eq!(answer_in(&HeaderMap::new(), &Bytes::new()), None);
    }
}
