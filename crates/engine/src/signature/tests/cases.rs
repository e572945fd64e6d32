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
    let dotted = sign(preset("standard"), WHSEC, "a.1", NOW, BODY).unwrap();
    let long_id = sign(preset("standard"), WHSEC, &"a".repeat(257), NOW, BODY).unwrap();
    let nul_id = sign(preset("standard"), WHSEC, "a\0b", NOW, BODY).unwrap();
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
        assert_eq!(verdict, Verdict::Rejected(Reason::MalformedHeader("webhook-timestamp")), "{bad:?}");
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
