//! Properties over generated requests.

use proptest::prelude::*;

use super::*;

/// Mostly nonsense, seasoned with the pieces that lead deeper into the verifier.
fn header_value() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("v1,".to_owned()),
        Just("v1a,".to_owned()),
        Just("sha256=".to_owned()),
        Just(" ".to_owned()),
        Just(",".to_owned()),
        Just("=".to_owned()),
        Just(NOW.to_string()),
        Just(PUBLISHED.to_owned()),
        Just(GITHUB_PUBLISHED.to_owned()),
        "[A-Za-z0-9+/=]{0,70}",
        "[0-9a-fA-F]{60,68}",
        "\\PC{0,20}",
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn never_panics_and_never_accepts_nonsense(
        which in 0..PRESETS.len(),
        values in proptest::collection::vec(header_value(), 24),
        secrets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4),
        body in proptest::collection::vec(any::<u8>(), 0..200),
        content_type in prop::option::of(prop_oneof![
            Just("application/x-www-form-urlencoded".to_owned()),
            "[a-z/; =]{0,20}",
        ]),
        query in "[a-zA-Z0-9=&%?]{0,60}",
        tolerance: i64,
        now: i64,
    ) {
        let preset = &PRESETS[which];
        let sets = preset.headers.iter();
        let names = sets.flat_map(|set| [Some(&set.signature), set.id.as_ref(), set.timestamp.as_ref()]);
        let mut headers: Pairs = names.flatten().map(ToString::to_string).zip(values).collect();
        headers.extend(content_type.map(|media| ("content-type".to_owned(), media)));
        let mut secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
        secrets.push(WHSEC);
        for secret in &secrets {
            let _ = preset.check_secret(secret);
        }
        let url = format!("{URL}?{query}");
        let verdict = verify(preset, &secrets, tolerance, now, &Request { headers: &headers, url: &url, body: &body });
        if !preset.proofs.is_empty() {
            prop_assert!(matches!(verdict, Verdict::Rejected(_)), "{:?}", verdict);
        }
    }

    #[test]
    fn what_is_signed_is_accepted(
        name in prop::sample::select(vec!["standard", "github", "stripe", "slack", "paddle", "square", "twilio"]),
        id in "[!-\\-/-~]{1,256}",
        body in proptest::collection::vec(any::<u8>(), 0..300),
        ts in 0..i64::MAX,
        drift in -TOLERANCE..=TOLERANCE,
    ) {
        let p = preset(name);
        let mut headers = sign(p, WHSEC, &id, ts, URL, &body).unwrap();
        headers.push(("content-type".into(), "application/x-www-form-urlencoded".into()));
        let request = Request { headers: &headers, url: URL, body: &body };
        let verdict = verify(p, &[WHSEC], TOLERANCE, ts.saturating_add(drift), &request);
        prop_assert_eq!(outcome(&verdict), Ok(0));
    }

    #[test]
    fn any_change_is_noticed(
        name in prop::sample::select(vec!["standard", "github"]),
        mut body in proptest::collection::vec(any::<u8>(), 1..300),
        at: prop::sample::Index,
        flip in 1..=255_u8,
        part in 0..3,
    ) {
        let p = preset(name);
        let mut headers = sign(p, WHSEC, ID, NOW, URL, &body).unwrap();
        let mut secret = WHSEC.to_vec();
        match part {
            0 => {
                let i = at.index(body.len());
                body[i] ^= flip;
            }
            1 => body.truncate(at.index(body.len())),
            _ => {
                // Any one of the signature's characters, changed to another that is still a
                // signature character; the last of a base64 text holds unused bits, so not that.
                let value = headers.iter_mut().find(|(n, _)| *n == *p.headers[0].signature).unwrap();
                let start = if name == "github" { 7 } else { 3 };
                let mut chars: Vec<char> = value.1.chars().collect();
                let i = start + at.index(chars.len() - start - 2);
                chars[i] = if chars[i] == 'a' { 'b' } else { 'a' };
                value.1 = chars.into_iter().collect();
            }
        }
        let judged = |secret: &[u8], headers: &Pairs| {
            verify(p, &[secret], TOLERANCE, NOW, &Request { headers, url: URL, body: &body })
        };
        let verdict = judged(&secret, &headers);
        prop_assert_eq!(outcome(&verdict), Err("no_match"));
        // And the key: one changed character of the untouched request's secret.
        let good = sign(p, WHSEC, ID, NOW, URL, &body).unwrap();
        let i = 6 + at.index(secret.len() - 6);
        secret[i] = if secret[i] == b'a' { b'b' } else { b'a' };
        let verdict = judged(&secret, &good);
        prop_assert_eq!(outcome(&verdict), Err("no_match"));
    }
}
