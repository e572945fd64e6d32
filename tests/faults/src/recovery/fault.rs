//! The faults, and what a supervisor does about each.

use super::scene::Scene;
use meshhook_e2e::{APP, SOON};
use meshhook_testkit::wait::wait_some;
use meshhook_testkit::{StopMode, process};

/// One kind of fault.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// `pg_terminate_backend` of the orchestrator
    OrchestratorTerminated,
    /// The sidecar is killed with jobs in its hands; another one is started
    SidecarKilled,
    /// The server is stopped in its proper way and started
    FastRestart,
    /// The orchestrator dies, which takes the server through crash recovery
    OrchestratorKilled,
    /// The same by a client's backend
    BackendKilled,
    /// The postmaster dies; the server is started
    PostmasterKilled,
    /// The primary dies; its synchronous standby is promoted, and everybody connects there
    StandbyPromoted,
}

impl Fault {
    /// Each once; the one after which there is another server comes last.
    pub const ALL: [Fault; 7] = [
        Fault::OrchestratorTerminated,
        Fault::SidecarKilled,
        Fault::FastRestart,
        Fault::OrchestratorKilled,
        Fault::BackendKilled,
        Fault::PostmasterKilled,
        Fault::StandbyPromoted,
    ];

    /// What it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Fault::OrchestratorTerminated => "orchestrator terminated",
            Fault::SidecarKilled => "sidecar killed -9, another one started",
            Fault::FastRestart => "server restarted (fast)",
            Fault::OrchestratorKilled => "orchestrator killed -9",
            Fault::BackendKilled => "a client's backend killed -9",
            Fault::PostmasterKilled => "postmaster killed -9, started",
            Fault::StandbyPromoted => "primary killed -9, standby promoted",
        }
    }

    /// Causes it, and does what is to be done about it.
    pub fn cause(self, scene: &Scene) {
        let cluster = scene.server();
        match self {
            Fault::OrchestratorTerminated => {
                let pid = orchestrator(scene);
                scene.admin().exec(&format!("SELECT pg_terminate_backend({pid})"));
            }
            Fault::SidecarKilled => scene.replace_sidecar(),
            Fault::FastRestart => cluster.restart(StopMode::Fast),
            Fault::OrchestratorKilled => kill9(orchestrator(scene)),
            Fault::BackendKilled => {
                let backend = "SELECT pid FROM pg_stat_activity
                     WHERE usename = $1 AND datname = current_database() LIMIT 1";
                kill9(scene.admin().value(backend, &[&APP]));
            }
            Fault::PostmasterKilled => {
                cluster.kill9_postmaster();
                cluster.start();
            }
            Fault::StandbyPromoted => scene.promote(),
        }
    }
}

fn orchestrator(scene: &Scene) -> i32 {
    wait_some("an orchestrator", SOON, || scene.server().orchestrator(scene.database()))
}

fn kill9(pid: i32) {
    process::kill9(u32::try_from(pid).unwrap_or_else(|_| panic!("{pid} is no process id")));
}
