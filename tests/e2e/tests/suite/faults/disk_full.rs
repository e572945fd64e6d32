//! No room on the disk: for tables, which is an error, and for the WAL, which ends the server.

use super::{PATIENCE, PAUSE, publish_orders};
use meshhook_e2e::load::under_load;
use meshhook_e2e::{Database, counted, own_cluster, prepare};
use meshhook_testkit::disk::SmallDisk;
use meshhook_testkit::{Cluster, StopMode, wait_for};
use serde_json::json;
use std::time::Duration;

/// Enough for a database with the extension and some thousand runs.
const MEGABYTES: u32 = 96;
/// Some 20 MB of WAL.
const FILLER: &str = "
    CREATE TABLE filler AS SELECT repeat('x', 800) FROM generate_series(1, 20000);
    DROP TABLE filler;";

#[test]
fn a_full_disk_refuses_starts_and_is_no_runs_fault() {
    let cluster = own_cluster(true);
    let disk = SmallDisk::mount(&cluster, MEGABYTES);
    let place = disk.folder("tables");
    let mut admin = cluster.superuser("postgres");
    admin.exec(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    // What databases are made from lies elsewhere; what is made in this one from now on does not.
    admin.exec("CREATE DATABASE full_disk TABLESPACE small");
    cluster.superuser("full_disk").exec("CREATE EXTENSION meshhook; SELECT meshhook.grant_api('shop')");
    let db = Database { cluster: &cluster, name: "full_disk".into() };
    publish_orders(&db);

    let (ledger, ()) = under_load(&cluster, &db.name, "order", PAUSE, |ledger| {
        disk.fill();
        // Some rows still fit into pages that are there.
        wait_for("a start to be refused", PATIENCE, || ledger.refused().contains("53100"));
        let mut app = db.app();
        let big = json!({"order": "big", "notes": "x".repeat(200_000)});
        let refused = app.error("SELECT meshhook.start_run('order', $1, 'big')", &[&big]);
        assert_eq!(refused.code().code(), "53100", "{refused}");
        wait_for("an orchestrator to be out of room too", PATIENCE, || {
            cluster.log_contains("meshhook turn rolled back: could not extend file")
        });
        // A few rounds of back-off.
        std::thread::sleep(Duration::from_secs(2));
        disk.make_room();
        ledger.wait_more(20);
    });
    assert!(ledger.refused().is_subset(&["53100".to_owned()].into()), "{:?}", ledger.refused());
    let mut admin = db.admin();
    let big = "SELECT count(*) FROM meshhook.runs WHERE input ->> 'order' = 'big'";
    assert_eq!(counted(&mut admin, big), 0, "what was refused left nothing");
    let blamed = "SELECT count(*) FROM meshhook.run_event WHERE data -> 'error' ->> 'class' = 'quarantined'";
    assert_eq!(counted(&mut admin, blamed), 0, "no run is blamed");
}

#[test]
fn a_server_without_room_for_its_wal_ends_and_goes_on_when_there_is_some() {
    // Durable: what is acknowledged early goes with the WAL that finds no room.
    let cluster = prepare(Cluster::builder().preload(true).start());
    let db = Database::create(&cluster, "full_wal");
    publish_orders(&db);
    cluster.stop(StopMode::Fast);
    let disk = SmallDisk::mount(&cluster, MEGABYTES);
    disk.take_in(&cluster.data_dir().join("pg_wal"));
    cluster.add_setting("min_wal_size", "32MB");
    cluster.add_setting("max_wal_size", "48MB");
    cluster.start();

    under_load(&cluster, &db.name, "order", PAUSE, |ledger| {
        disk.fill();
        // A segment has 16 MB, and a start is not much: this hastens the end of those that are there.
        let mut filler = cluster.superuser("postgres");
        let filled = (0..20).any(|_| filler.batch_execute(FILLER).is_err());
        assert!(filled, "the WAL still has room");
        cluster.wait_ended();
        assert!(
            cluster.log_contains("PANIC:  could not write to file \"pg_wal/"),
            "it ended for want of room"
        );
        // It does not come back while there is none, and does no harm by trying.
        cluster.launch();
        cluster.wait_ended();
        disk.make_room();
        cluster.start();
        ledger.wait_more(20);
    });
}
