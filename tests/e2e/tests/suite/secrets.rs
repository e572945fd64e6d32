//! Secrets that calls send: sealed outside, opened by the sidecar alone, and nowhere else in clear.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshhook_e2e::{Database, SOON, ended, publish, quick, start};
use meshhook_testkit::{Cluster, Reply, StopMode, Stub, process, sidecar, sign, wait_for};
use serde_json::{Value, json};

/// Not in any dictionary: wherever it stands, it leaked.
const CANARY: &str = "canary-7f3a\"9c/e1+b8d2";

/// A file with one fresh key.
pub(crate) fn keys() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let line = sidecar_says(&["secret", "key", "k1"], "");
    std::fs::write(file.path(), line).expect("written");
    file
}

/// What the sidecar's command prints, given something to read.
fn sidecar_says(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(sidecar::program())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains(CANARY), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn seal(keys: &Path, project: &str, name: &str, value: &str) -> String {
    let keys = keys.display().to_string();
    let sealed = sidecar_says(&["secret", "seal", name, "--project", project, "--secret-keys", &keys], value);
    sealed.trim().to_owned()
}

fn call(url: &str) -> Value {
    json!({"name": "pay", "nodes": [
        {"id": "call", "type": "http", "retry": quick(2), "with": {"method": "POST", "url": url,
            "headers": {"authorization": "Bearer {{ $secrets.api }}"}, "query": {"key": "{{ $secrets.api }}"},
            "body": {"token": "{{ $secrets.api }}", "order": "{{ .input.order }}"}}},
        {"id": "done", "type": "transform", "with": {"output": "{{ .nodes.call.output }}"}}],
        "edges": [{"from": "call", "to": "done"}]})
}

/// Every form in which something that leaked might stand somewhere.
fn forms(secret: &str) -> [String; 5] {
    let hex = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let quoted = Value::from(secret).to_string();
    let in_url = secret.replace('"', "%22").replace('/', "%2F").replace('+', "%2B");
    [secret.to_owned(), quoted.trim_matches('"').to_owned(), hex, STANDARD.encode(secret), in_url]
}

#[test]
fn a_secret_is_sent_and_stands_nowhere() {
    let cluster = meshhook_e2e::own_cluster(true);
    tell_everything(&cluster);
    let db = Database::create(&cluster, "secrets");
    let keys = keys();
    let stub = Stub::answering(|request| {
        // An echo of everything, as debugging services and some errors are.
        let echo = json!({"headers": request.headers, "query": request.query, "body": request.json()});
        let status = if request.json()["order"] == 13 { 500 } else { 200 };
        Reply::json(status, &echo).header("x-echo", request.header("authorization").unwrap_or_default())
    });
    let sealed = seal(keys.path(), "default", "api", &format!("{CANARY}\n"));
    let (mut app, mut admin) = (db.app(), db.admin());
    let missing = app.error("SELECT meshhook.publish_workflow($1)", &[&call(&stub.url("/"))]);
    assert!(missing.detail().is_some_and(|text| text.contains("there is no secret")), "{missing:?}");
    app.rows("SELECT meshhook.set_secret('api', $1)", &[&sealed]);
    publish(&mut app, &call(&stub.url("/")));

    let sidecar = db.sidecar().env("MESHHOOK_SECRET_KEYS", &keys.path().display().to_string());
    let sidecar = sidecar.env("MESHHOOK_LOG", "trace").start();
    let good = start(&mut app, "pay", &json!({"order": 1}));
    let bad = start(&mut app, "pay", &json!({"order": 13}));
    let answer = ended(&mut admin, good).output.expect("an output");
    let echoed = &answer["body"];
    assert_eq!(echoed["body"], json!({"token": "[secret api]", "order": 1}));
    assert_eq!(answer["headers"]["x-echo"], "Bearer [secret api]");
    assert_eq!(echoed["query"], "key=[secret api]");
    assert_eq!(ended(&mut admin, bad).status, "failed");

    // What is wrong with a secret is told without it.
    let moved = seal(keys.path(), "other", "api", CANARY);
    app.rows("SELECT meshhook.set_secret('api', $1)", &[&moved]);
    let id = start(&mut app, "pay", &json!({"order": 2}));
    let error = ended(&mut admin, id).error.expect("an error");
    assert_eq!(error["class"], "secret");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("another project")), "{error}");

    // The rows that hold what was sealed, and what came back, stand in full in what violates a constraint.
    admin.exec("CREATE UNIQUE INDEX sealed_once ON meshhook.secret (sealed)");
    let again = app.error("SELECT meshhook.set_secret('again', $1)", &[&moved]);
    assert!(again.detail().is_some_and(|text| text.contains(&moved)), "{again:?}");
    app.rows("SELECT meshhook.set_secret('api', $1)", &[&sealed]);
    admin.exec(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE 'refused' USING ERRCODE = 'check_violation', DETAIL = NEW::text; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON meshhook.inbox FOR EACH ROW WHEN (NEW.kind = 'job.completed')
             EXECUTE FUNCTION public.refuse()",
    );
    let id = start(&mut app, "pay", &json!({"order": 3}));
    let error = ended(&mut admin, id).error.expect("an error");
    assert_eq!(error["class"], "response_rejected", "{error}");

    for form in forms(CANARY) {
        assert_eq!(db.places_of(&form, &sidecar), [""; 0], "{form}");
    }
    // The search finds what is there, and all is told.
    assert!(db.places_of("[secret api]", &sidecar).contains(&"the dump".to_owned()));
    let log = cluster.log();
    let told = |start: &str, text: &str| log.lines().any(|line| line.contains(start) && line.contains(text));
    assert!(told("DETAIL:", r#"""token"": ""[secret api]"""#), "no row in an error's detail");
    assert!(told("DETAIL:", &format!("(sealed)=({moved})")), "no key in an error's detail");
    assert!(log.contains("Query Text: "), "no plans");

    let canaries = forms(CANARY);
    let mut texts: Vec<&str> = canaries.iter().map(String::as_str).collect();
    texts.push("[secret api]");
    let servers = process::children(cluster.postmaster_pid());
    let found = process::in_memory(&servers, &texts);
    assert_eq!(found, BTreeSet::from(["[secret api]"]), "in the memory of the server's processes");
}

/// Has the server log all that it can.
fn tell_everything(cluster: &Cluster) {
    let mut settings = vec![
        ("shared_preload_libraries", "meshhook,auto_explain"),
        ("log_statement", "all"),
        ("log_min_duration_statement", "0"),
        ("log_error_verbosity", "verbose"),
        ("log_parameter_max_length", "-1"),
        ("log_parameter_max_length_on_error", "-1"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_verbose", "on"),
        ("auto_explain.log_nested_statements", "on"),
    ];
    let version: i32 =
        cluster.superuser("postgres").value("SELECT current_setting('server_version_num')::integer", &[]);
    if version >= 160_000 {
        settings.push(("auto_explain.log_parameter_max_length", "-1"));
    }
    for (name, value) in settings {
        cluster.add_setting(name, value);
    }
    cluster.restart(StopMode::Fast);
}

#[test]
fn a_sidecar_that_crashes_leaves_no_core() {
    let db = Database::preloaded("no_core");
    let sidecar = db.sidecar().start();
    let may_dump = |pid| {
        let limits = process::limits(pid);
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        !core.split_ascii_whitespace().skip(4).eq(["0", "0", "bytes"])
    };
    assert!(!may_dump(sidecar.pid()));

    // It waits for the secret that it is to seal, where cores are wanted.
    let folder = tempfile::tempdir().expect("a folder");
    let keys = keys();
    let mut child = Command::new("sh")
        .args(["-c", r#"ulimit -c unlimited; exec "$0" "$@""#])
        .arg(sidecar::program())
        .args(["secret", "seal", "api", "--secret-keys"])
        .arg(keys.path())
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.as_mut().expect("a pipe").write_all(CANARY.as_bytes()).expect("written");
    wait_for("cores to be forbidden", SOON, || !may_dump(child.id()));
    process::abort(child.id());
    let status = child.wait().expect("it ends");
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0, "a core");
}

#[test]
fn clear_text_is_no_secret_for_the_database() {
    let db = Database::preloaded("clear_text");
    let mut app = db.app();
    for value in ["hunter2", "mhs1:", "mhs1:k1:", "mhs1::YQ==", "mhs1:k1:not base64"] {
        let error = app.error("SELECT meshhook.set_secret('api', $1)", &[&value]);
        assert!(error.message().contains("not a value that a sidecar has sealed"), "{value}: {error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    for name in ["", "a-b", "1a", "a b"] {
        let error = app.error("SELECT meshhook.set_secret($1, 'mhs1:k1:YQ==')", &[&name]);
        assert!(error.message().contains("cannot be the name of a secret"), "{name:?}: {error:?}");
    }
    app.rows("SELECT meshhook.set_secret('api', 'mhs1:k1:YQ==')", &[]);
    assert_eq!(app.value::<String>("SELECT name || key FROM meshhook.secrets", &[]), "apik1");
    app.rows("SELECT meshhook.drop_secret('api')", &[]);
    assert!(app.error("SELECT meshhook.drop_secret('api')", &[]).message().contains("there is no secret"));
    let acts =
        db.admin().values::<String>("SELECT action FROM meshhook.audit_log WHERE action ~ '^secret'", &[]);
    assert_eq!(acts, ["secret.set", "secret.dropped"]);
}

#[test]
fn the_command_hands_a_secret_over_and_the_newest_key_seals() {
    let db = Database::preloaded("handed_over");
    let keys = keys();
    let url = format!("postgres://{}@127.0.0.1:{}/{}", meshhook_e2e::APP, db.cluster.port(), db.name);
    let file = keys.path().display().to_string();
    let set = |value: &str| {
        sidecar_says(&["secret", "set", "api", "--database-url", &url, "--secret-keys", &file], value)
    };
    set("first");
    let key = |db: &Database| db.app().value::<String>("SELECT key FROM meshhook.secrets", &[]);
    assert_eq!(key(&db), "k1");
    let older = std::fs::read_to_string(keys.path()).expect("read");
    std::fs::write(keys.path(), sidecar_says(&["secret", "key", "k2"], "") + &older).expect("written");
    set("second");
    assert_eq!(key(&db), "k2");

    let stub = Stub::start();
    stub.script("/", [Reply::json(200, &json!("ok"))]);
    publish(&mut db.app(), &call(&stub.url("/")));
    let _sidecar = db.sidecar().env("MESHHOOK_SECRET_KEYS", &file).start();
    let id = start(&mut db.app(), "pay", &json!({"order": 1}));
    assert_eq!(ended(&mut db.admin(), id).status, "succeeded");
    assert_eq!(stub.received()[0].header("authorization"), Some("Bearer second"));
}

#[test]
fn calls_are_signed_as_webhooks_are() {
    let db = Database::preloaded("signed_calls");
    let keys = keys();
    let seal = |name: &str, value: &str| {
        let sealed = seal(keys.path(), "default", name, value);
        db.app().execute("SELECT meshhook.set_secret($1, $2)", &[&name, &sealed]).expect("kept");
    };
    let (old, new) = ("whsec_b2xkIGtleSBvZiB0aGUgaG9vaw==", "whsec_bmV3IGtleSBvZiB0aGUgaG9vaw==");
    seal("hook_7", &format!("{old} {new}"));
    let stub = Stub::start();
    stub.script("/hook", [Reply::status(500), Reply::status(200)]);
    let path = keys.path().display().to_string();
    let _sidecar = db.sidecar().env("MESHHOOK_SECRET_KEYS", &path).start();
    let mut app = db.app();
    let definition = json!({"name": "tell", "nodes": [
        {"id": "call", "type": "http", "retry": quick(3), "with": {"method": "POST", "url": stub.url("/hook"),
            "auth": {"standard_webhooks": {"secret_name": "{{ .input.hook }}"}}, "body": {"order": "{{ .input.order }}"}}}]});
    publish(&mut app, &definition);
    let id = start(&mut app, "tell", &json!({"hook": "hook_7", "order": 7}));
    assert_eq!(ended(&mut db.admin(), id).status, "succeeded");
    let received = stub.received_at("/hook");
    assert_eq!(received.len(), 2);
    for request in &received {
        let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
        let at = header("webhook-timestamp").parse().expect("seconds");
        for secret in [old, new] {
            let expected = sign::standard(secret, &header("webhook-id"), at, &request.body);
            let (_, signature) = expected.last().expect("a signature");
            assert!(header("webhook-signature").split(' ').any(|one| one == signature), "{secret}");
        }
    }
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
}

#[test]
fn an_access_token_is_fetched_once_and_anew_when_it_is_refused() {
    let db = Database::preloaded("oauth");
    let keys = keys();
    let sealed = seal(keys.path(), "default", "client", CANARY);
    db.app().execute("SELECT meshhook.set_secret('client', $1)", &[&sealed]).expect("kept");
    let issued = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let (counter, revoked) = (issued.clone(), issued.clone());
    let in_form = CANARY.replace('"', "%22").replace('/', "%2F").replace('+', "%2B");
    let credentials = format!("Basic {}", STANDARD.encode(format!("me:{in_form}")));
    let stub = Stub::answering(move |request| {
        if request.path == "/token" {
            if request.header("authorization") != Some(&*credentials) {
                return Reply::json(401, &json!({"error": "invalid_client"}));
            }
            let number = 1 + counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            return Reply::json(
                200,
                &json!({"access_token": format!("token-of-the-canary-{number}"),
                "token_type": "Bearer", "expires_in": 3600}),
            );
        }
        // The first token is good for three calls.
        let token = request.header("authorization").unwrap_or_default().to_owned();
        let first = token.ends_with("-1");
        match request.json()["order"].as_i64() {
            Some(order) if first && order > 3 => Reply::status(401),
            _ if revoked.load(std::sync::atomic::Ordering::SeqCst) == 0 => Reply::status(403),
            _ => Reply::json(200, &json!({"echo": token})),
        }
    });
    let path = keys.path().display().to_string();
    let _sidecar = db.sidecar().env("MESHHOOK_SECRET_KEYS", &path).start();
    let mut app = db.app();
    let definition = json!({"name": "ask", "nodes": [
        {"id": "call", "type": "http", "with": {"method": "POST", "url": stub.url("/"), "body": {"order": "{{ .input.order }}"},
            "auth": {"oauth2": {"token_url": stub.url("/token"), "client_id": "me", "client_secret": "{{ $secrets.client }}"}}}}]});
    publish(&mut app, &definition);
    for order in 1..=5 {
        let id = start(&mut app, "ask", &json!({"order": order}));
        let run = ended(&mut db.admin(), id);
        assert_eq!(run.status, "succeeded", "{:?}", run.error);
        let output = run.output.expect("an output").to_string();
        assert!(
            output.contains("[secret access_token]") && !output.contains("token-of-the-canary"),
            "{output}"
        );
    }
    assert_eq!(issued.load(std::sync::atomic::Ordering::SeqCst), 2);
}
