//! Raising errors the Postgres way: SQLSTATE, message, DETAIL with the values, HINT with the way out.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

/// An error about to be raised.
#[derive(Debug)]
pub struct Refusal(ErrorReport);

/// Begins an error: a standard SQLSTATE and a message that starts lower-case and has no full stop.
pub fn refuse(code: PgSqlErrorCode, message: impl Into<String>) -> Refusal {
    Refusal(ErrorReport::new(code, message.into(), function_name!()))
}

impl Refusal {
    /// Adds the values concerned.
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self(self.0.set_detail(detail))
    }

    /// Adds the way out.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.set_hint(hint))
    }

    /// Raises it.
    pub fn raise(self) -> ! {
        self.0.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Says it as a WARNING instead.
    pub fn warn(self) {
        self.0.report(PgLogLevel::WARNING);
    }
}

/// Raises an internal error: something that cannot be, is.
pub fn bug(message: &str) -> ! {
    refuse(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message).raise()
}

/// A parameter is not what it must be: 22023.
pub fn bad_parameter(message: impl Into<String>) -> Refusal {
    refuse(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
}

/// An argument that must not be null: 22004 if it is.
pub fn required<T>(name: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| {
        refuse(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be null")).raise()
    })
}

/// A run that does not exist, or is another project's: P0002, and not a word more.
pub fn unknown_run(run: pgrx::Uuid) -> Refusal {
    refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("run \"{run}\" does not exist"))
        .hint("SET meshhook.project chooses the project; SELECT * FROM meshhook.runs lists its runs.")
}

/// Whether an error says something of the data, so that one run may have caused it: SQLSTATE classes 22,
/// 23, 54 and XX, and a turn that ran into its time limit. Anything else (disk full, a lock not to be had,
/// a missing right, a shutdown) is no run's fault and is tried again as it is.
pub fn may_be_a_runs_fault(sqlstate: PgSqlErrorCode) -> bool {
    // A SQLSTATE is five characters of six bits each, the first one lowest.
    let character = |n: u32| ((sqlstate as i32 >> (6 * n)) & 0x3F) as u8 + b'0';
    let class = [character(0), character(1)];
    let damaged =
        matches!(sqlstate, PgSqlErrorCode::ERRCODE_DATA_CORRUPTED | PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED);
    let of_the_data = matches!(&class, b"22" | b"23" | b"54" | b"XX") && !damaged;
    of_the_data || sqlstate == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
}
