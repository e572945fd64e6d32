CREATE VIEW meshhook.schedules WITH (security_invoker = true) AS
SELECT s.name,
       w.name AS workflow,
       s.version,
       s.cron,
       s.every,
       s.anchor,
       s.time_zone,
       s.input,
       s.overlap,
       s.catch_up,
       s.jitter,
       CASE WHEN s.paused_at IS NULL THEN s.next_time END AS next_time,
       CASE WHEN s.paused_at IS NULL THEN s.due_at END AS due_at,
       s.last_time,
       s.last_run_id,
       r.status AS last_status,
       (SELECT count(*) FROM meshhook.schedule_firing f
        WHERE f.project_id = s.project_id AND f.schedule_id = s.schedule_id AND f.run_id IS NOT NULL
          AND (SELECT run.finished_at IS NULL FROM meshhook.run
               WHERE run.project_id = f.project_id AND run.run_id = f.run_id)) AS open_runs,
       s.waiting,
       s.missed,
       s.skipped,
       s.paused_at IS NOT NULL AS paused,
       s.paused_at,
       s.paused_by,
       s.pause_reason,
       s.created_at,
       s.created_by
FROM meshhook.schedule s
JOIN meshhook.workflow w ON w.project_id = s.project_id AND w.workflow_id = s.workflow_id
LEFT JOIN LATERAL (
    SELECT run.status FROM meshhook.run
    WHERE run.project_id = s.project_id AND run.run_id = s.last_run_id
    OFFSET 0
) r ON true;
COMMENT ON VIEW meshhook.schedules IS 'The schedules of your project: what they start and when, the next time and when it is due, the last one started and how its run stands, how many of its runs are open, how many times wait, were missed (longer ago than catch_up) and were skipped (by the overlap policy). paused_by is null where meshhook paused it because a run could not be started; pause_reason says why.';
