//! What is explored: who writes what, who reads, which faults may happen, and what is broken on purpose.

/// Server processes that a scenario can have.
pub const BACKENDS: usize = 3;
/// Messages that a scenario can have.
pub const MESSAGES: usize = 6;
/// Readers that a scenario can have, the worker that logs safe positions included.
pub const READERS: usize = 2;

/// A category of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// The first.
    A,
    /// The second.
    B,
}

/// What a transaction does, one after the other; after the last it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Appends a message.
    Append(Category),
    /// Appends a message in a subtransaction, which the next `RollBack` undoes.
    SubAppend(Category),
    /// Rolls back the subtransaction of the `SubAppend`s before it.
    RollBack,
    /// Lets the reader that works in this transaction make one round.
    Read,
}

/// One transaction of a backend.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// What it does.
    pub ops: Vec<Op>,
    /// Whether its commit is flushed before it is visible (`synchronous_commit = on`).
    pub synchronous: bool,
    /// Its number in the whole scenario.
    pub id: u8,
    /// The number of its first message in the whole scenario; the others follow.
    pub first_message: u8,
}

impl Transaction {
    /// A transaction that commits synchronously.
    pub fn new(ops: &[Op]) -> Self {
        Self { ops: ops.to_vec(), synchronous: true, id: 0, first_message: 0 }
    }

    /// The same with `synchronous_commit = off`: visible at once, flushed some time later or never.
    pub fn asynchronous(ops: &[Op]) -> Self {
        Self { synchronous: false, ..Self::new(ops) }
    }
}

/// A message, as the scenario knows it beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The transaction that appends it.
    pub transaction: u8,
    /// Its category.
    pub category: Category,
}

/// Where a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the primary, whichever server that is.
    Primary,
    /// On the standby, up to the newest replayed safe position.
    Standby,
    /// On either, round by round.
    Either,
    /// Not a reader: the worker on the primary that logs safe positions for standbys.
    SafeWorker,
}

/// A reader. It makes as many rounds as it likes.
#[derive(Clone, Copy, Debug)]
pub struct ReaderSpec {
    /// The category it reads; `None` reads everything.
    pub interest: Option<Category>,
    /// The backend in whose transaction it reads.
    pub inside: Option<usize>,
    /// Whether its own transaction is REPEATABLE READ.
    pub repeatable: bool,
    /// Where it reads.
    pub place: Place,
}

impl ReaderSpec {
    /// A reader of one category, on the primary, each round in a transaction of its own.
    pub fn of(category: Category) -> Self {
        Self { interest: Some(category), inside: None, repeatable: false, place: Place::Primary }
    }

    /// A reader of everything.
    pub fn of_all() -> Self {
        Self { interest: None, ..Self::of(Category::A) }
    }

    /// The same, in the transaction of a backend.
    pub fn inside(self, backend: usize) -> Self {
        Self { inside: Some(backend), ..self }
    }

    /// The same, in a REPEATABLE READ transaction.
    pub fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// The same, elsewhere.
    pub fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }
}

/// Where bounds are registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Slots in shared memory, read word by word.
    Slots,
    /// The lock table, seen in one look.
    Locks,
    /// The lock table, but category and bound of a transaction are looked at one after the other: more than the
    /// server's one look can do, to find out whether anything depends on it.
    LocksInTwoLooks,
}

/// How slots are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// One after the other, of each the bound first, as `shmem::inflight` does.
    BoundFirst,
    /// One after the other, of each the mask first.
    MaskFirst,
    /// All at once, which no reader can: for scenarios about something else, to keep them small.
    AtOnce,
}

/// How far the first appender after a crash or a promotion moves the sequence. In every scenario the distance is just
/// what can be drawn and lost: a shorter one would fail, which a test shows.
#[derive(Clone, Copy, Debug)]
pub enum Jump {
    /// By a fixed distance.
    By(u8),
    /// By a fixed distance, and at least to the first position of the server's timeline, which lies above all that
    /// earlier timelines could issue. That every promotion gets a number of its own is assumed: a standby that is
    /// promoted without having heard of an earlier promotion takes the same number.
    ToTimeline {
        /// The distance.
        by: u8,
        /// Positions set aside for each timeline; more than all jumps and draws of one together.
        stride: u8,
    },
}

/// A protocol that is broken on purpose; the checker must refute each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The writer draws, then publishes.
    DrawBeforePublish,
    /// The bound is stored before the mask, in a slot that still has its last owner's mask.
    BoundBeforeMask,
    /// A later append renews the bound, although earlier rows lie below it.
    BoundRenewed,
    /// The bits of a later append's category are added after its draw.
    OrAfterDraw,
    /// A later append replaces the mask.
    MaskReplaced,
    /// The register is emptied before the transaction has left the proc array.
    ClearBeforeVisible,
    /// The register is not emptied when the transaction aborts.
    NotClearedByAbort,
    /// The slot is cleared when a subtransaction aborts.
    ClearAtRollBack,
    /// The bound lock is not taken again after a subtransaction gave it back.
    BoundNotRetaken,
    /// The category lock is not taken again after a subtransaction gave it back.
    CategoryNotRetaken,
    /// The reader heeds every bound, whatever category it is about.
    MaskIgnored,
    /// The reader remembers the last position it saw, and looks at nothing else.
    NoHorizon,
    /// The reader takes its snapshot before it scans.
    SnapshotBeforeScan,
    /// The reader asks for the last position after it scanned.
    LastAfterScan,
    /// A REPEATABLE READ reader passes over what its own snapshot does not show.
    RepeatableReadRunsOn,
    /// Nobody moves the sequence after a crash.
    NoJump,
    /// The jump is not flushed.
    JumpNotFlushed,
    /// Who jumps may be killed before it has flushed the jump.
    JumpInterrupted,
    /// The standby reader takes its snapshot before it reads the safe position.
    StandbySnapshotFirst,
    /// The worker logs the last position without looking who is in flight.
    SafeWithoutScan,
}

/// What is explored. Every writer may stall for ever at every step: a path that never schedules it again.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For the output.
    pub name: &'static str,
    /// Transactions of each backend, one after the other in one slot.
    pub backends: Vec<Vec<Transaction>>,
    /// The readers.
    pub readers: Vec<ReaderSpec>,
    /// All messages, in the order of backends, transactions and appends.
    pub messages: Vec<Message>,
    /// Where bounds are registered.
    pub register: Register,
    /// How slots are read.
    pub scan: Scan,
    /// Whether both categories map to the same bit.
    pub colliding: bool,
    /// Whether writers may be killed at every step.
    pub kills: bool,
    /// Crashes that may happen.
    pub crashes: u8,
    /// Promotions that may happen.
    pub promotions: u8,
    /// Whether there is a standby.
    pub standby: bool,
    /// Whether the first appender of all has to jump too.
    pub fresh: bool,
    /// The jump.
    pub jump: Jump,
    /// Whether a sequence that was never called is only marked as called, not moved out of reach: the model spends its
    /// first number on the mark.
    pub spares_first: bool,
    /// Whether who jumps flushes before it moves the sequence, too.
    pub flushes_first: bool,
    /// What is broken.
    pub mutant: Option<Mutant>,
}

impl Scenario {
    /// A scenario without anybody in it, in which writers may be killed.
    pub fn new(name: &'static str, register: Register) -> Self {
        Self {
            name,
            backends: Vec::new(),
            readers: Vec::new(),
            messages: Vec::new(),
            register,
            scan: Scan::BoundFirst,
            colliding: false,
            kills: true,
            crashes: 0,
            promotions: 0,
            standby: false,
            fresh: false,
            jump: Jump::By(MESSAGES as u8),
            spares_first: false,
            flushes_first: false,
            mutant: None,
        }
    }

    /// Adds a backend with its transactions.
    #[must_use]
    pub fn backend(mut self, transactions: impl IntoIterator<Item = Transaction>) -> Self {
        let mut own = Vec::new();
        for mut transaction in transactions {
            transaction.id = (self.backends.iter().map(Vec::len).sum::<usize>() + own.len()) as u8;
            transaction.first_message = self.messages.len() as u8;
            for op in &transaction.ops {
                if let Op::Append(category) | Op::SubAppend(category) = *op {
                    self.messages.push(Message { transaction: transaction.id, category });
                }
            }
            own.push(transaction);
        }
        self.backends.push(own);
        assert!(
            self.backends.len() <= BACKENDS && self.messages.len() <= MESSAGES,
            "{}: too large",
            self.name
        );
        self
    }

    /// Adds a reader.
    #[must_use]
    pub fn reader(mut self, reader: ReaderSpec) -> Self {
        self.readers.push(reader);
        assert!(self.readers.len() <= READERS, "{}: too many readers", self.name);
        self
    }

    /// Breaks the protocol.
    #[must_use]
    pub fn broken(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    /// Whether the protocol is broken in this way.
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether the WAL matters: without faults and standbys nobody reads it.
    pub fn logged(&self) -> bool {
        self.standby || self.crashes > 0
    }

    /// A transaction of a backend.
    pub fn transaction(&self, backend: usize, index: u8) -> Option<&Transaction> {
        self.backends.get(backend)?.get(usize::from(index))
    }

    /// The bit of a category in a mask; in the lock table its key.
    pub fn bit(&self, category: Category) -> u8 {
        match category {
            Category::A => 1,
            Category::B if self.colliding => 1,
            Category::B => 2,
        }
    }

    /// The bits that concern a reader.
    pub fn interest(&self, reader: usize) -> u8 {
        if self.is(Mutant::MaskIgnored) {
            return u8::MAX;
        }
        self.readers[reader].interest.map_or(u8::MAX, |category| self.bit(category))
    }

    /// Whether a reader delivers messages of a category.
    pub fn reads(&self, reader: usize, category: Category) -> bool {
        self.readers[reader].interest.is_none_or(|interest| interest == category)
    }
}
