//! Flow control of a workflow: how many of its runs there may be at once, and how many may start in a while.

use super::fields::{Fields, Problems};
use crate::expr::Budget;
use crate::json::Json;
use crate::template::{Template, TemplateOptions};

/// Most runs at once, and most starts in a period.
pub const MAX_LIMIT: i64 = 100_000;
/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// Longest period of a rate, in milliseconds: 30 days.
pub const MAX_PERIOD_MS: u64 = 30 * 86_400_000;

/// What becomes of a start while its limit is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLimit {
    /// It waits.
    Queue,
    /// It is recorded and ends as canceled.
    Skip,
    /// The run that has been going longest is canceled in its favour.
    CancelOldest,
}

impl OnLimit {
    /// The word of the definition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Skip => "skip",
            Self::CancelOldest => "cancel_oldest",
        }
    }
}

/// How many runs there may be at once.
#[derive(Debug)]
pub struct Concurrency {
    /// The number.
    pub limit: u32,
    /// Runs with different keys are counted apart.
    key: Option<Template>,
    /// What happens to the others.
    pub on_limit: OnLimit,
}

/// How many runs may start in a period.
#[derive(Debug)]
pub struct Rate {
    /// The number.
    pub limit: u32,
    /// The period, in milliseconds.
    pub per_ms: u64,
    key: Option<Template>,
}

/// The limits of a workflow.
#[derive(Debug, Default)]
pub struct Flow {
    /// Of runs at once.
    pub concurrency: Option<Concurrency>,
    /// Of starts.
    pub rate: Option<Rate>,
}

/// What a start is counted under; `None`: not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Among the runs at once.
    pub concurrency: Option<String>,
    /// Among the starts.
    pub rate: Option<String>,
}

impl Flow {
    /// Whether starts have to ask.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.concurrency.is_some() || self.rate.is_some()
    }

    /// The keys of a start. `run` is what is known of the run before it starts: id, workflow, version, trigger.
    ///
    /// # Errors
    /// A key cannot be computed from this input, or is too long.
    pub fn keys(&self, input: Json, run: Json) -> Result<Keys, String> {
        let root = Json::object([("input", input), ("run", run)]);
        let concurrency =
            self.concurrency.as_ref().map(|limit| key("concurrency", limit.key.as_ref(), &root));
        let rate = self.rate.as_ref().map(|limit| key("rate", limit.key.as_ref(), &root));
        Ok(Keys { concurrency: concurrency.transpose()?, rate: rate.transpose()? })
    }
}

/// A text stands for itself, anything else for its JSON text; no key is one for the whole workflow.
fn key(limit: &str, template: Option<&Template>, root: &Json) -> Result<String, String> {
    let Some(template) = template else { return Ok(String::new()) };
    let value = template
        .render(root, &mut Budget::node())
        .map_err(|(_, error)| format!("the {limit} key cannot be computed: {error}"))?
        .value;
    let key = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if key.len() > MAX_KEY_BYTES {
        return Err(format!("the {limit} key has {} bytes; the limit is {MAX_KEY_BYTES}", key.len()));
    }
    if key.contains('\0') {
        return Err(format!("the {limit} key has a NUL character in it"));
    }
    Ok(key)
}

/// Reads `concurrency` and `rate` of a definition.
pub(super) fn read(fields: &mut Fields, problems: &mut Problems) -> Flow {
    Flow { concurrency: read_concurrency(fields, problems), rate: read_rate(fields, problems) }
}

fn read_concurrency(fields: &mut Fields, problems: &mut Problems) -> Option<Concurrency> {
    let at = fields.at("concurrency");
    let mut fields = Fields::of(fields.get("concurrency")?, at, problems)?;
    let limit = read_limit(&mut fields, problems);
    let key = read_key(&mut fields, problems);
    let words = [OnLimit::Queue, OnLimit::Skip, OnLimit::CancelOldest].map(|word| (word.as_str(), word));
    let on_limit = fields.word("on_limit", &words, problems).unwrap_or(OnLimit::Queue);
    fields.finish(problems);
    Some(Concurrency { limit: limit?, key, on_limit })
}

fn read_rate(fields: &mut Fields, problems: &mut Problems) -> Option<Rate> {
    let at = fields.at("rate");
    let mut fields = Fields::of(fields.get("rate")?, at, problems)?;
    let limit = read_limit(&mut fields, problems);
    fields.required("per", problems);
    let per_ms = fields.duration_ms("per", problems);
    if per_ms.is_some_and(|per_ms| !(1..=MAX_PERIOD_MS).contains(&per_ms)) {
        problems.add(fields.at("per"), "range", "\"per\" must be from 1 ms to 30 days");
    }
    let key = read_key(&mut fields, problems);
    fields.finish(problems);
    Some(Rate { limit: limit?, per_ms: per_ms?, key })
}

fn read_limit(fields: &mut Fields, problems: &mut Problems) -> Option<u32> {
    fields.required("limit", problems)?;
    let limit = fields.integer("limit", 1..=MAX_LIMIT, problems)?;
    u32::try_from(limit).ok()
}

fn read_key(fields: &mut Fields, problems: &mut Problems) -> Option<Template> {
    fields.string("key", problems)?;
    fields.template_with("key", TemplateOptions { allow_variables: false }, problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Workflow;

    fn workflow(flow: &str) -> Result<Workflow, Vec<String>> {
        let text = format!(r#"{{"name": "w", {flow}, "nodes": [{{"id": "a", "type": "task"}}]}}"#);
        let found = Workflow::compile(&Json::parse(&text).expect("the test writes JSON"));
        found.map_err(|problems| problems.into_iter().map(|p| format!("{} {}", p.pointer, p.code)).collect())
    }

    #[test]
    fn keys_come_from_input_and_run() {
        let flow = workflow(
            r#""concurrency": {"limit": 5, "key": "{{ .input.customer }}", "on_limit": "skip"},
               "rate": {"limit": 100, "per": "1m", "key": "{{ .run.workflow }}/{{ .input.customer }}"}"#,
        )
        .expect("the definition is sound")
        .flow;
        let limits = flow.concurrency.as_ref().map(|limit| (limit.limit, limit.on_limit));
        assert_eq!(limits, Some((5, OnLimit::Skip)));
        assert_eq!(flow.rate.as_ref().map(|rate| (rate.limit, rate.per_ms)), Some((100, 60_000)));
        let keys =
            |input| flow.keys(Json::parse(input).unwrap(), Json::object([("workflow", Json::from("w"))]));
        let both = |concurrency: &str, rate: &str| {
            Ok(Keys { concurrency: Some(concurrency.to_owned()), rate: Some(rate.to_owned()) })
        };
        assert_eq!(keys(r#"{"customer": "ann"}"#), both("ann", "w/ann"));
        assert_eq!(keys(r#"{"customer": 7}"#), both("7", "w/7"));
        // Null inside a text is an error, and a key is no place for a document.
        assert!(keys("{}").is_err());
        assert!(keys(&format!(r#"{{"customer": "{}"}}"#, "x".repeat(256))).is_err());
    }

    #[test]
    fn without_a_key_the_whole_workflow_is_counted() {
        let flow = workflow(r#""concurrency": {"limit": 1}"#).expect("the definition is sound").flow;
        let keys = flow.keys(Json::Null, Json::Null);
        assert_eq!(keys, Ok(Keys { concurrency: Some(String::new()), rate: None }));
    }

    #[test]
    fn faults_are_found_before_a_run() {
        let faults = |flow: &str| workflow(flow).err().unwrap_or_default();
        assert_eq!(faults(r#""concurrency": {}"#), ["/concurrency/limit missing"]);
        assert_eq!(faults(r#""concurrency": {"limit": 0}"#), ["/concurrency/limit range"]);
        assert_eq!(
            faults(r#""concurrency": {"limit": 1, "on_limit": "drop"}"#),
            ["/concurrency/on_limit value"]
        );
        assert_eq!(faults(r#""concurrency": {"limit": 1, "key": 7}"#), ["/concurrency/key type"]);
        assert_eq!(
            faults(r#""concurrency": {"limit": 1, "key": "{{ $secrets.a }}"}"#),
            ["/concurrency/key expression"]
        );
        assert_eq!(faults(r#""rate": {"limit": 1}"#), ["/rate/per missing"]);
        assert_eq!(faults(r#""rate": {"limit": 1, "per": "40d"}"#), ["/rate/per range"]);
    }
}
