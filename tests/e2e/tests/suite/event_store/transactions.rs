//! Appends belong to their transaction, whatever becomes of it and whatever it may see; readers too.

use super::{Ended, NOTHING, Pending, Reader, append, append_all, both, code, committed, last_drawn};
use meshhook_e2e::{Database, counted};
use meshhook_testkit::Session;
use std::collections::BTreeSet;

#[test]
fn pitfall_06_a_reader_held_to_one_snapshot_never_passes_it() {
    both("one_snapshot", |db| {
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            let category = if level == "SERIALIZABLE" { "strict" } else { "repeated" };
            let stream = |n: i32| format!("{category}-{n}");
            let (mut late, mut app) = (db.app(), db.app());
            let before = append(&mut app, &stream(0));
            let mut sessions = [db.app(), db.app()];
            late.exec("BEGIN");
            let unseen = append(&mut late, &stream(1));
            let seen = append(&mut app, &stream(2));
            for session in &mut sessions {
                session.exec(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"));
            }
            late.exec("COMMIT");
            let newer = append(&mut app, &stream(2));
            // Their snapshot shows the second without the first.
            let [by_category, by_all] = sessions;
            let mut readers = [
                Reader::with(by_category, &format!("meshhook.read_category('{category}', $1, 50)")),
                Reader::with(by_all, "meshhook.read_all($1, 50)"),
            ];
            for reader in &mut readers {
                reader.read();
                assert_eq!(reader.last(), before.global, "{level}");
                assert_eq!(reader.read(), NOTHING);
                reader.session.exec("COMMIT");
                // The next transaction goes on from there.
                reader.session.exec(&format!("BEGIN ISOLATION LEVEL {level}"));
                assert_eq!(reader.read(), [unseen.global, seen.global, newer.global], "{level}");
                reader.session.exec("COMMIT");
            }
        }
    });
}

#[test]
fn pitfall_06_a_stable_function_is_held_to_its_statement_and_skips_nothing() {
    both("stable", |db| {
        let mut admin = db.admin();
        for (language, body) in [
            (
                "sql",
                "SELECT pg_advisory_xact_lock(7); SELECT global_position FROM meshhook.read_category('stable', $1)",
            ),
            (
                "plpgsql",
                "BEGIN PERFORM pg_advisory_xact_lock(7); \
              RETURN QUERY SELECT global_position FROM meshhook.read_category('stable', $1); END",
            ),
        ] {
            admin.exec(&format!(
                "CREATE FUNCTION paused_{language}(bigint) RETURNS SETOF bigint LANGUAGE {language} STABLE AS $$ {body} $$"
            ));
        }
        for language in ["sql", "plpgsql"] {
            let (mut late, mut app) = (db.app(), db.app());
            let from = last_drawn(&mut admin) + 1;
            late.exec("BEGIN");
            let first = append(&mut late, "stable-1").global;
            let second = append(&mut app, "stable-2").global;
            // The statement's snapshot is taken before the first one commits, the read comes after.
            admin.exec("SELECT pg_advisory_lock(7)");
            let pending = Pending::start(db.app(), &format!("SELECT * FROM paused_{language}({from})"));
            pending.wait_blocked(&mut app);
            late.exec("COMMIT");
            admin.exec("SELECT pg_advisory_unlock(7)");
            let (rows, mut session) = pending.end().succeeded();
            let seen: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            assert!(seen.is_empty() || seen == [first, second], "{language}: {seen:?}");
            let again: Vec<i64> = session.values(&format!("SELECT * FROM paused_{language}({from})"), &[]);
            assert_eq!(again, [first, second]);
        }
    });
}

#[test]
fn pitfall_09_a_savepoint_taken_back_does_not_let_readers_pass() {
    both("savepoints", |db| {
        let (mut admin, mut writer, mut other) = (db.admin(), db.app(), db.app());
        let mut readers = [Reader::of(db, "left"), Reader::of(db, "right"), Reader::of_all(db)];
        let read = |readers: &mut [Reader]| readers.iter_mut().map(|r| r.read().len()).collect::<Vec<_>>();
        // Positions from before a savepoint stay undecided when it is taken back.
        writer.exec("BEGIN");
        append(&mut writer, "left-1");
        writer.exec("SAVEPOINT s");
        append_all(&mut writer, &["left-1", "right-1"]);
        append_all(&mut other, &["left-2", "right-2"]);
        assert_eq!(read(&mut readers), [0, 0, 0]);
        writer.exec("ROLLBACK TO s");
        assert_eq!(readers[0].read(), NOTHING);
        // What was registered in the savepoint is registered again by the next append.
        assert_eq!(append(&mut writer, "right-1").position, 0, "the stream was taken back too");
        let behind = append_all(&mut other, &["right-2", "left-2"])[0].global;
        readers[1].read();
        assert!(!readers[1].seen.contains(&behind));
        writer.exec("COMMIT");
        read(&mut readers);
        // Nothing at all from before it; then released into an outer one that is taken back.
        writer.exec("BEGIN; SAVEPOINT a");
        append(&mut writer, "left-1");
        writer.exec("ROLLBACK TO a");
        append(&mut other, "left-2");
        read(&mut readers);
        writer.exec("SAVEPOINT b");
        append_all(&mut writer, &["left-1", "right-1"]);
        append_all(&mut other, &["left-2", "right-2"]);
        let held = read(&mut readers);
        assert_eq!((held[0], held[1]), (0, 0));
        writer.exec("RELEASE b; ROLLBACK TO a");
        append(&mut writer, "left-1");
        append(&mut other, "left-2");
        read(&mut readers);
        writer.exec("COMMIT");
        read(&mut readers);
        for (reader, category) in readers.iter_mut().zip([Some("left"), Some("right"), None]) {
            assert_eq!(reader.seen, committed(&mut admin, category), "of {category:?}");
        }
        let positions: Vec<i64> = admin.values("SELECT position FROM meshhook.read_stream('left-1')", &[]);
        assert_eq!(positions, [0, 1], "without a gap");
    });
}

#[test]
fn pitfall_09_an_exception_block_does_not_either() {
    both("exceptions", |db| {
        let (mut admin, mut writer, mut other) = (db.admin(), db.app(), db.app());
        let mut reader = Reader::of(db, "block");
        append(&mut other, "block-2");
        reader.read();
        writer.exec("BEGIN");
        // Failures of every kind around appends: the block's own, a wrong version, a repeated id, and one in between.
        writer.exec(
            "DO $$ DECLARE taken uuid := gen_random_uuid(); BEGIN
                BEGIN
                    PERFORM meshhook.append_message('block-1', 'Gone', '{}');
                    RAISE EXCEPTION 'no';
                EXCEPTION WHEN raise_exception THEN NULL; END;
                PERFORM meshhook.append_message('block-1', 'Kept', '{}', id => taken);
                BEGIN
                    PERFORM meshhook.append_message('block-1', 'Gone', '{}', expected_version => 9);
                EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL; END;
                BEGIN
                    PERFORM meshhook.append_message('aside-1', 'Gone', '{}', id => taken);
                EXCEPTION WHEN unique_violation THEN NULL; END;
                BEGIN
                    PERFORM meshhook.append_message('block-3', 'Gone', '{}');
                    PERFORM 1 / 0;
                EXCEPTION WHEN division_by_zero THEN
                    PERFORM meshhook.append_message('block-3', 'Kept', '{}');
                END;
             END $$",
        );
        let behind = append(&mut other, "block-2");
        assert_eq!(reader.read(), NOTHING);
        let own: Vec<String> = writer.values("SELECT type FROM meshhook.read_stream('block-1')", &[]);
        assert_eq!(own, ["Kept"]);
        append(&mut writer, "block-1");
        append(&mut other, "block-2");
        assert_eq!(reader.read(), NOTHING);
        writer.exec("COMMIT");
        assert!(reader.read().contains(&behind.global));
        assert_eq!(reader.seen, committed(&mut admin, Some("block")));
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.message WHERE type = 'Gone'"), 0);
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.position_holders"), 0);
    });
}

#[test]
fn transactions_inside_one_call_are_transactions() {
    both("procedure", |db| {
        let (mut admin, mut other) = (db.admin(), db.app());
        admin.exec(
            "CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$ BEGIN
                PERFORM meshhook.append_message('step-1', 'Kept', '{}');
                COMMIT;
                PERFORM meshhook.append_message('step-1', 'Gone', '{}');
                ROLLBACK;
                PERFORM meshhook.append_message('step-1', 'Kept', '{}');
                PERFORM pg_advisory_xact_lock(8);
             END $$",
        );
        admin.exec("SELECT pg_advisory_lock(8)");
        let mut reader = Reader::of(db, "step");
        let pending = Pending::start(db.app(), "CALL steps()");
        pending.wait_blocked(&mut admin);
        assert_eq!(reader.read().len(), 1, "the first is committed, the third is not");
        append(&mut other, "step-2");
        assert_eq!(reader.read(), NOTHING);
        admin.exec("SELECT pg_advisory_unlock(8)");
        pending.end().succeeded();
        assert_eq!(reader.read().len(), 2);
        assert_eq!(reader.seen, committed(&mut admin, None));
    });
}

#[test]
fn pitfall_10_a_transaction_that_has_appended_cannot_be_prepared() {
    both("prepared", |db| {
        let (mut admin, mut app, mut other) = (db.admin(), db.app(), db.app());
        let mut reader = Reader::of(db, "two");
        // What was appended may have been taken back: its positions are no less undecided.
        for around in ["", "SAVEPOINT s"] {
            app.exec("BEGIN");
            app.exec(around);
            append(&mut app, "two-1");
            if !around.is_empty() {
                app.exec("ROLLBACK TO s");
            }
            let error = app.error("PREPARE TRANSACTION 'es_two'", &[]);
            assert_eq!(error.code().code(), "0A000");
            assert!(error.detail().is_some() && error.hint().is_some(), "{error:?}");
            let next = append(&mut other, "two-2");
            assert_eq!(reader.read(), [next.global], "nothing is left that holds readers back");
        }
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'es_two'"), 0);
        // The session is as good as new, and what has not appended can be prepared.
        assert_eq!(append(&mut app, "two-1").position, 0);
        app.exec("BEGIN; SELECT * FROM meshhook.read_all(); SELECT pg_current_xact_id(); PREPARE TRANSACTION 'es_two'");
        app.exec("ROLLBACK PREPARED 'es_two'");
    });
}

#[test]
fn pitfall_17_an_append_to_a_stream_that_has_grown_is_a_serialization_failure() {
    both("grown", |db| {
        let mut other = db.app();
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            let name = level.replace(' ', "").to_lowercase();
            let stream = format!("{name}-1");
            let (fresh, steady) = (format!("{name}-2"), format!("{name}-3"));
            append_all(&mut other, &[&stream, &steady]);
            let calls = [
                format!("SELECT meshhook.append_message('{stream}', 'Late', '{{}}')"),
                // What the snapshot shows is version 0, and it is not what it was.
                format!("SELECT meshhook.append_message('{stream}', 'Late', '{{}}', expected_version => 0)"),
                format!("SELECT meshhook.append_message('{stream}', 'Late', '{{}}', expected_version => 1)"),
                format!("SELECT meshhook.append_message('{fresh}', 'Late', '{{}}', expected_version => -1)"),
            ];
            for call in &calls {
                let mut session = db.app();
                session.exec(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"));
                append_all(&mut other, &[&stream, &fresh]);
                assert_eq!(session.error(call, &[]).code().code(), "40001", "{level}: {call}");
                session.exec("ROLLBACK");
                // Tried again, as the code says.
                session.exec(&format!("BEGIN ISOLATION LEVEL {level}"));
                let first = append(&mut session, &stream).position;
                assert_eq!(append(&mut session, &stream).position, first + 1);
                session.exec("ROLLBACK");
            }
            // A stream that stood still takes it.
            let mut session = db.app();
            session.exec(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"));
            append(&mut other, &stream);
            assert_eq!(append(&mut session, &steady).position, 1);
            session.exec("COMMIT");
        }
    });
}

#[test]
fn pitfall_17_appenders_under_repeatable_read_make_no_gap_and_no_duplicate() {
    const EACH: usize = 25;
    both("repeatable", |db| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut session = db.app();
                    let mut done = 0;
                    while done < EACH {
                        session.exec("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
                        let sql = "SELECT meshhook.append_message('grown-1', 'Noted', '{}')";
                        match session.query(sql, &[]) {
                            Ok(_) => {
                                session.exec("COMMIT");
                                done += 1;
                            }
                            Err(e) => {
                                assert_eq!(code(&e), "40001");
                                session.exec("ROLLBACK");
                            }
                        }
                    }
                });
            }
        });
        let positions: Vec<i64> =
            db.app().values("SELECT position FROM meshhook.read_stream('grown-1')", &[]);
        assert_eq!(positions, (0..100).collect::<Vec<i64>>());
    });
}

#[test]
fn a_transaction_reads_what_it_has_appended() {
    both("own", |db| {
        let (mut app, mut other) = (db.app(), db.app());
        for level in ["READ COMMITTED", "REPEATABLE READ"] {
            let (category, stream) =
                if level.starts_with("READ") { ("own", "own-1") } else { ("mine", "mine-1") };
            app.exec(&format!("BEGIN ISOLATION LEVEL {level}"));
            let first = append(&mut app, stream);
            let count =
                |session: &mut Session, read: &str| counted(session, &format!("SELECT count(*) FROM {read}"));
            let by_category = format!("meshhook.read_category('{category}')");
            assert_eq!(count(&mut app, &format!("meshhook.read_stream('{stream}')")), 1, "{level}");
            assert_eq!(count(&mut app, &format!("meshhook.last_message('{stream}')")), 1);
            assert_eq!(
                app.value::<Option<i64>>(&format!("SELECT meshhook.stream_version('{stream}')"), &[]),
                Some(0)
            );
            assert_eq!(count(&mut app, &by_category), 1, "nothing else is open: {level}");
            assert_eq!(count(&mut other, &by_category), 0, "nobody else has it");
            // Somebody else opens the category below what comes next.
            other.exec("BEGIN");
            append(&mut other, &format!("{category}-2"));
            append(&mut app, stream);
            assert_eq!(
                count(&mut app, &format!("meshhook.read_stream('{stream}')")),
                2,
                "a stream has no horizon"
            );
            let seen: Vec<i64> = app.values(&format!("SELECT global_position FROM {by_category}"), &[]);
            assert_eq!(seen, [first.global]);
            other.exec("ROLLBACK");
            assert_eq!(count(&mut app, &by_category), 2);
            app.exec("ROLLBACK");
            assert_eq!(count(&mut app, &format!("meshhook.read_stream('{stream}')")), 0);
        }
    });
}

#[test]
fn writers_of_one_stream_queue_and_of_others_do_not() {
    both("queue", |db| {
        let (mut admin, mut holder) = (db.admin(), db.app());
        holder.exec("BEGIN");
        append(&mut holder, "queue-1");
        let pending: Vec<Pending> = (0..3)
            .map(|_| Pending::start(db.app(), "SELECT meshhook.append_message('queue-1', 'Noted', '{}')"))
            .collect();
        for one in &pending {
            one.wait_blocked(&mut admin);
        }
        let mut other = db.app();
        other.exec("SET lock_timeout = '5s'");
        append(&mut other, "queue-2");
        // Who waits for a lock has drawn nothing: it holds no reader back.
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.position_holders"), 1);
        holder.exec("COMMIT");
        let positions: BTreeSet<i64> =
            pending.into_iter().map(|one| Ended::succeeded(one.end()).0[0].get(0)).collect();
        assert_eq!(positions, BTreeSet::from([1, 2, 3]));
        assert_eq!(Reader::of(db, "queue").read(), committed(&mut admin, None));
    });
}

#[test]
fn a_canceled_append_leaves_nothing_behind() {
    both("canceled", |db: &Database| {
        let (mut admin, mut holder, mut app) = (db.admin(), db.app(), db.app());
        holder.exec("BEGIN");
        append(&mut holder, "cancel-1");
        app.exec("SET statement_timeout = '100ms'");
        let error = app.error("SELECT meshhook.append_message('cancel-1', 'Noted', '{}')", &[]);
        assert_eq!(error.code().code(), "57014");
        app.exec("SET statement_timeout = 0; SET lock_timeout = '100ms'");
        let error = app.error("SELECT meshhook.append_message('cancel-1', 'Noted', '{}')", &[]);
        assert_eq!(error.code().code(), "55P03");
        let drawn = last_drawn(&mut admin);
        holder.exec("COMMIT");
        let next = append(&mut app, "cancel-1");
        assert_eq!((next.position, next.global), (1, drawn + 1));
        assert_eq!(Reader::of(db, "cancel").read(), committed(&mut admin, None));
    });
}
