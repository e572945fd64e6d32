//! The faults: a schedule drawn from a seed, and whoever carries it out.

use fastrand::Rng;
use meshhook_e2e::EXECUTOR;
use meshhook_testkit::{Cluster, Proxy, Sidecar, SidecarBuilder, process};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::caller::Caller;
use super::people::Doors;

/// What is done to the parts of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `pg_terminate_backend` of the orchestrator.
    EndOrchestrator,
    /// `pg_terminate_backend` of the sidecars' connections.
    EndSidecars,
    /// `pg_terminate_backend` of everybody else's connections.
    EndClients,
    /// SIGKILL of the orchestrator: the server goes through recovery.
    KillOrchestrator,
    /// SIGKILL of some client's backend: the same.
    KillBackend,
    /// SIGKILL of the postmaster, and a new one.
    KillPostmaster,
    /// SIGKILL of a sidecar, and a new one.
    KillSidecar,
    /// A sidecar stands still for longer than its leases.
    StopSidecar,
    /// Every connection is cut on its way.
    Cut,
    /// Nobody gets through for a while.
    Refuse,
    /// Everything takes long for a while.
    Delay,
    /// What commits is not told.
    LoseAnswers,
}

/// All kinds, with their names and how often each is drawn beside the others: recovery takes its time, in which
/// nothing else can happen.
pub const KINDS: [(Kind, &str, usize); 12] = [
    (Kind::EndOrchestrator, "end-orchestrator", 3),
    (Kind::EndSidecars, "end-sidecars", 2),
    (Kind::EndClients, "end-clients", 2),
    (Kind::KillOrchestrator, "kill-orchestrator", 2),
    (Kind::KillBackend, "kill-backend", 2),
    (Kind::KillPostmaster, "kill-postmaster", 2),
    (Kind::KillSidecar, "kill-sidecar", 2),
    (Kind::StopSidecar, "stop-sidecar", 2),
    (Kind::Cut, "cut", 3),
    (Kind::Refuse, "refuse", 1),
    (Kind::Delay, "delay", 1),
    (Kind::LoseAnswers, "lose-answers", 4),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = KINDS.iter().find(|(kind, ..)| kind == self).map_or("", |(_, name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || KINDS.map(|(_, name, _)| name).join(", ");
        let found = KINDS.iter().find(|(_, name, _)| *name == text).map(|(kind, ..)| *kind);
        found.ok_or_else(|| format!("no fault is called \"{text}\"; there are {}", known()))
    }
}

/// A fault and when it comes, in milliseconds after the round's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub at_ms: u64,
    pub kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}@{}ms", self.kind, self.at_ms)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, at) =
            text.split_once('@').ok_or_else(|| format!("{text}: a fault is <kind>@<milliseconds>ms"))?;
        let at_ms = at.trim_end_matches("ms").parse().map_err(|e| format!("{text}: {e}"))?;
        Ok(Fault { at_ms, kind: kind.parse()? })
    }
}

/// Draws a schedule: one of `kinds` every 0.8 to 3.2 seconds, up to `span_ms`.
pub fn schedule(rng: &mut Rng, kinds: &[Kind], span_ms: u64) -> Vec<Fault> {
    let weighted: Vec<Kind> = KINDS
        .iter()
        .filter(|(kind, ..)| kinds.contains(kind))
        .flat_map(|(kind, _, weight)| std::iter::repeat_n(*kind, *weight))
        .collect();
    let mut schedule = Vec::new();
    let mut at_ms = rng.u64(500..1_500);
    while at_ms < span_ms && !weighted.is_empty() {
        schedule.push(Fault { at_ms, kind: weighted[rng.usize(..weighted.len())] });
        at_ms += rng.u64(800..3_200);
    }
    schedule
}

/// The orchestrator of the round's database among the server's processes.
const ORCHESTRATOR: &str = "datname = current_database() AND backend_type = 'meshhook orchestrator'";

/// What a sidecar is started with, again and again.
fn sidecar(cluster: &Cluster, proxy: &Proxy, database: &str) -> SidecarBuilder {
    Sidecar::builder(cluster, EXECUTOR, database)
        .port(proxy.port())
        .env("MESHHOOK_LEASE", "2s")
        .env("MESHHOOK_POLL", "1s")
}

/// Something that is taken back later.
type Relief<'a> = Box<dyn FnOnce() + 'a>;

/// Carries faults out.
pub struct Injector<'a> {
    cluster: &'a Cluster,
    proxy: &'a Proxy,
    database: String,
    data_files: &'a [(String, String)],
    doors: &'a Doors,
    sidecars: Vec<Sidecar>,
    /// What is to be taken back, and when.
    reliefs: Vec<(Instant, Relief<'a>)>,
    admin: Caller,
    rng: Rng,
    /// How many of each kind were carried out.
    pub done: BTreeMap<Kind, u64>,
}

impl<'a> Injector<'a> {
    /// Starts the sidecars and waits for nothing.
    pub fn new(
        cluster: &'a Cluster,
        proxy: &'a Proxy,
        database: &str,
        data_files: &'a [(String, String)],
        doors: &'a Doors,
        rng: Rng,
    ) -> Self {
        let sidecars: Vec<Sidecar> = (0..2).map(|_| sidecar(cluster, proxy, database).spawn()).collect();
        doors.move_to(sidecars.iter().map(Sidecar::address).collect());
        Self {
            cluster,
            proxy,
            database: database.to_owned(),
            data_files,
            doors,
            sidecars,
            reliefs: Vec::new(),
            admin: Caller::new(cluster.config("postgres", database)),
            rng,
            done: BTreeMap::new(),
        }
    }

    /// Takes back what has lasted long enough.
    pub fn relieve(&mut self, now: Instant) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.reliefs).into_iter().partition(|(at, _)| *at <= now);
        self.reliefs = later;
        due.into_iter().for_each(|(_, relief)| relief());
    }

    /// Takes everything back. Returns what it finds broken that it did not break.
    pub fn heal(&mut self) -> Vec<String> {
        for (_, relief) in std::mem::take(&mut self.reliefs) {
            relief();
        }
        self.proxy.heal();
        let gone = self.sidecars.iter().filter(|sidecar| !process::is_alive(sidecar.pid()));
        gone.map(|sidecar| format!("a sidecar ended by itself:\n{}", sidecar.log())).collect()
    }

    fn later(&mut self, after_ms: u64, relief: impl FnOnce() + 'a) {
        self.reliefs.push((Instant::now() + Duration::from_millis(after_ms), Box::new(relief)));
    }

    /// Has the server end the processes of its that are meant; whether there were any.
    fn end(&mut self, which: &str) -> bool {
        let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}");
        self.admin.ask(|client| client.query(&sql, &[])).is_ok_and(|rows| !rows.is_empty())
    }

    /// Kills one of the processes that are meant; whether there was one.
    fn kill(&mut self, which: &str) -> bool {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE {which} ORDER BY backend_start");
        let Ok(rows) = self.admin.ask(|client| client.query(&sql, &[])) else { return false };
        let Some(row) = rows.get(self.rng.usize(..rows.len().max(1))) else { return false };
        let pid: i32 = row.get(0);
        process::kill9(pid.unsigned_abs());
        true
    }

    /// Carries a fault out; one that finds nobody to hit does nothing and does not count.
    pub fn strike(&mut self, kind: Kind) {
        let mine = "datname = current_database() AND pid <> pg_backend_pid()";
        let hit = match kind {
            Kind::EndOrchestrator => self.end(ORCHESTRATOR),
            Kind::EndSidecars => {
                self.end(&format!("{mine} AND usename = '{EXECUTOR}' AND application_name <> 'judge'"))
            }
            Kind::EndClients => self.end(&format!("{mine} AND application_name = 'judge'")),
            Kind::KillOrchestrator => self.kill(ORCHESTRATOR),
            Kind::KillBackend => self.kill(&format!("{mine} AND backend_type = 'client backend'")),
            Kind::KillPostmaster => {
                self.cluster.kill9_postmaster();
                put_files(self.cluster, self.data_files);
                self.cluster.start();
                true
            }
            Kind::KillSidecar => {
                let index = self.rng.usize(..self.sidecars.len());
                self.sidecars[index].kill9();
                self.sidecars[index] = sidecar(self.cluster, self.proxy, &self.database).spawn();
                self.doors.move_to(self.sidecars.iter().map(Sidecar::address).collect());
                true
            }
            Kind::StopSidecar => {
                let held = process::hold(self.sidecars[self.rng.usize(..self.sidecars.len())].pid());
                self.later(3_500, move || drop(held));
                true
            }
            Kind::Cut => self.proxy.cut() > 0,
            Kind::Refuse => {
                let proxy = self.proxy;
                proxy.refuse(true);
                proxy.cut();
                self.later(1_000, || proxy.refuse(false));
                true
            }
            Kind::Delay => {
                let proxy = self.proxy;
                proxy.delay(Duration::from_millis(self.rng.u64(20..150)));
                self.later(2_500, || proxy.delay(Duration::ZERO));
                true
            }
            Kind::LoseAnswers => {
                // What reports, starts and is told, more often than claims, which are many.
                let words = ["meshhook.", "complete", "start_run", "claim"];
                self.proxy.lose_answers(self.rng.usize(1..5), words[self.rng.usize(..words.len())]);
                true
            }
        };
        *self.done.entry(kind).or_default() += u64::from(hit);
    }
}

/// Puts files into the data folder, as an operator would.
pub fn put_files(cluster: &Cluster, files: &[(String, String)]) {
    for (name, content) in files {
        let path = cluster.data_dir().join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        meshhook_testkit::install::give_to_server(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_as_it_is_told() {
        let all = KINDS.map(|(kind, ..)| kind);
        let schedule = schedule(&mut Rng::with_seed(4), &all, 600_000);
        assert!(schedule.len() > 200 && schedule.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
        for fault in &schedule {
            assert_eq!(fault.to_string().parse(), Ok(*fault));
        }
        let drawn: std::collections::BTreeSet<Kind> = schedule.iter().map(|fault| fault.kind).collect();
        assert_eq!(drawn.len(), all.len(), "every kind is drawn");
        assert_eq!(super::schedule(&mut Rng::with_seed(4), &[], 60_000), []);
        assert!("kill-moon@1ms".parse::<Fault>().is_err() && "cut@soon".parse::<Fault>().is_err());
    }
}
