//! Reading a definition: every access remembers where it is, and every fault is collected, none raised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::MAX_EXPRESSIONS_SIZE;
use crate::expr::{self, Expr, ExprCode, ExprError};
use crate::json::Json;
use crate::template::{Template, TemplateOptions};
use crate::time::parse_duration_ms;

/// One fault of a definition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// JSON pointer (RFC 6901) to the faulty place.
    pub pointer: String,
    /// A stable name of the rule that is broken.
    pub code: &'static str,
    /// One sentence for people.
    pub message: String,
}

/// Most faults that are listed; a definition with more gets one that says so.
const MAX_PROBLEMS: usize = 1_000;
/// Longest message, in bytes: it may quote the definition.
const MAX_MESSAGE: usize = 500;

/// The faults found so far, and the size of the expressions compiled so far.
#[derive(Debug, Default)]
pub struct Problems(pub(crate) Vec<Problem>, usize);

impl Problems {
    /// Notes a fault, if it is among the first 1,000.
    pub fn add(&mut self, pointer: impl Into<String>, code: &'static str, message: impl Into<String>) {
        match self.0.len() {
            ..MAX_PROBLEMS => {
                let mut message = message.into();
                if message.len() > MAX_MESSAGE {
                    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
                    message.push('…');
                }
                self.0.push(Problem { pointer: pointer.into(), code, message });
            }
            MAX_PROBLEMS => {
                let message = format!("only the first {MAX_PROBLEMS} faults are listed");
                self.0.push(Problem { pointer: String::new(), code: "limit", message });
            }
            _ => {}
        }
    }

    fn expression(&mut self, pointer: String, error: &ExprError) {
        let code = if error.code == ExprCode::TooComplex { "limit" } else { "expression" };
        self.add(pointer, code, error.to_string());
    }

    /// Books the size of compiled expressions; false, with a fault the first time, once they are too large together.
    fn book(&mut self, at: &str, size: usize) -> bool {
        let before = self.1;
        self.1 = before.saturating_add(size);
        if before <= MAX_EXPRESSIONS_SIZE && self.1 > MAX_EXPRESSIONS_SIZE {
            self.add(at, "limit", "the expressions up to here are too many or too large together");
        }
        self.1 <= MAX_EXPRESSIONS_SIZE
    }
}

/// A JSON pointer for people: that of the whole document, which is empty, is shown as "/".
#[must_use]
pub fn shown(pointer: &str) -> &str {
    if pointer.is_empty() { "/" } else { pointer }
}

/// Appends a reference token to a JSON pointer.
#[must_use]
pub fn pointer(parent: &str, token: impl std::fmt::Display) -> String {
    let token = token.to_string().replace('~', "~0").replace('/', "~1");
    format!("{parent}/{token}")
}

/// An object of the definition, read field by field.
///
/// [`Fields::finish`] complains about the fields nobody read, so that a misspelt one is never ignored.
#[derive(Debug)]
pub struct Fields<'a> {
    /// Where the object stands.
    pub pointer: String,
    fields: &'a BTreeMap<Arc<str>, Json>,
    read: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    /// Reads a value that has to be an object.
    pub fn of(value: &'a Json, at: String, problems: &mut Problems) -> Option<Self> {
        match value.as_obj() {
            Some(fields) => Some(Self { pointer: at, fields, read: BTreeSet::new() }),
            None => {
                problems.add(at, "type", "must be an object");
                None
            }
        }
    }

    /// The JSON pointer of a field.
    #[must_use]
    pub fn at(&self, key: &str) -> String {
        pointer(&self.pointer, key)
    }

    /// A field, if it is there.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Json> {
        self.read.insert(key);
        self.fields.get(key)
    }

    /// A field that has to be there.
    pub fn required(&mut self, key: &'static str, problems: &mut Problems) -> Option<&'a Json> {
        let value = self.get(key);
        if value.is_none() {
            problems.add(self.at(key), "missing", format!("\"{key}\" is required"));
        }
        value
    }

    /// A string, if the field is there.
    pub fn string(&mut self, key: &'static str, problems: &mut Problems) -> Option<&'a str> {
        let value = self.get(key)?;
        if value.as_str().is_none() {
            problems.add(self.at(key), "type", format!("\"{key}\" must be a string"));
        }
        value.as_str()
    }

    /// A boolean, if the field is there.
    pub fn boolean(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        let value = self.get(key)?;
        if value.as_bool().is_none() {
            problems.add(self.at(key), "type", format!("\"{key}\" must be true or false"));
        }
        value.as_bool()
    }

    /// A whole number within bounds, if the field is there.
    pub fn integer(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<i64> {
        let number = self.get(key)?.as_i64().filter(|n| bounds.contains(n));
        if number.is_none() {
            let (low, high) = (bounds.start(), bounds.end());
            problems.add(
                self.at(key),
                "range",
                format!("\"{key}\" must be a whole number from {low} to {high}"),
            );
        }
        number
    }

    /// A duration in milliseconds, if the field is there.
    pub fn duration_ms(&mut self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        let text = self.string(key, problems)?;
        match parse_duration_ms(text) {
            Ok(millis) => Some(millis),
            Err(message) => {
                problems.add(self.at(key), "range", message);
                None
            }
        }
    }

    /// One of several words, if the field is there.
    pub fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.string(key, problems)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let list: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            problems.add(self.at(key), "value", format!("\"{key}\" must be one of {}", list.join(", ")));
        }
        found
    }

    /// A jq expression, if the field is there.
    pub fn expr(&mut self, key: &'static str, problems: &mut Problems) -> Option<Expr> {
        let text = self.string(key, problems)?;
        let at = self.at(key);
        if !problems.book(&at, expr::size_of_source(text)) {
            return None;
        }
        match Expr::parse(text) {
            Ok(expr) => problems.book(&at, expr.size()).then_some(expr),
            Err(error) => {
                problems.expression(at.clone(), &error);
                problems.book(&at, expr::size_of_failure(&error));
                None
            }
        }
    }

    /// A tree whose strings may hold `{{ … }}`, if the field is there.
    pub fn template(&mut self, key: &'static str, problems: &mut Problems) -> Option<Template> {
        self.template_with(key, TemplateOptions { allow_variables: true }, problems)
    }

    /// A tree whose strings may hold what the options allow, if the field is there.
    pub fn template_with(
        &mut self,
        key: &'static str,
        options: TemplateOptions,
        problems: &mut Problems,
    ) -> Option<Template> {
        let value = self.get(key)?;
        if !problems.book("", 0) {
            return None;
        }
        match Template::compile(value, options) {
            Ok(template) => problems.book(&self.at(key), template.size()).then_some(template),
            Err(errors) => {
                for (below, error) in errors {
                    problems.expression(format!("{}{below}", self.at(key)), &error);
                }
                None
            }
        }
    }

    /// An array, if the field is there.
    pub fn array(&mut self, key: &'static str, problems: &mut Problems) -> Option<&'a [Json]> {
        let value = self.get(key)?;
        if value.as_arr().is_none() {
            problems.add(self.at(key), "type", format!("\"{key}\" must be an array"));
        }
        value.as_arr()
    }

    /// Complains about every field that nobody asked for.
    pub fn finish(self, problems: &mut Problems) {
        let known: Vec<_> = self.read.iter().map(|key| format!("\"{key}\"")).collect();
        let known = known.join(", ");
        for key in self.fields.keys().filter(|key| !self.read.contains(&***key)).take(MAX_PROBLEMS) {
            let message = format!("\"{key}\" is not known here; known are {known}");
            problems.add(self.at(key), "unknown_field", message);
        }
    }
}
