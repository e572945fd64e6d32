CREATE VIEW meshhook.subscriptions WITH (security_invoker = true) AS
SELECT s.name AS subscription,
       s.subscription_id,
       s.url,
       ARRAY(SELECT e.pattern FROM meshhook.subscription_event e
             WHERE e.project_id = s.project_id AND e.subscription_id = s.subscription_id ORDER BY e.pattern) AS events,
       s.secret,
       CASE WHEN s.disabled_at IS NULL THEN 'active' ELSE 'disabled' END AS status,
       s.disabled_at,
       s.disabled_reason,
       s.failing_since,
       s.disable_after,
       s.created_at,
       s.created_by
FROM meshhook.subscription s;
COMMENT ON VIEW meshhook.subscriptions IS 'The subscriptions of your project: what each is told of and where, the name of the secret that signs, since when all attempts have failed, and why it is disabled.';

-- The tag leads to a subscription's runs, all else is in their logs.
CREATE VIEW meshhook.subscription_deliveries WITH (security_invoker = true) AS
SELECT s.name AS subscription,
       start.data -> 'input' -> 'event' ->> 'type' AS event_type,
       start.data -> 'input' ->> 'id' AS webhook_id,
       r.run_id,
       CASE r.status WHEN 'succeeded' THEN 'delivered' WHEN 'failed' THEN 'failed' WHEN 'canceled' THEN 'canceled'
                     ELSE 'pending' END AS state,
       coalesce(made.attempts, 0) AS attempts,
       made.last_status,
       made.last_error,
       CASE WHEN r.finished_at IS NULL THEN coalesce(
           (SELECT min(t.due_at) FROM meshhook.timer t WHERE t.project_id = r.project_id AND t.run_id = r.run_id),
           r.created_at) END AS next_attempt_at,
       start.data -> 'trigger' ->> 'replay_of' AS replay_of,
       r.created_at,
       r.finished_at
FROM meshhook.subscription s
JOIN meshhook.run_tag t ON t.project_id = s.project_id AND t.tag = 'meshhook:subscription:' || s.subscription_id
JOIN meshhook.run r ON r.project_id = t.project_id AND r.run_id = t.run_id
JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id AND w.name = 'meshhook:delivery'
LEFT JOIN LATERAL (
    SELECT e.data FROM meshhook.run_event e
    WHERE e.project_id = r.project_id AND e.run_id = r.run_id AND e."position" = 1
    UNION ALL
    SELECT i.data FROM meshhook.inbox i
    WHERE r."position" = 0 AND i.project_id = r.project_id AND i.run_id = r.run_id AND i.kind = 'run.start'
    UNION ALL
    SELECT q.data FROM meshhook.run_queue q
    WHERE r."position" = 0 AND q.project_id = r.project_id AND q.run_id = r.run_id
) start ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS attempts,
           (array_agg(CASE WHEN e.type = 'node.succeeded' THEN (e.data -> 'output' ->> 'status')::integer
                           ELSE (e.data -> 'error' ->> 'status')::integer END ORDER BY e."position" DESC))[1] AS last_status,
           (array_agg(e.data -> 'error' ->> 'message' ORDER BY e."position" DESC))[1] AS last_error
    FROM meshhook.run_event e
    WHERE e.project_id = r.project_id AND e.run_id = r.run_id AND e.data ->> 'node' ~ '/(signed|unsigned)$'
      AND e.type IN ('node.succeeded', 'node.failed', 'node.retry_scheduled')
) made ON true;
COMMENT ON VIEW meshhook.subscription_deliveries IS 'What was published to each subscription of your project: the run that delivers it and where that stands, how often it was tried, what the receiver last answered, and when it is tried next. state is pending, delivered, failed (given up) or canceled. Name a subscription or a run_id in WHERE; run_history has the rest.';
