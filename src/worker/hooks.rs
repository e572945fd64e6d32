//! Keeps orchestrators out of the way of commands that need a database without connections.
//!
//! Decides which utility commands make an orchestrator leave: DROP DATABASE, CREATE DATABASE from
//! a served one, RENAME and SET TABLESPACE. The hold ends with the transaction, whether the
//! command succeeded or not, and the launcher takes over again. Errors of the command itself never
//! pass through Rust: they would lose their DETAIL.

use super::ffi;
use crate::fault;
use crate::shmem;
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a command waits for the orchestrator to leave. Postgres then waits 5 s more itself.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

static PREVIOUS: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

// Not pgrx's wrapper: it would catch the command's error and raise it again without its DETAIL.
unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Chains the hook. Only from `_PG_init` while preloading.
pub(crate) fn install() {
    // SAFETY: in the postmaster, where hooks are chained.
    unsafe {
        let _ = PREVIOUS.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// Not `#[pg_guard]`: the errors of other people's commands jump over this frame, which owns
/// nothing that would have to be dropped. What of ours can fail is guarded by itself.
#[allow(clippy::too_many_arguments)] // Postgres's signature.
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are passed on as they came; the statement is a valid node.
    unsafe {
        let node = (*statement).utilityStmt;
        if matches!(
            (*node).type_,
            pg_sys::NodeTag::T_DropdbStmt
                | pg_sys::NodeTag::T_CreatedbStmt
                | pg_sys::NodeTag::T_RenameStmt
                | pg_sys::NodeTag::T_AlterDatabaseStmt
                | pg_sys::NodeTag::T_DropStmt
        ) {
            before_command(node, context);
        }
        if (*node).type_ == pg_sys::NodeTag::T_AlterExtensionStmt {
            fault::at_commit!("migration.commit");
        }
        let next = match PREVIOUS.get() {
            Some(Some(previous)) => *previous,
            _ => standard_ProcessUtility,
        };
        #[cfg(feature = "faults")]
        let _step = pg_sys::creating_extension
            .then(|| fault::Passage::begin(const { fault::listed("migration.step") }));
        next(statement, query, read_only_tree, context, parameters, environment, destination, completion);
    }
}

/// Guarded on its own, so that a cancellation while it waits is an ordinary error.
#[pg_guard]
unsafe extern "C-unwind" fn before_command(
    node: *mut pg_sys::Node,
    context: pg_sys::ProcessUtilityContext::Type,
) {
    if context != pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL {
        return;
    }
    // SAFETY: the node's tag says what it is; names are C strings owned by the parse tree.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_DropdbStmt => {
                free_database((*node.cast::<pg_sys::DropdbStmt>()).dbname, false);
            }
            pg_sys::NodeTag::T_CreatedbStmt => {
                let template = option((*node.cast::<pg_sys::CreatedbStmt>()).options, c"template");
                if let Some(template) = template {
                    free_database(template, false);
                }
                // The copy has the extension if its template had.
                shmem::rescan_on_commit();
            }
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = node.cast::<pg_sys::RenameStmt>();
                if (*rename).renameType == pg_sys::ObjectType::OBJECT_DATABASE {
                    free_database((*rename).subname, true);
                }
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let alter = node.cast::<pg_sys::AlterDatabaseStmt>();
                if option((*alter).options, c"tablespace").is_some() {
                    free_database((*alter).dbname, false);
                } else {
                    // ALLOW_CONNECTIONS, IS_TEMPLATE: who is served may have changed.
                    shmem::rescan_on_commit();
                }
            }
            _ => {
                let drop = node.cast::<pg_sys::DropStmt>();
                if (*drop).removeType == pg_sys::ObjectType::OBJECT_EXTENSION {
                    // So that the orchestrator notices now and not at its next poll.
                    shmem::wake_on_commit();
                }
            }
        }
    }
}

/// The string value of an option in a list of `DefElem`.
unsafe fn option(options: *mut pg_sys::List, name: &CStr) -> Option<*mut c_char> {
    // SAFETY: the caller passes a list of DefElem nodes, possibly null.
    unsafe {
        let list = pgrx::PgList::<pg_sys::DefElem>::from_pg(options);
        let element = list
            .iter_ptr()
            .find(|element| CStr::from_ptr((**element).defname) == name && !(**element).arg.is_null())?;
        Some(pg_sys::defGetString(element))
    }
}

/// Asks the orchestrator of a database to leave until this transaction ends and waits for it. Only
/// for the database's owner: anybody may type a command that will be refused.
unsafe fn free_database(name: *const c_char, in_block: bool) {
    // SAFETY: a catalog look-up inside the command's transaction.
    let oid = unsafe {
        if name.is_null() || (!in_block && pg_sys::IsTransactionBlock()) {
            return;
        }
        pg_sys::get_database_oid(name, true)
    };
    if oid == pg_sys::InvalidOid || oid == ffi::my_database() || !owns(oid) {
        return;
    }
    if !shmem::hold_until_transaction_end(oid) {
        return;
    }
    let end = Instant::now() + LEAVE_LIMIT;
    while shmem::orchestrator_pid(oid).is_some() && Instant::now() < end {
        pgrx::check_for_interrupts!();
        ffi::wait_latch(Duration::from_millis(5));
        ffi::reset_latch();
    }
}

fn owns(database: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside the command's transaction.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(database, pg_sys::GetUserId());
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, pg_sys::GetUserId());
    }
}
