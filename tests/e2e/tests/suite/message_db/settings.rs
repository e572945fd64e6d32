//! The settings: SQL conditions, and what the debug settings print.

use super::{
    Kind, Store, ask, lines, literal, new_id, on, on_own, one, refused, refused_with, write, write_with,
};
use meshhook_testkit::Session;
use meshhook_testkit::message_db::ROLE;

const REFUSED: &str = "P0001 Retrieval with SQL condition is not activated";

/// A stream `cond-1` with three messages and one with one.
fn fill(store: &Store) {
    let mut client = store.client();
    for (kind, data) in
        [("Opened", r#"{"n": 1}"#), ("Paid", r#"{"n": 2, "text": "x%y"}"#), ("Paid", r#"{"n": 3}"#)]
    {
        write_with(&mut client, "cond-1", &format!("'{kind}', '{data}', '{{\"by\": \"me\"}}'"));
    }
    write_with(&mut client, "cond-2", "'Paid', NULL");
}

/// Positions that the stream reader returns under a condition.
#[track_caller]
fn of_stream(session: &mut Session, condition: &str) -> Vec<String> {
    let condition = literal(condition);
    lines(
        session,
        &format!(
            "SELECT position FROM message_store.get_stream_messages('cond-1', condition => {condition})"
        ),
    )
}

/// What the category reader returns under a condition.
#[track_caller]
fn of_category(session: &mut Session, condition: &str) -> Vec<String> {
    let sql = "SELECT stream_name, position FROM message_store.get_category_messages('cond', condition => ";
    lines(session, &format!("{sql}{})", literal(condition)))
}

#[test]
fn conditions_are_refused_unless_the_setting_is_something_else_than_off() {
    on_own("switch", &Kind::ALL, |store| {
        fill(store);
        let calls = [
            "SELECT position FROM message_store.get_stream_messages('cond-1', condition => 'type = ''Opened''')",
            "SELECT position FROM message_store.get_category_messages('cond', condition => 'type = ''Opened''')",
        ];
        for sql in calls {
            assert_eq!(refused(&mut store.client(), sql), REFUSED, "unset");
            assert_eq!(refused(&mut store.admin(), sql), REFUSED, "of an administrator too");
            for (value, allowed) in [
                ("off", false),
                ("on", true),
                ("OFF", true),
                ("Off", true),
                ("false", true),
                ("0", true),
                ("", true),
                (" off", true),
            ] {
                store.set_for_all("message_store.sql_condition", value);
                let mut client = store.client();
                if allowed {
                    assert_eq!(lines(&mut client, sql), ["0"], "{value:?}");
                } else {
                    assert_eq!(refused(&mut client, sql), REFUSED, "{value:?}");
                }
            }
            let database = &store.database.name;
            store
                .database
                .admin()
                .exec(&format!("ALTER DATABASE {database} RESET message_store.sql_condition"));
            assert_eq!(refused(&mut store.client(), sql), REFUSED, "unset again");
        }
        // For one role alone.
        let role = format!("ALTER ROLE {ROLE} IN DATABASE {} ", store.database.name);
        store.database.admin().exec(&format!("{role} SET message_store.sql_condition = 'on'"));
        assert_eq!(lines(&mut store.client(), calls[0]), ["0"]);
        store.database.admin().exec(&format!("{role} RESET message_store.sql_condition"));
        assert_eq!(refused(&mut store.client(), calls[0]), REFUSED);
    });
}

#[test]
fn with_the_original_anybody_allows_conditions_with_ours_an_administrator() {
    on_own("who", &Kind::ALL, |store| {
        fill(store);
        let sql = "SELECT position \
                   FROM message_store.get_stream_messages('cond-1', condition => 'type = ''Opened''')";
        if store.is_original() {
            let mut client = store.client();
            client.exec("SET message_store.sql_condition = 'on'");
            assert_eq!(lines(&mut client, sql), ["0"]);
            return;
        }
        // Before and after the session has called us, so that our library is there or is not.
        for first in ["SELECT 1", "SELECT message_store.message_store_version()", sql] {
            for set in [
                "SET message_store.sql_condition = 'on'",
                "BEGIN; SET LOCAL message_store.sql_condition = 'on'",
                "SELECT set_config('message_store.sql_condition', 'on', false)",
                "SET SESSION message_store.sql_condition TO DEFAULT",
                "ALTER ROLE message_store SET message_store.sql_condition = 'on'",
            ] {
                let mut client = store.client();
                let _ = client.batch_execute(first);
                // Refused here, or without effect.
                if client.batch_execute(set).is_err() {
                    client.exec("ROLLBACK");
                }
                assert_eq!(refused(&mut client, sql), REFUSED, "{first}; {set}");
                assert_eq!(refused(&mut store.client(), sql), REFUSED, "{first}; {set}, in the next session");
            }
        }
        let mut config = store.database.cluster.config(ROLE, &store.database.name);
        config.options("-c message_store.sql_condition=on");
        if let Ok(mut client) = Session::connect(&config) {
            assert_eq!(refused(&mut client, sql), REFUSED, "by an option of the connection");
        }
        // An administrator's session may, for itself.
        let mut admin = store.admin();
        admin.exec("SET message_store.sql_condition = 'on'");
        assert_eq!(lines(&mut admin, sql), ["0"]);
        assert_eq!(refused(&mut store.client(), sql), REFUSED);
    });
}

#[test]
fn a_condition_is_sql_about_the_columns_of_messages() {
    on_own("conditions", &Kind::ALL, |store| {
        fill(store);
        store.set_for_all("message_store.sql_condition", "on");
        let mut client = store.client();
        for (condition, expected) in [
            ("true", &["0", "1", "2"] as &[&str]),
            ("false", &[]),
            ("NULL", &[]),
            ("type = 'Paid'", &["1", "2"]),
            ("type = 'Paid' AND position > 1", &["2"]),
            ("position = 0 OR position = 2", &["0", "2"]),
            ("(data->>'n')::int > 1", &["1", "2"]),
            ("data @> '{\"n\": 2}'", &["1"]),
            ("data->>'text' LIKE '%x%'", &["1"]),
            ("data->>'text' LIKE '%s%I%%'", &[]),
            ("metadata->>'by' = 'me'", &["0", "1", "2"]),
            (
                "global_position IS NOT NULL AND id IS NOT NULL AND time <= now() AT TIME ZONE 'utc'",
                &["0", "1", "2"],
            ),
            (
                "pg_typeof(id) = 'uuid'::regtype AND pg_typeof(stream_name) = 'text'::regtype",
                &["0", "1", "2"],
            ),
            ("messages.position = 1", &["1"]),
            // Whatever the caller's search path finds.
            ("category(stream_name) = 'cond'", &["0", "1", "2"]),
            ("message_store.cardinal_id(stream_name) = '1'", &["0", "1", "2"]),
            ("position = (SELECT max(m.position) FROM messages m WHERE m.stream_name = 'cond-1')", &["2"]),
            // The caller's rights and name, not those of who owns the functions.
            ("current_user = 'message_store'", &["0", "1", "2"]),
            ("true -- a comment )", &["0", "1", "2"]),
            ("/* ( */ true", &["0", "1", "2"]),
            // Parameters: the stream, the position, the batch size.
            ("stream_name = $1 AND position >= $2 AND $3 = 1000", &["0", "1", "2"]),
        ] {
            // A comment at the end would swallow the parenthesis that follows on the same line.
            let condition =
                if condition.contains("--") { format!("{condition}\n") } else { condition.into() };
            assert_eq!(of_stream(&mut client, &condition), expected, "{condition}");
        }
        for (condition, expected) in [
            ("type = 'Paid'", &["cond-1|1", "cond-1|2", "cond-2|0"] as &[&str]),
            ("stream_name LIKE '%-2'", &["cond-2|0"]),
            ("data IS NULL OR data->>'n' = '1'", &["cond-1|0", "cond-2|0"]),
            ("messages.type = 'Opened'", &["cond-1|0"]),
            ("current_user = 'message_store'", &["cond-1|0", "cond-1|1", "cond-1|2", "cond-2|0"]),
        ] {
            assert_eq!(of_category(&mut client, condition), expected, "{condition}");
        }
        let together = "SELECT stream_name, position FROM message_store.get_category_messages('cond', \
             batch_size => 1, consumer_group_member => 1, consumer_group_size => 2, condition => 'type = ''Paid''')";
        assert_eq!(lines(&mut client, together), ["cond-2|0"]);
        if !store.is_original() {
            client.exec("SET search_path = ''");
            assert_eq!(of_stream(&mut client, "type = 'Paid'"), ["1", "2"]);
            assert_eq!(of_category(&mut client, "position = 1"), ["cond-1|1"]);
        }
    });
}

#[test]
fn a_wrong_condition_fails_as_sql_does() {
    on_own("wrong_conditions", &Kind::ALL, |store| {
        fill(store);
        let mut admin = store.database.admin();
        admin.exec("CREATE TABLE public.private (x int); INSERT INTO public.private VALUES (1)");
        store.set_for_all("message_store.sql_condition", "on");
        let mut client = store.client();
        for (condition, code) in [
            ("", "42601"),
            (" ", "42601"),
            ("(", "42601"),
            ("type = ", "42601"),
            ("true; DELETE FROM messages", "42601"),
            ("nonsense = 1", "42703"),
            ("nonsense(type)", "42883"),
            ("1", "42804"),
            ("type = 1", "42883"),
            ("1 / (position - position) = 1", "22012"),
            ("$9 = 1", "42P02"),
            ("EXISTS (SELECT FROM nowhere)", "42P01"),
            // Nobody reads through a condition what he may not read anyway.
            ("EXISTS (SELECT FROM public.private)", "42501"),
            ("EXISTS (SELECT FROM pg_catalog.pg_authid)", "42501"),
        ] {
            for call in
                ["get_stream_messages('cond-1', 0, 9, ", "get_category_messages('cond', 1, 9, NULL, 0, 1, "]
            {
                let sql = format!("SELECT * FROM message_store.{call}{})", literal(condition));
                assert_eq!(refused_with(&mut client, &sql), code, "{sql}");
                // It is SQL before it is asked of any row.
                for nothing in [sql.replace("'cond", "'none"), sql.replace(", 9,", ", 0,")] {
                    if code != "22012" {
                        assert_eq!(refused_with(&mut client, &nothing), code, "{nothing}");
                    }
                }
            }
        }
        // Every check of the arguments comes first, then a size beyond smallint, then the SQL, then the limit.
        let call = |rest: &str| {
            format!("SELECT * FROM message_store.get_category_messages('cond', 1, -2, NULL, {rest})")
        };
        assert_eq!(refused_with(&mut client, &call("0, 0, '('")), "P0001");
        assert_eq!(refused_with(&mut client, &call("0, 40000, '('")), "22003");
        assert_eq!(refused_with(&mut client, &call("0, 400, '('")), "42601");
        assert_eq!(refused_with(&mut client, &call("0, 400, 'true'")), "2201W");
        let call =
            |rest: &str| format!("SELECT * FROM message_store.get_stream_messages('cond-1', 0, -2, {rest})");
        assert_eq!(refused_with(&mut client, &call("'('")), "42601");
        assert_eq!(refused_with(&mut client, &call("'true'")), "2201W");
    });
}

#[test]
fn a_condition_looks_at_as_many_messages_as_it_takes() {
    on_own("far", &Kind::ALL, |store| {
        store.set_for_all("message_store.sql_condition", "on");
        let mut client = store.client();
        let fill = "SELECT count(message_store.write_message(gen_random_uuid()::text, 'far-' || x % 2, 'T', \
                    jsonb_build_object('n', x))) FROM generate_series(0, 4999) x";
        assert_eq!(one(&mut client, fill), "5000");
        let numbers = |call: &str| format!("SELECT data::jsonb->'n' FROM message_store.{call}");
        for (call, expected) in [
            // Nothing fits in the first two thousand, and the batch is full before the end.
            ("get_stream_messages('far-0', 0, 3, '(data->>''n'')::int >= 4200')", vec![4200, 4202, 4204]),
            ("get_stream_messages('far-0', 2498, 3, '(data->>''n'')::int % 4 = 0')", vec![4996]),
            (
                "get_category_messages('far', 1, 3, condition => 'position = 2400 OR position = 3')",
                vec![6, 7, 4800],
            ),
            // Less than a batch in all of it.
            ("get_stream_messages('far-1', condition => 'position % 1000 = 999')", vec![1999, 3999]),
            // Cardinal id 1 belongs to member 0 of 2, and 0 to member 1.
            (
                "get_category_messages('far', 1, -1, NULL, 0, 2, condition => 'position % 1000 = 1')",
                vec![3, 2003, 4003],
            ),
        ] {
            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(lines(&mut client, &numbers(call)), expected, "{call}");
        }
        for (batch, expected) in [("NULL", 1000), ("-1", 2500), ("1500", 1500), ("0", 0)] {
            let sql = format!(
                "SELECT count(*) FROM message_store.get_stream_messages('far-0', 0, {batch}, 'true')"
            );
            assert_eq!(one(&mut client, &sql), expected.to_string(), "{batch}");
        }
    });
}

/// What a session is told while it does this.
fn notices(session: &mut Session, sql: &str) -> Vec<String> {
    session.take_notices();
    let _ = ask(session, sql);
    session
        .take_notices()
        .iter()
        .map(|notice| format!("{}: {}", notice.severity(), notice.message()))
        .collect()
}

/// The notices of one call: a heading and the lines below it.
fn told(heading: &str, rest: &[&str]) -> Vec<String> {
    let heading = format!("NOTICE: » {heading}");
    std::iter::once(heading).chain(rest.iter().map(|line| format!("NOTICE: {line}"))).collect()
}

/// Compares, leaving out the original's last line, which holds its query.
#[track_caller]
fn assert_told(store: &Store, session: &mut Session, sql: &str, mut expected: Vec<String>) {
    let mut found = notices(session, sql);
    let command = "NOTICE: Generated Command: ";
    if store.is_original() && expected.first().is_some_and(|line| line.contains("» get_")) {
        assert!(found.last().is_some_and(|line| line.starts_with(command)), "{found:?}");
        found.pop();
    }
    // For where the test names no hash.
    for (line, found) in expected.iter_mut().zip(&found) {
        if line.ends_with('*') && found.starts_with(line.trim_end_matches('*')) {
            line.clone_from(found);
        }
    }
    assert_eq!(found, expected, "{sql}");
}

#[test]
fn debug_settings_print_the_arguments() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        write(&mut client, "debugged-1");
        let read_stream = "SELECT * FROM message_store.get_stream_messages('debugged-1')";
        let read_category =
            "SELECT * FROM message_store.get_category_messages('debugged', NULL, NULL, 'c', 0, 2)";
        let read_last = "SELECT * FROM message_store.get_last_stream_message('debugged-1', 'Paid')";
        let lock = "SELECT message_store.acquire_lock('debugged-2')";
        let stream_told = told(
            "get_stream_messages",
            &[
                "stream_name ($1): debugged-1",
                "position ($2): 0",
                "batch_size ($3): 1000",
                "condition ($4): <NULL>",
            ],
        );
        let category_told = told(
            "get_category_messages",
            &[
                "category ($1): debugged",
                "position ($2): 1",
                "batch_size ($3): 1000",
                "correlation ($4): c",
                "consumer_group_member ($5): 0",
                "consumer_group_size ($6): 2",
                "condition: <NULL>",
            ],
        );
        let last_told = told("get_last_message", &["stream_name ($1): debugged-1", "type ($2): Paid"]);
        let lock_told = |stream: &str| {
            told(
                "acquire_lock",
                &[&format!("stream_name: {stream}"), "_category: debugged", "_category_name_hash: *"],
            )
        };

        for value in ["off", "ON", "true", ""] {
            for setting in ["debug", "debug_get", "debug_write"] {
                client.exec(&format!("SET message_store.{setting} = '{value}'"));
            }
            for sql in [read_stream, read_category, read_last, lock] {
                assert!(notices(&mut client, sql).is_empty(), "{value}: {sql}");
            }
        }
        for (setting, reads, writes) in
            [("debug_get", true, false), ("debug_write", false, true), ("debug", true, true)]
        {
            client.exec(&format!("SET message_store.{setting} = 'on'"));
            let none = Vec::new;
            let when = |on: bool, lines: Vec<String>| if on { lines } else { none() };
            assert_told(store, &mut client, read_stream, when(reads, stream_told.clone()));
            assert_told(store, &mut client, read_category, when(reads, category_told.clone()));
            assert_told(store, &mut client, read_last, when(reads, last_told.clone()));
            assert_told(store, &mut client, lock, when(writes, lock_told("debugged-2")));
            for quiet in
                ["SELECT message_store.stream_version('debugged-1')", "SELECT message_store.hash_64('a')"]
            {
                assert!(notices(&mut client, quiet).is_empty(), "{quiet}");
            }
            client.exec(&format!("SET message_store.{setting} = 'off'"));
        }
    });
}

#[test]
fn debug_settings_print_what_a_write_did_as_far_as_it_came() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        client.exec("SET message_store.debug_write = 'on'");
        let write =
            |id: &str, rest: &str| format!("SELECT message_store.write_message({id}, 'told-1', {rest})");
        let locked =
            told("acquire_lock", &["stream_name: told-1", "_category: told", "_category_name_hash: *"]);
        let id = new_id();
        let mut expected = locked.clone();
        let id_told = format!("id ($1): {}", id.trim_matches('\''));
        let first = [
            "stream_name ($2): told-1",
            "type ($3): T",
            "data ($4): {\"a\": null, \"b\": 1}",
            "metadata ($5): <NULL>",
        ];
        let counts = ["expected_version ($6): <NULL>", "_stream_version: -1", "_next_position: 0"];
        expected.extend(told("write_message", &[&[id_told.as_str()], &first[..], &counts[..]].concat()));
        assert_told(store, &mut client, &write(&id, "'T', '{\"b\":1,\"a\":null}'"), expected);

        let id = new_id();
        let mut expected = locked.clone();
        let id_told = format!("id ($1): {}", id.trim_matches('\''));
        let rest =
            ["stream_name ($2): told-1", "type ($3): T", "data ($4): <NULL>", "metadata ($5): {\"x\": 1}"];
        let counts = ["expected_version ($6): 0", "_stream_version: 0", "_next_position: 1"];
        expected.extend(told("write_message", &[&[id_told.as_str()], &rest[..], &counts[..]].concat()));
        assert_told(store, &mut client, &write(&id, "'T', NULL, '{\"x\": 1}', 0"), expected);

        // The lock was taken in any case; of a message that was not written nothing more is told.
        for failing in [
            write(&new_id(), "'T', NULL, NULL, 7"),
            write("'no uuid'", "'T', NULL"),
            write(&id, "'T', NULL"),
            write(&new_id(), "NULL, NULL"),
        ] {
            assert_told(store, &mut client, &failing, locked.clone());
        }
        let nothing = told(
            "acquire_lock",
            &["stream_name: <NULL>", "_category: <NULL>", "_category_name_hash: <NULL>"],
        );
        assert_told(store, &mut client, "SELECT message_store.acquire_lock(NULL)", nothing);
        assert_eq!(one(&mut client, "SELECT message_store.stream_version('told-1')"), "1");
    });
}

#[test]
fn debug_settings_print_a_condition_once() {
    on_own("told_conditions", &Kind::ALL, |store| {
        fill(store);
        store.set_for_all("message_store.sql_condition", "on");
        let mut client = store.client();
        client.exec("SET message_store.debug_get = 'on'");
        let stream = told(
            "get_stream_messages",
            &[
                "stream_name ($1): cond-1",
                "position ($2): 0",
                "batch_size ($3): 1000",
                "condition ($4): type = 'Paid'",
            ],
        );
        let call = "get_stream_messages('cond-1', condition => 'type = ''Paid''')";
        assert_told(store, &mut client, &format!("SELECT * FROM message_store.{call}"), stream);
        for category in ["cond", "none"] {
            let expected = told(
                "get_category_messages",
                &[
                    &format!("category ($1): {category}"),
                    "position ($2): 1",
                    "batch_size ($3): -1",
                    "correlation ($4): <NULL>",
                    "consumer_group_member ($5): <NULL>",
                    "consumer_group_size ($6): <NULL>",
                    "condition: true",
                ],
            );
            let sql = format!(
                "SELECT * FROM message_store.get_category_messages('{category}', 1, -1, condition => 'true')"
            );
            assert_told(store, &mut client, &sql, expected);
        }
    });
}

#[test]
fn debug_settings_print_before_the_query_fails() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        client.exec("SET message_store.debug_get = 'on'");
        let stream = told(
            "get_stream_messages",
            &[
                "stream_name ($1): late-1",
                "position ($2): -5",
                "batch_size ($3): -2",
                "condition ($4): <NULL>",
            ],
        );
        assert_told(
            store,
            &mut client,
            "SELECT * FROM message_store.get_stream_messages('late-1', -5, -2)",
            stream,
        );
        let category = told(
            "get_category_messages",
            &[
                "category ($1): <NULL>",
                "position ($2): 1",
                "batch_size ($3): -2",
                "correlation ($4): <NULL>",
                "consumer_group_member ($5): 0",
                "consumer_group_size ($6): 32768",
                "condition: <NULL>",
            ],
        );
        let call = "SELECT * FROM message_store.get_category_messages(NULL, NULL, -2, NULL, 0, 32768)";
        assert_told(store, &mut client, call, category);
        // What the checks refuse is not told.
        for refused in ["get_stream_messages('late')", "get_category_messages('late', 1, 1, 'a-1')"] {
            assert!(
                notices(&mut client, &format!("SELECT * FROM message_store.{refused}")).is_empty(),
                "{refused}"
            );
        }
    });
}
