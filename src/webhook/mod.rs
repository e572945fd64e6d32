//! Webhooks: endpoints and what arrives at them.

mod endpoint;
mod receive;

use std::borrow::Cow;

use meshhook_engine::signature::{OWN_SCHEME, Preset};

use crate::project::Project;

/// An endpoint as intake needs it.
#[derive(Debug)]
struct Endpoint {
    project: Project,
    id: String,
    preset: Cow<'static, Preset>,
    tolerance_seconds: i64,
    workflow: String,
}

/// How an endpoint's senders sign, by what its row says: a preset, or a scheme of its own.
fn preset_of(name: &str, scheme: Option<&str>) -> Option<Cow<'static, Preset>> {
    match scheme {
        Some(scheme) if name == OWN_SCHEME => Preset::own(scheme).ok().map(Cow::Owned),
        _ => Preset::by_name(name).map(Cow::Borrowed),
    }
}

/// Where an endpoint is on the server that senders reach.
fn path_of(endpoint: &str) -> String {
    format!("/hooks/{endpoint}")
}

/// What a secret's seal is bound to.
fn seal_place(project: Project, endpoint: &str, secret: pgrx::Uuid) -> String {
    format!("mh1|{}|{endpoint}|{secret}|verify", project.0)
}
