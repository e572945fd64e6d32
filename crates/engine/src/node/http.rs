//! `http`: a request the sidecar makes. Here it is rendered and its answer judged; nothing is sent here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::field::{TemplateField, all_references, all_resumes};
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, Problems, pointer};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;

/// `{"type":"http","with":{"method":"POST","url": …,"headers":{…},"query":{…},"body": …}}`
pub(super) static TYPE: NodeType = NodeType { name: "http", work: Work::Job, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["url"],
    "properties": {
        "method": { "enum": ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"], "default": "GET" },
        "url": { "description": "http:// or https://; a template.", "type": "string" },
        "headers": {
            "description": "Templates by name. What frames the message is set by meshhook.",
            "type": "object",
            "propertyNames": { "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" },
            "additionalProperties": { "type": "string" }
        },
        "query": {
            "description": "Templates by name.",
            "type": "object",
            "additionalProperties": { "type": "string" }
        },
        "body": { "description": "Sent as JSON; a template." }
    }
}"##;

/// The queue the sidecar serves.
pub(super) const QUEUE: &str = "http";
/// How long one attempt may take where the definition does not say, in milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
/// The longest one attempt may take, in milliseconds.
const MAX_TIMEOUT_MS: u64 = 300_000;
/// Longest response body kept with an error, in bytes of JSON text.
const MAX_ERROR_BODY_BYTES: usize = 4_096;

const METHODS: [(&str, &str); 7] = [
    ("GET", "GET"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("PATCH", "PATCH"),
    ("DELETE", "DELETE"),
    ("HEAD", "HEAD"),
    ("OPTIONS", "OPTIONS"),
];

/// Headers that frame the message or belong to meshhook; a definition that sets one is refused.
const OWN_HEADERS: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "idempotency-key",
    "user-agent",
];

#[derive(Debug)]
struct Http {
    method: &'static str,
    url: TemplateField,
    headers: Option<TemplateField>,
    query: Option<TemplateField>,
    body: Option<TemplateField>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let method = with.word("method", &METHODS, problems).unwrap_or("GET");
    with.required("url", problems);
    let literal = with.string("url", problems);
    let url = TemplateField::sent(with, "url", problems);
    if let (Some(text), Some(url)) = (literal, &url)
        && url.as_const().is_some()
        && !is_http_url(text)
    {
        problems.add(with.at("url"), "url", "the URL must begin with http:// or https:// and name a host");
    }
    let headers = strings(with, "headers", problems);
    if let Some(names) = with.get("headers").and_then(Json::as_obj) {
        for name in names.keys() {
            check_header_name(name, &with.at("headers"), problems);
        }
    }
    let query = strings(with, "query", problems);
    let body = TemplateField::sent(with, "body", problems);
    Some(Box::new(Http { method, url: url?, headers, query, body }))
}

/// An object of strings that may hold holes.
fn strings(with: &mut Fields, key: &'static str, problems: &mut Problems) -> Option<TemplateField> {
    let value = with.get(key)?;
    let Some(entries) = value.as_obj() else {
        problems.add(with.at(key), "type", format!("\"{key}\" must be an object of strings"));
        return None;
    };
    for (name, _) in entries.iter().filter(|(_, value)| value.as_str().is_none()) {
        problems.add(pointer(&with.at(key), name), "type", "must be a string");
    }
    TemplateField::sent(with, key, problems)
}

fn check_header_name(name: &str, at: &str, problems: &mut Problems) {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        problems.add(pointer(at, name), "header", "this is not a header name (RFC 9110 token)");
    }
    let lower = name.to_ascii_lowercase();
    if OWN_HEADERS.contains(&&*lower) || lower.starts_with("proxy-") {
        problems.add(pointer(at, name), "header", format!("header \"{lower}\" is set by meshhook itself"));
    }
}

fn is_http_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        !host.is_empty()
            && !host.contains('@')
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

impl Http {
    fn fields(&self) -> impl Iterator<Item = &TemplateField> {
        [&self.url].into_iter().chain(&self.headers).chain(&self.query).chain(&self.body)
    }
}

impl Node for Http {
    fn references(&self) -> Vec<Reference> {
        all_references(self.fields())
    }

    fn resumes(&self) -> Vec<(String, &str)> {
        all_resumes(self.fields())
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let url = self.url.render(context, &mut budget)?;
        let url = url.as_str().filter(|url| is_http_url(url)).ok_or_else(|| {
            let message = "the rendered URL does not begin with http:// or https:// and name a host";
            ErrorInfo::new("http.url", message).retryable(false)
        })?;
        let timeout_ms = context.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        let mut request: BTreeMap<Arc<str>, Json> = BTreeMap::new();
        request.insert("method".into(), Json::from(self.method));
        request.insert("url".into(), Json::from(url));
        request.insert("timeout_ms".into(), Json::from(i64::try_from(timeout_ms).unwrap_or(i64::MAX)));
        for field in self.headers.iter().chain(&self.query) {
            let rendered = field.render(context, &mut budget)?;
            request.insert(field.name().into(), texts(rendered, field.name())?);
        }
        if let Some(body) = &self.body {
            request.insert("body".into(), body.render(context, &mut budget)?);
        }
        let input = Json::Obj(Arc::new(request));
        Ok(Action::Job { queue: Arc::from(QUEUE), input, timeout_ms: None })
    }

    fn longest_attempt_ms(&self) -> Option<u64> {
        Some(MAX_TIMEOUT_MS)
    }

    /// Success is a status from 200 to 299. Any answer of the peer is an output first: the sidecar
    /// reports, this rule judges.
    fn judge(&self, output: &Json) -> Result<(), ErrorInfo> {
        let status = output.get("status").and_then(Json::as_i64).and_then(|n| u16::try_from(n).ok());
        let Some(status) = status else {
            return Err(ErrorInfo::new("http.protocol", "the executor reported an answer without a status"));
        };
        if (200..300).contains(&status) {
            return Ok(());
        }
        let mut error = ErrorInfo::new("http.status", format!("the server answered {status}"));
        error.status = Some(status);
        error.retryable = Some(is_retryable(status));
        error.retry_after_ms =
            output.get("retry_after_ms").and_then(Json::as_i64).and_then(|n| u64::try_from(n).ok());
        error.details = output.get("body").map(kept_body);
        Err(error)
    }
}

/// Header and query values are texts on the wire: scalars are written out, anything else is refused.
pub(super) fn texts(rendered: Json, name: &str) -> Result<Json, ErrorInfo> {
    let Json::Obj(entries) = &rendered else { return Ok(rendered) };
    let mut texts = BTreeMap::new();
    for (key, value) in entries.iter() {
        let text = match value {
            Json::Str(text) => text.to_string(),
            Json::Num(_) | Json::Bool(_) => value.to_string(),
            _ => {
                let message = format!("\"{key}\" in \"{name}\" is neither a string, a number nor a boolean");
                return Err(ErrorInfo::new("http.value", message).retryable(false));
            }
        };
        if text.contains(['\r', '\n', '\0']) {
            let message = format!("\"{key}\" in \"{name}\" has a line break or NUL in it");
            return Err(ErrorInfo::new("http.value", message).retryable(false));
        }
        texts.insert(Arc::clone(key), Json::from(text));
    }
    Ok(Json::Obj(Arc::new(texts)))
}

/// 408, 425, 429 and the server's own troubles pass; what the client did wrong stays wrong.
fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..=524)
}

fn kept_body(body: &Json) -> Json {
    let text = body.to_string();
    if text.len() <= MAX_ERROR_BODY_BYTES {
        return body.clone();
    }
    let cut = (0..=MAX_ERROR_BODY_BYTES).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
    Json::object([("truncated", Json::Bool(true)), ("text", Json::from(&text[..cut]))])
}
