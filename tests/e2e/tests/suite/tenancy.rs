//! No project sees another, and nobody needs to be a superuser.

use meshhook_e2e::{
    Database, EXECUTOR, SOON, all_succeeded, caller, chain, counted, ended, publish, start, work_off,
};
use meshhook_testkit::{Reply, Session, Stub, wait_for};
use postgres::error::DbError;
use serde_json::json;
use uuid::Uuid;

/// What a caller learns from an error, with the one thing taken out that it said itself.
fn words(error: &DbError, own: &str) -> String {
    let parts = [Some(error.code().code()), Some(error.message()), error.detail(), error.hint()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" | ").replace(own, "<own>")
}

#[test]
fn two_projects_do_not_see_each_other() {
    let db = Database::preloaded("two_projects");
    let (mut alice, mut bob) = db.two_projects();
    for session in [&mut alice, &mut bob] {
        assert_eq!(publish(session, &chain("order", &["one"])), 1, "each project counts its own versions");
    }
    let keyed = "SELECT meshhook.start_run('order', '{}', idempotency_key => 'k')";
    let hers: Uuid = alice.value(keyed, &[]);
    let his: Uuid = bob.value(keyed, &[]);
    assert_ne!(hers, his, "idempotency keys are a project's own");
    wait_for("both to be under way", SOON, || {
        [&mut alice, &mut bob]
            .iter_mut()
            .all(|session| counted(session, "SELECT count(*) FROM meshhook.runs WHERE position > 1") == 1)
    });

    for view in ["runs", "run_steps", "stuck_runs"] {
        let seen: Vec<Uuid> = bob.values(&format!("SELECT run_id FROM meshhook.{view}"), &[]);
        assert!(seen.iter().all(|id| *id == his), "{view} shows bob {seen:?}");
    }
    let nobodys = Uuid::from_u128(hers.as_u128() ^ 0xff);
    let calls = [
        "SELECT meshhook.run_state($1)",
        "SELECT * FROM meshhook.run_history($1)",
        "SELECT * FROM meshhook.verify_run($1)",
        "SELECT meshhook.cancel_run($1)",
    ];
    for call in calls {
        assert!(alice.query(call.replace("cancel_run", "run_state").as_str(), &[&hers]).is_ok(), "{call}");
        let of_hers = words(&bob.error(call, &[&hers]), &hers.to_string());
        let of_nobodys = words(&bob.error(call, &[&nobodys]), &nobodys.to_string());
        assert_eq!(of_hers, of_nobodys, "{call} tells a stranger's run from none");
    }
    let waited = |session: &mut Session, id: Uuid| {
        words(&session.error(&format!("CALL meshhook.await_run('{id}', '1 s')"), &[]), &id.to_string())
    };
    assert_eq!(waited(&mut bob, hers), waited(&mut bob, nobodys));

    // A project one is no member of is as unknown as one that is not there.
    let enter = |session: &mut Session, slug: &str| {
        let entered = session.batch_execute(&format!("SET meshhook.project = '{slug}'"));
        let failed = match entered {
            Err(e) => e,
            Ok(()) => session.query("SELECT meshhook.start_run('order')", &[]).expect_err("not a member"),
        };
        words(failed.as_db_error().expect("the server says so"), slug)
    };
    assert_eq!(enter(&mut bob, "alices"), enter(&mut bob, "nobodys"));

    // Straight at the tables bob finds his own rows at most, and may write nowhere.
    bob.exec("SET meshhook.project = 'bobs'");
    let mut admin = db.admin();
    let tables = admin.rows(
        "SELECT format('%I.%I', nspname, relname), EXISTS (SELECT FROM pg_attribute \
             WHERE attrelid = c.oid AND attname = 'project_id') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE nspname = 'meshhook' AND relkind IN ('r', 'p')",
        &[],
    );
    let own: i32 = admin.value("SELECT project_id FROM meshhook.project WHERE slug = 'bobs'", &[]);
    let mut hidden = 0;
    for row in tables {
        let (table, per_project): (String, bool) = (row.get(0), row.get(1));
        let filter = if per_project { format!("WHERE project_id <> {own}") } else { String::new() };
        match bob.query(&format!("SELECT * FROM {table} {filter}"), &[]) {
            Ok(rows) => assert!(rows.is_empty(), "bob sees {} rows of others in {table}", rows.len()),
            Err(e) => {
                assert_eq!(e.code().map(|code| code.code()), Some("42501"), "{table}");
                hidden += 1;
            }
        }
        for write in ["DELETE FROM", "TRUNCATE", "ALTER TABLE"] {
            let sql = if write == "ALTER TABLE" {
                format!("{write} {table} ADD x int")
            } else {
                format!("{write} {table}")
            };
            let refused = bob.error(&sql, &[]);
            assert_eq!(refused.code().code(), "42501", "{sql}");
        }
        let mut executor = db.executor();
        assert_eq!(executor.error(&format!("SELECT * FROM {table}"), &[]).code().code(), "42501", "{table}");
    }
    assert!(hidden > 5, "most tables are nobody's to read");

    // One executor serves both.
    let mut executor = db.executor();
    wait_for("both jobs", SOON, || {
        work_off(&mut executor, "default");
        [&mut alice, &mut bob].iter_mut().all(|session| {
            counted(session, "SELECT count(*) FROM meshhook.runs WHERE status = 'succeeded'") == 1
        })
    });
    assert_eq!(ended(&mut alice, hers).status, "succeeded");
    assert_eq!(ended(&mut bob, his).status, "succeeded");
}

#[test]
fn an_outsider_may_do_nothing() {
    let db = Database::preloaded("outsider");
    db.admin()
        .exec("DO $$ BEGIN CREATE ROLE outsider LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
    let mut admin = db.admin();
    let functions: Vec<String> = admin.values(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace \
         WHERE nspname = 'meshhook' AND has_function_privilege('outsider', p.oid, 'EXECUTE')",
        &[],
    );
    assert!(functions.is_empty(), "PUBLIC may call {functions:?}");
    let mut outsider = db.cluster.connect("outsider", &db.name);
    assert_eq!(outsider.error("SELECT * FROM meshhook.runs", &[]).code().code(), "42501");
    // An application's role may not administer, nor an executor start anything.
    let mut app = db.app();
    publish(&mut app, &chain("chain", &["one"]));
    assert_eq!(app.error("SELECT meshhook.activate()", &[]).code().code(), "42501");
    assert_eq!(app.error("SELECT meshhook.create_project('mine')", &[]).code().code(), "42501");
    assert_eq!(app.error("SELECT meshhook.grant_api('outsider')", &[]).code().code(), "42501");
    let mut executor = db.executor();
    assert_eq!(executor.error("SELECT meshhook.start_run('chain')", &[]).code().code(), "42501");
    for role in ["meshhook_owner", "meshhook_executor", EXECUTOR, meshhook_e2e::APP] {
        let sql = "SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = $1";
        assert!(!admin.value::<bool>(sql, &[&role]), "{role} has powers");
    }
}

#[test]
fn a_sidecar_without_superuser_serves_every_project() {
    let db = Database::preloaded("two_projects_http");
    let (mut alice, mut bob) = db.two_projects();
    let stub = Stub::start();
    stub.script("/a", [Reply::json(200, &json!("for alice"))]);
    stub.script("/b", [Reply::json(200, &json!("for bob"))]);
    publish(&mut alice, &caller("order", &stub.url("/a")));
    publish(&mut bob, &caller("order", &stub.url("/b")));
    let _sidecar = db.sidecar().start();
    let hers = start(&mut alice, "order", &json!({}));
    let his = start(&mut bob, "order", &json!({}));
    assert_eq!(ended(&mut alice, hers).output, Some(json!({"answer": "for alice"})));
    assert_eq!(ended(&mut bob, his).output, Some(json!({"answer": "for bob"})));
    all_succeeded(&mut alice, 1, SOON);
    all_succeeded(&mut bob, 1, SOON);
    assert_eq!((stub.received_at("/a").len(), stub.received_at("/b").len()), (1, 1));
}
