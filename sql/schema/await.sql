-- Waiting holds no snapshot: the procedure ends its transaction before each wait. Both are exempt from a
-- pinned search_path, which would forbid that, and therefore qualify every name and operator.
CREATE PROCEDURE meshhook.wait_turn(run uuid, ms integer, moves boolean)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_wait_turn';

CREATE PROCEDURE meshhook.await_run(
    run uuid, timeout interval DEFAULT '30 s', INOUT status text DEFAULT NULL, INOUT output jsonb DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    deadline CONSTANT timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) timeout;
    left_ms integer := 0;
BEGIN
    IF timeout IS NULL THEN
        RAISE EXCEPTION 'timeout must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    LOOP
        CALL meshhook.wait_turn(run, left_ms, false);
        SELECT r.status, r.output INTO status, output FROM meshhook.runs r
        WHERE r.run_id OPERATOR(pg_catalog.=) run;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'run "%" does not exist', run USING ERRCODE = 'no_data_found',
                HINT = 'SET meshhook.project chooses the project; SELECT * FROM meshhook.runs lists its runs.';
        END IF;
        EXIT WHEN status OPERATOR(pg_catalog.=) ANY (ARRAY['succeeded', 'failed', 'canceled']);
        left_ms := least(2000000000, pg_catalog.ceil(EXTRACT(epoch FROM
            deadline OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000));
        EXIT WHEN left_ms OPERATOR(pg_catalog.<=) 0;
    END LOOP;
END
$$;

-- Prints what run_log shows as it comes. The status is read before the log: a run that had ended by then is shown whole.
CREATE PROCEDURE meshhook.wait_for_run(
    run uuid, timeout interval DEFAULT '30 s', after_position bigint DEFAULT 0,
    INOUT status text DEFAULT NULL, INOUT last_position bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    deadline CONSTANT timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) timeout;
    left_ms integer := 0;
    page CONSTANT integer := 1000;
    lines integer;
    line record;
BEGIN
    IF timeout IS NULL OR after_position IS NULL THEN
        RAISE EXCEPTION 'timeout and after_position must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    last_position := after_position;
    LOOP
        CALL meshhook.wait_turn(run, left_ms, true);
        SELECT r.status INTO status FROM meshhook.runs r WHERE r.run_id OPERATOR(pg_catalog.=) run;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'run "%" does not exist', run USING ERRCODE = 'no_data_found',
                HINT = 'SET meshhook.project chooses the project; SELECT * FROM meshhook.runs lists its runs.';
        END IF;
        LOOP
            lines := 0;
            FOR line IN SELECT * FROM meshhook.run_log(run, last_position, page) LOOP
                RAISE NOTICE '%', meshhook.run_log_text(
                    line."position", line."time", line.level, line.node, line.attempt, line.actor, line.message);
                last_position := line."position";
                lines := lines OPERATOR(pg_catalog.+) 1;
            END LOOP;
            EXIT WHEN lines OPERATOR(pg_catalog.<) page;
        END LOOP;
        EXIT WHEN status OPERATOR(pg_catalog.=) ANY (ARRAY['succeeded', 'failed', 'canceled']);
        left_ms := least(2000000000, pg_catalog.ceil(EXTRACT(epoch FROM
            deadline OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000));
        EXIT WHEN left_ms OPERATOR(pg_catalog.<=) 0;
    END LOOP;
END
$$;

CREATE FUNCTION meshhook.run_log_text(
    log_position bigint, logged_at timestamptz, level text, node text, attempt integer, actor text, message text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat_ws('  ', lpad(log_position::text, 5), to_char(logged_at, 'HH24:MI:SS.MS'), rpad(level, 7),
                     node || coalesce(' #' || attempt, ''), message || coalesce(' (' || actor || ')', ''))
$$;
