-- A dump is a backup: every table and every sequence, the default project left out because the script
-- makes it. Identity sequences are sequences too. recovered_seq alone stays out: a copy's positions begin beyond what
-- readers of the original may have seen.
DO $$
DECLARE
    relation record;
BEGIN
    FOR relation IN
        SELECT c.oid::regclass AS name, c.relname, c.relkind
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind IN ('r', 'p', 'S')
        ORDER BY c.oid
    LOOP
        IF relation.relname <> 'recovered_seq' THEN
            PERFORM pg_catalog.pg_extension_config_dump(
                relation.name,
                CASE WHEN relation.relname = 'project' THEN 'WHERE project_id <> 0' ELSE '' END);
        END IF;
        -- An identity's sequence follows its table.
        IF relation.relkind <> 'S' OR NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend d
            WHERE d.objid = relation.name AND d.deptype = 'i' AND d.classid = 'pg_class'::regclass
        ) THEN
            EXECUTE pg_catalog.format('ALTER TABLE %s OWNER TO meshhook_owner', relation.name);
        END IF;
    END LOOP;
END
$$;
