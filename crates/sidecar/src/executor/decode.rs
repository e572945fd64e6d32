//! Response bodies as they come: decompressed, and never more of them than allowed.

use std::io;
use std::pin::Pin;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use http_body_util::{BodyDataStream, BodyExt};
use hyper::body::{Body, Incoming};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

use super::http::{CallError, Class, classify};

/// What is decompressed here, as `Accept-Encoding` says it.
pub const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip, br, zstd");

/// The window a compressor may make us keep, as a power of two: what browsers take (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;

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
    let coding = headers.get(CONTENT_ENCODING).and_then(coding).filter(|_| !body.is_end_stream());
    let Some(coding) = coding else {
        return read_plain(body, expected, limit).await;
    };
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    read_compressed(body, coding, limit).await
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

async fn read_compressed(body: Incoming, coding: Coding, limit: usize) -> Result<Vec<u8>, CallError> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let wire = StreamReader::new(BodyDataStream::new(body.map_err(io::Error::other)));
    // One byte more than allowed, to tell the largest allowed from what is cut.
    let mut plain = decoder(coding, wire.take(most + 1)).take(most + 1);
    let mut out = Vec::new();
    plain.read_to_end(&mut out).await.map_err(|error| broken(&error))?;
    if out.len() > limit {
        return Err(too_large(limit));
    }
    Ok(out)
}

fn decoder<R: AsyncBufRead + Send + 'static>(coding: Coding, from: R) -> Pin<Box<dyn AsyncRead + Send>> {
    match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(from);
            // RFC 1952: a body may be several of them one after the other.
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        Coding::Brotli => Box::pin(BrotliDecoder::new(from)),
        Coding::Zstd => {
            Box::pin(ZstdDecoder::with_params(from, &[DParameter::window_log_max(ZSTD_WINDOW_LOG)]))
        }
    }
}

/// The connection's trouble is told as such; everything else is the body's.
fn broken(error: &io::Error) -> CallError {
    if error.get_ref().is_some_and(|inner| inner.is::<hyper::Error>()) {
        return classify(error);
    }
    let message = format!("the response body is not compressed as its header says: {error}");
    CallError { class: Class::Io, message, hopeless: false }
}

fn too_large(limit: usize) -> CallError {
    let message = format!("the response body is larger than {limit} bytes");
    CallError { class: Class::ResponseTooLarge, message, hopeless: true }
}
