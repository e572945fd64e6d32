-- What holds of every object of the extension, whoever adds the next one. Each query lists the offenders.
SELECT extversion = meshhook.version() AS versions_agree, extnamespace::regnamespace, extrelocatable
FROM pg_extension WHERE extname = 'meshhook';

-- Every routine says what it is for.
SELECT p.oid::regprocedure::text AS routine FROM pg_proc p
WHERE pronamespace = 'meshhook'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
ORDER BY 1;

CREATE ROLE regress_catalog;
SELECT meshhook.grant_api('regress_catalog');
-- The user's API, by name.
SELECT DISTINCT proname FROM pg_proc p
WHERE pronamespace = 'meshhook'::regnamespace AND has_function_privilege('regress_catalog', p.oid, 'EXECUTE')
ORDER BY 1;
SELECT relname FROM pg_class c
WHERE relnamespace = 'meshhook'::regnamespace AND has_table_privilege('regress_catalog', c.oid, 'SELECT')
ORDER BY 1;
SELECT relname FROM pg_class c
WHERE relnamespace = 'meshhook'::regnamespace AND relkind IN ('r', 'p', 'v')
  AND has_table_privilege('regress_catalog', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
ORDER BY 1;

-- The executor's.
SELECT DISTINCT proname FROM pg_proc p
WHERE pronamespace = 'meshhook'::regnamespace AND has_function_privilege('meshhook_executor', p.oid, 'EXECUTE')
ORDER BY 1;
SELECT relname FROM pg_class c
WHERE relnamespace = 'meshhook'::regnamespace AND relkind IN ('r', 'p', 'v')
  AND has_table_privilege('meshhook_executor', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
ORDER BY 1;

-- Nothing is PUBLIC's.
SELECT p.oid::regprocedure::text AS routine FROM pg_proc p
WHERE pronamespace = 'meshhook'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
ORDER BY 1;
SELECT relname FROM pg_class c
WHERE relnamespace = 'meshhook'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
  AND CASE relkind WHEN 'S' THEN has_sequence_privilege('public', c.oid, 'USAGE, SELECT, UPDATE')
      ELSE has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE') END
ORDER BY 1;
SELECT has_schema_privilege('public', 'meshhook', 'USAGE, CREATE') AS public_may_look;

-- Every routine pins its search_path, pg_temp last. A procedure that ends transactions cannot, and in the functions of
-- the event store it would cost more than the work; these qualify everything instead.
SELECT p.oid::regprocedure::text AS routine, prokind FROM pg_proc p
WHERE pronamespace = 'meshhook'::regnamespace
  AND NOT coalesce(EXISTS (SELECT FROM unnest(proconfig) AS setting
                           WHERE setting LIKE 'search\_path=%' AND setting ~ '(=| )pg_temp$'), false)
ORDER BY 1;

-- No superuser's rights are lent.
SELECT p.oid::regprocedure::text AS routine, r.rolname FROM pg_proc p JOIN pg_roles r ON r.oid = proowner
WHERE pronamespace = 'meshhook'::regnamespace AND prosecdef AND r.rolsuper
ORDER BY 1;

-- No argument is a key word that needs quotes when it is named.
SELECT p.oid::regprocedure::text AS routine, argument FROM pg_proc p, unnest(proargnames[1:pronargs]) AS argument
JOIN pg_get_keywords() k ON k.word = argument
WHERE pronamespace = 'meshhook'::regnamespace AND k.catcode IN ('R', 'T')
ORDER BY 1, 2;

-- Every table and every sequence is in the dump, but for the one that must be new in every copy.
SELECT relname, relkind FROM pg_class c
WHERE relnamespace = 'meshhook'::regnamespace AND relkind IN ('r', 'p', 'S') AND NOT relispartition
  AND c.oid <> ALL (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'meshhook')
ORDER BY 1;

-- Row security is on everywhere, and the tenant leads every key.
SELECT relname FROM pg_class
WHERE relnamespace = 'meshhook'::regnamespace AND relkind IN ('r', 'p') AND NOT relrowsecurity
ORDER BY 1;
SELECT i.indrelid::regclass::text AS relation, pg_get_indexdef(i.indexrelid) FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE c.relnamespace = 'meshhook'::regnamespace AND i.indisunique AND a.attname <> 'project_id'
ORDER BY 1, 2;

-- The parents of leaves are bare: with a key they could not be restored.
SELECT relname FROM pg_class c
WHERE relnamespace = 'meshhook'::regnamespace AND relkind = 'p'
  AND (EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid)
       OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype IN ('p', 'u', 'f')))
ORDER BY 1;

-- The script makes one row, the default project.
SELECT project_id, slug, name FROM meshhook.project;
SELECT count(*) AS installations FROM meshhook.installation;

DROP OWNED BY regress_catalog;
DROP ROLE regress_catalog;
