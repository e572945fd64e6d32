//! Operators.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use jaq_core::ops::{Cmp, Math};

use super::cx::Cx;
use super::error::{ExprCode, Fault, fault, type_fault};
use super::eval::not_finite;
use crate::json::{Json, Num};

/// `left op right`; a `left` that nobody else holds may be changed in place.
pub(super) fn math(cx: &mut Cx<'_>, op: Math, left: Json, right: &Json) -> Result<Json, Fault> {
    if let (Json::Num(a), Json::Num(b)) = (&left, right) {
        return number(op, a, b).map(Json::Num);
    }
    match (op, left, right) {
        (Math::Add, left, Json::Null) => Ok(left),
        (Math::Add, Json::Null, right) => Ok(right.clone()),
        (Math::Add, Json::Str(a), Json::Str(b)) => {
            cx.alloc_string(a.len() + b.len())?;
            Ok(Json::Str([&*a, &**b].concat().into()))
        }
        (Math::Add, Json::Arr(a), Json::Arr(b)) => append(cx, a, b),
        (Math::Add, Json::Obj(a), Json::Obj(b)) => merge(cx, a, b),
        (Math::Sub, Json::Arr(a), Json::Arr(b)) => subtract(cx, &a, b),
        (Math::Mul, Json::Str(text), Json::Num(times)) => repeat(cx, &text, times),
        (Math::Mul, Json::Num(times), Json::Str(text)) => repeat(cx, text, &times),
        (Math::Mul, Json::Obj(a), Json::Obj(b)) => merge_deep(cx, &a, b),
        (Math::Div, Json::Str(a), Json::Str(b)) => split(cx, &a, b),
        (op, left, right) => Err(type_fault(format!(
            "{} {} {} is not defined",
            left.type_name(),
            op.as_str(),
            right.type_name()
        ))),
    }
}

fn number(op: Math, a: &Num, b: &Num) -> Result<Num, Fault> {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        let exact = match op {
            Math::Add => a.checked_add(b),
            Math::Sub => a.checked_sub(b),
            Math::Mul => a.checked_mul(b),
            Math::Div if b == 0 => return Err(division_by_zero()),
            Math::Rem if b == 0 => return Err(division_by_zero()),
            // Undefined only for the smallest integer by -1, which leaves no remainder.
            Math::Rem => Some(a.wrapping_rem(b)),
            Math::Div => match a.checked_rem(b) {
                Some(0) => a.checked_div(b),
                Some(_) => return float(op, a as f64, b as f64),
                None => None,
            },
        };
        return exact.map(Num::from).ok_or_else(|| fault(ExprCode::Arithmetic, "integer overflow"));
    }
    let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) else {
        return Err(fault(ExprCode::Arithmetic, "number is too large to calculate with"));
    };
    float(op, a, b)
}

#[allow(clippy::cast_possible_truncation)]
fn float(op: Math, a: f64, b: f64) -> Result<Num, Fault> {
    let result = match op {
        Math::Add => a + b,
        Math::Sub => a - b,
        Math::Mul => a * b,
        Math::Div if b == 0.0 => return Err(division_by_zero()),
        Math::Div => a / b,
        // As in jq, the remainder is one of whole numbers.
        Math::Rem => match b as i64 {
            0 => return Err(division_by_zero()),
            b => return Ok(Num::from((a as i64).wrapping_rem(b))),
        },
    };
    Num::from_f64(result).ok_or_else(not_finite)
}

fn division_by_zero() -> Fault {
    fault(ExprCode::Arithmetic, "division by zero")
}

pub(super) fn negate(value: &Json) -> Result<Json, Fault> {
    let Json::Num(num) = value else {
        return Err(type_fault(format!("cannot negate {}", value.type_name())));
    };
    let text = num.to_string();
    let negated = match text.strip_prefix('-') {
        Some(positive) => Num::parse(positive),
        None => Num::parse(&format!("-{text}")),
    };
    negated.map(Json::Num).ok_or_else(not_finite)
}

fn append(cx: &mut Cx<'_>, mut a: Arc<Vec<Json>>, b: &Arc<Vec<Json>>) -> Result<Json, Fault> {
    cx.values(b.len())?;
    if let Some(items) = Arc::get_mut(&mut a) {
        // Twice: growing may copy.
        cx.alloc_items(b.len() * 2)?;
        items.extend_from_slice(b);
        return Ok(Json::Arr(a));
    }
    cx.values(a.len())?;
    cx.alloc_items(a.len() + b.len())?;
    Ok(Json::Arr(Arc::new([a.as_slice(), b.as_slice()].concat())))
}

type Object = BTreeMap<Arc<str>, Json>;

fn merge(cx: &mut Cx<'_>, mut a: Arc<Object>, b: &Arc<Object>) -> Result<Json, Fault> {
    cx.values(b.len() * 4)?;
    if Arc::get_mut(&mut a).is_none() {
        cx.values(a.len() * 2)?;
        cx.alloc_members(a.len())?;
    }
    cx.alloc(b.len().saturating_mul(96))?;
    Arc::make_mut(&mut a).extend(b.iter().map(|(k, v)| (Arc::clone(k), v.clone())));
    Ok(Json::Obj(a))
}

fn merge_deep(cx: &mut Cx<'_>, a: &Arc<Object>, b: &Arc<Object>) -> Result<Json, Fault> {
    cx.steps(1)?;
    cx.values((a.len() + b.len()) * 4)?;
    cx.alloc_members(a.len() + b.len())?;
    let mut merged = Object::clone(a);
    for (key, value) in b.iter() {
        let value = match (merged.get(key), value) {
            (Some(Json::Obj(a)), Json::Obj(b)) => merge_deep(cx, &Arc::clone(a), b)?,
            _ => value.clone(),
        };
        merged.insert(Arc::clone(key), value);
    }
    Ok(Json::Obj(Arc::new(merged)))
}

fn subtract(cx: &mut Cx<'_>, a: &[Json], b: &[Json]) -> Result<Json, Fault> {
    let mut kept = Vec::new();
    for item in a {
        cx.values(1 + b.len())?;
        cx.steps(u64::from(!b.is_empty()))?;
        let mut found = false;
        for other in b {
            if order(cx, item, other)?.is_eq() {
                found = true;
                break;
            }
        }
        if !found {
            kept.push(item.clone());
        }
    }
    cx.new_array(kept)
}

/// `"x" * n`: null unless it is at least one time.
fn repeat(cx: &mut Cx<'_>, text: &str, times: &Num) -> Result<Json, Fault> {
    let times = times.as_f64().map_or(f64::MAX, f64::floor);
    if times < 1.0 {
        return Ok(Json::Null);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let times = times as usize;
    cx.alloc_string(text.len().saturating_mul(times))?;
    if text.is_empty() {
        return Ok(Json::from(""));
    }
    Ok(Json::from(text.repeat(times)))
}

/// `text / separator`; an empty separator splits into characters.
pub(super) fn split(cx: &mut Cx<'_>, text: &str, separator: &str) -> Result<Json, Fault> {
    cx.scan(text.len())?;
    let mut items = Vec::new();
    let mut push = |cx: &mut Cx<'_>, piece: &str| {
        cx.values(4)?;
        let piece = cx.new_string(piece)?;
        cx.push(&mut items, piece)
    };
    if separator.is_empty() {
        for (at, c) in text.char_indices() {
            push(cx, &text[at..at + c.len_utf8()])?;
        }
    } else if !text.is_empty() {
        for piece in text.split(separator) {
            push(cx, piece)?;
        }
    }
    Ok(Json::Arr(Arc::new(items)))
}

pub(super) fn compare(cx: &mut Cx<'_>, op: Cmp, a: &Json, b: &Json) -> Result<bool, Fault> {
    let order = order(cx, a, b)?;
    Ok(match op {
        Cmp::Lt => order.is_lt(),
        Cmp::Le => order.is_le(),
        Cmp::Gt => order.is_gt(),
        Cmp::Ge => order.is_ge(),
        Cmp::Eq => order.is_eq(),
        Cmp::Ne => order.is_ne(),
    })
}

/// [`Json::cmp_jq`], paid for.
pub(super) fn order(cx: &mut Cx<'_>, a: &Json, b: &Json) -> Result<Ordering, Fault> {
    match (a, b) {
        (Json::Num(a), Json::Num(b)) => Ok(a.compare(b)),
        (Json::Str(a), Json::Str(b)) => {
            cx.scan(a.len().min(b.len()))?;
            Ok(a.cmp(b))
        }
        (Json::Arr(a), Json::Arr(b)) => {
            if Arc::ptr_eq(a, b) {
                return Ok(Ordering::Equal);
            }
            cx.steps(1)?;
            cx.values(a.len().min(b.len()))?;
            for (a, b) in a.iter().zip(b.iter()) {
                let order = order(cx, a, b)?;
                if order.is_ne() {
                    return Ok(order);
                }
            }
            Ok(a.len().cmp(&b.len()))
        }
        (Json::Obj(a), Json::Obj(b)) => {
            if Arc::ptr_eq(a, b) {
                return Ok(Ordering::Equal);
            }
            cx.steps(1)?;
            cx.values(a.len().min(b.len()) * 2)?;
            let keys = a.keys().cmp(b.keys());
            if keys.is_ne() {
                return Ok(keys);
            }
            for (a, b) in a.values().zip(b.values()) {
                let order = order(cx, a, b)?;
                if order.is_ne() {
                    return Ok(order);
                }
            }
            Ok(Ordering::Equal)
        }
        _ => Ok(a.type_rank().cmp(&b.type_rank())),
    }
}
