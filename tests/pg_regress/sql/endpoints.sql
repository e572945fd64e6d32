-- What endpoints do with a delivery: start a run, signal one by its business key, either; schemas; changing them.
SET client_min_messages = error;
SELECT meshhook.publish_workflow('{"name": "sale", "nodes": [
    {"id": "paid", "type": "wait", "with": {"signal": "paid"}},
    {"id": "out", "type": "transform", "with": {"output": {"order": "{{ .input.order }}", "paid": "{{ .nodes.paid.output.n }}"}}}],
    "edges": [{"from": "paid", "to": "out"}]}');
CREATE FUNCTION pg_temp.endpoint(action text, business_key text DEFAULT '.input.order', signal text DEFAULT '.input.event',
                                 workflow text DEFAULT 'sale', route text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT endpoint FROM meshhook.create_endpoint(workflow, 'bearer', secret => 'token', action => action,
                                                  business_key => business_key, signal => signal, route => route)
$$;
-- A run is known by how many were started before it.
CREATE FUNCTION pg_temp.deliver(endpoint text, body jsonb) RETURNS TABLE (status integer, body jsonb, run bigint) LANGUAGE sql AS $$
    SELECT r.status, CASE jsonb_typeof(r.body) WHEN 'object' THEN r.body - 'run_id' ELSE r.body END,
           (SELECT count(*) FROM meshhook.run o WHERE o.run_id < (r.body ->> 'run_id')::uuid
            AND o.run_id > current_setting('test.before')::uuid HAVING r.body ? 'run_id')
    FROM meshhook.receive_webhook(endpoint, 'POST', '{"content-type": "application/json", "authorization": "Bearer token"}', '',
                                  convert_to(body::text, 'UTF8')) r
$$;
SELECT set_config('test.before', coalesce(max(run_id::text), '00000000-0000-0000-0000-000000000000'), false) IS NOT NULL AS noted FROM meshhook.run;
SELECT pg_temp.endpoint('start', signal => NULL) AS orders, pg_temp.endpoint('signal') AS events,
       pg_temp.endpoint('signal_or_start') AS both \gset

-- One run for a key, which a signal finds; a repeat does nothing more.
SELECT * FROM pg_temp.deliver(:'events', '{"order": "A", "event": "paid", "n": 0}');
SELECT * FROM pg_temp.deliver(:'orders', '{"order": "A"}');
SELECT * FROM pg_temp.deliver(:'orders', '{"order": "A", "n": 2}');
SELECT * FROM pg_temp.deliver(:'events', '{"order": "A", "event": "seen", "n": 3}');
SELECT * FROM pg_temp.deliver(:'events', '{"order": "A", "event": "seen", "n": 3}');
SELECT * FROM pg_temp.deliver(:'events', '{"order": "A", "event": "paid", "n": 4}');
-- It was decided at once: the run is over, and nobody takes the next one.
SELECT workflow, status, output FROM meshhook.runs WHERE workflow = 'sale';
SELECT * FROM pg_temp.deliver(:'events', '{"order": "A", "event": "paid", "n": 5}');
SELECT * FROM pg_temp.deliver(:'orders', '{"order": "A", "n": 6}');
SELECT h.type, h.data ->> 'name' AS signal, h.data -> 'payload' AS payload, h.metadata IS NOT NULL AS told
FROM meshhook.runs r, meshhook.run_history(r.run_id) h WHERE r.workflow = 'sale' AND h.type LIKE 'signal%' ORDER BY h.position;
-- What reached nobody is kept and can be taken in once more: the first event after all, once there is a run for it.
SELECT meshhook.start_run('sale', '{"order": "B"}', idempotency_key => 'B') IS NOT NULL AS started;
SELECT * FROM pg_temp.deliver(:'events', '{"order": "C", "event": "paid", "n": 7}');
SELECT meshhook.start_run('sale', '{"order": "C"}', idempotency_key => 'C') IS NOT NULL AS started;
SELECT delivery_id AS missed FROM meshhook.delivery WHERE endpoint_id = :'events' AND reason LIKE 'no run has%' ORDER BY delivery_id DESC LIMIT 1 \gset
SELECT status, body - 'run_id' AS body FROM meshhook.redeliver(:'events', :missed);
SELECT status, body - 'run_id' AS body FROM meshhook.redeliver(:'events', :missed);
SELECT * FROM pg_temp.deliver(:'events', '{"order": "C", "event": "paid", "n": 7}');
SELECT status, body - 'run_id' AS body FROM meshhook.redeliver(:'events', :missed, again => true);

-- Either: the first of a key starts, the others signal, and after the end of the run it begins anew.
SELECT n, sent.* FROM generate_series(8, 11) n, LATERAL pg_temp.deliver(:'both', jsonb_build_object('order', 12, 'event', 'paid', 'n', n)) sent;
SELECT output FROM meshhook.runs WHERE workflow = 'sale' AND status = 'succeeded' ORDER BY run_id;
SELECT idempotency_key, count(*) FROM meshhook.run_key k JOIN meshhook.workflow w USING (project_id, workflow_id)
WHERE w.name = 'sale' GROUP BY 1 ORDER BY 1;

-- A run that waits to begin keeps its signals, so many.
SELECT meshhook.publish_workflow('{"name": "sale-lane", "concurrency": {"limit": 1}, "nodes": [{"id": "paid", "type": "wait", "with": {"signal": "paid"}}]}');
SELECT pg_temp.endpoint('signal_or_start', workflow => 'sale-lane') AS lane \gset
SELECT status, count(*), min(run), max(run) FROM generate_series(1, 104) n,
    LATERAL pg_temp.deliver(:'lane', jsonb_build_object('order', least(n, 2), 'event', 'seen', 'n', n)) GROUP BY 1 ORDER BY 1;
SELECT DISTINCT regexp_replace(reason, 'run \S+', 'run …') AS reason FROM meshhook.delivery WHERE endpoint_id = :'lane' AND status = 503;

-- A run that is paused takes it down; one that is canceled takes no more.
SELECT pg_temp.deliver(:'both', '{"order": "P", "event": "-"}') IS NOT NULL AS started;
SELECT meshhook.pause_run(run_id) FROM meshhook.run_key WHERE idempotency_key = 'P';
SELECT status, body FROM pg_temp.deliver(:'both', '{"order": "P", "event": "paid", "n": 1}');
SELECT r.status FROM meshhook.run_key k JOIN meshhook.runs r USING (run_id) WHERE k.idempotency_key = 'P';
-- What lies in the inbox comes before the next signal: the cancel, which lets the run go on and so ends it.
SELECT meshhook.cancel_run(run_id) FROM meshhook.run_key WHERE idempotency_key = 'P';
SELECT status, body FROM pg_temp.deliver(:'both', '{"order": "P", "event": "paid", "n": 2}');
SELECT r.status FROM meshhook.runs r WHERE r.workflow = 'sale' AND r.input ->> 'order' = 'P' ORDER BY run_id;

-- Whoever has no key, or no name, is nobody's.
SELECT status, body, run FROM (VALUES ('{"event": "paid"}'), ('{"order": "", "event": "paid"}'), ('{"order": "meshhook:x", "event": "paid"}'),
    ('{"order": [1], "event": "paid"}'), ('{"order": "A"}')) v (sent), LATERAL pg_temp.deliver(:'both', v.sent::jsonb);
SELECT DISTINCT reason FROM meshhook.delivery WHERE endpoint_id = :'both' AND status = 422 ORDER BY 1;
SELECT pg_temp.endpoint('signal', route => '.input.workflow') AS routed \gset
SELECT * FROM pg_temp.deliver(:'routed', '{"order": 1, "event": "seen", "workflow": "sale-lane"}');
SELECT * FROM pg_temp.deliver(:'routed', '{"order": 1, "event": "seen", "workflow": "nothing"}');
-- A start that is refused gives the key back.
SELECT meshhook.publish_workflow('{"name": "sale-strict", "input_schema": {"required": ["id"]}, "nodes": [{"id": "paid", "type": "wait", "with": {"signal": "paid"}}]}');
SELECT pg_temp.endpoint('signal_or_start', workflow => 'sale-strict') AS strict \gset
SELECT status, body, run IS NOT NULL AS has_run FROM (VALUES ('{"order": 1, "event": "paid"}'), ('{"order": 1, "event": "paid", "id": 1}'),
    ('{"order": 1, "event": "seen", "n": 1}')) v (sent), LATERAL pg_temp.deliver(:'strict', v.sent::jsonb);

-- A schema of the endpoint's own.
SELECT endpoint AS narrow FROM meshhook.create_endpoint('sale', 'bearer', secret => 'token', filter => '.input.wanted != false',
    schema => '{"required": ["order"], "properties": {"order": {"type": "string"}, "total": {"minimum": 1}}}') \gset
SELECT status, body FROM (VALUES ('{"wanted": false}'), ('{"order": 1, "total": 0}'), ('{}'), ('{"order": "A"}')) v (sent),
    LATERAL pg_temp.deliver(:'narrow', v.sent::jsonb);

-- Changing one.
SELECT meshhook.alter_endpoint(:'narrow', schema => '{"required": ["id"]}', filter => '.input.n > 1', keep => 'all', dedupe_window => '0 s');
SELECT status, body FROM (VALUES ('{"n": 1}'), ('{"n": 2}'), ('{"n": 2, "id": 1}'), ('{"n": 2, "id": 1}')) v (sent), LATERAL pg_temp.deliver(:'narrow', v.sent::jsonb);
SELECT meshhook.alter_endpoint(:'narrow', to_default => '{schema,filter,dedupe_window}', workflow => 'sale-lane', action => 'signal', business_key => '.input.o', signal => '"seen"');
SELECT workflow, keep, dedupe_window, filter, action, business_key, signal, schema FROM meshhook.endpoints WHERE endpoint = :'narrow';
SELECT status, body FROM (VALUES ('{"o": 1}'), ('{"o": 1}'), ('{"o": 3}')) v (sent), LATERAL pg_temp.deliver(:'narrow', v.sent::jsonb);
SELECT action, details FROM meshhook.audit_log WHERE target = :'narrow' ORDER BY audit_id;

-- What cannot be is refused, when it is made and when it is changed, and nothing changes.
\set VERBOSITY default
SELECT meshhook.create_endpoint('sale', 'none', action => 'begin');
SELECT meshhook.create_endpoint('sale', 'none', action => 'signal', signal => '"paid"');
SELECT meshhook.create_endpoint('sale', 'none', action => 'signal_or_start', business_key => '.input.o');
SELECT meshhook.create_endpoint('sale', 'none', signal => '"paid"');
SELECT meshhook.create_endpoint('sale', 'none', action => 'signal', business_key => '.input.o', signal => 'paid');
SELECT meshhook.create_endpoint('sale', 'none', schema => '{"type": "order", "pattern": "("}');
SELECT meshhook.alter_endpoint(:'narrow');
SELECT meshhook.alter_endpoint(:'narrow', filter => '1', to_default => '{filter}');
SELECT meshhook.alter_endpoint(:'narrow', to_default => '{secret}');
SELECT meshhook.alter_endpoint(:'narrow', to_default => '{business_key}');
SELECT meshhook.alter_endpoint(:'narrow', schema => '1');
SELECT meshhook.alter_endpoint(:'narrow', tolerance => '2 days');
SELECT meshhook.alter_endpoint(:'narrow', workflow => 'nothing');
SELECT meshhook.alter_endpoint('nowhere', filter => '1');
SELECT meshhook.alter_endpoint(NULL, filter => '1');
SELECT workflow, filter, tolerance, business_key FROM meshhook.endpoints WHERE endpoint = :'narrow';

-- Without the sidecar, as PostgREST calls: json as it was sent, headers and answer in settings.
CREATE ROLE anon;
CREATE ROLE service_role;
CREATE ROLE web;
SELECT endpoint AS rpc FROM meshhook.create_endpoint('sale', 'github', secret => 'token', rpc => true) \gset
SELECT endpoint FROM meshhook.create_endpoint('sale', 'bearer', secret => 'token', rpc => true);
SELECT endpoint AS other FROM meshhook.create_endpoint('sale', 'gitlab_token', secret => 'token', rpc => true, rpc_roles => '{web}') \gset
SELECT replace(p.oid::regprocedure::text, :'rpc', '…') AS routine, pg_get_userbyid(proowner) AS owner, prosecdef, proconfig,
    array_agg(r.rolname ORDER BY r.rolname) AS may_call
FROM pg_proc p JOIN pg_roles r ON has_function_privilege(r.oid, p.oid, 'EXECUTE') AND r.rolname = ANY ('{anon,authenticated,service_role,web,public}')
WHERE pronamespace = 'meshhook_public'::regnamespace AND proname = 'hook_' || :'rpc' GROUP BY p.oid ORDER BY 1;
SELECT has_function_privilege('anon', oid, 'EXECUTE') AS anon, has_function_privilege('web', oid, 'EXECUTE') AS web
FROM pg_proc WHERE proname = 'hook_' || :'other' AND proargtypes = '114';
SELECT rpc_path = '/rpc/hook_' || endpoint AS is_told FROM meshhook.endpoints WHERE endpoint = :'rpc';
\set call 'meshhook_public."hook_' :rpc '"'
CREATE FUNCTION pg_temp.github(body bytea) RETURNS text LANGUAGE sql AS $$
    SELECT jsonb_build_object('content-type', 'application/json', 'x-hub-signature-256', 'sha256=' || encode(public.hmac(body, 'token', 'sha256'), 'hex'))::text
$$;
SELECT set_config('test.spaced', '{"order": "R",  "n": 1.0}', false) IS NOT NULL AS noted;
SELECT pg_temp.github(convert_to(current_setting('test.spaced'), 'UTF8')) AS signed \gset
BEGIN;
SELECT set_config('request.headers', :'signed', true) IS NOT NULL AS told, set_config('request.method', 'POST', true) AS method;
SET LOCAL ROLE anon;
SELECT (:call (current_setting('test.spaced')::json))::jsonb - 'run_id' AS answer;
SELECT current_setting('response.status') AS status, current_setting('response.headers') AS headers;
COMMIT;
BEGIN;
SELECT set_config('request.headers', :'signed', true) IS NOT NULL AS told;
SET LOCAL ROLE service_role;
SELECT (:call (convert_to(current_setting('test.spaced'), 'UTF8')))::jsonb - 'run_id' AS answer, current_setting('response.status') AS status;
SELECT :call ('{"order": "R"}'::text) AS answer, current_setting('response.status') AS status;
COMMIT;
SELECT :call ('{}'::json) AS answer;
SELECT status, reason FROM meshhook.delivery WHERE endpoint_id = :'rpc' ORDER BY delivery_id;
\set VERBOSITY sqlstate
SET ROLE web;
SELECT :call ('{}'::json);
RESET ROLE;
\set VERBOSITY default
SELECT meshhook.drop_endpoint(:'rpc');
SELECT count(*) FROM pg_proc WHERE pronamespace = 'meshhook_public'::regnamespace;
SELECT meshhook.create_endpoint('sale', 'url_secret', rpc => true);
SELECT meshhook.create_endpoint('sale', 'none', rpc => true, rpc_roles => '{nobody_there}');
SELECT meshhook.create_endpoint('sale', 'none', rpc_roles => '{web}');
SELECT meshhook.drop_endpoint(:'other');
DROP ROLE anon, service_role, web;

-- An answer for whoever waits: of the respond node, or of the run's end; and the status URL.
SELECT meshhook.publish_workflow('{"name": "sale-quote", "nodes": [{"id": "go", "type": "wait", "with": {"signal": "go"}},
    {"id": "answer", "type": "respond", "with": {"status": 201, "headers": {"x-quote": "1"}, "body": {"order": "{{ .input.order }}"}}},
    {"id": "rest", "type": "wait", "with": {"signal": "rest"}}], "edges": [{"from": "go", "to": "answer"}, {"from": "answer", "to": "rest"}]}');
SELECT endpoint AS quote FROM meshhook.create_endpoint('sale-quote', 'bearer', secret => 'token', respond_within => '1.5 s') \gset
SELECT r.status, respond_within_ms, r.body ->> 'run_id' AS run, outcome, r.body ->> 'status_url' = '/outcomes/' || outcome AS is_told
FROM meshhook.receive_webhook(:'quote', 'POST', '{"authorization": "Bearer token"}', '', '{"order": 1}') r \gset
\echo :status :respond_within_ms :is_told
SELECT status, headers, body FROM meshhook.webhook_outcomes(ARRAY[:'outcome', 'x', NULL]);
SELECT status, body - 'run_id' AS body, body ->> 'run_id' = :'run' AS its_run FROM meshhook.open_outcome(:'outcome');
SELECT meshhook.submit_event(:'run', 'go') ->> 'status' AS status;
SELECT status, headers, body, outcome = :'outcome' AS is_it FROM meshhook.webhook_outcomes(ARRAY[:'outcome', 'x', NULL]);
SELECT status, body - 'run_id' AS body FROM meshhook.open_outcome(:'outcome');
-- A repeat waits for the same; a signal for nothing, and neither does whoever is refused.
SELECT r.status, respond_within_ms, outcome = :'outcome' AS the_same FROM meshhook.receive_webhook(:'quote', 'POST', '{"authorization": "Bearer token"}', '', '{"order": 1}') r;
SELECT r.status, respond_within_ms, outcome FROM meshhook.receive_webhook(:'quote', 'POST', '{"authorization": "Bearer guess"}', '', '{"order": 2}') r;
SELECT meshhook.alter_endpoint(:'both', respond_within => '1 s');
SELECT n, r.status, respond_within_ms, outcome IS NOT NULL AS waits FROM generate_series(1, 2) n,
    meshhook.receive_webhook(:'both', 'POST', '{"authorization": "Bearer token"}', '', convert_to(jsonb_build_object('order', 'W', 'event', 'seen', 'n', n)::text, 'UTF8')) r;
SELECT meshhook.alter_endpoint(:'quote', to_default => '{respond_within}');
SELECT r.status, respond_within_ms, outcome FROM meshhook.receive_webhook(:'quote', 'POST', '{"authorization": "Bearer token"}', '', '{"order": 3}') r;
SELECT status, body FROM meshhook.open_outcome('x');
SELECT meshhook.create_endpoint('sale', 'none', respond_within => '31 s');
SELECT meshhook.create_endpoint('sale', 'none', respond_within => '99 ms');
