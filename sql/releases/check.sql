-- Run after an update on what the release's load script made: everything that was there goes on, and replays.
DO $$
DECLARE
    job record;
    project record;
    waited integer := 0;
    wrong text;
BEGIN
    -- The lease that was given before the update is still worth its result.
    PERFORM meshhook.complete_job(job_id, token, payload) FROM claimed WHERE (payload ->> 'n')::integer >= 3;
    WHILE EXISTS (SELECT FROM meshhook.run WHERE finished_at IS NULL) LOOP
        waited := waited + 1;
        IF waited > 1000 THEN
            SELECT string_agg(r::text, E'\n') INTO wrong FROM meshhook.run r WHERE finished_at IS NULL;
            RAISE EXCEPTION 'runs do not end after the update' USING DETAIL = wrong;
        END IF;
        PERFORM meshhook.tick();
        FOR job IN SELECT * FROM meshhook.claim_jobs(queue => 'upgrade', batch_size => 10) LOOP
            PERFORM meshhook.complete_job(job.job_id, job.token, job.payload);
        END LOOP;
        -- Time goes on between transactions only.
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
    FOR project IN SELECT * FROM meshhook.project LOOP
        PERFORM set_config('meshhook.project', project.slug, false);
        SELECT string_agg(format('run %s, %s: %s', r.run_id, r.workflow, v), E'\n') INTO wrong
        FROM meshhook.run JOIN meshhook.runs r USING (run_id), LATERAL meshhook.verify_run(r.run_id) v
        WHERE run.project_id = project.project_id;
        IF wrong IS NOT NULL THEN
            RAISE EXCEPTION 'runs replay differently after the update' USING DETAIL = wrong;
        END IF;
    END LOOP;
    SELECT string_agg(r.run_id::text, ' ') INTO wrong FROM meshhook.run r WHERE r.status <> 'succeeded';
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'runs failed after the update' USING DETAIL = wrong;
    END IF;
END
$$;
