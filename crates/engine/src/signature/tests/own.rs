//! Schemes of an endpoint's own.

use super::*;

/// Like Stripe's, with another algorithm.
const PAIRS: &str = r#"{"header": "X-Sig", "pairs": {"separator": ";", "signature": "v2", "timestamp": "ts"},
    "signed": "{timestamp}:{body}", "algorithm": "sha512", "encoding": "base64", "dedupe": "/id"}"#;
const NAMED: &str = r#"{"header": "X-Signature", "prefix": "sha256=", "signed": "v1/{id}/{timestamp}/{body}",
    "timestamp_header": "X-Time", "id_header": "X-Delivery"}"#;
const PLAIN: &str = r#"{"header": "X-Hmac", "algorithm": "sha1", "id_header": "X-Delivery", "key": "hex"}"#;
const HEX_KEY: &[u8] = b"000102030405060708090a0b0c0d0e0f";

fn judged(scheme: &str, secret: &[u8], headers: &Pairs, body: &[u8]) -> Verdict {
    let preset = Preset::own(scheme).unwrap();
    verify(&preset, &[secret], TOLERANCE, NOW, &Request { headers, url: URL, body })
}

#[test]
fn a_scheme_of_ones_own_verifies_like_a_preset() {
    let binary: &[u8] = &[0, 255, b'\n'];
    for (scheme, secret) in [(PAIRS, GITHUB), (NAMED, GITHUB), (PLAIN, HEX_KEY)] {
        let preset = Preset::own(scheme).unwrap();
        let at = |time, body| sign(&preset, secret, ID, time, URL, body).unwrap();
        let is_timed = preset.timestamp != TimestampSource::None;
        assert_eq!(outcome(&judged(scheme, secret, &at(NOW, BODY), BODY)), Ok(0), "{scheme}");
        assert_eq!(outcome(&judged(scheme, secret, &at(NOW, binary), binary)), Ok(0));
        assert_eq!(outcome(&judged(scheme, HEX_KEY, &at(NOW, BODY), b"{}")), Err("no_match"));
        let other: &[u8] = b"ffffffffffffffffffffffffffffffff";
        assert_eq!(outcome(&judged(scheme, other, &at(NOW, BODY), BODY)), Err("no_match"));
        assert_eq!(outcome(&judged(scheme, secret, &vec![], BODY)), Err("missing_header"));
        let old = outcome(&judged(scheme, secret, &at(NOW - TOLERANCE - 1, BODY), BODY)).err();
        let new = outcome(&judged(scheme, secret, &at(NOW + TOLERANCE + 1, BODY), BODY)).err();
        assert_eq!((old, new), if is_timed { (Some("too_old"), Some("too_new")) } else { (None, None) });
    }
}

#[test]
fn deliveries_are_known_by_what_is_signed() {
    let key = |scheme, secret, headers: &Pairs| match judged(scheme, secret, headers, BODY) {
        Verdict::Accepted { dedupe_key, signed_id, unsigned_id, .. } => (dedupe_key, signed_id, unsigned_id),
        Verdict::Rejected(reason) => panic!("{reason}"),
    };
    let by = |scheme, secret| sign(&Preset::own(scheme).unwrap(), secret, ID, NOW, URL, BODY).unwrap();
    let id = || Some(ID.to_owned());
    assert_eq!(key(NAMED, GITHUB, &by(NAMED, GITHUB)), (format!("id:{ID}"), id(), None));
    let hinted = with(by(PLAIN, HEX_KEY), "x-delivery", ID);
    let (by_body, signed_id, unsigned_id) = key(PLAIN, HEX_KEY, &hinted);
    assert!(by_body.starts_with("sha256:"));
    assert_eq!((signed_id, unsigned_id), (None, id()));
    // An id that could be read as the beginning of what follows it.
    let preset = Preset::own(&NAMED.replace("{id}/", "{id}::")).unwrap();
    let headers = sign(&preset, GITHUB, "a:", NOW, URL, BODY).unwrap();
    let request = Request { headers: &headers, url: URL, body: BODY };
    assert_eq!(outcome(&verify(&preset, &[GITHUB], TOLERANCE, NOW, &request)), Err("malformed_header"));
}

#[test]
fn a_scheme_that_proves_less_than_it_seems_to_is_refused() {
    let refused = |scheme: &str| Preset::own(scheme).expect_err(scheme).pointer;
    for (pointer, scheme) in [
        ("", "[]"),
        ("", r#"{"signed": "{body}"}"#),
        ("", r#"{"header": "x", "algorithm": "md5"}"#),
        ("", r#"{"header": "x", "secret": "s"}"#),
        ("/header", r#"{"header": "x y"}"#),
        ("/header", r#"{"header": ""}"#),
        ("/prefix", r#"{"header": "x", "prefix": "a b"}"#),
        ("/prefix", r#"{"header": "x", "prefix": "v=", "pairs": {"signature": "v"}}"#),
        ("/pairs/separator", r#"{"header": "x", "pairs": {"separator": "=", "signature": "v"}}"#),
        ("/signed", r#"{"header": "x", "signed": ""}"#),
        ("/signed", r#"{"header": "x", "signed": "{id}.{timestamp}"}"#),
        ("/signed", r#"{"header": "x", "signed": "{body"}"#),
        ("/signed", r#"{"header": "x", "signed": "body}"}"#),
        ("/signed", r#"{"header": "x", "signed": "{body}{body}"}"#),
        ("/signed", r#"{"header": "x", "signed": "{url}{body}"}"#),
        ("/signed", r#"{"header": "x", "signed": "{body}.{timestamp}", "timestamp_header": "t"}"#),
        ("/signed", r#"{"header": "x", "signed": "{timestamp}{body}", "timestamp_header": "t"}"#),
        ("/signed", r#"{"header": "x", "signed": "{timestamp}0{body}", "timestamp_header": "t"}"#),
        ("/signed", r#"{"header": "x", "timestamp_header": "t"}"#),
        ("/timestamp_header", r#"{"header": "x", "signed": "{timestamp}.{body}"}"#),
        (
            "/timestamp_header",
            r#"{"header": "x", "signed": "{timestamp}.{body}", "timestamp_header": "t",
                "pairs": {"signature": "v", "timestamp": "t"}}"#,
        ),
        ("/timestamp_header", r#"{"header": "x", "signed": "{timestamp}.{body}", "timestamp_header": "X"}"#),
        (
            "/pairs/timestamp",
            r#"{"header": "x", "signed": "{timestamp}.{body}", "pairs": {"signature": "v", "timestamp": "v"}}"#,
        ),
        (
            "/pairs/timestamp",
            r#"{"header": "x", "signed": "{timestamp}.{body}", "pairs": {"signature": "v", "timestamp": "a,b"}}"#,
        ),
        ("/pairs/signature", r#"{"header": "x", "pairs": {"signature": "v1="}}"#),
        ("/id_header", r#"{"header": "x", "signed": "{id}.{body}"}"#),
        ("/id_header", r#"{"header": "x", "signed": "{id}.{body}", "dedupe": "/id"}"#),
        ("/id_header", r#"{"header": "x", "signed": "{id}.{body}", "id_header": "X"}"#),
        ("/dedupe", r#"{"header": "x", "signed": "{id}.{body}", "id_header": "i", "dedupe": "/id"}"#),
        ("/dedupe", r#"{"header": "x", "dedupe": "id"}"#),
    ] {
        assert_eq!(refused(scheme), pointer, "{scheme}");
    }
}
