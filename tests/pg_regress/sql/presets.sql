-- Endpoints of other senders: secrets that they made, addresses that they sign, secrets in addresses, nothing at all.
SET client_min_messages = warning;
\set VERBOSITY terse
SELECT meshhook.publish_workflow('{"name": "taken", "nodes": [
    {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}');
CREATE FUNCTION pg_temp.deliver(endpoint text, headers jsonb, body text, query text DEFAULT '') RETURNS integer LANGUAGE sql AS $$
    SELECT status FROM meshhook.receive_webhook(endpoint, 'POST', '{"content-type": "application/json"}' || headers, query, convert_to(body, 'UTF8'))
$$;
CREATE FUNCTION pg_temp.mac(content text, secret text, algorithm text) RETURNS bytea LANGUAGE sql AS $$
    SELECT public.hmac(convert_to(content, 'UTF8'), convert_to(secret, 'UTF8'), algorithm)
$$;

-- A secret that the sender made is kept as it is, and refused where it can never match.
SELECT endpoint AS stripe, secret FROM meshhook.create_endpoint('taken', 'stripe', secret => 'whsec_of_stripe') \gset
\echo :secret
SELECT pg_temp.deliver(:'stripe', jsonb_build_object('stripe-signature', format('t=%s,v1=%s', t, encode(pg_temp.mac(t || '.{"id": "evt_1"}', 'whsec_of_stripe', 'sha256'), 'hex'))), '{"id": "evt_1"}'),
       pg_temp.deliver(:'stripe', jsonb_build_object('stripe-signature', format('t=%s,v1=%s', t, encode(pg_temp.mac(t || '.{"id": "evt_1", "retry": 2}', 'whsec_of_stripe', 'sha256'), 'hex'))), '{"id": "evt_1", "retry": 2}')
FROM (SELECT extract(epoch FROM now())::bigint::text AS t) s;
SELECT dedupe_key, count(*) FROM meshhook.delivery WHERE endpoint_id = :'stripe' GROUP BY dedupe_key;
SELECT meshhook.create_endpoint('taken', 'standard', secret => 'whsec_short');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_endpoint('taken', 'nobody');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.rotate_endpoint_secret(:'stripe', '0 s', 'whsec_newer');
SELECT tolerance FROM meshhook.endpoint WHERE endpoint_id = :'stripe';

-- Whoever verifies with a public key needs the sender's.
SELECT meshhook.create_endpoint('taken', 'discord');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_endpoint('taken', 'discord', secret => 'abc');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- The address is what public_url says.
SELECT meshhook.create_endpoint('taken', 'square');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- A secret in the address is nowhere afterwards.
SELECT endpoint AS plain FROM meshhook.create_endpoint('taken', 'url_secret', secret => 'canary-7f3a') \gset
SELECT pg_temp.deliver(:'plain', '{}', '{"n": 1}', 'secret=canary-7f3a&x=1'), pg_temp.deliver(:'plain', '{}', '{"n": 2}', 'secret=other'),
       pg_temp.deliver(:'plain', '{}', '{"n": 2}', 'secret=canary-7f3a&secret=canary-7f3a'), pg_temp.deliver(:'plain', '{}', '{"n": 2}');
SELECT meshhook.tick() > 0 AS moved;
SELECT count(*) FROM meshhook.run_event e WHERE e::text LIKE '%canary-7f3a%';
SELECT count(*) FROM meshhook.delivery d WHERE d::text LIKE '%canary-7f3a%';

-- User and password, and a token.
SELECT endpoint AS basic, secret ~ '^meshhook:.{43}$' AS well_formed, secret FROM meshhook.create_endpoint('taken', 'basic') \gset
\echo :well_formed
SELECT pg_temp.deliver(:'basic', jsonb_build_object('authorization', 'Basic ' || encode(convert_to(:'secret', 'UTF8'), 'base64')), '{"n": 3}'),
       pg_temp.deliver(:'basic', jsonb_build_object('authorization', 'Basic ' || encode('meshhook:guess', 'base64')), '{"n": 4}');

-- Nothing is verified where nothing is asked for, which is said aloud.
SELECT endpoint AS open, secret IS NULL AS without_secret FROM meshhook.create_endpoint('taken', 'none') \gset
\echo :without_secret
SELECT pg_temp.deliver(:'open', '{}', '{"n": 5}'), pg_temp.deliver(:'open', '{}', '{"n": 5}');
SELECT meshhook.rotate_endpoint_secret(:'open');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_endpoint('taken', 'none', secret => 'x');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.tick() > 0 AS moved;

-- A scheme of one's own.
SELECT endpoint AS own, secret FROM meshhook.create_endpoint('taken', 'hmac', secret => 'of acme', scheme => '{
    "header": "X-Acme-Signature", "prefix": "sha256=", "signed": "{timestamp}.{body}", "timestamp_header": "X-Acme-Time",
    "dedupe": "/event/id"}') \gset
SELECT pg_temp.deliver(:'own', jsonb_build_object('x-acme-time', t, 'x-acme-signature', 'sha256=' || encode(pg_temp.mac(t || '.' || body, key, 'sha256'), 'hex')), body)
FROM (SELECT extract(epoch FROM now())::bigint::text AS t) s,
     (VALUES ('{"event": {"id": "e1"}}', 'of acme'), ('{"event": {"id": "e1"}, "again": true}', 'of acme'), ('{"event": {"id": "e2"}}', 'of another')) d (body, key);
SELECT dedupe_key, count(*) FROM meshhook.delivery WHERE endpoint_id = :'own' GROUP BY dedupe_key ORDER BY dedupe_key;
SELECT meshhook.rotate_endpoint_secret(:'own', '0 s', 'of acme, newer');
SELECT meshhook.create_endpoint('taken', 'hmac');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_endpoint('taken', 'stripe', scheme => '{"header": "x"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
\set VERBOSITY default
SELECT meshhook.create_endpoint('taken', 'hmac', scheme => '{"header": "x", "signed": "{timestamp}{body}", "timestamp_header": "t"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_endpoint('taken', 'hmac', scheme => '{"header": "x", "secret": "s"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
\set VERBOSITY terse

-- Challenges are answered and start nothing.
SELECT endpoint AS slack FROM meshhook.create_endpoint('taken', 'slack', secret => 'of slack') \gset
SELECT endpoint AS zoom FROM meshhook.create_endpoint('taken', 'zoom', secret => 'of zoom') \gset
SELECT endpoint AS meta FROM meshhook.create_endpoint('taken', 'meta', secret => 'of meta') \gset
CREATE FUNCTION pg_temp.v0(sender text, secret text, body text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(sender || '-request-timestamp', t, sender || '-signature',
        'v0=' || encode(pg_temp.mac('v0:' || t || ':' || body, secret, 'sha256'), 'hex'))
    FROM (SELECT extract(epoch FROM now())::bigint::text AS t) s
$$;
SELECT r.status, r.body FROM (VALUES
    (:'slack', 'x-slack', 'of slack', '{"type": "url_verification", "challenge": "abc"}'),
    (:'slack', 'x-slack', 'guess', '{"type": "url_verification", "challenge": "abc"}'),
    (:'zoom', 'x-zm', 'of zoom', '{"event": "endpoint.url_validation", "payload": {"plainToken": "abc"}}')) d (endpoint, sender, secret, sent),
  LATERAL meshhook.receive_webhook(endpoint, 'POST', pg_temp.v0(sender, secret, sent), '', convert_to(sent, 'UTF8')) r;
SELECT encode(pg_temp.mac('abc', 'of zoom', 'sha256'), 'hex') AS mac;
SELECT r.* FROM (VALUES ('POST'), ('GET')) m (method), (VALUES (:'meta'), ('guess')) v (word),
  LATERAL meshhook.receive_webhook(:'meta', method, '{}', 'hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=' || word, '') r;
SELECT status, reason, run_id FROM meshhook.delivery WHERE endpoint_id IN (:'slack', :'zoom', :'meta') ORDER BY delivery_id;

-- Tokens: what they are signed with and what they must say is the endpoint's say.
CREATE FUNCTION pg_temp.base64url(bytes bytea) RETURNS text LANGUAGE sql AS $$
    SELECT translate(rtrim(encode(bytes, 'base64'), '='), E'+/\n', '-_')
$$;
CREATE FUNCTION pg_temp.token(secret text, claims jsonb, header jsonb DEFAULT '{"alg": "HS256"}') RETURNS text LANGUAGE sql AS $$
    SELECT signed || '.' || pg_temp.base64url(public.hmac(signed, secret, 'sha256'))
    FROM (SELECT pg_temp.base64url(convert_to(header::text, 'UTF8')) || '.' || pg_temp.base64url(convert_to(claims::text, 'UTF8'))) s (signed)
$$;
SELECT endpoint AS jwt, secret AS shared FROM meshhook.create_endpoint('taken', 'jwt', scheme => '{"algorithms": "HS256", "issuer": "us", "audience": "hooks"}') \gset
SELECT n, r.status
FROM (VALUES (1, '{}', '{"alg": "HS256"}'), (2, '{"exp": 1}', '{"alg": "HS256"}'), (3, '{"iss": "them"}', '{"alg": "HS256"}'),
    (4, '{"aud": "others"}', '{"alg": "HS256"}'), (5, '{}', '{"alg": "none"}'), (6, '{"exp": null}', '{"alg": "HS256"}')) v (n, more, header),
  LATERAL (SELECT '{"iss": "us", "aud": "hooks"}' || jsonb_build_object('exp', extract(epoch FROM now() + '1 min')::bigint) || more::jsonb AS claims) c,
  LATERAL (SELECT jsonb_build_object('content-type', 'application/json',
      'authorization', 'Bearer ' || pg_temp.token(:'shared', jsonb_strip_nulls(claims), header::jsonb)) AS sent) s,
  LATERAL meshhook.receive_webhook(:'jwt', 'POST', sent, '', convert_to(jsonb_build_object('n', n)::text, 'UTF8')) r ORDER BY n;
SELECT reason FROM meshhook.delivery WHERE endpoint_id = :'jwt' ORDER BY delivery_id;
SELECT meshhook.create_endpoint('taken', 'jwt');
SELECT meshhook.create_endpoint('taken', 'jwt', scheme => '{"algorithms": ["HS256", "ES256"]}');
SELECT meshhook.create_endpoint('taken', 'jwt', scheme => '{"algorithms": "ES256"}');
SELECT meshhook.create_endpoint('taken', 'jwt', scheme => '{"algorithms": "ES256"}', secret => 'shared');
SELECT meshhook.create_endpoint('taken', 'jwt', scheme => '{"algorithms": "HS256"}', secret => 'short');
