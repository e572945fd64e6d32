-- Webhooks as the sidecar passes them on: verified, counted once, answered. pgcrypto plays the sender.
SET client_min_messages = error;
SELECT meshhook.publish_workflow('{"name": "echo", "nodes": [
    {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}');
SELECT endpoint, path = '/hooks/' || endpoint AS at_its_path, secret, secret ~ '^whsec_[A-Za-z0-9+/]{32,}=*$' AS well_formed
FROM meshhook.create_endpoint('echo') \gset
\echo :at_its_path :well_formed
SELECT endpoint AS hub, secret AS hub_secret FROM meshhook.create_endpoint('echo', 'github') \gset

CREATE FUNCTION pg_temp.standard(secret text, id text, age interval, body text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'content-type', 'application/json', 'webhook-id', id, 'webhook-timestamp', sent,
        'webhook-signature', 'v1,' || encode(public.hmac(convert_to(id || '.' || sent || '.' || body, 'UTF8'),
                                             decode(substr(secret, 7), 'base64'), 'sha256'), 'base64'))
    FROM (SELECT extract(epoch FROM now() - age)::bigint::text AS sent) s
$$;
CREATE FUNCTION pg_temp.github(secret text, id text, body text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'content-type', 'application/json', 'x-github-delivery', id,
        'x-hub-signature-256', 'sha256=' || encode(public.hmac(convert_to(body, 'UTF8'), convert_to(secret, 'UTF8'), 'sha256'), 'hex'))
$$;
-- Run ids differ from run to run.
CREATE FUNCTION pg_temp.deliver(endpoint text, headers jsonb, body bytea, method text DEFAULT 'POST')
RETURNS TABLE (status integer, headers jsonb, body jsonb) LANGUAGE sql AS $$
    SELECT status, headers, CASE WHEN body ? 'run_id' THEN jsonb_set(body, '{run_id}', '"…"') ELSE body END
    FROM meshhook.receive_webhook(endpoint, method, headers, '', body)
$$;

SELECT * FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm1', '0 s', '{"n": 1}'), '{"n": 1}');
SELECT * FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm1', '0 s', '{"n": 1}'), '{"n": 1}');
SELECT * FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm1', '10 s', '{"n": 2}'), '{"n": 2}');
SELECT meshhook.tick();
SELECT workflow, status, output FROM meshhook.runs WHERE workflow = 'echo';
SELECT h.data -> 'trigger' ->> 'type' AS trigger, h.data -> 'trigger' ->> 'delivery' AS delivery, h.metadata
FROM meshhook.runs r, meshhook.run_history(r.run_id) h WHERE r.workflow = 'echo' AND h.position = 1;

-- One of several signatures is enough; what is no signature of ours is passed over.
SELECT status FROM pg_temp.standard(:'secret', 'm2', '0 s', '{}') h,
    pg_temp.deliver(:'endpoint', jsonb_set(h, '{webhook-signature}', to_jsonb('v1a,xyz v1,AAAA ' || (h ->> 'webhook-signature'))), '{}');

-- Each of these is nobody's.
SELECT * FROM pg_temp.deliver(:'endpoint', '{}', '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '0 s', '{}'), '{ }');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '6 min', '{}'), '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '-6 min', '{}'), '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'm3', '0 s', '{}'), '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '0 s', '{}') || '{"webhook-id": "m4"}', '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '0 s', '{}') - 'webhook-id', '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '0 s', '{}') || '{"webhook-timestamp": "soon"}', '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '0 s', '{}') || '{"webhook-signature": "v1,"}', '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm3', '0 s', '{}') || '{"webhook-signature": ["v1,"]}', '{}');

-- Somebody's, but not what the endpoint takes.
SELECT * FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'm5', '0 s', 'no json'), 'no json');
SELECT * FROM pg_temp.deliver(:'endpoint', '{}', '', 'GET');
SELECT * FROM pg_temp.deliver('no-such-endpoint', '{}', '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', '{}', convert_to(repeat('x', 2000000), 'UTF8'));
SELECT status FROM pg_temp.deliver(:'endpoint', 'null', '');
SELECT * FROM meshhook.receive_webhook(:'endpoint', 'POST', '{}', NULL, NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- Bytes that are no text are signed all the same and refused as what they are.
SELECT status, body FROM (SELECT extract(epoch FROM now())::bigint::text AS sent) s,
    pg_temp.deliver(:'endpoint', jsonb_build_object('webhook-id', 'm6', 'webhook-timestamp', sent, 'webhook-signature',
        'v1,' || encode(hmac(convert_to('m6.' || sent || '.', 'UTF8') || '\xff00'::bytea, decode(substr(:'secret', 7), 'base64'), 'sha256'), 'base64')), '\xff00');

-- GitHub's way.
SELECT status FROM pg_temp.deliver(:'hub', pg_temp.github(:'hub_secret', 'd1', '{"n": 1}'), '{"n": 1}');
SELECT status FROM pg_temp.deliver(:'hub', pg_temp.github(:'hub_secret', 'd1', '{"n": 1}'), '{"n": 1}');
SELECT status FROM pg_temp.deliver(:'hub', pg_temp.github('guess', 'd2', '{"n": 1}'), '{"n": 1}');
SELECT status FROM pg_temp.deliver(:'hub', pg_temp.standard(:'secret', 'd3', '0 s', '{}'), '{}');
-- The delivery's name is not signed there: the same body under another name is still the same delivery.
SELECT status FROM pg_temp.deliver(:'hub', pg_temp.github(:'hub_secret', 'd9', '{"n": 1}'), '{"n": 1}');

-- A new secret beside the old one, and then instead of it.
SELECT meshhook.rotate_endpoint_secret(:'endpoint') AS new_secret \gset
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'secret', 'r1', '0 s', '{}'), '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'new_secret', 'r2', '0 s', '{}'), '{}');
SELECT meshhook.rotate_endpoint_secret(:'endpoint', '0 s') AS newest_secret \gset
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'new_secret', 'r3', '0 s', '{}'), '{}');
SELECT status FROM pg_temp.deliver(:'endpoint', pg_temp.standard(:'newest_secret', 'r3', '0 s', '{}'), '{}');

-- Every delivery to an endpoint that exists is on record, with what became of it.
SELECT status, reason, run_id IS NOT NULL AS has_run, count(*) FROM meshhook.delivery GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT count(*) FROM meshhook.runs WHERE workflow = 'echo';
-- The secrets are not.
SELECT count(*) FROM meshhook.endpoint_secret WHERE position(decode(substr(:'newest_secret', 7), 'base64') IN sealed) > 0;
SELECT action, target = :'endpoint' AS this_one, details FROM meshhook.audit_log WHERE action LIKE 'endpoint.%' ORDER BY audit_id;

SELECT * FROM meshhook.create_endpoint('nothing');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.create_endpoint('echo', 'carrier pigeon');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.create_endpoint('echo', 'standard', '-1 s');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.rotate_endpoint_secret('no-such-endpoint');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- A body that breaks the input schema is told so and may come again; an archived workflow takes none.
SELECT meshhook.publish_workflow('{"name": "strict", "nodes": [{"id": "out", "type": "transform", "with": {"output": 1}}],
    "input_schema": {"required": ["id"], "properties": {"id": {"type": "integer"}}}}');
SELECT endpoint AS strict, secret AS strict_secret FROM meshhook.create_endpoint('strict') \gset
SELECT * FROM pg_temp.deliver(:'strict', pg_temp.standard(:'strict_secret', 's1', '0 s', '{"id": "x"}'), '{"id": "x"}');
SELECT * FROM pg_temp.deliver(:'strict', pg_temp.standard(:'strict_secret', 's1', '0 s', '{"id": 1}'), '{"id": 1}');
SELECT meshhook.archive_workflow('strict');
SELECT * FROM pg_temp.deliver(:'strict', pg_temp.standard(:'strict_secret', 's2', '0 s', '{"id": 1}'), '{"id": 1}');
SELECT * FROM pg_temp.deliver(:'strict', pg_temp.standard(:'strict_secret', 's1', '0 s', '{"id": 1}'), '{"id": 1}');
SELECT status, reason FROM meshhook.delivery WHERE endpoint_id = :'strict' ORDER BY delivery_id;

-- Bodies become what their content types stand for.
SELECT endpoint AS bodies, secret AS bodies_secret FROM meshhook.create_endpoint('echo') \gset
SELECT id, content_type, reply.status, reply.body ->> 'error' AS error
FROM (VALUES
    ('b1', 'application/x-www-form-urlencoded', 'a=1&b=x+y&a=%C3%A4'),
    ('b2', 'application/x-www-form-urlencoded', 'a=%00'),
    ('b3', 'multipart/form-data; boundary=cut',
     E'--cut\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n--cut\r\nContent-Disposition: form-data; '
     'name="f"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nabc\r\n--cut--'),
    ('b4', 'multipart/form-data', ''),
    ('b5', 'application/xml', '<a b="1"/>'),
    ('b6', 'application/octet-stream', 'bytes'),
    ('b7', 'application/json; charset=latin1', '{}'),
    ('b8', 'application/cloudevents+json', '{"specversion": "1.0"}')) v (id, content_type, sent),
  LATERAL (SELECT pg_temp.standard(:'bodies_secret', id, '0 s', sent) AS headers) h,
  LATERAL pg_temp.deliver(:'bodies', h.headers || jsonb_build_object('content-type', content_type), convert_to(sent, 'UTF8')) reply
ORDER BY id;
SELECT meshhook.tick();
SELECT h.data -> 'trigger' ->> 'delivery' AS id, h.data -> 'input' AS input
FROM meshhook.delivery d, meshhook.run_history(d.run_id) h WHERE d.endpoint_id = :'bodies' AND h.position = 1 ORDER BY 1;
