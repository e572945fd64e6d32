"""A private PostgreSQL cluster in a temporary folder, for the scripts that need a server.

It never touches the machine's own clusters: its own folder, socket and port, started and stopped by process id.
As root the server runs under the account `postgres` (PostgreSQL refuses root), otherwise under the caller's.
"""

import base64
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30
# sockaddr_un holds 107 bytes; the socket's own name takes up to 20 of them.
SOCKET_FOLDER_BYTES_MAX = 85
PR_SET_PDEATHSIG = 1


class ClusterError(Exception):
    """A server, or a statement sent to it, failed; the message says how."""


def pg_config(option):
    """One answer of the pg_config that PG_CONFIG names (default: Debian's of PG_MAJOR)."""
    major = os.environ.get("PG_MAJOR", "15")
    program = os.environ.get("PG_CONFIG", f"/usr/lib/postgresql/{major}/bin/pg_config")
    return subprocess.run([program, option], check=True, capture_output=True, text=True).stdout.strip()


def server_account():
    """The passwd entry of the account the server must run under, or None: the caller's own."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def as_server():
    """Arguments for subprocess that run a program under the server's account."""
    account = server_account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}


def give_to_server(path):
    """Makes a file or folder belong to the server's account."""
    account = server_account()
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)


def make_folder(prefix):
    """A new folder of the server's account, below TMPDIR where that serves, else below /tmp."""
    for base in (os.environ.get("TMPDIR"), "/tmp"):
        if not base or len(os.fsencode(base)) + len(prefix) + 10 > SOCKET_FOLDER_BYTES_MAX:
            continue
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        give_to_server(folder)
        # The server's account must be able to get there: another user's home often forbids it.
        if subprocess.run(["test", "-w", folder], cwd="/", **as_server()).returncode == 0:
            return folder
        folder.rmdir()
    raise ClusterError("no temporary folder that the server's account can use: set TMPDIR")


def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, seconds, condition):
    """Returns the condition's first true value; fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


def spawn(command, log, outlive=False, end_signal=signal.SIGTERM, **options):
    """Starts a process in a session of its own, so that a Ctrl-C in the terminal is the caller's to handle.

    Unless it may outlive the caller, the kernel ends it when the caller is gone, however that happens.
    """
    libc = ctypes.CDLL(None)
    with open(log, "ab") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=None if outlive else lambda: libc.prctl(PR_SET_PDEATHSIG, end_signal),
            **options,
        )


class Cluster:
    """One server. `folder` holds all of it: data, socket, log, key file."""

    def __init__(self, folder, port, bin_folder=None):
        self.folder = Path(folder)
        self.port = port
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.bin = Path(bin_folder or pg_config("--bindir"))
        self.process = None

    @classmethod
    def create(cls, prefix="meshhook-", preload=True, tcp=False, settings=None, bin_folder=None):
        """Makes a cluster: superuser postgres by the socket, everybody else by password over TCP, if at all."""
        folder = make_folder(prefix)
        cluster = cls(folder, free_port(), bin_folder)
        try:
            cluster.initialise(preload, tcp, settings or {})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cluster

    def initialise(self, preload, tcp, settings):
        command = [self.bin / "initdb", "--pgdata", self.data, "--username=postgres", "--encoding=UTF8",
                   "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]
        self.tool(command)
        kek = self.folder / "kek"
        kek.touch(mode=0o600)
        kek.write_text("local:" + base64.b64encode(os.urandom(32)).decode() + "\n")
        give_to_server(kek)
        lines = {
            "port": self.port,
            "listen_addresses": "127.0.0.1" if tcp else "",
            "unix_socket_directories": self.folder,
            "unix_socket_permissions": "0700",
            "shared_buffers": "128MB",
            "meshhook.kek_file": kek,
            **({"shared_preload_libraries": "meshhook"} if preload else {}),
            **settings,
        }
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            for name, value in lines.items():
                file.write("{} = '{}'\n".format(name, str(value).replace("'", "''")))

    def tool(self, command):
        """Runs one of the server's programs under the server's account; its output is shown when it fails."""
        result = subprocess.run(
            [str(word) for word in command], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=clean_environment(), **as_server())
        if result.returncode != 0:
            raise ClusterError(f"{Path(command[0]).name} failed: {result.stderr.strip()}")

    def start(self, outlive=False):
        """Starts the server and waits until it takes connections."""
        # SIGINT is a fast shutdown; SIGTERM would wait for clients to leave.
        self.process = spawn([self.bin / "postgres", "-D", self.data], self.log, outlive, signal.SIGINT, cwd="/",
                             env=clean_environment(), **as_server())
        ready = [self.bin / "pg_isready", "-q", "-U", "postgres", "-h", self.folder, "-p", str(self.port)]

        def takes_connections():
            if self.process.poll() is not None:
                raise ClusterError(f"the server did not start:\n{self.log_end()}")
            return subprocess.run(ready, check=False).returncode == 0

        wait_for("the server to take connections", START_SECONDS_MAX, takes_connections)

    def postmaster(self):
        """Process id of the server that runs on this data folder, or None."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            # The file may be stale and its number reused: only a process started on this folder is meant.
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.data) in command else None

    def stop(self):
        """Stops the server; clients are disconnected, nothing is lost."""
        for sign in (signal.SIGINT, signal.SIGQUIT):
            pid = self.postmaster()
            if pid is None:
                return
            try:
                os.kill(pid, sign)
                wait_for("the server to stop", STOP_SECONDS_MAX, self.is_gone)
                return
            except ProcessLookupError:
                return
            except ClusterError as slow:
                print(f"{slow}; it is stopped the hard way", file=sys.stderr)

    def is_gone(self):
        if self.process:
            self.process.poll()
        return self.postmaster() is None

    def remove(self):
        """Stops the server and deletes the folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def log_end(self, lines=30):
        """The last lines of the server's log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def psql_command(self, user="postgres", database="postgres"):
        """The psql that connects there, as words."""
        return [str(self.bin / "psql"), "-X", "-h", str(self.folder), "-p", str(self.port), "-U", user, "-d", database]

    def sql(self, text, user="postgres", database="postgres", variables=None):
        """Runs statements; returns what they print, unaligned. `:'name'` in the text is a quoted variable."""
        words = self.psql_command(user, database) + ["-qAt", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=default"]
        for name, value in (variables or {}).items():
            words += ["-v", f"{name}={value}"]
        result = subprocess.run(words, input=text, capture_output=True, text=True, env=clean_environment())
        if result.returncode != 0:
            raise ClusterError(result.stderr.strip())
        return result.stdout.rstrip("\n")

    def rows(self, query, user="postgres", database="postgres", variables=None):
        """Runs one query; returns its rows as dictionaries."""
        text = f"SELECT coalesce(json_agg(r), '[]') FROM (\n{query}\n) AS r;"
        return json.loads(self.sql(text, user, database, variables))


def clean_environment():
    """The environment without what would point a client elsewhere or change a server's language."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
