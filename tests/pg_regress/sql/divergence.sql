-- Runs whose log is not what the engine decides are left alone and named; everything else goes on.
SET client_min_messages = error;
\set VERBOSITY terse
SELECT meshhook.create_project('astray') IS NOT NULL AS made;
SET meshhook.project = 'astray';
SELECT meshhook.publish_workflow('{"name": "errand", "nodes": [
    {"id": "a", "type": "task", "with": {"queue": "astray", "input": "{{ .input.n }}"}},
    {"id": "b", "type": "transform", "with": {"output": "{{ .nodes.a.output }}"}}],
    "edges": [{"from": "a", "to": "b"}]}');
CREATE FUNCTION pg_temp.complete() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(payload::text || ' ' || meshhook.complete_job(job_id, token, payload), ', ' ORDER BY payload::text)
    FROM meshhook.claim_jobs('astray', 'psql', 10)
$$;
SELECT meshhook.start_run('errand', '{"n": 1}') AS forged \gset
SELECT meshhook.start_run('errand', '{"n": 2}') AS sound \gset
SELECT meshhook.tick();

-- Somebody writes into the log: another input was sent than the definition says.
UPDATE meshhook.run_event SET data = jsonb_set(data, '{input}', '7') WHERE run_id = :'forged' AND type = 'node.scheduled';
SELECT pg_temp.complete();
-- One run moves, the other is left alone: also by the next turn, and it does not hide what lies behind it.
SELECT meshhook.tick(), meshhook.tick(1), meshhook.tick();
SELECT run_id = :'forged' AS is_forged, status FROM meshhook.runs WHERE workflow = 'errand' ORDER BY run_id;
SELECT run_id = :'forged' AS is_forged, workflow, version, position, path, expected, found, release = meshhook.version() AS this_release
FROM meshhook.diverging_runs;
SELECT position, path, expected, found FROM meshhook.verify_run(:'forged');
SELECT ok, value LIKE '1 left alone, among them %' AS named, hint FROM meshhook.status() WHERE check_name = 'diverging runs';
SELECT reason, hint FROM meshhook.stuck_runs WHERE run_id = :'forged' ORDER BY reason;
-- What it was told is kept; what would be decided at once is refused.
SELECT kind FROM meshhook.inbox WHERE run_id = :'forged';
\set VERBOSITY sqlstate
SELECT meshhook.edit_run(:'forged', '{"outputs": {"b": 1}}');
\set VERBOSITY terse
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- The log is again what it was: the run goes on where it stood, and is named no more.
UPDATE meshhook.run_event SET data = jsonb_set(data, '{input}', '1') WHERE run_id = :'forged' AND type = 'node.scheduled';
SELECT meshhook.tick();
SELECT status, output FROM meshhook.runs WHERE run_id = :'forged';
SELECT count(*) FROM meshhook.diverging_runs;
SELECT count(*) FROM meshhook.verify_run(:'forged');

-- A log with a hole in it, and one that ends before its row says. Kept snapshots do not hide what came after them.
SELECT meshhook.start_run('errand', '{"n": 3}') AS holed \gset
SELECT meshhook.start_run('errand', '{"n": 4}') AS cut \gset
SELECT meshhook.start_run('errand', '{"n": 5}') AS behind \gset
SELECT meshhook.tick();
SELECT meshhook.create_snapshot(:'behind');
SELECT meshhook.pause_run(:'behind', 'lunch');
SELECT meshhook.tick();
DELETE FROM meshhook.run_event WHERE run_id = :'holed' AND position = 1;
DELETE FROM meshhook.run_event WHERE run_id = :'cut' AND position = 2;
UPDATE meshhook.run_event SET type = 'run.resumed', data = '{}' WHERE run_id = :'behind' AND position = 3;
SELECT meshhook.signal_run(run, 'news') FROM unnest(ARRAY[:'holed', :'cut', :'behind']::uuid[]) run;
SELECT meshhook.tick();
SELECT (run_id = :'holed')::int + 2 * (run_id = :'cut')::int + 3 * (run_id = :'behind')::int AS run, position, path, expected, found
FROM meshhook.diverging_runs ORDER BY 1;
-- A kill ends a run all the same, though more lies before it than a turn reads, and nothing else is decided; it is named no more. Where the log leads nowhere, all stays.
SELECT count(meshhook.enqueue_event(:'behind', 'noise')::text) FROM generate_series(1, 1000);
SELECT meshhook.kill_run(run, 'beyond repair') FROM unnest(ARRAY[:'holed', :'cut', :'behind']::uuid[]) run;
SELECT meshhook.tick();
SELECT meshhook.tick();
SELECT meshhook.tick();
SELECT type FROM meshhook.run_event WHERE run_id = :'behind' ORDER BY position;
SELECT (run_id = :'holed')::int + 2 * (run_id = :'cut')::int + 3 * (run_id = :'behind')::int AS run, kind
FROM meshhook.inbox WHERE run_id IN (:'holed', :'cut', :'behind') ORDER BY 1, inbox_id;
SELECT count(*) FROM meshhook.diverging_runs WHERE run_id IN (:'holed', :'cut');
SELECT status FROM meshhook.runs WHERE run_id = :'behind';
SELECT count(*) FROM meshhook.diverging_runs WHERE run_id = :'behind';

-- A tenant sees its own.
SET meshhook.project = 'default';
SELECT count(*) FROM meshhook.status() WHERE check_name = 'diverging runs' AND NOT ok;

-- Lines of executors: what can be taken, and from whom.
SET meshhook.project = 'astray';
SELECT meshhook.start_run('errand', '{"n": 6}') AS said \gset
SELECT meshhook.tick();
SELECT job_id AS job, token FROM meshhook.claim_jobs('astray', 'psql', 10) WHERE payload = '6' \gset
SELECT meshhook.log_job(:'job', :token, 'half done', 'warning', '{"of": [1, 2]}'), meshhook.log_job(:'job', :token + 1, 'of another lease');
SELECT meshhook.log_job(:'job', :token, 'x', 'debug');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.log_job(:'job', :token, '');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.log_job(:'job', :token, repeat('x', 8193));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.log_job('nonsense', 1, 'x');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SET meshhook.max_run_events = 4;
SELECT meshhook.log_job(:'job', :token, 'no room');
RESET meshhook.max_run_events;
SELECT meshhook.tick();
SELECT position, level, node, attempt, actor, message FROM meshhook.run_log(:'said');
SELECT data FROM meshhook.run_history(:'said') WHERE type = 'node.logged';
SELECT node, status, attempts FROM meshhook.run_steps WHERE run_id = :'said';
SELECT count(*) FROM meshhook.verify_run(:'said');
CALL meshhook.wait_for_run(:'said', '0 s', 2);
SELECT meshhook.complete_job(:'job', :token, '1');
SELECT meshhook.tick() > 0 AS moved;
CALL meshhook.wait_for_run(:'said', NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- A fork begins with events that were decided under another run's id, those of its children among them: no divergence.
SELECT meshhook.publish_workflow('{"name": "parent", "nodes": [
    {"id": "first", "type": "transform", "with": {"output": 1}},
    {"id": "child", "type": "workflow", "with": {"workflow": "errand", "input": {"n": 7}}},
    {"id": "go", "type": "wait", "with": {"signal": "go"}}],
    "edges": [{"from": "first", "to": "child"}, {"from": "first", "to": "go"}]}');
SELECT meshhook.start_run('parent') AS parent \gset
SELECT meshhook.tick() > 0 AS moved;
SELECT meshhook.fork_run(:'parent', reason => 'another try') AS fork \gset
SELECT meshhook.signal_run(:'fork', 'go');
SELECT meshhook.tick() > 0 AS moved;
SELECT node, status FROM meshhook.run_steps WHERE run_id = :'fork' ORDER BY node;
SELECT count(*) FROM meshhook.verify_run(:'fork');
SELECT count(*) FROM meshhook.diverging_runs WHERE run_id = :'fork';
