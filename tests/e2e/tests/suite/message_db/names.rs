//! Names of streams and categories, hashes, and who of a consumer group a stream belongs to.

use super::{Kind, lines, literal, on, one, refused, write};

/// A name, then category, id, cardinal id and whether it is a category, as psql prints them.
const NAMES: [(&str, &str); 22] = [
    ("account-123", "account|123|123|f"),
    ("account-123+456", "account|123+456|123|f"),
    ("account", "account|<N>|<N>|t"),
    ("account:command-123", "account:command|123|123|f"),
    ("account:command+position-123", "account:command+position|123|123|f"),
    ("account:command+position", "account:command+position|<N>|<N>|t"),
    ("a-b+c+d", "a|b+c+d|b|f"),
    ("acc+1-5", "acc+1|5|5|f"),
    ("a-b-c", "a|b-c|b-c|f"),
    ("a-b-c+d-e", "a|b-c+d-e|b-c|f"),
    ("a-", "a|||f"),
    ("-x", "|x|x|f"),
    ("-", "|||f"),
    ("--", "|-|-|f"),
    ("a-+b", "a|+b||f"),
    ("a+b", "a+b|<N>|<N>|t"),
    ("+", "+|<N>|<N>|t"),
    (":", ":|<N>|<N>|t"),
    ("", "|<N>|<N>|t"),
    (" a - b ", " a | b | b |f"),
    ("größe-π+雪", "größe|π+雪|π|f"),
    // A hyphen by look only.
    ("a\u{2010}b", "a\u{2010}b|<N>|<N>|t"),
];

/// A value, its hash, and the member it falls to in groups of 2, 3 and 4.
pub const HASHES: [(&str, i64, [i64; 3]); 14] = [
    ("", -3162216497309240828, [0, 2, 0]),
    ("a", 919145239626757800, [0, 0, 0]),
    ("abc", -8070080442485551184, [0, 2, 0]),
    ("1", -4266524885998034046, [0, 0, 2]),
    ("2", -4026655064267673757, [1, 1, 1]),
    ("3", -1383792015730482434, [0, 2, 2]),
    ("4", -6305049951010035939, [1, 0, 3]),
    ("123", 2318431741638412123, [1, 1, 3]),
    ("456", 2669782135874207551, [1, 1, 3]),
    ("789", 7495461968338092064, [0, 1, 0]),
    ("account", -2132379389342958165, [1, 0, 1]),
    ("someStream", 2053039834977696644, [0, 2, 0]),
    ("account-123", 2828383952216582226, [0, 0, 2]),
    ("order-456", 8542260445006489426, [0, 1, 2]),
];

#[test]
fn names_fall_into_category_id_and_cardinal_id() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let parts = |name: &str| {
            format!(
                "SELECT message_store.category({name}), message_store.id({name}), message_store.cardinal_id({name}), \
                 message_store.is_category({name})"
            )
        };
        for (name, expected) in NAMES {
            assert_eq!(one(&mut client, &parts(&literal(name))), expected, "{name:?}");
        }
        // Of nothing everything is nothing, but it counts as a category.
        assert_eq!(one(&mut client, &parts("NULL")), "<N>|<N>|<N>|t");
        let wrong = refused(&mut client, "SELECT message_store.category_name('a-1')");
        assert!(
            wrong.starts_with("42883 function message_store.category_name(unknown) does not exist"),
            "{wrong}"
        );
    });
}

#[test]
fn hashes_are_those_of_every_client() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for (value, hash, _) in HASHES {
            let sql = format!("SELECT message_store.hash_64({})", literal(value));
            assert_eq!(one(&mut client, &sql), hash.to_string(), "{value:?}");
        }
        assert_eq!(one(&mut client, "SELECT message_store.hash_64(NULL)"), "<N>");
        // By definition: the first eight bytes of the MD5 of the UTF-8 text.
        let by_definition = "SELECT count(*), \
                 bool_and(message_store.hash_64(v) = ('x' || left(md5(v), 16))::bit(64)::bigint) \
             FROM (SELECT chr(x) || x AS v FROM generate_series(1, 3000) x \
                   UNION ALL SELECT repeat('雪', 100000)) samples";
        assert_eq!(one(&mut client, by_definition), "3001|t");
    });
}

#[test]
fn the_lock_of_a_category_is_its_hash() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        let mut key = |name: &str| one(&mut client, &format!("SELECT message_store.acquire_lock({name})"));
        assert_eq!(key("'someStream-123'"), "2053039834977696644");
        assert_eq!(key("'someStream'"), "2053039834977696644");
        assert_eq!(key("'account-123+456'"), "-2132379389342958165");
        assert_eq!(key("'-123'"), "-3162216497309240828");
        assert_eq!(key("''"), "-3162216497309240828");
        assert_eq!(key("NULL"), "<N>");
    });
}

#[test]
fn a_group_divides_a_category_by_cardinal_id() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        for (value, _, _) in HASHES {
            write(&mut client, &format!("grouped-{value}"));
            // Compound ids go where their cardinal id goes.
            write(&mut client, &format!("grouped-{value}+more+x"));
        }
        // What has no id belongs to no member.
        write(&mut client, "grouped");
        for (size, column) in [(2, 0), (3, 1), (4, 2)] {
            for member in 0..size {
                let sql = format!(
                    "SELECT stream_name FROM message_store.get_category_messages('grouped', \
                     consumer_group_member => {member}, consumer_group_size => {size})"
                );
                let expected: Vec<String> = HASHES
                    .iter()
                    .filter(|(_, _, members)| members[column] == member)
                    .flat_map(|(value, _, _)| [format!("grouped-{value}"), format!("grouped-{value}+more+x")])
                    .collect();
                assert_eq!(lines(&mut client, &sql), expected, "member {member} of {size}");
            }
        }
        let alone =
            "SELECT count(*) FROM message_store.get_category_messages('grouped', 1, 1000, NULL, 0, 1)";
        assert_eq!(one(&mut client, alone), (2 * HASHES.len()).to_string());
        let all = "SELECT count(*) FROM message_store.get_category_messages('grouped')";
        assert_eq!(one(&mut client, all), (2 * HASHES.len() + 1).to_string());
    });
}

#[test]
fn the_largest_group_has_32767_members() {
    on(&Kind::ALL, |store| {
        let mut client = store.client();
        write(&mut client, "crowd-123");
        let member = 2318431741638412123_i64 % 32767;
        let read = |member: i64, size: i64| {
            format!(
                "SELECT position FROM message_store.get_category_messages('crowd', 1, 10, NULL, {member}, {size})"
            )
        };
        assert_eq!(lines(&mut client, &read(member, 32767)), ["0"]);
        assert!(lines(&mut client, &read(member + 1, 32767)).is_empty());
        // Whatever is in the category.
        for size in [32768, 100_000, i64::MAX] {
            assert_eq!(refused(&mut client, &read(0, size)), "22003 smallint out of range", "{size}");
        }
    });
}
