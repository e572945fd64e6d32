CREATE VIEW meshhook.secrets WITH (security_invoker = true) AS
SELECT s.name, split_part(s.sealed, ':', 2) AS key, s.changed_at FROM meshhook.secret s;
COMMENT ON VIEW meshhook.secrets IS 'The secrets that calls of your project send: their names, the key each is sealed under, and since when. Their values are nowhere in the database.';
