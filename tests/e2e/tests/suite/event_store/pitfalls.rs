//! What readers of a global order get wrong elsewhere: positions that are drawn in one order and committed in another.
//! Stalled writers are in `stalled`, transactions and savepoints in `transactions`, crashes in `crash`, standbys in
//! `standby`, waiters in `waking`, dumps and upgrades in `dump`.

use super::{NOTHING, Pending, Reader, append, append_all, both, code, committed, last_drawn, safe};
use meshhook_e2e::{Database, Stop, counted};
use std::sync::atomic::{AtomicI64, Ordering};

#[test]
fn pitfall_01_a_later_transaction_id_with_an_earlier_position() {
    both("inverted", |db| {
        let (mut admin, mut early, mut late) = (db.admin(), db.app(), db.app());
        let mut readers = [Reader::of(db, "pair"), Reader::of_all(db)];
        early.exec("BEGIN");
        let lower: i64 = early.value("SELECT pg_current_xact_id()::text::bigint", &[]);
        late.exec("BEGIN");
        let first = append(&mut late, "pair-1");
        let higher: i64 = late.value("SELECT pg_current_xact_id()::text::bigint", &[]);
        let second = append(&mut early, "pair-2");
        assert!(lower < higher && first.global < second.global, "the pair is inverted");
        early.exec("COMMIT");
        assert_eq!(committed(&mut admin, None), [second.global], "the second one is there to be seen");
        for reader in &mut readers {
            assert_eq!(reader.read(), NOTHING, "and yet it is held back");
        }
        late.exec("COMMIT");
        for reader in &mut readers {
            assert_eq!(reader.read(), [first.global, second.global]);
        }
        // The other way round the first one need not wait for the second.
        early.exec("BEGIN");
        early.value::<i64>("SELECT pg_current_xact_id()::text::bigint", &[]);
        late.exec("BEGIN");
        let first = append(&mut late, "pair-1");
        let second = append(&mut early, "pair-2");
        late.exec("COMMIT");
        for reader in &mut readers {
            assert_eq!(reader.read(), [first.global], "nobody holds what is below its bound");
        }
        early.exec("COMMIT");
        for reader in &mut readers {
            assert_eq!(reader.read(), [second.global]);
        }
    });
}

#[test]
fn pitfall_03_of_two_appenders_the_later_commits_first() {
    both("later_first", |db| {
        let mut admin = db.admin();
        let sessions: &mut Vec<_> = &mut (0..4).map(|_| db.app()).collect();
        let mut readers = [Reader::of(db, "order"), Reader::of_all(db)];
        let mut globals = Vec::new();
        for (n, session) in sessions.iter_mut().enumerate() {
            session.exec("BEGIN");
            globals.push(append(session, &format!("order-{n}")).global);
        }
        assert!(globals.is_sorted());
        // The last one first: nothing can be read until the first one ends, then everything.
        for session in sessions.iter_mut().skip(1).rev() {
            session.exec("COMMIT");
            assert_eq!(safe(&mut admin, Some("order")), globals[0] - 1);
            assert!(readers.iter_mut().all(|reader| reader.read().is_empty()));
        }
        assert_eq!(committed(&mut admin, None), globals[1..]);
        sessions[0].exec("COMMIT");
        assert_eq!(safe(&mut admin, Some("order")), globals[3]);
        for reader in &mut readers {
            assert_eq!(reader.read(), globals);
        }
    });
}

#[test]
fn pitfall_04_a_rollback_leaves_a_gap_that_nobody_waits_at() {
    both("gap", |db| {
        let (mut admin, mut first, mut second) = (db.admin(), db.app(), db.app());
        let mut reader = Reader::of(db, "gap");
        let start = append(&mut first, "gap-1");
        first.exec("BEGIN");
        let gone = append(&mut first, "gap-1");
        let kept = append(&mut second, "gap-2");
        assert_eq!(reader.read(), [start.global]);
        first.exec("ROLLBACK");
        assert_eq!(reader.read(), [kept.global], "the gap is known to be one at once");
        assert!(start.global < gone.global && gone.global < kept.global);
        let next = append(&mut first, "gap-1");
        assert_eq!((next.position, reader.read()), (1, vec![next.global]), "a stream has no gap");
        assert!(next.global > kept.global);
        assert_eq!(committed(&mut admin, None), [start.global, kept.global, next.global]);
        // Ended by its death instead: the same.
        first.exec("BEGIN");
        append(&mut first, "gap-1");
        let kept = append(&mut second, "gap-2");
        assert_eq!(reader.read(), NOTHING);
        let pid = first.backend_pid();
        assert!(admin.value::<bool>("SELECT pg_terminate_backend($1, 10000)", &[&pid]));
        assert_eq!(reader.read(), [kept.global]);
    });
}

#[test]
fn pitfall_05_who_loses_a_race_burns_no_position() {
    both("loser", |db| {
        let (mut admin, mut winner) = (db.admin(), db.app());
        let expecting = |version: i64| {
            format!("SELECT meshhook.append_message('race-1', 'Won', '{{}}', NULL, {version})")
        };
        winner.exec("BEGIN");
        winner.value::<i64>(&expecting(-1), &[]);
        let pending = Pending::start(db.app(), &expecting(-1));
        pending.wait_blocked(&mut admin);
        winner.exec("COMMIT");
        let drawn = last_drawn(&mut admin);
        let (state, mut loser) = pending.end().failed();
        assert_eq!((state.as_str(), last_drawn(&mut admin)), ("55000", drawn));
        // Without a race, and where only the last of many messages is wrong.
        let error = loser.error(&expecting(7), &[]);
        assert_eq!(error.code().code(), "55000");
        assert_eq!(error.detail(), Some("Expected version 7, stream is at version 0."));
        let many = "SELECT * FROM meshhook.append_messages('{race-2,race-3,race-1}', '{A,B,C}', \
                    ARRAY['1', '2', '3']::jsonb[], NULL, '{-1,-1,-1}')";
        assert_eq!(loser.error(many, &[]).code().code(), "55000");
        assert_eq!(last_drawn(&mut admin), drawn);
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.streams"), 1, "nor a stream made");
        // An id that is known before is refused before anything is drawn too, if a repetition is asked for.
        let repeated = "SELECT meshhook.append_message('race-1', 'Won', '{}', NULL, NULL, \
                        (SELECT id FROM meshhook.last_message('race-1')), true)";
        assert_eq!(loser.value::<i64>(repeated, &[]), 0);
        assert_eq!(last_drawn(&mut admin), drawn);
    });
}

#[test]
fn pitfall_05_a_crowd_of_losers_burns_no_position_either() {
    const ROUNDS: i64 = 40;
    const RACERS: usize = 6;
    both("losers", |db| {
        let mut admin = db.admin();
        append(&mut db.app(), "warm-up");
        let before = last_drawn(&mut admin);
        let (won, lost) = (AtomicI64::new(0), AtomicI64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..RACERS {
                scope.spawn(|| {
                    let mut session = db.app();
                    // Whoever loses one version finds the next one open or lost as well: each is won once.
                    for version in -1..ROUNDS - 1 {
                        let sql = "SELECT meshhook.append_message('race-1', 'Won', '{}', NULL, $1)";
                        match session.query(sql, &[&version]) {
                            Ok(_) => won.fetch_add(1, Ordering::Relaxed),
                            Err(e) if code(&e) == "55000" => lost.fetch_add(1, Ordering::Relaxed),
                            Err(e) => panic!("{}", meshhook_testkit::session::describe(&e)),
                        };
                    }
                });
            }
        });
        let racers = i64::try_from(RACERS).unwrap_or(0);
        assert_eq!((won.into_inner(), lost.into_inner()), (ROUNDS, ROUNDS * (racers - 1)));
        assert_eq!(last_drawn(&mut admin), before + ROUNDS);
        let positions: Vec<i64> = admin.values("SELECT position FROM meshhook.read_stream('race-1')", &[]);
        assert_eq!(positions, (0..ROUNDS).collect::<Vec<_>>());
    });
}

#[test]
fn pitfall_11_many_categories_and_streams_in_any_order_never_deadlock() {
    const WRITERS: u64 = 8;
    const TRANSACTIONS: usize = 60;
    both("many_locks", |db| {
        let mut admin = db.admin();
        let stop = Stop::default();
        std::thread::scope(|scope| {
            let end = stop.at_end();
            let reader = scope.spawn(|| {
                let mut reader = Reader::of_all(db);
                while !stop.is_set() {
                    reader.read();
                }
                reader.read();
                reader.seen
            });
            let writers: Vec<_> = (0..WRITERS)
                .map(|seed| {
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed(seed);
                        let mut session = db.app();
                        for _ in 0..TRANSACTIONS {
                            let names: Vec<String> = (0..rng.usize(2..9))
                                .map(|_| format!("crowd{}-{}", rng.u8(0..4), rng.u8(0..5)))
                                .collect();
                            let names: Vec<&str> = names.iter().map(String::as_str).collect();
                            // Any error, a deadlock's 40P01 above all, fails here.
                            append_all(&mut session, &names);
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().expect("no writer fails");
            }
            drop(end);
            assert_eq!(reader.join().expect("the reader reads"), committed(&mut admin, None));
        });
        let gaps = "SELECT count(*) FROM (SELECT stream_id, count(*) AS n, max(position) AS last, min(position) AS first \
                    FROM meshhook.message GROUP BY 1) AS each WHERE first <> 0 OR last <> n - 1";
        assert_eq!(counted(&mut admin, gaps), 0, "no stream has a gap");
    });
}

#[test]
fn pitfall_13_a_sequence_with_a_cache_is_refused() {
    both("cache", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        append(&mut app, "cached-1");
        let before = (committed(&mut admin, None), last_drawn(&mut admin));
        admin.exec("ALTER SEQUENCE meshhook.global_position_seq CACHE 20");
        // Both who has appended before and who comes new.
        for mut session in [app, db.app()] {
            for sql in [
                "SELECT meshhook.append_message('cached-1', 'Noted', '{}')",
                "SELECT count(*) FROM meshhook.append_messages('{cached-2}', '{Noted}', ARRAY['{}']::jsonb[])",
            ] {
                let error = session.error(sql, &[]);
                assert_eq!(error.code().code(), "55000", "{error:?}");
                assert!(error.hint().is_some_and(|hint| hint.contains("CACHE 1")), "{error:?}");
            }
        }
        assert_eq!((committed(&mut admin, None), last_drawn(&mut admin)), before);
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.streams"), 1);
        admin.exec("ALTER SEQUENCE meshhook.global_position_seq CACHE 1");
        let next = append(&mut db.app(), "cached-1");
        assert_eq!((next.position, next.global > before.1), (1, true));
    });
}

#[test]
fn pitfall_13_turns_draw_from_no_cache_either() {
    let db = Database::plain("es_cache_turn");
    let mut admin = db.admin();
    let definition = meshhook_e2e::chain("chain", &["one"]);
    meshhook_e2e::publish(&mut db.app(), &definition);
    meshhook_e2e::start(&mut db.app(), "chain", &serde_json::json!({}));
    admin.exec("ALTER SEQUENCE meshhook.global_position_seq CACHE 20");
    assert_eq!(admin.error("SELECT meshhook.tick()", &[]).code().code(), "55000");
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.run_event"), 0);
    admin.exec("ALTER SEQUENCE meshhook.global_position_seq CACHE 1");
    assert_eq!(admin.value::<i32>("SELECT meshhook.tick()", &[]), 1);
}
