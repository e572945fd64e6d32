-- A run's life, seen from SQL.
SELECT meshhook.publish_workflow('{
    "name": "order",
    "nodes": [
        {"id": "charge", "type": "task", "with": {"queue": "till", "input": {"amount": "{{ .input.amount }}"}},
         "retry": {"max_attempts": 3, "initial": "1ms", "jitter": "none"}},
        {"id": "size", "type": "branch", "with": {"cases": [{"port": "big", "when": ".input.amount > 100"}], "default": "small"}},
        {"id": "review", "type": "transform", "with": {"output": {"reviewed": "{{ .nodes.charge.output.receipt }}"}}},
        {"id": "ship", "type": "transform", "with": {"output": {"shipped": "{{ .nodes.charge.output.receipt }}"}}}
    ],
    "edges": [{"from": "charge", "to": "size"}, {"from": "size", "port": "big", "to": "review"},
              {"from": "size", "port": "small", "to": "ship"}]}');

-- Nobody serves this database, which is worth a warning.
SELECT meshhook.start_run('order', '{"amount": 120}') AS run \gset
SET client_min_messages = error;
SELECT status, position, input, output, error, started_at IS NULL AS not_started FROM meshhook.runs WHERE run_id = :'run';
SELECT meshhook.tick();
SELECT meshhook.tick();
SELECT node, kind, status, attempts FROM meshhook.run_steps WHERE run_id = :'run';
SELECT node, attempt, kind, payload, idempotency_key = run_id || '/charge' AS keyed, lease_expires_at > now() AS leased, job_id, token
FROM meshhook.claim_jobs('till', 'psql', 10, '1 minute') \gset
\echo :node :attempt :kind :payload :keyed :leased
SELECT meshhook.complete_job(:'job_id', :token, '{"receipt": "r-1"}');
SELECT meshhook.complete_job(:'job_id', :token, '{"receipt": "again"}');
SELECT meshhook.tick();
SELECT status, position, output, error, finished_at >= started_at AS in_order FROM meshhook.runs WHERE run_id = :'run';
SELECT position, type, data - 'seed' - 'input_hash' AS data FROM meshhook.run_history(:'run');
SELECT position, type FROM meshhook.run_history(:'run', 2, 2);
SELECT position FROM meshhook.run_history(:'run', 100);
SELECT jsonb_object_keys(meshhook.run_state(:'run')) ORDER BY 1;
SELECT meshhook.run_state(:'run') - 'run' - 'started_at' - 'finished_at' - 'nodes' AS state;
SELECT key AS node, value ->> 'status' AS status, value ->> 'port' AS port, value -> 'output' AS output
FROM jsonb_each(meshhook.run_state(:'run') -> 'nodes') ORDER BY 1;
SELECT * FROM meshhook.verify_run(:'run');
CALL meshhook.await_run(:'run');

-- The log is the truth: what disagrees with it is found.
BEGIN;
UPDATE meshhook.run SET status = 'failed' WHERE run_id = :'run';
SELECT position, path, expected, found FROM meshhook.verify_run(:'run');
ROLLBACK;
BEGIN;
UPDATE meshhook.run_event SET data = jsonb_set(data, '{output,receipt}', '"forged"')
WHERE run_id = :'run' AND type = 'node.succeeded' AND data ->> 'node' = 'charge';
SELECT count(*) > 0 AS found_out FROM meshhook.verify_run(:'run');
ROLLBACK;

-- A key names one run of a workflow, whatever the input.
SELECT meshhook.start_run('order', '{"amount": 1}', idempotency_key => 'order-1') AS one \gset
SELECT meshhook.start_run('order', '{"amount": 2}', idempotency_key => 'order-1') = :'one' AS same_run;
SELECT meshhook.start_run('order', '{"amount": 2}', idempotency_key => 'order-2') <> :'one' AS another_run;
SELECT input, idempotency_key FROM meshhook.runs WHERE idempotency_key = 'order-1';
SELECT meshhook.start_run('order', idempotency_key => '');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(meshhook.start_run('order', idempotency_key => repeat('x', 100000)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Canceling before the first turn, in mid-run, and too late.
SELECT meshhook.cancel_run(:'one', 'not wanted');
SELECT meshhook.tick() > 0 AS turned;
SELECT status, error, output FROM meshhook.runs WHERE run_id = :'one';
SELECT type, data -> 'reason' AS reason FROM meshhook.run_history(:'one') ORDER BY position DESC LIMIT 1;
SELECT meshhook.cancel_run(:'one');
SELECT meshhook.cancel_run(:'run');

-- Retries, and the end of them.
SELECT meshhook.start_run('order', '{"amount": 5}') AS doomed \gset
SELECT meshhook.tick() > 0 AS turned;
CREATE FUNCTION pg_temp.refuse(error jsonb) RETURNS TABLE (attempt integer, outcome text) LANGUAGE plpgsql AS $$
DECLARE claimed record;
BEGIN
    -- The other runs' jobs are given back at the end of the test.
    FOR claimed IN SELECT * FROM meshhook.claim_jobs('till', 'psql', 10) LOOP
        IF claimed.payload -> 'amount' = '5' THEN
            attempt := claimed.attempt;
            outcome := meshhook.fail_job(claimed.job_id, claimed.token, error);
            RETURN NEXT;
        ELSE
            PERFORM meshhook.release_jobs(ARRAY[claimed.job_id], ARRAY[claimed.token]);
        END IF;
    END LOOP;
    PERFORM meshhook.tick();
    -- Longer than the 1 ms and 2 ms of the retry policy.
    PERFORM pg_sleep(0.02);
    PERFORM meshhook.tick();
END
$$;
SELECT * FROM pg_temp.refuse('{"class": "till.closed", "message": "come back later"}');
SELECT * FROM pg_temp.refuse('"only a text"');
SELECT * FROM pg_temp.refuse('{"class": "till.broken", "message": "gone"}');
SELECT * FROM pg_temp.refuse('"nothing is left to refuse"');
SELECT status, error FROM meshhook.runs WHERE run_id = :'doomed';
SELECT node, status, attempts, error -> 'class' AS class FROM meshhook.run_steps WHERE run_id = :'doomed' ORDER BY node COLLATE "C";
SELECT * FROM meshhook.verify_run(:'doomed');

-- What is not there, and what is not allowed.
SELECT meshhook.run_state('00000000-0000-7000-8000-000000000000');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.run_history('00000000-0000-7000-8000-000000000000');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.verify_run('00000000-0000-7000-8000-000000000000');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.cancel_run('00000000-0000-7000-8000-000000000000');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
CALL meshhook.await_run('00000000-0000-7000-8000-000000000000');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
BEGIN;
CALL meshhook.await_run(:'run');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT count(*) FROM meshhook.run_history(:'run', -1);
SELECT * FROM meshhook.run_history(:'run', 0, 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.tick(0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(meshhook.start_run('order', to_jsonb(repeat('x', 2000000))));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run(NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('order', NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- In one transaction, as people test their workflows.
BEGIN;
SELECT meshhook.start_run('order', '{"amount": 7}') AS tried \gset
SELECT meshhook.tick() > 0 AS turned;
SELECT job_id, token FROM meshhook.claim_jobs('till', 'psql', 50) WHERE run_id = :'tried' \gset
SELECT meshhook.complete_job(:'job_id', :token, '{"receipt": "r-7"}');
SELECT meshhook.tick();
SELECT status, output FROM meshhook.runs WHERE run_id = :'tried';
ROLLBACK;
SELECT count(*) FROM meshhook.runs WHERE run_id = :'tried';
