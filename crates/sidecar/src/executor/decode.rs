//! Response bodies as they come: decompressed, and never more of them than allowed.

use std::io::{self, Read};

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

use super::http::{CallError, Class, classify};

/// What is decompressed here, as `Accept-Encoding` says it.
pub const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip, br, zstd");

/// The window a compressor may make us keep, as a power of two: what browsers take (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;

/// So many bodies are inflated at once: each may take some 16 MiB for its window.
static INFLATING: Semaphore = Semaphore::const_new(4);

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

/// Reads a response's body, at most `limit` bytes on the wire and as many once decompressed; takes out of the headers
/// what is no longer true of it then.
///
/// # Errors
/// When it is larger, or breaks off, or is not compressed as it says.
pub async fn read(headers: &mut HeaderMap, body: Incoming, limit: usize) -> Result<Vec<u8>, CallError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Said to be too large: no need to look (a HEAD response announces what it does not send).
    let announced = announced.filter(|_| !body.is_end_stream());
    let expected = usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX);
    if expected > limit {
        return Err(too_large(limit));
    }
    let coding = headers.get(CONTENT_ENCODING).and_then(coding);
    let body = read_plain(body, expected, limit).await?;
    match coding {
        Some(coding) if !body.is_empty() => {
            headers.remove(CONTENT_ENCODING);
            headers.remove(CONTENT_LENGTH);
            inflate(body, coding, limit).await
        }
        _ => Ok(body),
    }
}

/// Only one layer, and only what was asked for: anything else is passed on as it came.
fn coding(value: &HeaderValue) -> Option<Coding> {
    match value.to_str().ok()?.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Some(Coding::Gzip),
        "br" => Some(Coding::Brotli),
        "zstd" => Some(Coding::Zstd),
        _ => None,
    }
}

async fn read_plain(mut body: Incoming, expected: usize, limit: usize) -> Result<Vec<u8>, CallError> {
    // What is announced is not yet sent: reserve little ahead of it.
    let mut out = Vec::with_capacity(expected.min(64 << 10));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| classify(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit - out.len() {
            return Err(too_large(limit));
        }
        out.extend_from_slice(&data);
    }
    Ok(out)
}

/// Inflates a body that is here in full: how long that takes, and how much memory, is up to us and not to the peer.
async fn inflate(packed: Vec<u8>, coding: Coding, limit: usize) -> Result<Vec<u8>, CallError> {
    // Fails only when it is closed, which it never is.
    let _turn = INFLATING.acquire().await;
    let inflated = tokio::task::spawn_blocking(move || coding.inflate(&packed, limit)).await;
    let out = inflated.map_err(io::Error::other).and_then(|inflated| inflated).map_err(|error| {
        let message = format!("the response body is not compressed as its header says: {error}");
        CallError { class: Class::Io, message, hopeless: false }
    })?;
    if out.len() > limit { Err(too_large(limit)) } else { Ok(out) }
}

impl Coding {
    /// Inflates up to one byte more than `limit`, to tell the largest allowed from what is cut.
    fn inflate(self, packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut out = Vec::new();
        match self {
            // RFC 1952: a body may be several of them one after the other.
            Self::Gzip => flate2::read::MultiGzDecoder::new(packed).take(most).read_to_end(&mut out)?,
            Self::Brotli => {
                check_brotli_window(packed)?;
                brotli::Decompressor::new(packed, 4096).take(most).read_to_end(&mut out)?
            }
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                decoder.take(most).read_to_end(&mut out)?
            }
        };
        Ok(out)
    }
}

/// Refuses what is not of RFC 7932: "large windows" of up to 1 GiB, all of which a few bytes can make a decoder fill.
fn check_brotli_window(packed: &[u8]) -> io::Result<()> {
    match packed.first() {
        Some(first) if first & 0x7f == 0x11 => Err(io::Error::other("its window is too large")),
        _ => Ok(()),
    }
}

fn too_large(limit: usize) -> CallError {
    let message = format!("the response body is larger than {limit} bytes");
    CallError { class: Class::ResponseTooLarge, message, hopeless: true }
}
