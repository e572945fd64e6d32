-- Who may do what, tried by those who would like to.
SET client_min_messages = error;
CREATE ROLE regress_alice LOGIN;
CREATE ROLE regress_bob LOGIN;
CREATE ROLE regress_courier LOGIN IN ROLE meshhook_executor;
CREATE ROLE regress_nobody LOGIN;
SELECT meshhook.grant_api('regress_alice'), meshhook.grant_api('regress_bob');
SELECT meshhook.create_project('alices', 'Alice''s') IS NOT NULL AS made, meshhook.create_project('bobs') IS NOT NULL AS made;
SELECT meshhook.add_member('alices', 'regress_alice'), meshhook.add_member('bobs', 'regress_bob');
SELECT slug, name FROM meshhook.project ORDER BY project_id;
SELECT meshhook.create_project('alices');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_project('Not a slug');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.add_member('nobodys', 'regress_alice');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.add_member('default', 'regress_alice');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Alice, at home.
SET ROLE regress_alice;
SET meshhook.project = 'alices';
SELECT meshhook.publish_workflow('{"name": "secret-plan", "nodes": [
    {"id": "do", "type": "task", "with": {"queue": "alices-queue", "input": {"secret": "{{ .input }}"}}}]}');
SELECT meshhook.start_run('secret-plan', '"hers"') AS hers \gset
SELECT workflow, status, input FROM meshhook.runs;
SELECT count(*) FROM meshhook.workflow;
SELECT count(*) FROM meshhook.inbox;
RESET ROLE;
SELECT meshhook.tick() > 0 AS turned;

-- Bob, at home, and what he can find out.
\c - regress_bob
SET client_min_messages = error;
SET meshhook.project = 'bobs';
SELECT count(*) FROM meshhook.runs;
SELECT count(*) FROM meshhook.run_steps;
SELECT count(*) FROM meshhook.stuck_runs;
SELECT (SELECT count(*) FROM meshhook.run) + (SELECT count(*) FROM meshhook.run_event) + (SELECT count(*) FROM meshhook.inbox)
     + (SELECT count(*) FROM meshhook.job) + (SELECT count(*) FROM meshhook.timer) + (SELECT count(*) FROM meshhook.workflow)
     + (SELECT count(*) FROM meshhook.workflow_version) AS rows_of_others;
-- What he is told of her run is what he is told of one that does not exist.
CREATE FUNCTION pg_temp.told(call text, run text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
    EXECUTE format(call, run);
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN replace(concat_ws(' | ', SQLSTATE, SQLERRM, hint), run, '…');
END
$$;
SELECT call, pg_temp.told(call, :'hers') AS told,
       pg_temp.told(call, :'hers') = pg_temp.told(call, '00000000-0000-7000-8000-000000000000') AS as_of_none
FROM unnest(ARRAY['SELECT meshhook.run_state(%L)', 'SELECT * FROM meshhook.run_history(%L)',
                  'SELECT * FROM meshhook.verify_run(%L)', 'SELECT meshhook.cancel_run(%L)']) AS call;
SELECT meshhook.start_run('secret-plan');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.create_endpoint('secret-plan');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.claim_jobs('alices-queue', 'bob', 10);
SELECT outcome FROM meshhook.complete_jobs(ARRAY['1/' || :'hers' || '/do'], ARRAY[131072], ARRAY['1']::jsonb[]);
SELECT outcome FROM meshhook.release_jobs(ARRAY['1/' || :'hers' || '/do'], ARRAY[131072]);
-- Hers waits in a queue; he is not told how many there are of whatever kind.
SELECT check_name, value FROM meshhook.status() WHERE check_name IN ('inbox', 'ready jobs', 'executors', 'open runs') ORDER BY 1;

-- Bob in Alice's name: settings are only settings.
SET meshhook.project = 'alices';
SELECT count(*) FROM meshhook.runs;
SELECT meshhook.start_run('secret-plan');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SET meshhook.project = 'not-there';
SELECT meshhook.start_run('secret-plan');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.runs;
SET meshhook.project = 'bobs';
SET request.jwt.claims = '{"role": "regress_alice", "project": "alices", "sub": "alice"}';
SELECT count(*) FROM meshhook.runs;
SET ROLE regress_alice;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT set_config('role', 'meshhook_owner', false);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SET row_security = off;
SELECT count(*) FROM meshhook.run;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
RESET row_security;
-- Objects of his own in front of the real ones.
CREATE TEMP VIEW runs AS SELECT 'mine' AS status;
CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$;
SET search_path = pg_temp, meshhook, pg_catalog;
SELECT count(*) FROM meshhook.runs;
SELECT meshhook.current_project_id() IS NOT NULL AS still_his;
RESET search_path;
-- And straight at what he was never given.
SELECT * FROM meshhook.endpoint_secret;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.project_member;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
INSERT INTO meshhook.inbox (project_id, run_id, kind, data) VALUES (1, :'hers', 'run.cancel', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
DELETE FROM meshhook.run_event;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT nextval('meshhook.global_position_seq');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.add_leaf(NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.activate();
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_project('more');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.add_member('alices', 'regress_bob');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.grant_api('regress_nobody');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.stop_workers();
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SET meshhook.kek_file = '/etc/passwd';
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- (The server's words for this one differ from release to release.)
SELECT left(pg_temp.told('SHOW meshhook.kek_file', ''), 5) AS sqlstate;
SET meshhook.databases = 'mine';
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- The courier works for both and reads nothing.
\c - regress_courier
SELECT node, payload, job_id, token FROM meshhook.claim_jobs('alices-queue', 'courier', 10) \gset
\echo :node :payload
SELECT meshhook.complete_job(:'job_id', :token, '"done"');
SELECT meshhook.tick() > 0 AS turned;
SELECT count(*) FROM meshhook.runs;
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('secret-plan');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.run_state(:'hers');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.endpoint_secret;
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Nobody does nothing.
\c - regress_nobody
SELECT meshhook.version();
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT count(*) FROM meshhook.runs;
\echo SQLSTATE :LAST_ERROR_SQLSTATE

\c - regress_alice
SET meshhook.project = 'alices';
SELECT workflow, status, output FROM meshhook.runs;
SELECT * FROM meshhook.verify_run(:'hers');
\c - postgres
SELECT actor, action, target FROM meshhook.audit_log WHERE project_id > 0 ORDER BY audit_id;
SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole FROM pg_roles WHERE rolname LIKE 'meshhook%' ORDER BY 1;
DROP OWNED BY regress_alice, regress_bob, regress_courier, regress_nobody;
DROP ROLE regress_alice, regress_bob, regress_courier, regress_nobody;
