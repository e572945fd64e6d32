//! Reading a definition's text, within bounds that hold before anything is built from it.

use super::{MAX_DEFINITION_BYTES, MAX_DEFINITION_VALUES, MAX_POINTER_BYTES, Problem, Workflow};
use crate::json::Json;

impl Workflow {
    /// Reads, checks and compiles a definition's JSON text.
    ///
    /// # Errors
    /// Those of [`Workflow::compile`], `json` for what is no JSON, and `limit` for a text that is too large
    /// ([`MAX_DEFINITION_BYTES`], [`MAX_DEFINITION_VALUES`], [`MAX_POINTER_BYTES`]).
    pub fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        let one = |code, message: String| vec![Problem { pointer: String::new(), code, message }];
        if text.len() > MAX_DEFINITION_BYTES {
            return Err(one("limit", format!("a definition has at most {MAX_DEFINITION_BYTES} bytes")));
        }
        if has_more_values_than(MAX_DEFINITION_VALUES, text) {
            return Err(one("limit", format!("a definition has at most {MAX_DEFINITION_VALUES} values")));
        }
        let json = Json::parse(text).map_err(|error| one("json", error.to_string()))?;
        if has_longer_pointer_than(MAX_POINTER_BYTES, &json) {
            let message = format!("the JSON pointer of a value has more than {MAX_POINTER_BYTES} bytes");
            return Err(one("limit", message));
        }
        Self::compile(&json)
    }
}

/// Whether the keys on the way to some value are longer than this together. Faults and references carry pointers.
fn has_longer_pointer_than(most: usize, value: &Json) -> bool {
    match value {
        Json::Arr(items) => items.iter().any(|item| has_longer_pointer_than(most, item)),
        Json::Obj(members) => members.iter().any(|(key, item)| {
            most.checked_sub(key.len() + 1).is_none_or(|most| has_longer_pointer_than(most, item))
        }),
        _ => false,
    }
}

/// Whether a JSON text has more than `most` values, counted by what stands between and around them. A value in
/// memory takes many times the two bytes that `0,` takes as text.
fn has_more_values_than(most: usize, text: &str) -> bool {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' | b'{' if !in_string => {
                values += 1;
                if values > most {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        let text = r#"{"a,[{":[1,2,"\"\\,{[",{}]}"#;
        assert!(!has_more_values_than(8, text));
        assert!(has_more_values_than(7, text));
    }
}
