-- Trying out expressions and templates.
\pset null '(null)'
SELECT ok, output, type, steps > 0 AS counted, code FROM meshhook.preview_expression('.input.total * 2',
    '{"input": {"total": 21}}');
SELECT ok, output, type FROM meshhook.preview_expression('.input.total');
SELECT ok, output, type FROM meshhook.preview_expression('[.items[] | select(.n > 1) | .name]',
    '{"items": [{"n": 1, "name": "a"}, {"n": 2, "name": "ä"}]}');

-- Faults point at the character; the marker shows it.
SELECT ok, code, message, at_character FROM meshhook.preview_expression('.input.total +');
SELECT code, message, at_character, E'\n' || marker AS marker FROM meshhook.preview_expression('"ä" | nope(1)');
SELECT code, message, at_character, E'\n' || marker AS marker
FROM meshhook.preview_expression(E'.input\n| .name\n| tonumber', '{"input": {"name": "x"}}');
SELECT code, at_character, raised FROM meshhook.preview_expression('error({code: .a})', '{"a": 7}');
SELECT code, message FROM meshhook.preview_expression('.[]', '[1, 2]');
SELECT code, message FROM meshhook.preview_expression('empty');
SELECT code FROM meshhook.preview_expression('$secrets.key');

-- Budgets hold, and nothing gets out.
SELECT code, steps FROM meshhook.preview_expression('[range(1e12)]');
SELECT code FROM meshhook.preview_expression('"x" * 1e12');
SELECT code FROM meshhook.preview_expression(repeat('(', 100000));
SELECT code FROM unnest(ARRAY['def f: f; f', 'env', 'now', 'input', 'halt', 'test("(a{1000}){1000}")']) AS hostile,
    meshhook.preview_expression(hostile);

-- Templates, every fault with its place.
SELECT ok, output, type FROM meshhook.preview_template('{"to": "{{ .input.email }}", "n": "{{ .n }}",
    "text": "Dear {{ .input.name }}, {{{{ }}", "key": "Bearer {{ $secrets.key }}"}',
    '{"input": {"email": "ada@example.org", "name": "Ada"}, "n": 1.5}');
SELECT pointer, code, message, at_character FROM meshhook.preview_template(
    '{"a": "{{ nope }}", "b": ["ok", "and {{ .x + }}"], "c": "{{ .y"}') ORDER BY pointer COLLATE "C";
SELECT ok, pointer, code, message, at_character FROM meshhook.preview_template('{"a": "total: {{ .input.total }}"}');

-- What is no question of the expression is raised.
SELECT * FROM meshhook.preview_expression(NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.preview_expression('.', NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.preview_expression('.', to_jsonb(repeat('x', 5000000)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.preview_template(NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Hostile definitions: refused at once, by the same backend throughout.
SELECT pg_backend_pid() AS backend \gset
SELECT name, array_agg(DISTINCT p.code ORDER BY p.code) AS codes FROM (VALUES
    ('deep', repeat('[', 5000) || repeat(']', 5000)),
    ('values', '[' || repeat('0,', 200000) || '1]'),
    ('long', to_json(repeat('x', 5000000))::text),
    ('nodes', '{"name": "w", "nodes": [' || repeat('{"id": "a", "type": "transform"},', 20000) || '1]}'),
    ('faults', '{"name": "w", "nodes": [{"id": "a", "type": "transform", "with": {"output": ['
               || repeat('"{{ nope }}",', 20000) || '1]}}]}'),
    ('patterns', '{"name": "w", "nodes": [{"id": "a", "type": "transform", "with": {"output": ['
               || repeat('"{{ test(\"\\\\w{40}\") }}",', 1000) || '1]}}]}'),
    ('holes', '{"name": "w", "nodes": [{"id": "a", "type": "transform", "with": {"output": "'
               || repeat('{{ .input.x }}', 90000) || '"}}]}')
) AS hostile (name, definition), meshhook.validate_workflow(definition::jsonb) AS p GROUP BY name ORDER BY name;
SELECT pg_backend_pid() = :backend AS same_backend;
