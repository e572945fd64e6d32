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

/// How a secret's text becomes key bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// The text's bytes, undecoded.
    Raw,
    /// `whsec_` and the base64 of 24 to 64 bytes. The prefix is required: it keeps a public key
    /// (`whpk_`) or a secret of another scheme from becoming an HMAC key.
    Whsec,
}

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
            Key::Decoded(buffer) => buffer.bytes.get(..buffer.len).unwrap_or_default(),
        }
    }
}

pub(super) struct WipedBuffer {
    // Larger than any key: the decoder's estimate of the space it needs is rounded up.
    bytes: [u8; WHSEC_MAX + 8],
    len: usize,
}

impl Drop for WipedBuffer {
    fn drop(&mut self) {
        self.bytes.fill(0);
        // Keeps the compiler from dropping the write above as dead.
        std::hint::black_box(&self.bytes);
    }
}

impl KeyForm {
    pub(super) fn decode(self, secret: &[u8]) -> Result<Key<'_>, SecretError> {
        // A bare prefix is the classic half-pasted secret, whatever the scheme.
        if secret.is_empty() || secret == WHSEC_PREFIX {
            return Err(SecretError::Empty);
        }
        match self {
            KeyForm::Raw => Ok(Key::Raw(secret)),
            KeyForm::Whsec => {
                let text = secret.strip_prefix(WHSEC_PREFIX).ok_or(SecretError::MissingPrefix)?;
                let mut buffer = WipedBuffer { bytes: [0; WHSEC_MAX + 8], len: 0 };
                // Longer text cannot be a key, and would not fit the buffer.
                if text.len() > WHSEC_MAX.div_ceil(3) * 4 {
                    return Err(SecretError::WrongLength);
                }
                buffer.len =
                    BASE64.decode_slice(text, &mut buffer.bytes).map_err(|_| SecretError::NotBase64)?;
                if !(WHSEC_MIN..=WHSEC_MAX).contains(&buffer.len) {
                    return Err(SecretError::WrongLength);
                }
                Ok(Key::Decoded(buffer))
            }
        }
    }
}
