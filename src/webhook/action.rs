//! What a delivery does: it starts a run, signals one that its business key finds, or does either.
//!
//! A business key is the idempotency key of the run (`run_key`). Whoever takes a key, or finds it taken, waits for the
//! commit of another one that does, so of two deliveries with a new key one starts the run and the other finds it.

use meshhook_engine::definition::flow::Keys;
use meshhook_engine::selection::Target;
use pgrx::datum::TimestampWithTimeZone;

use super::answer::Answer;
use super::{Action, Endpoint};
use crate::owner::Role;
use crate::run::signal_data;
use crate::run::start::{Options, Start, start};
use crate::run::tell::{Told, tell};
use crate::spi::{self, RawJsonb, arg};
use crate::workflow::{self, Pause, Version};
use crate::{fault, flow};

/// A delivery that is about to do something.
pub(super) struct Act<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) workflow: &'a str,
    pub(super) input: RawJsonb,
    /// What a run learns of it.
    pub(super) trigger: String,
    /// The run that it would start, and when.
    pub(super) run: pgrx::Uuid,
    pub(super) now: TimestampWithTimeZone,
    pub(super) caller: Role,
}

/// Who has a business key.
enum Holder {
    /// This run, which has been signaled.
    Signaled(pgrx::Uuid),
    /// This run, which cannot be sent more before it begins.
    Full(pgrx::Uuid),
    /// This run, which has ended.
    Over(pgrx::Uuid),
    Nobody,
}

impl Act<'_> {
    /// Does it; an answer without a run has done nothing.
    pub(super) fn done(&self, target: &Target) -> Answer {
        match (self.endpoint.action, &target.business_key, &target.signal) {
            (Action::Signal, Some(key), Some(signal)) => match self.signal(key, signal) {
                Holder::Signaled(run) => Answer::signaled(run),
                Holder::Full(run) => Self::full(run),
                Holder::Over(_) => Self::unknown("the run with this business key has ended"),
                Holder::Nobody => Self::unknown("no run has this business key"),
            },
            (Action::SignalOrStart, Some(key), Some(signal)) => self.signal_or_start(key, signal),
            (_, key, _) => match self.start(key.as_deref(), None) {
                Ok(run) if run == self.run => Answer::accepted(run),
                Ok(earlier) => Answer::duplicate(earlier),
                Err(answer) => *answer,
            },
        }
    }

    /// Whoever is second to start a run under a key finds the first one's.
    fn signal_or_start(&self, key: &str, signal: &str) -> Answer {
        loop {
            let ended = match self.signal(key, signal) {
                Holder::Signaled(run) => return Answer::signaled(run),
                Holder::Full(run) => return Self::full(run),
                Holder::Over(run) => Some(run),
                Holder::Nobody => None,
            };
            match self.start(Some(key), ended) {
                Ok(run) if run == self.run => return Answer::accepted(run),
                Ok(_) => {}
                // What cannot start a run may well be a signal to one that is being started just now.
                Err(answer) if self.settled_holder(key) == ended => return *answer,
                Err(_) => {}
            }
        }
    }

    /// Signals the run that has a key, if it is open.
    fn signal(&self, key: &str, signal: &str) -> Holder {
        let data = signal_data(signal, Some(self.input), None);
        let mut known = None;
        loop {
            let Some(run) = self.holder(key) else { return Holder::Nobody };
            // The key may have passed to another run (reset_run) while the end of this one was waited for.
            if known == Some(run) {
                return Holder::Over(run);
            }
            match tell(self.endpoint.project, run, &data, self.caller) {
                Told::Taken => return Holder::Signaled(run),
                Told::Full => return Holder::Full(run),
                Told::Over => known = Some(run),
            }
        }
    }

    /// The run that has a key, as it is committed now.
    fn holder(&self, key: &str) -> Option<pgrx::Uuid> {
        spi::run_one(
            "SELECT k.run_id FROM meshhook.workflow w
             JOIN meshhook.run_key k ON k.project_id = w.project_id AND k.workflow_id = w.workflow_id
             WHERE w.project_id = $1 AND w.name = $2 AND k.idempotency_key = $3",
            &[arg(self.endpoint.project.0), arg(self.workflow.to_owned()), arg(key.to_owned())],
            |row| row.must(1),
        )
    }

    /// The run that has a key once everybody who is taking it has committed.
    fn settled_holder(&self, key: &str) -> Option<pgrx::Uuid> {
        let (project, workflow, run) = (self.endpoint.project.0, self.workflow.to_owned(), self.run);
        let taking = [arg(project), arg(workflow), arg(key.to_owned()), arg(run)];
        fault::around!("start.key");
        let taken = spi::exec(
            "INSERT INTO meshhook.run_key (project_id, workflow_id, idempotency_key, run_id)
             SELECT project_id, workflow_id, $3, $4 FROM meshhook.workflow WHERE project_id = $1 AND name = $2
             ON CONFLICT DO NOTHING",
            &taking,
        );
        if taken == 1 {
            spi::exec(
                "DELETE FROM meshhook.run_key k USING meshhook.workflow w
                 WHERE w.project_id = $1 AND w.name = $2 AND k.project_id = w.project_id AND k.workflow_id = w.workflow_id
                   AND k.idempotency_key = $3 AND k.run_id = $4",
                &taking,
            );
            return None;
        }
        spi::run_one(
            "SELECT k.run_id FROM meshhook.workflow w
             JOIN meshhook.run_key k ON k.project_id = w.project_id AND k.workflow_id = w.workflow_id
             WHERE w.project_id = $1 AND w.name = $2 AND k.idempotency_key = $3 FOR UPDATE OF k",
            &taking[..3],
            |row| row.must(1),
        )
    }

    /// Starts the run, under a key that it takes from one that has ended; or finds the one that has the key. The answer
    /// to what starts nothing.
    fn start(&self, key: Option<&str>, successor_of: Option<pgrx::Uuid>) -> Result<pgrx::Uuid, Box<Answer>> {
        let (version, keys) = self.startable()?;
        Ok(start(&Start {
            project: self.endpoint.project,
            run: self.run,
            now: self.now,
            version,
            workflow: self.workflow,
            input: self.input,
            key,
            trigger: self.trigger.clone(),
            actor: Some(self.caller),
            parent: None,
            options: Options { keys, successor_of, ..Options::default() },
        }))
    }

    /// The version that is started and what the start is counted under, or the answer to what starts nothing.
    fn startable(&self) -> Result<(Version, Keys), Box<Answer>> {
        let (endpoint, workflow) = (self.endpoint, self.workflow);
        let version = workflow::startable(endpoint.project, workflow, None).ok_or_else(|| {
            if workflow == endpoint.workflow {
                return Answer::error(410, "no new runs are taken here", "archived");
            }
            let reason = format!("route: no workflow \"{workflow}\" takes new runs");
            Answer::error(422, "the event cannot be handled here", reason)
        })?;
        if version.pause == Some(Pause::Reject) {
            return Err(Answer::later("paused").into());
        }
        let violations = workflow::input_violations(endpoint.project, version, self.input);
        if !violations.is_empty() {
            return Err(Answer::violations("input_schema", &violations).into());
        }
        let keys = flow::keys(endpoint.project, &version, self.input, self.run, &self.trigger)
            .map_err(|error| Answer::error(400, "the body lacks what the workflow counts by", error))?;
        Ok((version, keys))
    }

    /// To a signal for nobody: the sender may try again, for the run may be about to start.
    fn unknown(reason: &str) -> Answer {
        Answer::error(404, "no open run has this business key", reason)
    }

    fn full(run: pgrx::Uuid) -> Answer {
        Answer::later(&format!("run {run} has been sent too much before it has begun"))
    }
}
