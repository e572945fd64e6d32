//! The sidecar over an in-memory store and loopback servers that misbehave on command. No PostgreSQL.

mod authority;
mod calls;
mod egress;
mod executor;
mod fake;
mod process;
mod proxied;
mod secured;
mod stub;
mod throughput;
mod webhooks;

use std::time::{Duration, Instant};

/// Waits until `condition` holds; panics after ten seconds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
