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

/// More than a lease lasts, in seconds.
const LONG: i64 = 11;

impl Choice {
    /// What a byte of a schedule means. Small ones are steps, so that shrinking takes faults away.
    pub fn of(byte: u8) -> Self {
        use Actor::{Client, Executor, Orchestrator};
        let (what, much) = (byte % 32, byte / 32);
        let which = usize::from(much % 2);
        match what {
            0..=17 => {
                let actor = ACTORS[usize::from(what) % ACTORS.len()];
                Self::Steps(actor, times(actor, much))
            }
            18 => Self::Clock(1),
            19 => Self::Clock(3),
            20..=22 => Self::Clock(LONG),
            23 => Self::Fails(Orchestrator(which)),
            24 => Self::Dies(Orchestrator(which)),
            25 => Self::Dies(Executor(which)),
            26 => Self::Dies(Client(which)),
            27 => Self::LosesAnswer(Executor(which)),
            28 => Self::LosesAnswer(Client(which)),
            29 => Self::Renews(which),
            30 => Self::GivesBack(which),
            _ if much < 4 => Self::ServerCrashes,
            _ => Self::Steps(Orchestrator(which), u8::MAX),
        }
    }
}

/// How many steps: a part of a turn or several, for a turn has about ten; executors are often left between two.
fn times(actor: Actor, much: u8) -> u8 {
    match actor {
        Actor::Orchestrator(_) => [1, 2, 4, 8, 12, 16, 24, 32][usize::from(much)],
        Actor::Executor(_) => [1, 1, 2, 2, 3, 3, 4, 8][usize::from(much)],
        Actor::Client(_) => 1 + much,
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
