//! What clients find in the catalogues: functions, types, views, rights.

use super::{Kind, Store, ask, lines, on, on_own, one, refused, write, write_with};
use meshhook_testkit::message_db::{ROLE, VERSION};

/// The functions: `name(arguments) result`, then how their results may be kept (`i`mmutable or `v`olatile).
const FUNCTIONS: [&str; 12] = [
    "acquire_lock(stream_name character varying) bigint|v",
    "cardinal_id(stream_name character varying) character varying|i",
    "category(stream_name character varying) character varying|i",
    "get_category_messages(category character varying, \"position\" bigint DEFAULT 1, \
     batch_size bigint DEFAULT 1000, correlation character varying DEFAULT NULL::character varying, \
     consumer_group_member bigint DEFAULT NULL::bigint, consumer_group_size bigint DEFAULT NULL::bigint, \
     condition character varying DEFAULT NULL::character varying) SETOF message_store.message|v",
    "get_last_stream_message(stream_name character varying, \
     type character varying DEFAULT NULL::character varying) SETOF message_store.message|v",
    "get_stream_messages(stream_name character varying, \"position\" bigint DEFAULT 0, \
     batch_size bigint DEFAULT 1000, condition character varying DEFAULT NULL::character varying) \
     SETOF message_store.message|v",
    "hash_64(value character varying) bigint|i",
    "id(stream_name character varying) character varying|i",
    "is_category(stream_name character varying) boolean|i",
    "message_store_version() character varying|v",
    "stream_version(stream_name character varying) bigint|v",
    "write_message(id character varying, stream_name character varying, type character varying, data jsonb, \
     metadata jsonb DEFAULT NULL::jsonb, expected_version bigint DEFAULT NULL::bigint) bigint|v",
];

/// Everything with columns: the type, the table or view of messages, the summaries.
const COLUMNS: [&str; 8] = [
    "category_type_summary: category character varying, type text, message_count bigint, percent numeric",
    "message: id character varying, stream_name character varying, type character varying, position bigint, \
     global_position bigint, data character varying, metadata character varying, time timestamp without time zone",
    "messages: global_position bigint, position bigint, time timestamp without time zone, stream_name text, \
     type text, data jsonb, metadata jsonb, id uuid",
    "stream_summary: stream_name text, message_count bigint, percent numeric",
    "stream_type_summary: stream_name text, type text, message_count bigint, percent numeric",
    "type_category_summary: type text, category character varying, message_count bigint, percent numeric",
    "type_stream_summary: type text, stream_name text, message_count bigint, percent numeric",
    "type_summary: type text, message_count bigint, percent numeric",
];

const SUMMARIES: [&str; 6] = [
    "category_type_summary",
    "stream_summary",
    "stream_type_summary",
    "type_category_summary",
    "type_stream_summary",
    "type_summary",
];

#[test]
fn the_functions_have_the_originals_signatures() {
    on(&Kind::ALL, |store| {
        let mut admin = store.database.admin();
        admin.exec("SET search_path = ''");
        let found = lines(
            &mut admin,
            "SELECT format('%s(%s) %s', p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)), \
                    p.provolatile \
             FROM pg_proc p WHERE p.pronamespace = 'message_store'::regnamespace ORDER BY p.proname COLLATE \"C\"",
        );
        assert_eq!(found, FUNCTIONS);
        // With a strict function NULL would end the call instead of being judged; a definer's function would run
        // conditions with rights the caller has not.
        let odd = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'message_store'::regnamespace \
                   AND (proisstrict OR prosecdef OR prokind <> 'f')";
        assert_eq!(one(&mut admin, odd), "0");
    });
}

#[test]
fn type_table_and_views_have_the_originals_columns() {
    on(&Kind::ALL, |store| {
        let mut admin = store.database.admin();
        let found = lines(
            &mut admin,
            "SELECT c.relname || ': ' || \
                    string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) \
             FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid \
             WHERE relnamespace = 'message_store'::regnamespace AND relkind IN ('c', 'r', 'p', 'v') \
               AND attnum > 0 AND NOT attisdropped GROUP BY c.relname ORDER BY c.relname COLLATE \"C\"",
        );
        assert_eq!(found, COLUMNS);
    });
}

#[test]
fn the_version_is_the_contracts() {
    on(&Kind::ALL, |store| {
        assert_eq!(one(&mut store.client(), "SELECT message_store.message_store_version()"), VERSION);
    });
}

#[test]
fn the_role_logs_in_reads_and_calls_and_has_no_power_beyond_that() {
    on(&Kind::ALL, |store| {
        let mut admin = store.database.admin();
        let role = "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls \
                    FROM pg_roles WHERE rolname = 'message_store'";
        assert_eq!(one(&mut admin, role), "t|f|f|f|f|f");
        let schema = "SELECT has_schema_privilege('message_store', 'message_store', right_) \
                      FROM unnest(ARRAY['USAGE', 'CREATE']) right_";
        assert_eq!(lines(&mut admin, schema), ["t", "f"]);
        let without = "SELECT proname FROM pg_proc WHERE pronamespace = 'message_store'::regnamespace \
                       AND NOT has_function_privilege('message_store', oid, 'EXECUTE')";
        assert!(lines(&mut admin, without).is_empty());
        for relation in SUMMARIES.iter().chain(["messages"].iter()) {
            let may = |right: &str| {
                format!("has_table_privilege('message_store', 'message_store.{relation}', '{right}')")
            };
            let rights =
                ["SELECT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"].map(may).join(", ");
            assert_eq!(one(&mut admin, &format!("SELECT {rights}")), "t|f|f|f|f|f", "{relation}");
        }
    });
}

#[test]
fn nobody_changes_messages_past_the_functions() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        write(&mut client, "readOnly-1");
        let insert =
            "INSERT INTO message_store.messages (position, stream_name, type) VALUES (7, 'readOnly-1', 'T')";
        let update = "UPDATE message_store.messages SET type = 'Changed'";
        let delete = "DELETE FROM message_store.messages WHERE stream_name = 'readOnly-1'";
        let truncate = "TRUNCATE message_store.messages";
        if store.is_original() {
            for sql in [update, delete, truncate] {
                assert_eq!(refused(&mut client, sql), "42501 permission denied for table messages", "{sql}");
            }
            // The original grants this, and with it a way around lock and version.
            assert!(ask(&mut client, insert).is_ok());
            store.admin().exec("DELETE FROM messages WHERE position = 7 AND stream_name = 'readOnly-1'");
        } else {
            for sql in [update, delete, insert] {
                assert_eq!(refused(&mut client, sql), "42501 permission denied for view messages", "{sql}");
            }
            // PostgreSQL looks at what it is before it looks at rights.
            assert_eq!(refused(&mut client, truncate), "42809 \"messages\" is not a table");
            // Not even by who owns it.
            for sql in [update, delete, insert, truncate] {
                assert!(ask(&mut store.admin(), sql).is_err(), "{sql}");
            }
        }
        let kept = "SELECT position, type FROM message_store.get_stream_messages('readOnly-1')";
        assert_eq!(lines(&mut client, kept), ["0|Event"]);
    });
}

#[test]
fn a_stranger_is_not_let_in() {
    on(&Kind::ALL, |store| {
        let mut stranger = store.make_role("mdb_stranger", "");
        let denied = "42501 permission denied for schema message_store";
        for sql in [
            "SELECT * FROM message_store.messages",
            "SELECT * FROM message_store.stream_summary",
            "SELECT * FROM message_store.get_stream_messages('a-1')",
            "SELECT message_store.write_message('00000000-0000-0000-0000-000000000001', 'a-1', 'T', '{}')",
            "SELECT message_store.hash_64('a')",
        ] {
            assert_eq!(refused(&mut stranger, sql), denied, "{sql}");
        }
    });
}

/// Seven messages: three of them of a kind, in streams whose names sort otherwise than they were made.
fn fill(store: &Store) {
    let mut client = store.client();
    for (stream, kind) in [
        ("b-1", "Two"),
        ("b-1", "One"),
        ("a-2", "One"),
        ("a-1", "One"),
        ("a-1", "Two"),
        ("a:command-1", "Do"),
        ("B", "Two"),
    ] {
        write_with(&mut client, stream, &format!("'{kind}', NULL"));
    }
}

#[test]
fn the_summaries_count_in_order_and_in_percent_of_everything() {
    on_own("summaries", &Kind::ALL, |store| {
        let mut client = store.client();
        for view in SUMMARIES {
            assert!(lines(&mut client, &format!("SELECT * FROM message_store.{view}")).is_empty(), "{view}");
        }
        fill(store);
        let mut all = |view: &str| lines(&mut client, &format!("SELECT * FROM message_store.{view}"));
        assert_eq!(all("type_summary"), ["Do|1|14.29", "One|3|42.86", "Two|3|42.86"]);
        assert_eq!(
            all("stream_summary"),
            ["B|1|14.29", "a-1|2|28.57", "a-2|1|14.29", "a:command-1|1|14.29", "b-1|2|28.57"]
        );
        assert_eq!(
            all("category_type_summary"),
            [
                "B|Two|1|14.29",
                "a|One|2|28.57",
                "a|Two|1|14.29",
                "a:command|Do|1|14.29",
                "b|One|1|14.29",
                "b|Two|1|14.29"
            ]
        );
        assert_eq!(
            all("type_category_summary"),
            [
                "Do|a:command|1|14.29",
                "One|a|2|28.57",
                "One|b|1|14.29",
                "Two|B|1|14.29",
                "Two|a|1|14.29",
                "Two|b|1|14.29"
            ]
        );
        let by_stream_and_type = [
            "B|Two|1|14.29",
            "a-1|One|1|14.29",
            "a-1|Two|1|14.29",
            "a-2|One|1|14.29",
            "a:command-1|Do|1|14.29",
            "b-1|One|1|14.29",
            "b-1|Two|1|14.29",
        ];
        assert_eq!(all("stream_type_summary"), by_stream_and_type);
        let by_type_and_stream = [
            "Do|a:command-1|1|14.29",
            "One|a-1|1|14.29",
            "One|a-2|1|14.29",
            "One|b-1|1|14.29",
            "Two|B|1|14.29",
            "Two|a-1|1|14.29",
            "Two|b-1|1|14.29",
        ];
        assert_eq!(all("type_stream_summary"), by_type_and_stream);
    });
    on_own("one_message", &Kind::ALL, |store| {
        let mut client = store.client();
        write(&mut client, "only-1");
        assert_eq!(one(&mut client, "SELECT * FROM message_store.stream_summary"), "only-1|1|100.00");
    });
}

#[test]
fn messages_can_be_read_like_a_table() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        write_with(&mut client, "table-1", r#"'T', '{"n": 1}', '{"m": [1]}'"#);
        write_with(&mut client, "table-1", "'T', NULL");
        // Unqualified, as clients of the role do.
        let sql = "SELECT position, stream_name, type, data->'n', metadata->'m'->0, pg_typeof(id), \
                          pg_typeof(time) FROM messages WHERE stream_name = 'table-1' ORDER BY global_position";
        let types = "uuid|timestamp without time zone";
        assert_eq!(
            lines(&mut client, sql),
            [format!("0|table-1|T|1|1|{types}"), format!("1|table-1|T|<N>|<N>|{types}")]
        );
        let nulls = "SELECT data IS NULL, metadata IS NULL FROM messages \
                     WHERE stream_name = 'table-1' AND position = 1";
        assert_eq!(one(&mut client, nulls), "t|t");
    });
}

#[test]
fn a_member_of_the_role_may_do_what_the_role_may() {
    on(&Kind::ALL, |store| {
        let mut member = store.make_role("mdb_member", &format!("GRANT {ROLE} TO mdb_member"));
        let sql = "SELECT message_store.write_message(gen_random_uuid()::text, 'member-1', 'T', '{}')";
        if store.is_original() {
            let lost = "42883 function acquire_lock(character varying) does not exist \
                        (No function matches the given name and argument types. \
                        You might need to add explicit type casts.)";
            assert_eq!(refused(&mut member, sql), lost);
            member.exec("SET search_path = message_store");
        }
        assert_eq!(one(&mut member, sql), "0");
        assert_eq!(
            lines(&mut member, "SELECT position FROM message_store.get_stream_messages('member-1')"),
            ["0"]
        );
        assert_eq!(
            lines(&mut member, "SELECT position FROM message_store.get_category_messages('member')"),
            ["0"]
        );
    });
}

#[test]
fn any_search_path_will_do() {
    on(&Kind::OURS, |store| {
        store.admin().exec(
            "CREATE SCHEMA IF NOT EXISTS mdb_evil; GRANT USAGE ON SCHEMA mdb_evil TO message_store; \
             CREATE OR REPLACE VIEW mdb_evil.messages AS SELECT 1 AS x",
        );
        for (function, kind, result) in [
            ("category", "varchar", "'evil'::varchar"),
            ("is_category", "boolean", "true"),
            ("hash_64", "bigint", "1::bigint"),
            ("acquire_lock", "bigint", "1::bigint"),
            ("stream_version", "bigint", "40::bigint"),
        ] {
            store.admin().exec(&format!(
                "CREATE OR REPLACE FUNCTION mdb_evil.{function}(varchar) RETURNS {kind} LANGUAGE sql \
                 AS $$ SELECT {result} $$"
            ));
        }
        for (n, path) in
            ["''", "pg_catalog", "public", "mdb_evil, message_store", "mdb_evil, pg_catalog", "nowhere"]
                .iter()
                .enumerate()
        {
            let mut client = store.client();
            client.exec(&format!("SET search_path = {path}"));
            let category = format!("path{n}");
            assert_eq!(write(&mut client, &format!("{category}-1")), 0, "{path}");
            assert_eq!(write_with(&mut client, &format!("{category}-1"), "'T', '{}', NULL, 0"), 1, "{path}");
            let reads = format!(
                "SELECT 'stream', position FROM message_store.get_stream_messages('{category}-1') UNION ALL \
                 SELECT 'category', position FROM message_store.get_category_messages('{category}', \
                     consumer_group_member => 0, consumer_group_size => 1) UNION ALL \
                 SELECT 'last', position FROM message_store.get_last_stream_message('{category}-1') UNION ALL \
                 SELECT 'version', message_store.stream_version('{category}-1') UNION ALL \
                 SELECT 'lock', message_store.acquire_lock('account-1') UNION ALL \
                 SELECT message_store.category('{category}-1') || message_store.cardinal_id('{category}-7+5'), 0"
            );
            let expected = ["stream|0", "stream|1", "category|0", "category|1", "last|1", "version|1"];
            let found = lines(&mut client, &reads);
            assert_eq!(found[..6], expected, "{path}");
            assert_eq!(found[6], "lock|-2132379389342958165", "{path}");
            assert_eq!(found[7], format!("{category}7|0"), "{path}");
            let view = format!(
                "SELECT percent > 0 FROM message_store.stream_summary WHERE stream_name = '{category}-1'"
            );
            assert_eq!(one(&mut client, &view), "t", "{path}");
        }
    });
}
