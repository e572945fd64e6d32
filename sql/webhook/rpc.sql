-- Endpoints without the sidecar: each has a function of its own, which PostgREST serves as /rpc/hook_<endpoint>.
--
-- The functions are made at run time and no members of the extension, so that a dump has them; they only name their
-- endpoint, so that an update of the extension need not know them, and go when the extension goes.
CREATE SCHEMA meshhook_public;
COMMENT ON SCHEMA meshhook_public IS 'Functions that receive webhooks, one for each endpoint made with rpc => true: for PostgREST to expose.';
GRANT USAGE ON SCHEMA meshhook_public TO PUBLIC;
GRANT USAGE, CREATE ON SCHEMA meshhook_public TO meshhook_owner;

CREATE FUNCTION meshhook.receive_rpc(endpoint text, body bytea) RETURNS json
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Empty behind the transaction that had them.
    headers jsonb := coalesce(nullif(current_setting('request.headers', true), '')::jsonb, '{}');
    method text := coalesce(nullif(current_setting('request.method', true), ''), 'POST');
    answer record;
BEGIN
    SELECT * INTO answer FROM meshhook.receive_webhook(endpoint, method, headers, '', body);
    PERFORM set_config('response.status', answer.status::text, true);
    PERFORM set_config('response.headers',
        (SELECT coalesce(jsonb_agg(jsonb_build_object(h.key, h.value)), '[]') FROM jsonb_each(answer.headers) h)::text, true);
    RETURN answer.body;
END
$$;

-- The body comes as PostgREST knows it: json keeps the text as it was sent.
CREATE FUNCTION meshhook.make_rpc(endpoint text, roles text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    body_type text;
    bytes text;
    routine text;
    role text;
BEGIN
    FOREACH body_type IN ARRAY ARRAY['json', 'text', 'bytea'] LOOP
        routine := format('meshhook_public.%I(%s)', 'hook_' || endpoint, body_type);
        bytes := CASE body_type WHEN 'bytea' THEN '$1' ELSE 'convert_to($1::text, ''UTF8'')' END;
        EXECUTE format('CREATE FUNCTION %s RETURNS json LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
                       routine, format('SELECT meshhook.receive_rpc(%L, %s)', endpoint, bytes));
        EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION meshhook', routine);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', routine);
        FOREACH role IN ARRAY roles LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', routine, role);
        END LOOP;
    END LOOP;
    -- PostgREST knows functions by heart.
    PERFORM pg_notify('pgrst', 'reload schema');
END
$$;

CREATE FUNCTION meshhook.drop_rpc(endpoint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace = 'meshhook_public'::regnamespace AND p.proname = 'hook_' || endpoint
    LOOP
        EXECUTE format('DROP FUNCTION %s', routine);
    END LOOP;
    PERFORM pg_notify('pgrst', 'reload schema');
END
$$;
