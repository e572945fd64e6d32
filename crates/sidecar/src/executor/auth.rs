//! How a call proves who makes it: `auth` of an `http` node. Signatures are made when the call is, for they carry the time.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::oauth::Grant;

/// How the keys of Standard Webhooks begin; what follows is base64.
const WHSEC: &str = "whsec_";
/// Most keys that sign one message.
const MAX_KEYS: usize = 10;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// `auth` as the payload has it.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Given {
    /// RFC 7617.
    Basic {
        /// Holds no colon.
        username: String,
        /// Anything.
        password: String,
    },
    /// RFC 6750.
    Bearer(String),
    /// A scheme as that of an endpoint of one's own.
    Hmac(Scheme),
    /// <https://www.standardwebhooks.com>
    StandardWebhooks {
        /// One or several keys, separated by white space: each signs.
        secret: String,
    },
    /// RFC 6749, section 4.4.
    Oauth2(Grant),
}

/// What a signature is made of; the words are those of `create_endpoint`'s schemes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    secret: String,
    header: String,
    #[serde(default)]
    algorithm: Algorithm,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    prefix: String,
    pairs: Option<Pairs>,
    #[serde(default = "body")]
    signed: String,
    timestamp_header: Option<String>,
    id_header: Option<String>,
    #[serde(default)]
    key: KeyForm,
}

fn body() -> String {
    "{body}".to_owned()
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    Sha1,
    #[default]
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Hex,
    Base64,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeyForm {
    #[default]
    Text,
    Base64,
    Hex,
    Whsec,
}

/// A header of `key=value` pairs.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pairs {
    #[serde(default = "comma")]
    separator: char,
    signature: String,
    timestamp: Option<String>,
}

fn comma() -> char {
    ','
}

/// What is to be done to every message of a call.
#[derive(Default)]
pub enum Auth {
    /// Nothing that its headers do not do already.
    #[default]
    Settled,
    /// A signature.
    Sign(Signer),
    /// An access token.
    Token(Grant),
}

/// Shows which it is and nothing that may be secret.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settled => "Settled",
            Self::Sign(_) => "Sign",
            Self::Token(_) => "Token",
        })
    }
}

impl Given {
    /// Sets what can be set beforehand. The error text quotes nothing.
    ///
    /// # Errors
    /// When it cannot be sent or is no key.
    pub fn prepare(self, headers: &mut HeaderMap, idempotency_key: Option<&str>) -> Result<Auth, String> {
        match self {
            Self::Basic { username, password } => {
                if username.contains(':') {
                    return Err("the user name of auth holds a colon".to_owned());
                }
                let credentials = Zeroizing::new(format!("{username}:{password}"));
                headers.insert(AUTHORIZATION, authorization("Basic", &STANDARD.encode(&*credentials))?);
                Ok(Auth::Settled)
            }
            Self::Bearer(token) => {
                headers.insert(AUTHORIZATION, authorization("Bearer", token.trim())?);
                Ok(Auth::Settled)
            }
            Self::StandardWebhooks { secret } => {
                Signer::standard(&secret, headers, idempotency_key).map(Auth::Sign)
            }
            Self::Hmac(scheme) => Signer::scheme(scheme, headers, idempotency_key).map(Auth::Sign),
            Self::Oauth2(grant) => grant.checked().map(Auth::Token),
        }
    }
}

/// The value of an `Authorization` header.
///
/// # Errors
/// When headers cannot carry it.
pub fn authorization(scheme: &str, credentials: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {credentials}"))
        .map_err(|_| "auth holds a character that headers cannot carry".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// A piece of what is signed.
enum Piece {
    Text(String),
    Id,
    Timestamp,
    Body,
}

/// Makes the signatures of one call.
pub struct Signer {
    keys: Vec<hmac::Key>,
    signed: Vec<Piece>,
    id: String,
    timestamp_header: Option<HeaderName>,
    signature_header: HeaderName,
    form: Form,
}

enum Form {
    /// Each signature as `v1,<base64>`, separated by blanks.
    Standard,
    Prefixed {
        prefix: String,
        encoding: Encoding,
    },
    Pairs {
        pairs: Pairs,
        encoding: Encoding,
    },
}

impl Signer {
    fn standard(
        secret: &str,
        headers: &mut HeaderMap,
        idempotency_key: Option<&str>,
    ) -> Result<Self, String> {
        let keys: Vec<hmac::Key> =
            secret.split_whitespace().map(|key| whsec(key, Algorithm::Sha256)).collect::<Result<_, _>>()?;
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(format!("the secret of auth must hold from 1 to {MAX_KEYS} keys"));
        }
        let id = message_id(&WEBHOOK_ID, headers, idempotency_key)?;
        Ok(Self {
            keys,
            signed: vec![
                Piece::Id,
                Piece::Text(".".into()),
                Piece::Timestamp,
                Piece::Text(".".into()),
                Piece::Body,
            ],
            id,
            timestamp_header: Some(WEBHOOK_TIMESTAMP),
            signature_header: WEBHOOK_SIGNATURE,
            form: Form::Standard,
        })
    }

    fn scheme(
        scheme: Scheme,
        headers: &mut HeaderMap,
        idempotency_key: Option<&str>,
    ) -> Result<Self, String> {
        let name = |name: &str| {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| "auth names no valid header".to_owned())
        };
        let key = match scheme.key {
            KeyForm::Text => Ok(key(scheme.algorithm, scheme.secret.as_bytes())),
            KeyForm::Hex => hex::decode(scheme.secret.trim())
                .map(|bytes| key(scheme.algorithm, &bytes))
                .map_err(|_| "the secret of auth is not hex".to_owned()),
            KeyForm::Base64 => from_base64(scheme.secret.trim()).map(|bytes| key(scheme.algorithm, &bytes)),
            KeyForm::Whsec => whsec(scheme.secret.trim(), scheme.algorithm),
        }?;
        let id = match &scheme.id_header {
            Some(header) => message_id(&name(header)?, headers, idempotency_key)?,
            None => String::new(),
        };
        let encoding = scheme.encoding;
        Ok(Self {
            keys: vec![key],
            signed: pieces(&scheme.signed),
            id,
            timestamp_header: scheme.timestamp_header.as_deref().map(name).transpose()?,
            signature_header: name(&scheme.header)?,
            form: match scheme.pairs {
                Some(pairs) => Form::Pairs { pairs, encoding },
                None => Form::Prefixed { prefix: scheme.prefix, encoding },
            },
        })
    }

    /// Signs a message as it is sent now.
    ///
    /// # Errors
    /// When a header cannot carry what the scheme makes of it.
    pub fn sign(&self, headers: &mut HeaderMap, body: &[u8]) -> Result<(), String> {
        self.sign_at(SystemTime::now(), headers, body)
    }

    fn sign_at(&self, now: SystemTime, headers: &mut HeaderMap, body: &[u8]) -> Result<(), String> {
        let timestamp = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string();
        let signatures: Vec<hmac::Tag> =
            self.keys.iter().map(|key| self.tag(key, &timestamp, body)).collect();
        let encoded = |tag: &hmac::Tag, encoding: Encoding| match encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => STANDARD.encode(tag),
        };
        let value = match &self.form {
            Form::Standard => {
                let each = signatures.iter().map(|tag| format!("v1,{}", encoded(tag, Encoding::Base64)));
                each.collect::<Vec<_>>().join(" ")
            }
            Form::Prefixed { prefix, encoding } => format!("{prefix}{}", encoded(&signatures[0], *encoding)),
            Form::Pairs { pairs, encoding } => {
                let time =
                    pairs.timestamp.as_ref().map(|name| format!("{name}={timestamp}{}", pairs.separator));
                let signature = encoded(&signatures[0], *encoding);
                format!("{}{}={signature}", time.unwrap_or_default(), pairs.signature)
            }
        };
        let header = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| "auth makes a header that cannot be sent".to_owned())
        };
        headers.insert(self.signature_header.clone(), header(&value)?);
        if let Some(name) = &self.timestamp_header {
            headers.insert(name.clone(), header(&timestamp)?);
        }
        Ok(())
    }

    fn tag(&self, key: &hmac::Key, timestamp: &str, body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(key);
        for piece in &self.signed {
            context.update(match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Id => self.id.as_bytes(),
                Piece::Timestamp => timestamp.as_bytes(),
                Piece::Body => body,
            });
        }
        context.sign()
    }
}

/// What a message is known by, the same over all attempts: what the node says, else made of the idempotency key. It is in
/// the headers from here on.
fn message_id(
    name: &HeaderName,
    headers: &mut HeaderMap,
    idempotency_key: Option<&str>,
) -> Result<String, String> {
    if let Some(given) = headers.get(name) {
        return given.to_str().map(str::to_owned).map_err(|_| format!("header {name} cannot be signed"));
    }
    // Dots separate what is signed, and a node's id may have some.
    let digest = Sha256::digest(idempotency_key.unwrap_or_default());
    let id = format!("msg_{}", hex::encode(&digest[..16]));
    headers.insert(name.clone(), HeaderValue::from_str(&id).map_err(|_| "no message id".to_owned())?);
    Ok(id)
}

fn pieces(signed: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = signed;
    while !rest.is_empty() {
        let known = [("{id}", Piece::Id), ("{timestamp}", Piece::Timestamp), ("{body}", Piece::Body)];
        let next = known.into_iter().filter_map(|(name, piece)| Some((rest.find(name)?, name, piece)));
        match next.min_by_key(|(at, ..)| *at) {
            Some((at, name, piece)) => {
                pieces.push(Piece::Text(rest[..at].to_owned()));
                pieces.push(piece);
                rest = &rest[at + name.len()..];
            }
            None => {
                pieces.push(Piece::Text(rest.to_owned()));
                rest = "";
            }
        }
    }
    pieces
}

fn key(algorithm: Algorithm, bytes: &[u8]) -> hmac::Key {
    let algorithm = match algorithm {
        Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Algorithm::Sha256 => hmac::HMAC_SHA256,
        Algorithm::Sha512 => hmac::HMAC_SHA512,
    };
    hmac::Key::new(algorithm, bytes)
}

fn whsec(text: &str, algorithm: Algorithm) -> Result<hmac::Key, String> {
    let encoded = text.strip_prefix(WHSEC).unwrap_or(text);
    from_base64(encoded).map(|bytes| key(algorithm, &bytes))
}

fn from_base64(text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    let bytes = engines.into_iter().find_map(|engine| engine.decode(text).ok());
    let bytes = bytes.filter(|bytes| !bytes.is_empty());
    bytes.map(Zeroizing::new).ok_or_else(|| "the secret of auth is not base64".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn signed(auth: Value, headers: &[(&'static str, &str)], body: &[u8]) -> Result<HeaderMap, String> {
        let given: Given = serde_json::from_value(auth).map_err(|error| error.to_string())?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        if let Auth::Sign(signer) = given.prepare(&mut map, Some("run/node"))? {
            signer.sign_at(UNIX_EPOCH + Duration::from_secs(1_614_265_330), &mut map, body)?;
        }
        Ok(map)
    }

    #[test]
    fn basic_and_bearer() {
        let headers = signed(json!({"basic": {"username": "Aladdin", "password": "open sesame"}}), &[], b"");
        assert_eq!(headers.unwrap()["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let headers = signed(json!({"bearer": "t0k3n"}), &[], b"").unwrap();
        assert_eq!(headers["authorization"], "Bearer t0k3n");
        assert!(headers["authorization"].is_sensitive());
        for wrong in
            [json!({"basic": {"username": "a:secret", "password": "x"}}), json!({"bearer": "secret\r\nx: y"})]
        {
            assert!(!signed(wrong, &[], b"").unwrap_err().contains("secret"));
        }
    }

    /// The example of the Standard Webhooks' specification and libraries.
    #[test]
    fn standard_webhooks() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let id = [("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")];
        let headers = signed(json!({"standard_webhooks": {"secret": secret}}), &id, body).unwrap();
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = format!("{secret} whsec_{}", STANDARD.encode("another key"));
        let headers = signed(json!({"standard_webhooks": {"secret": both}}), &id, body).unwrap();
        let value = headers["webhook-signature"].to_str().unwrap();
        assert!(value.starts_with("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1,"), "{value}");
        let own = signed(json!({"standard_webhooks": {"secret": secret}}), &[], body).unwrap();
        let own = own["webhook-id"].to_str().unwrap();
        assert!(own.starts_with("msg_") && own.len() == 36, "{own}");
        for wrong in ["", "whsec_!", "whsec_"] {
            assert!(signed(json!({"standard_webhooks": {"secret": wrong}}), &[], body).is_err(), "{wrong}");
        }
    }

    #[test]
    fn schemes_of_ones_own() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
        let expected = |text: &str| hex::encode(hmac::sign(&key, text.as_bytes()));
        let scheme = json!({"hmac": {"secret": "s3cret", "header": "X-Sig", "prefix": "sha256="}});
        let headers = signed(scheme, &[], b"body").unwrap();
        assert_eq!(headers["x-sig"], format!("sha256={}", expected("body")));
        let scheme = json!({"hmac": {"secret": "s3cret", "header": "Stripe-Signature",
            "pairs": {"signature": "v1", "timestamp": "t"}, "signed": "{timestamp}.{body}"}});
        let headers = signed(scheme, &[], b"{id}").unwrap();
        assert_eq!(headers["stripe-signature"], format!("t=1614265330,v1={}", expected("1614265330.{id}")));
        let scheme = json!({"hmac": {"secret": hex::encode("s3cret"), "key": "hex", "header": "x-sig", "encoding": "base64",
            "signed": "v0:{id}:{timestamp}:{body}", "timestamp_header": "X-Time", "id_header": "X-Id"}});
        let headers = signed(scheme, &[("x-id", "7")], b"body").unwrap();
        assert_eq!(headers["x-time"], "1614265330");
        let tag = hmac::sign(&key, b"v0:7:1614265330:body");
        assert_eq!(headers["x-sig"], STANDARD.encode(tag));
    }
}
