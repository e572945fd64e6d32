-- Run last: what every function means (docs/sql-reference.md is generated from these texts), and who may call it.

COMMENT ON FUNCTION meshhook.validate_workflow(jsonb) IS
'Checks a workflow definition and returns every fault as a row: JSON pointer, stable code, message. No row: it can be published. Writes nothing.';
COMMENT ON FUNCTION meshhook.publish_workflow(jsonb) IS
'Publishes a definition under its name as the next version and returns the version''s number. A version never changes; runs stay on the one they started with. Publishing what is the newest version already returns that version. 22023 with all faults in DETAIL if the definition is not sound, F0000 if it sends resume URLs and no key is there to sign them.';
COMMENT ON FUNCTION meshhook.workflow_schema() IS
'The JSON Schema (draft 2020-12) of workflow definitions, for editors and builders; docs/workflow.schema.json is the same. What it refuses, validate_workflow refuses; expressions, references and cycles only validate_workflow can judge.';
COMMENT ON FUNCTION meshhook.save_draft(jsonb, bigint) IS
'Keeps a definition as the draft of the workflow it names, one a workflow, and returns the draft''s revision and how many faults it has; validate_workflow lists them. Nothing runs by it. With expected_revision (0: none yet) it is refused (55000) if somebody has saved another meanwhile. 22023 without a usable name, 54000 above 4 MiB.';
COMMENT ON FUNCTION meshhook.publish_draft(text, bigint) IS
'Publishes a workflow''s draft as publish_workflow does, removes the draft and returns the version''s number. 22023 with all faults in DETAIL if the draft has any, 55000 if it is not at expected_revision, P0002 if there is none.';
COMMENT ON FUNCTION meshhook.discard_draft(text) IS
'Throws a workflow''s draft away. P0002 if there is none.';
COMMENT ON FUNCTION meshhook.archive_workflow(text, integer) IS
'Closes a version, or all versions, of a workflow to new runs, audited, and returns how many were open. Runs under way on them go on to their end, and what is published afterwards is open. start_run takes the newest open version, so archiving the newest goes back to the one before. P0002 if there is no such workflow or version.';
COMMENT ON FUNCTION meshhook.unarchive_workflow(text, integer) IS
'Opens an archived version, or all versions, of a workflow to new runs again, audited, and returns how many were archived. P0002 if there is no such workflow or version.';
COMMENT ON FUNCTION meshhook.rollback_workflow(text, integer) IS
'Publishes an earlier version''s definition again, as the next version, audited, and returns that one''s number; the newest version already returns itself. Runs under way stay on the version they started with. P0002 if there is no such version, 22023 if this release no longer takes its definition.';
COMMENT ON FUNCTION meshhook.workflow_diff(text, integer, integer) IS
'What differs between two versions of a workflow, archived or not; null stands for its draft. Nodes are matched by id and edges by their ends and port, so that their order is no difference. pointer is a JSON pointer into the second definition, for kind "removed" into the first. P0002 if a version or the draft does not exist.';
COMMENT ON FUNCTION meshhook.workflow_diff(jsonb, jsonb) IS
'What differs between two definitions, sound or not, told as in workflow_diff of versions.';
COMMENT ON FUNCTION meshhook.start_run(text, jsonb, text, integer, smallint, interval, timestamptz, text[], interval) IS
'Starts a run of a published workflow in the caller''s transaction: it exists if and only if that commits. input is at most 1 MiB and satisfies the input_schema of the definition: 22023 with up to 20 violations in DETAIL otherwise. With an idempotency_key (1 to 255 bytes, per workflow; those that begin with "meshhook:" are reserved) the first call starts the run and every later one returns it. version picks one other than the newest. Of runs that wait (for a limit of the workflow, for a pause to end) those with the higher priority (-32768 to 32767) start first. delay, or start_at, puts the start off, at most 10 years. tags (at most 32 of 1 to 128 bytes) are what search_runs finds. idempotency_window frees the key after that time, counted from the start of the run that has it: a later call with it starts a new run. A run that waits is "queued"; see the view queued_runs. 55000 if the workflow is archived, P0002 if it is not published, 54000 if the input is too large, 55000 if the workflow or the project is paused and refuses runs, 22023 if a key of its limits cannot be computed from the input.';
COMMENT ON FUNCTION meshhook.preview_expression(text, jsonb) IS
'Evaluates an expression on a sample, within the budget of one node, and returns one row: whether it has exactly one output, the output and its type, and the steps it took (a node has 1000000, an expression 100000). Otherwise code, message, the character it is about (from 1), and marker: the line of the text with a caret below that character; raised is what the expression gave to error(). sample stands for everything expressions read: {"input": …, "nodes": {"<id>": {"output": …}}, "vars": …}. docs/expressions.md has the language. Never raises for what is in the expression; 22004 for null, 54000 for a sample over 4 MiB. Writes nothing.';
COMMENT ON FUNCTION meshhook.preview_template(jsonb, jsonb) IS
'Renders a template (any JSON value with {{ expressions }} in its strings) on a sample, as preview_expression does, and returns one row with the value; {{ $secrets.name }} and {{ $resume.node }} stay as they are written. Otherwise a row for each fault: pointer is the JSON pointer of the string, at_character and marker count within that string. 22004 for null, 54000 for a template or sample over 4 MiB. Writes nothing.';
COMMENT ON FUNCTION meshhook.cancel_run(uuid, text) IS
'Asks for the end of a run; the orchestrator''s next turn takes back its open work, cancels the runs it waits for, undoes what has a "compensate", and ends it. False if it has ended already. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.kill_run(uuid, text) IS
'Ends a run at once with nothing undone, also while it is being undone; retry_run will not take it. False if it has ended already. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.pause_run(uuid, text) IS
'Holds a run: what happens to it meanwhile is recorded and counts once it is resumed; work that was scheduled before may still be done. Its deadlines do not stop. One that waits to start is kept out until it is resumed. False if it has ended already. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.resume_run(uuid) IS
'Ends a pause: what happened meanwhile is decided now, in the order it came. Without effect on a run that is not paused; false if it has ended. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.retry_run(uuid, text, jsonb, text) IS
'Lets a run that failed or was canceled go on at once in the same run: nodes that failed or were canceled are done again, successes (also of a map''s items) are kept, and so are idempotency keys. With from_node, a node outside of bodies, that one and all that follow from it are done again. patch is an object of vars (those that change) and outputs (by node path; such a node counts as succeeded). Answers like run_state. Waits for a turn in progress. 55000 if the run has not ended so, was killed, undone, or ended by a terminate node, P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.edit_run(uuid, jsonb, text) IS
'Changes at once what the rest of a run goes by: patch is an object of vars (those that change) and outputs (by the path of a node that has succeeded). Jobs under way keep their input. Answers like run_state. Waits for a turn in progress. 55000 if nothing can be changed so, P0002 if the run does not exist.';
COMMENT ON FUNCTION meshhook.skip_node(uuid, text, jsonb, text, text) IS
'Settles an open node by hand: it has succeeded, with the output (default null) and at the port (default out) given. Its job, timer and body are dropped, and it is not undone later. The node is named by its path, also of what undoes a node (x/compensate). Answers like run_state. Waits for a turn in progress. 55000 if the node is not open or has no such port, P0002 if the run does not exist.';
COMMENT ON FUNCTION meshhook.fork_run(uuid, bigint, jsonb, text) IS
'Makes a new run with a copy of the events of this one up to at_position, rounded down to the end of a decision (default: before the run ended or began to be undone), and lets it go its own way: what was under way there is begun anew, with idempotency keys of its own. input is that of the new run from there on. Tags are copied; admission is not asked. The other run is left alone. 22023 for a position that does not exist, 55000 if the run had ended there, P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.reset_run(uuid, bigint, jsonb, text) IS
'fork_run, and the other run is killed if it has not ended; its idempotency key passes to the new run.';
COMMENT ON FUNCTION meshhook.submit_event(uuid, text, jsonb, text) IS
'Sends an event (a signal) to a run and decides at once what follows; answers with the run''s state then, like run_state. Everything is part of your transaction. Waits for a turn in progress, as lock_timeout allows. An event_id that came before changes nothing. 55000 if the run has ended, P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.enqueue_event(uuid, text, jsonb, text) IS
'Sends an event (a signal) to a run; the orchestrator decides what follows. The same as signal_run, to go with submit_event.';
COMMENT ON FUNCTION meshhook.signal_run(uuid, text, jsonb, text) IS
'Sends a signal to a run: the node that has waited longest for it goes on with the payload (at most 1 MiB); if none waits yet it is kept for the first that will, first in, first out. A second signal with the same signal_id is ignored. A run that waits to start finds it when it begins. name has 1 to 63 bytes. 54000 if a run that waits to start was sent more than 100 or 4 MiB, 55000 if the run has ended, P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.decide_approval(uuid, text, boolean, jsonb, text) IS
'Approves or rejects what a wait node waits for, in the name of decided_by (default: your role); one voice each. The node goes on once as many as it asks for have approved, or one has rejected. Without effect on a node that does not wait. 55000 if the run has ended, P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.simulate_run(jsonb, jsonb, jsonb, timestamptz) IS
'Runs a definition in memory and returns what its log would be; nothing is read or written. mocks gives outcomes by node id or path ("each/0/call", "each/*/call"): {"output": …}, {"error": …} or {"approved": true}, each with "after" (a duration) if it takes time, or a list with one for each attempt. Timers pass at once: clock (default: now) is when the run begins. Where a node waits for an outcome that is not given the last row is of type simulation.waits and names it. 22023 for faults of the definition or of the mocks.';
COMMENT ON FUNCTION meshhook.set_run_tags(uuid, text[]) IS
'Replaces the tags of a run: at most 32 of 1 to 128 bytes. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.pause_workflow(text, text, text) IS
'Holds back new runs of a workflow; those under way go on. mode "buffer" lets starts wait, "reject" refuses them (55000; webhooks get 503). Audited, with the reason. False if it is paused like that already. P0002 if there is no such workflow.';
COMMENT ON FUNCTION meshhook.resume_workflow(text, text) IS
'Ends the pause of a workflow: what has waited starts, within the limits. False if it is not paused. P0002 if there is no such workflow.';
COMMENT ON FUNCTION meshhook.pause_project(text, text) IS
'Holds back new runs of every workflow of the session''s project, like pause_workflow. False if it is paused like that already.';
COMMENT ON FUNCTION meshhook.resume_project(text) IS
'Ends the pause of the session''s project; workflows that are paused themselves stay so. False if it is not paused.';
COMMENT ON FUNCTION meshhook.project_is_paused() IS 'Whether the session''s project is paused. For the view queued_runs.';
COMMENT ON FUNCTION meshhook.run_state(uuid) IS
'The state of a run, folded from its log: status, input, output, error, and each node with status, attempt, port, output, error and times. P0002 if the run does not exist.';
COMMENT ON FUNCTION meshhook.run_state_at(uuid, bigint, timestamptz) IS
'Where a run stood after the event at a position, or at a time, told as run_state tells it now. 0, and a time before the first event, are the state before it began. 22023 for both at once and for a position that the run does not have, P0002 for an unknown run.';
COMMENT ON FUNCTION meshhook.run_diff(uuid, bigint, bigint) IS
'What changed between two positions of a run: JSON pointers into what run_state_at returns, with the values at from_position and at to_position; null where there is none. No row: nothing but the position. The second may be the earlier one.';
COMMENT ON FUNCTION meshhook.run_timeline(uuid) IS
'What a run did when: each attempt, wait and body of each node from its begin to its end, in the order they began. outcome is "succeeded", "failed", "retried", "skipped" or "canceled", null while it is open; kind and attempt are null for what was decided at once.';
COMMENT ON FUNCTION meshhook.run_log(uuid, bigint, integer) IS
'The events of a run after a position, told in words and in order, at most batch_size (1 to 100000): level is "info", "warning" or "error", actor who asked for it or did it. Pass the last position again to go on.';
COMMENT ON FUNCTION meshhook.run_status_after(text) IS
'The status of a run after an event of this type, null where it stays as it was. For run_audit_trail.';
COMMENT ON FUNCTION meshhook.replay_run(uuid, bigint, timestamptz, boolean, boolean) IS
'Folds the events of a run up to and with a position or time, by default all, and returns {"run", "position", "status", "complete", "state"}: complete says whether the run was over, state is all the engine knows. Begins behind the newest snapshot not beyond the bound unless use_snapshots is false; the result is the same. debug adds {"events_applied", "from_snapshot", "ignored_snapshots", "duration_ms"} and changes nothing else. Writes nothing and works on a standby. 55000 for a run that has not begun, 22023 for both bounds at once and for a position that the run does not have, P0002 for an unknown run.';
COMMENT ON FUNCTION meshhook.create_snapshot(uuid) IS
'Stores the state of a run, folded from its first event, and returns its position. The newest meshhook.snapshots_kept are kept. 55000 for a run that has not begun, 54000 for a state beyond 64 MiB.';
COMMENT ON FUNCTION meshhook.run_history(uuid, bigint, integer) IS
'The events of a run after a position, in order, at most batch_size (1 to 100000). docs/events.md is the catalogue. P0002 if the run does not exist.';
COMMENT ON FUNCTION meshhook.verify_run(uuid) IS
'Replays a run from its first event, deciding everything again, and compares with the log, the run''s row, its jobs, its timers, and the snapshots a replay could start from. Returns the first difference (position, JSON pointer, expected, found); no row means identical. Writes nothing.';
COMMENT ON FUNCTION meshhook.verify_runs(jsonb, integer) IS
'verify_run of the newest max_runs runs of your project that a filter finds; the filter is that of create_bulk_operation. No row: all of them replay. Reads each log whole.';
COMMENT ON PROCEDURE meshhook.await_run(uuid, interval, text, jsonb) IS
'Waits until a run has ended, or for the time given, and returns its status and output. Holds no snapshot while it waits. Call it outside a transaction block; 55000 with a HINT otherwise. P0002 if the run does not exist.';
COMMENT ON PROCEDURE meshhook.wait_for_run(uuid, interval, bigint, text, bigint) IS
'Waits like await_run and meanwhile prints each line of the run''s log after a position as a NOTICE, as soon as its turn has committed: psql shows them as they come. Returns the status, and the position of the last line printed: the after_position of the next call. What it prints is what run_log returns, by run_log_text. Call it outside a transaction block; 55000 with a HINT otherwise. P0002 if the run does not exist.';
COMMENT ON FUNCTION meshhook.run_log_text(bigint, timestamptz, text, text, integer, text, text) IS
'A row of run_log as the line that wait_for_run prints: position, time of day, level, node and attempt, message, and who.';
COMMENT ON PROCEDURE meshhook.wait_turn(uuid, integer, boolean) IS
'Ends the current transaction and sleeps without a snapshot until the run may have ended, or with moves may have new events, at most ms milliseconds. For await_run and wait_for_run.';

COMMENT ON FUNCTION meshhook.claim_jobs(text, text, integer, interval) IS
'Claims up to batch_size (1 to 1000) ready jobs of a queue, oldest first and each project its equal share, each with a lease (1 ms to 1 day) and a fencing token. Report before the lease runs out, or renew it; afterwards the attempt counts as failed and its token is worthless. idempotency_key is the same for every attempt of a node: pass it on to whatever you call. project is the name of the jobs. executor is a name for people; default the role''s. Members of meshhook_executor claim from every project, others from theirs. A job that sends resume URLs is left out, with a WARNING, where no key is there to sign them. Empty where the database is a dormant copy.';
COMMENT ON FUNCTION meshhook.log_job(text, bigint, text, text, jsonb) IS
'Adds a line about the attempt under way to the run''s log, where run_log and wait_for_run show it in the order of events. level is info, warning or error; message up to 8 kB; data, for programs, up to 64 kB. accepted; stale where the lease was lost; full where the run''s log, and what waits to be added to it, have come to half of meshhook.max_run_events. 22023 for a bad level, 54000 for a line that is too large.';
COMMENT ON FUNCTION meshhook.heartbeat_jobs(text[], bigint[], interval) IS
'Renews leases, counted from now. A null lease_expires_at says that the lease was lost: stop the work, its result will not be taken. A task node''s timeout is never exceeded.';
COMMENT ON FUNCTION meshhook.complete_jobs(text[], bigint[], jsonb[]) IS
'Reports results: one job id, token and output (at most 1 MiB) each. outcome is "accepted", or "stale" where the lease was lost or the job is gone (also where it is gone because an earlier call, whose answer never arrived, was taken); stale results change nothing. All or nothing per call: it is part of your transaction.';
COMMENT ON FUNCTION meshhook.fail_jobs(text[], bigint[], jsonb[]) IS
'Reports failed attempts: one job id, token and error each. An error is a text or {"class","message","retryable","retry_after_ms","details"}; retryable false ends the retries. The node''s retry policy decides what follows. outcome as in complete_jobs.';
COMMENT ON FUNCTION meshhook.release_jobs(text[], bigint[], interval) IS
'Gives claimed jobs back unstarted: no attempt is spent. They are ready again at once, or after delay (at most 1 hour; whoever waits for it looks again by himself, for nobody is woken). outcome as in complete_jobs.';
COMMENT ON FUNCTION meshhook.put_job_blob(text, bigint, bytea) IS
'Keeps a body (at most 16 MiB) beside the log of the run of a job that you hold, and returns its SHA-256 in hexadecimal, for the output to refer to: {"sha256", "size", "content_type"}. The same bytes lie in a project once. It is kept as long as a run refers to it. Null where the lease was lost; 54000 if it is too large.';
COMMENT ON FUNCTION meshhook.read_job_blob(text, bigint, text) IS
'The bytes of a blob that the input of a job refers to by its SHA-256. Null where the lease was lost; P0002 if the job''s project does not have it, 22023 for what is no SHA-256.';
COMMENT ON FUNCTION meshhook.create_blob(bytea, text) IS
'Keeps bytes (at most 16 MiB) in your project and returns a reference, {"sha256", "size", "content_type"}: give it to runs in their input, and an http node sends the bytes with "body_blob". It is kept as long as a run refers to it, and for a day at least. content_type has at most 255 printable ASCII characters. 54000 if it is too large.';
COMMENT ON FUNCTION meshhook.read_blob(text) IS
'The bytes of a blob of your project by its SHA-256 in hexadecimal: what a reference, such as the body_blob of an http node''s output, has in "sha256". P0002 if there is none, 22023 for what is no SHA-256.';
COMMENT ON FUNCTION meshhook.sync_executor(text, text, text[], text[], bigint[]) IS
'Says that an executor of a queue is there, and in which hosts'' stead its calls wait (project, host, milliseconds; up to 1000, each up to a minute). Returns how many executors were there within 15 s, and what the others leave alone, one row each; one row with nulls if that is nothing. Executors share the limits of hosts by that number. Members of meshhook_executor count for every project, others for theirs, of whose hosts alone they tell and hear. Call it every second while there is work; nothing of it outlasts a crash.';
COMMENT ON FUNCTION meshhook.complete_job(text, bigint, jsonb) IS 'complete_jobs for one job; returns its outcome.';
COMMENT ON FUNCTION meshhook.fail_job(text, bigint, jsonb) IS 'fail_jobs for one job; returns its outcome.';

COMMENT ON FUNCTION meshhook.tick(integer) IS
'Takes one orchestrator turn in the caller''s session for up to batch_size (1 to 10000) runs and returns how many it moved, or schedules started; call it until it returns 0. For databases without an orchestrator, and for tests: it is part of your transaction. Members of meshhook_executor move the runs of every project, others those of theirs. Does nothing, with a WARNING, in a dormant copy.';
COMMENT ON FUNCTION meshhook.start_workers() IS
'Starts an orchestrator for this database and returns whether one serves it. Without shared_preload_libraries it polls every 200 ms and ends with the server. Takes effect at once, not at commit.';
COMMENT ON FUNCTION meshhook.stop_workers() IS
'Stops the orchestrator of this database until start_workers() or, where it is preloaded, the next start of the server. True if one was running and has ended. Takes effect at once.';
COMMENT ON FUNCTION meshhook.maintain() IS
'Does the next step of maintenance (closing the open leaf of runs and events once it is meshhook.leaf_days old, and opening the next; forgetting runs whose time is over, see set_retention) and says what it was. The orchestrator calls it by itself; without one, call it now and then until it returns no row.';
COMMENT ON FUNCTION meshhook.status() IS
'How meshhook is doing: one row for each check with whether it is well, its value, and what to do if it is not.';
COMMENT ON FUNCTION meshhook.set_retention(interval, text) IS
'Says how long runs of a workflow, or without one of every other workflow of the session''s project, are kept after their end: 1 hour to 1000 years. Null: as if nothing had been said, that is meshhook.retention_days (default 30, negative is for ever). Runs are forgotten by whole leaves (meshhook.leaf_days), so some stay longer; with them go their idempotency keys and tags. A run that has not ended is never forgotten. Audited. P0002 if there is no such workflow.';
COMMENT ON FUNCTION meshhook.preview_retention() IS
'What maintain() would forget: for each closed leaf how many runs of all projects it holds, how many may go, and whether it is dropped, rebuilt with the few that stay, or kept. Writes nothing.';
COMMENT ON FUNCTION meshhook.create_bulk_operation(text, jsonb, text, jsonb, boolean) IS
'Does something to every run of the project that a filter finds. filter is an object of workflow, status, tags, started_after, started_before, input, error_class, run_ids, as in search_runs. action is "cancel", "retry" or "signal"; arguments of the last are an object of name, payload and signal_id, as in signal_run. By default only counts; with dry_run => false it needs a reason, is noted in the audit log, and is worked off by the orchestrator newest run first, 1000 candidates at a time; the view bulk_operations shows how far it has come. Runs started later are left alone. 22023 for a filter or action that does not exist.';
COMMENT ON FUNCTION meshhook.cancel_bulk_operation(bigint) IS
'Stops a bulk operation; what it has done stays done. False if it has ended already. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.search_runs(text, text[], text[], timestamptz, timestamptz, jsonb, text, uuid, integer) IS
'Runs of the project, newest first, at most batch_size (1 to 1000): of a workflow, in one of some statuses, with all of some tags, started in a time, whose input contains a document (input => ''{"customer": {"id": 7}}''), that failed with a class of error. before_run, the last run_id of a page, begins the next one. By workflow, status, tag and time it reads indexes and narrow rows; by input or error_class also one event of each candidate, newest first, until the page is full: give a time or a workflow with it.';
COMMENT ON FUNCTION meshhook.run_filter(jsonb) IS 'The condition that a filter stands for. For search_runs and bulk operations.';
COMMENT ON FUNCTION meshhook.bulk_filter(text, jsonb) IS 'The condition of the runs an action is about. For bulk operations.';
COMMENT ON FUNCTION meshhook.bulk_action(text) IS 'The function of a bulk action. For bulk operations.';
COMMENT ON FUNCTION meshhook.bulk_create(integer, text, text, jsonb, text, jsonb, boolean) IS 'Counts and notes. For create_bulk_operation.';
COMMENT ON FUNCTION meshhook.bulk_step(integer, integer) IS 'One step of a bulk operation. For the orchestrator.';
COMMENT ON FUNCTION meshhook.bulk_cancel(integer, uuid[], jsonb, text, text) IS 'The bulk action "cancel".';
COMMENT ON FUNCTION meshhook.bulk_retry(integer, uuid[], jsonb, text, text) IS 'The bulk action "retry".';
COMMENT ON FUNCTION meshhook.bulk_signal(integer, uuid[], jsonb, text, text) IS 'The bulk action "signal".';
COMMENT ON FUNCTION meshhook.bulk_no_arguments(jsonb) IS 'Refuses arguments of an action that takes none: 22023.';
COMMENT ON FUNCTION meshhook.expired_condition(integer) IS 'When a run may be forgotten. For maintenance.';
COMMENT ON FUNCTION meshhook.closed_leaves() IS 'The leaves of runs that nothing is added to any more. For maintenance.';
COMMENT ON FUNCTION meshhook.retention_plan(integer, bigint) IS 'What is to be forgotten. For preview_retention.';
COMMENT ON FUNCTION meshhook.apply_retention(integer, bigint) IS 'One step of forgetting. For maintain.';
COMMENT ON FUNCTION meshhook.forget_blobs() IS 'One step of forgetting blobs that no run refers to. For maintain.';
COMMENT ON FUNCTION meshhook.blob_use_ended() IS 'Has a blob looked at that a run no longer refers to. The trigger of blob_use.';
COMMENT ON FUNCTION meshhook.forget_deliveries(integer) IS 'One step of forgetting deliveries older than so many days, -1 for none. For maintain.';
COMMENT ON FUNCTION meshhook.version() IS 'The extension''s version.';
COMMENT ON FUNCTION meshhook.is_active() IS
'Whether this installation may act. False in a copy of another database (pg_dump, template, pg_upgrade) until activate().';
COMMENT ON FUNCTION meshhook.activate() IS
'Makes a dormant copy the one that acts: its unfinished runs continue and their calls are made. Do this only if the original no longer acts. False if it is active already.';
COMMENT ON FUNCTION meshhook.register_database() IS
'Tells the launcher that this database has meshhook. For the install script.';

COMMENT ON FUNCTION meshhook.append_message(text, text, jsonb, jsonb, bigint, uuid, boolean) IS
'Appends a message to a stream in the caller''s transaction and returns its position there: 0, 1, 2, … without gaps. A stream is category-id ("account-123"), is made by its first message, and is one writer''s at a time until that one''s transaction ends; other streams are not held up. expected_version is the position that the stream''s last message must have, -1 for none, null for any: 55000 with both versions in DETAIL if it has another. id is unique in the project (default: a UUIDv7): 23505 if it is taken, but with idempotent => true a repetition in the same stream changes nothing and returns the first one''s position. 40001 under REPEATABLE READ and SERIALIZABLE if the stream has grown since the transaction began. At most 1000 streams a transaction (54000), 16 MiB a document. The transaction cannot be prepared for two-phase commit.';
COMMENT ON FUNCTION meshhook.append_messages(text[], text[], jsonb[], jsonb[], bigint[], uuid[], boolean) IS
'Appends many messages in one statement, all or none, and returns a row for each in the order given. streams has one element for each message, or one for all; the other arrays one for each, or are left out. expected_versions is compared with what the stream''s version is by then; a single element is the first message''s. Otherwise like append_message.';
COMMENT ON FUNCTION meshhook.read_stream(text, bigint, integer, text[]) IS
'A stream''s messages from a position on, in order, at most batch_size (1 to 100000); types chooses some. Empty for a stream that does not exist. A NOTICE says where the stream begins if what was asked for has been purged. "meshhook:run-<uuid>" is the log of a run; its positions begin at 1.';
COMMENT ON FUNCTION meshhook.read_category(text, bigint, integer, text[], text, integer, integer) IS
'The messages of all streams of a category from a global position on, in global order, up to safe_position(category): whoever goes on from the last global position read misses nothing. correlation chooses messages whose metadata has a correlationStreamName of that category; consumer_group_member (from 0) and consumer_group_size choose the streams of one member, by the hash of their cardinal id, as Message DB does (a stream without id is nobody''s). "meshhook:run" are the logs of all runs. Right at every isolation level; on a standby it stops at the position that the primary said last.';
COMMENT ON FUNCTION meshhook.read_all(bigint, integer, text[], boolean) IS
'All messages of the project from a global position on, in global order, up to safe_position(); the events of runs too if include_runs. Otherwise like read_category.';
COMMENT ON FUNCTION meshhook.last_message(text, text) IS
'A stream''s last message, or its last of a type; no row if there is none.';
COMMENT ON FUNCTION meshhook.stream_version(text) IS
'The position of a stream''s last message; null if it is empty.';
COMMENT ON FUNCTION meshhook.safe_position(text) IS
'The global position up to which everything in a category (null: in all of the project''s) is decided: readers stop there. It goes down when an open transaction appends to a further category; what was read before stays right. The view position_holders shows who keeps it from rising.';
COMMENT ON FUNCTION meshhook.holders_of_positions(text) IS
'Open transactions that may hold positions of a category (null: any). For the view position_holders.';
COMMENT ON FUNCTION meshhook.stream_category(text) IS 'The category of a stream: what stands before the first "-".';
COMMENT ON FUNCTION meshhook.stream_id(text) IS 'The id of a stream: what stands behind the first "-"; null without one.';
COMMENT ON FUNCTION meshhook.stream_cardinal_id(text) IS 'The cardinal id of a stream: its id up to the first "+"; null without id.';
COMMENT ON FUNCTION meshhook.hash_64(text) IS 'The first eight bytes of a text''s MD5 as a number, as Message DB''s hash_64: members of consumer groups are told apart by it.';
COMMENT ON PROCEDURE meshhook.wait_for_messages(text, bigint, interval, boolean) IS
'Waits until a message of a category (null: any of the project''s) with a global position above the one given can be read, or for the time given; ready says which. Wakes within a millisecond or two of the commit and holds no snapshot while it waits. Call it outside a transaction block; 55000 with a HINT otherwise. Without shared_preload_libraries it looks every 100 ms. LISTEN meshhook_messages is notified too, the first time at once, then at most every 10 ms, with an empty payload.';
COMMENT ON PROCEDURE meshhook.wait_append(text, integer) IS
'Registers as waiting (0 ms), sleeps without a snapshot until a message may have become readable, or ends the waiting (fewer). For wait_for_messages.';
COMMENT ON FUNCTION meshhook.messages_of_run(integer, uuid, bigint, text[], bigint) IS 'The log of a run as messages. For read_stream.';
COMMENT ON FUNCTION meshhook.last_message_of_run(integer, uuid, text) IS 'The last event of a run as a message. For last_message.';
COMMENT ON FUNCTION meshhook.messages_of_runs(integer, bigint, bigint, text[], bigint) IS 'The logs of all runs as messages, in global order. For read_category.';

COMMENT ON FUNCTION meshhook.read_consumer(text, text, integer, integer, integer, text[], text) IS
'The next messages of a category for one member of a consumer, from the position that commit_consumer stored, in global order. The first call makes the consumer, by default with one member; another consumer_group_size later is refused (55000), resize_consumer changes it. Each stream belongs to one member, by the hash of its cardinal id; streams without id to the first. token is what commit_consumer takes. Read, work, commit: what was not committed is read again.';
COMMENT ON FUNCTION meshhook.commit_consumer(text, bigint, bigint, integer) IS
'Stores how far a member of a consumer has come: the global position of the last message it is done with. With the token of the read it is refused (55000) if anybody has moved the member since. Part of your transaction: position and effects commit together. Returns the next token. 22023 for a position behind the stored one or not assigned yet.';
COMMENT ON FUNCTION meshhook.resize_consumer(text, integer) IS
'Divides a consumer among another number of members (1 to 1024). Tokens given before are worth nothing; each stream goes on where its earlier member had come to, so nothing that was committed is delivered again.';
COMMENT ON FUNCTION meshhook.seek_consumer(text, bigint) IS
'Puts all members of a consumer at a global position, forwards or back. Tokens given before are worth nothing.';
COMMENT ON FUNCTION meshhook.drop_consumer(text) IS 'Forgets a consumer and its positions. P0002 if it does not exist.';

COMMENT ON FUNCTION meshhook.purge_stream(text, bigint) IS
'Removes a stream''s messages before a position, audited, and returns how many. The newest message stays. Positions are never given again; reads from before say where the stream now begins. P0002 if the stream does not exist.';
COMMENT ON FUNCTION meshhook.delete_stream(text) IS
'Removes all of a stream''s messages, audited, and returns how many. The stream is empty then (version -1); what is appended later goes on behind the positions that were given.';

COMMENT ON FUNCTION meshhook.install_message_store(text) IS
'Makes schema message_store: the functions, views, type and role of Message DB 1.3.0 over a project, so that its clients run unchanged. Call it again after an update of meshhook, or to choose another project. docs/message-db.md has the differences.';
COMMENT ON FUNCTION meshhook.uninstall_message_store() IS
'Drops schema message_store. The messages stay in their project; an original that import_message_store moved aside gets its name back.';
COMMENT ON PROCEDURE meshhook.import_message_store(name, text, integer) IS
'Copies a Message DB store (schema with a table messages) into a project without messages or runs, with positions, global positions, ids and times, in batches of its own transactions, while the original is in use; reports progress, and goes on where it was if called again. The last step locks the original''s table, copies the rest and compares; an original in schema message_store becomes message_store_original and meshhook''s schema takes its place in the same transaction. docs/message-db.md tells how to go about it.';
COMMENT ON FUNCTION meshhook.import_begin(name, text) IS 'Checks source and target. For import_message_store.';
COMMENT ON FUNCTION meshhook.import_barrier(name) IS 'The source''s last decided position. For import_message_store.';
COMMENT ON FUNCTION meshhook.import_batch(integer, name, bigint, integer) IS 'Copies the next messages. For import_message_store.';
COMMENT ON FUNCTION meshhook.import_finish(integer, name) IS 'Copies the rest and takes the original''s place. For import_message_store.';
COMMENT ON FUNCTION meshhook.message_store_write(integer, varchar, varchar, varchar, jsonb, jsonb, bigint) IS 'For message_store.write_message.';
COMMENT ON FUNCTION meshhook.message_store_stream(integer, varchar, bigint, bigint, varchar, boolean) IS 'For message_store.get_stream_messages.';
COMMENT ON FUNCTION meshhook.message_store_category(integer, varchar, bigint, bigint, varchar, bigint, bigint, varchar, boolean) IS 'For message_store.get_category_messages.';
COMMENT ON FUNCTION meshhook.message_store_condition(varchar, integer) IS 'The query of a condition. For message_store.get_stream_messages.';
COMMENT ON FUNCTION meshhook.message_store_read_only() IS 'Refuses writes. For message_store.messages.';
COMMENT ON FUNCTION meshhook.message_store_last(integer, varchar, varchar) IS 'For message_store.get_last_stream_message.';
COMMENT ON FUNCTION meshhook.message_store_stream_version(integer, varchar) IS 'For message_store.stream_version.';
COMMENT ON FUNCTION meshhook.message_store_lock(integer, varchar) IS 'For message_store.acquire_lock.';

COMMENT ON FUNCTION meshhook.create_project(text, text) IS
'Makes a project (tenant) and returns its uuid. slug has 1 to 63 lower-case letters, digits, "-" and "_" and is what SET meshhook.project takes. 23505 if it exists.';
COMMENT ON FUNCTION meshhook.add_member(text, regrole) IS
'Lets a role, and every role that belongs to it, work in a project.';
COMMENT ON FUNCTION meshhook.current_project_id() IS
'The project this session works in (SET meshhook.project), null if the role may not. Row policies ask it.';

COMMENT ON FUNCTION meshhook.create_endpoint(text, text, interval, text, jsonb, text, interval, text, text, text, text, text, jsonb, boolean, text[], interval) IS
'Makes an address that starts a run of a workflow''s newest version for each delivery, or signals one. preset says how senders sign (docs/webhooks.md has the table). tolerance bounds the age of signed timestamps, 1 second to 1 day; the preset''s own without it. secret is what the sender shows you; without it one is made. scheme says how senders sign where preset is "hmac" (the header, what is signed, the algorithm) or "jwt" (algorithms, issuer, audience); docs/webhooks.md has the fields. keep says of which deliveries of a known sender headers and body are kept, for redeliver(): "refused" (those that started no run), "all" or "nothing". For dedupe_window a delivery that comes again starts nothing: 7 days by default, 90 where no time is signed, one where nothing is. filter and route are expressions over the event, {"input", "headers", "query"}: where filter says false or null the delivery does nothing (204), and route names the workflow it is for, null the endpoint''s own. action is "start", "signal" (the open run that has the business key; 404 where there is none) or "signal_or_start" (a new run where no open one has it); business_key and signal are expressions over the event too, and a run that is started has the business key as its idempotency key. schema is a JSON Schema (draft 2020-12) of the body; what breaks it does nothing (422, with the violations). With rpc the endpoint also has functions meshhook_public."hook_<endpoint>" (json, text, bytea), which PostgREST serves to rpc_roles, by default those of anon, authenticated and service_role that exist. With respond_within (100 ms to 30 s) the sidecar waits so long for the answer of the run''s respond node, or for its end, and after that tells the sender a status URL. Returns the endpoint''s id, its path at the sidecar and the secret, which is shown this once and is null where the preset has none. 22023 for a secret that can never match, a scheme that could be deceived, a window in which a signature could be used twice, an expression or a schema that is none or an action without what it needs, 42704 for a role that does not exist, 55000 for a preset that signs the address while meshhook.public_url is not set. Needs meshhook.kek_file (F0000 otherwise).';
COMMENT ON FUNCTION meshhook.alter_endpoint(text, text, interval, text, interval, text, text, text, text, text, jsonb, interval, text[]) IS
'Changes settings of an endpoint for deliveries from now on: those that are given, as create_endpoint has them; what is null stays. to_default names settings that come by default again, as if create_endpoint had been given none: tolerance, keep, dedupe_window, filter, route, action, business_key, signal, schema, respond_within. What results is judged as there (22023). Preset and scheme are for good; rotate_endpoint_secret changes the secret and set_endpoint_rate the rate. Audited, with what was changed. P0002 if the endpoint or the workflow does not exist.';
COMMENT ON FUNCTION meshhook.webhook_outcomes(text[]) IS
'The answers that senders wait for, by the outcomes that receive_webhook returned (at most 1000): one row for each that has one, of the run''s respond node, or 200 or 500 by the run''s end. Ask again for the others. Changes nothing.';
COMMENT ON FUNCTION meshhook.open_outcome(text) IS
'What a status URL (its last segment) tells: the HTTP status to answer with, and a document with run_id, status, and response once the run''s respond node has answered. 404 if nobody signed it, 503 without the key file. Changes nothing.';
COMMENT ON FUNCTION meshhook.receive_rpc(text, bytea) IS
'Receives a webhook as PostgREST hands it over: headers and method in request.*, the answer''s status and headers to response.*. For the functions in schema meshhook_public.';
COMMENT ON FUNCTION meshhook.make_rpc(text, text[]) IS 'Makes the functions of an endpoint in schema meshhook_public. For create_endpoint.';
COMMENT ON FUNCTION meshhook.drop_rpc(text) IS 'Drops them. For drop_endpoint.';
COMMENT ON FUNCTION meshhook.set_secret(text, text) IS
'Keeps a secret that calls of your project send, as {{ $secrets.<name> }} in the fields of http nodes. sealed is what meshhook-sidecar secret seal prints for this project and name; clear text is refused (22023). One that is there is replaced, for every attempt from now on. Audited.';
COMMENT ON FUNCTION meshhook.drop_secret(text) IS
'Takes a secret of your project away. Attempts that need it fail with class secret until it is set again. 42704 for one that does not exist. Audited.';
COMMENT ON FUNCTION meshhook.rotate_endpoint_secret(text, interval, text) IS
'Gives an endpoint a new secret, the one given or a fresh one, and returns it, this once. Older ones verify for the overlap given, so that senders can change over.';
COMMENT ON FUNCTION meshhook.drop_endpoint(text) IS
'Takes an endpoint away: its address is unknown from now on, its secrets and its function are gone. Its deliveries stay until retention forgets them. Audited. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.set_endpoint_rate(text, integer, interval) IS
'Limits the deliveries that an endpoint takes to so many in a period (1 second to 1 day): that many at once after a quiet spell, then one each per / deliveries. Null takes the limit away. One too many is answered 429 with retry-after. Only deliveries whose sender is known count. Counted in shared memory: a restart forgets it, and without preloading each connection counts for itself. Audited. P0002 if the endpoint does not exist.';
COMMENT ON FUNCTION meshhook.set_project_webhook_rate(text, integer, interval) IS
'Limits the deliveries that all endpoints of a project take together, beside their own limits; as set_endpoint_rate. Not part of the user API: a tenant must not set its own. 42704 if there is no such project.';
COMMENT ON FUNCTION meshhook.redeliver(text, bigint, boolean) IS
'Takes a delivery in once more from what was kept of it (keep of create_endpoint), as the workflow is now, without asking its signature or the rates: it was verified when it came. Returns the number of the new delivery, its status and its answer. A delivery that has started or signaled a run does nothing more (status 200, "duplicate"), but again => true takes it whatever was before; a business key counts all the same. Audited. P0002 if there is no such delivery, 55000 if its body was not kept.';
COMMENT ON FUNCTION meshhook.open_resume_url(text) IS
'What a resume URL (its last segment) is for: the HTTP status to answer with, and a document with its state: "open", "early" (an approval that the run does not wait for yet) or "used" with the answer that counted, each with workflow, run_id, node and the signal or approval; or "over", "expired" (410), "unknown" (404). Changes nothing.';
COMMENT ON FUNCTION meshhook.use_resume_url(text, jsonb) IS
'Answers a wait node in the name of a resume URL: {"approved": true, "payload": …, "by": "…"}, without approved for a signal. The first answer counts (status 200, "used": false) and is told to everybody after (200, "used": true). 400 if the answer is malformed, 404 if nobody signed the URL, 409 before the run waits for an approval, 410 after it has ended, gone on or the URL has expired, 503 without the key file or in a dormant copy.';
COMMENT ON FUNCTION meshhook.receive_webhook(text, text, jsonb, text, bytea) IS
'Takes a delivery in: verifies the signature over the raw body, starts or signals one run per delivery in this transaction, records the delivery. headers is an object with lower-case names. Answer with the status, headers and body it returns, after the commit: 202 with run_id (and "signaled" where the run was there), 200 for a repeat, or a business key that has a run already, with the first run_id, or a challenge, 204 where the filter does not want it, 400, 401, 404 (also where a signal finds no open run), 405, 413, 415, 410 where the workflow is archived, 422 with the violations where the body breaks the endpoint''s schema or the workflow''s, or where an expression of the endpoint fails on it, 429 with retry-after over a rate, or 503 where no key file is set. Where respond_within_ms is not null the sender waits so long, after the commit, for what webhook_outcomes tells of outcome; then it gets this answer, which has a status_url. Never raises for a sender''s fault.';

COMMENT ON FUNCTION meshhook.create_schedule(text, text, text, interval, text, jsonb, text, interval, interval, integer, timestamptz, boolean) IS
'Starts a workflow by the clock and returns the first time. Either cron (minute, hour, day of month, month, day of week; with seconds before them, names, L, W, #, @daily, …) or every (1 second to 36500 days of 24 hours, counted from anchor, by default from now). time_zone is an IANA name; docs/schedules.md says what happens when clocks are changed. overlap says what becomes of a time while an earlier run has not ended: "skip" it, "queue_one", "queue_all", "cancel_other" (starts when that has ended) or "allow". Times that were due longer ago than catch_up (at least 10 seconds) are left out and counted. jitter puts each time off by up to that much, never up to the next one. version picks one other than the newest. A run sees .run.trigger = {"type":"schedule","schedule","nominal_time","origin"}; each time has one run at most. 23505 if the name (1 to 255 bytes) is taken, but with replace => true the schedule is changed: what waits, counters and pause stay, and if its times are the same it goes on where it was. 22023 for a pattern, zone or policy that is none, P0002 if the workflow is not published.';
COMMENT ON FUNCTION meshhook.pause_schedule(text, text) IS
'Stops a schedule: no time starts a run, and what waits goes on waiting, until resume_schedule. False if it was paused already. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.resume_schedule(text) IS
'Lets a paused schedule go on from now and returns its next time. The times of the pause are not made up for (backfill_schedule does that); what waited goes on. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.trigger_schedule(text, text) IS
'Starts a run of a schedule now, in the caller''s transaction, also while it is paused, and returns it; null with a NOTICE if by the overlap policy (default: the schedule''s) it waits for an earlier run or was left out. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.backfill_schedule(text, timestamptz, timestamptz, text) IS
'Runs a schedule for its times from from_time (included) to until_time (not included, not in the future), without jitter, and returns how many it took. Times that have a run or wait for one are left out, so it can be repeated. overlap is this backfill''s own: by default all run one after the other. 54000 for more than 10000 times, those that wait included. P0002 if the schedule does not exist.';
COMMENT ON FUNCTION meshhook.drop_schedule(text) IS
'Forgets a schedule and the times that wait. Its runs go on. P0002 if it does not exist.';
COMMENT ON FUNCTION meshhook.preview_schedule(text, interval, text, integer, timestamptz, timestamptz) IS
'The next count (1 to 1000) times of a cron pattern or period after a moment (default: now), with what the clocks of the time zone read. Needs no schedule. 22023 as in create_schedule.';

COMMENT ON FUNCTION meshhook.create_subscription(text, text, text[], text, interval) IS
'Has events of some types delivered to a URL, and returns the subscription''s id. events are types ("invoice.paid"), all that begin with one ("invoice.*"), or "*". secret is the name of a secret of the form whsec_… that signs by Standard Webhooks; without one deliveries are not signed, and a WARNING says so. disable_after is how long every attempt may fail before the subscription is disabled, silence of more than 36 hours not counted (null: for ever). 23505 if the name is taken, 42704 if there is no such secret, 22023 for a URL or type that is none.';
COMMENT ON FUNCTION meshhook.alter_subscription(text, text, text[], text, interval, text[]) IS
'Changes what is given of a subscription, audited; the rest stays. clear takes away: {secret} leaves deliveries unsigned, {disable_after} lets it fail for ever. Deliveries that wait go to the new URL, signed with the new secret, from their next attempt on; a new URL is not failing yet, and one that was disabled stays so. 42704 if it does not exist.';
COMMENT ON FUNCTION meshhook.enable_subscription(text) IS
'Lets a subscription have deliveries again and forgets that it was failing; true if it was disabled. What was given up meanwhile replay_failed delivers. 42704 if it does not exist.';
COMMENT ON FUNCTION meshhook.disable_subscription(text, text) IS
'Keeps new events from a subscription; deliveries that wait are canceled when their next attempt is due. False if it was disabled already. 42704 if it does not exist.';
COMMENT ON FUNCTION meshhook.drop_subscription(text) IS
'Forgets a subscription. Deliveries that wait are canceled when their next attempt is due; their runs stay. 42704 if it does not exist.';
COMMENT ON FUNCTION meshhook.publish_event(text, jsonb, text) IS
'Publishes an event in the caller''s transaction: each active subscription that wants its type gets a run that delivers {"type", "timestamp", "data"}, and the runs are returned. Under the same idempotency_key a subscription gets an event once, and the run that has it is returned. No row: nobody wants it. 22023 for a type that is none, 54000 for an event of more than 1 MiB, or nested too deep.';
COMMENT ON FUNCTION meshhook.publish_event(jsonb) IS
'publish_event for sql nodes: takes {"type", "data", "idempotency_key"?}, returns {"deliveries": [{"subscription", "run_id"}]}. In a run it publishes in the run''s project, exactly once.';
COMMENT ON FUNCTION meshhook.replay_delivery(uuid) IS
'Delivers once more what a run has delivered or given up, under the same webhook-id, so that a receiver that has it takes it for a repeat; returns the new run. Audited. P0002 if there is no such delivery, 55000 if it is under way, or its subscription disabled or dropped.';
COMMENT ON FUNCTION meshhook.replay_failed(text, timestamptz, integer) IS
'Delivers once more what was published to a subscription since a time and given up or canceled, oldest first, at most max_deliveries (1 to 10000), and returns how many; 0: none is left. What was replayed already counts as its newest replay does. Audited. 42704 if there is no such subscription, 55000 if it is disabled.';
COMMENT ON FUNCTION meshhook.delivery_target(jsonb) IS 'Where an attempt goes: {"url", "secret", "revision"}, or {"reason"} why it goes nowhere. For the workflow that delivers.';
COMMENT ON FUNCTION meshhook.delivery_succeeded(jsonb) IS 'Notes that a subscription is not failing, if it still is of the revision given. For the workflow that delivers.';
COMMENT ON FUNCTION meshhook.delivery_failed(jsonb) IS 'Notes that an attempt failed by the receiver''s fault, if the subscription still is of the revision given; {"disabled": reason} if that disables it. For the workflow that delivers.';

COMMENT ON FUNCTION meshhook.uuid_floor(timestamptz) IS 'The smallest UUIDv7 of a time, in milliseconds: a bound of a leaf. For maintenance.';
COMMENT ON FUNCTION meshhook.uuid_time(uuid) IS 'The time in a UUIDv7, in milliseconds: when a run was started.';
COMMENT ON FUNCTION meshhook.add_leaf(uuid, uuid) IS 'Adds a leaf of runs, events and snapshots. For maintenance.';
COMMENT ON FUNCTION meshhook.last_leaf(regclass) IS 'The open-ended leaf of a partitioned table. For maintenance.';
COMMENT ON FUNCTION meshhook.settings_changed() IS 'Tells every backend, when the transaction commits, to read anew what it keeps of workflows and endpoints. The trigger of their tables.';
COMMENT ON FUNCTION meshhook.ensure_leaves() IS 'Makes the first leaf if there is none. For publish_workflow and activate.';
COMMENT ON FUNCTION meshhook.rotate_leaves(integer) IS 'One step of closing the open leaf and opening the next. For maintain.';
-- Who may do what. Nothing is PUBLIC's; users get the API through grant_api, executors their five functions.
DO $$
DECLARE
    relation record;
    routine record;
BEGIN
    FOR relation IN
        SELECT c.oid::regclass AS name, c.relkind,
               EXISTS (SELECT FROM pg_catalog.pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attname = 'project_id') AS per_project
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM PUBLIC', relation.name);
        IF relation.relkind IN ('r', 'p') THEN
            EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation.name);
            IF relation.per_project THEN
                EXECUTE pg_catalog.format(
                    'CREATE POLICY of_project ON %s FOR SELECT USING (project_id = (SELECT meshhook.current_project_id()))',
                    relation.name);
            END IF;
        END IF;
        IF relation.relkind = 'v' THEN
            EXECUTE pg_catalog.format('ALTER VIEW %s OWNER TO meshhook_owner', relation.name);
        END IF;
    END LOOP;
    FOR routine IN
        SELECT p.oid::regprocedure AS name FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'meshhook'::regnamespace
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine.name);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO meshhook_owner', routine.name);
    END LOOP;
END
$$;

-- Their plans are kept and may be made while the tables are empty: they must not read whole tables once
-- those are full. Every hot statement is a look-up by key, so these settings only forbid the wrong plans. Where a table
-- has no key to look up by, its plan costs as much as what is forbidden does, and would be compiled for nothing.
DO $$
DECLARE
    routine regprocedure;
    setting text;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'meshhook'::regnamespace AND p.proname = ANY (ARRAY[
            'backfill_schedule', 'cancel_run', 'claim_jobs', 'commit_consumer', 'complete_jobs', 'create_blob', 'create_snapshot',
            'decide_approval', 'delete_stream', 'delivery_failed', 'delivery_succeeded',
            'delivery_target', 'drop_consumer', 'edit_run', 'enqueue_event', 'fail_jobs',
            'fork_run',
            'heartbeat_jobs', 'kill_run', 'last_message_of_run', 'messages_of_run', 'messages_of_runs',
            'open_outcome', 'open_resume_url', 'pause_run', 'publish_event',
            'purge_stream', 'put_job_blob', 'read_blob', 'read_consumer', 'read_job_blob', 'receive_webhook', 'redeliver',
            'release_jobs',
            'replay_delivery', 'replay_failed', 'replay_run', 'reset_run',
            'resize_consumer', 'resume_run', 'retry_run', 'run_diff', 'run_log',
            'run_state', 'run_state_at', 'run_timeline', 'seek_consumer', 'signal_run', 'skip_node', 'start_run',
            'submit_event', 'sync_executor', 'tick', 'trigger_schedule', 'use_resume_url', 'webhook_outcomes'])
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', routine);
        EXECUTE pg_catalog.format('ALTER FUNCTION %s SET jit = off', routine);
        FOREACH setting IN ARRAY ARRAY['seqscan', 'bitmapscan', 'hashjoin', 'mergejoin'] LOOP
            EXECUTE pg_catalog.format('ALTER FUNCTION %s SET enable_%s = off', routine, setting);
        END LOOP;
    END LOOP;
END
$$;

-- One list says what the user API is; grant_api gives exactly it.
CREATE FUNCTION meshhook.api_routines() RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'meshhook'::regnamespace AND p.proname = ANY (ARRAY[
        'alter_endpoint', 'alter_subscription', 'append_message',
        'append_messages', 'archive_workflow', 'await_run',
        'backfill_schedule',
        'cancel_bulk_operation', 'cancel_run', 'claim_jobs', 'commit_consumer', 'complete_job', 'complete_jobs',
        'create_blob', 'create_bulk_operation', 'create_endpoint', 'create_schedule',
        'create_snapshot', 'create_subscription', 'current_project_id',
        'decide_approval', 'disable_subscription', 'discard_draft', 'drop_consumer', 'drop_endpoint',
        'drop_schedule', 'drop_secret', 'drop_subscription', 'edit_run', 'enable_subscription',
        'enqueue_event', 'fail_job', 'fail_jobs', 'fork_run', 'hash_64',
        'heartbeat_jobs', 'holders_of_positions', 'is_active',
        'kill_run', 'last_message', 'log_job', 'pause_project', 'pause_run', 'pause_schedule', 'pause_workflow',
        'preview_expression', 'preview_schedule', 'preview_template',
        'project_is_paused', 'publish_draft', 'publish_event',
        'publish_workflow', 'put_job_blob', 'read_all', 'read_blob', 'read_category', 'read_consumer', 'read_job_blob',
        'read_stream', 'redeliver', 'release_jobs',
        'replay_delivery', 'replay_failed', 'replay_run', 'reset_run',
        'resize_consumer', 'resume_project', 'resume_run', 'resume_schedule',
        'resume_workflow', 'retry_run', 'rollback_workflow', 'rotate_endpoint_secret', 'run_diff', 'run_filter',
        'run_history', 'run_log', 'run_log_text', 'run_state', 'run_state_at', 'run_status_after', 'run_timeline',
        'safe_position', 'save_draft', 'search_runs', 'seek_consumer', 'set_endpoint_rate', 'set_run_tags', 'set_secret',
        'signal_run', 'simulate_run', 'skip_node', 'start_run', 'status', 'stream_cardinal_id', 'stream_category',
        'stream_id', 'stream_version', 'submit_event', 'sync_executor', 'tick', 'trigger_schedule', 'unarchive_workflow',
        'uuid_floor', 'uuid_time', 'validate_workflow', 'verify_run', 'verify_runs', 'version', 'wait_append', 'wait_for_messages',
        'wait_for_run', 'wait_turn', 'workflow_diff', 'workflow_schema'])
$$;

CREATE FUNCTION meshhook.grant_api(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    routine regprocedure;
    readable text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA meshhook TO %s', role);
    FOR routine IN SELECT meshhook.api_routines() LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', routine, role);
    END LOOP;
    FOREACH readable IN ARRAY ARRAY['runs', 'run_steps', 'run_audit_trail', 'stuck_runs', 'diverging_runs', 'run_divergence', 'queued_runs', 'dead_letters', 'run', 'run_queue', 'run_lane',
        'run_slot', 'run_rate', 'run_tag', 'bulk_operations', 'bulk_operation', 'bulk_failure', 'run_event', 'inbox', 'job', 'timer',
        'workflow', 'workflow_draft', 'workflow_version', 'workflow_versions',
        'workflows', 'drafts', 'delivery', 'endpoint', 'endpoints', 'secret', 'secrets', 'blob', 'blob_use', 'blobs',
        'subscription', 'subscription_event', 'subscriptions', 'subscription_deliveries',
        'audit_log', 'streams', 'stream', 'message', 'position_holders', 'consumer_lag', 'consumer', 'consumer_position',
        'schedules', 'schedule', 'schedule_firing'] LOOP
        EXECUTE format('GRANT SELECT ON meshhook.%I TO %s', readable, role);
    END LOOP;
    -- What a project is called; row policies show a role its own.
    EXECUTE format('GRANT SELECT (project_id, uuid, slug, name) ON meshhook.project TO %s', role);
END
$$;
COMMENT ON FUNCTION meshhook.grant_api(regrole) IS
    'Lets a role use meshhook: publish, start, read, cancel, claim, append, consume. What it sees is still only its project. Needs the rights of whoever installed the extension.';
COMMENT ON FUNCTION meshhook.api_routines() IS 'The user API: the routines that grant_api grants.';
REVOKE ALL ON FUNCTION meshhook.grant_api(regrole), meshhook.api_routines() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION
    meshhook.claim_jobs(text, text, integer, interval),
    meshhook.heartbeat_jobs(text[], bigint[], interval),
    meshhook.complete_jobs(text[], bigint[], jsonb[]),
    meshhook.fail_jobs(text[], bigint[], jsonb[]),
    meshhook.complete_job(text, bigint, jsonb),
    meshhook.fail_job(text, bigint, jsonb),
    meshhook.log_job(text, bigint, text, text, jsonb),
    meshhook.put_job_blob(text, bigint, bytea),
    meshhook.read_job_blob(text, bigint, text),
    meshhook.release_jobs(text[], bigint[], interval),
    meshhook.sync_executor(text, text, text[], text[], bigint[]),
    meshhook.receive_webhook(text, text, jsonb, text, bytea),
    meshhook.webhook_outcomes(text[]),
    meshhook.open_outcome(text),
    meshhook.open_resume_url(text),
    meshhook.use_resume_url(text, jsonb),
    meshhook.tick(integer),
    meshhook.status(),
    meshhook.is_active(),
    meshhook.version()
TO meshhook_executor;

SELECT meshhook.register_database();
