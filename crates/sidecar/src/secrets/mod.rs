//! Secrets that calls send: sealed for the database, opened for a call, and kept out of what comes back.
//!
//! The database keeps them sealed with AES-256-GCM, and only sidecars have the keys ([`ring`]). The project and the
//! name are authenticated along, so that a value that is moved to another does not open. What a call needs is put into
//! its request ([`fill`]) and struck out of its response ([`redact`]); no core shows it ([`memory`]).

pub mod command;
pub mod file;
pub mod fill;
pub mod memory;
pub mod redact;
pub mod ring;
