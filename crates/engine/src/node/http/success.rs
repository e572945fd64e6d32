//! Which responses are a success.

use std::ops::RangeInclusive;

use crate::definition::{Fields, Problems, pointer};
use crate::error::ErrorInfo;
use crate::expr::{Budget, Expr};
use crate::json::Json;

/// What a response consists of, as an expression sees it.
const PARTS: [&str; 6] = ["status", "headers", "body", "body_encoding", "duration_ms", "retry_after_ms"];

/// The rule of one node.
#[derive(Debug)]
pub(super) enum Success {
    /// Any of these statuses.
    Statuses(Vec<RangeInclusive<u16>>),
    /// What an expression over the response says: true, and anything but false and null.
    Rule(Expr),
}

impl Default for Success {
    fn default() -> Self {
        Self::Statuses(vec![200..=299])
    }
}

impl Success {
    /// Reads `"success"`: a list of statuses and classes of them, or an expression.
    pub(super) fn read(with: &mut Fields, problems: &mut Problems) -> Option<Self> {
        if with.get("success")?.as_str().is_some() {
            let rule = with.expr("success", problems)?;
            let unknown = rule.paths().iter().find_map(|path| {
                path.keys.first().filter(|first| !PARTS.contains(&&***first)).map(ToString::to_string)
            });
            if let Some(name) = unknown {
                let message = format!("a response has no .{name}: it has .{}", PARTS.join(", ."));
                problems.add(with.at("success"), "expression", message);
            }
            return Some(Self::Rule(rule));
        }
        let at = with.at("success");
        let mut statuses = Vec::new();
        for (place, given) in with.array("success", problems)?.iter().enumerate() {
            match range(given) {
                Some(range) => statuses.push(range),
                None => {
                    let message = "must be a status from 100 to 599, or a class of them such as \"2xx\"";
                    problems.add(pointer(&at, place), "value", message);
                }
            }
        }
        if statuses.is_empty() {
            problems.add(at, "missing", "\"success\" has at least one status");
        }
        Some(Self::Statuses(statuses))
    }

    /// Whether a response is one.
    ///
    /// # Errors
    /// When the expression fails on it.
    pub(super) fn is(&self, status: u16, response: &Json) -> Result<bool, ErrorInfo> {
        match self {
            Self::Statuses(ranges) => Ok(ranges.iter().any(|range| range.contains(&status))),
            Self::Rule(rule) => match rule.eval(response, &mut Budget::node()) {
                Ok(value) => Ok(!matches!(value, Json::Null | Json::Bool(false))),
                Err(error) => Err(super::located(&error, "/with/success")),
            },
        }
    }
}

/// `404`, or `"4xx"`.
fn range(given: &Json) -> Option<RangeInclusive<u16>> {
    if let Some(text) = given.as_str() {
        let class = text.strip_suffix("xx")?.parse::<u16>().ok().filter(|class| (1..=5).contains(class))?;
        return Some(class * 100..=class * 100 + 99);
    }
    let status = u16::try_from(given.as_i64()?).ok().filter(|status| (100..=599).contains(status))?;
    Some(status..=status)
}
