//! Trying out expressions and templates on a sample, the way a node would evaluate them.

use meshhook_engine::expr::{Budget, Expr, ExprError};
use meshhook_engine::json::Json;
use meshhook_engine::template::{Template, TemplateError, TemplateOptions};
use pgrx::prelude::*;

use crate::error::{refuse, required};
use crate::spi::RawJsonb;

/// Largest sample and template, in bytes of jsonb.
const MAX_SAMPLE_BYTES: usize = 4 << 20;

/// Evaluates an expression on a sample; see the COMMENT.
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
#[pg_extern(immutable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn preview_expression(
    expression: Option<&str>,
    sample: default!(Option<RawJsonb>, "'{}'"),
) -> TableIterator<
    'static,
    (
        name!(ok, bool),
        name!(output, Option<RawJsonb>),
        name!(type, Option<String>),
        name!(steps, i64),
        name!(code, Option<String>),
        name!(message, Option<String>),
        name!(at_character, Option<i32>),
        name!(marker, Option<String>),
        name!(raised, Option<RawJsonb>),
    ),
> {
    let text = required("expression", expression);
    let sample = read("sample", required("sample", sample));
    let mut budget = Budget::node();
    let result = Expr::parse(text).and_then(|expr| expr.eval(&sample, &mut budget));
    let (steps, (ok, output, kind, fault)) = (budget.used_steps().cast_signed(), shown(result));
    let Fault { code, message, at_character, marker, raised } =
        fault.map(|error| Fault::of(&error, text)).unwrap_or_default();
    TableIterator::once((ok, output, kind, steps, code, message, at_character, marker, raised))
}

/// Renders a template on a sample; see the COMMENT.
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
#[pg_extern(immutable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn preview_template(
    template: Option<RawJsonb>,
    sample: default!(Option<RawJsonb>, "'{}'"),
) -> TableIterator<
    'static,
    (
        name!(ok, bool),
        name!(output, Option<RawJsonb>),
        name!(type, Option<String>),
        name!(steps, i64),
        name!(pointer, Option<String>),
        name!(code, Option<String>),
        name!(message, Option<String>),
        name!(at_character, Option<i32>),
        name!(marker, Option<String>),
        name!(raised, Option<RawJsonb>),
    ),
> {
    let source = read("template", required("template", template));
    let sample = read("sample", required("sample", sample));
    let mut budget = Budget::node();
    let rendered = Template::compile(&source, TemplateOptions { allow_variables: true })
        .and_then(|template| template.render(&sample, &mut budget).map_err(|fault| vec![fault]));
    let steps = budget.used_steps().cast_signed();
    let rows: Vec<_> = match rendered {
        Ok(rendered) => {
            let (ok, output, kind, _) = shown(Ok(rendered.masked()));
            vec![(ok, output, kind, steps, None, None, None, None, None, None)]
        }
        Err(errors) => errors
            .into_iter()
            .map(|(pointer, error): TemplateError| {
                let text = source.pointer(&pointer).and_then(Json::as_str).unwrap_or_default();
                let fault = Fault::of(&error, text);
                let Fault { code, message, at_character, marker, raised } = fault;
                (false, None, None, steps, Some(pointer), code, message, at_character, marker, raised)
            })
            .collect(),
    };
    TableIterator::new(rows)
}

/// The columns that tell of a fault.
#[derive(Default)]
struct Fault {
    code: Option<String>,
    message: Option<String>,
    at_character: Option<i32>,
    marker: Option<String>,
    raised: Option<RawJsonb>,
}

impl Fault {
    fn of(error: &ExprError, text: &str) -> Fault {
        Fault {
            code: Some(error.code.as_str().to_owned()),
            message: Some(error.message.clone()),
            at_character: error.offset.and_then(|offset| i32::try_from(offset + 1).ok()),
            marker: error.marker(text),
            raised: error.payload.as_ref().map(RawJsonb::of),
        }
    }
}

type Shown = (bool, Option<RawJsonb>, Option<String>, Option<ExprError>);

fn shown(result: Result<Json, ExprError>) -> Shown {
    match result {
        Ok(value) => {
            let output = RawJsonb::of(&value);
            (true, Some(output), Some(value.type_name().to_owned()), None)
        }
        Err(error) => (false, None, None, Some(error)),
    }
}

/// An argument's value. Raises 54000 for one that is too large, 22023 for one that nests too deeply.
fn read(name: &str, value: RawJsonb) -> Json {
    if value.size() > MAX_SAMPLE_BYTES {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("{name} is too large"))
            .detail(format!("It has {} bytes; {MAX_SAMPLE_BYTES} are allowed.", value.size()))
            .raise()
    }
    Json::parse(&value.text())
        .unwrap_or_else(|error| crate::error::bad_parameter(format!("{name}: {error}")).raise())
}
