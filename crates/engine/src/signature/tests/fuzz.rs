//! What becomes of a caught request that is changed: nothing, or the delivery it was.

use fastrand::Rng;

use super::every::{Sender, body};
use super::jwt::{Issuer, bearer, claims};
use super::*;

/// Pieces that lead deeper into the verifier.
const PIECES: [&str; 25] = [
    "v1,",
    "v1a,",
    "v1=",
    "v0=",
    "t=",
    "ts=",
    "h1=",
    ";",
    ",",
    "=",
    "&",
    " ",
    "\t",
    "Bearer ",
    ".",
    "eyJhbGciOiJub25lIn0",
    "eyJhbGciOiJIUzI1NiJ9",
    "Basic ",
    "sha256=",
    "sha1=",
    "%31",
    "+",
    "\u{0}",
    "ä",
    "1614265330",
];
const MEDIA: [&str; 5] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain",
    "/",
];
const QUERIES: [&str; 6] = ["", "?", "?a=1", "?bodySHA256=", "?secret=x", "?a=1&a=1&%ff"];

/// A request as its sender made it.
struct Caught {
    preset: &'static Preset,
    secret: Vec<u8>,
    headers: Pairs,
    url: String,
    body: Vec<u8>,
}

impl Caught {
    fn all() -> Vec<Caught> {
        let mut all = Vec::new();
        for preset in PRESETS.iter() {
            for proof in &preset.proofs {
                let sender = Sender::new(preset, proof, 7);
                let forms = [body(NOW, 1), b"a=1&b=2&a=3".to_vec()];
                let timed = matches!(preset.timestamp, TimestampSource::Body(_));
                for body in forms.into_iter().take(if timed { 1 } else { 2 }) {
                    let mut headers = sender.send(NOW, &body);
                    let place = preset.headers[0].signature.strip_prefix('?');
                    let url = place.map_or(URL.to_owned(), |name| {
                        let value =
                            headers.iter().find(|(n, _)| n.starts_with('?')).map_or("", |(_, value)| value);
                        format!("{URL}?{name}={}", value.replace(' ', "+"))
                    });
                    headers.retain(|(name, _)| !name.starts_with('?'));
                    all.push(Caught { preset, secret: sender.secret.clone(), headers, url, body });
                }
            }
        }
        for (algorithm, dedupe) in [("HS256", None), ("HS256", Some("jti")), ("EdDSA", Some("jti"))] {
            let mut scheme = json!({"algorithms": algorithm, "audience": "hooks"});
            dedupe.into_iter().for_each(|dedupe| scheme["dedupe"] = json!(dedupe));
            let preset = Box::leak(Box::new(Preset::jwt(&scheme.to_string()).unwrap()));
            let issuer = Issuer::new(algorithm, 7);
            let headers = bearer(&issuer.token(&claims()));
            let (secret, url) = (issuer.secret.clone(), URL.to_owned());
            all.push(Caught { preset, secret, headers, url, body: body(NOW, 1) });
        }
        all
    }

    fn verdict(&self, headers: &Pairs, url: &str, body: &[u8], now: i64) -> Verdict {
        let request = Request { headers, url, body };
        verify(self.preset, &[WHSEC_OLD, &self.secret], TOLERANCE, now, &request)
    }
}

fn changed_text(rng: &mut Rng, text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let at = rng.usize(..=characters.len());
    match rng.u8(..7) {
        0 => characters.truncate(at),
        1 => {
            characters.drain(..at);
        }
        2 => characters.extend_from_within(at..),
        3 => characters.splice(at..at, rng.choice(PIECES).unwrap_or_default().chars()).for_each(drop),
        4 if at < characters.len() => characters[at] = rng.char(..),
        5 => characters.iter_mut().for_each(|c| c.make_ascii_uppercase()),
        _ => characters = (0..rng.usize(..80)).map(|_| char::from(rng.u8(32..127))).collect(),
    }
    characters.into_iter().collect()
}

fn change_body(rng: &mut Rng, body: &mut Vec<u8>) {
    let at = rng.usize(..=body.len());
    match rng.u8(..6) {
        0 => body.truncate(at),
        1 if at < body.len() => body[at] = rng.u8(..),
        2 => body.insert(at, rng.u8(..)),
        3 => body.splice(at..at, rng.choice(PIECES).unwrap_or_default().bytes()).for_each(drop),
        4 => {
            // The pairs of a form in another order, one of them twice.
            let mut pairs: Vec<Vec<u8>> = body.split(|b| *b == b'&').map(<[u8]>::to_vec).collect();
            rng.shuffle(&mut pairs);
            pairs.push(pairs[0].clone());
            *body = pairs.join(&b'&');
        }
        _ => body.clear(),
    }
}

/// Whoever caught a request, and knows no secret, can only make the delivery again that it was. With a token they know the
/// secret.
#[test]
fn a_caught_request_makes_no_other_delivery() {
    let cases =
        std::env::var("MESHHOOK_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000_u64);
    let seed = std::env::var("MESHHOOK_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (caught, mut rng) = (Caught::all(), Rng::with_seed(seed));
    let keys: Vec<String> = caught
        .iter()
        .map(|one| match one.verdict(&one.headers, &one.url, &one.body, NOW) {
            Verdict::Accepted { dedupe_key, .. } => dedupe_key,
            Verdict::Rejected(reason) => panic!("{}: {reason}", one.preset.name),
        })
        .collect();
    let mut accepted = 0_u64;
    for case in 0..cases {
        let index = rng.usize(..caught.len());
        let one = &caught[index];
        let (mut headers, mut url, mut body) = (one.headers.clone(), one.url.clone(), one.body.clone());
        for _ in 0..rng.u8(1..4) {
            let place = rng.usize(..headers.len());
            match rng.u8(..10) {
                0..4 => headers[place].1 = changed_text(&mut rng, &headers[place].1),
                4 => {
                    headers.remove(place);
                    headers.push(("x-other".into(), "1".into()));
                }
                5 => headers.push(("content-type".into(), (*rng.choice(&MEDIA).unwrap_or(&"")).into())),
                6 => headers.retain(|(name, _)| name != "content-type"),
                7 => url = format!("{}{}", one.url, rng.choice(QUERIES).unwrap_or_default()),
                _ => change_body(&mut rng, &mut body),
            }
            if headers.is_empty() {
                break;
            }
        }
        let now = NOW + rng.i64(-400..400);
        let verdict = one.verdict(&headers, &url, &body, now);
        if let Verdict::Accepted { dedupe_key, .. } = verdict {
            accepted += 1;
            let names_delivery = one.preset.signs() || one.preset.dedupe == Dedupe::SignedId;
            let is_same = dedupe_key == keys[index] || !names_delivery;
            assert!(is_same, "case {case}, seed {seed}: {}: {headers:?} {url} {body:?}", one.preset.name);
        }
    }
    println!("{cases} changed requests: {accepted} accepted as what they were, none as another delivery");
    // Changes that do not matter are among them, or the changes would be too coarse to find anything.
    assert!(accepted > cases / 100 && accepted < cases / 2, "{accepted} of {cases}");
}
