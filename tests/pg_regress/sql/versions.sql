-- Drafts, versions, archiving, going back, and what differs. After an error its SQLSTATE is shown.
\set VERBOSITY default
SET client_min_messages = error;

-- A draft may have faults; the number of them is told, and who saved it when is kept.
SELECT * FROM meshhook.save_draft('{"name": "ship", "nodes": [{"id": "a", "type": "teleport"}]}');
SELECT workflow, revision, problems, saved_by = current_user AS mine FROM meshhook.drafts;
SELECT meshhook.publish_draft('ship');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.save_draft('{"name": "ship", "nodes": [
    {"id": "a", "type": "transform", "with": {"output": {"v": 1}}}]}', 1);
SELECT workflow, newest_version, archived, draft_revision, draft_problems FROM meshhook.workflows WHERE workflow = 'ship';

-- Two who work on one draft do not overwrite each other if they say what they read.
SELECT * FROM meshhook.save_draft('{"name": "ship", "nodes": []}', 1);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.save_draft('{"name": "ship", "nodes": []}', 0);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.save_draft('{"name": "unheard", "nodes": []}', 3);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.publish_draft('ship', 1);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.publish_draft('ship', 2);
SELECT count(*) FROM meshhook.drafts;
SELECT meshhook.publish_draft('ship');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.save_draft('{"nodes": []}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- A second version, and a draft of a third.
SELECT meshhook.publish_workflow('{"name": "ship", "nodes": [
    {"id": "b", "type": "task", "with": {"queue": "versions"}},
    {"id": "a", "type": "transform", "with": {"output": {"v": 2, "label/x": null}}}],
    "edges": [{"from": "b", "to": "a"}]}');
SELECT problems FROM meshhook.save_draft('{"name": "ship", "nodes": [
    {"id": "a", "type": "transform", "with": {"output": {"v": 3, "label/x": null}}},
    {"id": "b", "type": "task", "with": {"queue": "versions"}}],
    "edges": [{"from": "b", "to": "a"}]}');
SELECT * FROM meshhook.workflow_diff('ship', 1, 2);
SELECT * FROM meshhook.workflow_diff('ship', 2, NULL);
SELECT * FROM meshhook.workflow_diff('ship', 1, 3);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT * FROM meshhook.workflow_diff('{"name": "a"}'::jsonb, '{"name": "b"}'::jsonb);
SELECT meshhook.discard_draft('ship');
SELECT meshhook.discard_draft('ship');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- A run under way stays on its version and goes on to its end, also where that is archived.
SELECT meshhook.start_run('ship') AS run \gset
SELECT meshhook.tick();
SELECT meshhook.archive_workflow('ship', 2);
SELECT meshhook.archive_workflow('ship', 2);
SELECT version, archived_by = current_user AS by_me FROM meshhook.workflow_versions WHERE workflow = 'ship' ORDER BY version;
SELECT meshhook.start_run('ship', version => 2);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.start_run('ship') AS older \gset
SELECT meshhook.complete_job(job_id, token, '{}') FROM meshhook.claim_jobs('versions');
SELECT meshhook.tick();
SELECT version, status, output FROM meshhook.runs WHERE run_id IN (:'run', :'older') ORDER BY version;
SELECT count(*) AS differences FROM meshhook.verify_run(:'run');

-- All of it archived: nothing starts, until a version is opened or published.
SELECT meshhook.archive_workflow('ship');
SELECT workflow, newest_version, current_version, archived FROM meshhook.workflows WHERE workflow = 'ship';
SELECT meshhook.start_run('ship');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.unarchive_workflow('ship', 2);
SELECT meshhook.rollback_workflow('ship', 1);
SELECT meshhook.rollback_workflow('ship', 3);
SELECT meshhook.archive_workflow('ship', 3);
SELECT meshhook.rollback_workflow('ship', 3);
SELECT meshhook.rollback_workflow('ship', 9);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.archive_workflow('no such workflow');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT version, archived_at IS NOT NULL AS archived, left(checksum, 8) = left(first_value(checksum) OVER (ORDER BY version), 8) AS as_first
FROM meshhook.workflow_versions WHERE workflow = 'ship' ORDER BY version;
SELECT action, target, details FROM meshhook.audit_log WHERE target = 'ship' ORDER BY audit_id;

-- The JSON Schema of definitions.
SELECT meshhook.workflow_schema() ->> '$schema' AS dialect,
       meshhook.workflow_schema() #> '{properties,nodes,maxItems}' AS max_nodes;
