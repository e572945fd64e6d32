//! meshhook: webhook-first, deterministic, durable workflows inside PostgreSQL.
//!
//! This package is the extension: it loads state, asks `meshhook_engine` what follows, and stores the
//! answer. It decides nothing about workflows itself and does no network I/O. `ARCHITECTURE.md` is the map.

// A panic must unwind into an ERROR; aborting would restart the whole cluster.
#[cfg(not(panic = "unwind"))]
compile_error!("meshhook must be built with panic = \"unwind\"");

use pgrx::prelude::*;

mod blob;
mod error;
mod event_store;
mod fault;
mod flow;
mod guc;
mod installation;
mod job;
mod jsonb;
mod kept;
mod operations;
mod owner;
mod project;
mod random;
mod resume;
mod run;
mod schedule;
mod secret;
mod shmem;
mod spi;
mod subscription;
mod subtransaction;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod types;
mod webhook;
mod worker;
mod workflow;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/security/roles.sql", name = "roles", bootstrap);
extension_sql_file!("../sql/schema/project.sql", name = "schema_project", requires = ["roles"]);
extension_sql_file!("../sql/schema/workflow.sql", name = "schema_workflow", requires = ["schema_project"]);
extension_sql_file!("../sql/schema/run.sql", name = "schema_run", requires = ["schema_workflow"]);
extension_sql_file!("../sql/schema/webhook.sql", name = "schema_webhook", requires = ["schema_run"]);
extension_sql_file!("../sql/schema/secret.sql", name = "schema_secret", requires = ["schema_webhook"]);
extension_sql_file!(
    "../sql/schema/subscription.sql",
    name = "schema_subscription",
    requires = ["schema_secret"]
);
extension_sql_file!(
    "../sql/schema/schedule.sql",
    name = "schema_schedule",
    requires = ["schema_subscription"]
);
extension_sql_file!(
    "../sql/schema/event_store.sql",
    name = "schema_event_store",
    requires = ["schema_schedule"]
);
extension_sql_file!("../sql/schema/flow.sql", name = "schema_flow", requires = ["schema_event_store"]);
extension_sql_file!("../sql/schema/operations.sql", name = "schema_operations", requires = ["schema_flow"]);
extension_sql_file!("../sql/schema/executor.sql", name = "schema_executor", requires = ["schema_operations"]);
extension_sql_file!("../sql/schema/blob.sql", name = "schema_blob", requires = ["schema_executor"]);
extension_sql_file!("../sql/schema/dump.sql", name = "schema_dump", requires = ["schema_blob"]);
extension_sql_file!("../sql/schema/leaves.sql", name = "schema_leaves", requires = ["schema_dump"]);
extension_sql_file!("../sql/schema/await.sql", name = "await", requires = ["schema_leaves"]);
extension_sql_file!(
    "../sql/event_store/functions.sql",
    name = "event_store_functions",
    requires = ["schema_leaves"]
);
extension_sql_file!("../sql/event_store/waiting.sql", name = "waiting", requires = ["event_store_functions"]);
extension_sql_file!(
    "../sql/message_store/functions.sql",
    name = "message_store_functions",
    requires = ["waiting"]
);
extension_sql_file!(
    "../sql/message_store/install.sql",
    name = "message_store_install",
    requires = ["message_store_functions"]
);
extension_sql_file!(
    "../sql/message_store/import.sql",
    name = "message_store_import",
    requires = ["message_store_install"]
);
extension_sql_file!(
    "../sql/views/views.sql",
    name = "views",
    requires = [
        "schema_leaves",
        project::current_project_id,
        installation::is_active,
        flow::pause::project_is_paused,
        run::replay::run_status_after
    ]
);
extension_sql_file!("../sql/views/schedules.sql", name = "schedule_views", requires = ["views"]);
extension_sql_file!("../sql/views/endpoints.sql", name = "endpoint_views", requires = ["schedule_views"]);
extension_sql_file!("../sql/views/secrets.sql", name = "secret_views", requires = ["endpoint_views"]);
extension_sql_file!("../sql/views/blobs.sql", name = "blob_views", requires = ["secret_views"]);
extension_sql_file!(
    "../sql/views/subscriptions.sql",
    name = "subscription_views",
    requires = ["secret_views"]
);
extension_sql_file!(
    "../sql/views/event_store.sql",
    name = "event_store_views",
    requires = [
        "views",
        event_store::native::holders_of_positions,
        event_store::native::stream_category,
        event_store::native::hash_64
    ]
);
extension_sql_file!(
    "../sql/schema/single.sql",
    name = "single",
    requires = [job::complete_jobs, job::fail_jobs]
);
extension_sql_file!(
    "../sql/webhook/rpc.sql",
    name = "rpc",
    requires = ["schema_webhook", webhook::receive::receive_webhook]
);
extension_sql_file!(
    "../sql/schema/kept.sql",
    name = "kept",
    requires = ["schema_webhook", kept::settings_changed]
);
extension_sql_file!("../sql/operations/search.sql", name = "search", requires = ["views"]);
extension_sql_file!("../sql/operations/bulk.sql", name = "bulk", requires = ["search"]);
extension_sql_file!("../sql/operations/retention.sql", name = "retention", requires = ["bulk"]);
extension_sql_file!("../sql/finalize.sql", name = "finalize", finalize);

/// Called when the library is loaded: into the postmaster if preloaded, else into a backend.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // A backtrace would end up in the DETAIL of errors, and with it in front of clients.
    // SAFETY: a Postgres process has one thread.
    unsafe { std::env::set_var("RUST_BACKTRACE", "0") };
    guc::init();
    // SAFETY: a plain global of the server.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        shmem::init();
        worker::init();
    }
}

/// Settings of the cluster that `cargo pgrx test` starts.
#[cfg(test)]
pub mod pg_test {
    /// Runs before the cluster starts.
    pub fn setup(_options: Vec<&str>) {}

    /// Lines for postgresql.conf.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'meshhook'"]
    }
}
