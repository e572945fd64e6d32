//! Regular expressions, in time linear in the text.
//!
//! Patterns given as literals are compiled with the expression; others when they are met, once
//! per evaluation. The price of a search grows with pattern size × text length, where repetitions
//! count as often as they may repeat.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::{Captures, Regex, RegexBuilder};

use super::super::cx::{Cx, Flow, Next, Out};
use super::super::error::{ExprCode, Fault, fault, type_fault};
use super::core::count;
use crate::json::Json;

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 512;
/// Longest text to search in, in bytes.
const MAX_TEXT: usize = 64 * 1024;
/// Unit of the memory of compiled patterns, in bytes.
pub(in crate::expr) const UNIT: usize = 8 << 10;
/// The memory a compiled pattern is allowed, in bytes, and what it counts for, in units: the first size that suffices
/// decides, as the regex crate says only whether a pattern fits. The last one takes the most time by far.
const SIZES: [(usize, usize); 4] = [(8 << 10, 1), (64 << 10, 8), (256 << 10, 32), (1 << 20, LARGEST)];
/// What the largest patterns count for, in units, and those that are too large.
pub(in crate::expr) const LARGEST: usize = 256;
/// Memory of the states a search may remember, in bytes.
const MAX_DFA: usize = 1 << 20;
/// Steps for compiling a pattern that is not a literal: five per expression by default.
const COMPILE_STEPS: u64 = 19_000;

/// What the flags of a search say, besides what is part of the pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::expr) struct Flags {
    /// `g`: all matches, not only the first.
    pub global: bool,
    /// `n`: no empty matches.
    pub skip_empty: bool,
    case_insensitive: bool,
    extended: bool,
    dot_all: bool,
}

impl Flags {
    /// Reads flags: `g` all matches, `i` any case, `x` ignore white space and comments in the
    /// pattern, `s` the dot also matches line feeds, `n` no empty matches, `p` = `sn`.
    pub fn parse(flags: &Json) -> Result<Flags, Fault> {
        let mut parsed = Flags::default();
        let text = match flags {
            Json::Null => "",
            Json::Str(text) => text,
            other => {
                let message = format!("regex flags are a string, not {}", other.type_name());
                return Err(type_fault(message));
            }
        };
        for c in text.chars() {
            match c {
                'g' => parsed.global = true,
                'i' => parsed.case_insensitive = true,
                'x' => parsed.extended = true,
                's' => parsed.dot_all = true,
                'n' => parsed.skip_empty = true,
                'p' => {
                    parsed.dot_all = true;
                    parsed.skip_empty = true;
                }
                'l' => {
                    return Err(fault(ExprCode::Regex, "regex flag l (longest match) is not supported"));
                }
                _ => return Err(fault(ExprCode::Regex, "unknown regex flag")),
            }
        }
        Ok(parsed)
    }
}

/// Compiles a pattern, and says what it counts for.
pub(in crate::expr) fn compile(pattern: &str, flags: Flags) -> Result<(Regex, usize), Fault> {
    if pattern.len() > MAX_PATTERN {
        let message = format!("regular expression is longer than {MAX_PATTERN} bytes");
        return Err(fault(ExprCode::Regex, message));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder
        .case_insensitive(flags.case_insensitive)
        .ignore_whitespace(flags.extended)
        .dot_matches_new_line(flags.dot_all)
        .dfa_size_limit(MAX_DFA)
        .nest_limit(50);
    for (bytes, units) in SIZES {
        match builder.size_limit(bytes).build() {
            Ok(regex) => return Ok((regex, units)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(_) => return Err(fault(ExprCode::Regex, "regular expression is malformed")),
        }
    }
    Err(fault(ExprCode::Regex, "regular expression is too large"))
}

/// The compiled pattern, from this evaluation's store.
pub(super) fn cached(cx: &mut Cx<'_>, pattern: &Json, flags: Flags) -> Result<Arc<Regex>, Fault> {
    let Json::Str(pattern) = pattern else {
        let message = format!("regular expression is a string, not {}", pattern.type_name());
        return Err(type_fault(message));
    };
    let bits = [flags.case_insensitive, flags.extended, flags.dot_all];
    let bits: String = bits.iter().map(|b| if *b { '1' } else { '0' }).collect();
    let key = bits + pattern;
    if let Some(regex) = cx.regexes.get(&key) {
        return Ok(Arc::clone(regex));
    }
    cx.steps(COMPILE_STEPS)?;
    let regex = Arc::new(compile(pattern, flags)?.0);
    cx.regexes.insert(key, Arc::clone(&regex));
    Ok(regex)
}

/// A text to search in.
pub(super) fn haystack(value: &Json) -> Result<&str, Fault> {
    match value {
        Json::Str(text) if text.len() > MAX_TEXT => Err(fault(
            ExprCode::Budget,
            format!("text for a regular expression is longer than {MAX_TEXT} bytes"),
        )),
        Json::Str(text) => Ok(text),
        other => Err(type_fault(format!("cannot match {}, only strings", other.type_name()))),
    }
}

/// Pays for the first search.
fn pay_first(cx: &mut Cx<'_>, regex: &Regex, bytes: usize) -> Result<(), Fault> {
    cx.steps(1 + weight(regex.as_str()).saturating_mul(bytes as u64) / 64)
}

/// Pays for one more search: it may look at all that is left and find little.
fn pay_next(cx: &mut Cx<'_>, regex: &Regex, bytes: usize) -> Result<(), Fault> {
    cx.steps(1 + weight(regex.as_str()).saturating_mul(bytes as u64) / 1024)
}

/// Roughly how many states a pattern has: its length, with repeated parts counted as often as
/// they may be repeated.
fn weight(pattern: &str) -> u64 {
    let bytes = pattern.as_bytes();
    // Weight of the open groups so far, and of the last item, which a repetition multiplies.
    let mut groups: Vec<u64> = vec![0];
    let mut last = 0_u64;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'(' => groups.push(0),
            b')' => {
                last = if groups.len() > 1 { groups.pop().unwrap_or(0) } else { 0 };
                add_to(&mut groups, last);
            }
            b'[' => {
                // A class is one state; `]` may be its first item.
                at += usize::from(bytes.get(at) == Some(&b'^'));
                at += usize::from(bytes.get(at) == Some(&b']'));
                while let Some(byte) = bytes.get(at) {
                    at += 1;
                    match byte {
                        b'\\' => at += 1,
                        b']' => break,
                        _ => {}
                    }
                }
                last = 2;
                add_to(&mut groups, last);
            }
            b'{' => {
                let end = pattern[at..].find('}').map_or(bytes.len(), |end| at + end);
                let times = pattern[at..end].split(',').filter_map(|n| n.trim().parse::<u64>().ok());
                let extra = last.saturating_mul(times.max().unwrap_or(1).saturating_sub(1));
                add_to(&mut groups, extra);
                last = last.saturating_add(extra);
                at = end + 1;
            }
            b'\\' => {
                at += 1;
                last = 2;
                add_to(&mut groups, last);
            }
            _ => {
                last = 1;
                add_to(&mut groups, last);
            }
        }
    }
    groups.into_iter().fold(0, u64::saturating_add).max(1)
}

fn add_to(groups: &mut [u64], weight: u64) {
    if let Some(group) = groups.last_mut() {
        *group = group.saturating_add(weight);
    }
}

pub(super) fn test(cx: &mut Cx<'_>, regex: &Regex, flags: Flags, text: &str) -> Result<bool, Fault> {
    if flags.skip_empty {
        return Ok(!find(cx, regex, flags, text)?.is_empty());
    }
    pay_first(cx, regex, text.len())?;
    Ok(regex.is_match(text))
}

/// The matches that the flags ask for.
pub(super) fn find<'t>(
    cx: &mut Cx<'_>,
    regex: &Regex,
    flags: Flags,
    text: &'t str,
) -> Result<Vec<Captures<'t>>, Fault> {
    pay_first(cx, regex, text.len())?;
    let mut found = Vec::new();
    for captures in regex.captures_iter(text) {
        let whole = captures.get_match();
        if flags.skip_empty && whole.is_empty() {
            pay_next(cx, regex, text.len() - whole.end())?;
            continue;
        }
        cx.alloc(64 + 32 * captures.len())?;
        let end = whole.end();
        found.push(captures);
        if !flags.global {
            break;
        }
        pay_next(cx, regex, text.len() - end)?;
    }
    Ok(found)
}

/// Counts characters along ascending byte offsets, so that a text is counted once.
struct Chars<'t> {
    text: &'t str,
    byte: usize,
    chars: usize,
}

impl Chars<'_> {
    fn at(&mut self, byte: usize) -> usize {
        if byte < self.byte {
            (self.byte, self.chars) = (0, 0);
        }
        self.chars += self.text[self.byte..byte].chars().count();
        self.byte = byte;
        self.chars
    }
}

/// `match`: an object per match.
pub(super) fn matches(
    cx: &mut Cx<'_>,
    regex: &Regex,
    found: &[Captures<'_>],
    text: &str,
    out: Out<'_>,
) -> Flow {
    let mut whole_chars = Chars { text, byte: 0, chars: 0 };
    for captures in found {
        let whole = captures.get_match();
        let start = whole_chars.at(whole.start());
        let mut groups = Vec::new();
        for (index, name) in regex.capture_names().enumerate().skip(1) {
            cx.steps(1)?;
            let mut object = match captures.get(index) {
                Some(group) => {
                    let before = text[whole.start().min(group.start())..group.start()].chars().count();
                    cx.scan(group.start().saturating_sub(whole.start()))?;
                    part(cx, start + before, group.as_str())?
                }
                None => BTreeMap::from([
                    ("length".into(), Json::from(0)),
                    ("offset".into(), Json::from(-1)),
                    ("string".into(), Json::Null),
                ]),
            };
            object.insert("name".into(), Json::from(name));
            groups.push(cx.new_object(object)?);
        }
        let mut object = part(cx, start, whole.as_str())?;
        object.insert("captures".into(), cx.new_array(groups)?);
        let object = cx.new_object(object)?;
        if let Next::Stop = out(cx, object)? {
            return Ok(Next::Stop);
        }
    }
    Ok(Next::More)
}

fn part(cx: &mut Cx<'_>, offset: usize, text: &str) -> Result<BTreeMap<Arc<str>, Json>, Fault> {
    Ok(BTreeMap::from([
        ("length".into(), count(text.chars().count())),
        ("offset".into(), count(offset)),
        ("string".into(), cx.new_string(text)?),
    ]))
}

/// The named groups of a match as an object.
pub(super) fn named(cx: &mut Cx<'_>, regex: &Regex, captures: &Captures<'_>) -> Result<Json, Fault> {
    let mut object = BTreeMap::new();
    for (index, name) in regex.capture_names().enumerate() {
        if let Some(name) = name {
            cx.steps(1)?;
            let value = group(cx, captures, index)?;
            object.insert(name.into(), value);
        }
    }
    cx.new_object(object)
}

/// The text of a group; null when it took no part in the match.
fn group(cx: &mut Cx<'_>, captures: &Captures<'_>, index: usize) -> Result<Json, Fault> {
    match captures.get(index) {
        Some(group) => cx.new_string(group.as_str()),
        None => Ok(Json::Null),
    }
}

/// `scan`: the text of a match, or the array of its groups when the pattern has some.
pub(super) fn scanned(cx: &mut Cx<'_>, captures: &Captures<'_>) -> Result<Json, Fault> {
    if captures.len() == 1 {
        return group(cx, captures, 0);
    }
    let mut groups = Vec::new();
    for index in 1..captures.len() {
        cx.steps(1)?;
        groups.push(group(cx, captures, index)?);
    }
    cx.new_array(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_multiplies_repetitions() {
        for (pattern, expected) in [
            ("", 1),
            ("abc", 3),
            ("a{10}", 10),
            ("(a{10}){10}", 100),
            ("(ab|c){2,5}x", 21),
            ("[a-z]{3}", 6),
            ("[]a{9}]", 2),
            (r"\d{4}-\d{2}", 13),
            (r"\{9}", 4),
            ("(a{1000}){1000}", 1_000_000),
            (")", 1),
        ] {
            assert_eq!(weight(pattern), expected, "{pattern}");
        }
        let huge = "(".repeat(20) + "a" + &"){99999}".repeat(20);
        assert_eq!(weight(&huge), u64::MAX);
    }

    #[test]
    fn flags() {
        let flags = Flags::parse(&"gx".into()).unwrap();
        assert!(flags.global && flags.extended && !flags.case_insensitive);
        assert_eq!(Flags::parse(&Json::Null), Ok(Flags::default()));
        assert!(Flags::parse(&"l".into()).is_err());
        assert!(Flags::parse(&"q".into()).is_err());
        assert!(Flags::parse(&1.into()).is_err());
    }

    #[test]
    fn large_patterns_are_refused() {
        let refused = |pattern: &str| compile(pattern, Flags::default()).unwrap_err().message;
        assert_eq!(refused("(a{1000}){1000}"), "regular expression is too large");
        assert_eq!(refused("("), "regular expression is malformed");
        assert!(refused(&"a".repeat(513)).contains("longer than 512 bytes"));
        assert!(refused(&"(".repeat(400)).contains("malformed"));
    }
}
