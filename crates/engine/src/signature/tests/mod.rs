use serde_json::json;

use super::*;

mod cases;
mod challenge;
mod every;
mod fuzz;
mod jwt;
mod own;
mod properties;

const NOW: i64 = 1_614_265_330;
const TOLERANCE: i64 = 300;
const URL: &str = "https://hooks.example/hooks/abc";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const WHSEC: &[u8] = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const WHSEC_OLD: &[u8] = b"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PUBLISHED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const GITHUB: &[u8] = b"It's a Secret to Everybody";
const GITHUB_PUBLISHED: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

type Pairs = Vec<(String, String)>;

fn preset(name: &str) -> &'static Preset {
    Preset::by_name(name).unwrap()
}

fn signed(name: &str, secret: &[u8], ts: i64, body: &[u8]) -> Pairs {
    sign(preset(name), secret, ID, ts, URL, body).unwrap()
}

fn check(name: &str, secrets: &[&[u8]], headers: &Pairs, body: &[u8]) -> Verdict {
    verify(preset(name), secrets, TOLERANCE, NOW, &Request { headers, url: URL, body })
}

fn with(mut headers: Pairs, name: &str, value: &str) -> Pairs {
    headers.retain(|(n, _)| n != name);
    headers.push((name.into(), value.into()));
    headers
}

fn without(mut headers: Pairs, name: &str) -> Pairs {
    headers.retain(|(n, _)| n != name);
    headers
}

fn get(headers: &Pairs, name: &str) -> String {
    Headers::get(headers, name).unwrap().to_owned()
}

/// `Ok(index of the matching secret)` or the reason's name.
fn outcome(verdict: &Verdict) -> Result<usize, &'static str> {
    match verdict {
        Verdict::Accepted { secret_index, .. } => Ok(secret_index.unwrap_or(0)),
        Verdict::Rejected(reason) => Err(reason.as_str()),
    }
}

#[test]
fn published_vectors() {
    let headers: Pairs = vec![
        ("webhook-id".into(), ID.into()),
        ("webhook-timestamp".into(), NOW.to_string()),
        ("webhook-signature".into(), PUBLISHED.into()),
    ];
    assert_eq!(
        check("standard", &[WHSEC], &headers, BODY),
        Verdict::Accepted {
            dedupe_key: format!("id:{ID}"),
            signed_id: Some(ID.into()),
            unsigned_id: None,
            secret_index: Some(0),
            timestamp: Some(NOW),
        }
    );
    assert_eq!(signed("standard", WHSEC, NOW, BODY), headers);

    let headers: Pairs = vec![
        ("x-hub-signature-256".into(), GITHUB_PUBLISHED.into()),
        ("x-github-delivery".into(), "72d3162e-cc78".into()),
    ];
    assert_eq!(
        check("github", &[GITHUB], &headers, b"Hello, World!"),
        Verdict::Accepted {
            // sha256 of the body, as `printf 'Hello, World!' | sha256sum` prints it.
            dedupe_key: "sha256:dffd6021bb2bd5b0af676290809ec3a53191dd81c7f70a4b28688a362182986f".into(),
            signed_id: None,
            unsigned_id: Some("72d3162e-cc78".into()),
            secret_index: Some(0),
            timestamp: None,
        }
    );
}

/// A captured message sent again under a fresh delivery id is the same delivery; so is the sender's
/// own repeat after its secret was rotated.
#[test]
fn body_schemes_dedupe_by_body() {
    let key = |secret: &[u8], delivery: &str| {
        let headers = with(signed("github", secret, NOW, BODY), "x-github-delivery", delivery);
        match check("github", &[b"new", GITHUB], &headers, BODY) {
            Verdict::Accepted { dedupe_key, unsigned_id, .. } => {
                assert_eq!(unsigned_id.as_deref(), Some(delivery));
                dedupe_key
            }
            rejected => panic!("{rejected:?}"),
        }
    };
    assert_eq!(key(GITHUB, "one"), key(GITHUB, "two"));
    assert_eq!(key(GITHUB, "one"), key(b"new", "one"));
}

/// An unusable hint is left out; it is not a reason to refuse a signed message.
#[test]
fn odd_hints_are_dropped() {
    for hint in ["", "a b", "\u{e9}", &"x".repeat(MAX_ID_BYTES + 1)] {
        let headers = with(signed("github", GITHUB, NOW, BODY), "x-github-delivery", hint);
        assert!(matches!(
            check("github", &[GITHUB], &headers, BODY),
            Verdict::Accepted { unsigned_id: None, .. }
        ));
    }
}

#[test]
fn the_repeat_of_a_signed_id_has_the_same_key() {
    let key = |ts| match check("standard", &[WHSEC], &signed("standard", WHSEC, ts, BODY), BODY) {
        Verdict::Accepted { dedupe_key, .. } => dedupe_key,
        rejected => panic!("{rejected:?}"),
    };
    assert_eq!(key(NOW), key(NOW + 10));
}

#[test]
fn secrets_are_checked() {
    let standard = preset("standard");
    let of = |bytes: usize| {
        let headers = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, vec![7; bytes]);
        standard.check_secret(format!("whsec_{headers}").as_bytes())
    };
    assert_eq!(standard.check_secret(b""), Err(SecretError::Empty));
    assert_eq!(standard.check_secret(b"whsec_"), Err(SecretError::Empty));
    assert_eq!(standard.check_secret(&WHSEC[6..]), Err(SecretError::MissingPrefix));
    assert_eq!(standard.check_secret(b"whpk_abcd"), Err(SecretError::MissingPrefix));
    assert_eq!(standard.check_secret(b"whsec_%%%%"), Err(SecretError::NotBase64));
    assert_eq!(standard.check_secret(b"whsec_\xff\xfe"), Err(SecretError::NotBase64));
    assert_eq!(standard.check_secret(WHSEC), Ok(()));
    assert_eq!(of(23), Err(SecretError::WrongLength));
    for good in 24..=64 {
        assert_eq!(of(good), Ok(()), "{good}");
    }
    for bad in 65..200 {
        assert_eq!(of(bad), Err(SecretError::WrongLength), "{bad}");
    }
    // What a header cannot hold never comes.
    let long = vec![b'a'; 1025];
    for bad in [&b"token\n"[..], b" token", b"to\x01ken", &long] {
        assert_eq!(preset("bearer").check_secret(bad), Err(SecretError::NotAToken));
    }
    assert_eq!(preset("bearer").check_secret(&long[1..]), Ok(()));
    assert_eq!(preset("basic").check_secret(b"user: pass word "), Ok(()));
    let github = preset("github");
    assert_eq!(github.check_secret(b""), Err(SecretError::Empty));
    assert_eq!(github.check_secret(b"whsec_"), Err(SecretError::Empty));
    assert_eq!(github.check_secret(GITHUB), Ok(()));
}

#[test]
fn no_tolerance_and_extreme_clocks() {
    let headers = signed("standard", WHSEC, NOW, BODY);
    let at = |tolerance, now| {
        let request = Request { headers: &headers, url: URL, body: BODY };
        outcome(&verify(preset("standard"), &[WHSEC], tolerance, now, &request))
    };
    assert_eq!(at(0, NOW), Ok(0));
    assert_eq!(at(-5, NOW), Ok(0));
    assert_eq!(at(0, NOW + 1), Err("too_old"));
    assert_eq!(at(i64::MAX, i64::MAX), Ok(0));
    assert_eq!(at(i64::MIN, i64::MIN), Err("too_new"));
    assert_eq!(at(i64::MAX, i64::MIN), Err("too_new"));
}

#[test]
fn every_way_to_hold_headers_works() {
    let pairs = signed("standard", WHSEC, NOW, BODY);
    let p = preset("standard");
    let json = json!({
        "webhook-id": ID,
        "webhook-timestamp": NOW.to_string(),
        "webhook-signature": PUBLISHED,
        "x": 1,
    });
    let tree: std::collections::BTreeMap<_, _> = pairs.iter().cloned().collect();
    let hash: std::collections::HashMap<_, _> = pairs.iter().cloned().collect();
    let s: &[&[u8]] = &[WHSEC];
    fn judged<H: Headers + ?Sized>(p: &Preset, s: &[&[u8]], headers: &H) -> Verdict {
        verify(p, s, TOLERANCE, NOW, &Request { headers, url: URL, body: BODY })
    }
    let verdicts = [
        judged(p, s, json.as_object().unwrap()),
        judged(p, s, &tree),
        judged(p, s, &hash),
        judged(p, s, pairs.as_slice()),
        judged(p, s, &pairs as &dyn Headers),
    ];
    for verdict in verdicts {
        assert_eq!(outcome(&verdict), Ok(0));
    }
    let mut numeric = json.as_object().unwrap().clone();
    numeric.insert("webhook-timestamp".into(), json!(NOW));
    assert_eq!(judged(p, s, &numeric), Verdict::Rejected(Reason::MissingHeader("webhook-timestamp".into())));
}

/// The table is data: a scheme nobody shipped works by being written down.
#[test]
fn schemes_are_data() {
    let kv = Preset {
        name: "kv".into(),
        headers: vec![HeaderSet { signature: "s".into(), id: None, timestamp: None }],
        proofs: vec![Proof {
            grammar: Grammar::Kv { separator: ',', signature_key: "v1".into() },
            algorithm: Algorithm::HmacSha512,
            encoding: Encoding::Hex,
            key: KeyForm::Raw,
        }],
        signed: vec![Part::Timestamp, Part::Literal(".".into()), Part::Body],
        timestamp: TimestampSource::Kv("t".into()),
        dedupe: Dedupe::BodyDigest,
        hint: None,
        ..preset("standard").clone()
    };
    let judged = |p: &Preset, headers: &[(&str, &str)], body: &[u8]| {
        outcome(&verify(p, &[b"k"], TOLERANCE, NOW, &Request { headers, url: URL, body }))
    };
    let go = |value: &str| judged(&kv, &[("s", value)], BODY);
    let value = get(&sign(&kv, b"k", "", NOW, URL, BODY).unwrap(), "s");
    let (time, sig) = value.split_once(',').unwrap();
    assert_eq!(go(&value), Ok(0));
    assert_eq!(go(&format!("{time}, v0=00, x, ,v1=zz, {sig}")), Ok(0));
    assert_eq!(go(sig), Err("malformed_header"));
    assert_eq!(go(&format!("t=1,{value}")), Err("malformed_header"));
    assert_eq!(go(&format!("t=1,{sig}")), Err("no_match"));
    assert_eq!(go(time), Err("malformed_header"));

    let mut bare = preset("github").clone();
    bare.proofs[0].grammar = Grammar::Bare;
    let value = get(&sign(&bare, b"k", "d", 0, URL, BODY).unwrap(), "x-hub-signature-256");
    assert_eq!(judged(&bare, &[("x-hub-signature-256", &value)], BODY), Ok(0));
    assert_eq!(judged(&bare, &[("x-hub-signature-256", &value)], b""), Err("no_match"));
}

/// What the verifier relies on; a row that breaks it would fail closed, but late.
#[test]
fn the_table_is_consistent() {
    for p in PRESETS.iter().filter(|p| !p.proofs.is_empty()) {
        let is_body_signed = p.signed.contains(&Part::Body) || p.signed.contains(&Part::Form);
        assert!(!p.headers.is_empty() && is_body_signed, "{}", p.name);
        for set in &p.headers {
            assert_eq!(set.id.is_some(), p.signed.contains(&Part::Id), "{}", p.name);
            assert_eq!(set.timestamp.is_some(), p.timestamp == TimestampSource::Header, "{}", p.name);
            let names = [Some(&set.signature), set.id.as_ref(), set.timestamp.as_ref(), p.hint.as_ref()];
            for name in names.iter().flatten() {
                assert_eq!(**name, name.to_lowercase());
            }
        }
        assert_eq!(
            matches!(p.timestamp, TimestampSource::Header | TimestampSource::Kv(_)),
            p.signed.contains(&Part::Timestamp),
            "{}: a time that is not signed proves nothing",
            p.name
        );
        assert_eq!(p.dedupe == Dedupe::SignedId, p.signed.contains(&Part::Id), "{}", p.name);
    }
    assert_eq!(Preset::by_name("Standard"), None);
    assert_eq!(Preset::by_name(""), None);
}

#[test]
fn reasons_name_the_header_and_never_the_secret() {
    let reason = Reason::MissingHeader("webhook-id".into());
    assert_eq!(reason.to_string(), "header webhook-id is missing");
    assert_eq!(reason.header(), Some("webhook-id"));
    assert_eq!(Reason::NoMatch.header(), None);
}
