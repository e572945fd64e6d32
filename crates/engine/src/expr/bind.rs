//! Variables: taking values apart, and folding over outputs.

use super::ast::{Fold, Pattern, Term};
use super::cx::{Cx, Flow, Next, Out};
use super::error::{Fault, type_fault};
use super::path;
use crate::json::Json;

/// Takes a value apart into variables; `then` runs once per combination of outputs of the keys.
/// Its argument means nothing: the variables are in the slots.
pub(super) fn destructure(pattern: &Pattern, cx: &mut Cx<'_>, value: &Json, then: Out<'_>) -> Flow {
    match pattern {
        Pattern::Var(slot) => {
            cx.slots[*slot] = value.clone();
            then(cx, Json::Null)
        }
        Pattern::Array(patterns) => destructure_items(patterns, 0, cx, value, then),
        Pattern::Object(members) => destructure_members(members, cx, value, then),
    }
}

pub(super) fn destructure_items(
    patterns: &[Pattern],
    index: i64,
    cx: &mut Cx<'_>,
    value: &Json,
    then: Out<'_>,
) -> Flow {
    let Some((first, rest)) = patterns.split_first() else {
        return then(cx, Json::Null);
    };
    cx.enter()?;
    let item = path::index(cx, value, &Json::from(index))?;
    let flow =
        destructure(first, cx, &item, &mut |cx, _| destructure_items(rest, index + 1, cx, value, then));
    cx.leave();
    flow
}

pub(super) fn destructure_members(
    members: &[(Term, Pattern)],
    cx: &mut Cx<'_>,
    value: &Json,
    then: Out<'_>,
) -> Flow {
    let Some(((key, pattern), rest)) = members.split_first() else {
        return then(cx, Json::Null);
    };
    cx.enter()?;
    let flow = key.each(cx, value, &mut |cx, key| {
        if !matches!(key, Json::Str(_)) {
            let message = format!("cannot index {} with {}", value.type_name(), key.type_name());
            return Err(type_fault(message));
        }
        let item = path::index(cx, value, &key)?;
        destructure(pattern, cx, &item, &mut |cx, _| destructure_members(rest, cx, value, then))
    });
    cx.leave();
    flow
}

/// Folds with the last output of the update; none makes it null.
pub(super) fn reduce(fold: &Fold, cx: &mut Cx<'_>, input: &Json, init: Json) -> Result<Json, Fault> {
    let mut state = init;
    fold.source.each(cx, input, &mut |cx, value| {
        destructure(&fold.pattern, cx, &value, &mut |cx, _| {
            let before = std::mem::take(&mut state);
            if fold.update.single {
                state = fold.update.one_owned(cx, before)?;
            } else {
                fold.update.each(cx, &before, &mut |_, value| {
                    state = value;
                    Ok(Next::More)
                })?;
            }
            Ok(Next::More)
        })
    })?;
    Ok(state)
}

pub(super) fn foreach(fold: &Fold, cx: &mut Cx<'_>, input: &Json, init: Json, out: Out<'_>) -> Flow {
    let mut state = init;
    fold.source.each(cx, input, &mut |cx, value| {
        destructure(&fold.pattern, cx, &value, &mut |cx, _| {
            let before = std::mem::take(&mut state);
            fold.update.each(cx, &before, &mut |cx, value| {
                state = value.clone();
                match &fold.extract {
                    Some(extract) => extract.each(cx, &value, out),
                    None => out(cx, value),
                }
            })
        })
    })
}
