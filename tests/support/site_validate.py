"""The action site_validate, run in this process on what Ansible's own code reads of an inventory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import filter_loader, lookup_loader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from plugins.action.site_validate import ActionModule
from tests.unit.rendering import REPOSITORY

#: All that an action may ask of a connection that it does not open.
UNCONNECTED = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))

# What ansible.cfg names, whatever directory the tests are started in.
filter_loader.add_directory(str(REPOSITORY / "plugins/filter"))
lookup_loader.add_directory(str(REPOSITORY / "plugins/lookup"))
ROLES = ["host", "app", "service", "release", "logrotate", "ngrok", "monitor"]


def tasks_of(play: Play, action: str) -> Iterator[Task]:
    """Yield the tasks of a play that have an action, in their order."""
    return (task for block in play.compile() for task in block.block if task.action == action)


class Inventory:
    """An inventory as a run reads it, without a run.

    Args:
        source: its file or its directory.
        base: the directory of the playbook, whose group_vars count, too.
        extra: what --extra-vars set.
        user: who logs in, by --user.
    """

    def __init__(
        self, source: Path, base: Path = REPOSITORY, extra: Mapping[str, Any] | None = None, user: str | None = None
    ) -> None:
        self.loader = DataLoader()
        self.loader.set_basedir(str(base))
        self.user = user
        self.manager = InventoryManager(loader=self.loader, sources=[str(source)])
        self.variables = VariableManager(loader=self.loader, inventory=self.manager)
        self.variables._extra_vars = dict(extra or {})
        HostVars(inventory=self.manager, variable_manager=self.variables, loader=self.loader)

    def playbook(self, path: Path) -> list[Play]:
        """Return the plays of a playbook, those of the ones that it imports among them."""
        return list(Playbook.load(str(path), variable_manager=self.variables, loader=self.loader).get_plays())

    def raw(self, host: str) -> dict[str, Any]:
        """Return the variables of a host, unevaluated."""
        return dict(self.variables.get_vars(host=self.manager.get_host(host)))

    def message(self, host: str, among: str = "all") -> str:
        """Return what is wrong with the settings of a host; empty when they are accepted.

        Args:
            host: its name in the inventory.
            among: the hosts of the run, as a pattern.
        """
        content = {"name": "Check", "hosts": among, "tasks": [{"site_validate": {"roles": ROLES}}]}
        play = Play.load(content, variable_manager=self.variables, loader=self.loader)
        result = self._result(host, play, next(tasks_of(play, "site_validate")))
        return str(result["msg"]) if result.get("failed") else ""

    def checked_by(self, path: Path, host: str) -> dict[str, Any]:
        """Return what the checks of settings of a playbook answer for a host."""
        return self._result(host, *self._found(path, "site_validate"))

    def runs(self, path: Path, action: str, host: str) -> bool:
        """Tell whether the conditions of a playbook's first task with an action hold for a host."""
        play, task = self._found(path, action)
        variables = self.variables.get_vars(play=play, host=self.manager.get_host(host), task=task)
        # What the checks before it have registered.
        variables["__site_validated"] = {"settings": {}}
        templar = Templar(loader=self.loader, variables=variables)
        return all(templar.evaluate_conditional(trust_as_template(str(one))) for one in task.when)

    def _found(self, path: Path, action: str) -> tuple[Play, Task]:
        """Return the first task of a playbook with an action, and its play."""
        return next((play, task) for play in self.playbook(path) for task in tasks_of(play, action))

    def _result(self, host: str, play: Play, task: Task) -> dict[str, Any]:
        """Return what site_validate answers for a host in a task."""
        variables = self.variables.get_vars(play=play, host=self.manager.get_host(host), task=task)
        templar = Templar(loader=self.loader, variables=variables)
        task = task.copy()
        task.args = templar.template(task.args)
        context = PlayContext(play=play)
        context.remote_user = self.user
        context = context.set_task_and_variable_override(task=task, variables=variables, templar=templar)
        action = ActionModule(task, UNCONNECTED, context, self.loader, templar, None)
        return dict(action.run(task_vars=variables))
