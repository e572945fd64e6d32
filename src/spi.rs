//! SQL from Rust: plans that are made once per backend and kept, no XID for reads, values copied out
//! before the SPI frame closes.
//!
//! pgrx' own client plans a text query at every call and takes an XID even for a SELECT; the hot paths
//! here run thousands of times a second.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

use pgrx::datum::{FromDatum, IntoDatum};
use pgrx::pg_sys;

use crate::error::bug;

thread_local! {
    /// Kept plans by the address of their text: every statement is a `&'static str`.
    static PLANS: RefCell<HashMap<usize, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// An argument of a statement.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    type_oid: pg_sys::Oid,
    datum: Option<pg_sys::Datum>,
}

/// A value as an argument; `None` is NULL.
pub fn arg<T: IntoDatum>(value: T) -> Arg {
    Arg { type_oid: T::type_oid(), datum: value.into_datum() }
}

/// A jsonb or jsonb[] value that Rust never looks into: it goes from one call to the other as it is.
#[derive(Clone, Copy, Debug)]
pub struct Opaque<const TYPE: u32>(pub pg_sys::Datum);

/// A jsonb value passed through.
pub type RawJsonb = Opaque<3802>;
/// A jsonb[] value passed through.
pub type RawJsonbArray = Opaque<3807>;

impl<const TYPE: u32> Opaque<TYPE> {
    /// Its size in bytes, uncompressed.
    pub fn size(self) -> usize {
        // SAFETY: the datum is a varlena handed in by the server.
        unsafe { pg_sys::toast_raw_datum_size(self.0) }
    }
}

impl<const TYPE: u32> FromDatum for Opaque<TYPE> {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        (!is_null).then_some(Self(datum))
    }
}

impl<const TYPE: u32> IntoDatum for Opaque<TYPE> {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::Oid::from(TYPE)
    }
}

// SAFETY: the datum is kept as it is; whoever reads it back does so under the declared type.
unsafe impl<'fcx, const TYPE: u32> pgrx::callconv::ArgAbi<'fcx> for Opaque<TYPE> {
    unsafe fn unbox_arg_unchecked(arg: pgrx::callconv::Arg<'_, 'fcx>) -> Self {
        // SAFETY: the argument has the declared SQL type, of which `Opaque` is the bare datum.
        unsafe { arg.unbox_arg_using_from_datum() }
            .unwrap_or_else(|| bug("an argument declared not null is null"))
    }
}

// SAFETY: the datum was produced by the server as a value of the declared SQL type.
unsafe impl<const TYPE: u32> pgrx::callconv::BoxRet for Opaque<TYPE> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut pgrx::callconv::FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

pgrx::impl_sql_translatable!(RawJsonb, "jsonb");
pgrx::impl_sql_translatable!(RawJsonbArray, "jsonb[]");

impl RawJsonb {
    /// The value's text.
    pub fn text(self) -> String {
        // SAFETY: the datum is a jsonb; the output function returns a NUL-terminated string.
        let text =
            unsafe { pgrx::direct_function_call::<&std::ffi::CStr>(pg_sys::jsonb_out, &[Some(self.0)]) };
        text.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether a string of it has this text in it, which must be free of characters that JSON escapes. May also say so
    /// where the text stands across two of its strings.
    pub fn contains(self, text: &str) -> bool {
        // SAFETY: the datum is a varlena, and lives as long as the call that it is an argument or a result of.
        let bytes =
            unsafe { pgrx::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(self.0.cast_mut_ptr())) };
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// A value from its text. Raises 22P02 if it is no JSON, 22P05 for what jsonb cannot hold.
    pub fn of_text(text: &str) -> Self {
        let Ok(text) = CString::new(text) else { bug("a JSON text has a NUL in it") };
        // SAFETY: the input function reads a NUL-terminated string and returns a jsonb.
        let datum = unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(text.as_ptr()))])
        };
        Opaque(datum.unwrap_or_else(|| bug("jsonb_in returned null")))
    }
}

/// One row of a result, readable while the statement's frame is open.
#[derive(Debug)]
pub struct Row {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl Row {
    /// The value of a column, counted from 1; `None` is NULL.
    pub fn get<T: FromDatum>(&self, column: i32) -> Option<T> {
        let mut is_null = false;
        // SAFETY: tuple and descriptor belong to the open frame; types are those of the statement.
        unsafe {
            let datum = pg_sys::heap_getattr(self.tuple, column, self.desc, &mut is_null);
            T::from_datum(datum, is_null)
        }
    }

    /// A column that the schema or the statement keeps from being NULL.
    pub fn must<T: FromDatum>(&self, column: i32) -> T {
        self.get(column)
            .unwrap_or_else(|| bug(&format!("column {column} of a statement is unexpectedly null")))
    }

    /// A jsonb column, copied to where the caller's results live.
    pub fn raw_jsonb(&self, column: i32) -> Option<RawJsonb> {
        self.copied(column, false, -1).map(Opaque)
    }

    /// A column as it is, copied to where the caller's results live; how its type is passed, as pg_type has it.
    pub fn copied(&self, column: i32, by_value: bool, length: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the value belongs to the open frame; the copy goes to the context that was current when the frame
        // was opened, and outlives it.
        unsafe {
            let datum = pg_sys::heap_getattr(self.tuple, column, self.desc, &mut is_null);
            (!is_null).then(|| pg_sys::SPI_datumTransfer(datum, by_value, length))
        }
    }
}

/// Runs a statement that may write, with a snapshot of its own, and maps its rows.
pub fn run<T>(sql: &'static str, args: &[Arg], map: impl FnMut(&Row) -> T) -> Vec<T> {
    execute(sql, args, false, map)
}

/// Runs a statement that may write and returns how many rows it touched.
pub fn exec(sql: &'static str, args: &[Arg]) -> u64 {
    let mut touched = 0;
    framed(|| touched = execute_plan(sql, args, false));
    touched
}

/// Runs a statement that only reads, under the snapshot in force, without taking an XID.
pub fn read<T>(sql: &'static str, args: &[Arg], map: impl FnMut(&Row) -> T) -> Vec<T> {
    execute(sql, args, true, map)
}

/// The first row of a statement that only reads.
pub fn read_one<T>(sql: &'static str, args: &[Arg], map: impl FnMut(&Row) -> T) -> Option<T> {
    read(sql, args, map).into_iter().next()
}

/// The first row of a statement that may write, or that must see what committed a moment ago.
pub fn run_one<T>(sql: &'static str, args: &[Arg], map: impl FnMut(&Row) -> T) -> Option<T> {
    run(sql, args, map).into_iter().next()
}

fn execute<T>(sql: &'static str, args: &[Arg], read_only: bool, mut map: impl FnMut(&Row) -> T) -> Vec<T> {
    let mut rows = Vec::new();
    framed(|| {
        execute_plan(sql, args, read_only);
        // SAFETY: the statement has run in this frame; its result table is valid until the frame closes.
        unsafe {
            let table = pg_sys::SPI_tuptable;
            if table.is_null() {
                return;
            }
            let count = usize::try_from((*table).numvals).unwrap_or(0);
            rows.reserve(count);
            for i in 0..count {
                rows.push(map(&Row { tuple: *(*table).vals.add(i), desc: (*table).tupdesc }));
            }
        }
    });
    rows
}

/// Opens an SPI frame around `work`. On ERROR the transaction's abort closes it.
fn framed(work: impl FnOnce()) {
    // SAFETY: paired calls on the backend's only thread.
    unsafe {
        if pg_sys::SPI_connect() != pg_sys::SPI_OK_CONNECT as i32 {
            bug("SPI_connect failed");
        }
        work();
        if pg_sys::SPI_finish() != pg_sys::SPI_OK_FINISH as i32 {
            bug("SPI_finish failed");
        }
    }
}

fn execute_plan(sql: &'static str, args: &[Arg], read_only: bool) -> u64 {
    let plan = kept_plan(sql, args);
    let mut values: Vec<_> = args.iter().map(|arg| arg.datum.unwrap_or(pg_sys::Datum::from(0))).collect();
    let nulls: Vec<std::ffi::c_char> =
        args.iter().map(|arg| (if arg.datum.is_some() { b' ' } else { b'n' }) as std::ffi::c_char).collect();
    // SAFETY: the plan was prepared for these argument types; both arrays have its length.
    unsafe {
        let code = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0);
        if code < 0 {
            bug(&format!("a statement failed with SPI code {code}: {sql}"));
        }
        pg_sys::SPI_processed
    }
}

fn kept_plan(sql: &'static str, args: &[Arg]) -> pg_sys::SPIPlanPtr {
    let key = sql.as_ptr().addr();
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&key).copied()) {
        return plan;
    }
    let Ok(text) = CString::new(sql) else { bug("a statement has a NUL in it") };
    let mut types: Vec<_> = args.iter().map(|arg| arg.type_oid).collect();
    // SAFETY: the text is NUL-terminated and the types are as many as said. The plan is kept for the
    // backend's life, so it may be used in any later frame.
    let plan = unsafe {
        let plan = pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr());
        if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
            bug(&format!("a statement cannot be prepared: {sql}"));
        }
        plan
    };
    PLANS.with_borrow_mut(|plans| plans.insert(key, plan));
    plan
}
