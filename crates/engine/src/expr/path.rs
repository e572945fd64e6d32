//! Paths: reading with them, and deleting what they name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{Kind, Part, Term};
use super::cx::{Cx, Flow, Next, Out};
use super::error::{Fault, type_fault};
use crate::json::Json;

/// `.a.b.c`, the most frequent expression by far: no copies but of the result.
pub(super) fn fields(input: &Json, keys: &[Arc<str>]) -> Result<Json, Fault> {
    let mut value = input;
    for key in keys {
        value = field(value, key)?;
    }
    Ok(value.clone())
}

fn field<'v>(value: &'v Json, key: &str) -> Result<&'v Json, Fault> {
    match value {
        Json::Obj(members) => Ok(members.get(key).unwrap_or(Json::null_ref())),
        Json::Null => Ok(Json::null_ref()),
        other => Err(cannot_index(other, "string")),
    }
}

fn cannot_index(value: &Json, key: &str) -> Fault {
    type_fault(format!("cannot index {} with {key}", value.type_name()))
}

/// `value[key]`
pub(super) fn index(cx: &mut Cx<'_>, value: &Json, key: &Json) -> Result<Json, Fault> {
    match (value, key) {
        (_, Json::Str(key)) => field(value, key).cloned(),
        (Json::Null, Json::Num(_) | Json::Null) => Ok(Json::Null),
        (Json::Arr(items), Json::Num(num)) => {
            let at = num.as_f64().map(f64::floor);
            let at = at.and_then(|at| position(at, items.len()));
            Ok(at.and_then(|at| items.get(at)).cloned().unwrap_or_default())
        }
        (Json::Arr(items), Json::Arr(part)) => super::natives::array_indices(cx, items, part),
        _ => Err(cannot_index(value, key.type_name())),
    }
}

/// A whole number as position in something of this length; negative counts from the end.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn position(at: f64, len: usize) -> Option<usize> {
    let at = if at < 0.0 { at + len as f64 } else { at };
    (at >= 0.0 && at < len as f64).then_some(at as usize)
}

/// `value[from:to]`; null is an open end.
fn slice(cx: &mut Cx<'_>, value: &Json, from: &Json, to: &Json) -> Result<Json, Fault> {
    match value {
        Json::Null => Ok(Json::Null),
        Json::Arr(items) => {
            let (from, to) = bounds(from, to, items.len())?;
            cx.values(to - from)?;
            cx.new_array(items[from..to].to_vec())
        }
        Json::Str(text) => {
            cx.scan(text.len() * 2)?;
            let (from, to) = bounds(from, to, text.chars().count())?;
            let byte = |at| {
                let mut starts = text.char_indices().map(|(byte, _)| byte);
                starts.nth(at).unwrap_or(text.len())
            };
            cx.new_string(&text[byte(from)..byte(to)])
        }
        other => Err(type_fault(format!("cannot slice {}", other.type_name()))),
    }
}

/// Start and end of a slice, in order and within `len`.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn bounds(from: &Json, to: &Json, len: usize) -> Result<(usize, usize), Fault> {
    let bound = |bound: &Json, open: usize, round: fn(f64) -> f64| match bound {
        Json::Null => Ok(open),
        Json::Num(num) => {
            let at = num.as_f64().map_or(f64::MAX, round);
            let at = if at < 0.0 { at + len as f64 } else { at };
            Ok(at.clamp(0.0, len as f64) as usize)
        }
        _ => Err(type_fault("slice bounds are numbers")),
    };
    let from = bound(from, 0, f64::floor)?;
    let to = bound(to, len, f64::ceil)?;
    Ok((from, to.max(from)))
}

fn bound_one(cx: &mut Cx<'_>, bound: Option<&Term>, input: &Json) -> Result<Json, Fault> {
    match bound {
        Some(term) => term.one(cx, input),
        None => Ok(Json::Null),
    }
}

/// A path that has exactly one output.
pub(super) fn one(head: &Term, parts: &[Part], cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    let mut value = head.one(cx, input)?;
    for part in parts {
        value = match part {
            Part::Key(key) => field(&value, key)?.clone(),
            Part::Index(key) => {
                let key = key.one(cx, input)?;
                index(cx, &value, &key)?
            }
            Part::Slice(from, to) => {
                let from = bound_one(cx, from.as_ref(), input)?;
                let to = bound_one(cx, to.as_ref(), input)?;
                slice(cx, &value, &from, &to)?
            }
            // Only paths without it are single.
            Part::Iterate => return Err(type_fault("cannot iterate here")),
        };
    }
    Ok(value)
}

/// The keys of one part, evaluated.
enum Keys {
    Fixed,
    Index(Json),
    Slice(Json, Json),
}

/// A path in general. As in jq, the keys of later parts are the outer loops.
pub(super) fn each(head: &Term, parts: &[Part], cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    let mut keys = Vec::with_capacity(parts.len());
    each_key(head, parts, parts.len(), &mut keys, cx, input, out)
}

/// Evaluates the keys of `parts[..rest]`; `keys` has those behind, the last one first.
fn each_key(
    head: &Term,
    parts: &[Part],
    rest: usize,
    keys: &mut Vec<Keys>,
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    let mut rest = rest;
    let depth = keys.len();
    // Keys that cannot branch need no level of their own.
    while rest > 0 {
        let next = match &parts[rest - 1] {
            Part::Key(_) | Part::Iterate => Keys::Fixed,
            Part::Index(key) if key.single => Keys::Index(key.one(cx, input)?),
            Part::Slice(from, to)
                if from.as_ref().is_none_or(|t| t.single) && to.as_ref().is_none_or(|t| t.single) =>
            {
                let from = bound_one(cx, from.as_ref(), input)?;
                Keys::Slice(from, bound_one(cx, to.as_ref(), input)?)
            }
            _ => break,
        };
        keys.push(next);
        rest -= 1;
    }
    cx.enter()?;
    let flow = match rest.checked_sub(1).map(|last| &parts[last]) {
        Some(Part::Index(key)) => key.each(cx, input, &mut |cx, key| {
            keys.push(Keys::Index(key));
            let flow = each_key(head, parts, rest - 1, keys, cx, input, out)?;
            keys.pop();
            Ok(flow)
        }),
        Some(Part::Slice(from, to)) => {
            let null = Term::null();
            let (from, to) = (from.as_ref().unwrap_or(&null), to.as_ref().unwrap_or(&null));
            to.each(cx, input, &mut |cx, to| {
                from.each(cx, input, &mut |cx, from| {
                    keys.push(Keys::Slice(from, to.clone()));
                    let flow = each_key(head, parts, rest - 1, keys, cx, input, out)?;
                    keys.pop();
                    Ok(flow)
                })
            })
        }
        _ => {
            let keys = keys.as_slice();
            if let Kind::Id = head.kind {
                traverse(parts, keys, cx, input, out)
            } else {
                head.each(cx, input, &mut |cx, value| traverse(parts, keys, cx, &value, out))
            }
        }
    };
    cx.leave();
    keys.truncate(depth);
    flow
}

/// Follows evaluated parts; `keys` is in reverse order.
fn traverse(parts: &[Part], keys: &[Keys], cx: &mut Cx<'_>, value: &Json, out: Out<'_>) -> Flow {
    let mut owned;
    let mut value = value;
    let (mut parts, mut keys) = (parts, keys);
    while let (Some((part, parts_after)), Some((key, keys_after))) = (parts.split_first(), keys.split_last())
    {
        (parts, keys) = (parts_after, keys_after);
        let next = match (part, key) {
            (Part::Key(key), _) => {
                value = field(value, key)?;
                continue;
            }
            (_, Keys::Index(key)) => index(cx, value, key)?,
            (_, Keys::Slice(from, to)) => slice(cx, value, from, to)?,
            _ => return iterate(parts, keys, cx, value, out),
        };
        owned = next;
        value = &owned;
    }
    out(cx, value.clone())
}

fn iterate(parts: &[Part], keys: &[Keys], cx: &mut Cx<'_>, value: &Json, out: Out<'_>) -> Flow {
    cx.enter()?;
    match value {
        Json::Arr(items) => {
            for item in items.iter() {
                cx.steps(1)?;
                if let Next::Stop = traverse(parts, keys, cx, item, out)? {
                    cx.leave();
                    return Ok(Next::Stop);
                }
            }
        }
        Json::Obj(members) => {
            for item in members.values() {
                cx.steps(1)?;
                if let Next::Stop = traverse(parts, keys, cx, item, out)? {
                    cx.leave();
                    return Ok(Next::Stop);
                }
            }
        }
        other => {
            let message = format!("cannot iterate over {}", other.type_name());
            return Err(type_fault(message));
        }
    }
    cx.leave();
    Ok(Next::More)
}

/// `..`: the value and everything in it, from the outside in.
pub(super) fn recurse(cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    let mut stack = vec![input.clone()];
    while let Some(value) = stack.pop() {
        cx.steps(1)?;
        match &value {
            Json::Arr(items) => {
                cx.alloc_items(items.len())?;
                stack.extend(items.iter().rev().cloned());
            }
            Json::Obj(members) => {
                cx.alloc_items(members.len())?;
                stack.extend(members.values().rev().cloned());
            }
            _ => {}
        }
        if let Next::Stop = out(cx, value)? {
            return Ok(Next::Stop);
        }
    }
    Ok(Next::More)
}

/// Deletes what the paths name, all at once, so that deleting one item does not move another.
pub(super) fn del(paths: &[Box<[Part]>], cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    let paths: Vec<&[Part]> = paths.iter().map(|path| &**path).collect();
    delete(cx, input, &paths)
}

/// Every path has at least one part; the keys are constants (the compiler sees to it).
fn delete(cx: &mut Cx<'_>, value: &Json, paths: &[&[Part]]) -> Result<Json, Fault> {
    cx.steps(1 + paths.len() as u64)?;
    match value {
        Json::Null => match paths.iter().any(|path| matches!(path, [Part::Iterate, ..])) {
            true => Err(type_fault("cannot iterate over null")),
            false => Ok(Json::Null),
        },
        Json::Obj(members) => {
            let mut kept = BTreeMap::new();
            for path in paths {
                if let [Part::Index(_) | Part::Slice(..), ..] = path {
                    return Err(cannot_index(value, "number"));
                }
            }
            for (key, child) in members.iter() {
                let hits = |part: &Part| match part {
                    Part::Key(wanted) => wanted == key,
                    _ => true,
                };
                if let Some(child) = delete_child(cx, child, paths, hits)? {
                    kept.insert(Arc::clone(key), child);
                }
            }
            cx.new_object(kept)
        }
        Json::Arr(items) => {
            let mut kept = Vec::new();
            let mut ranges = Vec::new();
            for path in paths {
                ranges.push(match path.first() {
                    Some(Part::Index(Term { kind: Kind::Const(Json::Num(num)), .. })) => {
                        let at = num.as_f64().map(f64::floor);
                        let at = at.and_then(|at| position(at, items.len()));
                        at.map_or(0..0, |at| at..at + 1)
                    }
                    Some(Part::Slice(from, to)) => {
                        let from = bound_one(cx, from.as_ref(), value)?;
                        let to = bound_one(cx, to.as_ref(), value)?;
                        let (from, to) = bounds(&from, &to, items.len())?;
                        from..to
                    }
                    Some(Part::Iterate) => 0..items.len(),
                    _ => return Err(cannot_index(value, "string")),
                });
            }
            for (at, child) in items.iter().enumerate() {
                let hit: Vec<&[Part]> = paths
                    .iter()
                    .zip(&ranges)
                    .filter(|(_, range)| range.contains(&at))
                    .map(|(path, _)| *path)
                    .collect();
                if let Some(child) = delete_child(cx, child, &hit, |_| true)? {
                    kept.push(child);
                }
            }
            cx.new_array(kept)
        }
        other => Err(cannot_index(other, "a path to delete")),
    }
}

/// The child without what the paths that hit it name; `None` when a path names the child.
fn delete_child(
    cx: &mut Cx<'_>,
    child: &Json,
    paths: &[&[Part]],
    hits: impl Fn(&Part) -> bool,
) -> Result<Option<Json>, Fault> {
    cx.values(1 + paths.len() * 2)?;
    let mut below = Vec::new();
    for path in paths {
        match path {
            [part] if hits(part) => return Ok(None),
            [part, rest @ ..] if hits(part) => below.push(rest),
            _ => {}
        }
    }
    if below.is_empty() {
        return Ok(Some(child.clone()));
    }
    delete(cx, child, &below).map(Some)
}
