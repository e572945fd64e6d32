-- The event store: appending, reading, versions, ids, limits, purging, rights.
CREATE ROLE regress_events LOGIN;
SELECT meshhook.grant_api('regress_events');
SET ROLE regress_events;

-- Positions begin at 0 and have no gaps; a rollback or an error takes none.
SELECT meshhook.append_message('account-1', 'Opened', '{"owner": "Ada"}');
SELECT meshhook.append_message('account-1', 'Deposited', '{"amount": 10}', '{"by": "web"}', 0);
SELECT meshhook.append_message('account-1', 'Deposited', '{"amount": 20}', expected_version => 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.append_message('account-1', 'Opened', '{}', expected_version => -1);
SELECT meshhook.append_message('account-2', 'Opened', '{}', expected_version => 0);
SELECT meshhook.append_message('account-2', 'Opened', NULL, expected_version => -1);
BEGIN;
SELECT meshhook.append_message('account-1', 'Lost', '{}');
ROLLBACK;
SELECT meshhook.stream_version('account-1'), meshhook.stream_version('account-2'), meshhook.stream_version('account-3');
SELECT stream, type, "position", data, metadata, "time" <= clock_timestamp() AS timed FROM meshhook.read_stream('account-1');
SELECT "position", type FROM meshhook.read_stream('account-1', 1);
SELECT "position", type FROM meshhook.read_stream('account-1', batch_size => 1);
SELECT "position", type FROM meshhook.read_stream('account-1', types => '{Deposited,Closed}');
SELECT "position", type, data FROM meshhook.last_message('account-1');
SELECT "position", type, data FROM meshhook.last_message('account-1', 'Opened');
SELECT count(*) FROM meshhook.last_message('account-1', 'Closed');
SELECT count(*) FROM meshhook.read_stream('account-3');

-- Ids: one in the project; a repetition is an error or, asked for, nothing new.
SELECT meshhook.append_message('account-3', 'Opened', '{}', id => '00000000-0000-0000-0000-00000000000a');
SELECT meshhook.append_message('account-3', 'Opened', '{}', id => '00000000-0000-0000-0000-00000000000a');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.append_message('account-3', 'Closed', '{}');
SELECT meshhook.append_message('account-3', 'Opened', '{}', NULL, -1, '00000000-0000-0000-0000-00000000000a', true);
SELECT meshhook.append_message('account-4', 'Opened', '{}', NULL, NULL, '00000000-0000-0000-0000-00000000000a', true);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.stream_version('account-3'), meshhook.stream_version('account-4');

-- Many at once: all or none, in order, each after the one before.
SELECT stream, "position", global_position - min(global_position) OVER () AS after_first, id IS NOT NULL AS has_id
FROM meshhook.append_messages('{order-1,order-2,order-1}', '{Placed,Placed,Paid}',
                              ARRAY['{"n": 1}', '{"n": 2}', '{"n": 3}']::jsonb[],
                              expected_versions => '{-1,NULL,0}');
SELECT "position" FROM meshhook.append_messages('{order-1}', '{Packed,Sent}', '{1,2}'::jsonb[], NULL, '{1}');
SELECT "position" FROM meshhook.append_messages('{order-1,order-2}', '{A,B}', '{1,2}'::jsonb[], NULL, '{3,5}');
SELECT "position" FROM meshhook.append_messages('{order-1,order-2}', '{A}', '{1}'::jsonb[]);
SELECT "position" FROM meshhook.append_messages('{order-1}', '{A,B}', '{1}'::jsonb[]);
SELECT "position" FROM meshhook.append_messages('{order-1}', '{A,B}', '{1,2}'::jsonb[], NULL, NULL,
    '{00000000-0000-0000-0000-00000000000b,00000000-0000-0000-0000-00000000000b}');
SELECT "position" FROM meshhook.append_messages('{order-1}', '{A,B}', '{1,2}'::jsonb[], NULL, NULL,
    '{00000000-0000-0000-0000-00000000000a,00000000-0000-0000-0000-00000000000c}', true);
SELECT "position" FROM meshhook.append_messages('{account-3,order-2}', '{A,B}', '{1,2}'::jsonb[], NULL, NULL,
    '{00000000-0000-0000-0000-00000000000a,00000000-0000-0000-0000-00000000000c}', true);
SELECT count(*) FROM meshhook.append_messages('{order-1}', '{}', '{}');
SELECT meshhook.stream_version('order-1'), meshhook.stream_version('order-2');

-- Categories and everything, in global order.
SELECT stream, type, "position" FROM meshhook.read_category('account');
SELECT stream, type, "position" FROM meshhook.read_category('order', types => '{Placed}');
SELECT stream, type FROM meshhook.read_category('order', (SELECT max(global_position) FROM meshhook.read_category('order')));
SELECT count(*), count(DISTINCT global_position), bool_and(global_position <= meshhook.safe_position()) FROM meshhook.read_all();
SELECT meshhook.append_message('invoice-9', 'Sent', '{}', '{"correlationStreamName": "order-1"}'),
       meshhook.append_message('invoice-9', 'Sent', '{}', '{"correlationStreamName": "orders"}'),
       meshhook.append_message('invoice-9', 'Sent', '{}', '["correlationStreamName"]');
SELECT "position" FROM meshhook.read_category('invoice', correlation => 'order');
-- The members of a group share the streams; compound ids stay together.
SELECT meshhook.append_message('part-' || n || '+' || m, 'Made', '{}') FROM generate_series(1, 6) n, generate_series(1, 2) m;
SELECT member, array_agg(stream ORDER BY stream) FROM generate_series(0, 2) AS member,
    LATERAL meshhook.read_category('part', consumer_group_member => member, consumer_group_size => 3) GROUP BY member ORDER BY member;
SELECT meshhook.stream_category('a:b-c+d-e'), meshhook.stream_id('a:b-c+d-e'), meshhook.stream_cardinal_id('a:b-c+d-e'),
       meshhook.stream_id('a') IS NULL AS no_id, meshhook.hash_64('account');

-- What is wrong is said before anything is written.
SELECT meshhook.append_message('', 'T', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.append_message(repeat('x', 2601), 'T', '{}');
SELECT meshhook.append_message('meshhook:run-1', 'T', '{}');
SELECT meshhook.append_message('a-1', '', '{}');
SELECT meshhook.append_message(NULL, 'T', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.append_message('a-1', 'T', '{}', expected_version => -2);
SELECT meshhook.append_message('a-1', 'T', to_jsonb(repeat('x', 17000000)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.read_category('account-1');
SELECT meshhook.read_category('account', batch_size => 0);
SELECT meshhook.read_category('account', consumer_group_member => 2, consumer_group_size => 2);
SELECT meshhook.read_category('account', consumer_group_size => 2);
SELECT meshhook.append_message('cap-' || n, 'T', '{}') FROM generate_series(1, 1001) n;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
BEGIN READ ONLY;
SELECT meshhook.append_message('a-1', 'T', '{}');
ROLLBACK;
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Own messages are readable before they are committed.
BEGIN;
SELECT meshhook.append_message('draft-1', 'Written', '{}');
SELECT count(*) FROM meshhook.read_stream('draft-1');
SELECT count(*) FROM meshhook.read_category('draft');
SAVEPOINT s;
SELECT meshhook.append_message('draft-1', 'Struck', '{}');
ROLLBACK TO s;
SELECT meshhook.append_message('draft-1', 'Kept', '{}');
COMMIT;
SELECT "position", type FROM meshhook.read_category('draft');

-- An append reads the head whatever the transaction's snapshot shows.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT meshhook.append_message('draft-1', 'Serial', '{}');
SELECT count(*) FROM meshhook.read_stream('draft-1');
COMMIT;

-- The logs of runs are read like streams.
SET client_min_messages = error;
SELECT meshhook.publish_workflow('{"name": "echo", "nodes": [{"id": "out", "type": "transform", "with": {"output": 1}}]}');
SELECT meshhook.start_run('echo') AS run \gset
SELECT meshhook.tick();
SELECT type, "position", stream = 'meshhook:run-' || :'run' AS of_run FROM meshhook.read_stream('meshhook:run-' || :'run');
SELECT type FROM meshhook.last_message('meshhook:run-' || :'run');
SELECT meshhook.stream_version('meshhook:run-' || :'run');
SELECT type FROM meshhook.read_category('meshhook:run') WHERE stream LIKE '%' || :'run';
SELECT count(*) FROM meshhook.read_all() WHERE stream LIKE 'meshhook:%';
SELECT meshhook.append_message('after-1', 'After the run', '{}');
SELECT type FROM meshhook.read_all((SELECT min(global_position) - 1 FROM meshhook.read_stream('meshhook:run-' || :'run')), include_runs => true);
RESET client_min_messages;

-- Forgetting is for administrators.
SELECT meshhook.purge_stream('account-1', 1);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
DELETE FROM meshhook.message;
RESET ROLE;
SELECT meshhook.purge_stream('account-1', 1);
SELECT meshhook.purge_stream('account-1', 2);
SELECT meshhook.purge_stream('nowhere-1', 2);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT "position", type FROM meshhook.read_stream('account-1');
SELECT "position", type FROM meshhook.read_stream('account-1', 1);
SELECT stream, first_position, version FROM meshhook.streams WHERE stream = 'account-1';
SELECT meshhook.delete_stream('account-1');
SELECT count(*) FROM meshhook.read_stream('account-1');
SELECT meshhook.append_message('account-1', 'Opened again', '{}', expected_version => -1);
SELECT "position", type FROM meshhook.read_stream('account-1', 2);
SELECT actor, action, target, details FROM meshhook.audit_log WHERE action LIKE 'stream.%' ORDER BY audit_id;

-- A sequence that hands out positions in advance is refused.
ALTER SEQUENCE meshhook.global_position_seq CACHE 5;
SELECT meshhook.append_message('account-1', 'T', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
ALTER SEQUENCE meshhook.global_position_seq CACHE 1;

-- Another project has its own streams, ids and counts.
SELECT meshhook.create_project('events-two') IS NOT NULL AS made;
SELECT meshhook.add_member('events-two', 'regress_events');
SET ROLE regress_events;
SET meshhook.project = 'events-two';
SELECT count(*) FROM meshhook.read_all();
SELECT meshhook.append_message('account-1', 'Opened', '{}', NULL, -1, '00000000-0000-0000-0000-00000000000a');
SELECT stream, "position" FROM meshhook.read_category('account');
SELECT stream, version FROM meshhook.streams;
RESET meshhook.project;
RESET ROLE;
DROP OWNED BY regress_events;
DELETE FROM meshhook.project_member;
DROP ROLE regress_events;
