//! Sessions side by side: who waits for whom, what a reader may rely on, what a stale snapshot leads to.

use super::{
    Kind, Pending, Store, ask, lines, new_id, on, one, poll, refused, refused_with, write, write_with,
};
use meshhook_e2e::Stop;
use meshhook_testkit::Session;
use std::collections::BTreeSet;

/// The call that writes a message without expecting anything.
fn written(stream: &str) -> String {
    format!("SELECT message_store.write_message({}, '{stream}', 'T', '{{}}')", new_id())
}

/// A session that fails when it has to wait for a lock longer than a slow machine explains.
fn impatient(store: &Store) -> Session {
    let mut session = store.client();
    session.exec("SET lock_timeout = '10 s'");
    session
}

#[test]
fn acquire_lock_keeps_a_categorys_writers_out() {
    on(&Kind::ALL, |store| {
        let mut holder = store.client();
        let before = write(&mut holder, "locked-1");
        holder.exec("BEGIN");
        one(&mut holder, "SELECT message_store.acquire_lock('locked-anything')");
        let waiting = [written("locked-1"), written("locked-2"), written("locked")]
            .map(|sql| Pending::start(store.client(), &sql));
        for writer in &waiting {
            writer.wait_blocked(store);
        }
        let rival = Pending::start(store.client(), "SELECT message_store.acquire_lock('locked')");
        rival.wait_blocked(store);
        // Neighbours by name go on, and so do readers.
        let mut other = impatient(store);
        for stream in ["lockedToo-1", "locked:command-1", "lock-1"] {
            write(&mut other, stream);
        }
        assert_eq!(
            lines(&mut other, "SELECT position FROM message_store.get_category_messages('locked')"),
            ["0"]
        );
        assert_eq!(
            lines(&mut other, "SELECT position FROM message_store.get_stream_messages('locked-1')"),
            ["0"]
        );
        one(&mut other, "SELECT message_store.acquire_lock('lockedToo')");
        // The holder itself writes, and takes the lock again.
        assert_eq!(write(&mut holder, "locked-1"), before + 1);
        one(&mut holder, "SELECT message_store.acquire_lock('locked-1')");
        holder.exec("COMMIT");
        let ends = waiting.map(|writer| writer.end().1.expect("written")[0][0].clone());
        assert_eq!(ends.map(Option::unwrap_or_default), ["2", "0", "0"]);
        rival.end().1.expect("it has the lock at last");
    });
}

#[test]
fn acquire_lock_waits_for_a_categorys_open_writers() {
    on(&Kind::ALL, |store| {
        let mut writer = store.client();
        for end in ["COMMIT", "ROLLBACK"] {
            writer.exec("BEGIN");
            write(&mut writer, "openWriter-1");
            let locker = Pending::start(
                store.client(),
                "SELECT message_store.acquire_lock('openWriter-2'), message_store.stream_version('openWriter-1')",
            );
            locker.wait_blocked(store);
            writer.exec(end);
            let row = locker.end().1.expect("it has the lock");
            // What was committed before the lock was granted is seen after it.
            assert_eq!(row[0][1].as_deref(), Some("0"), "{end}");
        }
    });
}

#[test]
fn the_lock_ends_with_its_transaction_or_savepoint() {
    on(&Kind::ALL, |store| {
        let mut holder = store.client();
        let mut other = impatient(store);
        let lock = "SELECT message_store.acquire_lock('passing')";
        // Each call is a transaction of its own.
        one(&mut holder, lock);
        write(&mut other, "passing-1");
        for end in ["COMMIT", "ROLLBACK"] {
            holder.exec("BEGIN");
            one(&mut holder, lock);
            holder.exec(end);
            write(&mut other, "passing-1");
        }
        holder.exec("BEGIN; SAVEPOINT s");
        one(&mut holder, lock);
        holder.exec("ROLLBACK TO s");
        write(&mut other, "passing-1");
        holder.exec("COMMIT");
    });
}

#[test]
fn writers_of_one_stream_queue_and_count_on() {
    on(&Kind::ALL, |store| {
        let mut first = store.client();
        for (end, expected) in [("COMMIT", "1"), ("ROLLBACK", "2")] {
            first.exec("BEGIN");
            write(&mut first, "queued-1");
            let second = Pending::start(store.client(), &written("queued-1"));
            second.wait_blocked(store);
            first.exec(end);
            let row = second.end().1.expect("written");
            assert_eq!(row[0][0].as_deref(), Some(expected), "after {end}");
        }
        // Of two that expect the same version one is told the truth.
        first.exec("BEGIN");
        write_with(&mut first, "queued-1", "'T', NULL, NULL, 2");
        let late =
            format!("SELECT message_store.write_message({}, 'queued-1', 'T', '{{}}', NULL, 2)", new_id());
        let second = Pending::start(store.client(), &late);
        second.wait_blocked(store);
        first.exec("COMMIT");
        let failure = second.end().1.expect_err("the version is another now");
        assert_eq!(failure.text(), "P0001 Wrong expected version: 2 (Stream: queued-1, Stream Version: 3)");
    });
}

#[test]
fn two_categories_in_opposite_order() {
    on(&Kind::ALL, |store| {
        let (mut left, mut right) = (impatient(store), impatient(store));
        for session in [&mut left, &mut right] {
            session.exec("BEGIN");
        }
        write(&mut left, "opposite-1");
        write(&mut right, "contrary-1");
        if store.is_original() {
            // Its lock is the category's, so the two wait for each other until one is given up.
            let pending = Pending::start(left, &written("contrary-2"));
            pending.wait_blocked(store);
            let right_says = ask(&mut right, &written("opposite-2")).err().map(|e| e.code);
            let _ = right.batch_execute("ROLLBACK");
            let left_says = pending.end().1.err().map(|e| e.code);
            let codes: Vec<String> = [left_says, right_says].into_iter().flatten().collect();
            assert_eq!(codes, ["40P01"]);
        } else {
            write(&mut left, "contrary-2");
            write(&mut right, "opposite-2");
            left.exec("COMMIT");
            right.exec("COMMIT");
            let mut client = store.client();
            for (category, streams) in
                [("opposite", ["opposite-1", "opposite-2"]), ("contrary", ["contrary-1", "contrary-2"])]
            {
                let sql =
                    format!("SELECT stream_name FROM message_store.get_category_messages('{category}')");
                let found: BTreeSet<String> = lines(&mut client, &sql).into_iter().collect();
                assert_eq!(found, streams.map(String::from).into());
            }
        }
    });
}

#[test]
fn writers_of_other_streams_of_a_category_do_not_queue() {
    on(&Kind::OURS, |store| {
        let mut open = store.client();
        open.exec("BEGIN");
        write(&mut open, "side-1");
        let mut other = impatient(store);
        write(&mut other, "side-2");
        // The stream's reader has it at once. The category's waits for the one with the lower position.
        assert_eq!(
            lines(&mut other, "SELECT position FROM message_store.get_stream_messages('side-2')"),
            ["0"]
        );
        assert!(
            lines(&mut other, "SELECT position FROM message_store.get_category_messages('side')").is_empty()
        );
        open.exec("COMMIT");
        let sql = "SELECT stream_name FROM message_store.get_category_messages('side')";
        assert_eq!(lines(&mut other, sql), ["side-1", "side-2"]);
    });
}

/// Writes transactions of one to three messages to six streams of a category, and gives some of them up.
fn write_busily(store: &Store, seed: u64, transactions: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut client = store.client();
    for n in 0..transactions {
        let stream = format!("busy-{}", rng.u8(0..6));
        client.exec("BEGIN");
        for _ in 0..rng.u8(1..4) {
            write_with(&mut client, &stream, &format!("'T', '{{\"writer\": {seed}, \"n\": {n}}}'"));
        }
        client.exec(if rng.u8(0..4) == 0 { "ROLLBACK" } else { "COMMIT" });
    }
}

#[test]
fn a_poller_misses_nothing_while_others_write() {
    on(&Kind::ALL, |store| {
        let stop = Stop::default();
        let seen = std::thread::scope(|scope| {
            let poller = scope.spawn(|| {
                let mut client = store.client();
                let (mut seen, mut position) = (Vec::new(), 1);
                loop {
                    // Looked at before reading: what is read after the last commit is everything.
                    let last_round = stop.is_set();
                    let (batch, next) = poll(&mut client, "busy", position, 7);
                    if batch.is_empty() && last_round {
                        return seen;
                    }
                    seen.extend(batch);
                    position = next;
                }
            });
            let at_end = stop.at_end();
            let writers: Vec<_> =
                (0..4).map(|seed| scope.spawn(move || write_busily(store, seed, 150))).collect();
            for writer in writers {
                writer.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
            }
            drop(at_end);
            poller.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        });
        let mut client = store.client();
        let all = lines(
            &mut client,
            "SELECT stream_name, position FROM message_store.messages \
             WHERE stream_name LIKE 'busy-%' ORDER BY global_position",
        );
        assert!(all.len() > 400, "{}", all.len());
        assert_eq!(seen, all);
        let gaps = "SELECT stream_name FROM message_store.messages WHERE stream_name LIKE 'busy-%' \
                    GROUP BY stream_name HAVING min(position) <> 0 OR max(position) <> count(*) - 1 \
                        OR count(DISTINCT position) <> count(*)";
        assert!(lines(&mut client, gaps).is_empty(), "positions are gapless");
        let order = "SELECT bool_and(position = place) FROM (SELECT position, \
                         row_number() OVER (PARTITION BY stream_name ORDER BY global_position) - 1 AS place \
                     FROM message_store.messages WHERE stream_name LIKE 'busy-%') placed";
        assert_eq!(one(&mut client, order), "t", "both positions agree on the order");
    });
}

/// A transaction that has seen the store before somebody else wrote to a stream.
fn stale(store: &Store, level: &str, stream: &str) -> Session {
    let mut session = store.client();
    session.exec(&format!("BEGIN ISOLATION LEVEL {level}"));
    ask(&mut session, "SELECT count(*) FROM message_store.messages").expect("a snapshot");
    write(&mut store.client(), stream);
    session
}

#[test]
fn a_stale_snapshot_is_no_conflict() {
    on(&Kind::ALL, |store| {
        for (n, level) in ["REPEATABLE READ", "SERIALIZABLE"].iter().enumerate() {
            for (m, expected) in ["NULL", "-1", "0", "5"].iter().enumerate() {
                let stream = format!("stale{n}-{m}");
                let mut session = stale(store, level, &stream);
                let sql = format!(
                    "SELECT message_store.write_message({}, '{stream}', 'T', '{{}}', NULL, {expected})",
                    new_id()
                );
                let says = refused(&mut session, &sql);
                if !store.is_original() {
                    assert!(says.starts_with("40001 "), "{level} {expected}: {says}");
                } else if *level == "REPEATABLE READ" {
                    // A conflict that is none, or a version that is no longer true.
                    let lie = match *expected {
                        "NULL" | "-1" => {
                            "23505 duplicate key value violates unique constraint \"messages_stream\"".into()
                        }
                        version => format!(
                            "P0001 Wrong expected version: {version} (Stream: {stream}, Stream Version: -1)"
                        ),
                    };
                    assert!(says.starts_with(&lie), "{expected}: {says}");
                }
                session.exec("ROLLBACK");
                assert_eq!(write(&mut session, &stream), 1, "a new transaction succeeds");
            }
        }
    });
}

#[test]
fn a_snapshot_that_is_not_stale_about_the_stream_serves() {
    on(&Kind::ALL, |store| {
        // Somebody wrote, but to another stream of the category. Not SERIALIZABLE: there the test beside this one,
        // in the same store, would be reason enough to fail.
        let mut session = stale(store, "REPEATABLE READ", "fresh-other");
        for expected in -1..3 {
            assert_eq!(
                write_with(&mut session, "fresh-own", &format!("'T', NULL, NULL, {expected}")),
                expected + 1
            );
        }
        session.exec("SAVEPOINT s");
        let sql =
            format!("SELECT message_store.write_message({}, 'fresh-own', 'T', '{{}}', NULL, 7)", new_id());
        let wrong = "P0001 Wrong expected version: 7 (Stream: fresh-own, Stream Version: 3)";
        assert_eq!(refused(&mut session, &sql), wrong);
        session.exec("ROLLBACK TO s");
        let read = "SELECT position FROM message_store.get_stream_messages('fresh-own')";
        assert_eq!(lines(&mut session, read), ["0", "1", "2", "3"]);
        session.exec("COMMIT");
        assert_eq!(one(&mut store.client(), "SELECT message_store.stream_version('fresh-own')"), "3");
    });
}

#[test]
fn a_snapshot_reads_the_same_twice() {
    on(&Kind::ALL, |store| {
        write(&mut store.client(), "snapshot-1");
        let mut session = stale(store, "REPEATABLE READ", "snapshot-1");
        let reads = [
            "SELECT position FROM message_store.get_stream_messages('snapshot-1')",
            "SELECT position FROM message_store.get_category_messages('snapshot')",
            "SELECT position FROM message_store.get_last_stream_message('snapshot-1')",
            "SELECT message_store.stream_version('snapshot-1')",
            "SELECT max(position) FROM message_store.messages WHERE stream_name = 'snapshot-1'",
        ];
        for sql in reads {
            assert_eq!(lines(&mut session, sql), ["0"], "{sql}");
        }
        session.exec("COMMIT");
        for sql in reads {
            assert_eq!(lines(&mut session, sql).last().map(String::as_str), Some("1"), "{sql}");
        }
    });
}

#[test]
fn a_read_only_transaction_reads_and_does_not_write() {
    on(&Kind::ALL, |store| {
        write(&mut store.client(), "readers-1");
        let mut session = store.client();
        session.exec("BEGIN READ ONLY");
        for call in [
            "get_stream_messages('readers-1')",
            "get_category_messages('readers')",
            "get_last_stream_message('readers-1')",
            "messages WHERE stream_name = 'readers-1'",
        ] {
            assert_eq!(
                lines(&mut session, &format!("SELECT position FROM message_store.{call}")),
                ["0"],
                "{call}"
            );
        }
        assert_eq!(one(&mut session, "SELECT message_store.stream_version('readers-1')"), "0");
        assert_eq!(refused_with(&mut session, &written("readers-1")), "25006");
    });
}

#[test]
fn the_same_id_at_the_same_time_is_taken_once() {
    on(&Kind::ALL, |store| {
        let mut first = store.client();
        for (n, end) in ["COMMIT", "ROLLBACK"].iter().enumerate() {
            let id = new_id();
            let write = |category: &str| {
                format!("SELECT message_store.write_message({id}, '{category}{n}-1', 'T', '{{}}')")
            };
            first.exec("BEGIN");
            one(&mut first, &write("sameIdHere"));
            let second = Pending::start(store.client(), &write("sameIdThere"));
            second.wait_blocked(store);
            first.exec(end);
            match (second.end().1, *end) {
                (Err(failure), "COMMIT") => {
                    assert_eq!(failure.code, "23505");
                    assert_eq!(
                        failure.message,
                        "duplicate key value violates unique constraint \"messages_id\""
                    );
                }
                (Ok(row), "ROLLBACK") => assert_eq!(row[0][0].as_deref(), Some("0")),
                (other, end) => panic!("after {end}: {other:?}"),
            }
        }
    });
}

#[test]
fn a_transaction_that_wrote_can_be_prepared_with_the_original_only() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        client.exec("BEGIN");
        write(&mut client, "twoPhase-1");
        let name = format!("two_phase_{:?}", store.kind);
        let prepared = ask(&mut client, &format!("PREPARE TRANSACTION '{name}'"));
        if store.is_original() {
            prepared.expect("prepared");
            client.exec(&format!("COMMIT PREPARED '{name}'"));
            assert_eq!(one(&mut client, "SELECT message_store.stream_version('twoPhase-1')"), "0");
        } else {
            // Readers could not go on past it for as long as it stays prepared.
            assert!(prepared.is_err_and(|e| e.message.starts_with("cannot PREPARE")));
            assert_eq!(one(&mut client, "SELECT message_store.stream_version('twoPhase-1')"), "<N>");
        }
        // One that only read can be.
        client.exec("BEGIN");
        ask(&mut client, "SELECT * FROM message_store.get_category_messages('twoPhase')").expect("read");
        client.exec(&format!("PREPARE TRANSACTION '{name}'"));
        client.exec(&format!("COMMIT PREPARED '{name}'"));
    });
}

#[test]
fn a_transaction_writes_to_a_thousand_streams() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let write = |streams: u32| {
            format!(
                "SELECT count(message_store.write_message(gen_random_uuid()::text, 'wide-' || x, 'T', NULL)) \
                 FROM generate_series(1, {streams}) x"
            )
        };
        assert_eq!(one(&mut client, &write(1000)), "1000");
        assert_eq!(
            one(&mut client, "SELECT count(*) FROM message_store.get_category_messages('wide')"),
            "1000"
        );
        // Beyond that ours says no, because each stream's lock takes a place in a table that all sessions share.
        let more = ask(&mut client, &write(1001)).map_err(|e| e.code);
        if store.is_original() {
            assert!(more.is_ok());
        } else {
            assert_eq!(more, Err("54000".into()));
        }
    });
}
