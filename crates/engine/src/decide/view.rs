//! What expressions see.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Turn;
use crate::error::ErrorInfo;
use crate::event::{Event, NodeFailed, NodeSucceeded};
use crate::json::Json;
use crate::path;
use crate::state::{NodeStatus, RunState};

impl Turn<'_> {
    /// The root that the expressions of a graph's nodes are evaluated against.
    pub(super) fn root(&mut self, prefix: &str, error: Option<ErrorInfo>) -> Json {
        let nodes = self.nodes_view(prefix);
        let state = &*self.state;
        let started_at = state.started_at.map_or(Json::Null, |at| Json::from(at.to_string()));
        let run = Json::object([
            ("id", Json::from(self.run)),
            ("workflow", Json::from(&*state.workflow)),
            ("version", Json::from(i64::from(state.version))),
            ("started_at", started_at),
            ("trigger", state.trigger.clone()),
        ]);
        let mut root = vec![
            ("input", state.input.clone()),
            ("nodes", Json::Obj(nodes)),
            ("run", run),
            ("vars", state.vars.as_ref().unwrap_or(&self.workflow.vars).clone()),
            ("error", error.as_ref().map_or(Json::Null, error_view)),
            ("now", Json::from(self.at.to_string())),
        ];
        if let Some((item, index)) = self.item_of(prefix) {
            root.extend([("item", item), ("index", Json::from(i64::from(index)))]);
        }
        Json::object(root)
    }

    /// `.nodes`: those of the graph, and those of the graphs around it.
    fn nodes_view(&mut self, prefix: &str) -> Arc<BTreeMap<Arc<str>, Json>> {
        let state = &*self.state;
        let outermost = self.outputs.get_or_insert_with(|| {
            let outside_bodies = state.nodes.keys().filter(|path| !path.contains('/'));
            Arc::new(
                outside_bodies.filter_map(|path| Some((Arc::clone(path), node_view(state, path)?))).collect(),
            )
        });
        let mut nodes = Arc::clone(outermost);
        let mut around = Some(prefix);
        while let Some(prefix) = around.filter(|prefix| !prefix.is_empty()) {
            let graph = self.workflow.graph_at(prefix);
            for node in graph.into_iter().flat_map(|graph| &graph.nodes) {
                if let Some(view) = node_view(self.state, &format!("{prefix}{}", node.id)) {
                    Arc::make_mut(&mut nodes).insert(Arc::clone(&node.id), view);
                }
            }
            around = path::owner(prefix).map(|(node, _)| path::prefix(node));
        }
        nodes
    }

    /// Keeps the outermost `.nodes` up to date.
    pub(super) fn note_output(&mut self, event: &Event) {
        let (Event::NodeSucceeded(NodeSucceeded { node, .. }) | Event::NodeFailed(NodeFailed { node, .. })) =
            event
        else {
            // What failed may have no output any more, what people changed has another: the state is looked at again.
            if matches!(event, Event::RunRedriven(_) | Event::RunEdited(_) | Event::NodeOverridden(_)) {
                self.outputs = None;
            }
            return;
        };
        if let (Some(outputs), false) = (&mut self.outputs, node.contains('/'))
            && let Some(view) = node_view(self.state, node)
        {
            Arc::make_mut(outputs).insert(Arc::clone(node), view);
        }
    }
}

/// What expressions see of a settled node: its output, or its error.
fn node_view(state: &RunState, path: &str) -> Option<Json> {
    let node = state.nodes.get(path)?;
    match (node.status, &node.output, &node.error) {
        (NodeStatus::Succeeded, Some(output), _) => Some(Json::object([("output", output.clone())])),
        (NodeStatus::Failed, _, Some(error)) => Some(Json::object([("error", error_view(error))])),
        _ => None,
    }
}

fn error_view(error: &ErrorInfo) -> Json {
    let status = error.status.map_or(Json::Null, |status| Json::from(i64::from(status)));
    let retry_after = error.retry_after_ms.and_then(|millis| i64::try_from(millis).ok());
    Json::object([
        ("class", Json::from(&*error.class)),
        ("message", Json::from(&*error.message)),
        ("status", status),
        ("retry_after_ms", retry_after.map_or(Json::Null, Json::from)),
        ("details", error.details.clone().unwrap_or(Json::Null)),
    ])
}
