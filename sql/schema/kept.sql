-- Backends keep what these tables say (src/kept.rs) until one of them is written: also by a restore, by hand or
-- by a subscription of logical replication, which fires triggers for each row and no others.

ALTER FUNCTION meshhook.settings_changed() SET search_path = pg_catalog, pg_temp;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE ON meshhook.project
    FOR EACH ROW EXECUTE FUNCTION meshhook.settings_changed();
CREATE TRIGGER settings_gone AFTER TRUNCATE ON meshhook.project
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.project ENABLE ALWAYS TRIGGER settings_changed, ENABLE ALWAYS TRIGGER settings_gone;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE ON meshhook.workflow
    FOR EACH ROW EXECUTE FUNCTION meshhook.settings_changed();
CREATE TRIGGER settings_gone AFTER TRUNCATE ON meshhook.workflow
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.workflow ENABLE ALWAYS TRIGGER settings_changed, ENABLE ALWAYS TRIGGER settings_gone;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE ON meshhook.workflow_version
    FOR EACH ROW EXECUTE FUNCTION meshhook.settings_changed();
CREATE TRIGGER settings_gone AFTER TRUNCATE ON meshhook.workflow_version
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.workflow_version ENABLE ALWAYS TRIGGER settings_changed, ENABLE ALWAYS TRIGGER settings_gone;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE ON meshhook.endpoint
    FOR EACH ROW EXECUTE FUNCTION meshhook.settings_changed();
CREATE TRIGGER settings_gone AFTER TRUNCATE ON meshhook.endpoint
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.endpoint ENABLE ALWAYS TRIGGER settings_changed, ENABLE ALWAYS TRIGGER settings_gone;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE ON meshhook.endpoint_secret
    FOR EACH ROW EXECUTE FUNCTION meshhook.settings_changed();
CREATE TRIGGER settings_gone AFTER TRUNCATE ON meshhook.endpoint_secret
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.endpoint_secret ENABLE ALWAYS TRIGGER settings_changed, ENABLE ALWAYS TRIGGER settings_gone;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE ON meshhook.webhook_rate
    FOR EACH ROW EXECUTE FUNCTION meshhook.settings_changed();
CREATE TRIGGER settings_gone AFTER TRUNCATE ON meshhook.webhook_rate
    FOR EACH STATEMENT EXECUTE FUNCTION meshhook.settings_changed();
ALTER TABLE meshhook.webhook_rate ENABLE ALWAYS TRIGGER settings_changed, ENABLE ALWAYS TRIGGER settings_gone;
