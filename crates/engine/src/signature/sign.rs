//! The sender's side, for tests and clients.

use super::key::SecretError;
use super::preset::{Preset, Proof, TimestampSource};
use super::proof::Checker;
use super::request::Request;

/// The headers (names in lower case) a sender of this scheme puts on `body`, by the first proof the scheme has.
///
/// `ts` is Unix seconds; a scheme that signs no time leaves it out. `id` is the delivery id: signed
/// where the scheme signs one, else sent as the unsigned hint; it is not checked here, and
/// [`verify`](super::verify) refuses one that is empty, too long or not visible ASCII. `url` is the address the body is
/// sent to, for schemes that sign it.
///
/// # Errors
/// The secret cannot be one of this scheme, or is a public key, which signs nothing.
pub fn sign(
    preset: &Preset,
    secret: &[u8],
    id: &str,
    ts: i64,
    url: &str,
    body: &[u8],
) -> Result<Vec<(String, String)>, SecretError> {
    let proof = preset.proofs.first().ok_or(SecretError::NoneNeeded)?;
    let key = proof.key.decode(secret)?;
    let content = content(preset, id, ts, url, body);
    let made = Checker::new(proof.algorithm, key.bytes(), &content).and_then(Checker::proof);
    Ok(headers(preset, proof, id, ts, &made.ok_or(SecretError::NotAPublicKey("it signs nothing"))?))
}

/// What a sender signs. A body is a form where the scheme knows forms.
pub(super) fn content(preset: &Preset, id: &str, ts: i64, url: &str, body: &[u8]) -> Vec<u8> {
    let sent = [("content-type", "application/x-www-form-urlencoded")];
    let request = Request { headers: &sent[..], url, body };
    request.contents(preset, id, &ts.to_string()).into_iter().next().unwrap_or_default()
}

/// The headers that carry a signature.
pub(super) fn headers(
    preset: &Preset,
    proof: &Proof,
    id: &str,
    ts: i64,
    signature: &[u8],
) -> Vec<(String, String)> {
    let inline_time = match &preset.timestamp {
        TimestampSource::Kv(key) => Some((&**key, ts)),
        _ => None,
    };
    let written = proof.grammar.write(&proof.encoding.encode(signature), inline_time);
    let mut headers = Vec::new();
    if let Some(set) = preset.headers.first() {
        headers.extend(set.id.iter().map(|name| (name.to_string(), id.to_owned())));
        headers.extend(set.timestamp.iter().map(|name| (name.to_string(), ts.to_string())));
        headers.push((set.signature.to_string(), written));
    }
    headers.extend(preset.hint.iter().map(|name| (name.to_string(), id.to_owned())));
    headers
}
