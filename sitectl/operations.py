"""`sitectl memory` and `sitectl metrics`: what the app's master tells on its operations socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

from sitectl import codes
from sitectl.host import Deadline, Host
from sitectl.probe import receive
from sitectl.settings import Settings, SettingsError
from sitectl.words import counts, duration, memory_words, size

ASK_SECONDS = 5.0
STATUS_SECONDS = 2.0
"""`sitectl status` must not wait long for a row of its table."""
MAX_BODY_BYTES = 4 * 2**20
UNPLANNED = ("hang", "boot", "timeout", "crash")
"""Reasons of a worker's end that nobody wished for; the others are retirements and orders."""

_COLUMNS = ("pid", "rss", "pss", "share", "age", "requests", "in flight", "state")


class OperationsError(Exception):
    """The socket did not tell; the message says why."""


def fetch(host: Host, settings: Settings, target: str, seconds: float = ASK_SECONDS) -> str:
    """GET `target` from the operations socket within `seconds` in all.

    Raises OperationsError, SettingsError when the settings name no socket, PermissionError.
    """
    if settings.operations_socket is None:
        raise SettingsError(f"{settings.name} has no operations_socket in its settings")
    deadline = Deadline(seconds)
    path = host.under_root(settings.operations_socket)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode("ascii"))
            response = receive(connection, deadline)
            body = response.read(MAX_BODY_BYTES)
    except PermissionError as error:
        raise PermissionError(f"may not ask {path}") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise OperationsError(f"{settings.unit} is down: nobody listens at {path}") from error
    except TimeoutError as error:
        raise OperationsError(f"{path} did not answer within {seconds:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise OperationsError(f"{path} broke off: {type(error).__name__}") from error
    if response.length:
        raise OperationsError(f"{path} broke off in the middle of its answer")
    if response.status != 200:
        raise OperationsError(f"{path} answered {response.status} to {target}")
    return body.decode("utf-8", errors="replace")


def read_memory(host: Host, settings: Settings, seconds: float = ASK_SECONDS) -> dict[str, Any]:
    """Return what the master tells of memory and of its workers; raises what `fetch` raises, and see `understood`."""
    facts = json.loads(fetch(host, settings, "/memory", seconds))
    return {key: facts[key] for key in ("workers", "master", "group", "worker_exits")}


@contextlib.contextmanager
def understood(settings: Settings) -> Iterator[None]:
    """Raise OperationsError where an answer is not what the app's master tells."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OperationsError(f"{settings.operations_socket} tells something else: is it the app's?") from error


def run_memory(host: Host, settings: Settings, as_json: bool) -> int:
    """Print the memory of each worker and of all of them; return the exit code."""
    try:
        with understood(settings):
            facts = read_memory(host, settings)
            text = json.dumps(facts, indent=2) if as_json else table(facts)
    except OperationsError as error:
        return _refuse(error)
    print(text)
    return codes.HEALTHY


def run_metrics(host: Host, settings: Settings) -> int:
    """Print the metrics as they are told; return the exit code."""
    try:
        print(fetch(host, settings, "/metrics"), end="")
    except OperationsError as error:
        return _refuse(error)
    return codes.HEALTHY


def _refuse(error: OperationsError) -> int:
    """Say why there is nothing to show."""
    print(f"sitectl: {error}", file=sys.stderr)
    return codes.UNHEALTHY


def unplanned_exits(host: Host, settings: Settings) -> dict[str, int] | None:
    """Return how many workers ended for each bad reason since the master started; None when nobody tells."""
    try:
        with understood(settings):
            exits = read_memory(host, settings, STATUS_SECONDS)["worker_exits"]
            return {reason: int(exits[reason]) for reason in UNPLANNED}
    except (OperationsError, SettingsError, PermissionError):
        return None


def table(facts: dict[str, Any]) -> str:
    """Return the memory for people."""
    group = {key: facts["group"].get(f"{key}_bytes") for key in ("high", "max", "peak")}
    group["now"] = facts["group"].get("current_bytes")
    rows = [[column.upper() for column in _COLUMNS], *(_worker(one) for one in facts["workers"])]
    rows.append([str(facts["master"]["pid"]), *_sizes(facts["master"], "rss", "pss"), *["-"] * 4, "master"])
    widths = [max(len(row[number]) for row in rows) for number in range(len(_COLUMNS))]
    lines = ["  ".join(map(str.rjust, row[:-1], widths)) + f"  {row[-1]}" for row in rows]
    lines += ["", f"group   {memory_words(group)}"]
    lines += [f"events  {counts(facts['group'].get('events', {}))}", f"exits   {counts(facts['worker_exits'])}"]
    return "\n".join(lines)


def _worker(one: dict[str, Any]) -> list[str]:
    """Return a worker's row."""
    numbers = [duration(one["age_seconds"]), str(one["requests"]), str(one["in_flight"])]
    return [str(one["pid"]), *_sizes(one, "rss", "pss", "share"), *numbers, one["state"]]


def _sizes(one: dict[str, Any], *names: str) -> list[str]:
    """Return memory of a process for people; what the kernel does not say, or does not limit, is a dash."""
    return ["-" if one[f"{name}_bytes"] is None else size(one[f"{name}_bytes"]) for name in names]
