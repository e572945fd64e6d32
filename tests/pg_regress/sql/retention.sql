-- Forgetting: whole leaves, those who stay are copied, nobody unfinished goes.
SET client_min_messages = error;
CREATE FUNCTION pg_temp.settle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE meshhook.tick() > 0 LOOP END LOOP;
END $$;
-- Gives a run another start time, as if it had been started and had ended then.
CREATE FUNCTION pg_temp.age(moved uuid, days integer) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := now() - make_interval(days => days);
    old uuid := (left(meshhook.uuid_floor(at)::text, 13) || right(moved::text, 23))::uuid;
BEGIN
    UPDATE meshhook.run_event SET run_id = old, created_at = at WHERE run_id = moved;
    UPDATE meshhook.job SET run_id = old WHERE run_id = moved;
    UPDATE meshhook.run_key SET run_id = old WHERE run_id = moved;
    UPDATE meshhook.run_tag SET run_id = old WHERE run_id = moved;
    UPDATE meshhook.run SET run_id = old, created_at = at, started_at = at, finished_at = CASE WHEN finished_at IS NOT NULL THEN at END
    WHERE run_id = moved;
    RETURN old;
END $$;
CREATE VIEW leaves AS SELECT leaf, runs, expired, action FROM meshhook.preview_retention();

SELECT meshhook.publish_workflow('{"name": "kept", "nodes": [{"id": "do", "type": "transform", "with": {"output": 1}}]}');
SELECT meshhook.publish_workflow('{"name": "short", "nodes": [{"id": "do", "type": "transform", "with": {"output": 2}}]}');
SELECT meshhook.publish_workflow('{"name": "open", "nodes": [{"id": "do", "type": "task", "with": {"queue": "retention"}}]}');

-- Closed leaves of last year, made as maintenance would have.
DO $$
DECLARE
    parent text;
    place record;
    bounds timestamptz[] := ARRAY[now() - interval '100 days', now() - interval '60 days', now() - interval '50 days'];
BEGIN
    FOREACH parent IN ARRAY ARRAY['run', 'run_event', 'snapshot'] LOOP
        SELECT i.inhrelid::regclass AS leaf, substring(pg_get_expr(c.relpartbound, c.oid) FROM ' TO (.*)$') AS upper INTO place
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = ('meshhook.' || parent)::regclass AND pg_get_expr(c.relpartbound, c.oid) LIKE '%FROM (MINVALUE)%';
        EXECUTE format('ALTER TABLE meshhook.%I DETACH PARTITION %s', parent, place.leaf);
        EXECUTE format('ALTER TABLE %s RENAME TO %I', place.leaf, parent || '_young');
        EXECUTE format('ALTER TABLE meshhook.%I ATTACH PARTITION meshhook.%I FOR VALUES FROM (%L) TO %s', parent, parent || '_young',
            meshhook.uuid_floor(bounds[3]), place.upper);
        EXECUTE format('ALTER TABLE meshhook.%I OWNER TO meshhook_owner', parent || '_young');
    END LOOP;
    PERFORM meshhook.add_leaf(NULL, meshhook.uuid_floor(bounds[1]));
    PERFORM meshhook.add_leaf(meshhook.uuid_floor(bounds[1]), meshhook.uuid_floor(bounds[2]));
    PERFORM meshhook.add_leaf(meshhook.uuid_floor(bounds[2]), meshhook.uuid_floor(bounds[3]));
    FOR place IN SELECT c.oid::regclass AS leaf FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind = 'r' AND i.inhparent IN
                     ('meshhook.run'::regclass, 'meshhook.run_event'::regclass, 'meshhook.snapshot'::regclass) LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO meshhook_owner', place.leaf);
    END LOOP;
END
$$;
CREATE TEMP TABLE mine AS
SELECT w AS workflow, d AS days, meshhook.start_run(w, to_jsonb(d), w || d || n, tags => ARRAY['retention']) AS run_id
FROM (VALUES ('kept', 200), ('short', 200), ('kept', 70), ('kept', 80), ('short', 70), ('open', 70), ('short', 55)) x (w, d),
     generate_series(1, 3) n WHERE w <> 'open' OR n = 1;
SELECT pg_temp.settle();
UPDATE mine SET run_id = pg_temp.age(run_id, days);
SELECT runs, expired, action FROM leaves WHERE leaf <> 'run_young' ORDER BY leaf <> 'run_0', leaf;

SELECT meshhook.set_retention('1 minute');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.set_retention('1 day', 'nothing');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.set_retention('1000 years'), meshhook.set_retention('2 days', 'short'), meshhook.set_retention('75 days', 'kept');
SELECT runs, expired, action FROM leaves WHERE leaf <> 'run_young' ORDER BY leaf <> 'run_0', leaf;

SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target FROM meshhook.maintain();
-- Who is left, whole.
SELECT m.workflow, m.days, count(r.run_id) AS runs, count(k.run_id) AS keys, count(t.run_id) AS tags
FROM mine m LEFT JOIN meshhook.run r USING (run_id) LEFT JOIN meshhook.run_key k USING (run_id)
     LEFT JOIN meshhook.run_tag t USING (run_id) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) AS orphans FROM meshhook.run_event e WHERE NOT EXISTS (SELECT FROM meshhook.run r WHERE r.run_id = e.run_id);
SELECT count(*) AS differences FROM mine m JOIN meshhook.run r USING (run_id), meshhook.verify_run(r.run_id);
-- An unfinished one goes on where it was.
SELECT meshhook.complete_job(job_id, token, '1') FROM meshhook.claim_jobs('retention', 'psql', 1);
SELECT pg_temp.settle();
SELECT status FROM meshhook.runs WHERE workflow = 'open';
SELECT action, regexp_replace(target, '_\d{14}', '_…') AS target, details FROM meshhook.audit_log WHERE action LIKE 'retention.%' ORDER BY audit_id;
DROP VIEW leaves;
