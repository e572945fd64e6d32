//! Tags: what people find runs by.

use pgrx::prelude::*;

use crate::error::{bad_parameter, required, unknown_run};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::spi::{self, arg};

/// Most tags of a run.
const MAX_TAGS: usize = 32;
/// Longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// Tags as they are stored: sorted, each once. Raises 22023 for too many and for what is no tag.
pub fn checked(tags: Vec<Option<String>>) -> Vec<String> {
    let mut tags: Vec<String> = tags.into_iter().map(|tag| required("a tag", tag)).collect();
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > MAX_TAGS {
        bad_parameter(format!("a run has at most {MAX_TAGS} tags")).raise();
    }
    if let Some(tag) = tags.iter().find(|tag| tag.is_empty() || tag.len() > MAX_TAG_BYTES) {
        bad_parameter(format!("a tag has 1 to {MAX_TAG_BYTES} bytes"))
            .detail(format!("One has {}.", tag.len()))
            .raise();
    }
    tags
}

/// Tags a run. Called as the owner role.
pub fn add(project: Project, run: pgrx::Uuid, tags: &[String]) {
    if tags.is_empty() {
        return;
    }
    spi::exec(
        "INSERT INTO meshhook.run_tag (project_id, run_id, tag) SELECT $1, $2, unnest($3::text[]) ON CONFLICT DO NOTHING",
        &[arg(project.0), arg(run), arg(tags.to_vec())],
    );
}

/// Replaces the tags of a run; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_run_tags(run: Option<pgrx::Uuid>, tags: Vec<Option<String>>) {
    let (run, tags) = (required("run", run), checked(tags));
    as_owner(|caller| {
        let project = project::current(caller);
        spi::run_one(
            "SELECT FROM meshhook.run WHERE project_id = $1 AND run_id = $2",
            &[arg(project.0), arg(run)],
            |_| (),
        )
        .unwrap_or_else(|| unknown_run(run).raise());
        spi::exec(
            "DELETE FROM meshhook.run_tag WHERE project_id = $1 AND run_id = $2 AND tag <> ALL ($3)",
            &[arg(project.0), arg(run), arg(tags.clone())],
        );
        add(project, run, &tags);
    });
}
