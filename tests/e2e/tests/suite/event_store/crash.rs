//! Crashes take back what was not durable, also what readers have seen. No position is ever issued twice, so that who
//! remembers one that is gone does not pass over what comes instead.

use super::{NOTHING, Reader, append, committed};
use meshhook_e2e::{Database, SOON, ended, prepare, publish, start};
use meshhook_testkit::{Cluster, process, wait_for};
use serde_json::json;

/// A cluster that loses its latest commits when it is killed: nobody flushes the WAL unless asked.
fn forgetful(preload: bool) -> Cluster {
    let cluster = Cluster::builder()
        .preload(preload)
        .setting("synchronous_commit", "off")
        .setting("wal_writer_delay", "10s")
        .setting("full_page_writes", "off")
        .setting("autovacuum", "off")
        .start();
    prepare(cluster)
}

/// Kills the whole server; what was committed last is lost.
fn kill_server(db: &Database) {
    db.cluster.kill9_postmaster();
    db.cluster.start();
}

/// Kills one process of it: the server ends the others, forgets shared memory and recovers.
fn kill_backend(db: &Database) {
    let reinitialised = || db.cluster.log().matches("reinitializing").count();
    let before = reinitialised();
    let mut victim = db.app();
    process::kill9(u32::try_from(victim.backend_pid()).unwrap_or(0));
    wait_for("the server to recover", SOON, || reinitialised() > before);
}

/// A reader that goes on at a position after its server was away.
fn resumed(db: &Database, last: i64) -> Reader {
    let mut reader = Reader::of(db, "lost");
    reader.last = last;
    reader
}

/// Appends, has it read, and crashes before it is durable; then the same with what was appended after the crash.
/// Returns the highest position that anybody has seen.
fn never_reissues(db: &Database, crashes: &[fn(&Database)]) -> i64 {
    db.admin().exec("CHECKPOINT");
    let (mut last, mut lost) = (0, 0);
    for (round, crash) in crashes.iter().enumerate() {
        let mut app = db.app();
        let mut reader = resumed(db, last);
        // Few, so that they do not fill a page of WAL, which would be written.
        let seen: Vec<i64> = (0..2).map(|_| append(&mut app, "lost-1").global).collect();
        assert!(seen[0] > last, "{} comes after {last}, which was seen, in round {round}", seen[0]);
        assert_eq!(reader.read(), seen);
        last = reader.last();
        crash(db);
        let left = committed(&mut db.admin(), None);
        lost += usize::from(!left.contains(&last));
        assert_eq!(resumed(db, last).read(), NOTHING);
    }
    // Now and then somebody else's records fill the page, so that it is written.
    assert!(lost >= 2, "{lost} of {} crashes took something back: this shows nothing", crashes.len());
    last
}

#[test]
fn pitfall_14_crashes_never_reissue_a_position() {
    let cluster = forgetful(true);
    let db = Database::create(&cluster, "es_crash");
    publish(
        &mut db.app(),
        &json!({"name": "echo", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}),
    );
    let last = never_reissues(&db, &[kill_server, kill_server, kill_backend, kill_backend, kill_server]);
    // Who comes first after the crash may be a turn.
    let run = start(&mut db.app(), "echo", &json!(1));
    let mut admin = db.admin();
    ended(&mut admin, run);
    let first: i64 = admin.value("SELECT min(global_position) FROM meshhook.run_event", &[]);
    assert!(first > last, "an event at {first} comes after {last}, which was seen");
    let next = append(&mut db.app(), "lost-1");
    assert_eq!(resumed(&db, last).read(), [next.global]);
}

#[test]
fn pitfall_14_crashes_never_reissue_a_position_without_preloading() {
    let cluster = forgetful(false);
    let db = Database::create(&cluster, "es_crash");
    let last = never_reissues(&db, &[kill_server, kill_server, kill_backend]);
    let kept = i64::try_from(committed(&mut db.admin(), None).len()).unwrap_or(0);
    let next = append(&mut db.app(), "lost-1");
    assert_eq!(next.position, kept, "the stream goes on behind what is left of it");
    assert_eq!(resumed(&db, last).read(), [next.global]);
}

#[test]
fn a_clean_restart_changes_nothing() {
    let cluster = meshhook_e2e::own_cluster(true);
    let db = Database::create(&cluster, "es_restart");
    let first = append(&mut db.app(), "kept-1");
    cluster.restart(meshhook_testkit::StopMode::Fast);
    let next = append(&mut db.app(), "kept-1");
    assert_eq!((next.position, next.global), (1, first.global + 1), "nothing was lost, nothing is skipped");
    assert_eq!(Reader::of(&db, "kept").read(), [first.global, next.global]);
}
