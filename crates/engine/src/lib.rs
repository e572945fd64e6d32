//! The deterministic core of meshhook.
//!
//! A workflow definition, a log of events and the rules between them; nothing else. No Postgres, no
//! I/O, no clock, no randomness, no threads: whatever comes from outside comes as a [`fact::Fact`] and is
//! recorded as an [`event::Event`]. [`decide::step`] turns a fact into events, [`state::RunState`] is the
//! fold of events, and [`replay`] proves that a log and the rules agree.

pub mod blob;
pub mod body;
pub mod contract;
pub mod decide;
pub mod definition;
pub mod error;
pub mod event;
pub mod expr;
pub mod fact;
pub mod journal;
pub mod json;
pub mod node;
pub mod path;
pub mod rate;
pub mod replay;
pub mod resume;
pub mod retry;
pub mod schedule;
pub mod selection;
pub mod signature;
pub mod simulate;
pub mod snapshot;
pub mod state;
pub mod template;
pub mod time;
pub mod timeline;

/// A plain structure of this crate as a document.
#[must_use]
pub fn to_json<T: serde::Serialize>(value: &T) -> json::Json {
    // Structures of strings, numbers and `Json` always encode.
    json::Json::encode(value).unwrap_or(json::Json::Null)
}

/// Reads a field that is present as `Some`, also where it is JSON null, so that a recorded null output
/// stays different from no output.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<json::Json>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}
