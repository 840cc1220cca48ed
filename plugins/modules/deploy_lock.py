#!/usr/bin/python
"""Ansible module: one deploy at a time; a lock of the kernel's, so that it ends with whoever holds it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_lock
short_description: Holds the deploy lock of an app for as long as the run lives
description:
  - Takes C(flock(2)), exclusive, on C(/run/sitekeeper/NAME.deploy.lock), and leaves a small process behind that holds
    it while the I(anchor) lives. The anchor is a process on the host at the end of a channel that the action plugin of
    the same name keeps open from the controller. So the lock ends with the run, whether that ends well, is killed, or
    loses its network.
  - Any program on the host may take the same lock. It opens the file (made with mode 0600), tries to lock it for a
    second, and then writes one JSON object with the keys C(who), C(from), C(since) (ISO 8601 in UTC) and C(what), all
    text; C(token) and C(patience_seconds) are this module's. It never removes or renames the file, and truncates it
    only with the lock. What is in the file means nothing while nobody holds the lock. Nobody but root may open it,
    since who can open it can lock it.
  - In check mode it takes nothing, and warns when a deploy is at work.
options:
  name: {description: The app's name., type: str, required: true}
  anchor: {description: C(pid) and C(start) (field 22 of C(stat)) of the process that the lock lasts with., type: dict}
  token: {description: Names this run; a run that has the lock may ask for it again., type: str, default: ""}
  who: {description: Who deploys., type: str, default: ""}
  from: {description: From which address., type: str, default: ""}
  what: {description: The playbook., type: str, default: ""}
  patience_seconds: {description: After how long a silent controller loses the lock., type: int, default: 0}
  directory: {description: Where the lock is., type: path, default: /run/sitekeeper}
  look:
    description: Paths to look at under the lock, as the module C(preflight) does without it.
    type: list
    elements: str
    default: []
  look_units: {description: Units to look at besides., type: list, elements: str, default: []}
  look_app:
    description:
      - What else a deploy with nothing to do wants to know of the app C(name), whose directory is C(root) - its
        C(units), whole, whether the inputs in their C(records) have changed, the answer at C(health_url), the version
        of C(python), its releases.
    type: dict
    default: {}
  look_key: {description: Seals contents; the action plugin makes one for each run., type: str, default: ""}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Take the deploy lock
  deploy_lock:
    name: currents
"""

RETURN = r"""
seen: {description: Paths and packages and units that are there and the app., type: dict, returned: with look}
anchor_gone: {description: The anchor does not live any more; nothing was taken., type: bool, returned: when so}
"""

import datetime
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_look import everything

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


def take(module: AnsibleModule, path: Path) -> dict[str, Any]:
    """Take the lock or fail the task; return what the task returns."""
    options = module.params
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + GRACE_SECONDS
    while not locked(handle, fcntl.LOCK_EX):
        text = read(handle)
        if options["token"] and token_in(text) == options["token"]:
            return {}
        if time.monotonic() > deadline:
            module.fail_json(msg=described(options["name"], text, str(path), time.time()))
        time.sleep(RETRY_SECONDS)
    if not lives(options["anchor"]):
        return {"anchor_gone": True}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    holder = {key: options[key] for key in ("token", "who", "from", "what", "patience_seconds")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps({**holder, "since": now.replace("+00:00", "Z")}) + "\n").encode(), 0)
    leave_behind(handle, options["anchor"])
    return {}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "anchor": {"type": "dict"},
            "token": {"type": "str", "default": "", "no_log": False},
            "who": {"type": "str", "default": ""},
            "from": {"type": "str", "default": ""},
            "what": {"type": "str", "default": ""},
            "patience_seconds": {"type": "int", "default": 0},
            "directory": {"type": "path", "default": "/run/sitekeeper"},
            "look": {"type": "list", "elements": "str", "default": []},
            "look_units": {"type": "list", "elements": "str", "default": []},
            "look_app": {"type": "dict", "default": {}},
            "look_key": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    path = Path(options["directory"], f"{options['name']}.deploy.lock")
    if module.check_mode:
        module.exit_json(changed=False, warnings=look(options["name"], path))
    if options["anchor"] is None:
        module.fail_json(msg="deploy_lock: use it as a task; its action plugin gives the anchor")
    taken = take(module, path)
    app = {**options["look_app"], "name": options["name"]} if options["look_app"] else {}
    looks = (options["look"], options["look_key"], options["look_units"], app)
    module.exit_json(changed=False, **taken, **everything(*looks))


if __name__ == "__main__":
    main()
