//! Who waits for messages is woken by whatever makes one readable, at once, and by nothing else; and waiting costs
//! nobody anything.

use super::{NOTHING, Pending, Reader, append, both, committed};
use meshhook_e2e::{Database, SOON, chain, own_cluster, publish, start};
use meshhook_testkit::{Session, wait_for};
use serde_json::json;
use std::time::{Duration, Instant};

/// The longest that a wait in these tests may last: far beyond what any of them should take.
const TIMEOUT: &str = "30 s";
/// What "at once" means on a machine that does other things too; far below the timeout.
const PROMPT: Duration = Duration::from_secs(1);

fn call(category: Option<&str>, after: i64, timeout: &str) -> String {
    let category = category.map_or("NULL".to_owned(), |name| format!("'{name}'"));
    format!("CALL meshhook.wait_for_messages({category}, {after}, '{timeout}')")
}

/// Starts a wait and returns once it sleeps.
#[track_caller]
fn waiting(db: &Database, category: Option<&str>, after: i64) -> Pending {
    let pending = Pending::start(db.app(), &call(category, after, TIMEOUT));
    pending.wait_asleep(&mut db.admin());
    pending
}

/// The wait ends well, and within [`PROMPT`] of a moment.
#[track_caller]
fn ends_promptly(pending: Pending, since: Instant, why: &str) {
    let ended = pending.end();
    let took = ended.at.saturating_duration_since(since);
    assert!(ended.succeeded().0[0].get::<_, bool>(0), "{why}");
    println!("woken after {took:?} {why}");
    assert!(took < PROMPT, "{took:?} {why}");
}

#[test]
fn pitfall_16_a_waiter_is_woken_when_what_was_withheld_is_released() {
    both("withheld", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        for end in ["COMMIT", "ROLLBACK", "its death"] {
            let mut early = db.app();
            let pid = early.backend_pid();
            early.exec("BEGIN");
            let last = append(&mut early, "held-1").global;
            let withheld = append(&mut app, "held-2").global;
            let mut waiters: Vec<Pending> = Vec::new();
            for category in [Some("held"), None] {
                waiters.push(waiting(db, category, last));
            }
            // Woken or not by what comes behind, nothing can be read yet.
            let behind = append(&mut app, "held-2").global;
            assert!(last < withheld && withheld < behind);
            let mut reader = Reader::of(db, "held");
            reader.last = last;
            assert_eq!(reader.read(), NOTHING);
            let since = Instant::now();
            if end == "its death" {
                admin.value::<bool>("SELECT pg_terminate_backend($1)", &[&pid]);
            } else {
                early.exec(end);
            }
            for waiter in waiters {
                ends_promptly(waiter, since, &format!("by {end}"));
            }
            assert_eq!(reader.read(), [withheld, behind]);
        }
    });
}

#[test]
fn a_waiter_is_woken_within_milliseconds_of_the_commit() {
    const ROUNDS: usize = 40;
    let db = Database::preloaded("es_latency");
    let (mut admin, mut app) = (db.admin(), db.app());
    let mut last = append(&mut app, "quick-0").global;
    let mut latencies: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let pending = Pending::start(db.app(), &call(Some("quick"), last, TIMEOUT));
            pending.wait_asleep(&mut admin);
            last = append(&mut app, "quick-1").global;
            let committed = Instant::now();
            let ended = pending.end();
            let took = ended.at.saturating_duration_since(committed);
            assert!(ended.succeeded().0[0].get::<_, bool>(0));
            took
        })
        .collect();
    latencies.sort();
    let (median, worst) = (latencies[ROUNDS / 2], latencies[ROUNDS - 1]);
    println!("commit to waiter: median {median:?}, worst {worst:?}");
    assert!(median < Duration::from_millis(50), "median {median:?}");
}

#[test]
fn a_wait_is_about_what_was_asked() {
    both("asked", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        admin.exec("SELECT meshhook.create_project('acme'); SELECT meshhook.add_member('acme', 'shop')");
        let ready = |session: &mut Session, category, after, timeout: &str| -> bool {
            session.value(&call(category, after, timeout), &[])
        };
        assert!(!ready(&mut app, Some("asked"), 0, "0 s"), "nothing is there");
        let first = append(&mut app, "asked-1").global;
        let started = Instant::now();
        for category in [Some("asked"), None] {
            assert!(ready(&mut app, category, 0, TIMEOUT) && ready(&mut app, category, first - 1, TIMEOUT));
        }
        assert!(started.elapsed() < PROMPT * 5, "what is there already is not waited for");
        // Neither another category, nor what is not committed, nor what is taken back, nor another project's.
        let pending = Pending::start(db.app(), &call(Some("asked"), first, "2 s"));
        let any = Pending::start(db.app(), &call(None, first, "2 s"));
        pending.wait_asleep(&mut admin);
        any.wait_asleep(&mut admin);
        let started = Instant::now();
        app.exec("BEGIN");
        append(&mut app, "asked-1");
        app.exec("ROLLBACK");
        let mut tenant = db.app();
        tenant.exec("SET meshhook.project = 'acme'");
        append(&mut tenant, "asked-1");
        wait_for("most of the wait to pass", SOON, || started.elapsed() > Duration::from_millis(300));
        append(&mut app, "other-1");
        ends_promptly(any, started + Duration::from_millis(300), "by another category, for it waits for any");
        let ended = pending.end();
        assert!(ended.at - started > Duration::from_millis(1_500), "it waited for its time");
        assert!(!ended.succeeded().0[0].get::<_, bool>(0), "in vain");
        // The other project's waiter is told of its own.
        let ready: bool = tenant.value(&call(Some("asked"), 0, TIMEOUT), &[]);
        assert!(ready);
    });
}

#[test]
fn a_wait_for_runs_ends_with_an_event() {
    let db = Database::preloaded("es_run_wait");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let pending = waiting(&db, Some("meshhook:run"), 0);
    let since = Instant::now();
    start(&mut db.app(), "chain", &json!({}));
    ends_promptly(pending, since, "by a turn");
}

#[test]
fn a_wait_is_refused_where_it_would_hold_others_up() {
    both("refused", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        admin.exec(
            "CREATE FUNCTION waits() RETURNS boolean LANGUAGE plpgsql AS $$ DECLARE ready boolean; \
             BEGIN CALL meshhook.wait_for_messages('refused', 0, '20 s', ready); RETURN ready; END $$",
        );
        app.exec("BEGIN");
        append(&mut app, "refused-2");
        let started = Instant::now();
        let error = app.error(&call(Some("refused"), 0, "20 s"), &[]);
        assert_eq!(error.code().code(), "55000");
        assert!(error.hint().is_some_and(|hint| hint.to_lowercase().contains("commit")), "{error:?}");
        app.exec("ROLLBACK");
        let error = app.error("SELECT waits()", &[]);
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "it says so at once");
        // A block of code that may commit may wait.
        let wait = "DO $$ DECLARE ready boolean; BEGIN CALL meshhook.wait_for_messages('refused', 0, '1 ms', ready); \
                    RAISE NOTICE 'ready: %', ready; END $$";
        app.exec(wait);
        assert_eq!(app.take_notices()[0].message(), "ready: f");
    });
}

/// The SQLSTATE of a wait with these arguments, if it fails.
fn failure(session: &mut Session, arguments: &str) -> Option<String> {
    let result = session.query(&format!("CALL meshhook.wait_for_messages({arguments})"), &[]);
    result.err().map(|e| super::code(&e).to_owned())
}

#[test]
fn a_wait_may_be_as_long_or_as_short_as_one_likes() {
    both("odd", |db| {
        let mut app = db.app();
        assert_eq!(failure(&mut app, "'odd', 0, '-1 s'"), None, "a time that is over is over");
        assert_eq!(failure(&mut app, "'odd', NULL, '1 ms'"), None);
        assert_eq!(failure(&mut app, "'odd-1', 0").as_deref(), Some("22023"), "a stream is no category");
        // However long: it waits until the statement's time is up.
        app.exec("SET statement_timeout = '300 ms'");
        for timeout in ["1 day", "60 days", "1000 years"] {
            assert_eq!(
                failure(&mut app, &format!("'odd', 0, '{timeout}'")).as_deref(),
                Some("57014"),
                "{timeout}"
            );
        }
    });
}

#[test]
fn a_wait_without_a_time_does_not_look_again_and_again() {
    both("no_time", |db| {
        let (mut app, mut admin) = (db.app(), db.admin());
        app.exec("SET statement_timeout = '1 s'");
        let pending = Pending::start(app, "CALL meshhook.wait_for_messages('odd', 0, NULL)");
        let (mut asleep, mut looks) = (0, 0);
        while !pending.thread.is_finished() {
            asleep += i32::from(admin.value::<bool>(
                "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Extension'",
                &[&pending.pid()],
            ));
            looks += 1;
        }
        let refused = matches!(&pending.end().result, Err(e) if super::code(e).starts_with("22"));
        assert!(refused || asleep * 2 > looks, "it was busy in {} of {looks} looks", looks - asleep);
    });
}

#[test]
fn a_waiter_holds_no_snapshot() {
    both("no_snapshot", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        let pending = waiting(db, Some("quiet"), 0);
        let pid = pending.pid();
        let held = (0..40)
            .filter(|_| {
                // Appends elsewhere make a waiter look where nobody tells it what they were about.
                append(&mut app, "loud-1");
                let sql = "SELECT backend_xmin IS NOT NULL OR backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = $1";
                let pause = Instant::now();
                wait_for("a moment", SOON, || pause.elapsed() > Duration::from_millis(20));
                admin.value::<bool>(sql, &[&pid])
            })
            .count();
        assert!(held <= 4, "{held} of 40 looks found a snapshot held");
        let since = Instant::now();
        append(&mut app, "quiet-1");
        ends_promptly(pending, since, "after all those looks");
    });
}

#[test]
fn a_waiter_can_be_called_away_and_goes_on() {
    both("away", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        app.exec("SET statement_timeout = '200ms'");
        for _ in 0..3 {
            let error = app.error(&call(Some("away"), 0, TIMEOUT), &[]);
            assert_eq!(error.code().code(), "57014");
        }
        app.exec("RESET statement_timeout");
        assert_eq!(append(&mut app, "away-1").position, 0, "the session is as good as new");
        assert!(app.value::<bool>(&call(Some("away"), 0, TIMEOUT), &[]));
        // One that is killed while it waits leaves nothing that others would stumble over.
        let pending = waiting(db, Some("away"), 9_999);
        admin.value::<bool>("SELECT pg_terminate_backend($1, 10000)", &[&pending.pid()]);
        assert!(pending.end().result.is_err());
        let last = append(&mut app, "away-1").global;
        let pending = waiting(db, Some("away"), last);
        let since = Instant::now();
        append(&mut app, "away-1");
        ends_promptly(pending, since, "after others have gone");
    });
}

#[test]
fn no_waiter_is_stranded_while_many_append_and_roll_back() {
    const WRITERS: u64 = 50;
    const EACH: usize = 12;
    for preload in [true, false] {
        // Of its own: it needs most of the connections.
        let cluster = own_cluster(preload);
        let db = Database::create(&cluster, "es_many");
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|seed| {
                    let db = &db;
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed(seed);
                        let mut session = db.app();
                        let mut kept = 0;
                        for _ in 0..EACH {
                            session.exec("BEGIN");
                            append(&mut session, &format!("many-{seed}"));
                            if rng.bool() {
                                session.exec("ROLLBACK");
                            } else {
                                session.exec("COMMIT");
                                kept += 1;
                            }
                        }
                        kept
                    })
                })
                .collect();
            let waiter = scope.spawn(|| {
                let mut waiting = db.app();
                let mut reader = Reader::of(&db, "many");
                let mut waits = 0;
                let end = format!("SELECT global_position FROM meshhook.last_message('many-{WRITERS}')");
                // A stream of its own is the end: when it can be read, everything before it can.
                loop {
                    let ready: bool = waiting.value(&call(Some("many"), reader.last(), TIMEOUT), &[]);
                    assert!(ready, "stranded behind {}", reader.last());
                    waits += 1;
                    reader.read_once();
                    if waiting.values::<i64>(&end, &[]).first() == reader.seen.last() {
                        return (reader.seen, waits);
                    }
                }
            });
            let kept: usize = writers.into_iter().map(|writer| writer.join().expect("no writer fails")).sum();
            append(&mut db.app(), &format!("many-{WRITERS}"));
            let (seen, waits) = waiter.join().expect("the waiter is not stranded");
            println!("{} messages in {waits} waits", seen.len());
            assert_eq!(seen.len(), kept + 1);
            assert_eq!(seen, committed(&mut db.admin(), None));
        });
    }
}
