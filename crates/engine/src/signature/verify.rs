//! The one verifier.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::headers::Headers;
use super::preset::{Algorithm, Dedupe, HeaderSet, Part, Preset, TimestampSource};

/// Longest delivery id taken, in bytes. Ids end up in a unique index; known senders use under 64.
pub const MAX_ID_BYTES: usize = 256;

/// Most signatures looked at in one header. Senders write one per active secret.
pub const MAX_CANDIDATES: usize = 64;

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A holder of one of the secrets signed this request, recently if the scheme tells.
    Accepted {
        /// Equal for two requests exactly if they are the same delivery: `id:<signed id>` or
        /// `sha256:<hex of the body's digest>`. Unique per endpoint, not across endpoints. At most
        /// 3 + [`MAX_ID_BYTES`] bytes of visible ASCII.
        dedupe_key: String,
        /// The delivery id, where the scheme signs one.
        signed_id: Option<String>,
        /// The sender's delivery id where it is *not* signed: to show and to search, not to trust.
        unsigned_id: Option<String>,
        /// Position in `secrets` of the first one that matched.
        secret_index: usize,
        /// Signed time of the attempt, Unix seconds, where the scheme has one.
        timestamp: Option<i64>,
    },
    /// Not to be trusted. The reason is for the delivery's record, not for the sender, who gets
    /// the same 401 whatever it is.
    Rejected(Reason),
}

/// Why a request is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// This header is absent.
    MissingHeader(&'static str),
    /// This header is not what the scheme prescribes: no signature of the expected form in it, an
    /// id or a time that cannot be one, or more than [`MAX_CANDIDATES`] signatures.
    MalformedHeader(&'static str),
    /// The endpoint has no usable secret.
    NoSecret,
    /// No secret gives any of the signatures: wrong key or changed content.
    NoMatch,
    /// Rightly signed, longer ago than the tolerance.
    TooOld,
    /// Rightly signed, further in the future than the tolerance.
    TooNew,
}

impl Reason {
    /// Stable name for records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::MissingHeader(_) => "missing_header",
            Reason::MalformedHeader(_) => "malformed_header",
            Reason::NoSecret => "no_secret",
            Reason::NoMatch => "no_match",
            Reason::TooOld => "too_old",
            Reason::TooNew => "too_new",
        }
    }

    /// The header concerned, if the reason lies in one.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Reason::MissingHeader(name) | Reason::MalformedHeader(name) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::MissingHeader(name) => write!(f, "header {name} is missing"),
            Reason::MalformedHeader(name) => write!(f, "header {name} is malformed"),
            Reason::NoSecret => f.write_str("the endpoint has no usable secret"),
            Reason::NoMatch => f.write_str("no secret matches the signature"),
            Reason::TooOld => f.write_str("the timestamp is older than the tolerance"),
            Reason::TooNew => f.write_str("the timestamp is further ahead than the tolerance"),
        }
    }
}

/// Judges one request.
///
/// `secrets` are the texts of all that are active, current first; unusable ones are passed over.
/// `tolerance_s` (seconds; below 0 counts as 0) bounds how far the signed time may lie from
/// `now_unix_s` (Unix seconds) in either direction, ends included; schemes without a signed time
/// ignore both. `body` is the raw bytes received. Every secret is tried on every signature and
/// compared in constant time. Never panics.
///
/// The signature is judged before the time, so that "too old" in the record means that the sender
/// really did sign it.
pub fn verify<H: Headers + ?Sized>(
    preset: &Preset,
    secrets: &[&[u8]],
    tolerance_s: i64,
    now_unix_s: i64,
    headers: &H,
    body: &[u8],
) -> Verdict {
    judge(preset, secrets, tolerance_s, now_unix_s, headers, body).unwrap_or_else(Verdict::Rejected)
}

fn judge<H: Headers + ?Sized>(
    preset: &Preset,
    secrets: &[&[u8]],
    tolerance_s: i64,
    now_unix_s: i64,
    headers: &H,
    body: &[u8],
) -> Result<Verdict, Reason> {
    let set = choose_set(preset, headers)?;
    let signature = require(headers, set.signature)?;
    let id = match set.id {
        Some(name) => Some(
            clean_id(require(headers, name)?)
                .filter(|id| unambiguous(preset, id))
                .ok_or(Reason::MalformedHeader(name))?,
        ),
        None => None,
    };
    let timestamp = match preset.timestamp {
        TimestampSource::None => None,
        TimestampSource::Header => match set.timestamp {
            Some(name) => Some((require(headers, name)?, name)),
            None => None,
        },
        TimestampSource::Kv(key) => Some((
            preset.grammar.single_value(signature, key).ok_or(Reason::MalformedHeader(set.signature))?,
            set.signature,
        )),
    };
    let timestamp = match timestamp {
        Some((text, name)) => Some((text, parse_unix_seconds(text).ok_or(Reason::MalformedHeader(name))?)),
        None => None,
    };

    // Texts that cannot be decoded are passed over, as the senders' own libraries do: a list may
    // hold kinds of signatures this release does not know.
    let mut texts = preset.grammar.candidates(signature);
    let candidates: Vec<[u8; 32]> =
        texts.by_ref().take(MAX_CANDIDATES).filter_map(|text| preset.encoding.decode(text)).collect();
    if candidates.is_empty() || texts.next().is_some() {
        return Err(Reason::MalformedHeader(set.signature));
    }

    let content = Content {
        id: id.unwrap_or_default(),
        timestamp: timestamp.map(|(text, _)| text).unwrap_or_default(),
        body,
    };
    let mut usable = false;
    let mut matched = None;
    for (index, secret) in secrets.iter().enumerate() {
        let Ok(key) = preset.key.decode(secret) else {
            continue;
        };
        usable = true;
        let Some(mac) = content.mac(preset, key.bytes()) else {
            continue;
        };
        // No early exit: how long this takes must not tell which secret or candidate matched.
        for candidate in &candidates {
            let equal = mac.clone().verify_slice(candidate).is_ok();
            if equal && matched.is_none() {
                matched = Some(index);
            }
        }
    }
    let secret_index = match matched {
        Some(index) => index,
        None if usable => return Err(Reason::NoMatch),
        None => return Err(Reason::NoSecret),
    };

    let timestamp = timestamp.map(|(_, seconds)| seconds);
    if let Some(seconds) = timestamp {
        let tolerance = tolerance_s.max(0);
        let age = now_unix_s.saturating_sub(seconds);
        if age > tolerance {
            return Err(Reason::TooOld);
        }
        if age < -tolerance {
            return Err(Reason::TooNew);
        }
    }
    let dedupe_key = match (preset.dedupe, id) {
        (Dedupe::SignedId, Some(id)) => format!("id:{id}"),
        _ => format!("sha256:{}", hex::encode(Sha256::digest(body))),
    };
    Ok(Verdict::Accepted {
        dedupe_key,
        signed_id: id.map(str::to_owned),
        unsigned_id: preset.hint.and_then(|name| headers.get(name)).and_then(clean_id).map(str::to_owned),
        secret_index,
        timestamp,
    })
}

/// The first set that is there in full; else the set most likely meant, so that the reason names
/// the header the sender forgot.
fn choose_set<H: Headers + ?Sized>(preset: &Preset, headers: &H) -> Result<&'static HeaderSet, Reason> {
    let present = |set: &HeaderSet| {
        let names = [Some(set.signature), set.id, set.timestamp];
        let wanted = names.iter().flatten().count();
        let found = names.iter().flatten().filter(|n| headers.get(n).is_some()).count();
        (found, wanted)
    };
    let full = preset.headers.iter().find(|set| {
        let (found, wanted) = present(set);
        found == wanted
    });
    full.or_else(|| preset.headers.iter().find(|set| present(set).0 > 0))
        .or_else(|| preset.headers.first())
        // A preset without headers cannot be satisfied; there is none in the table.
        .ok_or(Reason::MissingHeader("signature"))
}

fn require<'h, H: Headers + ?Sized>(headers: &'h H, name: &'static str) -> Result<&'h str, Reason> {
    headers.get(name).ok_or(Reason::MissingHeader(name))
}

/// Ids become text in a unique index and in people's searches: visible ASCII, bounded.
fn clean_id(id: &str) -> Option<&str> {
    let fits = (1..=MAX_ID_BYTES).contains(&id.len());
    (fits && id.bytes().all(|b| b.is_ascii_graphic())).then_some(id)
}

/// Whether the signed content can be split in one way only. With `id.ts.body`, the id `a.1` of one
/// message and the id `a` of another whose body starts with digits and a full stop could share one
/// signature; Standard Webhooks therefore forbids the full stop in ids.
fn unambiguous(preset: &Preset, id: &str) -> bool {
    preset.signed.windows(2).all(|pair| match pair {
        [Part::Id, Part::Literal(next)] => !id.contains(next),
        _ => true,
    })
}

/// Digits only: `parse` alone would take a sign.
fn parse_unix_seconds(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// What is signed, in the order the preset says.
pub(super) struct Content<'a> {
    pub(super) id: &'a str,
    pub(super) timestamp: &'a str,
    pub(super) body: &'a [u8],
}

impl Content<'_> {
    /// The MAC over the content, still to be finished. HMAC takes keys of any length, hence `None`
    /// does not occur.
    pub(super) fn mac(&self, preset: &Preset, key: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = match preset.algorithm {
            Algorithm::HmacSha256 => Hmac::<Sha256>::new_from_slice(key).ok()?,
        };
        for part in preset.signed {
            match part {
                Part::Id => mac.update(self.id.as_bytes()),
                Part::Timestamp => mac.update(self.timestamp.as_bytes()),
                Part::Body => mac.update(self.body),
                Part::Literal(text) => mac.update(text.as_bytes()),
            }
        }
        Some(mac)
    }
}
