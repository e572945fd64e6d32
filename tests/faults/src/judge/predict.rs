//! What the engine says of a program before it runs: ends, nodes and effects.
//!
//! A run that fails takes back what is open, and what that did by then depends on luck. So it is played twice: once
//! with the failure as early as it can be, once as late. What both have must come; what only the late one has may.

use meshhook_engine::decide::step;
use meshhook_engine::definition::Workflow;
use meshhook_engine::event::{ApprovalGiven, Event, SignalReceived};
use meshhook_engine::fact::{ChildEnded, Fact, JobCompleted, JobFailed, Start, TimerDue};
use meshhook_engine::json::Json;
use meshhook_engine::state::{NodeState, NodeStatus, RunState, RunStatus};
use meshhook_engine::time::Timestamp;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::ledger::{Place, Spec};
use super::program::{Definition, Program};

/// Facts that one run takes in at most.
const MAX_FACTS: usize = 20_000;

/// The id of a predicted run.
const RUN: &str = "01890000-0000-7000-8000-000000000000";

/// How a run must end.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    pub status: String,
    pub output: Option<Value>,
    /// Class and node of the error.
    pub error: Option<(String, Option<String>)>,
    /// Status and port of each node that is settled.
    pub nodes: BTreeMap<String, (String, Option<String>)>,
}

/// Something predicted, and whether it must come or only may.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected<T> {
    pub must: bool,
    pub what: T,
}

/// All that is predicted of one run, its children and its handler included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Runs by tag.
    pub runs: BTreeMap<String, Expected<Ended>>,
    /// Effects by key.
    pub effects: BTreeMap<String, Expected<Place>>,
}

impl Forecast {
    /// The same of a run that somebody cancels: nothing must come, but what comes must be this.
    pub fn canceled(mut self) -> Self {
        self.runs.values_mut().for_each(|run| run.must = false);
        self.effects.values_mut().for_each(|effect| effect.must = false);
        self
    }
}

/// The workflows that runs are started of, compiled.
#[derive(Debug, Default)]
pub struct Library(BTreeMap<String, (Workflow, BTreeSet<String>)>);

impl Library {
    /// Takes in a definition.
    ///
    /// # Panics
    /// When it does not compile: the generator is wrong.
    pub fn add(&mut self, definition: &Definition) {
        let workflow = Workflow::compile(&to_engine(&definition.json))
            .unwrap_or_else(|problems| panic!("{problems:?}\n{}", definition.json));
        self.0.insert(definition.name().to_owned(), (workflow, definition.early()));
    }

    /// Predicts a run of a program.
    pub fn forecast(&self, program: &Program, tag: &str, input: &Value) -> Forecast {
        let play = |is_late| {
            let mut played = Played::default();
            let player = Player { library: self, program, is_late, children: RefCell::default() };
            player.play(program.name(), tag, to_engine(input), true, &mut played);
            played
        };
        let (early, late) = (play(false), play(true));
        let mut forecast = Forecast::default();
        for (key, place) in late.effects {
            let must = early.effects.contains_key(&key);
            forecast.effects.insert(key, Expected { must, what: place });
        }
        for (tag, mut ended) in late.runs {
            let before = early.runs.get(&tag);
            if let Some(before) = before {
                assert_eq!(
                    (&before.status, &before.error),
                    (&ended.status, &ended.error),
                    "{tag} has two ends"
                );
                ended.nodes.retain(|path, node| before.nodes.get(path) == Some(node));
            }
            forecast.runs.insert(tag, Expected { must: before.is_some(), what: ended });
        }
        forecast
    }
}

/// What came of one play.
#[derive(Debug, Default)]
struct Played {
    runs: BTreeMap<String, Ended>,
    effects: BTreeMap<String, Place>,
}

struct Player<'a> {
    library: &'a Library,
    program: &'a Program,
    is_late: bool,
    /// Child runs that were played already, by tag.
    children: RefCell<BTreeMap<String, (Ended, Rc<Played>)>>,
}

/// A fact that may be next, with its turn: the lowest comes first.
struct Choice {
    rank: u8,
    fact: Fact,
    effect: Option<(String, Place)>,
    child: Option<Rc<Played>>,
    at: Option<Timestamp>,
}

/// One run while it is played.
struct Run<'a> {
    tag: &'a str,
    workflow: &'a Workflow,
    early: &'a BTreeSet<String>,
    state: RunState,
    /// Rendered inputs by the position of the event that holds them.
    inputs: BTreeMap<u64, Value>,
    is_first: bool,
}

impl Player<'_> {
    /// Plays a run to its end.
    fn play(&self, name: &str, tag: &str, input: Json, is_first: bool, played: &mut Played) -> Ended {
        let (workflow, early) = &self.library.0[name];
        let mut run =
            Run { tag, workflow, early, state: RunState::default(), inputs: BTreeMap::new(), is_first };
        let start = Start {
            workflow: Arc::clone(&workflow.name),
            version: 1,
            input,
            seed: 1,
            trigger: Json::Null,
            idempotency_key: None,
            deadline: None,
            parent: None,
        };
        let mut now = Timestamp::from_micros(1_700_000_000_000_000);
        let mut next = Fact::Start(start);
        for _ in 0..MAX_FACTS {
            let first = run.state.position + 1;
            let events = step(workflow, RUN, &mut run.state, &next, now).events;
            for (position, event) in (first..).zip(&events) {
                run.note(position, event);
                if let Event::RunHandlerStarted(handler) = event {
                    self.play(
                        &handler.child.workflow,
                        &format!("{tag}!"),
                        handler.input.clone(),
                        false,
                        played,
                    );
                }
            }
            if run.state.status.is_terminal() {
                let ended = run.ended();
                played.runs.insert(tag.to_owned(), ended.clone());
                return ended;
            }
            let open: Vec<_> =
                run.state.open_work().map(|(path, node)| (Arc::clone(path), node.clone())).collect();
            let choices = open.iter().filter_map(|(path, node)| self.choice(&run, path, node));
            let Some(chosen) = choices.min_by_key(|choice| choice.rank) else {
                panic!("{tag} of {name} waits for something that never comes: {:?}", run.state.open);
            };
            now = chosen.at.unwrap_or(now).max(now.plus_millis(1));
            played.effects.extend(chosen.effect);
            if let Some(child) = chosen.child {
                played.effects.extend(child.effects.clone());
                played.runs.extend(child.runs.clone());
            }
            next = chosen.fact;
        }
        panic!("{tag} of {name} does not end");
    }

    /// What may happen to an open node, if anything.
    fn choice(&self, run: &Run, path: &Arc<str>, node: &NodeState) -> Option<Choice> {
        let plain = |fact| Choice { rank: 0, fact, effect: None, child: None, at: None };
        let mut choice = match node.status {
            NodeStatus::Scheduled => self.attempt(run, path, node),
            NodeStatus::Running if node.child.is_some() => self.child(run, path, node),
            NodeStatus::Waiting => self.said(run, path, node).map(plain),
            _ => None,
        };
        if choice.is_none() && node.timer().is_some() {
            let fact = Fact::TimerDue(TimerDue { node: Arc::clone(path) });
            choice = Some(Choice { at: node.timer(), ..plain(fact) });
        }
        let mut choice = choice?;
        // Zero stands for what ends nothing.
        if choice.rank > 0 {
            choice.rank = if self.is_late { 9 } else { 1 };
        } else {
            let outermost = path.split('/').next().unwrap_or_default();
            choice.rank = if self.is_late || run.early.contains(outermost) { 2 } else { 3 };
        }
        Some(choice)
    }

    /// What an executor or the database makes of an attempt.
    fn attempt(&self, run: &Run, path: &Arc<str>, node: &NodeState) -> Option<Choice> {
        let job = node.job.as_ref()?;
        let input = run.inputs.get(&job.input_position)?;
        let (request, place) = match &*job.kind {
            "http" => (&input["body"], Place::Outside),
            "task" => (input, Place::Outside),
            "sql" => (&input["argument"], Place::Inside),
            _ => (&input["data"], Place::Inside),
        };
        let spec = Spec::read(request).unwrap_or_else(|| panic!("no request at {path}: {input}"));
        assert_eq!(spec.key, format!("{}:{path}", run.tag), "the generator names an effect wrongly");
        let (node, attempt) = (Arc::clone(path), node.attempt);
        // What is awaited once the run is being undone may be in its last attempt, or lost.
        let is_awaited = run.state.unwinding.is_some() && !path.ends_with("/compensate");
        if spec.refuse || is_awaited {
            let error = match &*job.kind {
                "http" => json!({"class": "http.status", "status": 422, "retryable": false}),
                "task" => json!({"class": "judge.refused", "retryable": false}),
                _ => json!({"class": "sql.22000", "retryable": false}),
            };
            let rank = u8::from(run.is_fatal(path));
            let fact = Fact::JobFailed(JobFailed { node, attempt, error: to_engine(&error) });
            return Some(Choice { rank, fact, effect: None, child: None, at: None });
        }
        let output = match &*job.kind {
            "http" => json!({"status": 200, "headers": {}, "body": spec.result(), "duration_ms": 1}),
            "emit" => json!({"stream": input["stream"], "position": 0, "global_position": 1}),
            _ => spec.result(),
        };
        let fact = Fact::JobCompleted(JobCompleted { node, attempt, output: to_engine(&output) });
        Some(Choice { rank: 0, fact, effect: Some((spec.key, place)), child: None, at: None })
    }

    fn child(&self, run: &Run, path: &Arc<str>, node: &NodeState) -> Option<Choice> {
        let child = node.child.as_ref()?;
        let input = run.inputs.get(&node.job.as_ref()?.input_position)?;
        let tag = format!("{}:{path}", run.tag);
        assert_eq!(input["tag"], tag, "the generator names a child wrongly");
        let known = self.children.borrow().get(&tag).cloned();
        let (ended, played) = known.unwrap_or_else(|| {
            let mut played = Played::default();
            let ended = self.play(&child.workflow, &tag, to_engine(input), false, &mut played);
            let both = (ended, Rc::new(played));
            self.children.borrow_mut().insert(tag, both.clone());
            both
        });
        let status = match &*ended.status {
            "succeeded" => RunStatus::Succeeded,
            "failed" => RunStatus::Failed,
            _ => RunStatus::Canceled,
        };
        let output = ended.output.as_ref().map(to_engine);
        let error = None;
        let fact = Fact::ChildEnded(ChildEnded {
            node: Arc::clone(path),
            run: Arc::clone(&child.run),
            status,
            output,
            error,
        });
        let rank = u8::from(status != RunStatus::Succeeded);
        Some(Choice { rank, fact, effect: None, child: Some(played), at: None })
    }

    /// The signal or the voice that somebody has for a node.
    fn said(&self, run: &Run, path: &Arc<str>, node: &NodeState) -> Option<Fact> {
        if !run.is_first {
            return None;
        }
        if let Some(name) = &node.signal {
            let signal = self.program.signals.iter().find(|signal| signal.name == **name)?;
            let payload = to_engine(&signal.payload);
            return Some(Fact::Signal(SignalReceived {
                name: Arc::clone(name),
                payload,
                id: None,
                node: None,
            }));
        }
        let before = node.approvals.as_ref()?.len();
        let approval = self.program.approvals.iter().find(|approval| approval.node == **path)?;
        let (by, approved) = (Arc::from(format!("voice {before}")), approval.approved);
        Some(Fact::Approval(ApprovalGiven { node: Arc::clone(path), approved, by, payload: None }))
    }
}

impl Run<'_> {
    fn note(&mut self, position: u64, event: &Event) {
        if let Event::NodeScheduled(scheduled) = event
            && let Some(input) = &scheduled.input
        {
            self.inputs.insert(position, from_engine(input));
        }
    }

    /// Whether a failure of this node fails the run. In bodies that is so where the outermost node is the fatal one.
    fn is_fatal(&self, path: &str) -> bool {
        let handled = self.workflow.locate(path).is_some_and(|(graph, node)| {
            graph.index(&node.id).is_some_and(|index| graph.has_edge(index, "error"))
        });
        !handled && path.split('/').next().is_some_and(|outermost| self.early.contains(outermost))
    }

    fn ended(&self) -> Ended {
        let state = &self.state;
        let settled = |node: &NodeState| {
            let status = from_engine(&meshhook_engine::to_json(&node.status));
            (status.as_str().unwrap_or_default().to_owned(), node.port.as_deref().map(str::to_owned))
        };
        Ended {
            status: state.status.as_str().to_owned(),
            output: state.output.as_ref().map(from_engine),
            error: state.error.as_ref().map(|e| (e.class.to_string(), e.node.as_deref().map(str::to_owned))),
            nodes: state.nodes.iter().map(|(path, node)| (path.to_string(), settled(node))).collect(),
        }
    }
}

/// A document as the engine has it.
///
/// # Panics
/// When it is none for the engine; what is generated and rendered here always is.
pub fn to_engine(value: &Value) -> Json {
    Json::parse(&value.to_string()).unwrap_or_else(|e| panic!("{e:?} in {value}"))
}

fn from_engine(value: &Json) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::super::program::{alarm, program};
    use super::*;
    use meshhook_engine::node::NODE_TYPES;

    #[test]
    fn programs_compile_and_have_one_end_each() {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut types = BTreeSet::new();
        for seed in 0..120 {
            let program = program(seed, "p");
            let mut library = Library::default();
            library.add(&alarm());
            program.definitions.iter().for_each(|definition| library.add(definition));
            for definition in &program.definitions {
                let workflow = Workflow::compile(&to_engine(&definition.json)).expect("it compiles");
                types.extend(workflow.all_nodes().iter().map(|node| node.kind.name));
            }
            let input = json!({"tag": "r", "n": seed});
            let forecast = library.forecast(&program, "r", &input);
            let run = &forecast.runs["r"];
            assert!(run.must, "seed {seed}");
            *seen.entry(run.what.status.clone()).or_default() += 1;
            let numbered = run.what.output.as_ref().is_none_or(|output| output["v"].is_i64());
            assert!(numbered, "seed {seed}: {:?}", run.what.output);
            let class = run.what.error.as_ref().map(|(class, _)| class.as_str()).unwrap_or_default();
            let known = [
                "",
                "http.status",
                "judge.refused",
                "sql.22000",
                "map.failed",
                "workflow.failed",
                "terminated",
            ];
            assert!(known.contains(&class), "seed {seed} fails with {class}");
            let may = forecast.effects.values().filter(|effect| !effect.must).count();
            assert!(may == 0 || run.what.status == "failed", "seed {seed}: what may be is of runs that fail");
        }
        assert!(seen["succeeded"] > 60 && seen["failed"] > 15 && seen["canceled"] > 0, "{seen:?}");
        let all: BTreeSet<&str> = NODE_TYPES.iter().map(|node_type| node_type.name).collect();
        assert_eq!(types, all, "every type of node is drawn");
    }
}
