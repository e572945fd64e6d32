CREATE VIEW meshhook.endpoints WITH (security_invoker = true) AS
SELECT e.endpoint_id AS endpoint,
       '/hooks/' || e.endpoint_id AS path,
       w.name AS workflow,
       e.preset,
       e.scheme,
       e.tolerance,
       e.keep,
       e.dedupe_window,
       e.filter,
       e.route,
       e.action,
       e.business_key,
       e.signal,
       e.schema,
       e.respond_within,
       CASE WHEN e.rpc THEN '/rpc/hook_' || e.endpoint_id END AS rpc_path,
       e.rate_limit,
       e.rate_ms * interval '1 ms' AS rate_per,
       e.created_at,
       last.received_at AS last_received_at,
       last.status AS last_status,
       last.reason AS last_reason
FROM meshhook.endpoint e
JOIN meshhook.workflow w ON w.project_id = e.project_id AND w.workflow_id = e.workflow_id
LEFT JOIN LATERAL (
    SELECT d.received_at, d.status, d.reason FROM meshhook.delivery d
    WHERE d.project_id = e.project_id AND d.endpoint_id = e.endpoint_id
    ORDER BY d.delivery_id DESC LIMIT 1
) last ON true
WHERE e.dropped_at IS NULL;
COMMENT ON VIEW meshhook.endpoints IS 'The webhook endpoints of your project: where they are, what deliveries do, how senders sign, which ones are wanted and whom each is for, what is kept and for how long a delivery is recognised, the limit (rate_limit deliveries in each rate_per), and the last delivery with its answer.';
