//! Python programs beside the tests: environments that hold what they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a program that must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The interpreter of a virtual environment that holds what a file of requirements names, from PyPI and compiled.
/// Made anew when there is none, when it was not finished, or when it is for other versions, of them or of Python:
/// `probe` is a statement that works in it.
pub fn environment(folder: &Path, requirements: &Path, options: &[&str], probe: &str) -> PathBuf {
    let (python, finished) = (folder.join("bin/python"), folder.join("finished"));
    let wanted =
        fs::read_to_string(requirements).unwrap_or_else(|e| panic!("{}: {e}", requirements.display()));
    let works = || Command::new(&python).args(["-c", probe]).output();
    let there = fs::read_to_string(&finished).is_ok_and(|text| text == wanted);
    if there && works().is_ok_and(|output| output.status.success()) {
        return python;
    }
    let _ = fs::remove_dir_all(folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(folder));
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"])
        .args(options)
        .arg("--requirement")
        .arg(requirements));
    fs::write(&finished, wanted).unwrap_or_else(|e| panic!("{}: {e}", finished.display()));
    python
}
