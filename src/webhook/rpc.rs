//! Endpoints that receive without the sidecar: a function for each, which PostgREST serves.

use meshhook_engine::signature::Preset;
use pgrx::PgSqlErrorCode;

use crate::error::{bad_parameter, refuse, required};
use crate::owner::Role;
use crate::spi::{self, arg};

/// The roles that PostgREST acts as where Supabase has set it up.
const USUAL_ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

/// Who may call an endpoint's function: the roles named, or those of the usual ones that there are; none where the
/// endpoint has no function. Raises 22023 for what does not go together, 42704 for a role that does not exist.
pub(super) fn callers(rpc: bool, named: Option<Vec<Option<String>>>, preset: &Preset) -> Option<Vec<String>> {
    if !rpc {
        if named.is_some() {
            bad_parameter("rpc_roles goes with rpc => true").raise();
        }
        return None;
    }
    // PostgREST does not tell a function what stands behind the "?".
    if preset.signs_url() || preset.is_secret_in_query() {
        bad_parameter(format!(
            "preset \"{}\" looks at the address, which PostgREST does not hand on",
            preset.name
        ))
        .hint("Let the sidecar receive it: leave rpc out.")
        .raise();
    }
    if preset.looks_at("authorization") {
        bad_parameter(format!(
            "preset \"{}\" looks at Authorization, which PostgREST takes for its own",
            preset.name
        ))
        .hint("A jwt scheme may name another header; or let the sidecar receive it.")
        .raise();
    }
    let Some(named) = named else {
        let there = USUAL_ROLES.into_iter().filter(|role| Role::named(role).is_some());
        return Some(there.map(str::to_owned).collect());
    };
    let named: Vec<String> = named.into_iter().map(|role| required("rpc_roles", role)).collect();
    if let Some(missing) = named.iter().find(|role| Role::named(role).is_none()) {
        refuse(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("role \"{missing}\" does not exist"))
            .hint("rpc_roles names the roles that PostgREST acts as.")
            .raise();
    }
    Some(named)
}

/// Makes the function of an endpoint. Called as the owner role.
pub(super) fn make(endpoint: &str, callers: Vec<String>) {
    spi::exec("SELECT meshhook.make_rpc($1, $2)", &[arg(endpoint.to_owned()), arg(callers)]);
}

/// Drops it. Called as the owner role.
pub(super) fn drop(endpoint: &str) {
    spi::exec("SELECT meshhook.drop_rpc($1)", &[arg(endpoint.to_owned())]);
}
