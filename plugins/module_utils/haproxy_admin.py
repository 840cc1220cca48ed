"""Talk to a running HAProxy through its admin socket (management.txt, 9.3 "Unix Socket commands")."""

from __future__ import annotations

import socket
from dataclasses import dataclass

ANSWER_SECONDS = 10.0
#: Bits of srv_admin_state: drained, and put into maintenance, by whoever spoke to the socket.
_DRAINED, _MAINTENANCE = 0x08, 0x01
#: srv_op_state of a server that gets visitors.
_RUNNING = 2


class AbsentError(Exception):
    """No HAProxy answers there."""


class RefusedError(Exception):
    """HAProxy did not do what it was told; the message is its own."""


@dataclass(frozen=True)
class Server:
    """One server of a backend, as HAProxy sees it.

    Attributes:
        up: its health checks succeed.
        drained: it gets no new visitors, by the word of somebody.
        maintenance: somebody has taken it out altogether.
        sessions: requests that are at it now.
        check: what the last health check said.
    """

    name: str
    up: bool
    drained: bool
    maintenance: bool
    sessions: int
    check: str

    @property
    def serves(self) -> bool:
        """Tell whether visitors are sent to it."""
        return self.up and not self.drained and not self.maintenance


class Admin:
    """The admin socket at a path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def ask(self, command: str) -> str:
        """Send one command; return the answer.

        Raises:
            AbsentError: nobody answers.
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(self.path)
                connection.sendall(f"{command}\n".encode())
                with connection.makefile("r", encoding="utf-8", errors="replace") as answer:
                    return answer.read()
        except OSError as error:
            raise AbsentError(f"no HAProxy at {self.path}: {error}") from error

    def description(self) -> str:
        """Return the ``description`` of the configuration that runs; empty without one.

        Raises:
            AbsentError: nobody answers.
        """
        lines = (line.partition(":") for line in self.ask("show info").splitlines())
        return next((value.strip() for name, _, value in lines if name == "description"), "")

    def servers(self, backend: str) -> dict[str, Server]:
        """Return the servers of a backend by name; none when there is no such backend.

        Raises:
            AbsentError: nobody answers.
        """
        shown = parse_stat(self.ask("show stat"), backend)
        return parse_state(self.ask(f"show servers state {backend}"), shown)

    def tell(self, backend: str, server: str, state: str) -> None:
        """Bring a server to the state ``drain`` or ``ready``.

        Raises:
            AbsentError: nobody answers.
            RefusedError: HAProxy does not do it.
        """
        said = self.ask(f"set server {backend}/{server} state {state}").strip()
        if said:
            raise RefusedError(f"HAProxy does not set {backend}/{server} to {state}: {said}")


def parse_stat(text: str, backend: str) -> dict[str, dict[str, str]]:
    """Return server -> column -> value of the CSV of ``show stat``."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return {}
    columns = lines[0].lstrip("# ").split(",")
    rows = (dict(zip(columns, line.split(","), strict=False)) for line in lines[1:])
    return {row["svname"]: row for row in rows if row.get("pxname") == backend and row.get("type") == "2"}


def parse_state(text: str, shown: dict[str, dict[str, str]]) -> dict[str, Server]:
    """Return the servers in the answer of ``show servers state``.

    Args:
        text: a version, a line of column names after a ``#``, and one line for each server.
        shown: of `parse_stat`.
    """
    columns: list[str] = []
    found: dict[str, Server] = {}
    for line in text.splitlines():
        words = line.lstrip("# ").split()
        if line.startswith("#"):
            columns = words
        elif columns and len(words) >= 7:
            row = dict(zip(columns, words, strict=False))
            name, admin = row["srv_name"], int(row["srv_admin_state"])
            stat = shown.get(name, {})
            check = " ".join(stat[key] for key in ("check_status", "check_code", "last_chk") if stat.get(key))
            found[name] = Server(
                name,
                int(row["srv_op_state"]) == _RUNNING,
                bool(admin & _DRAINED),
                bool(admin & _MAINTENANCE),
                int(stat.get("scur") or 0),
                check,
            )
    return found
