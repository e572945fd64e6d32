//! Tokens that say who sent a request.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair,
};
use serde_json::Value;

use super::*;

/// A key of somebody who is not to be found anywhere else: 2048 bits, PKCS #8, base64.
const RSA: &str = include_str!("rsa2048.pk8.txt");
const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
    "EdDSA",
];

/// Somebody who makes tokens.
pub(super) struct Issuer {
    algorithm: &'static str,
    signer: Signer,
    /// What the receiver is given.
    pub(super) secret: Vec<u8>,
}

enum Signer {
    Shared(ring::hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A public key in PEM, from what stands before it in its SubjectPublicKeyInfo.
fn pem(header: &str, key: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode([&hex::decode(header).unwrap(), key].concat());
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes()
}

impl Issuer {
    pub(super) fn new(algorithm: &'static str, seed: u8) -> Self {
        let random = SystemRandom::new();
        let shared = |algorithm| {
            let secret = hex::encode([seed; 32]).into_bytes();
            (Signer::Shared(ring::hmac::Key::new(algorithm, &secret)), secret)
        };
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(RSA.replace('\n', "")).unwrap()).unwrap();
            let public = pair.public().as_ref().to_vec();
            let secret = pem("30820122300d06092a864886f70d01010105000382010f00", &public);
            (Signer::Rsa(Box::new(pair), encoding), secret)
        };
        let ecdsa = |algorithm, header: &str| {
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
            let secret = pem(header, pair.public_key().as_ref());
            (Signer::Ecdsa(Box::new(pair)), secret)
        };
        let (signer, secret) = match algorithm {
            "HS256" => shared(ring::hmac::HMAC_SHA256),
            "HS384" => shared(ring::hmac::HMAC_SHA384),
            "HS512" => shared(ring::hmac::HMAC_SHA512),
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ecdsa(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                "3059301306072a8648ce3d020106082a8648ce3d030107034200",
            ),
            "ES384" => {
                ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, "3076301006072a8648ce3d020106052b81040022036200")
            }
            _ => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
                let secret = pem("302a300506032b6570032100", pair.public_key().as_ref());
                (Signer::Ed25519(Box::new(pair)), secret)
            }
        };
        Self { algorithm, signer, secret }
    }

    fn sign(&self, content: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Shared(key) => ring::hmac::sign(key, content).as_ref().to_vec(),
            Signer::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, content, &mut signature).unwrap();
                signature
            }
            Signer::Ecdsa(pair) => pair.sign(&random, content).unwrap().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.sign(content).as_ref().to_vec(),
        }
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"typ": "JWT", "alg": self.algorithm}), claims)
    }
}

/// What a good token says.
pub(super) fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": ["other", "hooks"], "exp": NOW + 300, "iat": NOW, "jti": "t-1"})
}

fn with_claim(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without_claim(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

pub(super) fn scheme(algorithms: &str) -> String {
    json!({"algorithms": [algorithms], "issuer": "https://issuer.example", "audience": "hooks"}).to_string()
}

pub(super) fn bearer(token: &str) -> Pairs {
    vec![("authorization".to_owned(), format!("Bearer {token}"))]
}

fn judged(scheme: &str, secrets: &[&[u8]], now: i64, headers: &Pairs, body: &[u8]) -> Verdict {
    verify(&Preset::jwt(scheme).unwrap(), secrets, 60, now, &Request { headers, url: URL, body })
}

#[test]
fn every_algorithm_takes_its_issuers_and_nobody_else() {
    println!("{:<10} {:>8} {:>8}", "algorithm", "accepted", "refused");
    for algorithm in ALGORITHMS {
        let (issuer, scheme) = (Issuer::new(algorithm, 7), scheme(algorithm));
        let mine: &[u8] = &issuer.secret;
        let stranger = Issuer::new(if algorithm == "ES256" { "ES256" } else { "EdDSA" }, 8);
        let theirs: &[u8] = if issuer.is_shared() { &[b'8'; 64] } else { &stranger.secret };
        let judge = |secrets: &[&[u8]], token: &str, body: &[u8]| {
            outcome(&judged(&scheme, secrets, NOW, &bearer(token), body))
        };
        let says = |claims: &Value| judge(&[mine], &issuer.token(claims), BODY);
        let headed = |header: Value| judge(&[mine], &issuer.token_with(&header, &claims()), BODY);
        let good = issuer.token(&claims());
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let forged = {
            let other = URL_SAFE_NO_PAD.encode(with_claim("sub", json!("admin")).to_string());
            format!("{}.{other}.{signature}", signed.split_once('.').unwrap().0)
        };
        let cut =
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&URL_SAFE_NO_PAD.decode(signature).unwrap()[1..]));
        let unfit = if issuer.is_shared() { Err("no_match") } else { theirs_fit(algorithm) };
        let table = [
            ("good", judge(&[mine], &good, BODY), Ok(0)),
            ("binary body", judge(&[mine], &good, &[0, 255, b'\n']), Ok(0)),
            ("wrong key", judge(&[theirs], &good, BODY), unfit),
            ("rotated", judge(&[theirs, mine], &good, BODY), Ok(1)),
            ("no secret", judge(&[], &good, BODY), Err("no_secret")),
            ("tampered claims", judge(&[mine], &forged, BODY), Err("no_match")),
            ("no signature", judge(&[mine], &format!("{signed}."), BODY), Err("no_match")),
            ("cut", judge(&[mine], &cut, BODY), Err("no_match")),
            ("no claims", judge(&[mine], "a.b", BODY), Err("malformed_header")),
            ("encrypted", judge(&[mine], "a.b.c.d.e", BODY), Err("malformed_header")),
            ("none", headed(json!({"alg": "none"})), Err("algorithm")),
            ("no algorithm", headed(json!({"typ": "JWT"})), Err("algorithm")),
            ("another algorithm", headed(json!({"alg": other_than(algorithm)})), Err("algorithm")),
            ("in other letters", headed(json!({"alg": algorithm.to_lowercase()})), Err("algorithm")),
            (
                "what must be understood",
                headed(json!({"alg": algorithm, "crit": ["x"]})),
                Err("malformed_header"),
            ),
            ("expired", says(&with_claim("exp", json!(NOW - 60))), Err("too_old")),
            ("expired within the leeway", says(&with_claim("exp", json!(NOW - 59))), Ok(0)),
            ("not yet", says(&with_claim("nbf", json!(NOW + 61))), Err("too_new")),
            ("not yet within the leeway", says(&with_claim("nbf", json!(NOW + 60))), Ok(0)),
            ("made in the future", says(&with_claim("iat", json!(NOW + 61))), Err("too_new")),
            ("for ever", says(&without_claim("exp")), Err("claim")),
            ("a time that is none", says(&with_claim("exp", json!("9999999999"))), Err("claim")),
            ("a fraction", says(&with_claim("exp", json!(1_614_265_390.5))), Ok(0)),
            ("another issuer", says(&with_claim("iss", json!("https://issuer.example/"))), Err("claim")),
            ("no issuer", says(&without_claim("iss")), Err("claim")),
            ("another audience", says(&with_claim("aud", json!("hook"))), Err("claim")),
            ("no audience", says(&without_claim("aud")), Err("claim")),
            ("one audience", says(&with_claim("aud", json!("hooks"))), Ok(0)),
        ];
        for (what, found, expected) in &table {
            assert_eq!(found, expected, "{algorithm}: {what}");
        }
        let missing = outcome(&judged(&scheme, &[mine], NOW, &vec![], BODY));
        assert_eq!(missing, Err("missing_header"), "{algorithm}");
        let basic = vec![("authorization".to_owned(), format!("Basic {good}"))];
        assert_eq!(
            outcome(&judged(&scheme, &[mine], NOW, &basic, BODY)),
            Err("malformed_header"),
            "{algorithm}"
        );
        let accepted = table.iter().filter(|(_, found, _)| found.is_ok()).count();
        println!("{algorithm:<10} {accepted:>8} {:>8}", table.len() + 2 - accepted);
    }
}

impl Issuer {
    fn is_shared(&self) -> bool {
        matches!(self.signer, Signer::Shared(_))
    }
}

/// A key of Ed25519, or another one of P-256, is no secret of the other algorithms at all.
fn theirs_fit(algorithm: &str) -> Result<usize, &'static str> {
    Err(if ["EdDSA", "ES256"].contains(&algorithm) { "no_match" } else { "no_secret" })
}

fn other_than(algorithm: &str) -> &'static str {
    if algorithm == "HS256" { "RS256" } else { "HS256" }
}

/// The public key, which everybody knows, taken for a shared one.
#[test]
fn a_public_key_makes_no_token() {
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let public = Issuer::new(algorithm, 7).secret;
        let mut forger = Issuer::new("HS256", 7);
        forger.signer = Signer::Shared(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public));
        let forged = bearer(&forger.token(&claims()));
        assert_eq!(outcome(&judged(&scheme(algorithm), &[&public], NOW, &forged, BODY)), Err("algorithm"));
        // Nor where shared secrets are what counts.
        assert_eq!(outcome(&judged(&scheme("HS256"), &[&public], NOW, &forged, BODY)), Err("no_secret"));
        assert_eq!(Preset::jwt(&scheme("HS256")).unwrap().check_secret(&public), Err(SecretError::NotShared));
    }
}

/// RFC 7515, appendices A.1 and A.3.
#[test]
fn published_tokens_are_good_in_their_time() {
    const CLAIMS: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let hs256 = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let shared = URL_SAFE_NO_PAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        .unwrap();
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    let jwk = br#"{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    for (algorithm, token, secret) in [("HS256", hs256, &shared[..]), ("ES256", es256, &jwk[..])] {
        let scheme = json!({"algorithms": algorithm, "issuer": "joe"}).to_string();
        let at = |now| outcome(&judged(&scheme, &[secret], now, &bearer(&token), BODY));
        assert_eq!(at(1_300_819_380), Ok(0), "{algorithm}");
        assert_eq!(at(1_300_819_440), Err("too_old"), "{algorithm}");
    }
}

#[test]
fn a_token_names_its_key() {
    let issuers = [Issuer::new("ES256", 1), Issuer::new("ES256", 2), Issuer::new("EdDSA", 3)];
    let jwk = |issuer: &Issuer, kid: &str| {
        let public = match &issuer.signer {
            Signer::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            _ => unreachable!(),
        };
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match public.len() {
            65 => {
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": text(&public[1..33]), "y": text(&public[33..])})
            }
            _ => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(&public), "use": "sig", "alg": "EdDSA"})
            }
        }
    };
    let unknown = json!({"kty": "new", "kid": "n"});
    let encrypts = {
        let mut key = jwk(&issuers[0], "a");
        key["use"] = json!("enc");
        key
    };
    let set = |keys: &[Value]| json!({"keys": keys}).to_string().into_bytes();
    let all = set(&[unknown.clone(), jwk(&issuers[0], "a"), jwk(&issuers[1], "b"), jwk(&issuers[2], "c")]);
    let scheme = json!({"algorithms": ["ES256", "EdDSA"], "audience": "hooks"}).to_string();
    let judge = |secret: &[u8], issuer: &Issuer, kid: Option<&str>| {
        let mut header = json!({"alg": issuer.algorithm});
        kid.into_iter().for_each(|kid| header["kid"] = json!(kid));
        outcome(&judged(&scheme, &[secret], NOW, &bearer(&issuer.token_with(&header, &claims())), BODY))
    };
    for (issuer, kid) in issuers.iter().zip(["a", "b", "c"]) {
        assert_eq!(judge(&all, issuer, Some(kid)), Ok(0));
        assert_eq!(judge(&all, issuer, None), Ok(0));
    }
    assert_eq!(judge(&all, &issuers[0], Some("b")), Err("no_match"), "another one's kid");
    assert_eq!(judge(&all, &issuers[0], Some("z")), Err("no_match"), "nobody's kid");
    assert_eq!(judge(&all, &issuers[0], Some("n")), Err("no_match"), "that of a key of an unknown kind");
    assert_eq!(
        judge(&set(&[encrypts]), &issuers[0], Some("a")),
        Err("no_secret"),
        "a key for something else"
    );
    // A key in PEM has no name, and may be the one that is meant.
    assert_eq!(judge(&issuers[0].secret, &issuers[0], Some("a")), Ok(0));
}

#[test]
fn deliveries_are_known_by_the_body_or_by_the_tokens_id() {
    let issuer = Issuer::new("HS256", 7);
    let by_id = json!({"algorithms": "HS256", "audience": "hooks", "dedupe": "jti"}).to_string();
    let key = |scheme: &str, claims: &Value, body: &[u8]| {
        judged(scheme, &[&issuer.secret], NOW, &bearer(&issuer.token(claims)), body)
    };
    let known = |verdict: Verdict| match verdict {
        Verdict::Accepted { dedupe_key, signed_id, unsigned_id, .. } => (dedupe_key, signed_id, unsigned_id),
        Verdict::Rejected(reason) => panic!("{reason}"),
    };
    let (by_body, signed, hint) = known(key(&scheme("HS256"), &claims(), BODY));
    assert!(by_body.starts_with("sha256:"));
    assert_eq!((signed, hint.as_deref()), (None, Some("t-1")));
    assert_eq!(known(key(&scheme("HS256"), &with_claim("jti", json!("t-2")), BODY)).0, by_body);
    let id = || Some("t-1".to_owned());
    assert_eq!(known(key(&by_id, &claims(), BODY)), ("id:t-1".to_owned(), id(), None));
    assert_eq!(known(key(&by_id, &claims(), b"{}")).0, "id:t-1");
    for none in [without_claim("jti"), with_claim("jti", json!("a b")), with_claim("jti", json!(1))] {
        assert_eq!(outcome(&key(&by_id, &none, BODY)), Err("claim"));
    }
}

#[test]
fn a_header_of_its_own_holds_the_token_alone() {
    let issuer = Issuer::new("HS256", 7);
    let scheme = json!({"algorithms": "HS256", "audience": "hooks", "header": "X-Token"}).to_string();
    let token = issuer.token(&claims());
    let judge = |value: &str| {
        outcome(&judged(&scheme, &[&issuer.secret], NOW, &vec![("x-token".into(), value.to_owned())], BODY))
    };
    assert_eq!(judge(&token), Ok(0));
    assert_eq!(judge(&format!("Bearer {token}")), Err("malformed_header"));
    let own = json!({"algorithms": "HS256", "expires": false}).to_string();
    let lasting = issuer.token(&json!({}));
    assert_eq!(outcome(&judged(&own, &[&issuer.secret], NOW, &bearer(&lasting), BODY)), Ok(0));
    // It names somebody, and the endpoint is nobody.
    assert_eq!(outcome(&judged(&own, &[&issuer.secret], NOW, &bearer(&token), BODY)), Err("claim"));
}

#[test]
fn a_scheme_that_proves_less_than_it_seems_to_is_refused() {
    let refused = |scheme: Value| Preset::jwt(&scheme.to_string()).expect_err("a fault").pointer;
    for (pointer, scheme) in [
        ("", json!({})),
        ("", json!({"algorithm": "HS256"})),
        ("/algorithms", json!({"algorithms": []})),
        ("/algorithms", json!({"algorithms": "none"})),
        ("/algorithms", json!({"algorithms": ["HS256", "RS256"]})),
        ("/issuer", json!({"algorithms": "HS256", "issuer": []})),
        ("/audience", json!({"algorithms": "HS256", "audience": ""})),
        ("/header", json!({"algorithms": "HS256", "header": "a b"})),
        ("/dedupe", json!({"algorithms": "HS256", "dedupe": "sub"})),
        ("/dedupe", json!({"algorithms": "HS256", "dedupe": "jti", "expires": false})),
    ] {
        assert_eq!(refused(scheme.clone()), pointer, "{scheme}");
    }
    let check =
        |algorithm: &str, secret: &[u8]| Preset::jwt(&scheme(algorithm)).unwrap().check_secret(secret);
    assert_eq!(check("HS256", b""), Err(SecretError::Empty));
    assert_eq!(check("HS512", &[b'x'; 63]), Err(SecretError::TooShort(64)));
    assert_eq!(check("HS512", &[b'x'; 64]), Ok(()));
    for none in [
        &b"shared"[..],
        b"{}",
        b"{\"keys\": []}",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ] {
        assert!(matches!(check("RS256", none), Err(SecretError::NotAPublicKey(_))));
    }
    assert!(check("RS256", &Issuer::new("ES256", 1).secret).is_err(), "a key of another kind");
}
