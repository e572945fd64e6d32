//! What a run did when: each attempt, wait and body of each node as a span of time, told by the fold of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{Event, Recorded};
use crate::path;
use crate::state::RunState;
use crate::time::Timestamp;

/// One attempt, wait or body of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Position of the event it began with.
    pub position: u64,
    /// The node's path.
    pub node: Arc<str>,
    /// Its kind; absent for what needed no time.
    pub kind: Option<Arc<str>>,
    /// The attempt; absent for what has none.
    pub attempt: Option<u32>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; absent while it is open.
    pub finished_at: Option<Timestamp>,
    /// How it ended: `succeeded`, `failed`, `retried`, `skipped` or `canceled`; absent while it is open.
    pub outcome: Option<&'static str>,
}

/// Makes spans of events.
#[derive(Debug, Default)]
pub struct Timeline {
    state: RunState,
    spans: Vec<Span>,
    /// Where the open spans stand.
    open: BTreeMap<Arc<str>, usize>,
}

impl Timeline {
    /// Takes the next event in.
    ///
    /// # Errors
    /// Its position is not the next one.
    pub fn take(&mut self, recorded: &Recorded) -> Result<(), String> {
        self.state.apply(recorded)?;
        let (position, at) = (recorded.position, recorded.at);
        match &recorded.event {
            Event::NodeScheduled(new) => {
                let attempt =
                    self.state.nodes.get(&new.node).and_then(|node| node.job.as_ref()).map(|_| new.attempt);
                self.begin(position, &new.node, Some(&new.kind), attempt, at);
            }
            Event::NodeEntered(new) => self.begin(position, &new.node, Some(&new.kind), None, at),
            Event::NodeRetryScheduled(retry) => self.close(&retry.node, at, "retried"),
            Event::NodeSucceeded(done) => self.settle(position, &done.node, at, "succeeded"),
            Event::NodeOverridden(by_hand) => self.settle(position, &by_hand.node, at, "succeeded"),
            Event::NodeFailed(failed) => self.settle(position, &failed.node, at, "failed"),
            Event::NodeSkipped(skipped) => self.settle(position, &skipped.node, at, "skipped"),
            _ => {}
        }
        match &recorded.event {
            Event::NodeFailed(failed) => self.cancel_within(&format!("{}/", failed.node), at),
            Event::NodeOverridden(by_hand) => self.cancel_within(&format!("{}/", by_hand.node), at),
            Event::ItemSucceeded(item) => self.cancel_within(&path::item(&item.node, item.index), at),
            Event::ItemFailed(item) => self.cancel_within(&path::item(&item.node, item.index), at),
            Event::RunUnwinding(_) => self.cancel_within("", at),
            event if event.is_terminal() => self.cancel_within("", at),
            _ => {}
        }
        Ok(())
    }

    /// The spans in the order they began.
    #[must_use]
    pub fn spans(self) -> Vec<Span> {
        self.spans
    }

    fn begin(
        &mut self,
        position: u64,
        node: &Arc<str>,
        kind: Option<&Arc<str>>,
        attempt: Option<u32>,
        at: Timestamp,
    ) {
        // In a fork an attempt that was under way is made anew.
        self.close(node, at, "canceled");
        self.open.insert(Arc::clone(node), self.spans.len());
        let (node, kind) = (Arc::clone(node), kind.cloned());
        self.spans.push(Span {
            position,
            node,
            kind,
            attempt,
            started_at: at,
            finished_at: None,
            outcome: None,
        });
    }

    fn close(&mut self, node: &Arc<str>, at: Timestamp, outcome: &'static str) {
        let span = self.open.remove(node).and_then(|i| self.spans.get_mut(i));
        if let Some(span) = span {
            (span.finished_at, span.outcome) = (Some(at), Some(outcome));
        }
    }

    /// Ends a node's span; a node that was decided at once has had none.
    fn settle(&mut self, position: u64, node: &Arc<str>, at: Timestamp, outcome: &'static str) {
        if !self.open.contains_key(node) {
            self.begin(position, node, None, None, at);
        }
        self.close(node, at, outcome);
    }

    /// Ends the spans of nodes with this prefix that the event has taken back.
    fn cancel_within(&mut self, prefix: &str, at: Timestamp) {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let within = self.open.range::<str, _>(from).map(|(path, _)| path);
        let within = within.take_while(|path| path.starts_with(prefix));
        let gone: Vec<Arc<str>> = within.filter(|path| !self.state.open.contains(*path)).cloned().collect();
        gone.iter().for_each(|node| self.close(node, at, "canceled"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NodeEntered, NodeScheduled, NodeSkipped, RunCanceled};
    use crate::json::Json;

    fn scheduled(node: &str, attempt: u32) -> Event {
        let data = format!(r#"{{"node":"{node}","kind":"task","attempt":{attempt},"queue":"q","input":1}}"#);
        Event::NodeScheduled(serde_json::from_str::<NodeScheduled>(&data).unwrap())
    }

    fn event(kind: &str, data: &str) -> Event {
        Event::from_parts(kind, data).unwrap()
    }

    #[test]
    fn spans_are_attempts_bodies_and_what_was_taken_back() {
        let events = [
            scheduled("a", 1),
            event(
                "node.retry_scheduled",
                r#"{"node":"a","attempt":1,"error":{"message":"no"},"due_at":"2026-01-01T00:00:00Z"}"#,
            ),
            scheduled("a", 2),
            event("node.succeeded", r#"{"node":"a","attempt":2,"output":1}"#),
            Event::NodeSkipped(NodeSkipped { node: "b".into() }),
            Event::NodeEntered(NodeEntered {
                node: "m".into(),
                kind: "map".into(),
                items: Some(Json::array([1])),
                deadline: None,
            }),
            event("item.started", r#"{"node":"m","index":0}"#),
            scheduled("m/0/c", 1),
            Event::RunCanceled(RunCanceled { reason: None, output: None, uncompensated: Vec::new() }),
        ];
        let mut timeline = Timeline::default();
        for (position, event) in (1..).zip(events) {
            let at = Timestamp::from_micros(i64::try_from(position).unwrap());
            timeline.take(&Recorded { position, at, event }).unwrap();
        }
        let told = |span: Span| {
            let finished = span.finished_at.map(Timestamp::as_micros);
            (span.position, span.node.to_string(), span.attempt, finished, span.outcome)
        };
        let spans: Vec<_> = timeline.spans().into_iter().map(told).collect();
        let expected = [
            (1, "a", Some(1), Some(2), Some("retried")),
            (3, "a", Some(2), Some(4), Some("succeeded")),
            (5, "b", None, Some(5), Some("skipped")),
            (6, "m", None, Some(9), Some("canceled")),
            (8, "m/0/c", Some(1), Some(9), Some("canceled")),
        ];
        assert_eq!(spans, expected.map(|(p, node, a, f, o)| (p, node.to_owned(), a, f, o)));
    }
}
