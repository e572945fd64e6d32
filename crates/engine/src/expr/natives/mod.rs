//! Built-in functions. Only what is listed here exists; nothing is loaded from anywhere.

mod arrays;
mod core;
mod format;
mod regex;
mod special;
mod strings;
mod time;

pub(super) use arrays::array_indices;
pub(super) use core::parse_number;
pub(super) use format::Format;
pub(super) use regex::{Flags, LARGEST as LARGEST_REGEX, UNIT as REGEX_UNIT, compile as compile_regex};
pub(super) use special::{Shape, Special, special};

use super::ast::Term;
use super::cx::{Cx, Flow, Out};
use super::error::Fault;
use crate::json::Json;

/// The body of a built-in function: input and arguments to one output.
pub(super) type Run = fn(&mut Cx<'_>, &Json, &[Json]) -> Result<Json, Fault>;

/// A built-in function of values.
pub(super) struct Native {
    pub name: &'static str,
    pub arity: usize,
    pub run: Run,
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.arity)
    }
}

const fn native(name: &'static str, arity: usize, run: Run) -> Native {
    Native { name, arity, run }
}

/// All functions of values, by theme.
fn tables() -> [&'static [Native]; 5] {
    [core::TABLE, arrays::TABLE, strings::TABLE, format::TABLE, time::TABLE]
}

/// Finds a function of values.
pub(super) fn lookup(name: &str, arity: usize) -> Option<&'static Native> {
    let mut all = tables().into_iter().flatten();
    all.find(|native| native.arity == arity && native.name == name)
}

/// The numbers of arguments under which a name exists.
pub(super) fn arities(name: &str) -> Vec<usize> {
    let natives = tables().into_iter().flatten();
    let mut arities: Vec<usize> = natives
        .filter(|native| native.name == name)
        .map(|native| native.arity)
        .chain((0..4).filter(|arity| Special::lookup(name, *arity).is_some()))
        .collect();
    arities.sort_unstable();
    arities.dedup();
    arities
}

/// Names of jq that the profile leaves out on purpose.
pub(super) fn is_left_out(name: &str) -> bool {
    #[rustfmt::skip]
    const LEFT_OUT: &[&str] = &[
        "$ENV", "$__loc__", "$__prog_args", "acos", "acosh", "asin", "asinh", "atan", "atan2",
        "atanh", "builtins", "cbrt", "combinations", "cos", "cosh", "debug", "delpaths", "env",
        "exp", "exp10", "exp2", "fromstream", "get_search_list", "getpath", "halt", "halt_error",
        "infinite", "input", "input_filename", "input_line_number", "inputs", "isinfinite",
        "isnan", "isnormal", "leaf_paths", "localtime", "log", "log10", "log2", "modulemeta",
        "nan", "now", "path", "paths", "pick", "pow", "recurse", "recurse_down", "repeat",
        "setpath", "significand", "sin", "sinh", "sqrt", "stderr", "strflocaltime", "tan", "tanh",
        "tostream", "truncate_stream", "until", "while",
    ];
    LEFT_OUT.contains(&name)
}

/// Calls a function whose arguments have one output each.
pub(super) fn call_one(
    native: &'static Native,
    args: &[Term],
    cx: &mut Cx<'_>,
    input: &Json,
) -> Result<Json, Fault> {
    match args {
        [] => (native.run)(cx, input, &[]),
        [arg] => {
            let arg = arg.one(cx, input)?;
            (native.run)(cx, input, &[arg])
        }
        args => {
            let mut values = Vec::with_capacity(args.len());
            for arg in args {
                values.push(arg.one(cx, input)?);
            }
            (native.run)(cx, input, &values)
        }
    }
}

/// Calls a function for all combinations of its arguments; the first is the outer loop.
pub(super) fn call_each(
    native: &'static Native,
    args: &[Term],
    values: &mut Vec<Json>,
    cx: &mut Cx<'_>,
    input: &Json,
    out: Out<'_>,
) -> Flow {
    let Some((first, rest)) = args.split_first() else {
        let value = (native.run)(cx, input, values)?;
        return out(cx, value);
    };
    cx.enter()?;
    let flow = first.each(cx, input, &mut |cx, value| {
        values.push(value);
        let flow = call_each(native, rest, values, cx, input, out);
        values.pop();
        flow
    });
    cx.leave();
    flow
}

#[cfg(test)]
pub(super) fn names() -> Vec<(&'static str, usize)> {
    let natives = tables().into_iter().flatten();
    natives.map(|native| (native.name, native.arity)).collect()
}
