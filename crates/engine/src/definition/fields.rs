//! Reading a definition: every access remembers where it is, and every fault is collected, none raised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::expr::{Expr, ExprError};
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

/// The faults found so far.
#[derive(Debug, Default)]
pub struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// Notes a fault.
    pub fn add(&mut self, pointer: impl Into<String>, code: &'static str, message: impl Into<String>) {
        self.0.push(Problem { pointer: pointer.into(), code, message: message.into() });
    }

    fn expression(&mut self, pointer: String, error: &ExprError) {
        self.add(pointer, "expression", error.to_string());
    }
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
        Expr::parse(text).map_err(|error| problems.expression(self.at(key), &error)).ok()
    }

    /// A tree whose strings may hold `{{ … }}`, if the field is there.
    pub fn template(&mut self, key: &'static str, problems: &mut Problems) -> Option<Template> {
        self.template_with(key, TemplateOptions { allow_secrets: true }, problems)
    }

    /// A tree whose strings may hold what the options allow, if the field is there.
    pub fn template_with(
        &mut self,
        key: &'static str,
        options: TemplateOptions,
        problems: &mut Problems,
    ) -> Option<Template> {
        let value = self.get(key)?;
        match Template::compile(value, options) {
            Ok(template) => Some(template),
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
        for key in self.fields.keys().filter(|key| !self.read.contains(&***key)) {
            let known: Vec<_> = self.read.iter().map(|key| format!("\"{key}\"")).collect();
            problems.add(
                self.at(key),
                "unknown_field",
                format!("\"{key}\" is not known here; known are {}", known.join(", ")),
            );
        }
    }
}
