//! Text forms of values: `tostring`, `tojson`, `@uri` and their kin.

use std::fmt::{self, Write};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::super::cx::Cx;
use super::super::error::{ExprCode, Fault, fault, type_fault};
use super::{Native, native};
use crate::json::Json;

pub(super) const TABLE: &[Native] = &[
    native("@base64", 0, |cx, v, _| Format::Base64.apply(cx, v)),
    native("@base64d", 0, |cx, v, _| Format::Base64d.apply(cx, v)),
    native("@csv", 0, |cx, v, _| Format::Csv.apply(cx, v)),
    native("@html", 0, |cx, v, _| Format::Html.apply(cx, v)),
    native("@json", 0, |cx, v, _| Format::Json.apply(cx, v)),
    native("@sh", 0, |cx, v, _| Format::Sh.apply(cx, v)),
    native("@text", 0, |cx, v, _| Format::Text.apply(cx, v)),
    native("@tsv", 0, |cx, v, _| Format::Tsv.apply(cx, v)),
    native("@uri", 0, |cx, v, _| Format::Uri.apply(cx, v)),
    native("tojson", 0, |cx, v, _| Format::Json.apply(cx, v)),
    native("tostring", 0, |cx, v, _| Format::Text.apply(cx, v)),
];

/// Padding is optional when reading.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How values become text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::expr) enum Format {
    Text,
    Json,
    Uri,
    Base64,
    Base64d,
    Html,
    Sh,
    Csv,
    Tsv,
}

impl Format {
    /// The format called `@…`.
    pub fn lookup(name: &str) -> Option<Format> {
        Some(match name {
            "@text" => Format::Text,
            "@json" => Format::Json,
            "@uri" => Format::Uri,
            "@base64" => Format::Base64,
            "@base64d" => Format::Base64d,
            "@html" => Format::Html,
            "@sh" => Format::Sh,
            "@csv" => Format::Csv,
            "@tsv" => Format::Tsv,
            _ => return None,
        })
    }

    fn apply(self, cx: &mut Cx<'_>, value: &Json) -> Result<Json, Fault> {
        if let (Format::Text, Json::Str(_)) = (self, value) {
            return Ok(value.clone());
        }
        let mut text = String::new();
        self.write(cx, value, &mut text)?;
        cx.new_string(text)
    }

    /// Appends the text of `value`; what grows beyond the longest string is a fault.
    pub fn write(self, cx: &mut Cx<'_>, value: &Json, out: &mut String) -> Result<(), Fault> {
        let before = out.len();
        let mut out = Bounded { limit: cx.max_string(), out };
        let written = match self {
            Format::Text => write_text(&mut out, value),
            Format::Json => write!(out, "{value}"),
            Format::Uri => with_text(value, |text| write_uri(&mut out, text)),
            Format::Html => with_text(value, |text| write_html(&mut out, text)),
            Format::Base64 => with_text(value, |text| {
                out.room(text.len() / 3 * 4)?;
                out.write_str(&BASE64.encode(text))
            }),
            Format::Base64d => {
                let text = value.as_str();
                let bytes = text.and_then(|text| BASE64.decode(text).ok());
                let Some(bytes) = bytes else {
                    return Err(fault(ExprCode::Value, "@base64d needs a base64 string"));
                };
                out.write_str(&String::from_utf8_lossy(&bytes))
            }
            Format::Sh => write_row(&mut out, "@sh", value, " ", write_sh)?,
            Format::Csv => write_row(&mut out, "@csv", row("@csv", value)?, ",", write_csv)?,
            Format::Tsv => write_row(&mut out, "@tsv", row("@tsv", value)?, "\t", write_tsv)?,
        };
        let grown = out.out.len() - before;
        cx.scan(grown)?;
        written.map_err(|_| {
            let limit = cx.max_string();
            fault(ExprCode::Budget, format!("string is longer than {limit} bytes"))
        })
    }
}

/// A string that refuses to grow beyond a limit.
struct Bounded<'s> {
    limit: usize,
    out: &'s mut String,
}

impl Bounded<'_> {
    fn room(&self, bytes: usize) -> fmt::Result {
        match self.out.len() + bytes > self.limit {
            true => Err(fmt::Error),
            false => Ok(()),
        }
    }
}

impl Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.room(text.len())?;
        self.out.push_str(text);
        Ok(())
    }
}

fn write_text(out: &mut Bounded<'_>, value: &Json) -> fmt::Result {
    match value {
        Json::Str(text) => out.write_str(text),
        value => write!(out, "{value}"),
    }
}

/// Hands on the text of a value: a string itself, the JSON text of anything else.
fn with_text(value: &Json, then: impl FnOnce(&str) -> fmt::Result) -> fmt::Result {
    match value {
        Json::Str(text) => then(text),
        Json::Arr(_) | Json::Obj(_) => {
            let mut text = String::new();
            // Bounded like the result, which is never shorter.
            let mut bounded = Bounded { limit: 1 << 20, out: &mut text };
            write!(bounded, "{value}")?;
            then(&text)
        }
        value => then(&value.to_string()),
    }
}

fn write_uri(out: &mut Bounded<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.write_char(char::from(byte))?;
            }
            _ => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

fn write_html(out: &mut Bounded<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '<' => out.write_str("&lt;")?,
            '>' => out.write_str("&gt;")?,
            '&' => out.write_str("&amp;")?,
            '\'' => out.write_str("&#39;")?,
            '"' => out.write_str("&quot;")?,
            c => out.write_char(c)?,
        }
    }
    Ok(())
}

/// The value, when it is an array.
fn row<'v>(name: &str, value: &'v Json) -> Result<&'v Json, Fault> {
    super::arrays::array(name, value).map(|_| value)
}

/// Writes the items of an array with a separator, or a single value.
fn write_row(
    out: &mut Bounded<'_>,
    name: &str,
    value: &Json,
    separator: &str,
    write: fn(&mut Bounded<'_>, &Json) -> fmt::Result,
) -> Result<fmt::Result, Fault> {
    let items = match value {
        Json::Arr(items) => items.as_slice(),
        value => std::slice::from_ref(value),
    };
    if let Some(item) = items.iter().find(|v| matches!(v, Json::Arr(_) | Json::Obj(_))) {
        let message = format!("{name} cannot write {}", item.type_name());
        return Err(type_fault(message));
    }
    let write_all = |out: &mut Bounded<'_>| {
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.write_str(separator)?;
            }
            write(out, item)?;
        }
        Ok(())
    };
    Ok(write_all(out))
}

fn write_sh(out: &mut Bounded<'_>, value: &Json) -> fmt::Result {
    match value {
        Json::Str(text) => {
            out.write_char('\'')?;
            for (i, part) in text.split('\'').enumerate() {
                if i > 0 {
                    out.write_str("'\\''")?;
                }
                out.write_str(part)?;
            }
            out.write_char('\'')
        }
        value => write!(out, "{value}"),
    }
}

fn write_csv(out: &mut Bounded<'_>, value: &Json) -> fmt::Result {
    match value {
        Json::Null => Ok(()),
        Json::Str(text) => {
            out.write_char('"')?;
            for (i, part) in text.split('"').enumerate() {
                if i > 0 {
                    out.write_str("\"\"")?;
                }
                out.write_str(part)?;
            }
            out.write_char('"')
        }
        value => write!(out, "{value}"),
    }
}

fn write_tsv(out: &mut Bounded<'_>, value: &Json) -> fmt::Result {
    match value {
        Json::Null => Ok(()),
        Json::Str(text) => text.chars().try_for_each(|c| match c {
            '\t' => out.write_str("\\t"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\\' => out.write_str("\\\\"),
            c => out.write_char(c),
        }),
        value => write!(out, "{value}"),
    }
}
