//! Appending one message: what is refused is refused before anything is written, what is repeated is told so.

use super::{Placed, append, both, last_drawn, new_id, note, placed};
use meshhook_e2e::{Database, counted};
use meshhook_testkit::Session;
use serde_json::json;

/// Appends by a call with these arguments behind stream, type and data.
#[track_caller]
fn appended(session: &mut Session, stream: &str, more: &str) -> i64 {
    session.value(&format!("SELECT meshhook.append_message('{stream}', 'Noted', '{{}}'{more})"), &[])
}

/// SQLSTATE of a call that must fail, and nothing may have been drawn or written by it.
#[track_caller]
fn refused(db: &Database, session: &mut Session, sql: &str) -> postgres::error::DbError {
    let mut admin = db.admin();
    let state = |admin: &mut Session| {
        let rows = "SELECT (SELECT count(*) FROM meshhook.message) + (SELECT count(*) FROM meshhook.stream)";
        (last_drawn(admin), counted(admin, rows))
    };
    let before = state(&mut admin);
    let error = session.error(sql, &[]);
    assert_eq!(state(&mut admin), before, "{sql} left something behind");
    error
}

#[test]
fn a_version_is_expected_or_not() {
    both("versions", |db| {
        let mut app = db.app();
        for (expected, actual) in [(0, -1), (5, -1)] {
            let sql =
                format!("SELECT meshhook.append_message('v-1', 'T', '{{}}', expected_version => {expected})");
            let error = refused(db, &mut app, &sql);
            let detail = format!("Expected version {expected}, stream is at version {actual}.");
            assert_eq!((error.code().code(), error.detail()), ("55000", Some(detail.as_str())));
            assert!(error.hint().is_some());
        }
        assert_eq!(appended(&mut app, "v-1", ", expected_version => -1"), 0);
        assert_eq!(appended(&mut app, "v-1", ", expected_version => 0"), 1);
        assert_eq!(appended(&mut app, "v-1", ""), 2);
        for expected in [-1, 0, 1, 3] {
            let sql =
                format!("SELECT meshhook.append_message('v-1', 'T', '{{}}', expected_version => {expected})");
            let error = refused(db, &mut app, &sql);
            let detail = format!("Expected version {expected}, stream is at version 2.");
            assert_eq!((error.code().code(), error.detail()), ("55000", Some(detail.as_str())));
        }
        let error =
            refused(db, &mut app, "SELECT meshhook.append_message('v-1', 'T', '{}', expected_version => -2)");
        assert_eq!(error.code().code(), "22023");
        let version = |app: &mut Session, stream: &str| -> Option<i64> {
            app.value("SELECT meshhook.stream_version($1)", &[&stream])
        };
        assert_eq!((version(&mut app, "v-1"), version(&mut app, "v-2")), (Some(2), None));
    });
}

#[test]
fn an_id_is_unique_and_a_repetition_may_be_one() {
    both("ids", |db| {
        let (mut app, mut admin) = (db.app(), db.admin());
        let id = new_id();
        let with = |more: &str| format!(", id => '{id}'{more}");
        append(&mut app, "i-1");
        assert_eq!(appended(&mut app, "i-1", &with("")), 1);
        assert_eq!(app.value::<uuid::Uuid>("SELECT id FROM meshhook.last_message('i-1')", &[]), id);
        for stream in ["i-1", "other-1"] {
            let call = format!("SELECT meshhook.append_message('{stream}', 'T', '{{}}'{})", with(""));
            let error = app.error(&call, &[]);
            assert_eq!(error.code().code(), "23505", "{error:?}");
            assert!(error.message().contains(&id.to_string()) && error.hint().is_some(), "{error:?}");
        }
        // Repeated: nothing is written and nothing drawn, whatever else the repetition says.
        let drawn = last_drawn(&mut admin);
        assert_eq!(appended(&mut app, "i-1", &with(", idempotent => true")), 1);
        assert_eq!(appended(&mut app, "i-1", &with(", expected_version => 0, idempotent => true")), 1);
        append(&mut app, "i-1");
        assert_eq!(appended(&mut app, "i-1", &with(", expected_version => 0, idempotent => true")), 1);
        assert_eq!(
            (last_drawn(&mut admin), counted(&mut admin, "SELECT count(*) FROM meshhook.message")),
            (drawn + 1, 3)
        );
        // In another stream it is no repetition.
        let call =
            format!("SELECT meshhook.append_message('other-1', 'T', '{{}}'{})", with(", idempotent => true"));
        assert_eq!(refused(db, &mut app, &call).code().code(), "23505");
        // The first of its id with idempotent is an append like any other, its version checked.
        let fresh = new_id();
        let call = format!("SELECT meshhook.append_message('i-1', 'T', '{{}}', NULL, 9, '{fresh}', true)");
        assert_eq!(refused(db, &mut app, &call).code().code(), "55000");
        assert_eq!(appended(&mut app, "i-1", &format!(", NULL, 2, '{fresh}', true")), 3);
        // Those made here are ordered by time.
        let made: Vec<uuid::Uuid> = (0..20).map(|_| append(&mut app, "t-1").id).collect();
        assert!(made.iter().all(|id| id.get_version_num() == 7));
        assert!(made.iter().map(|id| id.as_u128() >> 80).is_sorted(), "by the millisecond: {made:?}");
    });
}

#[test]
fn a_repetition_at_the_same_time_waits_for_the_first() {
    both("repeated", |db| {
        let (mut admin, mut first) = (db.admin(), db.app());
        for end in ["COMMIT", "ROLLBACK"] {
            let id = new_id();
            let call = format!(
                "SELECT meshhook.append_message('r-{end}', 'T', '{{}}', id => '{id}', idempotent => true)"
            );
            first.exec("BEGIN");
            first.value::<i64>(&call, &[]);
            let second = super::Pending::start(db.app(), &call);
            second.wait_blocked(&mut admin);
            first.exec(end);
            assert_eq!(second.end().succeeded().0[0].get::<_, i64>(0), 0, "{end}");
            let sql = format!("SELECT count(*) FROM meshhook.read_stream('r-{end}')");
            assert_eq!(counted(&mut admin, &sql), 1);
        }
    });
}

#[test]
fn limits_hold_at_their_edge() {
    both("limits", |db| {
        let (mut app, mut admin) = (db.app(), db.admin());
        // A document of exactly 16 MiB and one byte more: {"x": "…"} costs 12 bytes of header and key.
        let size = "pg_column_size(jsonb_build_object('x', repeat('x', 100)))";
        let overhead = app.value::<i32>(&format!("SELECT {size} - 100"), &[]);
        let most = (16 << 20) - overhead;
        let call = |letters: i32, which: &str| {
            let document = format!("jsonb_build_object('x', repeat('x', {letters}))");
            match which {
                "data" => format!("SELECT meshhook.append_message('l-1', 'T', {document})"),
                _ => format!("SELECT meshhook.append_message('l-1', 'T', '{{}}', {document})"),
            }
        };
        for which in ["data", "metadata"] {
            let error = refused(db, &mut app, &call(most + 64, which));
            assert_eq!(error.code().code(), "54000");
            assert!(error.message().contains(which) && error.hint().is_some(), "{error:?}");
            app.rows(&call(most - 64, which), &[]);
        }
        let letters: i32 =
            app.value("SELECT length(data ->> 'x') FROM meshhook.read_stream('l-1', 0, 1)", &[]);
        assert_eq!(letters, most - 64, "it comes back whole");
        // What counts is its size, not that of its compressed form in a table.
        admin.exec(&format!(
            "CREATE TABLE docs AS SELECT jsonb_build_object('x', repeat('x', {})) AS doc; GRANT SELECT ON docs TO shop",
            most + 64
        ));
        let error = refused(db, &mut app, "SELECT meshhook.append_message('l-1', 'T', doc) FROM docs");
        assert_eq!(error.code().code(), "54000");
        // A name has a length.
        let named = |length: usize| {
            format!("SELECT meshhook.append_message('l-' || repeat('n', {}), 'T', '{{}}')", length - 2)
        };
        assert_eq!(refused(db, &mut app, &named(2_601)).code().code(), "22023");
        app.rows(&named(2_600), &[]);
        for (stream, kind) in [("''", "'T'"), ("'l-1'", "''"), ("NULL", "'T'"), ("'l-1'", "NULL")] {
            let sql = format!("SELECT meshhook.append_message({stream}, {kind}, '{{}}')");
            let code = refused(db, &mut app, &sql).code().code().to_owned();
            assert!(["22023", "22004"].contains(&code.as_str()), "{sql}: {code}");
        }
    });
}

#[test]
fn a_document_from_another_table_outlives_that_table() {
    both("toast", |db| {
        let (mut app, mut admin) = (db.app(), db.admin());
        // Too large for a row, and not to be compressed: the message must not point where the table kept it.
        admin.exec(
            "CREATE TABLE docs AS SELECT jsonb_agg(md5(n::text)) AS doc FROM generate_series(1, 2000) AS n; \
             GRANT SELECT ON docs TO shop",
        );
        let whole: String = app.value("SELECT md5(doc::text) FROM docs", &[]);
        app.exec("SELECT meshhook.append_message('d-1', 'T', doc, doc) FROM docs");
        admin.exec("DROP TABLE docs; CHECKPOINT");
        let sql = "SELECT md5(data::text) = $1 AND md5(metadata::text) = $1 FROM meshhook.read_category('d')";
        assert!(db.app().value::<bool>(sql, &[&whole]));
        let sql = "SELECT md5(data::text) = $1 FROM meshhook.read_stream('d-1')";
        assert!(db.app().value::<bool>(sql, &[&whole]));
    });
}

#[test]
fn a_thousand_streams_fit_into_a_transaction() {
    both("thousand", |db| {
        let mut app = db.app();
        app.exec("BEGIN");
        app.exec("SELECT meshhook.append_message('t-' || n, 'T', '{}') FROM generate_series(1, 1000) AS n");
        // Those it has it may append to as often as it likes.
        app.exec("SELECT meshhook.append_message('t-' || n, 'T', '{}') FROM generate_series(1, 1000) AS n");
        app.exec("SAVEPOINT s");
        let error = app.error("SELECT meshhook.append_message('t-1001', 'T', '{}')", &[]);
        assert_eq!(error.code().code(), "54000");
        assert!(error.detail().is_some() && error.hint().is_some(), "{error:?}");
        app.exec("ROLLBACK TO s; COMMIT");
        assert_eq!(counted(&mut db.admin(), "SELECT count(*) FROM meshhook.message"), 2_000);
        append(&mut app, "t-1001");
        // In one call the same.
        let many = |count: i32| {
            format!(
                "SELECT count(*) FROM meshhook.append_messages(ARRAY(SELECT 'm-' || n FROM generate_series(1, {count}) AS n), \
                 ARRAY(SELECT 'T' FROM generate_series(1, {count})), ARRAY(SELECT '{{}}'::jsonb FROM generate_series(1, {count})))"
            )
        };
        assert_eq!(refused(db, &mut app, &many(1_001)).code().code(), "54000");
        assert_eq!(counted(&mut app, &many(1_000)), 1_000);
    });
}

#[test]
fn names_of_meshhook_s_own_are_reserved() {
    both("reserved", |db| {
        let mut app = db.app();
        let of_a_run = format!("meshhook:run-{}", new_id());
        for stream in ["meshhook:run", "meshhook:anything-1", &of_a_run] {
            for sql in [
                format!("SELECT meshhook.append_message('{stream}', 'T', '{{}}')"),
                format!(
                    "SELECT * FROM meshhook.append_messages('{{ok-1,{stream}}}', '{{T,T}}', ARRAY['1','2']::jsonb[])"
                ),
            ] {
                let error = refused(db, &mut app, &sql);
                assert_eq!(error.code().code(), "22023", "{error:?}");
                assert!(error.hint().is_some_and(|hint| hint.contains("reserved")), "{error:?}");
            }
        }
        append(&mut app, "meshhook-1");
        assert_eq!(counted(&mut app, "SELECT count(*) FROM meshhook.read_category('meshhook')"), 1);
    });
}

#[test]
fn what_is_appended_is_what_is_read() {
    both("content", |db| {
        let mut app = db.app();
        let data = json!({"name": "Ünïcode ☃ \"quoted\" \\ back", "list": [1, 2.5, null, {"deep": [[]]}], "big": 12345678901234567890u64});
        let metadata = json!({"correlationStreamName": "cause-1+2", "none": null});
        app.exec("SET timezone = 'Asia/Tokyo'");
        app.rows("SELECT meshhook.append_message('c-ü-1', 'Überwiesen', $1, $2)", &[&data, &metadata]);
        app.exec("SELECT meshhook.append_message('c-2', 'Nothing', NULL)");
        for read in [
            "meshhook.read_stream('c-ü-1')",
            "meshhook.read_category('c', batch_size => 1)",
            "meshhook.last_message('c-ü-1')",
            "meshhook.read_category('c', correlation => 'cause')",
            "meshhook.read_all(types => '{Überwiesen}')",
        ] {
            let sql = format!(
                "SELECT data, metadata, stream, type, time BETWEEN now() - interval '1 min' AND clock_timestamp() FROM {read}"
            );
            let rows = app.rows(&sql, &[]);
            assert_eq!(rows.len(), 1, "{read}");
            assert_eq!((rows[0].get(0), rows[0].get(1)), (data.clone(), metadata.clone()), "{read}");
            assert_eq!((rows[0].get::<_, &str>(2), rows[0].get::<_, &str>(3)), ("c-ü-1", "Überwiesen"));
            assert!(rows[0].get::<_, bool>(4), "{read}");
        }
        let none = "SELECT data IS NULL AND metadata IS NULL FROM meshhook.read_stream('c-2')";
        assert!(app.value::<bool>(none, &[]));
    });
}

#[test]
fn a_purged_stream_says_where_it_begins_and_never_counts_again() {
    both("purged", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        let all: Vec<Placed> = (0..5).map(|_| append(&mut app, "p-1")).collect();
        let other = append(&mut app, "p-2").global;
        for sql in ["SELECT meshhook.purge_stream('p-1', 3)", "SELECT meshhook.delete_stream('p-1')"] {
            assert_eq!(app.error(sql, &[]).code().code(), "42501", "{sql}: the application may not");
        }
        assert_eq!(admin.value::<i64>("SELECT meshhook.purge_stream('p-1', 3)", &[]), 3);
        let read = |app: &mut Session, from: i64| -> (Vec<i64>, Vec<String>) {
            let positions = app.values("SELECT position FROM meshhook.read_stream('p-1', $1)", &[&from]);
            (positions, app.take_notices().iter().map(|notice| notice.message().to_owned()).collect())
        };
        let (positions, notices) = read(&mut app, 0);
        assert_eq!(positions, [3, 4]);
        assert!(notices.len() == 1 && notices[0].contains("begins at position 3"), "{notices:?}");
        assert_eq!(read(&mut app, 3), (vec![3, 4], vec![]), "who asks for what is there is told nothing");
        // The newest stays, unless all are to go.
        for sql in ["SELECT meshhook.purge_stream('p-1', 5)", "SELECT meshhook.purge_stream('unknown-1', 1)"]
        {
            let code = admin.error(sql, &[]).code().code().to_owned();
            assert_eq!(code, if sql.contains("unknown") { "P0002" } else { "22023" });
        }
        assert_eq!(
            admin.value::<i64>("SELECT meshhook.purge_stream('p-1', 1)", &[]),
            0,
            "it is further already"
        );
        assert_eq!(append(&mut app, "p-1").position, 5);
        assert_eq!(admin.value::<i64>("SELECT meshhook.delete_stream('p-1')", &[]), 3);
        let (positions, notices) = read(&mut app, 0);
        assert!(positions.is_empty() && notices[0].contains("begins at position 6"), "{notices:?}");
        let version: Option<i64> = app.value("SELECT meshhook.stream_version('p-1')", &[]);
        assert_eq!(version, None);
        assert_eq!(
            app.error("SELECT meshhook.append_message('p-1', 'T', '{}', expected_version => 5)", &[])
                .code()
                .code(),
            "55000"
        );
        assert_eq!(
            appended(&mut app, "p-1", ", expected_version => -1"),
            6,
            "positions are never given again"
        );
        // Readers of the category go over what is gone; other streams are as they were.
        let left: Vec<i64> = app.values("SELECT global_position FROM meshhook.read_category('p')", &[]);
        assert_eq!(left, [other, last_drawn(&mut admin)]);
        assert!(all.iter().all(|one| one.global < left[1]));
        let audited: Vec<String> = admin.values(
            "SELECT action || ' ' || target || ' ' || (details ->> 'messages') FROM meshhook.audit_log \
                          WHERE action LIKE 'stream.%' ORDER BY 1",
            &[],
        );
        assert_eq!(audited, ["stream.deleted p-1 3", "stream.purged p-1 0", "stream.purged p-1 3"]);
        assert_eq!(
            admin.error("SELECT meshhook.delete_stream('meshhook:run-1')", &[]).code().code(),
            "22023"
        );
    });
}

#[test]
fn a_purge_waits_for_the_stream_s_writer_and_the_other_way_round() {
    both("purge_waits", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        append(&mut app, "w-1");
        app.exec("BEGIN");
        append(&mut app, "w-1");
        let purge = super::Pending::start(db.admin(), "SELECT meshhook.delete_stream('w-1')");
        purge.wait_blocked(&mut admin);
        app.exec("COMMIT");
        assert_eq!(purge.end().succeeded().0[0].get::<_, i64>(0), 2);
        admin.exec("BEGIN");
        append(&mut admin, "w-1");
        admin.exec("SELECT meshhook.delete_stream('w-1')");
        let append = super::Pending::start(db.app(), "SELECT meshhook.append_message('w-1', 'T', '{}')");
        append.wait_blocked(&mut db.admin());
        admin.exec("COMMIT");
        assert_eq!(append.end().succeeded().0[0].get::<_, i64>(0), 3);
    });
}

#[test]
fn a_process_remembers_nothing_that_was_taken_back() {
    both("memory", |db| {
        let (mut app, mut other) = (db.app(), db.app());
        // A stream that was made and taken back, made by another, grown and deleted by another.
        app.exec("BEGIN");
        append(&mut app, "m-1");
        app.exec("ROLLBACK");
        assert_eq!(append(&mut other, "m-1").position, 0);
        assert_eq!(append(&mut app, "m-1").position, 1);
        app.exec("BEGIN");
        for _ in 0..5 {
            append(&mut app, "m-1");
        }
        app.exec("ROLLBACK");
        assert_eq!(append(&mut app, "m-1").position, 2);
        assert_eq!(append(&mut other, "m-1").position, 3);
        db.admin().exec("SELECT meshhook.delete_stream('m-1')");
        assert_eq!(append(&mut app, "m-1").position, 4);
        // The extension made anew in the same database: same names, other tables.
        db.admin()
            .exec("DROP EXTENSION meshhook; CREATE EXTENSION meshhook; SELECT meshhook.grant_api('shop')");
        let rows = app.rows(
            "SELECT position, global_position, id FROM meshhook.append_messages('{m-1}', '{T}', ARRAY[$1]::jsonb[])",
            &[&note(1)],
        );
        assert_eq!(placed(&rows)[0].position, 0);
        assert_eq!(counted(&mut app, "SELECT count(*) FROM meshhook.read_category('m')"), 1);
    });
}
