-- Finding runs, and doing something to all that were found.
SET client_min_messages = error;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE meshhook.tick() > 0 LOOP END LOOP;
END $$;
SELECT meshhook.create_project('search') IS NOT NULL AS made;
SET meshhook.project = 'search';
SELECT meshhook.publish_workflow('{"name": "tasks", "nodes": [{"id": "do", "type": "task", "with": {"queue": "search"}}]}');
SELECT meshhook.publish_workflow('{"name": "quick", "nodes": [{"id": "do", "type": "transform", "with": {"output": "{{ .input.n }}"}}]}');
SELECT count(meshhook.start_run('tasks', jsonb_build_object('n', n, 'customer', jsonb_build_object('id', n % 3)),
       tags => CASE WHEN n % 2 = 0 THEN ARRAY['even', 'n' || n] ELSE '{}' END)) FROM generate_series(1, 6) n;
SELECT count(meshhook.start_run('quick', jsonb_build_object('n', n))) FROM generate_series(7, 8) n;
SELECT pg_temp.settle();
SELECT count(*) FROM (SELECT meshhook.fail_job(job_id, token, '{"class": "broken", "retryable": false}')
                      FROM meshhook.claim_jobs('search', 'psql', 1)) x;
SELECT meshhook.start_run('quick', '{"n": 9}', delay => '1 h', tags => ARRAY['even']) IS NOT NULL AS waits;
SELECT pg_temp.settle();

SELECT workflow_name, version, run_status, run_tags, run_input, error ->> 'class' AS class FROM meshhook.search_runs()
ORDER BY run_input -> 'n';
SELECT array_agg(run_input -> 'n' ORDER BY run_input -> 'n') AS n FROM meshhook.search_runs('tasks');
SELECT array_agg(run_input -> 'n' ORDER BY run_input -> 'n') AS n FROM meshhook.search_runs(status => ARRAY['failed', 'queued']);
SELECT array_agg(run_input -> 'n' ORDER BY run_input -> 'n') AS n FROM meshhook.search_runs(tags => ARRAY['even']);
SELECT array_agg(run_input -> 'n' ORDER BY run_input -> 'n') AS n FROM meshhook.search_runs(tags => ARRAY['even', 'n4']);
SELECT array_agg(run_input -> 'n' ORDER BY run_input -> 'n') AS n FROM meshhook.search_runs(input => '{"customer": {"id": 2}}');
SELECT array_agg(run_input -> 'n' ORDER BY run_input -> 'n') AS n FROM meshhook.search_runs(input => '{"n": 9}');
SELECT array_agg(run_input -> 'n' ORDER BY run_input -> 'n') AS n FROM meshhook.search_runs(error_class => 'broken');
SELECT count(*) FROM meshhook.search_runs(started_after => now() - interval '1 hour', started_before => now() + interval '1 hour');
SELECT count(*) FROM meshhook.search_runs(started_before => now() - interval '1 hour');
-- Page by page.
SELECT run_id AS last FROM meshhook.search_runs(batch_size => 4) ORDER BY run_id LIMIT 1 \gset
SELECT count(*), bool_and(run_id < :'last') AS older FROM meshhook.search_runs(batch_size => 4, before_run => :'last');
SELECT count(*) FROM meshhook.search_runs(batch_size => 1000, before_run => :'last');
SELECT run_id AS seven FROM meshhook.search_runs(input => '{"n": 7}') \gset
SELECT meshhook.set_run_tags(:'seven', ARRAY['x', 'a']);
SELECT run_tags FROM meshhook.search_runs(tags => ARRAY['x']);
SELECT meshhook.set_run_tags(:'seven', '{}');
SELECT count(*) FROM meshhook.search_runs(tags => ARRAY['x']);
SELECT * FROM meshhook.search_runs(batch_size => 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- A value is never read as SQL.
SELECT count(*) FROM meshhook.search_runs(workflow => $$x' OR true --$$);
SELECT count(*) FROM meshhook.search_runs(tags => ARRAY[$$x') OR true --$$]);

-- Rehearsed, then done.
SELECT matched FROM meshhook.create_bulk_operation('cancel', '{"workflow": "tasks", "tags": ["even"]}');
SELECT count(*) FROM meshhook.bulk_operations;
SELECT * FROM meshhook.create_bulk_operation('explode', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.create_bulk_operation('cancel', '{"colour": "red"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.create_bulk_operation('cancel', '{"tags": "even"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.create_bulk_operation('cancel', '{}', dry_run => false);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT operation_id AS op, matched FROM meshhook.create_bulk_operation('cancel', '{"tags": ["even"]}', 'odd ones only', dry_run => false) \gset
\echo :matched
SELECT pg_temp.settle();
SELECT pg_sleep(0.1);
SELECT pg_temp.settle();
SELECT action, filter, reason, status, matched, done, failed FROM meshhook.bulk_operations;
SELECT run_input -> 'n' AS n, run_status, run_tags FROM meshhook.search_runs() ORDER BY run_input -> 'n';
SELECT meshhook.cancel_bulk_operation(:op);
SELECT meshhook.cancel_bulk_operation(0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT action, target = :'op' AS this, details FROM meshhook.audit_log WHERE action LIKE 'bulk.%' ORDER BY audit_id;

-- Retried: what failed goes on, what was killed or never began stays as it is.
SELECT * FROM meshhook.create_bulk_operation('retry', '{}', arguments => '{"from": "start"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT matched FROM meshhook.create_bulk_operation('retry', '{"status": ["failed"]}', 'mended', dry_run => false);
SELECT pg_temp.settle();
SELECT pg_sleep(0.11);
SELECT pg_temp.settle();
SELECT run_input -> 'n' AS n, run_status FROM meshhook.search_runs('tasks') ORDER BY run_input -> 'n';
-- Signaled: those under way, and one that waits to start.
SELECT meshhook.publish_workflow('{"name": "waits", "nodes": [{"id": "go", "type": "wait", "with": {"signal": "go"}}]}');
SELECT count(meshhook.start_run('waits', jsonb_build_object('n', n), delay => CASE n WHEN 3 THEN interval '1 h' END))
FROM generate_series(1, 3) n;
SELECT pg_temp.settle();
SELECT * FROM meshhook.create_bulk_operation('signal', '{"workflow": "waits"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.create_bulk_operation('signal', '{"workflow": "waits"}', arguments => '{"name": "go", "colour": "red"}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT matched FROM meshhook.create_bulk_operation('signal', '{"workflow": "waits"}', 'off we go',
    '{"name": "go", "payload": {"x": 1}, "signal_id": "s1"}', dry_run => false);
SELECT pg_temp.settle();
SELECT pg_sleep(0.11);
SELECT pg_temp.settle();
UPDATE meshhook.run_queue q SET ready_at = now() FROM meshhook.search_runs('waits') r WHERE q.run_id = r.run_id;
SELECT pg_temp.settle();
SELECT pg_temp.settle();
SELECT input -> 'n' AS n, status, output FROM meshhook.runs WHERE workflow = 'waits' ORDER BY input -> 'n';
SELECT action, status, matched, done, failed, failures FROM meshhook.bulk_operations ORDER BY operation_id;
SELECT count(*) AS differences FROM meshhook.search_runs(batch_size => 1000) r, meshhook.verify_run(r.run_id);
RESET meshhook.project;
