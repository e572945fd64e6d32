//! What each preset accepts and refuses, as tables.

use super::*;

/// What it shows, active secrets, headers, body, expected outcome.
type Case<'a> = (&'a str, &'a [&'a [u8]], Pairs, &'a [u8], Result<usize, &'a str>);

#[track_caller]
fn cases(name: &str, table: &[Case]) {
    for (what, secrets, headers, body, expected) in table {
        let verdict = check(name, secrets, headers, body);
        assert_eq!(outcome(&verdict), *expected, "{name}: {what}: {verdict:?}");
    }
}

#[test]
fn standard_cases() {
    let good = || signed("standard", WHSEC, NOW, BODY);
    let at = |ts| signed("standard", WHSEC, ts, BODY);
    let sig = get(&good(), "webhook-signature");
    let old_sig = get(&signed("standard", WHSEC_OLD, NOW, BODY), "webhook-signature");
    let binary: &[u8] = &[0, 255, 254, 0x80, b'\r', b'\n', 0];
    let svix: Pairs = good().into_iter().map(|(n, v)| (n.replace("webhook-", "svix-"), v)).collect();
    let mut both = svix.clone();
    both.extend(good());
    let list = |items: &[&str]| with(good(), "webhook-signature", &items.join(" "));
    let only = |text: &str| with(good(), "webhook-signature", text);
    let current: &[&[u8]] = &[WHSEC];
    let rotated: &[&[u8]] = &[WHSEC, WHSEC_OLD];
    let dotted = sign(preset("standard"), WHSEC, "a.1", NOW, URL, BODY).unwrap();
    let long_id = sign(preset("standard"), WHSEC, &"a".repeat(257), NOW, URL, BODY).unwrap();
    let nul_id = sign(preset("standard"), WHSEC, "a\0b", NOW, URL, BODY).unwrap();
    let many = list(&vec![sig.as_str(); MAX_CANDIDATES]);
    let too_many = list(&vec![sig.as_str(); MAX_CANDIDATES + 1]);
    cases(
        "standard",
        &[
            ("good", current, good(), BODY, Ok(0)),
            ("wrong key", &[WHSEC_OLD], good(), BODY, Err("no_match")),
            ("tampered body", current, good(), b"{}", Err("no_match")),
            ("tampered id", current, with(good(), "webhook-id", "x"), BODY, Err("no_match")),
            (
                "tampered time",
                current,
                with(good(), "webhook-timestamp", &(NOW + 1).to_string()),
                BODY,
                Err("no_match"),
            ),
            ("oldest allowed", current, at(NOW - TOLERANCE), BODY, Ok(0)),
            ("old", current, at(NOW - TOLERANCE - 1), BODY, Err("too_old")),
            ("newest allowed", current, at(NOW + TOLERANCE), BODY, Ok(0)),
            ("future", current, at(NOW + TOLERANCE + 1), BODY, Err("too_new")),
            ("far future", current, at(i64::MAX), BODY, Err("too_new")),
            ("epoch", current, at(0), BODY, Err("too_old")),
            ("no headers", current, vec![], BODY, Err("missing_header")),
            ("no id", current, without(good(), "webhook-id"), BODY, Err("missing_header")),
            ("no time", current, without(good(), "webhook-timestamp"), BODY, Err("missing_header")),
            ("no signature", current, without(good(), "webhook-signature"), BODY, Err("missing_header")),
            ("signed by the previous secret", rotated, only(&old_sig), BODY, Ok(1)),
            ("signed by both", rotated, list(&[&old_sig, &sig]), BODY, Ok(0)),
            ("previous secret expired", current, only(&old_sig), BODY, Err("no_match")),
            ("unusable secret passed over", &[b"", b"whsec_", WHSEC], good(), BODY, Ok(2)),
            ("no secret", &[], good(), BODY, Err("no_secret")),
            ("no usable secret", &[b"whsec_"], good(), BODY, Err("no_secret")),
            ("binary body", current, signed("standard", WHSEC, NOW, binary), binary, Ok(0)),
            ("empty body", current, signed("standard", WHSEC, NOW, b""), b"", Ok(0)),
            ("svix names", current, svix.clone(), BODY, Ok(0)),
            ("both sets", current, both.clone(), BODY, Ok(0)),
            ("a complete set wins over a started one", current, without(both, "webhook-id"), BODY, Ok(0)),
            (
                "sets are not mixed",
                current,
                with(without(good(), "webhook-id"), "svix-id", ID),
                BODY,
                Err("missing_header"),
            ),
            ("others' versions ignored", current, list(&["v1a,AAAA", &sig, "v2,x"]), BODY, Ok(0)),
            ("only others' versions", current, only("v1a,AAAA"), BODY, Err("malformed_header")),
            ("undecodable passed over", current, list(&["v1,%%%", "v1,", &sig]), BODY, Ok(0)),
            ("a prefix of the signature", current, only(&sig[..40]), BODY, Err("malformed_header")),
            ("without padding", current, only(sig.trim_end_matches('=')), BODY, Ok(0)),
            ("empty signature", current, only(""), BODY, Err("malformed_header")),
            ("no version", current, only(&sig[3..]), BODY, Err("malformed_header")),
            ("as many signatures as allowed", current, many, BODY, Ok(0)),
            ("too many signatures", current, too_many, BODY, Err("malformed_header")),
            ("id with a full stop", current, dotted, BODY, Err("malformed_header")),
            ("long id", current, long_id, BODY, Err("malformed_header")),
            ("NUL in id", current, nul_id, BODY, Err("malformed_header")),
            ("empty id", current, with(good(), "webhook-id", ""), BODY, Err("malformed_header")),
            (
                "repeated id header",
                current,
                with(good(), "webhook-id", &format!("{ID}, {ID}")),
                BODY,
                Err("malformed_header"),
            ),
        ],
    );
    for bad in ["", "+1614265330", "-1", " 1614265330", "1614265330.0", "9".repeat(40).as_str(), "١"] {
        let verdict = check("standard", &[WHSEC], &with(good(), "webhook-timestamp", bad), BODY);
        assert_eq!(
            verdict,
            Verdict::Rejected(Reason::MalformedHeader("webhook-timestamp".into())),
            "{bad:?}"
        );
    }
}

#[test]
fn github_cases() {
    let good = || signed("github", GITHUB, NOW, BODY);
    let header = "x-hub-signature-256";
    let hex = get(&good(), header)["sha256=".len()..].to_owned();
    let only = |text: &str| with(good(), header, text);
    let binary: &[u8] = &[0, 255, 254, 0x80];
    let form: &[u8] = b"payload=%7B%22a%22%3A1%7D";
    let current: &[&[u8]] = &[GITHUB];
    let rotated: &[&[u8]] = &[b"new", GITHUB];
    cases(
        "github",
        &[
            ("good", current, good(), BODY, Ok(0)),
            ("wrong key", &[b"other"], good(), BODY, Err("no_match")),
            ("tampered body", current, good(), b"{}", Err("no_match")),
            ("body cut", current, good(), &BODY[..BODY.len() - 1], Err("no_match")),
            ("no time is signed: any age", current, signed("github", GITHUB, 0, BODY), BODY, Ok(0)),
            ("no signature", current, without(good(), header), BODY, Err("missing_header")),
            ("no delivery id", current, without(good(), "x-github-delivery"), BODY, Ok(0)),
            ("rotated", rotated, good(), BODY, Ok(1)),
            ("no secret", &[b""], good(), BODY, Err("no_secret")),
            ("binary body", current, signed("github", GITHUB, NOW, binary), binary, Ok(0)),
            ("form body, raw", current, signed("github", GITHUB, NOW, form), form, Ok(0)),
            ("upper-case hex", current, only(&format!("sha256={}", hex.to_uppercase())), BODY, Ok(0)),
            ("no prefix", current, only(&hex), BODY, Err("malformed_header")),
            ("other algorithm", current, only(&format!("sha1={hex}")), BODY, Err("malformed_header")),
            ("cut", current, only(&format!("sha256={}", &hex[..62])), BODY, Err("malformed_header")),
            ("long", current, only(&format!("sha256={hex}00")), BODY, Err("malformed_header")),
            ("not hex", current, only(&format!("sha256={}zz", &hex[..62])), BODY, Err("malformed_header")),
            (
                "the legacy header does not count",
                current,
                vec![("x-hub-signature".into(), format!("sha256={hex}"))],
                BODY,
                Err("missing_header"),
            ),
        ],
    );
}

/// The time is inside the header, twice or not at all, or in the body.
#[test]
fn times_are_where_the_scheme_has_them() {
    let header = "stripe-signature";
    let good = signed("stripe", b"whsec_raw", NOW, BODY);
    let value = get(&good, header);
    let signature = value.split_once("v1=").unwrap().1.to_owned();
    let only = |text: String| with(good.clone(), header, &text);
    let current: &[&[u8]] = &[b"whsec_raw"];
    cases(
        "stripe",
        &[
            ("good", current, good.clone(), BODY, Ok(0)),
            ("test signatures beside it", current, only(format!("{value},v0=abc")), BODY, Ok(0)),
            ("several signatures", current, only(format!("t={NOW},v1=00,v1={signature}")), BODY, Ok(0)),
            ("unknown keys", current, only(format!("x=1, {value}, y")), BODY, Ok(0)),
            ("two times", current, only(format!("t=1,{value}")), BODY, Err("malformed_header")),
            ("no time", current, only(format!("v1={signature}")), BODY, Err("malformed_header")),
            ("another time", current, only(format!("t=1,v1={signature}")), BODY, Err("no_match")),
        ],
    );
    let linear = |body: &[u8]| {
        let headers = signed("linear", b"key", NOW, body);
        outcome(&check("linear", &[b"key"], &headers, body))
    };
    assert_eq!(linear(format!(r#"{{"webhookTimestamp":{}}}"#, NOW * 1000).as_bytes()), Ok(0));
    for body in [&b"{}"[..], b"[]", b"nonsense", br#"{"webhookTimestamp":"1614265330000"}"#, b"\xff"] {
        assert_eq!(linear(body), Err("no_time"), "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn deliveries_are_known_by_what_is_signed() {
    let key = |name: &str, body: &[u8]| {
        let secret: &[u8] = b"key of a sender";
        match check(name, &[secret], &signed(name, secret, NOW, body), body) {
            Verdict::Accepted { dedupe_key, .. } => dedupe_key,
            rejected => panic!("{rejected:?}"),
        }
    };
    assert_eq!(key("stripe", br#"{"id":"evt_1","n":1}"#), "body:evt_1");
    assert_eq!(key("slack", br#"{"event_id":"Ev1"}"#), "body:Ev1");
    // Ids that are numbers, and ids that are no text for a log, are ids all the same.
    assert_eq!(key("stripe", br#"{"id":7,"try":1}"#), "body:7");
    let spaced = key("stripe", br#"{"id":"with a space","try":1}"#);
    assert!(spaced.starts_with("body:sha256:"));
    assert_eq!(spaced, key("stripe", br#"{"id":"with a space","try":2}"#));
    let digits = format!(r#"{{"id":{}}}"#, "7".repeat(10_000));
    assert_eq!(key("stripe", digits.as_bytes()).len(), "body:sha256:".len() + 64);
    for body in [&b"{}"[..], br#"{"id":null}"#, br#"{"id":""}"#, br#"{"id":{"n":1}}"#, b"nonsense"] {
        assert!(key("stripe", body).starts_with("sha256:"));
    }
}

/// What a token comes with is told apart by all that may differ, as nothing of it is signed.
#[test]
fn with_a_token_the_query_counts_too() {
    let key = |name: &str, query: &str| {
        let secret: &[u8] = b"key:of a sender";
        let (url, headers) = (format!("{URL}?{query}"), signed(name, secret, NOW, BODY));
        match verify(
            preset(name),
            &[secret],
            TOLERANCE,
            NOW,
            &Request { headers: &headers, url: &url, body: BODY },
        ) {
            Verdict::Accepted { dedupe_key, .. } => dedupe_key,
            rejected => panic!("{rejected:?}"),
        }
    };
    for name in ["basic", "bearer", "gitlab_token"] {
        assert_ne!(key(name, "step=1"), key(name, "step=2"));
        assert_eq!(key(name, "step=1"), key(name, "step=1"));
    }
    // The secret is no part of what came.
    let by_url = |query: &str| {
        let url = format!("{URL}?{query}");
        match verify(
            preset("url_secret"),
            &[b"s", b"t"],
            TOLERANCE,
            NOW,
            &Request { headers: &Pairs::new(), url: &url, body: BODY },
        ) {
            Verdict::Accepted { dedupe_key, .. } => dedupe_key,
            rejected => panic!("{rejected:?}"),
        }
    };
    assert_eq!(by_url("secret=s&event=a"), by_url("secret=t&event=a"));
    assert_ne!(by_url("secret=s&event=a"), by_url("secret=s&event=b"));
    assert_eq!(by_url("secret=s"), by_url("secret=t"));
    // Whoever caught a signed body could put any query to it.
    assert_eq!(key("github", "step=1"), key("github", "step=2"));
}

/// https://www.twilio.com/docs/usage/security#validating-requests
#[test]
fn twilio_signs_the_address_and_the_form() {
    let secret: &[u8] = b"12345";
    let url = "https://example.com/myapp.php?foo=1&bar=2";
    let form =
        b"CallSid=CA1234567890ABCDE&Caller=%2B14158675310&Digits=1234&From=%2B14158675310&To=%2B18005551212";
    let published = ("x-twilio-signature".to_owned(), "L/OH5YylLD5NRKLltdqwSvS0BnU=".to_owned());
    let judge = |url: &str, media: &str, signature: &(String, String), body: &[u8]| {
        let headers = vec![signature.clone(), ("content-type".to_owned(), media.to_owned())];
        outcome(&verify(
            preset("twilio"),
            &[secret],
            TOLERANCE,
            NOW,
            &Request { headers: &headers, url, body },
        ))
    };
    let form_type = "application/x-www-form-urlencoded; charset=UTF-8";
    assert_eq!(judge(url, form_type, &published, form), Ok(0));
    let mut reversed: Vec<&[u8]> = form.split(|byte| *byte == b'&').rev().collect();
    assert_eq!(judge(url, form_type, &published, &reversed.join(&b'&')), Ok(0), "in any order");
    reversed.push(b"Digits=1234");
    assert_eq!(judge(url, form_type, &published, &reversed.join(&b'&')), Ok(0), "each once");
    reversed.push(b"Digits=9");
    assert_eq!(judge(url, form_type, &published, &reversed.join(&b'&')), Err("no_match"));
    assert_eq!(judge("https://example.com:443/myapp.php?foo=1&bar=2", form_type, &published, form), Ok(0));
    assert_eq!(
        judge("https://example.com/other.php?foo=1&bar=2", form_type, &published, form),
        Err("no_match")
    );
    // Anything but a form: the address is signed, and has the digest of the body.
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(BODY));
    let of_json = format!("https://example.com/j?bodySHA256={digest}");
    let mac = {
        use hmac::{KeyInit as _, Mac as _};
        let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(secret).unwrap();
        mac.update(of_json.as_bytes());
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, mac.finalize().into_bytes())
    };
    let signature = ("x-twilio-signature".to_owned(), mac);
    assert_eq!(judge(&of_json, "application/json", &signature, BODY), Ok(0));
    assert_eq!(judge(&of_json, "application/json", &signature, b"{}"), Err("no_match"));
    assert_eq!(
        judge(url, "application/json", &published, b"{}"),
        Err("no_match"),
        "no digest in the address"
    );
    // What the headers say the body is counts for nothing: they are not signed.
    for body in [&b""[..], b"&", b"=", BODY] {
        assert_eq!(
            judge(&of_json, form_type, &signature, body),
            Err("no_match"),
            "{:?}",
            String::from_utf8_lossy(body)
        );
    }
}

/// One signature is one delivery, however the form is written; two addresses are two.
#[test]
fn what_twilio_signs_is_what_it_is_known_by() {
    let secret: &[u8] = b"12345";
    let key = |url: &str, form: &[u8]| {
        let mut headers = sign(preset("twilio"), secret, ID, NOW, url, form).unwrap();
        headers.push(("content-type".into(), "application/x-www-form-urlencoded".into()));
        match verify(
            preset("twilio"),
            &[secret],
            TOLERANCE,
            NOW,
            &Request { headers: &headers, url, body: form },
        ) {
            Verdict::Accepted { dedupe_key, .. } => dedupe_key,
            rejected => panic!("{rejected:?}"),
        }
    };
    let first = key("https://a.example/?step=1", b"A=1&B=2");
    for again in [&b"A=1&B=2&"[..], b"B=2&A=1", b"A=1&A=1&B=2", b"A=%31&B=2", b"A=1B2"] {
        assert_eq!(key("https://a.example/?step=1", again), first, "{}", String::from_utf8_lossy(again));
    }
    assert_ne!(key("https://a.example/?step=2", b"A=1&B=2"), first);
}

#[test]
fn credentials_are_read_as_http_has_them() {
    let judge = |name: &str, secret: &[u8], value: &str| {
        outcome(&check(name, &[secret], &vec![("authorization".into(), value.into())], BODY))
    };
    // RFC 7617, section 2.
    assert_eq!(judge("basic", b"Aladdin:open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Ok(0));
    assert_eq!(judge("basic", b"Aladdin:open sesame", "bAsIc  QWxhZGRpbjpvcGVuIHNlc2FtZQ"), Ok(0));
    assert_eq!(judge("basic", b"Aladdin:open sesamE", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Err("no_match"));
    assert_eq!(judge("bearer", b"mF_9.B5f-4.1JqM", "Bearer mF_9.B5f-4.1JqM"), Ok(0));
    for odd in
        ["", "Bearer", "Bearer ", "mF_9.B5f-4.1JqM", "Basic mF_9.B5f-4.1JqM", "Bearer: mF_9.B5f-4.1JqM"]
    {
        assert_eq!(judge("bearer", b"mF_9.B5f-4.1JqM", odd), Err("malformed_header"), "{odd}");
    }
    for bad in [&b"no colon"[..], b":no user", b""] {
        assert!(preset("basic").check_secret(bad).is_err());
    }
}

#[test]
fn keys_of_one_kind_are_no_keys_of_another() {
    let whpk =
        format!("whpk_{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [1; 32]));
    assert_eq!(preset("standard").check_secret(whpk.as_bytes()), Ok(()));
    assert_eq!(preset("standard").check_secret(WHSEC), Ok(()));
    let good = signed("standard", WHSEC, NOW, BODY);
    assert_eq!(outcome(&check("standard", &[whpk.as_bytes(), WHSEC], &good, BODY)), Ok(1));
    assert_eq!(outcome(&check("standard", &[whpk.as_bytes()], &good, BODY)), Err("no_match"));
    for (name, bad) in [
        ("discord", "abc"),
        ("discord", "zz"),
        ("sendgrid", "MFkwEwYHKoZIzj0CAQ=="),
        ("standard", "whpk_AAAA"),
    ] {
        assert!(preset(name).check_secret(bad.as_bytes()).is_err(), "{name} {bad}");
    }
    assert_eq!(preset("none").check_secret(b"x"), Err(SecretError::NoneNeeded));
}
