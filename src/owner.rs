//! Acting as the owner role, and knowing on whose behalf.
//!
//! API functions run with the caller's rights. What touches the tables does so as `meshhook_owner`, which
//! is neither superuser nor BYPASSRLS, inside a restricted security context; the caller is remembered for
//! the checks. This is SECURITY DEFINER, except that the true caller stays known, also where the caller
//! is somebody else's SECURITY DEFINER function.

use std::ffi::CString;

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::refuse;

/// The role that owns the tables.
pub const OWNER: &str = "meshhook_owner";
/// The role whose members serve every project.
pub const EXECUTOR: &str = "meshhook_executor";

/// A role, as an oid of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role(pg_sys::Oid);

impl Role {
    /// The role of an oid.
    pub fn of(oid: pg_sys::Oid) -> Self {
        Self(oid)
    }

    /// A role by name.
    pub fn named(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: a catalogue lookup inside a transaction; missing_ok, so no ERROR for an unknown name.
        let oid = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
        (oid != pg_sys::InvalidOid).then_some(Self(oid))
    }

    /// Whether this role has the rights of `other`; a superuser has everybody's.
    pub fn acts_for(self, other: Self) -> bool {
        // SAFETY: a catalogue lookup inside a transaction.
        unsafe { pg_sys::has_privs_of_role(self.0, other.0) }
    }

    /// Whether this role serves every project.
    pub fn is_executor(self) -> bool {
        Self::named(EXECUTOR).is_some_and(|executor| self.acts_for(executor))
    }

    /// Whether row policies, or rights at all, do not hold for it.
    pub fn is_above_policies(self) -> bool {
        // SAFETY: catalogue lookups inside a transaction.
        unsafe { pg_sys::superuser_arg(self.0) || pg_sys::has_bypassrls_privilege(self.0) }
    }

    /// Its name.
    pub fn name(self) -> String {
        // SAFETY: returns a palloc'ed C string, or NULL for a role dropped meanwhile.
        let name = unsafe { pg_sys::GetUserNameFromId(self.0, true) };
        if name.is_null() {
            return format!("{}", self.0.to_u32());
        }
        // SAFETY: not NULL, NUL-terminated.
        unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}

/// Puts the caller's rights back. After an ERROR the abort of the (sub)transaction does so.
struct Restore {
    user: pg_sys::Oid,
    context: i32,
}

impl Restore {
    /// Takes on a role's rights, restricted, and remembers whose were in force.
    fn after_switch_to(role: Role) -> Self {
        let mut before = Self { user: pg_sys::InvalidOid, context: 0 };
        let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        // SAFETY: reads and sets backend variables; the drop or the transaction's abort puts them back.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&raw mut before.user, &raw mut before.context);
            pg_sys::SetUserIdAndSecContext(role.0, before.context | flags as i32);
        }
        before
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: restores what was in force before on the backend's only thread.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// Runs `work` as the owner role; it learns who the caller is.
pub fn as_owner<T>(work: impl FnOnce(Role) -> T) -> T {
    let Some(owner) = Role::named(OWNER) else {
        refuse(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("role \"{OWNER}\" does not exist"))
            .hint("Create it (CREATE ROLE meshhook_owner NOLOGIN) and give it the tables of schema meshhook.")
            .raise()
    };
    let restore = Restore::after_switch_to(owner);
    work(Role(restore.user))
}

/// Runs `work` with a role's rights, restricted: no SET ROLE, no temporary tables, nothing that outlives the
/// transaction. For functions that a workflow names.
pub fn as_role<T>(role: Role, work: impl FnOnce() -> T) -> T {
    let _restore = Restore::after_switch_to(role);
    work()
}
