//! One history: a case is workflows, what clients do, and a schedule; everything follows from it.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::check;
use crate::client::{Client, Op};
use crate::executor::Executor;
use crate::orchestrator::Orchestrator;
use crate::schedule::{ACTORS, Actor, Choice, OF_EACH};
use crate::workflow::{Kind, Luck, Shape, Workflows};
use crate::world::{Bug, Progress, World};

/// Most nodes of a workflow.
const MAX_NODES: usize = 4;
/// Most elements of a schedule.
const MAX_CHOICES: usize = 48;
/// Most rounds of the tail: far more than any history needs.
const MAX_ROUNDS: usize = 2_000;
/// Most steps that an actor makes in a round.
const MAX_STEPS: usize = 200;

/// A history before it happens.
#[derive(Clone, Debug)]
pub struct Case {
    /// The nodes of the workflow that clients start.
    pub parent: Vec<Shape>,
    /// Those of the one that its nodes start.
    pub child: Vec<Shape>,
    /// The input of the runs.
    pub input: i64,
    /// What each session of the client does.
    pub scripts: [Vec<Op>; OF_EACH],
    /// Who makes which steps, and which faults happen; see [`Choice::of`].
    pub schedule: Vec<u8>,
}

fn shape(kinds: &'static [Kind]) -> impl Strategy<Value = Shape> {
    let luck = prop_oneof![
        4 => Just(Luck::Fails(0)),
        2 => Just(Luck::Fails(1)),
        1 => Just(Luck::Fails(2)),
        1 => Just(Luck::Never),
    ];
    (prop::sample::select(kinds), luck, vec(0u8..32, 1..3)).prop_map(|(kind, luck, after)| Shape {
        kind,
        luck,
        after,
    })
}

fn op() -> impl Strategy<Value = Op> {
    // The second key twice as rarely.
    (0u8..12, 0u8..3).prop_map(|(what, key)| {
        let key = key / 2;
        match what {
            0..=2 => Op::Start(key),
            3 | 4 => Op::Signal(key, what + key),
            5 | 6 => Op::Pause(key),
            7 => Op::Resume(key),
            8 | 9 => Op::Cancel(key),
            _ => Op::Redrive(key),
        }
    })
}

/// Any case.
pub fn case() -> impl Strategy<Value = Case> {
    use Kind::{Branch, Child, Delay, Emit, Http, Map, Sql, Task, Transform, Wait};
    const PARENT: &[Kind] = &[Task, Sql, Http, Emit, Delay, Wait, Map, Child, Transform, Branch];
    const CHILD: &[Kind] = &[Task, Sql, Emit, Delay];
    let scripts = [(); OF_EACH].map(|()| vec(op(), 0..4));
    let schedule = vec(any::<u8>(), 0..MAX_CHOICES);
    (vec(shape(PARENT), 1..=MAX_NODES), vec(shape(CHILD), 1..3), 1i64..3, scripts, schedule).prop_map(
        |(parent, child, input, mut scripts, schedule)| {
            // There is a run to speak of.
            scripts[0].insert(0, Op::Start(0));
            Case { parent, child, input, scripts, schedule }
        },
    )
}

/// The actors of a history, and everything around them.
#[derive(Debug)]
pub struct History {
    /// Everything but the actors.
    pub world: World,
    /// Those who take turns.
    pub orchestrators: [Orchestrator; OF_EACH],
    executors: [Executor; OF_EACH],
    clients: [Client; OF_EACH],
}

impl History {
    fn new(case: &Case, bug: Option<Bug>, traced: bool) -> Self {
        let workflows = Workflows::of(&case.parent, &case.child);
        Self {
            world: World::new(workflows, case.input, bug, traced),
            orchestrators: Default::default(),
            executors: [Executor::new(0), Executor::new(1)],
            clients: case.scripts.clone().map(Client::new),
        }
    }

    fn step(&mut self, actor: Actor) -> Progress {
        let world = &mut self.world;
        world.actor = actor;
        match actor {
            Actor::Orchestrator(i) => self.orchestrators[i].step(world),
            Actor::Executor(i) => self.executors[i].step(world),
            Actor::Client(i) => self.clients[i].step(world),
        }
    }

    fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Steps(actor, times) => {
                for _ in 0..times {
                    if self.step(actor) != Progress::Made {
                        break;
                    }
                }
            }
            Choice::Clock(seconds) => self.pass(seconds * 1_000),
            Choice::Fails(actor) | Choice::Dies(actor) => self.interrupt(choice, actor),
            Choice::LosesAnswer(actor) => self.lose_answer(actor),
            Choice::Renews(i) => {
                self.world.actor = Actor::Executor(i);
                self.executors[i].renew(&mut self.world);
            }
            Choice::GivesBack(i) => {
                self.world.actor = Actor::Executor(i);
                self.executors[i].give_back(&mut self.world);
            }
            Choice::ServerCrashes => self.crash(),
        }
    }

    fn pass(&mut self, millis: i64) {
        self.world.now = self.world.now.plus_millis(millis.unsigned_abs());
    }

    fn interrupt(&mut self, choice: Choice, actor: Actor) {
        let world = &mut self.world;
        world.actor = actor;
        match (choice, actor) {
            (Choice::Fails(_), Actor::Orchestrator(i)) => self.orchestrators[i].fail(world),
            (_, Actor::Orchestrator(i)) => {
                world.say(|| "dies".to_owned());
                self.orchestrators[i].die(world);
            }
            (_, Actor::Executor(i)) => {
                world.say(|| "dies".to_owned());
                self.executors[i].die(world);
            }
            (_, Actor::Client(i)) => {
                world.say(|| "loses its connection".to_owned());
                self.clients[i].disconnect(world);
            }
        }
    }

    /// Lets an actor make steps up to its next commit, of which it does not hear.
    fn lose_answer(&mut self, actor: Actor) {
        for _ in 0..4 {
            self.world.actor = actor;
            let has_lost = match actor {
                Actor::Executor(i) => self.executors[i].lose_answer(&mut self.world),
                Actor::Client(i) => self.clients[i].lose_answer(&mut self.world),
                Actor::Orchestrator(_) => true,
            };
            if has_lost || self.step(actor) != Progress::Made {
                return;
            }
        }
    }

    fn crash(&mut self) {
        self.world.note(|| "the server crashes".to_owned());
        for orchestrator in &mut self.orchestrators {
            orchestrator.die(&mut self.world);
        }
        for executor in &mut self.executors {
            executor.disconnect(&mut self.world);
        }
        for client in &mut self.clients {
            client.disconnect(&mut self.world);
        }
        self.world.db.crash();
    }

    /// Without faults everything comes to its end; false if it does not.
    fn end(&mut self) -> bool {
        self.world.note(|| "from here on nothing fails".to_owned());
        self.clients.iter_mut().for_each(Client::settle);
        let mut are_signals_sent = false;
        for _ in 0..MAX_ROUNDS {
            let mut is_idle = true;
            for actor in ACTORS {
                for _ in 0..MAX_STEPS {
                    match self.step(actor) {
                        Progress::Made => is_idle = false,
                        Progress::Idle | Progress::Waits => break,
                    }
                }
            }
            if self.world.fault.is_some() {
                return true;
            }
            if !is_idle {
                continue;
            }
            if check::has_settled(&self.world) {
                return true;
            }
            if self.help(&mut are_signals_sent) {
                continue;
            }
            match self.world.db.next_due() {
                Some(due) => self.world.now = self.world.now.max(due),
                None => return false,
            }
        }
        false
    }

    /// The client does what runs wait for; false if there is nothing to do.
    fn help(&mut self, are_signals_sent: &mut bool) -> bool {
        let paused = check::paused(&self.world);
        let keys: Vec<u8> = self.world.started.keys().copied().collect();
        let script = &mut self.clients[0].script;
        if !paused.is_empty() {
            script.extend(keys.into_iter().map(Op::Resume));
            return true;
        }
        if std::mem::replace(are_signals_sent, true) {
            return false;
        }
        let signals = 0..u8::try_from(self.world.workflows.signals.len()).unwrap_or(u8::MAX);
        script.extend(
            keys.into_iter().flat_map(|key| signals.clone().map(move |signal| Op::Signal(key, signal))),
        );
        true
    }
}

/// Lets a history happen and checks it.
///
/// # Errors
/// What must not be.
pub fn run(case: &Case, bug: Option<Bug>) -> Result<(), String> {
    play(case, bug, false).map_err(|(fault, _)| fault)
}

fn play(case: &Case, bug: Option<Bug>, traced: bool) -> Result<(), (String, Vec<String>)> {
    let mut history = History::new(case, bug, traced);
    for byte in &case.schedule {
        history.take(Choice::of(*byte));
        if history.world.fault.is_some() {
            break;
        }
    }
    if history.world.fault.is_none() {
        check::memories(&mut history);
        if !history.end() {
            let stuck = check::what_is_stuck(&history.world);
            history.world.blame(|| stuck);
        }
    }
    if history.world.fault.is_none() {
        check::outcome(&mut history.world);
    }
    match history.world.fault.take() {
        None => Ok(()),
        Some(fault) => Err((fault, history.world.trace.unwrap_or_default())),
    }
}

/// A history told line by line, for whoever has to understand why it goes wrong.
#[derive(Debug)]
pub struct Told<'a>(pub &'a Case, pub Option<Bug>);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(case, bug) = self;
        writeln!(f, "workflow: {:?}\nchild:    {:?}\ninput:    {}", case.parent, case.child, case.input)?;
        writeln!(f, "clients:  {:?}\nschedule: {:?}", case.scripts, case.schedule)?;
        match play(case, *bug, true) {
            Ok(()) => writeln!(f, "nothing is wrong"),
            Err((fault, lines)) => {
                lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
                writeln!(f, "what is wrong: {fault}")
            }
        }
    }
}
