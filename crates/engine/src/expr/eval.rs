//! Evaluation.
//!
//! A term hands each of its outputs to a consumer; there are no lazy iterators and nothing is
//! boxed per step. Terms known to give exactly one output take a direct way without a consumer
//! ([`Term::one`]). Every term costs a step and a level, and both are bounded.
//!
//! The small functions are deliberate: they keep the stack frames of an unoptimised build small.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{Bind, Kind, NOWHERE, Pattern, Term};
use super::bind::{destructure, foreach, reduce};
use super::build::{object_each, object_one, text_each, text_one};
use super::cx::{Cx, Flow, Next, Out};
use super::error::{ExprCode, Fault, fault};
use super::natives;
use super::{ops, path};
use crate::json::Json;

/// `null` and `false` are false; everything else is true.
pub(super) fn truthy(value: &Json) -> bool {
    !matches!(value, Json::Null | Json::Bool(false))
}

impl Term {
    /// Gives every output to `out`.
    pub fn each(&self, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
        if self.single {
            let value = self.one(cx, input)?;
            return out(cx, value);
        }
        cx.enter()?;
        let flow = self.dispatch(cx, input, out);
        cx.leave();
        flow.map_err(|fault| self.locate(fault))
    }

    /// The output of a term that has exactly one.
    pub fn one(&self, cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
        // The most frequent terms, without the bookkeeping of a level.
        match &self.kind {
            Kind::Id => {
                cx.steps(1)?;
                return Ok(input.clone());
            }
            Kind::Const(value) => {
                cx.steps(1)?;
                return Ok(value.clone());
            }
            Kind::Var(slot) => {
                cx.steps(1)?;
                return Ok(cx.slots[*slot].clone());
            }
            Kind::Fields(keys) => {
                cx.steps(1)?;
                return path::fields(input, keys).map_err(|fault| self.locate(fault));
            }
            _ => {}
        }
        cx.enter()?;
        let value = self.dispatch_one(cx, input);
        cx.leave();
        value.map_err(|fault| self.locate(fault))
    }

    /// Like [`Term::one`], but lets a sole owner change its value in place: `reduce … (…; . + x)`
    /// takes time and memory for what it adds, not for what is already there.
    pub fn one_owned(&self, cx: &mut Cx<'_>, input: Json) -> Result<Json, Fault> {
        match &self.kind {
            Kind::Id => Ok(input),
            Kind::Pipe(terms) => {
                cx.enter()?;
                let mut value = Ok(input);
                for term in terms {
                    value = value.and_then(|input| term.one_owned(cx, input));
                }
                cx.leave();
                value
            }
            Kind::If(branches, otherwise) => {
                cx.enter()?;
                let value = if_owned(branches, otherwise.as_deref(), cx, input);
                cx.leave();
                value
            }
            Kind::Math(first, rest) if matches!(first.kind, Kind::Id) => {
                cx.enter()?;
                let value = math_owned(rest, cx, input);
                cx.leave();
                value.map_err(|fault| self.locate(fault))
            }
            _ => self.one(cx, &input),
        }
    }

    /// All outputs.
    pub fn collect(&self, cx: &mut Cx<'_>, input: &Json) -> Result<Vec<Json>, Fault> {
        let mut items = Vec::new();
        self.each(cx, input, &mut |cx, value| {
            cx.push(&mut items, value)?;
            Ok(Next::More)
        })?;
        Ok(items)
    }

    fn locate(&self, mut fault: Fault) -> Fault {
        if fault.offset.is_none() && self.at != NOWHERE {
            fault.offset = Some(self.at as usize);
        }
        fault
    }

    fn dispatch(&self, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
        match &self.kind {
            Kind::Path(head, parts) => path::each(head, parts, cx, input, out),
            Kind::Recurse => path::recurse(cx, input, out),
            Kind::Pipe(terms) => pipe(terms, cx, input, out),
            Kind::Comma(terms) => comma(terms, cx, input, out),
            Kind::Bind(bind) => bind_each(bind, cx, input, out),
            Kind::Alt(sides) => alt(&sides.0, &sides.1, cx, input, out),
            Kind::And(sides) => logic(&sides.0, &sides.1, false, cx, input, out),
            Kind::Or(sides) => logic(&sides.0, &sides.1, true, cx, input, out),
            Kind::Math(first, rest) => math_each(first, rest, cx, input, out),
            Kind::Cmp(op, sides) => sides.1.each(cx, input, &mut |cx, right| {
                sides.0.each(cx, input, &mut |cx, left| {
                    let result = ops::compare(cx, *op, &left, &right)?;
                    out(cx, Json::Bool(result))
                })
            }),
            Kind::If(branches, otherwise) => if_each(branches, otherwise.as_deref(), cx, input, out),
            Kind::Try(body, handler) => try_each(body, handler.as_deref(), cx, input, out),
            Kind::Reduce(fold) => fold.init.each(cx, input, &mut |cx, init| {
                let value = reduce(fold, cx, input, init)?;
                out(cx, value)
            }),
            Kind::Foreach(fold) => {
                fold.init.each(cx, input, &mut |cx, init| foreach(fold, cx, input, init, out))
            }
            Kind::Neg(term) => term.each(cx, input, &mut |cx, value| {
                let value = ops::negate(&value)?;
                out(cx, value)
            }),
            Kind::Text(format, parts) => text_each(*format, parts, cx, input, out),
            Kind::Object(members) => object_each(members, BTreeMap::new(), cx, input, out),
            Kind::Native(native, args) => natives::call_each(native, args, &mut Vec::new(), cx, input, out),
            Kind::Special(special, args) => natives::special(*special, args, None, cx, input, out),
            Kind::Regex(special, regex, args) => {
                natives::special(*special, args, Some(regex), cx, input, out)
            }
            // The others are always single.
            _ => {
                let value = self.dispatch_one(cx, input)?;
                out(cx, value)
            }
        }
    }

    fn dispatch_one(&self, cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
        match &self.kind {
            Kind::Id => Ok(input.clone()),
            Kind::Const(value) => Ok(value.clone()),
            Kind::Var(slot) => Ok(cx.slots[*slot].clone()),
            Kind::Fields(keys) => path::fields(input, keys),
            Kind::Path(head, parts) => path::one(head, parts, cx, input),
            Kind::Text(format, parts) => text_one(*format, parts, cx, input),
            Kind::Array(None) => Ok(Json::Arr(Arc::new(Vec::new()))),
            Kind::Array(Some(items)) => {
                let items = items.collect(cx, input)?;
                cx.array(items)
            }
            Kind::Object(members) => object_one(members, cx, input),
            Kind::Neg(term) => ops::negate(&term.one(cx, input)?),
            Kind::Pipe(terms) => pipe_one(terms, cx, input),
            Kind::Bind(bind) => bind_one(bind, cx, input),
            Kind::Alt(sides) => alt_one(&sides.0, &sides.1, cx, input),
            Kind::And(sides) => {
                Ok(Json::Bool(truthy(&sides.0.one(cx, input)?) && truthy(&sides.1.one(cx, input)?)))
            }
            Kind::Or(sides) => {
                Ok(Json::Bool(truthy(&sides.0.one(cx, input)?) || truthy(&sides.1.one(cx, input)?)))
            }
            Kind::Math(first, rest) => math_one(first, rest, cx, input),
            Kind::Cmp(op, sides) => {
                let right = sides.1.one(cx, input)?;
                let left = sides.0.one(cx, input)?;
                ops::compare(cx, *op, &left, &right).map(Json::Bool)
            }
            Kind::If(branches, otherwise) => if_one(branches, otherwise.as_deref(), cx, input),
            Kind::Reduce(fold) => {
                let init = fold.init.one(cx, input)?;
                reduce(fold, cx, input, init)
            }
            Kind::Native(native, args) => natives::call_one(native, args, cx, input),
            Kind::Del(paths) => path::del(paths, cx, input),
            _ => self.last(cx, input),
        }
    }

    /// The only output of a term that has a consumer form only.
    fn last(&self, cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
        let mut last = Json::Null;
        self.dispatch(cx, input, &mut |_, value| {
            last = value;
            Ok(Next::More)
        })?;
        Ok(last)
    }
}

fn pipe(terms: &[Term], cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    let Some((first, rest)) = terms.split_first() else {
        return out(cx, input.clone());
    };
    if rest.is_empty() {
        return first.each(cx, input, out);
    }
    if first.single {
        let value = first.one(cx, input)?;
        return pipe(rest, cx, &value, out);
    }
    first.each(cx, input, &mut |cx, value| pipe(rest, cx, &value, out))
}

fn pipe_one(terms: &[Term], cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    let Some((first, rest)) = terms.split_first() else {
        return Ok(input.clone());
    };
    let mut value = first.one(cx, input)?;
    for term in rest {
        value = term.one(cx, &value)?;
    }
    Ok(value)
}

fn comma(terms: &[Term], cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    for term in terms {
        if let Next::Stop = term.each(cx, input, out)? {
            return Ok(Next::Stop);
        }
    }
    Ok(Next::More)
}

fn bind_each(bind: &Bind, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    bind.source.each(cx, input, &mut |cx, value| {
        destructure(&bind.pattern, cx, &value, &mut |cx, _| bind.body.each(cx, input, out))
    })
}

fn bind_one(bind: &Bind, cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    let value = bind.source.one(cx, input)?;
    if let Pattern::Var(slot) = &bind.pattern {
        cx.slots[*slot] = value;
    } else {
        destructure(&bind.pattern, cx, &value, &mut |_, _| Ok(Next::More))?;
    }
    bind.body.one(cx, input)
}

/// Runs `body` so that a catchable fault of its own comes back as a value, while faults of the
/// consumer pass: what happens behind `try` is not its business.
fn guarded(body: &Term, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Result<Guarded, Fault> {
    let mark = cx.mark();
    let mut outside = None;
    let flow = body.each(cx, input, &mut |cx, value| {
        out(cx, value).or_else(|fault| {
            outside = Some(fault);
            Ok(Next::Stop)
        })
    });
    if let Some(fault) = outside {
        return Err(fault);
    }
    match flow {
        Ok(Next::More) => Ok(Guarded::Done),
        Ok(Next::Stop) => Ok(Guarded::Stopped),
        Err(fault) if fault.code.is_catchable() => {
            cx.restore(mark);
            Ok(Guarded::Failed(fault))
        }
        Err(fault) => Err(fault),
    }
}

enum Guarded {
    Done,
    Stopped,
    Failed(Fault),
}

fn try_each(body: &Term, handler: Option<&Term>, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    match guarded(body, cx, input, out)? {
        Guarded::Done => Ok(Next::More),
        Guarded::Stopped => Ok(Next::Stop),
        Guarded::Failed(fault) => match handler {
            Some(handler) => handler.each(cx, &caught(*fault), out),
            None => Ok(Next::More),
        },
    }
}

/// What `catch` gets: the value given to `error`, or the code of the fault.
fn caught(fault: super::ExprError) -> Json {
    match fault.code {
        ExprCode::User => fault.payload.unwrap_or_default(),
        code => code.as_str().into(),
    }
}

/// `f // g`: the outputs of `f` that are neither null nor false, whatever its faults; those of
/// `g` when there are none.
fn alt(left: &Term, right: &Term, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    let mut found = false;
    let guarded = guarded(left, cx, input, &mut |cx, value| {
        if !truthy(&value) {
            return Ok(Next::More);
        }
        found = true;
        out(cx, value)
    })?;
    match guarded {
        Guarded::Stopped => Ok(Next::Stop),
        _ if found => Ok(Next::More),
        _ => right.each(cx, input, out),
    }
}

fn alt_one(left: &Term, right: &Term, cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    let mark = cx.mark();
    match left.one(cx, input) {
        Ok(value) if truthy(&value) => return Ok(value),
        Ok(_) => {}
        Err(fault) if fault.code.is_catchable() => cx.restore(mark),
        Err(fault) => return Err(fault),
    }
    right.one(cx, input)
}

/// `and` (`short` = false) and `or` (`short` = true).
fn logic(left: &Term, right: &Term, short: bool, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    left.each(cx, input, &mut |cx, left| {
        if truthy(&left) == short {
            return out(cx, Json::Bool(short));
        }
        right.each(cx, input, &mut |cx, right| out(cx, Json::Bool(truthy(&right))))
    })
}

/// A chain of operators, left to right; as in jq, the right operand is the outer loop.
fn math_each(
    first: &Term,
    rest: &[(jaq_core::ops::Math, Term)],
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    let Some(((op, last), before)) = rest.split_last() else {
        return first.each(cx, input, out);
    };
    cx.enter()?;
    let flow = last.each(cx, input, &mut |cx, right| {
        math_each(first, before, cx, input, &mut |cx, left| {
            let value = ops::math(cx, *op, left, &right)?;
            out(cx, value)
        })
    });
    cx.leave();
    flow
}

fn math_one(
    first: &Term,
    rest: &[(jaq_core::ops::Math, Term)],
    cx: &mut Cx<'_>,
    input: &Json,
) -> Result<Json, Fault> {
    let mut value = first.one(cx, input)?;
    for (op, term) in rest {
        let right = term.one(cx, input)?;
        value = ops::math(cx, *op, value, &right)?;
    }
    Ok(value)
}

fn math_owned(rest: &[(jaq_core::ops::Math, Term)], cx: &mut Cx<'_>, input: Json) -> Result<Json, Fault> {
    let mut operands = Vec::with_capacity(rest.len());
    for (op, term) in rest {
        operands.push((*op, term.one(cx, &input)?));
    }
    let mut value = input;
    for (op, right) in operands {
        value = ops::math(cx, op, value, &right)?;
    }
    Ok(value)
}

fn if_each(
    branches: &[(Term, Term)],
    otherwise: Option<&Term>,
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    let Some(((condition, then), rest)) = branches.split_first() else {
        return match otherwise {
            Some(otherwise) => otherwise.each(cx, input, out),
            None => out(cx, input.clone()),
        };
    };
    if condition.single {
        let chosen = truthy(&condition.one(cx, input)?);
        return match chosen {
            true => then.each(cx, input, out),
            false => if_each(rest, otherwise, cx, input, out),
        };
    }
    condition.each(cx, input, &mut |cx, value| {
        if truthy(&value) { then.each(cx, input, out) } else { if_each(rest, otherwise, cx, input, out) }
    })
}

/// The branch to take; `None` for the input itself.
fn choose<'t>(
    branches: &'t [(Term, Term)],
    otherwise: Option<&'t Term>,
    cx: &mut Cx<'_>,
    input: &Json,
) -> Result<Option<&'t Term>, Fault> {
    for (condition, then) in branches {
        if truthy(&condition.one(cx, input)?) {
            return Ok(Some(then));
        }
    }
    Ok(otherwise)
}

fn if_one(
    branches: &[(Term, Term)],
    otherwise: Option<&Term>,
    cx: &mut Cx<'_>,
    input: &Json,
) -> Result<Json, Fault> {
    match choose(branches, otherwise, cx, input)? {
        Some(term) => term.one(cx, input),
        None => Ok(input.clone()),
    }
}

fn if_owned(
    branches: &[(Term, Term)],
    otherwise: Option<&Term>,
    cx: &mut Cx<'_>,
    input: Json,
) -> Result<Json, Fault> {
    match choose(branches, otherwise, cx, &input)? {
        Some(term) => term.one_owned(cx, input),
        None => Ok(input),
    }
}

/// A fault for a result that is no finite number.
pub(super) fn not_finite() -> Fault {
    fault(ExprCode::Arithmetic, "the result is not a finite number")
}
