"""The deploy lock on the host, for the modules ``deploy_lock``, which describes it, and ``preflight``."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Where the locks of all apps are.
DIRECTORY = "/run/sitekeeper"
#: A run that has just ended lets go within this time; a look in check mode takes it for an instant.
GRACE_SECONDS = 1.0
RETRY_SECONDS = 0.1

#: What stays behind with the lock: waits for the end of process argv[1], which started at argv[2]. A program of its
#: own, since the module's process is larger. A pid that was given to another process is known by its start time.
WATCH = """
import os, select, sys

def lives():
    try:
        with open(f"/proc/{sys.argv[1]}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and fields[19] == sys.argv[2]

wait = select.poll()
try:
    wait.register(os.pidfd_open(int(sys.argv[1])), select.POLLIN)
    every = None
except (AttributeError, OSError):
    every = 1000
while lives():
    wait.poll(every)
"""


def age(seconds: float) -> str:
    """Return how long ago something was, for people."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def described(name: str, text: str, path: str, now: float) -> str:
    """Return the refusal for the operator.

    Args:
        name: the app's.
        text: what the lock's file says; anything may be in it.
        path: of the lock's file.
        now: seconds since the epoch.
    """
    try:
        holder = json.loads(text)
        who, place, since, what = (str(holder[key]) for key in ("who", "from", "since", "what"))
        begun = datetime.datetime.fromisoformat(since.replace("Z", "+00:00")).timestamp()
        patience = int(holder.get("patience_seconds") or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return (
            f"Another deploy of {name} is at work; its lock does not say whose. "
            f"'sudo lslocks' on the host names the process that holds {path}."
        )
    where = f" from {place}" if place not in ("", "-") else ""
    advice = "Wait for it to end"
    if patience:
        advice += f"; if its controller is gone this ends by itself within {patience} s"
    when = f"since {since} ({age(now - begun)})"
    return f"Another deploy of {name} is at work: {who}{where}, {when}, playbook {what}.\n{advice}."


def lives(anchor: dict[str, Any]) -> bool:
    """Tell whether the anchor is still the process that it was."""
    try:
        stat = Path(f"/proc/{int(anchor['pid'])}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[19] == str(anchor["start"])


def locked(handle: int, kind: int) -> bool:
    """Take the lock in one of flock's kinds; tell whether that went."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read(handle: int) -> str:
    """Return what the lock's file says."""
    return os.pread(handle, 65536, 0).decode("utf-8", "replace")


def token_in(text: str) -> str:
    """Return the token of the run that wrote this, or nothing."""
    try:
        return str(json.loads(text).get("token", ""))
    except (ValueError, AttributeError):
        return ""


def look(name: str, path: Path) -> list[str]:
    """Return the warnings of a dry run: what would stand in the way now."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return [] if locked(handle, fcntl.LOCK_SH) else [described(name, read(handle), str(path), time.time())]
    finally:
        os.close(handle)


def leave_behind(handle: int, anchor: dict[str, Any]) -> None:
    """Start the process that holds the lock from now on; it keeps nothing else open."""
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WATCH, str(anchor["pid"]), str(anchor["start"])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[handle],
        start_new_session=True,
        cwd="/",
        env={},
    )


class Taken(Exception):
    """Somebody else has the lock; the message is for the operator."""


def take(options: Mapping[str, Any], path: Path) -> bool:
    """Take the lock, and leave behind what holds it as long as the anchor lives; tell whether the anchor does.

    Args:
        options: those of the module ``deploy_lock``.
        path: the lock's file.

    Raises:
        Taken: another deploy has it.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + GRACE_SECONDS
    while not locked(handle, fcntl.LOCK_EX):
        text = read(handle)
        if options["token"] and token_in(text) == options["token"]:
            return True
        if time.monotonic() > deadline:
            raise Taken(described(options["name"], text, str(path), time.time()))
        time.sleep(RETRY_SECONDS)
    if not lives(options["anchor"]):
        return False
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    holder = {key: options[key] for key in ("token", "who", "from", "what", "patience_seconds")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps({**holder, "since": now.replace("+00:00", "Z")}) + "\n").encode(), 0)
    leave_behind(handle, options["anchor"])
    return True
