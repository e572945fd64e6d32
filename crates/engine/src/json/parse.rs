//! Reading JSON text.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Json, MAX_DEPTH, Num};

/// How many digits the exponents of one document may add in total (bytes). `1e131071` is eight
/// characters that stand for 128 KiB of digits; jsonb would print them all.
const MAX_EXPANSION: usize = 1 << 20;

/// Digits of an integer that fit an i64 whatever they are.
const MAX_SHORT: usize = 18;

/// Why a text is not JSON that meshhook accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at character {}", offset + 1)]
pub struct JsonError {
    /// What is wrong; never contains the data itself.
    pub message: &'static str,
    /// Where, in characters from the start (0-based).
    pub offset: usize,
}

/// A problem and its byte offset.
type Fail = (&'static str, usize);

/// Reads one JSON value and nothing else.
pub(super) fn parse(text: &str) -> Result<Json, JsonError> {
    let mut parser = Parser { text, bytes: text.as_bytes(), at: 0, expansion: 0 };
    let result = parser.value(0).and_then(|value| {
        parser.space();
        match parser.peek() {
            None => Ok(value),
            Some(_) => Err(("unexpected text after the JSON value", parser.at)),
        }
    });
    result.map_err(|(message, at)| JsonError {
        message,
        offset: text.char_indices().take_while(|(start, _)| *start < at).count(),
    })
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    expansion: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn fail<T>(&self, message: &'static str) -> Result<T, Fail> {
        Err((message, self.at))
    }

    fn value(&mut self, depth: usize) -> Result<Json, Fail> {
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::Str),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(_) => self.fail("expected a JSON value"),
            None => self.fail("unexpected end of JSON text"),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, Fail> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        self.fail("expected a JSON value")
    }

    fn number(&mut self) -> Result<Json, Fail> {
        let start = self.at;
        if let Some(int) = self.short_integer() {
            return Ok(Json::from(int));
        }
        while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = self.peek() {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let Some(num) = Num::parse(text) else {
            return Err(("malformed number or number out of range", start));
        };
        if let Some(digits) = num.as_digits() {
            self.expansion += digits.len().saturating_sub(text.len());
            if self.expansion > MAX_EXPANSION {
                return Err(("numbers have too many digits", start));
            }
        }
        Ok(Json::Num(num))
    }

    /// Steps over an integer of at most 18 digits, which is what most numbers are; over nothing if anything else stands
    /// there.
    fn short_integer(&mut self) -> Option<i64> {
        let negative = self.peek() == Some(b'-');
        let begin = self.at + usize::from(negative);
        let digits = self.bytes[begin..].iter().take_while(|byte| byte.is_ascii_digit());
        let (mut int, mut count) = (0i64, 0);
        for digit in digits.take(MAX_SHORT + 1) {
            int = int.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            count += 1;
        }
        let first = *self.bytes.get(begin)?;
        let goes_on = matches!(self.bytes.get(begin + count), Some(b'-' | b'+' | b'.' | b'e' | b'E'));
        let plain =
            (1..=MAX_SHORT).contains(&count) && !goes_on && (first != b'0' || (count == 1 && !negative));
        plain.then(|| {
            self.at = begin + count;
            if negative { -int } else { int }
        })
    }

    fn array(&mut self, depth: usize) -> Result<Json, Fail> {
        self.open(depth)?;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Arr(Arc::new(items)));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.fail("expected \",\" or \"]\""),
            }
        }
        self.at += 1;
        Ok(Json::Arr(Arc::new(items)))
    }

    fn object(&mut self, depth: usize) -> Result<Json, Fail> {
        self.open(depth)?;
        let mut members = BTreeMap::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Obj(Arc::new(members)));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.fail("expected a string as object key");
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return self.fail("expected \":\"");
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            // Like jsonb: the last of equal keys wins.
            members.insert(key, value);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.fail("expected \",\" or \"}\""),
            }
        }
        self.at += 1;
        Ok(Json::Obj(Arc::new(members)))
    }

    /// Steps over the opening bracket of a container that is `depth` levels down.
    fn open(&mut self, depth: usize) -> Result<(), Fail> {
        if depth >= MAX_DEPTH {
            return self.fail("JSON is nested deeper than 128 levels");
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a string; the cursor is on its opening quote.
    fn string(&mut self) -> Result<Arc<str>, Fail> {
        self.at += 1;
        let start = self.at;
        let mut run = start;
        let mut owned: Option<String> = None;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let tail = &self.text[run..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => tail.into(),
                        Some(mut text) => {
                            text.push_str(tail);
                            text.into()
                        }
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_with(String::new);
                    text.push_str(&self.text[run..self.at]);
                    let c = self.escape()?;
                    owned.get_or_insert_with(String::new).push(c);
                    run = self.at;
                }
                Some(0..=0x1f) => return self.fail("control character in string must be escaped"),
                Some(_) => self.at += 1,
                None => return self.fail("unterminated string"),
            }
        }
    }

    /// Reads an escape sequence; the cursor is on its backslash.
    fn escape(&mut self) -> Result<char, Fail> {
        let start = self.at;
        self.at += 1;
        let Some(letter) = self.peek() else {
            return self.fail("unterminated string");
        };
        self.at += 1;
        Ok(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(start),
            _ => return Err(("unknown escape sequence", start)),
        })
    }

    fn unicode(&mut self, start: usize) -> Result<char, Fail> {
        const LONE: &str = "lone surrogate is not a character";
        let mut code = self.hex4(start)?;
        if code == 0 {
            return Err(("\\u0000 cannot be stored", start));
        }
        if (0xd800..0xdc00).contains(&code) {
            if !self.bytes[self.at..].starts_with(b"\\u") {
                return Err((LONE, start));
            }
            self.at += 2;
            let low = self.hex4(start)?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err((LONE, start));
            }
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        char::from_u32(code).ok_or((LONE, start))
    }

    fn hex4(&mut self, start: usize) -> Result<u32, Fail> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            let Some(digit) = digit else {
                return Err(("expected four hexadecimal digits after \\u", start));
            };
            code = (code << 4) | digit;
            self.at += 1;
        }
        Ok(code)
    }
}
