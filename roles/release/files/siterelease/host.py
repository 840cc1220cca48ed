"""What the program does on the host: systemd, the journal, HTTP, the lock."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siterelease.releases import now

REQUEST_SECONDS = 10.0
LOCK_SECONDS = 4.0
#: For a switch that a killed run has left behind: it goes on by itself, and ends before this with any sensible app.
LEFT_BEHIND_SECONDS = 600.0
POLL_SECONDS = 0.2
JOURNAL_LINES = 20


class ReleaseError(Exception):
    """Something that the operator has to know; the message says what to do."""


@dataclass(frozen=True)
class Answer:
    """What came back for one request. `status` is 0 for no answer."""

    status: int
    body: bytes
    problem: str

    @property
    def well(self) -> bool:
        """Tell whether it is a 2xx."""
        return 200 <= self.status <= 299

    def field(self, name: str) -> str:
        """Return a field of a JSON object in the body, empty when there is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return ""
        return str(found.get(name, "")) if isinstance(found, dict) else ""

    @property
    def words(self) -> str:
        """Say it in a message."""
        return f"it answers {self.status}" if self.status else f"no answer: {self.problem}"


class Connection(http.client.HTTPConnection):
    """HTTP over the Unix socket at a path."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        """Connect to the path in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(address: str, path: str, seconds: float = REQUEST_SECONDS) -> Answer:
    """GET once over the Unix socket at `address`, without following redirects. Never raises for what the app does."""
    connection = Connection(address, seconds)
    try:
        connection.request("GET", path, headers={"User-Agent": "sitekeeper"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), "")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(0, b"", str(error) or type(error).__name__)
    finally:
        connection.close()


def ask_json(address: str, path: str) -> dict[str, Any]:
    """GET a JSON object; empty when there is none."""
    try:
        found = json.loads(ask(address, path).body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def wait_well(address: str, path: str, seconds: float) -> Answer:
    """Ask until the answer is a 2xx or the time is over; return the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask(address, path)).well and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return answer


def run(argv: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a program; return its status (-1: did not finish in time) and all that it printed."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
        )
    except subprocess.TimeoutExpired:
        return -1, f"{argv[0]} did not finish within {seconds:.0f} s"
    return done.returncode, done.stdout


def systemctl(*words: str, seconds: float = 30.0) -> None:
    """Run systemctl.

    Raises:
        ReleaseError: it did not succeed.
    """
    status, output = run(["systemctl", *words], seconds)
    if status != 0:
        raise ReleaseError(f"systemctl {' '.join(words)}: {output.strip() or status}")


def show(unit: str, *properties: str) -> dict[str, str]:
    """Return properties of a unit."""
    _, output = run(["systemctl", "show", unit, f"--property={','.join(properties)}"], 30.0)
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def wait_inactive(unit: str, seconds: float) -> None:
    """Wait until a unit has nothing to do.

    Raises:
        ReleaseError: it still works when the time is over.
    """
    deadline = time.monotonic() + seconds
    while show(unit, "ActiveState").get("ActiveState") in ("active", "activating", "deactivating"):
        if time.monotonic() > deadline:
            raise ReleaseError(f"{unit} is still at work for an earlier run: systemctl status {unit}")
        time.sleep(POLL_SECONDS)


def last_lines(unit: str, since: str = "") -> str:
    """Return the end of a unit's journal, for messages.

    Args:
        unit: whose.
        since: an InvocationID; only lines of that run, when given.
    """
    only = [f"_SYSTEMD_INVOCATION_ID={since}"] if since else ["-u", unit]
    argv = ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(JOURNAL_LINES), *only]
    return run(argv, 20.0)[1].strip()


@contextlib.contextmanager
def lock(path: Path, who: str = "root", seconds: float | None = None) -> Iterator[None]:
    """Hold a lock for a while; the kernel frees it with the process.

    Args:
        path: the file; what it says while it is locked is the format of Ansible's module ``deploy_lock``.
        who: who wants it.
        seconds: how long to wait for somebody else; LOCK_SECONDS unless told.

    Raises:
        ReleaseError: somebody else keeps it; with who that is.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ReleaseError(f"{holder(os.pread(handle, 4096, 0))}; wait for it to end") from None
            time.sleep(POLL_SECONDS)
        about = {"who": who, "from": "this host", "since": now(), "what": " ".join(sys.argv[1:])}
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(about) + "\n").encode(), 0)
        yield
    finally:
        os.close(handle)


def held(path: Path) -> str:
    """Return what the holder of a lock has written into its file, empty when nobody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(handle, 65536, 0).decode("utf-8", "replace")
    finally:
        os.close(handle)
    return ""


def holder(text: bytes) -> str:
    """Say in words who holds a lock, from what is in its file."""
    try:
        about = json.loads(text)
        return f"{about['who']} from {about['from']} is at work since {about['since']}: {about['what']}"
    except (ValueError, KeyError, TypeError):
        return "somebody else is at work"
