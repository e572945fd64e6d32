//! Faults around the server: the disk is full, time limits are set for everybody, the clock is put forward and back, a
//! standby takes over, a backup is restored, the extension is updated. Runs are under way, and each ends exactly once.
//!
//! Faults of processes are in `crashes`.

mod clock;
mod disk_full;
mod failover;
mod restore;
mod timeouts;
mod update;

use meshhook_e2e::{Database, chain, publish};
use serde_json::json;
use std::time::Duration;

/// Between two starts of one client.
const PAUSE: Duration = Duration::from_millis(15);
/// Long enough for recovery, expired leases and back-off on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The workflow that is under load in these tests: two tasks and a moment between them.
fn publish_orders(db: &Database) {
    let mut definition = chain("order", &["pack", "send"]);
    definition["nodes"]
        .as_array_mut()
        .expect("a list of nodes")
        .push(json!({"id": "rest", "type": "delay", "with": {"duration": "30ms"}}));
    definition["edges"] = json!([{"from": "pack", "to": "rest"}, {"from": "rest", "to": "send"}]);
    publish(&mut db.app(), &definition);
}
