//! Subscriptions: who is told of which events, and where. A delivery is a run of a workflow that meshhook brings along;
//! what is known of deliveries is in the logs of these runs.

mod attempt;
mod manage;
mod publish;
mod replay;

use meshhook_engine::json::Json;
use pgrx::PgSqlErrorCode;

use crate::error::{bug, refuse};
use crate::owner::{OWNER, Role};
use crate::project::Project;
use crate::run::start::{Options, Start, new_run, start};
use crate::spi::{self, RawJsonb, arg};
use crate::workflow::{self, Version};
use crate::{flow, run};

/// The name of the workflow that delivers; nobody else can publish under it.
const WORKFLOW: &str = "meshhook:delivery";
const DEFINITION: &str = include_str!("delivery.json");

/// The version that deliveries start on: this release's definition, published where the project does not have it as its
/// newest. Called as the owner role, whose rights the workflow's functions have.
fn delivery_workflow(project: Project) -> Version {
    let Some(owner) = Role::named(OWNER) else { bug("the owner role is gone") };
    workflow::ensure_own(project, owner, WORKFLOW, DEFINITION);
    let version = workflow::find(project, WORKFLOW, None);
    flow::refuse_if_paused(&version, WORKFLOW);
    version
}

/// What one subscription is sent.
struct Delivery<'a> {
    project: Project,
    version: Version,
    subscription: pgrx::Uuid,
    /// What goes over the wire, and its name there.
    input: RawJsonb,
    key: Option<&'a str>,
    /// The run that sent it before.
    replay_of: Option<pgrx::Uuid>,
    actor: Role,
}

impl Delivery<'_> {
    /// Starts its run, or finds the one that was started under the same key.
    fn start(&self) -> pgrx::Uuid {
        let mut trigger = vec![("type", Json::from("event"))];
        trigger.extend(self.replay_of.map(|run| ("replay_of", Json::from(run.to_string()))));
        let trigger = Json::object(trigger).to_string();
        let (run, now) = new_run();
        let keys = flow::keys(self.project, &self.version, self.input, run, &trigger)
            .unwrap_or_else(|error| flow::refuse_key(WORKFLOW, error).raise());
        start(&Start {
            project: self.project,
            run,
            now,
            version: self.version,
            workflow: WORKFLOW,
            input: self.input,
            key: self.key,
            trigger,
            actor: Some(self.actor),
            parent: None,
            options: Options { keys, tags: vec![tag(self.subscription)], ..Options::default() },
        })
    }
}

/// What the runs of a subscription are found by.
fn tag(subscription: pgrx::Uuid) -> String {
    format!("meshhook:subscription:{subscription}")
}

/// A subscription whose row is locked.
struct Held {
    id: pgrx::Uuid,
    is_disabled: bool,
}

/// Locks a subscription by name. Raises 42704 where there is none.
fn hold(project: Project, name: &str) -> Held {
    let held = spi::run_one(
        "SELECT subscription_id, disabled_at IS NOT NULL FROM meshhook.subscription
         WHERE project_id = $1 AND name = $2 FOR NO KEY UPDATE",
        &[arg(project.0), arg(name.to_owned())],
        |row| Held { id: row.must(1), is_disabled: row.must(2) },
    );
    held.unwrap_or_else(|| unknown(name))
}

fn unknown(name: &str) -> ! {
    refuse(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("there is no subscription \"{name}\""))
        .hint("SELECT subscription FROM meshhook.subscriptions shows those of your project.")
        .raise()
}

/// A subscription that is disabled gets nothing: 55000.
fn refuse_disabled(name: &str) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("subscription \"{name}\" is disabled"),
    )
    .hint("SELECT meshhook.enable_subscription(…) lets it have deliveries again.")
    .raise()
}

/// The project whose run calls the function that asks. Raises 55000 outside of a turn.
fn of_the_turn() -> Project {
    run::turn::calling().unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "this function is for the workflow that delivers",
        )
        .raise()
    })
}

#[cfg(test)]
mod tests {
    use meshhook_engine::json::Json;
    use sha2::{Digest, Sha256};

    #[test]
    fn a_changed_definition_has_another_revision() {
        let definition = Json::parse(super::DEFINITION).unwrap();
        let revision = definition.get("vars").and_then(|vars| vars.get("revision")?.as_i64());
        let checksum = hex::encode(&Sha256::digest(definition.to_string())[..8]);
        // Once a release has it a definition is published under its revision, and no other is.
        assert_eq!((revision, checksum.as_str()), (Some(1), "7658d53cb9a1ad8c"), "raise vars.revision");
    }
}
