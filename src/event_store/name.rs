//! Names of streams, as Message DB reads them: `category-id`, `category:type-id`, `category-id+id`.
//!
//! Pure; the vectors are those of Message DB 1.3.0.

use md5::{Digest, Md5};

/// Longest name of a stream, in bytes: what fits the key of an index.
pub const MAX_NAME_BYTES: usize = 2_600;
/// Categories that begin so are meshhook's own.
pub const RESERVED: &str = "meshhook:";
/// The category of runs: `meshhook:run-<uuid>` is the log of one.
pub const RUNS: &str = "meshhook:run";

/// What stands before the first `-`: the category of a stream.
pub fn category(stream: &str) -> &str {
    stream.split_once('-').map_or(stream, |(category, _)| category)
}

/// What stands behind the first `-`; `None` without one.
pub fn id(stream: &str) -> Option<&str> {
    stream.split_once('-').map(|(_, id)| id)
}

/// The id up to the first `+`: members of a consumer group are told apart by it.
pub fn cardinal_id(stream: &str) -> Option<&str> {
    id(stream).map(|id| id.split_once('+').map_or(id, |(cardinal, _)| cardinal))
}

/// Whether a name has no id.
pub fn is_category(name: &str) -> bool {
    !name.contains('-')
}

/// The first eight bytes of the MD5 of a text, as a signed number. Not for security: Message DB's consumer groups and
/// locks are defined by it.
pub fn hash_64(text: &str) -> i64 {
    hash_of(&[text.as_bytes()])
}

/// `hash_64` of several texts behind each other.
pub fn hash_of(parts: &[&[u8]]) -> i64 {
    let mut md5 = Md5::new();
    parts.iter().for_each(|part| md5.update(part));
    let digest = md5.finalize();
    digest.iter().take(8).fold(0u64, |hash, byte| hash << 8 | u64::from(*byte)).cast_signed()
}

/// The bit of a category of users in a slot's mask, by its hash. Categories that share one only wait for each other's
/// writers.
pub fn bit_of_hash(hash: i64) -> u64 {
    1 << (hash.cast_unsigned() % 63)
}

/// The bit of the runs.
pub const RUNS_BIT: u64 = 1 << 63;
/// The bits of all categories of users.
pub const USERS_MASK: u64 = !RUNS_BIT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_as_message_db_does() {
        assert_eq!((category("account-123"), id("account-123")), ("account", Some("123")));
        assert_eq!((category("account"), id("account")), ("account", None));
        assert_eq!((category("-x"), id("a-")), ("", Some("")));
        assert_eq!(category("account:command+position-9"), "account:command+position");
        assert_eq!(id("account-123+456"), Some("123+456"));
        assert_eq!(cardinal_id("a-b+c+d"), Some("b"));
        assert_eq!(cardinal_id("acc+1-5"), Some("5"));
        assert_eq!(cardinal_id("account"), None);
        assert!(is_category("account:command") && !is_category("account-1"));
    }

    #[test]
    fn hashes_are_message_dbs() {
        for (text, hash) in [
            ("", -3_162_216_497_309_240_828),
            ("a", 919_145_239_626_757_800),
            ("abc", -8_070_080_442_485_551_184),
            ("1", -4_266_524_885_998_034_046),
            ("123", 2_318_431_741_638_412_123),
            ("account", -2_132_379_389_342_958_165),
            ("someStream", 2_053_039_834_977_696_644),
            ("order-456", 8_542_260_445_006_489_426),
        ] {
            assert_eq!(hash_64(text), hash, "{text}");
        }
        assert_eq!(hash_of(&[b"ab", b"c"]), hash_64("abc"));
    }

    #[test]
    fn runs_have_a_bit_of_their_own() {
        for name in ["account", "order", "", "meshhook", "payment:command", "2", "456"] {
            let bit = bit_of_hash(hash_64(name));
            assert_eq!((bit & RUNS_BIT, bit & USERS_MASK, bit.count_ones()), (0, bit, 1));
        }
        assert_eq!(USERS_MASK | RUNS_BIT, u64::MAX);
    }
}
