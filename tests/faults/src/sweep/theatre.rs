//! A cluster with a stage on it, which is set again after a play that went wrong: that may have left something behind.

use super::client::Client;
use super::play::{Kind, Traces, Trouble, message, perform};
use super::stage::{DATABASE, Scenario, Stage, points};
use super::{Case, Outcome, Undisturbed};
use meshhook_e2e::Database;
use meshhook_testkit::{Cluster, wait};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How long an orchestrator may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// One at a time is played on it. The cluster lasts as long as the program.
pub struct Theatre {
    pub cluster: &'static Cluster,
    set: Option<(Stage, Database<'static>)>,
}

impl Theatre {
    pub fn open() -> Theatre {
        Theatre { cluster: Box::leak(Box::new(Stage::cluster())), set: None }
    }

    fn stage(&mut self) -> &Stage {
        let cluster = self.cluster;
        let (stage, _) = self.set.get_or_insert_with(|| {
            // The one before may have been left because the server was away.
            let left = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
            Client::new(cluster, "postgres", "postgres").rows(&left, &[]);
            let database = Database::create(cluster, DATABASE);
            let stage = Stage::set(&database);
            wait::wait_for("an orchestrator", PATIENCE, || cluster.orchestrator(DATABASE).is_some());
            (stage, database)
        });
        stage
    }

    /// Plays a scenario without a crash.
    pub fn undisturbed(&mut self, scenario: &Scenario) -> Result<Undisturbed, Trouble> {
        let cluster = self.cluster;
        self.guarded(|stage| {
            let points = points(cluster);
            points.watch();
            let traces = perform(cluster, stage, scenario, None, None)?;
            Ok(Undisturbed { traces, reached: points.reached() })
        })
    }

    /// Plays it with one. A point that is not reached as often as without one is crashed at when it is reached first.
    pub fn crash(&mut self, scenario: &Scenario, expected: &Traces, mut case: Case) -> Outcome {
        let cluster = self.cluster;
        let begun = Instant::now();
        let play = |theatre: &mut Theatre, case: &Case| {
            theatre.guarded(|stage| perform(cluster, stage, scenario, Some(&case.crash), Some(expected)))
        };
        let mut result = play(self, &case);
        if result.as_ref().is_err_and(|trouble| trouble.kind == Kind::Unreached) && case.crash.nth > 1 {
            case.crash.nth = 1;
            result = play(self, &case);
        }
        Outcome { case, trouble: result.err(), took: begun.elapsed() }
    }

    /// Whatever goes wrong is trouble, and the stage is set anew after it.
    pub fn guarded<T>(&mut self, act: impl FnOnce(&Stage) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let result = catch_unwind(AssertUnwindSafe(|| act(self.stage())))
            .unwrap_or_else(|panic| Err(Trouble::new(Kind::Stuck, message(&*panic))));
        if result.as_ref().is_err_and(|trouble| trouble.kind != Kind::Unreached) {
            self.set = None;
        }
        result
    }
}
