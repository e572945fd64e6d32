//! From a response to the output of a job, in a form that `jsonb` cannot refuse.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::secrets::redact::Redactor;

/// JSON nested deeper than this is passed on as base64. The database and its engine read JSON up to
/// a depth of 128, and the body lies a few levels down in an event.
const MAX_DEPTH: usize = 100;
/// Largest body that stands in a log: what the engine keeps there of requests, too.
const MAX_INLINE_BYTES: usize = 64 << 10;

/// What a response's body becomes in the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// JSON if it says it is, else text, else base64; a blob if it is too large for a log.
    #[default]
    Auto,
    /// The same, but however large it is.
    Inline,
    /// A blob, whatever it is.
    Blob,
    /// Text, else base64.
    Text,
    /// Base64, whatever it is.
    Base64,
}

impl Form {
    /// Whether a body of so many bytes is kept beside the log.
    pub fn is_blob(self, bytes: usize) -> bool {
        match self {
            Self::Auto => bytes > MAX_INLINE_BYTES,
            Self::Blob => true,
            Self::Inline | Self::Text | Self::Base64 => false,
        }
    }
}

/// A body that the database is to keep beside the log.
#[derive(Debug)]
pub struct Kept {
    /// The body, with no secret in it.
    pub bytes: Vec<u8>,
    /// What it is, if the server says so.
    pub content_type: Option<String>,
}

impl Kept {
    /// Strikes secrets out of the strings of a body that is JSON, in which they may be spelled in many ways, and out of the
    /// content type.
    pub fn strike_out(&mut self, redactor: &Redactor) {
        let Some(content_type) = &mut self.content_type else { return };
        if is_json(content_type)
            && let Ok(value) = serde_json::from_slice::<Value>(&self.bytes)
        {
            let mut struck_out = value.clone();
            redactor.value(&mut struck_out);
            if struck_out != value {
                self.bytes = struck_out.to_string().into_bytes();
            }
        }
        *content_type = redactor.text(content_type);
    }

    /// What the output has in its place once it is kept.
    pub fn reference(&self, sha256: &str) -> Value {
        let mut reference = json!({"sha256": sha256, "size": self.bytes.len()});
        if let Some(content_type) = &self.content_type {
            reference["content_type"] = json!(content_type);
        }
        reference
    }
}

/// Takes the body out of an output whose body is JSON, if it is to be kept beside the log.
pub fn take_json(output: &mut Value, form: Form) -> Option<Kept> {
    let bytes = output["body"].to_string().into_bytes();
    if !form.is_blob(bytes.len()) {
        return None;
    }
    output["body"] = Value::Null;
    Some(Kept { bytes, content_type: Some("application/json".to_owned()) })
}

/// The output of an `http` job for any response at all, whatever its status; and its body, where that is to be kept beside
/// the log.
pub fn output(
    status: u16,
    headers: &HeaderMap,
    body: Vec<u8>,
    form: Form,
    took: Duration,
) -> (Value, Option<Kept>) {
    let mut out = Map::new();
    let mut kept = None;
    let (body, encoding) = if form.is_blob(body.len()) {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        kept = Some(Kept { bytes: body, content_type: content_type.map(str::to_owned) });
        (Value::Null, None)
    } else {
        match form {
            Form::Auto | Form::Inline | Form::Blob => represent(body, says_json(headers)),
            Form::Text => represent(body, false),
            Form::Base64 => base64(&body),
        }
    };
    out.insert("status".to_owned(), json!(status));
    out.insert("headers".to_owned(), header_object(headers));
    out.insert("body".to_owned(), body);
    if let Some(encoding) = encoding {
        out.insert("body_encoding".to_owned(), json!(encoding));
    }
    out.insert("duration_ms".to_owned(), json!(millis(took)));
    if let Some(wait) = retry_after(headers, SystemTime::now()) {
        out.insert("retry_after_ms".to_owned(), json!(millis(wait)));
    }
    (Value::Object(out), kept)
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Headers as an object of strings: lower-case names, repeated ones joined by `", "`, bytes beyond
/// ASCII read as Latin-1 (which is what HTTP says they are).
pub fn header_object(headers: &HeaderMap) -> Value {
    let mut out = Map::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let mut joined = String::new();
        for (i, value) in headers.get_all(name).iter().enumerate() {
            if i > 0 {
                joined.push_str(", ");
            }
            match value.to_str() {
                Ok(text) => joined.push_str(text),
                Err(_) => joined.extend(value.as_bytes().iter().map(|&byte| char::from(byte))),
            }
        }
        out.insert(name.as_str().to_owned(), Value::String(joined));
    }
    Value::Object(out)
}

/// `application/json`, `text/json` and anything `+json`, with or without parameters.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// What a body is in the output of a job where it stands there.
pub fn json(headers: &HeaderMap, body: Vec<u8>) -> Value {
    represent(body, says_json(headers)).0
}

fn says_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json)
}

/// The body as JSON if it says it is and can be stored, else as text, else as base64.
fn represent(body: Vec<u8>, is_json: bool) -> (Value, Option<&'static str>) {
    if is_json {
        let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body.as_slice());
        if text.iter().all(u8::is_ascii_whitespace) {
            return (Value::Null, None);
        }
        if depth(text) > MAX_DEPTH {
            return base64(&body);
        }
        match serde_json::from_slice(text) {
            Ok(value) if holds_nul(&value) => return base64(&body),
            Ok(value) => return (value, None),
            // Not JSON after all: the text itself is what helps.
            Err(_) => {}
        }
    }
    if body.contains(&0) {
        return base64(&body);
    }
    match String::from_utf8(body) {
        Ok(text) => (Value::String(text), None),
        Err(error) => base64(error.as_bytes()),
    }
}

fn base64(body: &[u8]) -> (Value, Option<&'static str>) {
    (Value::String(STANDARD.encode(body)), Some("base64"))
}

/// How deep arrays and objects nest, at most; right for valid JSON, some number for anything else.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut in_string = false;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => {
                bytes.next();
            }
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// `jsonb` has no U+0000. Recursion is bounded by [`MAX_DEPTH`].
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Reads `Retry-After`: seconds (decimals, too) or a date, which is compared with the response's own
/// `Date` if it has one, so that clocks need not agree. The engine caps it.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Duration::try_from_secs_f64(text.parse().ok()?).ok();
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let from =
        headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok()).unwrap_or(now);
    Some(at.duration_since(from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(content_type: &str, body: &[u8]) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        let (mut out, kept) = output(200, &headers, body.to_vec(), Form::Auto, Duration::from_millis(12));
        assert!(kept.is_none());
        assert_eq!(out["duration_ms"], 12);
        out.as_object_mut().unwrap().remove("headers");
        out.as_object_mut().unwrap().remove("duration_ms");
        out
    }

    #[test]
    fn json_text_and_bytes() {
        assert_eq!(of("application/json", br#" {"a":1} "#), json!({"status": 200, "body": {"a": 1}}));
        assert_eq!(of("application/problem+json; charset=utf-8", b"[]"), json!({"status": 200, "body": []}));
        assert_eq!(of("application/json", b"\xef\xbb\xbf7"), json!({"status": 200, "body": 7}));
        assert_eq!(of("application/json", b""), json!({"status": 200, "body": null}));
        assert_eq!(of("text/html", b""), json!({"status": 200, "body": ""}));
        assert_eq!(of("application/json", b"{oops"), json!({"status": 200, "body": "{oops"}));
        assert_eq!(of("text/plain", "grün".as_bytes()), json!({"status": 200, "body": "grün"}));
        assert_eq!(
            of("image/png", &[0x89, 0x50]),
            json!({"status": 200, "body": "iVA=", "body_encoding": "base64"})
        );
    }

    #[test]
    fn what_jsonb_refuses_comes_as_base64() {
        let deep = "[".repeat(101) + &"]".repeat(101);
        let hazards: [(&str, &[u8]); 5] = [
            ("application/json", br#"{"a":"x\u0000y"}"#),
            ("application/json", br#"{"x\u0000y":1}"#),
            ("application/json", deep.as_bytes()),
            ("text/plain", b"a\0b"),
            ("text/plain", b"\xff"),
        ];
        for (content_type, body) in hazards {
            let out = of(content_type, body);
            assert_eq!(out["body_encoding"], "base64", "{content_type}");
            assert_eq!(STANDARD.decode(out["body"].as_str().unwrap()).unwrap(), body);
        }
        // Lone surrogates and numbers beyond range are not JSON to us: they come as text.
        for text in [r#""\ud800""#, "1e400"] {
            assert_eq!(of("application/json", text.as_bytes())["body"], text);
        }
        let shallow = format!(r#"{}"\"[[[["{}"#, "[".repeat(100), "]".repeat(100));
        assert!(of("application/json", shallow.as_bytes())["body"].is_array());
    }

    #[test]
    fn what_is_too_large_for_a_log_is_kept_beside_it() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv"));
        for (form, bytes, is_kept) in [
            (Form::Auto, MAX_INLINE_BYTES, false),
            (Form::Auto, MAX_INLINE_BYTES + 1, true),
            (Form::Inline, MAX_INLINE_BYTES + 1, false),
            (Form::Text, MAX_INLINE_BYTES + 1, false),
            (Form::Base64, MAX_INLINE_BYTES + 1, false),
            (Form::Blob, 1, true),
        ] {
            let (out, kept) = output(200, &headers, vec![b'x'; bytes], form, Duration::ZERO);
            assert_eq!((kept.is_some(), out["body"].is_null()), (is_kept, is_kept), "{form:?} {bytes}");
            if let Some(kept) = kept {
                assert_eq!(
                    kept.reference("ab"),
                    json!({"sha256": "ab", "size": bytes, "content_type": "text/csv"})
                );
            }
        }
        let mut redactor = Redactor::default();
        redactor.also("key", "ab/cdé");
        let escaped = br#"{"n":1,"echo":"ab\/cd\u00e9"}"#;
        let mut kept = Kept { bytes: escaped.to_vec(), content_type: Some("application/json".to_owned()) };
        kept.strike_out(&redactor);
        assert_eq!(String::from_utf8(kept.bytes).unwrap(), r#"{"echo":"[secret key]","n":1}"#);
        let mut list = json!({"body": [1, 2]});
        assert!(take_json(&mut list, Form::Auto).is_none());
        assert_eq!(take_json(&mut list, Form::Blob).unwrap().bytes, b"[1,2]");
        assert_eq!(list, json!({"body": null}));
    }

    #[test]
    fn headers_are_lower_case_and_joined() {
        let mut headers = HeaderMap::new();
        headers.append("Set-Cookie", HeaderValue::from_static("a=1"));
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        headers.append("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        assert_eq!(header_object(&headers), json!({"set-cookie": "a=1, b=2", "x-latin": "café"}));
    }

    #[test]
    fn retry_after_forms() {
        let at = |value: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_str(date).unwrap());
            }
            retry_after(&headers, SystemTime::UNIX_EPOCH).map(millis)
        };
        assert_eq!(at("120", None), Some(120_000));
        assert_eq!(at(" 1.5 ", None), Some(1500));
        assert_eq!(at("Thu, 01 Jan 1970 00:00:10 GMT", None), Some(10_000));
        let date = Some("Thu, 01 Jan 1970 00:00:07 GMT");
        assert_eq!(at("Thu, 01 Jan 1970 00:00:10 GMT", date), Some(3000));
        assert_eq!(at("Thu, 01 Jan 1970 00:00:05 GMT", date), Some(0));
        for bad in ["-5", "soon", "inf", "1e999", "9e30", ""] {
            assert_eq!(at(bad, None), None, "{bad:?}");
        }
    }
}
