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
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use pgrx::PgSqlErrorCode;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::{Refusal, bug, refuse};
use crate::guc;
use crate::random;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;

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
    pub fn named(id: &str, purpose: &str) -> Result<Option<Self>, SecretError> {
        Ok(ring()?.into_iter().find(|kek| kek.id == id).map(|kek| Self::derived(kek, purpose)))
    }

    fn derived(kek: Kek, purpose: &str) -> Self {
        let key = Zeroizing::new(mac(&kek.key[..], purpose.as_bytes()).finalize().into_bytes().into());
        Self { id: kek.id, key }
    }

    /// The KEK's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The HMAC-SHA-256 of a text.
    pub fn sign(&self, text: &[u8]) -> [u8; 32] {
        mac(&self.key[..], text).finalize().into_bytes().into()
    }

    /// Whether these are the first bytes of the text's HMAC; takes as long for any that are not.
    pub fn has_signed(&self, text: &[u8], first_bytes: &[u8]) -> bool {
        mac(&self.key[..], text).verify_truncated_left(first_bytes).is_ok()
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
