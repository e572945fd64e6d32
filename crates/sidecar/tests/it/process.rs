//! The binary itself, with a database that is not there.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;

fn sidecar() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshhook-sidecar"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn it_waits_for_its_database_and_ends_when_told() {
    // Port 1: nobody listens there.
    let mut child = sidecar()
        .env("MESHHOOK_DATABASE_URL", "postgres://ann:hunter2@127.0.0.1:1/app")
        .args(["--listen", "127.0.0.1:0", "--drain", "1s"])
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    let mut until = |message: &str| loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "ended before {message:?}: {seen}");
        seen.push_str(&line);
        let entry: Value = serde_json::from_str(&line).expect("the log is JSON");
        if entry["message"].as_str().is_some_and(|text| text.starts_with(message)) {
            return entry;
        }
    };
    let settings = until("starting");
    assert_eq!(settings["database"], "postgres://ann@127.0.0.1:1/app?sslmode=prefer");
    assert_eq!((&settings["per_host"], &settings["drain"]), (&16.into(), &"1s".into()));
    // Said once, in either order.
    let (mut listening, mut unavailable) = (false, false);
    while !(listening && unavailable) {
        let entry = until("");
        let message = entry["message"].as_str().unwrap();
        listening |= message == "listening";
        unavailable |= message.starts_with("database unavailable");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    until("drained");
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    seen.push_str(&rest);
    assert!(!seen.contains("hunter2"), "{seen}");
    assert_eq!(seen.matches("database unavailable").count(), 1, "{seen}");
}

#[test]
fn a_policy_that_is_wrong_changes_nothing_and_shows_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let proxy = "proxy = \"http://ann:hunter2@proxy.corp:3128\"\n";
    write(proxy);
    let mut child = sidecar()
        .env("MESHHOOK_DATABASE_URL", "postgres://ann@127.0.0.1:1/app")
        .args(["--listen", "127.0.0.1:0", "--drain", "1s", "--log", "debug", "--policy"])
        .arg(&path)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut until = |message: &str| loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "ended before {message:?}");
        assert!(!line.contains("hunter2"), "{line}");
        let entry: Value = serde_json::from_str(&line).expect("the log is JSON");
        if entry["message"].as_str().is_some_and(|text| text.starts_with(message)) {
            return entry["error"].as_str().unwrap_or_default().to_owned();
        }
    };
    let signal = |signal| {
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    };
    until("listening");
    for (text, told) in [
        (format!("{proxy}[[hosts]]\nmatch = \"a.example\"\nca = \"missing.pem\"\n"), "missing.pem"),
        (format!("{proxy}proxy = \"http://ann:hunter2@again\"\n"), "line 2"),
    ] {
        write(&text);
        signal(rustix::process::Signal::HUP);
        let error = until("the rules for calls stay as they were");
        assert!(error.contains("policy.toml") && error.contains(told), "{error}");
    }
    write(&format!("{proxy}deny = [\"a.example\"]\n"));
    signal(rustix::process::Signal::HUP);
    until("read the rules for calls again");
    signal(rustix::process::Signal::TERM);
    until("drained");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_faulty_connection_string_is_refused_unquoted() {
    let run =
        sidecar().args(["--database-url", "postgres://ann:hunter2@h/app?colour=hunter2"]).output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(text.contains("--database-url") && !text.contains("hunter2"), "{text}");
}

#[test]
fn help_names_every_variable() {
    let run = sidecar().arg("--help").stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success());
    // Asked for by hand, never by the environment.
    let is_setting = |line: &&str| line.trim_start().starts_with("--") && !line.contains("--check");
    let flags = text.lines().filter(is_setting).count();
    assert_eq!(text.matches("[env: MESHHOOK_").count(), flags, "{text}");
    assert!(text.contains("THE DATABASE ROLE"));
}
