//! Which parts of the root an expression reads, as far as that is known in advance.

use std::sync::Arc;

use super::ast::{Kind, NOWHERE, Part, Pattern, Term, TextPart};
use super::natives::Special;

/// A path from the root that an expression reads, such as `nodes`, `charge`, `output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPath {
    /// The constant keys, from the root on; empty when the whole root is used.
    pub keys: Vec<Arc<str>>,
    /// Where in the text, in characters from its start (0-based).
    pub offset: Option<usize>,
}

/// What is known of a value: the keys that lead to it from the root.
type Known = Option<Vec<Arc<str>>>;

pub(super) struct Analysis {
    /// What variables hold.
    slots: Vec<Known>,
    /// Paths, with the byte offsets of the terms that read them.
    pub found: Vec<(Vec<Arc<str>>, u32)>,
}

impl Analysis {
    pub fn run(term: &Term, slots: usize) -> Vec<(Vec<Arc<str>>, u32)> {
        let mut analysis = Analysis { slots: vec![None; slots], found: Vec::new() };
        let result = analysis.visit(term, &Some(Vec::new()));
        analysis.read(result, term.at);
        analysis.found
    }

    /// Notes that a value is read.
    fn read(&mut self, value: Known, at: u32) {
        if let Some(keys) = value
            && !self.found.iter().any(|(known, _)| *known == keys)
        {
            self.found.push((keys, at));
        }
    }

    /// Visits a term whose value is used in a way that is not followed.
    fn used(&mut self, term: &Term, input: &Known) {
        let value = self.visit(term, input);
        self.read(value, term.at);
    }

    /// Visits a term; says what is known of its output. Whatever is not handed on is noted.
    fn visit(&mut self, term: &Term, input: &Known) -> Known {
        match &term.kind {
            Kind::Id => return input.clone(),
            Kind::Const(_) | Kind::Array(None) => {}
            Kind::Var(slot) => return self.slots.get(*slot).cloned().flatten(),
            Kind::Fields(keys) => return extend(input.clone(), keys.iter().cloned()),
            Kind::Path(head, parts) => return self.path(head, parts, input, term.at),
            Kind::Pipe(terms) => {
                let mut value = input.clone();
                for term in terms {
                    value = self.visit(term, &value);
                }
                return value;
            }
            Kind::Bind(bind) => {
                let source = self.visit(&bind.source, input);
                self.pattern(&bind.pattern, source, bind.source.at);
                return self.visit(&bind.body, input);
            }
            Kind::Alt(sides) => {
                self.used(&sides.0, input);
                self.used(&sides.1, input);
            }
            Kind::And(sides) | Kind::Or(sides) | Kind::Cmp(_, sides) => {
                self.used(&sides.0, input);
                self.used(&sides.1, input);
            }
            Kind::Recurse => self.read(input.clone(), term.at),
            Kind::Text(_, parts) => {
                for part in parts {
                    if let TextPart::Term(term) = part {
                        self.used(term, input);
                    }
                }
            }
            Kind::Array(Some(inner)) | Kind::Neg(inner) => self.used(inner, input),
            Kind::Object(members) => {
                for (key, value) in members {
                    self.used(key, input);
                    self.used(value, input);
                }
            }
            Kind::Comma(terms) => {
                for term in terms {
                    self.used(term, input);
                }
            }
            Kind::Math(first, rest) => {
                self.used(first, input);
                for (_, term) in rest {
                    self.used(term, input);
                }
            }
            Kind::If(branches, otherwise) => {
                for (condition, then) in branches {
                    self.used(condition, input);
                    self.used(then, input);
                }
                match otherwise {
                    Some(otherwise) => self.used(otherwise, input),
                    None => self.read(input.clone(), term.at),
                }
            }
            Kind::Try(body, handler) => {
                if let Some(handler) = handler {
                    self.used(handler, &None);
                }
                return self.visit(body, input);
            }
            Kind::Reduce(fold) | Kind::Foreach(fold) => {
                let source = self.visit(&fold.source, input);
                self.pattern(&fold.pattern, source, fold.source.at);
                self.used(&fold.init, input);
                self.used(&fold.update, &None);
                if let Some(extract) = &fold.extract {
                    self.used(extract, &None);
                }
            }
            Kind::Native(_, args) => {
                self.read(input.clone(), term.at);
                for arg in args {
                    self.used(arg, input);
                }
            }
            Kind::Special(special, args) => self.special(*special, args, input, term.at),
            Kind::Regex(_, _, replacement) => {
                self.read(input.clone(), term.at);
                for term in replacement {
                    self.used(term, &None);
                }
            }
            Kind::Del(_) => self.read(input.clone(), term.at),
        }
        None
    }

    fn special(&mut self, special: Special, args: &[Term], input: &Known, at: u32) {
        // How many arguments run on the input; the others run on something else.
        let on_input = match special {
            Special::Any | Special::All => 1,
            Special::Empty
            | Special::Range
            | Special::First
            | Special::Last
            | Special::Limit
            | Special::Nth
            | Special::IsEmpty
            | Special::Add => args.len(),
            Special::SortBy
            | Special::GroupBy
            | Special::UniqueBy
            | Special::MinBy
            | Special::MaxBy
            | Special::MapValues
            | Special::Walk => {
                self.read(input.clone(), at);
                0
            }
            // Pattern and flags; then a replacement.
            _ => {
                self.read(input.clone(), at);
                2
            }
        };
        for (index, arg) in args.iter().enumerate() {
            self.used(arg, if index < on_input { input } else { &None });
        }
    }

    fn path(&mut self, head: &Term, parts: &[Part], input: &Known, at: u32) -> Known {
        let mut value = self.visit(head, input);
        for part in parts {
            match part {
                Part::Key(key) => value = extend(value, [Arc::clone(key)]),
                Part::Iterate => {
                    self.read(value.take(), at);
                }
                Part::Index(key) => {
                    self.used(key, input);
                    self.read(value.take(), at);
                }
                Part::Slice(from, to) => {
                    for bound in [from, to].into_iter().flatten() {
                        self.used(bound, input);
                    }
                    self.read(value.take(), at);
                }
            }
        }
        value
    }

    fn pattern(&mut self, pattern: &Pattern, value: Known, at: u32) {
        match pattern {
            Pattern::Var(slot) => {
                if let Some(known) = self.slots.get_mut(*slot) {
                    *known = value;
                }
            }
            Pattern::Array(patterns) => {
                self.read(value, at);
                for pattern in patterns {
                    self.pattern(pattern, None, NOWHERE);
                }
            }
            Pattern::Object(members) => {
                for (key, pattern) in members {
                    let inner = match &key.kind {
                        Kind::Const(crate::json::Json::Str(key)) => extend(value.clone(), [Arc::clone(key)]),
                        _ => {
                            self.used(key, &value);
                            self.read(value.clone(), at);
                            None
                        }
                    };
                    self.pattern(pattern, inner, at);
                }
            }
        }
    }
}

fn extend(value: Known, keys: impl IntoIterator<Item = Arc<str>>) -> Known {
    value.map(|mut known| {
        known.extend(keys);
        known
    })
}
