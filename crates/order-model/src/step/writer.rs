//! What a writer does: `event_store::sequence::recover`, `event_store::horizon::register`, the draw and the end of
//! the transaction (`shmem::commit`).

use super::{Actor, Steps};
use crate::property::Property;
use crate::scenario::{Category, Jump, Mutant, Op, Place, Register, Scenario, Transaction};
use crate::state::{At, Backend, NONE, Record, State};

struct Writer<'a> {
    scenario: &'a Scenario,
    state: &'a State,
    index: usize,
    me: &'a Backend,
    transaction: &'a Transaction,
    steps: &'a mut Steps,
}

pub(super) fn steps(scenario: &Scenario, state: &State, index: usize, steps: &mut Steps) {
    let me = &state.backends[index];
    let Some(transaction) = scenario.transaction(index, me.transaction) else { return };
    Writer { scenario, state, index, me, transaction, steps }.all();
}

impl Writer<'_> {
    fn all(&mut self) {
        if self.scenario.kills && self.can_be_killed() {
            self.kill();
        }
        match self.me.at {
            At::Ready => match self.transaction.ops.get(usize::from(self.me.op)) {
                None => self.write_commit_record(),
                Some(Op::RollBack) => self.roll_back(),
                // The reader that works here moves on (`reader.rs`).
                Some(Op::Read) => {}
                Some(Op::Append(category)) => self.begin_append(*category, false),
                Some(Op::SubAppend(category)) => self.begin_append(*category, true),
            },
            At::Jumping => self.end_jump(),
            At::Committing => self.commit(),
            At::Releasing => self.release(),
            At::BoundRead | At::HalfPublished | At::Published | At::DrawnUncovered => {
                let (category, sub) = self.appending();
                match self.scenario.register {
                    Register::Slots => self.publish(category),
                    Register::Locks | Register::LocksInTwoLooks => self.lock(category, sub),
                }
            }
        }
    }

    /// Adds a step that changes what this writer holds, and whatever else `change` does.
    fn add(&mut self, deed: &'static str, number: u8, change: impl FnOnce(&mut State, usize)) {
        let mut to = *self.state;
        change(&mut to, self.index);
        self.steps.add(Actor::Writer(self.index as u8), deed, number, to);
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.scenario.is(mutant)
    }

    /// The append it is at.
    fn appending(&self) -> (Category, bool) {
        match self.transaction.ops.get(usize::from(self.me.op)) {
            Some(Op::Append(category)) => (*category, false),
            Some(Op::SubAppend(category)) => (*category, true),
            other => unreachable!("{other:?} is no append"),
        }
    }

    /// The message that the current append makes.
    fn message(&self) -> usize {
        let before = self.transaction.ops.iter().take(usize::from(self.me.op));
        let appended = before.filter(|op| matches!(op, Op::Append(_) | Op::SubAppend(_))).count();
        usize::from(self.transaction.first_message) + appended
    }

    fn begin_append(&mut self, category: Category, sub: bool) {
        if self.me.known == NONE {
            self.begin_first_append();
            return;
        }
        if self.scenario.register != Register::Slots {
            self.lock(category, sub);
            return;
        }
        if self.is(Mutant::BoundRenewed) && self.me.bound < self.state.last {
            let last = self.state.last;
            self.add("renews its bound:", last, |to, me| to.backends[me].bound = last);
            return;
        }
        let bit = self.scenario.bit(category);
        if self.me.mask & bit != 0 {
            self.draw(At::Ready);
        } else if self.is(Mutant::OrAfterDraw) {
            self.draw(At::DrawnUncovered);
        } else if self.is(Mutant::MaskReplaced) {
            self.add("replaces its mask:", bit, |to, me| {
                to.backends[me].mask = bit;
                to.backends[me].at = At::Published;
            });
        } else {
            self.add("adds to its mask", bit, |to, me| {
                to.backends[me].mask |= bit;
                to.backends[me].at = At::Published;
            });
        }
    }

    /// The recovery check, then the value that becomes the bound. Reading the mark and reading the value are one step:
    /// the mark only ever goes up while a server lives.
    fn begin_first_append(&mut self) {
        if self.state.recovered || self.is(Mutant::NoJump) {
            let last = self.state.last;
            self.add("reads the last position:", last, |to, me| {
                to.backends[me].known = last;
                to.backends[me].at = At::BoundRead;
            });
        } else if self.state.backends.iter().all(|backend| backend.at != At::Jumping) {
            let target = self.jump_target();
            let scenario = self.scenario;
            self.add("takes the jump lock and moves the sequence to", target, |to, me| {
                if scenario.flushes_first {
                    to.flush(scenario);
                }
                to.last = target;
                to.log(scenario, Record::Last(target));
                to.backends[me].at = At::Jumping;
            });
        }
    }

    fn jump_target(&self) -> u8 {
        let last = self.state.last;
        let moved = |by| if last == 0 && self.scenario.spares_first { 1 } else { last + by };
        match self.scenario.jump {
            Jump::By(by) => moved(by),
            Jump::ToTimeline { by, stride } => moved(by).max(stride * self.state.promotions),
        }
    }

    fn end_jump(&mut self) {
        let flushes = !self.is(Mutant::JumpNotFlushed);
        let scenario = self.scenario;
        self.add("flushes the jump and sets the mark,", 1, |to, me| {
            if flushes {
                to.flush(scenario);
            }
            to.recovered = true;
            to.backends[me].at = At::Ready;
        });
    }

    /// The first append's way into the slot.
    fn publish(&mut self, category: Category) {
        let bit = self.scenario.bit(category);
        let bound_first = self.is(Mutant::BoundBeforeMask);
        let known = self.me.known;
        match self.me.at {
            At::BoundRead if self.is(Mutant::DrawBeforePublish) => self.draw(At::DrawnUncovered),
            At::BoundRead if bound_first => self.add("stores its bound:", known, |to, me| {
                to.backends[me].bound = known;
                to.backends[me].at = At::HalfPublished;
            }),
            At::BoundRead => self.add("stores its mask:", bit, |to, me| {
                to.backends[me].mask = bit;
                to.backends[me].at = At::HalfPublished;
            }),
            At::HalfPublished if bound_first => self.add("stores its mask:", bit, |to, me| {
                to.backends[me].mask = bit;
                to.backends[me].at = At::Published;
            }),
            At::HalfPublished => {
                // Who drew before publishing has nothing left to draw.
                let drawn = self.is(Mutant::DrawBeforePublish);
                self.add("stores its bound:", known, |to, me| {
                    to.backends[me].bound = known;
                    to.backends[me].at = if drawn { At::Ready } else { At::Published };
                    to.backends[me].op += u8::from(drawn);
                });
            }
            At::DrawnUncovered if self.is(Mutant::DrawBeforePublish) => {
                self.add("stores its mask:", bit, |to, me| {
                    to.backends[me].mask = bit;
                    to.backends[me].at = At::HalfPublished;
                });
            }
            At::DrawnUncovered => self.add("adds to its mask", bit, |to, me| {
                to.backends[me].mask |= bit;
                to.backends[me].at = At::Ready;
                to.backends[me].op += 1;
            }),
            _ => self.draw(At::Ready),
        }
    }

    /// The lock table's way: both locks at the level of this append, in either order, every time.
    fn lock(&mut self, category: Category, sub: bool) {
        let bit = self.scenario.bit(category);
        let known = self.me.known;
        let (mask, bound) =
            if sub { (self.me.sub_mask, self.me.sub_bound) } else { (self.me.mask, self.me.bound) };
        let has_category =
            mask & bit != 0 || self.is(Mutant::CategoryNotRetaken) && self.me.believed_mask & bit != 0;
        let has_bound = bound != NONE || self.is(Mutant::BoundNotRetaken) && self.me.believed_bound;
        if has_category && has_bound {
            self.draw(At::Ready);
            return;
        }
        let remembers = self.is(Mutant::CategoryNotRetaken) || self.is(Mutant::BoundNotRetaken);
        if !has_category {
            self.add("locks its category", bit, |to, me| {
                let me = &mut to.backends[me];
                *if sub { &mut me.sub_mask } else { &mut me.mask } |= bit;
                me.believed_mask |= if remembers { bit } else { 0 };
            });
        }
        if !has_bound {
            self.add("locks its bound", known, |to, me| {
                let me = &mut to.backends[me];
                *if sub { &mut me.sub_bound } else { &mut me.bound } = known;
                me.believed_bound = remembers;
            });
        }
    }

    /// Draws and inserts, and goes on to the next operation unless something is left to be done for this one.
    fn draw(&mut self, then: At) {
        let position = self.state.last + 1;
        let message = self.message();
        let scenario = self.scenario;
        self.add("draws and inserts", position, |to, me| {
            to.last = position;
            to.log(scenario, Record::Last(position));
            to.positions[message] = position;
            let passed = |(reader, spec): (usize, &crate::scenario::ReaderSpec)| {
                spec.place != Place::SafeWorker && to.readers[reader].checkpoint >= position
            };
            if scenario.readers.iter().enumerate().any(passed) {
                to.broken = Some(Property::Reissued);
            }
            to.backends[me].at = then;
            to.backends[me].op += u8::from(then == At::Ready);
        });
    }

    fn roll_back(&mut self) {
        let until = usize::from(self.me.op);
        let mut message = usize::from(self.transaction.first_message);
        let mut dead = 0u8;
        for op in &self.transaction.ops[..until] {
            match op {
                Op::SubAppend(_) => dead |= 1 << message,
                Op::Append(_) | Op::RollBack | Op::Read => {}
            }
            message += usize::from(matches!(op, Op::Append(_) | Op::SubAppend(_)));
        }
        let locks = self.scenario.register != Register::Slots;
        let clears = self.is(Mutant::ClearAtRollBack);
        self.add("rolls back to its savepoint; rows die:", dead.count_ones() as u8, |to, me| {
            let rows = to.positions.iter_mut().enumerate().filter(|(index, _)| dead & (1 << index) != 0);
            rows.for_each(|(_, position)| *position = 0);
            let me = &mut to.backends[me];
            me.op += 1;
            if locks {
                me.sub_mask = 0;
                me.sub_bound = NONE;
            }
            if clears {
                me.bound = NONE;
                me.known = NONE;
            }
        });
    }

    fn write_commit_record(&mut self) {
        let scenario = self.scenario;
        let id = self.transaction.id;
        self.add("writes the commit record of transaction", id, |to, me| {
            to.log(scenario, Record::Commit(id));
            to.backends[me].at = At::Committing;
        });
    }

    fn commit(&mut self) {
        let registered = self.is_registered();
        if self.is(Mutant::ClearBeforeVisible) && registered {
            self.release();
            return;
        }
        let scenario = self.scenario;
        let transaction = self.transaction;
        let at = if registered { At::Releasing } else { At::Ready };
        self.add("leaves the proc array: visible is transaction", transaction.id, |to, me| {
            if transaction.synchronous {
                to.flush(scenario);
            }
            to.visible |= 1 << transaction.id;
            to.accept_pending(scenario, me);
            to.backends[me].at = at;
            if at == At::Ready {
                end(scenario, to, me);
            }
        });
    }

    /// Empties the register: the slot at once, the lock table in any order.
    fn release(&mut self) {
        let scenario = self.scenario;
        // The mutant that releases first is not done then.
        let ends = self.me.at == At::Releasing;
        if scenario.register == Register::Slots {
            self.add("clears its slot, which had", self.me.bound, |to, me| {
                to.backends[me].bound = NONE;
                if ends {
                    end(scenario, to, me);
                }
            });
            return;
        }
        let (mask, bound) = (self.me.seen_mask(), self.me.seen_bound());
        if mask != 0 {
            self.add("releases its category locks", mask, |to, me| {
                to.backends[me].mask = 0;
                to.backends[me].sub_mask = 0;
                if ends && bound == NONE {
                    end(scenario, to, me);
                }
            });
        }
        if bound != NONE {
            self.add("releases its bound lock", bound, |to, me| {
                to.backends[me].bound = NONE;
                to.backends[me].sub_bound = NONE;
                if ends && mask == 0 {
                    end(scenario, to, me);
                }
            });
        }
    }

    /// Whether there is anything to take out of the register. A slot without a bound is empty, whatever its mask.
    fn is_registered(&self) -> bool {
        let locks = self.scenario.register != Register::Slots;
        self.me.seen_bound() != NONE || locks && self.me.seen_mask() != 0
    }

    /// Once it has begun, and until its commit record is written: from there on the server lets nobody in. Neither does
    /// it between the jump and its flush, where no interrupt is looked for; `Mutant::JumpInterrupted` shows why none
    /// must be.
    fn can_be_killed(&self) -> bool {
        match self.me.at {
            At::Committing | At::Releasing => false,
            At::Jumping => self.is(Mutant::JumpInterrupted),
            At::Ready => self.me.op > 0 || self.me.known != NONE,
            _ => true,
        }
    }

    fn kill(&mut self) {
        let scenario = self.scenario;
        let id = self.transaction.id;
        let registered = self.is_registered();
        let forgotten = self.is(Mutant::NotClearedByAbort).then_some((self.me.mask, self.me.bound));
        self.add("aborts transaction", id, |to, me| {
            to.forget(scenario, id);
            for (reader, spec) in scenario.readers.iter().enumerate() {
                if spec.inside == Some(me) {
                    to.readers[reader].disconnect();
                }
            }
            to.backends[me].at = At::Releasing;
            if !registered || forgotten.is_some() {
                end(scenario, to, me);
            }
            if let Some((mask, bound)) = forgotten {
                (to.backends[me].mask, to.backends[me].bound) = (mask, bound);
            }
        });
    }
}

/// Goes on to the next transaction.
fn end(scenario: &Scenario, to: &mut State, index: usize) {
    let me = &mut to.backends[index];
    me.finish();
    if scenario.register != Register::Slots || scenario.transaction(index, me.transaction).is_none() {
        me.mask = 0;
    }
}
