//! Templates: JSON trees whose strings may hold expressions, as in `"{{ .input.total }}"`.
//!
//! - A hole alone in its string keeps the type of its value; a missing path is null.
//! - Holes within text are text: strings as they are, anything else as compact JSON. Null within
//!   text is a fault, because it is nearly always a typing error; write `{{ .x // "" }}`.
//! - `{{{{` is a literal `{{`. A lone `}}` means itself.
//! - Object keys are never templates.
//! - `{{ $secrets.name }}` stands for a secret and is left for whoever sends the value:
//!   [`Template::render`] never sees it, and gives the string's parts apart from the value, so that
//!   no data can pretend to be a secret.
//! - `{{ $resume.node }}` stands for the resume URL of a wait node: [`Template::render_sent`] puts a
//!   placeholder there, and whoever sends the value the URL.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::expr::{self, Budget, Expr, ExprCode, ExprError};
use crate::json::Json;

/// Most memory that the compiled expressions of one template may take, in bytes, roughly.
pub const MAX_SIZE: usize = 3 << 20;
/// Most faults of one template that are listed.
const MAX_ERRORS: usize = 1_000;

/// How a template may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TemplateOptions {
    /// Whether `{{ $secrets.name }}` and `{{ $resume.node }}` are allowed: only where the value is for
    /// somebody it is sent to.
    pub allow_variables: bool,
}

/// A compiled template. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Template {
    root: Node,
    size: usize,
}

/// A fault and the JSON pointer (below the template's value) of the string it is in.
pub type TemplateError = (String, ExprError);

/// A rendered template.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The value. Strings with secrets are null here; see `secrets`.
    pub value: Json,
    /// The strings with secrets, in order of the value.
    pub secrets: Vec<SecretRef>,
}

impl Rendered {
    /// The value with the holes of secrets as they were written: for people to look at, never to send.
    #[must_use]
    pub fn masked(mut self) -> Json {
        for secret in &self.secrets {
            let text: String = secret.parts.iter().map(Part::masked).collect();
            if let Some(place) = self.value.pointer_mut(&secret.pointer) {
                *place = Json::from(text);
            }
        }
        self.value
    }
}

impl Part {
    fn masked(&self) -> String {
        match self {
            Part::Text(text) => text.clone(),
            Part::Secret(name) => format!("{{{{ $secrets.{name} }}}}"),
        }
    }
}

/// A string that needs secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// JSON pointer into [`Rendered::value`].
    pub pointer: String,
    /// What to join to the string.
    pub parts: Vec<Part>,
}

/// Part of a string that needs secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// The value of the secret of this name.
    Secret(String),
}

#[derive(Clone, Debug)]
enum Node {
    /// A value without holes.
    Const(Json),
    Array(Arc<[Node]>),
    Object(Arc<[(Arc<str>, Node)]>),
    /// A hole alone in its string.
    Whole(Hole),
    Text(Arc<[Piece]>),
}

#[derive(Clone, Debug)]
struct Hole {
    expr: Expr,
    /// Where the expression starts within the string, in characters.
    start: usize,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Arc<str>),
    Hole(Hole),
    Secret(Arc<str>),
    Resume(Arc<str>),
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// All faults (the first 1,000), each with the JSON pointer of its string; offsets count
    /// characters within the string. [`ExprCode::TooComplex`] when the expressions take more than
    /// [`MAX_SIZE`].
    pub fn compile(value: &Json, options: TemplateOptions) -> Result<Template, Vec<TemplateError>> {
        let mut errors = Vec::new();
        let mut compiler =
            Compiler { options, errors: &mut errors, pointer: String::new(), size: 0, full: false };
        let root = compiler.node(value);
        let size = compiler.size;
        if errors.is_empty() { Ok(Template { root, size }) } else { Err(errors) }
    }

    /// The memory its expressions take, in bytes, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Evaluates all holes against `root`, within one budget; `{{ $resume.node }}` stays as it is written.
    ///
    /// # Errors
    /// The first fault, with the JSON pointer of its string.
    pub fn render(&self, root: &Json, budget: &mut Budget) -> Result<Rendered, TemplateError> {
        self.render_sent(root, budget, &|node| format!("{{{{ $resume.{node} }}}}"))
    }

    /// Evaluates all holes against `root`, within one budget; `resume` says what stands for the resume URL of
    /// a node.
    ///
    /// # Errors
    /// The first fault, with the JSON pointer of its string.
    pub fn render_sent(
        &self,
        root: &Json,
        budget: &mut Budget,
        resume: &dyn Fn(&str) -> String,
    ) -> Result<Rendered, TemplateError> {
        let mut renderer =
            Renderer { root, budget, resume, pointer: String::new(), secrets: Vec::new(), size: 0 };
        let value = renderer.node(&self.root)?;
        Ok(Rendered { value, secrets: renderer.secrets })
    }

    /// The expressions in the holes, each with the JSON pointer of its string.
    #[must_use]
    pub fn exprs(&self) -> Vec<(String, &Expr)> {
        let mut found = Vec::new();
        self.root.visit(&mut String::new(), &mut |pointer, piece| {
            if let Found::Expr(expr) = piece {
                found.push((pointer.to_owned(), expr));
            }
        });
        found
    }

    /// The secrets in the holes, each with the JSON pointer of its string.
    #[must_use]
    pub fn secrets(&self) -> Vec<(String, &str)> {
        let mut found = Vec::new();
        self.root.visit(&mut String::new(), &mut |pointer, piece| {
            if let Found::Secret(name) = piece {
                found.push((pointer.to_owned(), name));
            }
        });
        found
    }

    /// The nodes in the holes of resume URLs, each with the JSON pointer of its string.
    #[must_use]
    pub fn resumes(&self) -> Vec<(String, &str)> {
        let mut found = Vec::new();
        self.root.visit(&mut String::new(), &mut |pointer, piece| {
            if let Found::Resume(node) = piece {
                found.push((pointer.to_owned(), node));
            }
        });
        found
    }

    /// The value itself, when there is no hole in it.
    #[must_use]
    pub fn as_const(&self) -> Option<&Json> {
        match &self.root {
            Node::Const(value) => Some(value),
            _ => None,
        }
    }
}

enum Found<'t> {
    Expr(&'t Expr),
    Secret(&'t str),
    Resume(&'t str),
}

impl Node {
    fn visit<'t>(&'t self, pointer: &mut String, found: &mut dyn FnMut(&str, Found<'t>)) {
        match self {
            Node::Const(_) => {}
            Node::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    within(pointer, &index.to_string(), |pointer| item.visit(pointer, found));
                }
            }
            Node::Object(members) => {
                for (key, item) in members.iter() {
                    within(pointer, key, |pointer| item.visit(pointer, found));
                }
            }
            Node::Whole(hole) => found(pointer, Found::Expr(&hole.expr)),
            Node::Text(pieces) => {
                for piece in pieces.iter() {
                    match piece {
                        Piece::Text(_) => {}
                        Piece::Hole(hole) => found(pointer, Found::Expr(&hole.expr)),
                        Piece::Secret(name) => found(pointer, Found::Secret(name)),
                        Piece::Resume(node) => found(pointer, Found::Resume(node)),
                    }
                }
            }
        }
    }
}

/// Runs `then` with the pointer extended by one token.
fn within<T>(pointer: &mut String, token: &str, then: impl FnOnce(&mut String) -> T) -> T {
    let len = pointer.len();
    push_token(pointer, token);
    let result = then(pointer);
    pointer.truncate(len);
    result
}

/// Extends a JSON pointer by one token.
fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for c in token.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

fn template_error(message: &str, offset: usize) -> ExprError {
    ExprError { code: ExprCode::Template, message: message.to_owned(), offset: Some(offset), payload: None }
}

/// An error within a hole, with its place counted from the start of the string.
fn shifted(mut error: ExprError, start: usize) -> ExprError {
    error.offset = error.offset.map(|offset| offset + start);
    error
}

struct Compiler<'e> {
    options: TemplateOptions,
    errors: &'e mut Vec<TemplateError>,
    pointer: String,
    size: usize,
    /// Whether the expressions were too large together, and that has been said.
    full: bool,
}

impl Compiler<'_> {
    fn node(&mut self, value: &Json) -> Node {
        match value {
            Json::Arr(items) => {
                let mut nodes = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    nodes.push(self.child(&index.to_string(), item));
                }
                match nodes.iter().all(|node| matches!(node, Node::Const(_))) {
                    true => Node::Const(consts(value, nodes)),
                    false => Node::Array(nodes.into()),
                }
            }
            Json::Obj(members) => {
                let mut nodes = Vec::with_capacity(members.len());
                for (key, item) in members.iter() {
                    nodes.push((Arc::clone(key), self.child(key, item)));
                }
                match nodes.iter().all(|(_, node)| matches!(node, Node::Const(_))) {
                    true => {
                        let (keys, nodes): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
                        let values = nodes.into_iter().filter_map(Node::into_const);
                        Node::Const(Json::object(keys.into_iter().zip(values)))
                    }
                    false => Node::Object(nodes.into()),
                }
            }
            Json::Str(_) if self.full || self.errors.len() >= MAX_ERRORS => Node::Const(Json::Null),
            Json::Str(text) if text.contains("{{") => match self.string(text) {
                Ok(node) => node,
                Err(error) => {
                    self.errors.push((self.pointer.clone(), error));
                    Node::Const(Json::Null)
                }
            },
            value => Node::Const(value.clone()),
        }
    }

    fn child(&mut self, token: &str, value: &Json) -> Node {
        let len = self.pointer.len();
        push_token(&mut self.pointer, token);
        let node = self.node(value);
        self.pointer.truncate(len);
        node
    }

    fn string(&mut self, text: &str) -> Result<Node, ExprError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        // How many bytes of the text have been counted, and how many characters they are.
        let mut counted = (0, 0);
        let mut place = |rest: &str| {
            let (bytes, characters) = counted;
            let at = text.len() - rest.len();
            counted = (at, characters + text[bytes..at].chars().count());
            counted.1
        };
        while let Some(open) = rest.find("{{") {
            literal.push_str(&rest[..open]);
            rest = &rest[open..];
            if let Some(after) = rest.strip_prefix("{{{{") {
                literal.push_str("{{");
                rest = after;
                continue;
            }
            let inside = &rest[2..];
            let Some(end) = hole_end(inside) else {
                return Err(template_error("hole is not closed by \"}}\"", place(rest)));
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(self.hole(&inside[..end], place(inside))?);
            rest = &inside[end + 2..];
        }
        literal.push_str(rest);
        if pieces.is_empty() {
            return Ok(Node::Const(Json::from(literal)));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        match <[Piece; 1]>::try_from(pieces) {
            Ok([Piece::Hole(hole)]) => Ok(Node::Whole(hole)),
            Ok(pieces) => Ok(Node::Text(pieces.into())),
            Err(pieces) => Ok(Node::Text(pieces.into())),
        }
    }

    fn hole(&mut self, inside: &str, start: usize) -> Result<Piece, ExprError> {
        let trimmed = inside.trim();
        let named = |variable: &str| trimmed.strip_prefix(variable).filter(|name| is_name(name));
        let variable = match (named("$secrets."), named("$resume.")) {
            (Some(name), _) => Some((Piece::Secret(name.into()), "secrets")),
            (_, Some(node)) => Some((Piece::Resume(node.into()), "resume URLs")),
            _ => None,
        };
        let Some((piece, what)) = variable else {
            if self.size > MAX_SIZE {
                self.full = true;
                let message = "the template's expressions are too many or too large together".to_owned();
                let code = ExprCode::TooComplex;
                return Err(ExprError { code, message, offset: Some(start), payload: None });
            }
            self.size += expr::size_of_source(inside);
            let expr = Expr::parse(inside).map_err(|error| {
                self.size += expr::size_of_failure(&error);
                shifted(error, start)
            })?;
            self.size += expr.size();
            return Ok(Piece::Hole(Hole { expr, start }));
        };
        if self.options.allow_variables {
            return Ok(piece);
        }
        let start = start + inside.chars().take_while(|c| c.is_whitespace()).count();
        Err(template_error(&format!("{what} are not available here"), start))
    }
}

impl Node {
    fn into_const(self) -> Option<Json> {
        match self {
            Node::Const(value) => Some(value),
            _ => None,
        }
    }
}

/// An array of constants; shares the original when nothing was unescaped in it.
fn consts(original: &Json, nodes: Vec<Node>) -> Json {
    let value = Json::array(nodes.into_iter().filter_map(Node::into_const));
    if value == *original {
        return original.clone();
    }
    value
}

/// Whether this may name a secret or a node, as `$secrets` and `$resume` take it. How long it may be is the caller's rule.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Where the `}}` of a hole is: not within a string, and not one that closes braces of the
/// expression (`{{ {a: {b: 1}} }}`).
fn hole_end(text: &str) -> Option<usize> {
    /// What is open: a brace or parenthesis, or a string (with interpolations inside).
    #[derive(PartialEq)]
    enum Open {
        Brace,
        Paren,
        Str,
    }
    let bytes = text.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if open.last() == Some(&Open::Str) {
            match byte {
                b'"' => {
                    open.pop();
                }
                b'\\' => {
                    at += 1;
                    if bytes.get(at) == Some(&b'(') {
                        open.push(Open::Paren);
                    }
                }
                _ => {}
            }
            at += 1;
            continue;
        }
        match byte {
            b'"' => open.push(Open::Str),
            b'{' => open.push(Open::Brace),
            b'(' => open.push(Open::Paren),
            b')' if open.last() == Some(&Open::Paren) => {
                open.pop();
            }
            b'}' if open.last() == Some(&Open::Brace) => {
                open.pop();
            }
            // Parentheses left open are the parser's business: the hole ends here.
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

struct Renderer<'r> {
    root: &'r Json,
    budget: &'r mut Budget,
    resume: &'r dyn Fn(&str) -> String,
    pointer: String,
    secrets: Vec<SecretRef>,
    /// Bytes of JSON text so far.
    size: usize,
}

impl Renderer<'_> {
    fn node(&mut self, node: &Node) -> Result<Json, TemplateError> {
        let value = match node {
            Node::Const(value) => value.clone(),
            Node::Array(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    values.push(self.child(&index.to_string(), item)?);
                }
                return Ok(Json::array(values));
            }
            Node::Object(members) => {
                let mut values = BTreeMap::new();
                for (key, item) in members.iter() {
                    values.insert(Arc::clone(key), self.child(key, item)?);
                }
                return Ok(Json::from(values));
            }
            Node::Whole(hole) => self.eval(hole)?,
            Node::Text(pieces) => self.text(pieces)?,
        };
        if value.measure(self.budget.max_output, &mut self.size) {
            return Ok(value);
        }
        let limit = self.budget.max_output;
        self.fail(ExprCode::Budget, format!("rendered value is larger than {limit} bytes"), None)
    }

    fn child(&mut self, token: &str, node: &Node) -> Result<Json, TemplateError> {
        let len = self.pointer.len();
        push_token(&mut self.pointer, token);
        let value = self.node(node)?;
        self.pointer.truncate(len);
        Ok(value)
    }

    fn fail<T>(&self, code: ExprCode, message: String, offset: Option<usize>) -> Result<T, TemplateError> {
        let error = ExprError { code, message, offset, payload: None };
        Err((self.pointer.clone(), error))
    }

    fn eval(&mut self, hole: &Hole) -> Result<Json, TemplateError> {
        let result = hole.expr.eval(self.root, self.budget);
        result.map_err(|error| (self.pointer.clone(), shifted(error, hole.start)))
    }

    fn text(&mut self, pieces: &[Piece]) -> Result<Json, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut has_secret = false;
        for piece in pieces {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Hole(hole) => match self.eval(hole)? {
                    Json::Str(part) => text.push_str(&part),
                    Json::Null => {
                        let message = "null within text; use // \"\" to allow it".to_owned();
                        return self.fail(ExprCode::Type, message, Some(hole.start));
                    }
                    other => text.push_str(&other.to_string()),
                },
                Piece::Resume(node) => text.push_str(&(self.resume)(node)),
                Piece::Secret(name) => {
                    has_secret = true;
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(Part::Secret(name.to_string()));
                }
            }
            if text.len() > self.budget.max_string {
                let limit = self.budget.max_string;
                let message = format!("string is longer than {limit} bytes");
                return self.fail(ExprCode::Budget, message, None);
            }
        }
        if !has_secret {
            return Ok(Json::from(text));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        self.secrets.push(SecretRef { pointer: self.pointer.clone(), parts });
        Ok(Json::Null)
    }
}

#[cfg(test)]
mod tests;
