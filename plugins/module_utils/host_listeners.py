"""Who listens on a port of a host."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True)
class Listener:
    """A process that listens on a TCP port; `cgroup` is the path below which systemd accounts it."""

    pid: int
    user: str
    command: str
    cgroup: str


def listening_inodes(table: str, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port, from the text of /proc/net/tcp or tcp6.

    Fields: proc(5); the local address ends with the port in hexadecimal, state 0A is LISTEN, field 9 the inode.
    """
    rows = (line.split() for line in table.splitlines()[1:])
    return {row[9] for row in rows if len(row) > 9 and row[3] == _LISTEN and int(row[1].rsplit(":", 1)[1], 16) == port}


def read(path: str) -> str:
    """Return the text of a file, or nothing where it is missing or has just gone with its process."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def holders(inodes: set[str]) -> set[int]:
    """Return the processes that hold one of these sockets."""
    links = {f"socket:[{inode}]" for inode in inodes}
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if any(str(handle.readlink()) in links for handle in (process / "fd").iterdir()):
                    found.add(int(process.name))
            except OSError:
                continue  # the process has ended, or a handle of it was closed meanwhile
    return found


def describe(pid: int) -> Listener:
    """Look up who a process is."""
    try:
        uid = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return Listener(0, "", "", "")
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    # Only the program and its first two arguments: later ones may be secrets.
    words = read(f"/proc/{pid}/cmdline").split("\0")[:3]
    command = " ".join(word for word in words if word)[:80] or read(f"/proc/{pid}/comm").strip()
    cgroup = read(f"/proc/{pid}/cgroup").strip().rsplit("::", 1)[-1]
    return Listener(pid, user, command, cgroup)


def listeners_on(port: int) -> tuple[Listener, ...]:
    """Return who listens on a TCP port."""
    inodes = listening_inodes(read("/proc/net/tcp"), port) | listening_inodes(read("/proc/net/tcp6"), port)
    if not inodes:
        return ()
    pids = holders(inodes)
    # A socket of the site is held by systemd and by its service at once; both are found and both are its own.
    return tuple(describe(pid) for pid in sorted(pids)) or (Listener(0, "", "", ""),)
