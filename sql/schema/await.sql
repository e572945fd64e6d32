-- Waiting holds no snapshot: the procedure ends its transaction before each wait. Both are exempt from a
-- pinned search_path, which would forbid that, and therefore qualify every name and operator.
CREATE PROCEDURE meshhook.wait_turn(run uuid, ms integer)
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
        CALL meshhook.wait_turn(run, left_ms);
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
