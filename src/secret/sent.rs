//! Secrets that calls send outside. They are kept as they come: sealed, under a key that only sidecars have.

use meshhook_engine::definition::MAX_NAME_BYTES;
use meshhook_engine::template::is_name;
use pgrx::prelude::*;

use crate::error::{bad_parameter, refuse, required};
use crate::installation;
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::spi::{self, arg};

/// How a sealed value begins; what follows is the id of the key, a colon, and base64.
const FORM: &str = "mhs1:";
/// Longest sealed value, in bytes.
const MAX_SEALED_BYTES: usize = 100_000;

/// Whether a project has a secret of this name.
pub fn exists(project: Project, name: &str) -> bool {
    spi::run_one(
        "SELECT true FROM meshhook.secret WHERE project_id = $1 AND name = $2",
        &[arg(project.0), arg(name.to_owned())],
        |row| row.must::<bool>(1),
    )
    .is_some()
}

/// Keeps a secret; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_secret(name: Option<&str>, sealed: Option<&str>) {
    let (name, sealed) = (required("name", name), required("sealed", sealed));
    check_name(name);
    // Its text must not end up in an error: it may be a secret in clear that somebody means to hand over.
    let body = sealed.strip_prefix(FORM).and_then(|rest| rest.split_once(':')).filter(|(key, body)| {
        let is_base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        !key.is_empty() && !body.is_empty() && body.bytes().all(is_base64)
    });
    if body.is_none() || sealed.len() > MAX_SEALED_BYTES {
        bad_parameter("sealed is not a value that a sidecar has sealed")
            .detail("Clear text is not taken. If this was a secret, change it: statements end up in logs.")
            .hint("meshhook-sidecar secret set NAME seals a value and hands it over.")
            .raise();
    }
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        spi::exec(
            "INSERT INTO meshhook.secret (project_id, name, sealed) VALUES ($1, $2, $3)
             ON CONFLICT (project_id, name) DO UPDATE SET sealed = excluded.sealed, changed_at = excluded.changed_at",
            &[arg(project.0), arg(name.to_owned()), arg(sealed.to_owned())],
        );
        project::audit(project, caller, "secret.set", name, None);
    });
}

/// Takes a secret away; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_secret(name: Option<&str>) {
    let name = required("name", name);
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let dropped = spi::exec(
            "DELETE FROM meshhook.secret WHERE project_id = $1 AND name = $2",
            &[arg(project.0), arg(name.to_owned())],
        );
        if dropped == 0 {
            refuse(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("there is no secret \"{name}\""))
                .hint("SELECT name FROM meshhook.secrets shows those of your project.")
                .raise();
        }
        project::audit(project, caller, "secret.dropped", name, None);
    });
}

/// Names as `$secrets.<name>` takes them.
fn check_name(name: &str) {
    if !is_name(name) || name.len() > MAX_NAME_BYTES {
        bad_parameter(format!("\"{}\" cannot be the name of a secret", name.escape_debug()))
            .hint("A name is a letter or underscore, then letters, digits and underscores: 1 to 63 of them.")
            .raise();
    }
}
