//! Writers that stall with positions in hand hold back exactly the readers they concern, and nobody else holds back
//! anybody.

use super::{
    NOTHING, Pending, Reader, append, append_all, both, colliding, committed, last_drawn, new_id, safe,
};
use meshhook_e2e::{Database, SOON, Stop, counted};
use meshhook_testkit::{Session, process, wait_for};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The processes that the view says hold positions, with the position readers stop at because of them.
fn holders(session: &mut Session) -> Vec<(i32, i64)> {
    let rows = session.rows("SELECT pid, safe_position FROM meshhook.position_holders", &[]);
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn pitfall_02_an_appender_paused_between_two_appends() {
    both("paused", |db| {
        let (mut admin, mut slow, mut quick) = (db.admin(), db.app(), db.app());
        let mut readers = [Reader::of(db, "pause"), Reader::of(db, "second"), Reader::of_all(db)];
        slow.exec("BEGIN");
        let first = append(&mut slow, "pause-1");
        let passed = [append(&mut quick, "pause-2"), append(&mut quick, "second-2")];
        assert_eq!(readers[0].read(), NOTHING);
        assert_eq!(readers[1].read(), [passed[1].global], "nothing of this category is undecided yet");
        assert_eq!(readers[2].read(), NOTHING);
        // The second append of the transaction adds a category and draws above what others have committed.
        let more = append_all(&mut slow, &["pause-1", "second-1"]);
        let later = append_all(&mut quick, &["second-2", "pause-2"]);
        assert!(passed[1].global < more[0].global && more[1].global < later[0].global);
        for reader in &mut readers {
            assert_eq!(reader.read(), NOTHING);
        }
        assert_eq!(safe(&mut quick, Some("pause")), first.global - 1);
        assert!(safe(&mut quick, Some("second")) < more[1].global);
        slow.exec("COMMIT");
        let categories = [Some("pause"), Some("second"), None];
        for (reader, category) in readers.iter_mut().zip(categories) {
            reader.read();
            assert_eq!(reader.seen, committed(&mut admin, category), "of {category:?}");
        }
    });
}

#[test]
fn pitfall_02_an_appender_paused_inside_its_insert() {
    both("in_insert", |db| {
        let (mut admin, mut first, mut third) = (db.admin(), db.app(), db.app());
        let mut reader = Reader::of(db, "insert");
        append(&mut third, "insert-3");
        reader.read();
        for end in ["ROLLBACK", "COMMIT"] {
            let id = new_id();
            let with_id =
                |stream| format!("SELECT meshhook.append_message('{stream}', 'Noted', '{{}}', id => '{id}')");
            // It holds the id, but in a category that the reader does not read.
            first.exec("BEGIN");
            first.value::<i64>(&with_id("aside-1"), &[]);
            let pending = Pending::start(db.app(), &with_id("insert-2"));
            pending.wait_blocked(&mut admin);
            let waiting = last_drawn(&mut admin);
            let passed = append(&mut third, "insert-3");
            assert_eq!(passed.global, waiting + 1, "who waits has drawn");
            assert_eq!(reader.read(), NOTHING, "what waits in the index may still appear");
            assert!(holders(&mut third).contains(&(pending.pid(), waiting - 1)));
            first.exec(end);
            if end == "ROLLBACK" {
                pending.end().succeeded();
                assert_eq!(reader.read(), [waiting, passed.global]);
            } else {
                assert_eq!(pending.end().failed().0, "23505");
                assert_eq!(reader.read(), [passed.global]);
            }
        }
        assert_eq!(reader.seen, committed(&mut admin, Some("insert")));
        assert!(holders(&mut admin).is_empty());
    });
}

/// Appends until told to stop: one or two messages a transaction, some of them taken back.
fn append_for_ever(db: &Database, seed: u64, stop: &Stop, pid: impl FnOnce(i32)) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut session = db.app();
    pid(session.backend_pid());
    while !stop.is_set() {
        session.exec("BEGIN");
        for _ in 0..rng.u8(1..3) {
            append(&mut session, &format!("held-{seed}"));
        }
        session.exec(if rng.u8(0..5) == 0 { "ROLLBACK" } else { "COMMIT" });
    }
}

#[test]
fn pitfall_02_appenders_stopped_at_any_instruction() {
    const ROUNDS: usize = 60;
    both("stopped", |db| {
        let (stop, reads) = (Stop::default(), AtomicUsize::new(0));
        let mut rng = fastrand::Rng::with_seed(2);
        let seen = std::thread::scope(|scope| {
            let end = stop.at_end();
            let (sender, pids) = std::sync::mpsc::channel();
            for seed in 1..=3 {
                let (stop, sender) = (&stop, sender.clone());
                scope.spawn(move || append_for_ever(db, seed, stop, |pid| sender.send(pid).expect("heard")));
            }
            // One is never stopped, so that positions go on behind those that are held.
            scope.spawn(|| append_for_ever(db, 4, &stop, |_| {}));
            let reader = scope.spawn(|| {
                let mut reader = Reader::of(db, "held");
                while !stop.is_set() {
                    reader.read_once();
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                reader
            });
            let pids: Vec<u32> =
                (0..3).map(|_| u32::try_from(pids.recv().expect("a writer")).expect("a pid")).collect();
            for _ in 0..ROUNDS {
                let held = process::hold(pids[rng.usize(0..pids.len())]);
                let (before, since) = (reads.load(Ordering::Relaxed), Instant::now());
                // Where it stopped it may hold a lock of the server's that everybody needs.
                wait_for("others to go on", SOON, || {
                    reads.load(Ordering::Relaxed) > before + 3 || since.elapsed() > Duration::from_millis(60)
                });
                drop(held);
            }
            drop(end);
            reader.join().expect("the reader reads")
        });
        let mut reader = seen;
        reader.read();
        assert_eq!(reader.seen, committed(&mut db.admin(), Some("held")));
        assert!(reader.seen.len() > ROUNDS, "only {} messages", reader.seen.len());
    });
}

#[test]
fn pitfall_07_foreign_transactions_stall_nobody() {
    both("foreign", |db| {
        let elsewhere = Database::create(db.cluster, "es_elsewhere");
        let mut admin = db.admin();
        admin.exec("CREATE TABLE orders (id int); GRANT ALL ON orders TO shop");
        admin.exec("SELECT meshhook.create_project('acme'); SELECT meshhook.add_member('acme', 'shop')");
        let mut reader = Reader::of(db, "busy");
        reader.read();
        // In another database: an appender to the same category, and somebody with nothing but a transaction id.
        let (mut appender, mut other) = (elsewhere.app(), db.cluster.superuser("postgres"));
        appender.exec("BEGIN");
        append(&mut appender, "busy-1");
        other.exec("BEGIN; SELECT pg_current_xact_id()");
        // Here: idle in transaction with a snapshot and a transaction id, and one that only reads.
        let (mut idle, mut reading) = (db.app(), db.app());
        idle.exec("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO orders VALUES (1)");
        reading.exec("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY; SELECT count(*) FROM orders");
        // Prepared, and so without a process that could be ended.
        let mut preparing = db.app();
        preparing.exec("BEGIN; INSERT INTO orders VALUES (2); PREPARE TRANSACTION 'foreign'");
        // Another project's appender to a category of the same name.
        let mut tenant = db.app();
        tenant.exec("SET meshhook.project = 'acme'; BEGIN");
        append(&mut tenant, "busy-1");

        let mut app = db.app();
        let mine = append(&mut app, "busy-1");
        assert_eq!(reader.read(), [mine.global]);
        assert_eq!(Reader::of_all(db).read(), [mine.global]);
        assert_eq!(safe(&mut app, None), mine.global);
        assert_eq!(safe(&mut app, Some("busy")), mine.global);
        app.exec("SELECT * FROM meshhook.read_consumer('c', 'busy')");
        app.exec(&format!("SELECT meshhook.commit_consumer('c', {})", mine.global));
        preparing.exec("ROLLBACK PREPARED 'foreign'");
        drop(appender);
    });
}

#[test]
fn pitfall_08_an_open_appender_stalls_its_category_and_is_named() {
    both("named", |db| {
        let mut admin = db.admin();
        let (stalled, _, other) = colliding(&mut admin);
        let (mut open, mut app) = (db.app(), db.app());
        let start = append(&mut app, &format!("{other}-0"));
        open.exec("BEGIN");
        append(&mut open, &format!("{stalled}-1"));
        let pid = open.backend_pid();
        let held = append(&mut app, &format!("{stalled}-2"));
        let free = append(&mut app, &format!("{other}-1"));
        let (mut first, mut second) = (Reader::of(db, &stalled), Reader::of(db, &other));
        assert_eq!((first.read(), second.read()), (vec![], vec![start.global, free.global]));
        assert_eq!(Reader::of_all(db).read(), [start.global], "all are behind it who read all");
        assert_eq!(safe(&mut app, Some(&stalled)), start.global);
        assert_eq!(safe(&mut app, Some(&other)), free.global);
        assert_eq!(safe(&mut app, None), start.global);
        // Whoever reads here is told whom to ask: the application itself and an administrator.
        for session in [&mut app, &mut admin] {
            let rows = session.rows(
                "SELECT pid, safe_position, role::text, state, open_for >= interval '0' FROM meshhook.position_holders",
                &[],
            );
            assert_eq!(rows.len(), 1);
            assert_eq!((rows[0].get(0), rows[0].get(1)), (pid, start.global));
            assert_eq!(rows[0].get::<_, &str>(2), meshhook_e2e::APP);
            assert_eq!((rows[0].get::<_, &str>(3), rows[0].get(4)), ("idle in transaction", true));
        }
        let of = |category: &str| format!("SELECT count(*) FROM meshhook.holders_of_positions('{category}')");
        assert_eq!(counted(&mut app, &of(&stalled)), 1);
        assert_eq!(counted(&mut app, &of(&other)), 0);
        open.exec("COMMIT");
        assert!(holders(&mut app).is_empty());
        assert_eq!(first.read().last(), Some(&held.global));
        assert_eq!(first.seen, committed(&mut admin, Some(&stalled)));
    });
}

#[test]
fn pitfall_12_categories_with_the_same_bit_only_delay_each_other() {
    both("same_bit", |db| {
        let mut admin = db.admin();
        let (one, same, other) = colliding(&mut admin);
        let (mut open, mut app) = (db.app(), db.app());
        let mut readers = [&one, &same, &other].map(|category| Reader::of(db, category));
        open.exec("BEGIN");
        append(&mut open, &format!("{one}-1"));
        let names = [&one, &same, &other].map(|category| format!("{category}-2"));
        let streams: Vec<&str> = names.iter().map(String::as_str).collect();
        let placed = append_all(&mut app, &streams);
        assert_eq!(readers[0].read(), NOTHING);
        // The bits are only in shared memory; the lock table has half of the hash.
        let preloaded: bool =
            admin.value("SELECT current_setting('shared_preload_libraries') = 'meshhook'", &[]);
        let expected = if preloaded { vec![] } else { vec![placed[1].global] };
        assert_eq!(readers[1].read(), expected, "no more than delayed, and that only where it must be");
        assert_eq!(readers[2].read(), [placed[2].global]);
        // The one that is delayed is not blocked: it has its own messages, and writers write.
        append(&mut app, &format!("{same}-2"));
        open.exec("COMMIT");
        for (reader, category) in readers.iter_mut().zip([&one, &same, &other]) {
            reader.read();
            assert_eq!(reader.seen, committed(&mut admin, Some(category)), "of {category}");
        }
    });
}
