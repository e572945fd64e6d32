//! Those who are compared: how each appends one message.

use crate::event_store::server::{MESSAGE_DB, ROLE, Server};
use crate::event_store::wire::{Parameters, Wire};
use anyhow::{Result, ensure};
use meshhook_testkit::message_db;
use tokio_postgres::Client;
use uuid::Uuid;

/// The category of every message.
pub const CATEGORY: &str = "account";

/// About 100 bytes, as small events are.
pub const DATA: &str =
    r#"{"accountId": "5bd0ee02-8a4e-4b5c-9d3e-6c8f1b7f2a10", "amount": 1250, "currency": "EUR"}"#;

/// The name under which each connection prepares its statement.
const STATEMENT: &str = "append";

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// `meshhook.append_message`.
    Native,
    /// `message_store.write_message` of meshhook.
    DropIn,
    /// `message_store.write_message` of Message DB.
    MessageDb,
    /// A prepared INSERT into a table with the columns and the indexes of ours: no check, no stream's name, no
    /// reader to care for.
    Bare,
}

/// One message that is to be appended.
pub struct Message<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// The stream's number, for the one who knows no names.
    pub number: i64,
    /// Its position in the stream: one more than the version expected.
    pub position: i64,
    /// Its id.
    pub id: Uuid,
}

impl Contender {
    /// All of them.
    pub const ALL: [Contender; 4] =
        [Contender::Native, Contender::MessageDb, Contender::Bare, Contender::DropIn];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Native => "native",
            Contender::DropIn => "drop_in",
            Contender::MessageDb => "message_db",
            Contender::Bare => "bare",
        }
    }

    /// Connects and prepares. `store` is the database of everybody but Message DB.
    pub async fn connect(self, server: &Server, store: &str) -> Result<Wire> {
        let native = "SELECT meshhook.append_message($1, 'Deposited', $2, NULL, $3, $4)";
        // Message DB's clients have its schema in their search path, by the name of their role.
        let message_db = "SELECT write_message($1, $2, 'Deposited', $3, NULL, $4)";
        let bare = "INSERT INTO bare (project_id, global_position, stream_id, \"position\", category_hash, \"time\",
                                      id, type, data)
                    VALUES (0, nextval('bare_position'), $1, $2, 4711, clock_timestamp(), $3, 'Deposited', $4)";
        let (user, database, sql) = match self {
            Contender::Native => (ROLE, store, native),
            Contender::DropIn => (message_db::ROLE, store, message_db),
            Contender::MessageDb => (message_db::ROLE, MESSAGE_DB, message_db),
            Contender::Bare => (ROLE, store, bare),
        };
        let mut wire = Wire::connect(&server.address(user, database)).await?;
        wire.prepare(STATEMENT, sql).await?;
        Ok(wire)
    }

    /// Appends a message in a transaction of its own.
    pub async fn append(self, wire: &mut Wire, message: &Message<'_>) -> Result<()> {
        let mut position = None;
        let encode = |parameters: &mut Parameters<'_>| self.encode(parameters, message);
        wire.query(STATEMENT, encode, |row| position = row.int8(0)).await?;
        // The bare insert returns nothing.
        ensure!(
            self == Contender::Bare || position == Some(message.position),
            "{} gave {position:?} to message {} of {}",
            self.name(),
            message.position,
            message.stream
        );
        Ok(())
    }

    fn encode(self, parameters: &mut Parameters<'_>, message: &Message<'_>) {
        match self {
            Contender::Native => {
                parameters.text(message.stream);
                parameters.jsonb(DATA);
                parameters.int8(message.position - 1);
                parameters.uuid(message.id);
            }
            Contender::DropIn | Contender::MessageDb => {
                let mut text = Uuid::encode_buffer();
                parameters.text(message.id.hyphenated().encode_lower(&mut text));
                parameters.text(message.stream);
                parameters.jsonb(DATA);
                parameters.int8(message.position - 1);
            }
            Contender::Bare => {
                parameters.int8(message.number);
                parameters.int8(message.position);
                parameters.uuid(message.id);
                parameters.jsonb(DATA);
            }
        }
    }
}

/// Makes the bare table beside ours.
pub async fn create_bare(admin: &Client) -> Result<()> {
    let create = format!(
        "CREATE TABLE bare (LIKE meshhook.message INCLUDING ALL);
         CREATE SEQUENCE bare_position;
         GRANT INSERT, SELECT ON bare TO {ROLE};
         GRANT USAGE ON bare_position TO {ROLE};"
    );
    Ok(admin.batch_execute(&create).await?)
}

/// Makes the drop-in; false when this meshhook has none.
pub async fn install_drop_in(admin: &Client) -> Result<bool> {
    let found = "SELECT pg_catalog.to_regproc('meshhook.install_message_store') IS NOT NULL";
    if !admin.query_one(found, &[]).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    admin.batch_execute("SELECT meshhook.install_message_store('default')").await?;
    Ok(true)
}
