//! What must hold, during a history and at its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshhook_engine::event::{Event, Recorded};
use meshhook_engine::json::Json;
use meshhook_engine::replay::verify;
use meshhook_engine::state::{RunState, RunStatus};

use crate::database::{Path, Run, RunRow};
use crate::history::History;
use crate::workflow::{CHILD, End, without_order};
use crate::world::World;

fn log(world: &World, run: &Run) -> Vec<Recorded> {
    let rows = world.db.events.committed().filter(|((of, _), _)| of == run);
    rows.map(|(_, event)| event.clone()).collect()
}

/// What every orchestrator remembers of a run is what the beginning of its log says.
pub fn memories(history: &mut History) {
    for orchestrator in &history.orchestrators {
        for (run, remembered) in &orchestrator.cache {
            let log = log(&history.world, run);
            let seen = usize::try_from(remembered.position).unwrap_or(usize::MAX);
            let folded = log.get(..seen).map(RunState::fold);
            if !matches!(&folded, Some(Ok(state)) if state == remembered) {
                history.world.blame(|| format!("what is remembered of run {run} is not what its log says"));
            }
        }
    }
}

/// Whether every run has ended and nothing is left to do.
pub fn has_settled(world: &World) -> bool {
    let db = &world.db;
    db.runs.committed().all(|(_, row)| row.status.is_terminal())
        && db.inbox.committed().next().is_none()
        && db.jobs.committed().next().is_none()
        && db.timers.committed().next().is_none()
}

/// The runs that somebody holds.
pub fn paused(world: &World) -> Vec<Run> {
    let paused = world.db.runs.committed().filter(|(_, row)| row.status == RunStatus::Paused);
    paused.map(|(run, _)| Arc::clone(run)).collect()
}

/// Why a history does not come to its end.
pub fn what_is_stuck(world: &World) -> String {
    let db = &world.db;
    let runs: Vec<_> =
        db.runs.committed().map(|(run, row)| format!("{run} {}", row.status.as_str())).collect();
    let inbox: Vec<_> = db.inbox.committed().collect();
    let jobs: Vec<_> = db.jobs.committed().collect();
    let timers: Vec<_> = db.timers.committed().collect();
    format!("stuck: runs {runs:?}, inbox {inbox:?}, jobs {jobs:?}, timers {timers:?}")
}

/// Everything that must hold when all is over.
pub fn outcome(world: &mut World) {
    let predicted = world.workflows.prediction(world.input);
    let runs: Vec<(Run, RunRow)> =
        world.db.runs.committed().map(|(run, row)| (Arc::clone(run), row.clone())).collect();
    let mut problems = keys(world);
    let mut done: BTreeMap<(Run, Path), usize> = BTreeMap::new();
    for (run, row) in &runs {
        let log = log(world, run);
        match verify(world.workflows.named(&row.workflow), run, &log) {
            Err(difference) => problems.push(format!("the log of run {run} does not replay: {difference}")),
            Ok(state) => {
                if (row.position, row.status) != (state.position, state.status) {
                    problems.push(format!("the row of run {run} says {row:?}"));
                }
                let end = End { status: state.status, output: state.output.as_ref().map(without_order) };
                let is_free = world.redriven.contains(run) || &*row.workflow == CHILD;
                let is_canceled = world.canceled.contains(run) && end.status == RunStatus::Canceled;
                if !is_free && !is_canceled && end != predicted {
                    problems.push(format!("run {run} came to {end:?}, the engine alone to {predicted:?}"));
                }
            }
        }
        problems.extend(attempts(world, run, &log, &mut done));
    }
    problems.extend(effects(world, &done));
    problems.extend(children(&runs, world));
    if let Some(problem) = problems.into_iter().next() {
        world.blame(|| problem);
    }
}

/// One run a key, and everybody was told of that one.
fn keys(world: &World) -> Vec<String> {
    let mut runs: BTreeMap<Arc<str>, Vec<&Run>> = BTreeMap::new();
    for ((run, _), recorded) in world.db.events.committed() {
        if let Event::RunStarted(start) = &recorded.event
            && let Some(key) = &start.idempotency_key
        {
            runs.entry(Arc::clone(key)).or_default().push(run);
        }
    }
    let doubled = runs
        .iter()
        .filter(|(_, runs)| runs.len() > 1)
        .map(|(key, runs)| format!("key {key} started {runs:?}"));
    let told = world.started.iter().flat_map(|(key, told)| told.iter().map(move |run| (key, run)));
    let untrue = told.filter(|(key, run)| runs.get(&*key.to_string()).is_none_or(|runs| !runs.contains(run)));
    doubled
        .chain(untrue.map(|(key, run)| format!("a client was told that key {key} started {run}")))
        .collect()
}

/// Every result in a log is that of a call made for exactly this attempt. Counts what the database did.
fn attempts(
    world: &World,
    run: &Run,
    log: &[Recorded],
    done: &mut BTreeMap<(Run, Path), usize>,
) -> Vec<String> {
    let mut kinds: BTreeMap<&Path, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for recorded in log {
        let (node, attempt, call) = match &recorded.event {
            Event::NodeScheduled(scheduled) => {
                kinds.insert(&scheduled.node, &scheduled.kind);
                continue;
            }
            Event::NodeSucceeded(end) => {
                (&end.node, end.attempt, end.output.get("call").and_then(Json::as_i64))
            }
            Event::NodeRetryScheduled(retry) => {
                (&retry.node, Some(retry.attempt), call_in(&retry.error.message))
            }
            Event::NodeFailed(failed) => (&failed.node, failed.attempt, call_in(&failed.error.message)),
            _ => continue,
        };
        let has_succeeded = matches!(recorded.event, Event::NodeSucceeded(_));
        match kinds.get(node).copied() {
            Some("sql" | "emit") if has_succeeded => {
                *done.entry((Arc::clone(run), Arc::clone(node))).or_default() += 1;
            }
            Some("task" | "http") if has_succeeded || call.is_some() => {
                let made = call.and_then(|call| world.calls.get(usize::try_from(call).ok()?));
                let is_its = made.is_some_and(|made| {
                    made.run == *run
                        && made.node == *node
                        && Some(made.attempt) == attempt
                        && made.key == format!("{run}/{node}")
                });
                if !is_its {
                    problems.push(format!("{run}/{node}, attempt {attempt:?}, has the result of {made:?}"));
                }
            }
            _ => {}
        }
    }
    problems
}

/// The number of the call that failed so.
fn call_in(message: &str) -> Option<i64> {
    message.strip_prefix("call ")?.parse().ok()
}

/// What the database did is what the logs say it did, once each.
fn effects(world: &World, done: &BTreeMap<(Run, Path), usize>) -> Vec<String> {
    let mut found: BTreeMap<(Run, Path), usize> = BTreeMap::new();
    for (_, effect) in world.db.effects.committed() {
        *found.entry((Arc::clone(&effect.run), Arc::clone(&effect.node))).or_default() += 1;
    }
    let is_same = found == *done;
    (!is_same)
        .then(|| format!("the logs say that the database did {done:?}, it did {found:?}"))
        .into_iter()
        .collect()
}

/// Every run that another started is there, and no other.
fn children(runs: &[(Run, RunRow)], world: &World) -> Vec<String> {
    let started = world.db.events.committed().filter_map(|(_, recorded)| match &recorded.event {
        Event::NodeScheduled(scheduled) => scheduled.child.as_ref().map(|child| Arc::clone(&child.run)),
        _ => None,
    });
    let mut started: Vec<Run> = started.collect();
    started.sort();
    let there = runs.iter().filter(|(_, row)| &*row.workflow == CHILD).map(|(run, _)| Arc::clone(run));
    let there: Vec<Run> = there.collect();
    (started != there)
        .then(|| format!("the logs say that {started:?} were started, there are {there:?}"))
        .into_iter()
        .collect()
}
