//! Resume URLs from end to end: sent by an http node, looked at by scanners, answered once, stored nowhere.

use meshhook_e2e::{Database, SOON, counted, ended, publish, quick, start};
use meshhook_testkit::{Reply, Session, Sidecar, Stub, history, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

/// Asks for an approval by mail, and waits for it meanwhile.
fn ask(url: &str) -> Value {
    json!({
        "name": "ask",
        "nodes": [
            {"id": "begin", "type": "transform", "with": {"output": 1}},
            {"id": "mail", "type": "http", "retry": quick(5),
             "with": {"method": "POST", "url": url, "query": {"back": "{{ $resume.ok }}"},
                      "body": {"link": "{{ $resume.ok }}", "for": "{{ .input.for }}"}}},
            {"id": "ok", "type": "wait", "with": {"approval": {}}},
            {"id": "yes", "type": "transform", "with": {"output": "{{ .nodes.ok.output.voices[0] }}"}},
            {"id": "no", "type": "transform", "with": {"output": "{{ .nodes.ok.output.voices[0] }}"}}
        ],
        "edges": [
            {"from": "begin", "to": "mail"},
            {"from": "begin", "to": "ok"},
            {"from": "ok", "port": "approved", "to": "yes"},
            {"from": "ok", "port": "rejected", "to": "no"}
        ]
    })
}

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What stands where a link leads to at the sidecar: path and token.
fn path_of(link: &Value) -> (String, String) {
    let link = link.as_str().expect("the link is a string");
    let path = link.strip_prefix("http://hooks.test").expect("the link begins with the public address");
    let token = path.strip_prefix("/resume/").expect("the path is that of resume URLs");
    (path.to_owned(), token.to_owned())
}

/// Answers as JSON; repeats what a busy sidecar turns away.
fn answer(sidecar: &Sidecar, path: &str, answer: &Value) -> (u16, Value) {
    let (body, json) = (answer.to_string(), headers(&[("content-type", "application/json")]));
    let mut response = sidecar.post(path, &json, body.as_bytes());
    for _ in 0..20 {
        if response.status != 503 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        response = sidecar.post(path, &json, body.as_bytes());
    }
    (response.status, response.json())
}

/// How many rows of all tables of the schema hold a text.
fn rows_with(admin: &mut Session, text: &str) -> i64 {
    let tables = admin.rows(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind IN ('r', 'p')",
        &[],
    );
    let count = |table: String| -> i64 {
        admin.value(&format!("SELECT count(*) FROM {table} t WHERE strpos(t::text, $1) > 0"), &[&text])
    };
    tables.iter().map(|row| row.get::<_, String>(0)).map(count).sum()
}

#[test]
fn a_mailed_url_is_looked_at_and_then_answered_once() {
    let db = Database::preloaded("resume_once");
    let stub = Stub::start();
    // The second attempt sends what the first one sent.
    stub.script("/mail", [Reply::status(503), Reply::json(202, &json!({"queued": true}))]);
    publish(&mut db.app(), &ask(&stub.url("/mail")));
    let sidecar = db.sidecar().start();
    let mut admin = db.admin();
    let run = start(&mut admin, "ask", &json!({"for": "Anna"}));
    let mails = stub.wait_received("/mail", 2, SOON);
    assert_eq!(mails[0].json(), mails[1].json());
    assert!(!mails[0].query.is_empty() && mails[0].query == mails[1].query);
    let (path, token) = path_of(&mails[0].json()["link"]);

    for _ in 0..3 {
        let page = sidecar.get(&path).expect("the sidecar listens");
        assert_eq!(page.status, 200, "{}", page.text());
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        let text = page.text();
        assert!(text.contains("<strong>ask</strong>") && text.contains(&run.to_string()), "{text}");
        assert!(text.contains(">Approve<") && !text.contains(&token), "{text}");
    }
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.resume_use"), 0);

    let form = headers(&[
        ("content-type", "application/x-www-form-urlencoded"),
        ("accept", "text/html,application/xhtml+xml"),
    ]);
    let page = sidecar.post(&path, &form, b"by=Anna&payload=fine&approved=true");
    assert!(page.status == 200 && page.text().contains("It is approved by Anna."), "{}", page.text());
    let done = ended(&mut admin, run);
    let voice = json!({"by": "resume:mail:Anna", "approved": true, "payload": "fine"});
    assert_eq!(
        (done.status.as_str(), done.output),
        ("succeeded", Some(json!({"mail": mail_output(&mut admin, run), "yes": voice})))
    );

    let (status, told) = answer(&sidecar, &path, &json!({"approved": false, "by": "Berta"}));
    assert_eq!((status, &told["used"], &told["answer"]["by"]), (200, &json!(true), &json!("Anna")), "{told}");
    let other = sidecar.get(&path).expect("the sidecar listens").text();
    assert!(other.contains("approved by Anna before"), "{other}");
    assert_eq!(sidecar.get(&path[..path.len() - 1]).expect("the sidecar listens").status, 404);

    assert_eq!(rows_with(&mut admin, &token), 0, "the token is stored somewhere");
    assert!(rows_with(&mut admin, "meshhook:resume:ok:") > 0, "and its placeholder is");
    assert!(!sidecar.log().contains(&token) && !db.cluster.log_contains(&token), "the token was logged");
    history::check_all(&mut admin);
    sidecar.terminate();
}

fn mail_output(admin: &mut Session, run: Uuid) -> Value {
    admin.value("SELECT output FROM meshhook.run_steps WHERE run_id = $1 AND node = 'mail'", &[&run])
}

#[test]
fn of_twenty_answers_at_once_one_counts() {
    let db = Database::preloaded("resume_twenty");
    let stub = Stub::start();
    stub.script("/mail", [Reply::status(204)]);
    publish(&mut db.app(), &ask(&stub.url("/mail")));
    let sidecar = db.sidecar().start();
    let mut admin = db.admin();
    let run = start(&mut admin, "ask", &json!({}));
    let (path, _) = path_of(&stub.wait_received("/mail", 1, SOON)[0].json()["link"]);
    let told: Vec<(u16, Value)> = std::thread::scope(|scope| {
        let post = |n: u32| {
            let (sidecar, path) = (&sidecar, &path);
            scope.spawn(move || {
                answer(sidecar, path, &json!({"approved": n.is_multiple_of(2), "by": format!("n{n}")}))
            })
        };
        let posts: Vec<_> = (0..20).map(post).collect();
        posts.into_iter().map(|post| post.join().expect("a post does not panic")).collect()
    });
    assert!(told.iter().all(|(status, _)| *status == 200), "{told:?}");
    let first: Vec<_> = told.iter().filter(|(_, told)| told["used"] == json!(false)).collect();
    assert_eq!(first.len(), 1, "{told:?}");
    let counts = &first[0].1["answer"];
    assert!(told.iter().all(|(_, told)| told["answer"] == *counts), "{told:?}");
    let done = ended(&mut admin, run);
    let output = done.output.unwrap_or_default();
    let port = if counts["approved"] == json!(true) { "yes" } else { "no" };
    let by = format!("resume:mail:{}", counts["by"].as_str().unwrap_or_default());
    assert_eq!(
        (&output[port]["by"], &output[port]["approved"]),
        (&json!(by), &counts["approved"]),
        "{output}"
    );
    assert_eq!(
        counted(&mut admin, "SELECT count(*) FROM meshhook.run_event WHERE type = 'approval.given'"),
        1
    );
    history::check_all(&mut admin);
}

#[test]
fn an_answer_that_comes_before_its_time_or_after_it_is_refused() {
    let db = Database::preloaded("resume_time");
    let stub = Stub::start();
    let gate = meshhook_testkit::Gate::new();
    stub.script("/mail", [Reply::status(204).behind(&gate)]);
    let mut definition = ask(&stub.url("/mail"));
    // Here the run waits only after the mail is out.
    definition["edges"][1]["from"] = json!("mail");
    publish(&mut db.app(), &definition);
    let sidecar = db.sidecar().start();
    let mut admin = db.admin();
    let run = start(&mut admin, "ask", &json!({}));
    let (path, _) = path_of(&stub.wait_received("/mail", 1, SOON)[0].json()["link"]);
    let (status, told) = answer(&sidecar, &path, &json!({"approved": true}));
    assert_eq!((status, &told["state"]), (409, &json!("early")), "{told}");
    gate.open();
    wait_for("the run waits", SOON, || answer(&sidecar, &path, &json!({"approved": "maybe"})).0 == 400);
    let _: bool = admin.value("SELECT meshhook.cancel_run($1)", &[&run]);
    assert_eq!(ended(&mut admin, run).status, "canceled");
    let (status, told) = answer(&sidecar, &path, &json!({"approved": true}));
    assert_eq!((status, &told["state"]), (410, &json!("over")), "{told}");
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.resume_use"), 0);
    history::check_all(&mut admin);
}
