//! Calls through a proxy: what it is told, and what it is never asked.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use meshhook_sidecar::egress::policy::Policy;
use meshhook_sidecar::executor::http::{Class, HostClass};
use meshhook_testkit::NameServer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{Authority, TlsStub};
use crate::egress::{call, client, forbidden, rules};
use crate::secured::policy;
use crate::stub::Stub;

/// A proxy that opens ways, and keeps what it was asked.
#[derive(Clone)]
struct Proxy {
    address: SocketAddr,
    /// Where it goes for names: it has a hosts file of its own.
    names_are: SocketAddr,
    answer: &'static str,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(names_are: SocketAddr, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self { address, names_are, answer, asked: Arc::default() };
        let server = proxy.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream));
            }
        });
        proxy
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap() == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap();
        self.asked.lock().unwrap().push(head.clone());
        stream.write_all(format!("HTTP/1.1 {}\r\n\r\n", self.answer).as_bytes()).await.unwrap();
        let target = head.split(' ').nth(1).unwrap();
        if self.answer.starts_with("200") {
            let mut way = TcpStream::connect(target.parse().unwrap_or(self.names_are)).await.unwrap();
            // Ends when either hangs up.
            let _ = copy_bidirectional(&mut stream, &mut way).await;
        }
    }

    /// Where it was asked to open ways to.
    fn ways(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let words = asked.iter().map(|head| head.split(' ').take(2).collect::<Vec<_>>());
        words
            .map(|words| if words[0] == "CONNECT" { words[1].to_owned() } else { panic!("{words:?}") })
            .collect()
    }
}

#[tokio::test]
async fn a_proxy_is_told_the_vetted_address_and_the_host_its_name() {
    let (folder, names, authority) = (tempfile::tempdir().unwrap(), NameServer::start(), Authority::new());
    authority.write(folder.path());
    let secured = TlsStub::start(&authority, "api.example", false).await;
    let plain = Stub::start().await;
    let proxy = Proxy::start(plain.address, "200 OK").await;
    names.set("api.example", &[&["127.0.0.1"]]);
    names.set("proxy.corp", &[&["127.0.0.1"]]);
    let text = format!(
        "proxy = \"http://ann:hunter2@proxy.corp:{}\"\n[[hosts]]\nmatch = \"api.example\"\nca = \"ca.pem\"\n",
        proxy.address.port()
    );
    let client = client(&names, policy(folder.path(), &text).unwrap());
    let over_tls = json!({"url": format!("https://api.example:{}/", secured.address.port())});
    assert_eq!(call(&client, "default", over_tls).await.unwrap().output["body"], "secured");
    let host = format!("api.example:{}", secured.address.port());
    assert_eq!(secured.seen()[0].host.as_deref(), Some(&*host));
    let in_clear = json!({"url": format!("http://api.example:{}/ok", plain.address.port())});
    let answer = call(&client, "default", in_clear).await.unwrap();
    assert_eq!((answer.status, answer.host), (200, HostClass::Private));
    assert!(plain.seen()[0].head.contains(&format!("host: api.example:{}\r\n", plain.address.port())));
    // For http as for https a way to an address, and nothing of the call itself.
    assert_eq!(proxy.ways(), [secured.address.to_string(), plain.address.to_string()]);
    for head in &*proxy.asked.lock().unwrap() {
        assert!(head.contains("Proxy-Authorization: Basic YW5uOmh1bnRlcjI=\r\n"), "{head}");
    }
    assert!(!secured.seen().is_empty() && !plain.seen()[0].head.contains("YW5u"));
}

#[tokio::test]
async fn what_rules_forbid_is_not_asked_of_a_proxy() {
    let (folder, names, stub) = (tempfile::tempdir().unwrap(), NameServer::start(), Stub::start().await);
    let proxy = Proxy::start(stub.address, "200 OK").await;
    names.set("inside.example", &[&["10.0.0.1"]]);
    names.set("mixed.example", &[&["127.0.0.1", "169.254.169.254"]]);
    let port = proxy.address.port();
    let line = format!("proxy = \"http://127.0.0.1:{port}\"\n");
    let client = client(&names, policy(folder.path(), &line).unwrap());
    for host in ["10.0.0.1", "169.254.169.254", "inside.example", "mixed.example", "[::1]", "localhost"] {
        forbidden(&client, json!({"url": format!("http://{host}/")})).await;
    }
    // Whoever looks names up is not asked for addresses that are forbidden, nor for names that are.
    let resolving =
        policy(folder.path(), &format!("{line}proxy_resolves = true\ndeny = [\"*.bad.example\"]\n"));
    client.set_policy(resolving.unwrap());
    for host in ["10.0.0.1", "[::ffff:169.254.169.254]", "0x7f.2", "localhost", "a.internal", "a.bad.example"]
    {
        forbidden(&client, json!({"url": format!("https://{host}/")})).await;
    }
    assert!(proxy.ways().is_empty());
    // An address that may be called goes the same way as ever.
    assert_eq!(call(&client, "default", json!({"url": stub.url("/ok")})).await.unwrap().status, 200);
    assert_eq!(proxy.ways(), [stub.address.to_string()]);
}

#[tokio::test]
async fn names_that_nobody_here_knows_are_for_a_proxy_that_looks_them_up() {
    let (folder, names, stub) = (tempfile::tempdir().unwrap(), NameServer::start(), Stub::start().await);
    let general = Proxy::start(stub.address, "200 OK").await;
    let special = Proxy::start(stub.address, "200 OK").await;
    let (one, two) = (general.address.port(), special.address.port());
    let text = format!(
        r#"
        proxy = "http://127.0.0.1:{one}"
        [[hosts]]
        match = "*.outside.example"
        proxy = "http://127.0.0.1:{two}"
        proxy_resolves = true
        [[hosts]]
        match = "127.0.0.1"
        proxy = "direct"
        "#
    );
    let client = client(&names, policy(folder.path(), &text).unwrap());
    let get = |host: &str| json!({"url": format!("http://{host}/close")});
    let answer = call(&client, "default", get("a.outside.example:8000")).await.unwrap();
    assert_eq!((answer.status, answer.host), (200, HostClass::Unknown));
    assert_eq!(special.ways(), ["a.outside.example:8000"]);
    let error = call(&client, "default", get("unknown.example")).await.unwrap_err();
    assert_eq!(error.class, Class::Dns, "{}", error.message);
    assert_eq!(call(&client, "default", get(&stub.address.to_string())).await.unwrap().status, 200);
    assert!(general.ways().is_empty());
    assert_eq!((special.ways().len(), stub.seen().len()), (1, 2));
}

#[tokio::test]
async fn a_proxy_that_does_not_do_its_part_is_no_secret_and_tells_none() {
    let (folder, names, stub) = (tempfile::tempdir().unwrap(), NameServer::start(), Stub::start().await);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut hosts: Vec<(String, &str)> = Vec::new();
    for (answer, told) in
        [("407 Who", "authorization required"), ("503 No", "unsuccessful"), ("", "unsuccessful")]
    {
        let port = Proxy::start(stub.address, answer).await.address.port();
        hosts.push((format!("127.0.0.1:{port}"), told));
    }
    hosts.extend([
        (format!("127.0.0.1:{gone}"), "refused"),
        ("nowhere.corp:3128".to_owned(), "its name is not known"),
    ]);
    for (at, told) in hosts {
        let text = format!("proxy = \"http://ann:hunter2@{at}\"\n");
        let client = client(&names, policy(folder.path(), &text).unwrap());
        let error = call(&client, "default", json!({"url": stub.url("/ok")})).await.unwrap_err();
        assert_eq!((error.class, error.hopeless), (Class::Connect, false), "{}", error.message);
        let message = error.message;
        assert!(message.contains("the proxy opened no way") && message.contains(told), "{message}");
        let [place, name] = [at.as_str(), "nowhere.corp"];
        assert!([place, name, "hunter2"].iter().all(|hidden| !message.contains(hidden)), "{message}");
    }
    assert!(stub.seen().is_empty());
}

#[tokio::test]
async fn a_file_with_a_password_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    policy(folder.path(), "proxy = \"http://ann:hunter2@127.0.0.1:3128\"\n").unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let read = || Policy::load(&rules(&[]), Some(&path)).map_err(|error| format!("{error:#}"));
    assert!(read().unwrap_err().contains("policy.toml is open to others"));
    std::fs::write(&path, "proxy = \"http://127.0.0.1:3128\"\n").unwrap();
    assert!(read().is_ok());
    for wrong in ["\nproxy = \"ann:hunter2@proxy\"", "\nproxy = [\"http://ann:hunter2@proxy\"]"] {
        std::fs::write(&path, wrong).unwrap();
        let text = read().unwrap_err();
        assert!(text.contains("policy.toml") && !text.contains("hunter2"), "{text}");
    }
}
