//! Verification of incoming webhook signatures.
//!
//! Schemes are data, not code: [`PRESETS`] is the one table that says which headers a sender uses,
//! what it signs and how it writes the result, and [`verify`] is the one verifier that reads it.
//! Senders that show a signed token instead are judged by what their endpoint demands of one ([`Token`]).
//! The scheme always comes from the endpoint's configuration, never from the request.
//!
//! No clock, no I/O: the caller passes the time, and looks up, opens and wipes the secrets.

mod challenge;
mod grammar;
mod headers;
mod jwt;
mod key;
mod preset;
mod presets;
mod proof;
mod request;
mod scheme;
mod sign;
#[cfg(test)]
mod tests;
mod verify;

pub use challenge::{Challenge, Reply};
pub use headers::Headers;
pub use jwt::{JWT, Token};
pub use key::{KeyForm, SecretError};
pub use preset::{
    Algorithm, Dedupe, Encoding, Grammar, HeaderSet, Part, Preset, Proof, Text, TimestampSource,
};
pub use presets::PRESETS;
pub use request::Request;
pub use scheme::{OWN_SCHEME, SchemeFault};
pub use sign::sign;
pub use verify::{MAX_CANDIDATES, MAX_ID_BYTES, Reason, Verdict, verify};
