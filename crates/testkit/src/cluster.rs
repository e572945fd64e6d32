//! A private Postgres cluster in a temporary folder, with its own port, that a test may kill as it likes.

use crate::clock;
use crate::install;
use crate::process;
use crate::session::{Session, describe};
use crate::wait::{wait_for, wait_some};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postgres::config::Config;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How long a start, a stop or a connection may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports are drawn below the kernel's ephemeral range, so that a stopped cluster's port is not given away
/// to somebody's outgoing connection before the cluster comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How [`Cluster::stop`] asks the postmaster to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Roll back what runs, write a checkpoint, end.
    Fast,
    /// End at once without a checkpoint; the next start recovers.
    Immediate,
}

/// What a cluster is started with. Durable (`fsync = on`) and without meshhook's library unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct ClusterBuilder {
    preload: bool,
    fast: bool,
    kek: bool,
    clock: bool,
    own_files: bool,
    settings: Vec<(String, String)>,
}

impl ClusterBuilder {
    /// Loads meshhook at server start, so that launcher and orchestrators run.
    #[must_use]
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// Gives up durability (`fsync` and `synchronous_commit` off) for speed: a server that is killed may lose what it
    /// acknowledged within the last moments, and nothing in part.
    #[must_use]
    pub fn fast(mut self) -> Self {
        self.fast = true;
        self
    }

    /// Makes a key-encryption key and points `meshhook.kek_file` at it.
    #[must_use]
    pub fn kek(mut self, kek: bool) -> Self {
        self.kek = kek;
        self
    }

    /// Lets the test set the server's clock ([`Cluster::shift_clock`]).
    #[must_use]
    pub fn clock(mut self, own: bool) -> Self {
        self.clock = own;
        self
    }

    /// Runs the server from a copy of its installation, to whose extensions the test may add scripts
    /// ([`Cluster::extension_folder`]).
    #[must_use]
    pub fn own_files(mut self, own: bool) -> Self {
        self.own_files = own;
        self
    }

    /// Adds a line to `postgresql.conf`; the last one of a name wins.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Initialises and starts the cluster, and waits until it takes connections.
    ///
    /// # Panics
    /// When the server does not come up; the message holds the end of its log.
    pub fn start(self) -> Cluster {
        let mut cluster = Cluster::without_data();
        install::init_data(&cluster.data_dir());
        if self.clock {
            cluster.environment = clock::environment(cluster.dir());
        }
        if self.own_files {
            cluster.programs = Some(install::copy_installation(&cluster.dir().join("installation")));
        }
        if self.kek {
            let path = cluster.kek_file();
            fs::write(&path, random_key()).unwrap_or_else(|e| panic!("cannot write the KEK: {e}"));
            let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&path, owner_only).unwrap_or_else(|e| panic!("chmod of the KEK: {e}"));
            install::give_to_server(&path);
        }
        cluster.write_settings(&self);
        cluster.start();
        cluster
    }
}

/// A running cluster. Dropping it stops it at once and deletes its folder, unless the test is failing: then the
/// folder stays for inspection and its path is printed. Should the test process itself be killed, or keep the
/// cluster in a static, a watchdog process does the same when the test process ends.
pub struct Cluster {
    dir: Option<TempDir>,
    port: u16,
    /// Where `postgres` lies, if not where everything else does.
    programs: Option<PathBuf>,
    /// What the server finds in its environment.
    environment: Vec<(String, String)>,
    postmaster: Mutex<Option<Child>>,
    watchdog: Child,
}

impl Cluster {
    /// A cluster to be described and started.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// A folder and a port that are a cluster's once there is a data folder.
    pub(crate) fn without_data() -> Cluster {
        let dir = install::temp_dir();
        Cluster {
            port: free_port(),
            watchdog: watchdog(dir.path()),
            programs: None,
            environment: Vec::new(),
            postmaster: Mutex::new(None),
            dir: Some(dir),
        }
    }

    /// The cluster's folder: data, socket, log and KEK lie in it.
    pub fn dir(&self) -> &Path {
        match &self.dir {
            Some(dir) => dir.path(),
            None => unreachable!("the folder is given up in drop only"),
        }
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// The file `meshhook.kek_file` names when the cluster was built with a KEK.
    pub fn kek_file(&self) -> PathBuf {
        self.dir().join("kek")
    }

    /// TCP port on 127.0.0.1; the socket in [`Cluster::dir`] has the same number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection URL over TCP, as the sidecar and other programs take it.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The server's whole log so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Whether the server's log contains `text`.
    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Adds a line to `postgresql.conf` and has every process read it.
    pub fn set(&self, name: &str, value: &str) {
        self.add_setting(name, value);
        self.reload();
    }

    /// Adds a line to `postgresql.conf`; the last one of a name wins at the next start.
    pub fn add_setting(&self, name: &str, value: &str) {
        let line = format!("{name} = '{}'\n", value.replace('\'', "''"));
        let path = self.data_dir().join("postgresql.conf");
        let mut text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read settings: {e}"));
        text.push_str(&line);
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write settings: {e}"));
    }

    /// Sends the postmaster `SIGHUP`.
    pub fn reload(&self) {
        process::send(self.postmaster_pid(), rustix::process::Signal::HUP);
    }

    /// Process id of the running postmaster.
    ///
    /// # Panics
    /// When the cluster is stopped.
    pub fn postmaster_pid(&self) -> u32 {
        match &*self.postmaster() {
            Some(child) => child.id(),
            None => panic!("the cluster is stopped"),
        }
    }

    /// The folder of the server's extensions, which is the cluster's own when it was built so.
    ///
    /// # Panics
    /// When it was not.
    pub fn extension_folder(&self) -> PathBuf {
        match &self.programs {
            Some(programs) => install::extension_folder_of(programs),
            None => panic!("the cluster was built without own_files"),
        }
    }

    /// Starts a stopped cluster and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not; the message holds the end of the log.
    pub fn start(&self) {
        self.launch();
        let config = self.config("postgres", "postgres");
        wait_for("the server to take connections", PATIENCE, || {
            self.assert_running();
            Session::connect(&config).is_ok()
        });
    }

    /// Starts a stopped cluster and waits for nothing.
    pub fn launch(&self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir().join("log"))
            .unwrap_or_else(|e| panic!("cannot open the server's log: {e}"));
        let errors = log.try_clone().unwrap_or_else(|e| panic!("cannot share the server's log: {e}"));
        let mut command = install::server_command("postgres");
        if let Some(programs) = &self.programs {
            command = install::server_command_of(programs, "postgres");
        }
        let child = command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("-D")
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // A Ctrl-C in the terminal is for the tests; the cluster ends with them.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run postgres: {e}"));
        *self.postmaster() = Some(child);
    }

    /// Waits until the server has ended by itself.
    ///
    /// # Panics
    /// When it has not within a minute.
    pub fn wait_ended(&self) {
        wait_for("the server to end", PATIENCE, || match &mut *self.postmaster() {
            Some(child) => matches!(child.try_wait(), Ok(Some(_))),
            None => true,
        });
        *self.postmaster() = None;
    }

    /// Stops the cluster and waits until every one of its processes is gone.
    pub fn stop(&self, mode: StopMode) {
        self.end(match mode {
            StopMode::Fast => rustix::process::Signal::INT,
            StopMode::Immediate => rustix::process::Signal::QUIT,
        });
    }

    /// Kills the postmaster with `SIGKILL` and waits until its orphans have noticed: the harshest crash short
    /// of a power cut. [`Cluster::start`] then recovers.
    pub fn kill9_postmaster(&self) {
        self.end(rustix::process::Signal::KILL);
    }

    /// Stops and starts.
    pub fn restart(&self, mode: StopMode) {
        self.stop(mode);
        self.start();
    }

    fn end(&self, signal: rustix::process::Signal) {
        let Some(mut child) = self.postmaster().take() else {
            return;
        };
        let mut family = process::children(child.id());
        process::send(child.id(), signal);
        let waited = std::time::Instant::now();
        while !matches!(child.try_wait(), Ok(Some(_))) {
            assert!(waited.elapsed() < PATIENCE, "the server ignores {signal:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        family.push(child.id());
        process::wait_gone("the server's processes", &family, PATIENCE);
    }

    /// Keeps the folder when the test process ends, and says where it is. The first call counts.
    pub fn keep(&self) {
        keep(self.dir());
    }

    /// How to connect as `user` to `database` over TCP.
    pub fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .dbname(database)
            .application_name("meshhook-test")
            .connect_timeout(Duration::from_secs(10));
        config
    }

    /// Connects as `user` to `database`, waiting out a server that is still starting or recovering.
    ///
    /// # Panics
    /// When it refuses for another reason, or takes too long.
    #[track_caller]
    pub fn connect(&self, user: &str, database: &str) -> Session {
        let config = self.config(user, database);
        wait_some("a connection", PATIENCE, || match Session::connect(&config) {
            Ok(session) => Some(session),
            // An error of class 57P is "starting up" or "shutting down"; one without a code is no server yet.
            Err(e) => match e.code() {
                Some(code) if !code.code().starts_with("57P") => panic!("{}", describe(&e)),
                _ => None,
            },
        })
    }

    /// Connects as the superuser.
    #[track_caller]
    pub fn superuser(&self, database: &str) -> Session {
        self.connect("postgres", database)
    }

    /// Creates an empty database.
    pub fn create_empty_database(&self, name: &str) {
        self.superuser("postgres").exec(&format!("CREATE DATABASE \"{name}\""));
    }

    /// Creates a database with the extension in it.
    pub fn create_database(&self, name: &str) {
        self.create_empty_database(name);
        self.superuser(name).exec("CREATE EXTENSION meshhook");
    }

    /// A client program of the same installation (`psql`, `pg_dump`, …), connected by its environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(install::bin_dir().join(program));
        command
            .env("PGHOST", self.dir())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// Process ids and kinds of meshhook's background workers, over all databases.
    pub fn workers(&self) -> Vec<(i32, String, Option<String>)> {
        self.superuser("postgres")
            .rows(
                "SELECT pid, backend_type, datname::text FROM pg_catalog.pg_stat_activity \
                 WHERE backend_type LIKE 'meshhook%'",
                &[],
            )
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect()
    }

    /// Process id of the orchestrator that serves `database`, if one does.
    pub fn orchestrator(&self, database: &str) -> Option<i32> {
        self.workers()
            .into_iter()
            .find(|(_, _, served)| served.as_deref() == Some(database))
            .map(|(pid, _, _)| pid)
    }

    fn postmaster(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails with the log's end when the server has ended by itself.
    fn assert_running(&self) {
        if let Some(child) = &mut *self.postmaster()
            && let Ok(Some(status)) = child.try_wait()
        {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            let end: Vec<&str> = lines.into_iter().rev().collect();
            panic!("the server ended with {status}:\n{}", end.join("\n"));
        }
    }

    fn write_settings(&self, builder: &ClusterBuilder) {
        let dir = self.dir().display().to_string();
        let mut settings: Vec<(&str, String)> = vec![
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".into()),
            ("unix_socket_directories", dir),
            ("max_connections", "100".into()),
            // Enough orchestrators for a cluster that several tests share, a database each.
            ("max_worker_processes", "32".into()),
            ("shared_buffers", "64MB".into()),
            ("max_wal_size", "1GB".into()),
            ("log_line_prefix", "%m [%p] %b %d ".into()),
            ("log_min_messages", "info".into()),
        ];
        if builder.preload {
            settings.push(("shared_preload_libraries", "meshhook".into()));
        }
        if builder.fast {
            settings.extend(["fsync", "synchronous_commit", "full_page_writes"].map(|s| (s, "off".into())));
        }
        if builder.kek {
            settings.push(("meshhook.kek_file", self.kek_file().display().to_string()));
        }
        let own = builder.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let text: String = settings
            .into_iter()
            .chain(own)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        let path = self.data_dir().join("postgresql.conf");
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write settings: {e}"));
        install::give_to_server(&path);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            keep(&dir.keep());
        }
        if let Some(child) = &mut *self.postmaster() {
            process::send(child.id(), rustix::process::Signal::QUIT);
            let _ = child.wait();
        }
        // Closing its input lets the watchdog finish: nothing is left for it but the folder.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Marks a cluster's folder as wanted; the watchdog honours the mark.
fn keep(dir: &Path) {
    let mark = dir.join("keep");
    if !mark.exists() && fs::write(&mark, "").is_ok() {
        eprintln!("the cluster's folder is kept: {}", dir.display());
    }
}

/// Starts the process that ends the cluster in `dir` when this process is gone, however it ends.
///
/// It waits for the end of its input, whose other end only this process holds.
fn watchdog(dir: &Path) -> Child {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        cat >/dev/null
        pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
        # The file may be stale and its number reused: only a process started on this folder is meant.
        if [ -n "$pid" ] && grep -qsF -- "$1/data" "/proc/$pid/cmdline"; then
            kill -QUIT "$pid"
            while [ -e "/proc/$pid" ]; do sleep 0.05; done
        fi
        [ -e "$1/keep" ] && exit
        # A small disk lies in the folder.
        grep -sF " $1/" /proc/mounts | while read -r _ point _; do
            umount -l "$point" 2>/dev/null || sudo -n umount -l "$point"
        done
        rm -rf -- "$1"
    "#;
    Command::new("sh")
        .args(["-c", SCRIPT, "meshhook-watchdog"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run sh: {e}"))
}

/// A port nobody listens on now and no other cluster of this process was given.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Processes that test at the same time start far apart.
    let offset = u16::try_from((std::process::id() * 131) % u32::from(span)).unwrap_or(0);
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (offset + step % span) % span;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}")
}

/// A KEK file with one key: its id and 32 random bytes in base64.
fn random_key() -> String {
    let mut key = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut key))
        .unwrap_or_else(|e| panic!("no random bytes: {e}"));
    format!("test:{}\n", BASE64.encode(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_killed_postmaster_and_leaves_nothing_behind() {
        let cluster = Cluster::builder().setting("work_mem", "7MB").start();
        let dir = cluster.dir().to_owned();
        cluster.create_empty_database("shop");
        let mut session = cluster.superuser("shop");
        session.exec("CREATE TABLE t AS SELECT 1 AS x; DO $$ BEGIN RAISE NOTICE 'hello'; END $$");
        assert_eq!(session.take_notices()[0].message(), "hello");
        assert_eq!(session.value::<String>("SHOW work_mem", &[]), "7MB");
        assert_eq!(session.error("SELECT 1/0", &[]).code().code(), "22012");

        cluster.kill9_postmaster();
        cluster.start();
        assert_eq!(cluster.superuser("shop").value::<i32>("SELECT x FROM t", &[]), 1);
        assert!(cluster.log_contains("database system was not properly shut down"));

        cluster.set("work_mem", "9MB");
        wait_for("the reload", PATIENCE, || {
            cluster.superuser("shop").value::<String>("SHOW work_mem", &[]) == "9MB"
        });
        cluster.restart(StopMode::Fast);
        let output = cluster.command("psql").args(["-Atc", "SELECT 2", "shop"]).output();
        assert_eq!(output.expect("psql runs").stdout, b"2\n");
        assert!(cluster.workers().is_empty());

        let pid = cluster.postmaster_pid();
        drop(cluster);
        assert!(!process::is_alive(pid));
        assert!(!dir.exists());
    }
}
