-- Blobs: made, read, brought by executors, kept as long as a run refers to them.
SET client_min_messages = error;
SELECT meshhook.publish_workflow('{"name": "freight", "nodes": [
    {"id": "load", "type": "task", "with": {"queue": "blobs", "input": "{{ .input }}"}},
    {"id": "rest", "type": "wait", "with": {"signal": "go"}}], "edges": [{"from": "load", "to": "rest"}]}');
SELECT meshhook.create_blob('hello', 'text/plain') AS reference \gset
SELECT :'reference'::jsonb;
SELECT meshhook.create_blob('hello') ->> 'sha256' = :'reference'::jsonb ->> 'sha256' AS same;
SELECT convert_from(meshhook.read_blob(:'reference'::jsonb ->> 'sha256'), 'UTF8') AS bytes;
SELECT sha256 = :'reference'::jsonb ->> 'sha256' AS named, size, runs FROM meshhook.blobs;

-- What is none.
SELECT meshhook.read_blob(encode(sha256('nothing'), 'hex'));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.read_blob('12');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_blob(NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_blob('a', '');
SELECT meshhook.create_blob('a', E'text/plain\nx: y');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_blob(decode(repeat('00', 16 * 1024 * 1024 + 1), 'hex'));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.blob;

-- Another project has none of it.
SELECT meshhook.create_project('blobs-other') IS NOT NULL AS made;
SET meshhook.project = 'blobs-other';
SELECT meshhook.read_blob(:'reference'::jsonb ->> 'sha256');
SELECT meshhook.create_blob('hello') ->> 'size' AS size;
RESET meshhook.project;
SELECT project_id = 0 AS ours, count(*) FROM meshhook.blob GROUP BY 1 ORDER BY 1;

-- A run whose input refers to it keeps it from the start on; its executor reads it, and brings another one.
SELECT meshhook.start_run('freight', jsonb_build_object('file', :'reference'::jsonb)) AS run \gset
SELECT runs FROM meshhook.blobs WHERE sha256 = :'reference'::jsonb ->> 'sha256' ORDER BY 1;
SELECT count(meshhook.tick()) FROM generate_series(1, 3);
SELECT job_id, token, payload #>> '{file,sha256}' AS sha256 FROM meshhook.claim_jobs('blobs') \gset
SELECT convert_from(meshhook.read_job_blob(:'job_id', :token, :'sha256'), 'UTF8') AS bytes;
SELECT meshhook.read_job_blob(:'job_id', :token - 1, :'sha256') IS NULL AS stale;
SELECT meshhook.read_job_blob(:'job_id', :token, encode(sha256('nothing'), 'hex'));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.put_job_blob(:'job_id', :token - 1, 'world') IS NULL AS stale;
SELECT meshhook.put_job_blob('nonsense', 1, 'world');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.put_job_blob(:'job_id', :token, 'world') AS brought \gset
SELECT :'brought' = encode(sha256('world'), 'hex') AS named;
SELECT meshhook.complete_job(:'job_id', :token, jsonb_build_object('file', jsonb_build_object('sha256', :'brought')));
SELECT count(meshhook.tick()) FROM generate_series(1, 3);
SELECT size, runs FROM meshhook.blobs WHERE sha256 IN (:'brought', :'reference'::jsonb ->> 'sha256') ORDER BY 1, 2;

-- A fork refers to what it has copied; a run refers once however often it names a blob.
SELECT meshhook.fork_run(:'run') AS fork \gset
SELECT meshhook.signal_run(:'run', 'go', jsonb_build_array(:'reference'::jsonb, :'reference'::jsonb));
SELECT count(meshhook.tick()) FROM generate_series(1, 3);
SELECT run_id = :'run' AS original, count(*) FROM meshhook.blob_use GROUP BY 1 ORDER BY 1;

-- While a run refers to it nothing is forgotten, nor what was made within a day.
SELECT * FROM meshhook.forget_blobs();
UPDATE meshhook.blob_check SET due_at = now() - interval '1 second';
SELECT * FROM meshhook.forget_blobs();
SELECT project_id = 0 AS ours, size FROM meshhook.blob ORDER BY 1, 2;
DELETE FROM meshhook.blob_use WHERE run_id = :'run';
SELECT * FROM meshhook.forget_blobs();
SELECT meshhook.create_blob('world') ->> 'size' AS size;
DELETE FROM meshhook.blob_use WHERE run_id = :'fork';
SELECT * FROM meshhook.forget_blobs();
SELECT convert_from(bytes, 'UTF8') AS bytes FROM meshhook.blob;
SELECT count(*) FROM meshhook.blob_check;

-- An http node keeps what is too large for the log beside it; what is sent of a blob is a reference.
SELECT meshhook.publish_workflow('{"name": "large", "nodes": [
    {"id": "begin", "type": "transform", "with": {"output": 1}},
    {"id": "list", "type": "http", "with": {"url": "http://h.test/", "method": "POST", "body": "{{ [range(20000)] }}"}},
    {"id": "file", "type": "http", "with": {"url": "http://h.test/", "method": "POST", "body_blob": "{{ .input.file }}"}}],
    "edges": [{"from": "begin", "to": "list"}, {"from": "begin", "to": "file"}]}');
SELECT meshhook.start_run('large', jsonb_build_object('file', :'reference'::jsonb)) AS large \gset
SELECT count(meshhook.tick()) FROM generate_series(1, 3);
SELECT data ->> 'node' AS node, data #> '{input,body_blob}' AS body_blob, data -> 'input' ? 'body' AS inline
FROM meshhook.run_event WHERE run_id = :'large' AND type = 'node.scheduled' ORDER BY 1;
SELECT size, runs, length(meshhook.read_blob(sha256)) FROM meshhook.blobs WHERE size > 100;
SELECT count(*) AS differences FROM meshhook.verify_run(:'large');
SELECT meshhook.start_run('large', '{"file": {"sha256": "12"}}') AS wrong \gset
SELECT count(meshhook.tick()) FROM generate_series(1, 3);
SELECT error ->> 'class' AS class, error ->> 'message' AS message FROM meshhook.runs WHERE run_id = :'wrong';
