//! The same calls to the original and to ours, side by side: rows, SQLSTATEs and texts must be the same.
//!
//! Times are not compared, and of global positions only the order, because stores may begin elsewhere and leave gaps.
//! `MESHHOOK_SEED` repeats one sequence of calls, or tries another.

use super::generator::{Call, World, call};
use super::{Failure, Kind, Row, Store, ask, lines, literal};
use fastrand::Rng;
use meshhook_testkit::Session;
use std::collections::BTreeMap;

/// Calls in a round of `make test`.
const CALLS: usize = 5_000;
/// The first of them are made while conditions are refused.
const WITHOUT_CONDITIONS: usize = 1_000;
/// The seed unless the environment names one: always the same, so that a commit is not blamed for what it did not do.
const SEED: u64 = 20_130_527;

/// One of the two stores.
struct Side {
    session: Session,
    /// Global positions of the messages, in the order they were written.
    globals: Vec<i64>,
}

impl Side {
    fn new(store: &Store) -> Side {
        Side { session: store.client(), globals: Vec::new() }
    }

    /// What it answers, in words that do not depend on the store.
    fn answer(&mut self, call: &Call) -> Result<Vec<Row>, Failure> {
        let mut rows = match ask(&mut self.session, &call.sql(&self.globals)) {
            // What DETAIL and HINT say of a table or a position in a query may differ.
            Err(failure) if failure.code != "P0001" => return Err(Failure { more: None, ..failure }),
            other => other?,
        };
        if call.is_reader() {
            for row in &mut rows {
                self.translate(row);
            }
        }
        Ok(rows)
    }

    /// Replaces the global position by the message's place, and drops the time.
    fn translate(&self, row: &mut Row) {
        assert_eq!(row.len(), 8, "{row:?}");
        row.truncate(7);
        let global = row[4].take().and_then(|global| global.parse::<i64>().ok());
        let place = self.globals.iter().position(|known| Some(*known) == global);
        row[4] = Some(place.map_or_else(|| format!("unknown: {global:?}"), |place| format!("#{place}")));
    }

    /// Finds and remembers the global position of a message just written.
    fn learn(&mut self, id: &str) -> Result<(), String> {
        let sql = format!("SELECT global_position FROM message_store.messages WHERE id = {}", literal(id));
        match lines(&mut self.session, &sql).as_slice() {
            [global] => {
                self.globals.push(global.parse().map_err(|_| format!("no position: {global}"))?);
                Ok(())
            }
            other => Err(format!("{} rows of: {sql}", other.len())),
        }
    }
}

/// Both stores, and what was written to them.
struct Pair {
    sides: [Side; 2],
    world: World,
    /// Calls so far, by function and by what they led to: `rows`, `nothing`, or the beginning of an error.
    counts: BTreeMap<(&'static str, String), usize>,
}

impl Pair {
    fn new(stores: [&Store; 2]) -> Pair {
        Pair { sides: stores.map(Side::new), world: World::default(), counts: BTreeMap::new() }
    }

    /// Makes a call of both; whether it succeeded, or how they differ.
    fn step(&mut self, call: &Call) -> Result<bool, String> {
        let [left, right] = &mut self.sides;
        let (expected, found) = (left.answer(call), right.answer(call));
        if expected != found {
            return Err(format!(
                "they differ.\n{}\n  answers {}\n{}\n  answers {}",
                call.sql(&left.globals),
                shown(&expected),
                call.sql(&right.globals),
                shown(&found)
            ));
        }
        *self.counts.entry((call.function, outcome(&expected))).or_default() += 1;
        if let ("write_message", Ok(rows)) = (call.function, &expected) {
            let (id, stream) =
                (call.text("id").unwrap_or_default(), call.text("stream_name").unwrap_or_default());
            let position = rows[0][0].as_deref().and_then(|position| position.parse().ok()).unwrap_or(-1);
            for side in &mut self.sides {
                side.learn(id)?;
            }
            self.world.versions.insert(stream.into(), position);
            self.world.ids.push(id.into());
        }
        Ok(expected.is_ok())
    }

    /// A transaction of some calls, given up at the first error, or at its end.
    fn transaction(&mut self, rng: &mut Rng) -> Result<usize, String> {
        let (before, length) = (self.world.clone(), rng.usize(1..6));
        self.both("BEGIN");
        let mut commit = rng.u8(0..3) > 0;
        for _ in 0..length {
            if !self.step(&call(rng, &self.world))? {
                commit = false;
                break;
            }
        }
        self.both(if commit { "COMMIT" } else { "ROLLBACK" });
        if !commit {
            self.world = before;
            for side in &mut self.sides {
                side.globals.truncate(self.world.ids.len());
            }
        }
        Ok(length)
    }

    fn both(&mut self, sql: &str) {
        for side in &mut self.sides {
            side.session.exec(sql);
        }
    }

    /// Compares everything there is.
    fn everything(&mut self) -> Result<(), String> {
        let summaries = [
            "category_type_summary",
            "stream_summary",
            "stream_type_summary",
            "type_category_summary",
            "type_stream_summary",
            "type_summary",
        ];
        let mut queries: Vec<String> =
            summaries.iter().map(|view| format!("SELECT * FROM message_store.{view}")).collect();
        let columns = "id, stream_name, type, position, data, metadata";
        queries.push(format!("SELECT {columns} FROM message_store.messages ORDER BY global_position"));
        let mut categories: Vec<&str> =
            self.world.versions.keys().map(|stream| stream.split('-').next().unwrap_or_default()).collect();
        categories.dedup();
        for category in categories {
            let category = literal(category);
            queries.push(format!(
                "SELECT {columns} FROM message_store.get_category_messages({category}, 1, -1)"
            ));
        }
        for stream in self.world.versions.keys() {
            let stream = literal(stream);
            queries.push(format!("SELECT message_store.stream_version({stream})"));
            queries.push(format!("SELECT {columns} FROM message_store.get_last_stream_message({stream})"));
        }
        for sql in queries {
            let [left, right] = &mut self.sides;
            let (expected, found) = (ask(&mut left.session, &sql), ask(&mut right.session, &sql));
            if expected != found {
                return Err(format!(
                    "they differ in the end.\n{sql}\n  {}\n  {}",
                    shown(&expected),
                    shown(&found)
                ));
            }
        }
        Ok(())
    }
}

/// What an answer is counted as.
fn outcome(answer: &Result<Vec<Row>, Failure>) -> String {
    match answer {
        Ok(rows) if rows.is_empty() => "nothing".into(),
        Ok(_) => "rows".into(),
        Err(failure) => failure.text().split([':', '(', '"']).next().unwrap_or_default().trim().into(),
    }
}

fn shown(answer: &Result<Vec<Row>, Failure>) -> String {
    match answer {
        Ok(rows) => {
            let rows: Vec<String> = rows.iter().map(super::line).collect();
            format!("{} rows\n    {}", rows.len(), rows.join("\n    "))
        }
        Err(failure) => failure.text(),
    }
}

/// Makes so many calls of both stores; how they differ, if they do.
fn compare(stores: [&Store; 2], seed: u64, calls: usize) -> Result<Pair, String> {
    let mut rng = Rng::with_seed(seed);
    let mut pair = Pair::new(stores);
    let mut made = 0;
    let mut conditions = false;
    while made < calls {
        if made >= WITHOUT_CONDITIONS && !conditions {
            conditions = true;
            for (store, side) in stores.iter().zip(&mut pair.sides) {
                store.set_for_all("message_store.sql_condition", "on");
                side.session = store.client();
            }
        }
        let step = if rng.u8(0..8) == 0 {
            pair.transaction(&mut rng)
        } else {
            pair.step(&call(&mut rng, &pair.world)).map(|_| 1)
        };
        made += step.map_err(|how| format!("MESHHOOK_SEED={seed}, call {made}: {how}"))?;
    }
    pair.everything().map_err(|how| format!("MESHHOOK_SEED={seed}: {how}"))?;
    Ok(pair)
}

fn seed() -> Option<u64> {
    let text = std::env::var("MESHHOOK_SEED").ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("MESHHOOK_SEED is a number, not {text}")))
}

/// Compares ours with the original in databases of their own.
#[track_caller]
fn compare_ours(kind: Kind, name: &str, seed: u64, calls: usize) {
    let original = Store::create(Kind::Original, &format!("{name}_{kind:?}"));
    let ours = Store::create(kind, name);
    if let Err(how) = compare([&original, &ours], seed, calls) {
        panic!("{kind:?}: {how}");
    }
}

#[test]
fn ours_answers_as_the_original_does() {
    compare_ours(Kind::Ours, "alike", seed().unwrap_or(SEED), CALLS);
}

#[test]
fn ours_answers_as_the_original_does_without_preloading() {
    compare_ours(Kind::OursUnloaded, "alike", seed().unwrap_or(SEED + 1), CALLS / 3);
}

#[test]
#[ignore = "for make test-long: new calls each time, many of them"]
fn ours_answers_as_the_original_does_for_a_long_time() {
    for round in 0..20 {
        let seed = seed().unwrap_or_else(|| fastrand::u64(..));
        println!("round {round}: MESHHOOK_SEED={seed}");
        compare_ours(Kind::OURS[round % 2], &format!("long_{round}"), seed, CALLS);
    }
}

/// What two thousand calls must have led to.
const OUTCOMES: &[(&str, &[&str])] = &[
    (
        "write_message",
        &[
            "22P02 invalid input syntax for type uuid",
            "23502 null value in column",
            "23505 duplicate key value violates unique constraint",
            "P0001 Wrong expected version",
        ],
    ),
    (
        "get_stream_messages",
        &[
            "nothing",
            "2201W LIMIT must not be negative",
            "42601 syntax error at or near",
            "P0001 Must be a stream name",
            "P0001 Retrieval with SQL condition is not activated",
        ],
    ),
    (
        "get_category_messages",
        &[
            "nothing",
            "22003 smallint out of range",
            "2201W LIMIT must not be negative",
            "42601 syntax error at or near",
            "P0001 Must be a category",
            "P0001 Correlation must be a category",
            "P0001 Consumer group member and size must be specified",
            "P0001 Consumer group size must not be less than 1",
            "P0001 Consumer group member must not be less than 0",
            "P0001 Consumer group member must be less than the group size",
            "P0001 Retrieval with SQL condition is not activated",
        ],
    ),
    ("get_last_stream_message", &["nothing"]),
];

/// The comparison is worth something only if it calls everything, succeeds often enough, and finds what is there.
#[test]
fn the_comparison_finds_differences_and_only_those() {
    let left = Store::create(Kind::Original, "same_left");
    let right = Store::create(Kind::Original, "same_right");
    // As ours does: begins elsewhere, leaves gaps.
    right.admin().exec("ALTER SEQUENCE messages_global_position_seq RESTART 1000 INCREMENT 3");
    let pair = compare([&left, &right], SEED, 2_000).unwrap_or_else(|how| panic!("{how}"));
    println!("{:#?}", pair.counts);
    let outcomes = |name| pair.counts.iter().filter(move |((function, _), _)| *function == name);
    for (function, expected) in OUTCOMES {
        let found: Vec<&str> = outcomes(*function).map(|((_, outcome), _)| outcome.as_str()).collect();
        for outcome in *expected {
            assert!(found.contains(outcome), "{function} never led to {outcome:?}, only to {found:?}");
        }
    }
    let often = |function, outcome: &str| pair.counts.get(&(function, outcome.into())).copied().unwrap_or(0);
    assert!(often("write_message", "rows") > 300 && often("get_category_messages", "rows") > 100);
    assert_eq!(pair.counts.keys().filter(|(_, outcome)| outcome == "rows").count(), 12, "all were called");

    // Each of these is the smallest of differences.
    let category = "CREATE OR REPLACE FUNCTION message_store.cardinal_id(stream_name varchar) RETURNS varchar \
                    LANGUAGE sql IMMUTABLE AS $$ SELECT split_part(message_store.id(stream_name), '+', 1) || '' \
                    WHERE stream_name <> 'account-1' $$";
    let message = "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('message_store.write_message'::regproc), \
                   'Wrong expected', 'Wrong  expected'); END $$";
    for (n, sabotage) in [category, message].iter().enumerate() {
        let left = Store::create(Kind::Original, &format!("fair_{n}"));
        let right = Store::create(Kind::Original, &format!("foul_{n}"));
        right.admin().exec(sabotage);
        assert!(compare([&left, &right], SEED, 2_000).is_err(), "{sabotage}");
    }
}
