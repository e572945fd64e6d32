//! Built-in functions that take terms rather than values.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use regex::{Captures, Regex};

use super::super::ast::Term;
use super::super::cx::{Cx, Flow, Next, Out};
use super::super::error::{ExprCode, Fault, fault, type_fault};
use super::super::eval::truthy;
use super::super::ops;
use super::arrays::{add, array, beats, pay_sort};
use super::regex::{Flags, cached, find, haystack, matches, named, scanned, test};
use crate::json::{Json, Num};

/// A built-in function of terms. The regex functions come last: their first two arguments are
/// pattern and flags, unless the pattern is compiled already.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::expr) enum Special {
    Empty,
    /// `range(from; upto; by)`
    Range,
    First,
    Last,
    /// `limit(n; f)`
    Limit,
    /// `nth(n; f)`
    Nth,
    IsEmpty,
    /// `any(g; f)`
    Any,
    /// `all(g; f)`
    All,
    Add,
    SortBy,
    GroupBy,
    UniqueBy,
    MinBy,
    MaxBy,
    MapValues,
    Walk,
    Test,
    Match,
    Capture,
    Scan,
    /// `split(re; flags)`: an array
    Split,
    /// `splits(re; flags)`: outputs
    Splits,
    /// `sub(re; f; flags)`; the replacement comes last
    Sub,
    Gsub,
}

/// What the compiler does with the arguments as written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::expr) enum Shape {
    /// As they are.
    Plain,
    /// `range(n)` or `range(from; upto)`: the missing ones are 0 and 1.
    Range,
    /// `any(f)` and `all(f)`: over `.[]`.
    OverChildren,
    /// Pattern, optional flags.
    Regex,
    /// Pattern, replacement, optional flags.
    Replace,
}

impl Special {
    /// Finds a function of terms.
    pub fn lookup(name: &str, arity: usize) -> Option<(Special, Shape)> {
        Some(match (name, arity) {
            ("empty", 0) => (Special::Empty, Shape::Plain),
            ("range", 1..=3) => (Special::Range, Shape::Range),
            ("first", 1) => (Special::First, Shape::Plain),
            ("last", 1) => (Special::Last, Shape::Plain),
            ("limit", 2) => (Special::Limit, Shape::Plain),
            ("nth", 2) => (Special::Nth, Shape::Plain),
            ("isempty", 1) => (Special::IsEmpty, Shape::Plain),
            ("any", 1) => (Special::Any, Shape::OverChildren),
            ("any", 2) => (Special::Any, Shape::Plain),
            ("all", 1) => (Special::All, Shape::OverChildren),
            ("all", 2) => (Special::All, Shape::Plain),
            ("add", 1) => (Special::Add, Shape::Plain),
            ("sort_by", 1) => (Special::SortBy, Shape::Plain),
            ("group_by", 1) => (Special::GroupBy, Shape::Plain),
            ("unique_by", 1) => (Special::UniqueBy, Shape::Plain),
            ("min_by", 1) => (Special::MinBy, Shape::Plain),
            ("max_by", 1) => (Special::MaxBy, Shape::Plain),
            ("map_values", 1) => (Special::MapValues, Shape::Plain),
            ("walk", 1) => (Special::Walk, Shape::Plain),
            ("test", 1 | 2) => (Special::Test, Shape::Regex),
            ("match", 1 | 2) => (Special::Match, Shape::Regex),
            ("capture", 1 | 2) => (Special::Capture, Shape::Regex),
            ("scan", 1 | 2) => (Special::Scan, Shape::Regex),
            ("split", 2) => (Special::Split, Shape::Regex),
            ("splits", 1 | 2) => (Special::Splits, Shape::Regex),
            ("sub", 2 | 3) => (Special::Sub, Shape::Replace),
            ("gsub", 2 | 3) => (Special::Gsub, Shape::Replace),
            _ => return None,
        })
    }

    /// Whether there is exactly one output, given the arguments.
    pub fn is_single(self, args: &[Term]) -> bool {
        match self {
            Special::IsEmpty
            | Special::Any
            | Special::All
            | Special::Add
            | Special::SortBy
            | Special::GroupBy
            | Special::UniqueBy
            | Special::MinBy
            | Special::MaxBy
            | Special::MapValues => true,
            Special::Walk | Special::Test | Special::Split | Special::Sub | Special::Gsub => {
                args.iter().all(|arg| arg.single)
            }
            _ => false,
        }
    }
}

/// Calls a function of terms.
pub(in crate::expr) fn special(
    special: Special,
    args: &[Term],
    regex: Option<&(Arc<Regex>, Flags)>,
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    match (special, args) {
        (Special::Empty, _) => Ok(Next::More),
        (Special::Range, [from, upto, by]) => range(from, upto, by, cx, input, out),
        (Special::First, [f]) => limit(1, f, cx, input, out),
        (Special::Last, [f]) => {
            let mut last = None;
            f.each(cx, input, &mut |_, value| {
                last = Some(value);
                Ok(Next::More)
            })?;
            match last {
                Some(value) => out(cx, value),
                None => Ok(Next::More),
            }
        }
        (Special::Limit, [count, f]) => {
            count.each(cx, input, &mut |cx, count| limit(whole(&count, "limit")?, f, cx, input, out))
        }
        (Special::Nth, [index, f]) => {
            index.each(cx, input, &mut |cx, index| nth(whole(&index, "nth")?, f, cx, input, out))
        }
        (Special::IsEmpty, [f]) => {
            let mut empty = true;
            f.each(cx, input, &mut |_, _| {
                empty = false;
                Ok(Next::Stop)
            })?;
            out(cx, Json::Bool(empty))
        }
        (Special::Any, [g, f]) => {
            let found = exists(g, f, true, cx, input)?;
            out(cx, Json::Bool(found))
        }
        (Special::All, [g, f]) => {
            let found = exists(g, f, false, cx, input)?;
            out(cx, Json::Bool(!found))
        }
        (Special::Add, [f]) => {
            let items = f.collect(cx, input)?;
            let sum = add(cx, items.iter())?;
            out(cx, sum)
        }
        (Special::MapValues, [f]) => {
            let value = map_values(f, cx, input)?;
            out(cx, value)
        }
        (Special::Walk, [f]) => {
            for value in walk(f, cx, input)? {
                if let Next::Stop = out(cx, value)? {
                    return Ok(Next::Stop);
                }
            }
            Ok(Next::More)
        }
        (Special::SortBy | Special::GroupBy | Special::UniqueBy | Special::MinBy | Special::MaxBy, [f]) => {
            let value = by_key(special, f, cx, input)?;
            out(cx, value)
        }
        (_, args) => match (regex, args) {
            (Some((regex, flags)), args) => search(special, regex, *flags, args.last(), cx, input, out),
            (None, [pattern, flags, rest @ ..]) => pattern.each(cx, input, &mut |cx, pattern| {
                flags.each(cx, input, &mut |cx, flags| {
                    let flags = Flags::parse(&flags)?;
                    let regex = cached(cx, &pattern, flags)?;
                    search(special, &regex, flags, rest.last(), cx, input, out)
                })
            }),
            // The compiler gives every function its arguments.
            _ => Err(fault(ExprCode::Type, "wrong number of arguments")),
        },
    }
}

/// The whole part of a number that counts something.
#[allow(clippy::cast_possible_truncation)]
fn whole(value: &Json, name: &str) -> Result<i64, Fault> {
    match value {
        Json::Num(num) => {
            Ok(num.as_i64().or_else(|| num.as_f64().map(|float| float.floor() as i64)).unwrap_or(i64::MAX))
        }
        _ => Err(type_fault(format!("{name} needs a number"))),
    }
}

fn range(from: &Term, upto: &Term, by: &Term, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    from.each(cx, input, &mut |cx, from| {
        upto.each(cx, input, &mut |cx, upto| {
            by.each(cx, input, &mut |cx, by| count_up(&from, &upto, &by, cx, out))
        })
    })
}

fn count_up(from: &Json, upto: &Json, by: &Json, cx: &mut Cx<'_>, out: Out<'_>) -> Flow {
    let (Json::Num(from), Json::Num(upto), Json::Num(by)) = (from, upto, by) else {
        return Err(type_fault("range needs numbers"));
    };
    let down = by.is_negative();
    if by.compare(&Num::ZERO).is_eq() {
        // As in jq 1.7 and before, a range that never ends is no range; jq 1.8 would never end.
        return Ok(Next::More);
    }
    let wanted = if down { Ordering::Greater } else { Ordering::Less };
    let mut at = Json::Num(from.clone());
    let by = Json::Num(by.clone());
    while let Json::Num(num) = &at {
        if num.compare(upto) != wanted {
            break;
        }
        cx.steps(1)?;
        if let Next::Stop = out(cx, at.clone())? {
            return Ok(Next::Stop);
        }
        let before = num.clone();
        at = ops::math(cx, jaq_core::ops::Math::Add, at, &by)?;
        if let Json::Num(num) = &at
            && num.compare(&before).is_eq()
        {
            return Err(fault(ExprCode::Arithmetic, "range cannot advance by so little"));
        }
    }
    Ok(Next::More)
}

fn limit(count: i64, f: &Term, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    if count <= 0 {
        return Ok(Next::More);
    }
    let mut left = count;
    let mut stopped = false;
    f.each(cx, input, &mut |cx, value| {
        left -= 1;
        if let Next::Stop = out(cx, value)? {
            stopped = true;
        }
        Ok(if stopped || left == 0 { Next::Stop } else { Next::More })
    })?;
    Ok(if stopped { Next::Stop } else { Next::More })
}

fn nth(index: i64, f: &Term, cx: &mut Cx<'_>, input: &Json, out: Out<'_>) -> Flow {
    if index < 0 {
        return Err(fault(ExprCode::Value, "nth does not count from the end"));
    }
    let mut left = index;
    let mut found = None;
    f.each(cx, input, &mut |_, value| {
        if left == 0 {
            found = Some(value);
            return Ok(Next::Stop);
        }
        left -= 1;
        Ok(Next::More)
    })?;
    match found {
        Some(value) => out(cx, value),
        None => Ok(Next::More),
    }
}

/// Whether `f` is `wanted` for some output of `g`; looks no further than needed.
fn exists(g: &Term, f: &Term, wanted: bool, cx: &mut Cx<'_>, input: &Json) -> Result<bool, Fault> {
    let mut found = false;
    g.each(cx, input, &mut |cx, value| {
        f.each(cx, &value, &mut |_, value| {
            found = truthy(&value) == wanted;
            Ok(if found { Next::Stop } else { Next::More })
        })
    })?;
    Ok(found)
}

fn map_values(f: &Term, cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    match input {
        Json::Arr(items) => {
            let mut kept = Vec::new();
            for item in items.iter() {
                if let Some(value) = first_of(f, cx, item)? {
                    kept.push(value);
                }
            }
            cx.new_array(kept)
        }
        Json::Obj(members) => {
            let mut kept = BTreeMap::new();
            for (key, item) in members.iter() {
                if let Some(value) = first_of(f, cx, item)? {
                    kept.insert(Arc::clone(key), value);
                }
            }
            cx.new_object(kept)
        }
        other => Err(type_fault(format!("map_values is not defined for {}", other.type_name()))),
    }
}

fn first_of(f: &Term, cx: &mut Cx<'_>, input: &Json) -> Result<Option<Json>, Fault> {
    cx.steps(1)?;
    if f.single {
        return f.one(cx, input).map(Some);
    }
    let mut first = None;
    f.each(cx, input, &mut |_, value| {
        first = Some(value);
        Ok(Next::Stop)
    })?;
    Ok(first)
}

/// Applies `f` to everything, from the inside out. Items of arrays become all outputs, members
/// of objects the first one or nothing.
fn walk(f: &Term, cx: &mut Cx<'_>, input: &Json) -> Result<Vec<Json>, Fault> {
    cx.enter()?;
    let rebuilt = match input {
        Json::Arr(items) => {
            let mut kept = Vec::new();
            for item in items.iter() {
                kept.append(&mut walk(f, cx, item)?);
            }
            Some(cx.new_array(kept)?)
        }
        Json::Obj(members) => {
            let mut kept = BTreeMap::new();
            for (key, item) in members.iter() {
                if let Some(value) = walk(f, cx, item)?.into_iter().next() {
                    kept.insert(Arc::clone(key), value);
                }
            }
            Some(cx.new_object(kept)?)
        }
        _ => None,
    };
    let outputs = f.collect(cx, rebuilt.as_ref().unwrap_or(input))?;
    cx.leave();
    Ok(outputs)
}

fn by_key(special: Special, f: &Term, cx: &mut Cx<'_>, input: &Json) -> Result<Json, Fault> {
    let items = array("this function", input)?;
    let mut keyed = Vec::new();
    for item in items {
        let key = if f.single {
            f.one(cx, item)?
        } else {
            let key = f.collect(cx, item)?;
            cx.new_array(key)?
        };
        cx.alloc(size_of::<(Json, Json)>())?;
        keyed.push((key, item.clone()));
    }
    if let Special::MinBy | Special::MaxBy = special {
        let wanted = match special {
            Special::MinBy => Ordering::Less,
            _ => Ordering::Greater,
        };
        return extreme(cx, keyed, wanted);
    }
    pay_sort(cx, keyed.iter().map(|(key, _)| key))?;
    keyed.sort_by(|(a, _), (b, _)| a.cmp_jq(b));
    if let Special::GroupBy = special {
        return group(cx, keyed);
    }
    if let Special::UniqueBy = special {
        keyed.dedup_by(|(a, _), (b, _)| a.cmp_jq(b).is_eq());
    }
    cx.new_array(keyed.into_iter().map(|(_, item)| item).collect())
}

fn extreme(cx: &mut Cx<'_>, keyed: Vec<(Json, Json)>, wanted: Ordering) -> Result<Json, Fault> {
    let mut best: Option<(Json, Json)> = None;
    for next in keyed {
        best = match best {
            Some(best) if !beats(ops::order(cx, &next.0, &best.0)?, wanted) => Some(best),
            _ => Some(next),
        };
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

fn group(cx: &mut Cx<'_>, sorted: Vec<(Json, Json)>) -> Result<Json, Fault> {
    let mut groups: Vec<(Json, Vec<Json>)> = Vec::new();
    for (key, item) in sorted {
        match groups.last_mut() {
            Some((last, items)) if last.cmp_jq(&key).is_eq() => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut arrays = Vec::new();
    for (_, items) in groups {
        arrays.push(cx.new_array(items)?);
    }
    cx.new_array(arrays)
}

/// The regex functions.
fn search(
    special: Special,
    regex: &Regex,
    flags: Flags,
    replacement: Option<&Term>,
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    let text = haystack(input)?;
    if let Special::Test = special {
        let found = test(cx, regex, flags, text)?;
        return out(cx, Json::Bool(found));
    }
    let all = matches!(special, Special::Scan | Special::Split | Special::Splits | Special::Gsub);
    let mut flags = flags;
    flags.global |= all;
    let found = find(cx, regex, flags, text)?;
    match special {
        Special::Match => matches(cx, regex, &found, text, out),
        Special::Capture => each_match(&found, cx, out, |cx, captures| named(cx, regex, captures)),
        Special::Scan => each_match(&found, cx, out, scanned),
        Special::Split => {
            let pieces = pieces(cx, &found, text)?;
            let pieces = cx.array(pieces)?;
            out(cx, pieces)
        }
        Special::Splits => {
            for piece in pieces(cx, &found, text)? {
                if let Next::Stop = out(cx, piece)? {
                    return Ok(Next::Stop);
                }
            }
            Ok(Next::More)
        }
        _ => match replacement {
            Some(replacement) => substitute(regex, &found, replacement, cx, text, out),
            None => Err(fault(ExprCode::Type, "wrong number of arguments")),
        },
    }
}

fn each_match(
    found: &[Captures<'_>],
    cx: &mut Cx<'_>,
    out: Out<'_>,
    output: impl Fn(&mut Cx<'_>, &Captures<'_>) -> Result<Json, Fault>,
) -> Flow {
    for captures in found {
        let value = output(cx, captures)?;
        if let Next::Stop = out(cx, value)? {
            return Ok(Next::Stop);
        }
    }
    Ok(Next::More)
}

/// What stands between the matches.
fn pieces(cx: &mut Cx<'_>, found: &[Captures<'_>], text: &str) -> Result<Vec<Json>, Fault> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for captures in found {
        let whole = captures.get_match();
        cx.alloc(size_of::<Json>())?;
        pieces.push(cx.new_string(&text[from..whole.start()])?);
        from = whole.end();
    }
    pieces.push(cx.new_string(&text[from..])?);
    Ok(pieces)
}

/// `sub` and `gsub`. A replacement with several outputs gives all combinations; the first match
/// is the inner loop.
fn substitute(
    regex: &Regex,
    found: &[Captures<'_>],
    replacement: &Term,
    cx: &mut Cx<'_>,
    text: &str,
    out: Out<'_>,
) -> Flow {
    if replacement.single {
        let text = substitute_one(regex, found, replacement, cx, text)?;
        return out(cx, text);
    }
    // The texts so far, each from the last match seen to the end.
    let tail_from = found.last().map_or(0, |captures| captures.get_match().end());
    let mut tails = vec![text[tail_from..].to_owned()];
    for (i, captures) in found.iter().enumerate().rev() {
        let whole = captures.get_match();
        let before = match i.checked_sub(1) {
            Some(previous) => found[previous].get_match().end(),
            None => 0,
        };
        let groups = named(cx, regex, captures)?;
        let mut longer = Vec::new();
        for tail in &tails {
            replacement.each(cx, &groups, &mut |cx, value| {
                let value = replaced(&value)?;
                let between = &text[before..whole.start()];
                cx.alloc_string(between.len() + value.len() + tail.len())?;
                longer.push([between, value, tail].concat());
                Ok(Next::More)
            })?;
        }
        tails = longer;
    }
    for text in tails {
        let text = cx.new_string(text)?;
        if let Next::Stop = out(cx, text)? {
            return Ok(Next::Stop);
        }
    }
    Ok(Next::More)
}

fn substitute_one(
    regex: &Regex,
    found: &[Captures<'_>],
    replacement: &Term,
    cx: &mut Cx<'_>,
    text: &str,
) -> Result<Json, Fault> {
    let mut result = String::new();
    let mut from = 0;
    for captures in found {
        let whole = captures.get_match();
        result.push_str(&text[from..whole.start()]);
        from = whole.end();
        let groups = named(cx, regex, captures)?;
        result.push_str(replaced(&replacement.one(cx, &groups)?)?);
        if result.len() > cx.max_string() {
            break;
        }
    }
    result.push_str(&text[from..]);
    cx.new_string(result)
}

fn replaced(value: &Json) -> Result<&str, Fault> {
    value.as_str().ok_or_else(|| {
        let message = format!("the replacement is {}, not a string", value.type_name());
        type_fault(message)
    })
}
