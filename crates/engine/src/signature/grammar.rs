//! Reading (and, for clients, writing) the signature header.

use base64::Engine as _;

use super::key::{BASE64, SecretError};
use super::preset::{Encoding, Grammar};

/// Longest text of a proof: a token's. Signatures are shorter.
const MAX_PROOF_BYTES: usize = 1024;

impl Grammar {
    /// The texts in `value` that may be proofs of this kind, in order.
    pub(super) fn candidates<'v>(&'v self, value: &'v str) -> Box<dyn Iterator<Item = &'v str> + 'v> {
        match self {
            Grammar::Bare => Box::new(std::iter::once(value.trim())),
            Grammar::Prefix(prefix) => Box::new(value.trim().strip_prefix(&**prefix).into_iter()),
            Grammar::Scheme(scheme) => Box::new(credentials(value, scheme).into_iter()),
            Grammar::Kv { separator, signature_key } => Box::new(
                pairs(value, *separator).filter_map(move |(k, v)| (k == &**signature_key).then_some(v)),
            ),
            Grammar::SpaceList { version } => {
                Box::new(value.split_ascii_whitespace().filter_map(move |item| {
                    item.strip_prefix(&**version).and_then(|rest| rest.strip_prefix(','))
                }))
            }
        }
    }

    /// The value of `key` in a `key=value` header, if exactly one is there: were the first of two
    /// taken, somebody who can prepend to the header could choose which time is signed.
    pub(super) fn single_value<'v>(&self, value: &'v str, key: &str) -> Option<&'v str> {
        let Grammar::Kv { separator, .. } = self else {
            return None;
        };
        let mut found = pairs(value, *separator).filter_map(|(k, v)| (k == key).then_some(v));
        match (found.next(), found.next()) {
            (Some(v), None) => Some(v),
            _ => None,
        }
    }

    /// The header value that carries `signature`; `timestamp` is the `key=value` pair that precedes
    /// it in a [`Grammar::Kv`] header.
    pub(super) fn write(&self, signature: &str, timestamp: Option<(&str, i64)>) -> String {
        match self {
            Grammar::Bare => signature.to_owned(),
            Grammar::Prefix(prefix) => format!("{prefix}{signature}"),
            Grammar::Scheme(scheme) => format!("{scheme} {signature}"),
            Grammar::Kv { separator, signature_key } => match timestamp {
                Some((key, ts)) => format!("{key}={ts}{separator}{signature_key}={signature}"),
                None => format!("{signature_key}={signature}"),
            },
            Grammar::SpaceList { version } => format!("{version},{signature}"),
        }
    }
}

fn pairs(value: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    value.split(separator).filter_map(|pair| pair.trim().split_once('='))
}

/// What follows the name of a scheme of HTTP authentication.
fn credentials<'v>(value: &'v str, scheme: &str) -> Option<&'v str> {
    let (name, credentials) = value.trim().split_once(' ')?;
    name.eq_ignore_ascii_case(scheme).then(|| credentials.trim_start())
}

impl Encoding {
    /// The bytes that `text` stands for, if it is well-formed and no longer than proofs are. Length and form are the
    /// sender's and public, so that nothing is given away here.
    pub(super) fn decode(self, text: &str) -> Option<Vec<u8>> {
        if text.is_empty() || text.len() > MAX_PROOF_BYTES {
            return None;
        }
        match self {
            Encoding::Hex => hex::decode(text).ok(),
            Encoding::Base64 => BASE64.decode(text).ok(),
            Encoding::Plain => Some(text.as_bytes().to_vec()),
        }
    }

    /// Whether a token can be in a header: of white space around it, of control characters and of what is too long the
    /// verifier never sees all.
    pub(super) fn check_token(self, token: &[u8]) -> Result<(), SecretError> {
        let written = self.encode(token);
        let is_whole = written.trim() == written && !written.chars().any(char::is_control);
        if is_whole && written.len() <= MAX_PROOF_BYTES { Ok(()) } else { Err(SecretError::NotAToken) }
    }

    pub(super) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Hex => hex::encode(bytes),
            Encoding::Base64 => BASE64.encode(bytes),
            Encoding::Plain => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}
