//! What an expression is once its names are resolved.
//!
//! Functions are expanded where they are called (none may call itself), so that there are neither
//! calls nor closures left: a tree whose variables live in numbered slots.

use std::sync::Arc;

use jaq_core::ops::{Cmp, Math};
use regex::Regex;

use super::natives::{Flags, Format, Native, Special};
use crate::json::Json;

/// Byte offset of terms without a place of their own.
pub(super) const NOWHERE: u32 = u32::MAX;

/// A resolved term: a function from an input to outputs.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub kind: Kind,
    /// Whether it always gives exactly one output (or an error).
    pub single: bool,
    /// Byte offset in the text, or [`NOWHERE`].
    pub at: u32,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// `.`
    Id,
    /// A literal
    Const(Json),
    /// `$x`
    Var(usize),
    /// `.a.b.c`: constant keys from the input
    Fields(Box<[Arc<str>]>),
    /// Any other path
    Path(Box<Term>, Box<[Part]>),
    /// `..`
    Recurse,
    /// A string with interpolations
    Text(Format, Box<[TextPart]>),
    /// `[f]`
    Array(Option<Box<Term>>),
    /// `{k: v}`
    Object(Box<[(Term, Term)]>),
    /// `-f`
    Neg(Box<Term>),
    /// `f | g | …`
    Pipe(Box<[Term]>),
    /// `f, g, …`
    Comma(Box<[Term]>),
    /// `f as $x | g`
    Bind(Box<Bind>),
    /// `f // g`
    Alt(Box<(Term, Term)>),
    /// `f and g`
    And(Box<(Term, Term)>),
    /// `f or g`
    Or(Box<(Term, Term)>),
    /// `f + g - …`, left to right
    Math(Box<Term>, Box<[(Math, Term)]>),
    /// `f < g`
    Cmp(Cmp, Box<(Term, Term)>),
    /// `if f then g elif … else h end`
    If(Box<[(Term, Term)]>, Option<Box<Term>>),
    /// `try f catch g`
    Try(Box<Term>, Option<Box<Term>>),
    /// `reduce`
    Reduce(Box<Fold>),
    /// `foreach`
    Foreach(Box<Fold>),
    /// A built-in function of values
    Native(&'static Native, Box<[Term]>),
    /// A built-in function of terms
    Special(Special, Box<[Term]>),
    /// A regular expression compiled in advance, then a built-in function that uses it
    Regex(Special, Box<(Arc<Regex>, Flags)>, Box<[Term]>),
    /// `del` of static paths
    Del(Box<[Box<[Part]>]>),
}

#[derive(Clone, Debug)]
pub(super) struct Bind {
    pub source: Term,
    pub pattern: Pattern,
    pub body: Term,
}

#[derive(Clone, Debug)]
pub(super) struct Fold {
    pub source: Term,
    pub pattern: Pattern,
    pub init: Term,
    pub update: Term,
    /// Only `foreach`
    pub extract: Option<Term>,
}

#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Var(usize),
    Array(Box<[Pattern]>),
    /// Keys are terms over the value that is taken apart
    Object(Box<[(Term, Pattern)]>),
}

/// One step of a path.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// `.key`
    Key(Arc<str>),
    /// `[f]`
    Index(Term),
    /// `[]`
    Iterate,
    /// `[f:g]`
    Slice(Option<Term>, Option<Term>),
}

#[derive(Clone, Debug)]
pub(super) enum TextPart {
    Text(Arc<str>),
    Term(Term),
}

impl Term {
    /// The literal `null`.
    pub fn null() -> Term {
        Term::literal(Json::Null)
    }

    /// A literal.
    pub fn literal(value: Json) -> Term {
        Term { kind: Kind::Const(value), single: true, at: NOWHERE }
    }
}
