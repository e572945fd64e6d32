-- Contracts, and every limit of docs/limits.md that a definition, an input or a run can meet.
SET client_min_messages = error;
SELECT meshhook.publish_workflow('{"name": "contract", "nodes": [
    {"id": "a", "type": "transform", "with": {"output": {"total": "{{ .input.total }}"}}}],
    "input_schema": {"type": "object", "required": ["id"], "additionalProperties": false,
        "properties": {"id": {"type": "integer", "minimum": 1}, "total": {}}},
    "output_schema": {"properties": {"total": {"type": "number"}}}}');

-- The input is checked before anything is written, and every violation is told.
SELECT meshhook.start_run('contract', '{"id": "one", "total": 1, "more": true}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('contract', '[]');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.runs WHERE workflow = 'contract';
SELECT meshhook.start_run('contract', '{"id": 1, "total": 12.5}') AS good \gset
SELECT meshhook.start_run('contract', '{"id": 2, "total": "12.5"}') AS bad \gset
SELECT meshhook.tick();
SELECT status, output, error FROM meshhook.runs WHERE run_id IN (:'good', :'bad') ORDER BY status DESC;
SELECT count(*) AS differences FROM meshhook.verify_run(:'bad');

-- At most 20 violations, and none repeats the input.
SELECT meshhook.publish_workflow('{"name": "many", "nodes": [{"id": "a", "type": "task"}],
    "input_schema": {"items": {"type": "string"}}}');
SET client_min_messages = warning;
DO $$
DECLARE
    told text;
BEGIN
    PERFORM meshhook.start_run('many', (SELECT jsonb_agg(n) FROM generate_series(1, 1000) n));
EXCEPTION WHEN invalid_parameter_value THEN
    GET STACKED DIAGNOSTICS told = PG_EXCEPTION_DETAIL;
    RAISE WARNING 'lines: %', array_length(string_to_array(told, E'\n'), 1);
END $$;
SET client_min_messages = error;

-- Schemas that fetch, that double at each step, or that are too large are refused at publish.
SELECT pointer, code FROM meshhook.validate_workflow('{"name": "c", "nodes": [{"id": "a", "type": "task"}],
    "input_schema": {"$ref": "http://127.0.0.1/schema.json"}, "output_schema": {"allOf": [{"$ref": "#"}]}}')
ORDER BY pointer COLLATE "C";
SELECT pointer, code, message FROM meshhook.validate_workflow(jsonb_build_object('name', 'c', 'nodes', '[{"id": "a", "type": "task"}]'::jsonb,
    'input_schema', jsonb_build_object('description', repeat('x', 65536))));
SELECT pointer, code, message FROM meshhook.validate_workflow(
    '{"name": "c", "nodes": [{"id": "a", "type": "task"}], "input_schema":
        {"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}}');

-- Inputs: 1 MiB, 100 levels.
SELECT meshhook.start_run('many', to_jsonb(repeat('x', 1048577)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('many', (repeat('[', 101) || repeat(']', 101))::jsonb);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('many', idempotency_key => repeat('k', 256));
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Definitions: 4 MiB, 1000 nodes, 5000 edges, names of 63 bytes.
SELECT pointer, code, message FROM meshhook.validate_workflow(jsonb_build_object('name', repeat('x', 4194304)));
SELECT meshhook.save_draft(jsonb_build_object('name', 'large', 'description', repeat('x', 4194304)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT pointer, code, message FROM meshhook.validate_workflow(jsonb_build_object('name', 'n', 'nodes',
    (SELECT jsonb_agg(jsonb_build_object('id', 'n' || n, 'type', 'task')) FROM generate_series(1, 1001) n)));
SELECT pointer, code, message FROM meshhook.validate_workflow(jsonb_build_object('name', 'n', 'nodes', '[{"id": "a", "type": "task"}]'::jsonb,
    'edges', (SELECT jsonb_agg(jsonb_build_object('from', 'a', 'to', 'a')) FROM generate_series(1, 5001) n)));
SELECT pointer, code FROM meshhook.validate_workflow(jsonb_build_object('name', repeat('n', 64), 'nodes',
    jsonb_build_array(jsonb_build_object('id', repeat('i', 64), 'type', 'task')))) ORDER BY 1;

-- Events of a run: at the limit it fails, after a step that is complete; at 80 % of it status() speaks up.
SELECT meshhook.publish_workflow('{"name": "long", "nodes": [
    {"id": "a", "type": "transform", "with": {"output": 1}}, {"id": "b", "type": "task", "with": {"queue": "long"}},
    {"id": "c", "type": "transform", "with": {"output": 1}}, {"id": "d", "type": "task", "with": {"queue": "long"}}],
    "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}, {"from": "c", "to": "d"}]}');
SELECT meshhook.start_run('long') AS capped \gset
SELECT meshhook.start_run('long') AS free \gset
SET meshhook.max_run_events = 4;
SELECT meshhook.tick();
SELECT ok, replace(value, :'capped', 'RUN') LIKE '2 above 80 % of 4 events, the longest with 3: %' AS told, hint
FROM meshhook.status() WHERE check_name = 'long runs';
CREATE TEMP TABLE long AS SELECT * FROM meshhook.claim_jobs('long', batch_size => 10);
SELECT meshhook.complete_job(job_id, token, '{}') FROM long WHERE run_id = :'capped';
SELECT meshhook.tick();
SELECT status, "position", error FROM meshhook.runs WHERE run_id = :'capped';
SELECT "position", type FROM meshhook.run_history(:'capped');
SELECT count(*) AS open_jobs FROM meshhook.job WHERE run_id = :'capped';
SELECT count(*) AS differences FROM meshhook.verify_run(:'capped');
SET meshhook.max_run_events = 0;
SELECT ok, value FROM meshhook.status() WHERE check_name = 'long runs';
SELECT meshhook.complete_job(job_id, token, '{}') FROM long WHERE run_id = :'free';
SELECT meshhook.tick();
SELECT status, "position" FROM meshhook.runs WHERE run_id = :'free';
RESET meshhook.max_run_events;
SHOW meshhook.max_run_events;
SELECT meshhook.cancel_run(:'free');
SELECT meshhook.tick();
SELECT status FROM meshhook.runs WHERE run_id = :'free';
