//! What becomes of a delivery, by four expressions over the event: whether an endpoint wants it, which workflow it is for,
//! under which business key a run is started or found, and which signal that run is sent.
//!
//! An event is `{"input", "headers", "query"}`: the body as a document, the headers by their names in lower case without
//! what proves who sent it, and the text behind the `?` of the address.

use crate::definition;
use crate::expr::{Budget, Expr};
use crate::json::Json;

/// What an event consists of.
const PARTS: [&str; 3] = ["input", "headers", "query"];
/// Most bytes of the name of a workflow.
const MAX_NAME_BYTES: usize = 255;
/// Most bytes of a key that somebody starts a run under.
pub const MAX_KEY_BYTES: usize = 255;
/// What keys begin with that meshhook makes itself. Nobody else may hold one uncommitted: a turn would wait for it.
pub const OWN_KEYS: &str = "meshhook:";

/// The expressions of an endpoint, as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expressions {
    /// Whether a delivery is wanted: not where it says false or null.
    pub filter: Option<String>,
    /// The workflow a delivery is for; null is the endpoint's own.
    pub route: Option<String>,
    /// What a run is started under, or found by.
    pub business_key: Option<String>,
    /// The signal that the run is sent.
    pub signal: Option<String>,
}

/// The expressions of an endpoint, read.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    filter: Option<Expr>,
    route: Option<Expr>,
    business_key: Option<Expr>,
    signal: Option<Expr>,
}

/// Whom an event is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The workflow's name; none is the endpoint's own.
    pub workflow: Option<String>,
    /// The run's business key, where the endpoint has an expression for it.
    pub business_key: Option<String>,
    /// The signal's name, where the endpoint has an expression for it.
    pub signal: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expression}: {message}")]
pub struct SelectionFault {
    /// `filter`, `route`, `business_key` or `signal`.
    pub expression: &'static str,
    /// What is wrong; holds no value of the event.
    pub message: String,
    /// The place, where that is known: a line of the expression and a caret below it.
    pub marker: Option<String>,
}

impl Selection {
    /// Reads them. None at all wants everything, for the endpoint's workflow.
    ///
    /// # Errors
    /// A text that is no expression, or that reads what no event has.
    pub fn parse(written: &Expressions) -> Result<Self, SelectionFault> {
        let read = |expression, text: &Option<String>| {
            text.as_deref().map(|text| compile(expression, text)).transpose()
        };
        Ok(Self {
            filter: read("filter", &written.filter)?,
            route: read("route", &written.route)?,
            business_key: read("business_key", &written.business_key)?,
            signal: read("signal", &written.signal)?,
        })
    }

    /// Whether no event need be looked at.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        [&self.filter, &self.route, &self.business_key, &self.signal]
            .iter()
            .all(|expression| expression.is_none())
    }

    /// Whether an event is wanted.
    ///
    /// # Errors
    /// A filter that fails on it.
    pub fn wants(&self, event: &Json) -> Result<bool, SelectionFault> {
        let Some(filter) = &self.filter else { return Ok(true) };
        Ok(!matches!(evaluate("filter", filter, event)?, Json::Null | Json::Bool(false)))
    }

    /// Whom an event is for that is wanted.
    ///
    /// # Errors
    /// An expression that fails on this event, a route or signal that is no name, and a business key that is none.
    pub fn target(&self, event: &Json) -> Result<Target, SelectionFault> {
        Ok(Target {
            workflow: self.workflow(event)?,
            business_key: self.business_key(event)?,
            signal: self.signal(event)?,
        })
    }

    fn workflow(&self, event: &Json) -> Result<Option<String>, SelectionFault> {
        let Some(route) = &self.route else { return Ok(None) };
        match evaluate("route", route, event)? {
            Json::Null => Ok(None),
            Json::Str(name) if is_text(&name, MAX_NAME_BYTES) => Ok(Some(name.to_string())),
            _ => fault("route", "must be the name of a workflow, or null for the endpoint's own"),
        }
    }

    fn business_key(&self, event: &Json) -> Result<Option<String>, SelectionFault> {
        let Some(business_key) = &self.business_key else { return Ok(None) };
        match evaluate("business_key", business_key, event)? {
            Json::Num(number) if number.to_string().len() <= MAX_KEY_BYTES => Ok(Some(number.to_string())),
            Json::Str(key) if is_text(&key, MAX_KEY_BYTES) && !key.starts_with(OWN_KEYS) => {
                Ok(Some(key.to_string()))
            }
            _ => fault(
                "business_key",
                format!(
                    "must be a number or a text of 1 to {MAX_KEY_BYTES} bytes that does not begin with {OWN_KEYS}"
                ),
            ),
        }
    }

    fn signal(&self, event: &Json) -> Result<Option<String>, SelectionFault> {
        const MOST: usize = definition::MAX_NAME_BYTES;
        let Some(signal) = &self.signal else { return Ok(None) };
        match evaluate("signal", signal, event)? {
            Json::Str(name) if is_text(&name, MOST) => Ok(Some(name.to_string())),
            _ => fault("signal", format!("must be the name of a signal, a text of 1 to {MOST} bytes")),
        }
    }
}

/// Whether a text can be a name. No expression gives one with U+0000, which the database could not hold.
fn is_text(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len())
}

fn fault<T>(expression: &'static str, message: impl Into<String>) -> Result<T, SelectionFault> {
    Err(SelectionFault { expression, message: message.into(), marker: None })
}

fn compile(expression: &'static str, text: &str) -> Result<Expr, SelectionFault> {
    let compiled = Expr::parse(text).map_err(|error| SelectionFault {
        expression,
        marker: error.marker(text),
        message: error.message,
    })?;
    let unknown = compiled.paths().iter().find_map(|path| {
        let first = path.keys.first()?;
        (!PARTS.contains(&&**first)).then(|| first.clone())
    });
    match unknown {
        Some(name) => {
            fault(expression, format!("an event has no .{name}: it has .input, .headers and .query"))
        }
        None => Ok(compiled),
    }
}

fn evaluate(expression: &'static str, compiled: &Expr, event: &Json) -> Result<Json, SelectionFault> {
    compiled.eval(event, &mut Budget::node()).map_err(|error| SelectionFault {
        expression,
        marker: error.marker(compiled.text()),
        message: error.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str =
        r#"{"input": {"action": "opened", "n": 1}, "headers": {"x-github-event": "issues"}, "query": "a=1"}"#;

    fn event() -> Json {
        Json::parse(EVENT).unwrap()
    }

    fn read(expression: &str, text: &str) -> Result<Selection, SelectionFault> {
        let mut written = Expressions::default();
        let place = match expression {
            "filter" => &mut written.filter,
            "route" => &mut written.route,
            "business_key" => &mut written.business_key,
            _ => &mut written.signal,
        };
        *place = Some(text.to_owned());
        Selection::parse(&written)
    }

    fn target(expression: &str, text: &str) -> Result<Target, String> {
        let selection = read(expression, text).map_err(|fault| fault.to_string())?;
        selection.target(&event()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_filter_says_what_is_wanted() {
        let wants = |text: &str| read("filter", text).unwrap().wants(&event()).unwrap();
        assert!(wants(r#".input.action == "opened""#));
        assert!(wants(".input.n"));
        for unwanted in [r#".headers["x-github-event"] == "push""#, ".input.other", "null", "false"] {
            assert!(!wants(unwanted), "{unwanted}");
        }
        assert!(Selection::default().wants(&event()).unwrap());
    }

    #[test]
    fn a_route_says_which_workflow_it_is_for() {
        let workflow = |text: &str| target("route", text).map(|target| target.workflow);
        let named = workflow(r#"(.headers["x-github-event"]) + "-" + .input.action"#);
        assert_eq!(named, Ok(Some("issues-opened".to_owned())));
        assert_eq!(workflow(".input.other"), Ok(None));
        assert!(workflow(".input.n").is_err());
    }

    #[test]
    fn a_business_key_is_a_number_or_a_short_text() {
        let key = |text: &str| target("business_key", text).map(|target| target.business_key);
        assert_eq!(key(r#""issue-" + (.input.n | tostring)"#), Ok(Some("issue-1".to_owned())));
        assert_eq!(key(".input.n"), Ok(Some("1".to_owned())));
        let long = format!("\"{}\"", "x".repeat(MAX_KEY_BYTES + 1));
        for none in [".input.other", "\"\"", ".input", "true", "\"meshhook:1\"", &long] {
            let met = key(none).expect_err(none);
            assert!(met.starts_with("business_key: must be "), "{none}: {met}");
        }
    }

    #[test]
    fn a_signal_is_a_name() {
        let name = |text: &str| target("signal", text).map(|target| target.signal);
        assert_eq!(name(".input.action"), Ok(Some("opened".to_owned())));
        let long = format!("\"{}\"", "x".repeat(definition::MAX_NAME_BYTES + 1));
        for none in [".input.n", ".input.other", "\"\"", &long] {
            assert!(name(none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |expression: &str, text: &str| read(expression, text).expect_err(text);
        assert!(refused("filter", ".input.action ==").marker.is_some());
        let met = refused("filter", ".body.x");
        assert_eq!(met.message, "an event has no .body: it has .input, .headers and .query");
        for expression in ["filter", "route", "business_key", "signal"] {
            assert_eq!(refused(expression, ".event").expression, expression);
        }
        // A fault on an event names the expression and no value.
        let met = target("route", ".input.action.x").expect_err("a text has no members");
        assert!(met.starts_with("route: ") && !met.contains("opened"), "{met}");
    }
}
