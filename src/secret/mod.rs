//! Sealing what the server itself must be able to open: the secrets that verify senders. And signing what it gives
//! out and gets back.
//!
//! AES-256-GCM under a key-encryption key (KEK) that lives in a file, never in the database. Clear text
//! exists in this backend's memory only. Layout: version 1, length of the KEK's id, id, 96-bit nonce,
//! ciphertext with tag. The place a secret belongs to is authenticated along, so that a row moved
//! elsewhere does not open.

pub mod sent;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use pgrx::PgSqlErrorCode;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::{Refusal, bug, refuse};
use crate::guc;
use crate::random;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TOKEN_VERSION: u8 = 1;
/// Bytes of a token's HMAC.
const MAC_BYTES: usize = 16;
/// Longest text of a token that is looked at.
const MAX_TOKEN_BYTES: usize = 2_048;

/// A key-encryption key.
struct Kek {
    id: String,
    key: Zeroizing<Vec<u8>>,
}

/// Why nothing can be sealed or opened. The text names files and ids, never keys.
#[derive(Debug)]
pub struct SecretError(pub String);

impl SecretError {
    /// Begins the error of what cannot be done without keys.
    pub fn refuse(self, message: &str) -> Refusal {
        refuse(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, message).detail(self.0).hint(
            "Set meshhook.kek_file to a file of mode 0600 with a line \"id:base64 of 32 random bytes\", and reload.",
        )
    }
}

/// A key that signs, derived from a KEK for one purpose.
pub struct SigningKey {
    id: String,
    key: Zeroizing<[u8; 32]>,
}

impl SigningKey {
    /// That of the KEK that seals.
    pub fn primary(purpose: &str) -> Result<Self, SecretError> {
        // A file without a key is refused when it is read.
        let kek = ring()?.into_iter().next();
        kek.map(|kek| Self::derived(kek, purpose))
            .ok_or_else(|| SecretError("the key file has no key".to_owned()))
    }

    /// That of a KEK by its id, if it is there.
    fn named(id: &str, purpose: &str) -> Result<Option<Self>, SecretError> {
        Ok(ring()?.into_iter().find(|kek| kek.id == id).map(|kek| Self::derived(kek, purpose)))
    }

    fn derived(kek: Kek, purpose: &str) -> Self {
        let key = Zeroizing::new(mac(&kek.key[..], purpose.as_bytes()).finalize().into_bytes().into());
        Self { id: kek.id, key }
    }

    /// A text for URLs that says something, signed. Before base64url: version 1, length of the KEK's id, id, what is said;
    /// then the first 128 bits of an HMAC-SHA-256 over all that, under this key.
    pub fn token(&self, said: &[u8]) -> String {
        let mut bytes = vec![TOKEN_VERSION, u8::try_from(self.id.len()).unwrap_or(u8::MAX)];
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(said);
        let mac = mac(&self.key[..], &bytes).finalize().into_bytes();
        bytes.extend(mac.into_iter().take(MAC_BYTES));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token says; `None` where nobody with one of the keys has signed it for this purpose.
    pub fn said(token: &str, purpose: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let bytes = Some(token).filter(|text| text.len() <= MAX_TOKEN_BYTES);
        let bytes = bytes.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).unwrap_or_default();
        let Some((signed, given)) = bytes.split_last_chunk::<MAC_BYTES>() else { return Ok(None) };
        let Some((id, said)) = Self::split(signed) else { return Ok(None) };
        let key = Self::named(&id, purpose)?;
        // Takes as long for any that is wrong.
        let is_signed = |key: &Self| mac(&key.key[..], signed).verify_truncated_left(given).is_ok();
        Ok(key.filter(is_signed).map(|_| said.to_vec()))
    }

    /// The KEK's id, and what is said, signed or not.
    fn split(bytes: &[u8]) -> Option<(String, &[u8])> {
        let (_, rest) = bytes.split_first().filter(|(version, _)| **version == TOKEN_VERSION)?;
        let (length, rest) = rest.split_first()?;
        let (id, said) = rest.split_at_checked(usize::from(*length))?;
        Some((String::from_utf8(id.to_vec()).ok()?, said))
    }
}

fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let Ok(mut mac) = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key) else {
        bug("an HMAC does not take its key")
    };
    mac.update(text);
    mac
}

/// Seals a secret for the place it belongs to.
pub fn seal(clear: &[u8], place: &str) -> Result<Vec<u8>, SecretError> {
    let ring = ring()?;
    let primary = ring.first().ok_or_else(|| SecretError("the key file has no key".to_owned()))?;
    let nonce = random::bytes::<NONCE_BYTES>();
    let sealed = cipher(primary)?
        .encrypt(&Nonce::from(nonce), Payload { msg: clear, aad: place.as_bytes() })
        .map_err(|_| SecretError("the secret cannot be sealed".to_owned()))?;
    let mut out = vec![VERSION, u8::try_from(primary.id.len()).unwrap_or(u8::MAX)];
    out.extend_from_slice(primary.id.as_bytes());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Opens what was sealed for this place.
pub fn open(sealed: &[u8], place: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let broken = || SecretError("a sealed secret is damaged".to_owned());
    let (version, rest) = sealed.split_first().ok_or_else(broken)?;
    if *version != VERSION {
        return Err(SecretError(format!(
            "a secret is sealed in form {version}, which this release does not know"
        )));
    }
    let (length, rest) = rest.split_first().ok_or_else(broken)?;
    let (id, rest) = rest.split_at_checked(usize::from(*length)).ok_or_else(broken)?;
    let (nonce, cipher_text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(broken)?;
    let ring = ring()?;
    let kek = ring
        .iter()
        .find(|kek| kek.id.as_bytes() == id)
        .ok_or_else(|| SecretError(format!("the key file has no key \"{}\"", String::from_utf8_lossy(id))))?;
    let clear =
        cipher(kek)?.decrypt(&Nonce::from(*nonce), Payload { msg: cipher_text, aad: place.as_bytes() });
    clear.map(Zeroizing::new).map_err(|_| broken())
}

/// Ids of the keys at hand, the sealing one first.
pub fn key_ids() -> Result<Vec<String>, SecretError> {
    Ok(ring()?.into_iter().map(|kek| kek.id).collect())
}

fn cipher(kek: &Kek) -> Result<Aes256Gcm, SecretError> {
    Aes256Gcm::new_from_slice(&kek.key)
        .map_err(|_| SecretError(format!("key \"{}\" has not 32 bytes", kek.id)))
}

/// The keys of the file. Read anew each time: it is small, and a rotation needs no reload.
fn ring() -> Result<Vec<Kek>, SecretError> {
    let Some(path) = guc::text(&guc::KEK_FILE) else {
        return Err(SecretError("meshhook.kek_file is not set".to_owned()));
    };
    let unreadable =
        |error: std::io::Error| SecretError(format!("the key file cannot be read: {}", error.kind()));
    let mode = fs::metadata(&path).map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(SecretError("the key file is open to others; make its mode 0600".to_owned()));
    }
    let text = Zeroizing::new(fs::read_to_string(&path).map_err(unreadable)?);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let ring = lines.map(parse).collect::<Result<Vec<_>, _>>()?;
    if ring.is_empty() {
        return Err(SecretError("the key file has no key".to_owned()));
    }
    Ok(ring)
}

fn parse(line: &str) -> Result<Kek, SecretError> {
    let malformed =
        || SecretError("the key file has a line that is not \"id:base64 of 32 bytes\"".to_owned());
    let (id, key) = line.split_once(':').ok_or_else(malformed)?;
    let key = Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| malformed())?);
    if key.len() != 32 || id.is_empty() || id.len() > 63 {
        return Err(malformed());
    }
    Ok(Kek { id: id.to_owned(), key })
}
