//! What every preset must do, each with a sender of its own kind.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

use super::*;
use crate::signature::sign::{content, headers};

/// Somebody who holds a key of one scheme.
pub(super) struct Sender {
    preset: &'static Preset,
    /// Which of the scheme's proofs it makes.
    proof: &'static Proof,
    /// What the receiver is given.
    pub(super) secret: Vec<u8>,
    signer: Signer,
}

enum Signer {
    Shared,
    Ed25519(Box<Ed25519KeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
}

impl Sender {
    pub(super) fn new(preset: &'static Preset, proof: &'static Proof, seed: u8) -> Self {
        let (secret, signer) = match proof.key {
            KeyForm::Raw => (format!("secret number {seed}").into_bytes(), Signer::Shared),
            KeyForm::Pair => (format!("user{seed}:pass:word").into_bytes(), Signer::Shared),
            KeyForm::Whsec => (format!("whsec_{}", STANDARD.encode([seed; 32])).into_bytes(), Signer::Shared),
            KeyForm::Base64 => (STANDARD.encode([seed; 32]).into_bytes(), Signer::Shared),
            KeyForm::Hex => (hex::encode([seed; 32]).into_bytes(), Signer::Shared),
            KeyForm::Whpk | KeyForm::Ed25519Hex => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
                let public = pair.public_key().as_ref();
                let text = match proof.key {
                    KeyForm::Whpk => format!("whpk_{}", STANDARD.encode(public)),
                    _ => hex::encode(public),
                };
                (text.into_bytes(), Signer::Ed25519(Box::new(pair)))
            }
            KeyForm::P256Spki => {
                let random = SystemRandom::new();
                let document =
                    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
                let pair =
                    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random)
                        .unwrap();
                let header = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
                let spki = [&header[..], pair.public_key().as_ref()].concat();
                (STANDARD.encode(spki).into_bytes(), Signer::Ecdsa(Box::new(pair)))
            }
        };
        Self { preset, proof, secret, signer }
    }

    pub(super) fn send(&self, ts: i64, body: &[u8]) -> Pairs {
        let mut sent = match &self.signer {
            Signer::Shared => sign(self.preset, &self.secret, ID, ts, URL, body).unwrap(),
            Signer::Ed25519(pair) => {
                let content = content(self.preset, ID, ts, URL, body);
                headers(self.preset, self.proof, ID, ts, pair.sign(&content).as_ref())
            }
            Signer::Ecdsa(pair) => {
                let content = content(self.preset, ID, ts, URL, body);
                let signature = pair.sign(&SystemRandom::new(), &content).unwrap();
                headers(self.preset, self.proof, ID, ts, signature.as_ref())
            }
        };
        sent.push(("content-type".into(), "application/x-www-form-urlencoded".into()));
        sent
    }
}

/// A body that has what any scheme looks for.
pub(super) fn body(ts: i64, n: u32) -> Vec<u8> {
    format!(r#"{{"webhookTimestamp":{},"id":"evt_1","event_id":"evt_1","n":{n}}}"#, ts * 1000).into_bytes()
}

/// Whether the schemes' times are judged.
fn has_time(preset: &Preset) -> bool {
    preset.timestamp != TimestampSource::None
}

/// Runs the cases all schemes share; returns how many were accepted and refused.
fn cases_of(preset: &'static Preset, proof: &'static Proof) -> (usize, usize) {
    let sender = Sender::new(preset, proof, 7);
    let other = Sender::new(preset, proof, 8);
    let is_token = proof.algorithm == Algorithm::Token;
    let place: &str = &preset.headers[0].signature;
    let (now, tolerance) = (NOW, preset.tolerance_s);
    let judge = |secrets: &[&[u8]], sent: &Pairs, body: &[u8]| {
        // A parameter of the address, where the scheme has its proof there.
        let url = match place.strip_prefix('?') {
            Some(name) => {
                let value = sent.iter().find(|(n, _)| n == place).map_or("", |(_, value)| value);
                let query: String =
                    form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
                if value.is_empty() { URL.to_owned() } else { format!("{URL}?{query}") }
            }
            None => URL.to_owned(),
        };
        let request = Request { headers: sent, url: &url, body };
        outcome(&verify(preset, secrets, tolerance, now, &request))
    };
    let good = body(now, 1);
    let (mine, theirs): (&[u8], &[u8]) = (&sender.secret, &other.secret);
    let timed = |offset: i64, reason: &'static str| {
        let body = body(now + offset, 1);
        let expected = if has_time(preset) { Err(reason) } else { Ok(0) };
        (judge(&[mine], &sender.send(now + offset, &body), &body), expected)
    };
    let binary: &[u8] = &[0, 255, 254, b'\r', b'\n'];
    let of_binary = match preset.timestamp {
        TimestampSource::Body(_) => Err("no_time"),
        _ => Ok(0),
    };
    let unless_token = |reason: &'static str| if is_token { Ok(0) } else { Err(reason) };
    let sent = sender.send(now, &good);
    let table = [
        ("good", (judge(&[mine], &sent, &good), Ok(0))),
        ("wrong key", (judge(&[theirs], &sent, &good), Err("no_match"))),
        ("tampered body", (judge(&[mine], &sent, &body(now, 2)), unless_token("no_match"))),
        ("body cut", (judge(&[mine], &sent, &good[..good.len() - 1]), unless_token("no_match"))),
        ("oldest allowed", (timed(-tolerance, "").0, Ok(0))),
        ("old", timed(-tolerance - 1, "too_old")),
        ("newest allowed", (timed(tolerance, "").0, Ok(0))),
        ("future", timed(tolerance + 1, "too_new")),
        ("missing header", (judge(&[mine], &without(sent.clone(), place), &good), Err("missing_header"))),
        ("rotated", (judge(&[theirs, mine], &sent, &good), Ok(1))),
        ("no longer active", (judge(&[theirs], &sender.send(now, &good), &good), Err("no_match"))),
        ("no secret", (judge(&[], &sent, &good), Err("no_secret"))),
        ("empty secret", (judge(&[b""], &sent, &good), Err("no_secret"))),
        ("binary body", (judge(&[mine], &sender.send(now, binary), binary), of_binary)),
    ];
    for (what, (found, expected)) in &table {
        assert_eq!(found, expected, "{}: {what}", preset.name);
    }
    let accepted = table.iter().filter(|(_, (found, _))| found.is_ok()).count();
    (accepted, table.len() - accepted)
}

#[test]
fn every_preset_takes_its_senders_and_nobody_else() {
    println!("{:<14} {:<10} {:>8} {:>8}", "preset", "proof", "accepted", "refused");
    for preset in PRESETS.iter() {
        for proof in &preset.proofs {
            let (accepted, refused) = cases_of(preset, proof);
            let algorithm = format!("{:?}", proof.algorithm);
            println!("{:<14} {algorithm:<10} {accepted:>8} {refused:>8}", preset.name);
        }
    }
}

#[test]
fn names_are_unique_and_sorted() {
    let names: Vec<&str> = PRESETS.iter().map(|preset| &*preset.name).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(names, sorted);
}

#[test]
fn nothing_is_proved_where_nothing_is_asked_for() {
    let verdict = check("none", &[], &vec![], BODY);
    assert!(
        matches!(&verdict, Verdict::Accepted { secret_index: None, dedupe_key, .. } if dedupe_key.starts_with("sha256:"))
    );
}
