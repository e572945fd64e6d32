-- Flow control: what waits, for what, and what lets it go.
SET client_min_messages = error;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE meshhook.tick() > 0 LOOP END LOOP;
END $$;
CREATE FUNCTION pg_temp.finish(queue_name text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(meshhook.complete_job(job_id, token, 'null') || ' ' || (payload #>> '{}'), ', ' ORDER BY payload)
    FROM meshhook.claim_jobs(queue_name, 'psql', 10)
$$;

-- A definition with limits that cannot be.
SELECT * FROM meshhook.validate_workflow('{"name": "w", "concurrency": {"limit": 0, "key": "{{ .input. }}", "on_limit": "drop"},
    "rate": {"limit": 1, "per": "1 fortnight", "burst": 3}, "nodes": [{"id": "a", "type": "task"}]}');

-- One at a time for each customer; the rest waits, higher priority first.
SELECT meshhook.publish_workflow('{"name": "queued", "concurrency": {"limit": 1, "key": "{{ .input.customer }}"}, "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "queued", "input": "{{ .input.n }}"}}]}');
SELECT count(meshhook.start_run('queued', jsonb_build_object('customer', c, 'n', c || n),
                                priority => CASE n WHEN 3 THEN 9 ELSE 0 END::smallint))
FROM unnest(ARRAY['ann', 'bob']) c, generate_series(1, 3) n;
SELECT concurrency_key, priority, reason, count(*) FROM meshhook.queued_runs GROUP BY 1, 2, 3 ORDER BY 1, 2;
SELECT pg_temp.settle();
SELECT concurrency_key, priority, reason, input FROM meshhook.queued_runs ORDER BY input ->> 'n';
SELECT count(*) FROM meshhook.stuck_runs;
SELECT pg_temp.finish('queued');
SELECT pg_temp.settle();
SELECT status, array_agg(input ->> 'n' ORDER BY input ->> 'n') FROM meshhook.runs WHERE workflow = 'queued' GROUP BY status ORDER BY status;
-- A raised limit counts for those that wait.
SELECT meshhook.publish_workflow('{"name": "queued", "concurrency": {"limit": 2, "key": "{{ .input.customer }}"}, "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "queued", "input": "{{ .input.n }}"}}]}');
SELECT pg_temp.settle();
SELECT status, version, array_agg(input ->> 'n' ORDER BY input ->> 'n') FROM meshhook.runs WHERE workflow = 'queued' GROUP BY 1, 2 ORDER BY 1, 2;
-- One that waits can be canceled; it has never begun, and its log says what it was.
SELECT meshhook.start_run('queued', '{"customer": "bob", "n": "bob4"}') AS waiting \gset
SELECT meshhook.cancel_run(:'waiting', 'not needed any more');
SELECT pg_temp.settle();
SELECT status, input, error FROM meshhook.runs WHERE run_id = :'waiting';
SELECT position, type, data ->> 'reason' AS reason FROM meshhook.run_history(:'waiting');
SELECT count(*) FROM meshhook.verify_run(:'waiting');
-- A key that cannot be computed is refused before anything is written.
SELECT meshhook.publish_workflow('{"name": "keyed", "concurrency": {"limit": 1, "key": "c-{{ .input.customer }}"}, "nodes": [
    {"id": "do", "type": "task"}]}');
\set VERBOSITY verbose
\set SHOW_CONTEXT never
SELECT meshhook.start_run('keyed', '{}');
\set VERBOSITY default
SELECT count(*) FROM meshhook.runs WHERE workflow = 'keyed';

-- Skip: recorded, ended, nothing of it has run.
SELECT meshhook.publish_workflow('{"name": "skipping", "concurrency": {"limit": 1, "on_limit": "skip"}, "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "skipping", "input": "{{ .input }}"}}]}');
SELECT count(meshhook.start_run('skipping', to_jsonb(n))) FROM generate_series(1, 3) n;
SELECT pg_temp.settle();
SELECT r.input, r.status, h.type, h.data ->> 'reason' AS reason
FROM meshhook.runs r, meshhook.run_history(r.run_id) h WHERE r.workflow = 'skipping' AND h.type LIKE 'run.%' ORDER BY r.input, h.position;

-- The oldest makes room.
SELECT meshhook.publish_workflow('{"name": "newest", "concurrency": {"limit": 1, "on_limit": "cancel_oldest"}, "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "newest", "input": "{{ .input }}"}}]}');
SELECT meshhook.start_run('newest', '"first"') IS NOT NULL AS started;
SELECT pg_temp.settle();
SELECT meshhook.start_run('newest', '"second"') IS NOT NULL AS started;
SELECT pg_temp.settle();
SELECT pg_temp.settle();
SELECT input, status FROM meshhook.runs WHERE workflow = 'newest' ORDER BY input;

-- Two an hour.
SELECT meshhook.publish_workflow('{"name": "rated", "rate": {"limit": 2, "per": "1h"}, "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "rated"}}]}');
SELECT count(meshhook.start_run('rated', to_jsonb(n))) FROM generate_series(1, 4) n;
SELECT pg_temp.settle();
SELECT status, count(*) FROM meshhook.runs WHERE workflow = 'rated' GROUP BY status ORDER BY status;
SELECT DISTINCT reason FROM meshhook.queued_runs WHERE workflow = 'rated';
SELECT due_at - now() BETWEEN '29 min' AND '31 min' AS next_in_half_an_hour FROM meshhook.run_lane l JOIN meshhook.workflow USING (workflow_id)
WHERE name = 'rated';

-- Later.
SELECT meshhook.publish_workflow('{"name": "plain", "nodes": [{"id": "do", "type": "transform", "with": {"output": 1}}]}');
SELECT meshhook.start_run('plain', delay => '1 hour', tags => ARRAY['later', 'b', 'later']) AS later \gset
SELECT pg_temp.settle();
SELECT status, tags FROM meshhook.runs WHERE run_id = :'later';
SELECT reason, ready_at - now() BETWEEN '59 min' AND '61 min' AS in_an_hour FROM meshhook.queued_runs WHERE run_id = :'later';
SELECT meshhook.start_run('plain', delay => '1 hour', start_at => now());
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('plain', delay => '-1 hour');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('plain', start_at => 'infinity');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('plain', tags => ARRAY['']);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- A key with a window.
SELECT meshhook.start_run('plain', idempotency_window => '1 hour');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('plain', '1', 'k') AS one \gset
SELECT meshhook.start_run('plain', '2', 'k', idempotency_window => '1 hour') = :'one' AS same;
UPDATE meshhook.run_key SET created_at = created_at - interval '2 hours' WHERE idempotency_key = 'k';
SELECT meshhook.start_run('plain', '3', 'k') = :'one' AS same;
SELECT meshhook.start_run('plain', '4', 'k', idempotency_window => '1 hour') = :'one' AS same;
SELECT meshhook.start_run('plain', '5', 'k', idempotency_window => '1 hour') = :'one' AS same;

-- Paused: wait or be refused.
SELECT meshhook.pause_workflow('plain', 'sleep');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.pause_workflow('nothing');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.pause_workflow('plain', reason => 'the shop is closed'), meshhook.pause_workflow('plain');
SELECT meshhook.start_run('plain', '"paused"') AS paused \gset
SELECT pg_temp.settle();
SELECT reason FROM meshhook.queued_runs WHERE run_id = :'paused';
SELECT meshhook.pause_workflow('plain', 'reject');
SELECT meshhook.start_run('plain');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.resume_workflow('plain', 'open again'), meshhook.resume_workflow('plain');
SELECT pg_temp.settle();
SELECT status FROM meshhook.runs WHERE run_id = :'paused';
SELECT meshhook.pause_project(reason => 'moving house');
SELECT meshhook.start_run('plain', '"project"') AS project \gset
SELECT pg_temp.settle();
SELECT reason FROM meshhook.queued_runs WHERE run_id = :'project';
SELECT meshhook.resume_project();
SELECT pg_temp.settle();
SELECT status FROM meshhook.runs WHERE run_id = :'project';
SELECT action, target, details FROM meshhook.audit_log WHERE action LIKE '%paused' OR action LIKE '%resumed' ORDER BY audit_id;

-- What is sent to a run that waits to start is there when it begins; a pause keeps it out.
SELECT meshhook.publish_workflow('{"name": "patient", "concurrency": {"limit": 1}, "nodes": [
    {"id": "go", "type": "wait", "with": {"signal": "go"}}]}');
SELECT meshhook.start_run('patient', '"first"') AS first \gset
SELECT meshhook.start_run('patient', '"second"') AS second \gset
SELECT pg_temp.settle();
SELECT meshhook.signal_run(:'second', 'go', '{"n": 1}', 'once'), meshhook.signal_run(:'second', 'go', '{"n": 2}', 'once');
SELECT meshhook.pause_run(:'second', 'not today');
SELECT reason FROM meshhook.queued_runs WHERE run_id = :'second';
SELECT meshhook.signal_run(:'first', 'go');
SELECT pg_temp.settle();
SELECT pg_temp.settle();
SELECT input, status FROM meshhook.runs WHERE workflow = 'patient' ORDER BY input;
SELECT count(*) FROM meshhook.stuck_runs;
SELECT meshhook.resume_run(:'second');
SELECT pg_temp.settle();
SELECT status, output FROM meshhook.runs WHERE run_id = :'second';
SELECT position, type, data ->> 'signal_id' AS signal_id FROM meshhook.run_history(:'second') ORDER BY position;
SELECT action, target = :'second' AS this, details FROM meshhook.audit_log WHERE action LIKE 'run.%' ORDER BY audit_id;
-- Too much of it is refused.
SELECT meshhook.start_run('patient', '"third"', delay => '1 day') AS third \gset
SELECT count(meshhook.signal_run(:'third', 'go', to_jsonb(n))) FROM generate_series(1, 100) n;
\set VERBOSITY sqlstate
SELECT meshhook.signal_run(:'third', 'go');
\set VERBOSITY default
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- Ended before it began, also while it is paused.
SELECT meshhook.pause_run(:'third'), meshhook.kill_run(:'third', 'never');
SELECT pg_temp.settle();
SELECT status, input, error FROM meshhook.runs WHERE run_id = :'third';
-- A cancel that was sent before its start left the queue: the log still begins with the start.
SELECT meshhook.start_run('patient', '"fourth"', delay => '1 day') AS fourth \gset
BEGIN;
SELECT meshhook.cancel_run(:'fourth');
UPDATE meshhook.run_queue SET ready_at = now() WHERE run_id = :'fourth';
SELECT pg_sleep(0.11);
COMMIT;
SELECT pg_temp.settle();
SELECT position, type FROM meshhook.run_history(:'fourth') ORDER BY position;
SELECT count(*) AS left_over FROM meshhook.run_queue WHERE workflow_id = (SELECT workflow_id FROM meshhook.workflow WHERE name = 'patient');

-- A child counts as a run of its own workflow.
SELECT meshhook.publish_workflow('{"name": "child", "concurrency": {"limit": 1, "key": "{{ .input.key | ascii_downcase }}"}, "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "child", "input": "{{ .input.n }}"}}]}');
SELECT meshhook.publish_workflow('{"name": "parent", "nodes": [
    {"id": "sub", "type": "workflow", "with": {"workflow": "child", "input": "{{ .input }}"}}]}');
SELECT count(meshhook.start_run('parent', jsonb_build_object('key', 'k', 'n', n::text))) FROM generate_series(1, 3) n;
SELECT meshhook.start_run('parent', '{"key": ["no text"], "n": "4"}') AS uncountable \gset
SELECT pg_temp.settle();
SELECT pg_temp.settle();
SELECT status, count(*) FROM meshhook.runs WHERE workflow = 'child' GROUP BY status ORDER BY status;
SELECT reason, input ->> 'n' AS n FROM meshhook.queued_runs WHERE workflow = 'child' ORDER BY 2;
SELECT status, error ->> 'class' AS class, error -> 'details' -> 'error' AS child FROM meshhook.runs WHERE run_id = :'uncountable';
-- A parent that is canceled takes along its child that has not begun.
SELECT meshhook.cancel_run(run_id) FROM meshhook.runs WHERE workflow = 'parent' AND input ->> 'n' = '3';
SELECT pg_temp.settle();
SELECT pg_temp.finish('child');
SELECT pg_temp.settle();
SELECT pg_sleep(0.11);
SELECT pg_temp.settle();
SELECT pg_temp.finish('child');
SELECT pg_temp.settle();
SELECT workflow, status, array_agg(input ->> 'n' ORDER BY input ->> 'n') AS n FROM meshhook.runs
WHERE workflow IN ('parent', 'child') GROUP BY 1, 2 ORDER BY 1, 2;
-- While its workflow is paused it waits, whatever becomes of other starts.
SELECT meshhook.pause_workflow('child', 'reject');
SELECT meshhook.start_run('parent', '{"key": "p", "n": "5"}') AS five \gset
SELECT pg_temp.settle();
SELECT reason FROM meshhook.queued_runs WHERE workflow = 'child';
SELECT meshhook.resume_workflow('child');
SELECT pg_temp.settle();
SELECT pg_temp.settle();
SELECT pg_temp.finish('child');
SELECT pg_temp.settle();
SELECT status FROM meshhook.runs WHERE run_id = :'five';

SELECT count(*) AS differences FROM meshhook.runs r, meshhook.verify_run(r.run_id);
