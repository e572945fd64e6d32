-- Reading messages. C functions that fill their result themselves; src/event_store/native.rs says why they have no SET
-- clause.
CREATE TYPE meshhook.stored_message AS (
    id uuid, stream text, type text, "position" bigint, global_position bigint, data jsonb, metadata jsonb,
    "time" timestamptz);
COMMENT ON TYPE meshhook.stored_message IS 'A message as it is read.';

CREATE FUNCTION meshhook.append_messages(
    streams text[], types text[], data jsonb[], metadata jsonb[] DEFAULT NULL, expected_versions bigint[] DEFAULT NULL,
    ids uuid[] DEFAULT NULL, idempotent boolean DEFAULT false)
RETURNS TABLE (stream text, "position" bigint, global_position bigint, id uuid)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_append_messages';

CREATE FUNCTION meshhook.read_stream(
    stream text, from_position bigint DEFAULT 0, batch_size integer DEFAULT 1000, types text[] DEFAULT NULL)
RETURNS SETOF meshhook.stored_message
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_read_stream';

CREATE FUNCTION meshhook.read_category(
    category text, from_position bigint DEFAULT 1, batch_size integer DEFAULT 1000, types text[] DEFAULT NULL,
    correlation text DEFAULT NULL, consumer_group_member integer DEFAULT NULL, consumer_group_size integer DEFAULT NULL)
RETURNS SETOF meshhook.stored_message
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_read_category';

CREATE FUNCTION meshhook.read_all(
    from_position bigint DEFAULT 1, batch_size integer DEFAULT 1000, types text[] DEFAULT NULL,
    include_runs boolean DEFAULT false)
RETURNS SETOF meshhook.stored_message
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_read_all';

CREATE FUNCTION meshhook.last_message(stream text, type text DEFAULT NULL)
RETURNS SETOF meshhook.stored_message
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_last_message';

CREATE FUNCTION meshhook.read_consumer(
    consumer text, category text, batch_size integer DEFAULT 1000, consumer_group_member integer DEFAULT 0,
    consumer_group_size integer DEFAULT NULL, types text[] DEFAULT NULL, correlation text DEFAULT NULL)
RETURNS TABLE (id uuid, stream text, type text, "position" bigint, global_position bigint, data jsonb, metadata jsonb,
               "time" timestamptz, token bigint)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_read_consumer';

-- The logs of runs as messages, under the snapshot of whoever asks. Their ids follow from run and position.
CREATE FUNCTION meshhook.messages_of_run(
    project integer, run uuid, from_position bigint, wanted text[], most bigint)
RETURNS SETOF meshhook.stored_message
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT md5(e.run_id::text || '/' || e."position")::uuid, 'meshhook:run-' || e.run_id, e.type, e."position",
           e.global_position, e.data, e.metadata, e.created_at
    FROM meshhook.run_event e
    WHERE e.project_id = project AND e.run_id = run AND e."position" >= from_position
      AND (wanted IS NULL OR e.type = ANY (wanted))
    ORDER BY e."position" LIMIT most
$$;

CREATE FUNCTION meshhook.last_message_of_run(project integer, run uuid, wanted text)
RETURNS SETOF meshhook.stored_message
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT md5(e.run_id::text || '/' || e."position")::uuid, 'meshhook:run-' || e.run_id, e.type, e."position",
           e.global_position, e.data, e.metadata, e.created_at
    FROM meshhook.run_event e
    WHERE e.project_id = project AND e.run_id = run AND (wanted IS NULL OR e.type = wanted)
    ORDER BY e."position" DESC LIMIT 1
$$;

CREATE FUNCTION meshhook.messages_of_runs(
    project integer, from_position bigint, to_position bigint, wanted text[], most bigint)
RETURNS SETOF meshhook.stored_message
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT md5(e.run_id::text || '/' || e."position")::uuid, 'meshhook:run-' || e.run_id, e.type, e."position",
           e.global_position, e.data, e.metadata, e.created_at
    FROM meshhook.run_event e
    WHERE e.project_id = project AND e.global_position BETWEEN from_position AND to_position
      AND (wanted IS NULL OR e.type = ANY (wanted))
    ORDER BY e.global_position LIMIT most
$$;
