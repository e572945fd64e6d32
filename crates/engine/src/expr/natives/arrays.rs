//! Functions over arrays.

use std::cmp::Ordering;

use super::super::cx::Cx;
use super::super::error::{ExprCode, Fault, fault, type_fault};
use super::super::eval::truthy;
use super::super::ops;
use super::core::count;
use super::format::Format;
use super::{Native, native};
use crate::json::Json;

pub(super) const TABLE: &[Native] = &[
    native("add", 0, |cx, v, _| add(cx, children("add", v)?)),
    native("all", 0, |cx, v, _| Ok(Json::Bool(test(cx, "all", v, false)?.is_none()))),
    native("any", 0, |cx, v, _| Ok(Json::Bool(test(cx, "any", v, true)?.is_some()))),
    native("first", 0, |_, v, _| end(v, "first", <[Json]>::first)),
    native("flatten", 0, |cx, v, _| flatten(cx, v, f64::MAX)),
    native("flatten", 1, |cx, v, args| match args[0].as_f64() {
        Some(depth) if depth >= 0.0 => flatten(cx, v, depth),
        Some(_) => Err(fault(ExprCode::Value, "flatten depth is negative")),
        None => Err(type_fault("flatten depth is not a number")),
    }),
    native("index", 1, |cx, v, args| Ok(edge(&indices(cx, v, &args[0])?, <[Json]>::first))),
    native("indices", 1, |cx, v, args| indices(cx, v, &args[0])),
    native("join", 1, |cx, v, args| join(cx, v, &args[0])),
    native("last", 0, |_, v, _| end(v, "last", <[Json]>::last)),
    native("max", 0, |cx, v, _| extreme(cx, array("max", v)?, Ordering::Greater)),
    native("min", 0, |cx, v, _| extreme(cx, array("min", v)?, Ordering::Less)),
    native("reverse", 0, reverse),
    native("rindex", 1, |cx, v, args| Ok(edge(&indices(cx, v, &args[0])?, <[Json]>::last))),
    native("sort", 0, |cx, v, _| {
        let items = sorted(cx, array("sort", v)?)?;
        cx.new_array(items)
    }),
    native("unique", 0, |cx, v, _| {
        let mut items = sorted(cx, array("unique", v)?)?;
        items.dedup_by(|a, b| a.cmp_jq(b).is_eq());
        cx.new_array(items)
    }),
];

/// The items of an array, or a fault that names the function.
pub(super) fn array<'v>(name: &str, value: &'v Json) -> Result<&'v [Json], Fault> {
    value.as_arr().ok_or_else(|| type_fault(format!("{name} is not defined for {}", value.type_name())))
}

/// The items of an array or the values of an object.
fn children<'v>(name: &str, value: &'v Json) -> Result<Box<dyn Iterator<Item = &'v Json> + 'v>, Fault> {
    match value {
        Json::Arr(items) => Ok(Box::new(items.iter())),
        Json::Obj(members) => Ok(Box::new(members.values())),
        other => Err(type_fault(format!("{name} is not defined for {}", other.type_name()))),
    }
}

/// The first child whose truth is `wanted`.
fn test(cx: &mut Cx<'_>, name: &str, value: &Json, wanted: bool) -> Result<Option<usize>, Fault> {
    let mut children = children(name, value)?;
    let found = children.position(|child| truthy(child) == wanted);
    cx.values(found.unwrap_or_else(|| value.as_arr().map_or(0, <[Json]>::len)))?;
    Ok(found)
}

type Edge = for<'v> fn(&'v [Json]) -> Option<&'v Json>;

fn edge(value: &Json, edge: Edge) -> Json {
    value.as_arr().and_then(edge).cloned().unwrap_or_default()
}

/// `first` and `last` of an array; null for null.
fn end(value: &Json, name: &str, which: Edge) -> Result<Json, Fault> {
    match value {
        Json::Null => Ok(Json::Null),
        value => Ok(which(array(name, value)?).cloned().unwrap_or_default()),
    }
}

/// Sums up. Strings are joined in one go: adding them one by one would copy what is already
/// there again and again.
pub(super) fn add<'v>(cx: &mut Cx<'_>, children: impl Iterator<Item = &'v Json>) -> Result<Json, Fault> {
    let mut children = children.peekable();
    let mut sum = Json::Null;
    while let Some(child) = children.next() {
        cx.steps(1)?;
        if let (Json::Null | Json::Str(_), Json::Str(first)) = (&sum, child) {
            let mut text = String::from(sum.as_str().unwrap_or(""));
            text.push_str(first);
            while let Some(Json::Str(next)) = children.peek() {
                cx.values(4)?;
                if text.len() + next.len() > cx.max_string() {
                    break;
                }
                text.push_str(next);
                children.next();
            }
            sum = cx.new_string(text)?;
        } else {
            sum = ops::math(cx, jaq_core::ops::Math::Add, sum, child)?;
        }
    }
    Ok(sum)
}

fn flatten(cx: &mut Cx<'_>, value: &Json, depth: f64) -> Result<Json, Fault> {
    let mut flat = Vec::new();
    flatten_into(cx, array("flatten", value)?, depth, &mut flat)?;
    cx.array(flat)
}

fn flatten_into(cx: &mut Cx<'_>, items: &[Json], depth: f64, flat: &mut Vec<Json>) -> Result<(), Fault> {
    cx.steps(1)?;
    cx.values(items.len())?;
    for item in items {
        match item {
            Json::Arr(items) if depth >= 1.0 => flatten_into(cx, items, depth - 1.0, flat)?,
            item => cx.push(flat, item.clone())?,
        }
    }
    Ok(())
}

fn reverse(cx: &mut Cx<'_>, value: &Json, _: &[Json]) -> Result<Json, Fault> {
    match value {
        Json::Null => Ok(Json::Arr(std::sync::Arc::default())),
        Json::Str(text) => {
            cx.scan(text.len())?;
            cx.new_string(text.chars().rev().collect::<String>())
        }
        value => {
            let items = array("reverse", value)?;
            cx.values(items.len())?;
            cx.new_array(items.iter().rev().cloned().collect())
        }
    }
}

fn join(cx: &mut Cx<'_>, value: &Json, separator: &Json) -> Result<Json, Fault> {
    let items = array("join", value)?;
    if items.is_empty() {
        return Ok(Json::from(""));
    }
    // It is added to strings, for which null is as good as "".
    let separator = match separator {
        Json::Str(separator) => separator,
        Json::Null => "",
        _ if items.len() == 1 => "",
        _ => return Err(type_fault("the separator of join is not a string")),
    };
    let mut text = String::new();
    for (i, item) in items.iter().enumerate() {
        cx.steps(1)?;
        if i > 0 {
            text.push_str(separator);
        }
        match item {
            Json::Null => {}
            Json::Arr(_) | Json::Obj(_) => {
                return Err(type_fault(format!("cannot join {}", item.type_name())));
            }
            item => Format::Text.write(cx, item, &mut text)?,
        }
        if text.len() > cx.max_string() {
            break;
        }
    }
    cx.new_string(text)
}

/// Where `part` is found: characters into a string, or items into an array.
fn indices(cx: &mut Cx<'_>, value: &Json, part: &Json) -> Result<Json, Fault> {
    match (value, part) {
        (Json::Null, _) => Ok(Json::Null),
        (Json::Str(text), Json::Str(part)) => string_indices(cx, text, part),
        (Json::Arr(items), Json::Arr(part)) => array_indices(cx, items, part),
        (Json::Arr(items), item) => array_indices(cx, items, std::slice::from_ref(item)),
        _ => Err(type_fault(format!("cannot find {} in {}", part.type_name(), value.type_name()))),
    }
}

fn string_indices(cx: &mut Cx<'_>, text: &str, part: &str) -> Result<Json, Fault> {
    if part.is_empty() {
        return Ok(Json::Null);
    }
    cx.scan(text.len() * 2)?;
    let mut found = Vec::new();
    let mut chars = 0;
    let mut counted = 0;
    let mut from = 0;
    // Overlapping occurrences count, so each search starts one character behind the last hit.
    while let Some(at) = text[from..].find(part).map(|at| at + from) {
        cx.values(4)?;
        cx.scan(part.len())?;
        cx.alloc(size_of::<Json>())?;
        chars += text[counted..at].chars().count();
        counted = at;
        found.push(count(chars));
        from = at + text[at..].chars().next().map_or(1, char::len_utf8);
    }
    cx.array(found)
}

/// Where `part` is found in `items`, as consecutive items.
pub(in crate::expr) fn array_indices(cx: &mut Cx<'_>, items: &[Json], part: &[Json]) -> Result<Json, Fault> {
    if part.is_empty() {
        return Ok(Json::Null);
    }
    let mut found = Vec::new();
    for (at, window) in items.windows(part.len()).enumerate() {
        cx.steps(1)?;
        let mut equal = true;
        for (a, b) in window.iter().zip(part) {
            cx.values(4)?;
            if !ops::order(cx, a, b)?.is_eq() {
                equal = false;
                break;
            }
            cx.steps(1)?;
        }
        if equal {
            cx.alloc(size_of::<Json>())?;
            found.push(count(at));
        }
    }
    cx.array(found)
}

/// Pays for sorting by these keys.
pub(super) fn pay_sort<'v>(
    cx: &mut Cx<'_>,
    keys: impl ExactSizeIterator<Item = &'v Json>,
) -> Result<(), Fault> {
    let rounds = u64::from(keys.len().max(1).ilog2()) + 1;
    cx.steps(keys.len() as u64 * rounds / 16)?;
    for key in keys {
        cx.pay_walk(key, rounds)?;
    }
    Ok(())
}

fn sorted(cx: &mut Cx<'_>, items: &[Json]) -> Result<Vec<Json>, Fault> {
    pay_sort(cx, items.iter())?;
    cx.alloc_items(items.len())?;
    let mut items = items.to_vec();
    items.sort_by(Json::cmp_jq);
    Ok(items)
}

/// The smallest item (the first of equal ones) or the greatest (the last of equal ones); null
/// without items.
fn extreme(cx: &mut Cx<'_>, items: &[Json], wanted: Ordering) -> Result<Json, Fault> {
    let mut best: Option<&Json> = None;
    for item in items {
        cx.values(4)?;
        best = match best {
            Some(best) if !beats(ops::order(cx, item, best)?, wanted) => Some(best),
            _ => Some(item),
        };
    }
    Ok(best.cloned().unwrap_or_default())
}

/// Whether a later candidate replaces an earlier one.
pub(super) fn beats(order: Ordering, wanted: Ordering) -> bool {
    order == wanted || (order.is_eq() && wanted.is_gt())
}
