-- What executors of one queue tell each other. Nothing of it is worth keeping over a crash, and it costs no WAL.
-- project_id -1 stands for an executor that serves every project.
CREATE UNLOGGED TABLE meshhook.executor (
    queue text NOT NULL,
    project_id integer NOT NULL,
    name text NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, queue, name)
);
COMMENT ON TABLE meshhook.executor IS 'Executors that said they are there, and when.';

CREATE UNLOGGED TABLE meshhook.host_pause (
    queue text NOT NULL,
    project_id integer NOT NULL,
    host text NOT NULL,
    executor text NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (project_id, queue, host, executor)
);
COMMENT ON TABLE meshhook.host_pause IS 'Hosts that an executor leaves alone because they do not answer, with the project whose calls wait.';
