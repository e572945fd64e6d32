//! What arrives as the body of a request, as a document.
//!
//! JSON stays as it is. Everything else becomes JSON in the one way that its content type stands for, so that a workflow
//! can be written before the first delivery has come.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use crate::json::Json;

/// Most fields of a form, and parts of a multipart body.
pub const MAX_FIELDS: usize = 2_000;
/// Most bytes that the headers of a part may have.
const MAX_PART_HEADER_BYTES: usize = 8 << 10;

/// A body that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Document<'b> {
    /// JSON text, checked.
    Text(&'b str),
    /// What another content type stands for.
    Value(Json),
}

/// Why a body cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Its content type cannot be read, or its text is in a character set other than UTF-8.
    #[error("content type {0}")]
    ContentType(String),
    /// It is not what its content type says.
    #[error("{0}")]
    Malformed(String),
}

fn malformed<T>(message: impl Into<String>) -> Result<T, BodyFault> {
    Err(BodyFault::Malformed(message.into()))
}

/// Reads a body as its content type says.
///
/// - JSON (`application/json`, `…+json`, `text/plain`, or none): as it is, without a byte order mark before it; nothing
///   at all, without a content type, is null.
/// - `application/x-www-form-urlencoded`: an object of strings; a name that comes more than once has an array.
/// - `multipart/form-data`: likewise; of a file its `filename`, `content_type`, `bytes` and `sha256`, not what is in it.
/// - XML (`application/xml`, `text/xml`, `…+xml`): its text, a string.
/// - Anything else: `{"content_type", "base64"}`.
///
/// # Errors
/// A content type that is none, text that is not UTF-8 or says that it is not, more than [`MAX_FIELDS`] fields, U+0000 in a
/// text, and whatever is not what its content type says.
pub fn read<'b>(content_type: Option<&str>, body: &'b [u8]) -> Result<Document<'b>, BodyFault> {
    if body.is_empty() && content_type.is_none() {
        return Ok(Document::Text("null"));
    }
    let content_type = content_type.unwrap_or("application/json");
    let (media, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let media = media.trim().to_ascii_lowercase();
    let refused = || BodyFault::ContentType(content_type.to_owned());
    let utf8 = || {
        let charset = parameter(parameters, "charset").unwrap_or(Cow::Borrowed("utf-8"));
        if !["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known)) {
            return Err(refused());
        }
        std::str::from_utf8(body).or_else(|_| malformed("the body is not UTF-8"))
    };
    let halves = media.split_once('/').filter(|(kind, subtype)| is_token(kind) && is_token(subtype));
    match halves.ok_or_else(refused)? {
        ("application", "json") | ("text", "plain") => json(utf8()?),
        (_, subtype) if subtype.ends_with("+json") => json(utf8()?),
        ("application", "x-www-form-urlencoded") => fields(form(utf8()?)).map(Document::Value),
        ("multipart", "form-data") => {
            let boundary = parameter(parameters, "boundary").filter(|boundary| is_boundary(boundary));
            multipart(&boundary.ok_or_else(refused)?, body).map(Document::Value)
        }
        ("application" | "text", "xml") => text(utf8()?).map(Document::Value),
        (_, subtype) if subtype.ends_with("+xml") => text(utf8()?).map(Document::Value),
        _ => Ok(Document::Value(Json::object([
            ("base64", Json::from(STANDARD.encode(body))),
            ("content_type", text(&media)?),
        ]))),
    }
}

fn json(text: &str) -> Result<Document<'_>, BodyFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match Json::parse(text) {
        Ok(_) => Ok(Document::Text(text)),
        Err(error) => malformed(format!("the body is not JSON: {error}")),
    }
}

fn text(text: &str) -> Result<Json, BodyFault> {
    if text.contains('\0') { malformed("the body has U+0000 in a text") } else { Ok(Json::from(text)) }
}

/// The pairs of a form. Not by `form_urlencoded`, which puts U+FFFD for what is not UTF-8 where this refuses it.
fn form(body: &str) -> impl Iterator<Item = Result<(String, Json), BodyFault>> {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        match percent_decode_str(&spaced).decode_utf8() {
            Ok(decoded) => Ok(decoded.into_owned()),
            Err(_) => malformed("a field of the body is not UTF-8"),
        }
    };
    body.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, Json::from(decoded(value)?)))
    })
}

/// An object of fields; one that comes more than once has an array, in the order of the body.
fn fields(all: impl Iterator<Item = Result<(String, Json), BodyFault>>) -> Result<Json, BodyFault> {
    let mut found: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for (count, field) in all.enumerate() {
        let (name, value) = field?;
        if count == MAX_FIELDS {
            return malformed(format!("the body has more than {MAX_FIELDS} fields"));
        }
        if name.contains('\0') || value.as_str().is_some_and(|value| value.contains('\0')) {
            return malformed("the body has U+0000 in a text");
        }
        found.entry(name).or_default().push(value);
    }
    let one_or_all = |mut values: Vec<Json>| match values.len() {
        1 => values.remove(0),
        _ => Json::array(values),
    };
    Ok(Json::object(found.into_iter().map(|(name, values)| (Arc::<str>::from(name), one_or_all(values)))))
}

/// The value of a parameter of a header (RFC 9110, section 5.6.6), unquoted.
fn parameter<'p>(parameters: &'p str, wanted: &str) -> Option<Cow<'p, str>> {
    let mut rest = parameters;
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, behind) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, behind) = after.split_at(after.find(';').unwrap_or(after.len()));
                (Cow::Borrowed(value.trim()), behind)
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = behind;
    }
}

/// A quoted string up to its closing quote, and what follows it.
fn unquoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Cow::Owned(value), &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// Whether this is a token of HTTP (RFC 9110, section 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// RFC 2046, section 5.1.1.
fn is_boundary(boundary: &str) -> bool {
    (1..=70).contains(&boundary.len()) && boundary.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

/// The parts of a multipart body (RFC 7578), as fields.
fn multipart(boundary: &str, body: &[u8]) -> Result<Json, BodyFault> {
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    // The first delimiter may stand at the very beginning, without the line break that is part of all others.
    let mut rest = match body.strip_prefix(&delimiter[2..]) {
        Some(rest) => rest,
        None => {
            split(body, &delimiter).map_or_else(|| malformed("the body has no part"), |(_, rest)| Ok(rest))?
        }
    };
    let parts = std::iter::from_fn(|| {
        if rest.starts_with(b"--") {
            return None;
        }
        let begun = rest.iter().position(|b| *b != b' ' && *b != b'\t').unwrap_or(0);
        // Its line break begins the part: one without headers has their end right there.
        let Some((part, behind)) = split(&rest[begun..], &delimiter) else {
            rest = b"--";
            return Some(malformed("a part of the body does not end"));
        };
        rest = behind;
        Some(field(part))
    });
    fields(parts)
}

fn split<'b>(bytes: &'b [u8], at: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let place = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..place], &bytes[place + at.len()..]))
}

/// One part: a text, or what is to be known of a file.
fn field(part: &[u8]) -> Result<(String, Json), BodyFault> {
    let Some((headers, content)) = split(part, b"\r\n\r\n") else {
        return malformed("a part of the body has no headers");
    };
    let headers = std::str::from_utf8(headers).ok().filter(|headers| headers.len() <= MAX_PART_HEADER_BYTES);
    let Some(headers) = headers else { return malformed("the headers of a part cannot be read") };
    let header = |wanted: &str| {
        let lines = headers.split("\r\n").filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        values.next().map(|(_, value)| value.trim())
    };
    let disposition = header("content-disposition").and_then(|value| value.split_once(';'));
    let Some((_, parameters)) = disposition.filter(|(kind, _)| kind.trim().eq_ignore_ascii_case("form-data"))
    else {
        return malformed("a part of the body is no field of a form");
    };
    let Some(name) = parameter(parameters, "name") else {
        return malformed("a part of the body has no name");
    };
    let value = match (parameter(parameters, "filename"), std::str::from_utf8(content)) {
        (None, Ok(content)) => Json::from(content),
        (filename, _) => Json::object([
            ("filename", filename.map_or(Ok(Json::Null), |filename| text(&filename))?),
            ("content_type", header("content-type").map_or(Ok(Json::Null), text)?),
            ("bytes", Json::from(i64::try_from(content.len()).unwrap_or(i64::MAX))),
            ("sha256", Json::from(hex::encode(Sha256::digest(content)))),
        ]),
    };
    Ok((name.into_owned(), value))
}
