"""One HTTP request that is over when its time is over, whatever the other side does."""

from __future__ import annotations

import http.client
import io
import queue
import socket
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from sitectl.host import Deadline

MAX_BODY_BYTES = 64 * 1024
"""A health answer is small; of a larger body only this much is read."""


@dataclass(frozen=True)
class Answer:
    """What came back. `status` is None when no status line arrived; `problem` is empty when all is well."""

    status: int | None
    milliseconds: int
    problem: str

    @property
    def ok(self) -> bool:
        """Tell whether the app is healthy by this answer."""
        return not self.problem


class _Stream(io.RawIOBase):
    """The receiving side of a socket, where the time left shrinks with every read.

    A socket's own timeout starts anew at each read: a server that sends one byte a second never meets it.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = self._deadline.left()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Receiver:
    """What http.client wants to see of a socket."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._stream)


def ask(url: str, timeout: float, host_header: str | None = None) -> Answer:
    """GET `url` (http) within `timeout` seconds in all: name, connection, answer and body.

    Healthy is a complete answer with a status of 200 to 299. Redirects are not followed: the health
    path itself has to answer. Never raises for what the network or the server does.
    """
    start = time.monotonic()
    deadline = Deadline(timeout)
    status: int | None = None
    problem = ""
    try:
        parts = urlsplit(url)
        with _connect(parts.hostname or "", parts.port or 80, deadline) as connection:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.settimeout(max(deadline.left(), 0.001))
            connection.sendall(
                f"GET {target} HTTP/1.1\r\nHost: {host_header or parts.netloc}\r\n"
                "User-Agent: sitectl\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            response = receive(connection, deadline)
            status = response.status
            complete = _read_body(response)
            if not 200 <= status <= 299:
                problem = f"answered {status}"
            elif not complete:
                problem = "the answer was cut short"
    except TimeoutError:
        problem = f"no complete answer within {timeout:g} s"
    except ConnectionRefusedError:
        problem = "connection refused"
    except socket.gaierror as error:
        problem = f"cannot resolve the host name: {error.strerror}"
    except http.client.HTTPException as error:
        problem = f"not an HTTP answer: {type(error).__name__}"
    except OSError as error:
        problem = f"connection failed: {error.strerror or type(error).__name__}"
    return Answer(status, round((time.monotonic() - start) * 1000), problem)


def receive(connection: socket.socket, deadline: Deadline) -> http.client.HTTPResponse:
    """Return the answer to the GET that was sent on `connection`; reading its body ends at the deadline, too."""
    receiver = _Receiver(_Stream(connection, deadline))
    response = http.client.HTTPResponse(receiver, method="GET")  # type: ignore[arg-type]
    response.begin()
    return response


def _read_body(response: http.client.HTTPResponse) -> bool:
    """Read the body up to MAX_BODY_BYTES; tell whether it was not cut short."""
    size = 0
    while size < MAX_BODY_BYTES:
        part = response.read(MAX_BODY_BYTES - size)
        if not part:
            return not response.length
        size += len(part)
    return True


def _connect(name: str, port: int, deadline: Deadline) -> socket.socket:
    """Return a connection to the first address of `name` that accepts one; raises OSError."""
    last: OSError = TimeoutError()
    for address in _addresses(name, port, deadline):
        try:
            return socket.create_connection(address, timeout=max(deadline.left(), 0.001))
        except OSError as error:
            last = error
    raise last


def _addresses(name: str, port: int, deadline: Deadline) -> list[tuple[str, int]]:
    """Resolve `name` before the deadline; raises TimeoutError, socket.gaierror.

    The resolver cannot be interrupted, so it works in a thread that is left behind when it is late.
    """
    answers: queue.SimpleQueue[list[tuple[str, int]] | socket.gaierror] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            answers.put([(str(entry[4][0]), port) for entry in found])
        except socket.gaierror as error:
            answers.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        answer = answers.get(timeout=max(deadline.left(), 0.001))
    except queue.Empty as error:
        raise TimeoutError from error
    if isinstance(answer, socket.gaierror):
        raise answer
    return answer
