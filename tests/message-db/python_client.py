"""What users of the Python client message-db-py do, done to the store that a URL names.

usage: python_client.py URL       URL: postgresql://message_store@host:port/database

The client is used as it is published. The store must be empty. The first thing that is not as it should be ends the
program with an AssertionError; at the end stands the number of scenarios.
"""

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

from message_db.client import MessageDB

COLUMNS = ["id", "stream_name", "type", "position", "global_position", "data", "metadata", "time"]
WRITERS = 8
WRITES_EACH = 10


def refusal(call, *args, **kwargs):
    """The text of the error a call must end with."""
    try:
        result = call(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"an error expected, got {result}")


def brief(messages):
    """Stream, type and position of each message."""
    return [(message["stream_name"], message["type"], message["position"]) for message in messages]


def writes_and_reads_back(store):
    assert store.read_last_message("order-1") is None
    assert store.write("order-1", "Placed", {"amount": 10, "items": [{"sku": "ä"}], "note": None}) == 0
    assert store.write("order-1", "Paid", {}, {"by": "ada", "correlationStreamName": "cart-7"}) == 1
    placed, paid = store.read("order-1")
    assert list(placed) == COLUMNS
    assert placed["data"] == {"amount": 10, "items": [{"sku": "ä"}], "note": None}
    assert placed["metadata"] is None
    assert paid["data"] == {} and paid["metadata"] == {"by": "ada", "correlationStreamName": "cart-7"}
    assert str(uuid.UUID(placed["id"])) == placed["id"]
    assert placed["global_position"] < paid["global_position"]
    assert placed["time"] <= paid["time"] and placed["time"].tzinfo is None
    last = store.read_last_message("order-1")
    assert last == paid


def expects_versions(store):
    wrong = "P0001-ERROR:  Wrong expected version: {} (Stream: versioned-1, Stream Version: {})"
    assert refusal(store.write, "versioned-1", "T", {}, expected_version=0) == wrong.format(0, -1)
    assert store.write("versioned-1", "T", {}, expected_version=-1) == 0
    assert refusal(store.write, "versioned-1", "T", {}, expected_version=-1) == wrong.format(-1, 0)
    assert store.write("versioned-1", "T", {}, expected_version=0) == 1
    assert refusal(store.write, "versioned-1", "T", {}, expected_version=7) == wrong.format(7, 1)
    assert store.write("versioned-1", "T", {}) == 2


def writes_batches_whole_or_not_at_all(store):
    batch = [("One", {"n": 1}), ("Two", {"n": 2}, {"m": 2}), ("Three", {"n": 3})]
    assert store.write_batch("batch-1", batch) == 2
    assert store.write_batch("batch-1", batch, expected_version=2) == 5
    wrong = "P0001-ERROR:  Wrong expected version: 2 (Stream: batch-1, Stream Version: 5)"
    assert refusal(store.write_batch, "batch-1", batch, expected_version=2) == wrong
    assert store.write_batch("batch-2", batch, expected_version=-1) == 2
    # The second message has no type, so that the first must not stay either.
    failed = refusal(store.write_batch, "batch-1", [("Fine", {}), (None, {})])
    assert failed.startswith('23502-ERROR:  null value in column "type" of relation "messages"'), failed
    assert [m["type"] for m in store.read_stream("batch-1")] == ["One", "Two", "Three"] * 2
    assert [m["metadata"] for m in store.read_stream("batch-2")] == [None, {"m": 2}, None]


def reads_streams_in_pages(store):
    store.write_batch("paged-1", [("T", {"n": n}) for n in range(25)])
    seen, position = [], 0
    while page := store.read_stream("paged-1", position=position, no_of_messages=10):
        assert len(page) <= 10
        seen += [message["data"]["n"] for message in page]
        position = page[-1]["position"] + 1
    assert seen == list(range(25))
    assert store.read_stream("paged-2") == []
    assert refusal(store.read_stream, "paged") == "paged is not a stream"
    sql = "SELECT * FROM get_stream_messages(%(stream_name)s, %(position)s, %(batch_size)s)"
    assert len(store.read("paged-1", sql=sql, position=20)) == 5


def reads_categories_in_pages(store):
    for n in range(23):
        store.write(f"category-{n % 4}", f"T{n}", {})
    store.write("category:command-1", "Do", {})
    everything = store.read_category("category")
    assert [message["type"] for message in everything] == [f"T{n}" for n in range(23)]
    assert store.read("category") == everything
    seen, position = [], 0
    while page := store.read_category("category", position=position, no_of_messages=5):
        seen += page
        position = page[-1]["global_position"] + 1
    assert seen == everything
    assert store.read_category("category", position=everything[10]["global_position"]) == everything[10:]
    assert brief(store.read_category("category:command")) == [("category:command-1", "Do", 0)]
    assert store.read_category("categories") == []
    assert refusal(store.read_category, "category-1") == "category-1 is not a category"


def divides_a_category_among_a_group(store):
    for n in list(range(20)) + list(range(20)):
        store.write(f"group-{n}", "T", {})
    everything = store.read_category("group")
    members = [
        store.read_category("group", consumer_group_member=member, consumer_group_size=3) for member in range(3)
    ]
    assert all(members)
    streams = [{message["stream_name"] for message in member} for member in members]
    assert not (streams[0] & streams[1] or streams[0] & streams[2] or streams[1] & streams[2])
    assert sorted((m for member in members for m in member), key=lambda m: m["global_position"]) == everything
    # By the hash that all clients share.
    assert "group-3" in streams[2] and "group-4" in streams[0] and "group-2" in streams[1]
    assert store.read("group", consumer_group_member=0, consumer_group_size=3) == members[0]
    refused = store.read_category, "group"
    assert refusal(*refused, consumer_group_member=3, consumer_group_size=3).startswith("consumer_group_member (3)")


def reads_the_whole_store(store):
    everything = store.read("$all", no_of_messages=10_000)
    positions = [message["global_position"] for message in everything]
    assert positions == sorted(positions) and len(positions) > 100
    assert store.read("$all", position=positions[40], no_of_messages=5) == everything[41:46]
    new = store.write("whole-1", "Last", {})
    last = store.read("$all", position=positions[-1])
    assert brief(last) == [("whole-1", "Last", new)]


def lists_the_identifiers_of_a_category(store):
    for stream in ["customer-b", "customer-a", "customer-b", "customer-x-y", "customer:snapshot-a", "customers-z"]:
        store.write(stream, "T", {})
    assert store.stream_identifiers("customer") == ["a", "b", "x-y"]
    assert store.stream_identifiers("customer:snapshot") == ["a"]
    assert store.stream_identifiers("nobody") == []


def finds_the_last_message(store):
    store.write("last-1", "First", {"n": 1})
    store.write("last-1", "Second", {"n": 2}, {"m": True})
    last = store.read_last_message("last-1")
    assert (last["type"], last["data"], last["metadata"], last["position"]) == ("Second", {"n": 2}, {"m": True}, 1)
    assert store.read_last_message("last-2") is None
    # A name without id is a stream to writer and last message.
    store.write("lastbare", "Only", {})
    assert store.read_last_message("lastbare")["type"] == "Only"
    assert brief(store.read("lastbare")) == [("lastbare", "Only", 0)]


def many_write_at_once(store):
    def write(n):
        streams = ["busy-1", f"busy-w{n}"] * WRITES_EACH
        return [store.write(stream, "T", {"writer": n}) for stream in streams]

    with ThreadPoolExecutor(WRITERS) as pool:
        results = list(pool.map(write, range(WRITERS)))
    shared = sorted(position for result in results for position in result[::2])
    assert shared == list(range(WRITERS * WRITES_EACH))
    for result in results:
        assert result[1::2] == list(range(WRITES_EACH))
    assert [m["position"] for m in store.read_stream("busy-1")] == shared
    assert len(store.read_category("busy")) == 2 * WRITERS * WRITES_EACH
    # Of those who expect the same version one wins.
    with ThreadPoolExecutor(WRITERS) as pool:
        attempts = [pool.submit(store.write, "race-1", "T", {}, expected_version=-1) for _ in range(WRITERS)]
    errors = [str(attempt.exception()) for attempt in attempts if attempt.exception()]
    assert errors == ["P0001-ERROR:  Wrong expected version: -1 (Stream: race-1, Stream Version: 0)"] * (WRITERS - 1)


SCENARIOS = [
    writes_and_reads_back,
    expects_versions,
    writes_batches_whole_or_not_at_all,
    reads_streams_in_pages,
    reads_categories_in_pages,
    divides_a_category_among_a_group,
    reads_the_whole_store,
    lists_the_identifiers_of_a_category,
    finds_the_last_message,
    many_write_at_once,
]


def main():
    store = MessageDB.from_url(sys.argv[1])
    for scenario in SCENARIOS:
        print(scenario.__name__, flush=True)
        scenario(store)
    store.connection_pool.closeall()
    print(f"{len(SCENARIOS)} scenarios")


if __name__ == "__main__":
    main()
