"""What an inventory's entries must be to one another, and where in it settings do not count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from plugins.module_utils.site_problem import Problem, Settings

#: What two entries for one machine have in common: it is the machine's, and no site's.
OF_THE_MACHINE = (
    "host_timezone",
    "host_swap_size",
    "host_swap_file",
    "host_journal_max_size",
    "host_upgrades_enabled",
)


def neighbour_problems(mine: Settings, others: Iterable[Settings]) -> list[Problem]:
    """Compare with the inventory's other entries: of one machine, each site has its own name and port."""
    found: list[Problem] = []
    for other in others:
        if other.host == mine.host:
            continue
        if other.address == mine.address:
            for name in ("app_name", "app_port"):
                value = mine.values.get(name)
                if value is not None and str(value) == str(other.values.get(name)):
                    fault = f"is {value} on {mine.host} and on {other.host}, which are one machine ({mine.address})"
                    found.append(Problem(name, f"{fault}: each site needs its own"))
            for name in OF_THE_MACHINE:
                value, theirs = mine.values.get(name), other.values.get(name)
                # Only what they say counts: 0 and "0" are one size.
                if None not in (value, theirs) and str(value) != str(theirs):
                    fault = f"is {value} on {mine.host} and {theirs} on {other.host}, which are one machine"
                    found.append(Problem(name, f"{fault} ({mine.address}): say the same in both"))
            mine_name, their_name = (one.values.get("app_name") for one in (mine, other))
            if mine.values.get("front") == "haproxy" and their_name == f"{mine_name}-front":
                fault = f"is {mine_name}, whose front is {their_name}.service, the service of {other.host}"
                found.append(Problem("app_name", f"{fault} on the same machine ({mine.address}): choose another name"))
        domain, theirs = (one.values.get("ngrok_domain") for one in (mine, other))
        if domain and domain == theirs:
            fault = f"is {domain} on {mine.host} and on {other.host}: a domain leads to one site"
            found.append(Problem("ngrok_domain", fault))
        elif domain and theirs and other.address == mine.address:
            # The role ngrok refuses the second one, after the deploy.
            fault = f"is {domain} on {mine.host} and {theirs} on {other.host}, which are one machine ({mine.address})"
            advice = 'there is one agent per host; all but one must have ngrok_authtoken: "" and ngrok_domain: ""'
            found.append(Problem("ngrok_domain", f"{fault}: {advice}"))
    return found


def shadowed_problems(
    groups: Mapping[str, Mapping[str, object]],
    own: Set[str],
    effective: Mapping[str, object],
    wins: Mapping[str, object],
) -> list[Problem]:
    """Report settings that an inventory file has below `vars:` of a group, where group_vars/all wins without a word.

    In Ansible's order of precedence "inventory file or script group vars" is before "group_vars/all", which counts,
    whatever the group is: https://docs.ansible.com/ansible/latest/playbook_guide/playbooks_variables.html

    Args:
        groups: what inventory files set for each group of the host, not evaluated: group -> variable -> value.
        own: the variables that inventory files set for the host itself, which count.
        effective: the host's variables, not evaluated.
        wins: what group_vars/all sets, not evaluated.
    """
    found: list[Problem] = []
    for group, variables in groups.items():
        file = f"group_vars/{'GROUP' if group == 'all' else group}.yml"
        fault = f"is set below vars: of {group}, where group_vars/all wins over it: set it below a host, or in {file}"
        for name in sorted(set(variables) & set(wins) - own):
            if _is(effective.get(name), wins[name]) and not _is(variables[name], wins[name]):
                found.append(Problem(name, fault))
    return found


def _is(one: object, other: object) -> bool:
    """Compare two values, of which one may be vault text: to compare that would ask for the password."""
    plain = (str, int, float, list, dict, type(None))
    return isinstance(one, plain) and isinstance(other, plain) and one == other
