//! The engine's documents as values of type jsonb.
//!
//! Going by way of the text costs as much as everything else a reader of a large state does: the server reads every
//! number of it through `numeric_in`. Its own tree of a document (`JsonbValue`) takes several times the memory of the
//! document. Here the value is written as it is stored.
//!
//! The layout is that of `jsonb.h` and of `convertJsonbValue` in the server's `jsonb_util.c`; values on disk have had
//! it since 9.4. A container is a header with its kind and the number of its items, an entry per item (of an object:
//! per key, then per value) that says type and length, and the items themselves, of which numbers and containers begin
//! at multiples of four bytes. Every 32nd entry has the offset of its item's end in place of the length.

use meshhook_engine::json::{Json, Num};
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{bug, refuse};
use crate::spi::RawJsonb;

/// Kinds of containers, in their headers.
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;
/// Types of items, in their entries.
const IS_STRING: u32 = 0;
const IS_NUMERIC: u32 = 0x1000_0000;
const IS_FALSE: u32 = 0x2000_0000;
const IS_TRUE: u32 = 0x3000_0000;
const IS_NULL: u32 = 0x4000_0000;
const IS_CONTAINER: u32 = 0x5000_0000;
/// What of an entry is a length or an offset.
const LENGTH: u32 = 0x0fff_ffff;
/// An entry with an offset in it.
const HAS_OFFSET: u32 = 0x8000_0000;
/// How many entries there are to one with an offset.
const STRIDE: usize = 32;
/// What headers, entries, numbers and containers are aligned to.
const ALIGNMENT: usize = 4;
/// Flags of a numeric's header (`numeric.c`; values on disk have had them since 9.1).
const NUMERIC_SHORT: u16 = 0x8000;
const NUMERIC_SHORT_NEGATIVE: u16 = 0x2000;

impl RawJsonb {
    /// A document as jsonb, in the current memory context. Raises 22P05 for a string with U+0000, which jsonb cannot
    /// hold, and 54000 for one that is larger than any jsonb.
    pub fn of(document: &Json) -> Self {
        let mut writer = Writer { bytes: vec![0; pg_sys::VARHDRSZ] };
        match document {
            Json::Arr(_) | Json::Obj(_) => {
                writer.value(document);
            }
            scalar => {
                let entries = writer.container(SCALAR | ARRAY, 1, 1);
                writer.items(entries, 0, [scalar], Writer::value);
            }
        }
        let mut bytes = writer.bytes;
        let header = varlena_header(bytes.len());
        bytes[..header.len()].copy_from_slice(&header);
        // SAFETY: as many bytes as are copied are allocated.
        unsafe {
            let jsonb: *mut u8 = pg_sys::palloc(bytes.len()).cast();
            bytes.as_ptr().copy_to_nonoverlapping(jsonb, bytes.len());
            Self(pg_sys::Datum::from(jsonb))
        }
    }
}

/// Entries that are to be written, and how far the items before them reach.
struct Entries {
    at: usize,
    reached: u32,
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Writes a value and returns its entry.
    fn value(&mut self, json: &Json) -> u32 {
        let begin = self.bytes.len();
        let kind = match json {
            Json::Null => return IS_NULL,
            Json::Bool(true) => return IS_TRUE,
            Json::Bool(false) => return IS_FALSE,
            Json::Str(text) => return self.string(text),
            Json::Num(num) => {
                self.align();
                self.numeric(num);
                IS_NUMERIC
            }
            Json::Arr(items) => {
                self.align();
                let entries = self.container(ARRAY, items.len(), items.len());
                self.items(entries, 0, items.iter(), Self::value);
                IS_CONTAINER
            }
            Json::Obj(members) => {
                // The server looks a key up by its length first; the engine has keys in the order of their bytes.
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by_key(|(key, _)| key.len());
                self.align();
                let entries = self.container(OBJECT, members.len(), members.len() * 2);
                let keys = members.iter().map(|(key, _)| key);
                let entries = self.items(entries, 0, keys, |writer, key| writer.string(key));
                self.items(
                    entries,
                    members.len(),
                    members.iter().map(|(_, member)| member),
                    |writer, member| writer.value(member),
                );
                IS_CONTAINER
            }
        };
        kind | length(self.bytes.len() - begin)
    }

    /// Writes a header and room for entries.
    fn container(&mut self, kind: u32, count: usize, entries: usize) -> Entries {
        self.bytes.extend((kind | length(count)).to_ne_bytes());
        let at = self.bytes.len();
        self.bytes.resize(at + entries * size_of::<u32>(), 0);
        Entries { at, reached: 0 }
    }

    /// Writes items, the first of which is the `first` of the container, and their entries.
    fn items<T>(
        &mut self,
        mut entries: Entries,
        first: usize,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> u32,
    ) -> Entries {
        for (index, item) in (first..).zip(items) {
            let mut entry = write(self, item);
            entries.reached = length((entries.reached + (entry & LENGTH)) as usize);
            if index.is_multiple_of(STRIDE) {
                entry = (entry & !LENGTH) | entries.reached | HAS_OFFSET;
            }
            self.bytes[entries.at..entries.at + size_of::<u32>()].copy_from_slice(&entry.to_ne_bytes());
            entries.at += size_of::<u32>();
        }
        entries
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.contains('\0') {
            refuse(PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER, "\\u0000 cannot be stored in jsonb")
                .raise();
        }
        self.bytes.extend(text.as_bytes());
        IS_STRING | length(text.len())
    }

    fn numeric(&mut self, num: &Num) {
        match num.as_i64() {
            Some(int) => self.integer(int),
            None => self.bytes.extend(numeric_of_text(&num.to_string())),
        }
    }

    /// An integer as a numeric: its length, a header of flags and weight, and the digits in base 10,000 up to the last
    /// that is not nought.
    fn integer(&mut self, int: i64) {
        let mut digits = [0u16; 5];
        let (mut rest, mut first) = (int.unsigned_abs(), digits.len());
        while rest > 0 {
            first -= 1;
            digits[first] = (rest % 10_000) as u16;
            rest /= 10_000;
        }
        let digits = &digits[first..];
        let weight = digits.len().saturating_sub(1) as u16;
        let counting = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        let sign = if int < 0 { NUMERIC_SHORT_NEGATIVE } else { 0 };
        let size = pg_sys::VARHDRSZ + size_of::<u16>() * (1 + counting);
        self.bytes.extend(varlena_header(size));
        self.bytes.extend((NUMERIC_SHORT | sign | weight).to_ne_bytes());
        self.bytes.extend(digits[..counting].iter().flat_map(|digit| digit.to_ne_bytes()));
    }
}

/// The length that a varlena of so many bytes begins with.
fn varlena_header(size: usize) -> [u8; pg_sys::VARHDRSZ] {
    let mut header = 0u32;
    // SAFETY: writes the four bytes that are the header.
    unsafe { pgrx::set_varsize_4b((&raw mut header).cast(), length(size).cast_signed()) };
    header.to_ne_bytes()
}

/// The bytes of a number of any length.
fn numeric_of_text(text: &str) -> &'static [u8] {
    let Ok(text) = std::ffi::CString::new(text) else { bug("a number has a NUL in it") };
    let (text, any) = (pg_sys::Datum::from(text.as_ptr()), pg_sys::Datum::from(pg_sys::InvalidOid));
    // SAFETY: the input function reads a NUL-terminated string, an element type and a modifier, and returns a varlena
    // in the current memory context, which outlives the writer.
    unsafe {
        let datum = pgrx::direct_function_call_as_datum(
            pg_sys::numeric_in,
            &[Some(text), Some(any), Some(pg_sys::Datum::from(-1i32))],
        );
        let numeric: *const u8 =
            datum.unwrap_or_else(|| bug("numeric_in returned null")).cast_mut_ptr::<u8>().cast_const();
        std::slice::from_raw_parts(numeric, pgrx::varsize_any(numeric.cast()))
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).ok().filter(|bytes| *bytes <= LENGTH).unwrap_or_else(|| {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the document is too large for a jsonb value")
            .raise()
    })
}
