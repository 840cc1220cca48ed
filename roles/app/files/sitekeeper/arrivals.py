"""Connections whose request has not arrived yet: they wait in the worker's main loop and cost no thread.

Gunicorn gives every connection to a thread, which then reads the request and waits for as long as that takes: a few
visitors who send slowly, or a browser's spare connections that send nothing, keep all threads and with them the site.
Here a thread begins when the request can be read at once. What has come is only looked at, in the kernel's buffer, so
the thread reads it as it always did.
"""

from __future__ import annotations

import re
import selectors
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

#: Until a request has come; a browser's spare connection is closed then. Like others' limits on a request's head.
ARRIVAL_SECONDS = 20.0
#: A worker that is told to stop waits only so long for those who have not sent anything, as Gunicorn does.
LINGER_SECONDS = 2.0
#: A thread begins with a longer request before all of it is there; nearly all are shorter, their body included.
MOST_BYTES = 16 * 1024
#: More of them than this, and the one that waits longest has to go.
MOST_WAITING = 400
#: Reading or writing stands still for so long: the visitor is gone, or means no good.
STALL_SECONDS = 30

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:", re.IGNORECASE)


def has_come(seen: bytes) -> bool:
    """Tell whether a thread can begin with a request of which this has come.

    Args:
        seen: what lies in the buffer, at most `MOST_BYTES`.
    """
    end = seen.find(b"\r\n\r\n")
    if end < 0:
        return len(seen) >= MOST_BYTES
    if seen.startswith((b"GET ", b"HEAD ")):
        return True
    length = _LENGTH.search(seen, 0, end + 2)
    # Who expects an answer before the body does not send it until then.
    if length is None or _EXPECT.search(seen, 0, end + 2):
        return True
    return len(seen) >= min(end + 4 + int(length[1]), MOST_BYTES)


def limit_stalls(sock: socket.socket) -> None:
    """Let the kernel end a read or a write of a thread that makes no progress."""
    limit = struct.pack("ll", STALL_SECONDS, 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)


class Arrivals:
    """The connections of one worker that wait for their request."""

    def __init__(self, begin: Callable[[Any], None], drop: Callable[[Any], None]) -> None:
        """Begin with none.

        Args:
            begin: gives a connection to a thread.
            drop: closes one.
        """
        self._begin = begin
        self._drop = drop
        #: Connection -> until when, on the monotonic clock; the oldest first.
        self._waiting: dict[Any, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, conn: Any, poller: selectors.BaseSelector) -> None:
        """Give a connection to a thread when its request is there, else wait for it."""
        if conn.cfg.is_ssl or conn.sock.family == socket.AF_UNIX:
            # What is encrypted cannot be looked at. Who comes by a Unix socket is a proxy, and sends whole requests.
            self._begin(conn)
            return
        self._look(conn, poller, 0)

    def _look(self, conn: Any, poller: selectors.BaseSelector, before: int) -> None:
        try:
            seen = conn.sock.recv(MOST_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            ended = not seen
        except BlockingIOError:
            seen, ended = b"", False
        except OSError:
            self._forget(conn)
            self._drop(conn)
            return
        # Woken without anything new: no more is coming, and the thread will find the end.
        if ended or has_come(seen) or 0 < len(seen) <= before:
            if conn in self._waiting:
                self._forget(conn)
                _wake_at(conn.sock, 1)
            conn.data_ready = True
            self._begin(conn)
            return
        if conn not in self._waiting:
            self._waiting[conn] = time.monotonic() + ARRIVAL_SECONDS
        # Only by something new: else the part that is there would wake the loop for ever.
        _wake_at(conn.sock, len(seen) + 1)
        poller.register(conn.sock, selectors.EVENT_READ, partial(self._woken, conn, poller, len(seen)))
        if len(self._waiting) > MOST_WAITING:
            self._end(next(iter(self._waiting)), poller)

    def _woken(self, conn: Any, poller: selectors.BaseSelector, before: int, _socket: Any) -> None:
        if conn not in self._waiting:
            # Closed since the loop was woken, to make room.
            return
        poller.unregister(conn.sock)
        self._look(conn, poller, before)

    def expire(self, poller: selectors.BaseSelector, stopping: bool) -> None:
        """Close those who have waited for too long; call it once a second or so."""
        now = time.monotonic()
        if stopping:
            self._waiting = {conn: min(end, now + LINGER_SECONDS) for conn, end in self._waiting.items()}
        for conn in [conn for conn, end in self._waiting.items() if end <= now]:
            self._end(conn, poller)

    def _end(self, conn: Any, poller: selectors.BaseSelector) -> None:
        poller.unregister(conn.sock)
        self._forget(conn)
        self._drop(conn)

    def _forget(self, conn: Any) -> None:
        self._waiting.pop(conn, None)


def _wake_at(sock: socket.socket, count: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
