-- Backends keep what these tables say (src/kept.rs) until one of them is written: also by a restore or by hand.

ALTER FUNCTION meshhook.settings_changed() SET search_path = pg_catalog, pg_temp;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meshhook.project
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.project ENABLE ALWAYS TRIGGER settings_changed;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meshhook.workflow
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.workflow ENABLE ALWAYS TRIGGER settings_changed;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meshhook.workflow_version
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.workflow_version ENABLE ALWAYS TRIGGER settings_changed;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meshhook.endpoint
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.endpoint ENABLE ALWAYS TRIGGER settings_changed;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meshhook.endpoint_secret
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.endpoint_secret ENABLE ALWAYS TRIGGER settings_changed;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON meshhook.webhook_rate
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.webhook_rate ENABLE ALWAYS TRIGGER settings_changed;
