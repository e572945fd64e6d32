//! The Python client of Message DB, as it is published, works with ours as it does with the original.
//!
//! `tests/message-db/python_client.py` is what it does, `requirements.txt` beside it what it is. The client comes
//! from PyPI into a virtual environment in the target folder, once.

use super::{Kind, on_own};
use meshhook_e2e::python::{self, run};
use meshhook_testkit::message_db::ROLE;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the script and its requirements.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../message-db")
}

/// The interpreter of an environment that holds the client in the version required.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("message-db-client");
        let requirements = folder().join("requirements.txt");
        python::environment(&environment, &requirements, &["--no-deps"], "import message_db.client")
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
