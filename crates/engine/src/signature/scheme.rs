//! Schemes of an endpoint's own: HMAC, as most senders use it, put together from settings.

use serde::Deserialize;

use crate::body::is_token;

use super::key::KeyForm;
use super::preset::{
    Algorithm, Dedupe, Encoding, Grammar, HeaderSet, Part, Preset, Proof, Text, TimestampSource,
};

/// The name that endpoints with a scheme of their own are made with.
pub const OWN_SCHEME: &str = "hmac";

/// Seconds that most senders recommend.
const TOLERANCE: i64 = 300;
/// Longest fixed text: a prefix, a literal of what is signed, a name.
const MAX_TEXT_BYTES: usize = 128;
/// Longest description of what is signed.
const MAX_TEMPLATE_BYTES: usize = 512;

/// A scheme as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    header: String,
    #[serde(default)]
    algorithm: Hmac,
    #[serde(default)]
    encoding: Digits,
    #[serde(default)]
    prefix: String,
    pairs: Option<Pairs>,
    #[serde(default = "body")]
    signed: String,
    timestamp_header: Option<String>,
    id_header: Option<String>,
    dedupe: Option<String>,
    #[serde(default)]
    key: Key,
}

fn body() -> String {
    "{body}".to_owned()
}

/// The header holds `key=value` pairs, as Stripe's does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pairs {
    #[serde(default = "comma")]
    separator: char,
    signature: String,
    timestamp: Option<String>,
}

fn comma() -> char {
    ','
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
enum Hmac {
    #[serde(rename = "sha1")]
    Sha1,
    #[default]
    #[serde(rename = "sha256")]
    Sha256,
    #[serde(rename = "sha512")]
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Digits {
    #[default]
    Hex,
    Base64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Key {
    #[default]
    Text,
    Base64,
    Hex,
    Whsec,
}

/// What is wrong with a scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", if .pointer.is_empty() { "the scheme" } else { .pointer })]
pub struct SchemeFault {
    /// Where, as a JSON pointer; empty for the scheme as a whole.
    pub pointer: &'static str,
    /// What, and what would be right.
    pub message: String,
}

pub(super) fn fault<T>(pointer: &'static str, message: impl Into<String>) -> Result<T, SchemeFault> {
    Err(SchemeFault { pointer, message: message.into() })
}

impl Preset {
    /// A scheme from its JSON text.
    ///
    /// # Errors
    /// The first thing in it that is wrong: a field that is unknown or missing, a name that no header can have, content
    /// that does not hold the body, or that could be read in two ways, so that one signature fits two deliveries.
    pub fn own(text: &str) -> Result<Preset, SchemeFault> {
        let written: Written = serde_json::from_str(text)
            .map_err(|error| SchemeFault { pointer: "", message: error.to_string() })?;
        let signed = parts(&written.signed)?;
        let signs = |part: &Part| signed.contains(part);
        let grammar = grammar(&written)?;
        let timestamp = timestamp(&written, signs(&Part::Timestamp))?;
        let id = written.id_header.as_deref().map(|name| header("/id_header", name)).transpose()?;
        if signs(&Part::Id) && id.is_none() {
            return fault("/id_header", "the header of the {id} that is signed must be named");
        }
        let dedupe = match (&written.dedupe, &id) {
            (Some(_), Some(_)) if signs(&Part::Id) => {
                return fault(
                    "/dedupe",
                    "the signed id is what a delivery is known by; leave one of them out",
                );
            }
            (Some(place), _) if place.starts_with('/') && place.len() <= MAX_TEXT_BYTES => {
                Dedupe::BodyField(place.clone().into())
            }
            (Some(_), _) => return fault("/dedupe", "must be a JSON pointer into the body, such as \"/id\""),
            (None, Some(_)) if signs(&Part::Id) => Dedupe::SignedId,
            (None, _) => Dedupe::BodyDigest,
        };
        let (signed_id, hint) = if signs(&Part::Id) { (id, None) } else { (None, id) };
        let is_header = timestamp == TimestampSource::Header;
        let timestamp_header = written.timestamp_header.as_deref().filter(|_| is_header);
        let set = HeaderSet {
            signature: header("/header", &written.header)?,
            id: signed_id,
            timestamp: timestamp_header.map(|name| header("/timestamp_header", name)).transpose()?,
        };
        if set.timestamp.as_ref() == Some(&set.signature) {
            return fault(
                "/timestamp_header",
                "is the header of the signature: no request can have both in one",
            );
        }
        if set.id.as_ref().is_some_and(|id| *id == set.signature || Some(id) == set.timestamp.as_ref()) {
            return fault(
                "/id_header",
                "is the header of the signature or of the time: no request can have both in one",
            );
        }
        let headers = vec![set];
        Ok(Preset {
            name: OWN_SCHEME.into(),
            headers,
            proofs: vec![proof(&written, grammar)],
            token: None,
            signed,
            any_port: false,
            timestamp,
            tolerance_s: TOLERANCE,
            dedupe,
            hint,
            challenge: None,
        })
    }
}

fn proof(written: &Written, grammar: Grammar) -> Proof {
    Proof {
        grammar,
        algorithm: match written.algorithm {
            Hmac::Sha1 => Algorithm::HmacSha1,
            Hmac::Sha256 => Algorithm::HmacSha256,
            Hmac::Sha512 => Algorithm::HmacSha512,
        },
        encoding: match written.encoding {
            Digits::Hex => Encoding::Hex,
            Digits::Base64 => Encoding::Base64,
        },
        key: match written.key {
            Key::Text => KeyForm::Raw,
            Key::Base64 => KeyForm::Base64,
            Key::Hex => KeyForm::Hex,
            Key::Whsec => KeyForm::Whsec,
        },
    }
}

fn grammar(written: &Written) -> Result<Grammar, SchemeFault> {
    let Some(pairs) = &written.pairs else {
        return match written.prefix.as_str() {
            "" => Ok(Grammar::Bare),
            prefix => text("/prefix", prefix).map(Grammar::Prefix),
        };
    };
    if !written.prefix.is_empty() {
        return fault("/prefix", "goes with a header that holds the signature alone, not with pairs");
    }
    if pairs.separator.is_ascii_alphanumeric() || "=+/ ".contains(pairs.separator) {
        return fault("/pairs/separator", "must be a character that no signature and no name has in it");
    }
    if pairs.timestamp.as_ref() == Some(&pairs.signature) {
        return fault("/pairs/timestamp", "is the key of the signature: no pair can have both");
    }
    Ok(Grammar::Kv {
        separator: pairs.separator,
        signature_key: key("/pairs/signature", &pairs.signature, pairs.separator)?,
    })
}

/// Where the time is: it must be signed, or whoever captured a delivery could write another one.
fn timestamp(written: &Written, is_signed: bool) -> Result<TimestampSource, SchemeFault> {
    let of_pairs = written.pairs.as_ref().and_then(|pairs| pairs.timestamp.as_deref());
    match (&written.timestamp_header, of_pairs) {
        (Some(_), Some(_)) => {
            fault("/timestamp_header", "the time is in a pair already; leave one of them out")
        }
        (None, None) if is_signed => {
            fault("/timestamp_header", "the header of the {timestamp} that is signed must be named")
        }
        (None, None) => Ok(TimestampSource::None),
        _ if !is_signed => {
            fault("/signed", "a time that is not signed proves nothing: {timestamp} is missing")
        }
        (Some(_), None) => Ok(TimestampSource::Header),
        (None, Some(name)) => {
            let separator = written.pairs.as_ref().map_or(',', |pairs| pairs.separator);
            key("/pairs/timestamp", name, separator).map(TimestampSource::Kv)
        }
    }
}

/// The key of a pair: it ends where its value begins.
fn key(pointer: &'static str, key: &str, separator: char) -> Result<Text, SchemeFault> {
    if key.contains(['=', separator]) {
        return fault(pointer, "must have neither = nor the separator in it");
    }
    text(pointer, key)
}

fn text(pointer: &'static str, text: &str) -> Result<Text, SchemeFault> {
    if (1..=MAX_TEXT_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Text::from(text.to_owned()));
    }
    fault(pointer, format!("must be 1 to {MAX_TEXT_BYTES} visible characters of ASCII"))
}

/// The name of a header (RFC 9110, section 5.1), in lower case.
pub(super) fn header(pointer: &'static str, name: &str) -> Result<Text, SchemeFault> {
    if is_token(name) && name.len() <= MAX_TEXT_BYTES {
        return Ok(Text::from(name.to_ascii_lowercase()));
    }
    fault(pointer, "must be the name of a header")
}

/// What is signed, from its description: fixed text, and `{id}`, `{timestamp}`, `{body}`.
fn parts(template: &str) -> Result<Vec<Part>, SchemeFault> {
    const AT: &str = "/signed";
    if template.len() > MAX_TEMPLATE_BYTES {
        return fault(AT, format!("must not be longer than {MAX_TEMPLATE_BYTES} bytes"));
    }
    let mut parts = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let literal = rest.find('{').map_or(rest, |at| &rest[..at]);
        if literal.contains('}') {
            return fault(AT, "a } stands alone");
        }
        rest = &rest[literal.len()..];
        if !literal.is_empty() {
            parts.push(Part::Literal(Text::from(literal.to_owned())));
            continue;
        }
        let Some((name, after)) = rest[1..].split_once('}') else { return fault(AT, "a { is not closed") };
        let part = match name {
            "id" => Part::Id,
            "timestamp" => Part::Timestamp,
            "body" => Part::Body,
            _ => return fault(AT, format!("{{{name}}} is none of {{id}}, {{timestamp}}, {{body}}")),
        };
        if parts.contains(&part) {
            return fault(AT, format!("{{{name}}} stands twice"));
        }
        parts.push(part);
        rest = after;
    }
    if !parts.contains(&Part::Body) {
        return fault(AT, "must have {body} in it: what is not signed can be changed by anybody");
    }
    if has_one_reading(&parts) { Ok(parts) } else { fault(AT, ONE_READING) }
}

const ONE_READING: &str = "could be read in two ways: {body} must be last or end before fixed text that ends the \
                           content, and behind {id} and {timestamp} must stand fixed text that does not begin with a digit";

/// Whether no two deliveries can have the same signed content: every part ends where the next begins. The body is
/// delimited by the end of the content alone, a time by what is no digit, and an id by a text that no id may have in it
/// (`verify` sees to that).
fn has_one_reading(parts: &[Part]) -> bool {
    let body = parts.iter().position(|part| *part == Part::Body).unwrap_or(0);
    let is_last = parts[body + 1..].iter().all(|part| matches!(part, Part::Literal(_)));
    let is_delimited = |pair: &[Part]| match pair {
        [Part::Id | Part::Timestamp, Part::Literal(next)] => !next.starts_with(|c: char| c.is_ascii_digit()),
        [Part::Id | Part::Timestamp, _] => false,
        _ => true,
    };
    is_last && parts.windows(2).all(is_delimited)
}
