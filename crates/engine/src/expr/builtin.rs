//! Calls of built-in functions.

use std::sync::Arc;

use jaq_core::load::parse::{BinaryOp, Term as JaqTerm};

use super::ast::{Kind, Part, Term};
use super::compile::{Compiled, Compiler, Source};
use super::error::{ExprCode, Fault};
use super::natives::{self, Flags, Shape, Special};
use super::scope::Scope;
use crate::json::Json;

/// Most regular expressions given as literals, in one expression.
const MAX_REGEXES: usize = 16;
/// What they may count for together, in units: two of the largest, or sixteen of the next size.
const MAX_REGEX_UNITS: usize = 2 * natives::LARGEST_REGEX;

/// Compiles a call of a built-in function.
pub(super) fn call<'t>(
    c: &mut Compiler<'t>,
    name: &'t str,
    args: &'t [Source<'t>],
    scope: &Scope<'t>,
) -> Compiled {
    if let Some(term) = derived(c, name, args, scope)? {
        return Ok(term);
    }
    if let Some((special, shape)) = Special::lookup(name, args.len()) {
        let args = compile_args(c, args, scope)?;
        return special_call(c, special, shape, args);
    }
    if let Some(native) = natives::lookup(name, args.len()) {
        let args = compile_args(c, args, scope)?;
        let single = args.iter().all(|arg| arg.single);
        return c.term(Kind::Native(native, args.into()), single);
    }
    unknown(c, name, args.len())
}

fn unknown<T>(c: &Compiler<'_>, name: &str, arity: usize) -> Result<T, Fault> {
    let mut arities = natives::arities(name);
    arities.extend(DERIVED.iter().filter(|(known, _)| *known == name).map(|(_, n)| *n));
    if !arities.is_empty() {
        let known: Vec<String> = arities.iter().map(ToString::to_string).collect();
        let message = format!("{name} takes {} arguments, not {arity}", known.join(" or "));
        return c.fail(ExprCode::UnknownName, message);
    }
    if natives::is_left_out(name) {
        return c.fail(ExprCode::Unsupported, format!("{name} is not supported"));
    }
    c.fail(ExprCode::UnknownName, format!("function {name} is not defined"))
}

fn compile_args<'t>(
    c: &mut Compiler<'t>,
    args: &'t [Source<'t>],
    scope: &Scope<'t>,
) -> Result<Vec<Term>, Fault> {
    args.iter().map(|arg| c.compile(arg, scope)).collect()
}

/// Functions that are nothing but other terms.
pub(super) const DERIVED: &[(&str, usize)] = &[
    ("arrays", 0),
    ("booleans", 0),
    ("del", 1),
    ("iterables", 0),
    ("map", 1),
    ("nth", 1),
    ("nulls", 0),
    ("numbers", 0),
    ("objects", 0),
    ("scalars", 0),
    ("select", 1),
    ("strings", 0),
    ("values", 0),
    ("with_entries", 1),
    ("false", 0),
    ("null", 0),
    ("true", 0),
];

fn derived<'t>(
    c: &mut Compiler<'t>,
    name: &str,
    args: &'t [Source<'t>],
    scope: &Scope<'t>,
) -> Result<Option<Term>, Fault> {
    Ok(Some(match (name, args) {
        ("null", []) => c.term(Kind::Const(Json::Null), true)?,
        ("true", []) => c.term(Kind::Const(Json::Bool(true)), true)?,
        ("false", []) => c.term(Kind::Const(Json::Bool(false)), true)?,
        ("map", [f]) => {
            let f = c.compile(f, scope)?;
            map(c, f)?
        }
        ("select", [f]) => {
            let condition = c.compile(f, scope)?;
            select(c, condition)?
        }
        ("values", []) => select_type(c, &["null"], false)?,
        ("nulls", []) => select_type(c, &["null"], true)?,
        ("booleans", []) => select_type(c, &["boolean"], true)?,
        ("numbers", []) => select_type(c, &["number"], true)?,
        ("strings", []) => select_type(c, &["string"], true)?,
        ("arrays", []) => select_type(c, &["array"], true)?,
        ("objects", []) => select_type(c, &["object"], true)?,
        ("iterables", []) => select_type(c, &["array", "object"], true)?,
        ("scalars", []) => select_type(c, &["array", "object"], false)?,
        ("with_entries", [f]) => {
            let f = c.compile(f, scope)?;
            let to = native(c, "to_entries", Vec::new())?;
            let map = map(c, f)?;
            let from = native(c, "from_entries", Vec::new())?;
            c.pipe_of(vec![to, map, from])?
        }
        ("nth", [index]) => {
            let index = c.compile(index, scope)?;
            let id = c.term(Kind::Id, true)?;
            c.index(id, index)?
        }
        ("del", [paths]) => del(c, paths, scope)?,
        _ => return Ok(None),
    }))
}

fn native(c: &mut Compiler<'_>, name: &str, args: Vec<Term>) -> Compiled {
    match natives::lookup(name, args.len()) {
        Some(native) => c.term(Kind::Native(native, args.into()), true),
        None => unknown(c, name, args.len()),
    }
}

/// `[.[] | f]`
fn map(c: &mut Compiler<'_>, f: Term) -> Compiled {
    let id = c.term(Kind::Id, true)?;
    let items = c.path_of(id, vec![Part::Iterate])?;
    let mapped = c.pipe_of(vec![items, f])?;
    c.term(Kind::Array(Some(Box::new(mapped))), true)
}

/// `if f then . else empty end`
fn select(c: &mut Compiler<'_>, condition: Term) -> Compiled {
    let id = c.term(Kind::Id, true)?;
    let empty = c.term(Kind::Special(Special::Empty, [].into()), false)?;
    let branches = [(condition, id)].into();
    c.term(Kind::If(branches, Some(Box::new(empty))), false)
}

/// Selects values whose type is (or is not) one of these.
fn select_type(c: &mut Compiler<'_>, types: &[&str], wanted: bool) -> Compiled {
    let kind = native(c, "type", Vec::new())?;
    let types = types.iter().map(|name| (*name, true));
    let types = c.term(Kind::Const(Json::object(types)), true)?;
    let mut condition = native(c, "in", vec![types])?;
    if !wanted {
        let not = native(c, "not", Vec::new())?;
        condition = c.pipe_of(vec![condition, not])?;
    }
    let condition = c.pipe_of(vec![kind, condition])?;
    select(c, condition)
}

fn special_call(c: &mut Compiler<'_>, special: Special, shape: Shape, mut args: Vec<Term>) -> Compiled {
    match shape {
        Shape::Plain => {}
        Shape::Range => {
            if args.len() == 1 {
                args.insert(0, Term::literal(Json::from(0)));
            }
            if args.len() == 2 {
                args.push(Term::literal(Json::from(1)));
            }
        }
        Shape::OverChildren => {
            let id = c.term(Kind::Id, true)?;
            let items = c.path_of(id, vec![Part::Iterate])?;
            args.insert(0, items);
        }
        Shape::Regex | Shape::Replace => {
            let flags_at = if shape == Shape::Regex { 1 } else { 2 };
            if args.len() == flags_at {
                args.push(Term::null());
            }
            if shape == Shape::Replace {
                // Pattern, flags, replacement.
                args.swap(1, 2);
            }
            return regex_call(c, special, args);
        }
    }
    let single = special.is_single(&args);
    c.term(Kind::Special(special, args.into()), single)
}

/// Compiles patterns that are literals right away.
fn regex_call(c: &mut Compiler<'_>, special: Special, mut args: Vec<Term>) -> Compiled {
    let (pattern, flags) = match &args[..] {
        [Term { kind: Kind::Const(pattern), .. }, Term { kind: Kind::Const(flags), .. }, ..] => {
            match (pattern, flags) {
                (Json::Str(pattern), flags) => (pattern, flags),
                _ => return c.fail(ExprCode::Type, "regular expression is not a string"),
            }
        }
        _ => {
            let single = special.is_single(&args);
            return c.term(Kind::Special(special, args.into()), single);
        }
    };
    let place = args[0].at as usize;
    let at = |mut fault: Fault| {
        fault.offset = Some(place);
        fault
    };
    let flags = Flags::parse(flags).map_err(at)?;
    let (regex, units) = natives::compile_regex(pattern, flags).map_err(at)?;
    c.regexes = (c.regexes.0 + 1, c.regexes.1 + units);
    if c.regexes.0 > MAX_REGEXES {
        let message = format!("expression has more than {MAX_REGEXES} regular expressions");
        return c.fail(ExprCode::TooComplex, message);
    }
    if c.regexes.1 > MAX_REGEX_UNITS {
        return c.fail(ExprCode::TooComplex, "regular expressions are too large together");
    }
    args.drain(..2);
    let single = special.is_single(&args);
    let regex = Box::new((Arc::new(regex), flags));
    c.term(Kind::Regex(special, regex, args.into()), single)
}

/// `del` with constant keys, several paths separated by commas.
fn del<'t>(c: &mut Compiler<'t>, source: &'t Source<'t>, scope: &Scope<'t>) -> Compiled {
    let mut paths = Vec::new();
    let mut rest = source;
    while let JaqTerm::BinOp(left, BinaryOp::Comma, right) = rest {
        del_path(c, right, scope, &mut paths)?;
        rest = left;
    }
    del_path(c, rest, scope, &mut paths)?;
    c.term(Kind::Del(paths.into()), true)
}

/// Adds the paths of one argument: more than one for `.[0, 1]`.
fn del_path<'t>(
    c: &mut Compiler<'t>,
    source: &'t Source<'t>,
    scope: &Scope<'t>,
    paths: &mut Vec<Box<[Part]>>,
) -> Result<(), Fault> {
    let mut at_end = Vec::new();
    let mut parts = Vec::new();
    if let JaqTerm::Path(head, path) = source
        && let JaqTerm::Id = **head
    {
        for (part, _) in &path.0 {
            if !at_end.is_empty() {
                return not_static(c);
            }
            match c.part(part, scope)? {
                Part::Index(Term { kind: Kind::Comma(keys), .. }) => {
                    for key in keys {
                        at_end.push(static_part(c, key)?);
                    }
                }
                Part::Index(key) => parts.push(static_part(c, key)?),
                part @ Part::Slice(..) => {
                    let is_const =
                        |bound: &Option<Term>| bound.as_ref().is_none_or(|term| constant(term).is_some());
                    match &part {
                        Part::Slice(from, to) if is_const(from) && is_const(to) => {
                            at_end.push(part);
                        }
                        _ => return not_static(c),
                    }
                }
                part => parts.push(part),
            }
        }
    }
    match (parts.is_empty(), at_end.is_empty()) {
        (true, true) => return not_static(c),
        (false, true) => paths.push(parts.into()),
        (_, false) => {
            for last in at_end {
                paths.push(parts.iter().cloned().chain([last]).collect());
            }
        }
    }
    Ok(())
}

fn not_static<T>(c: &Compiler<'_>) -> Result<T, Fault> {
    let message = "del takes paths with constant keys; use map, select or with_entries";
    c.fail(ExprCode::Unsupported, message)
}

/// The value of a constant, also of a negated number.
fn constant(term: &Term) -> Option<Json> {
    match &term.kind {
        Kind::Const(value) => Some(value.clone()),
        Kind::Neg(inner) => match &inner.kind {
            Kind::Const(value) => super::ops::negate(value).ok(),
            _ => None,
        },
        _ => None,
    }
}

fn static_part(c: &Compiler<'_>, key: Term) -> Result<Part, Fault> {
    match constant(&key) {
        Some(Json::Str(key)) => Ok(Part::Key(key)),
        Some(num @ Json::Num(_)) => Ok(Part::Index(Term::literal(num))),
        _ => not_static(c),
    }
}
