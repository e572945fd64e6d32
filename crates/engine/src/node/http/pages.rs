//! `pages` of an `http` node: a list that comes page by page. The sidecar follows it; here it is checked.

use std::sync::Arc;

use crate::definition::{Fields, Problems};
use crate::json::Json;

/// How the next page is found.
const WAYS: [(&str, Way); 4] =
    [("link", Way::Link), ("url", Way::Url), ("cursor", Way::Cursor), ("page", Way::Page)];
/// Most pages of one call.
const MAX_PAGES: i64 = 1_000;
/// Pages of a call where the definition says nothing.
const DEFAULT_PAGES: i64 = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Link,
    Url,
    Cursor,
    Page,
}

/// Reads the field, if it is there; the value is what the sidecar is told.
pub(super) fn read(with: &mut Fields, problems: &mut Problems) -> Option<Json> {
    let value = with.get("pages")?;
    let mut fields = Fields::of(value, with.at("pages"), problems)?;
    fields.required("by", problems);
    let way = fields.word("by", &WAYS, problems);
    for name in ["at", "items"] {
        let pointer = fields.string(name, problems);
        if pointer.is_some_and(|pointer| !pointer.is_empty() && !pointer.starts_with('/')) {
            problems.add(fields.at(name), "value", "must be a JSON pointer into the body, such as \"/data\"");
        }
    }
    let query = fields.string("query", problems);
    fields.integer("first", 0..=1, problems);
    let limit = fields.integer("limit", 1..=MAX_PAGES, problems).unwrap_or(DEFAULT_PAGES);
    fields.boolean("partial", problems);
    let way = way?;
    for (name, ways) in
        [("at", &[Way::Url, Way::Cursor][..]), ("query", &[Way::Cursor, Way::Page]), ("first", &[Way::Page])]
    {
        match (fields.get(name).is_some(), ways.contains(&way)) {
            (true, false) => problems.add(fields.at(name), "conflict", format!("\"{name}\" has no use here")),
            (false, true) if name == "at" => {
                problems.add(fields.at(name), "missing", "\"at\" says where the next page is told of");
            }
            _ => {}
        }
    }
    if query.is_some_and(str::is_empty) {
        problems.add(fields.at("query"), "value", "must be the name of a query parameter");
    }
    fields.finish(problems);
    let mut pages = value.as_obj()?.clone();
    pages.insert("limit".into(), Json::from(limit));
    Some(Json::Obj(Arc::new(pages)))
}
