//! Where the workflows are played: a cluster with one database, a sidecar, and an outside world by script.

use super::examples;
use super::exercises;
use super::play::{Play, Trouble};
use super::points::Points;
use meshhook_e2e::{APP, Database, prepare, publish};
use meshhook_testkit::{Cluster, Reply, Sidecar, Stub};
use serde_json::Value;
use std::sync::atomic::{AtomicU32, Ordering};

/// The name of the database.
pub const DATABASE: &str = "stage";

/// A workflow and how it is driven from its start to its end.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// Its definitions; the outside world is at that address.
    pub definitions: fn(&str) -> Vec<Value>,
    /// What the outside world answers: path, status, body.
    pub answers: fn() -> Vec<(&'static str, u16, Value)>,
    pub drive: fn(&mut Play) -> Result<(), Trouble>,
}

/// The examples, then what they do not reach.
pub fn scenarios() -> Vec<Scenario> {
    [examples::all(), exercises::all()].concat()
}

/// What every play shares. Built anew after a play that went wrong, for that may have left something behind.
pub struct Stage {
    sidecar: Sidecar,
    pub stub: Stub,
    /// Path and secret of the endpoint of the example "issue-triage".
    pub issues: (String, String),
    /// Those of one that starts a run for an order and signals it.
    pub orders: (String, String),
    plays: AtomicU32,
}

impl Stage {
    /// A cluster for stages, and one on it.
    pub fn cluster() -> Cluster {
        let builder = Cluster::builder().preload(true).kek(true).fast();
        let builder = builder
            // A commit is in the kernel's hands before it is answered: it survives what is done here.
            .setting("synchronous_commit", "on")
            .setting("meshhook.public_url", "http://hooks.test")
            .setting("meshhook.snapshot_events", "2")
            .setting("meshhook.snapshot_bytes", "0")
            .setting("max_prepared_transactions", "10");
        prepare(builder.start())
    }

    /// Publishes every scenario; `database` is one of [`Stage::cluster`].
    pub fn set(database: &Database) -> Stage {
        let stub = Stub::start();
        database.admin().exec(&format!(
            "CREATE SCHEMA ledger; GRANT USAGE ON SCHEMA ledger TO {APP};
             CREATE TABLE ledger.entry (play text, what text); GRANT SELECT, INSERT ON ledger.entry TO {APP};
             CREATE FUNCTION ledger.enter(entry jsonb) RETURNS jsonb LANGUAGE sql AS
                 'INSERT INTO ledger.entry VALUES (entry ->> ''play'', entry ->> ''what'') RETURNING to_jsonb(what)'"
        ));
        for scenario in scenarios() {
            let outside = stub.url(&format!("/{}", scenario.name));
            for (path, status, body) in (scenario.answers)() {
                stub.script(&format!("/{}{path}", scenario.name), [Reply::json(status, &body)]);
            }
            for definition in (scenario.definitions)(&outside) {
                publish(&mut database.app(), &definition);
            }
        }
        let issues = database.endpoint("issue-triage", "github");
        let orders = database.admin().rows(
            "SELECT path, secret FROM meshhook.create_endpoint('paid', 'github', action => 'signal_or_start',
                 business_key => '.input.order', signal => '\"go\"')",
            &[],
        );
        let orders = (orders[0].get(0), orders[0].get(1));
        // The shortest lease there is: what a crash takes from the sidecar comes back soon.
        let sidecar = database.sidecar().env("MESHHOOK_LEASE", "1s").start();
        Stage { sidecar, stub, issues, orders, plays: AtomicU32::new(0) }
    }

    pub fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// A number for the next play.
    pub fn next(&self) -> u32 {
        self.plays.fetch_add(1, Ordering::Relaxed)
    }
}

/// The points of the stage's database.
pub fn points(cluster: &Cluster) -> Points<'_> {
    Points::of(cluster, DATABASE)
}
