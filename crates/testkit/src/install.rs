//! Which Postgres the tests run on, and as whom.

use std::fs;
use std::os::unix::fs::{chown, symlink};
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
    server_command_of(bin_dir(), program)
}

/// A server program of another folder than that of all others.
pub fn server_command_of(programs: &Path, program: &str) -> Command {
    let mut command = Command::new(programs.join(program));
    if let Some((user, group)) = server_account() {
        command.uid(user).gid(group);
    }
    for name in NOT_FOR_SERVERS {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").current_dir(TEMP_ROOT);
    command
}

/// Copies the server's installation below `folder`, as far as files must be the copy's own: `postgres`, and the folder
/// of extensions. Links stand for the rest. Returns the copy's folder of programs.
///
/// The server finds its files relative to its own program.
///
/// # Panics
/// When something cannot be copied.
pub fn copy_installation(folder: &Path) -> PathBuf {
    let share = PathBuf::from(pg_config("--sharedir"));
    let own = |path: &Path| folder.join(path.strip_prefix("/").unwrap_or(path));
    let programs = own(bin_dir());
    let copied = (|| {
        fs::create_dir_all(&programs)?;
        fs::copy(bin_dir().join("postgres"), programs.join("postgres"))?;
        let library = PathBuf::from(pg_config("--pkglibdir"));
        fs::create_dir_all(own(&library).parent().unwrap_or(folder))?;
        symlink(&library, own(&library))?;
        fs::create_dir_all(own(&share))?;
        for entry in fs::read_dir(&share)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name != "extension") {
                symlink(&path, own(&path))?;
            }
        }
        fs::create_dir_all(own(&share).join("extension"))?;
        for entry in fs::read_dir(share.join("extension"))? {
            let path = entry?.path();
            fs::copy(&path, own(&path))?;
        }
        std::io::Result::Ok(())
    })();
    copied.unwrap_or_else(|e| panic!("cannot copy the server's installation to {}: {e}", folder.display()));
    programs
}

/// The folder of the extensions of the installation copied to where `programs` lies.
pub(crate) fn extension_folder_of(programs: &Path) -> PathBuf {
    let (share, depth) = (PathBuf::from(pg_config("--sharedir")), bin_dir().components().count() - 1);
    let root = programs.ancestors().nth(depth).unwrap_or(programs);
    root.join(share.strip_prefix("/").unwrap_or(&share)).join("extension")
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

/// Initialises a data folder: superuser `postgres`, UTF-8, locale C, trust on loopback.
///
/// It is never a copy of another one. A copy has the same system identifier, and meshhook rightly takes a
/// database restored into it for the original.
pub fn init_data(data: &Path) {
    let output = server_command("initdb")
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .arg("--pgdata")
        .arg(data)
        .output()
        .unwrap_or_else(|e| panic!("cannot run initdb of {}: {e}", bin_dir().display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "initdb failed: {errors}");
}
