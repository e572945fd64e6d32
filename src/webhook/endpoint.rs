//! Endpoints and their secrets.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use meshhook_engine::selection::{Selection, SelectionFault};
use meshhook_engine::signature::{KeyForm, OWN_SCHEME, PRESETS, Preset, TimestampSource};
use pgrx::datum::Interval;
use pgrx::prelude::*;
use zeroize::Zeroizing;

use super::{DAY, Keep, MINUTE, SECOND, micros, path_of, preset_of, seal_place, unknown};
use crate::error::{bad_parameter, refuse, required};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::secret;
use crate::spi::{self, RawJsonb, arg};
use crate::{guc, installation, random, workflow};

/// How long deliveries with a signed time are recognised: longer than any sender tries.
const TIMED_WINDOW: i64 = 7 * DAY;
/// How long those without are, whose signature never ages.
const UNTIMED_WINDOW: i64 = 90 * DAY;
/// How long those are that come with a token: no longer than senders try, for the same body may well be sent again.
const TOKEN_WINDOW: i64 = DAY;
const KEEPS: &str = "'refused' keeps headers and body of a known sender's deliveries that started no run, 'all' of every \
                     one, 'nothing' of none.";

/// The secret of an endpoint: as given, or a fresh one in the form the preset's senders take. None where the preset has
/// none. Raises 22023 for one that can never match, and where the sender alone can make it.
fn chosen_secret(preset: &Preset, given: Option<&str>) -> Option<Zeroizing<String>> {
    if let Some(given) = given {
        if let Err(error) = preset.check_secret(given.as_bytes()) {
            bad_parameter(format!("this cannot be a secret of preset \"{}\": {error}", preset.name)).raise();
        }
        return Some(Zeroizing::new(given.to_owned()));
    }
    let key = preset.proofs.first()?.key;
    let bytes = Zeroizing::new(random::bytes::<32>());
    Some(Zeroizing::new(match key {
        KeyForm::Whsec => format!("whsec_{}", STANDARD.encode(&bytes[..])),
        KeyForm::Raw => URL_SAFE_NO_PAD.encode(&bytes[..]),
        KeyForm::Pair => format!("meshhook:{}", URL_SAFE_NO_PAD.encode(&bytes[..])),
        KeyForm::Base64 => STANDARD.encode(&bytes[..]),
        KeyForm::Hex => hex::encode(&bytes[..]),
        KeyForm::Whpk | KeyForm::Ed25519Hex | KeyForm::P256Spki => {
            bad_parameter(format!("preset \"{}\" verifies with the sender's public key", preset.name))
                .hint("Give it as secret => '…'; the sender shows it where its webhooks are set up.")
                .raise()
        }
    }))
}

/// The scheme asked for. Raises 22023 for a preset that does not exist, and for a scheme of one's own that is none, or
/// that comes with another preset.
fn chosen_preset(name: &str, scheme: Option<&str>) -> Cow<'static, Preset> {
    match scheme {
        Some(scheme) if name == OWN_SCHEME => Cow::Owned(Preset::own(scheme).unwrap_or_else(|fault| {
            bad_parameter("scheme does not say how senders sign").detail(fault.to_string()).raise()
        })),
        Some(_) => bad_parameter(format!("preset \"{name}\" has its scheme already"))
            .hint(format!("A scheme of your own goes with preset => '{OWN_SCHEME}'."))
            .raise(),
        None if name == OWN_SCHEME => bad_parameter(format!("preset \"{name}\" needs a scheme"))
            .hint("Say how senders sign: scheme => '{\"header\": \"X-Signature\"}'.")
            .raise(),
        None => Preset::by_name(name).map_or_else(
            || {
                let names: Vec<&str> = PRESETS.iter().map(|preset| &*preset.name).collect();
                bad_parameter(format!("there is no preset \"{name}\""))
                    .hint(format!(
                        "There are: {}, and {OWN_SCHEME} with a scheme of your own.",
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

/// How long deliveries are recognised, in microseconds. Raises 22023 for a time in which a signature could be used twice.
fn window(preset: &Preset, tolerance: i64, given: Option<Interval>) -> i64 {
    let is_timed = preset.timestamp != TimestampSource::None;
    let Some(given) = given else {
        return match (is_timed, preset.signs()) {
            (true, _) => TIMED_WINDOW,
            (false, true) => UNTIMED_WINDOW,
            (false, false) => TOKEN_WINDOW,
        };
    };
    let given = micros(&given);
    let least = match (is_timed, preset.signs()) {
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

fn refuse_expression(fault: SelectionFault) -> ! {
    let refusal = bad_parameter(format!("{} cannot be used: {}", fault.expression, fault.message));
    match fault.marker {
        Some(marker) => refusal.detail(format!("The place:\n{marker}")).raise(),
        None => refusal.raise(),
    }
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
) -> TableIterator<'static, (name!(endpoint, String), name!(path, String), name!(secret, Option<String>))> {
    let scheme = scheme.map(RawJsonb::text);
    let known = chosen_preset(preset, scheme.as_deref());
    let tolerance = tolerance.map_or(known.tolerance_s * SECOND, |given| micros(&given));
    if !(SECOND..=DAY).contains(&tolerance) {
        bad_parameter("tolerance must be from 1 second to 1 day").raise();
    }
    // Signed times are whole seconds.
    let tolerance = (tolerance + SECOND - 1) / SECOND * SECOND;
    if Keep::of(keep).is_none() {
        bad_parameter(format!("keep cannot be \"{keep}\"")).hint(KEEPS).raise();
    }
    if let Err(fault) = Selection::parse(filter, route) {
        refuse_expression(fault);
    }
    let dedupe_window = window(&known, tolerance, dedupe_window);
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
        spi::exec(
            "INSERT INTO meshhook.endpoint (project_id, endpoint_id, workflow_id, preset, tolerance, scheme, keep,
                                            dedupe_window, filter, route)
             VALUES ($1, $2, $3, $4, $5 * interval '1 us', $6::jsonb, $7,
                     justify_hours($8 * interval '1 us'), $9, $10)",
            &[
                arg(project.0),
                arg(endpoint.clone()),
                arg(version.workflow_id),
                arg(known.name.to_string()),
                arg(tolerance),
                arg(scheme),
                arg(keep.to_owned()),
                arg(dedupe_window),
                arg(filter.map(str::to_owned)),
                arg(route.map(str::to_owned)),
            ],
        );
        if let Some(secret) = &secret {
            keep_secret(project, &endpoint, secret);
        }
        project::audit(project, caller, "endpoint.created", &endpoint, None);
        let path = path_of(&endpoint);
        TableIterator::once((endpoint, path, secret.map(|secret| secret.to_string())))
    })
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
        project::audit(project, caller, "endpoint.dropped", endpoint, None);
    });
}
