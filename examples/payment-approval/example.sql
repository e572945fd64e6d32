\set definition `cat workflow.json`
SELECT meshhook.publish_workflow(:'definition') AS version;

-- A small one asks nobody.
SELECT meshhook.start_run('payment-approval', '{"customer": "ada@example.com", "plan": "team", "amount": 240}') AS run \gset
CALL meshhook.await_run(:'run');

-- A large one waits; what waits for people is not stuck and costs nothing.
SELECT meshhook.start_run('payment-approval', '{"customer": "bob@example.com", "plan": "company", "amount": 4800}') AS run \gset
CALL meshhook.await_run(:'run', '5 s');
SELECT node, status FROM meshhook.run_steps WHERE run_id = :'run';
SELECT meshhook.decide_approval(:'run', 'approval', true, decided_by => 'grace');
CALL meshhook.await_run(:'run');
