"""Does the tasks of queue `words`. Needs nothing but psycopg; connects as the PG* variables of the environment say."""
from threading import Event, Thread

import psycopg
from psycopg.types.json import Jsonb

LEASE = "30 s"  # how long a task stays ours without a sign of life: after a crash it waits this long for another worker
RENEW_SECONDS = 10


def work(task):
    words = task["text"].split()
    return {"words": len(words), "longest": max(words, key=len)}  # a ValueError if there are none


def renew(db, job, done):
    while not done.wait(RENEW_SECONDS):
        db.execute("SELECT meshhook.heartbeat_jobs(ARRAY[%s], ARRAY[%s]::bigint[], %s)", [*job, LEASE])


def main():
    with psycopg.connect(autocommit=True) as db:
        db.execute("LISTEN meshhook_jobs")
        while True:
            claim = "SELECT job_id, token, payload FROM meshhook.claim_jobs('words', lease => %s)"
            if not (row := db.execute(claim, [LEASE]).fetchone()):
                list(db.notifies(timeout=30, stop_after=1))
                continue
            (*job, task), done = row, Event()
            Thread(target=renew, args=[db, job, done], daemon=True).start()
            try:
                report, result = "complete_job", work(task)
            except Exception as error:
                report, result = "fail_job", {"message": str(error), "retryable": not isinstance(error, ValueError)}
            done.set()
            db.execute(f"SELECT meshhook.{report}(%s, %s, %s)", [*job, Jsonb(result)])


main()
