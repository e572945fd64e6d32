//! What stands in line at a schedule: open runs, times that wait, and what becomes of the next one.

use meshhook_engine::schedule::{Ahead, Overlap, Verdict};
use meshhook_engine::time::Timestamp;
use serde_json::json;

use super::{Schedule, stored};
use crate::owner::Role;
use crate::run::start::{OWN_KEYS, Options, Start, new_run, start};
use crate::spi::{self, RawJsonb, arg};
use crate::workflow::{self, Version};
use crate::{fault, flow, run, shmem};

/// Most times of a schedule that wait; further ones are left out.
pub(super) const MAX_WAITING: usize = 10_000;

/// Where a time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The schedule's own times.
    Calendar,
    /// Somebody asked for a run now.
    Trigger,
    /// Somebody asked for the times of a range.
    Backfill,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Calendar => "calendar",
            Self::Trigger => "trigger",
            Self::Backfill => "backfill",
        }
    }
}

/// What became of a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// It has its run.
    Started(pgrx::Uuid),
    /// It waits for an earlier run to end.
    Waits,
    /// It was left out.
    Skipped,
}

/// A schedule under its row's lock, with what stands in line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    schedule: &'a Schedule,
    actor: Role,
    version: Option<Version>,
    open: Vec<pgrx::Uuid>,
    ahead: Ahead,
    skipped: i64,
    started: usize,
    last: Option<(Timestamp, pgrx::Uuid)>,
}

impl<'a> Line<'a> {
    /// Looks at what stands in line; runs that have ended leave it.
    pub(super) fn of(schedule: &'a Schedule, actor: Role) -> Self {
        let key = [arg(schedule.project.0), arg(schedule.id)];
        fault::around!("schedule.line");
        spi::exec(
            "DELETE FROM meshhook.schedule_firing f
             WHERE f.project_id = $1 AND f.schedule_id = $2 AND f.run_id IS NOT NULL
               AND (SELECT r.finished_at IS NULL FROM meshhook.run r
                    WHERE r.project_id = f.project_id AND r.run_id = f.run_id) IS NOT TRUE",
            &key,
        );
        let open: Vec<pgrx::Uuid> = spi::run(
            "SELECT run_id FROM meshhook.schedule_firing
             WHERE project_id = $1 AND schedule_id = $2 AND run_id IS NOT NULL",
            &key,
            |row| row.must(1),
        );
        let mut ahead = Ahead { open: open.len(), waiting: schedule.waiting, ..Ahead::default() };
        if ahead.waiting > 0 {
            let policies = spi::run(
                "SELECT DISTINCT overlap FROM meshhook.schedule_firing
                 WHERE project_id = $1 AND schedule_id = $2 AND run_id IS NULL",
                &key,
                |row| Overlap::by_name(&row.must::<String>(1)),
            );
            ahead.queued_one = policies.contains(&Some(Overlap::QueueOne));
            ahead.canceling = policies.contains(&Some(Overlap::CancelOther));
        }
        Self { schedule, actor, version: None, open, ahead, skipped: 0, started: 0, last: None }
    }

    /// Starts the first of the times that wait, if nothing is open any more.
    pub(super) fn release(&mut self) {
        if self.ahead.open > 0 || self.ahead.waiting == 0 {
            return;
        }
        let first = spi::run_one(
            "DELETE FROM meshhook.schedule_firing f
             WHERE f.project_id = $1 AND f.schedule_id = $2 AND f.nominal_time = (
                 SELECT min(nominal_time) FROM meshhook.schedule_firing
                 WHERE project_id = $1 AND schedule_id = $2 AND run_id IS NULL)
             RETURNING f.nominal_time, f.origin, f.overlap",
            &[arg(self.schedule.project.0), arg(self.schedule.id)],
            |row| (super::moment(row.must(1)), row.must::<String>(2), row.must::<String>(3)),
        );
        self.ahead.waiting -= 1;
        if let Some((time, origin, overlap)) = first {
            match Overlap::by_name(&overlap) {
                Some(Overlap::QueueOne) => self.ahead.queued_one = false,
                Some(Overlap::CancelOther) => self.ahead.canceling = false,
                _ => {}
            }
            self.start(time, &origin, &overlap);
        }
    }

    /// Decides what becomes of a time that has come, and does it.
    pub(super) fn admit(&mut self, time: Timestamp, origin: Origin, overlap: Overlap) -> Outcome {
        match overlap.admit(self.ahead) {
            Verdict::Start => Outcome::Started(self.start(time, origin.name(), overlap.name())),
            Verdict::Skip => self.skip(),
            Verdict::Wait if self.ahead.waiting >= MAX_WAITING => self.skip(),
            Verdict::Wait => self.wait(time, origin, overlap),
            Verdict::Cancel => {
                self.cancel_open(time);
                self.wait(time, origin, overlap)
            }
            Verdict::Replace => {
                self.leave_out(overlap);
                self.wait(time, origin, overlap)
            }
        }
    }

    fn skip(&mut self) -> Outcome {
        self.skipped += 1;
        Outcome::Skipped
    }

    fn wait(&mut self, time: Timestamp, origin: Origin, overlap: Overlap) -> Outcome {
        let inserted = self.note(time, origin.name(), overlap.name(), None);
        self.ahead.waiting += usize::try_from(inserted).unwrap_or(0);
        self.ahead.queued_one |= overlap == Overlap::QueueOne;
        self.ahead.canceling |= overlap == Overlap::CancelOther;
        Outcome::Waits
    }

    /// Leaves out the times that wait under a policy of which only the newest is wanted.
    fn leave_out(&mut self, overlap: Overlap) {
        let gone = spi::exec(
            "DELETE FROM meshhook.schedule_firing
             WHERE project_id = $1 AND schedule_id = $2 AND run_id IS NULL AND overlap = $3",
            &[arg(self.schedule.project.0), arg(self.schedule.id), arg(overlap.name())],
        );
        self.ahead.waiting = self.ahead.waiting.saturating_sub(usize::try_from(gone).unwrap_or(0));
        self.skipped += gone.cast_signed();
    }

    fn cancel_open(&self, time: Timestamp) {
        let cancel = json!({ "reason": format!("the schedule's next time {time} has come") }).to_string();
        for run in &self.open {
            run::post(self.schedule.project, *run, "run.cancel", RawJsonb::of_text(&cancel), self.actor);
        }
    }

    /// Starts the run of a time, or finds the one it has already.
    fn start(&mut self, time: Timestamp, origin: &str, overlap: &str) -> pgrx::Uuid {
        let schedule = self.schedule;
        let version = *self
            .version
            .get_or_insert_with(|| workflow::find(schedule.project, &schedule.workflow, schedule.version));
        let (run, now) = new_run();
        flow::refuse_if_paused(&version, &schedule.workflow);
        let trigger = json!({
            "type": "schedule", "schedule": schedule.name, "nominal_time": time.to_string(), "origin": origin
        })
        .to_string();
        let keys = flow::keys(schedule.project, &version, schedule.input, run, &trigger)
            .unwrap_or_else(|error| flow::refuse_key(&schedule.workflow, error).raise());
        let run = start(&Start {
            project: schedule.project,
            run,
            now,
            version,
            workflow: &schedule.workflow,
            input: schedule.input,
            key: Some(&key(schedule.id, time)),
            trigger,
            actor: Some(self.actor),
            parent: None,
            options: Options { keys, ..Options::default() },
        });
        self.note(time, origin, overlap, Some(run));
        self.started += 1;
        self.ahead.open += 1;
        self.open.push(run);
        self.last = Some((time, run));
        run
    }

    /// Writes that a time waits or has its run; how many rows that made.
    fn note(&self, time: Timestamp, origin: &str, overlap: &str, run: Option<pgrx::Uuid>) -> u64 {
        fault::around!("schedule.firing");
        spi::exec(
            "INSERT INTO meshhook.schedule_firing (project_id, schedule_id, nominal_time, origin, overlap, run_id)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (project_id, schedule_id, nominal_time) DO NOTHING",
            &[
                arg(self.schedule.project.0),
                arg(self.schedule.id),
                arg(stored(time)),
                arg(origin.to_owned()),
                arg(overlap.to_owned()),
                arg(run),
            ],
        )
    }

    /// Writes the schedule's row: where the line stands, how many times were missed, and the time to go on from.
    /// Returns how many runs were started.
    pub(super) fn store(self, next: Option<Timestamp>, missed: u64) -> usize {
        let (last_time, last_run) = self.last.unzip();
        fault::around!("schedule.store");
        spi::exec(
            "UPDATE meshhook.schedule SET waiting = $3, skipped = skipped + $4, missed = missed + $5, next_time = $6,
                 due_at = $7, last_time = coalesce($8, last_time), last_run_id = coalesce($9, last_run_id)
             WHERE project_id = $1 AND schedule_id = $2",
            &[
                arg(self.schedule.project.0),
                arg(self.schedule.id),
                arg(i32::try_from(self.ahead.waiting).unwrap_or(i32::MAX)),
                arg(self.skipped),
                arg(missed.cast_signed()),
                arg(next.map(stored)),
                arg(next.map(|next| stored(self.schedule.calendar.due_at(next)))),
                arg(last_time.map(stored)),
                arg(last_run),
            ],
        );
        // A time may wait for a run that has ended meanwhile.
        shmem::wake_on_commit();
        self.started
    }
}

/// The idempotency key of a time's run.
pub(super) fn key(schedule: i64, time: Timestamp) -> String {
    format!("{OWN_KEYS}schedule:{schedule}:{time}")
}
