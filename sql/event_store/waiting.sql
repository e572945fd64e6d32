-- Exempt from a pinned search_path like await_run, and therefore with every name and operator in full.
CREATE PROCEDURE meshhook.wait_append(category text, ms integer)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_wait_append';

CREATE PROCEDURE meshhook.wait_for_messages(
    category text, after bigint, timeout interval DEFAULT '30 s', INOUT ready boolean DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    deadline CONSTANT timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) timeout;
    next_position CONSTANT bigint := coalesce(after, 0) OPERATOR(pg_catalog.+) 1;
    left_ms integer := 0;
BEGIN
    IF timeout IS NULL THEN
        RAISE EXCEPTION 'timeout must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    LOOP
        -- Registered before it looks: what commits in between is not missed.
        CALL meshhook.wait_append(category, left_ms);
        IF category IS NULL THEN
            ready := EXISTS (SELECT FROM meshhook.read_all(next_position, 1));
        ELSE
            ready := EXISTS (SELECT FROM meshhook.read_category(category, next_position, 1));
        END IF;
        EXIT WHEN ready;
        left_ms := least(2000000000, pg_catalog.ceil(EXTRACT(epoch FROM
            deadline OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000));
        EXIT WHEN left_ms OPERATOR(pg_catalog.<=) 0;
    END LOOP;
    CALL meshhook.wait_append(category, -1);
END
$$;
