"""The whole of meshhook in one go: a signed webhook becomes a run, the run survives a failing service, and its state
is replayed from its log. Everything happens in a cluster of the demo's own.

usage: demo.py run [--keep]     --keep leaves everything up and says what to try next
       demo.py stop             ends what --keep left up
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pgcluster import ROOT, Cluster, ClusterError, as_server, free_port, give_to_server, spawn, wait_for

import show

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
STATE = TARGET / "demo.json"
EXAMPLE = ROOT / "examples" / "order-fulfilment" / "workflow.json"
SERVICES = ROOT / "examples" / "services.py"
SEND = ROOT / "scripts" / "send-webhook.sh"
DATABASE = "shop"
READY_SECONDS_MAX = 30
RUN_SECONDS_MAX = 60
POLL_SECONDS = 0.05
ENDED = ("run.succeeded", "run.failed", "run.canceled")
ORDER = {
    "type": "order.placed",
    "order": {
        "id": "A-1042",
        "customer": "ada@example.com",
        "currency": "EUR",
        "lines": [{"sku": "lamp", "quantity": 2, "price": 170}, {"sku": "desk", "quantity": 1, "price": 300}],
    },
}


class Demo:
    """What the demo started. Its processes are known by id and start time, so none but its own is ever ended."""

    def __init__(self, cluster, keep):
        self.cluster = cluster
        self.keep = keep
        self.processes = []

    def save(self):
        """Notes what runs, for `stop` and for the next run."""
        STATE.parent.mkdir(parents=True, exist_ok=True)
        STATE.write_text(json.dumps({
            "folder": str(self.cluster.folder), "port": self.cluster.port, "processes": self.processes}))

    def spawn(self, name, command, **options):
        """Starts a process; its output goes to NAME.log in the demo's folder."""
        process = spawn(command, self.cluster.folder / f"{name}.log", self.keep, cwd=self.cluster.folder, **options)
        self.processes.append([process.pid, start_time(process.pid)])
        self.save()
        return process

    def end(self):
        """Ends everything and removes the folder."""
        for pid, started in self.processes:
            if start_time(pid) != started:
                continue
            try:
                os.kill(pid, signal.SIGTERM)
                wait_for("a process to end", 10, lambda: start_time(pid) != started)
            except ClusterError:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.cluster.remove()
        STATE.unlink(missing_ok=True)


def start_time(pid):
    """When a process was started, in ticks since boot; None when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def stop_previous():
    """Ends what an earlier demo left; true if there was one."""
    try:
        state = json.loads(STATE.read_text())
    except (OSError, ValueError):
        return False
    demo = Demo(Cluster(state["folder"], state["port"]), keep=False)
    demo.processes = state["processes"]
    demo.end()
    return True


def start_database(demo):
    cluster = demo.cluster
    cluster.start(outlive=demo.keep)
    cluster.sql(f"CREATE DATABASE {DATABASE}")
    cluster.sql("CREATE EXTENSION meshhook", database=DATABASE)
    # Two login roles, neither a superuser: the application, and the sidecar.
    password = secrets.token_hex(16)
    cluster.sql("""
        CREATE ROLE shop LOGIN;
        SELECT meshhook.grant_api('shop');
        CREATE ROLE sidecar LOGIN PASSWORD :'password' IN ROLE meshhook_executor;
        """, database=DATABASE, variables={"password": password})
    versions = cluster.rows(
        "SELECT current_setting('server_version') AS server, meshhook.version() AS meshhook", database=DATABASE)[0]
    return password, versions


def start_sidecar(demo, password):
    """The sidecar runs without rights on the machine too: a copy of it, under the server's account."""
    program = demo.cluster.folder / "meshhook-sidecar"
    built = Path(os.environ.get("MESHHOOK_SIDECAR_BIN", TARGET / "release" / "meshhook-sidecar"))
    if not built.is_file():
        raise ClusterError(f"there is no {built}: call make build")
    shutil.copy(built, program)
    give_to_server(program)
    address = f"127.0.0.1:{free_port()}"
    process = demo.spawn("sidecar", [program], **as_server(), env={
        "PATH": os.environ.get("PATH", ""),
        "MESHHOOK_DATABASE_URL": f"postgres://sidecar:{password}@127.0.0.1:{demo.cluster.port}/{DATABASE}",
        "MESHHOOK_LISTEN": address,
        # What it calls is on this machine, which nobody may call unless told so.
        "MESHHOOK_ALLOW": "127.0.0.1",
    })
    wait_ready("the sidecar", process, f"http://{address}/readyz")
    return address


def start_shop(demo):
    address = f"127.0.0.1:{free_port()}"
    # By way of the folder, not of the clone: the server's account may not be able to read that.
    program = demo.cluster.folder / "shop.py"
    shutil.copy(SERVICES, program)
    give_to_server(program)
    process = demo.spawn("shop", [sys.executable, program, address.rpartition(":")[2]])
    wait_ready("the shop", process, f"http://{address}/")
    return address


def wait_ready(what, process, url):
    def is_ready():
        if process.poll() is not None:
            raise ClusterError(f"{what} ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    wait_for(f"{what} to be ready", READY_SECONDS_MAX, is_ready)


def send(url, body, secret, delivery=None, show_command=False):
    """Signs and sends a webhook with curl; returns status and answer."""
    environment = {**os.environ, "MESHHOOK_ENDPOINT_SECRET": secret}
    if delivery:
        environment["WEBHOOK_ID"] = delivery
    if show_command:
        environment["SHOW_COMMAND"] = "1"
    result = subprocess.run([str(SEND), url], input=json.dumps(body), env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise ClusterError(f"the webhook was not sent: {result.stderr.strip()}")
    answer, _, status = result.stdout.rstrip("\n").rpartition("\n")
    return int(status), answer, result.stderr.rstrip("\n")


def follow(cluster, run):
    """Shows the run's events as they come, until it has ended; returns all of them."""
    events = []
    deadline = time.monotonic() + RUN_SECONDS_MAX
    while not events or events[-1]["type"] not in ENDED:
        if time.monotonic() > deadline:
            raise ClusterError(f"the run did not end within {RUN_SECONDS_MAX} s")
        fresh = cluster.rows(
            """SELECT h."position" AS position, h.type, h.data, extract(epoch FROM h."time") AS at
               FROM meshhook.run_history(:'run', :after) AS h ORDER BY 1""",
            "shop", DATABASE, {"run": run, "after": events[-1]["position"] if events else 0})
        events += fresh
        for event in fresh:
            show.live(event, events[0]["at"])
        if not fresh:
            time.sleep(POLL_SECONDS)
    return events


def run(keep):
    if stop_previous():
        show.note("an earlier demo was still there: ended and removed")
    show.title("meshhook: a signed webhook becomes a finished, replayable run")
    cluster = Cluster.create("meshhook-demo-", tcp=True)
    demo = Demo(cluster, keep)
    demo.save()
    ok = False
    try:
        ok = perform(demo)
    except BrokenPipeError:
        raise
    except (ClusterError, OSError) as error:
        show.failure(str(error), {name: tail(cluster.folder / name) for name in ("server.log", "sidecar.log", "shop.log")})
    finally:
        if not (keep and ok):
            demo.end()
    return 0 if ok else 1


def perform(demo):
    """The demo itself; true if the run succeeded and its replay is identical."""
    cluster = demo.cluster
    with show.step("a PostgreSQL cluster of its own, meshhook preloaded") as step:
        password, versions = start_database(demo)
        step.detail = f"PostgreSQL {versions['server'].split()[0]}, meshhook {versions['meshhook']}, {cluster.folder}"
    with show.step("a shop whose payment service fails twice before it answers") as step:
        shop = start_shop(demo)
        step.detail = f"http://{shop}"
    with show.step("the sidecar, logged in without superuser rights") as step:
        address = start_sidecar(demo, password)
        step.detail = f"http://{address}"
    with show.step(f"{EXAMPLE.relative_to(ROOT)} published, an endpoint created") as step:
        definition = json.loads(EXAMPLE.read_text())
        definition["vars"]["shop"] = f"http://{shop}"
        version = cluster.sql("SELECT meshhook.publish_workflow(:'definition')", "shop", DATABASE,
                              {"definition": json.dumps(definition)})
        endpoint = cluster.rows("SELECT * FROM meshhook.create_endpoint(:'workflow')", "shop", DATABASE,
                                {"workflow": definition["name"]})[0]
        step.detail = f"{definition['name']} v{version} at {endpoint['path']}"
    url = f"http://{address}{endpoint['path']}"

    show.heading("webhooks arrive")
    status, answer, _ = send(url, ORDER, forged_secret())
    show.exchange("signed with the wrong secret", status, answer)
    if status != 401:
        raise ClusterError("a wrong signature was not refused")
    delivery = f"msg_{secrets.token_hex(12)}"
    status, answer, command = send(url, ORDER, endpoint["secret"], delivery, show_command=True)
    show.command(command)
    show.exchange("signed with the endpoint's secret", status, answer)
    if status != 202:
        raise ClusterError("the webhook was not accepted")
    run_id = json.loads(answer)["run_id"]

    show.heading(f"run {run_id}")
    events = follow(cluster, run_id)
    status, answer, _ = send(url, ORDER, endpoint["secret"], delivery)
    show.heading("the same webhook, delivered again")
    show.exchange("the run it became the first time, no second one", status, answer)
    repeated = status == 200 and json.loads(answer)["run_id"] == run_id

    show.heading("timeline")
    show.timeline(events)
    state = json.loads(cluster.sql("SELECT meshhook.run_state(:'run')", "shop", DATABASE, {"run": run_id}))
    show.heading(f"output ({state['status']})")
    show.document(state["output"] if state["status"] == "succeeded" else state["error"])
    differences = cluster.rows("SELECT * FROM meshhook.verify_run(:'run')", "shop", DATABASE, {"run": run_id})
    show.heading("replay")
    show.verdict(len(events), differences)
    if demo.keep:
        keep_up(demo, address, endpoint, run_id)
    else:
        show.next_steps(["make demo KEEP=1     the same, left up to play with", "make test            everything that is tested",
                         "README.md            how to use it from your own database"])
    return state["status"] == "succeeded" and not differences and repeated


def forged_secret():
    return subprocess.run(
        "printf whsec_; openssl rand -base64 24", shell=True, check=True, capture_output=True, text=True).stdout.strip()


def keep_up(demo, address, endpoint, run_id):
    secret = demo.cluster.folder / "endpoint-secret"
    secret.touch(mode=0o600)
    secret.write_text(endpoint["secret"])
    psql = "psql -h {} -p {} -d {}".format(demo.cluster.folder, demo.cluster.port, DATABASE)
    unicorn = {"order": {**ORDER["order"], "id": "B-7", "lines": [{"sku": "unicorn", "quantity": 1, "price": 90}]}}
    show.next_steps([
        f"{psql} -U shop          as an application; in it:",
        "    SELECT * FROM meshhook.runs;",
        f"    SELECT * FROM meshhook.run_steps WHERE run_id = '{run_id}';",
        "    BEGIN; SELECT meshhook.start_run('order-fulfilment', '{\"order\":{\"id\":\"C-1\"}}'); ROLLBACK;   -- no run",
        f"{psql} -U postgres -c 'SELECT * FROM meshhook.status()'",
        "",
        "an order that cannot be shipped is undone: refunded, its stock released:",
        f"    MESHHOOK_ENDPOINT_SECRET=$(cat {secret}) scripts/send-webhook.sh \\",
        f"        http://{address}{endpoint['path']} <<<'{json.dumps(unicorn)}'",
        f"curl http://{address}/metrics",
        "",
        f"logs: {demo.cluster.folder}/*.log",
        "make demo-stop       ends it and removes the folder",
    ])


def tail(path, lines=20):
    try:
        return path.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def interrupt(number, _frame):
    raise SystemExit(128 + number)


def main():
    parser = argparse.ArgumentParser(description="meshhook's demo")
    parser.add_argument("action", choices=["run", "stop"])
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    try:
        if arguments.action == "run":
            return run(arguments.keep)
        show.note("the demo is ended, its folder removed" if stop_previous() else "no demo is running")
        return 0
    except BrokenPipeError:
        # Whoever read along has left; what the interpreter still holds goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        show.note("interrupted: everything the demo started is ended")
        return 130


if __name__ == "__main__":
    sys.exit(main())
