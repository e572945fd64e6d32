//! Challenges: what some senders ask of an address before they send anything to it, and now and then afterwards.

use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::preset::{Algorithm, Text};
use super::proof::Checker;
use crate::json::Json;

/// Longest token that is echoed, in bytes.
const MAX_TOKEN_BYTES: usize = 1_024;

/// How a sender asks whether an address belongs to whom it thinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// By an event of a kind of its own, signed like all others.
    Event {
        /// Where the event's kind stands, a JSON pointer, and which one this is.
        kind: (Text, Text),
        /// Where its token stands, a JSON pointer.
        token: Text,
        /// What is to come back.
        reply: Reply,
    },
    /// By a GET request, which is not signed: it has a word in it that was agreed on.
    Query {
        /// The parameter that says what this is, and its value.
        mode: (Text, Text),
        /// The parameter with the word agreed on: the endpoint's id.
        word: Text,
        /// The parameter whose value is to come back as it is.
        token: Text,
    },
}

/// What is to come back of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The token, under this name.
    Echo(Text),
    /// The token under one name, and under the other its HMAC-SHA256 by the secret's text, in hexadecimal.
    Mac(Text, Text),
}

impl Challenge {
    /// The answer to an event whose signature is right, made by this secret; None for one that is no challenge.
    #[must_use]
    pub fn reply(&self, body: &[u8], secret: &[u8]) -> Option<Value> {
        let Challenge::Event { kind: (place, kind), token, reply } = self else { return None };
        let event = Json::parse(std::str::from_utf8(body).ok()?).ok()?;
        if event.pointer(place).and_then(Json::as_str) != Some(kind) {
            return None;
        }
        let token = event.pointer(token).and_then(Json::as_str).and_then(short)?;
        match reply {
            Reply::Echo(name) => Some(json!({ &**name: token })),
            Reply::Mac(name, mac) => {
                let made = Checker::new(Algorithm::HmacSha256, secret, token.as_bytes())?.proof()?;
                Some(json!({ &**name: token, &**mac: hex::encode(made) }))
            }
        }
    }

    /// The token to be sent back for the query of a GET request; None for one that does not know the word, or is no
    /// challenge.
    #[must_use]
    pub fn echo(&self, query: &str, agreed: &str) -> Option<String> {
        let Challenge::Query { mode: (name, mode), word, token } = self else { return None };
        let value = |wanted: &str| {
            let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == wanted);
            values.next().map(|(_, value)| value)
        };
        let knows = bool::from(value(word)?.as_bytes().ct_eq(agreed.as_bytes()));
        let token = value(token)?;
        (knows && value(name)? == **mode).then(|| short(&token).map(str::to_owned)).flatten()
    }
}

/// A token that may be echoed: nothing that a browser could take for a page.
fn short(token: &str) -> Option<&str> {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    ((1..=MAX_TOKEN_BYTES).contains(&token.len()) && token.bytes().all(harmless)).then_some(token)
}
