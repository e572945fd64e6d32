//! Senders that wait for what their run answers.

use meshhook_e2e::{Database, SOON, ended, publish, run_id};
use meshhook_testkit::sign::{self, unix_now};
use meshhook_testkit::{Response, Sidecar, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Answers at once, or once the signal `go` has come, or not at all.
fn answering(name: &str, waits: bool, answers: bool) -> Value {
    let with = json!({"status": 201, "headers": {"x-n": "{{ .input.n | tostring }}"}, "body": {"twice": "{{ .input.n * 2 }}"}});
    let mut nodes = vec![json!({"id": "begin", "type": "transform", "with": {"output": 1}})];
    if waits {
        nodes.push(json!({"id": "go", "type": "wait", "with": {"signal": "go"}}));
    }
    if answers {
        nodes.push(json!({"id": "answer", "type": "respond", "with": with}));
    }
    let edges: Vec<_> =
        nodes.windows(2).map(|pair| json!({"from": pair[0]["id"], "to": pair[1]["id"]})).collect();
    json!({"name": name, "nodes": nodes, "edges": edges})
}

/// An endpoint whose senders wait: path and secret.
fn endpoint(db: &Database, workflow: &str, limit: &str) -> (String, String) {
    let made = db.admin().rows(
        &format!("SELECT path, secret FROM meshhook.create_endpoint($1, respond_within => '{limit}')"),
        &[&workflow],
    );
    (made[0].get(0), made[0].get(1))
}

fn send(sidecar: &Sidecar, (path, secret): &(String, String), id: &str, n: i32) -> Response {
    let body = json!({"n": n}).to_string().into_bytes();
    sidecar.post(path, &sign::standard(secret, id, unix_now(), &body), &body)
}

#[test]
fn a_sender_gets_what_its_run_answers() {
    let db = Database::preloaded("answered");
    for (name, answers) in [("answers", true), ("ends", false)] {
        publish(&mut db.app(), &answering(name, false, answers));
    }
    publish(
        &mut db.app(),
        &json!({"name": "fails", "nodes": [{"id": "end", "type": "terminate", "with": {"status": "failed"}}]}),
    );
    let sidecar = db.sidecar().start();
    let answers = endpoint(&db, "answers", "10 s");
    for n in 1..4 {
        let answer = send(&sidecar, &answers, &format!("m{n}"), n);
        assert_eq!((answer.status, answer.json()), (201, json!({"twice": n * 2})), "{}", answer.text());
        assert_eq!(answer.header("x-n"), Some(&*n.to_string()));
    }
    // Whoever comes again hears the same.
    let again = send(&sidecar, &answers, "m1", 1);
    assert_eq!((again.status, again.json()), (201, json!({"twice": 2})));
    // Without an answer it is the end that counts.
    let ended = send(&sidecar, &endpoint(&db, "ends", "10 s"), "m", 1);
    assert_eq!((ended.status, ended.json()["status"].clone()), (200, json!("succeeded")), "{}", ended.text());
    let failed = send(&sidecar, &endpoint(&db, "fails", "10 s"), "m", 1);
    assert_eq!((failed.status, failed.json()["status"].clone()), (500, json!("failed")), "{}", failed.text());
}

#[test]
fn a_run_that_takes_longer_is_told_of_by_its_status_url() {
    let db = Database::preloaded("status_url");
    publish(&mut db.app(), &answering("slow", true, true));
    let sidecar = db.sidecar().start();
    let answer = send(&sidecar, &endpoint(&db, "slow", "200 ms"), "m", 7);
    let run = run_id(&answer);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let url = answer.json()["status_url"].as_str().expect("a status URL").to_owned();
    let look = || sidecar.get(&url).expect("an answer");
    let early = look();
    assert_eq!((early.status, early.json()), (200, json!({"run_id": run.to_string(), "status": "running"})));
    assert_eq!(early.header("cache-control"), Some("no-store"));
    let mut admin = db.admin();
    admin.exec(&format!("SELECT meshhook.signal_run('{run}', 'go')"));
    ended(&mut admin, run);
    let response = json!({"status": 201, "headers": {"x-n": "7"}, "body": {"twice": 14}});
    assert_eq!(
        look().json(),
        json!({"run_id": run.to_string(), "status": "succeeded", "response": response})
    );
    // Nobody guesses one, and no other token is one.
    let changed = format!("{}{}", &url[..url.len() - 1], if url.ends_with('A') { 'B' } else { 'A' });
    for unknown in [&*changed, "/outcomes/x", &url[..url.len() - 2]] {
        assert_eq!(sidecar.get(unknown).expect("an answer").status, 404, "{unknown}");
    }
}

#[test]
fn a_sender_that_waits_is_told_where_to_ask_when_the_sidecar_ends() {
    let db = Database::preloaded("ends_meanwhile");
    publish(&mut db.app(), &answering("slow", true, true));
    let (slow, sidecar) = (endpoint(&db, "slow", "30 s"), db.sidecar().start());
    let begun = Instant::now();
    let answer = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&sidecar, &slow, "m", 1));
        let waits = "SELECT count(*) = 1 FROM meshhook.run_steps WHERE node = 'go' AND status = 'waiting'";
        wait_for("the run to wait", SOON, || db.admin().value::<bool>(waits, &[]));
        sidecar.terminate();
        sender.join().expect("a sender does not panic")
    });
    assert!(answer.status == 202 && answer.json()["status_url"].is_string(), "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn what_a_run_answers_is_not_for_those_who_signal_it() {
    let db = Database::preloaded("not_for_them");
    publish(&mut db.app(), &answering("slow", true, true));
    let made = db.admin().rows(
        "SELECT path, secret FROM meshhook.create_endpoint('slow', respond_within => '30 s', action => 'signal_or_start',
             business_key => '\"one\"', signal => '\"go\"')",
        &[],
    );
    let (endpoint, sidecar) = ((made[0].get(0), made[0].get(1)), db.sidecar().start());
    let signals = || {
        let answer = send(&sidecar, &endpoint, "second", 2);
        (answer.status, answer.json()["twice"].clone())
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| send(&sidecar, &endpoint, "first", 1));
        let waits = "SELECT count(*) = 1 FROM meshhook.run_steps WHERE node = 'go' AND status = 'waiting'";
        wait_for("the run to wait", SOON, || db.admin().value::<bool>(waits, &[]));
        assert_eq!(signals(), (202, Value::Null));
        // The one who started it gets it; the other does not, however often it comes.
        assert_eq!(first.join().expect("a sender does not panic").json(), json!({"twice": 2}));
        assert_eq!(signals(), (200, Value::Null));
    });
}

#[test]
fn those_who_wait_keep_nobody_from_the_database() {
    let db = Database::preloaded("many_wait");
    publish(&mut db.app(), &answering("slow", true, true));
    publish(&mut db.app(), &answering("quick", false, true));
    let sidecar = db.sidecar().env("MESHHOOK_DB_POOL", "1").start();
    let (slow, quick) = (endpoint(&db, "slow", "20 s"), endpoint(&db, "quick", "20 s"));
    std::thread::scope(|scope| {
        let (sidecar, slow) = (&sidecar, &slow);
        let waiting: Vec<_> =
            (0..50).map(|n| scope.spawn(move || send(sidecar, slow, &format!("m{n}"), n))).collect();
        let mut admin = db.admin();
        let all_wait =
            "SELECT count(*) = 50 FROM meshhook.run_steps WHERE node = 'go' AND status = 'waiting'";
        wait_for("all to wait", SOON, || admin.value::<bool>(all_wait, &[]));
        let begun = Instant::now();
        assert_eq!(send(sidecar, &quick, "q", 1).status, 201);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        admin.exec("SELECT meshhook.signal_run(run_id, 'go') FROM meshhook.runs WHERE workflow = 'slow'");
        for (n, sender) in waiting.into_iter().enumerate() {
            let answer = sender.join().expect("a sender does not panic");
            assert_eq!((answer.status, answer.json()), (201, json!({"twice": n * 2})));
        }
    });
}
