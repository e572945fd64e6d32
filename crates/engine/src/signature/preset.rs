//! The table of signature schemes.

use super::key::{KeyForm, SecretError};

/// A sender's signature scheme, complete: the verifier knows nothing about any sender beyond this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The name users give to `create_endpoint`.
    pub name: &'static str,
    /// The alternative sets of header names, in order of preference. One request is judged by one
    /// set: names of different sets are never mixed.
    pub headers: &'static [HeaderSet],
    /// How signatures are laid out in the signature header.
    pub grammar: Grammar,
    /// What computes the signature.
    pub algorithm: Algorithm,
    /// How the signature's bytes are written.
    pub encoding: Encoding,
    /// What is signed: these parts, joined without separator.
    pub signed: &'static [Part],
    /// How a secret's text becomes key bytes.
    pub key: KeyForm,
    /// Where the time of the attempt is found, for schemes that sign one.
    pub timestamp: TimestampSource,
    /// What makes two deliveries the same delivery. Signed material only.
    pub dedupe: Dedupe,
    /// An unsigned header with the sender's delivery id. Kept for people to read and search, never
    /// used to decide: whoever captured one signed message can send it again under a fresh id.
    pub hint: Option<&'static str>,
}

/// Header names of one scheme, in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderSet {
    /// Holds the signature or signatures.
    pub signature: &'static str,
    /// Holds the signed delivery id.
    pub id: Option<&'static str>,
    /// Holds the signed timestamp, when a header of its own carries it.
    pub timestamp: Option<&'static str>,
}

/// Layout of the signature header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// The whole value is the signature.
    Bare,
    /// The whole value is this prefix and the signature.
    Prefix(&'static str),
    /// `key=value` pairs; every pair with `signature_key` is a candidate, unknown keys are ignored.
    Kv {
        /// Between pairs. Spaces around a pair are ignored.
        separator: char,
        /// The key of a signature; may be repeated.
        signature_key: &'static str,
    },
    /// Candidates separated by spaces, each `<version>,<signature>`; other versions are ignored.
    SpaceList {
        /// The version this preset understands.
        version: &'static str,
    },
}

/// Signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: 32 bytes.
    HmacSha256,
}

/// Text form of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal, either case.
    Hex,
    /// Base64 in the standard alphabet, with or without padding.
    Base64,
}

/// One part of the signed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The signed delivery id, byte for byte as received.
    Id,
    /// The timestamp, byte for byte as received.
    Timestamp,
    /// The raw body.
    Body,
    /// Fixed text.
    Literal(&'static str),
}

/// Where the signed time of the attempt (Unix seconds) comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampSource {
    /// The scheme signs no time; the tolerance does not apply.
    None,
    /// The header [`HeaderSet::timestamp`].
    Header,
    /// This key of a [`Grammar::Kv`] signature header.
    Kv(&'static str),
}

/// What a delivery is recognised by when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedupe {
    /// The signed delivery id.
    SignedId,
    /// SHA-256 of the raw body, for schemes that sign nothing else. Not the MAC: a sender that
    /// repeats a delivery after its secret was rotated signs the same body differently.
    BodyDigest,
}

/// Every preset there is.
pub static PRESETS: &[Preset] = &[
    // https://www.standardwebhooks.com; Svix sends the same under its own header names.
    Preset {
        name: "standard",
        headers: &[
            HeaderSet {
                signature: "webhook-signature",
                id: Some("webhook-id"),
                timestamp: Some("webhook-timestamp"),
            },
            HeaderSet { signature: "svix-signature", id: Some("svix-id"), timestamp: Some("svix-timestamp") },
        ],
        grammar: Grammar::SpaceList { version: "v1" },
        algorithm: Algorithm::HmacSha256,
        encoding: Encoding::Base64,
        signed: &[Part::Id, Part::Literal("."), Part::Timestamp, Part::Literal("."), Part::Body],
        key: KeyForm::Whsec,
        timestamp: TimestampSource::Header,
        dedupe: Dedupe::SignedId,
        hint: None,
    },
    // The SHA-1 header X-Hub-Signature is not read at all.
    Preset {
        name: "github",
        headers: &[HeaderSet { signature: "x-hub-signature-256", id: None, timestamp: None }],
        grammar: Grammar::Prefix("sha256="),
        algorithm: Algorithm::HmacSha256,
        encoding: Encoding::Hex,
        signed: &[Part::Body],
        key: KeyForm::Raw,
        timestamp: TimestampSource::None,
        dedupe: Dedupe::BodyDigest,
        hint: Some("x-github-delivery"),
    },
];

impl Preset {
    /// The preset of that name, if there is one. Names are lower case and matched exactly.
    pub fn by_name(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|p| p.name == name)
    }

    /// Whether `secret` (its text, as the user holds it) can be a key of this scheme. To be asked
    /// when an endpoint is configured, so that a secret that can never match is refused there.
    pub fn check_secret(&self, secret: &[u8]) -> Result<(), SecretError> {
        self.key.decode(secret).map(|_| ())
    }
}
