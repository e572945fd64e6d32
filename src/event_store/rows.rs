//! Functions that return rows of messages: arguments out of the call frame, rows into the server's tuple store,
//! without a Rust value for each column in between.

use pgrx::datum::FromDatum;
use pgrx::{IntoDatum, pg_sys};

use super::append::column;
use super::streams::Stream;
use super::table::Scan;

/// Tells Postgres that a function follows calling convention 1, and defines it: `$body` takes the call frame and
/// fills a tuple store.
macro_rules! returns_rows {
    ($(#[$doc:meta])* $info:ident, $symbol:ident, $body:path) => {
        /// Tells Postgres that the function below follows calling convention 1.
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// Called by Postgres only, as the set-returning function of the SQL declaration.
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            $body($crate::event_store::rows::Call(fcinfo));
            pgrx::pg_sys::Datum::from(0)
        }
    };
}
pub(super) use returns_rows;

/// The call of a set-returning function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call(pub pg_sys::FunctionCallInfo);

impl Call {
    /// An argument, counted from 0; `None` is null. Its type is that of the SQL declaration.
    pub fn arg<T: FromDatum>(self, n: usize) -> Option<T> {
        // SAFETY: Postgres passes a valid frame with the arguments of the declaration.
        unsafe {
            let arguments = (*self.0).args.as_slice(usize::try_from((*self.0).nargs).unwrap_or(0));
            arguments.get(n).and_then(|argument| T::from_datum(argument.value, argument.isnull))
        }
    }

    /// Opens the result.
    pub fn output(self) -> Output {
        // SAFETY: called once per call; Postgres has checked that a set can be taken.
        unsafe {
            pg_sys::InitMaterializedSRF(self.0, 0);
            let info = (*self.0).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Output { store: (*info).setResult, desc: (*info).setDesc, extra: None }
        }
    }
}

/// The rows of a result.
pub(super) struct Output {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
    /// A last column that is the same for every row.
    extra: Option<pg_sys::Datum>,
}

/// A message as it is returned: id, stream, type, position, global position, data, metadata, time.
pub(super) type Columns = [(pg_sys::Datum, bool); 8];

impl Output {
    /// Gives every row from here on one more column.
    pub fn add_column(&mut self, value: i64) {
        self.extra = value.into_datum();
    }

    /// Adds a row.
    pub fn push(&mut self, columns: &[(pg_sys::Datum, bool)]) {
        let mut values = [pg_sys::Datum::from(0); 9];
        let mut nulls = [false; 9];
        for (n, (value, is_null)) in columns.iter().enumerate() {
            if let (Some(to), Some(null)) = (values.get_mut(n), nulls.get_mut(n)) {
                (*to, *null) = (*value, *is_null);
            }
        }
        if let (Some(to), Some(extra)) = (values.last_mut(), self.extra) {
            *to = extra;
        }
        // SAFETY: the result was declared with these columns; the store copies them.
        unsafe {
            pg_sys::tuplestore_putvalues(self.store, self.desc, values.as_mut_ptr(), nulls.as_mut_ptr())
        }
    }

    /// Adds the message that a walk stands at.
    pub fn push_message(&mut self, row: &Scan, stream: &Stream) {
        let name = stream.name.as_str().into_datum().unwrap_or(pg_sys::Datum::from(0));
        self.push(&[
            row.datum(column::ID),
            (name, false),
            row.datum(column::TYPE),
            row.datum(column::POSITION),
            row.datum(column::GLOBAL_POSITION),
            row.datum(column::DATA),
            row.datum(column::METADATA),
            row.datum(column::TIME),
        ]);
        // SAFETY: allocated above; the store has its own copy.
        unsafe { pg_sys::pfree(name.cast_mut_ptr()) }
    }
}
