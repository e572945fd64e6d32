//! What can be said of the graph as a whole: cycles, loose nodes, references to nodes that have not run.

use std::collections::BTreeSet;
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::{Graph, Problems, pointer};
use crate::node::wait;

/// Checks the graph and gives every node its place in the topological order; then the bodies in it.
///
/// Where an edge could not be read, only what does not depend on the edges is said, so that one fault does
/// not show up as many.
pub(super) fn check(graph: &mut Graph, problems: &mut Problems) {
    check_in(graph, &BTreeSet::new(), false, problems);
}

/// `outside` are the nodes around a body that have run before it.
fn check_in(graph: &mut Graph, outside: &BTreeSet<Arc<str>>, in_body: bool, problems: &mut Problems) {
    let ancestors = order(graph, problems);
    for index in 0..graph.nodes.len() {
        let before = ancestors.as_ref().map(|ancestors| &ancestors[index]);
        report_references(graph, index, &Known { before, outside, in_body, body: None }, problems);
        report_resumes(graph, index, problems);
        if let Some(mut body) = graph.nodes[index].body.take() {
            // Without an order nothing is known to have run: whatever a body names outside passes.
            let around: Vec<usize> = match before {
                Some(before) => before.ones().collect(),
                None => (0..graph.nodes.len()).collect(),
            };
            let around = around.iter().map(|node| Arc::clone(&graph.nodes[*node].id));
            check_in(&mut body, &around.chain(outside.iter().cloned()).collect(), true, problems);
            graph.nodes[index].body = Some(body);
        }
    }
}

/// Orders the nodes and returns the ancestors of each, if there is no cycle.
fn order(graph: &mut Graph, problems: &mut Problems) -> Option<Vec<FixedBitSet>> {
    if !graph.sound {
        return None;
    }
    graph.order = topological_order(graph);
    if graph.order.len() < graph.nodes.len() {
        report_cycle(graph, problems);
        return None;
    }
    for (rank, node) in graph.order.clone().into_iter().enumerate() {
        graph.nodes[node].rank = rank;
    }
    report_loose_nodes(graph, problems);
    Some(ancestors(graph))
}

/// Kahn's algorithm; among nodes that could come next the one defined first does, so that the order is
/// a function of the definition. Nodes on or behind a cycle are left out.
fn topological_order(graph: &Graph) -> Vec<usize> {
    let mut missing: Vec<usize> = graph.nodes.iter().map(|node| node.incoming.len()).collect();
    let mut ready: BTreeSet<usize> = (0..missing.len()).filter(|node| missing[*node] == 0).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(node) = ready.pop_first() {
        order.push(node);
        for edge in &graph.nodes[node].outgoing {
            let to = graph.edges[*edge].to;
            missing[to] -= 1;
            if missing[to] == 0 {
                ready.insert(to);
            }
        }
    }
    order
}

/// Names one cycle: every node left out has a predecessor that is left out, so walking backwards closes it.
fn report_cycle(graph: &Graph, problems: &mut Problems) {
    let sorted: BTreeSet<usize> = graph.order.iter().copied().collect();
    let Some(mut node) = (0..graph.nodes.len()).find(|node| !sorted.contains(node)) else { return };
    let mut path: Vec<usize> = Vec::new();
    let start = loop {
        if let Some(start) = path.iter().position(|seen| *seen == node) {
            break start;
        }
        path.push(node);
        let before = graph.nodes[node].incoming.iter().map(|edge| graph.edges[*edge].from);
        match before.into_iter().find(|from| !sorted.contains(from)) {
            Some(from) => node = from,
            None => return,
        }
    };
    let mut cycle: Vec<usize> = path[start..].iter().rev().copied().collect();
    let first = cycle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(i, _)| i);
    cycle.rotate_left(first);
    cycle.push(cycle[0]);
    let names: Vec<&str> = cycle.iter().map(|node| &*graph.nodes[*node].id).collect();
    let message = format!("cycle: {}; repetition is not drawn as an edge back", names.join(" → "));
    problems.add(graph.nodes[cycle[0]].place.clone(), "cycle", message);
}

fn report_loose_nodes(graph: &Graph, problems: &mut Problems) {
    if graph.nodes.len() < 2 {
        return;
    }
    for node in &graph.nodes {
        if node.incoming.is_empty() && node.outgoing.is_empty() {
            problems.add(
                node.place.clone(),
                "unconnected",
                format!("node \"{}\" is not connected to any other", node.id),
            );
        }
    }
}

/// For each node, the nodes from which a path leads to it.
fn ancestors(graph: &Graph) -> Vec<FixedBitSet> {
    let count = graph.nodes.len();
    let mut ancestors = vec![FixedBitSet::with_capacity(count); count];
    for node in &graph.order {
        for edge in &graph.nodes[*node].incoming {
            let from = graph.edges[*edge].from;
            let inherited = ancestors[from].clone();
            ancestors[*node].union_with(&inherited);
            ancestors[*node].insert(from);
        }
    }
    ancestors
}

/// What an expression may name.
#[derive(Clone, Copy)]
struct Known<'a> {
    /// The nodes of the graph that have run before; `None` where it has no order.
    before: Option<&'a FixedBitSet>,
    /// Nodes around the body that have run before.
    outside: &'a BTreeSet<Arc<str>>,
    /// The body that the expression is evaluated in.
    body: Option<&'a Graph>,
    in_body: bool,
}

/// `.nodes.<id>` may name what has run before only: anything else has no output yet, or only by luck.
fn report_references(graph: &Graph, index: usize, known: &Known, problems: &mut Problems) {
    let node = &graph.nodes[index];
    let with = pointer(&node.place, "with");
    for reference in node.node.references() {
        let body = node.body.as_ref().filter(|_| reference.in_body);
        let known = Known { body, in_body: known.in_body || reference.in_body, ..*known };
        report_reference(
            graph,
            &known,
            &node.id,
            format!("{with}{}", reference.pointer),
            &reference.keys,
            problems,
        );
    }
    if let Some(undo) = &node.compensate {
        // What undoes a node runs after everything, and sees whatever has run by then.
        let (with, known) = (pointer(&undo.place, "with"), Known { before: None, ..*known });
        for reference in undo.node.references() {
            let at = format!("{with}{}", reference.pointer);
            report_reference(graph, &known, &node.id, at, &reference.keys, problems);
        }
    }
}

/// `$resume.<id>` may name what waits beside the node that sends the URL: only there it is known for which item.
fn report_resumes(graph: &Graph, index: usize, problems: &mut Problems) {
    let node = &graph.nodes[index];
    for (below, target) in node.node.resumes() {
        let is_wait = |target: usize| graph.nodes[target].kind.name == wait::TYPE.name;
        if !graph.index(target).is_some_and(is_wait) {
            let message = format!("there is no wait node \"{target}\" beside \"{}\"", node.id);
            problems.add(format!("{}/with{below}", node.place), "resume", message);
        }
    }
    if let Some(undo) = &node.compensate {
        for (below, _) in undo.node.resumes() {
            let message = "a run that is being undone waits for nobody";
            problems.add(format!("{}/with{below}", undo.place), "resume", message);
        }
    }
}

fn report_reference(
    graph: &Graph,
    known: &Known,
    id: &Arc<str>,
    at: String,
    path: &[Arc<str>],
    problems: &mut Problems,
) {
    const ROOTS: [&str; 8] = ["input", "nodes", "run", "vars", "error", "now", "item", "index"];
    const BODY_ROOTS: [&str; 2] = ["item", "index"];
    let Some(root) = path.first() else { return };
    if !ROOTS.contains(&&**root) {
        let list = ROOTS.map(|root| format!(".{root}")).join(", ");
        problems.add(at, "reference", format!("there is no .{root}; there are {list}"));
        return;
    }
    if BODY_ROOTS.contains(&&**root) && !known.in_body {
        problems.add(at, "reference", format!("there is a .{root} inside the body of a map or repeat only"));
        return;
    }
    let Some(target) = path.get(1).filter(|_| &**root == "nodes") else { return };
    if known.outside.contains(target) || known.body.is_some_and(|body| body.index(target).is_some()) {
        return;
    }
    match graph.index(target) {
        None => problems.add(at, "reference", format!("there is no node \"{target}\"")),
        Some(index) if known.before.is_some_and(|before| !before.contains(index)) => {
            let message =
                format!("node \"{target}\" does not come before \"{id}\", so it has no output there");
            problems.add(at, "reference", message);
        }
        Some(_) => {}
    }
}
