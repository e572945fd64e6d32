-- Replay at any bound, snapshots good and bad, time travel. docs/replay.md names the traps.
SET client_min_messages = error;
SET meshhook.snapshot_events = 12;
SET meshhook.snapshot_bytes = 0;
SET meshhook.snapshots_kept = 100;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE meshhook.tick() > 0 LOOP END LOOP;
END $$;
-- Each signal is a turn, and each turn of tick() remembers nothing of the one before.
CREATE FUNCTION pg_temp.go(run uuid, times integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..times LOOP
        PERFORM meshhook.signal_run(run, 'go', jsonb_build_object('n', n, 'big', 123456789012345678901234567890.5, 'small', 1e-7));
        PERFORM pg_temp.settle();
    END LOOP;
END $$;
-- Gives a run an id that messages can show; the last leaf takes it.
CREATE FUNCTION pg_temp.rename(old uuid, as_run uuid) RETURNS uuid LANGUAGE sql AS $$
    UPDATE meshhook.run_event SET run_id = as_run WHERE run_id = old;
    UPDATE meshhook.snapshot SET run_id = as_run WHERE run_id = old;
    UPDATE meshhook.run SET run_id = as_run WHERE run_id = old;
    SELECT as_run;
$$;
CREATE FUNCTION pg_temp.debug(run uuid, at bigint) RETURNS TABLE (from_snapshot bigint, events_applied bigint, ignored jsonb)
LANGUAGE sql AS $$
    SELECT (d ->> 'from_snapshot')::bigint, (d ->> 'events_applied')::bigint, d -> 'ignored_snapshots'
    FROM (SELECT meshhook.replay_run(run, at, debug => true) -> 'debug' AS d OFFSET 0) x
$$;

SELECT meshhook.publish_workflow('{"name": "steps", "nodes": [
    {"id": "each", "type": "repeat", "with": {"until": ".index >= 9", "max_iterations": 20, "body": {"nodes": [
        {"id": "step", "type": "wait", "with": {"signal": "go"}}], "edges": []}}},
    {"id": "done", "type": "transform", "with": {"output": "{{ .nodes.each.output }}"}}],
    "edges": [{"from": "each", "to": "done"}]}');
SELECT meshhook.start_run('steps', '{"exact": 0.1000000000000000000001}') AS run \gset

\echo a run that has not begun
\set VERBOSITY sqlstate
SELECT meshhook.replay_run(:'run');
SELECT meshhook.create_snapshot(:'run');
\set VERBOSITY default
SELECT meshhook.run_state_at(:'run', 0) - 'run' AS state;
SELECT * FROM meshhook.run_timeline(:'run');
SELECT pg_temp.settle();
SELECT pg_temp.go(:'run', 9);
SELECT status, position FROM meshhook.runs WHERE run_id = :'run';

\echo trap 1: the version of a snapshot is the position of its last event
SELECT s.position, e.type, s.state_version, octet_length(s.state_hash) AS hash_bytes,
       (convert_from(s.state, 'UTF8')::jsonb ->> 'position')::bigint = s.position AS in_state
FROM meshhook.snapshot s JOIN meshhook.run_event e USING (project_id, run_id, position)
WHERE s.run_id = :'run' ORDER BY s.position;

\echo trap 2: no replay begins behind its bound; trap 6: debug changes nothing; trap 8: no event counts twice
SELECT count(*) AS bounds,
       count(*) FILTER (WHERE d.from_snapshot > p) AS beyond,
       count(*) FILTER (WHERE coalesce(d.from_snapshot, 0) + d.events_applied <> p) AS miscounted,
       count(*) FILTER (WHERE d.from_snapshot IS NOT NULL) > 20 AS with_snapshots,
       count(*) FILTER (WHERE meshhook.replay_run(:'run', p)::text
                           <> meshhook.replay_run(:'run', p, use_snapshots => false)::text) AS different,
       count(*) FILTER (WHERE meshhook.replay_run(:'run', p, debug => true) - 'debug' <> meshhook.replay_run(:'run', p)) AS disturbed,
       count(*) FILTER (WHERE (meshhook.replay_run(:'run', p) ->> 'position')::bigint <> p) AS misplaced
FROM generate_series(0, (SELECT position FROM meshhook.run WHERE run_id = :'run')) p CROSS JOIN LATERAL pg_temp.debug(:'run', p) d;

\echo trap 3: a snapshot that nothing follows, and its completeness
SELECT pg_temp.go(:'run', 1);
SELECT pg_temp.rename(:'run'::uuid, '0fffffff-0000-7000-8000-000000000001') AS run \gset
SELECT meshhook.create_snapshot(:'run') AS head \gset
SELECT :head = position AS at_the_head FROM meshhook.run WHERE run_id = :'run';
SELECT d.from_snapshot = :head AS from_head, d.events_applied, r ->> 'status' AS status, r -> 'complete' AS complete,
       r ->> 'position' = :'head' AS at_head, r -> 'state' -> 'input' AS input
FROM pg_temp.debug(:'run', :head) d, meshhook.replay_run(:'run') r;
SELECT count(*) AS differences FROM meshhook.verify_run(:'run');

\echo trap 4: order is that of positions, a time only chooses one
SELECT count(*) AS events,
       count(*) FILTER (WHERE (meshhook.replay_run(:'run', until_time => e.created_at) ->> 'position')::bigint
           <> (SELECT max(l.position) FROM meshhook.run_event l WHERE l.run_id = e.run_id AND l.created_at <= e.created_at)) AS misplaced
FROM meshhook.run_event e WHERE e.run_id = :'run';
SELECT r -> 'position' AS position, r -> 'status' AS status FROM meshhook.replay_run(:'run', until_time => '1999-01-01') r;
SELECT r ->> 'position' = :'head' AS at_head FROM meshhook.replay_run(:'run', until_time => '2999-01-01') r;

\echo trap 5: create_snapshot persists, also where one stands that is no good
SET client_min_messages = warning;
SELECT meshhook.create_snapshot(:'run') = :head AS again, count(*) FROM meshhook.snapshot WHERE run_id = :'run' AND position = :head;
UPDATE meshhook.snapshot SET state = overlay(state PLACING '\x20'::bytea FROM 20 FOR 1) WHERE run_id = :'run' AND position = :head;
SELECT d.from_snapshot < :head AS from_an_older_one, d.ignored FROM pg_temp.debug(:'run', :head) d;
SELECT meshhook.run_state(:'run') ->> 'status' AS status;
SELECT meshhook.create_snapshot(:'run') = :head AS mended;
SELECT d.from_snapshot = :head AS from_head, d.ignored FROM pg_temp.debug(:'run', :head) d;

\echo a snapshot that would be believed and says something else
SELECT count(*) AS differences FROM meshhook.verify_run(:'run');
UPDATE meshhook.snapshot s SET state = x.state, state_hash = sha256(int4send(s.state_version) || x.state)
FROM (SELECT convert_to(regexp_replace(convert_from(state, 'UTF8'), '"seed":\d+', '"seed":1'), 'UTF8') AS state
      FROM meshhook.snapshot WHERE run_id = :'run' AND position = :head) x
WHERE run_id = :'run' AND position = :head;
SELECT position = :head AS at_head, path, found FROM meshhook.verify_run(:'run');
SELECT run_id = :'run' AS this, path FROM meshhook.verify_runs(jsonb_build_object('run_ids', jsonb_build_array(:'run')));
SELECT count(*) FROM meshhook.verify_runs('{"status": ["canceled"]}');
SELECT * FROM meshhook.verify_runs(max_runs => 0);
DELETE FROM meshhook.snapshot WHERE run_id = :'run' AND position = :head;
SELECT meshhook.create_snapshot(:'run') = :head AS mended;

\echo snapshots of another engine, with a wrong hash, under a wrong position
BEGIN;
UPDATE meshhook.snapshot SET state_version = 999 WHERE run_id = :'run' AND position = :head;
UPDATE meshhook.snapshot SET state_hash = '\x00' WHERE run_id = :'run' AND position <> :head;
DELETE FROM meshhook.snapshot WHERE run_id = :'run' AND position NOT IN (
    SELECT position FROM meshhook.snapshot WHERE run_id = :'run' ORDER BY position DESC LIMIT 2);
SELECT d.from_snapshot, d.events_applied = :head AS all_events, jsonb_array_length(d.ignored) AS ignored FROM pg_temp.debug(:'run', :head) d;
SELECT meshhook.replay_run(:'run') = meshhook.replay_run(:'run', use_snapshots => false) AS same;
ROLLBACK;

\echo bounds that are refused
SET client_min_messages = error;
SELECT meshhook.replay_run(:'run', 10000);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.replay_run(:'run', -1);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.replay_run(:'run', 1, now());
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.replay_run(:'run', use_snapshots => NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.replay_run(NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.replay_run('00000000-0000-7000-8000-000000000000');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.run_state_at(:'run', 10000);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.run_diff(:'run', 0, 10000);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.run_log(:'run', batch_size => 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

\echo as on a standby: nothing is written and no transaction id taken
BEGIN READ ONLY;
SELECT meshhook.replay_run(:'run', debug => true) ->> 'status' AS status;
SELECT meshhook.run_state_at(:'run', 5) -> 'position' AS position;
SELECT count(*) > 0 AS differs FROM meshhook.run_diff(:'run', 5, 9);
SELECT count(*) > 0 AS spans FROM meshhook.run_timeline(:'run');
SELECT count(*) = :head AS lines FROM meshhook.run_log(:'run');
SELECT count(*) = :head AS trail FROM meshhook.run_audit_trail WHERE execution_id = :'run';
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
SELECT meshhook.create_snapshot(:'run');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
ROLLBACK;

\echo a turn begins behind the snapshot: what lies before is not read
SELECT meshhook.start_run('steps') AS run \gset
SELECT pg_temp.settle(), pg_temp.go(:'run', 4);
BEGIN;
DELETE FROM meshhook.run_event WHERE run_id = :'run' AND position < (SELECT max(position) FROM meshhook.snapshot WHERE run_id = :'run');
SELECT position AS before FROM meshhook.run WHERE run_id = :'run' \gset
SELECT pg_temp.go(:'run', 1);
SELECT position > :before AS moved, status FROM meshhook.run WHERE run_id = :'run';
ROLLBACK;

\echo only the newest are kept
SET meshhook.snapshots_kept = 2;
SELECT count(*) > 1 AS several, max(position) AS newest FROM meshhook.snapshot WHERE run_id = :'run' \gset
SELECT pg_temp.go(:'run', 5);
SELECT count(*) AS kept, min(position) > :newest OR max(position) > :newest AS newest FROM meshhook.snapshot WHERE run_id = :'run';
SELECT meshhook.create_snapshot(:'run') > 0 AS made;
SELECT count(*) AS kept FROM meshhook.snapshot WHERE run_id = :'run';
SELECT count(*) AS differences FROM meshhook.verify_run(:'run');

\echo a large state is not stored again and again
SET meshhook.snapshot_events = 1;
SELECT meshhook.start_run('steps', to_jsonb(repeat('x', 20000))) AS large \gset
SET meshhook.snapshots_kept = 100;
SELECT pg_temp.settle(), pg_temp.go(:'large', 9);
SELECT count(*) AS snapshots FROM meshhook.snapshot WHERE run_id = :'large';

\echo no snapshots by turns
SET meshhook.snapshot_events = 0;
SELECT meshhook.start_run('steps') AS none \gset
SELECT pg_temp.settle(), pg_temp.go(:'none', 10);
SELECT status, (SELECT count(*) FROM meshhook.snapshot s WHERE s.run_id = r.run_id) AS snapshots FROM meshhook.runs r WHERE run_id = :'none';

\echo what people see: diff, log, timeline, audit trail
SELECT meshhook.publish_workflow('{"name": "told", "nodes": [
    {"id": "call", "type": "task", "with": {"queue": "told", "input": {"n": "{{ .input }}"}},
     "retry": {"max_attempts": 2, "initial": "1ms", "jitter": "none"}},
    {"id": "wait", "type": "wait", "with": {"signal": "go"}},
    {"id": "never", "type": "transform", "with": {"output": 1}}],
    "edges": [{"from": "call", "to": "wait"}, {"from": "call", "port": "error", "to": "never"}]}');
SELECT meshhook.start_run('told', '7') AS run \gset
SELECT pg_temp.settle();
SELECT count(*) FROM meshhook.claim_jobs('told', 'clerk') c, LATERAL meshhook.fail_job(c.job_id, c.token, '{"class": "busy", "message": "not now"}') f;
SELECT pg_temp.settle(), pg_sleep(0.01), pg_temp.settle();
SELECT count(*) FROM meshhook.claim_jobs('told', 'clerk') c, LATERAL meshhook.complete_job(c.job_id, c.token, '{"m": 1}') f;
SELECT pg_temp.settle(), meshhook.pause_run(:'run', 'lunch'), pg_temp.settle(), meshhook.resume_run(:'run'), pg_temp.settle(),
       meshhook.cancel_run(:'run', 'withdrawn'), pg_temp.settle();
SELECT position, level, node, attempt, actor IS NOT NULL AS by_somebody,
       regexp_replace(message, '\d{4}-\d\d-\d\dT[0-9:.]+Z', 'TIME') AS message FROM meshhook.run_log(:'run');
SELECT position FROM meshhook.run_log(:'run', 8, 2);
SELECT position, node, kind, attempt, finished_at >= started_at AS in_order, outcome FROM meshhook.run_timeline(:'run');
SELECT position, event_name, event_type, from_state, to_state, tenant, user_id = current_user AS by_me,
       payload = (SELECT data FROM meshhook.run_history(:'run') h WHERE h.position = t.position AND h.id = t.event_id) AS same_payload
FROM meshhook.run_audit_trail t WHERE execution_id = :'run' ORDER BY position;
SELECT path, CASE WHEN path LIKE '%\_at' THEN 'null' ELSE before::text END AS before,
       CASE WHEN path LIKE '%\_at' THEN 'time' ELSE after::text END AS after
FROM meshhook.run_diff(:'run', 4, 5);
SELECT count(*) AS differences FROM meshhook.run_diff(:'run', 5, 5);
SELECT (SELECT jsonb_object_agg(path, array[before, after]) FROM meshhook.run_diff(:'run', 2, 9))
     = (SELECT jsonb_object_agg(path, array[after, before]) FROM meshhook.run_diff(:'run', 9, 2)) AS mirrored;
SELECT meshhook.run_state_at(:'run') = meshhook.run_state(:'run') AS same;

\echo each tenant its own
SELECT meshhook.create_project('replays') IS NOT NULL AS made;
CREATE ROLE regress_replayer LOGIN;
SELECT meshhook.grant_api('regress_replayer'), meshhook.add_member('replays', 'regress_replayer');
SET ROLE regress_replayer;
SET meshhook.project = 'replays';
SELECT count(*) AS events_of_others FROM meshhook.run_audit_trail;
SELECT slug FROM meshhook.project;
SELECT meshhook.replay_run('0fffffff-0000-7000-8000-000000000001');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_snapshot('0fffffff-0000-7000-8000-000000000001');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.snapshot;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
RESET ROLE;
RESET meshhook.project;
DROP OWNED BY regress_replayer;
DROP ROLE regress_replayer;
