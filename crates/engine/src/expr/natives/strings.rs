//! Functions over strings.

use super::super::cx::Cx;
use super::super::error::{ExprCode, Fault, fault, type_fault};
use super::super::ops;
use super::core::count;
use super::{Native, native};
use crate::json::Json;

pub(super) const TABLE: &[Native] = &[
    native("ascii_downcase", 0, |cx, v, _| {
        let text = string("ascii_downcase", v)?;
        cx.new_string(text.to_ascii_lowercase())
    }),
    native("ascii_upcase", 0, |cx, v, _| {
        let text = string("ascii_upcase", v)?;
        cx.new_string(text.to_ascii_uppercase())
    }),
    native("endswith", 1, |_, v, args| {
        let (text, end) = (string("endswith", v)?, string("endswith", &args[0])?);
        Ok(Json::Bool(text.ends_with(end)))
    }),
    native("explode", 0, explode),
    native("implode", 0, implode),
    native("ltrim", 0, |cx, v, _| {
        let text = string("ltrim", v)?;
        cx.new_string(text.trim_start_matches(is_space))
    }),
    native("ltrimstr", 1, |cx, v, args| match (v, &args[0]) {
        (Json::Str(text), Json::Str(start)) => match text.strip_prefix(&**start) {
            Some(rest) => cx.new_string(rest),
            None => Ok(v.clone()),
        },
        _ => Ok(v.clone()),
    }),
    native("rtrim", 0, |cx, v, _| {
        let text = string("rtrim", v)?;
        cx.new_string(text.trim_end_matches(is_space))
    }),
    native("rtrimstr", 1, |cx, v, args| match (v, &args[0]) {
        (Json::Str(text), Json::Str(end)) => match text.strip_suffix(&**end) {
            Some(rest) => cx.new_string(rest),
            None => Ok(v.clone()),
        },
        _ => Ok(v.clone()),
    }),
    native("split", 1, |cx, v, args| {
        let (text, separator) = (string("split", v)?, string("split", &args[0])?);
        ops::split(cx, text, separator)
    }),
    native("startswith", 1, |_, v, args| {
        let (text, start) = (string("startswith", v)?, string("startswith", &args[0])?);
        Ok(Json::Bool(text.starts_with(start)))
    }),
    native("trim", 0, |cx, v, _| {
        let text = string("trim", v)?;
        cx.new_string(text.trim_matches(is_space))
    }),
    native("utf8bytelength", 0, |_, v, _| Ok(count(string("utf8bytelength", v)?.len()))),
];

/// The text of a string, or a fault that names the function.
pub(super) fn string<'v>(name: &str, value: &'v Json) -> Result<&'v str, Fault> {
    value.as_str().ok_or_else(|| type_fault(format!("{name} is not defined for {}", value.type_name())))
}

/// White space of ASCII only: what Unicode calls white space may change over the years.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

fn explode(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    let text = string("explode", value)?;
    cx.values(text.len())?;
    cx.alloc_items(text.len())?;
    cx.array(text.chars().map(|c| Json::from(u32::from(c))).collect())
}

fn implode(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    let codes = super::arrays::array("implode", value)?;
    cx.values(codes.len())?;
    let mut text = String::new();
    for code in codes {
        if !matches!(code, Json::Num(_)) {
            return Err(type_fault(format!("cannot implode {}", code.type_name())));
        }
        let code = code.as_i64().and_then(|code| u32::try_from(code).ok());
        let char = code.and_then(char::from_u32);
        text.push(char.ok_or_else(|| fault(ExprCode::Value, "number is not a code point"))?);
    }
    cx.new_string(text)
}
