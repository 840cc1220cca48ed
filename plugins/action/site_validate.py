"""Action plugin: refuse settings that are wrong, all of them at once, before any connection is opened."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

# The rules lie in this repository, which is neither a collection nor installed: Ansible loads this file by path.
_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))

from plugins.filter.site import site_first
from plugins.module_utils.site_balance import balance_faults
from plugins.module_utils.site_check import is_setting, load_specs, problems_of, report, spec_defaults
from plugins.module_utils.site_neighbours import OF_THE_MACHINE, shadowed_problems
from plugins.module_utils.site_problem import Problem, Settings, Spec, is_secret
from plugins.module_utils.site_user import user_faults

_TEMPLATE = re.compile(r"\{[{%](.*?)[}%]\}", re.DOTALL)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_COMPARED = ("app_name", "app_port", "ngrok_domain", *OF_THE_MACHINE)
#: Set in group_vars/all, and nowhere else.
_ALWAYS_THERE = "site_look_paths"
_RETURNED = ("app_name", "app_user", "app_port", "service_memory_max")
#: Who must be no person: roles take shell and home from them.
_USERS = ("app_user", "ngrok_user")
#: A balancer runs no app: what is set for all hosts means nothing there.
_OF_APPS = ("app_", "service_", "release_", "front", "logrotate_", "monitor_")
_BALANCED = ("app_name", "app_health_path", "app_bind_address")
_BALANCER_ROLES = ("host", "balancer", "ngrok")
_BALANCER_MEMORY = "64M"


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

    Arguments of the task: `roles`, a list of roles whose required variables must be set (default: none); `brings`,
    whether the run brings code (default: true).
    """

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset({"roles", "brings"})
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with the list of problems, or do nothing."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        if _ALWAYS_THERE not in variables:
            beside = variables.get("inventory_dir") or "the inventory's directory"
            fault = (
                "The inventory has no group_vars beside it, which say what a site is made of. Link this repository's:"
            )
            fault = f"{fault} ln -s {_REPOSITORY / 'group_vars'} {beside}/group_vars"
            return {**result, "failed": True, "msg": fault}
        try:
            specs = load_specs(Path(directory) for directory in constants.DEFAULT_ROLES_PATH)
        except ValueError as error:
            return {**result, "failed": True, "msg": str(error)}
        balances = variables.get("inventory_hostname") in self._balancers(variables)
        if balances:
            specs = {name: option for name, option in specs.items() if option["role"] in _BALANCER_ROLES}
        mine = self._settings(variables, specs)
        others = [] if balances else self._others(variables, mine, specs)
        roles = _BALANCER_ROLES if balances else self._task.args.get("roles") or []
        brings = boolean(self._task.args.get("brings", True))
        problems = problems_of(mine, others, specs, _REPOSITORY, roles, brings=brings)
        if not any(problem.name.startswith("balancer_backends") for problem in problems):
            problems += self._balance(variables, mine, specs)
        problems += self._shadowed(variables, specs)
        result["changed"] = False
        # For the next play, where the defaults of the roles are not known.
        complete = {**spec_defaults(specs), **mine.values}
        result["settings"] = {name: complete[name] for name in _RETURNED if name in complete}
        if balances and "balancer_port" in complete:
            haproxy = {"app_name": "haproxy", "app_port": complete["balancer_port"]}
            # The role host makes the app's user there too.
            haproxy["app_user"] = complete["host_user"]
            result["settings"] = {**haproxy, "service_memory_max": _BALANCER_MEMORY}
        if complete.get("ngrok_authtoken"):
            result["settings"]["ngrok_user"] = complete["ngrok_user"]
        if not any(problem.name in ("host_user", *_USERS) for problem in problems):
            users = {name: result["settings"][name] for name in _USERS if name in result["settings"]}
            faults = user_faults(users, self._play_context.remote_user)
            problems += [Problem(name, fault) for name, fault in faults]
        if problems:
            result["failed"] = True
            result["msg"] = report(mine.host, problems)
        return result

    def _settings(self, variables: dict[str, Any], specs: Spec) -> Settings:
        """Evaluate the variables that are settings of the roles; a failure is kept as the variable's own."""
        names = sorted(name for name in variables if is_setting(name, specs))
        if variables.get("inventory_hostname") in self._balancers(variables):
            names = [name for name in names if not name.startswith(_OF_APPS)]
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
            if host in self._balancers(variables):
                values = {"app_name": "haproxy", "app_port": self._balancer_port(variables, host)}
            found.append(Settings(host, self._address(theirs, host), values))
        return found

    def _shadowed(self, variables: dict[str, Any], specs: Spec) -> list[Problem]:
        """Find what an inventory file sets for a group in vain; nothing where Ansible does not show its inventory."""
        inventory = getattr(variables.get("hostvars"), "_inventory", None)
        host = inventory.get_host(variables.get("inventory_hostname")) if inventory else None
        if host is None:
            return []
        groups = {
            group.name: {name: value for name, value in group.vars.items() if is_setting(name, specs)}
            for group in host.get_groups()
        }
        if not any(groups.values()):
            return []
        wins: dict[str, Any] = {}
        for path in sorted((_REPOSITORY / "group_vars" / "all").glob("*.yml")):
            wins |= self._loader.load_from_file(str(path)) or {}
        return shadowed_problems(groups, set(host.vars), variables, wins)

    def _balance(self, variables: dict[str, Any], mine: Settings, specs: Spec) -> list[Problem]:
        """Compare a balancer with the hosts that it sends visitors to, also with those that this run leaves out."""
        defaults, hosts = spec_defaults(specs), {}
        for host in variables.get("groups", {}).get("all", []):
            theirs = variables["hostvars"][host]
            hosts[host] = {name: defaults[name] for name in _BALANCED if name in defaults}
            for name in _BALANCED:
                # What cannot be evaluated is that host's own problem.
                with contextlib.suppress(KeyError, AnsibleError):
                    hosts[host][name] = theirs[name]
        faults = balance_faults(mine.host, mine.values, self._balancers(variables), hosts)
        return [Problem(name, fault) for name, fault in faults]

    @staticmethod
    def _balancer_port(variables: dict[str, Any], balancer: str) -> Any:
        """Return the port of a balancer; where it is not set, it is that of the hosts behind it."""
        hostvars = variables["hostvars"]
        try:
            return hostvars[balancer]["balancer_port"]
        except (KeyError, AnsibleError):
            # A template that reads hostvars cannot be evaluated through hostvars.
            return site_first(hostvars[balancer].get("balancer_backends"), hostvars, balancer).get("app_port")

    @staticmethod
    def _balancers(variables: Mapping[str, Any]) -> list[str]:
        """Return the hosts of the inventory that run a balancer."""
        return list(variables.get("groups", {}).get("balancers", []))

    @staticmethod
    def _address(variables: Mapping[str, Any], host: str) -> str:
        """Return where a host is reached, with the port: two machines may lie behind one forwarding address."""
        try:
            return f"{variables.get('ansible_host') or host}:{variables.get('ansible_port') or 22}"
        except AnsibleError:
            return host
