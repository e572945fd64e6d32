//! What differs between two versions, or between any two definitions.

use meshhook_engine::definition::{Change, diff};
use meshhook_engine::json::Json;
use pgrx::prelude::*;

use super::{draft, publish};
use crate::error::{bad_parameter, required};
use crate::owner::as_owner;
use crate::project;
use crate::spi::RawJsonb;

type Changes = TableIterator<
    'static,
    (
        name!(kind, String),
        name!(subject, String),
        name!(pointer, String),
        name!(old_value, Option<RawJsonb>),
        name!(new_value, Option<RawJsonb>),
    ),
>;

/// Compares two versions of a workflow; see the COMMENT.
#[pg_extern(name = "workflow_diff")]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn workflow_diff(
    workflow: Option<&str>,
    version_a: Option<i32>,
    version_b: Option<i32>,
) -> TableIterator<
    'static,
    (
        name!(kind, String),
        name!(subject, String),
        name!(pointer, String),
        name!(old_value, Option<RawJsonb>),
        name!(new_value, Option<RawJsonb>),
    ),
> {
    let workflow = required("workflow", workflow);
    let (a, b) = as_owner(|caller| {
        let project = project::current(caller);
        let of = |version: Option<i32>| match version {
            Some(version) => publish::published(project, workflow, version),
            None => draft::definition(project, workflow),
        };
        (of(version_a), of(version_b))
    });
    rows(a, b)
}

/// Compares two definitions; see the COMMENT.
#[pg_extern(immutable, name = "workflow_diff")]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn definition_diff(
    definition_a: Option<RawJsonb>,
    definition_b: Option<RawJsonb>,
) -> TableIterator<
    'static,
    (
        name!(kind, String),
        name!(subject, String),
        name!(pointer, String),
        name!(old_value, Option<RawJsonb>),
        name!(new_value, Option<RawJsonb>),
    ),
> {
    rows(required("definition_a", definition_a), required("definition_b", definition_b))
}

#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn rows(a: RawJsonb, b: RawJsonb) -> Changes {
    let read = |definition: RawJsonb| {
        Json::parse(&definition.text()).unwrap_or_else(|error| {
            bad_parameter("a definition cannot be read").detail(error.to_string()).raise()
        })
    };
    let value = |value: Option<Json>| value.as_ref().map(RawJsonb::of);
    let row = move |change: Change| {
        let kind = change.kind.as_str().to_owned();
        (kind, change.subject, change.pointer, value(change.before), value(change.after))
    };
    TableIterator::new(diff(&read(a), &read(b)).into_iter().map(row))
}
