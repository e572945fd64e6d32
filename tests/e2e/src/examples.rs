//! The workflows of `examples/` as they are, and what their runs begin with.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the outside world is in the examples' files.
pub const OUTSIDE: &str = "http://127.0.0.1:8090";

/// The folder of the examples.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// A file of theirs.
///
/// # Panics
/// When it cannot be read.
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// An example's definition, its outside world at another address.
///
/// # Panics
/// When there is no such example.
pub fn definition(example: &str, outside: &str) -> Value {
    let text = read(&folder().join(example).join("workflow.json")).replace(OUTSIDE, outside);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{example}: {e}"))
}

/// The input of `order-fulfilment`.
pub fn order() -> Value {
    json!({"order": {"id": "A-1", "customer": "ada@example.com", "currency": "EUR",
                     "lines": [{"sku": "lamp", "quantity": 2, "price": 45}]}})
}

/// The input of `payment-approval`.
pub fn payment(amount: i32) -> Value {
    json!({"customer": "ada@example.com", "plan": "team", "amount": amount})
}

/// The input of `enrichment`.
pub fn lead() -> Value {
    json!({"lead": 42, "email": "Ada@Engines.Example", "address": "192.0.2.7"})
}

/// The input of `reminder`.
pub fn invoice() -> Value {
    json!({"invoice": "2026-0815", "customer": "ada@example.com"})
}
