CREATE VIEW meshhook.blobs WITH (security_invoker = true) AS
SELECT encode(b.sha256, 'hex') AS sha256, b.size, b.created_at,
       (SELECT count(DISTINCT u.run_id) FROM meshhook.blob_use u
        WHERE u.project_id = b.project_id AND u.sha256 = b.sha256) AS runs
FROM meshhook.blob b;
COMMENT ON VIEW meshhook.blobs IS 'Bodies of your project that were too large for a log: the SHA-256, the size in bytes, since when they are there, and how many runs refer to them. The same bytes may be there more than once where they came at the same moment.';
