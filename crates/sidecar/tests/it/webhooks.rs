//! The listener: webhooks, health, readiness, metrics.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser;
use meshhook_sidecar::config::Config;
use meshhook_sidecar::shutdown::{self, Trigger};
use meshhook_sidecar::store::{DatabaseState, WebhookReply};
use meshhook_sidecar::{ops, serve};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::fake::{Fake, get};
use crate::stub::Stub;
use crate::until;

struct Running {
    address: SocketAddr,
    trigger: Trigger,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn start(fake: &Arc<Fake>, flags: &[&str]) -> Running {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    let metrics = METRICS.get_or_init(|| ops::install_metrics().unwrap()).clone();
    let base = [
        "meshhook-sidecar",
        "--database-url",
        "host=unused",
        "--executor-name",
        "test",
        "--allow",
        "127.0.0.1",
    ];
    let config = Config::parse_from(base.iter().chain(flags));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, draining) = shutdown::channel();
    let fake = fake.clone();
    let task = tokio::spawn(async move { serve(fake, &config, listener, Some(metrics), draining).await });
    Running { address, trigger, task }
}

impl Running {
    async fn stop(self) {
        self.trigger.drain();
        let ended = tokio::time::timeout(Duration::from_secs(8), self.task).await;
        ended.expect("does not stop").unwrap().unwrap();
    }

    /// Sends raw bytes; the whole response, head and body.
    async fn send(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut response = Vec::new();
        let reading = stream.read_to_end(&mut response);
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("no answer");
        String::from_utf8_lossy(&response).into_owned()
    }

    async fn get(&self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
    }

    async fn post(&self, path: &str, headers: &str, body: &[u8]) -> String {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.send(&request).await
    }
}

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or("none")
}

fn accept(fake: &Fake) {
    fake.inner.lock().unwrap().reply = Some(WebhookReply {
        status: 202,
        headers: Some(json!({"x-from": "database"})),
        body: Some(json!({"run_id": "r1"})),
        wait: None,
    });
}

/// Senders wait for the outcome "o" and else are told where it is.
fn let_wait(fake: &Fake, limit: Duration) {
    accept(fake);
    let mut inner = fake.inner.lock().unwrap();
    let reply = inner.reply.as_mut().unwrap();
    reply.wait = Some(("o".to_owned(), limit));
    reply.body = Some(json!({"run_id": "r1", "status_url": "/outcomes/o"}));
}

#[tokio::test]
async fn senders_wait_for_what_their_run_answers() {
    let fake = Fake::new();
    let_wait(&fake, Duration::from_secs(5));
    let sidecar = start(&fake, &["--max-webhooks", "1"]).await;
    let send = async |after: u64| {
        tokio::time::sleep(Duration::from_millis(after)).await;
        sidecar.post("/hooks/ep", "", b"{}").await
    };
    let run = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let reply = WebhookReply { status: 201, headers: None, body: Some(json!({"made": 1})), wait: None };
        fake.inner.lock().unwrap().answers.insert("o".to_owned(), reply);
    };
    // One place for webhooks, and two senders that wait: waiting takes none.
    let (first, second, ()) = tokio::join!(send(0), send(200), run);
    for response in [first, second] {
        assert_eq!(status(&response), "201", "{response}");
        assert!(response.ends_with(r#"{"made":1}"#), "{response}");
    }
    sidecar.stop().await;
    let inner = fake.inner.lock().unwrap();
    assert!(inner.asked.len() > 5 && inner.asked.iter().all(|outcomes| *outcomes == 1), "{:?}", inner.asked);
}

#[tokio::test]
async fn whoever_waits_in_vain_is_told_where_to_look() {
    let fake = Fake::new();
    let_wait(&fake, Duration::from_millis(150));
    let sidecar = start(&fake, &[]).await;
    let response = sidecar.post("/hooks/ep", "", b"{}").await;
    assert_eq!(status(&response), "202", "{response}");
    assert!(response.contains("/outcomes/o"), "{response}");
    let told = sidecar.get("/outcomes/o").await;
    assert_eq!(status(&told), "200", "{told}");
    assert!(told.contains("cache-control: no-store\r\n") && told.contains(r#""status":"running""#), "{told}");
    let posted = sidecar.post("/outcomes/o", "", b"{}").await;
    assert_eq!(status(&posted), "405", "{posted}");
    sidecar.stop().await;
    assert_eq!(fake.inner.lock().unwrap().opened, ["o"]);
    let asked = fake.inner.lock().unwrap().asked.len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.inner.lock().unwrap().asked.len(), asked, "nobody waits, and nobody asks");
}

#[tokio::test]
async fn a_webhook_reaches_the_database_as_it_came() {
    let fake = Fake::new();
    accept(&fake);
    let sidecar = start(&fake, &[]).await;
    let body = b"{\"a\":\0\xff}";
    let response = sidecar
        .post(
            "/hooks/ep%2D1?x=1&y=%20",
            "Webhook-Id: m1\r\nx-two: a\r\nX-Two: b\r\nx-latin: caf\u{e9}\r\n",
            body,
        )
        .await;
    assert_eq!(status(&response), "202", "{response}");
    assert!(response.contains("x-from: database\r\n"), "{response}");
    assert!(response.ends_with(r#"{"run_id":"r1"}"#), "{response}");
    let other = sidecar.send(b"DELETE /hooks/ep HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status(&other), "202");
    sidecar.stop().await;

    let inner = fake.inner.lock().unwrap();
    let seen = &inner.webhooks[0];
    assert_eq!((seen.endpoint.as_str(), seen.method.as_str()), ("ep-1", "POST"));
    assert_eq!(seen.query, "x=1&y=%20");
    assert_eq!(&seen.body[..], body);
    assert_eq!(seen.headers["webhook-id"], "m1");
    assert_eq!(seen.headers["x-two"], "a, b");
    assert!(seen.headers["x-latin"].as_str().unwrap().starts_with("caf"));
    assert_eq!(inner.webhooks[1].method, "DELETE");
}

#[tokio::test]
async fn what_is_too_large_never_reaches_the_database() {
    let fake = Fake::new();
    accept(&fake);
    let sidecar = start(&fake, &["--max-webhook-bytes", "1000"]).await;
    assert_eq!(status(&sidecar.post("/hooks/e", "", &[b'x'; 1000]).await), "202");
    assert_eq!(status(&sidecar.post("/hooks/e", "", &[b'x'; 1001]).await), "413");
    let mut chunked = b"POST /hooks/e HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..3 {
        chunked.extend_from_slice(format!("190\r\n{}\r\n", "x".repeat(0x190)).as_bytes());
    }
    assert_eq!(status(&sidecar.send(&chunked).await), "413");
    let many = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    assert_eq!(status(&sidecar.post("/hooks/e", &many, b"").await), "431");
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    assert_eq!(status(&sidecar.post("/hooks/e", &long, b"").await), "431");
    let packed = sidecar.post("/hooks/e", "content-encoding: gzip\r\n", b"x").await;
    assert_eq!(status(&packed), "415");
    assert_eq!(status(&sidecar.post("/hooks/%00", "", b"x").await), "404");
    assert_eq!(status(&sidecar.post("/elsewhere", "", b"x").await), "404");
    // Cut off in the middle of the body.
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    stream.write_all(b"POST /hooks/e HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    drop(stream);
    sidecar.stop().await;
    assert_eq!(fake.inner.lock().unwrap().webhooks.len(), 1);
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503() {
    let fake = Fake::new();
    let sidecar = start(&fake, &[]).await;
    let response = sidecar.post("/hooks/e", "", b"x").await;
    assert_eq!(status(&response), "503", "{response}");
    assert!(response.contains("retry-after: 2\r\n"), "{response}");
    assert!(!response.contains("down for the test"), "{response}");
    sidecar.stop().await;
}

#[tokio::test]
async fn more_than_allowed_at_once_is_a_503() {
    let fake = Fake::new();
    accept(&fake);
    fake.inner.lock().unwrap().webhook_delay = Duration::from_millis(400);
    let sidecar = start(&fake, &["--max-webhooks", "1"]).await;
    let second = async {
        until("the first is in the database", || fake.inner.lock().unwrap().webhooks.len() == 1).await;
        sidecar.post("/hooks/e", "", b"2").await
    };
    let (first, second) = tokio::join!(sidecar.post("/hooks/e", "", b"1"), second);
    assert_eq!((status(&first), status(&second)), ("202", "503"));
    sidecar.stop().await;
}

#[tokio::test]
async fn a_webhook_in_progress_is_answered_before_the_end() {
    let fake = Fake::new();
    accept(&fake);
    fake.inner.lock().unwrap().webhook_delay = Duration::from_millis(300);
    let sidecar = start(&fake, &[]).await;
    let ending = async {
        until("it is in the database", || fake.inner.lock().unwrap().webhooks.len() == 1).await;
        sidecar.trigger.drain();
    };
    let (response, ()) = tokio::join!(sidecar.post("/hooks/e", "", b"1"), ending);
    assert_eq!(status(&response), "202");
    sidecar.stop().await;
}

#[tokio::test]
async fn health_readiness_and_metrics() {
    let (fake, stub) = (Fake::new(), Stub::start().await);
    accept(&fake);
    let sidecar = start(&fake, &["--drain", "5s"]).await;
    assert_eq!(status(&sidecar.get("/healthz").await), "200");
    assert_eq!(status(&sidecar.get("/readyz").await), "200");
    fake.set_state(DatabaseState::Unreachable);
    assert_eq!(status(&sidecar.get("/readyz").await), "503");
    fake.set_state(DatabaseState::Incompatible("run ALTER EXTENSION".into()));
    assert!(sidecar.get("/readyz").await.contains("ALTER EXTENSION"));
    assert_eq!(status(&sidecar.get("/healthz").await), "200");
    fake.set_state(DatabaseState::Ready);

    fake.add("a", get(stub.url("/status/404")));
    until("it is done", || fake.outcome("a").is_some()).await;
    sidecar.post("/hooks/e", "", b"1").await;
    // Counters are the process's: other tests count, too.
    let metrics = sidecar.get("/metrics").await;
    for line in [
        "meshhook_sidecar_http_calls_total{result=\"4xx\"}",
        "meshhook_sidecar_outcomes_total{kind=\"complete\",outcome=\"accepted\"}",
        "meshhook_sidecar_webhook_responses_total{status=\"202\"}",
        "meshhook_sidecar_http_call_seconds_bucket{host=\"private\",le=\"0.005\"}",
        "meshhook_sidecar_start_lag_seconds_bucket{le=\"0.005\"}",
        "meshhook_sidecar_jobs{state=\"running\"}",
        "# HELP meshhook_sidecar_jobs_claimed_total ",
        "meshhook_sidecar_ready ",
    ] {
        assert!(metrics.contains(line), "{line} not in {metrics}");
    }

    fake.add("b", get(stub.url("/gate")));
    until("a call runs", || stub.now("/gate") == 1).await;
    sidecar.trigger.drain();
    let response = sidecar.get("/readyz").await;
    assert_eq!(status(&response), "503");
    assert!(response.contains("draining"), "{response}");
    stub.open_gate();
    sidecar.stop().await;
    assert!(fake.outcome("b").is_some());
}

#[tokio::test]
async fn looking_at_a_resume_url_answers_nothing() {
    let fake = Fake::new();
    let sidecar = start(&fake, &[]).await;
    let page = sidecar.get("/resume/abc").await;
    assert_eq!(status(&page), "200");
    for header in [
        "content-type: text/html; charset=utf-8",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "x-frame-options: DENY",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
    ] {
        assert!(page.contains(header), "{header} in {page}");
    }
    assert!(page.contains("<strong>review</strong>") && !page.contains("abc"), "{page}");
    let head = sidecar.send(b"HEAD /resume/abc HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(status(&head) == "200" && head.ends_with("\r\n\r\n"), "{head}");
    let json =
        b"GET /resume/abc HTTP/1.1\r\nhost: x\r\naccept: application/json\r\nconnection: close\r\n\r\n";
    assert!(sidecar.send(json).await.contains(r#""state":"open""#));
    let other = sidecar.send(b"DELETE /resume/abc HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(status(&other) == "405" && other.contains("allow: GET, HEAD, POST"), "{other}");
    assert_eq!(status(&sidecar.get("/resume/a%00").await), "404");
    fake.set_down(true);
    let away = sidecar.get("/resume/abc").await;
    assert!(status(&away) == "503" && away.contains("retry-after: 2") && away.contains("<h1>"), "{away}");
    sidecar.stop().await;
    let inner = fake.inner.lock().unwrap();
    assert_eq!(inner.opened, ["abc"; 3]);
    assert!(inner.answered.is_empty());
}

#[tokio::test]
async fn an_answer_reaches_the_database_from_a_form_and_as_json() {
    let fake = Fake::new();
    let sidecar = start(&fake, &["--max-webhook-bytes", "100"]).await;
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let json = "content-type: application/json\r\n";
    let page = sidecar.post("/resume/abc", form, b"by=Anna&approved=true").await;
    assert!(status(&page) == "200" && page.contains("<h1>Answered</h1>"), "{page}");
    let told = sidecar.post("/resume/abc", json, br#"{"approved":false}"#).await;
    assert!(status(&told) == "200" && told.ends_with(r#"{"state":"used","used":false}"#), "{told}");
    let early = sidecar.post("/resume/early", json, b"{}").await;
    assert!(status(&early) == "409" && early.contains("retry-after: 2"), "{early}");
    for (token, expected) in [("bad", "400"), ("broken", "500")] {
        let refused = sidecar.post(&format!("/resume/{token}"), json, b"{").await;
        assert!(status(&refused) == expected && !refused.contains("secret"), "{refused}");
    }
    assert_eq!(status(&sidecar.post("/resume/abc", "", b"approved=true").await), "415");
    assert_eq!(status(&sidecar.post("/resume/abc", json, &[b' '; 101]).await), "413");
    sidecar.stop().await;
    let answered = fake.inner.lock().unwrap().answered.clone();
    let pair = |answer: &str| ("abc".to_owned(), answer.to_owned());
    assert_eq!(answered[..2], [pair(r#"{"approved":true,"by":"Anna"}"#), pair(r#"{"approved":false}"#)]);
    assert_eq!(answered.len(), 5, "what is too large or of no known type does not get there");
}
