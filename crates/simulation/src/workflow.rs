//! Random workflows whose results do not depend on the order in which things happen, and what they come to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use meshhook_engine::definition::Workflow;
use meshhook_engine::json::Json;
use meshhook_engine::simulate::{Mocks, simulate};
use meshhook_engine::state::RunStatus;
use meshhook_engine::time::Timestamp;

/// The workflow that clients start, and the one that its nodes start.
pub const PARENT: &str = "parent";
/// See [`PARENT`].
pub const CHILD: &str = "child";

/// When everything begins: microseconds since 1970.
pub const BEGIN: i64 = 1_700_000_000_000_000;

/// Compiled workflows that are kept: shrinking tries the same ones again and again.
const MAX_COMPILED: usize = 4_096;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Work for an executor.
    Task,
    /// A function of the database.
    Sql,
    /// Work for an executor, whose answer the engine judges.
    Http,
    /// A message to the one stream.
    Emit,
    /// Two seconds.
    Delay,
    /// A signal of its own name.
    Wait,
    /// A task for each of three items, two at a time.
    Map,
    /// A run of the other workflow.
    Child,
    /// No work.
    Transform,
    /// A choice by the run's input.
    Branch,
}

/// How often an attempt fails before one succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    /// The first so many attempts fail.
    Fails(u32),
    /// It never succeeds, and says so.
    Never,
}

/// A node of a workflow. All of them are tried until they succeed or say that they never will.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What it is.
    pub kind: Kind,
    /// What becomes of its attempts, where it has any.
    pub luck: Luck,
    /// Which earlier nodes it follows, as far as there are any: numbers that pick one.
    pub after: Vec<u8>,
}

/// Both workflows, ready to run.
#[derive(Clone, Debug)]
pub struct Workflows {
    /// The one that clients start.
    pub parent: Rc<Workflow>,
    /// The one that nodes start.
    pub child: Rc<Workflow>,
    luck: BTreeMap<String, Luck>,
    /// The signals that the parent's nodes wait for.
    pub signals: Vec<String>,
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Its status.
    pub status: RunStatus,
    /// Its output, without what depends on an order.
    pub output: Option<Json>,
}

/// What an attempt comes to outside of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeds.
    Done,
    /// It fails, and another attempt may not.
    Failed,
    /// It fails for good.
    Refused,
}

impl Workflows {
    /// Compiles both.
    pub fn of(parent: &[Shape], child: &[Shape]) -> Self {
        let luck = |prefix: &'static str, shapes: &[Shape]| -> Vec<(String, Luck)> {
            shapes.iter().enumerate().map(|(i, shape)| (format!("{prefix}{i}"), luck_of(shape))).collect()
        };
        let is_wait = |(i, shape): (usize, &Shape)| (shape.kind == Kind::Wait).then(|| format!("go{i}"));
        Self {
            parent: compiled(&definition(PARENT, "p", parent)),
            child: compiled(&definition(CHILD, "c", child)),
            luck: luck("p", parent).into_iter().chain(luck("c", child)).collect(),
            signals: parent.iter().enumerate().filter_map(is_wait).collect(),
        }
    }

    /// The workflow of a name.
    pub fn named(&self, name: &str) -> &Rc<Workflow> {
        if name == CHILD { &self.child } else { &self.parent }
    }

    /// What an attempt of a node comes to.
    pub fn outcome(&self, path: &str, attempt: u32) -> Outcome {
        // What a body does for an item has the luck of its map.
        match self.luck.get(path.split('/').next().unwrap_or(path)) {
            Some(Luck::Fails(times)) if attempt <= *times => Outcome::Failed,
            Some(Luck::Never) => Outcome::Refused,
            _ => Outcome::Done,
        }
    }

    /// How a run of the parent ends, whatever happens on the way, unless somebody cancels it.
    pub fn prediction(&self, input: i64) -> End {
        let from = Timestamp::from_micros(BEGIN);
        let input = Json::object([("n", Json::from(input))]);
        let simulated = |workflow: &Workflow, child: &str| {
            let mocks = format!("{{{}}}", self.mocks(workflow, child).join(","));
            let mocks =
                Mocks::read(&Json::parse(&mocks).expect("mocks are JSON")).expect("mocks can be read");
            simulate(workflow, input.clone(), &mocks, from).state
        };
        let child = simulated(&self.child, "");
        let child = match &child.output {
            Some(output) => format!(r#"{{"output":{output}}}"#),
            None => r#"{"error":{"class":"task"}}"#.to_owned(),
        };
        let parent = simulated(&self.parent, &child);
        assert!(parent.status.is_terminal(), "the engine alone brings a run to its end");
        End { status: parent.status, output: parent.output.as_ref().map(without_order) }
    }

    fn mocks(&self, workflow: &Workflow, child: &str) -> Vec<String> {
        let nodes = workflow.graph.nodes.iter();
        let mock = |id: &str, kind: &str| {
            let outcome = |attempt| match (self.outcome(id, attempt), kind) {
                (Outcome::Failed, "http") => r#"{"output":{"status":503}}"#,
                (Outcome::Refused, "http") => r#"{"output":{"status":404}}"#,
                (Outcome::Failed, _) => r#"{"error":{"class":"task"}}"#,
                (Outcome::Refused, _) => r#"{"error":{"class":"task","retryable":false}}"#,
                (Outcome::Done, "http") => r#"{"output":{"status":200}}"#,
                (Outcome::Done, "emit") => r#"{"output":{"stream":"s-1"}}"#,
                (Outcome::Done, _) => r#"{"output":{"n":7}}"#,
            };
            let outcomes: Vec<&str> = (1..=4).map(outcome).collect();
            outcomes.join(",")
        };
        nodes
            .filter_map(|node| match node.kind.name {
                kind @ ("task" | "http" | "sql" | "emit") => {
                    Some(format!(r#""{}":[{}]"#, node.id, mock(&node.id, kind)))
                }
                "map" => Some(format!(r#""{0}/*/{0}_each":[{1}]"#, node.id, mock(&node.id, "task"))),
                "wait" => Some(format!(r#""{}":{{"output":1}}"#, node.id)),
                "workflow" => Some(format!(r#""{}":{child}"#, node.id)),
                _ => None,
            })
            .collect()
    }
}

/// A document without the fields that tell of an order.
pub fn without_order(document: &Json) -> Json {
    if let Some(fields) = document.as_obj() {
        let told = ["call", "position", "global_position"];
        let kept = fields.iter().filter(|(name, _)| !told.contains(&&***name));
        return Json::object(kept.map(|(name, value)| (name.clone(), without_order(value))));
    }
    match document.as_arr() {
        Some(items) => Json::array(items.iter().map(without_order)),
        None => document.clone(),
    }
}

/// What the database does always comes to something in the end.
fn luck_of(shape: &Shape) -> Luck {
    match (shape.kind, shape.luck) {
        (Kind::Sql, Luck::Never) => Luck::Fails(1),
        (Kind::Emit, _) => Luck::Fails(0),
        (_, luck) => luck,
    }
}

fn definition(name: &str, prefix: &str, shapes: &[Shape]) -> String {
    let (mut nodes, mut edges) = (Vec::new(), BTreeSet::new());
    for (i, shape) in shapes.iter().enumerate() {
        let retry = r#""retry":{"max_attempts":1000,"initial":"1s","jitter":"none"}"#;
        let what = match shape.kind {
            Kind::Task => format!(r#""type":"task",{retry},"with":{{"input":{{"n":"{{{{ .input.n }}}}"}}}}"#),
            Kind::Sql => format!(r#""type":"sql",{retry},"with":{{"function":"app.f"}}"#),
            Kind::Http => format!(r#""type":"http",{retry},"with":{{"url":"http://localhost/"}}"#),
            Kind::Emit => format!(r#""type":"emit",{retry},"with":{{"stream":"s-1","message_type":"T"}}"#),
            Kind::Delay => r#""type":"delay","with":{"duration":"2s"}"#.to_owned(),
            Kind::Wait => format!(r#""type":"wait","timeout":"1d","with":{{"signal":"go{i}"}}"#),
            Kind::Map => format!(
                r#""type":"map","with":{{"items":[1,2,3],"concurrency":2,"body":{{"nodes":[{{"id":"{prefix}{i}_each","type":"task",{retry}}}]}}}}"#
            ),
            Kind::Child => {
                format!(r#""type":"workflow","retry":{{"max_attempts":1}},"with":{{"workflow":"{CHILD}","input":{{"n":"{{{{ .input.n }}}}"}}}}"#)
            }
            Kind::Transform => r#""type":"transform","with":{"output":{"n":"{{ .input.n * 2 }}"}}"#.to_owned(),
            Kind::Branch => {
                r#""type":"branch","with":{"cases":[{"port":"odd","when":".input.n % 2 == 1"}],"default":"even"}"#.to_owned()
            }
        };
        nodes.push(format!(r#"{{"id":"{prefix}{i}",{what}}}"#));
        for pick in shape.after.iter().filter(|_| i > 0) {
            let from = usize::from(*pick) % i;
            let port = match (shapes[from].kind, pick / 8 % 4) {
                (Kind::Branch, 0 | 1) => "odd",
                (Kind::Branch, _) => "even",
                (Kind::Task | Kind::Http | Kind::Map | Kind::Child, 3) => "error",
                _ => "out",
            };
            edges.insert(format!(r#"{{"from":"{prefix}{from}","port":"{port}","to":"{prefix}{i}"}}"#));
        }
    }
    let edges: Vec<String> = edges.into_iter().collect();
    format!(r#"{{"name":"{name}","nodes":[{}],"edges":[{}]}}"#, nodes.join(","), edges.join(","))
}

fn compiled(definition: &str) -> Rc<Workflow> {
    thread_local! {
        static COMPILED: RefCell<BTreeMap<String, Rc<Workflow>>> = const { RefCell::new(BTreeMap::new()) };
    }
    COMPILED.with_borrow_mut(|known| {
        if let Some(workflow) = known.get(definition) {
            return Rc::clone(workflow);
        }
        let document = Json::parse(definition).expect("a definition is JSON");
        let workflow =
            Workflow::compile(&document).unwrap_or_else(|problems| panic!("{problems:?} in {definition}"));
        if known.len() >= MAX_COMPILED {
            known.clear();
        }
        let workflow = Rc::new(workflow);
        known.insert(definition.to_owned(), Rc::clone(&workflow));
        workflow
    })
}
