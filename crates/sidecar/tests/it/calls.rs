//! What the HTTP client makes of servers that behave, and of those that do not.

use std::time::{Duration, Instant};

use meshhook_sidecar::executor::http::{Answer, CallError, Class, HttpClient};
use meshhook_sidecar::executor::request::prepare;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::stub::Stub;

async fn call(payload: Value) -> Result<Answer, CallError> {
    let client = HttpClient::new(Duration::from_millis(300), 10_000, 4).unwrap();
    client.call(prepare(&payload.to_string(), Some("run/node")).unwrap()).await
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
        "accept-encoding: identity",
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
