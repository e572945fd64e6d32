//! `message_store` is a window on one project: its messages are the native functions' messages, and other projects
//! are neither seen nor waited for.

use super::{Kind, Pending, Store, lines, literal, on_own, one, refused_with, write, write_with};
use meshhook_testkit::Session;
use uuid::Uuid;

/// The project beside the one that `message_store` shows.
const OTHER: &str = "second";

/// A session of the native functions in the other project, which is made if need be.
fn other_project(store: &Store) -> Session {
    let mut session = store.database.admin();
    let there = format!("SELECT count(*) FROM meshhook.project WHERE slug = '{OTHER}'");
    if one(&mut session, &there) == "0" {
        session.exec(&format!("SELECT meshhook.create_project('{OTHER}')"));
    }
    session.exec(&format!("SET meshhook.project = '{OTHER}'; SET lock_timeout = '10 s'"));
    session
}

/// The native call that appends one message; its position.
fn appended(stream: &str, id: Uuid) -> String {
    format!(
        "SELECT position FROM meshhook.append_messages(ARRAY[{}], ARRAY['Native'], ARRAY['{{\"n\": 1}}'::jsonb], \
         ids => ARRAY['{id}'::uuid])",
        literal(stream)
    )
}

#[test]
fn natives_and_clients_share_their_projects_messages() {
    on_own("natives", &Kind::OURS, |store| {
        let (mut client, mut native) = (store.client(), store.database.admin());
        assert_eq!(one(&mut native, &appended("shared-1", Uuid::now_v7())), "0");
        assert_eq!(write_with(&mut client, "shared-1", "'Client', '{}', NULL, 0"), 1);
        assert_eq!(one(&mut native, &appended("shared-1", Uuid::now_v7())), "2");
        let read = "SELECT position, type, data FROM message_store.get_stream_messages('shared-1')";
        assert_eq!(lines(&mut client, read), ["0|Native|{\"n\": 1}", "1|Client|{}", "2|Native|{\"n\": 1}"]);
        let read = "SELECT position, type FROM meshhook.read_category('shared')";
        assert_eq!(lines(&mut native, read), ["0|Native", "1|Client", "2|Native"]);
        // The lock of a category keeps every writer out, whichever way he comes.
        client.exec("BEGIN");
        one(&mut client, "SELECT message_store.acquire_lock('shared')");
        let waiting = Pending::start(store.database.admin(), &appended("shared-2", Uuid::now_v7()));
        waiting.wait_blocked(store);
        client.exec("COMMIT");
        waiting.end().1.expect("written");
    });
}

#[test]
fn other_projects_are_neither_seen_nor_waited_for() {
    on_own("tenants", &Kind::OURS, |store| {
        let (mut client, mut other) = (store.client(), other_project(store));
        // Stream, category and id are the same; they have nothing to do with each other.
        let id = Uuid::now_v7();
        client.exec("BEGIN");
        one(&mut client, "SELECT message_store.acquire_lock('tenant')");
        let mine = format!("SELECT message_store.write_message('{id}', 'tenant-1', 'Mine', '{{}}')");
        assert_eq!(one(&mut client, &mine), "0");
        assert_eq!(one(&mut other, &appended("tenant-1", id)), "0");
        assert_eq!(one(&mut other, &appended("tenant-1", Uuid::now_v7())), "1");
        client.exec("COMMIT");
        for read in [
            "get_stream_messages('tenant-1')",
            "get_category_messages('tenant')",
            "get_category_messages('tenant', 1, -1, NULL, 0, 1)",
            "get_last_stream_message('tenant-1')",
            "messages",
        ] {
            assert_eq!(
                lines(&mut client, &format!("SELECT type FROM message_store.{read}")),
                ["Mine"],
                "{read}"
            );
        }
        assert_eq!(one(&mut client, "SELECT message_store.stream_version('tenant-1')"), "0");
        assert_eq!(lines(&mut client, "SELECT * FROM message_store.type_summary"), ["Mine|1|100.00"]);

        // An open writer there holds back nobody here: not the readers of a category of the same name either.
        other.exec("BEGIN");
        one(&mut other, &appended("tenant-2", Uuid::now_v7()));
        client.exec("SET lock_timeout = '10 s'");
        write(&mut client, "tenant-2");
        let read = "SELECT stream_name FROM message_store.get_category_messages('tenant')";
        assert_eq!(lines(&mut client, read), ["tenant-1", "tenant-2"]);
        other.exec("ROLLBACK");
    });
}

#[test]
fn no_session_setting_opens_another_project() {
    on_own("settings_tenants", &Kind::OURS, |store| {
        let mut other = other_project(store);
        one(&mut other, &appended("hidden-1", Uuid::now_v7()));
        let mut client = store.client();
        let reads = ["get_stream_messages('hidden-1')", "get_category_messages('hidden')", "messages"];
        for setting in [OTHER, "default", "", "nowhere"] {
            // Refused, or without effect.
            let _ = client.batch_execute(&format!("SET meshhook.project = '{setting}'"));
            for read in reads {
                let found = super::ask(&mut client, &format!("SELECT * FROM message_store.{read}"));
                assert!(found.is_ok_and(|rows| rows.is_empty()), "{setting:?}: {read}");
            }
        }
        client.exec("RESET meshhook.project");
        assert_eq!(write(&mut client, "hidden-1"), 0);
        // Not past the functions either.
        for table in ["meshhook.message", "meshhook.stream"] {
            let sql = format!("SELECT count(*) FROM {table}");
            match super::ask(&mut client, &sql) {
                Ok(rows) => assert_eq!(rows[0][0].as_deref(), Some("1"), "{table}: its own rows at most"),
                Err(failure) => assert_eq!(failure.code, "42501", "{table}"),
            }
            assert_eq!(refused_with(&mut client, &format!("DELETE FROM {table}")), "42501");
        }
        // A condition is pasted into the query, but what the query sees ends at the project.
        store.set_for_all("message_store.sql_condition", "on");
        let open = "SELECT stream_name, type \
                    FROM message_store.get_stream_messages('x-1', condition => 'true) OR (true')";
        assert!(lines(&mut store.client(), open).iter().all(|row| row == "hidden-1|Event"));
    });
}

#[test]
fn the_functions_behind_it_open_no_other_project() {
    on_own("behind_tenants", &Kind::OURS, |store| {
        let mut other = other_project(store);
        one(&mut other, &appended("hidden-1", Uuid::now_v7()));
        let number = format!("SELECT project_id FROM meshhook.project WHERE slug = '{OTHER}'");
        let number = one(&mut store.database.admin(), &number);
        let id = Uuid::now_v7();
        let mut client = store.client();
        for sql in [
            format!(
                "SELECT meshhook.message_store_write({number}, '{id}', 'hidden-1', 'T', '{{}}', NULL, NULL)"
            ),
            format!("SELECT meshhook.message_store_stream_version({number}, 'hidden-1')"),
            format!("SELECT meshhook.message_store_lock({number}, 'hidden-1')"),
            format!("SELECT * FROM meshhook.message_store_last({number}, 'hidden-1', NULL)"),
            format!("SELECT * FROM meshhook.message_store_stream({number}, 'hidden-1', 0, 10, NULL)"),
            format!(
                "SELECT * FROM meshhook.message_store_category({number}, 'hidden', 1, 9, NULL, NULL, NULL, NULL)"
            ),
        ] {
            assert!(super::ask(&mut client, &sql).is_err(), "{sql}");
        }
        assert_eq!(one(&mut other, "SELECT count(*) FROM meshhook.read_stream('hidden-1')"), "1");
    });
}

#[test]
fn it_can_be_the_window_on_any_project() {
    on_own("window", &Kind::OURS, |store| {
        let mut other = other_project(store);
        write(&mut store.client(), "window-1");
        // Looking elsewhere leaves the messages where they are.
        store.database.admin().exec(&format!("SELECT meshhook.install_message_store('{OTHER}')"));
        let mut client = store.client();
        assert!(lines(&mut client, "SELECT * FROM message_store.messages").is_empty());
        assert_eq!(write_with(&mut client, "window-1", "'There', NULL, NULL, -1"), 0);
        for read in ["get_stream_messages('window-1')", "get_category_messages('window')", "type_summary"] {
            assert_eq!(
                lines(&mut client, &format!("SELECT type FROM message_store.{read}")),
                ["There"],
                "{read}"
            );
        }
        assert_eq!(lines(&mut other, "SELECT type FROM meshhook.read_stream('window-1')"), ["There"]);
        store.database.admin().exec("SELECT meshhook.install_message_store('default')");
        let mut client = store.client();
        assert_eq!(lines(&mut client, "SELECT type FROM message_store.messages"), ["Event"]);
        assert_eq!(one(&mut client, "SELECT message_store.stream_version('window-1')"), "0");
    });
}
