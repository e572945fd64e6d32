//! Endpoints and their secrets.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use meshhook_engine::signature::{KeyForm, PRESETS, Preset};
use pgrx::datum::Interval;
use pgrx::prelude::*;
use zeroize::Zeroizing;

use super::seal_place;
use crate::error::{bad_parameter, refuse};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::secret;
use crate::spi::{self, arg};
use crate::{installation, random, workflow};

/// A fresh secret in the form the preset's senders take.
fn new_secret(preset: &Preset) -> Zeroizing<String> {
    let bytes = Zeroizing::new(random::bytes::<32>());
    Zeroizing::new(match preset.key {
        KeyForm::Whsec => format!("whsec_{}", STANDARD.encode(&bytes[..])),
        KeyForm::Raw => URL_SAFE_NO_PAD.encode(&bytes[..]),
    })
}

/// Seals and stores a secret of an endpoint.
fn keep_secret(project: Project, endpoint: &str, clear: &str) {
    let (id, _) = random::uuid_v7();
    let sealed = secret::seal(clear.as_bytes(), &seal_place(project, endpoint, id))
        .unwrap_or_else(|error| error.refuse("the secret cannot be sealed").raise());
    spi::exec(
        "INSERT INTO meshhook.endpoint_secret (project_id, endpoint_id, secret_id, sealed) VALUES ($1, $2, $3, $4)",
        &[arg(project.0), arg(endpoint.to_owned()), arg(id), arg(sealed)],
    );
}

/// Makes an address for a workflow; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_endpoint(
    workflow: &str,
    preset: default!(&str, "'standard'"),
    tolerance: default!(Interval, "'5 minutes'"),
) -> TableIterator<'static, (name!(endpoint, String), name!(path, String), name!(secret, String))> {
    let Some(known) = Preset::by_name(preset) else {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        bad_parameter(format!("there is no preset \"{preset}\""))
            .hint(format!("There are: {}.", names.join(", ")))
            .raise()
    };
    if !(1_000_000..=86_400_000_000).contains(&tolerance.as_micros()) {
        bad_parameter("tolerance must be from 1 second to 1 day").raise();
    }
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let version = workflow::find(project, workflow, None);
        let endpoint = URL_SAFE_NO_PAD.encode(random::bytes::<16>());
        spi::exec(
            "INSERT INTO meshhook.endpoint (project_id, endpoint_id, workflow_id, preset, tolerance) VALUES ($1, $2, $3, $4, $5)",
            &[
                arg(project.0),
                arg(endpoint.clone()),
                arg(version.workflow_id),
                arg(known.name),
                arg(tolerance),
            ],
        );
        let secret = new_secret(known);
        keep_secret(project, &endpoint, &secret);
        project::audit(project, caller, "endpoint.created", &endpoint, None);
        let path = format!("/hooks/{endpoint}");
        TableIterator::once((endpoint, path, secret.to_string()))
    })
}

/// Gives an endpoint a new secret; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rotate_endpoint_secret(endpoint: &str, overlap: default!(Interval, "'24 hours'")) -> String {
    as_owner(|caller| {
        let project = project::current(caller);
        let preset = spi::run_one(
            "SELECT preset FROM meshhook.endpoint WHERE project_id = $1 AND endpoint_id = $2 FOR UPDATE",
            &[arg(project.0), arg(endpoint.to_owned())],
            |row| row.must::<String>(1),
        );
        let Some(preset) = preset.as_deref().and_then(Preset::by_name) else {
            refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("endpoint \"{endpoint}\" does not exist"))
                .raise()
        };
        spi::exec(
            "DELETE FROM meshhook.endpoint_secret WHERE project_id = $1 AND endpoint_id = $2 AND expires_at < now()",
            &[arg(project.0), arg(endpoint.to_owned())],
        );
        spi::exec(
            "UPDATE meshhook.endpoint_secret SET expires_at = least(expires_at, now() + $3)
             WHERE project_id = $1 AND endpoint_id = $2",
            &[arg(project.0), arg(endpoint.to_owned()), arg(overlap)],
        );
        let secret = new_secret(preset);
        keep_secret(project, endpoint, &secret);
        project::audit(project, caller, "endpoint.secret_rotated", endpoint, None);
        secret.to_string()
    })
}
