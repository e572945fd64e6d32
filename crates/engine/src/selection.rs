//! Which deliveries an endpoint wants, and which workflow each starts: two expressions over the event.
//!
//! An event is `{"input", "headers", "query"}`: the body as a document, the headers by their names in lower case without
//! what proves who sent it, and the text behind the `?` of the address.

use crate::expr::{Budget, Expr};
use crate::json::Json;

/// What an event consists of.
const PARTS: [&str; 3] = ["input", "headers", "query"];
/// Most bytes of the name of a workflow.
const MAX_NAME_BYTES: usize = 255;

/// The expressions of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    filter: Option<Expr>,
    route: Option<Expr>,
}

/// What is to become of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// It is not wanted.
    Ignored,
    /// It starts the endpoint's workflow.
    Default,
    /// It starts the workflow of this name.
    Named(String),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expression}: {message}")]
pub struct SelectionFault {
    /// `filter` or `route`.
    pub expression: &'static str,
    /// What is wrong; holds no value of the event.
    pub message: String,
    /// The place, where that is known: a line of the expression and a caret below it.
    pub marker: Option<String>,
}

impl Selection {
    /// Reads both; `None` wants everything, and starts the endpoint's workflow.
    ///
    /// # Errors
    /// A text that is no expression, or that reads what no event has.
    pub fn parse(filter: Option<&str>, route: Option<&str>) -> Result<Self, SelectionFault> {
        let read = |expression, text: Option<&str>| text.map(|text| compile(expression, text)).transpose();
        Ok(Self { filter: read("filter", filter)?, route: read("route", route)? })
    }

    /// Whether every event starts the endpoint's workflow, so that none need be looked at.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.filter.is_none() && self.route.is_none()
    }

    /// What is to become of an event: it is not wanted where the filter says false or null, and it starts what the route
    /// names, the endpoint's workflow where that says null.
    ///
    /// # Errors
    /// An expression that fails on this event, and a route that is no text.
    pub fn of(&self, event: &Json) -> Result<Selected, SelectionFault> {
        if let Some(filter) = &self.filter
            && matches!(evaluate("filter", filter, event)?, Json::Null | Json::Bool(false))
        {
            return Ok(Selected::Ignored);
        }
        let Some(route) = &self.route else { return Ok(Selected::Default) };
        match evaluate("route", route, event)? {
            Json::Null => Ok(Selected::Default),
            Json::Str(name) if name.len() <= MAX_NAME_BYTES => Ok(Selected::Named(name.to_string())),
            _ => fault("route", "must be the name of a workflow, or null for the endpoint's own"),
        }
    }
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

    fn select(filter: Option<&str>, route: Option<&str>, event: &str) -> Result<Selected, String> {
        let selection = Selection::parse(filter, route).map_err(|fault| fault.to_string())?;
        selection.of(&Json::parse(event).unwrap()).map_err(|fault| fault.to_string())
    }

    const EVENT: &str =
        r#"{"input": {"action": "opened", "n": 1}, "headers": {"x-github-event": "issues"}, "query": "a=1"}"#;

    #[test]
    fn a_filter_says_what_is_wanted() {
        let wanted = |filter: &str| select(Some(filter), None, EVENT);
        assert_eq!(wanted(r#".input.action == "opened""#), Ok(Selected::Default));
        assert_eq!(wanted(".input.n"), Ok(Selected::Default));
        for unwanted in [r#".headers["x-github-event"] == "push""#, ".input.other", "null", "false"] {
            assert_eq!(wanted(unwanted), Ok(Selected::Ignored), "{unwanted}");
        }
        assert_eq!(select(None, None, EVENT), Ok(Selected::Default));
    }

    #[test]
    fn a_route_says_what_is_started() {
        let started = |route: &str| select(None, Some(route), EVENT);
        let name = |name: &str| Ok(Selected::Named(name.to_owned()));
        assert_eq!(started(r#"(.headers["x-github-event"]) + "-" + .input.action"#), name("issues-opened"));
        assert_eq!(started(".input.other"), Ok(Selected::Default));
        assert!(started(".input.n").is_err());
        // What is not wanted goes nowhere.
        assert_eq!(select(Some("false"), Some(".input.n"), EVENT), Ok(Selected::Ignored));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |text: &str| Selection::parse(Some(text), None).expect_err(text);
        assert!(refused(".input.action ==").marker.is_some());
        assert_eq!(refused(".body.x").message, "an event has no .body: it has .input, .headers and .query");
        assert_eq!(Selection::parse(None, Some(".event")).expect_err("no such part").expression, "route");
        // A fault on an event names the expression and no value.
        let met = select(Some(".input.action.x"), None, EVENT).expect_err("a text has no members");
        assert!(met.starts_with("filter: ") && !met.contains("opened"), "{met}");
    }
}
