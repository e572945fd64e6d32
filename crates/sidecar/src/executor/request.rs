//! From a job's payload to a request that is safe to send.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::limits::HostKey;

/// Used when the payload names no time-out.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// No call may take longer, whatever the payload says.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// No larger body is sent.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// No more headers are sent.
const MAX_HEADERS: usize = 100;

const PRODUCT: &str = concat!("meshhook-sidecar/", env!("CARGO_PKG_VERSION"));
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A checked request.
#[derive(Debug)]
pub struct Prepared {
    /// Ready to send.
    pub request: Request<Full<Bytes>>,
    /// Whose limit it counts against.
    pub host: HostKey,
    /// From dialling to the last byte of the body.
    pub timeout: Duration,
}

/// The payload of an `http` job.
#[derive(Deserialize)]
struct Payload {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    query: Option<serde_json::Map<String, Value>>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Box<RawValue>>,
    #[serde(default)]
    timeout_ms: Option<u64>,
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
    let payload: Payload = serde_json::from_str(payload)
        .map_err(|error| format!("the payload is not that of an http job: {error}"))?;
    let method = method(&payload.method)?;
    let url = url(&payload.url, payload.query.as_ref())?;
    let host = host_key(&url)?;
    let mut headers = headers(payload.headers.as_ref())?;
    let body = body(payload.body.as_deref(), &mut headers)?;
    if let Some(key) = idempotency_key
        && !headers.contains_key(IDEMPOTENCY_KEY)
    {
        let key =
            HeaderValue::from_str(key).map_err(|_| "the idempotency key is not a valid header value")?;
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    let defaults = [
        (USER_AGENT, PRODUCT),
        (ACCEPT, "*/*"),
        // Nothing is decompressed here, so nothing compressed is asked for.
        (ACCEPT_ENCODING, "identity"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    let uri: Uri = url.as_str().parse().map_err(|_| "the url cannot be sent as a request target")?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let timeout = payload
        .timeout_ms
        .map_or(DEFAULT_TIMEOUT, Duration::from_millis)
        .clamp(Duration::from_millis(1), MAX_TIMEOUT);
    Ok(Prepared { request, host, timeout })
}

fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes())
        .map_err(|_| "the method is not a valid HTTP method")?;
    if method == Method::CONNECT {
        return Err("the method CONNECT opens tunnels and is not a call".to_owned());
    }
    Ok(method)
}

fn url(text: &str, query: Option<&serde_json::Map<String, Value>>) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("the url is not valid: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the url must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the url must not hold a user name or password: use an authorization header".to_owned());
    }
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

fn host_key(url: &Url) -> Result<HostKey, String> {
    let host = url.host_str().ok_or("the url names no host")?;
    let port = url.port_or_known_default().ok_or("the url names no port")?;
    Ok(format!("{host}:{port}").into())
}

fn headers(given: Option<&serde_json::Map<String, Value>>) -> Result<HeaderMap, String> {
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
fn scalars(value: &Value) -> Option<Vec<String>> {
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

fn body(given: Option<&RawValue>, headers: &mut HeaderMap) -> Result<Bytes, String> {
    let Some(raw) = given else {
        return Ok(Bytes::new());
    };
    let (body, content_type) = if raw.get().starts_with('"') {
        let text: String = serde_json::from_str(raw.get())
            .map_err(|error| format!("the body is not a valid string: {error}"))?;
        (Bytes::from(text), "text/plain; charset=utf-8")
    } else {
        (Bytes::copy_from_slice(raw.get().as_bytes()), "application/json")
    };
    if body.len() > MAX_REQUEST_BYTES {
        return Err(format!("the body is larger than {MAX_REQUEST_BYTES} bytes"));
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
    Ok(body)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    fn ok(payload: Value) -> Prepared {
        prepare(&payload.to_string(), Some("run/node")).unwrap()
    }

    fn refused(payload: Value) -> String {
        prepare(&payload.to_string(), None).unwrap_err()
    }

    async fn sent(payload: Value) -> (String, String) {
        let request = ok(payload).request;
        let content_type =
            request.headers().get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap()).to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        (String::from_utf8(body.to_vec()).unwrap(), content_type)
    }

    #[tokio::test]
    async fn bodies() {
        let url = "http://h/";
        assert_eq!(sent(json!({"url": url})).await, (String::new(), String::new()));
        assert_eq!(
            sent(json!({"url": url, "body": "hé"})).await,
            ("hé".into(), "text/plain; charset=utf-8".into())
        );
        assert_eq!(
            sent(json!({"url": url, "body": "<a/>", "headers": {"Content-Type": "text/xml"}})).await,
            ("<a/>".into(), "text/xml".into())
        );
        for body in [json!({"a": [1, null]}), json!([]), json!(7), json!(null)] {
            assert_eq!(
                sent(json!({"url": url, "body": body})).await,
                (body.to_string(), "application/json".into())
            );
        }
    }

    #[test]
    fn a_body_keeps_its_numbers_and_any_depth() {
        let deep = format!("{}12345678901234567890.10{}", "[".repeat(5000), "]".repeat(5000));
        let payload = format!(r#"{{"url": "http://h/", "body": {deep}}}"#);
        let prepared = prepare(&payload, None).unwrap();
        assert_eq!(hyper::body::Body::size_hint(prepared.request.body()).exact(), Some(deep.len() as u64));
    }

    #[test]
    fn the_target() {
        let prepared = ok(json!({
            "method": "post",
            "url": "HTTPS://Example.COM/a b?x=1#frag",
            "query": {"q": "ü&=", "n": 5, "t": true, "none": null, "many": ["a", 2]},
        }));
        assert_eq!(prepared.request.method(), Method::POST);
        assert_eq!(
            prepared.request.uri().to_string(),
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
        let headers = prepared.request.headers();
        assert_eq!(headers["x-a"], "1");
        assert_eq!(headers["x-n"], "2");
        assert!(!headers.contains_key("x-none"));
        assert_eq!(headers.get_all("x-many").iter().count(), 2);
        assert_eq!(headers["idempotency-key"], "run/node");
        assert_eq!(headers["accept-encoding"], "identity");
        assert!(headers["user-agent"].to_str().unwrap().starts_with("meshhook-sidecar/"));
        assert!(!format!("{headers:?}").contains("\"1\""));
        let own = ok(json!({"url": "http://h/", "headers": {"Idempotency-Key": "order-7"}}));
        assert_eq!(own.request.headers()["idempotency-key"], "order-7");
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
            assert!(!refused(payload).contains("secret:"));
        }
    }

    #[test]
    fn timeouts_are_bounded() {
        let timeout = |ms: Value| ok(json!({"url": "http://h/", "timeout_ms": ms})).timeout;
        assert_eq!(timeout(json!(1500)), Duration::from_millis(1500));
        assert_eq!(timeout(json!(0)), Duration::from_millis(1));
        assert_eq!(timeout(json!(u64::MAX)), MAX_TIMEOUT);
        assert_eq!(timeout(json!(null)), DEFAULT_TIMEOUT);
    }
}
