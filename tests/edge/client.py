"""How a test drives an edge that runs as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.polling import PATIENCE_SECONDS, pause_after

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def until(what: str, seconds: float, probe: Callable[[], T]) -> T:
    """Call `probe` until it returns something true, and return that.

    Raises AssertionError naming `what` and the last answer when `seconds` have passed.
    """
    asked = time.monotonic()
    deadline = asked + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last: {answer!r})")
        pause_after(asked)
        asked = time.monotonic()
    return answer


class Control:
    """The control port of a running edge."""

    def __init__(self, port: int) -> None:
        self.port = port

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, json.dumps(body or {}))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"the edge refused {method} {path}: {text.decode()}")
        return json.loads(text)

    def state(self) -> dict[str, Any]:
        """What is online and what has happened: sessions, online, connections, auths, binds, requests, ports."""
        return self._call("GET", "/state")

    def refuse(self, auth: str = "", bind: str = "") -> None:
        """Answer every agent from now on with these error numbers; empty strings let them in again."""
        self._call("POST", "/refuse", {"auth": auth, "bind": bind})

    def drop(self) -> None:
        """Cut all sessions without a word."""
        self._call("POST", "/drop")

    def offline(self) -> None:
        """Cut all sessions and let no agent connect."""
        self._call("POST", "/offline")

    def online(self) -> None:
        """Let agents connect again."""
        self._call("POST", "/online")


class RunningEdge:
    """An edge that runs already, found by the `ports.json` in its directory."""

    def __init__(self, directory: Path) -> None:
        self.ports: dict[str, int] = json.loads((directory / "ports.json").read_text())
        self.control = Control(self.ports["control"])
        self.ca_file = directory / "ca.pem"

    def get(self, host: str, path: str = "/") -> tuple[int, str, str]:
        """Visit `host` through the edge; return the status, ngrok's error code (or "") and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["public"], timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path, headers={"Host": host, "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("ngrok-error-code", ""), answer.read().decode(errors="replace")
        finally:
            connection.close()


@contextmanager
def run_edge(directory: Path, token: str, domain: str, *options: str) -> Iterator[RunningEdge]:
    """Run an edge in a process of its own for the length of a `with` block. Raises RuntimeError if it cannot start."""
    ports = directory / "ports.json"
    ports.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.edge", "--directory", str(directory), "--domain", domain, *options],
        cwd=ROOT,
        env={**os.environ, "EDGE_TOKEN": token},
        stdout=subprocess.DEVNULL,
    )
    try:
        until("the edge is up", 20, lambda: ports.exists() or process.poll() is not None)
        if not ports.exists():
            raise RuntimeError(f"the edge ended with status {process.returncode}")
        yield RunningEdge(directory)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)
