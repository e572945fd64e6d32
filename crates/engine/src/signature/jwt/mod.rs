//! Tokens that say who sent a request (RFC 7519), signed as RFC 7515 and RFC 7518 have it.
//!
//! Which algorithms count is the endpoint's say; what a token's header names must be one of them and fit the key, so that
//! neither `none` nor a public key taken for a shared one gets through. The time comes from the caller, as everywhere in
//! the engine: libraries of tokens ask the clock themselves.

mod key;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature as public};
use serde::Deserialize;

use super::headers::Headers;
use super::key::SecretError;
use super::preset::{Dedupe, Grammar, HeaderSet, Preset, Text, TimestampSource};
use super::request::Request;
use super::scheme::{SchemeFault, fault, header};
use super::verify::{Reason, clean_id};
use crate::json::Json;
use key::Key;

/// The name that endpoints whose senders show tokens are made with.
pub const JWT: &str = "jwt";

/// Seconds that clocks may differ.
const LEEWAY: i64 = 60;
/// Longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Most issuers, audiences.
const MAX_NAMES: usize = 20;

/// What is demanded of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    algorithms: Vec<Algorithm>,
    /// Who may have made it; nobody in particular where there are none.
    issuers: Vec<String>,
    /// Whom it may be for. One that names somebody is for nobody else.
    audiences: Vec<String>,
    /// Whether it must say until when it is good.
    expires: bool,
    grammar: Grammar,
}

/// Which keys an algorithm takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Hmac,
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// RFC 7518, section 3.1; RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        Self::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name)).ok()
    }

    fn name(self) -> String {
        format!("{self:?}")
    }

    fn family(self) -> Family {
        match self {
            Self::HS256 | Self::HS384 | Self::HS512 => Family::Hmac,
            Self::ES256 => Family::P256,
            Self::ES384 => Family::P384,
            Self::EdDSA => Family::Ed25519,
            _ => Family::Rsa,
        }
    }

    /// Bytes of its hash: a shared secret must not be shorter (RFC 7518, section 3.2).
    fn hash_bytes(self) -> usize {
        match self {
            Self::HS384 => 48,
            Self::HS512 => 64,
            _ => 32,
        }
    }

    fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::HS256 => Some(hmac::HMAC_SHA256),
            Self::HS384 => Some(hmac::HMAC_SHA384),
            Self::HS512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    fn rsa(self) -> Option<&'static public::RsaParameters> {
        match self {
            Self::RS256 => Some(&public::RSA_PKCS1_2048_8192_SHA256),
            Self::RS384 => Some(&public::RSA_PKCS1_2048_8192_SHA384),
            Self::RS512 => Some(&public::RSA_PKCS1_2048_8192_SHA512),
            Self::PS256 => Some(&public::RSA_PSS_2048_8192_SHA256),
            Self::PS384 => Some(&public::RSA_PSS_2048_8192_SHA384),
            Self::PS512 => Some(&public::RSA_PSS_2048_8192_SHA512),
            _ => None,
        }
    }

    fn curve(self) -> Option<&'static dyn public::VerificationAlgorithm> {
        match self {
            Self::ES256 => Some(&public::ECDSA_P256_SHA256_FIXED),
            Self::ES384 => Some(&public::ECDSA_P384_SHA384_FIXED),
            Self::EdDSA => Some(&public::ED25519),
            _ => None,
        }
    }
}

/// A scheme as a user writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    algorithms: OneOrMore,
    issuer: Option<OneOrMore>,
    audience: Option<OneOrMore>,
    #[serde(default = "yes")]
    expires: bool,
    header: Option<String>,
    dedupe: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn list(self, pointer: &'static str) -> Result<Vec<String>, SchemeFault> {
        let list = match self {
            Self::One(name) => vec![name],
            Self::More(names) => names,
        };
        if (1..=MAX_NAMES).contains(&list.len()) && list.iter().all(|name| !name.is_empty()) {
            return Ok(list);
        }
        fault(pointer, format!("must be a text, or 1 to {MAX_NAMES} of them"))
    }
}

impl Preset {
    /// The scheme of senders that show tokens, from its JSON text.
    ///
    /// # Errors
    /// The first thing in it that is wrong.
    pub fn jwt(text: &str) -> Result<Preset, SchemeFault> {
        let written: Written = serde_json::from_str(text)
            .map_err(|error| SchemeFault { pointer: "", message: error.to_string() })?;
        let algorithms = algorithms(&written.algorithms.list("/algorithms")?)?;
        let (place, grammar) = match written.header.as_deref() {
            None => (Text::from("authorization"), Grammar::Scheme("bearer".into())),
            Some(name) if name.eq_ignore_ascii_case("authorization") => {
                (Text::from("authorization"), Grammar::Scheme("bearer".into()))
            }
            Some(name) => (header("/header", name)?, Grammar::Bare),
        };
        let names =
            |given: Option<OneOrMore>, pointer| given.map_or(Ok(Vec::new()), |given| given.list(pointer));
        let dedupe = match written.dedupe.as_deref() {
            None => Dedupe::BodyDigest,
            Some("jti") if written.expires => Dedupe::SignedId,
            Some("jti") => {
                return fault(
                    "/dedupe",
                    "\"jti\" needs tokens that expire: one could be shown again for ever",
                );
            }
            Some(_) => return fault("/dedupe", "must be \"jti\", or left out: the body"),
        };
        Ok(Preset {
            name: JWT.into(),
            headers: vec![HeaderSet { signature: place, id: None, timestamp: None }],
            proofs: Vec::new(),
            token: Some(Token {
                algorithms,
                issuers: names(written.issuer, "/issuer")?,
                audiences: names(written.audience, "/audience")?,
                expires: written.expires,
                grammar,
            }),
            signed: Vec::new(),
            any_port: false,
            timestamp: TimestampSource::None,
            tolerance_s: LEEWAY,
            dedupe,
            hint: None,
            challenge: None,
        })
    }
}

fn algorithms(names: &[String]) -> Result<Vec<Algorithm>, SchemeFault> {
    const AT: &str = "/algorithms";
    let mut algorithms = Vec::with_capacity(names.len());
    for name in names {
        match Algorithm::named(name) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                return fault(
                    AT,
                    "must be of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
                );
            }
        }
    }
    let shared = algorithms.iter().filter(|algorithm| algorithm.family() == Family::Hmac).count();
    if (1..algorithms.len()).contains(&shared) {
        return fault(AT, "must not mix shared secrets (HS…) with public keys: make an endpoint for each");
    }
    Ok(algorithms)
}

/// What a token proves.
pub(super) struct Proven {
    /// Which secret has its key.
    pub(super) secret_index: usize,
    /// Its `jti`, where it can be an id.
    pub(super) id: Option<String>,
}

impl Token {
    /// Whether keys are shared secrets, so that one can be made.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.algorithms.iter().any(|algorithm| algorithm.family() == Family::Hmac)
    }

    /// Whether `secret` can be a key, or keys, of this scheme.
    pub(super) fn check_secret(&self, secret: &[u8]) -> Result<(), SecretError> {
        Key::all(secret, &self.algorithms).map(drop)
    }

    /// Judges the token of a request: its signature, then its times, then its names.
    pub(super) fn prove<H: Headers + ?Sized>(
        &self,
        place: &str,
        secrets: &[&[u8]],
        tolerance_s: i64,
        now_unix_s: i64,
        request: &Request<'_, H>,
    ) -> Result<Proven, Reason> {
        let value = request.value(place).ok_or_else(|| Reason::MissingHeader(place.to_owned()))?;
        let malformed = || Reason::MalformedHeader(place.to_owned());
        let token = self.grammar.candidates(&value).next().filter(|token| token.len() <= MAX_TOKEN_BYTES);
        let token = token.and_then(Parts::read).ok_or_else(malformed)?;
        let algorithm = token.header.get("alg").and_then(Json::as_str).and_then(Algorithm::named);
        let algorithm = algorithm.filter(|named| self.algorithms.contains(named)).ok_or(Reason::Algorithm)?;
        let secret_index = self.signer(algorithm, &token, secrets)?;
        let claims = token.claims().ok_or_else(malformed)?;
        self.check_times(&claims, tolerance_s.max(0), now_unix_s)?;
        self.check_names(&claims)?;
        let id = claims.get("jti").and_then(Json::as_str).and_then(clean_id).map(str::to_owned);
        Ok(Proven { secret_index, id })
    }

    /// Which secret has the key that signed a token. A key without an id may be the one that any token names.
    fn signer(&self, algorithm: Algorithm, token: &Parts, secrets: &[&[u8]]) -> Result<usize, Reason> {
        let kid = token.header.get("kid").and_then(Json::as_str);
        let is_meant = |key: &Key| match (&key.id, kid) {
            (Some(id), Some(kid)) => id == kid,
            _ => true,
        };
        let (mut usable, mut matched) = (false, None);
        for (index, secret) in secrets.iter().enumerate() {
            let Ok(keys) = Key::all(secret, &self.algorithms) else { continue };
            usable = true;
            for key in keys.iter().filter(|key| key.fits(algorithm) && is_meant(key)) {
                // No early exit: how long this takes must not tell which secret matched.
                if key.has_signed(algorithm, token.signed, &token.signature) && matched.is_none() {
                    matched = Some(index);
                }
            }
        }
        matched.ok_or(if usable { Reason::NoMatch } else { Reason::NoSecret })
    }

    fn check_times(&self, claims: &Json, leeway: i64, now: i64) -> Result<(), Reason> {
        let expires = seconds(claims, "exp")?;
        if self.expires && expires.is_none() {
            return Err(Reason::Claim("exp"));
        }
        if expires.is_some_and(|at| now >= at.saturating_add(leeway)) {
            return Err(Reason::TooOld);
        }
        for begin in ["nbf", "iat"] {
            if seconds(claims, begin)?.is_some_and(|at| at > now.saturating_add(leeway)) {
                return Err(Reason::TooNew);
            }
        }
        Ok(())
    }

    fn check_names(&self, claims: &Json) -> Result<(), Reason> {
        let issuer = claims.get("iss").and_then(Json::as_str);
        let is_issuers = issuer.is_some_and(|issuer| self.issuers.iter().any(|known| known == issuer));
        if !self.issuers.is_empty() && !is_issuers {
            return Err(Reason::Claim("iss"));
        }
        let is_ours =
            |name: &Json| name.as_str().is_some_and(|name| self.audiences.iter().any(|ours| ours == name));
        let is_for_us = match claims.get("aud") {
            // RFC 7519, section 4.1.3: whoever is not named must refuse it.
            Some(Json::Arr(names)) => names.iter().any(is_ours),
            Some(name) => is_ours(name),
            None => self.audiences.is_empty(),
        };
        if is_for_us { Ok(()) } else { Err(Reason::Claim("aud")) }
    }
}

/// A claim that is a time, in Unix seconds, rounded down.
fn seconds(claims: &Json, name: &'static str) -> Result<Option<i64>, Reason> {
    let Some(claim) = claims.get(name) else { return Ok(None) };
    let Json::Num(number) = claim else { return Err(Reason::Claim(name)) };
    let float = || number.as_f64().filter(|float| float.is_finite()).map(|float| float.floor() as i64);
    number.as_i64().or_else(float).map(Some).ok_or(Reason::Claim(name))
}

/// A token taken apart (RFC 7515, section 7.1).
struct Parts<'t> {
    header: Json,
    claims: &'t str,
    /// What is signed.
    signed: &'t [u8],
    signature: Vec<u8>,
}

impl<'t> Parts<'t> {
    fn read(token: &'t str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        let header = object(header)?;
        // What must be understood is not.
        if header.get("crit").is_some() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { header, claims, signed: signed.as_bytes(), signature })
    }

    fn claims(&self) -> Option<Json> {
        object(self.claims)
    }
}

fn object(text: &str) -> Option<Json> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Json::parse(std::str::from_utf8(&bytes).ok()?).ok().filter(|json| json.as_obj().is_some())
}
