-- Makes schema message_store: Message DB 1.3.0's functions, views, type and role over one project of this store. What
-- it makes belongs to whoever calls it and not to the extension, so that a dump has it; calling it again brings it up
-- to date.
CREATE FUNCTION meshhook.install_message_store(project text DEFAULT 'default') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $install$
DECLARE
    bound_project integer := (SELECT p.project_id FROM meshhook.project p WHERE p.slug = project);
    relation text;
BEGIN
    IF bound_project IS NULL THEN
        RAISE EXCEPTION 'project "%" does not exist', project USING ERRCODE = 'undefined_object',
            HINT = 'SELECT meshhook.create_project(slug) makes it.';
    END IF;
    IF to_regnamespace('message_store') IS NOT NULL
       AND coalesce(obj_description(to_regnamespace('message_store'), 'pg_namespace'), '') NOT LIKE 'meshhook:%' THEN
        RAISE EXCEPTION 'schema message_store is there already and is not meshhook''s' USING ERRCODE = 'duplicate_schema',
            HINT = 'If it is a Message DB, CALL meshhook.import_message_store() copies it and takes its place.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'message_store') THEN
        CREATE ROLE message_store LOGIN;
    END IF;
    IF bound_project <> 0 THEN
        PERFORM meshhook.add_member(project, 'message_store');
    END IF;
    IF to_regnamespace('message_store') IS NULL THEN
        CREATE SCHEMA message_store;
        CREATE TYPE message_store.message AS (
            id varchar, stream_name varchar, type varchar, "position" bigint, global_position bigint, data varchar,
            metadata varchar, "time" timestamp);
    END IF;
    EXECUTE format('COMMENT ON SCHEMA message_store IS %L', 'meshhook: Message DB''s interface to project ' || project);

    CREATE OR REPLACE FUNCTION message_store.hash_64(value varchar) RETURNS bigint
    LANGUAGE sql IMMUTABLE AS 'SELECT meshhook.hash_64(value)';
    CREATE OR REPLACE FUNCTION message_store.category(stream_name varchar) RETURNS varchar
    LANGUAGE sql IMMUTABLE AS 'SELECT meshhook.stream_category(stream_name)::varchar';
    CREATE OR REPLACE FUNCTION message_store.id(stream_name varchar) RETURNS varchar
    LANGUAGE sql IMMUTABLE AS 'SELECT meshhook.stream_id(stream_name)::varchar';
    CREATE OR REPLACE FUNCTION message_store.cardinal_id(stream_name varchar) RETURNS varchar
    LANGUAGE sql IMMUTABLE AS 'SELECT meshhook.stream_cardinal_id(stream_name)::varchar';
    CREATE OR REPLACE FUNCTION message_store.is_category(stream_name varchar) RETURNS boolean
    LANGUAGE sql IMMUTABLE AS 'SELECT coalesce(strpos(stream_name, ''-'') = 0, true)';
    CREATE OR REPLACE FUNCTION message_store.message_store_version() RETURNS varchar
    LANGUAGE sql AS 'SELECT ''1.3.0''::varchar';

    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION message_store.acquire_lock(stream_name varchar) RETURNS bigint
        LANGUAGE sql AS 'SELECT meshhook.message_store_lock(%1$s, stream_name)';

        CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint
        LANGUAGE sql AS 'SELECT meshhook.message_store_stream_version(%1$s, stream_name)';

        CREATE OR REPLACE FUNCTION message_store.write_message(
            id varchar, stream_name varchar, "type" varchar, data jsonb, metadata jsonb DEFAULT NULL,
            expected_version bigint DEFAULT NULL) RETURNS bigint
        LANGUAGE sql AS
            'SELECT meshhook.message_store_write(%1$s, id, stream_name, "type", data, metadata, expected_version)';

        CREATE OR REPLACE FUNCTION message_store.get_last_stream_message(
            stream_name varchar, type varchar DEFAULT NULL) RETURNS SETOF message_store.message
        LANGUAGE sql AS 'SELECT * FROM meshhook.message_store_last(%1$s, stream_name, type)';

        -- A condition is applied to the rows of each thousand, by its caller's rights, so that it can neither reach
        -- beyond them nor read the whole of a long stream before the first row is returned.
        CREATE OR REPLACE FUNCTION message_store.get_stream_messages(
            stream_name varchar, "position" bigint DEFAULT 0, batch_size bigint DEFAULT 1000,
            condition varchar DEFAULT NULL) RETURNS SETOF message_store.message
        LANGUAGE plpgsql AS $body$
        #variable_conflict use_column
        DECLARE
            chunk message_store.message[];
            first_position CONSTANT bigint := coalesce(get_stream_messages."position", 0);
            next_position bigint := first_position;
            size CONSTANT bigint := coalesce(get_stream_messages.batch_size, 1000);
            left_over bigint := nullif(size, -1);
            found_rows bigint;
        BEGIN
            RETURN QUERY SELECT * FROM meshhook.message_store_stream(
                %1$s, get_stream_messages.stream_name, next_position, size, get_stream_messages.condition);
            IF get_stream_messages.condition IS NULL THEN
                RETURN;
            END IF;
            LOOP
                SELECT array_agg((m.*)::message_store.message ORDER BY m."position") INTO chunk
                FROM meshhook.message_store_stream(
                    %1$s, get_stream_messages.stream_name, next_position, 1000, NULL, true) m;
                RETURN QUERY EXECUTE meshhook.message_store_condition(get_stream_messages.condition, 3)
                    USING get_stream_messages.stream_name, first_position, size, chunk, left_over;
                GET DIAGNOSTICS found_rows = ROW_COUNT;
                left_over := left_over - found_rows;
                EXIT WHEN chunk IS NULL OR coalesce(left_over <= 0, false);
                next_position := chunk[cardinality(chunk)]."position" + 1;
            END LOOP;
        END
        $body$;

        CREATE OR REPLACE FUNCTION message_store.get_category_messages(
            category varchar, "position" bigint DEFAULT 1, batch_size bigint DEFAULT 1000,
            correlation varchar DEFAULT NULL, consumer_group_member bigint DEFAULT NULL,
            consumer_group_size bigint DEFAULT NULL, condition varchar DEFAULT NULL)
        RETURNS SETOF message_store.message
        LANGUAGE plpgsql AS $body$
        #variable_conflict use_column
        DECLARE
            chunk message_store.message[];
            first_position CONSTANT bigint := coalesce(get_category_messages."position", 1);
            next_position bigint := first_position;
            size CONSTANT bigint := coalesce(get_category_messages.batch_size, 1000);
            left_over bigint := nullif(size, -1);
            found_rows bigint;
        BEGIN
            RETURN QUERY SELECT * FROM meshhook.message_store_category(
                %1$s, get_category_messages.category, next_position, size, get_category_messages.correlation,
                get_category_messages.consumer_group_member, get_category_messages.consumer_group_size,
                get_category_messages.condition);
            IF get_category_messages.condition IS NULL THEN
                RETURN;
            END IF;
            LOOP
                SELECT array_agg((m.*)::message_store.message ORDER BY m.global_position) INTO chunk
                FROM meshhook.message_store_category(
                    %1$s, get_category_messages.category, next_position, 1000, get_category_messages.correlation,
                    get_category_messages.consumer_group_member, get_category_messages.consumer_group_size, NULL,
                    true) m;
                RETURN QUERY EXECUTE meshhook.message_store_condition(get_category_messages.condition, 6)
                    USING get_category_messages.category, first_position, size, get_category_messages.correlation,
                          get_category_messages.consumer_group_member,
                          get_category_messages.consumer_group_size::smallint, chunk, left_over;
                GET DIAGNOSTICS found_rows = ROW_COUNT;
                left_over := left_over - found_rows;
                EXIT WHEN chunk IS NULL OR coalesce(left_over <= 0, false);
                next_position := chunk[cardinality(chunk)].global_position + 1;
            END LOOP;
        END
        $body$;

        CREATE OR REPLACE VIEW message_store.messages WITH (security_barrier = true) AS
        SELECT m.global_position, m."position", m."time" AT TIME ZONE 'UTC' AS "time",
               s.name COLLATE "default" AS stream_name, m.type, m.data, m.metadata, m.id
        FROM meshhook.message m JOIN meshhook.stream s ON s.project_id = m.project_id AND s.stream_id = m.stream_id
        WHERE m.project_id = %1$s;
    $sql$, bound_project);

    CREATE OR REPLACE TRIGGER read_only INSTEAD OF INSERT OR UPDATE OR DELETE ON message_store.messages
        FOR EACH ROW EXECUTE FUNCTION meshhook.message_store_read_only();

    FOREACH relation IN ARRAY ARRAY[
        'category_type_summary category,type', 'stream_summary stream_name', 'stream_type_summary stream_name,type',
        'type_category_summary type,category', 'type_stream_summary type,stream_name', 'type_summary type'] LOOP
        EXECUTE format($sql$
            CREATE OR REPLACE VIEW message_store.%1$I AS
            WITH counted AS (
                SELECT %2$s, count(*) AS message_count
                FROM (SELECT message_store.category(stream_name) AS category, stream_name, type
                      FROM message_store.messages) AS each
                GROUP BY %3$s)
            SELECT %3$s, message_count,
                   round((message_count / sum(message_count) OVER ())::decimal * 100, 2) AS percent
            FROM counted ORDER BY %3$s$sql$,
            split_part(relation, ' ', 1), split_part(relation, ' ', 2), split_part(relation, ' ', 2));
    END LOOP;

    -- Read as the owner of the tables, which is no superuser: the view chooses the project's rows.
    ALTER VIEW message_store.messages OWNER TO meshhook_owner;
    GRANT USAGE ON SCHEMA message_store TO message_store, meshhook_owner;
    GRANT USAGE ON SCHEMA meshhook TO message_store;
    GRANT SELECT ON ALL TABLES IN SCHEMA message_store TO message_store;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA message_store FROM PUBLIC;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store TO message_store;
    GRANT EXECUTE ON FUNCTION
        meshhook.hash_64(text), meshhook.stream_category(text), meshhook.stream_id(text),
        meshhook.stream_cardinal_id(text),
        meshhook.message_store_lock(integer, varchar),
        meshhook.message_store_stream_version(integer, varchar),
        meshhook.message_store_write(integer, varchar, varchar, varchar, jsonb, jsonb, bigint),
        meshhook.message_store_last(integer, varchar, varchar),
        meshhook.message_store_condition(varchar, integer), meshhook.message_store_read_only(),
        meshhook.message_store_stream(integer, varchar, bigint, bigint, varchar, boolean),
        meshhook.message_store_category(integer, varchar, bigint, bigint, varchar, bigint, bigint, varchar, boolean)
    TO message_store;
END
$install$;

-- Takes schema message_store away again; the messages stay in their project. An original that an import moved aside
-- gets its name back.
CREATE FUNCTION meshhook.uninstall_message_store() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    import record;
BEGIN
    IF to_regnamespace('message_store') IS NULL
       OR coalesce(obj_description(to_regnamespace('message_store'), 'pg_namespace'), '') NOT LIKE 'meshhook:%' THEN
        RAISE EXCEPTION 'schema message_store is not meshhook''s' USING ERRCODE = 'undefined_schema';
    END IF;
    DROP SCHEMA message_store CASCADE;
    FOR import IN
        SELECT i.moved_to, i.project_id, i.copied_position FROM meshhook.message_import i
        WHERE i.source_schema = 'message_store' AND to_regnamespace(quote_ident(i.moved_to)) IS NOT NULL
        ORDER BY i.finished_at DESC LIMIT 1
    LOOP
        EXECUTE format('ALTER SCHEMA %I RENAME TO message_store', import.moved_to);
        UPDATE meshhook.message_import SET moved_to = NULL WHERE project_id = import.project_id;
        RAISE NOTICE 'the original is message_store again; % messages appended since the import are in meshhook only',
            (SELECT count(*) FROM meshhook.message m
             WHERE m.project_id = import.project_id AND m.global_position > import.copied_position);
    END LOOP;
END
$$;
