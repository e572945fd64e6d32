//! Webhooks: endpoints and what arrives at them.

mod endpoint;
mod receive;

use meshhook_engine::signature::Preset;

use crate::project::Project;

/// An endpoint as intake needs it.
#[derive(Debug)]
struct Endpoint {
    project: Project,
    id: String,
    preset: &'static Preset,
    tolerance_seconds: i64,
    workflow: String,
}

/// Where an endpoint is on the server that senders reach.
fn path_of(endpoint: &str) -> String {
    format!("/hooks/{endpoint}")
}

/// What a secret's seal is bound to.
fn seal_place(project: Project, endpoint: &str, secret: pgrx::Uuid) -> String {
    format!("mh1|{}|{endpoint}|{secret}|verify", project.0)
}
