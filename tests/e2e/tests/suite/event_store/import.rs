//! A Message DB store is taken over while it is in use: its messages keep their places, and its clients do not notice.

use super::{Pending, Reader, append, committed, new_id};
use meshhook_e2e::{Database, SOON, Stop, counted, own_cluster};
use meshhook_testkit::message_db::{self, ROLE};
use meshhook_testkit::{Cluster, Session, wait_for};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use uuid::Uuid;

/// How long an import may take before it is thought to hang.
const PATIENCE: std::time::Duration = SOON.saturating_mul(3);

/// A cluster for these tests alone: the original makes its role in it, which is no database's.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| own_cluster(true))
}

/// A database with meshhook and, beside it, an original with this many messages.
fn original(name: &str, messages: i32) -> Database<'static> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let db = Database::create(cluster(), name);
    let mut admin = db.admin();
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    message_db::install(&mut admin);
    drop(alone);
    fill(&mut admin, messages);
    db
}

/// Messages in 500 streams of four categories, with answers to others, documents left out, and gaps where transactions
/// were rolled back.
fn fill(admin: &mut Session, messages: i32) {
    for chunk in 0..5 {
        admin.exec(&format!(
            "INSERT INTO message_store.messages (id, stream_name, position, type, data, metadata, time) \
             SELECT gen_random_uuid(), 'category' || n % 4 || '-' || n % 500, n / 500, 'Type' || n % 7, \
                    CASE WHEN n % 50 > 0 THEN jsonb_build_object('n', n, 'text', repeat('ü', n % 40)) END, \
                    CASE n % 11 WHEN 0 THEN jsonb_build_object('correlationStreamName', 'cause-' || n) \
                                WHEN 1 THEN '{{}}' END, \
                    timestamp '2020-02-29 12:00:00.123456' + n * interval '1.000001 s' \
             FROM generate_series({}, {}) AS n",
            chunk * messages / 5,
            (chunk + 1) * messages / 5 - 1
        ));
        admin
            .exec("SELECT nextval('message_store.messages_global_position_seq') FROM generate_series(1, 37)");
    }
}

/// Messages of a store as text: everything that is to be kept.
fn contents(admin: &mut Session, from: &str) -> BTreeMap<i64, String> {
    let sql = format!(
        "SELECT global_position, concat_ws('|', stream_name, position, id, type, time::text, data::text, \
                metadata::text) FROM {from}"
    );
    admin.rows(&sql, &[]).iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What of a store is in another one, or is not.
#[track_caller]
fn assert_contains(whole: &BTreeMap<i64, String>, part: &BTreeMap<i64, String>) {
    let wrong: Vec<_> =
        part.iter().filter(|(global, text)| whole.get(global) != Some(text)).take(5).collect();
    assert!(wrong.is_empty(), "of {} messages these are not there as they were: {wrong:?}", part.len());
}

/// What a client wrote and was told it had.
#[derive(Default)]
struct Written {
    acknowledged: Vec<(Uuid, String, i64)>,
    failures: Vec<String>,
}

/// A client of Message DB that writes on and on over one connection, with a statement it has prepared once.
fn write_for_ever(
    db: &Database,
    number: usize,
    stop: &Stop,
    count: &std::sync::atomic::AtomicUsize,
) -> Written {
    let mut client = db.cluster.connect(ROLE, &db.name);
    let mut written = Written::default();
    let statement = client
        .prepare("SELECT write_message($1::varchar, $2::varchar, 'Live', '{\"live\": true}', NULL, $3)")
        .expect("it can be prepared");
    let mut versions: BTreeMap<String, i64> = BTreeMap::new();
    let mut n = 0;
    while !stop.is_set() {
        n += 1;
        let (id, stream) = (new_id(), format!("live{number}-{}", n % 5));
        let version = versions.entry(stream.clone()).or_insert(-1);
        match client.query(&statement, &[&id.to_string(), &stream, &*version]) {
            Ok(rows) => {
                let position: i64 = rows[0].get(0);
                assert_eq!(position, *version + 1, "{stream} has no gap and no duplicate");
                *version = position;
                written.acknowledged.push((id, stream, position));
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Err(e) => written.failures.push(meshhook_testkit::session::describe(&e)),
        }
        assert!(written.failures.len() < 20, "{}", written.failures.join("\n"));
    }
    written
}

#[test]
fn an_import_takes_over_while_clients_go_on() {
    let db = original("es_import", 30_000);
    let (mut admin, stop) = (db.admin(), Stop::default());
    let count = std::sync::atomic::AtomicUsize::new(0);
    let written_by = || count.load(std::sync::atomic::Ordering::Relaxed);
    let mut notices = Vec::new();
    let written: Vec<Written> = std::thread::scope(|scope| {
        let end = stop.at_end();
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let (db, stop, count) = (&db, &stop, &count);
                scope.spawn(move || write_for_ever(db, number, stop, count))
            })
            .collect();
        let reader = scope.spawn(|| {
            let client = db.cluster.connect(ROLE, &db.name);
            let mut reader = Reader::with(client, "message_store.get_category_messages('live1', $1, 50)");
            while !stop.is_set() {
                reader.read_once();
            }
            reader.read();
            reader.seen
        });
        wait_for("the clients to write", SOON, || written_by() > 30);
        let mut importing = db.admin();
        importing.exec("CALL meshhook.import_message_store('message_store', 'default', 4000)");
        notices.extend(importing.take_notices());
        let before = written_by();
        wait_for("the clients to go on", SOON, || written_by() > before + 60);
        drop(end);
        let written = writers.into_iter().map(|writer| writer.join().expect("no client fails")).collect();
        let seen = reader.join().expect("the reader goes on");
        assert_eq!(seen, committed(&mut db.admin(), Some("live1")), "a reader that remembers goes on too");
        written
    });
    let theirs = contents(&mut admin, "message_store_original.messages");
    let ours = contents(&mut admin, "message_store.messages");
    println!("{} of {} messages came by import", theirs.len(), ours.len());
    assert!(theirs.len() > 30_030 && ours.len() >= theirs.len() + 60);
    assert_contains(&ours, &theirs);
    // What a client was told is written is here; nobody was told that it is not.
    let acknowledged: Vec<_> = written.iter().flat_map(|written| &written.acknowledged).collect();
    let places: BTreeMap<Uuid, (String, i64)> = admin
        .rows("SELECT id, stream_name, position FROM message_store.messages WHERE type = 'Live'", &[])
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(id, stream, position)| places.get(id) != Some(&(stream.clone(), *position)))
        .collect();
    assert!(lost.is_empty(), "{} acknowledged messages are lost: {lost:?}", lost.len());
    assert_eq!(places.len(), acknowledged.len());
    assert_eq!(ours.len(), 30_000 + acknowledged.len());
    // It is ours in every other way too: by category, by correlation, by stream, and in the order it had.
    assert_imported_reads(&mut db.app(), &mut admin);
    assert_progress(&notices);
    // Who was in the middle of a write when the view took the table's place was told once that it was not written.
    for Written { failures, .. } in &written {
        let told = |failure: &String| failure.starts_with("ERROR 42501: permission denied for view messages");
        assert!(failures.len() <= 1 && failures.iter().all(told), "{failures:#?}");
    }
}

fn assert_imported_reads(app: &mut Session, admin: &mut Session) {
    let pairs = [
        (
            "SELECT array_agg(global_position) FROM meshhook.read_category('category2', batch_size => 100000)",
            "SELECT array_agg(global_position ORDER BY global_position) FROM message_store_original.messages \
             WHERE split_part(stream_name, '-', 1) = 'category2'",
        ),
        (
            "SELECT array_agg(global_position) FROM meshhook.read_category('category0', correlation => 'cause', \
                batch_size => 100000)",
            "SELECT array_agg(global_position ORDER BY global_position) FROM message_store_original.messages \
             WHERE stream_name LIKE 'category0-%' AND metadata ->> 'correlationStreamName' LIKE 'cause-%'",
        ),
        (
            "SELECT array_agg(position) FROM meshhook.read_stream('category3-7')",
            "SELECT array_agg(position ORDER BY position) FROM message_store_original.messages WHERE stream_name = 'category3-7'",
        ),
    ];
    for (ours, theirs) in pairs {
        let (ours, theirs): (Vec<i64>, Vec<i64>) = (app.value(ours, &[]), admin.value(theirs, &[]));
        assert!(!theirs.is_empty() && ours == theirs, "{} and {}", ours.len(), theirs.len());
    }
    // The time is the same moment, told apart by its zone.
    let time = "SELECT bool_and(m.time = o.time AT TIME ZONE 'UTC') FROM meshhook.message m \
                JOIN message_store_original.messages o USING (id)";
    assert!(admin.value::<bool>(time, &[]));
}

/// It says how many there are, how far it is, how fast, and that it is done.
fn assert_progress(notices: &[postgres::error::DbError]) {
    let texts: Vec<&str> = notices.iter().map(|notice| notice.message()).collect();
    assert!(texts.iter().any(|text| text.starts_with("importing ")), "{texts:?}");
    let progress =
        texts.iter().filter(|text| text.contains("messages/s") && text.contains("remaining")).count();
    assert!(progress >= 7, "30,000 messages by 4,000: {texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("imported: ")), "{texts:?}");
}

#[test]
fn a_killed_import_goes_on_where_it_was() {
    let db = original("es_import_killed", 12_000);
    let mut admin = db.admin();
    let before = contents(&mut admin, "message_store.messages");
    let call = "CALL meshhook.import_message_store(batch_size => 300)";
    let pending = Pending::start(db.admin(), call);
    let copied = "SELECT coalesce(max(copied), 0)::bigint FROM meshhook.message_import";
    wait_for("some of it to be copied", SOON, || counted(&mut admin, copied) >= 900);
    admin.value::<bool>("SELECT pg_terminate_backend($1, 10000)", &[&pending.pid()]);
    assert!(pending.end().result.is_err(), "it was killed in the middle");
    let halfway = counted(&mut admin, copied);
    assert!((900..12_000).contains(&halfway), "{halfway} copied");
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.message"), halfway, "whole batches only");
    assert_eq!(contents(&mut admin, "message_store.messages"), before, "the original is as it was");
    // It is in use meanwhile.
    let mut client = db.cluster.connect(ROLE, &db.name);
    let write = format!("SELECT write_message('{}', 'late-1', 'Late', '{{}}')", new_id());
    assert_eq!(client.value::<i64>(&write, &[]), 0);
    let mut again = db.admin();
    again.exec(call);
    let first = again.take_notices()[0].message().to_owned();
    assert!(first.contains(&format!("{} messages", 12_001 - halfway)), "{first}");
    let theirs = contents(&mut admin, "message_store_original.messages");
    assert_eq!(contents(&mut admin, "message_store.messages"), theirs);
    let first_of_ours = append(&mut db.app(), "late-1");
    assert_eq!(first_of_ours.position, 1);
    assert!(Some(&first_of_ours.global) > theirs.keys().last(), "positions go on behind the original's");
    // Done is done.
    let error = again.error("CALL meshhook.import_message_store('message_store_original')", &[]);
    assert_eq!(error.code().code(), "55000", "{error:?}");
}

#[test]
fn an_import_is_refused_where_it_would_do_harm() {
    let db = original("es_import_refused", 500);
    let mut admin = db.admin();
    let refused = |admin: &mut Session, call: &str| {
        let error = admin.error(&format!("CALL meshhook.import_message_store({call})"), &[]);
        assert!(error.detail().is_some() || error.hint().is_some(), "{error:?}");
        error.code().code().to_owned()
    };
    assert_eq!(refused(&mut admin, "project => 'unknown'"), "42704");
    assert_eq!(refused(&mut admin, "'public'"), "42P01");
    admin.exec(
        "CREATE SCHEMA half; CREATE TABLE half.messages AS SELECT * FROM message_store.messages; \
                ALTER TABLE half.messages ALTER data TYPE json",
    );
    assert_eq!(refused(&mut admin, "'half'"), "42P01");
    assert_eq!(
        admin.error("CALL meshhook.import_message_store(batch_size => 0)", &[]).code().code(),
        "22023"
    );
    // Into a project that has messages, or runs.
    append(&mut db.app(), "mine-1");
    assert_eq!(refused(&mut admin, ""), "55000");
    admin.exec("SELECT meshhook.create_project('busy'); SELECT meshhook.add_member('busy', 'shop')");
    let mut busy = db.app();
    busy.exec("SET meshhook.project = 'busy'");
    meshhook_e2e::publish(&mut busy, &meshhook_e2e::chain("chain", &["one"]));
    meshhook_e2e::start(&mut busy, "chain", &serde_json::json!({}));
    assert_eq!(refused(&mut admin, "project => 'busy'"), "55000");
    // Where the name for the original is taken; what was copied is kept, and it goes on.
    admin.exec("SELECT meshhook.create_project('acme'); CREATE SCHEMA message_store_original");
    assert_eq!(refused(&mut admin, "project => 'acme'"), "42P06");
    assert_eq!(
        counted(&mut admin, "SELECT count(*) FROM message_store.messages"),
        500,
        "the original is in place"
    );
    admin.exec("DROP SCHEMA message_store_original");
    admin.exec("CALL meshhook.import_message_store(project => 'acme')");
    // What a name of meshhook's own would do among ours.
    admin.exec(
        "CREATE SCHEMA odd; CREATE TABLE odd.messages AS TABLE message_store_original.messages; \
                UPDATE odd.messages SET stream_name = 'meshhook:run-1' WHERE global_position = 77; \
                SELECT meshhook.create_project('odd')",
    );
    assert_eq!(refused(&mut admin, "'odd', 'odd'"), "22023");
    // Not by the application.
    let error = db.app().error("CALL meshhook.import_message_store('odd', 'odd')", &[]);
    assert_eq!(error.code().code(), "42501");
}

#[test]
fn an_import_into_another_project_binds_the_clients_to_it_and_can_be_undone() {
    let db = original("es_import_tenant", 2_000);
    let mut admin = db.admin();
    // Ours are ahead of the original's positions, and must stay so.
    let mine = (0..20).map(|_| append(&mut db.app(), "category0-0").global).collect::<Vec<_>>();
    admin.exec("SELECT meshhook.create_project('acme'); SELECT meshhook.add_member('acme', 'shop')");
    let before = contents(&mut admin, "message_store.messages");
    admin.exec("CALL meshhook.import_message_store('message_store', 'acme')");
    assert_eq!(contents(&mut admin, "message_store.messages"), before);
    assert_eq!(committed_of(&mut db.app(), "default"), mine, "the default project is as it was");
    assert_eq!(committed_of(&mut db.app(), "acme").len(), 2_000);
    let mut client = db.cluster.connect(ROLE, &db.name);
    assert_eq!(client.value::<String>("SELECT message_store_version()", &[]), message_db::VERSION);
    for expected in 4..7 {
        let write = format!("SELECT message_store.write_message('{}', 'category0-0', 'T', '{{}}')", new_id());
        assert_eq!(client.value::<i64>(&write, &[]), expected);
    }
    let newest = committed_of(&mut db.app(), "acme");
    assert!(newest[2_000] > newest[1_999] && newest[2_000] > mine[19]);
    assert!(admin.batch_execute("TABLE message_store_original.messages").is_ok(), "it was moved aside");
    let audited = "SELECT count(*) FROM meshhook.audit_log WHERE action = 'message_store.imported'";
    assert_eq!(counted(&mut admin, audited), 1);
    // And back: the original has its name and its messages, ours keep theirs.
    admin.take_notices();
    admin.exec("SELECT meshhook.uninstall_message_store()");
    let notices = admin.take_notices();
    assert!(notices.iter().any(|notice| notice.message().contains("3 messages")), "{notices:?}");
    assert_eq!(contents(&mut admin, "message_store.messages"), before);
    let write = format!("SELECT write_message('{}', 'category0-0', 'T', '{{}}')", new_id());
    assert_eq!(client.value::<i64>(&write, &[]), 4, "the original writes again, over the same connection");
    assert_eq!(committed_of(&mut db.app(), "acme").len(), 2_003);
    let kind: String =
        admin.value("SELECT relkind::text FROM pg_class WHERE oid = 'message_store.messages'::regclass", &[]);
    assert_eq!(kind, "r");
}

/// The global positions of all messages of a project.
fn committed_of(session: &mut Session, project: &str) -> Vec<i64> {
    session.exec(&format!("SET meshhook.project = '{project}'"));
    session.values("SELECT global_position FROM meshhook.message ORDER BY 1", &[])
}

#[test]
fn a_store_of_another_name_is_copied_and_left_where_it_is() {
    let db = original("es_import_named", 1_000);
    let mut admin = db.admin();
    admin.exec("ALTER SCHEMA message_store RENAME TO \"Old Store\"");
    admin.exec("CALL meshhook.import_message_store('Old Store')");
    let theirs = contents(&mut admin, "\"Old Store\".messages");
    let ours = "(SELECT m.global_position, s.name AS stream_name, m.position, m.id, m.type, m.time AT TIME ZONE 'UTC' AS time, \
                m.data, m.metadata FROM meshhook.message m JOIN meshhook.stream s USING (project_id, stream_id)) AS ours";
    assert_eq!(contents(&mut admin, ours), theirs);
    let next = append(&mut db.app(), "category0-0");
    assert_eq!(next.position, 2);
    assert!(Some(&next.global) > theirs.keys().last(), "{} follows {:?}", next.global, theirs.keys().last());
    let seen = Reader::of(&db, "category0").read();
    assert_eq!(seen, committed(&mut admin, Some("category0")));
    assert_eq!(
        counted(&mut admin, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'message_store%'"),
        0
    );
}

#[test]
fn an_import_waits_for_writers_and_holds_up_no_reader() {
    let db = original("es_import_waits", 1_000);
    let (mut admin, mut open) = (db.admin(), db.cluster.connect(ROLE, &db.name));
    open.exec("BEGIN");
    let write =
        |stream: &str| format!("SELECT message_store.write_message('{}', '{stream}', 'T', '{{}}')", new_id());
    open.value::<i64>(&write("open-1"), &[]);
    let import = Pending::start(db.admin(), "CALL meshhook.import_message_store()");
    import.wait_blocked(&mut admin);
    // Readers of the original read on while the import waits for its writer.
    let mut client = db.cluster.connect(ROLE, &db.name);
    client.exec("SET lock_timeout = '5s'");
    assert_eq!(counted(&mut client, "SELECT count(*) FROM get_category_messages('category1')"), 250);
    open.value::<i64>(&write("open-2"), &[]);
    open.exec("COMMIT");
    wait_for("the import to end", PATIENCE, || {
        counted(&mut admin, "SELECT count(*) FROM meshhook.message_import WHERE finished_at IS NOT NULL") == 1
    });
    import.end().succeeded();
    assert_eq!(counted(&mut client, "SELECT count(*) FROM message_store.get_category_messages('open')"), 2);
    assert_eq!(open.value::<i64>(&write("open-1"), &[]), 1);
}
