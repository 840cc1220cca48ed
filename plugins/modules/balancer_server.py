#!/usr/bin/python
"""Ansible module: take one host out of a balancer, or put it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer_server
short_description: Drains a server of an HAProxy, or fills it again
description:
  - Runs on the balancer and speaks to the admin socket of the HAProxy there. Nothing on the disk is changed.
  - C(drained) sends no new visitors to the server and waits until nobody is at it. It does not leave the site without
    anybody who serves - then the server stays, and its visitors wait while it restarts.
  - C(ready) ends a drain. What somebody has put into maintenance by hand stays there, for either.
  - Where no HAProxy runs, or it does not know the server yet, there is nothing to do.
options:
  socket: {description: The admin socket., type: path, required: true}
  backend: {description: The backend that the server is in., type: str, required: true}
  server: {description: The server., type: str, required: true}
  state: {description: What it should be., type: str, choices: [drained, ready], required: true}
  wait_seconds:
    description:
      - How long C(drained) waits for the last visitor; who is still there then has until the app's own stop.
      - How long C(ready) waits until HAProxy sends visitors again; 0 for not at all. It fails when the time is over.
    type: int
    default: 0
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Drain the host
  balancer_server:
    {socket: /run/haproxy/admin.sock, backend: currents, server: web1, state: drained, wait_seconds: 30}
  delegate_to: balance1
"""

RETURN = r"""
text: {description: What was done in words., type: str, returned: always}
summary: {description: Lines for the end of the run., type: list, returned: when something was done}
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.haproxy_admin import AbsentError, Admin, RefusedError, Server

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Done:
    """How it went; `failed` is for a server that is not up when the time is over."""

    changed: bool
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Task:
    """What was asked for."""

    backend: str
    server: str
    wait_seconds: float
    check: bool = False
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def why_not_drained(name: str, servers: dict[str, Server]) -> str:
    """Return why a server is not drained, empty when it can be."""
    mine = servers.get(name)
    if mine is None:
        return "is not known there yet"
    if mine.maintenance:
        return "is in maintenance by hand"
    if mine.drained:
        return ""
    if not mine.up:
        return "is DOWN: nobody is sent to it"
    if not any(other.serves for other in servers.values() if other.name != name):
        return "is the last one that serves: visitors wait while it restarts"
    return ""


def drain(admin: Admin, task: Task) -> Done:
    """Send nobody new to a server, and wait until nobody is at it.

    Raises:
        AbsentError, RefusedError: of the socket.
    """
    begin = task.clock()
    with alone(admin.path):
        servers = admin.servers(task.backend)
        if why := why_not_drained(task.server, servers):
            return Done(False, f"not drained: it {why}")
        changed = not servers[task.server].drained
        if task.check:
            return Done(changed, "would be drained")
        if changed:
            admin.tell(task.backend, task.server, "drain")
    while (left := admin.servers(task.backend)[task.server].sessions) and task.clock() - begin < task.wait_seconds:
        task.sleep(POLL_SECONDS)
    still = f", {left} requests still at it" if left else ", nobody left at it"
    return Done(changed, f"drained for {task.clock() - begin:.1f} s{still}")


def fill(admin: Admin, task: Task) -> Done:
    """End a drain; wait until visitors are sent again, when that was asked for.

    Raises:
        AbsentError, RefusedError: of the socket.
    """
    mine = admin.servers(task.backend).get(task.server)
    if mine is None or mine.maintenance:
        return Done(False, "not filled: it is " + ("in maintenance by hand" if mine else "not known there yet"))
    begin = task.clock()
    if task.check:
        return Done(mine.drained, "would be filled again")
    if mine.drained:
        admin.tell(task.backend, task.server, "ready")
    said = mine.check
    while task.wait_seconds and not (now := admin.servers(task.backend)[task.server]).serves:
        # While the next check is on its way haproxy puts a star before the last one's word, and no code behind it.
        said = said if now.check.startswith("*") else now.check
        if task.clock() - begin > task.wait_seconds:
            return Done(mine.drained, f"is not UP after {task.wait_seconds:.0f} s: {said or 'no check yet'}", True)
        task.sleep(POLL_SECONDS)
    return Done(mine.drained, f"UP after {task.clock() - begin:.1f} s" if task.wait_seconds else "filled again")


@contextlib.contextmanager
def alone(socket: str) -> Iterator[None]:
    """Let no other host of a batch decide at the same time; else the two last ones could both be drained.

    Raises:
        AbsentError: there is not even a directory for the socket.
    """
    try:
        handle = os.open(Path(socket).parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise AbsentError(f"no HAProxy at {socket}: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "backend": {"type": "str", "required": True},
            "server": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "ready"], "required": True},
            "wait_seconds": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    options = module.params
    task = Task(options["backend"], options["server"], options["wait_seconds"], module.check_mode)
    admin, draining = Admin(options["socket"]), options["state"] == "drained"
    try:
        done = drain(admin, task) if draining else fill(admin, task)
    except AbsentError as error:
        module.exit_json(changed=False, text=str(error))
    except RefusedError as error:
        module.fail_json(msg=str(error))
    if done.failed:
        module.fail_json(msg=f"{task.server} {done.text}")
    waited = done.changed or (task.wait_seconds and not done.text.startswith("UP after 0.0"))
    summary = [("Drain" if draining else "Refill", done.text)] if waited else []
    module.exit_json(changed=done.changed, text=done.text, **({"summary": summary} if summary else {}))


if __name__ == "__main__":
    main()
