-- What the functions of schema message_store call, each with its project. The rules are in
-- src/event_store/message_store.rs.
CREATE FUNCTION meshhook.message_store_stream(
    project integer, stream_name varchar, from_position bigint, batch_size bigint, condition varchar)
RETURNS TABLE (id varchar, stream varchar, type varchar, "position" bigint, global_position bigint, data varchar,
               metadata varchar, "time" timestamp)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_message_store_stream';

CREATE FUNCTION meshhook.message_store_category(
    project integer, category varchar, from_position bigint, batch_size bigint, correlation varchar,
    consumer_group_member bigint, consumer_group_size bigint, condition varchar)
RETURNS TABLE (id varchar, stream varchar, type varchar, "position" bigint, global_position bigint, data varchar,
               metadata varchar, "time" timestamp)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_message_store_category';

CREATE FUNCTION meshhook.message_store_last(project integer, stream_name varchar, message_type varchar)
RETURNS TABLE (id varchar, stream varchar, type varchar, "position" bigint, global_position bigint, data varchar,
               metadata varchar, "time" timestamp)
LANGUAGE c AS 'MODULE_PATHNAME', 'meshhook_message_store_last';
