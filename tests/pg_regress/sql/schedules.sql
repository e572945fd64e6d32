-- Schedules, seen from SQL. Nobody serves this database: turns are taken by tick().
SET client_min_messages = notice;
SET timezone = 'UTC';
SELECT meshhook.publish_workflow('{"name": "report", "nodes": [
    {"id": "out", "type": "transform", "with": {"output": {"of": "{{ .run.trigger.nominal_time }}", "for": "{{ .input.who }}"}}}]}');
SELECT meshhook.publish_workflow('{"name": "slow", "nodes": [{"id": "do", "type": "task", "with": {"queue": "slow"}}]}');

-- Turns until nothing is left to do now.
CREATE PROCEDURE turns() LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        EXIT WHEN meshhook.tick() = 0;
        COMMIT;
    END LOOP;
END $$;

-- What is to come, without a schedule: both changes of the clocks in Berlin.
SELECT * FROM meshhook.preview_schedule('30 2 * * *', time_zone => 'europe/berlin', count => 3, after => '2026-03-28 00:00Z');
SELECT * FROM meshhook.preview_schedule('30 2 * * *', time_zone => 'Europe/Berlin', count => 2, after => '2026-10-24 12:00Z');
SELECT * FROM meshhook.preview_schedule('*/30 * * * *', time_zone => 'Europe/Berlin', count => 4, after => '2026-10-25 00:00Z');
-- And in New York, and on Lord Howe Island, where half an hour is jumped over and repeated.
SELECT z.pattern, p.local_time
FROM (VALUES ('America/New_York', '30 2 * * *', timestamptz '2026-03-07 12:00Z'),
             ('America/New_York', '30 1 * * *', '2026-10-31 12:00Z'),
             ('Australia/Lord_Howe', '45 1 * * *', '2026-04-04 04:00Z'),
             ('Australia/Lord_Howe', '15 2 * * *', '2026-10-02 20:00Z')) AS z (zone, pattern, after)
CROSS JOIN LATERAL meshhook.preview_schedule(z.pattern, time_zone => z.zone, count => 2, after => z.after) p;
SELECT local_time FROM meshhook.preview_schedule(every => '36 hours', count => 2, after => '2026-01-01 00:00Z');
SELECT nominal_time FROM meshhook.preview_schedule(every => '1 day', count => 1, after => '2026-01-01 05:00Z', anchor => '2020-01-01 04:30Z');

-- What is refused, and how.
\set VERBOSITY default
SELECT meshhook.preview_schedule();
SELECT meshhook.preview_schedule('0 9 * * *', '1 hour');
SELECT meshhook.preview_schedule('0 25 * * *');
SELECT meshhook.preview_schedule('0 0 30 2 *');
SELECT meshhook.preview_schedule('@daily', time_zone => 'CET+1 or so');
SELECT meshhook.preview_schedule(every => '1 month');
SELECT meshhook.preview_schedule(every => '10 ms');
SELECT meshhook.preview_schedule('@daily', anchor => now());
SELECT meshhook.preview_schedule('@daily', count => 0);
SELECT meshhook.preview_schedule('@daily', after => 'infinity');
SELECT meshhook.create_schedule('nightly', 'nobody', '@daily');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_schedule('', 'report', '@daily');
SELECT meshhook.create_schedule('nightly', 'report', '@daily', overlap => 'maybe');
SELECT meshhook.create_schedule('nightly', 'report', '@daily', catch_up => '1 s');
SELECT meshhook.create_schedule('nightly', 'report', '@daily', jitter => '-1 s');
SELECT meshhook.create_schedule('nightly', 'report', '@daily', version => 7);
SELECT meshhook.create_schedule('nightly', 'report', '@daily', input => NULL);
SELECT meshhook.pause_schedule('nightly');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('report', idempotency_key => 'meshhook:schedule:1:x');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.schedule;

-- One schedule, made, made again, changed.
SET client_min_messages = error;
SELECT meshhook.create_schedule('nightly', 'report', '0 3 * * *', time_zone => 'america/new_york', input => '{"who": "Ada"}')
       = (SELECT nominal_time FROM meshhook.preview_schedule('0 3 * * *', time_zone => 'America/New_York', count => 1)) AS first;
SELECT meshhook.create_schedule('nightly', 'report', '0 3 * * *');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT name, workflow, version, cron, every, time_zone, input, overlap, catch_up, jitter, next_time = due_at AS sharp, last_run_id,
       waiting, missed, skipped, paused FROM meshhook.schedules;
SELECT meshhook.create_schedule('nightly', 'report', every => '1 hour', input => '{"who": "Ada"}', replace => true) > now() AS next;
SELECT next_time AS before FROM meshhook.schedules \gset
SELECT meshhook.create_schedule('nightly', 'report', every => '60 min', catch_up => '1 day', input => '{"who": "Bob"}', replace => true)
       = :'before' AS goes_on;
SELECT cron, every, time_zone, input, catch_up FROM meshhook.schedules;
SELECT min(p.nominal_time) = s.next_time AS as_foreseen, count(*) FROM meshhook.schedules s,
       meshhook.preview_schedule(s.cron, s.every, s.time_zone, count => 3, anchor => s.anchor) p GROUP BY s.next_time;
SELECT meshhook.create_schedule('spread', 'report', '@daily', jitter => '2 hours') > now() AS next;
SELECT due_at > next_time AND due_at < next_time + jitter AS put_off FROM meshhook.schedules WHERE name = 'spread';
SELECT meshhook.drop_schedule('spread');

-- A time that has come starts one run, which knows its time.
CREATE FUNCTION back(which text, by interval) RETURNS void LANGUAGE sql AS
    'UPDATE meshhook.schedule SET next_time = next_time - by, due_at = due_at - by, anchor = anchor - by WHERE name = which';
SELECT back('nightly', '1 hour');
CALL turns();
SELECT r.status, r.output ->> 'for' AS "for", (r.output ->> 'of')::timestamptz = s.last_time AS of_its_time,
       s.last_status, s.next_time - s.last_time AS step, r.idempotency_key LIKE 'meshhook:schedule:%' AS keyed
FROM meshhook.runs r JOIN meshhook.schedules s ON s.last_run_id = r.run_id;
SELECT data -> 'trigger' ->> 'type' AS type, data -> 'trigger' ->> 'schedule' AS schedule, data -> 'trigger' ->> 'origin' AS origin
FROM meshhook.run_event WHERE type = 'run.started' AND data ->> 'workflow' = 'report';

-- A day down: what was due in the last 90 minutes is made up for, the rest is counted.
SELECT meshhook.create_schedule('nightly', 'report', every => '1 hour', catch_up => '90 minutes', overlap => 'allow', replace => true) > now() AS next;
SELECT back('nightly', '24 hours');
CALL turns();
SELECT missed + (SELECT count(*) - 1 FROM meshhook.runs WHERE workflow = 'report') AS all_of_them, missed IN (22, 23) AS most, next_time > now() AS next FROM meshhook.schedules;
SELECT action, target, (details ->> 'missed')::bigint = (SELECT missed FROM meshhook.schedules) AS counted FROM meshhook.audit_log
WHERE action = 'schedule.missed';

-- Paused, nothing comes by itself; resumed, it goes on from now.
SELECT meshhook.pause_schedule('nightly', 'the printer is broken');
SELECT meshhook.pause_schedule('nightly');
SELECT paused, pause_reason, paused_by = current_user AS by_me, next_time FROM meshhook.schedules;
SELECT back('nightly', '2 hours');
SELECT count(*) AS before FROM meshhook.runs WHERE workflow = 'report' \gset
CALL turns();
SELECT meshhook.trigger_schedule('nightly') IS NOT NULL AS triggered;
CALL turns();
SELECT count(*) - :before AS more, count(*) FILTER (WHERE status <> 'succeeded') AS bad
FROM meshhook.runs WHERE workflow = 'report';
SELECT meshhook.resume_schedule('nightly') > now() AS next;
CALL turns();
SELECT count(*) - :before AS more FROM meshhook.runs WHERE workflow = 'report';

-- A backfill runs each time of its range once, however often it is asked for, in order.
SELECT meshhook.create_schedule('daily', 'report', '0 6 * * *', time_zone => 'Europe/Berlin') > now() AS next;
SELECT meshhook.backfill_schedule('daily', '2026-03-27 00:00Z', '2026-03-31 00:00Z');
SELECT waiting FROM meshhook.schedules WHERE name = 'daily';
SELECT meshhook.backfill_schedule('daily', '2026-03-27 00:00Z', '2026-04-01 00:00Z');
CALL turns();
SELECT output ->> 'of' AS of, status FROM meshhook.runs WHERE output ->> 'of' LIKE '2026-03%' ORDER BY run_id;
SELECT waiting, skipped, missed FROM meshhook.schedules WHERE name = 'daily';
SELECT meshhook.backfill_schedule('daily', '2026-03-27 00:00Z', '2026-04-01 00:00Z', overlap => 'allow');
SELECT meshhook.backfill_schedule('daily', '1900-01-01', '1990-01-01');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.backfill_schedule('daily', '2026-04-01', '2026-04-01');
SELECT meshhook.backfill_schedule('daily', now(), now() + interval '1 day');

-- While a run is open, the policy decides.
CREATE FUNCTION come(which text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT 'started' WHERE meshhook.trigger_schedule(which) IS NOT NULL), 'no run');
END $$;
SELECT p AS policy, meshhook.create_schedule(p, 'slow', '0 0 1 1 *', overlap => p) > now() AS next
FROM unnest(ARRAY['skip', 'queue_one', 'queue_all', 'cancel_other', 'allow']) AS p;
SELECT name, come(name), come(name), come(name) FROM meshhook.schedules WHERE workflow = 'slow' ORDER BY name;
SELECT name, open_runs, waiting, skipped FROM meshhook.schedules WHERE workflow = 'slow' ORDER BY name;
CALL turns();
SELECT s.name, r.status, count(*) FROM meshhook.runs r JOIN meshhook.run_key k USING (run_id)
JOIN meshhook.schedule s ON k.idempotency_key LIKE 'meshhook:schedule:' || s.schedule_id || ':%'
WHERE r.workflow = 'slow' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT name, waiting FROM meshhook.schedules WHERE workflow = 'slow' AND waiting > 0 ORDER BY name;
SET client_min_messages = notice;
SELECT meshhook.trigger_schedule('skip') IS NULL AS nothing;
SELECT meshhook.trigger_schedule('queue_all') IS NULL AS nothing;
SELECT meshhook.trigger_schedule('skip', overlap => 'allow') IS NOT NULL AS started;
SET client_min_messages = error;
-- When the open runs end, what waits comes, one after the other.
SELECT count(meshhook.complete_job(job_id, token, '1')) FROM meshhook.claim_jobs('slow', 'psql', 100);
CALL turns();
SELECT name, waiting FROM meshhook.schedules WHERE workflow = 'slow' ORDER BY name;

-- A schedule whose run cannot be started is paused; the others go on.
SELECT meshhook.publish_workflow('{"name": "gone", "nodes": [{"id": "out", "type": "transform", "with": {"output": 1}}]}');
SELECT meshhook.create_schedule('bad', 'gone', every => '1 minute') > now() AS next;
DELETE FROM meshhook.workflow_version USING meshhook.workflow w WHERE w.workflow_id = workflow_version.workflow_id AND w.name = 'gone';
SELECT back(name, '61 minutes') FROM meshhook.schedules WHERE name IN ('bad', 'nightly');
SELECT count(*) AS before FROM meshhook.runs WHERE workflow = 'report' \gset
CALL turns();
SELECT count(*) > :before AS others_go_on FROM meshhook.runs WHERE workflow = 'report';
SELECT paused, paused_by, pause_reason FROM meshhook.schedules WHERE name = 'bad';
SELECT action, details FROM meshhook.audit_log WHERE target = 'bad' ORDER BY audit_id;

-- Dropped, it is gone, with what waits.
SELECT meshhook.drop_schedule(name) FROM (SELECT name FROM meshhook.schedules ORDER BY name) s;
SELECT (SELECT count(*) FROM meshhook.schedule) AS schedules, (SELECT count(*) FROM meshhook.schedule_firing) AS firings;
SELECT meshhook.drop_schedule('daily');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.runs r CROSS JOIN LATERAL meshhook.verify_run(r.run_id) WHERE r.workflow IN ('report', 'slow');
