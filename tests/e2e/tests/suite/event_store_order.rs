//! Sixteen writers append to fifty categories, roll back, stall and are killed, while four readers tail them: nobody
//! misses, repeats or reorders a message. The checker that says so is `testkit::order`; it is shown to find what a
//! reader misses that takes no account of open transactions.
//!
//! `MESHHOOK_SEED` makes the plans of all sessions others, or the same again; how they interleave is the machine's.

mod load;
mod reader;
mod verdict;
mod writer;

use load::{Load, WRITERS, category};
use meshhook_e2e::{Database, SOON, own_cluster};
use meshhook_testkit::order::Fault;
use meshhook_testkit::{Session, wait_for};
use reader::{Reader, Source, Tail};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use verdict::{Truth, story};
use writer::{Ledger, Writer};

/// The seed unless the environment names one: always the same, so that a commit is not blamed for what it did not do.
const SEED: u64 = 20_260_115;
/// Runs in which the broken reader may be lucky.
const TRIES: u64 = 10;

fn seed() -> u64 {
    let Ok(text) = std::env::var("MESHHOOK_SEED") else { return SEED };
    text.parse().unwrap_or_else(|_| panic!("MESHHOOK_SEED is a number, not {text}"))
}

/// Says how to do it again when the test fails.
struct Repeat(&'static str, u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Repeat(test, seed) = self;
            eprintln!(
                "again: MESHHOOK_SEED={seed} cargo test -p meshhook-e2e --test suite event_store_order::{test}"
            );
        }
    }
}

/// What came of a run.
struct Outcome {
    ledgers: Vec<Ledger>,
    /// Of each reader.
    tails: Vec<Vec<Tail>>,
    /// How long the writers took.
    written_in: Duration,
    /// How long all took.
    read_in: Duration,
}

/// Writers and readers at once. Each reader is a session and what it tails.
fn run(load: &Load, readers: Vec<(Session, Vec<Source>)>) -> Outcome {
    std::thread::scope(|scope| {
        let end = load.writers_ended.at_end();
        let readers: Vec<_> = (0..)
            .zip(readers)
            .map(|(number, (session, sources))| {
                let reader = Reader::new(load, number, session, sources);
                scope.spawn(move || watched(load, || reader.run()))
            })
            .collect();
        let (killer, killed) = mpsc::channel();
        scope.spawn(move || kill(&mut load.db.admin(), &killed));
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let killer = killer.clone();
                let share = load.messages / WRITERS;
                scope.spawn(move || watched(load, || Writer::new(load, number, killer).run(share)))
            })
            .collect();
        drop(killer);
        let ledgers = joined(writers);
        let written_in = load.now();
        let mut admin = load.db.admin();
        wait_for("the writers' sessions to be gone", SOON, || load.writers_left(&mut admin) == 0);
        drop(end);
        let tails = joined(readers);
        Outcome { ledgers, tails, written_in, read_in: load.now() }
    })
}

/// Runs a thread's work; should it panic, the others need not go on.
fn watched<T>(load: &Load, work: impl FnOnce() -> T) -> T {
    let _give_up = load.on_panic();
    work()
}

fn joined<T>(threads: Vec<ScopedJoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
}

/// Ends the sessions that are named until nobody can name any more.
fn kill(admin: &mut Session, killed: &mpsc::Receiver<i32>) {
    for pid in killed {
        admin.rows("SELECT pg_terminate_backend($1)", &[&pid]);
    }
}

/// The four readers: two share the categories, one reads everything, one reads through the other interfaces.
fn four_readers(db: &Database) -> Vec<(Session, Vec<Source>)> {
    let categories = |first: usize| {
        (first..load::CATEGORIES).step_by(2).map(|n| Source::Category(category(n))).collect::<Vec<_>>()
    };
    let consumer = |member| Source::Consumer { category: category(3), member, size: 2 };
    let others = vec![consumer(0), Source::MessageStore(category(4)), consumer(1)];
    vec![
        (db.app(), categories(0)),
        (db.app(), categories(1)),
        (db.app(), vec![Source::All]),
        (db.app(), others),
    ]
}

/// Runs the load under the four readers and demands that all is well.
fn nobody_misses(db: &Database, test: &'static str, messages: u64, batch: usize) {
    let seed = seed();
    let _repeat = Repeat(test, seed);
    let load = Load::new(db, seed, messages, batch);
    let outcome = run(&load, four_readers(db));
    outcome.print(&load, test);
    let truth = Truth::of(&load);
    truth.assert_written(&load, &outcome.ledgers);
    let tails: Vec<Tail> = outcome.tails.into_iter().flatten().collect();
    truth.assert_sound(&load, &outcome.ledgers, &tails);
    // The load was what it is meant to be.
    let appended: u64 = outcome.ledgers.iter().map(|ledger| ledger.appended).sum();
    let share = truth.log.messages().len() as f64 / appended as f64;
    assert!(appended >= messages && (0.5..0.8).contains(&share), "{share} of {appended} are committed");
}

impl Outcome {
    fn print(&self, load: &Load, test: &str) {
        let appended: u64 = self.ledgers.iter().map(|ledger| ledger.appended).sum();
        let written: usize = self.ledgers.iter().map(|ledger| ledger.written.len()).sum();
        let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
        for (how, count) in self.ledgers.iter().flat_map(|ledger| &ledger.ends) {
            *ends.entry(how).or_default() += count;
        }
        let seconds = self.written_in.as_secs_f64();
        println!("{test}, MESHHOOK_SEED={}:", load.seed);
        println!("  {appended} messages in {seconds:.1} s, {:.0} messages/s", appended as f64 / seconds);
        println!("  {written} committed; transactions: {ends:?}");
        println!("  everything read after {:.1} s", self.read_in.as_secs_f64());
        for tails in &self.tails {
            let delivered: usize = tails.iter().map(|tail| tail.delivered.len()).sum();
            let reads = || tails.iter().flat_map(|tail| &tail.reads);
            let during = reads().filter(|read| read.at < self.written_in).count();
            println!("  {delivered} messages in {} reads, {during} while writers wrote", reads().count());
        }
    }
}

#[test]
fn a_million_appends_and_nobody_misses_repeats_or_reorders_a_message() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "order");
    nobody_misses(&db, "a_million_appends_and_nobody_misses_repeats_or_reorders_a_message", 1_000_000, 40);
}

#[test]
fn nobody_misses_a_message_where_the_lock_table_is_the_register() {
    let cluster = own_cluster(false);
    let db = Database::create(&cluster, "order");
    nobody_misses(&db, "nobody_misses_a_message_where_the_lock_table_is_the_register", 100_000, 8);
}

#[test]
fn a_reader_that_takes_no_account_of_open_transactions_is_found_out() {
    let first = seed();
    for seed in first..first + TRIES {
        let _repeat = Repeat("a_reader_that_takes_no_account_of_open_transactions_is_found_out", seed);
        let db = Database::preloaded(&format!("order_broken_{}", seed - first));
        let load = Load::new(&db, seed, 20_000, 12);
        let readers = vec![(db.app(), vec![Source::All]), (db.admin(), vec![Source::Unguarded])];
        let outcome = run(&load, readers);
        outcome.print(&load, "broken reader");
        let truth = Truth::of(&load);
        truth.assert_written(&load, &outcome.ledgers);
        let [sound, broken] = &outcome.tails[..] else { panic!("two readers") };
        truth.assert_sound(&load, &outcome.ledgers, sound);
        let findings = truth.findings(&broken[0]);
        if let Some(missed) = findings.iter().find(|finding| finding.fault == Fault::Missed) {
            println!("  {missed}{}", story(&load, &outcome.ledgers, missed, Some(&broken[0])));
            return;
        }
    }
    panic!("in {TRIES} runs the checker found nothing that the broken reader missed");
}
