-- Rows change when a subscription does, and once an hour while it fails, never with each delivery that goes as the last
-- one went: deliveries of one subscription do not stand in line for its row.
CREATE TABLE meshhook.subscription (
    project_id integer NOT NULL REFERENCES meshhook.project,
    subscription_id uuid NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    secret text,
    disable_after interval,
    failing_since timestamptz,
    failed_at timestamptz,
    silence interval NOT NULL DEFAULT '0',
    revision integer NOT NULL DEFAULT 1,
    disabled_at timestamptz,
    disabled_reason text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    created_by name NOT NULL,
    PRIMARY KEY (project_id, subscription_id),
    UNIQUE (project_id, name),
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    CHECK ((failing_since IS NULL) = (failed_at IS NULL))
);
COMMENT ON TABLE meshhook.subscription IS 'Who is told of events.';
COMMENT ON COLUMN meshhook.subscription.secret IS 'The name in meshhook.secret of what signs; null: deliveries are not signed.';
COMMENT ON COLUMN meshhook.subscription.disable_after IS 'How long every attempt may have failed before it is disabled; null: for ever.';
COMMENT ON COLUMN meshhook.subscription.failing_since IS 'The first failed attempt since the last success.';
COMMENT ON COLUMN meshhook.subscription.failed_at IS 'The latest failed attempt, to the hour.';
COMMENT ON COLUMN meshhook.subscription.silence IS 'How much of the time from failing_since to failed_at does not count: nothing was attempted.';
COMMENT ON COLUMN meshhook.subscription.revision IS 'Raised where the failing is counted anew: what was sent under an earlier one counts for nothing.';

-- The pattern leads: an event is looked up by the few patterns that match it, however many subscriptions there are.
CREATE TABLE meshhook.subscription_event (
    project_id integer NOT NULL,
    pattern text NOT NULL,
    subscription_id uuid NOT NULL,
    PRIMARY KEY (project_id, pattern, subscription_id),
    FOREIGN KEY (project_id, subscription_id) REFERENCES meshhook.subscription ON DELETE CASCADE
);
CREATE INDEX subscription_event_of ON meshhook.subscription_event (project_id, subscription_id);
COMMENT ON TABLE meshhook.subscription_event IS 'What subscriptions are told of: a type of event, all that begin with one ("order.*"), or all ("*").';
