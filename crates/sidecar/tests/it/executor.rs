//! The executor from claim to outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshhook_sidecar::executor::http::HttpClient;
use meshhook_sidecar::executor::{self, Settings};
use meshhook_sidecar::secrets::ring::Keys;
use meshhook_sidecar::shutdown::{self, Trigger};
use meshhook_sidecar::store::DatabaseState;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::calls::client;
use crate::fake::{Fake, get};
use crate::secured::policy;
use crate::stub::Stub;
use crate::until;

pub fn settings() -> Settings {
    Settings {
        queue: "http".into(),
        executor: "test".into(),
        concurrency: 32,
        per_host: 4,
        batch: 10,
        lease: Duration::from_secs(30),
        poll: Duration::from_secs(30),
        drain: Duration::from_secs(5),
    }
}

pub fn start(fake: &Arc<Fake>, settings: Settings) -> (Trigger, JoinHandle<()>) {
    start_with(fake, settings, client(Duration::from_secs(2), 1 << 20))
}

fn start_with(fake: &Arc<Fake>, settings: Settings, client: HttpClient) -> (Trigger, JoinHandle<()>) {
    let (trigger, draining) = shutdown::channel();
    let running = tokio::spawn(executor::run(fake.clone(), settings, client, Keys::default(), draining));
    (trigger, running)
}

async fn stop(trigger: Trigger, running: JoinHandle<()>) {
    trigger.drain();
    let ended = tokio::time::timeout(Duration::from_secs(8), running).await;
    ended.expect("does not drain").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_is_done_once_within_the_limits() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    let (trigger, running) = start(&fake, settings());
    fake.add_all((0..300).map(|i| (format!("j{i}"), get(stub.url("/slow/2")))));
    until("all jobs are done", || fake.finished() == 300).await;
    stop(trigger, running).await;
    for i in 0..300 {
        let (function, output) = fake.outcome(&format!("j{i}")).unwrap();
        assert_eq!((function, &output["body"]), ("complete", &json!("slow")));
    }
    assert_eq!(stub.seen().len(), 300);
    assert_eq!(stub.peak("/slow/2"), 4);
    let inner = fake.inner.lock().unwrap();
    assert!(inner.claims.iter().all(|(asked, _)| *asked <= 10));
    assert_eq!((inner.leased_count(), inner.stale), (0, 0));
    assert!(inner.writes.len() < 300, "outcomes were not batched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_for_a_host_holds_and_can_be_changed() {
    let (fake, stub, folder) = (Fake::new(), Stub::start().await, tempfile::tempdir().unwrap());
    let client = client(Duration::from_secs(2), 1 << 20);
    let set = |line: &str| {
        let text = format!("[[hosts]]\nmatch = \"{}\"\n{line}\n", stub.address);
        client.set_policy(policy(folder.path(), &text).unwrap());
    };
    set("rate = \"20/s\"");
    let (trigger, running) = start_with(&fake, settings(), client.clone());
    let begun = Instant::now();
    fake.add_all((0..11).map(|i| (format!("r{i}"), get(stub.url("/ok")))));
    until("all calls are done", || fake.finished() == 11).await;
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    set("concurrency = 9");
    let begun = Instant::now();
    fake.add_all((0..100).map(|i| (format!("g{i}"), get(stub.url("/slow/20")))));
    until("all calls are done", || fake.finished() == 111).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(stub.peak("/slow/20"), 9);
    stop(trigger, running).await;
    assert_eq!(stub.seen().len(), 111);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_host_does_not_hold_up_another() {
    let (fake, slow, fast) = (Fake::new(), Stub::start().await, Stub::start().await);
    fake.add_all((0..30).map(|i| (format!("slow{i}"), get(slow.url("/gate")))));
    fake.add_all((0..100).map(|i| (format!("fast{i}"), get(fast.url("/ok")))));
    let (trigger, running) = start(&fake, settings());
    until("the fast ones are done", || fake.finished() == 100).await;
    assert_eq!(slow.now("/gate"), 4);
    slow.open_gate();
    until("the slow ones are done", || fake.finished() == 130).await;
    stop(trigger, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_for_a_host_that_stalls_keeps_nobody_from_being_claimed() {
    let (fake, stuck, quick) = (Fake::new(), Stub::start().await, Stub::start().await);
    let (trigger, running) = start(&fake, settings());
    // Thirty times what may run at once, all claimed before the others.
    fake.add_all((0..1000).map(|i| (format!("s{i}"), get(stuck.url("/gate")))));
    fake.add_all((0..100).map(|i| (format!("q{i}"), get(quick.url("/ok")))));
    let begun = Instant::now();
    until("all calls of the other host are done", || fake.finished() == 100).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(stuck.peak("/gate"), 4);
    // What has waited in vain was not tried: none of it was a call.
    assert_eq!(stuck.seen().len(), 4);
    stuck.open_gate();
    stop(trigger, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_down_is_left_alone() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    let (trigger, running) = start(&fake, Settings { per_host: 1, ..settings() });
    fake.add_all((0..50).map(|i| (format!("j{i}"), get(stub.url("/nothing")))));
    until("its jobs are given back", || fake.inner.lock().unwrap().released.len() == 45).await;
    until("what was tried has failed", || fake.finished() == 5).await;
    assert_eq!(stub.seen().len(), 5);
    stop(trigger, running).await;
}

#[tokio::test]
async fn leases_are_renewed_while_a_call_runs_and_a_lost_one_stops_it() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    let short = Settings { lease: Duration::from_millis(150), ..settings() };
    let (trigger, running) = start(&fake, short);
    fake.add("a", get(stub.url("/gate")));
    until("several renewals", || fake.inner.lock().unwrap().heartbeats >= 5).await;
    assert_eq!(stub.now("/gate"), 1);
    fake.inner.lock().unwrap().lose.insert("a".into());
    until("the call is stopped", || stub.now("/gate") == 0).await;
    // Its slot is free again, and idle means no renewals.
    fake.add("b", get(stub.url("/ok")));
    until("the next is done", || fake.outcome("b").is_some()).await;
    stop(trigger, running).await;
    assert_eq!(fake.outcome("a"), None);
    assert_eq!(fake.inner.lock().unwrap().stale, 0);
}

#[tokio::test]
async fn outcomes_wait_for_a_database_that_is_away() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    let (trigger, running) = start(&fake, settings());
    fake.add_all((0..4).map(|i| (format!("j{i}"), get(stub.url("/gate")))));
    until("all run", || stub.now("/gate") == 4).await;
    fake.set_down(true);
    fake.set_state(DatabaseState::Unreachable);
    stub.open_gate();
    until("all calls ended", || stub.now("/gate") == 0).await;
    fake.add("later", get(stub.url("/ok")));
    until("several writes failed", || fake.inner.lock().unwrap().refused >= 2).await;
    assert_eq!(fake.finished(), 0);
    fake.set_down(false);
    fake.set_state(DatabaseState::Ready);
    until("all are written", || fake.finished() == 5).await;
    stop(trigger, running).await;
    assert_eq!(stub.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_cannot_be_written_stop_the_claims() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    fake.inner.lock().unwrap().clogged = true;
    fake.add_all((0..500).map(|i| (format!("j{i}"), get(stub.url("/ok")))));
    let (trigger, running) = start(&fake, settings());
    until("writes failed", || fake.inner.lock().unwrap().refused >= 3).await;
    // Twice the concurrency, and what was under way.
    assert!(fake.leased() <= 2 * 32 + 32 + 10, "{} held", fake.leased());
    fake.inner.lock().unwrap().clogged = false;
    until("all are done", || fake.finished() == 500).await;
    stop(trigger, running).await;
    assert_eq!(stub.seen().len(), 500);
}

#[tokio::test]
async fn failed_claims_are_repeated() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    fake.set_down(true);
    let (trigger, running) = start(&fake, settings());
    fake.add("a", get(stub.url("/ok")));
    until("a claim failed", || fake.inner.lock().unwrap().refused >= 1).await;
    fake.set_down(false);
    until("it is done", || fake.outcome("a").is_some()).await;
    stop(trigger, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_outcome_hurts_only_its_job() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    fake.add_all((0..6).map(|i| {
        let path = if i == 3 { "/poison" } else { "/ok" };
        (format!("j{i}"), get(stub.url(path)))
    }));
    fake.add("nul", get(stub.url("/nul")));
    let (trigger, running) = start(&fake, settings());
    until("all have an outcome", || fake.finished() == 7).await;
    stop(trigger, running).await;
    let (function, error) = fake.outcome("j3").unwrap();
    assert_eq!((function, &error["class"]), ("fail", &json!("response_rejected")));
    let (function, output) = fake.outcome("nul").unwrap();
    assert_eq!((function, &output["body_encoding"]), ("complete", &json!("base64")));
    for i in [0, 1, 2, 4, 5] {
        assert_eq!(fake.outcome(&format!("j{i}")).unwrap().0, "complete");
    }
}

#[tokio::test]
async fn trouble_is_reported_with_its_class() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    fake.add("bad", json!({"url": "ftp://x/"}));
    fake.add("nonsense", json!([1]));
    fake.add("short", get(stub.url("/too-short")));
    fake.add("late", json!({"url": stub.url("/stall"), "timeout_ms": 50}));
    fake.add("500", get(stub.url("/status/500")));
    let (trigger, running) = start(&fake, settings());
    until("all have an outcome", || fake.finished() == 5).await;
    stop(trigger, running).await;
    for (id, class) in
        [("bad", "invalid_request"), ("nonsense", "invalid_request"), ("short", "io"), ("late", "timeout")]
    {
        let (function, error) = fake.outcome(id).unwrap();
        assert_eq!((function, &error["class"]), ("fail", &json!(class)), "{id}");
        assert!(error["message"].is_string());
    }
    let (function, output) = fake.outcome("500").unwrap();
    assert_eq!((function, &output["status"]), ("complete", &json!(500)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_runs_and_gives_back_the_rest() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    fake.add_all((0..10).map(|i| (format!("j{i}"), get(stub.url("/gate")))));
    let (trigger, running) = start(&fake, settings());
    until("four run and six wait", || stub.now("/gate") == 4 && fake.leased() == 10).await;
    trigger.drain();
    until("the waiting ones are back", || fake.leased() == 4).await;
    fake.add("new", get(stub.url("/ok")));
    stub.open_gate();
    stop(trigger, running).await;
    assert_eq!(fake.finished(), 4);
    assert_eq!(fake.inner.lock().unwrap().released.len(), 6);
    assert_eq!(stub.seen().len(), 4);
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_time_fails() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    let hasty = Settings { drain: Duration::from_millis(100), ..settings() };
    fake.add("a", get(stub.url("/stall")));
    let (trigger, running) = start(&fake, hasty);
    until("it runs", || stub.now("/stall") == 1).await;
    let begun = Instant::now();
    stop(trigger, running).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    let (function, error) = fake.outcome("a").unwrap();
    assert_eq!((function, &error["class"]), ("fail", &json!("io")));
}

#[tokio::test]
async fn claims_only_from_a_database_it_can_work_with() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    fake.set_state(DatabaseState::Incompatible("too old".into()));
    let often = Settings { poll: Duration::from_millis(10), ..settings() };
    fake.add("a", get(stub.url("/ok")));
    let (trigger, running) = start(&fake, often);
    // Ten polls long: nothing may happen.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(fake.inner.lock().unwrap().claims.is_empty());
    fake.set_state(DatabaseState::Ready);
    until("it is done", || fake.outcome("a").is_some()).await;
    stop(trigger, running).await;
}

#[tokio::test]
async fn idle_means_no_statements_but_the_safety_poll() {
    let fake = Fake::new();
    let (trigger, running) = start(&fake, settings());
    until("the first look", || fake.inner.lock().unwrap().claims.len() == 1).await;
    // Nothing may happen.
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop(trigger, running).await;
    {
        let inner = fake.inner.lock().unwrap();
        assert_eq!((inner.claims.len(), inner.heartbeats), (1, 0));
    }

    let often = Settings { poll: Duration::from_millis(20), ..settings() };
    let fake = Fake::new();
    let (trigger, running) = start(&fake, often);
    until("several polls", || fake.inner.lock().unwrap().claims.len() >= 4).await;
    stop(trigger, running).await;
}

#[tokio::test]
async fn what_is_too_large_for_a_log_goes_beside_it_and_is_sent_from_there() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    fake.inner.lock().unwrap().blobs.insert("given".into(), b"from the database".to_vec());
    let (trigger, running) = start(&fake, settings());
    let with = |path: &str, more: serde_json::Value| {
        let mut payload = get(stub.url(path));
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        payload
    };
    let reference = json!({"sha256": "given", "size": 17, "content_type": "text/csv"});
    fake.add("brings", with("/sized/70000", json!({})));
    fake.add("inline", with("/sized/70000", json!({"response": "inline"})));
    fake.add("sends", with("/ok/sends", json!({"method": "POST", "body_blob": reference})));
    fake.add(
        "encloses",
        with("/ok/encloses", json!({"method": "POST", "multipart": [{"name": "f", "blob": reference}]})),
    );
    fake.add("lacks", with("/ok/lacks", json!({"method": "POST", "body_blob": {"sha256": "gone"}})));
    fake.add("refused", with("/poison", json!({"response": "blob"})));
    until("all jobs are done", || fake.finished() == 6).await;
    let outcome = |id: &str| fake.outcome(id).unwrap();
    let (function, output) = outcome("brings");
    assert_eq!((function, &output["body"]), ("complete", &json!(null)));
    assert_eq!(output["body_blob"]["size"], 70_000);
    let kept = output["body_blob"]["sha256"].as_str().unwrap().to_owned();
    assert_eq!(fake.inner.lock().unwrap().blobs[&kept], vec![b'x'; 70_000]);
    assert_eq!(outcome("inline").1["body"].as_str().unwrap().len(), 70_000);
    for (id, told) in [("lacks", "no such blob"), ("refused", "at most 7 bytes")] {
        let (function, error) = outcome(id);
        assert_eq!((function, &error["class"], &error["retryable"]), ("fail", &json!("blob"), &json!(false)));
        assert!(error["message"].as_str().unwrap().contains(told), "{error}");
    }
    let seen = stub.seen();
    let sent = |path: &str| seen.iter().find(|seen| seen.line.contains(path)).unwrap();
    assert_eq!(sent("/ok/sends").body, "from the database");
    assert!(sent("/ok/sends").head.contains("content-type: text/csv\r\n"));
    assert!(sent("/ok/encloses").body.contains("\r\n\r\nfrom the database\r\n"));
    assert!(seen.iter().all(|seen| !seen.line.contains("/ok/lacks")));
    stop(trigger, running).await;
}

/// A job whose response is here, and whose body the database is asked in vain to keep.
async fn kept_in_vain() -> (Arc<Fake>, Stub, Trigger, JoinHandle<()>) {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    let (trigger, running) = start(&fake, settings());
    let mut payload = get(stub.url("/gate"));
    payload["response"] = json!("blob");
    fake.add("j", payload);
    until("the call is made", || stub.now("/gate") == 1).await;
    fake.set_down(true);
    stub.open_gate();
    asked_in_vain(&fake).await;
    (fake, stub, trigger, running)
}

async fn asked_in_vain(fake: &Fake) {
    let refused = || fake.inner.lock().unwrap().refused;
    let before = refused();
    until("the database is asked in vain", || refused() > before + 1).await;
}

#[tokio::test]
async fn a_body_is_kept_once_the_database_is_back() {
    let (fake, stub, trigger, running) = kept_in_vain().await;
    fake.set_down(false);
    until("the job is done", || fake.finished() == 1).await;
    assert_eq!(fake.outcome("j").unwrap().1["body_blob"]["size"], 6);
    assert_eq!(stub.seen().len(), 1);
    stop(trigger, running).await;
}

#[tokio::test]
async fn a_drain_waits_for_bodies_that_are_being_kept() {
    let (fake, _stub, trigger, running) = kept_in_vain().await;
    trigger.drain();
    asked_in_vain(&fake).await;
    fake.set_down(false);
    tokio::time::timeout(Duration::from_secs(8), running).await.expect("does not drain").unwrap();
    let (function, output) = fake.outcome("j").unwrap();
    assert_eq!((function, &output["body_blob"]["size"]), ("complete", &json!(6)));
}
