//! What can be said of the graph as a whole: cycles, loose nodes, references to nodes that have not run.

use std::collections::BTreeSet;
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::{Problems, Workflow, pointer};

/// Checks the graph and gives every node its place in the topological order.
///
/// `places` are the JSON pointers of the nodes. Where an edge could not be read (`sound` is false), only
/// what does not depend on the edges is said, so that one fault does not show up as many.
pub(super) fn check(workflow: &mut Workflow, places: &[String], sound: bool, problems: &mut Problems) {
    if !sound {
        report_references(workflow, places, None, problems);
        return;
    }
    workflow.order = topological_order(workflow);
    if workflow.order.len() < workflow.nodes.len() {
        report_cycle(workflow, places, problems);
        report_references(workflow, places, None, problems);
        return;
    }
    for (rank, node) in workflow.order.clone().into_iter().enumerate() {
        workflow.nodes[node].rank = rank;
    }
    report_loose_nodes(workflow, places, problems);
    let ancestors = ancestors(workflow);
    report_references(workflow, places, Some(&ancestors), problems);
}

/// Kahn's algorithm; among nodes that could come next the one defined first does, so that the order is
/// a function of the definition. Nodes on or behind a cycle are left out.
fn topological_order(workflow: &Workflow) -> Vec<usize> {
    let mut missing: Vec<usize> = workflow.nodes.iter().map(|node| node.incoming.len()).collect();
    let mut ready: BTreeSet<usize> = (0..missing.len()).filter(|node| missing[*node] == 0).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(node) = ready.pop_first() {
        order.push(node);
        for edge in &workflow.nodes[node].outgoing {
            let to = workflow.edges[*edge].to;
            missing[to] -= 1;
            if missing[to] == 0 {
                ready.insert(to);
            }
        }
    }
    order
}

/// Names one cycle: every node left out has a predecessor that is left out, so walking backwards closes it.
fn report_cycle(workflow: &Workflow, places: &[String], problems: &mut Problems) {
    let sorted: BTreeSet<usize> = workflow.order.iter().copied().collect();
    let Some(mut node) = (0..workflow.nodes.len()).find(|node| !sorted.contains(node)) else { return };
    let mut path: Vec<usize> = Vec::new();
    let start = loop {
        if let Some(start) = path.iter().position(|seen| *seen == node) {
            break start;
        }
        path.push(node);
        let before = workflow.nodes[node].incoming.iter().map(|edge| workflow.edges[*edge].from);
        match before.into_iter().find(|from| !sorted.contains(from)) {
            Some(from) => node = from,
            None => return,
        }
    };
    let mut cycle: Vec<usize> = path[start..].iter().rev().copied().collect();
    let first = cycle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(i, _)| i);
    cycle.rotate_left(first);
    cycle.push(cycle[0]);
    let names: Vec<&str> = cycle.iter().map(|node| &*workflow.nodes[*node].id).collect();
    let message = format!("cycle: {}; repetition is not drawn as an edge back", names.join(" → "));
    problems.add(places[cycle[0]].clone(), "cycle", message);
}

fn report_loose_nodes(workflow: &Workflow, places: &[String], problems: &mut Problems) {
    if workflow.nodes.len() < 2 {
        return;
    }
    for (i, node) in workflow.nodes.iter().enumerate() {
        if node.incoming.is_empty() && node.outgoing.is_empty() {
            problems.add(
                places[i].clone(),
                "unconnected",
                format!("node \"{}\" is not connected to any other", node.id),
            );
        }
    }
}

/// For each node, the nodes from which a path leads to it.
fn ancestors(workflow: &Workflow) -> Vec<FixedBitSet> {
    let count = workflow.nodes.len();
    let mut ancestors = vec![FixedBitSet::with_capacity(count); count];
    for node in &workflow.order {
        for edge in &workflow.nodes[*node].incoming {
            let from = workflow.edges[*edge].from;
            let inherited = ancestors[from].clone();
            ancestors[*node].union_with(&inherited);
            ancestors[*node].insert(from);
        }
    }
    ancestors
}

/// `.nodes.<id>` may name ancestors only: anything else has no output yet, or only by luck.
fn report_references(
    workflow: &Workflow,
    places: &[String],
    ancestors: Option<&[FixedBitSet]>,
    problems: &mut Problems,
) {
    for (i, node) in workflow.nodes.iter().enumerate() {
        let with = pointer(&places[i], "with");
        for reference in node.node.references() {
            let at = format!("{with}{}", reference.pointer);
            let before = ancestors.map(|ancestors| &ancestors[i]);
            report_reference(workflow, before, &node.id, at, &reference.keys, problems);
        }
    }
}

fn report_reference(
    workflow: &Workflow,
    ancestors: Option<&FixedBitSet>,
    id: &Arc<str>,
    at: String,
    path: &[Arc<str>],
    problems: &mut Problems,
) {
    const ROOTS: [&str; 6] = ["input", "nodes", "run", "vars", "error", "now"];
    let Some(root) = path.first() else { return };
    if !ROOTS.contains(&&**root) {
        let list = ROOTS.map(|root| format!(".{root}")).join(", ");
        problems.add(at, "reference", format!("there is no .{root}; there are {list}"));
        return;
    }
    let Some(target) = path.get(1).filter(|_| &**root == "nodes") else { return };
    match workflow.index(target) {
        None => problems.add(at, "reference", format!("there is no node \"{target}\"")),
        Some(index) if ancestors.is_some_and(|ancestors| !ancestors.contains(index)) => {
            let message =
                format!("node \"{target}\" does not come before \"{id}\", so it has no output there");
            problems.add(at, "reference", message);
        }
        Some(_) => {}
    }
}
