//! The sender's side, for tests and clients.

use hmac::Mac;

use super::key::SecretError;
use super::preset::{Preset, TimestampSource};
use super::verify::Content;

/// The headers (names in lower case) a sender of this scheme puts on `body`.
///
/// `ts` is Unix seconds; a scheme that signs no time leaves it out. `id` is the delivery id: signed
/// where the scheme signs one, else sent as the unsigned hint; it is not checked here, and
/// [`verify`](super::verify) refuses one that is empty, too long or not visible ASCII.
pub fn sign(
    preset: &Preset,
    secret: &[u8],
    id: &str,
    ts: i64,
    body: &[u8],
) -> Result<Vec<(String, String)>, SecretError> {
    let key = preset.key.decode(secret)?;
    let timestamp = ts.to_string();
    let content = Content { id, timestamp: &timestamp, body };
    let mac = content.mac(preset, key.bytes()).ok_or(SecretError::WrongLength)?;
    let signature = preset.encoding.encode(&mac.finalize().into_bytes());
    let inline_time = match preset.timestamp {
        TimestampSource::Kv(key) => Some((key, ts)),
        TimestampSource::Header | TimestampSource::None => None,
    };

    let mut headers = Vec::new();
    if let Some(set) = preset.headers.first() {
        headers.extend(set.id.map(|name| (name.to_owned(), id.to_owned())));
        headers.extend(set.timestamp.map(|name| (name.to_owned(), timestamp.clone())));
        headers.push((set.signature.to_owned(), preset.grammar.write(&signature, inline_time)));
    }
    headers.extend(preset.hint.map(|name| (name.to_owned(), id.to_owned())));
    Ok(headers)
}
