//! What `write_message` takes, stores and returns.

use super::{Kind, ask, lines, literal, new_id, on, one, refused, write, write_with};
use meshhook_testkit::Session;

/// What is stored of a stream: position, type, data, metadata.
fn stored(session: &mut Session, stream: &str) -> Vec<String> {
    let sql = format!(
        "SELECT position, type, data, metadata FROM message_store.get_stream_messages({}, 0, -1)",
        literal(stream)
    );
    lines(session, &sql)
}

#[test]
fn positions_count_from_zero_in_each_stream() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for expected in 0..5 {
            assert_eq!(write(&mut client, "counted-1"), expected);
            assert_eq!(write(&mut client, "counted-2"), expected);
        }
        let version = "SELECT message_store.stream_version('counted-1')";
        assert_eq!(one(&mut client, version), "4");
        let globals = "SELECT global_position FROM message_store.get_category_messages('counted')";
        let globals: Vec<i64> = client.values(globals, &[]);
        assert!(globals.len() == 10 && globals.is_sorted_by(|a, b| a < b), "{globals:?}");
    });
}

#[test]
fn what_fails_leaves_no_gap() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let id = new_id();
        let with =
            |id: &str, rest: &str| format!("SELECT message_store.write_message({id}, 'gapless-1', {rest})");
        assert_eq!(one(&mut client, &with(&id, "'T', '{}'")), "0");
        for _ in 0..3 {
            let twice = refused(&mut client, &with(&id, "'T', '{}'"));
            assert!(
                twice.starts_with("23505 duplicate key value violates unique constraint \"messages_id\""),
                "{twice}"
            );
            refused(&mut client, &with("'no uuid'", "'T', '{}'"));
            refused(&mut client, &with(&new_id(), "NULL, '{}'"));
            refused(&mut client, &with(&new_id(), "'T', '{}', NULL, 17"));
        }
        for end in ["ROLLBACK", "ROLLBACK TO s; COMMIT"] {
            client.exec("BEGIN; SAVEPOINT s");
            assert_eq!(one(&mut client, &with(&new_id(), "'Undone', '{}'")), "1");
            client.exec(end);
        }
        assert_eq!(one(&mut client, &with(&new_id(), "'T', '{}'")), "1");
        assert_eq!(stored(&mut client, "gapless-1"), ["0|T|{}|<N>", "1|T|{}|<N>"]);
    });
}

#[test]
fn an_id_is_taken_once_in_the_whole_store() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let id = new_id();
        let write = |stream: &str, id: &str| {
            format!("SELECT message_store.write_message({id}, '{stream}', 'T', '{{}}')")
        };
        assert_eq!(one(&mut client, &write("onceHere-1", &id)), "0");
        for again in
            [id.clone(), id.to_uppercase(), id.replace('-', ""), format!("'{{{}}}'", id.trim_matches('\''))]
        {
            for stream in ["onceHere-1", "onceThere-1"] {
                let twice = refused(&mut client, &write(stream, &again));
                let expected = "23505 duplicate key value violates unique constraint \"messages_id\"";
                assert!(twice.starts_with(expected), "{again}: {twice}");
            }
        }
        // A write that was undone has not used its id up.
        let id = new_id();
        client.exec("BEGIN");
        one(&mut client, &write("onceHere-1", &id));
        client.exec("ROLLBACK");
        assert_eq!(one(&mut client, &write("onceThere-1", &id)), "0");
    });
}

#[test]
fn ids_are_uuids_in_every_spelling() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let plain = uuid::Uuid::now_v7();
        let spellings = [
            plain.hyphenated().to_string().to_uppercase(),
            format!("{{{}}}", uuid::Uuid::now_v7().hyphenated()),
            uuid::Uuid::now_v7().simple().to_string(),
        ];
        for spelling in &spellings {
            let sql = format!("SELECT message_store.write_message('{spelling}', 'spelled-1', 'T', '{{}}')");
            one(&mut client, &sql);
        }
        let found = lines(&mut client, "SELECT id FROM message_store.get_stream_messages('spelled-1')");
        let expected: Vec<String> = spellings
            .iter()
            .map(|spelling| spelling.parse::<uuid::Uuid>().expect("it is one").hyphenated().to_string())
            .collect();
        assert_eq!(found, expected, "ids come out as hyphenated lower case");
        for bad in
            ["", "x", " 00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-00000000000", "(1)"]
        {
            let sql =
                format!("SELECT message_store.write_message({}, 'spelled-1', 'T', '{{}}')", literal(bad));
            let expected = format!("22P02 invalid input syntax for type uuid: \"{bad}\"");
            assert_eq!(refused(&mut client, &sql), expected);
        }
    });
}

#[test]
fn an_expected_version_is_the_last_position_or_minus_one() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let write = |expected: &str| {
            format!(
                "SELECT message_store.write_message({}, 'someStream-1', 'T', '{{}}', NULL, {expected})",
                new_id()
            )
        };
        let wrong = |expected: i64, version: i64| {
            format!(
                "P0001 Wrong expected version: {expected} (Stream: someStream-1, Stream Version: {version})"
            )
        };
        for expected in [0, 1, -2, 5, i64::MAX, i64::MIN + 1] {
            assert_eq!(refused(&mut client, &write(&expected.to_string())), wrong(expected, -1));
        }
        assert_eq!(one(&mut client, &write("-1")), "0");
        for expected in [1, -1, -2, i64::MAX] {
            assert_eq!(refused(&mut client, &write(&expected.to_string())), wrong(expected, 0));
        }
        assert_eq!(one(&mut client, &write("0")), "1");
        assert_eq!(one(&mut client, &write("NULL")), "2");
        assert_eq!(one(&mut client, &write("2")), "3");
        assert_eq!(refused(&mut client, &write("2")), wrong(2, 3));
    });
}

#[test]
fn a_batch_is_several_calls_in_one_transaction() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        write(&mut client, "batch-1");
        client.exec("BEGIN");
        for expected in 0..3 {
            let rest = format!("'T', '{{}}', NULL, {expected}");
            assert_eq!(write_with(&mut client, "batch-1", &rest), expected + 1);
        }
        let mut other = store.client();
        assert_eq!(
            one(&mut other, "SELECT message_store.stream_version('batch-1')"),
            "0",
            "not before the commit"
        );
        client.exec("COMMIT");
        assert_eq!(one(&mut other, "SELECT message_store.stream_version('batch-1')"), "3");
        // Calls of one statement see each other too.
        let many = "SELECT message_store.write_message(gen_random_uuid()::text, 'batch-' || x % 2, 'T', '{}') \
                    FROM generate_series(1, 6) x";
        assert_eq!(lines(&mut client, many), ["4", "0", "5", "1", "6", "2"]);
        let mixed = "SELECT message_store.write_message(gen_random_uuid()::text, 'batch-2', 'T', '{}'), \
             message_store.stream_version('batch-2'), \
             message_store.write_message(gen_random_uuid()::text, 'batch-2', 'T', '{}', NULL, 0), \
             (SELECT count(*) FROM message_store.get_stream_messages('batch-' || x)), \
             (SELECT position FROM message_store.get_last_stream_message('batch-' || x)) \
             FROM generate_series(2, 2) x";
        assert_eq!(one(&mut client, mixed), "0|0|1|2|1");
        // One that fails takes the whole statement with it.
        let broken = "SELECT message_store.write_message(CASE x WHEN 3 THEN 'bad' ELSE gen_random_uuid()::text END, \
                      'batch-2', 'T', '{}') FROM generate_series(1, 3) x";
        refused(&mut client, broken);
        assert_eq!(one(&mut client, "SELECT message_store.stream_version('batch-2')"), "1");
    });
}

#[test]
fn a_transaction_reads_what_it_wrote() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let kept = write(&mut client, "ownWrites-1");
        client.exec("BEGIN");
        let own = write(&mut client, "ownWrites-1");
        assert_eq!((kept, own), (0, 1));
        let mut read = |call: &str| lines(&mut client, &format!("SELECT position FROM message_store.{call}"));
        assert_eq!(read("get_stream_messages('ownWrites-1')"), ["0", "1"]);
        assert_eq!(read("get_last_stream_message('ownWrites-1')"), ["1"]);
        assert_eq!(read("stream_version('ownWrites-1') AS position"), ["1"]);
        assert_eq!(read("get_category_messages('ownWrites')"), ["0", "1"]);
        assert_eq!(read("messages WHERE stream_name = 'ownWrites-1' ORDER BY position"), ["0", "1"]);
        let views =
            "SELECT message_count FROM message_store.stream_summary WHERE stream_name = 'ownWrites-1'";
        assert_eq!(one(&mut client, views), "2");
        client.exec("ROLLBACK");
        assert_eq!(
            lines(&mut client, "SELECT position FROM message_store.get_category_messages('ownWrites')"),
            ["0"]
        );
    });
}

#[test]
fn any_json_is_data_and_comes_out_as_jsonb_writes_it() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for (n, (given, stored_as)) in [
            ("NULL", "<N>"),
            ("'null'", "null"),
            ("'{}'", "{}"),
            ("'[]'", "[]"),
            ("'true'", "true"),
            ("'\"text\"'", "\"text\""),
            ("'-0'", "0"),
            ("'1.50'", "1.50"),
            ("'1e2'", "100"),
            ("'12345678901234567890.123456789'", "12345678901234567890.123456789"),
            ("' { \"b\" :1,\"a\":[ 2,{} ] } '", "{\"a\": [2, {}], \"b\": 1}"),
            // Shorter keys first, and the last of equal ones.
            ("'{\"bb\":1, \"a\":2, \"bb\":3, \"c\":null}'", "{\"a\": 2, \"c\": null, \"bb\": 3}"),
            ("'{\"k\":\"\\u00e4\\n\\\\ \\\"雪\"}'", "{\"k\": \"ä\\n\\\\ \\\"雪\"}"),
        ]
        .into_iter()
        .enumerate()
        {
            let stream = format!("json-{n}");
            write_with(&mut client, &stream, &format!("'T', {given}, {given}"));
            assert_eq!(stored(&mut client, &stream), [format!("0|T|{stored_as}|{stored_as}")], "{given}");
            let last =
                format!("SELECT data, metadata FROM message_store.get_last_stream_message('{stream}')");
            assert_eq!(one(&mut client, &last), format!("{stored_as}|{stored_as}"), "{given}");
            let category = format!(
                "SELECT data, metadata FROM message_store.get_category_messages('json') \
                 WHERE stream_name = '{stream}'"
            );
            assert_eq!(one(&mut client, &category), format!("{stored_as}|{stored_as}"), "{given}");
        }
    });
}

#[test]
fn a_megabyte_survives() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let data = "jsonb_build_object('text', (SELECT string_agg(md5(x::text), 'ö') \
                    FROM generate_series(1, 32000) x))";
        write_with(&mut client, "large-1", &format!("'T', {data}, {data}"));
        let sql = format!(
            "SELECT length(data) > 1000000, data::jsonb = {data}, metadata = data \
             FROM message_store.get_category_messages('large')"
        );
        assert_eq!(one(&mut client, &sql), "t|t|t");
    });
}

#[test]
fn odd_names_and_types_are_names_and_types() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let long = format!("odd-{}", "long".repeat(250));
        for stream in [
            "odd",
            "odd-",
            "odd--",
            "odd-a b",
            "odd-'\"\\",
            "odd-%s%",
            "odd-\n\t",
            "odd-größe+雪",
            "odd- ",
            long.as_str(),
        ] {
            let types = ["T", "", " ", "größe 'x' %", "a-b:c+d"];
            for (position, kind) in types.iter().enumerate() {
                let rest = format!("{}, NULL", literal(kind));
                assert_eq!(write_with(&mut client, stream, &rest), position as i64, "{stream:?} {kind:?}");
            }
            let last = format!(
                "SELECT stream_name, type FROM message_store.get_last_stream_message({})",
                literal(stream)
            );
            assert_eq!(one(&mut client, &last), format!("{stream}|a-b:c+d"));
        }
    });
}

#[test]
fn a_name_has_room_for_2600_bytes() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        // Hashes, because what repeats is stored in less.
        let name = |prefix: &str, bytes: usize| {
            format!(
                "rpad('{prefix}', {bytes}, (SELECT string_agg(md5(x::text), '') FROM generate_series(1, 200) x))"
            )
        };
        let write =
            |stream: &str| format!("SELECT message_store.write_message({}, {stream}, 'T', '{{}}')", new_id());
        for prefix in ["long-", "long"] {
            let longest = name(prefix, 2600);
            assert_eq!(one(&mut client, &write(&longest)), "0");
            assert_eq!(one(&mut client, &format!("SELECT message_store.stream_version({longest})")), "0");
            let read = format!(
                "SELECT position FROM message_store.get_category_messages(message_store.category({longest}))"
            );
            assert_eq!(lines(&mut client, &read), ["0"]);
            // It is an index that has no room for more.
            let says = refused(&mut client, &write(&name(prefix, 6000)));
            assert!(says.starts_with("54000 "), "{says}");
        }
    });
}

#[test]
fn streams_may_have_no_name_and_no_category() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for stream in ["", "-", "-x"] {
            write(&mut client, stream);
        }
        let sql = "SELECT DISTINCT stream_name FROM message_store.get_category_messages('') ORDER BY 1";
        assert_eq!(lines(&mut client, sql), ["", "-", "-x"]);
    });
}

#[test]
fn times_are_utc_whatever_the_session_thinks() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        client.exec("SET TimeZone = 'Asia/Tokyo'");
        write(&mut client, "clock-1");
        let sql = "SELECT age(clock_timestamp() AT TIME ZONE 'utc', time) BETWEEN '0' AND '5 minutes', \
                   pg_typeof(time) FROM message_store.get_stream_messages('clock-1')";
        assert_eq!(one(&mut client, sql), "t|timestamp without time zone");
        let same = "SELECT m.time = f.time AND m.time = c.time FROM message_store.messages m, \
             message_store.get_last_stream_message('clock-1') f, message_store.get_category_messages('clock') c \
             WHERE m.stream_name = 'clock-1'";
        assert_eq!(one(&mut client, same), "t");
    });
}

#[test]
fn clients_call_by_name_by_place_and_prepared() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let by_name = format!(
            "SELECT write_message(expected_version => -1, metadata => '{{\"m\": 1}}', data => '{{\"d\": 1}}', \
             \"type\" => 'ByName', stream_name => 'called-1', id => {})",
            new_id()
        );
        assert_eq!(one(&mut client, &by_name), "0");
        let mixed =
            format!("SELECT write_message({}, 'called-1', 'Mixed', '2', expected_version => 0)", new_id());
        assert_eq!(one(&mut client, &mixed), "1");
        // As the Ruby client prepares it: every parameter is cast.
        let (id, none) = (uuid::Uuid::now_v7().to_string(), None::<String>);
        let (data, version) = (serde_json::json!({"p": 1}), Some(1_i64));
        let prepared =
            "SELECT write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint)";
        let metadata = None::<serde_json::Value>;
        let written: i64 =
            client.value(prepared, &[&id, &"called-1", &"Prepared", &data, &metadata, &version]);
        assert_eq!(written, 2);
        let read = "SELECT * FROM get_stream_messages($1::varchar, $2::bigint, $3::bigint, $4::varchar)";
        let rows = client.rows(read, &[&"called-1", &1_i64, &2_i64, &none]);
        let types: Vec<String> = rows.iter().map(|row| row.get("type")).collect();
        assert_eq!(types, ["Mixed", "Prepared"]);
        assert_eq!(rows[1].get::<_, String>("id"), id);
        assert_eq!(rows[1].get::<_, String>("data"), "{\"p\": 1}");
        let columns: Vec<&str> = rows[0].columns().iter().map(|column| column.name()).collect();
        assert_eq!(
            columns,
            ["id", "stream_name", "type", "position", "global_position", "data", "metadata", "time"]
        );
        let category = "SELECT position FROM get_category_messages($1::varchar, $2::bigint, $3::bigint, $4::varchar, \
                        $5::bigint, $6::bigint, $7::varchar)";
        let number = None::<i64>;
        let rows = client.rows(category, &[&"called", &1_i64, &-1_i64, &none, &number, &number, &none]);
        assert_eq!(rows.len(), 3);
        let named = "SELECT position \
                     FROM get_category_messages(category => 'called', batch_size => 1, \"position\" => 0)";
        assert_eq!(lines(&mut client, named), ["0"]);
        let named = "SELECT type FROM get_last_stream_message(stream_name => 'called-1', type => 'Mixed')";
        assert_eq!(lines(&mut client, named), ["Mixed"]);
        // Wherever an expression may stand.
        let rows = "SELECT (get_stream_messages('called-1')).type";
        assert_eq!(lines(&mut client, rows), ["ByName", "Mixed", "Prepared"]);
        let joined = "SELECT s, m.position FROM (VALUES ('called-1'), ('called-2')) names (s) \
                      LEFT JOIN LATERAL get_last_stream_message(s) m ON true";
        assert_eq!(lines(&mut client, joined), ["called-1|2", "called-2|<N>"]);
        assert!(
            ask(
                &mut client,
                "DO $$ DECLARE m message; BEGIN \
            PERFORM write_message(gen_random_uuid()::text, 'called-2', 'T', '{}'); \
            SELECT * INTO m FROM get_last_stream_message('called-2'); \
            ASSERT m.stream_name = 'called-2' AND m.position = 0; END $$"
            )
            .is_ok()
        );
    });
}
