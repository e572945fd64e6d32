-- Resume URLs as executors get them and the sidecar passes them on: signed, single-use, nowhere stored.
SET client_min_messages = warning;
-- Without a public address they have no host.
SELECT meshhook.publish_workflow('{"name": "ask", "nodes": [
    {"id": "begin", "type": "transform", "with": {"output": 1}},
    {"id": "mail", "type": "task", "with": {"queue": "mail",
        "input": {"url": "{{ $resume.ok }}", "again": ["<{{ $resume.ok }}>"], "said": "{{ .input }}"}}},
    {"id": "ok", "type": "wait", "with": {"approval": {}}},
    {"id": "done", "type": "transform", "with": {"output": "{{ .nodes.ok.output.voices }}"}}],
    "edges": [{"from": "begin", "to": "mail"}, {"from": "begin", "to": "ok"}, {"from": "ok", "port": "approved", "to": "done"}]}');
ALTER SYSTEM SET meshhook.public_url = 'https://hooks.example.com/in/';
ALTER SYSTEM SET meshhook.resume_url_lifetime = '1h';
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
SET client_min_messages = error;

CREATE FUNCTION pg_temp.masked(body jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_object_agg(key, CASE WHEN key IN ('run_id', 'expires_at', 'used_at') THEN '"…"' ELSE value END)
    FROM jsonb_each(body)
$$;
CREATE FUNCTION pg_temp.open(token text) RETURNS TABLE (status integer, body jsonb) LANGUAGE sql AS $$
    SELECT status, pg_temp.masked(body) FROM meshhook.open_resume_url(token)
$$;
CREATE FUNCTION pg_temp.use(token text, answer jsonb) RETURNS TABLE (status integer, body jsonb) LANGUAGE sql AS $$
    SELECT status, pg_temp.masked(body) FROM meshhook.use_resume_url(token, answer)
$$;
CREATE FUNCTION pg_temp.token(url text) RETURNS text LANGUAGE sql AS $$
    SELECT substring(url FROM '^https://hooks\.example\.com/in/resume/([A-Za-z0-9_-]+)$')
$$;

SELECT meshhook.start_run('ask', '"meshhook:resume:ok:00000000000000000000000000000000"') AS run \gset
SELECT meshhook.tick() > 0 AS turned;
SELECT job_id, token AS fence, payload FROM meshhook.claim_jobs('mail') \gset
SELECT :'payload'::jsonb ->> 'url' AS url, pg_temp.token(:'payload'::jsonb ->> 'url') AS token \gset
-- Both places hold the same URL; what only looks like a placeholder stays.
SELECT :'payload'::jsonb -> 'again' ->> 0 = '<' || :'url' || '>' AS same, :'payload'::jsonb ->> 'said' AS said;
-- The log has a placeholder, and every attempt gets the same URL.
SELECT regexp_replace(data -> 'input' ->> 'url', '[0-9a-f]{32}$', '…') FROM meshhook.run_history(:'run') WHERE data ->> 'node' = 'mail';
SELECT outcome FROM meshhook.release_jobs(ARRAY[:'job_id'], ARRAY[:fence]::bigint[]);
SELECT job_id, token AS fence, payload ->> 'url' = :'url' AS same FROM meshhook.claim_jobs('mail') \gset
\echo :same

-- Looking changes nothing, however often.
SELECT * FROM pg_temp.open(:'token');
SELECT * FROM pg_temp.open(:'token');
-- What is no answer uses nothing up.
SELECT a.* FROM unnest(ARRAY['{}', '[]', '{"approved": "yes"}', '{"approved": true, "by": ""}', '{"approved": true, "x": 1}']::jsonb[]) u (answer),
    pg_temp.use(:'token', u.answer) a;
SELECT * FROM meshhook.use_resume_url(:'token', NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.use_resume_url(:'token', jsonb_build_object('approved', true, 'payload', repeat('x', 2000000)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- The layout of a token, with what it takes to make one.
CREATE FUNCTION pg_temp.bytes(token text) RETURNS bytea LANGUAGE sql AS $$
    SELECT decode(rpad(translate(token, '-_', '+/'), (length(token) + 3) / 4 * 4, '='), 'base64')
$$;
CREATE FUNCTION pg_temp.text(bytes bytea) RETURNS text LANGUAGE sql AS $$
    SELECT translate(encode(bytes, 'base64'), E'+/=\n', '-_')
$$;
CREATE FUNCTION pg_temp.forged(project integer, run uuid, expires timestamptz, place text) RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.text(said || substr(public.hmac(said, public.hmac('meshhook resume url 1'::bytea, decode(kek[2], 'base64'), 'sha256'), 'sha256'), 1, 16))
    FROM regexp_match(pg_read_file(current_setting('meshhook.kek_file')), '([^:]+):(\S+)') kek,
    LATERAL (SELECT '\x01'::bytea || set_byte('\x00', 0, length(kek[1])) || convert_to(kek[1], 'UTF8') || int4send(project)
                    || uuid_send(run) || int8send(extract(epoch FROM expires)::bigint) || convert_to(place, 'UTF8')) x (said)
$$;
SELECT status FROM pg_temp.open(pg_temp.forged(0, :'run', now() + '1 min', 'ok:mail'));
-- No byte of it can be changed, none left out, and nobody but the server can make one.
SELECT o.status, count(*) = length(pg_temp.bytes(:'token')) AS every_byte
FROM generate_series(0, length(pg_temp.bytes(:'token')) - 1) i,
    pg_temp.open(pg_temp.text(set_byte(pg_temp.bytes(:'token'), i, get_byte(pg_temp.bytes(:'token'), i) # 1))) o GROUP BY o.status;
SELECT DISTINCT o.* FROM unnest(ARRAY['', 'x', '%', left(:'token', -2), :'token' || 'AAAA', repeat('A', 100000)]) u (token), pg_temp.open(u.token) o;
-- Another project's, another run's, of a node that is none; and one whose time is over.
SELECT f.what, o.* FROM (VALUES
    ('project', pg_temp.forged(1, :'run', now() + '1 min', 'ok:mail')),
    ('run', pg_temp.forged(0, gen_random_uuid(), now() + '1 min', 'ok:mail')),
    ('node', pg_temp.forged(0, :'run', now() + '1 min', 'gone:mail')),
    ('expired', pg_temp.forged(0, :'run', now() - interval '1 s', 'ok:mail'))) f (what, token), pg_temp.use(f.token, '{"approved": true}') o;

-- The first answer counts, and is told to everybody after.
SELECT * FROM pg_temp.use(:'token', '{"approved": true, "by": "Anna", "payload": {"n": 12345678901234567890.5}}');
SELECT * FROM pg_temp.use(:'token', '{"approved": false, "by": "Berta"}');
SELECT meshhook.tick() > 0 AS turned;
SELECT * FROM pg_temp.open(:'token');
SELECT status, output FROM meshhook.runs WHERE run_id = :'run';
-- A report on the sender still counts; then the run is over, and a URL that was not used says so.
SELECT outcome FROM meshhook.complete_jobs(ARRAY[:'job_id'], ARRAY[:fence]::bigint[], ARRAY['1']::jsonb[]);
SELECT meshhook.tick() > 0 AS turned;
SELECT status, output FROM meshhook.runs WHERE run_id = :'run';
SELECT * FROM pg_temp.use(pg_temp.forged(0, :'run', now() + '1 min', 'ok:mail'), '{"approved": true}');
SELECT * FROM meshhook.verify_run(:'run');
-- Nothing of the URL is stored.
SELECT count(*) FROM meshhook.run_event WHERE strpos(data::text, :'token') > 0 OR strpos(metadata::text, :'token') > 0;
SELECT node, sender, answer FROM meshhook.resume_use;

-- A voice before the run waits would be lost, so it is refused and the URL not used up; a signal is kept.
SELECT meshhook.publish_workflow('{"name": "later", "nodes": [
    {"id": "each", "type": "map", "with": {"items": [1, 2], "body": {"nodes": [
        {"id": "mail", "type": "task", "with": {"queue": "mail", "input": {"ok": "{{ $resume.ok }}", "paid": "{{ $resume.paid }}"}}},
        {"id": "ok", "type": "wait", "with": {"approval": {}}}, {"id": "paid", "type": "wait", "with": {"signal": "paid"}}],
        "edges": [{"from": "mail", "to": "ok"}, {"from": "ok", "port": "approved", "to": "paid"}]}}}]}');
SELECT meshhook.start_run('later') AS run \gset
SELECT meshhook.tick() > 0 AS turned;
SELECT array_agg(job_id ORDER BY node) AS jobs, array_agg(token ORDER BY node) AS fences,
       max(pg_temp.token(payload ->> 'ok')) FILTER (WHERE node = 'each/1/mail') AS ok,
       max(pg_temp.token(payload ->> 'paid')) FILTER (WHERE node = 'each/1/mail') AS paid
FROM meshhook.claim_jobs('mail', batch_size => 2) \gset
SELECT * FROM pg_temp.open(:'ok');
SELECT * FROM pg_temp.use(:'ok', '{"approved": true}');
SELECT * FROM pg_temp.open(:'paid');
SELECT * FROM pg_temp.use(:'paid', '{"approved": true, "payload": 7}');
SELECT * FROM pg_temp.use(:'paid', '{"payload": 8}');
SELECT outcome FROM meshhook.complete_jobs(:'jobs', :'fences', ARRAY['1', '1']::jsonb[]);
SELECT meshhook.tick() > 0 AS turned;
SELECT status FROM pg_temp.use(:'ok', '{"approved": true}');
SELECT meshhook.decide_approval(:'run', 'each/0/ok', true, decided_by => 'resume:mail');
SELECT meshhook.tick() > 0 AS turned;
-- The signal was for the second item's node, though the first item's waits for that name too.
SELECT node, status, output FROM meshhook.run_steps WHERE run_id = :'run' AND node LIKE '%/%' ORDER BY node;

CREATE FUNCTION pg_temp.write_keys(VARIADIC lines text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('COPY (SELECT unnest(%L::text[])) TO %L', lines, current_setting('meshhook.kek_file'));
END
$$;
-- Keys are rotated: a URL opens as long as its key is there, and is sent with the first.
SELECT status FROM pg_temp.open(:'paid');
SELECT trim(pg_read_file(current_setting('meshhook.kek_file')), E'\n') AS kek, 'new:' || encode(sha256('new'), 'base64') AS new_kek \gset
SELECT pg_temp.write_keys(:'new_kek', :'kek');
SELECT status FROM pg_temp.open(:'ok');
SELECT meshhook.start_run('ask', '1') AS run \gset
SELECT meshhook.tick() > 0 AS turned;
SELECT pg_temp.token(payload ->> 'url') AS token FROM meshhook.claim_jobs('mail') \gset
SELECT substr(pg_temp.bytes(:'token'), 3, 3) AS key, status FROM pg_temp.open(:'token');
SELECT pg_temp.write_keys(:'new_kek');
SELECT o.status FROM unnest(ARRAY[:'ok', :'token']) u (token), pg_temp.open(u.token) o;
-- Without any key nothing is sent, opened or published.
SELECT pg_temp.write_keys('');
SELECT * FROM pg_temp.open(:'token');
SELECT meshhook.start_run('ask', '2') AS run \gset
SELECT meshhook.tick() > 0 AS turned;
SELECT count(*) FROM meshhook.claim_jobs('mail');
SELECT meshhook.publish_workflow('{"name": "keyless", "nodes": [{"id": "a", "type": "task", "with": {"input": "{{ $resume.b }}"}},
    {"id": "b", "type": "wait", "with": {"approval": {}}}], "edges": [{"from": "a", "to": "b"}]}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT pg_temp.write_keys(:'kek');

-- Who has no more than the API cannot use one for somebody else.
CREATE ROLE resume_user;
SELECT meshhook.grant_api('resume_user');
SET ROLE resume_user;
SELECT * FROM meshhook.use_resume_url('x', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.open_resume_url('x');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
RESET ROLE;

-- Where it may not stand.
SELECT * FROM meshhook.validate_workflow('{"name": "w", "nodes": [
    {"id": "a", "type": "transform", "with": {"output": "{{ $resume.b }}"}},
    {"id": "c", "type": "task", "with": {"input": ["{{ $resume.a }}", "{{ [$resume.b] }}"]},
     "compensate": {"type": "http", "with": {"url": "http://x/?u={{ $resume.b }}"}}},
    {"id": "b", "type": "wait", "with": {"approval": {}}}],
    "edges": [{"from": "a", "to": "b"}, {"from": "a", "to": "c"}]}');
ALTER SYSTEM RESET meshhook.public_url;
ALTER SYSTEM RESET meshhook.resume_url_lifetime;
SELECT pg_reload_conf();
SELECT meshhook.kill_run(run_id) FROM meshhook.runs WHERE workflow IN ('ask', 'later') AND finished_at IS NULL;
SELECT meshhook.tick() > 0 AS turned;
DROP OWNED BY resume_user;
DROP ROLE resume_user;
