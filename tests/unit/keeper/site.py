"""Real Gunicorn with the package, without root, in a directory of its own: started, asked, watched, stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import ROLES

#: As short as they can be without a busy machine making liars of them.
SHORT = {
    "app_module": "app:app",
    "workers": 1,
    "threads": 4,
    "timeout_seconds": 30,
    "graceful_timeout_seconds": 5,
    "max_requests": 0,
    "max_requests_jitter": 0,
    "health_path": "/health",
    "boot_timeout_seconds": 30,
    "hang_seconds": 2,
    "request_limit_seconds": 60,
    "memory_high_bytes": 800 << 20,
    "memory_max_bytes": 1 << 30,
}
#: Read after the role's own configuration: sees every name in it.
CONFIGURATION = """
from pathlib import Path

exec(compile(Path({path!r}).read_text(), {path!r}, "exec"))
"""


def settings(directory: Path, **changes: Any) -> dict[str, Any]:
    """Return a complete ``gunicorn.json`` for a site in a directory."""
    places = {
        "bind": f"unix:{directory / 'site.sock'}",
        "log_dir": str(directory / "log"),
        "runtime_dir": str(directory / "run"),
        "release_file": str(directory / "release.json"),
        "maintenance_file": str(directory / "maintenance.json"),
    }
    return SHORT | places | changes


@dataclass
class Answer:
    """What came back; status 0 and why when nothing did."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    problem: str = ""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection(http.client.HTTPConnection):
    """HTTP to an address: the path of a Unix socket, or host and port."""

    def __init__(self, address: Any, seconds: float) -> None:
        super().__init__("site", timeout=seconds)
        self.address = address if isinstance(address, tuple) else str(address)

    def connect(self) -> None:
        """Connect."""
        family = socket.AF_INET if isinstance(self.address, tuple) else socket.AF_UNIX
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.address)


def ask(
    address: Any,
    target: str,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    seconds: float = PATIENCE_SECONDS,
) -> Answer:
    """Send one request on a connection of its own; never raises for what the other side does."""
    start = time.monotonic()
    connection = Connection(address, seconds)
    try:
        connection.request(method, target, headers={"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, problem=repr(error), seconds=time.monotonic() - start)
    finally:
        connection.close()
    named = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, named, body, seconds=time.monotonic() - start)


def wait_for(
    condition: Callable[[], Any], what: str | Callable[[], str] = "", seconds: float = PATIENCE_SECONDS
) -> Any:
    """Poll a condition until it is true; return what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain\n{what() if callable(what) else what}")
        time.sleep(0.03)
    return found


class Site:
    """One Gunicorn.

    Args:
        directory: an empty one with a short path: a socket's may be 107 bytes long.
        app: the text of the app's module.
        configuration: Python that runs after the role's own configuration, in its names.
        environment: what Gunicorn gets besides our own.
        changes: what differs from `SHORT`.
    """

    def __init__(
        self,
        directory: Path,
        app: str,
        configuration: str = "",
        environment: dict[str, str] | None = None,
        **changes: Any,
    ) -> None:
        self.directory = directory
        self.socket = directory / "site.sock"
        self.operations = directory / "run/operations.sock"
        self.output = directory / "output"
        self.access = directory / "log/access.log"
        self.environment = environment or {}
        for name in ("log", "run"):
            (directory / name).mkdir()
        self.settings = settings(directory, **changes)
        (directory / "gunicorn.json").write_text(json.dumps(self.settings))
        shutil.copy(ROLES / "app/files/gunicorn.conf.py", directory)
        shutil.copytree(ROLES / "app/files/sitekeeper", directory / "sitekeeper")
        wrapped = CONFIGURATION.format(path=str(directory / "gunicorn.conf.py")) + configuration
        (directory / "wrapped.conf.py").write_text(f"__file__ = {str(directory / 'gunicorn.conf.py')!r}\n{wrapped}")
        (directory / "app.py").write_text(app)
        self.process: subprocess.Popen | None = None

    def start(self) -> Site:
        """Start Gunicorn; wait for nothing."""
        program = Path(sys.executable).with_name("gunicorn")
        assert program.exists(), "gunicorn is missing: run make setup"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [program, "--config", self.directory / "wrapped.conf.py"],
                cwd=self.directory,
                env={**os.environ, "PYTHONFAULTHANDLER": "1", "SITE": str(self.directory), **self.environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def ready(self) -> Site:
        """Wait until all workers serve."""
        self.until(lambda: self.ops("/livez").status and len(self.pids()) == self.settings["workers"])
        return self

    def stop(self, seconds: float = PATIENCE_SECONDS) -> int:
        """End Gunicorn, if it has not ended; return its exit status. Nothing of it is left."""
        assert self.process
        try:
            self.process.send_signal(signal.SIGTERM)
            return self.process.wait(timeout=seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Return all processes that run in this site's directory, but for zombies."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == self.directory:
                    found.append(int(entry.name))
        return found

    def log(self) -> str:
        """Return what Gunicorn and the app wrote."""
        return self.output.read_text(errors="replace")

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """Poll a condition; show the log when it does not come."""
        return wait_for(condition, self.log, seconds)

    def ask(self, target: str, headers: dict[str, str] | None = None, **words: Any) -> Answer:
        """Ask the app."""
        return ask(self.socket, target, headers, **words)

    def ops(self, target: str) -> Answer:
        """Ask the operations endpoints."""
        return ask(self.operations, target, seconds=5)

    def memory(self) -> Any:
        """Return the operations' facts."""
        return self.ops("/memory").json

    def exits(self, reason: str) -> int:
        """Return how many workers have ended for a reason."""
        return int(self.memory()["worker_exits"][reason])

    def pids(self) -> set[int]:
        """Return the workers that serve."""
        return {one["pid"] for one in self.memory()["workers"] if one["state"] == "serves"}

    def lines(self) -> list[dict[str, Any]]:
        """Return the access log."""
        text = self.access.read_text() if self.access.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def running(app: str, configuration: str = "", **changes: Any) -> Iterator[Site]:
    """Start a `Site` in a directory of its own, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="keeper") as directory:
        site = Site(Path(directory), app, configuration, **changes)
        try:
            yield site.start()
        finally:
            site.stop()


class Visitors:
    """Threads that ask one after the other as long as the block lasts.

    Args:
        site: whom.
        target: what for.
        count: how many at once.
    """

    def __init__(self, site: Site, target: str = "/", count: int = 2) -> None:
        self.answers: list[Answer] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.visit, args=(site, target)) for _ in range(count)]

    def visit(self, site: Site, target: str) -> None:
        """Be one visitor."""
        while not self.over.is_set():
            self.answers.append(site.ask(target))

    def failed(self) -> list[Answer]:
        """Return the answers that are none."""
        return [answer for answer in self.answers if answer.status != 200]

    def __enter__(self) -> Visitors:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


@contextlib.contextmanager
def systemd(directory: Path, abstract: bool = False) -> Iterator[tuple[dict[str, str], socket.socket]]:
    """Be systemd: yield the environment of a service of type notify, and the socket where it hears of it."""
    name = f"\0sitekeeper-{os.getpid()}-{directory.name}" if abstract else str(directory / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name)
        ear.setblocking(False)
        shown = "@" + name[1:] if abstract else name
        yield {"NOTIFY_SOCKET": shown, "WATCHDOG_USEC": "1000000"}, ear


def heard(ear: socket.socket) -> list[str]:
    """Return and forget what a service has told."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(ear.recv(4096).decode())
    return found
