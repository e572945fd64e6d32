\set definition `cat workflow.json`
SELECT meshhook.publish_workflow(:'definition') AS version;

-- Done as soon as worker.py runs, and not lost while it does not.
SELECT meshhook.start_run('text-statistics', '{"text": "the quick brown fox jumps over the lazy dog"}') AS run \gset
CALL meshhook.await_run(:'run');
SELECT meshhook.start_run('text-statistics', '{"text": "  "}') AS run \gset
CALL meshhook.await_run(:'run');
SELECT node, attempts, error FROM meshhook.run_steps WHERE run_id = :'run' AND kind = 'task';
