//! What can go wrong in an expression.

use std::fmt;

use crate::json::Json;

/// The kind of a fault; [`ExprCode::as_str`] is the stable name users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExprCode {
    /// The text is no expression.
    Syntax,
    /// A part of jq that the profile leaves out on purpose.
    Unsupported,
    /// A function or variable that does not exist.
    UnknownName,
    /// A function that calls itself.
    Recursive,
    /// Too long, too deeply nested, or too large once its functions are expanded.
    TooComplex,
    /// Steps, bytes, string length, output size or nesting of values used up.
    Budget,
    /// No output where one is needed.
    Empty,
    /// More outputs than allowed.
    Many,
    /// A value of the wrong type.
    Type,
    /// Overflow, division by zero, or a result that is no finite number.
    Arithmetic,
    /// A regular expression that is malformed or too large.
    Regex,
    /// A value of the right type but with content that cannot be read.
    Value,
    /// Raised by the expression itself with `error`.
    User,
    /// A malformed template.
    Template,
}

impl ExprCode {
    /// The stable name, such as `expr.syntax`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ExprCode::Syntax => "expr.syntax",
            ExprCode::Unsupported => "expr.unsupported",
            ExprCode::UnknownName => "expr.unknown_name",
            ExprCode::Recursive => "expr.recursive",
            ExprCode::TooComplex => "expr.too_complex",
            ExprCode::Budget => "expr.budget",
            ExprCode::Empty => "expr.empty",
            ExprCode::Many => "expr.many",
            ExprCode::Type => "expr.type",
            ExprCode::Arithmetic => "expr.arithmetic",
            ExprCode::Regex => "expr.regex",
            ExprCode::Value => "expr.value",
            ExprCode::User => "expr.user",
            ExprCode::Template => "expr.template",
        }
    }

    /// Whether `try`, `?` and `//` may catch it. Exhausted budgets stop the whole expression.
    pub(super) fn is_catchable(self) -> bool {
        matches!(
            self,
            ExprCode::Type | ExprCode::Arithmetic | ExprCode::Regex | ExprCode::Value | ExprCode::User
        )
    }
}

impl fmt::Display for ExprCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fault in an expression, when it is read or when it is evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub struct ExprError {
    /// What kind of fault.
    pub code: ExprCode,
    /// One sentence; never contains a value of the data.
    pub message: String,
    /// Where in the text, in characters from its start (0-based), where that is known.
    pub offset: Option<usize>,
    /// The value the expression gave to `error(…)`. This is data: handle it as such.
    pub payload: Option<Json>,
}

/// Most characters of the text that a marker shows before and after the place.
const MARKER_REACH: usize = 40;

impl ExprError {
    /// The line of `text` that the fault is in, and below it a caret at the character; none for a
    /// fault without a place. Of a long line it shows what is around the place.
    #[must_use]
    pub fn marker(&self, text: &str) -> Option<String> {
        let offset = self.offset?;
        let characters: Vec<char> = text.chars().collect();
        let offset = offset.min(characters.len());
        let before = characters[..offset].iter().rposition(|c| *c == '\n').map_or(0, |at| at + 1);
        let after = characters[offset..].iter().position(|c| *c == '\n');
        let after = after.map_or(characters.len(), |at| offset + at);
        let from = before.max(offset.saturating_sub(MARKER_REACH));
        let upto = after.min(offset + MARKER_REACH);
        let ellipsis = |cut: bool| if cut { "…" } else { "" };
        let line: String = characters[from..upto].iter().collect();
        // A tab below a tab, so that the caret stands right however wide they are shown.
        let indent: String =
            characters[from..offset].iter().map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
        let (left, right) = (ellipsis(from > before), ellipsis(upto < after));
        let indent = if from > before { format!(" {indent}") } else { indent };
        Some(format!("{left}{line}{right}\n{indent}^"))
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.offset {
            Some(offset) => write!(f, " at character {}", offset + 1),
            None => Ok(()),
        }
    }
}

/// A fault on its way up; boxed, so that results stay small. While it is one, `offset` counts
/// bytes.
pub(crate) type Fault = Box<ExprError>;

/// A fault without a place.
pub(super) fn fault(code: ExprCode, message: impl Into<String>) -> Fault {
    Box::new(ExprError { code, message: message.into(), offset: None, payload: None })
}

/// A fault at a byte offset.
pub(super) fn fault_at(code: ExprCode, message: impl Into<String>, at: usize) -> Fault {
    let mut fault = fault(code, message);
    fault.offset = Some(at);
    fault
}

/// A wrong type.
pub(super) fn type_fault(message: impl Into<String>) -> Fault {
    fault(ExprCode::Type, message)
}

/// Turns the byte offset of a fault into the character offset that users see.
pub(super) fn finish(mut error: ExprError, text: &str) -> ExprError {
    error.offset = error.offset.map(|at| characters(text, at));
    error
}

/// A byte offset as character offset.
pub(super) fn characters(text: &str, at: usize) -> usize {
    text.char_indices().take_while(|(start, _)| *start < at).count()
}
