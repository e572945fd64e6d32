-- The everyday forms of the batch calls, for an executor that does one thing at a time.
CREATE FUNCTION meshhook.complete_job(job_id text, token bigint, output jsonb DEFAULT 'null') RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT outcome FROM meshhook.complete_jobs(ARRAY[job_id], ARRAY[token], ARRAY[output])
$$;
CREATE FUNCTION meshhook.fail_job(job_id text, token bigint, error jsonb) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT outcome FROM meshhook.fail_jobs(ARRAY[job_id], ARRAY[token], ARRAY[error])
$$;
