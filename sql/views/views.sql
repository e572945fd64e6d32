-- Reading by SELECT. security_invoker: whoever reads is held to the row policies of the tables below.
CREATE VIEW meshhook.runs WITH (security_invoker = true) AS
SELECT r.run_id,
       w.name AS workflow,
       v.version,
       r.status,
       r."position",
       coalesce(first.data -> 'input', start.data -> 'input') AS input,
       last.data -> 'output' AS output,
       last.data -> 'error' AS error,
       k.idempotency_key,
       r.created_at,
       r.started_at,
       r.finished_at,
       ARRAY(SELECT t.tag FROM meshhook.run_tag t
             WHERE t.project_id = r.project_id AND t.run_id = r.run_id ORDER BY t.tag) AS tags
FROM meshhook.run r
JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id
LEFT JOIN LATERAL (
    SELECT e.data FROM meshhook.run_event e
    WHERE e.project_id = r.project_id AND e.run_id = r.run_id AND e."position" = 1
) first ON true
LEFT JOIN LATERAL (
    SELECT i.data FROM meshhook.inbox i
    WHERE r."position" = 0 AND i.project_id = r.project_id AND i.run_id = r.run_id AND i.kind = 'run.start'
    UNION ALL
    SELECT q.data FROM meshhook.run_queue q
    WHERE r."position" = 0 AND q.project_id = r.project_id AND q.run_id = r.run_id
) start ON true
LEFT JOIN LATERAL (
    SELECT e.data FROM meshhook.run_event e
    WHERE r.finished_at IS NOT NULL AND e.project_id = r.project_id AND e.run_id = r.run_id
      AND e."position" = r."position"
) last ON true
LEFT JOIN LATERAL (
    SELECT coalesce(first.data, start.data) ->> 'idempotency_key' AS idempotency_key
) k ON true;
COMMENT ON VIEW meshhook.runs IS 'The runs of your project: where each stands, its input, and its output or error once it ended.';

-- What has used up its attempts and was handled by nobody.
CREATE VIEW meshhook.dead_letters WITH (security_invoker = true) AS
SELECT r.run_id,
       w.name AS workflow,
       v.version,
       last.data -> 'error' ->> 'class' AS class,
       last.data -> 'error' ->> 'message' AS message,
       last.data -> 'error' ->> 'node' AS node,
       coalesce(last.data -> 'uncompensated', '[]') AS uncompensated,
       r.started_at,
       r.finished_at
FROM meshhook.run r
JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id
JOIN meshhook.run_event last
    ON last.project_id = r.project_id AND last.run_id = r.run_id AND last."position" = r."position"
WHERE r.status = 'failed';
COMMENT ON VIEW meshhook.dead_letters IS 'Runs of your project that failed: why, at which node, and what could not be undone. retry_run lets one go on.';

CREATE VIEW meshhook.run_steps WITH (security_invoker = true) AS
SELECT e.run_id,
       e.data ->> 'node' AS node,
       max(e.data ->> 'kind') AS kind,
       CASE (array_agg(e.type ORDER BY e."position" DESC))[1]
           WHEN 'node.succeeded' THEN 'succeeded'
           WHEN 'node.overridden' THEN 'succeeded'
           WHEN 'node.failed' THEN 'failed'
           WHEN 'node.skipped' THEN 'skipped'
           WHEN 'node.retry_scheduled' THEN 'retrying'
           WHEN 'node.scheduled' THEN CASE WHEN bool_or(e.data ? 'child') THEN 'running'
                                           WHEN bool_or(e.data ? 'input') THEN 'scheduled' ELSE 'waiting' END
           WHEN 'approval.given' THEN 'waiting'
           ELSE 'running'
       END AS status,
       max((e.data ->> 'attempt')::integer) AS attempts,
       min(e.created_at) FILTER (WHERE e.type IN ('node.scheduled', 'node.entered')) AS scheduled_at,
       max(e.created_at) FILTER (WHERE e.type IN ('node.succeeded', 'node.overridden', 'node.failed', 'node.skipped'))
           AS finished_at,
       max(e.created_at) FILTER (WHERE e.type IN ('node.succeeded', 'node.overridden', 'node.failed'))
           - min(e.created_at) FILTER (WHERE e.type IN ('node.scheduled', 'node.entered')) AS duration,
       (array_agg(e.data -> 'output' ORDER BY e."position" DESC)
           FILTER (WHERE e.type IN ('node.succeeded', 'node.overridden')))[1] AS output,
       (array_agg(e.data -> 'error' ORDER BY e."position" DESC) FILTER (WHERE e.data ? 'error'))[1] AS error
FROM meshhook.run_event e
-- A signal for one node comes before the node or while it waits; what executors say is in run_log.
WHERE e.data ? 'node' AND e.type NOT IN ('signal.received', 'node.logged')
GROUP BY e.project_id, e.run_id, e.data ->> 'node';
COMMENT ON VIEW meshhook.run_steps IS 'Each node of your runs that has an event: status, attempts, times, output, last error. Name a run_id in WHERE.';

-- A run's status is told by its events: each stands for itself and for all up to the next that changes it.
CREATE VIEW meshhook.run_audit_trail WITH (security_invoker = true) AS
WITH told AS (
    SELECT e.project_id, e.run_id, e."position", e.type, e.data, e.metadata, e.created_at, s.status,
           count(s.status) OVER (PARTITION BY e.project_id, e.run_id ORDER BY e."position") AS change
    FROM meshhook.run_event e, LATERAL (SELECT meshhook.run_status_after(e.type) AS status) s
), stood AS (
    SELECT t.*,
           coalesce(first_value(t.status) OVER (PARTITION BY t.project_id, t.run_id, t.change ORDER BY t."position"),
                    'queued') AS to_state
    FROM told t
)
SELECT md5(s.run_id || '/' || s."position")::uuid AS event_id,
       p.slug AS tenant,
       s.run_id AS execution_id,
       s.type AS event_name,
       split_part(s.type, '.', 1) AS event_type,
       lag(s.to_state, 1, 'queued') OVER (PARTITION BY s.project_id, s.run_id ORDER BY s."position") AS from_state,
       s.to_state,
       s.metadata ->> 'actor' AS user_id,
       s.data AS payload,
       s.created_at,
       s."position"
FROM stood s
JOIN meshhook.project p ON p.project_id = s.project_id;
COMMENT ON VIEW meshhook.run_audit_trail IS 'Each event of your runs with the run''s status before and after it, and who caused it. ORDER BY position, never by created_at; name an execution_id in WHERE.';

CREATE VIEW meshhook.stuck_runs WITH (security_invoker = true) AS
WITH open_run AS (
    SELECT r.project_id, r.run_id, r.version_id, r.status, coalesce(r.last_at, r.created_at) AS since
    FROM meshhook.run r
    WHERE r.finished_at IS NULL AND r.status <> 'paused'
)
SELECT o.run_id, w.name AS workflow, o.status, why.reason, why.since, why.hint
FROM open_run o
JOIN meshhook.workflow_version v ON v.project_id = o.project_id AND v.version_id = o.version_id
JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id
CROSS JOIN LATERAL (
    SELECT format('waits since %s for an orchestrator', i.created_at) AS reason, i.created_at AS since,
           CASE WHEN meshhook.is_active()
                THEN 'nobody takes turns: see SELECT * FROM meshhook.status()'
                ELSE 'this copy is dormant: SELECT meshhook.activate()' END AS hint
    FROM meshhook.inbox i
    WHERE i.project_id = o.project_id AND i.run_id = o.run_id
      AND i.created_at < clock_timestamp() - interval '10 seconds'
      AND NOT EXISTS (SELECT FROM meshhook.run_divergence d WHERE d.project_id = o.project_id AND d.run_id = o.run_id)
    UNION ALL
    SELECT format('from position %s on its log is not what release %s decides', d."position", d.version), d.noticed_at,
           'SELECT * FROM meshhook.diverging_runs; run the release that wrote it, or meshhook.kill_run(run, reason)'
    FROM meshhook.run_divergence d
    WHERE d.project_id = o.project_id AND d.run_id = o.run_id
    UNION ALL
    SELECT format('node %s waits in queue %s and nobody claims it', j.node, j.queue), j.ready_at,
           format('start an executor that claims queue %s', j.queue)
    FROM meshhook.job j
    WHERE j.project_id = o.project_id AND j.run_id = o.run_id AND j.executor IS NULL
      AND j.ready_at < clock_timestamp() - interval '1 minute'
    UNION ALL
    SELECT format('the lease of node %s ran out and was not taken back', j.node), j.lease_expires_at,
           'nobody takes turns: see SELECT * FROM meshhook.status()'
    FROM meshhook.job j
    WHERE j.project_id = o.project_id AND j.run_id = o.run_id
      AND j.lease_expires_at < clock_timestamp() - interval '1 minute'
    UNION ALL
    SELECT format('the timer of node %s is overdue', t.node), t.due_at,
           'nobody takes turns: see SELECT * FROM meshhook.status()'
    FROM meshhook.timer t
    WHERE t.project_id = o.project_id AND t.run_id = o.run_id
      AND t.due_at < clock_timestamp() - interval '1 minute'
    UNION ALL
    SELECT format('waits since %s to be admitted', q.ready_at), q.ready_at,
           'nobody takes turns: see SELECT * FROM meshhook.status()'
    FROM meshhook.run_queue q
    WHERE q.project_id = o.project_id AND q.run_id = o.run_id AND NOT q.in_lane AND NOT q.paused AND w.pause_mode IS NULL
      AND q.ready_at < clock_timestamp() - interval '10 seconds' AND NOT meshhook.project_is_paused()
    UNION ALL
    SELECT 'nothing is open for it: no job, no timer, no inbox row', o.since,
           'this is a bug: please report the output of meshhook.verify_run()'
    WHERE NOT EXISTS (SELECT FROM meshhook.inbox i WHERE i.project_id = o.project_id AND i.run_id = o.run_id)
      AND NOT EXISTS (SELECT FROM meshhook.job j WHERE j.project_id = o.project_id AND j.run_id = o.run_id)
      AND NOT EXISTS (SELECT FROM meshhook.timer t WHERE t.project_id = o.project_id AND t.run_id = o.run_id)
      AND NOT EXISTS (SELECT FROM meshhook.run_queue q WHERE q.project_id = o.project_id AND q.run_id = o.run_id)
      -- A signal, people or a child run may be waited for without any of these.
      AND NOT EXISTS (
          SELECT FROM meshhook.run_event e
          WHERE e.project_id = o.project_id AND e.run_id = o.run_id AND e.type = 'node.scheduled'
            AND (e.data ? 'signal' OR e.data ? 'approval' OR e.data ? 'child')
            AND NOT EXISTS (
                SELECT FROM meshhook.run_event later
                WHERE later.project_id = e.project_id AND later.run_id = e.run_id AND later."position" > e."position"
                  AND later.type IN ('node.succeeded', 'node.overridden', 'node.failed') AND later.data -> 'node' = e.data -> 'node'))
) why;
COMMENT ON VIEW meshhook.stuck_runs IS 'Runs of your project that do not move although they could, with the reason and the way out.';

CREATE VIEW meshhook.diverging_runs WITH (security_invoker = true) AS
SELECT d.run_id, w.name AS workflow, v.version, d."position", d.path, d.expected, d.found, d.version AS release, d.noticed_at
FROM meshhook.run_divergence d
JOIN meshhook.run r ON r.project_id = d.project_id AND r.run_id = d.run_id
JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id;
COMMENT ON VIEW meshhook.diverging_runs IS 'Runs of your project whose log is not what this release decides, with the first difference as verify_run shows it. They keep what they are told and are left alone until an orchestrator that starts anew finds their log sound, or until kill_run ends them.';

CREATE VIEW meshhook.workflow_versions WITH (security_invoker = true) AS
SELECT w.name AS workflow,
       v.version,
       v.published_at,
       v.published_by,
       v.archived_at,
       v.archived_by,
       v.expression_profile,
       encode(v.checksum, 'hex') AS checksum,
       v.definition
FROM meshhook.workflow w
JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id;
COMMENT ON VIEW meshhook.workflow_versions IS 'The published versions of your project''s workflows.';

CREATE VIEW meshhook.drafts WITH (security_invoker = true) AS
SELECT d.name AS workflow, d.revision, d.problems, d.saved_at, d.saved_by, d.definition
FROM meshhook.workflow_draft d;
COMMENT ON VIEW meshhook.drafts IS 'The drafts of your project: who saved them when, and how many faults they have.';

CREATE VIEW meshhook.workflows WITH (security_invoker = true) AS
SELECT coalesce(w.name, d.name) AS workflow,
       newest.version AS newest_version,
       current.version AS current_version,
       newest.version IS NOT NULL AND current.version IS NULL AS archived,
       newest.published_at,
       newest.published_by,
       d.revision AS draft_revision,
       d.problems AS draft_problems
FROM meshhook.workflow w
FULL JOIN meshhook.workflow_draft d ON d.project_id = w.project_id AND d.name = w.name
LEFT JOIN LATERAL (
    SELECT v.version, v.published_at, v.published_by FROM meshhook.workflow_version v
    WHERE v.project_id = w.project_id AND v.workflow_id = w.workflow_id
    ORDER BY v.version DESC LIMIT 1
) newest ON true
LEFT JOIN LATERAL (
    SELECT v.version FROM meshhook.workflow_version v
    WHERE v.project_id = w.project_id AND v.workflow_id = w.workflow_id AND v.archived_at IS NULL
    ORDER BY v.version DESC LIMIT 1
) current ON true;
COMMENT ON VIEW meshhook.workflows IS 'The workflows of your project, published or only drafted. current_version is the one that new runs start on, null where all are archived or none is published.';

CREATE VIEW meshhook.queued_runs WITH (security_invoker = true) AS
SELECT q.run_id,
       w.name AS workflow,
       q.concurrency_key,
       q.rate_key,
       q.priority,
       q.ready_at,
       CASE
           WHEN p.paused THEN 'the project is paused'
           WHEN w.pause_mode IS NOT NULL THEN coalesce('the workflow is paused: ' || w.pause_reason, 'the workflow is paused')
           WHEN q.paused THEN coalesce('it is paused: ' || q.pause_reason, 'it is paused')
           WHEN q.ready_at > clock_timestamp() THEN 'its time has not come'
           WHEN NOT q.in_lane THEN 'the orchestrator has not seen it yet'
           WHEN l.due_at IS NULL THEN format('all %s slots are taken', w.concurrency_limit)
           WHEN l.due_at > clock_timestamp() THEN format('%s starts in %s are used up', w.rate_limit,
                                                         w.rate_ms * interval '1 ms')
           ELSE 'it is next in its lane, or behind others'
       END AS reason,
       q.data -> 'input' AS input
FROM meshhook.run_queue q
JOIN meshhook.workflow w ON w.project_id = q.project_id AND w.workflow_id = q.workflow_id
CROSS JOIN LATERAL (SELECT meshhook.project_is_paused() AS paused) p
LEFT JOIN meshhook.run_lane l ON l.project_id = q.project_id AND l.workflow_id = q.workflow_id AND l.lane = q.lane;
COMMENT ON VIEW meshhook.queued_runs IS 'Runs of your project that wait to start, with what they wait for.';
