//! Who makes the next steps, and which fault happens: a schedule is a list of bytes, each of which means the same
//! wherever it stands, so that a shorter list is a schedule too.

use std::fmt;

/// Who acts. The number tells two of a kind apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Takes turns.
    Orchestrator(usize),
    /// Claims jobs, calls the outside world, reports.
    Executor(usize),
    /// Starts runs and interferes.
    Client(usize),
}

/// How many there are of each kind.
pub const OF_EACH: usize = 2;

/// Everybody.
pub const ACTORS: [Actor; 3 * OF_EACH] = [
    Actor::Orchestrator(0),
    Actor::Executor(0),
    Actor::Client(0),
    Actor::Orchestrator(1),
    Actor::Executor(1),
    Actor::Client(1),
];

/// One element of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// An actor makes so many steps; a step is one statement, a commit, or a call of the outside world.
    Steps(Actor, u8),
    /// Time passes, in seconds.
    Clock(i64),
    /// The statement under way fails for a reason that has nothing to do with the run, and its transaction with it.
    Fails(Actor),
    /// The process dies; another one takes its place and knows nothing.
    Dies(Actor),
    /// The connection is lost during a commit, which the server carries out.
    LosesAnswer(Actor),
    /// An executor renews its leases.
    Renews(usize),
    /// An executor gives its jobs back.
    GivesBack(usize),
    /// The server dies and is started again.
    ServerCrashes,
}

/// More than a lease lasts.
const LONG: i64 = 11;

impl Choice {
    /// What a byte of a schedule means. Small ones are steps, so that shrinking takes faults away.
    pub fn of(byte: u8) -> Self {
        use Actor::{Client, Executor, Orchestrator};
        let times = 1 + byte / 32 * 2;
        match byte % 32 {
            n @ 0..=17 => Self::Steps(ACTORS[usize::from(n) % ACTORS.len()], times),
            18 => Self::Clock(1),
            19 => Self::Clock(3),
            20 => Self::Clock(LONG),
            21 => Self::Fails(Orchestrator(usize::from(times / 2 % 2))),
            22 => Self::Dies(Orchestrator(usize::from(times / 2 % 2))),
            n @ (23 | 24) => Self::Dies(Executor(usize::from(n - 23))),
            n @ (25 | 26) => Self::LosesAnswer(Executor(usize::from(n - 25))),
            27 => Self::LosesAnswer(Client(usize::from(times / 2 % 2))),
            28 => Self::Dies(Client(usize::from(times / 2 % 2))),
            29 => Self::Renews(usize::from(times / 2 % 2)),
            30 => Self::GivesBack(usize::from(times / 2 % 2)),
            _ => Self::ServerCrashes,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orchestrator(i) => write!(f, "orchestrator {}", i + 1),
            Self::Executor(i) => write!(f, "executor {}", i + 1),
            Self::Client(i) => write!(f, "client {}", i + 1),
        }
    }
}
