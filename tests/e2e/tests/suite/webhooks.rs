//! The main job: a signed webhook becomes one finished run, and nothing else becomes any.

use meshhook_e2e::{Database, SOON, all_succeeded, counted, ended, publish, quick, run_id, timeline};
use meshhook_testkit::sign::{self, unix_now};
use meshhook_testkit::wait::wait_some;
use meshhook_testkit::{Reply, Response, Sidecar, Stub, history, request};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::time::Duration;
use uuid::Uuid;

/// A secret that no endpoint has.
const WRONG: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Charges an order over HTTP, decides by its amount, and says what became of it.
fn order(url: &str) -> Value {
    json!({
        "name": "order",
        "nodes": [
            {"id": "charge", "type": "http", "retry": quick(5), "timeout": "5s",
             "with": {"method": "POST", "url": url, "headers": {"x-shop": "e2e"}, "query": {"order": "{{ .input.id }}"},
                      "body": {"amount": "{{ .input.amount }}"}}},
            {"id": "size", "type": "branch",
             "with": {"cases": [{"port": "big", "when": ".input.amount > 100"}], "default": "small"}},
            {"id": "review", "type": "transform", "with": {"output": {"review": "{{ .nodes.charge.output.body.id }}"}}},
            {"id": "ship", "type": "transform", "with": {"output": {"ship": "{{ .nodes.charge.output.body.id }}"}}}
        ],
        "edges": [
            {"from": "charge", "to": "size"},
            {"from": "size", "port": "big", "to": "review"},
            {"from": "size", "port": "small", "to": "ship"}
        ]
    })
}

#[test]
fn a_signed_webhook_becomes_one_finished_run() {
    let db = Database::preloaded("main_job");
    let stub = Stub::start();
    stub.script(
        "/charge",
        [Reply::status(503), Reply::status(503), Reply::json(200, &json!({"id": "ch_1"}))],
    );
    publish(&mut db.app(), &order(&stub.url("/charge")));
    let (path, secret) = db.endpoint("order", "standard");
    let sidecar = db.sidecar().start();

    let body = br#"{"id": 7, "amount": 120}"#;
    let answer = sidecar.post(&path, &sign::standard(&secret, "msg_1", unix_now(), body), body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = run_id(&answer);

    let mut admin = db.admin();
    let done = ended(&mut admin, id);
    assert_eq!(done.status, "succeeded", "{done:?}");
    assert_eq!(done.output, Some(json!({"review": {"review": "ch_1"}})));
    let expected = [
        ("run.started", "", 0),
        ("node.scheduled", "charge", 1),
        ("node.retry_scheduled", "charge", 1),
        ("node.scheduled", "charge", 2),
        ("node.retry_scheduled", "charge", 2),
        ("node.scheduled", "charge", 3),
        ("node.succeeded", "charge", 3),
        ("node.succeeded", "size", 0),
        ("node.succeeded", "review", 0),
        ("node.skipped", "ship", 0),
        ("run.succeeded", "", 0),
    ];
    let found = timeline(&mut admin, id);
    let found: Vec<_> =
        found.iter().map(|(kind, node, attempt)| (kind.as_str(), node.as_str(), *attempt)).collect();
    assert_eq!(found, expected);

    let calls = stub.received_at("/charge");
    assert_eq!(calls.len(), 3);
    for call in &calls {
        assert_eq!(call.method, "POST");
        assert_eq!(call.query, "order=7");
        assert_eq!(call.header("x-shop"), Some("e2e"));
        assert_eq!(call.json(), json!({"amount": 120}));
        assert_eq!(call.idempotency_key(), format!("{id}/charge"));
    }
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);
    sidecar.terminate();
}

#[test]
fn twenty_deliveries_at_once_are_one_run() {
    let db = Database::preloaded("twenty");
    publish(&mut db.app(), &echo());
    let (path, secret) = db.endpoint("echo", "standard");
    let sidecar = db.sidecar().start();
    let body = br#"{"n": 1}"#;
    let headers = sign::standard(&secret, "msg_same", unix_now(), body);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..20).map(|_| scope.spawn(|| sidecar.post(&path, &headers, body))).collect();
        posts.into_iter().map(|post| post.join().expect("a post does not panic")).collect()
    });
    let fresh: Vec<_> = answers.iter().filter(|answer| answer.status == 202).collect();
    assert_eq!(fresh.len(), 1, "one delivery is the first");
    let repeats = answers.iter().filter(|answer| answer.status == 200);
    assert_eq!(repeats.filter(|answer| answer.json()["duplicate"] == json!(true)).count(), 19);
    assert_eq!(answers.iter().map(run_id).collect::<BTreeSet<_>>().len(), 1);
    let mut admin = db.admin();
    assert_eq!(ended(&mut admin, run_id(fresh[0])).output, Some(json!({"n": 1})));
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);

    // The delivery's id is what counts, not its body or its time.
    let again = sign::standard(&secret, "msg_other", unix_now(), body);
    assert_eq!(sidecar.post(&path, &again, body).status, 202);
}

/// A workflow that does nothing but end.
fn echo() -> Value {
    json!({"name": "echo", "nodes": [{"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]})
}

/// Delivers events, each with its id, at once, each by a sender of its own who comes again while it is told to.
pub fn storm(sidecar: &Sidecar, path: &str, secret: &str, events: &[(String, Value)]) -> Vec<Response> {
    let start = Barrier::new(events.len());
    std::thread::scope(|scope| {
        let send = |(id, event): &(String, Value)| {
            let body = event.to_string().into_bytes();
            let headers = sign::standard(secret, id, unix_now(), &body);
            start.wait();
            wait_some("an answer", SOON, || {
                let answer = sidecar.post(path, &headers, &body);
                (answer.status != 503).then_some(answer)
            })
        };
        let senders: Vec<_> = events.iter().map(|event| scope.spawn(move || send(event))).collect();
        senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
    })
}

/// So many deliveries of so many events.
fn numbered(deliveries: usize, events: usize) -> Vec<(String, Value)> {
    (0..deliveries).map(|n| (format!("msg_{}", n % events), json!({"n": n % events}))).collect()
}

#[test]
fn a_thousand_deliveries_of_a_hundred_events_are_a_hundred_runs() {
    let db = Database::preloaded("thousand");
    publish(&mut db.app(), &echo());
    let (path, secret) = db.endpoint("echo", "standard");
    let sidecar = db.sidecar().start();
    let answers = storm(&sidecar, &path, &secret, &numbered(1_000, 100));
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 100);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 900);
    let mut runs: BTreeMap<usize, BTreeSet<Uuid>> = BTreeMap::new();
    for (n, answer) in answers.iter().enumerate() {
        runs.entry(n % 100).or_default().insert(run_id(answer));
    }
    assert!(runs.values().all(|runs| runs.len() == 1), "every answer names its event's run");
    let mut admin = db.admin();
    all_succeeded(&mut admin, 100, SOON);
    assert_eq!(counted(&mut admin, "SELECT count(DISTINCT input) FROM meshhook.runs"), 100);
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 100);
}

#[test]
fn one_delivery_too_many_is_told_when_to_come_again() {
    let db = Database::preloaded("rate");
    publish(&mut db.app(), &echo());
    let (path, secret) = db.endpoint("echo", "standard");
    db.admin().exec("SELECT meshhook.set_endpoint_rate(endpoint, 20, '1 hour') FROM meshhook.endpoints");
    let sidecar = db.sidecar().start();
    // Over all of its connections together.
    let answers = storm(&sidecar, &path, &secret, &numbered(200, 200));
    let (taken, told): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 202);
    assert_eq!(taken.len(), 20);
    let left: BTreeSet<_> = taken.iter().map(|answer| answer.header("ratelimit").map(left)).collect();
    assert_eq!(left, (0..20).map(Some).collect(), "every place was given once");
    for answer in told {
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"endpoint\";q=20;w=3600"));
        let seconds: u32 =
            answer.header("retry-after").and_then(|value| value.parse().ok()).expect("seconds");
        assert!((170..=180).contains(&seconds), "{seconds}");
    }
    // Whoever cannot prove who they are is not counted, and told nothing.
    let guess = sidecar.post(&path, &sign::standard(WRONG, "msg_x", unix_now(), b"{}"), b"{}");
    assert_eq!((guess.status, guess.header("ratelimit")), (401, None));
    let mut admin = db.admin();
    all_succeeded(&mut admin, 20, SOON);
    assert_eq!(
        counted(&mut admin, "SELECT count(*) FROM meshhook.delivery WHERE reason = 'rate of the endpoint'"),
        180
    );
}

#[test]
fn an_event_that_is_not_wanted_is_answered_with_nothing() {
    let db = Database::preloaded("filtered");
    publish(&mut db.app(), &echo());
    let made = db.admin().rows(
        "SELECT path, secret FROM meshhook.create_endpoint('echo', 'github', filter => $1)",
        &[&r#".headers["x-github-event"] == "push" and (.query == "deploy=1")"#],
    );
    let (path, secret): (String, String) = (made[0].get(0), made[0].get(1));
    let sidecar = db.sidecar().start();
    let send = |event: &str, query: &str, body: &[u8]| {
        sidecar.post(&format!("{path}{query}"), &sign::github_event(&secret, "d", event, body), body)
    };
    for (event, query) in [("ping", "?deploy=1"), ("push", "?deploy=0"), ("push", "")] {
        let answer = send(event, query, b"{}");
        assert_eq!((answer.status, answer.body.len(), answer.header("content-type")), (204, 0, None));
    }
    assert_eq!(send("push", "?deploy=1", b"{}").status, 202);
    let mut admin = db.admin();
    all_succeeded(&mut admin, 1, SOON);
    assert_eq!(
        counted(&mut admin, "SELECT count(*) FROM meshhook.delivery WHERE reason = 'filtered out'"),
        3
    );
}

/// How many a `ratelimit` header leaves.
fn left(header: &str) -> u32 {
    let item = header.split(';').find_map(|part| part.strip_prefix("r="));
    item.and_then(|left| left.parse().ok()).expect("a number that are left")
}

#[test]
fn a_delivery_nobody_signed_starts_nothing() {
    let db = Database::preloaded("unsigned");
    publish(&mut db.app(), &echo());
    let (path, secret) = db.endpoint("echo", "standard");
    let sidecar = db.sidecar().start();
    let body = b"{}";
    let now = unix_now();
    let post = |headers: &[(String, String)], body: &[u8]| sidecar.post(&path, headers, body).status;
    let good = sign::standard(&secret, "m1", now, body);
    let foreign = sign::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "m1", now, body);
    let json_only = [("content-type".to_owned(), "application/json".to_owned())];
    assert_eq!(post(&json_only, body), 401, "no signature");
    assert_eq!(post(&foreign, body), 401, "another's secret");
    assert_eq!(post(&good, b"{\"a\": 1}"), 401, "another body");
    assert_eq!(post(&sign::standard(&secret, "m1", now - 3_600, body), body), 401, "an hour old");
    assert_eq!(post(&sign::standard(&secret, "m1", now + 3_600, body), body), 401, "an hour early");
    let renamed: Vec<_> = good
        .iter()
        .map(|(name, value)| {
            if name == "webhook-id" { (name.clone(), "m2".to_owned()) } else { (name.clone(), value.clone()) }
        })
        .collect();
    assert_eq!(post(&renamed, body), 401, "another id than the signed one");
    let garbage = b"not json";
    assert_eq!(post(&sign::standard(&secret, "m3", now, garbage), garbage), 400, "signed, but no JSON");
    let nowhere = sidecar.post("/hooks/00000000-0000-0000-0000-000000000000", &good, body);
    assert_eq!(nowhere.status, 404);
    assert_eq!(sidecar.get(&path).expect("an answer").status, 405);
    let mut admin = db.admin();
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 0);
    assert_eq!(post(&good, body), 202, "and the right one still works");
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);
}

#[test]
fn github_signs_differently_and_gets_the_same() {
    let db = Database::preloaded("github");
    publish(
        &mut db.app(),
        &json!({"name": "push", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input.ref }}"}}]}),
    );
    let (path, secret) = db.endpoint("push", "github");
    let sidecar = db.sidecar().start();
    let body = br#"{"ref": "refs/heads/main"}"#;
    assert_eq!(sidecar.post(&path, &sign::github("wrong", "d-1", body), body).status, 401);
    let headers = sign::github(&secret, "d-1", body);
    let first = sidecar.post(&path, &headers, body);
    assert_eq!(first.status, 202, "{}", first.text());
    let again = sidecar.post(&path, &headers, body);
    assert_eq!((again.status, run_id(&again)), (200, run_id(&first)));
    assert_eq!(ended(&mut db.admin(), run_id(&first)).output, Some(json!("refs/heads/main")));
}

#[test]
fn a_challenge_comes_back_as_plain_text() {
    let db = Database::preloaded("challenge");
    publish(&mut db.app(), &echo());
    let (path, _) = db.endpoint("echo", "meta");
    let sidecar = db.sidecar().start();
    let ask = |word: &str| {
        let query = format!("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={word}");
        request(sidecar.address(), "GET", &format!("{path}?{query}"), &[], b"").expect("an answer")
    };
    let confirmed = ask(path.trim_start_matches("/hooks/"));
    assert_eq!((confirmed.status, &*confirmed.text()), (200, "1158201444"));
    assert_eq!(confirmed.header("content-type"), Some("text/plain"));
    assert_eq!(ask("guess").status, 405);
    assert_eq!(counted(&mut db.admin(), "SELECT count(*) FROM meshhook.runs"), 0);
}

#[test]
fn a_rotated_secret_is_good_beside_the_old_one_for_a_while() {
    let db = Database::preloaded("rotated");
    publish(&mut db.app(), &echo());
    let (path, old) = db.endpoint("echo", "standard");
    let endpoint = path.rsplit('/').next().unwrap_or_default();
    let mut admin = db.admin();
    let sidecar = db.sidecar().start();
    let body = b"{}";
    let post = |secret: &str, id: &str| {
        sidecar.post(&path, &sign::standard(secret, id, unix_now(), body), body).status
    };
    let new: String = admin.value("SELECT meshhook.rotate_endpoint_secret($1, '1 h')", &[&endpoint]);
    assert_eq!((post(&old, "m1"), post(&new, "m2")), (202, 202));
    let newest: String = admin.value("SELECT meshhook.rotate_endpoint_secret($1, '0 s')", &[&endpoint]);
    assert_eq!((post(&new, "m3"), post(&newest, "m4")), (401, 202));
}

#[test]
fn a_secret_is_nowhere_in_clear() {
    let cluster = meshhook_e2e::own_cluster(true);
    cluster.set("log_statement", "all");
    let db = Database::create(&cluster, "canary");
    publish(&mut db.app(), &echo());
    let (path, secret) = db.endpoint("echo", "standard");
    let sidecar = db.sidecar().start();
    let body = b"{}";
    let headers = sign::standard(&secret, "m1", unix_now(), body);
    let id = run_id(&sidecar.post(&path, &headers, body));
    ended(&mut db.admin(), id);

    let encoded = secret.trim_start_matches("whsec_");
    let kek = std::fs::read_to_string(cluster.kek_file()).expect("the KEK is there");
    let kek = kek.trim().rsplit(':').next().unwrap_or_default();
    for needle in [encoded, kek] {
        assert_eq!(db.places_of(needle, &sidecar), [""; 0]);
    }
    // The search would have found it.
    assert!(db.places_of(&id.to_string(), &sidecar).contains(&"the dump".to_owned()));
}

#[test]
fn nothing_is_verified_without_the_key() {
    let cluster = meshhook_testkit::Cluster::builder().preload(true).kek(true).fast().start();
    let cluster = meshhook_e2e::prepare(cluster);
    let db = Database::create(&cluster, "keyless");
    publish(&mut db.app(), &echo());
    let (path, secret) = db.endpoint("echo", "standard");
    let sidecar = db.sidecar().start();
    let body = b"{}";
    let post = |id: &str| sidecar.post(&path, &sign::standard(&secret, id, unix_now(), body), body).status;
    assert_eq!(post("m1"), 202);
    let kek = cluster.kek_file();
    let away = kek.with_extension("away");
    std::fs::rename(&kek, &away).expect("the KEK can be moved");
    cluster.reload();
    meshhook_testkit::wait_for("deliveries to be refused", SOON, || post("m2") == 503);
    std::fs::rename(&away, &kek).expect("the KEK can be moved back");
    cluster.reload();
    meshhook_testkit::wait_for("deliveries to be taken again", Duration::from_secs(60), || post("m2") != 503);
    let mut admin = db.admin();
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 2);
    meshhook_e2e::all_succeeded(&mut admin, 2, SOON);
    history::check_all(&mut admin);
}
