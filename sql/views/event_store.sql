-- The event store by SELECT; security_invoker like all views.
CREATE VIEW meshhook.streams WITH (security_invoker = true) AS
SELECT s.name AS stream,
       meshhook.stream_category(s.name) AS category,
       first."position" AS first_position,
       last."position" AS version,
       last.global_position AS last_global_position,
       last."time" AS last_appended_at,
       s.created_at
FROM meshhook.stream s
LEFT JOIN LATERAL (
    SELECT m."position" FROM meshhook.message m
    WHERE m.project_id = s.project_id AND m.stream_id = s.stream_id ORDER BY m."position" LIMIT 1
) first ON true
LEFT JOIN LATERAL (
    SELECT m."position", m.global_position, m."time" FROM meshhook.message m
    WHERE m.project_id = s.project_id AND m.stream_id = s.stream_id ORDER BY m."position" DESC LIMIT 1
) last ON true;
COMMENT ON VIEW meshhook.streams IS 'The streams of your project: where each begins (after a purge not at 0) and its version, both null if it is empty. Name a stream in WHERE, or be patient.';

CREATE VIEW meshhook.position_holders WITH (security_invoker = true) AS
SELECT h.pid, h.safe_position, a.usename AS role, a.application_name, a.state,
       coalesce(h.open_since, a.xact_start) AS open_since,
       clock_timestamp() - coalesce(h.open_since, a.xact_start) AS open_for, a.wait_event, a.query
FROM meshhook.holders_of_positions(NULL) h
LEFT JOIN pg_stat_activity a ON a.pid = h.pid
ORDER BY h.safe_position, h.pid;
COMMENT ON VIEW meshhook.position_holders IS 'Open transactions that have appended to your project (or taken turns): readers of their categories stop at safe_position until they end. A long one is a transaction left open: end it, or pg_terminate_backend(pid).';

CREATE VIEW meshhook.consumer_lag WITH (security_invoker = true) AS
SELECT c.name AS consumer, c.category, member.member, c.group_size,
       coalesce(place."position", 0) AS "position",
       head.global_position AS head_position,
       behind.messages AS messages_behind,
       behind.oldest AS oldest_at,
       clock_timestamp() - behind.oldest AS behind_for,
       place.committed_at
FROM meshhook.consumer c
CROSS JOIN LATERAL generate_series(0, c.group_size - 1) AS member (member)
LEFT JOIN LATERAL (
    SELECT p."position", p.committed_at FROM meshhook.consumer_position p
    WHERE p.project_id = c.project_id AND p.consumer_id = c.consumer_id AND p.member = member.member
    ORDER BY p.revision DESC LIMIT 1
) place ON true
LEFT JOIN LATERAL (
    SELECT m.global_position FROM meshhook.message m
    WHERE m.project_id = c.project_id AND m.category_hash = meshhook.hash_64(c.category)
    ORDER BY m.global_position DESC LIMIT 1
) head ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS messages, min(waiting."time") AS oldest
    FROM (SELECT m."time" FROM meshhook.message m
          WHERE m.project_id = c.project_id AND m.category_hash = meshhook.hash_64(c.category)
            AND m.global_position > coalesce(place."position", 0)
          ORDER BY m.global_position LIMIT 10000) AS waiting
) behind ON true;
COMMENT ON VIEW meshhook.consumer_lag IS 'How far the members of your consumers are behind: messages of the category (of all members) that come after their position, counted up to 10000, and the age of the oldest.';
