-- What is kept of deliveries, how long they are recognised, how many are taken, and taking one in once more.
SET client_min_messages = warning;
\set VERBOSITY sqlstate
SELECT meshhook.publish_workflow('{"name": "noted", "nodes": [
    {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}],
    "input_schema": {"required": ["id"]}}');
CREATE FUNCTION pg_temp.deliver(endpoint text, token text, body text, headers jsonb DEFAULT '{}') RETURNS SETOF record LANGUAGE sql AS $$
    SELECT status, r.headers, CASE jsonb_typeof(r.body) WHEN 'object' THEN r.body - 'run_id' ELSE r.body END FROM meshhook.receive_webhook(endpoint, 'POST',
        jsonb_build_object('content-type', 'application/json', 'authorization', 'Bearer ' || token) || headers,
        'source=psql', convert_to(body, 'UTF8')) r
$$;

-- By default what a known sender's delivery came with is kept if it started no run, without what proves who it is.
SELECT endpoint AS refused, secret AS token FROM meshhook.create_endpoint('noted', 'bearer') \gset
SELECT endpoint AS everything FROM meshhook.create_endpoint('noted', 'bearer', secret => :'token', keep => 'all') \gset
SELECT endpoint AS nothing FROM meshhook.create_endpoint('noted', 'bearer', secret => :'token', keep => 'nothing') \gset
SELECT kept, sent.*
FROM (VALUES ('1', :'refused'), ('2', :'everything'), ('3', :'nothing')) e (kept, id),
    LATERAL (SELECT n, status FROM (VALUES (1, :'token', '{"id": 1}'), (2, :'token', '{"n": 2}'), (3, 'guess', '{"id": 3}')) v (n, token, body),
        LATERAL pg_temp.deliver(e.id, v.token, v.body, '{"x-api-key": "canary", "x-event": "made"}')
            AS (status integer, headers jsonb, body jsonb)) sent ORDER BY 1, 2;
SELECT CASE endpoint_id WHEN :'refused' THEN 'refused' WHEN :'everything' THEN 'all' ELSE 'nothing' END AS keep,
    status, reason, headers, query, convert_from(body, 'UTF8') AS body, body_bytes, dedupe_key IS NOT NULL AS is_known
FROM meshhook.delivery WHERE endpoint_id IN (:'refused', :'everything', :'nothing') ORDER BY 1 DESC, delivery_id;
SELECT count(*) FROM meshhook.delivery d WHERE d::text LIKE '%canary%' OR d::text LIKE '%' || :'token' || '%';

-- Taken in once more: as the workflow is now, and no second run of what has started one.
SELECT delivery_id AS broken FROM meshhook.delivery WHERE endpoint_id = :'refused' AND status = 422 \gset
SELECT status, body ->> 'error' AS error FROM meshhook.redeliver(:'refused', :broken);
SELECT meshhook.publish_workflow('{"name": "noted", "nodes": [
    {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}');
SELECT status FROM meshhook.redeliver(:'refused', :broken);
SELECT status, body -> 'duplicate' AS duplicate FROM meshhook.redeliver(:'refused', :broken);
SELECT status, body -> 'duplicate' AS duplicate FROM meshhook.redeliver(:'refused', :broken, again => true);
SELECT meshhook.tick() > 0 AS turned;
SELECT d.status, d.redelivery_of - :broken AS again_of, r.input, h.data -> 'trigger' ->> 'query' AS query
FROM meshhook.delivery d JOIN meshhook.runs r USING (run_id), meshhook.run_history(d.run_id) h
WHERE d.endpoint_id = :'refused' AND d.redelivery_of IS NOT NULL AND h.position = 1 ORDER BY d.delivery_id;
SELECT count(DISTINCT run_id) FROM meshhook.delivery WHERE redelivery_of = :broken;
-- Nor when its key is forgotten.
DELETE FROM meshhook.delivery_key WHERE endpoint_id IN (:'refused', :'everything') AND run_id IN (SELECT run_id FROM meshhook.delivery WHERE body IS NOT NULL OR redelivery_of = :broken);
SELECT status, body -> 'duplicate' AS duplicate FROM meshhook.redeliver(:'refused', :broken);
SELECT status, body -> 'duplicate' AS duplicate FROM meshhook.redeliver(:'everything', (SELECT min(delivery_id) FROM meshhook.delivery WHERE endpoint_id = :'everything'));
SELECT meshhook.redeliver(:'refused', (SELECT min(delivery_id) FROM meshhook.delivery WHERE endpoint_id = :'refused'));
SELECT meshhook.redeliver(:'everything', :broken);
SELECT meshhook.redeliver('none', :broken);
SELECT action, details - 'delivery' AS details FROM meshhook.audit_log WHERE action = 'delivery.redelivered' AND target = :'refused';

-- A delivery is recognised for the endpoint's window, and the run that came after it counts from then on.
SELECT dedupe_window FROM meshhook.endpoint WHERE endpoint_id = :'refused';
SELECT status FROM pg_temp.deliver(:'refused', :'token', '{"id": 1}') AS (status integer, headers jsonb, body jsonb);
UPDATE meshhook.delivery_key SET created_at = now() - interval '25 hours' WHERE endpoint_id = :'refused';
SELECT n, status FROM generate_series(1, 2) n, pg_temp.deliver(:'refused', :'token', '{"id": 1}', jsonb_build_object('n', n)) AS (status integer, headers jsonb, body jsonb);
SELECT count(DISTINCT run_id) FROM meshhook.delivery WHERE endpoint_id = :'refused' AND reason = 'accepted' AND redelivery_of IS NULL;
SELECT meshhook.create_endpoint('noted', 'github', dedupe_window => '23 hours');
SELECT endpoint AS every FROM meshhook.create_endpoint('noted', 'bearer', dedupe_window => '0 s', secret => :'token') \gset
SELECT count(DISTINCT r.body ->> 'run_id') AS runs FROM generate_series(1, 3) n,
    meshhook.receive_webhook(:'every', 'POST', jsonb_build_object('authorization', 'Bearer ' || :'token', 'n', n), '', '{}') r;
SELECT meshhook.create_endpoint('noted', 'standard', '1 hour', dedupe_window => '121 min') IS NOT NULL AS made;
SELECT meshhook.create_endpoint('noted', 'standard', '1 hour', dedupe_window => '2 hours');
SELECT meshhook.create_endpoint('noted', keep => 'some');

-- So many at once, and only those of known senders count.
SELECT meshhook.set_endpoint_rate(:'everything', 2, '1 hour');
SELECT status, headers - 'retry-after' AS headers, (headers ->> 'retry-after')::integer BETWEEN 1700 AND 1800 AS retry_after, body
FROM (VALUES (1, 'guess'), (2, 'guess'), (3, 'guess'), (4, :'token'), (5, :'token')) v (n, token),
    LATERAL pg_temp.deliver(:'everything', v.token, '{"id": 4}') AS (status integer, headers jsonb, body jsonb);
SELECT status, regexp_replace(headers ->> 'ratelimit', 't=1[78]\d\d$', 't=…') AS ratelimit, (headers ->> 'retry-after')::integer BETWEEN 1700 AND 1800 AS retry_after, body
FROM pg_temp.deliver(:'everything', :'token', '{"id": 5}') AS (status integer, headers jsonb, body jsonb);
SELECT status, reason FROM meshhook.delivery WHERE endpoint_id = :'everything' ORDER BY delivery_id DESC LIMIT 1;
-- Others have their own; a project's endpoints share one beside them.
SELECT status, headers FROM pg_temp.deliver(:'nothing', :'token', '{"id": 5}') AS (status integer, headers jsonb, body jsonb);
SELECT meshhook.set_project_webhook_rate('default', 1, '1 day');
SELECT status, headers ->> 'ratelimit-policy' AS policy FROM generate_series(6, 7) n,
    pg_temp.deliver(:'nothing', :'token', format('{"id": %s}', n)) AS (status integer, headers jsonb, body jsonb);
SELECT reason FROM meshhook.delivery WHERE endpoint_id = :'nothing' ORDER BY delivery_id DESC LIMIT 1;
-- What a project refuses costs the endpoint nothing.
SELECT meshhook.set_endpoint_rate(:'nothing', 5, '1 day');
SELECT status, count(*) FROM generate_series(8, 15) n, pg_temp.deliver(:'nothing', :'token', format('{"id": %s}', n)) AS (status integer, headers jsonb, body jsonb) GROUP BY 1;
SELECT meshhook.set_project_webhook_rate('default', NULL);
SELECT status, count(*) FROM generate_series(8, 15) n, pg_temp.deliver(:'nothing', :'token', format('{"id": %s}', n)) AS (status integer, headers jsonb, body jsonb) GROUP BY 1;
SELECT meshhook.set_endpoint_rate(:'nothing', NULL);
SELECT status, headers FROM pg_temp.deliver(:'nothing', :'token', '{"id": 16}') AS (status integer, headers jsonb, body jsonb);
SELECT meshhook.set_endpoint_rate(:'nothing', 0);
SELECT meshhook.set_endpoint_rate(:'nothing', 1, '999 ms');
SELECT meshhook.set_endpoint_rate('none', 1);
SELECT meshhook.set_project_webhook_rate('nobody', 1);
SELECT action, details FROM meshhook.audit_log WHERE action LIKE '%rate_set' ORDER BY audit_id;
SELECT workflow, preset, keep, tolerance, dedupe_window, rate_limit, rate_per, last_status, last_reason, path = '/hooks/' || endpoint AS has_path
FROM meshhook.endpoints WHERE endpoint IN (:'everything', :'nothing') ORDER BY keep;

-- What is wanted, and what it starts.
SELECT meshhook.publish_workflow('{"name": "push", "nodes": [{"id": "out", "type": "transform", "with": {"output": "{{ .input.n }}"}}]}');
SELECT endpoint AS chosen FROM meshhook.create_endpoint('noted', 'bearer', secret => :'token',
    filter => '.input.n > 0', route => 'if .headers["x-event"] == "push" then "push" elif .query == "source=psql" and .input.n > 5 then .input.to else null end') \gset
SELECT n, event, status, body FROM (VALUES (1, 'push', 1, NULL), (2, 'push', 0, NULL), (3, 'made', 3, NULL), (4, 'made', 6, 'push'), (5, 'made', 7, 'nowhere'), (6, 'made', 8, NULL)) v (n, event, value, "to"),
    LATERAL pg_temp.deliver(:'chosen', :'token', jsonb_build_object('n', value, 'to', "to", 'id', n)::text, jsonb_build_object('x-event', event))
        AS (status integer, headers jsonb, body jsonb) ORDER BY n;
SELECT status FROM pg_temp.deliver(:'chosen', :'token', '{"n": 1, "id": 7, "to": 7}') AS (status integer, headers jsonb, body jsonb);
SELECT status FROM pg_temp.deliver(:'chosen', :'token', '[]') AS (status integer, headers jsonb, body jsonb);
SELECT d.status, d.reason, d.body IS NOT NULL AS is_kept, r.workflow FROM meshhook.delivery d LEFT JOIN meshhook.runs r USING (run_id)
WHERE d.endpoint_id = :'chosen' ORDER BY d.delivery_id;
SELECT filter, route IS NOT NULL AS has_route FROM meshhook.endpoints WHERE endpoint = :'chosen';
\set VERBOSITY default
SELECT meshhook.create_endpoint('noted', filter => '.input.n >');
SELECT meshhook.create_endpoint('noted', route => '.body.name');
\set VERBOSITY sqlstate

-- Retention takes what is older than delivery_days and than the window, and keys that nothing is recognised by any more.
SELECT count(*) FROM meshhook.forget_deliveries(-1);
SELECT * FROM meshhook.forget_deliveries(0);
UPDATE meshhook.endpoint SET dedupe_window = '1 day' WHERE endpoint_id = :'refused';
UPDATE meshhook.delivery SET received_at = now() - interval '40 days' WHERE endpoint_id = :'refused'
    AND delivery_id < (SELECT max(delivery_id) FROM meshhook.delivery WHERE endpoint_id = :'refused');
UPDATE meshhook.delivery_key k SET created_at = now() - interval '40 days' FROM meshhook.delivery d
WHERE k.endpoint_id = :'refused' AND d.endpoint_id = :'refused' AND d.dedupe_key = k.dedupe_key AND k.run_id = d.run_id AND d.redelivery_of IS NOT NULL;
SELECT * FROM meshhook.forget_deliveries(41);
SELECT * FROM meshhook.forget_deliveries(30);
SELECT status, count(*) FROM meshhook.delivery WHERE endpoint_id = :'refused' GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM meshhook.delivery_key WHERE endpoint_id = :'refused';

-- An endpoint that is dropped is unknown, and goes when its deliveries have gone.
SELECT meshhook.drop_endpoint(:'refused');
SELECT status FROM pg_temp.deliver(:'refused', :'token', '{"id": 1}') AS (status integer, headers jsonb, body jsonb);
SELECT count(*) FROM meshhook.endpoint_secret WHERE endpoint_id = :'refused';
SELECT count(*) FROM meshhook.endpoints WHERE endpoint = :'refused';
SELECT meshhook.drop_endpoint(:'refused');
SELECT meshhook.rotate_endpoint_secret(:'refused');
SELECT meshhook.redeliver(:'refused', :broken);
UPDATE meshhook.delivery SET received_at = now() - interval '40 days' WHERE endpoint_id = :'refused';
SELECT * FROM meshhook.forget_deliveries(30);
SELECT * FROM meshhook.forget_deliveries(30);
UPDATE meshhook.endpoint SET dropped_at = now() - interval '25 hours' WHERE endpoint_id = :'refused';
SELECT * FROM meshhook.forget_deliveries(30);
SELECT count(*) FROM meshhook.endpoint WHERE endpoint_id = :'refused';
SELECT * FROM meshhook.forget_deliveries(30);

-- What was started is worked off, so that it moves in no other test.
SELECT meshhook.tick() > 0 AS turned;
SELECT count(*) FROM meshhook.runs WHERE finished_at IS NULL AND workflow IN ('noted', 'push');
