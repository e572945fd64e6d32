-- Acts on many runs. bulk_<action>(project, runs, arguments, reason, actor) does an act to some runs and returns to how
-- many; whatever function of that name exists is an action. bulk_signal is in src/run/bulk.rs.
--
-- The runs are those that bulk_filter left; each is looked at once more, for it may have ended since.
CREATE FUNCTION meshhook.bulk_cancel(project integer, runs uuid[], arguments jsonb, reason text, actor text) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT meshhook.bulk_no_arguments(arguments);
    WITH posted AS (
        INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
        SELECT project, r.run_id, 'run.cancel', jsonb_strip_nulls(jsonb_build_object('reason', reason)),
               jsonb_build_object('actor', actor)
        FROM unnest(runs) AS u (run_id)
        JOIN meshhook.run r ON r.project_id = project AND r.run_id = u.run_id
        WHERE r.finished_at IS NULL
        RETURNING 1)
    SELECT count(*) FROM posted
$$;

CREATE FUNCTION meshhook.bulk_retry(project integer, runs uuid[], arguments jsonb, reason text, actor text) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT meshhook.bulk_no_arguments(arguments);
    WITH posted AS (
        INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
        SELECT project, r.run_id, 'run.redrive', jsonb_strip_nulls(jsonb_build_object('reason', reason)),
               jsonb_build_object('actor', actor)
        FROM unnest(runs) AS u (run_id)
        JOIN meshhook.run r ON r.project_id = project AND r.run_id = u.run_id
        WHERE r.status IN ('failed', 'canceled')
        RETURNING 1)
    SELECT count(*) FROM posted
$$;

CREATE FUNCTION meshhook.bulk_no_arguments(arguments jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF arguments <> '{}' THEN
        RAISE EXCEPTION 'this action takes no arguments' USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('They are %s.', left(arguments::text, 200));
    END IF;
END
$$;

-- The function of an action; raises 22023 for one that does not exist.
CREATE FUNCTION meshhook.bulk_action(action text) RETURNS regproc
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    signature CONSTANT oidvector := '23 2951 3802 25 25';
    found regproc;
BEGIN
    SELECT p.oid INTO found FROM pg_proc p
    WHERE p.pronamespace = 'meshhook'::regnamespace AND p.proname = 'bulk_' || action AND p.proargtypes = signature;
    IF found IS NULL THEN
        RAISE EXCEPTION 'there is no bulk action "%"', action USING ERRCODE = 'invalid_parameter_value',
            HINT = format('Actions are %s.', (
                SELECT string_agg(format('"%s"', substr(p.proname, 6)), ', ' ORDER BY p.proname) FROM pg_proc p
                WHERE p.pronamespace = 'meshhook'::regnamespace AND starts_with(p.proname, 'bulk_')
                  AND p.proargtypes = signature));
    END IF;
    RETURN found;
END
$$;

-- The runs an action is about: those of the filter that it can do something to.
CREATE FUNCTION meshhook.bulk_filter(action text, filter jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT meshhook.run_filter(filter) || CASE action
        WHEN 'cancel' THEN ' AND r.finished_at IS NULL'
        WHEN 'signal' THEN ' AND r.finished_at IS NULL'
        WHEN 'retry' THEN ' AND r.finished_at IS NOT NULL AND r.status <> ''succeeded'''
        ELSE '' END
$$;

-- Counts, and unless it is a rehearsal notes the operation. For create_bulk_operation.
CREATE FUNCTION meshhook.bulk_create(
    project integer, actor text, action text, filter jsonb, reason text, arguments jsonb, dry_run boolean,
    OUT operation_id bigint, OUT matched bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bound uuid := meshhook.uuid_floor(clock_timestamp() + interval '1 ms');
BEGIN
    -- With no runs it only checks its arguments.
    EXECUTE format('SELECT %s($1, ''{}'', $2, $3, $4)', meshhook.bulk_action(action))
    USING project, arguments, reason, actor;
    -- A time is the caller's local time now, and an orchestrator's later.
    filter := filter || jsonb_strip_nulls(jsonb_build_object(
        'started_after', (filter ->> 'started_after')::timestamptz,
        'started_before', (filter ->> 'started_before')::timestamptz));
    EXECUTE format('SELECT count(*) FROM meshhook.run r WHERE r.project_id = $1 AND r.run_id < $2 AND %s',
        meshhook.bulk_filter(action, filter)) INTO matched USING project, bound;
    IF dry_run THEN
        RETURN;
    END IF;
    INSERT INTO meshhook.bulk_operation AS b (project_id, action, filter, arguments, reason, actor, matched, next_run)
    VALUES (project, action, filter, arguments, reason, actor, bulk_create.matched, bound)
    RETURNING b.operation_id INTO bulk_create.operation_id;
    INSERT INTO meshhook.audit_log (project_id, actor, action, target, details)
    VALUES (project, actor, 'bulk.' || bulk_create.action, bulk_create.operation_id::text,
            jsonb_build_object('filter', filter, 'arguments', arguments, 'reason', reason, 'matched', matched));
END
$$;

-- Does the next step of the operation that has come least far, if there is one: looks at `candidates` runs. A page that
-- fails is done again run by run, so that one that cannot be done keeps back no other.
CREATE FUNCTION meshhook.bulk_step(scope integer, candidates integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    operation record;
    page uuid[];
    last_candidate uuid;
    count_done bigint := 0;
    count_failed bigint := 0;
    one bigint;
    run uuid;
    call text;
BEGIN
    SELECT * INTO operation FROM meshhook.bulk_operation b
    WHERE b.status = 'running' AND (scope IS NULL OR b.project_id = scope)
    ORDER BY b.next_run DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    BEGIN
        call := format('SELECT %s($1, $2, $3, $4, $5)', meshhook.bulk_action(operation.action));
        EXECUTE format(
            'WITH candidate AS MATERIALIZED (
                 SELECT * FROM meshhook.run r WHERE r.project_id = $1 AND r.run_id < $2 ORDER BY r.run_id DESC LIMIT $3)
             SELECT (SELECT c.run_id FROM candidate c ORDER BY c.run_id LIMIT 1),
                    ARRAY(SELECT r.run_id FROM candidate r WHERE %s)',
            meshhook.bulk_filter(operation.action, operation.filter))
        INTO last_candidate, page USING operation.project_id, operation.next_run, candidates;
        BEGIN
            EXECUTE call INTO count_done
            USING operation.project_id, page, operation.arguments, operation.reason, operation.actor::text;
        EXCEPTION WHEN OTHERS THEN
            FOREACH run IN ARRAY page LOOP
                BEGIN
                    EXECUTE call INTO one
                    USING operation.project_id, ARRAY[run], operation.arguments, operation.reason, operation.actor::text;
                    count_done := count_done + one;
                EXCEPTION WHEN OTHERS THEN
                    count_failed := count_failed + 1;
                    INSERT INTO meshhook.bulk_failure (project_id, operation_id, run_id, sqlstate, message)
                    VALUES (operation.project_id, operation.operation_id, run, SQLSTATE, SQLERRM);
                END;
            END LOOP;
        END;
        UPDATE meshhook.bulk_operation b
        SET done = b.done + count_done, failed = b.failed + count_failed, next_run = coalesce(last_candidate, b.next_run),
            status = CASE WHEN last_candidate IS NULL THEN 'done' ELSE 'running' END,
            finished_at = CASE WHEN last_candidate IS NULL THEN clock_timestamp() END
        WHERE b.project_id = operation.project_id AND b.operation_id = operation.operation_id;
    EXCEPTION WHEN OTHERS THEN
        -- What fails here would fail each time and hold up whoever takes turns.
        UPDATE meshhook.bulk_operation b SET status = 'failed', error = SQLERRM, finished_at = clock_timestamp()
        WHERE b.project_id = operation.project_id AND b.operation_id = operation.operation_id;
    END;
    RETURN true;
END
$$;

CREATE VIEW meshhook.bulk_operations WITH (security_invoker = true) AS
SELECT b.operation_id, b.action, b.filter, b.arguments, b.reason, b.actor, b.status, b.matched, b.done, b.failed,
       ARRAY(SELECT jsonb_build_object('run_id', f.run_id, 'sqlstate', f.sqlstate, 'message', f.message)
             FROM meshhook.bulk_failure f
             WHERE f.project_id = b.project_id AND f.operation_id = b.operation_id ORDER BY f.run_id LIMIT 100) AS failures,
       b.error, b.created_at, b.finished_at
FROM meshhook.bulk_operation b;
COMMENT ON VIEW meshhook.bulk_operations IS 'Acts on many runs of your project: how many runs matched, on how many it is done or has failed, with the first hundred failures.';
