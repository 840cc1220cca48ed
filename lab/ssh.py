"""Talking to a machine over ssh, with its host key checked."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

USER = "admin"
ADDRESS = "127.0.0.1"

#: ssh's own status for "no connection"; a remote command may use it too.
CONNECTION_FAILED = 255


@dataclass(frozen=True)
class Access:
    """How to log in to one machine."""

    port: int
    key: Path
    known_hosts: Path


def known_hosts_line(port: int, host_key_public: str) -> str:
    """Return the line that makes ssh accept this host key, and no other, at this port."""
    algorithm, key = host_key_public.split()[:2]
    return f"[{ADDRESS}]:{port} {algorithm} {key}\n"


def ssh_argv(access: Access, command: Sequence[str] = (), *, interactive: bool = False) -> list[str]:
    """Return the ssh command line; the user's own ssh configuration plays no part in it."""
    return [
        "ssh",
        "-F", "none",
        "-i", str(access.key),
        "-p", str(access.port),
        "-o", "IdentitiesOnly=yes",
        "-o", "PreferredAuthentications=publickey",
        "-o", f"UserKnownHostsFile={access.known_hosts}",
        "-o", "GlobalKnownHostsFile=/dev/null",
        "-o", "StrictHostKeyChecking=yes",
        "-o", "ConnectTimeout=20",
        "-o", "ServerAliveInterval=15",
        "-o", "ServerAliveCountMax=4",
        "-o", "LogLevel=ERROR",
        *(["-t"] if interactive else []),
        f"{USER}@{ADDRESS}",
        *(["--", *command] if command else []),
    ]  # fmt: skip


def run_remote(
    access: Access, command: Sequence[str], timeout: float, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command (words are joined and read by the remote shell) and return what came of it.

    Raises subprocess.TimeoutExpired after `timeout` seconds.
    """
    return subprocess.run(
        ssh_argv(access, command), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )


def answers(port: int, timeout: float = 2.0) -> bool:
    """Tell whether an ssh server greets at `port` within `timeout` seconds.

    The greeting has to be read: QEMU accepts a connection before anything listens in the guest.
    """
    try:
        with socket.create_connection((ADDRESS, port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
