\set definition `cat workflow.json`
SELECT meshhook.publish_workflow(:'definition') AS version;

SELECT meshhook.start_run('enrichment', '{"lead": 42, "email": "ada@engines.example", "address": "192.0.2.7"}') AS run \gset
CALL meshhook.await_run(:'run');

-- The three calls began together; the credit agency was asked twice and left out.
SELECT node, status, attempts, error ->> 'message' AS error FROM meshhook.run_steps WHERE run_id = :'run' AND kind = 'http';
SELECT "position", type, data FROM meshhook.read_stream('lead-42');
