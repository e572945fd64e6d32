//! Trying a workflow in memory: nothing is read, nothing is written.

use meshhook_engine::json::Json;
use meshhook_engine::simulate::{MAX_FACTS, Mocks, simulate};
use meshhook_engine::time::Timestamp;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::start::check_document;
use crate::error::{bad_parameter, bug, required};
use crate::random::{now_micros, timestamptz, unix_micros};
use crate::spi::RawJsonb;
use crate::workflow;

/// The type of the last row of a run that has not ended.
const WAITS: &str = "simulation.waits";

/// Runs a definition in memory; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn simulate_run(
    definition: Option<RawJsonb>,
    input: default!(Option<RawJsonb>, "'{}'"),
    mocks: default!(Option<RawJsonb>, "'{}'"),
    clock: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(position, i64),
        name!(time, TimestampWithTimeZone),
        name!(type, String),
        name!(node, Option<String>),
        name!(data, RawJsonb),
    ),
> {
    let workflow = workflow::sound(&required("definition", definition).text());
    let input = required("input", input);
    check_document("input", input);
    let parse =
        |document: RawJsonb| Json::parse(&document.text()).unwrap_or_else(|error| bug(&error.to_string()));
    let mocks = Mocks::read(&parse(required("mocks", mocks))).unwrap_or_else(|message| {
        bad_parameter("the mocks are not sound")
            .detail(message)
            .hint("Give an object of outcomes by node, for example {\"charge\": {\"output\": {\"status\": 200}}}.")
            .raise()
    });
    let from = Timestamp::from_micros(clock.map_or_else(now_micros, unix_micros));
    let simulation = simulate(&workflow, parse(input), &mocks, from);
    let last = simulation.state.last_at.unwrap_or(from);
    let mut rows: Vec<_> = simulation
        .log
        .iter()
        .map(|recorded| {
            let data = recorded.event.data();
            let node = Json::parse(&data).ok().and_then(|data| Some(data.get("node")?.as_str()?.to_owned()));
            let (position, time) = (recorded.position.cast_signed(), timestamptz(recorded.at.as_micros()));
            (position, time, recorded.event.type_name().to_owned(), node, RawJsonb::of_text(&data))
        })
        .collect();
    if !simulation.state.status.is_terminal() {
        let mut data =
            vec![("for", Json::array(simulation.waits_for.iter().map(|path| Json::from(&**path))))];
        if simulation.is_cut {
            data.push(("limit", Json::from(i64::try_from(MAX_FACTS).unwrap_or(i64::MAX))));
        }
        let data = RawJsonb::of(&Json::object(data));
        let position = simulation.state.position.cast_signed() + 1;
        rows.push((position, timestamptz(last.as_micros()), WAITS.to_owned(), None, data));
    }
    TableIterator::new(rows)
}
