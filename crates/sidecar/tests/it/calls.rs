//! What the HTTP client makes of servers that behave, and of those that do not.

use std::time::{Duration, Instant};

use meshhook_sidecar::egress::policy::Policy;
use meshhook_sidecar::egress::rules::Rules;
use meshhook_sidecar::executor::http::{Answer, CallError, CallSettings, Class, HttpClient};
use meshhook_sidecar::executor::request::prepare;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::stub::Stub;

/// One that may call this machine.
pub fn client(connect_timeout: Duration, max_response_bytes: usize) -> HttpClient {
    let settings = CallSettings {
        connect_timeout,
        dns_timeout: connect_timeout,
        dns: None,
        max_response_bytes,
        idle_per_host: 4,
    };
    let rules = Rules { allow: vec!["127.0.0.0/8".parse().unwrap()], ..Rules::default() };
    HttpClient::new(settings, Policy::load(&rules, None).unwrap()).unwrap()
}

async fn call(payload: Value) -> Result<Answer, CallError> {
    let prepared = prepare(&payload.to_string(), Some("run/node")).unwrap();
    client(Duration::from_millis(300), 10_000).call("default", prepared).await
}

async fn class(payload: Value) -> (Class, String) {
    let begun = Instant::now();
    let error = call(payload).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "{error:?}");
    (error.class, error.message)
}

#[tokio::test]
async fn a_good_answer() {
    let stub = Stub::start().await;
    let answer = call(json!({
        "method": "POST", "url": stub.url("/ok/x"), "query": {"a": "b c"},
        "headers": {"X-Trace": "t1"}, "body": {"n": 1}, "timeout_ms": 5000,
    }))
    .await
    .unwrap();
    assert_eq!(answer.output["status"], 200);
    assert_eq!(answer.output["body"], json!({"ok": true}));
    assert_eq!(answer.output["headers"]["content-type"], "application/json");
    assert!(answer.output["duration_ms"].is_u64());
    assert!(answer.output.get("retry_after_ms").is_none());

    let seen = stub.seen().pop().unwrap();
    assert_eq!(seen.line, "POST /ok/x?a=b+c HTTP/1.1");
    assert_eq!(seen.body, r#"{"n":1}"#);
    let head = seen.head.to_lowercase();
    for line in [
        "idempotency-key: run/node",
        "content-type: application/json",
        "content-length: 7",
        "x-trace: t1",
        "accept-encoding: gzip, br, zstd",
        &format!("host: {}", stub.address),
    ] {
        assert!(head.contains(&format!("{line}\r\n")), "{line} in {head}");
    }
    assert!(head.contains("user-agent: meshhook-sidecar/"));
}

#[tokio::test]
async fn any_status_is_an_answer_and_redirects_are_not_followed() {
    let stub = Stub::start().await;
    let answer = call(json!({"url": stub.url("/status/503")})).await.unwrap();
    assert_eq!((answer.status, &answer.output["body"]), (503, &json!("sorry")));
    assert_eq!(answer.output["retry_after_ms"], 1500);
    let answer = call(json!({"url": stub.url("/redirect")})).await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(stub.seen().len(), 2);
}

#[tokio::test]
async fn the_total_clock_covers_header_and_body() {
    let stub = Stub::start().await;
    let (kind, message) = class(json!({"url": stub.url("/stall"), "timeout_ms": 100})).await;
    assert_eq!(kind, Class::Timeout);
    assert!(message.contains("before the response began"), "{message}");
    let (kind, message) = class(json!({"url": stub.url("/drip"), "timeout_ms": 100})).await;
    assert_eq!(kind, Class::Timeout);
    assert!(message.contains("before the response was complete"), "{message}");
}

#[tokio::test]
async fn bodies_are_capped_while_they_stream() {
    let stub = Stub::start().await;
    assert!(call(json!({"url": stub.url("/sized/10000")})).await.is_ok());
    for path in ["/sized/10001", "/endless", "/announced"] {
        let (kind, message) = class(json!({"url": stub.url(path)})).await;
        assert_eq!(kind, Class::ResponseTooLarge, "{path}: {message}");
    }
    let (kind, message) = class(json!({"url": stub.url("/long-header")})).await;
    assert_eq!(kind, Class::ResponseTooLarge, "{message}");
    // A HEAD response announces a body that does not come.
    let head = json!({"url": stub.url("/announced"), "method": "HEAD"});
    assert_eq!(call(head).await.unwrap().output["body"], "");
}

#[tokio::test]
async fn compressed_bodies_are_read_up_to_the_same_cap() {
    let stub = Stub::start().await;
    for coding in ["gzip", "br", "zstd"] {
        let answer = call(json!({"url": stub.url(&format!("/packed/{coding}"))})).await.unwrap();
        assert_eq!(answer.output["body"], "0".repeat(1000), "{coding}");
        let headers = answer.output["headers"].as_object().unwrap();
        assert!(!headers.contains_key("content-encoding") && !headers.contains_key("content-length"));
        let (kind, message) = class(json!({"url": stub.url(&format!("/bomb/{coding}"))})).await;
        assert_eq!(
            (kind, message.contains("10000 bytes")),
            (Class::ResponseTooLarge, true),
            "{coding}: {message}"
        );
    }
    for path in ["/mislabelled", "/cut-gzip", "/wide-window"] {
        let (kind, message) = class(json!({"url": stub.url(path)})).await;
        assert_eq!((kind, message.contains("not compressed")), (Class::Io, true), "{path}: {message}");
    }
    // Whoever asks for the bytes as they are gets them so.
    let plain = json!({"url": stub.url("/sized/10"), "headers": {"accept-encoding": "identity"}});
    assert!(call(plain).await.is_ok());
    assert!(stub.seen().pop().unwrap().head.contains("accept-encoding: identity\r\n"));
}

#[tokio::test]
async fn the_response_has_a_clock_of_its_own_until_it_begins() {
    let stub = Stub::start().await;
    let (kind, message) =
        class(json!({"url": stub.url("/stall"), "timeout_ms": 60_000, "first_byte_timeout_ms": 100})).await;
    assert_eq!(
        (kind, message.contains("100 ms, before the response began")),
        (Class::Timeout, true),
        "{message}"
    );
    let drip = json!({"url": stub.url("/drip"), "timeout_ms": 300, "first_byte_timeout_ms": 200});
    let (kind, message) = class(drip).await;
    assert_eq!(
        (kind, message.contains("300 ms, before the response was complete")),
        (Class::Timeout, true),
        "{message}"
    );
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_asked() {
    let stub = Stub::start().await;
    let hops = |hops: u32, redirects: u32| json!({"url": stub.url(&format!("/hops/{hops}")), "method": "POST", "body": {"n": 1}, "redirects": redirects});
    let answer = call(hops(3, 3)).await.unwrap();
    assert_eq!((answer.status, &answer.output["body"]), (200, &json!({"ok": true})));
    let last = stub.seen().pop().unwrap();
    assert_eq!((&*last.line, &*last.body), ("POST /ok HTTP/1.1", r#"{"n":1}"#));
    let (kind, message) = class(hops(4, 3)).await;
    assert_eq!((kind, message.contains("more than 3 redirects")), (Class::Redirect, true), "{message}");
    assert_eq!(call(hops(1, 0)).await.unwrap().status, 307);
}

#[tokio::test]
async fn a_body_is_given_as_it_is_wanted() {
    let stub = Stub::start().await;
    let answer = call(json!({"url": stub.url("/ok"), "response": "text"})).await.unwrap();
    assert_eq!(answer.output["body"], r#"{"ok":true}"#);
    let answer = call(json!({"url": stub.url("/ok"), "response": "base64"})).await.unwrap();
    assert_eq!(
        (&answer.output["body"], &answer.output["body_encoding"]),
        (&json!("eyJvayI6dHJ1ZX0="), &json!("base64"))
    );
    let form = json!({"url": stub.url("/ok"), "method": "POST", "form": {"a": "b c"}});
    call(form).await.unwrap();
    let seen = stub.seen().pop().unwrap();
    assert!(seen.head.contains("content-type: application/x-www-form-urlencoded\r\n"));
    assert_eq!(seen.body, "a=b+c");
}

#[tokio::test]
async fn broken_connections_are_io() {
    let stub = Stub::start().await;
    for path in ["/too-short", "/reset", "/two-lengths", "/garbage", "/nothing"] {
        let (kind, message) = class(json!({"url": stub.url(path)})).await;
        assert_eq!(kind, Class::Io, "{path}: {message}");
        assert!(message.starts_with(&stub.address.to_string()), "{message}");
    }
}

#[tokio::test]
async fn no_connection() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (kind, message) = class(json!({"url": format!("http://{address}/?token=secret")})).await;
    assert_eq!(kind, Class::Connect, "{message}");
    assert!(!message.contains("secret"), "{message}");

    // RFC 6761: never resolves.
    let (kind, message) = class(json!({"url": "http://nowhere.invalid/"})).await;
    assert_eq!(kind, Class::Dns, "{message}");

    // Accepts, but never speaks TLS: the connect clock is over the handshake, too.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", mute.local_addr().unwrap());
    let (kind, message) = class(json!({"url": url})).await;
    assert_eq!(kind, Class::Connect, "{message}");
    assert!(message.contains("300 ms"), "{message}");

    // Answers the handshake with something else.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", plain.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 no\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let (kind, message) = class(json!({"url": url})).await;
    assert_eq!(kind, Class::Tls, "{message}");
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_says_nothing_of_the_host() {
    let stub = Stub::start().await;
    let oauth2 = json!({"token_url": stub.url("/stall"), "client_id": "us", "client_secret": "hush"});
    let payload = json!({"url": stub.url("/ok"), "timeout_ms": 200, "auth": {"oauth2": oauth2}});
    let (kind, message) = class(payload).await;
    assert_eq!(kind, Class::Auth);
    assert!(message.ends_with("timed out after 200 ms, before there was an access token"), "{message}");
}

#[tokio::test]
async fn pages_are_followed_as_the_server_says_and_told_without_secrets() {
    let key = "a-key-that-is-echoed";
    let server = meshhook_testkit::Stub::answering(move |request| {
        let next = if request.query.contains("page=2") {
            json!(null)
        } else {
            json!(format!("/list?key={key}&page=2"))
        };
        let item = json!([request.query, request.idempotency_key()]);
        meshhook_testkit::Reply::json(200, &json!({"items": [item], "next": next}))
    });
    let payload = json!({
        "method": "POST", "url": server.url(&format!("/list?key={key}")), "timeout_ms": 5_000,
        "pages": {"by": "url", "at": "/next", "items": "/items", "limit": 5},
    });
    let mut prepared = prepare(&payload.to_string(), Some("run/node")).unwrap();
    prepared.redactor.also("key", key);
    let answer = client(Duration::from_secs(1), 10_000).call("default", prepared).await.unwrap();
    let told = json!([["key=[secret key]", "run/node"], ["key=[secret key]&page=2", "run/node/2"]]);
    assert_eq!(answer.output["body"], told);
}
