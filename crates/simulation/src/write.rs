//! What a turn writes, statement by statement (`src/run/turn/write.rs`, `children.rs`).

use std::sync::Arc;

use meshhook_engine::event::Event;
use meshhook_engine::fact::{Cancel, ChildEnded, Fact, Parent, Start};
use meshhook_engine::json::Json;
use meshhook_engine::state::RunStatus;

use crate::batch::{Batch, NewChild, Return};
use crate::database::{Database, Message, Path, Run, RunRow};
use crate::table::{Conflict, Table, Tx};

/// A statement of a turn.
pub struct Statement {
    /// What it is called in a trace.
    pub name: &'static str,
    /// Whether there is anything for it to do; else it is not sent.
    pub is_needed: fn(&Batch) -> bool,
    /// What it does.
    pub run: fn(&Batch, &mut Database, Tx) -> Result<(), Broken>,
}

/// Why a statement of a turn cannot do its work. None of that ever may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It has to wait for another transaction.
    Waits(String),
    /// A unique key is violated.
    Duplicate(String),
}

/// All of them, in their order.
pub const STATEMENTS: &[Statement] = &[
    Statement { name: "take back jobs of ended runs", is_needed: has_closed, run: close_jobs },
    Statement { name: "take back timers of ended runs", is_needed: has_closed, run: close_timers },
    Statement { name: "take back jobs of nodes", is_needed: has_dropped, run: drop_jobs },
    Statement { name: "take back timers of nodes", is_needed: has_dropped, run: drop_timers },
    Statement {
        name: "cancel child runs",
        is_needed: |batch| !batch.canceled.is_empty(),
        run: cancel_children,
    },
    Statement { name: "insert events", is_needed: |batch| !batch.events.is_empty(), run: events },
    Statement { name: "insert jobs", is_needed: |batch| !batch.jobs.is_empty(), run: jobs },
    Statement { name: "insert timers", is_needed: |batch| !batch.timers.is_empty(), run: timers },
    Statement {
        name: "insert work of the database",
        is_needed: |batch| !batch.database.is_empty(),
        run: work,
    },
    Statement { name: "start child runs", is_needed: |batch| !batch.children.is_empty(), run: children },
    Statement { name: "update runs", is_needed: |batch| !batch.updates.is_empty(), run: runs },
    Statement { name: "tell waiting runs", is_needed: |batch| !batch.returns.is_empty(), run: returns },
    Statement { name: "delete inbox rows", is_needed: |batch| !batch.consumed.is_empty(), run: consumed },
];

fn has_closed(batch: &Batch) -> bool {
    !batch.closed.is_empty()
}

fn has_dropped(batch: &Batch) -> bool {
    !batch.dropped.is_empty()
}

/// Deletes rows, but for those that another session holds.
fn take_back<V: Clone>(table: &mut Table<(Run, Path), V>, tx: Tx, is_meant: impl Fn(&(Run, Path)) -> bool) {
    let meant: Vec<_> = table.rows(tx).map(|(key, _)| key.clone()).filter(is_meant).collect();
    for key in meant {
        if !table.is_held_from(tx, &key) {
            table.delete(tx, &key);
        }
    }
}

fn close_jobs(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    take_back(&mut db.jobs, tx, |(run, _)| batch.closed.contains(run));
    Ok(())
}

fn close_timers(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    take_back(&mut db.timers, tx, |(run, _)| batch.closed.contains(run));
    Ok(())
}

fn drop_jobs(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    take_back(&mut db.jobs, tx, |key| batch.dropped.contains(key));
    Ok(())
}

fn drop_timers(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    take_back(&mut db.timers, tx, |key| batch.dropped.contains(key));
    Ok(())
}

fn cancel_children(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    for child in &batch.canceled {
        db.post(tx, child, Message::Fact(Fact::Cancel(Cancel::default())));
    }
    Ok(())
}

fn insert<K: Ord + Clone + std::fmt::Debug, V: Clone>(
    table: &mut Table<K, V>,
    tx: Tx,
    key: &K,
    value: &V,
) -> Result<(), Broken> {
    table.insert(tx, key.clone(), value.clone()).map_err(|conflict| match conflict {
        Conflict::Held => Broken::Waits(format!("{key:?}")),
        Conflict::Taken => Broken::Duplicate(format!("{key:?}")),
    })
}

fn events(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    let mut rows = batch.events.iter();
    rows.try_for_each(|(run, event)| insert(&mut db.events, tx, &(Arc::clone(run), event.position), event))
}

/// Inserts a turn's jobs.
pub fn jobs(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    batch.jobs.iter().try_for_each(|(key, job)| insert(&mut db.jobs, tx, key, job))
}

fn timers(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    for (key, due) in &batch.timers {
        if db.timers.is_held_from(tx, key) {
            return Err(Broken::Waits(format!("{key:?}")));
        }
        db.timers.update(tx, key.clone(), *due);
    }
    Ok(())
}

fn work(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    for ((run, node), attempt) in &batch.database {
        db.post(tx, run, Message::WorkDue { node: Arc::clone(node), attempt: *attempt });
    }
    Ok(())
}

fn children(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    for NewChild { parent, node, child, input_position } in &batch.children {
        let (parent, node) = (Arc::clone(parent), Arc::clone(node));
        let input = match db.events.get(tx, &(Arc::clone(&parent), *input_position)).map(|found| &found.event)
        {
            Some(Event::NodeScheduled(scheduled)) => scheduled.input.clone(),
            _ => None,
        };
        let row = RunRow { workflow: Arc::clone(&child.workflow), status: RunStatus::Queued, position: 0 };
        insert(&mut db.runs, tx, &child.run, &row)?;
        let start = Start {
            workflow: Arc::clone(&child.workflow),
            version: 1,
            input: input.unwrap_or(Json::Null),
            seed: 0,
            trigger: Json::Null,
            idempotency_key: None,
            deadline: None,
            parent: Some(Parent { run: parent, node: Some(node), detached: false, depth: child.depth }),
        };
        db.post(tx, &child.run, Message::Fact(Fact::Start(start)));
    }
    Ok(())
}

fn runs(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    for (run, state) in &batch.updates {
        if db.runs.is_held_from(tx, run) {
            return Err(Broken::Waits(format!("run {run}")));
        }
        let Some(row) = db.runs.get(tx, run).cloned() else { continue };
        let row = RunRow { status: state.status, position: state.position, ..row };
        db.runs.update(tx, Arc::clone(run), row);
    }
    Ok(())
}

fn returns(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    for Return { run, position, parent, node } in &batch.returns {
        let key = (Arc::clone(run), *position);
        let (status, output, error) = match db.events.get(tx, &key).map(|found| &found.event) {
            Some(Event::RunSucceeded(end)) => (RunStatus::Succeeded, Some(end.output.clone()), None),
            Some(Event::RunFailed(end)) => (RunStatus::Failed, end.output.clone(), Some(end.error.clone())),
            Some(Event::RunCanceled(end)) => (RunStatus::Canceled, end.output.clone(), None),
            _ => continue,
        };
        let ended = ChildEnded { node: Arc::clone(node), run: Arc::clone(run), status, output, error };
        db.post(tx, parent, Message::Fact(Fact::ChildEnded(ended)));
    }
    Ok(())
}

fn consumed(batch: &Batch, db: &mut Database, tx: Tx) -> Result<(), Broken> {
    for id in &batch.consumed {
        db.inbox.delete(tx, id);
    }
    Ok(())
}

/// Deletes whatever lies in the inboxes of the turn's runs: what a turn must not do.
pub fn empty_inboxes(runs: &[Run], db: &mut Database, tx: Tx) {
    let theirs: Vec<u64> =
        db.inbox.rows(tx).filter(|(_, (run, _))| runs.contains(run)).map(|(id, _)| *id).collect();
    theirs.iter().for_each(|id| db.inbox.delete(tx, id));
}
