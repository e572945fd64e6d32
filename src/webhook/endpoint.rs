//! Endpoints and their secrets.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use meshhook_engine::selection::Expressions;
use meshhook_engine::signature::{JWT, KeyForm, OWN_SCHEME, PRESETS, Preset, SchemeFault};
use pgrx::datum::Interval;
use pgrx::prelude::*;
use serde_json::json;
use zeroize::Zeroizing;

use super::settings::{Settings, interval, settings_columns};
use super::{described, path_of, preset_of, rpc, seal_place, unknown};
use crate::error::{bad_parameter, refuse, required};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::secret;
use crate::spi::{self, RawJsonb, arg};
use crate::{guc, installation, random, workflow};

/// The secret of an endpoint: as given, or a fresh one in the form the preset's senders take. None where the preset has
/// none. Raises 22023 for one that can never match, and where the sender alone can make it.
fn chosen_secret(preset: &Preset, given: Option<&str>) -> Option<Zeroizing<String>> {
    if let Some(given) = given {
        if let Err(error) = preset.check_secret(given.as_bytes()) {
            bad_parameter(format!("this cannot be a secret of preset \"{}\": {error}", preset.name)).raise();
        }
        return Some(Zeroizing::new(given.to_owned()));
    }
    let public = || -> ! {
        bad_parameter(format!("preset \"{}\" verifies with the sender's public key", preset.name))
            .hint("Give it as secret => '…'; the sender shows it where its webhooks are set up.")
            .raise()
    };
    if let Some(token) = &preset.token {
        if !token.is_shared() {
            public();
        }
        // As many bytes as the longest hash.
        return Some(Zeroizing::new(URL_SAFE_NO_PAD.encode(&Zeroizing::new(random::bytes::<64>())[..])));
    }
    let key = preset.proofs.first()?.key;
    let bytes = Zeroizing::new(random::bytes::<32>());
    Some(Zeroizing::new(match key {
        KeyForm::Whsec => format!("whsec_{}", STANDARD.encode(&bytes[..])),
        KeyForm::Raw => URL_SAFE_NO_PAD.encode(&bytes[..]),
        KeyForm::Pair => format!("meshhook:{}", URL_SAFE_NO_PAD.encode(&bytes[..])),
        KeyForm::Base64 => STANDARD.encode(&bytes[..]),
        KeyForm::Hex => hex::encode(&bytes[..]),
        KeyForm::Whpk | KeyForm::Ed25519Hex | KeyForm::P256Spki => public(),
    }))
}

/// The scheme asked for. Raises 22023 for a preset that does not exist, and for a scheme that is none, is missing, or comes
/// with another preset.
fn chosen_preset(name: &str, scheme: Option<&str>) -> Cow<'static, Preset> {
    let refuse_scheme = |fault: SchemeFault| -> ! {
        bad_parameter("scheme does not say how senders sign").detail(fault.to_string()).raise()
    };
    match (scheme, name) {
        (Some(scheme), _) => match described(name, scheme) {
            Some(described) => Cow::Owned(described.unwrap_or_else(|fault| refuse_scheme(fault))),
            None => bad_parameter(format!("preset \"{name}\" has its scheme already"))
                .hint(format!("A scheme of your own goes with preset => '{OWN_SCHEME}' or '{JWT}'."))
                .raise(),
        },
        (None, OWN_SCHEME) => bad_parameter(format!("preset \"{name}\" needs a scheme"))
            .hint("Say how senders sign: scheme => '{\"header\": \"X-Signature\"}'.")
            .raise(),
        (None, JWT) => bad_parameter(format!("preset \"{name}\" needs a scheme"))
            .hint("Say which tokens count: scheme => '{\"algorithms\": \"RS256\", \"issuer\": \"…\", \"audience\": \"…\"}'.")
            .raise(),
        (None, _) => Preset::by_name(name).map_or_else(
            || {
                let names: Vec<&str> = PRESETS.iter().map(|preset| &*preset.name).collect();
                bad_parameter(format!("there is no preset \"{name}\""))
                    .hint(format!(
                        "There are: {}, and {OWN_SCHEME} and {JWT} with a scheme of your own.",
                        names.join(", ")
                    ))
                    .raise()
            },
            Cow::Borrowed,
        ),
    }
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
#[allow(clippy::too_many_arguments, reason = "the arguments are the SQL contract")]
fn create_endpoint(
    workflow: &str,
    preset: default!(&str, "'standard'"),
    tolerance: default!(Option<Interval>, "NULL"),
    secret: default!(Option<&str>, "NULL"),
    scheme: default!(Option<RawJsonb>, "NULL"),
    keep: default!(&str, "'refused'"),
    dedupe_window: default!(Option<Interval>, "NULL"),
    filter: default!(Option<&str>, "NULL"),
    route: default!(Option<&str>, "NULL"),
    action: default!(&str, "'start'"),
    business_key: default!(Option<&str>, "NULL"),
    signal: default!(Option<&str>, "NULL"),
    schema: default!(Option<RawJsonb>, "NULL"),
    rpc: default!(bool, "false"),
    rpc_roles: default!(Option<Vec<Option<String>>>, "NULL"),
    respond_within: default!(Option<Interval>, "NULL"),
) -> TableIterator<'static, (name!(endpoint, String), name!(path, String), name!(secret, Option<String>))> {
    let scheme = scheme.map(RawJsonb::text);
    let known = chosen_preset(preset, scheme.as_deref());
    let settings = Settings {
        tolerance: interval(tolerance),
        keep: Some(keep.to_owned()),
        dedupe_window: interval(dedupe_window),
        schema: schema.map(RawJsonb::text),
        action: Some(action.to_owned()),
        respond_within: interval(respond_within),
        expressions: expressions(filter, route, business_key, signal),
    };
    let settings = settings.checked(&known);
    let callers = rpc::callers(rpc, rpc_roles, &known);
    if known.signs_url() && guc::public_url().is_none() {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("preset \"{preset}\" signs the address it sends to, and nobody knows that"),
        )
        .hint("Set meshhook.public_url to the address that senders reach the sidecar at, and reload.")
        .raise();
    }
    let secret = chosen_secret(&known, secret);
    if secret.is_none() {
        pgrx::warning!("preset \"{preset}\" verifies nothing: whoever knows the address starts runs");
    }
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let version = workflow::find(project, workflow, None);
        let endpoint = URL_SAFE_NO_PAD.encode(random::bytes::<16>());
        let mut row = settings.row(project, &endpoint, version.workflow_id);
        row.extend([arg(known.name.to_string()), arg(scheme), arg(rpc)]);
        spi::exec(
            "INSERT INTO meshhook.endpoint (project_id, endpoint_id, workflow_id, tolerance, keep, dedupe_window, schema,
                                            action, filter, route, business_key, signal, respond_within, preset, scheme, rpc)
             VALUES ($1, $2, $3, $4 * interval '1 us', $5, justify_hours($6 * interval '1 us'), $7::jsonb, $8, $9, $10,
                     $11, $12, $13 * interval '1 us', $14, $15::jsonb, $16)",
            &row,
        );
        if let Some(secret) = &secret {
            keep_secret(project, &endpoint, secret);
        }
        callers.into_iter().for_each(|callers| rpc::make(&endpoint, callers));
        project::audit(project, caller, "endpoint.created", &endpoint, None);
        let path = path_of(&endpoint);
        TableIterator::once((endpoint, path, secret.map(|secret| secret.to_string())))
    })
}

/// Changes settings of an endpoint; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments, reason = "the arguments are the SQL contract")]
fn alter_endpoint(
    endpoint: Option<&str>,
    workflow: default!(Option<&str>, "NULL"),
    tolerance: default!(Option<Interval>, "NULL"),
    keep: default!(Option<&str>, "NULL"),
    dedupe_window: default!(Option<Interval>, "NULL"),
    filter: default!(Option<&str>, "NULL"),
    route: default!(Option<&str>, "NULL"),
    action: default!(Option<&str>, "NULL"),
    business_key: default!(Option<&str>, "NULL"),
    signal: default!(Option<&str>, "NULL"),
    schema: default!(Option<RawJsonb>, "NULL"),
    respond_within: default!(Option<Interval>, "NULL"),
    to_default: default!(Vec<Option<String>>, "'{}'"),
) {
    let endpoint = required("endpoint", endpoint);
    let given = Settings {
        tolerance: interval(tolerance),
        keep: keep.map(str::to_owned),
        dedupe_window: interval(dedupe_window),
        schema: schema.map(RawJsonb::text),
        action: action.map(str::to_owned),
        respond_within: interval(respond_within),
        expressions: expressions(filter, route, business_key, signal),
    };
    let to_default: Vec<String> = to_default.into_iter().map(|name| required("to_default", name)).collect();
    let mut changed = given.told();
    changed.extend(workflow.map(|name| ("workflow".to_owned(), json!(name))));
    if changed.is_empty() && to_default.is_empty() {
        bad_parameter("nothing is given that could be changed")
            .hint("Name what changes: filter => '.input.n > 1'; or what comes by default again: to_default => '{filter}'.")
            .raise();
    }
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let (preset, workflow_id, mut before) =
            spi::run_one(LOCKED, &[arg(project.0), arg(endpoint.to_owned())], |row| {
                let preset = preset_of(&row.must::<String>(1), row.get::<String>(2).as_deref());
                (preset, row.must::<i64>(3), Settings::of(row, 4))
            })
            .and_then(|(preset, workflow, before)| Some((preset?, workflow, before)))
            .unwrap_or_else(|| unknown(endpoint));
        let mut given = given;
        for name in &to_default {
            before.leave_out(name);
            let is_given = given.told().len();
            given.leave_out(name);
            if given.told().len() < is_given {
                bad_parameter(format!("{name} is given and in to_default"))
                    .hint("Leave one of them out.")
                    .raise();
            }
        }
        let settings = given.over(before).checked(&preset);
        let workflow_id =
            workflow.map_or(workflow_id, |name| workflow::find(project, name, None).workflow_id);
        spi::exec(
            "UPDATE meshhook.endpoint
             SET workflow_id = $3, tolerance = $4 * interval '1 us', keep = $5,
                 dedupe_window = justify_hours($6 * interval '1 us'), schema = $7::jsonb, action = $8, filter = $9,
                 route = $10, business_key = $11, signal = $12, respond_within = $13 * interval '1 us'
             WHERE project_id = $1 AND endpoint_id = $2",
            &settings.row(project, endpoint, workflow_id),
        );
        let details = json!({ "changed": changed, "to_default": to_default });
        project::audit(project, caller, "endpoint.altered", endpoint, Some(details.to_string()));
    });
}

/// An endpoint's row, locked: what is settled for good, and its settings.
const LOCKED: &str = concat!(
    "SELECT preset, scheme::text, workflow_id, ",
    settings_columns!(),
    " FROM meshhook.endpoint WHERE project_id = $1 AND endpoint_id = $2 AND dropped_at IS NULL FOR UPDATE"
);

fn expressions(
    filter: Option<&str>,
    route: Option<&str>,
    business_key: Option<&str>,
    signal: Option<&str>,
) -> Expressions {
    let [filter, route, business_key, signal] =
        [filter, route, business_key, signal].map(|text| text.map(str::to_owned));
    Expressions { filter, route, business_key, signal }
}

/// Gives an endpoint a new secret; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rotate_endpoint_secret(
    endpoint: &str,
    overlap: default!(Interval, "'24 hours'"),
    secret: default!(Option<&str>, "NULL"),
) -> String {
    as_owner(|caller| {
        let project = project::current(caller);
        let preset = spi::run_one(
            "SELECT preset, scheme::text FROM meshhook.endpoint
             WHERE project_id = $1 AND endpoint_id = $2
               AND dropped_at IS NULL FOR UPDATE",
            &[arg(project.0), arg(endpoint.to_owned())],
            |row| preset_of(&row.must::<String>(1), row.get::<String>(2).as_deref()),
        );
        let Some(preset) = preset.flatten() else { unknown(endpoint) };
        spi::exec(
            "DELETE FROM meshhook.endpoint_secret WHERE project_id = $1 AND endpoint_id = $2 AND expires_at < now()",
            &[arg(project.0), arg(endpoint.to_owned())],
        );
        spi::exec(
            "UPDATE meshhook.endpoint_secret SET expires_at = least(expires_at, now() + $3)
             WHERE project_id = $1 AND endpoint_id = $2",
            &[arg(project.0), arg(endpoint.to_owned()), arg(overlap)],
        );
        let Some(secret) = chosen_secret(&preset, secret) else {
            bad_parameter(format!("preset \"{}\" has no secret to rotate", preset.name)).raise()
        };
        keep_secret(project, endpoint, &secret);
        project::audit(project, caller, "endpoint.secret_rotated", endpoint, None);
        secret.to_string()
    })
}

/// Takes an endpoint away; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_endpoint(endpoint: Option<&str>) {
    let endpoint = required("endpoint", endpoint);
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let dropped = spi::exec(
            "UPDATE meshhook.endpoint SET dropped_at = now()
             WHERE project_id = $1 AND endpoint_id = $2 AND dropped_at IS NULL",
            &[arg(project.0), arg(endpoint.to_owned())],
        );
        if dropped == 0 {
            unknown(endpoint);
        }
        spi::exec(
            "DELETE FROM meshhook.endpoint_secret WHERE project_id = $1 AND endpoint_id = $2",
            &[arg(project.0), arg(endpoint.to_owned())],
        );
        rpc::drop(endpoint);
        project::audit(project, caller, "endpoint.dropped", endpoint, None);
    });
}
