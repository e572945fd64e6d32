//! What only the database knows of a definition: whether the workflows, functions, roles and secrets it names exist. Looked at
//! when it is published.

use std::collections::BTreeMap;

use meshhook_engine::definition::{Problem, Workflow};
use meshhook_engine::node::ChildVersion;

use crate::owner::Role;
use crate::project::Project;
use crate::secret::sent;
use crate::spi::{self, arg};

/// What publishing has to know.
#[derive(Debug, Default)]
pub struct Checked {
    /// The faults.
    pub problems: Vec<Problem>,
    /// The versions that child runs will be started on, by workflow.
    pub children: BTreeMap<String, i32>,
}

/// Looks up everything a definition names, as the owner role, on behalf of the one who publishes.
pub fn check(project: Project, publisher: Role, workflow: &Workflow) -> Checked {
    let mut checked = Checked::default();
    for node in workflow.all_nodes() {
        if let Some((name, version)) = node.node.starts() {
            check_child(project, workflow, name, version, &node.with_pointer(), &mut checked);
        }
        for (below, name) in node.node.secrets() {
            if !sent::exists(project, name) {
                let message = format!("there is no secret \"{name}\": meshhook-sidecar secret set {name}");
                let pointer = format!("{}{below}", node.with_pointer());
                checked.problems.push(fault(pointer, "secret", message));
            }
        }
        if let Some((function, run_as)) = node.node.database_function() {
            check_function(publisher, function, run_as, &node.with_pointer(), &mut checked.problems);
        }
    }
    if let Some(name) = &workflow.on_failure
        && newest(project, name, None).is_none()
        && **name != *workflow.name
    {
        checked.problems.push(fault("/on_failure".to_owned(), "workflow", missing(name, None)));
    }
    checked
}

fn check_child(
    project: Project,
    workflow: &Workflow,
    name: &str,
    version: ChildVersion,
    with: &str,
    checked: &mut Checked,
) {
    let number = if let ChildVersion::Number(number) = version { Some(number.cast_signed()) } else { None };
    match newest(project, name, number) {
        Some(found) => {
            if version == ChildVersion::Published {
                checked.children.insert(name.to_owned(), found);
            }
        }
        // A workflow that starts itself is about to be published.
        None if number.is_none() && *name == *workflow.name => {}
        None => checked.problems.push(fault(format!("{with}/workflow"), "workflow", missing(name, number))),
    }
}

fn newest(project: Project, name: &str, version: Option<i32>) -> Option<i32> {
    spi::run_one(
        "SELECT v.version FROM meshhook.workflow w
         JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id
         WHERE w.project_id = $1 AND w.name = $2 AND ($3 IS NULL OR v.version = $3) ORDER BY v.version DESC LIMIT 1",
        &[arg(project.0), arg(name.to_owned()), arg(version)],
        |row| row.must(1),
    )
}

fn missing(name: &str, version: Option<i32>) -> String {
    match version {
        Some(version) => format!("workflow \"{name}\" has no published version {version}"),
        None => format!("workflow \"{name}\" is not published"),
    }
}

fn check_function(
    publisher: Role,
    function: &str,
    run_as: Option<&str>,
    with: &str,
    problems: &mut Vec<Problem>,
) {
    let role = match run_as.map(|name| (name, Role::named(name))) {
        None => publisher,
        Some((name, None)) => {
            return problems.push(fault(
                format!("{with}/run_as"),
                "role",
                format!("there is no role \"{name}\""),
            ));
        }
        Some((name, Some(role))) if !publisher.acts_for(role) => {
            let message = format!("you are not a member of role \"{name}\"");
            return problems.push(fault(format!("{with}/run_as"), "role", message));
        }
        Some((_, Some(role))) => role,
    };
    if role.is_above_policies() {
        let message = format!(
            "role \"{}\" is a superuser or bypasses row security: name one that does not in \"run_as\"",
            role.name()
        );
        return problems.push(fault(format!("{with}/run_as"), "role", message));
    }
    let returns = spi::run_one(
        "SELECT p.prorettype = 'jsonb'::regtype AND p.prokind = 'f' AND NOT p.proretset,
                has_function_privilege($2::name, p.oid, 'EXECUTE') AND has_schema_privilege($2::name, p.pronamespace, 'USAGE')
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = split_part($1, '.', 1) AND p.proname = split_part($1, '.', 2)
           AND p.proargtypes = ARRAY['jsonb'::regtype]::oidvector",
        &[arg(function.to_owned()), arg(role.name())],
        |row| (row.must::<bool>(1), row.must::<bool>(2)),
    );
    let message = match returns {
        None => format!("there is no function {function}(jsonb)"),
        Some((false, _)) => format!("{function}(jsonb) is not a function that returns one jsonb"),
        Some((true, false)) => format!("role \"{}\" may not call {function}(jsonb)", role.name()),
        Some((true, true)) => return,
    };
    problems.push(fault(format!("{with}/function"), "function", message));
}

fn fault(pointer: String, code: &'static str, message: String) -> Problem {
    Problem { pointer, code, message }
}
