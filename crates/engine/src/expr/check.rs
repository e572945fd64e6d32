//! Looks at an expression's text before the recursive parser does.
//!
//! The parser (and the drop of what it built) recurses once per bracket, keyword, sign and
//! right-hand operator, and an overflowing stack would end every session of the server. This scan
//! is a loop: it follows the parser's own lexical rules, adds up how much stack the parser would
//! need, and refuses what is too deep, too long, or left out of the language. It need not find
//! syntax errors: the parser does.

use super::error::{ExprCode, Fault, fault_at};

/// Longest text of an expression, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;
/// Most operators in an expression.
pub const MAX_OPERATORS: usize = 500;
/// Stack the parser may need, in its unoptimised build, in bytes. Frames of the optimised build
/// are about a fifth of that.
const MAX_STACK: usize = 640 * 1024;

// Stack the parser needs for one level, in bytes, measured with jaq-core 3.1.2 without
// optimisation on x86-64 and rounded up.
const PAREN: usize = 16 * 1024;
const BRACKET: usize = 20 * 1024;
const BRACE: usize = 18 * 1024;
const KEYWORD: usize = 15 * 1024;
const PREFIX: usize = 12 * 1024;
const BINDING: usize = 4 * 1024;
const PIPE: usize = 1024;
const OTHER: usize = 128;

/// What a level of nesting waits for.
#[derive(Clone, Copy, PartialEq)]
enum Close {
    Char(u8),
    /// The `)` of an interpolation; the string goes on behind it.
    Interpolation,
    /// The `end` of an `if`.
    End,
    /// The `;` of a definition.
    Definition,
}

struct Level {
    close: Close,
    /// Stack needed to get here.
    base: usize,
    /// Stack needed by what stands to the left on this level and has not returned.
    right: usize,
    /// Stack needed by signs and `try` right before the next atom.
    prefix: usize,
    /// Stack needed by `catch`es in a row, up to the next operator.
    handlers: usize,
}

impl Level {
    fn stack(&self) -> usize {
        self.base + self.right + self.prefix + self.handlers
    }

    /// An operator or separator: the atoms before it are done.
    fn end_atoms(&mut self) {
        self.prefix = 0;
        self.handlers = 0;
    }
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    levels: Vec<Level>,
    operators: usize,
    /// Whether the last token ended an operand, so that `-` is a subtraction.
    after_operand: bool,
}

/// Checks the text.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    if text.len() > MAX_TEXT {
        let message = format!("expression is longer than {MAX_TEXT} bytes");
        return Err(fault_at(ExprCode::TooComplex, message, MAX_TEXT));
    }
    let mut scan =
        Scan { text, bytes: text.as_bytes(), at: 0, levels: Vec::new(), operators: 0, after_operand: false };
    scan.levels.push(Level { close: Close::Char(0), base: KEYWORD, right: 0, prefix: 0, handlers: 0 });
    scan.run()
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        loop {
            self.space();
            let Some(byte) = self.peek() else {
                return Ok(());
            };
            match byte {
                b'"' => {
                    self.at += 1;
                    self.string()?;
                }
                b'(' => self.open(Close::Char(b')'), PAREN)?,
                b'[' => self.open(Close::Char(b']'), BRACKET)?,
                b'{' => self.open(Close::Char(b'}'), BRACE)?,
                b')' | b']' | b'}' => self.close(byte)?,
                b';' => self.semicolon(),
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word()?,
                b'$' | b'@' => {
                    self.at += 1;
                    self.ident();
                    self.operand();
                }
                b'0'..=b'9' => {
                    self.number();
                    self.operand();
                }
                b'.' => self.dot(),
                b'|' | b'=' | b'!' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%' => {
                    self.operator()?;
                }
                b',' => {
                    self.count_operator(self.at)?;
                    self.add_right(OTHER)?;
                    self.at += 1;
                    self.after_operand = false;
                    self.top().end_atoms();
                    if self.top().close == Close::Char(b'}') {
                        // Each member of an object is read on its own.
                        self.top().right = 0;
                    }
                }
                b'?' => self.at += 1,
                b':' => {
                    self.at += 1;
                    self.after_operand = false;
                }
                _ => return Err(fault_at(ExprCode::Syntax, "unexpected character", self.at)),
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The innermost level; the outermost one is never closed.
    fn top(&mut self) -> &mut Level {
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    /// White space and comments, which go on behind a line that ends in an odd number of
    /// backslashes.
    fn space(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            loop {
                let rest = &self.text[self.at..];
                let (line, next) = match rest.find('\n') {
                    Some(end) => (&rest[..end], self.at + end + 1),
                    None => (rest, self.text.len()),
                };
                let line = line.strip_suffix('\r').unwrap_or(line);
                self.at = next;
                let backslashes = line.bytes().rev().take_while(|b| *b == b'\\').count();
                if backslashes % 2 == 0 || self.at == self.text.len() {
                    break;
                }
            }
        }
    }

    fn ident(&mut self) {
        while let Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_') = self.peek() {
            self.at += 1;
        }
    }

    fn number(&mut self) {
        let digits = |scan: &mut Self| {
            while let Some(b'0'..=b'9') = scan.peek() {
                scan.at += 1;
            }
        };
        digits(self);
        if self.peek() == Some(b'.') {
            self.at += 1;
            digits(self);
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            digits(self);
        }
    }

    fn dot(&mut self) {
        self.at += 1;
        match self.peek() {
            Some(b'.') => self.at += 1,
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => self.ident(),
            _ => {}
        }
        self.operand();
    }

    fn operand(&mut self) {
        self.after_operand = true;
        self.top().prefix = 0;
    }

    /// The rest of a string whose opening quote (or interpolation) is behind the cursor.
    fn string(&mut self) -> Result<(), Fault> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.operand();
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'(') => return self.open(Close::Interpolation, PAREN),
                        Some(_) => self.at += 1,
                        None => return Ok(()),
                    }
                }
                Some(_) => self.at += 1,
                None => return Ok(()),
            }
        }
    }

    fn open(&mut self, close: Close, cost: usize) -> Result<(), Fault> {
        let top = self.top();
        let base = top.stack() + cost;
        self.levels.push(Level { close, base, right: 0, prefix: 0, handlers: 0 });
        self.at += 1;
        self.after_operand = false;
        self.check_depth()
    }

    fn check_depth(&mut self) -> Result<(), Fault> {
        let at = self.at.saturating_sub(1);
        if self.top().stack() <= MAX_STACK {
            return Ok(());
        }
        let message = "expression is nested too deeply";
        Err(fault_at(ExprCode::TooComplex, message, at))
    }

    /// A closing bracket also closes unfinished `if` and `def`: the parser reports those.
    fn close(&mut self, byte: u8) -> Result<(), Fault> {
        while let Close::End | Close::Definition = self.top().close {
            self.levels.pop();
        }
        let close = self.top().close;
        let expected = match close {
            Close::Char(expected) => expected,
            _ => b')',
        };
        if expected != byte {
            let message = "closing bracket does not fit";
            return Err(fault_at(ExprCode::Syntax, message, self.at));
        }
        self.at += 1;
        self.levels.pop();
        self.operand();
        match close {
            Close::Interpolation => self.string(),
            _ => Ok(()),
        }
    }

    fn semicolon(&mut self) {
        self.at += 1;
        self.after_operand = false;
        if self.top().close == Close::Definition {
            self.levels.pop();
        } else {
            self.top().right = 0;
            self.top().end_atoms();
        }
    }

    fn word(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.ident();
        let word = &self.text[start..self.at];
        if self.bytes[self.at..].starts_with(b"::") {
            return Err(unsupported("modules are not supported", start));
        }
        // `{if: 1}` is a key, and `.if` never gets here.
        let rest = self.text[self.at..].trim_start();
        let in_object = self.top().close == Close::Char(b'}');
        if in_object && !self.after_operand && rest.starts_with(':') {
            self.operand();
            return Ok(());
        }
        match word {
            "label" | "break" => Err(unsupported("labels are not supported; use first, limit or any", start)),
            "import" | "include" | "module" => Err(unsupported("modules are not supported", start)),
            "if" => {
                self.at -= 1;
                self.open(Close::End, KEYWORD)
            }
            "def" => {
                // What follows the definition is nested as well.
                self.at -= 1;
                if self.top().close != Close::Definition {
                    self.add_right(KEYWORD)?;
                }
                self.open(Close::Definition, KEYWORD)
            }
            "then" | "elif" | "else" => {
                self.top().right = 0;
                self.top().end_atoms();
                self.after_operand = false;
                Ok(())
            }
            "end" => {
                if self.top().close == Close::End {
                    self.levels.pop();
                }
                self.operand();
                Ok(())
            }
            "try" | "reduce" | "foreach" => self.prefix(start),
            "catch" => {
                self.count_operator(start)?;
                self.after_operand = false;
                self.top().handlers += PREFIX;
                self.check_depth()
            }
            "as" => {
                self.count_operator(start)?;
                self.after_operand = false;
                self.top().end_atoms();
                self.add_right(BINDING)
            }
            "and" | "or" => {
                self.count_operator(start)?;
                self.after_operand = false;
                self.top().end_atoms();
                self.add_right(OTHER)
            }
            _ => {
                self.operand();
                Ok(())
            }
        }
    }

    fn prefix(&mut self, start: usize) -> Result<(), Fault> {
        self.count_operator(start)?;
        self.after_operand = false;
        self.top().prefix += PREFIX;
        self.check_depth()
    }

    fn add_right(&mut self, cost: usize) -> Result<(), Fault> {
        self.top().right += cost;
        self.check_depth()
    }

    fn count_operator(&mut self, start: usize) -> Result<(), Fault> {
        self.operators += 1;
        if self.operators <= MAX_OPERATORS {
            return Ok(());
        }
        let message = format!("expression has more than {MAX_OPERATORS} operators");
        Err(fault_at(ExprCode::TooComplex, message, start))
    }

    fn operator(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += 1;
        // Like the lexer: `-` only begins an operator.
        while let Some(b'|' | b'=' | b'!' | b'<' | b'>' | b'+' | b'*' | b'/' | b'%') = self.peek() {
            self.at += 1;
        }
        match &self.text[start..self.at] {
            "-" if !self.after_operand => self.prefix(start),
            "=" | "|=" | "+=" | "-=" | "*=" | "/=" | "%=" | "//=" => Err(unsupported(
                "assignment is not supported; build the object anew, as in . + {key: value}",
                start,
            )),
            "|" => {
                self.count_operator(start)?;
                self.after_operand = false;
                self.top().end_atoms();
                self.add_right(PIPE)
            }
            _ => {
                self.count_operator(start)?;
                self.after_operand = false;
                self.top().end_atoms();
                self.add_right(OTHER)
            }
        }
    }
}

fn unsupported(message: &str, at: usize) -> Fault {
    fault_at(ExprCode::Unsupported, message, at)
}
