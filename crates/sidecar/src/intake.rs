//! Webhooks in: raw bytes to the database, its answer back. Nothing is judged here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::executor::response::{header_object, is_json};
use crate::outcomes::Outcomes;
use crate::shutdown::Shutdown;
use crate::store::{StoreError, WebhookReply, WebhookRequest, WebhookStore};

/// A body must be here this long after its header.
const BODY_LIMIT: Duration = Duration::from_secs(15);
/// What a sender is asked to wait when we cannot take its webhook now, in seconds.
const RETRY_SECONDS: &str = "2";

/// Takes webhooks for a store.
pub struct Intake<S> {
    store: Arc<S>,
    outcomes: Arc<Outcomes<S>>,
    slots: Arc<Semaphore>,
    max_body: usize,
}

impl<S: WebhookStore> Intake<S> {
    /// At most `in_flight` webhooks at once, each with at most `max_body` bytes.
    pub fn new(store: Arc<S>, in_flight: usize, max_body: usize, shutdown: Shutdown) -> Self {
        let outcomes = Outcomes::new(store.clone(), shutdown);
        Self { store, outcomes, slots: Arc::new(Semaphore::new(in_flight)), max_body }
    }
}

impl<S> Intake<S> {
    /// A place among the requests that are taken at once, if there is one.
    pub(crate) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// The store that takes what comes in.
    pub(crate) fn store(&self) -> Arc<S> {
        self.store.clone()
    }

    /// The body of a request, or the answer to one that is not taken.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Box<Response>> {
        let encoded = headers
            .get(CONTENT_ENCODING)
            .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if encoded {
            let text = "compressed bodies are not accepted";
            return Err(Box::new(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)));
        }
        let too_large = || {
            let text = format!("the body is larger than {} bytes", self.max_body);
            Box::new(closing(refuse(StatusCode::PAYLOAD_TOO_LARGE, &text)))
        };
        let announced =
            headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.max_body as u64) {
            return Err(too_large());
        }
        let reading = Limited::new(body, self.max_body).collect();
        match tokio::time::timeout(BODY_LIMIT, reading).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Box::new(closing(refuse(StatusCode::BAD_REQUEST, "the body is incomplete")))),
            Err(_) => Err(Box::new(closing(refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long")))),
        }
    }
}

impl<S: WebhookStore> Intake<S> {
    async fn take(&self, endpoint: String, request: Request) -> Response {
        let Some(slot) = self.slot() else { return busy("too many webhooks at once") };
        // The database's text has no U+0000, so no endpoint is called that.
        if endpoint.contains('\0') {
            return refuse(StatusCode::NOT_FOUND, "no such endpoint");
        }
        let (parts, body) = request.into_parts();
        let body = match self.read(&parts.headers, body).await {
            Ok(body) => body,
            Err(refusal) => return *refusal,
        };
        let webhook = WebhookRequest {
            endpoint,
            method: parts.method.as_str().to_owned(),
            headers: header_object(&parts.headers),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body,
        };
        // In a task of its own: a sender that hangs up must not cut a transaction short, nor give
        // its slot to the next before the database is done.
        let store = self.store.clone();
        let receiving = tokio::spawn(async move {
            let reply = store.receive(&webhook).await;
            drop(slot);
            reply
        });
        match receiving.await {
            Ok(Ok(mut reply)) => {
                let answer = match reply.wait.take() {
                    Some((outcome, limit)) => self.outcomes.wait(outcome, limit).await,
                    None => None,
                };
                respond(answer.unwrap_or(reply))
            }
            Ok(Err(StoreError::Unavailable(reason))) => {
                tracing::debug!(reason, "webhook not taken: database unavailable");
                busy("try again later")
            }
            Ok(Err(StoreError::Refused { code, message })) => {
                tracing::error!(code, message, "the database failed on a webhook");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
            }
            Err(error) => {
                tracing::error!(%error, "webhook task failed");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
            }
        }
    }
}

/// The handler of `/hooks/{endpoint}`, for any method: which ones are allowed is the database's say.
pub async fn receive<S: WebhookStore>(
    State(intake): State<Arc<Intake<S>>>,
    Path(endpoint): Path<String>,
    request: Request,
) -> Response {
    let begun = std::time::Instant::now();
    let response = intake.take(endpoint, request).await;
    metrics::histogram!("meshhook_sidecar_webhook_seconds").record(begun.elapsed());
    let status = response.status().as_str().to_owned();
    metrics::counter!("meshhook_sidecar_webhook_responses_total", "status" => status).increment(1);
    response
}

/// The database's answer as a response.
fn respond(reply: WebhookReply) -> Response {
    let status = u16::try_from(reply.status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .filter(|status| status.as_u16() >= 200);
    let Some(status) = status else {
        tracing::error!(status = reply.status, "receive_webhook returned an impossible status");
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
    };
    let mut headers = HeaderMap::new();
    if let Some(Value::Object(given)) = reply.headers {
        for (name, value) in given {
            let text = match &value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => continue,
            };
            match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&text)) {
                (Ok(name), Ok(value)) if ![CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) => {
                    headers.insert(name, value);
                }
                _ => tracing::warn!(name, "receive_webhook returned a header that cannot be sent"),
            }
        }
    }
    let type_is_json = headers.get(CONTENT_TYPE).map(|value| value.to_str().is_ok_and(is_json));
    let body = match (reply.body, type_is_json) {
        (None | Some(Value::Null), _) => Body::empty(),
        // A challenge is echoed as plain text.
        (Some(Value::String(text)), Some(false)) => Body::from(text),
        (Some(value), given) => {
            if given.is_none() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            Body::from(value.to_string())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// An error of our own, in the shape of the database's.
pub fn refuse(status: StatusCode, error: &str) -> Response {
    json_response(status, &json!({"error": error}))
}

/// A JSON response.
pub fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer to what may be taken a moment later.
pub(crate) fn busy(error: &str) -> Response {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, error);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    response
}

/// What is left of the request is not read, so the connection cannot serve another.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(status: i32, headers: Option<Value>, body: Option<Value>) -> (u16, HeaderMap, String) {
        let response = respond(WebhookReply { status, headers, body, wait: None });
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn answers() {
        let (status, headers, body) = of(202, None, Some(json!({"run_id": "x"}))).await;
        assert_eq!((status, body.as_str()), (202, r#"{"run_id":"x"}"#));
        assert_eq!(headers[CONTENT_TYPE], "application/json");

        let given = json!({"Allow": "POST", "content-length": "3", "x": "a\r\nb", "n": 4, "o": {}});
        let (status, headers, body) = of(405, Some(given), None).await;
        assert_eq!((status, body.as_str()), (405, ""));
        assert_eq!(headers["allow"], "POST");
        assert_eq!(headers["n"], "4");
        assert_eq!(headers.len(), 2);

        let plain = json!({"content-type": "text/plain"});
        assert_eq!(of(200, Some(plain), Some(json!("echo"))).await.2, "echo");
        assert_eq!(of(200, None, Some(json!("echo"))).await.2, r#""echo""#);
        let (status, headers, body) = of(204, Some(json!({})), Some(Value::Null)).await;
        assert_eq!((status, headers.len(), body.as_str()), (204, 0, ""));
        for impossible in [0, 99, 100, 1000, -1] {
            assert_eq!(of(impossible, None, None).await.0, 500);
        }
    }
}
