//! A crash at every named point of the extension, under every example.
//!
//! Each scenario is played once undisturbed: what it leaves behind is what every other play of it must leave, and the
//! points that it reaches are those it is crashed at. A point that no scenario reaches fails the sweep.

mod bugs;
mod client;
mod examples;
mod exercises;
mod play;
mod points;
mod stage;
mod table;
mod theatre;

use anyhow::{Result, ensure};
use play::{Kind, Traces, Trouble};
use points::Crash;
use stage::{Scenario, scenarios};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use theatre::Theatre;

/// What it is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only this point, as turn.events.before
    #[arg(long)]
    point: Option<String>,
    /// Only this example or exercise
    #[arg(long)]
    example: Option<String>,
    /// Each point under one example, chosen by the seed
    #[arg(long)]
    quick: bool,
    /// Chooses the how manieth time a point is crashed at
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The how manieth time, instead of what the seed chooses
    #[arg(long, value_name = "N")]
    nth: Option<u32>,
    /// Plants a bug and demands that it is found
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Clusters at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// One crash in one play.
#[derive(Clone, Debug)]
struct Case {
    scenario: usize,
    crash: Crash,
}

/// What became of it.
#[derive(Clone, Debug)]
struct Outcome {
    case: Case,
    trouble: Option<Trouble>,
    took: Duration,
}

impl Outcome {
    fn is_unreached(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.kind == Kind::Unreached)
    }
}

/// A scenario as it is without a crash.
#[derive(Clone, Debug, Default)]
struct Undisturbed {
    traces: Traces,
    reached: BTreeMap<String, u32>,
}

/// Whether nothing was lost, doubled or stuck; with a bug, whether it was found.
pub fn run(options: &Options) -> Result<bool> {
    // What fails is reported with its case.
    std::panic::set_hook(Box::new(|_| {}));
    match &options.bug {
        Some(bug) => bugs::hunt(bug, options.seed),
        None => sweep(options),
    }
}

fn sweep(options: &Options) -> Result<bool> {
    let scenarios = chosen(&scenarios(), options.example.as_deref())?;
    let undisturbed = each(options.jobs, (0..scenarios.len()).collect(), |theatre, index: usize| {
        (index, theatre.undisturbed(&scenarios[index]))
    });
    let mut known = vec![Undisturbed::default(); scenarios.len()];
    let mut sound = true;
    for (index, result) in undisturbed {
        match result {
            Ok(found) => known[index] = found,
            Err(trouble) => {
                println!("{} without a crash: {trouble}", scenarios[index].name);
                sound = false;
            }
        }
    }
    let points: Vec<String> =
        points::all().into_iter().filter(|point| options.point.as_ref().is_none_or(|p| p == point)).collect();
    ensure!(!points.is_empty(), "there is no such point; they are in src/fault/sites.txt");
    ensure!(
        known.iter().any(|known| !known.reached.is_empty()),
        "no point was reached: build the extension with --features faults (scripts/faults.sh does)"
    );
    let act = |theatre: &mut Theatre, case: Case| {
        let outcome = theatre.crash(&scenarios[case.scenario], &known[case.scenario].traces, case);
        report(&scenarios, &outcome);
        outcome
    };
    let (first, spare) = cases(&points, &known, options);
    let mut outcomes = each(options.jobs, first, act);
    // What was passed by this time may be met under another workflow.
    let is_swept = |outcomes: &[Outcome], point: &str| {
        outcomes.iter().any(|outcome| outcome.case.crash.point == point && !outcome.is_unreached())
    };
    let missed = spare.into_iter().filter(|case| !is_swept(&outcomes, &case.crash.point)).collect();
    outcomes.extend(each(options.jobs, missed, act));
    // Of one example not every point is demanded.
    let is_demanded = options.example.is_none() || options.point.is_some();
    let unswept: Vec<&String> =
        points.iter().filter(|point| is_demanded && !is_swept(&outcomes, point)).collect();
    table::print(&points, &scenarios, &outcomes, &unswept);
    let passed = outcomes.iter().filter(|outcome| outcome.trouble.is_none()).count();
    let failed =
        outcomes.iter().filter(|outcome| outcome.trouble.is_some() && !outcome.is_unreached()).count();
    Ok(table::result(passed, failed + unswept.len() + usize::from(!sound)))
}

fn chosen(all: &[Scenario], name: Option<&str>) -> Result<Vec<Scenario>> {
    let chosen: Vec<Scenario> =
        all.iter().filter(|scenario| name.is_none_or(|name| name == scenario.name)).copied().collect();
    ensure!(!chosen.is_empty(), "there is no such example");
    Ok(chosen)
}

/// Which points are crashed at in which scenarios, and the how manieth time they are reached there; and those that are
/// left out of a quick sweep.
fn cases(points: &[String], known: &[Undisturbed], options: &Options) -> (VecDeque<Case>, VecDeque<Case>) {
    let mut random = fastrand::Rng::with_seed(options.seed);
    let (mut first, mut spare) = (VecDeque::new(), VecDeque::new());
    for (place, point) in points.iter().enumerate() {
        let mut reach: VecDeque<Case> = VecDeque::new();
        for (scenario, known) in known.iter().enumerate() {
            if let Some(times) = known.reached.get(point) {
                let crash = Crash {
                    point: point.clone(),
                    nth: options.nth.unwrap_or_else(|| random.u32(1..=*times)),
                };
                reach.push_back(Case { scenario, crash });
            }
        }
        if options.quick && !reach.is_empty() {
            let turn = usize::try_from(options.seed).unwrap_or(0).wrapping_add(place) % reach.len();
            reach.rotate_left(turn);
            spare.extend(reach.split_off(1));
        }
        first.append(&mut reach);
    }
    (first, spare)
}

fn report(scenarios: &[Scenario], outcome: &Outcome) {
    let (point, nth) = (&outcome.case.crash.point, outcome.case.crash.nth);
    let example = scenarios[outcome.case.scenario].name;
    if outcome.is_unreached() {
        return println!("test sweep::{example}::{point} ... ignored, not reached this time");
    }
    let Some(trouble) = &outcome.trouble else {
        return println!("test sweep::{example}::{point} ... ok ({:.1} s)", outcome.took.as_secs_f64());
    };
    println!(
        "test sweep::{example}::{point} ... FAILED\n{trouble}\n\
         again: scripts/faults.sh sweep --example {example} --point {point} --nth {nth}"
    );
}

/// Does a piece of work after the other, on so many stages at a time.
fn each<T: Send, R: Send>(
    stages: usize,
    work: VecDeque<T>,
    act: impl Fn(&mut Theatre, T) -> R + Sync,
) -> Vec<R> {
    let (stages, work, done) = (stages.clamp(1, work.len().max(1)), Mutex::new(work), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..stages {
            scope.spawn(|| {
                let mut theatre = Theatre::open();
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(next) = next else { break };
                    let result = act(&mut theatre, next);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}
