//! What the readers return: which messages, in which order, how many.

use super::{Kind, Store, lines, literal, on, one, poll, refused, write, write_with};
use meshhook_testkit::Session;

/// No positions.
const NONE: [i64; 0] = [];

/// Positions a call returns.
fn positions(session: &mut Session, call: &str) -> Vec<i64> {
    let sql = format!("SELECT position FROM message_store.{call}");
    lines(session, &sql).iter().map(|line| line.parse().expect("a position")).collect()
}

/// A stream with ten messages; a client's session.
fn ten(store: &Store, stream: &str) -> Session {
    let mut client = store.client();
    for _ in 0..10 {
        write(&mut client, stream);
    }
    client
}

#[test]
fn a_stream_is_read_from_a_position_in_batches() {
    on(&Kind::ALL, |store| {
        let mut client = ten(store, "batches-1");
        let mut read =
            |rest: &str| positions(&mut client, &format!("get_stream_messages('batches-1'{rest})"));
        let all: Vec<i64> = (0..10).collect();
        assert_eq!(read(""), all);
        assert_eq!(read(", 0"), all);
        assert_eq!(read(", 7"), [7, 8, 9]);
        assert_eq!(read(", 7, 2"), [7, 8]);
        assert_eq!(read(", 9"), [9]);
        assert_eq!(read(", 10"), NONE);
        assert_eq!(read(", 9223372036854775807"), NONE);
        for from_the_start in ["-1", "'-9223372036854775808'", "NULL"] {
            assert_eq!(read(&format!(", {from_the_start}")), all);
        }
        assert_eq!(read(", NULL, 3"), [0, 1, 2]);
        for everything in ["NULL", "-1", "9223372036854775807", "2147483648"] {
            assert_eq!(read(&format!(", 8, {everything}")), [8, 9]);
        }
        assert_eq!(read(", 0, 0"), NONE);
        assert_eq!(positions(&mut client, "get_stream_messages('batches-none')"), NONE);
    });
}

#[test]
fn a_category_is_read_from_a_global_position_in_batches() {
    on(&Kind::ALL, |store| {
        let mut client = ten(store, "globals-1");
        write(&mut client, "globals-2");
        write(&mut client, "globalsToo-1");
        let globals: Vec<i64> =
            lines(&mut client, "SELECT global_position FROM message_store.get_category_messages('globals')")
                .iter()
                .map(|line| line.parse().expect("a position"))
                .collect();
        assert_eq!(globals.len(), 11);
        assert!(globals.is_sorted_by(|a, b| a < b) && globals[0] >= 1, "{globals:?}");
        let mut read =
            |rest: &str| positions(&mut client, &format!("get_category_messages('globals'{rest})"));
        let all: Vec<i64> = (0..10).chain([0]).collect();
        assert_eq!(read(""), all);
        for from_the_start in ["0", "1", "-5", "NULL", "'-9223372036854775808'"] {
            assert_eq!(read(&format!(", {from_the_start}")), all);
        }
        assert_eq!(read(&format!(", {}", globals[8])), [8, 9, 0]);
        assert_eq!(read(&format!(", {}", globals[8] + 1)), [9, 0]);
        assert_eq!(read(&format!(", {}, 1", globals[8])), [8]);
        assert_eq!(read(&format!(", {}", globals[10] + 1)), NONE);
        assert_eq!(read(", 9223372036854775807"), NONE);
        assert_eq!(read(", 1, 3"), [0, 1, 2]);
        assert_eq!(read(", 1, 0"), NONE);
        for everything in ["NULL", "-1", "9223372036854775807"] {
            assert_eq!(read(&format!(", {}, {everything}", globals[9])), [9, 0]);
        }
    });
}

#[test]
fn a_batch_has_a_thousand_unless_told_otherwise() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let fill = "SELECT count(message_store.write_message(gen_random_uuid()::text, 'thousand-1', 'T', NULL)) \
                    FROM generate_series(1, 1003)";
        one(&mut client, fill);
        for (call, expected) in [
            ("get_stream_messages('thousand-1')", 0..1000),
            ("get_stream_messages('thousand-1', 0, NULL)", 0..1000),
            ("get_stream_messages('thousand-1', 0, -1)", 0..1003),
            ("get_stream_messages('thousand-1', 500)", 500..1003),
            ("get_category_messages('thousand')", 0..1000),
            ("get_category_messages('thousand', NULL, NULL)", 0..1000),
            ("get_category_messages('thousand', 1, -1)", 0..1003),
            ("get_category_messages('thousand', 1, 1001)", 0..1001),
        ] {
            assert_eq!(positions(&mut client, call), expected.collect::<Vec<i64>>(), "{call}");
        }
    });
}

#[test]
fn a_batch_must_not_be_negative() {
    on(&Kind::ALL, |store| {
        let mut client = ten(store, "negative-1");
        for call in [
            "get_stream_messages('negative-1', 0, -2)",
            "get_stream_messages('negative-none', 0, '-9223372036854775808')",
            "get_category_messages('negative', 1, -2)",
            "get_category_messages('negativeNone', 1, -3)",
            "get_category_messages(NULL, 1, -2)",
        ] {
            let sql = format!("SELECT * FROM message_store.{call}");
            assert_eq!(refused(&mut client, &sql), "2201W LIMIT must not be negative", "{call}");
        }
    });
}

#[test]
fn a_category_is_the_whole_name_before_the_first_hyphen() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let streams = [
            "exact-1",
            "exact:command-1",
            "exact+x-1",
            "exactly-1",
            "Exact-1",
            "exact",
            "exact-1-2",
            "exact-",
        ];
        for stream in streams {
            write(&mut client, stream);
        }
        let mut read = |category: &str| {
            let sql =
                format!("SELECT stream_name FROM message_store.get_category_messages({})", literal(category));
            lines(&mut client, &sql)
        };
        assert_eq!(read("exact"), ["exact-1", "exact", "exact-1-2", "exact-"]);
        assert_eq!(read("exact:command"), ["exact:command-1"]);
        assert_eq!(read("exact+x"), ["exact+x-1"]);
        assert_eq!(read("Exact"), ["Exact-1"]);
        for nothing in ["exac", "exact%", "exact ", "EXACT"] {
            assert!(read(nothing).is_empty(), "{nothing}");
        }
        assert_eq!(positions(&mut client, "get_category_messages(NULL)"), NONE);
    });
}

#[test]
fn a_stream_without_id_is_a_stream_to_all_but_its_reader() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        assert_eq!(write(&mut client, "bare"), 0);
        assert_eq!(write_with(&mut client, "bare", "'Last', NULL, NULL, 0"), 1);
        assert_eq!(one(&mut client, "SELECT message_store.stream_version('bare')"), "1");
        assert_eq!(
            one(&mut client, "SELECT type FROM message_store.get_last_stream_message('bare')"),
            "Last"
        );
        assert_eq!(positions(&mut client, "get_category_messages('bare')"), [0, 1]);
        assert_eq!(positions(&mut client, "get_category_messages('bare', 1, 10, NULL, 0, 1)"), NONE);
        let refusal = refused(&mut client, "SELECT * FROM message_store.get_stream_messages('bare')");
        assert_eq!(refusal, "P0001 Must be a stream name: bare");
    });
}

#[test]
fn the_last_message_is_that_of_a_type_if_one_is_named() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for kind in ["Opened", "Paid", "Paid", "Closed", ""] {
            write_with(&mut client, "lasts-1", &format!("'{kind}', NULL"));
        }
        let mut last = |rest: &str| {
            let sql = format!("SELECT position, type FROM message_store.get_last_stream_message({rest})");
            lines(&mut client, &sql)
        };
        assert_eq!(last("'lasts-1'"), ["4|"]);
        assert_eq!(last("'lasts-1', NULL"), ["4|"]);
        assert_eq!(last("'lasts-1', 'Paid'"), ["2|Paid"]);
        assert_eq!(last("'lasts-1', 'Opened'"), ["0|Opened"]);
        assert_eq!(last("'lasts-1', ''"), ["4|"]);
        for nothing in ["'lasts-1', 'paid'", "'lasts-2'", "NULL", "NULL, 'Paid'", "'lasts'"] {
            assert!(last(nothing).is_empty(), "{nothing}");
        }
    });
}

#[test]
fn the_version_of_nothing_is_null() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for name in ["'neverWritten-1'", "'neverWritten'", "NULL"] {
            assert_eq!(one(&mut client, &format!("SELECT message_store.stream_version({name})")), "<N>");
        }
    });
}

#[test]
fn a_correlation_is_the_category_of_a_name_in_the_metadata() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let metadata = [
            "NULL",
            r#"'{"correlationStreamName": "origin-1"}'"#,
            r#"'{"correlationStreamName": "origin-2+3"}'"#,
            r#"'{"correlationStreamName": "origin"}'"#,
            r#"'{"correlationStreamName": "other-1"}'"#,
            r#"'{"correlationStreamName": "originals-1"}'"#,
            r#"'{"correlationStreamName": "-1"}'"#,
            r#"'{"correlationStreamName": ""}'"#,
            r#"'{"correlationStreamName": null}'"#,
            r#"'{"correlationStreamName": 17}'"#,
            r#"'{"correlationStreamName": true}'"#,
            r#"'{"correlationStreamName": ["origin-1"]}'"#,
            r#"'{"CorrelationStreamName": "origin-1"}'"#,
            r#"'["correlationStreamName"]'"#,
            r#"'"correlationStreamName"'"#,
            r#"'null'"#,
        ];
        for text in metadata {
            write_with(&mut client, "answers-1", &format!("'T', NULL, {text}"));
        }
        write_with(&mut client, "elsewhere-1", &format!("'T', NULL, {}", metadata[1]));
        let mut read = |correlation: &str| {
            positions(&mut client, &format!("get_category_messages('answers', 1, 1000, {correlation})"))
        };
        assert_eq!(read("'origin'"), [1, 2, 3]);
        assert_eq!(read("'other'"), [4]);
        assert_eq!(read("''"), [6, 7]);
        assert_eq!(read("'17'"), [9]);
        assert_eq!(read("'true'"), [10]);
        assert_eq!(read("'[\"origin'"), [11]);
        assert_eq!(read("'Origin'"), NONE);
        assert_eq!(read("NULL").len(), metadata.len());
    });
}

#[test]
fn correlation_group_position_and_batch_narrow_together() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        // Cardinal ids 1 and 3 belong to member 0 of 2, 2 and 4 to member 1.
        for id in [1, 2, 3, 4, 1, 2, 3, 4] {
            for origin in ["here", "there"] {
                let rest = format!(r#"'T', NULL, '{{"correlationStreamName": "{origin}-1"}}'"#);
                write_with(&mut client, &format!("narrow-{id}+{origin}"), &rest);
            }
        }
        let mut read = |rest: &str| {
            let sql = format!(
                "SELECT stream_name, position FROM message_store.get_category_messages('narrow', {rest})"
            );
            lines(&mut client, &sql)
        };
        let first = read("1, 100, 'here', 0, 2");
        assert_eq!(first, ["narrow-1+here|0", "narrow-3+here|0", "narrow-1+here|1", "narrow-3+here|1"]);
        assert_eq!(read("1, 3, 'here', 1, 2"), ["narrow-2+here|0", "narrow-4+here|0", "narrow-2+here|1"]);
        assert_eq!(read("1, 2, 'there', 0, 2"), ["narrow-1+there|0", "narrow-3+there|0"]);
        let mut client = store.client();
        let from = one(
            &mut client,
            "SELECT global_position FROM message_store.messages WHERE stream_name = 'narrow-2+here' AND position = 1",
        );
        let sql = format!(
            "SELECT stream_name, position \
             FROM message_store.get_category_messages('narrow', {from}, -1, 'here', 1, 2)"
        );
        assert_eq!(lines(&mut client, &sql), ["narrow-2+here|1", "narrow-4+here|1"]);
    });
}

#[test]
fn consumers_poll_without_missing_or_repeating() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for n in 0..57 {
            write(&mut client, &format!("polled-{}", n % 5));
        }
        let (mut seen, mut position) = (Vec::new(), 1);
        loop {
            let (batch, next) = poll(&mut client, "polled", position, 10);
            if batch.is_empty() {
                break;
            }
            seen.extend(batch);
            position = next;
        }
        let expected: Vec<String> = (0..57).map(|n| format!("polled-{}|{}", n % 5, n / 5)).collect();
        assert_eq!(seen, expected);
    });
}
