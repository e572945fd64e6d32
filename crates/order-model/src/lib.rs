//! The event store's ordering protocol, checked in every interleaving. For tests only.
//!
//! A position is drawn before its transaction commits, and yet nobody waits for anybody: a writer publishes a lower
//! bound before it draws, and a reader stops at the lowest bound that concerns it. What that rests on is the order of a
//! few loads and stores in several processes, which no test of a real server can go through. This crate does: scenarios
//! of two or three writers, a reader, crashes and promotions, each explored until no state is new.
//!
//! | question | file | the real code |
//! |---|---|---|
//! | Who writes, reads, fails; what is broken on purpose? | `scenario.rs` | |
//! | What does a state consist of? | `state.rs` | |
//! | What can a writer do next? | `step/writer.rs` | `src/event_store/`: `sequence.rs`, `horizon.rs`, `lock.rs` |
//! | How does its registration begin and end? | the same | `src/shmem/`: `inflight.rs`, `commit.rs` |
//! | What can a reader do next? | `step/reader.rs` | `src/event_store/`: `horizon.rs`, `read.rs` |
//! | What do crash, replay and promotion do? | `step/server.rs` | PostgreSQL |
//! | Which steps are one step, and why? | `step.rs` | |
//! | What must hold? | `property.rs` | |
//! | How are all states found? | `explore.rs` | |
//! | What do tests call? | `check.rs` | |
//!
//! **What is proved, and how far.** In each scenario of `tests/`, in every reachable state: nobody misses a message,
//! nobody gets one twice or out of order, no position that a reader has passed is issued again, and no reader is held
//! by a writer that does not concern it. A writer may stall for ever anywhere (paths that never schedule it again are
//! among those explored) and be killed anywhere before its commit record. That these scenarios are enough is an
//! argument, not a proof: a reader misses a message because of its one writer, another writer has to push the sequence
//! past it, and a third can only do what one of the two does.
//!
//! **Every rule is needed.** Each mutant breaks one, and the test that names it shows a shortest way to the damage, in
//! a scenario that holds without the mutant.
//!
//! **One reader at a time is enough**: readers write nothing that others read, except the worker that logs safe
//! positions, which is explored together with a reader.
//!
//! **What is left out.**
//!
//! - Stream locks and versions. That a writer publishes only once it holds its locks keeps readers from waiting for a
//!   writer that waits; positions do not depend on it.
//! - Weak memory. Steps are seen in one order by all. The code's atomics are `SeqCst`, and a position passes from
//!   writer to reader through the sequence's buffer lock: who sees a position sees what was published before it was
//!   drawn.
//! - A slot's database and project, which are stored with the mask, before the bound, and only ever widen until the
//!   slot is cleared: what holds for the mask holds for them.
//! - Sequences with a cache, which the extension refuses, and the 32 values that the server logs ahead, without which a
//!   crash takes back more.
//! - Rows a writer's own reader saw in a subtransaction that is rolled back later: whoever reads there has to roll back
//!   what it did with them too.

pub mod check;
pub mod explore;
pub mod property;
pub mod scenario;
pub mod state;
pub mod step;
