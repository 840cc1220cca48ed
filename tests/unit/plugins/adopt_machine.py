"""A host for the tests of the change-over: a real server, a real database, and a systemd that only starts a process."""

from __future__ import annotations

import os
import pwd
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.adopt_host import Host, Process
from ansible.module_utils.adopt_switch import Adoption, Site
from ansible.module_utils.adopt_wanted import Wanted

from tests.polling import PATIENCE_SECONDS

#: Votes for each request; says who it is.
SERVER = """
import http.server, os, sqlite3, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with sqlite3.connect(sys.argv[2]) as opened:
            opened.execute("INSERT INTO votes VALUES (?)", (self.path,))
        self.send_response(int(os.environ.get("STATUS", "200")))
        self.end_headers()
        self.wfile.write(os.environ.get("WHO", "").encode())
    def log_message(self, *words):
        print("seen", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
LINE = "*/90 * * * * pkill -f app.py; nohup python3 app.py &"


def ask(port: int, path: str = "/") -> str:
    """Ask the app, and return what it says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def votes(path: Path) -> set[str]:
    """Return who has voted, by a database."""
    with closing(sqlite3.connect(path)) as opened:
        return {row[0] for row in opened.execute("SELECT voter FROM votes")}


class MachineHost(Host):
    """What runs on it, with the new service below a unit of its own."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.root)
        self.machine = machine

    def process(self, pid: int) -> Process | None:
        """Read one process."""
        one, service = super().process(pid), self.machine.service
        return replace(one, cgroup="/system.slice/site.service") if one and service and service.pid == pid else one


class Machine:
    """A host of its own below a directory, with the real processes of this one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app, self.data = root / "app", root / "data"
        self.log = root / "app.log"
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.table = root / "var/spool/cron/crontabs" / self.user
        self.unit = root / "etc/systemd/system/site.service"
        for path in (self.app, self.data, self.table.parent, self.unit.parent, root / "srv"):
            path.mkdir(parents=True)
        (root / "proc").symlink_to("/proc")
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with closing(sqlite3.connect(self.app / "site.db")) as made:
            made.execute("PRAGMA journal_mode = WAL")
            made.execute("CREATE TABLE votes (voter TEXT)")
            made.commit()
        (self.app / "app.py").write_text(SERVER)
        self.table.write_text(f"# mine\n{LINE}\n0 * * * * true\n")
        self.unit.write_text("[Service]\n# somebody's\n")
        self.calls: list[str] = []
        self.service: subprocess.Popen | None = None
        self.new = {"WHO": "new"}
        self.trial = 0
        self.crashes = "0"

    def start_by_hand(self) -> None:
        """Start the old app, as a person would."""
        environ = {"PATH": os.environ["PATH"], "WHO": "old", "API_KEY": "canary-0123456789abcdef"}
        with self.log.open("a") as log:
            subprocess.Popen(
                ["nohup", sys.executable, "app.py", str(self.port), "site.db"],
                cwd=self.app, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.wait(lambda: ask(self.port, "/first") == "old")

    def install(self) -> None:
        """Put the new site's unit in the place of the one that somebody made."""
        self.unit.write_text("[Service]\n# ours, /usr/local/lib/sitekeeper/\n")

    @staticmethod
    def wait(true: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Ask until it is true; fail when it takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError):
                if true():
                    return
            time.sleep(0.05)
        pytest.fail("it took too long")

    def run(self, words: Sequence[str]) -> tuple[int, str, str]:
        """Be systemctl, journalctl and systemd-run."""
        self.calls.append(" ".join(words))
        if words[0] == "systemd-run":
            return self.trial, "", "ModuleNotFoundError: nowhere" if self.trial else ""
        if words[1:3] == ("start", "--no-block"):
            argv = [sys.executable, str(self.app / "app.py"), str(self.port), str(self.data / "site.db")]
            self.service = subprocess.Popen(argv, cwd=self.root / "srv", env=self.new)
        if words[1:3] == ("disable", "--now") and self.service:
            self.service.kill()
            self.service.wait()
        if words[1] == "show":
            return 0, {"NRestarts": self.crashes, "UnitFileState": "enabled"}.get(words[4], "inactive") + "\n", ""
        return 0, "", ""

    def adoption(self, seconds: float = 20.0, outage: float = 10.0) -> Adoption:
        """Return an adoption of the app; `seconds` is how long the new site has to answer."""
        wanted = Wanted(
            "site", self.port, str(self.root / "srv"), str(self.data), source=str(self.app), shared=["site.db", "files"]
        )
        return Adoption(wanted, Site(self.user, "app:app", "/etc/site", seconds, outage), self.run, MachineHost(self))

    def answered(self) -> bool:
        """Tell whether the new site answers."""
        with suppress(OSError):
            return ask(self.port, "/watch") == "new"
        return False

    def never_well(self, statement: str = "") -> Callable[[], bool]:
        """Return an answer that never comes: of a new site that takes a row, and does this to its database."""

        def answered() -> bool:
            with suppress(OSError, sqlite3.OperationalError):
                ask(self.port, "/told-by-the-new-one")
                with closing(sqlite3.connect(self.data / "site.db")) as new:
                    new.execute(statement)
                    new.commit()
            return False

        return answered

    def end(self) -> None:
        """Kill what listens on the port."""
        host = Host()
        for pid in host.listeners(self.port):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


def old_process(machine: Machine) -> tuple[object, ...]:
    """Return all that makes the process that listens what it is."""
    host = Host()
    (pid,) = host.listeners(machine.port)
    one = host.process(pid)
    return one.argv, one.cwd, one.uid, one.gid, dict(one.environ), one.outputs, one.ignores


def agents_named(port: int) -> list[Process]:
    """Return the stand-ins for ngrok's agent that name a port."""
    host = Host()
    return [one for one in host.processes().values() if one.argv[0] == "ngrok" and str(port) in one.argv]


@contextmanager
def agent_by_hand(machine: Machine, log: Path) -> Iterator[Process]:
    """Run a stand-in for ngrok's agent, as somebody would have started it."""
    words = ["ngrok", "-q", "-f", "/dev/null", "http", str(machine.port)]
    with log.open("w") as out:
        started = subprocess.Popen(words, executable="/usr/bin/tail", stdout=out, stderr=out, start_new_session=True)
    try:
        machine.wait(lambda: agents_named(machine.port))
        yield agents_named(machine.port)[0]
    finally:
        for one in agents_named(machine.port):
            os.kill(one.pid, 9)
        started.wait()
