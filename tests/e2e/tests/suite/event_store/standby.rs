//! Standbys: what they read is in order and whole, what they may not do they refuse, and the one that is promoted
//! issues no position again.

use super::{NOTHING, Pending, Reader, append, append_all, committed, safe};
use meshhook_e2e::{Database, SOON, chain, counted, ended, prepare, publish, start};
use meshhook_testkit::{Cluster, Session, wait_for};
use serde_json::json;
use std::sync::OnceLock;
use std::time::Duration;

/// How far behind a standby may be on a machine that has other things to do.
const BEHIND: Duration = Duration::from_secs(10);

/// A durable primary, as what is not durable does not reach a standby.
fn primary(preload: bool) -> Cluster {
    prepare(Cluster::builder().preload(preload).start())
}

/// A primary and its standby for tests that leave them as they are.
fn pair() -> &'static (Cluster, Cluster) {
    static PAIR: OnceLock<(Cluster, Cluster)> = OnceLock::new();
    PAIR.get_or_init(|| {
        let primary = primary(true);
        let standby = primary.standby();
        (primary, standby)
    })
}

/// A database of the primary, and the same one as the standby has it.
fn here_and_there(name: &str) -> (Database<'static>, Database<'static>) {
    let (primary, standby) = pair();
    let here = Database::create(primary, name);
    primary.wait_replayed(standby);
    (here, Database { cluster: standby, name: name.into() })
}

/// Waits until a reader of the standby has seen everything that the primary has committed.
fn wait_caught_up(reader: &mut Reader, here: &Database, category: &str) -> Duration {
    let expected = committed(&mut here.admin(), Some(category));
    wait_for("the standby's reader to catch up", BEHIND, || {
        reader.read();
        reader.seen.len() >= expected.len()
    })
}

#[test]
fn pitfall_15_a_standby_stops_where_the_primary_did() {
    let (here, there) = here_and_there("es_stops");
    let (mut late, mut app, mut looking) = (here.app(), here.app(), there.admin());
    let mut reader = Reader::of(&there, "shown");
    append(&mut app, "shown-0");
    wait_caught_up(&mut reader, &here, "shown");
    for end in ["COMMIT", "ROLLBACK"] {
        late.exec("BEGIN");
        let first = append(&mut late, "shown-1").global;
        let second = append(&mut app, "shown-2").global;
        here.cluster.wait_replayed(there.cluster);
        assert_eq!(committed(&mut looking, None).last(), Some(&second), "it is there");
        assert_eq!(reader.read(), NOTHING, "but what comes before it is not decided");
        assert!(safe(&mut looking, Some("shown")) < first);
        // Another category is decided, but a standby has one position for all.
        append(&mut app, "elsewhere-1");
        here.cluster.wait_replayed(there.cluster);
        assert_eq!(reader.read(), NOTHING);
        late.exec(end);
        let took = wait_caught_up(&mut reader, &here, "shown");
        println!("{end}: the standby's readers had it after {took:?}");
        assert_eq!(reader.seen, committed(&mut here.admin(), Some("shown")));
    }
}

#[test]
fn pitfall_15_a_standby_never_misses_while_writers_write() {
    let (here, there) = here_and_there("es_follows");
    let mut readers = [Reader::of(&there, "storm"), Reader::with(there.app(), "meshhook.read_all($1, 20)")];
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|seed| {
                let here = &here;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let mut session = here.app();
                    for _ in 0..80 {
                        session.exec("BEGIN");
                        for _ in 0..rng.u8(1..4) {
                            append(&mut session, &format!("storm-{seed}+{}", rng.u8(0..5)));
                        }
                        session.exec(if rng.u8(0..4) == 0 { "ROLLBACK" } else { "COMMIT" });
                    }
                })
            })
            .collect();
        wait_for("the writers to end", SOON, || {
            readers.iter_mut().for_each(|reader| {
                reader.read_once();
            });
            writers.iter().all(|writer| writer.is_finished())
        });
        for writer in writers {
            writer.join().expect("no writer fails");
        }
    });
    let expected = committed(&mut here.admin(), None);
    for reader in &mut readers {
        wait_caught_up(reader, &here, "storm");
        assert_eq!(reader.seen, expected);
    }
}

#[test]
fn pitfall_15_a_standby_s_reader_is_held_to_its_snapshot_too() {
    let (here, there) = here_and_there("es_snapshot");
    let mut app = here.app();
    let mut reader = Reader::of(&there, "shown");
    let mut held = Reader::of(&there, "shown");
    let before = append(&mut app, "shown-1").global;
    wait_caught_up(&mut reader, &here, "shown");
    held.session.exec("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
    append(&mut app, "shown-1");
    wait_caught_up(&mut reader, &here, "shown");
    assert_eq!(held.read(), [before]);
    held.session.exec("COMMIT");
    held.read();
    assert_eq!(held.seen, reader.seen);
}

/// Every way to read, as a query of one number, and what it returns.
const READS: &[(&str, i64)] = &[
    ("SELECT count(*) FROM meshhook.read_stream('read-1')", 3),
    ("SELECT count(*) FROM meshhook.read_stream('read-1', 1, 1)", 1),
    ("SELECT count(*) FROM meshhook.read_category('read')", 4),
    ("SELECT count(*) FROM meshhook.read_category('read', correlation => 'cause')", 1),
    ("SELECT count(*) FROM meshhook.read_all()", 4),
    ("SELECT position FROM meshhook.last_message('read-1')", 2),
    ("SELECT meshhook.stream_version('read-1')", 2),
    ("SELECT count(*) FROM meshhook.read_category('meshhook:run')", 4),
    ("SELECT count(*) FROM meshhook.read_all(include_runs => true)", 8),
    ("SELECT count(*) FROM meshhook.read_consumer('follower', 'read')", 3),
    ("SELECT count(*) FROM meshhook.streams", 2),
    ("SELECT messages_behind FROM meshhook.consumer_lag", 3),
    ("SELECT count(*) FROM meshhook.position_holders", 0),
];

/// The same for the clients of Message DB.
const MESSAGE_STORE_READS: &[(&str, i64)] = &[
    ("SELECT count(*) FROM message_store.get_stream_messages('read-1')", 3),
    ("SELECT count(*) FROM message_store.get_category_messages('read')", 4),
    ("SELECT count(*) FROM message_store.get_category_messages('read', 1, 10, NULL, 0, 1)", 4),
    ("SELECT position FROM message_store.get_last_stream_message('read-1')", 2),
    ("SELECT message_store.stream_version('read-1')", 2),
    ("SELECT count(*) FROM message_store.messages", 4),
];

#[test]
fn a_standby_reads_everything_and_refuses_to_write() {
    let (here, there) = here_and_there("es_surface");
    let (mut admin, mut app) = (here.admin(), here.app());
    admin.exec("SELECT meshhook.install_message_store('default')");
    append_all(&mut app, &["read-1", "read-1", "read-1"]);
    app.exec(
        "SELECT meshhook.append_message('read-2', 'T', '{}', '{\"correlationStreamName\": \"cause-1\"}')",
    );
    app.exec("SELECT count(*) FROM meshhook.read_consumer('follower', 'read')");
    app.exec("SELECT meshhook.commit_consumer('follower', min(global_position)) FROM meshhook.read_category('read')");
    publish(&mut app, &chain("chain", &["one"]));
    let run = start(&mut app, "chain", &json!({}));
    let mut executor = here.executor();
    let job = meshhook_e2e::claim_one(&mut executor, "default");
    meshhook_e2e::complete(&mut executor, &job, &json!(1));
    ended(&mut admin, run);
    let events = counted(&mut admin, "SELECT count(*) FROM meshhook.run_event");
    assert_eq!(events, 4, "the numbers below count on it");
    let last = safe(&mut admin, None);
    let mut reading = there.app();
    let mut client = there.cluster.connect("message_store", &there.name);
    wait_for("the standby to be told of all", BEHIND, || safe(&mut reading, None) >= last);
    for (session, reads) in [(&mut reading, READS), (&mut client, MESSAGE_STORE_READS)] {
        for (sql, expected) in reads {
            assert_eq!(counted(session, sql), *expected, "{sql}");
        }
    }
    assert_eq!(reading.value::<String>("SHOW transaction_read_only", &[]), "on");
    let of_run = format!("SELECT count(*) FROM meshhook.read_stream('meshhook:run-{run}')");
    assert_eq!(counted(&mut reading, &of_run), events);
    let refused = [
        "SELECT meshhook.append_message('read-1', 'T', '{}')",
        "SELECT * FROM meshhook.append_messages('{read-1}', '{T}', ARRAY['{}']::jsonb[])",
        "SELECT meshhook.commit_consumer('follower', 3)",
        "SELECT meshhook.resize_consumer('follower', 2)",
        "SELECT * FROM meshhook.read_consumer('unknown', 'read')",
    ];
    let answers = refused.map(|sql| (sql, reading.error(sql, &[])));
    let unclear: Vec<_> = answers.iter().filter(|(_, error)| error.code().code() != "25006").collect();
    let write = "SELECT message_store.write_message(gen_random_uuid()::text, 'read-1', 'T', '{}')";
    assert_eq!(client.error(write, &[]).code().code(), "25006");
    let nothing_new = counted(&mut admin, "SELECT count(*) FROM meshhook.message");
    assert_eq!(nothing_new, 4);
    assert!(unclear.is_empty(), "refused in other words: {unclear:?}");
}

#[test]
fn a_waiter_on_a_standby_is_told_in_time() {
    let (here, there) = here_and_there("es_standby_waits");
    let mut app = here.app();
    append(&mut app, "told-1");
    let mut reader = Reader::of(&there, "told");
    wait_caught_up(&mut reader, &here, "told");
    let call = format!("CALL meshhook.wait_for_messages('told', {}, '20 s')", reader.last());
    let pending = Pending::start(there.app(), &call);
    pending.wait_asleep(&mut there.admin());
    let appended = std::time::Instant::now();
    append(&mut app, "told-1");
    let ended = pending.end();
    let took = ended.at - appended;
    assert!(ended.succeeded().0[0].get::<_, bool>(0));
    println!("a waiter on a standby was told after {took:?}");
    assert!(took < BEHIND, "it took {took:?}");
}

/// Lets the last commits of a primary be lost by a fail-over, and demands that the new primary goes on beyond them.
fn fails_over(preload: bool) {
    let primary = primary(preload);
    let here = Database::create(&primary, "es_fail_over");
    let mut app = here.app();
    publish(
        &mut app,
        &json!({"name": "echo", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}),
    );
    append_all(&mut app, &["over-1", "over-1", "over-2"]);
    let standby = primary.standby();
    append(&mut app, "over-1");
    primary.wait_replayed(&standby);
    standby.cut_off();
    let mut reader = Reader::of(&here, "over");
    for _ in 0..100 {
        append(&mut app, "over-1");
    }
    reader.read();
    let seen = reader.last();
    standby.promote();

    let there = Database { cluster: &standby, name: here.name.clone() };
    let (mut admin, mut app) = (there.admin(), there.app());
    let kept = committed(&mut admin, None);
    assert_eq!(kept.len(), 4, "the tail is lost, or this shows nothing");
    assert_eq!(Reader::of(&there, "over").read(), kept, "it is no standby any more");
    let next = append(&mut app, "over-1");
    assert_eq!(next.position, 3, "its stream has lost the tail too");
    assert!(next.global > seen, "{} comes after {seen}, which was seen", next.global);
    // Who read from the primary goes on here.
    let mut remembering = Reader::of(&there, "over");
    remembering.last = seen;
    assert_eq!(remembering.read(), [next.global]);
    let run = start(&mut app, "echo", &json!(1));
    if preload {
        wait_for("an orchestrator", SOON, || standby.orchestrator(&there.name).is_some());
    } else {
        while admin.value::<i32>("SELECT meshhook.tick()", &[]) > 0 {}
    }
    ended(&mut admin, run);
    let first: i64 = admin.value("SELECT min(global_position) FROM meshhook.run_event", &[]);
    assert!(first > next.global);
    waits_for(&there, next.global);
}

/// A message that is appended ends a wait.
fn waits_for(db: &Database, after: i64) {
    let pending =
        Pending::start(db.app(), &format!("CALL meshhook.wait_for_messages('over', {after}, '20 s')"));
    pending.wait_asleep(&mut db.admin());
    append(&mut db.app() as &mut Session, "over-1");
    assert!(pending.end().succeeded().0[0].get::<_, bool>(0));
}

#[test]
fn pitfall_14_a_fail_over_never_reissues_a_position() {
    fails_over(true);
}

#[test]
fn pitfall_14_a_fail_over_without_preloading_never_does_either() {
    fails_over(false);
}
