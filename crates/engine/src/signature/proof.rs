//! Judging one proof.

use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::preset::Algorithm;

/// What checks any number of proofs of one content under one key.
pub(super) enum Checker<'k> {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
    Token(&'k [u8]),
    Public { algorithm: &'static dyn VerificationAlgorithm, key: &'k [u8], content: &'k [u8] },
}

/// HMAC takes keys of any length, hence `None` does not occur.
fn hmac<M: Mac + KeyInit>(key: &[u8], content: &[u8]) -> Option<M> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    mac.update(content);
    Some(mac)
}

impl<'k> Checker<'k> {
    pub(super) fn new(algorithm: Algorithm, key: &'k [u8], content: &'k [u8]) -> Option<Self> {
        let public =
            |algorithm: &'static dyn VerificationAlgorithm| Checker::Public { algorithm, key, content };
        Some(match algorithm {
            Algorithm::HmacSha1 => Checker::Sha1(hmac(key, content)?),
            Algorithm::HmacSha256 => Checker::Sha256(hmac(key, content)?),
            Algorithm::HmacSha512 => Checker::Sha512(hmac(key, content)?),
            Algorithm::Token => Checker::Token(key),
            Algorithm::Ed25519 => public(&ED25519),
            Algorithm::EcdsaP256 => public(&ECDSA_P256_SHA256_ASN1),
        })
    }

    /// Whether this is a proof. Where the key is secret, how long it takes does not tell how near it was.
    pub(super) fn accepts(&self, proof: &[u8]) -> bool {
        match self {
            Checker::Sha1(mac) => mac.clone().verify_slice(proof).is_ok(),
            Checker::Sha256(mac) => mac.clone().verify_slice(proof).is_ok(),
            Checker::Sha512(mac) => mac.clone().verify_slice(proof).is_ok(),
            Checker::Token(secret) => secret.ct_eq(proof).into(),
            Checker::Public { algorithm, key, content } => {
                UnparsedPublicKey::new(*algorithm, key).verify(content, proof).is_ok()
            }
        }
    }

    /// The proof itself, where the key makes any.
    pub(super) fn proof(self) -> Option<Vec<u8>> {
        match self {
            Checker::Sha1(mac) => Some(mac.finalize().into_bytes().to_vec()),
            Checker::Sha256(mac) => Some(mac.finalize().into_bytes().to_vec()),
            Checker::Sha512(mac) => Some(mac.finalize().into_bytes().to_vec()),
            Checker::Token(secret) => Some(secret.to_vec()),
            Checker::Public { .. } => None,
        }
    }
}

impl Algorithm {
    /// Whether a proof can have that many bytes. Lengths are the scheme's and public.
    pub(super) fn takes(self, len: usize) -> bool {
        match self {
            Algorithm::HmacSha1 => len == 20,
            Algorithm::HmacSha256 => len == 32,
            Algorithm::HmacSha512 | Algorithm::Ed25519 => len == 64,
            // Two integers of up to 33 bytes, and six bytes around them.
            Algorithm::EcdsaP256 => (8..=72).contains(&len),
            Algorithm::Token => len > 0,
        }
    }
}
