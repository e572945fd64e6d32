//! A workflow definition, read, checked and compiled once per published version.

mod diff;
mod fields;
pub mod flow;
mod graph;
mod schema;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use diff::{Change, ChangeKind, diff};
pub use fields::{Fields, Problem, Problems, pointer, shown};
pub use schema::schema;

use crate::contract::Contract;
use crate::expr;
use crate::json::Json;
use crate::node::{self, Node, NodeType, Work, terminate};
use crate::path;
use crate::retry::{Jitter, Matcher, RetryPolicy};
use crate::state::OUT;
use crate::template;
use crate::time::parse_duration_ms;

/// Version of the definition's schema this release writes and reads.
pub const SCHEMA_VERSION: u32 = 1;
/// Version of the expression profile this release evaluates.
pub const EXPRESSION_PROFILE: &str = expr::PROFILE;
/// Most nodes in one workflow, bodies included.
pub const MAX_NODES: usize = 1_000;
/// How deep bodies may be nested.
pub const MAX_BODY_DEPTH: usize = 4;
/// Most edges in one graph.
pub const MAX_EDGES: usize = 5_000;
/// Longest workflow name and node id, in bytes.
pub const MAX_NAME_BYTES: usize = 63;
/// Most delays of a retry policy.
pub const MAX_DELAYS: usize = 100;
/// Largest definition, in bytes of JSON text.
pub const MAX_DEFINITION_BYTES: usize = 4 << 20;
/// Most values (strings, numbers, arrays, …) in one definition; keys count as well.
pub const MAX_DEFINITION_VALUES: usize = 100_000;
/// Longest JSON pointer of a value in a definition, in bytes.
pub const MAX_POINTER_BYTES: usize = 1_000;
/// Most memory that the compiled expressions of one definition may take, in bytes, roughly. `.input.total` takes 300.
pub const MAX_EXPRESSIONS_SIZE: usize = template::MAX_SIZE;

/// The port of a failure somebody handles.
pub const ERROR_PORT: &str = "error";
/// The port of a time-out somebody handles.
pub const TIMEOUT_PORT: &str = "timeout";

/// When a node with several incoming edges fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Once every incoming edge is settled and at least one was taken.
    All,
    /// At the first edge taken.
    Any,
}

/// A compiled node.
#[derive(Debug)]
pub struct NodeDef {
    /// Its id, unique in the workflow, bodies included.
    pub id: Arc<str>,
    /// Its type.
    pub kind: &'static NodeType,
    /// What the type made of its `with`.
    pub node: Box<dyn Node>,
    /// When it fires.
    pub join: Join,
    /// What happens after a failed attempt.
    pub retry: RetryPolicy,
    /// How long one attempt may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How long it may take in all, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// The nodes of its body.
    pub body: Option<Graph>,
    /// What undoes it.
    pub compensate: Option<Box<NodeDef>>,
    /// Incoming edges, as indexes into [`Graph::edges`].
    pub incoming: Vec<usize>,
    /// Outgoing edges, as indexes into [`Graph::edges`].
    pub outgoing: Vec<usize>,
    /// Its place in the topological order.
    pub rank: usize,
    /// JSON pointer of its definition.
    place: String,
}

/// A compiled edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Source node, as an index into [`Graph::nodes`].
    pub from: usize,
    /// Target node, as an index into [`Graph::nodes`].
    pub to: usize,
    /// The source's port it hangs on.
    pub port: Arc<str>,
}

/// Nodes and edges: a workflow's, or a body's.
#[derive(Debug, Default)]
pub struct Graph {
    /// The nodes, in the definition's order.
    pub nodes: Vec<NodeDef>,
    /// The edges, in the definition's order.
    pub edges: Vec<Edge>,
    /// Node indexes in topological order.
    pub order: Vec<usize>,
    by_id: BTreeMap<Arc<str>, usize>,
    /// Whether every edge could be read.
    sound: bool,
}

/// A definition that was found to be without fault, ready to run.
#[derive(Debug)]
pub struct Workflow {
    /// Its name.
    pub name: Arc<str>,
    /// `.vars` of every run.
    pub vars: Json,
    /// How many of its runs there may be.
    pub flow: flow::Flow,
    /// What inputs are checked against; `None` lets every input in.
    pub input_contract: Option<Contract>,
    /// What outputs are checked against; `None` lets every output out.
    pub output_contract: Option<Contract>,
    /// How long a run may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The workflow that is started when a run fails.
    pub on_failure: Option<Arc<str>>,
    /// Its nodes and edges.
    pub graph: Graph,
}

impl Workflow {
    /// Reads, checks and compiles a definition.
    ///
    /// # Errors
    /// Every fault that can be known before a run, not only the first, in document order.
    pub fn compile(definition: &Json) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let workflow = Self::read(definition, &mut problems);
        let mut found = problems.0;
        found.sort();
        found.dedup();
        match workflow {
            Some(workflow) if found.is_empty() => Ok(workflow),
            _ => Err(found),
        }
    }

    /// The definition of the node at a path, and the graph it stands in; what undoes a node stands beside it.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<(&Graph, &NodeDef)> {
        let graph = self.graph_at(path::prefix(path))?;
        let beside = path::compensated(path).unwrap_or(path);
        let id = beside.rsplit('/').next().unwrap_or(beside);
        let node = &graph.nodes[graph.index(id)?];
        if path::compensated(path).is_some() {
            return node.compensate.as_deref().map(|node| (graph, node));
        }
        Some((graph, node))
    }

    /// The graph whose nodes' paths begin with `prefix`.
    #[must_use]
    pub fn graph_at(&self, prefix: &str) -> Option<&Graph> {
        let mut graph = &self.graph;
        let mut tokens = prefix.split_terminator('/');
        while let (Some(id), Some(_)) = (tokens.next(), tokens.next()) {
            graph = graph.nodes[graph.index(id)?].body.as_ref()?;
        }
        Some(graph)
    }

    /// Every node, those of bodies and those that undo others included.
    pub fn all_nodes(&self) -> Vec<&NodeDef> {
        let mut found = Vec::new();
        self.graph.visit(&mut |node| found.push(node));
        found
    }

    /// Whether it sends resume URLs.
    #[must_use]
    pub fn sends_resume_urls(&self) -> bool {
        self.all_nodes().iter().any(|node| !node.node.resumes().is_empty())
    }

    fn read(definition: &Json, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(definition, String::new(), problems)?;
        let name = read_name(&mut fields, problems);
        // For editors: of no meaning here.
        fields.string("$schema", problems);
        let input_contract = read_contract("input_schema", &mut fields, problems);
        let output_contract = read_contract("output_schema", &mut fields, problems);
        let vars = read_vars(&mut fields, problems);
        fields.get("description").inspect(|text| {
            if text.as_str().is_none() {
                problems.add(pointer("", "description"), "type", "\"description\" must be a string");
            }
        });
        let flow = flow::read(&mut fields, problems);
        let timeout_ms = read_limit("timeout", &mut fields, problems);
        let on_failure = fields.string("on_failure", problems);
        if on_failure.is_some_and(|name| name.is_empty() || name.len() > MAX_NAME_BYTES) {
            let message = format!("a workflow's name has 1 to {MAX_NAME_BYTES} bytes");
            problems.add(fields.at("on_failure"), "range", message);
        }
        let mut taken = Ids::default();
        let (mut graph, complete) = Graph::read(&mut fields, &mut taken, 0, problems);
        fields.finish(problems);
        graph::check(&mut graph, problems);
        complete.then_some(Self {
            name: name.unwrap_or_default(),
            vars,
            input_contract,
            output_contract,
            flow,
            timeout_ms,
            on_failure: on_failure.map(Arc::from),
            graph,
        })
    }
}

/// The node ids taken so far, with where.
#[derive(Debug, Default)]
struct Ids(BTreeMap<Arc<str>, String>);

impl Graph {
    /// The index of a node.
    #[must_use]
    pub fn index(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Whether some edge hangs on this port of the node.
    #[must_use]
    pub fn has_edge(&self, node: usize, port: &str) -> bool {
        self.nodes[node].outgoing.iter().any(|edge| &*self.edges[*edge].port == port)
    }

    /// The nodes whose outputs make the output: those with no edge on a port of success. One that ends the run
    /// has no part in what comes out where it was not reached.
    pub fn leaves(&self) -> impl Iterator<Item = &NodeDef> {
        let leads_on = |edge: &usize| !matches!(&*self.edges[*edge].port, ERROR_PORT | TIMEOUT_PORT);
        self.nodes
            .iter()
            .filter(move |node| node.kind.name != terminate::TYPE.name && !node.outgoing.iter().any(leads_on))
    }

    fn visit<'a>(&'a self, found: &mut dyn FnMut(&'a NodeDef)) {
        for node in &self.nodes {
            found(node);
            node.compensate.iter().for_each(|node| found(node));
            node.body.iter().for_each(|body| body.visit(found));
        }
    }

    /// Reads nodes and edges; says whether every node's own definition is sound.
    fn read(fields: &mut Fields, taken: &mut Ids, depth: usize, problems: &mut Problems) -> (Self, bool) {
        let (nodes, complete) = read_nodes(fields, taken, depth, problems);
        let by_id = nodes.iter().enumerate().rev().map(|(i, node)| (Arc::clone(&node.id), i)).collect();
        let mut graph = Self { nodes, by_id, ..Self::default() };
        graph.sound = graph.read_edges(fields, problems);
        (graph, complete)
    }

    /// Reads the edges; true if every one of them connects two known nodes.
    fn read_edges(&mut self, fields: &mut Fields, problems: &mut Problems) -> bool {
        let at = fields.at("edges");
        let edges = fields.array("edges", problems).unwrap_or_default();
        if edges.len() > MAX_EDGES {
            problems.add(at, "limit", format!("a workflow, and a body, has at most {MAX_EDGES} edges"));
            return false;
        }
        let (mut sound, mut seen) = (true, BTreeSet::new());
        for (i, edge) in edges.iter().enumerate() {
            match self.read_edge(edge, pointer(&at, i), problems) {
                Some(edge) if !seen.insert((edge.from, edge.to, Arc::clone(&edge.port))) => {
                    problems.add(pointer(&at, i), "duplicate", "the same edge is there already");
                }
                Some(edge) => {
                    self.nodes[edge.from].outgoing.push(self.edges.len());
                    self.nodes[edge.to].incoming.push(self.edges.len());
                    self.edges.push(edge);
                }
                None => sound = false,
            }
        }
        sound
    }

    fn read_edge(&self, edge: &Json, at: String, problems: &mut Problems) -> Option<Edge> {
        let mut fields = Fields::of(edge, at, problems)?;
        let from = self.read_end("from", &mut fields, problems);
        let to = self.read_end("to", &mut fields, problems);
        let port: Arc<str> = fields.string("port", problems).unwrap_or(OUT).into();
        let at_port = fields.at("port");
        let at = fields.pointer.clone();
        fields.finish(problems);
        let (from, to) = (from?, to?);
        if from == to {
            problems.add(at, "cycle", format!("node \"{}\" cannot follow itself", self.nodes[from].id));
            return None;
        }
        let ports = self.nodes[from].ports();
        if !ports.is_empty() && !ports.contains(&port) {
            let list: Vec<_> = ports.iter().map(|port| format!("\"{port}\"")).collect();
            let (kind, id) = (self.nodes[from].kind.name, &self.nodes[from].id);
            let message = format!("{kind} node \"{id}\" has no port \"{port}\"; it has {}", list.join(", "));
            problems.add(at_port, "port", message);
        }
        Some(Edge { from, to, port })
    }

    fn read_end(&self, key: &'static str, fields: &mut Fields, problems: &mut Problems) -> Option<usize> {
        fields.required(key, problems)?;
        let id = fields.string(key, problems)?;
        let found = self.index(id);
        if found.is_none() {
            problems.add(fields.at(key), "unknown_node", format!("there is no node \"{id}\""));
        }
        found
    }
}

impl NodeDef {
    /// JSON pointer of its `with`.
    #[must_use]
    pub fn with_pointer(&self) -> String {
        pointer(&self.place, "with")
    }

    /// The ports edges may hang on; empty if the node's own definition is too broken to know.
    #[must_use]
    pub fn ports(&self) -> Vec<Arc<str>> {
        let mut ports = self.node.ports();
        if !ports.is_empty() {
            ports.push(Arc::from(ERROR_PORT));
            if self.kind.work.can_be_late() {
                ports.push(Arc::from(TIMEOUT_PORT));
            }
        }
        ports
    }
}

/// Whether a workflow may have this name: 1 to [`MAX_NAME_BYTES`] bytes without control characters.
#[must_use]
pub fn is_workflow_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(|c: char| c.is_control())
}

fn read_name(fields: &mut Fields, problems: &mut Problems) -> Option<Arc<str>> {
    fields.required("name", problems)?;
    let name = fields.string("name", problems)?;
    if !is_workflow_name(name) {
        let message = format!("\"name\" must have 1 to {MAX_NAME_BYTES} bytes and no control characters");
        problems.add(fields.at("name"), "range", message);
    }
    Some(name.into())
}

fn read_contract(key: &'static str, fields: &mut Fields, problems: &mut Problems) -> Option<Contract> {
    let schema = fields.get(key)?;
    Contract::compile(schema, &fields.at(key), problems)
}

fn read_vars(fields: &mut Fields, problems: &mut Problems) -> Json {
    let vars = fields.get("vars").cloned().unwrap_or_else(|| Json::object([] as [(&str, Json); 0]));
    if vars.as_obj().is_none() {
        problems.add(fields.at("vars"), "type", "\"vars\" must be an object");
    }
    vars
}

/// Reads the nodes of a graph; says whether each one's own definition is sound.
fn read_nodes(
    fields: &mut Fields,
    taken: &mut Ids,
    depth: usize,
    problems: &mut Problems,
) -> (Vec<NodeDef>, bool) {
    let at = fields.at("nodes");
    if fields.required("nodes", problems).is_none() {
        return (Vec::new(), false);
    }
    let nodes = fields.array("nodes", problems).unwrap_or_default();
    if nodes.is_empty() {
        problems.add(&at, "missing", "a workflow, and a body, has at least one node");
    }
    if taken.0.len() + nodes.len() > MAX_NODES {
        problems.add(&at, "limit", format!("a workflow has at most {MAX_NODES} nodes"));
        return (Vec::new(), false);
    }
    let (mut read, mut complete) = (Vec::new(), true);
    for (i, node) in nodes.iter().enumerate() {
        match read_node(node, pointer(&at, i), taken, depth, problems) {
            Some((node, sound)) => {
                complete &= sound;
                read.push(node);
            }
            None => complete = false,
        }
    }
    (read, complete)
}

fn read_node(
    value: &Json,
    place: String,
    taken: &mut Ids,
    depth: usize,
    problems: &mut Problems,
) -> Option<(NodeDef, bool)> {
    let mut fields = Fields::of(value, place.clone(), problems)?;
    let id = read_id(&mut fields, problems);
    if let Some(id) = &id {
        match taken.0.get(id) {
            Some(twin) => {
                let message = format!("node id \"{id}\" is taken by {twin}");
                problems.add(pointer(&place, "id"), "duplicate", message);
            }
            None => drop(taken.0.insert(Arc::clone(id), place)),
        }
    }
    let join = fields.word("join", &[("all", Join::All), ("any", Join::Any)], problems).unwrap_or(Join::All);
    // Where the builder drew it: of no meaning here.
    fields.get("position");
    fields.get("label");
    let compensate = fields.get("compensate").and_then(|value| {
        let mut below = Fields::of(value, fields.at("compensate"), problems)?;
        let id = Arc::clone(id.as_ref()?);
        let read = read_work(id, &mut below, None, problems);
        let at = below.at("type");
        below.finish(problems);
        if !read.0.kind.work.can_compensate() {
            let names = node::NODE_TYPES.iter().filter(|kind| kind.work.can_compensate());
            let list: Vec<_> = names.map(|kind| format!("\"{}\"", kind.name)).collect();
            problems.add(at, "unsupported", format!("what undoes a node is one of {}", list.join(", ")));
        }
        Some(read)
    });
    let (mut node, mut sound) = read_work(id?, &mut fields, Some((taken, depth)), problems);
    if let Some((undo, undo_sound)) = compensate {
        sound &= undo_sound;
        node.compensate = Some(Box::new(undo));
    }
    node.join = join;
    fields.finish(problems);
    Some((node, sound))
}

/// Reads what a node does: type, retries, time limits, `with` and body. `inside` is given where a body may stand.
fn read_work(
    id: Arc<str>,
    fields: &mut Fields,
    inside: Option<(&mut Ids, usize)>,
    problems: &mut Problems,
) -> (NodeDef, bool) {
    let kind = read_kind(fields, problems);
    let retry = read_retry(fields, kind, problems);
    let (timeout_ms, deadline_ms) = read_timeouts(fields, kind, problems);
    let empty = Json::object([] as [(&str, Json); 0]);
    let with = fields.get("with").unwrap_or(&empty);
    let mut body = None;
    let node = kind.and_then(|kind| {
        let mut with = Fields::of(with, fields.at("with"), problems)?;
        let before = problems.0.len();
        let node = (kind.compile)(&mut with, problems);
        let mut sound = problems.0.len() == before;
        if let (Work::Body, Some((taken, depth))) = (kind.work, inside) {
            let (graph, complete) = read_body(&mut with, taken, depth + 1, problems)?;
            sound &= complete;
            body = Some(graph);
        }
        with.finish(problems);
        node.filter(|_| sound)
    });
    let complete = node.is_some();
    if let (Some(kind), Some(node), Some(limit)) = (kind, &node, timeout_ms) {
        check_attempt_limit(kind, node.as_ref(), limit, fields.at("timeout"), problems);
    }
    let node = NodeDef {
        id,
        kind: kind.unwrap_or(node::NODE_TYPES[0]),
        node: node.unwrap_or_else(|| Box::new(node::Broken)),
        join: Join::All,
        retry,
        timeout_ms,
        deadline_ms,
        body,
        compensate: None,
        incoming: Vec::new(),
        outgoing: Vec::new(),
        rank: 0,
        place: fields.pointer.clone(),
    };
    (node, complete)
}

/// A body: nodes and edges, or a child workflow for each item.
fn read_body(
    with: &mut Fields,
    taken: &mut Ids,
    depth: usize,
    problems: &mut Problems,
) -> Option<(Graph, bool)> {
    let at = with.at("body");
    let value = with.required("body", problems)?;
    if depth > MAX_BODY_DEPTH {
        problems.add(at, "limit", format!("bodies are nested at most {MAX_BODY_DEPTH} deep"));
        return None;
    }
    let mut fields = Fields::of(value, at, problems)?;
    if fields.get("workflow").is_none() {
        let read = Graph::read(&mut fields, taken, depth, problems);
        fields.finish(problems);
        return Some(read);
    }
    let node = Json::object([("type", Json::from("workflow")), ("with", value.clone())]);
    let mut fields = Fields::of(&node, with.at("body"), problems)?;
    let (node, sound) = read_work(Arc::from("workflow"), &mut fields, None, problems);
    let by_id = BTreeMap::from([(Arc::clone(&node.id), 0)]);
    Some((Graph { nodes: vec![node], by_id, sound: true, ..Graph::default() }, sound))
}

/// The time limits: `timeout` is an attempt's where there are attempts, else the whole node's; `total_timeout` is
/// the whole node's.
fn read_timeouts(
    fields: &mut Fields,
    kind: Option<&NodeType>,
    problems: &mut Problems,
) -> (Option<u64>, Option<u64>) {
    let timeout = read_limit("timeout", fields, problems);
    let total = read_limit("total_timeout", fields, problems);
    let Some(kind) = kind else { return (timeout, total) };
    for (name, limit) in [("timeout", timeout), ("total_timeout", total)] {
        if limit.is_some() && !kind.work.can_be_late() {
            let message = format!("a {} node has no \"{name}\"", kind.name);
            problems.add(fields.at(name), "unsupported", message);
        }
    }
    if kind.work.has_attempt_timeout() {
        return (timeout, total);
    }
    if timeout.is_some() && total.is_some() {
        let message =
            format!("a {} node has no attempts: give \"timeout\" or \"total_timeout\", not both", kind.name);
        problems.add(fields.at("total_timeout"), "duplicate", message);
    }
    (None, timeout.or(total))
}

/// What no executor would keep is refused rather than cut.
fn check_attempt_limit(kind: &NodeType, node: &dyn Node, limit: u64, at: String, problems: &mut Problems) {
    match node.longest_attempt_ms() {
        Some(0) => problems.add(at, "unsupported", format!("a {} node has no \"timeout\"", kind.name)),
        Some(longest) if limit > longest => {
            let message =
                format!("an attempt of a {} node may take at most {} s", kind.name, longest / 1_000);
            problems.add(at, "range", message);
        }
        _ => {}
    }
}

fn read_limit(name: &'static str, fields: &mut Fields, problems: &mut Problems) -> Option<u64> {
    let limit = fields.duration_ms(name, problems);
    if limit == Some(0) {
        problems.add(fields.at(name), "range", format!("\"{name}\" must be more than nothing"));
    }
    limit
}

fn read_id(fields: &mut Fields, problems: &mut Problems) -> Option<Arc<str>> {
    fields.required("id", problems)?;
    let id = fields.string("id", problems)?;
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || id.len() > MAX_NAME_BYTES || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        let message = format!(
            "a node id has 1 to {MAX_NAME_BYTES} letters, digits and underscores and does not begin with a digit"
        );
        problems.add(fields.at("id"), "range", message);
    }
    Some(id.into())
}

fn read_kind(fields: &mut Fields, problems: &mut Problems) -> Option<&'static NodeType> {
    fields.required("type", problems)?;
    let name = fields.string("type", problems)?;
    let kind = node::by_name(name);
    if kind.is_none() {
        let list: Vec<_> = node::NODE_TYPES.iter().map(|kind| format!("\"{}\"", kind.name)).collect();
        let message = format!("there is no node type \"{name}\"; there are {}", list.join(", "));
        problems.add(fields.at("type"), "unknown_type", message);
    }
    kind
}

fn read_retry(fields: &mut Fields, kind: Option<&NodeType>, problems: &mut Problems) -> RetryPolicy {
    // What an executor does is tried again by default: networks fail. A function of the database, or a child
    // that has retried already, is not.
    let default = match kind.map(|kind| kind.work) {
        Some(Work::Job) => RetryPolicy::default(),
        _ => RetryPolicy::never(),
    };
    let at = fields.at("retry");
    let Some(value) = fields.get("retry") else { return default };
    if let Some(kind) = kind
        && !kind.work.is_retried()
    {
        let message = format!("a {} node is not retried; its result is always the same", kind.name);
        problems.add(at, "unsupported", message);
        return default;
    }
    let Some(mut retry) = Fields::of(value, at, problems) else { return default };
    let mut policy = RetryPolicy::default();
    if let Some(n) = retry.integer("max_attempts", 1..=1_000, problems) {
        policy.max_attempts = u32::try_from(n).unwrap_or(1);
    }
    policy.initial_ms = retry.duration_ms("initial", problems).unwrap_or(policy.initial_ms);
    policy.max_ms = retry.duration_ms("max", problems).unwrap_or(policy.max_ms);
    if let Some(factor) = retry.get("factor") {
        match factor.as_f64().filter(|factor| (1.0..=100.0).contains(factor)) {
            Some(factor) => policy.factor = factor,
            None => problems.add(retry.at("factor"), "range", "\"factor\" must be a number from 1 to 100"),
        }
    }
    let jitters = [("none", Jitter::None), ("full", Jitter::Full), ("equal", Jitter::Equal)];
    policy.jitter = retry.word("jitter", &jitters, problems).unwrap_or(policy.jitter);
    if policy.max_ms < policy.initial_ms {
        problems.add(retry.at("max"), "range", "\"max\" must not be shorter than \"initial\"");
    }
    policy.max_elapsed_ms = read_limit("max_elapsed", &mut retry, problems);
    if let Some(delays) = read_delays(&mut retry, problems) {
        policy.max_attempts = u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1);
        policy.delays_ms = Some(delays);
        if retry.get("jitter").is_none() {
            policy.jitter = Jitter::None;
        }
    }
    policy.only_on = read_matchers("only_on", &mut retry, problems);
    policy.never_on = read_matchers("never_on", &mut retry, problems).unwrap_or_default();
    retry.finish(problems);
    policy
}

/// The waits one by one, which say of the attempts how many there are and when.
fn read_delays(retry: &mut Fields, problems: &mut Problems) -> Option<Vec<u64>> {
    let at = retry.at("delays");
    let list = retry.array("delays", problems)?;
    if list.is_empty() || list.len() > MAX_DELAYS {
        problems.add(&at, "limit", format!("\"delays\" has from 1 to {MAX_DELAYS} durations"));
    }
    for name in ["max_attempts", "initial", "factor", "max"] {
        if retry.get(name).is_some() {
            let message = format!("\"delays\" says what \"{name}\" would: leave one of them out");
            problems.add(retry.at(name), "conflict", message);
        }
    }
    let mut delays = Vec::new();
    for (i, value) in list.iter().enumerate() {
        match value.as_str().map(parse_duration_ms) {
            Some(Ok(millis)) => delays.push(millis),
            Some(Err(message)) => problems.add(pointer(&at, i), "range", message),
            None => problems.add(pointer(&at, i), "type", "must be a duration such as \"5m\""),
        }
    }
    Some(delays)
}

fn read_matchers(name: &'static str, retry: &mut Fields, problems: &mut Problems) -> Option<Vec<Matcher>> {
    let at = retry.at(name);
    let list = retry.array(name, problems)?;
    let mut matchers = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let text = value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|n| n.to_string()));
        match text.as_deref().and_then(Matcher::parse) {
            Some(matcher) => matchers.push(matcher),
            None => problems.add(
                pointer(&at, i),
                "value",
                "must be an error class (\"timeout\", \"http.*\"), an HTTP status (429) or a class of them (\"5xx\")",
            ),
        }
    }
    Some(matchers)
}
