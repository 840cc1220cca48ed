"""The controller's side of the deploy lock: a channel to the host that lives as long as this run."""

from __future__ import annotations

import getpass
import os
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from . import lock_keeper

#: How long the host waits for a word of a controller that it no longer hears. Longer than ssh itself waits for the
#: host (ServerAliveInterval x ServerAliveCountMax of ansible.cfg, 60 s): a run that survives a pause of the network
#: still has its lock afterwards.
PATIENCE_SECONDS = 75
OPEN_SECONDS = 60
#: Lines of ssh's own words in a failure.
ERROR_LINES = 4
#: The fact in which a run remembers what it holds.
FACT = "deploy_lock"


def open_channel(run: int, command: list[str]) -> dict[str, Any]:
    """Start the keeper and return the anchor at the other end of its channel: pid, start, from; keeper: its own pid.

    Args:
        run: pid of the process whose end ends all of it.
        command: runs the anchor on the host, its input and output being the channel.

    Raises:
        AnsibleActionFail: it does not come up within OPEN_SECONDS; with the last words of ssh.
    """
    # A file and not a pipe: an ssh that stays in the background for ControlPersist keeps it open.
    with tempfile.TemporaryFile() as said:
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", lock_keeper.__file__, str(run), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
        assert keeper.stdout is not None
        ready = select.select([keeper.stdout], [], [], OPEN_SECONDS)[0]
        found = lock_keeper.parse_greeting(keeper.stdout.readline().decode()) if ready else None
        if found is None:
            keeper.kill()
            said.seek(0)
            words = said.read().decode("utf-8", "replace").strip().splitlines()[-ERROR_LINES:]
            why = "\n".join(words) or f"no answer within {OPEN_SECONDS} s"
            raise AnsibleActionFail(f"the host opens no channel for the deploy lock:\n{why}")
    return {"pid": found[0], "start": found[1], "from": found[2], "keeper": keeper.pid}


def channel_command(action: ActionBase) -> list[str]:
    """Return the command that runs the anchor on the host, as the user who logs in there."""
    anchor = lock_keeper.anchor_command(PATIENCE_SECONDS)
    connection = action._connection
    if connection.transport == "local":
        return anchor
    if connection.transport != "ssh":
        raise AnsibleActionFail(
            f"the deploy lock needs a connection that stays: ansible_connection is {connection.transport}, "
            "must be ssh (or local)"
        )
    host = connection.get_option("host") or action._play_context.remote_addr
    # The connection that the run already has carries it; without one, nobody is there to type a password.
    words = ("-T", "-o", "BatchMode=yes", host, f"exec {shlex.join(anchor)}")
    command = [
        word.decode() for word in connection._build_command(connection.get_option("ssh_executable"), "ssh", *words)
    ]
    # sshpass reads the password from a pipe that only the connection itself fills.
    program = connection.get_option("ssh_executable")
    return command[command.index(program) :]


def held_by_this_run(task_vars: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what this run has noted of its lock on a host; None when it has none there."""
    before = task_vars.get("ansible_facts", {}).get(FACT, {})
    # The worker that runs this task was forked by the process that is the run.
    return before if str(before.get("token", "")).startswith(f"{socket.gethostname()}:{os.getppid()}:") else None


def is_open(held: Mapping[str, Any]) -> bool:
    """Tell whether the channel is still there, and with it the lock; its keeper ends when the host is gone."""
    # Not by its pid alone: in a container it may stay a zombie for as long as the container lives.
    return "keeper" in held and not lock_keeper.waiter(int(held["keeper"]))(0)


def with_lock(
    action: ActionBase, task_vars: Mapping[str, Any], on_host: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Let a module take the lock, over a channel that is opened when there is none; return its result.

    Args:
        action: the action plugin.
        task_vars: of its task.
        on_host: runs the module with the lock's options; ``anchor_gone`` in its result: the channel has ended.

    Raises:
        AnsibleActionFail: there is no channel to the host.
    """

    def ask(held: Mapping[str, Any]) -> dict[str, Any]:
        return on_host({name: value for name, value in held.items() if name != "keeper"})

    held = held_by_this_run(task_vars)
    result: dict[str, Any] = ask(held) if held else {"anchor_gone": True}
    if result.get("anchor_gone"):
        run = os.getppid()
        anchor = open_channel(run, channel_command(action))
        held = {
            "anchor": {key: anchor[key] for key in ("pid", "start")},
            "token": f"{socket.gethostname()}:{run}:{uuid.uuid4()}",
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
            "from": anchor["from"],
            "what": " ".join(Path(word).name for word in context.CLIARGS.get("args", ())),
            "patience_seconds": PATIENCE_SECONDS,
            "keeper": anchor["keeper"],
        }
        result = ask(held)
        if result.pop("anchor_gone", False):
            raise AnsibleActionFail("the channel for the deploy lock ended at once: can the login user run bash?")
    return {**result, "ansible_facts": {**(result.get("ansible_facts") or {}), FACT: held}}
