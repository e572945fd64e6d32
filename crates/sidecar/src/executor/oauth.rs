//! Access tokens by client credentials (RFC 6749, section 4.4): fetched when a call needs one, kept until they expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::auth::authorization;
use super::http::CallError;
use super::redirect::Hop;
use super::request::{PRODUCT, check_url};

/// What a token is taken to last whose issuer does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(300);
/// No token is kept longer.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is not used in the last tenth of its life, nor in the last half minute of one that has longer.
const MARGIN: Duration = Duration::from_secs(30);
/// A token that came in the place of one that was refused is not replaced before it is so old.
const YOUTH: Duration = Duration::from_secs(10);
/// How long a token endpoint that gave none is not asked again.
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// Most tokens kept; those that have expired go first.
const MAX_KEPT: usize = 10_000;

/// What a token is asked for with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    token_url: String,
    client_id: String,
    client_secret: String,
    scope: Option<String>,
    audience: Option<String>,
    #[serde(default)]
    credentials: Place,
}

/// Where the client's credentials stand.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Place {
    #[default]
    Basic,
    Body,
}

/// An access token as it is kept.
#[derive(Clone)]
pub struct Token {
    /// The header's value.
    pub header: HeaderValue,
    /// The token itself, which must not come back with a response.
    pub secret: Zeroizing<String>,
    /// Whether the one before it was refused.
    pub renewed: bool,
    since: Instant,
    until: Instant,
}

/// What there is of a grant's token.
#[derive(Default)]
pub struct Held {
    /// The token that was fetched last.
    pub token: Option<Token>,
    /// When and why there was none.
    failed: Option<(Instant, CallError)>,
}

impl Held {
    /// Why there is none, if that is only just known: whoever waited need not ask again, each for himself.
    pub fn failure(&self) -> Option<CallError> {
        self.failed.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_LIFE).map(|(_, error)| error.clone())
    }

    /// Notes what came of asking.
    pub fn note(&mut self, asked: &Result<Token, CallError>) {
        match asked {
            Ok(token) => *self = Self { token: Some(token.clone()), failed: None },
            Err(error) => self.failed = Some((Instant::now(), error.clone())),
        }
    }
}

type Kept = Arc<Mutex<Held>>;

/// The tokens of all projects. Each belongs to who asked with the same credentials.
#[derive(Default)]
pub struct Tokens(StdMutex<HashMap<[u8; 32], Kept>>);

impl Tokens {
    /// The place of a grant's token. Whoever locks it fetches the token, and the others wait for it.
    pub fn of(&self, project: &str, grant: &Grant) -> Kept {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = grant.key(project);
        if kept.len() >= MAX_KEPT && !kept.contains_key(&key) {
            let now = Instant::now();
            let fresh = |held: &Held| held.token.as_ref().is_some_and(|token| token.until > now);
            kept.retain(|_, held| held.try_lock().map_or(true, |held| fresh(&held)));
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
        }
        kept.entry(key).or_default().clone()
    }
}

impl Grant {
    /// The grant, if a token can be asked for with it.
    ///
    /// # Errors
    /// When the URL is none that may be called; it is not quoted.
    pub fn checked(self) -> Result<Self, String> {
        self.url().map(|_| self)
    }

    fn url(&self) -> Result<Url, String> {
        let url =
            Url::parse(&self.token_url).map_err(|error| format!("the token_url is not valid: {error}"))?;
        check_url(&url).map_err(|problem| problem.replace("the url", "the token_url"))?;
        Ok(url)
    }

    fn key(&self, project: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        let place = if self.credentials == Place::Basic { "basic" } else { "body" };
        let (scope, audience) = (self.scope.as_deref(), self.audience.as_deref());
        for part in [
            Some(project),
            Some(&self.token_url),
            Some(&self.client_id),
            Some(&self.client_secret),
            scope,
            audience,
            Some(place),
        ] {
            digest.update([u8::from(part.is_some())]);
            digest.update(part.unwrap_or_default().len().to_le_bytes());
            digest.update(part.unwrap_or_default());
        }
        digest.finalize().into()
    }

    /// The request for a token.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn request(&self) -> Result<Hop, String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", &self.scope), ("audience", &self.audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let mut headers = HeaderMap::new();
        match self.credentials {
            Place::Body => {
                form.append_pair("client_id", &self.client_id);
                form.append_pair("client_secret", &self.client_secret);
            }
            Place::Basic => {
                // Encoded as in a form first: RFC 6749, section 2.3.1.
                let encoded =
                    |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encoded(&self.client_id), encoded(&self.client_secret));
                headers.insert(AUTHORIZATION, authorization("Basic", &STANDARD.encode(pair))?);
            }
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
        Ok(Hop { method: Method::POST, url: self.url()?, headers, body: Bytes::from(form.finish()) })
    }
}

impl Token {
    /// The token that an answer holds.
    ///
    /// # Errors
    /// When it holds none that can be used; the text quotes nothing but an error's code.
    pub fn from_answer(status: u16, body: &[u8], asked: Instant) -> Result<Self, String> {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        if !(200..300).contains(&status) {
            // Its form is RFC 6749's; anything else may be an echo.
            let code = answer["error"]
                .as_str()
                .filter(|code| code.len() <= 60 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            let code = code.map(|code| format!(": {code}")).unwrap_or_default();
            return Err(format!("the token endpoint answered {status}{code}"));
        }
        let bearer = answer["token_type"].as_str().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        let secret = answer["access_token"].as_str().filter(|token| !token.is_empty() && bearer);
        let secret = secret.ok_or("the token endpoint's answer holds no bearer token")?;
        let life = match &answer["expires_in"] {
            Value::Null => Some(DEFAULT_LIFE.as_secs()),
            // Some send a string.
            Value::String(text) => text.parse().ok(),
            number => number.as_f64().map(|seconds| seconds.max(0.0) as u64),
        };
        let life = Duration::from_secs(life.ok_or("the token endpoint's expires_in is no number")?);
        let life = life.min(LONGEST_LIFE);
        Ok(Self {
            header: authorization("Bearer", secret)?,
            secret: Zeroizing::new(secret.to_owned()),
            renewed: false,
            since: asked,
            until: asked + life.saturating_sub(MARGIN.min(life / 10)),
        })
    }

    /// Whether it only just came in the place of one that was refused: if it is, too, another one will be.
    pub fn is_last_word(&self) -> bool {
        self.renewed && self.since.elapsed() < YOUTH
    }

    /// Whether it may still be used.
    pub fn is_fresh(&self) -> bool {
        Instant::now() < self.until
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::executor::http::Class;

    fn grant(changes: Value) -> Grant {
        let mut grant =
            json!({"token_url": "https://id.example/token", "client_id": "a b", "client_secret": "s:3"});
        grant.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value::<Grant>(grant).unwrap()
    }

    #[test]
    fn the_request() {
        let hop = grant(json!({"scope": "read write"})).request().unwrap();
        assert_eq!(hop.body, "grant_type=client_credentials&scope=read+write");
        let expected = format!("Basic {}", STANDARD.encode("a+b:s%3A3"));
        assert_eq!(hop.headers["authorization"], expected.as_str());
        let hop = grant(json!({"credentials": "body", "audience": "api"})).request().unwrap();
        assert_eq!(hop.body, "grant_type=client_credentials&audience=api&client_id=a+b&client_secret=s%3A3");
        assert!(!hop.headers.contains_key("authorization"));
        assert!(grant(json!({"token_url": "ftp://x"})).checked().is_err());
    }

    #[test]
    fn tokens_belong_to_who_asked_alike() {
        let tokens = Tokens::default();
        let same = |a: Kept, b: Kept| Arc::ptr_eq(&a, &b);
        let plain = grant(json!({}));
        assert!(same(tokens.of("p", &plain), tokens.of("p", &grant(json!({})))));
        assert!(!same(tokens.of("p", &plain), tokens.of("q", &plain)));
        for other in [
            json!({"client_secret": "x"}),
            json!({"client_id": "x"}),
            json!({"scope": "x"}),
            json!({"audience": "x"}),
            json!({"credentials": "body"}),
            json!({"token_url": "https://other.example/"}),
        ] {
            assert!(!same(tokens.of("p", &plain), tokens.of("p", &grant(other.clone()))), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_before_it_expires() {
        let token = |answer: Value| Token::from_answer(200, answer.to_string().as_bytes(), Instant::now());
        let an_hour =
            token(json!({"access_token": "t", "token_type": "Bearer", "expires_in": 3600})).unwrap();
        let short = token(json!({"access_token": "t", "expires_in": "10"})).unwrap();
        let unsaid = token(json!({"access_token": "t"})).unwrap();
        assert_eq!(an_hour.header, "Bearer t");
        tokio::time::advance(Duration::from_millis(8_999)).await;
        assert!(short.is_fresh());
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(!short.is_fresh() && unsaid.is_fresh());
        tokio::time::advance(Duration::from_secs(3_560)).await;
        assert!(an_hour.is_fresh() && !unsaid.is_fresh());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!an_hour.is_fresh());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_only_just_known_is_not_asked_again() {
        let answer = json!({"access_token": "t"}).to_string();
        let first = Token::from_answer(200, answer.as_bytes(), Instant::now()).unwrap();
        let token = Token { renewed: true, ..first.clone() };
        let error = CallError { class: Class::Auth, message: "no".to_owned(), hopeless: false };
        let mut held = Held::default();
        assert!(held.failure().is_none() && token.is_last_word() && !first.is_last_word());
        held.note(&Err(error));
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(held.failure().is_some());
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(held.failure().is_none() && token.is_last_word());
        held.note(&Ok(token));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(held.token.is_some_and(|token| !token.is_last_word()));
    }

    #[test]
    fn answers_without_a_token() {
        let error = |status, body: &str| {
            Token::from_answer(status, body.as_bytes(), Instant::now()).map(|_| ()).unwrap_err()
        };
        assert_eq!(
            error(401, r#"{"error":"invalid_client"}"#),
            "the token endpoint answered 401: invalid_client"
        );
        assert_eq!(error(400, r#"{"error":"you said s3cret"}"#), "the token endpoint answered 400");
        assert_eq!(error(500, "oops"), "the token endpoint answered 500");
        for body in ["", "[]", r#"{"access_token":""}"#, r#"{"access_token":"t","token_type":"mac"}"#] {
            assert!(error(200, body).contains("no bearer token"), "{body}");
        }
        assert!(error(200, r#"{"access_token":"s3\ncret"}"#).contains("headers cannot carry"));
    }
}
