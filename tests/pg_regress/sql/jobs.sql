-- Jobs: claims, leases, fencing, batches.
SET client_min_messages = error;
SELECT meshhook.publish_workflow('{"name": "work", "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "bench", "input": "{{ .input }}"},
     "retry": {"max_attempts": 2, "initial": "1ms", "jitter": "none"}}]}');
SELECT count(meshhook.start_run('work', to_jsonb(n))) FROM generate_series(1, 5) n;
SELECT meshhook.tick();

-- No more than asked for, none twice, none of another queue.
SELECT count(*) FROM meshhook.claim_jobs('elsewhere', 'psql', 10);
CREATE TEMP TABLE mine AS SELECT * FROM meshhook.claim_jobs('bench', 'psql', 3, '1 minute');
SELECT node, attempt, kind, payload, lease_expires_at - now() BETWEEN '50 s' AND '70 s' AS for_a_minute FROM mine ORDER BY payload;
INSERT INTO mine SELECT * FROM meshhook.claim_jobs('bench', 'psql', 10, '1 minute');
SELECT count(*), count(DISTINCT job_id), count(DISTINCT run_id) FROM mine;
SELECT count(*) FROM meshhook.claim_jobs('bench', 'psql', 10);

-- A batch is one statement; each job has its own outcome.
SELECT payload, outcome
FROM meshhook.complete_jobs(
         (SELECT array_agg(job_id ORDER BY payload) FROM mine WHERE payload <= '2'),
         (SELECT array_agg(token + CASE payload WHEN '2' THEN 1 ELSE 0 END ORDER BY payload) FROM mine WHERE payload <= '2'),
         ARRAY['"a"', '"b"']::jsonb[]) JOIN mine USING (job_id)
ORDER BY payload;
-- The same job twice in a batch counts once.
SELECT outcome FROM meshhook.complete_jobs(
    (SELECT ARRAY[job_id, job_id] FROM mine WHERE payload = '2'),
    (SELECT ARRAY[token, token] FROM mine WHERE payload = '2'), ARRAY['1', '2']::jsonb[]) ORDER BY outcome;
SELECT outcome FROM meshhook.complete_jobs(ARRAY['nonsense'], ARRAY[1], ARRAY['1']::jsonb[]);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT outcome FROM meshhook.complete_jobs(ARRAY[]::text[], ARRAY[]::bigint[], ARRAY[]::jsonb[]);

-- Leases: renewed by their holder only.
SELECT payload, h.lease_expires_at - now() BETWEEN '110 s' AND '130 s' AS for_two_minutes
FROM meshhook.heartbeat_jobs(
         (SELECT array_agg(job_id ORDER BY payload) FROM mine WHERE payload >= '3'),
         (SELECT array_agg(token - CASE payload WHEN '4' THEN 1 ELSE 0 END ORDER BY payload) FROM mine WHERE payload >= '3'),
         '2 minutes') h JOIN mine USING (job_id)
ORDER BY payload;

-- Given back unstarted: no attempt is spent, and the old token is worth nothing.
SELECT outcome FROM meshhook.release_jobs((SELECT array_agg(job_id) FROM mine WHERE payload = '3'), (SELECT array_agg(token) FROM mine WHERE payload = '3'));
SELECT meshhook.complete_job(job_id, token, '1') FROM mine WHERE payload = '3';
SELECT c.payload, c.attempt, c.token > mine.token AS newer FROM meshhook.claim_jobs('bench', 'psql', 10, '10 ms') c JOIN mine USING (job_id);

-- A lease that runs out is a failed attempt; whoever held it comes too late.
SELECT pg_sleep(0.05);
SELECT meshhook.tick() > 0 AS turned;
SELECT pg_sleep(0.05);
SELECT meshhook.tick() > 0 AS turned;
SELECT payload, attempt, lease_expires_at - now() BETWEEN '20 s' AND '40 s' AS by_default, job_id, token FROM meshhook.claim_jobs('bench') \gset
\echo :payload :attempt :by_default
SELECT outcome FROM meshhook.fail_jobs(ARRAY[:'job_id'], ARRAY[:token], ARRAY['{"class": "late", "retryable": false}']::jsonb[]);
SELECT meshhook.fail_job(:'job_id', :token, '"twice"');
SELECT meshhook.tick() > 0 AS turned;
SELECT input, status, output, error ->> 'class' AS class FROM meshhook.runs WHERE workflow = 'work' ORDER BY input;
SELECT type, data ->> 'attempt' AS attempt, data -> 'error' ->> 'class' AS class
FROM meshhook.runs r, meshhook.run_history(r.run_id) WHERE r.workflow = 'work' AND r.input = '3';

-- Arguments that make no sense.
SELECT * FROM meshhook.claim_jobs('bench', 'psql', 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.claim_jobs('bench', 'psql', -1);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.claim_jobs('bench', 'psql', 1, '0 s');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.claim_jobs('bench', 'psql', 1, '-1 s');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.complete_jobs(ARRAY['a', 'b'], ARRAY[1], ARRAY['1']::jsonb[]);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.complete_jobs(ARRAY[NULL], ARRAY[1], ARRAY['1']::jsonb[]);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.heartbeat_jobs(ARRAY['a'], ARRAY[1, 2]);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.release_jobs('{}', '{}', '-1 s');
SELECT * FROM meshhook.release_jobs('{}', '{}', '61 min');
SELECT * FROM meshhook.release_jobs(ARRAY['a'], NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

SELECT input, count(*) AS differences FROM meshhook.runs r, meshhook.verify_run(r.run_id) GROUP BY input;

-- Documents are matched by place: an array of another shape is refused before anything is taken.
SELECT * FROM meshhook.complete_jobs(ARRAY['0/00000000-0000-0000-0000-000000000000/a'], ARRAY[1]::bigint[], '[0:0]={"3"}'::jsonb[]);
SELECT * FROM meshhook.complete_jobs(ARRAY['0/00000000-0000-0000-0000-000000000000/a'], ARRAY[1]::bigint[], '{{"3"}}'::jsonb[]);

-- Given back for a while: nobody gets it before, and it costs no attempt.
SELECT meshhook.publish_workflow('{"name": "patient", "nodes": [{"id": "do", "type": "task", "with": {"queue": "patient"}}]}') > 0 AS published;
SELECT meshhook.start_run('patient') IS NOT NULL AS started, meshhook.tick() > 0 AS turned;
SELECT job_id AS held, token AS fence, project, attempt FROM meshhook.claim_jobs('patient', 'psql', 10) \gset
SELECT :'project' AS project, outcome FROM meshhook.release_jobs(ARRAY[:'held'], ARRAY[:fence]::bigint[], '300 ms');
SELECT count(*) FROM meshhook.claim_jobs('patient', 'psql', 10);
SELECT pg_sleep(0.35);
SELECT attempt - :attempt AS spent, meshhook.complete_job(job_id, token, 'null') FROM meshhook.claim_jobs('patient', 'psql', 10);
SELECT meshhook.tick() > 0 AS turned;

-- Executors tell each other which hosts they leave alone. Nobody hears of himself, and a pause is not told for ever.
SELECT * FROM meshhook.sync_executor('http', 'a', ARRAY['default', 'nobody'], ARRAY['h:443', 'h:443'], ARRAY[60000, 60000]);
SELECT executors, project, host, pause_ms BETWEEN 1 AND 60000 AS pauses
FROM meshhook.sync_executor('http', 'b', '{}', '{}', '{}');
SELECT * FROM meshhook.sync_executor('other', 'b', '{}', '{}', '{}');
SELECT * FROM meshhook.sync_executor('http', 'a', '{}', '{}', '{}');
SELECT * FROM meshhook.sync_executor('http', 'b', '{}', '{}', '{}');
SELECT * FROM meshhook.sync_executor('http', 'b', ARRAY['default'], ARRAY['h:443'], ARRAY[60001]);
SELECT * FROM meshhook.sync_executor('http', 'b', ARRAY['default'], '{}', '{}');
SELECT * FROM meshhook.sync_executor(NULL, 'b', '{}', '{}', '{}');
