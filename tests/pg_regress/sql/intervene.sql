-- What people change by hand, at once and in their own transaction.
SET client_min_messages = error;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE meshhook.tick() > 0 LOOP END LOOP;
END $$;
CREATE FUNCTION pg_temp.do(what text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(node || ' ' || payload || ': ' || meshhook.complete_job(job_id, token, to_jsonb(what)), ', ' ORDER BY node)
    FROM meshhook.claim_jobs('hand', 'psql', 10)
$$;
CREATE FUNCTION pg_temp.fail() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(node || ': ' || meshhook.fail_job(job_id, token, '{"class": "broken", "retryable": false}'), ', ' ORDER BY node)
    FROM meshhook.claim_jobs('hand', 'psql', 10)
$$;
SELECT meshhook.create_project('hand') IS NOT NULL AS made;
SET meshhook.project = 'hand';
SELECT meshhook.publish_workflow('{"name": "chain", "timeout": "1h", "vars": {"limit": 1, "unit": "kg"}, "nodes": [
    {"id": "a", "type": "task", "with": {"queue": "hand", "input": "{{ .input }}"}},
    {"id": "b", "type": "task", "with": {"queue": "hand", "input": "{{ .nodes.a.output }}/{{ .vars.limit }}{{ .vars.unit }}"}},
    {"id": "c", "type": "wait", "with": {"signal": "go"}, "timeout": "1d"}],
    "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}]}');

-- Edited: what is rendered later sees it, what was rendered before does not.
SELECT meshhook.start_run('chain', '"x"', 'order-1') AS run \gset
SELECT pg_temp.settle();
SELECT pg_temp.do('made a');
SELECT pg_temp.settle();
SELECT jsonb_path_query_array(meshhook.edit_run(:'run', '{"vars": {"limit": 2}, "outputs": {"a": "by hand"}}', 'typo'),
                              '$.nodes.keyvalue() ? (@.value.status == "succeeded").value.output') AS outputs;
SELECT pg_temp.fail();
-- The report lies in the inbox: it is decided first, in the same call.
SELECT meshhook.retry_run(:'run', reason => 'again') ->> 'status' AS status;
SELECT pg_temp.do('made b');
-- What would change nothing is refused, with the reason.
SELECT meshhook.edit_run(:'run', '{"variables": {}}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
SELECT meshhook.edit_run(:'run', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.edit_run(:'run', '{"outputs": {"nothing": 1}}');
SELECT meshhook.retry_run(:'run');
SELECT meshhook.skip_node(:'run', 'a');
\set VERBOSITY default
SELECT meshhook.edit_run('00000000-0000-7000-8000-000000000000', '{"vars": {"a": 1}}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- A timer that comes before its time is put back.
SELECT pg_temp.settle();
UPDATE meshhook.timer SET due_at = now() WHERE run_id = :'run';
SELECT pg_sleep(0.11);
SELECT pg_temp.settle();
SELECT node, due_at > now() + CASE node WHEN 'c' THEN interval '23 h' ELSE '50 min' END AS put_back
FROM meshhook.timer WHERE run_id = :'run' ORDER BY node;
-- Settled by hand: the wait's timer goes.
SELECT node FROM meshhook.timer WHERE run_id = :'run' ORDER BY node;
SELECT meshhook.skip_node(:'run', 'c', '{"ok": true}', reason => 'they phoned') ->> 'output' AS output;
SELECT node FROM meshhook.timer WHERE run_id = :'run';
SELECT node, status, output, finished_at IS NOT NULL AS finished FROM meshhook.run_steps WHERE run_id = :'run' ORDER BY node;
SELECT node, attempt, level, message FROM meshhook.run_log(:'run') WHERE level = 'warning';
SELECT position, type, data ->> 'reason' AS reason, metadata ->> 'actor' IS NOT NULL AS actor
FROM meshhook.run_history(:'run') ORDER BY position;
SELECT count(*) AS differences FROM meshhook.verify_run(:'run');

-- An event decided at once, in this transaction: a rollback takes it back.
SELECT meshhook.start_run('chain', '"y"') AS run \gset
SELECT pg_temp.settle();
SELECT meshhook.skip_node(:'run', 'a', '"a"') ->> 'status' AS status, pg_temp.do('made b');
BEGIN;
SELECT meshhook.submit_event(:'run', 'go', '{"n": 1}', 'one') ->> 'status' AS status;
ROLLBACK;
SELECT status FROM meshhook.runs WHERE run_id = :'run';
SELECT meshhook.submit_event(:'run', 'go', '{"n": 1}', 'one') ->> 'output' AS output;
\set VERBOSITY sqlstate
SELECT meshhook.enqueue_event(:'run', 'go');
SELECT meshhook.submit_event(:'run', 'go');
\set VERBOSITY default
-- Before a run has begun its start is decided along; one that waits to start keeps the event.
SELECT meshhook.start_run('chain', '"z"') AS run \gset
SELECT meshhook.submit_event(:'run', 'go', '1') -> 'position' AS position;
SELECT meshhook.start_run('chain', '"later"', delay => '1 day') AS later \gset
SELECT meshhook.submit_event(:'later', 'go', '1') ->> 'status' AS status;
\set VERBOSITY terse
SELECT meshhook.edit_run(:'later', '{"vars": {"limit": 3}}');
SELECT meshhook.fork_run(:'later');
\set VERBOSITY default

-- Forked: the attempt that failed the run is made again, by the fork and for its own input.
SELECT meshhook.start_run('chain', '"old"', 'order-2', tags => ARRAY['vip']) AS run \gset
SELECT pg_temp.settle();
SELECT pg_temp.do('made a');
SELECT pg_temp.settle();
SELECT pg_temp.fail();
SELECT pg_temp.settle();
SELECT meshhook.fork_run(:'run', input => '"new"', reason => 'what if') AS fork \gset
SELECT status, input, idempotency_key, tags, output FROM meshhook.runs WHERE run_id = :'fork';
SELECT position, type, data ->> 'run' = :'run' AS of_run, data ->> 'reason' AS reason
FROM meshhook.run_history(:'fork') ORDER BY position;
SELECT node FROM meshhook.timer WHERE run_id = :'fork';
SELECT pg_temp.do('made b');
SELECT pg_temp.settle();
SELECT meshhook.submit_event(:'fork', 'go', '"end"') ->> 'output' AS output;
SELECT count(*) AS differences FROM meshhook.verify_run(:'fork');
SELECT status FROM meshhook.runs WHERE run_id = :'run';
SELECT meshhook.fork_run(:'run', 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.fork_run(:'run', 1000);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- Reset: the copy takes the place and the key of the other.
SELECT meshhook.start_run('chain', '"r"', 'order-3') AS run \gset
SELECT pg_temp.settle();
SELECT pg_temp.do('made a');
SELECT pg_temp.settle();
SELECT meshhook.reset_run(:'run', 1) AS fork \gset
SELECT meshhook.start_run('chain', '"r"', 'order-3') = :'fork' AS has_the_key;
SELECT pg_temp.settle();
SELECT CASE run_id WHEN :'run' THEN 'source' ELSE 'fork' END AS run, status FROM meshhook.runs WHERE run_id IN (:'run', :'fork') ORDER BY 1;
SELECT node, attempt FROM meshhook.job WHERE run_id IN (:'run', :'fork');
SELECT action, details - 'run' AS details, target = :'fork' AS fork FROM meshhook.audit_log
WHERE project_id = meshhook.current_project_id() AND action ~ '^(run|node)' ORDER BY audit_id;
SELECT count(*) AS differences FROM meshhook.search_runs(batch_size => 1000) r, meshhook.verify_run(r.run_id);
RESET meshhook.project;
