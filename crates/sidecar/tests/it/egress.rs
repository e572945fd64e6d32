//! Where calls go and where they never go, whatever leads there.

use std::net::SocketAddr;
use std::time::Duration;

use meshhook_sidecar::egress::policy::Policy;
use meshhook_sidecar::egress::rules::Rules;
use meshhook_sidecar::executor::http::{Answer, CallError, CallSettings, Class, HttpClient};
use meshhook_sidecar::executor::request::prepare;
use meshhook_testkit::NameServer;
use serde_json::{Value, json};

use crate::stub::Stub;

pub fn rules(allow: &[&str]) -> Rules {
    Rules { allow: allow.iter().map(|rule| rule.parse().unwrap()).collect(), ..Rules::default() }
}

fn policy(allow: &[&str]) -> Policy {
    Policy::load(&rules(allow), None).unwrap()
}

pub fn client(names: &NameServer, policy: Policy) -> HttpClient {
    client_asking(names.address(), policy)
}

fn client_asking(dns: SocketAddr, policy: Policy) -> HttpClient {
    let settings = CallSettings {
        connect_timeout: Duration::from_secs(1),
        dns_timeout: Duration::from_millis(500),
        dns: Some(dns),
        max_response_bytes: 10_000,
        idle_per_host: 4,
    };
    HttpClient::new(settings, policy).unwrap()
}

pub async fn call(client: &HttpClient, project: &str, payload: Value) -> Result<Answer, CallError> {
    client.call(project, prepare(&payload.to_string(), None).unwrap()).await
}

pub async fn forbidden(client: &HttpClient, payload: Value) -> String {
    let shown = payload.to_string();
    match call(client, "default", payload).await {
        Err(error) if error.class == Class::Forbidden && error.hopeless => error.message,
        other => panic!("{shown}: {other:?}"),
    }
}

#[tokio::test]
async fn no_spelling_of_an_address_leads_inside() {
    let (names, stub) = (NameServer::start(), Stub::start().await);
    let client = client(&names, policy(&[]));
    let port = stub.address.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.1",
        "127.0.0.1.",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[::127.0.0.1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
        "localhost",
        "sub.localhost",
    ] {
        let message = forbidden(&client, json!({"url": format!("http://{host}:{port}/ok")})).await;
        assert!(message.contains("must not be called"), "{message}");
    }
    assert!(stub.seen().is_empty());
}

#[tokio::test]
async fn names_are_vetted_by_what_they_lead_to() {
    let (names, stub) = (NameServer::start(), Stub::start().await);
    let client = client(&names, policy(&["127.0.0.1"]));
    let url = |name: &str| json!({"url": format!("http://{name}:{}/close", stub.address.port())});
    names.set("good.example", &[&["127.0.0.1"]]);
    assert_eq!(call(&client, "default", url("good.example")).await.unwrap().status, 200);
    // One bad address among good ones, of either kind.
    for all in [["127.0.0.1", "10.0.0.1"], ["127.0.0.1", "fd00::1"], ["127.0.0.1", "::ffff:169.254.169.254"]]
    {
        names.set("mixed.example", &[&all]);
        forbidden(&client, url("mixed.example")).await;
    }
    assert_eq!(stub.seen().len(), 1);
    let error = call(&client, "default", url("missing.example")).await.unwrap_err();
    assert_eq!((error.class, error.hopeless), (Class::Dns, false), "{}", error.message);
}

#[tokio::test]
async fn what_a_name_says_later_changes_nothing() {
    let (names, stub) = (NameServer::start(), Stub::start().await);
    let client = client(&names, policy(&["127.0.0.1"]));
    let url = json!({"url": format!("http://rebind.example:{}/close", stub.address.port())});
    // Within one call there is one question: the address that was vetted is the one that is dialled.
    names.set("rebind.example", &[&["127.0.0.1"], &["127.0.0.2"]]);
    assert_eq!(call(&client, "default", url.clone()).await.unwrap().status, 200);
    // The next connection asks again, and is vetted again.
    let message = forbidden(&client, url).await;
    assert!(message.contains("it leads to no address of the internet"), "{message}");
}

#[tokio::test]
async fn a_redirect_leads_nowhere_else() {
    let (names, stub) = (NameServer::start(), Stub::start().await);
    let client = client(&names, policy(&["127.0.0.1"]));
    names.set("inside.example", &[&["192.168.0.1"]]);
    for target in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://0xa9fea9fe/",
        "http://inside.example/",
        "http://127.0.0.2/",
        "//localhost/",
    ] {
        let path = format!("/to/{}", hex::encode(target));
        forbidden(&client, json!({"url": stub.url(&path), "redirects": 5})).await;
    }
    let path = format!("/to/{}", hex::encode(stub.url("/ok")));
    assert_eq!(
        call(&client, "default", json!({"url": stub.url(&path), "redirects": 5})).await.unwrap().status,
        200
    );
}

#[tokio::test]
async fn projects_share_no_connection_that_one_of_them_may_not_have() {
    let (names, stub) = (NameServer::start(), Stub::start().await);
    let file = tempfile(&format!("[projects.acme]\nallow = [\"127.0.0.1:{}\"]\n", stub.address.port()));
    let client = client(&names, Policy::load(&rules(&[]), Some(file.as_ref())).unwrap());
    let url = json!({"url": stub.url("/ok")});
    assert_eq!(call(&client, "acme", url.clone()).await.unwrap().status, 200);
    // The connection is open and idle now, and is acme's alone.
    forbidden(&client, url.clone()).await;
    client.set_policy(policy(&[]));
    let refused = call(&client, "acme", url.clone()).await.unwrap_err();
    assert_eq!(refused.class, Class::Forbidden);
    client.set_policy(policy(&["127.0.0.1"]));
    assert_eq!(call(&client, "default", url).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_name_server_that_says_nothing_is_not_waited_for() {
    let mute = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = client_asking(mute.local_addr().unwrap(), policy(&[]));
    let begun = std::time::Instant::now();
    let error = call(&client, "default", json!({"url": "http://slow.example/"})).await.unwrap_err();
    assert_eq!(error.class, Class::Dns, "{}", error.message);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

fn tempfile(text: &str) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file.into_temp_path()
}
