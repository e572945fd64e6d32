//! Engine, queue and workers in one process, under every fault and in any order. For tests only.
//!
//! The engine that is linked here is the real one. Around it is a model of what the extension does in SQL: the tables,
//! transactions that see what is committed as each statement begins, row locks, and the actors that use them. One list of
//! bytes says who makes the next step and what fails, so a history happens the same way every time, and proptest shrinks
//! it, workflows and all, to the shortest that still goes wrong. A step is one statement, one commit, or one call of the
//! outside world; between any two steps another actor may act, die, or lose its connection, and the server may crash.
//!
//! | question | file | the real code |
//! |---|---|---|
//! | Which workflows are there, and what must they come to? | `workflow.rs` | |
//! | Who acts, and what fails? | `schedule.rs` | |
//! | What do two transactions see of one row? | `table.rs` | PostgreSQL |
//! | Which tables are there? | `database.rs` | `sql/schema/` |
//! | What does a turn read and decide? | `orchestrator.rs` | `src/run/turn/`: `mod.rs`, `load.rs`, `redrive.rs`, `database.rs`, `unbegun.rs` |
//! | What does it write? | `batch.rs`, `write.rs` | `src/run/turn/`: `batch.rs`, `write.rs`, `children.rs` |
//! | How are jobs claimed, renewed, reported? | `executor.rs` | `src/job/mod.rs` |
//! | How are runs started and told something? | `client.rs` | `src/run/`: `start.rs`, `mod.rs`, `bulk.rs` |
//! | How is a history played? | `history.rs` | |
//! | What must hold? | `check.rs` | |
//! | How is one found that goes wrong? | `search.rs` | |
//! | What is broken on purpose? | `Bug` in `world.rs` | |
//!
//! **What must hold.** Whatever happened: once faults are over every run ends, and nothing is left of it in the inbox, among
//! jobs or timers. A run that nobody canceled ends as the engine alone says ([`meshhook_engine::simulate`]). Every log is
//! gapless and replays, and the run's row and what an orchestrator remembers say the same. Every result in a log is that of
//! a call made for exactly that attempt, under the run's one key for the node; what the database does itself was done
//! exactly once; no job is handed out after the end of its run; a key started one run, and everybody was told of that one; no
//! turn waits, and none violates a unique key.
//!
//! **Every rule is needed.** Each [`world::Bug`] breaks one, and `tests/teeth.rs` shows that it is found.
//!
//! **What it has found.** A job or timer that somebody holds as its run ends is left behind, and attempts are counted from 1
//! again after a redrive. The job stood in the way of the new one, and what became of it was taken for the new attempt's result:
//! [`world::Bug::LeftJobsStay`]. Since then a turn takes such jobs away before it reads the facts of a run that has ended;
//! where somebody still holds one, a redrive waits for the next turn (`src/run/turn/redrive.rs`).
//!
//! **What is left out.**
//!
//! - The text of SQL. That the statements do what the model says is for pg_regress and the isolation tests; what follows
//!   if they do is shown here, in orders that no test of a real server can force.
//! - The time within a statement. Its rows are read and locked at one moment; PostgreSQL looks at a row again after it
//!   has waited, which comes to the same for statements that speak of rows by their keys. A statement that has to wait is
//!   begun anew.
//! - Positions in the global order (`crates/order-model`), admission, schedules and snapshots: they decide when a run
//!   begins or what a turn need not read, not what follows from a fact. Two orchestrators stand for an orchestrator and
//!   sessions that call `tick()`, which remember less.
//! - Turns taken apart after an error of the data, forks, edits and overrides: each is one transaction of one run.
//! - Losing what was committed, as a server does that does not flush (`synchronous_commit`).

pub mod batch;
pub mod check;
pub mod client;
pub mod database;
pub mod executor;
pub mod history;
pub mod orchestrator;
pub mod schedule;
pub mod search;
pub mod table;
pub mod workflow;
pub mod world;
pub mod write;
