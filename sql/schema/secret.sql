CREATE TABLE meshhook.secret (
    project_id integer NOT NULL REFERENCES meshhook.project,
    name text NOT NULL,
    sealed text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (project_id, name)
);
COMMENT ON TABLE meshhook.secret IS 'Secrets that calls send outside, sealed under a key that only sidecars have.';
