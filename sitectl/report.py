"""The monitor's own lines: one per check, to the journal and to whoever is looking."""

from __future__ import annotations

import json
import re
import socket
import sys
from dataclasses import dataclass

from sitectl.host import Host

# syslog(3)
WARNING = 4
NOTICE = 5
INFO = 6


def line(**fields: object) -> str:
    """Return `key=value` pairs on one line; values that are not plain words are quoted as in JSON."""
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _value(value: object) -> str:
    """Return one value; a line break inside it cannot start a second line."""
    text = "-" if value is None else str(value)
    return text if re.fullmatch(r"[\w.:/+-]+", text, re.ASCII) else json.dumps(text)


@dataclass(frozen=True)
class Journal:
    """Writes lines under one identifier."""

    host: Host
    identifier: str

    def write(self, message: str, priority: int = INFO) -> None:
        """Send `message` to the journal, else to syslog, and print it on stderr. Never raises.

        The journal's own protocol (systemd.io, "Journal native protocol") needs no library: one
        datagram of KEY=value lines.
        """
        native = f"SYSLOG_IDENTIFIER={self.identifier}\nPRIORITY={priority}\nMESSAGE={message}\n"
        # facility 3, "daemon" (RFC 5424, 6.2.1)
        syslog = f"<{3 * 8 + priority}>{self.identifier}: {message}"
        if not self._send("run/systemd/journal/socket", native):
            self._send("dev/log", syslog)
        print(message, file=sys.stderr)

    def _send(self, path: str, datagram: str) -> bool:
        """Send one datagram; tell whether somebody took it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # a journal that is stuck must not stop the monitor
            sender.settimeout(1)
            try:
                sender.sendto(datagram.encode(), str(self.host.root / path))
            except OSError:
                return False
        return True
