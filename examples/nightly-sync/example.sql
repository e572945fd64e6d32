\set definition `cat workflow.json`
SELECT meshhook.publish_workflow(:'definition') AS version;

-- Each night at half past two as clocks in Berlin show it. With replace this may be said at every deployment.
SELECT meshhook.create_schedule('nightly sync', 'nightly-sync', cron => '30 2 * * *', time_zone => 'Europe/Berlin',
                                jitter => '10 minutes', overlap => 'skip', replace => true) AS first;
SELECT p.* FROM meshhook.preview_schedule('30 2 * * *', time_zone => 'Europe/Berlin', count => 3) p;

-- Not waiting for the night.
SELECT meshhook.trigger_schedule('nightly sync') AS run \gset
CALL meshhook.await_run(:'run');
SELECT node, status, error ->> 'message' AS error FROM meshhook.run_steps WHERE run_id = :'run' ORDER BY scheduled_at;
