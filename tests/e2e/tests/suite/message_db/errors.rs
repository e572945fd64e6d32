//! Every refusal: its text, its SQLSTATE, and which one comes first when several things are wrong at once.

use super::{Failure, Kind, ask, new_id, on, refused, write};

const STALE: &str = "Retrieval with SQL condition is not activated";

/// Asks for an error that a client may tell from others by its text alone: P0001 without DETAIL or HINT.
fn raised(answer: Result<Vec<super::Row>, Failure>, sql: &str) -> String {
    match answer {
        Ok(rows) => panic!("an error expected, got {} rows of: {sql}", rows.len()),
        Err(Failure { code, message, more }) => {
            assert_eq!((code.as_str(), more), ("P0001", None), "{message}: {sql}");
            message
        }
    }
}

#[test]
fn each_refusal_has_its_text() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        write(&mut client, "refused-1");
        let group = |member: &str, size: &str| {
            format!(
                "get_category_messages('c', consumer_group_member => {member}, consumer_group_size => {size})"
            )
        };
        let grouped = |text: &str, member: &str, size: &str| {
            format!("{text} (Consumer Group Member: {member}, Consumer Group Size: {size})")
        };
        let both = "Consumer group member and size must be specified";
        for (call, text) in [
            ("get_stream_messages('account')".into(), "Must be a stream name: account".into()),
            ("get_stream_messages('')".into(), "Must be a stream name: ".into()),
            ("get_stream_messages(NULL)".into(), "Must be a stream name: <NULL>".into()),
            ("get_stream_messages('a+b:c')".into(), "Must be a stream name: a+b:c".into()),
            ("get_category_messages('account-123')".into(), "Must be a category: account-123".into()),
            ("get_category_messages('-')".into(), "Must be a category: -".into()),
            (
                "get_category_messages('c', correlation => 'a-1')".into(),
                "Correlation must be a category (Correlation: a-1)".into(),
            ),
            (
                "get_category_messages('c', correlation => '-')".into(),
                "Correlation must be a category (Correlation: -)".into(),
            ),
            (group("1", "NULL"), grouped(both, "1", "<NULL>")),
            (group("NULL", "3"), grouped(both, "<NULL>", "3")),
            (group("NULL", "-3"), grouped(both, "<NULL>", "-3")),
            (group("0", "0"), grouped("Consumer group size must not be less than 1", "0", "0")),
            (group("-1", "-1"), grouped("Consumer group size must not be less than 1", "-1", "-1")),
            (group("-1", "2"), grouped("Consumer group member must not be less than 0", "-1", "2")),
            (group("2", "2"), grouped("Consumer group member must be less than the group size", "2", "2")),
            (
                group("40000", "40000"),
                grouped("Consumer group member must be less than the group size", "40000", "40000"),
            ),
            ("get_stream_messages('a-1', condition => 'true')".into(), STALE.into()),
            ("get_stream_messages('a-1', condition => '')".into(), STALE.into()),
            ("get_category_messages('a', condition => 'true')".into(), STALE.into()),
            (
                format!("write_message({}, 'refused-1', 'T', '{{}}', NULL, 1)", new_id()),
                "Wrong expected version: 1 (Stream: refused-1, Stream Version: 0)".into(),
            ),
            (
                format!("write_message({}, 'refused-2', 'T', '{{}}', NULL, 0)", new_id()),
                "Wrong expected version: 0 (Stream: refused-2, Stream Version: -1)".into(),
            ),
            (
                format!("write_message({}, '', 'T', '{{}}', NULL, -2)", new_id()),
                "Wrong expected version: -2 (Stream: , Stream Version: ".into(),
            ),
            (
                "write_message(NULL, NULL, NULL, NULL, NULL, 3)".into(),
                "Wrong expected version: 3 (Stream: <NULL>, Stream Version: -1)".into(),
            ),
        ] as [(String, String); 23]
        {
            let sql = format!("SELECT * FROM message_store.{call}");
            let found = raised(ask(&mut client, &sql), &sql);
            // Other tests may write to the stream without a name.
            let same = if text.ends_with(": ") && text.starts_with("Wrong") {
                found.starts_with(&text)
            } else {
                found == text
            };
            assert!(same, "{sql}\n  {found}\n  {text}");
        }
    });
}

/// What a reader of categories says to such arguments, by the order of the checks; `None` when it reads.
fn verdict(
    category: &str,
    correlation: &str,
    group: (&str, &str),
    condition: &str,
    batch: &str,
) -> Option<String> {
    let say = |text: String| Some(format!("P0001 {text}"));
    let group_says = |text: &str| {
        say(format!(
            "{text} (Consumer Group Member: {}, Consumer Group Size: {})",
            null(group.0),
            null(group.1)
        ))
    };
    if category.contains('-') {
        return say(format!("Must be a category: {category}"));
    }
    if correlation.contains('-') {
        return say(format!(
            "Correlation must be a category (Correlation: {})",
            correlation.trim_matches('\'')
        ));
    }
    match (group.0.parse::<i64>().ok(), group.1.parse::<i64>().ok()) {
        (None, None) => {}
        (None, _) | (_, None) => return group_says("Consumer group member and size must be specified"),
        (_, Some(size)) if size < 1 => return group_says("Consumer group size must not be less than 1"),
        (Some(member), _) if member < 0 => {
            return group_says("Consumer group member must not be less than 0");
        }
        (Some(member), Some(size)) if member >= size => {
            return group_says("Consumer group member must be less than the group size");
        }
        _ => {}
    }
    if condition != "NULL" {
        return say(STALE.into());
    }
    if group.1.parse::<i64>().is_ok_and(|size| size > 32767) {
        return Some("22003 smallint out of range".into());
    }
    (batch == "-2").then(|| "2201W LIMIT must not be negative".into())
}

fn null(text: &str) -> &str {
    if text == "NULL" { "<NULL>" } else { text }
}

#[test]
fn of_several_faults_of_a_category_read_the_first_check_speaks() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let groups = [
            ("NULL", "NULL"),
            ("NULL", "0"),
            ("-1", "NULL"),
            ("0", "1"),
            ("-1", "0"),
            ("-1", "1"),
            ("5", "5"),
            ("0", "32768"),
            ("-1", "32768"),
            ("32768", "32768"),
        ];
        let mut calls = 0;
        for category in ["several", "several-1"] {
            for correlation in ["NULL", "'origin'", "'origin-1'"] {
                for group in groups {
                    for condition in ["NULL", "'true'", "'nonsense('"] {
                        for batch in ["1", "-2"] {
                            let sql = format!(
                                "SELECT * FROM message_store.get_category_messages('{category}', 1, {batch}, \
                                 {correlation}, {}, {}, {condition})",
                                group.0, group.1
                            );
                            let expected = verdict(category, correlation, group, condition, batch);
                            let found = ask(&mut client, &sql).err().map(|failure| failure.text());
                            assert_eq!(found, expected, "{sql}");
                            calls += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(calls, 360);
    });
}

#[test]
fn of_several_faults_of_a_stream_read_the_first_check_speaks() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let mut said = |rest: &str| {
            refused(&mut client, &format!("SELECT * FROM message_store.get_stream_messages({rest})"))
        };
        assert_eq!(said("'several', -5, -2, 'x'"), "P0001 Must be a stream name: several");
        assert_eq!(said("'several-1', -5, -2, 'x'"), format!("P0001 {STALE}"));
        assert_eq!(said("'several-1', -5, -2"), "2201W LIMIT must not be negative");
    });
}

#[test]
fn of_several_faults_of_a_write_the_first_check_speaks() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let used = new_id();
        ask(&mut client, &format!("SELECT message_store.write_message({used}, 'faulty-1', 'T', NULL)"))
            .expect("written");
        let mut said = |args: &str| {
            let text = refused(&mut client, &format!("SELECT message_store.write_message({args})"));
            // What DETAIL shows of the row is the store's own affair.
            text.split(" (Failing")
                .next()
                .unwrap_or_default()
                .split(" (Key")
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let null = |column: &str| {
            format!(
                "23502 null value in column \"{column}\" of relation \"messages\" violates not-null constraint"
            )
        };
        let version = "P0001 Wrong expected version: 5 (Stream: faulty-1, Stream Version: 0)";
        // The version before everything.
        for id in ["'no uuid'", "NULL", used.as_str()] {
            for kind in ["NULL", "'T'"] {
                assert_eq!(said(&format!("{id}, 'faulty-1', {kind}, NULL, NULL, 5")), version);
            }
        }
        assert_eq!(
            said("'no uuid', NULL, NULL, NULL, NULL, 5"),
            "P0001 Wrong expected version: 5 (Stream: <NULL>, Stream Version: -1)"
        );
        // Then whether the id is one, before what is missing.
        let uuid = "22P02 invalid input syntax for type uuid: \"no uuid\"";
        assert_eq!(said("'no uuid', NULL, NULL, NULL"), uuid);
        assert_eq!(said("'no uuid', NULL, NULL, NULL, NULL, -1"), uuid);
        assert_eq!(said("'no uuid', 'faulty-1', 'T', '{}', NULL, 0"), uuid);
        // Then what is missing, in the order of the table's columns, before duplicates.
        assert_eq!(said("NULL, NULL, NULL, NULL"), null("stream_name"));
        assert_eq!(said("NULL, NULL, NULL, NULL, NULL, -1"), null("stream_name"));
        assert_eq!(said(&format!("{used}, NULL, 'T', '{{}}'")), null("stream_name"));
        assert_eq!(said("NULL, 'faulty-1', NULL, NULL"), null("type"));
        assert_eq!(said(&format!("{used}, 'faulty-1', NULL, NULL")), null("type"));
        assert_eq!(said("NULL, 'faulty-1', 'T', NULL, NULL, 0"), null("id"));
        assert_eq!(
            said(&format!("{used}, 'faulty-1', 'T', NULL")),
            "23505 duplicate key value violates unique constraint \"messages_id\""
        );
    });
}

#[test]
fn categories_of_our_own_are_reserved() {
    on(&Kind::OURS, |store| {
        let mut client = store.client();
        for stream in ["meshhook:run-1", "meshhook:-1", "meshhook:anything", "meshhook:run:command-2"] {
            let sql = format!("SELECT message_store.write_message({}, '{stream}', 'T', '{{}}')", new_id());
            assert!(ask(&mut client, &sql).is_err(), "{stream}");
        }
        for stream in ["meshhook-1", "meshhook", "Meshhook:run-1", "meshhooks:run-1", "a-meshhook:run"] {
            assert_eq!(write(&mut client, stream), 0, "{stream}");
        }
        // There is something to read in them or there is not, but asking is no error.
        for call in [
            "get_stream_messages('meshhook:run-1')",
            "get_category_messages('meshhook:run')",
            "get_last_stream_message('meshhook:run-1')",
        ] {
            assert!(ask(&mut client, &format!("SELECT * FROM message_store.{call}")).is_ok(), "{call}");
        }
    });
}
