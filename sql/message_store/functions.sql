-- What the functions of schema message_store call, each with its project. The rules are in
-- src/event_store/message_store.rs.
CREATE FUNCTION meshhook.message_store_stream(
    project integer, stream_name varchar, from_position bigint, batch_size bigint, condition varchar,
    part boolean DEFAULT false)
RETURNS TABLE (id varchar, stream varchar, type varchar, "position" bigint, global_position bigint, data varchar,
               metadata varchar, "time" timestamp)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_message_store_stream';

CREATE FUNCTION meshhook.message_store_category(
    project integer, category varchar, from_position bigint, batch_size bigint, correlation varchar,
    consumer_group_member bigint, consumer_group_size bigint, condition varchar, part boolean DEFAULT false)
RETURNS TABLE (id varchar, stream varchar, type varchar, "position" bigint, global_position bigint, data varchar,
               metadata varchar, "time" timestamp)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_message_store_category';

CREATE FUNCTION meshhook.message_store_last(project integer, stream_name varchar, message_type varchar)
RETURNS TABLE (id varchar, stream varchar, type varchar, "position" bigint, global_position bigint, data varchar,
               metadata varchar, "time" timestamp)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_message_store_last';

-- The query of a condition over some messages. Their columns have the types of Message DB's table, for that is what
-- conditions are written for; its parameters keep their numbers, the messages and the limit come behind them.
CREATE FUNCTION meshhook.message_store_condition(condition varchar, parameters integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format($query$
        SELECT id::varchar, stream_name::varchar, type::varchar, "position"::bigint, global_position::bigint,
               data::varchar, metadata::varchar, "time"::timestamp
        FROM (SELECT m.global_position, m."position", m."time", m.stream_name::text, m.type::text, m.data::jsonb,
                     m.metadata::jsonb, m.id::uuid
              FROM unnest($%2$s::message_store.message[]) m) AS messages
        WHERE true AND (%1$s) ORDER BY global_position LIMIT $%3$s$query$,
        condition, parameters + 1, parameters + 2)
$$;

-- Who may insert, update and delete is told where to.
CREATE FUNCTION meshhook.message_store_read_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'relation "messages" is read-only' USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'message_store.write_message() appends; SELECT meshhook.purge_stream() and delete_stream() remove.';
END
$$;
