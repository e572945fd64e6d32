//! A clock of its own for a cluster: what the server takes for the time is put forward and back while it runs.
//!
//! A library (`clock.c`), preloaded into the server, adds what a file says to every time of day that is asked for. The
//! monotonic clock, which the server's waits go by, stays as it is: so it is on a machine whose clock is set.

use crate::cluster::Cluster;
use crate::install;
use crate::wait::wait_for;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the server may take to see another time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file below a cluster's folder that says how far its clock is off.
const FILE: &str = "clock";
const SOURCE: &str = include_str!("clock.c");

/// What a server needs in its environment for a clock that is right to begin with.
pub(crate) fn environment(dir: &Path) -> Vec<(String, String)> {
    let file = dir.join(FILE);
    fs::write(&file, 0_i64.to_ne_bytes()).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
    let variable = |name: &str, path: PathBuf| (name.to_owned(), path.display().to_string());
    vec![variable("LD_PRELOAD", library(dir)), variable("MESHHOOK_TEST_CLOCK", file)]
}

impl Cluster {
    /// Lets the server's clock go so many seconds before (or, negative, behind) the machine's.
    ///
    /// # Panics
    /// When the cluster was built without a clock of its own.
    pub fn shift_clock(&self, seconds: i64) {
        let file = File::options().write(true).open(self.dir().join(FILE));
        let written = file.and_then(|file| file.write_all_at(&seconds.to_ne_bytes(), 0));
        written.unwrap_or_else(|e| panic!("cannot set the clock (was the cluster built with one?): {e}"));
        let mut session = self.superuser("postgres");
        let sql = "SELECT extract(epoch FROM clock_timestamp())::float8";
        wait_for("the server to see the other time", PATIENCE, || {
            let now = std::time::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
            (session.value::<f64>(sql, &[]) - now - seconds as f64).abs() < 1.0
        });
    }
}

/// Compiles the library.
fn library(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    fs::write(&source, SOURCE).unwrap_or_else(|e| panic!("cannot write {}: {e}", source.display()));
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .output()
        .unwrap_or_else(|e| panic!("a clock of the server's own needs a C compiler, cc: {e}"));
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    install::give_to_server(&library);
    library
}
