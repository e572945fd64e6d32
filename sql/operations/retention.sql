-- Forgetting old runs, leaf by leaf. Only closed leaves: a leaf in which nobody is left is dropped, one with few runs
-- left is made anew with these. `days` is meshhook.retention_days; negative keeps for ever.

-- The condition under which a run, as r, may be forgotten.
CREATE FUNCTION meshhook.expired_condition(days integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(
        'coalesce(r.finished_at + coalesce((
             SELECT t.keep FROM meshhook.workflow_version v
             JOIN meshhook.retention t ON t.project_id = v.project_id AND t.workflow_id IN (v.workflow_id, 0)
             WHERE v.project_id = r.project_id AND v.version_id = r.version_id
             ORDER BY t.workflow_id DESC LIMIT 1), %L::interval) <= now(), false)',
        CASE WHEN days >= 0 THEN make_interval(days => days) END)
$$;

-- Closed leaves of meshhook.run, oldest first.
CREATE FUNCTION meshhook.closed_leaves() RETURNS TABLE (suffix text, lower_bound uuid, upper_bound uuid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT substr(c.relname, 5), substring(bound FROM 'FROM \(''([0-9a-f-]{36})''\)')::uuid,
           substring(bound FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
         LATERAL pg_get_expr(c.relpartbound, c.oid) AS bound
    WHERE i.inhparent = 'meshhook.run'::regclass AND bound NOT LIKE '%TO (MAXVALUE)'
    ORDER BY 3
$$;

-- What retention would do to each closed leaf. For preview_retention.
CREATE FUNCTION meshhook.retention_plan(days integer, most_survivors bigint)
RETURNS TABLE (leaf text, runs_from timestamptz, runs_to timestamptz, runs bigint, expired bigint, action text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
-- A leaf is read as a whole: what an orchestrator forbids for its turns is right here.
SET enable_seqscan = on SET enable_hashjoin = on AS $$
DECLARE
    closed record;
BEGIN
    FOR closed IN SELECT * FROM meshhook.closed_leaves() LOOP
        leaf := 'run_' || closed.suffix;
        runs_from := meshhook.uuid_time(closed.lower_bound);
        runs_to := meshhook.uuid_time(closed.upper_bound);
        EXECUTE format('SELECT count(*), count(*) FILTER (WHERE %s) FROM meshhook.%I r',
            meshhook.expired_condition(days), leaf) INTO runs, expired;
        action := CASE WHEN runs_to > now() OR expired = 0 AND runs > 0 THEN 'keep'
                       WHEN expired = runs THEN 'drop'
                       WHEN runs - expired <= most_survivors AND expired > runs / 2 THEN 'rebuild'
                       ELSE 'keep' END;
        RETURN NEXT;
    END LOOP;
END
$$;

-- The next step of forgetting: keys, tags and used resume URLs first, some at a time, then the leaf in one transaction.
CREATE FUNCTION meshhook.apply_retention(days integer, most_survivors bigint)
RETURNS TABLE (step text, target text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
SET enable_seqscan = on SET enable_hashjoin = on AS $$
DECLARE
    shortest CONSTANT interval := (
        SELECT min(k) FROM (SELECT make_interval(days => days) WHERE days >= 0
                            UNION ALL SELECT r.keep FROM meshhook.retention r) x (k));
    closed record;
    plan record;
    named text;
    touched bigint;
    parent text;
BEGIN
    -- A rate that is paid for is as good as one that was never used.
    DELETE FROM meshhook.run_rate r
    USING (SELECT project_id, workflow_id, rate_key FROM meshhook.run_rate WHERE paid_at < now()
           FOR UPDATE SKIP LOCKED) paid
    WHERE r.project_id = paid.project_id AND r.workflow_id = paid.workflow_id AND r.rate_key = paid.rate_key;
    FOR closed IN
        SELECT c.* FROM meshhook.closed_leaves() c WHERE meshhook.uuid_time(c.upper_bound) <= now() - shortest
    LOOP
        SELECT * INTO plan FROM meshhook.retention_plan(days, most_survivors) p WHERE p.leaf = 'run_' || closed.suffix;
        CONTINUE WHEN plan.action = 'keep';
        FOREACH named IN ARRAY ARRAY['run_key', 'run_tag', 'resume_use', 'run_divergence'] LOOP
            EXECUTE format(
                'DELETE FROM meshhook.%1$I WHERE ctid = ANY (ARRAY(
                     SELECT k.ctid FROM meshhook.project p
                     JOIN meshhook.%1$I k ON k.project_id = p.project_id AND k.run_id < %2$L
                          AND (%3$L::uuid IS NULL OR k.run_id >= %3$L::uuid)
                     JOIN meshhook.%4$I r ON r.project_id = k.project_id AND r.run_id = k.run_id
                     WHERE %5$s LIMIT 200000))',
                named, closed.upper_bound, closed.lower_bound, plan.leaf, meshhook.expired_condition(days));
            GET DIAGNOSTICS touched = ROW_COUNT;
            IF touched > 0 THEN
                RETURN QUERY SELECT 'forget', format('%s rows of %s, %s', touched, named, plan.leaf);
                RETURN;
            END IF;
        END LOOP;
        FOREACH parent IN ARRAY ARRAY['run', 'run_event', 'snapshot'] LOOP
            EXECUTE format('ALTER TABLE meshhook.%I DETACH PARTITION meshhook.%I', parent, parent || '_' || closed.suffix);
            EXECUTE format('ALTER TABLE meshhook.%I RENAME TO %I', parent || '_' || closed.suffix, parent || '_expired');
        END LOOP;
        -- Counted again, now that nobody can move these runs.
        EXECUTE format('SELECT count(*) FROM meshhook.run_expired r WHERE NOT %s', meshhook.expired_condition(days))
        INTO touched;
        EXECUTE format(
            'INSERT INTO meshhook.audit_log (project_id, actor, action, target, details)
             SELECT r.project_id, current_user, ''retention.applied'', %L,
                    jsonb_build_object(''dropped'', count(*) FILTER (WHERE %2$s), ''kept'', count(*) FILTER (WHERE NOT %2$s))
             FROM meshhook.run_expired r GROUP BY r.project_id', plan.leaf, meshhook.expired_condition(days));
        -- Nobody can begin them again any more, and what they referred to may go.
        EXECUTE format(
            'DELETE FROM meshhook.blob_use u USING meshhook.run_expired r
             WHERE u.project_id = r.project_id AND u.run_id = r.run_id AND %s', meshhook.expired_condition(days));
        IF touched > 0 THEN
            PERFORM meshhook.add_leaf(closed.lower_bound, closed.upper_bound);
            EXECUTE format('INSERT INTO meshhook.run SELECT r.* FROM meshhook.run_expired r WHERE NOT %s',
                meshhook.expired_condition(days));
            FOREACH parent IN ARRAY ARRAY['run_event', 'snapshot'] LOOP
                EXECUTE format(
                    'INSERT INTO meshhook.%I SELECT e.* FROM meshhook.%I e
                     JOIN meshhook.run_expired r ON r.project_id = e.project_id AND r.run_id = e.run_id WHERE NOT %s',
                    parent, parent || '_expired', meshhook.expired_condition(days));
            END LOOP;
        END IF;
        DROP TABLE meshhook.run_expired, meshhook.run_event_expired, meshhook.snapshot_expired;
        RETURN QUERY SELECT CASE WHEN touched > 0 THEN 'rebuild' ELSE 'drop' END, 'meshhook.' || plan.leaf;
        RETURN;
    END LOOP;
END
$$;

-- Forgets the oldest deliveries, so many and so many bytes of them at a time, with the keys that nothing is recognised by
-- any more; then endpoints that were dropped and have none left. Numbers of deliveries go up with time, so each endpoint's
-- oldest come first in its key.
CREATE FUNCTION meshhook.forget_deliveries(days integer) RETURNS TABLE (step text, target text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most CONSTANT integer := 2000;
    rows_left integer := most;
    bytes_left bigint := 16 * 1024 * 1024;
    place record;
    oldest record;
    last bigint;
    touched bigint;
BEGIN
    IF days < 0 THEN
        RETURN;
    END IF;
    FOR place IN
        SELECT e.project_id, e.endpoint_id, e.dedupe_window, x.before
        FROM meshhook.endpoint e,
             LATERAL (SELECT now() - greatest(make_interval(days => days), e.dedupe_window) AS before) x
        WHERE (SELECT d.received_at FROM meshhook.delivery d
               WHERE d.project_id = e.project_id AND d.endpoint_id = e.endpoint_id
               ORDER BY d.delivery_id LIMIT 1) < x.before
    LOOP
        last := NULL;
        FOR oldest IN
            SELECT d.delivery_id, d.received_at, CASE WHEN d.body IS NULL THEN 0 ELSE d.body_bytes END AS bytes
            FROM meshhook.delivery d
            WHERE d.project_id = place.project_id AND d.endpoint_id = place.endpoint_id
            ORDER BY d.delivery_id LIMIT rows_left
        LOOP
            EXIT WHEN oldest.received_at >= place.before OR bytes_left <= 0;
            last := oldest.delivery_id;
            rows_left := rows_left - 1;
            bytes_left := bytes_left - oldest.bytes;
        END LOOP;
        WITH gone AS (
            DELETE FROM meshhook.delivery d
            WHERE d.project_id = place.project_id AND d.endpoint_id = place.endpoint_id AND d.delivery_id <= last
            RETURNING d.dedupe_key)
        DELETE FROM meshhook.delivery_key k USING (SELECT DISTINCT dedupe_key FROM gone WHERE dedupe_key IS NOT NULL) g
        WHERE k.project_id = place.project_id AND k.endpoint_id = place.endpoint_id AND k.dedupe_key = g.dedupe_key
          AND k.created_at < now() - place.dedupe_window;
        EXIT WHEN rows_left <= 0 OR bytes_left <= 0;
    END LOOP;
    IF rows_left < most THEN
        RETURN QUERY SELECT 'forget', format('%s deliveries', most - rows_left);
        RETURN;
    END IF;
    -- Whoever had found it before it was dropped has long recorded what it took in.
    DELETE FROM meshhook.endpoint e
    WHERE e.dropped_at < now() - interval '1 day' AND NOT EXISTS (
        SELECT FROM meshhook.delivery d WHERE d.project_id = e.project_id AND d.endpoint_id = e.endpoint_id);
    GET DIAGNOSTICS touched = ROW_COUNT;
    IF touched > 0 THEN
        RETURN QUERY SELECT 'forget', format('%s dropped endpoints', touched);
    END IF;
END
$$;
