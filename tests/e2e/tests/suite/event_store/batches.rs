//! Many messages in one statement: in order, over several streams, all or none.

use super::{Reader, both, committed, last_drawn, new_id, placed};
use meshhook_e2e::counted;
use meshhook_testkit::Session;
use serde_json::{Value, json};

/// Arguments of `append_messages` behind its data, and the SQLSTATE they must be refused with.
#[track_caller]
fn refused(session: &mut Session, arguments: &str) -> String {
    let sql = format!("SELECT * FROM meshhook.append_messages({arguments})");
    session.error(&sql, &[]).code().code().to_owned()
}

#[test]
fn a_batch_keeps_its_order_over_several_streams() {
    both("batch", |db| {
        let (mut app, mut admin) = (db.app(), db.admin());
        let streams = ["b-2", "a-1", "b-2", "c", "a-1", "b-1"];
        let types = ["Z", "Y", "X", "W", "V", "U"];
        let data: Vec<Value> = (0..6).map(|n| json!({ "n": n })).collect();
        let rows = app.rows(
            "SELECT position, global_position, id, stream FROM meshhook.append_messages($1, $2, $3)",
            &[&streams.as_slice(), &types.as_slice(), &data],
        );
        let places = placed(&rows);
        let named: Vec<String> = rows.iter().map(|row| row.get(3)).collect();
        assert_eq!(named, streams, "a row for each, in the order given");
        assert_eq!(places.iter().map(|one| one.position).collect::<Vec<_>>(), [0, 0, 1, 0, 1, 0]);
        let globals: Vec<i64> = places.iter().map(|one| one.global).collect();
        assert!(globals.is_sorted() && globals.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{globals:?}");
        assert_eq!(Reader::of_all(db).read(), globals);
        let read: Vec<String> = app.values("SELECT type FROM meshhook.read_all()", &[]);
        assert_eq!(read, types);
        let numbers: Vec<i64> = app.values("SELECT (data ->> 'n')::bigint FROM meshhook.read_all()", &[]);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        let times = "SELECT count(DISTINCT time) FROM meshhook.message";
        assert_eq!(counted(&mut admin, times), 1, "one statement, one time");
    });
}

#[test]
fn a_batch_is_all_or_nothing() {
    both("atomic", |db| {
        let (mut app, mut admin) = (db.app(), db.admin());
        let taken = new_id();
        app.exec(&format!("SELECT meshhook.append_message('a-1', 'T', '{{}}', id => '{taken}')"));
        let before = (last_drawn(&mut admin), committed(&mut admin, None));
        let three = "'{a-1,b-1,c-1}', '{T,T,T}', ARRAY['1','2','3']::jsonb[]";
        let fresh = new_id();
        for (more, code) in [
            // The last one's version; the versions count what the batch itself has appended.
            (", NULL, '{0,-1,0}'".to_owned(), "55000"),
            // An id of its own twice, with and without idempotence.
            (format!(", NULL, NULL, '{{{fresh},NULL,{fresh}}}'"), "23505"),
            (format!(", NULL, NULL, '{{{fresh},NULL,{fresh}}}', true"), "23505"),
            (format!(", NULL, NULL, '{{NULL,NULL,{taken}}}'"), "23505"),
            (format!(", NULL, NULL, '{{NULL,NULL,{taken}}}', true"), "23505"),
            (", NULL, '{0,-1}'".to_owned(), "22023"),
            (", ARRAY['1','2']::jsonb[]".to_owned(), "22023"),
            (", NULL, '{0,-1,-7}'".to_owned(), "22023"),
        ] {
            assert_eq!(refused(&mut app, &format!("{three}{more}")), code, "{more}");
            assert_eq!(committed(&mut admin, None), before.1, "{more}");
        }
        for arguments in [
            "'{a-1,b-1}', '{T,T,T}', ARRAY['1','2','3']::jsonb[]",
            "'{a-1}', '{T,T,T}', ARRAY['1','2']::jsonb[]",
            "'{a-1,b-1,NULL}', '{T,T,T}', ARRAY['1','2','3']::jsonb[]",
            "'{a-1}', '{T,NULL}', ARRAY['1','2']::jsonb[]",
            "'{a-1}', '{T,\"\"}', ARRAY['1','2']::jsonb[]",
        ] {
            let code = refused(&mut app, arguments);
            assert!(["22023", "22004"].contains(&code.as_str()), "{arguments}: {code}");
        }
        assert_eq!(committed(&mut admin, None), before.1);
        let streams = counted(&mut admin, "SELECT count(*) FROM meshhook.stream");
        assert_eq!(streams, 1, "not even a stream was made");
    });
}

#[test]
fn versions_of_a_batch_are_those_of_their_moment() {
    both("moments", |db| {
        let mut app = db.app();
        let call = |versions: &str| {
            format!(
                "SELECT position, global_position, id FROM meshhook.append_messages('{{s-1,s-2,s-1}}', '{{T,T,T}}', \
                 ARRAY['1','2','3']::jsonb[], NULL, {versions})"
            )
        };
        let positions = |app: &mut Session, versions: &str| -> Vec<i64> {
            placed(&app.rows(&call(versions), &[])).iter().map(|one| one.position).collect()
        };
        assert_eq!(positions(&mut app, "'{-1,-1,0}'"), [0, 0, 1]);
        assert_eq!(positions(&mut app, "'{1}'"), [2, 1, 3], "one alone is the first one's");
        assert_eq!(positions(&mut app, "'{3,NULL,4}'"), [4, 2, 5]);
        assert_eq!(positions(&mut app, "NULL"), [6, 3, 7]);
        assert_eq!(app.error(&call("'{6}'"), &[]).code().code(), "55000");
        // One stream for all.
        let sql = "SELECT position, global_position, id FROM meshhook.append_messages('{s-1}', '{T,T,T}', \
                   ARRAY['1','2','3']::jsonb[], NULL, '{7}')";
        assert_eq!(
            placed(&app.rows(sql, &[])).iter().map(|one| one.position).collect::<Vec<_>>(),
            [8, 9, 10]
        );
        let none = "SELECT count(*) FROM meshhook.append_messages('{}', '{}', '{}')";
        let result = app.query(none, &[]).map(|rows| rows[0].get::<_, i64>(0));
        assert!(
            matches!(result, Ok(0)) || result.is_err_and(|e| super::code(&e) == "22023"),
            "nothing is nothing"
        );
    });
}

#[test]
fn a_repeated_batch_stands_where_it_stood() {
    both("again_batch", |db| {
        let (mut app, mut admin) = (db.app(), db.admin());
        let ids = [new_id(), new_id(), new_id()];
        let call = |count: usize| {
            let list: Vec<String> = ids[..count].iter().map(ToString::to_string).collect();
            format!(
                "SELECT position, global_position, id FROM meshhook.append_messages('{{r-1}}', \
                 array_fill('T'::text, ARRAY[{count}]), array_fill('{{}}'::jsonb, ARRAY[{count}]), NULL, NULL, '{{{}}}', true)",
                list.join(",")
            )
        };
        let first = placed(&app.rows(&call(2), &[]));
        super::append(&mut app, "r-1");
        let drawn = last_drawn(&mut admin);
        assert_eq!(placed(&app.rows(&call(2), &[])), first);
        assert_eq!(last_drawn(&mut admin), drawn, "nothing was drawn");
        // Part of it repeated, part of it new: as after an answer that was lost.
        let more = placed(&app.rows(&call(3), &[]));
        assert_eq!(more[..2], first);
        assert_eq!((more[2].position, more[2].global, more[2].id), (3, drawn + 1, ids[2]));
    });
}

#[test]
fn reads_are_bounded_and_choose() {
    both("reads", |db| {
        let mut app = db.app();
        app.exec(
            "SELECT count(*) FROM meshhook.append_messages(ARRAY(SELECT 'q-' || n % 3 FROM generate_series(1, 90) AS n), \
             ARRAY(SELECT 'T' || n % 9 FROM generate_series(1, 90) AS n), ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 90) AS n))",
        );
        let count =
            |app: &mut Session, read: &str| counted(app, &format!("SELECT count(*) FROM meshhook.{read}"));
        assert_eq!(count(&mut app, "read_stream('q-1')"), 30);
        assert_eq!(count(&mut app, "read_stream('q-1', 25)"), 5);
        assert_eq!(count(&mut app, "read_stream('q-1', 5, 10)"), 10);
        assert_eq!(count(&mut app, "read_stream('q-1', types => '{T1,T4}')"), 20);
        assert_eq!(
            count(&mut app, "read_stream('q-1', 0, 5, '{T1,T4}')"),
            5,
            "the limit is of what is chosen"
        );
        assert_eq!(count(&mut app, "read_stream('q-9')"), 0);
        assert_eq!(count(&mut app, "read_category('q', 81)"), 10);
        assert_eq!(count(&mut app, "read_category('q', types => '{T3}')"), 10);
        assert_eq!(count(&mut app, "read_category('q', types => '{}')"), 0);
        assert_eq!(count(&mut app, "read_category('none')"), 0);
        assert_eq!(count(&mut app, "read_all(1, 7)"), 7);
        assert_eq!(count(&mut app, "read_all(-5)"), 90);
        assert_eq!(app.values::<i64>("SELECT position FROM meshhook.last_message('q-1', 'T4')", &[]), [28]);
        assert_eq!(count(&mut app, "last_message('q-1', 'T5')"), 0);
        for read in [
            "read_stream('q-1', 0, 0)",
            "read_stream('q-1', 0, 100001)",
            "read_category('q-1')",
            "read_all(1, -1)",
            "read_category('q', consumer_group_member => 0)",
            "read_category('q', correlation => 'q-1')",
            "read_category('q', consumer_group_member => 3, consumer_group_size => 3)",
        ] {
            assert_eq!(
                app.error(&format!("SELECT * FROM meshhook.{read}"), &[]).code().code(),
                "22023",
                "{read}"
            );
        }
        for read in ["read_stream(NULL)", "read_category(NULL)", "last_message(NULL)"] {
            assert_eq!(
                app.error(&format!("SELECT * FROM meshhook.{read}"), &[]).code().code(),
                "22004",
                "{read}"
            );
        }
    });
}
