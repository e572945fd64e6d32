//! What must hold of messages in streams, and of whoever reads them in global order.
//!
//! The rules are stated here a second time, independent of the store, on purpose: a [`Log`] is what a store holds once
//! nobody writes any more; what writers were told and what readers were given is compared with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Findings a report shows in full.
const SHOWN: usize = 12;

/// A message, as a store keeps it or a reader was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique in the store.
    pub id: Uuid,
    /// The stream it is in.
    pub stream: Arc<str>,
    /// Place in the stream, from 0.
    pub position: i64,
    /// Place in the order of everything.
    pub global_position: i64,
}

/// A message that a writer has committed, and what it knows of its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The writer's id for it.
    pub id: Uuid,
    /// The stream it went to.
    pub stream: Arc<str>,
    /// What the writer was told; nothing if the answer was lost.
    pub position: Option<i64>,
    /// The same.
    pub global_position: Option<i64>,
}

/// The rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Committed, but not there, or not delivered to a reader that wants it.
    Missed,
    /// There, or delivered, more than once.
    Repeated,
    /// Delivered behind a message that comes later.
    Reordered,
    /// There, or delivered, though nobody committed it.
    Unwritten,
    /// Delivered to a reader that did not ask for it.
    Unwanted,
    /// Elsewhere than the writer was told, or delivered with another place than it has.
    Displaced,
    /// Not at the position that follows the one before it in its stream.
    Gap,
}

/// A broken rule, and the message that shows it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub fault: Fault,
    /// The message: as it was delivered, or as the log has it if it was not.
    pub message: Message,
    /// What else there is to say.
    pub detail: String,
}

impl Finding {
    fn new(fault: Fault, message: &Message, detail: impl Into<String>) -> Self {
        Self { fault, message: message.clone(), detail: detail.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { id, stream, position, global_position } = &self.message;
        write!(f, "{:?}: {global_position} = {stream}/{position} ({id})", self.fault)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// How many findings there are of each kind, and the first of each in full, followed by what `more` says of them.
pub fn report(findings: &[Finding], more: impl Fn(&Finding) -> String) -> String {
    let mut counts: BTreeMap<Fault, usize> = BTreeMap::new();
    let mut text = String::new();
    for finding in findings {
        let count = counts.entry(finding.fault).or_default();
        *count += 1;
        if *count <= SHOWN {
            text.push_str(&format!("  {finding}{}\n", more(finding)));
        }
    }
    format!("{counts:?}\n{text}")
}

/// What a store holds once nobody writes any more.
#[derive(Debug)]
pub struct Log {
    messages: Vec<Message>,
    places: HashMap<Uuid, usize>,
}

impl Log {
    /// All messages of a store, however they come.
    pub fn new(mut messages: Vec<Message>) -> Self {
        messages.sort_by_key(|message| message.global_position);
        let places = messages.iter().enumerate().map(|(place, message)| (message.id, place)).collect();
        Self { messages, places }
    }

    /// The messages in global order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The message of an id.
    pub fn get(&self, id: Uuid) -> Option<&Message> {
        self.places.get(&id).and_then(|place| self.messages.get(*place))
    }

    /// What is wrong with the log by itself: ids and global positions are unique, each stream's positions are 0, 1, 2, …
    /// in global order.
    pub fn check(&self) -> Vec<Finding> {
        order_faults(&self.messages)
    }

    /// Compares the log with what the writers have committed, all of them together: that and nothing else is there, at
    /// the places they were told.
    pub fn check_writers(&self, written: &[Written]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut committed = HashSet::with_capacity(written.len());
        for one in written {
            committed.insert(one.id);
            let Some(message) = self.get(one.id) else {
                let told = Message {
                    id: one.id,
                    stream: Arc::clone(&one.stream),
                    position: one.position.unwrap_or(-1),
                    global_position: one.global_position.unwrap_or(-1),
                };
                findings.push(Finding::new(Fault::Missed, &told, "committed, but not there"));
                continue;
            };
            let same = one.stream == message.stream
                && one.position.is_none_or(|position| position == message.position)
                && one.global_position.is_none_or(|position| position == message.global_position);
            if !same {
                findings.push(Finding::new(
                    Fault::Displaced,
                    message,
                    format!("the writer was told {one:?}"),
                ));
            }
        }
        let unwritten = self.messages.iter().filter(|message| !committed.contains(&message.id));
        findings
            .extend(unwritten.map(|message| Finding::new(Fault::Unwritten, message, "there, not committed")));
        findings
    }

    /// Compares the log with what a reader was given, in the order it was given: exactly the messages it wants, each
    /// once, in global order, each stream without a gap from its first message on.
    pub fn check_reader(&self, wanted: impl Fn(&Message) -> bool, delivered: &[Message]) -> Vec<Finding> {
        let mut findings = order_faults(delivered);
        let mut ids = HashSet::with_capacity(delivered.len());
        for message in delivered {
            ids.insert(message.id);
            match self.get(message.id) {
                None => findings.push(Finding::new(Fault::Unwritten, message, "delivered, not committed")),
                Some(stored) if stored != message => {
                    findings.push(Finding::new(Fault::Displaced, message, format!("the log has {stored:?}")));
                }
                Some(_) if !wanted(message) => {
                    findings.push(Finding::new(Fault::Unwanted, message, ""));
                }
                Some(_) => {}
            }
        }
        let missed = self.messages.iter().filter(|message| wanted(message) && !ids.contains(&message.id));
        findings.extend(missed.map(|message| Finding::new(Fault::Missed, message, "not delivered")));
        findings
    }
}

/// What is wrong with a sequence of messages by itself.
fn order_faults(messages: &[Message]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = HashSet::with_capacity(messages.len());
    let mut next: HashMap<&str, i64> = HashMap::new();
    let mut last = i64::MIN;
    for message in messages {
        if !seen.insert(message.id) {
            findings.push(Finding::new(Fault::Repeated, message, ""));
            continue;
        }
        if message.global_position == last {
            findings.push(Finding::new(Fault::Repeated, message, "another message has this global position"));
        } else if message.global_position < last {
            findings.push(Finding::new(Fault::Reordered, message, format!("behind {last}")));
        }
        last = last.max(message.global_position);
        let expected = next.entry(&message.stream).or_insert(0);
        if message.position != *expected {
            findings.push(Finding::new(Fault::Gap, message, format!("position {expected} is due")));
        }
        *expected = message.position + 1;
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams a and b, interleaved, with holes in the global order as roll-backs leave them.
    fn sound() -> Vec<Message> {
        let places =
            [("a-1", 0, 2), ("b-1", 0, 3), ("a-1", 1, 7), ("b-1", 1, 8), ("b-1", 2, 9), ("a-1", 2, 20)];
        let one = |(n, (stream, position, global_position)): (usize, &(&str, i64, i64))| Message {
            id: Uuid::from_u128(n as u128),
            stream: Arc::from(*stream),
            position: *position,
            global_position: *global_position,
        };
        places.iter().enumerate().map(one).collect()
    }

    fn written(messages: &[Message]) -> Vec<Written> {
        let one = |message: &Message| Written {
            id: message.id,
            stream: Arc::clone(&message.stream),
            position: Some(message.position),
            global_position: None,
        };
        messages.iter().map(one).collect()
    }

    fn faults(findings: &[Finding]) -> Vec<Fault> {
        findings.iter().map(|finding| finding.fault).collect()
    }

    fn of_b(message: &Message) -> bool {
        message.stream.starts_with("b-")
    }

    #[test]
    fn what_is_sound_has_no_findings() {
        let mut shuffled = sound();
        shuffled.reverse();
        let log = Log::new(shuffled);
        assert_eq!(log.messages(), sound());
        assert_eq!(faults(&log.check()), []);
        assert_eq!(faults(&log.check_writers(&written(&sound()))), []);
        assert_eq!(faults(&log.check_reader(|_| true, &sound())), []);
        let of_one: Vec<Message> = sound().into_iter().filter(of_b).collect();
        assert_eq!(faults(&log.check_reader(of_b, &of_one)), []);
    }

    #[test]
    fn a_reader_that_misses_a_message_is_found_out() {
        let log = Log::new(sound());
        for place in 0..sound().len() {
            let mut torn = sound();
            let lost = torn.remove(place);
            let findings = log.check_reader(|_| true, &torn);
            let missed: Vec<Uuid> =
                findings.iter().filter(|f| f.fault == Fault::Missed).map(|f| f.message.id).collect();
            assert_eq!(missed, [lost.id]);
            // Whatever follows in its stream shows it by itself.
            assert_eq!(findings.iter().any(|f| f.fault == Fault::Gap), place < 4, "at {place}");
        }
        assert_eq!(faults(&log.check_reader(|_| true, &[])), [Fault::Missed; 6]);
    }

    #[test]
    fn a_reader_that_repeats_or_reorders_is_found_out() {
        let log = Log::new(sound());
        for place in 0..sound().len() {
            let mut doubled = sound();
            doubled.insert(place, doubled[place].clone());
            assert_eq!(faults(&log.check_reader(|_| true, &doubled)), [Fault::Repeated]);
        }
        for place in 1..sound().len() {
            let mut swapped = sound();
            swapped.swap(place - 1, place);
            let same_stream = swapped[place - 1].stream == swapped[place].stream;
            let found = faults(&log.check_reader(|_| true, &swapped));
            assert!(found.contains(&Fault::Reordered), "{found:?}");
            assert_eq!(found.contains(&Fault::Gap), same_stream, "{found:?}");
        }
        // Late, not lost: what a reader does that goes back for what it has missed.
        let mut late = sound();
        let first = late.remove(0);
        late.push(first);
        let found = faults(&log.check_reader(|_| true, &late));
        assert!(found.contains(&Fault::Reordered) && !found.contains(&Fault::Missed), "{found:?}");
    }

    #[test]
    fn a_reader_that_is_given_something_else_is_found_out() {
        let log = Log::new(sound());
        let unwanted: Vec<Fault> = faults(&log.check_reader(of_b, &sound()));
        assert_eq!(unwanted, [Fault::Unwanted; 3]);
        let mut rolled_back = sound();
        rolled_back[5].id = Uuid::from_u128(99);
        assert_eq!(faults(&log.check_reader(|_| true, &rolled_back)), [Fault::Unwritten, Fault::Missed]);
        let mut displaced = sound();
        displaced[5].global_position += 1;
        assert_eq!(faults(&log.check_reader(|_| true, &displaced)), [Fault::Displaced]);
    }

    #[test]
    fn a_log_that_is_wrong_is_found_out() {
        let check = |change: fn(&mut Vec<Message>)| {
            let mut messages = sound();
            change(&mut messages);
            faults(&Log::new(messages).check())
        };
        assert_eq!(check(|log| drop(log.remove(0))), [Fault::Gap], "does not begin at 0");
        assert_eq!(check(|log| drop(log.remove(3))), [Fault::Gap], "a hole");
        assert_eq!(check(|log| log[5].id = log[0].id), [Fault::Repeated], "an id twice");
        assert_eq!(check(|log| log[1].global_position = 2), [Fault::Repeated], "a global position twice");
        assert_eq!(check(|log| log[4].position = 1), [Fault::Gap], "a position twice");
        let swapped = check(|log| (log[3].position, log[4].position) = (2, 1));
        assert_eq!(swapped, [Fault::Gap, Fault::Gap], "global order is not the stream's");
    }

    #[test]
    fn a_store_that_is_not_what_was_written_is_found_out() {
        let log = Log::new(sound());
        let mut more = written(&sound());
        more[2].position = None;
        let mut lost = more[5].clone();
        lost.id = Uuid::from_u128(99);
        more.push(lost);
        assert_eq!(faults(&log.check_writers(&more)), [Fault::Missed]);
        more.truncate(5);
        assert_eq!(faults(&log.check_writers(&more)), [Fault::Unwritten]);
        let mut elsewhere = written(&sound());
        elsewhere[0].global_position = Some(1);
        elsewhere[1].position = Some(7);
        elsewhere[2].stream = Arc::from("b-1");
        assert_eq!(faults(&log.check_writers(&elsewhere)), [Fault::Displaced; 3]);
    }

    #[test]
    fn a_report_counts_all_and_shows_the_first() {
        let log = Log::new(
            (0..100)
                .map(|n| Message {
                    position: n,
                    global_position: n,
                    id: Uuid::from_u128(n as u128),
                    stream: Arc::from("a-1"),
                })
                .collect(),
        );
        let text = report(&log.check_reader(|_| true, &log.messages()[..10]), |_| "; why".into());
        assert!(text.contains("{Missed: 90}"), "{text}");
        assert_eq!(text.matches("; why").count(), SHOWN, "{text}");
    }
}
