//! The token of a resume URL: what it is for, signed.
//!
//! It says: project, run, second of expiry, path of the wait node, ":", id of the node beside it that sent the URL.

use crate::project::Project;
use crate::secret::{SecretError, SigningKey};

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
        let mut said = Vec::new();
        said.extend_from_slice(&self.project.0.to_be_bytes());
        said.extend_from_slice(self.run.as_bytes());
        said.extend_from_slice(&self.expires_at.to_be_bytes());
        said.extend_from_slice(format!("{}:{}", self.node, self.sender).as_bytes());
        key.token(&said)
    }

    /// Reads a text; `None` where nobody with one of the keys has signed it.
    pub fn open(text: &str) -> Result<Option<Self>, SecretError> {
        Ok(SigningKey::said(text, PURPOSE)?.and_then(|said| Self::read(&said)))
    }

    fn read(said: &[u8]) -> Option<Self> {
        let (project, rest) = said.split_first_chunk::<4>()?;
        let (run, rest) = rest.split_first_chunk::<16>()?;
        let (expires_at, rest) = rest.split_first_chunk::<8>()?;
        let (node, sender) = std::str::from_utf8(rest).ok()?.split_once(':')?;
        Some(Self {
            project: Project(i32::from_be_bytes(*project)),
            run: pgrx::Uuid::from_bytes(*run),
            node: node.to_owned(),
            sender: sender.to_owned(),
            expires_at: i64::from_be_bytes(*expires_at),
        })
    }
}
