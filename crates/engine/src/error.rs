//! The error of a node or a run, as recorded in events and seen by expressions as `.error`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::expr::ExprError;
use crate::json::{Json, MAX_DOCUMENT_DEPTH};

/// Longest recorded error message, in bytes; longer ones are cut at a character boundary and end in `…`.
pub const MAX_MESSAGE_BYTES: usize = 4_096;

/// Why a node or a run failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// A stable dotted name to branch on: `http.status`, `timeout`, `lease_expired`, `expr.budget`, …
    #[serde(default = "default_class")]
    pub class: Arc<str>,
    /// One sentence for people.
    #[serde(default)]
    pub message: Arc<str>,
    /// The node that failed; absent where the run as a whole did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// The HTTP status, for class `http.status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether another attempt may help; absent means yes for failures of jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// How long the peer asked to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whatever else is known, for example the response of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub details: Option<Json>,
}

fn default_class() -> Arc<str> {
    Arc::from("task")
}

impl ErrorInfo {
    /// An error of a class with a message.
    #[must_use]
    pub fn new(class: &str, message: impl AsRef<str>) -> Self {
        Self {
            class: Arc::from(class),
            message: Arc::from(bounded(message.as_ref()).as_str()),
            node: None,
            status: None,
            retryable: None,
            retry_after_ms: None,
            details: None,
        }
    }

    /// The same error, said of a node.
    #[must_use]
    pub fn at_node(mut self, node: &Arc<str>) -> Self {
        self.node = Some(Arc::clone(node));
        self
    }

    /// The same error, with whether another attempt may help.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = Some(retryable);
        self
    }

    /// Reads what an executor reported. Anything is accepted: an error must never be refused for its
    /// shape. A string is a message; an object's known fields are taken, the rest goes to `details`.
    #[must_use]
    pub fn from_report(report: &Json) -> Self {
        if let Some(message) = report.as_str() {
            return Self::new("task", message);
        }
        let Some(fields) = report.as_obj() else {
            let mut error = Self::new("task", "the executor reported a failure without a message");
            error.details =
                (!report.is_null() && !report.is_deeper_than(MAX_DOCUMENT_DEPTH)).then(|| report.clone());
            return error;
        };
        let text = |key: &str| fields.get(key).and_then(Json::as_str);
        let mut error = Self::new(
            text("class").filter(|class| is_class(class)).unwrap_or("task"),
            text("message").unwrap_or("the executor reported a failure without a message"),
        );
        error.retryable = fields.get("retryable").and_then(Json::as_bool);
        let whole = |key: &str| fields.get(key).and_then(Json::as_i64);
        error.status = whole("status").and_then(|n| u16::try_from(n).ok());
        error.retry_after_ms = whole("retry_after_ms").and_then(|n| u64::try_from(n).ok());
        error.details =
            fields.get("details").cloned().filter(|details| !details.is_deeper_than(MAX_DOCUMENT_DEPTH));
        error
    }
}

/// Class names are what people route on: short, lower-case, dotted.
fn is_class(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

fn bounded(message: &str) -> String {
    // Postgres' jsonb holds no NUL.
    let clean = message.replace('\0', "\u{fffd}");
    if clean.len() <= MAX_MESSAGE_BYTES {
        return clean;
    }
    let cut =
        (0..=MAX_MESSAGE_BYTES - '…'.len_utf8()).rev().find(|n| clean.is_char_boundary(*n)).unwrap_or(0);
    format!("{}…", &clean[..cut])
}

impl From<&ExprError> for ErrorInfo {
    fn from(error: &ExprError) -> Self {
        Self::new(error.code.as_str(), error.to_string()).retryable(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_report_is_understood() {
        let read = |text: &str| ErrorInfo::from_report(&Json::parse(text).unwrap());
        assert_eq!(&*read(r#""boom""#).message, "boom");
        assert_eq!(&*read("null").class, "task");
        assert_eq!(read("[1]").details, Some(Json::parse("[1]").unwrap()));
        let full = read(
            r#"{"class":"card.declined","message":"no","retryable":false,"status":402,"retry_after_ms":5,"details":{"a":1}}"#,
        );
        assert_eq!(
            (&*full.class, full.retryable, full.status, full.retry_after_ms),
            ("card.declined", Some(false), Some(402), Some(5))
        );
        assert_eq!(&*read(r#"{"class":"Not A Class"}"#).class, "task");
        assert_eq!(read(r#"{"status":99999999,"retry_after_ms":-1}"#).status, None);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let error = ErrorInfo::new("task", "ä".repeat(5_000));
        assert!(error.message.len() <= MAX_MESSAGE_BYTES && error.message.ends_with('…'));
    }
}
