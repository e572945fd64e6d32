-- Adds a leaf of run, run_event and snapshot, from a run id on (null: from the beginning) and up to another (null:
-- open-ended). Keys, indexes and row security are made here, on the leaf. Called as the owner role.
CREATE FUNCTION meshhook.add_leaf(lower_bound uuid, upper_bound uuid DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    suffix text := coalesce(
        to_char(meshhook.uuid_time(lower_bound) AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISS'), '0');
    parent text;
    leaf text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['run', 'run_event', 'snapshot'] LOOP
        leaf := format('meshhook.%I', parent || '_' || suffix);
        EXECUTE format('CREATE TABLE %s PARTITION OF meshhook.%I FOR VALUES FROM (%s) TO (%s)', leaf, parent,
            coalesce(quote_literal(lower_bound), 'MINVALUE'), coalesce(quote_literal(upper_bound), 'MAXVALUE'));
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', leaf);
    END LOOP;
    EXECUTE format('ALTER TABLE meshhook.%I ADD PRIMARY KEY (project_id, run_id)', 'run_' || suffix);
    EXECUTE format('ALTER TABLE meshhook.%I SET (fillfactor = 70)', 'run_' || suffix);
    EXECUTE format('CREATE INDEX ON meshhook.%I (project_id, run_id) WHERE finished_at IS NULL', 'run_' || suffix);
    EXECUTE format('ALTER TABLE meshhook.%I ADD PRIMARY KEY (project_id, run_id, "position")', 'run_event_' || suffix);
    EXECUTE format('CREATE UNIQUE INDEX ON meshhook.%I (project_id, global_position)', 'run_event_' || suffix);
    EXECUTE format('ALTER TABLE meshhook.%I ADD PRIMARY KEY (project_id, run_id, "position")', 'snapshot_' || suffix);
    RETURN suffix;
END
$$;

-- The last, open-ended leaf of a parent with its lower bound (null: from the beginning).
CREATE FUNCTION meshhook.last_leaf(parent regclass, OUT leaf regclass, OUT lower_bound uuid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid::regclass, substring(bound FROM 'FROM \(''([0-9a-f-]{36})''\)')::uuid
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
         LATERAL pg_get_expr(c.relpartbound, c.oid) AS bound
    WHERE i.inhparent = parent AND bound LIKE '%TO (MAXVALUE)'
$$;

-- Makes the first leaf if there is none yet. The script makes none: leaves come out of a dump as
-- ordinary tables and must not be there already.
CREATE FUNCTION meshhook.ensure_leaves() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'meshhook.run'::regclass) THEN
        RETURN;
    END IF;
    LOCK TABLE meshhook.run IN SHARE UPDATE EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'meshhook.run'::regclass) THEN
        PERFORM meshhook.add_leaf(NULL);
    END IF;
END
$$;

-- The smallest UUIDv7 of a time, and the time of one. Milliseconds.
CREATE FUNCTION meshhook.uuid_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
$$;
CREATE FUNCTION meshhook.uuid_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
$$;

-- One step of closing the last leaf a day ahead and opening a new one behind it. Three steps, each a
-- transaction of its own, so that no run waits for the scan that proves the bound: constraint, proof, swap.
-- The constraint refuses runs beyond the bound, so one that was left lying for most of its day is dropped.
CREATE FUNCTION meshhook.rotate_leaves(leaf_days integer) RETURNS TABLE (action text, target text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    parent text;
    last record;
    bound uuid;
    proof record;
BEGIN
    SELECT * INTO last FROM meshhook.last_leaf('meshhook.run');
    IF last.leaf IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO proof FROM pg_constraint
    WHERE conrelid = last.leaf AND conname = 'meshhook_upper_bound';
    IF proof IS NULL THEN
        IF coalesce(meshhook.uuid_time(last.lower_bound), (SELECT min(activated_at) FROM meshhook.installation))
               > now() - make_interval(days => leaf_days)
           OR NOT EXISTS (SELECT FROM meshhook.run) THEN
            RETURN;
        END IF;
        bound := meshhook.uuid_floor(date_trunc('second', now()) + interval '1 day');
        FOREACH parent IN ARRAY ARRAY['run', 'run_event', 'snapshot'] LOOP
            SELECT * INTO last FROM meshhook.last_leaf(('meshhook.' || parent)::regclass);
            EXECUTE format('ALTER TABLE %s ADD CONSTRAINT meshhook_upper_bound CHECK (%srun_id < %L) NOT VALID', last.leaf,
                CASE WHEN last.lower_bound IS NULL THEN '' ELSE format('run_id >= %L AND ', last.lower_bound) END, bound);
        END LOOP;
        RETURN QUERY SELECT 'bound', last.leaf::text;
        RETURN;
    END IF;
    bound := substring(pg_get_constraintdef(proof.oid) FROM 'run_id < ''([0-9a-f-]{36})')::uuid;
    IF meshhook.uuid_time(bound) < now() + interval '4 hours' THEN
        FOREACH parent IN ARRAY ARRAY['run', 'run_event', 'snapshot'] LOOP
            SELECT * INTO last FROM meshhook.last_leaf(('meshhook.' || parent)::regclass);
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT meshhook_upper_bound', last.leaf);
        END LOOP;
        RETURN QUERY SELECT 'abandon', last.leaf::text;
    ELSIF EXISTS (SELECT FROM pg_constraint c JOIN pg_inherits i ON i.inhrelid = c.conrelid
                  WHERE c.conname = 'meshhook_upper_bound' AND NOT c.convalidated
                    AND i.inhparent IN ('meshhook.run'::regclass, 'meshhook.run_event'::regclass, 'meshhook.snapshot'::regclass)) THEN
        SELECT c.conrelid::regclass AS leaf INTO last
        FROM pg_constraint c JOIN pg_inherits i ON i.inhrelid = c.conrelid
        WHERE c.conname = 'meshhook_upper_bound' AND NOT c.convalidated
          AND i.inhparent IN ('meshhook.run'::regclass, 'meshhook.run_event'::regclass, 'meshhook.snapshot'::regclass)
        ORDER BY c.conrelid LIMIT 1;
        EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT meshhook_upper_bound', last.leaf);
        RETURN QUERY SELECT 'prove', last.leaf::text;
    ELSE
        FOREACH parent IN ARRAY ARRAY['run', 'run_event', 'snapshot'] LOOP
            SELECT * INTO last FROM meshhook.last_leaf(('meshhook.' || parent)::regclass);
            EXECUTE format('ALTER TABLE meshhook.%I DETACH PARTITION %s', parent, last.leaf);
            EXECUTE format('ALTER TABLE meshhook.%I ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%L)', parent,
                last.leaf, coalesce(quote_literal(last.lower_bound), 'MINVALUE'), bound);
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT meshhook_upper_bound', last.leaf);
        END LOOP;
        PERFORM meshhook.add_leaf(bound);
        RETURN QUERY SELECT 'open', format('meshhook.run from %s', meshhook.uuid_time(bound));
    END IF;
END
$$;
