//! What was found, held against what was predicted and against the books.

use meshhook_testkit::history::Event;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

use super::ledger::{Delivery, Place};
use super::predict::{Ended, Forecast};

/// In which way something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What must be there is not.
    Lost,
    /// What must be there once is there more than once.
    Doubled,
    /// What was not predicted is there, or something came out otherwise.
    Unexpected,
    /// Something happened to a run that was over.
    AfterEnd,
    /// A run has not ended although nothing hindered it.
    Stuck,
    /// A log breaks a rule, or does not replay.
    Broken,
}

/// Something that is wrong with the runs of a tag.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub kind: Kind,
    /// The tag of the run that the judge started; empty where it is nobody's.
    pub tag: String,
    pub text: String,
}

/// A run as it stands in the database.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: Uuid,
    /// Its tag; empty if its input has none.
    pub tag: String,
    pub ended: Ended,
    pub log: Vec<Event>,
    /// Why it goes no further, where the database knows.
    pub why: String,
}

/// All that is known of the runs the judge started under one tag.
#[derive(Debug, Default)]
pub struct Evidence<'a> {
    pub runs: Vec<&'a Found>,
    /// Effects in the database, and how many of each.
    pub inside: BTreeMap<&'a str, u64>,
    pub outside: BTreeMap<&'a str, &'a [Delivery]>,
}

/// The tag of the run that the judge started, of a tag or key of something that followed from it.
pub fn root(key: &str) -> &str {
    key.split([':', '!']).next().unwrap_or_default()
}

/// Everything that is wrong with the runs of a tag. `canceled`: somebody asked for their end.
pub fn judge(tag: &str, forecast: &Forecast, canceled: bool, evidence: &Evidence) -> Vec<Fault> {
    let mut verdict = Verdict { tag, faults: Vec::new() };
    verdict.runs(forecast, canceled, evidence);
    verdict.effects(forecast, evidence);
    for run in &evidence.runs {
        verdict.books(run, evidence);
    }
    verdict.causes(evidence);
    verdict.faults
}

struct Verdict<'a> {
    tag: &'a str,
    faults: Vec<Fault>,
}

impl Verdict<'_> {
    fn add(&mut self, kind: Kind, text: String) {
        self.faults.push(Fault { kind, tag: self.tag.to_owned(), text });
    }

    /// Each run is there once, and ended as predicted.
    fn runs(&mut self, forecast: &Forecast, canceled: bool, evidence: &Evidence) {
        let mut seen = BTreeSet::new();
        for run in &evidence.runs {
            if !seen.insert(&run.tag) {
                self.add(Kind::Doubled, format!("run {} is another one of {}", run.id, run.tag));
            }
            match forecast.runs.get(&run.tag) {
                // Canceled before it came to that: by somebody, or with what is around it.
                _ if !is_terminal(&run.ended.status) => {
                    self.add(
                        Kind::Stuck,
                        format!("run {} ({}) is {}: {}", run.id, run.tag, run.ended.status, run.why),
                    );
                }
                Some(expected) if run.ended.status == "canceled" && (canceled || !expected.must) => {}
                // A run that is asked to end has ended otherwise, or has begun what it would not have.
                None if run.ended.status == "canceled" => {}
                Some(expected) => self.end(run, &expected.what, canceled),
                None => {
                    self.add(Kind::Unexpected, format!("run {} of {} was not predicted", run.id, run.tag))
                }
            }
        }
        for (tag, expected) in &forecast.runs {
            if expected.must && !seen.contains(tag) {
                self.add(Kind::Lost, format!("there is no run of {tag}"));
            }
        }
    }

    fn end(&mut self, run: &Found, expected: &Ended, canceled: bool) {
        let mut differs = |what: &str, found: String, expected: String| {
            let text = format!("run {} ({}): {what} is {found}, predicted was {expected}", run.id, run.tag);
            self.add(Kind::Unexpected, text);
        };
        let found = &run.ended;
        if found.status != expected.status {
            differs("status", found.status.clone(), expected.status.clone());
        }
        if found.output != expected.output {
            differs("output", format!("{:?}", found.output), format!("{:?}", expected.output));
        }
        if found.error != expected.error {
            differs("error", format!("{:?}", found.error), format!("{:?}", expected.error));
        }
        for (path, node) in expected.nodes.iter().filter(|_| !canceled) {
            if found.nodes.get(path) != Some(node) {
                differs(path, format!("{:?}", found.nodes.get(path)), format!("{node:?}"));
            }
        }
    }

    /// Each effect is there as often as it must be, and no other.
    fn effects(&mut self, forecast: &Forecast, evidence: &Evidence) {
        for (key, expected) in &forecast.effects {
            let count = match expected.what {
                Place::Inside => evidence.inside.get(&**key).copied().unwrap_or(0),
                Place::Outside => done(evidence, key),
            };
            if expected.must && count == 0 {
                self.add(Kind::Lost, format!("{key} took no effect"));
            }
            if expected.what == Place::Inside && count > 1 {
                self.add(Kind::Doubled, format!("{key} took effect {count} times in the database"));
            }
        }
        let found = evidence.inside.keys().map(|key| (*key, Place::Inside));
        let outside = evidence.outside.keys().filter(|key| done(evidence, key) > 0);
        for (key, place) in found.chain(outside.map(|key| (*key, Place::Outside))) {
            // What undoes follows from what there was to undo when the run was ended: the log says what that was.
            let is_known = forecast.effects.get(key).is_some_and(|expected| expected.what == place);
            if !is_known && !key.ends_with("/compensate") {
                self.add(Kind::Unexpected, format!("{key} took effect, which was not predicted"));
            }
        }
    }

    /// What the log calls done is done: in the database once, outside at least once, under the right key.
    fn books(&mut self, run: &Found, evidence: &Evidence) {
        let mut kinds = BTreeMap::new();
        let mut has_ended = false;
        for event in &run.log {
            if has_ended {
                self.add(
                    Kind::AfterEnd,
                    format!("{} of run {} ({}) after its end", event.kind, run.id, run.tag),
                );
            }
            has_ended |= event.is_terminal();
            let Some(node) = event.node() else { continue };
            if let Some(kind) = event.data["kind"].as_str() {
                kinds.insert(node, kind);
            }
            if event.kind != "node.succeeded" {
                continue;
            }
            let key = format!("{}:{node}", run.tag);
            match kinds.get(node) {
                Some(&("sql" | "emit")) => {
                    let count = evidence.inside.get(&*key).copied().unwrap_or(0);
                    if count != 1 {
                        let kind = if count == 0 { Kind::Lost } else { Kind::Doubled };
                        self.add(kind, format!("{key} is in the log once and in the database {count} times"));
                    }
                }
                Some(&("http" | "task")) if done(evidence, &key) == 0 => {
                    self.add(Kind::Lost, format!("{key} is in the log, and was never done"));
                }
                _ => {}
            }
        }
    }

    /// What is done was asked for: the run's log says so, under the key that meshhook gave.
    fn causes(&mut self, evidence: &Evidence) {
        let runs: BTreeMap<&str, &Found> = evidence.runs.iter().map(|run| (&*run.tag, *run)).collect();
        for key in evidence.inside.keys() {
            let is_logged = cause(&runs, key).is_some_and(|(run, path)| {
                run.log.iter().any(|event| event.kind == "node.succeeded" && event.node() == Some(path))
            });
            if !is_logged {
                self.add(Kind::Unexpected, format!("{key} is in the database and in no log"));
            }
        }
        for (key, deliveries) in &evidence.outside {
            let Some((run, path)) = cause(&runs, key) else {
                self.add(Kind::Unexpected, format!("{key} was asked for by no run"));
                continue;
            };
            let right = format!("{}/{path}", run.id);
            if let Some(wrong) = deliveries.iter().find(|delivery| delivery.idempotency_key != right) {
                let text = format!("{key} was asked for under {}, not under {right}", wrong.idempotency_key);
                self.add(Kind::Unexpected, text);
            }
        }
    }
}

/// The run and the path of a key.
fn cause<'a, 'k>(runs: &BTreeMap<&str, &'a Found>, key: &'k str) -> Option<(&'a Found, &'k str)> {
    let (tag, path) = key.rsplit_once(':')?;
    runs.get(tag).map(|run| (*run, path))
}

fn done(evidence: &Evidence, key: &str) -> u64 {
    let deliveries = evidence.outside.get(key).copied().unwrap_or_default();
    deliveries.iter().filter(|delivery| delivery.done).count() as u64
}

/// Whether a run with this status is over.
pub fn is_terminal(status: &str) -> bool {
    matches!(status, "succeeded" | "failed" | "canceled")
}

/// The tag in a run's input: its own, or, of a handler, that of the run that failed.
pub fn tag_of(input: &Value) -> String {
    let own = input["tag"].as_str().map(str::to_owned);
    let handled = input["input"]["tag"].as_str().map(|tag| format!("{tag}!"));
    own.or(handled).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::predict::Expected;
    use super::*;
    use serde_json::json;

    const ID: Uuid = Uuid::from_u128(7);

    fn ended(status: &str) -> Ended {
        Ended { status: status.into(), output: Some(json!({"v": 1})), error: None, nodes: BTreeMap::new() }
    }

    fn forecast() -> Forecast {
        let effect = |what| Expected { must: true, what };
        Forecast {
            runs: BTreeMap::from([("r".to_owned(), Expected { must: true, what: ended("succeeded") })]),
            effects: BTreeMap::from([
                ("r:call".to_owned(), effect(Place::Outside)),
                ("r:row".to_owned(), effect(Place::Inside)),
            ]),
        }
    }

    fn event(position: i64, kind: &str, data: Value) -> Event {
        Event { position, global_position: position, kind: kind.into(), data }
    }

    fn found(status: &str) -> Found {
        let log = vec![
            event(1, "run.started", json!({})),
            event(2, "node.scheduled", json!({"node": "call", "kind": "http", "attempt": 1})),
            event(3, "node.scheduled", json!({"node": "row", "kind": "sql", "attempt": 1})),
            event(4, "node.succeeded", json!({"node": "row", "attempt": 1})),
            event(5, "node.succeeded", json!({"node": "call", "attempt": 1})),
            event(6, "run.succeeded", json!({})),
        ];
        Found { id: ID, tag: "r".into(), ended: ended(status), log, why: String::new() }
    }

    fn delivery(done: bool) -> Delivery {
        Delivery { idempotency_key: format!("{ID}/call"), done }
    }

    /// The kinds of faults of one run with these effects.
    fn kinds(
        runs: &[Found],
        inside: &[(&'static str, u64)],
        outside: &[(&'static str, Vec<Delivery>)],
    ) -> Vec<Kind> {
        kinds_of(&forecast(), false, runs, inside, outside)
    }

    fn kinds_of(
        forecast: &Forecast,
        canceled: bool,
        runs: &[Found],
        inside: &[(&'static str, u64)],
        outside: &[(&'static str, Vec<Delivery>)],
    ) -> Vec<Kind> {
        let evidence = Evidence {
            runs: runs.iter().collect(),
            inside: inside.iter().copied().collect(),
            outside: outside.iter().map(|(key, deliveries)| (*key, &**deliveries)).collect(),
        };
        let kinds: BTreeSet<Kind> =
            judge("r", forecast, canceled, &evidence).iter().map(|fault| fault.kind).collect();
        kinds.into_iter().collect()
    }

    #[test]
    fn what_is_as_predicted_is_no_fault() {
        let twice = vec![delivery(false), delivery(true), delivery(true)];
        assert_eq!(kinds(&[found("succeeded")], &[("r:row", 1)], &[("r:call", twice)]), []);
    }

    #[test]
    fn what_is_lost_is_seen() {
        let once = || vec![delivery(true)];
        assert_eq!(kinds(&[found("succeeded")], &[], &[("r:call", once())]), [Kind::Lost]);
        assert_eq!(kinds(&[found("succeeded")], &[("r:row", 1)], &[]), [Kind::Lost]);
        let not_done = vec![delivery(false)];
        assert_eq!(kinds(&[found("succeeded")], &[("r:row", 1)], &[("r:call", not_done)]), [Kind::Lost]);
        assert_eq!(kinds(&[], &[], &[]), [Kind::Lost]);
    }

    #[test]
    fn what_is_doubled_is_seen() {
        let once = || vec![delivery(true)];
        assert_eq!(kinds(&[found("succeeded")], &[("r:row", 2)], &[("r:call", once())]), [Kind::Doubled]);
        let two = [found("succeeded"), found("succeeded")];
        assert_eq!(kinds(&two, &[("r:row", 1)], &[("r:call", once())]), [Kind::Doubled]);
    }

    #[test]
    fn what_nobody_predicted_is_seen() {
        let once = || vec![delivery(true)];
        let run = || [found("succeeded")];
        let unexpected = [Kind::Unexpected];
        assert_eq!(kinds(&run(), &[("r:row", 1), ("r:more", 1)], &[("r:call", once())]), unexpected);
        assert_eq!(kinds(&run(), &[("r:row", 1)], &[("r:call", once()), ("r:row", once())]), unexpected);
        assert_eq!(kinds(&[found("failed")], &[("r:row", 1)], &[("r:call", once())]), unexpected);
        let other_key = vec![delivery(true), Delivery { idempotency_key: "other/call".into(), done: false }];
        assert_eq!(kinds(&run(), &[("r:row", 1)], &[("r:call", other_key)]), unexpected);
        let mut forecast = forecast();
        let node = ("succeeded".to_owned(), Some("out".to_owned()));
        forecast.runs.get_mut("r").expect("it is there").what.nodes.insert("call".into(), node);
        let found = kinds_of(&forecast, false, &run(), &[("r:row", 1)], &[("r:call", once())]);
        assert_eq!(found, unexpected, "the run does not know the node");
    }

    #[test]
    fn what_a_canceled_run_did_is_a_part_of_what_it_would_have_done() {
        let canceled = forecast().canceled();
        let mut run = found("canceled");
        run.log.truncate(4);
        assert_eq!(kinds_of(&canceled, true, &[run.clone()], &[("r:row", 1)], &[]), []);
        assert_eq!(kinds_of(&canceled, true, &[run.clone()], &[("r:row", 2)], &[]), [Kind::Doubled]);
        assert_eq!(
            kinds_of(&canceled, true, &[run.clone()], &[("r:row", 1), ("r:x", 1)], &[]),
            [Kind::Unexpected]
        );
        // An effect that committed without the event that says so.
        run.log.truncate(3);
        assert_eq!(kinds_of(&canceled, true, &[run], &[("r:row", 1)], &[]), [Kind::Unexpected]);
    }

    #[test]
    fn what_happens_after_the_end_is_seen() {
        let once = vec![delivery(true)];
        let mut run = found("succeeded");
        run.log.swap(3, 5);
        assert_eq!(kinds(&[run], &[("r:row", 1)], &[("r:call", once)]), [Kind::AfterEnd]);
    }

    #[test]
    fn what_does_not_end_is_seen() {
        let once = vec![delivery(true)];
        assert_eq!(kinds(&[found("running")], &[("r:row", 1)], &[("r:call", once)]), [Kind::Stuck]);
    }

    #[test]
    fn tags_lead_back_to_the_run_that_was_started() {
        assert_eq!((root("r:a:b/0/c"), root("r!:alarm"), root("r")), ("r", "r", "r"));
        assert_eq!(tag_of(&json!({"input": {"tag": "r"}, "run": "x"})), "r!");
        assert_eq!(tag_of(&json!({"tag": "r:a", "n": 1})), "r:a");
    }
}
