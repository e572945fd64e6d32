//! What people change by hand: a run goes on after its end, variables and outputs are edited, a node is settled
//! in place of whoever was to, a copy of a run goes its own way.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Turn;
use crate::definition::Workflow;
use crate::event::{Event, NodeOverridden, RunEdited, RunForked, RunRedriven};
use crate::fact::Fact;
use crate::json::Json;
use crate::node::terminate;
use crate::state::{NodeStatus, OUT, RunState, RunStatus};

/// Why an intervention would change nothing; `None` where it would do something, and for every other fact.
#[must_use]
pub fn refusal(workflow: &Workflow, state: &RunState, fact: &Fact) -> Option<String> {
    let is_intervention =
        matches!(fact, Fact::Redrive(_) | Fact::Edit(_) | Fact::Override(_) | Fact::Fork(_));
    if is_intervention && state.position == 0 {
        return Some("the run has not begun".to_owned());
    }
    match fact {
        Fact::Redrive(redrive) => refuse_redrive(workflow, state, redrive),
        _ if is_intervention && state.status.is_terminal() => Some("the run has ended".to_owned()),
        Fact::Edit(edit) => refuse_edit(state, edit),
        Fact::Override(by_hand) => refuse_override(workflow, state, by_hand),
        Fact::Fork(_) if state.unwinding.is_some() => Some("the run is being undone there".to_owned()),
        _ => None,
    }
}

fn refuse_redrive(workflow: &Workflow, state: &RunState, redrive: &RunRedriven) -> Option<String> {
    if !matches!(state.status, RunStatus::Failed | RunStatus::Canceled) {
        return Some(format!(
            "the run is {}; one that failed or was canceled can go on",
            state.status.as_str()
        ));
    }
    if state.killed || was_terminated(workflow, state) {
        return Some("the run was killed, or ended by a terminate node".to_owned());
    }
    if state.unwinding.is_some() {
        return Some("what the run did has been undone".to_owned());
    }
    if let Some(from) = &redrive.from {
        if workflow.graph.index(from).is_none() {
            return Some(format!("there is no node \"{from}\" outside of bodies"));
        }
        if !state.nodes.contains_key(from) {
            return Some(format!("node \"{from}\" has not been reached"));
        }
    }
    if let Some(path) = redrive.outputs.keys().find(|path| path.contains('/')) {
        return Some(format!("node \"{path}\" stands in a body, and that is done anew as a whole"));
    }
    if let Some(path) = redrive.outputs.keys().find(|path| !state.nodes.contains_key(*path)) {
        return Some(format!("node \"{path}\" has not been reached"));
    }
    if let Some(reason) = refuse_vars(redrive.vars.as_ref()) {
        return Some(reason);
    }
    let has_cause = redrive.from.is_some() || !redrive.outputs.is_empty() || !state.broken().is_empty();
    (!has_cause).then(|| "nothing in the run failed or was canceled".to_owned())
}

/// Whether the definition itself ended the run: nothing in it says how it could go on.
fn was_terminated(workflow: &Workflow, state: &RunState) -> bool {
    let ends =
        |path: &str| workflow.locate(path).is_some_and(|(_, node)| node.kind.name == terminate::TYPE.name);
    let mut nodes = state.nodes.iter();
    nodes.any(|(path, node)| node.status == NodeStatus::Succeeded && ends(path))
}

fn refuse_vars(vars: Option<&Json>) -> Option<String> {
    vars.is_some_and(|vars| !matches!(vars, Json::Obj(_))).then(|| "variables are an object".to_owned())
}

fn refuse_edit(state: &RunState, edit: &RunEdited) -> Option<String> {
    if edit.vars.is_none() && edit.outputs.is_empty() {
        return Some("there is nothing to change".to_owned());
    }
    if let Some(reason) = refuse_vars(edit.vars.as_ref()) {
        return Some(reason);
    }
    edit.outputs.keys().find_map(|path| match state.nodes.get(path).map(|node| node.status) {
        Some(NodeStatus::Succeeded) => None,
        Some(_) => Some(format!("node \"{path}\" has no output")),
        None => Some(format!("node \"{path}\" has not been reached, or its item is done")),
    })
}

fn refuse_override(workflow: &Workflow, state: &RunState, by_hand: &NodeOverridden) -> Option<String> {
    let path = &by_hand.node;
    if !state.open.contains(path) {
        return Some(format!("node \"{path}\" is not open"));
    }
    let (_, node) = workflow.locate(path)?;
    let port = by_hand.port.as_deref().unwrap_or(OUT);
    let ports = node.node.ports();
    if ports.iter().any(|known| &**known == port) {
        return None;
    }
    let known: Vec<String> = ports.iter().map(|port| format!("\"{port}\"")).collect();
    Some(format!("node \"{path}\" has no port \"{port}\", but {}", known.join(", ")))
}

impl Turn<'_> {
    /// Does what [`refusal`] has nothing against.
    pub(super) fn intervene(&mut self, fact: &Fact) {
        match fact {
            Fact::Redrive(redrive) => self.redrive(redrive),
            Fact::Edit(edit) => {
                let vars = edit.vars.as_ref().map(|vars| self.edited_vars(vars));
                self.emit(Event::RunEdited(RunEdited { vars, ..edit.clone() }));
            }
            Fact::Override(by_hand) => self.override_node(by_hand),
            Fact::Fork(fork) => self.fork(fork),
            _ => {}
        }
    }

    /// Lets a run go on after its end: what failed or was canceled is pending again.
    fn redrive(&mut self, redrive: &RunRedriven) {
        let vars = redrive.vars.as_ref().map(|vars| self.edited_vars(vars));
        let again = redrive.from.as_deref().map(|from| self.all_after(from)).unwrap_or_default();
        let deadline = self.deadline_from_now();
        self.emit(Event::RunRedriven(RunRedriven { deadline, vars, again, ..redrive.clone() }));
        self.reconsider();
    }

    /// All variables, with some of them changed.
    fn edited_vars(&self, changes: &Json) -> Json {
        let mut vars = self.state.vars.as_ref().unwrap_or(&self.workflow.vars).clone();
        if let (Json::Obj(vars), Json::Obj(changes)) = (&mut vars, changes) {
            Arc::make_mut(vars).extend(changes.iter().map(|(name, value)| (Arc::clone(name), value.clone())));
            return Json::Obj(Arc::clone(vars));
        }
        changes.clone()
    }

    /// A node outside of bodies and all that follow from it.
    fn all_after(&self, from: &str) -> BTreeSet<Arc<str>> {
        let graph = &self.workflow.graph;
        let mut seen = BTreeSet::new();
        let mut next: Vec<usize> = graph.index(from).into_iter().collect();
        while let Some(index) = next.pop() {
            let node = &graph.nodes[index];
            if seen.insert(Arc::clone(&node.id)) {
                next.extend(node.outgoing.iter().map(|edge| graph.edges[*edge].to));
            }
        }
        seen
    }

    fn override_node(&mut self, by_hand: &NodeOverridden) {
        let path = &by_hand.node;
        self.drop_work(path);
        self.drop_within(&format!("{path}/"));
        self.emit(Event::NodeOverridden(by_hand.clone()));
        self.touch(path);
    }

    /// Lets a copy go its own way: what was under way in the other run is begun anew in this one.
    fn fork(&mut self, fork: &RunForked) {
        let deadline = self.deadline_from_now();
        self.emit(Event::RunForked(RunForked { deadline, ..fork.clone() }));
        let under_way = self.state.open_work().filter(|(_, node)| node.is_attempted());
        let under_way: Vec<_> = under_way.map(|(path, node)| (Arc::clone(path), node.clone())).collect();
        for (path, node) in under_way {
            self.schedule_attempt(&path, &node, node.attempt);
        }
    }
}
