//! From a secret's text to key bytes.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Standard alphabet; padding may be there or not, since senders differ.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const WHSEC_PREFIX: &[u8] = b"whsec_";
const WHSEC_MIN: usize = 24;
const WHSEC_MAX: usize = 64;
/// Shortest key that is written as bytes.
const KEY_MIN: usize = 16;
const ED25519_KEY: usize = 32;
/// More than any key has.
const MAX_DECODED: usize = 108;

/// How a secret's text becomes key bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// The text's bytes, undecoded.
    Raw,
    /// `whsec_` and the base64 of 24 to 64 bytes. The prefix is required: it keeps a public key
    /// (`whpk_`) or a secret of another scheme from becoming an HMAC key.
    Whsec,
    /// The base64 of 16 to 64 bytes.
    Base64,
    /// The hexadecimal of 16 to 64 bytes.
    Hex,
    /// `<user>:<password>`.
    Pair,
    /// `whpk_` and the base64 of an Ed25519 public key.
    Whpk,
    /// An Ed25519 public key in hexadecimal.
    Ed25519Hex,
    /// A P-256 public key, as the base64 of its SubjectPublicKeyInfo (RFC 5480).
    P256Spki,
}

/// What stands before the point of a P-256 key in its SubjectPublicKeyInfo.
const P256_SPKI_HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of an uncompressed point of P-256.
const P256_POINT: usize = 65;

/// Why a secret cannot be used with a preset. Never contains the secret or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is nothing, or nothing after `whsec_`. An empty key would accept whatever anybody signs.
    #[error("secret is empty")]
    Empty,
    /// The scheme's secrets start with `whsec_`.
    #[error("secret must start with whsec_")]
    MissingPrefix,
    /// What follows `whsec_` is not base64.
    #[error("secret must be whsec_ followed by base64 in the standard alphabet")]
    NotBase64,
    /// The key has fewer than 24 or more than 64 bytes.
    #[error("secret must decode to 24 to 64 bytes")]
    WrongLength,
    /// It is not the base64 or the hexadecimal of 16 to 64 bytes.
    #[error("secret must be the {0} of 16 to 64 bytes")]
    NotBytes(&'static str),
    /// HTTP's basic authentication knows users and passwords.
    #[error("secret must be user:password")]
    NotAPair,
    /// It is not a public key of the kind that the scheme verifies with.
    #[error("secret must be the sender's public key: {0}")]
    NotAPublicKey(&'static str),
    /// It is a public key, which everybody knows.
    #[error("secret must be a shared secret, and this is a public key")]
    NotShared,
    /// Whoever has seen a token could find it by trying.
    #[error("secret must have at least {0} bytes")]
    TooShort(usize),
    /// A header cannot hold it.
    #[error(
        "secret must be at most 1024 bytes in the header, without control characters and space around it"
    )]
    NotAToken,
    /// The scheme takes whatever comes.
    #[error("this scheme has no secret")]
    NoneNeeded,
}

/// Key bytes. Decoded ones live in a fixed buffer that is wiped when dropped.
pub(super) enum Key<'a> {
    Raw(&'a [u8]),
    Decoded(WipedBuffer),
}

impl Key<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Key::Raw(bytes) => bytes,
            Key::Decoded(buffer) => buffer.bytes(),
        }
    }
}

pub(super) struct WipedBuffer {
    // Larger than any key: the decoder's estimate of the space it needs is rounded up.
    bytes: [u8; MAX_DECODED],
    len: usize,
}

impl Drop for WipedBuffer {
    fn drop(&mut self) {
        self.bytes.fill(0);
        // Keeps the compiler from dropping the write above as dead.
        std::hint::black_box(&self.bytes);
    }
}

impl WipedBuffer {
    /// Decodes base64; `None` for what is none, or too much.
    fn base64(text: &[u8]) -> Option<Self> {
        let mut buffer = WipedBuffer { bytes: [0; MAX_DECODED], len: 0 };
        // Longer text cannot be a key, and would not fit.
        if text.len() > MAX_DECODED / 3 * 4 - 8 {
            return None;
        }
        buffer.len = BASE64.decode_slice(text, &mut buffer.bytes).ok()?;
        Some(buffer)
    }

    fn hex(text: &[u8]) -> Option<Self> {
        let mut buffer = WipedBuffer { bytes: [0; MAX_DECODED], len: text.len() / 2 };
        let space = buffer.bytes.get_mut(..text.len() / 2)?;
        hex::decode_to_slice(text, space).ok()?;
        Some(buffer)
    }

    /// Only what comes from this place on.
    fn skip(mut self, begin: usize) -> Self {
        self.bytes.copy_within(begin..self.len, 0);
        self.len -= begin;
        self
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl KeyForm {
    pub(super) fn decode(self, secret: &[u8]) -> Result<Key<'_>, SecretError> {
        // A bare prefix is the classic half-pasted secret, whatever the scheme.
        if secret.is_empty() || secret == WHSEC_PREFIX {
            return Err(SecretError::Empty);
        }
        let decoded = match self {
            KeyForm::Raw => return Ok(Key::Raw(secret)),
            KeyForm::Pair if secret.iter().position(|byte| *byte == b':').is_some_and(|at| at > 0) => {
                return Ok(Key::Raw(secret));
            }
            KeyForm::Pair => return Err(SecretError::NotAPair),
            KeyForm::Whsec => {
                let text = secret.strip_prefix(WHSEC_PREFIX).ok_or(SecretError::MissingPrefix)?;
                if text.len() > WHSEC_MAX.div_ceil(3) * 4 {
                    return Err(SecretError::WrongLength);
                }
                let key = WipedBuffer::base64(text).ok_or(SecretError::NotBase64)?;
                if !(WHSEC_MIN..=WHSEC_MAX).contains(&key.len) {
                    return Err(SecretError::WrongLength);
                }
                key
            }
            KeyForm::Base64 => of_bytes(WipedBuffer::base64(secret), "base64")?,
            KeyForm::Hex => of_bytes(WipedBuffer::hex(secret), "hexadecimal")?,
            KeyForm::Whpk => {
                let text = secret.strip_prefix(b"whpk_");
                text.and_then(WipedBuffer::base64)
                    .filter(|key| key.len == ED25519_KEY)
                    .ok_or(SecretError::NotAPublicKey("whpk_ and the base64 of 32 bytes"))?
            }
            KeyForm::Ed25519Hex => WipedBuffer::hex(secret)
                .filter(|key| key.len == ED25519_KEY)
                .ok_or(SecretError::NotAPublicKey("32 bytes in hexadecimal"))?,
            KeyForm::P256Spki => WipedBuffer::base64(secret)
                .filter(|key| {
                    key.len == P256_SPKI_HEADER.len() + P256_POINT
                        && key.bytes().starts_with(&P256_SPKI_HEADER)
                })
                .ok_or(SecretError::NotAPublicKey("the base64 of a P-256 key's SubjectPublicKeyInfo"))?
                .skip(P256_SPKI_HEADER.len()),
        };
        Ok(Key::Decoded(decoded))
    }
}

/// A key that is written as bytes, if it is one.
fn of_bytes(decoded: Option<WipedBuffer>, form: &'static str) -> Result<WipedBuffer, SecretError> {
    decoded.filter(|key| (KEY_MIN..=WHSEC_MAX).contains(&key.len)).ok_or(SecretError::NotBytes(form))
}
