//! Calls to services that do not behave: each ends as docs/http.md says, with the reason on the event.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use meshhook_e2e::{Database, counted, ended, publish, quick, start, wait_status};
use meshhook_testkit::{NameServer, Reply, Session, Sidecar, Stub, history, process, wait_for};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// A workflow of one call.
fn call(name: &str, with: Value, attempts: i32) -> Value {
    json!({"name": name, "nodes": [
        {"id": "call", "type": "http", "timeout": "1s", "retry": quick(attempts), "with": with}]})
}

/// Publishes, starts, waits for the end: the run's error, and what its attempts failed of as the log has it.
fn outcome(db: &Database, name: &str, with: Value, attempts: i32) -> (Value, Vec<Value>) {
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &call(name, with, attempts));
    let id = start(&mut app, name, &json!({}));
    let run = ended(&mut admin, id);
    let events = history::history(&mut admin, id);
    let told = |kind: &str| matches!(kind, "node.retry_scheduled" | "node.failed");
    let errors = events.iter().filter(|event| told(&event.kind)).map(|event| event.data["error"].clone());
    (run.error.unwrap_or_default(), errors.collect())
}

fn bomb() -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..64 {
        packed.write_all(&[0; 1 << 20]).expect("written to memory");
    }
    packed.finish().expect("written to memory")
}

/// Answers nothing: takes connections and keeps them.
fn mute() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<TcpStream>>());
    format!("http://{address}/")
}

#[test]
fn every_service_that_misbehaves_ends_as_the_policy_says() {
    let db = Database::preloaded("misbehaving");
    let _sidecar = db.sidecar().start();
    let mut stubs = Vec::new();
    // Each a host of its own: one that fails too often is left alone.
    let mut service = |reply: &dyn Fn(&Stub) -> Reply| {
        let stub = Stub::start();
        stub.script("/", [reply(&stub)]);
        let with = json!({"url": stub.url("/"), "redirects": 3});
        stubs.push(stub);
        with
    };
    let text = |body: &[u8]| Reply::bytes(200, "text/plain", body);
    let to = |url: &str| Reply::status(302).header("location", url);
    let pause = Duration::from_millis(50);
    // What the service does, the error's class, what the error says, how many attempts of five there are.
    let header = "before the response began";
    let body = "before the response was complete";
    for (name, with, class, told, attempts) in [
        ("stalls", service(&|_| Reply::status(200).delay(4 * SECOND)), "timeout", header, 5),
        ("drips", service(&|_| text(&[b'x'; 1000]).dripping(pause)), "timeout", body, 5),
        ("promises_more", service(&|_| text(b"short").announcing(1000)), "timeout", body, 5),
        ("closes_mid_body", service(&|_| text(&[b'x'; 1000]).cut_after(500)), "io", "127.0.0.1", 5),
        ("two_lengths", service(&|_| text(b"abc").header("content-length", "4")), "io", "127.0.0.1", 5),
        (
            "bomb",
            service(&|_| text(&bomb()).header("content-encoding", "gzip")),
            "response_too_large",
            "524288",
            1,
        ),
        ("large", service(&|_| text(&vec![b'x'; (512 << 10) + 1])), "response_too_large", "524288", 1),
        ("metadata", service(&|_| to("http://169.254.169.254/latest/")), "forbidden", "169.254.169.254", 1),
        ("private", service(&|_| to("http://[::ffff:10.0.0.1]/")), "forbidden", "a private network", 1),
        ("around", service(&|stub| to(&stub.url("/"))), "redirect", "more than 3 redirects", 1),
        ("answers_500", service(&|_| Reply::status(500)), "http.status", "500", 5),
        ("gone", service(&|_| Reply::status(410)), "http.status", "410", 1),
        ("mute", json!({"url": mute()}), "timeout", header, 5),
        ("wrong_port", json!({"url": "http://127.0.0.1:1/"}), "connect", "127.0.0.1:1", 5),
        ("literal", json!({"url": "http://0x0a000001/"}), "forbidden", "a private network", 1),
        ("other_loopback", json!({"url": "http://127.0.0.2/"}), "forbidden", "this machine", 1),
        ("local", json!({"url": "http://localhost:8080/"}), "forbidden", "localhost", 1),
    ] {
        let (error, failures) = outcome(&db, name, with, 5);
        assert_eq!(error["class"], class, "{name}: {error}");
        assert_eq!(failures.len(), attempts, "{name}: {failures:?}");
        for failure in failures {
            let message = failure["message"].as_str().unwrap_or_default();
            assert!(failure["class"] == class && message.contains(told), "{name}: {failure}");
        }
    }
}

#[test]
fn a_host_that_fails_is_left_alone_and_its_runs_spend_no_attempts_meanwhile() {
    let db = Database::preloaded("left_alone");
    let sidecar = db.sidecar().start();
    let stub = Stub::start();
    stub.script("/", [Reply::bytes(200, "text/plain", "torn").cut_after(1)]);
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &call("down", json!({"url": stub.url("/")}), 100));
    let id = start(&mut app, "down", &json!({}));
    wait_for("the sidecar to leave the host alone", 10 * SECOND, || {
        sidecar.log().contains("does not answer")
    });
    let calls = stub.received().len();
    assert_eq!(calls, 5);
    stub.script("/", [Reply::json(200, &json!("up"))]);
    wait_status(&mut admin, id, &["succeeded"], 40 * SECOND);
    // The one that asked after the pause was the sixth.
    assert_eq!(stub.received().len(), calls + 1);
    history::check_run(&mut admin, id);
}

#[test]
fn a_name_that_turns_to_a_private_address_is_not_followed() {
    let db = Database::preloaded("rebinding");
    let (names, stub) = (NameServer::start(), Stub::start());
    let _sidecar = db.sidecar().env("MESHHOOK_DNS", &names.address().to_string()).start();
    stub.script("/", [Reply::json(200, &json!("outside")).header("connection", "close")]);
    names.set("rebind.example", &[&["127.0.0.1"], &["10.0.0.1"]]);
    let with = json!({"url": format!("http://rebind.example:{}/", stub.address().port())});
    let (error, _) = outcome(&db, "first", with.clone(), 2);
    assert_eq!(error, Value::Null);
    let (error, failures) = outcome(&db, "second", with, 2);
    assert_eq!((&error["class"], failures.len()), (&json!("forbidden"), 1));
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("it leads to no address of the internet"))
    );
    assert_eq!(stub.received().len(), 1);
}

#[test]
fn the_rules_of_a_project_are_its_own_and_are_read_again() {
    let db = Database::preloaded("policy");
    let policy = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(policy.path(), "[projects.default]\nonly = [\"10.0.0.0/8\"]\n").expect("written");
    let sidecar = db.sidecar().env("MESHHOOK_POLICY", &policy.path().display().to_string()).start();
    let stub = Stub::start();
    stub.script("/", [Reply::json(200, &json!("ok"))]);
    let with = json!({"url": stub.url("/")});
    let (error, _) = outcome(&db, "shut", with.clone(), 1);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("not among")), "{error}");

    std::fs::write(policy.path(), "only = 7").expect("written");
    hang_up(&sidecar, "stay as they were");
    let (error, _) = outcome(&db, "still_shut", with.clone(), 1);
    assert_eq!(error["class"], "forbidden");

    std::fs::write(policy.path(), "[projects.default]\nonly = [\"127.0.0.1\"]\n").expect("written");
    hang_up(&sidecar, "read the rules for calls again");
    assert_eq!(outcome(&db, "open", with, 1).0, Value::Null);
}

#[test]
fn a_check_names_projects_that_the_database_does_not_have() {
    let db = Database::preloaded("check");
    let policy = tempfile::NamedTempFile::new().expect("a file");
    let check = |text: &str| {
        std::fs::write(policy.path(), text).expect("written");
        db.sidecar().env("MESHHOOK_POLICY", &policy.path().display().to_string()).check()
    };
    let (is_fine, said) = check("[projects.default]\nonly = []\n");
    assert!(is_fine && said.contains("ok      projects"), "{said}");
    let (is_fine, said) = check("[projects.acme]\n[projects.default]\n[projects.evil]\n");
    assert!(!is_fine && said.contains("does not have for this role: acme, evil"), "{said}");
    assert_eq!(said.matches("FAILED").count(), 1, "{said}");
    db.admin().exec("SELECT meshhook.create_project('acme', 'Acme')");
    let (is_fine, said) = check("[projects.acme]\n");
    assert!(is_fine, "{said}");
    let (is_fine, said) = check("[[hosts]]\nmatch = \"a.example\"\nca = \"missing.pem\"\n");
    assert!(!is_fine && said.contains("FAILED  calls") && said.contains("missing.pem"), "{said}");
}

fn hang_up(sidecar: &Sidecar, logged: &str) {
    process::hang_up(sidecar.pid());
    wait_for("the sidecar to read its rules", 10 * SECOND, || sidecar.log().contains(logged));
}

#[test]
fn a_list_is_followed_over_its_pages() {
    let db = Database::preloaded("pages");
    let _sidecar = db.sidecar().start();
    let stub = Stub::answering(|request| {
        let asked = request.query.split("after=").nth(1).and_then(|number| number.parse::<u64>().ok());
        let page = asked.unwrap_or(0);
        let next = (page < 4).then_some(page + 1);
        Reply::json(200, &json!({"data": [{"n": page * 2}, {"n": page * 2 + 1}], "next": next}))
    });
    let with = |pages: Value| json!({"url": stub.url("/list?n=2"), "pages": pages});
    let all = json!({"by": "cursor", "at": "/next", "query": "after", "items": "/data"});
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &call("all", with(all.clone()), 1));
    let id = start(&mut app, "all", &json!({}));
    let run = ended(&mut admin, id);
    let output = run.output.expect("an output");
    let numbers: Vec<_> =
        output["body"].as_array().expect("a list").iter().map(|item| item["n"].clone()).collect();
    assert_eq!((json!(numbers), &output["pages"]), (json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), &json!(5)));
    let mut short = all;
    short["limit"] = json!(2);
    let (error, _) = outcome(&db, "too_long", with(short), 3);
    assert_eq!(error["class"], "pages");
    assert!(
        error["message"].as_str().is_some_and(|text| text.ends_with("the list has more than 2 pages")),
        "{error}"
    );
}

#[test]
fn what_one_sidecar_finds_out_of_a_host_the_others_know() {
    let db = Database::preloaded("two_sidecars");
    let first = db.sidecar().start();
    let (mut app, mut admin) = (db.app(), db.admin());
    let value = |sidecar: &Sidecar, name: &str| {
        let answer = sidecar.get("/metrics").expect("an answer");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let values = text.lines().filter(|line| line.starts_with(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    // Nobody listens there any more.
    let dead = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    publish(&mut app, &call("dead", json!({"url": format!("http://{dead}/")}), 12));
    let id = start(&mut app, "dead", &json!({}));
    wait_for("the first to tell of the host", 30 * SECOND, || {
        let told = "SELECT 1 FROM meshhook.host_pause WHERE until > now() + interval '4 s'";
        !admin.rows(told, &[]).is_empty()
    });
    let second = db.sidecar().start();
    wait_for("the second to leave it alone", 3 * SECOND, || {
        value(&second, "meshhook_sidecar_hosts_left_alone ") == 1.0
    });
    assert_eq!(value(&second, "meshhook_sidecar_http_calls_total"), 0.0);
    assert_eq!(value(&second, "meshhook_sidecar_executors "), 2.0);
    wait_for("the first to know of the second", 20 * SECOND, || {
        value(&first, "meshhook_sidecar_executors ") == 2.0
    });
    app.rows("SELECT meshhook.kill_run($1, 'seen enough')", &[&id]);
}

#[test]
fn executors_that_meet_do_not_wait_for_what_others_left() {
    let db = Database::plain("meeting");
    let (mut admin, mut executor) = (db.admin(), db.executor());
    let meet = |session: &mut Session| {
        let sql = "SELECT executors FROM meshhook.sync_executor('http', 'b', '{}', '{}', '{}')";
        session.value::<i64>(sql, &[])
    };
    admin.exec(
        "INSERT INTO meshhook.executor VALUES ('http', -1, 'gone', now() - interval '1 hour');
         INSERT INTO meshhook.host_pause VALUES ('http', 0, 'h:443', 'gone', now() - interval '1 hour')",
    );
    admin.exec("BEGIN; UPDATE meshhook.executor SET name = name; UPDATE meshhook.host_pause SET host = host");
    executor.exec("SET lock_timeout = '2s'");
    assert_eq!(meet(&mut executor), 1);
    admin.exec("COMMIT");
    assert_eq!(meet(&mut executor), 1);
    let left =
        "SELECT (SELECT count(*) FROM meshhook.executor) * 10 + (SELECT count(*) FROM meshhook.host_pause)";
    assert_eq!(counted(&mut admin, left), 10, "nobody is left but who met");
}
