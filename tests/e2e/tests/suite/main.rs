//! meshhook from end to end, on real clusters with real sidecars. One module per subject.

mod concurrency;
mod crashes;
mod definitions;
mod dump;
mod failures;
mod idle;
mod operations;
mod tenancy;
mod transactions;
mod waiting;
mod webhooks;
mod workers;
