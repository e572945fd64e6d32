-- Copying a Message DB store into a project, while it is in use; only the last step keeps its writers waiting.
-- docs/message-db.md tells how to go about it.

CREATE FUNCTION meshhook.import_begin(source name, target text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    chosen integer := (SELECT p.project_id FROM meshhook.project p WHERE p.slug = target);
    known record;
    wrong text;
BEGIN
    IF chosen IS NULL THEN
        RAISE EXCEPTION 'project "%" does not exist', target USING ERRCODE = 'undefined_object',
            HINT = 'SELECT meshhook.create_project(slug) makes it.';
    END IF;
    SELECT string_agg(format('%s %s', wanted.name, wanted.type), ', ') INTO wrong
    FROM (VALUES ('global_position', 'bigint'), ('position', 'bigint'), ('time', 'timestamp without time zone'),
                 ('stream_name', 'text'), ('type', 'text'), ('data', 'jsonb'), ('metadata', 'jsonb'), ('id', 'uuid'))
         AS wanted (name, type)
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute a
        WHERE a.attrelid = to_regclass(format('%I.messages', source)) AND a.attname = wanted.name
          AND format_type(a.atttypid, NULL) = wanted.type AND NOT a.attisdropped);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'schema % holds no Message DB store', quote_ident(source) USING ERRCODE = 'undefined_table',
            DETAIL = format('Missing in %I.messages: %s.', source, wrong);
    END IF;
    SELECT * INTO known FROM meshhook.message_import i WHERE i.project_id = chosen;
    IF known.finished_at IS NOT NULL THEN
        RAISE EXCEPTION 'project "%" has been imported already', target USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = format('From schema %s, finished at %s.', known.source_schema, known.finished_at);
    ELSIF known.project_id IS NOT NULL AND known.source_schema <> source THEN
        RAISE EXCEPTION 'project "%" is being imported from another schema', target
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('From %s.', known.source_schema);
    ELSIF known.project_id IS NOT NULL THEN
        RETURN chosen;
    END IF;
    IF EXISTS (SELECT FROM meshhook.message m WHERE m.project_id = chosen)
       OR EXISTS (SELECT FROM meshhook.run r WHERE r.project_id = chosen) THEN
        RAISE EXCEPTION 'project "%" has messages or runs', target USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'Imported messages keep their positions, which may be taken.',
            HINT = 'Import into a new project: SELECT meshhook.create_project(slug).';
    END IF;
    INSERT INTO meshhook.message_import (project_id, source_schema) VALUES (chosen, source);
    RETURN chosen;
END
$$;

-- The source's last position, once everything at or below it is decided: its writers have ended or begin after this.
CREATE FUNCTION meshhook.import_barrier(source name) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last bigint;
BEGIN
    EXECUTE format('LOCK TABLE %I.messages IN SHARE MODE', source);
    EXECUTE format('SELECT max(global_position) FROM %I.messages', source) INTO last;
    RETURN coalesce(last, 0);
END
$$;

-- Copies the next messages up to a position; returns how many.
CREATE FUNCTION meshhook.import_batch(target integer, source name, to_position bigint, batch_size integer)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state record;
    last bigint;
    amount bigint;
    fault text;
BEGIN
    SELECT * INTO STRICT state FROM meshhook.message_import i WHERE i.project_id = target FOR UPDATE;
    IF EXISTS (SELECT FROM meshhook.message m
               WHERE m.project_id = target AND m.global_position > state.copied_position) THEN
        RAISE EXCEPTION 'somebody else appends to the project that is being imported into'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Keep writers away until the import is finished.';
    END IF;
    EXECUTE format($sql$
        SELECT max(b.global_position), count(*),
               max(b.stream_name) FILTER (WHERE starts_with(b.stream_name, 'meshhook:') OR octet_length(b.stream_name) > 2600)
        FROM (SELECT global_position, stream_name FROM %I.messages
              WHERE global_position > $1 AND global_position <= $2 ORDER BY global_position LIMIT $3) b$sql$, source)
    INTO last, amount, fault USING state.copied_position, to_position, batch_size;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'stream "%" cannot be imported', left(fault, 200) USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'Categories that begin with "meshhook:" are meshhook''s own; names have at most 2600 bytes.';
    ELSIF last > 4611686018427387904 THEN
        RAISE EXCEPTION 'global position % cannot be imported', last USING ERRCODE = 'numeric_value_out_of_range',
            DETAIL = 'All projects go on from the highest position; the limit is 4611686018427387904.';
    ELSIF amount = 0 THEN
        RETURN 0;
    END IF;
    EXECUTE format($sql$
        INSERT INTO meshhook.stream (project_id, name)
        SELECT $3, b.stream_name FROM (
            SELECT DISTINCT stream_name FROM %I.messages WHERE global_position > $1 AND global_position <= $2) b
        ON CONFLICT DO NOTHING$sql$, source)
    USING state.copied_position, last, target;
    EXECUTE format($sql$
        INSERT INTO meshhook.message (global_position, stream_id, "position", category_hash, correlation_hash, "time",
                                      project_id, id, type, data, metadata)
        SELECT b.global_position, s.stream_id, b."position", meshhook.hash_64(meshhook.stream_category(b.stream_name)),
               meshhook.hash_64(meshhook.stream_category(b.metadata ->> 'correlationStreamName')),
               b."time" AT TIME ZONE 'UTC', $3, b.id, b.type, b.data, b.metadata
        FROM %I.messages b JOIN meshhook.stream s ON s.project_id = $3 AND s.name = b.stream_name COLLATE "C"
        WHERE b.global_position > $1 AND b.global_position <= $2
        ORDER BY b.global_position$sql$, source)
    USING state.copied_position, last, target;
    UPDATE meshhook.message_import SET copied_position = last, copied = copied + amount WHERE project_id = target;
    RETURN amount;
END
$$;

-- The last step, in one transaction: keeps the source's writers out, copies what is left, counts, and takes its place.
CREATE FUNCTION meshhook.import_finish(target integer, source name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last bigint;
    there bigint;
    here bigint;
    aside name;
    slug text := (SELECT p.slug FROM meshhook.project p WHERE p.project_id = target);
BEGIN
    EXECUTE format('LOCK TABLE %I.messages IN EXCLUSIVE MODE', source);
    last := meshhook.import_barrier(source);
    WHILE meshhook.import_batch(target, source, last, 100000) > 0 LOOP
    END LOOP;
    EXECUTE format('SELECT count(*) FROM %I.messages', source) INTO there;
    SELECT count(*) INTO here FROM meshhook.message m WHERE m.project_id = target;
    IF here <> there THEN
        RAISE EXCEPTION 'the copy has % messages and the original %', here, there USING ERRCODE = 'data_exception',
            HINT = 'Were messages deleted or inserted behind the import''s back? Begin again in a new project.';
    END IF;
    -- Nobody draws while this transaction lasts: the sequence only ever goes up.
    IF last > (SELECT s.last_value FROM meshhook.global_position_seq s) THEN
        EXECUTE format('ALTER SEQUENCE meshhook.global_position_seq RESTART WITH %s', last + 1);
        -- A sequence that was never called says that no position was ever given.
        PERFORM setval('meshhook.global_position_seq', last);
    END IF;
    IF source = 'message_store' THEN
        aside := 'message_store_original';
        IF to_regnamespace(quote_ident(aside)) IS NOT NULL THEN
            RAISE EXCEPTION 'schema % exists, the original cannot be moved there', aside USING ERRCODE = 'duplicate_schema',
                HINT = 'Rename or drop it and call again: the import goes on where it was.';
        END IF;
        EXECUTE format('ALTER SCHEMA message_store RENAME TO %I', aside);
        PERFORM meshhook.install_message_store(slug);
    END IF;
    UPDATE meshhook.message_import SET finished_at = clock_timestamp(), moved_to = aside WHERE project_id = target;
    INSERT INTO meshhook.audit_log (project_id, actor, action, target, details)
    VALUES (target, current_user, 'message_store.imported', source,
            jsonb_build_object('messages', here, 'last_position', last, 'moved_to', aside));
END
$$;

-- Ends transactions, so it has no SET clause and names everything in full.
CREATE PROCEDURE meshhook.import_message_store(
    schema name DEFAULT 'message_store', project text DEFAULT 'default', batch_size integer DEFAULT 10000)
LANGUAGE plpgsql AS $$
DECLARE
    target integer;
    barrier bigint;
    total bigint;
    copied bigint;
    amount bigint;
    started timestamptz;
    done bigint := 0;
    seconds double precision;
BEGIN
    IF batch_size IS NULL OR batch_size OPERATOR(pg_catalog.<) 1 OR batch_size OPERATOR(pg_catalog.>) 1000000 THEN
        RAISE EXCEPTION 'batch_size must be from 1 to 1000000' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    target := meshhook.import_begin(schema, project);
    COMMIT;
    barrier := meshhook.import_barrier(schema);
    COMMIT;
    EXECUTE pg_catalog.format('SELECT pg_catalog.count(*) FROM %I.messages', schema) INTO total;
    SELECT i.copied INTO copied FROM meshhook.message_import i WHERE i.project_id OPERATOR(pg_catalog.=) target;
    started := pg_catalog.clock_timestamp();
    RAISE NOTICE 'importing % messages from schema % into project %', total OPERATOR(pg_catalog.-) copied, schema, project;
    LOOP
        amount := meshhook.import_batch(target, schema, barrier, batch_size);
        COMMIT;
        EXIT WHEN amount OPERATOR(pg_catalog.=) 0;
        done := done OPERATOR(pg_catalog.+) amount;
        copied := copied OPERATOR(pg_catalog.+) amount;
        seconds := greatest(0.001, EXTRACT(epoch FROM
            pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) started)::double precision);
        RAISE NOTICE '% of % messages, % messages/s, % remaining', copied, total,
            pg_catalog.round((done::double precision OPERATOR(pg_catalog./) seconds)::numeric),
            pg_catalog.make_interval(secs => pg_catalog.round((greatest(0, total OPERATOR(pg_catalog.-) copied)::double precision
                OPERATOR(pg_catalog.*) seconds OPERATOR(pg_catalog./) done::double precision)::numeric)::double precision);
    END LOOP;
    PERFORM meshhook.import_finish(target, schema);
    COMMIT;
    SELECT i.copied INTO copied FROM meshhook.message_import i WHERE i.project_id OPERATOR(pg_catalog.=) target;
    RAISE NOTICE 'imported: % messages are in project %', copied, project;
END
$$;
