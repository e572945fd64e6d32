-- Starts that wait: for a time, for a slot, for the rate, for the end of a pause. A start is inserted here by whoever
-- starts the run, without any lock; admission (src/flow/admit.rs) alone moves it on, one transaction per workflow at a
-- time, so nothing below but run_queue and run_slot_freed is ever written by two at once.
CREATE TABLE meshhook.run_queue (
    project_id integer NOT NULL,
    run_id uuid NOT NULL,
    workflow_id bigint NOT NULL,
    -- SHA-256 of both keys: starts with the same ones stand in one lane.
    lane bytea NOT NULL,
    -- Null: not counted.
    concurrency_key text,
    rate_key text,
    priority smallint NOT NULL,
    ready_at timestamptz NOT NULL,
    -- Whether its time has come and it has taken its place among the others of its lane.
    in_lane boolean NOT NULL DEFAULT false,
    -- Whether somebody holds it back, and why.
    paused boolean NOT NULL DEFAULT false,
    pause_reason text,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    -- What was sent to it meanwhile, as objects of kind, data and metadata: it follows the start into the inbox.
    facts jsonb NOT NULL DEFAULT '[]',
    PRIMARY KEY (project_id, run_id)
);
CREATE INDEX run_queue_arrival ON meshhook.run_queue (project_id, workflow_id, ready_at) WHERE NOT in_lane AND NOT paused;
CREATE INDEX run_queue_order ON meshhook.run_queue (project_id, workflow_id, lane, priority DESC, ready_at, run_id)
    WHERE in_lane;
COMMENT ON TABLE meshhook.run_queue IS 'Starts that wait, with what the run will start from.';

CREATE TABLE meshhook.run_lane (
    project_id integer NOT NULL,
    workflow_id bigint NOT NULL,
    lane bytea NOT NULL,
    concurrency_key text,
    rate_key text,
    -- When to look at it next; null: once a slot of its concurrency key is free.
    due_at timestamptz,
    PRIMARY KEY (project_id, workflow_id, lane)
);
CREATE INDEX run_lane_due ON meshhook.run_lane (project_id, workflow_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX run_lane_concurrency ON meshhook.run_lane (project_id, workflow_id, concurrency_key);
COMMENT ON TABLE meshhook.run_lane IS 'Starts of a workflow with the same keys; served in turn, so that a long one holds up no other.';

CREATE TABLE meshhook.run_slot (
    project_id integer NOT NULL,
    run_id uuid NOT NULL,
    workflow_id bigint NOT NULL,
    concurrency_key text NOT NULL,
    admitted_at timestamptz NOT NULL,
    -- Asked to end in favour of a newer run.
    canceling boolean NOT NULL DEFAULT false,
    PRIMARY KEY (project_id, run_id)
);
CREATE INDEX run_slot_key ON meshhook.run_slot (project_id, workflow_id, concurrency_key, admitted_at);
COMMENT ON TABLE meshhook.run_slot IS 'Runs that count against a concurrency limit. The rows are the count.';

-- A row of its own instead of a mark on the slot: a turn inserts, and so waits for nobody.
CREATE TABLE meshhook.run_slot_freed (
    project_id integer NOT NULL,
    run_id uuid NOT NULL,
    workflow_id bigint NOT NULL,
    PRIMARY KEY (project_id, workflow_id, run_id)
);
COMMENT ON TABLE meshhook.run_slot_freed IS 'Slots whose run has ended; the next admission takes them away. The nil run: limits have changed.';

CREATE TABLE meshhook.run_rate (
    project_id integer NOT NULL,
    workflow_id bigint NOT NULL,
    rate_key text NOT NULL,
    -- When all that was admitted will have been paid for, one start each period / limit.
    paid_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, workflow_id, rate_key)
);
COMMENT ON TABLE meshhook.run_rate IS 'How much of each start rate is used up.';

ALTER TABLE meshhook.run_queue SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE meshhook.run_slot SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE meshhook.run_slot_freed SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE meshhook.run_lane SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- When each workflow that may go on has something to admit. Hops from workflow to workflow along the indexes, whatever
-- lies in between.
CREATE VIEW meshhook.flow_due WITH (security_invoker = true) AS
WITH RECURSIVE arrival AS (
    (SELECT project_id, workflow_id, ready_at AS due_at FROM meshhook.run_queue WHERE NOT in_lane AND NOT paused
     ORDER BY project_id, workflow_id, ready_at LIMIT 1)
    UNION ALL
    SELECT n.project_id, n.workflow_id, n.ready_at FROM arrival a CROSS JOIN LATERAL (
        SELECT q.project_id, q.workflow_id, q.ready_at FROM meshhook.run_queue q
        WHERE NOT q.in_lane AND NOT q.paused AND (q.project_id, q.workflow_id) > (a.project_id, a.workflow_id)
        ORDER BY q.project_id, q.workflow_id, q.ready_at LIMIT 1) n),
lane AS (
    (SELECT project_id, workflow_id, due_at FROM meshhook.run_lane WHERE due_at IS NOT NULL
     ORDER BY project_id, workflow_id, due_at LIMIT 1)
    UNION ALL
    SELECT n.project_id, n.workflow_id, n.due_at FROM lane a CROSS JOIN LATERAL (
        SELECT l.project_id, l.workflow_id, l.due_at FROM meshhook.run_lane l
        WHERE l.due_at IS NOT NULL AND (l.project_id, l.workflow_id) > (a.project_id, a.workflow_id)
        ORDER BY l.project_id, l.workflow_id, l.due_at LIMIT 1) n),
freed AS (
    (SELECT project_id, workflow_id FROM meshhook.run_slot_freed ORDER BY project_id, workflow_id LIMIT 1)
    UNION ALL
    SELECT n.project_id, n.workflow_id FROM freed a CROSS JOIN LATERAL (
        SELECT f.project_id, f.workflow_id FROM meshhook.run_slot_freed f
        WHERE (f.project_id, f.workflow_id) > (a.project_id, a.workflow_id)
        ORDER BY f.project_id, f.workflow_id LIMIT 1) n),
due AS (
    SELECT * FROM arrival
    UNION ALL SELECT * FROM lane
    UNION ALL SELECT project_id, workflow_id, '-infinity' FROM freed)
SELECT d.project_id, d.workflow_id, min(d.due_at) AS due_at
FROM due d
JOIN meshhook.workflow w ON w.project_id = d.project_id AND w.workflow_id = d.workflow_id AND w.pause_mode IS NULL
JOIN meshhook.project p ON p.project_id = d.project_id AND p.pause_mode IS NULL
GROUP BY d.project_id, d.workflow_id;
COMMENT ON VIEW meshhook.flow_due IS 'When the next start of each workflow can be looked at. For the orchestrator.';
