"""What the demo puts on the screen. Colours only on a terminal."""

import json
import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime

COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
OUTCOMES = {"node.succeeded": "32", "run.succeeded": "32;1", "node.failed": "31", "run.failed": "31;1",
            "node.retry_scheduled": "33", "node.skipped": "2", "run.canceled": "31;1"}


def paint(text, code):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS and code else text


def say(text=""):
    print(text, flush=True)


def title(text):
    say(paint(text, "1"))
    say()


def heading(text):
    say()
    say(paint(text, "1"))


def note(text):
    say(paint(f"({text})", "2"))


class Step:
    """A step under way; `detail` is shown behind it when it is done."""

    detail = ""


@contextmanager
def step(text):
    """Shows what is done and how long it took."""
    started = time.monotonic()
    current = Step()
    yield current
    say(f"  {paint('ok', '32')}  {text:<60} {duration(time.monotonic() - started):>8}  {paint(current.detail, '2')}")


def duration(seconds):
    """A duration with its unit, about three digits of it."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def command(text):
    for line in text.splitlines():
        say(f"  {paint(line, '2')}")


def exchange(what, status, answer):
    say(f"  {paint(status, '32' if status < 300 else '33')}  {answer}   {paint(what, '2')}")


def detail(event):
    """What is worth telling of an event, in a few words."""
    data = event["data"]
    error = data.get("error") or {}
    match event["type"]:
        case "run.started":
            return f"{data.get('workflow')} v{data.get('version')}"
        case "node.scheduled" if data.get("due_at"):
            return "timer set"
        case "node.scheduled":
            return f"job in queue {data['queue']}" if data.get("queue") else ""
        case "node.retry_scheduled":
            return f"{error.get('message', error.get('class', ''))}; again {after(data.get('due_at'), event['at'])}"
        case "node.succeeded" if data.get("port") not in (None, "out"):
            return f"port {data['port']}"
        case "node.succeeded" if isinstance(data.get("output"), dict) and "status" in data["output"]:
            return f"HTTP {data['output']['status']}"
        case "node.failed" | "run.failed":
            return error.get("message", "")
    return ""


def after(due_at, at):
    due = seconds_of(due_at)
    return "" if due is None else f"in {duration(max(0.0, due - at))}"


def seconds_of(moment):
    """Seconds since 1970 of a time as events carry it: ISO 8601 text, or a number of milliseconds."""
    if moment is None:
        return None
    if isinstance(moment, (int, float)):
        return moment / 1000
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def live(event, started):
    data = event["data"]
    offset = f"+{duration(event['at'] - started)}"
    name = paint(f"{event['type']:<21}", OUTCOMES.get(event["type"]))
    say(f"  {offset:>9}  {name} {data.get('node', ''):<8} {detail(event)}".rstrip())


def timeline(events):
    """The run's events as a table. An attempt's duration runs from when it was due to when its outcome was recorded."""
    began = {}
    rows = []
    first = events[0]["at"]
    for event in events:
        data, at, kind = event["data"], event["at"], event["type"]
        node = data.get("node", "") if kind.startswith("node.") else ""
        took = None
        if kind == "node.scheduled":
            began[node] = at
        elif kind in ("node.succeeded", "node.failed", "node.retry_scheduled") and node in began:
            took = at - began[node]
            began[node] = seconds_of(data.get("due_at")) or at
        elif kind.startswith("run.") and kind != "run.started":
            took = at - first
        rows.append((str(event["position"]), kind, node, str(data.get("attempt") or ""), clock(at),
                     "" if took is None else duration(took), detail(event)))
    table(("#", "event", "node", "attempt", "time", "duration", ""), rows, right=(0, 3, 5),
          colours=[OUTCOMES.get(event["type"]) for event in events])


def clock(at):
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03d}"


def table(head, rows, right, colours):
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row):
        cells = [cell.rjust(width) if i in right else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths))]
        return ("  " + "  ".join(cells)).rstrip()

    say(paint(line(head), "4"))
    for row, colour in zip(rows, colours):
        say(paint(line(row), colour))


def document(value):
    for line in json.dumps(value, indent=2, ensure_ascii=False).splitlines():
        say(f"  {line}")


def verdict(events, differences):
    if not differences:
        say(paint(f"  replayed {events} events: identical", "32;1"))
        return
    say(paint(f"  replayed {events} events: {len(differences)} differences", "31;1"))
    for difference in differences:
        say(f"    {difference['path']}: expected {json.dumps(difference['expected'])}, "
            f"found {json.dumps(difference['found'])}")


def next_steps(lines):
    heading("what next")
    for line in lines:
        say(f"  {line}".rstrip())


def failure(message, logs):
    say()
    say(paint(f"the demo failed: {message}", "31;1"))
    for name, lines in logs.items():
        if lines:
            say(paint(f"the end of {name}:", "1"))
            for line in lines:
                say(f"  {line}")
