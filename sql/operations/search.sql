-- The condition on meshhook.run r that a filter stands for. Values are quoted here and nowhere else.
CREATE FUNCTION meshhook.run_filter(filter jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] := ARRAY['error_class', 'input', 'run_ids', 'started_after', 'started_before', 'status', 'tags',
                                   'workflow'];
    key text;
    value jsonb;
    many text[];
    conditions text[] := ARRAY['true'];
BEGIN
    IF jsonb_typeof(filter) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'a filter must be an object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR key, value IN SELECT * FROM jsonb_each(filter) WHERE jsonb_each.value <> 'null' LOOP
        IF key <> ALL (known) THEN
            RAISE EXCEPTION 'a filter has no field "%"', key USING ERRCODE = 'invalid_parameter_value',
                HINT = format('Fields are %s.', array_to_string(known, ', '));
        END IF;
        IF key IN ('run_ids', 'status', 'tags') THEN
            IF jsonb_typeof(value) <> 'array' OR EXISTS (
                SELECT FROM jsonb_array_elements(value) e WHERE jsonb_typeof(e) <> 'string') THEN
                RAISE EXCEPTION '"%" of a filter must be an array of strings', key USING ERRCODE = 'invalid_parameter_value';
            END IF;
            many := ARRAY(SELECT jsonb_array_elements_text(value));
        ELSIF key <> 'input' AND jsonb_typeof(value) <> 'string' THEN
            RAISE EXCEPTION '"%" of a filter must be a string', key USING ERRCODE = 'invalid_parameter_value';
        END IF;
        conditions := conditions || CASE key
            WHEN 'workflow' THEN format(
                'r.version_id = ANY (ARRAY(SELECT v.version_id FROM meshhook.workflow w JOIN meshhook.workflow_version v '
                'ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id WHERE w.name = %L))', value #>> '{}')
            WHEN 'status' THEN format('r.status = ANY (%L::text[])', many)
            WHEN 'tags' THEN (
                SELECT coalesce(string_agg(format('EXISTS (SELECT FROM meshhook.run_tag t WHERE t.project_id = r.project_id '
                    'AND t.run_id = r.run_id AND t.tag = %L)', tag), ' AND '), 'true') FROM unnest(many) tag)
            WHEN 'run_ids' THEN format('r.run_id = ANY (%L::uuid[])', many::uuid[])
            WHEN 'started_after' THEN format('r.run_id >= %L', meshhook.uuid_floor((value #>> '{}')::timestamptz))
            WHEN 'started_before' THEN format('r.run_id < %L', meshhook.uuid_floor((value #>> '{}')::timestamptz))
            WHEN 'input' THEN format(
                '(EXISTS (SELECT FROM meshhook.run_event e WHERE e.project_id = r.project_id AND e.run_id = r.run_id '
                'AND e."position" = 1 AND e.data -> ''input'' @> %1$L::jsonb) '
                'OR r."position" = 0 AND (EXISTS (SELECT FROM meshhook.run_queue q WHERE q.project_id = r.project_id '
                'AND q.run_id = r.run_id AND q.data -> ''input'' @> %1$L::jsonb) '
                'OR EXISTS (SELECT FROM meshhook.inbox i WHERE i.project_id = r.project_id AND i.run_id = r.run_id '
                'AND i.kind = ''run.start'' AND i.data -> ''input'' @> %1$L::jsonb)))', value)
            ELSE format(
                '(r.status = ''failed'' AND EXISTS (SELECT FROM meshhook.run_event e WHERE e.project_id = r.project_id '
                'AND e.run_id = r.run_id AND e."position" = r."position" AND e.data -> ''error'' ->> ''class'' = %L))',
                value #>> '{}')
        END;
    END LOOP;
    RETURN array_to_string(conditions, ' AND ');
END
$$;

CREATE FUNCTION meshhook.search_runs(
    workflow text DEFAULT NULL, status text[] DEFAULT NULL, tags text[] DEFAULT NULL,
    started_after timestamptz DEFAULT NULL, started_before timestamptz DEFAULT NULL, input jsonb DEFAULT NULL,
    error_class text DEFAULT NULL, before_run uuid DEFAULT NULL, batch_size integer DEFAULT 50)
RETURNS TABLE (
    run_id uuid, workflow_name text, version integer, run_status text, run_tags text[], run_input jsonb, error jsonb,
    created_at timestamptz, started_at timestamptz, finished_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF batch_size IS NULL OR batch_size NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'batch_size must be from 1 to 1000' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT r.run_id, w.name, v.version, r.status,
                ARRAY(SELECT t.tag FROM meshhook.run_tag t
                      WHERE t.project_id = r.project_id AND t.run_id = r.run_id ORDER BY t.tag),
                coalesce(first.data -> ''input'', start.data -> ''input''), last.data -> ''error'',
                r.created_at, r.started_at, r.finished_at
         FROM (SELECT r.* FROM meshhook.run r
               WHERE r.project_id = (SELECT meshhook.current_project_id()) AND ($1 IS NULL OR r.run_id < $1) AND %s
               ORDER BY r.run_id DESC LIMIT $2) r
         JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
         JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id
         LEFT JOIN meshhook.run_event first ON first.project_id = r.project_id AND first.run_id = r.run_id
              AND first."position" = 1
         LEFT JOIN LATERAL (
              SELECT q.data FROM meshhook.run_queue q
              WHERE r."position" = 0 AND q.project_id = r.project_id AND q.run_id = r.run_id
              UNION ALL
              SELECT i.data FROM meshhook.inbox i
              WHERE r."position" = 0 AND i.project_id = r.project_id AND i.run_id = r.run_id AND i.kind = ''run.start''
         ) start ON true
         LEFT JOIN meshhook.run_event last ON r.finished_at IS NOT NULL AND last.project_id = r.project_id
              AND last.run_id = r.run_id AND last."position" = r."position"
         ORDER BY r.run_id DESC',
        meshhook.run_filter(jsonb_build_object(
            'workflow', search_runs.workflow, 'status', search_runs.status, 'tags', search_runs.tags,
            'started_after', search_runs.started_after, 'started_before', search_runs.started_before,
            'input', search_runs.input, 'error_class', search_runs.error_class)))
    USING before_run, batch_size;
END
$$;

-- Reads as the caller, so row policies hold.
CREATE FUNCTION meshhook.verify_runs(filter jsonb DEFAULT '{}', max_runs integer DEFAULT 1000)
RETURNS TABLE (run_id uuid, "position" bigint, path text, expected jsonb, found jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF max_runs IS NULL OR max_runs < 1 THEN
        RAISE EXCEPTION 'max_runs must be 1 or more' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT r.run_id, d."position", d.path, d.expected, d.found
         FROM (SELECT r.run_id FROM meshhook.run r
               WHERE r.project_id = (SELECT meshhook.current_project_id()) AND %s ORDER BY r.run_id DESC LIMIT $1) r
         CROSS JOIN LATERAL meshhook.verify_run(r.run_id) d',
        meshhook.run_filter(filter))
    USING max_runs;
END
$$;
