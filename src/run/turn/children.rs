//! Runs that runs start: by a `workflow` node, or as the handler of a failure.
//!
//! A child starts on the version named, the one fixed when the parent was published, or the newest. It counts as a run
//! of its own workflow: where that has limits, or is paused, it asks for admission like any other.

use pgrx::datum::TimestampWithTimeZone;

use super::RunKey;
use super::batch::Children;
use crate::project::Project;
use crate::run::start::{self, Options, Start};
use crate::spi::{self, RawJsonb, arg};
use crate::workflow::Version;
use crate::{fault, flow};

/// A child that was not started at once.
struct Wanted {
    parent: RunKey,
    node: Option<String>,
    run: pgrx::Uuid,
    now: TimestampWithTimeZone,
    workflow: String,
    input: RawJsonb,
    trigger: String,
    above: String,
    detached: bool,
    /// `None` where there is none to start.
    version: Option<Version>,
}

/// Starts children, and tells the parents of those that cannot be started.
pub(super) fn start(children: &Children) {
    if children.run.is_empty() {
        return;
    }
    fault::around!("turn.children");
    for child in start_unlimited(children) {
        let refused = match child.version {
            Some(version) => ask_for_admission(&child, version).err(),
            None => Some(Refused {
                class: "workflow.missing",
                message: format!("there is no published workflow \"{}\" to start", child.workflow),
            }),
        };
        if let Some(refused) = refused {
            tell_parent(&child, &refused);
        }
    }
}

struct Refused {
    class: &'static str,
    message: String,
}

/// Starts those that need not ask; the others are returned.
fn start_unlimited(children: &Children) -> Vec<Wanted> {
    spi::run(
        "WITH wanted AS MATERIALIZED (
             SELECT u.*, e.data -> 'input' AS input, v.*,
                    jsonb_build_object('type', CASE WHEN node IS NULL THEN 'failure' ELSE 'workflow' END, 'run', parent)
                        || n.node_is AS trigger,
                    jsonb_build_object('run', parent, 'detached', detached, 'depth', depth) || n.node_is AS above
             FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::integer[], $7::boolean[], $8::boolean[],
                         $9::integer[], $10::bigint[], $11::bigint[])
                  AS u (project_id, parent, node, run_id, workflow, version, newest, detached, depth, input_position, seed)
             JOIN meshhook.run_event e ON e.project_id = u.project_id AND e.run_id = u.parent AND e.position = u.input_position
             CROSS JOIN LATERAL (
                 SELECT CASE WHEN node IS NULL THEN '{}' ELSE jsonb_build_object('node', node) END AS node_is) n
             LEFT JOIN LATERAL (
                 SELECT w.workflow_id, v.version_id, v.version AS resolved, v.flow_controlled,
                        v.flow_controlled OR w.pause_mode IS NOT NULL OR o.pause_mode IS NOT NULL AS must_ask
                 FROM meshhook.run r
                 JOIN meshhook.workflow_version p ON p.project_id = r.project_id AND p.version_id = r.version_id
                 JOIN meshhook.project o ON o.project_id = r.project_id
                 JOIN meshhook.workflow w ON w.project_id = u.project_id AND w.name = u.workflow
                 JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id
                 WHERE r.project_id = u.project_id AND r.run_id = u.parent AND v.archived_at IS NULL
                   AND v.version = coalesce(u.version, CASE WHEN u.newest THEN v.version
                                                            ELSE coalesce((p.children ->> u.workflow)::integer, v.version) END)
                 ORDER BY v.version DESC LIMIT 1) v ON true),
         begun AS (
             INSERT INTO meshhook.run (project_id, run_id, version_id, status, created_at)
             SELECT project_id, run_id, version_id, 'queued', meshhook.uuid_time(run_id) FROM wanted WHERE NOT must_ask),
         told AS (
             INSERT INTO meshhook.inbox (project_id, run_id, kind, data)
             SELECT project_id, run_id, 'run.start',
                    jsonb_build_object('workflow', workflow, 'version', resolved, 'input', input, 'seed', seed,
                        'trigger', trigger, 'parent', above)
             FROM wanted WHERE NOT must_ask)
         SELECT project_id, parent, node, run_id, meshhook.uuid_time(run_id), workflow, input, trigger::text, above::text, detached,
                workflow_id, version_id, resolved, flow_controlled
         FROM wanted WHERE must_ask IS DISTINCT FROM false",
        &[
            arg(children.keys.project.clone()),
            arg(children.keys.run.clone()),
            arg(children.node.clone()),
            arg(children.run.clone()),
            arg(children.workflow.clone()),
            arg(children.version.clone()),
            arg(children.newest.clone()),
            arg(children.detached.clone()),
            arg(children.depth.clone()),
            arg(children.input_position.clone()),
            arg(children.seed.clone()),
        ],
        |row| Wanted {
            parent: RunKey { project: row.must(1), run: row.must(2) },
            node: row.get(3),
            run: row.must(4),
            now: row.must(5),
            workflow: row.must(6),
            input: row.must(7),
            trigger: row.must(8),
            above: row.must(9),
            detached: row.must(10),
            version: row.get(12).map(|version_id| Version {
                workflow_id: row.must(11),
                version_id,
                version: row.must(13),
                // The engine does, and its verdict is in the log.
                checks_input: false,
                flow_controlled: row.must(14),
                // It waits for the end of either kind of pause: there is nobody to refuse it to.
                pause: None,
            }),
        },
    )
}

/// Puts a child among the starts that wait.
fn ask_for_admission(child: &Wanted, version: Version) -> Result<(), Refused> {
    let project = Project(child.parent.project);
    let keys =
        flow::keys(project, &version, child.input, child.run, &child.trigger).map_err(|error| Refused {
            class: "workflow.refused",
            message: format!("workflow \"{}\" cannot count this run: {error}", child.workflow),
        })?;
    start::enqueue(&Start {
        project,
        run: child.run,
        now: child.now,
        version,
        workflow: &child.workflow,
        input: child.input,
        key: None,
        trigger: child.trigger.clone(),
        actor: None,
        parent: Some(child.above.clone()),
        options: Options { keys, ..Options::default() },
    });
    Ok(())
}

/// Tells the node that waits for a child why there is none; where nobody waits the server's log has it.
fn tell_parent(child: &Wanted, refused: &Refused) {
    let (Some(node), false) = (&child.node, child.detached) else {
        return pgrx::warning!("run {} could not start a run: {}", child.parent.run, refused.message);
    };
    spi::exec(
        "INSERT INTO meshhook.inbox (project_id, run_id, kind, data)
         VALUES ($1, $2, 'child.ended', jsonb_build_object('node', $3::text, 'run', $4::uuid, 'status', 'failed',
                     'error', jsonb_build_object('class', $5::text, 'message', $6::text)))",
        &[
            arg(child.parent.project),
            arg(child.parent.run),
            arg(node.clone()),
            arg(child.run),
            arg(refused.class),
            arg(refused.message.clone()),
        ],
    );
}
