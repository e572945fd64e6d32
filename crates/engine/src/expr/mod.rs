//! The expression language: a bounded profile of jq.
//!
//! Parsed by jaq-core, evaluated here. An expression reads the JSON it is given and nothing else:
//! no clock, environment, files, modules or randomness. It always ends: functions cannot call
//! themselves, and every step and every byte is counted against a [`Budget`], never against time,
//! so that a replay ends the same way on any machine. `try`, `?` and `//` cannot catch a used up
//! budget.
//!
//! Differences from jq 1.8 that are on purpose: objects are always in byte order of their keys;
//! integers are 64 bit and overflow is an error, as are division by zero and results that are not
//! finite; numbers keep all their digits until calculated with; `catch` gets the code of a fault
//! (such as `expr.type`) unless `error` raised it.

mod analyse;
mod ast;
mod bind;
mod budget;
mod build;
mod builtin;
mod check;
mod compile;
mod cx;
mod error;
mod eval;
mod natives;
mod ops;
mod path;
mod scope;
mod spans;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jaq_core::load::{Lexer, Parser};

pub use analyse::RootPath;
pub use budget::Budget;
pub use check::{MAX_OPERATORS, MAX_TEXT};
pub use compile::MAX_TERMS;
pub use error::{ExprCode, ExprError};

use crate::json::Json;
use cx::{Cx, Next};
use error::{Fault, fault, fault_at};

/// The version of the language, stamped on each published definition. Results of a profile never
/// change; a change of results makes a new profile.
pub const PROFILE: &str = "mesh-jq/1";

/// A compiled expression. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Expr {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    text: Box<str>,
    term: ast::Term,
    slots: usize,
    paths: Vec<RootPath>,
    size: usize,
}

/// What reading a text takes, in the measure of [`Expr::size`].
#[must_use]
pub fn size_of_source(text: &str) -> usize {
    text.len() * 8
}

/// What a text that turned out to be no expression has taken besides, in the measure of [`Expr::size`].
#[must_use]
pub fn size_of_failure(error: &ExprError) -> usize {
    match error.code {
        ExprCode::Regex => natives::LARGEST_REGEX * natives::REGEX_UNIT,
        _ => 0,
    }
}

impl Expr {
    /// Reads and compiles an expression. Every name is resolved here; evaluation cannot meet an
    /// unknown one.
    ///
    /// # Errors
    /// With the place of the fault: a text that is no expression or not of this profile, too
    /// long ([`MAX_TEXT`]), with too many operators ([`MAX_OPERATORS`]) or terms ([`MAX_TERMS`]),
    /// or nested too deeply.
    pub fn parse(text: &str) -> Result<Expr, ExprError> {
        let inner = parse(text).map_err(|fault| error::finish(*fault, text))?;
        Ok(Expr { inner: Arc::new(inner) })
    }

    /// The text this expression was read from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// The memory its terms and regular expressions take, in bytes, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.size
    }

    /// The paths from the root that the expression reads, as far as known in advance: `.nodes.a.x
    /// + .nodes[.input.key]` reads `nodes.a.x`, `input.key` and `nodes`.
    #[must_use]
    pub fn paths(&self) -> &[RootPath] {
        &self.inner.paths
    }

    /// The only output.
    ///
    /// # Errors
    /// [`ExprCode::Empty`] without an output, [`ExprCode::Many`] with more than one,
    /// [`ExprCode::Budget`] when the budget does not suffice, and whatever the expression meets.
    pub fn eval(&self, root: &Json, budget: &mut Budget) -> Result<Json, ExprError> {
        let term = &self.inner.term;
        if term.single {
            return self.run(budget, |cx| {
                let value = term.one(cx, root)?;
                cx.check_output(&value)?;
                Ok(value)
            });
        }
        self.run(budget, |cx| {
            let mut only = None;
            term.each(cx, root, &mut |cx, value| {
                if only.is_some() {
                    let message = "expression has more than one output";
                    return Err(fault(ExprCode::Many, message));
                }
                cx.check_output(&value)?;
                only = Some(value);
                Ok(Next::More)
            })?;
            only.ok_or_else(|| fault(ExprCode::Empty, "expression has no output"))
        })
    }

    /// The only output, which must be a boolean.
    ///
    /// # Errors
    /// Those of [`Expr::eval`], and [`ExprCode::Type`] for anything but a boolean.
    pub fn eval_bool(&self, root: &Json, budget: &mut Budget) -> Result<bool, ExprError> {
        match self.eval(root, budget)? {
            Json::Bool(value) => Ok(value),
            other => {
                Err(*fault(ExprCode::Type, format!("condition is {}, not a boolean", other.type_name())))
            }
        }
    }

    /// All outputs, at most `max`.
    ///
    /// # Errors
    /// Those of [`Expr::eval`] but for [`ExprCode::Empty`]; [`ExprCode::Many`] means more than
    /// `max`. The limit of the output's size holds for all outputs together.
    pub fn eval_many(&self, root: &Json, budget: &mut Budget, max: usize) -> Result<Vec<Json>, ExprError> {
        self.run(budget, |cx| {
            let mut values = Vec::new();
            let mut size = 0;
            self.inner.term.each(cx, root, &mut |cx, value| {
                if values.len() >= max {
                    let message = format!("expression has more than {max} outputs");
                    return Err(fault(ExprCode::Many, message));
                }
                cx.check_outputs(&value, &mut size)?;
                values.push(value);
                Ok(Next::More)
            })?;
            Ok(values)
        })
    }

    fn run<T>(
        &self,
        budget: &mut Budget,
        run: impl FnOnce(&mut Cx<'_>) -> Result<T, Fault>,
    ) -> Result<T, ExprError> {
        let mut cx = Cx::new(budget, self.inner.slots);
        run(&mut cx).map_err(|fault| error::finish(*fault, &self.inner.text))
    }
}

fn parse(text: &str) -> Result<Inner, Fault> {
    check::check(text)?;
    let tokens = Lexer::new(text).lex().map_err(|errors| {
        let first = errors.into_iter().next();
        first.map_or_else(
            || syntax("malformed expression", None),
            |(expected, found)| {
                let message = format!("expected {}", expected.as_str());
                syntax(message, spans::offset(found, text))
            },
        )
    })?;
    let source = Parser::new(&tokens).parse(|parser| parser.term()).map_err(|errors| {
        let first = errors.into_iter().next();
        first.map_or_else(
            || syntax("malformed expression", None),
            |(expected, found)| {
                let at = match found {
                    Some(token) => spans::offset(token.0, text),
                    None => u32::try_from(text.len()).ok(),
                };
                syntax(format!("expected {}", expected.as_str()), at)
            },
        )
    })?;
    let mut compiler = compile::Compiler::new(text);
    let term = compiler.compile(&source, &scope::Scope::default())?;
    let (slots, size) = (compiler.slots, compiler.size());
    let paths = analyse::Analysis::run(&term, slots);
    let paths = paths.into_iter().map(|(keys, at)| RootPath {
        keys,
        offset: (at != ast::NOWHERE).then(|| error::characters(text, at as usize)),
    });
    Ok(Inner { text: text.into(), paths: paths.collect(), term, slots, size })
}

fn syntax(message: impl Into<String>, at: Option<u32>) -> Fault {
    match at {
        Some(at) => fault_at(ExprCode::Syntax, message, at as usize),
        None => fault(ExprCode::Syntax, message),
    }
}
