-- Definitions: checked, published, refused. After an error its SQLSTATE is shown.
SELECT * FROM meshhook.validate_workflow('{"name": "hello", "nodes": [
    {"id": "greet", "type": "transform", "with": {"output": {"text": "hello {{ .input.name }}"}}}]}');

-- All faults at once, each with its place.
SELECT * FROM meshhook.validate_workflow('{
    "name": "faulty",
    "nodes": [
        {"id": "a", "type": "http", "with": {"method": "FETCH", "url": "http://127.0.0.1/"}},
        {"id": "b", "type": "teleport", "with": {}},
        {"id": "c", "type": "transform", "with": {"output": "{{ .input. | }}"}},
        {"id": "d", "type": "delay", "with": {"duration": "soon"}},
        {"id": "e", "type": "task", "with": {}, "retry": {"max_attempts": 0}}
    ],
    "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}, {"from": "c", "to": "d"},
              {"from": "d", "to": "nowhere"}, {"from": "d", "to": "e"}]}')
ORDER BY pointer COLLATE "C";
SELECT pointer, code FROM meshhook.validate_workflow('[]');
SELECT pointer, code FROM meshhook.validate_workflow('null');
SELECT pointer, code FROM meshhook.validate_workflow('{}') ORDER BY pointer COLLATE "C";
SELECT count(*) FROM meshhook.validate_workflow(NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

SELECT meshhook.publish_workflow('{"name": "faulty", "nodes": [{"id": "a", "type": "teleport"}]}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Versions count up; publishing what is published already changes nothing.
SELECT meshhook.publish_workflow('{"name": "hello", "nodes": [
    {"id": "greet", "type": "transform", "with": {"output": {"text": "hello {{ .input.name }}"}}}]}');
SELECT meshhook.publish_workflow('{"nodes": [
    {"with": {"output": {"text": "hello {{ .input.name }}"}}, "type": "transform", "id": "greet"}], "name": "hello"}');
SELECT meshhook.publish_workflow('{"name": "hello", "nodes": [
    {"id": "greet", "type": "transform", "with": {"output": {"text": "good day {{ .input.name }}"}}}]}');

SET client_min_messages = error;
SELECT meshhook.start_run('hello', '{"name": "Ada"}') AS newest \gset
SELECT meshhook.start_run('hello', '{"name": "Ada"}', version => 1) AS older \gset
RESET client_min_messages;
SELECT meshhook.tick();
SELECT version, status, output FROM meshhook.runs ORDER BY version;

-- What is not there.
SELECT meshhook.start_run('hello', version => 3);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('goodbye');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Published is published: not even its owner's turns would change it.
SELECT count(*), count(DISTINCT checksum) FROM meshhook.workflow_version;
SELECT project_id, actor = current_user AS mine, action, target, details FROM meshhook.audit_log ORDER BY audit_id;
