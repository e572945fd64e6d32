//! A backup restored to a moment in which runs were under way.

use super::{PATIENCE, PAUSE, publish_orders};
use meshhook_e2e::load::{configs, keep_working, under_load};
use meshhook_e2e::{Database, EXECUTOR, Stop, counted, prepare};
use meshhook_testkit::{Cluster, StopMode, history, install, wait_for};
use serde_json::Value;
use uuid::Uuid;

/// Every run, and its state.
const STATES: &str = "SELECT run_id, meshhook.run_state(run_id) FROM meshhook.runs ORDER BY run_id";

#[test]
fn a_restore_to_a_point_in_time_has_each_run_as_it_was_and_goes_on() {
    let folder = install::temp_dir();
    let archive = folder.path().display().to_string();
    let origin = prepare(
        Cluster::builder()
            .preload(true)
            .setting("archive_mode", "on")
            .setting("archive_command", &format!("cp '%p' '{archive}/%f'"))
            .start(),
    );
    let db = Database::create(&origin, "restored");
    publish_orders(&db);
    let backup = origin.backup();
    let (seen, time) = under_load(&origin, &db.name, "order", PAUSE, |ledger| {
        let mut admin = db.admin();
        ledger.wait_more(30);
        // No turn commits while it is looked at: what is seen is what was committed by then. One lock and no
        // more, for turns and executors write the tables in different orders.
        admin.exec("BEGIN; LOCK TABLE meshhook.run IN SHARE MODE");
        let rows = admin.rows(STATES, &[]);
        let seen: Vec<(Uuid, Value)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let time: String = admin.value("SELECT clock_timestamp()::text", &[]);
        // A transaction is restored if it committed before that time.
        std::thread::sleep(std::time::Duration::from_millis(50));
        admin.exec("COMMIT");
        ledger.wait_more(20);
        (seen, time)
    })
    .1;
    origin.superuser("postgres").exec("SELECT pg_switch_wal()");
    origin.stop(StopMode::Fast);

    // Without orchestrators first: to be looked at as it is.
    backup.add_setting("meshhook.databases", "none");
    backup.restore(folder.path(), &time);
    let mut admin = backup.superuser(&db.name);
    assert!(
        admin.value::<bool>("SELECT meshhook.is_active()", &[]),
        "it is the same cluster: it acts by itself"
    );
    let restored: Vec<(Uuid, Value)> =
        admin.rows(STATES, &[]).iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(restored, seen);
    let open = "SELECT count(*) FROM meshhook.runs WHERE finished_at IS NULL";
    assert!(counted(&mut admin, open) > 0, "runs were under way");
    assert_eq!(history::check_all(&mut admin), seen.len());

    backup.set("meshhook.databases", "");
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let _end = stop.at_end();
        scope.spawn(|| keep_working(configs(&backup, EXECUTOR, &db.name), &stop));
        wait_for("the restored runs to end", PATIENCE, || counted(&mut admin, open) == 0);
    });
    let sound = "SELECT count(*) FROM meshhook.runs WHERE status = 'succeeded'";
    assert_eq!(usize::try_from(counted(&mut admin, sound)), Ok(seen.len()));
    history::check_all(&mut admin);
}
