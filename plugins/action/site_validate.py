"""Action plugin: refuse settings that are wrong, all of them at once, before any connection is opened."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

# The rules lie in this repository, which is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.module_utils.site_check import (
    PREFIXES,
    Settings,
    Spec,
    is_secret,
    load_specs,
    problems_of,
    report,
    spec_defaults,
)

_TEMPLATE = re.compile(r"\{[{%](.*?)[}%]\}", re.DOTALL)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_COMPARED = ("app_name", "app_port", "ngrok_domain")
_RETURNED = ("app_name", "app_port", "service_memory_max")


def plain(value: Any) -> Any:
    """Copy a templated value, so that everything in it is evaluated now and nothing later."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def names_in(raw: object) -> frozenset[str]:
    """Return the words inside of all templates of a value, such as app_port in `service_port: "{{ app_port }}"`."""
    if isinstance(raw, (list, tuple)):
        return frozenset().union(*(names_in(item) for item in raw))
    if isinstance(raw, Mapping):
        return frozenset().union(*(names_in(item) for item in raw.values()))
    if not isinstance(raw, str):
        return frozenset()
    return frozenset(word for part in _TEMPLATE.findall(raw) for word in _NAME.findall(part))


class ActionModule(ActionBase):
    """Check the settings of one host on the controller.

    Arguments of the task: `roles`, a list of roles whose required variables must be set (default: none).
    """

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset({"roles"})
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with the list of problems, or do nothing."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        try:
            specs = load_specs(Path(directory) for directory in constants.DEFAULT_ROLES_PATH)
        except ValueError as error:
            return {**result, "failed": True, "msg": str(error)}
        mine = self._settings(variables, specs)
        others = self._others(variables, mine, specs)
        roles = self._task.args.get("roles") or []
        problems = problems_of(mine, others, specs, _REPOSITORY, roles)
        result["changed"] = False
        # For the next play, where the defaults of the roles are not known.
        complete = {**spec_defaults(specs), **mine.values}
        result["settings"] = {name: complete[name] for name in _RETURNED if name in complete}
        if problems:
            result["failed"] = True
            result["msg"] = report(mine.host, problems)
        return result

    def _settings(self, variables: dict[str, Any], specs: Spec) -> Settings:
        """Evaluate the variables that are settings of the roles; a failure is kept as the variable's own."""
        names = sorted(name for name in variables if name.startswith(PREFIXES) or name in specs)
        # A variable may be made from another whose default only its role knows.
        templar = self._templar.copy_with_new_env(available_variables={**spec_defaults(specs), **variables})
        values: dict[str, Any] = {}
        failures: dict[str, str] = {}
        for name in names:
            try:
                values[name] = plain(templar.template(variables[name]))
            except AnsibleError as error:
                first = str(error).strip().splitlines()[0]
                reason = "" if is_secret(name, specs) else f": {first}"
                failures[name] = f"cannot be evaluated (vault password? undefined variable?){reason}"
        made_from = {name: names_in(variables[name]) & set(names) - {name} for name in names}
        host = str(variables.get("inventory_hostname", ""))
        return Settings(host, self._address(variables, host), values, failures, made_from)

    def _others(self, variables: dict[str, Any], mine: Settings, specs: Spec) -> list[Settings]:
        """Read of the other hosts what two sites may not share; what cannot be read is that host's own problem."""
        found, defaults = [], spec_defaults(specs)
        for host in variables.get("ansible_play_hosts_all", []):
            if host == mine.host:
                continue
            theirs = variables["hostvars"][host]
            values = {name: defaults[name] for name in _COMPARED if name in defaults}
            for name in _COMPARED:
                try:
                    values[name] = theirs[name]
                except (KeyError, AnsibleError):
                    continue
            found.append(Settings(host, self._address(theirs, host), values))
        return found

    @staticmethod
    def _address(variables: Mapping[str, Any], host: str) -> str:
        """Return where a host is reached, with the port: two machines may lie behind one forwarding address."""
        try:
            return f"{variables.get('ansible_host') or host}:{variables.get('ansible_port') or 22}"
        except AnsibleError:
            return host
