//! A `meshhook-sidecar` process: started, asked, stopped or killed.

use crate::cluster::Cluster;
use crate::http::{Response, request};
use crate::process;
use crate::wait::wait_for;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a sidecar may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a sidecar is started with.
#[derive(Clone, Debug)]
pub struct SidecarBuilder {
    user: String,
    database: String,
    port: u16,
    environment: Vec<(String, String)>,
}

impl SidecarBuilder {
    /// Connects to this port instead of the cluster's: that of a proxy before it.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets an environment variable, as `MESHHOOK_LEASE`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Panics
    /// When it ends or does not get ready; the message holds its log.
    pub fn start(self) -> Sidecar {
        let sidecar = self.spawn();
        wait_for("the sidecar to be ready", PATIENCE, || {
            sidecar.assert_running();
            sidecar.get("/readyz").is_some_and(|answer| answer.status == 200)
        });
        sidecar
    }

    /// Starts it without waiting: for sidecars that are not supposed to get ready.
    pub fn spawn(self) -> Sidecar {
        let address = free_address();
        let log = tempfile::NamedTempFile::new_in("/tmp").unwrap_or_else(|e| panic!("no log file: {e}"));
        let output = log.reopen().unwrap_or_else(|e| panic!("no log file: {e}"));
        let errors = log.reopen().unwrap_or_else(|e| panic!("no log file: {e}"));
        let mut command = self.command(address);
        let child = command.stdout(output).stderr(errors).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot run {}: {e}", program().display()));
        Sidecar { child: std::sync::Mutex::new(child), address, log }
    }

    /// Lets it look at its settings and end: whether it found nothing wrong, and what it said.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn check(self) -> (bool, String) {
        let checked = self.command(free_address()).arg("--check").output();
        let checked = checked.unwrap_or_else(|e| panic!("cannot run {}: {e}", program().display()));
        (checked.status.success(), String::from_utf8_lossy(&checked.stdout).into_owned())
    }

    fn command(&self, address: SocketAddr) -> Command {
        let mut command = Command::new(program());
        command
            .env(
                "MESHHOOK_DATABASE_URL",
                format!("postgres://{}@127.0.0.1:{}/{}", self.user, self.port, self.database),
            )
            .env("MESHHOOK_LISTEN", address.to_string())
            // The services of tests are on this machine, which nobody may call unless told so.
            .env("MESHHOOK_ALLOW", "127.0.0.1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }
}

/// A running sidecar. Dropping it kills it; when the test is failing its log is printed first.
pub struct Sidecar {
    child: std::sync::Mutex<Child>,
    address: SocketAddr,
    log: tempfile::NamedTempFile,
}

impl Sidecar {
    /// A sidecar that works on `database` as `user`.
    pub fn builder(cluster: &Cluster, user: &str, database: &str) -> SidecarBuilder {
        SidecarBuilder {
            user: user.into(),
            database: database.into(),
            port: cluster.port(),
            environment: Vec::new(),
        }
    }

    /// Where it listens for webhooks and probes.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// What it wrote to stdout and stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log.path()).unwrap_or_default()).into_owned()
    }

    /// Asks for a path; `None` while it does not listen.
    pub fn get(&self, path: &str) -> Option<Response> {
        request(self.address, "GET", path, &[], b"").ok()
    }

    /// Posts to a path.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn post(&self, path: &str, headers: &[(String, String)], body: &[u8]) -> Response {
        request(self.address, "POST", path, headers, body)
            .unwrap_or_else(|e| panic!("no answer to POST {path}: {e}\n{}", self.log()))
    }

    /// Kills it with `SIGKILL` and waits until it is gone.
    pub fn kill9(&self) {
        process::kill9(self.pid());
        self.wait_end();
    }

    /// Asks it with `SIGTERM` to drain and end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end, or not with exit code 0.
    pub fn terminate(&self) {
        process::terminate(self.pid());
        let status = self.wait_end();
        assert!(status.success(), "the sidecar ended with {status}:\n{}", self.log());
    }

    fn wait_end(&self) -> std::process::ExitStatus {
        crate::wait::wait_some("the sidecar to end", PATIENCE, || self.child().try_wait().ok().flatten())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn assert_running(&self) {
        if let Ok(Some(status)) = self.child().try_wait() {
            panic!("the sidecar ended with {status}:\n{}", self.log());
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the sidecar's log:\n{}", self.log());
        }
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The binary: `MESHHOOK_SIDECAR_BIN`, or the one beside the running test in the target folder.
///
/// # Panics
/// When there is none.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("MESHHOOK_SIDECAR_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_else(|e| panic!("no path of the test itself: {e}"));
    let mut folders = test.ancestors().skip(1).map(|folder| folder.join("meshhook-sidecar"));
    folders.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no meshhook-sidecar above {}; build it or set MESHHOOK_SIDECAR_BIN", test.display())
    })
}

/// A loopback address nobody listens on now.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("no loopback port: {e}"));
    listener.local_addr().unwrap_or_else(|e| panic!("no local address: {e}"))
}
