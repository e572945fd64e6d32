\set definition `cat workflow.json`
SELECT meshhook.publish_workflow(:'definition') AS version;

-- What would happen if nobody paid, told at once: the clock of a simulation jumps.
SELECT "time", type, node
FROM meshhook.simulate_run(:'definition', '{"invoice": "2026-0815", "customer": "ada@example.com"}',
                           mocks => '{"remind": {"output": {"status": 202}},
                                      "collect": {"output": {"status": 201, "body": {"id": "case-1"}}}}',
                           clock => '2026-01-01 09:00:00Z')
ORDER BY "position";

-- A real one. For a month it is one row with a time; then, here at once, the money comes.
SELECT meshhook.start_run('reminder', '{"invoice": "2026-0815", "customer": "ada@example.com"}',
                          idempotency_key => 'invoice-2026-0815', idempotency_window => '1 second') AS run \gset
SELECT meshhook.signal_run(:'run', 'paid', '{"by": "card"}');
CALL meshhook.await_run(:'run');
