//! Delivering once more what was given up, in runs of their own and under the same webhook-id.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::{Delivery, WORKFLOW, delivery_workflow, hold, refuse_disabled, tag};
use crate::error::{bad_parameter, refuse, required};
use crate::owner::as_owner;
use crate::project;
use crate::run::start::warn_if_unserved;
use crate::spi::{self, arg};

/// Most deliveries that one call replays.
const MAX_REPLAYS: i32 = 10_000;

/// Delivers once more what a run has delivered or given up; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn replay_delivery(run: Option<pgrx::Uuid>) -> pgrx::Uuid {
    let run = required("run", run);
    as_owner(|caller| {
        let project = project::current(caller);
        let found = spi::run_one(
            "SELECT r.finished_at IS NOT NULL, e.data -> 'input', e.data -> 'input' ->> 'subscription'
             FROM meshhook.run r
             JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
             JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id
             LEFT JOIN meshhook.run_event e ON e.project_id = r.project_id AND e.run_id = r.run_id AND e.position = 1
             WHERE r.project_id = $1 AND r.run_id = $2 AND w.name = $3",
            &[arg(project.0), arg(run), arg(WORKFLOW.to_owned())],
            |row| (row.must::<bool>(1), row.raw_jsonb(2), row.get::<String>(3)),
        );
        let Some((has_ended, input, subscription)) = found else {
            refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("there is no delivery \"{run}\""))
                .hint("SELECT run_id FROM meshhook.subscription_deliveries shows those of your project.")
                .raise()
        };
        let (true, Some(input), Some(subscription)) = (has_ended, input, subscription) else {
            refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("delivery \"{run}\" is still under way"),
            )
            .hint("next_attempt_at in meshhook.subscription_deliveries says when it is tried next.")
            .raise()
        };
        let name = spi::run_one(
            "SELECT name FROM meshhook.subscription WHERE project_id = $1 AND subscription_id = $2::uuid",
            &[arg(project.0), arg(subscription)],
            |row| row.must::<String>(1),
        );
        let Some(name) = name else {
            refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the subscription of delivery \"{run}\" was dropped"),
            )
            .raise()
        };
        let held = hold(project, &name);
        if held.is_disabled {
            refuse_disabled(&name);
        }
        let version = delivery_workflow(project);
        warn_if_unserved();
        let made = Delivery {
            project,
            version,
            subscription: held.id,
            input,
            key: None,
            replay_of: Some(run),
            actor: caller,
        }
        .start();
        let details = format!("{{\"run\": \"{run}\", \"replay\": \"{made}\"}}");
        project::audit(project, caller, "delivery.replayed", &name, Some(details));
        made
    })
}

/// Delivers once more what was given up since a time; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn replay_failed(
    subscription: Option<&str>,
    since: Option<TimestampWithTimeZone>,
    max_deliveries: default!(i32, "1000"),
) -> i64 {
    let (name, since) = (required("subscription", subscription), required("since", since));
    if !(1..=MAX_REPLAYS).contains(&max_deliveries) {
        bad_parameter(format!("max_deliveries is from 1 to {MAX_REPLAYS}")).raise();
    }
    as_owner(|caller| {
        let project = project::current(caller);
        // Whoever asks at the same time waits here, and then sees the replays.
        let held = hold(project, name);
        if held.is_disabled {
            refuse_disabled(name);
        }
        let version = delivery_workflow(project);
        let given_up = spi::run(
            "SELECT last.run_id, last.input FROM (
                 SELECT DISTINCT ON (start.input ->> 'id') r.run_id, r.status, start.input
                 FROM meshhook.run_tag t
                 JOIN meshhook.run r ON r.project_id = t.project_id AND r.run_id = t.run_id
                 JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
                 JOIN LATERAL (
                     SELECT e.data -> 'input' AS input FROM meshhook.run_event e
                     WHERE e.project_id = r.project_id AND e.run_id = r.run_id AND e.position = 1
                     UNION ALL
                     SELECT i.data -> 'input' FROM meshhook.inbox i
                     WHERE r.position = 0 AND i.project_id = r.project_id AND i.run_id = r.run_id AND i.kind = 'run.start'
                     UNION ALL
                     SELECT q.data -> 'input' FROM meshhook.run_queue q
                     WHERE r.position = 0 AND q.project_id = r.project_id AND q.run_id = r.run_id
                 ) start ON true
                 WHERE t.project_id = $1 AND t.tag = $2 AND t.run_id >= meshhook.uuid_floor($3)
                   AND v.workflow_id = $4
                 ORDER BY start.input ->> 'id', r.run_id DESC) last
             WHERE last.status IN ('failed', 'canceled') ORDER BY last.run_id LIMIT $5",
            &[
                arg(project.0),
                arg(tag(held.id)),
                arg(since),
                arg(version.workflow_id),
                arg(i64::from(max_deliveries)),
            ],
            |row| (row.must::<pgrx::Uuid>(1), row.raw_jsonb(2)),
        );
        warn_if_unserved();
        let mut count = 0;
        for (run, input) in given_up {
            let Some(input) = input else { continue };
            let replay = Delivery {
                project,
                version,
                subscription: held.id,
                input,
                key: None,
                replay_of: Some(run),
                actor: caller,
            };
            replay.start();
            count += 1;
        }
        let details = format!("{{\"deliveries\": {count}}}");
        project::audit(project, caller, "delivery.replayed", name, Some(details));
        count
    })
}
