//! What can be set of an endpoint, and what of it goes together: for whoever makes one and whoever changes it.

use meshhook_engine::selection::{Expressions, Selection, SelectionFault};
use meshhook_engine::signature::{Dedupe, Preset, TimestampSource};
use pgrx::datum::Interval;
use serde_json::{Map, Value, json};

use super::{Action, DAY, Keep, MINUTE, SECOND, micros, schema};
use crate::error::{Refusal, bad_parameter};
use crate::project::Project;
use crate::spi::{Arg, Row, arg};
use crate::workflow;

/// How long deliveries with a signed time are recognised: longer than any sender tries.
const TIMED_WINDOW: i64 = 7 * DAY;
/// How long those without are, whose signature never ages.
const UNTIMED_WINDOW: i64 = 90 * DAY;
/// How long those are that come with a token: no longer than senders try, for the same body may well be sent again.
const TOKEN_WINDOW: i64 = DAY;
const KEEPS: &str = "'refused' keeps headers and body of a known sender's deliveries that started no run, 'all' of every \
                     one, 'nothing' of none.";
const ACTIONS: &str = "'start' starts a run, 'signal' signals the one that has the business key, 'signal_or_start' starts one \
                       where none has it.";

/// Settings as somebody writes them; what is left out is as it comes by default. Times are in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) tolerance: Option<i64>,
    pub(super) keep: Option<String>,
    pub(super) dedupe_window: Option<i64>,
    pub(super) schema: Option<String>,
    pub(super) action: Option<String>,
    pub(super) respond_within: Option<i64>,
    pub(super) expressions: Expressions,
}

/// The columns of [`Settings`], as [`Settings::of`] reads them.
macro_rules! settings_columns {
    () => {
        "(extract(epoch FROM tolerance) * 1000000)::bigint, keep, (extract(epoch FROM dedupe_window) * 1000000)::bigint,
         schema::text, action, filter, route, business_key, signal,
         (extract(epoch FROM respond_within) * 1000000)::bigint"
    };
}
pub(super) use settings_columns;

impl Settings {
    /// The settings in a row whose columns from `first` on are [`settings_columns`].
    pub(super) fn of(row: &Row, first: i32) -> Self {
        Self {
            tolerance: row.get(first),
            keep: row.get(first + 1),
            dedupe_window: row.get(first + 2),
            schema: row.get(first + 3),
            action: row.get(first + 4),
            expressions: Expressions {
                filter: row.get(first + 5),
                route: row.get(first + 6),
                business_key: row.get(first + 7),
                signal: row.get(first + 8),
            },
            respond_within: row.get(first + 9),
        }
    }

    /// These, and what they leave out as `before` has it.
    pub(super) fn over(self, before: Self) -> Self {
        let Expressions { filter, route, business_key, signal } = self.expressions;
        Self {
            tolerance: self.tolerance.or(before.tolerance),
            keep: self.keep.or(before.keep),
            dedupe_window: self.dedupe_window.or(before.dedupe_window),
            schema: self.schema.or(before.schema),
            action: self.action.or(before.action),
            respond_within: self.respond_within.or(before.respond_within),
            expressions: Expressions {
                filter: filter.or(before.expressions.filter),
                route: route.or(before.expressions.route),
                business_key: business_key.or(before.expressions.business_key),
                signal: signal.or(before.expressions.signal),
            },
        }
    }

    /// Leaves one out again. Raises 22023 for what is no setting.
    pub(super) fn leave_out(&mut self, name: &str) {
        match name {
            "tolerance" => self.tolerance = None,
            "keep" => self.keep = None,
            "dedupe_window" => self.dedupe_window = None,
            "schema" => self.schema = None,
            "action" => self.action = None,
            "filter" => self.expressions.filter = None,
            "route" => self.expressions.route = None,
            "business_key" => self.expressions.business_key = None,
            "signal" => self.expressions.signal = None,
            "respond_within" => self.respond_within = None,
            _ => bad_parameter(format!("to_default cannot have \"{name}\" in it"))
                .hint("It takes tolerance, keep, dedupe_window, schema, action, filter, route, business_key, signal and respond_within.")
                .raise(),
        }
    }

    /// What is set, for the audit log.
    pub(super) fn told(&self) -> Map<String, Value> {
        let seconds = |micros: Option<i64>| micros.map(|micros| json!(micros / SECOND));
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let schema = self.schema.as_deref().and_then(|schema| serde_json::from_str(schema).ok());
        let all = [
            ("tolerance_seconds", seconds(self.tolerance)),
            ("keep", text(&self.keep)),
            ("dedupe_window_seconds", seconds(self.dedupe_window)),
            ("schema", schema),
            ("action", text(&self.action)),
            ("filter", text(&self.expressions.filter)),
            ("route", text(&self.expressions.route)),
            ("business_key", text(&self.expressions.business_key)),
            ("signal", text(&self.expressions.signal)),
            (
                "respond_within_seconds",
                self.respond_within.map(|micros| json!(micros as f64 / SECOND as f64)),
            ),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// All of them, with the defaults of a preset. Raises 22023 for one that cannot be, and for what does not go together.
    pub(super) fn checked(self, preset: &Preset) -> Checked {
        let tolerance = self.tolerance.unwrap_or(preset.tolerance_s * SECOND);
        if !(SECOND..=DAY).contains(&tolerance) {
            bad_parameter("tolerance must be from 1 second to 1 day").raise();
        }
        // Signed times are whole seconds.
        let tolerance = (tolerance + SECOND - 1) / SECOND * SECOND;
        let keep = self.keep.as_deref().map_or(Some(Keep::Refused), Keep::of);
        let action = self.action.as_deref().map_or(Some(Action::Start), Action::of);
        let checked = Checked {
            tolerance,
            keep: keep.unwrap_or_else(|| refuse_choice("keep", self.keep.as_deref()).hint(KEEPS).raise()),
            dedupe_window: window(preset, tolerance, self.dedupe_window),
            schema: self.schema,
            action: action
                .unwrap_or_else(|| refuse_choice("action", self.action.as_deref()).hint(ACTIONS).raise()),
            respond_within: self.respond_within,
            expressions: self.expressions,
        };
        if checked.respond_within.is_some_and(|limit| !(SECOND / 10..=30 * SECOND).contains(&limit)) {
            bad_parameter("respond_within must be from 100 milliseconds to 30 seconds")
                .hint("A run that takes longer is told of by the status URL of its delivery.")
                .raise();
        }
        if let Err(fault) = Selection::parse(&checked.expressions) {
            refuse_expression(fault);
        }
        if let Some(Err(problems)) = checked.schema.as_deref().map(schema::compiled) {
            bad_parameter("schema is no JSON Schema that can be used")
                .detail(workflow::listing(&problems))
                .raise();
        }
        checked.refuse_what_is_left_alone();
        checked
    }
}

/// Settings that go together.
#[derive(Debug)]
pub(super) struct Checked {
    tolerance: i64,
    keep: Keep,
    dedupe_window: i64,
    schema: Option<String>,
    action: Action,
    respond_within: Option<i64>,
    expressions: Expressions,
}

impl Checked {
    /// An action that lacks an expression, and an expression that no action asks for.
    fn refuse_what_is_left_alone(&self) {
        let action = self.action.name();
        let Expressions { business_key, signal, .. } = &self.expressions;
        match (self.action, business_key, signal) {
            (Action::Start, _, Some(_)) => bad_parameter("signal goes with an action that signals")
                .hint("Say action => 'signal' or 'signal_or_start', or leave signal out.")
                .raise(),
            (Action::Start, ..) | (_, Some(_), Some(_)) => {}
            (_, None, _) => bad_parameter(format!("action \"{action}\" needs a business_key"))
                .hint("Say by what of the event the run is found: business_key => '.input.order.id'.")
                .raise(),
            (_, Some(_), None) => bad_parameter(format!("action \"{action}\" needs a signal"))
                .hint("Say which one: signal => '\"paid\"', or an expression over the event, signal => '.input.type'.")
                .raise(),
        }
    }

    /// The arguments of a statement that writes them, from the first on: project, endpoint, workflow, and then as
    /// [`settings_columns`] has them.
    pub(super) fn row(self, project: Project, endpoint: &str, workflow: i64) -> Vec<Arg> {
        vec![
            arg(project.0),
            arg(endpoint.to_owned()),
            arg(workflow),
            arg(self.tolerance),
            arg(self.keep.name()),
            arg(self.dedupe_window),
            arg(self.schema),
            arg(self.action.name()),
            arg(self.expressions.filter),
            arg(self.expressions.route),
            arg(self.expressions.business_key),
            arg(self.expressions.signal),
            arg(self.respond_within),
        ]
    }
}

/// An interval as a setting.
pub(super) fn interval(given: Option<Interval>) -> Option<i64> {
    given.map(|given| micros(&given))
}

fn refuse_choice(setting: &str, given: Option<&str>) -> Refusal {
    bad_parameter(format!("{setting} cannot be \"{}\"", given.unwrap_or_default()))
}

fn refuse_expression(fault: SelectionFault) -> ! {
    let refusal = bad_parameter(format!("{} cannot be used: {}", fault.expression, fault.message));
    match fault.marker {
        Some(marker) => refusal.detail(format!("The place:\n{marker}")).raise(),
        None => refusal.raise(),
    }
}

/// How long deliveries are recognised, in microseconds. Raises 22023 for a time in which a signature could be used twice.
fn window(preset: &Preset, tolerance: i64, given: Option<i64>) -> i64 {
    let is_timed = preset.timestamp != TimestampSource::None;
    let names_delivery = preset.signs() || preset.dedupe == Dedupe::SignedId;
    let Some(given) = given else {
        return match (is_timed, names_delivery) {
            (true, _) => TIMED_WINDOW,
            (false, true) => UNTIMED_WINDOW,
            (false, false) => TOKEN_WINDOW,
        };
    };
    let least = match (is_timed, names_delivery) {
        // A signed time may be that much in the future and is taken until that much later; the rest is for fractions of
        // seconds and for how long a transaction may take.
        (true, _) => 2 * tolerance + MINUTE,
        (false, true) => DAY,
        // Whoever has a token can send whatever they like anyway.
        (false, false) => 0,
    };
    if !(least..=36_500 * DAY).contains(&given) {
        let least = least / SECOND;
        bad_parameter(format!("dedupe_window must be from {least} seconds to 36500 days"))
            .detail("Within less a signature that somebody has caught could start a second run.")
            .raise();
    }
    given
}
