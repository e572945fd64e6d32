\set definition `cat workflow.json`
SELECT meshhook.publish_workflow(:'definition') AS version;

-- What GitHub wants to know: the address behind the sidecar's, and the secret, which is shown this once.
SELECT path, secret FROM meshhook.create_endpoint('issue-triage', preset => 'github');

-- The same without GitHub.
\set issue `cat issue.json`
SELECT meshhook.start_run('issue-triage', :'issue') AS run \gset
CALL meshhook.await_run(:'run');
SELECT node, output -> 'status' AS answer FROM meshhook.run_steps WHERE run_id = :'run' AND kind = 'http';
