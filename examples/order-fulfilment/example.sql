\set definition `cat workflow.json`
SELECT meshhook.publish_workflow(:'definition') AS version;

-- The payment service fails twice, the order is large, all goes well.
SELECT meshhook.start_run('order-fulfilment', '{"order": {
    "id": "A-1042", "customer": "ada@example.com", "currency": "EUR",
    "lines": [{"sku": "lamp", "quantity": 2, "price": 170}, {"sku": "desk", "quantity": 1, "price": 300}]}}') AS run \gset
CALL meshhook.await_run(:'run');

-- This one cannot be shipped: the run fails, and the charge and the reservation are undone, the latest first.
SELECT meshhook.start_run('order-fulfilment', '{"order": {
    "id": "B-7", "customer": "ada@example.com", "currency": "EUR",
    "lines": [{"sku": "unicorn", "quantity": 1, "price": 90}]}}') AS run \gset
CALL meshhook.await_run(:'run');
SELECT error ->> 'node' AS failed, error ->> 'message' AS why FROM meshhook.runs WHERE run_id = :'run';
SELECT type, data ->> 'node' AS node, data -> 'output' -> 'body' AS answer
FROM meshhook.run_history(:'run') WHERE type = 'node.succeeded' ORDER BY "position";
