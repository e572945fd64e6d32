-- The roles outlive the extension: they are cluster-wide and not part of a dump, so the script makes
-- them where they are missing and nothing ever drops them.
DO $$
DECLARE
    wanted text;
    schema_owner oid;
BEGIN
    IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'meshhook needs a database in UTF8, this one is in %', pg_catalog.getdatabaseencoding()
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'JSON documents hold any character: CREATE DATABASE … ENCODING UTF8 TEMPLATE template0.';
    END IF;
    FOREACH wanted IN ARRAY ARRAY['meshhook_owner', 'meshhook_executor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = wanted) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
        ELSIF EXISTS (
            SELECT FROM pg_catalog.pg_roles r
            WHERE r.rolname = wanted AND (r.rolsuper OR r.rolbypassrls OR r.rolcanlogin)
        ) THEN
            RAISE EXCEPTION 'role % exists and is not a plain NOLOGIN role', pg_catalog.quote_ident(wanted)
                USING ERRCODE = 'invalid_role_specification',
                      HINT = 'Turns run with the rights of meshhook_owner; take SUPERUSER, BYPASSRLS and LOGIN from both roles.';
        END IF;
    END LOOP;
    -- Whoever owns the schema could replace what is looked up in it.
    SELECT n.nspowner INTO schema_owner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'meshhook';
    IF schema_owner <> (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
       AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = schema_owner) THEN
        RAISE EXCEPTION 'schema meshhook belongs to somebody else'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Drop the schema, or give it to the role that installs the extension.';
    END IF;
END
$$;
REVOKE ALL ON SCHEMA meshhook FROM PUBLIC;
-- CREATE, because maintenance adds leaves.
GRANT USAGE, CREATE ON SCHEMA meshhook TO meshhook_owner;
GRANT USAGE ON SCHEMA meshhook TO meshhook_executor;
