//! Hosts with roots of their own, and those that ask who calls.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use http::Version;
use meshhook_sidecar::egress::policy::Policy;
use meshhook_sidecar::executor::http::{Class, HttpClient};
use meshhook_testkit::NameServer;
use serde_json::{Value, json};

use crate::authority::{Authority, TlsStub};
use crate::egress::{call, client, rules};

/// A policy file in `folder`, read.
pub fn policy(folder: &Path, text: &str) -> anyhow::Result<Policy> {
    let path = folder.join("policy.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Policy::load(&rules(&["127.0.0.1"]), Some(&path))
}

fn url(name: &str, stub: &TlsStub) -> Value {
    json!({"url": format!("https://{name}:{}/", stub.address.port())})
}

async fn secured(client: &HttpClient, project: &str, payload: &Value) {
    let answer = call(client, project, payload.clone()).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!((answer.status, &answer.output["body"]), (200, &json!("secured")));
}

async fn refused(client: &HttpClient, project: &str, payload: &Value) -> String {
    let error = call(client, project, payload.clone()).await.unwrap_err();
    assert_eq!(error.class, Class::Tls, "{}", error.message);
    error.message
}

#[tokio::test]
async fn calls_to_a_host_of_ones_own_authority_share_one_connection_of_http2() {
    let (folder, names, authority) = (tempfile::tempdir().unwrap(), NameServer::start(), Authority::new());
    authority.write(folder.path());
    let stub = TlsStub::start(&authority, "api.corp.example", false).await;
    names.set("api.corp.example", &[&["127.0.0.1"]]);
    let text = "[[hosts]]\nmatch = \"*.corp.example\"\nca = \"ca.pem\"\n";
    let client = client(&names, policy(folder.path(), text).unwrap());
    let to = url("api.corp.example", &stub);
    secured(&client, "default", &to).await;
    let (one, other, third) =
        (secured(&client, "a", &to), secured(&client, "b", &to), secured(&client, "c", &to));
    tokio::join!(one, other, third);
    let seen = stub.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|seen| (seen.connection, seen.version) == (1, Version::HTTP_2)), "{seen:?}");
    assert_eq!(seen[0].host, Some(format!("api.corp.example:{}", stub.address.port())));
}

#[tokio::test]
async fn the_roots_of_a_host_stand_in_place_of_others_and_for_it_alone() {
    let (folder, names) = (tempfile::tempdir().unwrap(), NameServer::start());
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.write(folder.path());
    let good = TlsStub::start(&authority, "good.example", false).await;
    let bad = TlsStub::start(&stranger, "good.example", false).await;
    names.set("good.example", &[&["127.0.0.1"]]);
    names.set("evil.example", &[&["127.0.0.1"]]);
    let port = good.address.port();
    let text = format!("[[hosts]]\nmatch = \"good.example:{port}\"\nca = \"ca.pem\"\n");
    let client = client(&names, policy(folder.path(), &text).unwrap());
    secured(&client, "default", &url("good.example", &good)).await;
    for (name, stub) in [("evil.example", &good), ("good.example", &bad), ("127.0.0.1", &good)] {
        let message = refused(&client, "default", &url(name, stub)).await;
        assert!(message.contains("certificate"), "{message}");
    }
    // An entry for the other server does not make it another name's.
    let any = policy(folder.path(), "[[hosts]]\nmatch = \"*.example\"\nca = \"ca.pem\"\n").unwrap();
    client.set_policy(any);
    refused(&client, "default", &url("evil.example", &good)).await;
    assert_eq!((good.seen().len(), bad.seen().len()), (1, 0));
}

#[tokio::test]
async fn a_client_certificate_is_shown_only_for_whom_it_is_and_never_by_a_connection_of_others() {
    let (folder, names, authority) = (tempfile::tempdir().unwrap(), NameServer::start(), Authority::new());
    authority.write(folder.path());
    let stub = TlsStub::start(&authority, "api.example", true).await;
    names.set("api.example", &[&["127.0.0.1"]]);
    let to = url("api.example", &stub);
    let entry = "[[hosts]]\nmatch = \"api.example\"\nca = \"ca.pem\"\n";
    let shown = "client_cert = \"client.pem\"\nclient_key = \"client.key\"\n";
    let text = format!("{entry}{shown}projects = [\"acme\"]\n");
    let client = client(&names, policy(folder.path(), &text).unwrap());
    secured(&client, "acme", &to).await;
    // The connection that acme opened is idle now, and its session could be resumed.
    for project in ["default", "other", "acme2"] {
        refused(&client, project, &to).await;
    }
    secured(&client, "acme", &to).await;
    assert!(stub.seen().iter().all(|seen| seen.knows_client && seen.connection == 1));
    assert_eq!(stub.seen().len(), 2);
    // It is for all, unless somebody is named.
    client.set_policy(policy(folder.path(), &format!("{entry}{shown}")).unwrap());
    secured(&client, "default", &to).await;
    // The first entry that means a host holds for it.
    client.set_policy(policy(folder.path(), &format!("{entry}{entry}{shown}")).unwrap());
    refused(&client, "default", &to).await;
    assert_eq!(stub.seen().len(), 3);
}

#[tokio::test]
async fn files_are_read_with_the_policy_and_faults_name_them() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write(folder.path());
    let at = |name: &str| folder.path().join(name);
    let fault = |lines: &str| {
        let loaded = policy(folder.path(), &format!("[[hosts]]\nmatch = \"a.example:8443\"\n{lines}"));
        format!("{:#}", loaded.unwrap_err())
    };
    std::fs::write(at("other.key"), authority.issue("other").key).unwrap();
    std::fs::write(at("nothing.pem"), "hunter2").unwrap();
    let (cert, key) = ("client_cert = \"client.pem\"\n", "client_key = \"client.key\"\n");
    for (lines, told) in [
        ("ca = \"missing.pem\"".to_owned(), "missing.pem"),
        ("ca = \"nothing.pem\"".to_owned(), "nothing.pem holds no certificate"),
        (cert.to_owned(), "belong together"),
        (key.to_owned(), "belong together"),
        ("projects = [\"acme\"]".to_owned(), "there is none"),
        (format!("{cert}{key}projects = []"), "names nobody"),
        (format!("{cert}client_key = \"other.key\""), "other.key is open to others"),
    ] {
        let text = fault(&lines);
        assert!(text.contains(told) && text.contains("policy.toml"), "{text}");
        assert!(text.contains("[[hosts]] a.example:8443") && !text.contains("hunter2"), "{text}");
    }
    std::fs::set_permissions(at("other.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = fault(&format!("{cert}client_key = \"other.key\""));
    assert!(text.contains("other.key does not go with"), "{text}");
    // A certificate that is renewed makes another policy, with the same words.
    let words = format!("[[hosts]]\nmatch = \"a.example\"\n{cert}{key}");
    let before = policy(folder.path(), &words).unwrap();
    assert_eq!(before, policy(folder.path(), &words).unwrap());
    authority.write(folder.path());
    assert_ne!(before, policy(folder.path(), &words).unwrap());
    assert!(!format!("{before:?}").contains("PRIVATE"));
}
