//! The keys that tokens are verified with: a shared secret, a public key in PEM, or a pinned JWK set.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

use super::{Algorithm, Family};
use crate::signature::key::{BASE64, SecretError};

/// Largest key or set of keys, in bytes.
const MAX_KEY_BYTES: usize = 64 << 10;
/// Least bits of an RSA modulus.
const MIN_RSA_BITS: usize = 2048;
const FORMS: &str = "a public key in PEM (-----BEGIN PUBLIC KEY-----), a JWK, or a JWK set {\"keys\": […]}, of a kind that the \
                     algorithms take";

/// A key, and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    material: Material,
    /// What tokens name it by.
    pub(super) id: Option<String>,
    /// The only algorithm it is for.
    algorithm: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// A shared secret.
    Secret(Vec<u8>),
    /// Modulus and exponent.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// An uncompressed point, or the 32 bytes of Ed25519.
    Point(Family, Vec<u8>),
}

impl Drop for Key {
    fn drop(&mut self) {
        if let Material::Secret(bytes) = &mut self.material {
            bytes.fill(0);
            // Keeps the compiler from dropping the write above as dead.
            std::hint::black_box(bytes);
        }
    }
}

impl Key {
    /// The keys in a secret's text, of which those are left out that none of the algorithms takes.
    pub(super) fn all(secret: &[u8], algorithms: &[Algorithm]) -> Result<Vec<Self>, SecretError> {
        if secret.is_empty() {
            return Err(SecretError::Empty);
        }
        let wrong = SecretError::NotAPublicKey(FORMS);
        if algorithms.iter().any(|algorithm| algorithm.family() == Family::Hmac) {
            let least = algorithms.iter().map(|algorithm| algorithm.hash_bytes()).max().unwrap_or(0);
            // Everybody knows a public key: it must not become a shared one.
            return match secret {
                _ if is_wrapped(secret) => Err(SecretError::NotShared),
                _ if secret.len() < least => Err(SecretError::TooShort(least)),
                _ => {
                    Ok(vec![Self { material: Material::Secret(secret.to_vec()), id: None, algorithm: None }])
                }
            };
        }
        let mut keys = read(secret).ok_or(wrong)?;
        keys.retain(|key| algorithms.iter().any(|algorithm| key.fits(*algorithm)));
        if keys.is_empty() { Err(wrong) } else { Ok(keys) }
    }

    /// Whether an algorithm takes this key.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        let family = match &self.material {
            Material::Secret(_) => Family::Hmac,
            Material::Rsa { .. } => Family::Rsa,
            Material::Point(family, _) => *family,
        };
        family == algorithm.family() && self.algorithm.as_deref().is_none_or(|name| name == algorithm.name())
    }

    /// Whether this key made a signature.
    pub(super) fn has_signed(&self, algorithm: Algorithm, content: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(bytes) => algorithm.hmac().is_some_and(|hmac| {
                let key = ring::hmac::Key::new(hmac, bytes);
                ring::hmac::verify(&key, content, signature).is_ok()
            }),
            Material::Rsa { n, e } => algorithm
                .rsa()
                .is_some_and(|rsa| RsaPublicKeyComponents { n, e }.verify(rsa, content, signature).is_ok()),
            Material::Point(_, point) => algorithm
                .curve()
                .is_some_and(|curve| UnparsedPublicKey::new(curve, point).verify(content, signature).is_ok()),
        }
    }

    fn rsa(n: &[u8], e: &[u8]) -> Option<Material> {
        let bare = |bytes: &[u8]| bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
        let (n, e) = (bare(n), bare(e));
        (n.len() * 8 >= MIN_RSA_BITS && !e.is_empty()).then_some(Material::Rsa { n, e })
    }

    fn point(family: Family, point: &[u8]) -> Option<Material> {
        let fits = match family {
            Family::P256 => point.len() == 65 && point.first() == Some(&4),
            Family::P384 => point.len() == 97 && point.first() == Some(&4),
            Family::Ed25519 => point.len() == 32,
            Family::Hmac | Family::Rsa => false,
        };
        fits.then(|| Material::Point(family, point.to_vec()))
    }
}

/// The public keys in a text; `None` where it is neither PEM nor JSON of keys. Those of a kind that is not known are left
/// out, as RFC 7517 asks for.
fn read(text: &[u8]) -> Option<Vec<Key>> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_KEY_BYTES)?.trim();
    if text.starts_with("-----") {
        let material = pem(text)?;
        return Some(vec![Key { material, id: None, algorithm: None }]);
    }
    let keys = match serde_json::from_str::<Jwks>(text) {
        Ok(set) => set.keys,
        Err(_) => {
            vec![serde_json::from_str::<serde_json::Value>(text).ok().filter(|key| key["kty"].is_string())?]
        }
    };
    Some(keys.into_iter().filter_map(|key| Jwk::deserialize(key).ok()?.key()).collect())
}

/// Whether a text is a key or certificate in a wrapping of those, known here or not: shared secrets have none.
fn is_wrapped(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let is_jwk = |value: &serde_json::Value| value.get("kty").or_else(|| value.get("keys")).is_some();
    text.trim_start().starts_with("-----") || serde_json::from_str(text).is_ok_and(|value| is_jwk(&value))
}

/// RFC 7517, section 5.
#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

/// RFC 7517, section 4; RFC 7518, section 6; RFC 8037.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn key(self) -> Option<Key> {
        if self.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let material = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => Key::rsa(&bytes(&self.n)?, &bytes(&self.e)?),
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let family = if curve == "P-256" { Family::P256 } else { Family::P384 };
                Key::point(family, &[&[4][..], &bytes(&self.x)?, &bytes(&self.y)?].concat())
            }
            ("OKP", Some("Ed25519")) => Key::point(Family::Ed25519, &bytes(&self.x)?),
            _ => None,
        };
        Some(Key { material: material?, id: self.kid, algorithm: self.alg })
    }
}

const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;

/// A public key in PEM: a SubjectPublicKeyInfo (RFC 5280).
fn pem(text: &str) -> Option<Material> {
    let body = text.strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    let der = BASE64.decode(body.split_ascii_whitespace().collect::<String>()).ok()?;
    let (info, _) = element(&der, SEQUENCE)?;
    let (kind, info) = element(info, SEQUENCE)?;
    let (oid, parameters) = element(kind, OID)?;
    let (bits, _) = element(info, BIT_STRING)?;
    // No bits of the last byte are left unused.
    let key = bits.strip_prefix(&[0])?;
    match oid {
        OID_RSA => {
            let (numbers, _) = element(key, SEQUENCE)?;
            let (n, numbers) = element(numbers, INTEGER)?;
            Key::rsa(n, element(numbers, INTEGER)?.0)
        }
        OID_EC => match element(parameters, OID)?.0 {
            OID_P256 => Key::point(Family::P256, key),
            OID_P384 => Key::point(Family::P384, key),
            _ => None,
        },
        OID_ED25519 => Key::point(Family::Ed25519, key),
        _ => None,
    }
}

/// The content of the first element of DER, which must have this tag, and what stands behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = der.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = match *length {
        short @ ..=0x7f => (usize::from(short), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
