//! A consumer changes its size while messages come and members read: each message is somebody's, once.

use super::{append, both, committed};
use meshhook_e2e::{Database, SOON, Stop, counted};
use meshhook_testkit::{Session, wait_for};
use std::collections::BTreeMap;
use std::time::Instant;

/// Streams enough that every member of every size has some.
const STREAMS: u8 = 23;

/// Reads up to `batch` messages for a member and keeps a note of each in the same transaction as the position.
/// Returns how many there were, or the SQLSTATE of whatever refused it.
fn deliver(session: &mut Session, member: i32, batch: i32) -> Result<usize, String> {
    let mut transaction = || -> Result<usize, postgres::Error> {
        session.batch_execute("BEGIN")?;
        let rows = session.query(
            "SELECT global_position, token FROM meshhook.read_consumer('worker', 'work', $1, $2)",
            &[&batch, &member],
        )?;
        for row in &rows {
            session.execute(
                "INSERT INTO delivered (global_position, member) VALUES ($1, $2)",
                &[&row.get::<_, i64>(0), &member],
            )?;
        }
        if let Some(last) = rows.last() {
            let (position, token): (i64, i64) = (last.get(0), last.get(1));
            session.query(
                "SELECT meshhook.commit_consumer('worker', $1, $2, $3)",
                &[&position, &token, &member],
            )?;
        }
        session.batch_execute("COMMIT")?;
        Ok(rows.len())
    };
    let result = transaction();
    if result.is_err() {
        let _ = session.batch_execute("ROLLBACK");
    }
    result.map_err(|e| super::code(&e).to_owned())
}

fn table(admin: &mut Session) {
    // No key: what is delivered twice is to be counted, not refused.
    admin.exec(
        "CREATE TABLE delivered (n bigserial, global_position bigint, member int); GRANT ALL ON delivered TO shop; \
         GRANT ALL ON SEQUENCE delivered_n_seq TO shop",
    );
}

/// Every message was delivered once, and the messages of each stream in order.
fn assert_delivered(db: &Database) {
    let mut admin = db.admin();
    let delivered: Vec<i64> = admin.values("SELECT global_position FROM delivered ORDER BY 1", &[]);
    let expected = committed(&mut admin, Some("work"));
    let mut counts: BTreeMap<i64, usize> = expected.iter().map(|global| (*global, 0)).collect();
    delivered.iter().for_each(|global| *counts.entry(*global).or_default() += 1);
    let wrong: Vec<(i64, usize)> = counts.into_iter().filter(|(_, count)| *count != 1).collect();
    assert!(wrong.is_empty(), "messages and how often they were delivered: {wrong:?}");
    let disordered = "SELECT count(*) FROM (SELECT m.position, lag(m.position) OVER (PARTITION BY m.stream_id ORDER BY d.n) AS before \
                      FROM delivered d JOIN meshhook.message m USING (global_position)) AS each WHERE position < before";
    assert_eq!(counted(&mut admin, disordered), 0, "no stream's messages change their order");
}

/// Lets every member of a size read until nothing is left.
fn drain(session: &mut Session, size: i32) {
    for member in 0..size {
        while deliver(session, member, 5).expect("nobody interferes") > 0 {}
    }
}

#[test]
fn step_by_step_nothing_is_lost_and_nothing_comes_twice() {
    both("steps", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        table(&mut admin);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut write = |app: &mut Session, count| {
            for _ in 0..count {
                append(app, &format!("work-{}", rng.u8(0..STREAMS)));
            }
            append(app, "work");
        };
        write(&mut app, 40);
        deliver(&mut app, 0, 5).expect("the first member reads");
        let mut size = 1;
        for next in [3, 2, 5, 1, 4, 4, 2] {
            app.exec(&format!("SELECT meshhook.resize_consumer('worker', {next})"));
            size = next;
            // Each gets to another place, and some nowhere, before the next change.
            for member in 0..size {
                for _ in 0..=member {
                    deliver(&mut app, member, 3).expect("nobody interferes");
                }
            }
            write(&mut app, 15);
        }
        drain(&mut app, size);
        assert_delivered(db);
        let layers: i32 = admin.value("SELECT jsonb_array_length(layers) FROM meshhook.consumer", &[]);
        app.exec("SELECT meshhook.resize_consumer('worker', 1)");
        let left: i32 = admin.value("SELECT jsonb_array_length(layers) FROM meshhook.consumer", &[]);
        assert!(left <= layers, "what no longer matters is forgotten");
        let worked = "SELECT count(*) FROM meshhook.consumer_position";
        assert_eq!(counted(&mut admin, worked), 1, "one row for each member");
    });
}

#[test]
fn what_was_read_and_not_committed_comes_again_from_the_new_owner() {
    both("uncommitted", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        table(&mut admin);
        for n in 0..20 {
            append(&mut app, &format!("work-{}", n % STREAMS));
        }
        deliver(&mut app, 0, 4).expect("some are done");
        let mut slow = db.app();
        slow.exec("BEGIN");
        let seen =
            slow.rows("SELECT global_position, token FROM meshhook.read_consumer('worker', 'work', 10)", &[]);
        assert_eq!(seen.len(), 10);
        app.exec("SELECT meshhook.resize_consumer('worker', 3)");
        let (last, token): (i64, i64) = (seen[9].get(0), seen[9].get(1));
        let commit = "SELECT meshhook.commit_consumer('worker', $1, $2)";
        assert_eq!(slow.error(commit, &[&last, &token]).code().code(), "55000");
        slow.exec("ROLLBACK");
        drain(&mut app, 3);
        assert_delivered(db);
    });
}

#[test]
fn a_reader_held_to_a_snapshot_does_not_divide_as_before() {
    both("stale_group", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        table(&mut admin);
        for n in 0..20 {
            append(&mut app, &format!("work-{}", n % STREAMS));
        }
        deliver(&mut app, 0, 4).expect("some are done");
        let mut held = db.app();
        held.exec("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
        app.exec("SELECT meshhook.resize_consumer('worker', 3)");
        // It may be refused, or be given what the first of three members has; not what the only one had.
        let sql = "SELECT global_position, token FROM meshhook.read_consumer('worker', 'work', 100)";
        let result = held.query(sql, &[]).map(|rows| {
            for row in &rows {
                held.exec(&format!("INSERT INTO delivered VALUES (DEFAULT, {}, 0)", row.get::<_, i64>(0)));
            }
            rows.last().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)))
        });
        let committed = match result {
            Ok(Some((last, token))) => {
                let commit = "SELECT meshhook.commit_consumer('worker', $1, $2)";
                held.query(commit, &[&last, &token]).is_ok()
            }
            Ok(None) => true,
            Err(_) => false,
        };
        held.exec(if committed { "COMMIT" } else { "ROLLBACK" });
        drain(&mut app, 3);
        assert_delivered(db);
    });
}

#[test]
fn while_writers_write_and_members_read_each_message_comes_once() {
    const SIZES: [i32; 6] = [3, 2, 5, 1, 4, 5];
    both("rebalanced", |db| {
        table(&mut db.admin());
        append(&mut db.app(), "work-0");
        deliver(&mut db.app(), 0, 1).expect("the first read makes the consumer");
        let (stop, writing) = (Stop::default(), Stop::default());
        std::thread::scope(|scope| {
            let (end, written) = (stop.at_end(), writing.at_end());
            let readers: Vec<_> = (0..5)
                .map(|member| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let mut session = db.app();
                        while !stop.is_set() {
                            // A member that is none at the moment, a token of before: both are refused, and right so.
                            if let Err(code) = deliver(&mut session, member, 7) {
                                assert!(["22023", "55000", "40001"].contains(&code.as_str()), "{code}");
                            }
                        }
                    })
                })
                .collect();
            for seed in 0..2 {
                let writing = &writing;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let mut session = db.app();
                    while !writing.is_set() {
                        append(&mut session, &format!("work-{}", rng.u8(0..STREAMS)));
                    }
                });
            }
            let (mut app, mut admin) = (db.app(), db.admin());
            let delivered = "SELECT count(*) FROM delivered";
            for size in SIZES {
                let (before, since) = (counted(&mut admin, delivered), Instant::now());
                wait_for("members to read on", SOON, || {
                    counted(&mut admin, delivered) > before + 20 || since.elapsed() > SOON / 4
                });
                app.exec(&format!("SELECT meshhook.resize_consumer('worker', {size})"));
            }
            drop(written);
            wait_for("all to be delivered", SOON, || {
                let behind = "SELECT count(*) - (SELECT count(DISTINCT global_position) FROM delivered) \
                              FROM meshhook.message";
                counted(&mut admin, behind) == 0
            });
            drop(end);
            readers.into_iter().for_each(|reader| reader.join().expect("no reader fails"));
        });
        drain(&mut db.app(), SIZES[SIZES.len() - 1]);
        assert_delivered(db);
    });
}
