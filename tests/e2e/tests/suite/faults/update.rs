//! ALTER EXTENSION UPDATE while runs are under way.
//!
//! There is one release so far. The next one is made up: a script that does what migrations do, whose version the library
//! at hand does not know.

use super::{PATIENCE, PAUSE, publish_orders};
use meshhook_e2e::load::under_load;
use meshhook_e2e::{Database, prepare, status};
use meshhook_testkit::{Cluster, Session, process, wait_for};
use postgres::error::SqlState;
use std::fs;
use std::time::Instant;

const HERE: &str = env!("CARGO_PKG_VERSION");
const NEXT: &str = "9.9.9";

/// What a migration does: a column on a hot table, another body of a function; it takes a while.
const SCRIPT: &str = "
    ALTER TABLE meshhook.run ADD COLUMN note text;
    ALTER TABLE meshhook.inbox ADD COLUMN note text;
    CREATE OR REPLACE FUNCTION meshhook.version() RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
        AS $$ SELECT '9.9.9'::text $$;
    SELECT pg_catalog.pg_sleep(1.5);";
const BACK: &str = "
    ALTER TABLE meshhook.run DROP COLUMN note;
    ALTER TABLE meshhook.inbox DROP COLUMN note;
    CREATE OR REPLACE FUNCTION meshhook.version() RETURNS text LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
        AS 'MODULE_PATHNAME', 'version_wrapper';";

/// A cluster that knows a next release, and the way back from it.
fn cluster() -> Cluster {
    let cluster = prepare(Cluster::builder().preload(true).kek(true).own_files(true).start());
    for (name, script) in [(format!("{HERE}--{NEXT}"), SCRIPT), (format!("{NEXT}--{HERE}"), BACK)] {
        let path = cluster.extension_folder().join(format!("meshhook--{name}.sql"));
        fs::write(&path, script).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }
    cluster
}

fn version(session: &mut Session) -> String {
    session.value("SELECT extversion FROM pg_extension WHERE extname = 'meshhook'", &[])
}

fn update(to: &str) -> String {
    format!("ALTER EXTENSION meshhook UPDATE TO '{to}'")
}

/// Does it as an administrator does: an update that is the victim of a deadlock with a turn has changed nothing, and is
/// asked for again.
fn insist(session: &mut Session, statement: &str) -> Result<(), postgres::Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        match session.batch_execute(statement) {
            Err(error)
                if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) && Instant::now() < until =>
            {
                session.exec("ROLLBACK");
            }
            done => return done,
        }
    }
}

#[test]
fn an_update_that_is_rolled_back_or_killed_leaves_everything_as_it_was() {
    let cluster = cluster();
    let db = Database::create(&cluster, "updates");
    publish_orders(&db);
    under_load(&cluster, &db.name, "order", PAUSE, |ledger| {
        let mut admin = db.admin();
        insist(&mut admin, &format!("BEGIN; {}", update(NEXT))).expect("it can be updated");
        assert_eq!(version(&mut admin), NEXT);
        admin.exec("ROLLBACK");
        ledger.wait_more(20);

        let mut doomed = db.admin();
        let pid = doomed.backend_pid();
        std::thread::scope(|scope| {
            let updating = scope.spawn(|| insist(&mut doomed, &update(NEXT)).is_err());
            wait_for("the update to be under way", PATIENCE, || {
                let asleep =
                    "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
                cluster.superuser("postgres").value(asleep, &[&pid])
            });
            process::kill9(u32::try_from(pid).expect("a process id"));
            assert!(updating.join().expect("a thread"), "its session is gone");
        });
        ledger.wait_more(20);
        assert_eq!(version(&mut db.admin()), HERE);
        assert_eq!(db.admin().value::<String>("SELECT meshhook.version()", &[]), HERE);
        let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'meshhook.run'::regclass AND attname = 'note'";
        assert_eq!(meshhook_e2e::counted(&mut db.admin(), columns), 0);
    });
}

#[test]
fn runs_pause_while_versions_differ_and_go_on_when_they_agree() {
    let cluster = cluster();
    let db = Database::create(&cluster, "updates");
    publish_orders(&db);
    under_load(&cluster, &db.name, "order", PAUSE, |ledger| {
        let mut admin = db.admin();
        insist(&mut admin, &update(NEXT)).expect("it can be updated");
        // The library is still that of before: no turn is taken under tables that it does not know. Starts go through.
        let moved = "SELECT count(*) FROM meshhook.run_event";
        wait_for("the orchestrator to notice", PATIENCE, || {
            status(&mut admin, "orchestrator").is_some_and(|(fine, ..)| !fine)
        });
        let before = meshhook_e2e::counted(&mut admin, moved);
        ledger.wait_more(20);
        assert_eq!(meshhook_e2e::counted(&mut admin, moved), before, "no run moves");
        // As if the library that belongs to the tables were there.
        insist(&mut admin, &update(HERE)).expect("it can be updated");
        ledger.wait_more(20);
    });
    assert_eq!(version(&mut db.admin()), HERE);
}
