//! A workflow definition, read, checked and compiled once per published version.

mod fields;
mod graph;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use fields::{Fields, Problem, Problems, pointer};

use crate::expr;
use crate::json::Json;
use crate::node::{self, Node, NodeType};
use crate::retry::{Jitter, RetryPolicy};
use crate::state::OUT;
use crate::template;

/// Version of the definition's schema this release writes and reads.
pub const SCHEMA_VERSION: u32 = 1;
/// Version of the expression profile this release evaluates.
pub const EXPRESSION_PROFILE: &str = expr::PROFILE;
/// Most nodes in one workflow.
pub const MAX_NODES: usize = 1_000;
/// Most edges in one workflow.
pub const MAX_EDGES: usize = 5_000;
/// Longest workflow name and node id, in bytes.
pub const MAX_NAME_BYTES: usize = 63;
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
    /// Its id, unique in the workflow.
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
    /// Incoming edges, as indexes into [`Workflow::edges`].
    pub incoming: Vec<usize>,
    /// Outgoing edges, as indexes into [`Workflow::edges`].
    pub outgoing: Vec<usize>,
    /// Its place in the topological order.
    pub rank: usize,
}

/// A compiled edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Source node, as an index into [`Workflow::nodes`].
    pub from: usize,
    /// Target node, as an index into [`Workflow::nodes`].
    pub to: usize,
    /// The source's port it hangs on.
    pub port: Arc<str>,
}

/// A definition that was found to be without fault, ready to run.
#[derive(Debug)]
pub struct Workflow {
    /// Its name.
    pub name: Arc<str>,
    /// `.vars` of every run.
    pub vars: Json,
    /// The nodes, in the definition's order.
    pub nodes: Vec<NodeDef>,
    /// The edges, in the definition's order.
    pub edges: Vec<Edge>,
    /// Node indexes in topological order.
    pub order: Vec<usize>,
    by_id: BTreeMap<Arc<str>, usize>,
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

    /// The nodes whose outputs make the run's output: those with no edge on a port of success.
    pub fn leaves(&self) -> impl Iterator<Item = &NodeDef> {
        self.nodes.iter().filter(|node| {
            node.outgoing.iter().all(|edge| matches!(&*self.edges[*edge].port, ERROR_PORT | TIMEOUT_PORT))
        })
    }

    fn read(definition: &Json, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(definition, String::new(), problems)?;
        let name = read_name(&mut fields, problems);
        if let Some(schema) = fields.get("input_schema")
            && schema.as_obj().is_none_or(|schema| !schema.is_empty())
        {
            let message =
                "input schemas are not enforced by this release; leave \"input_schema\" out or empty";
            problems.add(fields.at("input_schema"), "unsupported", message);
        }
        let vars = read_vars(&mut fields, problems);
        fields.get("description").inspect(|text| {
            if text.as_str().is_none() {
                problems.add(pointer("", "description"), "type", "\"description\" must be a string");
            }
        });
        let nodes = read_nodes(&mut fields, problems);
        let mut workflow = Self {
            name: name.unwrap_or_default(),
            vars,
            by_id: nodes.iter().enumerate().rev().map(|(i, node)| (Arc::clone(&node.def.id), i)).collect(),
            edges: Vec::new(),
            order: Vec::new(),
            nodes: Vec::new(),
        };
        let places: Vec<_> = nodes.iter().map(|node| node.place.clone()).collect();
        let complete = nodes.iter().all(|node| node.complete);
        workflow.nodes = nodes.into_iter().map(|node| node.def).collect();
        let sound = workflow.read_edges(&mut fields, problems);
        fields.finish(problems);
        graph::check(&mut workflow, &places, sound, problems);
        complete.then_some(workflow)
    }

    /// Reads the edges; true if every one of them connects two known nodes.
    fn read_edges(&mut self, fields: &mut Fields, problems: &mut Problems) -> bool {
        let at = fields.at("edges");
        let edges = fields.array("edges", problems).unwrap_or_default();
        if edges.len() > MAX_EDGES {
            problems.add(at, "limit", format!("a workflow has at most {MAX_EDGES} edges"));
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
    /// The ports edges may hang on; empty if the node's own definition is too broken to know.
    #[must_use]
    pub fn ports(&self) -> Vec<Arc<str>> {
        let mut ports = self.node.ports();
        if !ports.is_empty() {
            ports.push(Arc::from(ERROR_PORT));
            if self.kind.is_job {
                ports.push(Arc::from(TIMEOUT_PORT));
            }
        }
        ports
    }
}

fn read_name(fields: &mut Fields, problems: &mut Problems) -> Option<Arc<str>> {
    fields.required("name", problems)?;
    let name = fields.string("name", problems)?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(|c: char| c.is_control()) {
        let message = format!("\"name\" must have 1 to {MAX_NAME_BYTES} bytes and no control characters");
        problems.add(fields.at("name"), "range", message);
    }
    Some(name.into())
}

fn read_vars(fields: &mut Fields, problems: &mut Problems) -> Json {
    let vars = fields.get("vars").cloned().unwrap_or_else(|| Json::object([] as [(&str, Json); 0]));
    if vars.as_obj().is_none() {
        problems.add(fields.at("vars"), "type", "\"vars\" must be an object");
    }
    vars
}

/// A node as read, with where it stands and whether its own definition is sound.
struct ReadNode {
    def: NodeDef,
    place: String,
    complete: bool,
}

fn read_nodes(fields: &mut Fields, problems: &mut Problems) -> Vec<ReadNode> {
    let at = fields.at("nodes");
    if fields.required("nodes", problems).is_none() {
        return Vec::new();
    }
    let nodes = fields.array("nodes", problems).unwrap_or_default();
    if nodes.is_empty() {
        problems.add(&at, "missing", "a workflow has at least one node");
    }
    if nodes.len() > MAX_NODES {
        problems.add(&at, "limit", format!("a workflow has at most {MAX_NODES} nodes"));
        return Vec::new();
    }
    let mut read: Vec<ReadNode> = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let place = pointer(&at, i);
        let Some(node) = read_node(node, place.clone(), problems) else { continue };
        if let Some(twin) = read.iter().find(|other| other.def.id == node.def.id) {
            let message = format!("node id \"{}\" is taken by {}", node.def.id, twin.place);
            problems.add(pointer(&place, "id"), "duplicate", message);
        }
        read.push(node);
    }
    read
}

fn read_node(value: &Json, place: String, problems: &mut Problems) -> Option<ReadNode> {
    let mut fields = Fields::of(value, place.clone(), problems)?;
    let id = read_id(&mut fields, problems);
    let kind = read_kind(&mut fields, problems);
    let join = fields.word("join", &[("all", Join::All), ("any", Join::Any)], problems).unwrap_or(Join::All);
    // Where the builder drew it: of no meaning here.
    fields.get("position");
    fields.get("label");
    let retry = read_retry(&mut fields, kind, problems);
    let timeout_ms = fields.duration_ms("timeout", problems);
    if let (Some(kind), Some(_)) = (kind, timeout_ms)
        && !kind.is_job
    {
        problems.add(fields.at("timeout"), "unsupported", format!("a {} node has no timeout", kind.name));
    }
    if timeout_ms == Some(0) {
        problems.add(fields.at("timeout"), "range", "\"timeout\" must be more than nothing");
    }
    let empty = Json::object([] as [(&str, Json); 0]);
    let with = fields.get("with").unwrap_or(&empty);
    let node = kind.and_then(|kind| {
        let mut with = Fields::of(with, fields.at("with"), problems)?;
        let before = problems.0.len();
        let node = (kind.compile)(&mut with, problems);
        with.finish(problems);
        node.filter(|_| problems.0.len() == before)
    });
    fields.finish(problems);
    Some(ReadNode {
        complete: node.is_some(),
        def: NodeDef {
            id: id?,
            kind: kind.unwrap_or(node::NODE_TYPES[0]),
            node: node.unwrap_or_else(|| Box::new(node::Broken)),
            join,
            retry,
            timeout_ms,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            rank: 0,
        },
        place,
    })
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
    let default =
        if kind.is_some_and(|kind| kind.is_job) { RetryPolicy::default() } else { RetryPolicy::never() };
    let at = fields.at("retry");
    let Some(value) = fields.get("retry") else { return default };
    if let Some(kind) = kind
        && !kind.is_job
    {
        problems.add(
            at,
            "unsupported",
            format!("a {} node is not retried; its result is always the same", kind.name),
        );
        return default;
    }
    let Some(mut retry) = Fields::of(value, at, problems) else { return default };
    let mut policy = default;
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
    let jitters = [("none", Jitter::None), ("full", Jitter::Full)];
    policy.jitter = retry.word("jitter", &jitters, problems).unwrap_or(policy.jitter);
    if policy.max_ms < policy.initial_ms {
        problems.add(retry.at("max"), "range", "\"max\" must not be shorter than \"initial\"");
    }
    retry.finish(problems);
    policy
}
