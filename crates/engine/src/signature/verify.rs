//! The one verifier.

use std::fmt;

use sha2::{Digest, Sha256};

use super::headers::Headers;
use super::preset::{Dedupe, HeaderSet, Part, Preset, TimestampSource};
use super::proof::Checker;
use super::request::Request;
use crate::json::Json;

/// Longest delivery id taken, in bytes. Ids end up in a unique index; known senders use under 64.
pub const MAX_ID_BYTES: usize = 256;

/// Most signatures looked at in one header. Senders write one per active secret.
pub const MAX_CANDIDATES: usize = 64;

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A holder of one of the secrets signed this request, recently if the scheme tells.
    Accepted {
        /// Equal for two requests exactly if they are the same delivery: `id:<signed id>`, `body:<id in
        /// the signed body>` or `sha256:<hex of the body's digest>`. Unique per endpoint, not across endpoints. At most
        /// 5 + [`MAX_ID_BYTES`] bytes of visible ASCII.
        dedupe_key: String,
        /// The delivery id, where the scheme signs one.
        signed_id: Option<String>,
        /// The sender's delivery id where it is *not* signed, or that of a token whose deliveries are not known by it: to
        /// show and to search, not to trust.
        unsigned_id: Option<String>,
        /// Position in `secrets` of the first one that matched; absent where the scheme has none.
        secret_index: Option<usize>,
        /// Signed time of the attempt, Unix seconds, where the scheme has one.
        timestamp: Option<i64>,
    },
    /// Not to be trusted. The reason is for the delivery's record, not for the sender, who gets
    /// the same 401 whatever it is.
    Rejected(Reason),
}

/// Why a request is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// This header, or parameter of the query, is absent.
    MissingHeader(String),
    /// This header is not what the scheme prescribes: no signature of the expected form in it, an
    /// id or a time that cannot be one, or more than [`MAX_CANDIDATES`] signatures.
    MalformedHeader(String),
    /// The signed body has no time at this place.
    NoTime(String),
    /// The endpoint has no usable secret.
    NoSecret,
    /// No secret gives any of the signatures: wrong key or changed content.
    NoMatch,
    /// Rightly signed, longer ago than the tolerance.
    TooOld,
    /// Rightly signed, further in the future than the tolerance.
    TooNew,
    /// The token names an algorithm that the endpoint does not take.
    Algorithm,
    /// This claim of a rightly signed token is missing or not what the endpoint asks for.
    Claim(&'static str),
}

impl Reason {
    /// Stable name for records and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Reason::MissingHeader(_) => "missing_header",
            Reason::MalformedHeader(_) => "malformed_header",
            Reason::NoTime(_) => "no_time",
            Reason::NoSecret => "no_secret",
            Reason::NoMatch => "no_match",
            Reason::TooOld => "too_old",
            Reason::TooNew => "too_new",
            Reason::Algorithm => "algorithm",
            Reason::Claim(_) => "claim",
        }
    }

    /// The header concerned, if the reason lies in one.
    pub fn header(&self) -> Option<&str> {
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
            Reason::NoTime(place) => write!(f, "the body has no time at {place}"),
            Reason::NoSecret => f.write_str("the endpoint has no usable secret"),
            Reason::NoMatch => f.write_str("no secret matches the signature"),
            Reason::TooOld => f.write_str("the timestamp is older than the tolerance"),
            Reason::TooNew => f.write_str("the timestamp is further ahead than the tolerance"),
            Reason::Algorithm => f.write_str("the token's algorithm is none that the endpoint takes"),
            Reason::Claim(name) => write!(f, "the token's claim {name} is missing or not what is asked for"),
        }
    }
}

/// Judges one request.
///
/// `secrets` are the texts of all that are active, current first; unusable ones are passed over.
/// `tolerance_s` (seconds; below 0 counts as 0) bounds how far the signed time may lie from
/// `now_unix_s` (Unix seconds) in either direction, ends included; schemes without a signed time
/// ignore both. Every secret is tried on every signature and compared in constant time. Never panics.
///
/// The signature is judged before the time, so that "too old" in the record means that the sender
/// really did sign it.
pub fn verify<H: Headers + ?Sized>(
    preset: &Preset,
    secrets: &[&[u8]],
    tolerance_s: i64,
    now_unix_s: i64,
    request: &Request<'_, H>,
) -> Verdict {
    judge(preset, secrets, tolerance_s, now_unix_s, request).unwrap_or_else(Verdict::Rejected)
}

fn judge<H: Headers + ?Sized>(
    preset: &Preset,
    secrets: &[&[u8]],
    tolerance_s: i64,
    now_unix_s: i64,
    request: &Request<'_, H>,
) -> Result<Verdict, Reason> {
    let mut claim = Claim::default();
    let mut secret_index = None;
    let mut token_id = None;
    if let Some(token) = &preset.token {
        let set = choose_set(preset, request)?;
        let proven = token.prove(&set.signature, secrets, tolerance_s, now_unix_s, request)?;
        secret_index = Some(proven.secret_index);
        match preset.dedupe {
            Dedupe::SignedId => claim.id = Some(proven.id.ok_or(Reason::Claim("jti"))?),
            _ => token_id = proven.id,
        }
    } else if !preset.proofs.is_empty() {
        let set = choose_set(preset, request)?;
        claim = Claim::read(preset, set, request)?;
        secret_index = Some(prove(preset, set, secrets, &claim, request)?);
    }
    let body = Body::of(preset, request.body);
    let timestamp = match (&preset.timestamp, &claim.timestamp) {
        (TimestampSource::Body(place), _) => {
            let millis =
                body.at(place).and_then(Json::as_i64).ok_or_else(|| Reason::NoTime(place.to_string()))?;
            Some(millis.div_euclid(1000))
        }
        (_, Some((_, seconds))) => Some(*seconds),
        (_, None) => None,
    };
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
    let hint = preset.hint.as_ref().and_then(|name| request.headers.get(name)).and_then(clean_id);
    Ok(Verdict::Accepted {
        dedupe_key: dedupe_key(preset, &claim, &body, request),
        unsigned_id: hint.map(str::to_owned).or(token_id),
        signed_id: claim.id,
        secret_index,
        timestamp,
    })
}

/// What a request says of itself, before anything is proved.
#[derive(Default)]
struct Claim {
    /// What holds the signatures.
    signature: String,
    id: Option<String>,
    /// The time as it is written, and in Unix seconds.
    timestamp: Option<(String, i64)>,
}

impl Claim {
    fn read<H: Headers + ?Sized>(
        preset: &Preset,
        set: &HeaderSet,
        request: &Request<'_, H>,
    ) -> Result<Self, Reason> {
        let require = |name: &str| request.value(name).ok_or_else(|| Reason::MissingHeader(name.to_owned()));
        let malformed = |name: &str| Reason::MalformedHeader(name.to_owned());
        let signature = require(&set.signature)?;
        let id = match &set.id {
            Some(name) => Some(
                clean_id(&require(name)?)
                    .filter(|id| unambiguous(preset, id))
                    .map(str::to_owned)
                    .ok_or_else(|| malformed(name))?,
            ),
            None => None,
        };
        let written = match (&preset.timestamp, &set.timestamp) {
            (TimestampSource::Header, Some(name)) => Some((require(name)?, name)),
            (TimestampSource::Kv(key), _) => {
                let mut times = preset.proofs.iter().map(|proof| proof.grammar.single_value(&signature, key));
                let time = times.find_map(|time| time).ok_or_else(|| malformed(&set.signature))?;
                Some((time.to_owned(), &set.signature))
            }
            _ => None,
        };
        let timestamp = match written {
            Some((text, name)) => {
                let seconds = parse_unix_seconds(&text).ok_or_else(|| malformed(name))?;
                Some((text, seconds))
            }
            None => None,
        };
        Ok(Self { signature, id, timestamp })
    }
}

/// Which secret made one of the signatures.
fn prove<H: Headers + ?Sized>(
    preset: &Preset,
    set: &HeaderSet,
    secrets: &[&[u8]],
    claim: &Claim,
    request: &Request<'_, H>,
) -> Result<usize, Reason> {
    let malformed = || Reason::MalformedHeader(set.signature.to_string());
    let mut ways = Vec::with_capacity(preset.proofs.len());
    for proof in &preset.proofs {
        // Texts that cannot be decoded are passed over, as the senders' own libraries do: a list may
        // hold kinds of signatures this release does not know.
        let mut texts = proof.grammar.candidates(&claim.signature);
        let candidates: Vec<Vec<u8>> = texts
            .by_ref()
            .take(MAX_CANDIDATES)
            .filter_map(|text| proof.encoding.decode(text).filter(|bytes| proof.algorithm.takes(bytes.len())))
            .collect();
        if texts.next().is_some() {
            return Err(malformed());
        }
        ways.push((proof, candidates));
    }
    if ways.iter().all(|(_, candidates)| candidates.is_empty()) {
        return Err(malformed());
    }
    let time = claim.timestamp.as_ref().map_or("", |(text, _)| text);
    let contents = request.contents(preset, claim.id.as_deref().unwrap_or_default(), time);
    let (mut usable, mut matched) = (false, None);
    for (index, secret) in secrets.iter().enumerate() {
        for (proof, candidates) in &ways {
            let Ok(key) = proof.key.decode(secret) else { continue };
            usable = true;
            for content in &contents {
                let Some(checker) = Checker::new(proof.algorithm, key.bytes(), content) else { continue };
                // No early exit: how long this takes must not tell which secret or candidate matched.
                for candidate in candidates {
                    if checker.accepts(candidate) && matched.is_none() {
                        matched = Some(index);
                    }
                }
            }
        }
    }
    matched.ok_or(if usable { Reason::NoMatch } else { Reason::NoSecret })
}

/// The body as JSON, read only where the scheme looks into it.
struct Body(Option<Json>);

impl Body {
    fn of(preset: &Preset, body: &[u8]) -> Self {
        let is_read = matches!(preset.timestamp, TimestampSource::Body(_))
            || matches!(preset.dedupe, Dedupe::BodyField(_));
        let text = std::str::from_utf8(body).ok().filter(|_| is_read);
        Self(text.and_then(|text| Json::parse(text).ok()))
    }

    fn at(&self, pointer: &str) -> Option<&Json> {
        self.0.as_ref()?.pointer(pointer)
    }
}

/// An id of a body as a key: itself where it can be text of a log, else its digest.
fn body_id(id: &str) -> String {
    match clean_id(id) {
        Some(id) => format!("body:{id}"),
        None => format!("body:sha256:{}", hex::encode(Sha256::digest(id))),
    }
}

fn dedupe_key<H: Headers + ?Sized>(
    preset: &Preset,
    claim: &Claim,
    body: &Body,
    request: &Request<'_, H>,
) -> String {
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    match (&preset.dedupe, &claim.id) {
        (Dedupe::SignedId, Some(id)) => format!("id:{id}"),
        (Dedupe::BodyField(place), _) => match body.at(place) {
            Some(Json::Str(id)) if !id.is_empty() => body_id(id),
            Some(Json::Num(id)) => body_id(&id.to_string()),
            _ => digest(request.body),
        },
        (Dedupe::SignedContent, _) => {
            let time = claim.timestamp.as_ref().map_or("", |(text, _)| text);
            let contents = request.contents(preset, claim.id.as_deref().unwrap_or_default(), time);
            // The first is that of the address as it is configured, whichever way the sender wrote it.
            digest(contents.first().map_or(request.body, Vec::as_slice))
        }
        _ if preset.signs() => digest(request.body),
        _ => match unproven(preset, request.url) {
            query if query.is_empty() => digest(request.body),
            query => digest(&[request.body, b"?", query.as_bytes()].concat()),
        },
    }
}

/// The query without the parameter that holds the secret, if one does.
fn unproven(preset: &Preset, url: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let is_secret = |pair: &str| {
        let name = form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| format!("?{name}"));
        name.is_some_and(|name| preset.headers.iter().any(|set| set.signature == name))
    };
    query.split('&').filter(|pair| !is_secret(pair)).collect::<Vec<_>>().join("&")
}

/// The first set that is there in full; else the set most likely meant, so that the reason names
/// the header the sender forgot.
fn choose_set<'p, H: Headers + ?Sized>(
    preset: &'p Preset,
    request: &Request<'_, H>,
) -> Result<&'p HeaderSet, Reason> {
    let present = |set: &HeaderSet| {
        let names = [Some(&set.signature), set.id.as_ref(), set.timestamp.as_ref()];
        let wanted = names.iter().flatten().count();
        let found = names.iter().flatten().filter(|name| request.value(name).is_some()).count();
        (found, wanted)
    };
    let full = preset.headers.iter().find(|set| {
        let (found, wanted) = present(set);
        found == wanted
    });
    full.or_else(|| preset.headers.iter().find(|set| present(set).0 > 0))
        .or_else(|| preset.headers.first())
        // A preset without headers proves nothing; the one there is has no proofs.
        .ok_or_else(|| Reason::MissingHeader("signature".to_owned()))
}

/// Ids become text in a unique index and in people's searches: visible ASCII, bounded.
pub(super) fn clean_id(id: &str) -> Option<&str> {
    let fits = (1..=MAX_ID_BYTES).contains(&id.len());
    (fits && id.bytes().all(|b| b.is_ascii_graphic())).then_some(id)
}

/// Whether the signed content can be split in one way only. With `id.ts.body`, the id `a.1` of one
/// message and the id `a` of another whose body starts with digits and a full stop could share one
/// signature; Standard Webhooks therefore forbids the full stop in ids.
fn unambiguous(preset: &Preset, id: &str) -> bool {
    preset.signed.windows(2).all(|pair| match pair {
        // Its first character: `a:` before `::` is `a` before `:::`.
        [Part::Id, Part::Literal(next)] => !next.chars().next().is_some_and(|first| id.contains(first)),
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
