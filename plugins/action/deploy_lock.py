"""Controller half of ``deploy_lock``: a channel to the host that lives as long as this run, and the lock on it."""

from __future__ import annotations

import getpass
import os
import secrets
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# This repository is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils import lock_keeper
from plugins.module_utils.host_look import Seen

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
    """Start the keeper and return the anchor at the other end of its channel: pid, start, from.

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
    return {"pid": found[0], "start": found[1], "from": found[2]}


class ActionModule(ActionBase):
    """Take the deploy lock of an app for the rest of this run; see the module ``deploy_lock``.

    Arguments of the task: ``name``, the app's, and ``look``, ``look_units`` and ``look_app``, what is to be looked at
    under the lock; ``directory`` is for tests.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"name", "directory", "look", "look_units", "look_app"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; failed when another deploy holds the lock."""
        super().run(tmp, task_vars)
        if self._task.check_mode:
            return self._on_host({}, task_vars)
        # The worker that runs this task was forked by the process that is the run.
        run = os.getppid()
        here = f"{socket.gethostname()}:{run}:"
        before = (task_vars or {}).get("ansible_facts", {}).get(FACT, {})
        held = before if str(before.get("token", "")).startswith(here) else None
        result = self._on_host(held, task_vars) if held else {"anchor_gone": True}
        if result.get("anchor_gone"):
            anchor = open_channel(run, self._command())
            held = {
                "anchor": {key: anchor[key] for key in ("pid", "start")},
                "token": f"{here}{uuid.uuid4()}",
                "who": f"{getpass.getuser()}@{socket.gethostname()}",
                "from": anchor["from"],
                "what": " ".join(Path(word).name for word in context.CLIARGS.get("args", ())),
                "patience_seconds": PATIENCE_SECONDS,
            }
            result = self._on_host(held, task_vars)
            if result.pop("anchor_gone", False):
                raise AnsibleActionFail("the channel for the deploy lock ended at once: can the login user run bash?")
        return {**result, "ansible_facts": {FACT: held}}

    def _command(self) -> list[str]:
        """Return the command that runs the anchor on the host, as the user who logs in there."""
        anchor = lock_keeper.anchor_command(PATIENCE_SECONDS)
        connection = self._connection
        if connection.transport == "local":
            return anchor
        if connection.transport != "ssh":
            raise AnsibleActionFail(
                f"the deploy lock needs a connection that stays: ansible_connection is {connection.transport}, "
                "must be ssh (or local)"
            )
        host = connection.get_option("host") or self._play_context.remote_addr
        # The connection that the run already has carries it; without one, nobody is there to type a password.
        words = ("-T", "-o", "BatchMode=yes", host, f"exec {shlex.join(anchor)}")
        command = [
            word.decode() for word in connection._build_command(connection.get_option("ssh_executable"), "ssh", *words)
        ]
        # sshpass reads the password from a pipe that only the connection itself fills.
        program = connection.get_option("ssh_executable")
        return command[command.index(program) :]

    def _on_host(self, held: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        key = secrets.token_hex(16)
        result = self._execute_module(
            module_name="deploy_lock", module_args={**self._task.args, **held, "look_key": key}, task_vars=task_vars
        )
        host = str((task_vars or {}).get("inventory_hostname", ""))
        return Seen(constants.DEFAULT_LOCAL_TMP, host).keep(list(self._task.args.get("look") or []), key, result)
