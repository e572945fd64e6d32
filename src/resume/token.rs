//! The token of a resume URL: what it is for, signed.
//!
//! Layout before base64url: version 1, length of the KEK's id, id, project, run, second of expiry, path of the wait
//! node, ":", id of the node beside it that sent the URL; then the first 128 bits of an HMAC-SHA-256 over all that,
//! under a key derived from that KEK.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::project::Project;
use crate::secret::{SecretError, SigningKey};

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
/// Longest text of a token that is looked at.
const MAX_TEXT: usize = 2_048;
/// What the signing key is derived for.
const PURPOSE: &str = "meshhook resume url 1";

/// What a resume URL is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub project: Project,
    pub run: pgrx::Uuid,
    /// Path of the wait node.
    pub node: String,
    /// Id of the node beside it that sent the URL.
    pub sender: String,
    /// Until when it can be used, in seconds since 1970.
    pub expires_at: i64,
}

/// The key that signs.
pub fn signing_key() -> Result<SigningKey, SecretError> {
    SigningKey::primary(PURPOSE)
}

impl Token {
    /// Its text under a key.
    pub fn sign(&self, key: &SigningKey) -> String {
        let mut bytes = vec![VERSION, u8::try_from(key.id().len()).unwrap_or(u8::MAX)];
        bytes.extend_from_slice(key.id().as_bytes());
        bytes.extend_from_slice(&self.project.0.to_be_bytes());
        bytes.extend_from_slice(self.run.as_bytes());
        bytes.extend_from_slice(&self.expires_at.to_be_bytes());
        bytes.extend_from_slice(format!("{}:{}", self.node, self.sender).as_bytes());
        let mac = key.sign(&bytes);
        bytes.extend(mac.into_iter().take(MAC_BYTES));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text; `None` where nobody with one of the keys has signed it.
    pub fn open(text: &str) -> Result<Option<Self>, SecretError> {
        let bytes = Some(text).filter(|text| text.len() <= MAX_TEXT);
        let bytes = bytes.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).unwrap_or_default();
        let Some((signed, mac)) = bytes.split_last_chunk::<MAC_BYTES>() else { return Ok(None) };
        let Some((id, token)) = Self::read(signed) else { return Ok(None) };
        let key = SigningKey::named(&id, PURPOSE)?;
        Ok(key.filter(|key| key.has_signed(signed, mac)).map(|_| token))
    }

    /// The KEK's id, and what is said, signed or not.
    fn read(bytes: &[u8]) -> Option<(String, Self)> {
        let (_, rest) = bytes.split_first().filter(|(version, _)| **version == VERSION)?;
        let (length, rest) = rest.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(*length))?;
        let (project, rest) = rest.split_first_chunk::<4>()?;
        let (run, rest) = rest.split_first_chunk::<16>()?;
        let (expires_at, rest) = rest.split_first_chunk::<8>()?;
        let (node, sender) = std::str::from_utf8(rest).ok()?.split_once(':')?;
        let token = Self {
            project: Project(i32::from_be_bytes(*project)),
            run: pgrx::Uuid::from_bytes(*run),
            node: node.to_owned(),
            sender: sender.to_owned(),
            expires_at: i64::from_be_bytes(*expires_at),
        };
        Some((String::from_utf8(id.to_vec()).ok()?, token))
    }
}
