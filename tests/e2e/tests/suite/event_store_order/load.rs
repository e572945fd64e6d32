//! What writers, readers and the verdict on them have in common.

use meshhook_e2e::{Database, Stop};
use meshhook_testkit::Session;
use meshhook_testkit::session::describe;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Sessions that append.
pub const WRITERS: u64 = 16;
/// Categories they append to.
pub const CATEGORIES: usize = 50;
/// Streams of each category: few enough that writers meet, many enough that they do not only wait for each other.
const STREAMS: usize = 120;

/// How writers' connections are called, so that their end can be seen.
const WRITER: &str = "order-writer";

/// A run of the load in a database of its own.
pub struct Load<'a> {
    /// The database.
    pub db: &'a Database<'a>,
    /// What the plans of all writers and readers follow from.
    pub seed: u64,
    /// Messages to append, counted at the append whatever becomes of them.
    pub messages: u64,
    /// Most messages of a batch: the fewer, the more transactions.
    pub batch: usize,
    /// Every stream there is, category by category.
    pub streams: Vec<Arc<str>>,
    /// Set once nobody writes any more: what is not readable then never will be.
    pub writers_ended: Stop,
    /// Somebody has panicked; the others need not go on.
    given_up: AtomicBool,
    began: Instant,
    known: HashMap<Arc<str>, Arc<str>>,
}

impl<'a> Load<'a> {
    /// Prepares the database.
    pub fn new(db: &'a Database<'a>, seed: u64, messages: u64, batch: usize) -> Load<'a> {
        // Message DB's interface is one of those that are read through; its role is the one that may.
        let settings = format!(
            "SELECT meshhook.install_message_store(); GRANT message_store TO {}; \
             ALTER DATABASE \"{}\" SET deadlock_timeout = '50ms'",
            meshhook_e2e::APP,
            db.name
        );
        db.admin().exec(&settings);
        // A third of the ids are shared by the streams of one member of a group.
        let stream = |n: usize| Arc::from(format!("{}-{}+{}", category(n / STREAMS), n / 3 % STREAMS, n % 3));
        let streams: Vec<Arc<str>> = (0..CATEGORIES * STREAMS).map(stream).collect();
        assert_eq!(streams.iter().collect::<BTreeSet<_>>().len(), CATEGORIES * STREAMS);
        let known = streams.iter().map(|name| (Arc::clone(name), Arc::clone(name))).collect();
        Load {
            db,
            seed,
            messages,
            batch,
            streams,
            writers_ended: Stop::default(),
            given_up: AtomicBool::new(false),
            began: Instant::now(),
            known,
        }
    }

    /// The streams of a category.
    pub fn streams_of(&self, category: usize) -> &[Arc<str>] {
        &self.streams[category * STREAMS..(category + 1) * STREAMS]
    }

    /// A name as everybody shares it.
    pub fn name(&self, name: &str) -> Arc<str> {
        self.known.get(name).map_or_else(|| Arc::from(name), Arc::clone)
    }

    /// The id of the nth message of a writer in this run.
    pub fn id(&self, writer: u64, n: u64) -> Uuid {
        Uuid::from_u64_pair(self.seed, writer << 48 | n)
    }

    /// Whose message an id is of, and the how manieth.
    pub fn writer_of(id: Uuid) -> (u64, u64) {
        let low = id.as_u64_pair().1;
        (low >> 48, low & ((1 << 48) - 1))
    }

    /// A generator of its own for each participant.
    pub fn rng(&self, participant: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(
            self.seed.wrapping_add((participant + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        )
    }

    /// Time since the run began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A writer's connection.
    pub fn connect_writer(&self) -> Session {
        let mut config = self.db.cluster.config(meshhook_e2e::APP, &self.db.name);
        config.application_name(WRITER);
        Session::connect(&config).unwrap_or_else(|e| panic!("{}", describe(&e)))
    }

    /// Writers' connections that the server still knows: one that was killed rolls back before it goes.
    pub fn writers_left(&self, admin: &mut Session) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = $2";
        admin.value(sql, &[&WRITER, &self.db.name])
    }

    /// Whether somebody has panicked.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Makes the others give up if the thread that holds the returned value panics.
    pub fn on_panic(&self) -> impl Drop + '_ {
        struct OnPanic<'a>(&'a AtomicBool);
        impl Drop for OnPanic<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        OnPanic(&self.given_up)
    }
}

/// The name of the nth category.
pub fn category(n: usize) -> String {
    format!("topic{n:02}")
}

/// Whether a stream is one of a category.
pub fn is_of(stream: &str, category: &str) -> bool {
    stream.split('-').next() == Some(category)
}

/// True once in so many times.
pub fn once_in(rng: &mut fastrand::Rng, times: u32) -> bool {
    rng.u32(0..times) == 0
}
