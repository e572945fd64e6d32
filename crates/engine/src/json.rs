//! JSON values with one canonical text.
//!
//! Everything a workflow computes with is a [`Json`]. Values are cheap to clone (containers and
//! strings are shared), objects are always in byte order of their keys, and every number has one
//! representation ([`Num`]), so that neither jsonb's own key order nor its number printing can
//! make a replay differ from the original run: `parse(jsonb(print(x)))` is `x`.
//!
//! Use [`Json::parse`] and `Display` at the borders. With serde, prefer [`Json::decode`] and
//! [`Json::encode`]: they keep every digit even through tagged and flattened types, which
//! `serde_json` reads through a buffer of its own that knows only `i64`, `u64` and `f64`.

mod decode;
mod num;
mod parse;
mod serde_impl;

pub use decode::DecodeError;
pub use num::Num;
pub use parse::JsonError;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// How deep a document that enters a run may be nested: enough below [`MAX_DEPTH`] that whatever an event or
/// a request wraps around it can still be read back.
pub const MAX_DOCUMENT_DEPTH: usize = 100;

/// Deepest nesting of arrays and objects in a value. Recursion over values relies on it.
pub const MAX_DEPTH: usize = 128;

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Json {
    /// `null`
    #[default]
    Null,
    /// `true` and `false`
    Bool(bool),
    /// A number
    Num(Num),
    /// A string; never contains U+0000 when it came from [`Json::parse`] or an expression
    Str(Arc<str>),
    /// An array
    Arr(Arc<Vec<Json>>),
    /// An object, in byte order of its keys
    Obj(Arc<BTreeMap<Arc<str>, Json>>),
}

static NULL: Json = Json::Null;

impl Json {
    /// Reads JSON text.
    ///
    /// # Errors
    /// Malformed text, text after the value, nesting beyond [`MAX_DEPTH`], `\u0000` and lone
    /// surrogates (jsonb cannot store them), and numbers beyond what jsonb can hold.
    pub fn parse(text: &str) -> Result<Json, JsonError> {
        parse::parse(text)
    }

    /// An object from its members; the last of equal keys wins.
    pub fn object<K: Into<Arc<str>>, V: Into<Json>, I: IntoIterator<Item = (K, V)>>(members: I) -> Json {
        let members = members.into_iter().map(|(k, v)| (k.into(), v.into()));
        Json::Obj(Arc::new(members.collect()))
    }

    /// An array from its items.
    pub fn array<V: Into<Json>, I: IntoIterator<Item = V>>(items: I) -> Json {
        Json::Arr(Arc::new(items.into_iter().map(Into::into).collect()))
    }

    /// A number from a float; `None` for NaN and the infinities.
    #[must_use]
    pub fn from_f64(value: f64) -> Option<Json> {
        Num::from_f64(value).map(Json::Num)
    }

    /// The member of an object; `None` when it is missing or this is no object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.as_obj()?.get(key)
    }

    /// The value a JSON pointer (RFC 6901) points to.
    #[must_use]
    pub fn pointer(&self, pointer: &str) -> Option<&Json> {
        if pointer.is_empty() {
            return Some(self);
        }
        let mut value = self;
        for token in pointer.strip_prefix('/')?.split('/') {
            let token = token.replace("~1", "/").replace("~0", "~");
            value = match value {
                Json::Obj(members) => members.get(token.as_str())?,
                Json::Arr(items) => items.get(token.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(value)
    }

    /// [`Json::pointer`], to change the value there; copies what others hold as well.
    pub fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Json> {
        if pointer.is_empty() {
            return Some(self);
        }
        let mut value = self;
        for token in pointer.strip_prefix('/')?.split('/') {
            let token = token.replace("~1", "/").replace("~0", "~");
            value = match value {
                Json::Obj(members) => Arc::make_mut(members).get_mut(token.as_str())?,
                Json::Arr(items) => Arc::make_mut(items).get_mut(token.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(value)
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Json::Null)
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The number, when it is an integer within the range of `i64`.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Json::Num(num) => num.as_i64(),
            _ => None,
        }
    }

    /// The nearest float of a number, when there is a finite one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Json::Num(num) => num.as_f64(),
            _ => None,
        }
    }

    /// The truth value of a boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The members of an object.
    #[must_use]
    pub fn as_obj(&self) -> Option<&BTreeMap<Arc<str>, Json>> {
        match self {
            Json::Obj(members) => Some(members),
            _ => None,
        }
    }

    /// The items of an array.
    #[must_use]
    pub fn as_arr(&self) -> Option<&[Json]> {
        match self {
            Json::Arr(items) => Some(items),
            _ => None,
        }
    }

    /// What jq calls the type: `null`, `boolean`, `number`, `string`, `array` or `object`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Num(_) => "number",
            Json::Str(_) => "string",
            Json::Arr(_) => "array",
            Json::Obj(_) => "object",
        }
    }

    /// Whether arrays and objects are nested deeper than `limit`.
    #[must_use]
    pub fn is_deeper_than(&self, limit: usize) -> bool {
        let below = |value: &Json| limit == 0 || value.is_deeper_than(limit - 1);
        match self {
            Json::Arr(items) => limit == 0 || items.iter().any(below),
            Json::Obj(fields) => limit == 0 || fields.values().any(below),
            _ => false,
        }
    }

    /// Roughly the length of the canonical text in bytes (escapes are not counted).
    ///
    /// Walks the value, so the cost grows with its size; see [`Json::exceeds`] for a bounded
    /// check.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        let mut size = 0;
        self.measure(usize::MAX, &mut size);
        size
    }

    /// Whether [`Json::byte_size`] is more than `limit`; stops as soon as that is known, also
    /// for values whose shared parts make them exponentially larger as text than in memory.
    #[must_use]
    pub fn exceeds(&self, limit: usize) -> bool {
        let mut size = 0;
        !self.measure(limit, &mut size)
    }

    /// Adds the size to `size`; false as soon as that is beyond `limit`.
    pub(crate) fn measure(&self, limit: usize, size: &mut usize) -> bool {
        *size += match self {
            Json::Null | Json::Bool(true) => 4,
            Json::Bool(false) => 5,
            Json::Num(num) => num.byte_size(),
            Json::Str(text) => text.len() + 2,
            Json::Arr(items) => items.len().max(1) + 1,
            Json::Obj(members) => members.len().max(1) * 4 + 1,
        };
        if *size > limit {
            return false;
        }
        match self {
            Json::Arr(items) => items.iter().all(|item| item.measure(limit, size)),
            Json::Obj(members) => members.iter().all(|(key, value)| {
                *size += key.len();
                value.measure(limit, size)
            }),
            _ => true,
        }
    }

    /// jq's order over all values: null, false, true, numbers, strings (by code point), arrays,
    /// objects (first by their keys, then by their values). Total, and consistent with `==`.
    #[must_use]
    pub fn cmp_jq(&self, other: &Json) -> Ordering {
        match (self, other) {
            (Json::Num(a), Json::Num(b)) => a.compare(b),
            (Json::Str(a), Json::Str(b)) => a.cmp(b),
            (Json::Arr(a), Json::Arr(b)) => {
                let unequal = a.iter().zip(b.iter()).map(|(a, b)| a.cmp_jq(b));
                first_unequal(unequal).then_with(|| a.len().cmp(&b.len()))
            }
            (Json::Obj(a), Json::Obj(b)) => a
                .keys()
                .cmp(b.keys())
                .then_with(|| first_unequal(a.values().zip(b.values()).map(|(a, b)| a.cmp_jq(b)))),
            _ => self.type_rank().cmp(&other.type_rank()),
        }
    }

    /// Position of the type (and of the two booleans) in jq's order.
    pub(crate) fn type_rank(&self) -> u8 {
        match self {
            Json::Null => 0,
            Json::Bool(false) => 1,
            Json::Bool(true) => 2,
            Json::Num(_) => 3,
            Json::Str(_) => 4,
            Json::Arr(_) => 5,
            Json::Obj(_) => 6,
        }
    }

    /// A `null` that lives as long as needed.
    pub(crate) fn null_ref() -> &'static Json {
        &NULL
    }
}

fn first_unequal(mut orderings: impl Iterator<Item = Ordering>) -> Ordering {
    orderings.find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
}

/// Writes a string as JSON text, quotes included.
pub(crate) fn write_string(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    let mut run = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..=0x1f => "",
            _ => continue,
        };
        out.write_str(&text[run..at])?;
        if short.is_empty() {
            write!(out, "\\u{byte:04x}")?;
        } else {
            out.write_str(short)?;
        }
        run = at + 1;
    }
    out.write_str(&text[run..])?;
    out.write_char('"')
}

/// The canonical text: compact, keys in byte order, numbers in plain decimal.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => fmt::Display::fmt(value, f),
            Json::Num(num) => fmt::Display::fmt(num, f),
            Json::Str(text) => write_string(f, text),
            Json::Arr(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_char(',')?;
                    }
                    fmt::Display::fmt(item, f)?;
                }
                f.write_char(']')
            }
            Json::Obj(members) => {
                f.write_char('{')?;
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        f.write_char(',')?;
                    }
                    write_string(f, key)?;
                    f.write_char(':')?;
                    fmt::Display::fmt(value, f)?;
                }
                f.write_char('}')
            }
        }
    }
}

impl std::str::FromStr for Json {
    type Err = JsonError;

    fn from_str(text: &str) -> Result<Json, JsonError> {
        Json::parse(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Json::Bool(value)
    }
}

impl From<Num> for Json {
    fn from(value: Num) -> Self {
        Json::Num(value)
    }
}

macro_rules! from_int {
    ($($int:ty),*) => {$(
        impl From<$int> for Json {
            fn from(value: $int) -> Self {
                Json::Num(Num::from(i64::from(value)))
            }
        }
    )*};
}
from_int!(i64, i32, i16, u32, u16, u8);

impl From<&str> for Json {
    fn from(value: &str) -> Self {
        Json::Str(value.into())
    }
}

impl From<String> for Json {
    fn from(value: String) -> Self {
        Json::Str(value.into())
    }
}

impl From<Arc<str>> for Json {
    fn from(value: Arc<str>) -> Self {
        Json::Str(value)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Json::Null, Into::into)
    }
}

impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(value: Vec<T>) -> Self {
        Json::array(value)
    }
}

impl From<BTreeMap<Arc<str>, Json>> for Json {
    fn from(value: BTreeMap<Arc<str>, Json>) -> Self {
        Json::Obj(Arc::new(value))
    }
}

#[cfg(test)]
mod tests;
