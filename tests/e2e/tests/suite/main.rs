//! meshhook from end to end, on real clusters with real sidecars. One module per subject.
//!
//! The extension has to be installed into the Postgres that `MESHHOOK_PG_CONFIG` (or `pg_config`) names, and
//! the sidecar built beside the tests or named by `MESHHOOK_SIDECAR_BIN`:
//!
//! ```text
//! cargo test -p meshhook-e2e -- --test-threads=2            everything
//! cargo test -p meshhook-e2e --test suite crashes::         one subject
//! ```
//!
//! A test that fails leaves its cluster's folder behind, log included, and prints where it is.

mod blobs;
mod calls;
mod concurrency;
mod crashes;
mod definitions;
mod deliveries;
mod dump;
mod event_store;
mod event_store_order;
mod examples;
mod failures;
mod faults;
mod flow_control;
mod idle;
mod message_db;
mod nodes;
mod operations;
mod proxy;
mod replay;
mod resume;
mod schedules;
mod secrets;
mod tenancy;
mod transactions;
mod waiting;
mod webhook_answers;
mod webhook_keys;
mod webhook_rpc;
mod webhooks;
mod workers;
