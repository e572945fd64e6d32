//! The engine's documents as values of type jsonb.
//!
//! Going by way of the text costs as much as everything else a reader of a large state does: the server reads every
//! number of it through `numeric_in`. Here the server's own tree of a document is filled in and handed over at once.

use meshhook_engine::json::{Json, Num};
use pgrx::pg_sys::{self, jbvType};
use pgrx::prelude::*;

use crate::error::{bug, refuse};
use crate::spi::RawJsonb;

impl RawJsonb {
    /// A document as jsonb, in the current memory context. Raises 22P05 for a string with U+0000, which jsonb cannot
    /// hold, and 54000 for one that is larger than any jsonb.
    pub fn of(document: &Json) -> Self {
        let mut tree = Tree::default();
        let mut root = tree.value(document);
        // SAFETY: every node of the tree is initialised, keys are sorted and unique, and what it points to outlives the
        // call: the arrays are the tree's, the strings the document's.
        let jsonb = unsafe { pg_sys::JsonbValueToJsonb(&raw mut root) };
        Self(pg_sys::Datum::from(jsonb))
    }
}

/// Owns the arrays that the server's tree points into.
#[derive(Default)]
struct Tree {
    arrays: Vec<Vec<pg_sys::JsonbValue>>,
    objects: Vec<Vec<pg_sys::JsonbPair>>,
}

impl Tree {
    fn value(&mut self, json: &Json) -> pg_sys::JsonbValue {
        let mut value = pg_sys::JsonbValue::default();
        match json {
            Json::Null => value.type_ = jbvType::jbvNull,
            Json::Bool(boolean) => {
                value.type_ = jbvType::jbvBool;
                value.val.boolean = *boolean;
            }
            Json::Num(num) => {
                value.type_ = jbvType::jbvNumeric;
                value.val.numeric = numeric(num);
            }
            Json::Str(text) => value = string(text),
            Json::Arr(items) => {
                let mut elems: Vec<_> = items.iter().map(|item| self.value(item)).collect();
                value.type_ = jbvType::jbvArray;
                value.val.array = pg_sys::JsonbValue__bindgen_ty_1__bindgen_ty_2 {
                    nElems: count(elems.len()),
                    elems: elems.as_mut_ptr(),
                    rawScalar: false,
                };
                self.arrays.push(elems);
            }
            Json::Obj(members) => {
                // The server looks a key up by its length first; the engine has keys in the order of their bytes.
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by_key(|(key, _)| key.len());
                let mut pairs: Vec<_> = members
                    .into_iter()
                    .map(|(key, member)| pg_sys::JsonbPair {
                        key: string(key),
                        value: self.value(member),
                        order: 0,
                    })
                    .collect();
                value.type_ = jbvType::jbvObject;
                value.val.object = pg_sys::JsonbValue__bindgen_ty_1__bindgen_ty_3 {
                    nPairs: count(pairs.len()),
                    pairs: pairs.as_mut_ptr(),
                };
                self.objects.push(pairs);
            }
        }
        value
    }
}

fn string(text: &str) -> pg_sys::JsonbValue {
    if text.contains('\0') {
        refuse(PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER, "\\u0000 cannot be stored in jsonb").raise();
    }
    let mut value = pg_sys::JsonbValue { type_: jbvType::jbvString, ..Default::default() };
    value.val.string = pg_sys::JsonbValue__bindgen_ty_1__bindgen_ty_1 {
        len: count(text.len()),
        // Only read.
        val: text.as_ptr().cast_mut().cast(),
    };
    value
}

fn numeric(num: &Num) -> pg_sys::Numeric {
    if let Some(int) = num.as_i64() {
        // SAFETY: takes a plain number, returns a numeric in the current memory context.
        return unsafe { pg_sys::int64_to_numeric(int) };
    }
    let Ok(text) = std::ffi::CString::new(num.to_string()) else { bug("a number has a NUL in it") };
    let (text, any) = (pg_sys::Datum::from(text.as_ptr()), pg_sys::Datum::from(pg_sys::InvalidOid));
    // SAFETY: the input function reads a NUL-terminated string, an element type and a modifier.
    let datum = unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::numeric_in,
            &[Some(text), Some(any), Some(pg_sys::Datum::from(-1i32))],
        )
    };
    datum.unwrap_or_else(|| bug("numeric_in returned null")).cast_mut_ptr()
}

fn count(len: usize) -> i32 {
    i32::try_from(len).unwrap_or_else(|_| {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the document is too large for a jsonb value")
            .raise()
    })
}
