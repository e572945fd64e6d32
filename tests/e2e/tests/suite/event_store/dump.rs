//! A copy of a store, by dump or by upgrade, is the store: everything is where it was, and readers of the original go
//! on reading it.

use super::{Reader, append, append_all, committed};
use crate::dump::{dump, restore};
use meshhook_e2e::{Database, counted, own_cluster, prepare};
use meshhook_testkit::{Cluster, Session, StopMode, install};

/// Fills a store with everything that a copy could lose: gaps, a purged stream, an empty one, two projects, consumers.
fn fill(db: &Database) {
    let (mut admin, mut app) = (db.admin(), db.app());
    admin.exec("SELECT meshhook.install_message_store('default')");
    for n in 0..5 {
        append_all(&mut app, &["kept-1", "kept-2", "other-1"]);
        app.exec("BEGIN");
        append(&mut app, &format!("gone-{n}"));
        app.exec("ROLLBACK");
    }
    append_all(&mut app, &["purged-1", "purged-1", "deleted-1", "deleted-1"]);
    admin.exec("SELECT meshhook.purge_stream('purged-1', 1); SELECT meshhook.delete_stream('deleted-1')");
    admin.exec("SELECT meshhook.create_project('acme'); SELECT meshhook.add_member('acme', 'shop')");
    app.exec("SELECT count(*) FROM meshhook.read_consumer('follower', 'kept', 3)");
    app.exec("SELECT meshhook.commit_consumer('follower', max(global_position)) FROM meshhook.read_category('kept', 1, 3)");
    app.exec("SET meshhook.project = 'acme'");
    append(&mut app, "kept-1");
}

/// Everything that is to be kept, as text.
fn contents(admin: &mut Session) -> Vec<String> {
    admin.values(
        "SELECT concat_ws('|', m.project_id, m.global_position, s.name, m.position, m.id, m.type, \
                          extract(epoch FROM m.time), m.data, m.metadata, m.category_hash, m.correlation_hash) \
         FROM meshhook.message m JOIN meshhook.stream s ON s.project_id = m.project_id AND s.stream_id = m.stream_id \
         UNION ALL SELECT concat_ws('|', 'floor', project_id, stream_id, first_position) FROM meshhook.stream_floor \
         UNION ALL SELECT concat_ws('|', 'consumer', c.name, p.member, p.revision, p.position) \
         FROM meshhook.consumer c JOIN meshhook.consumer_position p USING (project_id, consumer_id) ORDER BY 1",
        &[],
    )
}

/// What a copy must do: go on where the original was, beyond whatever its readers have seen.
fn goes_on(copy: &Database, seen: i64) {
    let (mut admin, mut app) = (copy.admin(), copy.app());
    let mut remembering = Reader::of(copy, "kept");
    remembering.last = seen;
    let placed = append_all(&mut app, &["kept-1", "kept-2", "purged-1", "deleted-1"]);
    let positions: Vec<i64> = placed.iter().map(|one| one.position).collect();
    assert_eq!(positions, [5, 5, 2, 2], "streams go on without a gap, also the purged ones");
    assert!(placed[0].global > seen, "{} was not new to readers at {seen}", placed[0].global);
    assert_eq!(remembering.read(), [placed[0].global, placed[1].global]);
    assert_eq!(Reader::of(copy, "kept").read(), committed_of_default(&mut admin, "kept"));
    assert_eq!(counted(&mut app, "SELECT count(*) FROM meshhook.read_consumer('follower', 'kept')"), 9);
    app.rows("SELECT * FROM meshhook.read_stream('purged-1')", &[]);
    assert!(app.take_notices()[0].message().contains("begins at position 1"));
    // The other project's stream of the same name, and the clients of Message DB.
    app.exec("SET meshhook.project = 'acme'");
    assert_eq!(append(&mut app, "kept-1").position, 1);
    let mut client = copy.cluster.connect("message_store", &copy.name);
    let write = "SELECT message_store.write_message(gen_random_uuid()::text, 'kept-1', 'T', '{}', NULL, 5)";
    assert_eq!(client.value::<i64>(write, &[]), 6);
    assert_eq!(counted(&mut client, "SELECT count(*) FROM message_store.get_category_messages('kept')"), 13);
}

fn committed_of_default(admin: &mut Session, category: &str) -> Vec<i64> {
    let mine: Vec<i64> =
        admin.values("SELECT global_position FROM meshhook.message WHERE project_id = 0", &[]);
    committed(admin, Some(category)).into_iter().filter(|global| mine.contains(global)).collect()
}

#[test]
fn pitfall_18_a_restored_dump_goes_on_beyond_what_was_seen() {
    // Of their own: the role of Message DB's clients is a cluster's, and other tests make it too.
    let (home, abroad) = (own_cluster(true), own_cluster(false));
    abroad.superuser("postgres").exec("CREATE ROLE message_store LOGIN");
    let source = Database::create(&home, "es_dumped");
    fill(&source);
    let file = home.dir().join("es_dump");
    dump(source.cluster, &source.name, &file);
    let before = contents(&mut source.admin());
    // The original goes on, and its readers with it: none of this is in the dump.
    let mut reader = Reader::of(&source, "kept");
    for _ in 0..50 {
        append_all(&mut source.app(), &["kept-1", "kept-3"]);
    }
    reader.read();
    for target in [&abroad, &home] {
        restore(target, "es_restored", &file);
        let copy = Database { cluster: target, name: "es_restored".into() };
        assert_eq!(contents(&mut copy.admin()), before);
        goes_on(&copy, reader.last());
    }
}

/// Runs `pg_upgrade` between two stopped clusters.
fn upgrade(old: &Cluster, new: &Cluster) {
    let output = install::server_command("pg_upgrade")
        .args(["-U", "postgres", "-b"])
        .arg(install::bin_dir())
        .arg("-B")
        .arg(install::bin_dir())
        .arg("-d")
        .arg(old.data_dir())
        .arg("-D")
        .arg(new.data_dir())
        .args(["-p", &old.port().to_string(), "-P", &new.port().to_string()])
        .current_dir(new.dir())
        .output()
        .expect("pg_upgrade runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A store in a cluster that is upgraded into a new one.
fn survives_an_upgrade(preload: bool) {
    let old = prepare(Cluster::builder().preload(preload).fast().start());
    let source = Database::create(&old, "es_upgraded");
    fill(&source);
    let mut reader = Reader::of(&source, "kept");
    reader.read();
    // Drawn, taken back, and yet perhaps seen by a transaction's own reader.
    let mut app = source.app();
    app.exec("BEGIN");
    let seen = append(&mut app, "kept-9").global;
    app.exec("ROLLBACK");
    let before = contents(&mut source.admin());
    drop(app);
    old.stop(StopMode::Fast);
    let new = Cluster::builder().preload(preload).fast().start();
    new.stop(StopMode::Fast);
    upgrade(&old, &new);
    new.start();
    let copy = Database { cluster: &new, name: "es_upgraded".into() };
    assert_eq!(contents(&mut copy.admin()), before);
    goes_on(&copy, seen);
}

#[test]
fn pitfall_18_an_upgraded_server_goes_on_too() {
    survives_an_upgrade(true);
}

#[test]
fn pitfall_18_an_upgraded_server_without_preloading_goes_on_too() {
    survives_an_upgrade(false);
}
