-- Run last: what every function means (docs/sql-reference.md is generated from these texts), and who may call it.

COMMENT ON FUNCTION meshhook.validate_workflow(jsonb) IS
'Checks a workflow definition and returns every fault as a row: JSON pointer, stable code, message. No row: it can be published. Writes nothing.';
COMMENT ON FUNCTION meshhook.publish_workflow(jsonb) IS
'Publishes a definition under its name as the next version and returns the version''s number. A version never changes; runs stay on the one they started with. Publishing what is the newest version already returns that version. 22023 with all faults in DETAIL if the definition is not sound.';
COMMENT ON FUNCTION meshhook.start_run(text, jsonb, text, integer) IS
'Starts a run of a published workflow in the caller''s transaction: it exists if and only if that commits. input is at most 1 MiB. With an idempotency_key (1 to 255 bytes, per workflow) the first call starts the run and every later one returns it. version picks one other than the newest. P0002 if the workflow is not published, 54000 if the input is too large.';
COMMENT ON FUNCTION meshhook.cancel_run(uuid, text) IS
'Asks for the end of a run; the orchestrator''s next turn ends it and takes back its open jobs and timers. False if it has ended already. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.run_state(uuid) IS
'The state of a run, folded from its log: status, input, output, error, and each node with status, attempt, port, output, error and times. P0002 if the run does not exist.';
COMMENT ON FUNCTION meshhook.run_history(uuid, bigint, integer) IS
'The events of a run after a position, in order, at most batch_size (1 to 100000). docs/events.md is the catalogue. P0002 if the run does not exist.';
COMMENT ON FUNCTION meshhook.verify_run(uuid) IS
'Replays a run from its first event, deciding everything again, and compares with the log, the run''s row, its jobs and its timers. Returns the first difference (position, JSON pointer, expected, found); no row means identical. Writes nothing.';
COMMENT ON PROCEDURE meshhook.await_run(uuid, interval, text, jsonb) IS
'Waits until a run has ended, or for the time given, and returns its status and output. Holds no snapshot while it waits. Call it outside a transaction block; 55000 with a HINT otherwise. P0002 if the run does not exist.';
COMMENT ON PROCEDURE meshhook.wait_turn(uuid, integer) IS
'Ends the current transaction and sleeps without a snapshot until the run may have ended, at most ms milliseconds. For await_run.';

COMMENT ON FUNCTION meshhook.claim_jobs(text, text, integer, interval) IS
'Claims up to batch_size (1 to 1000) ready jobs of a queue, oldest first, each with a lease (1 ms to 1 day) and a fencing token. Report before the lease runs out, or renew it; afterwards the attempt counts as failed and its token is worthless. idempotency_key is the same for every attempt of a node: pass it on to whatever you call. executor is a name for people; default the role''s. Members of meshhook_executor claim from every project, others from theirs. Empty where the database is a dormant copy.';
COMMENT ON FUNCTION meshhook.heartbeat_jobs(text[], bigint[], interval) IS
'Renews leases, counted from now. A null lease_expires_at says that the lease was lost: stop the work, its result will not be taken. A task node''s timeout is never exceeded.';
COMMENT ON FUNCTION meshhook.complete_jobs(text[], bigint[], jsonb[]) IS
'Reports results: one job id, token and output (at most 1 MiB) each. outcome is "accepted", or "stale" where the lease was lost or the job is gone; stale results change nothing. All or nothing per call: it is part of your transaction.';
COMMENT ON FUNCTION meshhook.fail_jobs(text[], bigint[], jsonb[]) IS
'Reports failed attempts: one job id, token and error each. An error is a text or {"class","message","retryable","retry_after_ms","details"}; retryable false ends the retries. The node''s retry policy decides what follows. outcome as in complete_jobs.';
COMMENT ON FUNCTION meshhook.release_jobs(text[], bigint[]) IS
'Gives claimed jobs back unstarted: they are ready again at once and no attempt is spent. outcome as in complete_jobs.';
COMMENT ON FUNCTION meshhook.complete_job(text, bigint, jsonb) IS 'complete_jobs for one job; returns its outcome.';
COMMENT ON FUNCTION meshhook.fail_job(text, bigint, jsonb) IS 'fail_jobs for one job; returns its outcome.';

COMMENT ON FUNCTION meshhook.tick(integer) IS
'Takes one orchestrator turn in the caller''s session for up to batch_size (1 to 10000) runs and returns how many it moved; call it until it returns 0. For databases without an orchestrator, and for tests: it is part of your transaction. Members of meshhook_executor move the runs of every project, others those of theirs. Does nothing, with a WARNING, in a dormant copy.';
COMMENT ON FUNCTION meshhook.start_workers() IS
'Starts an orchestrator for this database and returns whether one serves it. Without shared_preload_libraries it polls every 200 ms and ends with the server. Takes effect at once, not at commit.';
COMMENT ON FUNCTION meshhook.stop_workers() IS
'Stops the orchestrator of this database until start_workers() or, where it is preloaded, the next start of the server. True if one was running and has ended. Takes effect at once.';
COMMENT ON FUNCTION meshhook.maintain() IS
'Does the next step of maintenance (closing the open leaf of runs and events once it is meshhook.leaf_days old, and opening the next) and says what it was. The orchestrator calls it by itself; without one, call it now and then until it returns no row.';
COMMENT ON FUNCTION meshhook.status() IS
'How meshhook is doing: one row for each check with whether it is well, its value, and what to do if it is not.';
COMMENT ON FUNCTION meshhook.version() IS 'The extension''s version.';
COMMENT ON FUNCTION meshhook.is_active() IS
'Whether this installation may act. False in a copy of another database (pg_dump, template, pg_upgrade) until activate().';
COMMENT ON FUNCTION meshhook.activate() IS
'Makes a dormant copy the one that acts: its unfinished runs continue and their calls are made. Do this only if the original no longer acts. False if it is active already.';
COMMENT ON FUNCTION meshhook.register_database() IS
'Tells the launcher that this database has meshhook. For the install script.';

COMMENT ON FUNCTION meshhook.create_project(text, text) IS
'Makes a project (tenant) and returns its uuid. slug has 1 to 63 lower-case letters, digits, "-" and "_" and is what SET meshhook.project takes. 23505 if it exists.';
COMMENT ON FUNCTION meshhook.add_member(text, regrole) IS
'Lets a role, and every role that belongs to it, work in a project.';
COMMENT ON FUNCTION meshhook.current_project_id() IS
'The project this session works in (SET meshhook.project), null if the role may not. Row policies ask it.';

COMMENT ON FUNCTION meshhook.create_endpoint(text, text, interval) IS
'Makes an address that starts a run of a workflow''s newest version for each delivery. preset says how senders sign: "standard" (Standard Webhooks) or "github". tolerance bounds the age of signed timestamps, 1 second to 1 day. Returns the endpoint''s id, its path at the sidecar and the secret, which is shown this once. Needs meshhook.kek_file (F0000 otherwise).';
COMMENT ON FUNCTION meshhook.rotate_endpoint_secret(text, interval) IS
'Gives an endpoint a new secret, shown this once. Older ones verify for the overlap given, so that senders can change over.';
COMMENT ON FUNCTION meshhook.receive_webhook(text, text, jsonb, text, bytea) IS
'Takes a delivery in: verifies the signature over the raw body, starts one run per delivery in this transaction, records the delivery. headers is an object with lower-case names. Answer with the status, headers and body it returns, after the commit: 202 with run_id, 200 for a repeat with the first run_id, 400, 401, 404, 405, 413, 415, or 503 where no key file is set. Never raises for a sender''s fault.';

COMMENT ON FUNCTION meshhook.uuid_floor(timestamptz) IS 'The smallest UUIDv7 of a time, in milliseconds: a bound of a leaf. For maintenance.';
COMMENT ON FUNCTION meshhook.uuid_time(uuid) IS 'The time in a UUIDv7, in milliseconds: when a run was started.';
COMMENT ON FUNCTION meshhook.add_leaf(uuid) IS 'Adds the next leaf of runs, events and snapshots. For maintenance.';
COMMENT ON FUNCTION meshhook.last_leaf(regclass) IS 'The open-ended leaf of a partitioned table. For maintenance.';
COMMENT ON FUNCTION meshhook.ensure_leaves() IS 'Makes the first leaf if there is none. For publish_workflow and activate.';
COMMENT ON FUNCTION meshhook.rotate_leaves(integer) IS 'One step of closing the open leaf and opening the next. For maintain.';
-- Who may do what. Nothing is PUBLIC's; users get the API through grant_api, executors their five functions.
DO $$
DECLARE
    relation record;
    routine record;
BEGIN
    FOR relation IN
        SELECT c.oid::regclass AS name, c.relkind,
               EXISTS (SELECT FROM pg_catalog.pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attname = 'project_id') AS per_project
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM PUBLIC', relation.name);
        IF relation.relkind IN ('r', 'p') THEN
            EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation.name);
            IF relation.per_project THEN
                EXECUTE pg_catalog.format(
                    'CREATE POLICY of_project ON %s FOR SELECT USING (project_id = (SELECT meshhook.current_project_id()))',
                    relation.name);
            END IF;
        END IF;
        IF relation.relkind = 'v' THEN
            EXECUTE pg_catalog.format('ALTER VIEW %s OWNER TO meshhook_owner', relation.name);
        END IF;
    END LOOP;
    FOR routine IN
        SELECT p.oid::regprocedure AS name FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'meshhook'::regnamespace
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine.name);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO meshhook_owner', routine.name);
    END LOOP;
END
$$;

-- Their plans are kept and may be made while the tables are empty: they must not read whole tables once
-- those are full. Every hot statement is a look-up by key, so these settings only forbid the wrong plans.
DO $$
DECLARE
    routine regprocedure;
    setting text;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'meshhook'::regnamespace AND p.proname = ANY (ARRAY[
            'cancel_run', 'claim_jobs', 'complete_jobs', 'fail_jobs', 'heartbeat_jobs', 'receive_webhook',
            'release_jobs', 'start_run', 'tick'])
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', routine);
        FOREACH setting IN ARRAY ARRAY['seqscan', 'bitmapscan', 'hashjoin', 'mergejoin'] LOOP
            EXECUTE pg_catalog.format('ALTER FUNCTION %s SET enable_%s = off', routine, setting);
        END LOOP;
    END LOOP;
END
$$;

-- One list says what the user API is; grant_api gives exactly it.
CREATE FUNCTION meshhook.api_routines() RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'meshhook'::regnamespace AND p.proname = ANY (ARRAY[
        'await_run', 'cancel_run', 'claim_jobs', 'complete_job', 'complete_jobs', 'create_endpoint',
        'current_project_id', 'fail_job', 'fail_jobs', 'heartbeat_jobs', 'is_active', 'publish_workflow',
        'release_jobs', 'rotate_endpoint_secret', 'run_history', 'run_state', 'start_run', 'status',
        'tick', 'uuid_time', 'validate_workflow', 'verify_run', 'version', 'wait_turn'])
$$;

CREATE FUNCTION meshhook.grant_api(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    routine regprocedure;
    readable text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA meshhook TO %s', role);
    FOR routine IN SELECT meshhook.api_routines() LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', routine, role);
    END LOOP;
    FOREACH readable IN ARRAY ARRAY['runs', 'run_steps', 'stuck_runs', 'run', 'run_event', 'inbox', 'job', 'timer',
        'workflow', 'workflow_version', 'delivery', 'audit_log'] LOOP
        EXECUTE format('GRANT SELECT ON meshhook.%I TO %s', readable, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION meshhook.grant_api(regrole) IS
    'Lets a role use meshhook: publish, start, read, cancel, claim. What it sees is still only its project. Needs the rights of whoever installed the extension.';
COMMENT ON FUNCTION meshhook.api_routines() IS 'The user API: the routines that grant_api grants.';
REVOKE ALL ON FUNCTION meshhook.grant_api(regrole), meshhook.api_routines() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION
    meshhook.claim_jobs(text, text, integer, interval),
    meshhook.heartbeat_jobs(text[], bigint[], interval),
    meshhook.complete_jobs(text[], bigint[], jsonb[]),
    meshhook.fail_jobs(text[], bigint[], jsonb[]),
    meshhook.complete_job(text, bigint, jsonb),
    meshhook.fail_job(text, bigint, jsonb),
    meshhook.release_jobs(text[], bigint[]),
    meshhook.receive_webhook(text, text, jsonb, text, bytea),
    meshhook.tick(integer),
    meshhook.status(),
    meshhook.is_active(),
    meshhook.version()
TO meshhook_executor;

SELECT meshhook.register_database();
