//! `http`: a request the sidecar makes. Here it is rendered and its answer judged; nothing is sent here.

mod auth;
mod pages;
mod success;

use std::collections::BTreeMap;
use std::sync::Arc;

use success::Success;

use super::field::{TemplateField, all_references, all_resumes};
use super::{Action, Context, Node, NodeType, Reference, Work, located};
use crate::blob::{self, Blob};
use crate::definition::{Fields, Problems, pointer};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;
use crate::template::{Part, Rendered};

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
        "body": { "description": "A string is sent as text, anything else as JSON; a template." },
        "form": {
            "description": "Sent as application/x-www-form-urlencoded, instead of body; templates by name.",
            "type": "object",
            "additionalProperties": { "type": "string" }
        },
        "multipart": {
            "description": "Sent as multipart/form-data, instead of body; templates.",
            "type": "array",
            "minItems": 1,
            "maxItems": 100,
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string" },
                    "value": { "description": "A string is sent as it is, anything else as JSON." },
                    "base64": { "description": "Bytes, instead of value.", "type": "string" },
                    "blob": { "description": "A reference to a blob, instead of value." },
                    "filename": { "type": "string" },
                    "content_type": { "type": "string" }
                },
                "additionalProperties": false
            }
        },
        "body_base64": { "description": "Bytes as base64, instead of body; a template.", "type": "string" },
        "body_blob": { "description": "A reference to a blob, whose bytes are sent; instead of body. A template." },
        "auth": {
            "description": "How the call proves who makes it; templates. One of these.",
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {
                "basic": {
                    "type": "object",
                    "required": ["username", "password"],
                    "properties": { "username": { "type": "string" }, "password": { "type": "string" } },
                    "additionalProperties": false
                },
                "bearer": { "type": "string" },
                "hmac": {
                    "description": "A signature as a scheme of an endpoint's own describes it.",
                    "type": "object",
                    "required": ["header"],
                    "properties": {
                        "secret": { "type": "string" },
                        "secret_name": { "description": "The name of the secret, instead of secret.", "type": "string" },
                        "header": { "type": "string" },
                        "algorithm": { "enum": ["sha256", "sha512", "sha1"], "default": "sha256" },
                        "encoding": { "enum": ["hex", "base64"], "default": "hex" },
                        "prefix": { "type": "string" },
                        "pairs": { "type": "object" },
                        "signed": { "type": "string", "default": "{body}" },
                        "timestamp_header": { "type": "string" },
                        "id_header": { "type": "string" },
                        "key": { "enum": ["text", "base64", "hex", "whsec"], "default": "text" }
                    },
                    "additionalProperties": false
                },
                "standard_webhooks": {
                    "description": "webhook-id, webhook-timestamp and webhook-signature, with every whsec_ key of the secret.",
                    "type": "object",
                    "properties": {
                        "secret": { "type": "string" },
                        "secret_name": { "description": "The name of the secret, instead of secret.", "type": "string" }
                    },
                    "additionalProperties": false
                },
                "oauth2": {
                    "description": "Client credentials; the token is kept until it expires.",
                    "type": "object",
                    "required": ["token_url", "client_id", "client_secret"],
                    "properties": {
                        "token_url": { "type": "string" },
                        "client_id": { "type": "string" },
                        "client_secret": { "type": "string" },
                        "scope": { "type": "string" },
                        "audience": { "type": "string" },
                        "credentials": { "description": "Where they stand in the request for a token.", "enum": ["basic", "body"], "default": "basic" }
                    },
                    "additionalProperties": false
                }
            },
            "additionalProperties": false
        },
        "pages": {
            "description": "Follows a list over its pages; the output's body is the items of all of them.",
            "type": "object",
            "required": ["by"],
            "properties": {
                "by": {
                    "description": "Where the next page is told of: the Link header, a URL or a cursor in the body, or nowhere: pages have numbers.",
                    "enum": ["link", "url", "cursor", "page"]
                },
                "at": { "description": "JSON pointer to the URL or cursor.", "type": "string" },
                "query": { "description": "The query parameter that takes the cursor or the number.", "type": "string", "minLength": 1 },
                "first": { "description": "The number of the first page.", "enum": [0, 1], "default": 1 },
                "items": { "description": "JSON pointer to the list in a page.", "type": "string", "default": "" },
                "limit": { "description": "Most pages.", "type": "integer", "minimum": 1, "maximum": 1000, "default": 20 },
                "partial": { "description": "Whether a list of more pages succeeds with the first ones.", "type": "boolean", "default": false }
            },
            "additionalProperties": false
        },
        "first_byte_timeout": {
            "description": "How long the response may take to begin; the node's timeout covers all of it.",
            "$ref": "#/$defs/duration"
        },
        "redirects": {
            "description": "How many redirects are followed. Another server gets no header of the node but those that describe content.",
            "type": "integer", "minimum": 0, "maximum": 5, "default": 0
        },
        "response": {
            "description": "The response's body in the output: JSON where it says so, else text, else base64, and where it has more than 64 KiB a reference to a blob; inline is the same however large it is; or always one of the others.",
            "enum": ["auto", "inline", "text", "base64", "blob"], "default": "auto"
        },
        "success": {
            "description": "Which responses succeed: statuses, or an expression over .status, .headers and .body.",
            "default": ["2xx"],
            "anyOf": [
                { "$ref": "#/$defs/expression" },
                {
                    "type": "array", "minItems": 1,
                    "items": { "anyOf": [{ "type": "integer", "minimum": 100, "maximum": 599 }, { "pattern": "^[1-5]xx$" }] }
                }
            ]
        }
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

/// Most redirects that are followed.
const MAX_REDIRECTS: i64 = 5;
/// Most parts of a multipart body.
const MAX_PARTS: usize = 100;
/// The forms a body is given in.
const BODIES: [&str; 5] = ["body", "form", "multipart", "body_base64", "body_blob"];
/// What becomes of a response's body.
const RESPONSES: [(&str, &str); 5] =
    [("auto", "auto"), ("inline", "inline"), ("blob", "blob"), ("text", "text"), ("base64", "base64")];

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
    /// The body in one of its forms, whose name is the field's.
    body: Option<TemplateField>,
    auth: Option<TemplateField>,
    pages: Option<Json>,
    first_byte_timeout_ms: Option<u64>,
    redirects: i64,
    response: &'static str,
    success: Success,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let method = with.word("method", &METHODS, problems).unwrap_or("GET");
    with.required("url", problems);
    let literal = with.string("url", problems);
    let url = TemplateField::called(with, "url", problems);
    if let (Some(text), Some(url)) = (literal, &url)
        && url.as_const().is_some()
        && !is_http_url(text)
    {
        problems.add(with.at("url"), "url", "the URL must begin with http:// or https:// and name a host");
    }
    let headers = strings(with, "headers", problems);
    let names = with.get("headers").and_then(Json::as_obj);
    let names: Vec<&str> = names.into_iter().flat_map(|names| names.keys().map(|name| &**name)).collect();
    for name in &names {
        check_header_name(name, &with.at("headers"), problems);
    }
    let auth = auth::read(with, &names, problems);
    let pages = pages::read(with, problems);
    let query = strings(with, "query", problems);
    let body = body(with, problems);
    let first_byte_timeout_ms = with.duration_ms("first_byte_timeout", problems);
    let redirects = with.integer("redirects", 0..=MAX_REDIRECTS, problems).unwrap_or(0);
    let response = with.word("response", &RESPONSES, problems).unwrap_or("auto");
    if pages.is_some() && !matches!(response, "auto" | "inline" | "blob") {
        let message = format!("pages are read as JSON: \"{response}\" has no use here");
        problems.add(with.at("response"), "conflict", message);
    }
    let success = Success::read(with, problems).unwrap_or_default();
    let url = url?;
    Some(Box::new(Http {
        method,
        url,
        headers,
        query,
        body,
        auth,
        pages,
        first_byte_timeout_ms,
        redirects,
        response,
        success,
    }))
}

/// The body, in whichever form it is given.
fn body(with: &mut Fields, problems: &mut Problems) -> Option<TemplateField> {
    let given: Vec<&'static str> = BODIES.into_iter().filter(|name| with.get(name).is_some()).collect();
    if let [first, second, ..] = given[..] {
        problems.add(
            with.at(second),
            "conflict",
            format!("\"{second}\" and \"{first}\" are both a body: give one"),
        );
    }
    match *given.first()? {
        "form" => strings(with, "form", problems),
        "multipart" => {
            check_parts(with, problems);
            TemplateField::called(with, "multipart", problems)
        }
        name => {
            if name == "body_base64" {
                with.string(name, problems);
            }
            TemplateField::called(with, name, problems)
        }
    }
}

fn check_parts(with: &mut Fields, problems: &mut Problems) {
    let at = with.at("multipart");
    let Some(parts) = with.array("multipart", problems) else { return };
    if parts.is_empty() || parts.len() > MAX_PARTS {
        problems.add(&at, "limit", format!("\"multipart\" has from 1 to {MAX_PARTS} parts"));
    }
    for (place, part) in parts.iter().enumerate() {
        let Some(mut part) = Fields::of(part, pointer(&at, place), problems) else { continue };
        part.required("name", problems);
        for name in ["name", "base64", "filename", "content_type"] {
            part.string(name, problems);
        }
        let contents = ["value", "base64", "blob"].into_iter().filter(|name| part.get(name).is_some());
        if let [first, second, ..] = contents.collect::<Vec<_>>()[..] {
            let message = format!("a part has \"{first}\" or \"{second}\", not both");
            problems.add(part.at(second), "conflict", message);
        }
        part.finish(problems);
    }
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
    TemplateField::called(with, key, problems)
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

/// Whether a text is a URL that can be called: http or https, a host, no user.
#[must_use]
pub fn is_http_url(text: &str) -> bool {
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
        [&self.url].into_iter().chain(&self.headers).chain(&self.query).chain(&self.body).chain(&self.auth)
    }
}

/// What the sidecar is to put in where: `{"at": <JSON pointer into the request>, "parts": [<text>, {"secret": <name>}]}`.
#[derive(Default)]
struct Secrets(Vec<Json>);

impl Secrets {
    /// Notes those of a field, whose value it returns.
    fn of(&mut self, field: &TemplateField, rendered: Rendered) -> Json {
        for secret in rendered.secrets {
            let part = |part: Part| match part {
                Part::Text(text) => Json::from(text.as_str()),
                Part::Secret(name) => Json::object([("secret", Json::from(name.as_str()))]),
            };
            let at = format!("/{}{}", field.name(), secret.pointer);
            let parts = Json::array(secret.parts.into_iter().map(part));
            self.0.push(Json::object([("at", Json::from(at.as_str())), ("parts", parts)]));
        }
        rendered.value
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Node for Http {
    fn secrets(&self) -> Vec<(String, &str)> {
        self.fields().flat_map(TemplateField::secrets).collect()
    }

    fn references(&self) -> Vec<Reference> {
        all_references(self.fields())
    }

    fn resumes(&self) -> Vec<(String, &str)> {
        all_resumes(self.fields())
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let mut secrets = Secrets::default();
        let url = secrets.of(&self.url, self.url.render_called(context, &mut budget)?);
        // One with a secret in it is looked at by whoever knows the secret.
        if secrets.is_empty() && !url.as_str().is_some_and(is_http_url) {
            let message = "the rendered URL does not begin with http:// or https:// and name a host";
            return Err(ErrorInfo::new("http.url", message).retryable(false));
        }
        let timeout_ms = context.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        let mut request: BTreeMap<Arc<str>, Json> = BTreeMap::new();
        request.insert("method".into(), Json::from(self.method));
        request.insert("url".into(), url);
        request.insert("timeout_ms".into(), Json::from(i64::try_from(timeout_ms).unwrap_or(i64::MAX)));
        for field in self.headers.iter().chain(&self.query) {
            let rendered = field.render_called(context, &mut budget)?;
            let secret: Vec<String> = rendered.secrets.iter().map(|secret| secret.pointer.clone()).collect();
            let value = secrets.of(field, rendered);
            request.insert(field.name().into(), texts(value, field.name(), &secret)?);
        }
        let mut blobs = Vec::new();
        if let Some(body) = &self.body {
            let rendered = body.render_called(context, &mut budget)?;
            check_reference(body.name(), &rendered.value)?;
            match stored(body, &rendered) {
                Some(blob) => {
                    request.insert("body_blob".into(), blob.reference());
                    blobs.push(blob);
                }
                None => {
                    request.insert(body.name().into(), secrets.of(body, rendered));
                }
            }
        }
        if let Some(auth) = &self.auth {
            let rendered = auth.render_called(context, &mut budget)?;
            request.insert("auth".into(), auth::render(auth, rendered, &mut secrets)?);
        }
        if !secrets.is_empty() {
            request.insert("secrets".into(), Json::array(secrets.0));
        }
        // What is as it is by default is not said: every byte of a request is kept in the log.
        if let Some(millis) = self.first_byte_timeout_ms {
            request.insert(
                "first_byte_timeout_ms".into(),
                Json::from(i64::try_from(millis).unwrap_or(i64::MAX)),
            );
        }
        if let Some(pages) = &self.pages {
            request.insert("pages".into(), pages.clone());
        }
        if self.redirects > 0 {
            request.insert("redirects".into(), Json::from(self.redirects));
        }
        if self.response != "auto" {
            request.insert("response".into(), Json::from(self.response));
        }
        let input = Json::Obj(Arc::new(request));
        Ok(Action::Job { queue: Arc::from(QUEUE), input, timeout_ms: None, blobs })
    }

    fn longest_attempt_ms(&self) -> Option<u64> {
        Some(MAX_TIMEOUT_MS)
    }

    /// Any answer of the peer is an output first: the sidecar reports, the node's rule judges. It is a status from 200 to
    /// 299 where the definition says nothing.
    fn judge(&self, output: &Json) -> Result<(), ErrorInfo> {
        let status = output.get("status").and_then(Json::as_i64).and_then(|n| u16::try_from(n).ok());
        let Some(status) = status else {
            return Err(ErrorInfo::new("http.protocol", "the executor reported an answer without a status"));
        };
        if self.success.is(status, output)? {
            return Ok(());
        }
        let mut error = if (200..300).contains(&status) {
            ErrorInfo::new("http.success", format!("the answer {status} is no success by the node's rule"))
        } else {
            ErrorInfo::new("http.status", format!("the server answered {status}"))
        };
        error.status = Some(status);
        error.retryable = Some(is_retryable(status));
        error.retry_after_ms =
            output.get("retry_after_ms").and_then(Json::as_i64).and_then(|n| u64::try_from(n).ok());
        let body = output.get("body_blob").or_else(|| output.get("body"));
        error.details = body.map(kept_body);
        Err(error)
    }
}

/// A body that is kept beside the log, for it is too large for it. One with something in it that only whoever sends it
/// knows stays as it is.
fn stored(field: &TemplateField, rendered: &Rendered) -> Option<Blob> {
    let is_whole = rendered.secrets.is_empty() && field.resumes().is_empty();
    is_whole.then(|| Blob::of_field(field.name(), &rendered.value))?
}

/// What has to be a reference to a blob is one.
fn check_reference(name: &str, value: &Json) -> Result<(), ErrorInfo> {
    let refuse = |what: String| {
        let message = format!("{what} is no reference to a blob: an object with \"sha256\" in it");
        Err(ErrorInfo::new("http.value", message).retryable(false))
    };
    match (name, value) {
        ("body_blob", value) if !blob::is_reference(value) => refuse("\"body_blob\"".to_owned()),
        ("multipart", Json::Arr(parts)) => {
            let wrong = |part: &Json| part.get("blob").is_some_and(|value| !blob::is_reference(value));
            parts.iter().position(wrong).map_or(Ok(()), |place| refuse(format!("\"blob\" of part {place}")))
        }
        _ => Ok(()),
    }
}

/// Header and query values are texts on the wire: scalars are written out, anything else is refused.
/// Those in `secret` (JSON pointers) are still to come.
pub(super) fn texts(rendered: Json, name: &str, secret: &[String]) -> Result<Json, ErrorInfo> {
    let Json::Obj(entries) = &rendered else { return Ok(rendered) };
    let mut texts = BTreeMap::new();
    for (key, value) in entries.iter() {
        if secret.contains(&pointer("", key)) {
            texts.insert(Arc::clone(key), Json::Null);
            continue;
        }
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
