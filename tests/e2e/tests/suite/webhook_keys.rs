//! Deliveries that start or signal a run by its business key: each counts once, whoever comes at the same moment.

use meshhook_e2e::{Database, SOON, counted, publish};
use meshhook_testkit::sign::{self, unix_now};
use meshhook_testkit::{Response, Session, Sidecar, history};
use serde_json::{Value, json};

/// Waits for the signal `paid` and ends.
fn order() -> Value {
    json!({"name": "order", "nodes": [{"id": "paid", "type": "wait", "with": {"signal": "paid"}}]})
}

/// An endpoint that starts or signals an order: path and secret.
fn endpoint(db: &Database, action: &str) -> (String, String) {
    let made = db.admin().rows(
        "SELECT path, secret FROM meshhook.create_endpoint('order', action => $1, business_key => '.input.order',
                                                           signal => '.input.event')",
        &[&action],
    );
    (made[0].get(0), made[0].get(1))
}

/// Delivers events at once, each of them once.
fn storm(sidecar: &Sidecar, (path, secret): &(String, String), events: &[Value]) -> Vec<Response> {
    let events: Vec<_> =
        events.iter().enumerate().map(|(n, event)| (format!("msg_{n}"), event.clone())).collect();
    super::webhooks::storm(sidecar, path, secret, &events)
}

/// How many runs were started, and how many signals their logs have.
fn counts(admin: &mut Session) -> (i64, i64) {
    let signals = "SELECT count(*) FROM meshhook.run_event WHERE type = 'signal.received'";
    (counted(admin, "SELECT count(*) FROM meshhook.runs"), counted(admin, signals))
}

#[test]
fn of_deliveries_at_once_with_a_new_key_one_starts_the_run_and_the_others_signal_it() {
    let db = Database::preloaded("new_keys");
    publish(&mut db.app(), &order());
    let (endpoint, sidecar) = (endpoint(&db, "signal_or_start"), db.sidecar().start());
    let events: Vec<_> = (0..100).map(|n| json!({"order": n % 10, "event": "seen", "n": n})).collect();
    let answers = storm(&sidecar, &endpoint, &events);
    assert!(answers.iter().all(|answer| answer.status == 202), "{:?}", answers.iter().map(|a| a.status));
    let signaled = answers.iter().filter(|answer| answer.json()["signaled"] == json!(true)).count();
    assert_eq!(signaled, 90);
    let mut admin = db.admin();
    assert_eq!(counts(&mut admin), (10, 90));
    let of_each = "SELECT count(*) FROM (SELECT FROM meshhook.run_event WHERE type = 'signal.received'
                                         GROUP BY run_id HAVING count(*) = 9) e";
    assert_eq!(counted(&mut admin, of_each), 10);
    history::check_all(&mut admin);
}

#[test]
fn no_event_is_lost_at_the_end_of_a_run() {
    let db = Database::preloaded("last_moment");
    publish(&mut db.app(), &order());
    let (endpoint, sidecar) = (endpoint(&db, "signal_or_start"), db.sidecar().start());
    // Each signal ends its run: whoever comes a moment later begins the next.
    let events: Vec<_> = (0..120).map(|n| json!({"order": n % 2, "event": "paid", "n": n})).collect();
    let answers = storm(&sidecar, &endpoint, &events);
    assert!(answers.iter().all(|answer| answer.status == 202));
    let mut admin = db.admin();
    let (runs, signals) = counts(&mut admin);
    assert_eq!(runs + signals, 120, "{runs} runs and {signals} signals");
    let signaled = answers.iter().filter(|answer| answer.json()["signaled"] == json!(true)).count();
    assert_eq!(signals, i64::try_from(signaled).expect("few"));
    // Two runs of a key are never open at once.
    assert!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs WHERE status <> 'succeeded'") <= 2);
    history::check_all(&mut admin);
}

#[test]
fn a_signal_that_comes_behind_the_end_of_a_run_is_answered_so() {
    let db = Database::plain("behind");
    publish(&mut db.app(), &order());
    let endpoint = endpoint(&db, "signal");
    let sidecar = db.sidecar().start();
    let mut admin = db.admin();
    let start = "SELECT meshhook.start_run('order', idempotency_key => 'A')";
    let run: uuid::Uuid = admin.value(start, &[]);
    // It lies in the inbox and is decided by nobody yet.
    admin.exec(&format!("SELECT meshhook.signal_run('{run}', 'paid')"));
    let late = storm(&sidecar, &endpoint, &[json!({"order": "A", "event": "paid"})]);
    assert_eq!(late[0].status, 404, "{}", late[0].text());
    let why: String =
        admin.value("SELECT reason FROM meshhook.delivery ORDER BY delivery_id DESC LIMIT 1", &[]);
    assert_eq!(why, "the run with this business key has ended");
    assert_eq!(counts(&mut admin), (1, 1));
}

#[test]
fn a_run_that_somebody_holds_is_not_waited_for_and_its_event_is_not_lost() {
    let db = Database::preloaded("held");
    publish(&mut db.app(), &order());
    let endpoint = endpoint(&db, "signal_or_start");
    let sidecar = db.sidecar().start();
    let deliver = || {
        let body = json!({"order": "A", "event": "paid"}).to_string().into_bytes();
        sidecar.post(&endpoint.0, &sign::standard(&endpoint.1, "paid", unix_now(), &body), &body)
    };
    let mut admin = db.admin();
    let run: uuid::Uuid = admin.value("SELECT meshhook.start_run('order', idempotency_key => 'A')", &[]);
    meshhook_e2e::wait_status(&mut admin, run, &["waiting", "running"], SOON);
    let mut holder = db.admin();
    holder.exec("BEGIN");
    holder.exec(&format!("SELECT FROM meshhook.run WHERE run_id = '{run}' FOR UPDATE"));
    let begun = std::time::Instant::now();
    assert_eq!(deliver().status, 503);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    holder.exec("ROLLBACK");
    // It comes again, as every sender's does, and is no repeat: nothing was taken.
    let answer = deliver();
    assert_eq!((answer.status, answer.json()["signaled"].clone()), (202, json!(true)), "{}", answer.text());
    assert_eq!(meshhook_e2e::ended(&mut admin, run).status, "succeeded");
}

#[test]
fn what_cannot_start_a_run_signals_the_one_that_is_being_started() {
    let db = Database::preloaded("being_started");
    let mut order = order();
    order["input_schema"] = json!({"required": ["id"]});
    publish(&mut db.app(), &order);
    let endpoint = endpoint(&db, "signal_or_start");
    let sidecar = db.sidecar().start();
    let mut app = db.app();
    app.exec("BEGIN");
    app.exec("SELECT meshhook.start_run('order', '{\"id\": 1}', idempotency_key => 'A')");
    let answer = std::thread::scope(|scope| {
        let sender = scope.spawn(|| storm(&sidecar, &endpoint, &[json!({"order": "A", "event": "paid"})]));
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'being_started'";
        meshhook_testkit::wait_for("the delivery to wait", SOON, || counted(&mut db.admin(), waits) == 1);
        app.exec("COMMIT");
        sender.join().expect("a sender does not panic").remove(0)
    });
    assert_eq!((answer.status, answer.json()["signaled"].clone()), (202, json!(true)), "{}", answer.text());
}
