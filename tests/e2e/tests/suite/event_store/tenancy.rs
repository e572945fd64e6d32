//! Projects share a server, and nothing else; and who belongs to none sees nothing. The logs of runs are streams of
//! their project.

use super::{NOTHING, Reader, append, both, new_id, safe};
use meshhook_e2e::{Database, EXECUTOR, chain, counted, ended, publish, start};
use meshhook_testkit::Session;
use serde_json::json;

/// The application in another project.
fn tenant(db: &Database) -> Session {
    let mut admin = db.admin();
    admin.exec("SELECT meshhook.create_project('acme'); SELECT meshhook.add_member('acme', 'shop')");
    let mut session = db.app();
    session.exec("SET meshhook.project = 'acme'");
    session
}

#[test]
fn two_projects_with_the_same_names_do_not_touch() {
    both("projects", |db| {
        let (mut theirs, mut mine, mut admin) = (tenant(db), db.app(), db.admin());
        let id = new_id();
        let with_id = format!("SELECT meshhook.append_message('same-1', 'T', '{{}}', id => '{id}')");
        // The same id, the same stream, the same versions; and neither waits for the other.
        mine.exec("BEGIN");
        assert_eq!(mine.value::<i64>(&with_id, &[]), 0);
        theirs.exec("SET lock_timeout = '5s'");
        assert_eq!(theirs.value::<i64>(&with_id, &[]), 0);
        assert_eq!(append(&mut theirs, "same-1").position, 1);
        let last = append(&mut theirs, "same-2").global;
        assert_eq!(safe(&mut theirs, Some("same")), last, "their readers do not wait for us");
        assert_eq!(counted(&mut theirs, "SELECT count(*) FROM meshhook.read_category('same')"), 3);
        assert_eq!(counted(&mut theirs, "SELECT count(*) FROM meshhook.position_holders"), 0);
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.position_holders"), 1);
        mine.exec("COMMIT");
        for (session, count) in [(&mut mine, 1), (&mut theirs, 3)] {
            for read in ["read_category('same')", "read_all()", "message", "read_stream('same-1')"] {
                let expected = if read.contains("same-1") { count.min(2) } else { count };
                assert_eq!(
                    counted(session, &format!("SELECT count(*) FROM meshhook.{read}")),
                    expected,
                    "{read}"
                );
            }
            let streams = counted(session, "SELECT count(*) FROM meshhook.streams");
            assert_eq!(streams, count.min(2));
        }
        // Purging one's stream leaves the other's.
        admin.exec("SELECT meshhook.delete_stream('same-1')");
        assert_eq!(counted(&mut mine, "SELECT count(*) FROM meshhook.read_all()"), 0);
        assert_eq!(counted(&mut theirs, "SELECT count(*) FROM meshhook.read_stream('same-1')"), 2);
        // A transaction may append to both: readers of each stop at it.
        mine.exec("BEGIN");
        append(&mut mine, "same-3");
        mine.exec("SET LOCAL meshhook.project = 'acme'");
        append(&mut mine, "same-3");
        let behind = append(&mut theirs, "same-1").global;
        assert!(safe(&mut theirs, Some("same")) < behind && safe(&mut db.app(), Some("same")) < behind);
        assert_eq!(Reader::of(db, "same").read(), NOTHING);
        mine.exec("COMMIT");
        assert_eq!(Reader::of(db, "same").read().len(), 1);
        assert_eq!(counted(&mut theirs, "SELECT count(*) FROM meshhook.read_category('same')"), 5);
    });
}

#[test]
fn who_is_no_member_gets_nothing() {
    both("strangers", |db| {
        let (mut theirs, mut admin) = (tenant(db), db.admin());
        append(&mut theirs, "secret-1");
        // The courier may use the API, but is nobody in that project.
        admin.exec(&format!(
            "CREATE ROLE es_visitor_{0}; GRANT es_visitor_{0} TO {EXECUTOR}",
            db.cluster.port()
        ));
        admin.exec(&format!("SELECT meshhook.grant_api('es_visitor_{}')", db.cluster.port()));
        let mut stranger = db.executor();
        stranger.exec(&format!("SET ROLE es_visitor_{}", db.cluster.port()));
        stranger.exec("SET meshhook.project = 'acme'");
        for sql in [
            "SELECT meshhook.append_message('secret-1', 'T', '{}')",
            "SELECT * FROM meshhook.append_messages('{secret-1}', '{T}', ARRAY['1']::jsonb[])",
            "SELECT * FROM meshhook.read_stream('secret-1')",
            "SELECT * FROM meshhook.read_category('secret')",
            "SELECT * FROM meshhook.read_all()",
            "SELECT * FROM meshhook.last_message('secret-1')",
            "SELECT meshhook.stream_version('secret-1')",
            "SELECT meshhook.safe_position()",
            "SELECT * FROM meshhook.read_consumer('c', 'secret')",
            "SELECT meshhook.commit_consumer('c', 1)",
            "CALL meshhook.wait_for_messages('secret', 0, '1 s')",
        ] {
            assert_eq!(stranger.error(sql, &[]).code().code(), "42501", "{sql}");
        }
        for table in ["message", "stream", "streams", "consumer_lag"] {
            assert_eq!(
                counted(&mut stranger, &format!("SELECT count(*) FROM meshhook.{table}")),
                0,
                "{table}"
            );
        }
        stranger.exec("RESET ROLE");
        admin.exec(&format!("DROP OWNED BY es_visitor_{0}; DROP ROLE es_visitor_{0}", db.cluster.port()));
        // What only an administrator may, the application may not.
        let mut app = db.app();
        for sql in [
            "SELECT meshhook.purge_stream('secret-1', 0)",
            "SELECT meshhook.delete_stream('secret-1')",
            "SELECT meshhook.install_message_store('default')",
            "CALL meshhook.import_message_store('public')",
            "INSERT INTO meshhook.stream (project_id, name) VALUES (0, 'x')",
            "DELETE FROM meshhook.message",
            "UPDATE meshhook.message SET type = 'Forged'",
            "SELECT nextval('meshhook.global_position_seq')",
            "SELECT setval('meshhook.safe_position_seq', 1)",
            "SELECT meshhook.message_store_write(0, 'x', 'x-1', 'T', '{}', NULL, NULL)",
        ] {
            assert_eq!(app.error(sql, &[]).code().code(), "42501", "{sql}");
        }
        // The executor's own API does not include it.
        let error = db.executor().error("SELECT meshhook.append_message('x-1', 'T', '{}')", &[]);
        assert_eq!(error.code().code(), "42501");
    });
}

#[test]
fn runs_are_streams_of_their_project() {
    let db = Database::preloaded("es_runs");
    let (mut theirs, mut app, mut admin) = (tenant(&db), db.app(), db.admin());
    publish(&mut app, &chain("chain", &["one"]));
    let first = append(&mut app, "order-1").global;
    let run = start(&mut app, "chain", &json!({"order": 1}));
    let mut executor = db.executor();
    let job = meshhook_e2e::claim_one(&mut executor, "default");
    let second = append(&mut app, "order-1").global;
    meshhook_e2e::complete(&mut executor, &job, &json!("done"));
    ended(&mut admin, run);
    let third = append(&mut app, "order-1").global;
    let log: Vec<(i64, i64, String)> = admin
        .rows(
            "SELECT position, global_position, type FROM meshhook.run_event WHERE run_id = $1 ORDER BY 1",
            &[&run],
        )
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert!(log.len() >= 3, "{log:?}");
    let stream = format!("meshhook:run-{run}");
    let read = |session: &mut Session, from: &str| -> Vec<(i64, i64, String)> {
        let sql = format!("SELECT position, global_position, type FROM meshhook.{from}");
        session.rows(&sql, &[]).iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    assert_eq!(read(&mut app, &format!("read_stream('{stream}')")), log);
    assert_eq!(read(&mut app, &format!("read_stream('{stream}', 2, 1)")), log[1..2]);
    assert_eq!(read(&mut app, "read_category('meshhook:run')"), log);
    assert_eq!(read(&mut app, &format!("last_message('{stream}')")), log[log.len() - 1..]);
    assert_eq!(app.value::<i64>("SELECT meshhook.stream_version($1)", &[&stream]), log[log.len() - 1].0);
    let kind = &log[0].2;
    assert_eq!(read(&mut app, &format!("read_category('meshhook:run', types => '{{{kind}}}')")), log[..1]);
    assert_eq!(read(&mut app, &format!("last_message('{stream}', '{kind}')")), log[..1]);
    // With messages in one order, without them not; ids are always the same.
    let mut all: Vec<i64> = log.iter().map(|event| event.1).chain([first, second, third]).collect();
    all.sort_unstable();
    let both: Vec<i64> =
        read(&mut app, "read_all(include_runs => true)").iter().map(|event| event.1).collect();
    assert_eq!(both, all);
    for size in 1..4 {
        let mut reader = Reader::with(db.app(), &format!("meshhook.read_all($1, {size}, NULL, true)"));
        assert_eq!(reader.read(), all, "in batches of {size}");
    }
    assert_eq!(Reader::of_all(&db).read(), [first, second, third]);
    let ids = format!("SELECT array_agg(id::text) FROM meshhook.read_stream('{stream}')");
    assert_eq!(app.value::<Vec<String>>(&ids, &[]), app.value::<Vec<String>>(&ids, &[]));
    assert_eq!(read(&mut theirs, &format!("read_stream('{stream}')")), []);
    assert_eq!(read(&mut theirs, "read_category('meshhook:run')"), []);
    // A turn that is open holds back readers of runs, and of nothing else.
    let mut ticking = db.admin();
    ticking.exec("SELECT meshhook.stop_workers()");
    start(&mut app, "chain", &json!({}));
    ticking.exec("BEGIN; SELECT meshhook.tick()");
    let behind = append(&mut app, "order-1").global;
    assert_eq!(safe(&mut app, Some("meshhook:run")), third);
    assert_eq!(safe(&mut app, Some("order")), behind);
    assert_eq!(Reader::of_all(&db).read().last(), Some(&behind));
    let with_runs: Vec<i64> =
        read(&mut app, "read_all(include_runs => true)").iter().map(|event| event.1).collect();
    assert_eq!(with_runs.last(), Some(&third), "who reads both waits for both");
    ticking.exec("COMMIT");
}
