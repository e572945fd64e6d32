-- What a database of 0.1.0 holds when it is updated: runs that ended, that wait for an executor, for a lease, for a
-- timer, that no turn has seen; an endpoint with a sealed secret; a second project.
SELECT meshhook.publish_workflow('{
  "name": "upgrade",
  "nodes": [
    {"id": "work",  "type": "task", "with": {"queue": "upgrade", "input": {"n": "{{ .input.n }}"}}},
    {"id": "pause", "type": "delay", "with": {"duration": "50ms"}},
    {"id": "small", "type": "branch", "with": {"cases": [{"port": "yes", "when": ".nodes.work.output.n < 3"}], "default": "no"}},
    {"id": "end",   "type": "transform", "with": {"output": {"n": "{{ .nodes.work.output.n }}"}}},
    {"id": "stop",  "type": "terminate", "with": {"status": "succeeded", "output": {"n": "big"}}}],
  "edges": [{"from": "work", "to": "pause"}, {"from": "pause", "to": "small"},
            {"from": "small", "port": "yes", "to": "end"}, {"from": "small", "port": "no", "to": "stop"}]
}');
SELECT meshhook.start_run('upgrade', jsonb_build_object('n', n), 'key-' || n) FROM generate_series(1, 4) AS n;
SELECT meshhook.tick();
-- Two go on to their timer, one stays leased, one stays ready.
CREATE TABLE claimed AS SELECT * FROM meshhook.claim_jobs(queue => 'upgrade', batch_size => 3, lease => '1 hour');
SELECT meshhook.complete_job(job_id, token, payload) FROM claimed WHERE (payload ->> 'n')::integer < 3;
SELECT meshhook.tick();
SELECT meshhook.start_run('upgrade', '{"n": 5}', 'key-5');
SELECT meshhook.create_endpoint('upgrade');
SELECT meshhook.create_project('second');
SET meshhook.project = 'second';
SELECT meshhook.publish_workflow('{"name": "other", "nodes": [{"id": "a", "type": "transform", "with": {"output": 1}}]}');
SELECT meshhook.start_run('other');
