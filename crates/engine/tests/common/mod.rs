//! A run in memory: the engine with a clock that only moves when told, and a log that is checked.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;

use meshhook_engine::decide::step;
use meshhook_engine::definition::Workflow;
use meshhook_engine::error::ErrorInfo;
use meshhook_engine::event::{ApprovalGiven, Event, NodeLogged, Recorded, RunForked, SignalReceived};
use meshhook_engine::fact::{Cancel, ChildEnded, Fact, JobCompleted, JobFailed, Start, TimerDue};
use meshhook_engine::journal::Level;
use meshhook_engine::json::Json;
use meshhook_engine::replay::{boundary, verify};
use meshhook_engine::state::{NodeStatus, RunState, RunStatus};
use meshhook_engine::time::Timestamp;

/// The id of every simulated run that is no fork.
pub const RUN: &str = "01890000-0000-7000-8000-000000000000";

/// A run in memory.
#[derive(Debug)]
pub struct Sim {
    pub id: String,
    pub workflow: Workflow,
    pub state: RunState,
    pub log: Vec<Recorded>,
    /// Paths of nodes whose outstanding work was taken back.
    pub dropped: Vec<String>,
    now: Timestamp,
}

impl Sim {
    /// Compiles a definition and starts a run of it.
    pub fn start(definition: &str, input: &str) -> Self {
        let workflow = Workflow::compile(&Json::parse(definition).unwrap()).unwrap();
        Self::of(workflow, Json::parse(input).unwrap(), 42)
    }

    /// Starts a run of a compiled definition.
    pub fn of(workflow: Workflow, input: Json, seed: u64) -> Self {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let start = Start {
            workflow: Arc::clone(&workflow.name),
            version: 1,
            input,
            seed,
            trigger: Json::object([("type", Json::from("test"))]),
            idempotency_key: None,
            deadline: None,
            parent: None,
        };
        let (id, state) = (RUN.to_owned(), RunState::default());
        let mut sim = Self { id, workflow, state, log: Vec::new(), dropped: Vec::new(), now };
        sim.take(&Fact::Start(start));
        sim
    }

    /// Hands a fact to the engine and logs what follows.
    pub fn take(&mut self, fact: &Fact) {
        let first = self.state.position + 1;
        let open = self.state.open.clone();
        let step = step(&self.workflow, &self.id, &mut self.state, fact, self.now);
        self.dropped.extend(step.dropped.iter().map(|dropped| dropped.node.to_string()));
        assert!(
            step.dropped
                .iter()
                .all(|dropped| open.contains(&dropped.node) || !self.state.open.contains(&dropped.node)),
            "{:?} is dropped and open",
            step.dropped
        );
        for (position, event) in (first..).zip(step.events) {
            self.log.push(Recorded { position, at: self.now, event });
        }
        self.now = self.now.plus_millis(1);
    }

    pub fn complete(&mut self, node: &str, output: &str) {
        let attempt = self.state.nodes.get(node).map_or(1, |node| node.attempt);
        self.complete_attempt(node, attempt, output);
    }

    pub fn complete_attempt(&mut self, node: &str, attempt: u32, output: &str) {
        let output = Json::parse(output).unwrap();
        self.take(&Fact::JobCompleted(JobCompleted { node: node.into(), attempt, output }));
    }

    pub fn fail(&mut self, node: &str, error: &str) {
        let attempt = self.attempt(node);
        let error = Json::parse(error).unwrap();
        self.take(&Fact::JobFailed(JobFailed { node: node.into(), attempt, error }));
    }

    /// Whoever works on an attempt says something.
    pub fn say(&mut self, node: &str, attempt: u32, message: &str) {
        let (node, message) = (node.into(), message.into());
        let said = NodeLogged { node, attempt, level: Level::Info, message, data: None };
        self.take(&Fact::JobLogged(said));
    }

    /// Lets the time of a waiting node come.
    pub fn fire(&mut self, node: &str) {
        let due = match node {
            "" => self.state.deadline.unwrap(),
            node => self.state.nodes[node].timer().unwrap(),
        };
        self.now = self.now.max(due);
        self.take(&Fact::TimerDue(TimerDue { node: node.into() }));
    }

    pub fn cancel(&mut self, reason: Option<&str>) {
        self.take(&Fact::Cancel(Cancel { reason: reason.map(Arc::from), kill: false, start: None }));
    }

    pub fn signal(&mut self, name: &str, payload: &str) {
        self.signal_for(None, name, payload);
    }

    /// Sends a signal that is for one node only.
    pub fn signal_for(&mut self, node: Option<&str>, name: &str, payload: &str) {
        let (name, payload) = (name.into(), Json::parse(payload).unwrap());
        self.take(&Fact::Signal(SignalReceived { name, payload, id: None, node: node.map(Arc::from) }));
    }

    pub fn approve(&mut self, node: &str, by: &str, approved: bool) {
        let given = ApprovalGiven { node: node.into(), approved, by: by.into(), payload: None };
        self.take(&Fact::Approval(given));
    }

    /// Lets the child run of a node end.
    pub fn child_ended(&mut self, node: &str, status: RunStatus, output: Option<&str>) {
        let run = self.state.nodes[node].child.as_ref().unwrap().run.clone();
        let error = (status == RunStatus::Failed).then(|| ErrorInfo::new("task", "the child failed"));
        let output = output.map(|output| Json::parse(output).unwrap());
        self.take(&Fact::ChildEnded(ChildEnded { node: node.into(), run, status, output, error }));
    }

    /// Makes this run a fork of itself: it goes on from the last boundary up to a position, if it had not ended there.
    pub fn fork(&mut self, until: Option<u64>, input: Option<&str>) {
        let cut = boundary(&self.workflow, &self.id, &self.log, until).unwrap();
        let (copied, source) = (&self.log[..usize::try_from(cut.position).unwrap()], cut.run.to_owned());
        let state = RunState::fold(copied).unwrap();
        if state.status.is_terminal() || state.unwinding.is_some() {
            return;
        }
        (self.log, self.state) = (copied.to_vec(), state);
        self.dropped.clear();
        self.id = format!("{}f", &self.id[1..]);
        let input = input.map(|input| Json::parse(input).unwrap());
        self.take(&Fact::Fork(RunForked { run: source.into(), input, reason: None, deadline: None }));
    }

    pub fn status(&self) -> RunStatus {
        self.state.status
    }

    pub fn output(&self) -> String {
        self.state.output.as_ref().map_or("none".to_owned(), Json::to_string)
    }

    pub fn error_class(&self) -> String {
        self.state.error.as_ref().map_or("none".to_owned(), |error| error.class.to_string())
    }

    pub fn attempt(&self, node: &str) -> u32 {
        self.state.nodes[node].attempt
    }

    pub fn due_in_ms(&self, node: &str) -> i64 {
        let node = &self.state.nodes[node];
        let since = self.state.last_at.unwrap();
        (node.due_at.unwrap().as_micros() - since.as_micros()) / 1000
    }

    /// Nodes with a job.
    pub fn open(&self) -> Vec<&str> {
        self.with_status(&[NodeStatus::Scheduled])
    }

    /// Nodes with a timer.
    pub fn waiting(&self) -> Vec<&str> {
        self.with_status(&[NodeStatus::Waiting, NodeStatus::Retrying])
    }

    fn with_status(&self, wanted: &[NodeStatus]) -> Vec<&str> {
        let nodes = self.state.nodes.iter().filter(|(_, node)| wanted.contains(&node.status));
        nodes.map(|(id, _)| &**id).collect()
    }

    pub fn events_of(&self, type_name: &str) -> usize {
        self.log.iter().filter(|event| event.event.type_name() == type_name).count()
    }

    /// The rendered input of a node's job.
    pub fn input_of(&self, id: &str) -> String {
        let input = self.log.iter().find_map(|event| match &event.event {
            Event::NodeScheduled(scheduled) if &*scheduled.node == id => scheduled.input.clone(),
            _ => None,
        });
        input.unwrap().to_string()
    }

    /// The log through its stored form: what is read back must be what was decided.
    pub fn stored(&self) -> Vec<Recorded> {
        let read = |event: &Event| Event::from_parts(event.type_name(), &event.data()).unwrap();
        self.log.iter().map(|r| Recorded { event: read(&r.event), ..r.clone() }).collect()
    }

    /// Replays the stored log: the fold and the decided-again state both equal the state held in memory.
    pub fn verify(&self) {
        let stored = self.stored();
        assert_eq!(RunState::fold(&stored).unwrap(), self.state, "the fold differs from the state in memory");
        match verify(&self.workflow, &self.id, &stored) {
            Ok(state) => assert_eq!(state, self.state),
            Err(difference) => panic!("{difference}"),
        }
    }

    /// Whether a replay of this log finds a difference, or ends in another state.
    pub fn differs(&self, log: &[Recorded]) -> bool {
        verify(&self.workflow, &self.id, log).map_or(true, |state| state != self.state)
    }
}
