//! The state of everything that takes part, small enough to keep millions of them.
//!
//! Must not hold what no step and no property looks at: each such value multiplies the states. Hence positions of
//! dead rows are forgotten, a durable prefix of the WAL is kept as its sum, and a round that can move nothing any
//! more ends at once.

use std::hash::{Hash, Hasher};

use crate::property::Property;
use crate::scenario::{BACKENDS, MESSAGES, READERS, Scenario};

/// No bound, no checkpoint.
pub const NONE: u8 = u8::MAX;
/// Records of the WAL that can be unflushed or unreplayed at a time.
pub const WAL_RECORDS: usize = 14;

/// How far a backend is with its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum At {
    /// Before its next operation, or before its commit if there is none.
    Ready,
    /// Holds the jump lock; has moved the sequence, has not flushed.
    Jumping,
    /// Has read the last position, which becomes its bound.
    BoundRead,
    /// Has stored the mask of its first append (mutant: the bound), not yet the bound.
    HalfPublished,
    /// Is registered and may draw.
    Published,
    /// Mutants only: has drawn, the register does not cover it yet.
    DrawnUncovered,
    /// Its commit record is in the WAL, it is not visible.
    Committing,
    /// Has left the proc array, its registration stands.
    Releasing,
}

/// A server process that writes, with its slot or its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Which of its transactions.
    pub transaction: u8,
    /// Which operation of it.
    pub op: u8,
    /// How far.
    pub at: At,
    /// The bound that the process remembers for its transaction.
    pub known: u8,
    /// The slot's mask, or the categories locked by the transaction itself.
    pub mask: u8,
    /// The slot's bound, or the bound lock of the transaction itself.
    pub bound: u8,
    /// Categories locked by the open subtransaction.
    pub sub_mask: u8,
    /// Bound lock of the open subtransaction.
    pub sub_bound: u8,
    /// Mutants only: categories it believes to have locked.
    pub believed_mask: u8,
    /// Mutants only: it believes to have locked the bound.
    pub believed_bound: bool,
}

impl Backend {
    const START: Self = Self {
        transaction: 0,
        op: 0,
        at: At::Ready,
        known: NONE,
        mask: 0,
        bound: NONE,
        sub_mask: 0,
        sub_bound: NONE,
        believed_mask: 0,
        believed_bound: false,
    };

    /// The mask that readers see.
    pub fn seen_mask(&self) -> u8 {
        self.mask | self.sub_mask
    }

    /// The bound that readers see.
    pub fn seen_bound(&self) -> u8 {
        self.bound.min(self.sub_bound)
    }

    /// Goes on to the next transaction. The mask of the last stays in the slot, as in shared memory.
    pub fn finish(&mut self) {
        *self = Self { transaction: self.transaction + 1, mask: self.mask, ..Self::START };
    }
}

/// How far a reader is with its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderAt {
    /// Between two rounds.
    Idle,
    /// Has the last position; looks at this slot next.
    Scanning(u8),
    /// Has read one word of this slot.
    Half(u8),
    /// Has looked at all slots.
    Scanned,
    /// On the standby: has read the safe position (mutant: has its snapshot).
    Standby,
}

impl ReaderAt {
    fn numbers(self) -> (u8, u8) {
        match self {
            Self::Idle => (0, 0),
            Self::Scanning(slot) => (1, slot),
            Self::Half(slot) => (2, slot),
            Self::Scanned => (3, 0),
            Self::Standby => (4, 0),
        }
    }
}

/// A reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// How far.
    pub at: ReaderAt,
    /// Least of the last position and of the bounds seen so far in this round.
    pub limit: u8,
    /// The word read of the slot it is at.
    pub word: u8,
    /// Mutants only: the snapshot taken too early, as a set of transactions.
    pub snapshot: u8,
    /// REPEATABLE READ: the snapshot of its transaction.
    pub old: u8,
    /// REPEATABLE READ: its transaction is open.
    pub open: bool,
    /// Everything up to here is passed. Kept outside of the server: survives everything.
    pub checkpoint: u8,
    /// The highest position delivered.
    pub high: u8,
    /// Messages delivered that still exist, as a set.
    pub delivered: u8,
    /// Inside a writer: the checkpoint that counts if it commits.
    pub pending: u8,
    /// Inside a writer: the same for the highest position.
    pub pending_high: u8,
    /// Inside a writer: the same for the messages.
    pub pending_delivered: u8,
}

impl Reader {
    const START: Self = Self {
        at: ReaderAt::Idle,
        limit: 0,
        word: 0,
        snapshot: 0,
        old: 0,
        open: false,
        checkpoint: 0,
        high: 0,
        delivered: 0,
        pending: NONE,
        pending_high: 0,
        pending_delivered: 0,
    };

    /// Ends the round.
    pub fn rest(&mut self) {
        self.at = ReaderAt::Idle;
        self.limit = 0;
        self.word = 0;
        self.snapshot = 0;
    }

    /// The connection is lost: its round, its transaction and what it did in a writer's.
    pub fn disconnect(&mut self) {
        self.rest();
        self.old = 0;
        self.open = false;
        self.drop_pending();
    }

    /// The writer's transaction it worked in is gone.
    pub fn drop_pending(&mut self) {
        self.pending = NONE;
        self.pending_high = 0;
        self.pending_delivered = 0;
    }
}

/// A record of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The sequence has this value: a draw or a jump. The server logs 32 draws ahead; without that a crash takes back
    /// more, so the exact value is the harder case.
    Last(u8),
    /// A transaction has committed.
    Commit(u8),
    /// Everything up to this position is decided.
    Safe(u8),
}

impl Record {
    const COMMITS: u8 = 112;
    const SAFES: u8 = 128;

    /// In one byte, which is why positions stay below 112 and transactions below 16.
    fn encode(self) -> u8 {
        let (least, value, end) = match self {
            Self::Last(value) => (0, value, Self::COMMITS),
            Self::Commit(transaction) => (Self::COMMITS, transaction, Self::SAFES),
            Self::Safe(position) => (Self::SAFES, position, u8::MAX),
        };
        assert!(value < end - least, "{self:?} is too large");
        least + value
    }

    fn decode(code: u8) -> Self {
        match code {
            Self::SAFES.. => Self::Safe(code - Self::SAFES),
            Self::COMMITS.. => Self::Commit(code - Self::COMMITS),
            value => Self::Last(value),
        }
    }
}

/// What a prefix of the WAL adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// The sequence.
    pub last: u8,
    /// The committed transactions, as a set.
    pub committed: u8,
    /// The newest safe position.
    pub safe: u8,
}

impl Sum {
    /// Replays a record.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Last(value) => self.last = value,
            Record::Commit(transaction) => self.committed |= 1 << transaction,
            Record::Safe(position) => self.safe = position,
        }
    }
}

/// The primary's WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wal {
    /// What the standby has replayed; without one, what is flushed.
    pub base: Sum,
    /// What follows, encoded; zeroes behind that.
    tail: [u8; WAL_RECORDS],
    /// How many records follow.
    pub len: u8,
    /// How many of them are certain to survive a crash. The server may have flushed more.
    pub flushed: u8,
}

impl Wal {
    /// Adds a record.
    pub fn append(&mut self, record: Record) {
        self.tail[usize::from(self.len)] = record.encode();
        self.len += 1;
    }

    /// Keeps only so many records of the tail, all of them durable.
    pub fn cut(&mut self, count: u8) {
        self.tail[usize::from(count)..].fill(0);
        self.len = count;
        self.flushed = count;
    }

    /// Moves the first records of the tail into the base.
    pub fn replay(&mut self, count: u8) {
        self.base = self.sum(count);
        self.tail.copy_within(usize::from(count).., 0);
        self.len -= count;
        self.tail[usize::from(self.len)..].fill(0);
        self.flushed = self.flushed.saturating_sub(count);
    }

    /// What the base and the first records of the tail add up to.
    pub fn sum(&self, count: u8) -> Sum {
        let mut sum = self.base;
        for code in &self.tail[..usize::from(count)] {
            sum.apply(Record::decode(*code));
        }
        sum
    }
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The sequence.
    pub last: u8,
    /// The mark that says that nobody needs to jump.
    pub recovered: bool,
    /// The writers.
    pub backends: [Backend; BACKENDS],
    /// The position of each message; 0: not drawn, or dead.
    pub positions: [u8; MESSAGES],
    /// Transactions that committed and left the proc array, as a set.
    pub visible: u8,
    /// The readers.
    pub readers: [Reader; READERS],
    /// The log.
    pub wal: Wal,
    /// Crashes so far.
    pub crashes: u8,
    /// Promotions so far; the timeline.
    pub promotions: u8,
    /// What the step that led here broke.
    pub broken: Option<Property>,
}

impl State {
    /// Before anything happens.
    pub fn start(scenario: &Scenario) -> Self {
        Self {
            last: 0,
            recovered: !scenario.fresh,
            backends: [Backend::START; BACKENDS],
            positions: [0; MESSAGES],
            visible: 0,
            readers: [Reader::START; READERS],
            wal: Wal { base: Sum::default(), tail: [0; WAL_RECORDS], len: 0, flushed: 0 },
            crashes: 0,
            promotions: 0,
            broken: None,
        }
    }

    /// Writes to the WAL.
    pub fn log(&mut self, scenario: &Scenario, record: Record) {
        if scenario.logged() {
            self.wal.append(record);
        }
    }

    /// Makes everything written so far durable.
    pub fn flush(&mut self, scenario: &Scenario) {
        if scenario.standby {
            self.wal.flushed = self.wal.len;
        } else {
            self.wal.replay(self.wal.len);
        }
    }

    /// A writer has committed: what a reader did in its transaction counts, and is over.
    pub fn accept_pending(&mut self, scenario: &Scenario, backend: usize) {
        for (reader, spec) in self.readers.iter_mut().zip(&scenario.readers) {
            if spec.inside != Some(backend) {
                continue;
            }
            if reader.pending != NONE {
                reader.checkpoint = reader.pending;
                reader.high = reader.pending_high;
                reader.delivered = reader.pending_delivered;
            }
            reader.disconnect();
        }
    }

    /// A transaction's messages are dead.
    pub fn forget(&mut self, scenario: &Scenario, transaction: u8) {
        for (index, message) in scenario.messages.iter().enumerate() {
            if message.transaction == transaction {
                self.positions[index] = 0;
                self.readers.iter_mut().for_each(|reader| reader.delivered &= !(1 << index));
            }
        }
    }
}

/// By hand, eight values at a time: derived, it would take half of the time of all tests. States are compared whole,
/// so a value left out here would cost time, not a state.
impl Hash for State {
    fn hash<H: Hasher>(&self, to: &mut H) {
        for b in &self.backends {
            to.write_u64(u64::from_le_bytes([
                b.transaction,
                b.op,
                b.at as u8,
                b.known,
                b.mask,
                b.bound,
                b.sub_mask,
                b.sub_bound,
            ]));
        }
        for r in &self.readers {
            let (at, slot) = r.at.numbers();
            to.write_u64(u64::from_le_bytes([
                at,
                slot,
                r.limit,
                r.word,
                r.old,
                r.checkpoint,
                r.delivered,
                r.pending,
            ]));
        }
        let wal = &self.wal;
        to.write(&self.positions);
        to.write(&wal.tail);
        to.write_u64(u64::from_le_bytes([
            self.last,
            self.recovered.into(),
            self.visible,
            self.crashes,
            self.promotions,
            wal.base.last ^ wal.base.safe.rotate_left(4),
            wal.base.committed,
            wal.flushed,
        ]));
    }
}
