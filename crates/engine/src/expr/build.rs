//! Building strings and objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{Term, TextPart};
use super::cx::{Cx, Flow, Out};
use super::error::{Fault, type_fault};
use super::natives::Format;
use crate::json::Json;

/// Interpolation: as in jq, the last hole is the outer loop.
pub(super) fn text_each(
    format: Format,
    parts: &[TextPart],
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    text_tail(format, parts, String::new(), cx, input, out)
}

/// Joins `parts` and `tail`, which stands behind them.
pub(super) fn text_tail(
    format: Format,
    parts: &[TextPart],
    tail: String,
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    match parts.split_last() {
        None => {
            let text = cx.new_string(tail)?;
            out(cx, text)
        }
        Some((TextPart::Text(text), before)) => {
            cx.alloc_string(text.len() + tail.len())?;
            let tail = [text, tail.as_str()].concat();
            text_tail(format, before, tail, cx, input, out)
        }
        Some((TextPart::Term(term), before)) => {
            cx.enter()?;
            let flow = term.each(cx, input, &mut |cx, value| {
                let mut text = String::new();
                format.write(cx, &value, &mut text)?;
                cx.alloc_string(text.len() + tail.len())?;
                text.push_str(&tail);
                text_tail(format, before, text, cx, input, out)
            });
            cx.leave();
            flow
        }
    }
}

pub(super) fn text_one(
    format: Format,
    parts: &[TextPart],
    cx: &mut Cx<'_>,
    input: &Json,
) -> Result<Json, Fault> {
    let mut text = String::new();
    for part in parts {
        match part {
            TextPart::Text(part) => text.push_str(part),
            TextPart::Term(term) => {
                let value = term.one(cx, input)?;
                format.write(cx, &value, &mut text)?;
            }
        }
    }
    cx.new_string(text)
}

pub(super) fn object_one(members: &[(Term, Term)], cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    let mut object = BTreeMap::new();
    for (key, value) in members {
        let key = object_key(key.one(cx, input)?)?;
        let value = value.one(cx, input)?;
        object.insert(key, value);
    }
    cx.new_object(object)
}

/// All combinations; as in jq, the first member is the outer loop.
pub(super) fn object_each(
    members: &[(Term, Term)],
    object: BTreeMap<Arc<str>, Json>,
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    let Some(((key, value), rest)) = members.split_first() else {
        let object = cx.new_object(object)?;
        return out(cx, object);
    };
    cx.enter()?;
    let flow = key.each(cx, input, &mut |cx, key| {
        let key = object_key(key)?;
        value.each(cx, input, &mut |cx, value| {
            cx.alloc_members(object.len() + 1)?;
            let mut object = object.clone();
            object.insert(Arc::clone(&key), value);
            object_each(rest, object, cx, input, out)
        })
    });
    cx.leave();
    flow
}

pub(super) fn object_key(key: Json) -> Result<Arc<str>, Fault> {
    match key {
        Json::Str(key) => Ok(key),
        other => Err(type_fault(format!("object keys are strings, not {}", other.type_name()))),
    }
}
