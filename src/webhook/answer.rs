//! What senders are answered.

use meshhook_engine::contract::Violation;
use serde_json::{Map, Value, json};

/// What the sender is told, and what the record says.
pub(super) struct Answer {
    pub(super) status: i32,
    pub(super) headers: Map<String, Value>,
    pub(super) body: Value,
    pub(super) reason: String,
    pub(super) run: Option<pgrx::Uuid>,
    /// Whether what the run answers is for this sender.
    pub(super) waits: bool,
}

impl Answer {
    pub(super) fn new(status: i32, body: Value, reason: impl Into<String>) -> Self {
        Self { status, headers: Map::new(), body, reason: reason.into(), run: None, waits: false }
    }

    pub(super) fn error(status: i32, message: &str, reason: impl Into<String>) -> Self {
        Self::new(status, json!({ "error": message }), reason)
    }

    /// To what has started a run.
    pub(super) fn accepted(run: pgrx::Uuid) -> Self {
        Self::new(202, json!({ "run_id": run.to_string() }), "accepted").of_run(run).waiting(true)
    }

    /// To what has signaled a run.
    pub(super) fn signaled(run: pgrx::Uuid) -> Self {
        Self::new(202, json!({ "run_id": run.to_string(), "signaled": true }), "signaled").of_run(run)
    }

    /// To a body that breaks a schema: that of the workflow's input, or the endpoint's own.
    pub(super) fn violations(schema: &str, violations: &[Violation]) -> Self {
        let told = json!({ "error": "the body breaks the input schema", "violations": violations });
        Self::new(422, told, schema)
    }

    /// To what has started a run already.
    pub(super) fn duplicate(run: pgrx::Uuid) -> Self {
        Self::new(200, json!({ "run_id": run.to_string(), "duplicate": true }), "duplicate").of_run(run)
    }

    /// To what can be taken when something here has changed.
    pub(super) fn later(reason: &str) -> Self {
        Self::error(503, "try again later", reason).with("retry-after", "60")
    }

    pub(super) fn of_run(mut self, run: pgrx::Uuid) -> Self {
        self.run = Some(run);
        self
    }

    /// With whether what the run answers is for this sender.
    pub(super) fn waiting(mut self, waits: bool) -> Self {
        self.waits = waits;
        self
    }

    pub(super) fn with(mut self, header: &str, value: &str) -> Self {
        self.headers.insert(header.to_owned(), Value::String(value.to_owned()));
        self
    }
}
