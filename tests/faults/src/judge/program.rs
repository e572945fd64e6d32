//! Random workflows whose end is a function of definition and input alone, whatever the order of what happens and
//! however often it is tried. So what the engine predicts of them is exact.
//!
//! Each step has one way out that is always taken (unless the step is fatal), joins of kind `any` stand only where one
//! of the ways is dead, and whether work fails for good is written in the request.

use fastrand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The queue of the judge's own executors.
pub const QUEUE: &str = "judge";

/// The workflow that is started when a run fails.
pub const ALARM: &str = "alarm";

/// Where calls go until the service has its address.
const NOWHERE: &str = "http://service.invalid";

/// Values stay below this.
pub const MODULUS: i64 = 1009;

/// How deep bodies are nested, and children of children.
const MAX_DEPTH: u32 = 2;

/// A workflow's document, and where its runs fail, if they do.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The document.
    pub json: Value,
    /// The outermost node that fails the run.
    pub fatal_at: Option<String>,
}

impl Definition {
    /// The workflow's name.
    pub fn name(&self) -> &str {
        self.json["name"].as_str().unwrap_or_default()
    }

    /// The document with the address of the service.
    pub fn calling(&self, service: &str) -> Value {
        let mut json = self.json.clone();
        json["vars"]["api"] = json!(service);
        json
    }

    /// The outermost nodes that come before the one that fails the run, with itself.
    pub fn early(&self) -> BTreeSet<String> {
        let mut early: BTreeSet<String> = self.fatal_at.iter().cloned().collect();
        let edges = self.json["edges"].as_array();
        loop {
            let before = early.len();
            for edge in edges.into_iter().flatten() {
                if early.contains(edge["to"].as_str().unwrap_or_default()) {
                    early.extend(edge["from"].as_str().map(str::to_owned));
                }
            }
            if early.len() == before {
                return early;
            }
        }
    }
}

/// A signal that the judge sends.
#[derive(Clone, Debug)]
pub struct Signal {
    pub name: String,
    pub payload: Value,
}

/// People who are asked, and what they say.
#[derive(Clone, Debug)]
pub struct Approval {
    pub node: String,
    pub voices: u32,
    pub approved: bool,
}

/// A workflow with the children it starts, and what people do to its runs.
#[derive(Clone, Debug)]
pub struct Program {
    /// Children first; the last one is the program itself.
    pub definitions: Vec<Definition>,
    pub signals: Vec<Signal>,
    pub approvals: Vec<Approval>,
}

impl Program {
    /// The workflow that runs are started of.
    pub fn name(&self) -> &str {
        self.definitions.last().map(Definition::name).unwrap_or_default()
    }
}

/// The handler of failures: one row in the ledger.
pub fn alarm() -> Definition {
    let json = json!({"name": ALARM, "nodes": [
        {"id": "alarm", "type": "sql", "retry": retry("none"), "timeout": "20s",
         "with": {"function": "judge.act", "input": {"key": "{{ .input.input.tag }}!:alarm", "v": 1}}}]});
    Definition { json, fatal_at: None }
}

/// Makes a program.
pub fn program(seed: u64, name: &str) -> Program {
    let mut maker = Maker {
        rng: Rng::with_seed(seed),
        root: name.to_owned(),
        ids: 0,
        has_answered: false,
        program: Program { definitions: Vec::new(), signals: Vec::new(), approvals: Vec::new() },
    };
    let fatal = maker.rng.u8(..10) < 3;
    maker.definition(name, 0, fatal);
    maker.program
}

fn retry(jitter: &str) -> Value {
    json!({"max_attempts": 1000, "initial": "50ms", "factor": 2, "max": "400ms", "jitter": jitter, "never_on": ["sql.22000"]})
}

/// A hole in a template.
fn hole(expression: &str) -> String {
    format!("{{{{ {expression} }}}}")
}

struct Maker {
    rng: Rng,
    root: String,
    ids: u32,
    has_answered: bool,
    program: Program,
}

/// A graph in the making.
struct Graph {
    /// How many bodies are around it.
    depth: u32,
    /// How many parents the run has.
    generation: u32,
    /// Keys of effects begin with this template.
    prefix: String,
    /// A number that is known everywhere in it.
    base: &'static str,
    undoes: bool,
    /// Whether everything follows the first step, which may fail: what stood beside it would be a matter of luck.
    is_gated: bool,
    nodes: Vec<Value>,
    edges: Vec<Value>,
    exits: Vec<Exit>,
}

/// Where a step ends.
#[derive(Clone, Debug)]
struct Exit {
    node: String,
    port: &'static str,
    /// An expression for a number that came out.
    value: String,
    is_used: bool,
}

impl Graph {
    fn exit(&mut self, node: &str, port: &'static str, value: String) {
        self.exits.push(Exit { node: node.to_owned(), port, value, is_used: false });
    }

    /// Draws the edge from an exit. A node that leaves by its time limit would be a leaf without one on `out`.
    fn leave(&mut self, exit: &Exit, to: &str) {
        self.edge(&exit.node, exit.port, to);
        if exit.port == "timeout" {
            self.edge(&exit.node, "out", to);
        }
    }

    fn edge(&mut self, from: &str, port: &str, to: &str) {
        self.edges.push(json!({"from": from, "port": port, "to": to}));
    }
}

impl Maker {
    fn definition(&mut self, name: &str, generation: u32, fatal: bool) {
        let mut graph = Graph {
            depth: 0,
            generation,
            prefix: "{{ .input.tag }}:".to_owned(),
            base: ".input.n",
            undoes: fatal || self.rng.bool(),
            is_gated: false,
            nodes: Vec::new(),
            edges: Vec::new(),
            exits: Vec::new(),
        };
        let steps = if generation == 0 { self.rng.usize(3..8) } else { self.rng.usize(1..4) };
        let fatal_step = fatal.then(|| self.rng.usize(..steps));
        let mut fatal_at = None;
        for step in 0..steps {
            if fatal_step == Some(step) {
                fatal_at = Some(self.fatal(&mut graph));
            } else {
                self.step(&mut graph);
            }
        }
        let end = self.end(&mut graph);
        if self.rng.u8(..10) == 0 {
            // A child that failed by itself would be fatal to its parent, wherever it stands.
            let ways = if generation == 0 { 3 } else { 1 };
            let status = ["succeeded", "failed", "canceled"][self.rng.usize(..ways)];
            let id = self.id("stop");
            let with = json!({"status": status, "output": hole(&format!(".nodes.{end}.output"))});
            graph.nodes.push(json!({"id": id, "type": "terminate", "with": with}));
            graph.edge(&end, "out", &id);
        }
        let mut json =
            json!({"name": name, "vars": {"api": NOWHERE}, "nodes": graph.nodes, "edges": graph.edges});
        if generation == 0 && self.rng.bool() {
            json["on_failure"] = json!(ALARM);
        }
        self.program.definitions.push(Definition { json, fatal_at });
    }

    fn id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}{}", self.ids)
    }

    /// Draws edges from up to two earlier steps, and returns an expression over what came out of them.
    fn follow(&mut self, graph: &mut Graph, node: &str) -> String {
        let mut values = vec![graph.base.to_owned(), self.rng.i64(1..100).to_string()];
        let wanted = self.rng.usize(..3).min(graph.exits.len());
        let mut chosen = BTreeSet::new();
        for _ in 0..wanted {
            // The later ones more often: deep graphs rather than flat ones.
            let last = graph.exits.len() - 1;
            chosen.insert(last - self.rng.usize(..=last).min(self.rng.usize(..=last)));
        }
        if chosen.is_empty() && graph.is_gated && !graph.exits.is_empty() {
            chosen.insert(0);
        }
        for index in chosen {
            graph.exits[index].is_used = true;
            let exit = graph.exits[index].clone();
            graph.leave(&exit, node);
            values.push(exit.value);
        }
        format!("({}) % {MODULUS}", values.join(" + "))
    }

    /// What an executor or the database is asked for.
    fn spec(&mut self, graph: &Graph, path: &str, value: &str, refuse: Value) -> Value {
        let flaky = [0, 0, 0, 0, 0, 0, 1, 2][self.rng.usize(..8)];
        json!({"key": format!("{}{path}", graph.prefix), "v": hole(value), "flaky": flaky, "refuse": refuse})
    }

    /// The node of an effect without its id, and the expression for the number that it brings.
    fn work(&mut self, kind: &str, id: &str, spec: Value) -> (Value, String) {
        let retry = retry(["none", "equal", "full"][self.rng.usize(..3)]);
        match kind {
            "http" => (
                json!({"type": "http", "retry": retry, "timeout": "5s",
                       "with": {"method": "POST", "url": "{{ .vars.api }}/work", "body": spec}}),
                format!(".nodes.{id}.output.body.v"),
            ),
            "task" => (
                json!({"type": "task", "retry": retry, "with": {"queue": QUEUE, "input": spec}}),
                format!(".nodes.{id}.output.v"),
            ),
            "sql" => (
                json!({"type": "sql", "retry": retry, "timeout": "20s", "with": {"function": "judge.act", "input": spec}}),
                format!(".nodes.{id}.output.v"),
            ),
            _ => {
                let stream = format!("judge-{}", self.rng.u8(..3));
                let with = json!({"stream": stream, "message_type": "Effect", "data": spec});
                (
                    json!({"type": "emit", "retry": retry, "with": with}),
                    format!("(.nodes.{id}.output.stream | length)"),
                )
            }
        }
    }

    /// Adds a node with an effect; returns its id and the expression for its number.
    fn effect(&mut self, graph: &mut Graph, kinds: &[&str], refuse: Value) -> (String, String) {
        let kind = kinds[self.rng.usize(..kinds.len())];
        let id = self.id(kind);
        let value = self.follow(graph, &id);
        self.effect_of(graph, kind, &id, &value, refuse)
    }

    fn effect_of(
        &mut self,
        graph: &mut Graph,
        kind: &str,
        id: &str,
        value: &str,
        refuse: Value,
    ) -> (String, String) {
        let spec = self.spec(graph, id, value, refuse);
        let (mut node, result) = self.work(kind, id, spec);
        node["id"] = json!(id);
        if graph.undoes && self.rng.u8(..3) > 0 {
            let spec = self.spec(graph, &format!("{id}/compensate"), &result, json!(false));
            let kind = ["http", "task", "sql", "emit"][self.rng.usize(..4)];
            node["compensate"] = self.work(kind, id, spec).0;
        }
        graph.nodes.push(node);
        (id.to_owned(), result)
    }

    fn step(&mut self, graph: &mut Graph) {
        let is_outer = graph.depth == 0 && graph.generation == 0;
        match self.rng.u8(..20) {
            0..=6 => {
                let (id, value) = self.effect(graph, &["http", "task", "sql", "emit"], json!(false));
                graph.exit(&id, "out", value);
            }
            7 => self.branch(graph),
            8 => self.handled(graph),
            9 => {
                let duration = format!("{}ms", self.rng.u32(20..1_200));
                self.idle(graph, "delay", "out", json!({"type": "delay", "with": {"duration": duration}}));
            }
            10..=12 if graph.depth < MAX_DEPTH => {
                let tolerates = self.rng.u8(..4) == 0;
                self.map(graph, tolerates, false);
            }
            13 if graph.depth < MAX_DEPTH => self.repeat(graph),
            14 | 15 if graph.generation < MAX_DEPTH && graph.depth < MAX_DEPTH => {
                self.child(graph, false);
            }
            16 if is_outer => self.signal(graph),
            17 if is_outer => self.approval(graph),
            18 => {
                let timeout = format!("{}ms", self.rng.u32(50..500));
                let wait = json!({"type": "wait", "timeout": timeout, "with": {"signal": "never"}});
                self.idle(graph, "late", "timeout", wait);
            }
            19 if is_outer && !self.has_answered => {
                self.has_answered = true;
                self.idle(
                    graph,
                    "respond",
                    "out",
                    json!({"type": "respond", "with": {"body": "{{ .input.n }}"}}),
                );
            }
            _ => {
                let id = self.id("sum");
                let value = self.follow(graph, &id);
                let output = json!({"v": hole(&value)});
                graph.nodes.push(json!({"id": id, "type": "transform", "with": {"output": output}}));
                graph.exit(&id, "out", format!(".nodes.{id}.output.v"));
            }
        }
    }

    /// A node that takes its time or answers, and brings nothing.
    fn idle(&mut self, graph: &mut Graph, kind: &str, port: &'static str, mut node: Value) {
        let id = self.id(kind);
        self.follow(graph, &id);
        node["id"] = json!(id);
        graph.nodes.push(node);
        graph.exit(&id, port, "1".to_owned());
    }

    /// A step that fails the run; returns its node.
    fn fatal(&mut self, graph: &mut Graph) -> String {
        match self.rng.u8(..6) {
            0 => self.map(graph, false, true),
            1 if graph.generation < MAX_DEPTH => self.child(graph, true),
            _ => {
                let (id, value) = self.effect(graph, &["http", "task", "sql"], json!(true));
                graph.exit(&id, "out", value);
                id
            }
        }
    }

    /// One of two ways.
    fn branch(&mut self, graph: &mut Graph) {
        let id = self.id("branch");
        let value = self.follow(graph, &id);
        graph
            .nodes
            .push(json!({"id": id, "type": "branch", "with": {"when": format!("({value}) % 2 == 0")}}));
        let merge = self.id("either");
        let mut results = Vec::new();
        for port in ["true", "false"] {
            let kind = ["http", "task", "sql"][self.rng.usize(..3)];
            let arm = self.id(kind);
            let base = graph.base;
            let (arm, result) = self.effect_of(graph, kind, &arm, base, json!(false));
            graph.edge(&id, port, &arm);
            graph.edge(&arm, "out", &merge);
            results.push(result);
        }
        self.either(graph, &merge, &results);
    }

    /// Work that is refused for good, and an edge that takes over.
    fn handled(&mut self, graph: &mut Graph) {
        let (id, result) = self.effect(graph, &["http", "task", "sql"], json!(true));
        let merge = self.id("either");
        let handler = self.id("sql");
        let base = graph.base;
        let (handler, instead) = self.effect_of(graph, "sql", &handler, base, json!(false));
        graph.edge(&id, "error", &handler);
        graph.edge(&handler, "out", &merge);
        graph.edge(&id, "out", &merge);
        self.either(graph, &merge, &[instead, result]);
    }

    fn either(&mut self, graph: &mut Graph, id: &str, values: &[String]) {
        let output = json!({"v": hole(&values.join(" // "))});
        graph.nodes.push(json!({"id": id, "type": "transform", "join": "any", "with": {"output": output}}));
        graph.exit(id, "out", format!(".nodes.{id}.output.v"));
    }

    /// The prefix that keys have in a body of `node`. Where the body stands in another one, a node in front of it
    /// keeps the outer index, which is hidden inside.
    fn inner_prefix(&mut self, graph: &mut Graph, node: &str) -> String {
        if !graph.prefix.contains(".index") {
            return format!("{}{node}/{{{{ .index }}}}/", graph.prefix);
        }
        let keeper = self.id("index");
        graph.nodes.push(json!({"id": keeper, "type": "transform", "with": {"output": "{{ .index }}"}}));
        graph.edge(&keeper, "out", node);
        let outer = graph.prefix.replace(".index", &format!(".nodes.{keeper}.output"));
        format!("{outer}{node}/{{{{ .index }}}}/")
    }

    fn body(&mut self, graph: &mut Graph, node: &str, base: &'static str, refuse: Option<Value>) -> Value {
        let mut body = Graph {
            depth: graph.depth + 1,
            generation: graph.generation,
            prefix: self.inner_prefix(graph, node),
            base,
            undoes: graph.undoes,
            is_gated: refuse.is_some(),
            nodes: Vec::new(),
            edges: Vec::new(),
            exits: Vec::new(),
        };
        if let Some(refuse) = refuse {
            let (id, value) = self.effect(&mut body, &["http", "task", "sql"], refuse);
            body.exit(&id, "out", value);
        }
        for _ in 0..self.rng.usize(1..3) {
            self.step(&mut body);
        }
        self.end(&mut body);
        json!({"nodes": body.nodes, "edges": body.edges})
    }

    fn map(&mut self, graph: &mut Graph, tolerates: bool, fatal: bool) -> String {
        let id = self.id("map");
        let value = self.follow(graph, &id);
        let count = self.rng.u32(2..5);
        let items: Vec<String> = (0..count).map(|n| format!("({value}) + {n}")).collect();
        let mut with =
            json!({"items": hole(&format!("[{}]", items.join(", "))), "concurrency": self.rng.u32(1..4)});
        let is_wide = !tolerates && !fatal && graph.generation < MAX_DEPTH && self.rng.u8(..4) == 0;
        with["body"] = if is_wide {
            let child = self.child_definition(graph, false);
            let prefix = self.inner_prefix(graph, &id);
            json!({"workflow": child, "input": {"tag": format!("{prefix}workflow"), "n": "{{ .item }}"}})
        } else {
            let refuse = (tolerates || fatal).then(|| json!("{{ .index == 0 }}"));
            self.body(graph, &id, ".item", refuse)
        };
        let value = if tolerates {
            with["tolerance"] = json!({"count": 1});
            format!("([.nodes.{id}.output[] | select(.status == \"succeeded\") | .output.v] | add // 0)")
        } else {
            format!("(.nodes.{id}.output | map(.v) | add)")
        };
        graph.nodes.push(json!({"id": id, "type": "map", "with": with}));
        graph.exit(&id, "out", value);
        id
    }

    fn repeat(&mut self, graph: &mut Graph) {
        let id = self.id("repeat");
        self.follow(graph, &id);
        let last = self.rng.u32(..3);
        let body = self.body(graph, &id, ".index", None);
        let delay = ["0s", "30ms"][self.rng.usize(..2)];
        let with =
            json!({"until": format!(".index >= {last}"), "max_iterations": 5, "delay": delay, "body": body});
        graph.nodes.push(json!({"id": id, "type": "repeat", "with": with}));
        graph.exit(&id, "out", format!(".nodes.{id}.output.v"));
    }

    fn child_definition(&mut self, graph: &Graph, fatal: bool) -> String {
        let name = self.id(&format!("{}_child", self.root));
        self.definition(&name, graph.generation + 1, fatal);
        name
    }

    fn child(&mut self, graph: &mut Graph, fatal: bool) -> String {
        let child = self.child_definition(graph, fatal);
        let id = self.id("child");
        let value = self.follow(graph, &id);
        let input = json!({"tag": format!("{}{id}", graph.prefix), "n": hole(&value)});
        graph.nodes.push(json!({"id": id, "type": "workflow", "with": {"workflow": child, "input": input}}));
        graph.exit(&id, "out", format!(".nodes.{id}.output.v"));
        id
    }

    fn signal(&mut self, graph: &mut Graph) {
        let id = self.id("signal");
        self.follow(graph, &id);
        let payload = json!({"v": self.rng.i64(0..MODULUS)});
        graph.nodes.push(json!({"id": id, "type": "wait", "with": {"signal": id}}));
        self.program.signals.push(Signal { name: id.clone(), payload });
        graph.exit(&id, "out", format!(".nodes.{id}.output.v"));
    }

    fn approval(&mut self, graph: &mut Graph) {
        let id = self.id("approval");
        self.follow(graph, &id);
        let (voices, approved) = (self.rng.u32(1..4), self.rng.bool());
        graph.nodes.push(json!({"id": id, "type": "wait", "with": {"approval": {"approvers": voices}}}));
        self.program.approvals.push(Approval { node: id.clone(), voices, approved });
        let port = if approved { "approved" } else { "rejected" };
        graph.exit(&id, port, "5".to_owned());
    }

    /// Joins all that is still open, and says what came out.
    fn end(&mut self, graph: &mut Graph) -> String {
        let id = self.id("end");
        let mut values = vec![graph.base.to_owned()];
        for exit in graph.exits.clone() {
            values.push(exit.value.clone());
            if !exit.is_used {
                graph.leave(&exit, &id);
            }
        }
        let output = json!({"v": hole(&format!("({}) % {MODULUS}", values.join(" + ")))});
        graph.nodes.push(json!({"id": id, "type": "transform", "with": {"output": output}}));
        id
    }
}
