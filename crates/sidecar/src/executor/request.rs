//! From a job's payload to a request that is safe to send.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Url;

use super::auth::{self, Auth};
use super::body::{Blobs, Encoded, Given, Part, Reference};
use super::decode;
use super::limits::HostKey;
use super::pages::Pages;
use super::redirect::Hop;
use super::response::Form;
use crate::secrets::redact::Redactor;

/// Used when the payload names no time-out.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// No call may take longer, whatever the payload says.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// No more headers are sent.
const MAX_HEADERS: usize = 100;
/// No more redirects are followed.
const MAX_REDIRECTS: u8 = 5;

/// What we call ourselves.
pub const PRODUCT: &str = concat!("meshhook-sidecar/", env!("CARGO_PKG_VERSION"));
/// The same over all attempts.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A checked request.
#[derive(Debug)]
pub struct Prepared {
    /// Ready to send.
    pub first: Hop,
    /// Whose limit it counts against.
    pub host: HostKey,
    /// From dialling to the last byte of the body.
    pub timeout: Duration,
    /// From dialling to the end of the response's header; each redirect has as long.
    pub first_byte: Duration,
    /// How many redirects are followed.
    pub redirects: u8,
    /// What becomes of the response's body.
    pub form: Form,
    /// What proves who calls, beyond the headers.
    pub auth: Auth,
    /// How a list is followed over its pages.
    pub pages: Option<Pages>,
    /// The body, if it refers to blobs that are still to be fetched.
    body: Option<Given>,
    /// What must not come back with the response.
    pub redactor: Redactor,
}

/// The payload of an `http` job.
#[derive(Deserialize)]
struct Payload {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    query: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Box<RawValue>>,
    #[serde(default)]
    form: Option<Map<String, Value>>,
    #[serde(default)]
    multipart: Option<Vec<Part>>,
    #[serde(default)]
    body_base64: Option<String>,
    body_blob: Option<Reference>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    first_byte_timeout_ms: Option<u64>,
    #[serde(default)]
    redirects: u8,
    #[serde(default)]
    response: Form,
    auth: Option<auth::Given>,
    pages: Option<Pages>,
}

fn get() -> String {
    "GET".to_owned()
}

/// `null` is a body, too; only an absent member is none.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

/// Reads and checks a payload. The error text says what is wrong without quoting values, which may
/// be secret.
///
/// # Errors
/// Anything that cannot or must not be sent.
pub fn prepare(payload: &str, idempotency_key: Option<&str>) -> Result<Prepared, String> {
    // What serde says of a member that is wrong quotes it.
    let payload: Payload = serde_json::from_str(payload).map_err(|error| {
        format!("the payload is not that of an http job (at character {})", error.column())
    })?;
    let method = method(&payload.method)?;
    let url = url(&payload.url, payload.query.as_ref())?;
    let host = host_key(&url)?;
    let mut headers = headers(payload.headers.as_ref())?;
    let given = Given {
        body: payload.body,
        form: payload.form,
        multipart: payload.multipart,
        body_base64: payload.body_base64,
        body_blob: payload.body_blob,
    };
    let is_whole = given.blobs().is_empty();
    let body = if is_whole { given.encode(&Blobs::new())? } else { Encoded::default() };
    if let Some(content_type) = body.content_type {
        headers.entry(CONTENT_TYPE).or_insert(content_type);
    }
    if let Some(key) = idempotency_key
        && !headers.contains_key(IDEMPOTENCY_KEY)
    {
        let key =
            HeaderValue::from_str(key).map_err(|_| "the idempotency key is not a valid header value")?;
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    let auth = payload.auth.map(|auth| auth.prepare(&mut headers, idempotency_key)).transpose()?;
    let defaults = [
        (USER_AGENT, HeaderValue::from_static(PRODUCT)),
        (ACCEPT, HeaderValue::from_static("*/*")),
        (ACCEPT_ENCODING, decode::ACCEPTED),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(value);
    }
    let first = Hop { method, url, headers, body: body.bytes };
    first.request()?;
    let limit = |given: Option<u64>, default| {
        given.map_or(default, Duration::from_millis).clamp(Duration::from_millis(1), MAX_TIMEOUT)
    };
    let timeout = limit(payload.timeout_ms, DEFAULT_TIMEOUT);
    Ok(Prepared {
        first,
        host,
        timeout,
        first_byte: limit(payload.first_byte_timeout_ms, timeout),
        redirects: payload.redirects.min(MAX_REDIRECTS),
        form: payload.response,
        auth: auth.unwrap_or_default(),
        pages: payload.pages,
        body: (!is_whole).then_some(given),
        redactor: Redactor::default(),
    })
}

impl Prepared {
    /// The blobs that have to be fetched before it can be sent.
    pub fn blobs(&self) -> BTreeSet<&str> {
        self.body.as_ref().map(Given::blobs).unwrap_or_default()
    }

    /// Puts its body together from the blobs that it refers to.
    ///
    /// # Errors
    /// When it cannot be sent; no value is quoted.
    pub fn fill(&mut self, blobs: &Blobs) -> Result<(), String> {
        let Some(given) = self.body.take() else { return Ok(()) };
        let body = given.encode(blobs)?;
        self.first.body = body.bytes;
        if let Some(content_type) = body.content_type {
            self.first.headers.entry(CONTENT_TYPE).or_insert(content_type);
        }
        Ok(())
    }

    /// Tells the called service which run it serves (W3C Trace Context): the trace is the run, the span this attempt.
    pub fn trace(&mut self, run_id: &str) {
        let trace: String = run_id.chars().filter(char::is_ascii_hexdigit).collect();
        let span = fastrand::u64(1..);
        let value = HeaderValue::from_str(&format!("00-{trace}-{span:016x}-01"));
        if let (32, Ok(value)) = (trace.len(), value) {
            self.first.headers.entry(TRACEPARENT).or_insert(value);
        }
    }
}

fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes())
        .map_err(|_| "the method is not a valid HTTP method")?;
    if method == Method::CONNECT {
        return Err("the method CONNECT opens tunnels and is not a call".to_owned());
    }
    Ok(method)
}

fn url(text: &str, query: Option<&Map<String, Value>>) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("the url is not valid: {error}"))?;
    check_url(&url)?;
    url.set_fragment(None);
    let mut pairs = Vec::new();
    for (name, value) in query.into_iter().flatten() {
        for value in
            scalars(value).ok_or_else(|| format!("query parameter {name:?} must not be an object"))?
        {
            pairs.push((name, value));
        }
    }
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    Ok(url)
}

/// Refuses what is no address for a call.
///
/// # Errors
/// When it is of another scheme than HTTP's, or holds credentials.
pub fn check_url(url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the url must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the url must not hold a user name or password: use an authorization header".to_owned());
    }
    Ok(())
}

fn host_key(url: &Url) -> Result<HostKey, String> {
    let host = url.host_str().ok_or("the url names no host")?.trim_end_matches('.');
    let port = url.port_or_known_default().ok_or("the url names no port")?;
    Ok(format!("{host}:{port}").into())
}

fn headers(given: Option<&Map<String, Value>>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in given.into_iter().flatten() {
        // Names are shown escaped: they may hold anything.
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not a valid header name"))?;
        if is_framing(&parsed) {
            return Err(format!("header {name:?} is set by the sidecar and cannot be given"));
        }
        let values = scalars(value).ok_or_else(|| format!("header {name:?} must not be an object"))?;
        for value in values {
            let mut value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| {
                format!("the value of header {name:?} holds a character that headers cannot carry")
            })?;
            // Kept out of logs and of compression tables.
            value.set_sensitive(true);
            headers.append(parsed.clone(), value);
            if headers.len() > MAX_HEADERS {
                return Err(format!("more than {MAX_HEADERS} headers"));
            }
        }
    }
    Ok(headers)
}

/// Headers that decide where a message ends or which connection it travels on.
fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
            | "http2-settings"
    ) || name.as_str().starts_with("proxy-")
}

/// A scalar as text, an array of scalars as several; null is "not given".
pub fn scalars(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(Some(text.clone())),
        Value::Number(number) => Some(Some(number.to_string())),
        Value::Bool(flag) => Some(Some(flag.to_string())),
        Value::Null => Some(None),
        Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Array(items) => items
            .iter()
            .map(one)
            .collect::<Option<Vec<_>>>()
            .map(|items| items.into_iter().flatten().collect()),
        other => one(other).map(|text| text.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ok(payload: Value) -> Prepared {
        prepare(&payload.to_string(), Some("run/node")).unwrap()
    }

    fn refused(payload: Value) -> String {
        prepare(&payload.to_string(), None).unwrap_err()
    }

    #[test]
    fn a_body_keeps_its_numbers_and_any_depth() {
        let deep = format!("{}12345678901234567890.10{}", "[".repeat(5000), "]".repeat(5000));
        let payload = format!(r#"{{"url": "http://h/", "body": {deep}}}"#);
        let prepared = prepare(&payload, None).unwrap();
        assert_eq!(prepared.first.body, deep);
    }

    #[test]
    fn the_target() {
        let prepared = ok(json!({
            "method": "post",
            "url": "HTTPS://Example.COM/a b?x=1#frag",
            "query": {"q": "ü&=", "n": 5, "t": true, "none": null, "many": ["a", 2]},
        }));
        assert_eq!(prepared.first.method, Method::POST);
        assert_eq!(
            prepared.first.url.as_str(),
            "https://example.com/a%20b?x=1&many=a&many=2&n=5&q=%C3%BC%26%3D&t=true"
        );
        assert_eq!(&*prepared.host, "example.com:443");
        assert_eq!(&*ok(json!({"url": "http://[::1]:8080"})).host, "[::1]:8080");
    }

    #[test]
    fn headers_sent() {
        let prepared = ok(
            json!({"url": "http://h/", "headers": {"X-A": "1", "X-N": 2, "X-None": null, "X-Many": ["a", "b"]}}),
        );
        let headers = &prepared.first.headers;
        assert_eq!(headers["x-a"], "1");
        assert_eq!(headers["x-n"], "2");
        assert!(!headers.contains_key("x-none"));
        assert_eq!(headers.get_all("x-many").iter().count(), 2);
        assert_eq!(headers["idempotency-key"], "run/node");
        assert_eq!(headers["accept-encoding"], "gzip, br, zstd");
        assert!(headers["user-agent"].to_str().unwrap().starts_with("meshhook-sidecar/"));
        assert!(!format!("{headers:?}").contains("\"1\""));
        let own = ok(json!({"url": "http://h/", "headers": {"Idempotency-Key": "order-7"}}));
        assert_eq!(own.first.headers["idempotency-key"], "order-7");
    }

    #[test]
    fn header_injection_is_impossible() {
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "connection",
            "keep-alive",
            "TE",
            "trailer",
            "upgrade",
            "Expect",
            "proxy-authorization",
            "Proxy-Connection",
            "",
            "a b",
            "x\r\ny",
            "x:y",
            "é",
        ] {
            let error = refused(json!({"url": "http://h/", "headers": {name: "v"}}));
            assert!(error.contains("header"), "{name:?}: {error}");
        }
        for value in ["a\r\nx: y", "a\nb", "a\0b", "\u{7f}"] {
            let error = refused(json!({"url": "http://h/", "headers": {"x": value}}));
            assert!(error.contains("character"), "{value:?}: {error}");
        }
        assert!(prepare(r#"{"url":"http://h/"}"#, Some("a\r\nb: c")).is_err());
    }

    #[test]
    fn what_cannot_be_sent() {
        for payload in [
            json!({}),
            json!({"url": ""}),
            json!({"url": "/relative"}),
            json!({"url": "ftp://h/"}),
            json!({"url": "file:///etc/passwd"}),
            json!({"url": "http://"}),
            json!({"url": "http://u:secret@h/"}),
            json!({"url": "http://h/", "method": "GE T"}),
            json!({"url": "http://h/", "method": "CONNECT"}),
            json!({"url": "http://h/", "timeout_ms": -1}),
            json!({"url": "http://h/", "query": {"a": {"secret": 1}}}),
            json!({"url": "http://h/", "headers": {"a": {"secret": 1}}}),
            json!({"url": "http://h/", "headers": "secret"}),
            json!(["secret"]),
        ] {
            assert!(!refused(payload).contains("secret"));
        }
    }

    #[test]
    fn timeouts_are_bounded() {
        let timeout = |ms: Value| ok(json!({"url": "http://h/", "timeout_ms": ms})).timeout;
        assert_eq!(timeout(json!(1500)), Duration::from_millis(1500));
        assert_eq!(timeout(json!(0)), Duration::from_millis(1));
        assert_eq!(timeout(json!(u64::MAX)), MAX_TIMEOUT);
        assert_eq!(timeout(json!(null)), DEFAULT_TIMEOUT);
        let both = ok(json!({"url": "http://h/", "timeout_ms": 9000, "first_byte_timeout_ms": 400}));
        assert_eq!((both.timeout, both.first_byte), (Duration::from_secs(9), Duration::from_millis(400)));
        assert_eq!(ok(json!({"url": "http://h/", "timeout_ms": 9000})).first_byte, Duration::from_secs(9));
    }

    #[test]
    fn the_run_is_the_trace() {
        let mut prepared = ok(json!({"url": "http://h/"}));
        prepared.trace("0199c0de-1234-7abc-8def-0123456789ab");
        let value = prepared.first.headers["traceparent"].to_str().unwrap().to_owned();
        let parts: Vec<_> = value.split('-').collect();
        assert_eq!(
            (parts[0], parts[1], parts[2].len(), parts[3]),
            ("00", "0199c0de12347abc8def0123456789ab", 16, "01")
        );
        prepared.trace("another");
        let mut own = ok(json!({"url": "http://h/", "headers": {"traceparent": "mine"}}));
        own.trace("0199c0de-1234-7abc-8def-0123456789ab");
        assert_eq!(own.first.headers["traceparent"], "mine");
    }
}
