//! Calls of the twelve functions with arguments that are right, odd or wrong, drawn from a seed.

use super::literal;
use fastrand::Rng;
use std::collections::BTreeMap;

/// An argument.
#[derive(Clone, Debug)]
pub enum Arg {
    /// NULL.
    Null,
    /// Text, or JSON as text.
    Text(String),
    /// A number.
    Number(i64),
    /// The global position of the message that was written as the nth, or the one after it. Stores count differently,
    /// so that this is another number in each.
    Global {
        /// Which message, from 0.
        nth: usize,
        /// Whether the position after it is meant.
        after: bool,
    },
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The function's name.
    pub function: &'static str,
    /// Names and values of the arguments, in the order they are written down.
    pub args: Vec<(&'static str, Arg)>,
    /// Whether they are written with their names.
    named: bool,
}

impl Call {
    /// The call in SQL, for a store in which the messages have these global positions.
    pub fn sql(&self, globals: &[i64]) -> String {
        let value = |arg: &Arg| match arg {
            Arg::Null => "NULL".into(),
            Arg::Text(text) => literal(text),
            Arg::Number(number) => literal(&number.to_string()),
            Arg::Global { nth, after } => literal(&(globals[*nth] + i64::from(*after)).to_string()),
        };
        let args: Vec<String> = self
            .args
            .iter()
            .map(|(name, arg)| if self.named { format!("\"{name}\" => {}", value(arg)) } else { value(arg) })
            .collect();
        let from = if self.is_reader() { "* FROM " } else { "" };
        format!("SELECT {from}message_store.{}({})", self.function, args.join(", "))
    }

    /// Whether it returns messages.
    pub fn is_reader(&self) -> bool {
        self.function.starts_with("get_")
    }

    /// The text given for an argument.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.args.iter().find(|(given, _)| *given == name).and_then(|(_, arg)| match arg {
            Arg::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }
}

/// What was written so far, for calls that refer to it.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Last positions of the streams.
    pub versions: BTreeMap<String, i64>,
    /// Ids of messages, in the order they were written.
    pub ids: Vec<String>,
}

/// Functions and how often each is called.
const FUNCTIONS: [(&str, u32); 12] = [
    ("write_message", 40),
    ("get_category_messages", 22),
    ("get_stream_messages", 14),
    ("get_last_stream_message", 7),
    ("stream_version", 4),
    ("acquire_lock", 2),
    ("category", 2),
    ("id", 2),
    ("cardinal_id", 2),
    ("is_category", 2),
    ("hash_64", 2),
    ("message_store_version", 1),
];

const CATEGORIES: [&str; 9] = [
    "account",
    "account:command",
    "account:command+position",
    "order",
    "order+x",
    "größe",
    "a",
    "A",
    "a:b:c",
];
const IDS: [&str; 14] =
    ["1", "2", "3", "4", "123", "456", "1+2", "1+3", "123+456+7", "+1", "a-b", "x+y-z", "雪", ""];
const TYPES: [&str; 6] = ["Opened", "Paid", "Closed", "opened", "", "größe '%s'"];
/// What odd names are made of.
const PIECES: [&str; 22] = [
    "-", "-", "+", ":", "a", "1", "account", "ä", "雪", "🦀", "\u{301}", "'", "\"", "\\", "%", "%s", " ",
    "\n", "$1", "NULL", "{}", "\u{feff}",
];
const JSON: [&str; 16] = [
    "{}",
    "null",
    "[]",
    "[1, [2, {\"a\": []}]]",
    "true",
    "\"text\"",
    "-0",
    "1e30",
    "1.10",
    "{\"b\": 1, \"a\": {\"nested\": null}, \"b\": 2}",
    "{\"text\": \"100% of 'this' \\\"that\\\" \\\\ \\u00e4 \\n\"}",
    "{\"\": \"\"}",
    "{\"n\": 12345678901234567890}",
    "{\"amount\": 10}",
    "{\"amount\": 20, \"currency\": \"EUR\"}",
    "{\"correlationStreamName\": \"order-1\"}",
];
/// None whose evaluation fails: whether it is evaluated at all is the planner's choice.
const CONDITIONS: [&str; 23] = [
    "true",
    "false",
    "NULL",
    "type = 'Paid'",
    "position >= 2 AND position < 5",
    "position % 2 = 0",
    "data->>'amount' = '10'",
    "(data->>'amount')::int > 10",
    "data @> '{\"currency\": \"EUR\"}' OR metadata IS NOT NULL",
    "stream_name LIKE '%1%'",
    "length(stream_name) > 9 AND type <> ''",
    "messages.type = 'Opened'",
    "time IS NOT NULL",
    "id::text > '8'",
    "message_store.cardinal_id(stream_name) = '1'",
    "true) OR (false",
    "stream_name = 'account-1' OR stream_name = 'order-1'",
    "",
    "(",
    "type = ",
    "nothing = 1",
    "type",
    "'%' || '%s' || '%I' = data::text",
];

/// One of these.
fn pick<'a>(rng: &mut Rng, choices: &[&'a str]) -> &'a str {
    choices[rng.usize(0..choices.len())]
}

/// True once in so many times.
fn once_in(rng: &mut Rng, times: u32) -> bool {
    rng.u32(0..times) == 0
}

/// A name of anything.
fn odd(rng: &mut Rng) -> String {
    if once_in(rng, 20) {
        return pick(rng, &PIECES).repeat(rng.usize(50..300));
    }
    (0..rng.usize(0..6)).map(|_| pick(rng, &PIECES)).collect()
}

fn category(rng: &mut Rng) -> String {
    if once_in(rng, 12) { odd(rng) } else { pick(rng, &CATEGORIES).into() }
}

fn stream(rng: &mut Rng) -> String {
    match rng.u32(0..16) {
        0 => odd(rng),
        1 => category(rng),
        // Some few are long enough to be read in batches.
        2..=7 => format!("{}-{}", pick(rng, &CATEGORIES[..2]), pick(rng, &IDS[..2])),
        _ => format!("{}-{}", category(rng), pick(rng, &IDS)),
    }
}

/// A stream that exists, more often than not.
fn known_stream(rng: &mut Rng, world: &World) -> String {
    if world.versions.is_empty() || once_in(rng, 5) {
        return stream(rng);
    }
    let nth = rng.usize(0..world.versions.len());
    world.versions.keys().nth(nth).cloned().unwrap_or_default()
}

/// A category some existing stream is in, more often than not.
fn known_category(rng: &mut Rng, world: &World) -> String {
    let name = if once_in(rng, 3) { category(rng) } else { known_stream(rng, world) };
    // A stream's name where a category's is due is one of the faults to make.
    if once_in(rng, 25) { name } else { name.split('-').next().unwrap_or_default().into() }
}

/// What a correlation is looked for by.
fn origin(rng: &mut Rng, world: &World) -> String {
    if once_in(rng, 10) { stream(rng) } else { known_category(rng, world) }
}

fn number(rng: &mut Rng, usual: std::ops::Range<i64>) -> Arg {
    Arg::Number(match rng.u32(0..14) {
        0 => -1,
        1 => *[-2, -3, i64::MIN, i64::MIN + 1].get(rng.usize(0..4)).unwrap_or(&-2),
        2 => *[i64::MAX, 1 << 31, 1 << 32, 32_767, 32_768].get(rng.usize(0..5)).unwrap_or(&0),
        3 => return Arg::Null,
        _ => rng.i64(usual),
    })
}

fn json(rng: &mut Rng) -> Arg {
    if once_in(rng, 8) { Arg::Null } else { Arg::Text(pick(rng, &JSON).into()) }
}

fn metadata(rng: &mut Rng) -> Arg {
    match rng.u32(0..4) {
        0 => Arg::Null,
        1 => json(rng),
        _ => {
            let origin = stream(rng);
            Arg::Text(serde_json::json!({"correlationStreamName": origin, "by": rng.u8(0..3)}).to_string())
        }
    }
}

fn message_id(rng: &mut Rng, world: &World) -> Arg {
    match rng.u32(0..30) {
        0 => Arg::Null,
        1 => Arg::Text(odd(rng)),
        2 | 3 if !world.ids.is_empty() => {
            let used = &world.ids[rng.usize(0..world.ids.len())];
            Arg::Text(if rng.bool() { used.to_uppercase() } else { used.clone() })
        }
        // From the seed, so that a seed repeats everything.
        _ => Arg::Text(uuid::Uuid::from_u128(rng.u128(..)).to_string()),
    }
}

fn expected_version(rng: &mut Rng, world: &World, stream: &Arg) -> Arg {
    let current = match stream {
        Arg::Text(name) => world.versions.get(name).copied().unwrap_or(-1),
        _ => -1,
    };
    match rng.u32(0..8) {
        0 => number(rng, -1..5),
        1 => Arg::Number(current + 1),
        2 | 3 => Arg::Null,
        _ => Arg::Number(current),
    }
}

fn global_position(rng: &mut Rng, world: &World) -> Arg {
    match rng.u32(0..5) {
        0 => Arg::Null,
        1 => Arg::Number(*[i64::MIN, -7, 0, 1, i64::MAX].get(rng.usize(0..5)).unwrap_or(&0)),
        _ if world.ids.is_empty() => Arg::Number(1),
        _ => Arg::Global { nth: rng.usize(0..world.ids.len()), after: rng.bool() },
    }
}

/// A member of a group, and the group's size: mostly such that they fit.
fn group(rng: &mut Rng) -> (Arg, Arg) {
    match rng.u32(0..10) {
        0..=3 => (Arg::Null, Arg::Null),
        4 | 5 => (number(rng, -1..4), number(rng, 0..4)),
        _ => {
            let size = rng.i64(1..5);
            (Arg::Number(rng.i64(0..size)), Arg::Number(size))
        }
    }
}

fn maybe(rng: &mut Rng, times: u32, arg: impl FnOnce(&mut Rng) -> Arg) -> Arg {
    if once_in(rng, times) { arg(rng) } else { Arg::Null }
}

/// A name argument: NULL now and then.
fn name(rng: &mut Rng, text: impl FnOnce(&mut Rng) -> String) -> Arg {
    if once_in(rng, 30) { Arg::Null } else { Arg::Text(text(rng)) }
}

/// All arguments of a function, and how many of them have no default.
fn arguments(rng: &mut Rng, function: &str, world: &World) -> (Vec<(&'static str, Arg)>, usize) {
    match function {
        "write_message" => {
            let stream = name(rng, |rng| if rng.bool() { stream(rng) } else { known_stream(rng, world) });
            let version = expected_version(rng, world, &stream);
            let args = vec![
                ("id", message_id(rng, world)),
                ("stream_name", stream),
                ("type", name(rng, |rng| pick(rng, &TYPES).into())),
                ("data", json(rng)),
                ("metadata", metadata(rng)),
                ("expected_version", version),
            ];
            (args, 4)
        }
        "get_stream_messages" => {
            let args = vec![
                ("stream_name", name(rng, |rng| known_stream(rng, world))),
                ("position", number(rng, 0..8)),
                ("batch_size", number(rng, 0..8)),
                ("condition", maybe(rng, 3, |rng| Arg::Text(pick(rng, &CONDITIONS).into()))),
            ];
            (args, 1)
        }
        "get_category_messages" => {
            let (member, size) = group(rng);
            let args = vec![
                ("category", name(rng, |rng| known_category(rng, world))),
                ("position", global_position(rng, world)),
                ("batch_size", number(rng, 0..30)),
                ("correlation", maybe(rng, 4, |rng| Arg::Text(origin(rng, world)))),
                ("consumer_group_member", member),
                ("consumer_group_size", size),
                ("condition", maybe(rng, 5, |rng| Arg::Text(pick(rng, &CONDITIONS).into()))),
            ];
            (args, 1)
        }
        "get_last_stream_message" => {
            let args = vec![
                ("stream_name", name(rng, |rng| known_stream(rng, world))),
                ("type", maybe(rng, 2, |rng| Arg::Text(pick(rng, &TYPES).into()))),
            ];
            (args, 1)
        }
        "message_store_version" => (Vec::new(), 0),
        "hash_64" => (vec![("value", name(rng, odd))], 1),
        _ => (vec![("stream_name", name(rng, |rng| if rng.bool() { odd(rng) } else { stream(rng) }))], 1),
    }
}

/// The next call.
pub fn call(rng: &mut Rng, world: &World) -> Call {
    let total = FUNCTIONS.iter().map(|(_, weight)| weight).sum();
    let mut drawn = rng.u32(0..total);
    let found = FUNCTIONS.iter().find(|(_, weight)| {
        let here = drawn < *weight;
        drawn = drawn.wrapping_sub(*weight);
        here
    });
    let function = found.map_or("message_store_version", |(name, _)| *name);
    let (mut args, required) = arguments(rng, function, world);
    let named = once_in(rng, 4);
    if named {
        let mut nth = 0;
        args.retain(|_| {
            nth += 1;
            nth <= required || rng.bool()
        });
        rng.shuffle(&mut args);
    } else if rng.bool() {
        args.truncate(rng.usize(required..args.len() + 1));
    }
    Call { function, args, named }
}
