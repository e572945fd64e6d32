//! Bodies: maps and repeats, item by item.

use std::sync::Arc;

use super::{MAX_STEP_EVENTS, Turn, flow};
use crate::error::ErrorInfo;
use crate::event::{Event, ItemFailed, ItemStarted, ItemSucceeded, NodeScheduled};
use crate::json::Json;
use crate::node::{BodyRule, Context, Iteration, map};
use crate::path;
use crate::resume::Placeholders;
use crate::state::{OUT, Scope};

impl Turn<'_> {
    /// Begins as many items of a map as may be under way, or the next iteration of a repeat; settles a map
    /// that is done.
    pub(super) fn begin_items(&mut self, path: &Arc<str>) {
        if self.state.nodes.get(path).is_some_and(|node| node.due_at.is_none()) {
            self.take_up(path);
        }
    }

    /// Like `begin_items`, of one that was put off and whose time has come.
    pub(super) fn take_up(&mut self, path: &Arc<str>) {
        let Some(rule) = self.body_rule(path) else { return };
        let most = if let BodyRule::Map { concurrency, .. } = rule { concurrency as usize } else { 1 };
        while let Some(scope) = self.open_scope(path) {
            let count = if let BodyRule::Map { .. } = rule { scope.count() } else { u32::MAX };
            let next = scope.again.first().copied().unwrap_or(scope.next);
            if scope.running.len() >= most {
                return;
            }
            if next >= count {
                break;
            }
            if self.step.events.len() >= MAX_STEP_EVENTS {
                return self.put_off(path, 0);
            }
            let prefix = path::item(path, next);
            self.emit(Event::ItemStarted(ItemStarted { node: Arc::clone(path), index: next }));
            self.begin_graph(&prefix);
        }
        if let (BodyRule::Map { tolerance, .. }, Some(scope)) = (rule, self.open_scope(path))
            && scope.running.is_empty()
        {
            let output = map::output(scope, tolerance.is_some());
            self.succeed(path, None, Arc::from(OUT), output, None);
        }
    }

    /// The scope of an open map or repeat.
    fn open_scope(&self, path: &str) -> Option<&Scope> {
        let node = self.state.nodes.get(path)?;
        node.scope.as_ref().filter(|_| node.is_open())
    }

    fn body_rule(&self, path: &str) -> Option<BodyRule> {
        self.workflow.locate(path)?.1.node.body_rule()
    }

    /// Lets a map or repeat go on later.
    fn put_off(&mut self, path: &Arc<str>, millis: u64) {
        let Some((_, node)) = self.workflow.locate(path) else { return };
        let deadline = self.state.nodes.get(path).and_then(|node| node.deadline);
        let due_at = Some(self.at.plus_millis(millis));
        let scheduled = NodeScheduled { due_at, deadline, ..flow::scheduled(path, node.kind.name, 1) };
        self.emit(Event::NodeScheduled(scheduled));
    }

    /// A graph in which nothing is open any more: the run's ends the run, a body's ends its item.
    pub(super) fn finish_graph(&mut self, prefix: &str) {
        let Some(graph) = self.workflow.graph_at(prefix) else { return };
        let path_of = |id: &str| format!("{prefix}{id}");
        // In a graph without cycles every node is settled once nothing is open; this is the proof's guard.
        let pending = graph.nodes.iter().find(|node| !self.state.nodes.contains_key(&*path_of(&node.id)));
        if let Some(pending) = pending {
            let message = format!("node \"{}\" waits for nothing that can still happen", pending.id);
            return self.graph_failed(prefix, ErrorInfo::new("internal", message));
        }
        let output = |id: &str| self.state.nodes.get(&*path_of(id)).and_then(|node| node.output.clone());
        let mut leaves = graph.leaves();
        let output = match (leaves.next(), leaves.next()) {
            (None, _) => Json::Null,
            (Some(only), None) => output(&only.id).unwrap_or(Json::Null),
            (Some(_), Some(_)) => {
                let outputs =
                    graph.leaves().filter_map(|leaf| Some((Arc::clone(&leaf.id), output(&leaf.id)?)));
                Json::Obj(Arc::new(outputs.collect()))
            }
        };
        match path::owner(prefix) {
            None => self.finish(output),
            Some((node, index)) => self.item_succeeded(&Arc::from(node), index, output),
        }
    }

    /// A graph fails: the run does, or the item.
    pub(super) fn graph_failed(&mut self, prefix: &str, error: ErrorInfo) {
        let Some((node, index)) = path::owner(prefix) else { return self.run_failed(error) };
        let node: Arc<str> = Arc::from(node);
        self.drop_within(prefix);
        self.emit(Event::ItemFailed(ItemFailed { node: Arc::clone(&node), index, error: error.clone() }));
        match self.body_rule(&node) {
            Some(BodyRule::Map { tolerance, .. }) => {
                let (failed, count) =
                    self.open_scope(&node).map_or((0, 0), |scope| (scope.failed, scope.count()));
                if tolerance.is_some_and(|tolerance| !tolerance.is_exceeded(failed, count)) {
                    return self.begin_items(&node);
                }
                let message = format!("item {index} failed: {}", error.message);
                let mut of_map = ErrorInfo::new("map.failed", message).retryable(false);
                of_map.details = Some(Json::object([
                    ("failed", Json::from(i64::from(failed))),
                    ("index", Json::from(i64::from(index))),
                    ("error", crate::to_json(&error)),
                ]));
                self.fail(&node, None, of_map);
            }
            _ => self.fail(&node, None, error),
        }
    }

    fn item_succeeded(&mut self, path: &Arc<str>, index: u32, output: Json) {
        let iteration = self.iteration(path, index, &output);
        let item = ItemSucceeded { node: Arc::clone(path), index, output: output.clone() };
        self.emit(Event::ItemSucceeded(item));
        match iteration {
            None => self.begin_items(path),
            Some(Ok(Iteration::Done)) => self.succeed(path, None, Arc::from(OUT), output, None),
            Some(Ok(Iteration::Again(millis))) => self.iterate(path, index, millis, output),
            Some(Err(error)) => self.fail(path, None, error),
        }
    }

    /// What a repeat says after an iteration; `None` for a map.
    fn iteration(
        &mut self,
        path: &Arc<str>,
        index: u32,
        output: &Json,
    ) -> Option<Result<Iteration, ErrorInfo>> {
        let (_, node) = self.workflow.locate(path)?;
        let Some(BodyRule::Repeat { .. }) = node.node.body_rule() else { return None };
        let prefix = path::item(path, index);
        let mut root = self.root(&prefix, None);
        if let Json::Obj(fields) = &mut root {
            Arc::make_mut(fields).insert(Arc::from("item"), output.clone());
        }
        let placeholders = Placeholders { seed: self.state.seed, prefix: &prefix };
        let context = Context { root: &root, at: self.at, timeout_ms: None, placeholders };
        Some(node.node.after_iteration(&context))
    }

    fn iterate(&mut self, path: &Arc<str>, index: u32, millis: u64, output: Json) {
        let Some(BodyRule::Repeat { max_iterations }) = self.body_rule(path) else { return };
        if index + 1 >= max_iterations {
            let message = format!("the condition did not hold after {max_iterations} iterations");
            let mut error = ErrorInfo::new("repeat.exhausted", message).retryable(false);
            error.details = Some(Json::object([("output", output)]));
            return self.fail(path, None, error);
        }
        if millis > 0 { self.put_off(path, millis) } else { self.begin_items(path) }
    }

    /// The item and index that expressions of a body see.
    pub(super) fn item_of(&self, prefix: &str) -> Option<(Json, u32)> {
        let (node, index) = path::owner(prefix)?;
        let scope = self.state.nodes.get(node)?.scope.as_ref()?;
        Some((scope.item(index), index))
    }
}
