//! Functions over values of any type, numbers and objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::cx::Cx;
use super::super::error::{ExprCode, ExprError, Fault, fault, type_fault};
use super::super::eval::{not_finite, truthy};
use super::super::ops;
use super::{Native, native};
use crate::json::{Json, Num};

pub(super) const TABLE: &[Native] = &[
    native("abs", 0, abs),
    native("ceil", 0, |_, v, _| round_with(v, "ceil", f64::ceil)),
    native("contains", 1, |cx, v, args| contains_top(cx, v, &args[0])),
    native("error", 0, |_, v, _| Err(raised(v))),
    native("error", 1, |_, _, args| Err(raised(&args[0]))),
    native("floor", 0, |_, v, _| round_with(v, "floor", f64::floor)),
    native("from_entries", 0, from_entries),
    native("fromjson", 0, from_json),
    native("has", 1, |_, v, args| has(v, &args[0])),
    native("in", 1, |_, v, args| has(&args[0], v)),
    native("inside", 1, |cx, v, args| contains_top(cx, &args[0], v)),
    native("keys", 0, keys),
    native("keys_unsorted", 0, keys),
    native("length", 0, length),
    native("not", 0, |_, v, _| Ok(Json::Bool(!truthy(v)))),
    native("round", 0, |_, v, _| round_with(v, "round", f64::round)),
    native("to_entries", 0, to_entries),
    native("tonumber", 0, to_number),
    native("type", 0, |_, v, _| Ok(Json::from(v.type_name()))),
];

fn raised(value: &Json) -> Fault {
    Box::new(ExprError {
        code: ExprCode::User,
        message: "the expression raised an error".to_owned(),
        offset: None,
        payload: Some(value.clone()),
    })
}

fn wrong(name: &str, value: &Json) -> Fault {
    type_fault(format!("{name} is not defined for {}", value.type_name()))
}

fn abs(_: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    match value {
        Json::Num(num) if num.is_negative() => ops::negate(value),
        Json::Num(_) => Ok(value.clone()),
        other => Err(wrong("abs", other)),
    }
}

fn round_with(value: &Json, name: &str, round: fn(f64) -> f64) -> Result<Json, Fault> {
    let Json::Num(num) = value else {
        return Err(wrong(name, value));
    };
    if num.as_i64().is_some() {
        return Ok(value.clone());
    }
    if let Some(digits) = num.as_digits()
        && !digits.contains('.')
    {
        return Ok(value.clone());
    }
    let rounded = num.as_f64().map(round).and_then(Json::from_f64);
    rounded.ok_or_else(not_finite)
}

/// Characters, items, members; 0 for null, the magnitude of a number.
fn length(cx: &mut Cx<'_>, value: &Json, args: &[Json]) -> Result<Json, Fault> {
    Ok(match value {
        Json::Null => Json::from(0),
        Json::Bool(_) => return Err(wrong("length", value)),
        Json::Num(_) => return abs(cx, value, args),
        Json::Str(text) => {
            cx.scan(text.len())?;
            count(text.chars().count())
        }
        Json::Arr(items) => count(items.len()),
        Json::Obj(members) => count(members.len()),
    })
}

/// A length as a number; lengths are far below 2^63.
#[allow(clippy::cast_possible_wrap)]
pub(super) fn count(len: usize) -> Json {
    Json::Num(Num::from(len as i64))
}

fn keys(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    match value {
        Json::Obj(members) => {
            cx.values(members.len())?;
            cx.new_array(members.keys().map(|key| Json::Str(Arc::clone(key))).collect())
        }
        Json::Arr(items) => {
            cx.values(items.len())?;
            cx.alloc_items(items.len())?;
            cx.array((0..items.len()).map(count).collect())
        }
        other => Err(wrong("keys", other)),
    }
}

fn has(value: &Json, key: &Json) -> Result<Json, Fault> {
    match (value, key) {
        (Json::Obj(members), Json::Str(key)) => Ok(Json::Bool(members.contains_key(key))),
        (Json::Null, Json::Str(_) | Json::Num(_)) => Ok(Json::Bool(false)),
        #[allow(clippy::cast_precision_loss)]
        (Json::Arr(items), Json::Num(num)) => {
            let at = num.as_f64().unwrap_or(f64::MAX);
            Ok(Json::Bool(at >= 0.0 && at < items.len() as f64))
        }
        _ => Err(type_fault(format!(
            "cannot check whether {} has a {} key",
            value.type_name(),
            key.type_name()
        ))),
    }
}

fn contains_top(cx: &mut Cx<'_>, a: &Json, b: &Json) -> Result<Json, Fault> {
    if a.type_name() != b.type_name() {
        return Err(type_fault(format!("cannot check whether {} contains {}", a.type_name(), b.type_name())));
    }
    contains(cx, a, b).map(Json::Bool)
}

/// Whether `b` is part of `a`: substrings, items contained in some item, members contained in
/// the member of that name.
fn contains(cx: &mut Cx<'_>, a: &Json, b: &Json) -> Result<bool, Fault> {
    cx.steps(1)?;
    match (a, b) {
        (Json::Obj(a), Json::Obj(b)) => {
            for (key, b) in b.iter() {
                let Some(a) = a.get(key) else {
                    return Ok(false);
                };
                if !contains(cx, a, b)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Json::Arr(a), Json::Arr(b)) => {
            'wanted: for b in b.iter() {
                for a in a.iter() {
                    if contains(cx, a, b)? {
                        continue 'wanted;
                    }
                }
                return Ok(false);
            }
            Ok(true)
        }
        (Json::Str(a), Json::Str(b)) => {
            cx.scan(a.len() + b.len())?;
            Ok(a.contains(&**b))
        }
        _ => Ok(ops::order(cx, a, b)?.is_eq()),
    }
}

fn to_entries(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    let Json::Obj(members) = value else {
        return Err(wrong("to_entries", value));
    };
    let (key_name, value_name): (Arc<str>, Arc<str>) = ("key".into(), "value".into());
    let mut entries = Vec::new();
    for (key, value) in members.iter() {
        cx.steps(1)?;
        cx.alloc(size_of::<Json>())?;
        entries.push(cx.new_object(BTreeMap::from([
            (Arc::clone(&key_name), Json::Str(Arc::clone(key))),
            (Arc::clone(&value_name), value.clone()),
        ]))?);
    }
    cx.array(entries)
}

/// The reverse of `to_entries`. Keys may also be called `k`, `name`, `Name`, `K` or `Key`, values
/// `v`, `Value` or `V`; keys that are no strings become their JSON text.
fn from_entries(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    let Json::Arr(entries) = value else {
        return Err(wrong("from_entries", value));
    };
    let mut object = BTreeMap::new();
    for entry in entries.iter() {
        cx.steps(1)?;
        let Json::Obj(members) = entry else {
            return Err(wrong("from_entries", entry));
        };
        let keys = ["key", "k", "name", "Name", "K", "Key"];
        let mut keys = keys.iter().filter_map(|name| members.get(*name));
        let key: Arc<str> = match keys.find(|key| !key.is_null()) {
            Some(Json::Str(key)) => Arc::clone(key),
            Some(key @ (Json::Bool(_) | Json::Num(_))) => {
                let text = key.to_string();
                cx.alloc_string(text.len())?;
                text.into()
            }
            None => "null".into(),
            Some(other) => {
                return Err(type_fault(format!("object keys are strings, not {}", other.type_name())));
            }
        };
        let values = ["value", "v", "Value", "V"];
        let value = values.iter().find_map(|name| members.get(*name));
        object.insert(key, value.cloned().unwrap_or_default());
    }
    cx.new_object(object)
}

fn to_number(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    match value {
        Json::Num(_) => Ok(value.clone()),
        Json::Str(text) => {
            cx.scan(text.len())?;
            let num = parse_number(text).ok_or_else(|| fault(ExprCode::Value, "string is not a number"))?;
            cx.alloc(num.as_digits().map_or(0, str::len))?;
            Ok(Json::Num(num))
        }
        other => Err(wrong("tonumber", other)),
    }
}

/// A number as people write it: also with a `+`, leading zeros, or nothing on one side of the
/// point.
pub(in crate::expr) fn parse_number(text: &str) -> Option<Num> {
    if let Some(num) = Num::parse(text) {
        return Some(num);
    }
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let mantissa_end = unsigned.find(['e', 'E']).unwrap_or(unsigned.len());
    let (mantissa, exponent) = unsigned.split_at(mantissa_end);
    let (int, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if int.is_empty() && fraction.is_empty() {
        return None;
    }
    let int = match int.trim_start_matches('0') {
        "" => "0",
        int => int,
    };
    let point = if fraction.is_empty() { "" } else { "." };
    Num::parse(&[sign, int, point, fraction, exponent].concat())
}

/// Strict: one JSON value with the limits of every other JSON text.
fn from_json(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    let Json::Str(text) = value else {
        return Err(wrong("fromjson", value));
    };
    // Parsed values take at most about 64 bytes for every two bytes of text.
    cx.scan(text.len() * 4)?;
    cx.alloc(text.len().saturating_mul(8))?;
    let parsed =
        Json::parse(text).map_err(|_| fault(ExprCode::Value, "string is not the text of one JSON value"))?;
    cx.pay_walk(&parsed, 1)?;
    Ok(parsed)
}
