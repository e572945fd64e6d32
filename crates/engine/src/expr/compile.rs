//! From the parser's terms to resolved ones: names become slots or built-ins, functions are
//! expanded where they are called.

use std::rc::Rc;
use std::sync::Arc;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern as JaqPattern, Term as JaqTerm};
use jaq_core::path::{Opt, Part as JaqPart};

use super::ast::{Bind, Fold, Kind, NOWHERE, Part, Pattern, Term, TextPart};
use super::error::{ExprCode, Fault, fault_at};
use super::natives::{self, Format};
use super::scope::{Active, Binding, Scope};
use super::{builtin, spans};
use crate::json::Json;

/// Most terms of an expression, once its functions are expanded.
pub const MAX_TERMS: usize = 2_000;
/// Deepest nesting of terms, once functions are expanded.
const MAX_DEPTH: usize = 120;

pub(super) type Source<'t> = JaqTerm<&'t str>;

/// Compiles one expression.
pub(super) struct Compiler<'t> {
    pub text: &'t str,
    terms: usize,
    depth: usize,
    /// Place of the innermost term that has one.
    at: u32,
    pub slots: usize,
    /// Definitions whose bodies are known to be sound.
    checked: Vec<*const Def<&'t str, Source<'t>>>,
    /// How many regular expressions are given as literals, and what they take in units of [`natives::REGEX_UNIT`].
    pub regexes: (usize, usize),
}

pub(super) type Compiled = Result<Term, Fault>;

impl<'t> Compiler<'t> {
    pub fn new(text: &'t str) -> Compiler<'t> {
        Compiler { text, terms: 0, depth: 0, at: NOWHERE, slots: 0, checked: Vec::new(), regexes: (0, 0) }
    }

    /// The memory of what has been compiled, in bytes, roughly. Terms count twice: for the boxes around them, and for
    /// those that expanding functions made and threw away.
    pub fn size(&self) -> usize {
        self.terms * 2 * size_of::<Term>() + self.regexes.1 * natives::REGEX_UNIT
    }

    pub fn fail<T>(&self, code: ExprCode, message: impl Into<String>) -> Result<T, Fault> {
        let at = if self.at == NOWHERE { 0 } else { self.at };
        Err(fault_at(code, message, at as usize))
    }

    /// Makes a term and counts it.
    pub fn term(&mut self, kind: Kind, single: bool) -> Compiled {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            let message = format!("expression has more than {MAX_TERMS} terms");
            return self.fail(ExprCode::TooComplex, message);
        }
        Ok(Term { kind, single, at: self.at })
    }

    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// Compiles a term.
    pub fn compile(&mut self, source: &'t Source<'t>, scope: &Scope<'t>) -> Compiled {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = "expression is nested too deeply once its functions are expanded";
            return self.fail(ExprCode::TooComplex, message);
        }
        let outer = self.at;
        if let Some(at) = spans::first(source, self.text) {
            self.at = at;
        }
        let term = self.dispatch(source, scope);
        self.at = outer;
        self.depth -= 1;
        term
    }

    fn boxed(&mut self, source: &'t Source<'t>, scope: &Scope<'t>) -> Result<Box<Term>, Fault> {
        self.compile(source, scope).map(Box::new)
    }

    fn dispatch(&mut self, source: &'t Source<'t>, scope: &Scope<'t>) -> Compiled {
        match source {
            JaqTerm::Id => self.term(Kind::Id, true),
            JaqTerm::Recurse => self.term(Kind::Recurse, false),
            JaqTerm::Num(digits) => match natives::parse_number(digits) {
                Some(num) => self.term(Kind::Const(Json::Num(num)), true),
                None => self.fail(ExprCode::Syntax, "number is out of range"),
            },
            JaqTerm::Str(format, parts) => self.text(*format, parts, scope),
            JaqTerm::Arr(None) => self.term(Kind::Array(None), true),
            JaqTerm::Arr(Some(items)) => {
                let items = self.boxed(items, scope)?;
                self.term(Kind::Array(Some(items)), true)
            }
            JaqTerm::Obj(members) => self.object(members, scope),
            JaqTerm::Neg(inner) => {
                let inner = self.boxed(inner, scope)?;
                let single = inner.single;
                self.term(Kind::Neg(inner), single)
            }
            JaqTerm::BinOp(left, op, right) => self.binary(source, (left, op, right), scope),
            JaqTerm::Label(..) | JaqTerm::Break(_) => {
                self.fail(ExprCode::Unsupported, "labels are not supported")
            }
            JaqTerm::Fold(name, source, pattern, args) => self.fold(name, source, pattern, args, scope),
            JaqTerm::TryCatch(body, handler) => {
                let body = self.boxed(body, scope)?;
                let handler = match handler {
                    Some(handler) => Some(self.boxed(handler, scope)?),
                    None => None,
                };
                self.term(Kind::Try(body, handler), false)
            }
            JaqTerm::IfThenElse(branches, otherwise) => {
                self.conditional(branches, otherwise.as_deref(), scope)
            }
            JaqTerm::Def(defs, body) => self.definitions(defs, body, scope),
            JaqTerm::Call(name, args) => self.call(name, args, scope),
            JaqTerm::Var(name) => self.variable(name, scope),
            JaqTerm::Path(head, path) => self.path(head, &path.0, scope),
        }
    }

    fn text(
        &mut self,
        format: Option<&'t str>,
        parts: &'t [StrPart<&'t str, Source<'t>>],
        scope: &Scope<'t>,
    ) -> Compiled {
        let format = match format {
            None => Format::Text,
            Some(name) => match Format::lookup(name) {
                Some(format) => format,
                None => {
                    let message = format!("{name} is not defined");
                    return self.fail(ExprCode::UnknownName, message);
                }
            },
        };
        let mut texts = Vec::new();
        let mut literal = String::new();
        for part in parts {
            match part {
                StrPart::Str(text) => literal.push_str(text),
                StrPart::Char('\0') => {
                    let message = "a string cannot contain the character U+0000";
                    return self.fail(ExprCode::Syntax, message);
                }
                StrPart::Char(c) => literal.push(*c),
                StrPart::Term(term) => {
                    if !literal.is_empty() {
                        texts.push(TextPart::Text(std::mem::take(&mut literal).into()));
                    }
                    texts.push(TextPart::Term(self.compile(term, scope)?));
                }
            }
        }
        if literal.contains('\0') {
            let message = "a string cannot contain the character U+0000";
            return self.fail(ExprCode::Syntax, message);
        }
        if texts.is_empty() {
            return self.term(Kind::Const(Json::from(literal)), true);
        }
        if !literal.is_empty() {
            texts.push(TextPart::Text(literal.into()));
        }
        let single = texts.iter().all(|part| match part {
            TextPart::Text(_) => true,
            TextPart::Term(term) => term.single,
        });
        self.term(Kind::Text(format, texts.into()), single)
    }

    fn object(&mut self, members: &'t [(Source<'t>, Option<Source<'t>>)], scope: &Scope<'t>) -> Compiled {
        let mut compiled = Vec::new();
        for (key, value) in members {
            let pair = match (key, value) {
                // `{$x}` is `{x: $x}`
                (JaqTerm::Var(name), None) => {
                    let value = self.compile(key, scope)?;
                    let name = name.trim_start_matches('$');
                    (self.term(Kind::Const(Json::from(name)), true)?, value)
                }
                // `{a}` is `{a: .a}`
                (key, None) => {
                    let key = self.compile(key, scope)?;
                    let id = self.term(Kind::Id, true)?;
                    let value = self.index(id, key.clone())?;
                    (key, value)
                }
                (key, Some(value)) => (self.compile(key, scope)?, self.compile(value, scope)?),
            };
            if let Kind::Const(key) = &pair.0.kind
                && key.as_str().is_none()
            {
                return self.fail(ExprCode::Type, "object keys are strings");
            }
            compiled.push(pair);
        }
        let single = compiled.iter().all(|(key, value)| key.single && value.single);
        self.term(Kind::Object(compiled.into()), single)
    }

    /// `head[key]`
    pub fn index(&mut self, head: Term, key: Term) -> Compiled {
        let single = head.single && key.single;
        if let (Kind::Id, Kind::Const(Json::Str(key))) = (&head.kind, &key.kind) {
            return self.term(Kind::Fields([Arc::clone(key)].into()), true);
        }
        let part = match key.kind {
            Kind::Const(Json::Str(key)) => Part::Key(key),
            _ => Part::Index(key),
        };
        self.term(Kind::Path(Box::new(head), [part].into()), single)
    }

    fn binary(
        &mut self,
        source: &'t Source<'t>,
        (left, op, right): (&'t Source<'t>, &'t BinaryOp<&'t str>, &'t Source<'t>),
        scope: &Scope<'t>,
    ) -> Compiled {
        match op {
            BinaryOp::Pipe(None) => self.pipe(source, scope),
            BinaryOp::Pipe(Some(pattern)) => {
                let source = self.compile(left, scope)?;
                let (pattern, scope) = self.pattern(pattern, scope)?;
                let body = self.compile(right, &scope)?;
                self.bind(source, pattern, body)
            }
            BinaryOp::Comma => self.comma(source, scope),
            BinaryOp::Math(_) => self.math(source, scope),
            BinaryOp::Alt | BinaryOp::Or | BinaryOp::And | BinaryOp::Cmp(_) => {
                let left = self.compile(left, scope)?;
                let right = self.compile(right, scope)?;
                let single = left.single && right.single;
                let sides = Box::new((left, right));
                let kind = match op {
                    BinaryOp::Alt => Kind::Alt(sides),
                    BinaryOp::Or => Kind::Or(sides),
                    BinaryOp::Cmp(op) => Kind::Cmp(*op, sides),
                    _ => Kind::And(sides),
                };
                self.term(kind, single)
            }
            BinaryOp::Assign | BinaryOp::Update | BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt => {
                self.fail(ExprCode::Unsupported, "assignment is not supported")
            }
        }
    }

    pub fn bind(&mut self, source: Term, pattern: Pattern, body: Term) -> Compiled {
        let single = source.single && body.single && pattern_is_single(&pattern);
        let bind = Bind { source, pattern, body };
        self.term(Kind::Bind(Box::new(bind)), single)
    }

    /// A chain `a | b | c`, which leans to the right.
    fn pipe(&mut self, source: &'t Source<'t>, scope: &Scope<'t>) -> Compiled {
        let mut terms = Vec::new();
        let mut rest = source;
        while let JaqTerm::BinOp(left, BinaryOp::Pipe(None), right) = rest {
            terms.push(self.compile(left, scope)?);
            rest = right;
        }
        terms.push(self.compile(rest, scope)?);
        self.pipe_of(terms)
    }

    pub fn pipe_of(&mut self, terms: Vec<Term>) -> Compiled {
        let single = terms.iter().all(|term| term.single);
        self.term(Kind::Pipe(terms.into()), single)
    }

    /// A chain `a, b, c`, which leans to the left.
    fn comma(&mut self, source: &'t Source<'t>, scope: &Scope<'t>) -> Compiled {
        let mut sources = Vec::new();
        let mut rest = source;
        while let JaqTerm::BinOp(left, BinaryOp::Comma, right) = rest {
            sources.push(&**right);
            rest = left;
        }
        sources.push(rest);
        let mut terms = Vec::new();
        for source in sources.into_iter().rev() {
            terms.push(self.compile(source, scope)?);
        }
        self.term(Kind::Comma(terms.into()), false)
    }

    /// A chain `a + b - c`, which leans to the left.
    fn math(&mut self, source: &'t Source<'t>, scope: &Scope<'t>) -> Compiled {
        let mut operands = Vec::new();
        let mut rest = source;
        while let JaqTerm::BinOp(left, BinaryOp::Math(op), right) = rest {
            operands.push((*op, &**right));
            rest = left;
        }
        let first = self.compile(rest, scope)?;
        let mut chain = Vec::new();
        for (op, source) in operands.into_iter().rev() {
            chain.push((op, self.compile(source, scope)?));
        }
        let single = first.single && chain.iter().all(|(_, term)| term.single);
        self.term(Kind::Math(Box::new(first), chain.into()), single)
    }

    fn fold(
        &mut self,
        name: &str,
        source: &'t Source<'t>,
        pattern: &'t JaqPattern<&'t str>,
        args: &'t [Source<'t>],
        scope: &Scope<'t>,
    ) -> Compiled {
        let (init, update, extract) = match (name, args) {
            ("reduce", [init, update]) => (init, update, None),
            ("foreach", [init, update]) => (init, update, None),
            ("foreach", [init, update, extract]) => (init, update, Some(extract)),
            _ => {
                let message = format!("{name} with {} arguments is not defined", args.len());
                return self.fail(ExprCode::Syntax, message);
            }
        };
        let source = self.compile(source, scope)?;
        let init = self.compile(init, scope)?;
        let (pattern, inner) = self.pattern(pattern, scope)?;
        let update = self.compile(update, &inner)?;
        let extract = match extract {
            Some(extract) => Some(self.compile(extract, &inner)?),
            None => None,
        };
        let single = name == "reduce" && init.single;
        let fold = Box::new(Fold { source, pattern, init, update, extract });
        let kind = if name == "reduce" { Kind::Reduce(fold) } else { Kind::Foreach(fold) };
        self.term(kind, single)
    }

    /// Compiles a pattern; its variables are known in the scope that comes back.
    fn pattern(
        &mut self,
        pattern: &'t JaqPattern<&'t str>,
        scope: &Scope<'t>,
    ) -> Result<(Pattern, Scope<'t>), Fault> {
        match pattern {
            JaqPattern::Var(name) => {
                if *name == "$secrets" {
                    return self.fail(ExprCode::Unsupported, "$secrets cannot be redefined");
                }
                let slot = self.slot();
                Ok((Pattern::Var(slot), scope.with(Binding::Var(name, slot))))
            }
            JaqPattern::Arr(patterns) => {
                let mut scope = scope.clone();
                let mut compiled = Vec::new();
                for pattern in patterns {
                    let (pattern, inner) = self.pattern(pattern, &scope)?;
                    scope = inner;
                    compiled.push(pattern);
                }
                Ok((Pattern::Array(compiled.into()), scope))
            }
            JaqPattern::Obj(members) => {
                let mut scope = scope.clone();
                let mut compiled = Vec::new();
                for (key, pattern) in members {
                    let key = self.compile(key, &scope)?;
                    let (pattern, inner) = self.pattern(pattern, &scope)?;
                    scope = inner;
                    compiled.push((key, pattern));
                }
                Ok((Pattern::Object(compiled.into()), scope))
            }
        }
    }

    fn conditional(
        &mut self,
        branches: &'t [(Source<'t>, Source<'t>)],
        otherwise: Option<&'t Source<'t>>,
        scope: &Scope<'t>,
    ) -> Compiled {
        let mut compiled = Vec::new();
        for (condition, then) in branches {
            compiled.push((self.compile(condition, scope)?, self.compile(then, scope)?));
        }
        let otherwise = match otherwise {
            Some(otherwise) => Some(self.boxed(otherwise, scope)?),
            None => None,
        };
        let single = otherwise.as_ref().is_none_or(|term| term.single)
            && compiled.iter().all(|(c, t)| c.single && t.single);
        self.term(Kind::If(compiled.into(), otherwise), single)
    }

    fn definitions(
        &mut self,
        defs: &'t [Def<&'t str, Source<'t>>],
        body: &'t Source<'t>,
        scope: &Scope<'t>,
    ) -> Compiled {
        let mut scope = scope.clone();
        for def in defs {
            scope = scope.with(Binding::Def(def));
            self.check_definition(def, &scope)?;
        }
        self.compile(body, &scope)
    }

    /// Compiles the body once with `.` for every parameter, so that faults show even in functions
    /// nobody calls.
    fn check_definition(
        &mut self,
        def: &'t Def<&'t str, Source<'t>>,
        scope: &Scope<'t>,
    ) -> Result<(), Fault> {
        if self.checked.iter().any(|known| std::ptr::eq(*known, def)) {
            return Ok(());
        }
        self.checked.push(def);
        static ID: JaqTerm<&'static str> = JaqTerm::Id;
        let (terms, slots, regexes) = (self.terms, self.slots, self.regexes);
        let mut inner = self.enter(def, scope);
        for name in &def.args {
            inner = inner.with(Binding::Param(name.trim_start_matches('$'), &ID, scope.clone()));
            if name.starts_with('$') {
                inner = inner.with(Binding::Var(name, 0));
            }
        }
        self.compile(&def.body, &inner)?;
        (self.terms, self.slots, self.regexes) = (terms, slots, regexes);
        Ok(())
    }

    /// The scope of a function's body, without its parameters.
    fn enter(&self, def: &'t Def<&'t str, Source<'t>>, scope: &Scope<'t>) -> Scope<'t> {
        Scope {
            names: scope.names.clone(),
            active: Some(Rc::new(Active { def, parent: scope.active.clone() })),
        }
    }

    fn call(&mut self, name: &'t str, args: &'t [Source<'t>], scope: &Scope<'t>) -> Compiled {
        let found = scope.entries().find(|entry| match &entry.binding {
            Binding::Def(def) => def.name == name && def.args.len() == args.len(),
            Binding::Param(known, ..) => *known == name && args.is_empty(),
            Binding::Var(..) => false,
        });
        let Some(entry) = found.cloned() else {
            return builtin::call(self, name, args, scope);
        };
        match &entry.binding {
            Binding::Param(_, source, scope) => self.compile(source, scope),
            Binding::Def(def) => {
                if scope.is_active(def) {
                    let message = format!("{name} calls itself, which is not supported");
                    return self.fail(ExprCode::Recursive, message);
                }
                // The body sees what its definition saw, not what the caller sees.
                let home = Scope { names: Some(Rc::clone(&entry)), active: scope.active.clone() };
                self.expand(def, args, &home, scope)
            }
            Binding::Var(..) => self.fail(ExprCode::UnknownName, format!("{name} is not defined")),
        }
    }

    fn expand(
        &mut self,
        def: &'t Def<&'t str, Source<'t>>,
        args: &'t [Source<'t>],
        home: &Scope<'t>,
        caller: &Scope<'t>,
    ) -> Compiled {
        let mut inner = self.enter(def, home);
        let mut values = Vec::new();
        for (name, arg) in def.args.iter().zip(args) {
            let plain = name.trim_start_matches('$');
            inner = inner.with(Binding::Param(plain, arg, caller.clone()));
            if name.starts_with('$') {
                let source = self.compile(arg, caller)?;
                let slot = self.slot();
                inner = inner.with(Binding::Var(name, slot));
                values.push((source, slot));
            }
        }
        let mut body = self.compile(&def.body, &inner)?;
        for (source, slot) in values.into_iter().rev() {
            body = self.bind(source, Pattern::Var(slot), body)?;
        }
        Ok(body)
    }

    fn variable(&mut self, name: &str, scope: &Scope<'t>) -> Compiled {
        if let Some(slot) = scope.var(name) {
            return self.term(Kind::Var(slot), true);
        }
        let of_templates = [("$secrets", "name"), ("$resume", "node")];
        if let Some((_, field)) = of_templates.iter().find(|(known, _)| *known == name) {
            let message =
                format!("{name} is only known in a hole of its own, as in {{{{ {name}.{field} }}}}");
            return self.fail(ExprCode::Unsupported, message);
        }
        if natives::is_left_out(name) {
            let message = format!("{name} is not supported");
            return self.fail(ExprCode::Unsupported, message);
        }
        self.fail(ExprCode::UnknownName, format!("variable {name} is not defined"))
    }

    fn path(
        &mut self,
        head: &'t Source<'t>,
        parts: &'t [(JaqPart<Source<'t>>, Opt)],
        scope: &Scope<'t>,
    ) -> Compiled {
        let mut term = self.compile(head, scope)?;
        // As in jq, `?` is about everything before it; earlier ones then change nothing.
        let last = parts.iter().rposition(|(_, opt)| matches!(opt, Opt::Optional));
        let (guarded, plain) = parts.split_at(last.map_or(0, |last| last + 1));
        if !guarded.is_empty() {
            let guarded = self.parts(guarded, scope)?;
            term = self.path_of(term, guarded)?;
            term = self.term(Kind::Try(Box::new(term), None), false)?;
        }
        if plain.is_empty() {
            return Ok(term);
        }
        let plain = self.parts(plain, scope)?;
        self.path_of(term, plain)
    }

    fn parts(
        &mut self,
        parts: &'t [(JaqPart<Source<'t>>, Opt)],
        scope: &Scope<'t>,
    ) -> Result<Vec<Part>, Fault> {
        parts.iter().map(|(part, _)| self.part(part, scope)).collect()
    }

    pub fn part(&mut self, part: &'t JaqPart<Source<'t>>, scope: &Scope<'t>) -> Result<Part, Fault> {
        Ok(match part {
            JaqPart::Index(key) => {
                let key = self.compile(key, scope)?;
                match key.kind {
                    Kind::Const(Json::Str(key)) => Part::Key(key),
                    _ => Part::Index(key),
                }
            }
            JaqPart::Range(None, None) => Part::Iterate,
            JaqPart::Range(from, to) => {
                let mut bound = |bound: &'t Option<Source<'t>>| match bound {
                    Some(bound) => self.compile(bound, scope).map(Some),
                    None => Ok(None),
                };
                Part::Slice(bound(from)?, bound(to)?)
            }
        })
    }

    pub fn path_of(&mut self, head: Term, parts: Vec<Part>) -> Compiled {
        if let Kind::Id = head.kind
            && parts.iter().all(|part| matches!(part, Part::Key(_)))
        {
            let keys = parts.into_iter().filter_map(|part| match part {
                Part::Key(key) => Some(key),
                _ => None,
            });
            return self.term(Kind::Fields(keys.collect()), true);
        }
        let single = head.single
            && parts.iter().all(|part| match part {
                Part::Key(_) => true,
                Part::Index(key) => key.single,
                Part::Slice(from, to) => {
                    from.as_ref().is_none_or(|t| t.single) && to.as_ref().is_none_or(|t| t.single)
                }
                Part::Iterate => false,
            });
        self.term(Kind::Path(Box::new(head), parts.into()), single)
    }
}

fn pattern_is_single(pattern: &Pattern) -> bool {
    match pattern {
        Pattern::Var(_) => true,
        Pattern::Array(patterns) => patterns.iter().all(pattern_is_single),
        Pattern::Object(members) => {
            let mut members = members.iter();
            members.all(|(key, pattern)| key.single && pattern_is_single(pattern))
        }
    }
}
