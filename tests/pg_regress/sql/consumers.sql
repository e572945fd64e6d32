-- Consumers: positions kept by the database.
SELECT meshhook.append_message('job-' || n % 4, 'Asked', to_jsonb(n)) FROM generate_series(1, 8) n;
SELECT meshhook.append_message('job', 'Noted', '0');

-- Read, work, commit; what was not committed comes again.
SELECT stream, data, token FROM meshhook.read_consumer('worker', 'job', 3);
SELECT stream, data, token FROM meshhook.read_consumer('worker', 'job', 3);
SELECT meshhook.commit_consumer('worker', (SELECT max(global_position) FROM meshhook.read_consumer('worker', 'job', 3)), 0) AS token;
SELECT stream, data, token FROM meshhook.read_consumer('worker', 'job', 2);

-- Position and effects are one transaction.
BEGIN;
SELECT meshhook.commit_consumer('worker', (SELECT max(global_position) FROM meshhook.read_consumer('worker', 'job')), 1) AS token;
SELECT count(*) FROM meshhook.read_consumer('worker', 'job');
ROLLBACK;
SELECT count(*) FROM meshhook.read_consumer('worker', 'job');

-- Whoever has been overtaken, goes back, or goes beyond what is decided is refused.
SELECT meshhook.commit_consumer('worker', (SELECT min(global_position) FROM meshhook.read_consumer('worker', 'job')), 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.commit_consumer('worker', 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.commit_consumer('worker', 9000000000);
SELECT meshhook.commit_consumer('nobody', 1);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.read_consumer('worker', 'account');
SELECT count(*) FROM meshhook.read_consumer('worker', 'job', consumer_group_size => 2);
SELECT count(*) FROM meshhook.read_consumer('worker', 'job', consumer_group_member => 1);

-- Another size: each stream goes on where its earlier member had come to. Streams without an id are the first member's.
SELECT meshhook.resize_consumer('worker', 3);
SELECT member, array_agg(stream || ' ' || data ORDER BY global_position)
FROM generate_series(0, 2) AS member, LATERAL meshhook.read_consumer('worker', 'job', 100, member) GROUP BY member ORDER BY member;
SELECT meshhook.commit_consumer('worker', (SELECT max(global_position) FROM meshhook.read_consumer('worker', 'job', 100, 1)), NULL, 1) > 0 AS moved;
SELECT meshhook.resize_consumer('worker', 2);
SELECT array_agg(stream || ' ' || data ORDER BY stream, data)
FROM generate_series(0, 1) AS member, LATERAL meshhook.read_consumer('worker', 'job', 100, member);
SELECT consumer, category, member, group_size, messages_behind, behind_for >= '0' AS since FROM meshhook.consumer_lag ORDER BY member;
SELECT group_size, jsonb_array_length(layers) AS layers FROM meshhook.consumer;
SELECT meshhook.resize_consumer('worker', 0);

SELECT meshhook.seek_consumer('worker', 0);
SELECT count(*) FROM generate_series(0, 1) AS member, LATERAL meshhook.read_consumer('worker', 'job', 100, member);
-- What lies under a high position of others is not walked over twice.
SELECT count(*) FROM meshhook.append_messages('{noise-1}', array_fill('T'::text, ARRAY[1500]), array_fill('1'::jsonb, ARRAY[1500]));
SELECT count(*) FROM meshhook.read_consumer('idle', 'nothing');
SELECT "position" > 1500 AS skipped, revision FROM meshhook.consumer_position p JOIN meshhook.consumer c USING (project_id, consumer_id) WHERE name = 'idle';
SELECT meshhook.drop_consumer('worker'), meshhook.drop_consumer('idle');
SELECT (SELECT count(*) FROM meshhook.consumer) AS consumers, (SELECT count(*) FROM meshhook.consumer_position) AS positions;
SELECT meshhook.drop_consumer('worker');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
