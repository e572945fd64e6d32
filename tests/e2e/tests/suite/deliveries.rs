//! Events delivered to subscribers: to whom, how often, signed how, and when no more.

use meshhook_e2e::{
    Database, Job, SOON, claim, complete, counted, ended, fail, prepare, publish, start, wait_status,
};
use meshhook_testkit::{Cluster, Gate, Received, Reply, Session, Stub, history, sign, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

use crate::secrets::{keys, seal};

/// Seconds between attempts, as Standard Webhooks recommends them.
const SCHEDULE: [i64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// Long enough for leases that run out on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A subscription to all that is unsigned.
#[track_caller]
fn subscribe(session: &mut Session, name: &str, url: &str, events: &[&str]) {
    let sql = "SELECT meshhook.create_subscription($1, $2, $3)";
    session.rows(sql, &[&name, &url, &events]);
}

/// Publishes an event; the runs that deliver it, by subscription.
#[track_caller]
fn event(session: &mut Session, event_type: &str, data: &Value, key: Option<&str>) -> Vec<(String, Uuid)> {
    let sql = "SELECT subscription, run_id FROM meshhook.publish_event($1, $2, $3) ORDER BY 1";
    let rows = session.rows(sql, &[&event_type, data, &key]);
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Demands that a request is signed with a secret.
#[track_caller]
fn check_signature(request: &Received, secret: &str) {
    let header = |name: &str| request.header(name).unwrap_or_else(|| panic!("no {name}")).to_owned();
    let timestamp: i64 = header("webhook-timestamp").parse().expect("a number");
    assert!((sign::unix_now() - timestamp).abs() < 60, "signed at {timestamp}");
    let expected = sign::standard(secret, &header("webhook-id"), timestamp, &request.body);
    let expected =
        expected.iter().find(|(name, _)| name == "webhook-signature").map(|(_, value)| value.as_str());
    let signatures = header("webhook-signature");
    assert!(signatures.split(' ').any(|one| Some(one) == expected), "{signatures}, not {expected:?}");
}

/// `[state, attempts, last status]` of a delivery.
#[track_caller]
fn delivery(session: &mut Session, run: Uuid) -> Value {
    let sql = "SELECT jsonb_build_array(state, attempts, last_status)
               FROM meshhook.subscription_deliveries WHERE run_id = $1";
    session.value(sql, &[&run])
}

#[track_caller]
fn status(session: &mut Session, subscription: &str) -> String {
    let sql = "SELECT status || coalesce(': ' || disabled_reason, '') FROM meshhook.subscriptions WHERE subscription = $1";
    session.value(sql, &[&subscription])
}

/// A cluster whose clock is the test's, and whose turns are its own too.
fn cluster() -> Cluster {
    prepare(Cluster::builder().fast().clock(true).start())
}

/// Takes turns until none is left to take.
#[track_caller]
fn turn(session: &mut Session) {
    let ends = (0..100).any(|_| session.value::<i32>("SELECT meshhook.tick()", &[]) == 0);
    assert!(ends, "turns without an end");
}

/// The one attempt that is due now.
#[track_caller]
fn attempt(app: &mut Session, executor: &mut Session) -> Job {
    turn(app);
    let mut due = claim(executor, "http", 10, "60 s");
    assert_eq!(due.len(), 1, "one attempt is due");
    due.remove(0)
}

/// The receiver answers.
#[track_caller]
fn answer(app: &mut Session, executor: &mut Session, job: &Job, output: &Value) {
    assert_eq!(complete(executor, job, output), "accepted");
    turn(app);
}

#[test]
fn an_event_reaches_each_that_wants_it_until_it_has_it() {
    let db = Database::preloaded("fan_out");
    let (mut app, mut admin) = (db.app(), db.admin());
    let keys = keys();
    let _sidecar = db.sidecar().env("MESHHOOK_SECRET_KEYS", &keys.path().display().to_string()).start();
    let [first, second, third] = [
        "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "bm90IHRoZSBvbmUgYW5kIG9ubHkga2V5",
    ]
    .map(|key| format!("whsec_{key}"));
    for (name, value) in [("of_all", first.clone()), ("of_paid", format!("{second} {third}"))] {
        let sealed = seal(keys.path(), "default", name, &value);
        app.rows("SELECT meshhook.set_secret($1, $2)", &[&name, &sealed]);
    }
    let stub = Stub::start();
    for path in ["/all", "/paid", "/orders"] {
        stub.script(path, [Reply::status(204)]);
    }
    stub.script(
        "/paid",
        [Reply::json(500, &json!("down")), Reply::json(404, &json!("not yet")), Reply::status(200)],
    );
    subscribe(&mut app, "all", &stub.url("/all"), &["*"]);
    subscribe(&mut app, "paid", &stub.url("/paid"), &["invoice.paid", "invoice.void"]);
    subscribe(&mut app, "orders", &stub.url("/orders"), &["order.*"]);
    app.exec("SELECT meshhook.alter_subscription('all', secret => 'of_all'), meshhook.alter_subscription('paid', secret => 'of_paid')");
    // Sooner than receivers would like it.
    admin.exec("UPDATE meshhook.workflow_version SET definition = jsonb_set(definition, '{vars,schedule}', '[100, 100]')");

    let data = json!({"total": 1.50, "text": "ü"});
    let runs = event(&mut app, "invoice.paid", &data, None);
    let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["all", "paid"]);
    for (name, run) in &runs {
        assert_eq!(ended(&mut admin, *run).status, "succeeded", "{name}");
    }
    assert_eq!(delivery(&mut app, runs[0].1), json!(["delivered", 1, 204]));
    assert_eq!(delivery(&mut app, runs[1].1), json!(["delivered", 3, 200]));
    let failing = "SELECT count(*) FROM meshhook.subscriptions WHERE failing_since IS NOT NULL";
    assert_eq!(counted(&mut app, failing), 0, "a success ends the failing");
    assert!(stub.received_at("/orders").is_empty());

    let sent = stub.received();
    let ids: BTreeSet<_> =
        sent.iter().map(|request| request.header("webhook-id").map(str::to_owned)).collect();
    assert_eq!((sent.len(), ids.len()), (4, 1), "one event has one id, whoever it goes to and how often");
    let body = sent[0].json();
    assert_eq!((&body["type"], &body["data"]), (&json!("invoice.paid"), &data));
    assert!(sent.iter().all(|request| request.json() == body && request.method == "POST"));
    assert!(body["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{body}");

    check_signature(&stub.received_at("/all")[0], &first);
    for request in stub.received_at("/paid") {
        // A receiver that changes keys knows either.
        check_signature(&request, &second);
        check_signature(&request, &third);
    }

    let unsigned = event(&mut app, "order.paid.twice", &json!({}), None);
    assert_eq!(unsigned.len(), 2, "a prefix is of any depth");
    assert_eq!(ended(&mut admin, unsigned[1].1).status, "succeeded");
    let request = &stub.received_at("/orders")[0];
    assert!(request.header("webhook-id").is_some() && request.header("webhook-signature").is_none());
    assert_eq!(event(&mut app, "order", &json!({}), None).len(), 1);
    assert_eq!(event(&mut app, "orders.paid", &json!({}), None).len(), 1);
}

#[test]
fn attempts_follow_the_schedule_and_what_is_given_up_can_be_replayed() {
    let cluster = cluster();
    let db = Database::create(&cluster, "schedule");
    let (mut app, mut executor) = (db.app(), db.executor());
    subscribe(&mut app, "slow", "http://slow.test/", &["*"]);
    let run = event(&mut app, "a.b", &json!({"n": 1}), None)[0].1;
    let mut now = 0;
    let next = "SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8
                FROM meshhook.subscription_deliveries WHERE run_id = $1";
    let mut ids = BTreeSet::new();
    for (count, wait) in SCHEDULE.into_iter().enumerate() {
        let job = attempt(&mut app, &mut executor);
        ids.insert(job.payload["headers"]["webhook-id"].to_string());
        // Whatever is no success is tried again: by the schedule, or later where the receiver says so.
        let (output, wait) = match count {
            1 => (json!({"status": 429, "retry_after_ms": 900_000}), 900),
            2 => (json!({"status": 404}), wait),
            3 => (json!({"status": 302, "headers": {"location": "http://elsewhere.test/"}}), wait),
            4 => (json!({"status": 503, "retry_after_ms": 1_000}), wait),
            _ => (json!({"status": 500, "body": "no"}), wait),
        };
        answer(&mut app, &mut executor, &job, &output);
        let left: f64 = app.value(next, &[&run]);
        assert!((left - wait as f64).abs() < 5.0, "attempt {} is in {left} s, not {wait}", count + 2);
        now += wait - 5;
        cluster.shift_clock(now);
        turn(&mut app);
        assert!(claim(&mut executor, "http", 1, "60 s").is_empty() || wait == 5, "nothing comes too early");
        now += 6;
        cluster.shift_clock(now);
    }
    assert_eq!(delivery(&mut app, run), json!(["pending", 9, 500]));
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &json!({"status": 500}));
    assert_eq!(delivery(&mut app, run), json!(["failed", 10, 500]));
    let gave_up = ended(&mut db.admin(), run);
    let reason = gave_up.error.as_ref().and_then(|error| error["message"].as_str().map(str::to_owned));
    assert_eq!(reason.as_deref(), Some("every attempt failed, the last one so: the server answered 500"));

    let replay: Uuid = app.value("SELECT meshhook.replay_delivery($1)", &[&run]);
    let again = app.error("SELECT meshhook.replay_delivery($1)", &[&replay]);
    assert_eq!(again.code().code(), "55000", "{again:?}");
    let failed = "SELECT meshhook.replay_failed('slow', now() - interval '30 days')";
    assert_eq!(app.value::<i64>(failed, &[]), 0, "it is being replayed");
    let job = attempt(&mut app, &mut executor);
    ids.insert(job.payload["headers"]["webhook-id"].to_string());
    answer(&mut app, &mut executor, &job, &json!({"status": 200}));
    assert_eq!(delivery(&mut app, replay), json!(["delivered", 1, 200]));
    assert_eq!(app.value::<i64>(failed, &[]), 0, "it has been delivered");
    assert_eq!(ids.len(), 1, "a replay is the same message");
    history::check_all(&mut db.admin());
}

#[test]
fn one_that_fails_for_too_long_or_is_gone_is_disabled() {
    let cluster = cluster();
    let db = Database::create(&cluster, "disabled");
    let (mut app, mut admin, mut executor) = (db.app(), db.admin(), db.executor());
    subscribe(&mut app, "weak", "http://weak.test/", &["*"]);
    app.exec("SELECT meshhook.alter_subscription('weak', disable_after => '1 hour')");
    let first = event(&mut app, "a", &json!({}), None)[0].1;
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &json!({"status": 500}));
    let since = "SELECT failing_since IS NOT NULL FROM meshhook.subscriptions";
    assert!(app.value::<bool>(since, &[]));

    // A success of another delivery begins the count anew.
    let second = event(&mut app, "a", &json!({}), None)[0].1;
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &json!({"status": 200}));
    assert_eq!(ended(&mut admin, second).status, "succeeded");
    assert!(!app.value::<bool>(since, &[]));
    let hour = 3_600;
    cluster.shift_clock(hour + 60);
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &json!({"status": 500}));
    assert_eq!(status(&mut app, "weak"), "active", "it has failed for a moment only");

    cluster.shift_clock(3 * hour);
    let third = event(&mut app, "a", &json!({}), None)[0].1;
    turn(&mut app);
    let jobs = claim(&mut executor, "http", 10, "60 s");
    assert_eq!(jobs.len(), 2);
    answer(&mut app, &mut executor, &jobs[0], &json!({"status": 500}));
    assert!(status(&mut app, "weak").starts_with("disabled: every attempt has failed since 20"));
    // The one in flight may still arrive; what waits is not tried any more, and nothing new comes.
    answer(&mut app, &mut executor, &jobs[1], &json!({"status": 200}));
    assert!(event(&mut app, "a", &json!({}), None).is_empty());
    let states: BTreeSet<String> = [first, third].map(|run| ended(&mut admin, run).status).into();
    assert_eq!(states, ["failed", "succeeded"].map(str::to_owned).into());
    assert!(
        app.error("SELECT meshhook.replay_failed('weak', '-infinity')", &[])
            .message()
            .contains("is disabled")
    );
    assert!(app.value::<bool>("SELECT meshhook.enable_subscription('weak')", &[]));
    assert!(!app.value::<bool>("SELECT meshhook.enable_subscription('weak')", &[]));
    let failed = "SELECT meshhook.replay_failed('weak', now() - interval '1 day')";
    assert_eq!(app.value::<i64>(failed, &[]), 1);

    // What waits when a receiver says 410 ends with its next attempt.
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &json!({"status": 503}));
    let last = event(&mut app, "a", &json!({}), None)[0].1;
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &json!({"status": 410}));
    assert_eq!(status(&mut app, "weak"), "disabled: the receiver answered 410 Gone");
    assert_eq!(delivery(&mut app, last), json!(["failed", 1, 410]));
    let waiting: Uuid =
        app.value("SELECT run_id FROM meshhook.subscription_deliveries WHERE state = 'pending'", &[]);
    cluster.shift_clock(3 * hour + 60);
    turn(&mut app);
    assert_eq!(ended(&mut admin, waiting).status, "canceled");
    let acts = "SELECT action FROM meshhook.audit_log WHERE action IN ('subscription.disabled', 'subscription.enabled')
                ORDER BY at";
    assert_eq!(admin.values::<String>(acts, &[]).len(), 3);
    history::check_all(&mut admin);
}

/// When a subscription began to fail, in seconds since 1970.
#[track_caller]
fn failing_since(session: &mut Session, subscription: &str) -> Option<f64> {
    let sql = "SELECT extract(epoch FROM failing_since)::float8 FROM meshhook.subscriptions WHERE subscription = $1";
    session.value(sql, &[&subscription])
}

#[test]
fn what_was_sent_before_the_count_began_anew_counts_for_nothing() {
    let cluster = cluster();
    let db = Database::create(&cluster, "late_answers");
    let (mut app, mut executor) = (db.app(), db.executor());
    let (gone, down, good) = (json!({"status": 410}), json!({"status": 500}), json!({"status": 200}));
    let alter = |app: &mut Session, url: &str| {
        app.rows("SELECT meshhook.alter_subscription('moves', url => $1)", &[&url]);
    };
    subscribe(&mut app, "moves", "http://old.test/", &["*"]);
    let run = event(&mut app, "a", &json!({}), None)[0].1;
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &down);
    let since = failing_since(&mut app, "moves");
    assert!(since.is_some());
    alter(&mut app, "http://old.test/");
    assert_eq!(failing_since(&mut app, "moves"), since, "the same URL is nothing new");

    cluster.shift_clock(10);
    let late = attempt(&mut app, &mut executor);
    alter(&mut app, "http://new.test/");
    assert_eq!(failing_since(&mut app, "moves"), None, "the new one has not failed yet");
    answer(&mut app, &mut executor, &late, &gone);
    assert_eq!((status(&mut app, "moves"), failing_since(&mut app, "moves")), ("active".into(), None));
    assert_eq!(delivery(&mut app, run), json!(["pending", 2, 410]), "it goes on at the new URL");

    cluster.shift_clock(1_000);
    let late = attempt(&mut app, &mut executor);
    assert_eq!(late.payload["url"], "http://new.test/");
    alter(&mut app, "http://third.test/");
    event(&mut app, "a", &json!({}), None);
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &down);
    let since = failing_since(&mut app, "moves");
    assert!(since.is_some());
    answer(&mut app, &mut executor, &late, &good);
    assert_eq!(delivery(&mut app, run), json!(["delivered", 3, 200]));
    assert_eq!(failing_since(&mut app, "moves"), since, "a success of the one before is none of this one");

    // Gone is gone; a new URL enables nothing, enabling does.
    cluster.shift_clock(2_000);
    let job = attempt(&mut app, &mut executor);
    event(&mut app, "a", &json!({}), None);
    let late = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &gone);
    alter(&mut app, "http://fourth.test/");
    assert_eq!(status(&mut app, "moves"), "disabled: the receiver answered 410 Gone");
    assert_eq!(failing_since(&mut app, "moves"), None);
    assert!(event(&mut app, "a", &json!({}), None).is_empty());
    assert!(app.value::<bool>("SELECT meshhook.enable_subscription('moves')", &[]));
    answer(&mut app, &mut executor, &late, &gone);
    assert_eq!((status(&mut app, "moves"), failing_since(&mut app, "moves")), ("active".into(), None));
    history::check_all(&mut db.admin());
}

#[test]
fn silence_is_no_failing() {
    let cluster = cluster();
    let db = Database::create(&cluster, "silence");
    let (mut app, mut admin, mut executor) = (db.app(), db.admin(), db.executor());
    let down = json!({"status": 503});
    subscribe(&mut app, "rare", "http://rare.test/", &["*"]);
    app.exec("SELECT meshhook.alter_subscription('rare', disable_after => '30 hours')");
    let hours = |count: i64| count * 3_600;
    let given_up = event(&mut app, "a", &json!({}), None)[0].1;
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &down);
    let since = failing_since(&mut app, "rare");
    app.rows("SELECT meshhook.kill_run($1)", &[&given_up]);

    // Two quiet days, and all that is known of them is nothing.
    cluster.shift_clock(hours(48));
    let run = event(&mut app, "a", &json!({}), None)[0].1;
    let job = attempt(&mut app, &mut executor);
    answer(&mut app, &mut executor, &job, &down);
    assert_eq!(status(&mut app, "rare"), "active");
    assert_eq!(failing_since(&mut app, "rare"), since, "nothing has reached it since");
    // Twenty hours of failing, two quiet days once more, and eleven hours.
    for (at, state) in [(68, "active"), (116, "active"), (127, "disabled: every attempt has failed since 20")]
    {
        cluster.shift_clock(hours(at));
        let job = attempt(&mut app, &mut executor);
        answer(&mut app, &mut executor, &job, &down);
        assert!(status(&mut app, "rare").starts_with(state), "{at}: {}", status(&mut app, "rare"));
    }
    assert_eq!(ended(&mut admin, run).status, "failed");
    assert!(app.value::<bool>("SELECT meshhook.enable_subscription('rare')", &[]));
    let silence = "SELECT count(*) FROM meshhook.subscription WHERE silence > '0'";
    assert_eq!(
        counted(&mut admin, silence),
        0,
        "what was taken out of one count is not taken out of the next"
    );
}

#[test]
fn what_fails_here_is_not_the_receivers_failure() {
    let cluster = cluster();
    let db = Database::create(&cluster, "own_faults");
    let (mut app, mut executor) = (db.app(), db.executor());
    subscribe(&mut app, "blameless", "http://blameless.test/", &["*"]);
    app.exec("SELECT meshhook.alter_subscription('blameless', disable_after => '1 hour')");
    for (count, class) in
        ["secret", "forbidden", "invalid_request", "response_rejected"].into_iter().enumerate()
    {
        cluster.shift_clock(7_200 * count as i64);
        let run = event(&mut app, "a", &json!({}), None)[0].1;
        let job = attempt(&mut app, &mut executor);
        assert_eq!(fail(&mut executor, &job, &json!({"class": class, "message": "ours"})), "accepted");
        turn(&mut app);
        assert_eq!(delivery(&mut app, run), json!(["pending", 1, null]), "{class}: it is tried again");
        assert_eq!(failing_since(&mut app, "blameless"), None, "{class}");
        app.rows("SELECT meshhook.kill_run($1)", &[&run]);
    }
    for class in ["dns", "connect", "tls", "timeout", "io", "response_too_large", "redirect"] {
        app.rows("SELECT meshhook.enable_subscription('blameless')", &[]);
        let run = event(&mut app, "a", &json!({}), None)[0].1;
        let job = attempt(&mut app, &mut executor);
        assert_eq!(fail(&mut executor, &job, &json!({"class": class, "message": "theirs"})), "accepted");
        turn(&mut app);
        assert!(failing_since(&mut app, "blameless").is_some(), "{class}");
        app.rows("SELECT meshhook.kill_run($1)", &[&run]);
    }
    assert_eq!(status(&mut app, "blameless"), "active");
}

#[test]
fn the_largest_event_that_is_taken_is_delivered() {
    let db = Database::preloaded("largest_event");
    let (mut app, mut admin) = (db.app(), db.admin());
    let stub = Stub::start();
    stub.script("/", [Reply::status(200)]);
    let _sidecar = db.sidecar().start();
    subscribe(&mut app, "all", &stub.url("/"), &["*"]);
    let refused = |app: &mut Session, data: &Value| {
        let error = app.error("SELECT meshhook.publish_event('a', $1)", &[data]);
        assert_eq!(error.code().code(), "54000", "{error:?}");
        (error.message().to_owned(), error.detail().unwrap_or_default().to_owned())
    };
    let delivered = |app: &mut Session, admin: &mut Session, data: &Value| {
        let run = event(app, "a", data, None)[0].1;
        let end = ended(admin, run);
        assert_eq!(end.status, "succeeded", "{:?}", end.error);
        let sent = stub.received();
        assert_eq!(&sent[sent.len() - 1].json()["data"], data);
    };
    // The shortest type, the time, and what is between them take 64 bytes.
    let largest = (1 << 20) - 64;
    let (message, detail) = refused(&mut app, &json!("x".repeat(largest + 1)));
    assert_eq!(message, "the event is too large");
    assert!(detail.contains("has 1048577 bytes; the limit is 1048576"), "{detail}");
    delivered(&mut app, &mut admin, &json!("x".repeat(largest)));
    // Six bytes each on the wire.
    delivered(&mut app, &mut admin, &json!("\u{1}".repeat(largest)));

    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(refused(&mut app, &nested(100)).0, "the event is nested too deep");
    delivered(&mut app, &mut admin, &nested(99));
}

#[test]
fn a_row_that_somebody_holds_delays_the_account_and_nothing_else() {
    let cluster = cluster();
    let db = Database::create(&cluster, "held_subscription");
    let (mut app, mut executor) = (db.app(), db.executor());
    subscribe(&mut app, "held", "http://held.test/", &["*"]);
    let run = event(&mut app, "a", &json!({}), None)[0].1;
    let job = attempt(&mut app, &mut executor);
    let mut other = db.app();
    other.exec("BEGIN");
    other.exec("SELECT meshhook.alter_subscription('held', disable_after => '1 day')");
    // A turn that waited would wait for ever.
    answer(&mut app, &mut executor, &job, &json!({"status": 500}));
    other.exec("COMMIT");
    wait_for("the failure to be accounted for", SOON, || {
        turn(&mut app);
        app.value::<bool>("SELECT failing_since IS NOT NULL FROM meshhook.subscriptions", &[])
    });
    cluster.shift_clock(10);
    let job = attempt(&mut app, &mut executor);
    assert_eq!(job.payload["url"], "http://held.test/");
    answer(&mut app, &mut executor, &job, &json!({"status": 200}));
    assert_eq!(delivery(&mut app, run), json!(["delivered", 2, 200]));
}

#[test]
fn under_one_key_an_event_is_published_once() {
    let db = Database::plain("published_once");
    let mut app = db.app();
    subscribe(&mut app, "one", "http://one.test/", &["*"]);
    let first = event(&mut app, "a", &json!({"n": 1}), Some("k"));
    assert_eq!(event(&mut app, "a", &json!({"n": 2}), Some("k")), first);
    subscribe(&mut app, "two", "http://two.test/", &["*"]);
    let both = event(&mut app, "a", &json!({"n": 1}), Some("k"));
    assert_eq!((both.len(), &both[0]), (2, &first[0]), "who came later gets it too");
    let ids = "SELECT count(DISTINCT webhook_id) FROM meshhook.subscription_deliveries";
    assert_eq!(counted(&mut app, ids), 1, "a key is one message");
    app.exec("BEGIN");
    assert_eq!(event(&mut app, "a", &json!({}), None).len(), 2);
    app.exec("ROLLBACK");
    assert_eq!(counted(&mut app, "SELECT count(*) FROM meshhook.subscription_deliveries"), 2);
}

#[test]
fn tenants_have_subscriptions_and_events_of_their_own() {
    let db = Database::preloaded("tenants_deliveries");
    let (mut alice, mut bob) = db.two_projects();
    let stub = Stub::start();
    stub.script("/alice", [Reply::status(200)]);
    let _sidecar = db.sidecar().start();
    subscribe(&mut alice, "mine", &stub.url("/alice"), &["*"]);
    assert!(event(&mut bob, "a", &json!({}), None).is_empty());
    subscribe(&mut bob, "his", "http://127.0.0.1:1/", &["b"]);
    let hers = event(&mut alice, "a", &json!({}), None)[0].1;
    for sql in [
        "SELECT meshhook.alter_subscription('mine', url => 'http://bob.test/')",
        "SELECT meshhook.drop_subscription('mine')",
        "SELECT meshhook.disable_subscription('mine')",
        "SELECT meshhook.enable_subscription('mine')",
        "SELECT meshhook.replay_failed('mine', now())",
    ] {
        assert_eq!(bob.error(sql, &[]).code().code(), "42704", "{sql}");
    }
    assert_eq!(bob.error("SELECT meshhook.replay_delivery($1)", &[&hers]).code().code(), "P0002");
    assert_eq!(bob.values::<String>("SELECT subscription FROM meshhook.subscriptions", &[]), ["his"]);
    assert_eq!(counted(&mut bob, "SELECT count(*) FROM meshhook.subscription_deliveries"), 0);
    assert_eq!(counted(&mut bob, "SELECT count(*) FROM meshhook.subscription_event"), 1);
    assert_eq!(ended(&mut alice, hers).status, "succeeded");
    for inner in ["delivery_target", "delivery_failed", "delivery_succeeded"] {
        let error = bob.error(&format!("SELECT meshhook.{inner}('{{}}')"), &[]);
        assert_eq!(error.code().code(), "42501", "{inner}");
    }

    // A workflow publishes in its own project.
    publish(
        &mut alice,
        &json!({"name": "fan", "nodes": [{"id": "out", "type": "sql", "with": {
        "function": "meshhook.publish_event", "input": {"type": "order.made", "data": "{{ .input }}"}}}]}),
    );
    let run = start(&mut alice, "fan", &json!({"n": 7}));
    let output = ended(&mut alice, run).output.expect("an output");
    assert_eq!(output["deliveries"][0]["subscription"], "mine", "{output}");
    let sent = stub.wait_received("/alice", 2, SOON);
    assert_eq!(sent[1].json()["data"], json!({"n": 7}));
}

#[test]
fn a_sidecar_killed_in_a_fan_out_loses_nothing() {
    let db = Database::preloaded("killed_fan_out");
    let (mut app, mut admin) = (db.app(), db.admin());
    let stub = Stub::start();
    let gate = Gate::new();
    for n in 0..100 {
        let path = format!("/{n}");
        let (held, free) = (Reply::status(200).behind(&gate), Reply::status(200));
        // Some are in flight when it dies.
        stub.script(&path, if n % 5 == 0 { vec![held, free] } else { vec![free] });
        subscribe(&mut app, &path, &stub.url(&path), &["*"]);
    }
    let first = db.sidecar().env("MESHHOOK_LEASE", "2s").start();
    let runs = event(&mut app, "a", &json!({}), None);
    assert_eq!(runs.len(), 100);
    wait_for("a part to be delivered", SOON, || stub.received().len() > 20);
    first.kill9();
    let _second = db.sidecar().env("MESHHOOK_LEASE", "2s").start();
    for (name, run) in &runs {
        wait_status(&mut admin, *run, &["succeeded"], PATIENCE);
        assert!(!stub.received_at(name).is_empty(), "{name}");
    }
    gate.open();
    let failing = "SELECT count(*) FROM meshhook.subscriptions WHERE failing_since IS NOT NULL";
    assert_eq!(counted(&mut app, failing), 0, "a sidecar that dies is not the receiver's failure");
    history::check_all(&mut admin);
}
