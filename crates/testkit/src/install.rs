//! Which Postgres the tests run on, and as whom: installation found by `pg_config`, `initdb` done once.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Environment variables that name the `pg_config` to use, in the order they are looked at.
const PG_CONFIG_VARIABLES: [&str; 2] = ["MESHHOOK_PG_CONFIG", "PG_CONFIG"];

/// What of the tests' environment must not reach a server: another cluster's address, and what makes pgrx
/// add stack traces to errors.
const NOT_FOR_SERVERS: [&str; 9] = [
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGDATA",
    "PGOPTIONS",
    "PGSERVICE",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
];

/// Where temporary folders go. A socket's path must stay below about 100 bytes, so never `$TMPDIR`.
const TEMP_ROOT: &str = "/tmp";

/// The folder of the server's binaries, from `MESHHOOK_PG_CONFIG`, `PG_CONFIG` or the `pg_config` on the path.
pub fn bin_dir() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| PathBuf::from(pg_config("--bindir")))
}

/// One answer of `pg_config`, trimmed.
///
/// # Panics
/// When there is no `pg_config`.
pub fn pg_config(option: &str) -> String {
    let program = PG_CONFIG_VARIABLES
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "pg_config".into());
    let output = Command::new(&program)
        .arg(option)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program} (set MESHHOOK_PG_CONFIG): {e}"));
    assert!(output.status.success(), "{program} {option} failed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The account the server runs under when the tests run as root, which Postgres refuses: user and group id.
pub fn server_account() -> Option<(u32, u32)> {
    static ACCOUNT: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *ACCOUNT.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = passwd.lines().find(|line| line.starts_with("postgres:"));
        let mut fields = line.unwrap_or_default().split(':').skip(2);
        let mut id = || fields.next().and_then(|field| field.parse().ok());
        match (id(), id()) {
            (Some(user), Some(group)) => Some((user, group)),
            _ => panic!("tests that run as root need a user named postgres"),
        }
    })
}

/// A server program, run under the server's account.
pub fn server_command(program: &str) -> Command {
    let mut command = Command::new(bin_dir().join(program));
    if let Some((user, group)) = server_account() {
        command.uid(user).gid(group);
    }
    for name in NOT_FOR_SERVERS {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").current_dir(TEMP_ROOT);
    command
}

/// A new temporary folder that belongs to the server's account.
pub fn temp_dir() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("meshhook-")
        .tempdir_in(TEMP_ROOT)
        .unwrap_or_else(|e| panic!("cannot make a folder in {TEMP_ROOT}: {e}"));
    give_to_server(dir.path());
    dir
}

/// Makes a file or folder belong to the server's account.
pub fn give_to_server(path: &Path) {
    if let Some((user, group)) = server_account() {
        chown(path, Some(user), Some(group))
            .unwrap_or_else(|e| panic!("cannot chown {}: {e}", path.display()));
    }
}

/// Writes a freshly initialised data folder to `data` (superuser `postgres`, UTF-8, locale C, trust on loopback).
///
/// `initdb` runs once per process; later calls copy its result.
pub fn init_data(data: &Path) {
    static TEMPLATE: OnceLock<Vec<(PathBuf, Node)>> = OnceLock::new();
    let mut first = false;
    let template = TEMPLATE.get_or_init(|| {
        first = true;
        run_initdb(data);
        let mut nodes = Vec::new();
        collect(data, Path::new(""), &mut nodes);
        nodes
    });
    if first {
        return;
    }
    for (path, node) in template {
        let target = data.join(path);
        let (written, mode) = match node {
            Node::Folder => (fs::create_dir(&target), 0o700),
            Node::File(content) => (fs::write(&target, content), 0o600),
        };
        written
            .and_then(|()| fs::set_permissions(&target, PermissionsExt::from_mode(mode)))
            .unwrap_or_else(|e| panic!("cannot write {}: {e}", target.display()));
        give_to_server(&target);
    }
}

/// One entry of the initialised folder. The copy is kept in memory, about 40 MB, so that no folder outlives
/// its cluster.
enum Node {
    Folder,
    File(Vec<u8>),
}

fn run_initdb(data: &Path) {
    let output = server_command("initdb")
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .arg("--pgdata")
        .arg(data)
        .output()
        .unwrap_or_else(|e| panic!("cannot run initdb of {}: {e}", bin_dir().display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "initdb failed: {errors}");
}

/// Reads a folder into `nodes`, parents before their children.
fn collect(root: &Path, below: &Path, nodes: &mut Vec<(PathBuf, Node)>) {
    let fail = |e: std::io::Error| -> ! { panic!("cannot read {}: {e}", root.display()) };
    nodes.push((below.to_owned(), Node::Folder));
    for entry in fs::read_dir(root.join(below)).unwrap_or_else(|e| fail(e)) {
        let entry = entry.unwrap_or_else(|e| fail(e));
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            collect(root, &path, nodes);
        } else {
            let content = fs::read(entry.path()).unwrap_or_else(|e| fail(e));
            nodes.push((path, Node::File(content)));
        }
    }
}
