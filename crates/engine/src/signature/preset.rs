//! What a signature scheme consists of. The verifier knows nothing about any sender beyond this.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::challenge::Challenge;
use super::jwt::Token;
use super::key::{KeyForm, SecretError};

/// Text that is fixed in the table, or comes from an endpoint's own scheme.
pub type Text = Cow<'static, str>;

/// A sender's signature scheme, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// The name users give to `create_endpoint`.
    pub name: Text,
    /// The alternative sets of header names, in order of preference. One request is judged by one
    /// set: names of different sets are never mixed.
    pub headers: Vec<HeaderSet>,
    /// What proves who sent it: any of these. None at all, and no token, takes whatever comes.
    pub proofs: Vec<Proof>,
    /// What is demanded of the token that proves who sent it, where one does.
    pub token: Option<Token>,
    /// What is signed: these parts, joined without separator.
    pub signed: Vec<Part>,
    /// Whether the sender may have signed the address with its port or without.
    pub any_port: bool,
    /// Where the time of the attempt is found, for schemes that sign one.
    pub timestamp: TimestampSource,
    /// How far that time may lie from now, in seconds, where the endpoint does not say.
    pub tolerance_s: i64,
    /// What makes two deliveries the same delivery. Signed material only.
    pub dedupe: Dedupe,
    /// An unsigned header with the sender's delivery id. Kept for people to read and search, never
    /// used to decide: whoever captured one signed message can send it again under a fresh id.
    pub hint: Option<Text>,
    /// What the sender asks of an address before it sends anything to it.
    pub challenge: Option<Challenge>,
}

/// Where one scheme's values are: names of headers in lower case, or of a parameter of the query, with a `?` before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderSet {
    /// Holds the signature or signatures.
    pub signature: Text,
    /// Holds the signed delivery id.
    pub id: Option<Text>,
    /// Holds the signed timestamp, when a header of its own carries it.
    pub timestamp: Option<Text>,
}

/// One way to prove who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// How proofs are laid out in the header.
    pub grammar: Grammar,
    /// What computes one.
    pub algorithm: Algorithm,
    /// How its bytes are written.
    pub encoding: Encoding,
    /// How a secret's text becomes key bytes.
    pub key: KeyForm,
}

/// Layout of the signature header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// The whole value is the signature.
    Bare,
    /// The whole value is this prefix and the signature.
    Prefix(Text),
    /// The value is this scheme of HTTP authentication (RFC 9110), in any case, and the credentials.
    Scheme(Text),
    /// `key=value` pairs; every pair with `signature_key` is a candidate, unknown keys are ignored.
    Kv {
        /// Between pairs. Spaces around a pair are ignored.
        separator: char,
        /// The key of a signature; may be repeated.
        signature_key: Text,
    },
    /// Candidates separated by spaces, each `<version>,<signature>`; other versions are ignored.
    SpaceList {
        /// The version this proof is about.
        version: Text,
    },
}

/// What computes a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-1: 20 bytes. For senders that know nothing better.
    HmacSha1,
    /// HMAC with SHA-256: 32 bytes.
    HmacSha256,
    /// HMAC with SHA-512: 64 bytes.
    HmacSha512,
    /// Ed25519: 64 bytes.
    Ed25519,
    /// ECDSA over P-256 with SHA-256, in DER.
    EcdsaP256,
    /// The secret itself. It proves that the sender knows it, and nothing about the content.
    Token,
}

/// Text form of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal, either case.
    Hex,
    /// Base64 in the standard alphabet, with or without padding.
    Base64,
    /// As it is.
    Plain,
}

/// One part of the signed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The signed delivery id, byte for byte as received.
    Id,
    /// The timestamp, byte for byte as received.
    Timestamp,
    /// The raw body.
    Body,
    /// The address the sender was given, with its query.
    Url,
    /// The pairs of a form, names and values, sorted by name, each once. Of any other body nothing: the signed address
    /// must then have a parameter `bodySHA256` with its digest in hexadecimal.
    Form,
    /// Fixed text.
    Literal(Text),
}

/// Where the signed time of the attempt comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimestampSource {
    /// The scheme signs no time; the tolerance does not apply.
    None,
    /// The header [`HeaderSet::timestamp`]: Unix seconds.
    Header,
    /// This key of a [`Grammar::Kv`] signature header: Unix seconds.
    Kv(Text),
    /// This place of the body, a JSON pointer: Unix milliseconds.
    Body(Text),
}

/// What a delivery is recognised by when it comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dedupe {
    /// The signed delivery id; of a token its `jti`.
    SignedId,
    /// What stands at this place of the signed body, a JSON pointer: a text or a number; where none does, as
    /// [`Dedupe::BodyDigest`].
    BodyField(Text),
    /// SHA-256 of what is signed, for schemes that sign more than the body, or the body in other words: the same
    /// signature fits several bodies there.
    SignedContent,
    /// SHA-256 of the raw body, for schemes that sign nothing else. Not the MAC: a sender that
    /// repeats a delivery after its secret was rotated signs the same body differently. Of the query too where nothing
    /// is signed.
    BodyDigest,
}

/// What stands for the value of a header that proves something.
pub const REDACTED: &str = "[redacted]";
/// Parts of names of headers that prove something, whatever the scheme.
const TELLING: [&str; 13] = [
    "access-key",
    "api-key",
    "apikey",
    "auth",
    "cookie",
    "credential",
    "hmac",
    "jwt",
    "password",
    "secret",
    "session",
    "signature",
    "token",
];

impl Preset {
    /// Whether the address is part of what is signed, so that it must be known as the sender has it.
    #[must_use]
    pub fn signs_url(&self) -> bool {
        self.signed.contains(&Part::Url)
    }

    /// Whether the proof stands in a header of this name, in lower case.
    #[must_use]
    pub fn looks_at(&self, header: &str) -> bool {
        self.headers.iter().any(|set| *set.signature == *header)
    }

    /// Whether what proves the sender says anything about the delivery. A token does not: whoever has it can send whatever
    /// they like, so that recognising a delivery protects from repeats only.
    #[must_use]
    pub fn signs(&self) -> bool {
        self.proofs.iter().any(|proof| proof.algorithm != Algorithm::Token)
    }

    /// Whether the query holds the secret, so that it must not be kept.
    #[must_use]
    pub fn is_secret_in_query(&self) -> bool {
        self.headers.iter().any(|set| set.signature.starts_with('?'))
    }

    /// A request's headers as they may be kept: what proves who somebody is reads [`REDACTED`].
    #[must_use]
    pub fn redacted(&self, headers: &Map<String, Value>) -> Map<String, Value> {
        let is_proof = |name: &str| self.headers.iter().any(|set| set.signature.eq_ignore_ascii_case(name));
        let is_told = |name: &str| {
            let name = name.to_ascii_lowercase();
            TELLING.iter().any(|part| name.contains(part))
        };
        // A proxy may have put the address, and with it the secret, into a header of its own.
        let is_address = |value: &Value| {
            let holds = |text: &str| text.contains('?') || text.contains("secret=");
            self.is_secret_in_query() && value.as_str().is_some_and(holds)
        };
        let kept = |(name, value): (&String, &Value)| {
            let hidden = is_proof(name) || is_told(name) || is_address(value);
            (name.clone(), if hidden { Value::from(REDACTED) } else { value.clone() })
        };
        headers.iter().map(kept).collect()
    }

    /// Whether `secret` (its text, as the user holds it) can be a key of this scheme. To be asked
    /// when an endpoint is configured, so that a secret that can never match is refused there.
    ///
    /// # Errors
    /// Why it cannot, by the first way the scheme has to prove something.
    pub fn check_secret(&self, secret: &[u8]) -> Result<(), SecretError> {
        if let Some(token) = &self.token {
            return token.check_secret(secret);
        }
        let mut reasons = self.proofs.iter().map(|proof| {
            proof.key.decode(secret)?;
            if proof.algorithm == Algorithm::Token { proof.encoding.check_token(secret) } else { Ok(()) }
        });
        let first = reasons.next().unwrap_or(Err(SecretError::NoneNeeded));
        if first.is_ok() || reasons.any(|other| other.is_ok()) { Ok(()) } else { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_something_is_not_kept() {
        let headers = serde_json::json!({
            "content-type": "application/json", "x-gitlab-token": "a", "authorization": "b", "Cookie": "c",
            "x-github-event": "push", "idempotency-key": "k"
        });
        let kept = Preset::by_name("gitlab_token").unwrap().redacted(headers.as_object().unwrap());
        let mut expected = headers.clone();
        for name in ["x-gitlab-token", "authorization", "Cookie"] {
            expected[name] = Value::from(REDACTED);
        }
        assert_eq!(Value::Object(kept), expected);
        // The address holds the secret.
        let proxied = serde_json::json!({"x-original-uri": "/hooks/e?secret=s", "x-request-id": "r"});
        let kept = Preset::by_name("url_secret").unwrap().redacted(proxied.as_object().unwrap());
        assert_eq!(
            (&kept["x-original-uri"], &kept["x-request-id"]),
            (&Value::from(REDACTED), &proxied["x-request-id"])
        );
        // Names that tell nothing are hidden where they hold the proof.
        let own = Preset::own(r#"{"header": "X-Proof"}"#).unwrap();
        let kept = own.redacted(serde_json::json!({"x-proof": "a"}).as_object().unwrap());
        assert_eq!(kept["x-proof"], REDACTED);
    }
}
