//! `LISTEN meshhook_messages`: told at once, told seldom, and never left behind.

use super::{NOTHING, Reader, append, committed};
use meshhook_e2e::{Database, SOON};
use meshhook_testkit::{Session, wait_for};
use postgres::fallible_iterator::FallibleIterator;
use std::time::{Duration, Instant};

/// A session that listens.
fn listener(db: &Database) -> Session {
    let mut session = db.app();
    session.exec("LISTEN meshhook_messages");
    session
}

/// Waits for a notification; `None` if none comes in time.
fn notified(session: &mut Session, limit: Duration) -> Option<String> {
    let next = session.notifications().timeout_iter(limit).next();
    next.expect("the connection holds").map(|notification| notification.payload().to_owned())
}

#[test]
fn the_first_notification_comes_at_once_and_without_a_payload() {
    let db = Database::preloaded("es_listen");
    let (mut listening, mut app) = (listener(&db), db.app());
    wait_for("an orchestrator", SOON, || db.cluster.orchestrator(&db.name).is_some());
    assert_eq!(notified(&mut listening, Duration::from_millis(500)), None, "nothing on idle");
    let mut latencies: Vec<Duration> = (0..15)
        .map(|_| {
            append(&mut app, "listen-1");
            let committed = Instant::now();
            let payload = notified(&mut listening, SOON);
            assert_eq!(payload.as_deref(), Some(""));
            let took = committed.elapsed();
            // One commit is one notification, and after it there is silence.
            assert_eq!(notified(&mut listening, Duration::from_millis(40)), None);
            took
        })
        .collect();
    latencies.sort();
    println!("commit to listener: median {:?}, worst {:?}", latencies[7], latencies[14]);
    assert!(latencies[7] < Duration::from_millis(100), "median {:?}", latencies[7]);
}

#[test]
fn a_burst_gives_few_notifications_and_the_last_one_leaves_nothing_behind() {
    const BURST: usize = 1_000;
    let db = Database::preloaded("es_burst");
    let mut listening = listener(&db);
    let mut reader = Reader::of(&db, "burst");
    wait_for("an orchestrator", SOON, || db.cluster.orchestrator(&db.name).is_some());
    std::thread::scope(|scope| {
        let started = Instant::now();
        let writer = scope.spawn(|| {
            let mut app = db.app();
            for _ in 0..BURST {
                append(&mut app, "burst-1");
            }
        });
        let mut count = 0;
        // A listener looks when it is told and at no other time.
        while reader.seen.len() < BURST {
            let payload = notified(&mut listening, SOON);
            assert!(payload.is_some(), "left behind at {} of {BURST}", reader.seen.len());
            count += 1;
            reader.read();
        }
        let elapsed = started.elapsed();
        writer.join().expect("the writer writes");
        count += std::iter::from_fn(|| notified(&mut listening, Duration::from_millis(200))).count();
        println!("{BURST} appends in {elapsed:?}: {count} notifications");
        let most = usize::try_from(elapsed.as_millis() / 10).unwrap_or(0) + 3;
        assert!(count <= most, "{count} notifications, {most} would be one every 10 ms");
        assert!(count < BURST / 2, "{count} notifications for {BURST} appends");
    });
    assert_eq!(reader.seen, committed(&mut db.admin(), None));
}

#[test]
fn a_listener_is_told_when_what_was_withheld_is_released() {
    let db = Database::preloaded("es_listen_held");
    let (mut listening, mut early, mut app) = (listener(&db), db.app(), db.app());
    let mut reader = Reader::of(&db, "held");
    for end in ["COMMIT", "ROLLBACK"] {
        early.exec("BEGIN");
        append(&mut early, "held-1");
        append(&mut app, "held-2");
        // Whether it is told of what it cannot read yet does not matter.
        while notified(&mut listening, Duration::from_millis(200)).is_some() {
            assert_eq!(reader.read(), NOTHING);
        }
        early.exec(end);
        assert!(notified(&mut listening, Duration::from_secs(5)).is_some(), "told of the {end}");
        assert_eq!(reader.read().len(), if end == "COMMIT" { 2 } else { 1 });
    }
}

#[test]
fn a_worker_that_is_started_by_hand_tells_listeners_too() {
    let db = Database::plain("es_listen_plain");
    let mut listening = listener(&db);
    db.admin().exec("SELECT meshhook.start_workers()");
    wait_for("an orchestrator", SOON, || db.cluster.orchestrator(&db.name).is_some());
    let mut app = db.app();
    // The first may be told of what was there before it came.
    append(&mut app, "listen-1");
    assert_eq!(notified(&mut listening, SOON).as_deref(), Some(""));
    while notified(&mut listening, Duration::from_millis(600)).is_some() {}
    let since = Instant::now();
    append(&mut app, "listen-1");
    assert_eq!(notified(&mut listening, SOON).as_deref(), Some(""));
    assert!(since.elapsed() < Duration::from_secs(5), "it took {:?}", since.elapsed());
    assert_eq!(notified(&mut listening, Duration::from_millis(600)), None, "nothing on idle");
    db.admin().exec("SELECT meshhook.stop_workers()");
}
