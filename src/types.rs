//! SQL types that pgrx has no Rust face for.

use pgrx::datum::FromDatum;
use pgrx::pg_sys;

/// A `regrole` argument.
#[derive(Clone, Copy, Debug)]
pub struct RegRole(pub pg_sys::Oid);

impl FromDatum for RegRole {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        // SAFETY: a regrole is an oid.
        unsafe { pg_sys::Oid::from_datum(datum, is_null) }.map(Self)
    }
}

// SAFETY: a regrole is passed by value as an oid.
unsafe impl<'fcx> pgrx::callconv::ArgAbi<'fcx> for RegRole {
    unsafe fn unbox_arg_unchecked(arg: pgrx::callconv::Arg<'_, 'fcx>) -> Self {
        // SAFETY: the argument is declared regrole.
        let oid = unsafe { arg.unbox_arg_using_from_datum::<pg_sys::Oid>() };
        Self(oid.unwrap_or(pg_sys::InvalidOid))
    }
}

pgrx::impl_sql_translatable!(RegRole, arg_only = "regrole");
