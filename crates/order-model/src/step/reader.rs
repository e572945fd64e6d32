//! What a reader does: `event_store::horizon::safe`, then a new snapshot, then the rows.

use super::{Actor, Steps};
use crate::property::Property;
use crate::scenario::{Mutant, Op, Place, Register, Scan, Scenario};
use crate::state::{NONE, Reader, ReaderAt, Record, State};

pub(super) fn steps(scenario: &Scenario, state: &State, index: usize, steps: &mut Steps) {
    let spec = &scenario.readers[index];
    if spec.repeatable && may_begin(scenario, state, index) {
        let mut to = *state;
        to.readers[index].open = true;
        to.readers[index].old = state.visible;
        steps.add(Actor::Reader(index as u8), "begins a transaction; its snapshot shows", state.visible, to);
    }
    let works = spec.inside.is_none_or(|backend| next_read(scenario, state, backend) == Some(0));
    if !works || spec.repeatable && !state.readers[index].open {
        return;
    }
    if matches!(spec.place, Place::Standby | Place::Either) {
        on_standby(scenario, state, index, steps);
    }
    if spec.place != Place::Standby {
        on_primary(scenario, state, index, steps);
    }
}

/// Whether a REPEATABLE READ reader can take the snapshot of its transaction: a new one at any time between two rounds,
/// a writer's at any time before it reads.
fn may_begin(scenario: &Scenario, state: &State, index: usize) -> bool {
    let me = &state.readers[index];
    match scenario.readers[index].inside {
        Some(backend) => !me.open && next_read(scenario, state, backend).is_some(),
        None => me.at == ReaderAt::Idle && (!me.open || me.old != state.visible),
    }
}

/// How many operations a writer has before it that lets its reader work; 0: it waits for the reader.
fn next_read(scenario: &Scenario, state: &State, backend: usize) -> Option<usize> {
    let writer = &state.backends[backend];
    let transaction = scenario.transaction(backend, writer.transaction)?;
    transaction.ops.iter().skip(usize::from(writer.op)).position(|op| *op == Op::Read)
}

struct Round<'a> {
    scenario: &'a Scenario,
    state: &'a State,
    index: usize,
    me: &'a Reader,
    steps: &'a mut Steps,
}

/// The steps of a round on the primary.
pub(super) fn on_primary(scenario: &Scenario, state: &State, index: usize, steps: &mut Steps) {
    let me = &state.readers[index];
    let mut round = Round { scenario, state, index, me, steps };
    match me.at {
        ReaderAt::Idle if scenario.is(Mutant::NoHorizon) => round.deliver_all(),
        ReaderAt::Idle if scenario.is(Mutant::LastAfterScan) => {
            round.add("begins to scan, at", 0, |to| {
                to.limit = NONE;
                to.at = round_at(scenario, index, 0);
            });
        }
        ReaderAt::Idle => round.read_last(),
        ReaderAt::Scanning(_) if scenario.register == Register::Locks || scenario.scan == Scan::AtOnce => {
            round.look_at_all();
        }
        ReaderAt::Scanning(slot) => round.read_first_word(slot),
        ReaderAt::Half(slot) => round.read_second_word(slot),
        ReaderAt::Scanned if scenario.is(Mutant::LastAfterScan) && me.word == 0 => {
            let limit = me.limit.min(state.last);
            round.add("reads the last position:", state.last, |to| {
                to.limit = limit;
                to.word = 1;
            });
        }
        ReaderAt::Scanned if scenario.readers[index].place == Place::SafeWorker => round.log_safe(),
        ReaderAt::Scanned => {
            let early = scenario.is(Mutant::SnapshotBeforeScan);
            let visible = if early { me.snapshot } else { state.visible };
            round.deliver(visible, "takes a snapshot and delivers up to");
        }
        ReaderAt::Standby => {}
    }
}

/// Where a scan goes on that has come to this slot; its own is left out.
fn round_at(scenario: &Scenario, index: usize, mut slot: usize) -> ReaderAt {
    if scenario.readers[index].inside == Some(slot) {
        slot += 1;
    }
    if slot < scenario.backends.len() { ReaderAt::Scanning(slot as u8) } else { ReaderAt::Scanned }
}

impl Round<'_> {
    /// Adds a step. A round that can no longer move the checkpoint ends at once: it would deliver nothing.
    fn add(&mut self, deed: &'static str, number: u8, change: impl FnOnce(&mut Reader)) {
        let mut to = *self.state;
        let reader = &mut to.readers[self.index];
        change(reader);
        if reader.limit <= self.me.checkpoint && self.scenario.readers[self.index].inside.is_none() {
            reader.rest();
        }
        self.steps.add(Actor::Reader(self.index as u8), deed, number, to);
    }

    fn read_last(&mut self) {
        let last = self.state.last;
        let (scenario, index) = (self.scenario, self.index);
        if last <= self.me.checkpoint && scenario.readers[index].inside.is_none() {
            return;
        }
        let visible = if scenario.is(Mutant::SnapshotBeforeScan) { self.state.visible } else { 0 };
        let scans = !scenario.is(Mutant::SafeWithoutScan);
        self.add("reads the last position:", last, |to| {
            to.limit = last;
            to.snapshot = visible;
            to.at = if scans { round_at(scenario, index, 0) } else { ReaderAt::Scanned };
        });
    }

    fn look_at_all(&mut self) {
        let mask = self.scenario.interest(self.index);
        let own = self.scenario.readers[self.index].inside;
        let others = self.state.backends.iter().enumerate().filter(|(index, _)| own != Some(*index));
        let bounds = others.filter(|(_, backend)| backend.seen_mask() & mask != 0);
        // A transaction without a bound lock counts for nothing: its bound is the highest number.
        let limit = bounds.fold(self.me.limit, |limit, (_, backend)| limit.min(backend.seen_bound()));
        self.add("looks at all bounds at once; it may pass", limit, |to| {
            to.limit = limit;
            to.at = ReaderAt::Scanned;
        });
    }

    fn read_first_word(&mut self, slot: u8) {
        let (scenario, index) = (self.scenario, self.index);
        let writer = &self.state.backends[usize::from(slot)];
        let (bound, mask) = (writer.seen_bound(), writer.seen_mask());
        let on = round_at(scenario, index, usize::from(slot) + 1);
        match scenario.scan {
            Scan::BoundFirst if bound == NONE => self.add("finds no bound in slot", slot, |to| to.at = on),
            Scan::BoundFirst | Scan::AtOnce => self.add("reads a bound:", bound, |to| {
                to.word = bound;
                to.at = ReaderAt::Half(slot);
            }),
            Scan::MaskFirst if mask & scenario.interest(index) == 0 => {
                self.add("finds another's mask in slot", slot, |to| to.at = on);
            }
            Scan::MaskFirst => self.add("reads a mask:", mask, |to| to.at = ReaderAt::Half(slot)),
        }
    }

    fn read_second_word(&mut self, slot: u8) {
        let (scenario, index) = (self.scenario, self.index);
        let writer = &self.state.backends[usize::from(slot)];
        let mask = writer.seen_mask();
        let concerns = scenario.scan == Scan::MaskFirst || mask & scenario.interest(index) != 0;
        let bound = if scenario.scan == Scan::MaskFirst { writer.seen_bound() } else { self.me.word };
        let limit = if concerns { self.me.limit.min(bound) } else { self.me.limit };
        let on = round_at(scenario, index, usize::from(slot) + 1);
        self.add("reads the other word; it may pass", limit, |to| {
            to.limit = limit;
            to.word = 0;
            to.at = on;
        });
    }

    /// The worker's last step. The worker moves no checkpoint but remembers what it said, to say only news.
    fn log_safe(&mut self) {
        let limit = self.me.limit;
        let mut to = *self.state;
        to.log(self.scenario, Record::Safe(limit));
        to.readers[self.index].checkpoint = limit;
        to.readers[self.index].rest();
        self.steps.add(Actor::Reader(self.index as u8), "logs the safe position", limit, to);
    }

    /// The mutant that knows nothing but the last position it saw.
    fn deliver_all(&mut self) {
        let positions = self.rows(self.state.visible);
        let Some(&(highest, _)) = positions.last() else { return };
        let mut to = *self.state;
        let reader = &mut to.readers[self.index];
        reader.delivered = positions.iter().fold(reader.delivered, |set, (_, message)| set | 1 << message);
        reader.checkpoint = highest;
        reader.high = highest;
        self.steps.add(Actor::Reader(self.index as u8), "delivers all it sees, up to", highest, to);
    }

    /// Rows of this reader behind its checkpoint that a snapshot shows, in order: position and message.
    fn rows(&self, visible: u8) -> Vec<(u8, usize)> {
        let mut rows: Vec<(u8, usize)> = Vec::new();
        for (index, message) in self.scenario.messages.iter().enumerate() {
            let position = self.state.positions[index];
            let seen = visible & (1 << message.transaction) != 0 || self.is_own(message.transaction);
            if position > self.me.checkpoint && seen && self.scenario.reads(self.index, message.category) {
                rows.push((position, index));
            }
        }
        rows.sort_unstable();
        rows
    }

    /// Whether it works in this transaction, whose rows it sees in any snapshot.
    fn is_own(&self, transaction: u8) -> bool {
        let Some(backend) = self.scenario.readers[self.index].inside else { return false };
        let current = self.state.backends[backend].transaction;
        self.scenario.transaction(backend, current).is_some_and(|own| own.id == transaction)
    }

    fn deliver(&mut self, visible: u8, deed: &'static str) {
        let spec = &self.scenario.readers[self.index];
        let mut to = *self.state;
        let reader = &mut to.readers[self.index];
        let mut limit = self.me.limit;
        let (mut high, mut delivered) = (reader.high, reader.delivered);
        for (position, message) in self.rows(visible) {
            let transaction = self.scenario.messages[message].transaction;
            let known = reader.old & (1 << transaction) != 0 || self.is_own(transaction);
            if spec.repeatable && !known && position <= limit {
                if self.scenario.is(Mutant::RepeatableReadRunsOn) {
                    continue;
                }
                limit = position - 1;
            }
            if position > limit {
                break;
            }
            if delivered & (1 << message) != 0 || position <= high {
                to.broken = Some(Property::Repeated);
            }
            delivered |= 1 << message;
            high = position;
        }
        let checkpoint = reader.checkpoint.max(limit);
        if let Some(backend) = spec.inside {
            (reader.pending, reader.pending_high, reader.pending_delivered) = (checkpoint, high, delivered);
            to.backends[backend].op += 1;
        } else {
            (reader.checkpoint, reader.high, reader.delivered) = (checkpoint, high, delivered);
        }
        reader.rest();
        self.steps.add(Actor::Reader(self.index as u8), deed, checkpoint, to);
    }
}

/// The steps of a round on the standby.
fn on_standby(scenario: &Scenario, state: &State, index: usize, steps: &mut Steps) {
    let me = &state.readers[index];
    let replayed = state.wal.base;
    let snapshot_first = scenario.is(Mutant::StandbySnapshotFirst);
    let mut round = Round { scenario, state, index, me, steps };
    match me.at {
        ReaderAt::Idle if snapshot_first => {
            round.add("on the standby takes a snapshot:", replayed.committed, |to| {
                to.snapshot = replayed.committed;
                // Not known yet, and so no reason to end the round.
                to.limit = NONE;
                to.at = ReaderAt::Standby;
            })
        }
        ReaderAt::Idle if replayed.safe > me.checkpoint => {
            round.add("on the standby reads the safe position", replayed.safe, |to| {
                to.limit = replayed.safe;
                to.at = ReaderAt::Standby;
            });
        }
        ReaderAt::Standby if snapshot_first => {
            let reader = Reader { limit: replayed.safe, ..*me };
            let mut round = Round { me: &reader, ..round };
            round.deliver(me.snapshot, "on the standby reads the safe position and delivers up to");
        }
        ReaderAt::Standby => {
            round.deliver(replayed.committed, "on the standby takes a snapshot and delivers up to")
        }
        _ => {}
    }
}
