-- Subscriptions: made, changed, disabled, dropped; who gets which event; what is refused.
-- The first one brings the workflow that delivers; nobody else may have it.
SET client_min_messages = warning;
SELECT meshhook.create_subscription('acme', 'https://acme.test/hooks', '{invoice.*,invoice.*,order.made}') IS NOT NULL AS made;
SET client_min_messages = error;
SELECT workflow, newest_version, published_by FROM meshhook.workflows WHERE workflow LIKE 'meshhook:%';
SELECT meshhook.publish_workflow('{"name": "meshhook:delivery", "nodes": [{"id": "n", "type": "transform", "with": {"output": 1}}]}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.rollback_workflow('meshhook:delivery', 1);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.set_secret('acme_key', 'mhs1:k1:YQ==');
SELECT meshhook.create_subscription('beta', 'http://beta.test/', '{*}', secret => 'acme_key', disable_after => NULL) IS NOT NULL AS made;
SELECT meshhook.create_subscription('gamma', 'http://gamma.test/', '{invoice.paid}', disable_after => '36 hours') IS NOT NULL AS made;
SELECT subscription, url, events, secret, status, disabled_reason, failing_since, disable_after, created_by FROM meshhook.subscriptions ORDER BY 1;
SELECT count(*) FROM meshhook.workflow_versions WHERE workflow = 'meshhook:delivery';

-- What is none.
SELECT meshhook.create_subscription('acme', 'https://acme.test/', '{*}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.create_subscription('', 'https://acme.test/', '{*}');
SELECT meshhook.create_subscription(E'a\nb', 'https://acme.test/', '{*}');
SELECT meshhook.create_subscription('d', NULL, '{*}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT url, meshhook.create_subscription('d', url, '{*}') FROM (VALUES ('ftp://a.test/')) u (url);
SELECT meshhook.create_subscription('d', 'https://user@a.test/', '{*}');
SELECT meshhook.create_subscription('d', 'https://a.test/', '{}');
SELECT meshhook.create_subscription('d', 'https://a.test/', '{a,NULL}');
SELECT meshhook.create_subscription('d', 'https://a.test/', '{a.**}');
SELECT meshhook.create_subscription('d', 'https://a.test/', '{a..b}');
SELECT meshhook.create_subscription('d', 'https://a.test/', '{a b}');
SELECT meshhook.create_subscription('d', 'https://a.test/', (SELECT array_agg('t' || n) FROM generate_series(1, 101) n));
SELECT meshhook.create_subscription('d', 'https://a.test/', '{*}', disable_after => '0');
SELECT meshhook.create_subscription('d', 'https://a.test/', '{*}', secret => 'none');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Changed: what is given, and no more.
SELECT meshhook.alter_subscription('gamma', url => 'https://gamma.test/', events => '{invoice.paid,a}', secret => 'acme_key');
SELECT meshhook.alter_subscription('beta', disable_after => '1 day');
SELECT subscription, url, events, secret, disable_after FROM meshhook.subscriptions ORDER BY 1;
SELECT meshhook.alter_subscription('gamma', events => '{invoice.paid}', clear => '{secret,disable_after}');
SELECT url, events, secret, disable_after FROM meshhook.subscriptions WHERE subscription = 'gamma';
SELECT meshhook.alter_subscription('gamma');
SELECT meshhook.alter_subscription('gamma', clear => '{url}');
SELECT meshhook.alter_subscription('gamma', secret => 'acme_key', clear => '{secret}');
SELECT meshhook.alter_subscription('nobody', url => 'https://a.test/');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- Each event to those who want it.
SELECT type, (SELECT array_agg(subscription) FROM meshhook.publish_event(type, '{"n": 1}'))
FROM unnest(ARRAY['invoice.paid', 'invoice.paid.late', 'invoice', 'order.made', 'order.made.late', 'other']) type;
SELECT meshhook.publish_event('', '{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.publish_event('a.*', '{}');
SELECT meshhook.publish_event('a', NULL);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.publish_event('a', '{}', '');
SELECT meshhook.publish_event('a', to_jsonb(repeat('x', 1100000)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
-- The payload would do, the event that is sent does not.
SELECT meshhook.publish_event('a', to_jsonb(repeat('x', 1048576 - 63)));
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.publish_event('a', (repeat('[', 100) || repeat(']', 100))::jsonb);
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT jsonb_path_query_array(meshhook.publish_event('{"type": "other", "data": [1]}'), '$.deliveries[*].subscription');
SELECT meshhook.publish_event('{"type": "other", "data": null}') -> 'deliveries' -> 0 ? 'run_id' AS with_null;
SELECT meshhook.publish_event('{"type": "other"}');
SELECT meshhook.publish_event('{"type": 1, "data": 1}');
SELECT meshhook.publish_event('{"type": "other", "data": 1, "key": 1}');
SELECT meshhook.publish_event('[]');

-- Nothing for those who are disabled or gone.
SELECT meshhook.disable_subscription('beta', 'asked to'), meshhook.disable_subscription('beta') AS again;
SELECT status, disabled_at IS NOT NULL AS since, disabled_reason FROM meshhook.subscriptions WHERE subscription = 'beta';
SELECT count(*) FROM meshhook.publish_event('other', '{}');
SELECT meshhook.replay_failed('beta', now());
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT meshhook.enable_subscription('beta'), meshhook.enable_subscription('beta') AS again;
SELECT meshhook.replay_failed('beta', '2020-01-01', max_deliveries => 0);
SELECT meshhook.replay_failed('beta', '2020-01-01');
SELECT meshhook.replay_delivery('00000000-0000-7000-8000-000000000000');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- What the receiver is sent.
SELECT count(meshhook.tick()) FROM generate_series(1, 20);
SELECT subscription, event_type, state, attempts, last_status, last_error, next_attempt_at IS NOT NULL AS goes_on,
       webhook_id ~ '^msg_[0-9a-f]{32}$' AS named, replay_of
FROM meshhook.subscription_deliveries ORDER BY 1, 2;
SELECT meshhook.drop_subscription('gamma');
SELECT meshhook.drop_subscription('gamma');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT DISTINCT subscription FROM meshhook.subscription_deliveries ORDER BY 1;
SELECT meshhook.delivery_target('{}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE
SELECT action, target, details FROM meshhook.audit_log WHERE action LIKE 'subscription.%' ORDER BY audit_id;
-- Nothing of it is left for the tests that follow.
SELECT meshhook.drop_subscription(subscription) FROM meshhook.subscriptions;
SELECT count(meshhook.kill_run(run_id)) AS killed FROM meshhook.runs WHERE workflow = 'meshhook:delivery';
SELECT count(meshhook.tick()) FROM generate_series(1, 20);
SELECT workflow, status, count(*) FROM meshhook.runs WHERE workflow = 'meshhook:delivery' GROUP BY 1, 2;
