//! The original Message DB, for comparison with ours.
//!
//! Its SQL lies unchanged in `tests/message-db/original`. Whoever calls it must know one thing about it: its
//! functions call each other unqualified, so they work only where `message_store` is in the `search_path`. For the
//! role `message_store` it is, through `"$user"`; everybody else has to set it.

use crate::session::Session;

/// The login role both stores make and their clients use.
pub const ROLE: &str = "message_store";

/// The version the files are of, as `message_store_version()` says it.
pub const VERSION: &str = "1.3.0";

macro_rules! original {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("../../../tests/message-db/original/", $file)))),*]
    };
}

/// Name and text of each file, in the order of the original's `install.sh` and of the scripts that it calls.
const FILES: &[(&str, &str)] = original![
    "roles/message-store.sql",
    "schema/message-store.sql",
    "extensions/pgcrypto.sql",
    "tables/messages.sql",
    "types/message.sql",
    "functions/message-store-version.sql",
    "functions/hash-64.sql",
    "functions/acquire-lock.sql",
    "functions/category.sql",
    "functions/is-category.sql",
    "functions/id.sql",
    "functions/cardinal-id.sql",
    "functions/stream-version.sql",
    "functions/write-message.sql",
    "functions/get-stream-messages.sql",
    "functions/get-category-messages.sql",
    "functions/get-last-stream-message.sql",
    "indexes/messages-id.sql",
    "indexes/messages-stream.sql",
    "indexes/messages-category.sql",
    "views/stream-summary.sql",
    "views/type-summary.sql",
    "views/stream-type-summary.sql",
    "views/type-stream-summary.sql",
    "views/category-type-summary.sql",
    "views/type-category-summary.sql",
    "privileges/schema.sql",
    "privileges/table.sql",
    "privileges/sequence.sql",
    "privileges/functions.sql",
    "privileges/views.sql",
];

/// Installs the original into the session's database, which must have no schema `message_store` yet.
///
/// The session must be a superuser's. Not from two sessions of a cluster at once: a role is the whole cluster's,
/// and the original is not prepared for somebody else making it in the same moment.
///
/// # Panics
/// When a file fails; the message names it.
pub fn install(session: &mut Session) {
    for (file, sql) in FILES {
        if let Err(e) = session.batch_execute(sql) {
            panic!("{file} of the original Message DB: {}", crate::session::describe(&e));
        }
    }
    session.take_notices();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;

    #[test]
    fn the_original_takes_and_gives_back_a_message() {
        let cluster = Cluster::builder().fast().start();
        for database in ["one", "two"] {
            cluster.create_empty_database(database);
            install(&mut cluster.superuser(database));
            let mut client = cluster.connect(ROLE, database);
            assert_eq!(client.value::<String>("SELECT message_store_version()", &[]), VERSION);
            let write = "SELECT write_message('00000000-0000-0000-0000-000000000001', 'a-1', 'Opened', '{}')";
            assert_eq!(client.value::<i64>(write, &[]), 0);
            let read = "SELECT stream_name || type FROM message_store.get_stream_messages('a-1')";
            assert_eq!(client.values::<String>(read, &[]), ["a-1Opened"]);
        }
    }
}
