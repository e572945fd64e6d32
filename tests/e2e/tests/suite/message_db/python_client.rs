//! The Python client of Message DB, as it is published, works with ours as it does with the original.
//!
//! `tests/message-db/python_client.py` is what it does, `requirements.txt` beside it what it is. The client comes
//! from PyPI into a virtual environment in the target folder, once.

use super::{Kind, on_own};
use meshhook_testkit::message_db::ROLE;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The folder of the script and its requirements.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../message-db")
}

/// Runs a program that must succeed.
#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The interpreter of an environment that holds the client in the version required. Made anew when there is none,
/// when it was not finished, or when it is for other versions, of the client or of Python.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("message-db-client");
        let (python, finished) = (environment.join("bin/python"), environment.join("finished"));
        let requirements = folder().join("requirements.txt");
        let wanted =
            fs::read_to_string(&requirements).unwrap_or_else(|e| panic!("{}: {e}", requirements.display()));
        let works = || Command::new(&python).args(["-c", "import message_db.client"]).output();
        let there = fs::read_to_string(&finished).is_ok_and(|text| text == wanted);
        if there && works().is_ok_and(|output| output.status.success()) {
            return python;
        }
        let _ = fs::remove_dir_all(&environment);
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(&requirements));
        fs::write(&finished, wanted).unwrap_or_else(|e| panic!("{}: {e}", finished.display()));
        python
    })
}

#[test]
fn the_python_client_works_unchanged() {
    on_own("python", &Kind::ALL, |store| {
        let url = store.database.cluster.url(ROLE, &store.database.name);
        let script = folder().join("python_client.py");
        let output = run(Command::new(python()).arg("-I").arg(script).arg(url));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.ends_with("10 scenarios\n"), "{text}");
    });
}
