"""What the extension made of a database, read from its catalogues: for the SQL reference, the lint and the upgrade test."""

# Everything the extension owns by membership, plus what hangs on it without being a member itself: leaves made at
# run time, indexes, constraints, policies, triggers.
RELATIONS = """
    SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind, c.relrowsecurity AS row_security,
           c.relispartition AS is_leaf, c.reloptions AS options, pg_get_userbyid(c.relowner) AS owner,
           obj_description(c.oid, 'pg_class') AS comment, c.relacl::text[] AS acl,
           EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                   AND d.deptype = 'e') AS is_member
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'meshhook' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    ORDER BY c.relname"""

ROUTINES = """
    SELECT p.oid, n.nspname AS schema, p.proname AS name, p.prokind AS kind, l.lanname AS language,
           p.oid::regprocedure::text AS signature, pg_get_function_arguments(p.oid) AS arguments,
           pg_get_function_result(p.oid) AS result, p.prosecdef AS is_definer, p.proconfig AS config,
           p.prosqlbody IS NOT NULL AS is_parsed, p.provolatile AS volatility,
           pg_get_userbyid(p.proowner) AS owner, r.rolsuper AS is_superusers,
           obj_description(p.oid, 'pg_proc') AS comment, p.proargnames AS argument_names, p.proargmodes AS argument_modes,
           p.pronargs AS input_count
    FROM pg_depend d
    JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
    JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    JOIN pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_language l ON l.oid = p.prolang
    JOIN pg_roles r ON r.oid = p.proowner
    WHERE d.deptype = 'e' AND e.extname = 'meshhook'
    ORDER BY p.proname, p.oid::regprocedure::text"""

COLUMNS = """
    SELECT c.relname AS relation, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
           a.attnotnull AS not_null, a.attidentity AS identity, a.attgenerated AS generated, a.attstorage AS storage,
           pg_get_expr(d.adbin, d.adrelid) AS default_value, col_description(c.oid, a.attnum) AS comment
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum"""

DATABASE = "catalogue"


def install(cluster, version=None):
    """Creates the database with the extension in it, and a role that grant_api was called for."""
    cluster.sql(f"CREATE DATABASE {DATABASE}")
    wanted = f" VERSION '{version}'" if version else ""
    cluster.sql(f"CREATE EXTENSION meshhook{wanted}", database=DATABASE)


def grant_api(cluster):
    """Makes a role that is an application's, to see what it may do."""
    cluster.sql("CREATE ROLE application NOLOGIN; SELECT meshhook.grant_api('application')", database=DATABASE)


def snapshot(cluster):
    """Everything that an upgraded and a fresh installation must agree on, as sorted lines of text."""
    queries = {
        "member": """
            SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
            JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
            WHERE d.deptype = 'e' AND e.extname = 'meshhook'""",
        "dumped": """
            SELECT t.oid::regclass::text || ' ' || coalesce(t.condition, '')
            FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS t(oid, condition) WHERE e.extname = 'meshhook'""",
        "routine": """
            SELECT CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.oid::regprocedure::text END
                   || ' owner ' || p.proowner::regrole || ' acl ' || coalesce(p.proacl::text, 'default')
                   || ' comment ' || coalesce(obj_description(p.oid, 'pg_proc'), 'none')
            FROM pg_proc p WHERE p.pronamespace = 'meshhook'::regnamespace""",
        "relation": """
            SELECT c.relkind::text || ' ' || c.relname || ' owner ' || c.relowner::regrole
                   || ' acl ' || coalesce(c.relacl::text, 'default') || ' options ' || coalesce(c.reloptions::text, 'none')
                   || ' row security ' || c.relrowsecurity || ' forced ' || c.relforcerowsecurity
                   || ' partitioned ' || coalesce(pg_get_partkeydef(c.oid), 'no')
                   || ' comment ' || coalesce(obj_description(c.oid, 'pg_class'), 'none')
            FROM pg_class c WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
              AND NOT c.relispartition""",
        "view": """
            SELECT c.relname || ' ' || pg_get_viewdef(c.oid) FROM pg_class c
            WHERE c.relnamespace = 'meshhook'::regnamespace AND c.relkind IN ('v', 'm')""",
        # A column added by an upgrade stands last, so order is not compared; name, type and the rest are.
        "column": f"SELECT row_to_json(q)::text FROM ({COLUMNS}) AS q WHERE q.relation NOT IN (SELECT relname FROM pg_class "
                  "WHERE relispartition)",
        "constraint": """
            SELECT c.relname || ' ' || n.conname || ' ' || pg_get_constraintdef(n.oid)
            FROM pg_constraint n JOIN pg_class c ON c.oid = n.conrelid
            WHERE c.relnamespace = 'meshhook'::regnamespace AND NOT c.relispartition""",
        "index": """
            SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
            WHERE c.relnamespace = 'meshhook'::regnamespace AND NOT c.relispartition""",
        "policy": """
            SELECT c.relname || ' ' || p.polname || ' ' || p.polcmd::text || ' ' || p.polroles::regrole[]::text
                   || ' using ' || coalesce(pg_get_expr(p.polqual, p.polrelid), '')
                   || ' check ' || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '')
            FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
            WHERE c.relnamespace = 'meshhook'::regnamespace AND NOT c.relispartition""",
        "trigger": """
            SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
            WHERE c.relnamespace = 'meshhook'::regnamespace AND NOT t.tgisinternal AND NOT c.relispartition""",
        "type": """
            SELECT t.typtype::text || ' ' || t.typname FROM pg_type t
            WHERE t.typnamespace = 'meshhook'::regnamespace AND t.typrelid = 0 AND t.typelem = 0""",
        "schema": """
            SELECT n.nspname || ' acl ' || coalesce(n.nspacl::text, 'default') FROM pg_namespace n
            WHERE n.nspname LIKE 'meshhook%'""",
        "version": "SELECT extversion FROM pg_extension WHERE extname = 'meshhook'",
    }
    lines = []
    for kind, query in queries.items():
        for row in cluster.rows(f"SELECT t.text FROM ({query}) AS t(text)", database=DATABASE):
            # A definition of several lines stays one entry.
            lines.append(f"{kind}: {row['text']}".replace("\n", "\n    "))
    return sorted(lines)
