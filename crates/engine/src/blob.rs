//! Bodies that are too large for a log: they lie beside it under the SHA-256 of their bytes, and the log has a reference,
//! `{"sha256", "size", "content_type"}`. Whoever decides the same has the same bytes, and so the same reference.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::json::Json;

/// Largest body that stands in a log, in bytes.
pub const MAX_INLINE_BYTES: usize = 64 << 10;

/// The SHA-256 that a blob is known by.
pub type Hash = [u8; 32];

/// A body to be kept beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the bytes.
    pub sha256: Hash,
    /// The body.
    pub bytes: Vec<u8>,
    /// What it is.
    pub content_type: &'static str,
}

impl Blob {
    fn new(bytes: Vec<u8>, content_type: &'static str) -> Self {
        Self { sha256: Sha256::digest(&bytes).into(), bytes, content_type }
    }

    /// What a request has in the field `name`, if that is too large for a log: bytes as base64 in `body_base64`, else a
    /// string as it is and anything else as JSON. What is no base64 stays for whoever sends it to refuse.
    #[must_use]
    pub fn of_field(name: &str, value: &Json) -> Option<Self> {
        if !value.exceeds(MAX_INLINE_BYTES) {
            return None;
        }
        let blob = match (name, value) {
            ("body_base64", Json::Str(text)) => {
                Self::new(STANDARD.decode(text.trim()).ok()?, "application/octet-stream")
            }
            ("body", Json::Str(text)) => Self::new(text.as_bytes().to_vec(), "text/plain; charset=utf-8"),
            ("body", value) => Self::new(value.to_string().into_bytes(), "application/json"),
            _ => return None,
        };
        (blob.bytes.len() > MAX_INLINE_BYTES).then_some(blob)
    }

    /// What stands in the log.
    #[must_use]
    pub fn reference(&self) -> Json {
        Json::object([
            ("sha256", Json::from(hex::encode(self.sha256))),
            ("size", Json::from(i64::try_from(self.bytes.len()).unwrap_or(i64::MAX))),
            ("content_type", Json::from(self.content_type)),
        ])
    }
}

/// Whether a value refers to a blob.
#[must_use]
pub fn is_reference(value: &Json) -> bool {
    value.get("sha256").and_then(Json::as_str).and_then(hash).is_some()
}

/// A hash from its 64 hexadecimal digits.
#[must_use]
pub fn hash(text: &str) -> Option<Hash> {
    hex::decode(text).ok()?.try_into().ok()
}

/// Whatever a JSON text, compact or as jsonb prints it, may refer to: the hashes that follow a member called `sha256`. One
/// that is none does no harm.
#[must_use]
pub fn references_in(text: &str) -> BTreeSet<Hash> {
    const NAME: &str = "\"sha256\"";
    let mut found = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find(NAME) {
        rest = &rest[at + NAME.len()..];
        let value = rest.trim_start_matches([' ', ':']).strip_prefix('"');
        found.extend(value.and_then(|value| value.get(..64)).and_then(hash));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_larger_than_a_log_takes() {
        let text = |len: usize| Json::from("x".repeat(len));
        assert_eq!(Blob::of_field("body", &text(MAX_INLINE_BYTES)), None);
        let blob = Blob::of_field("body", &text(MAX_INLINE_BYTES + 1)).unwrap();
        assert_eq!(
            (blob.bytes.len(), blob.content_type),
            (MAX_INLINE_BYTES + 1, "text/plain; charset=utf-8")
        );
        let list = Json::array((0..20_000).map(Json::from));
        let blob = Blob::of_field("body", &list).unwrap();
        assert_eq!((blob.bytes, blob.content_type), (list.to_string().into_bytes(), "application/json"));
        let bytes = vec![7; MAX_INLINE_BYTES + 1];
        let blob = Blob::of_field("body_base64", &Json::from(STANDARD.encode(&bytes))).unwrap();
        assert_eq!(blob.bytes, bytes);
        // A third larger as base64 than it is.
        assert_eq!(
            Blob::of_field("body_base64", &Json::from(STANDARD.encode(vec![7; MAX_INLINE_BYTES]))),
            None
        );
        assert_eq!(Blob::of_field("body_base64", &text(MAX_INLINE_BYTES * 2 - 1)), None);
        assert_eq!(Blob::of_field("form", &Json::object([("a", text(MAX_INLINE_BYTES))])), None);
    }

    #[test]
    fn references_are_found_in_both_spellings() {
        let blob = Blob::new(b"hello".to_vec(), "text/plain");
        let reference = blob.reference();
        assert!(is_reference(&reference));
        let compact = Json::object([("a", reference.clone()), ("b", reference.clone())]).to_string();
        let spaced = compact.replace(':', ": ");
        for text in [&compact, &spaced] {
            assert_eq!(references_in(text), BTreeSet::from([blob.sha256]));
        }
        for none in ["", r#""sha256""#, r#"{"sha256":"12"}"#, r#"{"sha256":7}"#, r#"{"sha256":"ééééé"}"#]
        {
            assert_eq!(references_in(none), BTreeSet::new(), "{none}");
        }
        for none in ["{}", "7", r#"{"sha256":"12"}"#, r#"{"sha256":null}"#] {
            assert!(!is_reference(&Json::parse(none).unwrap()), "{none}");
        }
    }
}
