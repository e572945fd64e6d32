-- Partitions: made when needed, closed ahead of time, never missing.
SET client_min_messages = error;
CREATE VIEW leaves AS
SELECT parent, count(*) AS leaves, count(*) FILTER (WHERE bound LIKE '%TO (MAXVALUE)') AS open_ended,
       bool_and(c.relrowsecurity) AS row_security, min((SELECT count(*) FROM pg_index WHERE indrelid = c.oid)) AS indexes
FROM unnest(ARRAY['run', 'run_event', 'snapshot']) AS parent
LEFT JOIN pg_inherits i ON i.inhparent = ('meshhook.' || parent)::regclass
LEFT JOIN pg_class c ON c.oid = i.inhrelid
LEFT JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS bound ON true
GROUP BY parent ORDER BY parent;
SELECT meshhook.publish_workflow('{"name": "leaf", "nodes": [{"id": "out", "type": "transform", "with": {"output": 1}}]}');
SELECT meshhook.start_run('leaf') AS old \gset
SELECT meshhook.tick() > 0 AS turned;
SELECT * FROM leaves;

-- Nothing is to be done while the leaf is young; then one step at a time.
SELECT count(*) FROM meshhook.maintain();
UPDATE meshhook.installation SET activated_at = activated_at - interval '8 days';
SELECT action FROM meshhook.maintain();
SELECT meshhook.start_run('leaf') AS between_steps \gset
SELECT action FROM meshhook.maintain();
SELECT action FROM meshhook.maintain();
SELECT action FROM meshhook.maintain();
SELECT action FROM meshhook.maintain();
SELECT count(*) FROM meshhook.maintain();
SELECT * FROM leaves;

-- Today's runs still go where they went; those of the day after tomorrow into the new leaf.
SELECT meshhook.start_run('leaf') AS today \gset
SELECT meshhook.tick() > 0 AS turned;
SELECT count(DISTINCT tableoid) AS leaves, count(*) AS runs FROM meshhook.run WHERE run_id IN (:'old', :'between_steps', :'today');
SELECT count(*) AS differences FROM meshhook.runs r, meshhook.verify_run(r.run_id);
INSERT INTO meshhook.run (project_id, run_id, version_id, status, created_at)
SELECT 0, meshhook.uuid_floor(now() + interval '2 days'), version_id, 'queued', now() + interval '2 days'
FROM meshhook.run WHERE run_id = :'old';
SELECT count(DISTINCT tableoid) AS leaves FROM meshhook.run;
DELETE FROM meshhook.run WHERE run_id = meshhook.uuid_floor(created_at) AND status = 'queued';

-- A bound that nobody came to prove in time would soon refuse runs; it is given up instead.
DO $$
DECLARE parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['run', 'run_event', 'snapshot'] LOOP
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT meshhook_upper_bound CHECK (run_id < %L) NOT VALID',
            (SELECT leaf FROM meshhook.last_leaf(('meshhook.' || parent)::regclass)),
            meshhook.uuid_floor(now() + interval '3 hours'));
    END LOOP;
END
$$;
SELECT action FROM meshhook.maintain();
SELECT count(*) FROM pg_constraint WHERE conname = 'meshhook_upper_bound';
SELECT count(*) FROM meshhook.maintain();

SELECT meshhook.uuid_time('01890000-0000-7000-8000-000000000000') AT TIME ZONE 'UTC' AS time_in_the_id;
SELECT meshhook.uuid_floor(meshhook.uuid_time('01890000-0000-7abc-9def-000000000000')) AS smallest_of_that_time;
DROP VIEW leaves;
