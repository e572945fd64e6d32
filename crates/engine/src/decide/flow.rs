//! Firing nodes and settling them: ports, joins, skipping, failure.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{MAX_RUN_DEPTH, Turn};
use crate::definition::{ERROR_PORT, Graph, Join, NodeDef, TIMEOUT_PORT};
use crate::error::ErrorInfo;
use crate::event::{
    Child, Event, NodeEntered, NodeFailed, NodeRetryScheduled, NodeScheduled, NodeSkipped, NodeSucceeded,
    RunResponded,
};
use crate::json::Json;
use crate::node::{Action, ChildVersion, Context};
use crate::path;
use crate::resume::Placeholders;
use crate::state::OUT;
use crate::time::Timestamp;

/// What a node's incoming edges say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Wait,
    Fire,
    Skip,
}

impl<'a> Turn<'a> {
    /// Fires and skips nodes until nothing more follows; ends bodies and the run where nothing is left to
    /// wait for.
    pub(super) fn advance(&mut self) {
        loop {
            if self.state.status.is_terminal() {
                return;
            }
            if self.state.unwinding.is_some() {
                return self.unwind();
            }
            if let Some((prefix, _, index)) = self.candidates.pop_first() {
                self.consider(&prefix, index);
            } else if let Some(prefix) = self.touched.pop_last() {
                // A body's prefix begins with that of the graph around it, so the innermost comes first.
                if self.state.open_within(&prefix).next().is_none() {
                    self.finish_graph(&prefix);
                }
            } else {
                return;
            }
        }
    }

    /// Makes the first nodes of a graph candidates.
    pub(super) fn begin_graph(&mut self, prefix: &str) {
        let Some(graph) = self.workflow.graph_at(prefix) else { return };
        let prefix: Arc<str> = Arc::from(prefix);
        for (index, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.incoming.is_empty()) {
            self.candidates.insert((Arc::clone(&prefix), node.rank, index));
        }
        self.touched.insert(prefix);
    }

    fn consider(&mut self, prefix: &Arc<str>, index: usize) {
        let Some(graph) = self.workflow.graph_at(prefix) else { return };
        let node = &graph.nodes[index];
        let path: Arc<str> = Arc::from(format!("{prefix}{}", node.id));
        if self.state.nodes.contains_key(&path) {
            return;
        }
        match self.readiness(graph, prefix, node) {
            Readiness::Wait => {}
            Readiness::Fire => {
                let root = self.root(prefix, self.handled_error(graph, prefix, node));
                self.begin(&path, node, &root);
            }
            Readiness::Skip => {
                self.emit(Event::NodeSkipped(NodeSkipped { node: Arc::clone(&path) }));
                self.touch(&path);
            }
        }
    }

    fn readiness(&self, graph: &Graph, prefix: &str, node: &NodeDef) -> Readiness {
        let (mut taken, mut pending) = (node.incoming.is_empty(), false);
        for edge in &node.incoming {
            let edge = &graph.edges[*edge];
            match self.state.nodes.get(&*format!("{prefix}{}", graph.nodes[edge.from].id)) {
                Some(source) if !source.is_open() => taken |= source.port.as_deref() == Some(&*edge.port),
                _ => pending = true,
            }
        }
        match node.join {
            Join::Any if taken => Readiness::Fire,
            _ if pending => Readiness::Wait,
            _ if taken => Readiness::Fire,
            _ => Readiness::Skip,
        }
    }

    /// The error a node was reached by: that of the first taken edge on an `error` or `timeout` port.
    fn handled_error(&self, graph: &Graph, prefix: &str, node: &NodeDef) -> Option<ErrorInfo> {
        node.incoming.iter().find_map(|edge| {
            let edge = &graph.edges[*edge];
            let source = self.state.nodes.get(&*format!("{prefix}{}", graph.nodes[edge.from].id))?;
            let taken =
                matches!(&*edge.port, ERROR_PORT | TIMEOUT_PORT) && source.port.as_ref() == Some(&edge.port);
            if taken { source.error.clone() } else { None }
        })
    }

    /// Lets a node begin: it has its outcome at once, or something is scheduled for it.
    pub(super) fn begin(&mut self, path: &Arc<str>, node: &'a NodeDef, root: &Json) {
        let placeholders = Placeholders { seed: self.state.seed, prefix: path::prefix(path) };
        let context = Context { root, at: self.at, timeout_ms: node.timeout_ms, placeholders };
        let action = match node.node.fire(&context) {
            Ok(action) => action,
            Err(error) => return self.fail(path, None, error),
        };
        let deadline = node.deadline_ms.map(|millis| self.at.plus_millis(millis));
        let scheduled = NodeScheduled { deadline, ..scheduled(path, node.kind.name, 1) };
        match action {
            Action::Succeed { port, output } => self.succeed(path, None, port, output, None),
            Action::Job { queue, input, timeout_ms, blobs } => {
                self.step.blobs.extend(blobs);
                self.emit(Event::NodeScheduled(NodeScheduled {
                    queue: Some(queue),
                    input: Some(input),
                    timeout_ms,
                    ..scheduled
                }));
            }
            Action::Database { input, timeout_ms } => {
                self.emit(Event::NodeScheduled(NodeScheduled {
                    input: Some(input),
                    timeout_ms,
                    ..scheduled
                }));
            }
            Action::WaitUntil(due) => {
                self.emit(Event::NodeScheduled(NodeScheduled { due_at: Some(due), ..scheduled }));
            }
            Action::WaitForSignal(name) => match self.kept_signal(&name, path) {
                Some((position, payload)) => {
                    self.succeed(path, None, Arc::from(OUT), payload, Some(position));
                }
                None => self.emit(Event::NodeScheduled(NodeScheduled { signal: Some(name), ..scheduled })),
            },
            Action::WaitForApproval => {
                self.emit(Event::NodeScheduled(NodeScheduled { approval: true, ..scheduled }));
            }
            Action::Enter { items } => {
                let (node, kind) = (Arc::clone(path), Arc::from(node.kind.name));
                self.emit(Event::NodeEntered(NodeEntered { node, kind, items, deadline }));
                self.begin_items(path);
            }
            Action::Start { workflow, version, input, detached } => {
                match self.child(path, workflow, version, detached) {
                    Ok(child) => self.begin_child(path, scheduled, child, input),
                    Err(error) => self.fail(path, None, error),
                }
            }
            // Done once more, after somebody let the run go on from before it: the answer has been given.
            Action::Respond { .. } if self.has_responded(path) => {
                self.succeed(path, None, Arc::from(OUT), Json::Null, None);
            }
            Action::Respond { .. } if self.state.response.is_some() => {
                let error = ErrorInfo::new("respond.twice", "the run has answered already");
                self.fail(path, None, error.retryable(false));
            }
            Action::Respond { status, headers, body } => {
                self.emit(Event::RunResponded(RunResponded {
                    node: Arc::clone(path),
                    status,
                    headers,
                    body,
                }));
                self.succeed(path, None, Arc::from(OUT), Json::Null, None);
            }
            Action::End { status, output, reason } => self.terminate(path, status, output, reason),
        }
    }

    fn has_responded(&self, path: &str) -> bool {
        self.state.response.as_ref().is_some_and(|response| &*response.node == path)
    }

    fn begin_child(&mut self, path: &Arc<str>, scheduled: NodeScheduled, child: Child, input: Json) {
        let output = Json::object([("run", Json::from(&*child.run))]);
        let detached = child.detached;
        self.emit(Event::NodeScheduled(NodeScheduled {
            child: Some(child),
            input: Some(input),
            ..scheduled
        }));
        if detached {
            self.succeed(path, None, Arc::from(OUT), output, None);
        }
    }

    /// The run that a node starts first.
    pub(super) fn child(
        &self,
        path: &str,
        workflow: Arc<str>,
        version: ChildVersion,
        detached: bool,
    ) -> Result<Child, ErrorInfo> {
        let depth = self.state.parent.as_ref().map_or(0, |parent| parent.depth) + 1;
        if depth > MAX_RUN_DEPTH {
            let message = format!("runs start runs at most {MAX_RUN_DEPTH} deep");
            return Err(ErrorInfo::new("workflow.depth", message).retryable(false));
        }
        let newest = version == ChildVersion::Newest;
        let version = if let ChildVersion::Number(version) = version { Some(version) } else { None };
        Ok(Child { run: self.child_id(path, 1), workflow, version, newest, detached, depth })
    }

    /// The id of the run that an attempt of a node starts.
    pub(super) fn child_id(&self, path: &str, attempt: u32) -> Arc<str> {
        child_id(self.at, self.run, self.state.position, path, attempt)
    }

    pub(super) fn succeed(
        &mut self,
        path: &Arc<str>,
        attempt: Option<u32>,
        port: Arc<str>,
        output: Json,
        signal: Option<u64>,
    ) {
        self.drop_timer(path);
        let compensate = self.workflow.locate(path).is_some_and(|(_, node)| node.compensate.is_some());
        let port = (&*port != OUT).then_some(port);
        let node = Arc::clone(path);
        self.emit(Event::NodeSucceeded(NodeSucceeded { node, attempt, port, output, signal, compensate }));
        self.touch(path);
    }

    /// A node that is settled before its deadline leaves no timer behind.
    fn drop_timer(&mut self, path: &Arc<str>) {
        if self.state.nodes.get(path).is_some_and(|node| node.is_open() && node.deadline.is_some()) {
            self.step.dropped.push(super::Dropped { node: Arc::clone(path), child: None });
        }
    }

    /// Decides between another attempt and failure.
    pub(super) fn attempt_failed(&mut self, path: &Arc<str>, attempt: u32, error: ErrorInfo) {
        match self.next_attempt(path, attempt, &error) {
            Some(due_at) => {
                let node = Arc::clone(path);
                self.emit(Event::NodeRetryScheduled(NodeRetryScheduled { node, attempt, error, due_at }));
            }
            None => self.fail(path, Some(attempt), error),
        }
    }

    fn next_attempt(&self, path: &str, attempt: u32, error: &ErrorInfo) -> Option<Timestamp> {
        let (_, node) = self.workflow.locate(path)?;
        // A run that is being undone does nothing new; what undoes is tried again.
        if self.state.unwinding.is_some() && path::compensated(path).is_none() {
            return None;
        }
        if !node.retry.allows(error) {
            return None;
        }
        let millis = node.retry.delay_ms(attempt, error.retry_after_ms, self.state.seed, path)?;
        let due = self.at.plus_millis(millis);
        let state = self.state.nodes.get(path)?;
        let limit =
            node.retry.max_elapsed_ms.and_then(|millis| Some(state.scheduled_at?.plus_millis(millis)));
        let latest = limit.into_iter().chain(state.deadline).min();
        latest.is_none_or(|latest| due < latest).then_some(due)
    }

    /// Settles a node as failed: on the edge that handles it, or the graph it stands in fails with it.
    pub(super) fn fail(&mut self, path: &Arc<str>, attempt: Option<u32>, error: ErrorInfo) {
        let Some((graph, node)) = self.workflow.locate(path) else { return };
        // What was reported is gone already.
        if attempt.is_some() {
            self.drop_timer(path)
        } else {
            self.drop_work(path)
        }
        self.drop_within(&format!("{path}/"));
        let error = if error.node.is_none() { error.at_node(path) } else { error };
        let stands_alone = self.state.unwinding.is_some() || path::compensated(path).is_some();
        let port = [TIMEOUT_PORT, ERROR_PORT].into_iter().find(|port| {
            !stands_alone
                && (*port == ERROR_PORT || &*error.class == "timeout")
                && graph.index(&node.id).is_some_and(|index| graph.has_edge(index, port))
        });
        self.emit(Event::NodeFailed(NodeFailed {
            node: Arc::clone(path),
            attempt,
            error: error.clone(),
            port: port.map(Arc::from),
        }));
        if port.is_some() {
            self.touch(path);
        } else if !stands_alone {
            self.graph_failed(path::prefix(path), error);
        }
    }

    pub(super) fn touch(&mut self, path: &Arc<str>) {
        if path::compensated(path).is_some() {
            return;
        }
        let Some((graph, node)) = self.workflow.locate(path) else { return };
        let prefix: Arc<str> = Arc::from(path::prefix(path));
        for edge in &node.outgoing {
            let to = graph.edges[*edge].to;
            self.candidates.insert((Arc::clone(&prefix), graph.nodes[to].rank, to));
        }
        self.touched.insert(prefix);
    }

    /// Looks at every node that may have become ready, wherever it stands.
    pub(super) fn reconsider(&mut self) {
        let mut prefixes: Vec<Arc<str>> = vec![Arc::from("")];
        let scopes: Vec<Arc<str>> = self.state.open.iter().cloned().collect();
        for path in scopes {
            let Some(scope) = self.state.nodes.get(&path).and_then(|node| node.scope.as_ref()) else {
                continue;
            };
            prefixes.extend(scope.running.iter().map(|index| Arc::from(path::item(&path, *index))));
            self.begin_items(&path);
        }
        for prefix in prefixes {
            let Some(graph) = self.workflow.graph_at(&prefix) else { continue };
            for (index, node) in graph.nodes.iter().enumerate() {
                self.candidates.insert((Arc::clone(&prefix), node.rank, index));
            }
            self.touched.insert(prefix);
        }
    }
}

/// A node's work that is about to be described.
pub(super) fn scheduled(path: &Arc<str>, kind: &str, attempt: u32) -> NodeScheduled {
    NodeScheduled {
        node: Arc::clone(path),
        kind: Arc::from(kind),
        attempt,
        queue: None,
        input: None,
        timeout_ms: None,
        due_at: None,
        deadline: None,
        signal: None,
        approval: false,
        child: None,
    }
}

/// A UUIDv7 (RFC 9562) of the time, with what is random in it made from where in which run it is started.
fn child_id(at: Timestamp, run: &str, position: u64, path: &str, attempt: u32) -> Arc<str> {
    let mut hash = Sha256::new();
    hash.update(run.as_bytes());
    hash.update(position.to_be_bytes());
    hash.update(path.as_bytes());
    hash.update(attempt.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0u8; 16];
    bytes.iter_mut().zip(digest.iter()).for_each(|(byte, random)| *byte = *random);
    let millis = at.as_micros().div_euclid(1_000).to_be_bytes();
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(bytes);
    Arc::from(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
